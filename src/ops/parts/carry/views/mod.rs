//! Views that show a column that moves, directly or through others.
//!
//! PostgreSQL binds a view to the column, not to its name. Plain ones are dropped and made again within the cutover.
//! Where there is a materialized one among them, whose data nobody could wait for, all are built beside and take the
//! names over. Whoever reads through a view has it locked before the table behind it, so in both cases the views go
//! first and the table is locked after them.

mod beside;
mod guard;
pub mod make;

use crate::catalog::model::{CatalogSnapshot, Grant, View};
use crate::diagnostic::{Diagnostic, Span};
use crate::ops::Context;
use crate::ops::parts::shadow::Moves;
use crate::plan::{Expectation, Lock, LockMode};
use crate::sql::{QualifiedName, ident, literal};
use beside::Called;
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
pub struct Views {
    /// Each after all that it reads.
    views: Vec<(QualifiedName, View)>,
    role: String,
    moves: Moves,
    /// In the order in which they are locked.
    tables: Vec<QualifiedName>,
    rows: i64,
    bytes: i64,
}

impl Views {
    pub fn of(
        context: &Context<'_>,
        moves: &Moves,
        tables: Vec<QualifiedName>,
        span: Span,
        complaints: &mut Vec<Diagnostic>,
    ) -> Self {
        let catalog = context.now;
        let columns: Vec<_> = moves
            .iter()
            .map(|it| (it.table.clone(), it.column.clone()))
            .collect();
        let over = catalog.views_over_any(&columns);
        let sizes = tables.iter().filter_map(|name| catalog.tables.get(name));
        let sizes: Vec<_> = sizes.map(|table| &table.size).collect();
        let views: Vec<(QualifiedName, View)> = over
            .into_iter()
            .filter_map(|name| Some((name.clone(), catalog.views.get(name)?.clone())))
            .collect();
        let found = Self {
            views,
            role: catalog.role.name.clone(),
            moves: moves.clone(),
            rows: sizes.iter().map(|it| it.rows).sum(),
            bytes: sizes.iter().map(|it| it.heap_bytes).sum(),
            tables,
        };
        let rules = found.rules();
        for (name, view) in &found.views {
            if let Some(why) = obstacle(catalog, name, view, &rules) {
                let message = format!("a shadow column cannot carry {} {name}: {why}", kind(view));
                complaints.push(Diagnostic::new("cannot_widen_yet", message).at(span));
            }
        }
        if found.is_beside() {
            found.complain_beside(context, span, complaints);
        }
        found
    }

    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// Whether `pg_describe_object` means one of them, or a rule of theirs.
    pub fn has(&self, description: &str) -> bool {
        let is = |(name, view): &(QualifiedName, View)| {
            description == format!("{} {name}", kind(view))
                || view
                    .rules
                    .keys()
                    .any(|rule| description == rule_description(rule, name))
        };
        self.views.iter().any(is)
    }

    fn rules(&self) -> BTreeSet<String> {
        let rules = |(name, view): &(QualifiedName, View)| -> Vec<String> {
            view.rules
                .keys()
                .map(|rule| rule_description(rule, name))
                .collect()
        };
        self.views.iter().flat_map(rules).collect()
    }

    /// How often a swap waits, for the tables behind them too, which are locked at once.
    pub fn waits(&self) -> u64 {
        match self.views.len() {
            0 => 1,
            count if self.is_beside() => u64::try_from(count).unwrap_or(u64::MAX).saturating_add(1),
            // All are dropped by one statement.
            _ => 2,
        }
    }

    /// Before the table is locked.
    pub fn leave(&self, forwards: bool) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut statements = vec![guard::unchanged(&self.views, forwards)];
        if self.is_beside() {
            let away = if forwards { Called::Old } else { Called::New };
            statements.extend(self.put_away(away));
            return statements;
        }
        // In one statement, whose own time is bounded.
        let names: Vec<String> = self
            .views
            .iter()
            .rev()
            .map(|(name, _)| name.to_string())
            .collect();
        statements.push(format!("DROP VIEW {}", names.join(", ")));
        statements
    }

    pub fn arrive(&self, forwards: bool) -> Vec<String> {
        if self.is_beside() {
            return self.bring(if forwards { Called::New } else { Called::Old });
        }
        self.make()
    }

    /// Under their own names, which must be free.
    fn make(&self) -> Vec<String> {
        let views = self.views.iter();
        let mut statements: Vec<String> = views
            .clone()
            .flat_map(|(name, view)| make::create(name, view, &self.role))
            .collect();
        statements.extend(views.flat_map(|(name, view)| make::furnish(name, view)));
        statements
    }

    /// They are dropped, or renamed; what is made in their place is nobody's yet.
    pub fn locks(&self) -> impl Iterator<Item = Lock> {
        self.views
            .iter()
            .map(|(name, _)| Lock::new(name, LockMode::AccessExclusive))
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

/// As by `pg_describe_object`.
fn kind(view: &View) -> &'static str {
    if view.materialized {
        "materialized view"
    } else {
        "view"
    }
}

fn rule_description(rule: &str, view: &QualifiedName) -> String {
    format!("rule {rule} on view {view}")
}

fn obstacle(
    catalog: &CatalogSnapshot,
    name: &QualifiedName,
    view: &View,
    carried: &BTreeSet<String>,
) -> Option<String> {
    if !catalog.role.acts_as(&view.owner) {
        return Some(format!("it belongs to {}", ident(&view.owner)));
    }
    let schema = catalog.schemas.get(&name.schema);
    if schema.is_some_and(|schema| !schema.may_create) {
        return Some("the role may not create in its schema".into());
    }
    if let Some(what) = view.attachments.iter().find(|what| !carried.contains(*what)) {
        return Some(format!("it would lose {what}"));
    }
    let triggers = view.triggers.iter().map(|(name, it)| (name, &it.enabled));
    let rules = view.rules.iter().map(|(name, it)| (name, &it.enabled));
    if let Some((name, state)) = triggers.chain(rules).find(|(_, state)| *state != "origin") {
        let name = ident(name);
        return Some(format!("no statement could make its {name} `{state}` again"));
    }
    let columns = view.columns.iter().flat_map(|column| &column.grants);
    let foreign = |grant: &&Grant| grant.grantor != view.owner;
    let foreign = view.grants.iter().chain(columns).find(foreign);
    foreign.map(|grant| format!("{} granted privileges on it", ident(&grant.grantor)))
}
