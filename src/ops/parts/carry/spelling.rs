//! PL/pgSQL that lets the server spell definitions as it did when the catalog was read, whatever the session has set.

/// Declared before it.
pub const SPELLING_VARIABLES: &str = "spelling CONSTANT jsonb := '{\"search_path\": \"pg_catalog, pg_temp\", \
    \"quote_all_identifiers\": \"off\", \"DateStyle\": \"ISO, YMD\", \"IntervalStyle\": \"postgres\", \
    \"TimeZone\": \"UTC\", \"bytea_output\": \"hex\", \"extra_float_digits\": \"1\", \
    \"xmloption\": \"content\"}'; before jsonb";

pub const SPELL_AS_LOADED: &str = "SELECT pg_catalog.jsonb_object_agg(s.name, pg_catalog.current_setting(s.name)) INTO before \
    FROM pg_catalog.jsonb_object_keys(spelling) AS s (name); \
    PERFORM pg_catalog.set_config(s.key, s.value, true) FROM pg_catalog.jsonb_each_text(spelling) AS s";

pub const SPELL_AS_BEFORE: &str =
    "PERFORM pg_catalog.set_config(s.key, s.value, true) FROM pg_catalog.jsonb_each_text(before) AS s";
