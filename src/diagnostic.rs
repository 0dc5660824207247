//! Complaints about a plan: a code, a message, a place in the file, and what to do.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;
use std::ops::Range;

/// A byte range of the plan file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// A value and where it stands in the plan file.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    pub value: T,
    pub span: Span,
}

/// One complaint. Planning collects all of them before it gives up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnostic {
    /// Stable, machine-readable: `unknown_column`.
    pub code: &'static str,
    pub message: String,
    pub span: Option<Span>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            span: None,
            help: None,
        }
    }

    pub fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds "did you mean …?" when one of the known names is close to the one given.
    pub fn suggest<'a>(self, given: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(given, known) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None => self,
        }
    }
}

/// The known name that the given one most likely meant, if any is close.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Bytes; nobody mistypes what is longer, and comparing takes time.
    const GIVEN_MAX: usize = 200;
    if given.len() > GIVEN_MAX {
        return None;
    }
    known
        .into_iter()
        .map(|name| {
            (
                strsim::jaro_winkler(&given.to_lowercase(), &name.to_lowercase()),
                name,
            )
        })
        .filter(|(score, _)| *score > 0.78)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// 1-based line and column (in characters) of a byte offset.
pub fn line_and_column(source: &str, offset: usize) -> (usize, usize) {
    let before = &source[..source.floor_char_boundary(offset.min(source.len()))];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// All complaints for people: file, line, column, the line itself, and the way out.
///
/// A file of another kind can have thousands of them; the first 50 are shown.
pub fn render(diagnostics: &[Diagnostic], path: &str, source: &str, color: bool) -> String {
    const SHOWN_MAX: usize = 50;
    /// Bytes of a place that are pointed at.
    const PLACE_MAX: usize = 2_000;
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut text = String::new();
    for diagnostic in diagnostics.iter().take(SHOWN_MAX) {
        let title = Level::ERROR
            .primary_title(&diagnostic.message)
            .id(diagnostic.code);
        let mut group = match diagnostic.span {
            Some(span) => {
                let start = source.floor_char_boundary(span.start.min(source.len()));
                let longest = span.end.min(start + PLACE_MAX);
                let end = source.floor_char_boundary(longest.clamp(start, source.len()));
                let (shown, first_line) = window(source, start, end);
                let before = shown.start;
                title.element(
                    Snippet::source(&source[shown])
                        .line_start(first_line)
                        .path(path)
                        .annotation(AnnotationKind::Primary.span(start - before..end.max(start) - before)),
                )
            }
            None => Group::with_title(title),
        };
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help));
        }
        text.push_str(&renderer.render(&[group]));
        text.push_str("\n\n");
    }
    if diagnostics.len() > SHOWN_MAX {
        text.push_str(&format!("and {} more\n", diagnostics.len() - SHOWN_MAX));
    }
    text
}

/// The lines around a place, and the number of the first: the renderer goes through all that it is given.
fn window(source: &str, start: usize, end: usize) -> (Range<usize>, usize) {
    let from = source[..start].rfind('\n').map_or(0, |at| at + 1);
    let to = source[end..].find('\n').map_or(source.len(), |at| end + at + 1);
    (from..to, source[..from].matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_place_line_and_way_out() {
        let source = "a: 1\nénom: colum\n";
        let diagnostic = Diagnostic::new("unknown_key", "unknown key `colum`")
            .at(Span { start: 12, end: 17 })
            .suggest("colum", ["table", "column"]);
        let text = render(&[diagnostic], "plan.yaml", source, false);
        assert!(text.contains("plan.yaml:2:7"), "{text}");
        assert!(
            text.contains("énom: colum") && text.contains("did you mean `column`?"),
            "{text}"
        );
    }

    #[test]
    fn places_count_characters() {
        assert_eq!(line_and_column("a\néb", 4), (2, 2));
    }
}
