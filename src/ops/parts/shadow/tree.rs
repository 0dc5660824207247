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
    /// The table and what is below it.
    pub tree: Vec<QualifiedName>,
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
        self.rows_of(&self.table)
    }

    pub(super) fn rows_of(&self, table: &QualifiedName) -> String {
        let only = if self.alone() { "ONLY " } else { "" };
        format!("{only}{table}")
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

    /// Fails where the query over `newcomers`, the tables that came below since the plan was made, finds anything.
    fn refuse_of_newcomers(&self, query: &str, what: &str, hint: &str) -> String {
        let known: Vec<String> = self
            .members
            .iter()
            .map(|member| literal(&member.table.to_string()))
            .collect();
        let body = format!(
            "DECLARE found text; BEGIN WITH RECURSIVE tree (oid) AS (SELECT {root}::pg_catalog.regclass::pg_catalog.oid \
             UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN tree AS t ON t.oid = i.inhparent), \
             newcomers AS (SELECT t.oid FROM tree AS t \
             WHERE t.oid <> ALL (ARRAY(SELECT k.oid FROM (SELECT pg_catalog.to_regclass(name)::pg_catalog.oid \
             FROM pg_catalog.unnest(ARRAY[{known}]) AS n (name)) AS k (oid) WHERE k.oid IS NOT NULL))) \
             SELECT pg_catalog.string_agg(DISTINCT q.found, ', ') INTO found FROM ({query}) AS q (found); \
             IF found IS NOT NULL THEN RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = {message} || found, \
             HINT = {hint}; END IF; END",
            root = literal(&self.table.to_string()),
            known = known.join(", "),
            message = literal(&format!("since the plan was made {what}: ")),
            hint = literal(hint),
        );
        format!("DO {}", literal(&body))
    }

    /// Those up to a size may be let in.
    fn refuse_newcomers(&self, up_to_bytes: Option<u64>, hint: &str) -> String {
        let size = up_to_bytes
            .map(|bytes| format!(" WHERE pg_catalog.pg_total_relation_size(t.oid) > {bytes}"))
            .unwrap_or_default();
        let query = format!("SELECT t.oid::pg_catalog.regclass::text FROM newcomers AS t{size}");
        let what = format!("these tables came below {}", self.table);
        self.refuse_of_newcomers(&query, &what, hint)
    }

    /// What they have from above is carried with it; what they have of their own nobody would carry.
    fn refuse_own_of_newcomers(&self) -> String {
        let query = format!(
            "SELECT pg_catalog.pg_describe_object(d.classid, d.objid, 0) FROM newcomers AS t \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attname = {column} \
             JOIN pg_catalog.pg_depend AS d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
             AND d.refobjid = t.oid AND d.refobjsubid = a.attnum \
             LEFT JOIN pg_catalog.pg_constraint AS c ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND c.oid = d.objid \
             LEFT JOIN pg_catalog.pg_trigger AS g ON d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND g.oid = d.objid \
             LEFT JOIN pg_catalog.pg_inherits AS i ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.inhrelid = d.objid \
             WHERE d.classid <> 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND c.contype IS DISTINCT FROM 'n' \
             AND coalesce(c.conparentid, 0) = 0 AND (c.contype IS DISTINCT FROM 'c' OR c.conislocal) \
             AND coalesce(g.tgparentid, 0) = 0 AND i.inhrelid IS NULL",
            column = literal(&self.column.name),
        );
        let (table, column) = (&self.table, ident(&self.column.name));
        self.refuse_of_newcomers(
            &query,
            &format!("this came to hang on {column} of new tables below {table}"),
            "drop it for the time of this step, or roll back and plan again",
        )
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
    pub(super) fn welcome_tables(&self, settings: &Settings) -> Vec<String> {
        match self.spread {
            Spread::Alone => Vec::new(),
            Spread::Inheritance => {
                let hint = "nothing keeps the columns of these equal: let them no longer inherit, or roll back and plan again";
                vec![self.refuse_newcomers(None, hint)]
            }
            Spread::Partitions => {
                let mut statements = vec![self.refuse_own_of_newcomers()];
                if self.carries().any(Carry::looks_at_newcomers) {
                    let size = settings.small_table_bytes.max(NEWCOMER_BYTES);
                    let hint = "everybody would wait while their keys are built: detach them for the time of this step, or roll back and plan again";
                    statements.push(self.refuse_newcomers(Some(size), hint));
                }
                statements
            }
        }
    }

    /// What people should know who add tables while the plan runs.
    pub(super) fn newcomer_hazard(&self) -> Option<Hazard> {
        let table = &self.table;
        let message = match self.spread {
            Spread::Alone => return None,
            Spread::Inheritance => {
                format!(
                    "tables that come to inherit from {table} before the cutover stop it; those that do now must go on to until contract"
                )
            }
            Spread::Partitions => format!(
                "make new partitions of {table} with PARTITION OF until the cutover: a table that is attached would lack the new column or its values; one that is detached keeps our column, which nothing fills any more and which may not be null, until contract or rollback drops it"
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

    /// After the columns have changed names: that of the topmost table for all, those that came later included, and then
    /// those that are others.
    pub(super) fn set_defaults(&self, default: impl Fn(&Member) -> Option<&str>) -> Vec<String> {
        let (table, column) = (&self.table, ident(&self.column.name));
        let top = self.members.first().and_then(&default);
        let set = top.map(|top| format!("ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {top}"));
        let mut statements: Vec<String> = set.into_iter().collect();
        statements.extend(self.for_each(|member| {
            let own = default(member);
            if own == top {
                return Vec::new();
            }
            let what = own.map_or_else(|| "DROP DEFAULT".to_owned(), |own| format!("SET DEFAULT {own}"));
            let only = self.only();
            vec![format!(
                "ALTER TABLE {only}{} ALTER COLUMN {column} {what}",
                member.table
            )]
        }));
        statements
    }

    pub(super) fn has_default(&self) -> bool {
        let members = self.members.iter();
        let mut defaults = members.map(|it| it.column.default.is_some() || it.new_default.is_some());
        defaults.any(|it| it)
    }

    /// Of partitions that were detached in the meantime and stand alone.
    pub(super) fn drop_from_detached(&self) -> Vec<String> {
        let drop = |member: &Member| {
            let table = &member.table;
            let body = format!(
                "DECLARE detached CONSTANT pg_catalog.regclass := pg_catalog.to_regclass({}); BEGIN \
                 IF detached IS NOT NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = detached) \
                 THEN ALTER TABLE {table} DROP COLUMN IF EXISTS {}, DROP COLUMN IF EXISTS {}; END IF; END",
                literal(&table.to_string()),
                ident(&self.shadow()),
                ident(&self.old()),
            );
            format!("DO {}", literal(&body))
        };
        let partitions = self
            .members
            .iter()
            .filter(|member| self.part(&member.table).is_some());
        partitions.map(drop).collect()
    }

    /// A table of the tree with what is below it.
    pub(super) fn tables_from(&self, table: &QualifiedName) -> Vec<QualifiedName> {
        let member = self.members.iter().find(|member| member.table == *table);
        member.map_or_else(|| vec![table.clone()], |member| member.tree.clone())
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
