//! Fills rows in short transactions, stretch by stretch of pages; the cursor is committed with the batch that moves it.
//!
//! Walking the heap by TID ranges needs no key. What moves behind the cursor was written by somebody, and the trigger
//! that was there before the range was measured has filled it. Each stretch is visited in several passes, see
//! [`slices`]. Pages that meet a locked row are put aside and visited again, instead of waiting in place with other rows
//! locked.

use super::ledger::{self, Cursor};
use super::locks;
use super::retry::{Reaction, reaction};
use super::session::{Key, Tries, WATCH_BRIEF, holder_line, interrupted};
use super::{Interrupt, Runner};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::plan::{Backfill, Work};
use controller::{Lesson, Pacer, Seen, Shape, Updates, shrunk};
use deadpool_postgres::Object;
use futures_util::future::join_all;
use ranges::Range;
use slices::{Visit, visits};
use std::time::{Duration, Instant};
use walk::Walk;

mod batch;
mod controller;
mod ranges;
mod slices;
mod walk;

/// The hard end of a batch: rows that it has locked are not held longer, whatever the next row's lock takes and
/// however full the next pages are.
const BATCH_TIMEOUT_MS: u64 = 250;

/// After so many batches it is measured again what a batch takes that has nothing to do.
const OVERHEAD_EVERY: u32 = 64;

/// Pages that tell how many rows are on one.
const SAMPLE_PAGES: i64 = 16;

/// What a batch did.
enum Filled {
    Rows(Updates),
    /// The table has another file by now.
    Elsewhere,
    /// Somebody holds a row of these pages.
    PutAside,
    /// It did not end in time; nothing of it is done.
    TooLong,
}

/// How the visits to a stretch ended.
enum Stretch {
    Filled,
    TooLong,
    Stopped,
}

