//! Reads the catalog of a database into a [`CatalogSnapshot`], in a fixed number of queries.

mod error;
mod made;
mod mutable;
mod objects;
mod queries;
mod reader;

pub use error::{LoadError, LoadErrorKind};
pub(super) use made::made;
pub use made::texts;
pub(super) use mutable::MUTABLE;

use super::model::{
    CatalogSnapshot, ParsedFunction, Publication, Replication, Role, SNAPSHOT_FORMAT, Schema, Sequence,
    Server, Table, UserType, View,
};
use crate::release;
use crate::sql::QualifiedName;
use reader::{Reader, complete, load_shape, load_tables, qualified};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use tokio::try_join;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, SimpleQueryMessage};

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
struct Bracket {
    major: u32,
    nested: bool,
}

impl Bracket {
    async fn open(client: &Client) -> Result<Self, LoadError> {
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

    async fn close(self, client: &Client) -> Result<(), LoadError> {
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
    if release::standing(version_num) != release::Standing::Older {
        return Ok(version_num / 10_000);
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

#[derive(Deserialize)]
struct Database {
    database: String,
    server: Server,
    role: Role,
    not_volatile: BTreeSet<QualifiedName>,
}

async fn everything(client: &Client) -> Result<CatalogSnapshot, LoadError> {
    let (_, version_num) = situation(client).await?;
    let major = supported_major(version_num)?;
    let read = Box::pin(everything_of(client, major)).await;
    read.map_err(|error| error.of_release(version_num))
}

async fn everything_of(client: &Client, major: u32) -> Result<CatalogSnapshot, LoadError> {
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
    let (tables, schemas, mut views, mut sequences, types, mut publications, replication, functions) = try_join!(
        // The first to fail is the one that tells why: the server answers in this order.
        biased;
        load_tables(&reader),
        reader.map::<Schema>("schemas", objects::SCHEMAS),
        reader.read::<View>("views", objects::VIEWS),
        reader.named::<Sequence>("sequences", objects::SEQUENCES),
        reader.named::<UserType>("types", objects::TYPES),
        reader.map::<Publication>("publications", objects::PUBLICATIONS),
        reader.read::<Replication>("replication", objects::REPLICATION),
        reader.map::<ParsedFunction>("functions", objects::FUNCTIONS),
    )?;
    let (tables, mut parts) = tables;
    for view in &mut views {
        complete(&mut view.value, parts.remove(&view.owner).unwrap_or_default());
    }
    for sequence in sequences.values_mut() {
        sequence.grants.sort();
    }
    for publication in publications.values_mut() {
        publication.schemas.sort();
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
        replication: replication
            .into_iter()
            .next()
            .map(|it| it.value)
            .unwrap_or_default(),
        functions,
        not_volatile: database.not_volatile,
        unpredicted: BTreeSet::new(),
        answers: Vec::new(),
        trials: Vec::new(),
        conditions: BTreeMap::new(),
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

/// One relation by OID with its columns, indexes and constraints only; otherwise as [`tables`].
pub(super) async fn shape(client: &Client, oid: u32) -> Result<Option<Table>, LoadError> {
    let bracket = Bracket::open(client).await?;
    let scope = Some(vec![oid]);
    let reader = Reader {
        client,
        major: bracket.major,
        scope: &scope,
    };
    let result = load_shape(&reader).await;
    let closed = bracket.close(client).await;
    let table = result?;
    closed.map(|()| table)
}
