//! `widen_column`: another type that holds every value of the present one.

use super::parts::carry::{Carry, Questions, Subject};
use super::parts::shadow::{self, Names, Shadow};
use super::parts::{brief, dependents, storage};
use super::{Context, Operation, StepDraft};
use crate::catalog::model::{
    CatalogSnapshot, Column, ConstraintKind, Persistence, Probe, ProbeOutcome, ReplicaIdentity, Table,
    TableKind,
};
use crate::catalog::types::{self, TypeChange};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{
    Action, Check, ColumnFacts, Estimate, Expectation, Hazard, Lock, LockMode, Phase, Settings, Transaction,
    Undo, Work,
};
use crate::sql::{QualifiedName, ident, idents, literal};
use std::collections::BTreeSet;

const MANUAL: &str = "\
Gives a column a type that holds every value of the present one: integer → bigint, varchar(20) → text,
numeric(10,2) → numeric(12,2), real → double precision…. The default may change with it.

```yaml
- widen_column: {table: orders, column: version, type: bigint, default: \"0\"}
```

The lightest safe way is taken:
- catalog only, where PostgreSQL neither rewrites the table nor rebuilds an index nor scans for a CHECK;
- in place, where the table is small (`small_table`, 8 MB by default): one rewrite under the lock;
- a shadow column otherwise: added with a trigger that keeps it equal, filled in short batches (by as many sessions
  as `workers` says, while no standby is further behind than `replica_lag`), proven, compared row by row, swapped in
  by one short transaction (cutover). Until contract the old column follows the new one, so that a rollback loses
  nothing. The column then stands last in the table.

What hangs on the column comes over to the shadow: keys, unique constraints and indexes of all kinds, checks, foreign
keys of the table and to it, the sequence of a serial or identity column, views at any depth, triggers, rules,
policies, statistics objects, comments, grants, storage and statistics settings. Indexes and constraints are built and
proven beside the old ones before the cutover; foreign keys of other tables move ahead of it, one by one. What comes to
hang on the column after the plan was made stops the swap, by name, instead of getting lost.

Refused for now, by name: a shadow column for a column in a materialized view, a publication, a generated column, a
deferrable key or an exclusion constraint, for a view that has triggers, rules or comments on columns of its own, and
for partitioned or inherited tables.

Locks: ACCESS EXCLUSIVE on the table for an instant (add, checks, cutover, contract; in place: while it is rewritten),
with a foreign key also on the other table; SHARE UPDATE EXCLUSIVE while indexes are built and constraints proven,
which blocks neither reads nor writes.
Undo: the old column comes back; refused, with the keys, when rows hold values that it cannot. Where going back would
rewrite a table that is not small, a catalog-only change cannot be undone and therefore runs in contract.
";

#[derive(Debug, Clone)]
pub struct WidenColumn {
    table: Located<QualifiedName>,
    column: Located<String>,
    data_type: Located<String>,
    default: Option<Located<String>>,
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
    Shadow(Box<Shadow>),
}

/// One ALTER TABLE does it.
struct Direct {
    /// The table and, catalog only, everything below it.
    tree: Vec<Member>,
    /// Sequences of a serial column, which keep their own type.
    sequences: Vec<QualifiedName>,
    key: Vec<String>,
    rows: i64,
    bytes: i64,
    small: bool,
}

/// The column in one table of the tree.
struct Member {
    table: QualifiedName,
    before: Column,
    after: Column,
    /// Whether it gets the new default: a partition may have one of its own.
    default_changes: bool,
}

/// How long a small table may be rewritten while everybody waits.
const REWRITE_MS_MAX: u64 = 2_000;

/// Tables may grow between plan and execution, but not beyond this many times what counts as small.
const GROWTH_MAX: u64 = 2;

/// Less than this is rewritten in no time.
const GROWTH_BYTES: u64 = 1 << 20;

impl WidenColumn {
    fn type_probe(&self) -> Probe {
        self.probe(format!("TYPE {}", self.data_type.value))
    }

