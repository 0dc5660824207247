//! An application of these or those tables: it inserts, counts versions up under optimistic locks, deletes, and reads
//! by key, and keeps account of every write that was acknowledged. It survives a server that dies: then it connects
//! again and asks, row by row, whether a write without an answer has happened.

use super::PATIENCE;
use super::database::Database;
use super::noise::{self, Late, connect};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

/// What a plan may make a statement wait: `lock_timeout` while it queues behind us, 100 ms under the lock, and 400 ms
/// for a machine whose few cores the whole suite shares.
pub const LONGEST: Duration = Duration::from_millis(200 + 100 + 400);

const THINK_TIME: Duration = Duration::from_millis(4);
const WRITERS: usize = 3;

/// A table of the application. Its rows have an `id`, and a `version` that updates count up.
pub struct Table {
    pub name: &'static str,
    /// The column with the name that the application gives a row before it inserts it. By the name it asks for the
    /// row when the answer was lost.
    pub told_by: &'static str,
    /// The columns and values of a new row, as INSERT has them.
    pub insert: fn(&Fresh<'_>) -> String,
    /// What an update sets besides the version.
    pub update: &'static str,
    pub belongs: Belongs,
}

/// What the rows of a table refer to; this table is meant by its position.
#[derive(Clone, Copy)]
pub enum Belongs {
    Nowhere,
    /// New rows refer to a row of that table; they stay when it goes.
    To(usize),
    /// By this column every row refers to one of that table, and goes with it.
    Within(usize, &'static str),
}

/// A row that is about to be inserted.
pub struct Fresh<'a> {
    pub writer: usize,
    /// The how manieth of this writer it is.
    pub n: u64,
    pub name: &'a str,
    /// The `id` of the row that it may refer to; `NULL` when there is none.
    pub whose: &'a str,
}

fn portfolio(fresh: &Fresh<'_>, columns: &str, values: &str) -> String {
    let Fresh { writer, n, name, .. } = fresh;
    format!("(id, idempotency_key, {columns}) VALUES ('{name}', 'app-{writer}-{n}', {values})")
}

/// The tables of the seed plan.
pub const PORTFOLIO: &[Table] = &[
    Table {
        name: "forecast_snapshots",
        told_by: "id",
        insert: |fresh| {
            let fund = fresh.n % 500;
            portfolio(fresh, "fund_id, name", &format!("{fund}, 'of the application'"))
        },
        update: "",
        belongs: Belongs::Nowhere,
    },
    Table {
        name: "investment_lots",
        told_by: "id",
        insert: |fresh| {
            let columns = "investment_id, lot_type, share_price_cents, shares_acquired, cost_basis_cents";
            let investment = fresh.n % 2000;
            portfolio(fresh, columns, &format!("{investment}, 'initial', 100, 0.5, 50"))
        },
        update: "",
        belongs: Belongs::Nowhere,
    },
    Table {
        name: "reserve_allocations",
        told_by: "id",
        insert: |fresh| {
            let (name, company) = (fresh.name, fresh.n % 300);
            let columns = "snapshot_id, company_id, planned_reserve_cents";
            portfolio(fresh, columns, &format!("'{name}', {company}, 100"))
        },
        update: "",
        belongs: Belongs::Nowhere,
    },
];

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

    /// Some time within this one.
    pub fn moment(&mut self, within: Duration) -> Duration {
        Duration::from_micros(self.below(within.as_micros().try_into().unwrap()))
    }

    pub fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
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

/// A row as its writer last knew it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    name: String,
    id: String,
    version: i64,
    /// The row that it goes with, if it is of such a table.
    within: Option<String>,
}

/// The rows of each table.
type Account = Vec<Vec<Row>>;

/// A statement, and what is known before it is sent.
struct Turn {
    table: usize,
    act: Act,
    /// Where the row is in the account; a new one is not there yet, its version and `id` mean nothing.
    at: Option<usize>,
    row: Row,
    sql: String,
}

