//! Reads the catalog of a database into a [`CatalogSnapshot`], in a fixed number of queries.

mod objects;
mod queries;

use super::model::{
    CatalogSnapshot, Column, Constraint, Dependent, ExtendedStatistics, Index, Policy, Publication, Role,
    Rule, SNAPSHOT_FORMAT, Schema, Sequence, Server, Table, TableSize, Trigger, UserType, View,
};
use crate::sql::QualifiedName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use tokio::try_join;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, GenericClient, SimpleQueryMessage};

/// The oldest release whose catalog we can read.
const MAJOR_MIN: u32 = 14;

/// How often a snapshot is taken again when objects went away under it.
const ATTEMPTS: usize = 3;

/// Names resolve in `pg_catalog` only, so that every other name in a text is printed with its schema, and a
/// temporary table cannot pose as a catalog.
const SEARCH_PATH: &str = "SET LOCAL search_path = pg_catalog, pg_temp";

/// What changes the spelling of a constant or a name in the texts is fixed; `jit` only costs time here.
const SPELLING: &str = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL quote_all_identifiers = off;
SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = postgres; SET LOCAL TimeZone = 'UTC';
SET LOCAL bytea_output = hex; SET LOCAL extra_float_digits = 1; SET LOCAL xmloption = content;
SET LOCAL jit = off";

/// Whether a transaction block is open: it began before this statement. Asked by the simple protocol, where a
/// statement of its own starts its transaction at its own time; the extended one reads the clock several times.
const SITUATION: &str = "SELECT pg_catalog.now() <> pg_catalog.statement_timestamp(),
pg_catalog.current_setting('server_version_num')";

/// Why the catalog could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadErrorKind {
    /// The connection failed or was closed.
    Connection,
    /// The role may not read it.
    Denied,
    /// A lock or the statement took too long: something holds ACCESS EXCLUSIVE on a table.
    TimedOut,
    /// The server is older than the oldest supported release.
    Unsupported,
    /// Objects went away, or changed, while they were read.
    Changed,
    /// Any other answer of the server.
    Server,
}

impl fmt::Display for LoadErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "the connection failed",
            Self::Denied => "the role may not",
            Self::TimedOut => "it took too long; a lock may be held on a table",
            Self::Unsupported => "the server is older than PostgreSQL 14",
            Self::Changed => "objects changed meanwhile",
            Self::Server => "the server refused",
        })
    }
}

