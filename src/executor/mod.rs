//! Runs execution plans: decides synchronously, acts asynchronously, remembers everything in the ledger.

use crate::catalog::load;
use crate::error::{Error, ErrorKind};
use crate::event::{Event, Listener, LockTotals};
use crate::plan::{Action, Asked, Contention, ExecutionPlan, Expectation, Phase, Settings, Step, Undo, Work};
use crate::postgres::settings::{ConnectionSettings, Session, patiently};
use crate::sql::QualifiedName;
use crate::verifier::{self, Standing};
use brake::Brake;
use deadpool_postgres::Pool;
use decide::{barrier, is_due, needs_undo};
use ledger::{Run, RunState, StepState};
use session::{Key, Tries};
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

mod asked;
mod backfill;
mod blocked;
pub mod brake;
mod compare;
mod decide;
pub mod gate;
pub mod ledger;
mod lock_order;
mod locks;
pub mod matching;
mod orphans;
pub mod privileges;
mod recording;
mod retry;
mod session;
mod stall;
pub mod stats;
pub mod waits;

pub use locks::runner;
pub use session::{blocker_line, timeouts_sql};

/// Opening the sessions of the run must not hang on a server that is overloaded. They are opened when they are needed.
const POOL_SIZE: usize = 3;
const WORKERS_MAX: usize = 2 + Settings::WORKERS_MAX as usize;

/// How urgently the user wants the run to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interrupt {
    #[default]
    None,
    /// After the current statement or batch.
    Gracefully,
    /// Cancel the running statement.
    Now,
}

/// What a finished call left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub run: i64,
    /// Steps that were run by this call.
    pub steps: usize,
    /// Every step of every phase is done (or undone).
    pub complete: bool,
    pub locks: LockTotals,
}

/// Holds the run lock of a database, and the sessions that do the work.
pub struct Executor {
    lock: Session,
    workers: Pool,
    observers: Pool,
    listener: Arc<dyn Listener>,
    interrupts: watch::Receiver<Interrupt>,
    workers_asked: Option<u32>,
    throttle_asked: Option<Brake>,
    contention_asked: Asked,
    replicas_asked: Option<Replicas>,
}

/// The standbys that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replicas {
    /// Those that are there.
    All,
    /// By their `application_name`; they must be there.
    These(Vec<String>),
}

impl FromStr for Replicas {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        match names.as_slice() {
            [all] if all == "all" => Ok(Self::All),
            [none] if none == "none" => Ok(Self::These(Vec::new())),
            _ if names.iter().any(String::is_empty) => Err("names of standbys, `all`, or `none`"),
            _ => Ok(Self::These(names)),
        }
    }
}

/// One run at work.
pub(crate) struct Runner {
    lock: Session,
    workers: Pool,
    observers: Pool,
    listener: Arc<dyn Listener>,
    interrupts: watch::Receiver<Interrupt>,
    deadline: Duration,
    long_statement_ms: u64,
    plan: String,
    contention: Contention,
    totals: Mutex<LockTotals>,
    began: Instant,
    standbys: Mutex<backfill::Standbys>,
    replicas_asked: Option<Replicas>,
    orphans: orphans::Orphans,
    stats: Mutex<stats::Keeper>,
}

/// What a rollback does about values that the old type cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It shows the rows and goes no further.
    Refused,
    /// They are lost.
    Accepted,
}

/// The step that keeps a run from being undone, and why.
pub fn irreversible(run: &Run) -> Option<(&Step, &str)> {
    let state = |step: &Step| {
        let record = run.steps.iter().find(|record| record.id == step.id);
        record.map_or(StepState::Pending, |record| record.state)
    };
    barrier(run.plan.steps.iter().map(|step| (step, state(step))))
}

impl Loss {
    fn spares(self, work: &Work) -> bool {
        self == Self::Accepted && work.guards_values
    }
}

impl Runner {
    fn tell(&self, event: Event) {
        self.stats().take(self.began.elapsed(), &event);
        self.listener.tell(&event);
    }

