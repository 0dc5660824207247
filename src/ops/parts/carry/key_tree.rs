//! Foreign keys of a partitioned table, and those that refer to one.
//!
//! Before PostgreSQL 18 a partitioned table takes no NOT VALID foreign key, but adopts the valid ones of its
//! partitions without looking at their rows: these get their twins one by one. A key that refers to a partitioned
//! table needs the key of that table, which exists from the cutover on only; it moves within it, and is proven behind.

use super::Subject;
use super::constraints::{add_again, comment, drop, expectation, prove_again, refusal};
use super::foreign_keys::{Outgoing, described, ending};
use crate::catalog::model::{Constraint, ConstraintKind, Table, TableKind};
use crate::diagnostic::Diagnostic;
use crate::ops::parts::brief;
use crate::ops::parts::constraint::adopting;
use crate::ops::{Context, StepDraft};
use crate::plan::{Estimate, Expectation, Lock, LockMode, Part, Phase, Settings, Undo, Work};
use crate::sql::{QualifiedName, ident, idents};
use serde_json::{Value, json};

/// One foreign key on every table of a tree.
#[derive(Debug, Clone)]
pub struct KeyTree {
    /// Those of the tables without rows of their own, the topmost first.
    parents: Vec<Key>,
    leaves: Vec<Outgoing>,
    all: Vec<Key>,
}

#[derive(Debug, Clone)]
struct Key {
    table: QualifiedName,
    name: String,
    constraint: Constraint,
    depth: usize,
}

struct Walk<'a> {
    context: &'a Context<'a>,
    subject: &'a Subject<'a>,
    tree: KeyTree,
}

impl Walk<'_> {
    fn visit(
        &mut self,
        (table_name, table): (&QualifiedName, &Table),
        (name, constraint): (&str, &Constraint),
        depth: usize,
    ) -> Result<(), &'static str> {
        let key = Key {
            table: table_name.clone(),
            name: name.to_owned(),
            constraint: constraint.clone(),
            depth,
        };
        self.tree.all.push(key.clone());
        if table.kind == TableKind::Table {
            let column = table.column(&self.subject.column.name);
            let subject = Subject {
                table_name,
                table,
                column: column.ok_or("a partition has no such column")?,
                ..*self.subject
            };
            let own = Constraint {
                inherited: false,
                ..constraint.clone()
            };
            let leaf = Outgoing::of(self.context, &subject, name, &own)?;
            self.tree.leaves.push(leaf);
            return Ok(());
        }
        self.tree.parents.push(key);
        for child in &table.children {
            let below = self.context.catalog.tables.get(child);
            let below = below.ok_or("a partition is unknown")?;
            let alike = |(_, it): &(&String, &Constraint)| {
                it.inherited
                    && it.kind == ConstraintKind::ForeignKey
                    && it.columns == constraint.columns
                    && it.references == constraint.references
            };
            let mut alike = below.constraints.iter().filter(alike);
            let (name, found) = alike.next().ok_or("a partition lacks it")?;
            if alike.next().is_some() {
                return Err("a partition has two of its kind");
            }
            self.visit((child, below), (name, found), depth + 1)?;
        }
        Ok(())
    }
}

impl KeyTree {
    pub fn all(context: &Context<'_>, subject: &Subject<'_>, complaints: &mut Vec<Diagnostic>) -> Vec<Self> {
        let column = &subject.column.name;
        let hanging = subject.table.constraints.iter().filter(|(_, constraint)| {
            constraint.kind == ConstraintKind::ForeignKey
                && constraint.columns.contains(column)
                && !constraint.inherited
        });
        let mut found = Vec::new();
        for (name, constraint) in hanging {
            match Self::of(context, subject, (name, constraint)) {
                Ok(tree) => found.push(tree),
                Err(why) => complaints.push(refusal(subject, &format!("foreign key {}", ident(name)), why)),
            }
        }
        found
    }

