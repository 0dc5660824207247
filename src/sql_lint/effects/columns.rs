//! Columns that come and go, their defaults and NOT NULL.

use super::Judge;
use super::alter_table::Altered;
use super::types::{self, is_volatile};
use crate::catalog::model::{Column, ConstraintKind};
use crate::plan::LockMode::{self, AccessExclusive, ShareRowExclusive};
use crate::sql::QualifiedName;
use crate::sql_lint::statement::{Action, ColumnDefinition, ConstraintRule};

impl Judge<'_> {
    fn column(&self, table: &QualifiedName, column: &str) -> Option<&Column> {
        let table = self.table(table)?;
        table.columns.iter().find(|found| found.name == column)
    }

    pub(super) fn add_column(&mut self, altered: &Altered, column: &ColumnDefinition, if_not_exists: bool) {
        if if_not_exists && self.column(&altered.table, &column.name).is_some() {
            return;
        }
        let family = self.family(&altered.table);
        let used = family.iter().find_map(|member| {
            let table = self.table(member)?;
            table
                .row_type_used_by
                .first()
                .map(|user| (member.clone(), user.clone()))
        });
        let default = self.differs_by_row(column);
        if let Some((member, user)) = used
            && (default || column.identity.is_some() || column.default.is_some())
        {
            self.fail("0A000", format!("{user} stores rows of {member}"));
        }
        if column.identity.is_some() && family.len() > 1 && self.version() < 17 {
            self.fail(
                "42P16",
                "an identity column cannot be added to a table that has children",
            );
        }
        self.fresh_label(column.default.iter().flat_map(|default| &default.strings));
        let serial = matches!(
            column.data_type.to_lowercase().as_str(),
            "serial" | "bigserial" | "smallserial" | "serial2" | "serial4" | "serial8"
        );
        let domain = types::resolve(self.world, &column.data_type).constrained && self.version() < 19;
        let stored = column
            .generated
            .as_ref()
            .is_some_and(|generated| match generated.stored {
                Some(stored) => stored,
                None => self.version() < 18,
            });
        if serial || domain || stored || default || column.identity.is_some() {
            for member in &family {
                self.rewrite(member);
            }
        }
        let is_virtual = column.generated.is_some() && !stored;
        if is_virtual && column.not_null {
            self.scan_family(&altered.table);
        }
        for constraint in &column.constraints {
            // A new column without a value cannot break a reference.
            let checked = match &constraint.rule {
                ConstraintRule::ForeignKey { .. } => column.default.is_some() || serial || stored,
                _ => true,
            };
            self.add_constraint(altered, constraint, checked);
        }
    }

    /// Whether the rows that are there would each get a value of their own.
    fn differs_by_row(&mut self, column: &ColumnDefinition) -> bool {
        let Some(default) = &column.default else {
            return false;
        };
        match is_volatile(self.world, default) {
            Some(volatile) => volatile,
            None => {
                let functions: Vec<String> = default.functions.iter().map(ToString::to_string).collect();
                self.depends(format!("whether {} is volatile", functions.join(", ")));
                true
            }
        }
    }

    pub(super) fn drop_column(&mut self, altered: &Altered, column: &str, cascade: bool) {
        let Some(found) = self.column(&altered.table, column).cloned() else {
            return;
        };
        if found.inherited && !altered.only {
            return self.fail("42P16", format!("the column {column} is inherited"));
        }
        let family = match altered.only {
            true => vec![altered.table.clone()],
            false => self.family(&altered.table),
        };
        for member in &family {
            self.drop_column_of(member, column, cascade);
        }
    }

    fn drop_column_of(&mut self, table: &QualifiedName, column: &str, cascade: bool) {
        let Some(found) = self.table(table).cloned() else {
            return;
        };
        let hit = |columns: &[String]| columns.iter().any(|name| name == column);
        for (name, index) in &found.indexes {
            let keys: Vec<String> = index.keys.iter().filter_map(|key| key.column.clone()).collect();
            if hit(&keys) || hit(&index.include) || hit(&index.expression_columns) {
                self.lock(&table.sibling(name), AccessExclusive);
            }
        }
        for constraint in found
            .constraints
            .values()
            .filter(|constraint| hit(&constraint.columns))
        {
            if let Some(to) = &constraint.references {
                let family = self.family(&to.table);
                self.lock_all(&family, AccessExclusive);
            }
        }
        for (from, constraint) in self.incoming(table) {
            let columns = constraint.references.map(|to| to.columns).unwrap_or_default();
            if !hit(&columns) {
                continue;
            }
            match cascade {
                true => self.lock(&from, AccessExclusive),
                false => self.fail(
                    "2BP01",
                    format!("a foreign key of {from} depends on the column {column}"),
                ),
            }
        }
        let owned =
            self.world.catalog.sequences.iter().filter(|(_, sequence)| {
                sequence.owned_by.as_ref() == Some(&(table.clone(), column.to_owned()))
            });
        let owned: Vec<QualifiedName> = owned.map(|(name, _)| name.clone()).collect();
        self.lock_all(&owned, AccessExclusive);
        self.column_dependents(table, column, cascade);
    }

    fn column_dependents(&mut self, table: &QualifiedName, column: &str, cascade: bool) {
        let views = self.world.catalog.views_over(table, column);
        let views: Vec<QualifiedName> = views.into_iter().cloned().collect();
        let Some(found) = self.table(table) else {
            return;
        };
        let generated = found.columns.iter().any(|other| {
            let names = |expression: &str| mentions(expression, column);
            let expression = other
                .generated
                .as_ref()
                .map(|generated| generated.expression.as_str());
            other.name != column && expression.is_some_and(names)
        });
        let of_column = |kind: &str| {
            let mut dependents = found.dependents.iter();
            dependents
                .any(|dependent| dependent.column.as_deref() == Some(column) && dependent.kind.contains(kind))
        };
        let mentioned = found.policies.values().any(|policy| {
            let texts = [&policy.using, &policy.with_check];
            texts.into_iter().flatten().any(|text| mentions(text, column))
        });
        let in_trigger = found
            .triggers
            .values()
            .any(|trigger| trigger.columns.iter().any(|name| name == column));
        let others =
            mentioned || in_trigger || of_column("policy") || of_column("trigger") || of_column("function");
        if cascade {
            self.lock_all(&views, AccessExclusive);
            return;
        }
        if let Some(view) = views.first() {
            self.fail("2BP01", format!("the view {view} depends on the column {column}"));
        }
        if others {
            self.fail("2BP01", format!("other objects depend on the column {column}"));
        }
        if generated && self.version() >= 15 {
            self.fail(
                "2BP01",
                format!("a generated column depends on the column {column}"),
            );
        }
    }

    pub(super) fn rename_column(&mut self, altered: &Altered, column: &str) {
        if self
            .column(&altered.table, column)
            .is_some_and(|found| found.inherited)
        {
            self.fail("42P16", format!("the column {column} is inherited"));
        }
    }

    pub(super) fn is_generated(&self, altered: &Altered, column: &str) -> bool {
        self.column(&altered.table, column)
            .is_some_and(|found| found.generated.is_some())
    }

    pub(super) fn drop_not_null(&mut self, altered: &Altered, column: &str) {
        let keys = self.constraints(&altered.table, ConstraintKind::PrimaryKey);
        if keys
            .iter()
            .any(|(_, key)| key.columns.iter().any(|name| name == column))
        {
            return self.fail("42P16", format!("the column {column} is in a primary key"));
        }
        let parent = self
            .table(&altered.table)
            .and_then(|table| table.partition_of.clone());
        let of_parent = parent.and_then(|parent| self.column(&parent, column).cloned());
        if of_parent.is_some_and(|column| column.not_null) {
            self.fail(
                "42P16",
                format!("the column {column} is NOT NULL in the parent table"),
            );
        }
    }

    pub(super) fn identity_sequence(&mut self, altered: &Altered, column: &str, mode: LockMode) {
        let found = self.column(&altered.table, column);
        let sequence =
            found.and_then(|found| found.identity.as_ref().map(|identity| identity.sequence.clone()));
        if let Some(sequence) = sequence {
            self.lock(&sequence, mode.max(ShareRowExclusive));
        }
    }

    pub(super) fn set_expression(&mut self, altered: &Altered, column: &str) {
        let Some(found) = self.column(&altered.table, column).cloned() else {
            self.depends(format!("whether {column} is stored"));
            for member in self.family(&altered.table) {
                self.rewrite(&member);
            }
            return;
        };
        match found.generated.is_some_and(|generated| generated.stored) {
            true => {
                for member in self.family(&altered.table) {
                    self.rewrite(&member);
                }
            }
            false => self.recheck(&altered.table, column, found.not_null),
        }
    }

    /// Constraints on a virtual column are checked again when it is computed in another way.
    fn recheck(&mut self, table: &QualifiedName, column: &str, not_null: bool) {
        let checks = self.constraints(table, ConstraintKind::Check);
        let on_column = |check: &crate::catalog::model::Constraint| {
            check.validated && check.columns.iter().any(|name| name == column)
        };
        if not_null || checks.iter().any(|(_, check)| on_column(check)) {
            self.scan_family(table);
        }
    }

    pub(super) fn drop_expression(&mut self, altered: &Altered, column: &str) {
        let found = self.column(&altered.table, column);
        if found.is_some_and(|found| {
            found
                .generated
                .as_ref()
                .is_some_and(|generated| !generated.stored)
        }) {
            self.fail(
                "0A000",
                format!("the column {column} is a virtual generated column"),
            );
        }
    }

    /// `SET NOT NULL` last: which checks prove it depends on the whole statement.
    pub(super) fn settle_not_null(&mut self, altered: &Altered) {
        for action in altered.actions {
            if let Action::SetNotNull(column) = action {
                self.set_not_null(altered, column);
            }
        }
    }

    fn set_not_null(&mut self, altered: &Altered, column: &str) {
        let family = self.family(&altered.table);
        if altered.only && family.len() > 1 && self.is_partitioned(&altered.table) {
            let all = family[1..]
                .iter()
                .all(|member| self.column(member, column).is_some_and(|column| column.not_null));
            if !all {
                return self.fail("42P16", "the partitions need NOT NULL as well");
            }
        }
        let members = if altered.only {
            vec![altered.table.clone()]
        } else {
            family
        };
        for member in members {
            self.prove_not_null(altered, &member, column);
        }
    }

    /// Scans the table unless the column is known to hold no NULL.
    pub(super) fn prove_not_null(&mut self, altered: &Altered, table: &QualifiedName, column: &str) {
        let Some(found) = self.column(table, column).cloned() else {
            if self.has_proof(altered, table, column) {
                return;
            }
            if !self.world.is_made(table) && !self.world.complete {
                self.depends(format!(
                    "whether a validated CHECK proves that {column} is never NULL"
                ));
            }
            return self.scan(table);
        };
        let validated = found
            .not_null_constraint
            .as_ref()
            .is_none_or(|named| named.validated);
        let is_virtual = found
            .generated
            .as_ref()
            .is_some_and(|generated| !generated.stored);
        if found.not_null && validated {
            return;
        }
        if is_virtual || !self.has_proof(altered, table, column) {
            self.scan(table);
        }
    }
}

