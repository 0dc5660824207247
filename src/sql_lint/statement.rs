//! SQL statements as far as their effects depend on them.

use crate::diagnostic::Span;
use crate::plan::LockMode;

/// One statement of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Without the semicolon.
    pub sql: String,
    pub span: Span,
    /// From 1.
    pub line: usize,
    pub kind: Kind,
}

/// A name as it was written; the search path decides what it means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Name {
    pub schema: Option<String>,
    pub name: String,
}

impl Name {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            schema: None,
            name: name.into(),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// An expression: its text, and what it names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expression {
    pub sql: String,
    pub columns: Vec<String>,
    /// Functions called, in lower case unless quoted.
    pub functions: Vec<Name>,
    /// String constants in it.
    pub strings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    AlterTable(AlterTable),
    CreateTable(CreateTable),
    CreateTableAs {
        name: Name,
        temporary: bool,
        if_not_exists: bool,
        reads: Vec<Name>,
    },
    CreateIndex(CreateIndex),
    Drop(Drop),
    Reindex {
        target: ReindexTarget,
        concurrently: bool,
    },
    AlterIndex {
        index: Name,
        action: IndexAction,
    },
    Truncate {
        tables: Vec<Name>,
        restart: bool,
        cascade: bool,
    },
    Vacuum {
        full: bool,
        tables: Vec<Name>,
    },
    Analyze(Vec<Name>),
    Cluster {
        table: Option<Name>,
        index: Option<Name>,
    },
    Refresh {
        view: Name,
        concurrently: bool,
        no_data: bool,
    },
    Lock {
        tables: Vec<(Name, bool)>,
        mode: LockMode,
    },
    CreateTrigger {
        name: String,
        table: Name,
        from: Option<Name>,
        each_row: bool,
    },
    DropTrigger {
        name: String,
        table: Name,
    },
    RenameTrigger {
        table: Name,
    },
    /// `CREATE RULE`, `ALTER RULE`, policies: what locks the table and reads others.
    TableObject {
        table: Name,
        what: &'static str,
        reads: Vec<Name>,
        verb: &'static str,
    },
    CreateView {
        name: Name,
        replace: bool,
        temporary: bool,
        reads: Vec<Name>,
    },
    CreateMaterializedView {
        name: Name,
        if_not_exists: bool,
        reads: Vec<Name>,
    },
    AlterView {
        name: Name,
        materialized: bool,
        rename: Option<String>,
        actions: Vec<Action>,
    },
    CreateFunction {
        name: Name,
        reads: Vec<Name>,
    },
    DropFunction {
        names: Vec<Name>,
        cascade: bool,
    },
    CreateType {
        name: Name,
        labels: Option<Vec<String>>,
        composite: bool,
    },
    AddEnumValue {
        name: Name,
        label: String,
    },
    AlterComposite {
        name: Name,
        cascade: bool,
        retypes: bool,
    },
    CreateDomain {
        name: Name,
        base: String,
        constrained: bool,
    },
    AlterDomain {
        name: Name,
        /// Whether it looks at every value of every column of the domain.
        validates: bool,
        validate: bool,
        what: &'static str,
    },
    CreateSequence {
        name: Name,
        owner: Option<Name>,
    },
    AlterSequence {
        name: Name,
        rename: bool,
        owner: Option<Name>,
        /// `OWNER TO`, `SET SCHEMA`, `SET LOGGED`.
        other: bool,
    },
    Comment {
        table: Option<Name>,
    },
    Grant {
        tables: Vec<Name>,
    },
    Publication {
        tables: Vec<Name>,
        adds: bool,
    },
    CreateStatistics {
        table: Name,
    },
    CreateSchema {
        name: String,
    },
    Select {
        reads: Vec<Name>,
        for_update: bool,
        /// Without a condition on it, so that all rows are read.
        whole: bool,
    },
    Write(Write),
    Set {
        name: String,
        value: String,
        local: bool,
    },
    Transaction(Transaction),
    /// A statement that cannot run in a transaction block: `CREATE DATABASE`, `ALTER SYSTEM`, ….
    Alone,
    /// Its body is not looked into.
    Opaque(&'static str),
    /// Locks no table that somebody uses.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    Begin,
    End,
    Savepoint,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    pub verb: &'static str,
    pub table: Name,
    pub reads: Vec<Name>,
    /// `UPDATE` or `DELETE` without WHERE.
    pub whole: bool,
    pub strings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AlterTable {
    pub name: Name,
    pub only: bool,
    pub if_exists: bool,
    pub foreign: bool,
    pub actions: Vec<Action>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    AddColumn {
        column: ColumnDefinition,
        if_not_exists: bool,
    },
    DropColumn {
        column: String,
        cascade: bool,
        if_exists: bool,
    },
    SetType {
        column: String,
        data_type: String,
        collation: Option<String>,
        using: Option<Expression>,
    },
    SetDefault {
        column: String,
        default: Option<Expression>,
    },
    SetNotNull(String),
    DropNotNull(String),
    SetStatistics(String),
    /// `n_distinct` and the like.
    SetColumnOptions(String),
    SetStorage(String),
    AddIdentity(String),
    DropIdentity(String),
    SetIdentity(String),
    SetExpression {
        column: String,
        expression: Expression,
    },
    DropExpression(String),
    AddConstraint(TableConstraint),
    DropConstraint {
        name: String,
        cascade: bool,
        if_exists: bool,
    },
    ValidateConstraint(String),
    AlterConstraint {
        name: String,
        enforced: Option<bool>,
    },
    RenameColumn {
        column: String,
        to: String,
    },
    RenameConstraint {
        name: String,
        to: String,
    },
    RenameTo(String),
    SetSchema(String),
    OwnerTo,
    SetTablespace,
    SetAccessMethod(String),
    SetLogged(bool),
    /// Storage parameters by name.
    SetOptions(Vec<String>),
    ReplicaIdentity,
    RowSecurity,
    ClusterOn(String),
    SetWithoutCluster,
    EnableTrigger {
        disable: bool,
        trigger: Option<String>,
    },
    EnableRule,
    Attach {
        partition: Name,
        bound: Bound,
    },
    Detach {
        partition: Name,
        concurrently: bool,
    },
    Inherit(Name),
    NoInherit(Name),
    Other(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Bound {
    Default,
    /// `FOR VALUES …`, with its constants.
    From(Vec<String>, Vec<String>),
    In(Vec<String>),
    Hash,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct ColumnDefinition {
    pub name: String,
    /// As written; empty in a partition's own settings.
    pub data_type: String,
    pub collation: Option<String>,
    pub not_null: bool,
    pub default: Option<Expression>,
    /// `ALWAYS` or not.
    pub identity: Option<bool>,
    pub generated: Option<GeneratedColumn>,
    /// Checks, keys and references that stand with it.
    pub constraints: Vec<TableConstraint>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedColumn {
    pub expression: Expression,
    /// `None` where it is not said: stored before PostgreSQL 18, virtual from then on.
    pub stored: Option<bool>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TableConstraint {
    pub name: Option<String>,
    pub rule: ConstraintRule,
    pub not_valid: bool,
    pub not_enforced: bool,
    pub deferrable: bool,
    pub no_inherit: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ConstraintRule {
    Check(Expression),
    NotNull(String),
    Unique(Vec<String>),
    PrimaryKey(Vec<String>),
    UsingIndex {
        index: String,
        primary: bool,
    },
    ForeignKey {
        columns: Vec<String>,
        table: Name,
        to: Vec<String>,
        /// `ON DELETE …`, `MATCH …`, as written.
        rest: String,
    },
    Exclude {
        columns: Vec<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct CreateTable {
    pub name: Name,
    pub temporary: bool,
    pub if_not_exists: bool,
    pub columns: Vec<ColumnDefinition>,
    pub constraints: Vec<TableConstraint>,
    pub likes: Vec<Name>,
    pub inherits: Vec<Name>,
    pub partition_of: Option<(Name, Bound)>,
    /// Columns of the partition key.
    pub partition_by: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct CreateIndex {
    pub name: Option<Name>,
    pub table: Name,
    pub only: bool,
    pub unique: bool,
    pub concurrently: bool,
    pub if_not_exists: bool,
    pub method: Option<String>,
    pub keys: Vec<IndexItem>,
    pub include: Vec<String>,
    pub predicate: Option<Expression>,
    /// `WITH (…)`, `NULLS NOT DISTINCT`, `TABLESPACE`.
    pub extras: bool,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct IndexItem {
    pub column: Option<String>,
    pub expression: Expression,
    /// An operator class, a collation or an order was given.
    pub qualified: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    Table,
    Index,
    View,
    MaterializedView,
    Sequence,
    Schema,
    Type,
}

impl Object {
    pub fn word(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Index => "index",
            Self::View => "view",
            Self::MaterializedView => "materialized view",
            Self::Sequence => "sequence",
            Self::Schema => "schema",
            Self::Type => "type",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Drop {
    pub object: Object,
    pub names: Vec<Name>,
    pub cascade: bool,
    pub concurrently: bool,
    pub if_exists: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ReindexTarget {
    Index(Name),
    Table(Name),
    Schema(String),
    Database,
}

#[derive(Debug, Clone, PartialEq)]
pub enum IndexAction {
    Attach(Name),
    Rename(String),
    SetTablespace,
    SetOptions,
    SetStatistics,
    Other,
}
