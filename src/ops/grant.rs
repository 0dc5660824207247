//! `grant`: roles may do more.

use super::parts::object::Making;
use super::parts::statement;
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Grant as Granted, Question, Trial};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{Expectation, Settings};
use crate::sql::{QualifiedName, ident, literal};

const MANUAL: &str = "\
Grants privileges to roles, which must exist. What a role has already is left alone, and not taken away by a rollback.

```yaml
- grant: {privileges: usage, schemas: metrics, to: reports}
- grant: {privileges: select, tables: [metrics.cost_by_tenant, metrics.quota_status], to: [reports, auditor]}
```

One of `tables` (views too), `sequences`, `functions` (with their argument types: `f(bigint)`), `schemas` and `all_tables_in`
(every table and view that the schemas hold when the plan is made) says on what. `public` is everybody. Also:
`with_grant_option: true`.

Locks: none that anybody waits for.
Undo: what was granted is revoked.
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Table,
    Sequence,
    Function,
    Schema,
    AllTables,
}

impl Kind {
    const KEYS: [(&'static str, Self); 5] = [
        ("tables", Self::Table),
        ("sequences", Self::Sequence),
        ("functions", Self::Function),
        ("schemas", Self::Schema),
        ("all_tables_in", Self::AllTables),
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Table | Self::AllTables => "TABLE",
            Self::Sequence => "SEQUENCE",
            Self::Function => "FUNCTION",
            Self::Schema => "SCHEMA",
        }
    }

