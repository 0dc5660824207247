//! The catalog loader against a real server. `PGMORPH_TEST_BINDIR` chooses another release.

mod probe;
pub mod server;

use pgmorph::catalog::load;
use pgmorph::catalog::model::{CatalogSnapshot, ConstraintKind, ReplicaIdentity, Table, TableKind};
use pgmorph::sql::{self, QualifiedName};
use server::Server;
use tokio_postgres::Client;

fn name(name: &str) -> QualifiedName {
    QualifiedName::new("public", name)
}

fn table<'a>(snapshot: &'a CatalogSnapshot, table: &str) -> &'a Table {
    &snapshot.tables[&name(table)]
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_a_rich_schema() {
    let server = Server::start();
    let (_, client) = server.database().await;
    client
        .batch_execute(include_str!("catalog/rich.sql"))
        .await
        .unwrap();
    let first = load::snapshot(&client).await.unwrap();
    let major = first.server.major();
    if major >= 15 {
        let sql =
            "ALTER PUBLICATION sold SET TABLE orders (id, customer_id, tier) WHERE (tier > 1), customers;
                   CREATE PUBLICATION whole FOR TABLES IN SCHEMA \"Other Schema\"";
        client.batch_execute(sql).await.unwrap();
    }
    let failed = client
        .batch_execute("CREATE UNIQUE INDEX CONCURRENTLY duplicates_bad ON duplicates (a)")
        .await;
    assert!(failed.is_err());
    let snapshot = load::snapshot(&client).await.unwrap();
    if let Some(path) = std::env::var_os("PGMORPH_TEST_DUMP") {
        std::fs::write(path, json(&snapshot)).unwrap();
    }

    the_database(&snapshot);
    columns(&snapshot, major);
    indexes(&snapshot);
    constraints(&snapshot);
    hierarchy(&snapshot);
    what_hangs_on_a_table(&snapshot);
    dependents(&snapshot, major);
    names_survive(&snapshot);
    views_and_the_rest(&snapshot, major);

    let text = json(&snapshot);
    let back: CatalogSnapshot = serde_json::from_str(&text).unwrap();
    assert!(back == snapshot, "the JSON form does not round-trip");
    assert_eq!(
        json(&load::snapshot(&client).await.unwrap()),
        text,
        "not deterministic"
    );
    settings_do_not_matter(&client, &text).await;
    some_tables(&client, &snapshot).await;
}

fn the_database(snapshot: &CatalogSnapshot) {
    assert!(
        snapshot.role.superuser && snapshot.role.may_set_replication_role && snapshot.role.may_create_schema
    );
    assert!(snapshot.role.member_of.contains(&"postgres".to_owned()));
    assert_eq!(snapshot.server.deadlock_timeout_ms, 1000);
    assert!(!snapshot.server.in_recovery && !snapshot.server.read_only);
    let schemas: Vec<_> = snapshot.schemas.keys().collect();
    assert_eq!(schemas, ["Other Schema", "public"]);
    assert!(!snapshot.tables.keys().any(|table| table.schema == "pgmorph"));
}

