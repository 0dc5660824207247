//! Asks the server what it makes of definitions, in a transaction that is rolled back: of tables in use on empty temporary
//! clones, of what is new under its own name.

use super::load::{self, LoadError, LoadErrorKind};
use super::model::{
    CatalogSnapshot, Probe, ProbeAnswer, ProbeError, ProbeOutcome, Question, Trial, TrialAnswer, TrialOutcome,
};
use crate::sql::{QualifiedName, ident};
use crate::sqlstate::ends_session;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// Asks the questions in their order and appends the answers to `snapshot.answers` and `snapshot.trials`. What a
/// definition made or changed stays for those after it; of one that failed nothing stays.
///
/// Touches the tables in use with ACCESS SHARE only, unless a probe explains a write to one or the parsed body of a function
/// has one (ROW EXCLUSIVE), and leaves nothing behind. It waits for a lock no longer than a step does by default. The
/// statements run under the session's own `search_path`, because a plan's expressions may rely on it. The client must
/// not be in a transaction.
///
/// Where clones are impossible (a standby, no TEMP privilege, a table that the role may not read) the answers stay
/// as they are: planning goes on without them, as it does offline.
///
/// # Errors
/// The connection failed, or a table stayed locked. A refused definition is an answer, not an error.
pub async fn ask(
    client: &Client,
    snapshot: &mut CatalogSnapshot,
    questions: &[Question],
) -> Result<(), LoadError> {
    if questions.is_empty() || snapshot.server.read_only {
        return Ok(());
    }
    load::batch(
        client,
        "the session",
        "BEGIN; SET LOCAL lock_timeout = '200ms'; SET LOCAL statement_timeout = '10s'",
    )
    .await?;
    let answers = Box::pin(answers(client, snapshot, questions)).await;
    let ended = load::batch(client, "the session", "ROLLBACK").await;
    match answers {
        Ok((answers, trials)) => {
            ended?;
            snapshot.answers.extend(answers);
            snapshot.trials.extend(trials);
            Ok(())
        }
        Err(error) if impossible(&error) => {
            tracing::debug!(subject = error.subject, kind = %error.kind, "planning without asking the server");
            ended
        }
        Err(error) => Err(error),
    }
}

/// Asks until the answers lead to no other questions: they may show that a change is waiting, or that it is not.
///
/// # Errors
/// As for [`ask`].
pub async fn ask_all(
    client: &Client,
    snapshot: &mut CatalogSnapshot,
    questions: impl Fn(&CatalogSnapshot) -> Vec<Question>,
) -> Result<(), LoadError> {
    /// Far more than there are changes that wait for each other.
    const ROUNDS: usize = 20;
    let mut asked = Vec::new();
    for _ in 0..ROUNDS {
        let wanted = questions(snapshot);
        if wanted == asked {
            break;
        }
        snapshot.answers.clear();
        snapshot.trials.clear();
        ask(client, snapshot, &wanted).await?;
        asked = wanted;
    }
    Ok(())
}

/// Asks the queries of conditions, each at most for its milliseconds, and puts the answers into `snapshot.conditions`.
/// The client must not be in a transaction.
///
/// # Errors
/// The connection failed. A refused query is an answer, not an error.
pub async fn ask_conditions(
    client: &Client,
    snapshot: &mut CatalogSnapshot,
    questions: &BTreeMap<String, u64>,
) -> Result<(), LoadError> {
    for (query, timeout) in questions {
        let begin = format!(
            "BEGIN READ ONLY; SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '{timeout}ms'"
        );
        load::batch(client, "the session", &begin).await?;
        let answer = condition(client, query).await;
        let ended = load::batch(client, "the session", "ROLLBACK").await;
        snapshot.conditions.insert(query.clone(), answer?);
        ended?;
    }
    Ok(())
}

async fn condition(client: &Client, query: &str) -> Result<Result<bool, String>, LoadError> {
    // On lines of its own, so that a comment at its end does not swallow the rest.
    let sql = format!("SELECT * FROM (\n{query}\n) AS answer LIMIT 2");
    let asked = async {
        let statement = client.prepare(&sql).await?;
        let rows = client.query(&statement, &[]).await?;
        Ok((statement, rows))
    };
    let (statement, rows) = match asked.await {
        Ok(answer) => answer,
        Err(error) => return why(error).map(Err),
    };
    Ok(match (statement.columns(), rows.as_slice()) {
        ([column], _) if *column.type_() != Type::BOOL => {
            Err(format!("it gives {} rather than boolean", column.type_().name()))
        }
        ([_], []) => Ok(false),
        ([_], [row]) => Ok(row.get::<_, Option<bool>>(0).unwrap_or(false)),
        ([_], _) => Err("it gives several rows rather than one".into()),
        (columns, _) => Err(format!("it gives {} columns rather than one", columns.len())),
    })
}

