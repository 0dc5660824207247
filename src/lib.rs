//! pgmorph

pub mod postgres;
