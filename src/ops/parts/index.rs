//! Index definitions: reading them from a plan, printing them, and what the server makes of them.

use crate::catalog::model::{Index, IndexKey, Probe, Table, TableKind};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::{Fields, Node, Value};
use crate::ops::Context;
use crate::plan::Check;
use crate::sql::{self, QualifiedName, ident, idents, literal};

use super::SAMPLE_ROWS;

/// An index as the plan file describes it.
#[derive(Debug, Clone)]
pub struct IndexSpec {
    pub table: Located<QualifiedName>,
    pub name: Option<Located<String>>,
    keys: Vec<KeySpec>,
    unique: bool,
    nulls_not_distinct: bool,
    include: Vec<Located<String>>,
    predicate: Option<Located<String>>,
    method: Option<Located<String>>,
    options: Vec<(Located<String>, Located<String>)>,
    tablespace: Option<Located<String>>,
    span: Span,
}

#[derive(Debug, Clone)]
struct KeySpec {
    text: KeyText,
    descending: Option<bool>,
    nulls_first: Option<bool>,
    /// Quoted.
    collation: Option<String>,
    /// Quoted, with its parameters.
    opclass: Option<String>,
    span: Span,
}

#[derive(Debug, Clone)]
enum KeyText {
    /// A column, or a column with `desc` or `nulls last` behind it: the catalog decides.
    Short(String),
    Column(String),
    Expression(String),
}

/// A definition that passed all questions.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// As the plan spells it: what is sent.
    pub written: Index,
    /// As the server prints it, where it was asked.
    pub index: Index,
    /// Whether it was asked.
    pub exact: bool,
}

/// Where the table's name stands in the statement, and how it is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    Concurrently,
    /// On something that nobody uses yet.
    AtOnce,
    /// On a partitioned table alone, without its partitions.
    OnlyParent,
}

/// `INDEX_MAX_KEYS` of a stock server.
const COLUMNS_MAX: usize = 32;

