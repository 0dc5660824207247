//! `retire_table`: a table loses its name first, and its rows only after a time in which somebody may miss them.

use super::drop_table::{lost, partition};
use super::parts::compatible::{self, Compatible};
use super::parts::unused::{self, Removal};
use super::parts::{brief, renamed, statement};
use super::rename_table::read_new_name;
use super::{Context, Named, Object, Operation, Rename, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Table};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{Estimate, Expectation, Hazard, Lock, LockMode, NotBefore, Phase, Settings, Undo, Work};
use crate::sql::{IDENTIFIER_BYTES_MAX, QualifiedName};
use crate::units;

const MANUAL: &str = "\
Drops a table the careful way. In cutover it is renamed to `to` (`_deprecated_` and its name, where nothing is said),
within its schema, and where `view` gives a query, a view with the old name takes its place in the same transaction: a
query on the table's new name, or on what replaces it. Whoever still uses the old name without a view fails then, while
everything can be rolled back: the table gets its name back, with every row that was written to it meanwhile.
In contract the view and the table are dropped, but not before the safety period `keep` (30d) is over, counted by the
server's clock from when the rename was done. Until then the whole contract of the plan is refused, before its first
step; so is it while anything depends on the table or the view. `status` and `verify` show the date.

```yaml
- retire_table: {table: legacy_orders, to: _deprecated_legacy_orders, keep: 30d, view: none}
```

`keep` carries its unit: 12h, 30d. The view has the grants of the table, and reads with the rights of the table's owner.
Foreign keys of the table hold on while it is kept: rows that it refers to cannot be deleted. What still writes to it by
its old name, such as a trigger on another table, has to stop before, or goes through the view.

Locks: ACCESS EXCLUSIVE on the table, for an instant (catalog only); in contract also on the view, the partitions and
the tables that its foreign keys refer to, which are locked before it.
Undo: until the drop the table gets its name back; afterwards none.
";

/// 30 days.
const KEEP_MS: u64 = 30 * 86_400_000;

#[derive(Debug, Clone)]
pub struct RetireTable {
    table: Located<QualifiedName>,
    to: Located<QualifiedName>,
    keep_ms: u64,
    view: Option<Located<String>>,
}

pub struct Target {
    from: QualifiedName,
    to: QualifiedName,
    keep_ms: u64,
    /// The statements that make the view.
    view: Option<Vec<String>>,
    /// Under the new name.
    removal: Removal,
    hazards: Vec<Hazard>,
    lost: Vec<Hazard>,
}

/// `_deprecated_` and the name, cut off where it gets too long.
fn deprecated(name: &str) -> String {
    let prefix = "_deprecated_";
    let end = name.floor_char_boundary(IDENTIFIER_BYTES_MAX - prefix.len());
    format!("{prefix}{}", &name[..end])
}

fn read_keep(fields: &Fields<'_>) -> u64 {
    let Some(text) = fields.optional_text("keep") else {
        return KEEP_MS;
    };
    units::duration_ms(&text.value).unwrap_or_else(|| {
        fields.report(
            Diagnostic::new("invalid_value", format!("`keep` cannot be {:?}", text.value))
                .at(text.span)
                .help("a duration carries its unit: 12h, 30d"),
        );
        KEEP_MS
    })
}

/// The query of the view, unless it is `none`.
fn read_view(fields: &Fields<'_>) -> Option<Located<String>> {
    let text = fields.optional_text("view").filter(|text| text.value != "none")?;
    let value = text.value.trim().trim_end_matches(';').trim_end().to_owned();
    let first = value
        .split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_lowercase();
    if !["select", "with", "values", "table"].contains(&first.as_str()) {
        let message = "`view` is a query, as it stands behind CREATE VIEW … AS, or `none`";
        fields.report(
            Diagnostic::new("invalid_value", message)
                .at(text.span)
                .help("view: SELECT id, status FROM …"),
        );
    }
    Some(Located {
        value,
        span: text.span,
    })
}

