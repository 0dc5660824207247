//! `rehearse --sample`: rows of the live database, and the rows that they refer to; and what is told of temporary files.

use super::everything::{created, site};
use crate::harness::{Database, TestServer, pgmorph};
use pgmorph::change_plan;
use pgmorph::postgres::settings::ConnectionSettings;
use pgmorph::rehearse::rows::{Filled, Origin};
use pgmorph::rehearse::sample::BOUNDS;
use pgmorph::rehearse::{Script, temporary};
use std::process::Stdio;

/// More than is sampled of all of it.
const LIVE: &str = r#"
    CREATE SCHEMA "Odd Schema";
    CREATE TYPE mood AS ENUM ('sad', 'o''k');
    -- A reference to itself, in a chain that no sample has whole.
    CREATE TABLE staff (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, boss bigint REFERENCES staff, mood mood NOT NULL);
    INSERT INTO staff (boss, mood) SELECT nullif(i - 1, 0), 'o''k' FROM generate_series(1, 60) AS i;
    -- Two tables that refer to each other, in rings of ten.
    CREATE TABLE teams (id int PRIMARY KEY, head int NOT NULL);
    CREATE TABLE heads (id int PRIMARY KEY, team int NOT NULL REFERENCES teams DEFERRABLE);
    INSERT INTO teams SELECT i, CASE WHEN i % 10 = 0 THEN i - 9 ELSE i + 1 END FROM generate_series(1, 3000) AS i;
    INSERT INTO heads SELECT 3001 - i, 3001 - i FROM generate_series(1, 3000) AS i;
    ALTER TABLE teams ADD CONSTRAINT teams_head_fkey FOREIGN KEY (head) REFERENCES heads DEFERRABLE;
    -- Names, a generated column, two columns to a key, quotes in them, and NULL.
    CREATE TABLE "Odd Schema"."Kinds" ("Group" text, "select" varchar(20), n int, twice int GENERATED ALWAYS AS (n * 2) STORED,
      PRIMARY KEY ("Group", "select"));
    INSERT INTO "Odd Schema"."Kinds" SELECT 'it''s \' || i % 7, 'k' || i, i FROM generate_series(1, 2000) AS i;
    CREATE TABLE "Odd Schema"."Things" (id int PRIMARY KEY, "Group" text, kind varchar(20), boss bigint REFERENCES staff (id),
      payload bytea, at timestamptz DEFAULT '2026-03-04 05:06:07.89+02',
      FOREIGN KEY ("Group", kind) REFERENCES "Odd Schema"."Kinds");
    INSERT INTO "Odd Schema"."Things" SELECT i, CASE WHEN i % 3 > 0 THEN 'it''s \' || (2000 - i) % 7 END, 'k' || 2000 - i,
      60 - i % 50, '\x00ff' FROM generate_series(1, 1900) AS i;
    -- Partitions on both sides; the partition of the second may be read through its root only.
    CREATE TABLE events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2025-01-01');
    CREATE TABLE events_new PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2030-01-01');
    INSERT INTO events SELECT i, date '2021-01-01' + i FROM generate_series(1, 3000) AS i;
    CREATE TABLE marks (event int, day date, note text, FOREIGN KEY (event, day) REFERENCES events) PARTITION BY HASH (event);
    CREATE TABLE marks_0 PARTITION OF marks FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE marks_1 PARTITION OF marks FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO marks SELECT 3001 - i, date '2021-01-01' + 3001 - i, 'x' FROM generate_series(1, 2900) AS i;
    -- A table that inherits is one of its own.
    CREATE TABLE base (a int); CREATE TABLE heir (b int) INHERITS (base);
    INSERT INTO base VALUES (1); INSERT INTO heir VALUES (2, 3), (4, 5);
    -- Secrets: some that refer to them go with them, and some stay.
    CREATE TABLE secrets (id int PRIMARY KEY, word text NOT NULL); INSERT INTO secrets SELECT i, 'hush' FROM generate_series(1, 9) AS i;
    CREATE TABLE uses (id int PRIMARY KEY, secret int REFERENCES secrets);
    INSERT INTO uses SELECT i, nullif(i % 10, 0) FROM generate_series(1, 40) AS i;
    CREATE TABLE of_uses (use int NOT NULL REFERENCES uses); INSERT INTO of_uses SELECT i FROM generate_series(1, 40) AS i;
    -- What was never validated, and does not hold.
    CREATE TABLE lax (id int PRIMARY KEY, n int, staff int); INSERT INTO lax VALUES (1, -1, 1), (2, 2, 999999);
    ALTER TABLE lax ADD CONSTRAINT lax_n CHECK (n > 0) NOT VALID,
      ADD CONSTRAINT lax_staff FOREIGN KEY (staff) REFERENCES staff NOT VALID;
    -- A trigger that fires always, and a policy.
    CREATE TABLE audit (what text);
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.audit VALUES (TG_TABLE_NAME); RETURN NULL; END';
    CREATE TRIGGER audit AFTER INSERT OR DELETE ON uses FOR EACH ROW EXECUTE FUNCTION audit();
    ALTER TABLE uses ENABLE ALWAYS TRIGGER audit;
    CREATE TABLE tenants (id int PRIMARY KEY, mine bool NOT NULL); INSERT INTO tenants SELECT i, i % 2 = 0 FROM generate_series(1, 20) AS i;
    ALTER TABLE tenants ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON tenants USING (mine);
    -- A key from one collation to another.
    CREATE TABLE names (name text COLLATE "C" PRIMARY KEY); INSERT INTO names SELECT 'n' || i FROM generate_series(1, 3000) AS i;
    CREATE TABLE named (name text COLLATE "POSIX" REFERENCES names); INSERT INTO named VALUES ('n2999'), ('n2998'), (NULL);
    -- Too large to be read from its beginning.
    CREATE TABLE large (id int PRIMARY KEY, filler text);
    INSERT INTO large SELECT i, repeat('x', 500) FROM generate_series(1, 20000) AS i; ANALYZE large;
    CREATE TABLE empty (id int);
    DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sampler') THEN CREATE ROLE sampler LOGIN; END IF; END $$;
    GRANT USAGE ON SCHEMA "Odd Schema" TO sampler;
    GRANT SELECT ON ALL TABLES IN SCHEMA public, "Odd Schema" TO sampler;
    GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO sampler;
    REVOKE SELECT ON secrets, events_new FROM sampler;
