//! `replace_index`: another definition takes an index's place, and there is never a moment without one.

use super::drop_index::{find, obstacles};
use super::parts::brief;
use super::parts::index::IndexSpec;
use super::parts::index_build::{Build, free_index_name};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Index, Probe};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{Estimate, Expectation, Lock, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{self, QualifiedName, ident, literal};

const MANUAL: &str = "\
Builds an index concurrently that takes the place of another one; the old one is dropped in the contract phase. With
the same `name` the new index is built under a temporary one and the names are swapped at cutover; a new `name` goes
with `replaces`, which names the old index. The comment moves to the new index. The definition has the keys of
create_index.

```yaml
- replace_index:
    name: orders_customer_id_idx
    table: orders
    columns: [customer_id, status]
```

Locks: SHARE UPDATE EXCLUSIVE on the table, as long as the build takes; for an instant SHARE UPDATE EXCLUSIVE on the
indexes for the swap of names; SHARE UPDATE EXCLUSIVE on the table for the concurrent drop. On a partitioned table as
create_index and drop_index tell: ACCESS EXCLUSIVE for the drop, for an instant.
Undo: the names are swapped back and the new index is dropped; after contract the old one is built again.
";

#[derive(Debug, Clone)]
pub struct ReplaceIndex {
    spec: IndexSpec,
    name: Located<String>,
    replaces: Option<Located<String>>,
}

pub struct Target {
    /// The new index under the name it is built with.
    new: Build,
    /// The old index under the name it is dropped with.
    old: Build,
    table: QualifiedName,
    /// The names while both are there.
    new_name: String,
    old_name: String,
    final_name: String,
    comment: Option<String>,
    /// Whether the new index takes the old one's name.
    swaps: bool,
}

impl ReplaceIndex {
    fn build_name(&self) -> String {
        if self.swaps() {
            sql::own_name(&[&self.name.value], "pgmorph_new")
        } else {
            self.name.value.clone()
        }
    }

    fn swaps(&self) -> bool {
        self.old_name().value == self.name.value
    }

    fn old_name(&self) -> &Located<String> {
        self.replaces.as_ref().unwrap_or(&self.name)
    }
}

impl Operation for ReplaceIndex {
    type Target = Target;
    const NAME: &'static str = "replace_index";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let spec = IndexSpec::read(fields);
        let replaces = fields.optional_identifier("replaces");
        let name = fields.identifier("name");
        Some(Self {
            spec: spec?,
            name: name?,
            replaces,
        })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.spec.table)]
    }

    fn probes(&self, _now: &CatalogSnapshot) -> Vec<Probe> {
        vec![self.spec.probe(&self.build_name())]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let table_name = &self.spec.table.value;
        let table = context
            .table(&self.spec.table)
            .map_err(|complaint| vec![complaint])?;
        let old = self.old_name();
        let qualified = Located {
            value: table_name.sibling(old.value.clone()),
            span: old.span,
        };
        let mut complaints = Vec::new();
        let mut comment = None;
        match find(context, &qualified, Some(&self.spec.table)) {
            Ok((_, index)) => {
                complaints.extend(obstacles(context, table_name, &old.value, index, old.span));
                complaints.extend(marks(table_name, &old.value, index, old));
                comment.clone_from(&index.comment);
            }
            Err(complaint) => complaints.push(complaint),
        }
        let new_name = self.build_name();
        let mut old_name = old.value.clone();
        if self.swaps() {
            old_name = sql::own_name(&[&old.value], "pgmorph_old");
            let free = free_index_name(context, &table_name.sibling(old_name.clone()), old.span);
            complaints.extend(free.err());
        }
        let new = self
            .spec
            .resolve(context, table, &new_name)
            .and_then(|resolved| Build::plan(context, &self.spec, &new_name, &resolved));
        match new {
            Ok(new) if complaints.is_empty() => Ok(Target {
                new,
                old: Build::of_existing(context.catalog, table_name, &old.value).renamed(&old_name),
                table: table_name.clone(),
                new_name,
                old_name,
                final_name: self.name.value.clone(),
                comment,
                swaps: self.swaps(),
            }),
            new => {
                complaints.extend(new.err().into_iter().flatten());
                Err(complaints)
            }
        }
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = target.new.steps(Phase::Expand, "", settings);
        if target.swaps || target.comment.is_some() {
            steps.push(StepDraft {
                id: "swap".into(),
                phase: Phase::Cutover,
                work: target.swap(settings),
                hazards: Vec::new(),
                undo: Undo::Work(vec![target.swap_back(settings)]),
                estimate: Estimate::INSTANT,
            });
        }
        steps.extend(target.old.drop_work(settings).map(|work| StepDraft {
            id: "drop-old".into(),
            phase: Phase::Contract,
            work,
            hazards: Vec::new(),
            undo: Undo::Work(target.old.works(settings)),
            estimate: Estimate::INSTANT,
        }));
        steps
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        target
            .old
            .clone()
            .renamed(if target.swaps {
                &target.final_name
            } else {
                &target.old_name
            })
            .remove(catalog);
        target.new.clone().renamed(&target.final_name).apply(catalog);
        let table = catalog.tables.get_mut(&target.table);
        if let Some(index) = table.and_then(|table| table.indexes.get_mut(&target.final_name)) {
            index.comment.clone_from(&target.comment);
        }
    }
}

