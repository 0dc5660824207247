//! Who holds what, seen from an observing session.

use super::blocked::Candidate;
use super::stall::Wait;
use crate::error::{Error, ErrorKind};
use crate::event::Blocker;
use crate::plan::{Lock, LockMode};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

/// `pgmorph` in ASCII: the advisory lock that one runner per database holds.
pub const RUN_LOCK: i64 = 0x0070_676d_6f72_7068;

/// Each working session shares this one, for as long as it lives. Who takes the run lock waits until nobody has it any
/// more: a session of a runner that was killed may still be committing what the next one is about to do again.
pub(super) const WORKERS_LOCK: i64 = RUN_LOCK + 1;

/// Columns of a [`Blocker`] from `pg_locks l`, `pg_stat_activity a` and `pg_prepared_xacts p`. The age is
/// that of the transaction or, without one, of the session. Sessions of others hide their times from unprivileged roles;
/// then the age is unknown.
const COLUMNS: &str = "\
    l.pid, coalesce(a.usename, p.owner, '?')::text AS usename, coalesce(a.application_name, '') AS application, \
    coalesce(a.client_addr::text, 'local') AS client, \
    CASE WHEN l.pid IS NULL THEN 'prepared transaction' \
         WHEN a.backend_type <> 'client backend' THEN a.backend_type ELSE coalesce(a.state, 'unknown') END AS state, \
    coalesce(l.mode, '') AS mode, coalesce(l.virtualtransaction, '') AS virtualtransaction, \
    (extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared, a.backend_start)) * 1000)::bigint AS age_ms, \
    coalesce(a.backend_type = 'autovacuum worker', false) AS autovacuum, \
    coalesce(a.query LIKE '%(to prevent wraparound)', false) AS wraparound";

/// A prepared transaction keeps the virtual id of the session that prepared it, so only its locks tell which one it is.
const JOINS: &str = "\
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
    LEFT JOIN pg_catalog.pg_prepared_xacts p ON l.pid IS NULL AND EXISTS (SELECT FROM pg_catalog.pg_locks x \
      WHERE x.pid IS NULL AND x.virtualtransaction = l.virtualtransaction AND x.transactionid = p.transaction)";

/// A lock that somebody else has on one of our relations.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) blocker: Blocker,
    pub(super) age_ms: Option<u64>,
    /// Which of the session's transactions it is: its virtual id.
    pub(super) transaction: String,
    pub(super) autovacuum: bool,
    /// An autovacuum that prevents transaction id wraparound is never disturbed.
    pub(super) wraparound: bool,
}

fn holder(row: &Row) -> Holder {
    let age_ms = row
        .get::<_, Option<i64>>("age_ms")
        .and_then(|age| u64::try_from(age).ok());
    Holder {
        blocker: Blocker {
            pid: row.get("pid"),
            user: row.get("usename"),
            application: row.get("application"),
            client: row.get("client"),
            state: row.get("state"),
            mode: row.get("mode"),
            relation: row.get("relation"),
            age_ms: age_ms.unwrap_or(0),
        },
        age_ms,
        transaction: row.get("virtualtransaction"),
        autovacuum: row.get("autovacuum"),
        wraparound: row.get("wraparound"),
    }
}

/// Locks on the relations that conflict with the wanted ones, held by anybody else.
pub(super) async fn conflicting_holders(
    observer: &impl GenericClient,
    wanted: &[Lock],
) -> Result<Vec<Holder>, Error> {
    let names: Vec<String> = wanted.iter().map(|lock| lock.relation.to_string()).collect();
    let sql = format!(
        "SELECT {COLUMNS}, n.name AS relation FROM unnest($1::text[]) AS n (name) \
         JOIN pg_catalog.pg_locks l ON l.relation = to_regclass(n.name) AND l.locktype = 'relation' AND l.granted \
          AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) {JOINS} \
         WHERE l.pid IS DISTINCT FROM pg_backend_pid() ORDER BY age_ms DESC NULLS FIRST, l.pid"
    );
    let rows = observer
        .query_typed(&sql, &[(&names, Type::TEXT_ARRAY)])
        .await
        .map_err(|error| Error::postgres(ErrorKind::StepFailed, "looking for conflicting locks", error))?;
    let conflicts = |holder: &Holder| {
        let held = LockMode::ALL
            .into_iter()
            .find(|mode| mode.pg_locks_name() == holder.blocker.mode);
        let wanted = wanted
            .iter()
            .find(|lock| lock.relation.to_string() == holder.blocker.relation);
        matches!((held, wanted), (Some(held), Some(wanted)) if held.conflicts_with(wanted.mode))
    };
    Ok(rows.iter().map(holder).filter(conflicts).collect())
}

