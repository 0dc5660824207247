//! What statements leave behind of tables and their indexes.

use super::{World, empty_table};
use crate::catalog::model::{
    Column, Constraint, ConstraintKind, Generated, Identity, Index, NotNullConstraint, Reference, Table,
    TableKind,
};
use crate::sql::QualifiedName;
use crate::sql_lint::statement::{
    Action, AlterTable, ColumnDefinition, ConstraintRule, CreateIndex, CreateTable, Name, TableConstraint,
};

impl World {
    pub(super) fn put_table(&mut self, name: QualifiedName, table: Table) {
        if self.has_relation(&name) {
            return;
        }
        self.catalog.tables.insert(name.clone(), table);
        self.partial.remove(&name);
        self.made.insert(name);
    }

    pub(super) fn create_table(&mut self, create: &CreateTable) {
        let name = self.new_name(&create.name);
        if self.has_relation(&name) {
            return;
        }
        let kind = match create.partition_by {
            Some(_) => TableKind::Partitioned,
            None => TableKind::Table,
        };
        let mut table = empty_table(kind);
        table.partition_key_columns = create.partition_by.clone().unwrap_or_default();
        let parents = create.likes.iter().chain(&create.inherits);
        let parents = parents.chain(create.partition_of.iter().map(|(parent, _)| parent));
        for parent in parents {
            let parent = self.resolve(parent);
            if let Some(parent) = self.catalog.tables.get(&parent) {
                table.columns.extend(parent.columns.iter().cloned());
            }
        }
        self.put_table(name.clone(), table);
        for column in &create.columns {
            self.add_column(&name, column);
        }
        for constraint in &create.constraints {
            self.add_constraint(&name, constraint);
        }
        if let Some((parent, _)) = &create.partition_of {
            let parent = self.resolve(parent);
            self.adopt(&parent, &name, true);
        }
        for parent in &create.inherits {
            let parent = self.resolve(parent);
            self.adopt(&parent, &name, false);
        }
    }

    fn adopt(&mut self, parent: &QualifiedName, child: &QualifiedName, partition: bool) {
        if let Some(found) = self.catalog.tables.get_mut(parent) {
            found.children.push(child.clone());
        }
        if let Some(found) = self.catalog.tables.get_mut(child) {
            match partition {
                true => found.partition_of = Some(parent.clone()),
                false => found.inherits.push(parent.clone()),
            }
        }
    }

    /// The table, or what is known of it where no catalog shows it.
    pub(super) fn table_mut(&mut self, name: &QualifiedName) -> &mut Table {
        if self.catalog.tables.contains_key(name) {
            return self
                .catalog
                .tables
                .entry(name.clone())
                .or_insert_with(|| empty_table(TableKind::Table));
        }
        self.partial
            .entry(name.clone())
            .or_insert_with(|| empty_table(TableKind::Table))
    }

    fn add_column(&mut self, table: &QualifiedName, column: &ColumnDefinition) {
        let identity = column.identity.map(|always| Identity {
            always,
            sequence: table.sibling(format!("{}_{}_seq", table.name, column.name)),
        });
        let found = self.table_mut(table);
        if !found.columns.iter().any(|known| known.name == column.name) {
            let is_key =
                |constraint: &TableConstraint| matches!(constraint.rule, ConstraintRule::PrimaryKey(_));
            found.columns.push(Column {
                name: column.name.clone(),
                data_type: column.data_type.clone(),
                collation: column.collation.clone(),
                not_null: column.not_null || identity.is_some() || column.constraints.iter().any(is_key),
                not_null_constraint: None,
                default: column.default.as_ref().map(|default| default.sql.clone()),
                identity,
                generated: column.generated.as_ref().map(|generated| Generated {
                    stored: generated.stored.unwrap_or(true),
                    expression: generated.expression.sql.clone(),
                }),
                storage: String::new(),
                compression: None,
                statistics_target: None,
                options: Vec::new(),
                comment: None,
                security_labels: Vec::new(),
                grants: Vec::new(),
                inherited: false,
                local: true,
            });
        }
        for constraint in &column.constraints {
            self.add_constraint(table, constraint);
        }
    }

