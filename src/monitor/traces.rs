//! Traces of runs: a span for the run, one within it for each step, by OTLP over HTTP as JSON
//! (<https://opentelemetry.io/docs/specs/otlp/>), where the usual variables of the environment name an endpoint.

use super::standing::Standing;
use super::{Watcher, http, usage};
use crate::error::Error;
use crate::event::Event;
use crate::report::Reporter;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Spans that could not be sent are kept so many, for the next try.
const KEPT: usize = 1_000;

pub struct Exporter {
    url: String,
    headers: Vec<(String, String)>,
    service: String,
    parent: Option<(String, String)>,
}

impl Exporter {
    /// `None` where no endpoint is configured, or tracing is switched off.
    ///
    /// # Errors
    /// An endpoint that is no URL.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let given = |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if given("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"))
            || given("OTEL_TRACES_EXPORTER").is_some_and(|text| text == "none")
        {
            return Ok(None);
        }
        let base = given("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| format!("{}/v1/traces", base.trim_end_matches('/')));
        let Some(url) = given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or(base) else {
            return Ok(None);
        };
        http::check_url(&url).map_err(|error| {
            usage(
                format!("traces cannot be sent: {error}"),
                "set OTEL_EXPORTER_OTLP_ENDPOINT to the collector's HTTP port, such as http://127.0.0.1:4318, or unset it",
            )
        })?;
        let headers = given("OTEL_EXPORTER_OTLP_TRACES_HEADERS").or_else(|| given("OTEL_EXPORTER_OTLP_HEADERS"));
        let headers = headers.unwrap_or_default();
        let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        Ok(Some(Self {
            url,
            headers: headers.split(',').filter_map(pair).collect(),
            service: given("OTEL_SERVICE_NAME").unwrap_or_else(|| "pgmorph".into()),
            parent: given("TRACEPARENT").and_then(|text| parent(&text)),
        }))
    }
}

/// Trace and span of a W3C `traceparent`.
fn parent(text: &str) -> Option<(String, String)> {
    let mut parts = text.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let is_id = |id: &str, length| {
        id.len() == length && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0')
    };
    (version.len() == 2 && is_id(trace, 32) && is_id(span, 16)).then(|| (trace.to_lowercase(), span.to_lowercase()))
}

struct Span {
    id: String,
    parent: Option<String>,
    name: String,
    began: Timestamp,
    attributes: Vec<(&'static str, Value)>,
    events: Vec<Value>,
}

impl Span {
    fn new(name: impl Into<String>, parent: Option<String>, began: Timestamp) -> Self {
        Self {
            id: format!("{:016x}", rand::random::<u64>().max(1)),
            parent,
            name: name.into(),
            began,
            attributes: Vec::new(),
            events: Vec::new(),
        }
    }

