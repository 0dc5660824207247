//! What came to hang on the column after the plan was made: nobody would carry it, and dropping the old column, or the
//! shadow on the way back, would drop it too.

use super::Subject;
use super::attached::Attached;
use super::views::Views;
use crate::catalog::model::{CatalogSnapshot, Column};
use crate::sql::{OWN_PREFIX, QualifiedName, ident, literal};
use serde_json::{Value, json};

#[derive(Debug, Clone)]
pub struct Newcomers {
    table: QualifiedName,
    column: String,
    /// Kind and names of each object, as `pg_identify_object_as_address` has them.
    known: Vec<Value>,
    /// Whether there are functions among them, of which several may share a name.
    told_by_arguments: bool,
}

impl Newcomers {
    /// `dropped` after this is asked.
    pub fn of(
        now: &CatalogSnapshot,
        subject: &Subject<'_>,
        views: &Views,
        attached: &Attached,
        dropped: impl Iterator<Item = Value>,
    ) -> Self {
        let QualifiedName { schema, name: table } = subject.table_name;
        let column = &subject.column.name;
        let mut known = vec![json!(["default value", schema, table, column])];
        for facts in [Some(subject.table), now.tables.get(subject.table_name)]
            .into_iter()
            .flatten()
        {
            let on_table = [
                ("table constraint", facts.constraints.keys().collect::<Vec<_>>()),
                ("trigger", facts.triggers.keys().collect()),
                ("rule", facts.rules.keys().collect()),
                ("policy", facts.policies.keys().collect()),
            ];
            for (kind, names) in on_table {
                known.extend(names.iter().map(|name| json!([kind, schema, table, name])));
            }
            known.extend(facts.indexes.keys().map(|name| json!(["index", schema, name])));
            let statistics = facts.statistics.keys();
            known.extend(statistics.map(|it| json!(["statistics object", it.schema, it.name])));
        }
        let is_virtual = |it: &&Column| it.generated.as_ref().is_some_and(|it| !it.stored);
        let generated = subject.table.columns.iter().filter(is_virtual);
        known.extend(generated.map(|it| json!(["default value", schema, table, it.name])));
        let sequences = now.sequences.iter();
        known.extend(sequences.filter_map(|(name, facts)| {
            let (owner, of) = facts.owned_by.as_ref()?;
            (owner == subject.table_name && of == column).then(|| json!(["sequence", name.schema, name.name]))
        }));
        known.extend(dropped);
        known.extend(views.addresses());
        known.extend_from_slice(attached.addresses());
        known.sort_by_key(ToString::to_string);
        known.dedup();
        Self {
            table: subject.table_name.clone(),
            column: column.clone(),
            known,
            told_by_arguments: !attached.addresses().is_empty(),
        }
    }

    /// Fails where there are any; asked once the table is locked, our trigger gone and its views gone or renamed. A
    /// foreign key to a partitioned table has a constraint for each partition below it, which comes and goes with it.
    pub fn refuse(&self) -> String {
        let subject = format!("{}.{}", self.table, ident(&self.column));
        let body = format!(
            "DECLARE known CONSTANT jsonb := {known}; found text; BEGIN \
             SELECT pg_catalog.string_agg(DISTINCT pg_catalog.pg_describe_object(d.classid, d.objid, 0), ', ') INTO found \
             FROM pg_catalog.pg_depend AS d \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
             CROSS JOIN LATERAL pg_catalog.pg_identify_object_as_address(d.classid, d.objid, 0) AS o \
             LEFT JOIN pg_catalog.pg_constraint AS c ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND c.oid = d.objid \
             WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND a.attrelid = {table}::pg_catalog.regclass \
             AND a.attname = {column} AND c.contype IS DISTINCT FROM 'n' AND coalesce(c.conparentid, 0) = 0 \
             AND NOT pg_catalog.starts_with(o.object_names[pg_catalog.cardinality(o.object_names)], {ours}) \
             AND NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(known) AS k (address) \
             WHERE k.address = pg_catalog.to_jsonb(o.type || o.object_names{arguments})); \
             IF found IS NOT NULL THEN RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = {message} || found, \
             HINT = 'drop what is new, or roll back and plan again'; END IF; END",
            arguments = if self.told_by_arguments {
                " || o.object_args"
            } else {
                ""
            },
            known = literal(&Value::Array(self.known.clone()).to_string()),
            table = literal(&self.table.to_string()),
            column = literal(&self.column),
            ours = literal(OWN_PREFIX),
            message = literal(&format!(
                "since the plan was made this came to hang on {subject}: "
            )),
        );
        format!("DO {}", literal(&body))
    }
}
