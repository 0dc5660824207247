//! Setting columns of the rows that need it, by batches of pages; as a change, and as its way back.

use super::SAMPLE_ROWS;
use super::constraint::{mentions, scan_estimate};
use super::copy::{foreign_complaint, heaps, part_of};
use super::key_list;
use super::mapping::{Pair, parenthesized};
use crate::catalog::model::{CatalogSnapshot, Probe, Table};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::ops::{Context, StepDraft};
use crate::plan::{
    Action, Backfill, Check, Comparison, Estimate, Hazard, Lock, LockMode, Mend, Part, Phase, Settings,
    Timeouts, Transaction, Undo, Work,
};
use crate::sql::{QualifiedName, ident, idents};

/// So many rows that need it are looked at before any is written.
const TRIED_ROWS: u32 = 1_000;

/// What is set, and in which rows.
#[derive(Debug, Clone)]
pub struct Setting {
    set: Vec<Pair>,
    /// Only these, and only while this is true.
    condition: Option<Located<String>>,
    /// Stops being true once the row is filled.
    needs: Located<String>,
}

/// How it is undone.
#[derive(Debug, Clone)]
enum Back {
    Setting(Box<Setting>),
    NotNeeded(String),
}

#[derive(Debug, Clone)]
pub struct Fill {
    pub table: Located<QualifiedName>,
    forwards: Setting,
    back: Back,
}

/// A fill, and what of the catalog it needs to know.
pub struct FillPlan {
    fill: Fill,
    heaps: Vec<(QualifiedName, Option<Part>, Estimate)>,
    suppress_triggers: bool,
    /// The question that looks for rows that would still need it once they are filled, if it can be asked.
    tried: Option<Check>,
    key: Vec<String>,
    hazards: Vec<Hazard>,
}

impl Setting {
    fn read(fields: &Fields<'_>) -> Option<Self> {
        let set = match fields.required("set") {
            Some(_) => fields.optional_pairs("set"),
            None => None,
        };
        let condition = fields.optional_text("where");
        let needs = fields.text("needs");
        let set = set?;
        if set.is_empty() {
            fields.report(Diagnostic::new("empty_list", "`set` may not be empty").at(fields.span()));
            return None;
        }
        Some(Self {
            set,
            condition,
            needs: needs?,
        })
    }

    fn assignments(&self) -> String {
        let one =
            |(column, value): &Pair| format!("{} = {}", ident(&column.value), parenthesized(&value.value));
        self.set.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn rows(&self) -> String {
        let needs = parenthesized(&self.needs.value);
        match &self.condition {
            Some(condition) => format!("{} AND {needs}", parenthesized(&condition.value)),
            None => needs,
        }
    }

    fn probe(&self, table: &QualifiedName) -> Probe {
        Probe {
            table: table.clone(),
            before: "UPDATE ".into(),
            after: format!(" SET {} WHERE {}", self.assignments(), self.rows()),
        }
    }

    fn columns(&self) -> Vec<String> {
        self.set.iter().map(|(column, _)| column.value.clone()).collect()
    }

    fn complaints(&self, context: &Context<'_>, name: &QualifiedName, table: &Table) -> Vec<Diagnostic> {
        let mut complaints = Vec::new();
        for (column, _) in &self.set {
            match context.column(name, table, column) {
                Err(complaint) => complaints.push(complaint),
                Ok(found) if found.generated.is_some() => {
                    let message = format!("{name}.{} is generated", ident(&column.value));
                    let complaint = Diagnostic::new("generated_column", message).at(column.span);
                    complaints.push(complaint.help("leave it out: the server computes it"));
                }
                Ok(_) => {}
            }
        }
        let same_table = context.now.tables.get(name) == context.catalog.tables.get(name);
        // What an earlier change of the plan adds, the server cannot know yet.
        if complaints.is_empty() && same_table {
            complaints.extend(context.accepted(&self.probe(name), self.needs.span).err());
        }
        complaints
    }

    /// Sets the columns in some rows that need it, on paper, and asks which of them would need it still: those would be
    /// set again by every pass and after every interruption.
    fn tried(&self, name: &QualifiedName, table: &Table) -> Option<Check> {
        let generated = |column: &&crate::catalog::model::Column| column.generated.is_some();
        let rows = self.rows();
        if table
            .columns
            .iter()
            .filter(generated)
            .any(|column| mentions(&rows, &column.name))
        {
            return None;
        }
        let column = |column: &crate::catalog::model::Column| {
            let name = ident(&column.name);
            let set = self.set.iter().find(|(set, _)| set.value == column.name);
            match set {
                Some((_, value)) => {
                    format!("{}::{} AS {name}", parenthesized(&value.value), column.data_type)
                }
                None => name,
            }
        };
        let mut columns: Vec<String> = table.columns.iter().map(column).collect();
        let key = table.key_columns();
        if key.is_empty() {
            columns.push("ctid".into());
        }
        let alias = ident(&name.name);
        let query = format!(
            "SELECT {} FROM (SELECT {} FROM {name} WHERE {rows} LIMIT {TRIED_ROWS}) AS {alias} WHERE {rows} LIMIT {SAMPLE_ROWS}",
            key_list(&key),
            columns.join(", ")
        );
        Some(Check {
            name: format!("rows of {name} stop needing it once they are filled"),
            query,
            help: "change `needs`: it must be false for every row in which the columns are set".into(),
        })
    }
}

impl Fill {
    /// Reads `table`, `set`, `where`, `needs`, and `undo` or `no_undo`.
    pub fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let forwards = Setting::read(fields);
        let undo = fields.optional("undo").and_then(|node| {
            let nested = fields.nested(node, "undo");
            let setting = Setting::read(&nested);
            setting.filter(|_| nested.finish())
        });
        let reason = fields.optional_text("no_undo");
        let back = match (undo, reason, fields.optional("undo").is_some()) {
            (Some(setting), None, _) => Some(Back::Setting(Box::new(setting))),
            (None, Some(reason), false) => Some(Back::NotNeeded(reason.value)),
            (None, None, true) => None,
            _ => {
                let message = "exactly one of `undo` and `no_undo` is needed";
                let complaint = Diagnostic::new("missing_key", message).at(fields.span());
                fields.report(complaint.help(
                    "`undo: {set: {…}, needs: …}` brings the old values back; `no_undo: reason` says why nothing has to",
                ));
                None
            }
        };
        Some(Self {
            table: table?,
            forwards: forwards?,
            back: back?,
        })
    }

