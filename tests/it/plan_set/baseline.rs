//! What waits is recorded as waiting, and made when its condition holds, also where the rest is a baseline.

use super::Place;
use crate::harness::TestServer;
use serde_json::json;

const DEFAULTS: &str = "\
name: defaults
changes:
  - sql:
      run: ALTER TABLE orders ALTER state SET DEFAULT 'new'
      undo: ALTER TABLE orders ALTER state DROP DEFAULT
      phase: expand
      expect: (SELECT atthasdef FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'state')
  - set_default: {table: trades, column: state, default: \"'new'\", when: {table_exists: trades}}
";

async fn has_default(place: &Place<'_>, table: &str) -> bool {
    let sql = format!(
        "SELECT atthasdef FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = 'state'"
    );
    place.truth(&sql).await
}

/// Applied by the directory as soon as the table is there, and taken back alone.
async fn waits_and_is_made(place: &Place<'_>) {
    let sql = "CREATE TABLE trades (state text)";
    let nothing = place.all("apply", &["--yes"]).await.expect(0);
    assert!(
        nothing
            .stdout
            .contains("change 2 (set_default) is waiting: table public.trades does not exist"),
        "{}",
        nothing.stdout
    );
    place.database.admin.batch_execute(sql).await.unwrap();
    place.all("apply", &["--yes"]).await.expect(0);
    assert!(has_default(place, "trades").await);
    assert_eq!(place.states().await, ["defaults applied"]);
    let back = place.all("rollback", &["--yes", "--format", "json"]).await;
    let result = back.expect(0).json();
    assert_eq!(result["plans"][0]["runs"], json!([2]));
    assert_eq!(
        result["stays"],
        json!(["defaults: run 1 stays, because it is a baseline"])
    );
    assert!(!has_default(place, "trades").await);
    assert_eq!(place.states().await, ["defaults baseline"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_beside_what_is_there_is_made_later() {
    let server = TestServer::start(&[]);
    let place = Place::new(&server, &[("1.yaml", DEFAULTS)]).await;
    let sql = "CREATE TABLE orders (state text DEFAULT 'new')";
    place.database.admin.batch_execute(sql).await.unwrap();
    let recorded = place.all("baseline", &["--yes", "--format", "json"]).await;
    assert_eq!(recorded.expect(0).json()["plans"][0]["waiting"][0]["change"], 2);
    let status = place.all("status", &[]).await.expect(0).stdout;
    assert!(status.contains("1 change waiting"), "{status}");
    waits_and_is_made(&place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_not_forced() {
    let server = TestServer::start(&[]);
    let place = Place::new(&server, &[("1.yaml", DEFAULTS)]).await;
    let sql = "CREATE TABLE orders (state text)";
    place.database.admin.batch_execute(sql).await.unwrap();
    place.all("baseline", &["--yes"]).await.expect(3);
    place.all("baseline", &["--yes", "--force"]).await.expect(0);
    assert!(!has_default(&place, "orders").await, "nothing was run");
    waits_and_is_made(&place).await;
    assert!(!has_default(&place, "orders").await);
}
