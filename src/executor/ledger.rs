//! The ledger: schema `pgmorph` in the target database, the only memory of a run.
//!
//! A step is recorded as running before its effect. A transactional step commits its record of being done in the
//! transaction of its effect; others are probed. Everything here is schema-qualified and bounded by the session.

use crate::error::{Error, ErrorKind};
use crate::plan::{ExecutionPlan, PlannedChange};
use crate::sql::literal;
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

pub mod requests;
mod shape;
pub mod stats;

/// Version of the ledger's own tables; a newer one is refused.
pub const LEDGER_VERSION: i32 = 4;

/// CREATE SCHEMA IF NOT EXISTS would ask for the right to create schemas even where an administrator made this one.
const CREATE: &str = "
DO $$ BEGIN IF to_regnamespace('pgmorph') IS NULL THEN CREATE SCHEMA pgmorph; END IF; END $$;
CREATE TABLE IF NOT EXISTS pgmorph.ledger (version integer NOT NULL);
INSERT INTO pgmorph.ledger SELECT 1 WHERE NOT EXISTS (SELECT FROM pgmorph.ledger);
CREATE TABLE IF NOT EXISTS pgmorph.runs (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  plan_name text NOT NULL,
  plan_digest text NOT NULL,
  execution_plan text NOT NULL,
  state text NOT NULL,
  started_by text NOT NULL DEFAULT session_user,
  client text,
  tool_version text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz
);
CREATE INDEX IF NOT EXISTS runs_plan_name_idx ON pgmorph.runs (plan_name, id);
CREATE TABLE IF NOT EXISTS pgmorph.steps (
  run_id bigint NOT NULL REFERENCES pgmorph.runs ON DELETE CASCADE,
  step_id text NOT NULL,
  position integer NOT NULL,
  phase text NOT NULL,
  state text NOT NULL DEFAULT 'pending',
  attempts integer NOT NULL DEFAULT 0,
  undone_works integer NOT NULL DEFAULT 0,
  started_at timestamptz,
  finished_at timestamptz,
  error text,
  PRIMARY KEY (run_id, step_id)
);
CREATE TABLE IF NOT EXISTS pgmorph.attempts (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id bigint NOT NULL REFERENCES pgmorph.runs ON DELETE CASCADE,
  step_id text NOT NULL,
  undo boolean NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  elapsed_ms bigint NOT NULL,
  sqlstate text,
  message text NOT NULL,
  blockers text
);
CREATE TABLE IF NOT EXISTS pgmorph.backfills (
  run_id bigint NOT NULL REFERENCES pgmorph.runs ON DELETE CASCADE,
  step_id text NOT NULL,
  file_node oid NOT NULL,
  next_page bigint NOT NULL,
  end_page bigint NOT NULL,
  deferred text NOT NULL DEFAULT '[]',
  rows_done bigint NOT NULL DEFAULT 0,
  batches bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (run_id, step_id)
);
CREATE TABLE IF NOT EXISTS pgmorph.requests (
  run_id bigint PRIMARY KEY REFERENCES pgmorph.runs ON DELETE CASCADE,
  workers integer,
  throttle text,
  paused_at timestamptz,
  paused_by text
);
CREATE TABLE IF NOT EXISTS pgmorph.step_stats (
  run_id bigint NOT NULL REFERENCES pgmorph.runs ON DELETE CASCADE,
  step_id text NOT NULL,
  undo boolean NOT NULL,
  stats text NOT NULL,
  PRIMARY KEY (run_id, step_id, undo)
);
ALTER TABLE pgmorph.ledger REPLICA IDENTITY FULL;
ALTER TABLE pgmorph.runs ADD COLUMN IF NOT EXISTS baseline boolean NOT NULL DEFAULT false;
UPDATE pgmorph.ledger SET version = 4 WHERE version < 4;
";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Begun: running now, or stopped by a crash, an interruption or a failure.
    Started,
    /// Every step of every phase is done.
    Completed,
    RollingBack,
    RolledBack,
}

