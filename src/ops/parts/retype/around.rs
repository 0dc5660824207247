//! What stands around a column whose type changes in the catalog only.
//!
//! PostgreSQL asks every row again about the checks that mention the column, while it holds the table, although the
//! values stay the same: these are dropped and added NOT VALID in the same transaction, and validated behind it. Foreign
//! keys are made again without a look at the rows, as long as their operators stay.

use crate::catalog::model::{Constraint, ConstraintKind, Index, Table, TableKind};
use crate::ops::Context;
use crate::ops::parts::dependents;
use crate::sql::QualifiedName;

/// Of the table and all below.
#[derive(Default)]
pub(super) struct Around {
    /// Proven checks that mention the column.
    pub(super) checks: Vec<(String, Constraint)>,
    /// Foreign keys of and to the column, with the tables that they are of.
    pub(super) keys: Vec<(QualifiedName, String, Constraint)>,
    /// Their other ends, the table itself left out.
    pub(super) far_ends: Vec<QualifiedName>,
    /// Both tables of a key are locked, which takes their owner; what is below them is not looked after.
    keys_in_reach: bool,
    is_used_outside: bool,
    builds_index: bool,
}

impl Around {
    pub(super) fn of(context: &Context<'_>, root: &QualifiedName, column: &str, keeps_type: bool) -> Self {
        let mut around = Self {
            keys_in_reach: true,
            ..Self::default()
        };
        let tree = context.catalog.tree(root);
        for name in &tree {
            if let Some(table) = context.catalog.tables.get(name) {
                let partitioned = tree.len() > 1 || table.kind == TableKind::Partitioned;
                let builds = |index: &Index| partitioned || builds_index(index, keeps_type);
                let mut mentioning = table.indexes.values().filter(|index| index.mentions(column));
                around.builds_index |= mentioning.any(builds);
                around.look(context, (name, table), column);
            }
        }
        around.far_ends.sort();
        around.far_ends.dedup();
        around.far_ends.retain(|it| it != root);
        around
    }

    fn look(&mut self, context: &Context<'_>, (name, table): (&QualifiedName, &Table), column: &str) {
        self.is_used_outside |= !dependents::outside(table, column).is_empty();
        let mentioning = table
            .constraints
            .iter()
            .filter(|(_, it)| it.columns.iter().any(|name| name == column));
        for (constraint_name, constraint) in mentioning {
            match (constraint.kind, &constraint.references) {
                (ConstraintKind::Check, _) if constraint.validated => {
                    self.checks.push((constraint_name.clone(), constraint.clone()));
                }
                (ConstraintKind::ForeignKey, Some(reference)) => {
                    self.reach(context, &reference.table, (name, constraint_name, constraint));
                }
                _ => {}
            }
        }
        for (from, key, constraint) in context.catalog.incoming_foreign_keys(name) {
            let reference = constraint.references.as_ref();
            if reference.is_some_and(|it| it.columns.iter().any(|name| name == column)) {
                self.reach(context, from, (from, key, constraint));
            }
        }
    }

    fn reach(
        &mut self,
        context: &Context<'_>,
        far_end: &QualifiedName,
        (table, name, constraint): (&QualifiedName, &str, &Constraint),
    ) {
        let is_known = |(of, known, _): &(QualifiedName, String, Constraint)| of == table && known == name;
        if self.keys.iter().any(is_known) {
            return;
        }
        self.keys
            .push((table.clone(), name.to_owned(), constraint.clone()));
        let table = context.catalog.tables.get(far_end);
        let in_reach = |table: &Table| {
            table.kind == TableKind::Table
                && table.children.is_empty()
                && table.partition_of.is_none()
                && context.now.role.acts_as(&table.owner)
        };
        self.keys_in_reach &= table.is_some_and(in_reach) && constraint.enforced();
        self.far_ends.push(far_end.clone());
    }

    /// Whether a rewrite would be refused, or prove foreign keys while it holds both tables.
    pub(super) fn holds(&self) -> bool {
        self.is_used_outside || !self.keys.is_empty()
    }

    /// Whether it can be left standing, or taken down and put up again, without a long lock. An index cannot: while it
    /// is away, queries and uniqueness would be without it.
    pub(super) fn is_light(&self, alone: bool) -> bool {
        let nothing = self.checks.is_empty() && self.keys.is_empty();
        !self.is_used_outside && !self.builds_index && (nothing || alone && self.keys_in_reach)
    }
}

/// PostgreSQL keeps the file of an index without expressions and predicate while the operator classes stay. That of
/// another type may be another one, unless it is named; only these methods are known to have one for all types that
/// differ in the catalog only.
fn builds_index(index: &Index, keeps_type: bool) -> bool {
    let same_classes = keeps_type
        || ["btree", "hash", "brin"].contains(&index.method.as_str())
        || index.keys.iter().all(|key| key.opclass.is_some());
    index.predicate.is_some() || index.keys.iter().any(|key| key.expression.is_some()) || !same_classes
}
