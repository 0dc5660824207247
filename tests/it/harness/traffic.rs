//! The application that goes on working while a plan runs: a writer that keeps account of what the server
//! acknowledged, and a reader. Both measure how long each statement took. A third session that touches no table
//! measures how late the machine itself makes a statement.

use super::noise::{self, Late};
use super::{Database, PATIENCE};
use pgmorph::plan::{Action, ExecutionPlan, Step};
use pgmorph::sql::{QualifiedName, ident, literal};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Between two statements, so that the application does not take the whole machine.
const THINK_TIME: Duration = Duration::from_millis(1);

/// Added to what a plan may make a statement wait, besides the delay of the session that touches no table:
/// the whole suite shares a few cores with its servers, so that a statement may be late although nothing holds it.
const SCHEDULING_NOISE: Duration = Duration::from_millis(400);

/// Beyond `lock_timeout`, during which one attempt may make others queue: the statements under the lock.
const UNDER_THE_LOCK: Duration = Duration::from_millis(100);

type Value = Option<String>;

/// A row as text, column by column, with the types of those columns whose type the plan changes.
#[derive(Debug, Clone)]
struct Row {
    values: Vec<Value>,
    types: Vec<Value>,
}

/// A table that the application uses, by the columns that the plan leaves in place.
#[derive(Debug, Clone)]
struct Target {
    table: QualifiedName,
    columns: Vec<TargetColumn>,
    /// Positions of the key columns; without them the table is only read.
    key: Vec<usize>,
    /// Whether rows may be deleted and inserted again.
    replaceable: bool,
}

#[derive(Debug, Clone)]
struct TargetColumn {
    name: String,
    retyped: bool,
}

impl Target {
    /// Columns, then the types of the retyped ones.
    fn list(&self) -> String {
        let columns = self.columns.iter().map(|column| ident(&column.name));
        let types = self
            .columns
            .iter()
            .filter(|column| column.retyped)
            .map(|column| format!("pg_typeof({})", ident(&column.name)));
        columns.chain(types).collect::<Vec<_>>().join(", ")
    }

    fn row(&self, row: &tokio_postgres::SimpleQueryRow) -> Row {
        let value = |position| row.get(position).map(str::to_owned);
        let retyped = self.columns.iter().filter(|column| column.retyped).count();
        Row {
            values: (0..self.columns.len()).map(value).collect(),
            types: (self.columns.len()..self.columns.len() + retyped)
                .map(value)
                .collect(),
        }
    }

    fn key_of(&self, row: &Row) -> Vec<Value> {
        self.key
            .iter()
            .map(|position| row.values[*position].clone())
            .collect()
    }

    fn is_key(&self, key: &[Value]) -> String {
        let equal = |(position, value): (&usize, &Value)| {
            format!("{} = {}", ident(&self.columns[*position].name), literal_of(value))
        };
        let conditions = self.key.iter().zip(key).map(equal);
        conditions.collect::<Vec<_>>().join(" AND ")
    }
}

fn literal_of(value: &Value) -> String {
    value.as_deref().map_or("NULL".into(), literal)
}

/// What the application does, derived from the plan or read from `writer.sql` and `reader.sql`.
#[derive(Clone)]
pub struct Workload {
    targets: Vec<Target>,
    writes: Vec<Scripted>,
    reads: Vec<Scripted>,
    longest: Duration,
}

/// A statement of a script. `:id` stands for the key of a random row, `:n` for a number never used before.
#[derive(Debug, Clone)]
struct Scripted {
    sql: String,
    target: usize,
}

/// One statement per paragraph; `-- table: name` in front of it tells the table where the plan has several.
fn script(text: &str, targets: &[Target]) -> Vec<Scripted> {
    let mut table = None;
    let mut found = Vec::new();
    for paragraph in text.split("\n\n") {
        let mut sql = String::new();
        for line in paragraph.lines() {
            match line.strip_prefix("-- table: ") {
                Some(name) => table = Some(QualifiedName::parse(name.trim(), "public").unwrap()),
                None if line.starts_with("--") => {}
                None => writeln!(sql, "{line}").unwrap(),
            }
        }
        let sql = sql.trim().trim_end_matches(';').to_owned();
        if sql.is_empty() {
            continue;
        }
        let target = match &table {
            Some(name) => targets.iter().position(|target| &target.table == name),
            None => (targets.len() == 1).then_some(0),
        };
        let target = target.unwrap_or_else(|| panic!("which table is this for? {sql}"));
        found.push(Scripted { sql, target });
    }
    found
}

