//! The tables that have the column: one, or a partitioned or inherited one and all below it.
//!
//! What the server passes on to the tables below is said to the topmost only; the rest is each one's own.

use super::{Shadow, storage};
use crate::catalog::model::Column;
use crate::ops::StepDraft;
use crate::ops::parts::carry::{self, Carry};
use crate::ops::parts::{key_list, lock_statement};
use crate::plan::{Expectation, Hazard, Lock, LockMode, Part, Settings, Undo, Work};
use crate::sql::{QualifiedName, ident, literal};
use crate::units;

/// Up to this size the key of a new partition is built in no time.
const NEWCOMER_BYTES: u64 = 1 << 20;

/// Measured with a hundred partitions on PostgreSQL 18, on two cores of 2026: 0.4 s, and 7.1 s with twenty foreign keys
/// that refer to them.
const SWAP_MS_PER_TABLE: u64 = 4;
const SWAP_MS_PER_KEY: u64 = 4;

/// How statements on the topmost table reach those below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    Alone,
    /// With triggers, keys and indexes.
    Partitions,
    /// Columns, checks and NOT NULL only.
    Inheritance,
}

/// One of the tables.
#[derive(Debug, Clone)]
pub struct Member {
    pub table: QualifiedName,
    /// Its own facts about the column.
    pub column: Column,
    /// The same at the end.
    pub after: Column,
    /// What is sent after DEFAULT at the end.
    pub new_default: Option<String>,
    pub carry: Carry,
    /// Constraints of its own that hold for what is written, though not for all rows: what each forbids.
    pub unproven: Vec<(String, String)>,
    /// Whether NOT NULL reaches it from above.
    pub not_null_above: bool,
    /// Whether it has rows of its own.
    pub stored: bool,
    pub rows: i64,
    pub bytes: i64,
}

impl Member {
    fn is_not_null_top(&self) -> bool {
        self.column.not_null && !self.not_null_above
    }
}

impl Shadow {
    pub(super) fn alone(&self) -> bool {
        self.spread == Spread::Alone
    }

