//! Every case below `tests/fixtures` lives its whole life on a real server, with an application at work.
//!
//! A case is a directory `<operation>/<case>` with
//! - `before.sql`, `plan.yaml`, and `plan.snap`, the plan as text;
//! - `after.sql`, which builds the schema that the plan must lead to, or `error.snap`, the complaints about a plan
//!   that is refused;
//! - `writer.sql` and `reader.sql`, where the statements derived from the plan are not what the application does;
//! - `case.yaml`, where the case differs in something else: see [`Particulars`].
//!
//! `UPDATE_FIXTURES=1` writes the `.snap` files (`=18` those that differ from that release on), `FIXTURE=text` chooses the
//! cases with that text in their name, `FIXTURE_SHARE=4` a quarter of them: see [`Case::is_due`].

use crate::harness::{
    Balance, Database, TestServer, Traffic, Workload, compare as compare_text, difference, render_plan,
    schema_dump,
};
use futures_util::{StreamExt, stream};
use pgmorph::diagnostic;
use pgmorph::error::ErrorKind;
use pgmorph::executor::ledger::RunState;
use pgmorph::plan::{ExecutionPlan, Phase};
use pgmorph::{change_plan, planner, release};
use serde::Deserialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// So many cases at once: more would only make the application's statements late.
const AT_ONCE: usize = 2;

/// So many statements of reader and writer before, between and after the runs.
const STATEMENTS: u64 = 5;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Particulars {
    /// The oldest release that knows what the case is about.
    pub from_major: u32,
    /// Why the case is not rolled back.
    pub no_rollback: Option<String>,
}

pub struct Case {
    name: String,
    pub directory: PathBuf,
    pub before: String,
    pub plan: String,
    pub after: Option<String>,
    writer: Option<String>,
    reader: Option<String>,
    pub particulars: Particulars,
}

impl Case {
    pub fn read(directory: &Path) -> Self {
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
        let required = |name: &str| read(name).unwrap_or_else(|| panic!("{directory:?} has no {name}"));
        let particulars = read("case.yaml").map(|text| serde_saphyr::from_str(&text).unwrap());
        Self {
            name: directory.file_name().unwrap().to_str().unwrap().to_owned(),
            directory: directory.to_owned(),
            before: required("before.sql"),
            plan: required("plan.yaml"),
            after: read("after.sql"),
            writer: read("writer.sql"),
            reader: read("reader.sql"),
            particulars: particulars.unwrap_or_default(),
        }
    }

    /// Whether the case is walked on this release. Of a share the names decide, so that it is always the same one, and
    /// cases that are about this release, or whose plan is another from it on, always belong to it.
    fn is_due(&self, major: u32, share: u32) -> bool {
        if self.particulars.from_major > major {
            return false;
        }
        let changes = ["plan", "error"].map(|text| self.directory.join(format!("{text}.{major}.snap")));
        let drawn = self.name.bytes().map(u32::from).sum::<u32>() % share == 0;
        drawn || self.particulars.from_major == major || changes.iter().any(|file| file.exists())
    }

    fn compare(&self, file: &str, major: u32, text: &str) {
        if let Err(difference) = compare_text(&self.directory.join(file), major, text) {
            panic!("{difference}");
        }
    }

    /// Plans, compares the plan with its text, and asks whether planning is deterministic.
    async fn planned(&self, database: &Database<'_>) -> ExecutionPlan {
        let plan = database.plan(&self.plan).await.unwrap_or_else(|found| {
            panic!(
                "refused: {}",
                diagnostic::render(&found, "plan.yaml", &self.plan, false)
            )
        });
        self.compare("plan.snap", plan.server_version_num / 10_000, &render_plan(&plan));
        let again = database.planned(&self.plan).await;
        assert_eq!(json(&plan), json(&again), "the plan is not deterministic");
        assert_eq!(plan.digest, plan.computed_digest());
        plan
    }

    async fn live(&self, server: &TestServer) {
        let database = Database::create(server, &self.before).await;
        if self.after.is_none() {
            self.refused(&database).await;
            return database.drop().await;
        }
        let plan = self.planned(&database).await;
        let before = schema_dump(&database).await;
        let goes_back = plan.point_of_no_return().is_none() && self.particulars.no_rollback.is_none();
        self.there(&database, &plan, goes_back.then_some(before.as_str()))
            .await;
        // Where there is no contract, the way back was from the cutover already.
        if contracts(&plan) && self.particulars.no_rollback.is_none() {
            let database = Database::create(server, &self.before).await;
            self.there_and_back(&database, &before).await;
            database.drop().await;
        }
        database.drop().await;
    }

