//! The old name of a table, kept for applications that still use it: an automatically updatable view, made in the
//! transaction that takes the name from the table. A statement that waits for the table meanwhile looks the name up
//! again when it gets its lock, so nobody finds nothing.

use super::carry::views::make;
use super::dependents;
use crate::catalog::model::{CatalogSnapshot, Column, Grant, Persistence, Table, TableKind, View};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::ops::Context;
use crate::plan::{Expectation, Hazard};
use crate::sql::{QualifiedName, ident, idents, literal};

/// A view over one table.
#[derive(Debug, Clone)]
pub struct Compatible {
    pub name: QualifiedName,
    pub over: QualifiedName,
    create: Vec<String>,
    shown: Vec<String>,
}

impl Compatible {
    /// `columns` are the table's, each with the name under which it is shown.
    pub fn of(
        context: &Context<'_>,
        (name, over): (&QualifiedName, &QualifiedName),
        table: &Table,
        columns: &[(&Column, &str)],
    ) -> Self {
        let list = columns.iter().map(|(column, shown)| match column.name == *shown {
            true => ident(shown),
            false => format!("{} AS {}", ident(&column.name), ident(shown)),
        });
        let list: Vec<String> = list.collect();
        let invoker = context.major() >= 15;
        let view = View {
            owner: table.owner.clone(),
            options: invoker
                .then(|| "security_invoker=true".to_owned())
                .into_iter()
                .collect(),
            grants: usable(&table.grants),
            columns: columns
                .iter()
                .map(|(column, shown)| granted(column, shown))
                .collect(),
            ..View::new("", &format!("SELECT {} FROM {over}", list.join(", ")), false)
        };
        Self {
            name: name.clone(),
            over: over.clone(),
            create: make::create(name, &view, &context.now.role.name),
            shown: columns.iter().map(|(_, shown)| (*shown).to_owned()).collect(),
        }
    }

    /// A view with a definition of the user's own; it reads with the rights of its owner.
    pub fn given(
        context: &Context<'_>,
        name: &QualifiedName,
        table: &Table,
        definition: &str,
    ) -> Vec<String> {
        let view = View {
            owner: table.owner.clone(),
            grants: usable(&table.grants),
            ..View::new("", definition, false)
        };
        make::create(name, &view, &context.now.role.name)
    }

    pub fn create(&self) -> impl Iterator<Item = String> {
        self.create.iter().cloned()
    }

    /// That it is there, over a table of this name, with these columns.
    pub fn expect(&self) -> Expectation {
        let shown: Vec<String> = self.shown.iter().map(|name| literal(name)).collect();
        Expectation::Query {
            query: format!(
                "SELECT {} AND pg_catalog.to_regclass({}) IS NOT NULL AND (SELECT pg_catalog.array_agg(a.attname::pg_catalog.text \
                 ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = pg_catalog.to_regclass({}) \
                 AND a.attnum > 0) = ARRAY[{}]",
                is_view(&self.name),
                literal(&self.over.to_string()),
                literal(&self.name.to_string()),
                shown.join(", ")
            ),
        }
    }
}

/// A condition: a view of this name is there.
pub fn is_view(name: &QualifiedName) -> String {
    format!(
        "EXISTS (SELECT FROM pg_catalog.pg_class AS v WHERE v.oid = pg_catalog.to_regclass({}) AND v.relkind = 'v')",
        literal(&name.to_string())
    )
}

/// That no view holds the name any more.
pub fn no_view(name: &QualifiedName) -> Expectation {
    Expectation::Query {
        query: format!("SELECT NOT {}", is_view(name)),
    }
}

/// What can be done with a view.
fn usable(grants: &[Grant]) -> Vec<Grant> {
    let wanted =
        |grant: &&Grant| ["SELECT", "INSERT", "UPDATE", "DELETE"].contains(&grant.privilege.as_str());
    grants.iter().filter(wanted).cloned().collect()
}

fn granted(column: &Column, shown: &str) -> Column {
    Column {
        name: shown.to_owned(),
        default: None,
        comment: None,
        grants: usable(&column.grants),
        ..column.clone()
    }
}

