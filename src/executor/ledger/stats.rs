//! What the ledger keeps of how steps went, for reports alone.

use super::{damaged, failed};
use crate::error::Error;
use crate::executor::stats::StepStats;
use crate::sql::literal;
use serde::Serialize;
use tokio_postgres::GenericClient;

/// One step, or its undoing.
#[derive(Debug, Clone, Serialize)]
pub struct Recorded {
    pub step: String,
    pub undo: bool,
    #[serde(flatten)]
    pub stats: StepStats,
}

pub(in crate::executor) fn write_sql(run: i64, step: &str, undo: bool, stats: &StepStats) -> String {
    let text = serde_json::to_string(stats).unwrap_or_else(|_| "{}".into());
    format!(
        "/* pgmorph ledger */ INSERT INTO pgmorph.step_stats (run_id, step_id, undo, stats) \
         VALUES ({run}, {}, {undo}, {}) ON CONFLICT (run_id, step_id, undo) DO UPDATE SET stats = excluded.stats",
        literal(step),
        literal(&text)
    )
}

/// What is known of the steps of a run; nothing where the ledger is of an earlier version.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn read(client: &impl GenericClient, run: i64) -> Result<Vec<Recorded>, Error> {
    let there = "SELECT to_regclass('pgmorph.step_stats') IS NOT NULL";
    let row = client.query_one(there, &[]).await;
    if !row.map_err(failed("looking for the ledger"))?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let sql = "SELECT step_id, undo, stats FROM pgmorph.step_stats WHERE run_id = $1";
    let rows = client
        .query(sql, &[&run])
        .await
        .map_err(failed("reading how steps went"))?;
    let recorded = |row: &tokio_postgres::Row| {
        let stats = serde_json::from_str(row.get("stats"));
        Ok(Recorded {
            step: row.get("step_id"),
            undo: row.get("undo"),
            stats: stats.map_err(|error| damaged(format!("how a step went: {error}")))?,
        })
    };
    rows.iter().map(recorded).collect()
}
