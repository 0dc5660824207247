//! Sends the queries and puts their rows together.

use super::error::{LoadError, LoadErrorKind};
use super::queries;
use crate::catalog::model::{
    Column, Constraint, Dependent, ExtendedStatistics, Index, Policy, Rule, Table, TableSize, Trigger, View,
};
use crate::sql::QualifiedName;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use tokio::try_join;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// One value of the model with the OID of the relation that it belongs to and its key there.
pub struct Entry<T> {
    pub owner: u32,
    pub key: String,
    pub value: T,
}

/// Which relations a query is about: `None` is all of the user's.
pub type Scope = Option<Vec<u32>>;

/// Sends queries of the common shape and reads their rows.
pub struct Reader<'a> {
    pub client: &'a Client,
    pub major: u32,
    pub scope: &'a Scope,
}

impl Reader<'_> {
    pub async fn read<T: DeserializeOwned>(
        &self,
        subject: &'static str,
        sql: &str,
    ) -> Result<Vec<Entry<T>>, LoadError> {
        let sql = queries::for_release(sql, self.major);
        let scope: &(dyn ToSql + Sync) = self.scope;
        let parameters: &[_] = if sql.contains("$1") {
            &[(scope, Type::OID_ARRAY)]
        } else {
            &[]
        };
        let rows = self
            .client
            .query_typed(&sql, parameters)
            .await
            .map_err(|error| LoadError::server(subject, error))?;
        let mut entries = Vec::with_capacity(rows.len());
        // A database without an encoding holds names in any, and they arrive as they are.
        let unreadable = |error: tokio_postgres::Error| LoadError {
            kind: LoadErrorKind::Encoding,
            subject,
            source: Some(Box::new(error)),
        };
        for row in rows {
            // A text is NULL where its object went away, which the model does not allow.
            let text = row.try_get(2).map_err(unreadable)?;
            let value = serde_json::from_str(text).map_err(|error| LoadError {
                kind: LoadErrorKind::Changed,
                subject,
                source: Some(Box::new(error)),
            })?;
            entries.push(Entry {
                owner: row.get(0),
                key: row.try_get(1).map_err(unreadable)?,
                value,
            });
        }
        Ok(entries)
    }

    /// As [`Reader::read`], by key.
    pub async fn map<T: DeserializeOwned>(
        &self,
        subject: &'static str,
        sql: &str,
    ) -> Result<BTreeMap<String, T>, LoadError> {
        let entries = self.read(subject, sql).await?;
        Ok(entries
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect())
    }

    /// As [`Reader::map`], by qualified name.
    pub async fn named<T: DeserializeOwned>(
        &self,
        subject: &'static str,
        sql: &str,
    ) -> Result<BTreeMap<QualifiedName, T>, LoadError> {
        let entries: BTreeMap<String, T> = self.map(subject, sql).await?;
        entries
            .into_iter()
            .map(|(key, value)| Ok((qualified(subject, &key)?, value)))
            .collect()
    }
}

pub fn qualified(subject: &'static str, key: &str) -> Result<QualifiedName, LoadError> {
    key.parse().map_err(|reason: String| LoadError {
        kind: LoadErrorKind::Server,
        subject,
        source: Some(reason.into()),
    })
}

/// What belongs to a view, plain or materialized.
#[derive(Default)]
pub struct ViewParts {
    pub columns: Vec<Column>,
    pub indexes: BTreeMap<String, Index>,
    pub triggers: BTreeMap<String, Trigger>,
    pub rules: BTreeMap<String, Rule>,
}

/// Gives a view what belongs to it.
pub fn complete(view: &mut View, parts: ViewParts) {
    view.uses.sort();
    view.keys.sort();
    view.columns = parts.columns;
    view.indexes = parts.indexes;
    view.triggers = parts.triggers;
    view.rules = parts.rules;
}

/// Tables by name, and the parts of views by OID.
pub type Loaded = (BTreeMap<QualifiedName, Table>, HashMap<u32, ViewParts>);

