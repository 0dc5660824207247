//! Numbers as people read them.

use std::time::Duration;

/// `340ms`, `4.2s`, `1m 20s`, `3h 5m`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let shown = [340, 4_200, 80_000, 11_100_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["340ms", "4.2s", "1m 20s", "3h 5m"]);
    }
}
