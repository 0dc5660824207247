//! The plan file: YAML → [`ChangePlan`]. The only code that knows YAML.
//!
//! The YAML library stops at its first error; so it is only asked for a located tree, and everything else is read
//! from that tree, which can report all complaints at once.

use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::{Fields, Node, Shapes, Value};
use crate::ops::{AnyOperation, MANUALS};
use crate::plan::{Check, Contention, Monitor, Settings};
use crate::sql;
use crate::units::{duration_ms, number_and_unit, whole};
use crate::when::When;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;
use std::cell::RefCell;
use std::fmt;

/// Nodes in one file at most: far above any real plan, far below what an alias bomb makes.
const NODES_MAX: usize = 20_000;

/// Lists and maps within each other at most. Reading them takes stack, of which a thread has 2 MB.
const DEPTH_MAX: usize = 24;

/// Bytes of all values at most, those that aliases repeat counted again.
const SCALAR_BYTES_MAX: usize = 8 << 20;

/// The server keeps its timeouts in 31 bits of milliseconds.
const TIMEOUT_MS_MAX: u64 = i32::MAX as u64;

/// A plan file as values.
#[derive(Debug, Clone)]
pub struct ChangePlan {
    /// Identity in the ledger.
    pub name: String,
    pub name_span: Span,
    pub description: String,
    /// Of names without one.
    pub schema: String,
    /// Names of plans that must be applied before this one.
    pub depends_on: Vec<Located<String>>,
    pub settings: Settings,
    pub preconditions: Vec<Check>,
    pub changes: Vec<Change>,
    pub postconditions: Vec<Check>,
    pub monitors: Vec<Monitor>,
    /// What must be typed before it is rolled back.
    pub confirm_rollback: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Change {
    pub operation: AnyOperation,
    pub settings: Settings,
    /// It waits until this holds.
    pub when: Option<When>,
    pub span: Span,
    /// The entry in one canonical line, comments and layout left out.
    pub text: String,
}

/// Reads a plan file.
///
/// # Errors
/// Everything wrong with it, each with its place: bad YAML (then only that), unknown and duplicate keys, missing
/// keys, wrong types, bad values.
pub fn parse(source: &str) -> Result<ChangePlan, Vec<Diagnostic>> {
    read(source, None)
}

/// As [`parse`], and what was asked of the file.
///
/// # Errors
/// Those of [`parse`].
pub fn shapes(source: &str) -> Result<Shapes, Vec<Diagnostic>> {
    let shapes = Shapes::default();
    read(source, Some(&shapes)).map(|_| shapes)
}

fn read(source: &str, shapes: Option<&Shapes>) -> Result<ChangePlan, Vec<Diagnostic>> {
    let root = tree(source).map_err(|complaint| vec![complaint])?;
    let diagnostics = RefCell::new(Vec::new());
    let schema = default_schema(&root);
    let mut fields = Fields::open(&root, "a plan file", &schema, &diagnostics);
    if let Some(shapes) = shapes {
        fields = fields.recorded(shapes);
    }
    fields.optional("schema");
    let name = fields.text("name");
    let description = fields
        .optional_text("description")
        .map(|text| text.value)
        .unwrap_or_default();
    let depends_on = read_depends_on(&fields);
    let settings = read_settings(&fields, &Settings::default(), true);
    let preconditions = read_checks(&fields, "before");
    let changes = read_changes(&fields, &settings);
    let postconditions = read_checks(&fields, "after");
    let monitors = read_monitors(&fields);
    let confirm_rollback = fields.optional_text("confirm_rollback").map(|text| text.value);
    fields.finish();
    let mut complaints = diagnostics.into_inner();
    if let Some(name) = &name
        && let Err(message) = check_name(&name.value)
    {
        complaints.push(Diagnostic::new("invalid_value", message).at(name.span));
    }
    complaints.sort_by_key(|complaint| complaint.span.map(|span| span.start));
    match (name, complaints.is_empty()) {
        (Some(name), true) => Ok(ChangePlan {
            name: name.value,
            name_span: name.span,
            description,
            schema: schema.clone(),
            depends_on,
            settings,
            preconditions,
            changes,
            postconditions,
            monitors,
            confirm_rollback,
        }),
        _ => Err(complaints),
    }
}

fn default_schema(root: &Node) -> String {
    let Value::Map(entries) = &root.value else {
        return "public".into();
    };
    match entries
        .iter()
        .find(|(key, _)| key.value == "schema")
        .map(|(_, node)| &node.value)
    {
        Some(Value::Scalar { text, .. }) if sql::check_identifier(text).is_ok() => text.clone(),
        _ => "public".into(),
    }
}

fn read_depends_on(fields: &Fields<'_>) -> Vec<Located<String>> {
    let items = fields.optional_list("depends_on").unwrap_or_default();
    items
        .iter()
        .filter_map(|item| fields.text_of(item, "depends_on"))
        .collect()
}

/// What a plan may be called.
///
/// # Errors
/// The reason in words.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty()
        && name.len() <= 200
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' '));
    if fits {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not a plan name: 1 to 200 letters, digits, spaces, `_`, `-` and `.`"
    ))
}

