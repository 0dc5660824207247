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
    Application, Belongs, Chance, Database, Fault, PORTFOLIO, Proxy, Running, Settlement, Strike, Stroke,
    Table, Tap, TestServer, WORKER, Whose, difference, pgmorph, schema_dump,
};
use std::borrow::Cow;
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// Strokes per round at most; the last call is left alone.
const STROKES: u32 = 3;

/// Tables, a plan for them, and what the application does to them meanwhile.
#[derive(Clone)]
pub struct Play {
    /// `:rows` stands for the number of rows.
    pub setup: &'static str,
    pub rows: u32,
    pub plan: Cow<'static, str>,
    pub tables: &'static [Table],
    /// Rows that refer to nothing, in spite of a foreign key.
    pub dangling: usize,
}

/// The seed plan.
const HARDENING: Play = Play {
    setup: concat!(
        include_str!("../../plans/portfolio_hardening/schema.sql"),
        include_str!("../../plans/portfolio_hardening/data.sql")
    ),
    rows: 2_000,
    plan: Cow::Borrowed(include_str!("../../plans/portfolio_hardening/plan.yaml")),
    tables: PORTFOLIO,
    dangling: 0,
};

/// Orders and what refers to them.
pub const ORDERS: &[Table] = &[
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
    plan: Cow::Borrowed(include_str!(
        "../fixtures/widen_column/shadow_primary_key/plan.yaml"
    )),
    tables: ORDERS,
    dangling: 10,
};

/// And so do the columns that refer to it.
const CASCADE: Play = Play {
    plan: Cow::Borrowed(
        "
name: cascade
settings: {small_table: 0}
changes:
  - widen_column: {table: orders, column: id, type: bigint, cascade: true}
",
    ),
    ..KEY
};

/// The same, and what may be renamed or go.
pub const MORE: &str = concat!(
    include_str!("crash/orders.sql"),
    "ALTER TABLE orders ADD note text; ALTER TABLE hints ADD spare text;",
    "CREATE TABLE things (id serial PRIMARY KEY); CREATE TABLE old_things (id serial PRIMARY KEY);",
    "CREATE TABLE older_things (id bigint PRIMARY KEY, thing_id integer REFERENCES things);"
);

/// Names of columns, while the tables are written, and of tables, of which some go.
const RENAMES: Play = Play {
    setup: MORE,
    plan: Cow::Borrowed(
        "
name: renames
changes:
  - rename_column: {table: orders, column: note, to: remark}
  - rename_column: {table: hints, column: spare, to: free, compatibility_view: false}
  - drop_table: {table: older_things}
  - retire_table: {table: old_things, keep: 0s, view: SELECT id FROM _deprecated_old_things}
",
    ),
    ..KEY
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// SIGKILL.
    Program,
    /// SIGKILL before a certain statement.
    Statement,
    /// `pg_terminate_backend` for each of its sessions.
    Sessions,
    /// SIGKILL for every process of the server, which is then started again.
    Server,
    /// `pg_cancel_backend` for whatever its sessions do at that moment.
    Statements,
    /// Ctrl-C.
    Interrupt,
    /// The machine of the program stands still for a second.
    Freeze,
    /// All connections are cut.
    Cut,
    /// The next transaction is committed, and its answer does not arrive.
    Answer,
    /// All connections stay open and pass nothing on any more.
    Silence,
    /// From then on the network is slow.
    Slow,
    /// A fast shutdown of the server, which is then started again.
    Restart,
}

impl Blow {
    /// Whether a call that was struck like this may end like that, besides with success.
    fn explains(self, code: Option<i32>) -> bool {
        match self {
            Self::Program | Self::Statement => code.is_none(),
            Self::Sessions | Self::Server | Self::Restart | Self::Cut | Self::Answer | Self::Silence => {
                code == Some(5)
            }
            // Before the run begins, one that only looks, or makes the ledger.
            Self::Statements => matches!(code, Some(3..=6)),
            // Before the program watches for signals, one ends it, with nothing done.
            Self::Interrupt => matches!(code, None | Some(130)),
            Self::Freeze | Self::Slow => false,
        }
    }
}

