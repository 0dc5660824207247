//! What a role lacks, by name.

use crate::harness::{Database, TestServer, pgmorph};

const ROLES: &str = "CREATE ROLE clerk LOGIN; CREATE ROLE other";

/// Tables of the clerk and of another one, and things of the other one that nobody else may use.
const SETUP: &str = "
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA app AUTHORIZATION other; GRANT USAGE ON SCHEMA app TO clerk;
CREATE SCHEMA mine AUTHORIZATION clerk;
CREATE SCHEMA closed AUTHORIZATION other;
CREATE SCHEMA pgmorph AUTHORIZATION clerk;
CREATE TABLE app.orders (id integer PRIMARY KEY, customer_id integer, version integer NOT NULL DEFAULT 0, note text);
INSERT INTO app.orders SELECT i, i, 0, 'n' FROM generate_series(1, 100) AS i;
CREATE TABLE app.customers (id integer PRIMARY KEY, name text);
INSERT INTO app.customers SELECT i, 'n' FROM generate_series(1, 100) AS i;
CREATE TABLE closed.hidden (id integer PRIMARY KEY, name text);
CREATE TYPE app.mood AS ENUM ('a', 'b'); REVOKE ALL ON TYPE app.mood FROM PUBLIC;
CREATE FUNCTION app.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION app.f() FROM PUBLIC;
CREATE FUNCTION app.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
REVOKE ALL ON FUNCTION app.t() FROM PUBLIC;
ALTER TABLE app.orders OWNER TO clerk; ALTER TABLE app.customers OWNER TO other; ALTER TABLE closed.hidden OWNER TO other;
ALTER TYPE app.mood OWNER TO other; ALTER FUNCTION app.f() OWNER TO other; ALTER FUNCTION app.t() OWNER TO other;
";

struct Case {
    /// Besides the setup.
    also: &'static str,
    changes: &'static [&'static str],
    /// Each stands in what `plan` says, and together they are all that is missing.
    mends: &'static [&'static str],
}

const fn one(change: &'static [&'static str], mends: &'static [&'static str]) -> Case {
    Case {
        also: "",
        changes: change,
        mends,
    }
}

