//! Works in one transaction that also records them: the locks, the statements, the commit.

use super::{Failure, Fence, Key, Runner, Tries, WATCH_BRIEF, ledger, timeouts_sql, unmet};
use crate::error::{Error, ErrorKind};
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
            self.wait_until_clear(key, work, &mut tries).await?;
            tries.attempt += 1;
            let began = Instant::now();
            match self.attempt(key, work, statements).await {
                Ok(()) => break,
                Err(failure) => {
                    self.after_failure(key, work, failure, began, &mut tries).await?;
                    if self.is_recorded(key).await? {
                        break;
                    }
                }
            }
        }
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

    async fn attempt(&self, key: Key<'_>, work: &Work, statements: &[String]) -> Result<(), Failure> {
        let (session, pid) = self.worker().await?;
        let result = self.transaction(key, work, statements, &session, pid).await;
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
        session: &Object,
        pid: i32,
    ) -> Result<(), Failure> {
        let begin = format!("BEGIN; {}", timeouts_sql(work, "SET LOCAL"));
        if let Fence::Done = self.fence(key, session, pid, &begin).await? {
            let ended = session.batch_execute("ROLLBACK").await;
            return ended.map_err(|error| Failure::server(error, Vec::new()));
        }
        let commit = format!("{}; COMMIT", key.record_sql());
        let mut texts: Vec<String> = statements.iter().map(|one| work.text_of(one)).collect();
        let asks = |expectation: &&Expectation| matches!(expectation, Expectation::Query { .. });
        if !work.expect.iter().any(|expectation| asks(&expectation)) {
            texts.push(commit);
            return self.send_all(key, session, pid, &texts).await;
        }
        self.send_all(key, session, pid, &texts).await?;
        for expectation in work.expect.iter().filter(asks) {
            // The user's own question is the only thing known about his statements: without it nothing is committed.
            if let Expectation::Query { query } = expectation
                && !self.answers_true(session, query).await?
            {
                return Err(unmet(key.step, &work.expect, "nothing of it was committed").into());
            }
        }
        self.send(key, session, pid, &commit, WATCH_BRIEF).await
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
    ) -> Result<(), Failure> {
        let mut blockers = Vec::new();
        let mut answered = 0;
        let sent = pipelined(session, texts, &mut answered);
        let result = self.watch(key, pid, WATCH_BRIEF, sent, &mut blockers).await;
        result.map_err(|error| Failure::Server {
            error,
            blockers,
            locking: texts
                .get(answered)
                .is_some_and(|text| text.contains("; LOCK TABLE ")),
        })
    }

    /// Begins the transaction, in the same breath.
    async fn fence(&self, key: Key<'_>, session: &Object, pid: i32, begin: &str) -> Result<Fence, Failure> {
        let sql = format!("{begin}; {}", ledger::fence_sql(key.run, key.step));
        let mut blockers = Vec::new();
        let asked = self
            .watch(key, pid, WATCH_BRIEF, session.simple_query(&sql), &mut blockers)
            .await;
        let messages = asked.map_err(|error| Failure::server(error, blockers))?;
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
