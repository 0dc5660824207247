//! `add_primary_key`: a primary key, on an index built before.

use super::parts::key::{KeySpec, KeyTarget};
use super::{Context, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, ConstraintKind, Probe};
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::Settings;

const MANUAL: &str = "\
Adds a primary key to a table that has none. Columns that may be null get the proof of set_not_null first; the index
is built concurrently and becomes the primary key at cutover, without a scan. Instead of `columns`, `index` may name
a unique index that is there already; it takes the name of the constraint.

```yaml
- add_primary_key: {table: orders, columns: [id]}
```

Further keys: `name`, `include`, `deferrable`, `initially_deferred`.

Locks: SHARE UPDATE EXCLUSIVE on the table, as long as the build and the proof take; ACCESS EXCLUSIVE for an instant to
begin the proof, to end it and to add the key.
Undo: the key is dropped with its index; columns that became NOT NULL by it may be null again.
";

#[derive(Debug, Clone)]
pub struct AddPrimaryKey {
    key: KeySpec,
}

impl Operation for AddPrimaryKey {
    type Target = KeyTarget;
    const NAME: &'static str = "add_primary_key";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        KeySpec::read(fields, ConstraintKind::PrimaryKey).map(|key| Self { key })
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
