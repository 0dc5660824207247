//! Which pages are filled, which are being filled, and which were put aside. Pure.

use std::collections::{BTreeMap, VecDeque};

/// Pages from the first up to, without, the second.
pub(super) type Range = (i64, i64);

/// Every page below the watermark is filled or was put aside, whatever the workers have in their hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ranges {
    next: i64,
    end: i64,
    taken: BTreeMap<i64, i64>,
    /// Of these, what a worker has given back half done.
    given_back: Vec<Range>,
    /// Met a row that somebody holds; to be visited again.
    deferred: VecDeque<Range>,
    /// Of these, what is being visited at present.
    revisited: Option<Range>,
}

impl Ranges {
    pub(super) fn new(next: i64, end: i64) -> Self {
        Self {
            next,
            end,
            taken: BTreeMap::new(),
            given_back: Vec::new(),
            deferred: VecDeque::new(),
            revisited: None,
        }
    }

    /// The next pages, for one worker alone.
    pub(super) fn take(&mut self, pages: i64) -> Option<Range> {
        if let Some(range) = self.given_back.pop() {
            return Some(range);
        }
        let range = (self.next, (self.next + pages.max(1)).min(self.end));
        if range.0 >= range.1 {
            return None;
        }
        self.next = range.1;
        self.taken.insert(range.0, range.1);
        Some(range)
    }

    /// For somebody else to go on with: nobody else has it meanwhile, and the watermark waits for it.
    pub(super) fn give_back(&mut self, range: Range) {
        self.given_back.push(range);
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

    /// Pages that nobody has in his hands.
    pub(super) fn left(&self) -> i64 {
        let given_back: i64 = self.given_back.iter().map(|(first, end)| end - first).sum();
        (self.end - self.next).max(0) + given_back
    }

    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// Puts these aside, in batches of so many pages.
    pub(super) fn defer(&mut self, (first, end): Range, pages: i64) {
        let pages = pages.max(1);
        let mut page = first;
        while page < end {
            self.deferred.push_back((page, (page + pages).min(end)));
            page += pages;
        }
    }

    pub(super) fn take_deferred(&mut self) -> Option<Range> {
        self.revisited = self.deferred.pop_front();
        self.revisited
    }

    /// They are filled, or put aside again.
    pub(super) fn revisit_ended(&mut self) {
        self.revisited = None;
    }

    /// Batches that were put aside, and their pages.
    pub(super) fn deferred(&self) -> (usize, i64) {
        let pages = self.deferred.iter().map(|(first, end)| end - first).sum();
        (self.deferred.len(), pages)
    }

    /// What was put aside, as few ranges as it takes: a long transaction may have made them very many.
    pub(super) fn deferred_merged(&self) -> Vec<Range> {
        let mut sorted: Vec<Range> = self.deferred.iter().copied().chain(self.revisited).collect();
        sorted.sort_unstable();
        let mut merged: Vec<Range> = Vec::new();
        for (first, end) in sorted {
            match merged.last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((first, end)),
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_waits_for_the_slowest() {
        let mut ranges = Ranges::new(0, 25);
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
    fn what_is_given_back_is_taken_first_and_holds_the_watermark() {
        let mut ranges = Ranges::new(0, 30);
        let (one, two) = (ranges.take(10).unwrap(), ranges.take(10).unwrap());
        ranges.give_back(one);
        ranges.finish(two);
        assert_eq!((ranges.watermark(), ranges.left(), ranges.done()), (0, 20, 10));
        assert_eq!(ranges.take(5), Some(one));
        ranges.finish(one);
        assert_eq!((ranges.watermark(), ranges.left()), (20, 10));
    }

    #[test]
    fn neighbours_that_were_put_aside_are_recorded_as_one() {
        let mut ranges = Ranges::new(50, 50);
        for range in [(30, 40), (0, 10), (10, 20), (5, 12), (41, 42)] {
            ranges.defer(range, 4);
        }
        assert_eq!(ranges.deferred_merged(), [(0, 20), (30, 40), (41, 42)]);
        assert_eq!(ranges.deferred(), (12, 38));
        assert_eq!(ranges.take_deferred(), Some((30, 34)));
        // Until they are filled, whoever goes on after a crash must visit them.
        assert_eq!(ranges.deferred_merged(), [(0, 20), (30, 40), (41, 42)]);
        ranges.revisit_ended();
        assert_eq!(ranges.deferred_merged(), [(0, 20), (34, 40), (41, 42)]);
    }

    #[test]
    fn an_empty_table_has_no_ranges() {
        assert_eq!(Ranges::new(0, 0).take(10), None);
    }
}
