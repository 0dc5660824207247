//! The queries about the database as a whole and about what stands beside its tables.

use super::queries::{grants, in_scope, list};

/// Asked before anything is set that would change the answer, hence every name is qualified.
pub const DATABASE: &str = "SELECT 0::pg_catalog.oid AS id, ''::text AS key, pg_catalog.json_build_object(
  'database', pg_catalog.current_database(),
  'server', pg_catalog.json_build_object(
    'version_num', pg_catalog.current_setting('server_version_num')::pg_catalog.int4,
    'time_zone', pg_catalog.current_setting('TimeZone'),
    'date_style', pg_catalog.current_setting('DateStyle'),
    'deadlock_timeout_ms', (SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings
      WHERE name = 'deadlock_timeout'),
    'in_recovery', pg_catalog.pg_is_in_recovery(),
    'read_only', pg_catalog.pg_is_in_recovery()
      OR pg_catalog.current_setting('default_transaction_read_only') = 'on'),
  'role', pg_catalog.json_build_object(
    'name', current_user,
    'superuser', r.rolsuper,
    'member_of', (SELECT pg_catalog.json_agg(m.rolname) FROM pg_catalog.pg_roles m
      WHERE pg_catalog.pg_has_role(r.oid, m.oid, 'USAGE')),
    'may_create_schema', pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
      OR coalesce(pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace('pgmorph')::oid, 'CREATE'), false),
    'may_set_replication_role', r.rolsuper OR {{replication_role}}),
  'not_volatile', (SELECT coalesce(pg_catalog.json_agg(f.name), '[]'::pg_catalog.json) FROM (
    SELECT pg_catalog.format('%I.%I', n.nspname, p.proname) AS name
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgmorph')
    GROUP BY 1 HAVING pg_catalog.bool_and(p.provolatile <> 'v')) f)
)::text AS body
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";

pub const SCHEMAS: &str = "SELECT n.oid AS id, n.nspname::text AS key, json_build_object(
  'owner', pg_get_userbyid(n.nspowner), 'may_create', has_schema_privilege(n.oid, 'CREATE'))::text AS body
FROM pg_namespace n
WHERE n.nspname !~ '^pg_' AND n.nspname <> ALL (ARRAY['information_schema', 'pgmorph'])
  AND $1::oid[] IS NULL";

pub const VIEWS: &str = concat!(
    "SELECT c.oid AS id, format('%I.%I', n.nspname, c.relname) AS key, json_build_object(
  'materialized', c.relkind = 'm',
  'owner', pg_get_userbyid(c.relowner),
  'definition', pg_get_viewdef(c.oid),
  'populated', c.relispopulated,
  'method', (SELECT amname FROM pg_am WHERE oid = c.relam),
  'tablespace', (SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace),
  'keys', (SELECT coalesce(json_agg(DISTINCT jsonb_build_array(format('%I.%I', un.nspname, u.relname), q.conname)),
      '[]'::json)
    FROM pg_rewrite w
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
      AND d.refclassid = 'pg_constraint'::regclass
    JOIN pg_constraint q ON q.oid = d.refobjid
    JOIN pg_class u ON u.oid = q.conrelid JOIN pg_namespace un ON un.oid = u.relnamespace
    WHERE w.ev_class = c.oid),
  'options', ",
    list!(
        "(coalesce(c.reloptions, '{}') || ARRAY(SELECT 'toast.' || o FROM pg_class t, unnest(t.reloptions) o \
         WHERE t.oid = c.reltoastrelid))"
    ),
    ",
  'comment', obj_description(c.oid, 'pg_class'),
  'grants', ",
    grants!("nullif(c.relacl, acldefault('r', c.relowner))"),
    ",
  'uses', (SELECT coalesce(json_agg(DISTINCT
      jsonb_build_array(format('%I.%I', un.nspname, u.relname), coalesce(a.attname, ''))), '[]'::json)
    FROM pg_rewrite w
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
      AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid
    JOIN pg_class u ON u.oid = d.refobjid JOIN pg_namespace un ON un.oid = u.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = u.oid AND a.attnum = d.refobjsubid AND a.attnum <> 0
    WHERE w.ev_class = c.oid AND w.rulename = '_RETURN'),
  'attachments', (SELECT coalesce(json_agg(x.what ORDER BY x.what), '[]'::json) FROM (
    SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS what FROM pg_depend d
    WHERE d.deptype IN ('n', 'a', 'e') AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
        OR d.refclassid = 'pg_type'::regclass
        AND d.refobjid IN (SELECT unnest(ARRAY[t.oid, t.typarray]) FROM pg_type t WHERE t.oid = c.reltype))
      AND NOT EXISTS (SELECT FROM pg_rewrite w WHERE d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
        AND (w.rulename = '_RETURN' OR w.ev_class = c.oid))
      AND NOT EXISTS (SELECT FROM pg_trigger g
        WHERE d.classid = 'pg_trigger'::regclass AND g.oid = d.objid AND g.tgrelid = c.oid)
      AND NOT EXISTS (SELECT FROM pg_attrdef e
        WHERE d.classid = 'pg_attrdef'::regclass AND e.oid = d.objid AND e.adrelid = c.oid)
      AND NOT EXISTS (SELECT FROM pg_index i
        WHERE d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid AND i.indrelid = c.oid)
    UNION SELECT 'its security label' FROM pg_seclabel l WHERE l.classoid = 'pg_class'::regclass AND l.objoid = c.oid
    UNION SELECT 'its replica identity' WHERE c.relkind = 'm' AND c.relreplident NOT IN ('d', 'n')
    UNION SELECT 'a comment on its type' FROM pg_description s
    WHERE s.classoid = 'pg_type'::regclass AND s.objoid = c.reltype
    UNION SELECT 'its empty list of privileges' WHERE c.relacl = '{}'
    UNION SELECT 'its tie to an extension' FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('e', 'x')) x)
)::text AS body
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm') AND ",
    in_scope!("c", "n")
);

