//! Works in one transaction that also records them: the locks, the statements, the commit.

use super::{Failure, Fence, Key, Runner, Seen, Tries, WATCH_BRIEF, ledger, millis, timeouts_sql, unmet};
use crate::error::{Error, ErrorKind};
use crate::executor::lock_order;
use crate::plan::{Expectation, Work};
use deadpool_postgres::Object;
use futures_util::future::maybe_done;
use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Instant;
use tokio_postgres::SimpleQueryMessage;

impl Runner {
    pub(super) async fn in_transaction(
        &self,
        key: Key<'_>,
        work: &Work,
        statements: &[String],
    ) -> Result<u32, Error> {
        let mut tries = Tries::new(self.deadline);
        loop {
            match self.wait_until_clear(key, work, &mut tries).await {
                Err(error) if error.kind == ErrorKind::Connection => {
                    self.reconnect(key, &mut tries, error).await?;
                    continue;
                }
                clear => clear?,
            }
            self.check_stall_budget(work)?;
            tries.attempt += 1;
            let began = Instant::now();
            let statements = lock_order::of_attempt(statements, tries.attempt);
            let result = match self.guarded(work).await {
                Ok(mut seen) => {
                    let result = self.attempt(key, work, &statements, &mut seen).await;
                    tries.last = self.settle(key, tries.attempt, result.is_ok(), &seen);
                    result
                }
                Err(failure) => Err(failure),
            };
            match result {
                Ok(()) => break,
                Err(failure) => {
                    self.after_failure(key, work, failure, began, &mut tries).await?;
                    if self.is_recorded(key).await? {
                        break;
                    }
                }
            }
        }
        self.totals().waited_ms += millis(tries.hindered_for());
        self.expect(key.step, &work.expect).await?;
        Ok(tries.attempt)
    }

    /// After a lost connection: had the transaction been committed?
    async fn is_recorded(&self, key: Key<'_>) -> Result<bool, Error> {
        let record = ledger::step(&self.lock.client, key.run, key.step).await?;
        Ok(match key.undo {
            None => record.state == ledger::StepState::Done,
            Some((works, _)) => usize::try_from(record.undone_works).is_ok_and(|done| done >= works),
        })
    }

    async fn attempt(
        &self,
        key: Key<'_>,
        work: &Work,
        statements: &[String],
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let (session, pid) = self.worker().await?;
        let result = self
            .transaction(key, work, statements, (&session, pid), seen)
            .await;
        if result.is_err() {
            // The pool rolls back too, but locks should be gone before anything is reported.
            let _ = session.batch_execute("ROLLBACK").await;
        }
        result
    }

    async fn transaction(
        &self,
        key: Key<'_>,
        work: &Work,
        statements: &[String],
        (session, pid): (&Object, i32),
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let begin = format!("BEGIN; {}", timeouts_sql(work, "SET LOCAL"));
        if let Fence::Done = self.fence(key, (session, pid), &begin, seen).await? {
            let ended = session.batch_execute("ROLLBACK").await;
            return ended.map_err(|error| Failure::server(error, Vec::new()));
        }
        let commit = format!("{}; COMMIT", key.record_sql());
        let mut texts: Vec<String> = statements.iter().map(|one| work.text_of(one)).collect();
        let asks = |expectation: &&Expectation| matches!(expectation, Expectation::Query { .. });
        if !work.expect.iter().any(|expectation| asks(&expectation)) {
            texts.push(commit);
            return self.send_all(key, session, pid, &texts, seen).await;
        }
        self.send_all(key, session, pid, &texts, seen).await?;
        for expectation in work.expect.iter().filter(asks) {
            // The user's own question is the only thing known about his statements: without it nothing is committed.
            if let Expectation::Query { query } = expectation
                && !self.holds_yet(key, (session, pid), query, seen).await?
            {
                return Err(unmet(key.step, &work.expect, "nothing of it was committed").into());
            }
        }
        self.send(key, session, pid, &commit, WATCH_BRIEF, seen).await
    }

    /// Asks under the locks: whoever waits for those waits for the answer too.
    async fn holds_yet(
        &self,
        key: Key<'_>,
        (session, pid): (&Object, i32),
        query: &str,
        seen: &mut Seen,
    ) -> Result<bool, Failure> {
        let sql = format!("SELECT coalesce(({query})::boolean, false)");
        let asked = session.query(&sql, &[]);
        match self.watch_seen(key, pid, WATCH_BRIEF, asked, seen).await {
            Ok(rows) => Ok(rows.first().is_some_and(|row| row.get(0))),
            Err(error) if seen.cut().is_some() => Err(Failure::server(error, Vec::new())),
            Err(error) => {
                Err(Error::postgres(ErrorKind::StepFailed, "asking the expectation query", error).into())
            }
        }
    }

    /// Sends the texts of an open transaction without waiting for answers in between: while it holds locks, neither the
    /// way to the server nor a busy machine of ours makes the application wait. After a failure the server refuses
    /// the rest.
    async fn send_all(
        &self,
        key: Key<'_>,
        session: &Object,
        pid: i32,
        texts: &[String],
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let mut answered = 0;
        let sent = pipelined(session, texts, &mut answered);
        let result = self.watch_seen(key, pid, WATCH_BRIEF, sent, seen).await;
        result.map_err(|error| Failure::Server {
            error,
            blockers: seen.blockers.clone(),
            locking: texts
                .get(answered)
                .is_some_and(|text| text.contains("; LOCK TABLE ")),
        })
    }

    /// Begins the transaction, in the same breath.
    async fn fence(
        &self,
        key: Key<'_>,
        (session, pid): (&Object, i32),
        begin: &str,
        seen: &mut Seen,
    ) -> Result<Fence, Failure> {
        let sql = format!("{begin}; {}", ledger::fence_sql(key.run, key.step));
        let asked = self
            .watch_seen(key, pid, WATCH_BRIEF, session.simple_query(&sql), seen)
            .await;
        let messages = asked.map_err(|error| Failure::server(error, seen.blockers.clone()))?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let Some(row) = row else {
            return Err(Error::new(
                ErrorKind::StepFailed,
                format!("the record of step {} is gone", key.step),
            )
            .into());
        };
        let number = |column: &str| {
            row.get(column)
                .and_then(|text| text.parse::<i32>().ok())
                .unwrap_or_default()
        };
        let works_done = usize::try_from(number("undone_works")).unwrap_or_default();
        match key.undo {
            None if row.get("state") == Some("done") => Ok(Fence::Done),
            None if number("attempts") == key.token => Ok(Fence::Open),
            Some((work, _)) if works_done >= work => Ok(Fence::Done),
            Some((work, _)) if works_done + 1 == work => Ok(Fence::Open),
            _ => Err(Error::new(ErrorKind::Busy, "another run has taken over")
                .help("look at `pgmorph status`, then run the same command again")
                .into()),
        }
    }
}

/// Counts the texts that were answered without an error. The first error in the order of the texts is the one that
/// counts: those after it only say that the transaction is aborted.
async fn pipelined(
    session: &Object,
    texts: &[String],
    answered: &mut usize,
) -> Result<(), tokio_postgres::Error> {
    let mut answers = Vec::new();
    for text in texts {
        let mut answer = Box::pin(maybe_done(session.batch_execute(text)));
        // The first poll sends; the answer may have come by then, and also those before it.
        let _ = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
        answers.push(answer);
    }
    for mut answer in answers {
        answer.as_mut().await;
        answer.as_mut().take_output().transpose()?;
        *answered += 1;
    }
    Ok(())
}
