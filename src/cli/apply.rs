//! `apply`: begins a plan, or goes on with it.

use super::contention::ContentionArgs;
use super::history::History;
use super::input::{self, Input};
use super::resolve::{self, Way};
use super::{Failure, Global, Outcome, confirm, interrupts, set, untested};
use crate::error::{Error, ErrorKind};
use crate::event::LockTotals;
use crate::executor::brake::Brake;
use crate::executor::ledger::{Run, StepState};
use crate::executor::{Executor, Interrupt, Replicas, gate};
use crate::monitor::Watchers;
use crate::plan::{ExecutionPlan, Phase, Settings, Step, Waiting};
use crate::postgres::settings::ConnectionSettings;
use crate::report::{Reporter, out, plan_human, style};
use crate::units;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio_postgres::Client;

/// Run a plan, or go on with an unfinished run of it
#[derive(Debug, Args)]
pub struct Apply {
    /// The plan file, a directory of plan files, or an execution plan saved by `plan -o`; `-` is standard input
    pub(super) plan: String,
    /// The last phase to run; only `contract` removes anything
    #[arg(long, value_enum, default_value_t = PhaseArg::Cutover, value_name = "PHASE")]
    pub(super) through: PhaseArg,
    /// Go ahead without being asked
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Sessions that fill a table at the same time, instead of what the plan says; `tune` changes it later
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(Settings::WORKERS_MAX)))]
    workers: Option<u32>,
    /// The share of the time that each of them works (`25%`), rows a second of all together (`5000/s`), or `off`;
    /// `tune` changes it later
    #[arg(long, value_name = "SHARE|RATE")]
    throttle: Option<Brake>,
    #[command(flatten)]
    contention: ContentionArgs,
    /// Begin even on a server that is newer than the releases that pgmorph was tested with
    #[arg(long)]
    pub(super) untested_server: bool,
    /// The standbys that a backfill waits for in this call, by `application_name`, `all` that are there, or `none`;
    /// instead of what the plan says
    #[arg(long, value_name = "NAME,…")]
    replicas: Option<Replicas>,
    #[command(flatten)]
    pub(super) watchers: Watchers,
}

/// A phase on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PhaseArg {
    Expand,
    Backfill,
    Validate,
    Cutover,
    Contract,
}

impl From<PhaseArg> for Phase {
    fn from(argument: PhaseArg) -> Self {
        match argument {
            PhaseArg::Expand => Self::Expand,
            PhaseArg::Backfill => Self::Backfill,
            PhaseArg::Validate => Self::Validate,
            PhaseArg::Cutover => Self::Cutover,
            PhaseArg::Contract => Self::Contract,
        }
    }
}

/// What is to be run.
pub(super) struct Task {
    plan: ExecutionPlan,
    /// The run to go on with, or the one that has done everything.
    run: Option<Run>,
    /// Of the plan when this was decided.
    history: History,
    /// What is waiting still, where all else is done.
    finished: Option<Vec<Waiting>>,
}

impl Task {
    /// # Errors
    /// What stands against the plan.
    pub(super) async fn find(client: &Client, input: &Input) -> Result<Self, Failure> {
        let history = History::read(client, input.name()).await?;
        let (plan, run, finished) = match resolve::way(client, input, &history).await? {
            Way::Begin(plan) => (*plan, None, None),
            Way::Resume(run) => (run.plan.clone(), Some(*run), None),
            Way::Finished(run, waiting) => (run.plan.clone(), Some(*run), Some(waiting)),
            Way::Refused(error, _) => return Err(Failure::Error(error)),
        };
        Ok(Self {
            plan,
            run,
            history,
            finished,
        })
    }

    /// Whether nothing is left to do through this phase.
    pub(super) fn is_over(&self, through: Phase) -> bool {
        let (due, pending) = self.open_steps(through);
        self.finished.is_some() || (self.run.is_some() && due.is_empty() && !pending.is_empty())
    }

