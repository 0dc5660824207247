//! What the server answers to probes.

use super::{name, server::Server};
use pgmorph::catalog::model::{Probe, ProbeError, ProbeOutcome, Question};
use pgmorph::catalog::{load, probe};
use pgmorph::sql::QualifiedName;
use tokio_postgres::Client;

const SCHEMA: &str = "
CREATE FUNCTION slug(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE orders (id bigint PRIMARY KEY, note varchar(20) NOT NULL, amount numeric(10,2) DEFAULT 1,
  double numeric GENERATED ALWAYS AS (amount * 2) STORED);
CREATE SCHEMA other; CREATE TABLE other.orders (a int);
CREATE TABLE \"We\"\"ird Näme\" (a int); CREATE TABLE pg_class_ (a int)";

fn to(table: &str, before: &str, after: &str) -> Probe {
    Probe {
        table: name(table),
        before: before.into(),
        after: after.into(),
    }
}

fn questions(probes: &[Probe]) -> Vec<Question> {
    probes.iter().cloned().map(Question::Probe).collect()
}

async fn ask(client: &Client, probes: &[Probe]) -> Vec<Result<ProbeOutcome, ProbeError>> {
    let mut snapshot = load::snapshot(client).await.unwrap();
    let before = serde_json::to_string(&snapshot).unwrap();
    probe::ask(client, &mut snapshot, &questions(probes))
        .await
        .unwrap();
    let answers: Vec<_> = snapshot
        .answers
        .iter()
        .map(|answer| answer.outcome.clone())
        .collect();
    for (probe, answer) in probes.iter().zip(&snapshot.answers) {
        assert_eq!(probe, &answer.probe);
    }
    assert_eq!(
        serde_json::to_string(&load::snapshot(client).await.unwrap()).unwrap(),
        before,
        "something stayed"
    );
    answers
}

fn definitions() -> Vec<Probe> {
    let mut probes = vec![
        to("orders", "ALTER TABLE ", " ADD COLUMN late int DEFAULT 3 + 4"),
        to(
            "orders",
            "ALTER TABLE ",
            " ADD CONSTRAINT late_ok CHECK (orders.late > 0 AND slug(note) <> '')",
        ),
        to(
            "orders",
            "ALTER TABLE ",
            " ADD CONSTRAINT bad CHECK (missing > 0)",
        ),
        to("orders", "ALTER TABLE ", " ALTER COLUMN note TYPE text"),
        to(
            "orders",
            "CREATE INDEX orders_slug ON ",
            " (slug(note), late DESC) WHERE late > 5",
        ),
        to(
            "orders",
            "ALTER TABLE ",
            " ADD COLUMN at timestamptz DEFAULT clock_timestamp()",
        ),
        to("orders", "ALTER TABLE ", " ADD COLUMN pos positive DEFAULT 1"),
        to("nothing", "ALTER TABLE ", " ADD COLUMN a int"),
        to("We\"ird Näme", "ALTER TABLE ", " ADD COLUMN \"B c\" int"),
        to("orders", "ALTER TABLE ", " ADD COLUMN x int; COMMIT"),
        to("orders", "ALTER TABLE ", " ADD COLUMN broken nosuchtype"),
        to("orders", "DROP TABLE ", ""),
        to(
            "orders",
            "ALTER TABLE ",
            " ADD COLUMN number int GENERATED ALWAYS AS IDENTITY",
        ),
    ];
    let other = QualifiedName::new("other", "orders");
    probes.push(Probe {
        table: other,
        before: "ALTER TABLE ".into(),
        after: " ADD COLUMN b int NOT NULL".into(),
    });
    probes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_normalises_definitions() {
    let server = Server::start();
    let (_, client) = server.database().await;
    client.batch_execute(SCHEMA).await.unwrap();
    let probes = definitions();
    let answers = ask(&client, &probes).await;
    assert_eq!(answers.len(), probes.len());

    let first = answers[0].as_ref().unwrap();
    assert_eq!(first.fast_defaults, ["late"]);
    assert!(!first.rewritten && !answers[3].as_ref().unwrap().rewritten);
    let columns = ["id", "note", "amount", "double", "late"];
    assert_eq!(first.table.column_names(), columns);
    assert_eq!(
        first.table.column("late").unwrap().default.as_deref(),
        Some("(3 + 4)")
    );
    assert_eq!(
        first
            .table
            .column("double")
            .unwrap()
            .generated
            .as_ref()
            .unwrap()
            .expression,
        "(amount * (2)::numeric)"
    );
    assert!(first.table.column("note").unwrap().not_null);
    assert_eq!(
        first.table.column("amount").unwrap().default.as_deref(),
        Some("1")
    );
    let check = &answers[1].as_ref().unwrap().table.constraints["late_ok"];
    assert_eq!(
        check.definition,
        "CHECK (((late > 0) AND (public.slug((note)::text) <> ''::text)))"
    );
    assert_eq!(check.columns, ["note", "late"]);
    assert_eq!(answers[2].as_ref().unwrap_err().sqlstate, "42703");
    later_answers(&answers);
}

fn later_answers(answers: &[Result<ProbeOutcome, ProbeError>]) {
    let retyped = &answers[3].as_ref().unwrap().table;
    assert_eq!(
        retyped.constraints["late_ok"].definition,
        "CHECK (((late > 0) AND (public.slug(note) <> ''::text)))"
    );
    let index = &answers[4].as_ref().unwrap().table.indexes["orders_slug"];
    assert_eq!(index.keys[0].expression.as_deref(), Some("public.slug(note)"));
    assert_eq!(index.predicate.as_deref(), Some("(late > 5)"));
    let volatile = answers[5].as_ref().unwrap();
    assert!(
        volatile.rewritten && volatile.fast_defaults.is_empty(),
        "a volatile default rewrites"
    );
    let constrained = &answers[6].as_ref().unwrap().fast_defaults;
    assert!(
        !constrained.contains(&"pos".to_owned()),
        "a constrained domain rewrites: {constrained:?}"
    );
    assert!(answers[6].as_ref().unwrap().rewritten);
    assert_eq!(answers[7].as_ref().unwrap_err().sqlstate, "42P01");
    assert_eq!(answers[8].as_ref().unwrap().table.column_names(), ["a", "B c"]);
    assert_eq!(answers[9].as_ref().unwrap_err().sqlstate, "42601");
    assert_eq!(answers[10].as_ref().unwrap_err().sqlstate, "42704");
    assert_eq!(answers[11].as_ref().unwrap_err().sqlstate, "42P01");
    let number = answers[12].as_ref().unwrap().table.column("number").unwrap();
    assert_eq!(
        number.identity.as_ref().unwrap().sequence,
        name("orders_number_seq")
    );
    assert_eq!(answers[13].as_ref().unwrap().table.column_names(), ["a", "b"]);
    for answer in answers.iter().flatten() {
        let text = serde_json::to_string(&answer).unwrap();
        assert!(
            !text.contains("pg_temp") && !text.contains("pgmorph_clone"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_means_planning_goes_on_without_answers() {
    let server = Server::start();
    let (database, admin) = server.database().await;
    admin.batch_execute(SCHEMA).await.unwrap();
    let sql = format!(
        "CREATE ROLE limited LOGIN; REVOKE TEMP ON DATABASE {database} FROM PUBLIC;
         CREATE ROLE blind LOGIN; GRANT TEMP ON DATABASE {database} TO blind; CREATE ROLE seeing LOGIN IN ROLE blind;
         GRANT SELECT ON orders TO limited, seeing"
    );
    admin.batch_execute(&sql).await.unwrap();
    let probes = [to("orders", "ALTER TABLE ", " ADD COLUMN late int DEFAULT 3")];
    for (user, answers) in [("limited", 0), ("blind", 0), ("seeing", 1)] {
        let client = server.connect(&database, user).await;
        assert_eq!(ask(&client, &probes).await.len(), answers, "{user}");
        let snapshot = load::snapshot(&client).await.unwrap();
        assert!(!snapshot.role.superuser && !snapshot.role.may_set_replication_role);
        assert_eq!(snapshot.tables.len(), 4);
    }
    admin
        .batch_execute("SET default_transaction_read_only = on")
        .await
        .unwrap();
    let mut snapshot = load::snapshot(&admin).await.unwrap();
    assert!(snapshot.server.read_only);
    // The server's own refusal counts as much as what the snapshot says.
    for read_only in [true, false] {
        snapshot.server.read_only = read_only;
        probe::ask(&admin, &mut snapshot, &questions(&probes))
            .await
            .unwrap();
        assert!(snapshot.answers.is_empty());
    }
}
