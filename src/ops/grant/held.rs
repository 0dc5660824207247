//! What a role holds already: it is not granted again, and the way back leaves it.

use super::Kind;
use crate::sql::{ident, idents, literal};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What a role holds explicitly, not through another role or as everybody does.
#[derive(Debug, Default, Deserialize)]
pub struct Held {
    /// On the whole object: privileges, and whether they may be passed on.
    whole: BTreeMap<String, bool>,
    /// On single columns: privilege, column, and whether it may be passed on.
    columns: Vec<(String, String, bool)>,
}

fn grantee(role: &str) -> String {
    match role {
        "PUBLIC" => "0".to_owned(),
        role => format!("pg_catalog.to_regrole({})", literal(&ident(role))),
    }
}

/// An owner may always pass on what it holds.
const GRANTABLE: &str = "(x.is_grantable OR x.grantee = o.owner)";

/// The question for [`Held`]; `oid` is an expression that finds the object.
pub fn question(kind: Kind, oid: &str, role: &str) -> String {
    let (acl, grantee) = (kind.acl(oid), grantee(role));
    let columns = match kind {
        // The grants that a REVOKE on the whole table takes along.
        Kind::Table | Kind::AllTables => format!(
            "(SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(x.privilege_type, a.attname, {GRANTABLE}) \
             ORDER BY x.privilege_type, a.attnum), '[]') FROM ({acl}) AS o JOIN pg_catalog.pg_attribute AS a \
             ON a.attrelid = {oid} AND NOT a.attisdropped, LATERAL pg_catalog.aclexplode(a.attacl) AS x \
             WHERE x.grantee = {grantee} AND (x.grantor = o.owner OR pg_catalog.pg_get_userbyid(x.grantor) = current_user))"
        ),
        _ => "'[]'::pg_catalog.jsonb".to_owned(),
    };
    format!(
        "SELECT pg_catalog.jsonb_build_object('whole', (SELECT coalesce(pg_catalog.jsonb_object_agg(g.privilege, g.grantable), '{{}}') \
         FROM (SELECT x.privilege_type AS privilege, pg_catalog.bool_or({GRANTABLE}) AS grantable \
         FROM ({acl}) AS o, LATERAL pg_catalog.aclexplode(o.acl) AS x WHERE x.grantee = {grantee} GROUP BY 1) AS g), \
         'columns', {columns})::pg_catalog.text"
    )
}

/// What a role gets on an object that it does not have.
#[derive(Debug)]
pub struct New {
    pub object: String,
    /// `PUBLIC` for everybody.
    pub role: String,
    pub privileges: Vec<String>,
    /// Those of them that it has, but may not pass on.
    held: Vec<String>,
    /// What it has on single columns of what is granted on the whole.
    columns: Vec<(String, String, bool)>,
}

fn role_sql(role: &str) -> String {
    match role {
        "PUBLIC" => role.to_owned(),
        role => ident(role),
    }
}

impl New {
    pub fn of(object: &str, role: &str, wanted: &[String], with_option: bool, held: Held) -> Self {
        let missing = |privilege: &&String| match held.whole.get(*privilege) {
            Some(grantable) => with_option && !grantable,
            None => true,
        };
        let privileges: Vec<String> = wanted.iter().filter(missing).cloned().collect();
        let there = privileges.iter().filter(|it| held.whole.contains_key(*it));
        let columns = held.columns.iter().filter(|(it, ..)| privileges.contains(it));
        Self {
            object: object.to_owned(),
            role: role.to_owned(),
            held: there.cloned().collect(),
            columns: columns.cloned().collect(),
            privileges,
        }
    }

    fn statement(&self, verb: &str, privileges: &[String], kind: Kind, role: &str) -> String {
        let (privileges, word) = (privileges.join(", "), kind.word());
        format!("{verb} {privileges} ON {word} {} {role}", self.object)
    }

    pub fn grant(&self, kind: Kind, with_option: bool) -> String {
        let option = if with_option { " WITH GRANT OPTION" } else { "" };
        let to = format!("TO {}{option}", role_sql(&self.role));
        self.statement("GRANT", &self.privileges, kind, &to)
    }

    /// A REVOKE on a whole table takes the grants on its columns along: these are given again.
    pub fn undo(&self, kind: Kind) -> Vec<String> {
        let role = role_sql(&self.role);
        let fresh = self.privileges.iter().filter(|it| !self.held.contains(it));
        let fresh: Vec<String> = fresh.cloned().collect();
        let mut statements = Vec::new();
        if !fresh.is_empty() {
            statements.push(self.statement("REVOKE", &fresh, kind, &format!("FROM {role}")));
        }
        if !self.held.is_empty() {
            let verb = "REVOKE GRANT OPTION FOR";
            statements.push(self.statement(verb, &self.held, kind, &format!("FROM {role}")));
        }
        for (grantable, option) in [(false, ""), (true, " WITH GRANT OPTION")] {
            let mut lists: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (privilege, column, _) in self.columns.iter().filter(|(.., it)| *it == grantable) {
                lists.entry(privilege).or_default().push(column);
            }
            let lists = lists.iter();
            let privileges: Vec<String> = lists
                .map(|(privilege, columns)| format!("{privilege} ({})", idents(columns)))
                .collect();
            if !privileges.is_empty() {
                statements.push(self.statement("GRANT", &privileges, kind, &format!("TO {role}{option}")));
            }
        }
        statements
    }

    /// Whether all of it is there.
    pub fn query(&self, kind: Kind, with_option: bool) -> String {
        let privileges: Vec<String> = self.privileges.iter().map(|it| literal(it)).collect();
        let option = match with_option {
            true => format!(" AND {GRANTABLE}"),
            false => String::new(),
        };
        format!(
            "SELECT count(DISTINCT x.privilege_type) = {} FROM ({}) AS o, LATERAL pg_catalog.aclexplode(o.acl) AS x \
             WHERE x.grantee = {} AND x.privilege_type IN ({}){option}",
            privileges.len(),
            kind.acl(&kind.oid(&self.object)),
            grantee(&self.role),
            privileges.join(", ")
        )
    }
}