fn is_copied_into(plan: &ExecutionPlan, table: &QualifiedName) -> bool {
    let copies = |action: &Action| matches!(action, Action::Copy(copying) if &copying.into == table);
    plan.steps.iter().any(|step| copies(&step.work.action))
}

/// Columns of the application's own that the plan sets in its rows.
fn filled_columns(plan: &ExecutionPlan, table: &QualifiedName) -> Vec<String> {
    let tree = plan.before.tree(table);
    let filled = |step: &Step| match &step.work.action {
        Action::Backfill(backfill) if tree.contains(&backfill.table) => backfill.columns.clone(),
        _ => Vec::new(),
    };
    plan.steps.iter().flat_map(filled).collect()
}

impl Workload {
    pub async fn new(
        database: &Database<'_>,
        plan: &ExecutionPlan,
        writer: Option<&str>,
        reader: Option<&str>,
    ) -> Self {
        let sql = "SELECT DISTINCT confrelid::regclass::oid FROM pg_constraint WHERE contype = 'f'";
        let referenced = database.admin.query(sql, &[]).await.unwrap();
        let referenced: Vec<u32> = referenced.iter().map(|row| row.get(0)).collect();
        let mut targets = Vec::new();
        for (name, table) in &plan.before.tables {
            let Some(after) = plan.after.tables.get(name) else {
                continue;
            };
            if table.partition_of.is_some() || !table.inherits.is_empty() || is_copied_into(plan, name) {
                continue;
            }
            let filled = filled_columns(plan, name);
            let common = table
                .columns
                .iter()
                .filter(|column| column.generated.is_none() && !filled.contains(&column.name));
            let columns: Vec<TargetColumn> = common
                .filter_map(|column| {
                    let retyped = after.column(&column.name)?.data_type != column.data_type;
                    Some(TargetColumn {
                        name: column.name.clone(),
                        retyped,
                    })
                })
                .collect();
            let position = |name: &String| columns.iter().position(|column| &column.name == name);
            let by_convention = || vec!["id".to_owned()];
            let key = match table.primary_key() {
                Some((_, constraint)) => constraint.columns.clone(),
                None => by_convention(),
            };
            let key: Vec<usize> = key
                .iter()
                .map(position)
                .collect::<Option<_>>()
                .unwrap_or_default();
            let sql = "SELECT to_regclass($1)::oid";
            let oid: u32 = database
                .admin
                .query_one(sql, &[&name.to_string()])
                .await
                .unwrap()
                .get(0);
            let to_be_referenced = !plan.after.incoming_foreign_keys(name).is_empty();
            targets.push(Target {
                table: name.clone(),
                columns,
                key,
                replaceable: !referenced.contains(&oid) && !to_be_referenced,
            });
        }
        let longest = plan
            .steps
            .iter()
            .filter_map(|step| step.work.timeouts.lock_ms)
            .max();
        let longest = Duration::from_millis(longest.unwrap_or(0));
        Self {
            writes: writer.map(|text| script(text, &targets)).unwrap_or_default(),
            reads: reader.map(|text| script(text, &targets)).unwrap_or_default(),
            targets,
            longest: longest + UNDER_THE_LOCK + SCHEDULING_NOISE,
        }
    }
}

/// What the application met.
#[derive(Debug, Default, Clone)]
pub struct Balance {
    pub statements: u64,
    pub slowest: Duration,
    late: Late,
    /// Failed, late and lost: must be empty.
    pub complaints: Vec<String>,
}

impl Balance {
    fn count(&mut self, sql: &str, began: Instant, longest: Duration) {
        let took = began.elapsed();
        self.statements += 1;
        self.slowest = self.slowest.max(took);
        self.late.note(took, longest, sql);
    }