    fn privileges(self) -> &'static [&'static str] {
        match self {
            Self::Table | Self::AllTables => &[
                "SELECT",
                "INSERT",
                "UPDATE",
                "DELETE",
                "TRUNCATE",
                "REFERENCES",
                "TRIGGER",
                "MAINTAIN",
            ],
            Self::Sequence => &["USAGE", "SELECT", "UPDATE"],
            Self::Function => &["EXECUTE"],
            Self::Schema => &["USAGE", "CREATE"],
        }
    }

    /// The access control list of an object, as a query of one column `acl`.
    fn acl(self, object: &str) -> String {
        let object = literal(object);
        match self {
            Self::Table | Self::AllTables | Self::Sequence => format!(
                "SELECT c.relacl AS acl FROM pg_catalog.pg_class AS c WHERE c.oid = pg_catalog.to_regclass({object})"
            ),
            Self::Function => format!(
                "SELECT p.proacl AS acl FROM pg_catalog.pg_proc AS p WHERE p.oid = pg_catalog.to_regprocedure({object})"
            ),
            Self::Schema => format!(
                "SELECT n.nspacl AS acl FROM pg_catalog.pg_namespace AS n WHERE pg_catalog.quote_ident(n.nspname) = {object}"
            ),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Grant {
    privileges: Vec<Located<String>>,
    kind: Kind,
    /// As they stand in SQL.
    objects: Vec<Located<String>>,
    roles: Vec<Located<String>>,
    with_grant_option: bool,
}

pub struct Target {
    kind: Kind,
    objects: Vec<String>,
    /// Per object and role what it gets that it does not have.
    new: Vec<New>,
    with_grant_option: bool,
    major: u32,
}

struct New {
    object: String,
    /// `PUBLIC` for everybody.
    role: String,
    privileges: Vec<String>,
}

fn role_sql(role: &str) -> String {
    match role {
        "PUBLIC" => role.to_owned(),
        role => ident(role),
    }
}

impl Grant {
    fn read_objects(fields: &Fields<'_>, key: &'static str, kind: Kind) -> Option<Vec<Located<String>>> {
        let items = fields.optional_list(key)?;
        let read = |item| {
            let text = fields.text_of(item, key)?;
            let value = match kind {
                Kind::Schema | Kind::AllTables => Ok(ident(&text.value)),
                // The types behind the name stay as they are.
                Kind::Function => {
                    let (name, types) = text.value.split_once('(').unwrap_or((&text.value, ")"));
                    QualifiedName::parse(name.trim(), fields.default_schema())
                        .map(|name| format!("{name}({types}"))
                }
                Kind::Table | Kind::Sequence => {
                    QualifiedName::parse(&text.value, fields.default_schema()).map(|name| name.to_string())
                }
            };
            match value {
                Ok(value) => Some(Located {
                    value,
                    span: text.span,
                }),
                Err(message) => {
                    fields.report(Diagnostic::new("invalid_value", message).at(text.span));
                    None
                }
            }
        };
        items.iter().map(read).collect()
    }

    /// What a role holds explicitly, grantable or not as asked.
    fn held(&self, kind: Kind, object: &str, role: &str) -> String {
        let grantee = match role {
            "PUBLIC" => "0".to_owned(),
            role => format!("pg_catalog.to_regrole({})", literal(&ident(role))),
        };
        let grantable = if self.with_grant_option {
            " AND x.is_grantable"
        } else {
            ""
        };
        format!(
            "SELECT coalesce(pg_catalog.string_agg(x.privilege_type, ','), '') FROM ({}) AS o, \
             LATERAL pg_catalog.aclexplode(o.acl) AS x WHERE x.grantee = {grantee}{grantable}",
            kind.acl(object)
        )
    }

    fn exists(role: &str) -> String {
        match role {
            "PUBLIC" => "SELECT 'yes'".to_owned(),
            role => format!(
                "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = {}",
                literal(role)
            ),
        }
    }

    fn objects(&self, catalog: &CatalogSnapshot) -> Vec<String> {
        if self.kind != Kind::AllTables {
            return self.objects.iter().map(|object| object.value.clone()).collect();
        }
        let inside = |name: &&QualifiedName| {
            self.objects
                .iter()
                .any(|schema| schema.value == ident(&name.schema))
        };
        let names = catalog.tables.keys().chain(catalog.views.keys());
        names.filter(inside).map(ToString::to_string).collect()
    }

    /// Whether the roles exist, and then what each has on each object.
    fn trial(&self, now: &CatalogSnapshot) -> Trial {
        let roles = self.roles.iter().map(|role| Self::exists(&role.value));
        let objects = self.objects(now);
        let held = objects.iter().flat_map(|object| {
            let roles = self.roles.iter();
            roles.map(|role| self.held(self.kind, object, &role.value))
        });
        Trial {
            texts: roles.chain(held).collect(),
            ..Trial::default()
        }
    }

    fn wanted(&self, major: u32) -> Vec<String> {
        let known = self.kind.privileges().iter();
        let known = known.filter(|privilege| **privilege != "MAINTAIN" || major >= 17);
        let all = self.privileges.iter().any(|privilege| privilege.value == "ALL");
        let is_wanted =
            |privilege: &str| all || self.privileges.iter().any(|wanted| wanted.value == privilege);
        known
            .filter(|privilege| is_wanted(privilege))
            .map(|privilege| (*privilege).to_owned())
            .collect()
    }

    fn object_complaints(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let catalog = context.catalog;
        let missing = |object: &Located<String>| {
            let name = || {
                object
                    .value
                    .parse::<QualifiedName>()
                    .unwrap_or_else(|_| QualifiedName::new("", ""))
            };
            let found = match self.kind {
                Kind::Table => catalog.tables.contains_key(&name()) || catalog.views.contains_key(&name()),
                Kind::Sequence => catalog.sequences.contains_key(&name()),
                Kind::Schema | Kind::AllTables => {
                    catalog.schemas.keys().any(|schema| ident(schema) == object.value)
                }
                // The server finds out.
                Kind::Function => true,
            };
            (!found).then(|| self.unknown(context, object))
        };
        self.objects.iter().filter_map(missing).collect()
    }

    fn unknown(&self, context: &Context<'_>, object: &Located<String>) -> Diagnostic {
        let what = self.kind.word().to_lowercase();
        let kind = match self.kind {
            Kind::AllTables => "schema",
            _ => &what,
        };
        let complaint =
            Diagnostic::new("unknown_object", format!("there is no {kind} {}", object.value)).at(object.span);
        let known: Vec<String> = match self.kind {
            Kind::Schema | Kind::AllTables => {
                context.catalog.schemas.keys().map(|name| ident(name)).collect()
            }
            Kind::Sequence => context
                .catalog
                .sequences
                .keys()
                .map(ToString::to_string)
                .collect(),
            _ => {
                let names = context.catalog.tables.keys().chain(context.catalog.views.keys());
                names.map(ToString::to_string).collect()
            }
        };
        complaint.suggest(
            &object.value,
            known.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    }

    fn privilege_complaints(&self) -> Vec<Diagnostic> {
        let known = self.kind.privileges();
        let unknown = |privilege: &&Located<String>| {
            privilege.value != "ALL" && !known.contains(&privilege.value.as_str())
        };
        let complaint = |privilege: &Located<String>| {
            let message = format!(
                "there is no privilege {} on a {}",
                privilege.value,
                self.kind.word().to_lowercase()
            );
            Diagnostic::new("invalid_value", message)
                .at(privilege.span)
                .help(format!("one of ALL, {}", known.join(", ")))
        };
        self.privileges.iter().filter(unknown).map(complaint).collect()
    }
}

impl Operation for Grant {
    type Target = Target;
    const NAME: &'static str = "grant";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let items = fields.list("privileges").unwrap_or_default();
        let privileges: Vec<_> = items
            .iter()
            .filter_map(|item| fields.text_of(item, "privileges"))
            .map(|text| Located {
                value: text.value.to_uppercase(),
                span: text.span,
            })
            .collect();
        let given: Vec<_> = Kind::KEYS
            .into_iter()
            .filter_map(|(key, kind)| Some((kind, Self::read_objects(fields, key, kind)?)))
            .collect();
        let roles = fields.identifiers("to");
        let with_grant_option = fields.flag("with_grant_option", false);
        let [(kind, objects)] = given.as_slice() else {
            let message =
                "exactly one of `tables`, `sequences`, `functions`, `schemas` and `all_tables_in` is needed";
            fields.report(Diagnostic::new("missing_key", message).at(fields.span()));
            return None;
        };
        let everybody = |role: Located<String>| Located {
            value: if role.value == "public" {
                "PUBLIC".into()
            } else {
                role.value
            },
            span: role.span,
        };
        Some(Self {
            privileges,
            kind: *kind,
            objects: objects.clone(),
            roles: roles?.into_iter().map(everybody).collect(),
            with_grant_option,
        })
    }

    fn needs(&self) -> Vec<Named> {
        let named = |object: &Located<String>| {
            let kind = match self.kind {
                Kind::Table => "TABLE",
                Kind::Schema | Kind::AllTables => "SCHEMA",
                Kind::Function | Kind::Sequence => return Vec::new(),
            };
            let names = statement::names(
                &format!("GRANT ALL ON {kind} {} TO nobody", object.value),
                "public",
            );
            let needs = names.needs.into_iter();
            needs.map(|it| Named::at(it, object.span)).collect()
        };
        self.objects.iter().flat_map(named).collect()
    }

    fn questions(&self, now: &CatalogSnapshot) -> Vec<Question> {
        vec![Question::Trial(self.trial(now))]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let mut complaints = self.privilege_complaints();
        complaints.extend(self.object_complaints(context));
        let trial = self.trial(context.now);
        let outcome = match context.tried(&trial, self.roles[0].span) {
            Ok(outcome) => outcome,
            Err(complaint) => {
                complaints.push(complaint);
                None
            }
        };
        let known = |position: usize| outcome.is_none_or(|outcome| outcome.before[position].is_some());
        for (position, role) in self.roles.iter().enumerate() {
            if !known(position) {
                let message = format!("there is no role `{}`", role.value);
                let complaint = Diagnostic::new("unknown_role", message).at(role.span);
                complaints.push(complaint.help("roles belong to the whole server; create it first"));
            }
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let wanted = self.wanted(context.major());
        let held = |object: &str, role: &str| -> Vec<String> {
            let query = self.held(self.kind, object, role);
            let position = trial.texts.iter().position(|text| *text == query);
            let text = position.and_then(|at| outcome?.before.get(at)?.clone());
            text.unwrap_or_default().split(',').map(str::to_owned).collect()
        };
        let mut new = Vec::new();
        let objects = self.objects(context.catalog);
        for object in &objects {
            for role in &self.roles {
                let held = held(object, &role.value);
                let privileges = wanted.iter().filter(|privilege| !held.contains(privilege));
                new.push(New {
                    object: object.clone(),
                    role: role.value.clone(),
                    privileges: privileges.cloned().collect(),
                });
            }
        }
        new.retain(|new| !new.privileges.is_empty());
        Ok(Target {
            kind: self.kind,
            objects,
            new,
            with_grant_option: self.with_grant_option,
            major: context.major(),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        if target.new.is_empty() {
            return Vec::new();
        }
        let word = target.kind.word();
        let option = if target.with_grant_option {
            " WITH GRANT OPTION"
        } else {
            ""
        };
        let grant = |new: &New| {
            let privileges = new.privileges.join(", ");
            format!(
                "GRANT {privileges} ON {word} {} TO {}{option}",
                new.object,
                role_sql(&new.role)
            )
        };
        let revoke = |new: &New| {
            let privileges = new.privileges.join(", ");
            format!(
                "REVOKE {privileges} ON {word} {} FROM {}",
                new.object,
                role_sql(&new.role)
            )
        };
        let making = Making {
            id: "grant",
            summary: format!("grant privileges on {}", target.objects.join(", ")),
            statements: target.new.iter().map(grant).collect(),
            locks: Vec::new(),
            expect: target
                .new
                .iter()
                .map(|new| expectation(target.kind, new))
                .collect(),
            hazards: Vec::new(),
            undo: target.new.iter().rev().map(revoke).collect(),
            undo_locks: Vec::new(),
            kept: None,
        };
        vec![making.step(settings)]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        for new in &target.new {
            let Ok(name) = new.object.parse::<QualifiedName>() else {
                continue;
            };
            let owner_has = |privilege: &str| privilege != "MAINTAIN" || target.major >= 17;
            let all = Kind::Table
                .privileges()
                .iter()
                .filter(|privilege| owner_has(privilege));
            let (owner, grants) = match (catalog.tables.get_mut(&name), catalog.views.get_mut(&name)) {
                (Some(table), _) => (table.owner.clone(), &mut table.grants),
                (None, Some(view)) => (view.owner.clone(), &mut view.grants),
                (None, None) => continue,
            };
            let granted = |role: &str, privilege: &str, grantable| Granted {
                grantee: role.to_owned(),
                grantor: owner.clone(),
                privilege: privilege.to_owned(),
                grantable,
            };
            // The first grant makes what the owner may do explicit.
            if grants.is_empty() {
                grants.extend(all.map(|privilege| granted(&owner, privilege, false)));
            }
            for privilege in &new.privileges {
                grants.retain(|grant| (&grant.grantee, &grant.privilege) != (&new.role, privilege));
                grants.push(granted(&new.role, privilege, target.with_grant_option));
            }
            grants.sort();
        }
    }
}

/// Each of them is there.
fn expectation(kind: Kind, new: &New) -> Expectation {
    let grantee = match new.role.as_str() {
        "PUBLIC" => "0".to_owned(),
        role => format!("pg_catalog.to_regrole({})", literal(&ident(role))),
    };
    let privileges: Vec<String> = new
        .privileges
        .iter()
        .map(|privilege| literal(privilege))
        .collect();
    Expectation::Query {
        query: format!(
            "SELECT count(*) = {} FROM ({}) AS o, LATERAL pg_catalog.aclexplode(o.acl) AS x \
             WHERE x.grantee = {grantee} AND x.privilege_type IN ({})",
            new.privileges.len(),
            kind.acl(&new.object),
            privileges.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text, table};

    #[test]
    fn grants_and_revokes() {
        let catalog = catalog().with("\"Or ders\"", table(&["id bigint not null"]));
        let changes = "  - grant: {privileges: [select, insert], tables: '\"Or ders\"', to: [app, public]}\n  - grant: {privileges: all, schemas: public, to: Role 1, with_grant_option: true}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        01-grant-grant [expand] grant privileges on public."Or ders"
          GRANT SELECT, INSERT ON TABLE public."Or ders" TO app;
          GRANT SELECT, INSERT ON TABLE public."Or ders" TO PUBLIC;
            locks:  (lock_timeout 200ms)
          undo REVOKE SELECT, INSERT ON TABLE public."Or ders" FROM PUBLIC;
          undo REVOKE SELECT, INSERT ON TABLE public."Or ders" FROM app;
          undo   locks:  (lock_timeout 200ms)
        02-grant-grant [expand] grant privileges on public
          GRANT USAGE, CREATE ON SCHEMA public TO "Role 1" WITH GRANT OPTION;
            locks:  (lock_timeout 200ms)
          undo REVOKE USAGE, CREATE ON SCHEMA public FROM "Role 1";
          undo   locks:  (lock_timeout 200ms)
        "#);
    }

    #[test]
    fn names_what_is_wrong() {
        let catalog = catalog().with("orders", table(&["id bigint not null"]));
        let changes = "  - grant: {privileges: [selct], tables: order, to: app}\n  - grant: {privileges: select, to: app}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"4:12 missing_key: exactly one of `tables`, `sequences`, `functions`, `schemas` and `all_tables_in` is needed");
        let changes = "  - grant: {privileges: [select], all_tables_in: publc, to: app}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"3:50 unknown_object: there is no schema publc (did you mean `public`?)");
    }
}
