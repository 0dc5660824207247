//! `new`: a plan to start from.

use super::{Global, Outcome};
use crate::change_plan;
use crate::error::{Error, ErrorKind};
use crate::report::out;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{ErrorKind as IoKind, Write};
use std::path::{Path, PathBuf};

/// Write a commented plan to start from
#[derive(Debug, Args)]
pub struct New {
    /// The plan's name: its identity in the ledger
    name: String,
    /// A file, or a directory, where the file is called by the time and the name, so that the order of the names is that
    /// of their making, and which is made where it is not there (what ends in .yaml or .yml is a file); `-` is standard output
    #[arg(long, short, value_name = "FILE|DIR", default_value = ".")]
    output: PathBuf,
}

impl New {
    pub fn run(&self, global: &Global) -> Outcome {
        change_plan::check_name(&self.name).map_err(|message| Error::new(ErrorKind::Usage, message))?;
        let text = template(&self.name);
        if self.output.as_os_str() == "-" {
            out::result(&text)?;
            return Ok(0);
        }
        if !self.is_file() {
            std::fs::create_dir_all(&self.output).map_err(|error| {
                let what = format!("cannot make {}: {error}", self.output.display());
                Error::new(ErrorKind::Usage, what).source(error)
            })?;
        }
        let path = match self.output.is_dir() {
            true => self
                .output
                .join(file_name(&self.name, free(&self.output, Timestamp::now())?)),
            false => self.output.clone(),
        };
        write_new(&path, &text)?;
        if global.is_json() {
            out::json(&json!({"plan": self.name, "file": path}))?;
        } else {
            out::result(&format!("{}\n", path.display()))?;
        }
        Ok(0)
    }
}

impl New {
    /// What is not there yet is a file if it is called like one: nothing else would find a plan without the ending.
    fn is_file(&self) -> bool {
        let ending = self.output.extension().and_then(|ending| ending.to_str());
        self.output.exists() || matches!(ending, Some("yaml" | "yml"))
    }
}

/// The first second from now on that no file is called by: of two plans written within one, the later one comes later.
fn free(directory: &Path, now: Timestamp) -> Result<Timestamp, Error> {
    let failed = |error: std::io::Error| {
        let what = format!("cannot read {}: {error}", directory.display());
        Error::new(ErrorKind::Usage, what).source(error)
    };
    let mut taken = BTreeSet::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        taken.extend(
            name.to_str()
                .and_then(|name| name.get(..STAMP_LENGTH))
                .map(str::to_owned),
        );
    }
    let mut at = now;
    while taken.contains(&stamp(at)) {
        at += SignedDuration::from_secs(1);
    }
    Ok(at)
}

/// In UTC.
fn stamp(at: Timestamp) -> String {
    at.strftime("%Y%m%d_%H%M%S").to_string()
}

const STAMP_LENGTH: usize = "20261122_023059".len();

/// Files with later times come later, and so do their plans.
fn file_name(name: &str, at: Timestamp) -> String {
    let plain = |c: char| if c.is_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    format!("{}_{name}.yaml", stamp(at))
}

fn write_new(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| {
        let what = match error.kind() {
            IoKind::AlreadyExists => format!("{} exists already; nothing was written", path.display()),
            _ => format!("cannot write {}: {error}", path.display()),
        };
        Error::new(ErrorKind::Usage, what).source(error)
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

fn template(name: &str) -> String {
    let name = serde_json::Value::from(name);
    format!(
        "\
name: {name}  # identity in the ledger; change it only before the first apply
description: What it is for, in a sentence
# schema: public            # of names without one
# depends_on: [other_plan]  # names of plans of this directory that come before
# settings: {{lock_timeout: 200ms, statement_timeout: 30s}}

# Asked before anything is changed; rows stop the plan.
# before:
#   - name: every order has a customer
#     query: SELECT id FROM orders WHERE customer_id IS NULL

# One operation for each entry: `pgmorph explain` lists them, `pgmorph explain add_column` tells about one.
changes:
  - add_column: {{table: orders, column: note, type: text}}
  # - create_index: {{name: orders_note_idx, table: orders, columns: [note]}}
  # - sql:
  #     run: COMMENT ON COLUMN orders.note IS 'from the customer'
  #     undo: COMMENT ON COLUMN orders.note IS NULL
  #     phase: expand

# Asked by verify; rows are findings.
# after:
#   - name: no empty notes
#     query: SELECT id FROM orders WHERE note = ''
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change_plan::parse;

    #[test]
    fn what_it_writes_is_a_plan_with_and_without_its_comments() {
        for name in ["add_note", "1 é: ö"] {
            let text = template(&name.replace(':', ""));
            assert_eq!(parse(&text).unwrap().name, name.replace(':', ""));
        }
        let shown: Vec<_> = template("p")
            .lines()
            .filter(|line| !line.starts_with("# Asked") && !line.starts_with("# One"))
            .map(|line| match line.trim_start().starts_with("# ") {
                true => line.replacen("# ", "", 1),
                false => line.to_owned(),
            })
            .collect();
        let plan = parse(&shown.join("\n")).unwrap();
        assert_eq!((plan.changes.len(), plan.depends_on.len()), (3, 1));
    }

    #[test]
    fn each_second_belongs_to_one_plan() {
        let directory = tempfile::tempdir().unwrap();
        let now = "2026-11-22T23:59:58Z".parse().unwrap();
        let mut names = Vec::new();
        for name in ["z", "y", "x"] {
            let free = free(directory.path(), now).unwrap();
            names.push(file_name(name, free));
            std::fs::write(directory.path().join(file_name(name, free)), "").unwrap();
        }
        assert_eq!(
            names,
            [
                "20261122_235958_z.yaml",
                "20261122_235959_y.yaml",
                "20261123_000000_x.yaml"
            ]
        );
    }

    #[test]
    fn file_names_are_ordered_by_time() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(
            file_name("Add note.2", at("2026-11-22T02:30:59Z")),
            "20261122_023059_Add_note_2.yaml"
        );
    }
}
