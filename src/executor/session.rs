//! Sends the works of a plan: sets the timeouts, gets the locks without standing in the application's way, watches
//! what blocks, and knows afterwards whether the effect is there.

use super::backfill::Job;
use super::decide::{self, Decision};
use super::retry::{Backoff, Reaction, reaction};
use super::{Interrupt, Runner, ledger, locks};
use crate::catalog::load;
use crate::error::{Error, ErrorKind, remedy};
use crate::event::{Blocker, Event, Unit};
use crate::plan::{Action, Check, Expectation, Part, Transaction, Work};
use crate::sql::QualifiedName;
use crate::units;
use crate::verifier::{self, Standing};
use deadpool_postgres::Object;
use futures_util::future::maybe_done;
use std::collections::{BTreeSet, HashMap};
use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_postgres::SimpleQueryMessage;

/// A transaction of this age that holds a conflicting lock is waited for without queueing; a younger one is
/// expected to be gone before `lock_timeout`.
const OLD_MS: u64 = 1_000;

/// A wait shorter than this is not worth a word: it ends before anybody has read it.
pub(super) const WORTH_TELLING: Duration = Duration::from_millis(300);

/// How often a waiting statement of ours is looked at.
pub(super) const WATCH_BRIEF: Duration = Duration::from_millis(50);
const WATCH_LONG: Duration = Duration::from_millis(500);

/// Offending rows shown at most.
const SAMPLE_ROWS: usize = 10;

pub(super) fn how_many(offending: &[String]) -> String {
    let shown = units::counted(offending.len().min(SAMPLE_ROWS), "row");
    let more = offending.len() > SAMPLE_ROWS;
    format!("{shown}{}", if more { " (the first ones)" } else { "" })
}