fn columns(snapshot: &CatalogSnapshot, major: u32) {
    let customers = table(snapshot, "customers");
    assert_eq!(customers.comment.as_deref(), Some("who buys"));
    let id = customers.column("id").unwrap();
    let identity = id.identity.as_ref().unwrap();
    assert!(identity.always && id.not_null && id.default.is_none());
    assert_eq!(identity.sequence, name("customers_id_seq"));
    assert_eq!(id.not_null_constraint.is_some(), major >= 18);
    let email = customers.column("email").unwrap();
    assert_eq!(email.data_type, "character varying(100)");
    assert_eq!(email.collation.as_deref(), Some("\"C\""));
    assert_eq!(email.comment.as_deref(), Some("lower case"));

    let orders = table(snapshot, "orders");
    assert!(orders.column("unused").is_none());
    let column = |name: &str| orders.column(name).unwrap();
    assert_eq!(
        column("id").default.as_deref(),
        Some("nextval('public.orders_id_seq'::regclass)")
    );
    let total = column("total").generated.as_ref().unwrap();
    assert!(total.stored && column("total").default.is_none());
    assert_eq!(total.expression, "(amount * (2)::numeric)");
    assert_eq!(column("feeling").data_type, "public.mood");
    assert_eq!(column("feeling").default.as_deref(), Some("'ok'::public.mood"));
    assert_eq!(column("late").default.as_deref(), Some("7"));
    assert_eq!(column("amount").data_type, "numeric(10,2)");
    let note = column("note");
    assert_eq!(note.statistics_target, Some(500));
    assert_eq!(
        (note.storage.as_str(), note.options.as_slice()),
        ("external", ["n_distinct=5".to_owned()].as_slice())
    );
    assert_eq!(note.grants.len(), 1);
    assert_eq!(
        (note.grants[0].grantee.as_str(), note.grants[0].privilege.as_str()),
        ("reader", "UPDATE")
    );
    assert_eq!(column("tier").statistics_target, None);
    assert_eq!(column("payload").compression.as_deref(), Some("pglz"));
    assert_eq!(
        column("seen").default.as_deref(),
        Some("'2020-01-01 00:00:00+00'::timestamp with time zone")
    );
    let last = orders.columns.last().unwrap();
    assert_eq!(last.name, "late");
    assert!(orders.size.heap_bytes > 0 && orders.size.index_bytes > 0);
    assert_eq!(orders.size.rows, 100);
}

fn indexes(snapshot: &CatalogSnapshot) {
    let orders = table(snapshot, "orders");
    let index = &orders.indexes["orders_expr"];
    assert_eq!(index.keys[0].expression.as_deref(), Some("lower((note)::text)"));
    assert_eq!(index.keys[0].collation.as_deref(), Some("\"C\""));
    assert!(index.keys[0].descending && index.keys[0].nulls_first && index.keys[0].opclass.is_none());
    assert_eq!(
        index.keys[1].expression.as_deref(),
        Some("((amount + (1)::numeric))")
    );
    assert!(index.keys[1].collation.is_none() && !index.keys[1].descending);
    assert_eq!(index.keys[2].column.as_deref(), Some("customer_id"));
    assert!(index.keys[2].descending && !index.keys[2].nulls_first);
    assert_eq!(index.include, ["region"]);
    assert_eq!(index.options, ["deduplicate_items=off", "fillfactor=80"]);
    assert_eq!(index.predicate.as_deref(), Some("(tier > 3)"));
    assert_eq!(index.expression_columns, ["tier", "amount", "note"]);
    assert!(index.valid && !index.unique);
    let pattern = &orders.indexes["orders_pattern"];
    assert_eq!(pattern.keys[0].opclass.as_deref(), Some("varchar_pattern_ops"));
    assert_eq!(pattern.keys[1].collation.as_deref(), Some("\"C\""));
    assert!(pattern.keys[1].nulls_first && pattern.keys[1].opclass.is_none());
    let gin = &orders.indexes["orders_gin"];
    assert_eq!(gin.keys[0].opclass.as_deref(), Some("jsonb_path_ops"));
    assert_eq!(gin.keys[1].opclass, None);
    assert_eq!(
        orders.indexes["orders_gist"].keys[0].opclass.as_deref(),
        Some("tsvector_ops (siglen='32')")
    );
    assert!(
        orders.indexes["orders_enum"]
            .keys
            .iter()
            .all(|key| key.opclass.is_none())
    );
    let identity = &orders.indexes["orders_ident"];
    assert!(identity.replica_identity && identity.comment.as_deref() == Some("identity"));
    assert_eq!(
        orders.replica_identity,
        ReplicaIdentity::Index("orders_ident".into())
    );
    let key = &orders.indexes["orders_pkey"];
    assert!(key.clustered && key.constraint.as_deref() == Some("orders_pkey"));
    assert!(!table(snapshot, "duplicates").indexes["duplicates_bad"].valid);
}

