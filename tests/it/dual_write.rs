//! Two old tables and a new one that says the same, kept equal while both versions of an application write to the same
//! entities at the same time.

mod interleaved;
mod meanwhile;
mod one_way;

use crate::harness::{Chance, Database, PATIENCE, TestServer};
use pgmorph::plan::Phase;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{RwLock, watch};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

const SETUP: &str = include_str!("dual_write/setup.sql");
const PLAN: &str = include_str!("dual_write/plan.yaml");

/// What differs between the old tables and the new one.
const UNEQUAL: &str = "SELECT to_jsonb(o), to_jsonb(n) FROM \
    (SELECT p.portfolio_id, label, account, status, closed_at, by_old, by_new, min_order, coalesce(live, false) AS live, \
      coalesce(switched, 0) AS switched FROM customer_portfolios AS p LEFT JOIN lth.customer_strategies USING (portfolio_id) \
      WHERE account IS NOT NULL) AS o \
    FULL JOIN (SELECT portfolio_id, label, account, status, closed_at, by_old, by_new, min_order, live, switched \
      FROM customer_strategies) AS n USING (portfolio_id) \
    WHERE o IS DISTINCT FROM n LIMIT 5";

/// Of writers, so that no two of them make the same names.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// What was acknowledged about one entity.
#[derive(Debug, Default, Clone, PartialEq)]
struct Account {
    by_old: i64,
    by_new: i64,
    switched: i64,
    /// Whether it has a row in `lth.customer_strategies`, which switching needs.
    live: bool,
}

#[derive(Default)]
struct Books {
    /// By label, which never changes.
    accounts: Mutex<BTreeMap<String, Account>>,
    complaints: Mutex<Vec<String>>,
}

impl Books {
    /// Its maker may have deleted it since, and crossed it out.
    fn change_known(&self, label: &str, change: impl FnOnce(&mut Account)) {
        if let Some(account) = self.accounts.lock().unwrap().get_mut(label) {
            change(account);
        }
    }

    fn change(&self, label: &str, change: impl FnOnce(&mut Account)) {
        change(self.accounts.lock().unwrap().entry(label.to_owned()).or_default());
    }

    fn some(&self, chance: &mut Chance) -> String {
        let accounts = self.accounts.lock().unwrap();
        // Few of them, so that writers meet.
        let at = chance.below(accounts.len().min(12) as u64);
        accounts.keys().nth(at as usize).cloned().unwrap()
    }
}

/// One version of the application.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Version {
    Old,
    New,
}

struct Writer {
    number: u64,
    version: Version,
    client: Client,
    books: Arc<Books>,
    chance: Chance,
    made: u64,
    statements: u64,
    deadlocks: u64,
    slowest: Duration,
}

impl Writer {
    /// The number of rows that were written. A deadlock is no failure: the transaction is made again.
    async fn send(&mut self, sql: &str) -> u64 {
        loop {
            let began = Instant::now();
            let result = self.client.simple_query(sql).await;
            self.slowest = self.slowest.max(began.elapsed());
            self.statements += 1;
            match result {
                Ok(messages) => {
                    let count = |message: &SimpleQueryMessage| match message {
                        SimpleQueryMessage::CommandComplete(count) => *count,
                        _ => 0,
                    };
                    return messages.iter().map(count).max().unwrap_or_default();
                }
                Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {
                    self.client.batch_execute("ROLLBACK").await.unwrap();
                    self.deadlocks += 1;
                }
                Err(error) => {
                    let complaint = format!("{error:?}: {sql}");
                    self.books.complaints.lock().unwrap().push(complaint);
                    self.client.batch_execute("ROLLBACK").await.unwrap();
                    return 0;
                }
            }
        }
    }

    async fn write(&mut self) {
        match (self.version, self.chance.below(12)) {
            (Version::Old, 0) => self.insert_old().await,
            (Version::New, 0) => self.insert_new().await,
            (_, 1) => self.delete().await,
            (Version::Old, 2) => self.change_key().await,
            (_, 3..=5) => self.switch().await,
            (_, 6..=7) => self.close().await,
            _ => self.count().await,
        }
    }

    fn label(&mut self) -> String {
        self.made += 1;
        // Sorted among the first, so that others write to it.
        format!("a {:?} {} {}", self.version, self.number, self.made)
    }

    async fn insert_old(&mut self) {
        let label = self.label();
        let sql = format!("INSERT INTO customer_portfolios (label, account) VALUES ('{label}', NULL)");
        self.send(&sql).await;
        // In a transaction of its own it becomes one that has a counterpart, and in the other one it is made live.
        let sql = format!("UPDATE customer_portfolios SET account = 7 WHERE label = '{label}'");
        self.send(&sql).await;
        let sql = format!(
            "INSERT INTO lth.customer_strategies (portfolio_id) SELECT portfolio_id FROM customer_portfolios WHERE label = '{label}'"
        );
        self.send(&sql).await;
        self.books.change(&label, |account| account.live = true);
    }

