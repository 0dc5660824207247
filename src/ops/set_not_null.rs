//! `set_not_null`: a column refuses nulls, and no scan stands in anybody's way.

use super::parts::not_null::{NotNull, needs_proof};
use super::{Context, Operation, StepDraft};
use crate::catalog::model::CatalogSnapshot;
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::Settings;
use crate::sql::{QualifiedName, ident};

const MANUAL: &str = "\
Makes a column NOT NULL. New rows are checked from the expand phase on; the rows that are there are read under a lock
that lets everybody through. Rows without a value stop the plan before the cutover, with their keys; set_default and
backfill give them one first.

```yaml
- set_not_null: {table: orders, column: status}
```

Locks: ACCESS EXCLUSIVE on the table, for an instant, to add the check and to turn it into NOT NULL; SHARE UPDATE
EXCLUSIVE as long as the rows are read. Partitions and inheriting tables are locked alike. From PostgreSQL 18 the
constraint itself is added and validated, and the second instant is not needed.
Undo: nulls are allowed again.
";

#[derive(Debug, Clone)]
pub struct SetNotNull {
    table: Located<QualifiedName>,
    column: Located<String>,
}

impl Operation for SetNotNull {
    type Target = NotNull;
    const NAME: &'static str = "set_not_null";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let column = fields.identifier("column");
        Some(Self {
            table: table?,
            column: column?,
        })
    }

    fn preflight(&self, context: &Context<'_>) -> Result<NotNull, Vec<Diagnostic>> {
        let name = &self.table.value;
        let table = context.table(&self.table).map_err(|complaint| vec![complaint])?;
        let column = context
            .column(name, table, &self.column)
            .map_err(|complaint| vec![complaint])?;
        if !needs_proof(column) {
            let message = format!("{name}.{} is NOT NULL already", ident(&column.name));
            return Err(vec![
                Diagnostic::new("already_not_null", message)
                    .at(self.column.span)
                    .help("leave this change out"),
            ]);
        }
        Ok(NotNull::plan(context.catalog, name, &column.name))
    }

    fn steps(target: &NotNull, settings: &Settings) -> Vec<StepDraft> {
        target.steps("", settings)
    }

    fn apply_to(target: &NotNull, catalog: &mut CatalogSnapshot) {
        target.apply(catalog);
    }
}
