//! What one statement does to the relations that are there before it: locks, rewrites, scans, indexes built anew.

mod alter_table;
mod columns;
mod constraints;
mod drops;
mod indexes;
mod objects;
mod partitions;
mod retype;
mod types;

use super::statement::{Kind, Name, Statement};
use super::world::World;
use crate::catalog::model::{Constraint, ConstraintKind, Index, Table, TableKind};
use crate::plan::LockMode;
use crate::sql::QualifiedName;
use std::collections::{BTreeMap, BTreeSet};

pub use types::steady_functions;

/// What a statement does; for people and machines in the same words as the trace of a rehearsal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Effects {
    /// The strongest lock on each relation that existed before the statement, held at its end.
    pub locks: BTreeMap<QualifiedName, LockMode>,
    /// Relations that get new files.
    pub rewrites: BTreeSet<QualifiedName>,
    /// Relations whose rows are all read.
    pub scans: BTreeSet<QualifiedName>,
    /// Existing indexes that are built anew.
    pub rebuilds_indexes: BTreeSet<QualifiedName>,
    /// Tables that get a new index, built while the locks are held.
    pub builds_on: BTreeSet<QualifiedName>,
    /// Whether PostgreSQL accepts it in a transaction block.
    pub transaction: bool,
    /// Why PostgreSQL refuses it.
    pub fails: Option<Refusal>,
    /// What the answer hinges on, where the worst was assumed.
    pub depends: Vec<String>,
}

/// The error that a statement ends in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub sqlstate: &'static str,
    pub message: String,
}

impl Effects {
    /// The strongest lock that keeps reads or writes out, and on which relations.
    pub fn strongest(&self) -> Option<LockMode> {
        self.locks.values().copied().max()
    }

    pub fn blocks(&self) -> bool {
        self.locks.values().any(|mode| mode.blocks_writes())
    }
}

/// What the statement would do now.
pub fn effects(world: &World, statement: &Statement) -> Effects {
    let mut judge = Judge {
        world,
        effects: Effects {
            transaction: true,
            ..Effects::default()
        },
    };
    judge.statement(&statement.kind);
    let mut effects = judge.effects;
    if effects.fails.is_some() {
        // It changes nothing, and its locks go with its transaction.
        effects = Effects {
            transaction: effects.transaction,
            fails: effects.fails,
            ..Effects::default()
        };
    }
    effects
}

pub(super) struct Judge<'a> {
    world: &'a World,
    effects: Effects,
}

