//! Input that nobody means well with: mutated seeds through everything that reads, files made to take all memory or time,
//! saved plans that were tampered with.

mod huge;
mod mutate;
mod tampered;

#[path = "../../../fuzz/targets.rs"]
mod targets;

use crate::harness::{Database, TestServer};
use mutate::Mutator;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How long one input may take, far above what any does on a quiet machine.
const INPUT_PATIENCE: Duration = Duration::from_secs(20);

fn fuzz(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// The files of a folder, which may be missing.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn plan_files(folder: &Path, found: &mut Vec<Vec<u8>>) {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            plan_files(&path, found);
        } else if path.file_name().is_some_and(|name| name == "plan.yaml") {
            found.push(std::fs::read(path).unwrap());
        }
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut found = files(&fuzz("seeds").join(target));
    found.extend(files(&fuzz("regressions").join(target)));
    match target {
        "plan_file" => {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            plan_files(&root.join("tests/fixtures"), &mut found);
            plan_files(&root.join("plans"), &mut found);
        }
        "catalog" => found.push(targets::CATALOG.as_bytes().to_vec()),
        _ => {}
    }
    assert!(!found.is_empty(), "{target} has no seeds");
    found
}

/// Each seed as it is, and so many mutated ones, none of which may panic or take long.
fn survives(target: &str, rounds: usize) {
    let run = targets::ALL.iter().find(|(name, _)| *name == target).unwrap().1;
    let seeds = seeds(target);
    let mut mutator = Mutator::new(target, &seeds);
    let mutated = (0..rounds).map(|_| mutator.next());
    let inputs: Vec<Vec<u8>> = seeds.iter().cloned().chain(mutated).collect();
    let (send, receive) = mpsc::channel();
    let work = inputs.clone();
    // What hangs cannot be stopped, but it can be told of.
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            for input in work {
                let ended = catch_unwind(AssertUnwindSafe(|| run(&input)));
                if send.send(ended.is_ok()).is_err() {
                    return;
                }
            }
        })
        .unwrap();
    for (number, input) in inputs.iter().enumerate() {
        let kept = || {
            let path = std::env::temp_dir().join(format!("pgmorph-hostile-{target}-{number}"));
            std::fs::write(&path, input).unwrap();
            format!(
                "the input is kept as {}; put it into fuzz/regressions/{target}",
                path.display()
            )
        };
        match receive.recv_timeout(INPUT_PATIENCE) {
            Ok(true) => {}
            Ok(false) => panic!("{target} panics: {}", kept()),
            Err(_) => panic!("{target} takes longer than {INPUT_PATIENCE:?}: {}", kept()),
        }
    }
    println!("{target}: {} seeds and {rounds} mutations of them", seeds.len());
}

#[test]
fn mutated_plan_files() {
    survives("plan_file", 600);
}

#[test]
fn mutated_catalogs() {
    survives("catalog", 25);
}

#[test]
fn mutated_saved_plans() {
    survives("saved_plan", 60);
}

#[test]
fn mutated_connection_strings() {
    survives("connection", 4_000);
}

#[test]
fn mutated_units() {
    survives("units", 20_000);
}

#[test]
fn mutated_names() {
    survives("names", 20_000);
}

#[test]
fn mutated_conditions() {
    survives("when", 1_500);
}

/// The snapshot that plans are fuzzed against is one of today's format, with something of everything in it.
/// `UPDATE_SEEDS=1` writes it anew.
#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_are_of_today() {
    let server = TestServer::start(&[]);
    let rich = Database::create(&server, include_str!("../catalog/rich.sql")).await;
    let small = Database::create(&server, include_str!("seed.sql")).await;
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        let snapshot = rich.snapshot("name: x\nchanges: []\n").await.unwrap();
        let plan = small.planned(include_str!("seed.yaml")).await;
        let write = |name: &str, text: String| std::fs::write(fuzz("seeds").join(name), text + "\n").unwrap();
        write("catalog.json", serde_json::to_string(&snapshot).unwrap());
        write("saved_plan/plan.json", serde_json::to_string(&plan).unwrap());
    }
    let text = std::fs::read_to_string(fuzz("seeds/catalog.json")).unwrap();
    let seed = pgmorph::saved::snapshot("catalog.json", &text).unwrap();
    assert!(seed.tables.len() > 10 && seed.views.len() > 3 && !seed.functions.is_empty());
    let text = std::fs::read_to_string(fuzz("seeds/saved_plan/plan.json")).unwrap();
    let plan = pgmorph::saved::execution_plan("plan.json", &text)
        .unwrap()
        .unwrap();
    assert!(plan.steps.len() > 10);
}
