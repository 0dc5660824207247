//! Recipes that several rooms share.

pub(super) mod constraint;
