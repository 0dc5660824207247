//! What somebody asks of a run while it is at work: written by `tune`, `pause` and `resume`, read by the runner.

use super::{damaged, failed};
use crate::error::{Error, ErrorKind};
use crate::executor::brake::Brake;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

/// Belongs to the run: it outlives whoever is running it, and the next run of the plan begins without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// Sessions that fill; `None` leaves it at what the plan says.
    pub workers: Option<u32>,
    pub throttle: Brake,
    pub paused: Option<Pause>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub since: Timestamp,
    pub by: String,
}

impl Requests {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn json(&self) -> Value {
        let paused = |pause: &Pause| json!({"since": pause.since, "by": pause.by});
        json!({
            "workers": self.workers,
            "throttle": self.throttle.to_string(),
            "paused": self.paused.as_ref().map(paused),
        })
    }
}

/// Whether the ledger has a place for them: one of an older version has none.
///
/// # Errors
/// Lost connections.
pub async fn exist(client: &impl GenericClient) -> Result<bool, Error> {
    let sql = "SELECT to_regclass('pgmorph.requests') IS NOT NULL";
    let row = client.query_one(sql, &[]).await;
    Ok(row.map_err(failed("looking for the ledger"))?.get(0))
}

/// What is asked of a run at present.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn requests(client: &impl GenericClient, run: i64) -> Result<Requests, Error> {
    let sql = "/* pgmorph ledger */ SELECT workers, throttle, paused_at, paused_by FROM pgmorph.requests \
               WHERE run_id = $1";
    let row = client
        .query_typed_opt(sql, &[(&run, Type::INT8)])
        .await
        .map_err(failed("reading what is asked of the run"))?;
    let Some(row) = row else {
        return Ok(Requests::default());
    };
    let workers: Option<i32> = row.get("workers");
    let throttle: Option<&str> = row.get("throttle");
    let throttle = match throttle.map(str::parse) {
        None => Brake::Off,
        Some(Ok(brake)) => brake,
        Some(Err(_)) => return Err(damaged(format!("unknown throttle {throttle:?}"))),
    };
    let since: Option<Timestamp> = row.get("paused_at");
    let by: Option<String> = row.get("paused_by");
    Ok(Requests {
        workers: workers.and_then(|workers| u32::try_from(workers).ok()),
        throttle,
        paused: since.map(|since| Pause {
            since,
            by: by.unwrap_or_default(),
        }),
    })
}

/// Asks for this many sessions, or this throttle, or both.
///
/// # Errors
/// Lost connections, and a role that may not write to the ledger.
pub async fn tune(
    client: &impl GenericClient,
    run: i64,
    workers: Option<u32>,
    throttle: Option<Brake>,
) -> Result<(), Error> {
    let sql = "INSERT INTO pgmorph.requests AS r (run_id, workers, throttle) VALUES ($1, $2, $3) \
               ON CONFLICT (run_id) DO UPDATE SET workers = coalesce(excluded.workers, r.workers), \
               throttle = coalesce(excluded.throttle, r.throttle)";
    let workers = workers.and_then(|workers| i32::try_from(workers).ok());
    let throttle = throttle.map(|throttle| throttle.to_string());
    let written = client.execute(sql, &[&run, &workers, &throttle]).await;
    written.map(drop).map_err(unwritten)
}

/// Asks the run to stand still. One that is asked already stays as it is, with its time.
///
/// # Errors
/// As for [`tune`].
pub async fn pause(client: &impl GenericClient, run: i64) -> Result<(), Error> {
    let sql = "INSERT INTO pgmorph.requests AS r (run_id, paused_at, paused_by) \
               VALUES ($1, clock_timestamp(), session_user) ON CONFLICT (run_id) DO UPDATE \
               SET paused_at = excluded.paused_at, paused_by = excluded.paused_by WHERE r.paused_at IS NULL";
    client.execute(sql, &[&run]).await.map(drop).map_err(unwritten)
}

/// Lets the run go on. Tells whether it was paused.
///
/// # Errors
/// As for [`tune`].
pub async fn resume(client: &impl GenericClient, run: i64) -> Result<bool, Error> {
    let sql = "UPDATE pgmorph.requests SET paused_at = NULL, paused_by = NULL \
               WHERE run_id = $1 AND paused_at IS NOT NULL";
    let written = client.execute(sql, &[&run]).await.map_err(unwritten)?;
    Ok(written > 0)
}

fn unwritten(error: tokio_postgres::Error) -> Error {
    let error = Error::postgres(
        ErrorKind::StepFailed,
        "writing to the ledger what is asked of the run",
        error,
    );
    match error.sqlstate.as_deref() {
        Some("42501") => error.help("connect as the role that runs the plan"),
        _ => error,
    }
}
