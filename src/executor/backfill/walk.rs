//! What the workers of a backfill share: the pages, the counts, and when to tell and to record them.

use super::controller::{Lesson, Pacer, Seen, Shape, whole_pages};
use super::ranges::{Range, Ranges};
use super::slices::stretch;
use super::throttle::{Signals, Throttle};
use crate::event::{Event, Unit};
use crate::executor::ledger::{self, Cursor};
use crate::executor::session::{Key, millis};
use crate::plan::{Backfill, Work};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// One walk over one file of a table.
pub(super) struct Walk<'a> {
    pub(super) key: Key<'a>,
    pub(super) backfill: &'a Backfill,
    pub(super) work: &'a Work,
    pub(super) file_node: u32,
    rows_before: i64,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    ranges: Ranges,
    pacer: Pacer,
    throttle: Throttle,
    rows: i64,
    batches: i64,
    /// The table is elsewhere, or a worker failed.
    stopped: bool,
    told: Instant,
    recorded: Instant,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        key: Key<'a>,
        backfill: &'a Backfill,
        work: &'a Work,
        cursor: Cursor,
        pacer: Pacer,
    ) -> Self {
        let now = Instant::now();
        let pages = whole_pages(pacer.shape());
        let mut ranges = Ranges::new(cursor.next_page, cursor.end_page);
        for range in cursor.deferred {
            ranges.defer(range, pages);
        }
        let state = State {
            ranges,
            pacer,
            throttle: Throttle::new(backfill.replica_lag_ms),
            rows: cursor.rows_done,
            batches: cursor.batches,
            stopped: false,
            told: now,
            recorded: now,
        };
        Self {
            key,
            backfill,
            work,
            file_node: cursor.file_node,
            rows_before: cursor.rows_done,
            began: now,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more than there are stretches.
    pub(super) fn workers(&self) -> u32 {
        let state = self.state();
        let stretches = state.ranges.end() / stretch(state.pacer.shape()) + 1;
        self.backfill
            .workers
            .min(u32::try_from(stretches).unwrap_or(u32::MAX))
    }

    /// Pages for one worker, and how to visit them.
    pub(super) fn take(&self) -> Option<(Range, Shape)> {
        let mut state = self.state();
        if state.stopped {
            return None;
        }
        let shape = state.pacer.shape();
        let range = state.ranges.take(stretch(shape))?;
        Some((range, shape))
    }

    /// Every visit to these pages is committed, or they were put aside.
    pub(super) fn finish(&self, range: Range, seen: &Seen) -> Lesson {
        let mut state = self.state();
        state.ranges.finish(range);
        state.pacer.learn(seen)
    }

    pub(super) fn shrink(&self) {
        self.state().pacer.shrink();
    }

    pub(super) fn stop(&self) {
        self.state().stopped = true;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// To be visited again, in batches of so many pages.
    pub(super) fn defer(&self, range: Range, pages: i64) {
        self.state().ranges.defer(range, pages);
    }

    /// Ranges that were put aside, and their pages.
    pub(super) fn deferred(&self) -> (usize, i64) {
        self.state().ranges.deferred()
    }

    pub(super) fn take_deferred(&self) -> Option<Range> {
        self.state().ranges.take_deferred()
    }

    pub(super) fn revisit_ended(&self) {
        self.state().ranges.revisit_ended();
    }

    /// The record to be committed with a batch: where the pages stand once it is committed. What another worker commits
    /// in between may be overwritten by it with less, never with more than is true.
    pub(super) fn record_if_due(&self, fills: Option<Range>) -> Option<String> {
        let mut state = self.state();
        state.batches += 1;
        let due = fills.is_some() || state.recorded.elapsed() >= PROGRESS_EVERY;
        due.then(|| self.record(&state, fills))
    }

    pub(super) fn record_sql(&self, fills: Option<Range>) -> String {
        self.record(&self.state(), fills)
    }

    fn record(&self, state: &State, fills: Option<Range>) -> String {
        let next_page = match fills {
            Some(range) => state.ranges.watermark_with(range),
            None => state.ranges.watermark(),
        };
        let cursor = Cursor {
            file_node: self.file_node,
            next_page,
            end_page: state.ranges.end(),
            deferred: state.ranges.deferred_merged(),
            rows_done: state.rows,
            batches: state.batches,
        };
        ledger::cursor_sql(self.key.run, self.key.step, &cursor)
    }

    pub(super) fn committed(&self, rows: i64, recorded: bool) {
        let mut state = self.state();
        state.rows += rows;
        if recorded {
            state.recorded = Instant::now();
        }
    }

    pub(super) fn sampled(&self, signals: Signals) {
        self.state().throttle.sampled(self.began.elapsed(), signals);
    }

    pub(super) fn hindrance(&self) -> Option<String> {
        self.state().throttle.hindrance(self.began.elapsed())
    }

    /// How far it is, now and then and at the end.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn progress(&self) -> Option<Event> {
        let mut state = self.state();
        let (done, total) = (state.ranges.done(), state.ranges.end());
        if state.told.elapsed() < PROGRESS_EVERY && done < total {
            return None;
        }
        state.told = Instant::now();
        let seconds = millis(self.began.elapsed()).max(1) as f64 / 1_000.0;
        Some(Event::Progress {
            step: self.key.step.into(),
            stage: "filling rows".into(),
            unit: Unit::Pages,
            done: u64::try_from(done).unwrap_or(0),
            total: u64::try_from(total).unwrap_or(0),
            rows: u64::try_from(state.rows).unwrap_or(0),
            per_second: (state.rows - self.rows_before) as f64 / seconds,
        })
    }
}
