//! What we know about built-in types, compared with what a real server does.

use crate::catalog::server::Server;
use pgmorph::catalog::types::{TypeChange, canonical, fits_predicate, widening};
use tokio_postgres::Client;

/// Type, and some values of it as literals.
const TYPES: &[(&str, &[&str])] = &[
    ("smallint", &["0", "32767", "-32768"]),
    (
        "integer",
        &[
            "0",
            "32767",
            "32768",
            "-32768",
            "-32769",
            "2147483647",
            "-2147483648",
        ],
    ),
    (
        "bigint",
        &[
            "2147483647",
            "2147483648",
            "-2147483648",
            "-2147483649",
            "9223372036854775807",
            "-9223372036854775808",
        ],
    ),
    (
        "numeric",
        &[
            "0",
            "0.5",
            "1e30",
            "NaN",
            "Infinity",
            "-Infinity",
            "32767",
            "32768",
            "2147483647",
            "2147483648",
            "-2147483648.5",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775809",
            "999.99",
            "999.995",
            "-1000",
            "1000",
        ],
    ),
    ("numeric(5,0)", &["99999", "32768", "1"]),
    ("numeric(5,2)", &["999.99", "-999.99", "0.01"]),
    ("numeric(7,2)", &["99999.99", "999.99", "1000", "-1000"]),
    ("numeric(8,4)", &["999.9999", "999.9900", "1234.5678", "NaN"]),
    (
        "numeric(21,2)",
        &[
            "9223372036854775807",
            "9223372036854775807.5",
            "9223372036854775808",
        ],
    ),
    ("real", &["0", "1.5", "3.4e38", "1e-45", "NaN", "Infinity"]),
    (
        "double precision",
        &[
            "0",
            "-0",
            "1.5",
            "0.1",
            "1e300",
            "1e-300",
            "3.4028234663852886e38",
            "3.41e38",
            "1.401298464324817e-45",
            "2.1e-45",
            "NaN",
            "Infinity",
            "-Infinity",
        ],
    ),
    ("text", &["", "abc", "abcd", "abcde", "äöüß", "ab   "]),
    ("character varying", &["", "abc", "abcd", "äöüßé"]),
    ("character varying(3)", &["abc", "ab "]),
    ("character varying(4)", &["abcd", "abc", "abc "]),
    ("character(3)", &["abc", "a"]),
    ("character(4)", &["abcd", "abc", "a"]),
    ("bit varying", &["101", "1010", ""]),
    ("bit varying(3)", &["101"]),
    ("bit varying(4)", &["1010", "101"]),
    ("date", &["2020-01-01", "infinity", "0044-03-15 BC"]),
    (
        "timestamp(0) without time zone",
        &["2020-01-01 00:00:01", "2020-01-01"],
    ),
    (
        "timestamp(3) without time zone",
        &["2020-01-01 00:00:01.123", "2020-01-01 12:00"],
    ),
    (
        "timestamp without time zone",
        &[
            "2020-01-01",
            "2020-01-01 00:00:00.000001",
            "infinity",
            "-infinity",
            "2020-01-01 00:00:01.123",
            "2020-01-01 00:00:01.1234",
            "0044-03-15 BC",
        ],
    ),
    ("timestamp(6) without time zone", &["2020-01-01 00:00:00.000001"]),
    ("timestamp(3) with time zone", &["2020-01-01 00:00:01.123+02"]),
    (
        "timestamp with time zone",
        &["2020-01-01 00:00:01.123+02", "2020-01-01 00:00:01.1234+02"],
    ),
    ("time(0) without time zone", &["12:00:01"]),
    ("time without time zone", &["12:00:01", "23:59:59.9", "24:00"]),
    ("time(3) with time zone", &["12:00:01.5+02"]),
    ("time with time zone", &["12:00:01.5+02", "23:59:59.9999+02"]),
    ("interval(3)", &["1 day 00:00:01.5"]),
    ("interval day to second(3)", &["1 day 00:00:01.5"]),
    (
        "interval day to second",
        &["1 day 00:00:01.5", "1 day 00:00:01.50001"],
    ),
    ("interval year to month", &["1 year 2 months"]),
    (
        "interval",
        &[
            "1 day 00:00:01.5",
            "1 day 00:00:01.50001",
            "1 year 2 months",
            "1 month 1 day",
        ],
    ),
    ("cidr", &["10.0.0.0/8", "::/0"]),
    ("inet", &["10.0.0.0/8", "10.0.0.1/8", "10.0.0.1", "::1/64"]),
];

