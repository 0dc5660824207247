//! Views that show the column, directly or through others: dropped and made again within the cutover.
//!
//! PostgreSQL binds a view to the column, not to its name. Whoever reads through a view has it locked before the
//! table behind it, so the views go first and the table is locked after them.

mod guard;
mod make;

use super::Subject;
use crate::catalog::model::{CatalogSnapshot, Grant, View};
use crate::diagnostic::Diagnostic;
use crate::plan::Expectation;
use crate::sql::{QualifiedName, ident, literal};
use std::collections::BTreeSet;

#[derive(Debug, Clone, Default)]
pub struct Views {
    /// Each after all that it reads.
    views: Vec<(QualifiedName, View)>,
    role: String,
}

impl Views {
    pub fn of(catalog: &CatalogSnapshot, subject: &Subject<'_>, complaints: &mut Vec<Diagnostic>) -> Self {
        let names = closure(catalog, subject);
        let mut views: Vec<(QualifiedName, View)> = Vec::new();
        for name in &names {
            let Some(view) = catalog.views.get(name) else {
                continue;
            };
            if let Some(why) = obstacle(catalog, view, &rules_of(catalog, &names)) {
                let message = format!("a shadow column cannot carry view {name}: {why}");
                complaints.push(Diagnostic::new("cannot_widen_yet", message).at(subject.span));
            }
            views.push((name.clone(), view.clone()));
        }
        Self {
            views,
            role: catalog.role.name.clone(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    pub fn has(&self, description: &str) -> bool {
        let is = |(name, view): &(QualifiedName, View)| {
            description == format!("view {name}")
                || view
                    .rules
                    .keys()
                    .any(|rule| description == rule_description(rule, name))
        };
        self.views.iter().any(is)
    }

    /// All in one statement, whose own time is bounded.
    pub fn leave(&self, forwards: bool) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        let names: Vec<String> = self
            .views
            .iter()
            .rev()
            .map(|(name, _)| name.to_string())
            .collect();
        vec![
            guard::unchanged(&self.views, forwards),
            format!("DROP VIEW {}", names.join(", ")),
        ]
    }

    pub fn arrive(&self) -> Vec<String> {
        let views = self.views.iter();
        let mut statements: Vec<String> = views
            .clone()
            .flat_map(|(name, view)| make::create(name, view, &self.role))
            .collect();
        statements.extend(views.flat_map(|(name, view)| make::furnish(name, view)));
        statements
    }

    pub fn expect(&self) -> impl Iterator<Item = Expectation> {
        self.views.iter().map(|(name, _)| Expectation::Query {
            query: format!(
                "SELECT pg_catalog.to_regclass({}) IS NOT NULL",
                literal(&name.to_string())
            ),
        })
    }
}

/// The views that have to go, each after all of them that it reads.
fn closure(catalog: &CatalogSnapshot, subject: &Subject<'_>) -> Vec<QualifiedName> {
    let column = (subject.table_name.clone(), subject.column.name.clone());
    let mut found: Vec<QualifiedName> = Vec::new();
    let mut known: BTreeSet<&QualifiedName> = BTreeSet::new();
    loop {
        let reads = |view: &View| {
            view.uses.contains(&column) || view.uses.iter().any(|(name, _)| known.contains(name))
        };
        let ready = |view: &View| {
            // What it reads and still waits itself comes first.
            let waits =
                |name: &QualifiedName| !known.contains(name) && catalog.views.get(name).is_some_and(reads);
            !view.uses.iter().any(|(name, _)| waits(name))
        };
        let next = catalog
            .views
            .iter()
            .find(|(name, view)| !known.contains(name) && reads(view) && ready(view));
        let Some((name, _)) = next else {
            return found;
        };
        known.insert(name);
        found.push(name.clone());
    }
}

/// As by `pg_describe_object`.
fn rule_description(rule: &str, view: &QualifiedName) -> String {
    format!("rule {rule} on view {view}")
}

fn rules_of(catalog: &CatalogSnapshot, views: &[QualifiedName]) -> BTreeSet<String> {
    let rules = views
        .iter()
        .filter_map(|name| Some((name, catalog.views.get(name)?)));
    rules
        .flat_map(|(name, view)| view.rules.keys().map(move |rule| rule_description(rule, name)))
        .collect()
}

fn obstacle(catalog: &CatalogSnapshot, view: &View, carried: &BTreeSet<String>) -> Option<String> {
    if view.materialized {
        return Some("it is materialized".into());
    }
    if !catalog.role.acts_as(&view.owner) {
        return Some(format!("it belongs to {}", ident(&view.owner)));
    }
    if let Some(what) = view.attachments.iter().find(|what| !carried.contains(*what)) {
        return Some(format!("it would lose {what}"));
    }
    let mut states = view.triggers.iter().map(|(name, it)| (name, &it.enabled));
    let mut others = view.rules.iter().map(|(name, it)| (name, &it.enabled));
    let odd = |(_, state): &(&String, &String)| *state != "origin";
    if let Some((name, state)) = states.find(odd).or_else(|| others.find(odd)) {
        let name = ident(name);
        return Some(format!("no statement could make its {name} `{state}` again"));
    }
    let columns = view.columns.iter().flat_map(|column| &column.grants);
    let foreign = |grant: &&Grant| grant.grantor != view.owner;
    let foreign = view.grants.iter().chain(columns).find(foreign);
    foreign.map(|grant| format!("{} granted privileges on it", ident(&grant.grantor)))
}
