//! The two streams. Styles are stripped where the stream is not a terminal, or NO_COLOR is set.

use super::safe;
use crate::error::{Error, ErrorKind};
use std::io::{ErrorKind as IoKind, IsTerminal, Write};

/// Prints a result for people.
///
/// # Errors
/// When it cannot be written: a full disk. A reader that went away has what it wanted, and is no error.
pub fn result(text: &str) -> Result<(), Error> {
    raw(&safe::written(text))
}

/// Prints SQL to be run: as it is, but to a terminal as any other text.
///
/// # Errors
/// As [`result`].
pub fn script(text: &str) -> Result<(), Error> {
    match std::io::stdout().is_terminal() {
        true => result(text),
        false => raw(text),
    }
}

fn raw(text: &str) -> Result<(), Error> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != IoKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Usage, "cannot write to standard output").source(error))
        }
        _ => Ok(()),
    }
}

/// Prints a value as JSON, with the version of these forms in front.
///
/// # Errors
/// As [`result`].
pub fn json(value: &impl serde::Serialize) -> Result<(), Error> {
    raw(&safe::json(&super::json::versioned(value)))
}

/// Prints anything that is not a result. There is nobody to tell when that fails.
pub fn message(text: &str) {
    let mut stderr = anstream::stderr().lock();
    let text = safe::written(text);
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// One line that is not a result.
pub fn line(text: &str) {
    message(&format!("{text}\n"));
}

/// A value for reading at ease: indented, with a final newline.
pub fn pretty(value: &impl serde::Serialize) -> String {
    // Serialising plain values into memory fails only for maps with keys that are no strings; there are none.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
