//! The schema from a catalog snapshot: what its model knows well enough to be made again. What is missing is told.

use super::Site;
use crate::catalog::model::{
    CatalogSnapshot, Column, Index, IndexKey, Persistence, ReplicaIdentity, Table, TableKind, View,
};
use crate::error::{Error, ErrorKind};
use crate::sql::{QualifiedName, ident, idents, literal};
use std::collections::BTreeSet;

/// Something to be made, in words, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Make {
    pub what: String,
    pub sql: String,
}

fn make(what: impl Into<String>, sql: impl Into<String>) -> Make {
    Make {
        what: what.into(),
        sql: sql.into(),
    }
}

/// What is to be made, in no particular order, and what the snapshot does not know enough of.
pub fn schema(catalog: &CatalogSnapshot) -> (Vec<Make>, Vec<String>) {
    let (mut makes, mut missing) = (Vec::new(), Vec::new());
    for name in catalog.schemas.keys() {
        let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", ident(name));
        makes.push(make(format!("schema {name}"), sql));
    }
    types(catalog, &mut makes, &mut missing);
    for function in catalog.functions.values().filter(|it| !it.of_extension) {
        makes.push(make(
            format!("function {}", function.address.join(" ")),
            function.definition.clone(),
        ));
    }
    for (name, sequence) in catalog
        .sequences
        .iter()
        .filter(|(_, sequence)| !sequence.identity)
    {
        let sql = format!("CREATE SEQUENCE {name} AS {}", sequence.data_type);
        makes.push(make(format!("sequence {name}"), sql));
        if let Some((table, column)) = &sequence.owned_by {
            let sql = format!("ALTER SEQUENCE {name} OWNED BY {table}.{}", ident(column));
            makes.push(make(format!("owner of sequence {name}"), sql));
        }
    }
    for (name, table) in &catalog.tables {
        self::table(name, table, &mut makes, &mut missing);
    }
    for (name, view) in &catalog.views {
        self::view(name, view, &mut makes, &mut missing);
    }
    for (name, publication) in &catalog.publications {
        if !publication.all_tables {
            missing.push(format!("publication {name}"));
        }
    }
    let has_grants = catalog.tables.values().any(|table| !table.grants.is_empty());
    if has_grants {
        missing.push("owners and privileges".to_owned());
    }
    (makes, missing)
}

fn types(catalog: &CatalogSnapshot, makes: &mut Vec<Make>, missing: &mut Vec<String>) {
    for (name, kind) in &catalog.types {
        let what = format!("type {name}");
        match (kind.kind.as_str(), &kind.base) {
            ("enum", _) => {
                let labels: Vec<String> = kind.labels.iter().map(|label| literal(label)).collect();
                makes.push(make(
                    what,
                    format!("CREATE TYPE {name} AS ENUM ({})", labels.join(", ")),
                ));
            }
            ("domain", Some(base)) => {
                makes.push(make(what, format!("CREATE DOMAIN {name} AS {base}")));
                if kind.constrained {
                    missing.push(format!("constraints of domain {name}"));
                }
            }
            _ => missing.push(what),
        }
    }
}

