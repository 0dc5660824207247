//! Errors for people and machines.

use super::style;
use crate::diagnostic::{Diagnostic, line_and_column};
use crate::error::Error;
use serde_json::{Value, json};
use std::error::Error as _;
use std::fmt::Write;

/// The message, its details indented, what to do, and with `chain` every cause beneath it.
pub fn human(error: &Error, chain: bool) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{} {}", style::bad("error:"), error.message);
    for line in error.details.iter().flat_map(|detail| detail.lines()) {
        let _ = writeln!(text, "  {line}");
    }
    let mut source = error.source();
    while let Some(cause) = source.filter(|_| chain) {
        let _ = writeln!(text, "  {} {cause}", style::faint("caused by:"));
        source = cause.source();
    }
    if let Some(help) = &error.help {
        let _ = writeln!(text, "{} {help}", style::good("help:"));
    }
    text
}

/// As the value of `error` in a JSON result.
pub fn json(error: &Error) -> Value {
    json!({
        "kind": error.kind.name(),
        "message": error.message,
        "sqlstate": error.sqlstate,
        "details": error.details,
        "help": error.help,
    })
}

/// One complaint about a plan file, its place counted from 1.
pub fn diagnostic_json(diagnostic: &Diagnostic, source: &str) -> Value {
    let place = diagnostic.span.map(|span| line_and_column(source, span.start));
    json!({
        "code": diagnostic.code,
        "message": diagnostic.message,
        "line": place.map(|(line, _)| line),
        "column": place.map(|(_, column)| column),
        "help": diagnostic.help,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn shows_details_causes_and_help() {
        let error = Error::new(ErrorKind::StepFailed, "it broke")
            .details(["one\ntwo".to_owned()])
            .source("the disk is full")
            .help("free some space");
        let plain = |chain| crate::report::safe::plain(&human(&error, chain));
        assert_eq!(
            plain(false),
            "error: it broke\n  one\n  two\nhelp: free some space\n"
        );
        assert!(plain(true).contains("  caused by: the disk is full\n"));
        assert_eq!(json(&error)["kind"], "step_failed");
    }
}
