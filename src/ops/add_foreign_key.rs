//! `add_foreign_key`: every row refers to one that exists.

use super::parts::constraint::{self, NewConstraint, Reach};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{
    CatalogSnapshot, Constraint, ConstraintKind, Index, Persistence, Reference, Table,
};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::{Fields, Node, Value};
use crate::plan::{Hazard, Settings};
use crate::sql::{QualifiedName, ident, idents};

const MANUAL: &str = "\
Adds a foreign key. It holds for new rows at once, without looking at those that are there; a second step reads
them while reads and writes go on. Rows that refer to nothing are shown by their keys and the constraint stays for
new rows: correct them and run again. Without columns, `references` means the primary key of that table. Without a
name it gets the one that PostgreSQL would make up.

```yaml
- add_foreign_key:
    table: orders
    columns: [customer_id]
    references: {table: customers, columns: [id]}
    on_delete: cascade
```

Also: `on_update`, `on_delete` (no action, restrict, cascade, set null, set default), `match` (simple, full),
`deferrable`, `initially_deferred`; from PostgreSQL 18 `enforced: false`, for a foreign key that is documentation:
nobody checks it, neither now nor for new rows, so there is nothing to validate.

Before PostgreSQL 18 a partitioned table takes no unvalidated foreign key: its partitions get one each, those are
validated, and the table adopts them.

Locks: SHARE ROW EXCLUSIVE on both tables, the referenced one first, for an instant (catalog only); then SHARE UPDATE
EXCLUSIVE on the table and ROW SHARE on the referenced one while the rows are read, which block neither reads nor
writes. Adopting takes ACCESS EXCLUSIVE on the referenced table for an instant.
Undo: the constraint is dropped.
";

const ACTIONS: &[(&str, &str)] = &[
    ("no action", "NO ACTION"),
    ("restrict", "RESTRICT"),
    ("cascade", "CASCADE"),
    ("set null", "SET NULL"),
    ("set default", "SET DEFAULT"),
    ("no_action", "NO ACTION"),
    ("set_null", "SET NULL"),
    ("set_default", "SET DEFAULT"),
];

#[derive(Debug, Clone)]
pub struct AddForeignKey {
    table: Located<QualifiedName>,
    name: Option<Located<String>>,
    columns: Vec<Located<String>>,
    references: Located<QualifiedName>,
    /// Empty: the primary key.
    referenced: Vec<Located<String>>,
    on_update: &'static str,
    on_delete: &'static str,
    match_type: &'static str,
    deferrable: bool,
    initially_deferred: bool,
    /// Where it says that nobody checks it.
    unenforced: Option<Span>,
}

pub struct Target {
    new: NewConstraint,
    hazards: Vec<Hazard>,
}

/// The far end, once found.
struct FarEnd {
    columns: Vec<String>,
    index: String,
}

fn read_references(
    fields: &Fields<'_>,
    node: &Node,
) -> Option<(Located<QualifiedName>, Vec<Located<String>>)> {
    if let Value::Scalar { .. } = node.value {
        let text = fields.text_of(node, "references")?.value;
        return match QualifiedName::parse(&text, fields.default_schema()) {
            Ok(value) => Some((
                Located {
                    value,
                    span: node.span,
                },
                Vec::new(),
            )),
            Err(message) => {
                fields.report(Diagnostic::new("invalid_value", message).at(node.span));
                None
            }
        };
    }
    let nested = fields.nested(node, "`references`");
    let table = nested.qualified("table");
    let columns = nested.optional_identifiers("columns").unwrap_or_default();
    if !nested.finish() {
        return None;
    }
    Some((table?, columns))
}

impl AddForeignKey {
    fn definition(&self, columns: &[&str], far: &FarEnd) -> String {
        let mut text = format!(
            "FOREIGN KEY ({}) REFERENCES {}({})",
            idents(columns),
            self.references.value,
            idents(&far.columns)
        );
        // In the order in which the server prints them.
        if self.match_type == "FULL" {
            text.push_str(" MATCH FULL");
        }
        for (event, action) in [("UPDATE", self.on_update), ("DELETE", self.on_delete)] {
            if action != "NO ACTION" {
                text.push_str(&format!(" ON {event} {action}"));
            }
        }
        if self.deferrable {
            text.push_str(" DEFERRABLE");
        }
        if self.initially_deferred {
            text.push_str(" INITIALLY DEFERRED");
        }
        if self.unenforced.is_some() {
            text.push_str(Constraint::NOT_ENFORCED);
        }
        text
    }