impl RetireTable {
    fn hazards(&self, context: &Context<'_>, table: &Table, removal: &Removal) -> Vec<Hazard> {
        let (from, to) = (&self.table.value, &self.to.value);
        let mut hazards = compatible::follows(context.catalog, from, to, table);
        hazards.push(match &self.view {
            None => Hazard::new(
                "old_name_gone",
                format!("applications and functions that name {from} fail from cutover on"),
            ),
            Some(_) => Hazard::new(
                "old_name_is_a_view",
                format!(
                    "until contract {from} is a view with the given query: it can be written to only as far as PostgreSQL can \
                     tell which row is meant, and grants on single columns of the table are not on it"
                ),
            ),
        });
        if !removal.referenced.is_empty() {
            let far: Vec<String> = removal
                .referenced
                .iter()
                .map(|far| far.table.to_string())
                .collect();
            hazards.push(Hazard::new(
                "references_hold",
                format!(
                    "the foreign keys of {to} hold until it is dropped: rows that it refers to in {} cannot be deleted",
                    far.join(", ")
                ),
            ));
        }
        let obstacles = unused::obstacles(context.catalog, from, table);
        if !obstacles.is_empty() {
            hazards.push(Hazard::new(
                "still_used",
                format!(
                    "contract is refused until these no longer depend on it: {}",
                    obstacles.join(", ")
                ),
            ));
        }
        hazards
    }
}

impl Target {
    fn retire(&self, settings: &Settings) -> StepDraft {
        let Self { from, to, .. } = self;
        let mut statements = vec![renamed::rename(from, to)];
        statements.extend(self.view.iter().flatten().cloned());
        let mut expect = vec![
            Expectation::Table { table: to.clone() },
            Expectation::TableAbsent { table: from.clone() },
        ];
        if self.view.is_some() {
            let query = format!("SELECT {}", compatible::is_view(from));
            expect.push(Expectation::Query { query });
        }
        StepDraft {
            id: "rename".into(),
            phase: Phase::Cutover,
            work: brief(
                settings,
                format!(
                    "retire {from} as {to}, to be kept for {}",
                    units::millis(self.keep_ms)
                ),
                statements,
                vec![Lock::new(from, LockMode::AccessExclusive)],
                expect,
            ),
            hazards: self.hazards.clone(),
            undo: Undo::Work(vec![self.back(settings)]),
            estimate: Estimate::INSTANT,
        }
    }

    fn back(&self, settings: &Settings) -> Work {
        let Self { from, to, .. } = self;
        let view = self.view.as_ref();
        renamed::back(
            settings,
            (from, to),
            view.map(|_| vec![format!("DROP VIEW IF EXISTS {from}")]),
        )
    }

    fn drop_view(&self, create: &[String], settings: &Settings) -> StepDraft {
        let name = &self.from;
        let query = format!("SELECT {}", compatible::is_view(name));
        let again = brief(
            settings,
            format!("make the view {name} again"),
            create.to_vec(),
            Vec::new(),
            vec![Expectation::Query { query }],
        );
        StepDraft {
            id: "drop-view".into(),
            phase: Phase::Contract,
            work: brief(
                settings,
                format!("drop the view {name}"),
                vec![format!("DROP VIEW IF EXISTS {name}")],
                vec![Lock::new(name, LockMode::AccessExclusive)],
                vec![compatible::no_view(name)],
            ),
            hazards: Vec::new(),
            undo: Undo::Work(vec![again]),
            estimate: Estimate::INSTANT,
        }
    }

    /// The executor refuses the whole contract until this may be done.
    fn drop(&self, settings: &Settings) -> StepDraft {
        let absent = Expectation::TableAbsent {
            table: self.to.clone(),
        };
        StepDraft {
            id: "drop".into(),
            phase: Phase::Contract,
            work: Work {
                not_before: Some(NotBefore {
                    step: "rename".into(),
                    ms: self.keep_ms,
                }),
                ..brief(
                    settings,
                    format!("drop {}", self.to),
                    self.removal.statements(),
                    self.removal.locks(),
                    vec![absent],
                )
            },
            hazards: self.lost.clone(),
            undo: Undo::Irreversible {
                reason: "the rows are gone".into(),
            },
            estimate: Estimate::INSTANT,
        }
    }
}