pub const SEQUENCES: &str = concat!(
    "SELECT c.oid AS id, format('%I.%I', n.nspname, c.relname) AS key, json_build_object(
  'owner', pg_get_userbyid(c.relowner),
  'data_type', format_type(s.seqtypid, NULL),
  'start', s.seqstart, 'increment', s.seqincrement, 'min', s.seqmin, 'max', s.seqmax,
  'cache', s.seqcache, 'cycle', s.seqcycle,
  'owned_by', (SELECT json_build_array(format('%I.%I', tn.nspname, t.relname), a.attname)
    FROM pg_class t JOIN pg_namespace tn ON tn.oid = t.relnamespace
    JOIN pg_attribute a ON a.attrelid = t.oid
    WHERE t.oid = d.refobjid AND a.attnum = d.refobjsubid),
  'identity', coalesce(d.deptype = 'i', false),
  'grants', ",
    grants!("nullif(c.relacl, acldefault('s', c.relowner))"),
    "
)::text AS body
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_sequence s ON s.seqrelid = c.oid
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
  AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
WHERE c.relkind = 'S' AND ",
    in_scope!("c", "n")
);

/// A domain over a domain is constrained when either is.
pub const TYPES: &str = concat!(
    "SELECT t.oid AS id, format('%I.%I', n.nspname, t.typname) AS key, json_build_object(
  'kind', CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite'
    ELSE 'range' END,
  'labels', (SELECT coalesce(json_agg(e.enumlabel ORDER BY e.enumsortorder), '[]'::json)
    FROM pg_enum e WHERE e.enumtypid = t.oid),
  'constrained', t.typtype = 'd' AND EXISTS (
    WITH RECURSIVE base (oid, next, not_null) AS (
      SELECT t.oid, t.typbasetype, t.typnotnull
      UNION ALL
      SELECT b.oid, b.typbasetype, b.typnotnull FROM base JOIN pg_type b ON b.oid = base.next
      WHERE b.typtype = 'd')
    SELECT FROM base
    WHERE base.not_null OR EXISTS (SELECT FROM pg_constraint q WHERE q.contypid = base.oid)),
  'base', CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod) END
)::text AS body
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_class k ON k.oid = t.typrelid
WHERE (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND k.relkind = 'c') AND ",
    in_scope!("t", "n")
);

pub const PUBLICATIONS: &str = "SELECT p.oid AS id, p.pubname::text AS key, json_build_object(
  'owner', pg_get_userbyid(p.pubowner),
  'all_tables', p.puballtables,
  'schemas', coalesce({{published_schemas}}, '[]'::json),
  'updates', p.pubupdate,
  'generated', {{published_generated}}
)::text AS body
FROM pg_publication p WHERE $1::oid[] IS NULL";

/// What is not a standby and not seen has no state either: base backups then look like one.
pub const REPLICATION: &str = "SELECT 0::oid AS id, ''::text AS key, json_build_object(
  'standbys', (SELECT coalesce(json_agg(DISTINCT r.application_name), '[]'::json) FROM pg_stat_replication r
    WHERE (r.state IS NULL OR r.replay_lsn IS NOT NULL) AND NOT EXISTS (SELECT FROM pg_replication_slots s
      WHERE s.active_pid = r.pid AND s.slot_type = 'logical')),
  'hidden', EXISTS (SELECT FROM pg_stat_replication r WHERE r.state IS NULL),
  'slots', (SELECT coalesce(json_object_agg(s.slot_name, json_build_object('active', s.active,
      'failover', {{slot_failover}})), '{}'::json)
    FROM pg_replication_slots s
    WHERE s.slot_type = 'logical' AND NOT s.temporary AND s.database = current_database())
)::text AS body WHERE $1::oid[] IS NULL";

pub const FUNCTIONS: &str = concat!(
    "SELECT f.oid AS id, pg_describe_object('pg_proc'::regclass, f.oid, 0) AS key, json_build_object(
  'owner', pg_get_userbyid(f.proowner),
  'definition', pg_get_functiondef(f.oid),
  'address', (SELECT to_json(o.type || o.object_names || o.object_args)
    FROM pg_identify_object_as_address('pg_proc'::regclass, f.oid, 0) o),
  'returns', (SELECT format('%I.%I', rn.nspname, r.relname) FROM pg_type t
    JOIN pg_class r ON r.oid = t.typrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
    WHERE t.oid = f.prorettype),
  'of_extension', EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype IN ('e', 'x'))
)::text AS body
FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
WHERE f.prosqlbody IS NOT NULL AND ",
    in_scope!("f", "n")
);