    fn default_probe(&self) -> Option<Probe> {
        self.default
            .as_ref()
            .map(|default| self.probe(format!("SET DEFAULT {}", default.value)))
    }

    fn probe(&self, what: String) -> Probe {
        Probe {
            table: self.table.value.clone(),
            before: "ALTER TABLE ".into(),
            after: format!(" ALTER COLUMN {} {what}", ident(&self.column.value)),
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

    /// Whether it is a widening at all, and which kind.
    fn change(&self, column: &Column, printed: &str) -> Result<TypeChange, Diagnostic> {
        let from = &column.data_type;
        let complaint = |code, message: String| Diagnostic::new(code, message).at(self.data_type.span);
        match types::widening(from, printed) {
            Some(TypeChange::Same) => Err(complaint(
                "no_change",
                format!("`{}` is {printed} already", column.name),
            )
            .help("remove this change")),
            Some(TypeChange::Lossy) | None => Err(complaint(
                "not_a_widening",
                format!("{printed} does not hold every value of {from}, or nothing is known about the pair"),
            )
            .help("widen_column changes a type only where no value can be lost")),
            Some(change) => Ok(change),
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
        } else {
            after.storage = storage::of_type(printed).to_owned();
        }
        storage::keep(column, &mut after);
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

    fn refused(&self, why: &str, hanging: Vec<String>) -> Option<Diagnostic> {
        if hanging.is_empty() {
            return None;
        }
        let message = format!("{why}: {}", hanging.join(", "));
        Some(Diagnostic::new("cannot_widen_yet", message).at(self.column.span))
    }

    /// What stops an ALTER TABLE … TYPE whichever way it is done.
    fn common_complaints(&self, table: &Table, column: &Column) -> Vec<Diagnostic> {
        let name = &self.table.value;
        let plain = |code, message: String| Diagnostic::new(code, message).at(self.column.span);
        let mut found = Vec::new();
        if column.generated.is_some() {
            found.push(plain(
                "generated_column",
                format!("`{}` is a generated column", column.name),
            ));
        }
        if column.inherited {
            let message = format!("`{}` is inherited; change it on the parent", column.name);
            found.push(plain("inherited_column", message));
        }
        if table.kind == TableKind::Foreign || table.of_type.is_some() {
            found.push(plain(
                "unsupported_table",
                format!("{name} is a foreign or typed table"),
            ));
        }
        if table.partition_key_columns.contains(&column.name) {
            found.push(plain(
                "partition_key",
                format!("`{}` is part of the partition key", column.name),
            ));
        }
        let exclusions =
            dependents::constraints(table, &column.name, |kind| kind == ConstraintKind::Exclusion);
        found.extend(self.refused("these constraints hang on the column", exclusions));
        let stored = table.row_type_used_by.clone();
        found.extend(self.refused("these columns store rows of the table", stored));
        found
    }

    /// What would make the catalog-only way rebuild or scan under the lock.
    fn heavy_under_lock(table: &Table, column: &Column, partitioned: bool) -> Vec<String> {
        let rebuilt = |index: &crate::catalog::model::Index| {
            partitioned
                || index.predicate.is_some()
                || index.expression_columns.contains(&column.name)
                || index.keys.iter().any(|key| key.expression.is_some())
        };
        let mut found: Vec<String> = table
            .indexes
            .iter()
            .filter(|(_, index)| index.mentions(&column.name) && rebuilt(index))
            .map(|(name, _)| format!("index {} would be rebuilt", ident(name)))
            .collect();
        let checks = dependents::constraints(table, &column.name, |kind| kind == ConstraintKind::Check);
        found.extend(
            checks
                .into_iter()
                .map(|check| format!("{check} would be scanned for")),
        );
        found
    }

    /// Triggers beside which ours cannot keep the columns equal, or the cutover cannot be done.
    fn trigger_complaints(&self, table: &Table, column: &Column) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let trigger = shadow::trigger_name(&column.name);
        let later = |(other, it): &(&String, &crate::catalog::model::Trigger)| {
            it.before_row_write && other.as_bytes() > trigger.as_bytes()
        };
        let later = table
            .triggers
            .iter()
            .filter(later)
            .map(|(other, _)| format!("trigger {}", ident(other)))
            .collect();
        found.extend(self.refused(
            "these triggers would run after ours and could change the value again",
            later,
        ));
        let foreign = table
            .triggers
            .values()
            .filter(|it| !it.function_owned && !it.function.starts_with("pg_catalog."))
            .map(|it| format!("function {}()", it.function))
            .collect();
        found.extend(self.refused(
            "sessions must compile these trigger functions again at the cutover, which takes their owner",
            foreign,
        ));
        found
    }

    /// What a shadow column cannot carry over yet.
    fn shadow_complaints(&self, context: &Context<'_>, table: &Table, column: &Column) -> Vec<Diagnostic> {
        let name = &self.table.value;
        let foreign = column.grants.iter().filter(|grant| grant.grantor != table.owner);
        let foreign = foreign.map(|grant| format!("a grant by {} to {}", grant.grantor, grant.grantee));
        let mut found = Vec::new();
        found.extend(self.refused("a shadow column does not carry these over yet", foreign.collect()));
        if table.kind == TableKind::Partitioned
            || !table.children.is_empty()
            || !table.inherits.is_empty()
            || table.partition_of.is_some()
        {
            found.extend(self.refused(
                "a shadow column is not possible yet on partitioned or inherited tables",
                vec![name.to_string()],
            ));
        }
        let published = dependents::publications(context.catalog, name);
        found.extend(self.refused(
            "subscribers of these publications would need the new column first",
            published,
        ));
        found.extend(self.trigger_complaints(table, column));
        if table.force_row_security && !context.now.role.superuser {
            found.extend(self.refused(
                "the backfill would not see all rows",
                vec!["FORCE ROW LEVEL SECURITY".into()],
            ));
        }
        if !context.now.role.may_set_replication_role && !table.rules.is_empty() {
            let rules = table
                .rules
                .keys()
                .map(|rule| format!("rule {}", ident(rule)))
                .collect();
            found.extend(self.refused("these rules would rewrite the backfill", rules));
        }
        if !context.now.role.may_create_schema {
            found.extend(self.refused("the role may not create", vec!["schema pgmorph".into()]));
        }
        found
    }

    fn shadow(
        &self,
        context: &Context<'_>,
        table: &Table,
        column: &Column,
        printed: &str,
        carry: Carry,
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
        let firing: Vec<_> = table.triggers.keys().map(|name| ident(name)).collect();
        if !suppress_triggers && !firing.is_empty() {
            let message = format!(
                "the role may not set session_replication_role: these triggers fire on the backfill: {}",
                firing.join(", ")
            );
            hazards.push(Hazard::new("triggers_fire", message));
        }
        if table.replica_identity == ReplicaIdentity::Full && table.persistence == Persistence::Permanent {
            hazards.push(Hazard::new(
                "wal",
                "REPLICA IDENTITY FULL logs whole rows of the backfill".to_owned(),
            ));
        }
        Shadow {
            table: self.table.value.clone(),
            column: column.clone(),
            new_type: printed.to_owned(),
            new_default: self.default_text(column),
            key: table.key_columns(),
            rows: table.size.rows,
            bytes: table.size.heap_bytes,
            suppress_triggers,
            trigger_functions: trigger_functions(table),
            hazards,
            names: Names::of(&column.name),
            carry,
        }
    }

    fn default_text(&self, column: &Column) -> Option<String> {
        self.default
            .as_ref()
            .map(|default| default.value.clone())
            .or_else(|| column.default.clone())
    }

    fn direct(&self, context: &Context<'_>, table: &Table, column: &Column, after: &Column) -> Direct {
        let name = &self.table.value;
        let names = context.catalog.tree(name);
        // What sits in the tables themselves: a partitioned one reports the sum.
        let bytes = names
            .iter()
            .filter_map(|name| context.catalog.tables.get(name))
            .filter(|member| member.kind != TableKind::Partitioned)
            .map(|member| member.size.total_bytes())
            .sum();
        let retyped = context
            .accepted(&self.type_probe(), self.data_type.span)
            .ok()
            .flatten()
            .and_then(|outcome| outcome.table.column(&column.name))
            .map_or_else(|| column.default.clone(), |answer| answer.default.clone());
        let member = |table: QualifiedName| {
            let before = context.catalog.tables.get(&table)?.column(&column.name)?.clone();
            let same = before.default == column.default;
            let default_changes = self.default.is_some() && (same || table == *name);
            let mut new = before.clone();
            new.data_type.clone_from(&after.data_type);
            storage::of_type(&after.data_type).clone_into(&mut new.storage);
            storage::keep(&before, &mut new);
            if default_changes {
                new.default.clone_from(&after.default);
            } else if same {
                new.default.clone_from(&retyped);
            }
            Some(Member {
                table,
                before,
                after: new,
                default_changes,
            })
        };
        Direct {
            tree: names.into_iter().filter_map(member).collect(),
            sequences: owned_sequences(context.catalog, name, &column.name),
            key: table.key_columns(),
            rows: table.size.rows,
            bytes,
            small: u64::try_from(bytes).unwrap_or(u64::MAX) <= context.settings.small_table_bytes,
        }
    }

    fn way(
        &self,
        context: &Context<'_>,
        table: &Table,
        column: &Column,
        after: &Column,
        change: TypeChange,
    ) -> Result<Way, Vec<Diagnostic>> {
        let printed = &after.data_type;
        let complaints = self.common_complaints(table, column);
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let partitioned = table.kind == TableKind::Partitioned || !table.children.is_empty();
        let direct = self.direct(context, table, column, after);
        // PostgreSQL proves each key again while it holds both tables, and refuses where other objects use the column.
        let mut held =
            dependents::constraints(table, &column.name, |kind| kind == ConstraintKind::ForeignKey);
        held.extend(dependents::incoming(
            context.catalog,
            &self.table.value,
            &column.name,
        ));
        held.extend(dependents::outside(table, &column.name));
        let heavy = Self::heavy_under_lock(table, column, partitioned);
        if change == TypeChange::CatalogOnly && heavy.is_empty() && held.is_empty() {
            return Ok(Way::CatalogOnly(direct));
        }
        let alone = !partitioned && table.partition_of.is_none() && table.inherits.is_empty();
        if direct.small && alone && held.is_empty() {
            return Ok(Way::InPlace(direct));
        }
        let mut complaints = self.shadow_complaints(context, table, column);
        if types::fits_predicate(&column.data_type, printed, &column.name).is_none() {
            // After the cutover a write of such a value would fail instead of leaving the old column behind.
            complaints.extend(self.refused(
                "it cannot be told which values fit the old type, which a shadow column must",
                vec![format!("{} to {printed}", column.data_type)],
            ));
        }
        let names = Names::of(&column.name);
        let subject = Subject {
            table_name: &self.table.value,
            table,
            column,
            new_type: printed,
            names: &names,
            span: self.column.span,
        };
        let retyped = context
            .accepted(&self.type_probe(), self.data_type.span)
            .ok()
            .flatten();
        let carry = match Carry::plan(context, &subject, retyped) {
            Ok(carry) if complaints.is_empty() => carry,
            carry => {
                complaints.extend(carry.err().into_iter().flatten());
                return Err(complaints);
            }
        };
        Ok(Way::Shadow(Box::new(
            self.shadow(context, table, column, printed, carry),
        )))
    }
}

/// Functions of the table's triggers that may be compiled against the type of its columns.
fn trigger_functions(table: &Table) -> Vec<String> {
    let functions = table.triggers.values().map(|trigger| trigger.function.clone());
    let own: BTreeSet<String> = functions
        .filter(|function| !function.starts_with("pg_catalog."))
        .collect();
    own.into_iter().collect()
}

/// Sequences that a serial column owns; those of an identity follow by themselves.
fn owned_sequences(catalog: &CatalogSnapshot, table: &QualifiedName, column: &str) -> Vec<QualifiedName> {
    let owned = catalog.sequences.iter().filter(|(_, sequence)| {
        !sequence.identity
            && sequence
                .owned_by
                .as_ref()
                .is_some_and(|(owner, name)| owner == table && name == column)
    });
    owned.map(|(name, _)| name.clone()).collect()
}

impl Operation for WidenColumn {
    type Target = Target;
    const NAME: &'static str = "widen_column";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let column = fields.identifier("column");
        let data_type = fields.text("type");
        let default = fields.optional_text("default");
        Some(Self {
            table: table?,
            column: column?,
            data_type: data_type?,
            default,
        })
    }

    fn probes(&self, now: &CatalogSnapshot) -> Vec<Probe> {
        let table = now.tables.get(&self.table.value);
        let names = Names::of(&self.column.value);
        let questions = Questions::new(&self.table.value, table, &self.column.value, &names);
        let mut probes = questions.before;
        probes.push(self.type_probe());
        probes.extend([questions.as_shadow, questions.after]);
        probes.extend(self.default_probe());
        probes
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let one = |complaint| vec![complaint];
        let table = context.table(&self.table).map_err(one)?;
        let column = context
            .column(&self.table.value, table, &self.column)
            .map_err(one)?;
        let printed_type = self.printed_type(context).map_err(one)?;
        let change = self.change(column, &printed_type).map_err(one)?;
        let printed = self.printed_column(context, column, &printed_type).map_err(one)?;
        let way = self.way(context, table, column, &printed, change)?;
        Ok(Target {
            table: self.table.value.clone(),
            column: column.clone(),
            printed,
            default: self.default.as_ref().map(|default| default.value.clone()),
            way,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        match &target.way {
            Way::CatalogOnly(direct) => {
                vec![target.alter(direct, settings, "catalog only", Estimate::INSTANT)]
            }
            Way::InPlace(direct) => {
                let estimate = Estimate::scan(direct.rows, direct.bytes, direct.bytes);
                vec![target.alter(
                    direct,
                    settings,
                    "rewritten in place: the table is small",
                    estimate,
                )]
            }
            Way::Shadow(shadow) => shadow.steps(settings),
        }
    }

    fn swaps(target: &Target) -> Vec<(QualifiedName, String)> {
        match &target.way {
            Way::Shadow(_) => vec![(target.table.clone(), target.column.name.clone())],
            _ => Vec::new(),
        }
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        let direct = match &target.way {
            Way::CatalogOnly(direct) | Way::InPlace(direct) => direct,
            Way::Shadow(shadow) => {
                shadow.apply(catalog, target.printed.clone());
                return;
            }
        };
        for member in &direct.tree {
            let table = catalog.tables.get_mut(&member.table);
            if let Some(column) = table.and_then(|table| table.column_mut(&target.column.name)) {
                column.clone_from(&member.after);
            }
        }
    }
}

impl Target {
    fn alter(&self, direct: &Direct, settings: &Settings, how: &str, estimate: Estimate) -> StepDraft {
        let (table, column, old_type) = (&self.table, ident(&self.column.name), &self.column.data_type);
        let new_type = &self.printed.data_type;
        let in_place = matches!(self.way, Way::InPlace(_));
        let mut hazards = vec![Hazard::new(
            "prepared_statements",
            format!(
                "statements prepared before that return {table}.{column} fail with 0A000 until they are prepared again"
            ),
        )];
        let back_rewrites = types::widening(new_type, old_type) != Some(TypeChange::CatalogOnly);
        let irreversible = back_rewrites && !direct.small;
        if !in_place && back_rewrites && !irreversible {
            hazards.push(Hazard::new(
                "undo_rewrites",
                format!(
                    "going back to {old_type} rewrites {table} under ACCESS EXCLUSIVE, while it is small"
                ),
            ));
        }
        let mut statements = vec![self.lock_statement()];
        if in_place {
            let hint = "plan again: pgmorph then takes a shadow column";
            statements.push(self.still_small(direct, settings, hint));
        }
        statements.extend(self.alter_statements(direct, true));
        let mut work = brief(
            settings,
            format!("make {table}.{column} {new_type} ({how})"),
            statements,
            Self::locks(direct),
            vec![self.expect(new_type)],
        );
        if in_place {
            work.timeouts.statement_ms = work.timeouts.statement_ms.min(REWRITE_MS_MAX);
        }
        StepDraft {
            id: "alter".into(),
            phase: if irreversible {
                Phase::Contract
            } else {
                Phase::Cutover
            },
            work,
            hazards,
            undo: if irreversible {
                Undo::Irreversible {
                    reason: format!(
                        "going back to {old_type} would rewrite {table} under ACCESS EXCLUSIVE, and the wider type does no harm"
                    ),
                }
            } else {
                Undo::Work(self.back(direct, settings, back_rewrites))
            },
            estimate,
        }
    }

    fn lock_statement(&self) -> String {
        format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", self.table)
    }

    fn locks(direct: &Direct) -> Vec<Lock> {
        let members = direct.tree.iter();
        members
            .map(|member| Lock::new(&member.table, LockMode::AccessExclusive))
            .collect()
    }

    fn expect(&self, data_type: &str) -> Expectation {
        Expectation::Column {
            table: self.table.clone(),
            column: self.column.name.clone(),
            facts: ColumnFacts {
                data_type: Some(data_type.into()),
                ..ColumnFacts::default()
            },
        }
    }

    /// Asked before the lock is taken, so that usually nobody waits for the answer, and once more behind it.
    fn back(&self, direct: &Direct, settings: &Settings, rewrites: bool) -> Vec<Work> {
        let (table, column, old_type) = (&self.table, ident(&self.column.name), &self.column.data_type);
        let new_type = &self.printed.data_type;
        let mut works = Vec::new();
        let mut statements = vec![self.lock_statement()];
        let mut lost = None;
        if rewrites {
            let hint = "the wider type does no harm: keep it, or go back in a maintenance window of your own";
            statements.push(self.still_small(direct, settings, hint));
            let fits = types::fits_predicate(old_type, new_type, &column)
                .unwrap_or_else(|| format!("{column}::{old_type}::{new_type} IS NOT DISTINCT FROM {column}"));
            let key = if direct.key.is_empty() {
                "ctid::text AS ctid".to_owned()
            } else {
                idents(&direct.key)
            };
            let check = Check {
                name: format!("every value of {table}.{column} fits {old_type}"),
                query: format!("SELECT {key} FROM {table} WHERE NOT ({fits})"),
                help: "going back would lose these values: change them first".into(),
            };
            works.push(Work {
                summary: format!("check that {}", check.name),
                action: Action::Check(check.clone()),
                transaction: Transaction::None,
                locks: vec![Lock::new(table, LockMode::AccessShare)],
                timeouts: settings.patient(),
                expect: Vec::new(),
                on_violation: None,
            });
            statements.push(refuse_if(
                &format!("EXISTS (SELECT FROM {table} WHERE NOT ({fits}))"),
                "23514",
                &format!("values of {table}.{column} do not fit {old_type}"),
                "change them first",
            ));
            lost = Some(check);
        }
        statements.extend(self.alter_statements(direct, false));
        let mut undo = brief(
            settings,
            format!("make {table}.{column} {old_type} again"),
            statements,
            Self::locks(direct),
            vec![self.expect(old_type)],
        );
        if rewrites {
            undo.timeouts.statement_ms = undo.timeouts.statement_ms.min(REWRITE_MS_MAX);
        }
        undo.on_violation = lost;
        works.push(undo);
        works
    }

    /// A plan may be old when it is run, and a rewrite of what has grown would stop the application.
    fn still_small(&self, direct: &Direct, settings: &Settings, hint: &str) -> String {
        let size = |member: &Member| {
            let name = literal(&member.table.to_string());
            format!("pg_catalog.pg_total_relation_size({name}::pg_catalog.regclass)")
        };
        let sizes: Vec<_> = direct.tree.iter().map(size).collect();
        let limit = settings
            .small_table_bytes
            .saturating_mul(GROWTH_MAX)
            .clamp(GROWTH_BYTES, i64::MAX.unsigned_abs());
        refuse_if(
            &format!("{} > {limit}", sizes.join(" + ")),
            "55000",
            &format!("{} has grown too large to be rewritten in place", self.table),
            hint,
        )
    }

    fn alter_statements(&self, direct: &Direct, forwards: bool) -> Vec<String> {
        let (table, column) = (&self.table, ident(&self.column.name));
        let data_type = if forwards { &self.printed } else { &self.column }
            .data_type
            .as_str();
        // Without repeating it, the column's own collation would be reset.
        let collate = self
            .column
            .collation
            .as_ref()
            .map(|it| format!(" COLLATE {it}"))
            .unwrap_or_default();
        // The assignment on the way back raises an error where an explicit cast would cut the value off.
        let using = if forwards {
            format!(" USING {column}::{data_type}")
        } else {
            String::new()
        };
        let only = if direct.tree.len() > 1 { "ONLY " } else { "" };
        let alter = |member: &Member, what: String| {
            format!("ALTER TABLE {only}{} ALTER COLUMN {column} {what}", member.table)
        };
        let mut statements = Vec::new();
        for member in direct.tree.iter().filter(|member| member.default_changes) {
            if if forwards { &member.before } else { &member.after }
                .default
                .is_some()
            {
                statements.push(alter(member, "DROP DEFAULT".into()));
            }
        }
        statements.push(format!(
            "ALTER TABLE {table} ALTER COLUMN {column} TYPE {data_type}{collate}{using}"
        ));
        for member in &direct.tree {
            let default = if forwards {
                &self.default
            } else {
                &member.before.default
            };
            if let (true, Some(default)) = (member.default_changes, default) {
                statements.push(alter(member, format!("SET DEFAULT {default}")));
            }
            let kept = storage::settings(&member.before, data_type);
            statements.extend(kept.into_iter().map(|what| alter(member, what)));
        }
        if ["smallint", "integer", "bigint"].contains(&data_type) {
            let alter = |sequence| format!("ALTER SEQUENCE {sequence} AS {data_type}");
            statements.extend(direct.sequences.iter().map(alter));
        }
        // Changing the type dropped the column's statistics; a small table is analyzed in no time.
        if matches!(self.way, Way::InPlace(_)) {
            statements.push(format!("ANALYZE {table}"));
        }
        statements
    }
}

/// A statement that fails where the condition holds.
fn refuse_if(condition: &str, sqlstate: &str, message: &str, hint: &str) -> String {
    let body = format!(
        "BEGIN IF {condition} THEN RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = {}, HINT = {}; \
         END IF; END",
        literal(message),
        literal(hint)
    );
    format!("DO {}", literal(&body))
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::{Dependent, Trigger};
    use crate::ops::testing::{catalog, index, plan_text, table};

    const CHANGE: &str = "  - widen_column: {table: orders, column: version, type: bigint, default: 0}\n";

    #[test]
    fn a_large_table_gets_a_shadow_column() {
        let mut orders = table(&["id bigint not null", "version integer not null"])
            .with_primary_key("orders_pkey", &["id"]);
        orders.columns[1].default = Some("1".into());
        orders.columns[1].comment = Some("it's counted".into());
        insta::assert_snapshot!(plan_text(&catalog().with("orders", orders), CHANGE));
    }

    #[test]
    fn a_small_table_is_rewritten_in_place() {
        let mut orders = table(&["version integer not null"]);
        orders.size.heap_bytes = 8_192;
        orders.size.index_bytes = 0;
        let text = plan_text(&catalog().with("orders", orders), CHANGE);
        assert!(
            text.starts_with("01-widen_column-alter [cutover]")
                && text.contains("TYPE bigint USING version::bigint"),
            "{text}"
        );
    }

    #[test]
    fn a_longer_varchar_is_catalog_only_unless_an_index_would_be_rebuilt() {
        let change = "  - widen_column: {table: orders, column: code, type: varchar(40)}\n";
        let mut orders = table(&["code character varying(20)"]);
        orders.indexes.insert("plain".into(), index(&["code"], false));
        let text = plan_text(&catalog().with("orders", orders.clone()), change);
        assert!(
            text.contains("[contract]") && text.contains("(catalog only)"),
            "{text}"
        );
        assert!(text.contains("irreversible: going back to"), "{text}");
        let mut small = orders.clone();
        (small.size.heap_bytes, small.size.index_bytes) = (8_192, 8_192);
        let text = plan_text(&catalog().with("orders", small), change);
        assert!(text.contains("[cutover]") && text.contains("''23514''"), "{text}");
        assert!(text.contains("TYPE character varying(20);"), "{text}");
        let mut partial = index(&["code"], false);
        partial.predicate = Some("(code IS NOT NULL)".into());
        orders.indexes.insert("partial".into(), partial);
        let text = plan_text(&catalog().with("orders", orders), change);
        // Offline nobody tells how its predicate is spelled for the shadow column.
        assert!(text.contains("cannot carry index partial"), "{text}");
    }

    #[test]
    fn what_a_shadow_column_cannot_carry_is_refused_by_name() {
        let mut orders = table(&["version integer not null"]).with_primary_key("orders_pkey", &["version"]);
        orders.indexes.insert("v".into(), index(&["version"], false));
        let text = plan_text(&catalog().with("orders", orders.clone()), CHANGE);
        assert!(
            text.contains("ADD CONSTRAINT orders_pkey PRIMARY KEY USING INDEX"),
            "{text}"
        );
        assert!(text.contains("RENAME TO v;"), "{text}");
        orders.dependents.push(Dependent {
            column: Some("version".into()),
            kind: "view".into(),
            name: "view public.totals".into(),
        });
        let text = plan_text(&catalog().with("orders", orders), CHANGE);
        assert!(text.contains("cannot carry view public.totals"), "{text}");
    }

    #[test]
    fn only_lossless_changes_are_widenings() {
        let orders = table(&["version integer not null"]);
        let catalog = catalog().with("orders", orders);
        let to = |data_type: &str| {
            plan_text(
                &catalog,
                &format!("  - widen_column: {{table: orders, column: version, type: {data_type}}}\n"),
            )
        };
        assert!(to("smallint").contains("not_a_widening"), "{}", to("smallint"));
        assert!(to("int4").contains("no_change"), "{}", to("int4"));
        assert!(to("nonsense").contains("unknown_type"), "{}", to("nonsense"));
    }

    #[test]
    fn arrays_get_no_shadow_column() {
        let orders = table(&["version integer[]"]);
        let change = "  - widen_column: {table: orders, column: version, type: 'bigint[]'}\n";
        let text = plan_text(&catalog().with("orders", orders), change);
        assert!(text.contains("integer[] to bigint[]"), "{text}");
    }

    #[test]
    fn trigger_functions_of_others_are_refused() {
        let mut orders = table(&["version integer"]);
        let trigger = Trigger {
            definition: "CREATE TRIGGER touch BEFORE INSERT".into(),
            enabled: "origin".into(),
            before_row_write: true,
            columns: Vec::new(),
            function: "public.touch".into(),
            function_owned: false,
            comment: None,
        };
        orders.triggers.insert("touch".into(), trigger);
        let text = plan_text(&catalog().with("orders", orders), CHANGE);
        assert!(text.contains("function public.touch()"), "{text}");
    }

    #[test]
    fn later_changes_keep_off_a_swapped_column() {
        let orders = table(&["id bigint not null", "version integer not null"]);
        let changes = format!("{CHANGE}  - set_default: {{table: orders, column: version, default: 5}}\n");
        let text = plan_text(&catalog().with("orders", orders), &changes);
        assert!(text.contains("column_is_swapped"), "{text}");
    }
}
