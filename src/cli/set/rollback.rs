//! `rollback DIR`: what of a directory is in place, undone from the last plan to the first.

use super::standing::{self, Standing, State};
use crate::cli::rollback::{Rollback, Undoing};
use crate::cli::{Failure, Global, Outcome, confirm, interrupts};
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::Run;
use crate::executor::{self, Interrupt};
use crate::postgres::settings::ConnectionSettings;
use crate::report::{Reporter, out, style};
use crate::units;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::watch;

pub async fn run(rollback: &Rollback, global: &Global) -> Outcome {
    let set = super::read(&rollback.plan)?;
    let settings = global.settings()?;
    let session = global.observer(&settings).await?;
    let standings = standing::of(&session.client, &set).await?.plans;
    drop(session);
    let (kept, due): (Vec<&Standing>, Vec<&Standing>) = standings
        .iter()
        .rev()
        .filter(|plan| plan.in_place().is_some())
        .partition(|plan| plan.state == State::Baseline);
    refuse_irreversible(&due)?;
    let kept: Vec<&str> = kept.iter().map(|plan| plan.name()).collect();
    if !due.is_empty() {
        ask(rollback, &due, &question(rollback, &due, &kept, &settings))?;
    }
    let reporter = global.reporter();
    let walk = Walk {
        rollback,
        global,
        settings: &settings,
        interrupts: interrupts::watch(reporter.clone())?,
        reporter,
    };
    let mut done = Vec::new();
    let mut failure = None;
    for standing in &due {
        match Box::pin(walk.one(standing)).await {
            Ok(result) => done.push(result),
            Err(found) => {
                failure = Some(found);
                break;
            }
        }
    }
    walk.reporter.finish();
    let left: Vec<&str> = due[done.len()..].iter().map(|plan| plan.name()).collect();
    report(
        rollback,
        global,
        &Ended {
            done,
            left,
            kept,
            failure,
        },
    )
}

/// Rather than to stop in the middle.
fn refuse_irreversible(due: &[&Standing]) -> Result<(), Error> {
    let beyond = |run: &Run| {
        let (step, reason) = executor::irreversible(run)?;
        let (name, step) = (&run.plan.name, &step.id);
        Some(format!(
            "{name}: step {step} is done and cannot be undone: {reason}"
        ))
    };
    let found: Vec<String> = due.iter().filter_map(|plan| beyond(plan.in_place()?)).collect();
    if found.is_empty() {
        return Ok(());
    }
    let message = "not all of these plans can be rolled back; nothing was changed";
    Err(Error::new(ErrorKind::Precondition, message)
        .details(found)
        .help("roll back the plans after those, one by one: pgmorph rollback PLAN"))
}

/// For a yes, and for every text that one of the plans wants to be typed.
fn ask(rollback: &Rollback, due: &[&Standing], question: &str) -> Result<(), Error> {
    let texts = due
        .iter()
        .filter_map(|plan| plan.in_place()?.plan.confirm_rollback.as_deref());
    let texts: BTreeSet<&str> = texts.collect();
    if texts.is_empty() {
        return confirm::ask(question, rollback.yes);
    }
    for text in texts {
        confirm::ask_for(text, question, rollback.confirm.as_deref())?;
    }
    Ok(())
}

fn question(rollback: &Rollback, due: &[&Standing], kept: &[&str], settings: &ConnectionSettings) -> String {
    let mut text = format!(
        "Roll back {} of {} on {}, the last first\n\n",
        units::counted(due.len(), "plan"),
        rollback.plan,
        settings.redacted()
    );
    for (number, standing) in due.iter().enumerate() {
        let run = standing
            .in_place()
            .map_or(String::new(), |run| format!(" (run {})", run.id));
        let _ = writeln!(text, "  {}. {}{run}", number + 1, style::name(standing.name()));
    }
    if !kept.is_empty() {
        let _ = writeln!(
            text,
            "Baselines stay, for they have no way back: {}",
            kept.join(", ")
        );
    }
    text
}

/// A walk back through the plans that are in place.
struct Walk<'a> {
    rollback: &'a Rollback,
    global: &'a Global,
    settings: &'a ConnectionSettings,
    reporter: Arc<dyn Reporter>,
    interrupts: watch::Receiver<Interrupt>,
}

impl Walk<'_> {
    async fn one(&self, standing: &Standing) -> Result<Value, Failure> {
        if *self.interrupts.borrow() != Interrupt::None {
            let message = format!("interrupted before plan {}", standing.name());
            let error = Error::new(ErrorKind::Interrupted, message);
            return Err(error.help("run the same command again to go on").into());
        }
        let session = self.global.observer(self.settings).await?;
        let undoing = Undoing::find(&session.client, &standing.file.plan.name).await?;
        drop(session);
        let (reporter, interrupts) = (&self.reporter, &self.interrupts);
        let undo = self
            .rollback
            .undo(self.global, self.settings, &undoing, reporter, interrupts);
        let undone = Box::pin(undo).await?;
        if !self.global.is_json() {
            out::result(&undone.human())?;
        }
        let mut json = undone.json();
        json["file"] = standing.file.path.as_str().into();
        Ok(json)
    }
}

struct Ended<'a> {
    done: Vec<Value>,
    left: Vec<&'a str>,
    /// Baselines.
    kept: Vec<&'a str>,
    failure: Option<Failure>,
}

fn report(rollback: &Rollback, global: &Global, ended: &Ended<'_>) -> Outcome {
    let Ended {
        done,
        left,
        kept,
        failure,
    } = ended;
    let code = failure.as_ref().map_or(0, Failure::exit_code);
    if global.is_json() {
        let mut result = json!({"directory": rollback.plan, "plans": done, "left": left, "baselines": kept});
        if let Some(failure) = failure {
            result["error"] = failure.json();
        }
        out::json(&result)?;
        return Ok(code);
    }
    if let Some(failure) = failure {
        out::message(&failure.human(global.verbose > 0));
        let left = left.join(", ");
        out::line(&format!(
            "the rollback of {} stopped; left: {left}",
            rollback.plan
        ));
    } else if done.is_empty() {
        out::result(&format!("{}: nothing to roll back\n", rollback.plan))?;
    }
    Ok(code)
}
