//! The seed plan is struck at random moments, again and again, while the application works: the program is killed,
//! its sessions are ended, the server dies. However often, the end is that of an undisturbed run.
//!
//! `PGMORPH_CRASH_ROUNDS` is the number of rounds for each kind of blow, `PGMORPH_CRASH_SEED` repeats the choices of a
//! run (not its moments: those depend on the machine).

#![expect(
    clippy::print_stdout,
    reason = "the seed and what was done, for whoever reads a failure"
)]

use crate::harness::{Application, Chance, Database, Ended, Running, TestServer, pgmorph, schema_dump};
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const ROWS: u32 = 2_000;

/// Strokes per round at most; the last call is left alone.
const BLOWS: u32 = 3;

const SCHEMA: &str = include_str!("../../plans/portfolio_hardening/schema.sql");
const DATA: &str = include_str!("../../plans/portfolio_hardening/data.sql");
const PLAN: &str = include_str!("../../plans/portfolio_hardening/plan.yaml");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// SIGKILL.
    Program,
    /// `pg_terminate_backend` for each of its sessions.
    Sessions,
    /// SIGKILL for every process of the server, which is then started again.
    Server,
}

/// What all rounds of a test share.
struct Scene {
    server: TestServer,
    directory: TempDir,
    chance: Chance,
    /// The schema before, through cutover, and after contract.
    before: String,
    after: String,
    /// How long an undisturbed call takes.
    took: Duration,
}

fn setup() -> String {
    format!("{SCHEMA}\n{}", DATA.replace(":rows", &ROWS.to_string()))
}

fn rounds(by_default: u32) -> u32 {
    let given = std::env::var("PGMORPH_CRASH_ROUNDS").ok();
    given.map_or(by_default, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    match std::env::var("PGMORPH_CRASH_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => {
            u64::from(std::process::id()) << 32
                | u64::from(
                    SystemTime::now()
                        .duration_since(UNIX_EPOCH)
                        .unwrap()
                        .subsec_nanos(),
                )
        }
    }
}

impl Scene {
    /// An undisturbed run, to know the end and how long the way is.
    async fn set(forwards: bool) -> Self {
        let seed = seed();
        println!("PGMORPH_CRASH_SEED={seed}");
        let mut scene = Self {
            server: TestServer::start(&[]),
            directory: TempDir::new().unwrap(),
            chance: Chance(seed),
            before: String::new(),
            after: String::new(),
            took: Duration::ZERO,
        };
        // Otherwise these small tables would be rewritten directly.
        let plan = PLAN.replacen("changes:", "settings: {small_table: 0}\nchanges:", 1);
        std::fs::write(scene.directory.path().join("plan.yaml"), plan).unwrap();
        let database = Database::create(&scene.server, &setup()).await;
        let before = schema_dump(&database).await;
        let mut chance = scene.chance.clone();
        let application = Application::start(&database, &mut chance).await;
        let began = Instant::now();
        let through = if forwards { "contract" } else { "cutover" };
        scene.apply(&database, through).end().await.expect(0);
        let mut took = began.elapsed();
        let after = schema_dump(&database).await;
        if !forwards {
            let began = Instant::now();
            scene.rollback(&database).end().await.expect(0);
            took = began.elapsed();
            assert_eq!(schema_dump(&database).await, before);
        }
        let balance = application.settle(&database).await;
        assert_eq!(balance.complaints, [""; 0]);
        database.drop().await;
        scene.before = before;
        scene.after = after;
        scene.took = took;
        println!(
            "undisturbed: {took:?}, slowest statement {:?} of {}",
            balance.slowest, balance.statements
        );
        scene
    }

    fn url(&self, database: &Database<'_>) -> String {
        self.server.url(&database.name, "postgres")
    }

    fn plan(&self) -> String {
        self.directory.path().join("plan.yaml").display().to_string()
    }

    fn apply(&self, database: &Database<'_>, through: &str) -> Running {
        let arguments = ["apply", &self.plan(), "--through", through, "--yes"];
        Running::start(&self.url(database), &arguments)
    }

    fn rollback(&self, database: &Database<'_>) -> Running {
        Running::start(&self.url(database), &["rollback", &self.plan(), "--yes"])
    }
}

