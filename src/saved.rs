//! What `pgmorph` reads back from JSON files: a saved execution plan and a catalog snapshot. Bounded, and strict where a
//! lenient reading would run something else than what a reviewer saw.

use crate::catalog::model::{CatalogSnapshot, SNAPSHOT_FORMAT};
use crate::error::{Error, ErrorKind};
use crate::plan::{ExecutionPlan, PLAN_FORMAT};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a change plan at most: far above what anybody writes by hand.
pub const CHANGE_PLAN_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a saved execution plan at most.
pub const EXECUTION_PLAN_BYTES_MAX: u64 = 128 << 20;
/// Bytes of a catalog snapshot at most; 20,000 tables with 100,000 indexes take a fraction of it.
pub const SNAPSHOT_BYTES_MAX: u64 = 512 << 20;

/// The text of a file that may be a device or a pipe without an end. A byte order mark in front of it is left out.
///
/// # Errors
/// It cannot be read, is no UTF-8, or has more than `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    bounded(std::fs::File::open(path)?, limit)
}

/// As [`read_text`], of anything that can be read.
///
/// # Errors
/// As [`read_text`].
pub fn bounded(source: impl Read, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let reason = format!("it has more than {}", crate::units::size(limit));
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let reason = format!("it is not UTF-8 at byte {}", error.utf8_error().valid_up_to());
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// The execution plan in a text, `None` where that is no compiled plan: YAML may begin with a brace too.
///
/// # Errors
/// It is one, but of another format, or anything in it was changed, added, left out or doubled since it was saved.
pub fn execution_plan(path: &str, source: &str) -> Result<Option<ExecutionPlan>, Error> {
    let (mut value, mistake) = match serde_json::from_str::<Strict>(source) {
        Ok(Strict(value)) => (value, None),
        // It may still be one that somebody added to.
        Err(error) => match serde_json::Deserializer::from_str(source).into_iter().next() {
            Some(Ok(value)) => (value, Some(error)),
            _ => return Ok(None),
        },
    };
    // `plan --format json` wraps the plan that `plan -o` writes; both can be applied.
    let wrapped = value.get("format").is_none() && value.get("plan").is_some();
    if wrapped && let Some(inner) = value.get_mut("plan") {
        let inner = inner.take();
        let known = |name: &String| name == "plan" || name == "version";
        if inner.get("format").is_some()
            && let Some(other) = value
                .as_object()
                .and_then(|it| it.keys().find(|name| !known(name)))
        {
            return Err(changed(path, &format!("`{other}` does not belong there")));
        }
        value = inner;
    }
    let Some(format) = value.get("format") else {
        return Ok(None);
    };
    if *format != PLAN_FORMAT {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{path}: execution plan of format {format}; this pgmorph reads {PLAN_FORMAT}"),
        )
        .help("make the plan again with this pgmorph: pgmorph plan … -o FILE"));
    }
    // Which of two equal keys counts is not for a parser to decide, and neither is what follows the end.
    if let Some(mistake) = mistake {
        return Err(changed(path, &mistake.to_string()));
    }
    let plan = ExecutionPlan::deserialize(&value).map_err(|error| {
        Error::new(
            ErrorKind::Usage,
            format!("{path} is not an execution plan: {error}"),
        )
        .help("make it again: pgmorph plan … -o FILE")
    })?;
    if plan.digest != plan.computed_digest() {
        return Err(changed(path, "its digest is another one"));
    }
    // What the reading passed over is not in the digest.
    let read = serde_json::to_value(&plan).unwrap_or_default();
    if let Some(place) = difference(&value, &read, "") {
        return Err(changed(path, &format!("`{place}` is not as it was written")));
    }
    Ok(Some(plan))
}

fn changed(path: &str, how: &str) -> Error {
    Error::new(
        ErrorKind::Usage,
        format!("{path}: the plan was changed after it was saved: {how}"),
    )
    .help("change the plan file and make the plan again: pgmorph plan … -o FILE")
}