fn read_changes(fields: &Fields<'_>, settings: &Settings) -> Vec<Change> {
    let Some(items) = fields.list("changes") else {
        return Vec::new();
    };
    items
        .iter()
        .filter_map(|item| read_change(fields, item, settings))
        .collect()
}

fn read_change(fields: &Fields<'_>, item: &Node, settings: &Settings) -> Option<Change> {
    let names = || MANUALS.iter().map(|(name, _)| *name);
    let entry = match &item.value {
        Value::Map(entries) if entries.len() == 1 => &entries[0],
        Value::Map(entries) if entries.len() > 1 => {
            let second = &entries[1].0;
            fields.report(
                Diagnostic::new("two_operations", format!("`{}` is a second key in one change", second.value))
                    .at(second.span)
                    .help("one key per list entry names the operation; start a new entry with `- `, or indent its keys"),
            );
            return None;
        }
        _ => {
            fields.report(
                Diagnostic::new("wrong_type", "a change is a map with one key, the operation")
                    .at(item.span)
                    .help(format!(
                        "operations: {}; `pgmorph explain OPERATION` tells what each does",
                        names().collect::<Vec<_>>().join(", ")
                    )),
            );
            return None;
        }
    };
    let (name, body) = entry;
    let inner = fields.nested(body, &name.value);
    let settings = read_settings(&inner, settings, false);
    let when = inner.optional("when");
    let Some(operation) = AnyOperation::read(&name.value, &inner) else {
        fields.report(
            Diagnostic::new("unknown_operation", format!("unknown operation `{}`", name.value))
                .at(name.span)
                .help(format!("operations: {}", names().collect::<Vec<_>>().join(", ")))
                .suggest(&name.value, names()),
        );
        return None;
    };
    let when = when.map(|node| When::read(&inner, node));
    let clean = inner.finish();
    let text = format!("{}: {}", name.value, canonical(body));
    operation.filter(|_| clean).map(|operation| Change {
        operation,
        settings,
        when: when.flatten(),
        span: name.span,
        text,
    })
}

