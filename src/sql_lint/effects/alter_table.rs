//! `ALTER TABLE`: the strongest subcommand decides the lock for all of them.

use super::Judge;
use crate::catalog::model::{ConstraintKind, TableKind};
use crate::plan::LockMode::{self, AccessExclusive, AccessShare, ShareRowExclusive, ShareUpdateExclusive};
use crate::sql::QualifiedName;
use crate::sql_lint::statement::{Action, AlterTable, ConstraintRule};

/// Storage parameters that are set without keeping anybody out.
const LIGHT: &[&str] = &[
    "autovacuum_",
    "toast.autovacuum_",
    "fillfactor",
    "toast_tuple_target",
    "parallel_workers",
    "vacuum_",
    "toast.vacuum_",
    "log_autovacuum_",
    "toast.log_autovacuum_",
];

/// One `ALTER TABLE` while it is judged.
pub(super) struct Altered<'a> {
    pub table: QualifiedName,
    pub only: bool,
    pub actions: &'a [Action],
    /// Of all its subcommands.
    pub mode: LockMode,
}

impl Judge<'_> {
    pub(super) fn alter_table(&mut self, alter: &AlterTable) {
        let name = self.resolve(&alter.name);
        self.alter(&name, alter.only, &alter.actions);
    }

    pub(super) fn alter(&mut self, name: &QualifiedName, only: bool, actions: &[Action]) {
        if self.table(name).is_none() && self.other_relation(name, actions) {
            return;
        }
        if self.table(name).is_none() && self.world.complete {
            self.depends(format!("{name} is not in the catalog"));
        }
        let mode = actions.iter().map(|action| self.mode(action)).max();
        let altered = Altered {
            table: name.clone(),
            only,
            actions,
            mode: mode.unwrap_or(AccessExclusive),
        };
        self.lock(name, altered.mode);
        for action in actions {
            if !only && self.recurses(action) {
                let family = self.family(name);
                self.lock_all(&family, altered.mode);
            }
            self.action(&altered, action);
        }
        self.retype(&altered);
        self.settle_not_null(&altered);
    }

    /// `ALTER TABLE` of a view, an index or a sequence is accepted.
    fn other_relation(&mut self, name: &QualifiedName, actions: &[Action]) -> bool {
        if self.world.index_owner(name).is_some() {
            self.lock(name, AccessExclusive);
            if actions
                .iter()
                .any(|action| matches!(action, Action::SetTablespace))
            {
                self.effects.rebuilds_indexes.insert(name.clone());
            }
            return true;
        }
        let is_other =
            self.world.catalog.views.contains_key(name) || self.world.catalog.sequences.contains_key(name);
        if is_other {
            self.lock(name, AccessExclusive);
        }
        is_other
    }

    fn mode(&self, action: &Action) -> LockMode {
        match action {
            Action::SetStatistics(_) | Action::SetColumnOptions(_) => ShareUpdateExclusive,
            Action::ValidateConstraint(_) | Action::ClusterOn(_) | Action::SetWithoutCluster => {
                ShareUpdateExclusive
            }
            Action::AddConstraint(constraint) => match constraint.rule {
                ConstraintRule::ForeignKey { .. } => ShareRowExclusive,
                _ => AccessExclusive,
            },
            Action::EnableTrigger { .. } => ShareRowExclusive,
            Action::SetOptions(options) => {
                let light = |option: &String| LIGHT.iter().any(|known| option.starts_with(known));
                match options.iter().all(light) {
                    true => ShareUpdateExclusive,
                    false => AccessExclusive,
                }
            }
            Action::Attach { .. } => ShareUpdateExclusive,
            Action::Detach {
                concurrently: true, ..
            } => ShareUpdateExclusive,
            _ => AccessExclusive,
        }
    }

    /// Whether the tables that inherit from it are altered too.
    fn recurses(&self, action: &Action) -> bool {
        match action {
            Action::AddColumn { .. }
            | Action::DropColumn { .. }
            | Action::SetType { .. }
            | Action::SetDefault { .. }
            | Action::SetNotNull(_)
            | Action::DropNotNull(_)
            | Action::SetStatistics(_)
            | Action::SetStorage(_)
            | Action::AddIdentity(_)
            | Action::DropIdentity(_)
            | Action::SetIdentity(_)
            | Action::SetExpression { .. }
            | Action::DropExpression(_)
            | Action::RenameColumn { .. }
            | Action::EnableTrigger { .. } => true,
            // Each looks after its own.
            _ => false,
        }
    }

    fn action(&mut self, altered: &Altered, action: &Action) {
        match action {
            Action::AddColumn {
                column,
                if_not_exists,
            } => self.add_column(altered, column, *if_not_exists),
            Action::DropColumn { column, cascade, .. } => self.drop_column(altered, column, *cascade),
            Action::SetType { .. } => {}
            Action::SetDefault { column, default } => {
                if default.is_some() && self.is_generated(altered, column) {
                    self.fail("42601", format!("column {column} is a generated column"));
                }
                self.fresh_label(default.iter().flat_map(|default| &default.strings));
            }
            Action::DropNotNull(column) => self.drop_not_null(altered, column),
            Action::DropIdentity(column) => self.identity_sequence(altered, column, AccessExclusive),
            Action::SetIdentity(column) => self.identity_sequence(altered, column, ShareRowExclusive),
            Action::SetExpression { column, .. } => self.set_expression(altered, column),
            Action::DropExpression(column) => self.drop_expression(altered, column),
            Action::AddConstraint(constraint) => self.add_constraint(altered, constraint, true),
            Action::DropConstraint { name, cascade, .. } => self.drop_constraint(altered, name, *cascade),
            Action::ValidateConstraint(name) => self.validate(altered, name),
            Action::AlterConstraint { name, enforced } => self.alter_constraint(altered, name, *enforced),
            Action::RenameColumn { column, .. } => self.rename_column(altered, column),
            Action::RenameConstraint { name, .. } => self.rename_constraint(altered, name),
            Action::SetSchema(_) => self.owned_sequences(&altered.table),
            Action::OwnerTo => self.change_owner(altered),
            Action::SetTablespace => self.move_files(altered),
            Action::SetAccessMethod(method) => self.set_access_method(altered, method),
            Action::SetLogged(_) => self.set_logged(altered),
            Action::SetOptions(_) if self.is_partitioned(&altered.table) => {
                let state = if self.version() >= 16 { "42809" } else { "22023" };
                self.fail(
                    state,
                    "a partitioned table has no storage parameters; its partitions do",
                );
            }
            Action::ClusterOn(index) => self.lock(&altered.table.sibling(index), ShareUpdateExclusive),
            Action::Attach { partition, bound } => self.attach(altered, partition, bound),
            Action::Detach {
                partition,
                concurrently,
            } => self.detach(altered, partition, *concurrently),
            Action::Inherit(parent) => {
                let parent = self.resolve(parent);
                self.lock(&parent, ShareUpdateExclusive);
            }
            Action::NoInherit(parent) => {
                let parent = self.resolve(parent);
                self.lock(&parent, AccessShare);
            }
            _ => {}
        }
        self.pending(altered);
    }

    /// Deferred checks of rows that this transaction wrote.
    fn pending(&mut self, altered: &Altered) {
        if self.world.pending.contains(&altered.table) {
            let message = format!(
                "{} has deferred checks to come in this transaction",
                altered.table
            );
            self.fail("55006", message);
        }
    }

    /// A new label of an enum cannot be used before it is committed.
    pub(super) fn fresh_label<'s>(&mut self, strings: impl Iterator<Item = &'s String>) {
        for string in strings {
            let fresh = |(name, label): &&(QualifiedName, String)| {
                label == string && (self.version() < 17 || !self.world.fresh_types.contains(name))
            };
            if let Some((name, label)) = self.world.fresh_labels.iter().find(fresh) {
                let message = format!("the value '{label}' of {name} is not committed yet");
                self.fail("55P04", message);
            }
        }
    }

    fn change_owner(&mut self, altered: &Altered) {
        // Asked of the server only where the owner changes, which the text does not tell.
        self.owned_sequences(&altered.table);
        if self.owned_by(&altered.table).is_empty() {
            return;
        }
        for index in self.index_names(&altered.table) {
            self.lock(&index, AccessExclusive);
        }
    }

    /// Sequences that columns of the table own, identity ones included.
    pub(super) fn owned_by(&self, table: &QualifiedName) -> Vec<QualifiedName> {
        let sequences = self.world.catalog.sequences.iter();
        let owned = sequences.filter(|(_, sequence)| {
            let owner = sequence.owned_by.as_ref();
            owner.is_some_and(|(owner, _)| owner == table)
        });
        owned.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn owned_sequences(&mut self, table: &QualifiedName) {
        let owned = self.owned_by(table);
        self.lock_all(&owned, AccessExclusive);
    }

    /// Copied block by block: nothing is read row by row, and the indexes stay where they are.
    fn move_files(&mut self, altered: &Altered) {
        if !self.is_partitioned(&altered.table) {
            self.effects.rewrites.insert(altered.table.clone());
        }
    }

    fn set_access_method(&mut self, altered: &Altered, method: &str) {
        if self.is_partitioned(&altered.table) {
            if self.version() < 17 {
                self.fail(
                    "42809",
                    "the access method of a partitioned table cannot be changed",
                );
            }
            return;
        }
        // What the table has is not in the catalog snapshot; all but a few have the default.
        if method != "heap" && !method.is_empty() {
            self.rewrite(&altered.table);
        }
    }

    fn set_logged(&mut self, altered: &Altered) {
        if self
            .table(&altered.table)
            .is_some_and(|table| table.kind == TableKind::Partitioned)
        {
            if self.version() >= 18 {
                self.fail("42809", "a partitioned table is neither logged nor unlogged");
            }
            return;
        }
        self.rewrite(&altered.table);
        for sequence in self.owned_by(&altered.table) {
            self.lock(&sequence, AccessExclusive);
        }
        // Whether the tables at the other end are logged is looked up in the catalog while they are open.
        let mut others: Vec<QualifiedName> = self
            .incoming(&altered.table)
            .into_iter()
            .map(|(from, _)| from)
            .collect();
        let outgoing = self.constraints(&altered.table, ConstraintKind::ForeignKey);
        others.extend(
            outgoing
                .into_iter()
                .filter_map(|(_, key)| key.references.map(|to| to.table)),
        );
        for other in others {
            if other != altered.table {
                self.lock(&other, AccessShare);
            }
        }
    }
}
