//! How the rows of one table are made from those of another: what `backfill`, `compare` and `sync` share.

use crate::catalog::model::{CatalogSnapshot, Column, Index, Probe, Table};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::{Fields, Node, Value};
use crate::ops::{Context, Named};
use crate::sql::{QualifiedName, ident, idents};
use std::collections::BTreeSet;

/// A name of the target and what stands for it on the other side: a column, or an SQL expression.
pub type Pair = (Located<String>, Located<String>);

/// How the rows of a table are made from those of another.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    /// The driving table: one row of it makes at most one row.
    pub from: Located<QualifiedName>,
    /// What expressions call it; without `as` in the plan, the table's name.
    pub alias: String,
    pub into: Located<QualifiedName>,
    /// Unique key of the target and the same of the driving table: target column, source column.
    pub key: Vec<Pair>,
    /// As it would stand after the driving table in FROM.
    pub join: Option<Located<String>>,
    /// True for the rows that have a counterpart.
    pub condition: Option<Located<String>>,
    /// Target column, expression over the driving table and what it is joined with.
    pub columns: Vec<Pair>,
    /// As `columns`, but given when a row is inserted only: never updated nor compared afterwards.
    pub insert_only: Vec<Pair>,
}

impl Mapping {
    /// The tables at both ends.
    pub fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.from), Named::relation(&self.into)]
    }

    /// Reads `from`, `as`, `into`, `key`, `join`, `where`, `columns` and `insert_only`.
    pub fn read(fields: &Fields<'_>) -> Option<Self> {
        let from = fields.qualified("from");
        let alias = fields.optional_identifier("as");
        let into = fields.qualified("into");
        let key = read_key(fields);
        let join = fields.optional_text("join").map(trimmed);
        let condition = fields.optional_text("where").map(trimmed);
        let insert_only = fields.optional("insert_only").is_some();
        let insert_only = insert_only.then(|| fields.optional_pairs("insert_only"));
        let from = from?;
        let alias = alias.map_or_else(|| from.value.name.clone(), |alias| alias.value);
        let columns = read_columns(fields, &alias);
        Some(Self {
            from,
            alias,
            into: into?,
            key: key?,
            join,
            condition,
            columns: columns?,
            insert_only: insert_only.unwrap_or(Some(Vec::new()))?,
        })
    }

    /// Key, columns and what is given on insert only: every column of the target that gets a value.
    pub fn given(&self) -> impl Iterator<Item = &Pair> + Clone {
        self.key.iter().chain(&self.columns).chain(&self.insert_only)
    }

    /// The columns that are given a value, as a list in SQL.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.given().map(|(target, _)| target.value.as_str()).collect();
        idents(&names)
    }

    pub fn target_key(&self) -> Vec<String> {
        self.key.iter().map(|(target, _)| target.value.clone()).collect()
    }

    /// SELECT of the key, then the columns, named as in the target: every row that the target must have.
    pub fn select(&self, with_insert_only: bool) -> String {
        let source = self.from.value.to_string();
        self.select_from(&source, with_insert_only, None)
    }

    /// As [`Self::select`], of one table that stands for the driving one (a partition of it, say), and of the rows
    /// that fulfil one more condition.
    pub fn select_from(&self, source: &str, with_insert_only: bool, also: Option<&str>) -> String {
        let text = self.select_all(source, with_insert_only);
        let condition = self.condition.iter().map(|it| it.value.as_str());
        let conditions: Vec<String> = also.into_iter().chain(condition).map(parenthesized).collect();
        if conditions.is_empty() {
            return text;
        }
        format!("{text} WHERE {}", conditions.join(" AND "))
    }

    /// As [`Self::select_from`], of every row whether it has a counterpart or not: everything before WHERE.
    pub fn select_all(&self, source: &str, with_insert_only: bool) -> String {
        let own = self.key.iter().map(|(target, column)| {
            let column = ident(&column.value);
            format!("{}.{column} AS {}", ident(&self.alias), ident(&target.value))
        });
        let expression =
            |(target, it): &Pair| format!("{} AS {}", parenthesized(&it.value), ident(&target.value));
        let more = self.insert_only.iter().filter(|_| with_insert_only);
        let list: Vec<String> = own
            .chain(self.columns.iter().chain(more).map(expression))
            .collect();
        format!("SELECT {} FROM {}", list.join(", "), self.source_clause(source))
    }

    /// A table that stands for the driving one, with its alias and what is joined to it.
    pub fn source_clause(&self, source: &str) -> String {
        let join = self.join.as_ref().map(|join| match join.value.contains("--") {
            true => format!(" {}\n", join.value),
            false => format!(" {}", join.value),
        });
        format!("{source} AS {}{}", ident(&self.alias), join.unwrap_or_default())
    }

    /// Every text of the plan, each tried on an empty copy of the driving table: what is joined to it first, without
    /// which nothing else can be said, then the condition and the expressions.
    fn questions(&self) -> Vec<(Span, Probe)> {
        let probe = |list: &str, filter: &str| Probe {
            table: self.from.value.clone(),
            before: format!("SELECT{list} FROM "),
            after: format!("{}{filter} LIMIT 0", self.source_clause("")),
        };
        let join = self.join.as_ref().map_or(self.from.span, |join| join.span);
        let mut questions = vec![(join, probe("", ""))];
        questions.extend(self.condition.iter().map(|it| {
            let filter = format!(" WHERE {}", parenthesized(&it.value));
            (it.span, probe("", &filter))
        }));
        let expressions = self.columns.iter().chain(&self.insert_only);
        questions.extend(expressions.map(|(_, it)| {
            let list = format!(" {}", parenthesized(&it.value));
            (it.span, probe(&list, ""))
        }));
        questions
    }

    fn insertion(&self) -> Probe {
        let (names, source) = (self.names(), self.from.value.to_string());
        Probe {
            table: self.into.value.clone(),
            before: "INSERT INTO ".into(),
            after: format!(" ({names}) {} LIMIT 0", self.select_all(&source, true)),
        }
    }

    /// What to ask the server before planning; [`Self::check`] reads the answers.
    pub fn probes(&self) -> Vec<Probe> {
        let texts = self.questions().into_iter().map(|(_, probe)| probe);
        texts.chain([self.insertion()]).collect()
    }

    /// Everything wrong with it: tables and columns that do not exist or cannot be given a value, a key that is not
    /// unique on both sides, columns of the target that would be missing, texts that the server does not accept.
    pub fn check(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let mut complaints = self.check_compared(context);
        if let Some(target) = context.catalog.tables.get(&self.into.value) {
            complaints.extend(self.missing_values(target));
        }
        // The whole is not wrong for other reasons than its parts are.
        if complaints.is_empty() {
            complaints.extend(refusal(context, self.into.span, &self.insertion()));
        }
        complaints
    }

    /// As [`Self::check`], where nothing is inserted: the target may have columns besides.
    pub fn check_compared(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let mut complaints = Vec::new();
        if self.from.value == self.into.value {
            let message = format!("{} cannot be filled from itself", self.into.value);
            complaints.push(Diagnostic::new("same_table", message).at(self.into.span));
        }
        match known_table(context, &self.from) {
            Ok(source) => complaints.extend(self.check_source(context, source)),
            Err(complaint) => complaints.push(complaint),
        }
        match known_table(context, &self.into) {
            Ok(target) => complaints.extend(self.check_target(context, target)),
            Err(complaint) => complaints.push(complaint),
        }
        complaints.extend(self.refused_texts(context));
        complaints
    }

    /// What the server does not accept in the texts. What is wrong with what is joined is wrong with everything.
    pub fn refused_texts(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let mut questions = self.questions().into_iter();
        let joined = questions
            .next()
            .and_then(|(span, probe)| refusal(context, span, &probe));
        match joined {
            Some(refused) => vec![refused],
            None => questions
                .filter_map(|(span, probe)| refusal(context, span, &probe))
                .collect(),
        }
    }

    pub fn check_source(&self, context: &Context<'_>, source: &Table) -> Vec<Diagnostic> {
        let columns = self.key.iter().map(|(_, column)| column);
        let mut complaints = missing_columns(context, &self.from.value, source, columns.clone());
        if !complaints.is_empty() {
            return complaints;
        }
        let names: BTreeSet<&str> = columns.clone().map(|column| column.value.as_str()).collect();
        let (name, span) = (&self.from.value, self.key[0].1.span);
        let unique = source
            .indexes
            .values()
            .any(|index| unique_columns(index).is_some_and(|unique| unique.is_subset(&names)));
        if !unique {
            complaints.push(not_unique(name, &names, span));
        }
        for column in columns {
            if source.column(&column.value).is_some_and(|it| !it.not_null) {
                let message = format!("{name}.{} may be null", ident(&column.value));
                complaints.push(
                    Diagnostic::new("key_may_be_null", message)
                        .at(column.span)
                        .help("a key has a value in every row; make the column NOT NULL first"),
                );
            }
        }
        complaints
    }

    fn check_target(&self, context: &Context<'_>, target: &Table) -> Vec<Diagnostic> {
        let name = &self.into.value;
        let given = self.given().map(|(column, _)| column);
        let mut complaints = missing_columns(context, name, target, given.clone());
        let names: BTreeSet<&str> = self.key.iter().map(|(column, _)| column.value.as_str()).collect();
        if names.iter().all(|column| target.column(column).is_some()) && !has_arbiter(target, &names) {
            complaints.push(not_unique(name, &names, self.key[0].0.span));
        }
        let mut seen = BTreeSet::new();
        for column in given.clone() {
            if !seen.insert(&column.value) {
                let message = format!("`{}` is given twice", column.value);
                complaints.push(Diagnostic::new("duplicate_name", message).at(column.span));
            }
            if target
                .column(&column.value)
                .is_some_and(|it| it.generated.is_some())
            {
                let message = format!("{name}.{} is generated", ident(&column.value));
                complaints.push(
                    Diagnostic::new("generated_column", message)
                        .at(column.span)
                        .help("leave it out: the server computes it"),
                );
            }
        }
        complaints
    }

    fn missing_values(&self, target: &Table) -> Vec<Diagnostic> {
        let missing = target.columns.iter().filter(|column| {
            let filled = column.default.is_some() || column.identity.is_some() || column.generated.is_some();
            column.not_null && !filled && !self.given().any(|(it, _)| it.value == column.name)
        });
        let complaint = |column: &Column| {
            let (table, name) = (&self.into.value, ident(&column.name));
            let message = format!("{table}.{name} must have a value and is given none");
            Diagnostic::new("column_not_given", message)
                .at(self.into.span)
                .help(format!("add `{}` to `columns`", column.name))
        };
        missing.map(complaint).collect()
    }

    /// `OVERRIDING SYSTEM VALUE` where a column that is given is one the server insists on numbering itself.
    pub fn overriding(&self, catalog: &CatalogSnapshot) -> &'static str {
        let target = catalog.tables.get(&self.into.value);
        let always = |(column, _): &Pair| {
            let column = target.and_then(|target| target.column(&column.value));
            column.is_some_and(|it| it.identity.as_ref().is_some_and(|identity| identity.always))
        };
        if self.given().any(always) {
            " OVERRIDING SYSTEM VALUE"
        } else {
            ""
        }
    }
}

