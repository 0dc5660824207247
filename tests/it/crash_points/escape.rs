//! No statement escapes: what the tap has counted is what the server has logged, and where there is no point, nothing
//! was written.

use super::case;
use super::stage::{Stage, Way};
use crate::harness::{Database, TestServer};
use crate::server_log;
use std::collections::BTreeMap;
use std::sync::Arc;

const FIXTURES: [&str; 4] = [
    "widen_column/shadow",
    "create_index/partial",
    "sync/join",
    "add_column/volatile_default",
];

type Texts = BTreeMap<String, Vec<String>>;

/// Transactions that are ended before they could be asked, and what needs values.
fn cannot_be_asked(text: &str) -> bool {
    text.contains("$1") || text.starts_with("ROLLBACK") || text.starts_with("BEGIN") || text == "COMMIT"
}

/// Whether a statement has been given a transaction number, as every one that changes a row or the catalog is.
async fn writes(database: &Database<'_>, text: &str) -> bool {
    database.admin.batch_execute("BEGIN").await.unwrap();
    let run = database.admin.batch_execute(text).await;
    let sql = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
    let assigned = match run {
        Ok(()) => database.admin.query_one(sql, &[]).await.unwrap().get(0),
        // It asked for something that is gone by now.
        Err(_) => false,
    };
    database.admin.batch_execute("ROLLBACK").await.unwrap();
    assigned
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_that_the_server_logs_was_counted() {
    let server = TestServer::start(&[("log_statement", "all"), ("log_line_prefix", "%a|")]);
    let server = Arc::new(server);
    for name in FIXTURES {
        let before = server.log().len();
        let stage = Stage::set(name.to_owned(), case(name), Arc::clone(&server)).await;
        let log = server.log()[before..].to_owned();
        let sent = stage.tap.sent().await;
        let mut counted = Texts::new();
        for one in &sent {
            counted
                .entry(one.session.clone())
                .or_default()
                .push(one.text.clone());
        }
        let logged = counted
            .keys()
            .map(|session| (session.clone(), server_log::sent(&log, session)));
        let mut logged: Texts = logged.collect();
        assert!(counted.contains_key("pgmorph") && counted.contains_key("pgmorph lock"));
        for texts in counted.values_mut().chain(logged.values_mut()) {
            // Several sessions have the same name.
            texts.sort();
        }
        assert_eq!(counted, logged, "{name}");

        let read: Vec<&str> = sent
            .iter()
            .filter(|one| one.leaves_nothing() && !cannot_be_asked(&one.text))
            .map(|one| one.text.as_str())
            .collect();
        let database = stage.fresh().await;
        let mut wrote = Vec::new();
        for text in &read {
            if writes(&database, text).await {
                wrote.push(*text);
            }
        }
        assert_eq!(wrote, [""; 0], "{name}");
        let points = stage.reference(Way::There).await.points;
        println!(
            "{name}: {} statements, {points} points, {} asked whether they write",
            sent.len(),
            read.len()
        );
        assert!(points > 5 && !read.is_empty());
        database.drop().await;
        stage.strike_the_set().await;
    }
}
