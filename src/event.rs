//! What happens during a run, as data. The executor tells; reports render.

use crate::plan::Phase;
use serde::Serialize;

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

/// What one unit of progress is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Pages,
    Blocks,
    Tuples,
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
