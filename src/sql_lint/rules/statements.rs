//! One statement by itself: which rule it breaks.

use super::{Finding, blocking};
use crate::diagnostic::Span;
use crate::plan::LockMode;
use crate::sql::QualifiedName;
use crate::sql_lint::effects::Effects;
use crate::sql_lint::statement::{Action, AlterTable, ConstraintRule, Kind, Name, Object, Statement};
use crate::sql_lint::world::World;
use std::collections::BTreeSet;

struct Look<'a> {
    world: &'a World,
    effects: &'a Effects,
    span: Span,
    found: Vec<Finding>,
}

pub(super) fn findings(world: &World, statement: &Statement, effects: &Effects, span: Span) -> Vec<Finding> {
    let mut look = Look {
        world,
        effects,
        span,
        found: Vec::new(),
    };
    if effects.fails.is_none() {
        look.statement(&statement.kind);
        look.rest(statement);
    }
    look.found
}

impl Look<'_> {
    fn add(&mut self, rule: &'static str, message: impl Into<String>) {
        let message = message.into();
        if !self.found.iter().any(|found| found.rule == rule) {
            self.found.push(Finding::new(rule, message, self.span));
        }
    }

    /// Whether somebody may use it: it was not made by these files.
    fn is_used(&self, name: &Name) -> bool {
        let name = self.world.resolve(name);
        !self.world.is_made(&name)
    }

    fn used<'n>(&self, names: &'n BTreeSet<QualifiedName>) -> Vec<&'n QualifiedName> {
        names.iter().filter(|name| !self.world.is_made(name)).collect()
    }

    fn statement(&mut self, kind: &Kind) {
        match kind {
            Kind::AlterTable(alter) if self.is_used(&alter.name) => self.alter_table(alter),
            Kind::AlterTable(alter) => self.foreign_only(alter),
            Kind::CreateIndex(create) if !create.concurrently && self.is_used(&create.table) => {
                if !self.effects.scans.is_empty() {
                    self.add(
                        "create-index-blocks",
                        format!("writes to {} wait until the index is built", create.table),
                    );
                }
            }
            Kind::Drop(drop) => self.drop(drop),
            Kind::Reindex {
                concurrently: false, ..
            } => {
                self.add(
                    "reindex-blocks",
                    "writes wait while the index is built anew, and reads that would use it",
                );
            }
            Kind::Truncate { tables, .. } if tables.iter().any(|table| self.is_used(table)) => {
                self.add("truncate", "all rows are gone at once, under ACCESS EXCLUSIVE");
            }
            Kind::Vacuum { full: true, .. } => {
                self.add("table-rewrite", "VACUUM FULL keeps everybody out meanwhile")
            }
            Kind::Cluster { .. } => self.add("table-rewrite", "CLUSTER keeps everybody out meanwhile"),
            Kind::Refresh {
                view,
                concurrently: false,
                ..
            } if self.is_used(view) => {
                self.add("refresh-blocks", format!("readers of {view} wait for the query"))
            }
            Kind::Lock { tables, mode } => {
                let used = tables.iter().find(|(table, _)| self.is_used(table));
                if let Some((table, _)) = used.filter(|_| mode.blocks_writes()) {
                    self.add(
                        "lock-table",
                        format!("{mode} on {table} until COMMIT: {} wait", mode.blocks()),
                    );
                }
            }
            Kind::Write(write) if write.whole && self.is_used(&write.table) => {
                self.add(
                    "whole-table-write",
                    format!("{} of all rows of {} in one statement", write.verb, write.table),
                );
            }
            other => self.object(other),
        }
    }

    fn object(&mut self, kind: &Kind) {
        match kind {
            Kind::CreateTrigger { table, .. } | Kind::DropTrigger { table, .. } if self.is_used(table) => {
                self.add(
                    "trigger-locks",
                    format!("writes to {table} wait until this is committed"),
                );
            }
            Kind::AlterDomain {
                validates: true,
                what,
                ..
            } => {
                let used = self.used(&self.effects.scans);
                if !used.is_empty() || !self.world.complete {
                    self.add(
                        "domain-validates",
                        format!("to {what} the domain reads every table that has it"),
                    );
                }
            }
            Kind::AlterView {
                name,
                rename: Some(to),
                ..
            } if self.is_used(name) => {
                self.add(
                    "rename-breaks-clients",
                    format!("{name} becomes {to} for everybody at once"),
                );
            }
            Kind::CreateTable(create) => {
                if let Some((parent, _)) = &create.partition_of
                    && self.is_used(parent)
                {
                    self.add(
                        "partition-of-locks-parent",
                        format!("{parent} is locked ACCESS EXCLUSIVE"),
                    );
                }
            }
            _ => {}
        }
    }

    fn drop(&mut self, drop: &crate::sql_lint::statement::Drop) {
        let Some(name) = drop.names.iter().find(|name| self.is_used(name)) else {
            return;
        };
        match drop.object {
            Object::Index if !drop.concurrently => {
                let on = self
                    .effects
                    .locks
                    .keys()
                    .find(|relation| self.world.index_owner(relation).is_none());
                let on = on.map_or_else(|| "its table".to_owned(), ToString::to_string);
                self.add(
                    "drop-index-blocks",
                    format!("{on} is locked ACCESS EXCLUSIVE to drop {name}"),
                );
            }
            Object::Table | Object::Schema => {
                self.add(
                    "drop-table",
                    format!("{} {name} and its rows are gone for good", drop.object.word()),
                );
            }
            Object::View | Object::MaterializedView | Object::Sequence if drop.cascade => {
                self.add(
                    "drop-table",
                    format!("{} {name} goes, and all that depends on it", drop.object.word()),
                );
            }
            _ => {}
        }
    }

    /// A table of the migration's own may still lock others.
    fn foreign_only(&mut self, alter: &AlterTable) {
        for action in &alter.actions {
            if let Action::Attach { partition, .. } = action {
                self.attach(&alter.name, partition);
            }
        }
    }

    fn attach(&mut self, parent: &Name, partition: &Name) {
        let scanned = self.used(&self.effects.scans);
        if let Some(first) = scanned.first() {
            self.add(
                "attach-scans",
                format!("{first} is read while everybody waits, to attach {partition} to {parent}"),
            );
        }
    }

    fn alter_table(&mut self, alter: &AlterTable) {
        let table = &alter.name;
        for action in &alter.actions {
            match action {
                Action::AddColumn { column, .. } => self.add_column(alter, column),
                Action::DropColumn { column, .. } => {
                    self.add(
                        "drop-column",
                        format!("{table}.{column} is gone for everybody at once"),
                    );
                }
                Action::SetType {
                    column, data_type, ..
                } => self.set_type(table, column, data_type),
                Action::SetNotNull(column) if !self.effects.scans.is_empty() => {
                    self.add(
                        "set-not-null-scans",
                        format!("{table} is read while everybody waits, for {column}"),
                    );
                }
                Action::AddConstraint(constraint) => self.constraint(table, constraint),
                Action::RenameColumn { column, to } => {
                    self.add(
                        "rename-breaks-clients",
                        format!("{table}.{column} becomes {to} for everybody at once"),
                    );
                }
                Action::RenameTo(to) => {
                    let index = self.world.index_owner(&self.world.resolve(table)).is_some();
                    if !index {
                        self.add(
                            "rename-breaks-clients",
                            format!("{table} becomes {to} for everybody at once"),
                        );
                    }
                }
                Action::SetSchema(schema) => {
                    self.add(
                        "rename-breaks-clients",
                        format!("{table} moves to {schema} for everybody at once"),
                    );
                }
                Action::SetLogged(_)
                | Action::SetTablespace
                | Action::SetAccessMethod(_)
                | Action::SetExpression { .. }
                    if !self.effects.rewrites.is_empty() || !self.effects.rebuilds_indexes.is_empty() =>
                {
                    self.add(
                        "table-rewrite",
                        format!("{table} is written anew while everybody waits"),
                    );
                }
                Action::EnableTrigger {
                    disable: true,
                    trigger,
                } => {
                    let what = trigger.clone().unwrap_or_else(|| "all triggers".to_owned());
                    self.add(
                        "disable-trigger",
                        format!("{what} of {table} does not fire for anybody"),
                    );
                }
                Action::EnableTrigger { .. } => {
                    self.add(
                        "trigger-locks",
                        format!("writes to {table} wait until this is committed"),
                    );
                }
                Action::Attach { partition, .. } => self.attach(table, partition),
                Action::Detach {
                    partition,
                    concurrently: false,
                } => self.add(
                    "detach-blocks",
                    format!("{table} is locked ACCESS EXCLUSIVE to detach {partition}"),
                ),
                _ => {}
            }
        }
    }

    fn add_column(&mut self, alter: &AlterTable, column: &crate::sql_lint::statement::ColumnDefinition) {
        let table = &alter.name;
        if !self.effects.rewrites.is_empty() {
            let message = format!(
                "{table} is written anew while everybody waits, for the column {}",
                column.name
            );
            self.add("add-column-rewrites", message);
        }
        for constraint in &column.constraints {
            let instant = match &constraint.rule {
                ConstraintRule::ForeignKey { .. } => column.default.is_none(),
                _ => false,
            };
            if !instant {
                self.constraint(table, constraint);
            }
        }
    }

    fn set_type(&mut self, table: &Name, column: &str, data_type: &str) {
        let rewrites = !self.effects.rewrites.is_empty();
        let message = if rewrites {
            format!("{table} is written anew while everybody waits, for {column} as {data_type}")
        } else if !self.effects.rebuilds_indexes.is_empty() {
            let names: Vec<String> = self
                .effects
                .rebuilds_indexes
                .iter()
                .map(ToString::to_string)
                .collect();
            format!(
                "{} is built anew while everybody waits, for {column} as {data_type}",
                names.join(", ")
            )
        } else if self.effects.scans.is_empty() {
            return;
        } else {
            format!("{table} is read while everybody waits, for {column} as {data_type}")
        };
        self.add("type-change-rewrites", message);
    }

    fn constraint(&mut self, table: &Name, constraint: &crate::sql_lint::statement::TableConstraint) {
        if constraint.not_valid || constraint.not_enforced || self.effects.scans.is_empty() {
            return;
        }
        match &constraint.rule {
            ConstraintRule::Check(_) | ConstraintRule::NotNull(_) => {
                self.add(
                    "constraint-validates",
                    format!("{table} is read while everybody waits, for the constraint"),
                );
            }
            ConstraintRule::ForeignKey { table: to, .. } => {
                let message = format!("writes to {table} and {to} wait while all rows are looked up");
                self.add("constraint-validates", message);
            }
            ConstraintRule::Unique(_) | ConstraintRule::PrimaryKey(_) | ConstraintRule::Exclude { .. } => {
                self.add(
                    "key-builds-index",
                    format!("the index on {table} is built while everybody waits"),
                );
            }
            ConstraintRule::UsingIndex { .. } => {
                self.add(
                    "set-not-null-scans",
                    format!("{table} is read while everybody waits: the key is not NOT NULL"),
                );
            }
        }
    }

    /// Long work under a blocking lock that no rule has a name for.
    fn rest(&mut self, statement: &Statement) {
        let long: BTreeSet<QualifiedName> = self
            .effects
            .scans
            .union(&self.effects.rewrites)
            .cloned()
            .collect();
        let long = self.used(&long);
        let held = blocking(self.world, statement, self.effects);
        let blocked = held
            .iter()
            .find(|(relation, mode)| long.contains(&relation) && (*mode > LockMode::ShareUpdateExclusive));
        if let Some((relation, mode)) = blocked
            && self.found.is_empty()
            && self.effects.transaction
        {
            self.add(
                "exclusive-lock-while-scanning",
                format!("{relation} is read or written anew under {mode}"),
            );
        }
    }
}
