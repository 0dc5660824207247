//! `rename_column`: a column gets another name, and both names work for as long as they are needed.

use super::parts::column::ColumnName;
use super::parts::compatible::{self, Compatible};
use super::parts::mirror::reads_by_name;
use super::parts::{brief, dependents, locks, renamed, unused};
use super::{Context, Named, Operation, Rename, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Column, Table};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{ColumnFacts, Estimate, Expectation, Hazard, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{QualifiedName, ident, idents, own_name};

const MANUAL: &str = "\
Gives a column another name. In cutover, in one transaction, the table is set aside under a name of pgmorph's own, its
column gets the new name, and a view takes the table's name: it shows the new name in the column's place and the old one
at the end, and both can be read and written, so that the application can be changed while both work. Contract drops the
view and gives the table its name back. `compatibility_view: false` renames at once: the old name fails from then on.

```yaml
- rename_column: {table: orders, column: cust, to: customer_id}
```

Published tables are refused with the view, and so are other changes of the plan that work on the table later, or in
contract. A key column of a `sync` that is in place is refused. Indexes, constraints, generated columns, views, policies and foreign keys follow the column. While the table's name is a
view's, `SELECT *` shows one column more, a statement must not write both names at once, and COPY FROM, TRUNCATE, ON
CONFLICT ON CONSTRAINT, MERGE (before PostgreSQL 17), ALTER TABLE and new foreign keys do not work under that name.

Locks: ACCESS EXCLUSIVE on the table and all below it, for an instant (catalog only), in cutover and in contract.
Undo: the view is dropped, the table and the column get their names back.
";

/// Columns that every table has.
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];

#[derive(Debug, Clone)]
pub struct RenameColumn {
    subject: ColumnName,
    to: Located<String>,
    view: bool,
}

pub struct Target {
    table: QualifiedName,
    from: String,
    to: String,
    /// The table and what is below it.
    tree: Vec<QualifiedName>,
    view: Option<Compatible>,
    hazards: Vec<Hazard>,
}

impl RenameColumn {
    fn complaints(&self, context: &Context<'_>, table: &Table, column: &Column) -> Vec<Diagnostic> {
        let name = &self.subject.table.value;
        let mut complaints = compatible::unfit(context, &self.subject.table, table);
        let to = &self.to.value;
        let now = context.now.tables.get(name);
        let in_tree = context.catalog.tree(name);
        let below = in_tree.iter().filter_map(|name| context.catalog.tables.get(name));
        if let Some(taken) = below.chain(now).find_map(|table| table.column(to)) {
            complaints.push(
                Diagnostic::new(
                    "name_taken",
                    format!("{name} has a column `{}` already", taken.name),
                )
                .at(self.to.span),
            );
        }
        if SYSTEM_COLUMNS.contains(&to.as_str()) {
            let message = format!("`{to}` is a column that every table has");
            complaints.push(Diagnostic::new("name_taken", message).at(self.to.span));
        }
        if column.inherited || table.partition_of.is_some() {
            let parent = table.partition_of.iter().chain(&table.inherits).next();
            let parent = parent.map_or("a parent table".to_owned(), ToString::to_string);
            let message = format!("{name}.{} comes from {parent}", ident(&column.name));
            complaints.push(
                self.subject
                    .complaint("inherited_column", message)
                    .help(format!("rename the column of {parent}")),
            );
        }
        if let Some(of_type) = &table.of_type {
            let message = format!("{name} is a table of the type {of_type}");
            complaints.push(
                self.subject
                    .complaint("typed_table", message)
                    .help(format!("ALTER TYPE {of_type} RENAME ATTRIBUTE … CASCADE")),
            );
        }
        complaints.extend(self.mirrored(context));
        if self.view {
            complaints.extend(self.view_complaints(context, table));
        }
        complaints
    }

    /// A mirror that is in place would fail, and every write to the table with it.
    fn mirrored(&self, context: &Context<'_>) -> Option<Diagnostic> {
        let (name, column) = (&self.subject.table.value, &self.subject.column.value);
        let tree = context.catalog.tree(name);
        let tables = tree.iter().filter_map(|name| context.catalog.tables.get(name));
        let mut triggers = tables.flat_map(|table| &table.triggers);
        let (trigger, _) = triggers.find(|(_, it)| reads_by_name(&it.definition, column))?;
        let message = format!(
            "{name}.{} is a key of a sync that is in place (trigger {})",
            ident(column),
            ident(trigger)
        );
        let complaint = self.subject.complaint("mirrored_key", message);
        Some(complaint.help("finish the plan with the sync first, through contract, or roll it back"))
    }