fn constraints(snapshot: &CatalogSnapshot) {
    let orders = table(snapshot, "orders");
    let get = |name: &str| &orders.constraints[name];
    assert_eq!(get("orders_amount_check").columns, ["id", "amount"]);
    let note = get("orders_note_len");
    assert!(!note.validated && note.kind == ConstraintKind::Check);
    assert_eq!(note.definition, "CHECK ((length((note)::text) < 10))");
    assert!(get("orders_no_inherit").no_inherit);
    assert!(!get("orders_pkey").no_inherit && get("orders_pkey").index.as_deref() == Some("orders_pkey"));
    let composite = get("orders_composite");
    assert_eq!(composite.columns, ["region", "tier"]);
    let far = composite.references.as_ref().unwrap();
    assert_eq!(
        (far.columns.as_slice(), far.match_type.as_str()),
        (["region".into(), "tier".into()].as_slice(), "FULL")
    );
    assert!(composite.deferrable && composite.initially_deferred);
    let simple = get("orders_customer_id_fkey").references.as_ref().unwrap();
    assert_eq!(
        (simple.on_delete.as_str(), simple.on_update.as_str()),
        ("CASCADE", "SET NULL")
    );
    assert!(
        get("orders_customer_id_fkey")
            .definition
            .contains("REFERENCES public.customers(id)")
    );
    assert_eq!(get("orders_no_overlap").kind, ConstraintKind::Exclusion);
    let incoming = snapshot.incoming_foreign_keys(&name("customers"));
    assert_eq!(incoming.len(), 3, "self, simple and composite: {incoming:?}");
    assert_eq!(
        table(snapshot, "customers").constraints["customers_region_tier"].columns,
        ["tier", "region"]
    );
    assert_eq!(
        table(snapshot, "event_notes").constraints.len(),
        1,
        "only the foreign key that was declared"
    );
    assert!(table(snapshot, "child").constraints["parent_a_check"].inherited);
}

fn hierarchy(snapshot: &CatalogSnapshot) {
    let events = table(snapshot, "events");
    assert_eq!(events.kind, TableKind::Partitioned);
    assert_eq!(events.partition_key.as_deref(), Some("RANGE (at)"));
    assert_eq!(events.partition_key_columns, ["at"]);
    assert_eq!(events.children, [name("events_2020"), name("events_rest")]);
    assert_eq!(events.size.rows, 50);
    assert!(events.size.heap_bytes > 0);
    assert_eq!(
        snapshot.leaves(&name("events")),
        [name("events_2020_1"), name("events_rest")]
    );
    let rest = table(snapshot, "events_rest");
    assert_eq!(rest.partition_bound.as_deref(), Some("DEFAULT"));
    assert_eq!(rest.partition_of, Some(name("events")));
    assert!(rest.inherits.is_empty() && rest.columns[0].inherited);
    assert!(rest.constraints["events_rest_pkey"].inherited);
    assert_eq!(
        rest.indexes["events_rest_kind_idx"].parent,
        Some(name("events_kind"))
    );
    assert!(rest.triggers.contains_key("events_touch"));
    assert_eq!(
        table(snapshot, "events_2020_1").partition_bound.as_deref(),
        Some("FOR VALUES IN ('1')")
    );
    assert_eq!(table(snapshot, "by_expression").partition_key_columns, ["a"]);
    let child = table(snapshot, "child");
    assert_eq!(child.inherits, [name("parent")]);
    assert_eq!(table(snapshot, "parent").children, [name("child")]);
    assert!(child.column("a").unwrap().inherited && !child.column("c").unwrap().inherited);
    assert_eq!(table(snapshot, "typed").of_type.as_deref(), Some("public.pair"));
    assert_eq!(
        table(snapshot, "orders").row_type_used_by,
        ["public.holder.o", "public.holder.os"]
    );
    let types: Vec<_> = table(snapshot, "scratch")
        .columns
        .iter()
        .map(|c| c.data_type.as_str())
        .collect();
    let expected = [
        "integer",
        "character varying(10)",
        "character(3)",
        "timestamp(3) without time zone",
    ];
    assert_eq!(types[..4], expected);
    assert_eq!(types[4..], ["\"char\"", "interval day to second(2)"]);
}