impl Target {
    fn qualified(&self, name: &str) -> QualifiedName {
        self.table.sibling(name)
    }

    /// ALTER INDEX RENAME takes no lock on the table, and none on the index that stops queries.
    fn work(
        &self,
        settings: &Settings,
        summary: String,
        statements: Vec<String>,
        expect: Vec<Expectation>,
        names: &[&str],
    ) -> Work {
        let locks = names
            .iter()
            .map(|name| Lock::new(&self.qualified(name), LockMode::ShareUpdateExclusive))
            .collect();
        brief(settings, summary, statements, locks, expect)
    }

    fn rename(&self, from: &str, to: &str) -> String {
        format!("ALTER INDEX {} RENAME TO {}", self.qualified(from), ident(to))
    }

    fn comment(&self, name: &str, comment: Option<&str>) -> String {
        let text = comment.map_or("NULL".into(), literal);
        format!("COMMENT ON INDEX {} IS {text}", self.qualified(name))
    }

    fn is_absent(&self, name: &str) -> Expectation {
        Expectation::IndexAbsent {
            index: self.qualified(name),
        }
    }

    fn has_comment(&self, name: &str, comment: Option<&str>) -> Expectation {
        Expectation::Query {
            query: format!(
                "SELECT pg_catalog.obj_description(pg_catalog.to_regclass({}), 'pg_class') IS NOT DISTINCT FROM {}",
                literal(&self.qualified(name).to_string()),
                comment.map_or("NULL".into(), literal)
            ),
        }
    }

    fn swap(&self, settings: &Settings) -> Work {
        let mut statements = Vec::new();
        let mut expect = Vec::new();
        if self.swaps {
            statements.push(self.rename(&self.final_name, &self.old_name));
            statements.push(self.rename(&self.new_name, &self.final_name));
            // The names tell; the final one is taken before and after.
            expect.extend(self.old.built());
            expect.push(self.is_absent(&self.new_name));
        }
        if let Some(comment) = &self.comment {
            statements.push(self.comment(&self.final_name, Some(comment)));
            expect.push(self.has_comment(&self.final_name, Some(comment)));
        }
        let (summary, names) = if self.swaps {
            let summary = format!("give the new index the name {}", ident(&self.final_name));
            (summary, vec![self.final_name.as_str(), &self.new_name])
        } else {
            (
                "move the comment to the new index".into(),
                vec![self.final_name.as_str()],
            )
        };
        self.work(settings, summary, statements, expect, &names)
    }

    fn swap_back(&self, settings: &Settings) -> Work {
        let mut statements = Vec::new();
        let mut expect = Vec::new();
        if self.swaps {
            statements.push(self.rename(&self.final_name, &self.new_name));
            statements.push(self.rename(&self.old_name, &self.final_name));
            expect.extend(self.new.built());
            expect.push(self.is_absent(&self.old_name));
        }
        if self.comment.is_some() {
            statements.push(self.comment(&self.new_name, None));
            expect.push(self.has_comment(&self.new_name, None));
        }
        let (summary, names) = if self.swaps {
            let summary = format!("give the old index its name {} back", ident(&self.final_name));
            (summary, vec![self.final_name.as_str(), &self.old_name])
        } else {
            (
                "take the comment from the new index".into(),
                vec![self.new_name.as_str()],
            )
        };
        self.work(settings, summary, statements, expect, &names)
    }
}