impl Operation for RetireTable {
    type Target = Target;
    const NAME: &'static str = "retire_table";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let to = fields.optional_text("to");
        let keep_ms = read_keep(fields);
        let view = read_view(fields);
        let table = table?;
        let to = match to {
            Some(text) => read_new_name(fields, &table, &text)?,
            None => Located {
                value: table.value.sibling(deprecated(&table.value.name)),
                span: table.span,
            },
        };
        Some(Self {
            table,
            to,
            keep_ms,
            view,
        })
    }

    fn needs(&self) -> Vec<Named> {
        let read = self.view.iter().flat_map(statement::read_by);
        std::iter::once(Named::relation(&self.table))
            .chain(read)
            .collect()
    }

    fn makes(&self) -> Vec<Named> {
        vec![Named::relation(&self.to)]
    }

    fn takes(&self) -> Vec<Object> {
        vec![Object::Relation(self.table.value.clone())]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let (from, to) = (&self.table.value, &self.to.value);
        let table = context.table(&self.table).map_err(|complaint| vec![complaint])?;
        let mut complaints = compatible::unfit(context, &self.table, table);
        complaints.extend(partition(from, table, self.table.span));
        complaints.extend(compatible::free_name(context, to, self.to.span).err());
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let mut afterwards = context.catalog.clone();
        renamed::table(&mut afterwards, from, to);
        let removal = Removal::of(&afterwards, to);
        let view = self.view.as_ref();
        Ok(Target {
            from: from.clone(),
            to: to.clone(),
            keep_ms: self.keep_ms,
            view: view.map(|query| Compatible::given(context, from, table, &query.value)),
            hazards: self.hazards(context, table, &removal),
            lost: lost(&removal, table),
            removal,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let mut names = vec![&target.to];
        names.extend(target.view.as_ref().map(|_| &target.from));
        let mut steps = vec![target.retire(settings), unused::step(settings, &names)];
        let view = target.view.iter();
        steps.extend(view.map(|create| target.drop_view(create, settings)));
        steps.push(target.drop(settings));
        steps
    }

    fn renames(target: &Target) -> Vec<Rename> {
        vec![Rename {
            from: target.from.clone(),
            to: target.to.clone(),
            settled: Phase::Cutover,
        }]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        unused::drop_from(catalog, &target.from);
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, compile, plan_text, table};
    use crate::plan::NotBefore;

    #[test]
    fn waits_for_its_time_and_locks_what_it_refers_to_first() {
        let customers = table(&["id bigint not null"]).with_primary_key("customers_pkey", &["id"]);
        let orders = table(&["id bigint not null", "customer_id bigint"]).with_foreign_key(
            "orders_customer_fkey",
            &["customer_id"],
            "customers",
            &["id"],
        );
        let catalog = catalog().with("orders", orders).with("customers", customers);
        let changes = "- retire_table: {table: orders, keep: 2h}";
        let text = plan_text(&catalog, changes);
        let drop = text.split("01-retire_table-drop ").nth(1).unwrap();
        insta::assert_snapshot!(drop, @"
        [contract] drop public._deprecated_orders
          LOCK TABLE public.customers, public._deprecated_orders IN ACCESS EXCLUSIVE MODE;
          DROP TABLE public._deprecated_orders;
            locks: public.customers ACCESS EXCLUSIVE, public._deprecated_orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          irreversible: the rows are gone
          hazard table_gone: the rows of public._deprecated_orders are lost; applications and functions that name it fail from contract on
        ");
        let plan = compile(&catalog, changes).unwrap();
        let left: Vec<_> = plan.after.tables.keys().map(ToString::to_string).collect();
        assert_eq!(left, ["public.customers"]);
        let gates = plan.steps.iter().filter_map(|step| step.work.not_before.clone());
        let wanted = NotBefore {
            step: "01-retire_table-rename".into(),
            ms: 7_200_000,
        };
        assert_eq!(gates.collect::<Vec<_>>(), [wanted]);
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(super::deprecated("orders"), "_deprecated_orders");
        let name = super::deprecated(&"é".repeat(31));
        assert_eq!(name.len(), 62);
    }
}
