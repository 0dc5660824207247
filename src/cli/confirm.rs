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
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Findings,
        "not confirmed; nothing was changed",
    ))
}
