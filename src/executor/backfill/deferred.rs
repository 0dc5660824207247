//! Pages that were put aside because somebody held a row of them: visited last, in ever smaller batches.

use super::ranges::Range;
use super::slices::Visit;
use super::walk::Walk;
use super::{BATCH_TIMEOUT_MS, Filled, Hand};
use crate::error::Error;
use crate::event::Blocker;
use crate::executor::Runner;
use crate::executor::session::Tries;

impl Runner {
    /// Again and again, each time a little later, until none is left or nothing has moved until the deadline.
    pub(super) async fn visit_deferred(&self, walk: &Walk<'_>) -> Result<(), Error> {
        let mut tries = Tries::new(self.deadline);
        let mut hand = self.hand().await?;
        loop {
            let (ranges, pages) = walk.deferred();
            if ranges == 0 {
                return Ok(());
            }
            let mut blockers: Vec<Blocker> = Vec::new();
            for _ in 0..ranges {
                tries.stood_aside(self.stand_aside(walk, &hand).await?);
                self.visit_one_deferred(walk, &mut hand).await?;
                self.stop_if_wanted()?;
                if walk.is_stopped() {
                    return Ok(());
                }
                for blocker in hand.blockers.drain(..) {
                    if !blockers.iter().any(|known| known.pid == blocker.pid) {
                        blockers.push(blocker);
                    }
                }
            }
            if walk.deferred().1 < pages {
                tries = Tries::new(self.deadline);
            } else {
                let what = format!(
                    "{}: rows on {pages} pages stay locked by others",
                    walk.work.summary
                );
                self.wait_with_nothing_held(walk.key, &mut tries, &what, &blockers)
                    .await?;
            }
        }
    }

    async fn visit_one_deferred(&self, walk: &Walk<'_>, hand: &mut Hand) -> Result<(), Error> {
        let Some(range) = walk.take_deferred() else {
            return Ok(());
        };
        // A page whose rows take so long by themselves, because of slow triggers, gets the time it needs.
        let timeout_ms = match range.1 - range.0 {
            ..=1 => walk.work.timeouts.statement_ms,
            _ => BATCH_TIMEOUT_MS,
        };
        match self
            .visit(walk, hand, &Visit::whole(range), timeout_ms, None)
            .await?
        {
            Filled::Rows(_) => {}
            Filled::Elsewhere => walk.stop(),
            Filled::TooLong | Filled::PutAside => walk.defer(range, half(range)),
        }
        walk.revisit_ended();
        Ok(())
    }
}

/// Fewer pages keep fewer rows waiting; one page stays as it is.
fn half((first, end): Range) -> i64 {
    (end - first + 1) / 2
}
