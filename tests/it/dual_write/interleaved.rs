//! Two transactions that meet in one entity, step by step.

use super::{PLAN, SETUP, unequal};
use crate::harness::{Database, TestServer, until};
use pgmorph::plan::{Action, Phase};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

const ENTITIES: &str = "
INSERT INTO customer_portfolios (portfolio_id, label, account) VALUES
    ('00000000-0000-0000-0000-000000000001', 'one', 1),
    ('00000000-0000-0000-0000-000000000002', 'two', NULL),
    ('00000000-0000-0000-0000-000000000003', 'three', 3);
INSERT INTO lth.customer_strategies (portfolio_id) VALUES ('00000000-0000-0000-0000-000000000001');
";

/// A joined row of one that has no counterpart leaves no trace that an older snapshot could meet.
const UNSEEN: &str = "a joined row comes while its driving row gets a counterpart";

/// What the first transaction does and leaves open, and what the second does meanwhile.
const MEETINGS: &[(&str, &str, &str)] = &[
    (
        "a joined row changes after its driving row",
        "UPDATE customer_portfolios SET status = 'paused' WHERE label = 'one'",
        "UPDATE lth.customer_strategies SET live = true WHERE portfolio_id = '00000000-0000-0000-0000-000000000001'",
    ),
    (
        "a driving row changes after its joined row",
        "UPDATE lth.customer_strategies SET live = true WHERE portfolio_id = '00000000-0000-0000-0000-000000000001'",
        "UPDATE customer_portfolios SET status = 'paused' WHERE label = 'one'",
    ),
    (
        "the new row changes before the old one",
        "UPDATE customer_strategies SET switched = switched + 1 WHERE label = 'one'",
        "UPDATE customer_portfolios SET by_old = by_old + 1 WHERE label = 'one'",
    ),
    (
        "a row gets its counterpart while a joined one comes",
        "UPDATE customer_portfolios SET account = 2 WHERE label = 'two'",
        "INSERT INTO lth.customer_strategies (portfolio_id, live) VALUES ('00000000-0000-0000-0000-000000000002', true)",
    ),
    (
        UNSEEN,
        "INSERT INTO lth.customer_strategies (portfolio_id, live) VALUES ('00000000-0000-0000-0000-000000000002', true)",
        "UPDATE customer_portfolios SET account = 2 WHERE label = 'two'",
    ),
    (
        "a row goes while it changes",
        "DELETE FROM customer_portfolios WHERE label = 'three'",
        "UPDATE customer_portfolios SET status = 'paused' WHERE label = 'three'",
    ),
    (
        "a row changes on one side while it goes on the other",
        "UPDATE customer_portfolios SET status = 'paused' WHERE label = 'three'",
        "DELETE FROM customer_strategies WHERE label = 'three'",
    ),
    (
        "a joined row moves while the driving row changes",
        "UPDATE customer_portfolios SET status = 'paused' WHERE label = 'three'",
        "UPDATE lth.customer_strategies SET portfolio_id = '00000000-0000-0000-0000-000000000003'",
    ),
    (
        "the key changes while a joined row changes",
        "UPDATE customer_portfolios SET portfolio_id = '00000000-0000-0000-0000-000000000009' WHERE label = 'one'",
        "UPDATE lth.customer_strategies SET live = true",
    ),
    (
        "the same row comes twice",
        "INSERT INTO customer_portfolios (portfolio_id, label, account) \
         VALUES ('00000000-0000-0000-0000-000000000007', 'seven', 7)",
        "INSERT INTO customer_portfolios (portfolio_id, label, account) \
         VALUES ('00000000-0000-0000-0000-000000000007', 'seven', 8) \
         ON CONFLICT (portfolio_id) DO UPDATE SET account = excluded.account",
    ),
];

