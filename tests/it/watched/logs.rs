//! `--log-format json`: one object a line, for whoever keeps logs.

use crate::harness::{TestServer, pgmorph};
use crate::monitor::Stage;
use serde_json::Value;
use std::collections::BTreeSet;

/// What README documents of each event.
const DOCUMENTED: [&str; 19] = [
    "run_started",
    "phase_started",
    "step_started",
    "step_skipped",
    "waiting",
    "lock_timeout",
    "stalled",
    "ended",
    "reconnecting",
    "standing_aside",
    "progress",
    "cleaned_up",
    "noted",
    "step_done",
    "step_failed",
    "interrupted",
    "run_finished",
    "note",
    "failed",
];

fn events(stderr: &str) -> Vec<Value> {
    let event = |line: &str| -> Value {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value.is_object() && value["version"] == 1, "{line}");
        assert!(
            value["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(),
            "{line}"
        );
        assert!(DOCUMENTED.contains(&value["event"].as_str().unwrap()), "{line}");
        value
    };
    stderr.lines().map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_is_an_object_and_results_stay_for_people() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 3_000).await;
    let apply = [
        "apply",
        &stage.plan,
        "--yes",
        "--log-format",
        "json",
        "--webhook",
        "http://127.0.0.1:1/",
    ];
    let applied = pgmorph(&stage.url, &apply).await.expect(0);
    let told = events(&applied.stderr);
    let names: BTreeSet<&str> = told
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    for name in [
        "run_started",
        "phase_started",
        "step_started",
        "progress",
        "step_done",
        "run_finished",
        "note",
    ] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
    let progress = told
        .iter()
        .find(|event| event["event"] == "progress" && event["batch"].is_object())
        .unwrap();
    assert!(
        progress["batch"]["pages"].is_u64() && progress["batch"]["held_us"].is_u64(),
        "{progress}"
    );
    assert!(
        applied.stdout.contains("contract is pending"),
        "{}",
        applied.stdout
    );
    let back = pgmorph(&stage.url, &["rollback", "p", "--yes", "--log-format", "json"])
        .await
        .expect(0);
    assert!(
        events(&back.stderr)
            .iter()
            .any(|event| event["event"] == "step_done" && event["undo"] == true)
    );
    let source = "name: q\nchanges:\n  - add_check: {table: orders, name: none, expression: id > 50}\n";
    let plan = stage.path("q.yaml");
    std::fs::write(&plan, source).unwrap();
    let failed = pgmorph(&stage.url, &["apply", &plan, "--yes", "--log-format", "json"])
        .await
        .expect(6);
    let last = events(&failed.stderr).pop().unwrap();
    assert_eq!(
        (&last["event"], &last["error"]["kind"]),
        (&"failed".into(), &"step_failed".into())
    );
    assert_eq!(failed.stdout, "");
    let refused = pgmorph(&stage.url, &["apply", &plan, "--log-format", "json"])
        .await
        .expect(1);
    assert_eq!(events(&refused.stderr).len(), 1, "{}", refused.stderr);
}

#[test]
fn the_readme_documents_every_event() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    for name in DOCUMENTED {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
}
