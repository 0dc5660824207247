//! `sync`: rows of one table follow those of others, write by write.

use super::parts::mapping::Mapping;
use super::parts::mirror::{DEPTH_MAX, Joined, Mirror};
use super::{Context, Operation, StepDraft, parts};
use crate::catalog::model::{CatalogSnapshot, Constraint, Probe, Table, TableKind, View};
use crate::catalog::types;
use crate::diagnostic::{Diagnostic, Located};
use crate::document::{Fields, Node, Value};
use crate::plan::{Estimate, Hazard, Lock, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{QualifiedName, ident};
use std::collections::{BTreeMap, BTreeSet};

const MANUAL: &str = "\
Writes to a table, and to those joined to it, are repeated in another table by triggers, in the same transaction:
rows inserted, updated, deleted, with changed keys, by TRUNCATE. A row of `from` has at most one row in `into`, which is
told by `key`: target column: source column. `columns` are expressions over `from` (called `as`) and what is joined;
they are kept equal. `insert_only` is given when a row is inserted and left alone then. Two entries in opposite
directions may hold at once: what one repeats does not travel back.

```yaml
- sync:
    name: portfolios_to_strategies
    from: public.customer_portfolios
    as: cp
    into: public.customer_strategies
    key: {portfolio_id: portfolio_id}
    join: LEFT JOIN lth_pvr.customer_strategies cs ON cs.portfolio_id = cp.portfolio_id
    joined: {lth_pvr.customer_strategies: {portfolio_id: portfolio_id}}
    where: cp.exchange_account_id IS NOT NULL
    columns: {org_id: cp.org_id, status: cp.status, live_enabled: \"coalesce(cs.live_enabled, false)\"}
    insert_only: {customer_strategy_id: \"coalesce(cs.customer_strategy_id, gen_random_uuid())\"}
    on_delete: delete
```

`joined` names the tables of `join` whose writes count: their column: the key column of `from`. Where several entries
have one source, rows of the targets come after those that they refer to by foreign keys, and go before them. `where`
tells the rows that have a counterpart. `on_delete: keep` leaves rows of the target whose source has gone. `fill: false` does not copy
the rows that are there already, `compare: false` does not compare all rows before the cutover.

The triggers write with the rights of the role that applies the plan, so that a writer needs none on the target. They run
with search_path pg_catalog, pg_temp, and so do the target's own triggers when a mirrored write fires them; schemas that
those need stand in `search_path`. If the target refuses a row, the write to the source fails. Tables and columns may be
renamed while it holds.

Locks: SHARE ROW EXCLUSIVE on `from` and the joined tables, for an instant; ACCESS EXCLUSIVE on each of them, one at a
time, for an instant, to drop the triggers in contract.
Undo: the triggers are dropped; what they wrote stays.
";

#[derive(Debug, Clone)]
pub struct Sync {
    name: Located<String>,
    mapping: Mapping,
    joined: Option<Vec<JoinedTable>>,
    deletes: bool,
    fill: bool,
    compare: bool,
    search_path: Vec<Located<String>>,
}

#[derive(Debug, Clone)]
struct JoinedTable {
    table: Located<QualifiedName>,
    /// Its column, the column of the driving table's key.
    columns: Vec<(Located<String>, Located<String>)>,
}

pub struct Target {
    mirror: Mirror,
    /// The driving table and the joined ones, each with all below it, in the order in which they are locked.
    sources: Vec<Source>,
    hazards: Vec<Hazard>,
    estimate: Estimate,
    fill: bool,
    compare: bool,
}

struct Source {
    table: QualifiedName,
    tree: Vec<QualifiedName>,
    /// As [`Mirror::sources`] numbers them.
    number: Option<usize>,
}

fn read_joined(fields: &Fields<'_>) -> Option<Vec<JoinedTable>> {
    let node = fields.optional("joined")?;
    let wrong = |node: &Node| {
        let message = "`joined` is a map of tables, each with a map of its columns";
        Diagnostic::new("wrong_type", message)
            .at(node.span)
            .help("joined: {lines: {order_id: id}}: its column, the column of the key of `from`")
    };
    let Value::Map(tables) = &node.value else {
        fields.report(wrong(node));
        return None;
    };
    let mut joined = Vec::new();
    for (name, columns) in tables {
        let Value::Map(pairs) = &columns.value else {
            fields.report(wrong(columns));
            continue;
        };
        let pair = |(column, key): &(Located<String>, Node)| {
            Some((column.clone(), fields.text_of(key, &column.value)?))
        };
        let columns = pairs.iter().filter_map(pair).collect();
        match QualifiedName::parse(&name.value, fields.default_schema()) {
            Ok(value) => joined.push(JoinedTable {
                table: Located {
                    value,
                    span: name.span,
                },
                columns,
            }),
            Err(message) => fields.report(Diagnostic::new("invalid_value", message).at(name.span)),
        }
    }
    Some(joined)
}

/// Whether a value of one type may stand where the other is expected, and is found by an index there.
fn comparable(one: &str, other: &str) -> bool {
    const INTEGERS: [&str; 3] = ["smallint", "integer", "bigint"];
    let is_text = |name: &str| name == "text" || name.starts_with("character varying");
    let width = |name: &str| INTEGERS.iter().position(|integer| *integer == name);
    let widened = matches!((width(one), width(other)), (Some(one), Some(other)) if one <= other);
    one == other || widened || is_text(one) && is_text(other) || types::differ_in_modifiers(one, other)
}

impl Sync {
    /// Whether the target's columns take what the expressions give.
    fn insertion(&self) -> Probe {
        const HERE: &str = "\u{1}";
        let select = self.mapping.select_from(HERE, true, None);
        let (before, after) = select.split_once(HERE).unwrap_or((&select, ""));
        let columns = list(self.mapping.given().map(|(column, _)| ident(&column.value)));
        Probe {
            table: self.mapping.from.value.clone(),
            before: format!(
                "EXPLAIN INSERT INTO {} ({columns}) {before}",
                self.mapping.into.value
            ),
            after: after.to_owned(),
        }
    }

    /// Everything else that the server may say to it is said to one of the texts, or about tables that are yet to be
    /// made.
    fn check_types(&self, context: &Context<'_>) -> Option<Diagnostic> {
        const DATATYPE_MISMATCH: &str = "42804";
        let probe = self.insertion();
        let error = context.answer(&probe)?.err()?;
        let answer = context.accepted(&probe, self.mapping.into.span);
        answer.err().filter(|_| error.sqlstate == DATATYPE_MISMATCH)
    }

    fn check_joined(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let mut complaints = Vec::new();
        if let (Some(join), None) = (&self.mapping.join, &self.joined) {
            let message = "`joined` is missing: writes to what is joined would not be repeated";
            complaints.push(Diagnostic::new("missing_key", message).at(join.span).help(
                "joined: {lines: {order_id: id}}: its column, the column of the key of `from`; `joined: {}` where what is \
                 joined never changes",
            ));
        }
        if let (None, Some([first, ..])) = (&self.mapping.join, self.joined.as_deref()) {
            let message = "there is no `join`";
            complaints.push(Diagnostic::new("missing_key", message).at(first.table.span));
        }
        for joined in self.joined.iter().flatten() {
            complaints.extend(self.check_one(context, joined));
        }
        complaints
    }

    fn check_one(&self, context: &Context<'_>, joined: &JoinedTable) -> Vec<Diagnostic> {
        let name = &joined.table;
        if [&self.mapping.from.value, &self.mapping.into.value].contains(&&name.value) {
            let message = format!("{} is `from` or `into` already", name.value);
            return vec![Diagnostic::new("same_table", message).at(name.span)];
        }
        let table = match context.table(name) {
            Ok(table) => table,
            Err(complaint) => return vec![complaint],
        };
        let mut complaints = unsuitable(context, name, table);
        let source = context.catalog.tables.get(&self.mapping.from.value);
        for (column, key) in &joined.columns {
            match context.column(&name.value, table, column) {
                Err(complaint) => complaints.push(complaint),
                Ok(found) => {
                    let wanted = source.and_then(|source| source.column(&key.value));
                    complaints.extend(
                        wanted
                            .filter(|it| !comparable(&found.data_type, &it.data_type))
                            .map(|it| {
                                let message = format!(
                                    "{}.{} is {}, and the key is {}",
                                    name.value,
                                    ident(&column.value),
                                    found.data_type,
                                    it.data_type
                                );
                                Diagnostic::new("type_mismatch", message).at(column.span)
                            }),
                    );
                }
            }
        }
        let keys: Vec<&str> = self
            .mapping
            .key
            .iter()
            .map(|(_, key)| key.value.as_str())
            .collect();
        let mut given: Vec<&str> = joined.columns.iter().map(|(_, key)| key.value.as_str()).collect();
        let mut wanted = keys.clone();
        (given.sort_unstable(), wanted.sort_unstable());
        if given != wanted {
            let message = format!(
                "`joined` must give each key column of `from` once: {}",
                keys.join(", ")
            );
            complaints.push(Diagnostic::new("invalid_value", message).at(name.span));
        }
        complaints
    }

    /// What the triggers need of the tables beyond what a mapping does.
    fn check_tables(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let Mapping { from, into, key, .. } = &self.mapping;
        let mut complaints = Vec::new();
        for name in [from, into] {
            // Whether there is one at all is told by the mapping.
            let Some(table) = context.catalog.tables.get(&name.value) else {
                continue;
            };
            complaints.extend(context.table(name).err());
            complaints.extend(unsuitable(context, name, table));
        }
        let column = |name: &Located<QualifiedName>, column: &Located<String>| {
            context.catalog.tables.get(&name.value)?.column(&column.value)
        };
        for (target, source) in key {
            let (Some(to), Some(of)) = (column(into, target), column(from, source)) else {
                continue;
            };
            if !comparable(&of.data_type, &to.data_type) {
                let message = format!(
                    "{}.{} is {}, and {}.{} is {}",
                    into.value,
                    ident(&target.value),
                    to.data_type,
                    from.value,
                    ident(&source.value),
                    of.data_type
                );
                complaints.push(Diagnostic::new("type_mismatch", message).at(source.span));
            }
            complaints.extend(foreign_type(context, &of.data_type, source));
        }
        for (target, _) in &self.mapping.columns {
            let identity = column(into, target).and_then(|column| column.identity.as_ref());
            if identity.is_some_and(|identity| identity.always) {
                let message = format!("`{}` is always generated and cannot be updated", target.value);
                let complaint = Diagnostic::new("cannot_be_updated", message).at(target.span);
                complaints.push(complaint.help("give it in `insert_only`"));
            }
        }
        complaints
    }

    fn mirror(&self, context: &Context<'_>) -> Mirror {
        let Mapping { from, into, key, .. } = &self.mapping;
        let source = context.catalog.tables.get(&from.value);
        let type_of = |column: &Located<String>| {
            let column = source.and_then(|source| source.column(&column.value));
            column.map(|column| column.data_type.clone()).unwrap_or_default()
        };
        let target = context.catalog.tables.get(&into.value);
        let fixed = |column: &Located<String>| {
            let column = target.and_then(|target| target.column(&column.value));
            column.is_some_and(|it| it.identity.as_ref().is_some_and(|identity| identity.always))
        };
        let joined = self.joined.iter().flatten().map(|joined| {
            let column = |key: &Located<String>| {
                let mut pairs = joined.columns.iter();
                let found = pairs.find(|(_, wanted)| wanted.value == key.value);
                found.map(|(column, _)| column.value.clone()).unwrap_or_default()
            };
            let columns: Vec<String> = key.iter().map(|(_, key)| column(key)).collect();
            Joined {
                guarded: self.is_guarded(context, &joined.table.value, &columns),
                table: joined.table.value.clone(),
                columns,
            }
        });
        Mirror {
            name: self.name.value.clone(),
            key_types: key.iter().map(|(_, column)| type_of(column)).collect(),
            joined: joined.collect(),
            deletes: self.deletes,
            movable: !key.iter().any(|(column, _)| fixed(column)),
            depth: depth(context.catalog, &into.value, DEPTH_MAX),
            overriding: self.mapping.overriding(context.catalog),
            search_path: self
                .search_path
                .iter()
                .map(|schema| schema.value.clone())
                .collect(),
            mapping: self.mapping.clone(),
        }
    }

    /// Whether a foreign key that is checked at once leads from the columns to the key.
    fn is_guarded(&self, context: &Context<'_>, table: &QualifiedName, columns: &[String]) -> bool {
        let wanted = columns
            .iter()
            .zip(self.mapping.key.iter().map(|(_, key)| &key.value));
        let guards = |constraint: &Constraint| {
            let Some(reference) = &constraint.references else {
                return false;
            };
            let pairs: Vec<_> = constraint.columns.iter().zip(&reference.columns).collect();
            reference.table == self.mapping.from.value
                && !constraint.deferrable
                && !constraint.definition.ends_with("NOT ENFORCED")
                && pairs.len() == columns.len()
                && wanted.clone().all(|pair| pairs.contains(&pair))
        };
        let table = context.catalog.tables.get(table);
        table.is_some_and(|table| table.constraints.values().any(guards))
    }

    /// Referenced tables first, else by name.
    fn sources(&self, context: &Context<'_>, mirror: &Mirror) -> Vec<Source> {
        let mut sources: Vec<Source> = Vec::new();
        let mut waiting: Vec<_> = mirror.sources();
        waiting.sort();
        while !waiting.is_empty() {
            let refers = |name: &QualifiedName, to: &QualifiedName| {
                let table = context.catalog.tables.get(name);
                let keys = table.into_iter().flat_map(|table| table.constraints.values());
                let mut references = keys.filter_map(|key| key.references.as_ref());
                name != to && references.any(|reference| &reference.table == to)
            };
            let free = waiting
                .iter()
                .position(|(name, _)| !waiting.iter().any(|(other, _)| refers(name, other)));
            let (table, number) = waiting.remove(free.unwrap_or_default());
            sources.push(Source {
                table: table.clone(),
                tree: context.catalog.tree(table),
                number,
            });
        }
        sources
    }

    fn hazards(&self, context: &Context<'_>, mirror: &Mirror) -> Vec<Hazard> {
        let into = &self.mapping.into.value;
        let mut hazards = vec![Hazard::new(
            "writes_are_repeated",
            format!(
                "every write to {} also writes {into} in the same transaction, takes as much longer, and fails if {into} \
                 refuses it",
                list(mirror.sources().into_iter().map(|(table, _)| table.to_string()))
            ),
        )];
        if !mirror.joined.is_empty() {
            hazards.push(Hazard::new(
                "rows_are_locked",
                format!(
                    "a write to a joined table locks the row of {} that it belongs to, until the transaction ends; \
                     transactions that write both in opposite orders can meet in a deadlock (SQLSTATE 40P01)",
                    self.mapping.from.value
                ),
            ));
        }
        let target = context.catalog.tables.get(into);
        let own = |table: &Table| -> Vec<String> {
            let enabled = table.triggers.iter().filter(|(_, it)| it.enabled != "disabled");
            enabled.map(|(name, _)| ident(name)).collect()
        };
        let triggers = target.map(own).unwrap_or_default();
        if !triggers.is_empty() {
            let path = match self.search_path.is_empty() {
                true => {
                    "pg_catalog, pg_temp; schemas that they need besides stand in `search_path`".to_owned()
                }
                false => format!(
                    "pg_catalog, {}",
                    list(mirror.search_path.iter().map(|it| ident(it)))
                ),
            };
            hazards.push(Hazard::new(
                "triggers_fire",
                format!(
                    "repeated writes fire {} of {into}, with the rights of {} and search_path {path}",
                    list(triggers),
                    context.now.role.name
                ),
            ));
        }
        for joined in mirror.joined.iter().filter(|joined| !is_unique(context, joined)) {
            let columns: Vec<String> = joined.columns.iter().map(|column| ident(column)).collect();
            hazards.push(Hazard::new(
                "join_may_repeat",
                format!(
                    "{} has no unique index on ({}): where it has several rows for one key, any one of them counts",
                    joined.table,
                    columns.join(", ")
                ),
            ));
        }
        hazards
    }
}

/// How many foreign keys lead on from a table, one after the other.
fn depth(catalog: &CatalogSnapshot, name: &QualifiedName, most: u8) -> u8 {
    let table = catalog.tables.get(name).filter(|_| most > 0);
    let constraints = table.into_iter().flat_map(|table| table.constraints.values());
    let references = constraints.filter_map(|it| it.references.as_ref());
    let others: BTreeSet<&QualifiedName> = references.map(|it| &it.table).filter(|it| *it != name).collect();
    let depths = others
        .into_iter()
        .map(|other| depth(catalog, other, most - 1) + 1);
    depths.max().unwrap_or_default()
}

fn is_unique(context: &Context<'_>, joined: &Joined) -> bool {
    let Some(table) = context.catalog.tables.get(&joined.table) else {
        return false;
    };
    let covers = |key: &Option<String>| key.as_ref().is_some_and(|column| joined.columns.contains(column));
    table.indexes.values().any(|index| {
        let whole = index.unique && index.valid && index.predicate.is_none();
        whole && index.keys.iter().all(|key| covers(&key.column))
    })
}

fn list(names: impl IntoIterator<Item = String>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Kinds of tables whose writes no trigger on them sees, or whose rows the triggers may not see.
fn unsuitable(context: &Context<'_>, name: &Located<QualifiedName>, table: &Table) -> Vec<Diagnostic> {
    let mut complaints = Vec::new();
    let mut complain = |code: &'static str, what: &str, help: &str| {
        let message = format!("{} {what}", name.value);
        complaints.push(Diagnostic::new(code, message).at(name.span).help(help));
    };
    match table.kind {
        TableKind::Foreign => complain(
            "foreign_table",
            "is a foreign table",
            "writes made on the other server are not seen here; `sync` is for tables of this one",
        ),
        TableKind::Table if !table.children.is_empty() => complain(
            "inheritance",
            "has tables that inherit from it",
            "writes to those are not seen by triggers of this one",
        ),
        _ => {}
    }
    if table.force_row_security && !context.now.role.superuser {
        complain(
            "row_security",
            "hides rows from its owner too (FORCE ROW LEVEL SECURITY)",
            "apply the plan as a superuser, or without FORCE: the triggers must see all rows",
        );
    }
    complaints
}

/// Types of extensions have operators of their own, which the functions could not name.
fn foreign_type(context: &Context<'_>, data_type: &str, column: &Located<String>) -> Option<Diagnostic> {
    if types::canonical(data_type).is_some() {
        return None;
    }
    let known = data_type.parse::<QualifiedName>().ok();
    let kind = known.and_then(|name| context.catalog.types.get(&name));
    if kind.is_some_and(|it| it.kind == "enum" || it.kind == "domain") {
        return None;
    }
    let message = format!("a key of type {data_type} is not supported");
    let help = "use a key of a built-in type, an enum or a domain";
    Some(Diagnostic::new("key_type", message).at(column.span).help(help))
}

impl Operation for Sync {
    type Target = Target;
    const NAME: &'static str = "sync";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let name = fields.identifier("name");
        let mapping = Mapping::read(fields);
        let joined = read_joined(fields);
        let on_delete = fields.choice("on_delete", &[("delete", true), ("keep", false)]);
        let fill = fields.flag("fill", true);
        let compare = fields.flag("compare", true);
        let search_path = fields.optional_identifiers("search_path");
        Some(Self {
            name: name?,
            mapping: mapping?,
            joined,
            deletes: on_delete.is_none_or(|it| it.value),
            fill,
            compare,
            search_path: search_path.unwrap_or_default(),
        })
    }

    fn probes(&self, _now: &CatalogSnapshot) -> Vec<Probe> {
        let mut probes = self.mapping.probes();
        probes.push(self.insertion());
        probes
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let mut complaints = self.mapping.check(context);
        complaints.extend(self.check_tables(context));
        complaints.extend(self.check_types(context));
        complaints.extend(self.check_joined(context));
        let mirror = self.mirror(context);
        if context.catalog.views.contains_key(&mirror.made()) {
            let message = format!("this plan has a sync `{}` already", self.name.value);
            complaints.push(Diagnostic::new("name_taken", message).at(self.name.span));
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let source = context.catalog.tables.get(&self.mapping.from.value);
        let size = source.map(|source| source.size).unwrap_or_default();
        Ok(Target {
            sources: self.sources(context, &mirror),
            hazards: self.hazards(context, &mirror),
            estimate: Estimate::scan(size.rows, size.total_bytes(), size.heap_bytes),
            fill: self.fill,
            compare: self.compare,
            mirror,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = vec![target.define(settings), target.follow(settings)];
        steps.extend(target.leave(settings));
        steps
    }

    /// At the end everything is as before. The name is taken for the rest of the plan.
    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        let view = View {
            materialized: false,
            owner: catalog.role.name.clone(),
            definition: String::new(),
            options: Vec::new(),
            comment: None,
            grants: Vec::new(),
            uses: Vec::new(),
            attachments: Vec::new(),
            columns: Vec::new(),
            triggers: BTreeMap::new(),
            rules: BTreeMap::new(),
            keys: Vec::new(),
            populated: true,
            method: None,
            tablespace: None,
            indexes: BTreeMap::new(),
        };
        catalog.views.insert(target.mirror.made(), view);
    }
}

const FINAL: &str = "what is written from then on is not repeated, and nobody could tell it later";

impl Target {
    fn read_locks(&self) -> Vec<Lock> {
        let sources = self.sources.iter().map(|source| &source.table);
        let tables = sources.chain([&self.mirror.mapping.into.value]);
        parts::locks(tables, LockMode::AccessShare)
    }

    fn forget(&self, settings: &Settings) -> Work {
        let summary = format!(
            "drop the views and functions of sync {}",
            ident(&self.mirror.name)
        );
        parts::brief(settings, summary, self.mirror.forget(), Vec::new(), Vec::new())
    }

    fn define(&self, settings: &Settings) -> StepDraft {
        let summary = format!("define how {} follows", self.mirror.mapping.into.value);
        StepDraft {
            id: "define".into(),
            phase: Phase::Expand,
            work: parts::brief(
                settings,
                summary,
                self.mirror.define(),
                self.read_locks(),
                Vec::new(),
            ),
            hazards: Vec::new(),
            undo: Undo::Work(vec![self.forget(settings)]),
            estimate: Estimate::INSTANT,
        }
    }

    fn follow(&self, settings: &Settings) -> StepDraft {
        let trees = self.sources.iter().flat_map(|source| &source.tree);
        let sources = self.sources.iter();
        let statements = sources
            .clone()
            .flat_map(|it| self.mirror.follow(&it.table, it.number));
        let expect = sources.clone().map(|it| self.mirror.follows(it.number));
        let summary = format!("repeat writes in {}", self.mirror.mapping.into.value);
        StepDraft {
            id: "follow".into(),
            phase: Phase::Expand,
            work: parts::brief(
                settings,
                summary,
                statements.collect(),
                parts::locks(trees, LockMode::ShareRowExclusive),
                expect.collect(),
            ),
            hazards: self.hazards.clone(),
            undo: Undo::Work(sources.map(|source| self.leave_one(source, settings)).collect()),
            estimate: Estimate::INSTANT,
        }
    }

    fn leave_one(&self, source: &Source, settings: &Settings) -> Work {
        parts::brief(
            settings,
            format!("repeat writes to {} no more", source.table),
            vec![self.mirror.leave(source.number)],
            parts::locks(&source.tree, LockMode::AccessExclusive),
            Vec::new(),
        )
    }

    fn leave(&self, settings: &Settings) -> Vec<StepDraft> {
        let draft = |id: String, work: Work| StepDraft {
            id,
            phase: Phase::Contract,
            work,
            hazards: Vec::new(),
            undo: Undo::Irreversible {
                reason: FINAL.to_owned(),
            },
            estimate: Estimate::INSTANT,
        };
        let one = |(position, source): (usize, &Source)| {
            draft(
                format!("leave_{}", position + 1),
                self.leave_one(source, settings),
            )
        };
        let mut steps: Vec<StepDraft> = self.sources.iter().enumerate().map(one).collect();
        steps.push(draft("forget".to_owned(), self.forget(settings)));
        steps
    }
}

#[cfg(test)]
mod tests;
