//! What somebody changed on the views since the plan was made must neither be turned back nor left behind.

use crate::catalog::model::{Grant, View};
use crate::ops::parts::carry::spelling::{SPELL_AS_BEFORE, SPELL_AS_LOADED, SPELLING_VARIABLES};
use crate::sql::{QualifiedName, literal};
use serde_json::{Map, Value, json};

/// Fails where a view is not what it was. Over another type texts may read otherwise, as a cast that was needed is
/// not any more: after the cutover they are left out.
pub fn unchanged(views: &[(QualifiedName, View)], forwards: bool) -> String {
    let expected: Map<String, Value> = views
        .iter()
        .map(|(name, view)| (name.to_string(), facts(view, forwards)))
        .collect();
    let body = format!(
        "DECLARE expected CONSTANT jsonb := {expected}; {SPELLING_VARIABLES}; \
         view text; facts jsonb; found text; BEGIN {SPELL_AS_LOADED}; \
         FOR view, facts IN SELECT e.key, e.value FROM jsonb_each(expected) AS e LOOP \
         SELECT string_agg(f.key, ', ' ORDER BY f.key) INTO found FROM jsonb_each(facts) AS f \
         WHERE f.value IS DISTINCT FROM (SELECT {} FROM pg_class AS c WHERE c.oid = to_regclass(view)) -> f.key; \
         IF found IS NOT NULL THEN RAISE EXCEPTION USING ERRCODE = '55000', \
         MESSAGE = 'view ' || view || ' is not what it was when the plan was made: ' || found, HINT = {}; END IF; \
         END LOOP; {SPELL_AS_BEFORE}; END",
        present(forwards),
        literal(if forwards {
            "roll back and plan again"
        } else {
            "make it what it was, then roll back again"
        }),
        expected = literal(&Value::Object(expected).to_string()),
    );
    format!("DO {}", literal(&body))
}

fn facts(view: &View, texts: bool) -> Value {
    let text = |text: &str| if texts { json!(text) } else { Value::Null };
    let columns = view.columns.iter().map(|column| {
        let default = column.default.as_ref().map(|default| text(default));
        json!([
            column.name,
            column.default.is_some(),
            default,
            column.comment,
            grants(&column.grants),
            sorted(&column.options),
            column.statistics_target
        ])
    });
    let triggers = view
        .triggers
        .iter()
        .map(|(name, it)| json!([name, it.definition, it.comment]));
    let rules = view
        .rules
        .iter()
        .map(|(name, it)| json!([name, text(&it.definition), it.comment]));
    let indexes = view
        .indexes
        .iter()
        .map(|(name, it)| json!([name, it.valid, it.unique, it.clustered, it.comment]));
    json!({
        "indexes": indexes.collect::<Vec<_>>(),
        "populated": view.populated,
        "tablespace": view.tablespace,
        "definition": text(&view.definition),
        "owner": view.owner,
        "options": sorted(&view.options),
        "comment": view.comment,
        "grants": grants(&view.grants),
        "columns": columns.collect::<Vec<_>>(),
        "triggers": triggers.collect::<Vec<_>>(),
        "rules": rules.collect::<Vec<_>>(),
        "what depends on it": [],
    })
}

fn sorted(options: &[String]) -> Vec<&String> {
    let mut found: Vec<&String> = options.iter().collect();
    found.sort();
    found
}

fn grants(grants: &[Grant]) -> Value {
    let mut found: Vec<Value> = grants
        .iter()
        .map(|grant| json!([grant.grantee, grant.grantor, grant.privilege, grant.grantable]))
        .collect();
    found.sort_by_key(ToString::to_string);
    Value::Array(found)
}