/// Without the foreign key, the two may come in at once.
const STRANGERS: &[(&str, &str, &str)] = &[
    (
        "a joined row comes while its driving row comes",
        "INSERT INTO customer_portfolios (portfolio_id, label, account) \
         VALUES ('00000000-0000-0000-0000-000000000008', 'eight', 8)",
        "INSERT INTO lth.customer_strategies (portfolio_id, live) VALUES ('00000000-0000-0000-0000-000000000008', true)",
    ),
    (
        "a driving row comes while its joined row comes",
        "INSERT INTO lth.customer_strategies (portfolio_id, live) VALUES ('00000000-0000-0000-0000-000000000008', true)",
        "INSERT INTO customer_portfolios (portfolio_id, label, account) \
         VALUES ('00000000-0000-0000-0000-000000000008', 'eight', 8)",
    ),
    (
        "a driving row gets the key of a joined row that comes",
        "INSERT INTO lth.customer_strategies (portfolio_id, live) VALUES ('00000000-0000-0000-0000-000000000008', true)",
        "UPDATE customer_portfolios SET portfolio_id = '00000000-0000-0000-0000-000000000008' WHERE label = 'three'",
    ),
];

async fn pid_of(client: &Client) -> i32 {
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    row.get(0)
}

/// Whether the session waits for a lock, or has nothing to do any more.
async fn stands(database: &Database<'_>, pid: i32) -> bool {
    let sql = "SELECT wait_event_type = 'Lock' OR state = 'idle' FROM pg_stat_activity WHERE pid = $1";
    let row = database.admin.query_opt(sql, &[&pid]).await.unwrap();
    row.is_none_or(|row| row.get::<_, Option<bool>>(0).unwrap_or_default())
}

async fn meet(database: &Database<'_>, first: &str, second: &str) {
    let (one, other) = (database.session().await, database.session().await);
    let pid = pid_of(&other).await;
    one.batch_execute(&format!("BEGIN; {first}")).await.unwrap();
    let second = second.to_owned();
    let running = tokio::spawn(async move { other.batch_execute(&second).await });
    // It waits, or it is through: both may be right, and the rows tell.
    until("the second stands", || async {
        running.is_finished() || stands(database, pid).await
    })
    .await;
    one.batch_execute("COMMIT").await.unwrap();
    running.await.unwrap().unwrap();
}

/// The tables with the rows of [`ENTITIES`] only.
pub(super) async fn few<'s>(server: &'s TestServer, setup: &str) -> Database<'s> {
    let (tables, _) = SETUP.split_once("INSERT INTO").unwrap();
    Database::create(server, &format!("{tables}{ENTITIES}{setup}")).await
}

async fn restart(database: &Database<'_>) {
    let empty = "TRUNCATE customer_portfolios, lth.customer_strategies, customer_strategies";
    database
        .admin
        .batch_execute(&format!("{empty}; {ENTITIES}"))
        .await
        .unwrap();
    assert_eq!(unequal(database).await, Vec::<String>::new());
}

