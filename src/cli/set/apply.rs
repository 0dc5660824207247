//! `apply DIR`: what is pending of a directory, one plan after the other.

use super::standing::{self, Standing, State};
use crate::catalog::load;
use crate::cli::apply::{Apply, Summary, Task};
use crate::cli::history::History;
use crate::cli::resolve::{self, Way};
use crate::cli::{Failure, Global, Outcome, confirm, interrupts, untested};
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::{Run, RunState};
use crate::executor::{Interrupt, gate};
use crate::plan::Phase;
use crate::plan_set::{PlanFile, Turn};
use crate::postgres::settings::ConnectionSettings;
use crate::report::{Reporter, out, style};
use crate::units;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_postgres::Client;

pub async fn run(apply: &Apply, global: &Global) -> Outcome {
    let set = super::read(&apply.plan)?;
    let settings = global.settings()?;
    let session = global.observer(&settings).await?;
    let standings = standing::of(&session.client, &set).await?.plans;
    let catalog = load::snapshot(&session.client).await?;
    super::refuse(&set, set.references(Some(&catalog), turns(&standings)))?;
    refuse_changed(&session.client, &standings).await?;
    let through = Phase::from(apply.through);
    let due = standings.iter().filter(|plan| plan.is_due(through));
    let now = gate::now(&session.client).await?;
    let held = |plan: &&Standing| through == Phase::Contract && held_until(plan, now).is_some();
    let (held, due): (Vec<&Standing>, Vec<&Standing>) = due.partition(held);
    let mut waits = Waits::default();
    for plan in held {
        waits.note(plan, held_until(plan, now));
    }
    let Some(task) = first_task(&session.client, &due, through).await? else {
        return nothing(apply, global, &standings, &waits);
    };
    // What was begun before the server was upgraded goes on.
    if due.iter().any(|plan| plan.in_place().is_none()) {
        untested::refuse(&session.client, apply.untested_server).await?;
    }
    drop(session);
    let question = question(apply, &task, &due, &settings) + &waits.human();
    confirm::ask(&question, apply.yes)?;
    let reporter = apply.watchers.around(global.reporter())?;
    let walk = Walk {
        apply,
        global,
        settings: &settings,
        interrupts: interrupts::watch(reporter.clone())?,
        reporter,
    };
    Box::pin(walk.all(&due, waits)).await
}

/// Until when contract has to wait, where that is all that is left of the plan.
fn held_until(standing: &Standing, now: Timestamp) -> Option<Timestamp> {
    let begun = |run: &&Run| run.state == RunState::Started && standing::reached_cutover(run);
    gate::closed_until(standing.in_place().filter(begun)?, now)
}

/// Plans whose contract has to wait, which holds up no other plan.
#[derive(Default)]
struct Waits(BTreeMap<String, Timestamp>);

impl Waits {
    fn note(&mut self, standing: &Standing, until: Option<Timestamp>) {
        self.0
            .extend(until.map(|until| (standing.name().to_owned(), until)));
    }

    fn human(&self) -> String {
        let line = |(name, until): (&String, &Timestamp)| {
            format!(
                "{}: contract waits until {}, when a safety period ends\n",
                style::name(name),
                gate::shown(*until)
            )
        };
        self.0.iter().map(line).collect()
    }
}

/// Of the first plan that has something to do: what is waiting may wait still.
async fn first_task(client: &Client, due: &[&Standing], through: Phase) -> Result<Option<Task>, Failure> {
    for standing in due {
        let task = Task::find(client, &standing.input()).await?;
        if !task.is_over(through) {
            return Ok(Some(task));
        }
    }
    Ok(None)
}

/// How far the plan of each file is.
pub fn turns(standings: &[Standing]) -> impl Fn(&PlanFile) -> Turn {
    |file| {
        let found = standings.iter().find(|plan| plan.file.path == file.path);
        found.map_or(Turn::ToCome, Standing::turn)
    }
}

/// A file that is not what was recorded would stop everything after it in the middle.
async fn refuse_changed(client: &Client, standings: &[Standing]) -> Result<(), Failure> {
    for standing in standings.iter().filter(|plan| plan.is_refused) {
        let input = standing.input();
        let history = History::read(client, input.name()).await?;
        if let Way::Refused(error, _) = resolve::way(client, &input, &history).await? {
            let details = format!("{}: nothing was begun", standing.file.path);
            return Err((*error).details([details]).into());
        }
    }
    Ok(())
}

fn nothing(apply: &Apply, global: &Global, standings: &[Standing], waits: &Waits) -> Outcome {
    let waiting = |standing: &Standing| {
        let run = standing.run.as_ref()?;
        let waiting = run.plan.waiting();
        (!waiting.is_empty()).then(|| (standing.name().to_owned(), waiting))
    };
    let waiting: Vec<_> = standings.iter().filter_map(waiting).collect();
    if global.is_json() {
        let waiting: BTreeMap<_, _> = waiting.into_iter().collect();
        out::json(&json!({
            "directory": apply.plan, "plans": [], "left": [], "waiting": waiting, "waits_until": waits.0,
        }))?;
        return Ok(0);
    }
    let mut text = format!(
        "{}: nothing to do; {}, applied through {}\n",
        apply.plan,
        units::counted(standings.len(), "plan"),
        Phase::from(apply.through)
    );
    for (name, changes) in waiting {
        for change in changes {
            let _ = writeln!(
                text,
                "  {name}: change {} ({}) is waiting: {}",
                change.change, change.operation, change.reason
            );
        }
    }
    text.push_str(&waits.human());
    out::result(&text)?;
    Ok(0)
}

