//! Foreign keys: which rows are missing that others refer to, and how they are asked for.

use super::columns_of;
use crate::sql::{QualifiedName, ident, literal};
use tokio_postgres::{Client, Error};

/// Those of partitions are known by the one of their root, on either side. Those that nobody enforces bind nobody.
const KEYS: &str = "SELECT con.conrelid, cn.nspname, c.relname, c.relkind = 'p', \
      coalesce(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, c.oid), \
      con.confrelid, pn.nspname, p.relname, p.relkind = 'p', \
      coalesce(pg_catalog.pg_partition_root(p.oid)::pg_catalog.oid, p.oid), \
      con.convalidated, coalesce((pg_catalog.to_jsonb(con) ->> 'conperiod')::bool, false), con.oid \
     FROM pg_catalog.pg_constraint AS con \
     JOIN pg_catalog.pg_class AS c ON c.oid = con.conrelid JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace \
     JOIN pg_catalog.pg_class AS p ON p.oid = con.confrelid JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace \
     WHERE con.contype = 'f' AND con.conparentid = 0 AND c.relkind IN ('r', 'p') AND cn.nspname <> 'pgmorph' \
      AND coalesce((pg_catalog.to_jsonb(con) ->> 'conenforced')::bool, true) ORDER BY con.oid";

/// As the server itself compares: by the operator of the key, under the collation of the column that is referred to.
const PAIRS: &str = "SELECT ca.attname, pa.attname, pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname), \
      pg_catalog.format_type(ca.atttypid, ca.atttypmod), \
      CASE WHEN l.oid <> ca.attcollation THEN pg_catalog.format(' COLLATE %I.%I', ln.nspname, l.collname) ELSE '' END \
     FROM pg_catalog.pg_constraint AS con \
     CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(con.conkey), pg_catalog.unnest(con.confkey), \
      pg_catalog.unnest(con.conpfeqop)) WITH ORDINALITY AS k (child, parent, operator, n) \
     JOIN pg_catalog.pg_attribute AS ca ON ca.attrelid = con.conrelid AND ca.attnum = k.child \
     JOIN pg_catalog.pg_attribute AS pa ON pa.attrelid = con.confrelid AND pa.attnum = k.parent \
     JOIN pg_catalog.pg_operator AS o ON o.oid = k.operator JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace \
     LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = pa.attcollation \
     LEFT JOIN pg_catalog.pg_namespace AS ln ON ln.oid = l.collnamespace WHERE con.oid = $1 ORDER BY k.n";

/// A table of a key.
#[derive(Debug, Clone)]
pub struct Side {
    pub oid: u32,
    pub name: QualifiedName,
    partitioned: bool,
    /// The root of its partitions, or itself.
    pub family: u32,
}

impl Side {
    /// A key holds for all partitions, and for no table that inherits.
    fn from(&self) -> String {
        let only = if self.partitioned { "" } else { "ONLY " };
        format!("{only}{}", self.name)
    }
}

/// A column that refers to another.
#[derive(Debug, Clone)]
struct Pair {
    child: String,
    parent: String,
    operator: String,
    /// Of the child.
    data_type: String,
    collation: String,
}

impl Pair {
    fn holds(&self, value: &str) -> String {
        let Self {
            parent,
            operator,
            collation,
            ..
        } = self;
        format!("p.{} {operator} {value}{collation}", ident(parent))
    }
}

#[derive(Debug, Clone)]
pub struct Key {
    pub child: Side,
    pub parent: Side,
    columns: Vec<Pair>,
    pub validated: bool,
    /// Its last column is a range that the ranges of several rows together must cover.
    pub period: bool,
}

pub async fn read(here: &Client) -> Result<Vec<Key>, Error> {
    let mut keys = Vec::new();
    for row in here.query(KEYS, &[]).await? {
        let side = |at: usize| Side {
            oid: row.get(at),
            name: QualifiedName::new(row.get::<_, String>(at + 1), row.get::<_, String>(at + 2)),
            partitioned: row.get(at + 3),
            family: row.get(at + 4),
        };
        let pairs = here.query(PAIRS, &[&row.get::<_, u32>(12)]).await?;
        let pair = |row: &tokio_postgres::Row| Pair {
            child: row.get(0),
            parent: row.get(1),
            operator: row.get(2),
            data_type: row.get(3),
            collation: row.get(4),
        };
        keys.push(Key {
            child: side(0),
            parent: side(5),
            columns: pairs.iter().map(pair).collect(),
            validated: row.get(10),
            period: row.get(11),
        });
    }
    Ok(keys)
}

impl Key {
    /// Of a row `c`: it refers to something. Where one column is NULL it does not.
    fn refers(&self) -> String {
        let columns = self.columns.iter();
        let columns: Vec<String> = columns
            .map(|pair| format!("c.{} IS NOT NULL", ident(&pair.child)))
            .collect();
        columns.join(" AND ")
    }

