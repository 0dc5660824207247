//! Security labels of the column, which access policies outside the server's own go by.

use super::Subject;
use super::constraints::refusal;
use crate::catalog::model::{Column, Probe, SecurityLabel};
use crate::diagnostic::Diagnostic;
use crate::ops::Context;
use crate::sql::{QualifiedName, ident, literal};

/// Gives the new column the labels; the old one keeps its own until it goes.
#[derive(Debug, Clone, Default)]
pub struct Labels(Vec<String>);

/// The statement, cut where the table belongs.
fn around(column: &str, label: &SecurityLabel) -> (String, String) {
    (
        format!("SECURITY LABEL FOR {} ON COLUMN ", ident(&label.provider)),
        format!(".{} IS {}", ident(column), literal(&label.label)),
    )
}

fn probe(table: &QualifiedName, column: &str, label: &SecurityLabel) -> Probe {
    let (before, after) = around(column, label);
    Probe {
        table: table.clone(),
        before,
        after,
    }
}

/// Only a session that has loaded the provider can set a label.
pub fn probes(table: &QualifiedName, column: &Column) -> Vec<Probe> {
    let labels = column.security_labels.iter();
    labels.map(|label| probe(table, &column.name, label)).collect()
}

impl Labels {
    pub fn of(context: &Context<'_>, subject: &Subject<'_>, complaints: &mut Vec<Diagnostic>) -> Self {
        let (table, column) = (subject.table_name, &subject.column.name);
        let mut statements = Vec::new();
        for label in &subject.column.security_labels {
            if let Some(Err(error)) = context.answer(&probe(table, column, label)) {
                let what = format!("the security label of provider {}", ident(&label.provider));
                complaints.push(refusal(subject, &what, &error.message));
            }
            let (before, after) = around(column, label);
            statements.push(format!("{before}{table}{after}"));
        }
        Self(statements)
    }

    pub fn arrive(&self) -> impl Iterator<Item = String> {
        self.0.iter().cloned()
    }
}
