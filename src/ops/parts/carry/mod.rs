//! What hangs on a column and comes over to its shadow: built beside it before the cutover, given its name by it.
//!
//! Indexes and constraints of the new column are there, valid and enforced, before the old ones go. Foreign keys of
//! other tables move one by one ahead of the swap, so that the swap itself locks as few tables as it can.

mod attached;
pub(super) mod constraints;
mod dressed;
mod foreign_keys;
mod generated;
mod index_tree;
mod indexes;
mod key_tree;
mod labels;
mod newcomers;
mod publications;
mod sequences;
mod spelling;
pub mod views;

use super::shadow::{Move, Moves, Names};
use crate::catalog::model::{
    CatalogSnapshot, Column, Constraint, ConstraintKind, Probe, ProbeOutcome, Table, TableKind,
};
use crate::diagnostic::{Diagnostic, Span};
use crate::ops::{Context, StepDraft};
use crate::plan::{Expectation, Hazard, Lock, Settings, Work};
use crate::sql::{QualifiedName, ident};
use attached::Attached;
use constraints::CheckTwin;
pub use constraints::unproven;
use foreign_keys::{Incoming, Outgoing};
use generated::VirtualColumns;
use index_tree::IndexTree;
use indexes::{IndexTwin, Timing};
use key_tree::{KeyTree, Late};
use labels::Labels;
use newcomers::Newcomers;
use publications::Publications;
use sequences::{IdentityMove, Serial};
pub use views::Views;

/// The column whose things come over.
pub struct Subject<'a> {
    pub table_name: &'a QualifiedName,
    pub table: &'a Table,
    pub column: &'a Column,
    pub new_type: &'a str,
    /// The columns that move with it, itself among them.
    pub moves: &'a Moves,
    pub span: Span,
    /// Whether the column comes from a table above, whose things reach this one.
    pub below: bool,
}

impl Subject<'_> {
    /// Whether what mentions these columns is carried with this one.
    fn leads(&self, mentions: impl Fn(&str) -> bool) -> bool {
        let column = &self.column.name;
        mentions(column) && self.moves.leads(self.table_name, column, mentions)
    }

    /// The columns of its table that move, among these.
    fn moved(&self, mentions: impl Fn(&str) -> bool) -> Vec<Move> {
        let moved = self.moves.of_table(self.table_name);
        moved.filter(|it| mentions(&it.column)).cloned().collect()
    }
}