    fn ended(self, trace: &str, at: Timestamp, failure: Option<&str>) -> Value {
        let status = match failure {
            None => json!({"code": 1}),
            Some(message) => json!({"code": 2, "message": message}),
        };
        json!({
            "traceId": trace,
            "spanId": self.id,
            "parentSpanId": self.parent.unwrap_or_default(),
            "name": self.name,
            "kind": 1,
            "startTimeUnixNano": nanos(self.began),
            "endTimeUnixNano": nanos(at),
            "attributes": attributes(&self.attributes),
            "events": self.events,
            "status": status,
        })
    }
}

fn nanos(at: Timestamp) -> String {
    at.as_nanosecond().to_string()
}

fn attributes(pairs: &[(&'static str, Value)]) -> Vec<Value> {
    let value = |value: &Value| match value {
        Value::String(text) => json!({"stringValue": text}),
        Value::Bool(flag) => json!({"boolValue": flag}),
        other => json!({"intValue": other.to_string()}),
    };
    pairs.iter().map(|(key, it)| json!({"key": key, "value": value(it)})).collect()
}

pub struct Traces {
    exporter: Exporter,
    agent: Agent,
    reporter: Arc<dyn Reporter>,
    trace: String,
    run: Option<Span>,
    step: Option<Span>,
    standing: Standing,
    ready: Vec<Value>,
    has_failed: bool,
}

impl Traces {
    pub fn new(exporter: Exporter, reporter: Arc<dyn Reporter>) -> Self {
        Self {
            exporter,
            agent: http::agent(TIMEOUT),
            reporter,
            trace: String::new(),
            run: None,
            step: None,
            standing: Standing::default(),
            ready: Vec::new(),
            has_failed: false,
        }
    }

    fn begin_run(&mut self, at: Timestamp, plan: &str, run: i64) {
        let (trace, parent) = match &self.exporter.parent {
            Some((trace, span)) => (trace.clone(), Some(span.clone())),
            None => (format!("{:032x}", rand::random::<u128>().max(1)), None),
        };
        self.trace = trace;
        let mut span = Span::new(format!("pgmorph {plan}"), parent, at);
        span.attributes.push(("pgmorph.plan", plan.into()));
        span.attributes.push(("pgmorph.run", run.into()));
        span.attributes.push(("db.system.name", "postgresql".into()));
        self.run = Some(span);
    }

    fn begin_step(&mut self, at: Timestamp, step: &str, undo: bool) {
        let parent = self.run.as_ref().map(|run| run.id.clone());
        let mut span = Span::new(step, parent, at);
        span.attributes.push(("pgmorph.undo", undo.into()));
        if let Some(phase) = self.standing.phase {
            span.attributes.push(("pgmorph.phase", phase.into()));
        }
        self.step = Some(span);
    }

    fn happened(&mut self, at: Timestamp, name: &str, pairs: &[(&'static str, Value)]) {
        if let Some(step) = &mut self.step {
            step.events
                .push(json!({"timeUnixNano": nanos(at), "name": name, "attributes": attributes(pairs)}));
        }
    }

    fn end_step(&mut self, at: Timestamp, failure: Option<&str>) {
        if let Some(step) = self.step.take() {
            self.ready.push(step.ended(&self.trace, at, failure));
        }
    }

    fn end_run(&mut self, at: Timestamp, failure: Option<&str>) {
        self.end_step(at, failure);
        if let Some(run) = self.run.take() {
            self.ready.push(run.ended(&self.trace, at, failure));
        }
    }

    fn send(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        let resource = attributes(&[("service.name", self.exporter.service.as_str().into())]);
        let body = json!({"resourceSpans": [{
            "resource": {"attributes": resource},
            "scopeSpans": [{
                "scope": {"name": "pgmorph", "version": env!("CARGO_PKG_VERSION")},
                "spans": self.ready,
            }],
        }]});
        match http::post(&self.agent, &self.exporter.url, &self.exporter.headers, &body.to_string()) {
            Ok(()) => self.ready.clear(),
            Err(reason) => {
                let surplus = self.ready.len().saturating_sub(KEPT);
                self.ready.drain(..surplus);
                if !self.has_failed {
                    self.has_failed = true;
                    let url = http::redacted(&self.exporter.url);
                    self.reporter.note(&format!("traces cannot be sent to {url}: {reason}; the run goes on"));
                }
            }
        }
    }
}

impl Watcher for Traces {
    fn take(&mut self, at: Timestamp, event: &Event) {
        self.standing.take(event);
        match event {
            Event::RunStarted { plan, run, .. } => self.begin_run(at, plan, *run),
            Event::StepStarted { step, undo, .. } => self.begin_step(at, step, *undo),
            Event::LockTimeout { attempt, sqlstate, waited_ms, .. } => self.happened(
                at,
                "lock_timeout",
                &[
                    ("pgmorph.attempt", (*attempt).into()),
                    ("db.response.status_code", sqlstate.as_str().into()),
                    ("pgmorph.waited_ms", (*waited_ms).into()),
                ],
            ),
            Event::Reconnecting { reason, .. } => {
                self.happened(at, "reconnecting", &[("pgmorph.reason", reason.as_str().into())]);
            }
            Event::StepDone { attempts, .. } => {
                if let Some(step) = &mut self.step {
                    step.attributes.push(("pgmorph.attempts", (*attempts).into()));
                }
                self.end_step(at, None);
                self.send();
            }
            Event::StepSkipped { .. } => self.end_step(at, None),
            Event::StepFailed { message, .. } => self.end_run(at, Some(message)),
            Event::Interrupted { reason } => self.end_run(at, Some(reason)),
            Event::RunFinished { .. } => self.end_run(at, None),
            _ => {}
        }
    }

    fn flush(&mut self, last: bool) {
        if last {
            self.end_run(Timestamp::now(), Some("it stopped"));
            self.send();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_where_to() {
        let with = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Exporter::from_environment(&move |name| {
                pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            })
        };
        assert!(with(&[]).unwrap().is_none());
        let base = with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/")]).unwrap().unwrap();
        assert_eq!(base.url, "http://127.0.0.1:4318/v1/traces");
        let own = with(&[
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/t"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b, c = d"),
        ]);
        let own = own.unwrap().unwrap();
        assert_eq!(own.url, "http://127.0.0.1:1/t");
        assert_eq!(own.headers, [("a".to_owned(), "b".to_owned()), ("c".to_owned(), "d".to_owned())]);
        assert!(with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere")]).is_err());
        let off = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_SDK_DISABLED", "true")];
        assert!(with(&off).unwrap().is_none());
    }

    #[test]
    fn a_parent_is_taken_over_where_it_is_one() {
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (trace, span) = parent(given).unwrap();
        assert_eq!((trace.as_str(), span.as_str()), ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"));
        for wrong in ["", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
            assert!(parent(wrong).is_none(), "{wrong}");
        }
    }
}
