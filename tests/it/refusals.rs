//! Data, sessions and people in the way of a plan: what is said, what is left untouched, and that the same call goes
//! on once they are gone.

use crate::harness::{Database, TestServer, Traffic, Workload, until};
use pgmorph::error::{Error, ErrorKind};
use pgmorph::event::Event;
use pgmorph::executor::{Executor, Interrupt};
use pgmorph::plan::{ExecutionPlan, Phase};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_postgres::Client;

const ORDERS: &str = "
CREATE TABLE customers (id integer PRIMARY KEY);
INSERT INTO customers SELECT generate_series(1, 50);
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer, version integer NOT NULL DEFAULT 0, note text);
INSERT INTO orders SELECT i, 1 + i % 50, 0, 'note ' || i FROM generate_series(1, 2000) AS i;
";

fn plan_file(changes: &str) -> String {
    format!("name: p\nchanges:\n{changes}\n")
}

const WIDEN: &str = "
name: p
settings: {small_table: 0}
changes:
  - widen_column: {table: orders, column: version, type: bigint}
";

/// Makes a batch of the backfill wait.
const HOLD_ROW: &str = "SELECT FROM orders WHERE id = 1 FOR NO KEY UPDATE";

async fn execute(client: &Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        panic!("{sql}: {:?}", error.as_db_error());
    }
}

/// Applies and expects to be stopped.
async fn stopped(database: &Database<'_>, plan: &ExecutionPlan, kind: ErrorKind) -> Error {
    let error = match database.apply(plan, Phase::Contract).await {
        Err(error) => error,
        Ok(outcome) => panic!("nothing stopped it: {outcome:?}"),
    };
    assert_eq!(error.kind, kind, "{error:#?}");
    error
}

async fn finishes(database: &Database<'_>, plan: &ExecutionPlan) {
    match database.apply(plan, Phase::Contract).await {
        Ok(outcome) => assert!(outcome.complete),
        Err(error) => panic!("{error:#?}\n{:#?}", database.recorder.events()),
    }
    ended_well(database, plan).await;
}

async fn ended_well(database: &Database<'_>, plan: &ExecutionPlan) {
    assert_eq!(database.leftovers().await, Vec::<String>::new());
    assert_eq!(
        database.differences(&plan.after, &plan.before).await,
        Vec::<String>::new()
    );
}

