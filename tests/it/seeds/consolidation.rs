//! Two tables become one, while the application that knows the two and the one that knows the one both write.
//!
//! `PGMORPH_PORTFOLIOS=1000000 PGMORPH_PATIENCE=1800` makes it as many portfolios, and waits for them.

use super::{Actor, STATEMENTS, Stage, Work, each};
use crate::harness::{Chance, TestServer, schema_dump};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio_postgres::Client;

const SYSTEM: &str = "strategy_consolidation";
const CONSOLIDATE: &str = "001_consolidate.yaml";
const RETIRE: [&str; 2] = ["002_retire_strategies.yaml", "003_retire_portfolios.yaml"];
const CLEAN_UP: &str = "004_clean_up.yaml";

/// Customers of the old application and of the new one; those of the data are below.
const OLD: i64 = 10_000_000;
const NEW: i64 = 20_000_000;

/// What both applications must see of a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fact {
    status: String,
    has_account: bool,
    live: bool,
    closed: bool,
}

/// What was acknowledged, by customer.
type Account = Arc<Mutex<BTreeMap<i64, Fact>>>;

struct Old {
    client: Client,
    next: i64,
    account: Account,
}

struct New {
    client: Client,
    next: i64,
    account: Account,
}

fn fact(status: &str, has_account: bool, live: bool) -> Fact {
    Fact {
        status: status.into(),
        has_account,
        live,
        closed: status == "closed",
    }
}

/// A customer whose facts are like this.
fn pick(account: &Account, chance: &mut Chance, wanted: impl Fn(&Fact) -> bool) -> Option<i64> {
    let account = account.lock().unwrap();
    let fitting: Vec<i64> = account
        .iter()
        .filter(|(_, fact)| wanted(fact))
        .map(|(customer, _)| *customer)
        .collect();
    let at = usize::try_from(chance.below(fitting.len().max(1) as u64)).unwrap();
    fitting.get(at).copied()
}

fn customer_sql(customer: i64) -> Vec<String> {
    vec![
        format!(
            "INSERT INTO customer_details VALUES ({customer}, md5('org 1')::uuid, 'First', 'Last', 'active')"
        ),
        format!(
            "INSERT INTO lth_pvr.exchange_accounts VALUES (md5('account {customer}')::uuid, md5('org 1')::uuid, 'Account')"
        ),
    ]
}

impl Actor for Old {
    /// ef_confirm_strategy, ef_valr_create_subaccount, ef_deposit_scan, and what people do by hand.
    async fn act(&mut self, chance: &mut Chance) -> Result<(), tokio_postgres::Error> {
        let (statements, customer, fact) = match chance.below(6) {
            0 | 1 => {
                self.next += 1;
                let customer = self.next;
                let mut statements = customer_sql(customer);
                statements.push(format!(
                    "INSERT INTO customer_portfolios (org_id, customer_id, strategy_code, label, status) \
                     VALUES (md5('org 1')::uuid, {customer}, 'LTH_PVR', 'First Last', 'pending')"
                ));
                (statements, customer, Some(fact("pending", false, false)))
            }
            2 => {
                let Some(customer) = pick(&self.account, chance, |fact| !fact.has_account) else {
                    return Ok(());
                };
                let sql = format!(
                    "UPDATE customer_portfolios SET exchange_account_id = md5('account {customer}')::uuid, \
                     exchange_subaccount = 'sub-{customer}' WHERE customer_id = {customer}"
                );
                (vec![sql], customer, Some(fact("pending", true, false)))
            }
            3 => {
                let fits = |fact: &Fact| fact.has_account && fact.status == "pending";
                let Some(customer) = pick(&self.account, chance, fits) else {
                    return Ok(());
                };
                let statements = vec![
                    format!(
                        "UPDATE customer_portfolios SET status = 'active' WHERE customer_id = {customer}"
                    ),
                    format!(
                        "INSERT INTO lth_pvr.customer_strategies (org_id, customer_id, strategy_version_id, \
                         exchange_account_id, live_enabled, effective_from, portfolio_id) \
                         SELECT org_id, customer_id, md5('version 1')::uuid, exchange_account_id, true, CURRENT_DATE, \
                         portfolio_id FROM customer_portfolios WHERE customer_id = {customer}"
                    ),
                ];
                (statements, customer, Some(fact("active", true, true)))
            }
            4 => {
                let Some(customer) = pick(&self.account, chance, |fact| fact.status == "active") else {
                    return Ok(());
                };
                let statements = vec![format!(
                    "BEGIN; UPDATE lth_pvr.customer_strategies SET live_enabled = false, effective_to = CURRENT_DATE \
                     WHERE customer_id = {customer}; UPDATE customer_portfolios SET status = 'closed', closed_at = now() \
                     WHERE customer_id = {customer}; COMMIT"
                )];
                (statements, customer, Some(fact("closed", true, false)))
            }
            _ => {
                let Some(customer) = pick(&self.account, chance, |fact| fact.closed) else {
                    return Ok(());
                };
                let statements = vec![format!(
                    "BEGIN; DELETE FROM lth_pvr.customer_strategies WHERE customer_id = {customer}; \
                     DELETE FROM customer_portfolios WHERE customer_id = {customer}; COMMIT"
                )];
                (statements, customer, None)
            }
        };
        settle(&self.client, &self.account, statements, customer, fact).await
    }
}

