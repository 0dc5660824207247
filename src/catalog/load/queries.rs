//! The queries about tables and what belongs to them.
//!
//! Each returns rows of one shape: the OID of the relation that the row belongs to, the key in its map, and the
//! value as the JSON form of the model. `$1` is an array of OIDs, or NULL for everything but system schemas; the
//! server plans with its value, so that both cases use the right indexes. Texts in `{{…}}` depend on the release.

/// Whether the relation was asked for: the ones in `$1`, or all outside system schemas and our own.
macro_rules! in_scope {
    ($class:literal, $namespace:literal) => {
        concat!(
            "(($1::oid[] IS NULL AND ",
            $namespace,
            ".nspname !~ '^pg_' AND ",
            $namespace,
            ".nspname <> ALL (ARRAY['information_schema', 'pgmorph'])) OR ",
            $class,
            ".oid = ANY ($1::oid[]))"
        )
    };
}

/// An access control list as grants; the owner's implicit one (NULL) becomes an empty list, and so does the list that says
/// the same, which stays where privileges were taken away again.
macro_rules! grants {
    ($acl:literal) => {
        concat!(
            "(SELECT coalesce(json_agg(json_build_object(\
               'grantee', CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee) END, \
               'grantor', pg_get_userbyid(x.grantor), 'privilege', x.privilege_type, \
               'grantable', x.is_grantable)), '[]'::json) FROM aclexplode(",
            $acl,
            ") x)"
        )
    };
}

/// A `text[]` of options as a JSON list.
macro_rules! list {
    ($array:literal) => {
        concat!("coalesce(array_to_json(", $array, "::text[]), '[]'::json)")
    };
}

macro_rules! enabled {
    ($column:literal) => {
        concat!(
            "CASE ",
            $column,
            " WHEN 'O' THEN 'origin' WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' ELSE 'always' END"
        )
    };
}

macro_rules! foreign_key_action {
    ($column:literal) => {
        concat!(
            "CASE ",
            $column,
            " WHEN 'r' THEN 'RESTRICT' WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' \
             WHEN 'd' THEN 'SET DEFAULT' ELSE 'NO ACTION' END"
        )
    };
}
pub(super) use {grants, in_scope, list};

