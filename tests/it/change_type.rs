//! Values that are converted: what goes back exactly, what cannot be converted, and whose loss has to be accepted.

use crate::harness::{Database, TestServer};
use pgmorph::error::{Error, ErrorKind};
use pgmorph::executor::Loss;
use pgmorph::plan::{Action, Phase, Undo};

const ORDERS: &str = "
CREATE TABLE orders (id integer PRIMARY KEY, code text NOT NULL, state integer);
INSERT INTO orders SELECT i, ' 0' || i, 1 + i % 3 FROM generate_series(1, 500) AS i;
";

const CODE: &str = "
name: p
settings: {small_table: 0}
changes:
  - change_type: {table: orders, column: code, type: integer, using: \"code::integer\", reverse_using: \"code::text\"}
";

const STATE: &str = "
name: p
settings: {small_table: 0}
changes:
  - change_type:
      table: orders
      column: state
      type: text
      using: CASE state WHEN 1 THEN 'new' WHEN 2 THEN 'paid' WHEN 3 THEN 'sent' END
      reverse_using: CASE state WHEN 'new' THEN 1 WHEN 'paid' THEN 2 WHEN 'sent' THEN 3 END
";

async fn execute(database: &Database<'_>, sql: &str) -> Result<(), String> {
    let done = database.admin.batch_execute(sql).await;
    done.map_err(|error| error.code().unwrap().code().to_owned())
}

async fn text(database: &Database<'_>, sql: &str) -> Option<String> {
    database.admin.query_one(sql, &[]).await.unwrap().get(0)
}

fn shows(error: &Error, wanted: &str) {
    let shown = error.details.join(" ");
    assert!(shown.contains(wanted), "{wanted} is not in {error:?}");
}

const DAY: &str = "
name: p
settings: {small_table: 0}
changes:
  - change_type: {table: orders, column: day, type: date, using: \"day::date\", reverse_using: \"day::text\"}
";

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_whoever_writes_do_not_matter() {
    let server = TestServer::start(&[]);
    let setup = "CREATE TABLE orders (id integer PRIMARY KEY, day text);
        INSERT INTO orders SELECT i, '01/02/2024' FROM generate_series(1, 500) AS i";
    let database = Database::create(&server, setup).await;
    let plan = database.planned(DAY).await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let german =
        "SET DateStyle = 'German, DMY'; SET lc_time = 'C'; UPDATE orders SET day = '03/04/2024' WHERE id = 7";
    execute(&database, german).await.unwrap();
    database.apply(&plan, Phase::Cutover).await.unwrap();
    let days = "SELECT string_agg(DISTINCT to_char(day, 'YYYY-MM-DD'), ' ') FROM orders";
    assert_eq!(text(&database, days).await.unwrap(), "2024-01-02 2024-03-04");
    execute(
        &database,
        "UPDATE orders SET day = date '2024-05-06' WHERE id = 8",
    )
    .await
    .unwrap();
    database.rollback(&plan).await.unwrap();
    let days = "SELECT string_agg(DISTINCT day, ' ' ORDER BY day) FROM orders";
    assert_eq!(
        text(&database, days).await.unwrap(),
        "01/02/2024 03/04/2024 2024-05-06"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_wrote_go_back_as_they_were() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let plan = database.planned(CODE).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    assert_eq!(
        text(&database, "SELECT code::text FROM orders WHERE id = 7")
            .await
            .unwrap(),
        "7"
    );
    execute(&database, "UPDATE orders SET state = 9 WHERE id = 8")
        .await
        .unwrap();
    execute(&database, "UPDATE orders SET code = code + 1 WHERE id = 9")
        .await
        .unwrap();
    database.rollback(&plan).await.unwrap();
    let codes = "SELECT string_agg(code, ',' ORDER BY id) FROM orders WHERE id IN (7, 8, 9)";
    assert_eq!(text(&database, codes).await.unwrap(), " 07, 08,10");
    assert_eq!(database.leftovers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_converted_is_shown_with_its_error() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let plan = database.planned(CODE).await;
    execute(&database, "UPDATE orders SET code = 'seven' WHERE id = 7")
        .await
        .unwrap();
    let error = database.apply(&plan, Phase::Backfill).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::StepFailed, "{error:?}");
    shows(&error, "invalid input syntax for type integer");
    shows(&error, "\"id\":7");
    execute(&database, "UPDATE orders SET code = '7' WHERE id = 7")
        .await
        .unwrap();
    database.apply(&plan, Phase::Backfill).await.unwrap();

    // The application does not notice anything yet, and the cutover is not begun.
    execute(&database, "UPDATE orders SET code = 'eight' WHERE id = 8")
        .await
        .unwrap();
    let error = database.apply(&plan, Phase::Cutover).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::StepFailed, "{error:?}");
    shows(&error, "\"id\":8");
    let nine = execute(&database, "UPDATE orders SET code = 'nine' WHERE id = 9").await;
    assert_eq!(nine, Err("22P02".to_owned()));
    execute(&database, "UPDATE orders SET code = '8' WHERE id = 8")
        .await
        .unwrap();
    database.apply(&plan, Phase::Contract).await.unwrap();
    let sum = "SELECT (sum(code) = sum(id))::text FROM orders";
    assert_eq!(text(&database, sum).await.unwrap(), "true");
    assert_eq!(database.leftovers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_has_to_be_accepted() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let plan = database.planned(STATE).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    execute(&database, "UPDATE orders SET state = 'lost' WHERE id = 5")
        .await
        .unwrap();
    execute(
        &database,
        "INSERT INTO orders (id, code, state) VALUES (501, '501', 'paid')",
    )
    .await
    .unwrap();
    let error = database.rollback(&plan).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition, "{error:?}");
    shows(&error, "\"id\":5");
    assert!(
        error.help.as_ref().unwrap().contains("--accept-loss"),
        "{error:?}"
    );
    database.roll_back(&plan, Loss::Accepted).await.unwrap();
    let states = "SELECT string_agg(coalesce(state::text, 'null'), ',' ORDER BY id) FROM orders WHERE id IN (4, 5, 501)";
    assert_eq!(text(&database, states).await.unwrap(), "2,null,2");
    assert_eq!(database.leftovers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_accept_that_a_value_is_missing() {
    let server = TestServer::start(&[]);
    let setup = format!("{ORDERS} UPDATE orders SET state = 1; ALTER TABLE orders ALTER state SET NOT NULL;");
    let database = Database::create(&server, &setup).await;
    let plan = database.planned(STATE).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    execute(&database, "UPDATE orders SET state = 'lost' WHERE id = 5")
        .await
        .unwrap();
    let error = database.roll_back(&plan, Loss::Accepted).await.unwrap_err();
    assert_eq!(error.sqlstate.as_deref(), Some("23514"), "{error:?}");
    shows(&error, "\"id\":5");
    execute(&database, "UPDATE orders SET state = 'paid' WHERE id = 5")
        .await
        .unwrap();
    database.rollback(&plan).await.unwrap();
    assert_eq!(
        text(&database, "SELECT state::text FROM orders WHERE id = 5")
            .await
            .unwrap(),
        "2"
    );
    assert_eq!(database.leftovers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_back_no_write_fails() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let plan = database.planned(CODE).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    let swap = plan.steps.iter().find(|step| step.id.ends_with("-swap")).unwrap();
    let Undo::Work(works) = &swap.undo else {
        panic!("{:?}", swap.undo);
    };
    // As a rollback leaves it that is cut off there.
    for work in works {
        if let Action::Sql(statements) = &work.action {
            execute(&database, &statements.join("; ")).await.unwrap();
        }
    }
    execute(&database, "UPDATE orders SET code = 'nine' WHERE id = 9")
        .await
        .unwrap();
    let code = "SELECT code FROM orders WHERE id = 9";
    assert_eq!(text(&database, code).await.unwrap(), "nine");
}
