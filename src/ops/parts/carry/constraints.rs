//! CHECK constraints on the column, and what twins of constraints have in common.

use super::{Printed, Subject};
use crate::catalog::model::{Constraint, ConstraintKind, Table};
use crate::diagnostic::Diagnostic;
use crate::ops::parts::constraint::{self, NewConstraint};
use crate::ops::parts::shadow::{self, Names};
use crate::ops::{Context, StepDraft};
use crate::plan::{Action, Expectation, Lock, LockMode, Phase, Settings, Transaction, Undo, Work};
use crate::sql::{QualifiedName, ident, literal};

pub(super) fn refusal(subject: &Subject<'_>, what: &str, why: &str) -> Diagnostic {
    let message = format!("a shadow column cannot carry {what}: {why}");
    Diagnostic::new("cannot_widen_yet", message).at(subject.span)
}

fn alter(table: &QualifiedName, what: &str) -> String {
    format!("ALTER TABLE {table} {what}")
}

pub(super) fn drop(table: &QualifiedName, name: &str) -> String {
    alter(table, &format!("DROP CONSTRAINT {}", ident(name)))
}

/// The twin gets the name, and the comment that went with the one before.
pub(super) fn take_name(
    table: &QualifiedName,
    from: &str,
    name: &str,
    constraint: &Constraint,
) -> Vec<String> {
    let rename = format!("RENAME CONSTRAINT {} TO {}", ident(from), ident(name));
    let mut statements = vec![alter(table, &rename)];
    statements.extend(comment(table, name, constraint));
    statements
}

fn comment(table: &QualifiedName, name: &str, constraint: &Constraint) -> Option<String> {
    let comment = constraint.comment.as_ref()?;
    Some(format!(
        "COMMENT ON CONSTRAINT {} ON {table} IS {}",
        ident(name),
        literal(comment)
    ))
}

pub(super) fn add_again(table: &QualifiedName, name: &str, constraint: &Constraint) -> Vec<String> {
    let add = format!(
        "ADD CONSTRAINT {} {} NOT VALID",
        ident(name),
        constraint.definition
    );
    let mut statements = vec![alter(table, &add)];
    statements.extend(comment(table, name, constraint));
    statements
}

/// Its rows were never let go, so this finds nothing; but PostgreSQL has to see for itself.
pub(super) fn prove_again(
    table: &QualifiedName,
    name: &str,
    constraint: &Constraint,
    settings: &Settings,
) -> Option<Work> {
    constraint.validated.then(|| Work {
        summary: format!("validate {} of {table} again", ident(name)),
        action: Action::Sql(vec![alter(
            table,
            &format!("VALIDATE CONSTRAINT {}", ident(name)),
        )]),
        transaction: Transaction::Single,
        locks: vec![Lock::new(table, LockMode::ShareUpdateExclusive)],
        timeouts: settings.patient(),
        expect: vec![expectation(table, name, constraint)],
        on_violation: None,
        guards_values: false,
    })
}

pub(super) fn expectation(table: &QualifiedName, name: &str, constraint: &Constraint) -> Expectation {
    Expectation::Constraint {
        table: table.clone(),
        name: name.to_owned(),
        exact: true,
        constraint: Box::new(constraint.clone()),
    }
}

/// The steps of a twin: added and proven after the new column is filled.
pub(super) fn twin_steps(twin: &NewConstraint, word: &str, settings: &Settings) -> Vec<StepDraft> {
    let mut steps = twin.steps(settings);
    if let Some(first) = steps.first_mut() {
        first.undo = Undo::Work(vec![twin.removal_if_there(settings)]);
    }
    if !twin.constraint.validated {
        steps.truncate(1);
    }
    for step in &mut steps {
        step.id = format!("{word}_{}", step.id);
        step.phase = Phase::Validate;
        step.hazards.clear();
    }
    steps
}

#[derive(Debug, Clone)]
pub struct CheckTwin {
    table: QualifiedName,
    name: String,
    before: Constraint,
    after: Constraint,
    twin: NewConstraint,
}

