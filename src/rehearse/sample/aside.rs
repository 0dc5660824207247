//! What would refuse rows that are there in the live database, or change them: put aside while they are copied.

use crate::sql::{QualifiedName, ident};
use tokio_postgres::{Client, Error};

/// Checks that were never validated: rows that break them may be there.
const CONSTRAINTS: &str = "SELECT n.nspname, c.relname, con.conname, pg_catalog.pg_get_constraintdef(con.oid) \
     FROM pg_catalog.pg_constraint AS con JOIN pg_catalog.pg_class AS c ON c.oid = con.conrelid \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE con.contype IN ('c', 'n') AND NOT con.convalidated AND con.coninhcount = 0 AND c.oid >= 16384 ORDER BY con.oid";

/// Triggers that fire for replicas, too.
const TRIGGERS: &str = "SELECT n.nspname, c.relname, t.tgname, t.tgenabled = 'A' \
     FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND c.relkind IN ('r', 'p') AND c.oid >= 16384 ORDER BY t.oid";

pub struct Aside {
    restore: Vec<String>,
}

impl Aside {
    pub async fn put(here: &Client) -> Result<Self, Error> {
        let (mut put, mut restore) = (Vec::new(), Vec::new());
        for row in here.query(CONSTRAINTS, &[]).await? {
            let table = QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            let (name, definition) = (ident(row.get(2)), row.get::<_, String>(3));
            put.push(format!("ALTER TABLE {table} DROP CONSTRAINT {name}"));
            restore.push(format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"));
        }
        for row in here.query(TRIGGERS, &[]).await? {
            let table = QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            let (name, always) = (ident(row.get(2)), row.get(3));
            let kind = if always { "ALWAYS" } else { "REPLICA" };
            put.push(format!("ALTER TABLE ONLY {table} DISABLE TRIGGER {name}"));
            restore.push(format!("ALTER TABLE ONLY {table} ENABLE {kind} TRIGGER {name}"));
        }
        for sql in &put {
            here.batch_execute(sql).await?;
        }
        Ok(Self { restore })
    }

    pub async fn restore(self, here: &Client) -> Result<(), Error> {
        for sql in &self.restore {
            here.batch_execute(sql).await?;
        }
        Ok(())
    }
}
