//! The attempts at one work: what an error of one means, and how long to wait before the next.

use super::{Failure, Key, Runner, Seen, exhausted, interrupted, millis, watch};
use crate::error::{Error, ErrorKind};
use crate::event::{Blocker, Event, Stall};
use crate::executor::locks::Holder;
use crate::executor::retry::{Backoff, Reaction, reaction};
use crate::executor::stall::Cut;
use crate::executor::{Interrupt, ledger};
use crate::plan::Work;
use crate::units;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The attempts at one work. The deadline counts from when something first stood in the way: an index build of an
/// hour has not used up anything.
pub(in crate::executor) struct Tries {
    pub(in crate::executor) attempt: u32,
    deadline: Duration,
    hindered: Option<Instant>,
    backoff: Backoff,
    /// What came of the latest attempt for others.
    pub(super) last: Last,
    /// When something was last done about a transaction in the way.
    done: HashMap<(Option<i32>, String, &'static str), Instant>,
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
            last: Last::default(),
            done: HashMap::new(),
            first_seen: HashMap::new(),
        }
    }

    /// Whether something is to be done about a transaction in the way, again after so long; takes it down as done.
    pub(super) fn is_due(&mut self, holder: &Holder, what: &'static str, again: Duration) -> bool {
        let key = (holder.blocker.pid, holder.transaction.clone(), what);
        let due = self.done.get(&key).is_none_or(|done| done.elapsed() >= again);
        if due {
            self.done.insert(key, Instant::now());
        }
        due
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

    /// As [`Tries::delay`]; where nobody waited behind the last attempt, standing in the queue again soon costs nobody
    /// anything.
    fn delay_after_attempt(&mut self) -> Option<u64> {
        let delay = self.delay()?;
        Some(match self.last.calm {
            true => delay.min(CALM_MS),
            false => delay,
        })
    }
}

/// The longest wait between two attempts behind which nobody waits.
const CALM_MS: u64 = 200;

/// What came of an attempt for others.
#[derive(Debug, Default)]
pub(super) struct Last {
    stall: Stall,
    cut: Option<Cut>,
    /// It stood in others' way, and nobody waited.
    calm: bool,
}

impl Last {
    /// For the record of the attempt.
    fn words(&self) -> String {
        let Stall {
            sessions,
            backend_ms,
            worst_ms,
            ..
        } = self.stall;
        if sessions == 0 {
            return String::new();
        }
        format!(
            " ({} waited behind it, {} together, at most {})",
            units::counted(sessions, "session"),
            units::millis(backend_ms),
            units::millis(worst_ms)
        )
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
        if reaction == Reaction::Cancelled && (hindered || tries.last.cut.is_some()) {
            reaction = Reaction::Contention;
        }
        if self.interrupted() == Interrupt::Now {
            reaction = Reaction::Cancelled;
        }
        let error = Error::postgres(ErrorKind::StepFailed, &work.summary, error);
        let message = format!("{}{}", error.message, tries.last.words());
        self.record_attempt(key, began, sqlstate.as_deref(), &message, &blockers)
            .await?;
        match reaction {
            Reaction::Contention => {
                self.totals().gave_up += 1;
                self.check_stall_budget(work)?;
                let Some(retry_in_ms) = tries.delay_after_attempt() else {
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

    /// Tells and adds up who waited behind an attempt.
    pub(super) fn settle(&self, key: Key<'_>, attempt: u32, succeeded: bool, seen: &Seen) -> Last {
        let Some(guard) = &seen.guard else {
            return Last::default();
        };
        let stall = guard.meter.stall();
        // The cancellation may have come too late.
        let cut = guard.meter.cut.filter(|_| !succeeded);
        let mut totals = self.totals();
        totals.stalled += stall.sessions as u64;
        totals.stalled_backend_ms += stall.backend_ms;
        totals.stalled_worst_ms = totals.stalled_worst_ms.max(stall.worst_ms);
        drop(totals);
        if stall.sessions > 0 || cut.is_some() {
            self.tell(Event::Stalled {
                step: key.step.into(),
                attempt,
                stall: stall.clone(),
                cut: cut.map(|cut| cut.name().to_owned()),
            });
        }
        Last {
            calm: stall.sessions == 0 && cut.is_none(),
            stall,
            cut,
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
