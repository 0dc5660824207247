//! Hand-written migrations: the first line of a bad one names the rule that it breaks; a good one breaks none.

use pgmorph::sql_lint::rules::{RULES, rule};
use pgmorph::sql_lint::{Report, World, lint};
use std::collections::BTreeSet;
use std::path::Path;

fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/sql_lint")
        .join(folder);
    let mut files: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn look(name: &str, source: &str, version: u32) -> Report {
    lint(&mut World::unknown(version), name, source, false)
}

fn said(report: &Report) -> Vec<String> {
    let all = report.all();
    all.iter()
        .map(|finding| format!("{}: {}", finding.rule, finding.message))
        .collect()
}

#[test]
fn the_bad_ones_break_the_rule_that_they_name() {
    let files = files("bad");
    assert!(files.len() >= 30, "{} files", files.len());
    let mut wrong = Vec::new();
    let mut broken = BTreeSet::new();
    for (name, source) in &files {
        let wanted = source.lines().next().unwrap().trim_start_matches("-- ");
        assert!(rule(wanted).is_some(), "{name} names no rule: {wanted}");
        let report = look(name, source, 16);
        if report.all().iter().any(|finding| finding.rule == wanted) {
            broken.insert(wanted);
        } else {
            wrong.push(format!("{name}: {wanted} not among {:?}", said(&report)));
        }
    }
    println!("{} bad migrations, {} rules", files.len(), broken.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let without: Vec<&str> = RULES
        .iter()
        .map(|rule| rule.id)
        .filter(|id| !broken.contains(id))
        .collect();
    assert_eq!(
        without,
        ["exclusive-lock-while-scanning"],
        "every other rule has a file"
    );
}

#[test]
fn the_good_ones_are_silent() {
    let files = files("good");
    assert!(files.len() >= 30, "{} files", files.len());
    let mut wrong = Vec::new();
    for (name, source) in &files {
        for version in 14..=18 {
            let report = look(name, source, version);
            if !report.all().is_empty() {
                wrong.push(format!("{name} on {version}: {:?}", said(&report)));
            }
        }
    }
    println!("{} good migrations", files.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