/// Who keeps this session of ours waiting at this moment.
pub(super) async fn blockers_of(observer: &impl GenericClient, pid: i32) -> Result<Vec<Blocker>, Error> {
    let sql = format!(
        "SELECT DISTINCT ON (b.pid) {COLUMNS}, coalesce(w.relation::regclass::text, '') AS relation \
         FROM unnest(pg_blocking_pids($1)) AS b (pid) \
         LEFT JOIN LATERAL (SELECT * FROM pg_catalog.pg_locks WHERE pid = $1 AND NOT granted LIMIT 1) w ON true \
         LEFT JOIN pg_catalog.pg_locks l ON l.pid IS NOT DISTINCT FROM nullif(b.pid, 0) AND l.granted \
          AND l.relation IS NOT DISTINCT FROM w.relation AND l.locktype = w.locktype \
          AND l.transactionid IS NOT DISTINCT FROM w.transactionid {JOINS} \
         ORDER BY b.pid, l.mode"
    );
    let rows = observer
        .query_typed(&sql, &[(&pid, Type::INT4)])
        .await
        .map_err(|error| Error::postgres(ErrorKind::StepFailed, "asking who blocks", error))?;
    Ok(rows.iter().map(|row| holder(row).blocker).collect())
}

/// Sessions of clients that wait behind this one of ours: for it, or for others that do. An attempt begins so long ago;
/// what they waited before is none of its doing. One round trip, for it is asked often.
pub(super) async fn behind(
    observer: &impl GenericClient,
    pid: i32,
    attempt_ms: i64,
) -> Result<Vec<Wait>, tokio_postgres::Error> {
    let sql = "WITH RECURSIVE waiting AS MATERIALIZED \
                (SELECT l.pid, l.waitstart, pg_catalog.pg_blocking_pids(l.pid) AS blockers \
                 FROM pg_catalog.pg_locks l WHERE NOT l.granted AND l.pid <> $1), \
               behind AS (SELECT w.pid FROM waiting w WHERE $1 = ANY (w.blockers) \
                UNION SELECT w.pid FROM waiting w JOIN behind b ON b.pid = ANY (w.blockers)) \
               SELECT w.pid, coalesce((extract(epoch FROM w.waitstart) * 1000000)::bigint, 0) AS since, \
                greatest(0, least($2, coalesce( \
                 (extract(epoch FROM clock_timestamp() - w.waitstart) * 1000)::bigint, 0))) AS waited_ms, \
                coalesce(a.application_name, '') AS application \
               FROM behind JOIN waiting w USING (pid) JOIN pg_catalog.pg_stat_activity a USING (pid) \
               WHERE coalesce(a.backend_type, 'client backend') = 'client backend' AND a.usesysid IS NOT NULL \
                AND a.application_name NOT LIKE 'pgmorph%'";
    let rows = observer
        .query_typed(sql, &[(&pid, Type::INT4), (&attempt_ms, Type::INT8)])
        .await?;
    let wait = |row: &Row| Wait {
        pid: row.get("pid"),
        since: row.get("since"),
        waited_ms: u64::try_from(row.get::<_, i64>("waited_ms")).unwrap_or(0),
        application: row.get("application"),
    };
    Ok(rows.iter().map(wait).collect())
}

/// What decides whether this session may be cancelled or ended; `None` when it is gone. Whether it has written is asked
/// of `pg_locks`, which hides nothing.
pub(super) async fn candidate(observer: &impl GenericClient, pid: i32) -> Result<Option<Candidate>, Error> {
    let sql = "SELECT coalesce(a.usename, '?')::text AS usename, current_user::text AS role, \
                coalesce(r.rolsuper, false) AS superuser, \
                a.application_name LIKE 'pgmorph%' OR EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid \
                 AND l.locktype = 'advisory' AND (l.classid::bigint << 32 | l.objid::bigint) IN ($2, $3)) AS ours, \
                a.backend_type, a.state, \
                (extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::bigint AS age_ms, \
                (extract(epoch FROM a.xact_start) * 1000000)::bigint AS began, \
                EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.granted \
                 AND l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock') AS written, \
                a.usesysid IS NOT NULL AND (pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')) \
                 AS signallable \
               FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid WHERE a.pid = $1";
    let row = observer
        .query_opt(sql, &[&pid, &RUN_LOCK, &WORKERS_LOCK])
        .await
        .map_err(|error| Error::postgres(ErrorKind::StepFailed, "asking about a session", error))?;
    Ok(row.map(|row| Candidate {
        user: row.get("usename"),
        role: row.get("role"),
        superuser: row.get("superuser"),
        ours: row.get("ours"),
        kind: row.get("backend_type"),
        state: row.get("state"),
        age_ms: row
            .get::<_, Option<i64>>("age_ms")
            .and_then(|age| u64::try_from(age).ok()),
        began: row.get("began"),
        written: row.get("written"),
        signallable: row.get("signallable"),
    }))
}

