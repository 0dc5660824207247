//! What hangs on a column and comes over to its shadow: built beside it before the cutover, given its name by it.
//!
//! Indexes and constraints of the new column are there, valid and enforced, before the old ones go. Foreign keys of
//! other tables move one by one ahead of the swap, so that the swap itself locks as few tables as it can.

mod attached;
mod constraints;
mod foreign_keys;
mod generated;
mod indexes;
mod labels;
mod newcomers;
mod publications;
mod sequences;
mod spelling;
mod views;

use super::shadow::Names;
use crate::catalog::model::{CatalogSnapshot, Column, ConstraintKind, Probe, ProbeOutcome, Table};
use crate::diagnostic::{Diagnostic, Span};
use crate::ops::{Context, StepDraft};
use crate::plan::{Expectation, Hazard, Lock, Settings, Work};
use crate::sql::{QualifiedName, ident};
use attached::Attached;
use constraints::CheckTwin;
pub use constraints::unproven;
use foreign_keys::{Incoming, Outgoing};
use generated::VirtualColumns;
use indexes::{IndexTwin, Timing};
use labels::Labels;
use newcomers::Newcomers;
use publications::Publications;
use sequences::{IdentityMove, Serial};
use views::Views;

/// The column whose things come over.
pub struct Subject<'a> {
    pub table_name: &'a QualifiedName,
    pub table: &'a Table,
    pub column: &'a Column,
    pub new_type: &'a str,
    pub names: &'a Names,
    pub span: Span,
}

#[derive(Debug, Clone)]
pub struct Carry {
    indexes: Vec<IndexTwin>,
    checks: Vec<CheckTwin>,
    outgoing: Vec<Outgoing>,
    incoming: Vec<Incoming>,
    serials: Vec<Serial>,
    identity: Option<IdentityMove>,
    attached: Attached,
    views: Views,
    newcomers: Newcomers,
    publications: Publications,
    generated: VirtualColumns,
    labels: Labels,
}

/// The server's own spelling of what hangs on the column, under its three names.
pub struct Printed<'a> {
    /// In terms of the name that the column has after the cutover.
    pub as_old: Option<&'a ProbeOutcome>,
    /// As it will be: retyped.
    pub retyped: Option<&'a ProbeOutcome>,
    /// Retyped, in terms of the name that the new column has before the cutover.
    pub as_shadow: Option<&'a ProbeOutcome>,
}

/// Questions whose answers spell expressions; the column is called as before when they have been asked.
pub struct Questions {
    /// Asked before the column of the clone gets its new type.
    pub before: Vec<Probe>,
    /// Asked after it.
    pub retyped: Vec<Probe>,
    pub as_old: Probe,
    pub as_shadow: Probe,
    /// Gives the column its name back.
    pub after: Probe,
}

impl Questions {
    pub fn new(table_name: &QualifiedName, table: Option<&Table>, column: &str, names: &Names) -> Self {
        let alter = |after| Self::alter(table_name, after);
        let rename = |from: &str, to: &str| alter(format!(" RENAME COLUMN {} TO {}", ident(from), ident(to)));
        let mut before = Vec::new();
        let mut retyped = Vec::new();
        if let Some(table) = table {
            before.extend(indexes::probes(table_name, table, column));
            before.extend(publications::probes(table_name, table));
            let labelled = table.column(column).into_iter();
            before.extend(labelled.flat_map(|column| labels::probes(table_name, column)));
            let checks = table.constraints.iter().filter(|(_, constraint)| {
                constraint.kind == ConstraintKind::Check && constraint.columns.iter().any(|it| it == column)
            });
            before.extend(checks.map(|(name, constraint)| {
                alter(format!(
                    " ADD CONSTRAINT {} {}",
                    ident(name),
                    constraint.definition
                ))
            }));
        }
        let as_old = rename(column, &names.old);
        before.push(as_old.clone());
        before.push(rename(&names.old, column));
        if let Some(table) = table {
            before.extend(generated::probes_before(table_name, table, column));
            retyped.extend(generated::probes_after(table_name, table, column));
        }
        Self {
            before,
            retyped,
            as_old,
            as_shadow: rename(column, &names.shadow),
            after: rename(&names.shadow, column),
        }
    }