/// A session at work.
struct Hand {
    session: Object,
    pid: i32,
    /// The server's counts of updates of this session, as last seen.
    counted: Updates,
    /// What a batch of no pages takes, and for how many more batches that is believed.
    overhead: (Duration, u32),
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
        let mut cursor = self.start_cursor(key, backfill).await?;
        loop {
            let pacer = self.pacer(backfill, cursor.end_page).await?;
            let walk = Walk::new(key, backfill, work, cursor, pacer);
            let hands = (0..walk.workers()).map(|_| self.fill_stretches(&walk));
            join_all(hands).await.into_iter().collect::<Result<(), Error>>()?;
            if !walk.is_stopped() {
                self.visit_deferred(&walk).await?;
            }
            if !walk.is_stopped() {
                // What was counted after the last record.
                let record = walk.record_sql(None);
                let recorded = self.lock.client.batch_execute(&record);
                return recorded
                    .await
                    .map_err(|error| Error::postgres(ErrorKind::StepFailed, &work.summary, error));
            }
            // A table that was rewritten meanwhile has its rows on other pages.
            cursor = self.new_cursor(backfill).await?;
        }
    }

    /// One worker.
    async fn fill_stretches(&self, walk: &Walk<'_>) -> Result<(), Error> {
        let result = async {
            let mut hand = self.hand().await?;
            while let Some((range, shape)) = walk.take() {
                self.fill_stretch(walk, &mut hand, range, shape).await?;
            }
            Ok(())
        };
        // The others end with their batches: their sessions must not be given back at work.
        result.await.inspect_err(|_| walk.stop())
    }

    async fn hand(&self) -> Result<Hand, Error> {
        let (session, pid) = self.worker().await?;
        Ok(Hand {
            session,
            pid,
            counted: Updates::default(),
            overhead: (Duration::ZERO, 0),
        })
    }

    async fn fill_stretch(
        &self,
        walk: &Walk<'_>,
        hand: &mut Hand,
        range: Range,
        mut shape: Shape,
    ) -> Result<(), Error> {
        loop {
            let mut seen = Seen::new(shape, hand.overhead.0);
            match self.visit_all(walk, hand, range, &mut seen).await? {
                Stretch::Filled => {
                    let lesson = walk.finish(range, &seen);
                    self.tell_lesson(walk, lesson).await;
                    self.tell_progress(walk);
                    return Ok(());
                }
                // What is filled is filled: it starts over with smaller batches.
                Stretch::TooLong => {
                    shape = shrunk(shape);
                    walk.shrink();
                }
                Stretch::Stopped => return Ok(()),
            }
        }
    }

    async fn visit_all(
        &self,
        walk: &Walk<'_>,
        hand: &mut Hand,
        range: Range,
        seen: &mut Seen,
    ) -> Result<Stretch, Error> {
        let mut held: Vec<Range> = Vec::new();
        let mut left = visits(range, seen.shape).peekable();
        while let Some(visit) = left.next() {
            // Pages that were put aside get their last visit later.
            if visit.is_last() && held.contains(&visit.pages) {
                continue;
            }
            seen.overhead = self.overhead(walk, hand, visit.pages.0).await?;
            let fills = left.peek().is_none().then_some(range);
            let began = Instant::now();
            match self.batch(walk, hand, &visit, BATCH_TIMEOUT_MS, fills).await? {
                Filled::Rows(updates) => {
                    seen.times.push(began.elapsed());
                    match visit.pass {
                        0 => seen.first_pass.add(updates),
                        _ => seen.later_passes.add(updates),
                    }
                }
                Filled::PutAside => held.push(visit.pages),
                Filled::TooLong => return Ok(Stretch::TooLong),
                Filled::Elsewhere => walk.stop(),
            }
            self.tell_progress(walk);
            self.stop_if_wanted()?;
            if walk.is_stopped() {
                return Ok(Stretch::Stopped);
            }
        }
        Ok(Stretch::Filled)
    }

    /// How long a batch of no pages takes; the shorter of two, for one may have met a hiccup.
    async fn overhead(&self, walk: &Walk<'_>, hand: &mut Hand, page: i64) -> Result<Duration, Error> {
        if let (least, left @ 1..) = hand.overhead {
            hand.overhead.1 = left - 1;
            return Ok(least);
        }
        let mut least = Duration::MAX;
        for _ in 0..2 {
            let began = Instant::now();
            self.batch(walk, hand, &Visit::whole((page, page)), BATCH_TIMEOUT_MS, None)
                .await?;
            least = least.min(began.elapsed());
        }
        hand.overhead = (least, OVERHEAD_EVERY);
        Ok(least)
    }

    /// Pages with locked rows, again and again, each time a little later, until the deadline.
    async fn visit_deferred(&self, walk: &Walk<'_>) -> Result<(), Error> {
        let mut tries = Tries::new(self.deadline);
        let mut hand = self.hand().await?;
        loop {
            let waiting = walk.deferred();
            for _ in 0..waiting {
                // It leaves the cursor with the batch that fills it, or goes back to its end.
                let Some(range) = walk.take_deferred() else { break };
                // A page whose rows take so long by themselves, because of slow triggers, gets the time it needs.
                let timeout_ms = if range.1 - range.0 <= 1 {
                    walk.work.timeouts.statement_ms
                } else {
                    BATCH_TIMEOUT_MS
                };
                let visit = Visit::whole(range);
                match self.batch(walk, &mut hand, &visit, timeout_ms, None).await? {
                    Filled::Elsewhere => {
                        walk.stop();
                        return Ok(());
                    }
                    Filled::TooLong => halves(range).into_iter().for_each(|half| walk.defer(half)),
                    Filled::Rows(_) | Filled::PutAside => {}
                }
                self.stop_if_wanted()?;
            }
            match walk.deferred() {
                0 => return Ok(()),
                left if left < waiting => {}
                _ => {
                    let delay = tries.delay().ok_or_else(|| still_locked(walk, waiting))?;
                    self.pause(delay).await?;
                }
            }
        }
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

    /// Looks at some pages in the middle, and how full pages are to be.
    async fn pacer(&self, backfill: &Backfill, pages: i64) -> Result<Pacer, Error> {
        let (session, _) = self.worker().await?;
        let first = (pages - SAMPLE_PAGES).max(0) / 2;
        let end = (first + SAMPLE_PAGES).min(pages);
        let sql = format!(
            "SELECT (SELECT count(*) FROM ONLY {} WHERE ctid >= '({first},0)' AND ctid < '({end},0)'), \
             coalesce((SELECT o.option_value FROM pg_catalog.pg_options_to_table(c.reloptions) AS o \
             WHERE o.option_name = 'fillfactor')::bigint, 100) \
             FROM pg_catalog.pg_class c WHERE c.oid = to_regclass($1)",
            backfill.table
        );
        let row = session
            .query_one(&sql, &[&backfill.table.to_string()])
            .await
            .map_err(|error| Error::postgres(ErrorKind::StepFailed, "measuring the table", error))?;
        let rows: i64 = row.get(0);
        Ok(Pacer::new(rows / (end - first).max(1), row.get(1)))
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

    /// Fills the rows of one visit, or puts its pages aside. `fills` is the range that is filled with it.
    async fn batch(
        &self,
        walk: &Walk<'_>,
        hand: &mut Hand,
        visit: &Visit,
        timeout_ms: u64,
        fills: Option<Range>,
    ) -> Result<Filled, Error> {
        let record = walk.record_if_due(fills);
        let sql = batch::sql(walk.backfill, visit, timeout_ms, record.as_deref());
        let sent = hand.session.simple_query(&sql);
        match self
            .watch(walk.key, hand.pid, WATCH_BRIEF, sent, &mut Vec::new())
            .await
        {
            Ok(messages) => {
                let answer = batch::answer(walk.backfill, &messages);
                let updates = batch::added(hand.counted, answer.counted, answer.rows);
                hand.counted = answer.counted;
                walk.committed(answer.rows, record.is_some());
                Ok(match answer.file_node == Some(walk.file_node) {
                    true => Filled::Rows(updates),
                    false => Filled::Elsewhere,
                })
            }
            Err(error) => {
                let _ = hand.session.batch_execute("ROLLBACK").await;
                self.check_run_lock()?;
                self.unfilled(walk, visit, error)
            }
        }
    }

    fn unfilled(
        &self,
        walk: &Walk<'_>,
        visit: &Visit,
        error: tokio_postgres::Error,
    ) -> Result<Filled, Error> {
        let pages = visit.pages;
        let code = error.as_db_error().map(|db| db.code().code().to_owned());
        match reaction(code.as_deref()) {
            Reaction::Contention => {
                walk.defer(pages);
                Ok(Filled::PutAside)
            }
            Reaction::Cancelled if self.interrupted() == Interrupt::Now => Err(interrupted()),
            // A single page that takes so long has a row that somebody holds.
            Reaction::Cancelled if pages.1 - pages.0 <= 1 => {
                walk.defer(pages);
                Ok(Filled::PutAside)
            }
            Reaction::Cancelled => Ok(Filled::TooLong),
            Reaction::Lost => Err(Error::postgres(ErrorKind::Connection, &walk.work.summary, error)),
            _ => Err(Error::postgres(ErrorKind::StepFailed, &walk.work.summary, error)),
        }
    }

    fn tell_progress(&self, walk: &Walk<'_>) {
        if let Some(progress) = walk.progress() {
            self.tell(progress);
        }
    }

    async fn tell_lesson(&self, walk: &Walk<'_>, lesson: Lesson) {
        if lesson == Lesson::Nothing {
            return;
        }
        let holder = match self.observers.get().await {
            Ok(observer) => locks::horizon_holder(&**observer).await.unwrap_or_default(),
            Err(_) => None,
        };
        let why = match holder {
            Some(holder) => format!("old row versions are kept for {}", holder_line(&holder)),
            None => "an index may cover what is filled".into(),
        };
        self.tell(Event::Noted {
            step: walk.key.step.into(),
            what: format!("updated rows do not stay on their pages, which costs time, WAL and space: {why}"),
        });
    }
}

fn still_locked(walk: &Walk<'_>, ranges: usize) -> Error {
    let summary = &walk.work.summary;
    Error::new(
        ErrorKind::Exhausted,
        format!("{summary}: rows on {ranges} page ranges stay locked by others"),
    )
    .help("end the transactions that hold them, then run the same command again")
}

fn halves((first, end): Range) -> [Range; 2] {
    let middle = first + (end - first) / 2;
    [(first, middle), (middle, end)]
}
