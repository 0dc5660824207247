//! For the tests of the rooms: text in, text out, no database.

use crate::catalog::model::{
    CatalogSnapshot, Column, Constraint, ConstraintKind, Index, Reference, Replication, Role,
    SNAPSHOT_FORMAT, Schema, Server, Table, TableSize,
};
use crate::diagnostic::{Diagnostic, line_and_column};
use crate::plan::{Action, ExecutionPlan, MatchColumn, Transaction, Undo, Work};
use crate::sql::QualifiedName;
use crate::{change_plan, planner};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// An empty database, PostgreSQL 15, seen by the superuser `postgres`.
pub(crate) fn catalog() -> CatalogSnapshot {
    let schema = Schema {
        owner: "postgres".into(),
        may_create: true,
    };
    CatalogSnapshot {
        format: SNAPSHOT_FORMAT,
        database: "test".into(),
        server: Server {
            version_num: 150_000,
            time_zone: "UTC".into(),
            date_style: "ISO, MDY".into(),
            deadlock_timeout_ms: 1_000,
            in_recovery: false,
            read_only: false,
        },
        role: Role {
            name: "postgres".into(),
            superuser: true,
            member_of: vec!["postgres".into()],
            may_create_schema: true,
            may_set_replication_role: true,
        },
        schemas: BTreeMap::from([("public".into(), schema)]),
        tables: BTreeMap::new(),
        views: BTreeMap::new(),
        sequences: BTreeMap::new(),
        types: BTreeMap::new(),
        publications: BTreeMap::new(),
        functions: BTreeMap::new(),
        replication: Replication::default(),
        not_volatile: BTreeSet::new(),
        unpredicted: BTreeSet::new(),
        answers: Vec::new(),
        trials: Vec::new(),
        conditions: BTreeMap::new(),
    }
}

/// A table of 1,000,000 rows with the given `name type [not null]` columns and no keys.
pub(crate) fn table(columns: &[&str]) -> Table {
    let column = |text: &&str| {
        let (name, rest) = text.split_once(' ').expect("a name and a type");
        let (data_type, not_null) = match rest.strip_suffix(" not null") {
            Some(data_type) => (data_type, true),
            None => (rest, false),
        };
        let plain = ["bigint", "integer", "smallint", "boolean", "uuid", "date"].contains(&data_type)
            || data_type.starts_with("timestamp");
        let storage = if plain { "plain" } else { "extended" };
        Column {
            storage: storage.into(),
            ..super::parts::column::plain(name, data_type, not_null)
        }
    };
    Table {
        columns: columns.iter().map(column).collect(),
        size: TableSize {
            rows: 1_000_000,
            heap_bytes: 100 << 20,
            toast_bytes: 0,
            index_bytes: 30 << 20,
        },
        ..Table::empty("postgres")
    }
}

/// A plain valid btree index on columns.
pub(crate) fn index(columns: &[&str], unique: bool) -> Index {
    Index::plain(columns, unique)
}

/// A validated constraint without further attributes.
pub(crate) fn constraint(kind: ConstraintKind, definition: &str, columns: &[&str]) -> Constraint {
    Constraint {
        kind,
        definition: definition.into(),
        columns: columns.iter().map(|&column| column.into()).collect(),
        validated: true,
        deferrable: false,
        initially_deferred: false,
        no_inherit: false,
        inherited: false,
        index: None,
        references: None,
        comment: None,
    }
}

impl CatalogSnapshot {
    pub(crate) fn with(mut self, name: &str, table: Table) -> Self {
        self.tables
            .insert(QualifiedName::parse(name, "public").unwrap(), table);
        self
    }
}

impl Table {
    /// Adds a primary key with its index.
    pub(crate) fn with_primary_key(mut self, name: &str, columns: &[&str]) -> Self {
        let mut key = index(columns, true);
        key.constraint = Some(name.into());
        self.indexes.insert(name.into(), key);
        let definition = format!("PRIMARY KEY ({})", crate::sql::idents(columns));
        let mut primary_key = constraint(ConstraintKind::PrimaryKey, &definition, columns);
        primary_key.index = Some(name.into());
        self.constraints.insert(name.into(), primary_key);
        self
    }

