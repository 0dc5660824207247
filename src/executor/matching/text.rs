//! The questions of a comparison as SQL. Pure.
//!
//! Rows are compared by the text of their values, each side's brought to the same type first. Edges of ranges are
//! compared with the key as it is, that indexes can be used.

use crate::plan::{Match, MatchColumn};
use crate::sql::{ident, literal};

/// The values of a key, as text.
pub(super) type Edge = Vec<String>;

/// Rows whose key is beyond the first and up to the second; without one it is open on that side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) low: Option<Edge>,
    pub(super) high: Option<Edge>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn raw(column: &MatchColumn) -> String {
    let name = format!("s.{}", ident(&column.name));
    match &column.cast {
        Some(cast) => format!("{name}::{cast}"),
        None => name,
    }
}

/// In a collation that every side has.
fn text(column: &MatchColumn) -> String {
    format!("({})::pg_catalog.text COLLATE \"C\"", raw(column))
}

/// What is compared besides the key.
fn values(it: &Match) -> Vec<String> {
    match &it.columns {
        Some(columns) => columns.iter().map(text).collect(),
        None => vec!["pg_catalog.to_jsonb(s)::pg_catalog.text COLLATE \"C\"".into()],
    }
}

/// The names of the columns in which two rows differ, as a list.
fn differing(it: &Match) -> String {
    let Some(columns) = &it.columns else {
        let each = |side| format!("pg_catalog.jsonb_each_text({side}.c0::pg_catalog.jsonb)");
        return format!(
            "(SELECT pg_catalog.string_agg(coalesce(a.key, b.key), ', ') FROM {} AS a FULL JOIN {} AS b \
             ON a.key = b.key WHERE a.value IS DISTINCT FROM b.value)",
            each('l'),
            each('r')
        );
    };
    let names = list(columns.iter().enumerate().map(|(number, column)| {
        let name = literal(&column.name);
        format!("CASE WHEN l.c{number} IS DISTINCT FROM r.c{number} THEN {name} END")
    }));
    format!(
        "pg_catalog.array_to_string(pg_catalog.array_remove(ARRAY[{names}]::pg_catalog.text[], NULL), ', ')"
    )
}

fn side(it: &Match, side: Side) -> &str {
    match side {
        Side::Left => &it.left,
        Side::Right => &it.right,
    }
}

fn keys(it: &Match) -> String {
    list(it.key.iter().map(raw))
}

impl Span {
    fn condition(&self, it: &Match) -> String {
        let keys = keys(it);
        let value = |(column, value): (&MatchColumn, &String)| match &column.edge {
            Some(edge) => format!("{}::{edge}", literal(value)),
            None => literal(value),
        };
        let edge = |edge: &Edge| list(it.key.iter().zip(edge).map(value));
        let low = self.low.iter().map(|low| format!("({keys}) > ({})", edge(low)));
        let high = self
            .high
            .iter()
            .map(|high| format!("({keys}) <= ({})", edge(high)));
        let both: Vec<String> = low.chain(high).collect();
        match both.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", both.join(" AND ")),
        }
    }
}

fn rows_of(it: &Match, of: Side, list: &str, span: &Span) -> String {
    format!(
        "SELECT {list} FROM ({}\n) AS s{}",
        side(it, of),
        span.condition(it)
    )
}

/// The key of the row with this number, from 0, in the order of the key.
pub(super) fn edge(it: &Match, of: Side, span: &Span, number: u64) -> String {
    let keys = keys(it);
    let rows = rows_of(it, of, &keys, span);
    format!("{rows} ORDER BY {keys} OFFSET {number} LIMIT 1")
}

/// Rows of both sides and the sums of their hashes, in one picture: whatever changes both sides at once is no difference.
pub(super) fn sums(it: &Match, span: &Span) -> String {
    let values = list(it.key.iter().map(text).chain(values(it)));
    let sum = format!(
        "pg_catalog.count(*) AS n, \
         coalesce(pg_catalog.sum(pg_catalog.hashtextextended(ROW({values})::pg_catalog.text COLLATE \"C\", 0)), 0) AS h"
    );
    let (left, right) = (
        rows_of(it, Side::Left, &sum, span),
        rows_of(it, Side::Right, &sum, span),
    );
    format!("SELECT l.n, l.h, r.n, r.h FROM ({left}) AS l, ({right}) AS r")
}

/// Rows of either side whose key is not known in full: no range has them.
pub(super) fn without_key(it: &Match) -> String {
    let unknown = it
        .key
        .iter()
        .map(|column| format!("s.{} IS NULL", ident(&column.name)));
    let unknown = unknown.collect::<Vec<_>>().join(" OR ");
    let count = |of| {
        format!(
            "(SELECT pg_catalog.count(*) FROM ({}\n) AS s WHERE {unknown})",
            side(it, of)
        )
    };
    format!("SELECT {}, {}", count(Side::Left), count(Side::Right))
}

