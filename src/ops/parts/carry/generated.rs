//! Generated columns that read the column.
//!
//! A virtual one is only its expression: it reads the new column once the expression has been said again. What is stored
//! would have to be computed again for every row, with the table locked.

use super::constraints::refusal;
use super::{Questions, Subject};
use crate::catalog::model::{Column, ConstraintKind, Generated, Probe, Table};
use crate::diagnostic::Diagnostic;
use crate::ops::Context;
use crate::plan::Hazard;
use crate::sql::{QualifiedName, ident};

#[derive(Debug, Clone, Default)]
pub struct VirtualColumns {
    table: String,
    column: String,
    members: Vec<Member>,
}

#[derive(Debug, Clone)]
struct Member {
    name: String,
    expression: String,
    /// As the server prints it afterwards.
    expression_after: String,
}

/// The generated columns of the table that read the column.
fn reading<'a>(
    table_name: &QualifiedName,
    table: &'a Table,
    column: &str,
) -> Vec<(&'a Column, &'a Generated)> {
    let reads = |name: &str| {
        let description = format!("column {name} of table {table_name}");
        table.dependents.iter().any(|it| {
            it.column.as_deref() == Some(column) && it.kind == "generated column" && it.name == description
        })
    };
    let columns = table.columns.iter().filter(|it| reads(&it.name));
    columns
        .filter_map(|it| Some((it, it.generated.as_ref()?)))
        .collect()
}

/// The clone cannot retype a column while others are generated from it.
pub fn probes_before(table_name: &QualifiedName, table: &Table, column: &str) -> Vec<Probe> {
    let generated = reading(table_name, table, column).into_iter();
    generated
        .map(|(it, _)| Questions::alter(table_name, format!(" DROP COLUMN {}", ident(&it.name))))
        .collect()
}

/// Asked of the retyped clone.
pub fn probes_after(table_name: &QualifiedName, table: &Table, column: &str) -> Vec<Probe> {
    let generated = reading(table_name, table, column).into_iter();
    generated
        .filter(|(_, it)| !it.stored)
        .map(|(column, it)| probe_after(table_name, column, it))
        .collect()
}

fn probe_after(table_name: &QualifiedName, column: &Column, generated: &Generated) -> Probe {
    let collation = column.collation.as_ref();
    let collate = collation.map(|it| format!(" COLLATE {it}")).unwrap_or_default();
    let what = format!(
        " ADD COLUMN {} {}{collate} GENERATED ALWAYS AS ({}) VIRTUAL",
        ident(&column.name),
        column.data_type,
        generated.expression
    );
    Questions::alter(table_name, what)
}

impl VirtualColumns {
    pub fn of(context: &Context<'_>, subject: &Subject<'_>, complaints: &mut Vec<Diagnostic>) -> Self {
        let mut found = Self {
            table: subject.table_name.to_string(),
            column: subject.column.name.clone(),
            members: Vec::new(),
        };
        for (column, generated) in reading(subject.table_name, subject.table, &subject.column.name) {
            match Self::member(context, subject, column, generated) {
                Ok(member) => found.members.push(member),
                Err(why) => {
                    let what = format!("generated column {}", ident(&column.name));
                    complaints.push(refusal(subject, &what, &why));
                }
            }
        }
        found
    }

    fn member(
        context: &Context<'_>,
        subject: &Subject<'_>,
        column: &Column,
        generated: &Generated,
    ) -> Result<Member, String> {
        if generated.stored {
            return Err("it is stored, and another expression would rewrite the table".into());
        }
        if column.not_null {
            return Err("it is NOT NULL, and another expression would scan the table".into());
        }
        // PostgreSQL 18 would have to check all rows again, and refuses.
        let mut constraints = subject.table.constraints.values();
        if constraints.any(|it| it.kind == ConstraintKind::Check) {
            return Err(
                "PostgreSQL sets no expression of a virtual column while the table has CHECK constraints"
                    .into(),
            );
        }
        if !subject.table.publications.is_empty() {
            return Err(
                "PostgreSQL sets no expression of a virtual column while the table is published".into(),
            );
        }
        let probe = probe_after(subject.table_name, column, generated);
        let outcome = match context.answer(&probe) {
            None => return Err("the server could not be asked to spell it".into()),
            Some(Err(error)) => {
                return Err(format!(
                    "PostgreSQL does not accept its expression over {}: {} (SQLSTATE {})",
                    subject.new_type, error.message, error.sqlstate
                ));
            }
            Some(Ok(outcome)) => outcome,
        };
        let printed = outcome
            .table
            .column(&column.name)
            .and_then(|it| it.generated.as_ref());
        Ok(Member {
            name: column.name.clone(),
            expression: generated.expression.clone(),
            expression_after: printed.unwrap_or(generated).expression.clone(),
        })
    }

    /// Once the columns have changed names, in whichever direction.
    pub fn arrive(&self) -> impl Iterator<Item = String> {
        self.members.iter().map(|it| {
            format!(
                "ALTER TABLE {} ALTER COLUMN {} SET EXPRESSION AS ({})",
                self.table,
                ident(&it.name),
                it.expression
            )
        })
    }

    pub fn hazard(&self) -> Option<Hazard> {
        let names: Vec<String> = self.members.iter().map(|it| ident(&it.name)).collect();
        (!names.is_empty()).then(|| {
            Hazard::new(
                "generated_columns",
                format!(
                    "these virtual columns of {} keep their types, and reading them fails where they do not hold what comes \
                     of a new {}: {}",
                    self.table,
                    ident(&self.column),
                    names.join(", ")
                ),
            )
        })
    }

    pub fn apply(&self, table: &mut Table) {
        for member in &self.members {
            let column = table.column_mut(&member.name);
            if let Some(generated) = column.and_then(|it| it.generated.as_mut()) {
                generated.expression.clone_from(&member.expression_after);
            }
        }
    }
}