    /// Adds a validated foreign key.
    pub(crate) fn with_foreign_key(
        mut self,
        name: &str,
        columns: &[&str],
        table: &str,
        referenced: &[&str],
    ) -> Self {
        let table = QualifiedName::parse(table, "public").unwrap();
        let definition = format!(
            "FOREIGN KEY ({}) REFERENCES {table}({})",
            crate::sql::idents(columns),
            crate::sql::idents(referenced)
        );
        let mut key = constraint(ConstraintKind::ForeignKey, &definition, columns);
        key.references = Some(Reference {
            table,
            columns: referenced.iter().map(|&column| column.into()).collect(),
            match_type: "SIMPLE".into(),
            on_update: "NO ACTION".into(),
            on_delete: "NO ACTION".into(),
        });
        self.constraints.insert(name.into(), key);
        self
    }
}

/// Plans the changes (list entries without the plan around them) against the catalog.
pub(crate) fn compile(
    catalog: &CatalogSnapshot,
    changes: &str,
) -> Result<ExecutionPlan, (String, Vec<Diagnostic>)> {
    let source = format!("name: test\nchanges:\n{changes}");
    let plan = change_plan::parse(&source).map_err(|complaints| (source.clone(), complaints))?;
    planner::plan(&plan, catalog).map_err(|complaints| (source, complaints))
}

/// The steps as text, or the complaints as `line:column message (help)`; the first change is on line 3.
pub(crate) fn plan_text(catalog: &CatalogSnapshot, changes: &str) -> String {
    match compile(catalog, changes) {
        Ok(plan) => steps_text(&plan),
        Err((source, complaints)) => {
            let mut text = String::new();
            for complaint in complaints {
                let (line, column) = complaint
                    .span
                    .map_or((0, 0), |span| line_and_column(&source, span.start));
                let help = complaint
                    .help
                    .map(|help| format!(" ({help})"))
                    .unwrap_or_default();
                let _ = writeln!(
                    text,
                    "{line}:{column} {}: {}{help}",
                    complaint.code, complaint.message
                );
            }
            text
        }
    }
}

fn steps_text(plan: &ExecutionPlan) -> String {
    let mut text = String::new();
    for step in &plan.steps {
        let _ = writeln!(text, "{} [{}] {}", step.id, step.phase, step.work.summary);
        work_text(&mut text, "  ", &step.work);
        match &step.undo {
            Undo::Work(works) => {
                for work in works {
                    work_text(&mut text, "  undo ", work);
                }
            }
            Undo::NotNeeded { reason } => drop(writeln!(text, "  undo not needed: {reason}")),
            Undo::Irreversible { reason } => drop(writeln!(text, "  irreversible: {reason}")),
        }
        for hazard in &step.hazards {
            let _ = writeln!(text, "  hazard {}: {}", hazard.code, hazard.message);
        }
    }
    text
}

fn work_text(text: &mut String, indent: &str, work: &Work) {
    match &work.action {
        Action::Sql(statements) => {
            for statement in statements {
                let _ = writeln!(text, "{indent}{statement};");
            }
        }
        Action::Backfill(backfill) => {
            let _ = writeln!(
                text,
                "{indent}backfill {} SET {} WHERE {}",
                backfill.table, backfill.set, backfill.needs
            );
        }
        Action::Copy(copying) => drop(writeln!(
            text,
            "{indent}copy {}: {}",
            copying.from,
            copying.whole()
        )),
        Action::Check(check) => drop(writeln!(text, "{indent}check {}: {}", check.name, check.query)),
        Action::Match(it) => {
            let column = |it: &MatchColumn| format!("{} {}", it.name, it.cast.as_deref().unwrap_or("-"));
            let columns: Vec<_> = it
                .key
                .iter()
                .chain(it.columns.iter().flatten())
                .map(column)
                .collect();
            let (left, right, columns) = (&it.left, &it.right, columns.join(", "));
            let _ = writeln!(
                text,
                "{indent}match {}: {left}\n{indent}  with {right}\n{indent}  by {columns}",
                it.name
            );
        }
        Action::Compare(it) => {
            let (check, fills) = (&it.check, it.mend.len());
            let _ = writeln!(
                text,
                "{indent}compare {}: {} ({fills} to fill again)",
                check.name, check.query
            );
        }
    }
    let locks: Vec<_> = work
        .locks
        .iter()
        .map(|lock| format!("{} {}", lock.relation, lock.mode))
        .collect();
    let transaction = if work.transaction == Transaction::None {
        ", no transaction"
    } else {
        ""
    };
    let lock_timeout = work.timeouts.lock_ms.map_or("-".into(), |ms| format!("{ms}ms"));
    let _ = writeln!(
        text,
        "{indent}  locks: {} (lock_timeout {lock_timeout}{transaction})",
        locks.join(", ")
    );
}
