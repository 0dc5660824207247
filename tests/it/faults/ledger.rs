//! A ledger that somebody has damaged, that a newer version has made, or that takes no writes: it is said, and nothing is
//! changed.

use super::stage::Stage;
use crate::harness::{Database, pgmorph, schema_dump};

/// What was done to it, and what is said about that.
const DAMAGES: [(&str, &str); 16] = [
    ("DROP TABLE pgmorph.runs CASCADE", "table pgmorph.runs is missing"),
    ("DROP TABLE pgmorph.ledger", "table pgmorph.ledger is missing"),
    (
        "DROP TABLE pgmorph.steps",
        "column pgmorph.steps.run_id is missing",
    ),
    (
        "DROP TABLE pgmorph.attempts",
        "column pgmorph.attempts.id is missing",
    ),
    (
        "DROP TABLE pgmorph.backfills",
        "column pgmorph.backfills.run_id is missing",
    ),
    (
        "ALTER TABLE pgmorph.steps DROP COLUMN undone_works",
        "column pgmorph.steps.undone_works is missing",
    ),
    (
        "ALTER TABLE pgmorph.runs ALTER COLUMN state TYPE varchar",
        "column pgmorph.runs.state is of type character varying",
    ),
    (
        "ALTER TABLE pgmorph.steps ALTER COLUMN state DROP NOT NULL",
        "column pgmorph.steps.state may be empty",
    ),
    (
        "DELETE FROM pgmorph.steps WHERE position = 2",
        "the record of step",
    ),
    (
        "UPDATE pgmorph.steps SET step_id = 'x' WHERE position = 1",
        "the record of step",
    ),
    (
        "UPDATE pgmorph.steps SET state = 'perhaps' WHERE position = 1",
        "unknown step state \"perhaps\"",
    ),
    (
        "UPDATE pgmorph.runs SET state = 'gone'",
        "unknown run state \"gone\"",
    ),
    (
        "UPDATE pgmorph.runs SET execution_plan = left(execution_plan, 100)",
        "the plan of run 1",
    ),
    (
        "UPDATE pgmorph.runs SET execution_plan = replace(execution_plan, 'accounts_named', 'accounts_told')",
        "the plan of run 1 is not the one that was recorded",
    ),
    (
        "UPDATE pgmorph.runs SET plan_digest = 'x'",
        "the plan of run 1 is not the one that was recorded",
    ),
    (
        "UPDATE pgmorph.ledger SET version = 99",
        "the ledger has version 99",
    ),
];

/// The commands that read it say so; the schema stays as it was.
async fn refused(stage: &Stage, database: &Database<'_>, how_many: usize, said: &str, story: &str) {
    let before = schema_dump(database).await;
    let (url, plan) = (stage.url(database), stage.plan());
    let commands: [&[&str]; 4] = [
        &["apply", &plan, "--yes"],
        &["status"],
        &["rollback", &plan, "--yes"],
        &["verify", &plan],
    ];
    for command in &commands[..how_many] {
        let ended = pgmorph(&url, command).await;
        assert_eq!(ended.code, Some(3), "{story}: {command:?}: {ended:?}");
        assert!(
            ended.stderr.contains(said),
            "{story}: {command:?}: {}",
            ended.stderr
        );
    }
    assert_eq!(before, schema_dump(database).await, "{story}");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_was_damaged_stops_everything() {
    let stage = Stage::set(&[]).await;
    let begun = stage.database().await;
    stage
        .apply_through(&stage.url(&begun), "backfill")
        .end()
        .await
        .expect(0);
    let original = begun.name.clone();
    for (number, (damage, said)) in DAMAGES.into_iter().enumerate() {
        let database = stage.copy(&original).await;
        let changed = database.admin.batch_execute(damage).await;
        assert!(changed.is_ok(), "{damage}: {changed:?}");
        // All of them read it the same way.
        let commands = if number % 5 == 0 { 4 } else { 2 };
        refused(&stage, &database, commands, said, damage).await;
        database.drop().await;
    }
    // Of a copy that nobody has touched it is a good one.
    let database = stage.copy(&original).await;
    stage.apply(&stage.url(&database)).end().await.expect(0);
    database.drop().await;
    begun.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_takes_no_writes_stops_before_the_first_change() {
    let stage = Stage::set(&[]).await;
    let mut case = stage.begin().await;
    case.runs_as_owner().await;
    let url = case.url();
    let (admin, name) = (&case.database.admin, &case.database.name);
    let before = schema_dump(&case.database).await;
    for (forbid, allow, said) in [(
        format!("ALTER DATABASE {name} SET default_transaction_read_only = on"),
        format!("ALTER DATABASE {name} RESET default_transaction_read_only"),
        "only reads",
    )] {
        admin.batch_execute(&forbid).await.unwrap();
        let ended = stage.apply(&url).end().await.expect(3);
        assert!(ended.stderr.contains(said), "{forbid}: {}", ended.stderr);
        admin.batch_execute(&allow).await.unwrap();
    }
    // Made, and then taken away: before a run begins, and in the middle of one.
    let forbid = "REVOKE INSERT, UPDATE ON ALL TABLES IN SCHEMA pgmorph FROM owner";
    let allow = "GRANT ALL ON ALL TABLES IN SCHEMA pgmorph TO owner";
    let other =
        "name: other\nchanges:\n  - create_index: {name: other_idx, table: accounts, columns: [spare]}\n";
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), other).unwrap();
    let path = file.path().display().to_string();
    for command in ["apply", "rollback"] {
        crate::harness::pgmorph(&url, &[command, &path, "--yes"])
            .await
            .expect(0);
    }
    admin.batch_execute(forbid).await.unwrap();
    let ended = stage.apply(&url).end().await.expect(3);
    assert!(ended.stderr.contains("42501"), "{}", ended.stderr);
    assert_eq!(before, schema_dump(&case.database).await);
    admin.batch_execute(allow).await.unwrap();
    stage.apply_through(&url, "expand").end().await.expect(0);
    let begun = schema_dump(&case.database).await;
    admin.batch_execute(forbid).await.unwrap();
    let ended = stage.apply(&url).end().await.expect(6);
    assert!(ended.stderr.contains("42501"), "{}", ended.stderr);
    assert_eq!(begun, schema_dump(&case.database).await);
    admin.batch_execute(allow).await.unwrap();
    case.ends_well("a ledger that took no writes", true, std::time::Duration::ZERO)
        .await;
}
