//! The execution plan: phased, bounded, undoable steps as one printable value.
//!
//! It holds everything the executor needs, so that a saved plan runs alone.

use crate::catalog::model::{CatalogSnapshot, Constraint, Index};
use crate::sql::{QualifiedName, ident, idents, literal};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

mod contention;

pub use contention::{Asked, Contention, OnBlocked};

/// Version of the JSON form; a plan of another version is refused.
pub const PLAN_FORMAT: u32 = 2;

/// The order in which everything happens. Nothing is destroyed before `Contract`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Adds beside what is there; the application notices nothing.
    Expand,
    /// Fills what was added.
    Backfill,
    /// Proves what was added.
    Validate,
    /// Makes it the one the application uses.
    Cutover,
    /// Removes what is no longer used. Only when asked for.
    Contract,
}

impl Phase {
    pub const ALL: [Self; 5] = [
        Self::Expand,
        Self::Backfill,
        Self::Validate,
        Self::Cutover,
        Self::Contract,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Expand => "expand",
            Self::Backfill => "backfill",
            Self::Validate => "validate",
            Self::Cutover => "cutover",
            Self::Contract => "contract",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// PostgreSQL's table lock modes, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LockMode {
    AccessShare,
    RowShare,
    RowExclusive,
    ShareUpdateExclusive,
    Share,
    ShareRowExclusive,
    Exclusive,
    AccessExclusive,
}

impl LockMode {
    pub const ALL: [Self; 8] = [
        Self::AccessShare,
        Self::RowShare,
        Self::RowExclusive,
        Self::ShareUpdateExclusive,
        Self::Share,
        Self::ShareRowExclusive,
        Self::Exclusive,
        Self::AccessExclusive,
    ];

    /// As in `LOCK TABLE … IN … MODE`.
    pub fn sql(self) -> &'static str {
        match self {
            Self::AccessShare => "ACCESS SHARE",
            Self::RowShare => "ROW SHARE",
            Self::RowExclusive => "ROW EXCLUSIVE",
            Self::ShareUpdateExclusive => "SHARE UPDATE EXCLUSIVE",
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::Exclusive => "EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        }
    }

    /// As `pg_locks.mode` spells it.
    pub fn pg_locks_name(self) -> String {
        let words = self.sql().split(' ').map(|word| {
            let lower = word.to_lowercase();
            lower[..1].to_uppercase() + &lower[1..]
        });
        words.collect::<String>() + "Lock"
    }

    pub fn blocks_reads(self) -> bool {
        self == Self::AccessExclusive
    }

    pub fn blocks_writes(self) -> bool {
        self >= Self::Share
    }

    /// What the application cannot do meanwhile.
    pub fn blocks(self) -> &'static str {
        if self.blocks_reads() {
            "reads and writes"
        } else if self.blocks_writes() {
            "writes"
        } else {
            "nothing"
        }
    }

    /// Whether one session holding `self` keeps another from getting `other` (the manual's conflict table).
    pub fn conflicts_with(self, other: Self) -> bool {
        use LockMode as M;
        let conflicts: &[M] = match self {
            M::AccessShare => &[M::AccessExclusive],
            M::RowShare => &[M::Exclusive, M::AccessExclusive],
            M::RowExclusive => &[M::Share, M::ShareRowExclusive, M::Exclusive, M::AccessExclusive],
            M::ShareUpdateExclusive => &[
                M::ShareUpdateExclusive,
                M::Share,
                M::ShareRowExclusive,
                M::Exclusive,
                M::AccessExclusive,
            ],
            M::Share => &[
                M::RowExclusive,
                M::ShareUpdateExclusive,
                M::ShareRowExclusive,
                M::Exclusive,
                M::AccessExclusive,
            ],
            M::ShareRowExclusive => &M::ALL[2..],
            M::Exclusive => &M::ALL[1..],
            M::AccessExclusive => &M::ALL,
        };
        conflicts.contains(&other)
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.sql())
    }
}

