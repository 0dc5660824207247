//! The catalog as plain values.
//!
//! Names are keys, OIDs do not appear, so that a snapshot of one database can be compared with another.
//! Everything measured rather than defined (sizes, counters) sits in fields that [`Table::structure`] leaves out.

use crate::sql::QualifiedName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the JSON form; a snapshot of another version is refused.
pub const SNAPSHOT_FORMAT: u32 = 2;

/// Everything that planning and verifying need to know about one database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CatalogSnapshot {
    pub format: u32,
    pub database: String,
    pub server: Server,
    pub role: Role,
    pub schemas: BTreeMap<String, Schema>,
    pub tables: BTreeMap<QualifiedName, Table>,
    pub views: BTreeMap<QualifiedName, View>,
    pub sequences: BTreeMap<QualifiedName, Sequence>,
    pub types: BTreeMap<QualifiedName, UserType>,
    pub publications: BTreeMap<String, Publication>,
    /// Who receives what is written, at the moment of the snapshot.
    #[serde(default, skip_serializing_if = "Replication::is_empty")]
    pub replication: Replication,
    /// Functions and procedures whose bodies the server keeps parsed, by what `pg_describe_object` calls them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub functions: BTreeMap<String, ParsedFunction>,
    /// Functions of users that are stable or immutable, whatever their arguments.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub not_volatile: BTreeSet<QualifiedName>,
    /// Tables of a predicted catalog that statements of the user's own change in ways nobody predicts.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unpredicted: BTreeSet<QualifiedName>,
    /// What the server said about the definitions in a plan; empty until it was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<ProbeAnswer>,
    /// The same for what a plan makes anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trials: Vec<TrialAnswer>,
    /// What the server said to the queries in the conditions of a plan: whether they are true, or why nobody knows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, Result<bool, String>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// As `server_version_num`: 150018 is 15.18.
    pub version_num: u32,
    pub time_zone: String,
    /// Of the session that planned; plans that were recorded earlier do not tell.
    #[serde(default)]
    pub date_style: String,
    pub deadlock_timeout_ms: u64,
    pub in_recovery: bool,
    pub read_only: bool,
}

impl Server {
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }
}

/// The role that will run the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Role {
    pub name: String,
    pub superuser: bool,
    /// Roles whose privileges it has, itself included: it acts as owner of what they own.
    pub member_of: Vec<String>,
    /// May it create the schema `pgmorph`, or objects in the one that is there?
    pub may_create_schema: bool,
    /// May it set `session_replication_role`, which keeps the application's triggers from firing on a backfill?
    pub may_set_replication_role: bool,
}