fn canonical(node: &Node) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    match &node.value {
        Value::Null => "null".into(),
        Value::Scalar { text, .. } => quoted(text),
        Value::List(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let pairs = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", key.value, canonical(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

fn read_checks(fields: &Fields<'_>, key: &'static str) -> Vec<Check> {
    let Some(items) = fields.optional_list(key) else {
        return Vec::new();
    };
    let read = |item| {
        let check = fields.nested(item, "a check");
        let name = check.text("name");
        let query = check.text("query");
        check.choice("expect", &[("no_rows", ())]);
        let help = check
            .optional_text("help")
            .map(|text| text.value)
            .unwrap_or_default();
        check.finish();
        let query = query?.value.trim().trim_end_matches(';').to_owned();
        Some(Check {
            name: name?.value,
            query,
            help,
        })
    };
    items.iter().filter_map(read).collect()
}

fn read_monitors(fields: &Fields<'_>) -> Vec<Monitor> {
    let Some(items) = fields.optional_list("monitor") else {
        return Vec::new();
    };
    let read = |item| {
        let monitor = fields.nested(item, "a question to monitor");
        let name = monitor.text("name");
        let query = monitor.text("query");
        monitor.finish();
        let query = query?.value.trim().trim_end_matches(';').to_owned();
        Some(Monitor {
            name: name?.value,
            query,
        })
    };
    items.iter().filter_map(read).collect()
}

/// Those of the whole plan, or those of one change.
fn read_settings(fields: &Fields<'_>, inherited: &Settings, whole: bool) -> Settings {
    let mut settings = inherited.clone();
    let Some(node) = fields.optional("settings") else {
        return settings;
    };
    let inner = fields.nested(node, "settings");
    let duration = |key: &'static str, value: &mut u64| {
        if let Some(text) = inner.optional_text(key) {
            read_unit(&inner, key, &text, duration_ms, value);
        }
    };
    duration("lock_timeout", &mut settings.lock_timeout_ms);
    duration("lock_deadline", &mut settings.lock_deadline_ms);
    duration("statement_timeout", &mut settings.statement_timeout_ms);
    duration("long_statement_timeout", &mut settings.long_statement_timeout_ms);
    duration("replica_lag", &mut settings.limits.replica_lag_ms);
    duration("replica_grace", &mut settings.limits.replica_grace_ms);
    let size = |key: &'static str, value: &mut u64| {
        if let Some(text) = inner.optional_text(key) {
            read_unit(&inner, key, &text, size_bytes, value);
        }
    };
    size("small_table", &mut settings.small_table_bytes);
    size("replica_lag_bytes", &mut settings.limits.replica_lag_bytes);
    size("wal_retained", &mut settings.limits.wal_retained_bytes);
    size("archive_backlog", &mut settings.limits.archive_backlog_bytes);
    let mut wal_rate = settings.limits.wal_rate_bytes.unwrap_or(0);
    size("wal_rate", &mut wal_rate);
    settings.limits.wal_rate_bytes = Some(wal_rate).filter(|rate| *rate > 0);
    if let Some(text) = inner.optional_text("workers") {
        read_workers(&inner, &text, &mut settings.workers);
    }
    if whole {
        read_contention(&inner, &mut settings.contention);
    }
    if let Some(names) = inner.optional_list("replicas") {
        let names = names.iter().filter_map(|name| inner.text_of(name, "replicas"));
        settings.limits.replicas = match names.map(|name| name.value).collect::<Vec<_>>().as_slice() {
            [all] if all == "all" => None,
            [none] if none == "none" => Some(Vec::new()),
            names => Some(names.to_vec()),
        };
    }
    inner.finish();
    settings
}

/// What others may have to bear is counted over the whole plan: a single change has no say in it.
fn read_contention(fields: &Fields<'_>, contention: &mut Contention) {
    let duration = |key: &'static str, value: &mut u64| {
        if let Some(text) = fields.optional_text(key) {
            read_unit(fields, key, &text, duration_ms, value);
        }
    };
    duration("stall_budget", &mut contention.stall_budget_ms);
    duration("stall_budget_per_run", &mut contention.stall_budget_per_run_ms);
    duration("on_blocked_after", &mut contention.on_blocked_after_ms);
    let Some(text) = fields.optional_text("on_blocked") else {
        return;
    };
    match text.value.parse() {
        Ok(policy) => contention.on_blocked = policy,
        Err(expected) => fields.report(
            Diagnostic::new(
                "invalid_value",
                format!("`on_blocked` cannot be {:?}", text.value),
            )
            .at(text.span)
            .help(expected),
        ),
    }
}

fn read_workers(fields: &Fields<'_>, text: &Located<String>, value: &mut u32) {
    match text.value.parse() {
        Ok(workers @ 1..=Settings::WORKERS_MAX) => *value = workers,
        _ => fields.report(
            Diagnostic::new("invalid_value", format!("`workers` cannot be {:?}", text.value))
                .at(text.span)
                .help(format!(
                    "how many sessions fill a table at the same time: 1 to {}",
                    Settings::WORKERS_MAX
                )),
        ),
    }
}

fn read_unit(
    fields: &Fields<'_>,
    key: &str,
    text: &Located<String>,
    read: fn(&str) -> Option<u64>,
    value: &mut u64,
) {
    let is_size = matches!(
        key,
        "small_table" | "replica_lag_bytes" | "wal_rate" | "wal_retained" | "archive_backlog"
    );
    match read(&text.value) {
        Some(0) if key != "small_table" => fields.report(
            Diagnostic::new(
                "invalid_value",
                format!("`{key}` may not be 0: every wait has a bound"),
            )
            .at(text.span),
        ),
        Some(read) if key.ends_with("_timeout") && read > TIMEOUT_MS_MAX => fields.report(
            Diagnostic::new("invalid_value", format!("`{key}` cannot be {:?}", text.value))
                .at(text.span)
                .help("a timeout is at most 24d: the server keeps it in 31 bits of milliseconds"),
        ),
        Some(read) => *value = read,
        None => fields.report(
            Diagnostic::new("invalid_value", format!("`{key}` cannot be {:?}", text.value))
                .at(text.span)
                .help(if is_size {
                    "a size carries its unit: 512kB, 8MB, 1GB"
                } else {
                    "a duration carries its unit: 200ms, 30s, 10min, 6h"
                }),
        ),
    }
}

