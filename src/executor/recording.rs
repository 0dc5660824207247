//! Writes to the ledger what steps came to.

use super::stats::{Keeper, WRITE_WAITS_EVERY};
use super::{Runner, ledger};
use std::convert::Infallible;
use std::sync::{MutexGuard, PoisonError};

impl Runner {
    pub(super) fn stats(&self) -> MutexGuard<'_, Keeper> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What earlier calls left of the same steps.
    pub(super) async fn begin_stats(&self, run: i64, has_earlier: bool) {
        let known = match has_earlier {
            true => ledger::stats::read(&self.lock.client, run)
                .await
                .unwrap_or_default(),
            false => Vec::new(),
        };
        let known = known.into_iter().map(|it| ((it.step, it.undo), it.stats));
        self.stats().begin(run, known.collect());
    }

    /// With the end of a step, or of the call in the middle of it. That it cannot be written stops nothing.
    pub(super) async fn record_stats(&self) {
        self.write_stats(true).await;
    }

    async fn write_stats(&self, last: bool) {
        let totals = self.totals().clone();
        let due = self.stats().due(self.began.elapsed(), &totals, last);
        if let Some(sql) = due
            && !self.lock.client.is_closed()
            && let Err(error) = self.lock.client.batch_execute(&sql).await
        {
            tracing::debug!("what a step came to cannot be recorded: {error}");
        }
    }

    /// Never ends.
    pub(super) async fn keep_recording(&self) -> Infallible {
        loop {
            tokio::time::sleep(WRITE_WAITS_EVERY / 2).await;
            self.write_stats(false).await;
        }
    }
}
