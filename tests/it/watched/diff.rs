//! `plan --diff`: two plans, a plan on two catalogs, two catalogs.

use crate::harness::{TestServer, pgmorph};
use crate::monitor::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reviewer_asks_of_a_changed_plan() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 2_000).await;
    let others = "CREATE TABLE others (id integer PRIMARY KEY)";
    stage.database.admin.batch_execute(others).await.unwrap();
    let write = |name: &str, text: &str| {
        let path = stage.path(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (old, new, saved) = (
        stage.path("old.json"),
        stage.path("new.json"),
        stage.path("saved.json"),
    );
    pgmorph(&stage.url, &["snapshot", "-o", &old]).await.expect(0);
    let head = "name: p\nsettings: {small_table: 0}\nchanges:\n";
    let widen = "  - widen_column: {table: orders, column: version, type: bigint}\n";
    let check = "  - add_check: {table: others, name: positive, expression: id > 0}\n";
    let more = write("more.yaml", &format!("{head}{check}{widen}"));
    let slow = write(
        "slow.yaml",
        &format!("{head}{widen}").replace("small_table: 0", "small_table: 0, lock_timeout: 50ms"),
    );
    pgmorph(
        &stage.url,
        &["plan", &stage.plan, "--catalog", &old, "-o", &saved],
    )
    .await
    .expect(0);
    let diff = async |arguments: &[&str], code: i32| {
        pgmorph(&stage.url, &[&["plan"], arguments].concat())
            .await
            .expect(code)
    };

    let same = diff(&[&stage.plan, "--catalog", &old, "--diff", &saved], 0).await;
    assert!(same.stdout.contains("no difference"), "{}", same.stdout);
    let added = diff(
        &[
            &more,
            "--catalog",
            &old,
            "--diff",
            &stage.plan,
            "--format",
            "json",
        ],
        1,
    )
    .await
    .json();
    let steps = added["diff"]["steps"].as_array().unwrap();
    // Every number of the widening has moved by one, and nothing else: that is no difference.
    assert!(
        !steps.is_empty() && steps.iter().all(|step| step["change"] == "added"),
        "{added:#}"
    );
    assert!(steps.iter().all(|step| step["step"]["operation"] == "add_check"));
    let removed = diff(&[&stage.plan, "--catalog", &old, "--diff", &more], 1)
        .await
        .stdout;
    assert!(
        removed.contains("0 steps added, 2 removed, 0 changed") && removed.contains("VALIDATE CONSTRAINT"),
        "{removed}"
    );
    let changed = diff(
        &[
            &slow,
            "--catalog",
            &old,
            "--diff",
            &stage.plan,
            "--format",
            "markdown",
        ],
        1,
    )
    .await
    .stdout;
    assert!(
        changed.contains("+ lock 50ms") && changed.contains("- lock 200ms"),
        "{changed}"
    );

    let alter = "ALTER TABLE orders ADD COLUMN state text, ADD CONSTRAINT known CHECK (id >= 0); CREATE VIEW seen AS SELECT id FROM orders";
    stage.database.admin.batch_execute(alter).await.unwrap();
    pgmorph(&stage.url, &["snapshot", "-o", &new]).await.expect(0);
    let catalogs = diff(&[&new, "--diff", &old, "--format", "json"], 1).await.json();
    let what: Vec<&str> = catalogs["catalog"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["what"].as_str().unwrap())
        .collect();
    for object in ["known", "state", "view public.seen"] {
        assert!(what.iter().any(|it| it.contains(object)), "{object}: {what:?}");
    }
    diff(&[&old, "--diff", &old], 0).await;
    // The swap knows what is on the table.
    let both = diff(&[&stage.plan, "--catalog", &new, "--diff", &old], 1)
        .await
        .stdout;
    assert!(both.contains(r#""orders","known""#), "{both}");
    diff(&[&saved, "--diff", &saved], 0).await;
    diff(&[&saved, "--diff", &old], 2).await;
    diff(
        &[
            &stage.plan,
            "--diff",
            &saved,
            "--catalog",
            &old,
            "--format",
            "sql",
        ],
        2,
    )
    .await;
    diff(&[&stage.plan, "--diff", "/nowhere"], 2).await;
}
