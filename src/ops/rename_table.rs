//! `rename_table`: a table gets another name, and keeps the old one for as long as it is needed.

use super::parts::compatible::{self, Compatible};
use super::parts::{brief, renamed, unused};
use super::{Context, Named, Object, Operation, Rename, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Column};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{Estimate, Expectation, Hazard, Lock, LockMode, Phase, Settings, Undo, Work};
use crate::sql::QualifiedName;

const MANUAL: &str = "\
Gives a table another name in its schema. In cutover, in one transaction, the table is renamed and a view takes its old
name, so that the application can be changed from one name to the other while both work: the view shows all columns, is
automatically updatable, and has the table's grants. From PostgreSQL 15 on it is `security_invoker`, so that the rights
and the row security of whoever uses it count; on 14 those of the owner do, and tables with row security are refused.
Contract drops the view, which is refused while something depends on it. `compatibility_view: false` leaves it out.

```yaml
- rename_table: {table: orders, to: purchases}
```

Other changes of the plan that work on the table come before it, and have nothing to do in contract.
Indexes, constraints and sequences keep their names. Foreign keys, views and publications follow the table. Through the
view, COPY FROM, TRUNCATE, ON CONFLICT ON CONSTRAINT, MERGE (before PostgreSQL 17) and new foreign keys do not work.

Locks: ACCESS EXCLUSIVE on the table, for an instant (catalog only); in contract on the view.
Undo: the view is dropped and the table gets its name back; before that, where contract is done, the view is made again.
";

#[derive(Debug, Clone)]
pub struct RenameTable {
    table: Located<QualifiedName>,
    to: Located<QualifiedName>,
    view: bool,
}

pub struct Target {
    from: QualifiedName,
    to: QualifiedName,
    view: Option<Compatible>,
    hazards: Vec<Hazard>,
}

/// Reads the new name of a table, which stays in its schema.
pub(super) fn read_new_name(
    fields: &Fields<'_>,
    table: &Located<QualifiedName>,
    text: &Located<String>,
) -> Option<Located<QualifiedName>> {
    let complaint = match QualifiedName::parse(&text.value, &table.value.schema) {
        Ok(value) if value.schema == table.value.schema => {
            return Some(Located {
                value,
                span: text.span,
            });
        }
        Ok(value) => Diagnostic::new(
            "other_schema",
            format!("{value} is in another schema than {}", table.value),
        )
        .help("a renamed table stays in its schema"),
        Err(message) => Diagnostic::new("invalid_value", message),
    };
    fields.report(complaint.at(text.span));
    None
}

impl Target {
    fn rename(&self, settings: &Settings) -> Work {
        let Self { from, to, view, .. } = self;
        let mut statements = vec![renamed::rename(from, to)];
        statements.extend(view.iter().flat_map(Compatible::create));
        let mut expect = vec![
            Expectation::Table { table: to.clone() },
            Expectation::TableAbsent { table: from.clone() },
        ];
        expect.extend(view.as_ref().map(Compatible::expect));
        let under = view.as_ref().map_or("", |_| "; a view keeps the old name");
        brief(
            settings,
            format!("rename {from} to {}{under}", crate::sql::ident(&to.name)),
            statements,
            vec![Lock::new(from, LockMode::AccessExclusive)],
            expect,
        )
    }

    fn rename_back(&self, settings: &Settings) -> Work {
        let Self { from, to, view, .. } = self;
        // Locks the table behind the view, too.
        let lock = format!("LOCK TABLE {from} IN {} MODE", LockMode::AccessExclusive);
        let view = view.as_ref().map(|_| vec![lock, format!("DROP VIEW {from}")]);
        renamed::back(settings, (from, to), view)
    }

    fn drop_view(&self, view: &Compatible, settings: &Settings) -> StepDraft {
        let name = &view.name;
        let again = brief(
            settings,
            format!("make the view {name} of {} again", view.over),
            view.create().collect(),
            vec![Lock::new(&view.over, LockMode::AccessShare)],
            vec![view.expect()],
        );
        StepDraft {
            id: "drop-view".into(),
            phase: Phase::Contract,
            work: brief(
                settings,
                format!("drop the view {name}: the old name goes"),
                vec![format!("DROP VIEW IF EXISTS {name}")],
                vec![Lock::new(name, LockMode::AccessExclusive)],
                vec![compatible::no_view(name)],
            ),
            hazards: vec![old_name_gone(name, "contract")],
            undo: Undo::Work(vec![again]),
            estimate: Estimate::INSTANT,
        }
    }
}

fn old_name_gone(name: &QualifiedName, phase: &str) -> Hazard {
    Hazard::new(
        "old_name_gone",
        format!("applications and functions that name {name} fail from {phase} on"),
    )
}

