//! `set_default`: new rows get another value when they do not bring one.

use super::parts::column::ColumnName;
use super::{Context, Named, Operation, StepDraft, parts};
use crate::catalog::model::{CatalogSnapshot, Probe};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{ColumnFacts, Estimate, Expectation, LockMode, Phase, Settings, Undo};
use crate::sql::{QualifiedName, ident};

const MANUAL: &str = "\
Sets the default of a column. Rows that are there keep their values; only rows inserted afterwards without a
value get the new one. The default is an SQL expression, as it would stand after DEFAULT.

```yaml
- set_default: {table: orders, column: status, default: \"'new'\"}
```

Locks: ACCESS EXCLUSIVE on the table and all below it, for an instant (catalog only).
Undo: the default before, or none.
";

#[derive(Debug, Clone)]
pub struct SetDefault {
    subject: ColumnName,
    default: Located<String>,
}

pub struct Target {
    table: QualifiedName,
    column: String,
    /// As the user wrote it.
    default: String,
    /// As the server prints it, once it was asked.
    printed: String,
    /// The table and everything below it, which a default reaches too, each with its own default before.
    previous: Vec<(QualifiedName, Option<String>)>,
}

impl SetDefault {
    fn probe(&self) -> Probe {
        Probe {
            table: self.subject.table.value.clone(),
            before: "ALTER TABLE ".into(),
            after: format!(
                " ALTER COLUMN {} SET DEFAULT {}",
                ident(&self.subject.column.value),
                self.default.value
            ),
        }
    }
}

fn previous_defaults(
    context: &Context<'_>,
    table: &QualifiedName,
    column: &str,
) -> Vec<(QualifiedName, Option<String>)> {
    let default_of = |name: &QualifiedName| {
        let column = context
            .catalog
            .tables
            .get(name)
            .and_then(|table| table.column(column));
        column.and_then(|column| column.default.clone())
    };
    let with_default = |name| {
        let default = default_of(&name);
        (name, default)
    };
    context
        .catalog
        .tree(table)
        .into_iter()
        .map(with_default)
        .collect()
}

impl Operation for SetDefault {
    type Target = Target;
    const NAME: &'static str = "set_default";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let subject = ColumnName::read(fields);
        let default = fields.text("default");
        Some(Self {
            subject: subject?,
            default: default?,
        })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.subject.table)]
    }

    fn probes(&self, _now: &CatalogSnapshot) -> Vec<Probe> {
        vec![self.probe()]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let (_, column) = self.subject.find(context).map_err(|complaint| vec![complaint])?;
        let mut complaints = Vec::new();
        if column.generated.is_some() || column.identity.is_some() {
            let kind = if column.identity.is_some() {
                "an identity"
            } else {
                "a generated"
            };
            let message = format!("`{}` is {kind} column; it cannot have a default", column.name);
            complaints.push(self.subject.complaint("cannot_have_default", message));
        }
        let mut printed = self.default.value.clone();
        match context.accepted(&self.probe(), self.default.span) {
            Err(complaint) => complaints.push(complaint),
            Ok(None) => {}
            Ok(Some(outcome)) => {
                let default = outcome
                    .table
                    .column(&column.name)
                    .and_then(|column| column.default.clone());
                printed = default.unwrap_or(printed);
            }
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        Ok(Target {
            table: self.subject.table.value.clone(),
            column: column.name.clone(),
            default: self.default.value.clone(),
            printed,
            previous: previous_defaults(context, &self.subject.table.value, &column.name),
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
        let locks = parts::locks(previous.iter().map(|(name, _)| name), LockMode::AccessExclusive);
        let expect = |has_default| Expectation::Column {
            table: table.clone(),
            column: column.clone(),
            facts: ColumnFacts {
                has_default: Some(has_default),
                ..ColumnFacts::default()
            },
        };
        let restore = previous.iter().map(|(name, default)| match default {
            Some(default) => format!("ALTER TABLE ONLY {name} ALTER COLUMN {quoted} SET DEFAULT {default}"),
            None => format!("ALTER TABLE ONLY {name} ALTER COLUMN {quoted} DROP DEFAULT"),
        });
        let had_default = previous.first().is_some_and(|(_, default)| default.is_some());
        let undo = parts::brief(
            settings,
            format!("restore the default of {table}.{quoted}"),
            restore.collect(),
            locks.clone(),
            vec![expect(had_default)],
        );
        vec![StepDraft {
            id: "set".into(),
            phase: Phase::Expand,
            work: parts::brief(
                settings,
                format!("set the default of {table}.{quoted}"),
                vec![format!(
                    "ALTER TABLE {table} ALTER COLUMN {quoted} SET DEFAULT {}",
                    target.default
                )],
                locks,
                vec![expect(true)],
            ),
            hazards: Vec::new(),
            undo: Undo::Work(vec![undo]),
            estimate: Estimate::INSTANT,
        }]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        // A default set on a parent is set on its children too.
        for name in catalog.tree(&target.table) {
            if let Some(column) = catalog
                .tables
                .get_mut(&name)
                .and_then(|table| table.column_mut(&target.column))
            {
                column.default = Some(target.printed.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text, table};

    #[test]
    fn sets_and_restores() {
        let catalog = catalog().with("\"Or ders\"", table(&["id bigint not null", "State text"]));
        let text = plan_text(
            &catalog,
            "  - set_default: {table: '\"Or ders\"', column: State, default: \"'new'\"}\n",
        );
        insta::assert_snapshot!(text, @r#"
        01-set_default-set [expand] set the default of public."Or ders"."State"
          ALTER TABLE public."Or ders" ALTER COLUMN "State" SET DEFAULT 'new';
            locks: public."Or ders" ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE ONLY public."Or ders" ALTER COLUMN "State" DROP DEFAULT;
          undo   locks: public."Or ders" ACCESS EXCLUSIVE (lock_timeout 200ms)
        "#);
    }

    #[test]
    fn names_the_nearest_column_and_table() {
        let catalog = catalog().with("orders", table(&["id bigint not null", "status text"]));
        let changes = "  - set_default: {table: orders, column: stauts, default: 1}\n  - set_default: {table: order, column: x, default: 1}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        3:42 unknown_column: public.orders has no column `stauts` (did you mean `status`?)
        4:26 unknown_table: there is no table public."order" (did you mean `public.orders`?)
        "#);
    }
}