    /// Of a call that has nothing to do.
    pub(super) fn summary(&self, through: Phase) -> Summary<'_> {
        let (pending, waiting) = match &self.finished {
            Some(waiting) => (Vec::new(), waiting.clone()),
            None => (self.open_steps(through).1, self.plan.waiting()),
        };
        Summary {
            plan: &self.plan,
            run: self.run.as_ref().map(|run| run.id),
            complete: pending.is_empty(),
            steps: 0,
            elapsed_ms: 0,
            pending,
            waiting,
            resumed: self.finished.is_none(),
            locks: LockTotals::default(),
        }
    }

    /// Whether something of its contract may have to wait for its time.
    pub(super) fn has_gates(&self) -> bool {
        let (_, contract) = self.open_steps(Phase::Cutover);
        contract.iter().any(|step| step.work.not_before.is_some())
    }

    /// Until when that is.
    pub(super) fn closed_until(&self, now: Timestamp) -> Option<Timestamp> {
        gate::closed_until(self.run.as_ref()?, now)
    }

    fn is_done(&self, step: &Step) -> bool {
        let records = self.run.iter().flat_map(|run| &run.steps);
        records
            .into_iter()
            .any(|record| record.id == step.id && record.state == StepState::Done)
    }

    /// Steps that are not done: up to the phase, and after it.
    fn open_steps(&self, through: Phase) -> (Vec<&Step>, Vec<&Step>) {
        let open = self.plan.steps.iter().filter(|step| !self.is_done(step));
        open.partition(|step| step.phase <= through)
    }
}

/// What a call of `apply` came to.
pub(super) struct Summary<'a> {
    plan: &'a ExecutionPlan,
    run: Option<i64>,
    complete: bool,
    steps: usize,
    elapsed_ms: u64,
    pending: Vec<&'a Step>,
    waiting: Vec<Waiting>,
    /// The run was begun by another call.
    resumed: bool,
    locks: LockTotals,
}

impl Apply {
    pub async fn run(&self, global: &Global) -> Outcome {
        if set::is_directory(&self.plan) {
            return Box::pin(set::apply::run(self, global)).await;
        }
        let mut input = input::read(&self.plan)?;
        let settings = global.settings()?;
        let session = global.observer(&settings).await?;
        set::names::recognise(&session.client, global, &mut input).await?;
        let task = Task::find(&session.client, &input).await?;
        if task.run.is_none() {
            set::refuse_unmet(&session.client, &input).await?;
            untested::refuse(&session.client, self.untested_server).await?;
        }
        // It would only idle while the question waits for an answer.
        drop(session);
        let through = self.through.into();
        if task.is_over(through) {
            self.report(global, &task.summary(through))?;
            return Ok(0);
        }
        confirm::ask(&self.question(&task, &settings), self.yes)?;
        let reporter = self.watchers.around(global.reporter())?;
        let interrupts = interrupts::watch(reporter.clone())?;
        let execution = self.execute(global, &settings, &task, through, &reporter, interrupts);
        let summary = Box::pin(execution).await;
        reporter.finish();
        self.report(global, &summary?)?;
        Ok(0)
    }

    pub(super) fn question(&self, task: &Task, settings: &ConnectionSettings) -> String {
        let (due, pending) = task.open_steps(self.through.into());
        let verb = if task.run.is_some() { "Go on with" } else { "Apply" };
        let mut text = format!(
            "{verb} plan {} on {}: {}\n\n{}\n",
            style::name(&task.plan.name),
            settings,
            units::counted(due.len(), "step"),
            plan_human::overview(&task.plan),
        );
        if let Some(step) = due
            .iter()
            .find(|step| task.plan.point_of_no_return() == Some(step))
        {
            let _ = writeln!(
                text,
                "{} {}: {}",
                style::bad("No return after"),
                step.id,
                step.work.summary
            );
        }
        for waiting in task.plan.waiting() {
            let _ = writeln!(text, "{} {waiting}", style::careful("Waiting:"));
        }
        if !pending.is_empty() {
            let _ = writeln!(
                text,
                "It stops after {}; still to do then: {}.",
                Phase::from(self.through),
                units::counted(pending.len(), "step")
            );
        }
        text
    }

    pub(super) async fn execute<'a>(
        &self,
        global: &Global,
        settings: &ConnectionSettings,
        task: &'a Task,
        through: Phase,
        reporter: &Arc<dyn Reporter>,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<Summary<'a>, Error> {
        let began = Instant::now();
        let executor = Executor::open(settings, reporter.clone(), interrupts)
            .await?
            .asked(self.workers, self.throttle)
            .contending(self.contention.into())
            .counting(self.replicas.clone());
        let run = unchanged(global, settings, task).await?;
        let outcome = Box::pin(executor.apply(&task.plan, run.as_ref(), through)).await?;
        Ok(Summary {
            plan: &task.plan,
            run: Some(outcome.run),
            complete: outcome.complete,
            steps: outcome.steps,
            elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            pending: task.open_steps(through).1,
            waiting: task.plan.waiting(),
            resumed: task.run.is_some(),
            locks: outcome.locks,
        })
    }

    fn report(&self, global: &Global, summary: &Summary<'_>) -> Result<(), Error> {
        if global.is_json() {
            return out::json(&summary.json());
        }
        out::result(&summary.human(&self.plan))
    }
}

