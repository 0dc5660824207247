//! Renders values for people and machines. Only this module and `cli` print.
//!
//! Texts for people carry styles, which the streams in [`out`] strip where nobody would see colour; control characters
//! from anywhere else are spelled out there.

mod axis;
pub mod error;
pub mod html;
pub mod human;
pub mod json;
pub mod out;
pub mod passing;
pub mod plan_diff;
pub mod plan_html;
pub mod plan_human;
pub mod plan_markdown;
mod plan_picture;
pub mod plan_sql;
mod plan_view;
pub mod rehearsal;
pub mod run_html;
pub mod run_human;
mod run_pictures;
pub mod run_view;
pub mod safe;
#[cfg(test)]
mod sample;
pub mod screen;
pub mod status;
pub mod style;
pub mod verification;

use crate::event::Listener;

/// A listener that can also say something of its own, and that tidies up the terminal in the end.
pub trait Reporter: Listener {
    fn note(&self, text: &str);

    /// Nothing comes after this.
    fn finish(&self) {}
}

/// Says nothing at all, for `--quiet`.
pub struct Silent;

impl Listener for Silent {
    fn tell(&self, _event: &crate::event::Event) {}
}

impl Reporter for Silent {
    fn note(&self, _text: &str) {}
}
