//! In which order the batches of a stretch of pages visit it. Pure.
//!
//! A pass updates one slice of each page's line pointers. The old versions that it leaves are pruned when the next pass
//! reads the page, which then finds room on it: its rows stay there and need no new index entries. Between two passes
//! over a page the other pages of the stretch are visited, so that transactions which may still see the old versions
//! have time to end.

use super::controller::Shape;
use super::ranges::Range;

/// So many batches of pages alternate.
const ABREAST: i64 = 4;

/// Long enough for batches to find their size among the passes of the first stretch.
const STRETCH_MIN: i64 = 1_024;

/// One batch of a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) pages: Range,
    /// From 0.
    pub(super) pass: i64,
    pub(super) passes: i64,
}

impl Visit {
    /// All rows of these pages at once.
    pub(super) fn whole(pages: Range) -> Self {
        Self {
            pages,
            pass: 0,
            passes: 1,
        }
    }

    /// Takes every row that still needs it.
    pub(super) fn is_last(&self) -> bool {
        self.pass + 1 == self.passes
    }

    /// The rows that it takes, besides that they need it, by this spelling of their address.
    pub(super) fn condition(&self, ctid: &str) -> String {
        let (first, end) = self.pages;
        let pages = format!("{ctid} >= '({first},0)' AND {ctid} < '({end},0)'");
        if self.is_last() {
            return pages;
        }
        // What earlier passes filled does not match any more: a growing part is as good as the next slice.
        let (passes, below) = (self.passes, self.pass + 1);
        format!("{pages} AND pg_catalog.get_byte(pg_catalog.tidsend({ctid}), 5) % {passes} < {below}")
    }
}

/// Pages per stretch, where so many are left for so many workers: towards the end they get fewer, so that all of them
/// end at about the same time.
pub(super) fn stretch(shape: Shape, left: i64, workers: u32) -> i64 {
    let batches = shape.pages.max(shape.first) * ABREAST;
    let share = left / (2 * i64::from(workers.max(1)));
    share.clamp(batches.min(STRETCH_MIN / 4), batches.max(STRETCH_MIN))
}

/// The batches that fill a stretch, in order.
#[derive(Debug)]
pub(super) struct Visits {
    range: Range,
    passes: i64,
    pass: i64,
    page: i64,
}

impl Visits {
    pub(super) fn new(range: Range, passes: i64) -> Self {
        Self {
            range,
            passes,
            pass: 0,
            page: range.0,
        }
    }

    /// Where there are several passes, others are to come between two batches over the same pages.
    fn most(&self) -> i64 {
        let pages = self.range.1 - self.range.0;
        if self.passes > 1 { pages / ABREAST } else { pages }
    }

    /// The next one, of so many pages as the shape says by now, and of none that were put aside: every further pass
    /// would keep the other rows of these waiting again.
    pub(super) fn next(&mut self, shape: Shape, put_aside: &[Range]) -> Option<Visit> {
        self.skip(put_aside);
        if self.pass >= self.passes || self.page >= self.range.1 {
            return None;
        }
        let pages = shape.pages_in(self.pass).min(self.most()).max(1);
        let whole = (self.page + pages).min(self.range.1);
        let starts = put_aside.iter().map(|range| range.0);
        let upto = starts.filter(|start| *start > self.page).fold(whole, i64::min);
        let visit = Visit {
            pages: (self.page, upto),
            pass: self.pass,
            passes: self.passes,
        };
        self.page = upto;
        self.skip(put_aside);
        Some(visit)
    }

    /// To a page that is to be visited, in the next pass if there is none left in this one.
    fn skip(&mut self, put_aside: &[Range]) {
        let holds = |page: i64| {
            put_aside
                .iter()
                .find(move |(first, end)| *first <= page && page < *end)
        };
        while let Some((_, end)) = holds(self.page) {
            self.page = *end;
        }
        if self.page >= self.range.1 && self.pass < self.passes {
            self.page = self.range.0;
            self.pass += 1;
            while let Some((_, end)) = holds(self.page) {
                self.page = *end;
            }
        }
    }

    pub(super) fn ends_pass(&self, visit: &Visit) -> bool {
        self.pass > visit.pass
    }