    fn interrupted(&self) -> Interrupt {
        *self.interrupts.borrow()
    }

    fn totals(&self) -> MutexGuard<'_, LockTotals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long others may wait behind us still.
    fn stall_left_ms(&self) -> u64 {
        let spent = self.totals().stalled_backend_ms;
        self.contention.stall_budget_per_run_ms.saturating_sub(spent)
    }

    /// Without its session the run lock is gone, and somebody else may be running.
    fn check_run_lock(&self) -> Result<(), Error> {
        if self.lock.client.is_closed() {
            return Err(Error::new(
                ErrorKind::Connection,
                "the session that holds the run lock is gone",
            )
            .help("the state is saved: run the same command again to go on"));
        }
        Ok(())
    }
}

impl Executor {
    /// Connects, refuses poolers of transactions, takes the run lock, creates the ledger if it is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when another run holds the database, with who that is; [`ErrorKind::Connection`];
    /// [`ErrorKind::Precondition`] when the server only reads or the ledger cannot be created.
    pub async fn open(
        settings: &ConnectionSettings,
        listener: Arc<dyn Listener>,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<Self, Error> {
        patiently(|| Box::pin(settings.refuse_transaction_pooling())).await?;
        let lock = patiently(|| Box::pin(settings.bounded("pgmorph lock", orphans::LOCK_BOUNDS))).await?;
        lock.client
            .batch_execute("SET synchronous_commit = local")
            .await
            .map_err(|error| {
                Error::postgres(ErrorKind::Connection, "preparing the run lock's session", error)
            })?;
        refuse_read_only(&lock).await?;
        let here = same_server(&lock).await?;
        take_run_lock(&lock).await?;
        ledger::create(&lock.client).await?;
        let mut setup = worker_setup();
        setup.push(here.clone());
        setup.push(format!("SELECT pg_advisory_lock_shared({})", locks::WORKERS_LOCK));
        let workers = settings.pool("pgmorph", WORKERS_MAX, setup)?;
        let observers = observing(settings, &lock).await?.pool(
            "pgmorph observer",
            POOL_SIZE,
            vec![orphans::OBSERVER_BOUNDS.sql(), here],
        )?;
        Ok(Self {
            lock,
            workers,
            observers,
            listener,
            interrupts,
            workers_asked: None,
            throttle_asked: None,
            contention_asked: Asked::default(),
            replicas_asked: None,
        })
    }

    /// For this call, these standbys count instead of those that the plan says.
    #[must_use]
    pub fn counting(self, replicas: Option<Replicas>) -> Self {
        Self {
            replicas_asked: replicas,
            ..self
        }
    }

    /// Asks for these from the beginning, as `tune` would later.
    #[must_use]
    pub fn asked(self, workers: Option<u32>, throttle: Option<Brake>) -> Self {
        Self {
            workers_asked: workers,
            throttle_asked: throttle,
            ..self
        }
    }

    /// Where locks meet, does what is asked for instead of what the plan says.
    #[must_use]
    pub fn contending(self, asked: Asked) -> Self {
        Self {
            contention_asked: asked,
            ..self
        }
    }

    fn runner(self, plan: &ExecutionPlan) -> Runner {
        let longest = plan
            .steps
            .iter()
            .map(|step| step.work.timeouts.statement_ms)
            .max();
        Runner {
            lock: self.lock,
            workers: self.workers,
            observers: self.observers,
            listener: self.listener,
            interrupts: self.interrupts,
            deadline: Duration::from_millis(plan.lock_deadline_ms),
            long_statement_ms: longest.unwrap_or(60_000),
            plan: plan.name.clone(),
            contention: plan.contention.with(self.contention_asked),
            totals: Mutex::default(),
            began: Instant::now(),
            standbys: Mutex::default(),
            replicas_asked: self.replicas_asked,
            orphans: orphans::Orphans::default(),
            stats: Mutex::default(),
        }
    }

    /// Runs the steps of a plan up to and including a phase. With `resume`, goes on where that run of it stopped.
    ///
    /// # Errors
    /// Whatever stops the run; the state is saved, and the same call goes on.
    pub async fn apply(
        self,
        plan: &ExecutionPlan,
        resume: Option<&Run>,
        through: Phase,
    ) -> Result<Outcome, Error> {
        let (workers, throttle) = (self.workers_asked, self.throttle_asked);
        let mut runner = self.runner(plan);
        let run = runner.begin_run(plan, resume).await?;
        if workers.is_some() || throttle.is_some() {
            ledger::requests::tune(&runner.lock.client, run, workers, throttle).await?;
        }
        runner.begin_stats(run, resume.is_some()).await;
        let states: HashMap<&str, StepState> = resume
            .map(|run| {
                run.steps
                    .iter()
                    .map(|step| (step.id.as_str(), step.state))
                    .collect()
            })
            .unwrap_or_default();
        let state = |step: &Step| {
            states
                .get(step.id.as_str())
                .copied()
                .unwrap_or(StepState::Pending)
        };
        let due: Vec<&Step> = plan
            .steps
            .iter()
            .filter(|step| is_due(state(step), step.phase, through))
            .collect();
        runner.tell(Event::RunStarted {
            plan: plan.name.clone(),
            run,
            steps: plan.steps.len(),
            done: plan
                .steps
                .iter()
                .filter(|step| state(step) == StepState::Done)
                .count(),
            resumed: resume.is_some(),
        });
        if let Some(first) = due.first() {
            runner.check_signals(&first.id).await?;
        }
        runner.while_kept(Box::pin(runner.steps(run, &due))).await?;
        let complete = plan
            .steps
            .iter()
            .all(|step| state(step) == StepState::Done || due.contains(&step));
        let state = if complete {
            RunState::Completed
        } else {
            RunState::Started
        };
        ledger::set_run_state(&runner.lock.client, run, state).await?;
        runner.tell(Event::RunFinished {
            state: state.name().into(),
        });
        Ok(Outcome {
            run,
            steps: due.len(),
            complete,
            locks: runner.totals().clone(),
        })
    }

    /// Records plans as applied without running them.
    ///
    /// # Errors
    /// When one of them has a run in place by now, and on lost connections: all are recorded or none.
    pub async fn baseline(mut self, plans: &[ExecutionPlan]) -> Result<Vec<i64>, Error> {
        for plan in plans {
            let runs = ledger::standing_runs(&self.lock.client, &plan.name).await?;
            if let Some(run) = runs.iter().find(|run| run.state != RunState::RolledBack) {
                let message = format!("plan {} has a run already: run {}", plan.name, run.id);
                return Err(Error::new(ErrorKind::Precondition, message)
                    .help("nothing was recorded; see `pgmorph status`"));
            }
        }
        let failed = |error| Error::postgres(ErrorKind::StepFailed, "recording a baseline", error);
        let transaction = self.lock.client.transaction().await.map_err(failed)?;
        let mut runs = Vec::new();
        for plan in plans {
            runs.push(ledger::record_baseline(&transaction, plan).await?);
        }
        transaction.commit().await.map_err(failed)?;
        Ok(runs)
    }

    /// Undoes the done steps of a run, last first. Refuses, untouched, past the point of no return.
    ///
    /// # Errors
    /// As for [`Executor::apply`].
    pub async fn rollback(self, run: &Run, loss: Loss) -> Result<Outcome, Error> {
        let runner = self.runner(&run.plan);
        let recorded: HashMap<&str, &ledger::StepRecord> =
            run.steps.iter().map(|step| (step.id.as_str(), step)).collect();
        let state = |step: &Step| {
            recorded
                .get(step.id.as_str())
                .map_or(StepState::Pending, |record| record.state)
        };
        if let Some((step, reason)) = irreversible(run) {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("step {} is done and cannot be undone: {reason}", step.id),
            )
            .help("nothing was changed; restore what was dropped from a backup, or write a plan that goes forwards"));
        }
        let due: Vec<&Step> = run
            .plan
            .steps
            .iter()
            .rev()
            .filter(|step| needs_undo(state(step), step))
            .collect();
        if run.state != RunState::RollingBack {
            let checks = Box::pin(runner.leading_checks(&due, loss));
            runner.while_kept(checks).await?;
        }
        ledger::set_run_state(&runner.lock.client, run.id, RunState::RollingBack).await?;
        runner.tell(Event::RunStarted {
            plan: run.plan.name.clone(),
            run: run.id,
            steps: due.len(),
            done: 0,
            resumed: run.state == RunState::RollingBack,
        });
        runner.begin_stats(run.id, true).await;
        // A transaction that was not committed left nothing to undo, and is at work no more.
        for step in run.plan.steps.iter().rev() {
            if state(step) == StepState::Running && !needs_undo(state(step), step) {
                runner.record_undone(run.id, step).await?;
            }
        }
        if let Some(first) = due.first() {
            runner.check_signals(&first.id).await?;
        }
        let steps = async {
            for step in &due {
                let record = recorded.get(step.id.as_str());
                let undone = record.map_or(0, |record| usize::try_from(record.undone_works).unwrap_or(0));
                if undone == 0 && state(step) != StepState::Done && !runner.left_something(step).await? {
                    runner.forget(run.id, step).await?;
                    continue;
                }
                let unfinished = state(step) != StepState::Done && asks_the_user(&step.work);
                runner.undo(run.id, step, undone, loss, unfinished).await?;
            }
            Ok::<(), Error>(())
        };
        runner.while_kept(Box::pin(steps)).await?;
        ledger::set_run_state(&runner.lock.client, run.id, RunState::RolledBack).await?;
        runner.tell(Event::RunFinished {
            state: RunState::RolledBack.name().into(),
        });
        Ok(Outcome {
            run: run.id,
            steps: due.len(),
            complete: true,
            locks: runner.totals().clone(),
        })
    }
}