impl RunState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Completed => "completed",
            Self::RollingBack => "rolling_back",
            Self::RolledBack => "rolled_back",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        [
            Self::Started,
            Self::Completed,
            Self::RollingBack,
            Self::RolledBack,
        ]
        .into_iter()
        .find(|state| state.name() == text)
        .ok_or_else(|| damaged(format!("unknown run state {text:?}")))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    Pending,
    Running,
    Done,
    Failed,
    Undone,
}

impl StepState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Undone => "undone",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        [
            Self::Pending,
            Self::Running,
            Self::Done,
            Self::Failed,
            Self::Undone,
        ]
        .into_iter()
        .find(|state| state.name() == text)
        .ok_or_else(|| damaged(format!("unknown step state {text:?}")))
    }
}

fn damaged(what: String) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!("the ledger in schema pgmorph cannot be relied on: {what}"),
    )
    .help("was it written by a newer pgmorph, or changed by hand? Restore schema pgmorph from a backup")
}

/// One run as recorded.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    pub id: i64,
    pub plan: ExecutionPlan,
    pub state: RunState,
    pub started_by: String,
    pub client: Option<String>,
    pub started_at: jiff::Timestamp,
    pub updated_at: jiff::Timestamp,
    pub finished_at: Option<jiff::Timestamp>,
    /// Nothing was run: the changes were there, and were recorded as done.
    pub baseline: bool,
    /// In the order of the plan.
    pub steps: Vec<StepRecord>,
}

#[derive(Debug, Clone, Serialize)]
pub struct StepRecord {
    pub id: String,
    pub state: StepState,
    pub attempts: i32,
    /// How many works of its undo are done.
    pub undone_works: i32,
    pub started_at: Option<jiff::Timestamp>,
    pub finished_at: Option<jiff::Timestamp>,
    pub error: Option<String>,
}

/// An attempt that did not succeed, and why.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptRecord {
    pub step: String,
    pub undo: bool,
    pub at: jiff::Timestamp,
    pub elapsed_ms: i64,
    pub sqlstate: Option<String>,
    pub message: String,
    /// Who was in the way, as [`crate::event::Blocker`].
    pub blockers: serde_json::Value,
}

/// Where a backfill stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cursor {
    /// Changes when the table is rewritten; the pages then mean something else.
    pub file_node: u32,
    pub next_page: i64,
    pub end_page: i64,
    /// Page ranges that met a locked row, to be visited again.
    pub deferred: Vec<(i64, i64)>,
    pub rows_done: i64,
    pub batches: i64,
}

fn failed(what: &'static str) -> impl Fn(tokio_postgres::Error) -> Error {
    move |error| Error::postgres(ErrorKind::StepFailed, what, error)
}

/// Of a run that could not be recorded nothing was done.
fn unbegun(what: &'static str) -> impl Fn(tokio_postgres::Error) -> Error {
    move |error| Error::postgres(ErrorKind::Precondition, what, error)
}

/// Whether the ledger is there at all.
///
/// # Errors
/// Lost connections, and a ledger written by a newer version.
pub async fn exists(client: &impl GenericClient) -> Result<bool, Error> {
    Ok(shape::version(client).await?.is_some())
}

/// Creates what is missing of the ledger. Only the holder of the run lock calls it.
pub(super) async fn create(client: &tokio_postgres::Client) -> Result<(), Error> {
    if shape::version(client).await? == Some(LEDGER_VERSION) {
        return Ok(());
    }
    let sql = format!("BEGIN; SET LOCAL client_min_messages = warning; {CREATE} COMMIT");
    if let Err(error) = client.batch_execute(&sql).await {
        let _ = client.batch_execute("ROLLBACK").await;
        let error = Error::postgres(
            ErrorKind::Precondition,
            "creating the ledger (schema pgmorph)",
            error,
        );
        return Err(match error.sqlstate.as_deref() {
            Some("42501") => {
                error.help("let an administrator run: CREATE SCHEMA pgmorph AUTHORIZATION <this role>")
            }
            _ => error,
        });
    }
    Ok(())
}

