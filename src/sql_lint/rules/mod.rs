//! What is wrong with a statement, given what it does.

mod manual;
mod statements;

pub use manual::{Level, RULES, Rule, rule};

use super::effects::Effects;
use super::statement::{Action, Kind, Statement};
use super::world::World;
use crate::diagnostic::Span;
use crate::plan::LockMode;
use crate::sql::QualifiedName;
use std::collections::{BTreeMap, BTreeSet};

/// One thing that is wrong, with a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub rule: &'static str,
    pub level: Level,
    pub message: String,
    pub span: Span,
    /// What to do instead.
    pub help: Option<String>,
}

impl Finding {
    pub fn new(rule: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self {
            rule,
            level: manual::rule(rule).map_or(Level::Error, |rule| rule.level),
            message: message.into(),
            span,
            help: None,
        }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// What came before in the file.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// Whether a lock_timeout other than 0 is in force: for the session, and for the open transaction.
    pub lock_timeout: bool,
    pub local_lock_timeout: Option<bool>,
    pub in_transaction: bool,
    /// It was said once; every statement after it has the same fault.
    pub told_timeout: bool,
    /// Tables locked against reads or writes in the open transaction, by what.
    pub held: BTreeMap<QualifiedName, LockMode>,
    /// Constraints added NOT VALID in the open transaction.
    pub unproven: BTreeSet<String>,
    pub told_pile: bool,
}

impl Session {
    fn is_bounded(&self) -> bool {
        self.local_lock_timeout.unwrap_or(self.lock_timeout)
    }

    /// Takes note of the statement, after it was judged.
    pub fn follow(&mut self, world: &World, statement: &Statement, effects: &Effects) {
        match &statement.kind {
            Kind::Transaction(super::statement::Transaction::Begin) => self.in_transaction = true,
            Kind::Transaction(super::statement::Transaction::End) => {
                let told = (self.lock_timeout, self.told_timeout);
                *self = Self {
                    lock_timeout: told.0,
                    told_timeout: told.1,
                    ..Self::default()
                };
            }
            Kind::Set { name, value, local } if name == "lock_timeout" => {
                let set = !matches!(
                    value.trim_matches('\''),
                    "0" | "default" | "DEFAULT" | "0s" | "0ms"
                );
                match local {
                    true => self.local_lock_timeout = Some(set),
                    false => {
                        self.lock_timeout = set;
                        self.local_lock_timeout = None;
                    }
                }
            }
            _ => {}
        }
        if self.in_transaction {
            for (relation, mode) in blocking(world, statement, effects) {
                if world.index_owner(&relation).is_none() {
                    self.held.insert(relation, mode);
                }
            }
            if let Kind::AlterTable(alter) = &statement.kind {
                for action in &alter.actions {
                    if let Action::AddConstraint(constraint) = action
                        && constraint.not_valid
                    {
                        self.unproven.extend(constraint.name.clone());
                    }
                }
            }
        }
    }
}

/// Locks that keep reads or writes out of what others use.
pub fn blocking(world: &World, statement: &Statement, effects: &Effects) -> Vec<(QualifiedName, LockMode)> {
    if matches!(
        statement.kind,
        Kind::Refresh {
            concurrently: true,
            ..
        }
    ) {
        // EXCLUSIVE on the view keeps nobody out but other refreshes: nobody writes to it.
        return Vec::new();
    }
    let locks = effects.locks.iter();
    locks
        .filter(|(relation, mode)| mode.blocks_writes() && !world.is_made(relation))
        .map(|(relation, mode)| (relation.clone(), *mode))
        .collect()
}

/// All findings of one statement, in the order of the rules' weight.
pub fn check(world: &World, session: &mut Session, statement: &Statement, effects: &Effects) -> Vec<Finding> {
    let mut findings = Vec::new();
    let span = first_line(statement);
    if let Some(refusal) = &effects.fails {
        let rule = match refusal.sqlstate {
            "55P04" => "enum-value-in-transaction",
            _ => "statement-fails",
        };
        let message = format!(
            "PostgreSQL refuses this ({}): {}",
            refusal.sqlstate, refusal.message
        );
        findings.push(Finding::new(rule, message, span));
    }
    if session.in_transaction && !effects.transaction {
        findings.push(
            Finding::new(
                "not-in-transaction",
                "this cannot run in a transaction block",
                span,
            )
            .help("run it before BEGIN or after COMMIT; a tool's own transaction per file counts as well"),
        );
    }
    findings.extend(statements::findings(world, statement, effects, span));
    findings.extend(held(world, session, statement, effects, span));
    let blocking = blocking(world, statement, effects);
    if !session.is_bounded()
        && !session.told_timeout
        && effects.transaction
        && let Some((relation, mode)) = blocking.iter().max_by_key(|(_, mode)| *mode)
    {
        session.told_timeout = true;
        let message = format!("{mode} on {relation} is waited for without a limit, and everybody behind it");
        findings.push(
            Finding::new("missing-lock-timeout", message, span)
                .help("SET lock_timeout = '2s'; before it, and run the migration again when it was reached"),
        );
    }
    for finding in &mut findings {
        if finding.help.is_none() && !effects.depends.is_empty() && finding.rule != "statement-fails" {
            finding.help = Some(format!(
                "it depends on {}: the worst is assumed",
                effects.depends.join("; ")
            ));
        }
    }
    findings
}

/// What is wrong with holding locks over several statements.
fn held(
    world: &World,
    session: &mut Session,
    statement: &Statement,
    effects: &Effects,
    span: Span,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !session.in_transaction {
        return findings;
    }
    if let Kind::AlterTable(alter) = &statement.kind {
        for action in &alter.actions {
            if let Action::ValidateConstraint(name) = action
                && session.unproven.contains(name)
            {
                let message = format!("{name} is validated while the lock that added it is held");
                findings
                    .push(Finding::new("validate-with-add", message, span).help("COMMIT between the two"));
            }
        }
    }
    let tables: Vec<QualifiedName> = blocking(world, statement, effects)
        .into_iter()
        .map(|(relation, _)| relation)
        .filter(|relation| world.index_owner(relation).is_none())
        .collect();
    let others: Vec<&QualifiedName> = session
        .held
        .keys()
        .filter(|held| !tables.contains(held))
        .collect();
    let works = tables.iter().any(|table| !session.held.contains_key(table))
        || effects.scans.iter().any(|scanned| !world.is_made(scanned))
        || matches!(&statement.kind, Kind::Write(write) if !world.is_made(&world.resolve(&write.table)));
    if let Some(first) = others.first()
        && works
        && !session.told_pile
    {
        session.told_pile = true;
        let mode = session.held[*first];
        let message = format!("{mode} on {first} is held meanwhile, until COMMIT");
        findings.push(Finding::new("locks-pile-up", message, span).help("one table per transaction"));
    }
    findings
}

/// The statement's first line: enough to find it by.
fn first_line(statement: &Statement) -> Span {
    let line = statement.sql.lines().next().unwrap_or_default().trim_end();
    Span {
        start: statement.span.start,
        end: statement.span.start + line.len(),
    }
}
