//! Catalogs that are large in one place: many columns, many indexes, many partitions, views on views.

use crate::harness::{Database, TestServer};
use pgmorph::plan::Phase;

async fn there_and_back(database: &Database<'_>, source: &str) {
    let plan = database.planned(source).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    database.rollback(&plan).await.unwrap();
    assert_eq!(
        database.differences(&plan.before, &plan.after).await,
        Vec::<String>::new()
    );
    assert_eq!(database.leftovers().await, Vec::<String>::new());
    let plan = database.planned(source).await;
    database.apply(&plan, Phase::Contract).await.unwrap();
    assert_eq!(
        database.differences(&plan.after, &plan.before).await,
        Vec::<String>::new()
    );
    assert_eq!(database.leftovers().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_1500_columns_and_300_indexes() {
    let server = TestServer::start(&[("max_locks_per_transaction", "1024")]);
    let columns: Vec<String> = (0..1_500).map(|number| format!("c{number} int")).collect();
    let indexes: String = (0..300)
        .map(|number| format!("CREATE INDEX ON wide (c{number}, c1499);"))
        .collect();
    let setup = format!(
        "CREATE TABLE wide (id bigint PRIMARY KEY, {}); {indexes}",
        columns.join(", ")
    );
    let database = Database::create(&server, &setup).await;
    let source = "name: p\nsettings: {small_table: 0}\nchanges:
  - widen_column: {table: wide, column: c7, type: bigint}
  - set_default: {table: wide, column: c1400, default: \"1\"}
";
    there_and_back(&database, source).await;
}

/// All 1,600 that PostgreSQL allows: there is no room for a shadow column, which is no reason to fall over.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_all_columns_there_can_be() {
    let server = TestServer::start(&[]);
    let columns: Vec<String> = (0..1_600).map(|number| format!("c{number} int")).collect();
    let setup = format!(
        "CREATE TABLE full_up ({}); INSERT INTO full_up DEFAULT VALUES; ANALYZE full_up",
        columns.join(", ")
    );
    let database = Database::create(&server, &setup).await;
    let change = |text: &str| {
        let name = text.split(':').next().unwrap();
        format!("name: {name}\nsettings: {{small_table: 0}}\nchanges:\n  - {text}\n")
    };
    for addition in [
        "widen_column: {table: full_up, column: c7, type: bigint}",
        "add_column: {table: full_up, column: more, type: int}",
    ] {
        let refused = match database.plan(&change(addition)).await {
            Err(found) => format!("{found:?}"),
            Ok(plan) => format!("{:?}", database.apply(&plan, Phase::Cutover).await.unwrap_err()),
        };
        assert!(refused.contains("1600 columns"), "{refused}");
    }
    there_and_back(
        &database,
        &change("set_default: {table: full_up, column: c7, default: \"1\"}"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_hundreds_of_partitions() {
    let server = TestServer::start(&[("max_locks_per_transaction", "4096"), ("fsync", "off")]);
    let setup = "CREATE TABLE parted (id bigint NOT NULL, a int NOT NULL) PARTITION BY RANGE (id);
        DO $$ BEGIN FOR i IN 0 .. 399 LOOP
          EXECUTE format('CREATE TABLE part_%s PARTITION OF parted FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
        END LOOP; END $$";
    let database = Database::create(&server, setup).await;
    let plan = database
        .planned("name: p\nchanges:\n  - create_index: {table: parted, columns: [a]}\n")
        .await;
    let names: std::collections::BTreeSet<_> = plan
        .after
        .tables
        .values()
        .flat_map(|table| table.indexes.keys())
        .collect();
    assert_eq!(
        names.len(),
        401,
        "every partition has one, with a name of its own"
    );
}

fn chain(views: usize) -> String {
    let view = |number: usize| {
        let below = if number == 1 {
            "base".to_owned()
        } else {
            format!("v{:03}", number - 1)
        };
        format!("CREATE VIEW v{number:03} AS SELECT id, a FROM {below};")
    };
    let views: String = (1..=views).map(view).collect();
    format!("CREATE TABLE base (id bigint PRIMARY KEY, a int); INSERT INTO base VALUES (1, 1); {views}")
}

/// Two hundred are planned; fewer live a whole life, for a swap of all of them takes longer than a test should.
#[tokio::test(flavor = "multi_thread")]
async fn views_on_views() {
    let server = TestServer::start(&[("max_locks_per_transaction", "1024")]);
    let source = "name: p\nsettings: {small_table: 0}\nchanges:\n  - widen_column: {table: base, column: a, type: bigint}\n";
    let database = Database::create(&server, &chain(200)).await;
    let plan = database.planned(source).await;
    assert!(serde_json::to_string(&plan).unwrap().contains("v200"));
    let database = Database::create(&server, &chain(30)).await;
    there_and_back(&database, source).await;
}
