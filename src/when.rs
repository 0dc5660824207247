//! `when:` of a change: conditions under which it is made, and what they say about a catalog.

use crate::catalog::model::CatalogSnapshot;
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::{Fields, Node, Value};
use crate::sql::{self, QualifiedName, ident};
use std::fmt;

/// As `pgmorph explain when` prints it.
pub const MANUAL: &str = "\
Makes a change conditional. `when` stands beside `settings` in any change; several conditions must all hold. A change
whose condition does not hold is waiting: it has no steps, `plan`, `apply`, `status` and `verify` say what it waits
for, and the run completes without it. Once it is completed, contract included, the next `apply` of the same plan makes
what was waiting and may be made now, as a run of its own; `rollback` undoes all runs of the plan, the last first.

```yaml
- add_column:
    table: trades
    column: user_id
    type: text
    when: {table_exists: trades}
- create_index:
    table: trades
    columns: [user_id]
    when:
      column_exists: trades.user_id
      server: \">= 14\"
      query: SELECT count(*) < 1000000 FROM trades
```

- `table_exists`, `table_missing`, `view_exists`, `view_missing`, `index_exists`, `index_missing`, `schema_exists`,
  `schema_missing`: a name, or a list of names.
- `column_exists`, `column_missing`: `table.column` or `{table: …, column: …}`, or a list of those.
- `server`: a major version, or one with `>=` or `<` before it.
- `query`: a query that gives one boolean. It holds when that is true; without a row it does not.

All but `query` are answered by the catalog as the changes before this one leave it, so a change may depend on what
an earlier one creates, and it waits together with one that waits. A query is asked before anything is planned, of the
database as it is, and its answer counts only where the other conditions hold; without a server there is no answer.
The plan's own checks, `before` and `after`, are asked whatever waits.

Locks: none; a query runs in a transaction that only reads, within the change's `statement_timeout`.
";

/// Conditions that must all hold.
#[derive(Debug, Clone)]
pub struct When {
    conditions: Vec<Condition>,
    query: Option<Located<String>>,
}

/// What the catalog alone can answer.
#[derive(Debug, Clone)]
enum Condition {
    There(Object),
    Missing(Object),
    Server(Version),
}

#[derive(Debug, Clone)]
enum Object {
    Table(QualifiedName),
    View(QualifiedName),
    Index(QualifiedName),
    Schema(String),
    Column(QualifiedName, String),
}

/// Major versions.
#[derive(Debug, Clone, Copy)]
enum Version {
    AtLeast(u32),
    Below(u32),
    Exactly(u32),
}