/// Measuring a file waits for ACCESS EXCLUSIVE locks on its table, and one held lock must not keep everybody from
/// reading the catalog: such tables are estimated from the pages that were last counted.
pub const TABLES: &str = concat!(
    "WITH RECURSIVE scope AS MATERIALIZED (
  SELECT c.oid, c.relname, n.nspname, c.relkind
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'f') AND ",
    in_scope!("c", "n"),
    "
), leaf (root, oid, relkind) AS (
  SELECT oid, oid, relkind FROM scope
  UNION ALL
  SELECT l.root, k.oid, k.relkind
  FROM leaf l JOIN pg_inherits h ON h.inhparent = l.oid JOIN pg_class k ON k.oid = h.inhrelid
  WHERE l.relkind = 'p'
), locked AS MATERIALIZED (
  SELECT relation FROM pg_locks
  WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND pid IS DISTINCT FROM pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), measured AS (
  SELECT l.root, max(k.reltuples) AS any_rows, sum(greatest(k.reltuples, 0)) AS rows,
    sum(CASE WHEN w.relation IS NULL THEN pg_relation_size(k.oid)
        ELSE k.relpages::bigint * b.size END) AS heap,
    sum(CASE WHEN w.relation IS NULL AND k.reltoastrelid <> 0 THEN pg_total_relation_size(k.reltoastrelid)
        ELSE (SELECT coalesce(t.relpages::bigint * b.size, 0) FROM pg_class t WHERE t.oid = k.reltoastrelid)
        END) AS toast,
    sum(CASE WHEN w.relation IS NULL THEN pg_indexes_size(k.oid)
        ELSE (SELECT coalesce(sum(x.relpages::bigint), 0) * b.size FROM pg_index i
              JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = k.oid) END) AS indexes
  FROM leaf l JOIN pg_class k ON k.oid = l.oid AND k.relkind <> 'p'
  LEFT JOIN (SELECT DISTINCT relation FROM locked) w ON w.relation = k.oid
  CROSS JOIN (SELECT current_setting('block_size')::bigint AS size) b
  GROUP BY l.root
)
SELECT c.oid AS id, format('%I.%I', s.nspname, s.relname) AS key, json_build_object(
  'kind', CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned' ELSE 'foreign' END,
  'owner', pg_get_userbyid(c.relowner),
  'persistence', CASE c.relpersistence WHEN 'p' THEN 'permanent' WHEN 'u' THEN 'unlogged' ELSE 'temporary' END,
  'tablespace', (SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace),
  'options', ",
    list!(
        "(coalesce(c.reloptions, '{}') || ARRAY(SELECT 'toast.' || o FROM pg_class t, unnest(t.reloptions) o \
         WHERE t.oid = c.reltoastrelid))"
    ),
    ",
  'comment', obj_description(c.oid, 'pg_class'),
  'row_security', c.relrowsecurity,
  'force_row_security', c.relforcerowsecurity,
  'replica_identity', CASE c.relreplident WHEN 'd' THEN to_json('default'::text)
    WHEN 'f' THEN to_json('full'::text)
    WHEN 'i' THEN coalesce((SELECT json_build_object('index', x.relname) FROM pg_index i
      JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident),
      to_json('nothing'::text))
    ELSE to_json('nothing'::text) END,
  'of_type', CASE WHEN c.reloftype <> 0 THEN format_type(c.reloftype, NULL) END,
  'extension', (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
      AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'),
  'row_type_used_by', (
    WITH RECURSIVE holds (typ) AS (
      SELECT c.reltype WHERE c.reltype <> 0
      UNION
      SELECT CASE WHEN d.classid = 'pg_type'::regclass THEN d.objid ELSE k.reltype END
      FROM holds h
      JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = h.typ
      LEFT JOIN pg_class k ON d.classid = 'pg_class'::regclass AND k.oid = d.objid AND k.relkind = 'c'
      WHERE d.classid = 'pg_type'::regclass OR k.oid IS NOT NULL
    )
    SELECT coalesce(json_agg(DISTINCT format('%I.%I.%I', kn.nspname, k.relname, a.attname)), '[]'::json)
    FROM holds h
    JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = h.typ
      AND d.classid = 'pg_class'::regclass AND d.objsubid > 0
    JOIN pg_class k ON k.oid = d.objid AND k.relkind IN ('r', 'p', 'm', 'f')
    JOIN pg_namespace kn ON kn.oid = k.relnamespace
    JOIN pg_attribute a ON a.attrelid = d.objid AND a.attnum = d.objsubid),
  'partition_key', CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END,
  'partition_key_columns', (SELECT coalesce(json_agg(a.attname ORDER BY k.at), '[]'::json)
    FROM pg_partitioned_table p, unnest(p.partattrs) WITH ORDINALITY k (attnum, at)
    JOIN pg_attribute a ON a.attnum = k.attnum
    WHERE p.partrelid = c.oid AND a.attrelid = c.oid AND k.attnum > 0),
  'partition_of', CASE WHEN c.relispartition THEN (SELECT format('%I.%I', pn.nspname, p.relname)
    FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE h.inhrelid = c.oid) END,
  'partition_bound', pg_get_expr(c.relpartbound, c.oid),
  'inherits', (SELECT coalesce(json_agg(format('%I.%I', pn.nspname, p.relname) ORDER BY h.inhseqno), '[]'::json)
    FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE h.inhrelid = c.oid AND NOT c.relispartition),
  'children', (SELECT coalesce(json_agg(format('%I.%I', kn.nspname, k.relname)), '[]'::json)
    FROM pg_inherits h JOIN pg_class k ON k.oid = h.inhrelid JOIN pg_namespace kn ON kn.oid = k.relnamespace
    WHERE h.inhparent = c.oid AND kn.nspname !~ '^pg_'),
  'publications', (SELECT coalesce(json_object_agg(p.pubname, json_build_object(
      'columns', coalesce({{published_columns}}, '[]'::json), 'filter', {{published_filter}})), '{}'::json)
    FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = c.oid),
  'grants', ",
    grants!("nullif(c.relacl, acldefault('r', c.relowner))"),
    ",
  'columns', '[]'::json, 'indexes', '{}'::json, 'constraints', '{}'::json, 'triggers', '{}'::json,
  'rules', '{}'::json, 'policies', '{}'::json, 'statistics', '{}'::json,
  'size', json_build_object('rows', CASE WHEN m.any_rows < 0 THEN -1 ELSE coalesce(m.rows, 0)::bigint END,
    'heap_bytes', coalesce(m.heap, 0)::bigint, 'toast_bytes', coalesce(m.toast, 0)::bigint,
    'index_bytes', coalesce(m.indexes, 0)::bigint)
)::text AS body
FROM scope s JOIN pg_class c ON c.oid = s.oid LEFT JOIN measured m ON m.root = c.oid"
);

