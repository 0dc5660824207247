//! What a run that goes on waits for and how far it is, seen by somebody who looks on from outside.

use super::locks;
use crate::error::{Error, ErrorKind};
use crate::event::Blocker;
use serde::Serialize;
use tokio_postgres::GenericClient;

/// A concurrent index build of ours, as the server shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Building {
    /// The server's word for what it does.
    pub stage: String,
    /// `blocks` or `tuples`.
    pub unit: &'static str,
    pub done: u64,
    pub total: u64,
}

/// Who keeps working sessions of ours on this database waiting for a lock at this moment.
///
/// # Errors
/// Lost connections.
pub async fn in_the_way(client: &impl GenericClient) -> Result<Vec<Blocker>, Error> {
    let sql = "SELECT DISTINCT l.pid FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
               WHERE NOT l.granted AND a.datname = current_database() AND a.application_name = 'pgmorph' \
                AND a.pid <> pg_backend_pid() ORDER BY l.pid";
    let failed = |error| Error::postgres(ErrorKind::Connection, "looking who waits", error);
    let mut found: Vec<Blocker> = Vec::new();
    for row in client.query(sql, &[]).await.map_err(failed)? {
        for blocker in locks::blockers_of(client, row.get(0)).await? {
            if !found.contains(&blocker) {
                found.push(blocker);
            }
        }
    }
    Ok(found)
}

/// The index build of ours that is under way on this database.
///
/// # Errors
/// Lost connections.
pub async fn building(client: &impl GenericClient) -> Result<Option<Building>, Error> {
    let sql = "SELECT p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total \
               FROM pg_catalog.pg_stat_progress_create_index p JOIN pg_catalog.pg_stat_activity a ON a.pid = p.pid \
               WHERE p.datname = current_database() AND a.application_name = 'pgmorph' LIMIT 1";
    let row = client
        .query_opt(sql, &[])
        .await
        .map_err(|error| Error::postgres(ErrorKind::Connection, "looking how far an index is", error))?;
    Ok(row.map(|row| {
        let count = |name: &str| {
            let count: Option<i64> = row.get(name);
            count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
        };
        let (unit, done, total) = match count("blocks_total") {
            0 => ("tuples", count("tuples_done"), count("tuples_total")),
            total => ("blocks", count("blocks_done"), total),
        };
        Building {
            stage: row.get::<_, Option<String>>("phase").unwrap_or_default(),
            unit,
            done,
            total,
        }
    }))
}
