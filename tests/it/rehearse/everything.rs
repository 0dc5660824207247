//! Every plan in `plans/` and every fixture that is no refusal.
//!
//! `FIXTURE=text` chooses those with that text in their name. Beside the suite, where `FIXTURE_SHARE` is set, it is a quarter of
//! that share, always the same ones; with `PGMORPH_REHEARSALS=all` it is all of them there, too.

use crate::fixtures::{Case, directories, fixtures, tally};
use crate::harness::{Database, TestServer};
use futures_util::{StreamExt, stream};
use pgmorph::change_plan;
use pgmorph::plan::Phase;
use pgmorph::rehearse::{Refused, Rehearsal, Script, Site};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Waiting for locks that a watcher holds, a rehearsal leaves the processor to another one.
const AT_ONCE: usize = 2;
const PARTS: usize = 4;
const SHARE: u32 = 4;

pub fn site(server: &TestServer) -> Site {
    Site {
        socket_directory: server.socket_dir().to_owned(),
        port: 5432,
    }
}

async fn rehearsed(server: &TestServer, database: &str, source: &str) -> Result<Rehearsal, String> {
    let file = change_plan::parse(source).unwrap();
    let script = Script::File(&file, None);
    match Box::pin(site(server).rehearse(database, script)).await {
        Ok(rehearsal) => Ok(rehearsal),
        Err(Refused::Plan(found)) => Err(format!("refused: {found:#?}")),
        Err(Refused::Error(error)) => Err(format!("{error:#?}")),
    }
}

/// The differences as lines.
fn told(rehearsal: &Rehearsal) -> Vec<String> {
    let line = |it: &pgmorph::rehearse::compare::Difference| {
        let sql: String = it
            .statement
            .as_deref()
            .unwrap_or_default()
            .chars()
            .take(160)
            .collect();
        format!("{it}\n      {sql}")
    };
    rehearsal.differences.iter().map(line).collect()
}

pub async fn created(server: &TestServer, setup: &str) -> String {
    let database = Database::create(server, setup).await;
    let name = database.name.clone();
    closed(server, &name).await;
    name
}

/// A template may have no sessions.
async fn closed(server: &TestServer, name: &str) {
    let postgres = server.connect("postgres").await;
    let sql =
        format!("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'");
    postgres.batch_execute(&sql).await.unwrap();
}

async fn dropped(server: &TestServer, name: &str) {
    let postgres = server.connect("postgres").await;
    let sql = format!("DROP DATABASE {name} WITH (FORCE)");
    postgres.batch_execute(&sql).await.unwrap();
}

struct Done {
    name: String,
    seconds: f32,
    statements: usize,
    found: Result<Vec<String>, String>,
}

async fn fixture(server: &TestServer, name: String, directory: PathBuf) -> Done {
    let case = Case::read(&directory);
    let began = Instant::now();
    let database = created(server, &case.before).await;
    let result = rehearsed(server, &database, &case.plan).await;
    dropped(server, &database).await;
    Done {
        name,
        seconds: began.elapsed().as_secs_f32(),
        statements: result.as_ref().map_or(0, |it| it.statements.len()),
        found: result.map(|it| told(&it)),
    }
}

/// The plans of a folder one after the other, each on what those before it have left.
async fn plans(server: &TestServer, directory: &Path) -> Vec<Done> {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
    let data = read("data.sql").replace(":rows", "500");
    // These tables are made by the first of the plans.
    let mut data_to_come = directory.ends_with("tenant_metrics").then_some(&data);
    let setup = match data_to_come {
        Some(_) => read("schema.sql"),
        None => format!("{}\n{data}", read("schema.sql")),
    };
    let base = created(server, &setup).await;
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let mut done = Vec::new();
    for file in files {
        let name = file
            .strip_prefix(env!("CARGO_MANIFEST_DIR"))
            .unwrap()
            .display()
            .to_string();
        let source = std::fs::read_to_string(&file).unwrap();
        let began = Instant::now();
        let result = rehearsed(server, &base, &source).await;
        let it = Done {
            name,
            seconds: began.elapsed().as_secs_f32(),
            statements: result.as_ref().map_or(0, |it| it.statements.len()),
            found: result.map(|it| told(&it)),
        };
        done.push(it.say());
        let after = Database::open(server, &base).await;
        let plan = after.planned(&source).await;
        if plan.steps.iter().any(|step| step.work.not_before.is_some()) {
            after.apply(&plan, Phase::Cutover).await.unwrap();
            after.time_passes().await;
        }
        after.apply(&plan, Phase::Contract).await.unwrap();
        if let Some(data) = data_to_come.take() {
            after.admin.batch_execute(data).await.unwrap();
        }
        drop(after);
        closed(server, &base).await;
    }
    dropped(server, &base).await;
    done
}

