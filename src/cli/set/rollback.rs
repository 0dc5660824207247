//! `rollback DIR`: the runs of a directory that are in place, undone from the last that began to the first, whichever
//! plan each is of: a later one may stand on an earlier one.

use super::standing::{self, Standing};
use crate::cli::history::History;
use crate::cli::rollback::{Rollback, Undoing, typed};
use crate::cli::{Failure, Global, Outcome, confirm, interrupts};
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::Run;
use crate::executor::{self, Interrupt};
use crate::postgres::settings::ConnectionSettings;
use crate::report::{Reporter, out, style};
use crate::units;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_postgres::Client;

/// One run that is to be undone.
struct Unit<'a> {
    plan: &'a Standing,
    run: Run,
}

/// What is to be undone, and what is not.
#[derive(Default)]
struct Due<'a> {
    /// The last that began first.
    units: Vec<Unit<'a>>,
    /// Plans that are baselines and nothing else.
    kept: Vec<&'a str>,
    /// Of the others, the runs that stay, in words.
    stays: Vec<String>,
}

impl<'a> Due<'a> {
    async fn of(client: &Client, standings: &'a [Standing]) -> Result<Self, Error> {
        let mut due = Self::default();
        for plan in standings.iter().filter(|plan| plan.in_place().is_some()) {
            let undoing = Undoing::find(client, &plan.file.plan.name).await?;
            if undoing.baseline().is_some() {
                due.kept.push(plan.name());
                continue;
            }
            let stays = undoing.stays.map(|stays| format!("{}: {stays}", plan.name()));
            due.stays.extend(stays);
            due.units
                .extend(undoing.runs.into_iter().map(|run| Unit { plan, run }));
        }
        due.units.sort_by_key(|unit| std::cmp::Reverse(unit.run.id));
        Ok(due)
    }
}

pub async fn run(rollback: &Rollback, global: &Global) -> Outcome {
    let set = super::read(&rollback.plan)?;
    let settings = global.settings()?;
    let session = global.observer(&settings).await?;
    let standings = standing::of(&session.client, &set).await?.plans;
    refuse_irreversible(&session.client, &standings).await?;
    let due = Due::of(&session.client, &standings).await?;
    drop(session);
    if !due.units.is_empty() {
        let texts = typed(due.units.iter().map(|unit| &unit.run));
        let question = question(rollback, &due, &settings);
        confirm::ask_for(&texts, &question, &rollback.confirm, rollback.yes)?;
    }
    let reporter = rollback.watchers.around(global.reporter())?;
    let walk = Walk {
        rollback,
        global,
        settings: &settings,
        interrupts: interrupts::watch(reporter.clone())?,
        reporter,
    };
    let mut done = Vec::new();
    let mut failure = None;
    for unit in &due.units {
        match Box::pin(walk.one(unit)).await {
            Ok(result) => done.push(result),
            Err(found) => {
                failure = Some(found);
                break;
            }
        }
    }
    walk.reporter.finish();
    report(rollback, global, &Ended { done, due, failure })
}

/// Rather than to stop in the middle: of every run that stands, for what was done after one that stays may stand on it.
async fn refuse_irreversible(client: &Client, standings: &[Standing]) -> Result<(), Error> {
    let mut found = Vec::new();
    for plan in standings.iter().filter(|plan| plan.in_place().is_some()) {
        let history = History::read(client, &plan.file.plan.name).await?;
        let beyond = |run: &Run| {
            let (step, reason) = executor::irreversible(run)?;
            let (name, id, step) = (plan.name(), run.id, &step.id);
            Some(format!(
                "{name}: step {step} of run {id} is done and cannot be undone: {reason}"
            ))
        };
        found.extend(history.standing.iter().filter_map(beyond));
    }
    if found.is_empty() {
        return Ok(());
    }
    let message = "not all of these plans can be rolled back; nothing was changed";
    Err(Error::new(ErrorKind::Precondition, message)
        .details(found)
        .help("roll back the plans after those, one by one: pgmorph rollback PLAN"))
}

fn question(rollback: &Rollback, due: &Due<'_>, settings: &ConnectionSettings) -> String {
    let mut text = format!(
        "Roll back {} of {} on {}, the last first\n\n",
        units::counted(due.units.len(), "run"),
        rollback.plan,
        settings
    );
    for (number, Unit { plan, run }) in due.units.iter().enumerate() {
        let _ = writeln!(
            text,
            "  {}. {} (run {})",
            number + 1,
            style::name(plan.name()),
            run.id
        );
    }
    for stays in &due.stays {
        let _ = writeln!(text, "{} {stays}", style::careful("Not all of it:"));
    }
    if !due.kept.is_empty() {
        let _ = writeln!(
            text,
            "Baselines stay, for they have no way back: {}",
            due.kept.join(", ")
        );
    }
    text
}

/// A walk back through what is in place.
struct Walk<'a> {
    rollback: &'a Rollback,
    global: &'a Global,
    settings: &'a ConnectionSettings,
    reporter: Arc<dyn Reporter>,
    interrupts: watch::Receiver<Interrupt>,
}

impl Walk<'_> {
    async fn one(&self, unit: &Unit<'_>) -> Result<Value, Failure> {
        let Unit { plan, run } = unit;
        if *self.interrupts.borrow() != Interrupt::None {
            let message = format!("interrupted before run {} of plan {}", run.id, plan.name());
            let error = Error::new(ErrorKind::Interrupted, message);
            return Err(error.help("run the same command again to go on").into());
        }
        let (reporter, interrupts) = (&self.reporter, &self.interrupts);
        let run = std::slice::from_ref(run);
        let undo = self
            .rollback
            .undo(self.global, self.settings, run, reporter, interrupts);
        let undone = Box::pin(undo).await?;
        let name = &plan.file.plan.name;
        if !self.global.is_json() {
            out::result(&undone.human(name))?;
        }
        let mut json = undone.json(name);
        json["file"] = plan.file.path.as_str().into();
        Ok(json)
    }
}

struct Ended<'a> {
    done: Vec<Value>,
    due: Due<'a>,
    failure: Option<Failure>,
}

impl Ended<'_> {
    /// The plans of the runs that are not undone, each once.
    fn left(&self) -> Vec<&str> {
        let mut left: Vec<&str> = Vec::new();
        for unit in &self.due.units[self.done.len()..] {
            if !left.contains(&unit.plan.name()) {
                left.push(unit.plan.name());
            }
        }
        left
    }
}

fn report(rollback: &Rollback, global: &Global, ended: &Ended<'_>) -> Outcome {
    let Ended { done, due, failure } = ended;
    let code = failure.as_ref().map_or(0, Failure::exit_code);
    if global.is_json() {
        let mut result = json!({
            "directory": rollback.plan, "plans": done, "left": ended.left(), "baselines": due.kept, "stays": due.stays,
        });
        if let Some(failure) = failure {
            result["error"] = failure.json();
        }
        out::json(&result)?;
        return Ok(code);
    }
    for stays in &due.stays {
        global.note(&format!("note: {stays}"));
    }
    if let Some(failure) = failure {
        out::message(&failure.human(global.verbose > 0));
        let left = ended.left().join(", ");
        out::line(&format!(
            "the rollback of {} stopped; left: {left}",
            rollback.plan
        ));
    } else if done.is_empty() {
        out::result(&format!("{}: nothing to roll back\n", rollback.plan))?;
    }
    Ok(code)
}
