//! `verify DIR`: each plan of a directory, with the tables that later plans have changed left to those.

use super::standing::{self, State};
use crate::cli::verify::{Verify, verification};
use crate::cli::{Global, Outcome};
use crate::error::ErrorKind;
use crate::plan::Phase;
use crate::report::out;
use serde_json::json;

pub async fn run(verify: &Verify, global: &Global) -> Outcome {
    let set = super::read(&verify.plan)?;
    let session = global.observer(&global.settings()?).await?;
    let client = &session.client;
    let standings = standing::of(client, &set).await?;
    let through = verify.through.map(Phase::from);
    let mut passes = true;
    let mut found = Vec::new();
    for plan in &standings.plans {
        let verification = Box::pin(verification(client, &plan.input(), through)).await?;
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
