//! What the application writes while several mirrors of one table come and go, and what else may be planned meanwhile.

use super::interleaved::few;
use super::{PLAN, one_way};
use crate::harness::{Database, TestServer};
use pgmorph::event::{Event, Listener};
use pgmorph::executor::{Executor, Interrupt, Loss};
use pgmorph::plan::Phase;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const TABLES: &str = "
CREATE TABLE source (id integer PRIMARY KEY, count integer NOT NULL);
CREATE TABLE one (id integer PRIMARY KEY, count integer NOT NULL);
CREATE TABLE other (id integer PRIMARY KEY, count integer NOT NULL);
INSERT INTO source SELECT i, 0 FROM generate_series(1, 50) AS i;
";

const SIBLINGS: &str = "
name: p
changes:
  - sync: {name: first, from: source, into: one, key: [id], columns: [count]}
  - sync: {name: second, from: source, into: other, key: [id], columns: [count]}
";

/// Leaves the application time between any two steps.
struct Slow;

impl Listener for Slow {
    fn tell(&self, _event: &Event) {
        std::thread::sleep(Duration::from_millis(30));
    }
}

async fn executor(database: &Database<'_>) -> (Executor, watch::Sender<Interrupt>) {
    let (keep, interrupts) = watch::channel(Interrupt::None);
    let executor = Executor::open(&database.settings(), Arc::new(Slow), interrupts).await;
    (executor.unwrap(), keep)
}

/// Writes until it is told to stop; gives the rows that it was acknowledged, or the first refusal.
async fn write(
    client: tokio_postgres::Client,
    stopped: watch::Receiver<bool>,
) -> Result<BTreeMap<i32, i32>, tokio_postgres::Error> {
    let mut rows: BTreeMap<i32, i32> = (1..=50).map(|id| (id, 0)).collect();
    let mut number = 0;
    while !*stopped.borrow() {
        number += 1;
        let id = number % 50 + 1;
        let update = format!("UPDATE source SET count = count + 1 WHERE id = {id}");
        client.batch_execute(&update).await?;
        rows.entry(id).and_modify(|count| *count += 1);
        let insert = format!("INSERT INTO source VALUES ({}, 1)", 1_000 + number);
        client.batch_execute(&insert).await?;
        rows.insert(1_000 + number, 1);
        if number % 3 == 0 {
            let delete = format!("DELETE FROM source WHERE id = {}", 999 + number);
            client.batch_execute(&delete).await?;
            rows.remove(&(999 + number));
        }
    }
    Ok(rows)
}

async fn rows(database: &Database<'_>, table: &str) -> BTreeMap<i32, i32> {
    let sql = format!("SELECT id, count FROM {table}");
    let rows = database.admin.query(&sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn triggers_never_call_what_is_not_there() {
    let server = TestServer::start(&[]);
    for back in [true, false] {
        let database = Database::create(&server, TABLES).await;
        let plan = database.planned(SIBLINGS).await;
        let (stop, stopped) = watch::channel(false);
        let writer = tokio::spawn(write(database.session().await, stopped));
        let (applying, _keep) = executor(&database).await;
        Box::pin(applying.apply(&plan, None, Phase::Cutover))
            .await
            .unwrap();
        let run = database.run(&plan).await.unwrap();
        let (ending, _keep) = executor(&database).await;
        if back {
            Box::pin(ending.rollback(&run, Loss::Refused)).await.unwrap();
        } else {
            stop.send_replace(true);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let expected = rows(&database, "source").await;
            assert_eq!(rows(&database, "one").await, expected);
            assert_eq!(rows(&database, "other").await, expected);
            Box::pin(ending.apply(&run.plan, Some(&run), Phase::Contract))
                .await
                .unwrap();
        }
        stop.send_replace(true);
        let acknowledged = writer.await.unwrap();
        let acknowledged = acknowledged.unwrap_or_else(|error| panic!("a write was refused: {error:?}"));
        assert!(acknowledged.len() > 60, "{} rows only", acknowledged.len());
        assert_eq!(rows(&database, "source").await, acknowledged);
        assert_eq!(database.leftovers().await, Vec::<String>::new());
        database.drop().await;
    }
}

/// The triggers read the keys of new rows by the names that the columns have.
#[tokio::test(flavor = "multi_thread")]
async fn key_columns_are_not_renamed_under_a_mirror() {
    let server = TestServer::start(&[]);
    let database = few(&server, "").await;
    let plan = database.planned(PLAN).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    for (table, column, allowed) in [
        ("customer_portfolios", "portfolio_id", false),
        ("customer_portfolios", "status", true),
        ("lth.customer_strategies", "portfolio_id", false),
        ("lth.customer_strategies", "live", true),
    ] {
        let rename = format!(
            "name: q\nchanges:\n  - rename_column: {{table: {table}, column: {column}, to: newer, compatibility_view: false}}\n"
        );
        match database.plan(&rename).await {
            Ok(_) => assert!(allowed, "{table}.{column} may be renamed"),
            Err(found) => {
                assert!(!allowed, "{table}.{column}: {found:?}");
                assert_eq!(found[0].code, "mirrored_key", "{found:?}");
            }
        }
    }
    database.apply(&plan, Phase::Contract).await.unwrap();
    let rename = "name: q\nchanges:\n  - rename_column: {table: customer_portfolios, column: portfolio_id, to: newer}\n";
    database.planned(rename).await;
    database.drop().await;
}

/// Triggers of the target that are fired before its row is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_target_does_not_take_is_refused_at_once() {
    let server = TestServer::start(&[]);
    let gate = "
        CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN IF NEW.title = ''ghost'' THEN RETURN NULL; END IF; NEW.key := abs(NEW.key); RETURN NEW; END';
        CREATE TRIGGER gate BEFORE INSERT ON new FOR EACH ROW EXECUTE FUNCTION gate();";
    let database = one_way::synced(&server, gate, one_way::PLAN).await;
    let run = database
        .planned(&one_way::PLAN.replace("name: p", "name: q"))
        .await;
    let mut hazards = run.steps.iter().flat_map(|step| &step.hazards);
    assert!(
        hazards.any(|it| it.code == "rows_may_be_left_out" && it.message.starts_with("gate can")),
        "{:?}",
        run.steps
    );
    // Without a bound it would go on until somebody stops it.
    let patience = "SET statement_timeout = '20s'; INSERT INTO old VALUES (-700, 'seven hundred')";
    database.admin.batch_execute(patience).await.unwrap();
    for refused in [
        "INSERT INTO old VALUES (50, 'ghost')",
        "UPDATE old SET note = 'x' WHERE id = -700",
    ] {
        let error = database.admin.batch_execute(refused).await.unwrap_err();
        let code = error.code().map(|code| code.code());
        assert_eq!(code, Some("27000"), "{refused}: {error:?}");
    }
    let ghosts = "SELECT count(*) FROM old WHERE id = 50 OR note = 'x'";
    assert_eq!(crate::backfill::number(&database, ghosts).await, 0);
    database.drop().await;
}
