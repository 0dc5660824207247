//! A random case as data: what the writers and the comparison must know of it.

use super::values::Type;
use pgmorph::sql::{QualifiedName, ident};
use std::collections::{BTreeMap, BTreeSet};

/// What a column holds, as far as the account knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    Null,
    /// In canonical form.
    Known(String),
    /// What it was at the start, in the words of the twin: its text changes with its type.
    Initial(String),
}

impl Cell {
    pub fn of(text: Option<&str>, data_type: Type) -> Self {
        text.map_or(Self::Null, |text| Self::Known(data_type.canonical(text)))
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Null => None,
            Self::Known(text) | Self::Initial(text) => Some(text),
        }
    }
}

pub type Row = Vec<Cell>;

/// Rows by their tag.
pub type Rows = BTreeMap<i64, Row>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// The writers make its values up.
    Free,
    /// A default does, as a rule.
    Sequence,
    /// They are those of another row.
    Reference,
}

#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub data_type: Type,
    pub collation: bool,
    pub not_null: bool,
    /// No two rows may have the same value, whether something enforces that or not.
    pub unique: bool,
    pub feed: Feed,
    pub default: Option<String>,
    /// GENERATED ALWAYS: nobody may update it.
    pub always: bool,
    pub identity: bool,
    /// A trigger puts this in the place of a NULL.
    pub null_becomes: Option<String>,
    pub referenced: bool,
    /// What hangs on it.
    pub uses: BTreeSet<&'static str>,
    /// What plain ALTER forgets, said again.
    pub said_again: Vec<String>,
    /// The sequence that a default calls.
    pub sequence: Option<QualifiedName>,
    /// What the program says when it refuses a shadow column for it.
    pub obstacles: Vec<String>,
    /// What it says whichever way it would take.
    pub refusals: Vec<String>,
}

impl Column {
    pub fn new(name: String, data_type: Type) -> Self {
        Self {
            name,
            data_type,
            collation: false,
            not_null: false,
            unique: false,
            feed: Feed::Free,
            default: None,
            always: false,
            identity: false,
            null_becomes: None,
            referenced: false,
            uses: BTreeSet::new(),
            said_again: Vec::new(),
            sequence: None,
            obstacles: Vec::new(),
            refusals: Vec::new(),
        }
    }

    pub fn sql(&self) -> String {
        ident(&self.name)
    }
}

#[derive(Debug, Clone)]
pub struct Table {
    pub name: QualifiedName,
    /// The first is the tag: a number that is given once and never changed.
    pub columns: Vec<Column>,
    pub rows: Rows,
    pub partitioned: bool,
    /// Columns that others may reference together.
    pub key: Vec<usize>,
    /// Rows that a check forbids which was added NOT VALID: they can be deleted, but not updated.
    pub frozen: BTreeSet<i64>,
    /// Whether the key is the primary key, so that a view may be grouped by it.
    pub primary: bool,
    /// What the program says when it refuses a shadow column for any of the columns.
    pub obstacles: Vec<String>,
    /// The check that the frozen rows violate.
    pub violated: Option<String>,
}

impl Table {
    pub fn tag(&self) -> String {
        self.columns[0].sql()
    }

    pub fn list(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(Column::sql).collect();
        names.join(", ")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Nothing,
    Cascade,
    SetNull,
}

#[derive(Debug, Clone)]
pub struct ForeignKey {
    pub child: usize,
    pub columns: Vec<usize>,
    pub parent: usize,
    pub parent_columns: Vec<usize>,
    pub on_update: Action,
    pub on_delete: Action,
    /// NOT VALID, so that rows may reference what is not there.
    pub unproven: bool,
}

/// What PostgreSQL does not retype a column under: with plain ALTER it is dropped and created again.
#[derive(Debug, Clone)]
pub struct Hanging {
    pub table: usize,
    pub columns: Vec<usize>,
    pub create: String,
    pub drop: String,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub tables: Vec<Table>,
    pub foreign_keys: Vec<ForeignKey>,
    pub table: usize,
    pub column: usize,
    /// Columns that refer to it and come along, with their tables.
    pub members: Vec<(usize, usize)>,
    pub wide: Type,
    /// Everything, rows included.
    pub setup: String,
    pub plan: String,
    /// What somebody does who has the database for himself.
    pub alter: String,
    /// What the program says when it refuses a shadow column: all of it, and nothing else.
    pub obstacles: Vec<String>,
}

impl Case {
    pub fn target(&self) -> &Column {
        &self.tables[self.table].columns[self.column]
    }
}
