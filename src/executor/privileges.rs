//! What a role lacks to run a plan, found out before anything is done: by name, with the GRANT that mends it.
//!
//! Whose tables they are the planner knows, and what it tries out the server judges. Asked here is the rest: the place of
//! the ledger, and whether the role may read what the plan's queries, fills and copies read.

use crate::error::{Error, ErrorKind};
use crate::plan::{Action, Backfill, ExecutionPlan, Expectation, Work};
use crate::sql::ident;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

/// Something that the role may not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The number of the change that needs it; `None` for the plan as a whole.
    pub change: Option<usize>,
    pub message: String,
    /// The statement that mends it.
    pub mend: String,
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::postgres(ErrorKind::StepFailed, "asking for privileges", error)
}

/// What is missing for a plan that is to be begun; nothing for a superuser.
///
/// # Errors
/// Lost connections.
pub async fn missing(client: &Client, plan: &ExecutionPlan) -> Result<Vec<Missing>, Error> {
    if is_superuser(client).await? {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    if !plan.steps.is_empty() {
        found.extend(ledger(client).await?);
    }
    client
        .batch_execute(
            "BEGIN READ ONLY; SET LOCAL lock_timeout = '200ms'; SET LOCAL statement_timeout = '10s'",
        )
        .await
        .map_err(failed)?;
    let asked = Box::pin(denied(client, plan)).await;
    client.batch_execute("ROLLBACK").await.map_err(failed)?;
    found.extend(asked?);
    Ok(found)
}

async fn is_superuser(client: &Client) -> Result<bool, Error> {
    let sql = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
    Ok(client.query_one(sql, &[]).await.map_err(failed)?.get(0))
}

/// Whether the role may make the ledger, or write to the one that is there.
///
/// # Errors
/// Lost connections.
pub async fn ledger(client: &Client) -> Result<Option<Missing>, Error> {
    let sql = "SELECT current_user::text AS role, current_database()::text AS database, \
                has_database_privilege(current_database(), 'CREATE') AS may_make_it, \
                pg_get_userbyid(n.nspowner)::text AS owner, \
                coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE'), false) AS may_use_it, \
                (SELECT pg_get_userbyid(c.relowner)::text FROM pg_catalog.pg_class c \
                  WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname <> 'ledger' AND NOT \
                   (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') \
                    AND has_table_privilege(c.oid, 'UPDATE')) LIMIT 1) AS writer \
               FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'pgmorph'";
    let row = client.query_one(sql, &[]).await.map_err(failed)?;
    let (role, database): (String, String) = (row.get("role"), row.get("database"));
    let (quoted, place) = (ident(&role), ident(&database));
    let (owner, writer): (Option<String>, Option<String>) = (row.get("owner"), row.get("writer"));
    Ok(match (owner, writer) {
        (None, _) if row.get("may_make_it") => None,
        (None, _) => Some(Missing {
            change: None,
            message: format!(
                "{role} may not create schema pgmorph, the place of the ledger, in database {database}"
            ),
            mend: format!(
                "GRANT CREATE ON DATABASE {place} TO {quoted}, or CREATE SCHEMA pgmorph AUTHORIZATION {quoted}"
            ),
        }),
        (Some(_), None) if row.get("may_use_it") => None,
        (Some(owner), writer) => {
            let owner = writer.unwrap_or(owner);
            Some(Missing {
                change: None,
                message: format!(
                    "{role} may not write to the ledger, schema pgmorph, which belongs to {owner}"
                ),
                mend: if owner == role {
                    format!("GRANT ALL ON ALL TABLES IN SCHEMA pgmorph TO {quoted}")
                } else {
                    format!(
                        "GRANT {} TO {quoted}, and act as that role: --role {owner}",
                        ident(&owner)
                    )
                },
            })
        }
    })
}

/// A statement that the server is asked to explain, which looks whether the role may run it and does not run it.
struct Asked {
    change: Option<usize>,
    what: String,
    sql: String,
}

fn asked(plan: &ExecutionPlan) -> Vec<Asked> {
    let mut asked = Vec::new();
    let mut ask = |change, what: &str, sql: String| {
        asked.push(Asked {
            change,
            what: what.to_owned(),
            sql,
        });
    };
    for check in plan.preconditions.iter().chain(&plan.postconditions) {
        ask(None, &check.name, check.query.clone());
    }
    for monitor in &plan.monitors {
        ask(None, &monitor.name, monitor.query.clone());
    }
    for step in &plan.steps {
        for sql in statements(&step.work) {
            ask(Some(step.change), &step.work.summary, sql);
        }
    }
    asked
}

fn statements(work: &Work) -> Vec<String> {
    let fill = |it: &Backfill| format!("UPDATE ONLY {} SET {} WHERE {}", it.table, it.set, it.needs);
    let mut statements = match &work.action {
        Action::Sql(_) => Vec::new(),
        Action::Backfill(it) => vec![fill(it)],
        Action::Copy(it) => it.statements(None),
        Action::Check(check) => vec![check.query.clone()],
        Action::Compare(it) => vec![it.check.query.clone()],
        Action::Match(it) => vec![it.left.clone(), it.right.clone()],
    };
    for expectation in &work.expect {
        if let Expectation::Query { query } = expectation {
            statements.push(query.clone());
        }
    }
    statements
}

async fn denied(client: &Client, plan: &ExecutionPlan) -> Result<Vec<Missing>, Error> {
    let mut found: Vec<Missing> = Vec::new();
    for Asked { change, what, sql } in asked(plan) {
        client
            .batch_execute("SAVEPOINT pgmorph_asked")
            .await
            .map_err(failed)?;
        // The extended protocol takes one statement only. What is not there yet, or locked, is nothing that is forbidden.
        let explained = client.execute_typed(&format!("EXPLAIN {sql}"), &[]).await;
        client
            .batch_execute("ROLLBACK TO SAVEPOINT pgmorph_asked")
            .await
            .map_err(failed)?;
        let refusal = explained
            .err()
            .filter(|error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE));
        let Some(refusal) = refusal.as_ref().and_then(tokio_postgres::Error::as_db_error) else {
            continue;
        };
        let mut lacks = lacking(client, &sql).await?;
        if lacks.is_empty() {
            lacks.push(Missing {
                change,
                message: refusal.message().to_owned(),
                mend: "let its owner grant that".into(),
            });
        }
        for lack in lacks {
            let message = format!("{what}: {}", lack.message);
            if !found
                .iter()
                .any(|known| known.mend == lack.mend && known.change == change)
            {
                found.push(Missing {
                    change,
                    message,
                    ..lack
                });
            }
        }
    }
    Ok(found)
}

