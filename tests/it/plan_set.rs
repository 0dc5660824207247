//! Directories of plans, as the program applies, shows, verifies and rolls them back.

use crate::harness::{Database, Ended, TestServer, pgmorph, schema_dump};
use serde_json::{Value, json};
use std::path::PathBuf;

mod baseline;
mod gates;
mod names;
mod rollback;

/// What the document of the third system began with: tenants in a schema of their own.
const TENANTS: &str = "\
name: multi_tenant_user_model
changes:
  - sql:
      run: |
        CREATE SCHEMA copilot_internal;
        CREATE TABLE copilot_internal.tenants (id uuid PRIMARY KEY, name text NOT NULL)
      undo: DROP TABLE copilot_internal.tenants; DROP SCHEMA copilot_internal
      phase: expand
      expect: to_regclass('copilot_internal.tenants') IS NOT NULL
";
const COSTS: &str = "\
name: llm_cost_tracking
changes:
  - sql:
      run: CREATE TABLE costs (id bigint PRIMARY KEY, tenant uuid, amount integer)
      undo: DROP TABLE costs
      phase: expand
      expect: to_regclass('costs') IS NOT NULL
";
const BUDGET: &str = "\
name: cost_budget
depends_on: [llm_cost_tracking]
changes:
  - add_column: {table: costs, column: budget, type: text}
";

/// The document's mistake, where `schema` is not the one that has the table, or the file comes too early.
fn policies(schema: &str) -> String {
    format!(
        "\
name: tenant_llm_policies
changes:
  - sql:
      run: |
        CREATE TABLE policies (
          tenant_id uuid NOT NULL UNIQUE
            REFERENCES {schema}.tenants (id) ON DELETE CASCADE)
      undo: DROP TABLE policies
      phase: expand
      expect: to_regclass('policies') IS NOT NULL
"
    )
}

/// A database, and a directory of plans beside it.
struct Place<'s> {
    database: Database<'s>,
    directory: tempfile::TempDir,
}

