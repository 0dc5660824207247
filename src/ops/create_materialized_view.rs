//! `create_materialized_view`: the answer of a query, kept as rows.

use super::create_view::{note_readers, options_text, query_text, unasked};
use super::parts::index::IndexSpec;
use super::parts::object::{self, Making};
use super::parts::statement;
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Question, Trial, View};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{
    Action, DurationClass, Estimate, Hazard, Lock, LockMode, Phase, Settings, Timeouts, Transaction, Undo,
    Work,
};
use crate::sql::{QualifiedName, literal};

const MANUAL: &str = "\
Creates a materialized view with its indexes, empty, and fills it in a step of its own, which reads its tables for as
long as the query takes. A unique index on plain columns is what REFRESH … CONCURRENTLY needs later.

```yaml
- create_materialized_view:
    name: metrics.daily_costs
    select: SELECT tenant_id, day, sum(cost) AS cost FROM public.costs GROUP BY 1, 2
    indexes:
      - {columns: [tenant_id, day], unique: true}
```

Also: `with`, `comment`, and `populate: false`, which leaves it empty: reading it is an error until a REFRESH.

Locks: ACCESS SHARE on what it reads, while it is filled.
Undo: it is dropped.
";

#[derive(Debug, Clone)]
pub struct CreateMaterializedView {
    name: Located<QualifiedName>,
    select: Located<String>,
    options: Vec<(Located<String>, Located<String>)>,
    comment: Option<String>,
    indexes: Vec<IndexSpec>,
    populate: bool,
}

pub struct Target {
    name: QualifiedName,
    statements: Vec<String>,
    populate: bool,
    view: View,
    text: Option<String>,
    bytes: i64,
}

impl CreateMaterializedView {
    fn statements(&self) -> Vec<String> {
        let name = &self.name.value;
        let options = options_text(&self.options);
        let query = query_text(&self.select);
        let mut statements = vec![format!(
            "CREATE MATERIALIZED VIEW {name}{options} AS\n{query}\nWITH NO DATA"
        )];
        statements.extend(self.indexes.iter().map(IndexSpec::at_once));
        if let Some(comment) = &self.comment {
            statements.push(format!(
                "COMMENT ON MATERIALIZED VIEW {name} IS {}",
                literal(comment)
            ));
        }
        statements
    }

    fn trial(&self) -> Trial {
        let name = &self.name.value;
        Trial {
            statements: self.statements(),
            views: vec![name.clone()],
            texts: vec![object::view_text(name)],
            ..Trial::default()
        }
    }
}