/// The same facts of view `c`, by the server.
fn present(texts: bool) -> String {
    let text = |text: &str| if texts { text.to_owned() } else { "NULL".to_owned() };
    let granted = |list: &str| {
        format!(
            "(SELECT coalesce(jsonb_agg(g.item ORDER BY g.item::text COLLATE \"C\"), '[]') FROM (SELECT \
             jsonb_build_array(CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee) END, \
             pg_get_userbyid(x.grantor), x.privilege_type, x.is_grantable) FROM aclexplode({list}) AS x) AS g (item))"
        )
    };
    format!(
        "jsonb_build_object('definition', {}, 'owner', pg_get_userbyid(c.relowner), \
         'options', (SELECT coalesce(jsonb_agg(u.o ORDER BY u.o COLLATE \"C\"), '[]') FROM (SELECT unnest(c.reloptions) \
         UNION ALL SELECT 'toast.' || unnest(t.reloptions) FROM pg_class AS t WHERE t.oid = c.reltoastrelid) AS u (o)), \
         'populated', c.relispopulated, \
         'tablespace', (SELECT s.spcname FROM pg_tablespace AS s WHERE s.oid = c.reltablespace), \
         'indexes', (SELECT coalesce(jsonb_agg(jsonb_build_array(x.relname, i.indisvalid, i.indisunique, i.indisclustered, \
         obj_description(x.oid, 'pg_class')) ORDER BY x.relname), '[]') FROM pg_index AS i \
         JOIN pg_class AS x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid), \
         'comment', obj_description(c.oid, 'pg_class'), 'grants', {}, \
         'columns', (SELECT coalesce(jsonb_agg(jsonb_build_array(a.attname, e.oid IS NOT NULL, {}, \
         col_description(c.oid, a.attnum), {}, (SELECT coalesce(jsonb_agg(o ORDER BY o COLLATE \"C\"), '[]') \
         FROM unnest(a.attoptions) AS o), nullif(a.attstattarget, -1)) ORDER BY a.attnum), '[]') \
         FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid \
         LEFT JOIN pg_attrdef AS e ON e.adrelid = a.attrelid AND e.adnum = a.attnum \
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND (e.oid IS NOT NULL OR col_description(c.oid, a.attnum) IS NOT NULL \
         OR a.attacl IS NOT NULL OR nullif(a.attstattarget, -1) IS NOT NULL OR a.attoptions IS NOT NULL \
         OR a.attstorage <> t.typstorage OR a.attcompression <> '')), \
         'triggers', (SELECT coalesce(jsonb_agg(jsonb_build_array(g.tgname, pg_get_triggerdef(g.oid), \
         obj_description(g.oid, 'pg_trigger')) ORDER BY g.tgname), '[]') FROM pg_trigger AS g \
         WHERE g.tgrelid = c.oid AND NOT g.tgisinternal), \
         'rules', (SELECT coalesce(jsonb_agg(jsonb_build_array(w.rulename, {}, obj_description(w.oid, 'pg_rewrite')) \
         ORDER BY w.rulename), '[]') FROM pg_rewrite AS w WHERE w.ev_class = c.oid AND w.rulename <> '_RETURN'), \
         'what depends on it', (SELECT coalesce(jsonb_agg(DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid)), '[]') \
         FROM pg_depend AS d WHERE d.deptype IN ('n', 'a', 'e') \
         AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid OR d.refclassid = 'pg_type'::regclass \
         AND d.refobjid IN (SELECT unnest(ARRAY[t.oid, t.typarray]) FROM pg_type AS t WHERE t.oid = c.reltype)) \
         AND NOT EXISTS (SELECT FROM pg_rewrite AS w WHERE d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid \
         AND (w.ev_class = c.oid OR w.ev_class IN (SELECT to_regclass(k) FROM jsonb_object_keys(expected) AS k))) \
         AND NOT EXISTS (SELECT FROM pg_trigger AS g WHERE d.classid = 'pg_trigger'::regclass AND g.oid = d.objid \
         AND g.tgrelid = c.oid) \
         AND NOT EXISTS (SELECT FROM pg_attrdef AS e WHERE d.classid = 'pg_attrdef'::regclass AND e.oid = d.objid \
         AND e.adrelid = c.oid) \
         AND NOT EXISTS (SELECT FROM pg_index AS i WHERE d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid \
         AND i.indrelid = c.oid)))",
        text("pg_get_viewdef(c.oid)"),
        granted("nullif(c.relacl, acldefault('r', c.relowner))"),
        text("pg_get_expr(e.adbin, e.adrelid)"),
        granted("a.attacl"),
        text("pg_get_ruledef(w.oid)"),
    )
}
