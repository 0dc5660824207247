//! PostgreSQL itself: the embedded server for demonstrations, rehearsals and tests.

pub mod embedded;
