//! How each plan of a directory stands in a database: what the ledger has of it, compared with its file.

use crate::cli::history::History;
use crate::cli::input::{Input, PlanFile};
use crate::error::Error;
use crate::executor::ledger::{self, PlanRelation, Run, RunState, StepState};
use crate::plan::{self, Phase, PlannedChange, Step};
use crate::plan_set::{PlanSet, Turn};
use crate::planner;
use crate::units;
use tokio_postgres::Client;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Pending,
    InProgress,
    /// Through cutover at least.
    Applied,
    /// The file is not what was recorded.
    Changed,
    /// Recorded, but there is no such file.
    Missing,
    RolledBack,
    Baseline,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Applied => "applied",
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::RolledBack => "rolled_back",
            Self::Baseline => "baseline",
        }
    }
}

/// One plan of a directory.
#[derive(Debug)]
pub struct Standing {
    /// Under the name by which the ledger knows it.
    pub file: PlanFile,
    pub state: State,
    /// The latest run of it.
    pub run: Option<Run>,
    /// The name in the file, where the ledger has the same changes under another one.
    pub renamed: Option<String>,
    pub note: Option<String>,
    /// `apply` would refuse it, whatever the catalog is.
    pub is_refused: bool,
}

pub struct Standings {
    pub plans: Vec<Standing>,
    /// Runs in place whose plans have no file here.
    pub missing: Vec<Run>,
}

/// What the ledger knows of all plans of a set.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn of(client: &Client, set: &PlanSet) -> Result<Standings, Error> {
    let mut runs = match ledger::exists(client).await? {
        true => ledger::latest_runs(client).await?,
        false => Vec::new(),
    };
    for run in runs.iter_mut().filter(|run| run.state == RunState::RolledBack) {
        // Those before it may stand.
        let mut history = History::read(client, &run.plan.name).await?;
        if let Some(standing) = history.standing.pop() {
            *run = standing;
        }
    }
    Ok(compare(set, runs))
}

fn compare(set: &PlanSet, mut runs: Vec<Run>) -> Standings {
    let mut take = |wanted: &dyn Fn(&Run) -> bool| {
        let found = runs.iter().position(wanted)?;
        Some(runs.remove(found))
    };
    let mut own: Vec<Option<Run>> = Vec::new();
    for file in &set.files {
        own.push(take(&|run| run.plan.name == file.plan.name));
    }
    let mut plans = Vec::new();
    for (file, run) in set.files.iter().zip(own) {
        let changes = planner::planned_changes(&file.plan);
        let digest = Some(plan::changes_digest(&file.plan.schema, &changes));
        let is_own = run.as_ref().is_some_and(|run| run.state != RunState::RolledBack);
        let twin = match is_own {
            true => None,
            false => take(&|run| run.state != RunState::RolledBack && run.plan.changes_digest() == digest),
        };
        plans.push(match twin {
            Some(twin) => recognised(file, twin, &changes),
            None => standing(file.clone(), run, &changes),
        });
    }
    runs.retain(|run| run.state != RunState::RolledBack);
    Standings { plans, missing: runs }
}

/// A plan that the ledger has under another name: from here on it goes by that.
fn recognised(file: &PlanFile, run: Run, changes: &[PlannedChange]) -> Standing {
    let mut file = file.clone();
    let renamed = std::mem::replace(&mut file.plan.name, run.plan.name.clone());
    let note = format!("applied as {}, recognised by digest", run.plan.name);
    let mut standing = standing(file, Some(run), changes);
    standing.note = Some(match standing.note {
        Some(more) => format!("{note}; {more}"),
        None => note,
    });
    standing.renamed = Some(renamed);
    standing
}

fn standing(file: PlanFile, run: Option<Run>, changes: &[PlannedChange]) -> Standing {
    let (state, note, is_refused) = match &run {
        None => (State::Pending, None, false),
        Some(run) => judge(run, changes),
    };
    Standing {
        file,
        state,
        run,
        renamed: None,
        note,
        is_refused,
    }
}

