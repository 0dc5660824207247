//! JSON for machines: results on stdout, events as lines on stderr.

use super::{Reporter, out};
use crate::event::{Event, Listener};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Version of every JSON form printed here.
pub const VERSION: u32 = 1;

/// The value, an object, as indented JSON with `version` in it.
pub fn versioned(value: &impl Serialize) -> String {
    out::pretty(&with_version(value))
}

/// The same in one line.
pub fn line(value: &impl Serialize) -> String {
    with_version(value).to_string()
}

fn with_version(value: &impl Serialize) -> Value {
    let mut fields = Map::new();
    fields.insert("version".into(), VERSION.into());
    match serde_json::to_value(value) {
        Ok(Value::Object(own)) => fields.extend(own),
        Ok(other) => drop(fields.insert("value".into(), other)),
        Err(_) => {}
    }
    Value::Object(fields)
}

/// Tells events as JSON lines.
pub struct JsonReporter;

impl JsonReporter {
    fn write(value: &impl Serialize) {
        let mut value = with_version(value);
        if let Value::Object(fields) = &mut value {
            fields.insert("at".into(), jiff::Timestamp::now().to_string().into());
        }
        out::line(&super::safe::json(&value.to_string()));
    }
}

impl JsonReporter {
    /// What ended the command, in a line like the others.
    pub fn failed(error: &Value) {
        Self::write(&json!({"event": "failed", "error": error}));
    }
}

impl Listener for JsonReporter {
    fn tell(&self, event: &Event) {
        Self::write(event);
    }
}

impl Reporter for JsonReporter {
    fn note(&self, text: &str) {
        Self::write(&json!({"event": "note", "message": text}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_flat_objects_with_a_version() {
        let event = Event::RunFinished {
            state: "completed".into(),
        };
        let text = with_version(&event).to_string();
        assert_eq!(
            text,
            r#"{"event":"run_finished","state":"completed","version":1}"#
        );
    }
}
