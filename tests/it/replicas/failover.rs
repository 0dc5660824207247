//! The primary is lost while a plan runs and an application works, and its standby takes over: the same command ends
//! there as if nothing had happened. The application's commits wait for the standby, so that its account holds what was
//! acknowledged and nothing else; those of the plan do not.

#![expect(
    clippy::print_stdout,
    reason = "the seed and what was done, for whoever reads a failure"
)]

use super::{Receiver, at, pair, promote, wait_for_standby};
use crate::backfill::{UNFILLED, database, number, says};
use crate::crash::ORDERS;
use crate::harness::{Application, Chance, Database, Running, TestServer, pgmorph, schema_dump, until};
use pgmorph::error::ErrorKind;
use pgmorph::executor::brake::Brake;
use pgmorph::executor::ledger::requests;
use pgmorph::plan::Phase;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SETUP: &str = include_str!("../crash/orders.sql");
const PLAN: &str = include_str!("../../fixtures/widen_column/shadow_primary_key/plan.yaml");

struct Scene {
    directory: TempDir,
    chance: Chance,
    /// What there is in the end.
    schema: String,
    /// Steps that were done at a primary and had not arrived when its standby took over.
    steps_lost: i64,
}

impl Scene {
    async fn set(server: &TestServer, seed: u64) -> Self {
        println!("seed {seed}");
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("plan.yaml"), PLAN).unwrap();
        let mut scene = Self {
            directory,
            chance: Chance(seed),
            schema: String::new(),
            steps_lost: 0,
        };
        let database = Database::create(server, &SETUP.replace(":rows", "3000")).await;
        let url = server.url(&database.name, "postgres");
        pgmorph(&url, &["apply", &scene.plan(), "--through", "contract", "--yes"])
            .await
            .expect(0);
        scene.schema = schema_dump(&database).await;
        database.drop().await;
        scene
    }

    fn plan(&self) -> String {
        self.directory.path().join("plan.yaml").display().to_string()
    }

    /// Gives the server that took over. Where the standby `lags`, what was done last has not come to it; then nobody else
    /// works, for whoever waits for it would hold the plan up.
    async fn fail_over(&mut self, primary: TestServer, phase: Phase, lags: bool) -> TestServer {
        let mut primary = primary;
        let standby = primary.start_standby("east", &[]);
        let lost = Database::create(&primary, &SETUP.replace(":rows", "3000")).await;
        let (dangling, before) = (lost.dangling().await, contents(&lost).await);
        let mut application = None;
        if !lags {
            wait_for_standby(&primary).await;
            application = Some(Application::start(&lost, ORDERS, &mut self.chance).await);
        }
        let url = primary.url(&lost.name, "postgres");
        let plan = self.plan();
        let apply = ["apply", &plan, "--through", "contract", "--yes"];
        let running = Running::start(&url, &apply);
        begins(&lost, phase).await;
        let receiver = Receiver::of(&standby).await;
        if lags {
            receiver.signal("STOP").await;
            goes_on(&lost, phase).await;
        } else {
            tokio::time::sleep(self.chance.moment(Duration::from_millis(30))).await;
        }
        let done_there = steps_done(&lost).await;
        primary.kill();
        if lags {
            // It ends before it reads what has come to it meanwhile.
            receiver.signal("TERM").await;
            receiver.signal("CONT").await;
        }
        promote(&standby).await;
        let found = at(&standby, &lost.name).await;
        let arrived = steps_done(&found).await;
        let ended = running.end().await;
        println!(
            "{phase}, lags: {lags}: {done_there} steps were done, {arrived} of them arrived; it ended with {:?}",
            ended.code
        );
        assert!(matches!(ended.code, Some(0 | 5)), "{ended:?}");
        pgmorph(&url, &apply).await.expect(0);
        match application {
            Some(application) => {
                application.go_on(20).await;
                let balance = application.settle(&found).await;
                assert_eq!(balance.complaints, [""; 0]);
                assert!(balance.unanswered > 0, "nobody noticed");
            }
            None => assert_eq!(contents(&found).await, before),
        }
        pgmorph(&url, &["verify", &plan]).await.expect(0);
        assert_eq!(found.leftovers().await, [""; 0]);
        // What referred to nothing before may have been deleted.
        let mut found_dangling = found.dangling().await;
        found_dangling.retain(|row| !dangling.contains(row));
        assert_eq!(found_dangling, [""; 0]);
        assert_eq!(schema_dump(&found).await, self.schema);
        found.drop().await;
        drop(lost);
        self.steps_lost += done_there - arrived;
        standby
    }
}

