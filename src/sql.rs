//! Identifiers, literals and qualified names: the only code that quotes.
//!
//! Everything that a user may have typed reaches SQL text through [`ident`], [`literal`] or the `Display` of
//! [`QualifiedName`], so that mixed case, spaces, quotes, keywords and unicode work everywhere.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// Longest identifier in bytes that a stock server keeps (`NAMEDATALEN - 1`); it truncates longer ones.
pub const IDENTIFIER_BYTES_MAX: usize = 63;

/// Every key word that `quote_ident` quotes: those that are not `UNRESERVED` in some supported release.
const KEYWORDS: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "json",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_object",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "merge_action",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// The identifier as SQL text, quoted where the server would need it.
///
/// ```
/// assert_eq!(pgmorph::sql::ident("orders"), "orders");
/// assert_eq!(pgmorph::sql::ident("we\"ird Name"), "\"we\"\"ird Name\"");
/// ```
pub fn ident(name: &str) -> String {
    let mut bytes = name.bytes();
    let simple = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && KEYWORDS.binary_search(&name).is_err();
    if simple {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// A comma-separated list of quoted identifiers.
pub fn idents<S: AsRef<str>>(names: &[S]) -> String {
    names
        .iter()
        .map(|name| ident(name.as_ref()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The text as a string literal, safe whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// Joins the parts with `_` into a name of at most 63 bytes, shortening the longest part first, as the server
/// does for the names that it makes up.
pub fn derived_name(parts: &[&str], suffix: &str) -> String {
    let mut bytes: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let overhead = suffix.len() + parts.len();
    while overhead + bytes.iter().sum::<usize>() > IDENTIFIER_BYTES_MAX {
        match bytes.iter_mut().max() {
            Some(longest) if *longest > 0 => *longest -= 1,
            _ => break,
        }
    }
    let cut = parts.iter().zip(bytes);
    let mut cut: Vec<&str> = cut
        .map(|(part, bytes)| &part[..part.floor_char_boundary(bytes)])
        .collect();
    cut.push(suffix);
    cut.join("_")
}

/// With which the names begin of what we put beside the application's. Sorts after every name in ASCII, so that our trigger
/// sees what the others made of the row.
pub const OWN_PREFIX: &str = "~pgmorph";

/// As [`derived_name`] for names of ours, which must differ where the parts do: what is cut off leaves a digest.
pub fn own_name(parts: &[&str], suffix: &str) -> String {
    let bytes: usize = parts.iter().map(|part| part.len() + 1).sum();
    if bytes + suffix.len() <= IDENTIFIER_BYTES_MAX {
        return derived_name(parts, suffix);
    }
    let digest = Sha256::digest(parts.join("\0"));
    let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    derived_name(&[parts, &[&digest]].concat(), suffix)
}

/// A schema and a name in it. `Display` quotes; [`FromStr`] reads what `Display` wrote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QualifiedName {
    pub schema: String,
    pub name: String,
}

impl QualifiedName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            schema: schema.into(),
            name: name.into(),
        }
    }

    /// Another name in the same schema: indexes, for one, always live beside their table.
    pub fn sibling(&self, name: impl Into<String>) -> Self {
        Self::new(self.schema.clone(), name)
    }

    /// Reads a name as a plan file spells it: the text is taken as it stands, without folding to lower case; a
    /// dot separates the schema, and a part that contains dots or quotes stands in double quotes as in SQL.
    ///
    /// # Errors
    /// The reason in words: an empty part, more than two parts, an unclosed quote, or a part over 63 bytes.
    pub fn parse(text: &str, default_schema: &str) -> Result<Self, String> {
        let mut parts = split_dotted(text)?;
        for part in &parts {
            check_identifier(part)?;
        }
        match (parts.pop(), parts.pop(), parts.pop()) {
            (Some(name), None, None) => Ok(Self::new(default_schema, name)),
            (Some(name), Some(schema), None) => Ok(Self::new(schema, name)),
            _ => Err(format!(
                "{text:?} has more than a schema and a name; put a part with dots in double quotes"
            )),
        }
    }
}

/// Reads a column as a plan file spells it: the table as [`QualifiedName::parse`] reads it, a dot, the column.
///
/// # Errors
/// The reason in words.
pub fn parse_column(text: &str, default_schema: &str) -> Result<(QualifiedName, String), String> {
    let mut parts = split_dotted(text)?;
    for part in &parts {
        check_identifier(part)?;
    }
    match (parts.pop(), parts.pop(), parts.pop(), parts.pop()) {
        (Some(column), Some(table), None, None) => Ok((QualifiedName::new(default_schema, table), column)),
        (Some(column), Some(table), Some(schema), None) => Ok((QualifiedName::new(schema, table), column)),
        _ => Err(format!(
            "{text:?} is not a table and its column, such as orders.customer_id; a schema may stand before them"
        )),
    }
}

/// As [`parse_column`] reads it.
pub fn spell_column(table: &QualifiedName, column: &str, default_schema: &str) -> String {
    let part = |name: &str| {
        if name.contains('.') || name.starts_with('"') {
            format!("\"{}\"", name.replace('"', "\"\""))
        } else {
            name.to_owned()
        }
    };
    let schema = (table.schema != default_schema).then(|| part(&table.schema));
    let parts = schema.into_iter().chain([part(&table.name), part(column)]);
    parts.collect::<Vec<_>>().join(".")
}

/// The tables of a `LOCK TABLE a, ONLY b IN SHARE MODE` of ours, each as it is written there, and the mode.
pub fn lock_table(statement: &str) -> Option<(Vec<&str>, &str)> {
    let list = statement.strip_prefix("LOCK TABLE ")?.strip_suffix(" MODE")?;
    let (list, mode) = list.rsplit_once(" IN ")?;
    let mut tables = Vec::new();
    let (mut quoted, mut from) = (false, 0);
    for (at, character) in list.char_indices() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                tables.push(list[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    tables.push(list[from..].trim());
    (!quoted).then_some((tables, mode))
}

/// Whether the text can be an identifier as it stands.
///
/// # Errors
/// The reason in words: empty, a NUL byte, or longer than 63 bytes (the server would cut it off silently).
pub fn check_identifier(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name may not be empty".into());
    }
    if name.contains('\0') {
        return Err("a name may not contain a NUL character".into());
    }
    if name.len() > IDENTIFIER_BYTES_MAX {
        // All of it might be megabytes.
        let shown = &name[..name.floor_char_boundary(2 * IDENTIFIER_BYTES_MAX)];
        let more = if shown.len() < name.len() { "…" } else { "" };
        return Err(format!(
            "{shown:?}{more} has {} bytes; PostgreSQL keeps {IDENTIFIER_BYTES_MAX} and would silently cut it off",
            name.len()
        ));
    }
    Ok(())
}

fn split_dotted(text: &str) -> Result<Vec<String>, String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut chars = text.chars().peekable();
    loop {
        match chars.next() {
            Some('"') if part.is_empty() => loop {
                match chars.next() {
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        part.push('"');
                    }
                    Some('"') => break,
                    Some(c) => part.push(c),
                    None => return Err(format!("{text:?} opens a double quote and does not close it")),
                }
            },
            Some('.') => parts.push(std::mem::take(&mut part)),
            Some(c) => part.push(c),
            None => {
                parts.push(part);
                return Ok(parts);
            }
        }
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", ident(&self.schema), ident(&self.name))
    }
}