impl Judge<'_> {
    fn has_proof(&self, altered: &Altered, table: &QualifiedName, column: &str) -> bool {
        let dropped: Vec<&String> = altered
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::DropConstraint { name, .. } => Some(name),
                _ => None,
            })
            .collect();
        let checks = self.constraints(table, ConstraintKind::Check);
        checks.iter().any(|(name, check)| {
            check.validated
                && !check.definition.ends_with("NOT ENFORCED")
                && !dropped.contains(&name)
                && proves_not_null(&check.definition, column)
        })
    }
}

/// Whether the column stands in the expression as a word of its own.
pub(super) fn mentions(expression: &str, column: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let mut rest = expression;
    let mut before = None;
    while let Some(at) = rest.find(column) {
        let previous = rest[..at].chars().next_back().or(before);
        let next = rest[at + column.len()..].chars().next();
        if !previous.is_some_and(is_part) && !next.is_some_and(is_part) {
            return true;
        }
        before = rest[..at + column.len()].chars().next_back();
        rest = &rest[at + column.len()..];
    }
    false
}

/// `CHECK ((a IS NOT NULL))`, alone or with others that hold as well.
fn proves_not_null(definition: &str, column: &str) -> bool {
    let inner = definition.strip_prefix("CHECK ").unwrap_or(definition);
    let bare: String = inner.chars().filter(|c| !matches!(c, '(' | ')')).collect();
    let bare = bare.to_uppercase();
    let quoted = crate::sql::ident(column).to_string().to_uppercase();
    bare.split(" AND ").any(|part| {
        let part = part.trim().trim_end_matches(" NO INHERIT");
        let is = |text: String| part == text;
        !bare.contains(" OR ")
            && (is(format!("{quoted} IS NOT NULL"))
                || is(format!("NOT {quoted} IS NULL"))
                || is(format!("{quoted} IS DISTINCT FROM NULL")))
    })
}
