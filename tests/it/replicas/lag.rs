//! A backfill holds standbys below their limits, and waits for one that went away only for so long.

use super::{Receiver, pair};
use crate::backfill::{UNFILLED, database, number, says};
use crate::harness::{Database, Running, TestServer, pgmorph, until};
use pgmorph::error::ErrorKind;
use pgmorph::executor::brake::Brake;
use pgmorph::executor::ledger::requests;
use pgmorph::plan::{ExecutionPlan, Phase};
use std::time::Duration;
use tempfile::TempDir;

fn source(settings: &str) -> String {
    format!(
        "name: p\nsettings: {{small_table: 0, {settings}}}\n\
         changes:\n  - widen_column: {{table: orders, column: version, type: bigint}}\n"
    )
}

/// Expanded, with a fill of so many rows a second ahead.
async fn expanded(database: &Database<'_>, settings: &str, rate: u32) -> (ExecutionPlan, i64) {
    let plan = database.planned(&source(settings)).await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let run = database.run(&plan).await.unwrap().id;
    let rate = Some(Brake::Rate(rate));
    requests::tune(&database.admin, run, None, rate).await.unwrap();
    (plan, run)
}

async fn at_full_speed(database: &Database<'_>, run: i64) {
    let off = Some(Brake::Off);
    requests::tune(&database.admin, run, None, off).await.unwrap();
}

enum Stop<'a> {
    Replay(&'a TestServer),
    Receiver(Receiver),
}

impl Stop<'_> {
    async fn begin(&self) {
        match self {
            Self::Replay(standby) => replay(standby, "pause").await,
            Self::Receiver(receiver) => receiver.signal("STOP").await,
        }
    }

    async fn end(&self) {
        match self {
            Self::Replay(standby) => replay(standby, "resume").await,
            Self::Receiver(receiver) => receiver.signal("CONT").await,
        }
    }
}