/// The catalog could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {subject}: {kind}")]
pub struct LoadError {
    pub kind: LoadErrorKind,
    /// What was being read.
    pub subject: &'static str,
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl LoadError {
    pub(super) fn server(subject: &'static str, error: tokio_postgres::Error) -> Self {
        let kind = match error.code() {
            None => LoadErrorKind::Connection,
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => LoadErrorKind::Denied,
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::QUERY_CANCELED => {
                LoadErrorKind::TimedOut
            }
            Some(code)
                if [
                    SqlState::INTERNAL_ERROR,
                    SqlState::UNDEFINED_TABLE,
                    SqlState::UNDEFINED_OBJECT,
                    SqlState::UNDEFINED_COLUMN,
                    SqlState::UNDEFINED_FUNCTION,
                ]
                .contains(code) =>
            {
                LoadErrorKind::Changed
            }
            Some(code) if code.code().starts_with("08") || code.code().starts_with("57P") => {
                LoadErrorKind::Connection
            }
            Some(_) => LoadErrorKind::Server,
        };
        Self {
            kind,
            subject,
            source: Some(Box::new(error)),
        }
    }

    /// The server's error code, where the server answered at all.
    pub fn sqlstate(&self) -> Option<&str> {
        let error = self.source.as_ref()?.downcast_ref::<tokio_postgres::Error>()?;
        error.code().map(SqlState::code)
    }
}

/// The whole database as one consistent picture, without system schemas and our own.
///
/// Opens a read-only transaction of its own and ends it; the client must not be in one. When the future is dropped
/// before it is done, that transaction stays open: drop the client too.
///
/// # Errors
/// See [`LoadErrorKind`].
pub async fn snapshot(client: &Client) -> Result<CatalogSnapshot, LoadError> {
    let mut attempt = 1;
    loop {
        match snapshot_once(client).await {
            Err(error) if error.kind == LoadErrorKind::Changed && attempt < ATTEMPTS => {
                tracing::debug!(
                    attempt,
                    subject = error.subject,
                    "the catalog changed while it was read"
                );
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn snapshot_once(client: &Client) -> Result<CatalogSnapshot, LoadError> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '60s';
         SET LOCAL lock_timeout = '1s'; {SEARCH_PATH}"
    );
    batch(client, "the session", &begin).await?;
    let result = Box::pin(everything(client)).await;
    // After a success there is nothing to keep either; a failure to roll back means that the connection is gone.
    let ended = batch(client, "the session", "ROLLBACK").await;
    let snapshot = result?;
    ended.map(|()| snapshot)
}

/// These tables, as [`snapshot`] would show them, without those that do not exist.
///
/// Works inside an open transaction, whose uncommitted changes it sees, and leaves it as it was, settings and
/// failures included (it runs under a savepoint); without one it opens and ends its own.
///
/// # Errors
/// See [`LoadErrorKind`].
pub async fn tables(
    client: &impl GenericClient,
    names: &[QualifiedName],
) -> Result<BTreeMap<QualifiedName, Table>, LoadError> {
    let client = client.client();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let bracket = Bracket::open(client).await?;
    let result = Box::pin(named_tables(client, bracket.major, names)).await;
    let closed = bracket.close(client).await;
    let tables = result?;
    closed.map(|()| tables)
}

/// A savepoint in the caller's transaction or, where there is none, a transaction of our own; with the settings
/// that make texts deterministic, which end with it.
pub(super) struct Bracket {
    pub major: u32,
    nested: bool,
}

impl Bracket {
    pub async fn open(client: &Client) -> Result<Self, LoadError> {
        let (nested, version) = situation(client).await?;
        let bracket = Self {
            major: supported_major(version)?,
            nested,
        };
        let start = if nested {
            "SAVEPOINT pgmorph_catalog; SET LOCAL lock_timeout = '200ms'"
        } else {
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '1s'"
        };
        let sql = format!("{start}; SET LOCAL statement_timeout = '60s'; {SPELLING}");
        batch(client, "the session", &sql).await?;
        Ok(bracket)
    }

    pub async fn close(self, client: &Client) -> Result<(), LoadError> {
        let sql = if self.nested {
            "ROLLBACK TO SAVEPOINT pgmorph_catalog; RELEASE SAVEPOINT pgmorph_catalog"
        } else {
            "ROLLBACK"
        };
        batch(client, "the session", sql).await
    }
}

async fn situation(client: &Client) -> Result<(bool, u32), LoadError> {
    let messages = client
        .simple_query(SITUATION)
        .await
        .map_err(|error| LoadError::server("the session", error))?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)? == "t", row.get(1)?.parse().ok()?)),
        _ => None,
    });
    row.ok_or(LoadError {
        kind: LoadErrorKind::Server,
        subject: "the session",
        source: None,
    })
}

fn supported_major(version_num: u32) -> Result<u32, LoadError> {
    let major = version_num / 10_000;
    if major >= MAJOR_MIN {
        return Ok(major);
    }
    Err(LoadError {
        kind: LoadErrorKind::Unsupported,
        subject: "the catalog",
        source: None,
    })
}

pub(super) async fn batch(client: &Client, subject: &'static str, sql: &str) -> Result<(), LoadError> {
    client
        .batch_execute(sql)
        .await
        .map_err(|error| LoadError::server(subject, error))
}

/// One value of the model with the OID of the relation that it belongs to and its key there.
struct Entry<T> {
    owner: u32,
    key: String,
    value: T,
}

/// Which relations a query is about: `None` is all of the user's.
type Scope = Option<Vec<u32>>;

/// Sends queries of the common shape and reads their rows.
struct Reader<'a> {
    client: &'a Client,
    major: u32,
    scope: &'a Scope,
}