const CASES: &[Case] = &[
    one(
        &["create_index: {table: app.orders, columns: [note]}"],
        &["GRANT CREATE ON SCHEMA app TO clerk"],
    ),
    one(
        &["add_unique: {table: app.orders, columns: [id, note]}"],
        &["GRANT CREATE ON SCHEMA app TO clerk"],
    ),
    one(
        &["rename_table: {table: app.orders, to: orders2}"],
        &["GRANT CREATE ON SCHEMA app TO clerk"],
    ),
    one(
        &["create_table: {name: app.t1, columns: {id: bigint}}"],
        &["GRANT CREATE ON SCHEMA app TO clerk"],
    ),
    one(
        &["create_enum: {name: app.e, values: [a]}"],
        &["GRANT CREATE ON SCHEMA app TO clerk"],
    ),
    one(
        &["create_view: {name: app.v, select: SELECT id FROM app.orders}"],
        &["GRANT CREATE ON SCHEMA app TO clerk"],
    ),
    one(
        &["add_column: {table: app.orders, column: m, type: app.mood}"],
        &["GRANT USAGE ON TYPE app.mood TO clerk"],
    ),
    one(
        &["create_table: {name: mine.t1, columns: {m: app.mood}}"],
        &["GRANT USAGE ON TYPE app.mood TO clerk"],
    ),
    one(
        &["add_column: {table: app.orders, column: m, type: integer, default: app.f()}"],
        &["GRANT EXECUTE ON FUNCTION app.f() TO clerk"],
    ),
    one(
        &["add_check: {table: app.orders, name: c, expression: app.f() > version}"],
        &["GRANT EXECUTE ON FUNCTION app.f() TO clerk"],
    ),
    one(
        &["create_trigger: {name: t, table: app.orders, timing: before, events: [insert], function: app.t}"],
        &["GRANT EXECUTE ON FUNCTION app.t() TO clerk"],
    ),
    one(
        &["add_foreign_key: {table: app.orders, columns: [customer_id], references: {table: app.customers}}"],
        &["GRANT other TO clerk"],
    ),
    one(
        &["set_not_null: {table: app.customers, column: name}"],
        &["GRANT other TO clerk"],
    ),
    one(
        &["create_schema: {name: fresh}"],
        &["GRANT CREATE ON DATABASE $DB TO clerk"],
    ),
    one(
        &["grant: {privileges: [SELECT, INSERT], tables: [app.customers], to: [clerk]}"],
        &["GRANT SELECT, INSERT ON app.customers TO clerk WITH GRANT OPTION"],
    ),
    // What is read.
    one(
        &[
            "backfill: {table: app.orders, set: {note: (SELECT max(name) || 'x' FROM app.customers)}, needs: note = 'n', no_undo: none}",
        ],
        &["GRANT SELECT ON TABLE app.customers TO clerk"],
    ),
    one(
        &["backfill: {table: app.orders, set: {version: app.f()}, needs: version = 0, no_undo: none}"],
        &["GRANT EXECUTE ON FUNCTION app.f() TO clerk"],
    ),
    one(
        &[
            "backfill: {table: app.orders, set: {note: (SELECT max(name) FROM closed.hidden)}, needs: note = 'n', no_undo: none}",
        ],
        &[
            "GRANT USAGE ON SCHEMA closed TO clerk",
            "GRANT SELECT ON TABLE closed.hidden TO clerk",
        ],
    ),
    one(
        &[
            "sql: {summary: s, run: \"SELECT 1\", lock: {}, no_undo: none, phase: expand, expect: SELECT count(*) >= 0 FROM app.customers}",
        ],
        &["GRANT SELECT ON TABLE app.customers TO clerk"],
    ),
    // The ledger.
    Case {
        also: "DROP SCHEMA pgmorph",
        changes: &["set_default: {table: app.orders, column: version, default: \"1\"}"],
        mends: &["GRANT CREATE ON DATABASE $DB TO clerk"],
    },
    Case {
        also: "DROP SCHEMA pgmorph; CREATE SCHEMA pgmorph AUTHORIZATION other",
        changes: &["set_default: {table: app.orders, column: version, default: \"1\"}"],
        mends: &["GRANT other TO clerk"],
    },
    // All at once.
    Case {
        also: "DROP SCHEMA pgmorph",
        changes: &[
            "create_index: {table: app.orders, columns: [note]}",
            "add_column: {table: app.orders, column: m, type: app.mood}",
            "add_column: {table: app.orders, column: n, type: integer, default: app.f()}",
            "set_not_null: {table: app.customers, column: name}",
        ],
        mends: &[
            "GRANT CREATE ON SCHEMA app TO clerk",
            "GRANT USAGE ON TYPE app.mood TO clerk",
            "GRANT EXECUTE ON FUNCTION app.f() TO clerk",
            "GRANT other TO clerk",
            "GRANT CREATE ON DATABASE $DB TO clerk",
        ],
    },
    Case {
        also: "DROP SCHEMA pgmorph",
        changes: &[
            "backfill: {table: app.orders, set: {note: (SELECT max(name) || 'x' FROM app.customers)}, needs: note = 'n', no_undo: none}",
            "backfill: {table: app.orders, set: {version: app.f()}, needs: version = 0, no_undo: none}",
        ],
        mends: &[
            "GRANT SELECT ON TABLE app.customers TO clerk",
            "GRANT EXECUTE ON FUNCTION app.f() TO clerk",
            "GRANT CREATE ON DATABASE $DB TO clerk",
        ],
    },
];

