//! Partitions that come and go while a plan runs, and how long a cutover of many takes.

use crate::harness::{Database, TestServer, pgmorph};
use ::pgmorph::plan::Phase;

/// One of the names is a keyword in some releases only.
const EVENTS: &str = "
CREATE TABLE events (
  id integer NOT NULL DEFAULT 77777,
  at date NOT NULL,
  note text,
  CONSTRAINT events_pkey PRIMARY KEY (id, at) WITH (fillfactor = 80),
  CHECK (id > 0)
) PARTITION BY RANGE (at);
CREATE INDEX events_note_idx ON events (note, id);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
CREATE TABLE \"system_user\" PARTITION OF events FOR VALUES FROM ('2026-04-01') TO ('2026-05-01');
INSERT INTO events SELECT i, date '2026-01-01' + i % 120, 'note ' || i FROM generate_series(1, 2000) AS i;
COMMENT ON CONSTRAINT events_id_check ON events_1 IS 'of the first';
COMMENT ON CONSTRAINT events_id_check ON events_3 IS 'of the third';
CREATE TABLE lines (event integer, at date, CONSTRAINT lines_fkey FOREIGN KEY (event, at) REFERENCES events);
INSERT INTO lines SELECT id, at FROM events WHERE id % 3 = 0 AND at >= '2026-04-01';
";

const WIDER: &str = "
name: p
settings: {small_table: 0}
changes:
  - widen_column: {table: events, column: id, type: bigint}
";

const COME_AND_GO: &str = "
ALTER TABLE events DETACH PARTITION events_1; DROP TABLE events_1;
ALTER TABLE events DETACH PARTITION events_2;
CREATE TABLE events_5 PARTITION OF events FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
INSERT INTO events (id, at, note) SELECT i, date '2026-05-01' + i % 20, 'newer' FROM generate_series(3001, 3300) AS i;
INSERT INTO lines SELECT id, at FROM events_5 WHERE id % 2 = 0;
CREATE TABLE \"events of the sixth month of the year two thousand twenty-six\"
  PARTITION OF events FOR VALUES FROM ('2026-06-01') TO ('2026-07-01');
";

/// What is left of ours, on partitions that were detached, too.
const LEFT: &str = "SELECT coalesce(string_agg(name, ', '), '') FROM (
  SELECT attrelid::regclass || '.' || attname FROM pg_attribute WHERE attname LIKE '%~pgmorph%' AND NOT attisdropped
  UNION ALL SELECT relname::text FROM pg_class WHERE relname LIKE '%~pgmorph%'
  UNION ALL SELECT conname::text FROM pg_constraint WHERE conname LIKE '%~pgmorph%') AS t (name)";

async fn execute(database: &Database<'_>, sql: &str) {
    database.admin.batch_execute(sql).await.unwrap();
}

async fn text(database: &Database<'_>, sql: &str) -> String {
    database.admin.query_one(sql, &[]).await.unwrap().get(0)
}

async fn count(database: &Database<'_>, table: &str) -> String {
    text(database, &format!("SELECT count(*)::text FROM {table}")).await
}

const NAMES: &str =
    "SELECT string_agg(c.relname || CASE WHEN i.indisvalid THEN '' ELSE '?' END, ' ' ORDER BY c.relname)
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
    WHERE i.indrelid IN (SELECT relid FROM pg_partition_tree('events')) AND c.relname NOT LIKE 'events of %'";

/// Of all columns of all that is left.
const TYPES: &str =
    "SELECT string_agg(DISTINCT a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ')
    FROM pg_attribute AS a JOIN pg_partition_tree('events') AS t ON t.relid = a.attrelid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attname LIKE '%id%'";