/// The strongest lock that a step takes on one relation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    pub relation: QualifiedName,
    pub mode: LockMode,
}

impl Lock {
    pub fn new(relation: &QualifiedName, mode: LockMode) -> Self {
        Self {
            relation: relation.clone(),
            mode,
        }
    }
}

/// Bounds of every statement of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// `lock_timeout`; `None` only where the awaited lock blocks neither reads nor writes.
    pub lock_ms: Option<u64>,
    /// `statement_timeout`.
    pub statement_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transaction {
    /// All statements and the ledger's record in one transaction.
    Single,
    /// Statements that PostgreSQL refuses in a transaction block; the step is probed instead.
    None,
}

/// What a step, or its undoing, does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Statements, sent as they stand, in order.
    Sql(Vec<String>),
    Backfill(Backfill),
    Copy(Copying),
    /// A read-only question that must have no rows as answer.
    Check(Check),
    Compare(Comparison),
    Match(Box<Match>),
}

/// A check whose offending rows are filled again, once; after that there must be none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub check: Check,
    pub mend: Vec<Mend>,
}

/// Filling the rows of one table again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mend {
    /// Left out where it is none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    pub fill: Backfill,
}

/// Fills rows of one table in short transactions, walking its pages; restartable at any batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backfill {
    pub table: QualifiedName,
    /// `column = expression, …`: everything after SET.
    pub set: String,
    /// True for the rows that still need it; a filled row must not match.
    pub needs: String,
    /// Whether the application's own triggers are kept from firing (`session_replication_role = replica`).
    pub suppress_triggers: bool,
    /// The columns that SET names.
    pub columns: Vec<String>,
    /// Sessions that fill at the same time.
    pub workers: u32,
    pub limits: Limits,
}

/// Inserts into one table what is made from the rows of another, in short transactions that walk the pages of that
/// other one. Restartable at any batch: a row that is there already, whoever wrote it, stays as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copying {
    /// The table whose pages are walked.
    pub from: QualifiedName,
    /// What the texts call it.
    pub alias: String,
    pub into: QualifiedName,
    /// `INSERT INTO … SELECT … FROM ONLY … AS …`, with what is joined: everything before WHERE.
    pub insert: String,
    /// True for the rows that are still to be copied.
    pub needs: String,
    /// What comes after WHERE: the lock on the rows that are read, and what to do about a row that is there.
    pub rest: String,
    /// What stands in FROM where the rows are locked by a statement of its own first: the one that copies then sees all
    /// that was written to what is joined by whoever held them. Plans that were recorded earlier do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Sessions that copy at the same time.
    pub workers: u32,
    pub limits: Limits,
}

impl Copying {
    /// For the rows that fulfil one more condition, or for all of them.
    pub fn statements(&self, range: Option<&str>) -> Vec<String> {
        let Self {
            insert, needs, rest, ..
        } = self;
        let rows = range.map_or_else(|| needs.clone(), |range| format!("{range} AND ({needs})"));
        let alias = ident(&self.alias);
        let lock = self.held.iter().map(|held| {
            format!("SELECT pg_catalog.count(*) FROM (SELECT FROM {held} WHERE {rows} FOR SHARE OF {alias}) AS held")
        });
        lock.chain([format!("{insert} WHERE {rows} {rest}")]).collect()
    }

    /// For all rows, as one text.
    pub fn whole(&self) -> String {
        self.statements(None).join(";\n")
    }
}