/// Bytes of a size with its unit, in powers of 1024 as PostgreSQL counts.
pub fn size_bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit {
        "B" => 1.0,
        "kB" | "KB" => 1_024.0,
        "MB" => 1_048_576.0,
        "GB" => 1_073_741_824.0,
        "TB" => 1_099_511_627_776.0,
        "" if number == 0.0 => 1.0,
        _ => return None,
    };
    whole(number * factor)
}

fn tree(source: &str) -> Result<Node, Diagnostic> {
    let mut options = serde_saphyr::options! { strict_booleans: true };
    // Duplicates pass here, so that they are reported together with everything else.
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    options.budget = serde_saphyr::budget! {
        max_nodes: NODES_MAX,
        max_depth: DEPTH_MAX,
        max_total_scalar_bytes: SCALAR_BYTES_MAX,
    };
    options.with_snippet = false;
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(source, options) {
        Ok(raw) => Ok(raw_node(source, raw)),
        Err(error) => {
            let message = error.without_snippet().to_string();
            let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            let diagnostic = Diagnostic::new("invalid_yaml", message);
            Err(match error.location() {
                Some(location) => {
                    let start = offset_of(source, location.line(), location.column());
                    diagnostic.at(Span {
                        start,
                        end: start + 1,
                    })
                }
                None => diagnostic,
            })
        }
    }
}

fn offset_of(source: &str, line: u64, column: u64) -> usize {
    let line = usize::try_from(line).unwrap_or(1).max(1);
    let column = usize::try_from(column).unwrap_or(1).max(1);
    let start: usize = source.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let within: usize = source[start..].chars().take(column - 1).map(char::len_utf8).sum();
    (start + within).min(source.len())
}

/// What the YAML library hands over, before places are resolved.
enum Raw {
    Null,
    Text(String),
    /// A number or truth value: its text is taken from the source as it stands there.
    Plain(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn raw_node(source: &str, raw: Spanned<Raw>) -> Node {
    let span = byte_span(source, raw.referenced);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => {
            let quoted = source[span.range()].starts_with(['"', '\'']);
            Value::Scalar { text, quoted }
        }
        Raw::Plain(text) => {
            let defined = byte_span(source, raw.defined);
            let written = source[defined.range()].trim();
            let text = if written.is_empty() {
                text
            } else {
                written.to_owned()
            };
            Value::Scalar { text, quoted: false }
        }
        Raw::List(items) => Value::List(items.into_iter().map(|item| raw_node(source, item)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let span = byte_span(source, key.referenced);
                    (
                        Located {
                            value: key.value,
                            span,
                        },
                        raw_node(source, value),
                    )
                })
                .collect(),
        ),
    };
    Node { value, span }
}

