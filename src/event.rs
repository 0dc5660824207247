//! What happens during a run, as data. The executor tells; reports render.

use crate::plan::Phase;
use serde::{Deserialize, Serialize};

/// A session that holds a lock in our way. The text of its query is not part of it: it may hold data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Blocker {
    /// `None` for a prepared transaction.
    pub pid: Option<i32>,
    pub user: String,
    pub application: String,
    pub client: String,
    /// As in `pg_stat_activity.state`, or what kind of process it is.
    pub state: String,
    pub mode: String,
    pub relation: String,
    /// Since its transaction began.
    pub age_ms: u64,
}

/// Who waited behind an attempt of ours, as far as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stall {
    pub sessions: usize,
    /// By `application_name`.
    pub applications: Vec<String>,
    /// The sum over these sessions.
    pub backend_ms: u64,
    /// The longest wait among them.
    pub worst_ms: u64,
}

/// What getting locks came to in one call, for us and for those who waited behind us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockTotals {
    /// Attempts that were given up.
    pub gave_up: u64,
    /// Between the first hindrance and the lock, summed over the steps.
    pub waited_ms: u64,
    /// Waits of others behind us: their number, their sum over sessions, and the longest.
    pub stalled: u64,
    pub stalled_backend_ms: u64,
    pub stalled_worst_ms: u64,
    /// Sessions that were cancelled or terminated by `on_blocked`.
    pub ended: u64,
}

impl LockTotals {
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            gave_up: self.gave_up + other.gave_up,
            waited_ms: self.waited_ms + other.waited_ms,
            stalled: self.stalled + other.stalled,
            stalled_backend_ms: self.stalled_backend_ms + other.stalled_backend_ms,
            stalled_worst_ms: self.stalled_worst_ms.max(other.stalled_worst_ms),
            ended: self.ended + other.ended,
        }
    }

    /// What came since those were counted; the longest wait stays, for it may be of either.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            gave_up: self.gave_up.saturating_sub(earlier.gave_up),
            waited_ms: self.waited_ms.saturating_sub(earlier.waited_ms),
            stalled: self.stalled.saturating_sub(earlier.stalled),
            stalled_backend_ms: self.stalled_backend_ms.saturating_sub(earlier.stalled_backend_ms),
            stalled_worst_ms: self.stalled_worst_ms,
            ended: self.ended.saturating_sub(earlier.ended),
        }
    }
}

/// What one unit of progress is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Pages,
    Blocks,
    Tuples,
}

/// How a backfill goes about it at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BatchSize {
    /// Batches of the step so far, those of earlier calls included.
    pub number: u64,
    /// Pages that a batch visits.
    pub pages: u64,
    /// How often each page is visited, other rows of it each time.
    pub passes: u64,
    /// How long the last batch kept its rows locked, in microseconds.
    pub held_us: u64,
}

/// The standby or subscriber that is farthest behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    pub who: String,
    pub ms: u64,
    /// WAL that it has not replayed.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    RunStarted {
        plan: String,
        run: i64,
        steps: usize,
        done: usize,
        resumed: bool,
    },
    PhaseStarted {
        phase: Phase,
        steps: usize,
    },
    /// `undo` tells that the step is being undone.
    StepStarted {
        step: String,
        summary: String,
        undo: bool,
    },
    /// It was found done: by an earlier run, or before its record could be written.
    StepSkipped {
        step: String,
        reason: String,
    },
    /// Not even trying: somebody holds a conflicting lock for long already.
    Waiting {
        step: String,
        waited_ms: u64,
        blockers: Vec<Blocker>,
    },
    /// An attempt to get the locks was given up.
    LockTimeout {
        step: String,
        attempt: u32,
        sqlstate: String,
        retry_in_ms: u64,
        waited_ms: u64,
        blockers: Vec<Blocker>,
    },
    /// Others waited behind an attempt. `cut` tells why it was given up for their sake: `stall_budget`,
    /// `stall_budget_per_run`, or `blind` where nobody could see who waits.
    Stalled {
        step: String,
        attempt: u32,
        stall: Stall,
        #[serde(skip_serializing_if = "Option::is_none")]
        cut: Option<String>,
    },
    /// A session in our way was cancelled or terminated, as the plan or the user wanted.
    Ended {
        step: String,
        how: String,
        blocker: Blocker,
    },
    Reconnecting {
        step: String,
        reason: String,
        retry_in_ms: u64,
    },
    /// Nothing is written for the sake of others.
    StandingAside {
        step: String,
        reason: String,
        waited_ms: u64,
    },
    /// `stage` is the server's word for what it does at present, if it has one.
    Progress {
        step: String,
        stage: String,
        unit: Unit,
        done: u64,
        total: u64,
        rows: u64,
        per_second: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        batch: Option<BatchSize>,
        #[serde(skip_serializing_if = "Option::is_none")]
        lag: Option<Lag>,
    },
    /// Half of it was there; it is removed and done again.
    CleanedUp {
        step: String,
        what: String,
    },
    /// Worth knowing; nothing stands still because of it.
    Noted {
        step: String,
        what: String,
    },
    StepDone {
        step: String,
        elapsed_ms: u64,
        attempts: u32,
        undo: bool,
    },
    StepFailed {
        step: String,
        message: String,
    },
    Interrupted {
        reason: String,
    },
    RunFinished {
        state: String,
    },
}

/// Where events go. Called from the executor's task; it must not block.
pub trait Listener: Send + Sync {
    fn tell(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> Listener for F {
    fn tell(&self, event: &Event) {
        self(event);
    }
}