fn mentions(error: &Error, text: &str) {
    let shown = format!("{} {} {:?}", error.message, error.details.join(" "), error.help);
    assert!(shown.contains(text), "{text} is not in: {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offending_rows_are_shown_and_the_same_call_goes_on_after_repair() {
    let server = TestServer::start(&[]);
    // A change, what breaks it, what is shown, what repairs it.
    let cases = [
        (
            "  - create_index: {table: orders, columns: [note], unique: true}",
            "UPDATE orders SET note = 'twice' WHERE id IN (3, 4)",
            "twice",
            "UPDATE orders SET note = 'once' WHERE id = 3",
            "23505",
        ),
        (
            "  - add_unique: {table: orders, columns: [customer_id, note]}",
            "UPDATE orders SET note = 'twice', customer_id = 7 WHERE id IN (3, 4)",
            "twice",
            "DELETE FROM orders WHERE id = 3",
            "23505",
        ),
        (
            "  - add_primary_key: {table: keyless, columns: [a]}",
            "CREATE TABLE keyless (a integer, id integer); INSERT INTO keyless VALUES (8, 1), (8, 2), (9, 3)",
            "8",
            "DELETE FROM keyless WHERE id = 2",
            "23505",
        ),
        (
            "  - add_check: {table: orders, name: old enough, expression: id > 10 OR note IS NULL}",
            "DELETE FROM orders WHERE id < 9",
            "9",
            "UPDATE orders SET note = NULL WHERE id <= 10",
            "23514",
        ),
        (
            "  - set_not_null: {table: orders, column: note}",
            "UPDATE orders SET note = NULL WHERE id = 77",
            "77",
            "UPDATE orders SET note = '' WHERE note IS NULL",
            // From PostgreSQL 18 on it is the NOT NULL constraint itself that is validated.
            if server.major() < 18 { "23514" } else { "23502" },
        ),
        (
            "  - add_foreign_key: {table: orders, columns: [customer_id], references: {table: customers}}",
            "UPDATE orders SET customer_id = 9999 WHERE id = 78",
            "9999",
            "INSERT INTO customers VALUES (9999)",
            "23503",
        ),
    ];
    for (change, damage, shown, repair, sqlstate) in cases {
        let database = Database::create(&server, ORDERS).await;
        execute(&database.admin, damage).await;
        let plan = database.planned(&plan_file(change)).await;
        let error = stopped(&database, &plan, ErrorKind::StepFailed).await;
        assert_eq!(error.sqlstate.as_deref(), Some(sqlstate), "{change}: {error:#?}");
        mentions(&error, shown);
        assert!(error.help.is_some(), "{error:#?}");
        let invalid = database.leftovers().await;
        assert!(
            !invalid.iter().any(|found| found.starts_with("invalid index")),
            "{change}: {invalid:?}"
        );
        execute(&database.admin, repair).await;
        finishes(&database, &plan).await;
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_made_meanwhile_is_never_touched() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    execute(
        &database.admin,
        "UPDATE orders SET note = 'twice' WHERE id IN (3, 4)",
    )
    .await;
    let source = plan_file(
        "  - create_index: {table: orders, columns: [note], unique: true}\n  - create_index: {name: second, table: orders, columns: [version]}",
    );
    let plan = database.planned(&source).await;

    // Before the run begins, any difference stops it.
    execute(&database.admin, "CREATE INDEX second ON orders (customer_id)").await;
    let error = stopped(&database, &plan, ErrorKind::Precondition).await;
    mentions(&error, "second");
    assert!(database.run(&plan).await.is_none());
    execute(&database.admin, "DROP INDEX second").await;

    // In the middle of it, the step that finds its name taken does.
    stopped(&database, &plan, ErrorKind::StepFailed).await;
    let other = "CREATE INDEX second ON orders (customer_id); DELETE FROM orders WHERE id = 3";
    execute(&database.admin, other).await;
    let error = stopped(&database, &plan, ErrorKind::StepFailed).await;
    mentions(&error, "another definition");
    let sql = "SELECT pg_get_indexdef('second'::regclass)";
    let definition: String = database.admin.query_one(sql, &[]).await.unwrap().get(0);
    assert!(definition.ends_with("(customer_id)"), "{definition}");
    execute(&database.admin, "DROP INDEX second").await;
    finishes(&database, &plan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preconditions_come_before_everything() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let source = "
name: p
before:
  - name: nobody is number 5
    query: SELECT id FROM orders WHERE id = 5
    expect: no_rows
changes:
  - set_default: {table: orders, column: note, default: \"''\"}
";
    let plan = database.planned(source).await;
    let error = stopped(&database, &plan, ErrorKind::Precondition).await;
    mentions(&error, "nobody is number 5");
    mentions(&error, "5");
    assert!(database.run(&plan).await.is_none());
    execute(&database.admin, "DELETE FROM orders WHERE id = 5").await;
    finishes(&database, &plan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_need_their_privileges() {
    let server = TestServer::start(&[]);
    let mut database = Database::create(&server, ORDERS).await;
    let setup =
        "CREATE ROLE clerk LOGIN; CREATE ROLE owner LOGIN; GRANT USAGE, CREATE ON SCHEMA public TO owner";
    execute(&database.admin, setup).await;
    let source = plan_file("  - create_index: {table: orders, columns: [note]}");

    database.user = "clerk".into();
    let found = database.plan(&source).await.unwrap_err();
    assert_eq!(found[0].code, "not_owner", "{found:#?}");
    assert!(found[0].help.as_deref().unwrap().contains("postgres"));

    execute(&database.admin, "ALTER TABLE orders OWNER TO owner").await;
    database.user = "owner".into();
    let plan = database.planned(&source).await;
    let error = stopped(&database, &plan, ErrorKind::Precondition).await;
    assert_eq!(
        (error.sqlstate.as_deref(), error.kind.exit_code()),
        (Some("42501"), 3)
    );
    mentions(&error, "CREATE SCHEMA pgmorph AUTHORIZATION");
    execute(&database.admin, "CREATE SCHEMA pgmorph AUTHORIZATION owner").await;
    // With that schema made for it, a role needs no right on the database, not even for a function in it.
    finishes(&database, &plan).await;
    let plan = database.planned(&WIDEN.replace("name: p", "name: q")).await;
    finishes(&database, &plan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_reads_and_a_second_runner_are_refused() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let plan = database
        .planned(&plan_file("  - create_index: {table: orders, columns: [note]}"))
        .await;
    let sql = format!(
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        database.name
    );
    execute(&database.admin, &sql).await;
    let error = stopped(&database, &plan, ErrorKind::Precondition).await;
    mentions(&error, "only reads");
    execute(&database.admin, &sql.replace("= on", "= off")).await;

    let (_keep, interrupts) = watch::channel(Interrupt::None);
    let listener = Arc::new(database.recorder.clone());
    let first = Executor::open(&database.settings(), listener, interrupts)
        .await
        .unwrap();
    let error = stopped(&database, &plan, ErrorKind::Busy).await;
    assert_eq!(error.kind.exit_code(), 7);
    mentions(&error, "pid ");
    drop(first);
    finishes(&database, &plan).await;
}

/// A session that does something in a transaction and keeps it open. Gives its process.
async fn holder(database: &Database<'_>, sql: &str) -> (Client, i32) {
    let client = database.session().await;
    execute(&client, &format!("BEGIN; {sql}")).await;
    let pid = client
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    (client, pid)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_transaction_is_waited_for_beside_the_queue() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let source = plan_file("  - set_default: {table: orders, column: note, default: \"'none'\"}");
    let plan = database.planned(&source).await;
    let workload = Workload::new(&database, &plan, None, None).await;
    let traffic = Traffic::start(&database, &workload).await;
    let (client, pid) = holder(&database, "SELECT FROM orders LIMIT 1").await;
    let recorder = database.recorder.clone();
    let release = async {
        let waits = |event: &Event| match event {
            Event::Waiting { blockers, .. } => blockers.iter().any(|blocker| blocker.pid == Some(pid)),
            _ => false,
        };
        until("the blocker is named", || async { recorder.any(waits) }).await;
        traffic.go_on(50).await;
        execute(&client, "COMMIT").await;
    };
    let ((), ()) = tokio::join!(finishes(&database, &plan), release);
    traffic.go_on(5).await;
    let balance = traffic.stop(&database).await;
    assert_eq!(balance.complaints, Vec::<String>::new());

    // With the deadline used up nothing is held, and later the same call succeeds.
    let source = "
name: impatient
settings: {lock_deadline: 1s}
changes:
  - set_default: {table: orders, column: note, default: \"'never'\"}
";
    let plan = database.planned(source).await;
    let (client, pid) = holder(&database, "SELECT FROM orders LIMIT 1").await;
    let error = stopped(&database, &plan, ErrorKind::Exhausted).await;
    assert_eq!(error.kind.exit_code(), 4);
    mentions(&error, &format!("pid {pid}"));
    let sql = "SELECT count(*) FROM pg_locks WHERE relation = 'orders'::regclass AND pid <> $1";
    let held: i64 = database.admin.query_one(sql, &[&pid]).await.unwrap().get(0);
    assert_eq!(held, 0);
    execute(&client, "COMMIT").await;
    finishes(&database, &plan).await;
}

/// Waits for a statement of ours that looks like this and is stopped by somebody, and ends its session.
async fn terminate(database: &Database<'_>, statement: &str) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
               AND application_name = 'pgmorph' AND state = 'active' AND wait_event_type = 'Lock' AND query LIKE $1";
    let pattern = format!("%{statement}%");
    until("a statement to be terminated", || async {
        !database.admin.query(sql, &[&pattern]).await.unwrap().is_empty()
    })
    .await;
}

fn reconnected(event: &Event) -> bool {
    matches!(event, Event::Reconnecting { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_session_is_replaced_within_the_same_call() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let plan = database
        .planned(&plan_file("  - create_index: {table: orders, columns: [note]}"))
        .await;
    let (client, _) = holder(&database, "UPDATE orders SET note = note WHERE id = 1").await;
    let disturb = async {
        terminate(&database, "CREATE INDEX CONCURRENTLY").await;
        until("it connects again", || async {
            database.recorder.any(reconnected)
        })
        .await;
        execute(&client, "COMMIT").await;
    };
    let ((), ()) = tokio::join!(finishes(&database, &plan), disturb);
    let cleaned = |event: &Event| matches!(event, Event::CleanedUp { .. });
    assert!(
        database.recorder.any(cleaned),
        "{:#?}",
        database.recorder.events()
    );

    let database = Database::create(&server, ORDERS).await;
    let plan = database.planned(WIDEN).await;
    let workload = Workload::new(&database, &plan, None, None).await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let (client, _) = holder(&database, HOLD_ROW).await;
    let disturb = async {
        terminate(&database, "UPDATE ONLY").await;
        until("it connects again", || async {
            database.recorder.any(reconnected)
        })
        .await;
        execute(&client, "COMMIT").await;
    };
    let ((), ()) = tokio::join!(finishes(&database, &plan), disturb);
    let traffic = Traffic::start(&database, &workload).await;
    traffic.go_on(5).await;
    let balance = traffic.stop(&database).await;
    assert_eq!(balance.complaints, Vec::<String>::new());
}

/// Applies until the condition holds, then interrupts.
async fn interrupted<F: Future<Output = bool>>(
    database: &Database<'_>,
    plan: &ExecutionPlan,
    how: Interrupt,
    when: impl FnMut() -> F,
) {
    let (sender, receiver) = watch::channel(Interrupt::None);
    let interrupt = async {
        until("the moment to interrupt", when).await;
        sender.send_replace(how);
    };
    let (result, ()) = tokio::join!(database.apply_until(plan, Phase::Contract, receiver), interrupt);
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind, error.kind.exit_code()),
        (ErrorKind::Interrupted, 130),
        "{error:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_goes_on_or_back() {
    let server = TestServer::start(&[]);
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgmorph' \
                   AND state = 'active' AND wait_event_type = 'Lock'";
    let changes = plan_file("  - create_index: {table: orders, columns: [note]}");
    let write = "UPDATE orders SET note = note WHERE id = 1";
    for (source, how, held) in [
        (changes.as_str(), Interrupt::Now, write),
        (WIDEN, Interrupt::Now, HOLD_ROW),
        (WIDEN, Interrupt::Gracefully, HOLD_ROW),
    ] {
        for back in [false, true] {
            let database = Database::create(&server, ORDERS).await;
            let plan = database.planned(source).await;
            if source == WIDEN {
                database.apply(&plan, Phase::Expand).await.unwrap();
            }
            let (client, _) = holder(&database, held).await;
            interrupted(&database, &plan, how, || async {
                !database.admin.query(waiting, &[]).await.unwrap().is_empty()
            })
            .await;
            execute(&client, "COMMIT").await;
            if !back {
                finishes(&database, &plan).await;
            } else if let Err(error) = database.rollback(&plan).await {
                panic!("{error:#?}");
            } else {
                assert_eq!(database.leftovers().await, Vec::<String>::new());
                let differences = database.differences(&plan.before, &plan.after).await;
                assert_eq!(differences, Vec::<String>::new());
            }
            database.drop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_to_hang_on_the_column_meanwhile_is_not_lost() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let plan = database.planned(WIDEN).await;
    database.apply(&plan, Phase::Validate).await.unwrap();
    let additions = [
        (
            "CREATE INDEX late ON orders (version)",
            "index late",
            "DROP INDEX late",
        ),
        (
            "CREATE VIEW versions AS SELECT version FROM orders",
            "rule _RETURN on view versions",
            "DROP VIEW versions",
        ),
        (
            "ALTER TABLE orders ADD CONSTRAINT late CHECK (version > -7)",
            "constraint late",
            "ALTER TABLE orders DROP CONSTRAINT late",
        ),
        (
            "CREATE POLICY late ON orders USING (version > 0)",
            "policy late",
            "DROP POLICY late ON orders",
        ),
    ];
    for (addition, named, removal) in additions {
        execute(&database.admin, addition).await;
        let error = database.apply(&plan, Phase::Cutover).await.unwrap_err();
        assert_eq!(error.sqlstate.as_deref(), Some("55000"), "{error:?}");
        mentions(&error, named);
        execute(&database.admin, removal).await;
    }
    database.apply(&plan, Phase::Cutover).await.unwrap();
    for (addition, named, removal) in additions {
        execute(&database.admin, addition).await;
        let error = database.rollback(&plan).await.unwrap_err();
        assert_eq!(error.sqlstate.as_deref(), Some("55000"), "{error:?}");
        mentions(&error, named);
        execute(&database.admin, removal).await;
    }
    database.rollback(&plan).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_comes_between_the_look_and_the_swap_back_is_not_lost() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let plan = database.planned(WIDEN).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    let write = "UPDATE orders SET version = 3000000000 WHERE id = 42";
    let (client, pid) = holder(&database, write).await;
    let recorder = database.recorder.clone();
    let release = async {
        let waits = |event: &Event| match event {
            Event::Waiting { blockers, .. } => blockers.iter().any(|blocker| blocker.pid == Some(pid)),
            _ => false,
        };
        until("the writer is named", || async { recorder.any(waits) }).await;
        execute(&client, "COMMIT").await;
    };
    let (rolled_back, ()) = tokio::join!(database.rollback(&plan), release);
    let error = rolled_back.unwrap_err();
    assert_eq!(error.sqlstate.as_deref(), Some("23514"), "{error:?}");
    mentions(&error, "\"id\":42");
    // From here on the application cannot bring in another one.
    let late = database
        .admin
        .batch_execute("UPDATE orders SET version = 3000000001 WHERE id = 43");
    assert_eq!(late.await.unwrap_err().code().unwrap().code(), "23514");
    execute(&database.admin, "UPDATE orders SET version = 3 WHERE id = 42").await;
    database.rollback(&plan).await.unwrap();
    let sql = "SELECT version FROM orders WHERE id = 42";
    let version: i32 = database.admin.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(version, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_would_lose_values_is_refused_until_they_are_changed() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let plan = database.planned(WIDEN).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    execute(
        &database.admin,
        "UPDATE orders SET version = 3000000000 WHERE id = 42",
    )
    .await;
    let error = database.rollback(&plan).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    mentions(&error, "42");
    let sql = "SELECT version FROM orders WHERE id = 42";
    let version: i64 = database.admin.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(version, 3_000_000_000);
    execute(&database.admin, "UPDATE orders SET version = 3 WHERE id = 42").await;
    database.rollback(&plan).await.unwrap();
    assert_eq!(
        database.differences(&plan.before, &plan.after).await,
        Vec::<String>::new()
    );

    // Past the point of no return there is no way back, and nothing is touched.
    let again = database.planned(&WIDEN.replace("name: p", "name: q")).await;
    finishes(&database, &again).await;
    let error = database.rollback(&again).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    ended_well(&database, &again).await;
}