    fn add_constraint(&mut self, table: &QualifiedName, constraint: &TableConstraint) {
        let (kind, columns, suffix) = match &constraint.rule {
            ConstraintRule::Check(check) => (ConstraintKind::Check, check.columns.clone(), "check"),
            ConstraintRule::Unique(columns) => (ConstraintKind::Unique, columns.clone(), "key"),
            ConstraintRule::PrimaryKey(columns) => (ConstraintKind::PrimaryKey, columns.clone(), "pkey"),
            ConstraintRule::Exclude { columns } => (ConstraintKind::Exclusion, columns.clone(), "excl"),
            ConstraintRule::ForeignKey { columns, .. } => {
                (ConstraintKind::ForeignKey, columns.clone(), "fkey")
            }
            ConstraintRule::UsingIndex { primary, .. } => match primary {
                true => (ConstraintKind::PrimaryKey, Vec::new(), "pkey"),
                false => (ConstraintKind::Unique, Vec::new(), "key"),
            },
            ConstraintRule::NotNull(column) => return self.not_null(table, column, constraint),
        };
        let name = constraint.name.clone().unwrap_or_else(|| match kind {
            ConstraintKind::PrimaryKey => format!("{}_pkey", table.name),
            _ => format!("{}_{}_{suffix}", table.name, columns.join("_")),
        });
        let definition = match &constraint.rule {
            ConstraintRule::Check(check) => format!("CHECK ({})", check.sql),
            _ => String::new(),
        };
        let references = self.reference(&constraint.rule);
        let has_index = matches!(
            constraint.rule,
            ConstraintRule::Unique(_) | ConstraintRule::PrimaryKey(_) | ConstraintRule::Exclude { .. }
        );
        let found = self.table_mut(table);
        if has_index {
            let made = index(&columns, true, Some(name.clone()));
            found.indexes.insert(name.clone(), made);
        }
        if let ConstraintRule::UsingIndex { index, .. } = &constraint.rule
            && let Some(mut used) = found.indexes.remove(index)
        {
            used.constraint = Some(name.clone());
            found.indexes.insert(name.clone(), used);
        }
        if kind == ConstraintKind::PrimaryKey {
            for column in &mut found.columns {
                column.not_null |= columns.contains(&column.name);
            }
        }
        let made = Constraint {
            kind,
            definition,
            columns,
            validated: !constraint.not_valid && !constraint.not_enforced,
            deferrable: constraint.deferrable,
            initially_deferred: false,
            no_inherit: constraint.no_inherit,
            inherited: false,
            index: has_index.then(|| name.clone()),
            references,
            comment: None,
        };
        found.constraints.insert(name, made);
    }

    fn not_null(&mut self, table: &QualifiedName, column: &str, constraint: &TableConstraint) {
        let valid = !constraint.not_valid;
        let found = self.table_mut(table);
        if let Some(column) = found.columns.iter_mut().find(|found| found.name == column) {
            column.not_null = true;
            column.not_null_constraint = constraint.name.clone().map(|name| NotNullConstraint {
                name,
                validated: valid,
                local: true,
            });
        } else if let Some(name) = &constraint.name {
            let made = Constraint {
                kind: ConstraintKind::Check,
                definition: format!("CHECK ({column} IS NOT NULL)"),
                columns: vec![column.to_owned()],
                validated: valid,
                deferrable: false,
                initially_deferred: false,
                no_inherit: false,
                inherited: false,
                index: None,
                references: None,
                comment: None,
            };
            found.constraints.insert(name.clone(), made);
        }
    }

    fn reference(&self, rule: &ConstraintRule) -> Option<Reference> {
        let ConstraintRule::ForeignKey { table, to, .. } = rule else {
            return None;
        };
        Some(Reference {
            table: self.resolve(table),
            columns: to.clone(),
            match_type: "SIMPLE".into(),
            on_update: "NO ACTION".into(),
            on_delete: "NO ACTION".into(),
        })
    }

    pub(super) fn create_index(&mut self, create: &CreateIndex) {
        let table = self.resolve(&create.table);
        let keys: Vec<String> = create.keys.iter().filter_map(|key| key.column.clone()).collect();
        let name = match &create.name {
            Some(name) => name.name.clone(),
            None => format!("{}_{}_idx", table.name, keys.join("_")),
        };
        let mut made = index(&keys, create.unique, None);
        made.predicate = create.predicate.as_ref().map(|predicate| predicate.sql.clone());
        made.expression_columns = create
            .keys
            .iter()
            .flat_map(|key| key.expression.columns.clone())
            .collect();
        self.made.insert(table.sibling(&name));
        if let Some(view) = self.catalog.views.get_mut(&table) {
            view.indexes.insert(name, made);
        } else {
            self.table_mut(&table).indexes.insert(name, made);
        }
    }

