//! `baseline`: records plans as applied to a database that has their effects already.

use super::input::{self, Input, PlanFile};
use super::set::standing::{self, Standing, State};
use super::verify::verification;
use super::{Failure, Global, Outcome, confirm, interrupts, resolve, set};
use crate::catalog::{load, probe};
use crate::error::{Error, ErrorKind};
use crate::executor::Executor;
use crate::plan::ExecutionPlan;
use crate::plan_set::{PlanSet, Scope};
use crate::planner::{self, Numbers};
use crate::postgres::settings::ConnectionSettings;
use crate::report::verification::{Verdict, Verification};
use crate::report::{out, style};
use crate::units;
use clap::Args;
use serde_json::json;
use std::fmt::Write;
use tokio_postgres::Client;

/// Record plans as applied without running them, for a database that has their effects already
///
/// What can be compared with the catalog is compared first; where it differs, or cannot be compared, it takes --force.
#[derive(Debug, Args)]
pub struct Baseline {
    /// A plan file, or a directory of them, of which those without a run are recorded
    plan: String,
    /// Record also what is not seen to be there
    #[arg(long)]
    force: bool,
    /// Go ahead without being asked
    #[arg(long, short)]
    yes: bool,
}

/// One plan, and whether the database is as it says.
struct Found {
    plan: ExecutionPlan,
    verification: Verification,
}

impl Found {
    fn is_there(&self) -> bool {
        self.verification.verdict == Verdict::Matches
    }
}

impl Baseline {
    pub async fn run(&self, global: &Global) -> Outcome {
        let set = self.plans()?;
        let settings = global.settings()?;
        let session = global.observer(&settings).await?;
        let standings = standing::of(&session.client, &set).await?.plans;
        let open = self.open(&standings)?;
        let mut found = Vec::new();
        for standing in open {
            found.push(Box::pin(look(&session.client, standing)).await?);
        }
        drop(session);
        if found.is_empty() {
            self.report(global, &found, &[])?;
            return Ok(0);
        }
        if !self.force {
            refuse_unseen(&found)?;
        }
        confirm::ask(&question(&found, &settings), self.yes)?;
        let reporter = global.reporter();
        let interrupts = interrupts::watch(reporter.clone())?;
        let executor = Executor::open(&settings, reporter, interrupts).await?;
        let plans: Vec<ExecutionPlan> = found.iter().map(|found| found.plan.clone()).collect();
        let runs = executor.baseline(&plans).await?;
        self.report(global, &found, &runs)?;
        Ok(0)
    }

    fn plans(&self) -> Result<PlanSet, Failure> {
        if set::is_directory(&self.plan) {
            return set::read(&self.plan);
        }
        match input::read(&self.plan)? {
            Input::File(file) => Ok(PlanSet::arrange(vec![*file], Scope::Part).0),
            Input::Saved(_) => Err(Error::new(ErrorKind::Usage, "a baseline is made of a plan file")
                .help("give the plan file that the execution plan was made from")
                .into()),
        }
    }

    /// Those to be recorded: what is begun or changed stands against it, and so does a plan by itself that is applied.
    fn open<'a>(&self, standings: &'a [Standing]) -> Result<Vec<&'a Standing>, Error> {
        let alone = !set::is_directory(&self.plan);
        for standing in standings {
            let settled = matches!(standing.state, State::Applied | State::Baseline);
            if let Some(run) = standing.in_place().filter(|_| alone || !settled) {
                let message = format!("plan {} has a run already: run {}", standing.name(), run.id);
                return Err(Error::new(ErrorKind::Precondition, message)
                    .details(standing.note.clone())
                    .help("nothing was recorded; see `pgmorph status`"));
            }
        }
        Ok(standings
            .iter()
            .filter(|plan| plan.in_place().is_none())
            .collect())
    }

    fn report(&self, global: &Global, found: &[Found], runs: &[i64]) -> Result<(), Error> {
        if global.is_json() {
            let plan = |(found, run): (&Found, &i64)| {
                json!({"plan": found.plan.name, "run": run, "matches": found.is_there(),
                       "findings": found.verification.findings, "waiting": found.plan.waiting()})
            };
            let plans: Vec<_> = found.iter().zip(runs).map(plan).collect();
            return out::json(&json!({"plans": plans}));
        }
        if found.is_empty() {
            return out::result(&format!("{}: nothing to record\n", self.plan));
        }
        let line = |(found, run): (&Found, &i64)| {
            let name = style::name(&found.plan.name);
            format!("{name}: recorded as applied (run {run})\n")
        };
        out::result(&found.iter().zip(runs).map(line).collect::<String>())
    }
}

/// Asks `verify` whether the plan's effects are there.
async fn look(client: &Client, standing: &Standing) -> Result<Found, Failure> {
    let input = standing.input();
    let verification = Box::pin(verification(client, &input, None)).await?;
    let compiled = match verification.verdict {
        Verdict::Matches => Some(resolve::begin(client, &input, &Numbers::new()).await?),
        _ => None,
    };
    let mut catalog = load::snapshot(client).await?;
    let PlanFile { plan, .. } = &standing.file;
    let conditions = planner::conditions(plan, &Numbers::new());
    probe::ask_conditions(client, &mut catalog, &conditions).await?;
    let recorded = planner::baseline(plan, &catalog, compiled);
    Ok(Found {
        plan: recorded.map_err(|complaints| standing.file.refused(complaints))?,
        verification,
    })
}

fn refuse_unseen(found: &[Found]) -> Result<(), Error> {
    let unseen: Vec<&Found> = found.iter().filter(|found| !found.is_there()).collect();
    if unseen.is_empty() {
        return Ok(());
    }
    let mut details = Vec::new();
    for found in &unseen {
        details.push(format!("{}:", found.plan.name));
        details.extend(differences(&found.verification));
    }
    let message = format!(
        "{} of {} cannot be seen to be in place; nothing was recorded",
        unseen.len(),
        units::counted(found.len(), "plan")
    );
    Err(Error::new(ErrorKind::Precondition, message)
        .details(details)
        .help("apply what is missing, or pass --force if you know that it is there"))
}

/// What speaks against it, a line each.
fn differences(verification: &Verification) -> Vec<String> {
    let mut lines: Vec<String> = verification
        .findings
        .iter()
        .map(|finding| {
            let expected = finding.expected.as_deref().unwrap_or("nothing");
            let found = finding.found.as_deref().unwrap_or("nothing");
            format!("  {}: expected {expected}, found {found}", finding.object)
        })
        .collect();
    if lines.is_empty() {
        lines.push("  the catalog alone cannot tell whether it was applied".into());
    }
    lines
}

fn question(found: &[Found], settings: &ConnectionSettings) -> String {
    let plans = units::counted(found.len(), "plan");
    let mut text = format!("Record {plans} as applied on {settings}, without running anything\n\n");
    for found in found {
        let seen = match found.is_there() {
            true => style::good("its changes are there"),
            false => style::bad("its changes are not seen"),
        };
        let _ = writeln!(text, "  {}: {seen}", style::name(&found.plan.name));
        if !found.is_there() {
            for line in differences(&found.verification) {
                let _ = writeln!(text, "  {line}");
            }
        }
        for waiting in found.plan.waiting() {
            let _ = writeln!(text, "    {} {waiting}", style::careful("Waiting:"));
        }
    }
    text.push_str("\nA baseline has no way back: rollback refuses it.\n");
    text
}
