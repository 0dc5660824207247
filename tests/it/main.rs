//! The tests that need a PostgreSQL server, in one binary so that they are linked once.

// Clippy's own exception for tests ends at functions without #[test].
#![allow(clippy::unwrap_used)]

mod embedded;
