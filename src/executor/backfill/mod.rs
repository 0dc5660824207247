//! Fills rows, or copies them, in short transactions, stretch by stretch of pages; the cursor is committed with the batch that moves it.
//!
//! Walking the heap by TID ranges needs no key. What moves behind the cursor was written by somebody, and the trigger
//! that was there before the range was measured has filled it. Each stretch is visited in several passes, see
//! [`slices`]. Pages that meet a locked row are put aside and visited again, instead of waiting in place with other rows
//! locked.

use super::retry::{Reaction, reaction};
use super::session::{Key, Tries, WATCH_BRIEF, WORTH_TELLING, blocker_line, interrupted, millis};
use super::{Interrupt, Replicas, Runner, ledger};
use crate::error::{Error, ErrorKind};
use crate::event::{Blocker, Event};
use crate::plan::{Limits, Work};
use batch::Bounds;
use controller::{Lesson, Seen, Shape, Updates, shrunk, whole_pages};
use deadpool_postgres::Object;
use futures_util::future::join;
use ranges::Range;
use slices::{Visit, Visits};
use std::time::{Duration, Instant};
use walk::{Resting, Walk};

pub(super) use job::Job;
pub(super) use standbys::Standbys;

mod batch;
mod controller;
mod crew;
mod deferred;
mod horizon;
mod job;
mod ranges;
mod signals;
mod slices;
mod standbys;
mod start;
mod throttle;
mod walk;

/// The hard end of a batch: rows that it has locked are not held longer, whatever the next row's lock takes and
/// however full the next pages are.
const BATCH_TIMEOUT_MS: u64 = 250;

/// Who waits for a row keeps all rows waiting that his batch has locked already.
const ROW_LOCK_TIMEOUT_MS: u64 = 100;

/// After so many batches it is measured again what a batch takes that has nothing to do.
const OVERHEAD_EVERY: u32 = 64;

/// What a batch did.
enum Filled {
    Rows(Updates),
    /// The table has another file by now.
    Elsewhere,
    /// Somebody holds a row of these pages, or the table.
    PutAside,
    /// It did not end in time; nothing of it is done.
    TooLong,
}

/// How the visits to a stretch ended.
enum Stretch {
    Filled,
    TooLong,
    /// The worker leaves, for there are more than were asked for.
    Left,
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
    /// Who kept its last batch waiting.
    blockers: Vec<Blocker>,
    /// How long its last batch kept rows locked, at the server.
    took: Duration,
    /// What its last batch costs it.
    rest: Resting,
}