/// All columns of tables, and those of views that have something besides name and type.
/// The sequence of an identity column belongs to the topmost table when a partition inherits the identity.
pub const COLUMNS: &str = concat!(
    "SELECT a.attrelid AS id, a.attname::text AS key, json_build_object(
  'name', a.attname,
  'data_type', format_type(a.atttypid, a.atttypmod),
  'collation', CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation
    THEN a.attcollation::regcollation::text END,
  'not_null', a.attnotnull,
  'not_null_constraint', {{not_null_constraint}},
  'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(e.adbin, e.adrelid) END,
  'identity', CASE WHEN a.attidentity <> '' THEN json_build_object('always', a.attidentity = 'a', 'sequence',
    (SELECT format('%I.%I', qn.nspname, q.relname)
     FROM pg_attribute o
     JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.attrelid
       AND d.refobjsubid = o.attnum AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
     JOIN pg_class q ON q.oid = d.objid AND q.relkind = 'S' JOIN pg_namespace qn ON qn.oid = q.relnamespace
     WHERE o.attname = a.attname AND o.attrelid IN (c.oid, pg_partition_root(c.oid))
     ORDER BY o.attrelid = c.oid DESC LIMIT 1)) END,
  'generated', CASE WHEN a.attgenerated <> '' THEN json_build_object('stored', a.attgenerated = 's',
    'expression', pg_get_expr(e.adbin, e.adrelid)) END,
  'storage', CASE a.attstorage WHEN 'p' THEN 'plain' WHEN 'm' THEN 'main' WHEN 'e' THEN 'external'
    ELSE 'extended' END,
  'compression', CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
  'statistics_target', nullif(a.attstattarget, -1),
  'options', ",
    list!("a.attoptions"),
    ",
  'comment', o.description,
  'security_labels', (SELECT coalesce(json_agg(json_build_object('provider', l.provider, 'label', l.label)
      ORDER BY l.provider), '[]'::json) FROM pg_seclabel l
    WHERE l.classoid = 'pg_class'::regclass AND l.objoid = c.oid AND l.objsubid = a.attnum),
  'grants', ",
    grants!("a.attacl"),
    ",
  'inherited', a.attinhcount > 0,
  'local', a.attislocal
)::text AS body
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
LEFT JOIN pg_description o ON o.classoid = 'pg_class'::regclass AND o.objoid = c.oid AND o.objsubid = a.attnum
WHERE (c.relkind IN ('r', 'p', 'f') OR c.relkind IN ('v', 'm') AND (e.oid IS NOT NULL OR o.description IS NOT NULL
    OR a.attacl IS NOT NULL OR nullif(a.attstattarget, -1) IS NOT NULL OR a.attoptions IS NOT NULL
    OR a.attstorage <> t.typstorage OR a.attcompression <> '')) AND ",
    in_scope!("c", "n"),
    "
ORDER BY a.attrelid, a.attnum"
);