fn why(error: tokio_postgres::Error) -> Result<String, LoadError> {
    match error.as_db_error() {
        Some(refusal) => Ok(format!(
            "the server refuses it: {} (SQLSTATE {})",
            refusal.message(),
            refusal.code().code()
        )),
        None => Err(LoadError::server("the query of a condition", error)),
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
    questions: &[Question],
) -> Result<(Vec<ProbeAnswer>, Vec<TrialAnswer>), LoadError> {
    let mut clones: BTreeMap<&QualifiedName, Copied> = BTreeMap::new();
    let mut made: BTreeSet<&QualifiedName> = BTreeSet::new();
    let mut answers = Vec::new();
    let mut trials = Vec::new();
    for question in questions {
        match question {
            Question::Probe(probe) => {
                let table = &probe.table;
                let exists = snapshot.tables.contains_key(table) || made.contains(table);
                if exists && !clones.contains_key(table) {
                    let name = format!("pgmorph_clone_{}", clones.len());
                    clones.insert(table, create_clone(client, table, name).await?);
                }
                answers.push(ProbeAnswer {
                    probe: probe.clone(),
                    outcome: match clones.get(table) {
                        Some(clone) => attempt(client, clone, probe).await?,
                        None => Err(missing(table)),
                    },
                });
            }
            Question::Trial(trial) => {
                let outcome = try_out(client, trial).await?;
                if outcome.is_ok() {
                    made.extend(&trial.tables);
                }
                trials.push(TrialAnswer {
                    trial: trial.clone(),
                    outcome,
                });
            }
        }
    }
    Ok((answers, trials))
}

fn missing(table: &QualifiedName) -> ProbeError {
    ProbeError {
        sqlstate: SqlState::UNDEFINED_TABLE.code().to_owned(),
        message: format!("table {table} does not exist"),
        hint: None,
    }
}

async fn try_out(client: &Client, trial: &Trial) -> Result<Result<TrialOutcome, ProbeError>, LoadError> {
    const SUBJECT: &str = "a trial";
    let before = load::texts(client, &trial.texts).await?;
    load::batch(client, SUBJECT, "SAVEPOINT pgmorph_trial").await?;
    for statement in &trial.statements {
        // The extended protocol takes one statement only, so that no text in a plan can end the transaction.
        if let Err(error) = client.execute_typed(statement, &[]).await {
            let refusal = refusal(SUBJECT, error)?;
            let undo = "ROLLBACK TO SAVEPOINT pgmorph_trial; RELEASE SAVEPOINT pgmorph_trial";
            load::batch(client, SUBJECT, undo).await?;
            return Ok(Err(refusal));
        }
    }
    load::batch(client, SUBJECT, "RELEASE SAVEPOINT pgmorph_trial").await?;
    let mut outcome = load::made(client, trial).await?;
    outcome.before = before;
    outcome.after = load::texts(client, &trial.texts).await?;
    Ok(Ok(outcome))
}

/// The server's no as an answer. A lost connection is none, and neither is what says nothing about the definition: that
/// the statement was cancelled, a table is locked, or the server has no room.
fn refusal(subject: &'static str, error: tokio_postgres::Error) -> Result<ProbeError, LoadError> {
    let passing = |code: &str| {
        matches!(code, "57014" | "55P03" | "40P01") || ends_session(code) || code.starts_with("53")
    };
    match error.as_db_error() {
        Some(answer) if !passing(answer.code().code()) => Ok(ProbeError {
            sqlstate: answer.code().code().to_owned(),
            message: answer.message().to_owned(),
            hint: answer.hint().map(str::to_owned),
        }),
        _ => Err(LoadError::server(subject, error)),
    }
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
        let answer = refusal(SUBJECT, error)?;
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
    for trigger in table.triggers.values_mut() {
        let there = |clone: &str| on_table(&trigger.definition, clone, &probe.table.to_string());
        if let Some(definition) = there(&name).or_else(|| there(at_rest)) {
            trigger.definition = definition;
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

/// The definition of a trigger of the clone as one of the table. Before PostgreSQL 15 the schema of the clone is printed with
/// its number.
fn on_table(definition: &str, clone: &str, table: &str) -> Option<String> {
    const SCHEMA: &str = " ON pg_temp";
    definition.match_indices(SCHEMA).find_map(|(at, _)| {
        let rest = &definition[at + SCHEMA.len()..];
        let number = rest.strip_prefix('_');
        let rest = number.map_or(rest, |number| {
            number.trim_start_matches(|c: char| c.is_ascii_digit())
        });
        let rest = rest.strip_prefix('.')?.strip_prefix(clone)?;
        rest.starts_with(' ')
            .then(|| format!("{} ON {table}{rest}", &definition[..at]))
    })
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

#[cfg(test)]
mod tests {
    use super::on_table;

    #[test]
    fn a_trigger_of_the_clone_becomes_one_of_the_table() {
        let moved = |definition: &str| on_table(definition, "\"Or ders\"", "shop.\"Or ders\"");
        for schema in ["pg_temp", "pg_temp_12"] {
            let definition = format!(
                "CREATE TRIGGER \" ON pg_temp_1.x \" AFTER INSERT ON {schema}.\"Or ders\" FOR EACH ROW EXECUTE FUNCTION f()"
            );
            assert_eq!(
                moved(&definition).unwrap(),
                "CREATE TRIGGER \" ON pg_temp_1.x \" AFTER INSERT ON shop.\"Or ders\" FOR EACH ROW EXECUTE FUNCTION f()"
            );
        }
        assert_eq!(
            moved("CREATE TRIGGER t AFTER INSERT ON public.x FOR EACH ROW"),
            None
        );
    }
}