fn table(name: &QualifiedName, table: &Table, makes: &mut Vec<Make>, missing: &mut Vec<String>) {
    let what = format!("table {name}");
    if table.kind == TableKind::Foreign || table.extension.is_some() || table.of_type.is_some() {
        missing.push(what);
        return;
    }
    let unlogged = match table.persistence {
        Persistence::Unlogged => "UNLOGGED ",
        _ => "",
    };
    let partitioned = table
        .partition_key
        .as_ref()
        .map(|key| format!(" PARTITION BY {key}"));
    let partitioned = partitioned.unwrap_or_default();
    let options = match table.options.as_slice() {
        [] => String::new(),
        options => format!(" WITH ({})", options.join(", ")),
    };
    let sql = match (&table.partition_of, &table.partition_bound) {
        (Some(parent), Some(bound)) => {
            format!("CREATE {unlogged}TABLE {name} PARTITION OF {parent} {bound}{partitioned}{options}")
        }
        _ => {
            let columns: Vec<String> = table
                .columns
                .iter()
                .filter(|it| it.local || !it.inherited)
                .map(column)
                .collect();
            let parents: Vec<String> = table.inherits.iter().map(ToString::to_string).collect();
            let inherits = match parents.as_slice() {
                [] => String::new(),
                parents => format!(" INHERITS ({})", parents.join(", ")),
            };
            format!(
                "CREATE {unlogged}TABLE {name} ({}){inherits}{partitioned}{options}",
                columns.join(", ")
            )
        }
    };
    makes.push(make(what, sql));
    for (constraint, it) in table.constraints.iter().filter(|(_, it)| !it.inherited) {
        let only = if it.validated || it.definition.ends_with("NOT ENFORCED") {
            ""
        } else {
            " NOT VALID"
        };
        let sql = format!(
            "ALTER TABLE {name} ADD CONSTRAINT {} {}{only}",
            ident(constraint),
            it.definition
        );
        makes.push(make(format!("constraint {constraint} of {name}"), sql));
    }
    for (index, it) in table
        .indexes
        .iter()
        .filter(|(_, it)| it.constraint.is_none() && it.parent.is_none())
    {
        makes.push(make(format!("index {index}"), self::index(name, index, it)));
    }
    rest(name, table, makes, missing);
}

/// What stands on a table besides columns, constraints and indexes.
fn rest(name: &QualifiedName, table: &Table, makes: &mut Vec<Make>, missing: &mut Vec<String>) {
    match &table.replica_identity {
        ReplicaIdentity::Default => {}
        identity => {
            let how = match identity {
                ReplicaIdentity::Full => "FULL".to_owned(),
                ReplicaIdentity::Index(index) => format!("USING INDEX {}", ident(index)),
                _ => "NOTHING".to_owned(),
            };
            let sql = format!("ALTER TABLE {name} REPLICA IDENTITY {how}");
            makes.push(make(format!("replica identity of {name}"), sql));
        }
    }
    for (trigger, it) in table.triggers.iter().filter(|(_, it)| !it.cloned) {
        makes.push(make(
            format!("trigger {trigger} of {name}"),
            it.definition.clone(),
        ));
    }
    for (rule, it) in &table.rules {
        makes.push(make(format!("rule {rule} of {name}"), it.definition.clone()));
    }
    for statistics in table.statistics.values() {
        makes.push(make(
            format!("statistics of {name}"),
            statistics.definition.clone(),
        ));
    }
    missing.extend(
        table
            .policies
            .keys()
            .map(|policy| format!("policy {policy} of {name}")),
    );
}

fn column(column: &Column) -> String {
    let mut text = format!("{} {}", ident(&column.name), column.data_type);
    if let Some(collation) = &column.collation {
        text.push_str(&format!(" COLLATE {collation}"));
    }
    if let Some(generated) = &column.generated {
        let stored = if generated.stored { "STORED" } else { "VIRTUAL" };
        text.push_str(&format!(
            " GENERATED ALWAYS AS ({}) {stored}",
            generated.expression
        ));
    } else if let Some(default) = &column.default {
        text.push_str(&format!(" DEFAULT {default}"));
    }
    if let Some(identity) = &column.identity {
        let always = if identity.always { "ALWAYS" } else { "BY DEFAULT" };
        text.push_str(&format!(
            " GENERATED {always} AS IDENTITY (SEQUENCE NAME {})",
            identity.sequence
        ));
    }
    match &column.not_null_constraint {
        Some(named) if named.validated => {
            text.push_str(&format!(" CONSTRAINT {} NOT NULL", ident(&named.name)))
        }
        None if column.not_null => text.push_str(" NOT NULL"),
        _ => {}
    }
    text
}