#[derive(Debug, Clone)]
pub struct Carry {
    table: QualifiedName,
    indexes: Vec<IndexTwin>,
    index_trees: Vec<IndexTree>,
    key_trees: Vec<KeyTree>,
    late: Vec<Late>,
    checks: Vec<CheckTwin>,
    outgoing: Vec<Outgoing>,
    incoming: Vec<Incoming>,
    serials: Vec<Serial>,
    identity: Option<IdentityMove>,
    attached: Attached,
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

/// Questions about a table whose answers spell expressions; its columns are called as before when they have been asked.
pub struct Questions {
    /// Asked before the columns of the clone get their new type.
    pub before: Vec<Probe>,
    /// Asked after it.
    pub retyped: Vec<Probe>,
    /// The last one has the answer, as of the next.
    as_old: Vec<Probe>,
    pub as_shadow: Vec<Probe>,
    /// Gives the columns their names back.
    pub after: Vec<Probe>,
}

impl Questions {
    pub fn new(table_name: &QualifiedName, table: Option<&Table>, moves: &Moves) -> Self {
        let alter = |after| Self::alter(table_name, after);
        let rename = |from: &str, to: &str| alter(format!(" RENAME COLUMN {} TO {}", ident(from), ident(to)));
        let to = |name: fn(&Names) -> &str| -> Vec<Probe> {
            let moved = moves.of_table(table_name);
            moved.map(|it| rename(&it.column, name(&it.names))).collect()
        };
        let from = |name: fn(&Names) -> &str| -> Vec<Probe> {
            let moved = moves.of_table(table_name);
            moved.map(|it| rename(name(&it.names), &it.column)).collect()
        };
        let mut before = Vec::new();
        let mut retyped = Vec::new();
        if let Some(table) = table {
            before.extend(indexes::probes(table_name, table, moves));
            before.extend(publications::probes(table_name, table));
            let moved = moves.of_table(table_name);
            let labelled = moved.filter_map(|it| table.column(&it.column));
            before.extend(labelled.flat_map(|column| labels::probes(table_name, column)));
            before.extend(checks_on(table_name, table, moves).map(|(name, constraint)| {
                alter(format!(
                    " ADD CONSTRAINT {} {}",
                    ident(name),
                    constraint.definition
                ))
            }));
        }
        let as_old = to(Names::old);
        before.extend_from_slice(&as_old);
        before.extend(from(Names::old));
        if let Some(table) = table {
            for it in moves.of_table(table_name) {
                before.extend(generated::probes_before(table_name, table, &it.column));
                retyped.extend(generated::probes_after(table_name, table, &it.column));
            }
        }
        Self {
            before,
            retyped,
            as_old,
            as_shadow: to(Names::shadow),
            after: from(Names::shadow),
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
        let answer = |probes: &[Probe]| context.answer(probes.last()?).and_then(Result::ok);
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
        views: &Views,
    ) -> Result<Self, Vec<Diagnostic>> {
        let questions = Questions::new(subject.table_name, None, subject.moves);
        let printed = questions.answers(context, retyped);
        let mut complaints = Vec::new();
        let attached = Attached::of(context.catalog, subject, views, &mut complaints);
        let (mut outgoing, mut incoming) = (Vec::new(), Vec::new());
        let (mut key_trees, mut late) = (Vec::new(), Vec::new());
        if subject.table.kind == TableKind::Partitioned {
            key_trees = KeyTree::all(context, subject, &mut complaints);
            late = Late::all(context, subject, &mut complaints);
        } else {
            outgoing = Outgoing::all(context, subject, &mut complaints);
            incoming = Incoming::all(context, subject, &mut complaints);
        }
        let identity = (!subject.below)
            .then(|| IdentityMove::of(context.catalog, subject, &mut complaints))
            .flatten();
        let dropped = late.iter().map(Late::address);
        let newcomers = Newcomers::of(context.now, subject, views, &attached, dropped);
        let carry = Self {
            table: subject.table_name.clone(),
            indexes: IndexTwin::all(context, subject, &printed, &mut complaints),
            index_trees: IndexTree::all(context, subject, &printed, &mut complaints),
            key_trees,
            late,
            checks: CheckTwin::all(context, subject, &printed, &mut complaints),
            outgoing,
            incoming,
            serials: Serial::all(context.catalog, subject),
            identity,
            attached,
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

    /// What has to be there as soon as the new column is.
    pub fn beside(&self) -> Vec<String> {
        self.index_trees.iter().flat_map(IndexTree::beside).collect()
    }

    /// Indexes of the new column, once it is filled.
    pub fn builds(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = self.built(Timing::WhenFilled, |twin| twin.steps(settings));
        steps.extend(self.index_trees.iter().flat_map(|tree| tree.steps(settings)));
        steps
    }

    /// What must not be there longer than it takes to swap the columns.
    pub fn last(&self, settings: &Settings) -> Vec<StepDraft> {
        self.built(Timing::Last, |twin| twin.steps_last(settings))
    }

    fn built(&self, timing: Timing, steps: impl Fn(&IndexTwin) -> Vec<StepDraft>) -> Vec<StepDraft> {
        let twins = self.indexes.iter().filter(|twin| twin.timing() == timing);
        twins.flat_map(steps).collect()
    }

    /// Whether there are statistics that only an ANALYZE after the builds gathers.
    pub fn has_expressions(&self) -> bool {
        self.indexes.iter().any(IndexTwin::has_expressions)
            || self.index_trees.iter().any(IndexTree::has_expressions)
    }

    /// Whether the cutover would read the rows of a partition that nobody knew of.
    pub fn looks_at_newcomers(&self) -> bool {
        self.index_trees.iter().any(IndexTree::looks_at_newcomers) || !self.key_trees.is_empty()
    }

    /// Whether there are statistics that only an ANALYZE after the cutover gathers.
    pub fn has_statistics(&self) -> bool {
        self.attached.has_statistics()
    }

    /// Constraints of the new column, and the foreign keys that move to it ahead of the cutover.
    pub fn constraints(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = Vec::new();
        steps.extend(self.checks.iter().flat_map(|twin| twin.steps(settings)));
        steps.extend(self.outgoing.iter().flat_map(|twin| twin.steps(settings)));
        steps.extend(self.key_trees.iter().flat_map(|tree| tree.steps(settings)));
        steps.extend(self.incoming.iter().flat_map(|twin| twin.steps(settings)));
        steps
    }

    /// Foreign keys that move while the tables are locked.
    pub fn keys_within_swap(&self) -> u64 {
        u64::try_from(self.late.len()).unwrap_or(u64::MAX)
    }

    /// What is proven once the columns have been swapped.
    pub fn proofs(&self, settings: &Settings) -> Vec<StepDraft> {
        self.late.iter().filter_map(|late| late.step(settings)).collect()
    }

    /// Tables that the swap locks beside the column's own.
    pub fn locks(&self) -> Vec<Lock> {
        let mut locks: Vec<Lock> = Vec::new();
        let referenced = self.outgoing.iter().filter_map(Outgoing::lock);
        let referenced = referenced.chain(self.key_trees.iter().filter_map(KeyTree::lock));
        for lock in referenced.chain(self.late.iter().map(Late::lock)) {
            if !locks.contains(&lock) {
                locks.push(lock);
            }
        }
        locks
    }

    /// Foreign keys that begin and end in columns that move, before any of these is let go.
    pub fn leave_links(&self) -> Vec<String> {
        let links = self.outgoing.iter().filter(|it| it.is_link());
        links.map(Outgoing::drop).collect()
    }

    /// As [`Self::leave_links`]: back, once all columns have their keys again.
    pub fn arrive_back_links(&self) -> Vec<String> {
        let links = self.outgoing.iter().filter(|it| it.is_link());
        links.flat_map(Outgoing::arrive_back).collect()
    }

    fn outgoing(&self) -> impl Iterator<Item = &Outgoing> {
        self.outgoing.iter().filter(|it| !it.is_link())
    }

    /// What people may notice at the swap because of what is carried.
    pub fn hazards(&self) -> Vec<Hazard> {
        let mut hazards: Vec<Hazard> = self.publications.hazard().into_iter().collect();
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
        statements.extend(self.drop_keys());
        statements.extend(self.checks.iter().flat_map(CheckTwin::drop));
        statements.extend(self.indexes.iter().flat_map(IndexTwin::leave));
        statements.extend(self.index_trees.iter().flat_map(IndexTree::leave));
        statements
    }

    fn drop_keys(&self) -> Vec<String> {
        let mut statements: Vec<String> = self.late.iter().map(Late::drop).collect();
        statements.extend(self.outgoing().map(Outgoing::drop));
        statements.extend(self.key_trees.iter().filter_map(KeyTree::drop));
        statements
    }

    /// After the columns have changed names, forwards.
    pub fn arrive(&self) -> Vec<String> {
        let mut statements = Vec::new();
        statements.extend(self.indexes.iter().flat_map(IndexTwin::arrive));
        statements.extend(self.index_trees.iter().flat_map(IndexTree::arrive));
        statements.extend(self.checks.iter().flat_map(CheckTwin::arrive));
        statements.extend(self.outgoing.iter().flat_map(Outgoing::arrive));
        statements.extend(self.key_trees.iter().flat_map(KeyTree::arrive));
        statements.extend(self.late.iter().flat_map(Late::arrive));
        statements.extend(self.serials.iter().flat_map(|serial| serial.arrive(true)));
        statements.extend(self.identity.iter().flat_map(|it| it.arrive(true)));
        statements.extend(self.attached.arrive());
        statements.extend(self.generated.arrive());
        statements.extend(self.publications.arrive());
        statements.extend(self.labels.arrive());
        statements
    }

    /// What a rollback asks before it begins.
    pub fn fits(&self, settings: &Settings) -> Vec<Work> {
        let serials = self.serials.iter().filter_map(|serial| serial.fits(settings));
        let identity = self.identity.iter().filter_map(|it| it.fits(settings));
        serials.chain(identity).collect()
    }

    /// Indexes that a rollback builds before it swaps the columns back.
    pub fn rebuild(&self, settings: &Settings) -> Vec<Work> {
        let twins = self.indexes.iter();
        let mut works: Vec<Work> = twins.flat_map(|twin| twin.rebuild(settings)).collect();
        works.extend(self.index_trees.iter().flat_map(|tree| tree.rebuild(settings)));
        works
    }

    /// Foreign keys that move to the old column before that.
    pub fn incoming_back(&self, settings: &Settings) -> Vec<Work> {
        let twins = self.incoming.iter();
        twins.flat_map(|twin| twin.to_old(settings)).collect()
    }

    pub fn leave_back(&self) -> Vec<String> {
        let mut statements: Vec<String> = self.publications.leave().collect();
        statements.push(self.newcomers.refuse());
        statements.extend(self.attached.leave());
        statements.extend(self.identity.iter().flat_map(IdentityMove::leave));
        statements.extend(self.drop_keys());
        statements.extend(self.checks.iter().flat_map(CheckTwin::drop));
        statements.extend(self.indexes.iter().flat_map(IndexTwin::leave_back));
        statements.extend(self.index_trees.iter().flat_map(IndexTree::leave_back));
        statements
    }

    pub fn arrive_back(&self) -> Vec<String> {
        let mut statements = Vec::new();
        statements.extend(self.indexes.iter().flat_map(IndexTwin::arrive_back));
        statements.extend(self.index_trees.iter().flat_map(IndexTree::arrive_back));
        statements.extend(self.checks.iter().flat_map(CheckTwin::arrive_back));
        statements.extend(self.outgoing().flat_map(Outgoing::arrive_back));
        statements.extend(self.key_trees.iter().flat_map(KeyTree::arrive_back));
        statements.extend(self.late.iter().flat_map(Late::arrive));
        statements.extend(self.serials.iter().flat_map(|serial| serial.arrive(false)));
        statements.extend(self.identity.iter().flat_map(|it| it.arrive(false)));
        statements.extend(self.attached.arrive());
        statements.extend(self.generated.arrive());
        statements.extend(self.publications.arrive());
        statements
    }

    /// What a rollback proves again after it swapped the columns back.
    pub fn after_back(&self, settings: &Settings) -> Vec<Work> {
        let mut works = Vec::new();
        works.extend(self.checks.iter().filter_map(|twin| twin.prove_again(settings)));
        works.extend(self.outgoing.iter().filter_map(|twin| twin.prove_again(settings)));
        works.extend(self.key_trees.iter().flat_map(|tree| tree.after_back(settings)));
        works.extend(self.late.iter().filter_map(|late| late.prove(settings)));
        works
    }

    /// What the swap brings about beside the columns.
    pub fn expect(&self) -> Vec<Expectation> {
        let mut expect = Vec::new();
        expect.extend(self.indexes.iter().flat_map(IndexTwin::expect));
        expect.extend(self.index_trees.iter().flat_map(IndexTree::expect));
        expect.extend(self.key_trees.iter().flat_map(KeyTree::expect));
        expect.extend(self.checks.iter().map(CheckTwin::expect));
        expect.extend(self.outgoing.iter().map(Outgoing::expect));
        expect
    }

    /// Old indexes that would make the drop of the old column hold its lock longer.
    pub fn contract(&self, settings: &Settings) -> Vec<StepDraft> {
        let twins = self.indexes.iter();
        twins.filter_map(|twin| twin.drop_old(settings)).collect()
    }

    pub fn apply(&self, column: &str, catalog: &mut CatalogSnapshot) {
        if let Some(table) = catalog.tables.get_mut(&self.table) {
            attached::reorder_statistics(table, column);
            self.publications.apply(table);
            self.generated.apply(table);
            for twin in &self.indexes {
                twin.apply(table);
            }
        }
        for twin in &self.checks {
            twin.apply(catalog);
        }
        for tree in &self.index_trees {
            tree.apply(catalog);
        }
        for serial in &self.serials {
            serial.apply(catalog);
        }
        if let Some(identity) = &self.identity {
            identity.apply(catalog);
        }
    }
}

fn checks_on<'a>(
    table_name: &'a QualifiedName,
    table: &'a Table,
    moves: &'a Moves,
) -> impl Iterator<Item = (&'a String, &'a Constraint)> {
    table.constraints.iter().filter(move |(_, constraint)| {
        constraint.kind == ConstraintKind::Check && moves.touch(table_name, &constraint.columns)
    })
}

/// The table without what it has from above.
pub fn own(catalog: &CatalogSnapshot, table: &Table) -> Table {
    let mut own = table.clone();
    own.indexes.retain(|_, index| index.parent.is_none());
    own.constraints
        .retain(|name, it| !constraints::comes_from_above(catalog, table, name, it));
    own
}

/// Whether something hangs on the column that only the server can spell.
pub fn needs_spelling(table_name: &QualifiedName, table: &Table, moves: &Moves) -> bool {
    checks_on(table_name, table, moves).next().is_some()
        || !indexes::probes(table_name, table, moves).is_empty()
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
pub fn number(steps: &mut [StepDraft]) {
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