/// Starts the command again and again, each time struck once, until it is left alone and done. Gives what happened.
async fn persist(
    scene: &Scene,
    database: &mut Database<'_>,
    blow: Blow,
    chance: &mut Chance,
    start: impl Fn(&Scene, &Database<'_>) -> Running,
) -> String {
    let mut story = String::new();
    for left in (0..=BLOWS).rev() {
        let mut running = start(scene, database);
        let moment = Duration::from_micros(chance.below(scene.took.as_micros().try_into().unwrap()));
        let mut struck = false;
        if left > 0 && tokio::time::timeout(moment, running.wait()).await.is_err() {
            struck = true;
            strike(scene, database, blow, &running).await;
        }
        let ended = running.end().await;
        let code = ended
            .code
            .map_or("killed".to_owned(), |code| format!("exit {code}"));
        write!(
            story,
            "; at {moment:?} {}{code}",
            if struck { "struck, " } else { "" }
        )
        .unwrap();
        match (&ended, struck, blow) {
            (Ended { code: Some(0), .. }, ..) => return story,
            (Ended { code: None, .. }, true, Blow::Program) => {}
            (Ended { code: Some(5), .. }, true, Blow::Sessions | Blow::Server) => {}
            _ => panic!("{story}\n{}\n{}", ended.stdout, ended.stderr),
        }
    }
    panic!("left alone, it was not finished: {story}");
}

async fn strike(scene: &Scene, database: &mut Database<'_>, blow: Blow, running: &Running) {
    match blow {
        Blow::Program => running.signal("KILL").await,
        Blow::Sessions => {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname = current_database() AND application_name LIKE 'pgmorph%'";
            database.admin.batch_execute(sql).await.unwrap();
        }
        Blow::Server => {
            scene.server.crash();
            database.admin = scene.server.connect(&database.name).await;
        }
    }
}

async fn forwards(blow: Blow, by_default: u32) {
    let mut scene = Scene::set(true).await;
    for round in 1..=rounds(by_default) {
        let mut chance = Chance(scene.chance.below(u64::MAX));
        let mut database = Database::create(&scene.server, &setup()).await;
        let application = Application::start(&database, &mut chance).await;
        let apply = |scene: &Scene, database: &Database<'_>| scene.apply(database, "contract");
        let story = persist(&scene, &mut database, blow, &mut chance, apply).await;
        application.go_on(20).await;
        let balance = application.settle(&database).await;
        println!(
            "{blow:?} round {round}{story}; {} statements, slowest {:?}, {} without an answer",
            balance.statements, balance.slowest, balance.unanswered
        );
        let verify = ["verify", &scene.plan(), "--format", "json"];
        let verified = pgmorph(&scene.url(&database), &verify).await.expect(0);
        assert_eq!(verified.json()["verdict"], "matches");
        assert_eq!(schema_dump(&database).await, scene.after, "{story}");
        assert_eq!(database.leftovers().await, [""; 0]);
        assert_eq!(balance.complaints, [""; 0], "{story}");
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_apply_goes_on() {
    forwards(Blow::Program, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_whose_sessions_are_ended_goes_on() {
    forwards(Blow::Sessions, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_whose_server_dies_goes_on() {
    forwards(Blow::Server, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_rollback_goes_on() {
    let mut scene = Scene::set(false).await;
    for round in 1..=rounds(3) {
        let mut chance = Chance(scene.chance.below(u64::MAX));
        let mut database = Database::create(&scene.server, &setup()).await;
        let application = Application::start(&database, &mut chance).await;
        scene.apply(&database, "cutover").end().await.expect(0);
        assert_eq!(schema_dump(&database).await, scene.after);
        let rollback = |scene: &Scene, database: &Database<'_>| scene.rollback(database);
        let story = persist(&scene, &mut database, Blow::Program, &mut chance, rollback).await;
        application.go_on(20).await;
        let balance = application.settle(&database).await;
        println!(
            "rollback round {round}{story}; {} statements, slowest {:?}",
            balance.statements, balance.slowest
        );
        assert_eq!(schema_dump(&database).await, scene.before, "{story}");
        assert_eq!(database.leftovers().await, [""; 0]);
        assert_eq!(balance.complaints, [""; 0], "{story}");
        let verify = ["verify", &scene.plan(), "--format", "json"];
        let verified = pgmorph(&scene.url(&database), &verify).await.expect(0);
        assert_eq!(verified.json()["verdict"], "rolled_back");
        database.drop().await;
    }
}