impl Turn {
    fn before(&self) -> Option<Answer> {
        self.at.map(|_| (self.row.id.clone(), self.row.version))
    }
}

/// `id` and version of a row.
type Answer = (String, i64);

#[derive(Debug, Default)]
pub struct Settlement {
    pub statements: u64,
    /// Writes whose answer was lost.
    pub unanswered: u64,
    pub slowest: Duration,
    late: Late,
    /// Writes that were acknowledged and are not there as they were, or are there and were not.
    pub lost: usize,
    /// Failed, late, lost and stale: must be empty.
    pub complaints: Vec<String>,
}

impl Settlement {
    fn add(&mut self, other: Self) {
        self.statements += other.statements;
        self.unanswered += other.unanswered;
        self.lost += other.lost;
        self.slowest = self.slowest.max(other.slowest);
        self.complaints.extend(other.complaints);
        self.late.add(other.late);
    }
}

/// The only one who writes its rows, so that its account of them is exact.
struct Writer {
    number: usize,
    config: Config,
    client: Client,
    tables: &'static [Table],
    account: Account,
    chance: Chance,
    inserted: u64,
    balance: Settlement,
}

fn answers(messages: &[SimpleQueryMessage]) -> Vec<Answer> {
    let answer = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((
            row.get(0).unwrap().to_owned(),
            row.get(1).unwrap().parse().unwrap(),
        )),
        _ => None,
    };
    messages.iter().filter_map(answer).collect()
}

/// Whether the server went away, or said that it is about to.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    let Some(db) = error.as_db_error() else {
        return true;
    };
    db.code().code().starts_with("57P") || db.code().code().starts_with("08")
}

impl Writer {
    fn choose(&mut self) -> Turn {
        let mut table = self.chance.index(self.tables.len());
        let act = match self.chance.below(10) {
            0..3 => Act::Insert,
            3..7 => Act::Update,
            7 => Act::Delete,
            _ => Act::Read,
        };
        if let Belongs::Within(whose, _) = self.tables[table].belongs
            && self.account[whose].is_empty()
        {
            table = whose;
        }
        let rows = &self.account[table];
        if act == Act::Insert || rows.is_empty() {
            return self.insert(table);
        }
        let at = self.chance.index(rows.len());
        let row = rows[at].clone();
        let Table { name, update, .. } = self.tables[table];
        let Row { id, version, .. } = &row;
        let sql = match act {
            Act::Update => format!(
                "UPDATE {name} SET version = version + 1{update} WHERE id = '{id}' AND version = {version} \
                 RETURNING id::text, version"
            ),
            Act::Delete => format!(
                "DELETE FROM {name} WHERE id = '{id}' AND version = {version} RETURNING id::text, version"
            ),
            _ => format!("SELECT id::text, version FROM {name} WHERE id = '{id}'"),
        };
        Turn {
            table,
            act,
            at: Some(at),
            row,
            sql,
        }
    }

    fn insert(&mut self, table: usize) -> Turn {
        self.inserted += 1;
        let (writer, n) = (self.number, self.inserted);
        let Table { belongs, insert, .. } = self.tables[table];
        let whose = match belongs {
            Belongs::Nowhere => None,
            Belongs::To(other) | Belongs::Within(other, _) => {
                let at = self.chance.index(self.account[other].len());
                self.account[other].get(at).map(|row| row.id.clone())
            }
        };
        let name = format!("{writer:08x}-0000-4000-8000-{n:012x}");
        let fresh = Fresh {
            writer,
            n,
            name: &name,
            whose: whose.as_deref().unwrap_or("NULL"),
        };
        let sql = format!(
            "INSERT INTO {} {} RETURNING id::text, version",
            self.tables[table].name,
            insert(&fresh)
        );
        Turn {
            table,
            act: Act::Insert,
            at: None,
            row: Row {
                name,
                id: String::new(),
                version: 0,
                within: whose.filter(|_| matches!(belongs, Belongs::Within(..))),
            },
            sql,
        }
    }