/// Indexes of tables and of materialized views. The collation of an expression key is stated nowhere but in the
/// index definition, behind the expression.
pub const INDEXES: &str = concat!(
    "SELECT i.indrelid AS id, x.relname::text AS key, json_build_object(
  'method', m.amname,
  'unique', i.indisunique,
  'nulls_not_distinct', {{nulls_not_distinct}},
  'keys', (SELECT json_agg(json_build_object(
      'column', a.attname,
      'expression', k.expression,
      'opclass', CASE WHEN xa.attoptions IS NOT NULL OR NOT (oc.opcdefault AND (
          oc.opcintype = coalesce(a.atttypid, xa.atttypid)
          OR NOT coalesce(a.atttypid, xa.atttypid) = 'varchar'::regtype AND NOT EXISTS (
            SELECT FROM pg_opclass other WHERE other.opcmethod = oc.opcmethod AND other.opcdefault
              AND other.opcintype = coalesce(a.atttypid, xa.atttypid))
          OR coalesce(a.atttypid, xa.atttypid) = 'varchar'::regtype AND oc.opcintype <> 'bpchar'::regtype))
        THEN CASE WHEN pg_opclass_is_visible(oc.oid) THEN quote_ident(oc.opcname)
             ELSE format('%I.%I', ocn.nspname, oc.opcname) END
          || coalesce((SELECT ' (' || string_agg(quote_ident(split_part(p.pair, '=', 1)) || '='
               || CASE WHEN quote_ident(v.value) = v.value THEN v.value ELSE quote_literal(v.value) END,
               ', ' ORDER BY p.at) || ')'
             FROM unnest(xa.attoptions) WITH ORDINALITY p (pair, at),
               LATERAL (SELECT substr(p.pair, strpos(p.pair, '=') + 1) AS value) v), '') END,
      'collation', CASE WHEN i.indcollation[k.at - 1] = 0 THEN NULL
        WHEN a.attnum IS NOT NULL THEN CASE WHEN i.indcollation[k.at - 1] <> a.attcollation
          THEN i.indcollation[k.at - 1]::regcollation::text END
        WHEN strpos(whole.definition, k.expression || ' COLLATE ' || i.indcollation[k.at - 1]::regcollation) > 0
          THEN i.indcollation[k.at - 1]::regcollation::text END,
      'descending', i.indoption[k.at - 1] & 1 <> 0,
      'nulls_first', i.indoption[k.at - 1] & 2 <> 0
    ) ORDER BY k.at)
    FROM (SELECT at, CASE WHEN i.indkey[at - 1] = 0 THEN pg_get_indexdef(i.indexrelid, at, false) END AS expression
          FROM generate_series(1, i.indnkeyatts) at) k
    JOIN pg_attribute xa ON xa.attrelid = i.indexrelid AND xa.attnum = k.at
    JOIN pg_opclass oc ON oc.oid = i.indclass[k.at - 1] JOIN pg_namespace ocn ON ocn.oid = oc.opcnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.at - 1] AND a.attnum <> 0),
  'include', (SELECT coalesce(json_agg(a.attname ORDER BY k), '[]'::json)
    FROM generate_series(i.indnkeyatts + 1, i.indnatts) k
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k - 1]),
  'predicate', pg_get_expr(i.indpred, i.indrelid),
  'options', ",
    list!("x.reloptions"),
    ",
  'tablespace', (SELECT spcname FROM pg_tablespace WHERE oid = x.reltablespace),
  'valid', i.indisvalid,
  'replica_identity', i.indisreplident,
  'clustered', i.indisclustered,
  'constraint', (SELECT conname FROM pg_constraint
    WHERE conrelid = i.indrelid AND conindid = i.indexrelid AND contype IN ('p', 'u', 'x')),
  'parent', (SELECT format('%I.%I', pn.nspname, p.relname)
    FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE h.inhrelid = i.indexrelid),
  'comment', obj_description(i.indexrelid, 'pg_class'),
  'expression_columns', (SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]'::json)
    FROM pg_attribute a
    WHERE a.attrelid = i.indrelid AND a.attnum > 0 AND a.attnum <> ALL (i.indkey::int2[])
      AND a.attnum IN (SELECT d.refobjsubid FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid)),
  'statistics_targets', (SELECT coalesce(json_agg(json_build_array(a.attnum, a.attstattarget) ORDER BY a.attnum), '[]'::json)
    FROM pg_attribute a WHERE a.attrelid = i.indexrelid AND a.attstattarget >= 0)
)::text AS body
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_index i ON i.indrelid = c.oid
JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
CROSS JOIN LATERAL (SELECT CASE WHEN i.indexprs IS NOT NULL THEN pg_get_indexdef(i.indexrelid) END
  AS definition) whole
