//! A saved execution plan is refused when anything in it is not as it was saved.

use pgmorph::{change_plan, saved};
use serde_json::Value;
use std::collections::BTreeMap;

const SAVED: &str = include_str!("../../../fuzz/seeds/saved_plan/plan.json");

/// Every place in the value, with one pointer for each class of places: `steps/*/work/timeouts/lock_ms`.
fn places(value: &Value, pointer: &str, class: &str, found: &mut BTreeMap<String, Vec<String>>) {
    found
        .entry(class.to_owned())
        .or_default()
        .push(pointer.to_owned());
    match value {
        Value::Object(fields) => {
            // Keys that are names rather than fields.
            let free = class.ends_with("/tables")
                || [
                    "indexes",
                    "constraints",
                    "schemas",
                    "sequences",
                    "triggers",
                    "policies",
                    "rules",
                    "statistics",
                    "publications",
                ]
                .iter()
                .any(|map| class.ends_with(&format!("/{map}")));
            for (key, inner) in fields {
                let part = key.replace('~', "~0").replace('/', "~1");
                let name = if free { "*" } else { key };
                places(
                    inner,
                    &format!("{pointer}/{part}"),
                    &format!("{class}/{name}"),
                    found,
                );
            }
        }
        Value::Array(items) => {
            for (at, inner) in items.iter().enumerate() {
                places(inner, &format!("{pointer}/{at}"), &format!("{class}/*"), found);
            }
        }
        _ => {}
    }
}

/// Other values in this place.
fn others(value: &Value) -> Vec<Value> {
    let mut others = match value {
        Value::String(text) => vec![
            format!("{text} ").into(),
            format!("{text};DROP TABLE x").into(),
            "".into(),
        ],
        Value::Number(number) => vec![
            (number.as_u64().unwrap_or(0) + 1).into(),
            0.into(),
            number.to_string().into(),
        ],
        Value::Bool(it) => vec![(!it).into()],
        Value::Null => vec![1.into()],
        Value::Array(items) => {
            let mut other = vec![[&items[..], &items[..items.len().min(1)]].concat()];
            other.extend((items.len() > 1).then(|| items.iter().rev().cloned().collect()));
            other.extend((!items.is_empty()).then(|| items[1..].to_vec()));
            other.into_iter().map(Value::Array).collect()
        }
        Value::Object(fields) => {
            let mut more = fields.clone();
            more.insert("something else".into(), true.into());
            let renamed = fields.iter().next().map(|(key, inner)| {
                let mut fields = fields.clone();
                fields.remove(key);
                fields.insert(format!("{key} "), inner.clone());
                fields
            });
            [Some(more), renamed]
                .into_iter()
                .flatten()
                .map(Value::Object)
                .collect()
        }
    };
    others.extend((!value.is_null()).then_some(Value::Null));
    others.retain(|other| other != value);
    others
}

fn is_refused(text: &str) -> bool {
    match saved::execution_plan("saved.json", text) {
        Err(_) => true,
        // What is no execution plan any more is read as a plan file.
        Ok(None) => change_plan::parse(text).is_err(),
        Ok(Some(_)) => false,
    }
}

#[test]
fn every_change_is_refused() {
    let plan: Value = serde_json::from_str(SAVED).unwrap();
    assert!(
        !is_refused(SAVED) && !is_refused(&plan.to_string()),
        "layout is no change"
    );
    let mut classes = BTreeMap::new();
    places(&plan, "", "", &mut classes);
    for field in [
        "/steps/*/work/action/sql/*",
        "/steps/*/work/timeouts/lock_ms",
        "/steps/*/work/timeouts/statement_ms",
        "/steps/*/work/locks/*/mode",
        "/steps/*/work/expect/*/fact",
        "/steps/*/undo/work/*/action/sql/*",
        "/steps/*/phase",
        "/steps/*/estimate/duration",
        "/steps/*/work/transaction",
        "/steps/*/work/action/backfill/set",
        "/steps/*/work/action/backfill/limits/replica_lag_ms",
        "/steps/*/work/not_before/ms",
        "/steps/*/hazards/*/message",
        "/preconditions/*/query",
        "/postconditions/*/query",
        "/lock_deadline_ms",
        "/changes/*/text",
        "/digest",
        "/before/tables/*/columns/*/data_type",
        "/after/tables/*/columns/*/data_type",
    ] {
        assert!(classes.contains_key(field), "the seed has no {field}");
    }
    let mut changes = 0;
    for (class, pointers) in &classes {
        if let Some(pointer) = pointers.last() {
            for other in others(plan.pointer(pointer).unwrap()) {
                let mut tampered = plan.clone();
                *tampered.pointer_mut(pointer).unwrap() = other.clone();
                let text = tampered.to_string();
                assert!(is_refused(&text), "{class}: {pointer} as {other} is accepted");
                changes += 1;
            }
            let (above, key) = pointer.rsplit_once('/').unwrap_or_default();
            let mut tampered = plan.clone();
            if let Some(Value::Object(fields)) = tampered.pointer_mut(above)
                && fields
                    .remove(&key.replace("~1", "/").replace("~0", "~"))
                    .is_some()
            {
                assert!(
                    is_refused(&tampered.to_string()),
                    "{class}: {pointer} may be left out"
                );
                changes += 1;
            }
        }
    }
    println!(
        "{changes} changes in {} kinds of places are refused",
        classes.len()
    );
}

#[test]
fn keys_that_stand_twice_and_what_follows_are_refused() {
    let text = SAVED.trim();
    let keys: std::collections::BTreeSet<&str> = text
        .split('"')
        .filter(|key| text.contains(&format!("\"{key}\":")))
        .collect();
    let mut doubled = 0;
    for key in keys {
        let spelled = format!("\"{key}\":");
        for value in ["null", "0", "\"\"", "[]"] {
            // In front, where the other one would count, which nobody would see to be changed.
            let tampered = text.replacen(&spelled, &format!("{spelled}{value},{spelled}"), 1);
            assert!(is_refused(&tampered), "{key} may stand twice");
            doubled += 1;
        }
    }
    assert!(doubled > 200, "{doubled}");
    for (before, after) in [
        ("", "{}"),
        ("", "x"),
        ("", "\n---\n"),
        ("", ","),
        ("[", "]"),
        ("", "\0"),
    ] {
        assert!(is_refused(&format!("{before}{text}{after}")), "{before}…{after}");
    }
    let wrapped = |more: &str| format!("{{\"version\": 1{more}, \"plan\": {text}}}");
    assert!(!is_refused(&wrapped("")));
    assert!(is_refused(&wrapped(", \"apply\": true")) && is_refused(&wrapped(", \"plan\": 1")));
}
