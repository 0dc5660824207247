//! The few styles in use, so that a colour means the same everywhere.

use anstyle::{AnsiColor, Style};
use std::fmt::Display;

const HEADING: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const CAREFUL: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const NAME: Style = AnsiColor::Cyan.on_default();

fn styled(style: Style, text: impl Display) -> String {
    let [begin, end] = [format!("{style}"), format!("{style:#}")].map(|code| super::safe::marked(&code));
    format!("{begin}{text}{end}")
}

pub fn heading(text: impl Display) -> String {
    styled(HEADING, text)
}

pub fn faint(text: impl Display) -> String {
    styled(FAINT, text)
}

pub fn good(text: impl Display) -> String {
    styled(GOOD, text)
}

/// What the reader should think about.
pub fn careful(text: impl Display) -> String {
    styled(CAREFUL, text)
}

pub fn bad(text: impl Display) -> String {
    styled(BAD, text)
}

pub fn name(text: impl Display) -> String {
    styled(NAME, text)
}
