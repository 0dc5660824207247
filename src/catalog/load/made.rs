//! What a trial made, as a snapshot would show it.

use super::error::LoadError;
use super::reader::{Reader, complete, load_tables, qualified};
use super::{Bracket, objects};
use crate::catalog::model::{Sequence, Trial, TrialOutcome, UserType, View};
use crate::sql::QualifiedName;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

const SUBJECT: &str = "what a trial made";

const RELATIONS: &str = "SELECT c.oid FROM unnest($1::text[], $2::text[]) AS w (schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name";

/// The sequences of columns.
const RELATED: &str = "SELECT s.objid FROM pg_depend s
WHERE s.classid = 'pg_class'::regclass AND s.refclassid = 'pg_class'::regclass AND s.refobjid = ANY ($1)
  AND s.deptype IN ('a', 'i') AND s.refobjsubid > 0";

const TYPE_OIDS: &str = "SELECT t.oid FROM unnest($1::text[], $2::text[]) AS w (schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = w.name";

/// The texts are not filled. Works inside an open transaction and leaves it as it was.
pub async fn made(client: &Client, trial: &Trial) -> Result<TrialOutcome, LoadError> {
    let bracket = Bracket::open(client).await?;
    let result = Box::pin(shown(client, bracket.major, trial)).await;
    let closed = bracket.close(client).await;
    let outcome = result?;
    closed.map(|()| outcome)
}

/// What each query answers: one text, or nothing. Names are printed with their schemas. Works inside an open transaction
/// and leaves it as it was; without one it opens and ends its own.
///
/// # Errors
/// See [`super::LoadErrorKind`]; a query that the server refuses too.
pub async fn texts(client: &Client, queries: &[String]) -> Result<Vec<Option<String>>, LoadError> {
    if queries.is_empty() {
        return Ok(Vec::new());
    }
    let bracket = Bracket::open(client).await?;
    let result = asked(client, queries).await;
    let closed = bracket.close(client).await;
    let texts = result?;
    closed.map(|()| texts)
}

async fn asked(client: &Client, queries: &[String]) -> Result<Vec<Option<String>>, LoadError> {
    let mut texts = Vec::with_capacity(queries.len());
    for query in queries {
        let rows = client.query_typed(query, &[]).await;
        let rows = rows.map_err(|error| LoadError::server(SUBJECT, error))?;
        texts.push(rows.first().and_then(|row| row.get(0)));
    }
    Ok(texts)
}

async fn shown(client: &Client, major: u32, trial: &Trial) -> Result<TrialOutcome, LoadError> {
    let mut outcome = TrialOutcome::default();
    let relations: Vec<QualifiedName> = trial.tables.iter().chain(&trial.views).cloned().collect();
    if !relations.is_empty() {
        let mut oids = named(client, RELATIONS, &relations).await?;
        let related = client.query_typed(RELATED, &[(&oids, Type::OID_ARRAY)]).await;
        let related = related.map_err(|error| LoadError::server(SUBJECT, error))?;
        oids.extend(related.iter().map(|row| row.get::<_, u32>(0)));
        let scope = Some(oids);
        let reader = Reader {
            client,
            major,
            scope: &scope,
        };
        let (tables, mut parts) = load_tables(&reader).await?;
        outcome.tables = tables;
        for table in outcome.tables.values_mut() {
            table.size = crate::catalog::model::TableSize::default();
        }
        outcome.sequences = reader.named::<Sequence>(SUBJECT, objects::SEQUENCES).await?;
        for mut entry in reader.read::<View>(SUBJECT, objects::VIEWS).await? {
            complete(&mut entry.value, parts.remove(&entry.owner).unwrap_or_default());
            outcome.views.insert(qualified(SUBJECT, &entry.key)?, entry.value);
        }
    }
    if !trial.types.is_empty() {
        let scope = Some(named(client, TYPE_OIDS, &trial.types).await?);
        let reader = Reader {
            client,
            major,
            scope: &scope,
        };
        outcome.types = reader.named::<UserType>(SUBJECT, objects::TYPES).await?;
    }
    Ok(outcome)
}

async fn named(client: &Client, query: &str, names: &[QualifiedName]) -> Result<Vec<u32>, LoadError> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let names: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let parameters: &[_] = &[(&schemas as _, Type::TEXT_ARRAY), (&names as _, Type::TEXT_ARRAY)];
    let rows = client.query_typed(query, parameters).await;
    let rows = rows.map_err(|error| LoadError::server(SUBJECT, error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
