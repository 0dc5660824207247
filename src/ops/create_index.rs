//! `create_index`: an index, built while everybody reads and writes.

use super::parts::index::IndexSpec;
use super::parts::index_build::Build;
use super::{Context, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Probe};
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::{Phase, Settings};

const MANUAL: &str = "\
Creates an index concurrently. A build that fails half-way leaves an INVALID index, which is dropped and built
again. On a partitioned table every partition is indexed concurrently, and the parts are put together at the end;
a table may be partitioned to any depth.

```yaml
- create_index:
    table: orders
    columns: [customer_id, created_at desc nulls last]
    where: status <> 'done'
```

`columns` holds plain columns, columns with their order, or maps with one of `column` and `expression` and any of
`order` (asc, desc), `nulls` (first, last), `collation`, `opclass`. Further keys: `name` (else PostgreSQL's own
choice), `unique`, `nulls_not_distinct` (PostgreSQL 15), `include`, `where`, `method`, `with`, `tablespace`.

Locks: SHARE UPDATE EXCLUSIVE on the table, as long as the build takes; reads and writes go on. On a partitioned
table also SHARE on each partitioned table and ACCESS EXCLUSIVE on each new index of a partition, for an instant.
Undo: the index is dropped concurrently; once attached to a partitioned one, all of it goes under ACCESS EXCLUSIVE,
for an instant.
";

#[derive(Debug, Clone)]
pub struct CreateIndex {
    spec: IndexSpec,
}

impl Operation for CreateIndex {
    type Target = Build;
    const NAME: &'static str = "create_index";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        IndexSpec::read(fields).map(|spec| Self { spec })
    }

    fn probes(&self) -> Vec<Probe> {
        vec![self.spec.probe(&self.spec.name_or("idx"))]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Build, Vec<Diagnostic>> {
        let table = context
            .table(&self.spec.table)
            .map_err(|complaint| vec![complaint])?;
        let name = self.spec.name_or("idx");
        let resolved = self.spec.resolve(context, table, &name)?;
        Build::plan(context, &self.spec, &name, &resolved)
    }

    fn steps(target: &Build, settings: &Settings) -> Vec<StepDraft> {
        target.steps(Phase::Expand, "", settings)
    }

    fn apply_to(target: &Build, catalog: &mut CatalogSnapshot) {
        target.apply(catalog);
    }
}
