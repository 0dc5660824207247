use crate::catalog::model::CatalogSnapshot;
use crate::ops::testing::{catalog, index, plan_text, table};

const BOTH: &str = "  - sync:\n\
    \x20     name: forth\n\
    \x20     from: \"Old Ones\"\n\
    \x20     as: o\n\
    \x20     into: new\n\
    \x20     key: {key: id}\n\
    \x20     join: LEFT JOIN more AS m ON m.of = o.id\n\
    \x20     joined: {more: {of: id}}\n\
    \x20     where: o.label <> ''\n\
    \x20     columns: {Label: o.label, live: \"coalesce(m.live, false)\"}\n\
    \x20     insert_only: {own: \"gen_random_uuid()\"}\n\
    \x20 - sync: {name: back, from: new, into: Old Ones, key: {id: key}, columns: {label: new.\"Label\"}, on_delete: keep, fill: false, compare: false}\n";

fn two_and_one() -> CatalogSnapshot {
    let mut new = table(&[
        "key bigint not null",
        "own uuid not null",
        "Label text",
        "live boolean not null",
    ]);
    new.indexes.insert("new_key".into(), index(&["key"], true));
    let old = table(&["id bigint not null", "label text"]).with_primary_key("pk", &["id"]);
    let more = table(&["of bigint", "live boolean"]);
    catalog()
        .with("Old Ones", old)
        .with("more", more)
        .with("new", new)
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is one text")]
fn writes_are_repeated_in_both_directions() {
    insta::assert_snapshot!(plan_text(&two_and_one(), BOTH), @r#"
    01-sync-define [expand] define how public.new follows
      CREATE VIEW pgmorph.sync_forth_from AS SELECT o.id AS key, (o.label) AS "Label", (coalesce(m.live, false)) AS live, (gen_random_uuid()) AS own FROM public."Old Ones" AS o LEFT JOIN more AS m ON m.of = o.id WHERE (o.label <> '');
      CREATE VIEW pgmorph.sync_forth_into AS SELECT key, "Label", live, own FROM public.new;
      CREATE VIEW pgmorph.sync_forth_key AS SELECT id FROM public."Old Ones";
      CREATE FUNCTION pgmorph.sync_forth_row(bigint) RETURNS void LANGUAGE plpgsql AS '#variable_conflict use_column
    DECLARE wanted pgmorph.sync_forth_into%ROWTYPE; there boolean;
    BEGIN FOR attempt IN 1..100 LOOP
    PERFORM FROM pgmorph.sync_forth_into AS t WHERE t.key OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE;
    there := FOUND;
    SELECT s.key, s."Label", s.live, s.own INTO wanted FROM pgmorph.sync_forth_from AS s WHERE s.key OPERATOR(pg_catalog.=) $1;
    IF NOT FOUND THEN DELETE FROM pgmorph.sync_forth_into AS t WHERE t.key OPERATOR(pg_catalog.=) $1; RETURN; END IF;
    IF there THEN UPDATE pgmorph.sync_forth_into AS t SET "Label" = wanted."Label", live = wanted.live WHERE t.key OPERATOR(pg_catalog.=) $1 AND ROW(t."Label", t.live)::record OPERATOR(pg_catalog.*<>) ROW(wanted."Label", wanted.live)::record; RETURN; END IF;
    INSERT INTO pgmorph.sync_forth_into (key, "Label", live, own) VALUES (wanted.key, wanted."Label", wanted.live, wanted.own) ON CONFLICT (key) DO NOTHING;
    IF FOUND THEN RETURN; END IF;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = ''triggered_data_change_violation'', MESSAGE = ''sync forth: public.new does not take a row with this key, and has none'', HINT = ''A trigger BEFORE INSERT may leave the row out or change its key.''; END';
      CREATE FUNCTION pgmorph.sync_forth_joined(bigint) RETURNS void LANGUAGE plpgsql AS 'BEGIN
    IF $1 IS NULL THEN RETURN; END IF;
    PERFORM FROM pgmorph.sync_forth_key AS s WHERE s.id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE;
    IF NOT FOUND THEN PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext(''pgmorph.sync_forth_from''), pg_catalog.hashtext(pg_catalog.concat_ws(''/'', $1::text)) OPERATOR(pg_catalog.&) 63); PERFORM FROM pgmorph.sync_forth_key AS s WHERE s.id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE; END IF;
    IF FOUND THEN PERFORM pgmorph.sync_forth_row($1); END IF;
    END';
      DO 'DECLARE wanted pgmorph.sync_forth_into%ROWTYPE; path text := pg_catalog.current_setting(''search_path'');
    BEGIN
    PERFORM pg_catalog.set_config(name, ''off'', true) FROM pg_catalog.unnest(''{enable_seqscan,enable_hashjoin,enable_mergejoin}''::pg_catalog.text[]) AS name;
    PERFORM pg_catalog.set_config(''search_path'', ''pg_catalog, pg_temp'', true);
    FOR wanted IN SELECT s.key, s."Label", s.live, s.own FROM pgmorph.sync_forth_from AS s LIMIT 100 LOOP END LOOP;
    PERFORM pg_catalog.set_config(''search_path'', path, true);
    END';
        locks: public."Old Ones" ACCESS SHARE, public.more ACCESS SHARE, public.new ACCESS SHARE (lock_timeout 200ms)
      undo DROP FUNCTION IF EXISTS pgmorph.sync_forth_joined(bigint);
      undo DROP FUNCTION IF EXISTS pgmorph.sync_forth_row(bigint);
      undo DROP VIEW IF EXISTS pgmorph.sync_forth_from, pgmorph.sync_forth_into, pgmorph.sync_forth_key;
      undo   locks:  (lock_timeout 200ms)
    01-sync-follow [expand] repeat writes in public.new
      LOCK TABLE public."Old Ones", public.more IN SHARE ROW EXCLUSIVE MODE;
      CREATE FUNCTION pgmorph.sync_forth_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'DECLARE pgmorph_flag text := pg_catalog.current_setting(''pgmorph.sync'', true);
    BEGIN
    PERFORM pg_catalog.set_config(''pgmorph.sync'', pg_catalog.pg_trigger_depth()::text, true);
    <<work>> BEGIN
    IF TG_OP = ''TRUNCATE'' THEN DELETE FROM pgmorph.sync_forth_into AS t USING pgmorph.sync_forth_key AS s WHERE t.key OPERATOR(pg_catalog.=) s.id; EXIT work; END IF;
    IF TG_OP = ''DELETE'' THEN PERFORM pgmorph.sync_forth_row(OLD.id); EXIT work;
    ELSIF TG_OP = ''UPDATE'' THEN
    IF ROW(OLD.id)::record OPERATOR(pg_catalog.*<>) ROW(NEW.id)::record THEN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtext(''pgmorph.sync_forth_from''), pg_catalog.hashtext(pg_catalog.concat_ws(''/'', NEW.id::text)) OPERATOR(pg_catalog.&) 63);
    UPDATE pgmorph.sync_forth_into AS t SET key = NEW.id WHERE t.key OPERATOR(pg_catalog.=) OLD.id AND NOT EXISTS (SELECT FROM pgmorph.sync_forth_into AS o WHERE o.key OPERATOR(pg_catalog.=) NEW.id) AND NOT EXISTS (SELECT FROM pgmorph.sync_forth_key AS s WHERE s.id OPERATOR(pg_catalog.=) OLD.id);
    PERFORM pgmorph.sync_forth_row(OLD.id);
    END IF;
    ELSIF TG_OP = ''INSERT'' THEN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtext(''pgmorph.sync_forth_from''), pg_catalog.hashtext(pg_catalog.concat_ws(''/'', NEW.id::text)) OPERATOR(pg_catalog.&) 63);
    END IF;
    PERFORM pgmorph.sync_forth_row(NEW.id);
    END;
    PERFORM pg_catalog.set_config(''pgmorph.sync'', pgmorph_flag, true);
    RETURN NULL; END';
      REVOKE ALL ON FUNCTION pgmorph.sync_forth_write() FROM PUBLIC;
      CREATE TRIGGER "0_pgmorph_sync_forth_row" AFTER INSERT OR UPDATE ON public."Old Ones" FOR EACH ROW WHEN (current_setting('pgmorph.sync', true) IS DISTINCT FROM CASE pg_trigger_depth() WHEN 0 THEN 'on' ELSE pg_trigger_depth()::text END) EXECUTE FUNCTION pgmorph.sync_forth_write('id');
      ALTER TABLE public."Old Ones" ENABLE ALWAYS TRIGGER "0_pgmorph_sync_forth_row";
      CREATE TRIGGER "9_pgmorph_sync_forth_gone" AFTER DELETE ON public."Old Ones" FOR EACH ROW WHEN (current_setting('pgmorph.sync', true) IS DISTINCT FROM CASE pg_trigger_depth() WHEN 0 THEN 'on' ELSE pg_trigger_depth()::text END) EXECUTE FUNCTION pgmorph.sync_forth_write('id');
      ALTER TABLE public."Old Ones" ENABLE ALWAYS TRIGGER "9_pgmorph_sync_forth_gone";
      CREATE TRIGGER "9_pgmorph_sync_forth_all" BEFORE TRUNCATE ON public."Old Ones" FOR EACH STATEMENT WHEN (current_setting('pgmorph.sync', true) IS DISTINCT FROM CASE pg_trigger_depth() WHEN 0 THEN 'on' ELSE pg_trigger_depth()::text END) EXECUTE FUNCTION pgmorph.sync_forth_write('id');
      ALTER TABLE public."Old Ones" ENABLE ALWAYS TRIGGER "9_pgmorph_sync_forth_all";
      CREATE FUNCTION pgmorph.sync_forth_write1() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'DECLARE pgmorph_flag text := pg_catalog.current_setting(''pgmorph.sync'', true);
    BEGIN
    PERFORM pg_catalog.set_config(''pgmorph.sync'', pg_catalog.pg_trigger_depth()::text, true);
    <<work>> BEGIN
    IF TG_OP = ''TRUNCATE'' THEN PERFORM pgmorph.sync_forth_joined(s.id) FROM pgmorph.sync_forth_key AS s; EXIT work; END IF;
    IF TG_OP = ''DELETE'' THEN PERFORM pgmorph.sync_forth_joined(OLD.of); EXIT work; END IF;
    IF TG_OP = ''UPDATE'' THEN
    IF ROW(OLD.of)::record OPERATOR(pg_catalog.*<>) ROW(NEW.of)::record THEN PERFORM pgmorph.sync_forth_joined(OLD.of); END IF; END IF;
    PERFORM pgmorph.sync_forth_joined(NEW.of);
    END;
    PERFORM pg_catalog.set_config(''pgmorph.sync'', pgmorph_flag, true);
    RETURN NULL; END';
      REVOKE ALL ON FUNCTION pgmorph.sync_forth_write1() FROM PUBLIC;
      CREATE TRIGGER "0_pgmorph_sync_forth_row1" AFTER INSERT OR UPDATE ON public.more FOR EACH ROW WHEN (current_setting('pgmorph.sync', true) IS DISTINCT FROM CASE pg_trigger_depth() WHEN 0 THEN 'on' ELSE pg_trigger_depth()::text END) EXECUTE FUNCTION pgmorph.sync_forth_write1('of');
      ALTER TABLE public.more ENABLE ALWAYS TRIGGER "0_pgmorph_sync_forth_row1";
      CREATE TRIGGER "9_pgmorph_sync_forth_gone1" AFTER DELETE ON public.more FOR EACH ROW WHEN (current_setting('pgmorph.sync', true) IS DISTINCT FROM CASE pg_trigger_depth() WHEN 0 THEN 'on' ELSE pg_trigger_depth()::text END) EXECUTE FUNCTION pgmorph.sync_forth_write1('of');
      ALTER TABLE public.more ENABLE ALWAYS TRIGGER "9_pgmorph_sync_forth_gone1";
      CREATE TRIGGER "9_pgmorph_sync_forth_all1" AFTER TRUNCATE ON public.more FOR EACH STATEMENT WHEN (current_setting('pgmorph.sync', true) IS DISTINCT FROM CASE pg_trigger_depth() WHEN 0 THEN 'on' ELSE pg_trigger_depth()::text END) EXECUTE FUNCTION pgmorph.sync_forth_write1('of');
      ALTER TABLE public.more ENABLE ALWAYS TRIGGER "9_pgmorph_sync_forth_all1";
        locks: public."Old Ones" SHARE ROW EXCLUSIVE, public.more SHARE ROW EXCLUSIVE (lock_timeout 200ms)
      undo DROP FUNCTION IF EXISTS pgmorph.sync_forth_write() CASCADE;
      undo   locks: public."Old Ones" ACCESS EXCLUSIVE (lock_timeout 200ms)
      undo DROP FUNCTION IF EXISTS pgmorph.sync_forth_write1() CASCADE;
      undo   locks: public.more ACCESS EXCLUSIVE (lock_timeout 200ms)
      hazard writes_are_repeated: every write to public."Old Ones", public.more also writes public.new in the same transaction, takes as much longer, and fails if public.new refuses it
      hazard rows_are_locked: a write to a joined table locks the row of public."Old Ones" that it belongs to, until the transaction ends; transactions that write both in opposite orders can meet in a deadlock (SQLSTATE 40P01)
      hazard join_may_repeat: public.more has no unique index on (of): where it has several rows for one key, any one of them counts
    02-sync-define [expand] define how public."Old Ones" follows
      CREATE VIEW pgmorph.sync_back_from AS SELECT new.key AS id, (new."Label") AS label FROM public.new AS new;
      CREATE VIEW pgmorph.sync_back_into AS SELECT id, label FROM public."Old Ones";
      CREATE VIEW pgmorph.sync_back_key AS SELECT key FROM public.new;
      CREATE FUNCTION pgmorph.sync_back_row(bigint) RETURNS void LANGUAGE plpgsql AS '#variable_conflict use_column
    DECLARE wanted pgmorph.sync_back_into%ROWTYPE; there boolean;
    BEGIN FOR attempt IN 1..100 LOOP
    PERFORM FROM pgmorph.sync_back_into AS t WHERE t.id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE;
    there := FOUND;
    SELECT s.id, s.label INTO wanted FROM pgmorph.sync_back_from AS s WHERE s.id OPERATOR(pg_catalog.=) $1;
    IF NOT FOUND THEN RETURN; END IF;
    IF there THEN UPDATE pgmorph.sync_back_into AS t SET label = wanted.label WHERE t.id OPERATOR(pg_catalog.=) $1 AND ROW(t.label)::record OPERATOR(pg_catalog.*<>) ROW(wanted.label)::record; RETURN; END IF;
    INSERT INTO pgmorph.sync_back_into (id, label) VALUES (wanted.id, wanted.label) ON CONFLICT (id) DO NOTHING;
    IF FOUND THEN RETURN; END IF;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = ''triggered_data_change_violation'', MESSAGE = ''sync back: public."Old Ones" does not take a row with this key, and has none'', HINT = ''A trigger BEFORE INSERT may leave the row out or change its key.''; END';
      DO 'DECLARE wanted pgmorph.sync_back_into%ROWTYPE; path text := pg_catalog.current_setting(''search_path'');
    BEGIN
    PERFORM pg_catalog.set_config(name, ''off'', true) FROM pg_catalog.unnest(''{enable_seqscan,enable_hashjoin,enable_mergejoin}''::pg_catalog.text[]) AS name;
    PERFORM pg_catalog.set_config(''search_path'', ''pg_catalog, pg_temp'', true);
    FOR wanted IN SELECT s.id, s.label FROM pgmorph.sync_back_from AS s LIMIT 100 LOOP END LOOP;
    PERFORM pg_catalog.set_config(''search_path'', path, true);
    END';
        locks: public.new ACCESS SHARE, public."Old Ones" ACCESS SHARE (lock_timeout 200ms)
      undo DROP FUNCTION IF EXISTS pgmorph.sync_back_row(bigint);
      undo DROP VIEW IF EXISTS pgmorph.sync_back_from, pgmorph.sync_back_into, pgmorph.sync_back_key;
      undo   locks:  (lock_timeout 200ms)
    02-sync-follow [expand] repeat writes in public."Old Ones"
      CREATE FUNCTION pgmorph.sync_back_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'DECLARE pgmorph_flag text := pg_catalog.current_setting(''pgmorph.sync'', true);
    BEGIN
    PERFORM pg_catalog.set_config(''pgmorph.sync'', pg_catalog.pg_trigger_depth()::text, true);
    <<work>> BEGIN
    IF TG_OP = ''DELETE'' THEN PERFORM pgmorph.sync_back_row(OLD.key); EXIT work;
    ELSIF TG_OP = ''UPDATE'' THEN
    IF ROW(OLD.key)::record OPERATOR(pg_catalog.*<>) ROW(NEW.key)::record THEN
    UPDATE pgmorph.sync_back_into AS t SET id = NEW.key WHERE t.id OPERATOR(pg_catalog.=) OLD.key AND NOT EXISTS (SELECT FROM pgmorph.sync_back_into AS o WHERE o.id OPERATOR(pg_catalog.=) NEW.key) AND NOT EXISTS (SELECT FROM pgmorph.sync_back_key AS s WHERE s.key OPERATOR(pg_catalog.=) OLD.key);
    PERFORM pgmorph.sync_back_row(OLD.key);
    END IF;
    END IF;
    PERFORM pgmorph.sync_back_row(NEW.key);
    END;
    PERFORM pg_catalog.set_config(''pgmorph.sync'', pgmorph_flag, true);
    RETURN NULL; END';
      REVOKE ALL ON FUNCTION pgmorph.sync_back_write() FROM PUBLIC;
      CREATE TRIGGER "0_pgmorph_sync_back_row" AFTER INSERT OR UPDATE ON public.new FOR EACH ROW WHEN (current_setting('pgmorph.sync', true) IS DISTINCT FROM CASE pg_trigger_depth() WHEN 0 THEN 'on' ELSE pg_trigger_depth()::text END) EXECUTE FUNCTION pgmorph.sync_back_write('key');
      ALTER TABLE public.new ENABLE ALWAYS TRIGGER "0_pgmorph_sync_back_row";
        locks: public.new SHARE ROW EXCLUSIVE (lock_timeout 200ms)
      undo DROP FUNCTION IF EXISTS pgmorph.sync_back_write() CASCADE;
      undo   locks: public.new ACCESS EXCLUSIVE (lock_timeout 200ms)
      hazard writes_are_repeated: every write to public.new also writes public."Old Ones" in the same transaction, takes as much longer, and fails if public."Old Ones" refuses it
    01-sync-copy [backfill] copy rows of public."Old Ones" into public.new
      copy public."Old Ones": SELECT pg_catalog.count(*) FROM (SELECT FROM ONLY public."Old Ones" AS o LEFT JOIN more AS m ON m.of = o.id WHERE (o.label <> '') AND NOT EXISTS (SELECT FROM public.new AS "~pgmorph_there" WHERE "~pgmorph_there".key = o.id) FOR SHARE OF o) AS held;
    INSERT INTO public.new (key, "Label", live, own) SELECT o.id AS key, (o.label) AS "Label", (coalesce(m.live, false)) AS live, (gen_random_uuid()) AS own FROM ONLY public."Old Ones" AS o LEFT JOIN more AS m ON m.of = o.id WHERE (o.label <> '') AND NOT EXISTS (SELECT FROM public.new AS "~pgmorph_there" WHERE "~pgmorph_there".key = o.id) FOR SHARE OF o ON CONFLICT (key) DO NOTHING
        locks: public."Old Ones" ROW SHARE, public.new ROW EXCLUSIVE (lock_timeout 200ms, no transaction)
      undo not needed: the copied rows stay: nobody can tell them from rows that were there or came since
      hazard rows_are_written: every row that is copied into public.new goes to the WAL, to standbys and to subscribers, and needs about as much disk as it does in public."Old Ones"
    01-sync-analyze [backfill] gather statistics of public.new
      ANALYZE public.new;
        locks: public.new SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
      undo not needed: statistics do no harm
    01-sync-compare [validate] compare: public.new has what public."Old Ones" makes
      match public.new has what public."Old Ones" makes: SELECT o.id AS key, (o.label) AS "Label", (coalesce(m.live, false)) AS live FROM public."Old Ones" AS o LEFT JOIN more AS m ON m.of = o.id WHERE (o.label <> '')
        with SELECT key, "Label", live FROM public.new
        by key -, Label text, live boolean
        locks: public."Old Ones" ACCESS SHARE, public.new ACCESS SHARE (lock_timeout -, no transaction)
      undo not needed: it only reads
    01-sync-leave_1 [contract] repeat writes to public."Old Ones" no more
      DROP FUNCTION IF EXISTS pgmorph.sync_forth_write() CASCADE;
        locks: public."Old Ones" ACCESS EXCLUSIVE (lock_timeout 200ms)
      irreversible: what is written from then on is not repeated, and nobody could tell it later
    01-sync-leave_2 [contract] repeat writes to public.more no more
      DROP FUNCTION IF EXISTS pgmorph.sync_forth_write1() CASCADE;
        locks: public.more ACCESS EXCLUSIVE (lock_timeout 200ms)
      irreversible: what is written from then on is not repeated, and nobody could tell it later
    01-sync-forget [contract] drop the views and functions of sync forth
      DROP FUNCTION IF EXISTS pgmorph.sync_forth_joined(bigint);
      DROP FUNCTION IF EXISTS pgmorph.sync_forth_row(bigint);
      DROP VIEW IF EXISTS pgmorph.sync_forth_from, pgmorph.sync_forth_into, pgmorph.sync_forth_key;
        locks:  (lock_timeout 200ms)
      irreversible: what is written from then on is not repeated, and nobody could tell it later
    02-sync-leave_1 [contract] repeat writes to public.new no more
      DROP FUNCTION IF EXISTS pgmorph.sync_back_write() CASCADE;
        locks: public.new ACCESS EXCLUSIVE (lock_timeout 200ms)
      irreversible: what is written from then on is not repeated, and nobody could tell it later
    02-sync-forget [contract] drop the views and functions of sync back
      DROP FUNCTION IF EXISTS pgmorph.sync_back_row(bigint);
      DROP VIEW IF EXISTS pgmorph.sync_back_from, pgmorph.sync_back_into, pgmorph.sync_back_key;
        locks:  (lock_timeout 200ms)
      irreversible: what is written from then on is not repeated, and nobody could tell it later
    "#);
}

