//! CHECK constraints on the column, foreign keys that begin in it and foreign keys that end in it.

use super::{Printed, Subject};
use crate::catalog::model::{Constraint, ConstraintKind, Reference, Table, TableKind};
use crate::diagnostic::Diagnostic;
use crate::ops::parts::constraint::{self, NewConstraint};
use crate::ops::parts::{brief, shadow};
use crate::ops::{Context, StepDraft};
use crate::plan::{Action, Estimate, Expectation, Lock, LockMode, Phase, Settings, Transaction, Undo, Work};
use crate::sql::{QualifiedName, ident, idents, literal};

fn refusal(subject: &Subject<'_>, what: &str, why: &str) -> Diagnostic {
    let message = format!("a shadow column cannot carry {what}: {why}");
    Diagnostic::new("cannot_widen_yet", message).at(subject.span)
}

fn alter(table: &QualifiedName, what: &str) -> String {
    format!("ALTER TABLE {table} {what}")
}

fn drop(table: &QualifiedName, name: &str) -> String {
    alter(table, &format!("DROP CONSTRAINT {}", ident(name)))
}

/// The twin gets the name, and the comment that went with the one before.
fn take_name(table: &QualifiedName, from: &str, name: &str, constraint: &Constraint) -> Vec<String> {
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

fn add_again(table: &QualifiedName, name: &str, constraint: &Constraint) -> Vec<String> {
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
fn prove_again(
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

fn expectation(table: &QualifiedName, name: &str, constraint: &Constraint) -> Expectation {
    Expectation::Constraint {
        table: table.clone(),
        name: name.to_owned(),
        exact: true,
        constraint: Box::new(constraint.clone()),
    }
}

/// The steps of a twin: added and proven after the new column is filled.
fn twin_steps(twin: &NewConstraint, word: &str, settings: &Settings) -> Vec<StepDraft> {
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
        let column = &subject.column.name;
        let hanging = subject.table.constraints.iter().filter(|(_, constraint)| {
            constraint.kind == ConstraintKind::Check && constraint.columns.contains(column)
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
        let renamed = before.columns.iter().map(|column| {
            if *column == subject.column.name {
                subject.names.shadow.clone()
            } else {
                column.clone()
            }
        });
        let unknown = "the server could not be asked to spell it";
        let on_shadow = spelled(printed.as_shadow, renamed.collect()).ok_or(unknown)?;
        // The columns of a CHECK are listed in the order of the table, of which the new one is the last.
        let mut columns = before.columns.clone();
        columns.sort_by_key(|column| *column == subject.column.name);
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

/// The same foreign key with other columns at its ends.
fn with_columns(
    constraint: &Constraint,
    columns: Vec<String>,
    referenced: Vec<String>,
) -> Result<Constraint, &'static str> {
    let reference = constraint.references.as_ref().ok_or("its far end is unknown")?;
    let text = |columns: &[String], referenced: &[String]| {
        format!(
            "FOREIGN KEY ({}) REFERENCES {}({})",
            idents(columns),
            reference.table,
            idents(referenced)
        )
    };
    let head = text(&constraint.columns, &reference.columns);
    let tail = constraint
        .definition
        .strip_prefix(&head)
        .ok_or("its definition cannot be read")?;
    if tail.contains("SET NULL (") || tail.contains("SET DEFAULT (") || tail.contains("NOT ENFORCED") {
        return Err("its actions name columns, or it is NOT ENFORCED");
    }
    Ok(Constraint {
        definition: text(&columns, &referenced) + tail,
        references: Some(Reference {
            columns: referenced,
            ..reference.clone()
        }),
        columns,
        // Of another index than before.
        index: None,
        comment: None,
        ..constraint.clone()
    })
}

fn replaced(columns: &[String], from: &str, to: &str) -> Vec<String> {
    let one = |column: &String| {
        if column == from {
            to.to_owned()
        } else {
            column.clone()
        }
    };
    columns.iter().map(one).collect()
}

/// A foreign key of the column's own table, to wherever.
#[derive(Debug, Clone)]
pub struct Outgoing {
    table: QualifiedName,
    name: String,
    before: Constraint,
    twin: NewConstraint,
}

impl Outgoing {
    pub fn all(context: &Context<'_>, subject: &Subject<'_>, complaints: &mut Vec<Diagnostic>) -> Vec<Self> {
        let column = &subject.column.name;
        let hanging = subject.table.constraints.iter().filter(|(_, constraint)| {
            constraint.kind == ConstraintKind::ForeignKey && constraint.columns.contains(column)
        });
        let mut found = Vec::new();
        for (name, constraint) in hanging {
            match Self::of(context, subject, name, constraint) {
                Ok(twin) => found.push(twin),
                Err(why) => complaints.push(refusal(subject, &format!("foreign key {}", ident(name)), why)),
            }
        }
        found
    }

    fn of(
        context: &Context<'_>,
        subject: &Subject<'_>,
        name: &str,
        before: &Constraint,
    ) -> Result<Self, &'static str> {
        let column = &subject.column.name;
        let reference = before.references.as_ref().ok_or("its far end is unknown")?;
        if &reference.table == subject.table_name && reference.columns.contains(column) {
            return Err("it refers to the column itself");
        }
        let target = context
            .catalog
            .tables
            .get(&reference.table)
            .ok_or("its far end is unknown")?;
        if !context.now.role.acts_as(&target.owner) {
            return Err(
                "the table that it refers to belongs to another role, and dropping the old one locks it",
            );
        }
        let columns = replaced(&before.columns, column, &subject.names.shadow);
        let twin = with_columns(before, columns, reference.columns.clone())?;
        let twin_name = shadow::name(name, "new");
        Ok(Self {
            table: subject.table_name.clone(),
            name: name.to_owned(),
            before: before.clone(),
            twin: constraint::foreign_key(context, subject.table_name, subject.table, &twin_name, twin),
        })
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        twin_steps(&self.twin, "key", settings)
    }

    /// The far end is locked when the old key goes.
    pub fn lock(&self) -> Option<Lock> {
        let reference = self.before.references.as_ref()?;
        (reference.table != self.table).then(|| Lock::new(&reference.table, LockMode::AccessExclusive))
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
        expectation(&self.table, &self.name, &self.before)
    }
}

/// A foreign key that ends in the column, of another table or of its own.
#[derive(Debug, Clone)]
pub struct Incoming {
    table: QualifiedName,
    from: QualifiedName,
    name: String,
    before: Constraint,
    /// To the new column, before the cutover.
    twin: NewConstraint,
    /// To the column as it is called at that time: for a rollback before the cutover.
    back: NewConstraint,
    /// To the old column, after the cutover.
    to_old: NewConstraint,
}

impl Incoming {
    pub fn all(context: &Context<'_>, subject: &Subject<'_>, complaints: &mut Vec<Diagnostic>) -> Vec<Self> {
        let column = &subject.column.name;
        let all = context.catalog.incoming_foreign_keys(subject.table_name);
        let ends_here = |constraint: &Constraint| {
            let reference = constraint.references.as_ref();
            reference.is_some_and(|reference| reference.columns.contains(column))
        };
        let mut found = Vec::new();
        let still = context.now.incoming_foreign_keys(subject.table_name);
        for (from, name, _) in still.into_iter().filter(|(_, _, it)| ends_here(it)) {
            let kept = context.catalog.tables.get(from);
            if kept.is_some_and(|table| !table.constraints.contains_key(name)) {
                let what = format!("foreign key {} of {from}", ident(name));
                let why = "an earlier change of this plan drops it in contract only";
                complaints
                    .push(refusal(subject, &what, why).help("drop it in a plan of its own that runs before"));
            }
        }
        for (from, name, constraint) in all.into_iter().filter(|(_, _, it)| ends_here(it)) {
            match Self::of(context, subject, from, name, constraint) {
                Ok(twin) => found.push(twin),
                Err(why) => {
                    let what = format!("foreign key {} of {from}", ident(name));
                    complaints.push(refusal(subject, &what, why));
                }
            }
        }
        found
    }

    fn of(
        context: &Context<'_>,
        subject: &Subject<'_>,
        from: &QualifiedName,
        name: &str,
        before: &Constraint,
    ) -> Result<Self, &'static str> {
        let column = &subject.column.name;
        if from == subject.table_name && before.columns.contains(column) {
            return Err("it begins in the column, too");
        }
        let table = context.catalog.tables.get(from).ok_or("its table is unknown")?;
        if table.kind != TableKind::Table || table.partition_of.is_some() || !table.children.is_empty() {
            return Err("its table is partitioned or inherited from");
        }
        if !context.now.role.acts_as(&table.owner) {
            return Err("its table belongs to another role");
        }
        let reference = before.references.as_ref().ok_or("its far end is unknown")?;
        let to = |target: &str, kind: &str| {
            let referenced = replaced(&reference.columns, column, target);
            let twin = with_columns(before, before.columns.clone(), referenced)?;
            let name = shadow::name(name, kind);
            Ok(constraint::foreign_key(context, from, table, &name, twin))
        };
        Ok(Self {
            table: subject.table_name.clone(),
            from: from.clone(),
            name: name.to_owned(),
            before: before.clone(),
            twin: to(&subject.names.shadow, "new")?,
            back: to(column, "old")?,
            to_old: to(&subject.names.old, "old")?,
        })
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = twin_steps(&self.twin, "incoming", settings);
        steps.push(StepDraft {
            id: "incoming_switch".into(),
            phase: Phase::Cutover,
            work: self.switch(&self.twin, settings),
            hazards: Vec::new(),
            undo: Undo::Work(self.move_to(&self.back, settings)),
            estimate: Estimate::INSTANT,
        });
        steps
    }

    /// The old key goes and the new one gets its name.
    fn switch(&self, to: &NewConstraint, settings: &Settings) -> Work {
        let mut statements = vec![drop(&self.from, &self.name)];
        statements.extend(take_name(&self.from, &to.name, &self.name, &self.before));
        let mut locks = vec![Lock::new(&self.table, LockMode::AccessExclusive)];
        if self.from != self.table {
            locks.push(Lock::new(&self.from, LockMode::AccessExclusive));
        }
        brief(
            settings,
            format!(
                "let {} of {} refer to {}",
                ident(&self.name),
                self.from,
                to.constraint
                    .definition
                    .split(" REFERENCES ")
                    .nth(1)
                    .unwrap_or_default()
            ),
            statements,
            locks,
            vec![Expectation::ConstraintAbsent {
                table: self.from.clone(),
                name: to.name.clone(),
            }],
        )
    }

    fn move_to(&self, to: &NewConstraint, settings: &Settings) -> Vec<Work> {
        let mut works = to.works(settings);
        works.push(self.switch(to, settings));
        works
    }

    pub fn to_old(&self, settings: &Settings) -> Vec<Work> {
        self.move_to(&self.to_old, settings)
    }
}
