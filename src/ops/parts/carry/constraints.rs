//! CHECK constraints on the column, and what twins of constraints have in common.

use super::{Printed, Subject};
use crate::catalog::model::{CatalogSnapshot, Constraint, ConstraintKind, Table, TableKind};
use crate::diagnostic::Diagnostic;
use crate::ops::parts::constraint::{self, NewConstraint};
use crate::ops::parts::shadow::{self, Names};
use crate::ops::{Context, StepDraft};
use crate::plan::{Action, Expectation, Lock, LockMode, Part, Phase, Settings, Transaction, Undo, Work};
use crate::sql::{QualifiedName, ident, literal};

pub(super) fn refusal(subject: &Subject<'_>, what: &str, why: &str) -> Diagnostic {
    let message = format!("a shadow column cannot carry {what}: {why}");
    Diagnostic::new("cannot_widen_yet", message).at(subject.span)
}

fn alter(table: &QualifiedName, what: &str) -> String {
    format!("ALTER TABLE {table} {what}")
}

pub(in crate::ops::parts) fn drop(table: &QualifiedName, name: &str) -> String {
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

pub(super) fn comment(table: &QualifiedName, name: &str, constraint: &Constraint) -> Option<String> {
    let comment = constraint.comment.as_ref()?;
    Some(format!(
        "COMMENT ON CONSTRAINT {} ON {table} IS {}",
        ident(name),
        literal(comment)
    ))
}

/// The definition for rows that nobody looks at now.
fn unproven_sql(constraint: &Constraint) -> String {
    let not_valid = if constraint.enforced() { " NOT VALID" } else { "" };
    format!("{}{not_valid}", constraint.definition)
}

pub(in crate::ops::parts) fn add_again(
    table: &QualifiedName,
    name: &str,
    constraint: &Constraint,
) -> Vec<String> {
    let add = format!("ADD CONSTRAINT {} {}", ident(name), unproven_sql(constraint));
    let mut statements = vec![alter(table, &add)];
    statements.extend(comment(table, name, constraint));
    statements
}

/// Its rows were never let go, so this finds nothing; but PostgreSQL has to see for itself.
pub(in crate::ops::parts) fn prove_again(
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
        locks: {
            let referenced = constraint.references.iter().map(|it| &it.table);
            let referenced = referenced.filter(|it| *it != table);
            std::iter::once(Lock::new(table, LockMode::ShareUpdateExclusive))
                .chain(referenced.map(|it| Lock::new(it, LockMode::RowShare)))
                .collect()
        },
        timeouts: settings.patient(),
        expect: vec![expectation(table, name, constraint)],
        on_violation: None,
        guards_values: false,
        part: None,
        not_before: None,
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
    partitioned: bool,
    below: Vec<Below>,
}

/// The same constraint on a table that has it from above.
#[derive(Debug, Clone)]
struct Below {
    table: QualifiedName,
    constraint: Constraint,
}

/// Whether a parent has it, too, and what is done there reaches the table.
pub(super) fn comes_from_above(
    catalog: &CatalogSnapshot,
    table: &Table,
    name: &str,
    constraint: &Constraint,
) -> bool {
    let mut parents = table.partition_of.iter().chain(&table.inherits);
    let has = |parent: &QualifiedName| {
        let parent = catalog.tables.get(parent);
        let above = parent.and_then(|parent| parent.constraints.get(name));
        above.is_some_and(|above| above.kind == ConstraintKind::Check && !above.no_inherit)
    };
    constraint.inherited || parents.any(has)
}

impl CheckTwin {
    pub fn all(
        context: &Context<'_>,
        subject: &Subject<'_>,
        printed: &Printed<'_>,
        complaints: &mut Vec<Diagnostic>,
    ) -> Vec<Self> {
        let hanging = subject.table.constraints.iter().filter(|(name, constraint)| {
            constraint.kind == ConstraintKind::Check
                && subject.leads(|column| constraint.columns.iter().any(|it| it == column))
                && !comes_from_above(context.catalog, subject.table, name, constraint)
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
        let below = below(context, subject.table_name, name, before);
        if below
            .iter()
            .any(|it| it.constraint.enforced() != before.enforced())
        {
            return Err("it is NOT ENFORCED on some tables of the tree only");
        }
        if !before.validated && below.iter().any(|it| it.constraint.validated) {
            return Err("it is NOT VALID, but proven on a table below: validate it");
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
        let now = context.now.tables.get(subject.table_name);
        let unknown = match now.is_some_and(|table| table.constraints.contains_key(name)) {
            true => "the server could not be asked to spell it",
            false => {
                "an earlier change of this plan makes it, and what is not there yet the server cannot be asked to spell for \
                 the new column: put the two changes into plans that run one after the other"
            }
        };
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
            partitioned: subject.table.kind == TableKind::Partitioned,
            below,
        })
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        twin_steps(&self.twin, "check", settings)
    }

    /// Tables below that define it, too: what is done above leaves theirs alone.
    fn own_copies(&self) -> impl Iterator<Item = &Below> {
        self.below.iter().filter(|it| !it.constraint.inherited)
    }

    pub fn drop(&self) -> Vec<String> {
        let mut statements = vec![drop(&self.table, &self.name)];
        statements.extend(self.own_copies().map(|it| drop(&it.table, &self.name)));
        statements
    }

    pub fn arrive(&self) -> Vec<String> {
        let mut statements = take_name(&self.table, &self.twin.name, &self.name, &self.before);
        let own = |it: &Below| {
            alter(
                &it.table,
                &format!("ADD CONSTRAINT {} {}", ident(&self.name), self.after.definition),
            )
        };
        statements.extend(self.own_copies().map(own));
        statements.extend(self.comments_below());
        statements
    }

    pub fn arrive_back(&self) -> Vec<String> {
        let mut statements = add_again(&self.table, &self.name, &self.before);
        let own = |it: &Below| {
            alter(
                &it.table,
                &format!(
                    "ADD CONSTRAINT {} {}",
                    ident(&self.name),
                    unproven_sql(&self.before)
                ),
            )
        };
        statements.extend(self.own_copies().map(own));
        statements.extend(self.comments_below());
        statements
    }

    fn comments_below(&self) -> impl Iterator<Item = String> {
        let below = self.below.iter();
        below.filter_map(|it| {
            let comment = comment(&it.table, &self.name, &it.constraint)?;
            match self.partitioned {
                true => {
                    let part = Part {
                        table: it.table.clone(),
                        of: self.table.clone(),
                    };
                    part.statement(&[comment])
                }
                false => Some(comment),
            }
        })
    }

    pub fn prove_again(&self, settings: &Settings) -> Option<Work> {
        prove_again(&self.table, &self.name, &self.before, settings)
    }

    pub fn expect(&self) -> Expectation {
        expectation(&self.table, &self.name, &self.after)
    }

    pub fn apply(&self, catalog: &mut CatalogSnapshot) {
        if let Some(table) = catalog.tables.get_mut(&self.table) {
            table.constraints.insert(self.name.clone(), self.after.clone());
        }
        for below in &self.below {
            let table = catalog.tables.get_mut(&below.table);
            if let Some(constraint) = table.and_then(|table| table.constraints.get_mut(&self.name)) {
                constraint.definition.clone_from(&self.after.definition);
                let last = self.after.columns.last().cloned();
                constraint.columns.sort_by_key(|it| Some(it) == last.as_ref());
            }
        }
    }
}

fn below(context: &Context<'_>, top: &QualifiedName, name: &str, constraint: &Constraint) -> Vec<Below> {
    if constraint.no_inherit {
        return Vec::new();
    }
    let tree = context.catalog.tree(top).into_iter().skip(1);
    tree.filter_map(|table| {
        let found = context.catalog.tables.get(&table)?.constraints.get(name)?;
        Some(Below {
            constraint: found.clone(),
            table,
        })
    })
    .collect()
}

/// The expression of `CHECK (…)`.
fn inner(definition: &str) -> &str {
    let text = definition
        .strip_suffix(Constraint::NOT_ENFORCED)
        .unwrap_or(definition);
    let text = text.strip_suffix(" NO INHERIT").unwrap_or(text);
    let text = text.strip_prefix("CHECK (").unwrap_or(text);
    text.strip_suffix(')').unwrap_or(text)
}

/// Constraints that some rows may violate, and what each of them forbids. Foreign keys are left out: they are only
/// asked about rows whose columns change.
pub fn unproven(table: &Table) -> Vec<(String, String)> {
    let checks = table
        .constraints
        .iter()
        .filter(|(_, it)| it.kind == ConstraintKind::Check && !it.validated && it.enforced());
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
