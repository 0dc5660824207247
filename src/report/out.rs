//! The two streams. Styles are stripped where the stream is not a terminal, or NO_COLOR is set.

use super::safe;
use crate::error::{Error, ErrorKind};
use crate::event::LockTotals;
use crate::units;
use std::io::{ErrorKind as IoKind, IsTerminal, Write};

/// Prints a result for people.
///
/// # Errors
/// When it cannot be written: a full disk. A reader that went away has what it wanted, and is no error.
pub fn result(text: &str) -> Result<(), Error> {
    raw(&safe::written(text))
}

/// Text as [`result`] prints it, for what is drawn there: without styles where nobody wants them.
pub fn as_on_stdout(text: &str) -> String {
    match anstream::AutoStream::choice(&std::io::stdout()) {
        anstream::ColorChoice::Never => safe::plain(text),
        _ => safe::written(text),
    }
}

/// Prints SQL to be run: as it is, but to a terminal as any other text.
///
/// # Errors
/// As [`result`].
pub fn script(text: &str) -> Result<(), Error> {
    match std::io::stdout().is_terminal() {
        true => result(text),
        // Not a byte is left out, whatever names look like.
        false => write(std::io::stdout().lock(), text),
    }
}

fn raw(text: &str) -> Result<(), Error> {
    write(anstream::stdout().lock(), text)
}

fn write(mut stdout: impl Write, text: &str) -> Result<(), Error> {
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

/// Prints a value as JSON in one line.
///
/// # Errors
/// As [`result`].
pub fn json_line(value: &impl serde::Serialize) -> Result<(), Error> {
    raw(&(safe::json(&super::json::line(value)) + "\n"))
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

/// What getting locks came to, in one line; nothing where nobody was in anybody's way.
pub fn locks(totals: &LockTotals) -> String {
    let mut parts = Vec::new();
    if totals.gave_up > 0 || totals.waited_ms >= 1_000 {
        let attempts = units::counted(usize::try_from(totals.gave_up).unwrap_or(usize::MAX), "attempt");
        parts.push(format!(
            "{attempts} given up, {} waited",
            units::millis(totals.waited_ms)
        ));
    }
    if totals.stalled > 0 {
        parts.push(format!(
            "others waited behind it {} times, {} together, at most {}",
            units::count(totals.stalled),
            units::millis(totals.stalled_backend_ms),
            units::millis(totals.stalled_worst_ms)
        ));
    }
    if totals.ended > 0 {
        let sessions = units::counted(usize::try_from(totals.ended).unwrap_or(usize::MAX), "session");
        parts.push(format!("{sessions} in the way ended"));
    }
    match parts.as_slice() {
        [] => String::new(),
        parts => format!("  locks: {}\n", parts.join("; ")),
    }
}
