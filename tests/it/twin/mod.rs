//! Random tables, of which each exists twice: one twin is changed by the program while an application writes, the
//! other by plain ALTER TABLE while nobody is there. Afterwards they must not differ.
//!
//! `PGMORPH_TWIN_CASES` is the number of cases, `PGMORPH_TWIN_SEED` repeats the choices of a run (not its moments:
//! those depend on the machine), `PGMORPH_TWIN_CASE` runs only the case of that number.

mod chance;
mod compare;
mod control;
mod generate;
mod model;
mod values;
mod writers;

use crate::harness::{Chance, Database, TestServer, pgmorph, schema_dump};
use chance::Dice;
use futures_util::{StreamExt, stream};
use model::Case;
use pgmorph::diagnostic::Diagnostic;
use pgmorph::error::ErrorKind;
use pgmorph::plan::{Action, ExecutionPlan, Phase};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use writers::{Account, Traffic};

/// So many cases at once: more would only make their applications slow.
const AT_ONCE: usize = 2;

const CASES: u64 = 12;
const SEED: u64 = 20_260_101;

/// So many statements or transactions of the application before, between and after the runs.
const STATEMENTS: u64 = 25;

fn number(variable: &str) -> Option<u64> {
    let given = std::env::var(variable).ok();
    given.map(|text| text.parse().unwrap())
}

/// How a case went that did not fail.
#[derive(Debug)]
enum Ended {
    Done {
        way: &'static str,
        statements: u64,
        slowest: Duration,
    },
    Refused(Vec<String>),
}