WHERE c.relkind IN ('r', 'p', 'f', 'm') AND ",
    in_scope!("c", "n")
);

/// A foreign key that references a partitioned table has one more row per partition, on the same table: those
/// are the server's own business.
pub const CONSTRAINTS: &str = concat!(
    "SELECT c.oid AS id, con.conname::text AS key, json_build_object(
  'kind', CASE con.contype WHEN 'c' THEN 'check' WHEN 'f' THEN 'foreign_key' WHEN 'p' THEN 'primary_key'
    WHEN 'u' THEN 'unique' ELSE 'exclusion' END,
  'definition', regexp_replace(pg_get_constraintdef(con.oid),
    CASE WHEN con.convalidated THEN '(?!)' ELSE ' NOT VALID$' END, ''),
  'columns', (SELECT coalesce(json_agg(a.attname
      ORDER BY CASE con.contype WHEN 'c' THEN a.attnum ELSE k.at END), '[]'::json)
    FROM unnest(con.conkey) WITH ORDINALITY k (attnum, at)
    JOIN pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.attnum AND a.attnum > 0),
  'validated', con.convalidated,
  'deferrable', con.condeferrable,
  'initially_deferred', con.condeferred,
  'no_inherit', con.contype = 'c' AND con.connoinherit,
  'inherited', NOT con.conislocal OR con.conparentid <> 0,
  'index', (SELECT relname FROM pg_class WHERE oid = con.conindid),
  'references', CASE WHEN con.contype = 'f' THEN json_build_object(
    'table', (SELECT format('%I.%I', fn.nspname, f.relname) FROM pg_class f
      JOIN pg_namespace fn ON fn.oid = f.relnamespace WHERE f.oid = con.confrelid),
    'columns', (SELECT json_agg(a.attname ORDER BY k.at) FROM unnest(con.confkey) WITH ORDINALITY k (attnum, at)
      JOIN pg_attribute a ON a.attrelid = con.confrelid AND a.attnum = k.attnum),
    'match_type', CASE con.confmatchtype WHEN 'f' THEN 'FULL' WHEN 'p' THEN 'PARTIAL' ELSE 'SIMPLE' END,
    'on_update', ",
    foreign_key_action!("con.confupdtype"),
    ",
    'on_delete', ",
    foreign_key_action!("con.confdeltype"),
    ") END,
  'comment', obj_description(con.oid, 'pg_constraint')
)::text AS body
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_constraint con ON con.conrelid = c.oid AND con.contype IN ('c', 'f', 'p', 'u', 'x')
WHERE c.relkind IN ('r', 'p', 'f')
  AND NOT EXISTS (SELECT FROM pg_constraint up WHERE up.oid = con.conparentid AND up.conrelid = con.conrelid)
  AND ",
    in_scope!("c", "n")
);

/// Before PostgreSQL 15 the copies of a partitioned table's triggers were marked internal.
pub const TRIGGERS: &str = concat!(
    "SELECT c.oid AS id, g.tgname::text AS key, json_build_object(
  'definition', pg_get_triggerdef(g.oid),
  'enabled', ",
    enabled!("g.tgenabled"),
    ",
  'before_row_write', (g.tgtype & 3) = 3 AND (g.tgtype & 20) <> 0,
  'columns', (SELECT coalesce(json_agg(a.attname ORDER BY k.at), '[]'::json)
    FROM unnest(g.tgattr) WITH ORDINALITY k (attnum, at)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum),
  'function', (SELECT format('%I.%I', fn.nspname, f.proname) FROM pg_proc f
    JOIN pg_namespace fn ON fn.oid = f.pronamespace WHERE f.oid = g.tgfoid),
  'function_owned', (SELECT pg_has_role(current_user, f.proowner, 'USAGE') FROM pg_proc f WHERE f.oid = g.tgfoid),
  'cloned', g.tgparentid <> 0,
  'comment', obj_description(g.oid, 'pg_trigger')
)::text AS body
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_trigger g ON g.tgrelid = c.oid AND (NOT g.tgisinternal OR {{internal_clone}})
WHERE c.relkind IN ('r', 'p', 'f', 'v') AND ",
    in_scope!("c", "n")
);

