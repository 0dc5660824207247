//! The whole life of the seed plan, through the command line, while the application works.

use crate::harness::{
    Application, Chance, Database, Ended, PORTFOLIO, Running, TestServer, pgmorph, schema_dump, until,
};
use pgmorph::executor::timeouts_sql;
use pgmorph::plan::{Action, ExecutionPlan, Phase, Transaction};
use serde_json::Value;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SCHEMA: &str = include_str!("../../plans/portfolio_hardening/schema.sql");
const DATA: &str = include_str!("../../plans/portfolio_hardening/data.sql");
const PLAN: &str = include_str!("../../plans/portfolio_hardening/plan.yaml");

/// A database with the seed tables, and a folder for plan files.
struct Scene<'s> {
    database: Database<'s>,
    directory: TempDir,
    url: String,
}

impl<'s> Scene<'s> {
    async fn set(server: &'s TestServer, rows: u32) -> Self {
        let setup = format!("{SCHEMA}\n{}", DATA.replace(":rows", &rows.to_string()));
        let database = Database::create(server, &setup).await;
        let scene = Self {
            url: server.url(&database.name, "postgres"),
            directory: TempDir::new().unwrap(),
            database,
        };
        scene.write("plan.yaml", &plan());
        scene
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.directory.path().join(name), content).unwrap();
    }

    fn start(&self, arguments: &[&str]) -> Running {
        // Plan files are named by their place in the folder.
        let arguments: Vec<String> = arguments
            .iter()
            .map(
                |argument| match argument.ends_with(".yaml") || argument.ends_with(".json") {
                    true => self.path(argument),
                    false => (*argument).to_owned(),
                },
            )
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Running::start(&self.url, &arguments)
    }

    async fn pgmorph(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).end().await
    }

    /// Asks `verify` and gives its answer with the exit code.
    async fn verdict(&self, more: &[&str]) -> (i32, String, Value) {
        let ended = self
            .pgmorph(&[&["verify", "plan.yaml", "--format", "json"], more].concat())
            .await;
        let json = ended.json();
        let verdict = json["verdict"].as_str().unwrap().to_owned();
        (ended.code.unwrap(), verdict, json["findings"].clone())
    }

    #[track_caller]
    fn is(&self, found: &(i32, String, Value), code: i32, verdict: &str) {
        assert_eq!((found.0, found.1.as_str()), (code, verdict), "{:#}", found.2);
    }

    async fn sql(&self, sql: &str) {
        self.database.admin.batch_execute(sql).await.unwrap();
    }

    /// Waits until one of its sessions runs a statement like this.
    async fn runs(&self, pattern: &str) {
        let sql = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
                   AND application_name = 'pgmorph' AND query LIKE $1";
        until(&format!("pgmorph runs {pattern}"), async || {
            !self
                .database
                .admin
                .query(sql, &[&pattern])
                .await
                .unwrap()
                .is_empty()
        })
        .await;
    }
}

