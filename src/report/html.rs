//! Pages of one file: no network, no scripts, light and dark, for screen, phone and paper.

use std::fmt::Display;

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

/// A picture that scrolls by itself where the screen is narrow. `said` is the picture in words; `drawn` and `caption` are
/// markup already.
pub fn figure(label: &str, said: &str, size: (u64, u64), drawn: &str, caption: &str) -> String {
    let (width, height) = size;
    format!(
        "<figure>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">\n\
         <svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n{drawn}</svg>\n</div>\n\
         <figcaption>{caption}</figcaption>\n</figure>\n",
        escaped(label),
        escaped(said)
    )
}

/// A table that scrolls by itself where the screen is narrow; cells are HTML already. A column that begins with `#` holds
/// numbers.
pub fn table(label: &str, columns: &[&str], rows: &[Vec<String>]) -> String {
    let class = |column: &str| {
        if column.starts_with('#') {
            " class=\"number\""
        } else {
            ""
        }
    };
    let head: String = columns
        .iter()
        .map(|column| {
            format!(
                "<th scope=\"col\"{}>{}</th>",
                class(column),
                escaped(column.trim_start_matches('#'))
            )
        })
        .collect();
    let body: String = rows
        .iter()
        .map(|row| {
            let cells: String = row
                .iter()
                .zip(columns)
                .map(|(cell, column)| format!("<td{}>{cell}</td>", class(column)))
                .collect();
            format!("<tr>{cells}</tr>\n")
        })
        .collect();
    let label = escaped(label);
    // Who scrolls by keys must be able to get into it.
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\">\n\
         <table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
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
        assert!(page("</title><script>", "").contains("<title>&lt;/title&gt;&lt;script&gt;</title>"));
    }
}
