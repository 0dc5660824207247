//! A plan that is called otherwise now is known by what it changes, also when it is given by itself.

use super::{COSTS, Place};
use crate::harness::TestServer;
use serde_json::json;

const RATES: &str = "\
name: rates
changes:
  - sql:
      run: INSERT INTO costs (id, amount) SELECT coalesce(max(id), 0) + 1, 7 FROM costs
      undo: DELETE FROM costs WHERE amount = 7
      phase: backfill
      expect: EXISTS (SELECT FROM costs WHERE amount = 7)
";

async fn rows(place: &Place<'_>) -> i64 {
    let row = place
        .database
        .admin
        .query_one("SELECT count(*) FROM costs", &[])
        .await;
    row.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_by_itself_is_recognised_by_what_it_changes() {
    let server = TestServer::start(&[]);
    let place = Place::new(&server, &[("1.yaml", COSTS), ("2.yaml", RATES)]).await;
    place.all("apply", &["--yes"]).await.expect(0);
    let renamed = RATES.replace("name: rates", "name: seven");
    place.write("2.yaml", &renamed);

    let again = place.one("apply", "2.yaml", &["--yes"]).await.expect(0);
    assert!(again.stdout.contains("nothing to do"), "{}", again.stdout);
    assert!(
        again.stderr.contains("plan seven was applied as rates"),
        "{}",
        again.stderr
    );
    assert_eq!(rows(&place).await, 1, "it was not made twice");
    let planned = place.one("plan", "2.yaml", &[]).await.expect(0);
    assert!(planned.stderr.contains("is completed"), "{}", planned.stderr);
    let verified = place.one("verify", "2.yaml", &["--format", "json"]).await;
    assert_eq!(verified.expect(0).json()["verdict"], "matches");
    let status = place.one("status", "2.yaml", &[]).await.expect(0).stdout;
    assert!(status.contains("rates (run 2)"), "{status}");

    let later = "name: later\ndepends_on: [seven]\nchanges:\n  - add_column: {table: costs, column: note, type: text}\n";
    place.write("3.yaml", later);
    place.one("apply", "3.yaml", &["--yes"]).await.expect(0);

    let undone = place
        .one("rollback", "2.yaml", &["--yes", "--format", "json"])
        .await;
    assert_eq!(undone.expect(0).json()["runs"], json!([2]));
    assert_eq!(rows(&place).await, 0);
    // What was rolled back is nobody's any more.
    place.one("apply", "2.yaml", &["--yes"]).await.expect(0);
    let states = place.states().await;
    assert!(states.contains(&"seven applied".to_owned()), "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_beside_the_plan_itself_is_a_plan_of_its_own() {
    let server = TestServer::start(&[]);
    let place = Place::new(&server, &[("1.yaml", COSTS), ("2.yaml", RATES)]).await;
    place.all("apply", &["--yes"]).await.expect(0);
    place.write("3.yaml", &RATES.replace("name: rates", "name: twin"));
    assert!(place.states().await.contains(&"twin pending".to_owned()));
    place.one("apply", "3.yaml", &["--yes"]).await.expect(0);
    assert_eq!(rows(&place).await, 2);
}
