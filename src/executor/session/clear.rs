//! Looks, before an attempt, who is in the way: whoever is old is waited for beside the queue.

use super::{Key, OLD_MS, Runner, Tries, WORTH_TELLING, exhausted, millis, pool_error};
use crate::error::Error;
use crate::event::{Blocker, Event};
use crate::executor::locks;
use crate::plan::Work;
use std::time::{Duration, Instant};

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
            let old = self.old_holders(work, tries).await?;
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
    async fn old_holders(&self, work: &Work, tries: &mut Tries) -> Result<Vec<Blocker>, Error> {
        let observer = self.observers.get().await.map_err(pool_error)?;
        let mut old = Vec::new();
        for mut holder in locks::conflicting_holders(&**observer, &work.locks).await? {
            let pid = holder.blocker.pid;
            let seen = tries
                .first_seen
                .entry((pid, holder.transaction))
                .or_insert_with(Instant::now);
            holder.blocker.age_ms = holder.age_ms.unwrap_or(millis(seen.elapsed()));
            if let (true, false, Some(pid)) = (holder.autovacuum, holder.wraparound, pid)
                && locks::ask_to_yield(&**observer, pid).await
            {
                continue;
            }
            if holder.autovacuum || holder.age_ms.is_none() || holder.blocker.age_ms >= OLD_MS {
                old.push(holder.blocker);
            }
        }
        Ok(old)
    }
}
