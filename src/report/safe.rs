//! Text of others on its way to a terminal: a name may hold what moves the cursor, hides lines or types into the shell.

use std::fmt::Write;

/// Stands for the escape character of our own styles until the text is written, so that those of others are told from
/// them. A noncharacter: where it comes from outside, it can make a word bold, and nothing else.
const MARK: char = '\u{fdd0}';

/// Our own styles, marked as such.
pub fn marked(styled: &str) -> String {
    styled.replace('\u{1b}', "\u{fdd0}")
}

/// What is written: our styles as the terminal knows them, and every other control character spelled out.
pub fn written(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == MARK || is_control(c)) {
        safe.push_str(&rest[..at]);
        rest = &rest[at..];
        let (first, after) = rest.split_at(rest.chars().next().map_or(0, char::len_utf8));
        match style_length(after).filter(|_| first.starts_with(MARK)) {
            Some(length) => {
                safe.push('\u{1b}');
                safe.push_str(&after[..length]);
                rest = &after[length..];
            }
            None => {
                safe.extend(first.chars().map(spelled));
                rest = after;
            }
        }
    }
    safe.push_str(rest);
    safe
}

/// Without styles, for what keeps none.
pub fn plain(text: &str) -> String {
    anstream::adapter::strip_str(&written(text)).to_string()
}

/// One line of text that is not ours: line breaks spelled out, too.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_control(c) || matches!(c, '\n' | '\t' | MARK) {
            line.push_str(&spelled(c));
        } else {
            line.push(c);
        }
    }
    line
}

/// JSON whose strings hold no control character as it is: the standard asks that only of the first 32.
pub fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_control() && !is_control(c) || c == '\n' {
            safe.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        }
    }
    safe
}

/// Which of them do harm: control characters, and those that change the order of what stands around them.
fn is_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn spelled(c: char) -> String {
    match (c, u32::from(c)) {
        ('\n', _) => "\\n".into(),
        ('\t', _) => "\\t".into(),
        ('\r', _) => "\\r".into(),
        (_, code @ ..=0xff) => format!("\\x{code:02x}"),
        (_, code) => format!("\\u{{{code:x}}}"),
    }
}

/// Bytes of the style that stands there, after its escape character.
fn style_length(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix('[')?;
    let length = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let ends = parameters[length..].starts_with('m') && length <= 12;
    ends.then_some(length + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::style;

    #[test]
    fn our_styles_are_written_and_those_of_others_are_spelled_out() {
        let name = "a\u{1b}]0;title\u{7}b\u{1b}[31mc\r\u{9b}2J\u{202e}d\u{7f}";
        let spelled = "a\\x1b]0;title\\x07b\\x1b[31mc\\r\\x9b2J\\u{202e}d\\x7f";
        assert_eq!(written(name), spelled);
        assert_eq!(plain(name), spelled);
        assert_eq!(
            written(&format!("{}\n\t{name}", style::heading("x"))),
            format!("\u{1b}[1mx\u{1b}[0m\n\t{spelled}")
        );
        assert_eq!(plain(&style::bad(name)), spelled);
        assert_eq!(
            written("\u{fdd0}]0;title\u{fdd0}["),
            "\\u{fdd0}]0;title\\u{fdd0}["
        );
        assert_eq!(one_line("a\nb\u{1b}"), "a\\nb\\x1b");
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({"a\u{7f}\u{9b}": ["\u{202e}\u{1b}\n", "é\u{10ffff}"]});
        let text = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(
            text.chars()
                .all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
