//! A table in its safety period holds up its own plan, and no other.

use super::Place;
use crate::harness::TestServer;
use serde_json::{Value, json};

fn retire(keep: &str) -> String {
    format!("name: retire\nchanges:\n  - retire_table: {{table: orders, keep: {keep}}}\n")
}

const NOTE: &str = "\
name: note
changes:
  - add_column: {table: customers, column: note, type: text}
  - drop_column: {table: customers, column: fax}
";

const SETUP: &str = "CREATE TABLE orders (id bigint); CREATE TABLE customers (id bigint, fax text)";
const CONTRACT: [&str; 3] = ["--yes", "--through", "contract"];

async fn contract(place: &Place<'_>) -> Value {
    let arguments = [&CONTRACT[..], &["--format", "json"]].concat();
    place.all("apply", &arguments).await.expect(0).json()
}

async fn has(place: &Place<'_>, table: &str) -> bool {
    place
        .truth(&format!("SELECT to_regclass('{table}') IS NOT NULL"))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plans_after_one_in_its_safety_period_go_on() {
    let server = TestServer::start(&[]);
    let retire = retire("30d");
    let place = Place::new(&server, &[("1.yaml", &retire), ("2.yaml", NOTE)]).await;
    place.database.admin.batch_execute(SETUP).await.unwrap();
    let result = contract(&place).await;
    assert_eq!(result["left"], json!([]), "{result}");
    let [first, second] = &result["plans"].as_array().unwrap()[..] else {
        panic!("{result}")
    };
    assert_eq!(
        (&first["complete"], &second["complete"]),
        (&json!(false), &json!(true))
    );
    let date: jiff::Timestamp = first["waits_until"].as_str().unwrap().parse().unwrap();
    let days = date.duration_since(jiff::Timestamp::now()).as_secs() / 86_400;
    assert!((29..=30).contains(&days), "{date}");
    assert_eq!(second["waits_until"], Value::Null);
    assert!(has(&place, "_deprecated_orders").await);

    // Now there is nothing to do until then.
    let said = place.all("apply", &CONTRACT).await.expect(0).stdout;
    let shown = date.strftime("%Y-%m-%d %H:%M UTC").to_string();
    for part in ["nothing to do", "retire: contract waits until ", &shown] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    let result = contract(&place).await;
    assert_eq!(
        (&result["plans"], &result["waits_until"]["retire"]),
        (&json!([]), &first["waits_until"])
    );
    // A plan that is added runs.
    place.write(
        "3.yaml",
        "name: more\nchanges:\n  - add_column: {table: customers, column: more, type: text}\n",
    );
    let said = place.all("apply", &CONTRACT).await.expect(0).stdout;
    for part in ["more: 1 step", &shown] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    // By itself it is refused, as before.
    let refused = place.one("apply", "1.yaml", &CONTRACT).await.expect(3);
    assert!(refused.stderr.contains(&shown), "{}", refused.stderr);

    place.database.time_passes().await;
    let result = contract(&place).await;
    assert_eq!(result["plans"][0]["complete"], true, "{result}");
    assert!(!has(&place, "_deprecated_orders").await);
    place.all("verify", &[]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_that_is_over_at_once_holds_up_nothing() {
    let server = TestServer::start(&[]);
    let retire = retire("1ms");
    let place = Place::new(&server, &[("1.yaml", &retire), ("2.yaml", NOTE)]).await;
    place.database.admin.batch_execute(SETUP).await.unwrap();
    let result = contract(&place).await;
    let plans = result["plans"].as_array().unwrap();
    assert!(plans.iter().all(|plan| plan["complete"] == true), "{result}");
    assert_eq!(plans[0]["steps"], 3, "{result}");
    assert!(!has(&place, "_deprecated_orders").await);
}