/// The latest run of a plan.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn latest_run(client: &impl GenericClient, plan_name: &str) -> Result<Option<Run>, Error> {
    let sql = format!(
        "SELECT {} FROM pgmorph.runs WHERE plan_name = $1 ORDER BY id DESC LIMIT 1",
        run_columns(client).await?
    );
    let rows = client
        .query(&sql, &[&plan_name])
        .await
        .map_err(failed("reading the ledger"))?;
    match rows.first() {
        Some(row) => Ok(Some(run_of(client, row).await?)),
        None => Ok(None),
    }
}

/// The run of this number.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn run(client: &impl GenericClient, id: i64) -> Result<Option<Run>, Error> {
    let sql = format!(
        "SELECT {} FROM pgmorph.runs WHERE id = $1",
        run_columns(client).await?
    );
    let row = client
        .query_opt(&sql, &[&id])
        .await
        .map_err(failed("reading the ledger"))?;
    match row {
        Some(row) => Ok(Some(run_of(client, &row).await?)),
        None => Ok(None),
    }
}

/// The runs of a plan that are not rolled back, and those that were rolled back since its latest run began, oldest
/// first: what stands, and what stood together with the latest one.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn standing_runs(client: &impl GenericClient, plan_name: &str) -> Result<Vec<Run>, Error> {
    let sql = format!(
        "SELECT {} FROM pgmorph.runs r WHERE plan_name = $1 AND (state <> 'rolled_back' OR finished_at > \
         (SELECT started_at FROM pgmorph.runs WHERE plan_name = $1 ORDER BY id DESC LIMIT 1)) ORDER BY id",
        run_columns(client).await?
    );
    let rows = client
        .query(&sql, &[&plan_name])
        .await
        .map_err(failed("reading the ledger"))?;
    let mut runs = Vec::new();
    for row in &rows {
        runs.push(run_of(client, row).await?);
    }
    Ok(runs)
}

/// The latest run of every plan, most recent first.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn latest_runs(client: &impl GenericClient) -> Result<Vec<Run>, Error> {
    let sql = format!(
        "SELECT {} FROM (SELECT DISTINCT ON (plan_name) * FROM pgmorph.runs ORDER BY plan_name, id DESC) r \
         ORDER BY id DESC",
        run_columns(client).await?
    );
    let rows = client
        .query(&sql, &[])
        .await
        .map_err(failed("reading the ledger"))?;
    let mut runs = Vec::new();
    for row in &rows {
        runs.push(run_of(client, row).await?);
    }
    Ok(runs)
}

/// What is read of a run. Whoever only looks may find a ledger that an earlier version has made.
async fn run_columns(client: &impl GenericClient) -> Result<String, Error> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute \
               WHERE attrelid = to_regclass('pgmorph.runs') AND attname = 'baseline' AND NOT attisdropped)";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(failed("reading the ledger"))?;
    let baseline = match row.get(0) {
        true => "baseline",
        false => "false AS baseline",
    };
    Ok(format!(
        "id, execution_plan, plan_digest, tool_version, state, started_by, client, started_at, updated_at, \
         finished_at, {baseline}"
    ))
}

async fn run_of(client: &impl GenericClient, row: &tokio_postgres::Row) -> Result<Run, Error> {
    let id: i64 = row.get("id");
    let text: &str = row.get("execution_plan");
    let plan =
        serde_json::from_str(text).map_err(|error| damaged(format!("the plan of run {id}: {error}")))?;
    let rows = client
        .query(
            "SELECT step_id, state, attempts, undone_works, started_at, finished_at, error \
             FROM pgmorph.steps WHERE run_id = $1 ORDER BY position",
            &[&id],
        )
        .await
        .map_err(failed("reading the ledger"))?;
    let steps = rows.iter().map(step_of).collect::<Result<Vec<_>, Error>>()?;
    let recorded = (!row.get::<_, bool>("baseline")).then_some(steps.as_slice());
    shape::consistent(
        id,
        &plan,
        row.get("plan_digest"),
        row.get("tool_version"),
        recorded,
    )?;
    Ok(Run {
        id,
        plan,
        state: RunState::parse(row.get("state"))?,
        started_by: row.get("started_by"),
        client: row.get("client"),
        started_at: row.get("started_at"),
        updated_at: row.get("updated_at"),
        finished_at: row.get("finished_at"),
        baseline: row.get("baseline"),
        steps,
    })
}

