//! What a plan prints is what runs: the server's own log of a run against the plan.

use crate::harness::{Database, TestServer, difference};
use pgmorph::executor::timeouts_sql;
use pgmorph::plan::{Action, Comparison, ExecutionPlan, Phase, Transaction, Work};

/// The texts that the sessions of this name sent, in order.
pub fn sent(log: &str, session: &str) -> Vec<String> {
    let start = format!("{session}|LOG:  ");
    let mut texts: Vec<Option<String>> = Vec::new();
    for line in log.lines() {
        // A text of several lines goes on after a tab.
        if let Some(rest) = line.strip_prefix('\t') {
            if let Some(Some(text)) = texts.last_mut() {
                text.push('\n');
                text.push_str(rest);
            }
            continue;
        }
        let ours = line.strip_prefix(start.as_str());
        let text = ours.and_then(|entry| {
            let statement = entry.strip_prefix("statement: ");
            statement.or_else(|| {
                entry
                    .strip_prefix("execute ")?
                    .split_once(": ")
                    .map(|(_, text)| text)
            })
        });
        texts.push(text.map(str::to_owned));
    }
    texts.into_iter().flatten().collect()
}

/// What is not a plan's: sessions being prepared and given back, and reads of the catalog between the steps. Each
/// rule names what it leaves out.
fn is_beside_the_plan(text: &str) -> bool {
    // A session is taken from the pool, and cleaned when it is given back.
    let of_the_pool = text.starts_with("ROLLBACK; CLOSE ALL;")
        || (text.starts_with("SET statement_timeout = ")
            && text.contains("; SET client_connection_check_interval = '1s'; "))
        || text.starts_with("SELECT pg_backend_pid()")
        || text.starts_with("SELECT pg_catalog.pg_backend_pid()");
    // The catalog is read in transactions that can only read and are rolled back.
    let of_a_reader = text.starts_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        || text.starts_with("BEGIN READ ONLY")
        || text == "ROLLBACK"
        || (text.starts_with("SELECT") && !text.contains("row_to_json(q)"))
        || text.starts_with("WITH");
    // A step outside a transaction is recorded by itself.
    let of_the_ledger = text.starts_with("/* pgmorph ledger */") && !text.ends_with("COMMIT");
    of_the_pool || of_a_reader || of_the_ledger
}

/// Without what is recorded in the same transaction, and with the rows of a batch left out.
fn comparable(text: &str) -> String {
    let text = match text.split_once("/* pgmorph ledger */") {
        Some((before, after)) if after.ends_with("COMMIT") => format!("{before}COMMIT"),
        // Whether it is still to be done is asked with the beginning.
        Some((before, _)) => before.trim_end_matches("; ").to_owned(),
        None => text.to_owned(),
    };
    let Some(start) = text.find("ctid >= '(") else {
        return text;
    };
    // With the alias that stands in front of it.
    let start = text[..start].rfind(' ').map_or(0, |space| space + 1);
    match text[start..].find(" AND (") {
        Some(length) => {
            let (condition, rest) = text[start..].split_at(length);
            // A copy that locks its rows first names them twice.
            format!(
                "{}{}{}",
                &text[..start],
                rows(&condition.replace("o.ctid", "ctid")),
                comparable(rest)
            )
        }
        None => text,
    }
}

/// Which part of a table a batch takes: pages whole, or some rows of them.
fn rows(condition: &str) -> String {
    let mut shape = String::new();
    for letter in condition.chars() {
        match letter {
            '0'..='9' if shape.ends_with('#') => {}
            '0'..='9' => shape.push('#'),
            other => shape.push(other),
        }
    }
    let pages = "ctid >= '(#,#)' AND ctid < '(#,#)'";
    match shape.strip_prefix(pages) {
        Some("") => "PAGES".into(),
        Some(" AND pg_catalog.get_byte(pg_catalog.tidsend(ctid), #) % # < #") => "SOME ROWS OF PAGES".into(),
        _ => shape,
    }
}

