//! What an index has beside its definition: marks, comments, and the constraint that it stands for.

use crate::catalog::model::{Constraint, Index};
use crate::plan::Expectation;
use crate::sql::{QualifiedName, ident, literal};

/// An index under the name that it has outside of the change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dressed<'a> {
    pub table: &'a QualifiedName,
    pub name: &'a str,
    pub index: &'a Index,
    pub constraint: Option<&'a Constraint>,
    pub replica_identity: bool,
}

impl Dressed<'_> {
    pub fn marks(&self) -> Vec<String> {
        let (table, name) = (self.table, ident(self.name));
        let mut statements: Vec<String> = self.index.set_statistics(&table.sibling(self.name)).collect();
        if self.index.clustered {
            statements.push(format!("ALTER TABLE {table} CLUSTER ON {name}"));
        }
        if self.replica_identity {
            statements.push(format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name}"));
        }
        statements
    }

    pub fn comments(&self) -> Vec<String> {
        let of_index = self.index.comment.iter().map(|comment| {
            let index = self.table.sibling(self.name);
            format!("COMMENT ON INDEX {index} IS {}", literal(comment))
        });
        let of_constraint = self.constraint.and_then(|it| it.comment.as_ref());
        let of_constraint = of_constraint.map(|comment| {
            let (table, name) = (self.table, ident(self.name));
            format!("COMMENT ON CONSTRAINT {name} ON {table} IS {}", literal(comment))
        });
        of_index.chain(of_constraint).collect()
    }

    pub fn expect(&self) -> Vec<Expectation> {
        let index = Expectation::Index {
            table: self.table.clone(),
            name: self.name.to_owned(),
            exact: true,
            index: Box::new(self.index.clone()),
        };
        let constraint = self.constraint.map(|constraint| Expectation::Constraint {
            table: self.table.clone(),
            name: self.name.to_owned(),
            exact: true,
            constraint: Box::new(constraint.clone()),
        });
        std::iter::once(index).chain(constraint).collect()
    }
}