fn step_of(row: &tokio_postgres::Row) -> Result<StepRecord, Error> {
    Ok(StepRecord {
        id: row.get("step_id"),
        state: StepState::parse(row.get("state"))?,
        attempts: row.get("attempts"),
        undone_works: row.get("undone_works"),
        started_at: row.get("started_at"),
        finished_at: row.get("finished_at"),
        error: row.get("error"),
    })
}

/// Attempts of a run that did not succeed, oldest first, the latest 200.
///
/// # Errors
/// Lost connections.
pub async fn attempts(client: &impl GenericClient, run: i64) -> Result<Vec<AttemptRecord>, Error> {
    let rows = client
        .query(
            "SELECT step_id, undo, at, elapsed_ms, sqlstate, message, blockers FROM (SELECT * FROM pgmorph.attempts \
             WHERE run_id = $1 ORDER BY id DESC LIMIT 200) a ORDER BY id",
            &[&run],
        )
        .await
        .map_err(failed("reading the ledger"))?;
    let attempt = |row: &tokio_postgres::Row| AttemptRecord {
        step: row.get("step_id"),
        undo: row.get("undo"),
        at: row.get("at"),
        elapsed_ms: row.get("elapsed_ms"),
        sqlstate: row.get("sqlstate"),
        message: row.get("message"),
        blockers: row
            .get::<_, Option<&str>>("blockers")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default(),
    };
    Ok(rows.iter().map(attempt).collect())
}

/// Records a new run with all its steps pending.
pub(super) async fn start_run(
    client: &mut tokio_postgres::Client,
    plan: &ExecutionPlan,
) -> Result<i64, Error> {
    let text = serde_json::to_string(plan).map_err(|error| damaged(error.to_string()))?;
    let transaction = client.transaction().await.map_err(unbegun("recording the run"))?;
    let run: i64 = transaction
        .query_one(
            "INSERT INTO pgmorph.runs (plan_name, plan_digest, execution_plan, state, client, tool_version) \
             VALUES ($1, $2, $3, 'started', inet_client_addr()::text, $4) RETURNING id",
            &[&plan.name, &plan.digest, &text, &env!("CARGO_PKG_VERSION")],
        )
        .await
        .map_err(unbegun("recording the run"))?
        .get(0);
    let ids: Vec<&str> = plan.steps.iter().map(|step| step.id.as_str()).collect();
    let phases: Vec<&str> = plan.steps.iter().map(|step| step.phase.name()).collect();
    transaction
        .execute(
            "INSERT INTO pgmorph.steps (run_id, step_id, phase, position) \
             SELECT $1, s.id, s.phase, s.position::integer \
             FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS s (id, phase, position)",
            &[&run, &ids, &phases],
        )
        .await
        .map_err(unbegun("recording the steps"))?;
    transaction.commit().await.map_err(unbegun("recording the run"))?;
    Ok(run)
}

/// Records a plan as applied although nothing was run.
pub(super) async fn record_baseline(client: &impl GenericClient, plan: &ExecutionPlan) -> Result<i64, Error> {
    let text = serde_json::to_string(plan).map_err(|error| damaged(error.to_string()))?;
    let sql = "INSERT INTO pgmorph.runs \
               (plan_name, plan_digest, execution_plan, state, client, tool_version, finished_at, baseline) \
               VALUES ($1, $2, $3, 'completed', inet_client_addr()::text, $4, clock_timestamp(), true) \
               RETURNING id";
    let row = client
        .query_one(
            sql,
            &[&plan.name, &plan.digest, &text, &env!("CARGO_PKG_VERSION")],
        )
        .await
        .map_err(failed("recording a baseline"))?;
    Ok(row.get(0))
}

pub(super) async fn set_run_state(
    client: &tokio_postgres::Client,
    run: i64,
    state: RunState,
) -> Result<(), Error> {
    let finished = match state {
        RunState::Completed | RunState::RolledBack => "clock_timestamp()",
        RunState::Started | RunState::RollingBack => "NULL",
    };
    // What is told to be done is with the standbys that commits wait for here, and with it all that was done before.
    let sql = format!(
        "BEGIN; SET LOCAL synchronous_commit TO DEFAULT; UPDATE pgmorph.runs SET state = {}, \
         updated_at = clock_timestamp(), finished_at = {finished} WHERE id = {run}; COMMIT",
        literal(state.name())
    );
    let recorded = client.batch_execute(&sql).await;
    if recorded.is_err() {
        let _ = client.batch_execute("ROLLBACK").await;
    }
    recorded.map_err(failed("recording the run's state"))
}