    fn constraint(&self, far: FarEnd) -> Constraint {
        let columns: Vec<&str> = self.columns.iter().map(|column| column.value.as_str()).collect();
        Constraint {
            kind: ConstraintKind::ForeignKey,
            definition: self.definition(&columns, &far),
            columns: columns.into_iter().map(str::to_owned).collect(),
            validated: self.unenforced.is_none(),
            deferrable: self.deferrable,
            initially_deferred: self.initially_deferred,
            no_inherit: false,
            inherited: false,
            index: Some(far.index),
            references: Some(Reference {
                table: self.references.value.clone(),
                columns: far.columns,
                match_type: self.match_type.into(),
                on_update: self.on_update.into(),
                on_delete: self.on_delete.into(),
            }),
            comment: None,
        }
    }

    fn column_complaints(&self, context: &Context<'_>, table: &Table) -> Vec<Diagnostic> {
        let mut complaints = Vec::new();
        for name in &self.columns {
            let column = match context.column(&self.table.value, table, name) {
                Ok(column) => column,
                Err(complaint) => {
                    complaints.push(complaint);
                    continue;
                }
            };
            let generated = column.generated.as_ref();
            let virtual_column = generated.is_some_and(|generated| !generated.stored);
            let changed = self.on_update != "NO ACTION" && self.on_update != "RESTRICT"
                || self.on_delete.starts_with("SET");
            if virtual_column || (generated.is_some() && changed) {
                let message = format!("`{}` is a generated column", column.name);
                complaints.push(
                    Diagnostic::new("generated_column", message).at(name.span).help(
                        "it can refer to another table only when stored and never set by the foreign key",
                    ),
                );
            }
            if column.not_null && [self.on_delete, self.on_update].contains(&"SET NULL") {
                let message = format!("`{}` is never null, so `set null` would always fail", column.name);
                complaints.push(Diagnostic::new("set_null_on_not_null", message).at(name.span));
            }
        }
        complaints
    }

    /// The referenced columns and the index that makes them unique.
    fn far_end(&self, context: &Context<'_>, far: &Table) -> Result<FarEnd, Vec<Diagnostic>> {
        let name = &self.references.value;
        if self.referenced.is_empty() {
            let Some((_, key)) = far.primary_key() else {
                let message = format!("{name} has no primary key to refer to");
                return Err(vec![
                    Diagnostic::new("no_primary_key", message)
                        .at(self.references.span)
                        .help("give `references: {table: …, columns: […]}` with columns that are unique"),
                ]);
            };
            return self.counted(FarEnd {
                columns: key.columns.clone(),
                index: key.index.clone().unwrap_or_default(),
            });
        }
        let unknown: Vec<Diagnostic> = self
            .referenced
            .iter()
            .filter_map(|column| context.column(name, far, column).err())
            .collect();
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let columns: Vec<String> = self
            .referenced
            .iter()
            .map(|column| column.value.clone())
            .collect();
        match unique_index(far, &columns) {
            Ok(index) => self.counted(FarEnd {
                index: index.to_owned(),
                columns,
            }),
            Err(reason) => Err(vec![
                Diagnostic::new("not_unique", format!("{name} ({}) {reason}", idents(&columns)))
                    .at(self.references.span)
                    .help("make the referenced columns unique first: add_unique or add_primary_key"),
            ]),
        }
    }

    fn counted(&self, far: FarEnd) -> Result<FarEnd, Vec<Diagnostic>> {
        if far.columns.len() == self.columns.len() {
            return Ok(far);
        }
        let message = format!(
            "{} referencing columns and {} referenced ones ({})",
            self.columns.len(),
            far.columns.len(),
            idents(&far.columns)
        );
        Err(vec![
            Diagnostic::new("column_count", message).at(self.references.span),
        ])
    }

