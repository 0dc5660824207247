//! Indexes that mention the column, those of keys among them.

use super::dressed::Dressed;
use super::{Printed, Subject};
use crate::catalog::model::{
    Constraint, ConstraintKind, Index, Probe, ProbeOutcome, ReplicaIdentity, Table, TableKind,
};
use crate::diagnostic::Diagnostic;
use crate::ops::parts::index_build::{Build, drop_concurrently, free_index_name};
use crate::ops::parts::shadow::{Move, Moves, Names};
use crate::ops::parts::{brief, index, shadow};
use crate::ops::{Context, StepDraft};
use crate::plan::{Estimate, Expectation, Hazard, Lock, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{QualifiedName, ident};

/// An index of the old column and the one of the new column that takes its place.
#[derive(Debug, Clone)]
pub struct IndexTwin {
    table: QualifiedName,
    name: String,
    before: Index,
    after: Index,
    build: Build,
    /// The columns in it that move.
    moved: Vec<Move>,
    /// What a rollback builds; `None` when the old index stays until contract.
    rebuild: Option<Build>,
    constraint: Option<Constraint>,
    replica_identity: bool,
}

/// When an index of the new column is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// Before anything fills the column.
    Ahead,
    WhenFilled,
    /// Right before the swap.
    Last,
}

/// Without expressions, which only the server can spell for another column.
pub(super) fn plain(index: &Index) -> bool {
    let keys = index.keys.iter();
    index.method == "btree"
        && index.predicate.is_none()
        && keys
            .into_iter()
            .all(|key| key.column.is_some() && key.opclass.is_none() && key.collation.is_none())
}

/// Puts the indexes that need the server's spelling on the clone; not unique, for only the text is wanted.
pub fn probes(table_name: &QualifiedName, table: &Table, moves: &Moves) -> Vec<Probe> {
    let wanted = table.indexes.iter().filter(|(_, it)| {
        moves
            .of_table(table_name)
            .any(|column| it.mentions(&column.column))
            && !plain(it)
    });
    wanted
        .map(|(name, it)| {
            let bare = Index {
                unique: false,
                nulls_not_distinct: false,
                tablespace: None,
                ..it.clone()
            };
            index::definition_probe(table_name, name, &bare)
        })
        .collect()
}

/// The definition under which the index is built beside the one that it replaces.
pub(super) fn twin_of(index: &Index) -> Index {
    Index {
        valid: true,
        replica_identity: false,
        clustered: false,
        constraint: None,
        comment: None,
        statistics_targets: Vec::new(),
        ..index.clone()
    }
}

pub(super) fn renamed(index: &Index, moved: &[Move], to: fn(&Names) -> &str) -> Index {
    let mut twin = twin_of(index);
    let replace = |name: &mut String| {
        if let Some(it) = moved.iter().find(|it| it.column == *name) {
            to(&it.names).clone_into(name);
        }
    };
    twin.keys
        .iter_mut()
        .filter_map(|key| key.column.as_mut())
        .for_each(replace);
    twin.include.iter_mut().for_each(replace);
    twin.expression_columns.iter_mut().for_each(replace);
    twin
}

/// The texts of the answer in the frame of the definition.
pub(super) fn spelled(index: &Index, outcome: Option<&ProbeOutcome>, name: &str) -> Option<Index> {
    let printed = outcome?.table.indexes.get(name)?;
    Some(Index {
        keys: printed.keys.clone(),
        include: printed.include.clone(),
        predicate: printed.predicate.clone(),
        expression_columns: printed.expression_columns.clone(),
        ..index.clone()
    })
}

impl IndexTwin {
    pub fn all(
        context: &Context<'_>,
        subject: &Subject<'_>,
        printed: &Printed<'_>,
        complaints: &mut Vec<Diagnostic>,
    ) -> Vec<Self> {
        let table = subject.table;
        if table.kind == TableKind::Partitioned {
            return Vec::new();
        }
        let hanging = table
            .indexes
            .iter()
            .filter(|(_, it)| it.parent.is_none() && subject.leads(|column| it.mentions(column)));
        let mut found = Vec::new();
        for (name, index) in hanging {
            match Self::of(context, subject, printed, name, index) {
                Ok(twin) => found.push(twin),
                Err(complaint) => complaints.push(complaint),
            }
        }
        found
    }