    fn settings(&self) -> Vec<&Setting> {
        let back = match &self.back {
            Back::Setting(setting) => Some(&**setting),
            Back::NotNeeded(_) => None,
        };
        std::iter::once(&self.forwards).chain(back).collect()
    }

    pub fn probes(&self) -> Vec<Probe> {
        let table = &self.table.value;
        self.settings().iter().map(|it| it.probe(table)).collect()
    }

    pub fn preflight(&self, context: &Context<'_>) -> Result<FillPlan, Vec<Diagnostic>> {
        let table = context.table(&self.table).map_err(|complaint| vec![complaint])?;
        let name = &self.table.value;
        let mut complaints: Vec<Diagnostic> = foreign_complaint(context.catalog, &self.table)
            .into_iter()
            .collect();
        for setting in self.settings() {
            complaints.extend(setting.complaints(context, name, table));
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let catalog = context.catalog;
        let heap = |table: QualifiedName| {
            let part = part_of(catalog, &table, name);
            let mut estimate = scan_estimate(catalog, std::slice::from_ref(&table));
            // Every row is written once more, and the room of the old ones is used again where it is pruned in time.
            estimate.disk_bytes = estimate.bytes / 2;
            (table, part, estimate)
        };
        let suppress_triggers = context.now.role.may_set_replication_role;
        Ok(FillPlan {
            heaps: heaps(catalog, name).into_iter().map(heap).collect(),
            suppress_triggers,
            tried: self.forwards.tried(name, table),
            key: table.key_columns(),
            hazards: hazards(catalog, name, suppress_triggers),
            fill: self.clone(),
        })
    }
}

fn hazards(catalog: &CatalogSnapshot, name: &QualifiedName, suppress_triggers: bool) -> Vec<Hazard> {
    let tables = catalog.tree(name);
    let triggers = tables.iter().filter_map(|name| catalog.tables.get(name));
    let triggers = triggers
        .flat_map(|table| &table.triggers)
        .filter(|(_, it)| !it.cloned && it.enabled != "disabled" && it.definition.contains("UPDATE"));
    let (always, others): (Vec<_>, Vec<_>) =
        triggers.partition(|(_, it)| it.enabled == "always" || it.enabled == "replica");
    let names = |triggers: &[(&String, _)]| {
        let names: Vec<String> = triggers.iter().map(|(name, _)| ident(name)).collect();
        names.join(", ")
    };
    let mut hazards = vec![Hazard::new(
        "rows_are_written",
        format!("every row of {name} that is filled goes to the WAL, to standbys and to subscribers"),
    )];
    let others = names(&others);
    if !others.is_empty() {
        let message = match suppress_triggers {
            true => format!("these triggers of {name} do not fire for what is filled: {others}"),
            false => format!("filling fires the triggers of {name}: {others}"),
        };
        let code = if suppress_triggers {
            "triggers_do_not_fire"
        } else {
            "triggers_fire"
        };
        hazards.push(Hazard::new(code, message));
    }
    let always = names(&always);
    if !always.is_empty() {
        let message = format!("filling fires the triggers of {name}: {always}");
        hazards.push(Hazard::new("triggers_fire", message));
    }
    hazards
}

impl FillPlan {
    fn backfill(&self, table: &QualifiedName, setting: &Setting, settings: &Settings) -> Backfill {
        Backfill {
            table: table.clone(),
            set: setting.assignments(),
            needs: setting.rows(),
            suppress_triggers: self.suppress_triggers,
            columns: setting.columns(),
            workers: settings.workers,
            limits: settings.limits.clone(),
        }
    }

