//! The controls: a trigger that skips rows must be found out, by the program while it can, else by the account. What
//! was written past a trigger that works is made up for.

use super::apply;
use super::compare;
use super::model::{Case, Cell, Column, Table};
use super::values::Type;
use super::writers::Traffic;
use crate::harness::{Chance, Database, TestServer, schema_dump};
use pgmorph::error::ErrorKind;
use pgmorph::event::Event;
use pgmorph::plan::{ExecutionPlan, Phase};
use pgmorph::sql::{QualifiedName, literal};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SETUP: &str = "
CREATE TABLE orders (tag bigint PRIMARY KEY, amount integer);
INSERT INTO orders SELECT i, 1 + i % 100 FROM generate_series(1, 600) AS i;
";

const PLAN: &str = "
name: twin
settings: {small_table: 0}
changes:
  - widen_column: {table: orders, column: amount, type: bigint}
";

/// Enough writes that some of them meet every other row.
const STATEMENTS: u64 = 100;

fn case() -> Case {
    let mut tag = Column::new("tag".into(), Type::BigInt);
    (tag.not_null, tag.unique) = (true, true);
    let cells = |i: i64| vec![Cell::Known(i.to_string()), Cell::Known((1 + i % 100).to_string())];
    Case {
        tables: vec![Table {
            name: QualifiedName::new("public", "orders"),
            columns: vec![tag, Column::new("amount".into(), Type::Integer)],
            rows: (1..=600).map(|i| (i, cells(i))).collect::<BTreeMap<_, _>>(),
            partitioned: false,
            key: vec![0],
            frozen: BTreeSet::new(),
            primary: true,
            obstacles: Vec::new(),
            violated: None,
        }],
        foreign_keys: Vec::new(),
        table: 0,
        column: 1,
        members: Vec::new(),
        wide: Type::BigInt,
        setup: SETUP.into(),
        plan: PLAN.into(),
        alter: "ALTER TABLE orders ALTER COLUMN amount TYPE bigint".into(),
        obstacles: Vec::new(),
    }
}

/// Makes the trigger that keeps the columns equal leave every other row as it is, even when that is filled again.
async fn sabotage(database: &Database<'_>) {
    let sql = "SELECT p.oid::regproc::text, p.prosrc FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid \
               WHERE t.tgrelid = 'orders'::regclass AND p.pronamespace = 'pgmorph'::regnamespace";
    let row = database.admin.query_one(sql, &[]).await.unwrap();
    let (name, body): (String, String) = (row.get(0), row.get(1));
    let stale = "BEGIN IF NEW.tag % 2 = 0 THEN IF TG_OP = 'UPDATE' THEN \
                 NEW.\"~pgmorph_amount_new\" := OLD.\"~pgmorph_amount_new\"; END IF; RETURN NEW; END IF; ";
    let broken = body.replacen("BEGIN ", stale, 1);
    assert_ne!(body, broken, "nothing to break");
    let sql = format!(
        "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS {}",
        literal(&broken)
    );
    database.admin.batch_execute(&sql).await.unwrap();
}

/// Through this phase with a whole trigger, and on with a broken one.
async fn broken_after(database: &Database<'_>, case: &Arc<Case>, through: Phase) -> (Traffic, ExecutionPlan) {
    let plan = database.planned(&case.plan).await;
    let traffic = Traffic::start(database, case, &mut Chance(1)).await;
    traffic.go_on(STATEMENTS).await;
    apply(database, &plan, through).await.unwrap();
    sabotage(database).await;
    (traffic, plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_finds_a_broken_trigger_before_the_cutover() {
    let server = TestServer::start(&[]);
    let case = Arc::new(case());
    let database = Database::create(&server, SETUP).await;
    let twin = Database::create(&server, SETUP).await;
    let before = schema_dump(&database).await;
    let (traffic, plan) = broken_after(&database, &case, Phase::Expand).await;
    traffic.go_on(STATEMENTS).await;
    apply(&database, &plan, Phase::Backfill).await.unwrap();
    traffic.go_on(STATEMENTS).await;
    let error = match database.apply(&plan, Phase::Contract).await {
        Err(error) => error,
        Ok(outcome) => panic!("nobody noticed: {outcome:?}"),
    };
    assert_eq!(error.kind, ErrorKind::StepFailed, "{error:#?}");
    let told = format!("{} {}", error.message, error.details.join(" "));
    assert!(
        told.contains("equals amount in every row") && told.contains("tag"),
        "{error:#?}"
    );
    database.rollback(&plan).await.unwrap();
    let account = traffic.stop().await;
    assert_eq!(account.complaints, [""; 0]);
    assert_eq!(schema_dump(&database).await, before);
    compare::rows(&database, &twin, &case, &account).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_finds_a_trigger_that_broke_after_the_comparison() {
    let server = TestServer::start(&[]);
    let case = Arc::new(case());
    let database = Database::create(&server, SETUP).await;
    let twin = Database::create(&server, SETUP).await;
    twin.admin.batch_execute(&case.alter).await.unwrap();
    let (traffic, plan) = broken_after(&database, &case, Phase::Validate).await;
    traffic.go_on(STATEMENTS).await;
    let account = traffic.stop().await;
    assert_eq!(account.complaints, [""; 0]);
    // The last comparison is over, so that only the account is left to notice.
    apply(&database, &plan, Phase::Contract).await.unwrap();
    let found = compare::rows(&database, &twin, &case, &account).await;
    let told = found.expect_err("the account balances although rows are stale");
    assert!(told.contains("stale in public.orders"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_past_the_triggers_is_filled_again() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, SETUP).await;
    let plan = database.planned(PLAN).await;
    apply(&database, &plan, Phase::Backfill).await.unwrap();
    let trigger = "SELECT quote_ident(tgname)::text FROM pg_trigger WHERE tgrelid = 'orders'::regclass AND NOT tgisinternal";
    let trigger: String = database.admin.query_one(trigger, &[]).await.unwrap().get(0);
    let past = format!(
        "BEGIN; ALTER TABLE orders DISABLE TRIGGER {trigger}; \
         UPDATE orders SET amount = -amount WHERE tag <= 300; INSERT INTO orders VALUES (1000, 5); \
         ALTER TABLE orders ENABLE ALWAYS TRIGGER {trigger}; COMMIT"
    );
    database.admin.batch_execute(&past).await.unwrap();
    apply(&database, &plan, Phase::Contract).await.unwrap();
    let told = |event: &Event| matches!(event, Event::Noted { what, .. } if what.starts_with("not so for 10 rows (the first ones): {\"tag\":"));
    assert!(database.recorder.any(told));
    let row = "SELECT sum(amount)::int8, count(*), pg_typeof(min(amount))::text FROM orders";
    let row = database.admin.query_one(row, &[]).await.unwrap();
    // The first half of 6 times 1 to 100 turns negative.
    assert_eq!((row.get(0), row.get(1), row.get(2)), (5_i64, 601_i64, "bigint"));
}
