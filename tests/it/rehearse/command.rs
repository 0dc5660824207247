//! The command: where the schema comes from, what it prints, and its exit codes.

use super::everything::{created, site};
use crate::harness::{Database, TestServer, pgmorph};
use pgmorph::change_plan;
use pgmorph::plan::LockMode;
use pgmorph::rehearse::{Refused, Rehearsal, Script};
use std::path::Path;

/// The environment names a server that nobody may ask.
const UNREACHABLE: &str = "postgresql://app@127.0.0.1:1/app";

const SCHEMA: &str = "CREATE TYPE state AS ENUM ('open', 'done');\n\
    CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL UNIQUE);\n\
    CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer bigint NOT NULL REFERENCES customers,\n\
      state state NOT NULL DEFAULT 'open', number varchar(10), amount numeric(12,2) CHECK (amount >= 10 AND amount < 500),\n\
      kind text NOT NULL CHECK (kind IN ('web', 'shop')));\n\
    CREATE TABLE impossible (a integer NOT NULL CHECK (a > 5 AND a < 3));\n\
    CREATE VIEW open_orders AS SELECT id, number FROM orders WHERE state = 'open';\n";

const PLAN: &str = "name: numbers\nchanges:\n  - create_index: {name: orders_number_idx, table: orders, columns: [number]}\n  \
    - add_check: {table: orders, name: orders_number_check, expression: length(number) > 0}\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schema.sql"), SCHEMA).unwrap();
    std::fs::write(folder.path().join("plan.yaml"), PLAN).unwrap();
    folder
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_is_enough_and_no_database_is_asked() {
    let folder = folder();
    let (plan, schema) = (
        path(folder.path(), "plan.yaml"),
        path(folder.path(), "schema.sql"),
    );
    let arguments = [
        "rehearse",
        plan.as_str(),
        "--schema",
        schema.as_str(),
        "--rows",
        "300",
    ];
    let ended = pgmorph(UNREACHABLE, &[&arguments[..], &["--format", "json"]].concat()).await;
    let json = ended.expect(0).json();
    let shown = &json["rehearsal"];
    assert_eq!(shown["agrees"], true, "{shown:#}");
    let build = &shown["steps"][0];
    assert_eq!(build["seen"]["locks"][0]["relation"], "public.orders");
    assert_eq!(build["seen"]["locks"][0]["mode"], "SHARE_UPDATE_EXCLUSIVE");
    assert_eq!(build["statements"][0]["evidence"], "watched");
    let rows = shown["rows"].as_array().unwrap();
    let of = |table: &str| rows.iter().find(|it| it["table"] == table).unwrap();
    assert_eq!(of("public.customers")["rows"], 300);
    assert_eq!(of("public.orders")["rows"], 300);
    assert_eq!(of("public.impossible")["rows"], 0);
    assert!(of("public.impossible")["why_empty"].is_string());
    assert!(!shown["rollback"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_a_database_or_of_its_snapshot() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, SCHEMA).await;
    let url = server.url(&database.name, "postgres");
    let folder = folder();
    let plan = path(folder.path(), "plan.yaml");
    let arguments = ["rehearse", plan.as_str(), "--rows", "50", "--format"];
    // pg_dump must be as new as the server.
    let bindir = server.bindir().display().to_string();
    let of_server = ["markdown", "--pg-bindir", bindir.as_str()];
    let dumped = pgmorph(&url, &[&arguments[..], &of_server].concat())
        .await
        .expect(0);
    for part in [
        "# Rehearsal of `numbers`",
        "## The way back",
        "SHARE UPDATE EXCLUSIVE on `public.orders`",
    ] {
        assert!(dumped.stdout.contains(part), "{part}\n{}", dumped.stdout);
    }
    let catalog = path(folder.path(), "catalog.json");
    pgmorph(&url, &["snapshot", "-o", catalog.as_str()])
        .await
        .expect(0);
    database.drop().await;
    let offline = [&arguments[..], &["json", "--catalog", catalog.as_str()]].concat();
    let json = pgmorph(UNREACHABLE, &offline).await.expect(0).json();
    assert_eq!(json["rehearsal"]["agrees"], true, "{json:#}");
    assert_eq!(
        json["rehearsal"]["left_out"],
        serde_json::json!([]),
        "all of it can be made again"
    );
}

async fn rehearse(server: &TestServer, database: &str, script: Script<'_>) -> Rehearsal {
    match Box::pin(site(server).rehearse(database, script)).await {
        Ok(rehearsal) => rehearsal,
        Err(Refused::Plan(found)) => panic!("{found:#?}"),
        Err(Refused::Error(error)) => panic!("{error:#?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_claims_something_else_is_found_out() {
    let server = TestServer::start(&[]);
    let database = created(&server, SCHEMA).await;
    let file = change_plan::parse(PLAN).unwrap();
    let honest = rehearse(&server, &database, Script::File(&file, None)).await;
    assert!(honest.differences.is_empty(), "{:#?}", honest.differences);
    let mut falsified = honest.plan.clone();
    for step in &mut falsified.steps {
        for lock in &mut step.work.locks {
            lock.mode = match lock.mode {
                LockMode::ShareUpdateExclusive => LockMode::RowExclusive,
                _ => LockMode::ShareUpdateExclusive,
            };
        }
    }
    falsified.digest = falsified.computed_digest();
    let told = rehearse(&server, &database, Script::Saved(&falsified)).await;
    let told: Vec<String> = told.differences.iter().map(|it| it.what.to_string()).collect();
    assert_eq!(
        told,
        [
            "took SHARE UPDATE EXCLUSIVE on public.orders, where the plan claims ROW EXCLUSIVE",
            "took ACCESS EXCLUSIVE on public.orders, where the plan claims SHARE UPDATE EXCLUSIVE",
            "took SHARE UPDATE EXCLUSIVE on public.orders, where the plan claims ROW EXCLUSIVE",
        ]
    );
}