fn byte_span(source: &str, location: serde_saphyr::Location) -> Span {
    let span = location.span();
    let start = match span.byte_offset() {
        Some(offset) => usize::try_from(offset).unwrap_or(0),
        None => offset_of(source, location.line(), location.column()),
    };
    let length = span
        .byte_len()
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or(0);
    let start = source.floor_char_boundary(start.min(source.len()));
    let end = source.floor_char_boundary((start + length).min(source.len()));
    // A block scalar's place reaches to the next token; the first line is enough to point at.
    let text = source[start..end].trim_end();
    Span {
        start,
        end: start + text.len(),
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a map")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::line_and_column;
    use crate::plan::Limits;

    fn complaints(source: &str) -> Vec<String> {
        let complaints = parse(source).expect_err("the plan has mistakes");
        let shown = complaints.iter().map(|complaint| {
            let (line, column) = line_and_column(source, complaint.span.expect("a place").start);
            let help = complaint
                .help
                .as_deref()
                .map(|help| format!(" ({help})"))
                .unwrap_or_default();
            format!("{line}:{column} {}{help}", complaint.message)
        });
        shown.collect()
    }

    #[test]
    fn reads_a_plan() {
        let plan = parse(
            "name: p\nsettings: {lock_timeout: 50ms, small_table: 0, workers: 2, replica_lag: 3s, replica_lag_bytes: 64MB, replica_grace: 2min, replicas: [east, \"West 2\"], wal_rate: 20MB}\nchanges:\n  - set_default: {table: T, column: c, default: 0x10}\n",
        )
        .unwrap();
        let limits = Limits {
            replica_lag_ms: 3_000,
            replica_lag_bytes: 64 << 20,
            replica_grace_ms: 120_000,
            replicas: Some(vec!["east".into(), "West 2".into()]),
            wal_rate_bytes: Some(20 << 20),
            ..Limits::default()
        };
        assert_eq!(
            (
                plan.name.as_str(),
                plan.settings.lock_timeout_ms,
                plan.settings.workers,
                plan.settings.limits,
                plan.changes.len()
            ),
            ("p", 50, 2, limits, 1)
        );
        assert_eq!(
            plan.changes[0].text,
            "set_default: {table: \"T\", column: \"c\", default: \"0x10\"}"
        );
    }

    #[test]
    fn reads_what_others_may_have_to_bear() {
        let plan = parse(
            "name: p\nsettings: {stall_budget: 300ms, stall_budget_per_run: 2s, on_blocked: cancel, on_blocked_after: 1min}\nchanges:\n  - set_default: {table: T, column: c, default: 1}\n",
        )
        .unwrap();
        let expected = Contention {
            stall_budget_ms: 300,
            stall_budget_per_run_ms: 2_000,
            on_blocked: "cancel".parse().unwrap(),
            on_blocked_after_ms: 60_000,
        };
        assert_eq!(plan.settings.contention, expected);
        let shown = complaints(
            "name: p\nsettings: {stall_budget: 0s, on_blocked: kill}\nchanges:\n  - set_default: {table: T, column: c, default: 1, settings: {stall_budget: 1s}}\n",
        );
        for expected in [
            "2:26 `stall_budget` may not be 0: every wait has a bound",
            "2:42 `on_blocked` cannot be \"kill\" (one of wait, cancel, terminate)",
            "4:63 unknown key `stall_budget`",
        ] {
            assert!(
                shown.iter().any(|line| line.starts_with(expected)),
                "{expected}\n{shown:#?}"
            );
        }
    }

    #[test]
    fn reports_everything_at_once_with_places() {
        let source = "\
name: p
settngs: {}
settings: {lock_timeout: 5, workers: 9}
changes:
  - set_default: {tabel: t, column: c, default: 1, default: 2}
  - set_defualt: {table: t}
  - set_default: [1]
    other: 2
";
        let shown = complaints(source);
        for expected in [
            "2:1 unknown key `settngs` (did you mean `settings`?)",
            "3:26 `lock_timeout` cannot be \"5\" (a duration carries its unit: 200ms, 30s, 10min, 6h)",
            "3:38 `workers` cannot be \"9\" (how many sessions fill a table at the same time: 1 to 8)",
            "5:19 unknown key `tabel` (did you mean `table`?)",
            "5:52 the key `default` stands twice (keep one of the two)",
            "6:5 unknown operation `set_defualt` (did you mean `set_default`?)",
            "8:5 `other` is a second key in one change",
        ] {
            assert!(
                shown.iter().any(|line| line.starts_with(expected)),
                "{expected}\n{shown:#?}"
            );
        }
        assert!(
            shown.iter().any(|line| line.contains("`table` is missing")),
            "{shown:#?}"
        );
    }

    #[test]
    fn bad_yaml_has_a_place() {
        assert!(complaints("name: p\nchanges: [\n").len() == 1);
        assert!(complaints("name: p\nchanges: *nowhere\n")[0].starts_with("2:10"));
    }

    #[test]
    fn every_manual_has_an_example_that_can_be_read() {
        for (name, manual) in MANUALS {
            let examples: Vec<&str> = manual
                .split("```yaml")
                .skip(1)
                .filter_map(|rest| rest.split("```").next())
                .collect();
            assert!(!examples.is_empty(), "{name} has no example");
            for example in examples {
                let source = format!("name: example\nchanges:\n{example}");
                let plan = parse(&source).unwrap_or_else(|complaints| panic!("{name}: {complaints:#?}"));
                assert!(
                    plan.changes.iter().all(|change| change.operation.name() == *name),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn units() {
        assert_eq!(duration_ms("1.5s"), Some(1_500));
        assert_eq!(duration_ms("10 min"), Some(600_000));
        assert_eq!(duration_ms("10"), None);
        assert_eq!(size_bytes("8MB"), Some(8 << 20));
    }
}
