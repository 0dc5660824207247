//! Looks, before an attempt, who is in the way: whoever is old is waited for beside the queue, or ended where that is
//! wanted.

use super::{Key, OLD_MS, Runner, Tries, WORTH_TELLING, exhausted, millis, pool_error};
use crate::error::{Error, ErrorKind};
use crate::event::{Blocker, Event};
use crate::executor::blocked::Fate;
use crate::executor::locks::{self, Holder};
use crate::executor::{Interrupt, ledger};
use crate::plan::{OnBlocked, Work};
use deadpool_postgres::Object;
use std::time::{Duration, Instant};

/// How long after an attempt to make an autovacuum yield, or to cancel a statement, the next one follows.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

impl Runner {
    /// While an old transaction holds a conflicting lock, queueing behind it would make everybody else queue behind
    /// us. So we wait beside the queue and say for whom.
    pub(super) async fn wait_until_clear(
        &self,
        key: Key<'_>,
        work: &Work,
        tries: &mut Tries,
    ) -> Result<(), Error> {
        self.pause(0).await?;
        if work.timeouts.lock_ms.is_none() || work.locks.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let mut told: Option<Instant> = None;
        loop {
            let old = self.old_holders(key, work, tries).await?;
            if old.is_empty() {
                return Ok(());
            }
            if tries.is_over() {
                return Err(exhausted(work, tries, &old));
            }
            if began.elapsed() >= WORTH_TELLING
                && told.is_none_or(|told| told.elapsed() >= Duration::from_secs(1))
            {
                told = Some(Instant::now());
                self.tell(Event::Waiting {
                    step: key.step.into(),
                    waited_ms: millis(began.elapsed()),
                    blockers: old,
                });
            }
            self.pause(100).await?;
        }
    }

    /// Holders that are not expected to be gone within `lock_timeout`. One whose age is hidden from this role counts
    /// as such until it has been gone for once.
    async fn old_holders(&self, key: Key<'_>, work: &Work, tries: &mut Tries) -> Result<Vec<Blocker>, Error> {
        let observer = self.observers.get().await.map_err(pool_error)?;
        let mut old = Vec::new();
        for mut holder in locks::conflicting_holders(&**observer, &work.locks).await? {
            let pid = holder.blocker.pid;
            let seen = tries
                .first_seen
                .entry((pid, holder.transaction.clone()))
                .or_insert_with(Instant::now);
            holder.blocker.age_ms = holder.age_ms.unwrap_or(millis(seen.elapsed()));
            if let (true, false, Some(pid)) = (holder.autovacuum, holder.wraparound, pid)
                && locks::ask_to_yield(&**observer, pid).await
            {
                continue;
            }
            if !(holder.autovacuum || holder.age_ms.is_none() || holder.blocker.age_ms >= OLD_MS) {
                continue;
            }
            let may_be_vacuum = holder.blocker.mode == "ShareUpdateExclusiveLock"
                && (holder.autovacuum || holder.age_ms.is_none());
            if may_be_vacuum && !holder.wraparound && tries.is_due(&holder, "nudge", AGAIN_AFTER) {
                self.nudge(&holder).await?;
            }
            if self.contention.on_blocked != OnBlocked::Wait {
                self.end_if_allowed(key, &observer, &holder, tries).await?;
            }
            old.push(holder.blocker);
        }
        Ok(old)
    }

    /// The server itself makes an autovacuum yield, unless it prevents wraparound, to whoever has been waiting behind it
    /// for `deadlock_timeout`. Nobody who reads or writes waits behind a request for SHARE UPDATE EXCLUSIVE, and nothing
    /// is held meanwhile: so this one may take that long, where a role may not cancel the autovacuum itself.
    async fn nudge(&self, holder: &Holder) -> Result<(), Error> {
        let (session, pid) = self.worker().await?;
        let sql = format!(
            "BEGIN; SELECT set_config('lock_timeout', (setting::bigint + 500)::text, true) \
              FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'; \
             LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE; ROLLBACK",
            holder.blocker.relation
        );
        let mut interrupts = self.interrupts.clone();
        let mut locking = std::pin::pin!(session.batch_execute(&sql));
        tokio::select! {
            // Whether it was got does not matter: the next look shows who is left.
            _ = &mut locking => {}
            () = super::watch::wanted(&mut interrupts, Interrupt::Gracefully) => {
                self.cancel(pid).await;
                let _ = locking.await;
            }
        }
        let _ = session.batch_execute("ROLLBACK").await;
        Ok(())
    }