fn plan_file(changes: &[&str]) -> String {
    let changes: Vec<String> = changes.iter().map(|change| format!("  - {change}\n")).collect();
    format!("name: p\nchanges:\n{}", changes.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_by_plan_and_what_is_told_mends_it() {
    let server = TestServer::start(&[]);
    server
        .connect("postgres")
        .await
        .batch_execute(ROLES)
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plan.yaml").display().to_string();
    let mut complaints = Vec::new();
    for case in CASES {
        let database = Database::create(&server, &format!("{SETUP}{}", case.also)).await;
        let url = server.url(&database.name, "clerk");
        std::fs::write(&path, plan_file(case.changes)).unwrap();
        let schema = crate::harness::schema_dump(&database).await;
        for arguments in [&["plan", &path][..], &["apply", &path, "--yes"]] {
            let refused = pgmorph(&url, arguments).await;
            let said = refused.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
            let told = |mend: &&&str| !said.contains(&mend.replace("$DB", &database.name));
            let untold: Vec<_> = case.mends.iter().filter(told).collect();
            if refused.code != Some(3) || !untold.is_empty() {
                complaints.push(format!(
                    "{:?} {arguments:?}: code {:?}, untold {untold:?}: {said}",
                    case.changes, refused.code
                ));
            }
        }
        assert_eq!(
            crate::harness::schema_dump(&database).await,
            schema,
            "something was changed: {:?}",
            case.changes
        );
        for mend in case.mends {
            let mend = mend.replace("$DB", &database.name);
            database
                .admin
                .batch_execute(&mend)
                .await
                .unwrap_or_else(|error| panic!("{mend}: {error:?}"));
        }
        let applied = pgmorph(&url, &["apply", &path, "--yes", "--through", "contract"]).await;
        if applied.code != Some(0) {
            complaints.push(format!("{:?}: not mended: {}", case.changes, applied.stderr));
        }
        database
            .admin
            .batch_execute("REVOKE other FROM clerk")
            .await
            .unwrap();
        database.drop().await;
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_and_comparisons_read_too_and_a_saved_plan_is_asked_again() {
    let server = TestServer::start(&[]);
    server
        .connect("postgres")
        .await
        .batch_execute(ROLES)
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (path, saved) = (at("plan.yaml"), at("saved.json"));
    let head = "name: p\nbefore:\n  - {name: nobody, query: SELECT FROM app.customers WHERE id < 0}\n";
    let tail = "changes:\n  - set_default: {table: app.orders, column: version, default: \"1\"}\n";
    let after = "after:\n  - {name: still nobody, query: SELECT FROM closed.hidden WHERE id < 0}\n";
    let monitor = "monitor:\n  - {name: how many, query: SELECT app.f()}\n";
    std::fs::write(&path, format!("{head}{tail}{after}{monitor}")).unwrap();
    let database = Database::create(&server, SETUP).await;
    let url = server.url(&database.name, "clerk");
    let refused = pgmorph(&url, &["plan", &path]).await.expect(3);
    for part in [
        "nobody: clerk lacks SELECT on table app.customers",
        "GRANT SELECT ON TABLE app.customers TO clerk",
        "GRANT USAGE ON SCHEMA closed TO clerk",
        "GRANT EXECUTE ON FUNCTION app.f() TO clerk",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let json = pgmorph(&url, &["plan", &path, "--format", "json"])
        .await
        .expect(3)
        .json();
    assert_eq!(
        json["error"]["diagnostics"][0]["code"], "missing_privilege",
        "{json}"
    );
    // Saved by somebody who may, and taken away since.
    let grants = "GRANT SELECT ON TABLE app.customers, closed.hidden TO clerk; GRANT USAGE ON SCHEMA closed TO clerk; \
                  GRANT EXECUTE ON FUNCTION app.f() TO clerk";
    database.admin.batch_execute(grants).await.unwrap();
    pgmorph(&url, &["plan", &path, "-o", &saved]).await.expect(0);
    database
        .admin
        .batch_execute("REVOKE SELECT ON TABLE app.customers FROM clerk")
        .await
        .unwrap();
    let refused = pgmorph(&url, &["apply", &saved, "--yes"]).await.expect(3);
    assert!(
        refused
            .stderr
            .contains("GRANT SELECT ON TABLE app.customers TO clerk"),
        "{}",
        refused.stderr
    );
    database
        .admin
        .batch_execute("GRANT SELECT ON TABLE app.customers TO clerk")
        .await
        .unwrap();
    pgmorph(&url, &["apply", &saved, "--yes"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_somebody_else_is_no_riddle() {
    let server = TestServer::start(&[]);
    server
        .connect("postgres")
        .await
        .batch_execute(ROLES)
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plan.yaml").display().to_string();
    std::fs::write(
        &path,
        plan_file(&["set_default: {table: app.orders, column: version, default: \"1\"}"]),
    )
    .unwrap();
    let database = Database::create(
        &server,
        &SETUP.replace("CREATE SCHEMA pgmorph AUTHORIZATION clerk;", ""),
    )
    .await;
    let admin = server.url(&database.name, "postgres");
    pgmorph(&admin, &["apply", &path, "--yes"]).await.expect(0);
    let url = server.url(&database.name, "clerk");
    for arguments in [&["plan", &path][..], &["apply", &path, "--yes"], &["status"]] {
        let refused = pgmorph(&url, arguments).await.expect(3);
        assert!(
            refused.stderr.contains("which belongs to postgres")
                && refused.stderr.contains("GRANT postgres TO clerk"),
            "{arguments:?}: {}",
            refused.stderr
        );
    }
}
