//! The columns that one cutover replaces.

use super::Names;
use crate::catalog::model::{CatalogSnapshot, Constraint};
use crate::sql::QualifiedName;

#[derive(Debug, Clone)]
pub struct Move {
    pub table: QualifiedName,
    pub column: String,
    pub names: Names,
    /// Whether it is one of a table below, and goes along with that above.
    pub below: bool,
}

/// In the order in which their shadows are added, and hence stand in their tables.
#[derive(Debug, Clone)]
pub struct Moves(Vec<Move>);

impl Moves {
    pub fn new(columns: impl IntoIterator<Item = (QualifiedName, String)>) -> Self {
        let of = |(table, column): (QualifiedName, String)| Move {
            names: Names::of(&column),
            table,
            column,
            below: false,
        };
        Self(columns.into_iter().map(of).collect())
    }

    /// With the columns of the tables below.
    #[must_use]
    pub fn with_below(self, catalog: &CatalogSnapshot) -> Self {
        let mut all = Vec::new();
        for it in self.0 {
            let tree = catalog.tree(&it.table).into_iter().skip(1);
            let below: Vec<Move> = tree
                .map(|table| Move {
                    table,
                    below: true,
                    ..it.clone()
                })
                .collect();
            all.push(it);
            all.extend(below);
        }
        Self(all)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Move> {
        self.0.iter()
    }

    pub fn of_table<'a>(&'a self, table: &'a QualifiedName) -> impl DoubleEndedIterator<Item = &'a Move> {
        self.0.iter().filter(move |it| it.table == *table)
    }

    /// Those that are renamed by themselves.
    pub fn tops(&self) -> impl DoubleEndedIterator<Item = &Move> {
        self.0.iter().filter(|it| !it.below)
    }

    /// Each table once, without those below.
    pub fn tables(&self) -> Vec<&QualifiedName> {
        let mut found: Vec<&QualifiedName> = Vec::new();
        for it in self.tops() {
            if !found.contains(&&it.table) {
                found.push(&it.table);
            }
        }
        found
    }

    pub fn have(&self, table: &QualifiedName, column: &str) -> bool {
        self.of_table(table).any(|it| it.column == column)
    }

    pub fn touch(&self, table: &QualifiedName, columns: &[String]) -> bool {
        columns.iter().any(|column| self.have(table, column))
    }

    /// The columns with other names for those that move.
    pub fn renamed(
        &self,
        table: &QualifiedName,
        columns: &[String],
        name: impl Fn(&Names) -> &str,
    ) -> Vec<String> {
        let renamed = |column: &String| {
            let moved = self.of_table(table).find(|it| it.column == *column);
            moved.map_or_else(|| column.clone(), |it| name(&it.names).to_owned())
        };
        columns.iter().map(renamed).collect()
    }

    /// Sorts columns of a table as they stand in it after the cutover.
    pub fn sort(&self, table: &QualifiedName, columns: &mut [String]) {
        columns.sort_by_key(|column| self.of_table(table).position(|it| it.column == *column));
    }

    /// What mentions several of a table's columns is carried with the first of them.
    pub fn leads(&self, table: &QualifiedName, column: &str, mentions: impl Fn(&str) -> bool) -> bool {
        let first = self.of_table(table).find(|it| mentions(&it.column));
        first.is_some_and(|it| it.column == column)
    }

    /// Whether the foreign key ends in one of them.
    pub fn end(&self, constraint: &Constraint) -> bool {
        let reference = constraint.references.as_ref();
        reference.is_some_and(|it| self.touch(&it.table, &it.columns))
    }
}