fn expected_of(work: &Work) -> Vec<String> {
    match (&work.action, work.transaction) {
        (Action::Sql(statements), Transaction::Single) => {
            let mut texts = vec![format!("BEGIN; {}", timeouts_sql(work, "SET LOCAL"))];
            texts.extend(statements.iter().map(|one| work.text_of(one)));
            texts.push("COMMIT".into());
            texts
        }
        (Action::Sql(statements), Transaction::None) => {
            let mut texts = vec![timeouts_sql(work, "SET")];
            texts.extend(statements.iter().cloned());
            texts
        }
        (Action::Check(check) | Action::Compare(Comparison { check, .. }), _) => vec![format!(
            "SELECT row_to_json(q)::text FROM ({}\n) AS q LIMIT 11",
            check.query
        )],
        // How it asks is its own affair: it only reads.
        (Action::Match(_), _) => Vec::new(),
        (Action::Copy(copying), _) => vec![format!(
            "BEGIN; SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '250ms'; \
             SET LOCAL pgmorph.sync = 'on'; {}; COMMIT",
            copying.statements(Some("PAGES")).join("; ")
        )],
        (Action::Backfill(backfill), _) => {
            assert!(backfill.suppress_triggers);
            let batch = |rows: &str| {
                format!(
                    "BEGIN; SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '250ms'; \
                     SET LOCAL session_replication_role = replica; UPDATE ONLY {} SET {} WHERE {rows} AND ({}); COMMIT",
                    backfill.table, backfill.set, backfill.needs
                )
            };
            // What a batch of no rows takes is measured first; at last every row is taken that is not filled yet.
            vec![batch("PAGES"), batch("SOME ROWS OF PAGES"), batch("PAGES")]
        }
    }
}

fn expected(plan: &ExecutionPlan) -> Vec<String> {
    plan.steps
        .iter()
        .flat_map(|step| expected_of(&step.work))
        .collect()
}

const PLAN: &str = "
name: all of it
settings: {small_table: 0, lock_timeout: 150ms, statement_timeout: 20s}
changes:
  - widen_column: {table: orders, column: version, type: bigint}
  - create_index: {table: orders, columns: [note], where: note <> 'it''s'}
  - set_not_null: {table: orders, column: note}
  - add_check: {table: orders, name: 'od\"d', expression: length(note) < 100}
  - drop_index: {name: by_customer}
  - backfill: {from: orders, as: o, into: copies, key: [id], where: o.note <> '', columns: [note]}
  - sync:
      name: followed
      from: people
      as: o
      into: followers
      key: [id]
      join: LEFT JOIN titles AS t ON t.of = o.id
      joined: {titles: {of: id}}
      where: coalesce(t.title, '') <> 'none'
      columns: {title: t.title}
      compare: false
  - sql:
      run: |
        CREATE VIEW noted AS
        SELECT note
          FROM public.orders
      undo: DROP VIEW IF EXISTS noted
      phase: expand
      expect: to_regclass('public.noted') IS NOT NULL
";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_is_what_runs() {
    let server = TestServer::start(&[("log_statement", "all"), ("log_line_prefix", "%a|")]);
    let setup = "
        CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer, version integer NOT NULL, note text);
        CREATE INDEX by_customer ON orders (customer_id);
        CREATE TABLE copies (id integer PRIMARY KEY, note text);
        CREATE TABLE people (id integer PRIMARY KEY);
        CREATE TABLE titles (of integer PRIMARY KEY REFERENCES people, title text);
        CREATE TABLE followers (id integer PRIMARY KEY, title text);
        INSERT INTO people SELECT generate_series(1, 3000);
        INSERT INTO titles SELECT i, 'title ' || i FROM generate_series(1, 1000) AS i;
        INSERT INTO orders SELECT i, i % 10, i, 'note ' || i FROM generate_series(1, 3000) AS i";
    let database = Database::create(&server, setup).await;
    let plan = database.planned(PLAN).await;
    let before = server.log().len();
    database.apply(&plan, Phase::Contract).await.unwrap();
    let log = server.log();
    let mut found: Vec<String> = sent(&log[before..], "pgmorph")
        .iter()
        .filter(|text| !is_beside_the_plan(text))
        .map(|text| comparable(text))
        .collect();
    // A backfill is as many batches as it takes.
    found.dedup();
    let expected = expected(&plan);
    let (expected, found) = (expected.join("\n;\n"), found.join("\n;\n"));
    assert!(expected == found, "{}", difference(&expected, &found));
}
