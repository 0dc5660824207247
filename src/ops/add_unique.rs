//! `add_unique`: a unique constraint, on an index built before.

use super::parts::key::{KeySpec, KeyTarget};
use super::{Context, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, ConstraintKind, Probe};
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::Settings;

const MANUAL: &str = "\
Adds a UNIQUE constraint. Its index is built concurrently and becomes the constraint at cutover, without a scan.
Instead of `columns`, `index` may name a unique index that is there already; it takes the name of the constraint.

```yaml
- add_unique: {table: orders, columns: [shop_id, number]}
```

Further keys: `name`, `include`, `nulls_not_distinct` (PostgreSQL 15), `deferrable`, `initially_deferred`. Partitioned
tables are refused: create_index with `unique` does the same for them.

Locks: SHARE UPDATE EXCLUSIVE on the table, as long as the build takes; ACCESS EXCLUSIVE for an instant at cutover.
Undo: the constraint is dropped with its index; an index that was there before is given back.
";

#[derive(Debug, Clone)]
pub struct AddUnique {
    key: KeySpec,
}

impl Operation for AddUnique {
    type Target = KeyTarget;
    const NAME: &'static str = "add_unique";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        KeySpec::read(fields, ConstraintKind::Unique).map(|key| Self { key })
    }

    fn probes(&self) -> Vec<Probe> {
        self.key.probes()
    }

    fn preflight(&self, context: &Context<'_>) -> Result<KeyTarget, Vec<Diagnostic>> {
        self.key.preflight(context)
    }

    fn steps(target: &KeyTarget, settings: &Settings) -> Vec<StepDraft> {
        target.steps(settings)
    }

    fn apply_to(target: &KeyTarget, catalog: &mut CatalogSnapshot) {
        target.apply(catalog);
    }
}