    /// Of a row `c`: what it refers to is not there.
    fn lacks(&self) -> String {
        let (refers, from) = (self.refers(), self.parent.from());
        let holds = |pair: &Pair| pair.holds(&format!("c.{}", ident(&pair.child)));
        let last = self.columns.last().filter(|_| self.period);
        let equal = &self.columns[..self.columns.len() - usize::from(last.is_some())];
        let equal: Vec<String> = equal.iter().map(holds).chain(["true".to_owned()]).collect();
        let equal = equal.join(" AND ");
        match last {
            Some(range) => format!(
                "{refers} AND NOT coalesce((SELECT pg_catalog.range_agg(p.{}) OPERATOR(pg_catalog.@>) c.{} \
                 FROM {from} AS p WHERE {equal}), false)",
                ident(&range.parent),
                ident(&range.child)
            ),
            None => format!("{refers} AND NOT EXISTS (SELECT FROM {from} AS p WHERE {equal})"),
        }
    }

    /// What is referred to and not there.
    pub async fn missing_values(&self, here: &Client) -> Result<Vec<Vec<String>>, Error> {
        let names = (1..=self.columns.len()).map(|n| format!("k{n}"));
        let texts: Vec<String> = names
            .clone()
            .map(|name| format!("k.{name}::pg_catalog.text"))
            .collect();
        let values = self.columns.iter().zip(names);
        let values: Vec<String> = values
            .map(|(pair, name)| format!("c.{} AS {name}", ident(&pair.child)))
            .collect();
        let sql = format!(
            "SELECT {} FROM (SELECT DISTINCT {} FROM {} AS c WHERE {}) AS k",
            texts.join(", "),
            values.join(", "),
            self.child.from(),
            self.lacks()
        );
        let rows = here.query(&sql, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| (0..row.len()).map(|at| row.get(at)).collect())
            .collect())
    }

    /// The rows of the parent with these values.
    pub fn fetch_sql(&self, columns: &[String], values: &[Vec<String>]) -> String {
        let value =
            |(pair, value): (&Pair, &String)| format!("CAST({} AS {})", literal(value), pair.data_type);
        let row = |row: &Vec<String>| {
            let values: Vec<String> = self.columns.iter().zip(row).map(value).collect();
            format!("({})", values.join(", "))
        };
        let rows: Vec<String> = values.iter().map(row).collect();
        let names: Vec<String> = (1..=self.columns.len()).map(|n| format!("k{n}")).collect();
        let pairs = self.columns.iter().zip(&names);
        let holds: Vec<String> = pairs
            .map(|(pair, name)| pair.holds(&format!("v.{name}")))
            .collect();
        format!(
            "SELECT {} FROM {} AS p JOIN (VALUES {}) AS v ({}) ON {}",
            columns_of("p", columns),
            self.parent.from(),
            rows.join(", "),
            names.join(", "),
            holds.join(" AND ")
        )
    }

    /// Takes out the rows whose parents are not there, or all that have any. Tells of which tables, and how many.
    pub fn remove_sql(&self, all: bool) -> String {
        let which = if all { self.refers() } else { self.lacks() };
        format!(
            "WITH gone AS (DELETE FROM {} AS c WHERE {which} RETURNING c.tableoid) \
             SELECT tableoid, pg_catalog.count(*) FROM gone GROUP BY tableoid",
            self.child.from()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(period: bool) -> Key {
        let side = |name: &str, partitioned| Side {
            oid: 1,
            name: QualifiedName::new("public", name),
            partitioned,
            family: 1,
        };
        let pair = |child: &str, parent: &str, collation: &str| Pair {
            child: child.into(),
            parent: parent.into(),
            operator: "OPERATOR(pg_catalog.=)".into(),
            data_type: "character varying(5)".into(),
            collation: collation.into(),
        };
        Key {
            child: side("c", false),
            parent: side("P", true),
            columns: vec![pair("A", "a", ""), pair("b", "b", " COLLATE pg_catalog.\"C\"")],
            validated: true,
            period,
        }
    }

    #[test]
    fn what_is_missing() {
        assert_eq!(
            key(false).lacks(),
            "c.\"A\" IS NOT NULL AND c.b IS NOT NULL AND NOT EXISTS (SELECT FROM public.\"P\" AS p WHERE \
             p.a OPERATOR(pg_catalog.=) c.\"A\" AND p.b OPERATOR(pg_catalog.=) c.b COLLATE pg_catalog.\"C\" AND true)"
        );
        assert!(
            key(true).lacks().ends_with(
                "range_agg(p.b) OPERATOR(pg_catalog.@>) c.b FROM public.\"P\" AS p WHERE \
                 p.a OPERATOR(pg_catalog.=) c.\"A\" AND true), false)"
            ),
            "{}",
            key(true).lacks()
        );
    }

    #[test]
    fn values_are_quoted() {
        let sql = key(false).fetch_sql(&["a".into()], &[vec!["it's".into(), "\\".into()]]);
        assert_eq!(
            sql,
            "SELECT p.a FROM public.\"P\" AS p JOIN (VALUES (CAST('it''s' AS character varying(5)), \
             CAST(E'\\\\' AS character varying(5)))) AS v (k1, k2) ON p.a OPERATOR(pg_catalog.=) v.k1 \
             AND p.b OPERATOR(pg_catalog.=) v.k2 COLLATE pg_catalog.\"C\""
        );
    }
}