/// What the server says to a text. One that names what an earlier change of the plan makes cannot be judged.
fn refusal(context: &Context<'_>, span: Span, probe: &Probe) -> Option<Diagnostic> {
    let (now, then) = (context.now, context.catalog);
    let Some(Err(error)) = context.answer(probe) else {
        return None;
    };
    let changed = now.tables != then.tables || now.views != then.views || now.types != then.types;
    // Of functions, types and operators nobody says which ones earlier changes make.
    let unknowable = ["42883", "42704"].contains(&error.sqlstate.as_str());
    let not_yet = ["42P01", "42703", "3F000"].contains(&error.sqlstate.as_str());
    if unknowable || changed && not_yet {
        return None;
    }
    context.accepted(probe, span).err()
}

fn trimmed(text: Located<String>) -> Located<String> {
    Located {
        value: text.value.trim().to_owned(),
        span: text.span,
    }
}

/// On lines of its own where it may end in a comment.
pub fn parenthesized(text: &str) -> String {
    if text.contains("--") {
        format!("({text}\n)")
    } else {
        format!("({text})")
    }
}

/// `{target: source}`, or a list where both are called alike.
fn read_key(fields: &Fields<'_>) -> Option<Vec<Pair>> {
    let node = fields.required("key")?;
    if matches!(node.value, Value::Map(_)) {
        let pairs = fields.optional_pairs("key")?;
        if pairs.is_empty() {
            fields.report(Diagnostic::new("empty_list", "`key` may not be empty").at(node.span));
            return None;
        }
        return Some(pairs);
    }
    let names = fields.identifiers("key")?;
    Some(names.into_iter().map(|name| (name.clone(), name)).collect())
}