impl IndexSpec {
    /// Reads all keys of an index definition, `table` and `name` among them.
    pub fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let name = fields.optional_identifier("name");
        let keys = fields.list("columns").and_then(|nodes| {
            let keys: Vec<Option<KeySpec>> = nodes.iter().map(|node| KeySpec::read(fields, node)).collect();
            keys.into_iter().collect::<Option<Vec<_>>>()
        });
        let unique = fields.flag("unique", false);
        let nulls_not_distinct = fields.flag("nulls_not_distinct", false);
        let include = fields.optional_identifiers("include");
        let predicate = fields.optional_text("where");
        let method = fields.optional_identifier("method");
        let options = fields.optional_pairs("with");
        let tablespace = fields.optional_identifier("tablespace");
        let columns = keys.as_ref().map_or(0, Vec::len) + include.as_ref().map_or(0, Vec::len);
        if columns > COLUMNS_MAX {
            let message = format!("an index has at most {COLUMNS_MAX} columns, and this one {columns}");
            fields.report(Diagnostic::new("too_many_columns", message).at(fields.span()));
            return None;
        }
        Some(Self {
            table: table?,
            name,
            keys: keys?,
            unique,
            nulls_not_distinct,
            include: include.unwrap_or_default(),
            predicate,
            method,
            options: options.unwrap_or_default(),
            tablespace,
            span: fields.span(),
        })
    }

    /// A unique index on plain columns, as a constraint needs it.
    pub fn for_key(
        table: Located<QualifiedName>,
        name: Option<Located<String>>,
        columns: Vec<Located<String>>,
        include: Vec<Located<String>>,
        nulls_not_distinct: bool,
        span: Span,
    ) -> Self {
        let keys = columns.into_iter().map(|column| KeySpec {
            text: KeyText::Column(column.value),
            descending: None,
            nulls_first: None,
            collation: None,
            opclass: None,
            span: column.span,
        });
        Self {
            table,
            name,
            keys: keys.collect(),
            unique: true,
            nulls_not_distinct,
            include,
            predicate: None,
            method: None,
            options: Vec::new(),
            tablespace: None,
            span,
        }
    }

    /// The name's place in the plan, or the place of the whole entry when the name is made up.
    pub fn name_span(&self) -> Span {
        self.name.as_ref().map_or(self.span, |name| name.span)
    }

    /// The columns as PostgreSQL joins them for the names that it makes up.
    pub fn label(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        let keys = self.keys.iter().map(|key| match &key.text {
            KeyText::Short(text) => split_short(text).0.to_owned(),
            KeyText::Column(column) => column.clone(),
            KeyText::Expression(_) => "expr".to_owned(),
        });
        for part in keys.chain(self.include.iter().map(|column| column.value.clone())) {
            let numbered = (1..).map(|number| format!("{part}{number}"));
            let free = std::iter::once(part.clone())
                .chain(numbered)
                .find(|candidate| !parts.contains(candidate));
            parts.extend(free);
        }
        parts.join("_")
    }

    /// The given name, or the one that PostgreSQL would make up with this suffix.
    pub fn name_or(&self, suffix: &str) -> String {
        match &self.name {
            Some(name) => name.value.clone(),
            None => sql::derived_name(&[&self.table.value.name, &self.label()], suffix),
        }
    }

    pub fn method(&self) -> &str {
        self.method.as_ref().map_or("btree", |method| &method.value)
    }

    /// What to ask the server. Without a catalog, `created_at desc` is read as a column and its order.
    pub fn probe(&self, name: &str) -> Probe {
        self.probe_of(&self.written(None), name)
    }

    /// What creates it on a relation that nobody uses yet.
    pub fn at_once(&self) -> String {
        let name = self.name_or("idx");
        create_statement(&self.written(None), &name, &self.table.value, Placing::AtOnce)
    }

    fn probe_of(&self, written: &Index, name: &str) -> Probe {
        definition_probe(&self.table.value, name, written)
    }

    /// The definition as it stands in the plan.
    fn written(&self, table: Option<&Table>) -> Index {
        let mut options: Vec<String> = self
            .options
            .iter()
            .map(|(name, value)| format!("{}={}", name.value, value.value))
            .collect();
        options.sort();
        let mut index = Index {
            method: self.method().to_owned(),
            unique: self.unique,
            nulls_not_distinct: self.nulls_not_distinct,
            keys: self.keys.iter().map(|key| key.written(table)).collect(),
            include: self.include.iter().map(|column| column.value.clone()).collect(),
            predicate: self.predicate.as_ref().map(|predicate| predicate.value.clone()),
            options,
            tablespace: self
                .tablespace
                .as_ref()
                .map(|tablespace| tablespace.value.clone()),
            valid: true,
            replica_identity: false,
            clustered: false,
            constraint: None,
            parent: None,
            comment: None,
            expression_columns: Vec::new(),
            statistics_targets: Vec::new(),
        };
        if let Some(table) = table {
            index.expression_columns = guessed_columns(&index, table);
        }
        index
    }

    /// Asks everything about the definition itself; where the index goes is asked by the build.
    ///
    /// # Errors
    /// All complaints.
    pub fn resolve(
        &self,
        context: &Context<'_>,
        table: &Table,
        name: &str,
    ) -> Result<Resolved, Vec<Diagnostic>> {
        let mut complaints = self.column_complaints(context, table);
        complaints.extend(self.option_complaints(context));
        let written = self.written(Some(table));
        let probe = self.probe_of(&written, name);
        let mut printed = None;
        if complaints.is_empty() {
            match context.accepted(&probe, self.span) {
                Err(complaint) => complaints.push(complaint),
                Ok(outcome) => printed = outcome.and_then(|outcome| outcome.table.indexes.get(name)),
            }
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        // What belongs to the clone rather than to the definition is not taken from the answer.
        let index = printed.map(|printed| Index {
            valid: true,
            // Without the clause a temporary index goes where temporary tables go.
            tablespace: written.tablespace.as_ref().and(printed.tablespace.clone()),
            replica_identity: false,
            clustered: false,
            constraint: None,
            parent: None,
            comment: None,
            ..printed.clone()
        });
        Ok(Resolved {
            exact: index.is_some(),
            index: index.unwrap_or_else(|| Index {
                // The catalog does not name the database's own tablespace, which is nearly always this one.
                tablespace: written.tablespace.clone().filter(|name| name != "pg_default"),
                ..written.clone()
            }),
            written,
        })
    }

    fn column_complaints(&self, context: &Context<'_>, table: &Table) -> Vec<Diagnostic> {
        let mut complaints = Vec::new();
        let mut look_up =
            |column: &str, span: Span| {
                let located = Located {
                    value: column.to_owned(),
                    span,
                };
                let found = context.column(&self.table.value, table, &located);
                match found {
                    Err(complaint) if column.contains('(') => complaints.push(complaint.help(format!(
                        "write an expression as `{{expression: \"{}\"}}`",
                        column.replace('"', "\\\"")
                    ))),
                    Err(complaint) => complaints.push(complaint),
                    Ok(column)
                        if column
                            .generated
                            .as_ref()
                            .is_some_and(|generated| !generated.stored) =>
                    {
                        let message = format!("`{}` is a virtual generated column", column.name);
                        complaints.push(Diagnostic::new("virtual_column", message).at(span).help(
                            "PostgreSQL has no indexes on virtual columns; index its expression instead",
                        ));
                    }
                    Ok(_) => {}
                }
            };
        for key in &self.keys {
            if let Some(column) = key.written(Some(table)).column {
                look_up(&column, key.span);
            }
        }
        for column in &self.include {
            look_up(&column.value, column.span);
        }
        complaints
    }

    fn option_complaints(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let mut complaints = Vec::new();
        let mut complain = |code, message: String| {
            complaints.push(Diagnostic::new(code, message).at(self.span));
        };
        let method = self.method();
        if self.nulls_not_distinct && !self.unique {
            complain(
                "not_unique",
                "`nulls_not_distinct` has a meaning for unique indexes only".into(),
            );
        }
        if self.nulls_not_distinct && context.major() < 15 {
            complain(
                "server_too_old",
                format!(
                    "NULLS NOT DISTINCT needs PostgreSQL 15; the server has {}",
                    context.major()
                ),
            );
        }
        if self.unique && method != "btree" {
            complain(
                "unique_needs_btree",
                format!("an index of method {method} cannot be unique"),
            );
        }
        let ordered = |key: &KeySpec| key.descending.is_some() || key.nulls_first.is_some();
        if ["hash", "gin", "gist", "spgist", "brin"].contains(&method)
            && let Some(key) = self.keys.iter().find(|key| ordered(key))
        {
            complaints.push(
                Diagnostic::new(
                    "unordered_method",
                    format!("an index of method {method} has no order"),
                )
                .at(key.span)
                .help("leave out `order` and `nulls`"),
            );
        }
        complaints
    }
}

