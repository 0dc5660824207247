//! Runs execution plans: decides synchronously, acts asynchronously, remembers everything in the ledger.

use crate::error::Error;
use crate::event::Listener;
use crate::plan::{ExecutionPlan, Phase};
use crate::postgres::settings::ConnectionSettings;
use ledger::Run;
use std::sync::Arc;
use tokio::sync::watch;

pub mod ledger;

/// How urgently the user wants the run to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interrupt {
    #[default]
    None,
    /// After the current statement or batch.
    Gracefully,
    /// Cancel the running statement.
    Now,
}

/// What a finished call left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub run: i64,
    /// Steps that were run by this call.
    pub steps: usize,
    /// Every step of every phase is done (or undone).
    pub complete: bool,
}

/// Holds the run lock of a database, and the sessions that do the work.
pub struct Executor {}

impl Executor {
    /// Connects, refuses poolers of transactions, takes the run lock, creates the ledger if it is missing.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Busy`] when another run holds the database, with who that is.
    pub async fn open(
        _settings: &ConnectionSettings,
        _listener: Arc<dyn Listener>,
        _interrupts: watch::Receiver<Interrupt>,
    ) -> Result<Self, Error> {
        Ok(Self {})
    }

    /// Runs the steps of a plan up to and including a phase. With `resume`, goes on where that run of it stopped.
    ///
    /// # Errors
    /// Whatever stops the run; the state is saved, and the same call goes on.
    pub async fn apply(
        &mut self,
        _plan: &ExecutionPlan,
        _resume: Option<&Run>,
        _through: Phase,
    ) -> Result<Outcome, Error> {
        Err(Error::new(crate::error::ErrorKind::StepFailed, "not built"))
    }

    /// Undoes the done steps of a run, last first. Refuses, untouched, past the point of no return.
    ///
    /// # Errors
    /// As for [`Executor::apply`].
    pub async fn rollback(&mut self, _run: &Run) -> Result<Outcome, Error> {
        Err(Error::new(crate::error::ErrorKind::StepFailed, "not built"))
    }
}
