//! Tables and columns that get other names while applications write under the old and under the new one, and tables
//! that are retired.

use crate::harness::{Database, PATIENCE, TestServer, pgmorph, schema_dump};
use pgmorph::error::ErrorKind;
use pgmorph::plan::Phase;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

const ORDERS: &str = "
CREATE TABLE customers (id bigint PRIMARY KEY);
CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  code text UNIQUE,
  customer_id bigint NOT NULL DEFAULT 1 REFERENCES customers,
  status text NOT NULL DEFAULT 'new',
  version bigint NOT NULL DEFAULT 0
);
CREATE TABLE lines (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id bigint REFERENCES orders ON DELETE CASCADE);
INSERT INTO customers VALUES (1);
";

const RENAME_TABLE: &str = "
name: r
changes:
  - rename_table: {table: orders, to: purchases}
";

const RENAME_COLUMN: &str = "
name: r
changes:
  - rename_column: {table: orders, column: status, to: state}
";

const RETIRE: &str = "
name: r
changes:
  - retire_table: {table: orders, view: 'SELECT id, code, status, version FROM _deprecated_orders'}
";

/// Under which names a clerk knows the table and its column.
#[derive(Clone, Copy)]
struct Names {
    table: &'static str,
    column: &'static str,
}

const OLD: Names = Names {
    table: "orders",
    column: "status",
};

/// Versions by id.
type Account = BTreeMap<i64, i64>;

/// Writes rows of its own, keeps their ids and versions, and never forgives a failure.
struct Clerk {
    client: Client,
    names: Names,
    number: i64,
    account: Account,
    turns: u64,
    slowest: Duration,
    complaints: Vec<String>,
    /// Whether its statements are prepared once, as connection pools do, or each time.
    prepared: Option<BTreeMap<String, tokio_postgres::Statement>>,
}

impl Clerk {
    async fn ask(&mut self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        let sql = sql
            .replace("{t}", self.names.table)
            .replace("{c}", self.names.column);
        let began = Instant::now();
        let known = self.prepared.as_ref().and_then(|known| known.get(&sql).cloned());
        let answer = match (known, &mut self.prepared) {
            (Some(statement), _) => self.client.query(&statement, values).await,
            (None, None) => self.client.query(&sql, values).await,
            (None, Some(known)) => match self.client.prepare(&sql).await {
                Ok(statement) => {
                    known.insert(sql.clone(), statement.clone());
                    self.client.query(&statement, values).await
                }
                Err(error) => Err(error),
            },
        };
        self.slowest = self.slowest.max(began.elapsed());
        answer.unwrap_or_else(|error| {
            self.complaints.push(format!("{error:?}: {sql}"));
            Vec::new()
        })
    }

    /// The answer must be one row with this version; `None` is any.
    fn note(&mut self, rows: &[Row], version: Option<i64>) {
        let [row] = rows else {
            return self
                .complaints
                .push(format!("{} rows instead of one", rows.len()));
        };
        let (id, found): (i64, i64) = (row.get(0), row.get(1));
        if version.is_some_and(|version| version != found) {
            self.complaints
                .push(format!("row {id} has version {found}, not {version:?}"));
        }
        self.account.insert(id, found);
    }

    async fn turn(&mut self) {
        self.turns += 1;
        let code = format!("{}-{}", self.number, self.turns / 9);
        let some = self
            .account
            .iter()
            .nth(usize::try_from(self.turns * 7).unwrap() % self.account.len().max(1));
        let some = some.map(|(id, version)| (*id, *version));
        match (self.turns % 6, some) {
            (1, _) | (_, None) => {
                let sql = "INSERT INTO {t} ({c}) VALUES ('fresh') RETURNING id, version, {c}";
                let rows = self.ask(sql, &[]).await;
                self.note(&rows, Some(0));
            }
            (2, _) => {
                let sql = "INSERT INTO {t} (code, {c}) VALUES ($1, 'met') ON CONFLICT (code) DO UPDATE \
                           SET version = {t}.version + 1, {c} = excluded.{c} RETURNING id, version";
                let rows = self.ask(sql, &[&code]).await;
                self.note(&rows, None);
            }
            (3, Some((id, _))) => {
                let rows = self
                    .ask("DELETE FROM {t} WHERE id = $1 RETURNING id, version", &[&id])
                    .await;
                self.account.remove(&id);
                if rows.len() != 1 {
                    self.complaints
                        .push(format!("row {id} was not there to be deleted"));
                }
            }
            (4, Some((id, version))) => self.under_lock(id, version).await,
            (_, Some((id, version))) => {
                let sql = "UPDATE {t} SET version = version + 1, {c} = 'v' || version WHERE id = $1 AND {c} <> '' \
                           RETURNING id, version";
                let rows = self.ask(sql, &[&id]).await;
                self.note(&rows, Some(version + 1));
            }
        }
    }