impl Actor for New {
    async fn act(&mut self, chance: &mut Chance) -> Result<(), tokio_postgres::Error> {
        let change = |customer: i64, set: &str| {
            format!(
                "UPDATE customer_strategies SET {set} WHERE customer_id = {customer} AND effective_to IS NULL"
            )
        };
        let (statements, customer, fact) = match chance.below(6) {
            0 | 1 => {
                self.next += 1;
                let customer = self.next;
                let mut statements = customer_sql(customer);
                statements.push(format!(
                    "INSERT INTO customer_strategies (org_id, customer_id, strategy_code, strategy_version_id, \
                     exchange_account_id, label) VALUES (md5('org 1')::uuid, {customer}, 'LTH_PVR', \
                     md5('version 1')::uuid, md5('account {customer}')::uuid, 'First Last')"
                ));
                (statements, customer, Some(fact("pending", true, false)))
            }
            2 => {
                let Some(customer) = pick(&self.account, chance, |fact| fact.status == "pending") else {
                    return Ok(());
                };
                let set = "status = 'active', live_enabled = true, effective_from = CURRENT_DATE";
                (
                    vec![change(customer, set)],
                    customer,
                    Some(fact("active", true, true)),
                )
            }
            3 => {
                let Some(customer) = pick(&self.account, chance, |fact| fact.status == "active") else {
                    return Ok(());
                };
                let set = "status = 'paused', live_enabled = false, performance_fee_rate = 0.1";
                (
                    vec![change(customer, set)],
                    customer,
                    Some(fact("paused", true, false)),
                )
            }
            4 => {
                let fits = |fact: &Fact| !fact.closed && fact.status != "pending";
                let Some(customer) = pick(&self.account, chance, fits) else {
                    return Ok(());
                };
                let set =
                    "status = 'closed', closed_at = now(), effective_to = CURRENT_DATE, live_enabled = false";
                (
                    vec![change(customer, set)],
                    customer,
                    Some(fact("closed", true, false)),
                )
            }
            _ => {
                let Some(customer) = pick(&self.account, chance, |fact| fact.closed) else {
                    return Ok(());
                };
                let sql = format!("DELETE FROM customer_strategies WHERE customer_id = {customer}");
                (vec![sql], customer, None)
            }
        };
        settle(&self.client, &self.account, statements, customer, fact).await
    }
}