    fn type_complaints(&self, table: &Table, far: &Table, far_columns: &[String]) -> Vec<Diagnostic> {
        let pairs = self.columns.iter().zip(far_columns);
        let compared = pairs.filter_map(|(near, far_name)| {
            let (a, b) = (table.column(&near.value)?, far.column(far_name)?);
            constraint::clearly_incompatible(&a.data_type, &b.data_type).then(|| {
                let message = format!(
                    "`{}` is {} but {}.{} is {}; they cannot be compared",
                    a.name,
                    a.data_type,
                    self.references.value,
                    ident(&b.name),
                    b.data_type
                );
                Diagnostic::new("types_differ", message)
                    .at(near.span)
                    .help("give both columns the same type")
            })
        });
        compared.collect()
    }

    fn table_complaints(&self, context: &Context<'_>, table: &Table, far: &Table) -> Vec<Diagnostic> {
        let mut complaints = Vec::new();
        complaints.extend(constraint::ordinary(&self.table, table));
        complaints.extend(constraint::ordinary(&self.references, far));
        complaints.extend(constraint::unenforced(context, self.unenforced));
        let fits = match table.persistence {
            Persistence::Permanent => far.persistence == Persistence::Permanent,
            Persistence::Unlogged => far.persistence != Persistence::Temporary,
            Persistence::Temporary => far.persistence == Persistence::Temporary,
        };
        if !fits {
            let word = |persistence| match persistence {
                Persistence::Permanent => "permanent",
                Persistence::Unlogged => "unlogged",
                Persistence::Temporary => "temporary",
            };
            let message = format!(
                "{} is {} and {} is {}; PostgreSQL allows no foreign key between them",
                self.table.value,
                word(table.persistence),
                self.references.value,
                word(far.persistence)
            );
            complaints.push(Diagnostic::new("persistence_differs", message).at(self.references.span));
        }
        if let Some(name) = &self.name {
            let reach = Reach::partitions(context.catalog, &self.table.value);
            complaints.extend(constraint::name_complaints(context, &reach.tables, name));
        }
        if self.initially_deferred && !self.deferrable {
            complaints.push(
                Diagnostic::new(
                    "not_deferrable",
                    "`initially_deferred` needs a deferrable constraint",
                )
                .at(self.table.span)
                .help("leave `deferrable: false` out"),
            );
        }
        complaints
    }

    fn hazards(&self, table: &Table, far: &Table, constraint: &Constraint) -> Vec<Hazard> {
        let mut hazards = Vec::new();
        let name = &self.table.value;
        if constraint.enforced() && !has_index(table, &constraint.columns) {
            hazards.push(Hazard::new(
                "no_index",
                format!(
                    "no index of {name} begins with ({}): every delete and key update of {} reads the whole table; \
                     create_index first",
                    idents(&constraint.columns),
                    self.references.value
                ),
            ));
        }
        let same = table.constraints.iter().find(|(_, other)| {
            other.columns == constraint.columns
                && other
                    .references
                    .as_ref()
                    .map(|reference| (&reference.table, &reference.columns))
                    == constraint
                        .references
                        .as_ref()
                        .map(|reference| (&reference.table, &reference.columns))
        });
        if let Some((other, _)) = same {
            hazards.push(Hazard::new(
                "duplicate_foreign_key",
                format!("{name} has the same foreign key already: {}", ident(other)),
            ));
        }
        let reference_columns = constraint
            .references
            .iter()
            .flat_map(|reference| &reference.columns);
        for (near, far_name) in constraint.columns.iter().zip(reference_columns) {
            if let (Some(a), Some(b)) = (table.column(near), far.column(far_name))
                && a.data_type != b.data_type
            {
                hazards.push(Hazard::new(
                    "types_differ",
                    format!(
                        "{name}.{} is {} and {}.{} is {}",
                        ident(near),
                        a.data_type,
                        self.references.value,
                        ident(far_name),
                        b.data_type
                    ),
                ));
            }
        }
        hazards
    }

    fn recipe(&self, context: &Context<'_>, table: &Table, constraint: Constraint) -> NewConstraint {
        let table_name = &self.table.value;
        let name = match &self.name {
            Some(name) => name.value.clone(),
            None => {
                let reach = Reach::partitions(context.catalog, table_name);
                let columns = constraint.columns.join("_");
                constraint::free_name(context, &reach.tables, &[&table_name.name, &columns], "fkey")
            }
        };
        constraint::foreign_key(context, table_name, table, &name, constraint)
    }
}