fn what_hangs_on_a_table(snapshot: &CatalogSnapshot) {
    let orders = table(snapshot, "orders");
    assert_eq!(
        orders.options,
        [
            "autovacuum_enabled=off",
            "fillfactor=70",
            "toast.autovacuum_enabled=off"
        ]
    );
    let touch = &orders.triggers["orders_touch"];
    assert!(touch.before_row_write && touch.enabled == "origin" && touch.function == "public.touch");
    assert_eq!(touch.columns, ["note", "amount"]);
    assert_eq!(orders.triggers["orders_after"].enabled, "always");
    assert_eq!(
        orders.triggers.len(),
        2,
        "foreign key triggers are the server's own"
    );
    assert!(orders.rules["orders_rule"].definition.contains("public.orders"));
    assert!(orders.row_security && orders.force_row_security);
    assert_eq!(orders.policies["orders_own"].roles, ["PUBLIC"]);
    assert_eq!(
        orders.policies["orders_write"].with_check.as_deref(),
        Some("(tier > 0)")
    );
    assert!(!orders.policies["orders_write"].permissive);
    assert_eq!(
        orders.statistics[&name("orders_stat")].columns,
        ["tier", "region"]
    );
    assert_eq!(
        orders.statistics[&QualifiedName::new("Other Schema", "expr_stat")].columns,
        ["note"]
    );
    let grants: Vec<_> = orders.grants.iter().filter(|g| g.grantee != "postgres").collect();
    assert_eq!(grants.len(), 2);
    assert!(grants[0].grantee == "PUBLIC" && grants[1].grantable && grants[1].privilege == "SELECT");
    assert!(table(snapshot, "customers").grants.is_empty());
}

fn dependents(snapshot: &CatalogSnapshot, major: u32) {
    let orders = table(snapshot, "orders");
    let mut found: Vec<String> = orders
        .dependents
        .iter()
        .map(|d| format!("{}|{}|{}", d.column.as_deref().unwrap_or("-"), d.kind, d.name))
        .collect();
    found.retain(|line| !line.contains("|publication|"));
    let expected = [
        "-|function|function public.takes_order(public.orders)",
        "-|view|view public.counting",
        "amount|function|function public.order_total()",
        "amount|generated column|column total of table public.orders",
        "amount|materialized view|materialized view public.order_sums",
        "amount|trigger|trigger orders_touch on table public.orders",
        "amount|view|view public.order_view",
        "customer_id|materialized view|materialized view public.order_sums",
        "customer_id|policy|policy customers_of_orders on table public.customers",
        "id|view|view public.order_view",
        "late|trigger|trigger orders_touch on table public.orders",
        "note|trigger|trigger orders_touch on table public.orders",
        "region|policy|policy orders_own on table public.orders",
        "tier|policy|policy orders_write on table public.orders",
        "tier|rule|rule orders_rule on table public.orders",
        "tier|view|view public.order_view",
    ];
    assert_eq!(found, expected);
    let published = |d: &&pgmorph::catalog::model::Dependent| d.kind == "publication";
    let columns: Vec<_> = orders
        .dependents
        .iter()
        .filter(published)
        .map(|d| d.column.as_deref())
        .collect();
    let listed = [Some("customer_id"), Some("id"), Some("tier")];
    assert_eq!(columns, if major >= 15 { &listed[..] } else { &[] });
}

