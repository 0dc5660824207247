//! What people read about locks and those who hold them, and what bounds a statement.

use super::{ANOTHER_SERVER, Tries};
use crate::error::{Error, ErrorKind};
use crate::event::Blocker;
use crate::plan::Work;
use crate::units;
use std::time::Duration;

pub(super) fn exhausted(work: &Work, tries: &Tries, blockers: &[Blocker]) -> Error {
    let message = format!(
        "{}: no lock within {} attempts in {}",
        work.summary,
        tries.attempt,
        units::duration(tries.hindered_for())
    );
    Error::new(ErrorKind::Exhausted, message)
        .details(blockers.iter().map(blocker_line))
        .help("nothing is held and the state is saved: run the same command again later, or end what blocks")
}

/// A blocker in one line.
pub fn blocker_line(blocker: &Blocker) -> String {
    format!("blocked by {}", holder_line(blocker))
}

/// Who somebody is, in one line.
pub(in crate::executor) fn holder_line(blocker: &Blocker) -> String {
    let who = match blocker.pid {
        Some(pid) => format!("pid {pid}"),
        None => "a prepared transaction".into(),
    };
    let application = if blocker.application.is_empty() {
        String::new()
    } else {
        format!(" ({})", blocker.application)
    };
    format!(
        "{who} of {}{application}, {}, for {}",
        blocker.user,
        blocker.state,
        units::duration(Duration::from_millis(blocker.age_ms))
    )
}

pub(in crate::executor) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted")
        .help("the state is saved: run the same command again to go on")
}

pub(in crate::executor) fn pool_error(error: deadpool_postgres::PoolError) -> Error {
    if let Some(connect) = crate::postgres::settings::ConnectError::in_chain(&error) {
        let mut made = Error::new(ErrorKind::Connection, connect.to_string()).help(connect.help());
        made.sqlstate = connect.sqlstate().map(ToOwned::to_owned);
        return made;
    }
    use deadpool_postgres::{HookError, PoolError};
    if let PoolError::PostCreateHook(HookError::Backend(error)) = error {
        let mut made = Error::postgres(ErrorKind::Connection, "preparing a session", error);
        if made.sqlstate.as_deref() == Some(ANOTHER_SERVER) {
            // Trying again would not help: whoever holds the lock there is not the one who writes here.
            made.kind = ErrorKind::StepFailed;
            made = made.help(
                "after a failover run the same command again: it begins with the lock at the server that writes now",
            );
        }
        return made;
    }
    Error::new(ErrorKind::Connection, "no working session")
        .source(error)
        .help("run the same command again")
}

pub(in crate::executor) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What bounds every statement of a work.
pub fn timeouts_sql(work: &Work, set: &str) -> String {
    let lock = work.timeouts.lock_ms.unwrap_or(0);
    let statement = work.timeouts.statement_ms;
    format!("{set} lock_timeout = '{lock}ms'; {set} statement_timeout = '{statement}ms'")
}
