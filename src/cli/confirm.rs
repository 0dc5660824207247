//! Asks before anything is changed.

use crate::error::{Error, ErrorKind};
use crate::report::out;
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

/// As [`ask`], for what takes more than a yes: the text must be typed, or given as `--confirm`.
///
/// # Errors
/// When something else is given, or when nobody is there to answer.
pub fn ask_for(text: &str, what: &str, given: Option<&str>) -> Result<(), Error> {
    let answer = match given {
        Some(given) => given.to_owned(),
        None if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() => {
            out::message(&format!("{what}\nType {text} to go ahead: "));
            answer()
        }
        None => String::new(),
    };
    match answer == text {
        true => Ok(()),
        false => Err(refused().help(format!("the plan asks for more than a yes: --confirm {text}"))),
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