fn names_survive(snapshot: &CatalogSnapshot) {
    let weird = &snapshot.tables[&QualifiedName::new("Other Schema", "We\"ird Näme")];
    assert_eq!(weird.column_names(), ["select", "Mixed Case", "a.b", "naïve\"é"]);
    let index = &weird.indexes["We\"ird idx"];
    assert_eq!(index.keys[0].column.as_deref(), Some("Mixed Case"));
    assert_eq!(index.keys[1].expression.as_deref(), Some("((\"a.b\" + 1))"));
    let long = QualifiedName::new("Other Schema", "a".repeat(63));
    assert_eq!(snapshot.tables[&long].column_names(), ["order"]);
}

fn views_and_the_rest(snapshot: &CatalogSnapshot, major: u32) {
    let view = &snapshot.views[&name("order_view")];
    assert!(!view.materialized && view.definition.contains("public.orders") && view.grants.len() > 1);
    assert_eq!(view.options, ["security_barrier=true"]);
    assert_eq!(
        view.uses,
        ["amount", "id", "tier"].map(|column| (name("orders"), column.to_owned()))
    );
    assert_eq!(
        snapshot.views[&name("view_on_view")].uses,
        [(name("order_view"), "id".to_owned())]
    );
    assert_eq!(
        snapshot.views[&name("counting")].uses,
        [(name("orders"), String::new())]
    );
    let sums = &snapshot.views[&name("order_sums")];
    assert!(sums.materialized && sums.indexes["order_sums_key"].unique);
    let serial = &snapshot.sequences[&name("orders_id_seq")];
    assert_eq!(serial.owned_by, Some((name("orders"), "id".into())));
    assert!(!serial.identity && serial.data_type == "integer");
    assert!(snapshot.sequences[&name("customers_id_seq")].identity);
    let plain = &snapshot.sequences[&name("plain_seq")];
    assert_eq!((plain.min, plain.increment, plain.cycle), (-32768, -1, true));
    let kind = |t: &str| snapshot.types[&name(t)].kind.clone();
    assert_eq!(
        ["mood", "positive", "pair", "span"].map(kind),
        ["enum", "domain", "composite", "range"]
    );
    assert_eq!(snapshot.types[&name("mood")].labels, ["sad", "ok", "happy"]);
    let constrained = |t: &str| snapshot.types[&name(t)].constrained;
    assert_eq!(
        ["positive", "nested", "plain_domain"].map(constrained),
        [true, true, false]
    );
    assert!(!snapshot.types.contains_key(&name("orders")));
    assert!(snapshot.publications["everything"].all_tables);
    let sold: Vec<_> = snapshot
        .tables
        .values()
        .filter_map(|table| table.publications.get("sold"))
        .collect();
    assert_eq!(sold.len(), 2);
    if major >= 15 {
        assert_eq!(sold[1].columns, ["id", "customer_id", "tier"]);
        assert_eq!(sold[1].filter.as_deref(), Some("(tier > 1)"));
        assert_eq!(snapshot.publications["whole"].schemas, ["Other Schema"]);
    }
}

/// What a session sets does not show in the texts, and is as it was afterwards.
async fn settings_do_not_matter(client: &Client, text: &str) {
    let sql = "SET search_path = \"Other Schema\", public; SET DateStyle = 'German'; SET quote_all_identifiers = on;
               SET IntervalStyle = iso_8601; SET extra_float_digits = -5";
    client.batch_execute(sql).await.unwrap();
    let mut loaded = load::snapshot(client).await.unwrap();
    // Only what conversions of texts are pinned to is the session's.
    assert_eq!(loaded.server.date_style, "German, DMY");
    loaded.server.date_style = "ISO, MDY".into();
    assert_eq!(json(&loaded), text);
    load::tables(client, &[name("orders")]).await.unwrap();
    let path: String = client.query_one("SHOW search_path", &[]).await.unwrap().get(0);
    assert_eq!(path, "\"Other Schema\", public");
    client.batch_execute("RESET ALL").await.unwrap();
}

