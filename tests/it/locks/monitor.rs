//! Looks from outside how long statements of the application wait for sessions of ours, by the server's own account: a
//! statement counts only while it is blocked by one of our processes, itself or behind another that is.

use crate::harness::Database;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// By the time that we were in their way at most: nobody waits for us before we ask for a lock or have one.
const WAITS: &str = "\
    WITH RECURSIVE waiting AS MATERIALIZED \
     (SELECT l.pid, l.waitstart, pg_blocking_pids(l.pid) AS blockers FROM pg_locks l WHERE NOT l.granted), \
    ours AS (SELECT a.pid, coalesce(a.xact_start, a.query_start) AS since FROM pg_stat_activity a \
     WHERE a.datname = current_database() AND a.application_name LIKE 'pgmorph%'), \
    behind AS (SELECT w.pid, o.since FROM waiting w JOIN ours o ON o.pid = ANY (w.blockers) \
     UNION SELECT w.pid, b.since FROM waiting w JOIN behind b ON b.pid = ANY (w.blockers)) \
    SELECT w.pid, w.waitstart::text, a.application_name, \
     coalesce((extract(epoch FROM clock_timestamp() - greatest(w.waitstart, b.since)) * 1000)::bigint, 0) AS waited, \
     a.query FROM behind b JOIN waiting w USING (pid) JOIN pg_stat_activity a USING (pid) \
    WHERE a.application_name NOT LIKE 'pgmorph%' AND a.backend_type = 'client backend'";

/// What was seen.
#[derive(Debug, Default)]
pub struct Waits {
    pub looks: u64,
    /// Statements that waited for us.
    pub waits: usize,
    pub worst_ms: i64,
    pub worst: String,
}

pub struct Monitor {
    stop: watch::Sender<bool>,
    looking: JoinHandle<Waits>,
}

impl Monitor {
    pub async fn start(database: &Database<'_>) -> Self {
        let client = database.server.connect(&database.name).await;
        let (stop, stopped) = watch::channel(false);
        let looking = tokio::spawn(async move {
            let mut found = Waits::default();
            let mut known = std::collections::BTreeSet::new();
            let look = client.prepare(WAITS).await.unwrap();
            while !*stopped.borrow() {
                for row in client.query(&look, &[]).await.unwrap() {
                    known.insert((row.get::<_, i32>(0), row.get::<_, Option<String>>(1)));
                    let waited: i64 = row.get(3);
                    if waited > found.worst_ms {
                        found.worst_ms = waited;
                        found.worst = format!("{}: {}", row.get::<_, &str>(2), row.get::<_, &str>(4));
                    }
                }
                found.looks += 1;
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            found.waits = known.len();
            found
        });
        Self { stop, looking }
    }

    pub async fn stop(self) -> Waits {
        self.stop.send_replace(true);
        self.looking.await.unwrap()
    }
}