    async fn refused(&self, database: &Database<'_>) {
        let (text, major) = match database.snapshot(&self.plan).await {
            Err(found) => (self.complaints(&found), 0),
            Ok(snapshot) => {
                let source = change_plan::parse(&self.plan).unwrap();
                let major = snapshot.server.major();
                match planner::plan(&source, &snapshot) {
                    Ok(plan) => panic!(
                        "there is no after.sql, but the plan is accepted:\n{}",
                        render_plan(&plan)
                    ),
                    Err(found) => (self.complaints(&found), major),
                }
            }
        };
        self.compare("error.snap", major, &text);
    }

    fn complaints(&self, found: &[diagnostic::Diagnostic]) -> String {
        diagnostic::render(found, "plan.yaml", &self.plan, false)
    }

    pub async fn workload(&self, database: &Database<'_>, plan: &ExecutionPlan) -> Workload {
        Workload::new(database, plan, self.writer.as_deref(), self.reader.as_deref()).await
    }

    /// Through all phases; with the dump of before, all the way back.
    async fn there(&self, database: &Database<'_>, plan: &ExecutionPlan, back: Option<&str>) {
        let workload = self.workload(database, plan).await;
        let traffic = Traffic::start(database, &workload).await;
        traffic.go_on(STATEMENTS).await;
        if contracts(plan) {
            apply(database, plan, Phase::Cutover).await;
            traffic.go_on(STATEMENTS).await;
        }
        if plan.steps.iter().any(|step| step.work.not_before.is_some()) {
            too_early(database, plan).await;
            database.time_passes().await;
        }
        apply(database, plan, Phase::Contract).await;
        traffic.go_on(STATEMENTS).await;

        assert_none(
            "differs from the prediction",
            &database.differences(&plan.after, &plan.before).await,
        );
        assert_none("is left behind", &database.leftovers().await);
        self.compare_with_after(database).await;
        let run = database.run(plan).await.unwrap();
        assert_eq!(run.state, RunState::Completed);
        let again = database.apply(plan, Phase::Contract).await.unwrap();
        assert_eq!(
            (again.steps, again.complete),
            (0, true),
            "applying again is no no-op"
        );
        if let Some(before) = back {
            rolled_back(database, plan, before).await;
            traffic.go_on(STATEMENTS).await;
            self.settle(traffic.stop(database).await);
        } else {
            self.settle(traffic.stop(database).await);
        }
    }

    /// Up to the cutover and back.
    async fn there_and_back(&self, database: &Database<'_>, before: &str) {
        let plan = database.planned(&self.plan).await;
        let workload = self.workload(database, &plan).await;
        let traffic = Traffic::start(database, &workload).await;
        traffic.go_on(STATEMENTS).await;
        apply(database, &plan, Phase::Cutover).await;
        traffic.go_on(STATEMENTS).await;
        rolled_back(database, &plan, before).await;
        traffic.go_on(STATEMENTS).await;
        self.settle(traffic.stop(database).await);
    }

    async fn compare_with_after(&self, database: &Database<'_>) {
        let fresh = Database::create(database.server, self.after.as_deref().unwrap()).await;
        let (expected, found) = (schema_dump(&fresh).await, schema_dump(database).await);
        same("the schema is not that of after.sql", &expected, &found);
        fresh.drop().await;
    }

    fn settle(&self, balance: Balance) {
        assert_none("for the application", &balance.complaints);
    }
}

pub fn contracts(plan: &ExecutionPlan) -> bool {
    plan.steps.iter().any(|step| step.phase == Phase::Contract)
}

async fn too_early(database: &Database<'_>, plan: &ExecutionPlan) {
    let error = database.apply(plan, Phase::Contract).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition, "{error:#?}");
}

async fn apply(database: &Database<'_>, plan: &ExecutionPlan, through: Phase) {
    if let Err(error) = database.apply(plan, through).await {
        panic!(
            "apply through {through}: {error:#?}\n{:#?}",
            database.recorder.events()
        );
    }
}

async fn rolled_back(database: &Database<'_>, plan: &ExecutionPlan, before: &str) {
    if let Err(error) = database.rollback(plan).await {
        panic!("rollback: {error:#?}\n{:#?}", database.recorder.events());
    }
    let run = database.run(plan).await.unwrap();
    assert_eq!(run.state, RunState::RolledBack);
    assert_none(
        "differs after the rollback",
        &database.differences(&plan.before, &plan.after).await,
    );
    assert_none("is left behind by the rollback", &database.leftovers().await);
    same(
        "the rollback does not restore before.sql",
        before,
        &schema_dump(database).await,
    );
}

fn same(what: &str, expected: &str, found: &str) {
    assert!(expected == found, "{what}:\n{}", difference(expected, found));
}

fn assert_none(what: &str, found: &[String]) {
    let shown: Vec<_> = found.iter().take(10).map(String::as_str).collect();
    assert!(
        found.is_empty(),
        "{what} ({}):\n  {}",
        found.len(),
        shown.join("\n  ")
    );
}

