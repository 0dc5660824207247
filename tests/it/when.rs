//! Changes that wait for their conditions, and the runs that a plan then has.

use crate::harness::{Database, Ended, TestServer, pgmorph, schema_dump};
use pgmorph::executor::ledger::{self, RunState};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The second seed document: strategies of many users, and trades that nobody has made yet.
const SETUP: &str = "
CREATE TABLE users (id uuid PRIMARY KEY);
CREATE TABLE user_strategies (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  strategy_name varchar(100) NOT NULL,
  status varchar(50) NOT NULL DEFAULT 'stopped'
);
INSERT INTO user_strategies (strategy_name) SELECT 's' || i FROM generate_series(1, 100) AS i;
ANALYZE;
";

const TRADES: &str = "
CREATE TABLE trades (id bigint PRIMARY KEY, \"strategyName\" text, \"entryTime\" timestamptz);
INSERT INTO trades SELECT i, 's', now() FROM generate_series(1, 100) AS i;
";

const PLAN: &str = "
name: multi_user
changes:
  - add_column: {table: user_strategies, column: user_id, type: uuid}
  - add_column: {table: trades, column: user_id, type: text, when: {table_exists: trades}}
  - create_index:
      name: idx_trades_user_strategy_time
      table: trades
      columns: [user_id, strategyName, {column: entryTime, order: desc}]
      when: {column_exists: trades.user_id}
  - create_index: {name: idx_user_strategies_user, table: user_strategies, columns: [user_id]}
";

const WAITS: &str = "table public.trades does not exist";

struct Scene<'s> {
    database: Database<'s>,
    directory: TempDir,
    url: String,
}