/// Cancels the statement of a session, or ends it, if that is still in the transaction that began then and has not
/// written.
pub(super) async fn end(
    observer: &impl GenericClient,
    pid: i32,
    began: i64,
    terminate: bool,
) -> Result<bool, Error> {
    let function = if terminate {
        "pg_terminate_backend"
    } else {
        "pg_cancel_backend"
    };
    let sql = format!(
        "SELECT pg_catalog.{function}(a.pid) FROM pg_catalog.pg_stat_activity a WHERE a.pid = $1 \
          AND (extract(epoch FROM a.xact_start) * 1000000)::bigint = $2 \
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.granted \
           AND l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock')"
    );
    let row = observer
        .query_opt(&sql, &[&pid, &began])
        .await
        .map_err(|error| Error::postgres(ErrorKind::StepFailed, "ending a session in the way", error))?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// The role at work, where that may cancel and end only its own sessions.
pub(super) async fn unable_to_signal(observer: &impl GenericClient) -> Result<Option<String>, Error> {
    let sql = "SELECT current_user::text WHERE NOT pg_has_role('pg_signal_backend', 'USAGE')";
    let row = observer
        .query_opt(sql, &[])
        .await
        .map_err(|error| Error::postgres(ErrorKind::StepFailed, "asking for privileges", error))?;
    Ok(row.map(|row| row.get(0)))
}

/// Asks an autovacuum worker to yield; it starts again later by itself. False where the role may not.
pub(super) async fn ask_to_yield(observer: &impl GenericClient, pid: i32) -> bool {
    let sql = "SELECT pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity \
               WHERE pid = $1 AND backend_type = 'autovacuum worker' \
                AND query NOT LIKE '%(to prevent wraparound)'";
    matches!(observer.query_opt(sql, &[&pid]).await, Ok(Some(row)) if row.get(0))
}

/// Whatever keeps old row versions of this database longest, sessions that vacuum left out: their snapshots do not
/// count. What belongs to roles that this one may not look at stays unknown.
pub(super) async fn oldest(observer: &impl GenericClient) -> Result<Option<Oldest>, Error> {
    let sql = format!(
        "SELECT {COLUMNS}, '' AS relation, o.xmin::text AS xmin, o.slot, \
          coalesce((extract(epoch FROM clock_timestamp() - o.since) * 1000)::bigint, 0) AS held_ms \
         FROM (SELECT s.pid, NULL::text AS slot, x.xmin, x.since, NULL AS gid \
                FROM pg_catalog.pg_stat_activity s, LATERAL (VALUES (s.backend_xid, s.xact_start), \
                 (s.backend_xmin, greatest(s.xact_start, s.query_start))) AS x (xmin, since) \
                WHERE (s.datname = current_database() OR s.backend_type = 'walsender') AND s.pid <> pg_backend_pid() \
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum v WHERE v.pid = s.pid) \
               UNION ALL SELECT NULL, NULL, q.transaction, q.prepared, q.gid FROM pg_catalog.pg_prepared_xacts q \
                WHERE q.database = current_database() \
               UNION ALL SELECT NULL, r.slot_name::text, r.xmin, NULL, NULL FROM pg_catalog.pg_replication_slots r) AS o \
         LEFT JOIN LATERAL (SELECT o.pid, NULL::text AS mode, NULL::text AS virtualtransaction) AS l ON true \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = o.pid \
         LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.gid = o.gid \
         WHERE o.xmin IS NOT NULL ORDER BY age(o.xmin) DESC, a.backend_xid IS NOT DISTINCT FROM o.xmin DESC, o.pid LIMIT 1"
    );
    let rows = observer
        .query_typed(&sql, &[])
        .await
        .map_err(|error| Error::postgres(ErrorKind::StepFailed, "asking for old snapshots", error))?;
    Ok(rows.first().map(|row| Oldest {
        blocker: holder(row).blocker,
        slot: row.get("slot"),
        xmin: row.get("xmin"),
        held_ms: row.get("held_ms"),
    }))
}

/// The oldest transaction that somebody may still see, and who that is.
pub(super) struct Oldest {
    pub(super) blocker: Blocker,
    /// The replication slot that it is instead of a session.
    pub(super) slot: Option<String>,
    pub(super) xmin: String,
    pub(super) held_ms: i64,
}

/// Who runs a plan on this database at present: the holder of the run lock.
///
/// # Errors
/// Lost connections.
pub async fn runner(client: &impl GenericClient) -> Result<Option<Blocker>, Error> {
    Ok(holders_of(client, RUN_LOCK).await?.into_iter().next())
}

/// Who holds one of our advisory locks.
pub(super) async fn holders_of(client: &impl GenericClient, key: i64) -> Result<Vec<Blocker>, Error> {
    let sql = format!(
        "SELECT {COLUMNS}, '' AS relation FROM pg_catalog.pg_locks l {JOINS} \
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
          AND (l.classid::bigint << 32 | l.objid::bigint) = $1 \
          AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
    );
    let rows = client
        .query(&sql, &[&key])
        .await
        .map_err(|error| Error::postgres(ErrorKind::StepFailed, "asking who runs a plan", error))?;
    Ok(rows.iter().map(|row| holder(row).blocker).collect())
}
