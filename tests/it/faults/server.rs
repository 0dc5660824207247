//! Every phase while the server ends, or one of its processes does.

use super::stage::{Case, PHASES, Stage, stopped};
use crate::harness::{Ended, Fault, Running, Strike, TestServer, WORKER, Whose};
use futures_util::stream::{self, StreamExt};
use std::time::Duration;

/// Who waits for a server waits as long as it is away.
const AWAY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum End {
    /// SIGKILL of every process.
    Crash,
    Immediate,
    Fast,
    /// SIGKILL of the process that works for us: the server then starts all of them anew.
    Backend,
    /// A DBA ends our sessions.
    Terminated,
    /// A DBA cancels what our sessions do.
    Cancelled,
}

impl End {
    async fn strike(self, server: &TestServer, case: &Case<'_>) {
        let ours =
            "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgmorph%'";
        match self {
            Self::Crash => server.crash(),
            Self::Immediate => server.stop_immediately(),
            Self::Fast => server.restart(),
            Self::Backend => {
                let sql =
                    format!("SELECT pid {ours} ORDER BY state = 'active' DESC, backend_start DESC LIMIT 1");
                let Ok(row) = case.database.admin.query_one(&sql, &[]).await else {
                    return;
                };
                let status = std::process::Command::new("kill")
                    .args(["-s", "KILL", &row.get::<_, i32>(0).to_string()])
                    .status();
                assert!(status.unwrap().success());
            }
            Self::Terminated | Self::Cancelled => {
                let how = if matches!(self, Self::Cancelled) {
                    "cancel"
                } else {
                    "terminate"
                };
                let sql = format!("SELECT pg_{how}_backend(pid) {ours}");
                case.database.admin.batch_execute(&sql).await.unwrap();
            }
        }
    }

    fn explains(self, ended: &Ended, story: &str) {
        match self {
            // What was cancelled is not tried again by itself: somebody wanted that.
            Self::Cancelled => assert!(matches!(ended.code, Some(3..=6)), "{story}: {ended:?}"),
            _ => stopped(ended, &[5], story),
        }
    }
}

/// Strikes when the phase comes, and starts the command again until it is done.
async fn struck(stage: &Stage, (phase, text): (&str, &str), end: End, back: bool) {
    let story = format!("{phase}, {end:?}");
    let mut case = stage.begin().await;
    // Nothing happens to the connection: it only says that it is time.
    case.proxy.arm(Strike {
        text: text.to_owned(),
        session: WORKER,
        fault: Fault::Delayed(0),
        whose: Whose::This,
    });
    let mut calls = 0;
    loop {
        calls += 1;
        assert!(calls < 5, "{story}: left alone, it does not end");
        let running: Running = stage.apply(&case.proxied());
        let mut ending = std::pin::pin!(running.end());
        let mut struck = false;
        let ended = loop {
            tokio::select! {
                ended = &mut ending => break ended,
                () = tokio::time::sleep(Duration::from_millis(2)), if case.proxy.struck() == 1 && calls == 1 && !struck => {
                    struck = true;
                    end.strike(&stage.server, &case).await;
                }
                () = tokio::time::sleep(Duration::from_millis(2)), if case.proxy.struck() == 0 => {}
            }
        };
        if ended.code == Some(0) {
            assert_eq!(case.proxy.struck(), 1, "{story}: {}", ended.stderr);
            break;
        }
        end.explains(&ended, &story);
        if back && phase != "contract" {
            case.reconnect().await;
            return case.ends_well(&story, true, AWAY).await;
        }
    }
    case.reconnect().await;
    println!("{story}: {calls} calls");
    case.ends_done(&story, AWAY).await;
}

/// One after the other: the server is everybody's.
async fn every_phase(end: End) {
    let stage = Stage::set(&[]).await;
    for (phase, back) in PHASES.iter().zip([true, false].into_iter().cycle()) {
        struck(&stage, *phase, end, back).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash() {
    every_phase(End::Crash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immediate_shutdown() {
    every_phase(End::Immediate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_shutdown() {
    every_phase(End::Fast).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backend() {
    every_phase(End::Backend).await;
}

/// These leave the server to the others.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_ended_and_statements_cancelled() {
    let stage = Stage::set(&[]).await;
    for end in [End::Terminated, End::Cancelled] {
        let cases = PHASES.iter().zip([true, false].into_iter().cycle());
        let cases = cases.map(|(phase, back)| struck(&stage, *phase, end, back));
        stream::iter(cases).buffer_unordered(2).collect::<Vec<()>>().await;
    }
}