    /// Sends a statement and brings the account up to date, whatever became of it.
    async fn go(&mut self) {
        let turn = self.choose();
        let began = Instant::now();
        let result = self.client.simple_query(&turn.sql).await;
        let took = began.elapsed();
        let found = match result {
            Ok(messages) => {
                self.balance.statements += 1;
                self.balance.slowest = self.balance.slowest.max(took);
                self.balance.late.note(took, LONGEST, &turn.sql);
                self.answered(&turn, &answers(&messages))
            }
            Err(error) if is_lost(&error) => {
                self.balance.unanswered += 1;
                self.ask_again(&turn).await
            }
            Err(error) => {
                let why = error.as_db_error().map_or(error.to_string(), ToString::to_string);
                self.complain(format!("failed with {why}: {}", turn.sql));
                turn.before()
            }
        };
        let Turn { table, at, row, .. } = turn;
        let rows = &mut self.account[table];
        match (at, found) {
            (Some(at), Some((_, version))) => rows[at].version = version,
            (Some(at), None) => {
                rows.swap_remove(at);
                self.forget_within(table, &row.id);
            }
            (None, Some((id, version))) => rows.push(Row { id, version, ..row }),
            (None, None) => {}
        }
    }

    /// What goes with a row that has gone.
    fn forget_within(&mut self, table: usize, id: &str) {
        for (of, rows) in self.tables.iter().zip(&mut self.account) {
            if matches!(of.belongs, Belongs::Within(whose, _) if whose == table) {
                rows.retain(|row| row.within.as_deref() != Some(id));
            }
        }
    }

    fn complain(&mut self, what: String) {
        // The first ones tell the story.
        if self.balance.complaints.len() < 5 {
            self.balance.complaints.push(what);
        }
    }

    fn lose(&mut self, what: String) {
        self.balance.lost += 1;
        self.complain(what);
    }

    /// What the row is after an answer; `None` when it is gone.
    fn answered(&mut self, turn: &Turn, answer: &[Answer]) -> Option<Answer> {
        let before = turn.before();
        let [found] = answer else {
            self.lose(format!("lost or stale, expected {before:?}: {}", turn.sql));
            return before;
        };
        let wanted = match turn.act {
            Act::Insert => Some(found.clone()),
            Act::Update => after_update(before),
            Act::Delete | Act::Read => before,
        };
        if wanted.as_ref() != Some(found) {
            self.lose(format!("found {found:?}, expected {wanted:?}: {}", turn.sql));
        }
        (turn.act != Act::Delete).then(|| found.clone())
    }

    /// Without an answer the write has happened or not, and nothing else.
    async fn ask_again(&mut self, turn: &Turn) -> Option<Answer> {
        let Table { name, told_by, .. } = self.tables[turn.table];
        let question = format!(
            "SELECT id::text, version FROM {name} WHERE {told_by} = '{}'",
            turn.row.name
        );
        let found = loop {
            self.client = connect(&self.config).await;
            match self.client.simple_query(&question).await {
                Ok(messages) => break answers(&messages).first().cloned(),
                Err(error) if is_lost(&error) => {}
                Err(error) => panic!("{error}: {question}"),
            }
        };
        let before = turn.before();
        let happened = match turn.act {
            Act::Insert => found.is_some(),
            Act::Update => found == after_update(before.clone()),
            Act::Delete => found.is_none(),
            Act::Read => false,
        };
        if !happened && found != before {
            self.lose(format!(
                "after a lost answer found {found:?}, expected {before:?}: {}",
                turn.sql
            ));
        }
        found
    }
}

fn after_update(before: Option<Answer>) -> Option<Answer> {
    before.map(|(id, version)| (id, version + 1))
}

/// The application at work, until it is settled.
pub struct Application {
    stop: watch::Sender<bool>,
    count: watch::Receiver<u64>,
    writers: Vec<JoinHandle<Writer>>,
    noise: JoinHandle<Duration>,
    tables: &'static [Table],
}

