//! Asks the server how others are doing, beside the batches: before each of them only the last answer is looked at.

use super::Hand;
use super::controller::Lesson;
use super::horizon::Oldest;
use super::standbys::{Findings, Receiver};
use super::throttle::{GivenUp, Signals};
use super::walk::Walk;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::executor::ledger::requests::{self, Requests};
use crate::executor::session::{holder_line, millis};
use crate::executor::{Runner, asked, locks};
use crate::units;
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// How far the WAL is, how much of it the archiver has not got yet, and the replication slot that keeps most of it or is
/// about to lose what it needs. A segment counts once it is full.
const WAL: &str = "\
    SELECT w.position::bigint AS position, s.slot, s.retained, s.keeps, \
     CASE WHEN current_setting('archive_mode') = 'off' THEN 0 \
          ELSE coalesce(greatest(floor(w.position / g.size) - a.archived - 1, 0) * g.size, 0) END::bigint AS backlog \
    FROM (SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS position) AS w \
    CROSS JOIN (SELECT pg_size_bytes(current_setting('wal_segment_size'))::numeric AS size) AS g \
    CROSS JOIN LATERAL (SELECT ('x' || substr(f.name, 9, 8))::bit(32)::bigint * (4294967296 / g.size) \
      + ('x' || substr(f.name, 17, 8))::bit(32)::bigint AS archived \
     FROM (SELECT substring(coalesce(last_archived_wal, last_failed_wal) FROM '^[0-9A-F]{24}') AS name \
      FROM pg_catalog.pg_stat_archiver) AS f) AS a \
    LEFT JOIN LATERAL (SELECT r.slot_name::text AS slot, (w.position - (r.restart_lsn - '0/0'))::bigint AS retained, \
      CASE WHEN r.active AND k.size >= 0 THEN k.size END AS keeps \
     FROM pg_catalog.pg_replication_slots AS r, \
      (SELECT pg_size_bytes(current_setting('max_slot_wal_keep_size')) AS size) AS k \
     WHERE r.restart_lsn IS NOT NULL \
     ORDER BY r.active AND k.size >= 0 AND w.position - (r.restart_lsn - '0/0') > k.size / 4 * 3 DESC, 2 DESC LIMIT 1) AS s ON true";

/// For how long somebody has waited for a row of the table: for the transaction that holds it, or for his turn. Only the
/// table that he has locked already tells whose row it is.
const WAITS: &str = "\
    SELECT coalesce(max(extract(epoch FROM clock_timestamp() - w.waitstart) * 1000), 0)::bigint \
    FROM pg_catalog.pg_locks w JOIN pg_catalog.pg_locks t ON t.pid = w.pid AND t.granted \
     AND t.locktype = 'relation' AND t.relation = to_regclass($1) \
     AND t.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
    WHERE NOT w.granted AND w.locktype IN ('transactionid', 'tuple') \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks ours WHERE ours.pid = w.pid \
      AND ours.locktype = 'advisory' AND ours.objsubid = 1 \
      AND (ours.classid::bigint << 32 | ours.objid::bigint) = $2)";

/// Who receives WAL, base backups left out. All but the name is hidden from roles without `pg_read_all_stats`.
const RECEIVERS: &str = "\
    SELECT coalesce(r.application_name, '') AS name, coalesce(r.client_addr::text, '') AS address, \
     EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS s \
      WHERE s.active_pid = r.pid AND s.slot_type = 'logical') AS logical, r.state IS NULL AS hidden, \
     pg_wal_lsn_diff(r.replay_lsn, '0/0')::bigint AS replayed, \
     coalesce(extract(epoch FROM r.replay_lag) * 1000, 0)::bigint AS reported \
    FROM pg_catalog.pg_stat_replication AS r WHERE r.state IS DISTINCT FROM 'backup'";

fn receiver(row: &Row) -> Receiver {
    Receiver {
        name: row.get("name"),
        address: row.get("address"),
        logical: row.get("logical"),
        hidden: row.get("hidden"),
        replayed: row.get("replayed"),
        reported_ms: row.get("reported"),
    }
}

