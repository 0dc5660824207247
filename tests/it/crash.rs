//! A plan is struck at random moments, again and again, while an application works: the program is killed, its sessions
//! are ended, the server dies. However often, the end is that of an undisturbed run.
//!
//! `PGMORPH_CRASH_ROUNDS` is the number of rounds for each kind of blow, `PGMORPH_CRASH_SEED` repeats the choices of a
//! run (not its moments: those depend on the machine).

#![expect(
    clippy::print_stdout,
    reason = "the seed and what was done, for whoever reads a failure"
)]

use crate::harness::{
    Application, Belongs, Chance, Database, Ended, PORTFOLIO, Running, Table, TestServer, pgmorph,
    schema_dump,
};
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// Strokes per round at most; the last call is left alone.
const STROKES: u32 = 3;

/// Tables, a plan for them, and what the application does to them meanwhile.
struct Play {
    /// `:rows` stands for the number of rows.
    setup: &'static str,
    rows: u32,
    plan: &'static str,
    tables: &'static [Table],
    /// Rows that refer to nothing, in spite of a foreign key.
    dangling: usize,
}

/// The seed plan.
const HARDENING: Play = Play {
    setup: concat!(
        include_str!("../../plans/portfolio_hardening/schema.sql"),
        include_str!("../../plans/portfolio_hardening/data.sql")
    ),
    rows: 2_000,
    plan: include_str!("../../plans/portfolio_hardening/plan.yaml"),
    tables: PORTFOLIO,
    dangling: 0,
};

/// Orders and what refers to them.
const ORDERS: &[Table] = &[
    Table {
        name: "orders",
        told_by: "name",
        insert: |fresh| {
            let (name, n) = (fresh.name, fresh.n);
            let parent = if n % 3 == 0 { fresh.whose } else { "NULL" };
            let state = if n % 2 == 0 { "new" } else { "done" };
            match n % 4 {
                // Above what the sequence reaches.
                0 => {
                    let id = 1_000_000 * (fresh.writer + 1) + usize::try_from(n).unwrap();
                    format!("(id, parent_id, state, name) VALUES ({id}, {parent}, '{state}', '{name}')")
                }
                _ => format!("(parent_id, state, name) VALUES ({parent}, '{state}', '{name}')"),
            }
        },
        update: ", state = CASE state WHEN 'new' THEN 'done' ELSE 'new' END",
        belongs: Belongs::To(0),
    },
    Table {
        name: "lines",
        told_by: "name",
        insert: |fresh| {
            let (name, order) = (fresh.name, fresh.whose);
            format!(
                "(order_id, \"Tenant\", name) \
                 SELECT id, \"Tenant\", '{name}' FROM orders WHERE id = {order}"
            )
        },
        update: "",
        belongs: Belongs::Within(0, "order_id"),
    },
    Table {
        name: "hints",
        told_by: "name",
        insert: |fresh| format!("(order_id, name) VALUES ({}, '{}')", fresh.whose, fresh.name),
        update: "",
        belongs: Belongs::To(0),
    },
];

/// A key to which others refer gets another type.
const KEY: Play = Play {
    setup: include_str!("crash/orders.sql"),
    rows: 3_000,
    plan: include_str!("../fixtures/widen_column/shadow_primary_key/plan.yaml"),
    tables: ORDERS,
    dangling: 10,
};

/// And so do the columns that refer to it.
const CASCADE: Play = Play {
    plan: "
name: cascade
settings: {small_table: 0}
changes:
  - widen_column: {table: orders, column: id, type: bigint, cascade: true}
",
    ..KEY
};

/// Names of columns, while the tables are written, and of tables, of which some go.
const RENAMES: Play = Play {
    setup: concat!(
        include_str!("crash/orders.sql"),
        "ALTER TABLE orders ADD note text; ALTER TABLE hints ADD spare text;",
        "CREATE TABLE things (id serial PRIMARY KEY); CREATE TABLE old_things (id serial PRIMARY KEY);",
        "CREATE TABLE older_things (id bigint PRIMARY KEY, thing_id integer REFERENCES things);"
    ),
    plan: "
name: renames
changes:
  - rename_column: {table: orders, column: note, to: remark}
  - rename_column: {table: hints, column: spare, to: free, compatibility_view: false}
  - drop_table: {table: older_things}
  - retire_table: {table: old_things, keep: 0s, view: SELECT id FROM _deprecated_old_things}
",
    ..KEY
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// SIGKILL.
    Program,
    /// `pg_terminate_backend` for each of its sessions.
    Sessions,
    /// SIGKILL for every process of the server, which is then started again.
    Server,
}

