//! pgmorph
pub mod catalog;
pub mod sql;
