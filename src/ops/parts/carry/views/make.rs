//! The statements that make a view what it was, under its own name.

use super::beside::Called;
use super::kind;
use crate::catalog::model::{Column, Grant, View};
use crate::ops::parts::index::{self, Placing};
use crate::ops::parts::storage;
use crate::sql::{QualifiedName, ident, literal};

/// Without anything that may name another view.
pub fn create(name: &QualifiedName, view: &View, role: &str) -> Vec<String> {
    let options = match view.options.as_slice() {
        [] => String::new(),
        options => format!(" WITH ({})", options.join(", ")),
    };
    let definition = view.definition.trim().trim_end_matches(';');
    let kind = kind(view).to_uppercase();
    let mut statements = vec![if view.materialized {
        let method = view.method.as_ref();
        let using = method.map(|it| format!(" USING {}", ident(it)));
        let tablespace = view.tablespace.as_ref();
        let place = tablespace.map(|it| format!(" TABLESPACE {}", ident(it)));
        let (using, place) = (using.unwrap_or_default(), place.unwrap_or_default());
        format!("CREATE {kind} {name}{using}{options}{place} AS\n{definition}\nWITH NO DATA")
    } else {
        format!("CREATE {kind} {name}{options} AS\n{definition}")
    }];
    if view.owner != role {
        statements.push(format!("ALTER {kind} {name} OWNER TO {}", ident(&view.owner)));
    }
    statements.push(revoke_defaults(name, &view.owner));
    statements.extend(grants(name, view));
    if let Some(comment) = &view.comment {
        statements.push(format!("COMMENT ON {kind} {name} IS {}", literal(comment)));
    }
    for column in &view.columns {
        statements.extend(column_settings(name, column));
        if view.materialized {
            statements.extend(stored(name, column));
        }
    }
    statements
}

/// Indexes, rules and triggers, once all views are there.
pub fn furnish(name: &QualifiedName, view: &View) -> Vec<String> {
    let mut statements = indexes(name, view);
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

/// Under names of ours: their own are those of what is there.
fn indexes(name: &QualifiedName, view: &View) -> Vec<String> {
    let mut statements = Vec::new();
    for (index, facts) in &view.indexes {
        let ours = Called::New.name(index);
        statements.push(index::create_statement(facts, &ours, name, Placing::AtOnce));
        if facts.clustered {
            statements.push(format!(
                "ALTER MATERIALIZED VIEW {name} CLUSTER ON {}",
                ident(&ours)
            ));
        }
        let index = name.sibling(ours);
        statements.extend(facts.set_statistics(&index));
        if let Some(comment) = &facts.comment {
            statements.push(format!("COMMENT ON INDEX {index} IS {}", literal(comment)));
        }
    }
    statements
}

/// How a column of a materialized view is kept.
fn stored(name: &QualifiedName, column: &Column) -> Vec<String> {
    let mut changes = storage::settings(column, &column.data_type);
    if let Some(target) = column.statistics_target {
        changes.push(format!("SET STATISTICS {target}"));
    }
    if !column.options.is_empty() {
        changes.push(format!("SET ({})", column.options.join(", ")));
    }
    let alter = |change| {
        format!(
            "ALTER MATERIALIZED VIEW {name} ALTER COLUMN {} {change}",
            ident(&column.name)
        )
    };
    changes.into_iter().map(alter).collect()
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
