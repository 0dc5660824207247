//! The attempts at one work: what an error of one means, and how long to wait before the next.

use super::{Failure, Key, Runner, exhausted, interrupted, millis, watch};
use crate::error::{Error, ErrorKind};
use crate::event::{Blocker, Event};
use crate::executor::retry::{Backoff, Reaction, reaction};
use crate::executor::{Interrupt, ledger};
use crate::plan::Work;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The attempts at one work. The deadline counts from when something first stood in the way: an index build of an
/// hour has not used up anything.
pub(in crate::executor) struct Tries {
    pub(in crate::executor) attempt: u32,
    deadline: Duration,
    hindered: Option<Instant>,
    backoff: Backoff,
    /// When a transaction was first seen to hold a lock, for roles that are not shown its age.
    pub(super) first_seen: HashMap<(Option<i32>, String), Instant>,
}

impl Tries {
    pub(in crate::executor) fn new(deadline: Duration) -> Self {
        Self {
            attempt: 0,
            deadline,
            hindered: None,
            backoff: Backoff::new(50, 5_000),
            first_seen: HashMap::new(),
        }
    }

    /// What somebody asked for, or stood aside for others, is nothing that was in the way.
    pub(in crate::executor) fn stood_aside(&mut self, time: Duration) {
        self.hindered = self.hindered.and_then(|since| since.checked_add(time));
    }

    /// How long something has been in the way.
    pub(in crate::executor) fn hindered_for(&self) -> Duration {
        self.hindered.map(|since| since.elapsed()).unwrap_or_default()
    }

    pub(in crate::executor) fn is_over(&mut self) -> bool {
        self.hindered.get_or_insert_with(Instant::now).elapsed() >= self.deadline
    }

    /// How long to wait before the next attempt; `None` when there is none.
    pub(in crate::executor) fn delay(&mut self) -> Option<u64> {
        (!self.is_over()).then(|| self.backoff.next_ms(rand::random()))
    }
}

impl Runner {
    /// Decides what to do after a failed attempt: waits and returns when another one makes sense.
    pub(super) async fn after_failure(
        &self,
        key: Key<'_>,
        work: &Work,
        failure: Failure,
        began: Instant,
        tries: &mut Tries,
    ) -> Result<(), Error> {
        let (error, blockers, locking) = match failure {
            Failure::Other(error) if error.kind == ErrorKind::Connection => {
                return self.reconnect(key, tries, error).await;
            }
            Failure::Other(error) => return Err(error),
            Failure::Server {
                error,
                blockers,
                locking,
            } => (error, blockers, locking),
        };
        self.check_run_lock()?;
        let sqlstate = error.as_db_error().map(|db| db.code().code().to_owned());
        let mut reaction = reaction(sqlstate.as_deref());
        // Only locking is bounded so tightly that its end by timeout means that somebody was in the way.
        let hindered = locking || (!blockers.is_empty() && work.timeouts.lock_ms.is_some());
        if reaction == Reaction::Cancelled && hindered {
            reaction = Reaction::Contention;
        }
        if self.interrupted() == Interrupt::Now {
            reaction = Reaction::Cancelled;
        }
        let error = Error::postgres(ErrorKind::StepFailed, &work.summary, error);
        self.record_attempt(key, began, sqlstate.as_deref(), &error.message, &blockers)
            .await?;
        match reaction {
            Reaction::Contention => {
                let Some(retry_in_ms) = tries.delay() else {
                    return Err(exhausted(work, tries, &blockers));
                };
                self.tell(Event::LockTimeout {
                    step: key.step.into(),
                    attempt: tries.attempt,
                    sqlstate: sqlstate.unwrap_or_default(),
                    retry_in_ms,
                    waited_ms: millis(tries.hindered_for()),
                    blockers,
                });
                self.pause(retry_in_ms).await
            }
            Reaction::Lost => self.reconnect(key, tries, error).await,
            Reaction::Cancelled if self.interrupted() == Interrupt::Now => Err(interrupted()),
            Reaction::Integrity => Err(self.with_offending_rows(error, work).await),
            Reaction::Cancelled | Reaction::Fatal => Err(error),
        }
    }

    /// Waits before another session is opened, until the deadline.
    pub(in crate::executor) async fn reconnect(
        &self,
        key: Key<'_>,
        tries: &mut Tries,
        error: Error,
    ) -> Result<(), Error> {
        self.check_run_lock()?;
        let Some(retry_in_ms) = tries.delay() else {
            return Err(error);
        };
        let reason = error
            .sqlstate
            .map_or("the connection broke".into(), |code| format!("SQLSTATE {code}"));
        self.tell(Event::Reconnecting {
            step: key.step.into(),
            reason,
            retry_in_ms,
        });
        self.pause(retry_in_ms).await?;
        self.end_orphans().await;
        self.check_run_lock()
    }

    async fn record_attempt(
        &self,
        key: Key<'_>,
        began: Instant,
        sqlstate: Option<&str>,
        message: &str,
        blockers: &[Blocker],
    ) -> Result<(), Error> {
        let attempt = ledger::Attempt {
            run: key.run,
            step: key.step,
            undo: key.undo.is_some(),
            elapsed_ms: millis(began.elapsed()),
            sqlstate,
            message,
            blockers,
        };
        ledger::record_attempt(&self.lock.client, attempt).await
    }

    /// Sleeps, unless the user wants to stop or somebody else may be running by now.
    pub(in crate::executor) async fn pause(&self, ms: u64) -> Result<(), Error> {
        self.check_run_lock()?;
        let mut interrupts = self.interrupts.clone();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ms)) => Ok(()),
            () = watch::wanted(&mut interrupts, Interrupt::Gracefully) => Err(interrupted()),
        }
    }
}
