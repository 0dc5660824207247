//! What the workers of a backfill share: the pages, the counts, and when to tell and to record them.

use super::controller::{Lesson, Pacer, Seen, Shape, whole_pages};
use super::horizon::Horizon;
use super::job::Job;
use super::ranges::{Range, Ranges};
use super::slices::stretch;
use super::throttle::{GivenUp, Signals, Throttle};
use crate::event::{BatchSize, Event, Unit};
use crate::executor::asked::paused;
use crate::executor::brake::{Brake, Rest};
use crate::executor::ledger::requests::Requests;
use crate::executor::ledger::{self, Cursor};
use crate::executor::session::{Key, millis};
use crate::plan::{Limits, Settings, Work};
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Where rows leave their pages, so many times in a walk the room they leave is made usable.
const VACUUMS: i64 = 10;
const VACUUM_PAGES_MIN: i64 = 256;

/// One walk over one file of a table.
pub(super) struct Walk<'a> {
    pub(super) key: Key<'a>,
    pub(super) job: Job<'a>,
    pub(super) work: &'a Work,
    pub(super) file_node: u32,
    rows_before: i64,
    plan: &'a str,
    began: Instant,
    state: Mutex<State>,
    over: watch::Sender<bool>,
    /// With the standbys that this call was told to count.
    limits: Limits,
}

/// Until when a session stays idle, unless something else is asked for meanwhile.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Resting {
    until: Duration,
    brake: Brake,
}