pub const RULES: &str = concat!(
    "SELECT c.oid AS id, w.rulename::text AS key, json_build_object(
  'definition', pg_get_ruledef(w.oid), 'enabled', ",
    enabled!("w.ev_enabled"),
    ", 'comment', obj_description(w.oid, 'pg_rewrite'))::text AS body
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_rewrite w ON w.ev_class = c.oid AND w.rulename <> '_RETURN'
WHERE c.relkind IN ('r', 'p', 'f', 'v') AND ",
    in_scope!("c", "n")
);

pub const POLICIES: &str = concat!(
    "SELECT c.oid AS id, p.polname::text AS key, json_build_object(
  'command', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
    WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
  'permissive', p.polpermissive,
  'roles', (SELECT json_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r) END) FROM unnest(p.polroles) r),
  'using', pg_get_expr(p.polqual, c.oid),
  'with_check', pg_get_expr(p.polwithcheck, c.oid)
)::text AS body
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_policy p ON p.polrelid = c.oid
WHERE c.relkind IN ('r', 'p', 'f') AND ",
    in_scope!("c", "n")
);

/// The columns come from the dependencies, which know those in expressions too.
pub const STATISTICS: &str = concat!(
    "SELECT c.oid AS id, format('%I.%I', sn.nspname, s.stxname) AS key, json_build_object(
  'owner', pg_get_userbyid(s.stxowner),
  'definition', pg_get_statisticsobjdef(s.oid),
  'columns', (SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]'::json) FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attnum IN (SELECT d.refobjsubid FROM pg_depend d
      WHERE d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)),
  'comment', obj_description(s.oid, 'pg_statistic_ext'),
  'statistics_target', nullif(s.stxstattarget, -1)
)::text AS body
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_statistic_ext s ON s.stxrelid = c.oid JOIN pg_namespace sn ON sn.oid = s.stxnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND ",
    in_scope!("c", "n")
);

/// What stands on a table or on one of its columns and is not simply part of it. Own triggers, rules, policies
/// and generated columns are told only for the columns that they mention. Before PostgreSQL 15 the dependency of
/// a generated column was the column's, later its expression's.
pub const DEPENDENTS: &str = concat!(
    "SELECT c.oid AS id, ''::text AS key,
  json_build_object('column', a.attname, 'kind', s.kind, 'name', s.name)::text AS body
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND a.attnum <> 0
CROSS JOIN LATERAL (
  SELECT CASE WHEN w.rulename <> '_RETURN' THEN 'rule' WHEN v.relkind = 'm' THEN 'materialized view'
      ELSE 'view' END AS kind,
    CASE WHEN w.rulename <> '_RETURN' THEN pg_describe_object(d.classid, d.objid, 0)
      ELSE pg_describe_object('pg_class'::regclass, v.oid, 0) END AS name
  FROM pg_rewrite w JOIN pg_class v ON v.oid = w.ev_class
  WHERE d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid AND (v.oid <> c.oid OR d.refobjsubid <> 0)
  UNION ALL
  SELECT 'policy', pg_describe_object(d.classid, d.objid, 0) FROM pg_policy p
  WHERE d.classid = 'pg_policy'::regclass AND p.oid = d.objid AND (p.polrelid <> c.oid OR d.refobjsubid <> 0)
  UNION ALL
  SELECT 'trigger', pg_describe_object(d.classid, d.objid, 0) FROM pg_trigger g
  WHERE d.classid = 'pg_trigger'::regclass AND g.oid = d.objid AND (NOT g.tgisinternal OR {{internal_clone}})
    AND (g.tgrelid <> c.oid OR d.refobjsubid <> 0)
  UNION ALL
  SELECT 'function', pg_describe_object(d.classid, d.objid, 0)
  WHERE d.classid = 'pg_proc'::regclass
  UNION ALL
  SELECT 'publication', pg_describe_object(d.classid, d.objid, 0)
  WHERE d.classid = 'pg_publication_rel'::regclass AND d.refobjsubid <> 0
  UNION ALL
  SELECT 'generated column', pg_describe_object('pg_class'::regclass, e.adrelid, e.adnum)
  FROM pg_attrdef e JOIN pg_attribute o ON o.attrelid = e.adrelid AND o.attnum = e.adnum
  WHERE d.classid = 'pg_attrdef'::regclass AND e.oid = d.objid AND o.attgenerated <> ''
    AND (e.adrelid <> c.oid OR d.refobjsubid NOT IN (0, e.adnum))
  UNION ALL
  SELECT 'generated column', pg_describe_object(d.classid, d.objid, d.objsubid)
  FROM pg_attribute o
  WHERE d.classid = 'pg_class'::regclass AND o.attrelid = d.objid AND o.attnum = d.objsubid
    AND d.objid = c.oid AND d.objsubid > 0 AND d.refobjsubid NOT IN (0, d.objsubid) AND o.attgenerated <> ''
) s
WHERE c.relkind IN ('r', 'p', 'f') AND ",
    in_scope!("c", "n"),
    "
UNION ALL
SELECT c.oid, '', json_build_object('column', NULL, 'kind', 'function',
  'name', pg_describe_object(d.classid, d.objid, 0))::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = c.reltype
JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray)
  AND d.classid = 'pg_proc'::regclass