impl Operation for RenameTable {
    type Target = Target;
    const NAME: &'static str = "rename_table";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let to = fields.text("to");
        let view = fields.flag("compatibility_view", true);
        let table = table?;
        Some(Self {
            to: read_new_name(fields, &table, &to?)?,
            table,
            view,
        })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.table)]
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
        complaints.extend(compatible::free_name(context, to, self.to.span).err());
        if self.view {
            complaints.extend(compatible::view_unfit(context, &self.table, table));
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let columns: Vec<(&Column, &str)> = table
            .columns
            .iter()
            .map(|column| (column, column.name.as_str()))
            .collect();
        let mut hazards = compatible::follows(context.catalog, from, to, table);
        if self.view {
            hazards.extend(compatible::limits(context.major(), from, to, table));
        } else {
            hazards.push(old_name_gone(from, "cutover"));
        }
        Ok(Target {
            from: from.clone(),
            to: to.clone(),
            view: self
                .view
                .then(|| Compatible::of(context, (from, to), table, &columns)),
            hazards,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = vec![StepDraft {
            id: "rename".into(),
            phase: Phase::Cutover,
            work: target.rename(settings),
            hazards: target.hazards.clone(),
            undo: Undo::Work(vec![target.rename_back(settings)]),
            estimate: Estimate::INSTANT,
        }];
        if let Some(view) = &target.view {
            steps.push(unused::step(settings, &[&view.name]));
            steps.push(target.drop_view(view, settings));
        }
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
        renamed::table(catalog, &target.from, &target.to);
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::Trigger;
    use crate::ops::testing::{catalog, compile, plan_text, table};
    use crate::sql::QualifiedName;

    fn name(name: &str) -> QualifiedName {
        QualifiedName::new("public", name)
    }

    #[test]
    fn a_view_takes_the_name_in_the_same_transaction() {
        let mut catalog = catalog().with("orders", table(&["id bigint not null", "Code text"]));
        let changes = "- rename_table: {table: orders, to: Purchases}";
        let text = plan_text(&catalog, changes);
        let cutover = text.split("01-rename_table-unused").next().unwrap();
        insta::assert_snapshot!(cutover, @r#"
        01-rename_table-rename [cutover] rename public.orders to "Purchases"; a view keeps the old name
          ALTER TABLE public.orders RENAME TO "Purchases";
          CREATE VIEW public.orders WITH (security_invoker=true) AS
        SELECT id, "Code" FROM public."Purchases";
          DO 'DECLARE who text; BEGIN FOR who IN SELECT DISTINCT CASE x.grantee WHEN 0 THEN ''PUBLIC'' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS x WHERE c.oid = ''public.orders''::pg_catalog.regclass LOOP EXECUTE pg_catalog.format(''REVOKE ALL ON %s FROM %s'', ''public.orders'', who); END LOOP; IF FOUND THEN GRANT ALL ON public.orders TO postgres; END IF; END';
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE;
          undo DROP VIEW public.orders;
          undo ALTER TABLE public."Purchases" RENAME TO orders;
          undo   locks: public.orders ACCESS EXCLUSIVE, public."Purchases" ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard old_name_is_a_view: until contract public.orders is a view of public."Purchases": SELECT, INSERT, UPDATE and DELETE work, also with RETURNING, ON CONFLICT (columns) and FOR UPDATE; MERGE, COPY FROM, TRUNCATE, ON CONFLICT ON CONSTRAINT, ALTER TABLE, new foreign keys to it and the columns ctid, xmin and tableoid do not
        "#);
        // Before PostgreSQL 15 a view cannot ask for the rights of who uses it.
        catalog.server.version_num = 140_000;
        let text = plan_text(&catalog, changes);
        assert!(
            text.contains("hazard owners_rights") && !text.contains("security_invoker"),
            "{text}"
        );
        catalog.tables.get_mut(&name("orders")).unwrap().row_security = true;
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        3:25 row_security: public.orders has row security, which a view before PostgreSQL 15 asks with the rights of its owner (`compatibility_view: false` renames without a view)
        ");
    }

    #[test]
    fn everything_follows() {
        let mut orders = table(&["id bigint not null", "parent bigint"])
            .with_primary_key("orders_pkey", &["id"])
            .with_foreign_key("orders_parent", &["parent"], "orders", &["id"]);
        let trigger = Trigger {
            definition: "CREATE TRIGGER t BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION f()"
                .into(),
            enabled: "origin".into(),
            before_row_write: true,
            columns: Vec::new(),
            function: "public.f".into(),
            function_owned: true,
            cloned: false,
            comment: None,
        };
        orders.triggers.insert("t".into(), trigger);
        let lines =
            table(&["order_id bigint"]).with_foreign_key("lines_order", &["order_id"], "orders", &["id"]);
        let catalog = catalog().with("orders", orders).with("lines", lines);
        let plan = compile(&catalog, "- rename_table: {table: orders, to: order}").unwrap();
        let renamed = &plan.after.tables[&name("order")];
        assert!(
            renamed.triggers["t"]
                .definition
                .contains(" ON public.\"order\" FOR")
        );
        for (table, key) in [
            (renamed, "orders_parent"),
            (&plan.after.tables[&name("lines")], "lines_order"),
        ] {
            let key = &table.constraints[key];
            assert!(
                key.definition.ends_with(" REFERENCES public.\"order\"(id)"),
                "{}",
                key.definition
            );
            assert_eq!(key.references.as_ref().unwrap().table, name("order"));
        }
    }
}
