//! One batch as text, and what the server answers.

use super::controller::Updates;
use super::job::Job;
use super::slices::Visit;
use crate::sql::literal;
use std::time::Duration;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

/// What may hold a batch up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// How long it waits for a row that somebody holds before it is put aside.
    pub(super) lock_ms: u64,
    pub(super) statement_ms: u64,
}

/// One text: one round trip, one transaction, with the cursor if it moves. Only that one waits until it is on disk, and
/// with it all before it: what a crash of the server loses was not recorded as filled either. It also tells the file node, which changes
/// when the table is rewritten meanwhile, how many updates stayed on their page, and how long it took so far, with what
/// was deferred to its end: the way to the server is no part of that.
pub(super) fn sql(job: Job<'_>, visit: &Visit, bounds: Bounds, record: Option<&str>) -> String {
    let Bounds {
        lock_ms,
        statement_ms,
    } = bounds;
    let setting = job.setting().map(|setting| format!("{setting}; "));
    // A standby that is gone must not keep the rows locked.
    let end = record.map_or_else(
        || "SET LOCAL synchronous_commit = off".to_owned(),
        |record| format!("SET LOCAL synchronous_commit = local; {record}"),
    );
    format!(
        "BEGIN; SET LOCAL lock_timeout = '{lock_ms}ms'; \
         SET LOCAL statement_timeout = '{statement_ms}ms'; {}{}; \
         /* pgmorph ledger */ SET CONSTRAINTS ALL IMMEDIATE; SELECT pg_catalog.pg_relation_filenode(r), \
         pg_catalog.pg_stat_get_xact_tuples_updated(r), pg_catalog.pg_stat_get_xact_tuples_hot_updated(r), \
         (extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.now()) * 1000000)::pg_catalog.int8 \
         FROM pg_catalog.to_regclass({}) AS r; {end}; COMMIT",
        setting.unwrap_or_default(),
        job.statements(visit),
        literal(&job.table().to_string())
    )
}

/// What the server said to a batch that was committed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) rows: i64,
    pub(super) file_node: Option<u32>,
    /// The session's own count, which the server sets back to nothing now and then.
    pub(super) counted: Updates,
    /// From its beginning at the server on, the commit left out.
    pub(super) took: Duration,
}

pub(super) fn answer(job: Job<'_>, messages: &[SimpleQueryMessage]) -> Answer {
    let tags = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => i64::try_from(*rows).ok(),
        _ => None,
    });
    let locked = usize::from(job.locks_first());
    let row = rows(messages).nth(locked);
    let number = |column| row.and_then(|row| row.get(column)).unwrap_or_default();
    // BEGIN, SET, SET, [SET,] [SELECT,] UPDATE or INSERT.
    let before = 3 + usize::from(job.setting().is_some()) + locked;
    Answer {
        rows: tags.into_iter().nth(before).unwrap_or(0),
        file_node: number(0).parse().ok(),
        counted: Updates {
            rows: number(1).parse().unwrap_or(0),
            hot: number(2).parse().unwrap_or(0),
        },
        took: Duration::from_micros(number(3).parse().unwrap_or(0)),
    }
}

pub(super) fn first_row(messages: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    rows(messages).next()
}

fn rows(messages: &[SimpleQueryMessage]) -> impl Iterator<Item = &SimpleQueryRow> {
    messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// What a batch of so many rows added to the session's count; nothing where that cannot be told.
pub(super) fn added(before: Updates, now: Updates, rows: i64) -> Updates {
    if now.rows - before.rows == rows {
        let hot = now.hot - before.hot;
        Updates { rows, hot }
    } else if now.rows == rows {
        now
    } else {
        Updates::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Backfill, Copying, Limits};
    use crate::sql::QualifiedName;

    fn backfill(suppress_triggers: bool) -> Backfill {
        Backfill {
            table: QualifiedName::new("public", "orders"),
            set: "new = old".into(),
            needs: "new IS DISTINCT FROM old".into(),
            suppress_triggers,
            columns: vec!["new".into()],
            workers: 1,
            limits: Limits::default(),
        }
    }

    #[test]
    fn a_batch_is_one_bounded_transaction() {
        let visit = Visit::whole((5, 9));
        let bounds = Bounds {
            lock_ms: 100,
            statement_ms: 250,
        };
        insta::assert_snapshot!(sql(Job::Update(&backfill(true)), &visit, bounds, Some("INSERT")), @"BEGIN; SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '250ms'; SET LOCAL session_replication_role = replica; UPDATE ONLY public.orders SET new = old WHERE ctid >= '(5,0)' AND ctid < '(9,0)' AND (new IS DISTINCT FROM old); /* pgmorph ledger */ SET CONSTRAINTS ALL IMMEDIATE; SELECT pg_catalog.pg_relation_filenode(r), pg_catalog.pg_stat_get_xact_tuples_updated(r), pg_catalog.pg_stat_get_xact_tuples_hot_updated(r), (extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.now()) * 1000000)::pg_catalog.int8 FROM pg_catalog.to_regclass('public.orders') AS r; SET LOCAL synchronous_commit = local; INSERT; COMMIT");
    }

    #[test]
    fn copies_say_that_they_are_and_leave_what_is_there() {
        let copying = Copying {
            from: QualifiedName::new("old", "orders"),
            alias: "O".into(),
            into: QualifiedName::new("public", "orders"),
            insert: "INSERT INTO public.orders (id) SELECT \"O\".id FROM ONLY old.orders AS \"O\"".into(),
            needs: "\"O\".id > 0".into(),
            rest: "ON CONFLICT (id) DO NOTHING".into(),
            held: None,
            workers: 1,
            limits: Limits::default(),
        };
        let bounds = Bounds {
            lock_ms: 100,
            statement_ms: 250,
        };
        insta::assert_snapshot!(sql(Job::Copy(&copying), &Visit::whole((5, 9)), bounds, None), @r#"BEGIN; SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '250ms'; SET LOCAL pgmorph.sync = 'on'; INSERT INTO public.orders (id) SELECT "O".id FROM ONLY old.orders AS "O" WHERE "O".ctid >= '(5,0)' AND "O".ctid < '(9,0)' AND ("O".id > 0) ON CONFLICT (id) DO NOTHING; /* pgmorph ledger */ SET CONSTRAINTS ALL IMMEDIATE; SELECT pg_catalog.pg_relation_filenode(r), pg_catalog.pg_stat_get_xact_tuples_updated(r), pg_catalog.pg_stat_get_xact_tuples_hot_updated(r), (extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.now()) * 1000000)::pg_catalog.int8 FROM pg_catalog.to_regclass('old.orders') AS r; SET LOCAL synchronous_commit = off; COMMIT"#);
    }

    #[test]
    fn counts_survive_being_set_back() {
        let of = |rows, hot| Updates { rows, hot };
        assert_eq!(added(of(100, 40), of(150, 80), 50), of(50, 40));
        assert_eq!(added(of(100, 40), of(50, 10), 50), of(50, 10));
        assert_eq!(added(of(100, 40), of(100, 40), 0), of(0, 0));
        assert_eq!(added(of(0, 0), of(0, 0), 50), of(0, 0));
    }
}
