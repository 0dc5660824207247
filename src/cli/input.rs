//! Reads what a command is given: a plan file, a saved execution plan, a catalog snapshot.

use super::{Failure, InvalidPlan};
use crate::catalog::model::{CatalogSnapshot, SNAPSHOT_FORMAT};
use crate::change_plan;
use crate::error::{Error, ErrorKind};
use crate::plan::{ExecutionPlan, PLAN_FORMAT};
pub use crate::plan_set::PlanFile;
use serde_json::Value;
use std::io::Read;
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
    let source = text(path)?;
    if source.trim_start().starts_with('{')
        && let Some(plan) = saved(path, &source)?
    {
        return Ok(Input::Saved(Box::new(plan)));
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

fn text(path: &str) -> Result<String, Error> {
    let read = if path == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|error| {
        Error::new(ErrorKind::Usage, format!("cannot read {}: {error}", shown(path))).source(error)
    })
}

/// `None` for JSON that is no compiled plan: YAML may begin with a brace too.
fn saved(path: &str, source: &str) -> Result<Option<ExecutionPlan>, Error> {
    let Ok(mut value) = serde_json::from_str::<Value>(source) else {
        return Ok(None);
    };
    // `plan --format json` wraps the plan that `plan -o` writes; both can be applied.
    if value.get("format").is_none()
        && let Some(inner) = value.get_mut("plan")
    {
        value = inner.take();
    }
    let Some(format) = value.get("format") else {
        return Ok(None);
    };
    let path = shown(path);
    if *format != PLAN_FORMAT {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{path}: execution plan of format {format}; this pgmorph reads {PLAN_FORMAT}"),
        )
        .help("make the plan again with this pgmorph: pgmorph plan … -o FILE"));
    }
    let plan: ExecutionPlan = serde_json::from_value(value).map_err(|error| {
        Error::new(
            ErrorKind::Usage,
            format!("{path} is not an execution plan: {error}"),
        )
        .help("make it again: pgmorph plan … -o FILE")
    })?;
    if plan.digest != plan.computed_digest() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{path}: the plan was changed after it was saved"),
        )
        .help("change the plan file and make the plan again: pgmorph plan … -o FILE"));
    }
    Ok(Some(plan))
}

/// A snapshot as `pgmorph snapshot` wrote it.
pub fn snapshot(path: &str) -> Result<CatalogSnapshot, Error> {
    let source = text(path)?;
    let path = shown(path);
    let wrong = |what: String| {
        Error::new(
            ErrorKind::Usage,
            format!("{path} is not a catalog snapshot: {what}"),
        )
        .help("write one with: pgmorph snapshot -o FILE")
    };
    let value: Value = serde_json::from_str(&source).map_err(|error| wrong(error.to_string()))?;
    match value.get("format") {
        Some(format) if *format == SNAPSHOT_FORMAT => {}
        Some(format) => {
            return Err(wrong(format!(
                "format {format}; this pgmorph reads {SNAPSHOT_FORMAT}"
            )));
        }
        None => return Err(wrong("it has no format".into())),
    }
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}

/// Writes a result to a file, whole or not at all.
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
    let mut file = tempfile::NamedTempFile::new_in(directory.unwrap_or(Path::new("."))).map_err(failed)?;
    std::io::Write::write_all(&mut file, content.as_bytes()).map_err(failed)?;
    file.persist(path).map(drop).map_err(|error| failed(error.error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, compile, table};

    fn plan() -> ExecutionPlan {
        let catalog = catalog().with("t", table(&["a bigint"]));
        compile(&catalog, "  - set_default: {table: t, column: a, default: 1}\n").unwrap()
    }

    #[test]
    fn saved_plans_are_told_from_yaml_and_checked() {
        let plan = plan();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(saved("x", &text).unwrap(), Some(plan.clone()));
        let wrapped = format!("{{\"version\": 1, \"plan\": {text}}}");
        assert_eq!(saved("x", &wrapped).unwrap(), Some(plan));
        assert!(saved("x", "{name: x, changes: []}").unwrap().is_none());
        let changed = text.replace("SET DEFAULT 1", "SET DEFAULT 2");
        let error = saved("x", &changed).unwrap_err();
        assert!(error.message.contains("changed after it was saved"), "{error}");
        let this = format!("\"format\":{PLAN_FORMAT}");
        let newer = text.replacen(&this, "\"format\":99", 1);
        assert!(saved("x", &newer).unwrap_err().message.contains("format 99"));
    }
}