impl FromStr for QualifiedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = split_dotted(text)?;
        match <[String; 2]>::try_from(parts) {
            Ok([schema, name]) => Ok(Self { schema, name }),
            Err(_) => Err(format!("{text:?} is not a schema-qualified name")),
        }
    }
}

impl Serialize for QualifiedName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QualifiedName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_sorted_for_the_search() {
        assert!(KEYWORDS.is_sorted());
    }

    #[test]
    fn quotes_only_where_needed() {
        for (name, quoted) in [
            ("orders", "orders"),
            ("_x1", "_x1"),
            ("Orders", "\"Orders\""),
            ("order", "\"order\""),
            ("two words", "\"two words\""),
            ("a\"b", "\"a\"\"b\""),
            ("1st", "\"1st\""),
            ("naïve", "\"naïve\""),
            ("", "\"\""),
        ] {
            assert_eq!(ident(name), quoted);
        }
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
    }

    #[test]
    fn names_round_trip() {
        for name in [
            ("public", "t"),
            ("My Schema", "a.b"),
            ("s\"q", "select"),
            ("x", "naïve.\"é"),
        ] {
            let name = QualifiedName::new(name.0, name.1);
            assert_eq!(name.to_string().parse::<QualifiedName>().unwrap(), name);
        }
    }

    #[test]
    fn plan_names_are_not_folded() {
        assert_eq!(
            QualifiedName::parse("Orders", "public").unwrap(),
            QualifiedName::new("public", "Orders")
        );
        assert_eq!(
            QualifiedName::parse("s.\"a.b\"", "x").unwrap(),
            QualifiedName::new("s", "a.b")
        );
        assert!(
            QualifiedName::parse("a.b.c", "x")
                .unwrap_err()
                .contains("more than")
        );
        assert!(QualifiedName::parse("a..c", "x").is_err());
        assert!(
            QualifiedName::parse(&"x".repeat(64), "x")
                .unwrap_err()
                .contains("64 bytes")
        );
    }

    #[test]
    fn columns_of_plans_round_trip() {
        for (text, schema, table, column) in [
            ("orders.customer_id", "public", "orders", "customer_id"),
            ("Odd Schema.T.Col", "Odd Schema", "T", "Col"),
            ("\"a.b\".\"\"\"c\"", "public", "a.b", "\"c"),
        ] {
            let expected = (QualifiedName::new(schema, table), column.to_owned());
            assert_eq!(parse_column(text, "public"), Ok(expected));
            assert_eq!(
                spell_column(&QualifiedName::new(schema, table), column, "public"),
                text
            );
        }
        for text in ["customer_id", "a.b.c.d", "orders.", "\"orders.id"] {
            assert!(parse_column(text, "public").is_err(), "{text}");
        }
    }

    #[test]
    fn own_names_differ_where_the_parts_do() {
        let long = ["é".repeat(31) + "a", "é".repeat(31) + "b", "é".repeat(30) + "ab"];
        let mut names: Vec<String> = long.iter().map(|part| own_name(&[part], "pgmorph_new")).collect();
        assert!(
            names.iter().all(|name| name.len() <= IDENTIFIER_BYTES_MAX),
            "{names:?}"
        );
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(
            own_name(&["orders", "id"], "pgmorph_new"),
            "orders_id_pgmorph_new"
        );
    }

    #[test]
    fn derived_names_fit() {
        let long = "é".repeat(40);
        let name = derived_name(&[&long, "column"], "check");
        assert!(
            name.len() <= IDENTIFIER_BYTES_MAX && name.ends_with("_column_check"),
            "{name}"
        );
    }
}