impl KeySpec {
    fn read<'a>(fields: &Fields<'a>, node: &'a Node) -> Option<Self> {
        if let Value::Scalar { .. } = node.value {
            return Some(Self {
                text: KeyText::Short(fields.text_of(node, "columns")?.value),
                descending: None,
                nulls_first: None,
                collation: None,
                opclass: None,
                span: node.span,
            });
        }
        let key = fields.nested(node, "an item of `columns`");
        let column = key.optional_identifier("column");
        let expression = key.optional_text("expression");
        let descending = key.choice("order", &[("asc", false), ("desc", true)]);
        let nulls_first = key.choice("nulls", &[("first", true), ("last", false)]);
        let quoted = |text: Option<Located<String>>| {
            let text = text?;
            match quoted_name(&text.value) {
                Ok(name) => Some(name),
                Err(message) => {
                    key.report(Diagnostic::new("invalid_value", message).at(text.span));
                    None
                }
            }
        };
        let collation = quoted(key.optional_text("collation"));
        let opclass = quoted(key.optional_text("opclass"));
        let text = match (column, expression) {
            (Some(column), None) => Some(KeyText::Column(column.value)),
            (None, Some(expression)) => Some(KeyText::Expression(expression.value)),
            _ => {
                key.report(
                    Diagnostic::new(
                        "column_or_expression",
                        "an item of `columns` has either `column` or `expression`",
                    )
                    .at(node.span),
                );
                None
            }
        };
        key.finish();
        Some(Self {
            text: text?,
            descending: descending.map(|order| order.value),
            nulls_first: nulls_first.map(|nulls| nulls.value),
            collation,
            opclass,
            span: node.span,
        })
    }

    fn written(&self, table: Option<&Table>) -> IndexKey {
        let mut descending = self.descending;
        let mut nulls_first = self.nulls_first;
        let (column, expression) = match &self.text {
            KeyText::Expression(expression) => (None, Some(expression.clone())),
            KeyText::Column(column) => (Some(column.clone()), None),
            KeyText::Short(text) if table.is_some_and(|table| table.column(text).is_some()) => {
                (Some(text.clone()), None)
            }
            KeyText::Short(text) => {
                let (column, order, nulls) = split_short(text);
                descending = order;
                nulls_first = nulls;
                (Some(column.to_owned()), None)
            }
        };
        let descending = descending.unwrap_or(false);
        IndexKey {
            column,
            expression,
            opclass: self.opclass.clone(),
            collation: self.collation.clone(),
            descending,
            nulls_first: nulls_first.unwrap_or(descending),
        }
    }
}

