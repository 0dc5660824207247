//! Filling rows: what it costs, whom it stands aside for, and that nothing is missed whatever comes in between.

use crate::harness::{Database, TestServer, until};
use pgmorph::error::ErrorKind;
use pgmorph::event::Event;
use pgmorph::executor::Interrupt;
use pgmorph::executor::brake::Brake;
use pgmorph::executor::ledger::requests;
use pgmorph::plan::{ExecutionPlan, Phase};
use tokio::sync::watch;
use tokio_postgres::Client;

pub async fn database(server: &TestServer, rows: u32) -> Database<'_> {
    let setup = format!(
        "CREATE TABLE orders (id integer PRIMARY KEY, version integer NOT NULL, created_at timestamptz, note text); \
         INSERT INTO orders SELECT i, i % 1000, timestamptz '2020-01-01' + i * interval '1 s', repeat(md5(i::text), 3) \
         FROM generate_series(1, {rows}) AS i; \
         CREATE INDEX ON orders (created_at); VACUUM (ANALYZE, FREEZE) orders"
    );
    let database = Database::create(server, "").await;
    // VACUUM must not stand among other statements.
    for statement in setup.split("; ") {
        database.admin.batch_execute(statement).await.unwrap();
    }
    database
}

pub async fn planned(database: &Database<'_>, workers: u32) -> ExecutionPlan {
    planned_with(database, &format!("workers: {workers}")).await
}

async fn planned_with(database: &Database<'_>, settings: &str) -> ExecutionPlan {
    let source = format!(
        "name: p\nsettings: {{small_table: 0, {settings}}}\n\
         changes:\n  - widen_column: {{table: orders, column: version, type: bigint}}\n"
    );
    database.planned(&source).await
}

pub async fn number(database: &Database<'_>, sql: &str) -> i64 {
    database.admin.query_one(sql, &[]).await.unwrap().get(0)
}

pub const UNFILLED: &str =
    "SELECT count(*) FROM orders WHERE \"~pgmorph_version_new\" IS DISTINCT FROM version";

async fn sizes(database: &Database<'_>) -> (i64, i64) {
    (
        number(database, "SELECT pg_relation_size('orders')").await,
        number(database, "SELECT pg_indexes_size('orders')").await,
    )
}

async fn session(database: &Database<'_>) -> (Client, i32) {
    let client = database.session().await;
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    (client, row.get(0))
}

fn waits_for(database: &Database<'_>, pid: i32) -> bool {
    database.recorder.any(|event| match event {
        Event::Waiting { blockers, .. } => blockers.iter().any(|blocker| blocker.pid == Some(pid)),
        _ => false,
    })
}