async fn files(client: &Client) -> (u32, u32) {
    let row = client
        .query_one(
            "SELECT pg_relation_filenode('t'), pg_relation_filenode('t_c')",
            &[],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_cost_what_we_say() {
    let server = Server::start();
    let (_, client) = server.database().await;
    let (mut spared, mut rewritten) = (0, 0);
    for (from, values) in TYPES {
        for (to, _) in TYPES {
            let change = widening(from, to);
            if !matches!(change, Some(TypeChange::CatalogOnly | TypeChange::Rewrite)) {
                continue;
            }
            let value = values[0];
            let sql = format!(
                "DROP TABLE IF EXISTS t; CREATE TABLE t (c {from}); INSERT INTO t VALUES ('{value}');
                 CREATE INDEX t_c ON t (c)"
            );
            client.batch_execute(&sql).await.unwrap();
            let before = files(&client).await;
            client
                .batch_execute(&format!("ALTER TABLE t ALTER c TYPE {to}"))
                .await
                .unwrap();
            let after = files(&client).await;
            if change == Some(TypeChange::CatalogOnly) {
                assert_eq!(before, after, "{from} to {to}");
                spared += 1;
            } else {
                assert!(before.0 != after.0, "{from} to {to} does not rewrite");
                rewritten += 1;
            }
        }
    }
    println!("{spared} catalog-only pairs, {rewritten} rewrites");
    assert!(spared > 30 && rewritten > 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_comes_back_unchanged() {
    let server = Server::start();
    let (_, client) = server.database().await;
    let mut compared = 0;
    for (from, _) in TYPES {
        for (to, values) in TYPES {
            let Some(predicate) = fits_predicate(from, to, "x") else {
                continue;
            };
            let function = format!(
                "CREATE OR REPLACE FUNCTION pg_temp.fits(x {to}) RETURNS boolean LANGUAGE plpgsql AS $$
                 BEGIN RETURN x::{from}::{to} IS NOT DISTINCT FROM x; EXCEPTION WHEN others THEN RETURN false; END $$"
            );
            client.batch_execute(&function).await.unwrap();
            let rows: Vec<String> = values.iter().map(|value| format!("('{value}'::{to})")).collect();
            let sql = format!(
                "SELECT x::text, {predicate}, pg_temp.fits(x) FROM (VALUES {}, (NULL)) v (x)",
                rows.join(", ")
            );
            for row in client.query(&sql, &[]).await.unwrap() {
                let value: Option<String> = row.get(0);
                let (ours, real): (Option<bool>, bool) = (row.get(1), row.get(2));
                assert_eq!(ours, Some(real), "{value:?} of {to} back to {from}: {predicate}");
                compared += 1;
            }
            client
                .batch_execute(&format!("DROP FUNCTION pg_temp.fits({to})"))
                .await
                .unwrap();
        }
    }
    println!("{compared} values compared");
    assert!(compared > 200);
}

const SPELLINGS: &[&str] = &[
    "int",
    "int2",
    "int8",
    "float",
    "float(24)",
    "float(25)",
    "float4",
    "bool",
    "char",
    "char(5)",
    "bpchar",
    "nchar(2)",
    "\"char\"",
    "varchar",
    "varchar(9)",
    "char varying(3)",
    "dec(5)",
    "decimal(5,1)",
    "numeric",
    "bit",
    "bit(3)",
    "varbit",
    "varbit(3)",
    "bit varying(2)",
    "time",
    "timetz",
    "time(3)",
    "timetz(2)",
    "timestamp",
    "timestamptz",
    "timestamp(3)",
    "timestamptz(3)",
    "timestamp(2) with time zone",
    "interval",
    "interval(2)",
    "interval year",
    "interval hour to second(1)",
    "interval second(3)",
    "int[]",
    "int[3][2]",
    "varchar(3)[]",
    "int array",
    "int array[4]",
    "json",
    "jsonb",
    "uuid",
    "bytea",
    "xml",
    "tsvector",
    "int4range",
    "nummultirange",
    "national character varying(7)",
    "timestamp(6)",
    "interval day to second",
];

#[tokio::test(flavor = "multi_thread")]
async fn spelled_as_the_server_spells() {
    let server = Server::start();
    let (_, client) = server.database().await;
    for spelling in SPELLINGS
        .iter()
        .copied()
        .chain(TYPES.iter().map(|(name, _)| *name))
    {
        let sql = format!("DROP TABLE IF EXISTS t; CREATE TABLE t (c {spelling})");
        client.batch_execute(&sql).await.unwrap();
        let printed: String = client
            .query_one(
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
                        WHERE attrelid = 't'::regclass AND attname = 'c'",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        assert_eq!(
            canonical(spelling).map(|t| t.to_string()),
            Some(printed),
            "{spelling}"
        );
    }
}