/// The schemas, tables, sequences, functions and types that a text mentions and the role may not read or use. By their
/// names alone, hence only asked once the server has said no.
///
/// # Errors
/// Lost connections.
pub async fn lacking(client: &Client, text: &str) -> Result<Vec<Missing>, Error> {
    let sql = "SELECT DISTINCT ON (o.kind, o.shown) current_user::text AS role, o.kind, o.privilege, o.shown, o.owner FROM ( \
         SELECT 'SCHEMA' AS kind, 'USAGE' AS privilege, nspname AS name, quote_ident(nspname) AS shown, \
          pg_get_userbyid(nspowner)::text AS owner FROM pg_catalog.pg_namespace \
         WHERE nspname !~ '^pg_' AND NOT has_schema_privilege(oid, 'USAGE') \
         UNION ALL SELECT 'DATABASE', 'CREATE', 'create_schema', quote_ident(datname), pg_get_userbyid(datdba)::text \
         FROM pg_catalog.pg_database WHERE datname = current_database() AND NOT has_database_privilege(oid, 'CREATE') \
         UNION ALL SELECT 'TABLE', 'SELECT', c.relname, format('%I.%I', n.nspname, c.relname), \
          pg_get_userbyid(c.relowner)::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT has_table_privilege(c.oid, 'SELECT') \
         UNION ALL SELECT 'SEQUENCE', 'USAGE', c.relname, format('%I.%I', n.nspname, c.relname), \
          pg_get_userbyid(c.relowner)::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE') ELSE false END \
         UNION ALL SELECT 'FUNCTION', 'EXECUTE', p.proname, format('%I.%I(%s)', n.nspname, p.proname, \
          pg_get_function_identity_arguments(p.oid)), pg_get_userbyid(p.proowner)::text \
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
         WHERE NOT has_function_privilege(p.oid, 'EXECUTE') \
         UNION ALL SELECT 'TYPE', 'USAGE', t.typname, format('%I.%I', n.nspname, t.typname), \
          pg_get_userbyid(t.typowner)::text FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
         WHERE t.typtype IN ('d', 'e', 'r', 'm', 'b') AND t.typelem = 0 AND NOT has_type_privilege(t.oid, 'USAGE') \
        ) AS o WHERE strpos($1, o.name) > 0 \
         AND (o.name !~ '^\\w+$' OR $1 ~ ('\\m' || o.name || '\\M')) ORDER BY o.kind, o.shown";
    let rows = client.query(sql, &[&text]).await.map_err(failed)?;
    Ok(rows.iter().map(lack).collect())
}

fn lack(row: &Row) -> Missing {
    let text = |column: &str| row.get::<_, String>(column);
    let (role, kind, privilege) = (text("role"), text("kind"), text("privilege"));
    let (shown, owner) = (text("shown"), text("owner"));
    Missing {
        change: None,
        message: format!(
            "{role} lacks {privilege} on {} {shown}, which belongs to {owner}",
            kind.to_lowercase()
        ),
        mend: format!("GRANT {privilege} ON {kind} {shown} TO {}", ident(&role)),
    }
}

/// As one error, for a plan that has no file to point into.
pub fn refusal(missing: &[Missing]) -> Error {
    let lines = missing.iter().map(|it| format!("{}: {}", it.message, it.mend));
    Error::new(
        ErrorKind::Precondition,
        "the role lacks privileges; nothing was changed",
    )
    .details(lines)
    .help("let the owners or an administrator grant them, then run the same command again")
}
