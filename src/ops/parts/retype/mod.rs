//! Another type for a column, by the lightest safe way.

mod around;
mod conversion;
mod direct;
mod group;
mod refuse;
mod room;
mod settled;
mod tree;

pub use room::{Retyping, Room};

use super::carry::{self, Questions};
use super::conversion::Conversion;
use super::shadow::{Group, Member, Moves, Names, Shadow};
use super::storage;
use crate::catalog::model::{
    CatalogSnapshot, Column, Persistence, Probe, ProbeOutcome, ReplicaIdentity, Table, TableKind,
};
use crate::catalog::types::{self, TypeChange};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::ops::{Context, Named, StepDraft};
use crate::plan::{Estimate, Hazard, Settings};
use crate::sql::{QualifiedName, ident};
use around::Around;
use direct::Direct;
use group::{Part, Together};
use std::collections::BTreeSet;

/// A column and the type that it is to have.
#[derive(Debug, Clone)]
pub struct Retype {
    pub table: Located<QualifiedName>,
    pub column: Located<String>,
    pub data_type: Located<String>,
    pub default: Option<Located<String>>,
    pub by: By,
    together: Together,
    /// Of the plan: in complaints names are spelled as the file has them.
    default_schema: String,
}

/// How a value becomes one of the new type.
#[derive(Debug, Clone)]
pub enum By {
    /// By a cast that loses nothing.
    Widening,
    /// By expressions over the column, or by assignment where there are none.
    Conversion {
        using: Option<Located<String>>,
        reverse_using: Option<Located<String>>,
    },
}

pub struct Target {
    table: QualifiedName,
    /// As it is now.
    column: Column,
    /// As it will be.
    printed: Column,
    /// What is sent after DEFAULT, where another one is wanted.
    default: Option<String>,
    way: Way,
}

enum Way {
    CatalogOnly(Direct),
    InPlace(Direct),
    Shadow(Box<Group>),
}

impl Retype {
    pub fn read(fields: &Fields<'_>, by: By) -> Option<Self> {
        let table = fields.qualified("table");
        let column = fields.identifier("column");
        let data_type = fields.text("type");
        let default = fields.optional_text("default");
        let together = Together::read(fields, &by);
        Some(Self {
            table: table?,
            column: column?,
            data_type: data_type?,
            default,
            by,
            together,
            default_schema: fields.default_schema().to_owned(),
        })
    }

    /// The table, and those of the columns that are converted along.
    fn needs(&self) -> Vec<Named> {
        let mut needs = vec![Named::relation(&self.table)];
        needs.extend(self.together.needs());
        needs
    }

    pub(super) fn expressions(&self) -> (Option<&Located<String>>, Option<&Located<String>>) {
        match &self.by {
            By::Widening => (None, None),
            By::Conversion { using, reverse_using } => (using.as_ref(), reverse_using.as_ref()),
        }
    }

    fn using(&self) -> Option<&Located<String>> {
        self.expressions().0
    }

    fn type_probe(&self) -> Probe {
        self.type_probe_on(&self.table.value)
    }

    fn type_probe_on(&self, table: &QualifiedName) -> Probe {
        let mut what = format!("TYPE {}", self.data_type.value);
        if let Some(using) = self.using() {
            what = format!("{what} USING ({})", using.value);
        }
        // The present default may have no form in the new type.
        if matches!(self.by, By::Conversion { .. }) && self.default.is_some() {
            what = format!("DROP DEFAULT, ALTER COLUMN {} {what}", ident(&self.column.value));
        }
        Probe {
            table: table.clone(),
            ..self.probe(what)
        }
    }

    fn default_probe(&self) -> Option<Probe> {
        self.default
            .as_ref()
            .map(|default| self.probe(format!("SET DEFAULT {}", default.value)))
    }

    fn probe(&self, what: String) -> Probe {
        self.altered(format!("ALTER COLUMN {} {what}", ident(&self.column.value)))
    }

    fn altered(&self, what: String) -> Probe {
        Probe {
            table: self.table.value.clone(),
            before: "ALTER TABLE ".into(),
            after: format!(" {what}"),
        }
    }

    /// The type as the server prints it.
    fn printed_type(&self, context: &Context<'_>) -> Result<String, Diagnostic> {
        let answered = |outcome: &ProbeOutcome| {
            outcome
                .table
                .column(&self.column.value)
                .map(|it| it.data_type.clone())
        };
        let answer = context
            .accepted(&self.type_probe(), self.data_type.span)?
            .and_then(answered);
        answer
            .or_else(|| types::canonical(&self.data_type.value).map(|known| known.to_string()))
            .ok_or_else(|| {
                Diagnostic::new(
                    "unknown_type",
                    format!("`{}` is not a type known here", self.data_type.value),
                )
                .at(self.data_type.span)
            })
    }