/// The index that the server will take: of the primary key, else of a unique constraint, else a bare one.
fn unique_index<'t>(far: &'t Table, columns: &[String]) -> Result<&'t str, &'static str> {
    let same_columns = |index: &Index| {
        let keys: Option<Vec<&str>> = index.keys.iter().map(|key| key.column.as_deref()).collect();
        keys.is_some_and(|keys| {
            keys.len() == columns.len() && columns.iter().all(|column| keys.contains(&column.as_str()))
        })
    };
    let candidates = || {
        far.indexes
            .iter()
            .filter(|(_, index)| index.unique && same_columns(index))
    };
    if candidates().next().is_none() {
        return Err("has no unique index on exactly these columns");
    }
    let constraint = |index: &Index| {
        index
            .constraint
            .as_ref()
            .and_then(|name| far.constraints.get(name))
    };
    let usable = candidates().filter(|(_, index)| {
        index.valid
            && index.predicate.is_none()
            && constraint(index).is_none_or(|constraint| !constraint.deferrable)
    });
    let preference = |index: &Index| match constraint(index).map(|constraint| constraint.kind) {
        Some(ConstraintKind::PrimaryKey) => 0,
        Some(_) => 1,
        None => 2,
    };
    usable
        .min_by_key(|(_, index)| preference(index))
        .map(|(name, _)| name.as_str())
        .ok_or(
            "is unique only by an index that is partial, invalid or deferrable, which cannot be referred to",
        )
}

/// Whether an index lets the server find the rows that refer to a key.
fn has_index(table: &Table, columns: &[String]) -> bool {
    table.indexes.values().any(|index| {
        index.valid
            && index.predicate.is_none()
            && index.keys.len() >= columns.len()
            && index.keys[..columns.len()]
                .iter()
                .all(|key| key.column.as_ref().is_some_and(|column| columns.contains(column)))
    })
}