    fn view_complaints(&self, context: &Context<'_>, table: &Table) -> Vec<Diagnostic> {
        let name = &self.subject.table.value;
        let mut complaints: Vec<Diagnostic> = compatible::view_unfit(context, &self.subject.table, table)
            .into_iter()
            .collect();
        complaints.extend(compatible::free_name(context, &aside(name), self.subject.table.span).err());
        let publications = dependents::publications(context.catalog, name);
        if !publications.is_empty() {
            let message = format!(
                "{name} is published ({}), and would be under another name until contract",
                idents(&publications)
            );
            complaints.push(
                Diagnostic::new("published", message)
                    .at(self.subject.table.span)
                    .help(
                        "`compatibility_view: false` renames at once; subscribers need the new name before",
                    ),
            );
        }
        complaints
    }

    fn hazards(&self, context: &Context<'_>, table: &Table) -> Vec<Hazard> {
        let name = &self.subject.table.value;
        let (from, to) = (ident(&self.subject.column.value), ident(&self.to.value));
        if !self.view {
            return vec![old_name_gone(name, &self.subject.column.value, "cutover")];
        }
        let mut hazards = vec![
            Hazard::new(
                "one_column_more",
                format!(
                    "until contract SELECT * of {name} shows {from} too, at the end; prepared ones fail with SQLSTATE \
                     0A000 from cutover and from contract on, until they are prepared again"
                ),
            ),
            Hazard::new(
                "both_names",
                format!("a statement that writes both {from} and {to} fails with SQLSTATE 42601"),
            ),
        ];
        hazards.extend(compatible::limits(context.major(), name, &aside(name), table));
        hazards.extend(compatible::follows(context.catalog, name, &aside(name), table));
        hazards
    }
}

fn aside(table: &QualifiedName) -> QualifiedName {
    table.sibling(own_name(&[&table.name], "pgmorph_renamed"))
}

fn old_name_gone(table: &QualifiedName, column: &str, phase: &str) -> Hazard {
    let message = format!(
        "applications, functions and triggers that name {table}.{} fail from {phase} on",
        ident(column)
    );
    Hazard::new("old_name_gone", message)
}

/// All columns, and the renamed one at the end under its old name.
fn view(context: &Context<'_>, name: &QualifiedName, table: &Table, from: &str, to: &str) -> Compatible {
    let mut columns = table.columns.clone();
    for column in columns.iter_mut().filter(|column| column.name == from) {
        to.clone_into(&mut column.name);
    }
    let mut shown: Vec<(&Column, &str)> = columns
        .iter()
        .map(|column| (column, column.name.as_str()))
        .collect();
    shown.extend(
        columns
            .iter()
            .filter(|column| column.name == to)
            .map(|column| (column, from)),
    );
    Compatible::of(context, (name, &aside(name)), table, &shown)
}

impl Target {
    fn rename_column(&self, from: &str, to: &str) -> String {
        format!(
            "ALTER TABLE {} RENAME COLUMN {} TO {}",
            self.table,
            ident(from),
            ident(to)
        )
    }

    fn named(&self, there: &str, gone: &str) -> Vec<Expectation> {
        vec![
            Expectation::Column {
                table: self.table.clone(),
                column: there.to_owned(),
                facts: ColumnFacts::default(),
            },
            Expectation::ColumnAbsent {
                table: self.table.clone(),
                column: gone.to_owned(),
            },
        ]
    }

    /// In one step: the name is another one from then on.
    fn at_once(&self, settings: &Settings) -> StepDraft {
        let (from, to) = (self.from.as_str(), self.to.as_str());
        let work = |from: &str, to: &str| {
            brief(
                settings,
                format!("rename {}.{} to {}", self.table, ident(from), ident(to)),
                vec![self.rename_column(from, to)],
                locks(&self.tree, LockMode::AccessExclusive),
                self.named(to, from),
            )
        };
        StepDraft {
            id: "rename".into(),
            phase: Phase::Cutover,
            work: work(from, to),
            hazards: self.hazards.clone(),
            undo: Undo::Work(vec![work(to, from)]),
            estimate: Estimate::INSTANT,
        }
    }

