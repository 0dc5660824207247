//! Compares all rows, fills those again that differ, and compares once more.

use super::Runner;
use super::ledger;
use super::session::{Key, how_many, sample};
use crate::error::Error;
use crate::event::Event;
use crate::plan::{Comparison, Work};

impl Runner {
    /// Gives the number of comparisons.
    pub(super) async fn compare(
        &self,
        key: Key<'_>,
        comparison: &Comparison,
        work: &Work,
    ) -> Result<u32, Error> {
        let rows = self.offending_rows(&comparison.check).await?;
        if rows.is_empty() {
            return Ok(1);
        }
        self.tell(Event::Noted {
            step: key.step.into(),
            what: format!(
                "not so for {}: {}; something wrote past the triggers. These rows are filled again, and then everything is \
                 compared once more",
                how_many(&rows),
                sample(rows).join(", ")
            ),
        });
        for mend in &comparison.mend {
            // Those of several tables have one cursor, and that of an earlier try is at its end.
            ledger::forget_cursor(&self.lock.client, key.run, key.step).await?;
            self.backfill(key, mend, work).await?;
        }
        self.check(&comparison.check).await?;
        Ok(2)
    }
}
