//! `rollback DIR`: what was done last is undone first, whichever file it is of, and what stands against that is known
//! before anything is undone.

use super::{BUDGET, COSTS, Place};
use crate::harness::TestServer;
use serde_json::{Value, json};

/// Made only when a later file has made the table.
const WAITS: &str = "\
name: defaults
changes:
  - set_default: {table: trades, column: state, default: \"'new'\", when: {table_exists: trades}}
";
const TRADES: &str = "\
name: trades
changes:
  - create_table: {name: trades, columns: {id: bigint, state: text}, primary_key: [id]}
";

/// Plan and runs of each entry, in order.
fn undone(result: &Value) -> Vec<(&str, Vec<i64>)> {
    let entry = |plan: &'_ Value| -> Vec<i64> {
        let runs = plan["runs"].as_array().unwrap().iter();
        runs.map(|run| run.as_i64().unwrap()).collect()
    };
    let plans = result["plans"].as_array().unwrap().iter();
    plans
        .map(|plan| (plan["plan"].as_str().unwrap(), entry(plan)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_undone_by_when_they_began_not_by_their_files() {
    let server = TestServer::start(&[]);
    let place = Place::new(&server, &[("1.yaml", WAITS), ("2.yaml", TRADES)]).await;
    let (before, _) = place.picture().await;
    place.all("apply", &["--yes"]).await.expect(0);
    place.all("apply", &["--yes"]).await.expect(0);
    let (after, _) = place.picture().await;
    assert_eq!(place.states().await, ["defaults applied", "trades applied"]);
    for _ in 0..2 {
        let back = place.all("rollback", &["--yes", "--format", "json"]).await;
        let result = back.expect(0).json();
        assert_eq!(undone(&result).len(), 3, "{result}");
        assert_eq!(result["left"], json!([]));
        assert_eq!(place.picture().await.0, before);
        assert_eq!(
            place.states().await,
            ["defaults rolled_back", "trades rolled_back"]
        );
        place.all("apply", &["--yes"]).await.expect(0);
        place.all("apply", &["--yes"]).await.expect(0);
        assert_eq!(place.picture().await.0, after);
    }
    let result = place.all("rollback", &["--yes", "--format", "json"]).await;
    assert_eq!(
        undone(&result.expect(0).json()),
        [("defaults", vec![9]), ("trades", vec![8]), ("defaults", vec![7])]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_run_that_cannot_be_undone_stops_it_before_it_begins() {
    let server = TestServer::start(&[]);
    let drops = format!("{WAITS}  - drop_column: {{table: costs, column: amount}}\n");
    let place = Place::new(&server, &[("0.yaml", COSTS), ("1.yaml", &drops)]).await;
    place
        .all("apply", &["--yes", "--through", "contract"])
        .await
        .expect(0);
    place.write("2.yaml", TRADES);
    place.all("apply", &["--yes"]).await.expect(0);
    place.all("apply", &["--yes"]).await.expect(0);
    let before = place.picture().await;
    let refused = place.all("rollback", &["--yes"]).await.expect(3);
    for part in [
        "not all of these plans can be rolled back; nothing was changed",
        "defaults: step 02-drop_column-drop",
    ] {
        assert!(refused.stderr.contains(part), "{part}\n{}", refused.stderr);
    }
    assert_eq!(place.picture().await, before);
    let states = place.states().await;
    assert!(
        states.iter().all(|state| state.ends_with(" applied")),
        "{states:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_text_that_one_of_the_runs_wants_has_to_be_given() {
    let server = TestServer::start(&[]);
    let costs = COSTS.replace("changes:", "confirm_rollback: LOSE THE COSTS\nchanges:");
    let budget = BUDGET.replace("changes:", "confirm_rollback: NO BUDGET\nchanges:");
    let place = Place::new(&server, &[("1.yaml", &costs), ("2.yaml", &budget)]).await;
    place.all("apply", &["--yes"]).await.expect(0);
    // The latest run of it wants none; the one before it does still.
    let longer = format!("{COSTS}  - add_column: {{table: costs, column: note, type: text}}\n");
    place.write("1.yaml", &longer);
    place.all("apply", &["--yes"]).await.expect(0);
    let before = place.picture().await;
    let (one, two) = (["--confirm", "LOSE THE COSTS"], ["--confirm", "NO BUDGET"]);
    for given in [&["--yes"][..], &one, &two, &["--yes", "--confirm", "NO BUDGET"]] {
        let refused = place.all("rollback", given).await.expect(1);
        for part in ["nothing was changed", "LOSE THE COSTS", "NO BUDGET"] {
            assert!(refused.stderr.contains(part), "{part}\n{}", refused.stderr);
        }
        assert_eq!(place.picture().await, before);
    }
    let refused = place.one("rollback", "1.yaml", &two).await.expect(1);
    assert!(refused.stderr.contains("LOSE THE COSTS"), "{}", refused.stderr);
    let both = [one, two].concat();
    let undone = place.all("rollback", &both).await.expect(0);
    assert!(undone.stdout.contains("cost_budget: "), "{}", undone.stdout);
    assert!(place.truth("SELECT to_regclass('costs') IS NULL").await);
}