    /// From the table to the view in front of it.
    fn behind(&self, view: &Compatible, settings: &Settings, with_column: bool) -> Work {
        let mut statements = Vec::new();
        let mut summary = format!("put a view in front of {}", self.table);
        if with_column {
            statements.push(self.rename_column(&self.from, &self.to));
            let (from, to) = (ident(&self.from), ident(&self.to));
            summary = format!("rename {}.{from} to {to}; a view shows both names", self.table);
        }
        statements.push(rename(&self.table, &view.over));
        statements.extend(view.create());
        let absent = Expectation::TableAbsent {
            table: self.table.clone(),
        };
        brief(
            settings,
            summary,
            statements,
            locks(&self.tree, LockMode::AccessExclusive),
            vec![absent, view.expect()],
        )
    }

    /// From the view to the table behind it.
    fn in_front(&self, view: &Compatible, settings: &Settings, with_column: bool) -> Work {
        let mode = LockMode::AccessExclusive;
        let mut statements = vec![
            // The view, the table behind it and all below that.
            format!("LOCK TABLE {} IN {mode} MODE", self.table),
            format!("DROP VIEW {}", self.table),
            rename(&view.over, &self.table),
        ];
        let below = self.tree.iter().skip(1);
        let taken = [&self.table, &view.over].into_iter().chain(below);
        let mut summary = format!("drop the view and give the table its name {} back", self.table);
        let mut expect = self.named(&self.to, &self.from);
        if with_column {
            statements.push(self.rename_column(&self.to, &self.from));
            summary = format!(
                "drop the view, and call the column of {} {} again",
                self.table,
                ident(&self.from)
            );
            expect = self.named(&self.from, &self.to);
        }
        brief(settings, summary, statements, locks(taken, mode), expect)
    }

    fn with_view(&self, view: &Compatible, settings: &Settings) -> Vec<StepDraft> {
        let cutover = StepDraft {
            id: "rename".into(),
            phase: Phase::Cutover,
            work: self.behind(view, settings, true),
            hazards: self.hazards.clone(),
            undo: Undo::Work(vec![self.in_front(view, settings, true)]),
            estimate: Estimate::INSTANT,
        };
        let contract = StepDraft {
            id: "drop-view".into(),
            phase: Phase::Contract,
            work: self.in_front(view, settings, false),
            hazards: vec![old_name_gone(&self.table, &self.from, "contract")],
            undo: Undo::Work(vec![self.behind(view, settings, false)]),
            estimate: Estimate::INSTANT,
        };
        vec![cutover, unused::step(settings, &[&self.table]), contract]
    }
}

fn rename(from: &QualifiedName, to: &QualifiedName) -> String {
    format!("ALTER TABLE {from} RENAME TO {}", ident(&to.name))
}