/// `created_at desc nulls last` as the column, whether it descends and whether nulls come first.
fn split_short(text: &str) -> (&str, Option<bool>, Option<bool>) {
    let without = |text: &'_ str, ending: &str| {
        let cut = text.len().checked_sub(ending.len())?;
        let matches = text
            .get(cut..)
            .is_some_and(|tail| tail.eq_ignore_ascii_case(ending));
        (matches && cut > 0).then_some(cut)
    };
    let mut rest = text.trim_end();
    let mut nulls_first = None;
    for (ending, first) in [(" nulls first", true), (" nulls last", false)] {
        if let Some(cut) = without(rest, ending) {
            nulls_first = Some(first);
            rest = rest[..cut].trim_end();
        }
    }
    let mut descending = None;
    for (ending, down) in [(" asc", false), (" desc", true)] {
        if descending.is_none()
            && let Some(cut) = without(rest, ending)
        {
            descending = Some(down);
            rest = rest[..cut].trim_end();
        }
    }
    (rest, descending, nulls_first)
}

/// A collation or operator class with its schema and parameters, quoted.
fn quoted_name(text: &str) -> Result<String, String> {
    let (name, parameters) = match text.find('(') {
        Some(start) if !text.starts_with('"') => (text[..start].trim_end(), &text[start..]),
        _ => (text, ""),
    };
    let name = QualifiedName::parse(name, "")?;
    let quoted = if name.schema.is_empty() {
        ident(&name.name)
    } else {
        name.to_string()
    };
    Ok(format!("{quoted}{parameters}"))
}

/// Columns that stand as words in the expressions and the predicate.
fn guessed_columns(index: &Index, table: &Table) -> Vec<String> {
    let texts: Vec<&str> = index
        .keys
        .iter()
        .filter_map(|key| key.expression.as_deref())
        .chain(index.predicate.as_deref())
        .collect();
    let word = |text: &&str, name: &str| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|part| part == name)
            || text.contains(&ident(name)) && ident(name).starts_with('"')
    };
    table
        .columns
        .iter()
        .filter(|column| texts.iter().any(|text| word(text, &column.name)))
        .map(|column| column.name.clone())
        .collect()
}

fn key_sql(key: &IndexKey) -> String {
    let mut text = match (&key.column, &key.expression) {
        (Some(column), _) => ident(column),
        (None, expression) => format!("({})", expression.as_deref().unwrap_or_default()),
    };
    if let Some(collation) = &key.collation {
        text += &format!(" COLLATE {collation}");
    }
    if let Some(opclass) = &key.opclass {
        text += &format!(" {opclass}");
    }
    if key.descending {
        text += " DESC";
    }
    match (key.descending, key.nulls_first) {
        (true, false) => text += " NULLS LAST",
        (false, true) => text += " NULLS FIRST",
        _ => {}
    }
    text
}

/// `WITH (…)`, with a space in front, if there are any.
pub fn storage_parameters(index: &Index) -> String {
    if index.options.is_empty() {
        return String::new();
    }
    let options = index.options.iter().map(|option| match option.split_once('=') {
        Some((name, value)) => format!("{} = {}", ident(name), literal(value)),
        None => ident(option),
    });
    format!(" WITH ({})", options.collect::<Vec<_>>().join(", "))
}

