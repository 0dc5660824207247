//! What hangs on a column: the reasons for which its type cannot be changed in this or that way.

use crate::catalog::model::{CatalogSnapshot, ConstraintKind, Table};
use crate::sql::{QualifiedName, ident};

/// Objects of other kinds that PostgreSQL itself refuses to retype a column under (0A000).
pub fn outside(table: &Table, column: &str) -> Vec<String> {
    table
        .dependents
        .iter()
        .filter(|dependent| dependent.column.as_deref() == Some(column))
        .map(|dependent| dependent.name.clone())
        .collect()
}

/// Constraints of the table that mention the column, in words.
pub fn constraints(table: &Table, column: &str, wanted: impl Fn(ConstraintKind) -> bool) -> Vec<String> {
    table
        .constraints
        .iter()
        .filter(|(_, constraint)| wanted(constraint.kind))
        .filter(|(_, constraint)| {
            let index = constraint
                .index
                .as_ref()
                .and_then(|index| table.indexes.get(index));
            constraint.columns.iter().any(|name| name == column)
                || index.is_some_and(|index| index.mentions(column))
        })
        .map(|(name, constraint)| format!("{} {}", kind_name(constraint.kind), ident(name)))
        .collect()
}

fn kind_name(kind: ConstraintKind) -> &'static str {
    match kind {
        ConstraintKind::Check => "check constraint",
        ConstraintKind::ForeignKey => "foreign key",
        ConstraintKind::PrimaryKey => "primary key",
        ConstraintKind::Unique => "unique constraint",
        ConstraintKind::Exclusion => "exclusion constraint",
    }
}

/// Publications that carry the table.
pub fn publications<'a>(catalog: &'a CatalogSnapshot, table: &QualifiedName) -> Vec<&'a str> {
    let named = |name: &String| {
        let table = catalog.tables.get(table);
        table.is_some_and(|table| table.publications.contains_key(name))
    };
    let publications = catalog.publications.iter();
    let carrying = publications.filter(|(name, publication)| {
        publication.all_tables || publication.schemas.contains(&table.schema) || named(name)
    });
    carrying.map(|(name, _)| name.as_str()).collect()
}