/// What others may have to bear before a backfill stands aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How far behind a standby may be.
    pub replica_lag_ms: u64,
    /// The same in WAL that it has not replayed.
    #[serde(default = "Limits::lag_bytes", skip_serializing_if = "Limits::is_lag_bytes")]
    pub replica_lag_bytes: u64,
    /// For how long one may be gone before the run stops.
    #[serde(default = "Limits::grace_ms", skip_serializing_if = "Limits::is_grace_ms")]
    pub replica_grace_ms: u64,
    /// The standbys that count, by their `application_name`, which must be there; `None` is every one that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Vec<String>>,
    /// WAL that the whole server writes in a second; `None` is as much as it can.
    pub wal_rate_bytes: Option<u64>,
    /// WAL that a replication slot keeps.
    pub wal_retained_bytes: u64,
    /// Full WAL segments that still wait for the archiver.
    pub archive_backlog_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            replica_lag_ms: 10_000,
            replica_lag_bytes: Self::lag_bytes(),
            replica_grace_ms: Self::grace_ms(),
            replicas: None,
            wal_rate_bytes: None,
            wal_retained_bytes: 16 << 30,
            archive_backlog_bytes: 1 << 30,
        }
    }
}

// Plans that were saved or recorded earlier do not have these.
impl Limits {
    fn lag_bytes() -> u64 {
        1 << 30
    }

    fn is_lag_bytes(bytes: &u64) -> bool {
        *bytes == Self::lag_bytes()
    }

    fn grace_ms() -> u64 {
        60_000
    }

    fn is_grace_ms(ms: &u64) -> bool {
        *ms == Self::grace_ms()
    }
}

/// Two queries that must have the same rows, told apart by a key; compared by ranges of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Match {
    /// What is compared, in a few words.
    pub name: String,
    pub left: String,
    pub right: String,
    /// What people call the left side and the right one.
    pub sides: (String, String),
    /// Columns of both sides, whose values sort alike on both.
    pub key: Vec<MatchColumn>,
    /// What is compared besides; without it, all that the queries have, by name.
    pub columns: Option<Vec<MatchColumn>>,
    /// What to do when they differ.
    pub help: String,
}

impl Match {
    pub fn key_list(&self) -> String {
        let names: Vec<&str> = self.key.iter().map(|column| column.name.as_str()).collect();
        idents(&names)
    }

    /// A query that has the rows of either side that are not those of the other, values and all.
    pub fn difference(&self) -> String {
        let list = |columns: &[MatchColumn]| {
            let column = |it: &MatchColumn| match &it.cast {
                Some(cast) => format!("{}::{cast}", ident(&it.name)),
                None => ident(&it.name),
            };
            columns.iter().map(column).collect::<Vec<_>>()
        };
        let columns = match &self.columns {
            Some(columns) => [list(&self.key), list(columns)].concat().join(", "),
            None => "pg_catalog.to_jsonb(s)".into(),
        };
        let side = |query: &str| format!("SELECT {columns} FROM ({query}\n) AS s");
        let (left, right) = (side(&self.left), side(&self.right));
        format!("({left} EXCEPT ALL {right}) UNION ALL ({right} EXCEPT ALL {left})")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchColumn {
    pub name: String,
    /// The type that both values are brought to before their texts are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cast: Option<String>,
    /// The type of a value that the column of either side is compared with, where one side's may have no room for the
    /// other's values; without it, the column's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<String>,
}

/// A query that must return no rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub query: String,
    /// What to do when it does return rows.
    pub help: String,
}

/// A query whose answer people want to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    pub name: String,
    pub query: String,
}

/// A fact that must hold right after a step, and that tells a resumed run that it already does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fact")]
pub enum Expectation {
    Column {
        table: QualifiedName,
        column: String,
        facts: ColumnFacts,
    },
    ColumnAbsent {
        table: QualifiedName,
        column: String,
    },
    Index {
        table: QualifiedName,
        name: String,
        /// `exact` is false when the server was not asked how it prints the expressions.
        exact: bool,
        index: Box<Index>,
    },
    IndexAbsent {
        index: QualifiedName,
    },
    Constraint {
        table: QualifiedName,
        name: String,
        exact: bool,
        constraint: Box<Constraint>,
    },
    ConstraintAbsent {
        table: QualifiedName,
        name: String,
    },
    Trigger {
        table: QualifiedName,
        name: String,
        enabled: String,
    },
    TriggerAbsent {
        table: QualifiedName,
        name: String,
    },
    /// What a query of one text answers where names are printed with their schemas. Asked by `verify` only.
    Text {
        /// What the text tells about: `view public.totals`.
        object: String,
        query: String,
        /// `None`: the object is not there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<String>,
    },
    /// A table of any kind is there; a view does not count.
    Table {
        table: QualifiedName,
    },
    /// There is no table of this name; there may be a view.
    TableAbsent {
        table: QualifiedName,
    },
    /// The user's own question: one row, one column, true.
    Query {
        query: String,
    },
}