fn is_due(name: &str, share: u32) -> bool {
    name.bytes().map(u32::from).sum::<u32>().is_multiple_of(share)
}

fn due_fixtures(major: u32) -> Vec<(String, PathBuf)> {
    let wanted = std::env::var("FIXTURE").unwrap_or_default();
    let share = match std::env::var("PGMORPH_REHEARSALS").as_deref() {
        Ok("all") => 1,
        _ if !wanted.is_empty() => 1,
        _ => std::env::var("FIXTURE_SHARE").map_or(1, |share| SHARE * share.parse::<u32>().unwrap()),
    };
    directories(&fixtures())
        .iter()
        .flat_map(|operation| directories(operation))
        .map(|directory| {
            let name = directory.strip_prefix(fixtures()).unwrap().display().to_string();
            (name, directory)
        })
        .filter(|(name, directory)| {
            directory.join("after.sql").exists()
                && name.contains(&wanted)
                && is_due(name, share)
                && Case::read(directory).particulars.from_major <= major
        })
        .collect()
}

impl Done {
    fn differs(&self) -> bool {
        self.found.as_ref().map_or(true, |lines| !lines.is_empty())
    }

    /// As soon as it is known: all of them take long.
    fn say(self) -> Self {
        let Self { name, statements, .. } = &self;
        match &self.found {
            Ok(lines) if lines.is_empty() => {
                eprintln!("{name}: {statements} statements agree, {:.1} s", self.seconds);
            }
            Ok(lines) => eprintln!("{name}: DIFFERS\n    {}", lines.join("\n    ")),
            Err(error) => eprintln!("{name}: DIFFERS\n    {error}"),
        }
        self
    }
}

fn judge(done: &[Done]) {
    let wrong = done.iter().filter(|it| it.differs()).count();
    tally("rehearsals", done.len());
    let statements: usize = done.iter().map(|it| it.statements).sum();
    eprintln!(
        "{} rehearsals, {statements} statements, {wrong} differ",
        done.len()
    );
    assert_eq!(
        wrong, 0,
        "plans claim what their statements do not do, or not what they do"
    );
}

/// One of the parts of equal size.
async fn fixtures_of(part: usize) {
    let server = Arc::new(TestServer::start(&[]));
    let due = due_fixtures(server.major()).into_iter();
    let due = due.skip(part).step_by(PARTS);
    let runs = due.map(|(name, directory)| {
        let server = Arc::clone(&server);
        async move {
            let task = tokio::spawn({
                let name = name.clone();
                async move { Box::pin(fixture(&server, name, directory)).await }
            });
            task.await.unwrap_or_else(|error| Done {
                name,
                seconds: 0.0,
                statements: 0,
                found: Err(error.to_string()),
            })
        }
    });
    let done: Vec<Done> = stream::iter(runs)
        .buffer_unordered(AT_ONCE)
        .map(Done::say)
        .collect()
        .await;
    judge(&done);
}

#[tokio::test(flavor = "multi_thread")]
async fn fixtures_1() {
    Box::pin(fixtures_of(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fixtures_2() {
    Box::pin(fixtures_of(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fixtures_3() {
    Box::pin(fixtures_of(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fixtures_4() {
    Box::pin(fixtures_of(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_plan() {
    let server = TestServer::start(&[]);
    let folders = directories(&Path::new(env!("CARGO_MANIFEST_DIR")).join("plans"));
    let mut done = Vec::new();
    for folder in &folders {
        done.extend(Box::pin(plans(&server, folder)).await);
    }
    judge(&done);
}