    async fn insert_new(&mut self) {
        let label = self.label();
        let sql = format!(
            "INSERT INTO customer_strategies (label, account, status) VALUES ('{label}', 8, 'active')"
        );
        self.send(&sql).await;
        self.books.change(&label, |account| account.live = true);
    }

    async fn count(&mut self) {
        let label = self.books.some(&mut self.chance);
        let (table, column) = match self.version {
            Version::Old => ("customer_portfolios", "by_old"),
            Version::New => ("customer_strategies", "by_new"),
        };
        let sql = format!("UPDATE {table} SET {column} = {column} + 1 WHERE label = '{label}'");
        let written = self.send(&sql).await;
        if written > 0 {
            self.books.change_known(&label, |account| match self.version {
                Version::Old => account.by_old += 1,
                Version::New => account.by_new += 1,
            });
        }
    }

    async fn switch(&mut self) {
        let label = self.books.some(&mut self.chance);
        let sql = match self.version {
            Version::Old => format!(
                "UPDATE lth.customer_strategies AS s SET live = NOT live, switched = switched + 1 \
                 FROM customer_portfolios AS p WHERE p.portfolio_id = s.portfolio_id AND label = '{label}'"
            ),
            Version::New => format!(
                "UPDATE customer_strategies SET live = NOT live, switched = switched + 1 \
                 WHERE label = '{label}' AND min_order IS NOT NULL"
            ),
        };
        if self.send(&sql).await > 0 {
            self.books.change_known(&label, |account| account.switched += 1);
        }
    }

    async fn close(&mut self) {
        let label = self.books.some(&mut self.chance);
        let table = match self.version {
            Version::Old => "customer_portfolios",
            Version::New => "customer_strategies",
        };
        let sql = format!(
            "UPDATE {table} SET status = CASE status WHEN 'active' THEN 'closed' ELSE 'active' END, \
             closed_at = CASE status WHEN 'active' THEN now() END WHERE label = '{label}'"
        );
        self.send(&sql).await;
    }

    async fn change_key(&mut self) {
        let label = self.books.some(&mut self.chance);
        let sql = format!(
            "UPDATE customer_portfolios SET portfolio_id = gen_random_uuid() WHERE label = '{label}'"
        );
        self.send(&sql).await;
    }

    /// Only what this writer made itself: others then find nothing to write.
    async fn delete(&mut self) {
        let own = format!("a {:?} {} ", self.version, self.number);
        let label = {
            let accounts = self.books.accounts.lock().unwrap();
            accounts.keys().find(|label| label.starts_with(&own)).cloned()
        };
        let Some(label) = label else { return };
        let sql = match self.version {
            Version::Old => format!(
                "BEGIN; SELECT FROM customer_portfolios WHERE label = '{label}' FOR UPDATE; \
                 DELETE FROM lth.customer_strategies AS s USING customer_portfolios AS p \
                  WHERE p.portfolio_id = s.portfolio_id AND label = '{label}'; \
                 DELETE FROM customer_portfolios WHERE label = '{label}'; COMMIT"
            ),
            Version::New => format!("DELETE FROM customer_strategies WHERE label = '{label}'"),
        };
        self.send(&sql).await;
        self.books.accounts.lock().unwrap().remove(&label);
    }
}

struct Traffic {
    gate: Arc<RwLock<()>>,
    stop: watch::Sender<bool>,
    count: watch::Receiver<u64>,
    books: Arc<Books>,
    writers: Vec<JoinHandle<Writer>>,
}

impl Traffic {
    async fn start(database: &Database<'_>, versions: &[Version]) -> Self {
        let books = Arc::new(Books::default());
        let sql = "SELECT label, s.portfolio_id IS NOT NULL FROM customer_portfolios \
                   LEFT JOIN lth.customer_strategies AS s USING (portfolio_id)";
        for row in database.admin.query(sql, &[]).await.unwrap() {
            books.change(row.get(0), |account| account.live = row.get(1));
        }
        let (stop, stopped) = watch::channel(false);
        let (counter, count) = watch::channel(0);
        let gate = Arc::new(RwLock::new(()));
        let mut traffic = Self {
            gate,
            stop,
            count,
            books,
            writers: Vec::new(),
        };
        for version in versions {
            let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
            let mut writer = Writer {
                number,
                version: *version,
                client: database.server.connect(&database.name).await,
                books: Arc::clone(&traffic.books),
                chance: Chance(number),
                made: 0,
                statements: 0,
                deadlocks: 0,
                slowest: Duration::ZERO,
            };
            let (stopped, counter, gate) = (stopped.clone(), counter.clone(), Arc::clone(&traffic.gate));
            traffic.writers.push(tokio::spawn(async move {
                while !*stopped.borrow() {
                    let open = gate.read().await;
                    writer.write().await;
                    drop(open);
                    counter.send_modify(|count| *count += 1);
                }
                writer
            }));
        }
        traffic
    }

