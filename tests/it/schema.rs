//! The JSON Schema of the plan file: made of what the reader asks for, and right about every plan there is.

use pgmorph::change_plan;
use pgmorph::document::Shapes;
use pgmorph::document::shapes::{Kind, Shape};
use pgmorph::ops::MANUALS;
use pgmorph::plan::LockMode;
use pgmorph::plan::Settings;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const DURATIONS: [&str; 9] = [
    "lock_timeout",
    "lock_deadline",
    "stall_budget",
    "stall_budget_per_run",
    "on_blocked_after",
    "statement_timeout",
    "long_statement_timeout",
    "replica_lag",
    "replica_grace",
];
const SIZES: [&str; 5] = [
    "small_table",
    "replica_lag_bytes",
    "wal_retained",
    "archive_backlog",
    "wal_rate",
];

/// What the keys of the whole file are for; those of an operation are in its manual.
const ABOUT: [(&str, &str); 10] = [
    (".name", "Identity of the plan in the ledger."),
    (".description", "For people."),
    (".schema", "Of names without one; `public` where it is left out."),
    (
        ".depends_on",
        "Names of plans that must be applied before this one.",
    ),
    (
        ".settings",
        "Timeouts and limits of all changes; a change may have its own.",
    ),
    (
        ".before",
        "Queries that must have no rows before anything is changed.",
    ),
    (
        ".changes",
        "What is changed, in this order; `pgmorph explain` lists the operations.",
    ),
    (
        ".after",
        "Queries that must have no rows afterwards; `verify` asks them, too.",
    ),
    (
        ".monitor",
        "Queries whose answers are shown while the plan is at work.",
    ),
    (
        ".confirm_rollback",
        "What must be typed before it is rolled back.",
    ),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn below(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            below(&path, found);
        } else if name.ends_with(".yaml") && name != "case.yaml" {
            found.push(path);
        }
    }
}

/// The text of every plan of the repository and whether the reader accepts it, by its path.
fn plans() -> Vec<(PathBuf, String, Option<Shapes>)> {
    let mut files = Vec::new();
    for folder in ["plans", "tests/fixtures", "tests/schema"] {
        below(&root().join(folder), &mut files);
    }
    files.sort();
    let mut plans: Vec<_> = files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let shapes = change_plan::shapes(&text).ok();
            (path, text, shapes)
        })
        .collect();
    for (name, manual) in MANUALS {
        for (number, example) in manual.split("```yaml\n").skip(1).enumerate() {
            let example = example.split("```").next().unwrap();
            let text = format!("name: example\nchanges:\n{}", indented(example));
            let shapes = change_plan::shapes(&text).ok();
            plans.push((PathBuf::from(format!("explain {name} {number}")), text, shapes));
        }
    }
    plans
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// The shape of `settings` and `when` is the same wherever they stand.
fn common(path: &str) -> String {
    let Some((head, tail)) = path.split_once('.') else {
        return path.to_owned();
    };
    for (key, place) in [("settings", ".settings"), ("when", "when")] {
        if let Some(rest) = tail.strip_prefix(key)
            && !head.is_empty()
            && (rest.is_empty() || rest.starts_with(['.', '[']))
        {
            return format!("{place}{rest}");
        }
    }
    path.to_owned()
}

struct Maker {
    shapes: BTreeMap<String, Shape>,
}

impl Maker {
    fn new(found: Shapes) -> Self {
        let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
        for (path, shape) in found.into_shapes() {
            let into = shapes.entry(common(&path)).or_default();
            into.kinds.extend(shape.kinds);
            into.keys.extend(shape.keys);
            into.required = match (into.required.take(), shape.required) {
                (Some(one), Some(other)) => Some(one.intersection(&other).cloned().collect()),
                (one, other) => one.or(other),
            };
        }
        shapes
            .entry(".schema".to_owned())
            .or_default()
            .kinds
            .insert(Kind::Scalar);
        Self { shapes }
    }

    fn schema(&self) -> Value {
        let mut definitions = Map::new();
        definitions.insert("settings".into(), self.map(".settings"));
        definitions.insert("when".into(), self.map("when"));
        let mut changes = Map::new();
        for (name, manual) in MANUALS {
            let mut operation = self.map(name);
            operation["description"] = manual.trim().into();
            definitions.insert((*name).into(), operation);
            changes.insert((*name).into(), json!({"$ref": format!("#/$defs/{name}")}));
        }
        let change = json!({
            "type": "object",
            "properties": changes,
            "additionalProperties": false,
            "minProperties": 1,
            "maxProperties": 1,
        });
        definitions.insert("change".into(), change);
        let mut plan = self.map("");
        plan["properties"]["changes"] =
            json!({"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/change"}});
        for (path, about) in ABOUT {
            plan["properties"][&path[1..]]["description"] = about.into();
        }
        plan["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        plan["title"] = "pgmorph change plan".into();
        plan["$defs"] = definitions.into();
        plan
    }

    fn map(&self, path: &str) -> Value {
        let shape = &self.shapes[path];
        let properties: Map<String, Value> = shape
            .keys
            .iter()
            .map(|key| (key.clone(), self.value(&common(&format!("{path}.{key}")))))
            .collect();
        let mut made = json!({"type": "object", "properties": properties, "additionalProperties": false});
        let required = shape.required.clone().unwrap_or_default();
        if !required.is_empty() {
            made["required"] = json!(required);
        }
        made
    }

