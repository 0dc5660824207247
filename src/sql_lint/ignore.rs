//! `-- pgmorph:ignore rule-id: reason`: before a statement, or on one of its lines.

use super::parse::Comment;
use super::rules::{self, Finding};
use super::statement::Statement;
use crate::diagnostic::line_and_column;

/// Takes the findings that are ignored out of the lists (one per statement), and adds what is wrong with the ignores.
pub fn settle(
    source: &str,
    comments: &[Comment],
    statements: &[Statement],
    findings: &mut [Vec<Finding>],
) -> Vec<Finding> {
    let mut own = Vec::new();
    for comment in comments {
        let Some(rest) = comment.text.strip_prefix("pgmorph:ignore") else {
            continue;
        };
        let (ids, reason) = match rest.split_once(':') {
            Some((ids, reason)) => (ids, reason.trim()),
            None => (rest, ""),
        };
        let target = target(source, comment, statements);
        for id in ids.split([',', ' ']).map(str::trim).filter(|id| !id.is_empty()) {
            if rules::rule(id).is_none() {
                own.push(Finding::new(
                    "ignore-unknown-rule",
                    format!("there is no rule `{id}`"),
                    comment.span,
                ));
                continue;
            }
            if reason.is_empty() {
                let message = format!("the ignore of `{id}` gives no reason");
                own.push(
                    Finding::new("ignore-without-reason", message, comment.span)
                        .help(format!("-- pgmorph:ignore {id}: why it is safe here")),
                );
                continue;
            }
            let list = target.and_then(|at| findings.get_mut(at));
            let before = list.as_ref().map_or(0, |list| list.len());
            let after = list.map_or(0, |list| {
                list.retain(|finding| finding.rule != id);
                list.len()
            });
            if before == after {
                let message = format!("the statement has no finding of `{id}`");
                own.push(Finding::new("ignore-unused", message, comment.span));
            }
        }
    }
    own
}

/// The statement that the comment stands in or behind, else the next one.
fn target(source: &str, comment: &Comment, statements: &[Statement]) -> Option<usize> {
    let line = line_and_column(source, comment.span.start).0;
    let on_line = statements.iter().position(|statement| {
        let last = line_and_column(source, statement.span.end).0;
        (statement.line..=last).contains(&line)
    });
    on_line.or_else(|| {
        statements
            .iter()
            .position(|statement| statement.span.start > comment.span.start)
    })
}