/// Runs it, and counts it only then.
async fn settle(
    client: &Client,
    account: &Account,
    statements: Vec<String>,
    customer: i64,
    fact: Option<Fact>,
) -> Result<(), tokio_postgres::Error> {
    each(client, &statements).await?;
    let mut account = account.lock().unwrap();
    match fact {
        Some(fact) => account.insert(customer, fact),
        None => account.remove(&customer),
    };
    Ok(())
}

/// The facts as the tables have them, of the customers of both applications.
async fn facts(client: &Client, sql: &str) -> BTreeMap<i64, Fact> {
    let rows = client.query(sql, &[]).await.unwrap();
    let fact = |row: &tokio_postgres::Row| {
        let fact = Fact {
            status: row.get(1),
            has_account: row.get(2),
            live: row.get(3),
            closed: row.get(4),
        };
        (row.get(0), fact)
    };
    rows.iter().map(fact).collect()
}

fn old_facts(portfolios: &str, strategies: &str) -> String {
    format!(
        "SELECT p.customer_id, p.status, p.exchange_account_id IS NOT NULL, coalesce(s.live_enabled, false), \
         p.closed_at IS NOT NULL FROM {portfolios} AS p LEFT JOIN {strategies} AS s USING (portfolio_id) \
         WHERE p.customer_id >= {OLD}"
    )
}

fn new_facts() -> String {
    format!(
        "SELECT customer_id, status, true, live_enabled, closed_at IS NOT NULL FROM customer_strategies \
         WHERE customer_id >= {OLD}"
    )
}

const OLD_NAMES: [&str; 2] = ["customer_portfolios", "lth_pvr.customer_strategies"];
const DEPRECATED: [&str; 2] = [
    "_deprecated_customer_portfolios",
    "lth_pvr._deprecated_lth_pvr_customer_strategies",
];

struct Scene<'s> {
    stage: Stage<'s>,
    old: Account,
    new: Account,
    next: i64,
}

impl Scene<'_> {
    fn everything(&self) -> BTreeMap<i64, Fact> {
        let mut all = self.old.lock().unwrap().clone();
        all.extend(self.new.lock().unwrap().clone());
        all
    }

    /// Everything that was acknowledged to either application is in the tables of the old one.
    async fn old_tables_balance(&self, names: [&str; 2]) {
        let found = facts(&self.stage.database.admin, &old_facts(names[0], names[1])).await;
        same("the old tables", &self.everything(), &found);
    }

    /// …and in that of the new one, which cannot hold what has no account yet.
    async fn new_table_balances(&self) {
        let mut expected = self.everything();
        expected.retain(|_, fact| fact.has_account);
        let found = facts(&self.stage.database.admin, &new_facts()).await;
        same("the new table", &expected, &found);
    }

    async fn old_application(&mut self) -> Work<Old> {
        self.next += 100_000;
        let actor = Old {
            client: self.stage.database.session().await,
            next: OLD + self.next,
            account: Arc::clone(&self.old),
        };
        Work::start(actor, 1)
    }

    async fn new_application(&mut self) -> Work<New> {
        self.next += 100_000;
        let actor = New {
            client: self.stage.database.session().await,
            next: NEW + self.next,
            account: Arc::clone(&self.new),
        };
        Work::start(actor, 2)
    }
}

#[track_caller]
fn same(what: &str, expected: &BTreeMap<i64, Fact>, found: &BTreeMap<i64, Fact>) {
    let keys = expected.keys().chain(found.keys());
    let wrong: Vec<_> = keys
        .filter(|key| expected.get(key) != found.get(key))
        .map(|key| (key, expected.get(key), found.get(key)))
        .take(5)
        .collect();
    assert!(
        wrong.is_empty(),
        "{what} differ from what was acknowledged: {wrong:#?}"
    );
}

