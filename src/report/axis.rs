//! A line of time on which long pauses take little room: between cutover and contract may lie a month.

/// A pause is cut out where it takes more than this share of the time at work, and more than a few seconds.
const PAUSE_SHARE: u64 = 10;
const PAUSE_MS: u64 = 5_000;

/// Times are milliseconds from anywhere; places are from 0 to the width.
pub struct Axis {
    /// Stretches that are drawn to scale: from, to, and where they begin.
    stretches: Vec<(u64, u64, u64)>,
    width: u64,
    /// Of time that is drawn, what one place stands for.
    total: u64,
    /// Room of a pause.
    gap: u64,
}

impl Axis {
    /// `spans` are begins and ends, in any order.
    pub fn new(mut spans: Vec<(u64, u64)>, width: u64, gap: u64) -> Self {
        spans.sort_unstable();
        let busy: u64 = spans.iter().map(|(from, to)| to.saturating_sub(*from)).sum();
        let longest = (busy / PAUSE_SHARE).max(PAUSE_MS);
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (from, to) in spans {
            match joined.last_mut() {
                Some(last) if from.saturating_sub(last.1) <= longest => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        let drawn: u64 = joined.iter().map(|(from, to)| to - from).sum();
        let gaps = u64::try_from(joined.len().saturating_sub(1)).unwrap_or(0) * gap;
        let mut before = 0;
        let stretches = joined
            .into_iter()
            .map(|(from, to)| {
                let begins = before;
                before += to - from;
                (from, to, begins)
            })
            .collect();
        Self {
            stretches,
            width: width.saturating_sub(gaps).max(1),
            total: drawn.max(1),
            gap,
        }
    }

    pub fn at(&self, time: u64) -> u64 {
        let mut place = 0;
        for (number, (from, to, before)) in (0..).zip(&self.stretches) {
            if time < *from {
                break;
            }
            place = number * self.gap + (before + time.min(*to) - from) * self.width / self.total;
        }
        place
    }

    /// Where pauses are, and how long they last.
    pub fn pauses(&self) -> Vec<(u64, u64)> {
        let pairs = self.stretches.windows(2);
        pairs
            .map(|pair| (self.at(pair[0].1), pair[1].0 - pair[0].1))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_pauses_are_to_scale_and_long_ones_take_a_gap() {
        let axis = Axis::new(vec![(100, 1_100), (1_200, 2_100)], 200, 20);
        assert_eq!((axis.at(100), axis.at(1_100), axis.at(2_100)), (0, 100, 200));
        assert_eq!(axis.pauses(), []);
        let month = 30 * 86_400_000;
        let axis = Axis::new(vec![(month, month + 1_000), (0, 1_000)], 220, 20);
        assert_eq!((axis.at(0), axis.at(500), axis.at(1_000)), (0, 50, 100));
        assert_eq!((axis.at(month), axis.at(month + 1_000)), (120, 220));
        assert_eq!(axis.pauses(), [(100, month - 1_000)]);
    }

    #[test]
    fn no_time_at_all_is_no_division_by_nothing() {
        let axis = Axis::new(vec![(5, 5)], 100, 20);
        assert_eq!((axis.at(5), axis.at(9)), (0, 0));
        assert_eq!(Axis::new(Vec::new(), 100, 20).at(7), 0);
    }
}
