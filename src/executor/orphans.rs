//! Sessions whose runner is gone, or has lost sight of them. A server learns that a client is gone only from the network;
//! behind a proxy that keeps its connection open it never does, and the session would keep its locks for ever.

use super::{Runner, locks};
use crate::error::{Error, ErrorKind};
use crate::postgres::settings::{Bounds, Session};
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_postgres::SimpleQueryMessage;

/// How often the session of the run lock is used, if only to show that somebody is there.
const PING_EVERY: Duration = Duration::from_secs(5);

/// The server ends the session of the run lock when it was not used for so long.
const LOCK_IDLE: Duration = Duration::from_secs(30);

/// A holder of the run lock that has not said anything for so long has missed a ping.
const SILENT_AFTER_MS: i64 = 10_000;

/// How long a session that was told to end may take.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Of the session that holds the run lock: it idles while long steps run, and its short statements must not wait for
/// anything.
pub(super) const LOCK_BOUNDS: Bounds = Bounds {
    statement: Duration::from_secs(30),
    lock: Duration::from_secs(5),
    idle_in_transaction: Duration::from_secs(30),
    idle: LOCK_IDLE,
};

/// Of the sessions that work; each work sets its own on top. Between the statements of a transaction nothing is
/// thought about: one that waits for us has lost us, and its locks keep the application waiting meanwhile.
pub(super) const WORKER_BOUNDS: Bounds = Bounds {
    statement: Duration::from_secs(30),
    lock: Duration::ZERO,
    idle_in_transaction: Duration::from_secs(1),
    idle: Duration::ZERO,
};

/// Of the sessions that look what others do.
pub(super) const OBSERVER_BOUNDS: Bounds = Bounds {
    statement: Duration::from_secs(5),
    lock: Duration::from_secs(1),
    idle_in_transaction: Duration::from_secs(5),
    idle: Duration::ZERO,
};

/// Processes of sessions of ours whose connection broke at work.
#[derive(Debug, Default)]
pub(super) struct Orphans(Mutex<Vec<i32>>);

impl Orphans {
    pub(super) fn note<T>(&self, pid: i32, result: &Result<T, tokio_postgres::Error>) {
        let lost = matches!(result, Err(error) if error.as_db_error().is_none());
        if lost {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
        }
    }

    fn take(&self) -> Vec<i32> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Runner {
    /// Does that, and shows on the session of the run lock meanwhile that somebody is there.
    pub(super) async fn while_kept<T>(&self, does: impl Future<Output = T>) -> T {
        tokio::select! {
            result = does => result,
            never = self.keep_lock() => match never {},
            never = self.keep_recording() => match never {},
        }
    }

    /// Never ends. The server takes a run lock that is not used for one whose holder is gone, and a connection that
    /// passes nothing on is noticed only when something is asked.
    async fn keep_lock(&self) -> Infallible {
        loop {
            tokio::time::sleep(PING_EVERY).await;
            // That it fails shows in the session itself.
            let _ = self.lock.client.simple_query("").await;
        }
    }

    /// Ends what our lost sessions still do on the server, before anything is tried again: it would wait for their locks,
    /// or be done twice.
    pub(super) async fn end_orphans(&self) {
        for pid in self.orphans.take() {
            // Whoever cannot be ended ends by its timeouts; its successor waits for it.
            let ending = end(&self.lock.client, pid);
            let _ = tokio::time::timeout(ENDS_WITHIN, ending).await;
        }
    }
}

/// Returns when there is no such session of ours any more.
async fn end(client: &tokio_postgres::Client, pid: i32) -> Result<(), Error> {
    let failed = |error| Error::postgres(ErrorKind::StepFailed, "ending a lost session", error);
    // Our sessions are those of the login, whatever role they act as.
    let sql = format!(
        "SET LOCAL ROLE NONE; SELECT pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l \
         WHERE l.pid = {pid} AND l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
          AND (l.classid::bigint << 32 | l.objid::bigint) = {} \
          AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())",
        locks::WORKERS_LOCK
    );
    loop {
        let ended = client.simple_query(&sql).await.map_err(failed)?;
        if !ended
            .iter()
            .any(|message| matches!(message, SimpleQueryMessage::Row(_)))
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How long to wait for a run lock that somebody holds: one whose holder shows no life is about to be free.
pub(super) async fn patience(lock: &Session, crashed_for: Duration) -> Result<Duration, Error> {
    let sql = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - a.state_change) * 1000), 0)::bigint \
               FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid AND a.state = 'idle' \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                AND (l.classid::bigint << 32 | l.objid::bigint) = $1 \
                AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())";
    let row = lock
        .client
        .query_one(sql, &[&locks::RUN_LOCK])
        .await
        .map_err(|error| Error::postgres(ErrorKind::Connection, "asking who runs a plan", error))?;
    let silent: i64 = row.get(0);
    if silent < SILENT_AFTER_MS {
        return Ok(crashed_for);
    }
    tracing::warn!(
        "the session that holds the run lock shows no sign of life; the server ends it within {} s",
        LOCK_IDLE.as_secs()
    );
    Ok(LOCK_IDLE + ENDS_WITHIN)
}

/// With the run lock in hand: whoever still works for an earlier runner works for nobody. Those of other roles may not be
/// ended by us.
pub(super) async fn end_workers(lock: &Session) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        let left = locks::holders_of(&lock.client, locks::WORKERS_LOCK).await?;
        if left.is_empty() || began.elapsed() > ENDS_WITHIN {
            return Ok(());
        }
        for pid in left.iter().filter_map(|holder| holder.pid) {
            // Refused for a session of another role.
            let sql = format!("SET LOCAL ROLE NONE; SELECT pg_terminate_backend({pid})");
            let _ = lock.client.simple_query(&sql).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