/// Sends all queries at once, so that a distant server costs one round trip.
pub async fn load_tables(reader: &Reader<'_>) -> Result<Loaded, LoadError> {
    let (tables, columns, indexes, constraints, triggers, rules, policies, statistics, dependents) = try_join!(
        // The first to fail is the one that tells why: the server answers in this order.
        biased;
        reader.read::<Table>("tables", queries::TABLES),
        reader.read::<Column>("columns", queries::COLUMNS),
        reader.read::<Index>("indexes", queries::INDEXES),
        reader.read::<Constraint>("constraints", queries::CONSTRAINTS),
        reader.read::<Trigger>("triggers", queries::TRIGGERS),
        reader.read::<Rule>("rules", queries::RULES),
        reader.read::<Policy>("policies", queries::POLICIES),
        reader.read::<ExtendedStatistics>("statistics", queries::STATISTICS),
        reader.read::<Dependent>("dependents", queries::DEPENDENTS),
    )?;
    let mut by_oid: HashMap<u32, (QualifiedName, Table)> = HashMap::with_capacity(tables.len());
    for entry in tables {
        by_oid.insert(entry.owner, (qualified("tables", &entry.key)?, entry.value));
    }
    let mut parts: HashMap<u32, ViewParts> = HashMap::new();
    let others = put(&mut by_oid, columns, |table, _, column| {
        table.columns.push(column)
    });
    for entry in others {
        parts.entry(entry.owner).or_default().columns.push(entry.value);
    }
    let others = put(&mut by_oid, indexes, |table, key, index| {
        table.indexes.insert(key, index);
    });
    for entry in others {
        let indexes = &mut parts.entry(entry.owner).or_default().indexes;
        indexes.insert(entry.key, entry.value);
    }
    put(&mut by_oid, constraints, |table, key, constraint| {
        table.constraints.insert(key, constraint);
    });
    let others = put(&mut by_oid, triggers, |table, key, trigger| {
        table.triggers.insert(key, trigger);
    });
    for entry in others {
        let triggers = &mut parts.entry(entry.owner).or_default().triggers;
        triggers.insert(entry.key, entry.value);
    }
    let others = put(&mut by_oid, rules, |table, key, rule| {
        table.rules.insert(key, rule);
    });
    for entry in others {
        let rules = &mut parts.entry(entry.owner).or_default().rules;
        rules.insert(entry.key, entry.value);
    }
    put(&mut by_oid, policies, |table, key, policy| {
        table.policies.insert(key, policy);
    });
    for entry in statistics {
        let name = qualified("statistics", &entry.key)?;
        if let Some((_, table)) = by_oid.get_mut(&entry.owner) {
            table.statistics.insert(name, entry.value);
        }
    }
    put(&mut by_oid, dependents, |table, _, dependent| {
        table.dependents.push(dependent);
    });
    let tables = by_oid.into_values().map(|(name, mut table)| {
        sort(&mut table);
        (name, table)
    });
    Ok((tables.collect(), parts))
}

/// Hands each entry to its table and returns those that belong to none.
fn put<T>(
    tables: &mut HashMap<u32, (QualifiedName, Table)>,
    entries: Vec<Entry<T>>,
    place: impl Fn(&mut Table, String, T),
) -> Vec<Entry<T>> {
    let mut others = Vec::new();
    for entry in entries {
        match tables.get_mut(&entry.owner) {
            Some((_, table)) => place(table, entry.key, entry.value),
            None => others.push(entry),
        }
    }
    others
}

/// Sorted here rather than in SQL, whose order depends on the collation of the database.
fn sort(table: &mut Table) {
    table.options.sort();
    table.row_type_used_by.sort();
    table.children.sort();
    table.grants.sort();
    table.dependents.sort();
    table.dependents.dedup();
    for column in &mut table.columns {
        column.options.sort();
        column.grants.sort();
    }
    for index in table.indexes.values_mut() {
        index.options.sort();
    }
    for policy in table.policies.values_mut() {
        policy.roles.sort();
    }
}

/// Columns, indexes, constraints and triggers of the one relation in scope; nothing else of it is filled.
pub async fn load_shape(reader: &Reader<'_>) -> Result<Option<Table>, LoadError> {
    let (tables, columns, indexes, constraints, triggers) = try_join!(
        // The first to fail is the one that tells why: the server answers in this order.
        biased;
        reader.read::<Table>("a clone", queries::TABLES),
        reader.read::<Column>("a clone's columns", queries::COLUMNS),
        reader.read::<Index>("a clone's indexes", queries::INDEXES),
        reader.read::<Constraint>("a clone's constraints", queries::CONSTRAINTS),
        reader.read::<Trigger>("a clone's triggers", queries::TRIGGERS),
    )?;
    Ok(tables.into_iter().next().map(|entry| {
        let mut table = entry.value;
        table.columns = columns.into_iter().map(|entry| entry.value).collect();
        table.indexes = indexes
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect();
        table.constraints = constraints
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect();
        table.triggers = triggers
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect();
        table.size = TableSize::default();
        sort(&mut table);
        table
    }))
}