    fn of(
        context: &Context<'_>,
        subject: &Subject<'_>,
        printed: &Printed<'_>,
        name: &str,
        index: &Index,
    ) -> Result<Self, Diagnostic> {
        let (table_name, table) = (subject.table_name, subject.table);
        let refuse = |why: &str| {
            let message = format!("a shadow column cannot carry index {}: {why}", ident(name));
            Diagnostic::new("cannot_widen_yet", message).at(subject.span)
        };
        if !index.valid {
            return Err(refuse("it is INVALID").help(format!(
                "DROP INDEX CONCURRENTLY {}; then plan again",
                table_name.sibling(name)
            )));
        }
        let constraint = index
            .constraint
            .as_ref()
            .and_then(|name| table.constraints.get(name));
        let deferrable = constraint.is_some_and(|it| it.deferrable);
        let is_primary = constraint.is_some_and(|it| it.kind == ConstraintKind::PrimaryKey);
        if deferrable && index.nulls_not_distinct {
            return Err(refuse(
                "its constraint is deferrable and takes nulls for equal, which the new column is full of at first",
            ));
        }
        let moved = subject.moved(|column| index.mentions(column));
        let (on_shadow, on_old, after) = if plain(index) {
            (
                renamed(index, &moved, Names::shadow),
                renamed(index, &moved, Names::old),
                index.clone(),
            )
        } else {
            let base = twin_of(index);
            let spelling = || refuse("the server could not be asked to spell its expressions");
            (
                spelled(&base, printed.as_shadow, name).ok_or_else(spelling)?,
                spelled(&base, printed.as_old, name).ok_or_else(spelling)?,
                spelled(index, printed.retyped, name).ok_or_else(spelling)?,
            )
        };
        for kind in ["new", "old"] {
            free_index_name(
                context,
                &table_name.sibling(shadow::name(name, kind)),
                subject.span,
            )?;
        }
        // The old column goes on as far as its type reaches and is null from there on. An index that might refuse
        // such rows must not stay.
        let expressions = index.keys.iter().any(|key| key.column.is_none());
        let refuses_nulls = index.unique && (index.predicate.is_some() || index.nulls_not_distinct);
        let stays = !is_primary && !expressions && !refuses_nulls;
        Ok(Self {
            table: table_name.clone(),
            name: name.to_owned(),
            before: index.clone(),
            after,
            build: Build::single(table_name, table, &shadow::name(name, "new"), on_shadow),
            moved,
            rebuild: (!stays).then(|| Build::single(table_name, table, &shadow::name(name, "old"), on_old)),
            constraint: constraint.cloned(),
            replica_identity: index.replica_identity
                || table.replica_identity == ReplicaIdentity::Index(name.to_owned()),
        })
    }

    fn twin(&self) -> String {
        shadow::name(&self.name, "new")
    }

    fn old(&self) -> String {
        shadow::name(&self.name, "old")
    }

