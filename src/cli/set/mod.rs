//! What a command does when it is given a directory of plans instead of one.

use super::input::{Input, PlanFile};
use super::{Failure, InvalidPlan};
use crate::change_plan;
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::RunState;
use crate::plan_set::{Complaint, PlanSet, Scope};
use std::collections::BTreeMap;
use std::path::Path;
use tokio_postgres::Client;

pub mod apply;
pub mod names;
pub mod rollback;
pub mod standing;
pub mod status;
pub mod verify;

pub fn is_directory(argument: &str) -> bool {
    Path::new(argument).is_dir()
}

/// The plan files of a directory, not of those below it, in the order of their names.
pub fn files(directory: &str) -> Result<Vec<String>, Error> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Usage, format!("cannot read {directory}: {error}")).source(error)
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if matches!(extension, Some("yaml" | "yml")) && !hidden && path.is_file() {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    Ok(found)
}

/// Reads plan files: those that can be read, and the complaints about the others.
pub fn parse(paths: Vec<String>) -> Result<(Vec<PlanFile>, Vec<InvalidPlan>), Error> {
    let mut plans = Vec::new();
    let mut invalid = Vec::new();
    for path in paths {
        let source = crate::saved::read_text(Path::new(&path), crate::saved::CHANGE_PLAN_BYTES_MAX).map_err(
            |error| Error::new(ErrorKind::Usage, format!("cannot read {path}: {error}")).source(error),
        )?;
        match change_plan::parse(&source) {
            Ok(plan) => plans.push(PlanFile { path, source, plan }),
            Err(diagnostics) => invalid.push(InvalidPlan {
                path,
                source,
                diagnostics,
            }),
        }
    }
    Ok((plans, invalid))
}

/// The plans of a directory in the order in which they run.
///
/// # Errors
/// Everything wrong with the files, each by itself and their names and dependencies together.
pub fn read(directory: &str) -> Result<PlanSet, Failure> {
    let paths = files(directory)?;
    if paths.is_empty() {
        let message = format!("{directory} has no plan files, *.yaml or *.yml");
        return Err(Error::new(ErrorKind::Usage, message)
            .help(format!("begin one: pgmorph new NAME -o {directory}"))
            .into());
    }
    let (plans, invalid) = parse(paths)?;
    if !invalid.is_empty() {
        return Err(Failure::Plans(invalid));
    }
    let (set, complaints) = PlanSet::arrange(plans, Scope::Whole);
    refuse(&set, complaints)?;
    Ok(set)
}

/// Complaints, by the files that they are about.
pub fn invalid(set: &PlanSet, complaints: Vec<Complaint>) -> Vec<InvalidPlan> {
    let mut by_file: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for Complaint { file, diagnostic } in complaints {
        by_file.entry(file).or_default().push(diagnostic);
    }
    let plan = |(file, diagnostics): (usize, Vec<_>)| InvalidPlan {
        path: set.files[file].path.clone(),
        source: set.files[file].source.clone(),
        diagnostics,
    };
    by_file.into_iter().map(plan).collect()
}

fn refuse(set: &PlanSet, complaints: Vec<Complaint>) -> Result<(), Failure> {
    if complaints.is_empty() {
        return Ok(());
    }
    Err(Failure::Plans(invalid(set, complaints)))
}

/// A plan by itself, before what it depends on was applied.
///
/// # Errors
/// When one of the plans that it depends on has no run, or an unfinished one.
pub async fn refuse_unmet(client: &Client, input: &Input) -> Result<(), Error> {
    let Input::File(file) = input else {
        return Ok(());
    };
    let mut unmet = Vec::new();
    for wanted in &file.plan.depends_on {
        let history = names::history(client, file, &wanted.value).await?;
        let met = history.standing.last().is_some_and(|run| {
            matches!(run.state, RunState::Started | RunState::Completed) && standing::reached_cutover(run)
        });
        if !met {
            unmet.push(wanted.value.clone());
        }
    }
    if unmet.is_empty() {
        return Ok(());
    }
    let message = format!(
        "plan {} depends on {}, which {} not applied to this database",
        file.plan.name,
        unmet.join(", "),
        if unmet.len() == 1 { "is" } else { "are" }
    );
    Err(Error::new(ErrorKind::Precondition, message)
        .help("apply that first, or the whole directory: pgmorph apply DIR"))
}