type Read = fn(&Fields<'_>, &Node, &str) -> Option<Object>;

/// Key for what is there, key for what is missing, and how the object is read.
const OBJECTS: [(&str, &str, Read); 5] = [
    ("table_exists", "table_missing", |fields, node, key| {
        relation(fields, node, key).map(Object::Table)
    }),
    ("view_exists", "view_missing", |fields, node, key| {
        relation(fields, node, key).map(Object::View)
    }),
    ("index_exists", "index_missing", |fields, node, key| {
        relation(fields, node, key).map(Object::Index)
    }),
    ("schema_exists", "schema_missing", |fields, node, key| {
        checked(fields, node, key, |text| {
            sql::check_identifier(text)?;
            not_of_the_system(text)?;
            Ok(Object::Schema(text.to_owned()))
        })
    }),
    ("column_exists", "column_missing", column),
];

impl When {
    /// Reads the node of the key `when`, reporting everything wrong with it.
    pub fn read(parent: &Fields<'_>, node: &Node) -> Option<Self> {
        let fields = parent.nested(node, "when");
        let mut conditions = Vec::new();
        for (there, missing, read) in OBJECTS {
            conditions.extend(objects(&fields, there, read).map(Condition::There));
            conditions.extend(objects(&fields, missing, read).map(Condition::Missing));
        }
        if let Some(node) = fields.optional("server") {
            conditions.extend(checked(&fields, node, "server", version).map(Condition::Server));
        }
        let query = fields.optional_text("query").map(|text| Located {
            value: text.value.trim().trim_end_matches(';').trim_end().to_owned(),
            span: text.span,
        });
        if !fields.finish() {
            return None;
        }
        if conditions.is_empty() && query.is_none() {
            let diagnostic = Diagnostic::new("empty_map", "`when` has no condition");
            parent.report(
                diagnostic
                    .at(node.span)
                    .help("name one, such as table_exists; see: pgmorph explain when"),
            );
            return None;
        }
        Some(Self { conditions, query })
    }

    /// The question that only the server can answer.
    pub fn query(&self) -> Option<&str> {
        self.query.as_ref().map(|query| query.value.as_str())
    }

    /// Why the change has to wait; `None` when everything holds.
    ///
    /// # Errors
    /// The server was not asked the query, or had no answer to it.
    pub fn unmet(&self, catalog: &CatalogSnapshot) -> Result<Option<String>, Diagnostic> {
        let reasons: Vec<String> = self
            .conditions
            .iter()
            .filter(|condition| !condition.holds(catalog))
            .map(|condition| condition.reason(catalog))
            .collect();
        let Some(query) = self.query.as_ref().filter(|_| reasons.is_empty()) else {
            return Ok((!reasons.is_empty()).then(|| reasons.join(", ")));
        };
        match catalog.conditions.get(&query.value) {
            Some(Ok(true)) => Ok(None),
            Some(Ok(false)) => Ok(Some(format!(
                "the query is not true: {}",
                shortened(&query.value)
            ))),
            Some(Err(why)) => Err(unanswered(query.span, why)),
            None => Err(Diagnostic::new(
                "needs_server",
                "only a server can answer the query of this condition",
            )
            .at(query.span)
            .help("plan against a server rather than a snapshot of its catalog")),
        }
    }
}

fn unanswered(span: Span, why: &str) -> Diagnostic {
    Diagnostic::new(
        "condition_fails",
        format!("the query of this condition has no answer: {why}"),
    )
    .at(span)
    .help(
        "it is asked of the database as it is before the plan; further conditions beside it, such as table_exists, \
         are answered first",
    )
}

/// In one line, and no longer than a reader needs to recognise it.
fn shortened(query: &str) -> String {
    const CHARS: usize = 80;
    let line = query.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn objects(fields: &Fields<'_>, key: &'static str, read: Read) -> impl Iterator<Item = Object> {
    let items: &[Node] = match fields.optional(key) {
        None => &[],
        Some(node) => match &node.value {
            Value::List(_) => fields.optional_list(key).unwrap_or_default(),
            _ => std::slice::from_ref(node),
        },
    };
    let read: Vec<Object> = items.iter().filter_map(|item| read(fields, item, key)).collect();
    read.into_iter()
}

fn checked<T>(
    fields: &Fields<'_>,
    node: &Node,
    key: &str,
    check: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let text = fields.text_of(node, key)?;
    check(&text.value)
        .map_err(|message| fields.report(Diagnostic::new("invalid_value", message).at(text.span)))
        .ok()
}

fn relation(fields: &Fields<'_>, node: &Node, key: &str) -> Option<QualifiedName> {
    checked(fields, node, key, |text| {
        let name = QualifiedName::parse(text, fields.default_schema())?;
        not_of_the_system(&name.schema).map(|()| name)
    })
}

fn column(fields: &Fields<'_>, node: &Node, key: &str) -> Option<Object> {
    if !matches!(node.value, Value::Map(_)) {
        return checked(fields, node, key, |text| {
            let (table, column) = sql::parse_column(text, fields.default_schema())?;
            not_of_the_system(&table.schema).map(|()| Object::Column(table, column))
        });
    }
    let inner = fields.nested(node, key);
    let table = inner
        .required("table")
        .and_then(|node| relation(&inner, node, "table"));
    let column = inner.identifier("column");
    inner.finish();
    Some(Object::Column(table?, column?.value))
}

/// A snapshot has none of these, so they would always seem to be missing.
fn not_of_the_system(schema: &str) -> Result<(), String> {
    if schema.starts_with("pg_") || schema == "information_schema" || schema == "pgmorph" {
        return Err(format!(
            "{} is not among the schemas that a plan knows; ask about it with `query`",
            ident(schema)
        ));
    }
    Ok(())
}

fn version(text: &str) -> Result<Version, String> {
    let (make, number): (fn(u32) -> Version, &str) = match (text.strip_prefix(">="), text.strip_prefix('<')) {
        (Some(rest), _) => (Version::AtLeast, rest),
        (None, Some(rest)) => (Version::Below, rest),
        (None, None) => (Version::Exactly, text),
    };
    match number.trim().parse() {
        Ok(major @ 10..=99) => Ok(make(major)),
        _ => Err(format!(
            "`server` is a major version, such as 15, \">= 15\" or \"< 15\", not {text:?}"
        )),
    }
}

impl Condition {
    fn holds(&self, catalog: &CatalogSnapshot) -> bool {
        match self {
            Self::There(object) => object.is_in(catalog),
            Self::Missing(object) => !object.is_in(catalog),
            Self::Server(version) => {
                let major = catalog.server.major();
                match version {
                    Version::AtLeast(least) => major >= *least,
                    Version::Below(limit) => major < *limit,
                    Version::Exactly(one) => major == *one,
                }
            }
        }
    }

    /// What is so instead.
    fn reason(&self, catalog: &CatalogSnapshot) -> String {
        match self {
            Self::There(object) => format!("{object} does not exist"),
            Self::Missing(object) => format!("{object} exists"),
            Self::Server(version) => {
                format!(
                    "the server is PostgreSQL {}, not {version}",
                    catalog.server.major()
                )
            }
        }
    }
}

impl Object {
    fn is_in(&self, catalog: &CatalogSnapshot) -> bool {
        match self {
            Self::Table(name) => catalog.tables.contains_key(name),
            Self::View(name) => catalog.views.contains_key(name),
            Self::Index(name) => {
                let of_view = || {
                    let mut views = catalog.views.iter();
                    views.any(|(view, it)| view.schema == name.schema && it.indexes.contains_key(&name.name))
                };
                catalog.index(name).is_some() || of_view()
            }
            Self::Schema(name) => catalog.schemas.contains_key(name),
            Self::Column(table, column) => {
                let table = catalog.tables.get(table);
                table.is_some_and(|table| table.column(column).is_some())
            }
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(name) => write!(f, "table {name}"),
            Self::View(name) => write!(f, "view {name}"),
            Self::Index(name) => write!(f, "index {name}"),
            Self::Schema(name) => write!(f, "schema {}", ident(name)),
            Self::Column(table, column) => write!(f, "column {table}.{}", ident(column)),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(major) => write!(f, ">= {major}"),
            Self::Below(major) => write!(f, "< {major}"),
            Self::Exactly(major) => write!(f, "{major}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::CatalogSnapshot;
    use crate::change_plan;
    use crate::ops::testing::{catalog, index, table};

    fn source(when: &str) -> String {
        format!("name: x\nchanges:\n  - set_default: {{table: t, column: a, default: 1, when: {when}}}\n")
    }

    fn database() -> CatalogSnapshot {
        let mut table = table(&["a bigint", "Odd\"Name text"]);
        table.indexes.insert("t_a_idx".into(), index(&["a"], false));
        catalog().with("t", table)
    }

    /// Why the change waits; an empty text when it does not.
    fn unmet(when: &str) -> String {
        let plan = change_plan::parse(&source(when)).unwrap_or_else(|found| panic!("{when}: {found:#?}"));
        let when = plan.changes[0].when.as_ref().unwrap();
        match when.unmet(&database()) {
            Ok(reason) => reason.unwrap_or_default(),
            Err(diagnostic) => format!("{}: {}", diagnostic.code, diagnostic.message),
        }
    }

    #[test]
    fn what_the_catalog_answers() {
        for when in [
            "{table_exists: t}",
            "{table_exists: [t, public.t]}",
            "{table_missing: [u, other.t], view_missing: t, schema_exists: public, schema_missing: other}",
            "{column_exists: t.a, column_missing: [t.b, u.a]}",
            "{column_exists: {table: t, column: 'Odd\"Name'}}",
            "{index_exists: t_a_idx, index_missing: other.t_a_idx}",
            "{server: 15}",
            "{server: '>= 15'}",
            "{server: '<16'}",
        ] {
            assert_eq!(unmet(when), "", "{when}");
        }
        for (when, reason) in [
            ("{table_exists: u}", "table public.u does not exist"),
            ("{table_missing: t}", "table public.t exists"),
            ("{table_exists: [t, S.u]}", "table \"S\".u does not exist"),
            ("{view_exists: t}", "view public.t does not exist"),
            ("{index_missing: t_a_idx}", "index public.t_a_idx exists"),
            ("{schema_missing: public}", "schema public exists"),
            ("{column_exists: u.a}", "column public.u.a does not exist"),
            (
                "{column_missing: {table: t, column: 'Odd\"Name'}}",
                "column public.t.\"Odd\"\"Name\" exists",
            ),
            ("{server: 14}", "the server is PostgreSQL 15, not 14"),
            ("{server: '>= 16'}", "the server is PostgreSQL 15, not >= 16"),
            ("{server: < 15}", "the server is PostgreSQL 15, not < 15"),
            (
                "{table_exists: u, index_missing: t_a_idx, query: SELECT true}",
                "table public.u does not exist, index public.t_a_idx exists",
            ),
            (
                "{table_exists: t, query: SELECT true}",
                "needs_server: only a server can answer the query of this condition",
            ),
        ] {
            assert_eq!(unmet(when), reason, "{when}");
        }
    }

    #[test]
    fn what_cannot_be_read() {
        for (when, complaint) in [
            ("{}", "`when` has no condition"),
            ("[t]", "when is a map of keys, not a list"),
            ("{table_exist: t}", "unknown key `table_exist`"),
            ("{table_exists: []}", "`table_exists` may not be empty"),
            ("{table_exists: {table: t}}", "`table_exists` is a single value"),
            ("{table_exists: a.b.c}", "more than a schema and a name"),
            ("{table_exists: pg_catalog.pg_class}", "ask about it with `query`"),
            ("{schema_exists: pgmorph}", "ask about it with `query`"),
            ("{column_exists: a}", "is not a table and its column"),
            ("{column_exists: {table: t}}", "`column` is missing"),
            (
                "{column_exists: {table: t, column: a, type: b}}",
                "unknown key `type`",
            ),
            ("{server: 15.4}", "`server` is a major version"),
            ("{server: '> 15'}", "`server` is a major version"),
        ] {
            let found = change_plan::parse(&source(when)).expect_err(when);
            let found: Vec<&str> = found.iter().map(|it| it.message.as_str()).collect();
            assert!(
                found.iter().any(|message| message.contains(complaint)),
                "{when}: {complaint}\n{found:#?}"
            );
        }
    }

    #[test]
    fn the_manual_can_be_read() {
        let (_, example) = super::MANUAL.split_once("```yaml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let plan = change_plan::parse(&format!("name: x\nchanges:\n{example}"));
        let plan = plan.unwrap_or_else(|found| panic!("{found:#?}"));
        assert!(plan.changes.iter().all(|change| change.when.is_some()));
    }
}
