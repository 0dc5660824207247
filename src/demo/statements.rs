//! What the application says to the server.
//!
//! It is written as applications should be: every column is named, parameters are typed, and a request that is sent
//! twice has an idempotency key. One thing is done for the change's sake: `version` is always read as `version::bigint`.
//! A prepared statement that returned the column as it is would fail once after the cutover with SQLSTATE 0A000
//! (cached plan must not change result type), on every version of PostgreSQL and whoever changes the type; the plan
//! announces it as a hazard. Identifiers and times travel as text, so that no driver feature is needed.

use std::fmt;
use tokio_postgres::{Client, Statement};

/// One of the three tables, as the application knows it.
pub struct Known {
    pub name: &'static str,
    /// What pages and idempotency keys are scoped by: column and its value, made from a number.
    parent: (&'static str, &'static str),
    /// So many parents have rows.
    pub parents: i64,
    time: &'static str,
    /// Columns that an insert sets besides those, with their values.
    filled: (&'static str, &'static str),
    change: &'static str,
}

pub const TABLES: [Known; 3] = [
    Known {
        name: "forecast_snapshots",
        parent: ("fund_id", "$1::bigint::integer"),
        parents: 500,
        time: "snapshot_time",
        filled: ("name, fund_state", "'Forecast of the demo', '{\"nav\": 1}'"),
        change: "status = 'complete'",
    },
    Known {
        name: "investment_lots",
        parent: ("investment_id", "$1::bigint::integer"),
        parents: 2000,
        time: "created_at",
        filled: (
            "lot_type, share_price_cents, shares_acquired, cost_basis_cents",
            "'initial', 100, 10, 1000",
        ),
        change: "cost_basis_cents = cost_basis_cents + 1",
    },
    Known {
        name: "reserve_allocations",
        parent: ("snapshot_id", "md5($1::bigint::text)::uuid"),
        parents: 5000,
        time: "calculated_at",
        filled: ("company_id, planned_reserve_cents", "1, 1000"),
        change: "planned_reserve_cents = planned_reserve_cents + 1",
    },
];

/// What a statement is for; with the table, its name in the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Begin,
    Commit,
    Insert,
    Page,
    NextPage,
    ReadVersion,
    Update,
    Delete,
    Total,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Insert => "INSERT",
            Self::Page => "SELECT a page",
            Self::NextPage => "SELECT the next page",
            Self::ReadVersion => "SELECT version",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Total => "SELECT a total",
        })
    }
}

/// The statements on one table, prepared for a connection.
#[derive(Clone)]
pub struct Prepared {
    insert: Statement,
    page: Statement,
    next_page: Statement,
    read_version: Statement,
    update: Statement,
    delete: Statement,
    total: Statement,
}

impl Prepared {
    pub fn get(&self, kind: Kind) -> Option<&Statement> {
        match kind {
            Kind::Begin | Kind::Commit => None,
            Kind::Insert => Some(&self.insert),
            Kind::Page => Some(&self.page),
            Kind::NextPage => Some(&self.next_page),
            Kind::ReadVersion => Some(&self.read_version),
            Kind::Update => Some(&self.update),
            Kind::Delete => Some(&self.delete),
            Kind::Total => Some(&self.total),
        }
    }
}

impl Known {
    pub async fn prepare(&self, client: &Client) -> Result<Prepared, tokio_postgres::Error> {
        let Self {
            name, time, change, ..
        } = self;
        let (parent, value) = self.parent;
        let (columns, values) = self.filled;
        let page = format!("SELECT id::text, {time}::text FROM {name} WHERE {parent} = {value}");
        let order = format!("ORDER BY {time} DESC, id DESC LIMIT 20");
        let texts = [
            // $2: the key, or none. The same key again is the same request again, and changes nothing.
            format!(
                "INSERT INTO {name} ({parent}, idempotency_key, {columns}) VALUES ({value}, $2::text, {values}) \
                 ON CONFLICT DO NOTHING RETURNING id::text, version::bigint"
            ),
            format!("{page} {order}"),
            // $2, $3: the last row of the page before.
            format!("{page} AND ({time}, id) < ($2::text::timestamptz, $3::text::uuid) {order}"),
            format!("SELECT version::bigint FROM {name} WHERE id = $1::text::uuid"),
            // $2: the version that was read; when somebody else was faster, no row.
            format!(
                "UPDATE {name} SET version = version + 1, {change} WHERE id = $1::text::uuid AND version = $2::bigint \
                 RETURNING version::bigint"
            ),
            format!("DELETE FROM {name} WHERE id = $1::text::uuid RETURNING version::bigint"),
            format!("SELECT count(*), max({time})::text FROM {name} WHERE {parent} = {value}"),
        ];
        let [insert, page, next_page, read_version, update, delete, total] = texts;
        Ok(Prepared {
            insert: client.prepare(&insert).await?,
            page: client.prepare(&page).await?,
            next_page: client.prepare(&next_page).await?,
            read_version: client.prepare(&read_version).await?,
            update: client.prepare(&update).await?,
            delete: client.prepare(&delete).await?,
            total: client.prepare(&total).await?,
        })
    }
}