    async fn under_lock(&mut self, id: i64, version: i64) {
        self.ask("BEGIN", &[]).await;
        let rows = self
            .ask("SELECT id, version FROM {t} WHERE id = $1 FOR UPDATE", &[&id])
            .await;
        self.note(&rows, Some(version));
        let sql = "UPDATE {t} SET version = version + 1 WHERE id = $1 RETURNING id, version";
        let rows = self.ask(sql, &[&id]).await;
        self.note(&rows, Some(version + 1));
        self.ask("COMMIT", &[]).await;
    }
}

/// Two clerks at work: one prepares its statements once, the other each time.
struct Office {
    stop: watch::Sender<bool>,
    turns: watch::Receiver<u64>,
    clerks: Vec<JoinHandle<Clerk>>,
}

impl Office {
    async fn open(database: &Database<'_>, names: Names, number: i64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (counter, turns) = watch::channel(0);
        let mut clerks = Vec::new();
        for which in 0..2 {
            let mut clerk = Clerk {
                client: database.server.connect(&database.name).await,
                names,
                number: number + which,
                account: Account::new(),
                turns: 0,
                slowest: Duration::ZERO,
                complaints: Vec::new(),
                prepared: (which == 0).then(BTreeMap::new),
            };
            let (stopped, counter) = (stopped.clone(), counter.clone());
            clerks.push(tokio::spawn(async move {
                while !*stopped.borrow() {
                    clerk.turn().await;
                    counter.send_modify(|count| *count += 1);
                }
                clerk
            }));
        }
        Self { stop, turns, clerks }
    }

    async fn go_on(&self) {
        let mut turns = self.turns.clone();
        let goal = *turns.borrow() + 120;
        let reached = tokio::time::timeout(PATIENCE, turns.wait_for(|turns| *turns >= goal)).await;
        assert!(
            reached.is_ok_and(|reached| reached.is_ok()),
            "the clerks stand still"
        );
    }

    /// What was acknowledged.
    async fn close(self) -> Account {
        self.stop.send_replace(true);
        let mut account = Account::new();
        for clerk in self.clerks {
            let clerk = clerk.await.unwrap();
            let shown: Vec<_> = clerk.complaints.iter().take(5).collect();
            assert!(
                shown.is_empty(),
                "{} complaints: {shown:#?}",
                clerk.complaints.len()
            );
            eprintln!(
                "{}.{}: {} turns, slowest statement {:?}",
                clerk.names.table, clerk.names.column, clerk.turns, clerk.slowest
            );
            account.extend(clerk.account);
        }
        account
    }
}

