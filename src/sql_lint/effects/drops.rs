//! `DROP` and `TRUNCATE`.

use super::Judge;
use crate::catalog::model::ConstraintKind;
use crate::plan::LockMode::{AccessExclusive, ShareUpdateExclusive};
use crate::sql::QualifiedName;
use crate::sql_lint::statement::{Drop, Name, Object};

impl Judge<'_> {
    pub(super) fn drop(&mut self, drop: &Drop) {
        match drop.object {
            Object::Index => self.drop_indexes(drop),
            Object::Schema => {
                for schema in &drop.names {
                    self.drop_schema(&schema.name, drop);
                }
            }
            Object::Type => self.drop_types(drop),
            _ => {
                let names: Vec<QualifiedName> = drop.names.iter().map(|name| self.resolve(name)).collect();
                for name in &names {
                    match drop.object {
                        Object::Sequence => self.drop_sequence(name, drop.cascade),
                        Object::Table => self.drop_table(name, drop.cascade, &names),
                        _ => self.drop_view(name, drop.cascade, &names),
                    }
                }
            }
        }
    }

    fn drop_table(&mut self, name: &QualifiedName, cascade: bool, together: &[QualifiedName]) {
        let parent = self.table(name).and_then(|table| table.partition_of.clone());
        if let Some(parent) = parent {
            self.lock(&parent, AccessExclusive);
            if let Some(default) = self.default_partition(&parent) {
                self.lock(&default, AccessExclusive);
            }
        }
        for member in self.family(name) {
            self.lock(&member, AccessExclusive);
            let indexes = self.index_names(&member);
            self.lock_all(&indexes, AccessExclusive);
            self.owned_sequences(&member);
            for (_, key) in self.constraints(&member, ConstraintKind::ForeignKey) {
                if let Some(to) = key.references {
                    let family = self.family(&to.table);
                    self.lock_all(&family, AccessExclusive);
                }
            }
            for (from, _) in self.incoming(&member) {
                if together.contains(&from) {
                    continue;
                }
                match cascade {
                    true => self.lock(&from, AccessExclusive),
                    false => self.fail("2BP01", format!("a foreign key of {from} depends on {member}")),
                }
            }
            self.drop_views_over(&member, cascade, together);
        }
    }

    /// Views that read the relation go with it, or keep it.
    fn drop_views_over(&mut self, relation: &QualifiedName, cascade: bool, together: &[QualifiedName]) {
        let views = self.world.catalog.views.iter();
        let over = views.filter(|(name, view)| {
            !together.contains(name) && view.uses.iter().any(|(used, _)| used == relation)
        });
        let over: Vec<QualifiedName> = over.map(|(name, _)| name.clone()).collect();
        for view in over {
            if !cascade {
                return self.fail("2BP01", format!("the view {view} depends on {relation}"));
            }
            if !self.effects.locks.contains_key(&view) {
                self.drop_view(&view, true, together);
            }
        }
    }

    fn drop_view(&mut self, name: &QualifiedName, cascade: bool, together: &[QualifiedName]) {
        self.lock(name, AccessExclusive);
        let indexes = self.index_names(name);
        self.lock_all(&indexes, AccessExclusive);
        self.drop_views_over(name, cascade, together);
    }

    fn drop_sequence(&mut self, name: &QualifiedName, cascade: bool) {
        self.lock(name, AccessExclusive);
        let text = format!("'{name}'::regclass");
        let tables = self.world.catalog.tables.iter();
        let users = tables.filter(|(_, table)| {
            let mut defaults = table.columns.iter().filter_map(|column| column.default.as_ref());
            defaults.any(|default| default.contains(&text))
        });
        let users: Vec<QualifiedName> = users.map(|(table, _)| table.clone()).collect();
        for table in users {
            match cascade {
                true => self.lock(&table, AccessExclusive),
                false => self.fail("2BP01", format!("a default of {table} depends on {name}")),
            }
        }
    }

    fn drop_indexes(&mut self, drop: &Drop) {
        self.effects.transaction = !drop.concurrently;
        if drop.concurrently && drop.names.len() > 1 {
            return self.fail("0A000", "only one index at a time is dropped concurrently");
        }
        for name in &drop.names {
            let index = self.resolve(name);
            let Some((table, found)) = self.world.catalog.index(&index) else {
                self.lock(&index, AccessExclusive);
                if !self.world.complete {
                    let mode = if drop.concurrently {
                        ShareUpdateExclusive
                    } else {
                        AccessExclusive
                    };
                    self.depends(format!("the table of {index}, locked {mode} as well"));
                }
                continue;
            };
            let (table, found) = (table.clone(), found.clone());
            if found.parent.is_some() {
                return self.fail(
                    "2BP01",
                    format!("{index} is a part of the index of its parent table"),
                );
            }
            if found.constraint.is_some() {
                return self.fail("2BP01", format!("a constraint of {table} needs {index}"));
            }
            let referenced = self
                .incoming(&table)
                .into_iter()
                .any(|(from, key)| key.index.as_deref() == Some(&index.name) && from != table);
            if referenced && !drop.cascade {
                return self.fail("2BP01", format!("a foreign key depends on {index}"));
            }
            if !drop.concurrently {
                self.drop_index_tree(&index);
                continue;
            }
            if self.is_partitioned(&table) {
                return self.fail(
                    "0A000",
                    format!("{index} is partitioned: it cannot be dropped concurrently"),
                );
            }
            self.lock(&table, ShareUpdateExclusive);
            self.lock(&index, AccessExclusive);
        }
    }

    fn drop_schema(&mut self, schema: &str, drop: &Drop) {
        if !drop.cascade {
            return;
        }
        let inside = |name: &&QualifiedName| name.schema == schema;
        let catalog = &self.world.catalog;
        let tables: Vec<QualifiedName> = catalog.tables.keys().filter(inside).cloned().collect();
        let views: Vec<QualifiedName> = catalog.views.keys().filter(inside).cloned().collect();
        let sequences: Vec<QualifiedName> = catalog.sequences.keys().filter(inside).cloned().collect();
        for table in &tables {
            self.drop_table(table, true, &tables);
        }
        for view in &views {
            self.drop_view(view, true, &views);
        }
        self.lock_all(&sequences, AccessExclusive);
    }

    fn drop_types(&mut self, drop: &Drop) {
        for name in &drop.names {
            let name = self.resolve(name);
            let users = self.users_of_type(&name);
            for table in users {
                match drop.cascade {
                    true => self.lock(&table, AccessExclusive),
                    false => self.fail("2BP01", format!("a column of {table} depends on {name}")),
                }
            }
        }
    }

    /// Tables with a column of the type.
    pub(super) fn users_of_type(&self, name: &QualifiedName) -> Vec<QualifiedName> {
        let text = name.to_string();
        let tables = self.world.catalog.tables.iter();
        let of_type = |data_type: &str| data_type == text || data_type.strip_suffix("[]") == Some(&text);
        let users = tables.filter(|(_, table)| table.columns.iter().any(|column| of_type(&column.data_type)));
        users.map(|(table, _)| table.clone()).collect()
    }

    pub(super) fn truncate(&mut self, tables: &[Name], restart: bool, cascade: bool) {
        let mut named: Vec<QualifiedName> = Vec::new();
        for table in tables {
            let table = self.resolve(table);
            named.extend(self.family(&table));
        }
        let mut at = 0;
        while at < named.len() {
            let table = named[at].clone();
            for (from, _) in self.incoming(&table) {
                if named.contains(&from) {
                    continue;
                }
                if !cascade {
                    return self.fail("0A000", format!("a foreign key of {from} references {table}"));
                }
                named.extend(self.family(&from));
            }
            at += 1;
        }
        for table in named {
            self.lock(&table, AccessExclusive);
            if restart {
                self.owned_sequences(&table);
            }
            if !self.is_partitioned(&table) {
                self.effects.rewrites.insert(table.clone());
                self.rebuild_all(&table);
            }
        }
    }
}