async fn replay(standby: &TestServer, what: &str) {
    let client = standby.connect_here("postgres").await;
    let sql = format!("SELECT pg_wal_replay_{what}()");
    client.batch_execute(&sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_stands_still_is_waited_for() {
    let (primary, standby) = pair(&[]).await;
    let cases = [
        (
            Stop::Replay(&standby),
            "replica_lag: 1s",
            "behind, above 1s (replica_lag)",
        ),
        (
            Stop::Replay(&standby),
            "replica_lag_bytes: 256kB",
            "of WAL still to replay, above 256 kB (replica_lag_bytes)",
        ),
        (
            Stop::Receiver(Receiver::of(&standby).await),
            "replica_lag: 1s",
            "behind, above 1s (replica_lag)",
        ),
    ];
    for (stop, settings, says_then) in cases {
        let database = database(&primary, 20_000).await;
        let (plan, run) = expanded(&database, settings, 4_000).await;
        stop.begin().await;
        let others = async {
            until("it stands aside", async || {
                says(&database, "standby east") && says(&database, says_then)
            })
            .await;
            // The batch that was under way then ends.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let left = number(&database, UNFILLED).await;
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            assert_eq!(number(&database, UNFILLED).await, left);
            assert!(left > 0, "it was over before it knew");
            at_full_speed(&database, run).await;
            stop.end().await;
        };
        let (filled, ()) = tokio::join!(database.apply(&plan, Phase::Backfill), others);
        filled.unwrap();
        assert_eq!(number(&database, UNFILLED).await, 0);
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_standby_is_filled_for_in_parts() {
    let (primary, standby) = pair(&[]).await;
    let database = database(&primary, 40_000).await;
    let (plan, _) = expanded(&database, "replica_lag: 400ms", 5_000).await;
    let admin = standby.connect_here("postgres").await;
    for statement in [
        "ALTER SYSTEM SET recovery_min_apply_delay = '800ms'",
        "SELECT pg_reload_conf()",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }
    let position = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
    let began = number(&database, position).await;
    let farthest = async {
        let mut farthest = 0;
        loop {
            let behind =
                "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint FROM pg_stat_replication";
            farthest = number(&database, behind).await.max(farthest);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if number(&database, UNFILLED).await == 0 {
                return farthest;
            }
        }
    };
    let (filled, farthest) = tokio::join!(database.apply(&plan, Phase::Backfill), farthest);
    filled.unwrap();
    let all = number(&database, position).await - began;
    println!("{farthest} of {all} bytes were ahead of it at most");
    assert!(says(&database, "standby east is "), "it never waited");
    assert!(farthest * 3 < all * 2, "{farthest} of {all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_went_away_is_waited_for_until_the_grace_time_is_over() {
    let (primary, standby) = pair(&[]).await;
    let database = database(&primary, 20_000).await;
    let (plan, run) = expanded(&database, "replica_grace: 10s", 4_000).await;
    let begun = async || number(&database, UNFILLED).await < 19_000;
    // It comes back.
    let others = async {
        until("it fills", begun).await;
        standby.kill();
        until("it misses it", async || {
            says(&database, "s; after 10s (replica_grace) the run stops")
        })
        .await;
        standby.restart();
        let left = number(&database, UNFILLED).await;
        until("it goes on", async || number(&database, UNFILLED).await < left).await;
        // And now it does not.
        standby.kill();
    };
    let (stopped, ()) = tokio::join!(database.apply(&plan, Phase::Backfill), others);
    let stopped = stopped.unwrap_err();
    assert_eq!(stopped.kind, ErrorKind::Exhausted);
    assert!(
        stopped.message.contains("standby east has been gone for 1")
            && stopped.message.contains("above 10s (replica_grace)"),
        "{stopped}"
    );
    assert!(number(&database, UNFILLED).await > 0);
    // The same again goes on without it.
    at_full_speed(&database, run).await;
    database.apply(&plan, Phase::Backfill).await.unwrap();
    assert_eq!(number(&database, UNFILLED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_the_plan_names_must_be_there_from_the_beginning() {
    let (primary, _standby) = pair(&[]).await;
    let database = database(&primary, 20_000).await;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("plan.yaml").display().to_string();
    std::fs::write(&path, source("replicas: [west], replica_grace: 2s")).unwrap();
    let url = primary.url(&database.name, "postgres");
    let apply = ["apply", &path, "--yes"];
    let mut running = Running::start(&url, &apply);
    running.says_or_ends("standby west has been gone for").await;
    running.wait().await;
    let ended = running.end().await.expect(4);
    assert!(
        ended.stderr.contains("above 2s (replica_grace)"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("--replicas"), "{}", ended.stderr);
    assert_eq!(number(&database, UNFILLED).await, 20_000);
    let instead = [
        "apply",
        &path,
        "--yes",
        "--through",
        "contract",
        "--replicas",
        "east",
    ];
    pgmorph(&url, &instead).await.expect(0);
    pgmorph(&url, &["verify", &path]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_role_may_not_see_is_said() {
    let (primary, _standby) = pair(&[]).await;
    let setup = "DO $$BEGIN IF to_regrole('deploy') IS NULL THEN CREATE ROLE deploy LOGIN; END IF; END$$; \
                 GRANT CREATE ON DATABASE :name TO deploy; GRANT CREATE ON SCHEMA public TO deploy; ALTER TABLE orders OWNER TO deploy";
    for (settings, refused) in [("workers: 1", false), ("replicas: [east]", true)] {
        let mut database = database(&primary, 5_000).await;
        let setup = setup.replace(":name", &database.name);
        database.admin.batch_execute(&setup).await.unwrap();
        database.user = "deploy".into();
        let plan = database.planned(&source(settings)).await;
        let unseen = |it: &pgmorph::plan::Hazard| it.code == "standbys_unseen" && it.message.contains("east");
        assert!(plan.steps.iter().any(|step| step.hazards.iter().any(unseen)));
        let filled = database.apply(&plan, Phase::Backfill).await;
        match refused {
            false => {
                filled.unwrap();
                assert!(says(&database, "the role may not see how far they are (east)"));
                assert_eq!(number(&database, UNFILLED).await, 0);
            }
            true => {
                let error = filled.unwrap_err();
                assert_eq!(error.kind, ErrorKind::StepFailed);
                assert!(
                    error.message.contains("may not see how far standby east is"),
                    "{error}"
                );
                assert_eq!(number(&database, UNFILLED).await, 5_000);
                database
                    .admin
                    .batch_execute("GRANT pg_monitor TO deploy")
                    .await
                    .unwrap();
                database.apply(&plan, Phase::Backfill).await.unwrap();
                assert!(
                    !database
                        .snapshot(&source(settings))
                        .await
                        .unwrap()
                        .replication
                        .hidden
                );
            }
        }
    }
}