#[test]
fn everything_wrong_is_told_at_once() {
    let mut now = two_and_one();
    now.role.superuser = false;
    let public = |name: &str| crate::sql::QualifiedName::new("public", name);
    now.tables.get_mut(&public("new")).unwrap().force_row_security = true;
    now.tables.get_mut(&public("more")).unwrap().children = vec![public("child")];
    let changes = "  - sync: {name: a, from: Old Ones, into: new, key: {key: id}, columns: {own: x}, join: JOIN more AS m ON true}\n\
        \x20 - sync: {name: b, from: Old Ones, into: new, key: {own: id}, joined: {more: {live: id, off: label}, new: {key: id}}}\n";
    insta::assert_snapshot!(plan_text(&now, changes), @r#"
    3:43 column_not_given: public.new.live must have a value and is given none (add `live` to `columns`)
    3:43 row_security: public.new hides rows from its owner too (FORCE ROW LEVEL SECURITY) (apply the plan as a superuser, or without FORCE: the triggers must see all rows)
    3:89 missing_key: `joined` is missing: writes to what is joined would not be repeated (joined: {lines: {order_id: id}}: its column, the column of the key of `from`; `joined: {}` where what is joined never changes)
    4:54 key_not_unique: public.new has no unique index on (own) over all of its rows (name the columns of a primary key, or of a unique index that is neither partial nor deferrable)
    4:43 column_not_given: public.new.key must have a value and is given none (add `key` to `columns`)
    4:43 column_not_given: public.new.live must have a value and is given none (add `live` to `columns`)
    4:43 row_security: public.new hides rows from its owner too (FORCE ROW LEVEL SECURITY) (apply the plan as a superuser, or without FORCE: the triggers must see all rows)
    4:59 type_mismatch: public.new.own is uuid, and public."Old Ones".id is bigint
    4:73 missing_key: there is no `join`
    4:73 inheritance: public.more has tables that inherit from it (writes to those are not seen by triggers of this one)
    4:80 type_mismatch: public.more.live is boolean, and the key is bigint
    4:90 unknown_column: public.more has no column `off` (did you mean `of`?)
    4:73 invalid_value: `joined` must give each key column of `from` once: id
    4:103 same_table: public.new is `from` or `into` already
    "#);
}

#[test]
fn a_key_that_would_be_rounded_is_refused() {
    let refused = |of: &str, to: &str| {
        let keyed =
            |kind: &str| table(&[&format!("k {kind} not null"), "a text"]).with_primary_key("pk", &["k"]);
        let now = catalog().with("f", keyed(of)).with("i", keyed(to));
        let changes = "  - sync: {name: n, from: f, into: i, key: [k], columns: [a]}\n";
        plan_text(&now, changes).contains("type_mismatch: ")
    };
    for (of, to) in [
        ("numeric", "numeric(10,2)"),
        ("numeric(10,3)", "numeric(10,2)"),
        ("timestamp with time zone", "timestamp(0) with time zone"),
        ("time(3) without time zone", "time(2) without time zone"),
        ("interval", "interval day to second"),
    ] {
        assert!(refused(of, to), "{of} to {to}");
    }
    for (of, to) in [
        ("numeric(10,2)", "numeric"),
        ("numeric(10,2)", "numeric(12,3)"),
        ("timestamp(0) with time zone", "timestamp with time zone"),
        ("text", "character varying(20)"),
        ("character varying(20)", "character varying(10)"),
        ("integer", "bigint"),
        ("uuid", "uuid"),
    ] {
        assert!(!refused(of, to), "{of} to {to}");
    }
}

#[test]
fn a_name_is_given_once() {
    let entry = |name: &str| {
        format!(
            "  - sync: {{name: {name}, from: new, into: Old Ones, key: {{id: key}}, columns: {{label: new.\"Label\"}}}}\n"
        )
    };
    let changes = entry("a") + &entry("a");
    insta::assert_snapshot!(plan_text(&two_and_one(), &changes), @"4:18 name_taken: this plan has a sync `a` already");
}

#[test]
fn the_driving_row_is_claimed_where_no_foreign_key_guards_it() {
    let guarded = {
        let mut now = two_and_one();
        let more = now
            .tables
            .remove(&crate::sql::QualifiedName::new("public", "more"))
            .unwrap();
        now.with("more", more.with_foreign_key("fk", &["of"], "Old Ones", &["id"]))
    };
    for (now, claims) in [(two_and_one(), true), (guarded, false)] {
        let text = plan_text(&now, BOTH);
        assert_eq!(text.contains("pg_advisory_xact_lock"), claims, "{text}");
        assert_eq!(text.contains("serialization_failure"), !claims, "{text}");
    }
}
