//! Foreign keys that begin in the column and foreign keys that end in it.

use super::Subject;
use super::constraints::{add_again, drop, expectation, prove_again, refusal, take_name, twin_steps};
use crate::catalog::model::{Constraint, ConstraintKind, Reference, TableKind};
use crate::diagnostic::Diagnostic;
use crate::ops::parts::constraint::{self, NewConstraint};
use crate::ops::parts::shadow::Names;
use crate::ops::parts::{brief, shadow};
use crate::ops::{Context, StepDraft};
use crate::plan::{Estimate, Expectation, Lock, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{OWN_PREFIX, QualifiedName, derived_name, ident, idents, literal};

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
    if tail.contains("SET NULL (") || tail.contains("SET DEFAULT (") {
        return Err("its actions name columns");
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

/// A foreign key of the column's own table, to wherever. Where its far end moves, too, there is one from shadow to
/// shadow before the cutover.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub(super) table: QualifiedName,
    name: String,
    before: Constraint,
    twin: NewConstraint,
    /// Whether the far end is.
    partitioned: bool,
    is_link: bool,
}

impl Outgoing {
    pub fn all(context: &Context<'_>, subject: &Subject<'_>, complaints: &mut Vec<Diagnostic>) -> Vec<Self> {
        let hanging = subject.table.constraints.iter().filter(|(_, constraint)| {
            constraint.kind == ConstraintKind::ForeignKey
                && !constraint.inherited
                && subject.leads(|column| constraint.columns.iter().any(|it| it == column))
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

    pub(super) fn of(
        context: &Context<'_>,
        subject: &Subject<'_>,
        name: &str,
        before: &Constraint,
    ) -> Result<Self, &'static str> {
        let reference = before.references.as_ref().ok_or("its far end is unknown")?;
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
        let moves = subject.moves;
        let mut pairs = before.columns.iter().zip(&reference.columns);
        let stays = |near: &str, far: &str| {
            moves.have(subject.table_name, near) && !moves.have(&reference.table, far)
        };
        if pairs.any(|(near, far)| {
            let far_type = target.column(far).map(|it| &it.data_type);
            stays(near, far)
                && far_type.is_some_and(|far| constraint::clearly_incompatible(subject.new_type, far))
        }) {
            return Err("what it refers to keeps a type with which the new one cannot be compared");
        }
        let columns = moves.renamed(subject.table_name, &before.columns, Names::shadow);
        let referenced = moves.renamed(&reference.table, &reference.columns, Names::shadow);
        let twin = with_columns(before, columns, referenced)?;
        let twin_name = shadow::name(name, "new");
        Ok(Self {
            table: subject.table_name.clone(),
            name: name.to_owned(),
            before: before.clone(),
            twin: constraint::foreign_key(context, subject.table_name, subject.table, &twin_name, twin),
            partitioned: target.kind == TableKind::Partitioned,
            is_link: moves.end(before),
        })
    }

    /// Whether both ends move.
    pub fn is_link(&self) -> bool {
        self.is_link
    }

    /// Whether the far end is partitioned.
    pub fn to_partitions(&self) -> bool {
        self.partitioned
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
        let mut statements = take_name(&self.table, &self.twin.name, &self.name, &self.before);
        statements.extend(self.partitioned.then(|| self.rename_below()));
        statements
    }

    /// One constraint for each partition of the far end, named by the server after the columns of its time (from
    /// version 18 on, after the constraint): it shows in the error that a DELETE there meets.
    fn rename_below(&self) -> String {
        const DIGITS: usize = 5;
        let zeros = |count: usize| "0".repeat(count);
        let stem = |parts: &[&str], label: &str, digits: usize| {
            let name = derived_name(parts, &format!("{label}{}", zeros(digits)));
            literal(&name[..name.len() - digits])
        };
        let columns = self.before.columns.join("_");
        let by_columns: Vec<String> = (0..=DIGITS)
            .map(|digits| stem(&[&self.table.name, &columns], "fkey", digits))
            .collect();
        let body = format!(
            "DECLARE subject CONSTANT pg_catalog.oid := {table}::pg_catalog.regclass; \
             by_columns CONSTANT boolean := pg_catalog.current_setting('server_version_num')::int < 180000; \
             space pg_catalog.oid; number int := 0; name text; wanted text; BEGIN \
             SELECT c.relnamespace INTO space FROM pg_catalog.pg_class AS c WHERE c.oid = subject; \
             FOR name IN SELECT c.conname FROM pg_catalog.pg_constraint AS c WHERE c.conrelid = subject \
             AND c.conparentid <> 0 AND pg_catalog.strpos(c.conname, {ours}) > 0 ORDER BY c.oid LOOP \
             LOOP wanted := CASE WHEN NOT by_columns THEN {by_name} || (number + 1) \
             WHEN number = 0 THEN {first} \
             ELSE (ARRAY[{others}])[pg_catalog.length(number::text)] || number END; \
             EXIT WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS c WHERE c.conname = wanted \
             AND CASE WHEN by_columns THEN c.connamespace = space ELSE c.conrelid = subject END); \
             number := number + 1; END LOOP; \
             EXECUTE pg_catalog.format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', {table}, name, wanted); \
             END LOOP; END",
            table = literal(&self.table.to_string()),
            ours = literal(OWN_PREFIX),
            by_name = stem(&[&self.name], "", DIGITS),
            first = by_columns[0],
            others = by_columns[1..].join(", "),
        );
        format!("DO {}", literal(&body))
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

pub(super) fn described(from: &QualifiedName, name: &str) -> String {
    format!("foreign key {} of {from}", ident(name))
}

/// The foreign keys that end in the column, by the table that they are of. One that an earlier change of the plan drops
/// in contract is still there at the cutover, and would hold the column back.
pub(super) fn ending<'a>(
    context: &Context<'a>,
    subject: &Subject<'_>,
    complaints: &mut Vec<Diagnostic>,
) -> Vec<(&'a QualifiedName, &'a str, &'a Constraint)> {
    let ends_here = |constraint: &Constraint| {
        let reference = constraint.references.as_ref();
        reference
            .is_some_and(|reference| subject.leads(|it| reference.columns.iter().any(|column| column == it)))
    };
    let still = context.now.incoming_foreign_keys(subject.table_name);
    for (from, name, _) in still.into_iter().filter(|(_, _, it)| ends_here(it)) {
        let kept = context.catalog.tables.get(from);
        if kept.is_some_and(|table| !table.constraints.contains_key(name)) {
            let why = "an earlier change of this plan drops it in contract only";
            complaints.push(
                refusal(subject, &described(from, name), why)
                    .help("drop it in a plan of its own that runs before"),
            );
        }
    }
    let mut all = context.catalog.incoming_foreign_keys(subject.table_name);
    all.retain(|(_, _, it)| ends_here(it));
    all
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
        let moves = |from: &QualifiedName, it: &Constraint| subject.moves.touch(from, &it.columns);
        let mut found = Vec::new();
        for (from, name, constraint) in ending(context, subject, complaints)
            .into_iter()
            .filter(|(from, _, it)| !moves(from, it))
        {
            match Self::of(context, subject, from, name, constraint) {
                Ok(twin) => found.push(twin),
                Err(why) => complaints.push(refusal(subject, &described(from, name), why)),
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
        let table = context.catalog.tables.get(from).ok_or("its table is unknown")?;
        if table.kind != TableKind::Table || table.partition_of.is_some() || !table.children.is_empty() {
            return Err("its table is partitioned or inherited from");
        }
        if !context.now.role.acts_as(&table.owner) {
            return Err("its table belongs to another role");
        }
        let reference = before.references.as_ref().ok_or("its far end is unknown")?;
        let to = |referenced: Vec<String>, kind: &str| -> Result<NewConstraint, &'static str> {
            let twin = with_columns(before, before.columns.clone(), referenced)?;
            let name = shadow::name(name, kind);
            Ok(constraint::foreign_key(context, from, table, &name, twin))
        };
        let called = |name: fn(&Names) -> &str| {
            let moves = subject.moves;
            moves.renamed(subject.table_name, &reference.columns, name)
        };
        Ok(Self {
            table: subject.table_name.clone(),
            from: from.clone(),
            name: name.to_owned(),
            before: before.clone(),
            twin: to(called(Names::shadow), "new")?,
            back: to(reference.columns.clone(), "old")?,
            to_old: to(called(Names::old), "old")?,
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
