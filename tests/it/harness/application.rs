//! The application of the seed tables: it inserts, counts versions up under optimistic locks, deletes, and reads by
//! key, and keeps account of every write that was acknowledged. It survives a server that dies: then it connects
//! again and asks, row by row, whether a write without an answer has happened.

use super::PATIENCE;
use super::database::Database;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// What a plan may make a statement wait: `lock_timeout` while it queues behind us, 100 ms under the lock, and 400 ms
/// for a machine whose few cores the whole suite shares.
pub const LONGEST: Duration = Duration::from_millis(200 + 100 + 400);

const THINK_TIME: Duration = Duration::from_millis(4);
const WRITERS: usize = 3;

pub const TABLES: [&str; 3] = ["forecast_snapshots", "investment_lots", "reserve_allocations"];

/// The same choices for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Insert,
    Update,
    Delete,
    Read,
}

/// A row as this writer last knew it: its key and its version.
type Row = (String, i64);

#[derive(Debug, Default)]
pub struct Balance {
    pub statements: u64,
    /// Writes whose answer was lost.
    pub unanswered: u64,
    pub slowest: Duration,
    /// Failed, late, lost and stale: must be empty.
    pub complaints: Vec<String>,
}

impl Balance {
    fn add(&mut self, other: Self) {
        self.statements += other.statements;
        self.unanswered += other.unanswered;
        self.slowest = self.slowest.max(other.slowest);
        self.complaints.extend(other.complaints);
    }
}

/// The only one who writes its rows, so that its account of them is exact.
struct Writer {
    number: usize,
    config: Config,
    client: Client,
    account: [Vec<Row>; 3],
    chance: Chance,
    inserted: u64,
    balance: Balance,
}

fn insert(table: usize, id: &str, key: &str, n: u64) -> String {
    let (columns, values) = match table {
        0 => ("fund_id, name", format!("{}, 'of the application'", n % 500)),
        1 => (
            "investment_id, lot_type, share_price_cents, shares_acquired, cost_basis_cents",
            format!("{}, 'initial', 100, 0.5, 50", n % 2000),
        ),
        _ => (
            "snapshot_id, company_id, planned_reserve_cents",
            format!("'{id}', {}, 100", n % 300),
        ),
    };
    format!(
        "INSERT INTO {} (id, idempotency_key, {columns}) VALUES ('{id}', '{key}', {values}) RETURNING version",
        TABLES[table]
    )
}

/// The versions in an answer.
fn versions(messages: &[SimpleQueryMessage]) -> Vec<i64> {
    let version = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap().parse().unwrap()),
        _ => None,
    };
    messages.iter().filter_map(version).collect()
}

/// Whether the server went away, or said that it is about to.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    let Some(db) = error.as_db_error() else {
        return true;
    };
    db.code().code().starts_with("57P") || db.code().code().starts_with("08")
}

async fn connect(config: &Config) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(
                Instant::now() < deadline,
                "the application cannot connect: {error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Writer {
    async fn go(&mut self) {
        let table = self.chance.index(TABLES.len());
        let act = match self.chance.below(10) {
            0..3 => Act::Insert,
            3..7 => Act::Update,
            7 => Act::Delete,
            _ => Act::Read,
        };
        let rows = &self.account[table];
        if act == Act::Insert || rows.is_empty() {
            self.inserted += 1;
            let (writer, n) = (self.number, self.inserted);
            let id = format!("{writer:08x}-0000-4000-8000-{n:012x}");
            let sql = insert(table, &id, &format!("app-{writer}-{n}"), n);
            return self.done(table, Act::Insert, None, id, &sql).await;
        }
        let at = self.chance.index(rows.len());
        let (id, version) = rows[at].clone();
        let name = TABLES[table];
        let sql = match act {
            Act::Update => format!(
                "UPDATE {name} SET version = version + 1 WHERE id = '{id}' AND version = {version} \
                 RETURNING version"
            ),
            Act::Delete => {
                format!("DELETE FROM {name} WHERE id = '{id}' AND version = {version} RETURNING version")
            }
            _ => format!("SELECT version FROM {name} WHERE id = '{id}'"),
        };
        self.done(table, act, Some((at, version)), id, &sql).await;
    }

    /// Sends a statement and brings the account up to date, whatever became of it.
    async fn done(&mut self, table: usize, act: Act, known: Option<(usize, i64)>, id: String, sql: &str) {
        let began = Instant::now();
        let result = self.client.simple_query(sql).await;
        let took = began.elapsed();
        let before = known.map(|(_, version)| version);
        let found = match result {
            Ok(messages) => {
                self.balance.statements += 1;
                self.balance.slowest = self.balance.slowest.max(took);
                if took > LONGEST {
                    self.complain(format!("waited {took:?}: {sql}"));
                }
                self.answered(act, before, &versions(&messages), sql)
            }
            Err(error) if is_lost(&error) => {
                self.balance.unanswered += 1;
                self.ask_again(table, act, before, &id, sql).await
            }
            Err(error) => {
                let why = error.as_db_error().map_or(error.to_string(), ToString::to_string);
                self.complain(format!("failed with {why}: {sql}"));
                before
            }
        };
        let rows = &mut self.account[table];
        match (known, found) {
            (Some((at, _)), Some(version)) => rows[at].1 = version,
            (Some((at, _)), None) => drop(rows.swap_remove(at)),
            (None, Some(version)) => rows.push((id, version)),
            (None, None) => {}
        }
    }

    fn complain(&mut self, what: String) {
        // The first ones tell the story.
        if self.balance.complaints.len() < 5 {
            self.balance.complaints.push(what);
        }
    }

    /// The version that the row has after an answer; `None` when it is gone.
    fn answered(&mut self, act: Act, before: Option<i64>, answer: &[i64], sql: &str) -> Option<i64> {
        let &[version] = answer else {
            self.complain(format!("lost or stale, expected {before:?}: {sql}"));
            return before;
        };
        let wanted = match act {
            Act::Insert => Some(version),
            Act::Update => before.map(|before| before + 1),
            Act::Delete | Act::Read => before,
        };
        if wanted != Some(version) {
            self.complain(format!("found {version}, expected {wanted:?}: {sql}"));
        }
        (act != Act::Delete).then_some(version)
    }

    /// Without an answer the write has happened or not, and nothing else.
    async fn ask_again(
        &mut self,
        table: usize,
        act: Act,
        before: Option<i64>,
        id: &str,
        sql: &str,
    ) -> Option<i64> {
        let question = format!("SELECT version FROM {} WHERE id = '{id}'", TABLES[table]);
        let found = loop {
            self.client = connect(&self.config).await;
            match self.client.simple_query(&question).await {
                Ok(messages) => break versions(&messages).first().copied(),
                Err(error) if is_lost(&error) => {}
                Err(error) => panic!("{error}: {question}"),
            }
        };
        let happened = match act {
            Act::Insert => found.is_some(),
            Act::Update => found == before.map(|before| before + 1),
            Act::Delete => found.is_none(),
            Act::Read => false,
        };
        if !happened && found != before {
            self.complain(format!(
                "after a lost answer found {found:?}, expected {before:?}: {sql}"
            ));
        }
        found
    }
}