impl Operation for CreateMaterializedView {
    type Target = Target;
    const NAME: &'static str = "create_materialized_view";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let name = fields.qualified("name");
        let select = fields.text("select");
        let options = fields.optional_pairs("with");
        let comment = fields.optional_text("comment").map(|text| text.value);
        let populate = fields.flag("populate", true);
        let name = name?;
        let indexes = fields.maps_on("indexes", &name, IndexSpec::read);
        Some(Self {
            name,
            select: select?,
            options: options.unwrap_or_default(),
            comment,
            indexes: indexes?,
            populate,
        })
    }

    fn needs(&self) -> Vec<Named> {
        let mut needs = vec![Named::schema_of(&self.name)];
        needs.extend(statement::read_by(&self.select));
        needs
    }

    fn makes(&self) -> Vec<Named> {
        vec![Named::relation(&self.name)]
    }

    fn questions(&self, _now: &CatalogSnapshot) -> Vec<Question> {
        vec![Question::Trial(self.trial())]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let complaints = object::place_complaints(context, &self.name);
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let outcome = context
            .tried(&self.trial(), self.select.span)
            .map_err(|complaint| vec![complaint])?;
        let tried = outcome.and_then(|outcome| outcome.views.values().next());
        let mut view = tried
            .cloned()
            .unwrap_or_else(|| unasked(context, query_text(&self.select), true));
        view.populated = self.populate;
        let mut read: Vec<&QualifiedName> = view.uses.iter().map(|(name, _)| name).collect();
        read.dedup();
        let tables = read.iter().filter_map(|name| context.catalog.tables.get(*name));
        Ok(Target {
            name: self.name.value.clone(),
            statements: self.statements(),
            populate: self.populate,
            bytes: tables
                .map(|table| table.size.heap_bytes + table.size.toast_bytes)
                .sum(),
            text: outcome.and_then(|outcome| outcome.after.first().cloned().flatten()),
            view,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let name = &target.name;
        let expect = target.text.clone().map(|text| {
            object::expected(
                &format!("materialized view {name}"),
                object::view_text(name),
                Some(text),
            )
        });
        let making = Making {
            id: "create",
            summary: format!("create materialized view {name}, still empty"),
            statements: target.statements.clone(),
            locks: Vec::new(),
            expect: expect.into_iter().collect(),
            hazards: Vec::new(),
            undo: vec![format!("DROP MATERIALIZED VIEW IF EXISTS {name}")],
            undo_locks: vec![Lock::new(name, LockMode::AccessExclusive)],
            previous: None,
            kept: None,
        };
        let fill = target.populate.then(|| fill(target, settings));
        std::iter::once(making.step(settings)).chain(fill).collect()
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        note_readers(catalog, &target.name, &target.view);
        catalog.views.insert(target.name.clone(), target.view.clone());
    }
}

fn fill(target: &Target, settings: &Settings) -> StepDraft {
    let name = &target.name;
    StepDraft {
        id: "fill".into(),
        phase: Phase::Backfill,
        work: Work {
            summary: format!("fill {name}"),
            action: Action::Sql(vec![format!("REFRESH MATERIALIZED VIEW {name}")]),
            transaction: Transaction::Single,
            locks: vec![Lock::new(name, LockMode::AccessExclusive)],
            timeouts: Timeouts {
                lock_ms: settings.brief().lock_ms,
                ..settings.patient()
            },
            expect: Vec::new(),
            on_violation: None,
            guards_values: false,
            part: None,
            not_before: None,
        },
        hazards: vec![Hazard::new(
            "old_snapshot",
            "while it is filled, one transaction stays open: VACUUM removes nothing that has died since it began",
        )],
        undo: Undo::NotNeeded {
            reason: "the rollback drops the materialized view".into(),
        },
        estimate: Estimate {
            bytes: target.bytes,
            duration: DurationClass::for_bytes(target.bytes),
            ..Estimate::INSTANT
        },
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text, table};

    #[test]
    fn creates_fills_and_drops() {
        let catalog = catalog().with("costs", table(&["day date not null", "cost bigint"]));
        let changes = "  - create_materialized_view:\n      name: daily\n      select: SELECT day, sum(cost) AS cost FROM costs GROUP BY 1\n      indexes: [{columns: [day], unique: true}, {columns: [cost desc], where: cost > 0}]\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        01-create_materialized_view-create [expand] create materialized view public.daily, still empty
          CREATE MATERIALIZED VIEW public.daily AS
        SELECT day, sum(cost) AS cost FROM costs GROUP BY 1
        WITH NO DATA;
          CREATE UNIQUE INDEX daily_day_idx ON public.daily USING btree (day);
          CREATE INDEX daily_cost_idx ON public.daily USING btree (cost DESC) WHERE cost > 0;
            locks:  (lock_timeout 200ms)
          undo DROP MATERIALIZED VIEW IF EXISTS public.daily;
          undo   locks: public.daily ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-create_materialized_view-fill [backfill] fill public.daily
          REFRESH MATERIALIZED VIEW public.daily;
            locks: public.daily ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo not needed: the rollback drops the materialized view
          hazard old_snapshot: while it is filled, one transaction stays open: VACUUM removes nothing that has died since it began
        ");
    }
}