impl Expectation {
    /// The table that must be looked at.
    pub fn table(&self) -> Option<&QualifiedName> {
        match self {
            Self::Column { table, .. }
            | Self::ColumnAbsent { table, .. }
            | Self::Index { table, .. }
            | Self::Constraint { table, .. }
            | Self::ConstraintAbsent { table, .. }
            | Self::Trigger { table, .. }
            | Self::TriggerAbsent { table, .. }
            | Self::Table { table }
            | Self::TableAbsent { table } => Some(table),
            Self::IndexAbsent { .. } | Self::Text { .. } | Self::Query { .. } => None,
        }
    }
}

/// What of a column matters; `None` is not compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnFacts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_null: Option<bool>,
    /// Whether there is a default at all: its text is compared in the predicted catalog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_default: Option<bool>,
}

/// Something that people or the application may notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hazard {
    pub code: String,
    pub message: String,
}

impl Hazard {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

/// How long a step runs, as far as anybody can tell beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DurationClass {
    /// Catalog only.
    Instant,
    Seconds,
    Minutes,
    Hours,
}

impl DurationClass {
    /// By the bytes to be read or written, at a cautious 50 MB/s.
    pub fn for_bytes(bytes: i64) -> Self {
        match bytes / 50_000_000 {
            ..=60 => Self::Seconds,
            61..=3_600 => Self::Minutes,
            _ => Self::Hours,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Seconds => "seconds",
            Self::Minutes => "minutes",
            Self::Hours => "hours",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Rows visited or written; `None` for catalog-only work or a table that was never analyzed.
    pub rows: Option<i64>,
    /// Bytes read.
    pub bytes: i64,
    /// Additional disk space, WAL left out.
    pub disk_bytes: i64,
    pub duration: DurationClass,
}

impl Estimate {
    pub const INSTANT: Self = Self {
        rows: None,
        bytes: 0,
        disk_bytes: 0,
        duration: DurationClass::Instant,
    };

    /// For work that reads a whole table and writes this much.
    pub fn scan(rows: i64, bytes: i64, disk_bytes: i64) -> Self {
        let rows = (rows >= 0).then_some(rows);
        Self {
            rows,
            bytes,
            disk_bytes,
            duration: DurationClass::for_bytes(bytes.saturating_add(disk_bytes)),
        }
    }
}

/// One thing done to the database: forwards in a step, backwards in its undo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// One line for people.
    pub summary: String,
    pub action: Action,
    pub transaction: Transaction,
    /// In the order in which they are taken.
    pub locks: Vec<Lock>,
    pub timeouts: Timeouts,
    pub expect: Vec<Expectation>,
    /// Asked when a statement fails with an integrity violation (SQLSTATE class 23), to show the keys of the rows
    /// in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_violation: Option<Check>,
    /// It is there for values that would be lost, so it is left out when their loss is accepted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guards_values: bool,
    /// It is left out once this is no longer a partition: partitions come and go while a plan runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// It is refused before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<NotBefore>,
}

/// A time that must have passed since a step was done, by the server's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotBefore {
    /// The step of this plan; an operation gives the last part of its id, the planner puts its number in front.
    pub step: String,
    /// Milliseconds.
    pub ms: u64,
}

/// A partition, directly or through others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub table: QualifiedName,
    pub of: QualifiedName,
}

impl Part {
    /// True while it is one.
    pub fn condition(&self) -> String {
        let regclass =
            |table: &QualifiedName| format!("pg_catalog.to_regclass({})", literal(&table.to_string()));
        format!(
            "EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors({}) AS a WHERE a.relid = {})",
            regclass(&self.table),
            regclass(&self.of)
        )
    }