WHERE c.relkind IN ('r', 'p', 'f') AND ",
    in_scope!("c", "n")
);

/// The OIDs of the tables with these names, in no particular order.
pub const OIDS: &str = "SELECT c.oid FROM unnest($1::text[], $2::text[]) wanted (schema, name)
JOIN pg_namespace n ON n.nspname = wanted.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p', 'f')";

/// The query as the release understands it.
pub fn for_release(sql: &str, major: u32) -> String {
    let not_null = if major >= 18 {
        "(SELECT json_build_object('name', q.conname, 'validated', q.convalidated, 'local', q.conislocal) \
         FROM pg_constraint q \
         WHERE q.conrelid = a.attrelid AND q.contype = 'n' AND q.conkey = ARRAY[a.attnum])"
    } else {
        "NULL"
    };
    let nulls_not_distinct = if major >= 15 {
        "i.indnullsnotdistinct"
    } else {
        "false"
    };
    let internal_clone = if major >= 15 { "false" } else { "g.tgparentid <> 0" };
    let replication_role = if major >= 15 {
        "has_parameter_privilege('session_replication_role', 'SET')"
    } else {
        "false"
    };
    let (published_columns, published_filter, published_schemas) = if major >= 15 {
        (
            "(SELECT json_agg(a.attname ORDER BY a.attnum) FROM unnest(r.prattrs) k (attnum) \
             JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = k.attnum)",
            "pg_get_expr(r.prqual, r.prrelid)",
            "(SELECT json_agg(n.nspname) FROM pg_publication_namespace s \
             JOIN pg_namespace n ON n.oid = s.pnnspid WHERE s.pnpubid = p.oid)",
        )
    } else {
        ("NULL", "NULL", "NULL")
    };
    let published_generated = if major >= 18 {
        "p.pubgencols = 's'"
    } else {
        "false"
    };
    let slot_failover = if major >= 17 { "s.failover" } else { "false" };
    sql.replace("{{not_null_constraint}}", not_null)
        .replace("{{slot_failover}}", slot_failover)
        .replace("{{published_generated}}", published_generated)
        .replace("{{nulls_not_distinct}}", nulls_not_distinct)
        .replace("{{internal_clone}}", internal_clone)
        .replace("{{replication_role}}", replication_role)
        .replace("{{published_columns}}", published_columns)
        .replace("{{published_filter}}", published_filter)
        .replace("{{published_schemas}}", published_schemas)
}
