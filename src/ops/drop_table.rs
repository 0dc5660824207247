//! `drop_table`: a table that nobody uses any more goes, at once.

use super::parts::unused::{self, Removal};
use super::parts::{brief, compatible};
use super::{Context, Named, Object, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Table};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::Fields;
use crate::plan::{Estimate, Expectation, Hazard, Phase, Settings, Undo, Work};
use crate::sql::QualifiedName;

const MANUAL: &str = "\
Drops a table for good, in contract and so only when that is asked for, with its partitions, its indexes and the
sequences that belong to it. What depends on it (foreign keys of other tables, views, functions, policies, tables that
inherit from it) is named and has to go first, when the plan is made and again right before the drop: nothing is ever
dropped along (`cascade: never`, the only choice). `retire_table` takes the name away first and drops after a time.

```yaml
- drop_table: {table: legacy_orders}
```

Locks: ACCESS EXCLUSIVE on the table and its partitions, for an instant, and on the tables that its foreign keys refer
to, which are locked first.
Undo: none; the rows are gone.
";

#[derive(Debug, Clone)]
pub struct DropTable {
    table: Located<QualifiedName>,
}

pub struct Target {
    removal: Removal,
    hazards: Vec<Hazard>,
}

/// A partition is detached before it is dropped, which lets reads and writes of the others through.
pub(super) fn partition(name: &QualifiedName, table: &Table, span: Span) -> Option<Diagnostic> {
    let parent = table.partition_of.as_ref()?;
    let message = format!("{name} is a partition of {parent}");
    let help = format!("first ALTER TABLE {parent} DETACH PARTITION {name} CONCURRENTLY");
    Some(Diagnostic::new("is_a_partition", message).at(span).help(help))
}

/// That the rows are lost, and what goes with them.
pub(super) fn lost(removal: &Removal, table: &Table) -> Vec<Hazard> {
    let name = &removal.table;
    let mut hazards = vec![Hazard::new(
        "table_gone",
        format!("the rows of {name} are lost; applications and functions that name it fail from contract on"),
    )];
    let listed = |names: &[QualifiedName]| {
        names
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if !removal.sequences.is_empty() {
        let message = format!(
            "sequences that belong to {name} go with it: {}",
            listed(&removal.sequences)
        );
        hazards.push(Hazard::new("sequence_dropped", message));
    }
    if removal.tree.len() > 1 {
        let message = format!("partitions of {name} go with it: {}", listed(&removal.tree[1..]));
        hazards.push(Hazard::new("partitions_dropped", message));
    }
    if !table.publications.is_empty() {
        let names: Vec<&String> = table.publications.keys().collect();
        let message = format!("{name} leaves the publications {}", crate::sql::idents(&names));
        hazards.push(Hazard::new("published", message));
    }
    hazards
}

impl Target {
    fn work(&self, settings: &Settings) -> Work {
        let table = &self.removal.table;
        let gone = |name: &QualifiedName| Expectation::TableAbsent { table: name.clone() };
        brief(
            settings,
            format!("drop {table}"),
            self.removal.statements(),
            self.removal.locks(),
            self.removal.tree.iter().map(gone).collect(),
        )
    }
}

impl Operation for DropTable {
    type Target = Target;
    const NAME: &'static str = "drop_table";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        fields.choice("cascade", &[("never", ())]);
        Some(Self { table: table? })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.table)]
    }

    fn takes(&self) -> Vec<Object> {
        vec![Object::Relation(self.table.value.clone())]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let name = &self.table.value;
        let table = context.table(&self.table).map_err(|complaint| vec![complaint])?;
        let mut complaints = compatible::unfit(context, &self.table, table);
        complaints.extend(partition(name, table, self.table.span));
        for obstacle in unused::obstacles(context.catalog, name, table) {
            complaints.push(
                Diagnostic::new("depended_on", format!("{obstacle} depends on {name}"))
                    .at(self.table.span)
                    .help("change or drop it first"),
            );
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let removal = Removal::of(context.catalog, name);
        Ok(Target {
            hazards: lost(&removal, table),
            removal,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let drop = StepDraft {
            id: "drop".into(),
            phase: Phase::Contract,
            work: target.work(settings),
            hazards: target.hazards.clone(),
            undo: Undo::Irreversible {
                reason: "the rows are gone".into(),
            },
            estimate: Estimate::INSTANT,
        };
        vec![unused::step(settings, &[&target.removal.table]), drop]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        unused::drop_from(catalog, &target.removal.table);
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text, table};

    #[test]
    fn is_refused_while_a_foreign_key_refers_to_it() {
        let orders = table(&["id bigint not null"]).with_primary_key("orders_pkey", &["id"]);
        let lines =
            table(&["order_id bigint"]).with_foreign_key("lines_order", &["order_id"], "orders", &["id"]);
        let catalog = catalog().with("orders", orders).with("lines", lines);
        insta::assert_snapshot!(plan_text(&catalog, "- drop_table: {table: orders, cascade: always}"), @r#"
        3:40 invalid_value: `cascade` is one of never, not "always"
        "#);
        insta::assert_snapshot!(plan_text(&catalog, "- drop_table: {table: orders}"), @"
        3:23 depended_on: foreign key lines_order of public.lines depends on public.orders (change or drop it first)
        ");
        let both = "  - drop_table: {table: lines}\n  - drop_table: {table: orders}\n";
        let text = plan_text(&catalog, both);
        let drop = text.split("01-drop_table-drop ").nth(1).unwrap();
        let drop = drop.split("02-drop_table-unused").next().unwrap();
        insta::assert_snapshot!(drop, @"
        [contract] drop public.lines
          LOCK TABLE public.orders, public.lines IN ACCESS EXCLUSIVE MODE;
          DROP TABLE public.lines;
            locks: public.orders ACCESS EXCLUSIVE, public.lines ACCESS EXCLUSIVE (lock_timeout 200ms)
          irreversible: the rows are gone
          hazard table_gone: the rows of public.lines are lost; applications and functions that name it fail from contract on
        ");
    }
}