impl Account {
    fn ended(&self, way: &'static str) -> Ended {
        Ended::Done {
            way,
            statements: self.statements,
            slowest: self.slowest,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Program,
    Nobody,
}

/// Why a case did not get to its end.
#[derive(Debug)]
enum Stopped {
    /// A precondition does not hold.
    Refused(String),
    Failed(String),
}

impl From<String> for Stopped {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// A case on its server, with the files that repeat it.
struct Scene<'s> {
    server: &'s TestServer,
    case: Arc<Case>,
    directory: PathBuf,
    chance: Chance,
}

impl<'s> Scene<'s> {
    fn set(server: &'s TestServer, directory: PathBuf, seed: u64) -> Self {
        let mut chance = Chance(seed);
        let seed = chance.below(u64::MAX);
        let case = generate::case(server.major(), &mut Chance(seed));
        std::fs::create_dir_all(&directory).unwrap();
        for (name, text) in [
            ("setup.sql", &case.setup),
            ("plan.yaml", &case.plan),
            ("alter.sql", &case.alter),
        ] {
            std::fs::write(directory.join(name), text).unwrap();
        }
        Self {
            server,
            case: Arc::new(case),
            directory,
            chance,
        }
    }

    async fn live(mut self, mode: Mode) -> Result<Ended, String> {
        if mode == Mode::Nobody {
            return self.without_us().await;
        }
        let database = Database::create(self.server, &self.case.setup).await;
        let before = schema_dump(&database).await;
        let plan = match database.plan(&self.case.plan).await {
            Ok(plan) => plan,
            Err(found) => {
                let unchanged = schema_dump(&database).await == before;
                if !unchanged || compare::has_schema(&database, "pgmorph").await {
                    return Err("planning has changed the database".into());
                }
                as_foreseen(&found, &self.case.obstacles)?;
                database.drop().await;
                return Ok(Ended::Refused(reasons(&found)));
            }
        };
        if is_shadow(&plan) && !self.case.obstacles.is_empty() {
            let obstacles = self.case.obstacles.join("\n  ");
            return Err(format!("a shadow column comes about in spite of\n  {obstacles}"));
        }
        let twin = Database::create(self.server, &self.case.setup).await;
        let violated = self.case.tables[self.case.table].violated.clone();
        let ended = match self.chance.percent(25) {
            _ if is_shadow(&plan) && violated.is_some() => {
                self.not_begun(&database, &twin, &plan, &violated.unwrap_or_default(), &before)
                    .await
            }
            true => self.there_and_back(&database, &twin, &plan, &before).await,
            false => self.there(&database, &twin, &plan).await,
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(Stopped::Failed(why)) => return Err(why),
            Err(Stopped::Refused(why)) => {
                let found = schema_dump(&database).await;
                compare::same("the database has changed", &before, &found)?;
                Ended::Refused(vec![why])
            }
        };
        database.drop().await;
        twin.drop().await;
        Ok(ended)
    }

    /// The account and the comparison must agree where nothing but plain ALTER was done.
    async fn without_us(&mut self) -> Result<Ended, String> {
        let database = Database::create(self.server, &self.case.setup).await;
        let twin = Database::create(self.server, &self.case.setup).await;
        let traffic = Traffic::start(&database, &self.case, &mut self.chance).await;
        traffic.go_on(4 * STATEMENTS).await;
        let account = traffic.stop().await;
        none("for the application", &account.complaints)?;
        for database in [&database, &twin] {
            if let Err(error) = database.admin.batch_execute(&self.case.alter).await {
                return Err(format!("{:?}\n{}", error.as_db_error(), self.case.alter));
            }
        }
        self.compare(&database, &twin, &account).await?;
        database.drop().await;
        twin.drop().await;
        Ok(account.ended("without us"))
    }

    /// Everything in which the two databases may not differ.
    async fn compare(
        &self,
        database: &Database<'_>,
        twin: &Database<'_>,
        account: &Account,
    ) -> Result<(), String> {
        let (expected, found) = (schema_dump(twin).await, schema_dump(database).await);
        let (expected, found) = (compare::normalised(&expected), compare::normalised(&found));
        compare::same("the schema differs from the twin's", &expected, &found)?;
        let (expected, found) = (compare::facts(twin).await, compare::facts(database).await);
        compare::same("the catalog differs from the twin's", &expected, &found)?;
        compare::sequences(database, twin).await?;
        compare::rows(database, twin, &self.case, account).await
    }

    async fn there(
        &mut self,
        database: &Database<'_>,
        twin: &Database<'_>,
        plan: &ExecutionPlan,
    ) -> Result<Ended, Stopped> {
        if let Err(error) = twin.admin.batch_execute(&self.case.alter).await {
            let error = error.as_db_error();
            let alter = &self.case.alter;
            return Err(format!("plain ALTER is refused, the plan is not: {error:?}\n{alter}").into());
        }
        let traffic = Traffic::start(database, &self.case, &mut self.chance).await;
        traffic.go_on(STATEMENTS).await;
        if self.chance.percent(50) {
            for phase in [Phase::Expand, Phase::Backfill, Phase::Validate] {
                apply(database, plan, phase).await?;
                traffic.go_on(3).await;
            }
        }
        apply(database, plan, Phase::Cutover).await?;
        traffic.go_on(STATEMENTS / 2).await;
        if plan.steps.iter().any(|step| step.phase == Phase::Cutover) {
            traffic.widen();
        }
        traffic.go_on(STATEMENTS).await;
        apply(database, plan, Phase::Contract).await?;
        traffic.widen();
        traffic.go_on(STATEMENTS).await;
        let account = traffic.stop().await;
        none("for the application", &account.complaints)?;
        self.verify(database, "matches").await?;
        none("is left behind", &database.leftovers().await)?;
        self.compare(database, twin, &account).await?;
        Ok(Ended::Done {
            way: if is_shadow(plan) {
                "shadow column"
            } else {
                "direct"
            },
            statements: account.statements,
            slowest: account.slowest,
        })
    }

    /// Up to some phase and back: the schema is again what it was, to the letter.
    async fn there_and_back(
        &mut self,
        database: &Database<'_>,
        twin: &Database<'_>,
        plan: &ExecutionPlan,
        before: &str,
    ) -> Result<Ended, Stopped> {
        let facts = compare::facts(database).await;
        let traffic = Traffic::start(database, &self.case, &mut self.chance).await;
        traffic.go_on(STATEMENTS).await;
        let phases = [Phase::Expand, Phase::Backfill, Phase::Validate];
        let through = match self.chance.percent(70) {
            true => Phase::Cutover,
            false => *self.chance.pick(&phases),
        };
        apply(database, plan, through).await?;
        traffic.go_on(STATEMENTS).await;
        if let Err(error) = database.rollback(plan).await {
            return Err(format!("rollback: {error:#?}").into());
        }
        traffic.go_on(STATEMENTS).await;
        let account = traffic.stop().await;
        none("for the application", &account.complaints)?;
        self.verify(database, "rolled_back").await?;
        none("is left behind by the rollback", &database.leftovers().await)?;
        let found = schema_dump(database).await;
        compare::same("the rollback does not restore the schema", before, &found)?;
        let found = compare::facts(database).await;
        compare::same("the rollback does not restore the catalog", &facts, &found)?;
        compare::sequences(database, twin).await?;
        compare::rows(database, twin, &self.case, &account).await?;
        Ok(account.ended(if is_shadow(plan) {
            "shadow column and back"
        } else {
            "direct and back"
        }))
    }

    /// Rows that the backfill could not write: found before anything is changed.
    async fn not_begun(
        &mut self,
        database: &Database<'_>,
        twin: &Database<'_>,
        plan: &ExecutionPlan,
        violated: &str,
        before: &str,
    ) -> Result<Ended, Stopped> {
        // The application may delete such rows, but is not there yet.
        let why = match database.apply(plan, Phase::Cutover).await {
            Err(error) if error.kind == ErrorKind::StepFailed && error.sqlstate.is_none() => error,
            other => return Err(format!("rows violate {violated}, but apply gives {other:#?}").into()),
        };
        if !why.message.contains(violated) || why.details.is_empty() {
            return Err(format!("nothing is said about the rows that violate {violated}: {why:#?}").into());
        }
        let found = schema_dump(database).await;
        compare::same("the schema has changed", before, &found)?;
        let traffic = Traffic::start(database, &self.case, &mut self.chance).await;
        traffic.go_on(STATEMENTS).await;
        if let Err(error) = database.rollback(plan).await {
            return Err(format!("rollback: {error:#?}").into());
        }
        let account = traffic.stop().await;
        none("for the application", &account.complaints)?;
        self.verify(database, "rolled_back").await?;
        none("is left behind", &database.leftovers().await)?;
        compare::rows(database, twin, &self.case, &account).await?;
        Ok(Ended::Refused(vec![
            "rows violate a check that is NOT VALID".into(),
        ]))
    }

    async fn verify(&self, database: &Database<'_>, verdict: &str) -> Result<(), String> {
        let plan = self.directory.join("plan.yaml").display().to_string();
        let url = self.server.url(&database.name, "postgres");
        let ended = pgmorph(&url, &["verify", &plan, "--format", "json"]).await;
        let found = ended.json();
        match (ended.code, found["verdict"].as_str()) {
            (Some(0), Some(text)) if text == verdict => Ok(()),
            _ => Err(format!("verify: {found:#}\n{}", ended.stderr)),
        }
    }
}

async fn apply(database: &Database<'_>, plan: &ExecutionPlan, through: Phase) -> Result<(), Stopped> {
    match database.apply(plan, through).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == ErrorKind::Precondition => Err(Stopped::Refused(error.message)),
        Err(error) => Err(format!("apply through {through}: {error:#?}").into()),
    }
}

fn is_shadow(plan: &ExecutionPlan) -> bool {
    let mut steps = plan.steps.iter();
    steps.any(|step| matches!(step.work.action, Action::Backfill(_)))
}

fn none(what: &str, found: &[String]) -> Result<(), String> {
    match found.is_empty() {
        true => Ok(()),
        false => Err(format!("{what}:\n  {}", found.join("\n  "))),
    }
}

/// The program must refuse for every reason that the case has, and for no other.
fn as_foreseen(found: &[Diagnostic], foreseen: &[String]) -> Result<(), String> {
    let silent = foreseen
        .iter()
        .filter(|one| !found.iter().any(|it| it.message.contains(*one)))
        .map(|one| format!("not given as a reason: {one}"));
    let surprising = found
        .iter()
        .filter(|it| !foreseen.iter().any(|one| it.message.contains(one)))
        .map(|it| format!("not foreseen: {}", it.message));
    let wrong: Vec<String> = silent.chain(surprising).collect();
    none("the plan is refused otherwise than it should be", &wrong)
}

/// Without the names, so that they can be counted.
fn reasons(found: &[Diagnostic]) -> Vec<String> {
    let reason = |it: &Diagnostic| {
        let what = it.message.split(": ").next().unwrap_or_default();
        format!(
            "{}: {}",
            it.code,
            what.split('`').step_by(2).collect::<Vec<_>>().join("…")
        )
    };
    found.iter().map(reason).collect()
}

/// How many cases went which way, in all and by what hung on the column.
#[derive(Default)]
struct Statistics {
    ways: BTreeMap<&'static str, u32>,
    reasons: BTreeMap<String, u32>,
    /// Done and refused.
    uses: BTreeMap<&'static str, (u32, u32)>,
    slowest: Duration,
    statements: u64,
}

impl Statistics {
    fn count(&mut self, ended: &Ended, case: &Case) {
        let done = matches!(ended, Ended::Done { .. });
        for one in &case.target().uses {
            let counts = self.uses.entry(one).or_default();
            *if done { &mut counts.0 } else { &mut counts.1 } += 1;
        }
        match ended {
            Ended::Done {
                way,
                statements,
                slowest,
            } => {
                *self.ways.entry(way).or_default() += 1;
                self.statements += statements;
                self.slowest = self.slowest.max(*slowest);
            }
            Ended::Refused(reasons) => {
                *self.ways.entry("refused").or_default() += 1;
                for reason in reasons {
                    *self.reasons.entry(reason.clone()).or_default() += 1;
                }
            }
        }
    }