/// What keeps a table from being renamed at all, or from being dropped by us.
pub fn unfit(context: &Context<'_>, name: &Located<QualifiedName>, table: &Table) -> Vec<Diagnostic> {
    let mut complaints = Vec::new();
    let mut complain = |code, message: String, help: &str| {
        complaints.push(Diagnostic::new(code, message).at(name.span).help(help));
    };
    if table.kind == TableKind::Foreign {
        complain(
            "foreign_table",
            format!("{} is a foreign table", name.value),
            "change the table on its own server",
        );
    }
    if table.persistence == Persistence::Temporary {
        complain(
            "temporary_table",
            format!("{} is a temporary table", name.value),
            "it goes with its session",
        );
    }
    if let Some(extension) = &table.extension {
        complain(
            "of_extension",
            format!("{} belongs to the extension {}", name.value, ident(extension)),
            "take it out of the extension first: ALTER EXTENSION … DROP TABLE …",
        );
    }
    let schema = context.now.schemas.get(&name.value.schema);
    if schema.is_some_and(|schema| !schema.may_create) {
        complain(
            "may_not_create",
            format!(
                "{} may not create anything in schema {}, and so not give names there",
                context.now.role.name,
                ident(&name.value.schema)
            ),
            &format!(
                "GRANT CREATE ON SCHEMA {} TO {}",
                ident(&name.value.schema),
                ident(&context.now.role.name)
            ),
        );
    }
    complaints
}

/// What keeps a view from standing in for the table.
pub fn view_unfit(context: &Context<'_>, name: &Located<QualifiedName>, table: &Table) -> Option<Diagnostic> {
    // Its policies would be asked about the owner of the view.
    (context.major() < 15 && table.row_security).then(|| {
        let message = format!(
            "{} has row security, which a view before PostgreSQL 15 asks with the rights of its owner",
            name.value
        );
        Diagnostic::new("row_security", message)
            .at(name.span)
            .help("`compatibility_view: false` renames without a view")
    })
}

/// A new name for a relation in the table's schema, or the complaints about it.
pub fn free_name(context: &Context<'_>, name: &QualifiedName, span: Span) -> Result<(), Diagnostic> {
    context.free_relation_name(name, span)?;
    // The row type of a table has its name.
    if context.now.types.contains_key(name) {
        return Err(Diagnostic::new("name_taken", format!("{name} is a type already")).at(span));
    }
    Ok(())
}

/// What does not work while the name is a view's.
pub fn limits(major: u32, view: &QualifiedName, over: &QualifiedName, table: &Table) -> Vec<Hazard> {
    let merge = if major < 17 { "MERGE, " } else { "" };
    let mut hazards = vec![Hazard::new(
        "old_name_is_a_view",
        format!(
            "until contract {view} is a view of {over}: SELECT, INSERT, UPDATE and DELETE work, also with RETURNING, ON \
             CONFLICT (columns) and FOR UPDATE; {merge}COPY FROM, TRUNCATE, ON CONFLICT ON CONSTRAINT, ALTER TABLE, new \
             foreign keys to it and the columns ctid, xmin and tableoid do not"
        ),
    )];
    let numbered = |column: &Column| {
        let default = column.default.as_ref();
        column.identity.is_some() || default.is_some_and(|default| default.starts_with("nextval("))
    };
    if table.columns.iter().any(numbered) {
        hazards.push(Hazard::new(
            "serial_sequence",
            format!("until contract pg_get_serial_sequence finds nothing for {view}"),
        ));
    }
    if major < 15 {
        hazards.push(Hazard::new(
            "owners_rights",
            format!(
                "until contract {view} reads and writes with the rights of {}, as views do before PostgreSQL 15; its own \
                 grants are those of the table",
                ident(&table.owner)
            ),
        ));
    }
    hazards
}

/// What follows the table under its new name, and whom that concerns.
pub fn follows(
    catalog: &CatalogSnapshot,
    from: &QualifiedName,
    to: &QualifiedName,
    table: &Table,
) -> Vec<Hazard> {
    let mut hazards = Vec::new();
    let publications = dependents::publications(catalog, from);
    if !publications.is_empty() {
        hazards.push(Hazard::new(
            "published",
            format!(
                "publications ({}) send its changes as those of {to} from then on: create that table on every subscriber \
                 before",
                idents(&publications)
            ),
        ));
    }
    let functions = table.dependents.iter();
    let functions = functions.filter(|it| it.kind == "function" && it.column.is_none());
    let columns = table
        .row_type_used_by
        .iter()
        .map(|column| format!("column {column}"));
    let users: Vec<String> = functions.map(|it| it.name.clone()).chain(columns).collect();
    if !users.is_empty() {
        hazards.push(Hazard::new(
            "row_type",
            format!(
                "the row type follows to {to}, for {}; rows of a view under the old name are of another type",
                users.join(", ")
            ),
        ));
    }
    hazards
}
