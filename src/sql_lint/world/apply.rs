//! What a statement leaves behind, as far as later statements depend on it.

use super::{World, empty_table};
use crate::catalog::model::{Sequence, TableKind, UserType, View};
use crate::sql::QualifiedName;
use crate::sql_lint::statement::{Drop, IndexAction, Kind, Name, Object, Statement, Transaction};

impl World {
    /// Takes the statement for done.
    pub fn apply(&mut self, statement: &Statement) {
        match &statement.kind {
            Kind::Transaction(Transaction::Begin) => self.in_transaction = true,
            Kind::Transaction(Transaction::End) => {
                self.in_transaction = false;
                self.fresh_labels.clear();
                self.fresh_types.clear();
                self.pending.clear();
            }
            Kind::Set { name, value, .. } => self.set(name, value),
            Kind::AlterTable(alter) => self.alter_table(alter),
            Kind::CreateTable(create) => self.create_table(create),
            Kind::CreateTableAs { name, .. } => {
                let name = self.new_name(name);
                self.put_table(name, empty_table(TableKind::Table));
            }
            Kind::CreateIndex(create) => self.create_index(create),
            Kind::AlterIndex {
                index,
                action: IndexAction::Rename(to),
            } => self.rename_index(index, to),
            Kind::Drop(drop) => self.drop(drop),
            Kind::Write(write) => {
                let table = self.resolve(&write.table);
                let found = self.catalog.tables.get(&table);
                let deferred = found.is_some_and(|table| {
                    table
                        .constraints
                        .values()
                        .any(|constraint| constraint.initially_deferred)
                });
                if deferred && self.in_transaction {
                    self.pending.insert(table);
                }
            }
            other => self.make(other),
        }
    }

    fn make(&mut self, kind: &Kind) {
        match kind {
            Kind::CreateView { name, reads, .. } => self.create_view(name, reads, false),
            Kind::CreateMaterializedView { name, reads, .. } => self.create_view(name, reads, true),
            Kind::CreateSequence { name, owner } => {
                let name = self.new_name(name);
                let owner = owner.as_ref().map(|owner| (self.resolve(owner), String::new()));
                self.catalog.sequences.insert(name.clone(), sequence(owner));
                self.made.insert(name);
            }
            Kind::CreateType {
                name,
                labels,
                composite,
            } => {
                let name = self.new_name(name);
                let kind = match (labels, composite) {
                    (Some(_), _) => "enum",
                    (None, true) => "composite",
                    (None, false) => "range",
                };
                let made = UserType {
                    kind: kind.to_owned(),
                    labels: labels.clone().unwrap_or_default(),
                    constrained: false,
                    base: None,
                };
                if self.in_transaction {
                    self.fresh_types.insert(name.clone());
                }
                self.catalog.types.insert(name.clone(), made);
                self.made.insert(name);
            }
            Kind::CreateDomain {
                name,
                base,
                constrained,
            } => {
                let name = self.new_name(name);
                let made = UserType {
                    kind: "domain".to_owned(),
                    labels: Vec::new(),
                    constrained: *constrained,
                    base: Some(base.clone()),
                };
                self.catalog.types.insert(name.clone(), made);
                self.made.insert(name);
            }
            Kind::AddEnumValue { name, label } => {
                let name = self.resolve(name);
                if self.in_transaction {
                    self.fresh_labels.push((name.clone(), label.clone()));
                }
                if let Some(known) = self.catalog.types.get_mut(&name) {
                    known.labels.push(label.clone());
                }
            }
            _ => {}
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        let bare = |text: &str| text.trim().trim_matches('\'').trim_matches('"').to_owned();
        match name {
            "search_path" => {
                let named = value.split(',').map(bare);
                let schemas: Vec<String> = named
                    .filter(|schema| !schema.is_empty() && schema != "$user" && schema != "pg_catalog")
                    .collect();
                // Emptied, as pg_dump does, every name that follows has its schema.
                self.search_path = match schemas.is_empty() || value == "default" {
                    true => vec!["public".into()],
                    false => schemas,
                };
            }
            "timezone" => self.catalog.server.time_zone = bare(value),
            _ => {}
        }
    }

    /// Where something new goes.
    pub(super) fn new_name(&self, name: &Name) -> QualifiedName {
        match &name.schema {
            Some(schema) => QualifiedName::new(schema, &name.name),
            None => {
                let first = self.search_path.first().map_or("public", String::as_str);
                QualifiedName::new(first, &name.name)
            }
        }
    }

    fn create_view(&mut self, name: &Name, reads: &[Name], materialized: bool) {
        let uses = reads
            .iter()
            .map(|read| (self.resolve(read), String::new()))
            .collect();
        let name = self.new_name(name);
        if self.catalog.views.contains_key(&name) {
            return;
        }
        self.catalog.views.insert(name.clone(), view(uses, materialized));
        self.made.insert(name);
    }

    fn drop(&mut self, drop: &Drop) {
        for name in &drop.names {
            let name = self.resolve(name);
            match drop.object {
                Object::Table => {
                    if let Some(parent) = self
                        .catalog
                        .tables
                        .get(&name)
                        .and_then(|table| table.partition_of.clone())
                        && let Some(parent) = self.catalog.tables.get_mut(&parent)
                    {
                        parent.children.retain(|child| *child != name);
                    }
                    self.catalog.tables.remove(&name);
                    self.partial.remove(&name);
                }
                Object::Index => {
                    if let Some(owner) = self.index_owner(&name) {
                        self.table_mut(&owner).indexes.remove(&name.name);
                    }
                }
                Object::View | Object::MaterializedView => {
                    self.catalog.views.remove(&name);
                }
                Object::Sequence => {
                    self.catalog.sequences.remove(&name);
                }
                Object::Type => {
                    self.catalog.types.remove(&name);
                }
                Object::Schema => {}
            }
            self.made.remove(&name);
        }
    }
}

fn view(uses: Vec<(QualifiedName, String)>, materialized: bool) -> View {
    View {
        uses,
        ..View::new("", "", materialized)
    }
}

fn sequence(owned_by: Option<(QualifiedName, String)>) -> Sequence {
    Sequence {
        owner: String::new(),
        data_type: "bigint".into(),
        start: 1,
        increment: 1,
        min: 1,
        max: i64::MAX,
        cache: 1,
        cycle: false,
        owned_by,
        identity: false,
        grants: Vec::new(),
    }
}
