//! `drop_default`: new rows get null, or fail, when they do not bring a value.

use super::parts::column::ColumnName;
use super::parts::{brief, locks};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::CatalogSnapshot;
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::{ColumnFacts, Estimate, Expectation, Hazard, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{QualifiedName, ident};

const MANUAL: &str = "\
Removes the default of a column. Rows that are there keep their values; rows inserted afterwards without a value get
null, or fail when the column is never null. The sequence of a serial column stays where it is. On a partitioned
table, or one that others inherit from, the defaults of all of them go.

```yaml
- drop_default: {table: orders, column: status}
```

Locks: ACCESS EXCLUSIVE on the table and all below it, for an instant (catalog only).
Undo: the defaults before.
";

#[derive(Debug, Clone)]
pub struct DropDefault {
    subject: ColumnName,
}

pub struct Target {
    table: QualifiedName,
    column: String,
    /// The table and all below it, each with its default.
    previous: Vec<(QualifiedName, Option<String>)>,
    not_null: bool,
}

impl Operation for DropDefault {
    type Target = Target;
    const NAME: &'static str = "drop_default";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        ColumnName::read(fields).map(|subject| Self { subject })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.subject.table)]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let name = &self.subject.table.value;
        let (_, column) = self.subject.find(context).map_err(|complaint| vec![complaint])?;
        let complain = |code, message: String| self.subject.complaint(code, message);
        if column.identity.is_some() {
            let message = format!("`{}` is an identity column, not one with a default", column.name);
            return Err(vec![complain("cannot_have_default", message)]);
        }
        if column.generated.is_some() {
            let message = format!(
                "`{}` is a generated column; it cannot have a default",
                column.name
            );
            return Err(vec![complain("cannot_have_default", message)]);
        }
        if column.default.is_none() {
            let message = format!("`{}` has no default", column.name);
            return Err(vec![
                complain("no_default", message).help("leave this change out"),
            ]);
        }
        let default_of = |name: &QualifiedName| {
            let column = context
                .catalog
                .tables
                .get(name)
                .and_then(|table| table.column(&column.name));
            column.and_then(|column| column.default.clone())
        };
        let tree = context.catalog.tree(name);
        Ok(Target {
            table: name.clone(),
            column: column.name.clone(),
            previous: tree
                .into_iter()
                .map(|name| {
                    let default = default_of(&name);
                    (name, default)
                })
                .collect(),
            not_null: column.not_null,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let Target {
            table,
            column,
            previous,
            ..
        } = target;
        let quoted = ident(column);
        let work = |summary, statements, has_default| -> Work {
            let expect = Expectation::Column {
                table: table.clone(),
                column: column.clone(),
                facts: ColumnFacts {
                    has_default: Some(has_default),
                    ..ColumnFacts::default()
                },
            };
            let locks = locks(previous.iter().map(|(table, _)| table), LockMode::AccessExclusive);
            brief(settings, summary, statements, locks, vec![expect])
        };
        // Below the table a default may be another one, or missing.
        let restored = previous.iter().enumerate().map(|(position, (name, default))| {
            let only = if position == 0 && previous.len() == 1 {
                ""
            } else {
                "ONLY "
            };
            let what = match default {
                Some(default) => format!("SET DEFAULT {default}"),
                None => "DROP DEFAULT".into(),
            };
            format!("ALTER TABLE {only}{name} ALTER COLUMN {quoted} {what}")
        });
        let mut hazards = Vec::new();
        if target.not_null {
            hazards.push(Hazard::new(
                "inserts_need_value",
                format!("{table}.{quoted} is never null: inserts that leave it out fail from now on"),
            ));
        }
        vec![StepDraft {
            id: "drop".into(),
            phase: Phase::Expand,
            work: work(
                format!("drop the default of {table}.{quoted}"),
                vec![format!("ALTER TABLE {table} ALTER COLUMN {quoted} DROP DEFAULT")],
                false,
            ),
            hazards,
            undo: Undo::Work(vec![work(
                format!("restore the default of {table}.{quoted}"),
                restored.collect(),
                true,
            )]),
            estimate: Estimate::INSTANT,
        }]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        for (name, _) in &target.previous {
            let table = catalog.tables.get_mut(name);
            if let Some(column) = table.and_then(|table| table.column_mut(&target.column)) {
                column.default = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, compile, plan_text, table};
    use crate::sql::QualifiedName;

    #[test]
    fn drops_and_restores_each_default() {
        let mut parent = table(&["id bigint not null", "State text not null"]);
        parent.columns[1].default = Some("'new'::text".into());
        parent.children = vec![QualifiedName::new("public", "Late orders")];
        let mut child = parent.clone();
        child.children.clear();
        child.columns[1].default = Some("'late'::text".into());
        let catalog = catalog().with("orders", parent).with("Late orders", child);
        let changes = "- drop_default: {table: orders, column: State}";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        01-drop_default-drop [expand] drop the default of public.orders."State"
          LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE;
          ALTER TABLE public.orders ALTER COLUMN "State" DROP DEFAULT;
            locks: public.orders ACCESS EXCLUSIVE, public."Late orders" ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE ONLY public.orders ALTER COLUMN "State" SET DEFAULT 'new'::text;
          undo ALTER TABLE ONLY public."Late orders" ALTER COLUMN "State" SET DEFAULT 'late'::text;
          undo   locks: public.orders ACCESS EXCLUSIVE, public."Late orders" ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard inserts_need_value: public.orders."State" is never null: inserts that leave it out fail from now on
        "#);
        let plan = compile(&catalog, changes).unwrap();
        assert!(
            plan.after
                .tables
                .values()
                .all(|table| table.columns[1].default.is_none())
        );
    }

    #[test]
    fn refuses_what_has_none() {
        let catalog = catalog().with("orders", table(&["id bigint not null"]));
        insta::assert_snapshot!(plan_text(&catalog, "- drop_default: {table: orders, column: id}"), @"3:41 no_default: `id` has no default (leave this change out)");
    }
}