    fn work(
        &self,
        summary: String,
        action: Action,
        (locks, part): (Vec<Lock>, Option<Part>),
        timeouts: Timeouts,
    ) -> Work {
        Work {
            summary,
            action,
            transaction: Transaction::None,
            locks,
            timeouts,
            expect: Vec::new(),
            on_violation: None,
            guards_values: false,
            part,
            not_before: None,
        }
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        let name = &self.fill.table.value;
        let Setting { set, .. } = &self.fill.forwards;
        let columns: Vec<&str> = set.iter().map(|(column, _)| column.value.as_str()).collect();
        let columns = idents(&columns);
        let mut steps = Vec::new();
        if let Some(check) = &self.tried {
            let locks = vec![Lock::new(name, LockMode::AccessShare)];
            let (summary, action) = (check.name.clone(), Action::Check(check.clone()));
            steps.push(StepDraft {
                id: "try".into(),
                phase: Phase::Backfill,
                work: self.work(summary, action, (locks, None), settings.patient()),
                hazards: Vec::new(),
                undo: only_reads(),
                estimate: Estimate::INSTANT,
            });
        }
        let many = self.heaps.len() > 1;
        for (position, (table, part, estimate)) in self.heaps.iter().enumerate() {
            let locked = || (vec![Lock::new(table, LockMode::RowExclusive)], part.clone());
            let fill = Action::Backfill(self.backfill(table, &self.fill.forwards, settings));
            let summary = format!("fill {columns} of {table}");
            let undo = match &self.fill.back {
                Back::NotNeeded(reason) => Undo::NotNeeded {
                    reason: reason.clone(),
                },
                Back::Setting(back) => {
                    let action = Action::Backfill(self.backfill(table, back, settings));
                    let summary = format!("set {columns} of {table} back");
                    Undo::Work(vec![self.work(summary, action, locked(), settings.brief())])
                }
            };
            steps.push(StepDraft {
                id: match many {
                    true => format!("fill-{}", position + 1),
                    false => "fill".into(),
                },
                phase: Phase::Backfill,
                work: self.work(summary, fill, locked(), settings.brief()),
                hazards: if position == 0 {
                    self.hazards.clone()
                } else {
                    Vec::new()
                },
                undo,
                estimate: *estimate,
            });
        }
        steps.push(self.rest(settings));
        steps
    }

    /// What was written behind the walk is filled too, once; after that no row may need it.
    fn rest(&self, settings: &Settings) -> StepDraft {
        let name = &self.fill.table.value;
        let mend = self.heaps.iter().map(|(table, part, _)| Mend {
            part: part.clone(),
            fill: self.backfill(table, &self.fill.forwards, settings),
        });
        let check = Check {
            name: format!("no row of {name} needs to be filled"),
            query: format!(
                "SELECT {} FROM {name} WHERE {} LIMIT {SAMPLE_ROWS}",
                key_list(&self.key),
                self.fill.forwards.rows()
            ),
            help: "somebody goes on writing such rows: change the application, a default or a trigger first, then run \
                   the same command again"
                .into(),
        };
        let tables = self.heaps.iter().map(|(table, ..)| table);
        let locks = super::locks(tables, LockMode::RowExclusive);
        let action = Action::Compare(Comparison {
            check,
            mend: mend.collect(),
        });
        let summary = format!("look for rows of {name} that still need to be filled");
        let bytes = self.heaps.iter().map(|(.., estimate)| estimate.bytes).sum();
        StepDraft {
            id: "rest".into(),
            phase: Phase::Backfill,
            work: self.work(summary, action, (locks, None), settings.patient()),
            hazards: Vec::new(),
            undo: only_reads(),
            estimate: Estimate::scan(-1, bytes, 0),
        }
    }
}

fn only_reads() -> Undo {
    Undo::NotNeeded {
        reason: "what it fills is undone with the rest".into(),
    }
}
