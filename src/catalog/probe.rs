//! Asks the server what it makes of definitions, on empty temporary clones in a transaction that is rolled back.

use super::load::{self, LoadError, LoadErrorKind};
use super::model::{CatalogSnapshot, Probe, ProbeAnswer, ProbeError, ProbeOutcome};
use crate::sql::{QualifiedName, ident};
use std::collections::BTreeMap;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// Tries the probes in their order and appends the server's answers to `snapshot.answers`. What a probe changed
/// stays for those after it; of one that failed nothing stays.
///
/// Touches the real tables with ACCESS SHARE only, unless a probe explains a write to one (ROW EXCLUSIVE), and leaves
/// nothing behind. The statements run under the session's
/// own `search_path`, because a plan's expressions may rely on it. The client must not be in a transaction.
///
/// Where clones are impossible (a standby, no TEMP privilege, a table that the role may not read) the answers stay
/// as they are: planning goes on without them, as it does offline.
///
/// # Errors
/// The connection failed, or a table stayed locked. A refused definition is an answer, not an error.
pub async fn ask(client: &Client, snapshot: &mut CatalogSnapshot, probes: &[Probe]) -> Result<(), LoadError> {
    if probes.is_empty() || snapshot.server.read_only {
        return Ok(());
    }
    load::batch(
        client,
        "the session",
        "BEGIN; SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '10s'",
    )
    .await?;
    let answers = Box::pin(answers(client, snapshot, probes)).await;
    let ended = load::batch(client, "the session", "ROLLBACK").await;
    match answers {
        Ok(answers) => {
            ended?;
            snapshot.answers.extend(answers);
            Ok(())
        }
        Err(error) if impossible(&error) => {
            tracing::debug!(subject = error.subject, kind = %error.kind, "planning without asking the server");
            ended
        }
        Err(error) => Err(error),
    }
}

fn impossible(error: &LoadError) -> bool {
    error.kind == LoadErrorKind::Denied
        || error.sqlstate() == Some(SqlState::READ_ONLY_SQL_TRANSACTION.code())
}

/// A temporary table with the columns of a real one.
struct Copied {
    /// Its name while nothing is tried on it: tables of several schemas may share theirs.
    at_rest: String,
    oid: u32,
}

async fn answers(
    client: &Client,
    snapshot: &CatalogSnapshot,
    probes: &[Probe],
) -> Result<Vec<ProbeAnswer>, LoadError> {
    let mut clones: BTreeMap<&QualifiedName, Copied> = BTreeMap::new();
    for probe in probes {
        if snapshot.tables.contains_key(&probe.table) && !clones.contains_key(&probe.table) {
            let name = format!("pgmorph_clone_{}", clones.len());
            let clone = create_clone(client, &probe.table, name).await?;
            clones.insert(&probe.table, clone);
        }
    }
    let mut answers = Vec::with_capacity(probes.len());
    for probe in probes {
        let outcome = match clones.get(&probe.table) {
            Some(clone) => attempt(client, clone, probe).await?,
            None => Err(ProbeError {
                sqlstate: SqlState::UNDEFINED_TABLE.code().to_owned(),
                message: format!("table {} does not exist", probe.table),
                hint: None,
            }),
        };
        answers.push(ProbeAnswer {
            probe: probe.clone(),
            outcome,
        });
    }
    Ok(answers)
}

async fn create_clone(client: &Client, table: &QualifiedName, name: String) -> Result<Copied, LoadError> {
    const SUBJECT: &str = "a temporary clone";
    let sql = format!(
        "CREATE TEMPORARY TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING STORAGE \
         INCLUDING COMPRESSION)"
    );
    load::batch(client, SUBJECT, &sql).await?;
    let row = client
        .query_typed_one(
            "SELECT c.oid FROM pg_catalog.pg_class c
             WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relname::pg_catalog.text = $1",
            &[(&name, Type::TEXT)],
        )
        .await
        .map_err(|error| LoadError::server(SUBJECT, error))?;
    Ok(Copied {
        at_rest: name,
        oid: row.get(0),
    })
}

/// For its statement the clone has the table's own name: an expression may spell a column `table.column`, and
/// the server derives names from it.
async fn attempt(
    client: &Client,
    clone: &Copied,
    probe: &Probe,
) -> Result<Result<ProbeOutcome, ProbeError>, LoadError> {
    const SUBJECT: &str = "a probe";
    let (_, file_before) = storage(client, clone.oid).await?;
    let (at_rest, name) = (&clone.at_rest, ident(&probe.table.name));
    let start = format!("SAVEPOINT pgmorph_probe; ALTER TABLE pg_temp.{at_rest} RENAME TO {name}");
    load::batch(client, SUBJECT, &start).await?;
    let sql = format!("{}pg_temp.{name}{}", probe.before, probe.after);
    // The extended protocol takes one statement only, so that no text in a plan can end the transaction.
    let mut tried = client.execute_typed(&sql, &[]).await.map(drop);
    if tried.is_ok() {
        let end = format!("ALTER TABLE pg_temp.{name} RENAME TO {at_rest}; RELEASE SAVEPOINT pgmorph_probe");
        tried = client.batch_execute(&end).await;
    }
    if let Err(error) = tried {
        let Some(answer) = error.as_db_error() else {
            return Err(LoadError::server(SUBJECT, error));
        };
        let answer = ProbeError {
            sqlstate: answer.code().code().to_owned(),
            message: answer.message().to_owned(),
            hint: answer.hint().map(str::to_owned),
        };
        let undo = "ROLLBACK TO SAVEPOINT pgmorph_probe; RELEASE SAVEPOINT pgmorph_probe";
        load::batch(client, SUBJECT, undo).await?;
        return Ok(Err(answer));
    }
    let table = load::shape(client, clone.oid).await?;
    let mut table = table.ok_or(LoadError {
        kind: LoadErrorKind::Changed,
        subject: SUBJECT,
        source: None,
    })?;
    for column in &mut table.columns {
        // The sequence that came with it is a temporary one; the table's will be beside the table.
        if let Some(identity) = &mut column.identity {
            identity.sequence.schema.clone_from(&probe.table.schema);
        }
    }
    let (fast_defaults, file) = storage(client, clone.oid).await?;
    Ok(Ok(ProbeOutcome {
        table,
        fast_defaults,
        rewritten: file != file_before,
        mutable: mutable(client, clone.oid).await?,
    }))
}

async fn mutable(client: &Client, oid: u32) -> Result<BTreeMap<String, Vec<String>>, LoadError> {
    let rows = client.query_typed(load::MUTABLE, &[(&oid, Type::OID)]).await;
    let rows = rows.map_err(|error| LoadError::server("a clone's expressions", error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The columns whose default is kept in the catalog, and the file of the table.
async fn storage(client: &Client, oid: u32) -> Result<(Vec<String>, Option<u32>), LoadError> {
    let row = client
        .query_typed_one(
            "SELECT ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = $1 AND a.atthasmissing AND NOT a.attisdropped ORDER BY a.attnum),
             pg_catalog.pg_relation_filenode($1)",
            &[(&oid, Type::OID)],
        )
        .await
        .map_err(|error| LoadError::server("a clone's storage", error))?;
    Ok((row.get(0), row.get(1)))
}
