//! Maintenance, views, triggers, types, sequences, privileges and plain queries.

use super::Judge;
use crate::catalog::model::ConstraintKind;
use crate::plan::LockMode::{
    AccessExclusive, AccessShare, Exclusive, RowExclusive, RowShare, Share, ShareRowExclusive,
    ShareUpdateExclusive,
};
use crate::sql::QualifiedName;
use crate::sql_lint::statement::{Kind, Name, Write};

impl Judge<'_> {
    pub(super) fn object(&mut self, kind: &Kind) {
        match kind {
            Kind::Vacuum { full, tables } => self.vacuum(*full, tables),
            Kind::Analyze(tables) => {
                for table in tables {
                    let table = self.resolve(table);
                    let family = self.family(&table);
                    self.lock_all(&family, ShareUpdateExclusive);
                }
            }
            Kind::Cluster { table, index } => self.cluster(table.as_ref(), index.as_ref()),
            Kind::Refresh {
                view,
                concurrently,
                no_data,
            } => self.refresh(view, *concurrently, *no_data),
            Kind::Lock { tables, mode } => {
                for (table, only) in tables {
                    let table = self.resolve(table);
                    let members = if *only { vec![table] } else { self.family(&table) };
                    self.lock_all(&members, *mode);
                }
            }
            Kind::Alone => self.effects.transaction = false,
            Kind::Opaque(what) => self.depends(format!("what {what} does: its body is not looked into")),
            Kind::Select {
                reads,
                for_update,
                whole,
            } => self.select(reads, *for_update, *whole),
            Kind::Write(write) => self.write(write),
            other => self.named_object(other),
        }
    }

    fn named_object(&mut self, kind: &Kind) {
        match kind {
            Kind::CreateTrigger {
                table,
                from,
                each_row,
                ..
            } => {
                let table = self.resolve(table);
                self.lock(&table, ShareRowExclusive);
                if *each_row && self.is_partitioned(&table) {
                    let family = self.family(&table);
                    self.lock_all(&family, ShareRowExclusive);
                }
                if let Some(from) = from {
                    let from = self.resolve(from);
                    self.lock(&from, AccessShare);
                }
            }
            Kind::DropTrigger { name, table } => self.drop_trigger(name, table),
            Kind::RenameTrigger { table } => {
                let table = self.resolve(table);
                let family = self.family(&table);
                self.lock_all(&family, AccessExclusive);
            }
            Kind::TableObject { table, reads, .. } => {
                let table = self.resolve(table);
                self.lock(&table, AccessExclusive);
                self.read_catalog(reads);
            }
            Kind::CreateView {
                name, replace, reads, ..
            } => {
                let name = self.resolve(name);
                if *replace && self.world.catalog.views.contains_key(&name) {
                    self.lock(&name, AccessExclusive);
                }
                self.read_catalog(reads);
            }
            Kind::CreateMaterializedView { reads, .. } => self.read(reads, true),
            Kind::AlterView {
                name,
                materialized,
                actions,
                ..
            } => {
                let name = self.resolve(name);
                let light = actions.iter().all(|action| {
                    use crate::sql_lint::statement::Action;
                    matches!(
                        action,
                        Action::SetStatistics(_) | Action::ClusterOn(_) | Action::SetWithoutCluster
                    )
                });
                let quiet = *materialized && !actions.is_empty() && light;
                self.lock(
                    &name,
                    if quiet {
                        ShareUpdateExclusive
                    } else {
                        AccessExclusive
                    },
                );
            }
            other => self.quiet_object(other),
        }
    }

    fn quiet_object(&mut self, kind: &Kind) {
        match kind {
            Kind::CreateFunction { reads, .. } => self.read_catalog(reads),
            Kind::DropFunction { names, cascade } => self.drop_functions(names, *cascade),
            Kind::AlterComposite {
                name,
                cascade,
                retypes,
            } => self.alter_composite(name, *cascade, *retypes),
            Kind::AlterDomain { name, validates, .. } => self.alter_domain(name, *validates),
            Kind::CreateSequence {
                owner: Some(owner), ..
            } => {
                let owner = self.resolve(owner);
                self.lock(&owner, AccessShare);
            }
            Kind::AlterSequence {
                name,
                rename,
                owner,
                other,
            } => {
                let name = self.resolve(name);
                let mode = if *rename || *other {
                    AccessExclusive
                } else {
                    ShareRowExclusive
                };
                self.lock(&name, mode);
                if let Some(owner) = owner {
                    let owner = self.resolve(owner);
                    self.lock(&owner, AccessShare);
                }
            }
            Kind::Comment { table: Some(table) } => {
                let table = self.resolve(table);
                self.lock(&table, ShareUpdateExclusive);
            }
            Kind::Grant { tables } if self.version() >= 18 => {
                for table in tables {
                    let table = self.resolve(table);
                    self.lock(&table, AccessShare);
                }
            }
            Kind::Publication { tables, .. } => {
                for table in tables {
                    let table = self.resolve(table);
                    let family = self.family(&table);
                    let members = if self.is_partitioned(&table) {
                        vec![table]
                    } else {
                        family
                    };
                    self.lock_all(&members, ShareUpdateExclusive);
                }
            }
            Kind::CreateStatistics { table } => {
                let table = self.resolve(table);
                self.lock(&table, ShareUpdateExclusive);
            }
            _ => {}
        }
    }

    /// What a stored query names, without running it.
    fn read_catalog(&mut self, names: &[Name]) {
        for name in names {
            let relation = self.resolve(name);
            if !self.world.is_foreign_name(&relation) {
                self.lock(&relation, AccessShare);
            }
        }
    }

    fn vacuum(&mut self, full: bool, tables: &[Name]) {
        self.effects.transaction = false;
        for table in tables {
            let table = self.resolve(table);
            for member in self.family(&table) {
                if full {
                    self.lock(&member, AccessExclusive);
                    self.rewrite(&member);
                    continue;
                }
                self.lock(&member, ShareUpdateExclusive);
                let indexes = self.index_names(&member);
                if !self.is_partitioned(&member) {
                    self.lock_all(&indexes, RowExclusive);
                }
            }
        }
    }

    fn cluster(&mut self, table: Option<&Name>, index: Option<&Name>) {
        let Some(table) = table.map(|table| self.resolve(table)) else {
            self.effects.transaction = false;
            return;
        };
        if !self.is_partitioned(&table) {
            self.lock(&table, AccessExclusive);
            return self.rewrite(&table);
        }
        if self.version() < 15 {
            return self.fail("0A000", format!("{table} is partitioned"));
        }
        self.effects.transaction = false;
        if let Some(index) = index {
            self.lock(&table.sibling(&index.name), AccessShare);
        }
        for member in self.family(&table) {
            self.lock(&member, AccessExclusive);
            self.rewrite(&member);
        }
    }

    fn refresh(&mut self, view: &Name, concurrently: bool, no_data: bool) {
        let name = self.resolve(view);
        let Some(view) = self.world.catalog.views.get(&name).cloned() else {
            self.lock(&name, if concurrently { Exclusive } else { AccessExclusive });
            self.scan(&name);
            if !concurrently {
                self.effects.rewrites.insert(name);
            }
            return;
        };
        let unique =
            |index: &crate::catalog::model::Index| index.unique && index.predicate.is_none() && index.valid;
        if concurrently && !view.indexes.values().any(unique) {
            return self.fail("55000", format!("{name} has no unique index on all rows"));
        }
        let mut sources: Vec<QualifiedName> = view.uses.iter().map(|(used, _)| used.clone()).collect();
        sources.dedup();
        for index in self.index_names(&name) {
            if concurrently {
                self.lock(&index, RowExclusive);
            } else {
                self.lock(&index, AccessExclusive);
                self.effects.rebuilds_indexes.insert(index);
            }
        }
        self.lock(&name, if concurrently { Exclusive } else { AccessExclusive });
        if !concurrently {
            self.effects.rewrites.insert(name.clone());
        }
        if no_data {
            return;
        }
        self.scan(&name);
        for source in sources {
            self.read_one(&source, true);
        }
    }

    fn drop_trigger(&mut self, trigger: &str, table: &Name) {
        let table = self.resolve(table);
        for member in self.family(&table) {
            let has = self
                .table(&member)
                .is_some_and(|found| found.triggers.get(trigger).is_some_and(|found| found.cloned));
            if member == table || has {
                self.lock(&member, AccessExclusive);
            }
        }
    }

    fn drop_functions(&mut self, names: &[Name], cascade: bool) {
        for name in names {
            let is_called = |function: &str| {
                let called = crate::sql_lint::parse::dotted(function.split('(').next().unwrap_or(function));
                called.name == name.name && (name.schema.is_none() || called.schema == name.schema)
            };
            let tables = self.world.catalog.tables.iter();
            let users =
                tables.filter(|(_, table)| table.triggers.values().any(|found| is_called(&found.function)));
            let users: Vec<QualifiedName> = users.map(|(table, _)| table.clone()).collect();
            for table in users {
                match cascade {
                    true => self.lock(&table, AccessExclusive),
                    false => self.fail("2BP01", format!("a trigger of {table} calls {name}")),
                }
            }
        }
    }

    fn alter_composite(&mut self, name: &Name, cascade: bool, retypes: bool) {
        let name = self.resolve(name);
        self.lock(&name, AccessExclusive);
        if retypes && let Some(user) = self.users_of_type(&name).first() {
            return self.fail("0A000", format!("a column of {user} has the type {name}"));
        }
        let text = name.to_string();
        let tables = self.world.catalog.tables.iter();
        let typed = tables.filter(|(_, table)| table.of_type.as_deref() == Some(&text));
        let typed: Vec<QualifiedName> = typed.map(|(table, _)| table.clone()).collect();
        for table in typed {
            match cascade {
                true => self.lock(&table, AccessExclusive),
                false => self.fail("2BP01", format!("{table} is a table of the type {name}")),
            }
        }
    }

    fn alter_domain(&mut self, name: &Name, validates: bool) {
        if !validates {
            return;
        }
        let name = self.resolve(name);
        let users = self.users_of_type(&name);
        if users.is_empty() && !self.world.complete {
            self.depends(format!(
                "the tables with columns of {name}: all are locked SHARE and read"
            ));
        }
        for table in users {
            self.lock(&table, Share);
            self.scan(&table);
        }
    }

    fn select(&mut self, reads: &[Name], for_update: bool, whole: bool) {
        for name in reads {
            let relation = self.resolve(name);
            if self.world.is_foreign_name(&relation) {
                continue;
            }
            self.read_one(&relation, whole);
            if for_update {
                self.lock(&relation, RowShare);
                // The planner locks the indexes like the table; which of them it considers is its business.
                let indexes = self.index_names(&relation);
                self.lock_all(&indexes, RowShare);
            }
        }
    }

    fn write(&mut self, write: &Write) {
        let table = self.resolve(&write.table);
        self.lock(&table, RowExclusive);
        self.read(&write.reads, false);
        self.fresh_label(write.strings.iter());
        let changes = matches!(write.verb, "UPDATE" | "DELETE" | "MERGE");
        if changes {
            for member in self.family(&table) {
                self.lock(&member, RowExclusive);
                let indexes = self.index_names(&member);
                self.lock_all(&indexes, RowExclusive);
                if write.whole {
                    self.scan(&member);
                }
            }
        }
        if write.verb == "DELETE" {
            return;
        }
        // The check looks the key up in the referenced table, and the planner locks that table's indexes.
        for (_, key) in self.constraints(&table, ConstraintKind::ForeignKey) {
            if write.verb == "UPDATE" {
                continue;
            }
            if let Some(to) = key.references {
                self.lock(&to.table, RowShare);
                let indexes = self.index_names(&to.table);
                self.lock_all(&indexes, RowShare);
            }
        }
    }
}
