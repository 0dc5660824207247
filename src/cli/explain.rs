//! `explain`: the manuals of the operations, of what all of them share, of hazards and exit codes.

use super::{Global, Outcome};
use crate::diagnostic::nearest;
use crate::error::{Error, ErrorKind};
use crate::hazards::HAZARDS;
use crate::ops::MANUALS;
use crate::report::{out, style};
use crate::sql_lint::rules::RULES;
use crate::{units, when};
use clap::Args;
use serde_json::json;

/// The rules of `lint` for raw SQL.
fn rules() -> Vec<(&'static str, &'static str)> {
    RULES.iter().map(|rule| (rule.id, rule.manual)).collect()
}

/// What is not an operation, but part of any.
const TOPICS: &[(&str, &str)] = &[
    ("exit_codes", EXIT_CODES),
    ("locks", include_str!("locks.md")),
    ("rehearse", include_str!("rehearse.md")),
    ("when", when::MANUAL),
];

const EXIT_CODES: &str = "\
What a command's exit code means, the same for all commands. In all of them the state is saved, and nothing is left locked.

0    It is done, or what was asked for is as it should be.
1    `verify` or `lint` found something, `plan --diff` a difference, or you did not confirm. The findings are on standard output.
2    Wrong usage, or a plan that cannot be: nothing was changed. The message points at the place.
3    A precondition does not hold: nothing was changed by this call. Do what the message says and run it again.
4    The lock budget is used up: somebody held a conflicting lock until `lock_deadline`. Steps that were done stay done.
     Run the same command again later, end what blocks (it is named), or raise `lock_deadline` in `settings`.
5    The server cannot be reached, refuses the login, or the connection was lost and did not come back. Run the same
     command again: it asks the ledger, and the catalog, how far it came.
6    A step failed: a row in the way, a missing privilege, a full disk. Repair what the message names, then run the
     same command again, or `pgmorph rollback`.
7    Another run holds this database. It is named; wait until it has ended.
130  Interrupted by Ctrl-C or SIGTERM. Run the same command again to go on.

In scripts: 4, 5, 7 and 130 are worth another try, 2, 3 and 6 want a person.
";

/// Print the manual of an operation, a hazard or an exit code, or the list of all
#[derive(Debug, Args)]
pub struct Explain {
    /// An operation as in the plan file (create_index, …), a hazard as in a plan (hot_updates, …), a rule of `lint`
    /// (create-index-blocks, …), `when`, `locks`, `rehearse`, or `exit_codes`
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

impl Explain {
    pub fn run(&self, global: &Global) -> Outcome {
        match &self.name {
            None => list(global)?,
            Some(name) => {
                let (kind, name, manual) = find(name)?;
                if global.is_json() {
                    out::json(&json!({kind: name, "manual": manual}))?;
                } else {
                    let manual = if kind == "hazard" {
                        units::wrap(manual, WIDTH).join("\n")
                    } else {
                        manual.trim_end().to_owned()
                    };
                    out::result(&format!("{}\n\n{manual}\n", style::heading(name)))?;
                }
            }
        }
        Ok(0)
    }
}

type Manuals = &'static [(&'static str, &'static str)];

const WIDTH: usize = 110;
const ALL: [(&str, Manuals); 3] = [("operation", MANUALS), ("topic", TOPICS), ("hazard", HAZARDS)];

fn find(name: &str) -> Result<(&'static str, &'static str, &'static str), Error> {
    // `create-index` means the same: on a command line the fingers know no underscores.
    if let Some(rule) = RULES.iter().find(|rule| rule.id == name) {
        return Ok(("rule", rule.id, rule.manual));
    }
    let wanted = name.replace(['-', ' '], "_").to_lowercase();
    for (kind, manuals) in ALL {
        if let Some((name, manual)) = manuals.iter().find(|(known, _)| *known == wanted) {
            return Ok((kind, name, manual));
        }
    }
    if wanted.parse::<u8>().is_ok() {
        return Ok(("topic", "exit_codes", EXIT_CODES));
    }
    let names = || {
        ALL.iter()
            .flat_map(|(_, manuals)| manuals.iter().map(|(known, _)| *known))
            .chain(RULES.iter().map(|rule| rule.id))
    };
    let error = Error::new(ErrorKind::Usage, format!("there is no manual of `{name}`"));
    Err(
        match nearest(&wanted, names()).or_else(|| nearest(name, names())) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help("`pgmorph explain` lists all operations, topics, hazards and rules"),
        },
    )
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
            "hazards": entries("hazard", HAZARDS),
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
    let hazards: Vec<&str> = HAZARDS.iter().map(|(code, _)| *code).collect();
    out::result(&format!(
        "{}\nTopics:\n{}\nHazards that plans name:\n{}\n\nRules of `lint` for SQL files:\n{}",
        list(MANUALS),
        list(TOPICS),
        units::wrap(&hazards.join(", "), WIDTH).join("\n"),
        list(&rules()),
    ))
}