    pub(super) fn rename_index(&mut self, index: &Name, to: &str) {
        let index = self.resolve(index);
        if let Some(owner) = self.index_owner(&index) {
            let table = self.table_mut(&owner);
            if let Some(found) = table.indexes.remove(&index.name) {
                table.indexes.insert(to.to_owned(), found);
            }
        }
        if self.made.remove(&index) {
            self.made.insert(index.sibling(to));
        }
    }

    pub(super) fn alter_table(&mut self, alter: &AlterTable) {
        let name = self.resolve(&alter.name);
        for action in &alter.actions {
            self.alter(&name, action);
        }
    }

    fn alter(&mut self, name: &QualifiedName, action: &Action) {
        match action {
            Action::AddColumn { column, .. } => self.add_column(name, column),
            Action::DropColumn { column, .. } => {
                self.table_mut(name).columns.retain(|found| found.name != *column);
            }
            Action::SetType {
                column,
                data_type,
                collation,
                ..
            } => {
                if let Some(found) = self.column_mut(name, column) {
                    found.data_type.clone_from(data_type);
                    found.collation.clone_from(collation);
                }
            }
            Action::SetDefault { column, default } => {
                if let Some(found) = self.column_mut(name, column) {
                    found.default = default.as_ref().map(|default| default.sql.clone());
                }
            }
            Action::SetNotNull(column) | Action::DropNotNull(column) => {
                if let Some(found) = self.column_mut(name, column) {
                    found.not_null = matches!(action, Action::SetNotNull(_));
                }
            }
            Action::AddConstraint(constraint) => self.add_constraint(name, constraint),
            Action::DropConstraint { name: dropped, .. } => {
                let table = self.table_mut(name);
                table.constraints.remove(dropped);
                table.indexes.remove(dropped);
            }
            Action::ValidateConstraint(validated) => self.validate(name, validated),
            Action::RenameColumn { column, to } => {
                if let Some(found) = self.column_mut(name, column) {
                    found.name.clone_from(to);
                }
            }
            Action::RenameConstraint { name: old, to } => {
                let table = self.table_mut(name);
                if let Some(found) = table.constraints.remove(old) {
                    table.constraints.insert(to.clone(), found);
                }
            }
            Action::RenameTo(to) => self.move_table(name, name.sibling(to)),
            Action::SetSchema(schema) => self.move_table(name, QualifiedName::new(schema, &name.name)),
            Action::Attach { partition, .. } => {
                let partition = self.resolve(partition);
                self.adopt(name, &partition, true);
            }
            Action::Detach { partition, .. } => {
                let partition = self.resolve(partition);
                if let Some(parent) = self.catalog.tables.get_mut(name) {
                    parent.children.retain(|child| *child != partition);
                }
                if let Some(found) = self.catalog.tables.get_mut(&partition) {
                    found.partition_of = None;
                }
            }
            _ => {}
        }
    }

    fn column_mut(&mut self, table: &QualifiedName, column: &str) -> Option<&mut Column> {
        let table = self.table_mut(table);
        table.columns.iter_mut().find(|found| found.name == column)
    }

    fn validate(&mut self, table: &QualifiedName, constraint: &str) {
        let table = self.table_mut(table);
        if let Some(found) = table.constraints.get_mut(constraint) {
            found.validated = true;
        }
        for column in &mut table.columns {
            if let Some(named) = &mut column.not_null_constraint {
                named.validated |= named.name == constraint;
            }
        }
    }

    fn move_table(&mut self, from: &QualifiedName, to: QualifiedName) {
        if let Some(table) = self.catalog.tables.remove(from) {
            self.catalog.tables.insert(to.clone(), table);
        }
        if let Some(table) = self.partial.remove(from) {
            self.partial.insert(to.clone(), table);
        }
        if self.made.remove(from) {
            self.made.insert(to);
        }
    }
}

fn index(columns: &[String], unique: bool, constraint: Option<String>) -> Index {
    Index {
        constraint,
        ..Index::plain(columns, unique)
    }
}