async fn all_meet(setup: &str, meetings: &[(&str, &str, &str)]) {
    let server = TestServer::start(&[]);
    let database = few(&server, setup).await;
    let plan = database.planned(PLAN).await;
    database.apply(&plan, Phase::Validate).await.unwrap();
    for (what, first, second) in meetings {
        restart(&database).await;
        meet(&database, first, second).await;
        assert_eq!(unequal(&database).await, Vec::<String>::new(), "{what}");
    }
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_second_sees_what_the_first_wrote() {
    all_meet("", MEETINGS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_no_foreign_key_ties_find_each_other() {
    let apart = "ALTER TABLE lth.customer_strategies DROP CONSTRAINT customer_strategies_portfolio_id_fkey;";
    all_meet(apart, STRANGERS).await;
}

/// A batch that has looked already must not bring back what goes.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_copied_that_is_on_its_way_out() {
    let server = TestServer::start(&[]);
    let outs = [
        "DELETE FROM customer_portfolios WHERE label = 'three'",
        "UPDATE customer_portfolios SET account = NULL WHERE label = 'three'",
    ];
    for out in outs {
        let database = few(&server, "").await;
        let plan = database.planned(PLAN).await;
        database.apply(&plan, Phase::Expand).await.unwrap();
        let copying = plan.steps.iter().find_map(|step| match &step.work.action {
            Action::Copy(copying) => Some(copying.whole()),
            _ => None,
        });
        let batch = format!(
            "BEGIN; SET LOCAL pgmorph.sync = 'on'; {}; COMMIT",
            copying.unwrap()
        );
        meet(&database, out, &batch).await;
        assert_eq!(unequal(&database).await, Vec::<String>::new(), "{out}");
        // The other way round: what goes waits for the batch, and takes the copy with it.
        let again = format!("{ENTITIES}{batch}")
            .replace("BEGIN;", "")
            .replace("COMMIT", "");
        let reset = "TRUNCATE customer_portfolios, lth.customer_strategies, customer_strategies";
        database.admin.batch_execute(reset).await.unwrap();
        meet(&database, again.trim_end_matches("; "), out).await;
        assert_eq!(unequal(&database).await, Vec::<String>::new(), "{out}");
        database.drop().await;
    }
}

/// Whether a row has a counterpart is for its joined row to say.
const JOINED: &str = "
name: p
changes:
  - sync:
      name: forth
      from: customer_portfolios
      as: cp
      into: customer_strategies
      key: [portfolio_id]
      join: JOIN lth.customer_strategies AS cs ON cs.portfolio_id = cp.portfolio_id
      joined: {lth.customer_strategies: {portfolio_id: portfolio_id}}
      where: cs.live
      columns: {label: cp.label, account: cp.account, switched: cs.switched}
";

/// A batch that has looked at a joined row already must not make what that row does not ask for any more.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_copied_that_a_joined_row_lets_go() {
    const WRONG: &str = "SELECT count(*) FROM customer_strategies FULL JOIN \
        (SELECT portfolio_id, s.switched FROM customer_portfolios JOIN lth.customer_strategies AS s USING (portfolio_id) WHERE live) AS s \
        USING (portfolio_id) WHERE customer_strategies.switched IS DISTINCT FROM s.switched";
    let server = TestServer::start(&[]);
    let outs = [
        "UPDATE lth.customer_strategies SET live = false",
        "DELETE FROM lth.customer_strategies",
        "UPDATE lth.customer_strategies SET portfolio_id = NULL",
        "UPDATE lth.customer_strategies SET portfolio_id = '00000000-0000-0000-0000-000000000003'",
        "UPDATE lth.customer_strategies SET switched = 7",
    ];
    for out in outs {
        let database = few(&server, "UPDATE lth.customer_strategies SET live = true;").await;
        let plan = database.planned(JOINED).await;
        database.apply(&plan, Phase::Expand).await.unwrap();
        let copying = plan.steps.iter().find_map(|step| match &step.work.action {
            Action::Copy(copying) => Some(copying.whole()),
            _ => None,
        });
        let batch = format!("SET LOCAL pgmorph.sync = 'on'; {}", copying.unwrap());
        meet(&database, out, &format!("BEGIN; {batch}; COMMIT")).await;
        assert_eq!(crate::backfill::number(&database, WRONG).await, 0, "{out}");
        // The other way round: what changes waits for the batch, and takes the copy with it.
        let reset = format!(
            "TRUNCATE customer_portfolios, lth.customer_strategies, customer_strategies; {ENTITIES}; \
             UPDATE lth.customer_strategies SET live = true; \
             SET pgmorph.sync = 'on'; DELETE FROM customer_strategies; RESET pgmorph.sync"
        );
        database.admin.batch_execute(&reset).await.unwrap();
        meet(&database, &batch, out).await;
        assert_eq!(crate::backfill::number(&database, WRONG).await, 0, "{out}");
        database.drop().await;
    }
}

/// A transaction that sees an older moment must not put it over what came since: it is refused, or it changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_snapshot_is_never_written_over_a_newer_row() {
    let server = TestServer::start(&[]);
    let database = few(&server, "").await;
    let plan = database.planned(PLAN).await;
    database.apply(&plan, Phase::Validate).await.unwrap();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for (what, first, second) in MEETINGS.iter().filter(|(what, ..)| *what != UNSEEN) {
            restart(&database).await;
            let (one, other) = (database.session().await, database.session().await);
            let begin =
                format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM lth.customer_strategies");
            one.batch_execute(&begin).await.unwrap();
            other.batch_execute(first).await.unwrap();
            let wrote = one.batch_execute(&format!("{second}; COMMIT")).await;
            if let Err(error) = &wrote {
                let code = error.code();
                assert_eq!(
                    code,
                    Some(&SqlState::T_R_SERIALIZATION_FAILURE),
                    "{what}: {error:?}"
                );
                one.batch_execute("ROLLBACK").await.unwrap();
            }
            assert_eq!(unequal(&database).await, Vec::<String>::new(), "{level}: {what}");
        }
    }
    database.drop().await;
}