/// Keys and kinds of the rows that are not alike, at most so many, and the columns in which they differ.
pub(super) fn differences(it: &Match, span: &Span, limit: usize) -> String {
    let numbered = |letter: char, values: Vec<String>| {
        let values = values.into_iter().enumerate();
        values.map(move |(number, value)| format!("{value} AS {letter}{number}"))
    };
    let key = |of: fn(&MatchColumn) -> String| it.key.iter().map(of).collect::<Vec<_>>();
    let compared = values(it);
    let differ = (0..compared.len()).map(|number| format!(" OR l.c{number} IS DISTINCT FROM r.c{number}"));
    let differ: String = differ.collect();
    let rows = format!(
        "pg_catalog.count(*) OVER (PARTITION BY {}) AS n",
        key(text).join(", ")
    );
    let values = numbered('k', key(raw))
        .chain(numbered('t', key(text)))
        .chain(numbered('c', compared));
    let values = list(values.chain([rows]));
    let (left, right) = (
        rows_of(it, Side::Left, &values, span),
        rows_of(it, Side::Right, &values, span),
    );
    let shown = list(it.key.iter().enumerate().map(|(number, column)| {
        let value = |side| format!("pg_catalog.to_jsonb({side}.k{number})");
        format!(
            "{}, coalesce({}, {})",
            literal(&column.name),
            value('l'),
            value('r')
        )
    }));
    let same_key = (0..it.key.len()).map(|number| format!("l.t{number} = r.t{number}"));
    let same_key = same_key.collect::<Vec<_>>().join(" AND ");
    format!(
        "WITH l AS ({left}), r AS ({right}) \
         SELECT pg_catalog.jsonb_build_object({shown})::pg_catalog.text, \
         CASE WHEN r.n IS NULL THEN 'left' WHEN l.n IS NULL THEN 'right' WHEN l.n > 1 OR r.n > 1 THEN 'twice' \
         ELSE 'differs' END, \
         {} FROM l FULL JOIN r ON {same_key} \
         WHERE l.n IS NULL OR r.n IS NULL OR l.n > 1 OR r.n > 1{differ} LIMIT {limit}",
        differing(it)
    )
}

