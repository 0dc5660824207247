//! Where a backfill begins: the table's file and size, what its pages are like, and how far an earlier run came.

use super::controller::Pacer;
use super::{Job, ROW_LOCK_TIMEOUT_MS, batch, leaving};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::executor::Runner;
use crate::executor::ledger::{self, Cursor};
use crate::executor::retry::{Reaction, reaction};
use crate::executor::session::{Key, Tries, WATCH_BRIEF};
use crate::plan::Backfill;
use crate::sql::literal;

/// Pages that tell how many rows are on one.
const SAMPLE_PAGES: i64 = 16;

impl Runner {
    pub(super) async fn start_cursor(&self, key: Key<'_>, job: Job<'_>) -> Result<Cursor, Error> {
        let recorded = ledger::cursor(&self.lock.client, key.run, key.step).await?;
        match recorded {
            // A rewritten table (VACUUM FULL, CLUSTER) has its rows on other pages.
            Some(cursor) if cursor.file_node == self.file_and_pages(key, job).await?.0 => Ok(cursor),
            _ => self.new_cursor(key, job).await,
        }
    }

    pub(super) async fn new_cursor(&self, key: Key<'_>, job: Job<'_>) -> Result<Cursor, Error> {
        let (file_node, end_page) = self.file_and_pages(key, job).await?;
        Ok(Cursor {
            file_node,
            next_page: 0,
            end_page,
            deferred: Vec::new(),
            rows_done: 0,
            batches: 0,
        })
    }

    async fn file_and_pages(&self, key: Key<'_>, job: Job<'_>) -> Result<(u32, i64), Error> {
        let sql = format!(
            "SELECT pg_catalog.pg_relation_filenode(r), \
             (pg_catalog.pg_relation_size(r) + s.block - 1) / s.block FROM pg_catalog.to_regclass({}) AS r, \
             (SELECT pg_catalog.current_setting('block_size')::pg_catalog.int8 AS block) AS s",
            literal(&job.table().to_string())
        );
        let row = self.ask(key, job, &sql).await?;
        match (row.0.and_then(|node| node.parse().ok()), row.1) {
            (Some(file_node), Some(pages)) => Ok((file_node, pages)),
            _ => Err(Error::new(
                ErrorKind::StepFailed,
                format!("{} is gone", job.table()),
            )),
        }
    }

    /// An index, ours or not, that must get an entry for every row that is filled, if there is one. From PostgreSQL 16 on
    /// a BRIN index lets updates stay on their pages.
    pub(super) async fn index_in_the_way(
        &self,
        key: Key<'_>,
        backfill: &Backfill,
    ) -> Result<Option<String>, Error> {
        let columns: Vec<String> = backfill.columns.iter().map(|column| literal(column)).collect();
        let sql = format!(
            "SELECT min(i.indexrelid::pg_catalog.regclass::pg_catalog.text), NULL \
             FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_am AS m ON m.oid = c.relam \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attname = ANY (ARRAY[{}]) \
             WHERE i.indrelid = pg_catalog.to_regclass({}) AND i.indislive \
              AND NOT (m.amname = 'brin' AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 160000) \
              AND (a.attnum = ANY (i.indkey) OR EXISTS (SELECT FROM pg_catalog.pg_depend AS d \
               WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = i.indexrelid \
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = i.indrelid \
                AND d.refobjsubid = a.attnum))",
            columns.join(", "),
            literal(&backfill.table.to_string())
        );
        Ok(self.ask(key, Job::Update(backfill), &sql).await?.0)
    }

    /// Looks at some pages in the middle, and how full pages are to be.
    pub(super) async fn pacer(&self, key: Key<'_>, job: Job<'_>, pages: i64) -> Result<Pacer, Error> {
        let index = match job {
            Job::Update(backfill) => self.index_in_the_way(key, backfill).await?,
            Job::Copy(_) => None,
        };
        if let Some(index) = &index {
            self.tell(Event::Noted {
                step: key.step.into(),
                what: leaving(&format!("index {index} covers what is filled")),
            });
        }
        let first = (pages - SAMPLE_PAGES).max(0) / 2;
        let end = (first + SAMPLE_PAGES).min(pages);
        let sql = format!(
            "SELECT (SELECT o.option_value FROM pg_catalog.pg_options_to_table(c.reloptions) AS o \
             WHERE o.option_name = 'fillfactor'), \
             (SELECT pg_catalog.count(*) FROM ONLY {} WHERE ctid >= '({first},0)' AND ctid < '({end},0)') \
             FROM pg_catalog.pg_class AS c WHERE c.oid = pg_catalog.to_regclass({})",
            job.table(),
            literal(&job.table().to_string())
        );
        let (fillfactor, rows) = self.ask(key, job, &sql).await?;
        let fillfactor = fillfactor.and_then(|text| text.parse().ok()).unwrap_or(100);
        Ok(Pacer::new(
            rows.unwrap_or(0) / (end - first).max(1),
            fillfactor,
            index.is_some() || !job.updates(),
        ))
    }

    /// A row of two about the table, as soon as nobody has it locked for himself.
    async fn ask(
        &self,
        key: Key<'_>,
        job: Job<'_>,
        sql: &str,
    ) -> Result<(Option<String>, Option<i64>), Error> {
        let mut tries = Tries::new(self.deadline);
        loop {
            let (session, pid) = self.worker().await?;
            let text =
                format!("BEGIN READ ONLY; SET LOCAL lock_timeout = '{ROW_LOCK_TIMEOUT_MS}ms'; {sql}; COMMIT");
            let mut blockers = Vec::new();
            let sent = session.simple_query(&text);
            let error = match self.watch(key, pid, WATCH_BRIEF, sent, &mut blockers).await {
                Ok(messages) => {
                    let row = batch::first_row(&messages);
                    let text = |column| row.and_then(|row| row.get(column));
                    let number = text(1).and_then(|text| text.parse().ok());
                    return Ok((text(0).map(str::to_owned), number));
                }
                Err(error) => error,
            };
            let error = Error::postgres(ErrorKind::StepFailed, "measuring the table", error);
            let code = error.sqlstate.clone();
            if error.kind == ErrorKind::Connection || reaction(code.as_deref()) != Reaction::Contention {
                return Err(error);
            }
            // The pool rolls back what is given back.
            drop(session);
            let what = format!("measuring {}: it stays locked by others", job.table());
            self.wait_with_nothing_held(key, &mut tries, &what, &blockers)
                .await?;
        }
    }
}