impl Reader<'_> {
    async fn read<T: DeserializeOwned>(
        &self,
        subject: &'static str,
        sql: &str,
    ) -> Result<Vec<Entry<T>>, LoadError> {
        let sql = queries::for_release(sql, self.major);
        let scope: &(dyn ToSql + Sync) = self.scope;
        let parameters: &[_] = if sql.contains("$1") {
            &[(scope, Type::OID_ARRAY)]
        } else {
            &[]
        };
        let rows = self
            .client
            .query_typed(&sql, parameters)
            .await
            .map_err(|error| LoadError::server(subject, error))?;
        let mut entries = Vec::with_capacity(rows.len());
        for row in rows {
            // A text is NULL where its object went away, which the model does not allow.
            let value = serde_json::from_str(row.get(2)).map_err(|error| LoadError {
                kind: LoadErrorKind::Changed,
                subject,
                source: Some(Box::new(error)),
            })?;
            entries.push(Entry {
                owner: row.get(0),
                key: row.get(1),
                value,
            });
        }
        Ok(entries)
    }

    /// As [`Reader::read`], by key.
    async fn map<T: DeserializeOwned>(
        &self,
        subject: &'static str,
        sql: &str,
    ) -> Result<BTreeMap<String, T>, LoadError> {
        let entries = self.read(subject, sql).await?;
        Ok(entries
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect())
    }

    /// As [`Reader::map`], by qualified name.
    async fn named<T: DeserializeOwned>(
        &self,
        subject: &'static str,
        sql: &str,
    ) -> Result<BTreeMap<QualifiedName, T>, LoadError> {
        let entries: BTreeMap<String, T> = self.map(subject, sql).await?;
        entries
            .into_iter()
            .map(|(key, value)| Ok((qualified(subject, &key)?, value)))
            .collect()
    }
}

fn qualified(subject: &'static str, key: &str) -> Result<QualifiedName, LoadError> {
    key.parse().map_err(|reason: String| LoadError {
        kind: LoadErrorKind::Server,
        subject,
        source: Some(reason.into()),
    })
}

#[derive(Deserialize)]
struct Database {
    database: String,
    server: Server,
    role: Role,
}

async fn everything(client: &Client) -> Result<CatalogSnapshot, LoadError> {
    let (_, version_num) = situation(client).await?;
    let major = supported_major(version_num)?;
    let reader = Reader {
        client,
        major,
        scope: &None,
    };
    let database = reader.read::<Database>("the server", objects::DATABASE).await?;
    let mut database = database
        .into_iter()
        .next()
        .map(|entry| entry.value)
        .ok_or(LoadError {
            kind: LoadErrorKind::Server,
            subject: "the role",
            source: None,
        })?;
    database.role.member_of.sort();
    batch(client, "the session", SPELLING).await?;
    let (tables, schemas, mut views, mut sequences, types, mut publications) = try_join!(
        load_tables(&reader),
        reader.map::<Schema>("schemas", objects::SCHEMAS),
        reader.read::<View>("views", objects::VIEWS),
        reader.named::<Sequence>("sequences", objects::SEQUENCES),
        reader.named::<UserType>("types", objects::TYPES),
        reader.map::<Publication>("publications", objects::PUBLICATIONS),
    )?;
    let (tables, mut indexes) = tables;
    for view in &mut views {
        view.value.options.sort();
        view.value.grants.sort();
        view.value.uses.sort();
        view.value.indexes = indexes.remove(&view.owner).unwrap_or_default();
    }
    for sequence in sequences.values_mut() {
        sequence.grants.sort();
    }
    for publication in publications.values_mut() {
        publication.schemas.sort();
        publication.tables.sort_by(|a, b| a.table.cmp(&b.table));
    }
    Ok(CatalogSnapshot {
        format: SNAPSHOT_FORMAT,
        database: database.database,
        server: database.server,
        role: database.role,
        schemas,
        tables,
        views: views
            .into_iter()
            .map(|entry| Ok((qualified("views", &entry.key)?, entry.value)))
            .collect::<Result<_, LoadError>>()?,
        sequences,
        types,
        publications,
        answers: Vec::new(),
    })
}

async fn named_tables(
    client: &Client,
    major: u32,
    names: &[QualifiedName],
) -> Result<BTreeMap<QualifiedName, Table>, LoadError> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let relations: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let rows = client
        .query_typed(
            queries::OIDS,
            &[(&schemas, Type::TEXT_ARRAY), (&relations, Type::TEXT_ARRAY)],
        )
        .await
        .map_err(|error| LoadError::server("table names", error))?;
    if rows.is_empty() {
        return Ok(BTreeMap::new());
    }
    let scope = Some(rows.iter().map(|row| row.get(0)).collect());
    let reader = Reader {
        client,
        major,
        scope: &scope,
    };
    Ok(load_tables(&reader).await?.0)
}

/// Tables by name, and the indexes of everything else (materialized views) by OID.
type Loaded = (
    BTreeMap<QualifiedName, Table>,
    HashMap<u32, BTreeMap<String, Index>>,
);

