//! `plan --diff`: two plans, or two catalogs.

use super::input::{self, Input};
use super::{Format, Global, Outcome};
use crate::catalog::model::CatalogSnapshot;
use crate::error::{Error, ErrorKind};
use crate::plan::ExecutionPlan;
use crate::plan_diff;
use crate::report::{out, plan_diff as render};
use serde_json::json;
use std::path::Path;

/// What stands in a file that somebody wants to compare.
pub enum Other {
    Plan(Input),
    Catalog(Box<CatalogSnapshot>),
}

/// A snapshot says so by its format and its tables; everything else is read as a plan, with a plan's complaints.
///
/// # Errors
/// As for a plan or a snapshot.
pub fn read(path: &str) -> Result<Other, super::Failure> {
    match path != "-" && is_snapshot(Path::new(path)) {
        true => Ok(Other::Catalog(Box::new(input::snapshot(path)?))),
        false => Ok(Other::Plan(input::read(path)?)),
    }
}

fn is_snapshot(path: &Path) -> bool {
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(default)]
        tables: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        steps: Option<serde::de::IgnoredAny>,
    }
    let text = crate::saved::read_text(path, crate::saved::SNAPSHOT_BYTES_MAX).unwrap_or_default();
    let head: Result<Head, _> = serde_json::from_str(&text);
    head.is_ok_and(|head| head.tables.is_some() && head.steps.is_none())
}

/// # Errors
/// A form that differences do not have.
pub fn plans(global: &Global, from: &ExecutionPlan, to: &ExecutionPlan) -> Outcome {
    let diff = plan_diff::plans(from, to, &render::shown);
    match global.format {
        Format::Human => out::result(&render::human(&diff))?,
        Format::Markdown => out::result(&render::markdown(&diff))?,
        Format::Json => out::json(&json!({"diff": diff, "same": diff.is_empty()}))?,
        _ => return Err(no_such_form().into()),
    }
    Ok(exit_code(diff.is_empty()))
}

/// # Errors
/// As for [`plans`].
pub fn catalogs(global: &Global, from: &CatalogSnapshot, to: &CatalogSnapshot) -> Outcome {
    let differences = plan_diff::catalogs(from, to);
    match global.format {
        Format::Human => out::result(&render::catalogs_human(&differences))?,
        Format::Markdown => out::result(&render::catalogs_markdown(&differences))?,
        Format::Json => out::json(&json!({"catalog": differences, "same": differences.is_empty()}))?,
        _ => return Err(no_such_form().into()),
    }
    Ok(exit_code(differences.is_empty()))
}

fn exit_code(is_same: bool) -> u8 {
    match is_same {
        true => 0,
        false => ErrorKind::Findings.exit_code(),
    }
}

fn no_such_form() -> Error {
    Error::new(
        ErrorKind::Usage,
        "a difference has the formats human, json and markdown",
    )
    .help("use --format human, json or markdown")
}
