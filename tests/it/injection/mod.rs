//! Names and texts that would be SQL if anybody forgot to quote them: through the quoting, through whole plans, through
//! the script for psql, and onto terminals.

mod encodings;
mod names;
mod plans;
mod terminals;

use crate::harness::{Database, TestServer};
use pgmorph::sql::literal;

/// Tables that an injected statement would drop, or make.
const CANARY: &str = "CREATE TABLE public.canary (lives boolean); INSERT INTO public.canary VALUES (true);";

/// Nothing that stands in a name was run: the canary lives, and nobody made a `pwned`.
async fn canary_lives(database: &Database<'_>) {
    let alive: i64 = one(&database.admin, "SELECT count(*) FROM public.canary WHERE lives").await;
    assert_eq!(alive, 1);
    let pwned: i64 = one(
        &database.admin,
        "SELECT count(*) FROM pg_class WHERE relname = 'pwned'",
    )
    .await;
    assert_eq!(pwned, 0, "an injected statement was run");
}

async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &tokio_postgres::Client, sql: &str) -> T {
    client
        .query_one(sql, &[])
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
        .get(0)
}

/// A database of this encoding.
async fn encoded<'s>(server: &'s TestServer, encoding: &str) -> Database<'s> {
    let database = Database::create(server, "").await;
    let name = server.next_database();
    let postgres = server.connect("postgres").await;
    let sql = format!(
        "CREATE DATABASE {name} ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        literal(encoding)
    );
    postgres.batch_execute(&sql).await.unwrap();
    let admin = server.connect(&name).await;
    admin.batch_execute(CANARY).await.unwrap();
    Database {
        name,
        admin,
        ..database
    }
}
