//! What is fed with bytes from anywhere: shared by the fuzz targets and by the tests, which feed it with mutated seeds.
//!
//! Each must come to an end soon, in little memory, without a panic; and where something is said twice, the same.

#![allow(dead_code, reason = "each fuzz target uses one of them")]

use pgmorph::catalog::model::CatalogSnapshot;
use pgmorph::change_plan::{self, ChangePlan};
use pgmorph::plan::ExecutionPlan;
use pgmorph::postgres::settings::ConnectionSettings;
use pgmorph::report::{plan_human, plan_markdown, plan_sql, safe};
use pgmorph::sql::{self, QualifiedName};
use pgmorph::{diagnostic, planner, saved, units};
use std::sync::LazyLock;

/// By name.
pub const ALL: [(&str, fn(&[u8])); 7] = [
    ("plan_file", plan_file),
    ("catalog", catalog),
    ("saved_plan", saved_plan),
    ("connection", connection),
    ("units", units),
    ("names", names),
    ("when", when),
];

/// The catalog that plans are compiled against, as `pgmorph snapshot` wrote it.
pub const CATALOG: &str = include_str!("seeds/catalog.json");

static SHOP: LazyLock<CatalogSnapshot> = LazyLock::new(|| {
    saved::snapshot("seeds/catalog.json", CATALOG).expect("the seed is a snapshot of this format")
});

/// A plan file, compiled against a fixed catalog, and printed in every form.
pub fn plan_file(data: &[u8]) {
    if let Ok(source) = saved::bounded(data, saved::CHANGE_PLAN_BYTES_MAX) {
        compiled(&source, &SHOP);
    }
}

fn compiled(source: &str, catalog: &CatalogSnapshot) {
    let found = match change_plan::parse(source) {
        Ok(plan) => {
            let _ = planner::questions(&plan, catalog);
            let _ = planner::conditions(&plan, &planner::Numbers::new());
            match planner::plan(&plan, catalog) {
                Ok(compiled) => return again(&compiled, &plan, catalog),
                Err(found) => found,
            }
        }
        Err(found) => found,
    };
    assert!(!found.is_empty(), "a refusal has a reason");
    safe_for_terminals(&diagnostic::render(&found, "plan.yaml", source, false));
}

/// Planning is deterministic, and what was planned can be saved, read back and printed.
fn again(compiled: &ExecutionPlan, plan: &ChangePlan, catalog: &CatalogSnapshot) {
    assert_eq!(
        planner::plan(plan, catalog).map(|plan| plan.digest),
        Ok(compiled.digest.clone())
    );
    let text = serde_json::to_string(compiled).expect("a plan can be saved");
    let read = saved::execution_plan("saved.json", &text).expect("a saved plan can be read");
    assert_eq!(read.as_ref(), Some(compiled));
    printed(compiled);
}

fn printed(plan: &ExecutionPlan) {
    safe_for_terminals(&plan_human::plan(plan));
    safe_for_terminals(&plan_markdown::plan(plan));
    // The fence of its statements is closed again.
    let _ = plan_sql::plan(plan);
}

fn safe_for_terminals(text: &str) {
    let written = safe::plain(text);
    let harmful = written
        .chars()
        .find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(harmful, None, "{written:?}");
}

/// A catalog snapshot, and plans about the tables in it.
pub fn catalog(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(snapshot) = saved::snapshot("catalog.json", &text) else {
        return;
    };
    for source in plans_about(&snapshot) {
        compiled(&source, &snapshot);
    }
}

/// Each operation that needs a table, on some tables and columns.
fn plans_about(snapshot: &CatalogSnapshot) -> Vec<String> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let yaml = |text: &str| serde_json::Value::from(text).to_string();
    let mut plans = Vec::new();
    for (name, table) in snapshot.tables.iter().take(4) {
        let on = yaml(&format!("{}.{}", quoted(&name.schema), quoted(&name.name)));
        let mut changes = vec![
            format!("rename_table: {{table: {on}, to: other}}"),
            format!("drop_table: {{table: {on}}}"),
            format!("retire_table: {{table: {on}}}"),
            format!(
                "add_column: {{table: {on}, column: extra, type: bigint, default: \"1\", not_null: true}}"
            ),
        ];
        for column in table.columns.iter().take(2) {
            let column = yaml(&column.name);
            changes.extend([
                format!("widen_column: {{table: {on}, column: {column}, type: bigint}}"),
                format!("widen_column: {{table: {on}, column: {column}, type: bigint, settings: {{small_table: 0}}}}"),
                format!("change_type: {{table: {on}, column: {column}, type: text, using: \"x\", reverse_using: \"x\"}}"),
                format!("create_index: {{table: {on}, columns: [{column}], unique: true}}"),
                format!("set_not_null: {{table: {on}, column: {column}}}"),
                format!("drop_not_null: {{table: {on}, column: {column}}}"),
                format!("drop_column: {{table: {on}, column: {column}}}"),
                format!("rename_column: {{table: {on}, column: {column}, to: other}}"),
                format!("add_unique: {{table: {on}, columns: [{column}]}}"),
                format!("add_foreign_key: {{table: {on}, columns: [{column}], references: {{table: {on}, columns: [{column}]}}}}"),
            ]);
        }
        let indexes = table.indexes.keys().take(2);
        changes.extend(indexes.map(|index| {
            let index = yaml(&format!("{}.{}", quoted(&name.schema), quoted(index)));
            format!("drop_index: {{name: {index}}}")
        }));
        plans.extend(
            changes
                .iter()
                .map(|change| format!("name: p\nchanges:\n  - {change}\n")),
        );
    }
    plans
}