    fn failed(&mut self, sql: &str, error: &tokio_postgres::Error) {
        let why = error.as_db_error().map_or(error.to_string(), |db| {
            format!("{} ({})", db.message(), db.code().code())
        });
        self.complaints.push(format!("failed with {why}: {sql}"));
    }
}

/// The rows that must be there, by key.
type Account = Vec<BTreeMap<Vec<Value>, Row>>;

struct Writer {
    client: Client,
    workload: Arc<Workload>,
    account: Account,
    balance: Balance,
    chance: Chance,
    numbers: u64,
    /// A row that was deleted and is to come back.
    owed: Option<(usize, Row)>,
}

/// A small generator: the same choices in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }
}

fn pick<'a>(chance: &mut Chance, rows: &'a BTreeMap<Vec<Value>, Row>) -> Option<(&'a Vec<Value>, &'a Row)> {
    rows.iter().nth(chance.below(rows.len()))
}

impl Writer {
    /// The next statement and its table.
    fn next(&mut self) -> Option<(usize, String)> {
        let workload = Arc::clone(&self.workload);
        if !workload.writes.is_empty() {
            let scripted = &workload.writes[self.chance.below(workload.writes.len())];
            let target = &workload.targets[scripted.target];
            let mut sql = scripted.sql.clone();
            if sql.contains(":id") {
                let (key, _) = pick(&mut self.chance, &self.account[scripted.target])?;
                sql = sql.replace(":id", &literal_of(&key[0]));
            }
            while sql.contains(":n") {
                self.numbers += 1;
                sql = sql.replacen(":n", &self.numbers.to_string(), 1);
            }
            return Some((scripted.target, format!("{sql} RETURNING {}", target.list())));
        }
        if let Some((at, row)) = self.owed.take() {
            return Some((at, insert(&workload.targets[at], &row)));
        }
        let at = self.chance.below(workload.targets.len());
        let target = workload.targets.get(at)?;
        if target.key.is_empty() {
            return None;
        }
        let (key, row) = pick(&mut self.chance, &self.account[at])?;
        let condition = target.is_key(key);
        if target.replaceable && self.numbers % 4 == 3 {
            self.numbers += 1;
            self.owed = Some((at, row.clone()));
            return Some((
                at,
                format!(
                    "DELETE FROM {} WHERE {condition} RETURNING {}",
                    target.table,
                    target.list()
                ),
            ));
        }
        self.numbers += 1;
        let plain: Vec<_> = (0..target.columns.len())
            .filter(|position| !target.key.contains(position))
            .collect();
        let position = plain
            .get(self.chance.below(plain.len()))
            .copied()
            .unwrap_or(target.key[0]);
        let column = ident(&target.columns[position].name);
        Some((
            at,
            format!(
                "UPDATE {} SET {column} = {column} WHERE {condition} RETURNING {}",
                target.table,
                target.list()
            ),
        ))
    }

    async fn write(&mut self) {
        let Some((at, sql)) = self.next() else { return };
        let began = Instant::now();
        let result = self.client.simple_query(&sql).await;
        self.balance.count(&sql, began, self.workload.longest);
        let messages = match result {
            Ok(messages) => messages,
            Err(error) => return self.balance.failed(&sql, &error),
        };
        let target = &self.workload.targets[at];
        let deletes = sql.starts_with("DELETE");
        let mut returned = 0;
        for message in &messages {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            returned += 1;
            let row = target.row(row);
            let key = target.key_of(&row);
            match deletes {
                true => drop(self.account[at].remove(&key)),
                false => drop(self.account[at].insert(key, row)),
            }
        }
        if returned == 0 {
            self.balance
                .complaints
                .push(format!("the row is not there: {sql}"));
        }
    }
}

fn insert(target: &Target, row: &Row) -> String {
    let columns: Vec<String> = target.columns.iter().map(|column| ident(&column.name)).collect();
    let values: Vec<String> = row.values.iter().map(literal_of).collect();
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}) RETURNING {}",
        target.table,
        columns.join(", "),
        values.join(", "),
        target.list()
    )
}

