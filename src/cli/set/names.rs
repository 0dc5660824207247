//! Under which name the ledger knows a plan that is given by itself. What was renamed is recognised by what it changes,
//! as in a directory; and as there, not where the plan that has that name is there itself.

use super::standing;
use crate::change_plan;
use crate::cli::Global;
use crate::cli::history::History;
use crate::cli::input::{Asked, Input, PlanFile};
use crate::error::Error;
use crate::plan_set::{PlanSet, Scope};
use std::path::Path;
use tokio_postgres::Client;

/// The name of the plan in the ledger.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn of(client: &Client, global: &Global, asked: Asked) -> Result<String, Error> {
    match asked {
        Asked::Name(name) => Ok(name),
        Asked::Plan(mut input) => {
            recognise(client, global, &mut input).await?;
            Ok(input.name().to_owned())
        }
    }
}

/// Gives a plan file the name that the ledger knows it by, and tells so.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn recognise(client: &Client, global: &Global, input: &mut Input) -> Result<(), Error> {
    let Input::File(file) = input else {
        return Ok(());
    };
    if let Some(recorded) = recorded(client, file).await? {
        global.note(&format!(
            "note: plan {} was applied as {recorded}, recognised by digest: it goes by that name",
            file.plan.name
        ));
        file.plan.name = recorded;
    }
    Ok(())
}

/// Another name than its own by which the ledger knows what a plan changes.
async fn recorded(client: &Client, file: &PlanFile) -> Result<Option<String>, Error> {
    if !History::read(client, &file.plan.name).await?.standing.is_empty() {
        return Ok(None);
    }
    let alone = PlanSet::arrange(vec![file.clone()], Scope::Part).0;
    let found = standing::of(client, &alone).await?.plans.pop();
    let found = found.filter(|plan| plan.renamed.is_some());
    let Some(name) = found.map(|plan| plan.file.plan.name) else {
        return Ok(None);
    };
    let is_twin = beside(file).iter().any(|other| other.plan.name == name);
    Ok((!is_twin).then_some(name))
}

/// The runs that are in place of a plan that another one names, which may be called otherwise in the ledger.
///
/// # Errors
/// Lost connections and damaged entries.
pub async fn history(client: &Client, file: &PlanFile, wanted: &str) -> Result<History, Error> {
    let history = History::read(client, wanted).await?;
    let named = beside(file).into_iter().find(|other| other.plan.name == wanted);
    let Some(named) = named.filter(|_| history.standing.is_empty()) else {
        return Ok(history);
    };
    match recorded(client, &named).await? {
        Some(name) => History::read(client, &name).await,
        None => Ok(history),
    }
}

/// The other plans of its folder, as far as they can be read.
fn beside(file: &PlanFile) -> Vec<PlanFile> {
    let path = Path::new(&file.path);
    let folder = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Vec::new(),
    };
    let paths = super::files(&folder.to_string_lossy()).unwrap_or_default();
    let others = paths
        .into_iter()
        .filter(|other| Path::new(other).file_name() != path.file_name());
    let read = |path: String| {
        let source = crate::saved::read_text(Path::new(&path), crate::saved::CHANGE_PLAN_BYTES_MAX).ok()?;
        let plan = change_plan::parse(&source).ok()?;
        Some(PlanFile { path, source, plan })
    };
    others.filter_map(read).collect()
}