/// `{target: expression}`, or a list of columns that are called alike in the driving table.
pub fn read_columns(fields: &Fields<'_>, alias: &str) -> Option<Vec<Pair>> {
    let Some(Node {
        value: Value::List(_),
        ..
    }) = fields.optional("columns")
    else {
        let given = fields.optional("columns").is_some();
        return if given {
            fields.optional_pairs("columns")
        } else {
            Some(Vec::new())
        };
    };
    let names = fields.identifiers("columns")?;
    let own = |name: Located<String>| {
        let expression = Located {
            value: format!("{}.{}", ident(alias), ident(&name.value)),
            span: name.span,
        };
        (name, expression)
    };
    Some(names.into_iter().map(own).collect())
}

/// Whoever owns it.
fn known_table<'a>(context: &Context<'a>, name: &Located<QualifiedName>) -> Result<&'a Table, Diagnostic> {
    let table = context.catalog.tables.get(&name.value);
    table.ok_or_else(|| context.unknown_table(name))
}

fn missing_columns<'c>(
    context: &Context<'_>,
    name: &QualifiedName,
    table: &Table,
    columns: impl Iterator<Item = &'c Located<String>>,
) -> Vec<Diagnostic> {
    columns
        .filter_map(|column| context.column(name, table, column).err())
        .collect()
}

