//! Asks the server how others are doing, beside the batches: before each of them only the last answer is looked at.

use super::throttle::Signals;
use super::walk::Walk;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::executor::session::millis;
use crate::executor::{Runner, locks};
use crate::units;
use std::time::{Duration, Instant};

const SAMPLE_EVERY: Duration = Duration::from_millis(500);
const LOOK_EVERY_MS: u64 = 50;
const TELL_EVERY: Duration = Duration::from_secs(1);

impl Runner {
    /// Never ends by itself.
    pub(super) async fn keep_sampling(&self, walk: &Walk<'_>) {
        let mut told: Option<Instant> = None;
        let mut aside: Option<Instant> = None;
        loop {
            match walk.hindrance() {
                None => (told, aside) = (None, None),
                Some(reason) => {
                    let since = *aside.get_or_insert_with(Instant::now);
                    if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                        told = Some(Instant::now());
                        self.tell(Event::StandingAside {
                            step: walk.key.step.into(),
                            reason,
                            waited_ms: millis(since.elapsed()),
                        });
                    }
                }
            }
            tokio::time::sleep(SAMPLE_EVERY).await;
            self.look_around(walk).await;
        }
    }

    /// A reading that fails is none: the last one gets old.
    pub(super) async fn look_around(&self, walk: &Walk<'_>) {
        if let Ok(signals) = self.sample(walk).await {
            walk.sampled(signals);
        }
    }

    async fn sample(&self, walk: &Walk<'_>) -> Result<Signals, Error> {
        let failed = |error| Error::postgres(ErrorKind::Connection, "asking how others are doing", error);
        let observer = self
            .observers
            .get()
            .await
            .map_err(crate::executor::session::pool_error)?;
        // Who waits for a row waits for the transaction that holds it, or for its turn; only the table that he has
        // locked already tells whose row it is.
        let waits = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - w.waitstart) * 1000), 0)::bigint \
                     FROM pg_catalog.pg_locks w JOIN pg_catalog.pg_locks t ON t.pid = w.pid AND t.granted \
                      AND t.locktype = 'relation' AND t.relation = to_regclass($1) \
                      AND t.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
                     WHERE NOT w.granted AND w.locktype IN ('transactionid', 'tuple') \
                      AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks ours WHERE ours.pid = w.pid \
                       AND ours.locktype = 'advisory' AND ours.objsubid = 1 \
                       AND (ours.classid::bigint << 32 | ours.objid::bigint) = $2)";
        let table = walk.backfill.table.to_string();
        let row = observer
            .query_one(waits, &[&table, &locks::WORKERS_LOCK])
            .await
            .map_err(failed)?;
        let standbys = "SELECT coalesce(nullif(application_name, ''), client_addr::text, '?'), \
                        coalesce(extract(epoch FROM replay_lag) * 1000, 0)::bigint, \
                        coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn), 0)::bigint \
                        FROM pg_catalog.pg_stat_replication WHERE state = 'streaming' ORDER BY 2 DESC, 3 DESC LIMIT 1";
        let standby = observer.query_opt(standbys, &[]).await.map_err(failed)?;
        Ok(Signals {
            waited_ms: row.get(0),
            standby: standby.as_ref().map(|row| row.get(0)).unwrap_or_default(),
            delay_ms: standby.as_ref().map_or(0, |row| row.get(1)),
            distance_bytes: standby.as_ref().map_or(0, |row| row.get(2)),
        })
    }

    /// Waits until nothing speaks against writing; at the deadline the run stops, and can go on later.
    pub(super) async fn stand_aside(&self, walk: &Walk<'_>) -> Result<(), Error> {
        let began = Instant::now();
        while let Some(reason) = walk.hindrance() {
            if walk.is_stopped() {
                return Ok(());
            }
            if began.elapsed() >= self.deadline {
                let message = format!(
                    "{}: stood aside for {}: {reason}",
                    walk.work.summary,
                    units::duration(began.elapsed())
                );
                return Err(Error::new(ErrorKind::Exhausted, message).help(
                    "what is filled stays filled: run the same command again when the server has recovered",
                ));
            }
            self.pause(LOOK_EVERY_MS).await?;
        }
        Ok(())
    }
}
