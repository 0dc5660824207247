//! The same events, posted to somebody who may be well, slow or broken.

use super::receiver::{Manner, Receiver};
use super::{PHASES, Stage};
use crate::harness::{TestServer, pgmorph};

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_posted_as_json() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 2_000).await;
    let receiver = Receiver::start(Manner::Answers(204));
    let url = format!("http://127.0.0.1:{}/pgmorph?token=hush", receiver.port);
    let through = [
        "apply",
        &stage.plan,
        "--yes",
        "--through",
        "contract",
        "--webhook",
        &url,
    ];
    pgmorph(&stage.url, &through).await.expect(0);
    let posted = receiver.posted();
    assert_eq!(posted.len(), 2 + 2 * PHASES.len());
    for it in &posted {
        assert_eq!(it.path, "/pgmorph?token=hush");
        assert_eq!(it.header("content-type"), Some("application/json"));
        assert!(it.header("user-agent").unwrap().starts_with("pgmorph/"));
        assert_eq!(it.body["version"], 1);
    }
    assert_eq!(posted[0].body["event"], "run_started");
    assert_eq!(posted.last().unwrap().body["event"], "run_finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_take_it_is_named_without_secrets_and_the_run_goes_on() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 500).await;
    let cases = [
        (Manner::Answers(500), "500"),
        (Manner::Silent, "timeout"),
        (Manner::HangsUp, "the run goes on"),
        (Manner::Redirects, "302"),
    ];
    let receivers = cases.map(|(manner, _)| Receiver::start(manner));
    let urls: Vec<String> = receivers
        .iter()
        .map(|receiver| format!("http://user:hush@127.0.0.1:{}/x?token=hush", receiver.port))
        .collect();
    let mut arguments = vec![
        "apply",
        &stage.plan,
        "--yes",
        "--through",
        "expand",
        "--hook-timeout",
        "300ms",
    ];
    for url in &urls {
        arguments.extend(["--webhook", url]);
    }
    // Nobody listens there.
    arguments.extend(["--webhook", "http://127.0.0.1:1/y"]);
    let applied = pgmorph(&stage.url, &arguments).await.expect(0);
    let notes: Vec<&str> = applied
        .stderr
        .lines()
        .filter(|line| line.starts_with("hook at "))
        .collect();
    // run_started, phase_started, phase_finished, run_finished
    assert_eq!(notes.len(), 4 * 5, "{}", applied.stderr);
    for (_, why) in cases {
        assert!(
            notes.iter().filter(|note| note.contains(why)).count() >= 4,
            "{why}: {}",
            applied.stderr
        );
    }
    assert!(!applied.stderr.contains("hush"), "{}", applied.stderr);
    assert!(
        receivers[3].posted().iter().all(|it| it.path != "/elsewhere"),
        "it does not follow"
    );
    for (url, why) in [("ftp://a/b", "is no URL"), ("nonsense", "is no URL")] {
        let refused = pgmorph(&stage.url, &["apply", &stage.plan, "--yes", "--webhook", url])
            .await
            .expect(2);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
}
