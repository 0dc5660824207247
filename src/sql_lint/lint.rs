//! Files of SQL, one after the other: what each statement does, and what is wrong with it.

use super::effects::{Effects, effects};
use super::rules::{Finding, Session, check};
use super::statement::Statement;
use super::world::World;
use super::{ignore, parse};

/// A file that was looked at.
#[derive(Debug, Clone)]
pub struct Report {
    pub path: String,
    pub source: String,
    pub statements: Vec<Judged>,
    /// Findings of no statement: syntax errors, and ignores that are wrong.
    pub findings: Vec<Finding>,
}

#[derive(Debug, Clone)]
pub struct Judged {
    pub statement: Statement,
    pub effects: Effects,
    pub findings: Vec<Finding>,
}

impl Report {
    /// All findings in the order of the text.
    pub fn all(&self) -> Vec<&Finding> {
        let of_statements = self.statements.iter().flat_map(|judged| &judged.findings);
        let mut all: Vec<&Finding> = of_statements.chain(&self.findings).collect();
        all.sort_by_key(|finding| finding.span.start);
        all
    }
}

/// Judges the file, and leaves the world as the file does. `in_transaction`: the file runs in a transaction that is
/// not written in it.
pub fn lint(world: &mut World, path: &str, source: &str, in_transaction: bool) -> Report {
    let script = parse::parse(source);
    let mut session = Session {
        in_transaction,
        ..Session::default()
    };
    world.in_transaction = in_transaction;
    let mut findings = Vec::new();
    let mut judged = Vec::new();
    for statement in &script.statements {
        let effects = effects(world, statement);
        findings.push(check(world, &mut session, statement, &effects));
        session.follow(world, statement, &effects);
        if effects.fails.is_none() {
            world.apply(statement);
        }
        judged.push(effects);
    }
    world.end_of_file();
    let mut own: Vec<Finding> = script
        .errors
        .iter()
        .map(|(span, message)| Finding::new("syntax", message.clone(), *span))
        .collect();
    own.extend(ignore::settle(
        source,
        &script.comments,
        &script.statements,
        &mut findings,
    ));
    let parts = script.statements.into_iter().zip(judged).zip(findings);
    Report {
        path: path.to_owned(),
        source: source.to_owned(),
        statements: parts
            .map(|((statement, effects), findings)| Judged {
                statement,
                effects,
                findings,
            })
            .collect(),
        findings: own,
    }
}