async fn rows(database: &Database<'_>, table: &str) -> Account {
    let sql = format!("SELECT id, version FROM {table}");
    let rows = database.admin.query(&sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Before, between and after, with clerks under the old name until contract and under the new one from cutover on; and
/// back from the cutover several times.
async fn both_names(source: &str, new: Names) {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let before = schema_dump(&database).await;
    let old = Office::open(&database, OLD, 10).await;
    old.go_on().await;
    for _ in 0..4 {
        let plan = database.planned(source).await;
        database.apply(&plan, Phase::Cutover).await.unwrap();
        old.go_on().await;
        database.rollback(&plan).await.unwrap();
        old.go_on().await;
        assert_eq!(schema_dump(&database).await, before);
    }
    let plan = database.planned(source).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    let young = Office::open(&database, new, 20).await;
    young.go_on().await;
    old.go_on().await;
    let mut account = old.close().await;
    database.apply(&plan, Phase::Contract).await.unwrap();
    young.go_on().await;
    account.extend(young.close().await);
    assert_eq!(rows(&database, new.table).await, account);
    assert_eq!(database.differences(&plan.after, &plan.before).await, [""; 0]);
    assert_eq!(database.leftovers().await, [""; 0]);
    // All the way back, from after the contract.
    database.rollback(&plan).await.unwrap();
    assert_eq!(schema_dump(&database).await, before);
    assert_eq!(rows(&database, "orders").await, account);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_written_under_both_names() {
    let new = Names {
        table: "purchases",
        column: "status",
    };
    both_names(RENAME_TABLE, new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_is_written_under_both_names() {
    let new = Names {
        table: "orders",
        column: "state",
    };
    both_names(RENAME_COLUMN, new).await;
}

/// A plan file for the program.
fn file(source: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), source).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_table_is_dropped_after_its_time_only() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    database.admin.batch_execute("DROP TABLE lines").await.unwrap();
    let (source, url) = (file(RETIRE), server.url(&database.name, "postgres"));
    let path = source.path().to_str().unwrap();
    let plan = pgmorph(&url, &["plan", path]).await.expect(0);
    assert!(
        plan.stdout
            .contains("refused until 30d after 01-retire_table-rename"),
        "{}",
        plan.stdout
    );
    pgmorph(&url, &["apply", path, "--yes"]).await.expect(0);

    let early = pgmorph(&url, &["apply", path, "--yes", "--through", "contract"])
        .await
        .expect(3);
    for words in [
        "drop public._deprecated_orders: allowed from 2",
        "the safety period of 30d began 2",
        "nothing of contract was changed",
    ] {
        assert!(early.stderr.contains(words), "{words}: {}", early.stderr);
    }
    let status = pgmorph(&url, &["status", path]).await.expect(0);
    assert!(status.stdout.contains("allowed from 2"), "{}", status.stdout);
    let verified = pgmorph(&url, &["verify", path, "--through", "cutover"])
        .await
        .expect(0);
    assert!(verified.stdout.contains("allowed from 2"), "{}", verified.stdout);
    let sql = "INSERT INTO orders (code, status) VALUES ('kept', 'late'); SELECT 1 FROM _deprecated_orders";
    database.admin.batch_execute(sql).await.unwrap();

    // What came to depend on it is named, before anything is dropped.
    let sql = "CREATE TABLE late (order_id bigint REFERENCES _deprecated_orders); \
               CREATE VIEW over_the_view AS SELECT id FROM orders; CREATE VIEW over_the_table AS SELECT id FROM _deprecated_orders";
    database.admin.batch_execute(sql).await.unwrap();
    database.time_passes().await;
    let used = pgmorph(&url, &["apply", path, "--yes", "--through", "contract"])
        .await
        .expect(6);
    for words in [
        "constraint late_order_id_fkey on table late",
        "view over_the_view",
        "view over_the_table",
    ] {
        assert!(used.stderr.contains(words), "{words}: {}", used.stderr);
    }
    assert_eq!(rows(&database, "orders").await.len(), 1);
    let sql = "DROP TABLE late; DROP VIEW over_the_view, over_the_table";
    database.admin.batch_execute(sql).await.unwrap();
    pgmorph(&url, &["apply", path, "--yes", "--through", "contract"])
        .await
        .expect(0);
    pgmorph(&url, &["verify", path]).await.expect(0);
    let left = "SELECT count(*) FROM pg_class WHERE relname ~ 'orders'";
    assert_eq!(
        database
            .admin
            .query_one(left, &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        0
    );
}

/// Rows that were written through the view, or to the table under its new name, are there when it gets its name back.
#[tokio::test(flavor = "multi_thread")]
async fn a_retired_table_comes_back_with_what_was_written_meanwhile() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let before = schema_dump(&database).await;
    let plan = database.planned(RETIRE).await;
    let clerks = Office::open(&database, OLD, 10).await;
    clerks.go_on().await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    clerks.go_on().await;
    let sql = "INSERT INTO _deprecated_orders (code, version) VALUES ('aside', 77) RETURNING id";
    let aside: i64 = database.admin.query_one(sql, &[]).await.unwrap().get(0);
    let early = database.apply(&plan, Phase::Contract).await.unwrap_err();
    assert_eq!(early.kind, ErrorKind::Precondition, "{early:?}");
    database.rollback(&plan).await.unwrap();
    clerks.go_on().await;
    let mut account = clerks.close().await;
    account.insert(aside, 77);
    assert_eq!(rows(&database, "orders").await, account);
    assert_eq!(schema_dump(&database).await, before);
}

/// On the way the promises of earlier changes about the old name count no more.
#[tokio::test(flavor = "multi_thread")]
async fn verify_knows_the_table_by_the_name_that_it_has_now() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let source = file(
        "name: v\nchanges:\n  - set_default: {table: orders, column: status, default: \"'fresh'\"}\n  \
         - rename_table: {table: orders, to: purchases}\n  - rename_column: {table: lines, column: order_id, to: purchase_id}\n",
    );
    let (path, url) = (
        source.path().to_str().unwrap(),
        server.url(&database.name, "postgres"),
    );
    for through in ["expand", "cutover", "contract"] {
        pgmorph(&url, &["apply", path, "--yes", "--through", through])
            .await
            .expect(0);
        pgmorph(&url, &["verify", path, "--through", through])
            .await
            .expect(0);
    }
    let sql = "INSERT INTO purchases DEFAULT VALUES RETURNING status";
    let status: String = database.admin.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(status, "fresh");
    pgmorph(&url, &["rollback", path, "--yes"]).await.expect(0);
    pgmorph(&url, &["verify", path]).await.expect(0);
}

/// A view that somebody built on the old name keeps it, and is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_in_use_is_not_dropped() {
    let server = TestServer::start(&[]);
    for source in [RENAME_TABLE, RENAME_COLUMN] {
        let database = Database::create(&server, ORDERS).await;
        let plan = database.planned(source).await;
        database.apply(&plan, Phase::Cutover).await.unwrap();
        let sql = "CREATE VIEW report AS SELECT status FROM orders";
        database.admin.batch_execute(sql).await.unwrap();
        let error = database.apply(&plan, Phase::Contract).await.unwrap_err();
        assert!(error.details.join(" ").contains("view report"), "{error:?}");
        database.admin.batch_execute("DROP VIEW report").await.unwrap();
        database.apply(&plan, Phase::Contract).await.unwrap();
    }
}

/// Through the view everybody has the rights, and sees the rows, that he has on the table.
#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_whoever_uses_the_view_count() {
    let server = TestServer::start(&[]);
    if server.major() < 15 {
        return;
    }
    let postgres = server.connect("postgres").await;
    postgres
        .batch_execute("CREATE ROLE clerk LOGIN; CREATE ROLE stranger LOGIN")
        .await
        .unwrap();
    let setup = "
        CREATE TABLE orders (id bigint PRIMARY KEY, whose text DEFAULT current_user, status text, secret text);
        ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON orders USING (whose = current_user);
        GRANT SELECT, DELETE ON orders TO clerk;
        GRANT INSERT (id, status), UPDATE (status) ON orders TO clerk;
        INSERT INTO orders VALUES (1, 'clerk', 'new'), (2, 'stranger', 'new');
    ";
    for (source, old, new) in [
        (RENAME_TABLE, ["orders", "status"], ["purchases", "status"]),
        (RENAME_COLUMN, ["orders", "status"], ["orders", "state"]),
    ] {
        let database = Database::create(&server, setup).await;
        let plan = database.planned(source).await;
        database.apply(&plan, Phase::Cutover).await.unwrap();
        let clerk = server.connect_as(&database.name, "clerk").await;
        for ([table, column], id) in [(old, 10), (new, 20)] {
            let insert = format!("INSERT INTO {table} (id, {column}) VALUES ({id}, 'x')");
            clerk.batch_execute(&insert).await.unwrap();
            let update = format!("UPDATE {table} SET {column} = 'y' RETURNING id");
            assert!(
                clerk
                    .query(&update, &[])
                    .await
                    .unwrap()
                    .iter()
                    .all(|row| row.get::<_, i64>(0) != 2)
            );
            let delete = format!("DELETE FROM {table} WHERE id IN (2, {id})");
            assert_eq!(clerk.execute(&delete, &[]).await.unwrap(), 1);
            let refused = format!("UPDATE {table} SET secret = 'mine'");
            let error = clerk.batch_execute(&refused).await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), "42501", "{refused}");
        }
        let stranger = server.connect_as(&database.name, "stranger").await;
        for [table, _] in [old, new] {
            let error = stranger
                .batch_execute(&format!("SELECT FROM {table}"))
                .await
                .unwrap_err();
            assert_eq!(error.code().unwrap().code(), "42501");
        }
        database.drop().await;
    }
}