/// What a new index would not take over.
fn marks(table: &QualifiedName, name: &str, index: &Index, place: &Located<String>) -> Vec<Diagnostic> {
    let mut complaints = Vec::new();
    if index.clustered {
        complaints.push(
            Diagnostic::new(
                "index_is_clustered",
                format!("{} is what {table} is clustered on", ident(name)),
            )
            .at(place.span)
            .help(format!(
                "first ALTER TABLE {table} SET WITHOUT CLUSTER, and CLUSTER ON the new one afterwards"
            )),
        );
    }
    if !index.valid {
        complaints.push(
            Diagnostic::new("invalid_index", format!("{} is INVALID", ident(name)))
                .at(place.span)
                .help("drop it with drop_index, then create_index"),
        );
    }
    complaints
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::CatalogSnapshot;
    use crate::ops::testing::{catalog, compile, index, plan_text, table};

    fn orders() -> CatalogSnapshot {
        let mut orders =
            table(&["id bigint not null", "state text"]).with_primary_key("orders_pkey", &["id"]);
        let mut by_state = index(&["state"], false);
        by_state.comment = Some("by state".into());
        orders.indexes.insert("By State".into(), by_state);
        let mut clustered = index(&["state"], false);
        clustered.clustered = true;
        orders.indexes.insert("clustered".into(), clustered);
        catalog().with("orders", orders)
    }

    #[test]
    fn swaps_the_names() {
        let changes = "  - replace_index: {name: By State, table: orders, columns: [state, id]}\n";
        insta::assert_snapshot!(plan_text(&orders(), changes), @r#"
        01-replace_index-build [expand] build public."By State_pgmorph_new" concurrently
          CREATE INDEX CONCURRENTLY "By State_pgmorph_new" ON public.orders USING btree (state, id);
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo DROP INDEX CONCURRENTLY IF EXISTS public."By State_pgmorph_new";
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          hazard waits_for_old_transactions: a concurrent build ends only when every transaction older than it has ended, on other tables too
        01-replace_index-swap [cutover] give the new index the name "By State"
          ALTER INDEX public."By State" RENAME TO "By State_pgmorph_old";
          ALTER INDEX public."By State_pgmorph_new" RENAME TO "By State";
          COMMENT ON INDEX public."By State" IS 'by state';
            locks: public."By State" SHARE UPDATE EXCLUSIVE, public."By State_pgmorph_new" SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
          undo ALTER INDEX public."By State" RENAME TO "By State_pgmorph_new";
          undo ALTER INDEX public."By State_pgmorph_old" RENAME TO "By State";
          undo COMMENT ON INDEX public."By State_pgmorph_new" IS NULL;
          undo   locks: public."By State" SHARE UPDATE EXCLUSIVE, public."By State_pgmorph_old" SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
        01-replace_index-drop-old [contract] drop public."By State_pgmorph_old" concurrently
          DROP INDEX CONCURRENTLY IF EXISTS public."By State_pgmorph_old";
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo CREATE INDEX CONCURRENTLY "By State_pgmorph_old" ON public.orders USING btree (state);
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo COMMENT ON INDEX public."By State_pgmorph_old" IS 'by state';
          undo   locks: public."By State_pgmorph_old" SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
        "#);
        let plan = compile(&orders(), changes).unwrap();
        let orders = plan.after.tables.values().next().unwrap();
        let names: Vec<_> = orders.indexes.keys().map(String::as_str).collect();
        assert_eq!(names, ["By State", "clustered", "orders_pkey"]);
        assert_eq!(orders.indexes["By State"].keys.len(), 2);
        assert_eq!(orders.indexes["By State"].comment.as_deref(), Some("by state"));
    }

    #[test]
    fn may_have_a_new_name() {
        let changes =
            "  - replace_index: {name: state_id, replaces: By State, table: orders, columns: [state, id]}\n";
        insta::assert_snapshot!(plan_text(&orders(), changes), @r#"
        01-replace_index-build [expand] build public.state_id concurrently
          CREATE INDEX CONCURRENTLY state_id ON public.orders USING btree (state, id);
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo DROP INDEX CONCURRENTLY IF EXISTS public.state_id;
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          hazard waits_for_old_transactions: a concurrent build ends only when every transaction older than it has ended, on other tables too
        01-replace_index-swap [cutover] move the comment to the new index
          COMMENT ON INDEX public.state_id IS 'by state';
            locks: public.state_id SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
          undo COMMENT ON INDEX public.state_id IS NULL;
          undo   locks: public.state_id SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
        01-replace_index-drop-old [contract] drop public."By State" concurrently
          DROP INDEX CONCURRENTLY IF EXISTS public."By State";
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo CREATE INDEX CONCURRENTLY "By State" ON public.orders USING btree (state);
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo COMMENT ON INDEX public."By State" IS 'by state';
          undo   locks: public."By State" SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
        "#);
        let plan = compile(&orders(), changes).unwrap();
        let orders = plan.after.tables.values().next().unwrap();
        assert!(!orders.indexes.contains_key("By State"));
        assert_eq!(orders.indexes["state_id"].comment.as_deref(), Some("by state"));
    }

    #[test]
    fn refuses_what_a_new_index_would_not_take_over() {
        let changes = "  - replace_index: {name: orders_pkey, table: orders, columns: [state]}
  - replace_index: {name: clustered, table: orders, columns: [state]}
  - replace_index: {name: fresh, table: orders, columns: [sate]}
";
        insta::assert_snapshot!(plan_text(&orders(), changes), @"
        3:27 index_of_constraint: orders_pkey belongs to the constraint orders_pkey of public.orders (drop_constraint drops both)
        4:27 index_is_clustered: clustered is what public.orders is clustered on (first ALTER TABLE public.orders SET WITHOUT CLUSTER, and CLUSTER ON the new one afterwards)
        5:27 unknown_index: there is no index public.fresh
        5:59 unknown_column: public.orders has no column `sate` (did you mean `state`?)
        ");
    }
}
