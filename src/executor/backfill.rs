//! Fills rows in short transactions, page range by page range; the cursor is committed with each batch.
//!
//! Walking the heap by TID ranges needs no key. What moves behind the cursor was written by somebody, and the trigger
//! that was there before the range was measured has filled it. A range that meets a locked row is put aside and
//! visited again, instead of waiting in place with other rows locked.

use super::ledger::{self, Cursor};
use super::retry::{Reaction, reaction};
use super::session::{Key, Tries, WATCH_BRIEF, interrupted, millis};
use super::{Interrupt, Runner};
use crate::error::{Error, ErrorKind};
use crate::event::{Event, Unit};
use crate::plan::{Backfill, Work};
use crate::sql::literal;
use deadpool_postgres::Object;
use std::time::{Duration, Instant};
use tokio_postgres::SimpleQueryMessage;

/// A batch should take about this long: its row locks are what the application may wait for.
const BATCH_TARGET: Duration = Duration::from_millis(10);

/// Pages per batch: small enough to start with on any storage, large enough to be worth a commit.
const PAGES_FIRST: i64 = 16;
const PAGES_MAX: i64 = 128;

/// The hard end of a batch: rows that it has locked are not held longer, whatever the next row's lock takes and
/// however full the next pages are.
const BATCH_TIMEOUT_MS: u64 = 250;

/// How long a batch waits for a row that somebody holds before it puts the range aside.
const ROW_LOCK_TIMEOUT_MS: u64 = 100;

/// After so many batches it is measured again what a batch takes that has nothing to do.
const OVERHEAD_EVERY: i64 = 64;

const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// The next batch size: towards the target, growing at most by half and shrinking at once. `overhead` is what a batch
/// of no pages takes: on a busy server more than the target, and then smaller batches would make nothing shorter.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
pub(super) fn next_pages(pages: i64, took: Duration, overhead: Duration) -> i64 {
    let work = took.saturating_sub(overhead);
    let factor = BATCH_TARGET.as_secs_f64() / work.as_secs_f64().max(1e-4);
    let wanted = (pages as f64 * factor.clamp(0.1, 1.5)).round() as i64;
    wanted.clamp(1, PAGES_MAX)
}

/// One batch, in one text: one round trip, one transaction, with its cursor. It also tells the file node, which
/// changes when the table is rewritten meanwhile.
fn batch_sql(backfill: &Backfill, range: (i64, i64), timeout_ms: u64, record: &str) -> String {
    let Backfill {
        table,
        set,
        needs,
        suppress_triggers,
    } = backfill;
    let (first, end) = range;
    let replica = if *suppress_triggers {
        "SET LOCAL session_replication_role = replica; "
    } else {
        ""
    };
    format!(
        "BEGIN; SET LOCAL lock_timeout = '{ROW_LOCK_TIMEOUT_MS}ms'; \
         SET LOCAL statement_timeout = '{timeout_ms}ms'; {replica}\
         UPDATE ONLY {table} SET {set} WHERE ctid >= '({first},0)' AND ctid < '({end},0)' AND ({needs}); \
         SELECT pg_catalog.pg_relation_filenode(to_regclass({})); {record}; COMMIT",
        literal(&table.to_string())
    )
}

/// What a batch did.
enum Filled {
    /// The file node at that time.
    At(Option<u32>),
    /// Somebody holds a row of the range.
    PutAside,
    /// It did not end in time; nothing of it is done.
    TooLong,
}

/// One walk over the table on one session.
struct Walk<'a> {
    key: Key<'a>,
    backfill: &'a Backfill,
    work: &'a Work,
    session: Object,
    pid: i32,
    cursor: Cursor,
    rows_before: i64,
    began: Instant,
    told: Instant,
}