/// Under the run lock nothing moves any more: what was recorded must be what was decided upon before it was taken.
async fn unchanged(
    global: &Global,
    settings: &ConnectionSettings,
    task: &Task,
) -> Result<Option<Run>, Error> {
    let session = global.observer(settings).await?;
    let mut found = History::read(&session.client, &task.plan.name).await?;
    if found.marks() == task.history.marks() {
        return Ok(found.standing.pop().filter(|_| task.run.is_some()));
    }
    Err(Error::new(
        ErrorKind::Precondition,
        "another run of this plan came in between; nothing was changed",
    )
    .help("see `pgmorph status`, then run the same command again"))
}

impl Summary<'_> {
    /// What was done together with an earlier call.
    pub(super) fn after(self, earlier: &Summary<'_>) -> Self {
        Self {
            steps: self.steps + earlier.steps,
            elapsed_ms: self.elapsed_ms + earlier.elapsed_ms,
            locks: self.locks.plus(&earlier.locks),
            ..self
        }
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let pending = |step: &&Step| json!({"id": step.id, "phase": step.phase});
        json!({
            "plan": self.plan.name,
            "run": self.run,
            "complete": self.complete,
            "steps": self.steps,
            "elapsed_ms": self.elapsed_ms,
            "pending": self.pending.iter().map(pending).collect::<Vec<_>>(),
            "waiting": self.waiting,
            "locks": self.locks,
        })
    }

    pub(super) fn human(&self, path: &str) -> String {
        self.outcome(path) + &out::locks(&self.locks)
    }

    fn outcome(&self, path: &str) -> String {
        let mut text = if self.steps == 0 {
            format!("{}: nothing to do", style::name(&self.plan.name))
        } else {
            let steps = units::counted(self.steps, "step");
            format!(
                "{}: {steps} in {}",
                style::name(&self.plan.name),
                units::millis(self.elapsed_ms)
            )
        };
        if self.complete {
            match self.waiting.as_slice() {
                [] => text.push_str("; all of it is done"),
                _ => self.write_waiting(&mut text),
            }
            text.push('\n');
            return text;
        }
        let mut phases: Vec<Phase> = self.pending.iter().map(|step| step.phase).collect();
        phases.dedup();
        let names: Vec<_> = phases.iter().map(ToString::to_string).collect();
        if let Some(first) = phases.first() {
            let verb = if phases.len() == 1 { "is" } else { "are" };
            // What removes things is only ever suggested by itself.
            let through = if *first == Phase::Contract {
                " --through contract"
            } else {
                ""
            };
            let names = names.join(", ");
            let _ = write!(text, "; {names} {verb} pending: pgmorph apply {path}{through}");
        }
        self.write_waiting(&mut text);
        text.push('\n');
        text
    }

    fn write_waiting(&self, text: &mut String) {
        let left_out = match (self.waiting.as_slice(), self.resumed) {
            ([], _) => return,
            (waiting, false) => plan_human::waiting(waiting),
            // What was so when the run began may be otherwise now.
            (waiting, true) => format!(
                "{} left out when this run began: the next apply after its end looks again",
                units::counted(waiting.len(), "change")
            ),
        };
        let _ = write!(text, "; {left_out}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, compile, table};

    #[test]
    fn what_waits_is_said_in_the_end() {
        let changes = "  - set_default: {table: t, column: a, default: 1}\n  - set_default: {table: u, column: a, default: 1, when: {table_exists: u}}\n";
        let catalog = catalog().with("t", table(&["a bigint"]));
        let plan = compile(&catalog, changes).unwrap();
        let said = |summary: &Summary<'_>| {
            let text = summary.human("plan.yaml");
            let (_, said) = text.split_once(": ").unwrap();
            said.trim_end().to_owned()
        };
        let task = Task {
            finished: Some(plan.waiting()),
            plan,
            run: None,
            history: History::default(),
        };
        let mut summary = task.summary(Phase::Cutover);
        let waits = "1 change is waiting: table public.u does not exist";
        assert_eq!(said(&summary), format!("nothing to do; {waits}"));
        summary.steps = 1;
        assert_eq!(said(&summary), format!("1 step in 0ms; {waits}"));
        summary.resumed = true;
        let left_out = "1 change left out when this run began: the next apply after its end looks again";
        assert_eq!(said(&summary), format!("1 step in 0ms; {left_out}"));
        summary.complete = false;
        summary.pending = task.plan.steps.iter().collect();
        let pending = "1 step in 0ms; expand is pending: pgmorph apply plan.yaml";
        assert_eq!(said(&summary), format!("{pending}; {left_out}"));
    }
}