    fn kind(&self) -> Option<&'static str> {
        self.constraint.as_ref().map(|constraint| match constraint.kind {
            ConstraintKind::PrimaryKey => "PRIMARY KEY",
            _ => "UNIQUE",
        })
    }

    /// When the index of the new column is built.
    pub fn timing(&self) -> Timing {
        let deferrable = self.constraint.as_ref().filter(|it| it.deferrable);
        match deferrable.map(|it| it.kind) {
            None => Timing::WhenFilled,
            Some(ConstraintKind::PrimaryKey) => Timing::Last,
            Some(_) => Timing::Ahead,
        }
    }

    /// What is said of a key that can wait for the end of a statement or a transaction.
    fn deferral(&self) -> &'static str {
        match self.constraint.as_ref().filter(|it| it.deferrable) {
            None => "",
            Some(constraint) if constraint.initially_deferred => " DEFERRABLE INITIALLY DEFERRED",
            Some(_) => " DEFERRABLE",
        }
    }

    /// A table has one primary key, and until the new index is that it cannot wait: it comes right before the swap, in
    /// the same phase, so that nobody pauses in between.
    pub fn steps_last(&self, settings: &Settings) -> Vec<StepDraft> {
        let moved: Vec<String> = self.moved.iter().map(|it| ident(&it.column)).collect();
        let mut steps = self.build.steps(Phase::Cutover, "", settings);
        for step in &mut steps {
            step.id = "last_index".into();
            step.hazards = vec![Hazard::new(
                "key_cannot_wait",
                format!(
                    "from here to the end of the cutover, and from the rebuild of the old index to the end of a rollback of \
                     it, writes to {} in which two rows have the same {} for a moment fail with 23505, although the \
                     primary key is deferrable",
                    self.table,
                    moved.join(", ")
                ),
            )];
        }
        steps
    }

    /// An index can wait only as that of a constraint, and until it is one nobody may write the new column: both are
    /// there before anything fills it.
    pub fn steps_ahead(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = self.build.steps(Phase::Expand, "", settings);
        for step in &mut steps {
            step.id = "waiting_index".into();
            step.hazards.clear();
        }
        let twin = ident(&self.twin());
        let deferral = self.deferral();
        let lock = || vec![Lock::new(&self.table, LockMode::AccessExclusive)];
        let add = format!("ADD CONSTRAINT {twin} UNIQUE USING INDEX {twin}{deferral}");
        let remove = format!("DROP CONSTRAINT IF EXISTS {twin}");
        steps.push(StepDraft {
            id: "waiting_key".into(),
            phase: Phase::Expand,
            work: brief(
                settings,
                format!("let {twin} of {} wait as {} does", self.table, ident(&self.name)),
                vec![self.alter(&add)],
                lock(),
                Vec::new(),
            ),
            hazards: Vec::new(),
            undo: Undo::Work(vec![brief(
                settings,
                format!("drop constraint {twin} of {}", self.table),
                vec![self.alter(&remove)],
                lock(),
                Vec::new(),
            )]),
            estimate: Estimate::INSTANT,
        });
        steps
    }

    pub fn has_expressions(&self) -> bool {
        self.before.keys.iter().any(|key| key.column.is_none())
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = self.build.steps(Phase::Backfill, "", settings);
        for step in &mut steps {
            step.id = "index".into();
            step.hazards.clear();
        }
        steps
    }

    fn alter(&self, what: &str) -> String {
        format!("ALTER TABLE {} {what}", self.table)
    }

    fn rename(&self, from: &str, to: &str) -> String {
        let (from, to) = (from.to_owned(), ident(to));
        match self.constraint {
            Some(_) => self.alter(&format!("RENAME CONSTRAINT {} TO {to}", ident(&from))),
            None => format!("ALTER INDEX {} RENAME TO {to}", self.table.sibling(from)),
        }
    }

    fn drop(&self) -> String {
        match self.constraint {
            Some(_) => self.alter(&format!("DROP CONSTRAINT {}", ident(&self.name))),
            None => format!("DROP INDEX {}", self.table.sibling(self.name.clone())),
        }
    }

    /// A column of the table's replica identity cannot be made nullable.
    fn release(&self) -> Vec<String> {
        let release = self
            .replica_identity
            .then(|| self.alter("REPLICA IDENTITY NOTHING"));
        release.into_iter().collect()
    }

    pub fn leave(&self) -> Vec<String> {
        let mut statements = self.release();
        statements.push(match self.rebuild {
            Some(_) => self.drop(),
            None => self.rename(&self.name, &self.old()),
        });
        statements
    }

    /// Gives the name, or the constraint, to an index that is there.
    fn take_name(&self, from: &str) -> String {
        match self.kind().filter(|_| self.timing() != Timing::Ahead) {
            Some(kind) => self.alter(&format!(
                "ADD CONSTRAINT {} {kind} USING INDEX {}{}",
                ident(&self.name),
                ident(from),
                self.deferral()
            )),
            None => self.rename(from, &self.name),
        }
    }

    /// An index names its own columns when it is made, after those of the table at that time.
    fn rename_columns(&self, from: fn(&Names) -> &str) -> Vec<String> {
        let keys = self.before.keys.iter().filter_map(|key| key.column.as_ref());
        let columns: Vec<&String> = keys.chain(&self.before.include).collect();
        let named = self.moved.iter().filter(|it| columns.contains(&&it.column));
        let rename = |it: &Move| {
            format!(
                "ALTER TABLE {} RENAME COLUMN {} TO {}",
                self.table.sibling(self.name.clone()),
                ident(from(&it.names)),
                ident(&it.column)
            )
        };
        named.map(rename).collect()
    }

    fn dressed<'a>(&'a self, index: &'a Index) -> Dressed<'a> {
        Dressed {
            table: &self.table,
            name: &self.name,
            index,
            constraint: self.constraint.as_ref(),
            replica_identity: self.replica_identity,
        }
    }

    pub fn arrive(&self) -> Vec<String> {
        let mut statements = vec![self.take_name(&self.twin())];
        statements.extend(self.rename_columns(Names::shadow));
        let dressed = self.dressed(&self.before);
        statements.extend(dressed.marks());
        statements.extend(dressed.comments());
        statements
    }

    pub fn rebuild(&self, settings: &Settings) -> Vec<Work> {
        self.rebuild
            .iter()
            .flat_map(|build| build.works(settings))
            .collect()
    }

    pub fn leave_back(&self) -> Vec<String> {
        let mut statements = self.release();
        statements.push(self.drop());
        statements
    }

    pub fn arrive_back(&self) -> Vec<String> {
        let dressed = self.dressed(&self.before);
        let mut statements = Vec::new();
        if self.rebuild.is_some() {
            statements.push(self.take_name(&self.old()));
            statements.extend(self.rename_columns(Names::old));
            statements.extend(dressed.comments());
        } else {
            statements.push(self.rename(&self.old(), &self.name));
        }
        statements.extend(dressed.marks());
        statements
    }

    pub fn expect(&self) -> Vec<Expectation> {
        self.dressed(&self.after).expect()
    }

    /// That of a constraint goes with its column.
    pub fn drop_old(&self, settings: &Settings) -> Option<StepDraft> {
        if self.rebuild.is_some() || self.constraint.is_some() {
            return None;
        }
        let index = self.table.sibling(self.old());
        Some(StepDraft {
            id: "drop_index".into(),
            phase: Phase::Contract,
            work: drop_concurrently(&self.table, &index, settings),
            hazards: Vec::new(),
            undo: Undo::Irreversible {
                reason: "the old column is about to go".into(),
            },
            estimate: Estimate::INSTANT,
        })
    }

    pub fn apply(&self, table: &mut Table) {
        table.indexes.insert(self.name.clone(), self.after.clone());
    }
}