pub fn says(database: &Database<'_>, text: &str) -> bool {
    database.recorder.any(|event| match event {
        Event::Noted { what, .. } => what.contains(text),
        Event::StandingAside { reason, .. } => reason.contains(text),
        _ => false,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_stay_on_their_pages() {
    let server = TestServer::start(&[]);
    for workers in [1, 3] {
        let database = database(&server, 60_000).await;
        let plan = planned(&database, workers).await;
        let (heap, indexes) = sizes(&database).await;
        database.apply(&plan, Phase::Backfill).await.unwrap();
        let (heap_after, indexes_after) = sizes(&database).await;
        assert_eq!(number(&database, UNFILLED).await, 0);
        assert!(heap_after * 100 < heap * 130, "{workers}: {heap} → {heap_after}");
        assert!(
            indexes_after * 100 < indexes * 150,
            "{workers}: {indexes} → {indexes_after}"
        );
        assert!(
            !says(&database, "do not stay"),
            "{:#?}",
            database.recorder.events()
        );
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_old_rows_is_named() {
    let server = TestServer::start(&[]);
    let database = database(&server, 60_000).await;
    let plan = planned(&database, 1).await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let (reader, pid) = session(&database).await;
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders";
    reader.batch_execute(snapshot).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    database.apply(&plan, Phase::Backfill).await.unwrap();
    assert_eq!(number(&database, UNFILLED).await, 0);
    let who = format!(
        "do not stay on their pages, which costs time, WAL and space: old row versions are kept for pid {pid} "
    );
    assert!(says(&database, &who), "{:#?}", database.recorder.events());
}

const HOLD: &str = "BEGIN; SELECT FROM orders WHERE id IN (1, 30000, 60000) FOR NO KEY UPDATE";
/// Three pages, with some fifty rows each.
const HELD: i64 = 250;

#[tokio::test(flavor = "multi_thread")]
async fn held_rows_come_last_and_nobody_else_waits_for_them() {
    let server = TestServer::start(&[]);
    for workers in [1, 3] {
        let database = database(&server, 60_000).await;
        let plan = planned(&database, workers).await;
        database.apply(&plan, Phase::Expand).await.unwrap();
        let (holder, pid) = session(&database).await;
        holder.batch_execute(HOLD).await.unwrap();
        let fills = database.apply(&plan, Phase::Backfill);
        let others = async {
            until("all other pages are filled", async || {
                number(&database, UNFILLED).await < HELD
            })
            .await;
            until("it says for whom it waits", async || waits_for(&database, pid)).await;
            holder
                .batch_execute("UPDATE orders SET version = 7 WHERE id = 1; COMMIT")
                .await
                .unwrap();
        };
        tokio::join!(async { fills.await.unwrap() }, others);
        assert_eq!(number(&database, UNFILLED).await, 0);
        database.apply(&plan, Phase::Contract).await.unwrap();
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stands_aside_for_those_who_wait() {
    let server = TestServer::start(&[]);
    let database = database(&server, 20_000).await;
    let plan = planned(&database, 1).await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let (holder, waiter) = (database.session().await, database.session().await);
    let update = "UPDATE orders SET note = 'mine' WHERE id = 1";
    holder.batch_execute(&format!("BEGIN; {update}")).await.unwrap();
    let waits = async { waiter.batch_execute(update).await.unwrap() };
    let others = async {
        let long = "SELECT count(*) FROM pg_locks WHERE NOT granted AND waitstart < now() - interval '1.2 s'";
        until("somebody waits for long", async || {
            number(&database, long).await == 1
        })
        .await;
        let fills = database.apply(&plan, Phase::Backfill);
        let release = async {
            until("it stands aside", async || {
                says(&database, "for a row of the table")
            })
            .await;
            assert_eq!(number(&database, UNFILLED).await, 20_000);
            holder.batch_execute("COMMIT").await.unwrap();
        };
        let ((), filled) = tokio::join!(release, fills);
        filled.unwrap();
    };
    tokio::join!(waits, others);
    assert_eq!(number(&database, UNFILLED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_rewritten_in_between_is_walked_again() {
    let server = TestServer::start(&[]);
    let database = database(&server, 100_000).await;
    let plan = planned(&database, 2).await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let (stop, interrupts) = watch::channel(Interrupt::None);
    let stops = async {
        let begun = "SELECT count(*) FROM pgmorph.backfills WHERE next_page > 0";
        until("it is on its way", async || number(&database, begun).await == 1).await;
        stop.send_replace(Interrupt::Gracefully);
    };
    let (stopped, ()) = tokio::join!(database.apply_until(&plan, Phase::Backfill, interrupts), stops);
    assert_eq!(stopped.unwrap_err().kind, ErrorKind::Interrupted);
    let left = number(&database, UNFILLED).await;
    let watermark = number(&database, "SELECT next_page FROM pgmorph.backfills").await;
    assert!((1..100_000).contains(&left), "{left}");
    assert!(watermark > 0);
    // The rows that are not filled yet come to lie where the filled ones were.
    let cluster =
        "CREATE INDEX backwards ON orders ((-id)); CLUSTER orders USING backwards; DROP INDEX backwards";
    for statement in cluster.split("; ") {
        database.admin.batch_execute(statement).await.unwrap();
    }
    database.apply(&plan, Phase::Backfill).await.unwrap();
    assert_eq!(number(&database, UNFILLED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_held_to_the_deadline_are_all_that_is_left_to_do() {
    let server = TestServer::start(&[]);
    let database = database(&server, 60_000).await;
    let plan = planned_with(&database, "lock_deadline: 1s").await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let (holder, pid) = session(&database).await;
    holder.batch_execute(HOLD).await.unwrap();
    let stopped = database.apply(&plan, Phase::Backfill).await.unwrap_err();
    assert_eq!(stopped.kind, ErrorKind::Exhausted);
    let named = |line: &String| line.contains(&format!("pid {pid} "));
    assert!(stopped.details.iter().any(named), "{:?}", stopped.details);
    let left = number(&database, UNFILLED).await;
    assert!((1..HELD).contains(&left), "{left}");
    holder.batch_execute("COMMIT").await.unwrap();
    let batches = "SELECT batches FROM pgmorph.backfills";
    let before = number(&database, batches).await;
    // A walk from the beginning would fill this row again.
    let undo = "ALTER TABLE orders DISABLE TRIGGER ALL; \
                UPDATE orders SET \"~pgmorph_version_new\" = -1 WHERE id = 15000; ALTER TABLE orders ENABLE TRIGGER ALL";
    database.admin.batch_execute(undo).await.unwrap();
    database.apply(&plan, Phase::Backfill).await.unwrap();
    assert_eq!(number(&database, UNFILLED).await, 1);
    let after = number(&database, batches).await;
    assert!(after > before, "{before} → {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_is_waited_for_and_no_page_of_it_put_aside() {
    let server = TestServer::start(&[]);
    for mode in ["SHARE", "ACCESS EXCLUSIVE"] {
        let database = database(&server, 60_000).await;
        let plan = planned(&database, 2).await;
        database.apply(&plan, Phase::Expand).await.unwrap();
        let (heap, _) = sizes(&database).await;
        let (holder, pid) = session(&database).await;
        let lock = format!("BEGIN; LOCK TABLE orders IN {mode} MODE");
        holder.batch_execute(&lock).await.unwrap();
        let fills = database.apply(&plan, Phase::Backfill);
        let others = async {
            until("it says for whom it waits", async || waits_for(&database, pid)).await;
            holder.batch_execute("COMMIT").await.unwrap();
        };
        let (filled, ()) = tokio::join!(fills, others);
        filled.unwrap();
        assert_eq!(number(&database, UNFILLED).await, 0);
        // Pages that were put aside would have been filled at once, each row with a copy.
        let (heap_after, _) = sizes(&database).await;
        assert!(heap_after * 100 < heap * 130, "{mode}: {heap} → {heap_after}");
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_while_rows_move_and_sessions_are_ended() {
    let server = TestServer::start(&[]);
    for workers in [1, 3] {
        let database = database(&server, 60_000).await;
        let plan = planned(&database, workers).await;
        database.apply(&plan, Phase::Expand).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let writer = database.session().await;
        let writes = async {
            let mut round = 0;
            while !*stopped.borrow() {
                round += 1;
                // Rows move to other pages, the end of the table goes and comes back, and freed space is used again.
                let moves = format!(
                    "UPDATE orders SET note = note || note, version = version + 1 WHERE id % 997 = {round} % 997"
                );
                let goes = format!("DELETE FROM orders WHERE id > 60000 - 20 * {round} AND id <= 60000");
                let comes = format!(
                    "INSERT INTO orders SELECT 100000 * {round} + i, i FROM generate_series(1, 100) AS i"
                );
                for statement in [&moves, &goes, "VACUUM orders", &comes] {
                    writer.batch_execute(statement).await.unwrap();
                }
            }
            round
        };
        let ends = async {
            let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                       WHERE application_name = 'pgmorph' AND query LIKE '%UPDATE ONLY%'";
            for left in [59_000, 45_000, 30_000] {
                until("it has come that far", async || {
                    number(&database, UNFILLED).await < left
                })
                .await;
                number(&database, end).await;
            }
        };
        let fills = async {
            let filled = tokio::join!(database.apply(&plan, Phase::Backfill), ends).0;
            stop.send_replace(true);
            filled
        };
        let (filled, rounds) = tokio::join!(fills, writes);
        filled.unwrap();
        assert!(rounds > 1, "nobody wrote meanwhile");
        let lost = |event: &Event| matches!(event, Event::Reconnecting { .. });
        assert!(database.recorder.any(lost), "no session was lost");
        assert_eq!(number(&database, UNFILLED).await, 0);
        database.apply(&plan, Phase::Contract).await.unwrap();
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_rows_is_filled() {
    let server = TestServer::start(&[]);
    let database = database(&server, 0).await;
    let plan = planned(&database, 8).await;
    database.apply(&plan, Phase::Contract).await.unwrap();
    assert_eq!(
        number(&database, "SELECT end_page FROM pgmorph.backfills").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn under_an_index_the_room_is_reclaimed_on_the_way() {
    let server = TestServer::start(&[]);
    let database = database(&server, 200_000).await;
    let plan = planned(&database, 1).await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let index = "CREATE INDEX early ON orders ((\"~pgmorph_version_new\" + 1))";
    database.admin.batch_execute(index).await.unwrap();
    let (heap, _) = sizes(&database).await;
    let fill = plan.steps.iter().find(|step| step.id.ends_with("-fill")).unwrap();
    let mut plan = plan.clone();
    let keep = |step: &pgmorph::plan::Step| step.phase <= Phase::Expand || step.id == fill.id;
    plan.steps.retain(keep);
    database.apply(&plan, Phase::Backfill).await.unwrap();
    assert_eq!(number(&database, UNFILLED).await, 0);
    assert!(says(&database, "index early covers what is filled"));
    let (heap_after, _) = sizes(&database).await;
    // Twice as much without.
    assert!(heap_after * 100 < heap * 165, "{heap} → {heap_after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_old_rows_are_not_kept_any_more_passes_begin() {
    let server = TestServer::start(&[]);
    let database = database(&server, 60_000).await;
    let plan = planned(&database, 1).await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let run = database.run(&plan).await.unwrap().id;
    let slowly = Some(Brake::Share(10));
    requests::tune(&database.admin, run, None, slowly).await.unwrap();
    let (reader, _) = session(&database).await;
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders";
    reader.batch_execute(snapshot).await.unwrap();
    let others = async {
        until("it knows who holds them", async || {
            says(&database, "are kept for pid")
        })
        .await;
        reader.batch_execute("COMMIT").await.unwrap();
        until("it knows that nobody does", async || {
            says(&database, "are not kept any more")
        })
        .await;
        requests::tune(&database.admin, run, None, Some(Brake::Off))
            .await
            .unwrap();
    };
    let (filled, ()) = tokio::join!(database.apply(&plan, Phase::Backfill), others);
    filled.unwrap();
    assert_eq!(number(&database, UNFILLED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stands_aside_for_a_slot_that_keeps_much_wal() {
    let server = TestServer::start(&[]);
    let database = database(&server, 20_000).await;
    let slot = "SELECT pg_create_physical_replication_slot('feed', true)";
    database.admin.query(slot, &[]).await.unwrap();
    let plan = planned_with(&database, "wal_retained: 8kB").await;
    let release = async {
        until("it stands aside", async || {
            says(&database, "replication slot feed keeps WAL of")
        })
        .await;
        assert_eq!(number(&database, UNFILLED).await, 20_000);
        let sql = "SELECT pg_drop_replication_slot('feed')";
        database.admin.query(sql, &[]).await.unwrap();
    };
    let (filled, ()) = tokio::join!(database.apply(&plan, Phase::Backfill), release);
    filled.unwrap();
    assert_eq!(number(&database, UNFILLED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stands_aside_for_the_archiver() {
    let server = TestServer::start(&[("archive_mode", "on"), ("archive_command", "false")]);
    let database = database(&server, 20_000).await;
    for _ in 0..4 {
        let sql = "CREATE TABLE IF NOT EXISTS filler (); SELECT pg_switch_wal(); DROP TABLE filler";
        database.admin.batch_execute(sql).await.unwrap();
    }
    let failed = "SELECT failed_count FROM pg_stat_archiver";
    until("the archiver fails", async || number(&database, failed).await > 0).await;
    let plan = planned_with(&database, "archive_backlog: 16MB").await;
    let release = async {
        until("it stands aside", async || says(&database, "(archive_backlog)")).await;
        assert_eq!(number(&database, UNFILLED).await, 20_000);
        let mend = [
            "ALTER SYSTEM SET archive_command = 'true'",
            "SELECT pg_reload_conf()",
        ];
        for statement in mend {
            database.admin.batch_execute(statement).await.unwrap();
        }
    };
    let (filled, ()) = tokio::join!(database.apply(&plan, Phase::Backfill), release);
    filled.unwrap();
    assert_eq!(number(&database, UNFILLED).await, 0);
}
