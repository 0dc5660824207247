//! `on_blocked`: who is cancelled or terminated, and who never is.

use super::scene::{CHANGE, pid_of};
use super::{Scene, roles};
use crate::harness::{TestServer, until};
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// A session in the way: of whom, doing what, and what becomes of it under a policy.
struct Case {
    policy: &'static str,
    /// Who runs the plan.
    runs: &'static str,
    holder: &'static str,
    begins: &'static str,
    /// A statement that goes on, after that.
    active: Option<&'static str>,
    becomes: Result<SqlState, &'static str>,
}

const READS: &str = "BEGIN; SELECT count(*) FROM orders";
const WRITES: &str = "BEGIN; UPDATE orders SET note = 'held' WHERE id = 0";
const SLEEPS: Option<&str> = Some("SELECT count(*) FROM orders, pg_sleep(600)");

fn cases() -> Vec<Case> {
    let case = |policy, runs, holder, begins, active, becomes| Case {
        policy,
        runs,
        holder,
        begins,
        active,
        becomes,
    };
    vec![
        case(
            "cancel",
            "marshal",
            "app",
            READS,
            SLEEPS,
            Ok(SqlState::QUERY_CANCELED),
        ),
        case(
            "terminate",
            "marshal",
            "app",
            READS,
            None,
            Ok(SqlState::ADMIN_SHUTDOWN),
        ),
        case(
            "cancel",
            "marshal",
            "app",
            READS,
            None,
            Err("`on_blocked: terminate` would end it"),
        ),
        case(
            "terminate",
            "marshal",
            "app",
            WRITES,
            None,
            Err("it has written or locked rows"),
        ),
        case(
            "terminate",
            "marshal",
            "postgres",
            READS,
            None,
            Err("postgres is a superuser"),
        ),
        case(
            "terminate",
            "postgres",
            "postgres",
            READS,
            None,
            Err("postgres is a superuser"),
        ),
        case(
            "terminate",
            "deploy",
            "app",
            READS,
            None,
            Err("pg_read_all_stats"),
        ),
        case("wait", "marshal", "app", READS, SLEEPS, Err("blocked by pid")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn only_old_readers_are_ended() {
    let server = TestServer::start(&[]);
    roles(&server).await;
    for case in cases() {
        let scene = Scene::set(&server, case.runs).await;
        scene.write("lock_deadline: 2s, on_blocked_after: 1s", CHANGE);
        let holder = scene.session(case.holder, "culprit").await;
        let pid = pid_of(&holder).await;
        holder.batch_execute(case.begins).await.unwrap();
        let what = format!("{} of a session of {} by {}", case.policy, case.holder, case.runs);
        println!("{what}");
        let active = case.active.unwrap_or("SELECT 1");
        let going_on = tokio::spawn(async move {
            let result = holder.batch_execute(active).await;
            (holder, result)
        });
        let sql = format!("SELECT state = 'active' FROM pg_stat_activity WHERE pid = {pid}");
        if case.active.is_some() {
            until("it is active", async || scene.ask(&sql).await).await;
        }
        let ended = scene.apply(&["--on-blocked", case.policy]).await;
        match case.becomes {
            Ok(state) => {
                let ended = ended.expect(0);
                let (holder, result) = going_on.await.unwrap();
                let error = match result {
                    Err(error) => error,
                    Ok(()) => holder.batch_execute("SELECT 1").await.unwrap_err(),
                };
                // Of a session that was idle the library may only see that it is gone.
                let code = error.code().cloned().unwrap_or(SqlState::ADMIN_SHUTDOWN);
                assert_eq!(code, state, "{what}: {error}");
                let done = if case.policy == "cancel" {
                    "cancelled"
                } else {
                    "terminated"
                };
                let said = format!("{done} pid {pid} of app (culprit)");
                assert!(
                    ended.stderr.contains(&said),
                    "{what}: no {said} in {}",
                    ended.stderr
                );
                let sql = format!("SELECT count(*) = 1 FROM pgmorph.attempts WHERE message LIKE '{said}%'");
                assert!(scene.ask(&sql).await, "{what}");
                assert!(
                    ended.stdout.contains("1 session in the way ended"),
                    "{}",
                    ended.stdout
                );
            }
            Err(why) => {
                let ended = ended.expect(4);
                assert!(
                    ended.stderr.contains(why),
                    "{what}: no {why:?} in {}",
                    ended.stderr
                );
                assert!(!going_on.is_finished() || case.active.is_none(), "{what}");
                if case.runs == "deploy" {
                    let note = "GRANT pg_signal_backend, pg_read_all_stats TO deploy";
                    assert!(ended.stderr.contains(note), "{}", ended.stderr);
                }
                let sql =
                    format!("SELECT pg_terminate_backend({pid}) FROM pg_stat_activity WHERE pid = {pid}");
                assert!(scene.ask(&sql).await, "{what}: it is gone");
                let _ = tokio::time::timeout(Duration::from_secs(10), going_on).await;
            }
        }
    }
}

/// The age in question is that of the transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_young_transaction_is_left_alone() {
    let server = TestServer::start(&[]);
    roles(&server).await;
    let scene = Scene::set(&server, "marshal").await;
    scene.write(
        "lock_deadline: 2s, on_blocked: terminate, on_blocked_after: 1h",
        CHANGE,
    );
    let holder = scene.session("app", "culprit").await;
    holder.batch_execute(READS).await.unwrap();
    scene.apply(&[]).await.expect(4);
    holder.batch_execute("COMMIT").await.unwrap();
    scene.apply(&[]).await.expect(0);
}

/// On the way back, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_ends_old_readers() {
    let server = TestServer::start(&[]);
    roles(&server).await;
    let scene = Scene::set(&server, "marshal").await;
    scene.write("lock_deadline: 2s, on_blocked_after: 1s", CHANGE);
    scene.apply(&[]).await.expect(0);
    let holder = scene.session("app", "culprit").await;
    let pid = pid_of(&holder).await;
    holder.batch_execute(READS).await.unwrap();
    let waiting = scene.start("rollback", &[]).end().await.expect(4);
    assert!(waiting.stderr.contains("blocked by pid"), "{}", waiting.stderr);
    let ended = scene
        .start("rollback", &["--on-blocked", "terminate"])
        .end()
        .await;
    let said = format!("terminated pid {pid} of app (culprit)");
    assert!(
        ended.expect(0).stderr.contains(&said),
        "{said} {}",
        waiting.stderr
    );
    holder.batch_execute("SELECT 1").await.unwrap_err();
}