fn index(table: &QualifiedName, name: &str, index: &Index) -> String {
    let key = |key: &IndexKey| {
        let mut text = match (&key.column, &key.expression) {
            (Some(column), _) => ident(column),
            (None, Some(expression)) => expression.clone(),
            (None, None) => String::new(),
        };
        if let Some(collation) = &key.collation {
            text.push_str(&format!(" COLLATE {collation}"));
        }
        if let Some(opclass) = &key.opclass {
            text.push_str(&format!(" {opclass}"));
        }
        match (key.descending, key.nulls_first) {
            (true, true) => text.push_str(" DESC"),
            (true, false) => text.push_str(" DESC NULLS LAST"),
            (false, true) => text.push_str(" NULLS FIRST"),
            (false, false) => {}
        }
        text
    };
    let keys: Vec<String> = index.keys.iter().map(key).collect();
    let unique = if index.unique { "UNIQUE " } else { "" };
    let include = match index.include.as_slice() {
        [] => String::new(),
        columns => format!(" INCLUDE ({})", idents(columns)),
    };
    let nulls = if index.nulls_not_distinct {
        " NULLS NOT DISTINCT"
    } else {
        ""
    };
    let options = match index.options.as_slice() {
        [] => String::new(),
        options => format!(" WITH ({})", options.join(", ")),
    };
    let predicate = index
        .predicate
        .as_ref()
        .map(|predicate| format!(" WHERE {predicate}"));
    format!(
        "CREATE {unique}INDEX {} ON {table} USING {} ({}){include}{nulls}{options}{}",
        ident(name),
        ident(&index.method),
        keys.join(", "),
        predicate.unwrap_or_default()
    )
}

fn view(name: &QualifiedName, view: &View, makes: &mut Vec<Make>, missing: &mut Vec<String>) {
    let definition = view.definition.trim().trim_end_matches(';');
    let options = match view.options.as_slice() {
        [] => String::new(),
        options => format!(" WITH ({})", options.join(", ")),
    };
    let (kind, data) = match (view.materialized, view.populated) {
        (false, _) => ("VIEW", ""),
        (true, true) => ("MATERIALIZED VIEW", ""),
        (true, false) => ("MATERIALIZED VIEW", " WITH NO DATA"),
    };
    let sql = format!("CREATE {kind} {name}{options} AS {definition}{data}");
    makes.push(make(format!("view {name}"), sql));
    for (index, it) in &view.indexes {
        makes.push(make(format!("index {index}"), self::index(name, index, it)));
    }
    missing.extend(view.attachments.iter().cloned());
}

impl Site {
    /// Makes a database of what can be made, whatever has to be there before: what fails is tried again as long as
    /// anything else succeeds. Gives what is missing in the end, and why.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn rebuild(&self, name: &str, catalog: &CatalogSnapshot) -> Result<Vec<String>, Error> {
        let (mut rest, mut missing) = schema(catalog);
        self.execute(&format!("CREATE DATABASE {} TEMPLATE template0", ident(name)))
            .await?;
        let client = self.connect(name).await?;
        client
            .batch_execute("SET search_path = ''; SET check_function_bodies = off")
            .await
            .map_err(|error| Error::postgres(ErrorKind::StepFailed, "building the schema", error))?;
        let mut reasons = Vec::new();
        loop {
            let (before, mut failed) = (rest.len(), Vec::new());
            reasons.clear();
            for make in rest {
                match client.batch_execute(&make.sql).await {
                    Ok(()) => {}
                    Err(error) => match error.as_db_error() {
                        Some(db) => {
                            reasons.push(format!("{}: {}", make.what, db.message()));
                            failed.push(make);
                        }
                        None => {
                            return Err(Error::postgres(
                                ErrorKind::StepFailed,
                                "building the schema",
                                error,
                            ));
                        }
                    },
                }
            }
            if failed.is_empty() || failed.len() == before {
                break;
            }
            rest = failed;
        }
        missing.extend(reasons);
        let unique: BTreeSet<String> = missing.into_iter().collect();
        Ok(unique.into_iter().collect())
    }
}
