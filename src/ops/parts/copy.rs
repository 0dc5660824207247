//! Copying the rows of a mapping: by batches of pages, then what was written meanwhile, then statistics.

use super::concurrent;
use super::constraint::scan_estimate;
use super::mapping::{Mapping, parenthesized};
use crate::catalog::model::{CatalogSnapshot, Table, TableKind};
use crate::diagnostic::Diagnostic;
use crate::ops::{Context, StepDraft};
use crate::plan::{
    Action, Copying, Estimate, Hazard, Lock, LockMode, Part, Phase, Settings, Timeouts, Transaction, Undo,
    Work,
};
use crate::sql::{QualifiedName, ident, idents};

/// How a mapping calls its target while it asks whether a row is there: nobody else calls anything so.
const THERE: &str = "~pgmorph_there";

/// A table that holds rows itself.
#[derive(Debug, Clone)]
struct Heap {
    table: QualifiedName,
    part: Option<Part>,
    estimate: Estimate,
}

/// A mapping, and what of the catalog copying by it needs to know.
#[derive(Debug, Clone)]
pub struct CopyPlan {
    pub mapping: Mapping,
    heaps: Vec<Heap>,
    overriding: &'static str,
    /// Whether rows are locked while they are copied, that nobody deletes one whose copy a trigger could not see yet.
    locks_rows: bool,
    /// Whether triggers repeat every write meanwhile.
    followed: bool,
    /// Whether statistics can be gathered: the role is the owner's.
    analyzes: bool,
    hazards: Vec<Hazard>,
}

/// The table itself or what is below it, as far as it holds rows.
pub fn heaps(catalog: &CatalogSnapshot, table: &QualifiedName) -> Vec<QualifiedName> {
    let is = |name: &QualifiedName, kind| catalog.tables.get(name).is_some_and(|it| it.kind == kind);
    let mut tables = catalog.tree(table);
    tables.retain(|name| !is(name, TableKind::Partitioned));
    tables
}

/// Pages can be walked of tables only.
pub fn foreign_complaint(
    catalog: &CatalogSnapshot,
    table: &crate::diagnostic::Located<QualifiedName>,
) -> Option<Diagnostic> {
    let foreign = |name: &QualifiedName| {
        let table = catalog.tables.get(name);
        table.is_some_and(|table| table.kind == TableKind::Foreign)
    };
    let found = heaps(catalog, &table.value).into_iter().find(foreign)?;
    let message = format!("{found} is a foreign table, whose pages cannot be walked");
    Some(
        Diagnostic::new("foreign_table", message)
            .at(table.span)
            .help("run a `sql` statement on the server that has it"),
    )
}

/// The part that a table is of the one that it is below, where that is partitioned.
pub fn part_of(catalog: &CatalogSnapshot, table: &QualifiedName, of: &QualifiedName) -> Option<Part> {
    let root = catalog.tables.get(of)?;
    (root.kind == TableKind::Partitioned).then(|| Part {
        table: table.clone(),
        of: of.clone(),
    })
}

fn fires(table: &Table, event: &str) -> Vec<String> {
    let triggers = table.triggers.iter();
    let firing = triggers.filter(|(_, it)| it.enabled != "disabled" && it.definition.contains(event));
    firing.map(|(name, _)| ident(name)).collect()
}

impl CopyPlan {
    /// For a mapping whose check found nothing.
    pub fn new(mapping: &Mapping, context: &Context<'_>) -> Self {
        let catalog = context.catalog;
        let (from, into) = (&mapping.from.value, &mapping.into.value);
        let heap = |table: QualifiedName| {
            let mut estimate = scan_estimate(catalog, std::slice::from_ref(&table));
            estimate.disk_bytes = estimate.bytes;
            Heap {
                part: part_of(catalog, &table, from),
                table,
                estimate,
            }
        };
        let mut hazards = vec![Hazard::new(
            "rows_are_written",
            format!(
                "every row that is copied into {into} goes to the WAL, to standbys and to subscribers, and needs about \
                 as much disk as it does in {from}"
            ),
        )];
        let target = catalog.tables.get(into);
        let firing = target.map(|table| fires(table, "INSERT")).unwrap_or_default();
        if !firing.is_empty() {
            let message = format!("copying fires the triggers of {into}: {}", firing.join(", "));
            hazards.push(Hazard::new("triggers_fire", message));
        }
        let written = |name: &QualifiedName| {
            let table = catalog.tables.get(name);
            table.is_some_and(|table| table.triggers.values().any(|it| it.enabled != "disabled"))
        };
        Self {
            mapping: mapping.clone(),
            locks_rows: catalog.tree(from).iter().any(written),
            followed: false,
            heaps: heaps(catalog, from).into_iter().map(heap).collect(),
            overriding: mapping.overriding(catalog),
            analyzes: target.is_none_or(|table| context.now.role.acts_as(&table.owner)),
            hazards,
        }
    }

    /// While triggers that are there already repeat every write: one that takes a row from the mapping cannot see a copy
    /// that is not committed yet, so it has to wait for it, even where it does not touch the key.
    pub fn followed(self) -> Self {
        Self {
            locks_rows: true,
            followed: true,
            ..self
        }
    }

    fn alias(&self) -> String {
        ident(&self.mapping.alias)
    }

