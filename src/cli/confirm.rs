//! Asks before anything is changed.

use crate::error::{Error, ErrorKind};
use crate::report::out;
use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal};

/// Shows what is going to happen and waits for a yes; `yes` is `--yes`.
///
/// # Errors
/// When the answer is not yes, or when nobody is there to answer.
pub fn ask(what: &str, yes: bool) -> Result<(), Error> {
    if yes {
        return Ok(());
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(Error::new(
            ErrorKind::Findings,
            "not confirmed: nobody is at the terminal to ask; nothing was changed",
        )
        .help("pass --yes to go ahead without being asked"));
    }
    out::message(&format!("{what}\nGo ahead? [y/N] "));
    match ["y", "yes"].contains(&answer().to_lowercase().as_str()) {
        true => Ok(()),
        false => Err(refused()),
    }
}

/// As [`ask`], for what may take more than a yes: each of the texts must be typed, or be among those given as `--confirm`.
///
/// # Errors
/// When something else is given, or when nobody is there to answer.
pub fn ask_for(texts: &BTreeSet<&str>, what: &str, given: &[String], yes: bool) -> Result<(), Error> {
    if texts.is_empty() {
        return ask(what, yes);
    }
    let attended = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if given.is_empty() && attended {
        out::message(&format!("{what}\n"));
    }
    for text in texts {
        let is_typed = || {
            out::message(&format!("Type {text} to go ahead: "));
            answer() == **text
        };
        let confirmed = match given {
            [] => attended && is_typed(),
            given => given.iter().any(|given| given == text),
        };
        if !confirmed {
            let wanted: Vec<String> = texts
                .iter()
                .map(|text| format!("--confirm {}", quoted(text)))
                .collect();
            let help = format!("more than a yes is asked for: {}", wanted.join(" "));
            return Err(refused().help(help));
        }
    }
    Ok(())
}

/// As a shell reads it as one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

fn answer() -> String {
    let mut answer = String::new();
    match std::io::stdin().lock().read_line(&mut answer) {
        Ok(_) => answer.trim().to_owned(),
        Err(_) => String::new(),
    }
}

fn refused() -> Error {
    Error::new(ErrorKind::Findings, "not confirmed; nothing was changed")
}