    /// Cancels or terminates a session as the plan or the user wants it, within the limits of that; says why not.
    async fn end_if_allowed(
        &self,
        key: Key<'_>,
        observer: &Object,
        holder: &Holder,
        tries: &mut Tries,
    ) -> Result<(), Error> {
        let policy = self.contention.on_blocked;
        let Some(pid) = holder.blocker.pid else {
            let what = format!("a prepared transaction of {} is never ended", holder.blocker.user);
            self.note_once(key, holder, tries, what);
            return Ok(());
        };
        let Some(candidate) = locks::candidate(&***observer, pid).await? else {
            return Ok(());
        };
        let fate = candidate.fate(&self.contention);
        match &fate {
            Fate::NotYet => {}
            Fate::Spared(why) => {
                let what = format!("pid {pid} of {} is not made to end: {why}", holder.blocker.user);
                self.note_once(key, holder, tries, what);
            }
            Fate::Cancelled | Fate::Terminated => {
                let Some(began) = candidate
                    .began
                    .filter(|_| tries.is_due(holder, "end", AGAIN_AFTER))
                else {
                    return Ok(());
                };
                if locks::end(&***observer, pid, began, policy == OnBlocked::Terminate).await? {
                    self.ended(key, &fate, &holder.blocker).await?;
                }
            }
        }
        Ok(())
    }

    fn note_once(&self, key: Key<'_>, holder: &Holder, tries: &mut Tries, what: String) {
        if tries.is_due(holder, "spared", Duration::MAX) {
            self.tell(Event::Noted {
                step: key.step.into(),
                what,
            });
        }
    }

    async fn ended(&self, key: Key<'_>, fate: &Fate, blocker: &Blocker) -> Result<(), Error> {
        self.totals().ended += 1;
        self.tell(Event::Ended {
            step: key.step.into(),
            how: fate.done().into(),
            blocker: blocker.clone(),
        });
        let attempt = ledger::Attempt {
            run: key.run,
            step: key.step,
            undo: key.undo.is_some(),
            elapsed_ms: 0,
            sqlstate: None,
            message: &format!("{} {}", fate.done(), super::holder_line(blocker)),
            blockers: std::slice::from_ref(blocker),
        };
        ledger::record_attempt(&self.lock.client, attempt).await
    }

    /// Where sessions are to be ended, says before anything is done which ones cannot be.
    pub(in crate::executor) async fn check_signals(&self, step: &str) -> Result<(), Error> {
        let policy = self.contention.on_blocked;
        if policy == OnBlocked::Wait {
            return Ok(());
        }
        let observer = self.observers.get().await.map_err(pool_error)?;
        if let Some(role) = locks::unable_to_signal(&**observer).await? {
            self.tell(Event::Noted {
                step: step.into(),
                what: format!(
                    "on_blocked: {policy} reaches only sessions of roles that {role} belongs to; for others, GRANT \
                     pg_signal_backend, pg_read_all_stats TO {role}"
                ),
            });
        }
        Ok(())
    }

    /// The budget of a call is not used up yet.
    pub(super) fn check_stall_budget(&self, work: &Work) -> Result<(), Error> {
        if self.stall_left_ms() > 0 {
            return Ok(());
        }
        let message = format!(
            "{}: others have waited {} behind this run, which is as long as `stall_budget_per_run` allows",
            work.summary,
            crate::units::millis(self.totals().stalled_backend_ms)
        );
        Err(Error::new(ErrorKind::Exhausted, message).help(
            "nothing is held and the state is saved: run the same command again when the tables are less busy, or with \
             larger --stall-budget and --stall-budget-per-run",
        ))
    }
}
