//! The stall budget: of an attempt, of a call, and what happens when nobody can see who waits.

use super::scene::CHANGE;
use super::{Busy, Scene, roles};
use crate::harness::{TestServer, until};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const READS: &[&str] = &["SELECT * FROM orders WHERE id = :id"];

fn events(stderr: &str, name: &str) -> Vec<Value> {
    let lines = stderr.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines.filter(|event: &Value| event["event"] == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_gives_way_when_others_have_waited_long_enough() {
    let server = TestServer::start(&[("deadlock_timeout", "20s")]);
    roles(&server).await;
    let scene = Scene::set(&server, "marshal").await;
    // Without the budget everybody would wait for ten seconds.
    scene.write("lock_timeout: 10s, stall_budget: 3s", CHANGE);
    let busy = Busy::start(&scene, 6, READS).await;
    let (apply, holder) = scene.trap(&["--format", "json"]).await;
    apply.says("\"event\":\"stalled\"").await;
    busy.go_on(20).await;
    holder.batch_execute("COMMIT").await.unwrap();
    let ended = apply.end().await.expect(0);
    let stalled = events(&ended.stderr, "stalled");
    let first = &stalled[0];
    println!("{first}");
    assert_eq!(first["cut"], "stall_budget", "{stalled:#?}");
    let applications = first["stall"]["applications"].as_array().unwrap();
    assert!(applications.contains(&"shop".into()), "{first}");
    let number = |key: &str| first["stall"][key].as_u64().unwrap();
    assert!(number("backend_ms") >= 3_000, "{first}");
    // All wait for half a second each, or fewer for longer; never one for all of it and more.
    assert!(
        (1..=7).contains(&number("sessions")) && number("worst_ms") <= 3_000 + 500,
        "{first}"
    );
    let locks = &ended.json()["locks"];
    assert!(locks["gave_up"].as_u64() >= Some(1), "{locks}");
    assert!(locks["stalled_backend_ms"].as_u64() >= Some(3_000), "{locks}");
    // And it stands in the ledger.
    assert!(
        scene
            .ask("SELECT bool_or(message LIKE '%waited behind it%') FROM pgmorph.attempts")
            .await
    );
    let felt = busy.stop().await;
    felt.is_fine(Duration::from_secs(3));
    assert!(felt.waits.waits > 0, "nobody waited: the test shows nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_when_its_budget_is_used_up() {
    let server = TestServer::start(&[("deadlock_timeout", "20s")]);
    roles(&server).await;
    let scene = Scene::set(&server, "marshal").await;
    scene.write("lock_timeout: 10s, stall_budget: 1min", CHANGE);
    let busy = Busy::start(&scene, 6, READS).await;
    let (apply, holder) = scene.trap(&["--stall-budget-per-run", "3s"]).await;
    let ended = apply.end().await.expect(4);
    for text in ["stall_budget_per_run", "waited behind it for", "nothing is held"] {
        assert!(ended.stderr.contains(text), "no {text:?} in {}", ended.stderr);
    }
    scene.nothing_is_held().await;
    assert!(!scene.is_done().await);
    holder.batch_execute("COMMIT").await.unwrap();
    scene.apply(&[]).await.expect(0);
    assert!(scene.is_done().await);
    busy.stop().await.is_fine(Duration::from_secs(3));
}

/// Stops the observing sessions, or lets them go on.
async fn signal_observers(scene: &Scene<'_>, signal: &str) {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgmorph observer'";
    for row in scene.database.admin.query(sql, &[]).await.unwrap() {
        let pid = row.get::<_, i32>(0).to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        assert!(status.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_see_who_waits_gives_way() {
    let server = TestServer::start(&[("deadlock_timeout", "60s")]);
    roles(&server).await;
    let scene = Scene::set(&server, "marshal").await;
    scene.write(
        "lock_timeout: 50s, stall_budget: 10min, stall_budget_per_run: 1h",
        CHANGE,
    );
    let (apply, holder) = scene.trap(&["--format", "json"]).await;
    signal_observers(&scene, "STOP").await;
    apply.says("\"cut\":\"blind\"").await;
    let waits = "SELECT NOT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                 WHERE NOT l.granted AND a.application_name = 'pgmorph')";
    until("it does not queue any more", async || scene.ask(waits).await).await;
    signal_observers(&scene, "CONT").await;
    holder.batch_execute("COMMIT").await.unwrap();
    apply.end().await.expect(0);
    assert!(scene.is_done().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_not_held_up_by_a_look() {
    let server = TestServer::start(&[("deadlock_timeout", "60s")]);
    roles(&server).await;
    let scene = Scene::set(&server, "marshal").await;
    scene.write(
        "lock_timeout: 50s, stall_budget: 10min, stall_budget_per_run: 1h",
        CHANGE,
    );
    let (apply, holder) = scene.trap(&["--format", "json"]).await;
    signal_observers(&scene, "STOP").await;
    holder.batch_execute("COMMIT").await.unwrap();
    // Nobody looks any more, and yet it ends.
    let ended = apply.end().await.expect(0);
    assert!(scene.is_done().await, "{}", ended.stderr);
    signal_observers(&scene, "CONT").await;
}