impl Role {
    /// Whether it has the rights of the owner.
    pub fn acts_as(&self, owner: &str) -> bool {
        self.superuser || self.name == owner || self.member_of.iter().any(|member| member == owner)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    pub owner: String,
    /// Whether the role may create objects in it.
    pub may_create: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    Table,
    Partitioned,
    Foreign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Persistence {
    Permanent,
    Unlogged,
    Temporary,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaIdentity {
    Default,
    Nothing,
    Full,
    Index(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub kind: TableKind,
    pub owner: String,
    pub persistence: Persistence,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tablespace: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    pub row_security: bool,
    pub force_row_security: bool,
    pub replica_identity: ReplicaIdentity,
    /// The composite type of a typed table (`CREATE TABLE … OF`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_type: Option<String>,
    /// The extension that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<String>,
    /// Columns elsewhere that store this table's row type, as text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub row_type_used_by: Vec<String>,
    /// As `pg_get_partkeydef`, for a partitioned table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_key: Option<String>,
    /// Plain columns of the partition key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition_key_columns: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_of: Option<QualifiedName>,
    /// As in `FOR VALUES …` or `DEFAULT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_bound: Option<String>,
    /// Parents by plain inheritance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherits: Vec<QualifiedName>,
    /// Direct children, partitions or inheriting tables, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<QualifiedName>,
    /// In their physical order, dropped ones left out.
    pub columns: Vec<Column>,
    pub indexes: BTreeMap<String, Index>,
    pub constraints: BTreeMap<String, Constraint>,
    pub triggers: BTreeMap<String, Trigger>,
    pub rules: BTreeMap<String, Rule>,
    pub policies: BTreeMap<String, Policy>,
    /// Extended statistics objects on the table; the key is `schema.name`.
    pub statistics: BTreeMap<QualifiedName, ExtendedStatistics>,
    /// Publications that name the table, and what of it they publish.
    #[serde(default)]
    pub publications: BTreeMap<String, Published>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// Objects outside the table that depend on it or on a column: views, functions, policies of others….
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependents: Vec<Dependent>,
    pub size: TableSize,
}

/// Measured, not defined: never part of a comparison or a fingerprint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TableSize {
    /// Estimate of the planner statistics (`reltuples`); for a partitioned table the sum of its leaves; −1 when the
    /// table was never analyzed.
    pub rows: i64,
    /// These too are the sums of the leaves for a partitioned table.
    pub heap_bytes: i64,
    pub toast_bytes: i64,
    pub index_bytes: i64,
}

impl TableSize {
    pub fn total_bytes(&self) -> i64 {
        self.heap_bytes + self.toast_bytes + self.index_bytes
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// As `format_type` prints it, modifiers included: `character varying(20)`.
    pub data_type: String,
    /// Only where it differs from the type's own collation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<String>,
    pub not_null: bool,
    /// From PostgreSQL 18 `NOT NULL` is a named constraint that may be unvalidated (`not_null` is true even then).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_null_constraint: Option<NotNullConstraint>,
    /// As `pg_get_expr` prints it; `None` for a generated column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<Generated>,
    /// `plain`, `main`, `external` or `extended`.
    pub storage: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// `None` is the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics_target: Option<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_labels: Vec<SecurityLabel>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// Inherited from a parent table, hence to be changed there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub inherited: bool,
    /// Defined by the table itself, though it may be inherited as well.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub local: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecurityLabel {
    pub provider: String,
    pub label: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotNullConstraint {
    pub name: String,
    pub validated: bool,
    /// The table's own, though it may be inherited as well.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub local: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// `GENERATED ALWAYS` rather than `BY DEFAULT`.
    pub always: bool,
    pub sequence: QualifiedName,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// `STORED` rather than `VIRTUAL`.
    pub stored: bool,
    pub expression: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    /// `PUBLIC` for everybody.
    pub grantee: String,
    pub grantor: String,
    pub privilege: String,
    pub grantable: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    pub method: String,
    pub unique: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub nulls_not_distinct: bool,
    pub keys: Vec<IndexKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// As `pg_get_expr` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// Storage parameters, `name=value`, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tablespace: Option<String>,
    /// Usable for queries; false for one that a failed concurrent build left behind.
    pub valid: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub replica_identity: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub clustered: bool,
    /// The constraint that owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<String>,
    /// The partitioned index that it is attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<QualifiedName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Columns named in expressions or the predicate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expression_columns: Vec<String>,
    /// Statistics targets of expressions: number of the key, target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statistics_targets: Vec<(i16, i32)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexKey {
    /// The plain column, when it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The expression when it is one, as it may stand in `CREATE INDEX`: with the parentheses that anything but a
    /// function call needs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// Only where it is not the type's default for the method; with parameters as the server prints them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opclass: Option<String>,
    /// Only where it differs from the column's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub descending: bool,
    /// Resolved: the default is first for descending keys and last for others.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nulls_first: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConstraintKind {
    Check,
    ForeignKey,
    PrimaryKey,
    Unique,
    Exclusion,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Constraint {
    pub kind: ConstraintKind,
    /// As `pg_get_constraintdef` prints it, without a trailing `NOT VALID`. From PostgreSQL 18 a constraint may be
    /// `NOT ENFORCED`, which stays at the end, since such a one can never be validated.
    pub definition: String,
    pub columns: Vec<String>,
    pub validated: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub deferrable: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub initially_deferred: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_inherit: bool,
    /// Comes from a parent table (`conislocal` is false or it has a parent constraint).
    #[serde(default, skip_serializing_if = "is_false")]
    pub inherited: bool,
    /// The index behind a primary key, unique or exclusion constraint; for a foreign key the referenced one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl Constraint {
    /// How PostgreSQL 18 and later print that nobody checks it; what is printed so is never validated.
    pub const NOT_ENFORCED: &'static str = " NOT ENFORCED";

    /// Whether the server checks it at all, for new rows at least.
    pub fn enforced(&self) -> bool {
        !self.definition.ends_with(Self::NOT_ENFORCED)
    }
}

/// The far end of a foreign key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    pub table: QualifiedName,
    /// In the order of the constraint's own columns.
    pub columns: Vec<String>,
    /// `SIMPLE` or `FULL`.
    pub match_type: String,
    /// `NO ACTION`, `RESTRICT`, `CASCADE`, `SET NULL` or `SET DEFAULT`.
    pub on_update: String,
    pub on_delete: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    pub definition: String,
    /// `origin`, `disabled`, `replica` or `always`.
    pub enabled: String,
    /// Fires before the row is written, for each row, on insert or update: it may change values.
    pub before_row_write: bool,
    /// Columns of `UPDATE OF`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    pub function: String,
    /// Whether the role of the session may alter the function.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub function_owned: bool,
    /// The copy that a partition has of its parent's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cloned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub definition: String,
    pub enabled: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub command: String,
    pub permissive: bool,
    pub roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub using: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_check: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExtendedStatistics {
    pub owner: String,
    pub definition: String,
    pub columns: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics_target: Option<i32>,
}

/// Something outside the table that PostgreSQL will not let go without.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dependent {
    /// The column depended on; `None` for the table as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// `view`, `materialized view`, `rule`, `policy`, `trigger`, `function`, `publication`, `generated column`….
    pub kind: String,
    /// As `pg_describe_object` prints it.
    pub name: String,
}

/// Options and grants, those of columns and indexes too, are in the order of their lists: it shows in a dump.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub materialized: bool,
    pub owner: String,
    pub definition: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// Relations and columns that it reads, sorted; an empty column where it uses the relation without naming any.
    pub uses: Vec<(QualifiedName, String)>,
    /// What would be lost if the view were dropped and made again from what is here, other views aside: functions,
    /// policies and rules elsewhere, labels…, as `pg_describe_object` prints them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<String>,
    /// Columns that have something besides name and type: a default, a comment, grants or settings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub triggers: BTreeMap<String, Trigger>,
    /// Without the one that makes it a view.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, Rule>,
    /// Keys without which its definition would not be accepted, as it groups by them: table and constraint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<(QualifiedName, String)>,
    /// Of a materialized view, as all that follows; false for one that was never filled.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub populated: bool,
    /// The access method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tablespace: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub indexes: BTreeMap<String, Index>,
}

/// With a body of the standard's form, `BEGIN ATOMIC` or `RETURN`, which depends on what it names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParsedFunction {
    pub owner: String,
    /// As `pg_get_functiondef` prints it.
    pub definition: String,
    /// As `pg_identify_object_as_address` has it: kind, schema, name, types of the arguments.
    pub address: Vec<String>,
    /// The relation whose rows it returns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returns: Option<QualifiedName>,
    /// Whether it is part of an extension or goes with one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub of_extension: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    pub owner: String,
    pub data_type: String,
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cache: i64,
    pub cycle: bool,
    /// The table and column of `OWNED BY` or of an identity column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned_by: Option<(QualifiedName, String)>,
    pub identity: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserType {
    /// `enum`, `domain`, `composite` or `range`.
    pub kind: String,
    /// Labels of an enum, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Whether a domain has constraints, which makes adding a column of it rewrite the table before PostgreSQL 19.
    #[serde(default, skip_serializing_if = "is_false")]
    pub constrained: bool,
    /// What a domain is over, as `format_type` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Publication {
    pub owner: String,
    pub all_tables: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<String>,
    /// Whether updates are published, which PostgreSQL refuses where the rows cannot be told apart.
    pub updates: bool,
    /// Whether stored generated columns are published without being named in a column list.
    #[serde(default, skip_serializing_if = "is_false")]
    pub generated: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Replication {
    /// Standbys that are connected, by `application_name`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub standbys: BTreeSet<String>,
    /// Whether the role may not see how far they are.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hidden: bool,
    /// Logical replication slots of the database.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, Slot>,
}

impl Replication {
    pub fn is_empty(&self) -> bool {
        self.standbys.is_empty() && self.slots.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Whether somebody reads it now.
    pub active: bool,
    /// Whether standbys have it too (PostgreSQL 17 and later).
    #[serde(default, skip_serializing_if = "is_false")]
    pub failover: bool,
}

/// What a publication publishes of a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Empty without a column list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// A definition to try out on an empty temporary clone of a table, in a transaction that is rolled back: the server
/// says what it makes of it, and the planner stays free of I/O.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub table: QualifiedName,
    /// The statement up to where the clone's name belongs…
    pub before: String,
    /// …and after it.
    pub after: String,
}

/// What the server is asked before planning, in the order of the changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    Probe(Probe),
    Trial(Trial),
}

/// Statements that make something new, tried out under its own name in a transaction that is rolled back. They must
/// lock nothing that anybody uses: what changes a table in use is asked by a [`Probe`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub statements: Vec<String>,
    /// What is shown of it afterwards, as a snapshot would.
    pub tables: Vec<QualifiedName>,
    pub views: Vec<QualifiedName>,
    pub types: Vec<QualifiedName>,
    /// Queries of one text each, asked before the statements and after them.
    pub texts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialAnswer {
    pub trial: Trial,
    pub outcome: Result<TrialOutcome, ProbeError>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrialOutcome {
    pub tables: BTreeMap<QualifiedName, Table>,
    pub views: BTreeMap<QualifiedName, View>,
    /// Those of its tables' columns.
    pub sequences: BTreeMap<QualifiedName, Sequence>,
    pub types: BTreeMap<QualifiedName, UserType>,
    pub before: Vec<Option<String>>,
    pub after: Vec<Option<String>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    pub probe: Probe,
    pub outcome: Result<ProbeOutcome, ProbeError>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeOutcome {
    /// The clone as it is after the statement: only `columns`, `indexes`, `constraints` and `triggers` are filled.
    pub table: Table,
    /// Columns whose default the server stored in the catalog instead of in every row, hence without a rewrite. Empty
    /// after a rewrite, which writes them out; a default of NULL has nothing to store.
    pub fast_defaults: Vec<String>,
    /// Whether the statement rewrote the clone, as it would the table.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rewritten: bool,
    /// What in its checks is not immutable: functions and other things, by constraint.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mutable: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeError {
    pub sqlstate: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl CatalogSnapshot {
    /// Foreign keys of any table, itself included, that reference this one: (referencing table, constraint name).
    pub fn incoming_foreign_keys(&self, table: &QualifiedName) -> Vec<(&QualifiedName, &str, &Constraint)> {
        let mut found = Vec::new();
        for (name, candidate) in &self.tables {
            for (constraint_name, constraint) in &candidate.constraints {
                if constraint
                    .references
                    .as_ref()
                    .is_some_and(|reference| &reference.table == table)
                {
                    found.push((name, constraint_name.as_str(), constraint));
                }
            }
        }
        found
    }

    /// The table that has an index of this name in this schema.
    pub fn index(&self, name: &QualifiedName) -> Option<(&QualifiedName, &Index)> {
        self.tables
            .range(QualifiedName::new(&name.schema, "")..)
            .take_while(|(table, _)| table.schema == name.schema)
            .find_map(|(table, value)| value.indexes.get(&name.name).map(|index| (table, index)))
    }

    /// The views that show the column, directly or through others, each after all of them that it reads.
    pub fn views_over(&self, table: &QualifiedName, column: &str) -> Vec<&QualifiedName> {
        self.views_over_any(&[(table.clone(), column.to_owned())])
    }

    /// As [`Self::views_over`], for any of the columns.
    pub fn views_over_any(&self, columns: &[(QualifiedName, String)]) -> Vec<&QualifiedName> {
        // All that read one, directly or not.
        let mut readers: BTreeMap<&QualifiedName, Vec<&QualifiedName>> = BTreeMap::new();
        for (name, view) in &self.views {
            for (used, _) in &view.uses {
                readers.entry(used).or_default().push(name);
            }
        }
        let direct = |view: &View| view.uses.iter().any(|used| columns.contains(used));
        let mut open: Vec<&QualifiedName> = self
            .views
            .iter()
            .filter(|(_, view)| direct(view))
            .map(|(name, _)| name)
            .collect();
        let mut reached: BTreeSet<&QualifiedName> = BTreeSet::new();
        while let Some(name) = open.pop() {
            if reached.insert(name) {
                open.extend(readers.get(name).into_iter().flatten());
            }
        }
        // How many of those that it reads are still to come; what waits for nobody comes next, by name.
        let mut waits: BTreeMap<&QualifiedName, usize> = BTreeMap::new();
        for &name in &reached {
            let uses: BTreeSet<&QualifiedName> = self.views[name].uses.iter().map(|(used, _)| used).collect();
            waits.insert(name, uses.intersection(&reached).count());
        }
        let mut ready: BTreeSet<&QualifiedName> =
            reached.iter().copied().filter(|name| waits[name] == 0).collect();
        let mut found = Vec::new();
        while let Some(name) = ready.pop_first() {
            found.push(name);
            let mut after = readers.get(name).cloned().unwrap_or_default();
            after.dedup();
            for reader in after {
                if let Some(left) = waits.get_mut(reader) {
                    *left -= 1;
                    if *left == 0 {
                        ready.insert(reader);
                    }
                }
            }
        }
        found
    }

    /// Whether a table, index, view, sequence or type holds the name; they share one namespace per schema.
    pub fn relation_exists(&self, name: &QualifiedName) -> bool {
        self.tables.contains_key(name)
            || self.views.contains_key(name)
            || self.sequences.contains_key(name)
            || self.index(name).is_some()
            || self
                .views
                .iter()
                .any(|(view, value)| view.schema == name.schema && value.indexes.contains_key(&name.name))
    }

    /// The names of everything for which [`Self::relation_exists`] holds.
    pub fn relation_names(&self) -> impl Iterator<Item = QualifiedName> {
        let of = |owner: &QualifiedName, indexes: &BTreeMap<String, Index>| {
            indexes
                .keys()
                .map(|name| owner.sibling(name.clone()))
                .collect::<Vec<_>>()
        };
        let tables = self.tables.iter();
        let views = self.views.iter();
        tables
            .flat_map(move |(name, table)| of(name, &table.indexes))
            .chain(views.flat_map(move |(name, view)| of(name, &view.indexes)))
            .chain(
                self.tables
                    .keys()
                    .chain(self.views.keys())
                    .chain(self.sequences.keys())
                    .cloned(),
            )
    }

    /// What the server said to this probe, if it was asked.
    pub fn answer(&self, probe: &Probe) -> Option<&Result<ProbeOutcome, ProbeError>> {
        self.answers
            .iter()
            .rev()
            .find(|answer| &answer.probe == probe)
            .map(|answer| &answer.outcome)
    }

    /// What the server said to this trial, if it was asked.
    pub fn tried(&self, trial: &Trial) -> Option<&Result<TrialOutcome, ProbeError>> {
        let answer = self.trials.iter().rev().find(|answer| &answer.trial == trial);
        answer.map(|answer| &answer.outcome)
    }

    /// The same snapshot with the named tables only: what a plan remembers.
    pub fn restricted_to(&self, names: &BTreeSet<QualifiedName>) -> Self {
        let owned = |sequence: &Sequence| {
            let owner = sequence.owned_by.as_ref();
            owner.is_some_and(|(table, _)| names.contains(table))
        };
        let schemas: BTreeSet<&String> = names.iter().map(|name| &name.schema).collect();
        // Only what is kept is copied: a plan is about few of a database's tables.
        let mut restricted = Self {
            format: self.format,
            database: self.database.clone(),
            server: self.server.clone(),
            role: self.role.clone(),
            schemas: kept(&self.schemas, |name, _| schemas.contains(name)),
            tables: kept(&self.tables, |name, _| names.contains(name)),
            views: BTreeMap::new(),
            sequences: kept(&self.sequences, |_, sequence| owned(sequence)),
            types: BTreeMap::new(),
            publications: BTreeMap::new(),
            replication: Replication::default(),
            not_volatile: BTreeSet::new(),
            functions: BTreeMap::new(),
            unpredicted: self.unpredicted.clone(),
            answers: Vec::new(),
            trials: Vec::new(),
            conditions: BTreeMap::new(),
        };
        for table in restricted.tables.values_mut() {
            table.size = TableSize::default();
        }
        // To which roles a superuser belongs changes with every role that anybody creates.
        let owners: BTreeSet<&String> = restricted.tables.values().map(|table| &table.owner).collect();
        restricted.role.member_of.retain(|role| owners.contains(role));
        restricted
    }

    /// What a later plan did to the same database, on top of this: its objects as they are after it.
    pub fn overlay(&mut self, before: &Self, after: &Self) {
        overlay(&mut self.schemas, &before.schemas, &after.schemas);
        overlay(&mut self.tables, &before.tables, &after.tables);
        overlay(&mut self.views, &before.views, &after.views);
        overlay(&mut self.sequences, &before.sequences, &after.sequences);
        overlay(&mut self.types, &before.types, &after.types);
        overlay(&mut self.publications, &before.publications, &after.publications);
        overlay(&mut self.functions, &before.functions, &after.functions);
        // What it found is known again.
        self.unpredicted
            .retain(|name| !before.tables.contains_key(name) && !after.tables.contains_key(name));
        self.unpredicted.extend(after.unpredicted.iter().cloned());
    }

    /// All leaves below a partitioned table, in name order; the table itself when it has no children.
    pub fn leaves(&self, name: &QualifiedName) -> Vec<QualifiedName> {
        let Some(table) = self.tables.get(name) else {
            return Vec::new();
        };
        if table.kind != TableKind::Partitioned {
            return vec![name.clone()];
        }
        let mut leaves = Vec::new();
        let mut open: Vec<&QualifiedName> = table.children.iter().rev().collect();
        while let Some(name) = open.pop() {
            match self.tables.get(name) {
                Some(table) if table.kind == TableKind::Partitioned => {
                    open.extend(table.children.iter().rev())
                }
                Some(_) => leaves.push(name.clone()),
                None => {}
            }
        }
        leaves
    }

    /// The table and everything below it, each once, parents before children.
    pub fn tree(&self, name: &QualifiedName) -> Vec<QualifiedName> {
        let mut names = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            // A table may inherit from two that inherit from one.
            if seen.insert(name) {
                names.push(name.clone());
                let table = self.tables.get(name);
                open.extend(table.iter().flat_map(|table| table.children.iter().rev()));
            }
        }
        names
    }
}

fn kept<K: Ord + Clone, V: Clone>(map: &BTreeMap<K, V>, keep: impl Fn(&K, &V) -> bool) -> BTreeMap<K, V> {
    let entries = map.iter().filter(|(key, value)| keep(key, value));
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn overlay<K: Ord + Clone, V: Clone>(
    map: &mut BTreeMap<K, V>,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) {
    map.retain(|key, _| !before.contains_key(key) || after.contains_key(key));
    map.extend(after.iter().map(|(key, value)| (key.clone(), value.clone())));
}

impl Table {
    /// An ordinary table without columns or anything else.
    pub fn empty(owner: &str) -> Self {
        Self {
            kind: TableKind::Table,
            owner: owner.to_owned(),
            persistence: Persistence::Permanent,
            tablespace: None,
            options: Vec::new(),
            comment: None,
            row_security: false,
            force_row_security: false,
            replica_identity: ReplicaIdentity::Default,
            of_type: None,
            extension: None,
            row_type_used_by: Vec::new(),
            partition_key: None,
            partition_key_columns: Vec::new(),
            partition_of: None,
            partition_bound: None,
            inherits: Vec::new(),
            children: Vec::new(),
            columns: Vec::new(),
            indexes: BTreeMap::new(),
            constraints: BTreeMap::new(),
            triggers: BTreeMap::new(),
            rules: BTreeMap::new(),
            policies: BTreeMap::new(),
            statistics: BTreeMap::new(),
            publications: BTreeMap::new(),
            grants: Vec::new(),
            dependents: Vec::new(),
            size: TableSize::default(),
        }
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub fn column_mut(&mut self, name: &str) -> Option<&mut Column> {
        self.columns.iter_mut().find(|column| column.name == name)
    }

    pub fn column_names(&self) -> Vec<&str> {
        self.columns.iter().map(|column| column.name.as_str()).collect()
    }

    pub fn primary_key(&self) -> Option<(&str, &Constraint)> {
        self.constraints
            .iter()
            .find(|(_, constraint)| constraint.kind == ConstraintKind::PrimaryKey)
            .map(|(name, constraint)| (name.as_str(), constraint))
    }

    /// Columns that tell an offending row: the primary key, else the first unique index on columns that are never
    /// null, else the physical address.
    pub fn key_columns(&self) -> Vec<String> {
        if let Some((_, key)) = self.primary_key() {
            return key.columns.clone();
        }
        let never_null = |name: &str| self.column(name).is_some_and(|column| column.not_null);
        self.indexes
            .values()
            .filter(|index| index.unique && index.valid && index.predicate.is_none())
            .filter_map(|index| {
                index
                    .keys
                    .iter()
                    .map(|key| key.column.clone())
                    .collect::<Option<Vec<_>>>()
            })
            .find(|columns| columns.iter().all(|column| never_null(column)))
            .unwrap_or_default()
    }
}

impl View {
    /// With nothing but its query.
    pub fn new(owner: &str, query: &str, materialized: bool) -> Self {
        Self {
            materialized,
            owner: owner.to_owned(),
            definition: query.to_owned(),
            options: Vec::new(),
            comment: None,
            grants: Vec::new(),
            uses: Vec::new(),
            attachments: Vec::new(),
            columns: Vec::new(),
            triggers: BTreeMap::new(),
            rules: BTreeMap::new(),
            keys: Vec::new(),
            populated: true,
            method: None,
            tablespace: None,
            indexes: BTreeMap::new(),
        }
    }
}

impl Index {
    /// A valid btree on plain columns.
    pub fn plain<S: AsRef<str>>(columns: &[S], unique: bool) -> Self {
        let key = |column: &S| IndexKey {
            column: Some(column.as_ref().to_owned()),
            expression: None,
            opclass: None,
            collation: None,
            descending: false,
            nulls_first: false,
        };
        Self {
            method: "btree".into(),
            unique,
            nulls_not_distinct: false,
            keys: columns.iter().map(key).collect(),
            include: Vec::new(),
            predicate: None,
            options: Vec::new(),
            tablespace: None,
            valid: true,
            replica_identity: false,
            clustered: false,
            constraint: None,
            parent: None,
            comment: None,
            expression_columns: Vec::new(),
            statistics_targets: Vec::new(),
        }
    }

    /// What gives an index of this name the targets, which a new one does not have.
    pub fn set_statistics(&self, name: &QualifiedName) -> impl Iterator<Item = String> {
        let targets = self.statistics_targets.iter();
        targets.map(move |(key, target)| {
            format!("ALTER INDEX {name} ALTER COLUMN {key} SET STATISTICS {target}")
        })
    }

    /// Columns that the index mentions anywhere: keys, INCLUDE, expressions, predicate.
    pub fn mentions(&self, column: &str) -> bool {
        self.keys.iter().any(|key| key.column.as_deref() == Some(column))
            || self.include.iter().any(|name| name == column)
            || self.expression_columns.iter().any(|name| name == column)
    }

    /// Whether the two are defined alike, whatever their names, validity, marks and comments.
    pub fn same_definition(&self, other: &Self) -> bool {
        self.method == other.method
            && self.unique == other.unique
            && self.nulls_not_distinct == other.nulls_not_distinct
            && self.keys == other.keys
            && self.include == other.include
            && self.predicate == other.predicate
            && self.options == other.options
            && self.tablespace == other.tablespace
    }

    /// As [`Index::same_definition`], but blind to the texts that only the server can normalise.
    pub fn similar_definition(&self, other: &Self) -> bool {
        self.method == other.method
            && self.unique == other.unique
            && self.predicate.is_some() == other.predicate.is_some()
            && self.include == other.include
            && self.keys.len() == other.keys.len()
            && self.keys.iter().zip(&other.keys).all(|(a, b)| {
                a.column == b.column && a.descending == b.descending && a.nulls_first == b.nulls_first
            })
    }
}