    /// What it costs, and whether it is allowed.
    fn change(&self, column: &Column, printed: &str) -> Result<TypeChange, Diagnostic> {
        let from = &column.data_type;
        let complaint = |code, message: String| Diagnostic::new(code, message).at(self.data_type.span);
        let change = types::widening(from, printed);
        if matches!(self.by, By::Conversion { .. }) && (self.using().is_some() || change.is_none()) {
            return Ok(TypeChange::Lossy);
        }
        match change {
            Some(TypeChange::Same) => Err(complaint(
                "no_change",
                format!("`{}` is {printed} already", column.name),
            )
            .help("remove this change")),
            Some(TypeChange::Lossy) | None if matches!(self.by, By::Widening) => Err(complaint(
                "not_a_widening",
                format!("{printed} does not hold every value of {from}, or nothing is known about the pair"),
            )
            .help(
                "widen_column changes a type only where no value can be lost; change_type converts values",
            )),
            change => Ok(change.unwrap_or(TypeChange::Lossy)),
        }
    }

    fn printed_column(
        &self,
        context: &Context<'_>,
        column: &Column,
        printed: &str,
    ) -> Result<Column, Diagnostic> {
        let mut after = column.clone();
        after.data_type = printed.to_owned();
        if let Ok(Some(outcome)) = context.accepted(&self.type_probe(), self.data_type.span)
            && let Some(answer) = outcome.table.column(&column.name)
        {
            after.storage.clone_from(&answer.storage);
            if matches!(self.by, By::Conversion { .. }) {
                after.default.clone_from(&answer.default);
            }
        } else {
            after.storage = storage::of_type(printed).to_owned();
        }
        storage::keep(column, &mut after);
        if !types::is_collatable(printed) {
            after.collation = None;
        }
        if let (Some(probe), Some(default)) = (self.default_probe(), &self.default) {
            let answered = |outcome: &ProbeOutcome| {
                outcome
                    .table
                    .column(&column.name)
                    .and_then(|it| it.default.clone())
            };
            let answer = context.accepted(&probe, default.span)?.and_then(answered);
            after.default = Some(answer.unwrap_or_else(|| default.value.clone()));
        }
        Ok(after)
    }

    fn shadow(
        &self,
        context: &Context<'_>,
        table: &Table,
        column: &Column,
        after: &Column,
        (members, conversion): (Vec<Member>, Option<Conversion>),
    ) -> Shadow {
        let suppress_triggers = context.now.role.may_set_replication_role;
        let name = &self.table.value;
        let mut hazards = vec![
            Hazard::new(
                "extra_column",
                format!(
                    "until contract, SELECT * on {name} also returns the column that is not in use, and COPY and INSERT without a column list see one more column"
                ),
            ),
            Hazard::new(
                "prepared_statements",
                format!(
                    "prepared SELECT * and RETURNING * on {name} fail with 0A000 after this step, after the cutover and after contract, until they are prepared again"
                ),
            ),
        ];
        let tables = members
            .iter()
            .filter_map(|member| context.catalog.tables.get(&member.table));
        let tables: Vec<&Table> = tables.collect();
        let triggers = tables.iter().flat_map(|table| &table.triggers);
        let firing = triggers.filter(|(_, it)| !it.cloned);
        let firing: Vec<_> = firing.map(|(name, _)| ident(name)).collect();
        if !suppress_triggers && !firing.is_empty() {
            let message = format!(
                "the role may not set session_replication_role: these triggers fire on the backfill: {}",
                firing.join(", ")
            );
            hazards.push(Hazard::new("triggers_fire", message));
        }
        let logs_rows = |table: &&Table| {
            table.replica_identity == ReplicaIdentity::Full && table.persistence == Persistence::Permanent
        };
        if tables.iter().any(logs_rows) {
            hazards.push(Hazard::new(
                "wal",
                "REPLICA IDENTITY FULL logs whole rows of the backfill".to_owned(),
            ));
        }
        hazards.extend(conversion.as_ref().and_then(Conversion::hazard));
        Shadow {
            word: String::new(),
            table: self.table.value.clone(),
            column: column.clone(),
            new_type: after.data_type.clone(),
            key: table.key_columns(),
            rows: table.size.rows,
            bytes: table.size.heap_bytes,
            suppress_triggers,
            trigger_functions: tables
                .iter()
                .flat_map(|table| trigger_functions(table, |_| true))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            hazards,
            names: Names::of(&column.name),
            spread: tree::spread(table),
            members,
            conversion,
            collation: after.collation.clone(),
        }
    }

    fn default_text(&self, after: &Column) -> Option<String> {
        let given = self.default.as_ref().map(|default| default.value.clone());
        given.or_else(|| after.default.clone())
    }