#[tokio::test(flavor = "multi_thread")]
async fn partitions_come_and_go_beside_the_plan() {
    let server = TestServer::start(&[]);
    for moment in [Phase::Expand, Phase::Backfill, Phase::Validate] {
        let database = Database::create(&server, EVENTS).await;
        let plan = database.planned(WIDER).await;
        database.apply(&plan, moment).await.unwrap();
        execute(&database, COME_AND_GO).await;
        database.apply(&plan, Phase::Contract).await.unwrap();
        assert_eq!(text(&database, TYPES).await, "id bigint", "{moment}");
        assert_eq!(
            text(&database, NAMES).await,
            "events_3_note_id_idx events_3_pkey events_5_note_id_idx events_5_pkey events_note_idx \
             events_pkey system_user_note_id_idx system_user_pkey"
        );
        assert_eq!(text(&database, LEFT).await, "", "{moment}");
        assert_eq!(count(&database, "events WHERE id > 3000").await, "300");
        let by_default = "INSERT INTO events (at) VALUES ('2026-05-06'), ('2026-06-06'), ('2026-03-06')";
        execute(&database, by_default).await;
        assert_eq!(count(&database, "events WHERE id = 77777").await, "3");
        let options = "SELECT reloptions::text FROM pg_class WHERE relname = 'events_pkey'";
        assert_eq!(text(&database, options).await, "{fillfactor=80}");
        execute(
            &database,
            "INSERT INTO events (id, at) VALUES (3000000000, '2026-05-05')",
        )
        .await;
        let orphan = "INSERT INTO lines VALUES (3000000, '2026-05-05')";
        assert!(database.admin.batch_execute(orphan).await.is_err());
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_does_without_partitions_that_are_gone() {
    let server = TestServer::start(&[]);
    for moment in [Phase::Expand, Phase::Backfill, Phase::Validate, Phase::Cutover] {
        let database = Database::create(&server, EVENTS).await;
        let plan = database.planned(WIDER).await;
        database.apply(&plan, moment).await.unwrap();
        execute(&database, COME_AND_GO).await;
        database.rollback(&plan).await.unwrap();
        assert_eq!(text(&database, TYPES).await, "id integer", "{moment}");
        assert_eq!(text(&database, LEFT).await, "", "{moment}");
        execute(&database, "INSERT INTO events (at) VALUES ('2026-05-06')").await;
        assert_eq!(
            text(&database, NAMES).await,
            "events_3_note_id_idx events_3_pkey events_5_note_id_idx events_5_pkey events_note_idx \
             events_pkey system_user_note_id_idx system_user_pkey"
        );
        assert_eq!(
            count(
                &database,
                "lines JOIN events ON id = event AND events.at = lines.at"
            )
            .await,
            count(&database, "lines").await
        );
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_takes_partitions_as_they_come() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, EVENTS).await;
    let url = server.url(&database.name, "postgres");
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.yaml");
    std::fs::write(&plan, WIDER).unwrap();
    let plan = plan.to_str().unwrap();
    pgmorph(&url, &["apply", plan, "--through", "backfill", "--yes"])
        .await
        .expect(0);
    execute(&database, "ALTER TABLE events DETACH PARTITION events_1; DROP TABLE events_1; CREATE TABLE events_5 PARTITION OF events FOR VALUES FROM ('2026-05-01') TO ('2026-06-01')").await;
    pgmorph(&url, &["apply", plan, "--through", "cutover", "--yes"])
        .await
        .expect(0);
    pgmorph(&url, &["verify", plan, "--through", "cutover"])
        .await
        .expect(0);
    execute(
        &database,
        "ALTER TABLE events DETACH PARTITION events_2; DROP TABLE events_2",
    )
    .await;
    pgmorph(&url, &["apply", plan, "--through", "contract", "--yes"])
        .await
        .expect(0);
    execute(
        &database,
        "ALTER TABLE events DETACH PARTITION events_3; DROP TABLE events_3",
    )
    .await;
    pgmorph(&url, &["verify", plan]).await.expect(0);
    execute(&database, "ALTER TABLE events DROP CONSTRAINT events_id_check").await;
    let found = pgmorph(&url, &["verify", plan]).await.expect(1);
    assert!(
        found.stdout.contains("constraint events_id_check"),
        "{}",
        found.stdout
    );
    assert!(!found.stdout.contains("events_5"), "{}", found.stdout);
}

const MANY: &str = "
CREATE TABLE events (id integer, at integer, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
DO 'BEGIN FOR i IN 1..60 LOOP
  EXECUTE format(''CREATE TABLE events_%s PARTITION OF events FOR VALUES FROM (%s) TO (%s)'', i, i, i + 1);
END LOOP; END';
CREATE TABLE lines (event integer, at integer, FOREIGN KEY (event, at) REFERENCES events);
";

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_takes_long_is_announced() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, MANY).await;
    let plan = database.planned(WIDER).await;
    let swap = plan.steps.iter().find(|step| step.id.ends_with("-swap")).unwrap();
    let long = swap.hazards.iter().find(|hazard| hazard.code == "long_swap");
    let message = &long.unwrap().message;
    assert!(
        message.contains("61 tables, and for each of these 1 foreign key to it"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_new_partitions_have_of_their_own_stops_the_swap() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, EVENTS).await;
    let plan = database.planned(WIDER).await;
    database.apply(&plan, Phase::Backfill).await.unwrap();
    let own = "CREATE TABLE events_5 PARTITION OF events FOR VALUES FROM ('2026-05-01') TO ('2026-06-01'); \
               CREATE INDEX \"My index\" ON events_5 (id); ALTER TABLE events_5 ADD CONSTRAINT small CHECK (id < 900)";
    execute(&database, own).await;
    let error = database.apply(&plan, Phase::Cutover).await.unwrap_err();
    let wanted =
        "id of new tables below public.events: constraint small on table events_5, index \"My index\"";
    assert!(error.message.contains(wanted), "{error:#?}");
    execute(
        &database,
        "DROP INDEX \"My index\"; ALTER TABLE events_5 DROP CONSTRAINT small",
    )
    .await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    execute(&database, "CREATE INDEX \"My index\" ON events_5 (id)").await;
    let error = database.rollback(&plan).await.unwrap_err();
    assert!(error.message.contains("index \"My index\""), "{error:#?}");
    execute(&database, "DROP INDEX \"My index\"").await;
    database.apply(&plan, Phase::Contract).await.unwrap();
    assert_eq!(text(&database, LEFT).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_would_stay_invalid_stops_the_swap() {
    let server = TestServer::start(&[]);
    let setup = "CREATE TABLE events (id integer, at integer) PARTITION BY RANGE (at); CREATE INDEX ON events (id); \
                 CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (1) TO (2)";
    let database = Database::create(&server, setup).await;
    let plan = database.planned(WIDER).await;
    database.apply(&plan, Phase::Expand).await.unwrap();
    let others = "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (2) TO (3); DROP TABLE events_1";
    execute(&database, others).await;
    let error = database.apply(&plan, Phase::Cutover).await.unwrap_err();
    assert!(
        error
            .message
            .contains("index public.events_id_idx would be left INVALID"),
        "{error:#?}"
    );
    database.rollback(&plan).await.unwrap();
    assert_eq!(text(&database, LEFT).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_alike_above_and_below_is_refused() {
    let server = TestServer::start(&[]);
    let identity = "CREATE TABLE events (id integer NOT NULL); \
                    CREATE TABLE below (id integer GENERATED BY DEFAULT AS IDENTITY) INHERITS (events)";
    let unproven = "CREATE TABLE events (id integer, at integer) PARTITION BY RANGE (at); \
                    ALTER TABLE events ADD CONSTRAINT positive CHECK (id > 0) NOT VALID; \
                    CREATE TABLE below PARTITION OF events FOR VALUES FROM (1) TO (2)";
    let nullable = "CREATE TABLE events (id integer); CREATE TABLE below () INHERITS (events); \
                    ALTER TABLE ONLY events ALTER id SET NOT NULL";
    let mut cases = vec![
        (
            identity,
            "the column is an identity column of its own in these: public.below",
        ),
        (unproven, "it is NOT VALID, but proven on a table below"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.yaml");
    std::fs::write(&path, WIDER).unwrap();
    if server.major() < 18 {
        cases.push((
            nullable,
            "the column may be null in these, but not above them: public.below",
        ));
    }
    for (setup, wanted) in cases {
        let database = Database::create(&server, setup).await;
        let url = server.url(&database.name, "postgres");
        let refused = pgmorph(&url, &["plan", path.to_str().unwrap()]).await.expect(2);
        assert!(refused.stderr.contains(wanted), "{}", refused.stderr);
        database.drop().await;
    }
}