    /// Whether all rows of the stretch are filled with it.
    pub(super) fn is_last(&self, visit: &Visit) -> bool {
        visit.is_last() && self.ends_pass(visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(pages: i64, slices: i64) -> Shape {
        Shape {
            first: pages,
            pages,
            slices,
        }
    }

    fn visits(range: Range, shape: Shape) -> impl Iterator<Item = Visit> {
        let mut visits = Visits::new(range, shape.slices);
        std::iter::from_fn(move || visits.next(shape, &[]))
    }

    #[test]
    fn batches_change_their_size_between_passes() {
        let mut visits = Visits::new((0, 24), 2);
        let mut next = |pages| {
            visits
                .next(shape(pages, 2), &[])
                .map(|visit| (visit.pass, visit.pages))
        };
        assert_eq!(next(4), Some((0, (0, 4))));
        // A quarter of the stretch at most.
        assert_eq!(next(9), Some((0, (4, 10))));
        assert_eq!(next(6), Some((0, (10, 16))));
        assert_eq!(next(6), Some((0, (16, 22))));
        assert_eq!(next(6), Some((0, (22, 24))));
        assert_eq!(next(6), Some((1, (0, 6))));
        assert_eq!(next(1), Some((1, (6, 7))));
    }

    #[test]
    fn pages_that_were_put_aside_are_left_out() {
        let mut visits = Visits::new((0, 20), 2);
        let mut next = |held: &[Range]| {
            let visit = visits.next(shape(8, 2), held)?;
            Some((visit.pass, visit.pages, visits.is_last(&visit)))
        };
        assert_eq!(next(&[]), Some((0, (0, 5), false)));
        assert_eq!(next(&[(0, 4)]), Some((0, (5, 10), false)));
        let held = [(0, 4), (10, 12), (18, 20)];
        assert_eq!(next(&held), Some((0, (12, 17), false)));
        assert_eq!(next(&held), Some((0, (17, 18), false)));
        assert_eq!(next(&held), Some((1, (4, 9), false)));
        assert_eq!(next(&held), Some((1, (9, 10), false)));
        assert_eq!(next(&held), Some((1, (12, 17), false)));
        assert_eq!(next(&held), Some((1, (17, 18), true)));
        assert_eq!(next(&held), None);
        assert_eq!(Visits::new((0, 9), 3).next(shape(4, 3), &[(0, 9)]), None);
    }

    #[test]
    fn several_workers_end_together() {
        assert_eq!(stretch(shape(64, 10), 100_000, 1), 1_024);
        assert_eq!(stretch(shape(512, 10), 100_000, 1), 2_048);
        assert_eq!(stretch(shape(8, 10), 10, 1), 32);
        let of_two = |left| stretch(shape(64, 10), left, 2);
        assert_eq!((of_two(100_000), of_two(2_000), of_two(100)), (1_024, 500, 256));
    }

    #[test]
    fn passes_alternate_between_the_batches() {
        let order: Vec<_> = visits((10, 26), shape(10, 2))
            .map(|visit| (visit.pages, visit.pass, visit.is_last()))
            .collect();
        assert_eq!(
            order,
            [
                ((10, 14), 0, false),
                ((14, 18), 0, false),
                ((18, 22), 0, false),
                ((22, 26), 0, false),
                ((10, 14), 1, true),
                ((14, 18), 1, true),
                ((18, 22), 1, true),
                ((22, 26), 1, true)
            ]
        );
    }

    #[test]
    fn the_last_pass_takes_every_row() {
        let conditions: Vec<_> = visits((0, 1), shape(1, 3))
            .map(|visit| visit.condition("ctid"))
            .collect();
        insta::assert_snapshot!(conditions.join("\n"), @r"
        ctid >= '(0,0)' AND ctid < '(1,0)' AND pg_catalog.get_byte(pg_catalog.tidsend(ctid), 5) % 3 < 1
        ctid >= '(0,0)' AND ctid < '(1,0)' AND pg_catalog.get_byte(pg_catalog.tidsend(ctid), 5) % 3 < 2
        ctid >= '(0,0)' AND ctid < '(1,0)'
        ");
    }

    #[test]
    fn every_page_is_visited_in_every_pass() {
        for (range, shape) in [
            ((0, 1), shape(64, 10)),
            ((3, 260), shape(64, 3)),
            ((0, 7), shape(1, 1)),
        ] {
            for pass in 0..shape.slices {
                let pages: Vec<i64> = visits(range, shape)
                    .filter(|visit| visit.pass == pass)
                    .flat_map(|visit| visit.pages.0..visit.pages.1)
                    .collect();
                assert_eq!(pages, (range.0..range.1).collect::<Vec<_>>());
            }
        }
    }
}
