//! What a change names outside itself, and what it makes: by these a directory of plans finds the order in which
//! they can run.
//!
//! An operation tells in [`Operation::needs`](super::Operation::needs) every relation and schema that must be there
//! before it, and in [`Operation::makes`](super::Operation::makes) those that are there after it and were not before
//! (under a new name, too). What it renames or drops, [`Operation::takes`](super::Operation::takes) tells: the name may
//! be made anew afterwards. It tells them from the plan file alone: none of these knows the catalog.

use crate::diagnostic::{Located, Span};
use crate::sql::{QualifiedName, ident};
use std::fmt;

/// What can be needed and made. Everything that shares the namespace of tables is a relation: views, sequences.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Relation(QualifiedName),
    Schema(String),
}

impl Object {
    /// Whether every database has it.
    pub fn is_given(&self) -> bool {
        match self {
            Self::Relation(name) => is_system(&name.schema),
            Self::Schema(name) => name == "public" || is_system(name),
        }
    }
}

fn is_system(schema: &str) -> bool {
    schema.starts_with("pg_") || schema == "information_schema"
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relation(name) => write!(f, "{name}"),
            Self::Schema(name) => write!(f, "schema {}", ident(name)),
        }
    }
}

/// An object and where the plan file names it.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    pub object: Object,
    pub span: Span,
    /// False for what was taken from the words of a query: then it is no complaint that nobody knows the name, only
    /// that a later plan makes it or that it is in another schema. And false for what is made only where it is not there
    /// already: then whoever needs it need not come later.
    pub certain: bool,
}

impl Named {
    pub fn relation(name: &Located<QualifiedName>) -> Self {
        Self::at(Object::Relation(name.value.clone()), name.span)
    }

    pub fn schema(name: &Located<String>) -> Self {
        Self::at(Object::Schema(name.value.clone()), name.span)
    }

    /// The schema that holds the name, which must be there before anything is made in it.
    pub fn schema_of(name: &Located<QualifiedName>) -> Self {
        Self::at(Object::Schema(name.value.schema.clone()), name.span)
    }

    pub fn at(object: Object, span: Span) -> Self {
        Self {
            object,
            span,
            certain: true,
        }
    }

    #[must_use]
    pub fn guessed(self) -> Self {
        Self {
            certain: false,
            ..self
        }
    }
}
