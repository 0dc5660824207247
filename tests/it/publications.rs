//! A subscriber beside a column that changes its type: it goes on, and has every row in the end.

use crate::harness::{Database, TestServer, until};
use pgmorph::plan::Phase;
use tokio_postgres::Client;

const ORDERS: &str = "CREATE TABLE orders (id integer PRIMARY KEY, version integer NOT NULL, note text);
    CREATE TABLE lines (id integer PRIMARY KEY, version integer NOT NULL, note text);";

const PUBLISHED: &str = "CREATE PUBLICATION whole FOR TABLE orders;
    CREATE PUBLICATION listed FOR TABLE lines (id, version) WHERE (id > 0);
    INSERT INTO orders SELECT i, i, 'note' FROM generate_series(1, 300) AS i;
    INSERT INTO lines SELECT * FROM orders;";

const PLAN: &str = "
name: p
settings: {small_table: 0}
changes:
  - widen_column: {table: orders, column: version, type: bigint}
  - widen_column: {table: lines, column: id, type: bigint}
";

/// Subscribes to the other database of the same server, which takes a slot that is there already.
async fn subscriber(of: &Database<'_>) -> Client {
    let name = of.server.next_database();
    of.admin
        .batch_execute(&format!("CREATE DATABASE {name}"))
        .await
        .unwrap();
    let slot = "SELECT pg_create_logical_replication_slot('s', 'pgoutput')";
    of.admin.batch_execute(slot).await.unwrap();
    let client = of.server.connect(&name).await;
    let url = of.server.url(&of.name, "postgres");
    let subscribe = format!(
        "CREATE SUBSCRIPTION s CONNECTION '{url}' PUBLICATION whole, listed \
         WITH (create_slot = false, slot_name = 's')"
    );
    client.batch_execute(ORDERS).await.unwrap();
    client.batch_execute(&subscribe).await.unwrap();
    client
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

const ROWS: &str =
    "SELECT concat((SELECT string_agg(concat_ws(',', id, version, note), ';' ORDER BY id) FROM orders),
    '/', (SELECT string_agg(concat_ws(',', id, version), ';' ORDER BY id) FROM lines))";

/// What is written from now on arrives, and all that was before.
async fn goes_on(publisher: &Database<'_>, subscriber: &Client, n: i64) {
    let write = format!(
        "INSERT INTO orders (id, version, note) VALUES ({n}, 1, 'new');
         UPDATE orders SET version = version + 1 WHERE id % 7 = 0; DELETE FROM orders WHERE id = {n} - 1000;
         INSERT INTO lines (id, version) VALUES ({n}, 1); UPDATE lines SET version = version + 1 WHERE id % 7 = 0"
    );
    publisher.admin.batch_execute(&write).await.unwrap();
    let rows = text(&publisher.admin, ROWS).await;
    until("the subscriber has the rows", async || {
        text(subscriber, ROWS).await == rows
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_goes_on_through_all_phases_and_back() {
    let server = TestServer::start(&[("wal_level", "logical")]);
    if server.major() < 15 {
        return;
    }
    let database = Database::create(&server, &format!("{ORDERS}{PUBLISHED}")).await;
    let plan = database.planned(PLAN).await;
    let subscriber = subscriber(&database).await;
    goes_on(&database, &subscriber, 1_001).await;
    for phase in [Phase::Expand, Phase::Validate, Phase::Cutover] {
        database.apply(&plan, phase).await.unwrap();
        goes_on(&database, &subscriber, 2_000 + phase as i64).await;
    }
    database.rollback(&plan).await.unwrap();
    goes_on(&database, &subscriber, 3_001).await;
    let lists = "SELECT string_agg(concat(prrelid::regclass, ' ', prattrs), ', ' ORDER BY prrelid) FROM pg_publication_rel";
    assert_eq!(text(&database.admin, lists).await, "orders , lines 1 2");

    database.apply(&plan, Phase::Cutover).await.unwrap();
    let widen = "ALTER TABLE orders ALTER version TYPE bigint; ALTER TABLE lines ALTER id TYPE bigint";
    subscriber.batch_execute(widen).await.unwrap();
    goes_on(&database, &subscriber, 4_001).await;
    let large = "UPDATE orders SET version = 5000000000 WHERE id = 7; UPDATE lines SET id = id + 5000000000 WHERE id = 7";
    database.admin.batch_execute(large).await.unwrap();
    database.apply(&plan, Phase::Contract).await.unwrap();
    goes_on(&database, &subscriber, 5_001).await;

    let differences = database.differences(&plan.after, &plan.before).await;
    assert!(differences.is_empty(), "{differences:?}");
    let lose = "ALTER PUBLICATION listed DROP TABLE lines";
    database.admin.batch_execute(lose).await.unwrap();
    let differences = database.differences(&plan.after, &plan.before).await;
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert!(
        format!("{differences:?}").contains("publication listed"),
        "{differences:?}"
    );
    let end =
        "ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s";
    subscriber.batch_execute(end).await.unwrap();
}