const BLOWS: [Blow; 3] = [Blow::Program, Blow::Sessions, Blow::Server];

/// What all rounds of a test share.
struct Scene {
    play: &'static Play,
    server: TestServer,
    directory: TempDir,
    chance: Chance,
    /// The schema before, and after contract.
    before: String,
    after: String,
    /// Rows that refer to nothing from the beginning.
    dangling: Vec<String>,
    /// How long it took the last time, to choose a moment within it: machines differ, and so do their moods.
    apply_took: Duration,
    rollback_took: Duration,
}

impl Play {
    fn setup(&self) -> String {
        self.setup.replace(":rows", &self.rows.to_string())
    }
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
    async fn set(play: &'static Play) -> Self {
        let seed = seed();
        println!("PGMORPH_CRASH_SEED={seed}");
        let mut scene = Self {
            play,
            server: TestServer::start(&[]),
            directory: TempDir::new().unwrap(),
            chance: Chance(seed),
            before: String::new(),
            after: String::new(),
            dangling: Vec::new(),
            apply_took: Duration::ZERO,
            rollback_took: Duration::ZERO,
        };
        // Otherwise these small tables would be rewritten directly.
        let mut plan = play.plan.to_owned();
        if !plan.contains("settings:") {
            plan = plan.replacen("changes:", "settings: {small_table: 0}\nchanges:", 1);
        }
        std::fs::write(scene.directory.path().join("plan.yaml"), plan).unwrap();
        let database = Database::create(&scene.server, &play.setup()).await;
        let before = schema_dump(&database).await;
        let dangling = database.dangling().await;
        assert_eq!(dangling.len(), play.dangling, "{dangling:?}");
        let mut chance = scene.chance.clone();
        let application = Application::start(&database, play.tables, &mut chance).await;
        let began = Instant::now();
        scene.apply(&database, "contract").end().await.expect(0);
        let took = began.elapsed();
        let balance = application.settle(&database).await;
        println!(
            "undisturbed: {took:?}, slowest statement {:?} of {}",
            balance.slowest, balance.statements
        );
        assert_eq!(balance.complaints, [""; 0]);
        scene.before = before;
        scene.after = schema_dump(&database).await;
        scene.dangling = dangling;
        scene.apply_took = took;
        scene.rollback_took = took / 2;
        database.drop().await;
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

    /// Lets the application go on for a while, and looks whether all is as it must be in the end.
    async fn end(
        &self,
        database: Database<'_>,
        application: Application,
        story: &str,
        verdict: &str,
        schema: &str,
    ) {
        application.go_on(20).await;
        let balance = application.settle(&database).await;
        println!(
            "{story}; {} statements, slowest {:?}, {} without an answer",
            balance.statements, balance.slowest, balance.unanswered
        );
        let verify = ["verify", &self.plan(), "--format", "json"];
        let verified = pgmorph(&self.url(&database), &verify).await.expect(0);
        assert_eq!(verified.json()["verdict"], verdict, "{story}");
        assert_eq!(schema_dump(&database).await, schema, "{story}");
        assert_eq!(balance.complaints, [""; 0], "{story}");
        assert_eq!(database.leftovers().await, [""; 0], "{story}");
        let dangling = database.dangling().await;
        let new = dangling.iter().filter(|row| !self.dangling.contains(row));
        assert_eq!(new.collect::<Vec<_>>(), [""; 0], "{story}");
        database.drop().await;
    }
}

/// Starts the command again and again, each time struck once, until it is left alone and done. Adds to the story what
/// happened, and gives how long it took.
async fn persist(
    scene: &Scene,
    database: &mut Database<'_>,
    blow: Blow,
    chance: &mut Chance,
    story: &mut String,
    took: Duration,
    start: impl Fn(&Database<'_>) -> Running,
) -> Duration {
    let mut total = Duration::ZERO;
    for left in (0..=STROKES).rev() {
        let began = Instant::now();
        let mut running = start(database);
        let moment = chance.moment(took);
        let mut struck = false;
        if left > 0 && tokio::time::timeout(moment, running.wait()).await.is_err() {
            struck = true;
            strike(scene, database, blow, &running).await;
        }
        let ended = running.end().await;
        total += began.elapsed();
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
            (Ended { code: Some(0), .. }, ..) => return total,
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

/// `apply` through contract, struck.
async fn forwards(scene: &mut Scene, blow: Blow, round: u32) {
    let mut chance = Chance(scene.chance.below(u64::MAX));
    let mut database = Database::create(&scene.server, &scene.play.setup()).await;
    let application = Application::start(&database, scene.play.tables, &mut chance).await;
    let mut story = format!("{blow:?} round {round}");
    let apply = |database: &Database<'_>| scene.apply(database, "contract");
    let took = persist(
        scene,
        &mut database,
        blow,
        &mut chance,
        &mut story,
        scene.apply_took,
        apply,
    )
    .await;
    scene
        .end(database, application, &story, "matches", &scene.after)
        .await;
    scene.apply_took = took;
}

/// `rollback`, struck: after the cutover, or from wherever a blow has stopped the way there.
async fn backwards(scene: &mut Scene, blow: Blow, round: u32) {
    let mut chance = Chance(scene.chance.below(u64::MAX));
    let mut database = Database::create(&scene.server, &scene.play.setup()).await;
    let application = Application::start(&database, scene.play.tables, &mut chance).await;
    let mut story = format!("rollback, {blow:?} round {round}");
    let mut running = scene.apply(&database, "cutover");
    let whole = chance.below(2) == 0;
    if whole {
        running.end().await.expect(0);
    } else {
        // Before the first step there is nothing to roll back.
        running.says(" begun: ").await;
        let moment = chance.moment(scene.apply_took);
        if tokio::time::timeout(moment, running.wait()).await.is_err() {
            strike(scene, &mut database, blow, &running).await;
        }
        let code = running.end().await.code;
        write!(story, "; the apply at {moment:?} {code:?}").unwrap();
    }
    let rollback = |database: &Database<'_>| scene.rollback(database);
    let took = persist(
        scene,
        &mut database,
        blow,
        &mut chance,
        &mut story,
        scene.rollback_took,
        rollback,
    )
    .await;
    scene
        .end(database, application, &story, "rolled_back", &scene.before)
        .await;
    if whole {
        scene.rollback_took = took;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_apply_goes_on() {
    let mut scene = Scene::set(&HARDENING).await;
    for round in 1..=rounds(5) {
        forwards(&mut scene, Blow::Program, round).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_whose_sessions_are_ended_goes_on() {
    let mut scene = Scene::set(&HARDENING).await;
    for round in 1..=rounds(3) {
        forwards(&mut scene, Blow::Sessions, round).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_whose_server_dies_goes_on() {
    let mut scene = Scene::set(&HARDENING).await;
    for round in 1..=rounds(3) {
        forwards(&mut scene, Blow::Server, round).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_struck_rollback_goes_on() {
    let mut scene = Scene::set(&HARDENING).await;
    for (round, blow) in (1..=rounds(3)).zip(BLOWS.into_iter().cycle()) {
        backwards(&mut scene, blow, round).await;
    }
}

/// One scene for all, because its run is a long one.
#[tokio::test(flavor = "multi_thread")]
async fn a_struck_change_of_a_key_goes_on() {
    let mut scene = Scene::set(&KEY).await;
    for (round, back) in (1..=rounds(1)).zip(BLOWS.into_iter().cycle()) {
        for blow in BLOWS {
            forwards(&mut scene, blow, round).await;
        }
        backwards(&mut scene, back, round).await;
    }
}

/// As [`a_struck_change_of_a_key_goes_on`].
#[tokio::test(flavor = "multi_thread")]
async fn a_struck_cascade_goes_on() {
    let mut scene = Scene::set(&CASCADE).await;
    for (round, back) in (1..=rounds(1)).zip(BLOWS.into_iter().cycle()) {
        for blow in BLOWS {
            forwards(&mut scene, blow, round).await;
        }
        backwards(&mut scene, back, round).await;
    }
}

/// As [`a_struck_change_of_a_key_goes_on`].
#[tokio::test(flavor = "multi_thread")]
async fn a_struck_renaming_goes_on() {
    let mut scene = Scene::set(&RENAMES).await;
    for (round, back) in (1..=rounds(1)).zip(BLOWS.into_iter().cycle()) {
        for blow in BLOWS {
            forwards(&mut scene, blow, round).await;
        }
        backwards(&mut scene, back, round).await;
    }
}