    fn value(&self, path: &str) -> Value {
        if path == "when" || path == ".settings" {
            return json!({"$ref": format!("#/$defs/{}", path.trim_start_matches('.'))});
        }
        if let Some(key) = path.strip_prefix(".settings.") {
            return setting(key);
        }
        if path == "sql.lock{}" {
            return json!({"enum": LockMode::ALL.map(LockMode::sql)});
        }
        let shape = self
            .shapes
            .get(path)
            .unwrap_or_else(|| panic!("no plan has {path}: give tests/schema one"));
        let words: Vec<&String> = shape
            .kinds
            .iter()
            .filter_map(|kind| match kind {
                Kind::Word(word) => Some(word),
                _ => None,
            })
            .collect();
        let has = |kind: &Kind| shape.kinds.contains(kind);
        let mut ways = Vec::new();
        if !words.is_empty() {
            ways.push(json!({"enum": words}));
        } else if has(&Kind::Flag) {
            ways.push(json!({"type": "boolean"}));
        } else if has(&Kind::Scalar) || has(&Kind::List) && !self.is_of_maps(path) {
            ways.push(scalar());
        }
        if has(&Kind::List) {
            let items = format!("{path}[]");
            let items = if self.shapes.contains_key(&items) {
                self.value(&items)
            } else {
                scalar()
            };
            ways.push(json!({"type": "array", "minItems": 1, "items": items}));
        }
        if has(&Kind::Map) {
            ways.push(self.map(path));
        }
        if has(&Kind::Pairs) {
            ways.push(json!({"type": "object", "additionalProperties": self.value(&format!("{path}{{}}"))}));
        }
        assert!(!ways.is_empty(), "no plan has {path}: give tests/schema one");
        if ways.len() == 1 {
            ways.remove(0)
        } else {
            json!({"anyOf": ways})
        }
    }

    /// A list of nothing but maps: a single value is none of them.
    fn is_of_maps(&self, path: &str) -> bool {
        let items = self.shapes.get(&format!("{path}[]"));
        items.is_some_and(|shape| shape.kinds.iter().all(|kind| *kind == Kind::Map))
    }
}

fn scalar() -> Value {
    json!({"type": ["string", "number", "boolean"]})
}

fn setting(key: &str) -> Value {
    if DURATIONS.contains(&key) {
        return json!({"type": "string", "pattern": "^ *[0-9.]+ *(ms|s|min|m|h|d) *$", "examples": ["200ms", "30s", "10min", "6h"]});
    }
    if SIZES.contains(&key) {
        return json!({"type": ["string", "integer"], "pattern": "^ *[0-9.]+ *(B|kB|KB|MB|GB|TB)? *$", "examples": ["512kB", "8MB", "1GB"]});
    }
    match key {
        "on_blocked" => json!({"enum": ["wait", "cancel", "terminate"]}),
        "replicas" => json!({"anyOf": [
            {"type": "string", "examples": ["all", "none", "east"]},
            {"type": "array", "minItems": 1, "items": {"type": "string"}},
        ]}),
        "workers" => json!({"type": "integer", "minimum": 1, "maximum": Settings::WORKERS_MAX}),
        _ => panic!("what may the setting `{key}` be? Say it here"),
    }
}

#[test]
fn it_is_what_the_reader_asks_for() {
    let mut all = Shapes::default();
    for (path, _, shapes) in plans() {
        if let Some(shapes) = shapes {
            all.merge(shapes);
        } else {
            assert!(
                !path.starts_with(root().join("tests/schema")),
                "{path:?} is refused"
            );
        }
    }
    let made = format!("{:#}\n", Maker::new(all).schema());
    let path = root().join("src/plan.schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(
        made == kept,
        "src/plan.schema.json is not up to date: UPDATE_SCHEMA=1 cargo test --test it schema::"
    );
}

#[test]
fn it_agrees_with_the_reader_about_every_plan() {
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(root().join("src/plan.schema.json")).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let (mut good, mut bad) = (0, 0);
    for (path, text, shapes) in plans() {
        let Ok(plan) = serde_saphyr::from_str::<Value>(&text) else {
            assert!(shapes.is_none(), "{path:?}");
            continue;
        };
        let complaints: Vec<String> = validator
            .iter_errors(&plan)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        if shapes.is_some() {
            assert!(complaints.is_empty(), "{path:?}: {complaints:#?}");
            good += 1;
        } else {
            bad += usize::from(!complaints.is_empty());
        }
    }
    println!("{good} plans are valid, {bad} that the reader refuses are not");
    assert!(good > 200, "{good}");
}

/// What an editor should underline.
#[test]
fn it_refuses_what_the_reader_refuses() {
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(root().join("src/plan.schema.json")).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let change = |body: &str| format!("name: x\nchanges:\n  - {body}\n");
    let wrong = [
        change("add_colum: {table: t, column: a, type: text}"),
        change("add_column: {table: t, column: a}"),
        change("add_column: {table: t, column: a, type: text, not_null: maybe}"),
        change("add_column: {table: t, column: a, type: text, nul: true}"),
        change("add_column: {table: t, column: a, type: [text]}"),
        change("add_foreign_key: {table: t, columns: [a], references: {tabel: u}}"),
        change("add_foreign_key: {table: t, columns: [a], references: u, on_delete: vanish}"),
        change("create_index: {table: t, columns: []}"),
        change("create_index: {table: t, columns: [{column: a, order: up}]}"),
        change("set_default: {table: t, column: a, default: 1, when: {table_exist: t}}"),
        change("set_default: {table: t, column: a, default: 1, settings: {lock_timeout: soon}}"),
        "changes: []\n".to_owned(),
        "name: x\nchanges: []\n".to_owned(),
        "name: x\nsettings: {workers: 0}\nchanges:\n  - drop_table: {table: t}\n".to_owned(),
    ];
    for text in wrong {
        assert!(change_plan::parse(&text).is_err(), "the reader accepts\n{text}");
        let plan: Value = serde_saphyr::from_str(&text).unwrap();
        assert!(!validator.is_valid(&plan), "the schema accepts\n{text}");
    }
}