/// Records that a step is begun, and gives the number of this attempt: the token that its transaction must find
/// again. `None` when the step is done already, by a worker that outlived its run.
pub(super) async fn step_running(
    client: &tokio_postgres::Client,
    run: i64,
    step: &str,
) -> Result<Option<i32>, Error> {
    let sql = "UPDATE pgmorph.steps SET state = 'running', attempts = attempts + 1, error = NULL, \
               started_at = coalesce(started_at, clock_timestamp()), finished_at = NULL \
               WHERE run_id = $1 AND step_id = $2 AND state <> 'done' RETURNING attempts";
    let row = client
        .query_typed_opt(sql, &[(&run, Type::INT8), (&step, Type::TEXT)])
        .await
        .map_err(failed("recording a step"))?;
    Ok(row.map(|row| row.get(0)))
}

/// Never turns a done step into a failed one: what is committed is committed.
pub(super) async fn step_failed(
    client: &tokio_postgres::Client,
    run: i64,
    step: &str,
    message: &str,
) -> Result<(), Error> {
    let sql = "UPDATE pgmorph.steps SET state = 'failed', error = $3, finished_at = clock_timestamp() \
               WHERE run_id = $1 AND step_id = $2 AND state <> 'done'";
    client
        .execute(sql, &[&run, &step, &message])
        .await
        .map_err(failed("recording a failure"))?;
    Ok(())
}

/// Locks the record of a step within its transaction, so that a worker that outlived its run and its successor
/// cannot both do it.
pub(super) fn fence_sql(run: i64, step: &str) -> String {
    format!(
        "/* pgmorph ledger */ SELECT state, attempts, undone_works FROM pgmorph.steps \
         WHERE run_id = {run} AND step_id = {} FOR UPDATE",
        literal(step)
    )
}

/// The record that a step is done, as text, to be committed with its effect.
pub(super) fn done_sql(run: i64, step: &str) -> String {
    format!(
        "/* pgmorph ledger */ UPDATE pgmorph.steps SET state = 'done', finished_at = clock_timestamp() \
         WHERE run_id = {run} AND step_id = {}",
        literal(step)
    )
}

/// The record that so many works of a step's undo are done; with the last one the step is undone.
pub(super) fn undone_sql(run: i64, step: &str, works: usize, last: bool) -> String {
    let state = if last {
        ", state = 'undone', finished_at = clock_timestamp()"
    } else {
        ""
    };
    format!(
        "/* pgmorph ledger */ UPDATE pgmorph.steps SET undone_works = {works}{state} \
         WHERE run_id = {run} AND step_id = {}",
        literal(step)
    )
}

/// What of a step is recorded, read again after a lost connection.
pub(super) async fn step(client: &tokio_postgres::Client, run: i64, step: &str) -> Result<StepRecord, Error> {
    let row = client
        .query_one(
            "SELECT step_id, state, attempts, undone_works, started_at, finished_at, error \
             FROM pgmorph.steps WHERE run_id = $1 AND step_id = $2",
            &[&run, &step],
        )
        .await
        .map_err(failed("reading a step's record"))?;
    step_of(&row)
}

/// One failed attempt.
pub(super) struct Attempt<'a> {
    pub(super) run: i64,
    pub(super) step: &'a str,
    pub(super) undo: bool,
    pub(super) elapsed_ms: u64,
    pub(super) sqlstate: Option<&'a str>,
    pub(super) message: &'a str,
    pub(super) blockers: &'a [crate::event::Blocker],
}

