//! What the role may not do, as complaints about the plan file: all at once, each with the GRANT that mends it.

use super::input::PlanFile;
use super::{ErrorKind, kind_of};
use crate::change_plan::Change;
use crate::diagnostic::Diagnostic;
use crate::error::Error;
use crate::executor::privileges::{self, Missing};
use crate::plan::ExecutionPlan;
use tokio_postgres::Client;

const CODE: &str = "missing_privilege";

/// What is missing for a plan that has nothing else against it.
pub async fn missing(
    client: &Client,
    file: &PlanFile,
    plan: &ExecutionPlan,
) -> Result<Vec<Diagnostic>, Error> {
    let missing = privileges::missing(client, plan).await?;
    Ok(missing.into_iter().map(|it| complaint(file, it)).collect())
}

/// The complaints of the planner, with the names of what the server refuses, and the ledger's where nothing else is wrong
/// with the plan.
pub async fn named(
    client: &Client,
    file: &PlanFile,
    mut complaints: Vec<Diagnostic>,
) -> Result<Vec<Diagnostic>, Error> {
    for complaint in complaints.iter_mut().filter(|complaint| complaint.code == CODE) {
        if let Some(change) = change_of(file, complaint) {
            let lacks = privileges::lacking(client, &change.text).await?;
            let mends: Vec<String> = lacks.into_iter().map(|lack| lack.mend).collect();
            complaint.help = (!mends.is_empty()).then(|| mends.join("; "));
        }
    }
    if kind_of(&complaints) == ErrorKind::Precondition
        && let Some(ledger) = privileges::ledger(client).await?
    {
        complaints.push(complaint(file, ledger));
    }
    Ok(complaints)
}

/// The change in which a complaint stands: the last one that begins before it.
fn change_of<'a>(file: &'a PlanFile, complaint: &Diagnostic) -> Option<&'a Change> {
    let at = complaint.span?.start;
    file.plan.changes.iter().rfind(|change| change.span.start <= at)
}

fn complaint(file: &PlanFile, missing: Missing) -> Diagnostic {
    let change = missing
        .change
        .and_then(|number| file.plan.changes.get(number.checked_sub(1)?));
    let complaint = Diagnostic::new(CODE, missing.message).help(missing.mend);
    match change {
        Some(change) => complaint.at(change.span),
        None => complaint,
    }
}
