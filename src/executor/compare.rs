//! Compares all rows, fills those again that differ, and compares once more.

use super::Runner;
use super::backfill::Job;
use super::ledger;
use super::session::{Key, how_many, sample};
use crate::error::{Error, ErrorKind};
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
        let failed = match self.mend(key, comparison, work).await {
            Err(error) if error.kind == ErrorKind::StepFailed => Some(error.to_string()),
            mended => mended.map(|()| None)?,
        };
        match self.check(&comparison.check).await {
            Err(error) if error.kind == ErrorKind::StepFailed => {
                let why = failed.map(|failed| format!("they could not be filled again: {failed}"));
                Err(error.details(why))
            }
            checked => checked.map(|()| 2),
        }
    }

    async fn mend(&self, key: Key<'_>, comparison: &Comparison, work: &Work) -> Result<(), Error> {
        for mend in &comparison.mend {
            if let Some(part) = &mend.part
                && !self.is_part(part).await?
            {
                continue;
            }
            // Those of several tables have one cursor, and that of an earlier try is at its end.
            ledger::forget_cursor(&self.lock.client, key.run, key.step).await?;
            self.backfill(key, Job::Update(&mend.fill), work).await?;
        }
        Ok(())
    }
}
