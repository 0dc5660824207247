//! The house rules that a compiler does not keep: which module may import which, and what the pure ones may not use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Module → what it may import. `units` and `error` are open to all but are themselves listed.
const ARROWS: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("sql", &[]),
    ("release", &[]),
    ("sqlstate", &[]),
    ("catalog::model", &["sql"]),
    ("catalog::types", &[]),
    ("catalog::load", &["catalog", "release", "sql", "sqlstate"]),
    ("catalog::probe", &["catalog", "sql", "sqlstate"]),
    ("catalog::check", &["catalog::model", "sql"]),
    ("diagnostic", &[]),
    ("document", &["diagnostic", "sql"]),
    ("plan", &["catalog::model", "sql"]),
    (
        "ops",
        &[
            "catalog::model",
            "catalog::types",
            "diagnostic",
            "document",
            "plan",
            "sql",
            "units",
        ],
    ),
    ("when", &["catalog::model", "diagnostic", "document", "sql"]),
    (
        "change_plan",
        &["diagnostic", "document", "ops", "plan", "sql", "units", "when"],
    ),
    (
        "planner",
        &[
            "catalog::model",
            "change_plan",
            "diagnostic",
            "ops",
            "plan",
            "release",
            "sql",
            "when",
        ],
    ),
    (
        "plan_set",
        &["catalog::model", "change_plan", "diagnostic", "ops", "sql"],
    ),
    (
        "sql_lint",
        &["catalog::model", "catalog::types", "diagnostic", "plan", "sql"],
    ),
    ("verifier", &["catalog::model", "plan", "sql"]),
    ("plan_diff", &["catalog::model", "plan", "verifier"]),
    ("hazards", &[]),
    ("saved", &["catalog", "error", "plan", "units"]),
    ("event", &["plan"]),
    ("error", &["catalog::load", "postgres", "sqlstate"]),
    ("postgres", &["release", "saved", "sql", "units"]),
    (
        "executor",
        &[
            "catalog", "error", "event", "plan", "postgres", "sql", "sqlstate", "units", "verifier",
        ],
    ),
    (
        "report",
        &[
            "diagnostic",
            "error",
            "event",
            "executor",
            "hazards",
            "plan",
            "plan_diff",
            "rehearse",
            "sql",
            "units",
            "verifier",
        ],
    ),
    ("monitor", &["error", "event", "report", "units"]),
    (
        "rehearse",
        &[
            "catalog",
            "change_plan",
            "diagnostic",
            "error",
            "event",
            "executor",
            "plan",
            "planner",
            "postgres",
            "sql",
            "sqlstate",
            "units",
        ],
    ),
    (
        "demo",
        &[
            "catalog",
            "change_plan",
            "error",
            "event",
            "executor",
            "plan",
            "planner",
            "postgres",
            "report",
            "sql",
            "units",
            "verifier",
        ],
    ),
];

/// No I/O, no clock, no chance: what these say depends on their arguments alone.
const PURE: &[&str] = &[
    "sql.rs",
    "units.rs",
    "release.rs",
    "catalog/model.rs",
    "catalog/types.rs",
    "catalog/types/",
    "diagnostic.rs",
    "document.rs",
    "plan.rs",
    "ops/",
    "when.rs",
    "change_plan.rs",
    "planner.rs",
    "planner/",
    "plan_set.rs",
    "verifier.rs",
    "plan_diff.rs",
    "hazards.rs",
    "executor/backfill/controller.rs",
    "executor/backfill/horizon.rs",
    "executor/backfill/ranges.rs",
    "executor/backfill/slices.rs",
    "executor/backfill/throttle.rs",
    "executor/brake.rs",
    "executor/decide.rs",
    "executor/retry.rs",
    "executor/stats.rs",
    "monitor/standing.rs",
    "report/axis.rs",
];