impl Operation for RenameColumn {
    type Target = Target;
    const NAME: &'static str = "rename_column";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let subject = ColumnName::read(fields);
        let to = fields.identifier("to");
        let view = fields.flag("compatibility_view", true);
        Some(Self {
            subject: subject?,
            to: to?,
            view,
        })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.subject.table)]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let (table, column) = self.subject.find(context).map_err(|complaint| vec![complaint])?;
        let complaints = self.complaints(context, table, column);
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let (name, from, to) = (&self.subject.table.value, &column.name, &self.to.value);
        Ok(Target {
            table: name.clone(),
            from: from.clone(),
            to: to.clone(),
            tree: context.catalog.tree(name),
            view: self.view.then(|| view(context, name, table, from, to)),
            hazards: self.hazards(context, table),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        match &target.view {
            Some(view) => target.with_view(view, settings),
            None => vec![target.at_once(settings)],
        }
    }

    fn swaps(target: &Target) -> Vec<(QualifiedName, String)> {
        // With a view the whole table is kept from them.
        match &target.view {
            Some(_) => Vec::new(),
            None => vec![(target.table.clone(), target.to.clone())],
        }
    }

    fn renames(target: &Target) -> Vec<Rename> {
        vec![Rename {
            from: target.table.clone(),
            to: target.table.clone(),
            settled: target.view.as_ref().map_or(Phase::Cutover, |_| Phase::Contract),
        }]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        renamed::column(catalog, &target.table, &target.from, &target.to);
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::ConstraintKind;
    use crate::ops::testing::{catalog, compile, constraint, index, plan_text, table};
    use crate::sql::QualifiedName;

    #[test]
    fn both_names_are_shown_by_a_view_in_front_of_the_table() {
        let catalog = catalog().with(
            "orders",
            table(&["id bigint not null", "Cust bigint", "note text"]),
        );
        let text = plan_text(
            &catalog,
            "- rename_column: {table: orders, column: Cust, to: customer_id}",
        );
        let cutover = text.split("01-rename_column-unused").next().unwrap();
        insta::assert_snapshot!(cutover, @r#"
        01-rename_column-rename [cutover] rename public.orders."Cust" to customer_id; a view shows both names
          ALTER TABLE public.orders RENAME COLUMN "Cust" TO customer_id;
          ALTER TABLE public.orders RENAME TO orders_pgmorph_renamed;
          CREATE VIEW public.orders WITH (security_invoker=true) AS
        SELECT id, customer_id, note, customer_id AS "Cust" FROM public.orders_pgmorph_renamed;
          DO 'DECLARE who text; BEGIN FOR who IN SELECT DISTINCT CASE x.grantee WHEN 0 THEN ''PUBLIC'' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS x WHERE c.oid = ''public.orders''::pg_catalog.regclass LOOP EXECUTE pg_catalog.format(''REVOKE ALL ON %s FROM %s'', ''public.orders'', who); END LOOP; IF FOUND THEN GRANT ALL ON public.orders TO postgres; END IF; END';
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE;
          undo DROP VIEW public.orders;
          undo ALTER TABLE public.orders_pgmorph_renamed RENAME TO orders;
          undo ALTER TABLE public.orders RENAME COLUMN customer_id TO "Cust";
          undo   locks: public.orders ACCESS EXCLUSIVE, public.orders_pgmorph_renamed ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard one_column_more: until contract SELECT * of public.orders shows "Cust" too, at the end; prepared ones fail with SQLSTATE 0A000 from cutover and from contract on, until they are prepared again
          hazard both_names: a statement that writes both "Cust" and customer_id fails with SQLSTATE 42601
          hazard old_name_is_a_view: until contract public.orders is a view of public.orders_pgmorph_renamed: SELECT, INSERT, UPDATE and DELETE work, also with RETURNING, ON CONFLICT (columns) and FOR UPDATE; MERGE, COPY FROM, TRUNCATE, ON CONFLICT ON CONSTRAINT, ALTER TABLE, new foreign keys to it and the columns ctid, xmin and tableoid do not
        "#);
    }

    #[test]
    fn texts_follow_the_column() {
        let mut orders = table(&["id bigint not null", "cust bigint"]);
        let check = constraint(ConstraintKind::Check, "CHECK ((cust > 0))", &["cust"]);
        orders.constraints.insert("positive".into(), check);
        orders.indexes.insert("by_cust".into(), index(&["cust"], false));
        let lines = table(&["cust bigint"]).with_foreign_key("lines_cust", &["cust"], "orders", &["cust"]);
        let catalog = catalog().with("orders", orders).with("lines", lines);
        let changes = "- rename_column: {table: orders, column: cust, to: order, compatibility_view: false}";
        let after = compile(&catalog, changes).unwrap().after;
        let table = |name: &str| &after.tables[&QualifiedName::new("public", name)];
        assert_eq!(
            table("orders").constraints["positive"].definition,
            "CHECK ((\"order\" > 0))"
        );
        assert!(table("orders").indexes["by_cust"].mentions("order"));
        assert_eq!(
            table("lines").constraints["lines_cust"].definition,
            "FOREIGN KEY (cust) REFERENCES public.orders(\"order\")"
        );
    }

    #[test]
    fn what_runs_while_the_table_is_set_aside_is_refused() {
        let catalog = catalog().with("orders", table(&["id bigint not null", "cust bigint"]));
        let changes = "  - rename_column: {table: orders, column: cust, to: c}\n  - set_not_null: {table: orders, column: c}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        4:5 renamed_in_between: it works on public.orders in expand, before an earlier change of this plan is through with its renaming (move it before that change, or into a plan of its own that runs afterwards)
        ");
    }
}
