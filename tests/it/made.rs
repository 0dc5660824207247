//! What is made beside the tables: planned without a lock on tables in use, compared by `verify` while other plans come
//! and go, and after a rollback.

use crate::harness::{Database, Ended, TestServer, pgmorph};
use tempfile::TempDir;

const SETUP: &str = "
CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL, state integer);
INSERT INTO users SELECT i, 'n' FROM generate_series(1, 100) AS i;
CREATE TABLE old_orders (id bigint PRIMARY KEY);
ANALYZE;
";

struct Scene<'s> {
    database: Database<'s>,
    url: String,
    directory: TempDir,
}

impl<'s> Scene<'s> {
    async fn new(server: &'s TestServer) -> Self {
        let database = Database::create(server, SETUP).await;
        Self {
            url: server.url(&database.name, "postgres"),
            database,
            directory: TempDir::new().unwrap(),
        }
    }

    async fn says(&self, verb: &str, name: &str, more: &[&str]) -> Ended {
        let path = self.directory.path().join(format!("{name}.yaml"));
        pgmorph(&self.url, &[&[verb, path.to_str().unwrap()], more].concat()).await
    }

    /// Writes the plan and applies it as far as it goes.
    async fn applies(&self, name: &str, changes: &str, more: &[&str]) -> Ended {
        let text = format!("name: {name}\nchanges:\n{changes}");
        std::fs::write(self.directory.path().join(format!("{name}.yaml")), text).unwrap();
        self.says("apply", name, &[&["--yes"], more].concat()).await
    }

    async fn by_hand(&self, sql: &str) {
        self.database.admin.batch_execute(sql).await.unwrap();
    }

    /// What `verify` shows of one finding, and of no other.
    async fn finds(&self, name: &str, text: &str) {
        let found = self.says("verify", name, &["--format", "json"]).await.expect(1);
        let findings = found.json()["findings"].clone();
        assert_eq!(findings.as_array().map(Vec::len), Some(1), "{findings:#}");
        assert!(findings.to_string().contains(text), "{text}: {findings:#}");
    }
}

const MAKES: &str = "
  - create_schema: {name: app}
  - create_enum: {name: state, values: [new, sent]}
  - create_function: {name: f, arguments: {s: state}, returns: text, language: sql, body: 'SELECT s::text'}
  - create_view: {name: app.v, select: SELECT id FROM users, comment: by id}
  - create_materialized_view: {name: m, select: SELECT id FROM users}
";

#[tokio::test(flavor = "multi_thread")]
async fn verify_leaves_objects_to_the_plans_that_changed_them_since() {
    let server = TestServer::start(&[]);
    let scene = Scene::new(&server).await;
    let through = ["--through", "contract"];
    scene.applies("makes", MAKES, &through).await.expect(0);
    scene.says("verify", "makes", &[]).await.expect(0);
    let changes = "
  - add_enum_value: {type: state, value: paid}
  - create_function: {name: f, arguments: {s: state}, returns: text, language: sql, replace: true, body: 'SELECT upper(s::text)'}
  - create_view: {name: app.v, select: SELECT id + 0 AS id FROM users, replace: true}
";
    scene.applies("changes", changes, &through).await.expect(0);
    scene.says("verify", "changes", &[]).await.expect(0);
    let verified = scene.says("verify", "makes", &[]).await.expect(0).stdout;
    for object in [
        "type public.state",
        "function public.f(public.state)",
        "view app.v",
    ] {
        let note = format!("{object} was changed by a later plan");
        assert!(verified.contains(&note), "{note}: {verified}");
    }
    scene.by_hand("COMMENT ON VIEW app.v IS 'other'").await;
    scene.finds("changes", "view app.v").await;
    scene.says("verify", "makes", &[]).await.expect(0);
    scene.by_hand("DROP MATERIALIZED VIEW m").await;
    scene.finds("makes", "materialized view public.m").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_asks_for_what_a_rollback_should_have_removed_or_given_back() {
    let server = TestServer::start(&[]);
    let scene = Scene::new(&server).await;
    let function = async |text: &str| {
        let body = format!("'SELECT ''{text}'''");
        let sql = format!("CREATE OR REPLACE FUNCTION public.old() RETURNS text LANGUAGE sql AS {body}");
        scene.by_hand(&sql).await;
    };
    function("one").await;
    scene
        .by_hand("CREATE VIEW w AS SELECT 1 AS one; COMMENT ON VIEW w IS 'first'")
        .await;
    let changes = format!(
        "{MAKES}
  - create_function: {{name: old, returns: text, language: sql, replace: true, body: SELECT 'two'}}
  - create_view: {{name: w, select: SELECT 2 AS one, replace: true, comment: second}}
  - create_view: {{name: w, select: SELECT 3 AS one, replace: true, comment: third}}
"
    );
    let through = ["--through", "contract"];
    scene.applies("all", &changes, &through).await.expect(0);
    scene.says("verify", "all", &[]).await.expect(0);
    scene.says("rollback", "all", &["--yes"]).await.expect(0);
    scene.says("verify", "all", &[]).await.expect(0);
    for (spoils, mends, found) in [
        (
            "CREATE TYPE state AS ENUM ('new')",
            "DROP TYPE state",
            "type public.state",
        ),
        ("CREATE SCHEMA app", "DROP SCHEMA app", "schema app"),
        (
            "CREATE MATERIALIZED VIEW m AS SELECT 1 AS one",
            "DROP MATERIALIZED VIEW m",
            "materialized view public.m",
        ),
        (
            "COMMENT ON VIEW w IS 'other'",
            "COMMENT ON VIEW w IS 'first'",
            "view public.w",
        ),
    ] {
        scene.by_hand(spoils).await;
        scene.finds("all", found).await;
        scene.by_hand(mends).await;
    }
    function("two").await;
    scene.finds("all", "function public.old()").await;
    function("one").await;
    scene.says("verify", "all", &[]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_leftovers_beside_an_unfinished_plan_and_leaves_it_its_own() {
    let server = TestServer::start(&[]);
    let scene = Scene::new(&server).await;
    let through = ["--through", "contract"];
    let done = "  - create_enum: {name: state, values: [new]}\n";
    scene.applies("done", done, &through).await.expect(0);
    let retires = "  - retire_table: {table: old_orders, keep: 30d}\n";
    scene
        .applies("retires", retires, &["--through", "cutover"])
        .await
        .expect(0);
    let syncs =
        "  - change_type: {table: users, column: state, type: text, reverse_using: \"state::integer\"}\n";
    scene
        .applies("syncs", syncs, &["--through", "expand"])
        .await
        .expect(0);
    let own = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgmorph'::regnamespace";
    assert!(
        crate::backfill::number(&scene.database, own).await > 0,
        "the unfinished plan has a function of ours"
    );
    scene.says("verify", "done", &[]).await.expect(0);
    scene
        .by_hand(
            "CREATE FUNCTION pgmorph.\"users~pgmorph_sync\"() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        )
        .await;
    scene.finds("done", "users~pgmorph_sync").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_column_refers_to_is_not_locked_to_say_so() {
    let server = TestServer::start(&[]);
    let scene = Scene::new(&server).await;
    let session = scene.database.session().await;
    session
        .batch_execute("BEGIN; INSERT INTO users VALUES (1000, 'x')")
        .await
        .unwrap();
    let plan = "name: x\nchanges:\n  - create_table: {name: a, columns: {id: bigint REFERENCES users}}\n";
    let refused = scene.database.plan(plan).await.unwrap_err();
    assert_eq!(refused[0].code, "references_in_column", "{refused:#?}");
    session.batch_execute("ROLLBACK").await.unwrap();
}
