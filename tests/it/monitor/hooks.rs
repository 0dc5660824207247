//! Commands that are told of the phases of a real run.

use super::{PHASES, Stage, read};
use crate::harness::{Running, TestServer, pgmorph, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn script(stage: &Stage<'_>, name: &str, text: &str) -> String {
    let path = stage.path(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Each line that a hook has written, as JSON.
fn told(path: &str) -> Vec<Value> {
    read(path)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The documented fields; more would have to be documented.
const FIELDS: [&str; 11] = [
    "version",
    "event",
    "at",
    "plan",
    "run",
    "phase",
    "direction",
    "steps",
    "done",
    "state",
    "message",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_beginning_and_end_is_told_in_order_and_without_a_shell() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 2_000).await;
    let (out, arguments, environment) = (
        stage.path("told"),
        stage.path("arguments"),
        stage.path("environment"),
    );
    let evil = stage.path("evil");
    let hook = script(
        &stage,
        "hook",
        &format!("cat >> {out}; echo >> {out}; printf '%s\\n' \"$@\" > {arguments}; env > {environment}"),
    );
    let command = format!("{hook} 'two words' $(touch\\ {evil}) ;touch {evil}");
    let through = [
        "apply",
        &stage.plan,
        "--yes",
        "--through",
        "contract",
        "--hook",
        &command,
    ];
    pgmorph(&stage.url, &through).await.expect(0);
    let told = told(&out);
    let mut expected = vec!["run_started -".to_owned()];
    for phase in PHASES {
        expected.push(format!("phase_started {phase}"));
        expected.push(format!("phase_finished {phase}"));
    }
    expected.push("run_finished contract".into());
    let heard = |it: &Value| {
        format!(
            "{} {}",
            it["event"].as_str().unwrap(),
            it["phase"].as_str().unwrap_or("-")
        )
    };
    assert_eq!(told.iter().map(heard).collect::<Vec<_>>(), expected);
    for event in &told {
        let fields: BTreeSet<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(FIELDS));
        assert_eq!(
            (&event["plan"], &event["run"], &event["direction"]),
            (&"p".into(), &1.into(), &"apply".into())
        );
        assert!(event["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    }
    let last = told.last().unwrap();
    assert_eq!(
        (&last["state"], &last["done"]),
        (&"completed".into(), &last["steps"])
    );
    let words: Vec<String> = read(&arguments).lines().map(str::to_owned).collect();
    let touch = format!("$(touch {evil})");
    assert_eq!(words, ["two words", &touch, ";touch", &evil]);
    assert!(!Path::new(&evil).exists(), "a shell was at work");
    let environment = read(&environment);
    assert!(environment.contains("PGMORPH_EVENT=run_finished\n") && environment.contains("PGMORPH_PLAN=p\n"));
    assert!(!environment.contains("DATABASE_URL"), "{environment}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_fail_or_hang_are_noted_and_the_run_goes_on() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 2_000).await;
    let (pids, survivor) = (stage.path("pids"), stage.path("survivor"));
    let fails = script(&stage, "fails", "exit 3");
    // With a child that outlives whoever kills the script alone.
    let hangs = script(
        &stage,
        "hangs",
        &format!("(sleep 5; touch {survivor}) & echo $! >> {pids}; echo $$ >> {pids}; wait"),
    );
    let arguments = [
        "apply",
        &stage.plan,
        "--yes",
        "--through",
        "expand",
        "--hook",
        &fails,
        "--hook",
        &hangs,
        "--hook",
        "/nowhere/hook",
        "--hook-timeout",
        "200ms",
    ];
    let applied = pgmorph(&stage.url, &arguments).await.expect(0);
    // run_started, phase_started, phase_finished, run_finished
    for (note, times) in [
        ("fails): exit status: 3; the run goes on", 4),
        ("hangs): ended after 200ms; the run goes on", 4),
        ("hook): No such file or directory", 4),
    ] {
        assert_eq!(
            applied.stderr.matches(note).count(),
            times,
            "{note}: {}",
            applied.stderr
        );
    }
    let pids: Vec<String> = read(&pids).lines().map(str::to_owned).collect();
    assert_eq!(pids.len(), 8, "each was started");
    for pid in pids {
        until(&format!("process {pid} is gone"), async || {
            let state = read(format!("/proc/{pid}/stat"));
            state.is_empty() || state.contains(") Z ")
        })
        .await;
    }
    assert!(!Path::new(&survivor).exists());
    for (given, why) in [
        ("'", "a quote is not closed"),
        ("", "a program and its arguments"),
    ] {
        let refused = pgmorph(&stage.url, &["apply", &stage.plan, "--yes", "--hook", given])
            .await
            .expect(2);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_interruption_and_rollback_are_told_too() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 60_000).await;
    let out = stage.path("told");
    let hook = script(&stage, "hook", &format!("cat >> {out}; echo >> {out}"));
    let slowly = ["apply", &stage.plan, "--yes", "--throttle", "3%", "--hook", &hook];
    let running = Running::start(&stage.url, &slowly);
    until("it fills", async || read(&out).contains("\"backfill\"")).await;
    running.signal("INT").await;
    running.end().await.expect(130);
    let last = told(&out).pop().unwrap();
    assert_eq!(
        (&last["event"], &last["state"]),
        (&"run_interrupted".into(), &"interrupted".into())
    );
    std::fs::remove_file(&out).unwrap();
    pgmorph(&stage.url, &["rollback", "p", "--yes", "--hook", &hook])
        .await
        .expect(0);
    let last = told(&out).pop().unwrap();
    assert_eq!(
        (&last["event"], &last["state"], &last["direction"]),
        (&"run_finished".into(), &"rolled_back".into(), &"rollback".into())
    );
    std::fs::remove_file(&out).unwrap();
    let source = "name: q\nchanges:\n  - add_check: {table: orders, name: none, expression: id > 50}\n";
    let plan = stage.path("q.yaml");
    std::fs::write(&plan, source).unwrap();
    pgmorph(&stage.url, &["apply", &plan, "--yes", "--hook", &hook])
        .await
        .expect(6);
    let last = told(&out).pop().unwrap();
    assert_eq!(
        (&last["event"], &last["state"]),
        (&"run_failed".into(), &"failed".into())
    );
    assert!(
        last["message"].as_str().is_some_and(|text| !text.is_empty()),
        "{last}"
    );
}