/// Where two values differ first.
fn difference(one: &Value, other: &Value, place: &str) -> Option<String> {
    let inside = |name: &str| match place {
        "" => name.to_owned(),
        place => format!("{place}.{name}"),
    };
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one
                .keys()
                .chain(other.keys().filter(|name| !one.contains_key(*name)));
            names
                .into_iter()
                .find_map(|name| match (one.get(name), other.get(name)) {
                    (Some(one), Some(other)) => difference(one, other, &inside(name)),
                    _ => Some(inside(name)),
                })
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let pairs = one.iter().zip(other).enumerate();
            pairs
                .into_iter()
                .find_map(|(at, (one, other))| difference(one, other, &inside(&at.to_string())))
        }
        (one, other) => (one != other).then(|| inside("").trim_end_matches('.').to_owned()),
    }
}

/// A snapshot as `pgmorph snapshot` wrote it.
///
/// # Errors
/// It is none, is of another format, or describes what no database can be: see [`CatalogSnapshot::check`].
pub fn snapshot(path: &str, source: &str) -> Result<CatalogSnapshot, Error> {
    let wrong = |what: String| {
        Error::new(
            ErrorKind::Usage,
            format!("{path} is not a catalog snapshot: {what}"),
        )
        .help("write one with: pgmorph snapshot -o FILE")
    };
    let head: Head = serde_json::from_str(source).map_err(|error| wrong(error.to_string()))?;
    match head.format {
        Some(format) if format == SNAPSHOT_FORMAT => {}
        Some(format) => {
            return Err(wrong(format!(
                "format {format}; this pgmorph reads {SNAPSHOT_FORMAT}"
            )));
        }
        None => return Err(wrong("it has no format".into())),
    }
    let snapshot: CatalogSnapshot = serde_json::from_str(source).map_err(|error| wrong(error.to_string()))?;
    snapshot.check().map_err(wrong)?;
    Ok(snapshot)
}

/// Read before the rest, which another format spells differently.
#[derive(serde::Deserialize)]
struct Head {
    format: Option<Value>,
}

/// Any value in which no key stands twice in a map.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((key, Strict(value))) = access.next_entry::<String, Strict>()? {
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} stands twice")));
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, compile, table};

    fn text() -> String {
        let catalog = catalog().with("t", table(&["a bigint"]));
        let plan = compile(&catalog, "  - set_default: {table: t, column: a, default: 1}\n").unwrap();
        serde_json::to_string(&plan).unwrap()
    }

    #[test]
    fn saved_plans_are_told_from_yaml_and_checked() {
        let text = text();
        let read = |text: &str| execution_plan("x", text);
        assert!(read(&text).unwrap().is_some());
        assert!(
            read(&format!("{{\"version\": 1, \"plan\": {text}}}"))
                .unwrap()
                .is_some()
        );
        assert!(read("{name: x, changes: []}").unwrap().is_none());
        let newer = text.replacen(&format!("\"format\":{PLAN_FORMAT}"), "\"format\":99", 1);
        assert!(read(&newer).unwrap_err().message.contains("format 99"));
    }

    #[test]
    fn what_no_digest_sees_is_refused_too() {
        let text = text();
        let name = "\"name\":\"p\"";
        assert!(text.contains(name), "{text}");
        for (changed, why) in [
            (
                text.replace("SET DEFAULT 1", "SET DEFAULT 2"),
                "its digest is another one",
            ),
            (
                text.replacen(name, &format!("{name},\"more\":1"), 1),
                "`more` is not",
            ),
            (
                text.replacen(name, &format!("{name},{name}"), 1),
                "\"name\" stands twice",
            ),
            (
                text.replacen("\"lock_ms\"", "\"lock_ms\":9,\"lock_ms\"", 1),
                "\"lock_ms\" stands twice",
            ),
            (format!("{text} {{}}"), "trailing"),
            (format!("{text}x"), "trailing"),
            (
                format!("{{\"also\": 1, \"plan\": {text}}}"),
                "`also` does not belong there",
            ),
        ] {
            let error = execution_plan("x", &changed).unwrap_err();
            assert!(
                error.message.contains("was changed after it was saved") && error.message.contains(why),
                "{why}: {error}"
            );
        }
    }

    #[test]
    fn reading_ends_at_the_limit() {
        assert_eq!(bounded(&b"\xef\xbb\xbfabc"[..], 6).unwrap(), "abc");
        let error = bounded(io::repeat(0), 1_000).unwrap_err();
        assert!(error.to_string().contains("more than 1000 bytes"), "{error}");
        let error = bounded(&b"ab\xff"[..], 9).unwrap_err();
        assert!(error.to_string().contains("at byte 2"), "{error}");
    }
}
