//! Whether the ledger is whole: tables and columns as they were made, entries that belong together. Something that is
//! missing must stop a run before it changes anything, and not look like a step that was never begun.

use super::{LEDGER_VERSION, StepRecord, damaged};
use crate::error::{Error, ErrorKind};
use crate::plan::ExecutionPlan;
use crate::sql::ident;
use std::collections::BTreeSet;
use tokio_postgres::GenericClient;

/// Every column of the present version, as [`super::CREATE`] makes it; more of them do no harm.
const COLUMNS: &str = "
ledger.version integer, runs.id bigint, runs.plan_name text, runs.plan_digest text, runs.execution_plan text,
runs.state text, runs.started_by text, runs.client text, runs.tool_version text,
runs.started_at timestamp with time zone, runs.updated_at timestamp with time zone,
runs.finished_at timestamp with time zone, runs.baseline boolean, steps.run_id bigint, steps.step_id text,
steps.position integer, steps.phase text, steps.state text, steps.attempts integer, steps.undone_works integer,
steps.started_at timestamp with time zone, steps.finished_at timestamp with time zone, steps.error text,
attempts.id bigint, attempts.run_id bigint, attempts.step_id text, attempts.undo boolean,
attempts.at timestamp with time zone, attempts.elapsed_ms bigint, attempts.sqlstate text, attempts.message text,
attempts.blockers text, backfills.run_id bigint, backfills.step_id text, backfills.file_node oid,
backfills.next_page bigint, backfills.end_page bigint, backfills.deferred text, backfills.rows_done bigint,
backfills.batches bigint, requests.run_id bigint, requests.workers integer, requests.throttle text,
requests.paused_at timestamp with time zone, requests.paused_by text, step_stats.run_id bigint,
step_stats.step_id text, step_stats.undo boolean, step_stats.stats text";

/// Columns that may be empty; in all others something is.
const NULLABLE: [&str; 11] = [
    "runs.client",
    "runs.finished_at",
    "steps.started_at",
    "steps.finished_at",
    "steps.error",
    "attempts.sqlstate",
    "attempts.blockers",
    "requests.workers",
    "requests.throttle",
    "requests.paused_at",
    "requests.paused_by",
];

/// The version of the ledger that is there, if one is.
pub(super) async fn version(client: &impl GenericClient) -> Result<Option<i32>, Error> {
    let sql = "SELECT coalesce(bool_or(c.relname = 'ledger'), false), coalesce(bool_or(c.relname = 'runs'), false) \
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = 'pgmorph' AND c.relname IN ('ledger', 'runs')";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(failed("looking for the ledger"))?;
    match (row.get(0), row.get(1)) {
        (false, false) => return Ok(None),
        (true, true) => {}
        (true, false) => return Err(damaged("table pgmorph.runs is missing".into())),
        (false, true) => return Err(damaged("table pgmorph.ledger is missing".into())),
    }
    readable(client).await?;
    let rows = client
        .query("SELECT max(version) FROM pgmorph.ledger", &[])
        .await
        .map_err(failed("reading the ledger's version"))?;
    let version: Option<i32> = rows.first().and_then(|row| row.get(0));
    match version {
        Some(version) if version > LEDGER_VERSION => Err(Error::new(
            ErrorKind::Precondition,
            format!("the ledger has version {version}; this pgmorph knows up to {LEDGER_VERSION}"),
        )
        .help("use the pgmorph that wrote it, or a newer one")),
        Some(LEDGER_VERSION) => whole(client).await.map(|()| version),
        // What an earlier version made is completed by the next run.
        Some(version) => Ok(Some(version)),
        None => Err(damaged("table pgmorph.ledger has no version".into())),
    }
}

/// Another role may have made it.
async fn readable(client: &impl GenericClient) -> Result<(), Error> {
    let sql = "SELECT coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')), true), \
                min(pg_get_userbyid(c.relowner)::text), current_user::text \
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = 'pgmorph' AND c.relname IN ('ledger', 'runs')";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(failed("looking for the ledger"))?;
    if row.get(0) {
        return Ok(());
    }
    let (owner, role): (String, String) = (row.get(1), row.get(2));
    let message = format!("{role} may not read the ledger, schema pgmorph, which belongs to {owner}");
    let (granted, to) = (ident(&owner), ident(&role));
    Err(Error::new(ErrorKind::Precondition, message).help(format!(
        "GRANT {granted} TO {to}, and act as that role: --role {owner}"
    )))
}

async fn whole(client: &impl GenericClient) -> Result<(), Error> {
    let expected: Vec<(&str, &str)> = COLUMNS
        .split(',')
        .filter_map(|column| column.trim().split_once(' '))
        .collect();
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let types: Vec<&str> = expected.iter().map(|(_, kind)| *kind).collect();
    let nullable: Vec<&str> = NULLABLE.to_vec();
    let sql = "SELECT 'column pgmorph.' || e.name || CASE WHEN a.attname IS NULL THEN ' is missing' \
                WHEN format_type(a.atttypid, a.atttypmod) <> e.kind THEN ' is of type ' || format_type(a.atttypid, a.atttypmod) \
                ELSE ' may be empty' END \
               FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS e (name, kind, n) \
               LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = to_regclass('pgmorph.' || split_part(e.name, '.', 1)) \
                AND a.attname = split_part(e.name, '.', 2) AND NOT a.attisdropped \
               WHERE a.attname IS NULL OR format_type(a.atttypid, a.atttypmod) <> e.kind \
                OR NOT (a.attnotnull OR e.name = ANY ($3::text[])) ORDER BY e.n";
    let rows = client
        .query(sql, &[&names, &types, &nullable])
        .await
        .map_err(failed("looking whether the ledger is whole"))?;
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    match found.first() {
        None => Ok(()),
        Some(first) => Err(damaged(first.clone()).details(found.iter().skip(1).cloned())),
    }
}

/// Who may not look into the ledger, or finds no answer in it, has changed nothing.
fn failed(what: &'static str) -> impl Fn(tokio_postgres::Error) -> Error {
    move |error| Error::postgres(ErrorKind::Precondition, what, error)
}

/// A run as it was recorded by this very version of the program: its plan is what it was, and each step has its record.
pub(super) fn consistent(
    run: i64,
    plan: &ExecutionPlan,
    digest: &str,
    tool_version: &str,
    steps: Option<&[StepRecord]>,
) -> Result<(), Error> {
    // Another version may know more or less of a plan than is written here.
    let same = tool_version != env!("CARGO_PKG_VERSION") || plan.digest == plan.computed_digest();
    if plan.digest != digest || !same {
        return Err(damaged(format!(
            "the plan of run {run} is not the one that was recorded"
        )));
    }
    let Some(steps) = steps else { return Ok(()) };
    let recorded: BTreeSet<&str> = steps.iter().map(|step| step.id.as_str()).collect();
    let planned: BTreeSet<&str> = plan.steps.iter().map(|step| step.id.as_str()).collect();
    if let Some(step) = planned.difference(&recorded).next() {
        return Err(damaged(format!(
            "the record of step {step} of run {run} is missing"
        )));
    }
    match recorded.difference(&planned).next() {
        Some(step) => Err(damaged(format!(
            "run {run} has a record of step {step}, which its plan has not"
        ))),
        None => Ok(()),
    }
}