impl Runner {
    /// Goes on where an earlier run came to, but does not record the step as done. Gives the number of attempts.
    pub(super) async fn backfill(&self, key: Key<'_>, job: Job<'_>, work: &Work) -> Result<u32, Error> {
        if key.undo.is_some() {
            // The one on record tells how far the way forwards came.
            ledger::forget_cursor(&self.lock.client, key.run, key.step).await?;
        }
        let mut tries = Tries::new(self.deadline);
        let mut batches = 0;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let began = Instant::now();
            match self.walk(key, job, work).await {
                Ok(()) => return Ok(attempts),
                Err(error) if error.kind == ErrorKind::Connection => {
                    self.check_run_lock()?;
                    let cursor = ledger::cursor(&self.lock.client, key.run, key.step).await?;
                    // The deadline is for a server that stays away, not for all losses of a long walk together.
                    let reached = cursor.map_or(0, |cursor| cursor.batches);
                    if reached != batches || began.elapsed() >= self.deadline {
                        batches = reached;
                        tries = Tries::new(self.deadline);
                    }
                    self.reconnect(key, &mut tries, error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn walk(&self, key: Key<'_>, job: Job<'_>, work: &Work) -> Result<(), Error> {
        let mut cursor = self.start_cursor(key, job).await?;
        loop {
            let pacer = self.pacer(key, job, cursor.end_page).await?;
            let limits = self.limits(job);
            let walk = Walk::new(key, job, work, &self.plan, cursor, pacer, limits);
            self.look_around(&walk).await;
            let fills = async {
                let filled = self.fill(&walk).await;
                walk.end();
                filled
            };
            tokio::select! {
                (filled, ()) = join(fills, self.keep_vacuuming(&walk)) => filled?,
                () = self.keep_sampling(&walk) => {}
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
            cursor = self.new_cursor(key, job).await?;
        }
    }

    fn limits(&self, job: Job<'_>) -> Limits {
        let mut limits = job.limits().clone();
        match &self.replicas_asked {
            None => {}
            Some(Replicas::All) => limits.replicas = None,
            Some(Replicas::These(names)) => limits.replicas = Some(names.clone()),
        }
        limits
    }

    async fn hand(&self) -> Result<Hand, Error> {
        let (session, pid) = self.worker().await?;
        Ok(Hand {
            session,
            pid,
            counted: Updates::default(),
            overhead: (Duration::ZERO, 0),
            blockers: Vec::new(),
            took: Duration::ZERO,
            rest: Resting::default(),
        })
    }

    /// Tells whether the worker has left before its end.
    async fn fill_stretch(
        &self,
        walk: &Walk<'_>,
        hand: &mut Hand,
        range: Range,
        mut shape: Shape,
    ) -> Result<bool, Error> {
        let mut held = Vec::new();
        loop {
            let mut seen = Seen::new(shape, hand.overhead.0);
            match self.visit_all(walk, hand, range, &mut seen, &mut held).await? {
                Stretch::Filled => {
                    let lesson = walk.finish(range, &seen);
                    self.tell_lesson(walk, lesson);
                    self.tell_progress(walk);
                    return Ok(false);
                }
                Stretch::Left => {
                    walk.give_back(range);
                    return Ok(true);
                }
                // What is filled is filled: it starts over with smaller batches.
                Stretch::TooLong => {
                    shape = shrunk(shape);
                    walk.shrink();
                }
                Stretch::Stopped => return Ok(false),
            }
        }
    }

    async fn visit_all(
        &self,
        walk: &Walk<'_>,
        hand: &mut Hand,
        range: Range,
        seen: &mut Seen,
        held: &mut Vec<Range>,
    ) -> Result<Stretch, Error> {
        let mut visits = Visits::new(range, seen.shape.slices);
        while let Some(visit) = visits.next(seen.shape, held) {
            self.stand_aside(walk, hand).await?;
            seen.overhead = self.overhead(walk, hand, visit.pages.0).await?;
            let fills = visits.is_last(&visit).then_some(range);
            match self.visit(walk, hand, &visit, BATCH_TIMEOUT_MS, fills).await? {
                Filled::Rows(updates) => {
                    seen.times.push(hand.took);
                    match visit.pass {
                        0 => seen.first_pass.add(updates),
                        _ => seen.later_passes.add(updates),
                    }
                }
                Filled::PutAside => {
                    held.push(visit.pages);
                    walk.defer(visit.pages, whole_pages(seen.shape));
                }
                Filled::TooLong => return Ok(Stretch::TooLong),
                Filled::Elsewhere => walk.stop(),
            }
            if visits.ends_pass(&visit) {
                seen.shape = walk.adapt(seen, visit.pass);
                seen.times.clear();
            }
            self.tell_progress(walk);
            self.stop_if_wanted()?;
            if walk.is_stopped() {
                return Ok(Stretch::Stopped);
            }
            if fills.is_none() && walk.leave_if_too_many() {
                return Ok(Stretch::Left);
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
            self.batch(walk, hand, &Visit::whole((page, page)), BATCH_TIMEOUT_MS, None)
                .await?;
            least = least.min(hand.took);
        }
        hand.overhead = (least, OVERHEAD_EVERY);
        Ok(least)
    }

    fn stop_if_wanted(&self) -> Result<(), Error> {
        if self.interrupted() > Interrupt::None {
            return Err(interrupted());
        }
        self.check_run_lock()
    }

    /// One batch, whenever the table lets it begin. Where somebody has locked the whole of it, pages that were put aside
    /// would soon be all of them.
    async fn visit(
        &self,
        walk: &Walk<'_>,
        hand: &mut Hand,
        visit: &Visit,
        timeout_ms: u64,
        fills: Option<Range>,
    ) -> Result<Filled, Error> {
        let mut tries = Tries::new(self.deadline);
        loop {
            let filled = self.batch(walk, hand, visit, timeout_ms, fills).await?;
            if !matches!(filled, Filled::PutAside) {
                return Ok(filled);
            }
            let blockers = std::mem::take(&mut hand.blockers);
            let nothing = Visit::whole((visit.pages.0, visit.pages.0));
            match self.batch(walk, hand, &nothing, BATCH_TIMEOUT_MS, None).await? {
                Filled::Rows(_) => {
                    hand.blockers = blockers;
                    return Ok(Filled::PutAside);
                }
                Filled::Elsewhere => return Ok(Filled::Elsewhere),
                Filled::PutAside | Filled::TooLong => {
                    let what = format!(
                        "{}: {} stays locked by others",
                        walk.work.summary,
                        walk.job.table()
                    );
                    self.wait_with_nothing_held(walk.key, &mut tries, &what, &blockers)
                        .await?;
                    tries.stood_aside(self.stand_aside(walk, hand).await?);
                    // Whoever had locked the table may have kept old row versions too.
                    self.look_around(walk).await;
                }
            }
        }
    }

    /// Until the next try, or not at all once the deadline is over.
    async fn wait_with_nothing_held(
        &self,
        key: Key<'_>,
        tries: &mut Tries,
        what: &str,
        blockers: &[Blocker],
    ) -> Result<(), Error> {
        let Some(delay) = tries.delay() else {
            return Err(Error::new(ErrorKind::Exhausted, what)
                .details(blockers.iter().map(blocker_line))
                .help("end the transactions that hold it, then run the same command again"));
        };
        if tries.hindered_for() >= WORTH_TELLING {
            self.tell(Event::Waiting {
                step: key.step.into(),
                waited_ms: millis(tries.hindered_for()),
                blockers: blockers.to_vec(),
            });
        }
        self.pause(delay).await
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
        let lock_ms = walk.work.timeouts.lock_ms.unwrap_or(ROW_LOCK_TIMEOUT_MS);
        let bounds = Bounds {
            lock_ms: lock_ms.min(ROW_LOCK_TIMEOUT_MS),
            statement_ms: timeout_ms,
        };
        let sql = batch::sql(walk.job, visit, bounds, record.as_deref());
        hand.blockers.clear();
        let sent = hand.session.simple_query(&sql);
        match self
            .watch(walk.key, hand.pid, WATCH_BRIEF, sent, &mut hand.blockers)
            .await
        {
            Ok(messages) => {
                let answer = batch::answer(walk.job, &messages);
                let updates = batch::added(hand.counted, answer.counted, answer.rows);
                hand.counted = answer.counted;
                hand.took = answer.took;
                hand.rest = walk.committed(answer.rows, record.is_some(), answer.took);
                Ok(match answer.file_node == Some(walk.file_node) {
                    true => Filled::Rows(updates),
                    false => Filled::Elsewhere,
                })
            }
            Err(error) => {
                if record.is_some() {
                    walk.not_recorded();
                }
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
            Reaction::Contention => Ok(Filled::PutAside),
            Reaction::Cancelled if self.interrupted() == Interrupt::Now => Err(interrupted()),
            // A single page that takes so long has a row that somebody holds.
            Reaction::Cancelled if pages.1 - pages.0 <= 1 => Ok(Filled::PutAside),
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

    /// What the old snapshots do is told when they are seen.
    fn tell_lesson(&self, walk: &Walk<'_>, lesson: Lesson) {
        if lesson == Lesson::PassesAreUseless {
            self.note(walk, leaving("as their HOT updates show"));
        }
    }

    fn note(&self, walk: &Walk<'_>, what: String) {
        self.tell(Event::Noted {
            step: walk.key.step.into(),
            what,
        });
    }
}

/// What it means that passes do not pay, and why they do not.
fn leaving(why: &str) -> String {
    format!("updated rows do not stay on their pages, which costs time, WAL and space: {why}")
}
