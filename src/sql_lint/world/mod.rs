//! What is known while a file is read: the catalog that was given, and what the files made since.

mod apply;
mod tables;

use super::statement::Name;
use crate::catalog::model::{CatalogSnapshot, Replication, Role, SNAPSHOT_FORMAT, Server, Table, TableKind};
use crate::sql::QualifiedName;
use std::collections::{BTreeMap, BTreeSet};

/// The newest release whose effects were measured.
pub const NEWEST: u32 = 18;

#[derive(Debug, Clone)]
pub struct World {
    pub catalog: CatalogSnapshot,
    /// Whether the catalog shows all that there is; without it only what the files made is known.
    pub complete: bool,
    /// Major version of the server.
    pub version: u32,
    pub search_path: Vec<String>,
    /// Relations and types that the files made: nobody uses them yet.
    pub made: BTreeSet<QualifiedName>,
    /// What is known of tables that no catalog shows: what the files added to them.
    pub partial: BTreeMap<QualifiedName, Table>,
    /// Labels added to enums in the transaction that is open, with the type.
    pub fresh_labels: Vec<(QualifiedName, String)>,
    /// Types made in the transaction that is open.
    pub fresh_types: BTreeSet<QualifiedName>,
    /// Tables whose deferred checks wait for the end of the open transaction.
    pub pending: BTreeSet<QualifiedName>,
    pub in_transaction: bool,
}

impl World {
    /// Nothing is known but the version.
    pub fn unknown(version: u32) -> Self {
        Self::new(nothing(version), version, false)
    }

    pub fn of(catalog: CatalogSnapshot, version: Option<u32>) -> Self {
        let version = version.unwrap_or_else(|| catalog.server.major());
        Self::new(catalog, version, true)
    }

    fn new(catalog: CatalogSnapshot, version: u32, complete: bool) -> Self {
        Self {
            catalog,
            complete,
            version,
            search_path: vec!["public".into()],
            made: BTreeSet::new(),
            partial: BTreeMap::new(),
            fresh_labels: Vec::new(),
            fresh_types: BTreeSet::new(),
            pending: BTreeSet::new(),
            in_transaction: false,
        }
    }

    pub fn resolve(&self, name: &Name) -> QualifiedName {
        if let Some(schema) = &name.schema {
            return QualifiedName::new(schema, &name.name);
        }
        let places = self
            .search_path
            .iter()
            .map(|schema| QualifiedName::new(schema, &name.name));
        let mut places = places.peekable();
        let first = places.peek().cloned();
        let found = places.find(|place| self.has_relation(place) || self.catalog.types.contains_key(place));
        found
            .or(first)
            .unwrap_or_else(|| QualifiedName::new("public", &name.name))
    }

    pub fn has_relation(&self, name: &QualifiedName) -> bool {
        let catalog = &self.catalog;
        catalog.tables.contains_key(name)
            || catalog.views.contains_key(name)
            || catalog.sequences.contains_key(name)
            || self.index_owner(name).is_some()
    }

    /// The table or materialized view of the index.
    pub fn index_owner(&self, index: &QualifiedName) -> Option<QualifiedName> {
        if let Some((table, _)) = self.catalog.index(index) {
            return Some(table.clone());
        }
        let mut views = self.catalog.views.iter();
        let owner =
            views.find(|(name, view)| name.schema == index.schema && view.indexes.contains_key(&index.name));
        if let Some((name, _)) = owner {
            return Some(name.clone());
        }
        let mut partial = self.partial.iter();
        let owner = partial
            .find(|(name, table)| name.schema == index.schema && table.indexes.contains_key(&index.name));
        owner.map(|(name, _)| name.clone())
    }

    /// The table, or what is known of it.
    pub fn table(&self, name: &QualifiedName) -> Option<&Table> {
        self.catalog.tables.get(name).or_else(|| self.partial.get(name))
    }

    /// Not a relation of users: the system's own, and functions in FROM.
    pub fn is_foreign_name(&self, name: &QualifiedName) -> bool {
        matches!(name.schema.as_str(), "pg_catalog" | "information_schema")
            || (name.name.starts_with("pg_") && !self.has_relation(name))
    }

    /// The next file has a session of its own.
    pub fn end_of_file(&mut self) {
        self.in_transaction = false;
        self.search_path = vec!["public".into()];
        self.fresh_labels.clear();
        self.fresh_types.clear();
        self.pending.clear();
    }

    pub fn is_made(&self, name: &QualifiedName) -> bool {
        self.made.contains(name)
            || self
                .index_owner(name)
                .is_some_and(|owner| self.made.contains(&owner))
    }
}

fn nothing(version: u32) -> CatalogSnapshot {
    CatalogSnapshot {
        format: SNAPSHOT_FORMAT,
        database: String::new(),
        server: Server {
            version_num: version * 10_000,
            time_zone: String::new(),
            date_style: String::new(),
            deadlock_timeout_ms: 1_000,
            in_recovery: false,
            read_only: false,
        },
        role: Role {
            name: String::new(),
            superuser: true,
            member_of: Vec::new(),
            may_create_schema: true,
            may_set_replication_role: true,
        },
        schemas: BTreeMap::new(),
        tables: BTreeMap::new(),
        views: BTreeMap::new(),
        sequences: BTreeMap::new(),
        types: BTreeMap::new(),
        publications: BTreeMap::new(),
        replication: Replication::default(),
        functions: BTreeMap::new(),
        not_volatile: BTreeSet::new(),
        unpredicted: BTreeSet::new(),
        answers: Vec::new(),
        trials: Vec::new(),
        conditions: BTreeMap::new(),
    }
}

pub fn empty_table(kind: TableKind) -> Table {
    Table {
        kind,
        ..Table::empty("")
    }
}
