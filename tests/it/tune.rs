//! What `tune`, `pause` and `resume` do to a backfill that is running.

use crate::backfill::{UNFILLED, database, number, planned, says};
use crate::harness::{Database, Running, TestServer, pgmorph, until};
use pgmorph::event::Event;
use pgmorph::executor::brake::Brake;
use pgmorph::executor::ledger::requests;
use pgmorph::plan::{ExecutionPlan, Phase};

const ROWS: u32 = 60_000;

/// Filling so slowly that there is time to do something meanwhile.
async fn begun(server: &TestServer, rows: u32) -> (Database<'_>, ExecutionPlan, i64) {
    let database = database(server, rows).await;
    let plan = planned(&database, 1).await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let run = database.run(&plan).await.unwrap().id;
    let slowly = Some(Brake::Share(3));
    requests::tune(&database.admin, run, None, slowly).await.unwrap();
    (database, plan, run)
}

async fn on_its_way(database: &Database<'_>) {
    let begun = "SELECT count(*) FROM orders WHERE \"~pgmorph_version_new\" IS NOT NULL";
    until("it is on its way", async || number(database, begun).await > 0).await;
}

fn waits_while_paused(database: &Database<'_>) -> usize {
    let waits = |event: &Event| matches!(event, Event::StandingAside { reason, .. } if reason.starts_with("paused since"));
    database.recorder.events().into_iter().filter(waits).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_writes_nothing_until_it_is_resumed() {
    let server = TestServer::start(&[]);
    let (database, plan, run) = begun(&server, ROWS).await;
    let others = async {
        on_its_way(&database).await;
        requests::pause(&database.admin, run).await.unwrap();
        // It is told once a second.
        until("it stands still", async || waits_while_paused(&database) >= 2).await;
        let left = number(&database, UNFILLED).await;
        assert!(left > 0);
        until("it still does", async || waits_while_paused(&database) >= 4).await;
        assert_eq!(number(&database, UNFILLED).await, left);
        assert!(says(&database, "it goes on with: pgmorph resume p"));
        let fast = Some(Brake::Off);
        requests::tune(&database.admin, run, None, fast).await.unwrap();
        assert!(requests::resume(&database.admin, run).await.unwrap());
    };
    let (filled, ()) = tokio::join!(database.apply(&plan, Phase::Backfill), others);
    filled.unwrap();
    assert!(says(&database, "it is not paused any more"));
    assert!(says(&database, "throttle, as asked for: off instead of 3%"));
    assert_eq!(number(&database, UNFILLED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_begins_no_step_either() {
    let server = TestServer::start(&[]);
    let (database, plan, run) = begun(&server, ROWS).await;
    requests::tune(&database.admin, run, None, Some(Brake::Off))
        .await
        .unwrap();
    database.apply(&plan, Phase::Backfill).await.unwrap();
    requests::pause(&database.admin, run).await.unwrap();
    let done = "SELECT count(*) FROM pgmorph.steps WHERE state = 'done'";
    let before = number(&database, done).await;
    let others = async {
        until("it stands still", async || waits_while_paused(&database) >= 3).await;
        assert_eq!(number(&database, done).await, before);
        requests::resume(&database.admin, run).await.unwrap();
    };
    let (applied, ()) = tokio::join!(database.apply(&plan, Phase::Cutover), others);
    applied.unwrap();
    assert!(number(&database, done).await > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_sessions_fill_as_are_asked_for() {
    let server = TestServer::start(&[]);
    let (database, plan, run) = begun(&server, 3 * ROWS).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND application_name = 'pgmorph' AND query LIKE '%UPDATE ONLY%'";
    let others = async {
        on_its_way(&database).await;
        for wanted in [3_u32, 1, 2] {
            requests::tune(&database.admin, run, Some(wanted), None)
                .await
                .unwrap();
            until("so many fill", async || {
                number(&database, sessions).await == i64::from(wanted)
            })
            .await;
            // It is told once a second.
            let workers = match wanted {
                1 => String::new(),
                _ => format!(" by {wanted} workers"),
            };
            let stage = format!("filling rows{workers}, throttled to 3%");
            let told = |event: &Event| matches!(event, Event::Progress { stage: it, .. } if *it == stage);
            until("it is told", async || database.recorder.any(told)).await;
        }
        assert!(number(&database, UNFILLED).await > 0);
        let fast = Some(Brake::Off);
        requests::tune(&database.admin, run, None, fast).await.unwrap();
    };
    let (filled, ()) = tokio::join!(database.apply(&plan, Phase::Backfill), others);
    filled.unwrap();
    assert!(says(&database, "workers, as asked for: 3 instead of 1"));
    assert_eq!(number(&database, UNFILLED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_bounds_the_rows_of_all_sessions_together() {
    let server = TestServer::start(&[]);
    let (database, plan, run) = begun(&server, ROWS).await;
    let rate = Some(Brake::Rate(15_000));
    requests::tune(&database.admin, run, Some(3), rate).await.unwrap();
    let began = std::time::Instant::now();
    database.apply(&plan, Phase::Backfill).await.unwrap();
    // The last batch of each session needs no rest.
    let seconds = began.elapsed().as_secs_f64();
    assert!(seconds > 2.5, "{ROWS} rows in {seconds} s");
    assert_eq!(number(&database, UNFILLED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_the_process() {
    let server = TestServer::start(&[]);
    let database = database(&server, ROWS).await;
    let url = server.url(&database.name, &database.user);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plan.yaml");
    let source = "name: p\nsettings: {small_table: 0}\n\
                  changes:\n  - widen_column: {table: orders, column: version, type: bigint}\n";
    std::fs::write(&path, source).unwrap();
    let path = path.display().to_string();
    let refused = pgmorph(&url, &["pause"]).await.expect(3);
    assert!(
        refused.stderr.contains("no run is unfinished"),
        "{}",
        refused.stderr
    );
    let apply = ["apply", &path, "--yes", "--throttle", "3%"];
    let mut running = Running::start(&url, &apply);
    until("it is on its way", async || {
        let begun = "SELECT to_regclass('pgmorph.backfills') IS NOT NULL";
        let there: bool = database.admin.query_one(begun, &[]).await.unwrap().get(0);
        there
            && number(
                &database,
                "SELECT count(*) FROM pgmorph.backfills WHERE rows_done > 0",
            )
            .await
                == 1
    })
    .await;
    let asked = pgmorph(&url, &["pause", "--format", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(asked["running"], true);
    assert_eq!(asked["requests"]["throttle"], "3%");
    assert!(asked["requests"]["paused"]["since"].is_string());
    running.says("paused since").await;
    running.signal("KILL").await;
    running.wait().await;
    let left = number(&database, UNFILLED).await;
    assert!(left > 0);
    let status = pgmorph(&url, &["status", "p"]).await.expect(0).stdout;
    for text in ["paused since", "pgmorph resume p", "throttle: 3%", "rows filled"] {
        assert!(status.contains(text), "{text}: {status}");
    }
    let again = Running::start(&url, &["apply", &path, "--yes"]);
    again.says("it goes on with: pgmorph resume p").await;
    assert_eq!(number(&database, UNFILLED).await, left);
    pgmorph(&url, &["tune", "p", "--throttle", "off", "--workers", "2"])
        .await
        .expect(0);
    let resumed = pgmorph(&url, &["resume", &path]).await.expect(0).stdout;
    assert!(resumed.contains("goes on"), "{resumed}");
    again.end().await.expect(0);
    pgmorph(&url, &["tune", "p", "--throttle", "0%"]).await.expect(2);
    pgmorph(&url, &["tune", "p", "--workers", "9"]).await.expect(2);
    pgmorph(&url, &["tune", "p"]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_sessions_are_short_it_goes_on_with_fewer() {
    let server = TestServer::start(&[]);
    let mut database = database(&server, ROWS).await;
    let setup = format!(
        "CREATE ROLE limited LOGIN CONNECTION LIMIT 5; ALTER TABLE orders OWNER TO limited; \
         GRANT CREATE ON DATABASE {} TO limited; GRANT ALL ON SCHEMA public TO limited",
        database.name
    );
    database.admin.batch_execute(&setup).await.unwrap();
    database.user = "limited".into();
    let plan = planned(&database, 8).await;
    database.apply(&plan, Phase::Backfill).await.unwrap();
    assert!(
        says(&database, "no further session can be opened"),
        "{:#?}",
        database.recorder.events()
    );
    assert_eq!(number(&database, UNFILLED).await, 0);
}
