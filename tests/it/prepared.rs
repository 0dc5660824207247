//! What sessions that keep prepared statements meet while a shadow column takes a column's place.

use crate::harness::{Database, TestServer};
use pgmorph::plan::{ExecutionPlan, Phase};
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

const ORDERS: &str = "
CREATE TABLE orders (id bigint PRIMARY KEY, version integer NOT NULL DEFAULT 0, note text);
INSERT INTO orders SELECT i, 0, 'note ' || i FROM generate_series(1, 200) AS i;
";

const WIDEN: &str = "
name: p
settings: {small_table: 0}
changes:
  - widen_column: {table: orders, column: version, type: bigint}
";

/// Each takes the `id` of a row.
const RETURNING_IT: [&str; 3] = [
    "SELECT id, version FROM orders WHERE id = $1",
    "UPDATE orders SET version = version + 1 WHERE id = $1 RETURNING version",
    "SELECT o.version FROM (SELECT version, id FROM orders) AS o WHERE o.id = $1",
];
const RETURNING_ALL: [&str; 2] = [
    "SELECT * FROM orders WHERE id = $1",
    "UPDATE orders SET note = note WHERE id = $1 RETURNING *",
];
const OTHERS: [&str; 5] = [
    "SELECT note FROM orders WHERE id = $1 AND version >= 0",
    "UPDATE orders SET version = version + 1 WHERE id = $1",
    "INSERT INTO orders (id, version, note) VALUES ($1::bigint + 1000, 3, 'new') ON CONFLICT (id) DO NOTHING",
    "DELETE FROM orders WHERE id = $1::bigint + 1000 AND version = 3",
    "SELECT count(version) FROM orders WHERE id <> $1",
];

struct Sessions<'a> {
    client: tokio_postgres::Client,
    statements: Vec<(&'a str, Statement)>,
}

impl<'a> Sessions<'a> {
    /// Prepares all and runs each once.
    async fn prepare(database: &Database<'_>) -> Self {
        let client = database.session().await;
        let mut statements = Vec::new();
        for sql in RETURNING_IT.iter().chain(&RETURNING_ALL).chain(&OTHERS) {
            statements.push((*sql, client.prepare(sql).await.unwrap()));
        }
        let prepared = Self { client, statements };
        assert_eq!(prepared.failing().await, [""; 0]);
        prepared
    }

    /// What fails with 0A000, and nothing fails otherwise. It fails each time.
    async fn failing(&self) -> Vec<&'a str> {
        let mut failing = Vec::new();
        for (sql, statement) in &self.statements {
            let mut outcomes = Vec::new();
            for id in 1_i64..=3 {
                let parameters: [&(dyn ToSql + Sync); 1] = [&id];
                let outcome = self.client.query(statement, &parameters).await;
                outcomes.push(outcome.err().map(|error| error.code().unwrap().code().to_owned()));
            }
            let first = outcomes[0].clone();
            assert!(
                outcomes.iter().all(|outcome| *outcome == first),
                "{sql}: {outcomes:?}"
            );
            if let Some(code) = first {
                assert_eq!(code, "0A000", "{sql}");
                failing.push(*sql);
            }
        }
        failing
    }
}

async fn reach(database: &Database<'_>, plan: &ExecutionPlan, phase: Phase) {
    database.apply(plan, phase).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_returns_the_column_has_to_be_prepared_again() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let plan = database.planned(WIDEN).await;
    let announced = |id: &str, code: &str| {
        let step = plan.steps.iter().find(|step| step.id.ends_with(id)).unwrap();
        step.hazards.iter().any(|hazard| hazard.code == code)
    };
    assert!(announced("-add", "prepared_statements"));
    assert!(announced("-swap", "prepared_statements"));
    assert!(announced("-drop_old", "prepared_statements"));

    let before_expand = Sessions::prepare(&database).await;
    reach(&database, &plan, Phase::Validate).await;
    assert_eq!(before_expand.failing().await, RETURNING_ALL);

    let before_cutover = Sessions::prepare(&database).await;
    reach(&database, &plan, Phase::Cutover).await;
    let both = [&RETURNING_IT[..], &RETURNING_ALL[..]].concat();
    assert_eq!(before_expand.failing().await, both);
    assert_eq!(before_cutover.failing().await, both);

    let before_contract = Sessions::prepare(&database).await;
    reach(&database, &plan, Phase::Contract).await;
    assert_eq!(before_contract.failing().await, RETURNING_ALL);
    assert_eq!(before_cutover.failing().await, both);
    Sessions::prepare(&database).await;
}
