//! Traces of real runs, as a collector gets them.

use super::Stage;
use super::receiver::{Manner, Receiver};
use crate::harness::{Running, TestServer, pgmorph};
use serde_json::Value;
use std::collections::BTreeMap;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn nanos(span: &Value, name: &str) -> u128 {
    span[name].as_str().unwrap().parse().unwrap()
}

fn attribute<'a>(span: &'a Value, key: &str) -> Option<&'a Value> {
    let all = span["attributes"].as_array().unwrap();
    all.iter().find(|it| it["key"] == key).map(|it| &it["value"])
}

fn spans(receiver: &Receiver) -> Vec<Value> {
    let mut spans = Vec::new();
    for it in receiver.posted() {
        assert_eq!(it.path, "/v1/traces");
        assert_eq!(it.header("authorization"), Some("Bearer x"));
        let resource = &it.body["resourceSpans"][0];
        let service = &resource["resource"]["attributes"][0];
        assert_eq!(
            (&service["key"], &service["value"]["stringValue"]),
            (&"service.name".into(), &"ledger-db".into())
        );
        spans.extend(
            resource["scopeSpans"][0]["spans"]
                .as_array()
                .unwrap()
                .iter()
                .cloned(),
        );
    }
    spans
}

fn variables(endpoint: &str) -> Vec<(&str, &str)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer x"),
        ("OTEL_SERVICE_NAME", "ledger-db"),
        ("TRACEPARENT", PARENT),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_is_a_span_of_the_run() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 5_000).await;
    let receiver = Receiver::start(Manner::Answers(200));
    let endpoint = format!("http://127.0.0.1:{}", receiver.port);
    let arguments = [
        "apply",
        &stage.plan,
        "--yes",
        "--through",
        "contract",
        "--log-format",
        "json",
    ];
    let running = Running::start_with(&stage.url, &arguments, &variables(&endpoint));
    let applied = running.end().await.expect(0);
    let mut spans = spans(&receiver);
    let root = spans.iter().position(|span| span["name"] == "pgmorph p").unwrap();
    let root = spans.swap_remove(root);
    assert_eq!(root["parentSpanId"], "b7ad6b7169203331");
    assert_eq!(attribute(&root, "pgmorph.run").unwrap()["intValue"], "1");
    let took: BTreeMap<String, u128> = applied
        .stderr
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["event"] == "step_done")
        .map(|event| {
            let took = event["elapsed_ms"].as_u64().unwrap();
            (event["step"].as_str().unwrap().to_owned(), u128::from(took))
        })
        .collect();
    assert!(took.len() > 5);
    assert_eq!(spans.len(), took.len(), "one span a step, and the run");
    for span in &spans {
        let name = span["name"].as_str().unwrap();
        assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(span["parentSpanId"], root["spanId"], "{name}");
        assert_eq!(span["spanId"].as_str().unwrap().len(), 16);
        assert_eq!(span["status"]["code"], 1, "{name}");
        assert!(attribute(span, "pgmorph.phase").is_some() && attribute(span, "pgmorph.attempts").is_some());
        let (begins, ends) = (nanos(span, "startTimeUnixNano"), nanos(span, "endTimeUnixNano"));
        // It begins before the step's own clock and ends after it.
        assert!(ends - begins >= took[name] * 1_000_000, "{name}");
        assert!(
            begins >= nanos(&root, "startTimeUnixNano") && ends <= nanos(&root, "endTimeUnixNano"),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_a_status_and_a_deaf_collector_no_failure() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 100).await;
    let source = "name: q\nchanges:\n  - add_check: {table: orders, name: none, expression: id > 50}\n";
    let plan = stage.path("q.yaml");
    std::fs::write(&plan, source).unwrap();
    let receiver = Receiver::start(Manner::Answers(200));
    let endpoint = format!("http://127.0.0.1:{}", receiver.port);
    let running = Running::start_with(&stage.url, &["apply", &plan, "--yes"], &variables(&endpoint));
    running.end().await.expect(6);
    let failed: Vec<Value> = spans(&receiver)
        .into_iter()
        .filter(|span| span["status"]["code"] == 2)
        .collect();
    assert_eq!(failed.len(), 2, "the step and the run");
    assert!(failed.iter().all(|span| {
        span["status"]["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    }));
    pgmorph(&stage.url, &["rollback", "q", "--yes"]).await.expect(0);
    let deaf = Receiver::start(Manner::Answers(503));
    let endpoint = format!("http://127.0.0.1:{}", deaf.port);
    let running = Running::start_with(
        &stage.url,
        &["apply", &stage.plan, "--yes"],
        &variables(&endpoint),
    );
    let applied = running.end().await.expect(0);
    assert_eq!(
        applied.stderr.matches("traces cannot be sent to").count(),
        1,
        "{}",
        applied.stderr
    );
    let wrong = [("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")];
    let refused = Running::start_with(&stage.url, &["rollback", "p", "--yes"], &wrong)
        .end()
        .await
        .expect(2);
    assert!(
        refused.stderr.contains("traces cannot be sent"),
        "{}",
        refused.stderr
    );
    pgmorph(&stage.url, &["rollback", "p", "--yes"]).await.expect(0);
}