    fn of(
        context: &Context<'_>,
        subject: &Subject<'_>,
        (name, constraint): (&str, &Constraint),
    ) -> Result<Self, &'static str> {
        if !constraint.validated && constraint.enforced() {
            return Err("it is NOT VALID");
        }
        let reference = constraint.references.as_ref().ok_or("its far end is unknown")?;
        if context
            .catalog
            .tree(subject.table_name)
            .contains(&reference.table)
        {
            return Err("it refers to the partitioned table itself");
        }
        let mut walk = Walk {
            context,
            subject,
            tree: Self {
                parents: Vec::new(),
                leaves: Vec::new(),
                all: Vec::new(),
            },
        };
        walk.visit((subject.table_name, subject.table), (name, constraint), 0)?;
        Ok(walk.tree)
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        self.leaves.iter().flat_map(|leaf| leaf.steps(settings)).collect()
    }

    /// The far end is locked when the old key goes.
    pub fn lock(&self) -> Option<Lock> {
        self.leaves.first().and_then(Outgoing::lock)
    }

    /// Those of the partitions go along.
    pub fn drop(&self) -> Option<String> {
        let root = self.parents.first()?;
        Some(drop(&root.table, &root.name))
    }

    /// From the bottom up.
    fn adopt(&self) -> Vec<String> {
        let mut upwards: Vec<&Key> = self.parents.iter().collect();
        upwards.sort_by_key(|key| std::cmp::Reverse(key.depth));
        let add = |key: &&Key| {
            let mut statements = vec![format!(
                "ALTER TABLE {} ADD CONSTRAINT {} {}",
                key.table,
                ident(&key.name),
                key.constraint.definition
            )];
            statements.extend(comment(&key.table, &key.name, &key.constraint));
            self.if_there(&key.table, statements)
        };
        upwards.iter().flat_map(add).collect()
    }

    /// Nothing where the partition is gone.
    fn if_there(&self, table: &QualifiedName, statements: Vec<String>) -> Vec<String> {
        match self.parents.first() {
            Some(root) if root.table != *table => {
                let part = Part {
                    table: table.clone(),
                    of: root.table.clone(),
                };
                part.statement(&statements).into_iter().collect()
            }
            _ => statements,
        }
    }

    pub fn arrive(&self) -> Vec<String> {
        let leaves = self.leaves.iter();
        let mut statements: Vec<String> = leaves
            .flat_map(|leaf| self.if_there(&leaf.table, leaf.arrive()))
            .collect();
        statements.extend(self.adopt());
        statements
    }

    pub fn arrive_back(&self) -> Vec<String> {
        let leaves = self.leaves.iter();
        leaves
            .flat_map(|leaf| self.if_there(&leaf.table, leaf.arrive_back()))
            .collect()
    }

    pub fn after_back(&self, settings: &Settings) -> Vec<Work> {
        let proofs = self.leaves.iter().filter_map(|leaf| leaf.prove_again(settings));
        let mut works: Vec<Work> = proofs.collect();
        let Some(root) = self.parents.first() else {
            return works;
        };
        let mut locks: Vec<Lock> = self.lock().into_iter().collect();
        let own = self.all.iter();
        let mode = adopting(self.leaves.iter().any(Outgoing::to_partitions));
        locks.extend(own.map(|key| Lock::new(&key.table, mode)));
        let referenced = self.lock().into_iter();
        let mut statements: Vec<String> = referenced
            .map(|lock| format!("LOCK TABLE {} IN {} MODE", lock.relation, lock.mode))
            .collect();
        statements.push(format!("LOCK TABLE {} IN {mode} MODE", root.table));
        statements.extend(self.adopt());
        works.push(brief(
            settings,
            format!(
                "add foreign key {} to {} again, adopting those of its partitions",
                ident(&root.name),
                root.table
            ),
            statements,
            locks,
            self.expect(),
        ));
        works
    }

    pub fn expect(&self) -> Vec<Expectation> {
        let root = self.parents.iter().take(1);
        root.map(|key| expectation(&key.table, &key.name, &key.constraint))
            .collect()
    }
}

/// A foreign key of another table that refers to the column of a partitioned one.
#[derive(Debug, Clone)]
pub struct Late {
    from: QualifiedName,
    name: String,
    constraint: Constraint,
    /// As it is sent.
    sent: Constraint,
    rows: Estimate,
}

impl Late {
    pub fn all(context: &Context<'_>, subject: &Subject<'_>, complaints: &mut Vec<Diagnostic>) -> Vec<Self> {
        let mut found = Vec::new();
        for (from, name, constraint) in ending(context, subject, complaints) {
            match Self::of(context, subject, from, name, constraint) {
                Ok(late) => found.push(late),
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
        constraint: &Constraint,
    ) -> Result<Self, &'static str> {
        let table = context.catalog.tables.get(from).ok_or("its table is unknown")?;
        if context.catalog.tree(subject.table_name).contains(from) {
            return Err("it is one of the partitioned table itself");
        }
        if table.kind != TableKind::Table || table.partition_of.is_some() || !table.children.is_empty() {
            return Err("its table is partitioned or inherited from");
        }
        if !context.now.role.acts_as(&table.owner) {
            return Err("its table belongs to another role");
        }
        Ok(Self {
            from: from.clone(),
            name: name.to_owned(),
            sent: Constraint {
                definition: by_primary_key(subject.table, constraint),
                ..constraint.clone()
            },
            constraint: constraint.clone(),
            rows: Estimate::scan(table.size.rows, table.size.heap_bytes, 0),
        })
    }

    /// As `pg_identify_object_as_address` has it.
    pub fn address(&self) -> Value {
        json!(["table constraint", self.from.schema, self.from.name, self.name])
    }

    pub fn lock(&self) -> Lock {
        Lock::new(&self.from, LockMode::AccessExclusive)
    }

    pub fn drop(&self) -> String {
        drop(&self.from, &self.name)
    }

    /// In either direction.
    pub fn arrive(&self) -> Vec<String> {
        add_again(&self.from, &self.name, &self.sent)
    }

    pub fn prove(&self, settings: &Settings) -> Option<Work> {
        prove_again(&self.from, &self.name, &self.constraint, settings)
    }

    pub fn step(&self, settings: &Settings) -> Option<StepDraft> {
        Some(StepDraft {
            id: "incoming_prove".into(),
            phase: Phase::Cutover,
            work: self.prove(settings)?,
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "undoing the swap brings the key back".into(),
            },
            estimate: self.rows,
        })
    }
}

/// Of several unique indexes on the same columns the server takes any, but the primary key where none are named.
fn by_primary_key(table: &Table, constraint: &Constraint) -> String {
    let (Some(reference), Some((name, key))) = (&constraint.references, table.primary_key()) else {
        return constraint.definition.clone();
    };
    if constraint.index.as_deref() != Some(name) || reference.columns != key.columns {
        return constraint.definition.clone();
    }
    let target = format!(" REFERENCES {}", reference.table);
    let columns = format!("{target}({})", idents(&reference.columns));
    constraint.definition.replacen(&columns, &target, 1)
}