    fn way<'a>(
        &'a self,
        context: &Context<'a>,
        part: Part<'a>,
        others: &'a [Self],
    ) -> Result<Way, Vec<Diagnostic>> {
        let Part { table, column, .. } = part;
        let printed = &part.after.data_type;
        let complaints = self.common_complaints(table, column, printed);
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let partitioned = table.kind == TableKind::Partitioned || !table.children.is_empty();
        let alone = !partitioned && table.partition_of.is_none() && table.inherits.is_empty();
        let keeps_type = types::differ_in_modifiers(&column.data_type, printed);
        let around = Around::of(context, &self.table.value, &column.name, keeps_type);
        if others.is_empty() && part.change == TypeChange::CatalogOnly && around.is_light(alone) {
            return Ok(Way::CatalogOnly(self.direct(
                context,
                table,
                column,
                &part.after,
                around,
            )));
        }
        let held = !others.is_empty() || around.holds();
        let direct = self.direct(context, table, column, &part.after, Around::default());
        if part.change != TypeChange::Lossy && direct.small && alone && !held {
            return Ok(Way::InPlace(direct));
        }
        let group = self.group(context, part, others)?;
        Ok(Way::Shadow(Box::new(group)))
    }

    pub fn probes(&self, now: &CatalogSnapshot) -> Vec<Probe> {
        let printed = types::canonical(&self.data_type.value);
        let printed = printed.map_or_else(|| self.data_type.value.clone(), |it| it.to_string());
        let others = self.others(now, &printed);
        let all: Vec<&Self> = others.iter().chain([self]).collect();
        let moves = Moves::new(
            all.iter()
                .map(|it| (it.table.value.clone(), it.column.value.clone())),
        )
        .with_below(now);
        let tables = moves.tables().into_iter();
        tables
            .flat_map(|table| {
                let members = all.iter().filter(|it| it.table.value == *table);
                Self::table_probes(now, table, members.copied(), &moves)
            })
            .collect()
    }

    fn table_probes<'a>(
        now: &CatalogSnapshot,
        name: &QualifiedName,
        members: impl Iterator<Item = &'a Self> + Clone,
        moves: &Moves,
    ) -> Vec<Probe> {
        let table = now.tables.get(name);
        let questions = Questions::new(name, table, moves);
        let asked = |it: &'a Self| Some((it, it.asked(table?)?));
        let asked: Vec<_> = members.clone().filter_map(asked).collect();
        let mut probes = Vec::new();
        for (member, [forwards, _]) in &asked {
            probes.extend(forwards.probes(member));
        }
        probes.extend(questions.before);
        probes.extend(members.clone().map(Self::type_probe));
        probes.extend(questions.retyped);
        for (member, [_, back]) in &asked {
            probes.extend(back.probes(member));
        }
        probes.extend(questions.as_shadow);
        probes.extend(questions.after);
        for member in members.clone() {
            probes.extend(member.probes_below(now, moves));
        }
        probes.extend(members.filter_map(Self::default_probe));
        probes
    }

    pub fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let part = self.part(context).map_err(|complaint| vec![complaint])?;
        let complaints = self.complain_listed(context);
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let (column, printed) = (part.column.clone(), part.after.clone());
        let others = self.others(context.catalog, &printed.data_type);
        let way = self.way(context, part, &others)?;
        Ok(Target {
            table: self.table.value.clone(),
            column,
            printed,
            default: self.default.as_ref().map(|default| default.value.clone()),
            way,
        })
    }
}

impl Target {
    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        match &self.way {
            Way::CatalogOnly(direct) => {
                let mut steps = vec![self.alter(direct, settings, "catalog only", Estimate::INSTANT)];
                let phase = steps[0].phase;
                steps.extend(self.proofs(direct, phase, settings));
                steps
            }
            Way::InPlace(direct) => {
                let estimate = Estimate::scan(direct.rows, direct.bytes, direct.bytes);
                vec![self.alter(
                    direct,
                    settings,
                    "rewritten in place: the table is small",
                    estimate,
                )]
            }
            Way::Shadow(group) => group.steps(settings),
        }
    }

    pub fn swaps(&self) -> Vec<(QualifiedName, String)> {
        match &self.way {
            Way::Shadow(group) => group.swaps(),
            _ => Vec::new(),
        }
    }

    pub fn apply_to(&self, catalog: &mut CatalogSnapshot) {
        let direct = match &self.way {
            Way::CatalogOnly(direct) | Way::InPlace(direct) => direct,
            Way::Shadow(group) => {
                group.apply(catalog);
                return;
            }
        };
        for member in &direct.tree {
            let table = catalog.tables.get_mut(&member.table);
            if let Some(column) = table.and_then(|table| table.column_mut(&self.column.name)) {
                column.clone_from(&member.after);
            }
        }
        if let (Some(table), Some(retyped)) = (catalog.tables.get_mut(&self.table), &direct.retyped) {
            carry::respell(table, retyped);
        }
    }
}

/// Functions of the table's triggers that may be compiled against the type of its columns.
fn trigger_functions(
    table: &Table,
    wanted: impl Fn(&crate::catalog::model::Trigger) -> bool,
) -> BTreeSet<String> {
    let triggers = table.triggers.values().filter(|it| wanted(it));
    triggers
        .map(|trigger| trigger.function.clone())
        .filter(|function| !function.starts_with("pg_catalog."))
        .collect()
}