fn question(apply: &Apply, task: &Task, due: &[&Standing], settings: &ConnectionSettings) -> String {
    let mut text = format!(
        "Apply {} of {} on {}, one after the other, through {}\n\n",
        units::counted(due.len(), "plan"),
        apply.plan,
        settings,
        Phase::from(apply.through),
    );
    for (number, standing) in due.iter().enumerate() {
        let what = match standing.state {
            State::InProgress | State::Applied => "go on".to_owned(),
            State::RolledBack => format!("{} again, after it was rolled back", changes(standing)),
            State::Changed => standing.note.clone().unwrap_or_default(),
            _ => changes(standing),
        };
        let _ = writeln!(text, "  {}. {}: {what}", number + 1, style::name(standing.name()));
    }
    let _ = write!(text, "\n{}", apply.question(task, settings));
    if due.len() > 1 {
        text.push_str("The others can only be planned when it is their turn.\n");
    }
    text
}

fn changes(standing: &Standing) -> String {
    units::counted(standing.file.plan.changes.len(), "change")
}

/// A walk through the plans that are due.
struct Walk<'a> {
    apply: &'a Apply,
    global: &'a Global,
    settings: &'a ConnectionSettings,
    reporter: Arc<dyn Reporter>,
    interrupts: watch::Receiver<Interrupt>,
}

impl Walk<'_> {
    async fn all(&self, due: &[&Standing], mut waits: Waits) -> Outcome {
        let mut done = Vec::new();
        let mut failure = None;
        for standing in due {
            match Box::pin(self.one(standing, &mut waits)).await {
                Ok(result) => done.push(result),
                Err(found) => {
                    failure = Some(found);
                    break;
                }
            }
        }
        self.reporter.finish();
        let left: Vec<&str> = due[done.len()..].iter().map(|plan| plan.name()).collect();
        self.report(&done, &left, &waits, failure)
    }

    /// What has to wait for its time is asked only after all that has not.
    async fn one(&self, standing: &Standing, waits: &mut Waits) -> Result<Value, Failure> {
        if *self.interrupts.borrow() != Interrupt::None {
            let message = format!("interrupted before plan {}", standing.name());
            let error = Error::new(ErrorKind::Interrupted, message);
            return Err(error.help("run the same command again to go on").into());
        }
        let through = Phase::from(self.apply.through);
        let (task, _) = self.task(standing).await?;
        if through != Phase::Contract || !task.has_gates() {
            let summary = self.go(&task, through).await?;
            return self.told(standing, &summary, None);
        }
        let before = self.go(&task, Phase::Cutover).await?;
        let (task, now) = self.task(standing).await?;
        let until = task.closed_until(now);
        waits.note(standing, until);
        let through = match until {
            Some(_) => Phase::Cutover,
            None => through,
        };
        let summary = self.go(&task, through).await?.after(&before);
        self.told(standing, &summary, until)
    }

    async fn task(&self, standing: &Standing) -> Result<(Task, Timestamp), Failure> {
        let session = self.global.observer(self.settings).await?;
        let task = Task::find(&session.client, &standing.input()).await?;
        Ok((task, gate::now(&session.client).await?))
    }

    async fn go<'a>(&self, task: &'a Task, through: Phase) -> Result<Summary<'a>, Failure> {
        if task.is_over(through) {
            return Ok(task.summary(through));
        }
        let (reporter, interrupts) = (&self.reporter, self.interrupts.clone());
        let execution = self
            .apply
            .execute(self.global, self.settings, task, through, reporter, interrupts);
        Ok(Box::pin(execution).await?)
    }

    fn told(
        &self,
        standing: &Standing,
        summary: &Summary<'_>,
        waits_until: Option<Timestamp>,
    ) -> Result<Value, Failure> {
        if !self.global.is_json() {
            out::result(&summary.human(&self.apply.plan))?;
        }
        let mut json = summary.json();
        json["file"] = standing.file.path.as_str().into();
        json["waits_until"] = json!(waits_until);
        Ok(json)
    }

    fn report(&self, done: &[Value], left: &[&str], waits: &Waits, failure: Option<Failure>) -> Outcome {
        let code = failure.as_ref().map_or(0, Failure::exit_code);
        if self.global.is_json() {
            let mut result = json!({
                "directory": self.apply.plan, "plans": done, "left": left, "waits_until": waits.0,
            });
            if let Some(failure) = failure {
                result["error"] = failure.json();
            }
            out::json(&result)?;
            return Ok(code);
        }
        out::result(&waits.human())?;
        if let Some(failure) = failure {
            out::message(&failure.human(self.global.verbose > 0));
            out::line(&format!(
                "{} stopped at {}; left: {}",
                self.apply.plan,
                style::name(left.first().copied().unwrap_or_default()),
                left.join(", ")
            ));
        }
        Ok(code)
    }
}