pub(super) async fn record_attempt(
    client: &tokio_postgres::Client,
    attempt: Attempt<'_>,
) -> Result<(), Error> {
    let blockers = serde_json::to_string(attempt.blockers).unwrap_or_default();
    let elapsed = i64::try_from(attempt.elapsed_ms).unwrap_or(i64::MAX);
    client
        .execute(
            "INSERT INTO pgmorph.attempts (run_id, step_id, undo, elapsed_ms, sqlstate, message, blockers) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            &[
                &attempt.run,
                &attempt.step,
                &attempt.undo,
                &elapsed,
                &attempt.sqlstate,
                &attempt.message,
                &blockers,
            ],
        )
        .await
        .map_err(failed("recording an attempt"))?;
    Ok(())
}

/// Where the backfills of a run stand, by their steps.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn cursors(client: &impl GenericClient, run: i64) -> Result<Vec<(String, Cursor)>, Error> {
    let sql = format!("SELECT step_id, {CURSOR} FROM pgmorph.backfills WHERE run_id = $1 ORDER BY step_id");
    let rows = client
        .query(&sql, &[&run])
        .await
        .map_err(failed("reading the cursors"))?;
    rows.iter()
        .map(|row| Ok((row.get("step_id"), cursor_of(row)?)))
        .collect()
}

const CURSOR: &str = "file_node, next_page, end_page, deferred, rows_done, batches";

pub(super) async fn cursor(
    client: &tokio_postgres::Client,
    run: i64,
    step: &str,
) -> Result<Option<Cursor>, Error> {
    let rows = client
        .query(
            &format!("SELECT {CURSOR} FROM pgmorph.backfills WHERE run_id = $1 AND step_id = $2"),
            &[&run, &step],
        )
        .await
        .map_err(failed("reading a backfill's cursor"))?;
    rows.first().map(cursor_of).transpose()
}

/// So that a backfill begins at the first page.
pub(super) async fn forget_cursor(
    client: &tokio_postgres::Client,
    run: i64,
    step: &str,
) -> Result<(), Error> {
    let sql = "DELETE FROM pgmorph.backfills WHERE run_id = $1 AND step_id = $2";
    client
        .execute(sql, &[&run, &step])
        .await
        .map(|_| ())
        .map_err(failed("forgetting a backfill's cursor"))
}

fn cursor_of(row: &tokio_postgres::Row) -> Result<Cursor, Error> {
    let deferred = serde_json::from_str(row.get("deferred"))
        .map_err(|error| damaged(format!("the cursor of a backfill: {error}")))?;
    Ok(Cursor {
        file_node: row.get("file_node"),
        next_page: row.get("next_page"),
        end_page: row.get("end_page"),
        deferred,
        rows_done: row.get("rows_done"),
        batches: row.get("batches"),
    })
}

/// Writes a cursor, as text, to be committed with its batch. The rows of that batch itself are not counted yet.
pub(super) fn cursor_sql(run: i64, step: &str, cursor: &Cursor) -> String {
    let deferred = serde_json::to_string(&cursor.deferred).unwrap_or_default();
    format!(
        "/* pgmorph ledger */ INSERT INTO pgmorph.backfills AS b \
         (run_id, step_id, file_node, next_page, end_page, deferred, rows_done, batches) \
         VALUES ({run}, {}, {}, {}, {}, {}, {}, {}) ON CONFLICT (run_id, step_id) DO UPDATE SET \
         file_node = excluded.file_node, next_page = excluded.next_page, end_page = excluded.end_page, \
         deferred = excluded.deferred, rows_done = excluded.rows_done, batches = excluded.batches",
        literal(step),
        cursor.file_node,
        cursor.next_page,
        cursor.end_page,
        literal(&deferred),
        cursor.rows_done,
        cursor.batches,
    )
}

/// How a changed plan file relates to the recorded one.
#[derive(Debug, PartialEq, Eq)]
pub enum PlanRelation {
    Same,
    /// The recorded changes, and then so many more.
    Extended {
        recorded: usize,
    },
    Changed,
}

/// Compares the entries of a plan file with the recorded ones.
pub fn relation(recorded: &[PlannedChange], given: &[PlannedChange]) -> PlanRelation {
    if recorded == given {
        PlanRelation::Same
    } else if given.starts_with(recorded) {
        PlanRelation::Extended {
            recorded: recorded.len(),
        }
    } else {
        PlanRelation::Changed
    }
}
