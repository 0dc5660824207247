//! Every phase under every fault of a network.

use super::stage::{PHASES, Stage, stopped};
use crate::harness::{Fault, Running, Strike, WORKER, Whose, patience, until};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use std::time::{Duration, Instant};

/// A line that passes nothing on is noticed in a minute, whatever else the machine does.
const NOTICED: Duration = Duration::from_secs(60);

const AT_ONCE: usize = 3;

/// A session that has lost us holds its locks for a second; the rest is the machine's.
const HELD: Duration = Duration::from_secs(3);

/// One phase, one fault, then the same command again or the way back.
async fn struck(stage: &Stage, (phase, text): (&str, &str), fault: Fault, whose: Whose, back: bool) {
    let story = format!("{phase}, {fault:?} for {whose:?}");
    let case = stage.begin().await;
    case.proxy.arm(Strike {
        text: text.to_owned(),
        session: WORKER,
        fault,
        whose,
    });
    let ended = stage.apply(&case.proxied()).end().await;
    assert_eq!(case.proxy.struck(), 1, "{story}: {}", ended.stderr);
    let took = case.proxy.struck_for();
    println!("{story}: exit {:?} after {took:?}", ended.code);
    if ended.code == Some(0) {
        assert_eq!(whose, Whose::This, "{story}: it did not need the server");
        case.ends_done(&story, HELD).await;
    } else {
        stopped(&ended, &[5], &story);
        assert!(took < NOTICED, "{story}: {took:?}: {}", ended.stderr);
        case.ends_well(&story, back && phase != "contract", HELD).await;
    }
}

/// Several phases at once: they wait most of the time.
async fn every_phase(fault: Fault, whose: Whose) {
    let stage = Stage::set(&[]).await;
    let cases = PHASES.iter().zip([true, false].into_iter().cycle());
    let cases = cases.map(|(phase, back)| struck(&stage, *phase, fault, whose, back));
    stream::iter(cases)
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection() {
    every_phase(Fault::Cut, Whose::This).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_cut() {
    every_phase(Fault::Cut, Whose::AllOpen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer() {
    every_phase(Fault::AnswerLost, Whose::This).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_vanish() {
    every_phase(Fault::RequestsVanish, Whose::This).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_vanish() {
    every_phase(Fault::AnswersVanish, Whose::This).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_passes_nothing_on() {
    every_phase(Fault::AllVanishes, Whose::All).await;
}

/// Not a fault, only slow: the whole plan goes through.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network() {
    let stage = Stage::set(&[]).await;
    let slow = [Fault::Delayed(2), Fault::Throttled(1_000_000)];
    join_all(slow.map(async |fault| {
        let case = stage.begin().await;
        case.proxy.strike(fault, Whose::All);
        stage.apply(&case.proxied()).end().await.expect(0);
        case.ends_done(&format!("{fault:?}"), Duration::ZERO).await;
    }))
    .await;
}

/// The program is killed behind a proxy that keeps the server's side open: nothing tells the server that nobody is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_program_behind_a_proxy_that_does_not_hang_up() {
    let stage = Stage::set(&[]).await;
    let case = stage.begin().await;
    let running = stage.apply(&case.proxied());
    running.says("backfill").await;
    case.proxy.strike(Fault::AllVanishes, Whose::AllOpen);
    running.signal("KILL").await;
    assert_eq!(running.end().await.code, None);
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let holders: i64 = case.database.admin.query_one(held, &[]).await.unwrap().get(0);
    assert!(holders > 0, "nothing was left on the server to be ended");
    // In the first seconds nobody can know that the holder of the run lock is gone.
    until("the run lock can be had", async || {
        let ended = stage.apply(&case.url()).end().await;
        assert!(matches!(ended.code, Some(0 | 7)), "{}", ended.stderr);
        ended.code == Some(0)
    })
    .await;
    case.ends_done("a program killed behind a proxy", HELD).await;
}

/// Commands that only look are bounded too.
#[tokio::test(flavor = "multi_thread")]
async fn commands_that_look_do_not_hang() {
    let stage = Stage::set(&[]).await;
    let database = stage.database().await;
    stage.apply(&stage.url(&database)).end().await.expect(0);
    let plan = stage.plan();
    // Each with something that it asks once it is connected.
    let commands: [(&[&str], &str); 4] = [
        (&["status"], "FROM pgmorph.attempts"),
        (&["verify", &plan], "BEGIN READ ONLY"),
        // The run is complete: it is shown as recorded.
        (&["plan", &plan], "FROM pgmorph.steps"),
        (&["snapshot"], "BEGIN ISOLATION LEVEL"),
    ];
    let faults = [Fault::RequestsVanish, Fault::AnswersVanish];
    let cases = commands
        .iter()
        .flat_map(|command| faults.map(|fault| (*command, fault)));
    join_all(cases.map(async |((command, text), fault)| {
        let proxy = stage.server.proxy().await;
        proxy.arm(Strike {
            text: text.to_owned(),
            session: "pgmorph",
            fault,
            whose: Whose::This,
        });
        let began = Instant::now();
        let ended = Running::start(&proxy.url(&database.name, "postgres"), command)
            .end()
            .await;
        let took = began.elapsed();
        let story = format!("{command:?} while {fault:?}, {took:?}");
        assert_eq!(proxy.struck(), 1, "{story}: {}", ended.stderr);
        assert!(took < NOTICED.min(patience()), "{story}");
        stopped(&ended, &[5], &story);
        println!("{story}: exit {:?}", ended.code);
    }))
    .await;
    database.drop().await;
}