impl Application {
    pub async fn start(database: &Database<'_>, tables: &'static [Table], chance: &mut Chance) -> Self {
        let config = database.server.config(&database.name, "postgres");
        let (stop, stopped) = watch::channel(false);
        let (counter, count) = watch::channel(0);
        let first = connect(&config).await;
        // Shared out before the first of them begins, so that each row has one owner: the same as the one of the row
        // that it goes with.
        let mut owners: Vec<HashMap<String, usize>> = Vec::new();
        let mut accounts: Vec<Account> = vec![vec![Vec::new(); tables.len()]; WRITERS];
        for (position, table) in tables.iter().enumerate() {
            let mut owner_of = HashMap::new();
            for (at, row) in rows_of(&first, table).await.into_iter().enumerate() {
                let owner = match (table.belongs, &row.within) {
                    (Belongs::Within(whose, _), Some(id)) => owners[whose][id],
                    _ => at % WRITERS,
                };
                owner_of.insert(row.id.clone(), owner);
                accounts[owner][position].push(row);
            }
            owners.push(owner_of);
        }
        let mut writers = Vec::new();
        for (number, account) in accounts.into_iter().enumerate() {
            let client = connect(&config).await;
            let mut writer = Writer {
                number,
                config: config.clone(),
                client,
                tables,
                account,
                chance: Chance(chance.below(u64::MAX)),
                inserted: 0,
                balance: Settlement::default(),
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
        Self {
            noise: noise::measure(config, stopped),
            stop,
            count,
            writers,
            tables,
        }
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
    pub async fn settle(self, database: &Database<'_>) -> Settlement {
        self.stop.send_replace(true);
        let mut balance = Settlement::default();
        let mut expected: Vec<BTreeMap<String, Row>> = vec![BTreeMap::new(); self.tables.len()];
        for writer in self.writers {
            let writer = writer.await.unwrap();
            balance.add(writer.balance);
            for (all, mine) in expected.iter_mut().zip(writer.account) {
                all.extend(mine.into_iter().map(|row| (row.id.clone(), row)));
            }
        }
        let late = std::mem::take(&mut balance.late);
        let noise = self.noise.await.unwrap();
        balance.complaints.extend(late.complaints(LONGEST, noise));
        let client = connect(&database.server.config(&database.name, "postgres")).await;
        for (table, expected) in self.tables.iter().zip(&expected) {
            let name = table.name;
            let rows = rows_of(&client, table).await.into_iter();
            let found: BTreeMap<String, Row> = rows.map(|row| (row.id.clone(), row)).collect();
            let wrong: Vec<_> = expected
                .iter()
                .filter(|(id, row)| found.get(*id) != Some(row))
                .collect();
            balance.lost += wrong.len();
            let lost = wrong
                .into_iter()
                .take(5)
                .map(|(id, row)| format!("{name} has {:?}, not {row:?}", found.get(id)));
            balance.complaints.extend(lost);
            let unknown: Vec<_> = found
                .iter()
                .filter(|(id, _)| !expected.contains_key(*id))
                .collect();
            balance.lost += unknown.len();
            let more = unknown
                .into_iter()
                .take(5)
                .map(|(_, row)| format!("{name} has {row:?}, of which nothing is known"));
            balance.complaints.extend(more);
        }
        balance
    }
}

async fn rows_of(client: &Client, table: &Table) -> Vec<Row> {
    let within = match table.belongs {
        Belongs::Within(_, column) => column,
        Belongs::Nowhere | Belongs::To(_) => "NULL",
    };
    let sql = format!(
        "SELECT {}::text, id::text, version::bigint, {within}::text FROM {} ORDER BY id",
        table.told_by, table.name
    );
    let rows = client.query(&sql, &[]).await.unwrap();
    let row = |row: &tokio_postgres::Row| Row {
        name: row.get(0),
        id: row.get(1),
        version: row.get(2),
        within: row.get(3),
    };
    rows.iter().map(row).collect()
}
