//! Statements that leave something behind when they are cut off in the middle: what they build or drop in several
//! transactions of their own.

use super::stage::gone;
use crate::harness::{Database, TestServer, until};
use pgmorph::plan::Phase;

const SETUP: &str = "
    CREATE TABLE orders (id integer PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, 'note ' || i FROM generate_series(1, 100) AS i;
    CREATE INDEX by_note ON orders (note);";

const DROP: &str = "name: drop it\nchanges:\n  - drop_index: {name: by_note}\n";

const BUILD: &str = "name: build it\nchanges:
  - sql:
      run: CREATE INDEX CONCURRENTLY own ON orders (note)
      undo: DROP INDEX CONCURRENTLY own
      phase: expand
      expect: EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('own') AND indisvalid)
";

/// What `apply` does until this holds, which it does while somebody keeps the statement from its end.
async fn dies_when(database: &Database<'_>, plan: &pgmorph::plan::ExecutionPlan, condition: &str) {
    let holder = database.session().await;
    // Its snapshot is older than the index's, and it has read the table.
    let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders";
    holder.batch_execute(sql).await.unwrap();
    let holds = until(condition, async || {
        let sql = format!("SELECT {condition}");
        database.admin.query_one(&sql, &[]).await.unwrap().get(0)
    });
    tokio::select! {
        result = database.apply(plan, Phase::Contract) => panic!("it ended: {result:?}"),
        () = holds => {}
    }
    // The server looks now and then whether the client of a statement is still there.
    gone(database).await;
    drop(holder);
}

async fn indexes(database: &Database<'_>) -> Vec<String> {
    let sql = "SELECT indexrelid::regclass || CASE WHEN indisvalid THEN '' ELSE ' INVALID' END \
               FROM pg_index WHERE indrelid = 'orders'::regclass ORDER BY 1";
    let rows = database.admin.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_half_done_outside_a_transaction_is_undone() {
    let server = TestServer::start(&[]);

    let database = Database::create(&server, SETUP).await;
    let plan = database.planned(DROP).await;
    let half = "EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('by_note') AND NOT indisvalid)";
    dies_when(&database, &plan, half).await;
    assert_eq!(indexes(&database).await, ["by_note INVALID", "orders_pkey"]);
    database.rollback(&plan).await.unwrap();
    assert_eq!(indexes(&database).await, ["by_note", "orders_pkey"]);
    database.drop().await;

    let database = Database::create(&server, SETUP).await;
    let plan = database.planned(BUILD).await;
    let half = "EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('own') AND NOT indisvalid)";
    dies_when(&database, &plan, half).await;
    database.rollback(&plan).await.unwrap();
    assert_eq!(indexes(&database).await, ["by_note", "orders_pkey"]);
    database.drop().await;

    // The undo finds nothing where the statement was not even begun.
    let database = Database::create(&server, SETUP).await;
    let plan = database.planned(BUILD).await;
    let taken = "CREATE TABLE own ()";
    database.admin.batch_execute(taken).await.unwrap();
    let error = database.apply(&plan, Phase::Contract).await.unwrap_err();
    assert_eq!(error.sqlstate.as_deref(), Some("42P07"));
    database.admin.batch_execute("DROP TABLE own").await.unwrap();
    database.rollback(&plan).await.unwrap();
    assert_eq!(indexes(&database).await, ["by_note", "orders_pkey"]);
    database.drop().await;
}