    async fn go_on(&self, writes: u64) {
        let mut count = self.count.clone();
        let goal = *count.borrow() + writes;
        let reached = tokio::time::timeout(PATIENCE, count.wait_for(|count| *count >= goal)).await;
        assert!(reached.is_ok_and(|it| it.is_ok()), "the application stands still");
    }

    /// While nobody writes for a moment, both sides say the same, and what was acknowledged.
    async fn compare(&self, database: &Database<'_>) {
        let _closed = self.gate.write().await;
        assert_eq!(unequal(database).await, Vec::<String>::new());
        self.settled(database).await;
    }

    async fn settled(&self, database: &Database<'_>) {
        let complaints = std::mem::take(&mut *self.books.complaints.lock().unwrap());
        assert_eq!(complaints, Vec::<String>::new());
        let sql = "SELECT label, by_old, by_new, coalesce(switched, 0), s.portfolio_id IS NOT NULL \
                   FROM customer_portfolios LEFT JOIN lth.customer_strategies AS s USING (portfolio_id)";
        let rows = database.admin.query(sql, &[]).await.unwrap();
        let found: BTreeMap<String, Account> = rows
            .iter()
            .map(|row| {
                let account = Account {
                    by_old: row.get(1),
                    by_new: row.get(2),
                    switched: row.get(3),
                    live: row.get(4),
                };
                (row.get(0), account)
            })
            .collect();
        let expected = self.books.accounts.lock().unwrap().clone();
        let wrong = |(label, account): &(&String, &Account)| found.get(*label) != Some(account);
        let wrong: Vec<_> = expected
            .iter()
            .filter(wrong)
            .map(|(label, it)| (label, it, found.get(label)))
            .collect();
        assert!(
            wrong.is_empty(),
            "acknowledged and found: {:?}",
            &wrong[..wrong.len().min(5)]
        );
        assert_eq!(
            found.len(),
            expected.len(),
            "rows that nobody made, or that were deleted"
        );
    }

    async fn stop(self, database: &Database<'_>) {
        self.stop.send_replace(true);
        let mut statements = BTreeMap::new();
        let (mut deadlocks, mut slowest) = (0, Duration::ZERO);
        let Self {
            writers,
            books,
            gate,
            stop,
            count,
        } = self;
        for writer in writers {
            let writer = writer.await.unwrap();
            *statements.entry(format!("{:?}", writer.version)).or_insert(0) += writer.statements;
            deadlocks += writer.deadlocks;
            slowest = slowest.max(writer.slowest);
        }
        eprintln!("statements {statements:?}, deadlocks {deadlocks}, slowest {slowest:.1?}");
        let stopped = Self {
            writers: Vec::new(),
            books,
            gate,
            stop,
            count,
        };
        stopped.settled(database).await;
    }
}

async fn unequal(database: &Database<'_>) -> Vec<String> {
    let rows = database.admin.query(UNEQUAL, &[]).await.unwrap();
    let show = |row: &tokio_postgres::Row| {
        let side = |at: usize| {
            row.get::<_, Option<serde_json::Value>>(at)
                .map(|it| it.to_string())
        };
        format!("{:?} | {:?}", side(0), side(1))
    };
    rows.iter().map(show).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_write_to_the_same_entities() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, SETUP).await;
    let plan = database.planned(PLAN).await;
    // Until the copy is complete only the old version works.
    let before = Traffic::start(&database, &[Version::Old, Version::Old, Version::Old]).await;
    before.go_on(50).await;
    database.apply(&plan, Phase::Validate).await.unwrap();
    before.go_on(200).await;
    before.compare(&database).await;
    before.stop(&database).await;

    let reset = "UPDATE customer_portfolios SET by_old = 0, by_new = 0; UPDATE lth.customer_strategies SET switched = 0";
    database.admin.batch_execute(reset).await.unwrap();
    assert_eq!(unequal(&database).await, Vec::<String>::new());
    let both = Traffic::start(
        &database,
        &[Version::Old, Version::New, Version::Old, Version::New],
    )
    .await;
    for _ in 0..4 {
        both.go_on(400).await;
        both.compare(&database).await;
    }
    database.apply(&plan, Phase::Cutover).await.unwrap();
    both.go_on(100).await;
    both.compare(&database).await;
    both.stop(&database).await;
    // Everything that either version wrote is in the old tables, which go on alone.
    let old = Traffic::start(&database, &[Version::Old]).await;
    old.go_on(20).await;
    database.rollback(&plan).await.unwrap();
    old.go_on(20).await;
    assert_eq!(database.leftovers().await, Vec::<String>::new());
    old.stop.send_replace(true);
    database.drop().await;
}