fn judge(run: &Run, changes: &[PlannedChange]) -> (State, Option<String>, bool) {
    let relation = ledger::relation(&run.plan.changes, changes);
    match (run.state, relation) {
        (RunState::RolledBack, _) => (State::RolledBack, None, false),
        (RunState::RollingBack, _) => {
            let note = "being rolled back; finish that first: pgmorph rollback PLAN".to_owned();
            (State::InProgress, Some(note), true)
        }
        (RunState::Completed, PlanRelation::Extended { recorded }) => {
            let more = units::counted(changes.len() - recorded, "change");
            (State::Changed, Some(format!("{more} added at its end")), false)
        }
        (_, PlanRelation::Extended { .. } | PlanRelation::Changed) => {
            let note = "not what was recorded; apply refuses it".to_owned();
            (State::Changed, Some(note), true)
        }
        (RunState::Completed, PlanRelation::Same) => {
            let waiting = run.plan.waiting().len();
            let note = (waiting > 0).then(|| format!("{} waiting", units::counted(waiting, "change")));
            let state = match run.baseline {
                true => State::Baseline,
                false => State::Applied,
            };
            (state, note, false)
        }
        (RunState::Started, PlanRelation::Same) if reached_cutover(run) => {
            let pending = open_steps(run, Phase::Contract).next().is_some();
            let note = pending.then(|| "contract is pending".to_owned());
            (State::Applied, note, false)
        }
        (RunState::Started, PlanRelation::Same) => {
            let all = run.plan.steps.len();
            let done = all - open_steps(run, Phase::Contract).count();
            let note = format!("{done} of {} done", units::counted(all, "step"));
            (State::InProgress, Some(note), false)
        }
    }
}

/// Whether the application can use what the plan makes.
pub fn reached_cutover(run: &Run) -> bool {
    open_steps(run, Phase::Cutover).next().is_none()
}

fn open_steps(run: &Run, through: Phase) -> impl Iterator<Item = &Step> {
    let is_done = |step: &Step| {
        let mut records = run.steps.iter();
        records.any(|record| record.id == step.id && record.state == StepState::Done)
    };
    let due = run.plan.steps.iter().filter(move |step| step.phase <= through);
    due.filter(move |step| !is_done(step))
}

impl Standing {
    /// Changes of it were left out, and may be made by now.
    fn is_waiting(&self) -> bool {
        self.run
            .as_ref()
            .is_some_and(|run| !run.plan.waiting().is_empty())
    }

    /// As in its file.
    pub fn name(&self) -> &str {
        self.renamed.as_deref().unwrap_or(&self.file.plan.name)
    }

    pub fn input(&self) -> Input {
        Input::File(Box::new(self.file.clone()))
    }

    /// The run whose effects are in the database, or some of them.
    pub fn in_place(&self) -> Option<&Run> {
        self.run.as_ref().filter(|run| run.state != RunState::RolledBack)
    }

    pub fn turn(&self) -> Turn {
        match self.state {
            State::Pending | State::RolledBack => Turn::ToCome,
            State::InProgress | State::Changed => Turn::Begun,
            State::Applied | State::Baseline if self.is_waiting() => Turn::Begun,
            State::Applied | State::Missing | State::Baseline => Turn::Over,
        }
    }

    /// Whether `apply` through this phase has something to do.
    pub fn is_due(&self, through: Phase) -> bool {
        match (self.state, &self.run) {
            (State::Missing, _) => false,
            (State::Applied | State::InProgress, Some(run)) if run.state == RunState::Started => {
                // A crash between the last step and the record of the end leaves that to be written.
                let unrecorded = open_steps(run, Phase::Contract).next().is_none();
                unrecorded || open_steps(run, through).next().is_some()
            }
            (State::Applied | State::Baseline, _) => self.is_waiting(),
            _ => true,
        }
    }
}
