//! `verify DIR`: each plan of a directory, with the tables that later plans have changed left to those.

use super::standing::{self, Standings, State};
use crate::cli::verify::{Verify, verification_besides};
use crate::cli::{Global, Outcome};
use crate::error::ErrorKind;
use crate::executor::ledger::Run;
use crate::plan::Phase;
use crate::report::out;
use crate::sql::QualifiedName;
use serde_json::json;
use std::collections::BTreeSet;

pub async fn run(verify: &Verify, global: &Global) -> Outcome {
    let set = super::read(&verify.plan)?;
    let session = global.observer(&global.settings()?).await?;
    let client = &session.client;
    let standings = standing::of(client, &set).await?;
    let through = verify.through.map(Phase::from);
    let mut passes = true;
    let mut found = Vec::new();
    for plan in &standings.plans {
        let later = match plan.in_place() {
            Some(run) => changed_after(run, &standings),
            None => BTreeSet::new(),
        };
        let verification = Box::pin(verification_besides(client, &plan.input(), through, &later)).await?;
        passes &= verification.passes() && plan.state != State::Changed;
        if !global.is_json() {
            out::result(&verification.human())?;
        }
        found.push(verification);
    }
    if global.is_json() {
        out::json(&json!({"directory": verify.plan, "passes": passes, "plans": found}))?;
    }
    Ok(if passes {
        0
    } else {
        ErrorKind::Findings.exit_code()
    })
}

/// The tables of all runs after this one.
fn changed_after(run: &Run, standings: &Standings) -> BTreeSet<QualifiedName> {
    let runs = standings.plans.iter().filter_map(|plan| plan.in_place());
    let later = runs.chain(&standings.missing).filter(|other| other.id > run.id);
    let tables = later.flat_map(|run| run.plan.before.tables.keys().chain(run.plan.after.tables.keys()));
    tables.cloned().collect()
}