/// A saved execution plan; past its digest too.
pub fn saved_plan(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(Some(plan)) = saved::execution_plan("saved.json", &text) {
        printed(&plan);
    }
    if let Ok(mut plan) = serde_json::from_str::<ExecutionPlan>(&text) {
        plan.digest = plan.computed_digest();
        let signed = serde_json::to_string(&plan).expect("a plan can be saved");
        let read = saved::execution_plan("saved.json", &signed);
        assert!(
            read.is_ok_and(|read| read.as_ref() == Some(&plan)) || plan.format != pgmorph::plan::PLAN_FORMAT,
            "what is signed is read"
        );
        printed(&plan);
    }
}

/// A connection string, a service file and a password file, with a zero byte between them.
pub fn connection(data: &[u8]) {
    static DIRECTORY: LazyLock<tempfile::TempDir> =
        LazyLock::new(|| tempfile::tempdir().expect("a directory for the files"));
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (url, service, passwords) = (part(), part(), part());
    let url = String::from_utf8_lossy(url);
    // Two tests may run at the same time.
    let thread = format!("{:?}", std::thread::current().id());
    let path = |name: &str| DIRECTORY.path().join(format!("{thread}{name}"));
    std::fs::write(path("service"), service).expect("the service file is written");
    std::fs::write(path("passwords"), passwords).expect("the password file is written");
    private(&path("passwords"));
    let file = |name: &str| Some(path(name).display().to_string());
    let resolved = ConnectionSettings::resolve(Some(&url), &|name| match name {
        "PGSERVICEFILE" => file("service"),
        "PGPASSFILE" => file("passwords"),
        "PGUSER" | "USER" => Some("somebody".into()),
        "PGSYSCONFDIR" | "HOME" => Some(DIRECTORY.path().display().to_string()),
        _ => None,
    });
    match resolved {
        Ok(settings) => {
            safe_for_terminals(&settings.redacted());
            settings
                .warnings()
                .iter()
                .for_each(|warning| safe_for_terminals(warning));
        }
        Err(error) => {
            safe_for_terminals(&error.to_string());
            safe_for_terminals(&error.help());
        }
    }
}

fn private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, permissions).expect("the password file is ours");
}

/// Durations, sizes, throttles.
pub fn units(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(ms) = units::duration_ms(&text) {
        let shown = units::millis(ms);
        assert!(!shown.is_empty());
    }
    if let Some(bytes) = change_plan::size_bytes(&text) {
        assert!(!units::size(bytes).is_empty());
    }
    let _ = units::number_and_unit(&text);
    let _ = text.parse::<pgmorph::executor::brake::Brake>();
    for line in units::wrap(&text, 40) {
        assert!(line.chars().count() <= 40 || !line.contains(' '), "{line:?}");
    }
    let shown = safe::one_line(&text);
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    safe_for_terminals(&text);
    let json = serde_json::to_string(&text).expect("a text is JSON");
    let back: String = serde_json::from_str(&safe::json(&json)).expect("it stays JSON");
    assert_eq!(back, text);
}

/// Names as plans and snapshots spell them, and quoting.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert_eq!(unquoted(&sql::ident(&text)), text);
    if let Ok(name) = QualifiedName::parse(&text, "public") {
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        assert!(sql::check_identifier(&name.name).is_ok());
    }
    if let Ok(name) = text.parse::<QualifiedName>() {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    if let Ok((table, column)) = sql::parse_column(&text, "public") {
        let spelled = sql::spell_column(&table, &column, "public");
        assert_eq!(sql::parse_column(&spelled, "public"), Ok((table, column)));
    }
    if let Some((one, other)) = text.split_once('/') {
        for (parts, suffix) in [(&[one, other][..], "idx"), (&[one], "pgmorph_old")] {
            assert!(sql::derived_name(parts, suffix).len() <= sql::IDENTIFIER_BYTES_MAX);
            assert!(sql::own_name(parts, suffix).len() <= sql::IDENTIFIER_BYTES_MAX);
        }
        if one != other && one.len() <= 63 && other.len() <= 63 {
            assert_ne!(
                sql::own_name(&[one], "pgmorph_old"),
                sql::own_name(&[other], "pgmorph_old")
            );
        }
    }
    assert_eq!(unescaped(&sql::literal(&text)), text);
    let _ = pgmorph::catalog::types::canonical(&text);
    let _ = change_plan::check_name(&text);
}

/// As the server reads an identifier.
fn unquoted(sql: &str) -> String {
    match sql.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => {
            assert!(!inner.replace("\"\"", "").contains('"'), "{sql}");
            inner.replace("\"\"", "\"")
        }
        None => {
            let mut bytes = sql.bytes();
            assert!(
                bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{sql}"
            );
            sql.to_owned()
        }
    }
}

/// As the server reads a literal, whatever `standard_conforming_strings` says.
fn unescaped(sql: &str) -> String {
    let (escapes, inner) = match sql.strip_prefix('E') {
        Some(rest) => (true, rest),
        None => (false, sql),
    };
    let inner = &inner[1..inner.len() - 1];
    assert!(escapes || !inner.contains('\\'), "{sql}");
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let next = match c {
            '\'' => chars.next().filter(|next| *next == '\''),
            '\\' if escapes => chars.next().filter(|next| *next == '\\'),
            c => Some(c),
        };
        text.push(next.unwrap_or_else(|| panic!("it ends early: {sql}")));
    }
    text
}

/// The condition of a change.
pub fn when(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let source = format!(
        "name: p\nchanges:\n  - set_default:\n      table: orders\n      column: note\n      default: \"1\"\n      when: {text}\n"
    );
    compiled(&source, &SHOP);
}