struct Reader {
    client: Client,
    workload: Arc<Workload>,
    keys: Vec<Vec<Vec<Value>>>,
    balance: Balance,
    chance: Chance,
}

impl Reader {
    async fn read(&mut self) {
        let workload = Arc::clone(&self.workload);
        let mut key = |at: usize| {
            let keys = &self.keys[at];
            keys.get(self.chance.below(keys.len())).cloned()
        };
        let sql = if workload.reads.is_empty() {
            let at = usize::try_from(self.balance.statements).unwrap() % workload.targets.len().max(1);
            let Some(target) = workload.targets.get(at) else {
                return;
            };
            match key(at) {
                Some(key) if !target.key.is_empty() => format!(
                    "SELECT {} FROM {} WHERE {}",
                    target.list(),
                    target.table,
                    target.is_key(&key)
                ),
                _ => format!("SELECT {} FROM {} LIMIT 10", target.list(), target.table),
            }
        } else {
            let at = usize::try_from(self.balance.statements).unwrap() % workload.reads.len();
            let scripted = &workload.reads[at];
            let key = key(scripted.target).and_then(|key| key.into_iter().next().flatten());
            scripted.sql.replace(":id", &literal_of(&key))
        };
        let began = Instant::now();
        let result = self.client.simple_query(&sql).await;
        self.balance.count(&sql, began, workload.longest);
        if let Err(error) = result {
            self.balance.failed(&sql, &error);
        }
    }
}

/// The rows as they are before anybody writes.
async fn opening_account(client: &Client, targets: &[Target]) -> Account {
    let mut account = Vec::new();
    for target in targets {
        let sql = format!("SELECT {} FROM {}", target.list(), target.table);
        let messages = client.simple_query(&sql).await.unwrap();
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(target.row(row)),
            _ => None,
        });
        let rows: Vec<Row> = rows.collect();
        let (count, has_key) = (rows.len(), !target.key.is_empty());
        let mut keyed = BTreeMap::new();
        for (position, row) in rows.into_iter().enumerate() {
            // Rows of a table that is only read are told apart by their number.
            let key = match has_key {
                true => target.key_of(&row),
                false => vec![Some(position.to_string())],
            };
            keyed.insert(key, row);
        }
        assert_eq!(keyed.len(), count, "{}: the key is not one", target.table);
        account.push(keyed);
    }
    account
}

/// The application at work, until it is stopped.
pub struct Traffic {
    stop: watch::Sender<bool>,
    written: watch::Receiver<u64>,
    read: watch::Receiver<u64>,
    writer: JoinHandle<Writer>,
    reader: JoinHandle<Reader>,
    noise: JoinHandle<Duration>,
}

impl Traffic {
    pub async fn start(database: &Database<'_>, workload: &Workload) -> Self {
        let workload = Arc::new(workload.clone());
        let client = database.server.connect(&database.name).await;
        let account = opening_account(&client, &workload.targets).await;
        let (stop, stopped) = watch::channel(false);
        let (writes, written) = watch::channel(0);
        let (reads, read) = watch::channel(0);
        let mut reader = Reader {
            client: database.server.connect(&database.name).await,
            workload: Arc::clone(&workload),
            keys: account
                .iter()
                .map(|rows| rows.keys().cloned().collect())
                .collect(),
            balance: Balance::default(),
            chance: Chance(2),
        };
        let mut writer = Writer {
            client,
            workload,
            account,
            balance: Balance::default(),
            chance: Chance(1),
            numbers: 1_000_000,
            owed: None,
        };
        let stopped_too = stopped.clone();
        let config = database.server.config(&database.name, "postgres");
        let noise = noise::measure(config, stopped.clone());
        Self {
            noise,
            stop,
            written,
            read,
            writer: tokio::spawn(async move {
                while !*stopped.borrow() {
                    writer.write().await;
                    writes.send_modify(|count| *count += 1);
                    tokio::time::sleep(THINK_TIME).await;
                }
                writer
            }),
            reader: tokio::spawn(async move {
                while !*stopped_too.borrow() {
                    reader.read().await;
                    reads.send_modify(|count| *count += 1);
                    tokio::time::sleep(THINK_TIME).await;
                }
                reader
            }),
        }
    }