const BLOWS: [Blow; 3] = [Blow::Program, Blow::Sessions, Blow::Server];

/// What all rounds of a test share.
pub struct Scene {
    pub play: Play,
    server: TestServer,
    /// What the program sends goes through it.
    tap: Tap,
    /// Where it can be struck.
    points: u64,
    /// Between the program and the tap.
    proxy: Proxy,
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
    async fn set(play: &Play) -> Self {
        let seed = seed();
        println!("PGMORPH_CRASH_SEED={seed}");
        Self::with(play, seed).await
    }

    pub async fn with(play: &Play, seed: u64) -> Self {
        let server = TestServer::start(&[]);
        let tap = server.tap();
        let mut scene = Self {
            play: play.clone(),
            proxy: Proxy::start(tap.socket()).await,
            tap,
            points: 0,
            server,
            directory: TempDir::new().unwrap(),
            chance: Chance(seed),
            before: String::new(),
            after: String::new(),
            dangling: Vec::new(),
            apply_took: Duration::ZERO,
            rollback_took: Duration::ZERO,
        };
        // Otherwise these small tables would be rewritten directly.
        let mut plan = play.plan.clone().into_owned();
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
        scene.points = scene.tap.points().await as u64;
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
        self.proxy.url(&database.name, "postgres")
    }

    fn plan(&self) -> String {
        self.directory.path().join("plan.yaml").display().to_string()
    }

    async fn arm(&self, point: Option<u64>) {
        let point = point.map(|point| (usize::try_from(point).unwrap(), Stroke::Halt));
        self.tap.arm(point).await;
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
    ) -> Found {
        application.go_on(20).await;
        let balance = application.settle(&database).await;
        println!(
            "{story}; {} statements, slowest {:?}, {} without an answer",
            balance.statements, balance.slowest, balance.unanswered
        );
        let verify = ["verify", &self.plan(), "--format", "json"];
        let verified = pgmorph(&self.url(&database), &verify).await;
        let mut wrong = Vec::new();
        if verified.code != Some(0) || verified.json()["verdict"] != verdict {
            wrong.push(format!("verify: {}{}", verified.stdout, verified.stderr));
        }
        let found = schema_dump(&database).await;
        if found != schema {
            wrong.push(format!("the schema: {}", difference(schema, &found)));
        }
        let dangling = database.dangling().await;
        let new = dangling.into_iter().filter(|row| !self.dangling.contains(row));
        wrong.extend(new.map(|row| format!("refers to nothing: {row}")));
        let leftovers = database.leftovers().await;
        database.drop().await;
        Found {
            balance,
            leftovers,
            wrong,
        }
    }
}

/// What there was at the end of a way.
pub struct Found {
    pub balance: Settlement,
    pub leftovers: Vec<String>,
    /// Whatever else is not as it must be.
    pub wrong: Vec<String>,
}

/// A way that was gone through, and what struck on it.
pub struct Way {
    pub story: String,
    pub blows: Vec<Blow>,
    pub found: Found,
}

impl Way {
    fn assert_good(&self) {
        assert_eq!(self.found.wrong, [""; 0], "{}", self.story);
        assert_eq!(self.found.balance.complaints, [""; 0], "{}", self.story);
        assert_eq!(self.found.leftovers, [""; 0], "{}", self.story);
    }
}

/// A command that is struck, and with what.
struct Attack<'a> {
    kinds: &'a [Blow],
    chance: Chance,
    story: String,
    done: Vec<Blow>,
}