impl CheckTwin {
    pub fn all(
        context: &Context<'_>,
        subject: &Subject<'_>,
        printed: &Printed<'_>,
        complaints: &mut Vec<Diagnostic>,
    ) -> Vec<Self> {
        let hanging = subject.table.constraints.iter().filter(|(_, constraint)| {
            constraint.kind == ConstraintKind::Check
                && subject.leads(|column| constraint.columns.iter().any(|it| it == column))
        });
        let mut found = Vec::new();
        for (name, constraint) in hanging {
            match Self::of(context, subject, printed, name, constraint) {
                Ok(twin) => found.push(twin),
                Err(why) => {
                    complaints.push(refusal(
                        subject,
                        &format!("check constraint {}", ident(name)),
                        why,
                    ));
                }
            }
        }
        found
    }

    fn of(
        context: &Context<'_>,
        subject: &Subject<'_>,
        printed: &Printed<'_>,
        name: &str,
        before: &Constraint,
    ) -> Result<Self, &'static str> {
        if before.definition.ends_with("NOT ENFORCED") {
            return Err("it is NOT ENFORCED");
        }
        let spelled = |outcome: Option<&crate::catalog::model::ProbeOutcome>, columns: Vec<String>| {
            let found = outcome.and_then(|outcome| outcome.table.constraints.get(name));
            let definition = found.map(|found| found.definition.clone());
            definition.map(|definition| Constraint {
                definition,
                columns,
                ..before.clone()
            })
        };
        let moves = subject.moves;
        let renamed = moves.renamed(subject.table_name, &before.columns, Names::shadow);
        let unknown = "the server could not be asked to spell it";
        let on_shadow = spelled(printed.as_shadow, renamed).ok_or(unknown)?;
        // The columns of a CHECK are listed in the order of the table, of which the new ones are the last.
        let mut columns = before.columns.clone();
        moves.sort(subject.table_name, &mut columns);
        let after = spelled(printed.retyped, columns).ok_or(unknown)?;
        let twin = constraint::check(
            context,
            subject.table_name,
            subject.table,
            &shadow::name(name, "new"),
            (on_shadow.definition.clone(), inner(&on_shadow.definition)),
            (
                Constraint {
                    comment: None,
                    ..on_shadow.clone()
                },
                true,
            ),
        );
        Ok(Self {
            table: subject.table_name.clone(),
            name: name.to_owned(),
            before: before.clone(),
            after,
            twin,
        })
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        twin_steps(&self.twin, "check", settings)
    }

    pub fn drop(&self) -> String {
        drop(&self.table, &self.name)
    }

    pub fn arrive(&self) -> Vec<String> {
        take_name(&self.table, &self.twin.name, &self.name, &self.before)
    }

    pub fn arrive_back(&self) -> Vec<String> {
        add_again(&self.table, &self.name, &self.before)
    }

    pub fn prove_again(&self, settings: &Settings) -> Option<Work> {
        prove_again(&self.table, &self.name, &self.before, settings)
    }

    pub fn expect(&self) -> Expectation {
        expectation(&self.table, &self.name, &self.after)
    }

    pub fn apply(&self, table: &mut Table) {
        table.constraints.insert(self.name.clone(), self.after.clone());
    }
}

/// The expression of `CHECK (…)`.
fn inner(definition: &str) -> &str {
    let text = definition.strip_suffix(" NO INHERIT").unwrap_or(definition);
    let text = text.strip_prefix("CHECK (").unwrap_or(text);
    text.strip_suffix(')').unwrap_or(text)
}

/// Constraints that some rows may violate, and what each of them forbids. Foreign keys are left out: they are only
/// asked about rows whose columns change.
pub fn unproven(table: &Table) -> Vec<(String, String)> {
    let checks = table.constraints.iter().filter(|(_, it)| {
        it.kind == ConstraintKind::Check && !it.validated && !it.definition.ends_with("NOT ENFORCED")
    });
    let forbidden = checks.map(|(name, it)| (name.clone(), format!("NOT ({})", inner(&it.definition))));
    let not_null = table.columns.iter().filter_map(|column| {
        let constraint = column.not_null_constraint.as_ref().filter(|it| !it.validated)?;
        Some((
            constraint.name.clone(),
            format!("{} IS NULL", ident(&column.name)),
        ))
    });
    forbidden.chain(not_null).collect()
}