/// Sends all queries at once, so that a distant server costs one round trip.
async fn load_tables(reader: &Reader<'_>) -> Result<Loaded, LoadError> {
    let (tables, columns, indexes, constraints, triggers, rules, policies, statistics, dependents) = try_join!(
        reader.read::<Table>("tables", queries::TABLES),
        reader.read::<Column>("columns", queries::COLUMNS),
        reader.read::<Index>("indexes", queries::INDEXES),
        reader.read::<Constraint>("constraints", queries::CONSTRAINTS),
        reader.read::<Trigger>("triggers", queries::TRIGGERS),
        reader.read::<Rule>("rules", queries::RULES),
        reader.read::<Policy>("policies", queries::POLICIES),
        reader.read::<ExtendedStatistics>("statistics", queries::STATISTICS),
        reader.read::<Dependent>("dependents", queries::DEPENDENTS),
    )?;
    let mut by_oid: HashMap<u32, (QualifiedName, Table)> = HashMap::with_capacity(tables.len());
    for entry in tables {
        by_oid.insert(entry.owner, (qualified("tables", &entry.key)?, entry.value));
    }
    put(&mut by_oid, columns, |table, _, column| {
        table.columns.push(column)
    });
    let others = put(&mut by_oid, indexes, |table, key, index| {
        table.indexes.insert(key, index);
    });
    put(&mut by_oid, constraints, |table, key, constraint| {
        table.constraints.insert(key, constraint);
    });
    put(&mut by_oid, triggers, |table, key, trigger| {
        table.triggers.insert(key, trigger);
    });
    put(&mut by_oid, rules, |table, key, rule| {
        table.rules.insert(key, rule);
    });
    put(&mut by_oid, policies, |table, key, policy| {
        table.policies.insert(key, policy);
    });
    for entry in statistics {
        let name = qualified("statistics", &entry.key)?;
        if let Some((_, table)) = by_oid.get_mut(&entry.owner) {
            table.statistics.insert(name, entry.value);
        }
    }
    put(&mut by_oid, dependents, |table, _, dependent| {
        table.dependents.push(dependent);
    });
    let mut view_indexes: HashMap<u32, BTreeMap<String, Index>> = HashMap::new();
    for mut entry in others {
        entry.value.options.sort();
        let indexes = view_indexes.entry(entry.owner).or_default();
        indexes.insert(entry.key, entry.value);
    }
    let tables = by_oid.into_values().map(|(name, mut table)| {
        sort(&mut table);
        (name, table)
    });
    Ok((tables.collect(), view_indexes))
}

/// Hands each entry to its table and returns those that belong to none.
fn put<T>(
    tables: &mut HashMap<u32, (QualifiedName, Table)>,
    entries: Vec<Entry<T>>,
    place: impl Fn(&mut Table, String, T),
) -> Vec<Entry<T>> {
    let mut others = Vec::new();
    for entry in entries {
        match tables.get_mut(&entry.owner) {
            Some((_, table)) => place(table, entry.key, entry.value),
            None => others.push(entry),
        }
    }
    others
}

/// Sorted here rather than in SQL, whose order depends on the collation of the database.
fn sort(table: &mut Table) {
    table.options.sort();
    table.row_type_used_by.sort();
    table.children.sort();
    table.grants.sort();
    table.dependents.sort();
    table.dependents.dedup();
    for column in &mut table.columns {
        column.options.sort();
        column.grants.sort();
    }
    for index in table.indexes.values_mut() {
        index.options.sort();
    }
    for policy in table.policies.values_mut() {
        policy.roles.sort();
    }
}

/// Columns, indexes and constraints of one relation; nothing else of it is filled.
pub(super) async fn shape(client: &Client, oid: u32) -> Result<Option<Table>, LoadError> {
    let bracket = Bracket::open(client).await?;
    let scope = Some(vec![oid]);
    let reader = Reader {
        client,
        major: bracket.major,
        scope: &scope,
    };
    let result = try_join!(
        reader.read::<Table>("the clone", queries::TABLES),
        reader.read::<Column>("the clone's columns", queries::COLUMNS),
        reader.read::<Index>("the clone's indexes", queries::INDEXES),
        reader.read::<Constraint>("the clone's constraints", queries::CONSTRAINTS),
    );
    let closed = bracket.close(client).await;
    let (tables, columns, indexes, constraints) = result?;
    closed?;
    Ok(tables.into_iter().next().map(|entry| {
        let mut table = entry.value;
        table.columns = columns.into_iter().map(|entry| entry.value).collect();
        table.indexes = indexes
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect();
        table.constraints = constraints
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect();
        table.size = TableSize::default();
        sort(&mut table);
        table
    }))
}
