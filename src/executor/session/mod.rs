//! Sends the works of a plan: sets the timeouts, gets the locks without standing in the application's way, watches
//! what blocks, and knows afterwards whether the effect is there.

mod checks;
mod clear;
mod probed;
mod transaction;
mod tries;
mod watch;
mod words;

use super::backfill::Job;
use super::{Runner, ledger};
use crate::error::{Error, ErrorKind};
use crate::event::{Blocker, Event};
use crate::plan::{Action, Part, Transaction, Work};
use deadpool_postgres::Object;
use std::time::Duration;

use checks::unmet;
pub(super) use checks::{how_many, sample};
pub(super) use tries::Tries;
use watch::Seen;
use words::exhausted;
pub use words::{blocker_line, timeouts_sql};
pub(super) use words::{holder_line, interrupted, millis, pool_error};

/// A transaction of this age that holds a conflicting lock is waited for without queueing; a younger one is
/// expected to be gone before `lock_timeout`.
const OLD_MS: u64 = 1_000;

/// A wait shorter than this is not worth a word: it ends before anybody has read it.
pub(super) const WORTH_TELLING: Duration = Duration::from_millis(300);

/// What a session says that is not at the server that holds the run lock; of a class that is nobody else's.
pub(super) const ANOTHER_SERVER: &str = "PM001";

/// How often a waiting statement of ours is looked at.
pub(super) const WATCH_BRIEF: Duration = Duration::from_millis(50);
const WATCH_LONG: Duration = Duration::from_millis(500);

/// Which part of which step is at work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) run: i64,
    pub(super) step: &'a str,
    /// The attempt of the step that this is; whoever has counted further has taken the run over.
    pub(super) token: i32,
    /// Number of this work among the works of the undo, from 1, and whether it is the last; `None` forwards.
    pub(super) undo: Option<(usize, bool)>,
}

/// What the record of a step says to a transaction that is about to do it.
enum Fence {
    Open,
    /// A worker that outlived its run has done it.
    Done,
}

impl Key<'_> {
    fn record_sql(&self) -> String {
        match self.undo {
            None => ledger::done_sql(self.run, self.step),
            Some((works, last)) => ledger::undone_sql(self.run, self.step, works, last),
        }
    }
}

/// Why an attempt failed.
enum Failure {
    Server {
        error: tokio_postgres::Error,
        blockers: Vec<Blocker>,
        /// It was a statement that does nothing but lock.
        locking: bool,
    },
    Other(Error),
}

impl Failure {
    fn server(error: tokio_postgres::Error, blockers: Vec<Blocker>) -> Self {
        Self::Server {
            error,
            blockers,
            locking: false,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Runner {
    /// Does one work and records it. Gives the number of attempts.
    pub(super) async fn work(&self, key: Key<'_>, work: &Work) -> Result<u32, Error> {
        if let Some(part) = &work.part
            && !self.is_part(part).await?
        {
            self.record(key).await?;
            self.tell(Event::StepSkipped {
                step: key.step.to_owned(),
                reason: format!("{} is no longer a partition of {}", part.table, part.of),
            });
            return Ok(1);
        }
        match (&work.action, work.transaction) {
            (Action::Check(check), _) => {
                self.check(check).await?;
                self.record(key).await?;
                Ok(1)
            }
            (Action::Compare(comparison), _) => {
                let attempts = self.compare(key, comparison, work).await?;
                self.record(key).await?;
                Ok(attempts)
            }
            (Action::Match(it), _) => {
                let attempts = self.match_rows(key, it, work).await?;
                self.record(key).await?;
                Ok(attempts)
            }
            (Action::Backfill(backfill), _) => {
                let attempts = self.backfill(key, Job::Update(backfill), work).await?;
                self.record(key).await?;
                Ok(attempts)
            }
            (Action::Copy(copying), _) => {
                let attempts = self.backfill(key, Job::Copy(copying), work).await?;
                self.record(key).await?;
                Ok(attempts)
            }
            (Action::Sql(statements), Transaction::Single) => {
                self.in_transaction(key, work, statements).await
            }
            (Action::Sql(statements), Transaction::None) => self.probed(key, work, statements).await,
        }
    }

    pub(super) async fn is_part(&self, part: &Part) -> Result<bool, Error> {
        let sql = format!("SELECT {}", part.condition());
        let row = self.lock.client.query_one(&sql, &[]).await;
        row.map(|row| row.get(0)).map_err(|error| {
            let what = format!("asking whether {} is a partition", part.table);
            Error::postgres(ErrorKind::StepFailed, what, error)
        })
    }

    /// Records on the session of the run lock: who lost the lock cannot write.
    pub(super) async fn record(&self, key: Key<'_>) -> Result<(), Error> {
        self.lock
            .client
            .batch_execute(&key.record_sql())
            .await
            .map_err(|error| Error::postgres(ErrorKind::StepFailed, "recording a step", error))
    }

    /// A working session and its process. Retried while the server is away, until the deadline.
    pub(in crate::executor) async fn worker(&self) -> Result<(Object, i32), Error> {
        let session = self.workers.get().await.map_err(pool_error)?;
        // Not prepared first: that would be another way there and back.
        let row = session.query_typed_one("SELECT pg_backend_pid()", &[]).await;
        let pid = row
            .map_err(|error| Error::postgres(ErrorKind::Connection, "starting a session", error))?
            .get(0);
        Ok((session, pid))
    }
}