    /// True for the rows that have a counterpart, which is not there.
    fn needs(&self) -> String {
        let key = self.mapping.key.iter().map(|(target, source)| {
            let (target, source) = (ident(&target.value), ident(&source.value));
            format!("{}.{target} = {}.{source}", ident(THERE), self.alias())
        });
        let missing = format!(
            "NOT EXISTS (SELECT FROM {} AS {} WHERE {})",
            self.mapping.into.value,
            ident(THERE),
            key.collect::<Vec<_>>().join(" AND ")
        );
        match &self.mapping.condition {
            Some(condition) => format!("{} AND {missing}", parenthesized(&condition.value)),
            None => missing,
        }
    }

    fn copying(&self, table: &QualifiedName, settings: &Settings) -> Copying {
        let Mapping { into, .. } = &self.mapping;
        let source = format!("ONLY {table}");
        let Mapping { condition, join, .. } = &self.mapping;
        let lock = if self.locks_rows {
            let any_write = self.followed && (condition.is_some() || join.is_some());
            let strength = if any_write { "SHARE" } else { "KEY SHARE" };
            format!("FOR {strength} OF {} ", self.alias())
        } else {
            String::new()
        };
        Copying {
            from: table.clone(),
            alias: self.mapping.alias.clone(),
            into: into.value.clone(),
            insert: format!(
                "INSERT INTO {} ({}){} {}",
                into.value,
                self.mapping.names(),
                self.overriding,
                self.mapping.select_all(&source, true)
            ),
            needs: self.needs(),
            rest: format!(
                "{lock}ON CONFLICT ({}) DO NOTHING",
                idents(&self.mapping.target_key())
            ),
            held: (self.followed && join.is_some()).then(|| self.mapping.source_clause(&source)),
            workers: settings.workers,
            limits: settings.limits.clone(),
        }
    }

    fn locks(&self, table: &QualifiedName) -> Vec<Lock> {
        let reads = if self.locks_rows {
            LockMode::RowShare
        } else {
            LockMode::AccessShare
        };
        vec![
            Lock::new(table, reads),
            Lock::new(&self.mapping.into.value, LockMode::RowExclusive),
        ]
    }

    fn draft(
        &self,
        heap: &Heap,
        id: String,
        summary: String,
        action: Action,
        timeouts: Timeouts,
    ) -> StepDraft {
        let transaction = match action {
            Action::Sql(_) => Transaction::Single,
            _ => Transaction::None,
        };
        StepDraft {
            id,
            phase: Phase::Backfill,
            work: Work {
                summary,
                action,
                transaction,
                locks: self.locks(&heap.table),
                timeouts,
                expect: Vec::new(),
                on_violation: None,
                guards_values: false,
                part: heap.part.clone(),
                not_before: None,
            },
            hazards: Vec::new(),
            undo: kept(),
            estimate: heap.estimate,
        }
    }

    /// A row that is updated during the walk may go from pages ahead to pages behind, unseen: so those that are missing
    /// are looked for once more, all in one picture, before the first of them is written.
    fn catch_up(&self, heap: &Heap, settings: &Settings) -> Vec<String> {
        let copying = self.copying(&heap.table, settings);
        let ctid = format!("{}.ctid", self.alias());
        let source = self.mapping.source_clause(&format!("ONLY {}", heap.table));
        let missing = format!("SELECT {ctid} FROM {source} WHERE {}", copying.needs);
        let Copying { insert, rest, .. } = &copying;
        let statement = format!("{insert} WHERE {ctid} = ANY (ARRAY({missing})) {rest}");
        vec!["SET LOCAL pgmorph.sync = 'on'".into(), statement]
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        let into = &self.mapping.into.value;
        let many = self.heaps.len() > 1;
        let id = |word: &str, position: usize| match many {
            true => format!("{word}-{}", position + 1),
            false => word.to_owned(),
        };
        let mut steps = Vec::new();
        for (position, heap) in self.heaps.iter().enumerate() {
            let summary = format!("copy rows of {} into {into}", heap.table);
            let action = Action::Copy(self.copying(&heap.table, settings));
            steps.push(self.draft(heap, id("copy", position), summary, action, settings.brief()));
        }
        // It looks through whole tables, but waits for a row as briefly as anything.
        let timeouts = Timeouts {
            lock_ms: settings.brief().lock_ms,
            ..settings.patient()
        };
        let unseen = self.heaps.iter().enumerate().filter(|_| !self.followed);
        for (position, heap) in unseen {
            let summary = format!("copy what was written to {} meanwhile", heap.table);
            let action = Action::Sql(self.catch_up(heap, settings));
            let mut step = self.draft(heap, id("catch_up", position), summary, action, timeouts);
            step.estimate.disk_bytes = 0;
            steps.push(step);
        }
        if let Some(first) = steps.first_mut() {
            first.hazards.clone_from(&self.hazards);
        }
        if self.analyzes {
            steps.push(self.analyze(settings));
        }
        steps
    }

    fn analyze(&self, settings: &Settings) -> StepDraft {
        let into = &self.mapping.into.value;
        let (summary, statement) = (format!("gather statistics of {into}"), format!("ANALYZE {into}"));
        StepDraft {
            id: "analyze".into(),
            phase: Phase::Backfill,
            work: concurrent(settings, summary, statement, into, Vec::new()),
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "statistics do no harm".into(),
            },
            estimate: Estimate::INSTANT,
        }
    }
}

fn kept() -> Undo {
    Undo::NotNeeded {
        reason: "the copied rows stay: nobody can tell them from rows that were there or came since".into(),
    }
}
