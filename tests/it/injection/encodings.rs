//! Identifiers and literals through a real server and back, in databases of several encodings.

use super::names::{NASTY, name};
use super::{canary_lives, encoded, one};
use crate::harness::{Database, TestServer};
use pgmorph::catalog::load::{self, LoadErrorKind};
use pgmorph::error::{Error, ErrorKind};
use pgmorph::sql::{self, QualifiedName, ident, literal};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use tokio_postgres::Client;

fn names(random: usize) -> Vec<String> {
    let mut runner = TestRunner::deterministic();
    let random = (0..random).map(|_| name().new_tree(&mut runner).unwrap().current());
    NASTY
        .iter()
        .map(|name| (*name).to_owned())
        .chain(random)
        .collect()
}

/// Whether the database can hold the text at all; that it cannot is the server's to say.
async fn has_room_for(client: &Client, text: &str) -> bool {
    let text_sql = literal(text);
    let sql =
        format!("SELECT {text_sql}::text, octet_length(convert_to({text_sql}, getdatabaseencoding())) <= 63");
    match client.query_one(&sql, &[]).await {
        Ok(row) => {
            assert_eq!(row.get::<_, String>(0), text, "as a literal");
            // Some characters take more bytes in the encoding of the server than in ours.
            row.get(1)
        }
        Err(error) => {
            let code = error
                .code()
                .unwrap_or_else(|| panic!("{text:?}: {error}"))
                .code()
                .to_owned();
            assert_eq!(code, "22P05", "{text:?}: {error:?}");
            false
        }
    }
}

async fn round_trip(client: &Client, name: &str) {
    sql::check_identifier(name).unwrap();
    let qualified = QualifiedName::new(name, name);
    let column = ident(name);
    let sql = format!(
        "BEGIN; CREATE SCHEMA {column}; CREATE TABLE {qualified} ({column} int DEFAULT 7);
         COMMENT ON COLUMN {qualified}.{column} IS {};",
        literal(name)
    );
    if let Err(error) = client.batch_execute(&sql).await {
        panic!("{name:?}: {:?}\n{sql}", error.as_db_error());
    }
    let sql = format!(
        "SELECT n.nspname, c.relname, a.attname, format('%I.%I', n.nspname, c.relname), col_description(c.oid, 1),
          c.relname = {0}, to_regclass({1}) = c.oid
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE n.nspname = {0} AND attnum = 1",
        literal(name),
        literal(&qualified.to_string())
    );
    let row = client
        .query_one(&sql, &[])
        .await
        .unwrap_or_else(|error| panic!("{name:?}: {error:?}"));
    for at in [0, 1, 2, 4] {
        assert_eq!(row.get::<_, String>(at), name);
    }
    assert_eq!(
        row.get::<_, String>(3).parse(),
        Ok(qualified.clone()),
        "as the server quotes it"
    );
    assert!(row.get::<_, bool>(5) && row.get::<_, bool>(6), "{name:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
}

async fn all_round_trips(server: &TestServer, encoding: &str, random: usize) {
    let database = encoded(server, encoding).await;
    let mut impossible = 0;
    let names = names(random);
    for settings in [
        "SET standard_conforming_strings = on",
        "SET standard_conforming_strings = off; SET escape_string_warning = off",
    ] {
        database.admin.batch_execute(settings).await.unwrap();
        for name in &names {
            match has_room_for(&database.admin, name).await {
                true => round_trip(&database.admin, name).await,
                false => impossible += 1,
            }
        }
    }
    canary_lives(&database).await;
    let schemas: i64 = one(
        &database.admin,
        "SELECT count(*) FROM pg_namespace WHERE nspname !~ '^pg_'",
    )
    .await;
    assert_eq!(schemas, 2, "public and information_schema");
    println!(
        "{encoding}: {} names, of which the encoding lacks {}",
        names.len(),
        impossible / 2
    );
    assert!(impossible < names.len(), "{encoding} has room for half of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_literals_survive_every_encoding() {
    let server = TestServer::start(&[]);
    for (encoding, random) in [("UTF8", 60), ("LATIN1", 20), ("SQL_ASCII", 20), ("EUC_JP", 20)] {
        all_round_trips(&server, encoding, random).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_at_the_limit_are_cut_by_nobody() {
    let server = TestServer::start(&[]);
    let database = encoded(&server, "UTF8").await;
    for (character, bytes) in [("x", 1), ("é", 2), ("表", 3), ("🐘", 4)] {
        let fits = character.repeat(63 / bytes);
        round_trip(&database.admin, &fits).await;
        let long = format!("{fits}{}", "x".repeat(64 - fits.len()));
        assert!(
            sql::check_identifier(&long).unwrap_err().contains("64 bytes"),
            "{long}"
        );
        let derived = sql::own_name(&[&fits, &fits], "pgmorph_new");
        round_trip(&database.admin, &derived).await;
    }
    for name in ["a\0b", "", "\0"] {
        assert!(sql::check_identifier(name).is_err(), "{name:?}");
    }
}

/// A database without an encoding may hold names in any. That is said, and nothing falls over it.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_no_utf8_is_refused() {
    let server = TestServer::start(&[]);
    let database = encoded(&server, "SQL_ASCII").await;
    // As one who types in LATIN1 leaves it: E9 is é.
    let sql = "DO $$ BEGIN EXECUTE 'CREATE TABLE caf' || E'\\xe9' || ' (id int)'; END $$";
    database.admin.batch_execute(sql).await.unwrap();
    let client = database.session().await;
    let error = load::snapshot(&client).await.unwrap_err();
    assert_eq!(error.kind, LoadErrorKind::Encoding, "{error:?}");
    let error = Error::from(error);
    assert_eq!(error.kind, ErrorKind::Precondition);
    assert!(
        error.message.contains("not UTF-8") && error.help.is_some(),
        "{error:?}"
    );
    database
        .admin
        .batch_execute("DO $$ BEGIN EXECUTE 'DROP TABLE caf' || E'\\xe9'; END $$")
        .await
        .unwrap();
    assert!(load::snapshot(&client).await.unwrap().tables.len() == 1);
    let _: &Database<'_> = &database;
}
