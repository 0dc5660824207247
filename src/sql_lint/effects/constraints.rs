//! Constraints that come, go and are validated.

use super::Judge;
use super::alter_table::Altered;
use crate::catalog::model::{Constraint, ConstraintKind, Index};
use crate::plan::LockMode::{AccessExclusive, RowShare, Share, ShareRowExclusive, ShareUpdateExclusive};
use crate::sql::QualifiedName;
use crate::sql_lint::statement::{ConstraintRule, Name, TableConstraint};

impl Judge<'_> {
    /// `checked`: whether the rows that are there are looked at, where the constraint itself does not say.
    pub(super) fn add_constraint(&mut self, altered: &Altered, constraint: &TableConstraint, checked: bool) {
        let checked = checked && !constraint.not_valid && !constraint.not_enforced;
        match &constraint.rule {
            ConstraintRule::Check(expression) => {
                self.fresh_label(expression.strings.iter());
                self.add_check(altered, constraint, checked);
            }
            ConstraintRule::NotNull(column) => {
                let family = self.family(&altered.table);
                self.lock_all(&family, altered.mode);
                if checked {
                    for member in family {
                        self.prove_not_null(altered, &member, column);
                    }
                }
            }
            ConstraintRule::Unique(columns) => self.add_key(altered, columns, false),
            ConstraintRule::PrimaryKey(columns) => self.add_key(altered, columns, true),
            ConstraintRule::Exclude { .. } => self.add_exclusion(altered),
            ConstraintRule::UsingIndex { index, primary } => self.use_index(altered, index, *primary),
            ConstraintRule::ForeignKey { table, to, .. } => {
                self.add_foreign_key(altered, table, to, constraint, checked);
            }
        }
    }

    fn add_check(&mut self, altered: &Altered, constraint: &TableConstraint, checked: bool) {
        let members = match altered.only || constraint.no_inherit {
            true => vec![altered.table.clone()],
            false => self.family(&altered.table),
        };
        self.lock_all(&members, altered.mode);
        for member in members {
            // A partition that has the same constraint merges it.
            let has_it = member != altered.table
                && constraint.name.as_ref().is_some_and(|name| {
                    let table = self.table(&member);
                    table
                        .is_some_and(|table| table.constraints.get(name).is_some_and(|found| found.validated))
                });
            if checked && !has_it {
                self.scan(&member);
            }
        }
    }

    fn add_key(&mut self, altered: &Altered, columns: &[String], primary: bool) {
        let table = &altered.table;
        if primary && !self.constraints(table, ConstraintKind::PrimaryKey).is_empty() {
            let drops = |action: &crate::sql_lint::statement::Action| {
                matches!(action, crate::sql_lint::statement::Action::DropConstraint { .. })
            };
            if !altered.actions.iter().any(drops) {
                return self.fail("42P16", format!("{table} has a primary key"));
            }
        }
        if !self.is_partitioned(table) {
            self.scan(table);
            self.effects.builds_on.insert(table.clone());
            return;
        }
        let partition_key = self
            .table(table)
            .map(|found| found.partition_key_columns.clone())
            .unwrap_or_default();
        if let Some(missing) = partition_key.iter().find(|key| !columns.contains(key)) {
            return self.fail(
                "0A000",
                format!("the key lacks the column {missing} of the partition key"),
            );
        }
        if altered.only {
            self.only_key(altered, columns, primary);
            return;
        }
        let mode = if self.version() >= 18 {
            AccessExclusive
        } else {
            Share
        };
        for member in self.family(table).into_iter().skip(1) {
            self.lock(&member, mode);
            let fits = |index: &Index| index.constraint.is_some() && is_plain_key(index, columns);
            match self.matching_index(&member, &fits) {
                Some(index) => self.lock(&index, Share),
                None => {
                    self.scan(&member);
                    self.effects.builds_on.insert(member);
                }
            }
        }
    }

    /// Nothing is built, but a primary key wants NOT NULL of every partition.
    fn only_key(&mut self, altered: &Altered, columns: &[String], primary: bool) {
        let nullable = |table: &QualifiedName, column: &String| {
            let table = self.table(table);
            table.is_some_and(|table| {
                table
                    .columns
                    .iter()
                    .any(|found| found.name == *column && !found.not_null)
            })
        };
        let family = self.family(&altered.table);
        let lacks = primary
            && family
                .iter()
                .skip(1)
                .any(|leaf| columns.iter().any(|column| nullable(leaf, column)));
        if lacks {
            let state = if self.version() >= 18 { "XX000" } else { "42P16" };
            self.fail(state, "a column of the key may be NULL in a partition");
        }
    }

    pub(super) fn matching_index(
        &self,
        table: &QualifiedName,
        fits: &dyn Fn(&Index) -> bool,
    ) -> Option<QualifiedName> {
        let found = self.table(table)?;
        let mut indexes = found.indexes.iter();
        let (name, _) = indexes.find(|(_, index)| index.valid && index.parent.is_none() && fits(index))?;
        Some(table.sibling(name))
    }

    fn add_exclusion(&mut self, altered: &Altered) {
        if !self.is_partitioned(&altered.table) {
            self.scan(&altered.table);
            self.effects.builds_on.insert(altered.table.clone());
            return;
        }
        if self.version() < 17 {
            return self.fail("0A000", "a partitioned table takes no exclusion constraint");
        }
        let mode = if self.version() >= 18 {
            AccessExclusive
        } else {
            Share
        };
        for member in self.family(&altered.table).into_iter().skip(1) {
            self.lock(&member, mode);
            self.scan(&member);
            self.effects.builds_on.insert(member);
        }
    }

    fn use_index(&mut self, altered: &Altered, index: &str, primary: bool) {
        let name = altered.table.sibling(index);
        self.lock(&name, ShareUpdateExclusive);
        if self.is_partitioned(&altered.table) {
            return self.fail("0A000", "a partitioned table takes no constraint USING INDEX");
        }
        let Some(found) = self
            .table(&altered.table)
            .and_then(|table| table.indexes.get(index))
            .cloned()
        else {
            if primary {
                self.depends("whether the columns of the key are NOT NULL");
                self.scan(&altered.table);
            }
            return;
        };
        if !found.unique {
            return self.fail("42809", format!("the index {index} is not unique"));
        }
        let special = found.keys.iter().any(|key| {
            key.column.is_none() || key.descending || key.opclass.is_some() || key.collation.is_some()
        });
        if special || found.predicate.is_some() {
            return self.fail(
                "42809",
                format!("the index {index} is not a plain one: no constraint can use it"),
            );
        }
        if primary {
            for column in found.keys.iter().filter_map(|key| key.column.clone()) {
                self.prove_not_null(altered, &altered.table.clone(), &column);
            }
        }
    }

    fn add_foreign_key(
        &mut self,
        altered: &Altered,
        to: &Name,
        to_columns: &[String],
        constraint: &TableConstraint,
        checked: bool,
    ) {
        let target = self.resolve(to);
        let family = self.family(&altered.table);
        let mode = altered.mode.max(ShareRowExclusive);
        self.lock_all(&family, mode);
        let referenced = self.family(&target);
        self.lock_all(&referenced, ShareRowExclusive);
        if constraint.not_valid && family.len() > 1 && self.version() < 18 {
            let message = format!(
                "{} is partitioned: its foreign keys cannot be NOT VALID",
                altered.table
            );
            return self.fail("42809", message);
        }
        if !self.may_be_referenced(&target, to_columns) {
            return self.fail("42830", format!("{target} has no unique key on the columns"));
        }
        if checked {
            self.scan_family(&altered.table);
            self.scan_family(&target);
        }
    }

    fn may_be_referenced(&self, target: &QualifiedName, columns: &[String]) -> bool {
        let Some(table) = self.table(target) else {
            return true;
        };
        if columns.is_empty() {
            return true;
        }
        let same = |index: &Index| {
            let mut keys: Vec<&String> = index.keys.iter().filter_map(|key| key.column.as_ref()).collect();
            let mut wanted: Vec<&String> = columns.iter().collect();
            keys.sort();
            wanted.sort();
            index.unique && index.predicate.is_none() && keys == wanted && keys.len() == index.keys.len()
        };
        table.indexes.values().any(same)
    }

    pub(super) fn drop_constraint(&mut self, altered: &Altered, name: &str, cascade: bool) {
        let Some(found) = self
            .table(&altered.table)
            .and_then(|table| table.constraints.get(name))
            .cloned()
        else {
            let family = self.family(&altered.table);
            return self.lock_all(&family, altered.mode);
        };
        if found.inherited {
            return self.fail("42P16", format!("the constraint {name} is inherited"));
        }
        match found.kind {
            ConstraintKind::Check => {
                let family = self.family(&altered.table);
                self.lock_all(&family, altered.mode);
            }
            ConstraintKind::ForeignKey => self.drop_foreign_key(altered, &found),
            _ => self.drop_key(altered, name, cascade),
        }
    }

    fn drop_foreign_key(&mut self, altered: &Altered, found: &Constraint) {
        let family = self.family(&altered.table);
        self.lock_all(&family, altered.mode);
        if let Some(to) = &found.references {
            let referenced = self.family(&to.table);
            self.lock_all(&referenced, AccessExclusive);
        }
    }

    fn drop_key(&mut self, altered: &Altered, name: &str, cascade: bool) {
        let index = altered.table.sibling(name);
        self.drop_index_tree(&index);
        for (from, constraint) in self.incoming(&altered.table) {
            if constraint.index.as_deref() != Some(name) {
                continue;
            }
            match cascade {
                true => self.lock(&from, AccessExclusive),
                false => self.fail("2BP01", format!("a foreign key of {from} depends on {name}")),
            }
        }
    }

    pub(super) fn validate(&mut self, altered: &Altered, name: &str) {
        let not_null = self.table(&altered.table).is_some_and(|table| {
            table.columns.iter().any(|column| {
                let named = column.not_null_constraint.as_ref();
                named.is_some_and(|named| named.name == name && !named.validated)
            })
        });
        let Some(found) = self
            .table(&altered.table)
            .and_then(|table| table.constraints.get(name))
            .cloned()
        else {
            let family = self.family(&altered.table);
            self.lock_all(&family, altered.mode);
            if let Some(to) = self.added_reference(altered, name) {
                self.scan_family(&to);
            } else if !not_null && !self.adds(altered, name) && !self.world.complete {
                self.depends(format!(
                    "what {name} is: a foreign key locks the referenced table too, ROW SHARE"
                ));
            }
            for member in family {
                self.scan(&member);
            }
            return;
        };
        if found.definition.ends_with("NOT ENFORCED") {
            return self.fail("55000", format!("the constraint {name} is not enforced"));
        }
        if found.validated {
            return;
        }
        let family = self.family(&altered.table);
        let left: Vec<QualifiedName> = family
            .into_iter()
            .filter(|member| self.is_left(altered, member, name))
            .collect();
        let is_key = found.kind == ConstraintKind::ForeignKey;
        if is_key && left.iter().all(|member| *member == altered.table) && self.is_partitioned(&altered.table)
        {
            return;
        }
        if !is_key {
            let family = self.family(&altered.table);
            self.lock_all(&family, altered.mode);
        }
        for member in left {
            self.lock(&member, altered.mode);
            self.scan(&member);
        }
        if let Some(to) = found.references {
            self.lock(&to.table, RowShare);
            self.scan_family(&to.table);
            for member in self.family(&to.table).into_iter().skip(1) {
                self.lock(&member, crate::plan::LockMode::AccessShare);
            }
        }
    }

    /// Whether the rows of the member are not known to hold the constraint.
    fn is_left(&self, altered: &Altered, member: &QualifiedName, name: &str) -> bool {
        if *member == altered.table {
            return true;
        }
        let Some(table) = self.table(member) else {
            return true;
        };
        let parent = self
            .table(&altered.table)
            .and_then(|table| table.constraints.get(name));
        let same = table.constraints.get(name).or_else(|| {
            // The copies of a foreign key have names of their own.
            let mut copies = table.constraints.values();
            copies.find(|copy| {
                parent.is_some_and(|parent| {
                    copy.inherited && copy.columns == parent.columns && copy.kind == parent.kind
                })
            })
        });
        same.is_none_or(|copy| !copy.validated)
    }

    /// What the foreign key references that the same statement adds.
    fn added_reference(&self, altered: &Altered, name: &str) -> Option<QualifiedName> {
        altered.actions.iter().find_map(|action| match action {
            crate::sql_lint::statement::Action::AddConstraint(constraint)
                if constraint.name.as_deref() == Some(name) =>
            {
                match &constraint.rule {
                    ConstraintRule::ForeignKey { table, .. } => Some(self.resolve(table)),
                    _ => None,
                }
            }
            _ => None,
        })
    }

    /// Whether the same statement adds the constraint.
    fn adds(&self, altered: &Altered, name: &str) -> bool {
        altered.actions.iter().any(|action| match action {
            crate::sql_lint::statement::Action::AddConstraint(constraint) => {
                constraint.name.as_deref() == Some(name)
            }
            _ => false,
        })
    }

    pub(super) fn alter_constraint(&mut self, altered: &Altered, name: &str, enforced: Option<bool>) {
        let Some(found) = self
            .table(&altered.table)
            .and_then(|table| table.constraints.get(name))
            .cloned()
        else {
            return;
        };
        let Some(enforced) = enforced else {
            return;
        };
        if found.kind != ConstraintKind::ForeignKey {
            return self.fail("42809", format!("whether {name} is enforced cannot be altered"));
        }
        let Some(to) = found.references else {
            return;
        };
        match enforced {
            true => {
                self.lock(&to.table, ShareRowExclusive);
                self.scan(&altered.table);
                self.scan_family(&to.table);
            }
            false => self.lock(&to.table, AccessExclusive),
        }
    }

    pub(super) fn rename_constraint(&mut self, altered: &Altered, name: &str) {
        let found = self
            .table(&altered.table)
            .and_then(|table| table.constraints.get(name))
            .cloned();
        match found.map(|found| found.kind) {
            Some(ConstraintKind::Check) | None => {
                let family = self.family(&altered.table);
                self.lock_all(&family, altered.mode);
            }
            Some(ConstraintKind::ForeignKey) => {}
            Some(_) => self.lock(&altered.table.sibling(name), ShareUpdateExclusive),
        }
    }
}

/// Unique, on these plain columns, whole.
pub(super) fn is_plain_key(index: &Index, columns: &[String]) -> bool {
    let keys: Vec<&String> = index.keys.iter().filter_map(|key| key.column.as_ref()).collect();
    index.unique && index.predicate.is_none() && keys.iter().copied().eq(columns.iter())
}
