//! What of the expressions of a table's checks may have another value tomorrow, read from their parse trees.
//!
//! The server tells only that something is not immutable, not what. Names of `pg_catalog` stand without it, others are
//! qualified; what cannot be looked through is named as well.

/// An I/O conversion calls the output function of its argument's type and the input function of its result's.
pub const MUTABLE: &str = r"WITH tree AS MATERIALIZED (
  SELECT c.conname::pg_catalog.text AS name, c.conbin::pg_catalog.text AS body
  FROM pg_catalog.pg_constraint c WHERE c.conrelid = $1 AND c.contype = 'c'
), called AS (
  SELECT t.name, m[1]::pg_catalog.oid AS function
  FROM tree t, pg_catalog.regexp_matches(t.body, ':(?:funcid|opfuncid) (\d+)', 'g') m
), converted AS (
  SELECT t.name, m[1]::pg_catalog.oid AS type
  FROM tree t, pg_catalog.regexp_matches(t.body, ':resulttype (\d+) :resultcollid', 'g') m
  UNION
  SELECT t.name, m[1]::pg_catalog.oid
  FROM tree t, pg_catalog.regexp_matches(t.body, '\{COERCEVIAIO :arg (?:\{RELABELTYPE :arg )?\{\w+ [^{}]*?:(?:vartype|consttype|funcresulttype|opresulttype|casetype|coalescetype|minmaxtype) (\d+)', 'g') m
), element AS (
  SELECT name, type FROM converted
  UNION
  SELECT e.name, y.typelem FROM converted e JOIN pg_catalog.pg_type y ON y.oid = e.type AND y.typcategory = 'A'
), used AS (
  SELECT name, function FROM called
  UNION
  SELECT e.name, f.function FROM element e JOIN pg_catalog.pg_type y ON y.oid = e.type,
    LATERAL (VALUES (y.typinput::pg_catalog.oid), (y.typoutput::pg_catalog.oid)) f (function)
), found AS (
  SELECT u.name, CASE WHEN n.nspname = 'pg_catalog'
      THEN pg_catalog.format('%s(%s)', p.proname, pg_catalog.oidvectortypes(p.proargtypes))
      ELSE pg_catalog.format('%I.%I', n.nspname, p.proname) END AS what
  FROM used u JOIN pg_catalog.pg_proc p ON p.oid = u.function
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  WHERE p.provolatile <> 'i'
  UNION
  SELECT t.name, CASE m[1] WHEN 'SQLVALUEFUNCTION' THEN 'current_date, current_user or the like'
      ELSE pg_catalog.lower(m[1]) END
  FROM tree t, pg_catalog.regexp_matches(t.body, '\{([A-Z]+)', 'g') m
  WHERE m[1] <> ALL (ARRAY['VAR', 'CONST', 'FUNCEXPR', 'OPEXPR', 'DISTINCTEXPR', 'NULLIFEXPR', 'SCALARARRAYOPEXPR',
    'BOOLEXPR', 'RELABELTYPE', 'COERCEVIAIO', 'CASE', 'CASEEXPR', 'WHEN', 'CASEWHEN', 'CASETESTEXPR', 'COALESCE',
    'COALESCEEXPR', 'MINMAX', 'MINMAXEXPR', 'NULLTEST', 'BOOLEANTEST', 'ARRAY', 'ARRAYEXPR'])
  UNION
  SELECT t.name, 'a cast that cannot be looked through' FROM tree t
  WHERE t.body ~ '\{COERCEVIAIO :arg \{(?!RELABELTYPE|COERCEVIAIO|VAR|CONST|FUNCEXPR|OPEXPR|NULLIFEXPR|CASE|COALESCE|MINMAX)'
    OR t.body ~ '\{COERCEVIAIO :arg \{RELABELTYPE :arg \{(?!VAR|CONST|FUNCEXPR|OPEXPR|NULLIFEXPR|COERCEVIAIO|CASE|COALESCE|MINMAX)'
)
SELECT name, pg_catalog.array_agg(what ORDER BY what) FROM found GROUP BY name";