    fn alter(table: &QualifiedName, after: String) -> Probe {
        Probe {
            table: table.clone(),
            before: "ALTER TABLE ".into(),
            after,
        }
    }

    fn answers<'a>(&self, context: &Context<'a>, retyped: Option<&'a ProbeOutcome>) -> Printed<'a> {
        let answer = |probe| context.answer(probe).and_then(Result::ok);
        Printed {
            as_old: answer(&self.as_old),
            retyped,
            as_shadow: answer(&self.as_shadow),
        }
    }
}

impl Carry {
    /// # Errors
    /// What cannot come over, by name.
    pub fn plan(
        context: &Context<'_>,
        subject: &Subject<'_>,
        retyped: Option<&ProbeOutcome>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let questions = Questions::new(subject.table_name, None, &subject.column.name, subject.names);
        let printed = questions.answers(context, retyped);
        let mut complaints = Vec::new();
        let views = Views::of(context, subject, &mut complaints);
        let attached = Attached::of(context.catalog, subject, &views, &mut complaints);
        let newcomers = Newcomers::of(context.now, subject, &views, &attached);
        let carry = Self {
            indexes: IndexTwin::all(context, subject, &printed, &mut complaints),
            checks: CheckTwin::all(context, subject, &printed, &mut complaints),
            outgoing: Outgoing::all(context, subject, &mut complaints),
            incoming: Incoming::all(context, subject, &mut complaints),
            serials: Serial::all(context.catalog, subject),
            identity: IdentityMove::of(context.catalog, subject, &mut complaints),
            attached,
            views,
            newcomers,
            publications: Publications::of(context, subject, &printed, &mut complaints),
            generated: VirtualColumns::of(context, subject, &mut complaints),
            labels: Labels::of(context, subject, &mut complaints),
        };
        if complaints.is_empty() {
            Ok(carry)
        } else {
            Err(complaints)
        }
    }

    /// Keys of the new column that must be there before anything fills it.
    pub fn ahead(&self, settings: &Settings) -> Vec<StepDraft> {
        self.built(Timing::Ahead, |twin| twin.steps_ahead(settings))
    }

    /// Indexes of the new column, once it is filled.
    pub fn builds(&self, settings: &Settings) -> Vec<StepDraft> {
        self.built(Timing::WhenFilled, |twin| twin.steps(settings))
    }

    /// What must not be there longer than it takes to swap the columns.
    pub fn last(&self, settings: &Settings) -> Vec<StepDraft> {
        self.built(Timing::Last, |twin| twin.steps_last(settings))
    }

    fn built(&self, timing: Timing, steps: impl Fn(&IndexTwin) -> Vec<StepDraft>) -> Vec<StepDraft> {
        let twins = self.indexes.iter().filter(|twin| twin.timing() == timing);
        let mut steps: Vec<StepDraft> = twins.flat_map(steps).collect();
        number(&mut steps);
        steps
    }

    /// Whether there are statistics that only an ANALYZE after the builds gathers.
    pub fn has_expressions(&self) -> bool {
        self.indexes.iter().any(IndexTwin::has_expressions)
    }

    /// Whether there are statistics that only an ANALYZE after the cutover gathers.
    pub fn has_statistics(&self) -> bool {
        self.attached.has_statistics()
    }

    /// Constraints and materialized views of the new column, and the foreign keys that move to it ahead of the cutover.
    pub fn constraints(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = Vec::new();
        steps.extend(self.checks.iter().flat_map(|twin| twin.steps(settings)));
        steps.extend(self.outgoing.iter().flat_map(|twin| twin.steps(settings)));
        steps.extend(self.incoming.iter().flat_map(|twin| twin.steps(settings)));
        steps.extend(self.views.steps(settings));
        number(&mut steps);
        steps
    }

