//! Views that show the column, directly or through others: dropped and made again within the cutover.
//!
//! PostgreSQL binds a view to the column, not to its name. Whoever reads through a view has it locked before the
//! table behind it, so the views go first and the table is locked after them.

use super::Subject;
use crate::catalog::model::{CatalogSnapshot, View};
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
        for name in names {
            let Some(view) = catalog.views.get(&name) else {
                continue;
            };
            if let Some(why) = obstacle(catalog, view) {
                let message = format!("a shadow column cannot carry view {name}: {why}");
                complaints.push(Diagnostic::new("cannot_widen_yet", message).at(subject.span));
            }
            views.push((name, view.clone()));
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
        let kind = |view: &View| {
            if view.materialized {
                "materialized view"
            } else {
                "view"
            }
        };
        self.views
            .iter()
            .any(|(name, view)| description == format!("{} {name}", kind(view)))
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
        // Over another type a view may read otherwise: a cast that was needed is not any more.
        let mut statements = if forwards { self.unchanged() } else { Vec::new() };
        statements.push(format!("DROP VIEW {}", names.join(", ")));
        statements
    }

    /// What somebody changed since the plan was made must not be turned back.
    fn unchanged(&self) -> Vec<String> {
        let question = |(name, view): &(QualifiedName, View)| {
            let oid = format!("{}::pg_catalog.regclass", literal(&name.to_string()));
            let message = format!("view {name} is not what it was when the plan was made");
            let body = format!(
                "DECLARE path text := pg_catalog.current_setting('search_path'); BEGIN \
                 PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true); \
                 IF pg_catalog.pg_get_viewdef({oid}) <> {} THEN RAISE EXCEPTION USING ERRCODE = '55000', \
                 MESSAGE = {}, HINT = 'roll back and plan again'; END IF; \
                 PERFORM pg_catalog.set_config('search_path', path, true); END",
                literal(&view.definition),
                literal(&message)
            );
            format!("DO {}", literal(&body))
        };
        self.views.iter().map(question).collect()
    }

    pub fn arrive(&self) -> Vec<String> {
        self.views
            .iter()
            .flat_map(|(name, view)| self.create(name, view))
            .collect()
    }

    fn create(&self, name: &QualifiedName, view: &View) -> Vec<String> {
        let options = match view.options.as_slice() {
            [] => String::new(),
            options => format!(" WITH ({})", options.join(", ")),
        };
        let definition = view.definition.trim().trim_end_matches(';');
        let mut statements = vec![format!("CREATE VIEW {name}{options} AS\n{definition}")];
        if view.owner != self.role {
            statements.push(format!("ALTER VIEW {name} OWNER TO {}", ident(&view.owner)));
        }
        statements.push(revoke_defaults(name));
        for grant in view.grants.iter().filter(|grant| grant.grantee != view.owner) {
            let grantee = match grant.grantee.as_str() {
                "PUBLIC" => "PUBLIC".to_owned(),
                grantee => ident(grantee),
            };
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            statements.push(format!(
                "GRANT {} ON {name} TO {grantee}{option}",
                grant.privilege
            ));
        }
        if let Some(comment) = &view.comment {
            statements.push(format!("COMMENT ON VIEW {name} IS {}", literal(comment)));
        }
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

/// Default privileges give a new view grants that the old one may not have had.
fn revoke_defaults(name: &QualifiedName) -> String {
    let body = format!(
        "DECLARE who text; BEGIN FOR who IN SELECT DISTINCT CASE x.grantee WHEN 0 THEN 'PUBLIC' \
         ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END \
         FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS x \
         WHERE c.oid = {}::pg_catalog.regclass AND x.grantee <> c.relowner \
         LOOP EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', {}, who); END LOOP; END",
        literal(&name.to_string()),
        literal(&name.to_string())
    );
    format!("DO {}", literal(&body))
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

fn obstacle(catalog: &CatalogSnapshot, view: &View) -> Option<String> {
    if view.materialized {
        return Some("it is materialized".into());
    }
    if !catalog.role.acts_as(&view.owner) {
        return Some(format!("it belongs to {}", ident(&view.owner)));
    }
    if let Some(what) = view.attachments.first() {
        return Some(format!("it would lose {what}"));
    }
    let foreign = view.grants.iter().find(|grant| grant.grantor != view.owner);
    foreign.map(|grant| format!("{} granted privileges on it", ident(&grant.grantor)))
}
