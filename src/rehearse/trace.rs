//! What was seen of a run, statement by statement.

use super::compare::There;
use super::observe::{Observation, Relation, World};
use crate::event::{Event, Listener};
use crate::plan::LockMode;
use crate::sql::QualifiedName;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Statements of one step that are kept; a backfill has very many.
const KEPT_MAX: usize = 200;

/// A table of so many rows or fewer is not worth the way through an index.
const FEW_ROWS: i64 = 100;

/// How it is known what a statement locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The session was asked in its transaction, after the statement and before the commit: nothing escapes.
    Transaction,
    /// PostgreSQL refuses a transaction: the tables were held so that it had to ask for each, and `pg_locks` was read all the
    /// while. A stronger lock that it takes for an instant later may escape.
    Watched,
}

/// A lock on a relation that was there before the transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenLock {
    pub relation: QualifiedName,
    #[serde(serialize_with = "kind_name", rename = "kind")]
    pub kind: char,
    pub mode: LockMode,
    /// The table of an index, or of a sequence that belongs to a column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<QualifiedName>,
}

fn kind_name<S: Serializer>(kind: &char, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match kind {
        'i' | 'I' => "index",
        'v' => "view",
        'm' => "materialized view",
        'S' => "sequence",
        'p' => "partitioned table",
        'f' => "foreign table",
        'c' => "type",
        _ => "table",
    })
}

/// A statement of a work, as it was sent, and what it did to relations that were there before its transaction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statement {
    #[serde(skip)]
    pub step: String,
    #[serde(skip)]
    pub undo: bool,
    /// Which transaction it was part of, counted over the run.
    pub transaction: u64,
    pub sql: String,
    pub evidence: Evidence,
    /// That were not held before it, or not in such a mode.
    pub locks: Vec<SeenLock>,
    /// Tables whose rows it wrote anew.
    pub rewrites: BTreeSet<QualifiedName>,
    /// Tables that it read from end to end.
    pub scans: BTreeSet<QualifiedName>,
    pub rebuilds_indexes: BTreeSet<QualifiedName>,
    pub took_us: u64,
    /// From its end, when its locks were held at the latest, to the end of the transaction, and how long it took itself.
    pub held_us: u64,
    /// That the server wrote meanwhile, all its sessions together.
    pub wal_bytes: i64,
    /// Of the temporary files that it and its parallel workers wrote; nothing where the server's log does not tell.
    pub temp_bytes: Option<u64>,
}

#[derive(Default)]
struct State {
    step: Option<(String, bool)>,
    statements: Vec<Statement>,
    transactions: u64,
    notes: Vec<String>,
    there: There,
}

/// Collects what the sessions of a run are seen to do, and knows by its events which step is at work.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<State>>);

impl Listener for Trace {
    fn tell(&self, event: &Event) {
        let mut state = self.state();
        match event {
            Event::StepStarted { step, undo, .. } => state.step = Some((step.clone(), *undo)),
            Event::StepDone { .. } | Event::RunFinished { .. } => state.step = None,
            Event::LockTimeout { step, .. } => {
                let note = format!("{step}: an attempt to get the locks was given up");
                state.notes.push(note);
            }
            _ => {}
        }
    }
}

impl Trace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The step at work, and whether it is being undone.
    pub fn step(&self) -> Option<(String, bool)> {
        self.state().step.clone()
    }

    pub fn note(&self, note: String) {
        self.state().notes.push(note);
    }

    /// In the order in which they ended.
    pub fn statements(&self) -> Vec<Statement> {
        self.state().statements.clone()
    }

    pub fn notes(&self) -> Vec<String> {
        self.state().notes.clone()
    }

    /// What there was before the transactions of each step.
    pub fn there(&self) -> There {
        self.state().there.clone()
    }

    fn keep(&self, step: (String, bool), world: &World, mut statements: Vec<Statement>) {
        let mut state = self.state();
        state.transactions += 1;
        let names = world.values().map(|it| (it.name.clone(), it.is_index()));
        state.there.entry(step.clone()).or_default().extend(names);
        // Of very many batches, those that bring nothing new are counted and not kept.
        let of_step = |it: &&Statement| it.step == step.0 && it.undo == step.1;
        if state.statements.iter().filter(of_step).count() >= KEPT_MAX {
            let known: Vec<SeenLock> = state
                .statements
                .iter()
                .filter(of_step)
                .flat_map(|it| it.locks.clone())
                .collect();
            let is_new = |it: &Statement| it.locks.iter().any(|lock| !known.contains(lock));
            let more: Vec<Statement> = statements.extract_if(.., |it| !is_new(it)).collect();
            if let Some(last) = state
                .statements
                .iter_mut()
                .rfind(|it| it.step == step.0 && it.undo == step.1)
            {
                for statement in more {
                    last.took_us += statement.took_us;
                    last.held_us = last.held_us.max(statement.held_us);
                    last.wal_bytes += statement.wal_bytes;
                    last.temp_bytes = sum(last.temp_bytes, statement.temp_bytes);
                }
            }
        }
        for statement in &mut statements {
            statement.transaction = state.transactions;
        }
        state.statements.append(&mut statements);
    }
}

