//! Where a backfill begins: the table's file and size, what its pages are like, and how far an earlier run came.

use super::controller::Pacer;
use crate::error::{Error, ErrorKind};
use crate::executor::Runner;
use crate::executor::ledger::{self, Cursor};
use crate::executor::session::Key;
use crate::plan::Backfill;

/// Pages that tell how many rows are on one.
const SAMPLE_PAGES: i64 = 16;

impl Runner {
    pub(super) async fn start_cursor(&self, key: Key<'_>, backfill: &Backfill) -> Result<Cursor, Error> {
        let recorded = ledger::cursor(&self.lock.client, key.run, key.step).await?;
        match recorded {
            Some(cursor) if self.same_file(backfill, &cursor).await? => Ok(cursor),
            _ => self.new_cursor(backfill).await,
        }
    }

    async fn file_and_pages(&self, backfill: &Backfill) -> Result<(u32, i64), Error> {
        let (session, _) = self.worker().await?;
        let sql = "SELECT pg_relation_filenode(r), \
                   (pg_relation_size(r) + s.block - 1) / s.block \
                   FROM to_regclass($1) AS r, (SELECT current_setting('block_size')::bigint AS block) s";
        let row = session
            .query_one(sql, &[&backfill.table.to_string()])
            .await
            .map_err(|error| Error::postgres(ErrorKind::StepFailed, "measuring the table", error))?;
        let file_node: Option<u32> = row.get(0);
        let missing = || Error::new(ErrorKind::StepFailed, format!("{} is gone", backfill.table));
        Ok((file_node.ok_or_else(missing)?, row.get(1)))
    }

    /// Looks at some pages in the middle, and how full pages are to be.
    pub(super) async fn pacer(&self, backfill: &Backfill, pages: i64) -> Result<Pacer, Error> {
        let (session, _) = self.worker().await?;
        let first = (pages - SAMPLE_PAGES).max(0) / 2;
        let end = (first + SAMPLE_PAGES).min(pages);
        let sql = format!(
            "SELECT (SELECT count(*) FROM ONLY {} WHERE ctid >= '({first},0)' AND ctid < '({end},0)'), \
             coalesce((SELECT o.option_value FROM pg_catalog.pg_options_to_table(c.reloptions) AS o \
             WHERE o.option_name = 'fillfactor')::bigint, 100) \
             FROM pg_catalog.pg_class c WHERE c.oid = to_regclass($1)",
            backfill.table
        );
        let row = session
            .query_one(&sql, &[&backfill.table.to_string()])
            .await
            .map_err(|error| Error::postgres(ErrorKind::StepFailed, "measuring the table", error))?;
        let rows: i64 = row.get(0);
        Ok(Pacer::new(rows / (end - first).max(1), row.get(1)))
    }

    pub(super) async fn new_cursor(&self, backfill: &Backfill) -> Result<Cursor, Error> {
        let (file_node, end_page) = self.file_and_pages(backfill).await?;
        Ok(Cursor {
            file_node,
            next_page: 0,
            end_page,
            deferred: Vec::new(),
            rows_done: 0,
            batches: 0,
        })
    }

    /// A rewritten table (VACUUM FULL, CLUSTER) has its rows on other pages.
    async fn same_file(&self, backfill: &Backfill, cursor: &Cursor) -> Result<bool, Error> {
        Ok(self.file_and_pages(backfill).await?.0 == cursor.file_node)
    }
}
