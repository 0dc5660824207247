//! The statements that make a view what it was, under its own name.

use crate::catalog::model::{Column, Grant, View};
use crate::sql::{QualifiedName, ident, literal};

/// Without anything that may name another view.
pub fn create(name: &QualifiedName, view: &View, role: &str) -> Vec<String> {
    let options = match view.options.as_slice() {
        [] => String::new(),
        options => format!(" WITH ({})", options.join(", ")),
    };
    let definition = view.definition.trim().trim_end_matches(';');
    let mut statements = vec![format!("CREATE VIEW {name}{options} AS\n{definition}")];
    if view.owner != role {
        statements.push(format!("ALTER VIEW {name} OWNER TO {}", ident(&view.owner)));
    }
    statements.push(revoke_defaults(name, &view.owner));
    statements.extend(grants(name, view));
    if let Some(comment) = &view.comment {
        statements.push(format!("COMMENT ON VIEW {name} IS {}", literal(comment)));
    }
    for column in &view.columns {
        statements.extend(column_settings(name, column));
    }
    statements
}

/// Rules and triggers, once all views are there.
pub fn furnish(name: &QualifiedName, view: &View) -> Vec<String> {
    let mut statements = Vec::new();
    for (rule, facts) in &view.rules {
        statements.push(facts.definition.trim_end_matches(';').to_owned());
        let comment = facts.comment.as_ref();
        statements.extend(
            comment.map(|text| format!("COMMENT ON RULE {} ON {name} IS {}", ident(rule), literal(text))),
        );
    }
    for (trigger, facts) in &view.triggers {
        statements.push(facts.definition.clone());
        let comment = facts.comment.as_ref();
        statements.extend(comment.map(|text| {
            format!(
                "COMMENT ON TRIGGER {} ON {name} IS {}",
                ident(trigger),
                literal(text)
            )
        }));
    }
    statements
}

/// Default privileges give a new view grants that the old one may not have had, or take some from its owner.
fn revoke_defaults(name: &QualifiedName, owner: &str) -> String {
    let quoted = literal(&name.to_string());
    let body = format!(
        "DECLARE who text; BEGIN FOR who IN SELECT DISTINCT CASE x.grantee WHEN 0 THEN 'PUBLIC' \
         ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END \
         FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS x \
         WHERE c.oid = {quoted}::pg_catalog.regclass \
         LOOP EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', {quoted}, who); END LOOP; \
         IF FOUND THEN GRANT ALL ON {name} TO {}; END IF; END",
        ident(owner)
    );
    format!("DO {}", literal(&body))
}

fn grants(name: &QualifiedName, view: &View) -> Vec<String> {
    if view.grants.is_empty() {
        return Vec::new();
    }
    // Its owner may have let go of some.
    let mut statements = vec![format!("REVOKE ALL ON {name} FROM {}", ident(&view.owner))];
    statements.extend(
        view.grants
            .iter()
            .map(|grant| grant_statement(name, &grant.privilege, grant)),
    );
    statements
}

fn grant_statement(name: &QualifiedName, what: &str, grant: &Grant) -> String {
    let grantee = match grant.grantee.as_str() {
        "PUBLIC" => "PUBLIC".to_owned(),
        grantee => ident(grantee),
    };
    let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
    format!("GRANT {what} ON {name} TO {grantee}{option}")
}

fn column_settings(name: &QualifiedName, column: &Column) -> Vec<String> {
    let quoted = ident(&column.name);
    let mut statements = Vec::new();
    if let Some(default) = &column.default {
        statements.push(format!(
            "ALTER VIEW {name} ALTER COLUMN {quoted} SET DEFAULT {default}"
        ));
    }
    let grants = column.grants.iter();
    statements
        .extend(grants.map(|grant| grant_statement(name, &format!("{} ({quoted})", grant.privilege), grant)));
    if let Some(comment) = &column.comment {
        statements.push(format!(
            "COMMENT ON COLUMN {name}.{quoted} IS {}",
            literal(comment)
        ));
    }
    statements
}