"#;

const ROWS: u64 = 20;

async fn dump(server: &TestServer, database: &str) -> String {
    let mut command = server.command("pg_dump");
    let url = server.url(database, "postgres");
    command
        .args(["--schema-only", "--dbname", &url])
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Of all rows of all tables, and of who wrote them when.
async fn fingerprint(database: &Database<'_>) -> Vec<String> {
    let tables =
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE relkind = 'r' AND c.oid >= 16384 ORDER BY 1";
    let mut found = Vec::new();
    for row in database.admin.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        let sql = format!(
            "SELECT coalesce(md5(string_agg(t::text || xmin || xmax || ctid, ',' ORDER BY ctid)), '') FROM ONLY {table} AS t"
        );
        let rows: String = database.admin.query_one(&sql, &[]).await.unwrap().get(0);
        found.push(format!("{table} {rows}"));
    }
    found
}

fn of<'a>(filled: &'a [Filled], name: &str) -> &'a Filled {
    let found = filled.iter().find(|it| it.table.to_string() == name);
    found.unwrap_or_else(|| panic!("{name}: {filled:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rows_refer_to_comes_with_them() {
    let server = TestServer::start(&[]);
    let live = Database::create(&server, LIVE).await;
    let before = fingerprint(&live).await;
    let site = site(&server);
    let copy = server.next_database();
    site.create(&copy, &dump(&server, &live.name).await)
        .await
        .unwrap();
    let url = server.url(&live.name, "sampler");
    let settings = ConnectionSettings::resolve(Some(&url), &|_| None).unwrap();
    let session = settings.bounded("pgmorph", BOUNDS).await.unwrap();
    let mut told = Vec::new();
    let mut tell = |text: &str| told.push(text.to_owned());
    let filled = Box::pin(site.sample(&copy, &session.client, ROWS, &mut tell))
        .await
        .unwrap();
    assert!(
        told.iter()
            .any(|text| text.starts_with("sampling public.events, table ")),
        "{told:#?}"
    );

    let here = Database::open(&server, &copy).await;
    let count = async |sql: &str| -> i64 { here.admin.query_one(sql, &[]).await.unwrap().get(0) };
    // All foreign keys hold, but for the one that does not in the live database.
    let keys = "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint \
        WHERE contype = 'f' AND conparentid = 0";
    let mut broken = Vec::new();
    for row in here.admin.query(keys, &[]).await.unwrap() {
        let (table, name, definition): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let definition = definition.trim_end_matches(" NOT VALID");
        let sql = format!(
            "SET search_path = public; ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {definition}"
        );
        if here.admin.batch_execute(&sql).await.is_err() {
            broken.push(name);
        }
    }
    assert_eq!(broken, ["lax_staff"]);

    for (table, at_least, at_most) in [
        (r#""Odd Schema"."Things""#, 20, 20),
        (r#""Odd Schema"."Kinds""#, 21, 40),
        ("public.teams", 40, 200),
        ("public.heads", 40, 200),
        // Up to those who have no boss.
        ("public.staff", 40, 60),
        ("public.marks_0", 20, 20),
        ("public.marks_1", 20, 20),
        ("public.base", 1, 1),
        ("public.heir", 2, 2),
        // Those without a secret, and what refers to them.
        ("public.uses", 1, 2),
        ("public.of_uses", 1, 2),
        ("public.lax", 2, 2),
        ("public.tenants", 10, 10),
        ("public.named", 3, 3),
        ("public.names", 22, 22),
        ("public.large", 10, 20),
        ("public.empty", 0, 0),
    ] {
        let it = of(&filled, table);
        assert_eq!(
            (it.source, &it.why_not_sampled),
            (Origin::Sampled, &None),
            "{it:?}"
        );
        assert!((at_least..=at_most).contains(&it.rows), "{it:?}");
    }
    assert_eq!(
        of(&filled, "public.secrets").why_not_sampled.as_deref(),
        Some("the role may not read it")
    );
    assert!(of(&filled, "public.uses").left_out >= 18, "{filled:#?}");
    assert!(of(&filled, "public.tenants").row_security);
    // Through their root: so many of all of them, and those that the marks refer to.
    let events = of(&filled, "public.events_old").rows + of(&filled, "public.events_new").rows;
    assert!((40..=60).contains(&events), "{filled:#?}");
    assert_eq!(
        count("SELECT count(*) FROM audit").await,
        0,
        "triggers do not fire"
    );
    assert_eq!(
        count("SELECT count(*) FROM pg_trigger WHERE tgname = 'audit' AND tgenabled = 'A'").await,
        1
    );
    assert_eq!(
        count("SELECT count(*) FROM pg_constraint WHERE conname = 'lax_n' AND NOT convalidated").await,
        1
    );
    assert_eq!(count("SELECT nextval('staff_id_seq')").await, 61);
    let large = count("SELECT max(id)::int8 FROM large").await;
    assert!(large > 5_000, "the sample is the beginning of the table: {large}");
    let same = r#"SELECT count(*) FROM "Odd Schema"."Things" WHERE payload = '\x00ff' AND at = '2026-03-04 05:06:07.89+02'"#;
    assert_eq!(count(same).await, 20);

    // The live database is as it was, and nothing of it is locked.
    assert_eq!(fingerprint(&live).await, before);
    let locks = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) \
        WHERE a.usename = 'sampler' AND (l.locktype = 'relation' OR a.xact_start IS NOT NULL)";
    assert_eq!(
        live.admin.query_one(locks, &[]).await.unwrap().get::<_, i64>(0),
        0
    );
}

/// Something that the role may not read.
const SHOP: &str = "CREATE TABLE parents (id int PRIMARY KEY); INSERT INTO parents SELECT generate_series(1, 500);\n\
    CREATE TABLE orders (id int PRIMARY KEY, parent int REFERENCES parents, number text NOT NULL);\n\
    INSERT INTO orders SELECT i, i % 500 + 1, md5(i::text) FROM generate_series(1, 60000) AS i;\n\
    CREATE TABLE secrets (id int PRIMARY KEY); INSERT INTO secrets VALUES (1); CREATE TABLE nothing (id int);\n\
    DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sampler') THEN CREATE ROLE sampler LOGIN; END IF; END $$;\n\
    GRANT SELECT ON orders, parents, nothing TO sampler;";

const PLAN: &str = "name: numbers\nchanges:\n  - create_index: {name: orders_number_idx, table: orders, columns: [number]}\n  \
    - add_check: {table: orders, name: orders_number_check, expression: length(number) > 0}\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_where_rows_are_from() {
    let server = TestServer::start(&[]);
    let live = Database::create(&server, SHOP).await;
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.yaml");
    std::fs::write(&plan, PLAN).unwrap();
    let (plan, bindir) = (plan.display().to_string(), server.bindir().display().to_string());
    // pg_dump does not take the role.
    let url = server.url(&live.name, "postgres");
    let arguments = [
        "rehearse",
        &plan,
        "--pg-bindir",
        &bindir,
        "--role",
        "sampler",
        "--rows",
        "7",
        "--sample",
        "4000",
        "--format",
    ];
    let json = pgmorph(&url, &[&arguments[..], &["json"]].concat())
        .await
        .expect(0)
        .json();
    let shown = &json["rehearsal"];
    assert_eq!(shown["agrees"], true, "{shown:#}");
    let rows = shown["rows"].as_array().unwrap();
    let of = |table: &str| {
        let it = rows.iter().find(|it| it["table"] == table).unwrap();
        (
            it["source"].as_str().unwrap(),
            it["rows"].as_u64().unwrap(),
            it["why_not_sampled"].as_str(),
        )
    };
    // Of about as many pages as have them.
    let (source, orders, _) = of("public.orders");
    assert!(
        source == "sampled" && (3_000..=4_000).contains(&orders),
        "{rows:?}"
    );
    assert_eq!(of("public.parents"), ("sampled", 500, None));
    assert_eq!(of("public.nothing"), ("sampled", 0, None));
    assert_eq!(
        of("public.secrets"),
        ("made_up", 7, Some("the role may not read it"))
    );
    assert_eq!(shown["temporary_bytes"], 0);
    assert_eq!(shown["steps"][0]["seen"]["temp_bytes"], 0, "its log tells");
    let human = pgmorph(&url, &[&arguments[..], &["human"]].concat())
        .await
        .expect(0)
        .stdout;
    for words in [
        "rows of 2 tables were copied from the database",
        "7 rows of 1 table were made up",
        "public.secrets was not sampled: the role may not read it; its rows are made up",
    ] {
        assert!(human.contains(words), "{words}\n{human}");
    }
}

/// What the statement that builds the index, and what all others together wrote of temporary files, there and on the way
/// back, as they are told; and the sum by the server's own count.
async fn spilled(server: &TestServer, database: &str) -> (u64, u64, u64) {
    let file = change_plan::parse(PLAN).unwrap();
    let rehearsed = Box::pin(site(server).rehearse(database, Script::File(&file, None))).await;
    let Ok(rehearsal) = rehearsed else {
        panic!("no rehearsal")
    };
    let (mut of_index, mut of_others) = (0, 0);
    for statement in &rehearsal.statements {
        let bytes = statement.temp_bytes.expect("the log tells of each");
        match statement.sql.starts_with("CREATE INDEX CONCURRENTLY") {
            true => of_index += bytes,
            false => of_others += bytes,
        }
    }
    (of_index, of_others, rehearsal.temporary_bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_files_are_told_of_the_statement_that_wrote_them() {
    let parallel = [
        ("min_parallel_table_scan_size", "0"),
        ("max_parallel_maintenance_workers", "2"),
        ("maintenance_work_mem", "96MB"),
    ];
    let server = TestServer::start(&[&parallel[..], &temporary::SETTINGS].concat());
    let database = created(&server, SHOP).await;
    // Parallel workers hand over what they have sorted as files, however little it is; their leader removes them.
    let (of_index, of_others, all) = spilled(&server, &database).await;
    assert!(of_index > 1_000_000, "{of_index}");
    // The index is built on the copy for the way back, too, where nobody looks.
    assert!(of_others == 0 && all > of_index, "{of_others}, {all}");
    let admin = server.connect("postgres").await;
    let alone = "ALTER ROLE postgres SET maintenance_work_mem = '1MB'; ALTER ROLE postgres SET max_parallel_maintenance_workers = 0";
    admin.batch_execute(alone).await.unwrap();
    let (of_index, of_others, all) = spilled(&server, &database).await;
    assert!(of_index > 1_000_000, "{of_index}");
    assert_eq!((of_others, all), (0, 2 * of_index));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_there_is_no_sample() {
    for other in ["--schema", "--catalog"] {
        let ended = pgmorph("", &["rehearse", "plan.yaml", "--sample", "5", other, "x"]).await;
        assert!(ended.expect(2).stderr.contains("cannot be used with"), "{other}");
    }
    for rows in ["0", "1000001"] {
        pgmorph("", &["rehearse", "plan.yaml", "--sample", rows])
            .await
            .expect(2);
    }
}
