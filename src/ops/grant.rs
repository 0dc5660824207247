//! `grant`: roles may do more.

use super::parts::object::Making;
use super::parts::statement;
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Grant as Granted, Question, Trial};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{Expectation, Settings};
use crate::sql::{QualifiedName, ident, literal};
use held::{Held, New};
use std::collections::BTreeMap;

mod held;

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
Undo: what was granted is revoked; what a role had before it keeps, on single columns too.
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

    /// An expression that finds an object by its name, whatever the search_path is.
    fn oid(self, object: &str) -> String {
        let what = match self {
            Self::Table | Self::AllTables | Self::Sequence => "regclass",
            Self::Function => "regprocedure",
            Self::Schema => "regnamespace",
        };
        format!("pg_catalog.to_{what}({})", literal(object))
    }

    /// Owner and access control list of an object, as a query; a list that was never touched says what is so by default.
    fn acl(self, oid: &str) -> String {
        let of = |table: &str, prefix: &str, class: &str| {
            format!(
                "SELECT c.{prefix}owner AS owner, coalesce(c.{prefix}acl, pg_catalog.acldefault({class}, c.{prefix}owner)) AS acl \
                 FROM pg_catalog.{table} AS c WHERE c.oid = {oid}"
            )
        };
        match self {
            Self::Table | Self::AllTables => of("pg_class", "rel", "'r'"),
            Self::Sequence => of("pg_class", "rel", "'s'"),
            Self::Function => of("pg_proc", "pro", "'f'"),
            Self::Schema => of("pg_namespace", "nsp", "'n'"),
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

/// SQLSTATEs of a name that the server does not know: a function, a type, a schema.
const UNDEFINED: [&str; 3] = ["42883", "42704", "3F000"];

/// What the server was asked, and what it said.
type Answers = BTreeMap<String, Option<String>>;

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

    /// An expression that finds one of the objects while the server is asked. The types of a function's arguments are
    /// looked up along the search_path that the statements will have, unlike all that is asked as text.
    fn oid(&self, position: usize, object: &str) -> String {
        match self.kind {
            Kind::Function => format!(
                "nullif(pg_catalog.current_setting('pgmorph.function_{position}', true), '')::pg_catalog.oid"
            ),
            kind => kind.oid(object),
        }
    }

    /// The name of a function with its types as `pg_catalog` alone prints them.
    fn signature(oid: &str) -> String {
        format!("SELECT ({oid})::pg_catalog.regprocedure::pg_catalog.text")
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

    /// Whether the roles exist, and what each has on each object. Every function has a trial of its own, which fails where
    /// there is none.
    fn trials(&self, now: &CatalogSnapshot) -> Vec<Trial> {
        let roles = self.roles.iter().map(|role| Self::exists(&role.value)).collect();
        let mut all = Trial {
            texts: roles,
            ..Trial::default()
        };
        let mut trials = Vec::new();
        for (position, object) in self.objects(now).iter().enumerate() {
            let oid = self.oid(position, object);
            let roles = self.roles.iter();
            let held = roles.map(|role| held::question(self.kind, &oid, &role.value));
            if self.kind == Kind::Function {
                trials.push(Trial {
                    statements: vec![format!(
                        "SELECT pg_catalog.set_config('pgmorph.function_{position}', \
                         {}::pg_catalog.regprocedure::pg_catalog.oid::pg_catalog.text, true)",
                        literal(object)
                    )],
                    texts: std::iter::once(Self::signature(&oid)).chain(held).collect(),
                    ..Trial::default()
                });
            } else {
                all.texts.extend(held);
            }
        }
        trials.insert(0, all);
        trials
    }

    fn answers(&self, context: &Context<'_>) -> (Answers, Vec<Diagnostic>) {
        let mut answers = Answers::new();
        let mut complaints = Vec::new();
        for (position, trial) in self.trials(context.now).into_iter().enumerate() {
            // The first is about everything but functions.
            let function = position.checked_sub(1).and_then(|at| self.objects.get(at));
            match (context.now.tried(&trial), function) {
                (None, _) => {}
                (Some(Err(error)), Some(function)) if UNDEFINED.contains(&error.sqlstate.as_str()) => {
                    complaints.push(self.unknown(context, function));
                }
                (Some(_), _) => {
                    let span = function.map_or(self.roles[0].span, |function| function.span);
                    match context.tried(&trial, span) {
                        Ok(outcome) => {
                            let after = outcome.map(|outcome| outcome.after.clone());
                            answers.extend(trial.texts.into_iter().zip(after.unwrap_or_default()));
                        }
                        Err(complaint) => complaints.push(complaint),
                    }
                }
            }
        }
        (answers, complaints)
    }

    /// What each role gets on each object, and the objects as the server names them.
    fn new_ones(&self, context: &Context<'_>, answers: &Answers) -> (Vec<String>, Vec<New>) {
        let wanted = self.wanted(context.major());
        let answer = |query: &str| answers.get(query).cloned().flatten();
        let (mut names, mut new) = (Vec::new(), Vec::new());
        for (position, object) in self.objects(context.catalog).into_iter().enumerate() {
            let oid = self.oid(position, &object);
            let name = answer(&Self::signature(&oid)).unwrap_or(object);
            for role in &self.roles {
                let held = answer(&held::question(self.kind, &oid, &role.value));
                let held = held.and_then(|text| serde_json::from_str::<Held>(&text).ok());
                let held = held.unwrap_or_default();
                new.push(New::of(&name, &role.value, &wanted, self.with_grant_option, held));
            }
            names.push(name);
        }
        new.retain(|new| !new.privileges.is_empty());
        (names, new)
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
                // The server tells.
                Kind::Function => true,
            };
            (!found).then(|| self.unknown(context, object))
        };
        let found = self.objects.iter().filter_map(missing);
        found.chain(self.grantor_complaints(context)).collect()
    }

    /// Who neither owns a table or view nor was given its privileges to pass on has nothing to grant.
    fn grantor_complaints(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let (catalog, role) = (context.catalog, &context.now.role);
        let wanted = self.wanted(context.major());
        let complaint = |object: &Located<String>| {
            let name = object.value.parse::<QualifiedName>().ok()?;
            let (owner, grants) = match (catalog.tables.get(&name), catalog.views.get(&name)) {
                (Some(table), _) => (&table.owner, &table.grants),
                (None, Some(view)) => (&view.owner, &view.grants),
                (None, None) => return None,
            };
            let given = |privilege: &String| {
                grants
                    .iter()
                    .any(|it| it.grantable && it.privilege == *privilege && role.acts_as(&it.grantee))
            };
            let lacks: Vec<&str> = wanted
                .iter()
                .filter(|it| !given(it))
                .map(String::as_str)
                .collect();
            if role.acts_as(owner) || lacks.is_empty() || catalog.schemas.is_empty() {
                return None;
            }
            let message = format!(
                "{name} belongs to {owner}, and {} may not pass on {}",
                role.name,
                lacks.join(", ")
            );
            let mend = format!(
                "GRANT {} ON {name} TO {} WITH GRANT OPTION",
                lacks.join(", "),
                ident(&role.name)
            );
            Some(
                Diagnostic::new("not_grantable", message)
                    .at(object.span)
                    .help(mend),
            )
        };
        match self.kind {
            Kind::Table => self.objects.iter().filter_map(complaint).collect(),
            _ => Vec::new(),
        }
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
            Kind::Function => {
                return complaint.help("a function is named with the types of its arguments: f(bigint)");
            }
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
        self.trials(now).into_iter().map(Question::Trial).collect()
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let mut complaints = self.privilege_complaints();
        complaints.extend(self.object_complaints(context));
        let (answers, found) = self.answers(context);
        complaints.extend(found);
        let unknown = |role: &&Located<String>| answers.get(&Self::exists(&role.value)) == Some(&None);
        for role in self.roles.iter().filter(unknown) {
            let message = format!("there is no role `{}`", role.value);
            let complaint = Diagnostic::new("unknown_role", message).at(role.span);
            complaints.push(complaint.help("roles belong to the whole server; create it first"));
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let (objects, new) = self.new_ones(context, &answers);
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
        let (kind, option) = (target.kind, target.with_grant_option);
        let making = Making {
            id: "grant",
            summary: format!("grant privileges on {}", target.objects.join(", ")),
            statements: target.new.iter().map(|new| new.grant(kind, option)).collect(),
            locks: Vec::new(),
            expect: target
                .new
                .iter()
                .map(|new| Expectation::Query {
                    query: new.query(kind, option),
                })
                .collect(),
            hazards: Vec::new(),
            undo: target.new.iter().rev().flat_map(|new| new.undo(kind)).collect(),
            undo_locks: Vec::new(),
            previous: None,
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
                let new = granted(&new.role, privilege, target.with_grant_option);
                let same = |grant: &Granted| {
                    (&grant.grantee, &grant.grantor, &grant.privilege)
                        == (&new.grantee, &new.grantor, &new.privilege)
                };
                grants.retain(|grant| !same(grant));
                grants.push(new);
            }
            grants.sort();
        }
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
