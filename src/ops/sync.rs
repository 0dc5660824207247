//! `sync`: rows of one table follow those of others, write by write.

use super::parts::copy::CopyPlan;
use super::parts::mapping::Mapping;
use super::parts::mirror::Mirror;
use super::{Compare, Context, Named, Operation, StepDraft, compare, parts};
use crate::catalog::model::{CatalogSnapshot, Probe, View};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::{Fields, Node, Value};
use crate::plan::{Estimate, Hazard, Lock, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{QualifiedName, ident};

mod check;

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
those need stand in `search_path`. If the target refuses a row, the write to the source fails. A REPEATABLE READ
transaction in which `where` becomes true for a row does not see what others joined to it meanwhile; the comparison does.
Tables and columns may be renamed while it holds, but not the key columns of `from` nor those named in `joined`.
Of a partitioned source, TRUNCATE, DETACH, ATTACH or DROP of a single partition is not repeated. A row that the target's
own triggers leave out, or give another key, cannot be repeated (SQLSTATE 27000). Where two entries hold in opposite directions, transactions that write
one entity on both sides at the same instant can meet in a deadlock: one of them is refused (SQLSTATE 40P01) and has to
be tried again. Writing sessions must be ready for that.

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
    fill: Option<CopyPlan>,
    compare: Option<compare::Target>,
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
    if !matches!(node.value, Value::Map(_)) {
        fields.report(wrong(node));
        return None;
    }
    let mut joined = Vec::new();
    for (name, columns) in fields.entries(node, "joined")? {
        if !matches!(columns.value, Value::Map(_)) {
            fields.report(wrong(columns));
            continue;
        }
        let pairs = fields.entries(columns, &name.value)?;
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

    fn needs(&self) -> Vec<Named> {
        let joined = self.joined.iter().flatten();
        let joined = joined.map(|joined| Named::relation(&joined.table));
        self.mapping.needs().into_iter().chain(joined).collect()
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
        let fill = self
            .fill
            .then(|| CopyPlan::new(&self.mapping, context).followed());
        Ok(Target {
            sources: self.sources(context, &mirror),
            hazards: self.hazards(context, &mirror),
            fill,
            compare: self.comparison(context),
            mirror,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = vec![target.define(settings), target.follow(settings)];
        steps.extend(target.fill.iter().flat_map(|fill| fill.steps(settings)));
        let compare = target.compare.iter();
        steps.extend(compare.flat_map(|target| Compare::steps(target, settings)));
        steps.extend(target.leave(settings));
        steps
    }

    /// At the end everything is as before. The name is taken for the rest of the plan.
    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        let view = View::new(&catalog.role.name, "", false);
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