impl<'s> Place<'s> {
    async fn new(server: &'s TestServer, plans: &[(&str, &str)]) -> Self {
        let place = Self {
            database: Database::create(server, "").await,
            directory: tempfile::tempdir().unwrap(),
        };
        for (name, text) in plans {
            place.write(name, text);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Runs a command on the directory.
    async fn all(&self, command: &str, more: &[&str]) -> Ended {
        let directory = self.directory.path().display().to_string();
        self.on(command, &directory, more).await
    }

    /// Runs a command on one of its files.
    async fn one(&self, command: &str, file: &str, more: &[&str]) -> Ended {
        let path = self.path(file).display().to_string();
        self.on(command, &path, more).await
    }

    async fn on(&self, command: &str, path: &str, more: &[&str]) -> Ended {
        let url = self.database.server.url(&self.database.name, &self.database.user);
        let mut arguments = vec![command, path];
        arguments.extend(more);
        pgmorph(&url, &arguments).await
    }

    /// What `status` says of each plan.
    async fn states(&self) -> Vec<String> {
        let status = self.all("status", &["--format", "json"]).await.expect(0).json();
        let plans = status["plans"].as_array().unwrap();
        let state = |plan: &Value| format!("{} {}", text(&plan["plan"]), text(&plan["state"]));
        plans.iter().map(state).collect()
    }

    async fn truth(&self, sql: &str) -> bool {
        self.database.admin.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// All of the schema, and whether there is a ledger.
    async fn picture(&self) -> (String, bool) {
        let ledger = "SELECT to_regnamespace('pgmorph') IS NOT NULL";
        (schema_dump(&self.database).await, self.truth(ledger).await)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

const EARLY: &str = "20251229_tenant_llm_policies.yaml";
const LATE: &str = "20260105_tenant_llm_policies.yaml";

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_order_is_refused_before_anything_runs() {
    let server = TestServer::start(&[]);
    let plans = [
        (EARLY, policies("public")),
        ("20260101_costs.yaml", COSTS.to_owned()),
        ("20260103_users.yaml", TENANTS.to_owned()),
    ];
    let plans = plans.each_ref().map(|(name, text)| (*name, text.as_str()));
    let place = Place::new(&server, &plans).await;
    let before = place.picture().await;

    let refused = place.all("apply", &["--yes"]).await.expect(2);
    for part in [
        "20251229_tenant_llm_policies.yaml:7:24",
        "error[unresolved]: there is no public.tenants",
        "did you mean `copilot_internal.tenants`?",
    ] {
        assert!(refused.stderr.contains(part), "{part}\n{}", refused.stderr);
    }
    place.write(EARLY, &policies("copilot_internal"));
    let refused = place.all("apply", &["--yes"]).await.expect(2);
    for part in [
        "20251229_tenant_llm_policies.yaml:7:24",
        "error[order]: copilot_internal.tenants is made by 20260103_users.yaml",
        "`depends_on: [multi_tenant_user_model]`",
        "20260101_costs.yaml, 20260103_users.yaml, 20251229_tenant_llm_policies.yaml",
    ] {
        assert!(refused.stderr.contains(part), "{part}\n{}", refused.stderr);
    }
    assert_eq!(place.picture().await, before, "not even the ledger");

    place.rename(EARLY, LATE);
    let asked = place.all("apply", &[]).await.expect(1);
    assert!(
        asked.stderr.contains("nobody is at the terminal"),
        "{}",
        asked.stderr
    );
    assert_eq!(place.picture().await, before, "not confirmed");
    place.all("apply", &["--yes"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_apply_in_order_and_roll_back_in_reverse() {
    let server = TestServer::start(&[]);
    let policies = policies("copilot_internal");
    let plans = [("1.yaml", COSTS), ("2.yaml", TENANTS), ("3.yaml", &policies)];
    let place = Place::new(&server, &plans).await;
    let applied = place
        .all("apply", &["--yes", "--format", "json"])
        .await
        .expect(0)
        .json();
    let names: Vec<&str> = applied["plans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plan| text(&plan["plan"]))
        .collect();
    assert_eq!(
        names,
        [
            "llm_cost_tracking",
            "multi_tenant_user_model",
            "tenant_llm_policies"
        ]
    );
    assert!(place.truth("SELECT to_regclass('policies') IS NOT NULL").await);
    let again = place.all("apply", &["--yes"]).await.expect(0);
    assert!(again.stdout.contains("nothing to do"), "{}", again.stdout);

    let back = place
        .all("rollback", &["--yes", "--format", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(back["plans"][0]["plan"], "tenant_llm_policies", "the last first");
    assert_eq!(back["left"], json!([]));
    assert!(
        place
            .truth("SELECT to_regnamespace('copilot_internal') IS NULL")
            .await
    );
    assert!(
        place
            .states()
            .await
            .iter()
            .all(|state| state.ends_with(" rolled_back"))
    );
    place.all("apply", &["--yes"]).await.expect(0);
    place.all("verify", &[]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_dependency_gives_the_order_and_a_plan_by_itself_waits_for_it() {
    let server = TestServer::start(&[]);
    let place = Place::new(&server, &[("1.yaml", BUDGET), ("2.yml", COSTS)]).await;
    let refused = place.one("apply", "1.yaml", &["--yes"]).await.expect(2);
    assert!(refused.stderr.contains("there is no table"), "{}", refused.stderr);
    let admin = &place.database.admin;
    admin
        .batch_execute("CREATE TABLE costs (id bigint)")
        .await
        .unwrap();
    let refused = place.one("apply", "1.yaml", &["--yes"]).await.expect(3);
    assert!(
        refused
            .stderr
            .contains("plan cost_budget depends on llm_cost_tracking"),
        "{}",
        refused.stderr
    );
    admin.batch_execute("DROP TABLE costs").await.unwrap();
    place.all("apply", &["--yes"]).await.expect(0);
    assert_eq!(
        place.states().await,
        ["llm_cost_tracking applied", "cost_budget applied"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_every_state() {
    let server = TestServer::start(&[]);
    let place = Place::new(
        &server,
        &[("1.yaml", COSTS), ("2.yaml", BUDGET), ("3.yaml", TENANTS)],
    )
    .await;
    assert_eq!(
        place.states().await,
        [
            "llm_cost_tracking pending",
            "cost_budget pending",
            "multi_tenant_user_model pending"
        ]
    );
    place.all("apply", &["--yes"]).await.expect(0);

    let changed = BUDGET.replace("type: text", "type: integer");
    place.write("2.yaml", &changed);
    let states = place.states().await;
    assert!(states.contains(&"cost_budget changed".to_owned()), "{states:?}");
    let more = "name: more\nchanges:\n  - add_column: {table: costs, column: note, type: text}\n";
    place.write("0.yaml", more);
    let refused = place.all("apply", &["--yes"]).await.expect(3);
    assert!(refused.stderr.contains("+add_column"), "{}", refused.stderr);
    assert!(
        place.states().await.contains(&"more pending".to_owned()),
        "one before it was not begun either"
    );
    place.all("verify", &[]).await.expect(1);

    let extended = format!("{BUDGET}  - add_column: {{table: costs, column: currency, type: text}}\n");
    place.write("2.yaml", &extended);
    place.all("apply", &["--yes"]).await.expect(0);
    assert!(place.truth("SELECT count(*) = 5 FROM pg_attribute WHERE attrelid = 'costs'::regclass AND attnum > 0 AND attname <> 'tenant'").await);

    let drops = "name: more\nchanges:\n  - add_column: {table: costs, column: note, type: text}\n  - drop_column: {table: costs, column: amount}\n";
    place.write("0.yaml", drops);
    place.all("apply", &["--yes"]).await.expect(0);
    let status = place.all("status", &[]).await.expect(0).stdout;
    assert!(status.contains("contract is pending"), "{status}");
    let finished = place
        .all("apply", &["--yes", "--through", "contract"])
        .await
        .expect(0);
    assert!(finished.stdout.contains("more: 1 step"), "{}", finished.stdout);

    std::fs::remove_file(place.path("3.yaml")).unwrap();
    let states = place.states().await;
    assert_eq!(states.last().unwrap(), "multi_tenant_user_model missing");
    let verified = place.all("verify", &[]).await.expect(0).stdout;
    assert!(verified.contains("was changed by a later plan"), "{verified}");
    let refused = place.all("rollback", &["--yes"]).await.expect(3);
    assert!(refused.stderr.contains("cannot be undone"), "{}", refused.stderr);
    assert!(place.states().await.contains(&"cost_budget applied".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_at_the_first_failure_and_goes_on_later() {
    let server = TestServer::start(&[]);
    let broken = BUDGET.replace("type: text", "type: text, default: '1 / (SELECT 0)'");
    let place = Place::new(
        &server,
        &[("1.yaml", COSTS), ("2.yaml", &broken), ("3.yaml", TENANTS)],
    )
    .await;
    let stopped = place.all("apply", &["--yes", "--format", "json"]).await;
    let result = stopped.json();
    assert_eq!(stopped.code, Some(2), "{result}");
    assert_eq!(result["plans"][0]["plan"], "llm_cost_tracking");
    assert_eq!(result["left"], json!(["cost_budget", "multi_tenant_user_model"]));
    assert_eq!(result["error"]["kind"], "usage");
    let stopped = place.all("apply", &["--yes"]).await.expect(2);
    assert!(stopped.stderr.contains("2.yaml:4:"), "{}", stopped.stderr);
    place.write("2.yaml", BUDGET);
    place.all("apply", &["--yes"]).await.expect(0);
    assert!(
        place
            .states()
            .await
            .iter()
            .all(|state| state.ends_with(" applied"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_under_another_name_is_recognised_by_what_it_changes() {
    let server = TestServer::start(&[]);
    let place = Place::new(&server, &[("1.yaml", COSTS), ("2.yaml", BUDGET)]).await;
    place.all("apply", &["--yes"]).await.expect(0);
    let renamed = BUDGET.replace("name: cost_budget", "name: budgets");
    place.write("2.yaml", &renamed);
    let status = place.all("status", &["--format", "json"]).await.expect(0).json();
    assert_eq!(
        (&status["plans"][1]["note"], &status["plans"][1]["recorded_as"]),
        (
            &json!("applied as cost_budget, recognised by digest"),
            &json!("cost_budget")
        )
    );
    assert_eq!(
        place.states().await,
        ["llm_cost_tracking applied", "budgets applied"]
    );
    let again = place.all("apply", &["--yes"]).await.expect(0);
    assert!(again.stdout.contains("nothing to do"), "{}", again.stdout);
    place.all("verify", &[]).await.expect(0);
    // The same words about another schema are another change.
    place
        .database
        .admin
        .batch_execute("CREATE SCHEMA other; CREATE TABLE other.costs ()")
        .await
        .unwrap();
    place.write("2.yaml", &renamed.replace("changes:", "schema: other\nchanges:"));
    let states = place.states().await;
    assert_eq!(
        states,
        [
            "llm_cost_tracking applied",
            "budgets pending",
            "cost_budget missing"
        ]
    );
    place.write("2.yaml", &renamed);
    place.all("rollback", &["--yes"]).await.expect(0);
    assert!(place.truth("SELECT to_regclass('public.costs') IS NULL").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_is_recorded_where_the_changes_are_there() {
    let server = TestServer::start(&[]);
    let defaults =
        "name: defaults\nchanges:\n  - set_default: {table: orders, column: state, default: \"'new'\"}\n";
    let checked = defaults.replace("name: defaults", "name: asked")
        + "after:\n  - name: no lost orders\n    query: SELECT 1 WHERE false\n";
    let place = Place::new(&server, &[("1.yaml", defaults), ("2.yaml", &checked)]).await;
    let admin = &place.database.admin;
    admin
        .batch_execute("CREATE TABLE orders (state text)")
        .await
        .unwrap();
    let refused = place.one("baseline", "1.yaml", &["--yes"]).await.expect(3);
    assert!(
        refused.stderr.contains("column state") && refused.stderr.contains("--force"),
        "{}",
        refused.stderr
    );
    assert!(place.truth("SELECT to_regclass('pgmorph.runs') IS NULL").await);

    let hook = "name: hook\nchanges:\n  - sql:\n      run: CREATE TABLE hooks (id int)\n      undo: DROP TABLE hooks\n      phase: expand\n      expect: to_regclass('hooks') IS NOT NULL\n";
    place.write("3.yaml", hook);
    admin.batch_execute("CREATE TABLE hooks (id int)").await.unwrap();
    let seen = place.one("baseline", "3.yaml", &["--yes"]).await.expect(0);
    assert!(
        seen.stdout.contains("hook: recorded as applied (run 1)"),
        "{}",
        seen.stdout
    );
    let forced = place
        .all("baseline", &["--yes", "--force", "--format", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(forced["plans"].as_array().unwrap().len(), 2, "{forced}");
    assert_eq!(
        place.states().await,
        ["defaults baseline", "asked baseline", "hook baseline"]
    );
    place.all("apply", &["--yes"]).await.expect(0);
    assert!(
        place.truth("SELECT NOT atthasdef FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'state'").await,
        "nothing was run"
    );
    let refused = place.one("rollback", "3.yaml", &["--yes"]).await.expect(3);
    assert!(refused.stderr.contains("is a baseline"), "{}", refused.stderr);
    let nothing = place.all("rollback", &["--yes"]).await.expect(0);
    assert!(
        nothing.stdout.contains("nothing to roll back"),
        "{}",
        nothing.stdout
    );
    let refused = place
        .one("baseline", "3.yaml", &["--yes", "--force"])
        .await
        .expect(3);
    assert!(refused.stderr.contains("has a run already"), "{}", refused.stderr);
    let status = place.one("status", "3.yaml", &[]).await.expect(0).stdout;
    assert!(status.contains("baseline, recorded as applied"), "{status}");
    place.one("verify", "3.yaml", &[]).await.expect(0);
    // What is added to the file is a change as any other.
    place.write(
        "1.yaml",
        &format!("{defaults}  - add_column: {{table: orders, column: note, type: text}}\n"),
    );
    place.all("apply", &["--yes"]).await.expect(0);
    assert!(place.truth("SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'note')").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_the_version_before_is_read_and_brought_forward() {
    let server = TestServer::start(&[]);
    let place = Place::new(&server, &[("1.yaml", COSTS)]).await;
    place.all("apply", &["--yes"]).await.expect(0);
    let older = "ALTER TABLE pgmorph.runs DROP COLUMN baseline; UPDATE pgmorph.ledger SET version = 2";
    place.database.admin.batch_execute(older).await.unwrap();
    assert_eq!(place.states().await, ["llm_cost_tracking applied"]);
    place.one("status", "1.yaml", &[]).await.expect(0);
    place.write("2.yaml", BUDGET);
    place.all("apply", &["--yes"]).await.expect(0);
    assert_eq!(
        place.states().await,
        ["llm_cost_tracking applied", "cost_budget applied"]
    );
    assert!(place.truth("SELECT version = 4 AND EXISTS (SELECT FROM pgmorph.runs WHERE NOT baseline) FROM pgmorph.ledger").await);
}