impl Operation for AddForeignKey {
    type Target = Target;
    const NAME: &'static str = "add_foreign_key";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let name = fields.optional_identifier("name");
        let columns = fields.identifiers("columns");
        let references = fields
            .required("references")
            .and_then(|node| read_references(fields, node));
        let on_update = fields.choice("on_update", ACTIONS);
        let on_delete = fields.choice("on_delete", ACTIONS);
        let match_type = fields.choice("match", &[("simple", "SIMPLE"), ("full", "FULL")]);
        let initially_deferred = fields.flag("initially_deferred", false);
        // As in SQL, INITIALLY DEFERRED alone makes it deferrable.
        let deferrable = fields.flag("deferrable", initially_deferred);
        let (references, referenced) = references?;
        Some(Self {
            table: table?,
            name,
            columns: columns?,
            references,
            referenced,
            on_update: on_update.map_or("NO ACTION", |action| action.value),
            on_delete: on_delete.map_or("NO ACTION", |action| action.value),
            match_type: match_type.map_or("SIMPLE", |kind| kind.value),
            deferrable,
            initially_deferred,
            unenforced: constraint::read_unenforced(fields),
        })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.table), Named::relation(&self.references)]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let (table, far) = match (context.table(&self.table), context.table(&self.references)) {
            (Ok(table), Ok(far)) => (table, far),
            (table, far) => return Err(table.err().into_iter().chain(far.err()).collect()),
        };
        let mut complaints = self.table_complaints(context, table, far);
        complaints.extend(self.column_complaints(context, table));
        let far_end = match self.far_end(context, far) {
            Ok(far_end) => far_end,
            Err(found) => {
                complaints.extend(found);
                return Err(complaints);
            }
        };
        complaints.extend(self.type_complaints(table, far, &far_end.columns));
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let constraint = self.constraint(far_end);
        Ok(Target {
            hazards: self.hazards(table, far, &constraint),
            new: self.recipe(context, table, constraint),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = target.new.steps(settings);
        if let Some(first) = steps.first_mut() {
            first.hazards.clone_from(&target.hazards);
        }
        steps
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        let new = &target.new;
        constraint::insert(catalog, &new.referencing.tables, &new.name, &new.constraint);
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::{CatalogSnapshot, Persistence, TableKind};
    use crate::ops::testing::{catalog, compile, index, plan_text, table};
    use crate::sql::QualifiedName;

    fn shop() -> CatalogSnapshot {
        let customers = table(&["Tenant integer not null", "id bigint not null", "code text"])
            .with_primary_key("customers_pkey", &["Tenant", "id"]);
        let mut orders = table(&[
            "id bigint not null",
            "tenant integer",
            "customer bigint",
            "code uuid",
        ])
        .with_primary_key("orders_pkey", &["id"]);
        orders
            .indexes
            .insert("orders_customer".into(), index(&["customer", "tenant"], false));
        catalog().with("customers", customers).with("orders", orders)
    }

    #[test]
    fn locks_the_referenced_table_first_and_prints_like_the_server() {
        let changes = "- add_foreign_key:\n\
            \x20   table: orders\n\
            \x20   columns: [tenant, customer]\n\
            \x20   references: customers\n\
            \x20   match: full\n\
            \x20   on_delete: set null\n\
            \x20   on_update: cascade\n\
            \x20   initially_deferred: true";
        insta::assert_snapshot!(plan_text(&shop(), changes), @r#"
        01-add_foreign_key-add [expand] add foreign key orders_tenant_customer_fkey to public.orders for new rows
          LOCK TABLE public.customers, public.orders IN SHARE ROW EXCLUSIVE MODE;
          ALTER TABLE public.orders ADD CONSTRAINT orders_tenant_customer_fkey FOREIGN KEY (tenant, customer) REFERENCES public.customers("Tenant", id) MATCH FULL ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED NOT VALID;
            locks: public.customers SHARE ROW EXCLUSIVE, public.orders SHARE ROW EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.customers, public.orders IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public.orders DROP CONSTRAINT orders_tenant_customer_fkey;
          undo   locks: public.customers ACCESS EXCLUSIVE, public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-add_foreign_key-validate [validate] validate foreign key orders_tenant_customer_fkey on the rows of public.orders
          ALTER TABLE public.orders VALIDATE CONSTRAINT orders_tenant_customer_fkey;
            locks: public.orders SHARE UPDATE EXCLUSIVE, public.customers ROW SHARE (lock_timeout -)
          undo not needed: undoing the step before removes the constraint
        "#);
        let plan = compile(&shop(), changes).unwrap();
        insta::assert_snapshot!(plan.steps[1].work.on_violation.as_ref().unwrap().query, @r#"SELECT child.id, child.tenant, child.customer FROM public.orders AS child WHERE (child.tenant IS NOT NULL AND child.customer IS NOT NULL AND NOT EXISTS (SELECT FROM public.customers AS parent WHERE parent."Tenant" = child.tenant AND parent.id = child.customer)) OR ((child.tenant IS NOT NULL OR child.customer IS NOT NULL) AND (child.tenant IS NULL OR child.customer IS NULL)) LIMIT 20"#);
        let orders = &plan.after.tables[&QualifiedName::new("public", "orders")];
        let constraint = &orders.constraints["orders_tenant_customer_fkey"];
        assert_eq!(constraint.index.as_deref(), Some("customers_pkey"));
    }

    #[test]
    fn what_nobody_checks_has_nothing_to_validate() {
        let changes = "- add_foreign_key: {table: orders, columns: [customer], \
                       references: {table: orders, columns: [id]}, enforced: false}";
        insta::assert_snapshot!(plan_text(&shop(), changes), @"3:111 server_too_old: constraints that are not enforced need PostgreSQL 18; the server has 15 (leave `enforced: false` out: the constraint is proven while reads and writes go on)");
        let mut shop = shop();
        shop.server.version_num = 180_000;
        insta::assert_snapshot!(plan_text(&shop, changes), @"
        01-add_foreign_key-add [expand] add foreign key orders_customer_fkey to public.orders, not enforced
          LOCK TABLE public.orders IN SHARE ROW EXCLUSIVE MODE;
          ALTER TABLE public.orders ADD CONSTRAINT orders_customer_fkey FOREIGN KEY (customer) REFERENCES public.orders(id) NOT ENFORCED;
            locks: public.orders SHARE ROW EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public.orders DROP CONSTRAINT orders_customer_fkey;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        ");
    }

    #[test]
    fn a_table_may_refer_to_itself() {
        let changes = "- add_foreign_key: {table: orders, name: self, columns: [customer], \
                       references: {table: orders, columns: [id]}}";
        insta::assert_snapshot!(plan_text(&shop(), changes), @"
        01-add_foreign_key-add [expand] add foreign key self to public.orders for new rows
          LOCK TABLE public.orders IN SHARE ROW EXCLUSIVE MODE;
          ALTER TABLE public.orders ADD CONSTRAINT self FOREIGN KEY (customer) REFERENCES public.orders(id) NOT VALID;
            locks: public.orders SHARE ROW EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public.orders DROP CONSTRAINT self;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-add_foreign_key-validate [validate] validate foreign key self on the rows of public.orders
          ALTER TABLE public.orders VALIDATE CONSTRAINT self;
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -)
          undo not needed: undoing the step before removes the constraint
        ");
    }

    fn parted() -> CatalogSnapshot {
        let mut parent = table(&["id bigint not null", "customer bigint"]);
        parent.kind = TableKind::Partitioned;
        parent.partition_key = Some("RANGE (id)".into());
        parent.children = vec![
            QualifiedName::new("public", "p1"),
            QualifiedName::new("public", "p2"),
        ];
        let mut leaf = table(&["id bigint not null", "customer bigint"]);
        leaf.partition_of = Some(QualifiedName::new("public", "parted"));
        let customers = table(&["id bigint not null"]).with_primary_key("customers_pkey", &["id"]);
        catalog()
            .with("parted", parent)
            .with("p1", leaf.clone())
            .with("p2", leaf)
            .with("customers", customers)
    }

    #[test]
    fn a_partitioned_table_adopts_the_keys_of_its_partitions_before_18() {
        let mut catalog = parted();
        let changes = "- add_foreign_key: {table: parted, columns: [customer], references: customers}";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        01-add_foreign_key-add-1 [expand] add foreign key parted_customer_fkey to public.p1 for new rows
          LOCK TABLE public.customers, public.p1 IN SHARE ROW EXCLUSIVE MODE;
          ALTER TABLE public.p1 ADD CONSTRAINT parted_customer_fkey FOREIGN KEY (customer) REFERENCES public.customers(id) NOT VALID;
            locks: public.customers SHARE ROW EXCLUSIVE, public.p1 SHARE ROW EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.customers, public.p1 IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public.p1 DROP CONSTRAINT IF EXISTS parted_customer_fkey;
          undo   locks: public.customers ACCESS EXCLUSIVE, public.p1 ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard no_index: no index of public.parted begins with (customer): every delete and key update of public.customers reads the whole table; create_index first
        01-add_foreign_key-add-2 [expand] add foreign key parted_customer_fkey to public.p2 for new rows
          LOCK TABLE public.customers, public.p2 IN SHARE ROW EXCLUSIVE MODE;
          ALTER TABLE public.p2 ADD CONSTRAINT parted_customer_fkey FOREIGN KEY (customer) REFERENCES public.customers(id) NOT VALID;
            locks: public.customers SHARE ROW EXCLUSIVE, public.p2 SHARE ROW EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.customers, public.p2 IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public.p2 DROP CONSTRAINT IF EXISTS parted_customer_fkey;
          undo   locks: public.customers ACCESS EXCLUSIVE, public.p2 ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-add_foreign_key-validate-1 [validate] validate foreign key parted_customer_fkey on the rows of public.p1
          ALTER TABLE public.p1 VALIDATE CONSTRAINT parted_customer_fkey;
            locks: public.p1 SHARE UPDATE EXCLUSIVE, public.customers ROW SHARE (lock_timeout -)
          undo not needed: undoing the step before removes the constraint
        01-add_foreign_key-validate-2 [validate] validate foreign key parted_customer_fkey on the rows of public.p2
          ALTER TABLE public.p2 VALIDATE CONSTRAINT parted_customer_fkey;
            locks: public.p2 SHARE UPDATE EXCLUSIVE, public.customers ROW SHARE (lock_timeout -)
          undo not needed: undoing the step before removes the constraint
        01-add_foreign_key-adopt [validate] add foreign key parted_customer_fkey to public.parted, adopting those of its partitions
          LOCK TABLE public.customers IN ACCESS EXCLUSIVE MODE;
          LOCK TABLE public.parted IN SHARE ROW EXCLUSIVE MODE;
          DO 'DECLARE leaf regclass; BEGIN SELECT p.relid INTO leaf FROM pg_catalog.pg_partition_tree(''public.parted''::pg_catalog.regclass) AS p WHERE p.isleaf AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS c WHERE c.conrelid = p.relid AND c.contype = ''f'' AND c.convalidated AND c.confrelid = ''public.customers''::pg_catalog.regclass AND ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.conkey) WITH ORDINALITY AS k(n, o) JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.o) = ARRAY[''customer'']::text[] AND ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.confkey) WITH ORDINALITY AS k(n, o) JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY k.o) = ARRAY[''id'']::text[] AND c.condeferrable = false AND c.condeferred = false) LIMIT 1; IF FOUND THEN RAISE EXCEPTION USING ERRCODE = ''55000'', MESSAGE = pg_catalog.format(''partition %s has no valid foreign key like %s'', leaf, ''parted_customer_fkey''), HINT = ''It was attached after the plan was made: add the key to it NOT VALID, validate it, run again.''; END IF; END';
          ALTER TABLE public.parted ADD CONSTRAINT parted_customer_fkey FOREIGN KEY (customer) REFERENCES public.customers(id);
            locks: public.customers ACCESS EXCLUSIVE, public.parted SHARE ROW EXCLUSIVE, public.p1 SHARE ROW EXCLUSIVE, public.p2 SHARE ROW EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.customers, public.parted IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public.parted DROP CONSTRAINT parted_customer_fkey;
          undo   locks: public.customers ACCESS EXCLUSIVE, public.parted ACCESS EXCLUSIVE, public.p1 ACCESS EXCLUSIVE, public.p2 ACCESS EXCLUSIVE (lock_timeout 200ms)
        ");
        catalog.server.version_num = 180_000;
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        01-add_foreign_key-add [expand] add foreign key parted_customer_fkey to public.parted for new rows
          LOCK TABLE public.customers, public.parted IN SHARE ROW EXCLUSIVE MODE;
          ALTER TABLE public.parted ADD CONSTRAINT parted_customer_fkey FOREIGN KEY (customer) REFERENCES public.customers(id) NOT VALID;
            locks: public.customers SHARE ROW EXCLUSIVE, public.parted SHARE ROW EXCLUSIVE, public.p1 SHARE ROW EXCLUSIVE, public.p2 SHARE ROW EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.customers, public.parted IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public.parted DROP CONSTRAINT parted_customer_fkey;
          undo   locks: public.customers ACCESS EXCLUSIVE, public.parted ACCESS EXCLUSIVE, public.p1 ACCESS EXCLUSIVE, public.p2 ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard no_index: no index of public.parted begins with (customer): every delete and key update of public.customers reads the whole table; create_index first
        01-add_foreign_key-validate [validate] validate foreign key parted_customer_fkey on the rows of public.parted
          ALTER TABLE public.parted VALIDATE CONSTRAINT parted_customer_fkey;
            locks: public.parted SHARE UPDATE EXCLUSIVE, public.p1 SHARE UPDATE EXCLUSIVE, public.p2 SHARE UPDATE EXCLUSIVE, public.customers ROW SHARE (lock_timeout -)
          undo not needed: undoing the step before removes the constraint
        ");
    }

    #[test]
    fn says_all_that_is_wrong() {
        let mut shop = shop();
        if let Some(customers) = shop.tables.get_mut(&QualifiedName::new("public", "customers")) {
            customers.persistence = Persistence::Unlogged;
            customers
                .indexes
                .insert("customers_code".into(), index(&["code"], true));
        }
        let changes = "- add_foreign_key: {table: orders, columns: [code], references: {table: customers, columns: [code]}}\n\
                       - add_foreign_key: {table: orders, columns: [customer], references: customers}\n\
                       - add_foreign_key: {table: orders, columns: [id], references: {table: customers, columns: [id]}, on_delete: set null}";
        insta::assert_snapshot!(plan_text(&shop, changes), @r#"
        3:73 persistence_differs: public.orders is permanent and public.customers is unlogged; PostgreSQL allows no foreign key between them
        3:46 types_differ: `code` is uuid but public.customers.code is text; they cannot be compared (give both columns the same type)
        4:69 persistence_differs: public.orders is permanent and public.customers is unlogged; PostgreSQL allows no foreign key between them
        4:69 column_count: 1 referencing columns and 2 referenced ones ("Tenant", id)
        5:71 persistence_differs: public.orders is permanent and public.customers is unlogged; PostgreSQL allows no foreign key between them
        5:46 set_null_on_not_null: `id` is never null, so `set null` would always fail
        5:71 not_unique: public.customers (id) has no unique index on exactly these columns (make the referenced columns unique first: add_unique or add_primary_key)
        "#);
    }
}
