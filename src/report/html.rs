//! Pages of one file: no network, no scripts, light and dark, for screen, phone and paper.

use std::fmt::{Display, Write};

const STYLE: &str = include_str!("page.css");

/// Text as it stands between tags and in attributes in double quotes.
pub fn escaped(text: impl Display) -> String {
    let text = text.to_string();
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // HTML has no control characters but these, not even as references.
            '\n' | '\t' => safe.push(character),
            _ if character.is_control() => safe.push('\u{fffd}'),
            _ => safe.push(character),
        }
    }
    safe
}

/// A whole page; the body is HTML already.
pub fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escaped(title)
    )
}

/// What somebody asks first: pairs of a label and its value, both plain text.
pub fn facts(list: &[(&str, String)]) -> String {
    let item =
        |(label, value): &(&str, String)| format!("<li><b>{}</b>{}</li>\n", escaped(value), escaped(label));
    let items: String = list.iter().map(item).collect();
    format!("<ul class=\"facts\">\n{items}</ul>\n")
}

/// Text in which what stands between backticks is code.
pub fn prose(text: impl Display) -> String {
    let text = escaped(text);
    let parts: Vec<&str> = text.split('`').collect();
    let mut marked = String::with_capacity(text.len());
    for (number, part) in parts.iter().enumerate() {
        match number {
            0 => {}
            // The last backtick of an odd number begins nothing.
            odd if odd % 2 == 1 && odd + 1 == parts.len() => marked.push('`'),
            odd if odd % 2 == 1 => marked.push_str("<code>"),
            _ => marked.push_str("</code>"),
        }
        marked.push_str(part);
    }
    marked
}

/// The width of a picture, in the units of [`percent`].
pub const HUNDRED: u64 = 10_000;
const LANE: usize = 26;

/// Of the width of the screen, so that a picture is as wide as that, and its text stays as large as it is.
pub fn percent(place: u64) -> String {
    format!("{}.{:02}%", place / 100, place % 100)
}

/// Of what is drawn, so that it is seen.
pub fn at_least(width: u64) -> u64 {
    width.max(25)
}

/// A line with its name in the margin, and where its bars begin.
pub fn lane(drawn: &mut String, number: usize, name: impl Display) -> usize {
    let top = 6 + number * LANE;
    let _ = writeln!(
        drawn,
        "<line class=\"lane\" x1=\"-84\" y1=\"{0}\" x2=\"100%\" y2=\"{0}\"/><text x=\"-82\" y=\"{1}\">{name}</text>",
        top + LANE - 4,
        top + 15
    );
    top + 2
}

pub fn lanes_height(lanes: usize) -> u64 {
    (10 + lanes * LANE) as u64
}

/// A picture as wide as the screen; the names of its lanes stand in its margin. `said` is the picture in words; `drawn` and
/// `caption` are markup already.
pub fn figure(said: &str, height: u64, drawn: &str, caption: &str) -> String {
    format!(
        "<figure>\n<svg height=\"{height}\" role=\"img\" aria-label=\"{}\">\n{drawn}</svg>\n\
         <figcaption>{caption}</figcaption>\n</figure>\n",
        escaped(said)
    )
}

/// A table that scrolls by itself where there is too little room, and is a list of cards on a phone; cells are HTML already.
/// A column that begins with `#` holds numbers.
pub fn table(label: &str, columns: &[&str], rows: &[Vec<String>]) -> String {
    let class = |column: &str| {
        if column.starts_with('#') {
            " class=\"number\""
        } else {
            ""
        }
    };
    let name = |column: &str| escaped(column.trim_start_matches('#'));
    let head = |column: &&str| {
        format!(
            "<th scope=\"col\" role=\"columnheader\"{}>{}</th>",
            class(column),
            name(column)
        )
    };
    let cell = |(cell, column): (&String, &&str)| {
        format!(
            "<td role=\"cell\"{} data-label=\"{}\">{cell}</td>",
            class(column),
            name(column)
        )
    };
    let row = |row: &Vec<String>| {
        let cells: String = row.iter().zip(columns).map(cell).collect();
        format!("<tr role=\"row\">{cells}</tr>\n")
    };
    let head: String = columns.iter().map(head).collect();
    let body: String = rows.iter().map(row).collect();
    let label = escaped(label);
    // Who scrolls by keys must be able to get into it. The roles are those that the elements have anyway, until cards are
    // made of them.
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\">\n<table role=\"table\">\n\
         <thead role=\"rowgroup\"><tr role=\"row\">{head}</tr></thead>\n<tbody role=\"rowgroup\">\n{body}</tbody>\n\
         </table>\n</div>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_place() {
        assert_eq!(
            escaped("<a href=\"x\" b='y'>&\u{1b}[0m\n"),
            "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;\u{fffd}[0m\n"
        );
        assert_eq!(
            prose("`SELECT *` of <b> and `it"),
            "<code>SELECT *</code> of &lt;b&gt; and `it"
        );
        assert!(page("</title><script>", "").contains("<title>&lt;/title&gt;&lt;script&gt;</title>"));
    }
}