async fn begins(database: &Database<'_>, phase: Phase) {
    let sql = format!(
        "SELECT count(*) FROM pgmorph.steps WHERE phase = '{}' AND state IN ('running', 'done')",
        phase.name()
    );
    let deadline = Instant::now() + crate::harness::PATIENCE;
    while !matches!(database.admin.query_one(&sql, &[]).await, Ok(row) if row.get::<_, i64>(0) > 0) {
        assert!(Instant::now() < deadline, "{phase} does not begin");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// At least one step more; the last phase may have none.
async fn goes_on(database: &Database<'_>, phase: Phase) {
    let done_then = steps_done(database).await;
    let patience = Duration::from_secs(if phase == Phase::Contract { 1 } else { 20 });
    let deadline = Instant::now() + patience;
    while steps_done(database).await == done_then && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn steps_done(database: &Database<'_>) -> i64 {
    let sql = "SELECT count(*) FROM pgmorph.steps WHERE state = 'done'";
    let row = database.admin.query_one(sql, &[]).await;
    row.map_or(0, |row| row.get(0))
}

/// All rows, whatever the order and the types of their columns.
async fn contents(database: &Database<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for table in ORDERS {
        let name = table.name;
        let sql = format!(
            "SELECT coalesce(md5(string_agg(to_jsonb(t)::text, ',' ORDER BY id)), '') FROM {name} AS t"
        );
        found.push(database.admin.query_one(&sql, &[]).await.unwrap().get(0));
    }
    found
}

const PHASES: [Phase; 5] = [
    Phase::Expand,
    Phase::Backfill,
    Phase::Validate,
    Phase::Cutover,
    Phase::Contract,
];

#[tokio::test(flavor = "multi_thread")]
async fn the_same_command_ends_at_the_standby_that_took_over() {
    let mut server = TestServer::start(&[]);
    let mut scene = Scene::set(&server, 1).await;
    for phase in PHASES {
        server = scene.fail_over(server, phase, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_did_not_arrive_are_done_again() {
    let mut server = TestServer::start(&[]);
    let mut scene = Scene::set(&server, 2).await;
    for phase in PHASES {
        server = scene.fail_over(server, phase, true).await;
    }
    assert!(scene.steps_lost > 0, "everything arrived");
}

const FILL: &str = "name: p\nsettings: {small_table: 0}\n\
                    changes:\n  - widen_column: {table: orders, column: version, type: bigint}\n";

/// A split brain: the run lock is held at the old primary, which takes no new connections any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_does_not_go_on_at_another_server_than_its_lock() {
    let (primary, standby) = pair(&[]).await;
    let old = database(&primary, 5_000).await;
    let plan = old.planned(FILL).await;
    old.apply(&plan, Phase::Expand).await.unwrap();
    let run = old.run(&plan).await.unwrap().id;
    requests::pause(&old.admin, run).await.unwrap();
    let others = async {
        until("it stands still", async || says(&old, "paused since")).await;
        promote(&standby).await;
        let socket = primary.socket_dir().join(".s.PGSQL.5432");
        std::fs::rename(&socket, primary.socket_dir().join("away")).unwrap();
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pgmorph'";
        number(&old, end).await;
        requests::resume(&old.admin, run).await.unwrap();
    };
    let (stopped, ()) = tokio::join!(old.apply(&plan, Phase::Backfill), others);
    let stopped = stopped.unwrap_err();
    assert_eq!(stopped.kind, ErrorKind::StepFailed);
    assert!(stopped.message.contains("another server"), "{stopped}");
    let new = at(&standby, &old.name).await;
    let begun = "SELECT count(*) FROM pgmorph.steps WHERE phase <> 'expand' AND state <> 'pending'";
    assert_eq!(number(&new, begun).await, 0);
    assert_eq!(number(&new, UNFILLED).await, 5_000);
    requests::resume(&new.admin, run).await.unwrap();
    new.apply(&plan, Phase::Contract).await.unwrap();
    assert_eq!(new.leftovers().await, [""; 0]);
}

/// The old primary is made to read only, as tools that move the primary do.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_stops_where_the_old_primary_only_reads() {
    let (primary, standby) = pair(&[]).await;
    let old = database(&primary, 20_000).await;
    let plan = old.planned(FILL).await;
    old.apply(&plan, Phase::Expand).await.unwrap();
    let run = old.run(&plan).await.unwrap().id;
    requests::tune(&old.admin, run, None, Some(Brake::Rate(4_000)))
        .await
        .unwrap();
    let others = async {
        until("it fills", async || number(&old, UNFILLED).await < 19_000).await;
        for statement in [
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "SELECT pg_reload_conf()",
        ] {
            old.admin.batch_execute(statement).await.unwrap();
        }
        promote(&standby).await;
    };
    let (stopped, ()) = tokio::join!(old.apply(&plan, Phase::Backfill), others);
    let stopped = stopped.unwrap_err();
    assert_eq!(stopped.sqlstate.as_deref(), Some("25006"), "{stopped:?}");
    assert!(number(&old, UNFILLED).await > 0);
    let new = at(&standby, &old.name).await;
    requests::tune(&new.admin, run, None, Some(Brake::Off))
        .await
        .unwrap();
    // Both know of both, and the old one comes first.
    old.apply(&plan, Phase::Backfill).await.unwrap();
    assert_eq!(number(&new, UNFILLED).await, 0);
    assert!(number(&old, UNFILLED).await > 0);
}

/// A commit keeps its locks while it waits for a standby: ours do not wait, but the end of the run does.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_commits_wait_for_holds_up_nobody_else() {
    let (primary, standby) = pair(&[]).await;
    let database = Database::create(&primary, "CREATE TABLE t (a integer); INSERT INTO t VALUES (1)").await;
    let plan = "name: p\nchanges:\n  - set_default: {table: t, column: a, default: 7}\n";
    let plan = database.planned(plan).await;
    wait_for_standby(&primary).await;
    let receiver = Receiver::of(&standby).await;
    receiver.signal("STOP").await;
    let (reader, mut longest) = (database.session().await, Duration::ZERO);
    let others = async {
        let changed = "SELECT count(*) FROM pg_attrdef WHERE adrelid = 't'::regclass";
        until("the default is there", async || {
            number(&database, changed).await == 1
        })
        .await;
        for _ in 0..100 {
            let began = Instant::now();
            reader.batch_execute("SELECT * FROM t").await.unwrap();
            longest = longest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let run = database.run(&plan).await.unwrap();
        assert_ne!(run.state, pgmorph::executor::ledger::RunState::Completed);
        receiver.signal("CONT").await;
    };
    let (done, ()) = tokio::join!(database.apply(&plan, Phase::Contract), others);
    assert!(done.unwrap().complete);
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}
