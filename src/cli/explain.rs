//! `explain`: the manuals of the operations, and of what all of them share.

use super::{Global, Outcome};
use crate::diagnostic::nearest;
use crate::error::{Error, ErrorKind};
use crate::ops::MANUALS;
use crate::report::{out, style};
use crate::sql_lint::rules::RULES;
use crate::when;
use clap::Args;
use serde_json::json;

/// The rules of `lint` for raw SQL.
fn rules() -> Vec<(&'static str, &'static str)> {
    RULES.iter().map(|rule| (rule.id, rule.manual)).collect()
}

/// What is not an operation, but part of any.
const TOPICS: &[(&str, &str)] = &[("when", when::MANUAL), ("locks", include_str!("locks.md"))];

/// Print the manual of an operation, or the list of all
#[derive(Debug, Args)]
pub struct Explain {
    /// As in the plan file: create_index, widen_column, …; `when`, the conditions of a change; `locks`; or a rule of
    /// `lint`: create-index-blocks, …
    operation: Option<String>,
}

impl Explain {
    pub fn run(&self, global: &Global) -> Outcome {
        match &self.operation {
            None => list(global)?,
            Some(name) => {
                let (name, manual) = find(name)?;
                if global.is_json() {
                    out::json(&json!({"operation": name, "manual": manual}))?;
                } else {
                    out::result(&format!("{}\n\n{}\n", style::heading(name), manual.trim_end()))?;
                }
            }
        }
        Ok(0)
    }
}

fn find(name: &str) -> Result<(&'static str, &'static str), Error> {
    // `create-index` means the same: on a command line the fingers know no underscores.
    let wanted = name.replace('-', "_");
    if let Some(rule) = RULES.iter().find(|rule| rule.id == name) {
        return Ok((rule.id, rule.manual));
    }
    let manuals = || MANUALS.iter().chain(TOPICS);
    if let Some(found) = manuals().find(|(known, _)| *known == wanted) {
        return Ok(*found);
    }
    let names = || manuals().map(|(known, _)| *known);
    let error = Error::new(ErrorKind::Usage, format!("there is no operation `{name}`"));
    Err(match nearest(&wanted, names()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("operations: {}", names().collect::<Vec<_>>().join(", "))),
    })
}

fn list(global: &Global) -> Result<(), Error> {
    let first_sentence = |manual: &'static str| {
        let paragraph = manual.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        paragraph
            .split_once(". ")
            .map_or(paragraph.clone(), |(sentence, _)| format!("{sentence}."))
    };
    if global.is_json() {
        let entries = |kind: &str, manuals: &[(&str, &'static str)]| {
            let entry = |(name, manual): &(&str, &'static str)| json!({kind: name, "summary": first_sentence(manual)});
            manuals.iter().map(entry).collect::<serde_json::Value>()
        };
        return out::json(&json!({
            "operations": entries("operation", MANUALS),
            "topics": entries("topic", TOPICS),
            "rules": entries("rule", &rules()),
        }));
    }
    let widest = MANUALS.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, manual): &(&str, &'static str)| {
        format!(
            "{}  {}\n",
            style::name(format!("{name:widest$}")),
            first_sentence(manual)
        )
    };
    let list = |manuals: &[(&str, &'static str)]| manuals.iter().map(line).collect::<String>();
    let (operations, topics, rules) = (list(MANUALS), list(TOPICS), list(&rules()));
    out::result(&format!(
        "{operations}\nIn any of them:\n{topics}\nRules of `lint` for SQL files:\n{rules}"
    ))
}
