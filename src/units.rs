//! Numbers as people read them.

use std::time::Duration;

/// `200ms`, `1.5s`, `45s`, `1m 20s`, `6h`, `2d 3h`: at most two units, nothing is rounded up.
pub fn duration(duration: Duration) -> String {
    millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// As [`duration`], of milliseconds.
pub fn millis(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms}ms"),
        1..=9 => match ms % 1_000 / 100 {
            0 => format!("{seconds}s"),
            tenths => format!("{seconds}.{tenths}s"),
        },
        10..=59 => format!("{seconds}s"),
        60..=3_599 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..=86_399 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit} {small}{small_unit}"),
    }
}

/// Bytes in powers of 1024, as PostgreSQL counts: `512 bytes`, `3.4 MB`, `120 GB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1_024 {
        return format!("{bytes} bytes");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "";
    for next in UNITS {
        unit = next;
        tenths = (tenths + 512) / 1_024;
        if tenths < 10_240 {
            break;
        }
    }
    match (tenths / 10, tenths % 10) {
        (whole @ 100.., _) | (whole, 0) => format!("{whole} {unit}"),
        (whole, rest) => format!("{whole}.{rest} {unit}"),
    }
}

/// As [`size`], of what the catalog counts in signed numbers; less than nothing is nothing.
pub fn signed_size(bytes: i64) -> String {
    size(u64::try_from(bytes).unwrap_or(0))
}

/// `1,000,000`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 step`, `1,200 steps`.
pub fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number as u64))
}

/// A number and the unit behind it, as in `200ms` or `1.5 GB`.
pub fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number = text[..split].parse::<f64>().ok()?;
    Some((number, text[split..].trim()))
}

/// Milliseconds of a duration with its unit.
pub fn duration_ms(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        "min" | "m" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    whole(number * factor)
}

/// The server keeps timeouts in 32 bits of milliseconds; nothing above is a bound that anybody meant.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn whole(number: f64) -> Option<u64> {
    (0.0..1e15).contains(&number).then_some(number.round() as u64)
}

/// Breaks a text into lines of at most so many characters, at spaces; longer words stay whole.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (1_550, "1.5s"),
            (59_999, "59s"),
            (80_000, "1m 20s"),
            (600_000, "10m"),
            (21_600_000, "6h"),
            (21_660_000, "6h 1m"),
            (183_600_000, "2d 3h"),
        ];
        for (ms, text) in cases {
            assert_eq!(millis(ms), text, "{ms}");
            assert_eq!(duration(Duration::from_millis(ms)), text, "{ms}");
        }
    }

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 bytes"),
            (1_023, "1023 bytes"),
            (1_024, "1 kB"),
            (3_565_158, "3.4 MB"),
            (100 << 20, "100 MB"),
            ((1 << 20) - 1, "1 MB"),
            (u64::MAX, "16384 PB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!(signed_size(-1), "0 bytes");
    }

    #[test]
    fn counts() {
        let shown: Vec<_> = [0, 999, 1_000, 1_234_567].map(count).into();
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            (counted(1, "step"), counted(0, "step")),
            ("1 step".into(), "0 steps".into())
        );
    }

    #[test]
    fn wraps_at_spaces_and_keeps_paragraphs_and_long_words() {
        assert_eq!(
            wrap("one two three\n\nabcdefgh i", 7),
            ["one two", "three", "", "abcdefgh", "i"]
        );
    }
}
