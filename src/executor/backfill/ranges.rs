//! Which pages are filled, which are being filled, and which were put aside. Pure.

use std::collections::BTreeMap;

/// Pages from the first up to, without, the second.
pub(super) type Range = (i64, i64);

/// Every page below the watermark is filled or was put aside, whatever the workers have in their hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ranges {
    next: i64,
    end: i64,
    taken: BTreeMap<i64, i64>,
    /// Met a row that somebody holds; to be visited again.
    pub(super) deferred: Vec<Range>,
}

impl Ranges {
    pub(super) fn new(next: i64, end: i64, deferred: Vec<Range>) -> Self {
        Self {
            next,
            end,
            taken: BTreeMap::new(),
            deferred,
        }
    }

    /// The next pages, for one worker alone.
    pub(super) fn take(&mut self, pages: i64) -> Option<Range> {
        let range = (self.next, (self.next + pages.max(1)).min(self.end));
        if range.0 >= range.1 {
            return None;
        }
        self.next = range.1;
        self.taken.insert(range.0, range.1);
        Some(range)
    }

    pub(super) fn finish(&mut self, range: Range) {
        self.taken.remove(&range.0);
    }

    pub(super) fn watermark(&self) -> i64 {
        self.taken.keys().next().copied().unwrap_or(self.next)
    }

    /// Where the watermark stands once this range is filled.
    pub(super) fn watermark_with(&self, filled: Range) -> i64 {
        let mut open = self.taken.keys().filter(|first| **first != filled.0);
        open.next().copied().unwrap_or(self.next)
    }

    /// Pages that nobody needs to visit any more, or only those put aside.
    pub(super) fn done(&self) -> i64 {
        self.next - self.taken.iter().map(|(first, end)| end - first).sum::<i64>()
    }

    pub(super) fn end(&self) -> i64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_waits_for_the_slowest() {
        let mut ranges = Ranges::new(0, 25, Vec::new());
        let (one, two) = (ranges.take(10).unwrap(), ranges.take(10).unwrap());
        assert_eq!((one, two), ((0, 10), (10, 20)));
        assert_eq!(ranges.watermark(), 0);
        assert_eq!(ranges.watermark_with(two), 0);
        ranges.finish(two);
        assert_eq!((ranges.watermark(), ranges.done()), (0, 10));
        assert_eq!(ranges.watermark_with(one), 20);
        let three = ranges.take(10).unwrap();
        assert_eq!(three, (20, 25));
        ranges.finish(one);
        assert_eq!(ranges.watermark(), 20);
        assert_eq!(ranges.watermark_with(three), 25);
        ranges.finish(three);
        assert_eq!((ranges.watermark(), ranges.done()), (25, 25));
        assert_eq!(ranges.take(10), None);
    }

    #[test]
    fn an_empty_table_has_no_ranges() {
        assert_eq!(Ranges::new(0, 0, Vec::new()).take(10), None);
    }
}