pub(super) fn sample(mut offending: Vec<String>) -> Vec<String> {
    offending.truncate(SAMPLE_ROWS);
    offending
}

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

    async fn in_transaction(&self, key: Key<'_>, work: &Work, statements: &[String]) -> Result<u32, Error> {
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
        self.send(key, session, pid, &begin, WATCH_BRIEF).await?;
        if let Fence::Done = self.fence(key, session, pid).await? {
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

    async fn fence(&self, key: Key<'_>, session: &Object, pid: i32) -> Result<Fence, Failure> {
        let sql = ledger::fence_sql(key.run, key.step);
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

    /// Sends one text and watches it: who blocks, how far it is, whether the user wants it stopped.
    async fn send(
        &self,
        key: Key<'_>,
        session: &Object,
        pid: i32,
        sql: &str,
        every: Duration,
    ) -> Result<(), Failure> {
        let mut blockers = Vec::new();
        let statement = session.batch_execute(sql);
        let watched = self.watch(key, pid, every, statement, &mut blockers);
        watched.await.map_err(|error| Failure::server(error, blockers))
    }

    pub(super) async fn watch<T>(
        &self,
        key: Key<'_>,
        pid: i32,
        every: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
        blockers: &mut Vec<Blocker>,
    ) -> Result<T, tokio_postgres::Error> {
        let mut interrupts = self.interrupts.clone();
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let began = Instant::now();
        let mut cancelled = false;
        let mut told = Instant::now();
        let mut statement = std::pin::pin!(statement);
        loop {
            tokio::select! {
                // Sent before anything can be cancelled.
                biased;
                result = &mut statement => return result,
                _ = ticks.tick() => {
                    // Without the run lock another runner may begin: what runs now must not go on beside it. A server that
                    // was not at work yet has ignored the first try.
                    if self.interrupted() == Interrupt::Now || self.check_run_lock().is_err() {
                        cancelled = true;
                        self.cancel(pid).await;
                    }
                    let seen = self.observe(key, pid, every).await;
                    if let Some(seen) = seen && !seen.is_empty() {
                        *blockers = seen;
                        if told.elapsed() >= Duration::from_secs(1) {
                            told = Instant::now();
                            self.tell(Event::Waiting {
                                step: key.step.into(),
                                waited_ms: millis(began.elapsed()),
                                blockers: blockers.clone(),
                            });
                        }
                    }
                }
                () = wanted(&mut interrupts, Interrupt::Now), if !cancelled => {
                    cancelled = true;
                    self.cancel(pid).await;
                }
            }
        }
    }

    async fn observe(&self, key: Key<'_>, pid: i32, every: Duration) -> Option<Vec<Blocker>> {
        let observer = self.observers.get().await.ok()?;
        let blockers = locks::blockers_of(&**observer, pid).await.ok()?;
        // While it waits, for whom is the news.
        if every == WATCH_LONG && blockers.is_empty() {
            self.tell_index_progress(key, pid, &observer).await;
        }
        Some(blockers)
    }

    async fn tell_index_progress(&self, key: Key<'_>, pid: i32, observer: &Object) {
        let sql = "SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total \
                   FROM pg_catalog.pg_stat_progress_create_index WHERE pid = $1";
        let Ok(Some(row)) = observer.query_opt(sql, &[&pid]).await else {
            return;
        };
        let count = |name: &str| u64::try_from(row.get::<_, i64>(name)).unwrap_or(0);
        let (unit, done, total) = match count("blocks_total") {
            0 => (Unit::Tuples, count("tuples_done"), count("tuples_total")),
            total => (Unit::Blocks, count("blocks_done"), total),
        };
        self.tell(Event::Progress {
            step: key.step.into(),
            stage: row.get("phase"),
            unit,
            done,
            total,
            rows: 0,
            per_second: 0.0,
        });
    }

    pub(super) async fn cancel(&self, pid: i32) {
        if let Ok(observer) = self.observers.get().await {
            // Our sessions are those of the login, whatever role they act as.
            let sql = format!("SET ROLE NONE; SELECT pg_cancel_backend({pid})");
            let _ = observer.batch_execute(&sql).await;
        }
    }

    /// A working session and its process. Retried while the server is away, until the deadline.
    pub(super) async fn worker(&self) -> Result<(Object, i32), Error> {
        let session = self.workers.get().await.map_err(pool_error)?;
        let row = session
            .query_one("SELECT pg_backend_pid()", &[])
            .await
            .map_err(|error| Error::postgres(ErrorKind::Connection, "starting a session", error))?;
        let pid = row.get(0);
        Ok((session, pid))
    }

    /// Decides what to do after a failed attempt: waits and returns when another one makes sense.
    async fn after_failure(
        &self,
        key: Key<'_>,
        work: &Work,
        failure: Failure,
        began: Instant,
        tries: &mut Tries,
    ) -> Result<(), Error> {
        let (error, blockers, locking) = match failure {
            Failure::Other(error) if error.kind == ErrorKind::Connection => {
                return self.reconnect(key, tries, error).await;
            }
            Failure::Other(error) => return Err(error),
            Failure::Server {
                error,
                blockers,
                locking,
            } => (error, blockers, locking),
        };
        self.check_run_lock()?;
        let sqlstate = error.as_db_error().map(|db| db.code().code().to_owned());
        let mut reaction = reaction(sqlstate.as_deref());
        // Only locking is bounded so tightly that its end by timeout means that somebody was in the way.
        let hindered = locking || (!blockers.is_empty() && work.timeouts.lock_ms.is_some());
        if reaction == Reaction::Cancelled && hindered {
            reaction = Reaction::Contention;
        }
        if self.interrupted() == Interrupt::Now {
            reaction = Reaction::Cancelled;
        }
        let error = Error::postgres(ErrorKind::StepFailed, &work.summary, error);
        self.record_attempt(key, began, sqlstate.as_deref(), &error.message, &blockers)
            .await?;
        match reaction {
            Reaction::Contention => {
                let Some(retry_in_ms) = tries.delay() else {
                    return Err(exhausted(work, tries, &blockers));
                };
                self.tell(Event::LockTimeout {
                    step: key.step.into(),
                    attempt: tries.attempt,
                    sqlstate: sqlstate.unwrap_or_default(),
                    retry_in_ms,
                    waited_ms: millis(tries.hindered_for()),
                    blockers,
                });
                self.pause(retry_in_ms).await
            }
            Reaction::Lost => self.reconnect(key, tries, error).await,
            Reaction::Cancelled if self.interrupted() == Interrupt::Now => Err(interrupted()),
            Reaction::Integrity => Err(self.with_offending_rows(error, work).await),
            Reaction::Cancelled | Reaction::Fatal => Err(error),
        }
    }

    /// Waits before another session is opened, until the deadline.
    pub(super) async fn reconnect(&self, key: Key<'_>, tries: &mut Tries, error: Error) -> Result<(), Error> {
        self.check_run_lock()?;
        let Some(retry_in_ms) = tries.delay() else {
            return Err(error);
        };
        let reason = error
            .sqlstate
            .map_or("the connection broke".into(), |code| format!("SQLSTATE {code}"));
        self.tell(Event::Reconnecting {
            step: key.step.into(),
            reason,
            retry_in_ms,
        });
        self.pause(retry_in_ms).await
    }

    async fn record_attempt(
        &self,
        key: Key<'_>,
        began: Instant,
        sqlstate: Option<&str>,
        message: &str,
        blockers: &[Blocker],
    ) -> Result<(), Error> {
        let attempt = ledger::Attempt {
            run: key.run,
            step: key.step,
            undo: key.undo.is_some(),
            elapsed_ms: millis(began.elapsed()),
            sqlstate,
            message,
            blockers,
        };
        ledger::record_attempt(&self.lock.client, attempt).await
    }

    /// Sleeps, unless the user wants to stop or somebody else may be running by now.
    pub(super) async fn pause(&self, ms: u64) -> Result<(), Error> {
        self.check_run_lock()?;
        let mut interrupts = self.interrupts.clone();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ms)) => Ok(()),
            () = wanted(&mut interrupts, Interrupt::Gracefully) => Err(interrupted()),
        }
    }

    /// While an old transaction holds a conflicting lock, queueing behind it would make everybody else queue behind
    /// us. So we wait beside the queue and say for whom.
    async fn wait_until_clear(&self, key: Key<'_>, work: &Work, tries: &mut Tries) -> Result<(), Error> {
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

    /// Statements that PostgreSQL refuses in a transaction block: look first, then send, then look again.
    async fn probed(&self, key: Key<'_>, work: &Work, statements: &[String]) -> Result<u32, Error> {
        let mut tries = Tries::new(self.deadline);
        loop {
            // Without a promise there is nothing to find: such work may be done twice.
            let standing = match work.expect.is_empty() {
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
            tries.attempt += 1;
            let began = Instant::now();
            match self.outside_transaction(key, work, statements).await {
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
    ) -> Result<(), Failure> {
        let (session, pid) = self.worker().await?;
        let settings = timeouts_sql(work, "SET");
        self.send(key, &session, pid, &settings, WATCH_BRIEF).await?;
        for statement in statements {
            self.send(key, &session, pid, statement, WATCH_LONG).await?;
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
        match self.outside_transaction(key, work, &[sql]).await {
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

    /// How far the effect of these expectations is there, the user's own questions included.
    pub(super) async fn standing(&self, expectations: &[Expectation]) -> Result<Standing, Error> {
        let mut tries = Tries::new(self.deadline);
        loop {
            match self.standing_once(expectations).await {
                Err(error) if matches!(error.kind, ErrorKind::Connection | ErrorKind::Exhausted) => {
                    match tries.delay() {
                        Some(delay) => self.pause(delay).await?,
                        None => return Err(error),
                    }
                }
                result => return result,
            }
        }
    }

    async fn standing_once(&self, expectations: &[Expectation]) -> Result<Standing, Error> {
        let names: Vec<QualifiedName> = tables_of(expectations).into_iter().collect();
        let (session, _) = self.worker().await?;
        let tables = load::tables(&**session, &names).await.map_err(Error::from)?;
        for expectation in expectations {
            let holds = match expectation {
                Expectation::Query { query } => self.answers_true(&session, query).await?,
                Expectation::IndexAbsent { index } => is_absent(&session, index).await?,
                _ => true,
            };
            if !holds {
                return Ok(Standing::Absent);
            }
        }
        Ok(verifier::standing_of(expectations, &tables))
    }

    async fn answers_true(&self, session: &Object, query: &str) -> Result<bool, Error> {
        let rows = session
            .query(&format!("SELECT ({query})::boolean"), &[])
            .await
            .map_err(|error| Error::postgres(ErrorKind::StepFailed, "asking the expectation query", error))?;
        Ok(rows
            .first()
            .and_then(|row| row.get::<_, Option<bool>>(0))
            .unwrap_or(false))
    }

    /// What a step promises must hold right after it.
    async fn expect(&self, step: &str, expectations: &[Expectation]) -> Result<(), Error> {
        if self.standing(expectations).await? == Standing::Holds {
            return Ok(());
        }
        Err(unmet(step, expectations, "it is recorded as done"))
    }

    /// Asks a question that must have no rows as answer.
    pub(super) async fn check(&self, check: &Check) -> Result<(), Error> {
        let rows = self.offending_rows(check).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let message = format!("{}: the check found {}", check.name, how_many(&rows));
        Err(Error::new(ErrorKind::StepFailed, message)
            .details(sample(rows))
            .help(if check.help.is_empty() {
                "repair these rows, then run again"
            } else {
                &check.help
            }))
    }

    pub(super) async fn offending_rows(&self, check: &Check) -> Result<Vec<String>, Error> {
        let key = Key {
            run: 0,
            step: &check.name,
            token: 0,
            undo: None,
        };
        let mut tries = Tries::new(self.deadline);
        loop {
            match self.asked_for_rows(key, check).await {
                Err(error) if error.kind == ErrorKind::Connection => {
                    self.reconnect(key, &mut tries, error).await?;
                }
                answer => return answer,
            }
        }
    }

    async fn asked_for_rows(&self, key: Key<'_>, check: &Check) -> Result<Vec<String>, Error> {
        let (session, pid) = self.worker().await?;
        let failed =
            |error| Error::postgres(ErrorKind::StepFailed, format!("checking {}", check.name), error);
        let timeout = self.long_statement_ms;
        session
            .batch_execute(&format!(
                "BEGIN READ ONLY; SET LOCAL statement_timeout = {timeout}"
            ))
            .await
            .map_err(failed)?;
        let sql = format!(
            "SELECT row_to_json(q)::text FROM ({}\n) AS q LIMIT {}",
            check.query,
            SAMPLE_ROWS + 1
        );
        let result = self
            .watch(key, pid, WATCH_LONG, session.query(&sql, &[]), &mut Vec::new())
            .await;
        let _ = session.batch_execute("ROLLBACK").await;
        match result {
            Ok(rows) => Ok(rows.iter().map(|row| row.get(0)).collect()),
            Err(_) if self.interrupted() == Interrupt::Now => Err(interrupted()),
            Err(error) => self.check_run_lock().and(Err(failed(error))),
        }
    }

    async fn with_offending_rows(&self, error: Error, work: &Work) -> Error {
        let Some(check) = &work.on_violation else {
            return error;
        };
        let rows = self.offending_rows(check).await.unwrap_or_default();
        let help = if check.help.is_empty() {
            None
        } else {
            Some(check.help.as_str())
        };
        let help = help
            .or_else(|| error.sqlstate.as_deref().and_then(remedy))
            .unwrap_or_default()
            .to_owned();
        let error = error.details(sample(rows));
        if help.is_empty() { error } else { error.help(help) }
    }
}

async fn is_absent(session: &Object, relation: &QualifiedName) -> Result<bool, Error> {
    session
        .query_one("SELECT to_regclass($1) IS NULL", &[&relation.to_string()])
        .await
        .map(|row| row.get(0))
        .map_err(|error| Error::postgres(ErrorKind::StepFailed, format!("looking for {relation}"), error))
}

fn unmet(step: &str, expectations: &[Expectation], recorded: &str) -> Error {
    let message = format!("step {step} ran, but what it promises does not hold; {recorded}");
    Error::new(ErrorKind::StepFailed, message)
        .details(expectations.iter().map(verifier::describe))
        .help("somebody else may be changing the schema: look at the objects named, then run the same command again")
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

/// The attempts at one work. The deadline counts from when something first stood in the way: an index build of an
/// hour has not used up anything.
pub(super) struct Tries {
    pub(super) attempt: u32,
    deadline: Duration,
    hindered: Option<Instant>,
    backoff: Backoff,
    /// When a transaction was first seen to hold a lock, for roles that are not shown its age.
    first_seen: HashMap<(Option<i32>, String), Instant>,
}

impl Tries {
    pub(super) fn new(deadline: Duration) -> Self {
        Self {
            attempt: 0,
            deadline,
            hindered: None,
            backoff: Backoff::new(50, 5_000),
            first_seen: HashMap::new(),
        }
    }

    /// What somebody asked for, or stood aside for others, is nothing that was in the way.
    pub(super) fn stood_aside(&mut self, time: Duration) {
        self.hindered = self.hindered.and_then(|since| since.checked_add(time));
    }

    /// How long something has been in the way.
    pub(super) fn hindered_for(&self) -> Duration {
        self.hindered.map(|since| since.elapsed()).unwrap_or_default()
    }

    pub(super) fn is_over(&mut self) -> bool {
        self.hindered.get_or_insert_with(Instant::now).elapsed() >= self.deadline
    }

    /// How long to wait before the next attempt; `None` when there is none.
    pub(super) fn delay(&mut self) -> Option<u64> {
        (!self.is_over()).then(|| self.backoff.next_ms(rand::random()))
    }
}

fn exhausted(work: &Work, tries: &Tries, blockers: &[Blocker]) -> Error {
    let message = format!(
        "{}: no lock within {} attempts in {}",
        work.summary,
        tries.attempt,
        units::duration(tries.hindered_for())
    );
    Error::new(ErrorKind::Exhausted, message)
        .details(blockers.iter().map(blocker_line))
        .help("nothing is held and the state is saved: run the same command again later, or end what blocks")
}

/// A blocker in one line.
pub fn blocker_line(blocker: &Blocker) -> String {
    format!("blocked by {}", holder_line(blocker))
}

/// Who somebody is, in one line.
pub(super) fn holder_line(blocker: &Blocker) -> String {
    let who = match blocker.pid {
        Some(pid) => format!("pid {pid}"),
        None => "a prepared transaction".into(),
    };
    let application = if blocker.application.is_empty() {
        String::new()
    } else {
        format!(" ({})", blocker.application)
    };
    format!(
        "{who} of {}{application}, {}, for {}",
        blocker.user,
        blocker.state,
        units::duration(Duration::from_millis(blocker.age_ms))
    )
}

pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted")
        .help("the state is saved: run the same command again to go on")
}

/// Returns once the user wants that much; never where nobody is left who could want it.
async fn wanted(interrupts: &mut watch::Receiver<Interrupt>, at_least: Interrupt) {
    // The guard that `wait_for` gives must not live across an await: it would tie the run to one thread.
    if interrupts.wait_for(|wanted| *wanted >= at_least).await.is_err() {
        std::future::pending::<()>().await;
    }
}

pub(super) fn pool_error(error: deadpool_postgres::PoolError) -> Error {
    if let Some(connect) = crate::postgres::settings::ConnectError::in_chain(&error) {
        let mut made = Error::new(ErrorKind::Connection, connect.to_string()).help(connect.help());
        made.sqlstate = connect.sqlstate().map(ToOwned::to_owned);
        return made;
    }
    Error::new(ErrorKind::Connection, "no working session")
        .source(error)
        .help("run the same command again")
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What bounds every statement of a work.
pub fn timeouts_sql(work: &Work, set: &str) -> String {
    let lock = work.timeouts.lock_ms.unwrap_or(0);
    let statement = work.timeouts.statement_ms;
    format!("{set} lock_timeout = '{lock}ms'; {set} statement_timeout = '{statement}ms'")
}

fn tables_of(expectations: &[Expectation]) -> BTreeSet<QualifiedName> {
    let tables = expectations.iter().filter_map(Expectation::table);
    tables.cloned().collect()
}