fn json(plan: &ExecutionPlan) -> String {
    serde_json::to_string(plan).unwrap()
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let entries = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// How many cases there are for `scripts/test-releases` to tell: a line for each walk in the file that it names.
pub fn tally(operation: &str, cases: usize) {
    if let Some(path) = std::env::var_os("PGMORPH_TALLY") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        // One write, which other processes' lines do not get into.
        let line = format!("{cases} {operation}\n");
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// The cases of one operation on one server: a server costs half a second, a database some milliseconds. Of an operation
/// with very many cases a test walks one part only.
async fn walk(operation: &str, (part, parts): (usize, usize)) {
    let wanted = std::env::var("FIXTURE").unwrap_or_default();
    let share = std::env::var("FIXTURE_SHARE").map_or(1, |share| share.parse().unwrap());
    let server = Arc::new(TestServer::start(&[]));
    let major = server.major();
    let cases: Vec<Case> = directories(&fixtures().join(operation))
        .iter()
        .map(|directory| Case::read(directory))
        .filter(|case| case.name.contains(&wanted) && case.is_due(major, share))
        .enumerate()
        .filter(|(number, _)| number % parts == part)
        .map(|(_, case)| case)
        .collect();
    let count = cases.len();
    tally(operation, count);
    let runs = cases.into_iter().map(|case| {
        let server = Arc::clone(&server);
        async move {
            let name = case.name.clone();
            let began = Instant::now();
            // A task of its own turns a panic into a result, so that the other cases are run too.
            let result = tokio::spawn(async move { Box::pin(case.live(&server)).await }).await;
            (name, began.elapsed(), result)
        }
    });
    let mut results: Vec<_> = stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
    results.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, took, result) in &results {
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        eprintln!("{operation}/{name}: {verdict} after {took:.1?}");
    }
    let failed: Vec<&str> = results
        .iter()
        .filter(|(_, _, result)| result.is_err())
        .map(|(name, _, _)| name.as_str())
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {count} cases of {operation} fail: {}",
        failed.len(),
        failed.join(", ")
    );
}

/// A text that holds from a release on says something else than the one before it.
#[test]
fn no_text_is_kept_twice() {
    let mut twice = Vec::new();
    for case in directories(&fixtures())
        .iter()
        .flat_map(|operation| directories(operation))
    {
        for name in ["plan", "error"] {
            let releases = (release::OLDEST..=release::NEWEST).map(|major| format!("{name}.{major}.snap"));
            let files = std::iter::once(format!("{name}.snap")).chain(releases);
            let texts: Vec<_> = files
                .filter_map(|file| Some((std::fs::read_to_string(case.join(&file)).ok()?, file)))
                .collect();
            let same = texts.windows(2).filter(|pair| pair[0].0 == pair[1].0);
            twice.extend(same.map(|pair| case.join(&pair[1].1)));
        }
    }
    assert!(twice.is_empty(), "remove {twice:?}");
}

macro_rules! operations {
    ($($operation:ident $(in [$($part:ident),*])?),* $(,)?) => {
        $(operations!(@walk $operation $([$($part),*])?);)*

        #[test]
        fn every_operation_has_cases_that_are_walked() {
            let walked = [$(stringify!($operation)),*];
            let found = directories(&fixtures());
            let found: Vec<&str> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
            assert_eq!(found, walked);
            for (operation, _) in pgmorph::ops::MANUALS {
                assert!(walked.contains(operation), "{operation} has no cases");
            }
        }
    };
    (@walk $operation:ident) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $operation() {
            walk(stringify!($operation), (0, 1)).await;
        }
    };
    (@walk $operation:ident [$($part:ident),*]) => {
        mod $operation {
            const PARTS: &[&str] = &[$(stringify!($part)),*];

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $part() {
                    let part = PARTS.iter().position(|part| *part == stringify!($part)).unwrap();
                    super::walk(stringify!($operation), (part, PARTS.len())).await;
                }
            )*
        }
    };
}

operations![
    add_check,
    add_column in [part_1, part_2],
    add_enum_value,
    add_foreign_key,
    add_primary_key,
    add_unique,
    backfill,
    change_type in [part_1, part_2, part_3],
    compare,
    create_enum,
    create_function,
    create_index in [part_1, part_2, part_3],
    create_materialized_view,
    create_schema,
    create_table,
    create_trigger,
    create_view,
    drop_column,
    drop_constraint,
    drop_default,
    drop_index,
    drop_not_null,
    drop_table,
    grant,
    rename_column,
    rename_table,
    replace_index,
    retire_table,
    set_default,
    set_not_null,
    snapshot_table,
    sql,
    sync,
    widen_column in [part_1, part_2, part_3, part_4, part_5, part_6, part_7, part_8],
];