fn portfolios() -> u64 {
    let given = std::env::var("PGMORPH_PORTFOLIOS").ok();
    given.map_or(3_000, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_become_one_and_back() {
    let server = TestServer::start(&[]);
    let mut scene = Scene {
        stage: Stage::set(&server, SYSTEM, portfolios()).await,
        old: Account::default(),
        new: Account::default(),
        next: 0,
    };
    let before = schema_dump(&scene.stage.database).await;
    let mut old = scene.old_application().await;
    old.go_on(STATEMENTS).await;

    for phase in ["expand", "backfill", "validate", "cutover"] {
        scene
            .stage
            .apply(CONSOLIDATE, &["--through", phase])
            .await
            .expect(0);
        old.go_on(STATEMENTS).await;
    }
    Stage::holds(
        &scene.stage.verify(CONSOLIDATE, &["--through", "cutover"]).await,
        "contract_pending",
    );
    let mut new = scene.new_application().await;
    both_see_the_same(&scene, &mut old, &mut new).await;
    what_is_spoiled_is_found(&scene, &old, &new).await;

    // Back before the renaming: what the new application wrote is in the old tables.
    new.stop().await;
    scene
        .stage
        .pgmorph(&["rollback", CONSOLIDATE, "--yes"])
        .await
        .expect(0);
    old.go_on(STATEMENTS).await;
    {
        let _quiet = old.quiet().await;
        scene.old_tables_balance(OLD_NAMES).await;
    }
    assert_eq!(before, schema_dump(&scene.stage.database).await);
    assert_eq!(scene.stage.database.leftovers().await, [""; 0]);

    scene.stage.apply(CONSOLIDATE, &[]).await.expect(0);
    let mut new = scene.new_application().await;
    both_see_the_same(&scene, &mut old, &mut new).await;
    old.stop().await;
    retired_and_back(&mut scene, &mut new).await;
    the_end(&scene, &mut new).await;
    new.stop().await;
    scene.new_table_balances().await;
}

async fn both_see_the_same(scene: &Scene<'_>, old: &mut Work<Old>, new: &mut Work<New>) {
    old.go_on(STATEMENTS).await;
    new.go_on(STATEMENTS).await;
    let (_old, _new) = (old.quiet().await, new.quiet().await);
    scene.old_tables_balance(OLD_NAMES).await;
    scene.new_table_balances().await;
}

/// Somebody writes past the triggers: the comparison names the row.
async fn what_is_spoiled_is_found(scene: &Scene<'_>, old: &Work<Old>, new: &Work<New>) {
    let (_old, _new) = (old.quiet().await, new.quiet().await);
    let spoil = |label: &str| {
        format!(
            "BEGIN; SET LOCAL session_replication_role = origin; SET LOCAL \"pgmorph.sync\" = 'on'; \
             UPDATE customer_strategies SET label = {label} WHERE customer_id = 7; COMMIT"
        )
    };
    scene.stage.sql(&spoil("label || '!'")).await;
    let (code, found) = scene.stage.verify(CONSOLIDATE, &["--through", "cutover"]).await;
    assert_eq!(code, 1, "{found:#}");
    let key: String = scene
        .stage
        .database
        .admin
        .query_one(
            "SELECT portfolio_id::text FROM customer_strategies WHERE customer_id = 7",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert!(found["findings"].to_string().contains(&key), "{found:#}");
    scene.stage.sql(&spoil("rtrim(label, '!')")).await;
    Stage::holds(
        &scene.stage.verify(CONSOLIDATE, &["--through", "cutover"]).await,
        "contract_pending",
    );
}

/// The old tables under other names follow what the new application writes, and come back with all of it.
async fn retired_and_back(scene: &mut Scene<'_>, new: &mut Work<New>) {
    let stage = &scene.stage;
    for plan in RETIRE {
        stage.apply(plan, &[]).await.expect(0);
        new.go_on(STATEMENTS).await;
    }
    {
        let _quiet = new.quiet().await;
        scene.old_tables_balance(DEPRECATED).await;
        scene.new_table_balances().await;
        let seen = stage.number("SELECT count(*) FROM customer_portfolios").await;
        assert_eq!(
            seen,
            stage.number("SELECT count(*) FROM customer_strategies").await
        );
        let listed = stage
            .number("SELECT count(*) FROM list_customer_portfolios(8) AS l JOIN customer_strategies AS s ON l.portfolio_id = s.customer_strategy_id")
            .await;
        assert_eq!(
            listed,
            stage
                .number(
                    "SELECT count(*) FROM customer_strategies WHERE customer_id = 8 AND effective_to IS NULL"
                )
                .await
        );
    }
    for plan in RETIRE {
        let refused = stage.apply(plan, &["--through", "contract"]).await.expect(3);
        assert!(refused.stderr.contains("safety period"), "{}", refused.stderr);
    }
    for plan in [RETIRE[1], RETIRE[0]] {
        stage.pgmorph(&["rollback", plan, "--yes"]).await.expect(0);
        new.go_on(STATEMENTS).await;
    }
    let mut old = scene.old_application().await;
    both_see_the_same(scene, &mut old, new).await;
    old.stop().await;
}

/// Retired again, and after the safety period dropped.
async fn the_end(scene: &Scene<'_>, new: &mut Work<New>) {
    let stage = &scene.stage;
    for plan in RETIRE {
        stage.apply(plan, &[]).await.expect(0);
        new.go_on(STATEMENTS).await;
    }
    stage
        .sql("UPDATE pgmorph.steps SET finished_at = finished_at - interval '31 days' WHERE state = 'done'")
        .await;
    // The mirror still reads and writes them, and the strategies refer to the portfolios.
    for plan in RETIRE {
        let refused = stage.apply(plan, &["--through", "contract"]).await;
        assert_ne!(refused.code, Some(0), "{}", refused.stdout);
    }
    for name in DEPRECATED {
        let there = format!("SELECT count(*) FROM pg_class WHERE oid = to_regclass('{name}')");
        assert_eq!(stage.number(&there).await, 1, "{name}");
    }
    for plan in [CONSOLIDATE, RETIRE[0], RETIRE[1], CLEAN_UP] {
        stage.apply(plan, &["--through", "contract"]).await.expect(0);
    }
    for name in DEPRECATED.iter().chain(&OLD_NAMES) {
        let gone = format!("SELECT count(*) FROM pg_class WHERE oid = to_regclass('{name}')");
        assert_eq!(stage.number(&gone).await, 0, "{name}");
    }
    Stage::holds(&stage.verify(CONSOLIDATE, &[]).await, "matches");
    for plan in [RETIRE[0], RETIRE[1], CLEAN_UP] {
        Stage::holds(&stage.verify(plan, &[]).await, "matches");
    }
    assert_eq!(stage.database.leftovers().await, [""; 0]);
    new.go_on(STATEMENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_and_conflicts_are_shown_before_anything_runs() {
    let server = TestServer::start(&[]);
    let stage = Stage::set(&server, SYSTEM, 200).await;
    let before = schema_dump(&stage.database).await;
    stage
        .sql(
            "INSERT INTO lth_pvr.customer_strategies (org_id, customer_id, strategy_version_id, exchange_account_id) \
             VALUES (md5('org 1')::uuid, 3, md5('version 1')::uuid, md5('account 3')::uuid)",
        )
        .await;
    let refused = stage.apply(CONSOLIDATE, &[]).await.expect(3);
    assert!(refused.stderr.contains("\"customer_id\":3"), "{}", refused.stderr);
    stage
        .sql(
            "UPDATE lth_pvr.customer_strategies SET portfolio_id = md5('portfolio 3')::uuid WHERE portfolio_id IS NULL; \
             UPDATE customer_portfolios SET status = 'dormant' WHERE customer_id = 4",
        )
        .await;
    let refused = stage.apply(CONSOLIDATE, &[]).await.expect(3);
    assert!(
        refused.stderr.contains("several strategies"),
        "{}",
        refused.stderr
    );
    assert_eq!(before, schema_dump(&stage.database).await);
}
