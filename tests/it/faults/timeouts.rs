//! Timeouts that were set for applications, tiny ones: in none of our sessions do they count. And clocks: none of ours does.

use super::stage::Stage;
use crate::harness::pgmorph;
use std::path::Path;
use std::time::Duration;

const TIMEOUTS: [&str; 5] = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
];

/// A whole plan, forwards and back, where all of them are 50 ms.
async fn under_tiny_timeouts(stage: &Stage, set: &str, reset: &str) {
    let mut case = stage.begin().await;
    case.runs_as_owner().await;
    let name = case.database.name.clone();
    let newer = stage.server.major() >= 17;
    let timeouts = || {
        TIMEOUTS
            .into_iter()
            .filter(|name| newer || *name != "transaction_timeout")
    };
    for timeout in timeouts() {
        let sql = set.replace(":db", &name).replace(":timeout", timeout);
        case.database.admin.batch_execute(&sql).await.unwrap();
    }
    case.database
        .admin
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    let story = set.to_owned();
    let (url, plan) = (case.url(), stage.plan());
    for arguments in [&["plan", plan.as_str()][..], &["status"], &["snapshot"]] {
        pgmorph(&url, arguments).await.expect(0);
    }
    stage.apply_through(&url, "cutover").end().await.expect(0);
    stage.rollback(&url).end().await.expect(0);
    stage.apply(&url).end().await.expect(0);
    pgmorph(&url, &["verify", &plan]).await.expect(0);
    for timeout in timeouts() {
        let sql = reset.replace(":db", &name).replace(":timeout", timeout);
        case.database.admin.batch_execute(&sql).await.unwrap();
    }
    case.database
        .admin
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    case.ends_done(&story, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn do_not_count_in_our_sessions() {
    let stage = Stage::set(&[]).await;
    let admin = stage.server.connect("postgres").await;
    // Those of the application and of this test stay as they are.
    for timeout in TIMEOUTS {
        let sql = format!("ALTER ROLE postgres SET {timeout} = 0");
        if stage.server.major() >= 17 || timeout != "transaction_timeout" {
            admin.batch_execute(&sql).await.unwrap();
        }
    }
    for (set, reset) in [
        (
            "ALTER ROLE owner SET :timeout = '50ms'",
            "ALTER ROLE owner RESET :timeout",
        ),
        (
            "ALTER DATABASE :db SET :timeout = '50ms'",
            "ALTER DATABASE :db RESET :timeout",
        ),
        (
            "ALTER ROLE owner IN DATABASE :db SET :timeout = '50ms'",
            "ALTER ROLE owner IN DATABASE :db RESET :timeout",
        ),
        (
            "ALTER SYSTEM SET :timeout = '50ms'",
            "ALTER SYSTEM RESET :timeout",
        ),
    ] {
        under_tiny_timeouts(&stage, set, reset).await;
    }
}

/// Waits are measured with a clock that does not jump, and times that are recorded or compared are the server's. The
/// machine's own time is only shown.
#[test]
fn the_machines_clock_decides_nothing() {
    const SHOWN: [&str; 7] = [
        "report/json.rs",
        "cli/new.rs",
        "cli/status.rs",
        "cli/watch.rs",
        "monitor/mod.rs",
        "monitor/hooks.rs",
        "monitor/traces.rs",
    ];
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let told = SHOWN.iter().any(|shown| path.ends_with(shown));
            let asks = ["SystemTime", "Timestamp::now", "Zoned::now"];
            if !told && asks.iter().any(|clock| text.contains(clock)) {
                found.push(path);
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
}