/// The seed plan, with tables of any size going the way of the large ones.
fn plan() -> String {
    PLAN.replacen("changes:", "settings: {small_table: 0}\nchanges:", 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_the_truth_at_every_stage() {
    let server = TestServer::start(&[]);
    let scene = Scene::set(&server, 20_000).await;
    for format in ["human", "json", "sql"] {
        let plan = ["plan", "plan.yaml", "--format", format];
        let (one, two) = (scene.pgmorph(&plan).await, scene.pgmorph(&plan).await);
        assert_eq!(one.expect(0).stdout, two.expect(0).stdout);
    }
    let application = Application::start(&scene.database, PORTFOLIO, &mut Chance(1)).await;
    scene.is(&scene.verdict(&[]).await, 1, "not_applied");

    let running = scene.start(&["apply", "plan.yaml", "--yes"]);
    running.says("02-widen_column-fill begun").await;
    running.signal("INT").await;
    let ended = running.end().await.expect(130);
    assert!(
        ended.stderr.contains("run the same command again"),
        "{}",
        ended.stderr
    );
    scene.is(&scene.verdict(&[]).await, 1, "in_progress");
    scene.is(&scene.verdict(&["--through", "expand"]).await, 0, "in_progress");
    scene.is(&scene.verdict(&["--through", "cutover"]).await, 1, "in_progress");

    scene.write("plan.yaml", &plan().replacen("AND 128", "AND 64", 1));
    let ended = scene.pgmorph(&["apply", "plan.yaml", "--yes"]).await.expect(3);
    for text in ["-add_check", "+add_check", "128", "64", "restore the file"] {
        assert!(ended.stderr.contains(text), "no {text:?} in {}", ended.stderr);
    }
    scene.write("plan.yaml", &plan());
    scene.pgmorph(&["apply", "plan.yaml", "--yes"]).await.expect(0);
    scene.is(&scene.verdict(&[]).await, 1, "contract_pending");
    scene.is(
        &scene.verdict(&["--through", "cutover"]).await,
        0,
        "contract_pending",
    );
    let contract = ["apply", "plan.yaml", "--yes", "--through", "contract"];
    scene.pgmorph(&contract).await.expect(0);
    scene.is(&scene.verdict(&[]).await, 0, "matches");
    scene.pgmorph(&["rollback", "plan.yaml", "--yes"]).await.expect(3);

    drifts(&scene).await;
    extends(&scene).await;
    let balance = application.settle(&scene.database).await;
    assert_eq!(balance.complaints, [""; 0]);
    assert_eq!(scene.database.leftovers().await, [""; 0]);
}

/// Changes by hand are found, each by its name, and are forgotten when they are mended.
async fn drifts(scene: &Scene<'_>) {
    scene
        .sql(
            "DROP INDEX forecast_snapshots_cursor_idx; \
             ALTER TABLE investment_lots ALTER version SET DEFAULT 7",
        )
        .await;
    let found = scene.verdict(&[]).await;
    scene.is(&found, 1, "drifted");
    let objects: Vec<&str> = found
        .2
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["object"].as_str().unwrap())
        .collect();
    assert_eq!(objects.len(), 2, "{objects:?}");
    assert!(
        objects
            .iter()
            .any(|object| object.contains("forecast_snapshots_cursor_idx"))
    );
    assert!(
        objects
            .iter()
            .any(|object| object.contains("investment_lots") && object.contains("version"))
    );
    scene
        .sql(
            "CREATE INDEX forecast_snapshots_cursor_idx ON forecast_snapshots (snapshot_time DESC, id DESC); \
             ALTER TABLE investment_lots ALTER version SET DEFAULT 0",
        )
        .await;
    scene.is(&scene.verdict(&[]).await, 0, "matches");
}

/// A change added to a completed plan is the only one that is applied.
async fn extends(scene: &Scene<'_>) {
    let more = "  - create_index: {name: lots_type_idx, table: investment_lots, columns: [lot_type]}\nafter:";
    scene.write("plan.yaml", &plan().replacen("after:", more, 1));
    scene.is(&scene.verdict(&[]).await, 1, "not_applied");
    let ended = scene
        .pgmorph(&["apply", "plan.yaml", "--yes", "--format", "json"])
        .await
        .expect(0);
    assert_eq!(ended.json()["steps"], 1, "{}", ended.stderr);
    assert_eq!(ended.json()["complete"], true);
    scene.is(&scene.verdict(&[]).await, 0, "matches");
    let ended = scene.pgmorph(&["apply", "plan.yaml", "--yes"]).await.expect(0);
    assert!(ended.stdout.contains("nothing to do"), "{}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_plan_leaves_no_trace() {
    let server = TestServer::start(&[]);
    let scene = Scene::set(&server, 2_000).await;
    let before = schema_dump(&scene.database).await;
    let application = Application::start(&scene.database, PORTFOLIO, &mut Chance(2)).await;
    scene.pgmorph(&["apply", "plan.yaml", "--yes"]).await.expect(0);
    assert_ne!(schema_dump(&scene.database).await, before);
    scene.pgmorph(&["rollback", "plan.yaml", "--yes"]).await.expect(0);
    scene.is(&scene.verdict(&[]).await, 0, "rolled_back");
    scene.is(&scene.verdict(&["--through", "cutover"]).await, 1, "rolled_back");
    assert_eq!(schema_dump(&scene.database).await, before);
    assert_eq!(application.settle(&scene.database).await.complaints, [""; 0]);
    // And the way is free for another run.
    scene
        .pgmorph(&["apply", "plan.yaml", "--yes", "--through", "contract"])
        .await
        .expect(0);
    scene.is(&scene.verdict(&[]).await, 0, "matches");
}

/// What a session of ours sent, in order, by the server's own account.
fn sent(log: &str, database: &str) -> Vec<String> {
    let prefix = format!("{database} pgmorph| LOG:  statement: ");
    let mut statements: Vec<String> = Vec::new();
    let mut ours = false;
    for line in log.lines() {
        if let Some(continued) = line.strip_prefix('\t') {
            if let Some(statement) = statements.last_mut().filter(|_| ours) {
                statement.push('\n');
                statement.push_str(continued);
            }
        } else if let Some((_, statement)) = line.split_once(&prefix) {
            ours = true;
            statements.push(statement.to_owned());
        } else {
            ours = false;
        }
    }
    statements
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_saved_is_what_runs() {
    let server = TestServer::start(&[("log_statement", "all"), ("log_line_prefix", "%m [%p] %q%d %a| ")]);
    let scene = Scene::set(&server, 1_000).await;
    scene
        .pgmorph(&["plan", "plan.yaml", "-o", "saved.json"])
        .await
        .expect(0);
    let text = std::fs::read_to_string(scene.path("saved.json")).unwrap();
    scene.write("tampered.json", &text.replacen("200", "900", 1));
    let ended = scene
        .pgmorph(&["apply", "tampered.json", "--yes"])
        .await
        .expect(2);
    assert!(
        ended.stderr.contains("changed after it was saved"),
        "{}",
        ended.stderr
    );
    scene
        .sql("ALTER TABLE investment_lots ADD COLUMN moved integer")
        .await;
    let ended = scene.pgmorph(&["apply", "saved.json", "--yes"]).await.expect(3);
    assert!(ended.stderr.contains("investment_lots"), "{}", ended.stderr);
    scene.sql("ALTER TABLE investment_lots DROP COLUMN moved").await;
    let before = server.log().len();
    scene
        .pgmorph(&["apply", "saved.json", "--yes", "--through", "contract"])
        .await
        .expect(0);

    let plan: ExecutionPlan = serde_json::from_str(&text).unwrap();
    let mut expected = Vec::new();
    for step in plan.steps.iter().filter(|step| step.phase <= Phase::Contract) {
        let Action::Sql(statements) = &step.work.action else {
            continue;
        };
        expected.push(match step.work.transaction {
            Transaction::Single => format!("BEGIN; {}", timeouts_sql(&step.work, "SET LOCAL")),
            Transaction::None => timeouts_sql(&step.work, "SET"),
        });
        expected.extend(statements.iter().map(|one| match step.work.transaction {
            Transaction::Single => step.work.text_of(one),
            Transaction::None => one.clone(),
        }));
    }
    // What looks, remembers or fills is not a statement of the plan.
    let other = |text: &String| {
        let bounds = text.starts_with("BEGIN; SET LOCAL lock_timeout")
            || text.starts_with("SET lock_timeout")
            || text.contains("; LOCK TABLE ");
        let looks = [
            "BEGIN",
            "ROLLBACK",
            "COMMIT",
            "SET ",
            "WITH",
            "SELECT",
            "SHOW",
            "CLOSE",
            "/* pgmorph",
        ];
        text.contains("/* pgmorph ledger */")
            || (!bounds && looks.iter().any(|start| text.starts_with(start)))
    };
    let mut found = sent(&server.log()[before..], &scene.database.name);
    for text in &mut found {
        // Whether it is still to be done is asked with the beginning.
        if let Some((begin, rest)) = text.split_once("; /* pgmorph ledger */")
            && begin.starts_with("BEGIN; SET LOCAL")
            && !rest.ends_with("COMMIT")
        {
            *text = begin.to_owned();
        }
    }
    found.retain(|text| !other(text));
    expected.retain(|text| !other(text));
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_runner_at_a_time_and_somebody_to_talk_to() {
    let ended = pgmorph("postgresql://app@/x?host=/nowhere", &["status"])
        .await
        .expect(5);
    assert!(
        ended.stderr.contains("/nowhere") && ended.stderr.contains("help:"),
        "{}",
        ended.stderr
    );
    let server = TestServer::start(&[]);
    let scene = Scene::set(&server, 1_000).await;
    let holder = scene.database.session().await;
    holder
        .batch_execute("BEGIN; LOCK TABLE forecast_snapshots IN ACCESS SHARE MODE")
        .await
        .unwrap();
    let first = scene.start(&["apply", "plan.yaml", "--yes"]);
    first.says("begun").await;
    let ended = scene.pgmorph(&["apply", "plan.yaml", "--yes"]).await.expect(7);
    assert!(
        ended.stderr.contains("pid ") && ended.stderr.contains("pgmorph"),
        "{}",
        ended.stderr
    );
    holder.batch_execute("ROLLBACK").await.unwrap();
    first.end().await.expect(0);
}

async fn pid_of(session: &tokio_postgres::Client) -> i32 {
    let row = session.query_one("SELECT pg_backend_pid()", &[]).await;
    row.unwrap().get(0)
}

/// How long a transaction holds a table in our way; `PGMORPH_HOLD_SECONDS` makes it longer.
fn hold() -> Duration {
    let given = std::env::var("PGMORPH_HOLD_SECONDS").ok();
    Duration::from_secs(given.map_or(5, |text| text.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_does_not_queue_behind_us() {
    let server = TestServer::start(&[]);
    for lock in [
        "LOCK TABLE investment_lots IN ACCESS SHARE MODE",
        // Of a row that nobody else sees, so that only the table is in the way.
        "INSERT INTO investment_lots VALUES (gen_random_uuid(), 1, 'initial', 1, 1, 1); \
         UPDATE investment_lots SET lot_type = 'secondary' WHERE xmin = pg_current_xact_id()::xid",
    ] {
        let scene = Scene::set(&server, 1_000).await;
        let holder = scene.database.session().await;
        holder.batch_execute(&format!("BEGIN; {lock}")).await.unwrap();
        let pid = pid_of(&holder).await;
        let application = Application::start(&scene.database, PORTFOLIO, &mut Chance(3)).await;
        let began = Instant::now();
        let apply = scene.start(&["apply", "plan.yaml", "--yes"]);
        apply.says(&format!("pid {pid} of postgres")).await;
        while began.elapsed() < hold() {
            application.go_on(30).await;
        }
        holder.batch_execute("ROLLBACK").await.unwrap();
        apply.end().await.expect(0);
        let balance = application.settle(&scene.database).await;
        assert_eq!(balance.complaints, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_statement_can_be_cancelled() {
    let server = TestServer::start(&[]);
    let scene = Scene::set(&server, 1_000).await;
    // Who builds an index concurrently waits for the end of every older snapshot.
    let holder = scene.database.session().await;
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1";
    holder.batch_execute(snapshot).await.unwrap();
    let pid = pid_of(&holder).await;
    for signals in [&["TERM"][..], &["INT", "INT"]] {
        let apply = scene.start(&["apply", "plan.yaml", "--yes"]);
        scene.runs("CREATE%INDEX CONCURRENTLY%").await;
        apply.says(&format!("pid {pid} of postgres")).await;
        for (position, signal) in signals.iter().enumerate() {
            apply.signal(signal).await;
            if position + 1 < signals.len() {
                apply.says("again to cancel").await;
            }
        }
        let ended = apply.end().await.expect(130);
        assert!(
            ended.stderr.contains("run the same command again"),
            "{}",
            ended.stderr
        );
        scene.is(&scene.verdict(&[]).await, 1, "in_progress");
    }
    holder.batch_execute("ROLLBACK").await.unwrap();
    scene
        .pgmorph(&["apply", "plan.yaml", "--yes", "--through", "contract"])
        .await
        .expect(0);
    scene.is(&scene.verdict(&[]).await, 0, "matches");
    assert_eq!(scene.database.leftovers().await, [""; 0]);
}