    fn print(&self, took: Duration) {
        println!(
            "{:?} in {took:.1?}; {} statements, slowest {:?}",
            self.ways, self.statements, self.slowest
        );
        for (reason, count) in &self.reasons {
            println!("  refused {count} times: {reason}");
        }
        for (one, (done, refused)) in &self.uses {
            println!("  with {one}: {done} done, {refused} refused");
        }
    }
}

async fn run(
    server: Arc<TestServer>,
    directory: PathBuf,
    seed: u64,
    mode: Mode,
) -> (Result<Ended, String>, Arc<Case>) {
    let scene = Scene::set(&server, directory, seed);
    let case = Arc::clone(&scene.case);
    (Box::pin(scene.live(mode)).await, case)
}

fn seed_of(seed: u64, number: u64) -> u64 {
    Chance(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).below(u64::MAX)
}

fn directory_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("case-{number}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn random_tables() {
    walk(Mode::Program, CASES).await;
}

/// If this fails, the tests themselves are wrong.
#[tokio::test(flavor = "multi_thread")]
async fn plain_alter_differs_in_nothing_from_itself() {
    walk(Mode::Nobody, 4).await;
}

async fn walk(mode: Mode, by_default: u64) {
    let seed = number("PGMORPH_TWIN_SEED").unwrap_or(SEED);
    let cases = number("PGMORPH_TWIN_CASES").unwrap_or(by_default);
    let numbers = number("PGMORPH_TWIN_CASE").map_or(1..=cases, |one| one..=one);
    println!("PGMORPH_TWIN_SEED={seed} PGMORPH_TWIN_CASES={cases}");
    let mut directory = TempDir::new().unwrap();
    let server = Arc::new(TestServer::start(&[]));
    server
        .connect("postgres")
        .await
        .batch_execute(generate::ROLES)
        .await
        .unwrap();
    let began = Instant::now();
    let runs = numbers.map(|number| {
        let (server, directory) = (Arc::clone(&server), directory_of(directory.path(), number));
        async move {
            let began = Instant::now();
            // A task of its own turns a panic into a result, so that the other cases are run too.
            let result = tokio::spawn(run(server, directory, seed_of(seed, number), mode)).await;
            (number, began.elapsed(), result)
        }
    });
    let mut results = stream::iter(runs).buffer_unordered(AT_ONCE);
    let mut statistics = Statistics::default();
    let mut failed = Vec::new();
    while let Some((number, took, result)) = results.next().await {
        match result {
            Ok((Ok(ended), case)) => {
                statistics.count(&ended, &case);
                println!(
                    "case {number}: {ended:?} after {took:.1?}, {:?}",
                    case.target().uses
                );
            }
            Ok((Err(why), case)) => {
                println!(
                    "case {number}: FAILED, {:?}\n{}\n{why}",
                    case.target().uses,
                    case.plan
                );
                failed.push(number);
            }
            Err(panic) => {
                println!("case {number}: FAILED, {panic}");
                failed.push(number);
            }
        }
    }
    drop(results);
    statistics.print(began.elapsed());
    failed.sort_unstable();
    if !failed.is_empty() {
        directory.disable_cleanup(true);
        panic!(
            "cases {failed:?} fail; repeat one with PGMORPH_TWIN_SEED={seed} PGMORPH_TWIN_CASE=…; its SQL and its plan \
             are in {}",
            directory.path().display()
        );
    }
}