/// The application at work, until it is settled.
pub struct Application {
    stop: watch::Sender<bool>,
    count: watch::Receiver<u64>,
    writers: Vec<JoinHandle<Writer>>,
}

impl Application {
    pub async fn start(database: &Database<'_>, chance: &mut Chance) -> Self {
        let config = database.server.config(&database.name, "postgres");
        let (stop, stopped) = watch::channel(false);
        let (counter, count) = watch::channel(0);
        let first = connect(&config).await;
        // Shared out before the first of them begins, so that each row has one owner.
        let mut accounts: Vec<[Vec<Row>; 3]> = vec![Default::default(); WRITERS];
        for (table, name) in TABLES.iter().enumerate() {
            for (at, row) in rows_of(&first, name).await.into_iter().enumerate() {
                accounts[at % WRITERS][table].push(row);
            }
        }
        let mut writers = Vec::new();
        for (number, account) in accounts.into_iter().enumerate() {
            let client = connect(&config).await;
            let mut writer = Writer {
                number,
                config: config.clone(),
                client,
                account,
                chance: Chance(chance.below(u64::MAX)),
                inserted: 0,
                balance: Balance::default(),
            };
            let (stopped, counter) = (stopped.clone(), counter.clone());
            writers.push(tokio::spawn(async move {
                while !*stopped.borrow() {
                    writer.go().await;
                    counter.send_modify(|count| *count += 1);
                    tokio::time::sleep(THINK_TIME).await;
                }
                writer
            }));
        }
        Self { stop, count, writers }
    }

    /// Waits until it has done so many statements more.
    pub async fn go_on(&self, statements: u64) {
        let mut count = self.count.clone();
        let goal = *count.borrow() + statements;
        let reached = tokio::time::timeout(PATIENCE, count.wait_for(|count| *count >= goal)).await;
        assert!(
            reached.is_ok_and(|reached| reached.is_ok()),
            "the application stands still"
        );
    }

    /// Stops, and compares the tables with the account.
    pub async fn settle(self, database: &Database<'_>) -> Balance {
        self.stop.send_replace(true);
        let mut balance = Balance::default();
        let mut expected: [BTreeMap<String, i64>; 3] = Default::default();
        for writer in self.writers {
            let writer = writer.await.unwrap();
            balance.add(writer.balance);
            for (all, mine) in expected.iter_mut().zip(writer.account) {
                all.extend(mine);
            }
        }
        let client = connect(&database.server.config(&database.name, "postgres")).await;
        for (table, expected) in TABLES.iter().zip(&expected) {
            let found: BTreeMap<String, i64> = rows_of(&client, table).await.into_iter().collect();
            let wrong = expected
                .iter()
                .filter(|(id, version)| found.get(*id) != Some(version));
            let lost = wrong
                .take(5)
                .map(|(id, version)| format!("{table} {id} {version}: {:?}", found.get(id)));
            balance.complaints.extend(lost);
            if found.len() != expected.len() {
                let (found, expected) = (found.len(), expected.len());
                balance
                    .complaints
                    .push(format!("{table} has {found} rows, not {expected}"));
            }
        }
        balance
    }
}

async fn rows_of(client: &Client, table: &str) -> Vec<Row> {
    let sql = format!("SELECT id::text, version::bigint FROM {table} ORDER BY id");
    let rows = client.query(&sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