    /// Waits until both have done so many statements more.
    pub async fn go_on(&self, statements: u64) {
        for counter in [&self.written, &self.read] {
            let mut counter = counter.clone();
            let goal = *counter.borrow() + statements;
            let reached = counter.wait_for(|count| *count >= goal);
            let reached = tokio::time::timeout(PATIENCE, reached).await;
            assert!(
                reached.is_ok_and(|reached| reached.is_ok()),
                "the application stands still"
            );
        }
    }

    /// Stops, and compares the tables with the account. `types` are the types the columns now have.
    pub async fn stop(
        self,
        database: &Database<'_>,
        now: &pgmorph::catalog::model::CatalogSnapshot,
    ) -> Balance {
        self.stop.send_replace(true);
        let writer = self.writer.await.unwrap();
        let reader = self.reader.await.unwrap();
        let mut balance = writer.balance;
        balance.statements += reader.balance.statements;
        balance.slowest = balance.slowest.max(reader.balance.slowest);
        balance.complaints.extend(reader.balance.complaints);
        balance.late.add(reader.balance.late);
        let late = std::mem::take(&mut balance.late);
        let noise = self.noise.await.unwrap();
        balance
            .complaints
            .extend(late.complaints(writer.workload.longest, noise));
        for (target, rows) in writer.workload.targets.iter().zip(&writer.account) {
            let table = &now.tables[&target.table];
            let types: Vec<&str> = target
                .columns
                .iter()
                .map(|column| table.column(&column.name).unwrap().data_type.as_str())
                .collect();
            let found = unbalanced(&database.admin, target, rows, &types).await;
            balance.complaints.extend(found);
        }
        balance
    }
}

/// Rows that are missing or stale, and rows that should not be there.
async fn unbalanced(
    client: &Client,
    target: &Target,
    rows: &BTreeMap<Vec<Value>, Row>,
    types: &[&str],
) -> Vec<String> {
    let columns: Vec<String> = target
        .columns
        .iter()
        .map(|column| format!("{}::text", ident(&column.name)))
        .collect();
    let actual = format!("SELECT {} FROM {}", columns.join(", "), target.table);
    let expected: Vec<String> = rows
        .values()
        .map(|row| expected_row(target, row, types))
        .collect();
    let expected = match expected.is_empty() {
        true => format!("SELECT {} FROM {} WHERE false", columns.join(", "), target.table),
        false => format!("VALUES {}", expected.join(", ")),
    };
    let mut found = Vec::new();
    for (what, sql) in [
        (
            "lost or stale",
            format!("({expected}) EXCEPT ALL ({actual}) LIMIT 5"),
        ),
        (
            "not acknowledged",
            format!("({actual}) EXCEPT ALL ({expected}) LIMIT 5"),
        ),
    ] {
        let messages = client
            .simple_query(&sql)
            .await
            .unwrap_or_else(|error| panic!("{error}: {:?}", error.as_db_error()));
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                let values: Vec<_> = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect();
                found.push(format!("{what} in {}: {}", target.table, values.join(" | ")));
            }
        }
    }
    found
}

/// The row in parentheses, its values brought from the type they were written with to the present one.
fn expected_row(target: &Target, row: &Row, types: &[&str]) -> String {
    let mut written_types = row.types.iter();
    let values = target.columns.iter().zip(&row.values).zip(types);
    let values = values.map(|((column, value), now)| {
        let literal = literal_of(value);
        if !column.retyped {
            return format!("{literal}::text");
        }
        // Without a length these two mean one character and one bit.
        let then = match written_types.next().unwrap().as_deref() {
            Some("character") => "bpchar".to_owned(),
            Some("bit") => "varbit".to_owned(),
            then => then.unwrap().to_owned(),
        };
        format!("{literal}::{then}::{now}::text")
    });
    format!("({})", values.collect::<Vec<_>>().join(", "))
}