    /// For statements about one table.
    pub(super) fn only(&self) -> &'static str {
        if self.alone() { "" } else { "ONLY " }
    }

    /// For queries about all rows: those of another table that came to inherit are none of ours.
    pub(super) fn all_rows(&self) -> String {
        let only = if self.alone() { "ONLY " } else { "" };
        format!("{only}{}", self.table)
    }

    /// What names a row of any of them.
    pub(super) fn row(&self) -> String {
        if self.key.is_empty() && !self.alone() {
            return "tableoid::pg_catalog.regclass AS tableoid, ctid::text AS ctid".to_owned();
        }
        key_list(&self.key)
    }

    pub(super) fn carries(&self) -> impl Iterator<Item = &Carry> {
        self.members.iter().map(|member| &member.carry)
    }

    /// The steps of all of them, told apart.
    pub(super) fn of_each(&self, steps: impl Fn(&Carry) -> Vec<StepDraft>) -> Vec<StepDraft> {
        let mut all: Vec<StepDraft> = self.carries().flat_map(steps).collect();
        carry::number(&mut all);
        all
    }

    /// Those to which nothing passes NOT NULL on, but which do.
    pub(super) fn not_null_tops(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_not_null_top())
    }

    pub(super) fn for_tops(&self, statement: impl Fn(&Member) -> String) -> Vec<String> {
        self.for_each(|member| {
            let statement = member.is_not_null_top().then(|| statement(member));
            statement.into_iter().collect()
        })
    }

    /// Those that must be given a trigger.
    pub(super) fn triggered(&self) -> impl Iterator<Item = &Member> {
        let count = match self.spread {
            Spread::Inheritance => self.members.len(),
            Spread::Alone | Spread::Partitions => 1,
        };
        self.members.iter().take(count)
    }

    pub(super) fn lock(&self) -> Vec<Lock> {
        let members = self.members.iter();
        members
            .map(|member| Lock::new(&member.table, LockMode::AccessExclusive))
            .collect()
    }

    /// What is below is locked along, by the one statement.
    pub(super) fn lock_statement(&self) -> String {
        lock_statement(std::slice::from_ref(&self.table))
    }

    /// Fails where tables came below since the plan was made; those up to a size may be let in.
    fn refuse_newcomers(&self, up_to_bytes: Option<u64>, hint: &str) -> String {
        let known: Vec<String> = self
            .members
            .iter()
            .map(|member| literal(&member.table.to_string()))
            .collect();
        let size = up_to_bytes
            .map(|bytes| format!(" AND pg_catalog.pg_total_relation_size(t.oid) > {bytes}"))
            .unwrap_or_default();
        let body = format!(
            "DECLARE found text; BEGIN WITH RECURSIVE tree (oid) AS (SELECT {root}::pg_catalog.regclass::pg_catalog.oid \
             UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN tree AS t ON t.oid = i.inhparent) \
             SELECT pg_catalog.string_agg(t.oid::pg_catalog.regclass::text, ', ') INTO found FROM tree AS t \
             WHERE t.oid <> ALL (ARRAY(SELECT k.oid FROM (SELECT pg_catalog.to_regclass(name)::pg_catalog.oid \
             FROM pg_catalog.unnest(ARRAY[{known}]) AS n (name)) AS k (oid) WHERE k.oid IS NOT NULL)){size}; \
             IF found IS NOT NULL THEN RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = {message} || found, \
             HINT = {hint}; END IF; END",
            root = literal(&self.table.to_string()),
            known = known.join(", "),
            message = literal(&format!(
                "since the plan was made these tables came below {}: ",
                self.table
            )),
            hint = literal(hint),
        );
        format!("DO {}", literal(&body))
    }

    /// Statements about each of the tables; what is about a partition is left out where that is gone.
    pub(super) fn for_each(&self, statements: impl Fn(&Member) -> Vec<String>) -> Vec<String> {
        let mut all = Vec::new();
        for member in &self.members {
            let these = statements(member);
            match self.part(&member.table) {
                Some(part) => all.extend(part.statement(&these)),
                None => all.extend(these),
            }
        }
        all
    }

    pub(super) fn part(&self, table: &QualifiedName) -> Option<Part> {
        let is_one = self.spread == Spread::Partitions
            && *table != self.table
            && self.members.iter().any(|member| member.table == *table);
        is_one.then(|| Part {
            table: table.clone(),
            of: self.table.clone(),
        })
    }

    /// Marks the works that are about a partition only.
    pub(super) fn mark_parts(&self, steps: &mut [StepDraft]) {
        for step in steps {
            self.mark_part(&mut step.work);
            if let Undo::Work(works) = &mut step.undo {
                works.iter_mut().for_each(|work| self.mark_part(work));
            }
        }
    }

    fn mark_part(&self, work: &mut Work) {
        if work.locks.iter().all(|lock| lock.relation != self.table) {
            work.part = work.locks.iter().find_map(|lock| self.part(&lock.relation));
        }
    }

    /// When the column is added: from here on partitions that come later get all that they need.
    pub(super) fn same_tables(&self) -> Option<String> {
        (!self.alone()).then(|| self.refuse_newcomers(None, "plan again"))
    }

    /// At the swap, in either direction.
    pub(super) fn welcome_tables(&self, settings: &Settings) -> Option<String> {
        let size = match self.spread {
            Spread::Alone => return None,
            Spread::Inheritance => {
                let hint = "nothing keeps the columns of these equal: let them no longer inherit, or roll back and plan again";
                return Some(self.refuse_newcomers(None, hint));
            }
            Spread::Partitions => settings.small_table_bytes.max(NEWCOMER_BYTES),
        };
        self.carries().any(Carry::looks_at_newcomers).then(|| {
            let hint = "everybody would wait while their keys are built: detach them for the time of this step, or roll back and plan again";
            self.refuse_newcomers(Some(size), hint)
        })
    }

    /// What people should know who add tables while the plan runs.
    pub(super) fn newcomer_hazard(&self) -> Option<Hazard> {
        let table = &self.table;
        let message = match self.spread {
            Spread::Alone => return None,
            Spread::Inheritance => {
                format!("tables that come to inherit from {table} before the cutover stop it")
            }
            Spread::Partitions => format!(
                "make new partitions of {table} with PARTITION OF until the cutover: a table that is attached would lack the new column or its values"
            ),
        };
        Some(Hazard::new("new_tables", message))
    }

    /// Catalogs of many tables take their time even where no row is read.
    pub(super) fn long_swap_hazard(&self, settings: &Settings) -> Option<Hazard> {
        let tables = u64::try_from(self.members.len()).unwrap_or(u64::MAX);
        let keys = self.carries().map(Carry::keys_within_swap).sum::<u64>();
        let about_ms = tables.saturating_mul(SWAP_MS_PER_TABLE + keys.saturating_mul(SWAP_MS_PER_KEY));
        let budget_ms = settings.brief().lock_ms.unwrap_or_default();
        (!self.alone() && about_ms > budget_ms).then(|| {
            let referring = match keys {
                0 => String::new(),
                keys => {
                    let keys = usize::try_from(keys).unwrap_or(usize::MAX);
                    format!(", and for each of these {} to it", units::counted(keys, "foreign key"))
                }
            };
            let message = format!(
                "this step holds its locks for about {}, while nobody reads or writes {}: it changes the catalog for {}{referring}",
                units::millis(about_ms),
                self.table,
                units::counted(self.members.len(), "table"),
            );
            Hazard::new("long_swap", message)
        })
    }

    pub(super) fn large_newcomer_hazard(&self, settings: &Settings) -> Option<Hazard> {
        let partitions = self.spread == Spread::Partitions;
        (partitions && self.carries().any(Carry::looks_at_newcomers)).then(|| {
            let message = format!(
                "the keys of partitions that come after the plan are built within this step, while everybody waits; one that is larger than {} by then stops it",
                units::size(settings.small_table_bytes.max(NEWCOMER_BYTES))
            );
            Hazard::new("new_partitions", message)
        })
    }

    /// A table that inherits the column may define it as well.
    fn definers(&self) -> impl Iterator<Item = &Member> {
        let below = self.members.iter().skip(1).rev();
        below.filter(|member| member.column.local && self.spread == Spread::Inheritance)
    }

    /// The column of the new type on all of them.
    pub(super) fn add_columns(&self, collate: &str) -> Vec<String> {
        let (shadow, only) = (ident(&self.shadow()), self.only());
        let top = self.members.iter().take(1);
        let mut statements: Vec<String> = self
            .definers()
            .chain(top)
            .map(|member| {
                format!(
                    "ALTER TABLE {} ADD COLUMN {shadow} {}{collate}",
                    member.table, self.new_type
                )
            })
            .collect();
        for member in &self.members {
            let kept = storage::settings(&member.column, &self.new_type);
            let alter = |what| format!("ALTER TABLE {only}{} ALTER COLUMN {shadow} {what}", member.table);
            statements.extend(kept.into_iter().map(alter));
        }
        statements.extend(self.carries().flat_map(Carry::beside));
        statements
    }

    pub(super) fn drop_columns(&self, column: &str, if_exists: &str) -> Vec<String> {
        let mut below: Vec<&Member> = self.definers().collect();
        below.reverse();
        let top = self.members.iter().take(1);
        top.chain(below)
            .map(|member| {
                format!(
                    "ALTER TABLE {} DROP COLUMN {if_exists}{}",
                    member.table,
                    ident(column)
                )
            })
            .collect()
    }

    /// Of each, after the columns have changed names.
    pub(super) fn set_defaults(&self, default: impl Fn(&Member) -> Option<&str>) -> Vec<String> {
        let (column, only) = (ident(&self.column.name), self.only());
        let set = |member: &Member| {
            let default = default(member);
            let set = default.map(|default| {
                format!(
                    "ALTER TABLE {only}{} ALTER COLUMN {column} SET DEFAULT {default}",
                    member.table
                )
            });
            set.into_iter().collect()
        };
        self.for_each(set)
    }

    pub(super) fn has_default(&self) -> bool {
        let members = self.members.iter();
        let mut defaults = members.map(|it| it.column.default.is_some() || it.new_default.is_some());
        defaults.any(|it| it)
    }

    pub(super) fn triggers_there(&self) -> Vec<Expectation> {
        let there = |member: &Member| Expectation::Trigger {
            table: member.table.clone(),
            name: self.trigger(),
            enabled: "always".into(),
        };
        self.triggered().map(there).collect()
    }

    pub(super) fn triggers_absent(&self) -> Vec<Expectation> {
        let absent = |member: &Member| Expectation::TriggerAbsent {
            table: member.table.clone(),
            name: self.trigger(),
        };
        self.triggered().map(absent).collect()
    }
}
