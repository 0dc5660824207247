//! One ALTER TABLE does it: because nothing but the catalog changes, or because the table is small.
use super::around::Around;
use super::{Retype, Target, Way};
use crate::catalog::model::{CatalogSnapshot, Column, Constraint, Table, TableKind};
use crate::catalog::types::{self, TypeChange};
use crate::ops::parts::carry::{self, constraints};
use crate::ops::parts::shadow::{self, Moves};
use crate::ops::parts::{brief, key_list, lock_statement, storage};
use crate::ops::{Context, StepDraft};
use crate::plan::{
    Action, Check, ColumnFacts, Estimate, Expectation, Hazard, Lock, LockMode, Phase, Settings, Transaction,
    Undo, Work,
};
use crate::sql::{QualifiedName, ident, literal};
use std::collections::BTreeSet;

pub(super) struct Direct {
    /// The table and, catalog only, everything below it.
    pub(super) tree: Vec<Member>,
    /// Sequences of a serial column, which keep their own type.
    sequences: Vec<QualifiedName>,
    key: Vec<String>,
    pub(super) rows: i64,
    pub(super) bytes: i64,
    pub(super) small: bool,
    /// Statistics targets of what PostgreSQL builds anew.
    again: Vec<String>,
    /// Checks that are proven behind it; with the definitions of before and after.
    checks: Vec<ReplacedCheck>,
    /// Those of and to the column, and what is locked for their sake.
    keys: Vec<(QualifiedName, String, Constraint)>,
    far_ends: Vec<QualifiedName>,
    /// That columns referring to it keep their types.
    left_behind: Option<Hazard>,
    /// Of the role's own, whose cached plans have the type of before.
    trigger_functions: BTreeSet<String>,
    /// The table with checks and expressions as the server spells them for the new type.
    pub(super) retyped: Option<Box<Table>>,
}

struct ReplacedCheck {
    name: String,
    before: Constraint,
    after: Constraint,
}

/// The column in one table of the tree.
pub(super) struct Member {
    pub(super) table: QualifiedName,
    before: Column,
    pub(super) after: Column,
    /// Whether it gets the new default: a partition may have one of its own.
    default_changes: bool,
}

/// How long a small table may be rewritten while everybody waits.
const REWRITE_MS_MAX: u64 = 2_000;

/// Tables may grow between plan and execution, but not beyond this many times what counts as small.
const GROWTH_MAX: u64 = 2;

/// Less than this is rewritten in no time.
const GROWTH_BYTES: u64 = 1 << 20;

impl Retype {
    pub(super) fn direct(
        &self,
        context: &Context<'_>,
        table: &Table,
        column: &Column,
        after: &Column,
        around: Around,
    ) -> Direct {
        let name = &self.table.value;
        let names = context.catalog.tree(name);
        // What sits in the tables themselves: a partitioned one reports the sum.
        let bytes = names
            .iter()
            .filter_map(|name| context.catalog.tables.get(name))
            .filter(|member| member.kind != TableKind::Partitioned)
            .map(|member| member.size.total_bytes())
            .sum();
        let answer = context
            .accepted(&self.type_probe(), self.data_type.span)
            .ok()
            .flatten();
        let retyped = answer
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
        let again = names
            .iter()
            .filter_map(|name| Some((name, context.catalog.tables.get(name)?)))
            .flat_map(|(name, table)| targets_again(name, table, &column.name))
            .collect();
        let tables = names.iter().filter_map(|name| context.catalog.tables.get(name));
        let trigger_functions = tables
            .flat_map(|table| super::trigger_functions(table, |it| it.function_owned))
            .collect();
        let spelled = |name: &str| answer.and_then(|outcome| outcome.table.constraints.get(name));
        let checks = around.checks.into_iter().map(|(name, before)| {
            let mut after = before.clone();
            if let Some(spelled) = spelled(&name) {
                after.definition.clone_from(&spelled.definition);
            }
            ReplacedCheck { name, before, after }
        });
        Direct {
            again,
            checks: checks.collect(),
            keys: around.keys,
            left_behind: self.left_behind(context, &Moves::new([(name.clone(), column.name.clone())])),
            far_ends: around.far_ends,
            trigger_functions,
            retyped: answer.map(|outcome| Box::new(outcome.table.clone())),
            tree: names.into_iter().filter_map(member).collect(),
            sequences: owned_sequences(context.catalog, name, &column.name),
            key: table.key_columns(),
            rows: table.size.rows,
            bytes,
            small: u64::try_from(bytes).unwrap_or(u64::MAX) <= context.settings.small_table_bytes,
        }
    }
}

