//! What came to hang on the column after the plan was made: nobody would carry it, and contract would drop it.

use super::Subject;
use crate::catalog::model::CatalogSnapshot;
use crate::sql::{QualifiedName, ident, literal};
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
pub struct Newcomers {
    table: QualifiedName,
    column: String,
    known: BTreeSet<String>,
}

impl Newcomers {
    pub fn of(now: &CatalogSnapshot, subject: &Subject<'_>) -> Self {
        let mut known: BTreeSet<String> = BTreeSet::new();
        for table in [Some(subject.table), now.tables.get(subject.table_name)]
            .into_iter()
            .flatten()
        {
            known.extend(table.indexes.keys().cloned());
            known.extend(table.constraints.keys().cloned());
            known.extend(table.triggers.keys().cloned());
            known.extend(table.rules.keys().cloned());
            known.extend(table.policies.keys().cloned());
            known.extend(table.statistics.keys().map(|name| name.name.clone()));
        }
        Self {
            table: subject.table_name.clone(),
            column: subject.column.name.clone(),
            known,
        }
    }

    /// Fails where there are any; asked once the table is locked and its views and our trigger are gone.
    pub fn refuse(&self) -> String {
        let names: Vec<String> = self.known.iter().map(|name| literal(name)).collect();
        let found = |what: &str, from: &str, name: &str, class: &str| {
            format!(
                "SELECT {what} FROM pg_catalog.pg_depend AS d JOIN {from} ON x.oid = d.objid \
                 WHERE d.classid = '{class}'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                 AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND {name}::text <> ALL (known)"
            )
        };
        let parts = [
            found(
                "'index ' || x.relname",
                "pg_catalog.pg_class AS x",
                "x.relkind IN ('i', 'I') AND x.relname",
                "pg_catalog.pg_class",
            ),
            found(
                "'constraint ' || x.conname",
                "pg_catalog.pg_constraint AS x",
                "x.contype <> 'n' AND x.conname",
                "pg_catalog.pg_constraint",
            ),
            found(
                "'trigger ' || x.tgname",
                "pg_catalog.pg_trigger AS x",
                "NOT x.tgisinternal AND x.tgname",
                "pg_catalog.pg_trigger",
            ),
            found(
                "'policy ' || x.polname",
                "pg_catalog.pg_policy AS x",
                "x.polname",
                "pg_catalog.pg_policy",
            ),
            found(
                "'rule ' || x.rulename || ' on ' || x.ev_class::pg_catalog.regclass",
                "pg_catalog.pg_rewrite AS x",
                "x.rulename",
                "pg_catalog.pg_rewrite",
            ),
            found(
                "'statistics object ' || x.stxname",
                "pg_catalog.pg_statistic_ext AS x",
                "x.stxname",
                "pg_catalog.pg_statistic_ext",
            ),
        ];
        let subject = format!("{}.{}", self.table, ident(&self.column));
        let body = format!(
            "DECLARE known text[] := ARRAY[{}]::text[]; a record; found text; BEGIN \
             SELECT attrelid, attnum INTO a FROM pg_catalog.pg_attribute \
             WHERE attrelid = {}::pg_catalog.regclass AND attname = {}; \
             SELECT pg_catalog.string_agg(s.what, ', ') INTO found FROM ({}) AS s (what); \
             IF found IS NOT NULL THEN RAISE EXCEPTION USING ERRCODE = '55000', \
             MESSAGE = {} || found, \
             HINT = 'drop what is new and run again, or roll back and plan again'; END IF; END",
            names.join(", "),
            literal(&self.table.to_string()),
            literal(&self.column),
            parts.join(" UNION "),
            literal(&format!(
                "since the plan was made this came to hang on {subject}: "
            )),
        );
        format!("DO {}", literal(&body))
    }
}
