//! Reads what a command is given: a plan file, a saved execution plan, a catalog snapshot.

use super::{Failure, InvalidPlan};
use crate::catalog::model::CatalogSnapshot;
use crate::change_plan;
use crate::error::{Error, ErrorKind};
use crate::plan::ExecutionPlan;
pub use crate::plan_set::PlanFile;
use crate::{saved, units};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The PLAN of a command line.
pub enum Input {
    File(Box<PlanFile>),
    /// A compiled plan as `plan -o` wrote it: its digest is right.
    Saved(Box<ExecutionPlan>),
}

impl PlanFile {
    pub fn refused(&self, diagnostics: Vec<crate::diagnostic::Diagnostic>) -> Failure {
        Failure::Plan(Box::new(InvalidPlan {
            path: self.path.clone(),
            source: self.source.clone(),
            diagnostics,
        }))
    }
}

impl Input {
    pub fn name(&self) -> &str {
        match self {
            Self::File(file) => &file.plan.name,
            Self::Saved(plan) => &plan.name,
        }
    }
}

/// Reads PLAN; `-` is standard input.
pub fn read(path: &str) -> Result<Input, Failure> {
    let source = text(path, saved::EXECUTION_PLAN_BYTES_MAX)?;
    if source.trim_start().starts_with('{')
        && let Some(plan) = saved::execution_plan(&shown(path), &source)?
    {
        return Ok(Input::Saved(Box::new(plan)));
    }
    if source.len() as u64 > saved::CHANGE_PLAN_BYTES_MAX {
        let limit = units::size(saved::CHANGE_PLAN_BYTES_MAX);
        let message = format!("{} has more than the {limit} of a plan file", shown(path));
        return Err(Error::new(ErrorKind::Usage, message)
            .help("make several plans of it")
            .into());
    }
    match change_plan::parse(&source) {
        Ok(plan) => Ok(Input::File(Box::new(PlanFile {
            path: shown(path),
            source,
            plan,
        }))),
        Err(diagnostics) => Err(Failure::Plan(Box::new(InvalidPlan {
            path: shown(path),
            source,
            diagnostics,
        }))),
    }
}

/// A PLAN that may be given by its name alone.
pub enum Asked {
    Plan(Input),
    Name(String),
}

/// The plan in a file or, where there is no such file, the argument as a plan's name: whoever looks for a run at night
/// need not have the file.
pub fn asked(argument: &str) -> Result<Asked, Failure> {
    let is_path = argument == "-" || argument.contains('/') || Path::new(argument).extension().is_some();
    Ok(match is_path || Path::new(argument).exists() {
        true => Asked::Plan(read(argument)?),
        false => Asked::Name(argument.to_owned()),
    })
}

fn shown(path: &str) -> String {
    if path == "-" {
        "standard input".into()
    } else {
        path.into()
    }
}

fn text(path: &str, limit: u64) -> Result<String, Error> {
    let read = match path {
        "-" => saved::bounded(std::io::stdin().lock(), limit),
        path => saved::read_text(Path::new(path), limit),
    };
    read.map_err(|error| {
        Error::new(ErrorKind::Usage, format!("cannot read {}: {error}", shown(path))).source(error)
    })
}

/// A snapshot as `pgmorph snapshot` wrote it.
pub fn snapshot(path: &str) -> Result<CatalogSnapshot, Error> {
    saved::snapshot(&shown(path), &text(path, saved::SNAPSHOT_BYTES_MAX)?)
}

/// Writes a result to a file, whole or not at all. Others may read it as far as the umask, or the file that it replaces, lets
/// them: pages and plans are made to be shown.
pub fn write(path: &Path, content: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| {
        Error::new(
            ErrorKind::Usage,
            format!("cannot write {}: {error}", path.display()),
        )
        .source(error)
    };
    let is_special = path.metadata().is_ok_and(|data| !data.is_file());
    if is_special {
        // A device or a pipe cannot be replaced.
        return std::fs::write(path, content).map_err(failed);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let rights = path
        .metadata()
        .map_or(Permissions::from_mode(0o666), |data| data.permissions());
    let mut file = tempfile::Builder::new()
        .permissions(rights)
        .tempfile_in(directory.unwrap_or(Path::new(".")))
        .map_err(failed)?;
    std::io::Write::write_all(&mut file, content.as_bytes()).map_err(failed)?;
    file.persist(path).map(drop).map_err(|error| failed(error.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_may_be_read_by_whoever_may_read_files_of_the_user() {
        let place = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let (usual, page) = (place.path().join("usual"), place.path().join("page.html"));
        std::fs::write(&usual, "").unwrap();
        write(&page, "one").unwrap();
        assert_eq!(mode(&page), mode(&usual));
        std::fs::set_permissions(&page, Permissions::from_mode(0o600)).unwrap();
        write(&page, "two").unwrap();
        assert_eq!(
            (mode(&page), std::fs::read_to_string(&page).unwrap()),
            (0o600, "two".into())
        );
    }
}
