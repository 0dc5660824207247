//! Views over a column that changes its type: what somebody does to them meanwhile, and what materialized ones show.

use crate::harness::{Database, TestServer};
use pgmorph::plan::Phase;

const VIEWS: &str = "
CREATE TABLE orders (id integer PRIMARY KEY, version integer NOT NULL DEFAULT 0);
INSERT INTO orders SELECT i, 0 FROM generate_series(1, 500) AS i;
CREATE VIEW shown AS SELECT version, id FROM orders;
CREATE MATERIALIZED VIEW stored AS SELECT version, count(*) AS orders FROM shown GROUP BY version;
CREATE UNIQUE INDEX stored_version ON stored (version);
CREATE VIEW above AS SELECT sum(orders)::text AS orders, pg_typeof(max(version))::text AS type FROM stored;
";

const PLAN: &str = "
name: p
settings: {small_table: 0}
changes:
  - widen_column: {table: orders, column: version, type: bigint}
";

/// What is done, which fact is named, and how it is taken back.
const CHANGES: [(&str, &str, &str); 6] = [
    (
        "CREATE VIEW late AS SELECT orders FROM stored",
        "what depends on it",
        "DROP VIEW late",
    ),
    (
        "GRANT SELECT ON stored TO PUBLIC",
        "grants",
        "REVOKE SELECT ON stored FROM PUBLIC",
    ),
    (
        "GRANT SELECT (id) ON shown TO PUBLIC",
        "columns",
        "REVOKE SELECT (id) ON shown FROM PUBLIC",
    ),
    (
        "COMMENT ON VIEW above IS 'late'",
        "comment",
        "COMMENT ON VIEW above IS NULL",
    ),
    (
        "CREATE INDEX late ON stored (orders)",
        "indexes",
        "DROP INDEX late",
    ),
    (
        "CREATE RULE late AS ON DELETE TO shown DO INSTEAD NOTHING",
        "rules",
        "DROP RULE late ON shown",
    ),
];

async fn shown(database: &Database<'_>) -> (String, String) {
    let row = database
        .admin
        .query_one("SELECT orders, type FROM above", &[])
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

async fn add_orders(database: &Database<'_>, from: i32) {
    let sql = "INSERT INTO orders (id) SELECT generate_series($1, $1 + 99)";
    database.admin.execute(sql, &[&from]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_changed_meanwhile_stops_both_swaps_and_data_is_fresh() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, VIEWS).await;
    let plan = database.planned(PLAN).await;
    database.apply(&plan, Phase::Validate).await.unwrap();
    add_orders(&database, 1_000).await;
    let old = |orders: &str| (orders.to_owned(), "integer".to_owned());
    for (change, named, removal) in CHANGES {
        database.admin.batch_execute(change).await.unwrap();
        let error = database.apply(&plan, Phase::Cutover).await.unwrap_err();
        assert_eq!(error.sqlstate.as_deref(), Some("55000"), "{change}: {error:?}");
        assert!(format!("{error:?}").contains(named), "{change}: {error:?}");
        database.admin.batch_execute(removal).await.unwrap();
        assert_eq!(shown(&database).await, old("500"));
    }
    database.apply(&plan, Phase::Cutover).await.unwrap();
    assert_eq!(shown(&database).await, ("600".to_owned(), "bigint".to_owned()));
    add_orders(&database, 2_000).await;
    for (change, named, removal) in CHANGES {
        database.admin.batch_execute(change).await.unwrap();
        let error = database.rollback(&plan).await.unwrap_err();
        assert_eq!(error.sqlstate.as_deref(), Some("55000"), "{change}: {error:?}");
        assert!(format!("{error:?}").contains(named), "{change}: {error:?}");
        database.admin.batch_execute(removal).await.unwrap();
    }
    database.rollback(&plan).await.unwrap();
    assert_eq!(shown(&database).await, old("700"));
    assert_eq!(database.leftovers().await, Vec::<String>::new());
    database.drop().await;
}