impl<'s> Scene<'s> {
    async fn set(server: &'s TestServer, setup: &str, plan: &str) -> Self {
        let database = Database::create(server, setup).await;
        let scene = Self {
            url: server.url(&database.name, "postgres"),
            directory: TempDir::new().unwrap(),
            database,
        };
        scene.write(plan);
        scene
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn write(&self, plan: &str) {
        std::fs::write(self.path("plan.yaml"), plan).unwrap();
    }

    async fn says(&self, command: &str, arguments: &[&str]) -> Ended {
        let plan = self.path("plan.yaml");
        let yes: &[&str] = match command {
            "apply" | "rollback" => &["--yes"],
            _ => &[],
        };
        pgmorph(&self.url, &[&[command, &plan], yes, arguments].concat()).await
    }

    /// What the command says to a machine.
    async fn json(&self, command: &str) -> Value {
        let ended = self.says(command, &["--format", "json"]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.json()
    }

    /// Applies it, and tells the number of the run, of steps, and of the changes that wait.
    async fn applied(&self) -> (i64, u64, Vec<u64>) {
        let json = self.json("apply").await;
        let waiting = json["waiting"].as_array().unwrap().iter();
        (
            json["run"].as_i64().unwrap(),
            json["steps"].as_u64().unwrap(),
            waiting
                .map(|waiting| waiting["change"].as_u64().unwrap())
                .collect(),
        )
    }

    /// The verdict, and what there is to know about it.
    async fn verified(&self) -> (String, Vec<String>) {
        let ended = self.says("verify", &["--format", "json"]).await;
        let json = ended.json();
        assert_eq!(json["findings"], json!([]), "{json:#}");
        let notes = json["notes"].as_array().unwrap().iter();
        (
            json["verdict"].as_str().unwrap().to_owned(),
            notes.map(|note| note.as_str().unwrap().to_owned()).collect(),
        )
    }

    async fn sql(&self, sql: &str) {
        if let Err(error) = self.database.admin.batch_execute(sql).await {
            panic!("{error:?}: {sql}");
        }
    }

    /// Undoes the latest run only, as a rollback that is killed between two runs does.
    async fn undo_the_latest(&self) {
        let runs = ledger::standing_runs(&self.database.admin, "multi_user").await;
        let run = runs.unwrap().pop().unwrap();
        self.database.rollback(&run.plan).await.unwrap();
    }

    async fn states(&self) -> Vec<(i64, RunState)> {
        let runs = ledger::standing_runs(&self.database.admin, "multi_user")
            .await
            .unwrap();
        runs.iter().map(|run| (run.id, run.state)).collect()
    }
}

#[track_caller]
fn shows(ended: &Ended, texts: &[&str]) {
    for text in texts {
        assert!(ended.stdout.contains(text), "no {text:?} in {}", ended.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_half_whose_table_is_missing_waits_and_is_made_later() {
    let server = TestServer::start(&[]);
    let scene = Scene::set(&server, SETUP, PLAN).await;
    let before = schema_dump(&scene.database).await;
    let reasons = [
        format!("change 2 (add_column): {WAITS}"),
        "change 3 (create_index): column public.trades.user_id does not exist".to_owned(),
    ];
    for format in ["human", "sql"] {
        let plan = scene.says("plan", &["--format", format]).await.expect(0);
        shows(&plan, &[&reasons[0], &reasons[1], "idx_user_strategies_user"]);
        assert!(!plan.stdout.contains("idx_trades"), "{}", plan.stdout);
    }
    let plan = scene.says("plan", &["--format", "markdown"]).await.expect(0);
    shows(&plan, &[&format!("- change 2 (`add_column`): {WAITS}")]);
    let plan = scene.json("plan").await;
    assert_eq!(plan["plan"]["changes"][1]["waiting"], json!(WAITS));
    let refused = pgmorph(&scene.url, &["apply", &scene.path("plan.yaml")]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");

    let applied = scene.says("apply", &[]).await.expect(0);
    shows(&applied, &["2 steps in", "; 2 changes are waiting: ", WAITS]);
    let verdict = scene.verified().await;
    let notes = reasons.iter().map(|reason| reason.replace(": ", " is waiting: "));
    assert_eq!(verdict, ("matches".into(), notes.collect()));
    for named in [true, false] {
        let path = scene.path("plan.yaml");
        let arguments: &[&str] = if named { &["status", &path] } else { &["status"] };
        let status = pgmorph(&scene.url, arguments).await.expect(0);
        shows(
            &status,
            &["completed, 2 of 2 steps done", &reasons[0], &reasons[1]],
        );
    }
    assert_eq!(scene.applied().await, (1, 0, vec![2, 3]), "nothing to do");
    let again = scene.says("apply", &[]).await.expect(0);
    shows(&again, &["nothing to do; 2 changes are waiting: ", WAITS]);

    scene.sql(TRADES).await;
    let (verdict, notes) = scene.verified().await;
    assert_eq!(verdict, "matches");
    assert_eq!(
        notes[0],
        "change 2 (add_column) has waited and may be made now: pgmorph apply"
    );
    let plan = scene.says("plan", &[]).await.expect(0);
    shows(
        &plan,
        &["4 changes in 2 steps", "02-add_column-add", "03-create_index"],
    );
    assert_eq!(scene.applied().await, (2, 2, vec![]), "that half only");
    assert_eq!(scene.verified().await, ("matches".into(), vec![]));
    assert_eq!(scene.applied().await, (2, 0, vec![]));
    shows(
        &scene.says("apply", &[]).await,
        &["nothing to do; all of it is done"],
    );
    let status = scene.json("status").await;
    let runs: Vec<_> = status["runs"].as_array().unwrap().iter().collect();
    let runs: Vec<_> = runs.iter().map(|run| (&run["run"], &run["waiting"])).collect();
    assert_eq!(runs, [(&json!(2), &json!([])), (&json!(1), &json!([]))]);

    let undone = scene.json("rollback").await;
    assert_eq!((&undone["runs"], &undone["steps"]), (&json!([2, 1]), &json!(4)));
    assert_eq!(scene.verified().await, ("rolled_back".into(), vec![]));
    scene.sql("DROP TABLE trades").await;
    assert_eq!(schema_dump(&scene.database).await, before);
    assert_eq!(scene.database.leftovers().await, [""; 0]);
    shows(&scene.says("rollback", &[]).await, &["nothing to roll back"]);

    assert_eq!(scene.applied().await, (3, 2, vec![2, 3]));
    scene.sql(TRADES).await;
    assert_eq!(scene.applied().await, (4, 2, vec![]));
    assert_eq!(scene.verified().await, ("matches".into(), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_run_is_verified_with_what_the_others_made() {
    let server = TestServer::start(&[]);
    let plan = "
name: multi_user
changes:
  - add_column: {table: user_strategies, column: user_id, type: uuid}
  - add_column: {table: user_strategies, column: trade_id, type: bigint, when: {table_exists: trades}}
";
    let scene = Scene::set(&server, SETUP, plan).await;
    assert_eq!(scene.applied().await, (1, 1, vec![2]));
    scene.sql(TRADES).await;
    assert_eq!(scene.applied().await, (2, 1, vec![]));
    assert_eq!(scene.verified().await, ("matches".into(), vec![]));
    for (column, other) in [("user_id", "trade_id"), ("trade_id", "user_id")] {
        scene
            .sql(&format!(
                "ALTER TABLE user_strategies ALTER COLUMN {column} SET STATISTICS 50"
            ))
            .await;
        let drifted = scene.says("verify", &[]).await.expect(1);
        shows(&drifted, &["drifted", column]);
        assert!(!drifted.stdout.contains(other), "{}", drifted.stdout);
        scene
            .sql(&format!(
                "ALTER TABLE user_strategies ALTER COLUMN {column} SET STATISTICS -1"
            ))
            .await;
    }
    scene.says("rollback", &[]).await.expect(0);
    // Of the two catalogs before, it is that of the first run which is there again.
    assert_eq!(scene.verified().await, ("rolled_back".into(), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_ends_between_two_runs_goes_on() {
    let server = TestServer::start(&[]);
    let scene = Scene::set(&server, SETUP, PLAN).await;
    let before = schema_dump(&scene.database).await;
    scene.applied().await;
    scene.sql(TRADES).await;
    scene.applied().await;
    scene.undo_the_latest().await;
    assert_eq!(
        scene.states().await,
        [(1, RunState::Completed), (2, RunState::RolledBack)]
    );
    let (verdict, notes) = scene.verified().await;
    assert_eq!(verdict, "matches");
    assert!(notes[0].starts_with("run 2 of this plan was rolled back; run 1 before it stands"));
    let status = pgmorph(&scene.url, &["status"]).await.expect(0);
    shows(&status, &["(run 2): rolled back", "(run 1): completed"]);

    assert_eq!(scene.applied().await, (3, 2, vec![]), "only what is not in place");
    scene.undo_the_latest().await;
    let undone = scene.json("rollback").await;
    assert_eq!((&undone["runs"], &undone["steps"]), (&json!([1]), &json!(2)));
    assert_eq!(scene.verified().await, ("rolled_back".into(), vec![]));
    scene.sql("DROP TABLE trades").await;
    assert_eq!(schema_dump(&scene.database).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_being_rolled_back_is_finished_first() {
    let server = TestServer::start(&[]);
    let scene = Scene::set(&server, SETUP, PLAN).await;
    scene.applied().await;
    scene.sql(TRADES).await;
    scene.applied().await;
    scene
        .sql("UPDATE pgmorph.runs SET state = 'rolling_back', finished_at = NULL WHERE id = 2")
        .await;
    let refused = scene.says("apply", &[]).await.expect(3);
    assert!(
        refused
            .stderr
            .contains("run 2 of plan multi_user is being rolled back")
    );
    assert_eq!(scene.verified().await.0, "rolling_back");
    let undone = scene.json("rollback").await;
    assert_eq!((&undone["runs"], &undone["steps"]), (&json!([2, 1]), &json!(4)));
    assert_eq!(scene.verified().await, ("rolled_back".into(), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_run_is_resumed_and_undone_before_it_is_finished() {
    let server = TestServer::start(&[]);
    let plan = "
name: multi_user
changes:
  - add_column: {table: user_strategies, column: user_id, type: uuid}
  - add_check: {table: trades, name: named, expression: length(\"strategyName\") > 0, when: {table_exists: trades}}
";
    let scene = Scene::set(&server, SETUP, plan).await;
    let before = schema_dump(&scene.database).await;
    scene.applied().await;
    scene.sql(TRADES).await;
    let begun = scene.says("apply", &["--through", "expand"]).await.expect(0);
    shows(&begun, &["1 step in", "validate is pending"]);
    assert_eq!(scene.verified().await, ("in_progress".into(), vec![]));
    assert_eq!(scene.applied().await, (2, 1, vec![]), "it goes on");
    assert_eq!(scene.verified().await, ("matches".into(), vec![]));
    scene.undo_the_latest().await;
    scene.says("apply", &["--through", "expand"]).await.expect(0);
    assert_eq!(
        scene.states().await,
        [(1, RunState::Completed), (3, RunState::Started)]
    );
    let undone = scene.json("rollback").await;
    assert_eq!((&undone["runs"], &undone["steps"]), (&json!([3, 1]), &json!(2)));
    assert_eq!(scene.verified().await, ("rolled_back".into(), vec![]));
    scene.sql("DROP TABLE trades").await;
    assert_eq!(schema_dump(&scene.database).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_past_its_point_of_no_return_stays() {
    let server = TestServer::start(&[]);
    let plan = "
name: multi_user
changes:
  - drop_column: {table: user_strategies, column: status}
  - add_column: {table: trades, column: user_id, type: text, when: {table_exists: trades}}
";
    let scene = Scene::set(&server, SETUP, plan).await;
    // While its contract is pending, the first run is what there is to do.
    let applied = scene.says("apply", &[]).await.expect(0);
    shows(
        &applied,
        &["contract is pending", "; 1 change is waiting: ", WAITS],
    );
    scene.sql(TRADES).await;
    let applied = scene.says("apply", &[]).await.expect(0);
    shows(
        &applied,
        &["contract is pending", "; 1 change left out when this run began"],
    );
    scene.says("apply", &["--through", "contract"]).await.expect(0);
    assert_eq!(scene.applied().await, (2, 1, vec![]));
    assert_eq!(scene.verified().await, ("matches".into(), vec![]));

    let undone = scene.says("rollback", &["--format", "json"]).await.expect(0);
    assert_eq!(undone.json()["runs"], json!([2]));
    assert!(
        undone
            .stderr
            .contains("run 1 stays, because its step 01-drop_column-"),
        "{}",
        undone.stderr
    );
    let refused = scene.says("rollback", &[]).await.expect(3);
    assert!(refused.stderr.contains("cannot be undone"), "{}", refused.stderr);
    assert_eq!(scene.applied().await, (3, 1, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_plan_goes_on_with_one_that_waits_in_the_middle() {
    let server = TestServer::start(&[]);
    let scene = Scene::set(&server, SETUP, PLAN).await;
    assert_eq!(scene.applied().await, (1, 2, vec![2, 3]));
    let waiting =
        "  - add_column: {table: users, column: trades, type: integer, when: {table_exists: trades}}\n";
    let now = "  - add_column: {table: users, column: name, type: text}\n";
    scene.write(&format!("{PLAN}{waiting}"));
    assert_eq!(
        scene.applied().await,
        (2, 0, vec![2, 3, 5]),
        "recorded as waiting"
    );
    assert_eq!(scene.applied().await, (2, 0, vec![2, 3, 5]));
    scene.write(&format!("{PLAN}{waiting}{now}"));
    assert_eq!(scene.applied().await, (3, 1, vec![2, 3, 5]));
    scene.sql(TRADES).await;
    assert_eq!(scene.applied().await, (4, 3, vec![]));
    assert_eq!(scene.verified().await, ("matches".into(), vec![]));

    scene.write(PLAN);
    let refused = scene.says("apply", &[]).await.expect(3);
    assert!(refused.stderr.contains("is not what run 4"), "{}", refused.stderr);
    scene.write(&format!("{PLAN}{waiting}{now}"));
    let undone = scene.json("rollback").await;
    assert_eq!(
        (&undone["runs"], &undone["steps"]),
        (&json!([4, 3, 2, 1]), &json!(6))
    );
    assert_eq!(scene.applied().await, (5, 6, vec![]), "all of it at once");
}

/// A plan with one change that such a query decides.
fn asked(query: &str) -> String {
    format!(
        "name: other\nchanges:\n  - add_column:\n      table: users\n      column: name\n      type: text\n      when:\n        \
         server: '< 99'\n        query: {query}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_asked_of_the_server() {
    let server = TestServer::start(&[]);
    let scene = Scene::set(
        &server,
        SETUP,
        &asked("SELECT count(*) >= 3 FROM users -- so many"),
    )
    .await;
    let applied = scene.says("apply", &[]).await.expect(0);
    shows(
        &applied,
        &["nothing to do; 1 change is waiting: the query is not true: SELECT count(*) >= 3 FROM users"],
    );
    let offline = scene.path("catalog.json");
    pgmorph(&scene.url, &["snapshot", "-o", &offline]).await.expect(0);
    let refused = scene.says("plan", &["--catalog", &offline]).await.expect(2);
    assert!(
        refused.stderr.contains("error[needs_server]"),
        "{}",
        refused.stderr
    );
    scene
        .sql("INSERT INTO users SELECT gen_random_uuid() FROM generate_series(1, 3)")
        .await;
    assert_eq!(scene.applied().await, (2, 1, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_without_an_answer_are_refused() {
    let server = TestServer::start(&[]);
    let scene = Scene::set(&server, SETUP, &asked("SELECT true")).await;
    scene
        .sql("INSERT INTO users SELECT gen_random_uuid() FROM generate_series(1, 3)")
        .await;
    for (query, complaint) in [
        (
            "SELECT id FROM user",
            "column \"id\" does not exist (SQLSTATE 42703)",
        ),
        (
            "SELECT true FROM userss",
            "relation \"userss\" does not exist (SQLSTATE 42P01)",
        ),
        ("SELECT true, true", "it gives 2 columns rather than one"),
        ("SELECT 1", "it gives int4 rather than boolean"),
        ("SELECT true FROM users", "it gives several rows rather than one"),
        ("SELECT true; DROP TABLE users", "(SQLSTATE 42601)"),
        ("SELECT nextval('s') > 0", "(SQLSTATE 42P01)"),
        (
            "SELECT set_config('a.b', 'c', true) IS NOT NULL FROM pg_sleep(3)",
            "canceling statement due to statement timeout (SQLSTATE 57014)",
        ),
    ] {
        let settings = "other\nsettings: {statement_timeout: 500ms}\n";
        scene.write(&asked(query).replacen("other\n", settings, 1));
        let refused = scene.says("plan", &[]).await.expect(2);
        assert!(
            refused.stderr.contains("error[condition_fails]") && refused.stderr.contains(complaint),
            "{query}: {}",
            refused.stderr
        );
        assert!(refused.stderr.contains("plan.yaml:10:16"), "{}", refused.stderr);
    }
    scene.sql("CREATE SEQUENCE s").await;
    scene.write(&asked("SELECT nextval('s') > 0"));
    let refused = scene.says("plan", &[]).await.expect(2);
    assert!(
        refused.stderr.contains("read-only transaction (SQLSTATE 25006)"),
        "{}",
        refused.stderr
    );
    scene.write(&asked("SELECT true FROM users WHERE id IS NULL"));
    shows(&scene.says("plan", &[]).await.expect(0), &["Nothing to do now."]);
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_that_are_not_meant_wait() {
    let server = TestServer::start(&[]);
    let major = server.major();
    let plan = format!(
        "
name: releases
changes:
  - add_column: {{table: users, column: a, type: text, when: {{server: {major}}}}}
  - add_column: {{table: users, column: b, type: text, when: {{server: '>= {}'}}}}
  - set_default: {{table: users, column: b, default: \"'x'\", when: {{column_exists: users.b}}}}
  - set_default: {{table: users, column: a, default: \"'x'\", when: {{column_exists: users.a}}}}
",
        major + 1
    );
    let scene = Scene::set(&server, SETUP, &plan).await;
    let applied = scene.says("apply", &[]).await.expect(0);
    let older = format!("the server is PostgreSQL {major}, not >= {}", major + 1);
    shows(
        &applied,
        &["2 steps in", &older, "column public.users.b does not exist"],
    );
    assert_eq!(scene.applied().await, (1, 0, vec![2, 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_change_creates_is_there() {
    let server = TestServer::start(&[]);
    let plan = "
name: created
changes:
  - create_table:
      name: trades
      columns: {id: bigint, quantity: numeric}
      when: {table_missing: trades}
  - add_column: {table: trades, column: user_id, type: text, default: \"lower('X')\", when: {table_exists: trades}}
  - create_index:
      name: trades_user_idx
      table: trades
      columns: [{expression: lower(user_id)}]
      when: {column_exists: trades.user_id}
  - add_check:
      table: trades
      name: trades_user_check
      expression: user_id <> ''
      when: {index_exists: trades_user_idx, table_missing: users}
";
    let scene = Scene::set(&server, SETUP, plan).await;
    let applied = scene.says("apply", &[]).await.expect(0);
    shows(&applied, &["; 1 change is waiting: table public.users exists"]);
    assert_eq!(scene.verified().await.0, "matches");
    scene.sql("DROP TABLE users").await;
    assert_eq!(scene.applied().await, (2, 2, vec![]));
    assert_eq!(scene.verified().await, ("matches".into(), vec![]));
    scene.says("rollback", &[]).await.expect(0);
    let there = "SELECT count(*) FROM pg_class WHERE relname LIKE 'trades%'";
    let there = scene.database.admin.query_one(there, &[]).await.unwrap();
    assert_eq!(there.get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_are_found() {
    let server = TestServer::start(&[]);
    let long = "x".repeat(63);
    let setup = format!(
        "CREATE SCHEMA \"My Schema\"; CREATE TABLE \"My Schema\".\"sel.ect\" (\"Ünïque \"\"Column\"\"\" text, \"{long}\" text);
         CREATE INDEX \"{long}\" ON \"My Schema\".\"sel.ect\" (\"{long}\");
         CREATE VIEW \"My Schema\".\"order\" AS SELECT 1 AS a;"
    );
    let plan = format!(
        "name: odd
changes:
  - add_column:
      table: 'My Schema.\"sel.ect\"'
      column: a
      type: text
      when:
        table_exists: 'My Schema.\"sel.ect\"'
        column_exists: [{{table: 'My Schema.\"sel.ect\"', column: 'Ünïque \"Column\"'}}, 'My Schema.\"sel.ect\".{long}']
        index_exists: My Schema.{long}
        view_exists: My Schema.order
        schema_exists: My Schema
        schema_missing: my schema
        table_missing: my schema.\"sel.ect\"
"
    );
    let scene = Scene::set(&server, &setup, &plan).await;
    assert_eq!(scene.applied().await, (1, 1, vec![]));
    assert_eq!(scene.verified().await, ("matches".into(), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_plan_fits_only_what_was_in_place_when_it_was_made() {
    let server = TestServer::start(&[]);
    let scene = Scene::set(&server, SETUP, PLAN).await;
    let [first, second] = ["first.json", "second.json"].map(|name| scene.path(name));
    scene.says("plan", &["-o", &first]).await.expect(0);
    let apply = async |plan: &str| pgmorph(&scene.url, &["apply", plan, "--yes"]).await;
    shows(&apply(&first).await.expect(0), &["2 steps in"]);
    scene.sql(TRADES).await;
    scene.says("plan", &["-o", &second]).await.expect(0);
    shows(
        &apply(&first).await.expect(0),
        &["nothing to do; 2 changes are waiting"],
    );
    scene.undo_the_latest().await;
    let refused = apply(&second).await.expect(3);
    assert!(
        refused.stderr.contains("other changes of this plan are in place"),
        "{}",
        refused.stderr
    );
    scene.applied().await;
    scene.undo_the_latest().await;
    scene.sql("DROP TABLE trades").await;
    shows(&apply(&first).await.expect(0), &["2 steps in"]);
    scene.sql(TRADES).await;
    shows(
        &apply(&second).await.expect(0),
        &["2 steps in", "all of it is done"],
    );
    shows(
        &apply(&second).await.expect(0),
        &["nothing to do; all of it is done"],
    );
    assert_eq!(scene.verified().await, ("matches".into(), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manual_is_told() {
    let manual = pgmorph("postgresql://localhost:1/x", &["explain", "when"])
        .await
        .expect(0);
    shows(&manual, &["column_exists", "Locks: none"]);
    let list = pgmorph("postgresql://localhost:1/x", &["explain"])
        .await
        .expect(0);
    shows(&list, &["when "]);
}