    /// The statements as one that does nothing where it is none.
    pub fn statement(&self, statements: &[String]) -> Option<String> {
        if statements.is_empty() {
            return None;
        }
        let body = format!(
            "BEGIN IF {} THEN {}; END IF; END",
            self.condition(),
            statements.join("; ")
        );
        Some(format!("DO {}", literal(&body)))
    }
}

impl Work {
    #[must_use]
    pub fn unless_loss_is_accepted(self) -> Self {
        Self {
            guards_values: true,
            ..self
        }
    }

    /// A statement of a transaction as it is sent. Locking several tables, or dropping several views, waits for one
    /// after the other, each up to `lock_timeout`, while the first ones are held already: so all of it together is
    /// bounded by that time too.
    pub fn text_of(&self, statement: &str) -> String {
        match self.timeouts.lock_ms {
            Some(lock)
                if ["LOCK TABLE ", "DROP VIEW "]
                    .iter()
                    .any(|word| statement.starts_with(word)) =>
            {
                let statement_ms = self.timeouts.statement_ms;
                format!(
                    "SET LOCAL statement_timeout = '{lock}ms'; {statement}; SET LOCAL statement_timeout = '{statement_ms}ms'"
                )
            }
            _ => statement.to_owned(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// Done in this order.
    Work(Vec<Work>),
    NotNeeded {
        reason: String,
    },
    Irreversible {
        reason: String,
    },
}

/// The smallest unit that is run, journaled, retried and undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Unique in the plan; an operation gives the last part, the planner puts its number in front.
    pub id: String,
    /// Position of the change in the plan file, from 1.
    pub change: usize,
    pub operation: String,
    pub phase: Phase,
    pub work: Work,
    pub hazards: Vec<Hazard>,
    pub undo: Undo,
    pub estimate: Estimate,
}

/// One entry of the plan file, as far as a resumed run must recognise it. Two are the same entry when it says the same,
/// wherever it stands in this plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlannedChange {
    pub operation: String,
    /// The entry as canonical text: what a refused resume shows as a difference.
    pub text: String,
    /// Why this plan has no steps for it: its condition did not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// An earlier run made it, so this plan has no steps for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_place: bool,
}

impl PartialEq for PlannedChange {
    fn eq(&self, other: &Self) -> bool {
        self.operation == other.operation && self.text == other.text
    }
}

/// A change that was left out, because its condition did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Position of the change in the plan file, from 1.
    pub change: usize,
    pub operation: String,
    pub reason: String,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "change {} ({}): {}", self.change, self.operation, self.reason)
    }
}

/// The compiled plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecutionPlan {
    pub format: u32,
    /// Identity in the ledger.
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// SHA-256 over the rest of this value.
    pub digest: String,
    pub changes: Vec<PlannedChange>,
    /// Of the names in the changes that have none; plans that were recorded earlier do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    pub server_version_num: u32,
    /// The longest that getting one lock may be tried, all attempts together.
    pub lock_deadline_ms: u64,
    #[serde(default, skip_serializing_if = "Contention::is_default")]
    pub contention: Contention,
    /// Asked before the first step.
    pub preconditions: Vec<Check>,
    /// In the order in which they run.
    pub steps: Vec<Step>,
    /// Asked by `verify`.
    pub postconditions: Vec<Check>,
    /// Asked by `verify` too, which shows the answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub monitors: Vec<Monitor>,
    /// What must be typed before the plan is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_rollback: Option<String>,
    /// The tables involved as they were when the plan was made: its fingerprint, and what a rollback restores.
    pub before: CatalogSnapshot,
    /// The same tables as they must be at the end.
    pub after: CatalogSnapshot,
}

/// One text for exactly these changes, under whatever name the plan goes.
pub fn changes_digest(schema: &str, changes: &[PlannedChange]) -> String {
    let texts: Vec<&str> = changes.iter().map(|change| change.text.as_str()).collect();
    hex(&Sha256::digest(format!("{schema}\n{}", texts.join("\n"))))
}

