//! What fits on a terminal that is only so wide.

use std::os::fd::AsFd;

/// Where the terminal does not say.
const COLUMNS: usize = 80;

/// Columns of the terminal behind this stream.
pub fn columns(stream: impl AsFd) -> usize {
    let size = rustix::termios::tcgetwinsize(stream).map_or(0, |size| usize::from(size.ws_col));
    if size == 0 { COLUMNS } else { size }
}

/// The text in lines of at most so many characters, and at most so many lines; it is broken at spaces where there are any,
/// and what follows does not fit ends in `…`.
pub fn folded(text: &str, columns: usize, lines: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut done: Vec<String> = Vec::new();
    let (mut line, mut length) = (String::new(), 0);
    for word in text.split(' ') {
        let letters: Vec<char> = word.chars().collect();
        if length > 0 && length + 1 + letters.len() <= columns {
            line.push(' ');
            line.push_str(word);
            length += 1 + letters.len();
            continue;
        }
        if length > 0 {
            done.push(std::mem::take(&mut line));
        }
        let mut parts: Vec<&[char]> = letters.chunks(columns).collect();
        let last = parts.pop().unwrap_or_default();
        done.extend(parts.into_iter().map(|part| part.iter().collect::<String>()));
        (line, length) = (last.iter().collect(), last.len());
    }
    done.push(line);
    if done.len() > lines {
        done.truncate(lines);
        if let Some(last) = done.last_mut() {
            *last = last.chars().take(columns - 1).chain(['…']).collect();
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        assert_eq!(
            folded("waiting for 4s; in the way: pid 7", 12, 9),
            ["waiting for", "4s; in the", "way: pid 7"]
        );
        assert_eq!(folded("a wörd_without_end b", 6, 9), ["a", "wörd_w", "ithout", "_end b"]);
        assert_eq!(folded("one two three", 5, 2), ["one", "two…"]);
        assert_eq!(folded("one twos three", 4, 2), ["one", "two…"]);
        assert_eq!(folded("", 10, 1), [""]);
        for columns in 0..12 {
            let lines = folded("filling rows, 1,048 of 5,173 pages", columns, 3);
            assert!(lines.len() <= 3);
            assert!(
                lines.iter().all(|line| line.chars().count() <= columns.max(1)),
                "{lines:?}"
            );
        }
    }
}
