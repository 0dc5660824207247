//! pgmorph changes the schema of a live PostgreSQL database without downtime.
//!
//! A change plan (YAML) says what should be different. The planner compiles it into an execution plan: phased,
//! bounded, undoable steps. The executor runs them under a lock budget, survives any crash, and resumes. The verifier
//! compares the catalog and the data with what the plan promised.
//!
//! # Invariants
//!
//! 1. No statement whose lock blocks reads or writes runs without a `lock_timeout`.
//! 2. The application is never the deadlock victim: `lock_timeout` is below the server's `deadlock_timeout`
//!    wherever something is held; several tables are locked in one order, referenced tables first, and in the other
//!    one at every second attempt.
//! 3. Nothing is destroyed before its replacement is validated; destructive steps are in `contract` only.
//! 4. Any step can die at any instant, and running the same command again ends as if nothing had happened.
//! 5. The planner does no I/O, and the executor never sees YAML or operations.
//! 6. What was printed is what runs.
//! 7. Nothing of ours is left behind by a completed or rolled-back plan.
//! 8. No row is lost or stale: every copied value is compared with its source before cutover.
//! 9. No secret in output.
//!
//! # Code map, in reading order
//!
//! The pure part has no async, no clock and no chance; imports point one way, which a test keeps.

/// Numbers as people read them.
pub mod units;

/// Identifiers and literals: the only code that quotes.
pub mod sql;

/// The database as a value, and how it is loaded.
pub mod catalog;

/// Which releases of PostgreSQL are supported.
pub mod release;

/// What error codes say about a session.
pub mod sqlstate;

/// Complaints with a place and a way out.
pub mod diagnostic;

/// Located values and their typed reading.
pub mod document;

/// The execution plan.
pub mod plan;

/// The operations: one room each.
pub mod ops;

/// What the hazards of a plan mean.
pub mod hazards;

/// The conditions of a change.
pub mod when;

/// The plan file.
pub mod change_plan;

/// Change plan + catalog → execution plan.
pub mod planner;

/// Saved execution plans and catalog snapshots, read back.
pub mod saved;

/// Many plans: their order, and what they need of each other.
pub mod plan_set;

/// Raw SQL: what its statements do, and what is safer.
pub mod sql_lint;

/// Does a fact hold; what differs?
pub mod verifier;

/// In what two plans, or two catalogs, differ.
pub mod plan_diff;

/// What happened, as data.
pub mod event;

/// What ends a command, and its exit code.
pub mod error;

/// Connections, and the embedded server.
pub mod postgres;

/// Runs execution plans and remembers in the ledger.
pub mod executor;

/// What people and machines see.
pub mod report;

/// Metrics, hooks and traces of a run.
pub mod monitor;

/// The temporary server and the application that the demo changes a schema under.
pub mod demo;

/// A plan on a server that is thrown away, with all looked at that it does.
pub mod rehearse;

/// The command line: one file per command.
pub mod cli;
