//! The metrics of a real run, as a file and over HTTP.

use super::openmetrics::Exposition;
use super::{Stage, read};
use crate::harness::{Running, TestServer, pgmorph, until};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const ROWS: u32 = 40_000;

/// Status line, headers, body.
fn ask(port: u16, request: &str) -> Option<(String, String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let (status, headers) = head.split_once("\r\n")?;
    Some((status.to_owned(), headers.to_owned(), body.to_owned()))
}

fn get(port: u16, path: &str) -> Option<(String, String, String)> {
    ask(port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_can_be_followed_by_file_and_over_http() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, ROWS).await;
    let (file, port) = (stage.path("pgmorph.prom"), free_port());
    let address = format!("127.0.0.1:{port}");
    let arguments = [
        "apply",
        &stage.plan,
        "--yes",
        "--through",
        "contract",
        "--throttle",
        "5%",
        "--metrics-file",
        &file,
        "--metrics-listen",
        &address,
    ];
    let running = Running::start(&stage.url, &arguments);
    until("rows are counted", async || {
        get(port, "/metrics")
            .is_some_and(|(_, _, body)| Exposition::parse(&body).unwrap().value("pgmorph_rows_total") > 0.0)
    })
    .await;
    let (status, headers, body) = get(port, "/metrics").unwrap();
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(headers.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(headers.contains(&format!("Content-Length: {}", body.len())));
    let metrics = Exposition::parse(&body).unwrap();
    assert_eq!(
        (metrics.state().as_str(), metrics.value("pgmorph_run_number")),
        ("running", 1.0)
    );
    assert_eq!(metrics.label("pgmorph_phase_info", "phase"), "backfill");
    assert_eq!(
        metrics.label("pgmorph_phase_info", "step"),
        "01-widen_column-fill"
    );
    assert!(metrics.value("pgmorph_rows_per_second") > 0.0);
    let ratio = metrics.value("pgmorph_progress_ratio");
    assert!((0.0..1.0).contains(&ratio), "{ratio}");
    for path in ["/", "/metrics/x", "/../etc/passwd"] {
        assert_eq!(get(port, path).unwrap().0, "HTTP/1.1 404 Not Found", "{path}");
    }
    let posted = ask(
        port,
        "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    )
    .unwrap();
    assert_eq!(posted.0, "HTTP/1.1 405 Method Not Allowed");
    // Somebody who says nothing holds up nobody for long.
    let silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(get(port, "/metrics").is_some());
    drop(silent);
    pgmorph(&stage.url, &["pause", "p"]).await.expect(0);
    // However often it is read, it is never half written.
    let standing_aside = async || {
        let text = read(&file);
        Exposition::parse(&text)
            .unwrap_or_else(|why| panic!("{why}\n{text}"))
            .value("pgmorph_standing_aside")
            == 1.0
    };
    until("the file says that it stands aside", standing_aside).await;
    pgmorph(&stage.url, &["tune", "p", "--throttle", "off"])
        .await
        .expect(0);
    pgmorph(&stage.url, &["resume", "p"]).await.expect(0);
    running.end().await.expect(0);
    let text = read(&file);
    let metrics = Exposition::parse(&text).unwrap();
    assert_eq!(metrics.state(), "completed");
    assert_eq!(metrics.value("pgmorph_rows_total"), f64::from(ROWS), "{text}");
    assert_eq!(
        metrics.value("pgmorph_steps"),
        metrics.value("pgmorph_steps_done")
    );
    assert_eq!(metrics.value("pgmorph_standing_aside"), 0.0);
    assert!(metrics.value("pgmorph_step_seconds_total") > 0.0);
    let left: Vec<_> = std::fs::read_dir(stage.directory.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "the plan and the metrics: {left:?}");
    assert!(
        get(port, "/metrics").is_none(),
        "it listens no longer than it runs"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_refused_before_or_noted() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 100).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (address, why) in [
        ("0.0.0.0:0", "not an address of this machine alone"),
        ("[::]:0", "not an address of this machine alone"),
        ("10.1.2.3:9100", "not an address of this machine alone"),
        (taken.as_str(), "cannot listen at"),
        ("9100", "invalid value"),
    ] {
        let refused = pgmorph(
            &stage.url,
            &["apply", &stage.plan, "--yes", "--metrics-listen", address],
        )
        .await;
        let refused = refused.expect(2);
        assert!(refused.stderr.contains(why), "{address}: {}", refused.stderr);
    }
    let status = pgmorph(&stage.url, &["status", "p"]).await.expect(0);
    assert!(status.stdout.contains("never applied"), "{}", status.stdout);
    let nowhere = stage.path("nowhere/pgmorph.prom");
    let applied = pgmorph(
        &stage.url,
        &["apply", &stage.plan, "--yes", "--metrics-file", &nowhere],
    )
    .await
    .expect(0);
    let note = "metrics cannot be written to";
    assert_eq!(applied.stderr.matches(note).count(), 1, "{}", applied.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_ends_as_failed() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 100).await;
    let source = "name: q\nchanges:\n  - add_check: {table: orders, name: none, expression: id > 50}\n";
    let plan = stage.path("q.yaml");
    std::fs::write(&plan, source).unwrap();
    let file = stage.path("q.prom");
    pgmorph(&stage.url, &["apply", &plan, "--yes", "--metrics-file", &file])
        .await
        .expect(6);
    assert_eq!(Exposition::parse(&read(&file)).unwrap().state(), "failed");
    let back = ["rollback", &plan, "--yes", "--metrics-file", &file];
    pgmorph(&stage.url, &back).await.expect(0);
    assert_eq!(Exposition::parse(&read(&file)).unwrap().state(), "rolled_back");
}