fn targets_again(name: &QualifiedName, table: &Table, column: &str) -> Vec<String> {
    let indexes = table.indexes.iter().filter(|(_, it)| it.mentions(column));
    let statistics = table
        .statistics
        .iter()
        .filter(|(_, it)| it.columns.iter().any(|it| it == column));
    let of_statistics = statistics.filter_map(|(name, it)| {
        let target = it.statistics_target?;
        Some(format!("ALTER STATISTICS {name} SET STATISTICS {target}"))
    });
    indexes
        .flat_map(|(index, it)| {
            it.set_statistics(&name.sibling(index.clone()))
                .collect::<Vec<_>>()
        })
        .chain(of_statistics)
        .collect()
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

impl Target {
    pub(super) fn alter(
        &self,
        direct: &Direct,
        settings: &Settings,
        how: &str,
        estimate: Estimate,
    ) -> StepDraft {
        let (table, column, old_type) = (&self.table, ident(&self.column.name), &self.column.data_type);
        let new_type = &self.printed.data_type;
        let in_place = matches!(self.way, Way::InPlace(_));
        let mut hazards = vec![Hazard::new(
            "prepared_statements",
            format!(
                "statements prepared before that return {table}.{column} fail with 0A000 until they are prepared again"
            ),
        )];
        hazards.extend(direct.left_behind.clone());
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
        let mut statements = vec![self.lock_statement(direct)];
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

    fn lock_statement(&self, direct: &Direct) -> String {
        let tables: Vec<QualifiedName> = std::iter::once(&self.table)
            .chain(&direct.far_ends)
            .cloned()
            .collect();
        lock_statement(&tables)
    }

    /// Of the checks that the alteration has put up again.
    pub(super) fn proofs(&self, direct: &Direct, phase: Phase, settings: &Settings) -> Vec<StepDraft> {
        let proofs = direct
            .checks
            .iter()
            .filter_map(|check| constraints::prove_again(&self.table, &check.name, &check.after, settings));
        let mut steps: Vec<StepDraft> = proofs
            .map(|work| StepDraft {
                id: "validate".into(),
                phase,
                work,
                hazards: Vec::new(),
                undo: Undo::NotNeeded {
                    reason: "going back puts the check up again".into(),
                },
                estimate: Estimate::scan(direct.rows, direct.bytes, 0),
            })
            .collect();
        carry::number(&mut steps);
        steps
    }

    fn locks(direct: &Direct) -> Vec<Lock> {
        let members = direct.tree.iter().map(|member| &member.table);
        members
            .chain(&direct.far_ends)
            .map(|table| Lock::new(table, LockMode::AccessExclusive))
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
        let mut statements = vec![self.lock_statement(direct)];
        let mut lost = None;
        if rewrites {
            let hint = "the wider type does no harm: keep it, or go back in a maintenance window of your own";
            statements.push(self.still_small(direct, settings, hint));
            let fits = types::fits_predicate(old_type, new_type, &column)
                .unwrap_or_else(|| format!("{column}::{old_type}::{new_type} IS NOT DISTINCT FROM {column}"));
            let key = key_list(&direct.key);
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
                guards_values: false,
                part: None,
                not_before: None,
            });
            statements.push(refuse_if(
                &format!("EXISTS (SELECT FROM {table} WHERE NOT ({fits}))"),
                "23514",
                &format!("values of {table}.{column} do not fit {old_type}"),
                "change them first",
            ));
            lost = Some(check);
        }
        // A rewrite would prove them again while it holds both tables.
        let keys = direct.keys.iter().filter(|_| rewrites);
        statements.extend(keys.clone().map(|(of, name, _)| constraints::drop(of, name)));
        statements.extend(self.alter_statements(direct, false));
        statements.extend(
            keys.clone()
                .flat_map(|(of, name, it)| constraints::add_again(of, name, it)),
        );
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
        works.extend(
            direct
                .checks
                .iter()
                .filter_map(|it| constraints::prove_again(table, &it.name, &it.before, settings)),
        );
        works.extend(keys.filter_map(|(of, name, it)| constraints::prove_again(of, name, it, settings)));
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
        let drop = |check: &ReplacedCheck| constraints::drop(table, &check.name);
        let mut statements: Vec<String> = direct.checks.iter().map(drop).collect();
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
        for check in &direct.checks {
            let constraint = if forwards { &check.after } else { &check.before };
            statements.extend(constraints::add_again(table, &check.name, constraint));
        }
        if ["smallint", "integer", "bigint"].contains(&data_type) {
            let alter = |sequence| format!("ALTER SEQUENCE {sequence} AS {data_type}");
            statements.extend(direct.sequences.iter().map(alter));
        }
        statements.extend(direct.again.iter().cloned());
        statements.extend(shadow::refresh(&direct.trigger_functions));
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
