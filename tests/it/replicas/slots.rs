//! Subscribers: what a plan says about them, what a backfill does for them, and that they come through.

use crate::backfill::{UNFILLED, database, number, says};
use crate::harness::{Database, TestServer, pgmorph, until};
use pgmorph::plan::{ExecutionPlan, Phase};
use tempfile::TempDir;

fn hazards(plan: &ExecutionPlan, code: &str) -> Vec<String> {
    let hazards = plan.steps.iter().flat_map(|step| &step.hazards);
    let found = hazards.filter(|hazard| hazard.code == code);
    found.map(|hazard| hazard.message.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logical_slot_that_nobody_reads_keeps_wal_and_holds_the_backfill_up() {
    let server = TestServer::start(&[("wal_level", "logical")]);
    let database = database(&server, 20_000).await;
    let setup = "CREATE PUBLICATION feed FOR TABLE orders; \
                 SELECT pg_create_logical_replication_slot('feed_1', 'pgoutput')";
    for statement in setup.split("; ") {
        database.admin.batch_execute(statement).await.unwrap();
    }
    let source = "name: p\nsettings: {small_table: 0, wal_retained: 64kB}\nchanges:\n  \
                  - widen_column: {table: orders, column: version, type: bigint}\n";
    let plan = database.planned(source).await;
    let told = hazards(&plan, "not_replicated");
    assert_eq!(told.len(), 2, "{told:?}");
    let before = "DDL is not replicated: public.orders is published by feed, and the database has the logical slot feed_1 \
                  (nobody reads it now); before this step";
    assert!(told[0].starts_with(before), "{told:?}");
    assert!(told[1].contains("; after this step"), "{told:?}");
    let release = async {
        until("it stands aside", async || {
            says(&database, "replication slot feed_1 keeps WAL of") && says(&database, "(wal_retained)")
        })
        .await;
        let left = number(&database, UNFILLED).await;
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        assert_eq!(number(&database, UNFILLED).await, left);
        assert!(left > 0, "it was over before it knew");
        let sql = "SELECT pg_drop_replication_slot('feed_1')";
        database.admin.query(sql, &[]).await.unwrap();
    };
    let (filled, ()) = tokio::join!(database.apply(&plan, Phase::Backfill), release);
    filled.unwrap();
    assert_eq!(number(&database, UNFILLED).await, 0);
}

const TABLE: &str = "CREATE TABLE orders (id integer PRIMARY KEY, version integer NOT NULL)";

async fn rows(database: &Database<'_>, sql: &str) -> i64 {
    database
        .admin
        .query_one(sql, &[])
        .await
        .map_or(-1, |row| row.get(0))
}

/// The subscriber has the new column first, as the plan says, and the ledger's tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_of_all_tables_comes_through() {
    let server = TestServer::start(&[("wal_level", "logical")]);
    let far = TestServer::start(&[("wal_level", "logical")]);
    let database = Database::create(&server, TABLE).await;
    let copy = Database::create(&far, TABLE).await;
    database
        .admin
        .batch_execute("CREATE PUBLICATION everything FOR ALL TABLES")
        .await
        .unwrap();
    let subscribe = format!(
        "CREATE SUBSCRIPTION feed CONNECTION 'host={} port=5432 user=postgres dbname={}' PUBLICATION everything",
        server.socket_dir().display(),
        database.name
    );
    copy.admin.batch_execute(&subscribe).await.unwrap();
    let follows = async |n: i64| {
        until("the subscriber follows", async || {
            rows(&copy, "SELECT count(*) FROM orders").await == n
        })
        .await;
    };
    database
        .admin
        .batch_execute("INSERT INTO orders VALUES (1, 1)")
        .await
        .unwrap();
    follows(1).await;

    let source =
        "name: p\nchanges:\n  - add_column: {table: orders, column: note, type: text, default: \"'x'\"}\n";
    let plan = database.planned(source).await;
    let [told] = hazards(&plan, "not_replicated").try_into().unwrap();
    assert!(
        told.contains("the logical slot feed (read now); before this step"),
        "{told}"
    );
    let [told] = hazards(&plan, "ledger_published").try_into().unwrap();
    assert!(told.contains("pg_dump --schema-only --schema pgmorph"), "{told}");
    let column = "ALTER TABLE orders ADD note text DEFAULT 'x'";
    copy.admin.batch_execute(column).await.unwrap();

    let directory = TempDir::new().unwrap();
    let path = directory.path().join("plan.yaml").display().to_string();
    std::fs::write(&path, source).unwrap();
    let url = server.url(&database.name, "postgres");
    pgmorph(&url, &["apply", &path, "--yes"]).await.expect(0);
    let mut dump = server.command("pg_dump");
    dump.args(["--schema-only", "--schema", "pgmorph", "-h"])
        .arg(server.socket_dir())
        .args(["-U", "postgres", &database.name]);
    let dumped = tokio::task::block_in_place(|| dump.output().unwrap());
    assert!(dumped.status.success());
    let text = String::from_utf8(dumped.stdout).unwrap();
    // Meta-commands of psql, which newer releases write.
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('\\'))
        .fold(String::new(), |all, line| all + line + "\n");
    copy.session().await.batch_execute(&text).await.unwrap();
    database
        .admin
        .batch_execute("INSERT INTO orders VALUES (2, 1, 'y')")
        .await
        .unwrap();
    follows(2).await;
    assert_eq!(
        rows(&copy, "SELECT count(*) FROM orders WHERE note = 'y'").await,
        1
    );
    copy.admin.batch_execute("DROP SUBSCRIPTION feed").await.unwrap();
    assert!(plan.steps.iter().all(|step| step.phase == Phase::Expand));
}