/// The columns that no two rows have alike, because of this index.
fn unique_columns(index: &Index) -> Option<BTreeSet<&str>> {
    let whole = index.unique && index.valid && index.predicate.is_none();
    let columns = index.keys.iter().map(|key| key.column.as_deref());
    columns.collect::<Option<_>>().filter(|_| whole)
}

/// Whether `ON CONFLICT (key)` finds what tells the rows apart, which a deferrable constraint cannot be.
fn has_arbiter(table: &Table, key: &BTreeSet<&str>) -> bool {
    let immediate = |index: &Index| {
        let constraint = index.constraint.as_ref();
        let constraint = constraint.and_then(|name| table.constraints.get(name));
        !constraint.is_some_and(|constraint| constraint.deferrable)
    };
    let mut indexes = table.indexes.values();
    indexes.any(|index| unique_columns(index).as_ref() == Some(key) && immediate(index))
}

fn not_unique(table: &QualifiedName, columns: &BTreeSet<&str>, span: Span) -> Diagnostic {
    let columns: Vec<String> = columns.iter().map(|column| ident(column)).collect();
    let columns = columns.join(", ");
    let message = format!("{table} has no unique index on ({columns}) over all of its rows");
    Diagnostic::new("key_not_unique", message).at(span).help(
        "name the columns of a primary key, or of a unique index that is neither partial nor deferrable",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, index, table};
    use crate::plan::Settings;
    use std::cell::RefCell;

    fn scalar(text: &str) -> Node {
        Node {
            value: Value::Scalar {
                text: text.into(),
                quoted: false,
            },
            span: Span::default(),
        }
    }

    fn name(text: &str) -> Located<String> {
        Located {
            value: text.into(),
            span: Span::default(),
        }
    }

    fn map(entries: Vec<(&str, Node)>) -> Node {
        let entries = entries.into_iter().map(|(key, node)| (name(key), node));
        Node {
            value: Value::Map(entries.collect()),
            span: Span::default(),
        }
    }

    fn read(node: &Node) -> Result<Mapping, Vec<Diagnostic>> {
        let diagnostics = RefCell::default();
        let fields = Fields::open(node, "a mapping", "public", &diagnostics);
        let mapping = Mapping::read(&fields);
        let complete = fields.finish();
        mapping.filter(|_| complete).ok_or_else(|| diagnostics.take())
    }

    fn strategies() -> Mapping {
        let node = map(vec![
            ("from", scalar("portfolios")),
            ("as", scalar("cp")),
            ("into", scalar("lth.Strategies")),
            ("key", map(vec![("portfolio_id", scalar("id"))])),
            ("join", scalar("LEFT JOIN old AS cs ON cs.portfolio_id = cp.id")),
            ("where", scalar("cp.status <> 'draft' -- not yet")),
            ("columns", map(vec![("Min", scalar("coalesce(cs.min, 1)"))])),
            ("insert_only", map(vec![("created", scalar("now()"))])),
        ]);
        read(&node).unwrap()
    }

    #[test]
    fn selects_the_rows_as_the_target_has_them() {
        insta::assert_snapshot!(strategies().select(true), @r#"
        SELECT cp.id AS portfolio_id, (coalesce(cs.min, 1)) AS "Min", (now()) AS created FROM public.portfolios AS cp LEFT JOIN old AS cs ON cs.portfolio_id = cp.id WHERE (cp.status <> 'draft' -- not yet
        )
        "#);
        insta::assert_snapshot!(strategies().select(false), @r#"
        SELECT cp.id AS portfolio_id, (coalesce(cs.min, 1)) AS "Min" FROM public.portfolios AS cp LEFT JOIN old AS cs ON cs.portfolio_id = cp.id WHERE (cp.status <> 'draft' -- not yet
        )
        "#);
        let short = map(vec![
            ("from", scalar("Old Names")),
            ("into", scalar("new")),
            ("key", scalar("id")),
            (
                "columns",
                Node {
                    value: Value::List(vec![scalar("a"), scalar("B")]),
                    span: Span::default(),
                },
            ),
        ]);
        insta::assert_snapshot!(read(&short).unwrap().select(true), @r#"SELECT "Old Names".id AS id, ("Old Names".a) AS a, ("Old Names"."B") AS "B" FROM public."Old Names" AS "Old Names""#);
    }

    fn complaints(now: &CatalogSnapshot, mapping: &Mapping) -> String {
        let settings = Settings::default();
        let context = Context {
            catalog: now,
            now,
            settings: &settings,
            span: Span::default(),
        };
        let found = mapping.check(&context).into_iter();
        let line = |it: Diagnostic| format!("{}: {}\n", it.code, it.message);
        found.map(line).collect()
    }

    #[test]
    fn a_key_is_unique_on_both_sides() {
        let mut target = table(&[
            "portfolio_id bigint not null",
            "Min numeric",
            "created timestamptz",
            "owner text not null",
        ]);
        let source = table(&["id bigint", "status text"]);
        let now = catalog()
            .with("portfolios", source)
            .with("lth.Strategies", target.clone());
        insta::assert_snapshot!(complaints(&now, &strategies()), @r#"
        key_not_unique: public.portfolios has no unique index on (id) over all of its rows
        key_may_be_null: public.portfolios.id may be null
        key_not_unique: lth."Strategies" has no unique index on (portfolio_id) over all of its rows
        column_not_given: lth."Strategies".owner must have a value and is given none
        "#);
        target = target.with_primary_key("pk", &["portfolio_id"]);
        target.columns.pop();
        let mut source = table(&["id bigint not null", "status text"]);
        source.indexes.insert("u".into(), index(&["id"], true));
        let now = catalog()
            .with("portfolios", source)
            .with("lth.Strategies", target);
        assert_eq!(complaints(&now, &strategies()), "");
    }

    #[test]
    fn every_text_is_asked_about_on_its_own() {
        let probes = strategies().probes();
        let text = |probe: &Probe| format!("{}?{}\n", probe.before, probe.after);
        insta::assert_snapshot!(probes.iter().map(text).collect::<String>(), @r#"
        SELECT FROM ? AS cp LEFT JOIN old AS cs ON cs.portfolio_id = cp.id LIMIT 0
        SELECT FROM ? AS cp LEFT JOIN old AS cs ON cs.portfolio_id = cp.id WHERE (cp.status <> 'draft' -- not yet
        ) LIMIT 0
        SELECT (coalesce(cs.min, 1)) FROM ? AS cp LEFT JOIN old AS cs ON cs.portfolio_id = cp.id LIMIT 0
        SELECT (now()) FROM ? AS cp LEFT JOIN old AS cs ON cs.portfolio_id = cp.id LIMIT 0
        INSERT INTO ? (portfolio_id, "Min", created) SELECT cp.id AS portfolio_id, (coalesce(cs.min, 1)) AS "Min", (now()) AS created FROM public.portfolios AS cp LEFT JOIN old AS cs ON cs.portfolio_id = cp.id LIMIT 0
        "#);
    }
}
