//! `--role`: a login that acts as a role it is a member of, in every session.

use crate::harness::{Database, Running, TestServer, pgmorph, until};
use std::path::Path;

const ORDERS: &str = "
CREATE TABLE orders (id integer PRIMARY KEY, version integer NOT NULL DEFAULT 0, note text);
INSERT INTO orders SELECT i, 0, 'note ' || i FROM generate_series(1, 2000) AS i;
";

const PLAN: &str = "
name: p
settings: {small_table: 0}
changes:
  - widen_column: {table: orders, column: version, type: bigint}
  - create_index: {name: orders_note_idx, table: orders, columns: [note]}
  - create_table: {name: lines, columns: {id: bigint GENERATED ALWAYS AS IDENTITY}}
  - create_view: {name: notes, select: 'SELECT id, note FROM orders'}
";

const BUILD: &str = "
name: b
changes:
  - create_index: {name: built, table: orders, columns: [version]}
";

/// Tables of a role that cannot log in; `deployer` is a member, in this way.
async fn database<'s>(server: &'s TestServer, deployer: &str) -> Database<'s> {
    let mut database = Database::create(server, ORDERS).await;
    let name = &database.name;
    let setup = format!(
        "CREATE ROLE app_owner_{name}; CREATE ROLE deployer_{name} LOGIN {deployer}; \
         GRANT app_owner_{name} TO deployer_{name}; ALTER DATABASE {name} OWNER TO app_owner_{name}; \
         ALTER TABLE orders OWNER TO app_owner_{name}; GRANT ALL ON SCHEMA public TO app_owner_{name}"
    );
    database.admin.batch_execute(&setup).await.unwrap();
    database.user = format!("deployer_{name}");
    database
}

fn owner_of(database: &Database<'_>) -> String {
    format!("app_owner_{}", database.name)
}

fn url(database: &Database<'_>) -> String {
    database.server.url(&database.name, &database.user)
}