impl Judge<'_> {
    fn statement(&mut self, kind: &Kind) {
        match kind {
            Kind::AlterTable(alter) => self.alter_table(alter),
            Kind::CreateTable(create) => self.create_table(create),
            Kind::CreateTableAs { reads, .. } => self.read(reads, true),
            Kind::CreateIndex(create) => self.create_index(create),
            Kind::Drop(drop) => self.drop(drop),
            Kind::Reindex { target, concurrently } => self.reindex(target, *concurrently),
            Kind::AlterIndex { index, action } => self.alter_index(index, action),
            Kind::Truncate {
                tables,
                restart,
                cascade,
            } => self.truncate(tables, *restart, *cascade),
            other => self.object(other),
        }
    }

    fn version(&self) -> u32 {
        self.world.version
    }

    fn lock(&mut self, relation: &QualifiedName, mode: LockMode) {
        let held = self.effects.locks.entry(relation.clone()).or_insert(mode);
        *held = (*held).max(mode);
    }

    fn lock_all(&mut self, relations: &[QualifiedName], mode: LockMode) {
        for relation in relations {
            self.lock(relation, mode);
        }
    }

    fn fail(&mut self, sqlstate: &'static str, message: impl Into<String>) {
        if self.effects.fails.is_none() {
            self.effects.fails = Some(Refusal {
                sqlstate,
                message: message.into(),
            });
        }
    }

    fn depends(&mut self, on: impl Into<String>) {
        let on = on.into();
        if !self.effects.depends.contains(&on) {
            self.effects.depends.push(on);
        }
    }

    fn resolve(&self, name: &Name) -> QualifiedName {
        self.world.resolve(name)
    }

    fn table(&self, name: &QualifiedName) -> Option<&Table> {
        self.world.catalog.tables.get(name)
    }

    fn is_partitioned(&self, name: &QualifiedName) -> bool {
        self.table(name)
            .is_some_and(|table| table.kind == TableKind::Partitioned)
    }

    /// The table with all that inherit from it, itself first.
    fn family(&self, name: &QualifiedName) -> Vec<QualifiedName> {
        let mut found = vec![name.clone()];
        let mut at = 0;
        while let Some(children) = found.get(at).map(|member| {
            self.table(member)
                .map(|table| table.children.clone())
                .unwrap_or_default()
        }) {
            for child in children {
                if !found.contains(&child) {
                    found.push(child);
                }
            }
            at += 1;
        }
        found
    }

    /// All rows are read; a partitioned table has none of its own.
    fn scan(&mut self, table: &QualifiedName) {
        if !self.is_partitioned(table) {
            self.effects.scans.insert(table.clone());
        }
    }

    fn scan_family(&mut self, table: &QualifiedName) {
        for member in self.family(table) {
            self.scan(&member);
        }
    }

    /// New files for the table and all its indexes.
    fn rewrite(&mut self, table: &QualifiedName) {
        if self.is_partitioned(table) {
            return;
        }
        self.scan(table);
        self.effects.rewrites.insert(table.clone());
        self.rebuild_all(table);
    }

    fn rebuild_all(&mut self, table: &QualifiedName) {
        for index in self.index_names(table) {
            self.lock(&index, LockMode::AccessExclusive);
            self.effects.rebuilds_indexes.insert(index);
        }
    }

    fn index_names(&self, table: &QualifiedName) -> Vec<QualifiedName> {
        let of_table = self.world.table(table).map(|table| &table.indexes);
        let of_view = self.world.catalog.views.get(table).map(|view| &view.indexes);
        let indexes = of_table.or(of_view);
        indexes
            .map(|indexes| indexes.keys().map(|name| table.sibling(name)).collect())
            .unwrap_or_default()
    }

    fn indexes(&self, table: &QualifiedName) -> Vec<(QualifiedName, Index)> {
        let found = self.table(table).map(|found| &found.indexes);
        found
            .map(|indexes| {
                let one = |(name, index): (&String, &Index)| (table.sibling(name), index.clone());
                indexes.iter().map(one).collect()
            })
            .unwrap_or_default()
    }

    fn constraints(&self, table: &QualifiedName, kind: ConstraintKind) -> Vec<(String, Constraint)> {
        let found = self.world.table(table).map(|found| &found.constraints);
        found
            .map(|constraints| {
                constraints
                    .iter()
                    .filter(|(_, constraint)| constraint.kind == kind)
                    .map(|(name, constraint)| (name.clone(), constraint.clone()))
                    .collect()
            })
            .unwrap_or_default()
    }

    /// Foreign keys elsewhere that reference the table: (referencing table, constraint).
    fn incoming(&self, table: &QualifiedName) -> Vec<(QualifiedName, Constraint)> {
        let found = self.world.catalog.incoming_foreign_keys(table);
        let others = found.into_iter().filter(|(from, ..)| *from != table);
        others
            .map(|(from, _, constraint)| (from.clone(), constraint.clone()))
            .collect()
    }

    /// Tables and views that are read, with those behind the views.
    fn read(&mut self, names: &[Name], whole: bool) {
        for name in names {
            let relation = self.resolve(name);
            self.read_one(&relation, whole);
        }
    }

    fn read_one(&mut self, relation: &QualifiedName, whole: bool) {
        if self.world.is_foreign_name(relation) {
            return;
        }
        for member in self.family(relation) {
            self.lock(&member, LockMode::AccessShare);
            if whole
                && !self
                    .world
                    .catalog
                    .views
                    .get(&member)
                    .is_some_and(|view| !view.materialized)
            {
                self.scan(&member);
            }
        }
    }
}
