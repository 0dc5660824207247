//! The whole program, killed at a statement: as [`super`], with the planning, the questions and the signals that only
//! the program has.

use super::case;
use super::stage::Stage;
use super::walk::hash;
use crate::harness::{Running, Stroke, TestServer};
use pgmorph::executor::ledger::RunState;
use std::sync::Arc;
use tempfile::TempDir;

const FIXTURES: [&str; 3] = ["widen_column/shadow", "create_index/partial", "sync/join"];

/// Points of each fixture, spread over the way.
const POINTS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_killed_at_a_statement_goes_on_or_back() {
    let server = Arc::new(TestServer::start(&[]));
    for name in FIXTURES {
        let stage = Stage::set(name.to_owned(), case(name), Arc::clone(&server)).await;
        let directory = TempDir::new().unwrap();
        let plan = directory.path().join("plan.yaml");
        std::fs::write(&plan, &stage.case.plan).unwrap();
        let plan = plan.display().to_string();
        let apply = ["apply", &plan, "--through", "contract", "--yes"];
        let rollback = ["rollback", &plan, "--yes"];

        let database = stage.fresh().await;
        let url = stage.tap.url(&database.name, &database.user);
        stage.tap.arm(None).await;
        Running::start(&url, &apply).end().await.expect(0);
        let points = stage.tap.points().await;
        assert_eq!(
            stage.has_arrived(&database, true).await,
            [""; 0],
            "{name}, left alone"
        );
        database.drop().await;

        for share in 0..POINTS {
            let within = points / POINTS;
            let lots = usize::try_from(hash(&format!("{name} {share}")) >> 1).unwrap();
            let point = 1 + share * within + lots % within;
            let database = stage.fresh().await;
            let url = stage.tap.url(&database.name, &database.user);
            stage.tap.arm(Some((point, Stroke::Halt))).await;
            let mut running = Running::start(&url, &apply);
            tokio::select! {
                () = running.wait() => {}
                () = stage.tap.death() => {}
            }
            running.signal("KILL").await;
            let code = running.end().await.code;
            let struck = stage.tap.struck().await;
            println!("{name}, point {point} of {points}: {code:?}, before {struck:?}");
            assert!(struck.is_none() || code.is_none(), "it outlived its death");
            stage.tap.arm(None).await;
            let run = database.run(&stage.plan).await;
            let back = share == 1 && run.is_some_and(|run| run.state == RunState::Started);
            let wrong = match back {
                true => {
                    Running::start(&url, &rollback).end().await.expect(0);
                    stage.has_returned(&database, true).await
                }
                false => {
                    Running::start(&url, &apply).end().await.expect(0);
                    stage.has_arrived(&database, true).await
                }
            };
            assert_eq!(wrong, [""; 0], "{name}, point {point}");
            database.drop().await;
        }
        stage.strike_the_set().await;
    }
}