impl Runner {
    async fn begin_run(&mut self, plan: &ExecutionPlan, resume: Option<&Run>) -> Result<i64, Error> {
        if let Some(run) = resume {
            return Ok(run.id);
        }
        self.while_kept(Box::pin(self.preconditions(plan))).await?;
        ledger::start_run(&mut self.lock.client, plan).await
    }

    async fn steps(&self, run: i64, due: &[&Step]) -> Result<(), Error> {
        let mut phase = None;
        for step in due {
            if phase != Some(step.phase) {
                phase = Some(step.phase);
                self.enter(run, step.phase, due).await?;
            }
            self.stand_still(run, step).await?;
            self.step(run, step).await?;
        }
        Ok(())
    }

    /// The tables must be what the plan was made for, and the user's own questions must have no answer.
    async fn preconditions(&self, plan: &ExecutionPlan) -> Result<(), Error> {
        let names: Vec<QualifiedName> = plan.before.tables.keys().cloned().collect();
        let tables = load::tables(&self.lock.client, &names).await?;
        let differences = verifier::differences(&plan.before, &tables);
        if !differences.is_empty() {
            return Err(Error::new(
                ErrorKind::Precondition,
                "the tables are not what the plan was made for; nothing was changed",
            )
            .details(differences.iter().map(ToString::to_string))
            .help("plan again, and review what is different"));
        }
        for check in &plan.preconditions {
            if let Err(mut error) = self.check(check).await {
                if error.kind == ErrorKind::StepFailed {
                    error.kind = ErrorKind::Precondition;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn enter(&self, run: i64, phase: Phase, due: &[&Step]) -> Result<(), Error> {
        if phase == Phase::Contract {
            self.refuse_early(run, due).await?;
        }
        let steps = due.iter().filter(|step| step.phase == phase).count();
        self.tell(Event::PhaseStarted { phase, steps });
        Ok(())
    }

    async fn step(&self, run: i64, step: &Step) -> Result<(), Error> {
        self.stop_before(step)?;
        self.tell(Event::StepStarted {
            step: step.id.clone(),
            summary: step.work.summary.clone(),
            undo: false,
        });
        let began = Instant::now();
        let Some(token) = self.begin_step(run, step).await? else {
            let reason = "it was done by a worker that outlived its run".into();
            self.tell(Event::StepSkipped {
                step: step.id.clone(),
                reason,
            });
            return Ok(());
        };
        let key = Key {
            run,
            step: &step.id,
            token,
            undo: None,
        };
        match self.work(key, &step.work).await {
            Ok(attempts) => {
                let elapsed_ms = session::millis(began.elapsed());
                self.tell(Event::StepDone {
                    step: step.id.clone(),
                    elapsed_ms,
                    attempts,
                    undo: false,
                });
                self.record_stats().await;
                Ok(())
            }
            Err(error) => Err(self.failed(run, step, error).await),
        }
    }

    /// Records the step as running. A transaction of a worker that outlived its run may still hold the record.
    async fn begin_step(&self, run: i64, step: &Step) -> Result<Option<i32>, Error> {
        let mut tries = Tries::new(self.deadline);
        loop {
            match ledger::step_running(&self.lock.client, run, &step.id).await {
                Err(error) if error.sqlstate.as_deref() == Some("55P03") => match tries.delay() {
                    Some(delay) => self.pause(delay).await?,
                    None => return Err(error),
                },
                result => return result,
            }
        }
    }

    /// What a rollback asks before its first effect is asked before anything is recorded, so that a refusal leaves
    /// the run as it was and it can still go forwards.
    async fn leading_checks(&self, due: &[&Step], loss: Loss) -> Result<(), Error> {
        for step in due {
            let Undo::Work(works) = &step.undo else { continue };
            for work in works {
                let Action::Check(check) = &work.action else {
                    return Ok(());
                };
                if loss.spares(work) {
                    continue;
                }
                if let Err(mut error) = self.check(check).await {
                    if error.kind == ErrorKind::StepFailed {
                        error.kind = ErrorKind::Precondition;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Whether a step that was begun and not finished may have left anything of its own. An object of that name with
    /// another definition, or on another table, is somebody else's.
    async fn left_something(&self, step: &Step) -> Result<bool, Error> {
        // A question of the user's own tells whether all of it is done, not whether nothing is.
        if step.work.expect.is_empty() || asks_the_user(&step.work) {
            return Ok(true);
        }
        if self.left_an_index_half_dropped(&step.work.expect).await? {
            return Ok(true);
        }
        let standing = self.standing(&step.work.expect).await?;
        Ok(matches!(standing, Standing::Holds | Standing::HalfDone(_)))
    }

    async fn record_undone(&self, run: i64, step: &Step) -> Result<(), Error> {
        let works = match &step.undo {
            Undo::Work(works) => works.len(),
            _ => 0,
        };
        self.record(Key {
            run,
            step: &step.id,
            token: 0,
            undo: Some((works, true)),
        })
        .await
    }

    async fn forget(&self, run: i64, step: &Step) -> Result<(), Error> {
        self.record_undone(run, step).await?;
        let reason = "it left nothing behind".into();
        self.tell(Event::StepSkipped {
            step: step.id.clone(),
            reason,
        });
        Ok(())
    }

    /// `unfinished`: whether the step itself was not finished, and the user's statements may find nothing to undo.
    async fn undo(
        &self,
        run: i64,
        step: &Step,
        undone: usize,
        loss: Loss,
        unfinished: bool,
    ) -> Result<(), Error> {
        self.stop_before(step)?;
        let works = match &step.undo {
            Undo::Work(works) => works.as_slice(),
            Undo::NotNeeded { .. } | Undo::Irreversible { .. } => &[],
        };
        self.tell(Event::StepStarted {
            step: step.id.clone(),
            summary: step.work.summary.clone(),
            undo: true,
        });
        let began = Instant::now();
        let mut attempts = 1;
        for (position, work) in works.iter().enumerate().skip(undone) {
            let undo = Some((position + 1, position + 1 == works.len()));
            let key = Key {
                run,
                step: &step.id,
                token: 0,
                undo,
            };
            if loss.spares(work) {
                self.record(key).await?;
                self.tell(Event::StepSkipped {
                    step: step.id.clone(),
                    reason: format!("the loss is accepted: {}", work.summary),
                });
                continue;
            }
            match self.work(key, work).await {
                // Nothing is tried where nothing was left to undo.
                Ok(tries) => attempts += tries.saturating_sub(1),
                Err(error) if unfinished && finds_nothing(error.sqlstate.as_deref()) => {
                    self.record(key).await?;
                    self.tell(Event::StepSkipped {
                        step: step.id.clone(),
                        reason: format!("there is nothing to undo: {}", error.message),
                    });
                }
                Err(error) => {
                    self.record_stats().await;
                    return Err(self.stopped_at(step, error));
                }
            }
        }
        if works.len() <= undone {
            self.record(Key {
                run,
                step: &step.id,
                token: 0,
                undo: Some((works.len(), true)),
            })
            .await?;
        }
        let elapsed_ms = session::millis(began.elapsed());
        self.tell(Event::StepDone {
            step: step.id.clone(),
            elapsed_ms,
            attempts,
            undo: true,
        });
        self.record_stats().await;
        Ok(())
    }

    fn stop_before(&self, step: &Step) -> Result<(), Error> {
        self.check_run_lock()?;
        if self.interrupted() > Interrupt::None {
            self.tell(Event::Interrupted {
                reason: format!("stopped before {}", step.id),
            });
            return Err(session::interrupted());
        }
        Ok(())
    }

    async fn failed(&self, run: i64, step: &Step, error: Error) -> Error {
        if error.kind == ErrorKind::StepFailed {
            // Best effort: a failure that cannot be recorded still ends the run, and the step counts as running.
            let _ = ledger::step_failed(&self.lock.client, run, &step.id, &error.message).await;
        }
        self.record_stats().await;
        self.stopped_at(step, error)
    }

    /// Tells what stopped the run: its own failure, or somebody who wanted it stopped.
    fn stopped_at(&self, step: &Step, error: Error) -> Error {
        self.tell(match error.kind {
            ErrorKind::Interrupted => Event::Interrupted {
                reason: format!("stopped during {}", step.id),
            },
            _ => Event::StepFailed {
                step: step.id.clone(),
                message: error.message.clone(),
            },
        });
        error
    }
}

/// Whether only the user knows what his statements make or remove.
fn asks_the_user(work: &Work) -> bool {
    let asks = |expectation: &Expectation| matches!(expectation, Expectation::Query { .. });
    work.expect.iter().any(asks)
}

/// Undefined table, object, column, function, or schema.
fn finds_nothing(sqlstate: Option<&str>) -> bool {
    sqlstate.is_some_and(|code| ["42P01", "42704", "42703", "42883", "3F000"].contains(&code))
}

/// What a role or a database may have set otherwise and our statements rely on. Row-level security must not hide rows
/// from a backfill or a check: with it off, a statement that it would filter fails instead.
fn worker_setup() -> Vec<String> {
    vec![
        orphans::WORKER_BOUNDS.sql(),
        // The server ends a statement whose client is gone instead of finishing it unseen.
        "SET client_connection_check_interval = '1s'".to_owned(),
        "SET default_transaction_isolation = 'read committed'".to_owned(),
        "SET row_security = off".to_owned(),
        // A transaction keeps its locks while it waits for a standby that is late or gone. What is told about the run in
        // the end waits for it, and with it all before.
        "SET synchronous_commit = local".to_owned(),
        // Without it every batch of a backfill would read the whole table.
        "SET enable_tidscan = on".to_owned(),
    ]
}

/// Who looks on does so as the login itself: our sessions are its own, so that it sees and may cancel them, and it may be
/// allowed more, like `pg_monitor`. Unless it does not inherit what its role may see.
async fn observing(settings: &ConnectionSettings, lock: &Session) -> Result<ConnectionSettings, Error> {
    let sql = "SELECT pg_has_role(session_user, current_user, 'USAGE')";
    let row = lock.client.query_one(sql, &[]).await;
    let inherits: bool = row
        .map_err(|error| Error::postgres(ErrorKind::Connection, "asking what the login inherits", error))?
        .get(0);
    Ok(if inherits {
        settings.acting_as(None)
    } else {
        settings.clone()
    })
}

async fn refuse_read_only(lock: &Session) -> Result<(), Error> {
    let sql = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
    let row =
        lock.client.query_one(sql, &[]).await.map_err(|error| {
            Error::postgres(ErrorKind::Connection, "asking whether the server writes", error)
        })?;
    let (recovery, read_only): (bool, bool) = (row.get(0), row.get(1));
    if !recovery && !read_only {
        return Ok(());
    }
    let why = if recovery {
        "is a standby"
    } else {
        "only reads (default_transaction_read_only)"
    };
    Err(Error::new(
        ErrorKind::Precondition,
        format!("the server {why}; nothing was changed"),
    )
    .help("connect to the primary, or ask for it with target_session_attrs=read-write"))
}

/// The statement by which another session finds out whether it is at the server that holds the run lock. After a
/// failover, or while one is under way, it may be at another one, where nobody keeps a second runner away.
async fn same_server(lock: &Session) -> Result<String, Error> {
    let started = "(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::pg_catalog.int8";
    let row = lock.client.query_one(&format!("SELECT {started}"), &[]).await;
    let row =
        row.map_err(|error| Error::postgres(ErrorKind::Connection, "asking which server it is", error))?;
    let started_at: i64 = row.get(0);
    Ok(format!(
        "DO $$BEGIN IF {started} <> {started_at} THEN RAISE EXCEPTION 'this is another server than the one that holds \
         the run lock' USING ERRCODE = '{}'; END IF; END$$",
        session::ANOTHER_SERVER
    ))
}

/// Takes the run lock, and waits until the sessions of an earlier runner are gone.
async fn take_run_lock(lock: &Session) -> Result<(), Error> {
    let patience = orphans::patience(lock, CRASHED_FOR).await?;
    if !taken_within(lock, locks::RUN_LOCK, patience).await? {
        let holder = locks::runner(&lock.client).await?;
        return Err(
            Error::new(ErrorKind::Busy, "another pgmorph run holds this database")
                .details(holder.iter().map(session::holder_line))
                .help("wait until it is finished, or end that session; then run the same command again"),
        );
    }
    let mut alone = taken_within(lock, locks::WORKERS_LOCK, ORPHANED_FOR).await?;
    if !alone {
        orphans::end_workers(lock).await?;
        alone = taken_within(lock, locks::WORKERS_LOCK, Duration::ZERO).await?;
    }
    if !alone {
        let holders = locks::holders_of(&lock.client, locks::WORKERS_LOCK).await?;
        return Err(Error::new(
            ErrorKind::Busy,
            "a session of an earlier pgmorph run is still at work",
        )
        .details(holders.iter().map(session::holder_line))
        .help("wait until it has ended, or end it; then run the same command again"));
    }
    lock.client
        .execute("SELECT pg_advisory_unlock($1)", &[&locks::WORKERS_LOCK])
        .await
        .map(drop)
        .map_err(|error| Error::postgres(ErrorKind::Connection, "taking the run lock", error))
}

/// A crashed runner's session may take a moment to end, and its statements notice within a second.
const CRASHED_FOR: Duration = Duration::from_secs(2);
const ORPHANED_FOR: Duration = Duration::from_secs(10);

async fn taken_within(lock: &Session, key: i64, patience: Duration) -> Result<bool, Error> {
    let failed = |error| Error::postgres(ErrorKind::Connection, "taking the run lock", error);
    let began = Instant::now();
    loop {
        let row = lock
            .client
            .query_one("SELECT pg_try_advisory_lock($1)", &[&key])
            .await
            .map_err(failed)?;
        if row.get(0) {
            return Ok(true);
        }
        if began.elapsed() > patience {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