/// How many rows the planner expects on this side.
pub(super) fn estimate(it: &Match, of: Side) -> String {
    format!("EXPLAIN (FORMAT JSON) SELECT FROM ({}\n) AS s", side(it, of))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, cast: Option<&str>) -> MatchColumn {
        MatchColumn {
            name: name.into(),
            cast: cast.map(str::to_owned),
            edge: None,
        }
    }

    #[test]
    fn an_edge_may_be_beyond_what_a_column_has_room_for() {
        let wide = MatchColumn {
            edge: Some("bigint".into()),
            ..column("id", None)
        };
        let it = Match {
            name: String::new(),
            left: String::new(),
            right: String::new(),
            sides: (String::new(), String::new()),
            key: vec![wide, column("No", None)],
            columns: None,
            help: String::new(),
        };
        let edge = |id: &str| Some(vec![id.into(), "it's".into()]);
        let span = Span {
            low: edge("1"),
            high: edge("3000000000"),
        };
        insta::assert_snapshot!(span.condition(&it), @r#" WHERE (s.id, s."No") > ('1'::bigint, 'it''s') AND (s.id, s."No") <= ('3000000000'::bigint, 'it''s')"#);
    }

    #[test]
    fn one_question_asks_both_sides() {
        let it = Match {
            name: "orders".into(),
            left: "SELECT id, \"No\" FROM old".into(),
            right: "SELECT id, \"No\" FROM new".into(),
            sides: ("old".into(), "new".into()),
            key: vec![column("id", None), column("No", None)],
            columns: Some(vec![column("total", Some("numeric(10,2)"))]),
            help: String::new(),
        };
        let span = Span {
            low: Some(vec!["1".into(), "it's".into()]),
            high: None,
        };
        insta::assert_snapshot!(sums(&it, &span), @r#"
        SELECT l.n, l.h, r.n, r.h FROM (SELECT pg_catalog.count(*) AS n, coalesce(pg_catalog.sum(pg_catalog.hashtextextended(ROW((s.id)::pg_catalog.text COLLATE "C", (s."No")::pg_catalog.text COLLATE "C", (s.total::numeric(10,2))::pg_catalog.text COLLATE "C")::pg_catalog.text COLLATE "C", 0)), 0) AS h FROM (SELECT id, "No" FROM old
        ) AS s WHERE (s.id, s."No") > ('1', 'it''s')) AS l, (SELECT pg_catalog.count(*) AS n, coalesce(pg_catalog.sum(pg_catalog.hashtextextended(ROW((s.id)::pg_catalog.text COLLATE "C", (s."No")::pg_catalog.text COLLATE "C", (s.total::numeric(10,2))::pg_catalog.text COLLATE "C")::pg_catalog.text COLLATE "C", 0)), 0) AS h FROM (SELECT id, "No" FROM new
        ) AS s WHERE (s.id, s."No") > ('1', 'it''s')) AS r
        "#);
        insta::assert_snapshot!(edge(&it, Side::Left, &Span::default(), 99), @r#"
        SELECT s.id, s."No" FROM (SELECT id, "No" FROM old
        ) AS s ORDER BY s.id, s."No" OFFSET 99 LIMIT 1
        "#);
        insta::assert_snapshot!(differences(&it, &span, 7), @r#"
        WITH l AS (SELECT s.id AS k0, s."No" AS k1, (s.id)::pg_catalog.text COLLATE "C" AS t0, (s."No")::pg_catalog.text COLLATE "C" AS t1, (s.total::numeric(10,2))::pg_catalog.text COLLATE "C" AS c0, pg_catalog.count(*) OVER (PARTITION BY (s.id)::pg_catalog.text COLLATE "C", (s."No")::pg_catalog.text COLLATE "C") AS n FROM (SELECT id, "No" FROM old
        ) AS s WHERE (s.id, s."No") > ('1', 'it''s')), r AS (SELECT s.id AS k0, s."No" AS k1, (s.id)::pg_catalog.text COLLATE "C" AS t0, (s."No")::pg_catalog.text COLLATE "C" AS t1, (s.total::numeric(10,2))::pg_catalog.text COLLATE "C" AS c0, pg_catalog.count(*) OVER (PARTITION BY (s.id)::pg_catalog.text COLLATE "C", (s."No")::pg_catalog.text COLLATE "C") AS n FROM (SELECT id, "No" FROM new
        ) AS s WHERE (s.id, s."No") > ('1', 'it''s')) SELECT pg_catalog.jsonb_build_object('id', coalesce(pg_catalog.to_jsonb(l.k0), pg_catalog.to_jsonb(r.k0)), 'No', coalesce(pg_catalog.to_jsonb(l.k1), pg_catalog.to_jsonb(r.k1)))::pg_catalog.text, CASE WHEN r.n IS NULL THEN 'left' WHEN l.n IS NULL THEN 'right' WHEN l.n > 1 OR r.n > 1 THEN 'twice' ELSE 'differs' END, pg_catalog.array_to_string(pg_catalog.array_remove(ARRAY[CASE WHEN l.c0 IS DISTINCT FROM r.c0 THEN 'total' END]::pg_catalog.text[], NULL), ', ') FROM l FULL JOIN r ON l.t0 = r.t0 AND l.t1 = r.t1 WHERE l.n IS NULL OR r.n IS NULL OR l.n > 1 OR r.n > 1 OR l.c0 IS DISTINCT FROM r.c0 LIMIT 7
        "#);
        let whole = Match { columns: None, ..it };
        insta::assert_snapshot!(differences(&whole, &Span::default(), 7), @r#"
        WITH l AS (SELECT s.id AS k0, s."No" AS k1, (s.id)::pg_catalog.text COLLATE "C" AS t0, (s."No")::pg_catalog.text COLLATE "C" AS t1, pg_catalog.to_jsonb(s)::pg_catalog.text COLLATE "C" AS c0, pg_catalog.count(*) OVER (PARTITION BY (s.id)::pg_catalog.text COLLATE "C", (s."No")::pg_catalog.text COLLATE "C") AS n FROM (SELECT id, "No" FROM old
        ) AS s), r AS (SELECT s.id AS k0, s."No" AS k1, (s.id)::pg_catalog.text COLLATE "C" AS t0, (s."No")::pg_catalog.text COLLATE "C" AS t1, pg_catalog.to_jsonb(s)::pg_catalog.text COLLATE "C" AS c0, pg_catalog.count(*) OVER (PARTITION BY (s.id)::pg_catalog.text COLLATE "C", (s."No")::pg_catalog.text COLLATE "C") AS n FROM (SELECT id, "No" FROM new
        ) AS s) SELECT pg_catalog.jsonb_build_object('id', coalesce(pg_catalog.to_jsonb(l.k0), pg_catalog.to_jsonb(r.k0)), 'No', coalesce(pg_catalog.to_jsonb(l.k1), pg_catalog.to_jsonb(r.k1)))::pg_catalog.text, CASE WHEN r.n IS NULL THEN 'left' WHEN l.n IS NULL THEN 'right' WHEN l.n > 1 OR r.n > 1 THEN 'twice' ELSE 'differs' END, (SELECT pg_catalog.string_agg(coalesce(a.key, b.key), ', ') FROM pg_catalog.jsonb_each_text(l.c0::pg_catalog.jsonb) AS a FULL JOIN pg_catalog.jsonb_each_text(r.c0::pg_catalog.jsonb) AS b ON a.key = b.key WHERE a.value IS DISTINCT FROM b.value) FROM l FULL JOIN r ON l.t0 = r.t0 AND l.t1 = r.t1 WHERE l.n IS NULL OR r.n IS NULL OR l.n > 1 OR r.n > 1 OR l.c0 IS DISTINCT FROM r.c0 LIMIT 7
        "#);
    }
}
