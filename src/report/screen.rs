//! What fits on a terminal that is only so wide.

use indicatif::{ProgressDrawTarget, TermLike};
use std::fmt::{self, Debug, Formatter};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

/// Where the terminal does not say.
const COLUMNS: usize = 80;

/// Columns of the terminal behind this stream.
pub fn columns(stream: impl AsFd) -> usize {
    let size = rustix::termios::tcgetwinsize(stream).map_or(0, |size| usize::from(size.ws_col));
    if size == 0 { COLUMNS } else { size }
}

fn rows(stream: impl AsFd) -> u16 {
    rustix::termios::tcgetwinsize(stream).map_or(24, |size| size.ws_row.max(1))
}

/// Whether lines can be written over there.
pub fn can_be_drawn_on(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// How often what moves is drawn anew, a second.
const REFRESHED: u8 = 20;

/// Where bars are drawn.
pub fn target(stream: impl Write + AsFd + Send + 'static) -> ProgressDrawTarget {
    let terminal = Terminal {
        stream: Mutex::new((stream, String::new())),
    };
    ProgressDrawTarget::term_like_with_hz(Box::new(terminal), REFRESHED)
}

/// A terminal whose cursor stays where the last line begins. At its end, the `^C` that terminals echo would break into a
/// line of its own, and what is drawn next would leave a line of this behind.
struct Terminal<T> {
    /// And what is not written yet: a frame comes as a whole.
    stream: Mutex<(T, String)>,
}

impl<T> Debug for Terminal<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Terminal")
    }
}

impl<T: Write + AsFd + Send> Terminal<T> {
    fn put(&self, text: &str) {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.1.push_str(text);
    }

    fn moved(&self, by: usize, code: char) {
        if by > 0 {
            self.put(&format!("\x1b[{by}{code}"));
        }
    }
}

impl<T: Write + AsFd + Send> TermLike for Terminal<T> {
    fn width(&self) -> u16 {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        u16::try_from(columns(&stream.0)).unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        rows(&self.stream.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    fn move_cursor_up(&self, by: usize) -> io::Result<()> {
        self.moved(by, 'A');
        Ok(())
    }

    fn move_cursor_down(&self, by: usize) -> io::Result<()> {
        self.moved(by, 'B');
        Ok(())
    }

    fn move_cursor_right(&self, by: usize) -> io::Result<()> {
        self.moved(by, 'C');
        Ok(())
    }

    fn move_cursor_left(&self, by: usize) -> io::Result<()> {
        self.moved(by, 'D');
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(text);
        self.put("\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.put("\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let (stream, frame) = &mut *stream;
        if !frame.is_empty() {
            frame.push('\r');
            let frame = std::mem::take(frame);
            stream.write_all(frame.as_bytes())?;
        }
        stream.flush()
    }
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
        assert_eq!(
            folded("a wörd_without_end b", 6, 9),
            ["a", "wörd_w", "ithout", "_end b"]
        );
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