/// Starts the command again and again, each time struck once, until it is left alone and done. Adds to the story what
/// happened, and gives how long it took.
async fn persist(
    scene: &Scene,
    database: &mut Database<'_>,
    attack: &mut Attack<'_>,
    took: Duration,
    start: impl Fn(&Database<'_>) -> Running,
) -> Duration {
    let mut total = Duration::ZERO;
    for left in (0..=STROKES).rev() {
        let began = Instant::now();
        let kind = attack.chance.choose(attack.kinds);
        let at = (left > 0 && kind == Blow::Statement).then(|| 1 + attack.chance.below(scene.points));
        scene.arm(at).await;
        let mut running = start(database);
        let moment = attack.chance.moment(took);
        let mut blow = None;
        let moment_comes = async {
            match at {
                Some(_) => scene.tap.death().await,
                None if left > 0 => tokio::time::sleep(moment).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            () = running.wait() => true,
            () = moment_comes => false,
        };
        if !ended {
            blow = Some(kind);
            attack.done.push(kind);
            strike(scene, database, kind, &running).await;
        }
        let ended = running.end().await;
        scene.proxy.heal();
        total += began.elapsed();
        let code = ended
            .code
            .map_or("killed".to_owned(), |code| format!("exit {code}"));
        let struck = blow.map_or(String::new(), |blow| format!("{blow:?}, "));
        write!(attack.story, "; at {moment:?} {struck}{code}").unwrap();
        if ended.code == Some(0) {
            scene.arm(None).await;
            return total;
        }
        assert!(
            blow.is_some_and(|blow| blow.explains(ended.code)),
            "{}\n{}\n{}",
            attack.story,
            ended.stdout,
            ended.stderr
        );
    }
    panic!("left alone, it was not finished: {}", attack.story);
}

async fn strike(scene: &Scene, database: &mut Database<'_>, blow: Blow, running: &Running) {
    match blow {
        Blow::Program | Blow::Statement => running.signal("KILL").await,
        Blow::Interrupt => running.signal("INT").await,
        Blow::Freeze => {
            running.signal("STOP").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            running.signal("CONT").await;
        }
        Blow::Statements => {
            let sql = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                       WHERE datname = current_database() AND application_name LIKE 'pgmorph%' AND state = 'active'";
            database.admin.batch_execute(sql).await.unwrap();
        }
        Blow::Sessions => {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname = current_database() AND application_name LIKE 'pgmorph%'";
            database.admin.batch_execute(sql).await.unwrap();
        }
        Blow::Server => {
            scene.server.crash();
            database.admin = scene.server.connect(&database.name).await;
        }
        Blow::Restart => {
            scene.server.restart();
            database.admin = scene.server.connect(&database.name).await;
        }
        Blow::Cut => scene.proxy.strike(Fault::Cut, Whose::AllOpen),
        Blow::Silence => scene.proxy.strike(Fault::AllVanishes, Whose::AllOpen),
        Blow::Slow => scene.proxy.strike(Fault::Delayed(10), Whose::AllOpen),
        Blow::Answer => scene.proxy.arm(Strike {
            text: "COMMIT".to_owned(),
            session: WORKER,
            fault: Fault::AnswerLost,
            whose: Whose::This,
        }),
    }
}

fn told(kinds: &[Blow]) -> String {
    match kinds {
        [one] => format!("{one:?}"),
        _ => "any blow".to_owned(),
    }
}

/// `apply` through contract, struck.
pub async fn forwards(scene: &mut Scene, kinds: &[Blow], round: u32) -> Way {
    let mut chance = Chance(scene.chance.below(u64::MAX));
    let mut database = Database::create(&scene.server, &scene.play.setup()).await;
    let application = Application::start(&database, scene.play.tables, &mut chance).await;
    let mut attack = Attack {
        kinds,
        chance,
        story: format!("{} round {round}", told(kinds)),
        done: Vec::new(),
    };
    let apply = |database: &Database<'_>| scene.apply(database, "contract");
    let took = persist(scene, &mut database, &mut attack, scene.apply_took, apply).await;
    let Attack { story, done, .. } = attack;
    let found = scene
        .end(database, application, &story, "matches", &scene.after)
        .await;
    scene.apply_took = took;
    Way {
        story,
        blows: done,
        found,
    }
}

/// `rollback`, struck: after the cutover, or from wherever a blow has stopped the way there.
pub async fn backwards(scene: &mut Scene, kinds: &[Blow], round: u32) -> Way {
    let mut chance = Chance(scene.chance.below(u64::MAX));
    let mut database = Database::create(&scene.server, &scene.play.setup()).await;
    let application = Application::start(&database, scene.play.tables, &mut chance).await;
    let whole = chance.below(2) == 0;
    let mut attack = Attack {
        kinds,
        chance,
        story: format!("rollback, {} round {round}", told(kinds)),
        done: Vec::new(),
    };
    scene.arm(None).await;
    let mut running = scene.apply(&database, "cutover");
    if whole {
        running.end().await.expect(0);
    } else {
        // Before the first step there is nothing to roll back.
        running.says_or_ends(" begun: ").await;
        let moment = attack.chance.moment(scene.apply_took);
        if tokio::time::timeout(moment, running.wait()).await.is_err() {
            let kind = attack.chance.choose(kinds);
            attack.done.push(kind);
            strike(scene, &mut database, kind, &running).await;
        }
        let code = running.end().await.code;
        scene.proxy.heal();
        write!(attack.story, "; the apply at {moment:?} {code:?}").unwrap();
    }
    let rollback = |database: &Database<'_>| scene.rollback(database);
    let took = persist(scene, &mut database, &mut attack, scene.rollback_took, rollback).await;
    let Attack { story, done, .. } = attack;
    let found = scene
        .end(database, application, &story, "rolled_back", &scene.before)
        .await;
    if whole {
        scene.rollback_took = took;
    }
    Way {
        story,
        blows: done,
        found,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_apply_goes_on() {
    let mut scene = Scene::set(&HARDENING).await;
    for round in 1..=rounds(5) {
        forwards(&mut scene, &[Blow::Program], round).await.assert_good();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_whose_sessions_are_ended_goes_on() {
    let mut scene = Scene::set(&HARDENING).await;
    for round in 1..=rounds(3) {
        forwards(&mut scene, &[Blow::Sessions], round).await.assert_good();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_whose_server_dies_goes_on() {
    let mut scene = Scene::set(&HARDENING).await;
    for round in 1..=rounds(3) {
        forwards(&mut scene, &[Blow::Server], round).await.assert_good();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_struck_rollback_goes_on() {
    let mut scene = Scene::set(&HARDENING).await;
    for (round, blow) in (1..=rounds(3)).zip(BLOWS.into_iter().cycle()) {
        backwards(&mut scene, &[blow], round).await.assert_good();
    }
}

/// One scene for all, because its run is a long one.
#[tokio::test(flavor = "multi_thread")]
async fn a_struck_change_of_a_key_goes_on() {
    let mut scene = Scene::set(&KEY).await;
    for (round, back) in (1..=rounds(1)).zip(BLOWS.into_iter().cycle()) {
        for blow in BLOWS {
            forwards(&mut scene, &[blow], round).await.assert_good();
        }
        backwards(&mut scene, &[back], round).await.assert_good();
    }
}

/// As [`a_struck_change_of_a_key_goes_on`].
#[tokio::test(flavor = "multi_thread")]
async fn a_struck_cascade_goes_on() {
    let mut scene = Scene::set(&CASCADE).await;
    for (round, back) in (1..=rounds(1)).zip(BLOWS.into_iter().cycle()) {
        for blow in BLOWS {
            forwards(&mut scene, &[blow], round).await.assert_good();
        }
        backwards(&mut scene, &[back], round).await.assert_good();
    }
}

/// As [`a_struck_change_of_a_key_goes_on`].
#[tokio::test(flavor = "multi_thread")]
async fn a_struck_renaming_goes_on() {
    let mut scene = Scene::set(&RENAMES).await;
    for (round, back) in (1..=rounds(1)).zip(BLOWS.into_iter().cycle()) {
        for blow in BLOWS {
            forwards(&mut scene, &[blow], round).await.assert_good();
        }
        backwards(&mut scene, &[back], round).await.assert_good();
    }
}