/// A transaction, or a statement that is one, as it goes on.
pub struct Going {
    trace: Trace,
    step: (String, bool),
    world: World,
    held: BTreeMap<u32, LockMode>,
    /// Scans, and the rows that they read.
    scans: BTreeMap<u32, (i64, i64)>,
    files: BTreeMap<u32, Option<u32>>,
    wal: Option<i64>,
    statements: Vec<(Statement, Instant)>,
}

impl Going {
    pub fn new(trace: &Trace, step: (String, bool), world: World) -> Self {
        let files = world.iter().map(|(oid, it)| (*oid, it.file)).collect();
        Self {
            trace: trace.clone(),
            step,
            world,
            held: BTreeMap::new(),
            scans: BTreeMap::new(),
            files,
            wal: None,
            statements: Vec::new(),
        }
    }

    /// Whether it is not known yet what was before it.
    pub fn is_new(&self) -> bool {
        self.wal.is_none()
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// What the session had done before the first statement of the transaction.
    pub fn begin(&mut self, seen: &Observation) {
        self.scans = seen
            .scans
            .iter()
            .map(|(oid, scans, rows)| (*oid, (*scans, *rows)))
            .collect();
        self.wal = Some(seen.wal);
    }

    fn seen_lock(&self, oid: u32, mode: LockMode) -> Option<SeenLock> {
        let relation: &Relation = self.world.get(&oid)?;
        let of = relation.table.and_then(|table| self.world.get(&table));
        Some(SeenLock {
            relation: relation.name.clone(),
            kind: relation.kind,
            mode,
            of: of.map(|table| table.name.clone()),
        })
    }

    fn name_of(&self, oid: u32, indexes: bool) -> Option<QualifiedName> {
        let relation = self.world.get(&oid)?;
        (relation.is_index() == indexes).then(|| relation.name.clone())
    }

    /// After a statement: what is there now and was not before it.
    pub fn statement(&mut self, sql: &str, evidence: Evidence, seen: &Observation, took: Duration) {
        let mut locks = Vec::new();
        for (oid, mode) in seen.locks() {
            if self.held.get(&oid).is_none_or(|held| *held < mode) {
                self.held.insert(oid, mode);
                locks.extend(self.seen_lock(oid, mode));
            }
        }
        let mut scans = BTreeSet::new();
        let asks = sql
            .trim_start()
            .get(..3)
            .is_some_and(|word| word.eq_ignore_ascii_case("DO "));
        for (oid, count, rows) in &seen.scans {
            let (before, read) = self.scans.insert(*oid, (*count, *rows)).unwrap_or_default();
            // A question is answered by reading all of it where a table has few rows.
            if *count > before && !(asks && rows - read <= FEW_ROWS) {
                scans.extend(self.name_of(*oid, false));
            }
        }
        let (mut rewrites, mut rebuilds_indexes) = (BTreeSet::new(), BTreeSet::new());
        for (oid, file) in &seen.files {
            let Some(before) = self.files.insert(*oid, *file) else {
                continue;
            };
            if before != *file && before.is_some() {
                rewrites.extend(self.name_of(*oid, false));
                rebuilds_indexes.extend(self.name_of(*oid, true));
            }
        }
        let wal_bytes = self.wal.map_or(0, |before| seen.wal - before);
        self.wal = Some(seen.wal);
        let statement = Statement {
            step: self.step.0.clone(),
            undo: self.step.1,
            transaction: 0,
            sql: sql.to_owned(),
            evidence,
            locks,
            rewrites,
            scans,
            rebuilds_indexes,
            took_us: micros(took),
            held_us: 0,
            wal_bytes,
            temp_bytes: seen.temp,
        };
        // What is written down in the ledger is no statement of the plan.
        if !(sql.contains("pgmorph.steps") && statement.locks.is_empty() && statement.scans.is_empty()) {
            self.statements.push((statement, Instant::now()));
        }
    }

    /// Takes what was seen down: it was committed, and the commit itself wrote so many bytes of temporary files.
    pub fn committed(mut self, temp_bytes: Option<u64>) {
        let Some((last, _)) = self.statements.last_mut() else {
            return;
        };
        last.temp_bytes = sum(last.temp_bytes, temp_bytes);
        let end = Instant::now();
        let statements = self.statements.into_iter().map(|(mut statement, ended)| {
            statement.held_us = statement.took_us + micros(end.saturating_duration_since(ended));
            statement
        });
        self.trace.keep(self.step, &self.world, statements.collect());
    }
}

/// Of what is known.
pub fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (known, None) | (None, known) => known,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
