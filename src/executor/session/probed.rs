//! Statements that PostgreSQL refuses in a transaction block: their effect is looked for instead.

use super::{Failure, Key, Runner, Seen, Tries, WATCH_BRIEF, WATCH_LONG, timeouts_sql};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::executor::decide::{self, Decision};
use crate::executor::retry::{Reaction, reaction};
use crate::executor::{asks_the_user, finds_nothing};
use crate::plan::Work;
use crate::sql::QualifiedName;
use crate::verifier::Standing;
use std::time::Instant;

/// The user's own statements, which may find only a part of what they are to undo.
fn is_own_undo(key: Key<'_>, work: &Work) -> bool {
    key.undo.is_some() && asks_the_user(work)
}

impl Runner {
    /// Statements that PostgreSQL refuses in a transaction block: look first, then send, then look again.
    pub(super) async fn probed(
        &self,
        key: Key<'_>,
        work: &Work,
        statements: &[String],
    ) -> Result<u32, Error> {
        let mut tries = Tries::new(self.deadline);
        loop {
            // Without a promise there is nothing to find: such work may be done twice. So may the user's own undo, whose
            // question tells that not all is there, and not that nothing is.
            let standing = match work.expect.is_empty() || is_own_undo(key, work) {
                true => Standing::Absent,
                false => self.standing(&work.expect).await?,
            };
            match decide::for_probed(standing) {
                Decision::Skip => break,
                Decision::Halt(what) => {
                    return Err(
                        Error::new(ErrorKind::StepFailed, format!("{}: {what}", work.summary)).help(
                            "rename or drop that object, then run the same command again, or roll back",
                        ),
                    );
                }
                Decision::CleanUp(index) => self.drop_half_done(key, work, &index).await?,
                Decision::Run => {}
            }
            self.pause(0).await?;
            self.check_stall_budget(work)?;
            tries.attempt += 1;
            let began = Instant::now();
            let result = match self.guarded(work).await {
                Ok(mut seen) => {
                    let result = self.outside_transaction(key, work, statements, &mut seen).await;
                    tries.last = self.settle(key, tries.attempt, result.is_ok(), &seen);
                    result
                }
                Err(failure) => Err(failure),
            };
            match result {
                Ok(()) => break,
                Err(failure) => {
                    self.clean_up_after(key, work, &failure).await;
                    self.after_failure(key, work, failure, began, &mut tries).await?;
                }
            }
        }
        self.expect(key.step, &work.expect).await?;
        self.record(key).await?;
        Ok(tries.attempt)
    }

    async fn outside_transaction(
        &self,
        key: Key<'_>,
        work: &Work,
        statements: &[String],
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let (session, pid) = self.worker().await?;
        let settings = timeouts_sql(work, "SET");
        self.send(key, &session, pid, &settings, WATCH_BRIEF, seen)
            .await?;
        for statement in statements {
            match self.send(key, &session, pid, statement, WATCH_LONG, seen).await {
                Err(Failure::Server { error, .. })
                    if is_own_undo(key, work)
                        && finds_nothing(error.as_db_error().map(|db| db.code().code())) => {}
                sent => sent?,
            }
        }
        Ok(())
    }

    /// A failed build leaves an INVALID index, which costs every write until it is gone. Not after a cancellation:
    /// the user wants us to stop.
    async fn clean_up_after(&self, key: Key<'_>, work: &Work, failure: &Failure) {
        let Failure::Server { error, .. } = failure else {
            return;
        };
        let reaction = reaction(error.as_db_error().map(|db| db.code().code()));
        if matches!(reaction, Reaction::Integrity | Reaction::Fatal)
            && let Ok(Standing::HalfDone(index)) = self.standing(&work.expect).await
        {
            let _ = self.drop_half_done(key, work, &index).await;
        }
    }

    async fn drop_half_done(&self, key: Key<'_>, work: &Work, index: &QualifiedName) -> Result<(), Error> {
        let sql = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
        let what = format!("removed the half-built index {index}");
        match self
            .outside_transaction(key, work, &[sql], &mut Seen::default())
            .await
        {
            Ok(()) => {
                self.tell(Event::CleanedUp {
                    step: key.step.into(),
                    what,
                });
                Ok(())
            }
            Err(Failure::Other(error)) => Err(error),
            Err(Failure::Server { error, .. }) => {
                let what = format!("removing the half-built index {index}");
                Err(Error::postgres(ErrorKind::StepFailed, what, error))
            }
        }
    }
}
