//! Indexes that are made, built anew and altered.

use super::Judge;
use crate::catalog::model::Index;
use crate::plan::LockMode::{self, AccessExclusive, AccessShare, Share, ShareUpdateExclusive};
use crate::sql::QualifiedName;
use crate::sql_lint::statement::{CreateIndex, IndexAction, Name, ReindexTarget};

impl Judge<'_> {
    pub(super) fn create_index(&mut self, create: &CreateIndex) {
        let table = self.resolve(&create.table);
        self.effects.transaction = !create.concurrently;
        let mode = match create.concurrently {
            true => ShareUpdateExclusive,
            false => Share,
        };
        self.lock(&table, mode);
        if self.world.pending.contains(&table) {
            return self.fail(
                "55006",
                format!("{table} has deferred checks to come in this transaction"),
            );
        }
        if create.concurrently && self.is_partitioned(&table) && !create.only {
            return self.fail(
                "0A000",
                format!("{table} is partitioned: its index cannot be built concurrently"),
            );
        }
        if let Some(column) = self.virtual_column(&table, create) {
            return self.fail("0A000", format!("the column {column} is virtual"));
        }
        let exists = create.name.as_ref().is_some_and(|name| {
            let name = table.sibling(&name.name);
            self.world.has_relation(&name)
        });
        if exists && create.if_not_exists {
            return;
        }
        if !self.is_partitioned(&table) {
            self.scan(&table);
            self.effects.builds_on.insert(table);
            return;
        }
        if create.only {
            return;
        }
        for member in self.family(&table).into_iter().skip(1) {
            self.lock(&member, mode);
            if self.is_partitioned(&member) {
                continue;
            }
            match self.matching_index(&member, &|index| is_same(index, create)) {
                Some(index) => self.lock(&index, Share),
                None => {
                    self.scan(&member);
                    self.effects.builds_on.insert(member);
                }
            }
        }
    }

    fn virtual_column(&self, table: &QualifiedName, create: &CreateIndex) -> Option<String> {
        let table = self.table(table)?;
        let mut keys = create.keys.iter().filter_map(|key| key.column.as_ref());
        keys.find(|key| {
            let mut columns = table.columns.iter();
            columns.any(|column| {
                column.name == **key
                    && column
                        .generated
                        .as_ref()
                        .is_some_and(|generated| !generated.stored)
            })
        })
        .cloned()
    }

    pub(super) fn reindex(&mut self, target: &ReindexTarget, concurrently: bool) {
        self.effects.transaction = !concurrently;
        let mode = match concurrently {
            true => ShareUpdateExclusive,
            false => Share,
        };
        match target {
            ReindexTarget::Index(index) => {
                let index = self.resolve(index);
                let owner = self.world.index_owner(&index);
                if let Some(table) = owner {
                    self.lock(&table, mode);
                    self.scan(&table);
                } else {
                    self.depends(format!("the table of {index}"));
                }
                self.lock(&index, AccessExclusive);
                self.effects.rebuilds_indexes.insert(index);
            }
            ReindexTarget::Table(table) => {
                let table = self.resolve(table);
                if self.is_partitioned(&table) {
                    self.effects.transaction = false;
                }
                self.reindex_tables(&table, mode);
            }
            ReindexTarget::Schema(schema) => {
                self.effects.transaction = false;
                let inside = |name: &&QualifiedName| name.schema == *schema;
                let tables: Vec<QualifiedName> =
                    self.world.catalog.tables.keys().filter(inside).cloned().collect();
                for table in tables {
                    if !self.is_partitioned(&table) {
                        self.reindex_table(&table, mode);
                    }
                }
            }
            ReindexTarget::Database => self.effects.transaction = false,
        }
    }

    fn reindex_tables(&mut self, table: &QualifiedName, mode: LockMode) {
        for member in self.family(table) {
            self.reindex_table(&member, mode);
        }
    }

    fn reindex_table(&mut self, table: &QualifiedName, mode: LockMode) {
        self.lock(table, mode);
        if self.is_partitioned(table) {
            return;
        }
        if !self.index_names(table).is_empty() || self.table(table).is_none() {
            self.scan(table);
        }
        self.rebuild_all(table);
    }

    pub(super) fn alter_index(&mut self, index: &Name, action: &IndexAction) {
        let index = self.resolve(index);
        let owner = self.world.index_owner(&index);
        match action {
            IndexAction::Attach(part) => {
                let part = self.resolve(part);
                let part_owner = self.world.index_owner(&part);
                self.lock(&index, ShareUpdateExclusive);
                self.lock(&part, AccessExclusive);
                for table in owner.iter().chain(&part_owner) {
                    self.lock(table, AccessShare);
                }
                let definition = |index: &QualifiedName| {
                    let found = self.world.catalog.index(index);
                    found.map(|(_, index)| index.constraint.is_some())
                };
                if definition(&index) == Some(true) && definition(&part) == Some(false) {
                    self.fail(
                        "42P17",
                        format!("{index} belongs to a constraint, {part} to none"),
                    );
                }
            }
            IndexAction::Rename(_) | IndexAction::SetStatistics | IndexAction::SetOptions => {
                self.lock(&index, ShareUpdateExclusive);
            }
            IndexAction::SetTablespace => {
                self.lock(&index, AccessExclusive);
                self.effects.rebuilds_indexes.insert(index);
            }
            IndexAction::Other => self.lock(&index, AccessShare),
        }
    }

    /// The index with its parts in the partitions and the tables of all of them.
    pub(super) fn drop_index_tree(&mut self, index: &QualifiedName) {
        let mut tree = vec![index.clone()];
        let mut at = 0;
        while at < tree.len() {
            let parent = tree[at].clone();
            for (table, found) in &self.world.catalog.tables {
                for (name, part) in &found.indexes {
                    if part.parent.as_ref() == Some(&parent) {
                        tree.push(table.sibling(name));
                    }
                }
            }
            at += 1;
        }
        for part in tree {
            if let Some(owner) = self.world.index_owner(&part) {
                self.lock(&owner, AccessExclusive);
            }
            self.lock(&part, AccessExclusive);
        }
    }
}

/// An index that a partition already has and the parent's takes over.
fn is_same(index: &Index, create: &CreateIndex) -> bool {
    let keys = index.keys.iter().map(|key| key.column.as_ref());
    let wanted = create.keys.iter().map(|key| key.column.as_ref());
    let plain = create
        .keys
        .iter()
        .all(|key| key.column.is_some() && !key.qualified);
    plain
        && keys.eq(wanted)
        && index.unique == create.unique
        && index.predicate.is_none()
        && create.predicate.is_none()
        && index.method == create.method.as_deref().unwrap_or("btree")
}