    /// Tables that the swap locks beside the column's own.
    pub fn locks(&self) -> Vec<Lock> {
        let mut locks: Vec<Lock> = Vec::new();
        for lock in self.outgoing.iter().filter_map(Outgoing::lock) {
            if !locks.contains(&lock) {
                locks.push(lock);
            }
        }
        locks
    }

    /// What lets go of either column before the table is locked.
    pub fn leave_first(&self, forwards: bool) -> Vec<String> {
        self.views.leave(forwards)
    }

    /// How often the swap waits: for views, then for the table behind them.
    pub fn waits(&self) -> u64 {
        self.views.waits()
    }

    /// What people may notice at the swap because of what is carried.
    pub fn hazards(&self) -> Vec<Hazard> {
        let mut hazards = self.views.hazards();
        hazards.extend(self.publications.hazard());
        hazards.extend(self.generated.hazard());
        hazards
    }

    /// What people may notice as soon as there is a second column.
    pub fn hazard_of_adding(&self) -> Option<Hazard> {
        self.publications.hazard_of_adding()
    }

    pub fn hazard_of_filling(&self) -> Option<Hazard> {
        self.publications.hazard_of_filling()
    }

    /// What keeps the second column from being seen elsewhere.
    pub fn hide(&self) -> Vec<String> {
        self.publications.narrow()
    }

    /// …once there is only one again.
    pub fn reveal(&self) -> Vec<String> {
        self.publications.widen()
    }

    /// Before the columns change names, forwards: what must let go of the old one.
    pub fn leave(&self) -> Vec<String> {
        let mut statements: Vec<String> = self.publications.leave().collect();
        statements.push(self.newcomers.refuse());
        statements.extend(self.attached.unchanged());
        statements.extend(self.attached.leave());
        statements.extend(self.identity.iter().flat_map(IdentityMove::leave));
        statements.extend(self.outgoing.iter().map(Outgoing::drop));
        statements.extend(self.checks.iter().map(CheckTwin::drop));
        statements.extend(self.indexes.iter().flat_map(IndexTwin::leave));
        statements
    }

    /// After the columns have changed names, forwards.
    pub fn arrive(&self) -> Vec<String> {
        let mut statements = Vec::new();
        statements.extend(self.indexes.iter().flat_map(IndexTwin::arrive));
        statements.extend(self.checks.iter().flat_map(CheckTwin::arrive));
        statements.extend(self.outgoing.iter().flat_map(Outgoing::arrive));
        statements.extend(self.serials.iter().flat_map(|serial| serial.arrive(true)));
        statements.extend(self.identity.iter().flat_map(|it| it.arrive(true)));
        statements.extend(self.attached.arrive());
        statements.extend(self.generated.arrive());
        statements.extend(self.publications.arrive());
        statements.extend(self.labels.arrive());
        statements.extend(self.views.arrive(true));
        statements
    }

    /// What a rollback asks before it begins.
    pub fn fits(&self, settings: &Settings) -> Vec<Work> {
        let serials = self.serials.iter().filter_map(|serial| serial.fits(settings));
        let identity = self.identity.iter().filter_map(|it| it.fits(settings));
        serials.chain(identity).collect()
    }

    /// What a rollback builds before it swaps the columns back.
    pub fn before_back(&self, settings: &Settings) -> Vec<Work> {
        let mut works = Vec::new();
        works.extend(self.indexes.iter().flat_map(|twin| twin.rebuild(settings)));
        works.extend(self.incoming.iter().flat_map(|twin| twin.to_old(settings)));
        works.extend(self.views.before_back(settings));
        works
    }