async fn some_tables(client: &Client, snapshot: &CatalogSnapshot) {
    let mut names: Vec<QualifiedName> = snapshot.tables.keys().cloned().collect();
    names.push(name("no such table"));
    assert!(load::tables(client, &names).await.unwrap() == snapshot.tables);
    let wanted = [name("orders"), name("nothing"), name("order_view")];
    let few = load::tables(client, &wanted).await.unwrap();
    assert_eq!(few.keys().collect::<Vec<_>>(), [&name("orders")]);
    assert!(few[&name("orders")] == snapshot.tables[&name("orders")]);
    assert!(load::tables(client, &[]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sees_uncommitted_changes_and_leaves_the_transaction_alone() {
    let server = Server::start();
    let (_, mut client) = server.database().await;
    client.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let sql =
        "SET LOCAL search_path = public; SET LOCAL lock_timeout = '123ms'; ALTER TABLE t ADD COLUMN b text";
    transaction.batch_execute(sql).await.unwrap();
    let tables = load::tables(&transaction, &[name("t")]).await.unwrap();
    assert_eq!(tables[&name("t")].column_names(), ["a", "b"]);
    for (setting, expected) in [
        ("search_path", "public"),
        ("lock_timeout", "123ms"),
        ("jit", "on"),
    ] {
        let value: String = transaction
            .query_one(&format!("SHOW {setting}"), &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(value, expected, "{setting}");
    }
    transaction.commit().await.unwrap();
    assert_eq!(load::tables(&client, &[name("t")]).await.unwrap(), tables);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_does_not_keep_the_sizes_from_being_read() {
    let server = Server::start();
    let (database, client) = server.database().await;
    let sql = "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t SELECT g FROM generate_series(1, 1000) g; ANALYZE";
    client.batch_execute(sql).await.unwrap();
    let holder = server.connect(&database, "postgres").await;
    holder.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let snapshot = load::snapshot(&client).await.unwrap();
    assert!(table(&snapshot, "t").size.heap_bytes > 0 && table(&snapshot, "t").size.index_bytes > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_queries_for_300_tables_as_for_3() {
    let server = Server::start();
    let mut counts = Vec::new();
    for tables in [3, 300] {
        let (_, client) = server.database().await;
        for number in 0..tables {
            let sql = format!(
                "CREATE TABLE t{number} (id serial PRIMARY KEY, a int CHECK (a > 0), b text UNIQUE);
                 CREATE VIEW v{number} AS SELECT a FROM t{number}"
            );
            client.batch_execute(&sql).await.unwrap();
        }
        let marker =
            format!("SET log_statement = 'all'; SET log_min_messages = log; SELECT 'start {tables}'");
        client.batch_execute(&marker).await.unwrap();
        let before = server.log().matches("LOG:").count();
        let started = std::time::Instant::now();
        let snapshot = load::snapshot(&client).await.unwrap();
        println!("{tables} tables: {:?}", started.elapsed());
        let whole = server.log().matches("LOG:").count() - before;
        assert_eq!(snapshot.tables.len(), tables);
        let names: Vec<QualifiedName> = snapshot.tables.into_keys().collect();
        let started = std::time::Instant::now();
        load::tables(&client, &names).await.unwrap();
        println!("  tables(): {:?}", started.elapsed());
        let named = server.log().matches("LOG:").count() - before - whole;
        counts.push((whole, named));
    }
    println!("{counts:?}");
    assert!(counts[0].0 > 10 && counts[0].0 < 40, "{counts:?}");
    assert_eq!(counts[0], counts[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotes_as_the_server_does() {
    let server = Server::start();
    let (_, client) = server.database().await;
    let rows = client
        .query("SELECT word FROM pg_get_keywords()", &[])
        .await
        .unwrap();
    let mut words: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let alphabet: Vec<char> = "ab_zZ09$.\"' \\-éßñ漢😀\t".chars().collect();
    // A fixed linear congruence is random enough and fails the same way twice.
    let mut state: u64 = 42;
    let mut next = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound
    };
    for _ in 0..500 {
        let length = 1 + next(12);
        words.push((0..length).map(|_| alphabet[next(alphabet.len())]).collect());
    }
    let rows = client
        .query(
            "SELECT w, quote_ident(w), quote_literal(w) FROM unnest($1::text[]) w",
            &[&words],
        )
        .await
        .unwrap();
    let major: i32 = client
        .query_one("SELECT current_setting('server_version_num')::int / 10000", &[])
        .await
        .unwrap()
        .get(0);
    for row in rows {
        let (word, quoted, literal): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        // Words that only other releases reserve are quoted everywhere; that reads back the same.
        let ours = sql::ident(&word);
        assert!(
            ours == quoted || (ours == format!("\"{word}\"") && quoted == word),
            "{ours} {quoted} {major}"
        );
        let value: String = client
            .query_one(&format!("SELECT {}", sql::literal(&word)), &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(
            (value, literal.trim_start().trim_start_matches('E').len()),
            (word.clone(), sql::literal(&word).trim_start_matches('E').len())
        );
    }
}

/// What only later releases can have.
#[tokio::test(flavor = "multi_thread")]
async fn reads_what_later_releases_brought() {
    let server = Server::start();
    let (_, client) = server.database().await;
    let major = load::snapshot(&client).await.unwrap().server.major();
    if major >= 15 {
        let sql = "CREATE TABLE nulls (a int UNIQUE NULLS NOT DISTINCT);
                   CREATE ROLE tuner; GRANT SET ON PARAMETER session_replication_role TO tuner; SET ROLE tuner";
        client.batch_execute(sql).await.unwrap();
        let snapshot = load::snapshot(&client).await.unwrap();
        assert!(snapshot.role.may_set_replication_role && !snapshot.role.superuser);
        assert!(table(&snapshot, "nulls").indexes["nulls_a_key"].nulls_not_distinct);
        client.batch_execute("RESET ROLE").await.unwrap();
    }
    if major >= 17 {
        let sql = "CREATE TABLE p (id int GENERATED BY DEFAULT AS IDENTITY, a int) PARTITION BY LIST (a);
                   CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)";
        client.batch_execute(sql).await.unwrap();
        let snapshot = load::snapshot(&client).await.unwrap();
        let identity = table(&snapshot, "p1")
            .column("id")
            .unwrap()
            .identity
            .as_ref()
            .unwrap();
        assert_eq!((identity.always, &identity.sequence), (false, &name("p_id_seq")));
    }
    if major >= 18 {
        let sql = "CREATE TABLE n (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a + 1) VIRTUAL,
                     CONSTRAINT loose CHECK (a > 0) NOT ENFORCED);
                   ALTER TABLE n ADD CONSTRAINT n_a NOT NULL a NOT VALID";
        client.batch_execute(sql).await.unwrap();
        let snapshot = load::snapshot(&client).await.unwrap();
        let n = table(&snapshot, "n");
        assert!(!n.column("b").unwrap().generated.as_ref().unwrap().stored);
        let not_null = n.column("a").unwrap().not_null_constraint.as_ref().unwrap();
        assert!(not_null.name == "n_a" && !not_null.validated);
        assert_eq!(n.constraints.len(), 2, "{:?}", n.constraints);
        assert_eq!(n.constraints["loose"].definition, "CHECK ((a > 0)) NOT ENFORCED");
        assert!(!n.constraints["loose"].validated);
        assert!(
            n.dependents
                .iter()
                .any(|d| d.kind == "generated column" && d.column.as_deref() == Some("a"))
        );
    }
}