const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "tokio",
    "std::fs",
    "std::net",
    "Instant::now",
    "SystemTime",
    "rand::",
    "std::env",
];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let relative = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    files
        .iter()
        .map(|path| {
            (
                relative(path),
                without_tests(&std::fs::read_to_string(path).unwrap()),
            )
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("ops/testing.rs")
            && !path.ends_with("report/sample.rs")
        {
            files.push(path);
        }
    }
}

/// Tests may use what they like; comments do not count either.
fn without_tests(source: &str) -> String {
    let code = source.split("\n#[cfg(test)]\n").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn module_of(file: &str) -> String {
    file.trim_end_matches(".rs")
        .trim_end_matches("/mod")
        .replace('/', "::")
}

/// `crate::…` paths, two segments deep, of a source.
fn imports(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (position, _) in source.match_indices("crate::") {
        let rest = &source[position + "crate::".len()..];
        let path: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':')
            .collect();
        if let Some(group) = rest.strip_prefix('{') {
            let names = group.split('}').next().unwrap().split(',').map(str::trim);
            found.extend(
                names
                    .filter(|name| !name.is_empty())
                    .map(|name| name.split("::").next().unwrap().to_owned()),
            );
            continue;
        }
        let after = &rest[path.len()..];
        let segments: Vec<&str> = path.split("::").filter(|segment| !segment.is_empty()).collect();
        if segments.len() == 1 && path.ends_with("::") && after.starts_with('{') && segments[0] == "catalog" {
            let names = after[1..].split('}').next().unwrap().split(',').map(str::trim);
            found.extend(names.map(|name| format!("catalog::{}", name.split("::").next().unwrap())));
            continue;
        }
        let depth = if segments.first() == Some(&"catalog") {
            2
        } else {
            1
        };
        found.insert(segments[..segments.len().min(depth)].join("::"));
    }
    found
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for (file, source) in sources() {
        let module = module_of(&file);
        if ["main", "lib"].contains(&module.as_str()) || module.starts_with("cli") {
            continue;
        }
        let inside = |prefix: &str| module == prefix || module.starts_with(&format!("{prefix}::"));
        let Some((own, allowed)) = ARROWS
            .iter()
            .filter(|(own, _)| inside(own))
            .max_by_key(|(own, _)| own.len())
        else {
            if module != "catalog" {
                wrong.push(format!(
                    "{file}: module {module} has no place in the list of arrows"
                ));
            }
            continue;
        };
        for import in imports(&source) {
            let within = |prefix: &&str| import == **prefix || import.starts_with(&format!("{prefix}::"));
            if !within(own) && !allowed.iter().any(within) {
                wrong.push(format!("{file} imports {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_pure_set_is_pure() {
    let mut wrong = Vec::new();
    for (file, source) in sources() {
        if !PURE
            .iter()
            .any(|pure| file == *pure || (pure.ends_with('/') && file.starts_with(pure)))
        {
            continue;
        }
        for word in IMPURE {
            if source.contains(word) {
                wrong.push(format!("{file} uses {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_quoting_module_quotes_identifiers() {
    let mut wrong = Vec::new();
    for (file, source) in sources() {
        if file != "sql.rs"
            && !file.starts_with("postgres/")
            && !file.starts_with("postgres/")
            && (source.contains("replace('\"', \"\\\"\\\"\")") || source.contains("replace('\\'', \"''\")"))
        {
            wrong.push(file);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_readme_names_every_operation_and_every_system() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let table = readme.split("## Operations and their locks").nth(1).unwrap();
    let table: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    for (operation, _) in pgmorph::ops::MANUALS {
        let named = |line: &&&str| {
            line.split('|')
                .nth(1)
                .unwrap()
                .contains(&format!("`{operation}`"))
        };
        assert_eq!(table.iter().filter(named).count(), 1, "{operation}");
    }
    for system in std::fs::read_dir(root.join("plans")).unwrap() {
        let name = system.unwrap().file_name().to_str().unwrap().to_owned();
        assert!(readme.contains(&format!("| `{name}` |")), "{name}");
    }
}
