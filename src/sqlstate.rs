//! What an error code of the server says about the session that it came from.

/// Whether the server says with this SQLSTATE that the session is over: connection exceptions, admin_shutdown,
/// crash_shutdown, cannot_connect_now, idle_session, idle_in_transaction_session and transaction timeouts.
pub fn ends_session(sqlstate: &str) -> bool {
    sqlstate.starts_with("08") || ["57P01", "57P02", "57P03", "57P05", "25P03", "25P04"].contains(&sqlstate)
}