impl Runner {
    pub(super) async fn backfill(
        &self,
        key: Key<'_>,
        backfill: &Backfill,
        work: &Work,
    ) -> Result<u32, Error> {
        let mut tries = Tries::new(self.deadline);
        loop {
            tries.attempt += 1;
            match self.walk(key, backfill, work).await {
                Ok(()) => break,
                Err(error) if error.kind == ErrorKind::Connection => {
                    self.check_run_lock()?;
                    let retry_in_ms = tries.delay().ok_or(error)?;
                    let reason = "the connection broke".into();
                    self.tell(Event::Reconnecting {
                        step: key.step.into(),
                        reason,
                        retry_in_ms,
                    });
                    self.pause(retry_in_ms).await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.record(key).await?;
        Ok(tries.attempt)
    }

    async fn walk(&self, key: Key<'_>, backfill: &Backfill, work: &Work) -> Result<(), Error> {
        let cursor = self.start_cursor(key, backfill).await?;
        let (session, pid) = self.worker().await?;
        let now = Instant::now();
        let rows_before = cursor.rows_done;
        let mut walk = Walk {
            key,
            backfill,
            work,
            session,
            pid,
            cursor,
            rows_before,
            began: now,
            told: now,
        };
        loop {
            self.walk_pages(&mut walk).await?;
            // A table that was rewritten meanwhile has its rows on other pages.
            if self.visit_deferred(&mut walk).await? {
                break;
            }
            walk.cursor = self.new_cursor(backfill).await?;
        }
        // A batch commits its cursor before its rows are counted: this adds those of the last one.
        walk.session
            .batch_execute(&ledger::cursor_sql(key.run, key.step, &walk.cursor))
            .await
            .map_err(|error| Error::postgres(ErrorKind::Connection, &work.summary, error))
    }

    async fn walk_pages(&self, walk: &mut Walk<'_>) -> Result<(), Error> {
        let mut pages = PAGES_FIRST;
        let (mut overhead, mut measure_at) = (Duration::ZERO, walk.cursor.batches);
        while walk.cursor.next_page < walk.cursor.end_page {
            let first = walk.cursor.next_page;
            if walk.cursor.batches >= measure_at {
                overhead = self.overhead(walk, first).await?;
                measure_at = walk.cursor.batches + OVERHEAD_EVERY;
            }
            let end = (first + pages).min(walk.cursor.end_page);
            walk.cursor.next_page = end;
            let began = Instant::now();
            match self.batch(walk, (first, end), BATCH_TIMEOUT_MS).await? {
                Filled::At(file_node) if file_node != Some(walk.cursor.file_node) => {
                    walk.cursor = self.new_cursor(walk.backfill).await?;
                }
                Filled::At(_) => pages = next_pages(pages, began.elapsed(), overhead),
                Filled::PutAside => {}
                Filled::TooLong => {
                    walk.cursor.next_page = first;
                    pages = (pages / 4).max(1);
                }
            }
            self.tell_progress(walk);
            self.stop_if_wanted()?;
        }
        Ok(())
    }

    /// How long a batch of no pages takes; the shorter of two, for one may have met a hiccup.
    async fn overhead(&self, walk: &mut Walk<'_>, page: i64) -> Result<Duration, Error> {
        let mut least = Duration::MAX;
        for _ in 0..2 {
            let began = Instant::now();
            self.batch(walk, (page, page), BATCH_TIMEOUT_MS).await?;
            least = least.min(began.elapsed());
        }
        Ok(least)
    }

    /// Ranges with locked rows, again and again, each time a little later, until the deadline. False when the table
    /// was rewritten meanwhile.
    async fn visit_deferred(&self, walk: &mut Walk<'_>) -> Result<bool, Error> {
        let mut tries = Tries::new(self.deadline);
        while !walk.cursor.deferred.is_empty() {
            let waiting = walk.cursor.deferred.len();
            for _ in 0..waiting {
                // It leaves the cursor with the batch that fills it, or goes back to its end.
                let range = walk.cursor.deferred.remove(0);
                // A page whose rows take so long by themselves, because of slow triggers, gets the time it needs.
                let timeout_ms = if range.1 - range.0 <= 1 {
                    walk.work.timeouts.statement_ms
                } else {
                    BATCH_TIMEOUT_MS
                };
                match self.batch(walk, range, timeout_ms).await? {
                    Filled::At(file_node) if file_node != Some(walk.cursor.file_node) => return Ok(false),
                    Filled::TooLong => walk.cursor.deferred.extend(halves(range)),
                    Filled::At(_) | Filled::PutAside => {}
                }
                self.stop_if_wanted()?;
            }
            if walk.cursor.deferred.len() >= waiting {
                let Some(delay) = tries.delay() else {
                    return Err(Error::new(
                        ErrorKind::Exhausted,
                        format!(
                            "{}: rows on {waiting} page ranges stay locked by others",
                            walk.work.summary
                        ),
                    )
                    .help("end the transactions that hold them, then run the same command again"));
                };
                self.pause(delay).await?;
            }
        }
        Ok(true)
    }

    fn stop_if_wanted(&self) -> Result<(), Error> {
        if self.interrupted() > Interrupt::None {
            return Err(interrupted());
        }
        self.check_run_lock()
    }

    async fn start_cursor(&self, key: Key<'_>, backfill: &Backfill) -> Result<Cursor, Error> {
        let recorded = ledger::cursor(&self.lock.client, key.run, key.step).await?;
        match recorded {
            Some(cursor) if self.same_file(backfill, &cursor).await? => Ok(cursor),
            _ => self.new_cursor(backfill).await,
        }
    }

    async fn file_and_pages(&self, backfill: &Backfill) -> Result<(u32, i64), Error> {
        let (session, _) = self.worker().await?;
        let sql = "SELECT pg_relation_filenode(r), \
                   (pg_relation_size(r) + s.block - 1) / s.block \
                   FROM to_regclass($1) AS r, (SELECT current_setting('block_size')::bigint AS block) s";
        let row = session
            .query_one(sql, &[&backfill.table.to_string()])
            .await
            .map_err(|error| Error::postgres(ErrorKind::StepFailed, "measuring the table", error))?;
        let file_node: Option<u32> = row.get(0);
        let missing = || Error::new(ErrorKind::StepFailed, format!("{} is gone", backfill.table));
        Ok((file_node.ok_or_else(missing)?, row.get(1)))
    }

    async fn new_cursor(&self, backfill: &Backfill) -> Result<Cursor, Error> {
        let (file_node, end_page) = self.file_and_pages(backfill).await?;
        Ok(Cursor {
            file_node,
            next_page: 0,
            end_page,
            deferred: Vec::new(),
            rows_done: 0,
            batches: 0,
        })
    }

    /// A rewritten table (VACUUM FULL, CLUSTER) has its rows on other pages.
    async fn same_file(&self, backfill: &Backfill, cursor: &Cursor) -> Result<bool, Error> {
        Ok(self.file_and_pages(backfill).await?.0 == cursor.file_node)
    }

    /// Fills one range, or puts it aside.
    async fn batch(&self, walk: &mut Walk<'_>, range: (i64, i64), timeout_ms: u64) -> Result<Filled, Error> {
        walk.cursor.batches += 1;
        let record = ledger::cursor_sql(walk.key.run, walk.key.step, &walk.cursor);
        let sql = batch_sql(walk.backfill, range, timeout_ms, &record);
        let sent = walk.session.simple_query(&sql);
        match self
            .watch(walk.key, walk.pid, WATCH_BRIEF, sent, &mut Vec::new())
            .await
        {
            Ok(messages) => {
                walk.cursor.rows_done += rows_of_update(&messages);
                Ok(Filled::At(file_node_of(&messages)))
            }
            Err(error) => {
                let _ = walk.session.batch_execute("ROLLBACK").await;
                self.check_run_lock()?;
                let code = error.as_db_error().map(|db| db.code().code().to_owned());
                match reaction(code.as_deref()) {
                    Reaction::Contention => {
                        walk.cursor.deferred.push(range);
                        Ok(Filled::PutAside)
                    }
                    Reaction::Cancelled if self.interrupted() == Interrupt::Now => Err(interrupted()),
                    // A single page that takes so long has a row that somebody holds.
                    Reaction::Cancelled if range.1 - range.0 <= 1 => {
                        walk.cursor.deferred.push(range);
                        Ok(Filled::PutAside)
                    }
                    Reaction::Cancelled => Ok(Filled::TooLong),
                    Reaction::Lost => Err(Error::postgres(ErrorKind::Connection, &walk.work.summary, error)),
                    _ => Err(Error::postgres(ErrorKind::StepFailed, &walk.work.summary, error)),
                }
            }
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn tell_progress(&self, walk: &mut Walk<'_>) {
        let cursor = &walk.cursor;
        let finished = cursor.next_page >= cursor.end_page;
        if walk.told.elapsed() < PROGRESS_EVERY && !finished {
            return;
        }
        walk.told = Instant::now();
        let seconds = millis(walk.began.elapsed()).max(1) as f64 / 1_000.0;
        self.tell(Event::Progress {
            step: walk.key.step.into(),
            stage: "filling rows".into(),
            unit: Unit::Pages,
            done: u64::try_from(cursor.next_page).unwrap_or(0),
            total: u64::try_from(cursor.end_page).unwrap_or(0),
            rows: u64::try_from(cursor.rows_done).unwrap_or(0),
            per_second: (cursor.rows_done - walk.rows_before) as f64 / seconds,
        });
    }
}

fn halves((first, end): (i64, i64)) -> [(i64, i64); 2] {
    let middle = first + (end - first) / 2;
    [(first, middle), (middle, end)]
}

fn file_node_of(messages: &[SimpleQueryMessage]) -> Option<u32> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    })
}

fn rows_of_update(messages: &[SimpleQueryMessage]) -> i64 {
    let count = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::CommandComplete(rows) => i64::try_from(*rows).ok(),
        _ => None,
    };
    // BEGIN, SET, SET, [SET,] UPDATE, SELECT, ledger, COMMIT: the UPDATE is the fourth from the end.
    messages.iter().filter_map(count).rev().nth(3).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_approach_the_target() {
        let next = |pages, ms| next_pages(pages, Duration::from_millis(ms), Duration::ZERO);
        assert_eq!(next(16, 1), 24);
        assert_eq!(next(100, 20), 50);
        assert_eq!(next(1, 5_000), 1);
        assert_eq!(next(PAGES_MAX, 1), PAGES_MAX);
    }

    #[test]
    fn a_busy_server_does_not_make_batches_of_one_page() {
        let next = |pages, took| next_pages(pages, Duration::from_millis(took), Duration::from_millis(20));
        assert_eq!(next(1, 21), 2);
        assert_eq!(next(16, 25), 24);
        assert_eq!(next(16, 40), 8);
    }
}