    pub fn leave_back(&self) -> Vec<String> {
        let mut statements: Vec<String> = self.publications.leave().collect();
        statements.push(self.newcomers.refuse());
        statements.extend(self.attached.leave());
        statements.extend(self.identity.iter().flat_map(IdentityMove::leave));
        statements.extend(self.outgoing.iter().map(Outgoing::drop));
        statements.extend(self.checks.iter().map(CheckTwin::drop));
        statements.extend(self.indexes.iter().flat_map(IndexTwin::leave_back));
        statements
    }

    pub fn arrive_back(&self) -> Vec<String> {
        let mut statements = Vec::new();
        statements.extend(self.indexes.iter().flat_map(IndexTwin::arrive_back));
        statements.extend(self.checks.iter().flat_map(CheckTwin::arrive_back));
        statements.extend(self.outgoing.iter().flat_map(Outgoing::arrive_back));
        statements.extend(self.serials.iter().flat_map(|serial| serial.arrive(false)));
        statements.extend(self.identity.iter().flat_map(|it| it.arrive(false)));
        statements.extend(self.attached.arrive());
        statements.extend(self.generated.arrive());
        statements.extend(self.publications.arrive());
        statements.extend(self.views.arrive(false));
        statements
    }

    /// What a rollback proves again after it swapped the columns back.
    pub fn after_back(&self, settings: &Settings) -> Vec<Work> {
        let mut works = Vec::new();
        works.extend(self.checks.iter().filter_map(|twin| twin.prove_again(settings)));
        works.extend(self.outgoing.iter().filter_map(|twin| twin.prove_again(settings)));
        works
    }

    /// What the swap brings about beside the columns.
    pub fn expect(&self) -> Vec<Expectation> {
        let mut expect = Vec::new();
        expect.extend(self.indexes.iter().flat_map(IndexTwin::expect));
        expect.extend(self.checks.iter().map(CheckTwin::expect));
        expect.extend(self.outgoing.iter().map(Outgoing::expect));
        expect.extend(self.views.expect());
        expect
    }

    /// Old views, and old indexes that would make the drop of the old column hold its lock longer.
    pub fn contract(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps: Vec<StepDraft> = self.views.contract(settings).into_iter().collect();
        steps.extend(self.indexes.iter().filter_map(|twin| twin.drop_old(settings)));
        number(&mut steps);
        steps
    }

    pub fn apply(&self, table_name: &QualifiedName, column: &str, catalog: &mut CatalogSnapshot) {
        if let Some(table) = catalog.tables.get_mut(table_name) {
            attached::reorder_statistics(table, column);
            self.publications.apply(table);
            self.generated.apply(table);
            for twin in &self.indexes {
                twin.apply(table);
            }
            for twin in &self.checks {
                twin.apply(table);
            }
        }
        for serial in &self.serials {
            serial.apply(catalog);
        }
        if let Some(identity) = &self.identity {
            identity.apply(catalog);
        }
    }
}

/// Takes the texts of checks and index expressions from a clone of the table whose column has its new type.
pub fn respell(table: &mut Table, retyped: &Table) {
    let checks = table
        .constraints
        .iter_mut()
        .filter(|(_, it)| it.kind == ConstraintKind::Check);
    for (name, constraint) in checks {
        if let Some(spelled) = retyped.constraints.get(name) {
            constraint.definition.clone_from(&spelled.definition);
        }
    }
    for (name, index) in &mut table.indexes {
        if let Some(spelled) = retyped.indexes.get(name) {
            index.keys.clone_from(&spelled.keys);
            index.predicate.clone_from(&spelled.predicate);
        }
    }
}

/// Tells apart steps of the same word: `index`, `index-2`….
fn number(steps: &mut [StepDraft]) {
    for position in 1..steps.len() {
        let word = steps[position].id.clone();
        let before = steps[..position].iter().filter(|step| {
            step.id == word
                || step
                    .id
                    .strip_prefix(&word)
                    .is_some_and(|rest| rest.starts_with('-'))
        });
        let count = before.count();
        if count > 0 {
            steps[position].id = format!("{word}-{}", count + 1);
        }
    }
}