struct State {
    ranges: Ranges,
    pacer: Pacer,
    throttle: Throttle,
    horizon: Horizon,
    asked: Requests,
    rest: Rest,
    /// Sessions that fill.
    working: u32,
    /// Of these, whose sessions are open.
    opened: u32,
    /// No more can be opened, for the time being.
    openable: Option<u32>,
    /// How many pages were filled when it was last vacuumed.
    vacuumed: i64,
    rows: i64,
    batches: i64,
    /// How long the last batch kept its rows locked.
    held: Duration,
    /// The table is elsewhere, or a worker failed.
    stopped: bool,
    told: Instant,
    recorded: Instant,
    /// Whether a batch with the record is under way: the next one would wait for it, with its rows locked.
    recording: bool,
    /// That standbys are hidden from the role is told.
    unseen: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        key: Key<'a>,
        job: Job<'a>,
        work: &'a Work,
        plan: &'a str,
        cursor: Cursor,
        pacer: Pacer,
        limits: Limits,
    ) -> Self {
        let now = Instant::now();
        let pages = whole_pages(pacer.shape());
        let mut ranges = Ranges::new(cursor.next_page, cursor.end_page);
        for range in cursor.deferred {
            ranges.defer(range, pages);
        }
        let state = State {
            vacuumed: ranges.done(),
            ranges,
            pacer,
            throttle: Throttle::new(limits.clone()),
            horizon: Horizon::default(),
            asked: Requests::default(),
            rest: Rest::default(),
            working: 0,
            opened: 0,
            openable: None,
            rows: cursor.rows_done,
            batches: cursor.batches,
            held: Duration::ZERO,
            stopped: false,
            told: now,
            recorded: now,
            recording: false,
            unseen: false,
        };
        Self {
            key,
            job,
            work,
            file_node: cursor.file_node,
            rows_before: cursor.rows_done,
            plan,
            began: now,
            state: Mutex::new(state),
            over: watch::channel(false).0,
            limits,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more session may begin: as many as were asked for, but no more than there is work for.
    pub(super) fn join(&self) -> bool {
        let mut state = self.state();
        let wanted = self.wanted(&state).min(state.openable.unwrap_or(u32::MAX));
        let left = state.ranges.left();
        let pages = stretch(state.pacer.shape(), left, wanted);
        let stretches = (left + pages - 1) / pages;
        let useful = state
            .working
            .saturating_add(u32::try_from(stretches).unwrap_or(u32::MAX));
        if state.stopped || state.working >= wanted.min(useful) {
            return false;
        }
        state.working += 1;
        true
    }

    /// Its session is open.
    pub(super) fn joined(&self) {
        self.state().opened += 1;
    }

    pub(super) fn opened(&self) -> u32 {
        self.state().opened
    }

    fn wanted(&self, state: &State) -> u32 {
        let wanted = state.asked.workers.unwrap_or(self.job.workers());
        wanted.clamp(1, Settings::WORKERS_MAX)
    }

    /// Whether one of the sessions should end for there are more than were asked for. It counts as gone then.
    pub(super) fn leave_if_too_many(&self) -> bool {
        let mut state = self.state();
        let too_many = state.working > self.wanted(&state);
        state.working -= u32::from(too_many);
        state.opened -= u32::from(too_many);
        too_many
    }

    /// One ended by itself.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.working -= 1;
        state.opened -= 1;
    }

    /// One that was to join could not be opened.
    pub(super) fn stay_away(&self) {
        self.state().working -= 1;
    }

    /// So many is all that can be opened.
    pub(super) fn limit_to(&self, openable: Option<u32>) {
        self.state().openable = openable;
    }

    pub(super) fn end(&self) {
        self.over.send_replace(true);
    }

    pub(super) async fn ended(&self) {
        let mut over = self.over.subscribe();
        let _ = over.wait_for(|over| *over).await;
    }

    /// Rows have left their pages, and it is time to make their room usable.
    pub(super) fn vacuum_is_due(&self) -> bool {
        let mut state = self.state();
        let done = state.ranges.done();
        let every = (state.ranges.end() / VACUUMS).max(VACUUM_PAGES_MIN);
        let leaves_room = self.job.updates() && state.pacer.leaves_room();
        let due = leaves_room && done - state.vacuumed >= every && done < state.ranges.end();
        if due {
            state.vacuumed = done;
        }
        due
    }

    /// Pages for one worker, and how to visit them.
    pub(super) fn take(&self) -> Option<(Range, Shape)> {
        let mut state = self.state();
        if state.stopped {
            return None;
        }
        let shape = state.pacer.shape();
        let pages = stretch(shape, state.ranges.left(), state.working);
        let range = state.ranges.take(pages)?;
        Some((range, shape))
    }

    /// Every visit to these pages is committed, or they were put aside.
    pub(super) fn finish(&self, range: Range, seen: &Seen) -> Lesson {
        let mut state = self.state();
        state.ranges.finish(range);
        state.pacer.learn(seen)
    }

    /// It is half done, and the worker leaves.
    pub(super) fn give_back(&self, range: Range) {
        self.state().ranges.give_back(range);
    }

    pub(super) fn adapt(&self, seen: &Seen, pass: i64) -> Shape {
        self.state().pacer.adapt(seen, pass)
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
        if !due || state.recording {
            return None;
        }
        state.recording = true;
        Some(self.record(&state, fills))
    }

    /// The batch that was to record it failed.
    pub(super) fn not_recorded(&self) {
        self.state().recording = false;
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

    /// Gives how long the session is to rest.
    pub(super) fn committed(&self, rows: i64, recorded: bool, took: Duration) -> Resting {
        let mut state = self.state();
        state.rows += rows;
        state.held = took;
        if recorded {
            state.recorded = Instant::now();
            state.recording = false;
        }
        let brake = state.asked.throttle;
        let until = state.rest.after(brake, self.began.elapsed(), took, rows);
        Resting { until, brake }
    }

    /// `None` once it is over, or the throttle was changed meanwhile.
    pub(super) fn rest_left(&self, resting: &Resting) -> Option<Duration> {
        let state = self.state();
        let left = resting.until.checked_sub(self.began.elapsed())?;
        let lasts = !left.is_zero() && !state.stopped && state.asked.throttle == resting.brake;
        lasts.then_some(left)
    }

    /// Gives what was asked for before, and what the signals say about passes.
    pub(super) fn sampled(&self, signals: Signals, asked: Requests) -> (Requests, Lesson) {
        let now = self.began.elapsed();
        let mut state = self.state();
        let held = state.horizon.sampled(now, signals.oldest.as_ref()).is_some();
        let lesson = state.pacer.horizon(held);
        state.throttle.sampled(now, signals);
        if state.asked.throttle != asked.throttle {
            state.rest = Rest::default();
        }
        (std::mem::replace(&mut state.asked, asked), lesson)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state().asked.paused.is_some()
    }

    pub(super) fn hindrance(&self) -> Option<String> {
        let state = self.state();
        let pause = state.asked.paused.as_ref();
        pause
            .map(|pause| paused(pause, self.plan))
            .or_else(|| state.throttle.hindrance(self.began.elapsed()))
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is worth a word about standbys that the role cannot look at, once.
    pub(super) fn unseen(&self, hidden: &[String]) -> Option<String> {
        let mut state = self.state();
        if hidden.is_empty() || std::mem::replace(&mut state.unseen, true) {
            return None;
        }
        let names = hidden.join(", ");
        Some(format!(
            "it does not wait for standbys: the role may not see how far they are ({names}); grant it pg_read_all_stats"
        ))
    }

    pub(super) fn given_up(&self) -> Option<GivenUp> {
        self.state().throttle.given_up()
    }

    /// Whether to look at others more often.
    pub(super) fn is_close(&self) -> bool {
        self.state().throttle.is_close()
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
            stage: stage(self.job.doing(), state.opened, state.asked.throttle),
            unit: Unit::Pages,
            done: u64::try_from(done).unwrap_or(0),
            total: u64::try_from(total).unwrap_or(0),
            rows: u64::try_from(state.rows).unwrap_or(0),
            per_second: (state.rows - self.rows_before) as f64 / seconds,
            batch: Some(size(&state)),
            lag: state.throttle.farthest_behind(),
        })
    }
}

fn size(state: &State) -> BatchSize {
    let shape = state.pacer.shape();
    let whole = |number: i64| u64::try_from(number).unwrap_or(0);
    BatchSize {
        number: whole(state.batches),
        pages: whole(shape.pages),
        passes: whole(shape.slices),
        held_us: u64::try_from(state.held.as_micros()).unwrap_or(u64::MAX),
    }
}

fn stage(doing: &str, workers: u32, throttle: Brake) -> String {
    let mut stage = String::from(doing);
    if workers > 1 {
        let _ = write!(stage, " by {workers} workers");
    }
    if throttle != Brake::Off {
        let _ = write!(stage, ", throttled to {throttle}");
    }
    stage
}