/// Everything after the table's name.
fn body(index: &Index) -> String {
    let keys = index.keys.iter().map(key_sql).collect::<Vec<_>>().join(", ");
    let mut text = format!(" USING {} ({keys})", ident(&index.method));
    if !index.include.is_empty() {
        text += &format!(" INCLUDE ({})", idents(&index.include));
    }
    if index.nulls_not_distinct {
        text += " NULLS NOT DISTINCT";
    }
    text += &storage_parameters(index);
    if let Some(tablespace) = &index.tablespace {
        text += &format!(" TABLESPACE {}", ident(tablespace));
    }
    if let Some(predicate) = &index.predicate {
        text += &format!(" WHERE {predicate}");
    }
    text
}

/// Asks the server for its spelling of a definition.
pub fn definition_probe(table: &QualifiedName, name: &str, index: &Index) -> Probe {
    let unique = if index.unique { "UNIQUE " } else { "" };
    Probe {
        table: table.clone(),
        before: format!("CREATE {unique}INDEX {} ON ", ident(name)),
        after: body(index),
    }
}

/// The statement that creates the index.
pub fn create_statement(index: &Index, name: &str, table: &QualifiedName, placing: Placing) -> String {
    let unique = if index.unique { "UNIQUE " } else { "" };
    let (concurrently, only) = match placing {
        Placing::Concurrently => ("CONCURRENTLY ", ""),
        Placing::AtOnce => ("", ""),
        Placing::OnlyParent => ("", "ONLY "),
    };
    format!(
        "CREATE {unique}INDEX {concurrently}{} ON {only}{table}{}",
        ident(name),
        body(index)
    )
}

/// Lists the keys that stand in more than one row, as the unique index would count them.
pub fn duplicates(table_name: &QualifiedName, table: &Table, index: &Index) -> Check {
    let keys: Vec<String> = index
        .keys
        .iter()
        .map(|key| {
            let plain = IndexKey {
                opclass: None,
                descending: false,
                nulls_first: false,
                ..key.clone()
            };
            key_sql(&plain)
        })
        .collect();
    let never_null = |key: &IndexKey| {
        let column = key.column.as_deref().and_then(|column| table.column(column));
        column.is_some_and(|column| column.not_null)
    };
    let mut conditions: Vec<String> = index
        .predicate
        .iter()
        .map(|predicate| format!("({predicate})"))
        .collect();
    if !index.nulls_not_distinct {
        let nullable = index.keys.iter().zip(&keys).filter(|(key, _)| !never_null(key));
        conditions.extend(nullable.map(|(_, text)| format!("{text} IS NOT NULL")));
    }
    let condition = if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    };
    // An index of an inheritance parent does not cover its children.
    let only = if table.kind == TableKind::Table && !table.children.is_empty() {
        "ONLY "
    } else {
        ""
    };
    let numbers: Vec<String> = (1..=keys.len()).map(|number| number.to_string()).collect();
    Check {
        name: format!("keys that stand in more than one row of {table_name}"),
        query: format!(
            "SELECT {}, count(*) AS rows FROM {only}{table_name}{condition} GROUP BY {} HAVING count(*) > 1 \
             ORDER BY count(*) DESC LIMIT {SAMPLE_ROWS}",
            keys.join(", "),
            numbers.join(", "),
        ),
        help: "remove or change the rows that share a key, then run the same command again".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_keys_split_from_the_end() {
        assert_eq!(
            split_short("created_at desc nulls last"),
            ("created_at", Some(true), Some(false))
        );
        assert_eq!(split_short("Two Words ASC"), ("Two Words", Some(false), None));
        assert_eq!(split_short("naïve"), ("naïve", None, None));
        assert_eq!(split_short("desc"), ("desc", None, None));
    }

    #[test]
    fn names_of_collations_and_operator_classes_are_quoted() {
        assert_eq!(quoted_name("C").unwrap(), "\"C\"");
        assert_eq!(quoted_name("public.gin_trgm_ops").unwrap(), "public.gin_trgm_ops");
        assert_eq!(
            quoted_name("gist_trgm_ops(siglen=32)").unwrap(),
            "gist_trgm_ops(siglen=32)"
        );
        assert_eq!(quoted_name("de-DE").unwrap(), "\"de-DE\"");
    }
}