const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// While a standby comes close to its limit: what is written from one look to the next adds to it.
const SAMPLE_CLOSELY: Duration = Duration::from_millis(100);
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
            tokio::time::sleep(if walk.is_close() {
                SAMPLE_CLOSELY
            } else {
                SAMPLE_EVERY
            })
            .await;
            self.look_around(walk).await;
        }
    }

    /// A reading that fails is none: the last one gets old.
    pub(super) async fn look_around(&self, walk: &Walk<'_>) {
        // Five questions at once take room.
        let Ok((signals, asked)) = Box::pin(self.sample(walk)).await else {
            return;
        };
        let who = signals.oldest.as_ref().map(|oldest| oldest.who.clone());
        if let Some(what) = walk.unseen(&signals.standbys.hidden) {
            self.note(walk, what);
        }
        let (known, lesson) = walk.sampled(signals, asked.clone());
        for what in asked::news(&known, &asked, walk.job.workers(), &self.plan) {
            self.note(walk, what);
        }
        match lesson {
            Lesson::HorizonHeld => self.note(
                walk,
                super::leaving(&format!(
                    "old row versions are kept for {}",
                    who.unwrap_or_default()
                )),
            ),
            Lesson::HorizonReleased => {
                self.note(
                    walk,
                    "old row versions are not kept any more: updated rows stay on their pages".into(),
                );
            }
            Lesson::Nothing | Lesson::PassesAreUseless => {}
        }
    }

    /// All questions at once: over a long way each would take as long as a batch.
    async fn sample(&self, walk: &Walk<'_>) -> Result<(Signals, Requests), Error> {
        let failed = |error| Error::postgres(ErrorKind::Connection, "asking how others are doing", error);
        let observer = self
            .observers
            .get()
            .await
            .map_err(crate::executor::session::pool_error)?;
        let table = walk.job.table().to_string();
        let (waiting, receivers, wal, oldest, asked) = tokio::try_join!(
            async {
                observer
                    .query_typed_one(WAITS, &[(&table, Type::TEXT), (&locks::WORKERS_LOCK, Type::INT8)])
                    .await
                    .map_err(failed)
            },
            async { observer.query_typed(RECEIVERS, &[]).await.map_err(failed) },
            async { observer.query_typed_one(WAL, &[]).await.map_err(failed) },
            locks::oldest(&**observer),
            requests::requests(&**observer, walk.key.run),
        )?;
        let oldest = oldest.map(|oldest| Oldest {
            who: match &oldest.slot {
                Some(slot) => format!("replication slot {slot}"),
                None => holder_line(&oldest.blocker),
            },
            xmin: oldest.xmin,
            held_ms: oldest.held_ms,
        });
        let receivers: Vec<Receiver> = receivers.iter().map(receiver).collect();
        let position = wal.get("position");
        let signals = Signals {
            waited_ms: waiting.get(0),
            standbys: self.look_at_standbys(walk, position, &receivers),
            wal_position: position,
            archive_backlog_bytes: wal.get("backlog"),
            slot: wal.get::<_, Option<String>>("slot").unwrap_or_default(),
            retained_bytes: wal.get::<_, Option<i64>>("retained").unwrap_or(0),
            slot_keeps_bytes: wal.get("keeps"),
            oldest,
        };
        Ok((signals, asked))
    }

    fn look_at_standbys(&self, walk: &Walk<'_>, position: i64, receivers: &[Receiver]) -> Findings {
        let mut standbys = self.standbys.lock().unwrap_or_else(PoisonError::into_inner);
        standbys.look(self.began.elapsed(), position, receivers, walk.limits())
    }

    /// Waits until nothing speaks against writing, and gives how long that took; at the deadline the run stops, and can go
    /// on later. A pause has none.
    pub(super) async fn stand_aside(&self, walk: &Walk<'_>, hand: &Hand) -> Result<Duration, Error> {
        let arrived = Instant::now();
        while let Some(left) = walk.rest_left(&hand.rest) {
            self.pause(millis(left).clamp(1, LOOK_EVERY_MS)).await?;
        }
        let mut began = Instant::now();
        loop {
            if let Some(GivenUp { kind, why, help }) = walk.given_up() {
                let message = format!("{}: {why}", walk.work.summary);
                return Err(Error::new(kind, message).help(help));
            }
            let Some(reason) = walk.hindrance() else { break };
            if walk.is_stopped() {
                break;
            }
            if walk.is_paused() {
                began = Instant::now();
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
        Ok(arrived.elapsed())
    }
}