fn written(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// What belongs to others than this role, in the schemas that the plan and the ledger use.
async fn strangers(database: &Database<'_>) -> Vec<String> {
    let sql = "SELECT c.oid::regclass::text || ' of ' || pg_get_userbyid(c.relowner) FROM pg_class c \
               WHERE c.relnamespace IN ('public'::regnamespace, to_regnamespace('pgmorph')) \
                AND pg_get_userbyid(c.relowner) <> $1 \
               UNION ALL SELECT nspname || ' of ' || pg_get_userbyid(nspowner) FROM pg_namespace \
               WHERE nspname = 'pgmorph' AND pg_get_userbyid(nspowner) <> $1 ORDER BY 1";
    let rows = database.admin.query(sql, &[&owner_of(database)]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_belongs_to_the_role() {
    let server = TestServer::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let plan = written(directory.path(), "p.yaml", PLAN);
    for deployer in ["INHERIT", "NOINHERIT"] {
        let database = database(&server, deployer).await;
        let (url, role) = (url(&database), owner_of(&database));
        let as_role = async |arguments: &[&str]| {
            let arguments = [arguments, &["--role", &role]].concat();
            pgmorph(&url, &arguments).await.expect(0)
        };
        as_role(&["plan", &plan]).await;
        as_role(&["apply", &plan, "--yes"]).await;
        let verified = pgmorph(&url, &["verify", &plan, "--role", &role]).await.expect(1);
        assert!(
            verified.stdout.contains("contract pending"),
            "{}",
            verified.stdout
        );
        assert_eq!(strangers(&database).await, Vec::<String>::new(), "{deployer}");
        let sql = "SELECT DISTINCT started_by FROM pgmorph.runs";
        let started_by: String = database.admin.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(started_by, database.user, "the ledger tells who it was");
        as_role(&["rollback", &plan, "--yes"]).await;
        as_role(&["apply", &plan, "--yes", "--through", "contract"]).await;
        as_role(&["verify", &plan]).await;
        as_role(&["status"]).await;
        assert_eq!(strangers(&database).await, Vec::<String>::new(), "{deployer}");
        assert_eq!(database.leftovers().await, Vec::<String>::new());
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_the_role_is_cancelled() {
    let server = TestServer::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let plan = written(directory.path(), "b.yaml", BUILD);
    for deployer in ["INHERIT", "NOINHERIT"] {
        let database = database(&server, deployer).await;
        let old = server.connect(&database.name).await;
        old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            .await
            .unwrap();
        let arguments = ["apply", &plan, "--yes", "--role", &owner_of(&database)];
        let running = Running::start(&url(&database), &arguments);
        until("the build waits for the old snapshot", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX%'";
            database.admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        running.signal("TERM").await;
        running.end().await.expect(130);
        old.batch_execute("ROLLBACK").await.unwrap();
        pgmorph(&url(&database), &arguments).await.expect(0);
        assert_eq!(database.leftovers().await, Vec::<String>::new());
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_acts_as_the_role_also_after_it_was_lost() {
    let server = TestServer::start(&[]);
    let database = database(&server, "").await;
    let role = owner_of(&database);
    let default = format!("ALTER ROLE {} SET role = {role}", database.user);
    // Asked for, and set by the administrator.
    for (settings, default) in [
        (database.settings().acting_as(Some(&role)), None),
        (database.settings(), Some(&default)),
    ] {
        if let Some(sql) = default {
            database.admin.batch_execute(sql).await.unwrap();
        }
        let pool = settings.pool("test", 1, Vec::new()).unwrap();
        let acts_as = async || -> (String, i32) {
            let session = pool.get().await.unwrap();
            let row = session
                .query_one("SELECT current_user::text, pg_backend_pid()", &[])
                .await
                .unwrap();
            (row.get(0), row.get(1))
        };
        let (first, pid) = acts_as().await;
        assert_eq!(first, role);
        assert_eq!(acts_as().await, (role.clone(), pid), "when it is used again");
        pool.get()
            .await
            .unwrap()
            .batch_execute("SET ROLE NONE")
            .await
            .unwrap();
        assert_eq!(
            acts_as().await,
            (role.clone(), pid),
            "when somebody has set another"
        );
        database
            .admin
            .execute("SELECT pg_terminate_backend($1)", &[&pid])
            .await
            .unwrap();
        until("another session", async || match pool.get().await {
            Ok(session) => session.query_one("SELECT 1", &[]).await.is_ok(),
            Err(_) => false,
        })
        .await;
        let (again, other) = acts_as().await;
        assert!(again == role && other != pid, "{again} {other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_one_is_no_member_of_is_refused() {
    let server = TestServer::start(&[]);
    let database = database(&server, "").await;
    let directory = tempfile::tempdir().unwrap();
    let plan = written(directory.path(), "b.yaml", BUILD);
    let mut setup = "CREATE ROLE \"Stranger \"\"x\"\"\"; CREATE ROLE unset".to_owned();
    if server.major() >= 16 {
        setup += &format!("; GRANT unset TO {} WITH SET FALSE", database.user);
    }
    database.admin.batch_execute(&setup).await.unwrap();
    for (role, said) in [
        ("Stranger \"x\"", "permission denied to set role"),
        ("unset", "permission denied to set role"),
        ("nobody at all", "does not exist"),
        ("x\"; DROP TABLE orders; --", "does not exist"),
    ] {
        for arguments in [vec!["plan", &plan], vec!["apply", &plan, "--yes"], vec!["status"]] {
            let arguments = [&arguments[..], &["--role", role]].concat();
            let ended = pgmorph(&url(&database), &arguments).await.expect(5);
            assert!(
                ended.stderr.contains("may not act as the role")
                    && ended.stderr.contains(said)
                    && ended.stderr.contains("GRANT"),
                "{role}: {}",
                ended.stderr
            );
        }
    }
    let none = pgmorph(&url(&database), &["status", "--role", ""]).await;
    none.expect(0);
}
