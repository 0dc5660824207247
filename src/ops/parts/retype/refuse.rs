//! What stops a column from getting another type, by name.

use super::Retype;
use crate::catalog::model::{Column, ConstraintKind, Table, TableKind, Trigger};
use crate::diagnostic::Diagnostic;
use crate::ops::Context;
use crate::ops::parts::{dependents, shadow};
use crate::sql::ident;

impl Retype {
    pub(super) fn refused(&self, why: &str, hanging: Vec<String>) -> Option<Diagnostic> {
        if hanging.is_empty() {
            return None;
        }
        let message = format!("{why}: {}", hanging.join(", "));
        Some(Diagnostic::new("cannot_widen_yet", message).at(self.column.span))
    }

    /// What stops an ALTER TABLE … TYPE whichever way it is done.
    pub(super) fn common_complaints(
        &self,
        table: &Table,
        column: &Column,
        new_type: &str,
    ) -> Vec<Diagnostic> {
        let name = &self.table.value;
        let plain = |code, message: String| Diagnostic::new(code, message).at(self.column.span);
        let mut found = Vec::new();
        if column.generated.is_some() {
            found.push(plain(
                "generated_column",
                format!("`{}` is a generated column", column.name),
            ));
        }
        if column.identity.is_some() && !["smallint", "integer", "bigint"].contains(&new_type) {
            let message = format!(
                "`{}` is an identity column, which cannot be {new_type}",
                column.name
            );
            found.push(plain("identity_column", message));
        }
        if column.inherited {
            let message = format!("`{}` is inherited; change it on the parent", column.name);
            found.push(plain("inherited_column", message));
        }
        if table.kind == TableKind::Foreign || table.of_type.is_some() {
            found.push(plain(
                "unsupported_table",
                format!("{name} is a foreign or typed table"),
            ));
        }
        if table.partition_key_columns.contains(&column.name) {
            found.push(plain(
                "partition_key",
                format!("`{}` is part of the partition key", column.name),
            ));
        }
        let exclusions =
            dependents::constraints(table, &column.name, |kind| kind == ConstraintKind::Exclusion);
        found.extend(self.refused("these constraints hang on the column", exclusions));
        let stored = table.row_type_used_by.clone();
        found.extend(self.refused("these columns store rows of the table", stored));
        found
    }

    /// Triggers beside which ours cannot keep the columns equal, or the cutover cannot be done.
    fn trigger_complaints(&self, table: &Table, column: &Column) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let trigger = shadow::trigger_name(&column.name);
        let later =
            |(other, it): &(&String, &Trigger)| it.before_row_write && other.as_bytes() > trigger.as_bytes();
        let later = table
            .triggers
            .iter()
            .filter(later)
            .map(|(other, _)| format!("trigger {}", ident(other)))
            .collect();
        found.extend(self.refused(
            "these triggers would run after ours and could change the value again",
            later,
        ));
        let foreign = table
            .triggers
            .values()
            .filter(|it| !it.function_owned && !it.function.starts_with("pg_catalog."))
            .map(|it| format!("function {}()", it.function))
            .collect();
        found.extend(self.refused(
            "sessions must compile these trigger functions again at the cutover, which takes their owner",
            foreign,
        ));
        found
    }

    /// What a shadow column cannot carry over yet.
    pub(super) fn shadow_complaints(
        &self,
        context: &Context<'_>,
        table: &Table,
        column: &Column,
    ) -> Vec<Diagnostic> {
        let foreign = column.grants.iter().filter(|grant| grant.grantor != table.owner);
        let foreign = foreign.map(|grant| format!("a grant by {} to {}", grant.grantor, grant.grantee));
        let mut found = Vec::new();
        found.extend(self.refused("a shadow column does not carry these over yet", foreign.collect()));
        let unproven = column.not_null_constraint.iter().filter(|it| !it.validated);
        let unproven = unproven.map(|it| format!("not null constraint {}", ident(&it.name)));
        found.extend(self.refused(
            "these are NOT VALID, and the cutover would prove them: validate them first",
            unproven.collect(),
        ));
        found.extend(self.trigger_complaints(table, column));
        if table.force_row_security && !context.now.role.superuser {
            found.extend(self.refused(
                "the backfill would not see all rows",
                vec!["FORCE ROW LEVEL SECURITY".into()],
            ));
        }
        if !context.now.role.may_set_replication_role && !table.rules.is_empty() {
            let rules = table
                .rules
                .keys()
                .map(|rule| format!("rule {}", ident(rule)))
                .collect();
            found.extend(self.refused("these rules would rewrite the backfill", rules));
        }
        if !context.now.role.may_create_schema {
            found.extend(self.refused("the role may not create", vec!["schema pgmorph".into()]));
        }
        found
    }
}