impl ExecutionPlan {
    /// Of what it changes: the same for every plan with the same changes. `None` where the plan was recorded too early
    /// to tell.
    pub fn changes_digest(&self) -> Option<String> {
        let schema = self.schema.as_deref()?;
        Some(changes_digest(schema, &self.changes))
    }

    /// The digest that the plan ought to carry: over all of it, for who reviews a plan goes by its estimates too.
    pub fn computed_digest(&self) -> String {
        let unsigned = Self {
            digest: String::new(),
            ..self.clone()
        };
        let bytes = serde_json::to_vec(&unsigned).unwrap_or_default();
        hex(&Sha256::digest(bytes))
    }

    /// The first step that cannot be undone.
    pub fn point_of_no_return(&self) -> Option<&Step> {
        self.steps
            .iter()
            .find(|step| matches!(step.undo, Undo::Irreversible { .. }))
    }

    /// The changes that were left out, because their conditions did not hold.
    pub fn waiting(&self) -> Vec<Waiting> {
        let waiting = |(position, change): (usize, &PlannedChange)| {
            let reason = change.waiting.clone()?;
            Some(Waiting {
                change: position + 1,
                operation: change.operation.clone(),
                reason,
            })
        };
        self.changes.iter().enumerate().filter_map(waiting).collect()
    }

    pub fn phases(&self) -> impl Iterator<Item = (Phase, Vec<&Step>)> {
        Phase::ALL.into_iter().filter_map(|phase| {
            let steps: Vec<_> = self.steps.iter().filter(|step| step.phase == phase).collect();
            (!steps.is_empty()).then_some((phase, steps))
        })
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the planner may be told from outside the plan file.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanOptions {
    pub settings: Settings,
}

/// Bounds that a plan or a single change may set.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How long one attempt may wait for a lock that blocks the application.
    pub lock_timeout_ms: u64,
    /// All attempts together.
    pub lock_deadline_ms: u64,
    /// Statements that only touch the catalog.
    pub statement_timeout_ms: u64,
    /// Concurrent index builds and validations.
    pub long_statement_timeout_ms: u64,
    /// Tables up to this size (indexes included) may be rewritten in place.
    pub small_table_bytes: u64,
    /// Sessions that fill a table at the same time.
    pub workers: u32,
    /// A backfill stands aside beyond these.
    pub limits: Limits,
    /// Of the whole plan.
    pub contention: Contention,
}

impl Settings {
    /// More would only wait for each other and for the disk.
    pub const WORKERS_MAX: u32 = 8;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lock_timeout_ms: 200,
            lock_deadline_ms: 600_000,
            statement_timeout_ms: 30_000,
            long_statement_timeout_ms: 6 * 3_600_000,
            small_table_bytes: 8 << 20,
            workers: 1,
            limits: Limits::default(),
            contention: Contention::default(),
        }
    }
}

impl Settings {
    /// For brief statements whose lock stands in the application's way.
    pub fn brief(&self) -> Timeouts {
        Timeouts {
            lock_ms: Some(self.lock_timeout_ms),
            statement_ms: self.statement_timeout_ms,
        }
    }

    /// For long statements whose lock lets reads and writes through.
    pub fn patient(&self) -> Timeouts {
        Timeouts {
            lock_ms: None,
            statement_ms: self.long_statement_timeout_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflict_table_is_symmetric_and_orders_strength() {
        for a in LockMode::ALL {
            for b in LockMode::ALL {
                assert_eq!(a.conflicts_with(b), b.conflicts_with(a), "{a} {b}");
            }
        }
        assert!(LockMode::Share.blocks_writes() && !LockMode::ShareUpdateExclusive.blocks_writes());
        assert_eq!(
            LockMode::ShareRowExclusive.pg_locks_name(),
            "ShareRowExclusiveLock"
        );
    }
}
