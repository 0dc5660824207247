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

    /// The rows that it takes, besides that they need it.
    pub(super) fn condition(&self) -> String {
        let (first, end) = self.pages;
        let pages = format!("ctid >= '({first},0)' AND ctid < '({end},0)'");
        if self.is_last() {
            return pages;
        }
        // What earlier passes filled does not match any more: a growing part is as good as the next slice.
        let (passes, below) = (self.passes, self.pass + 1);
        format!("{pages} AND pg_catalog.get_byte(pg_catalog.tidsend(ctid), 5) % {passes} < {below}")
    }
}

/// Pages per stretch.
pub(super) fn stretch(shape: Shape) -> i64 {
    shape.pages * ABREAST
}

/// The batches that fill a stretch, in order.
pub(super) fn visits((first, end): Range, shape: Shape) -> impl Iterator<Item = Visit> {
    (0..shape.slices).flat_map(move |pass| {
        let step = usize::try_from(shape.pages).unwrap_or(1).max(1);
        (first..end).step_by(step).map(move |page| Visit {
            pages: (page, (page + shape.pages).min(end)),
            pass,
            passes: shape.slices,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(pages: i64, slices: i64) -> Shape {
        Shape { pages, slices }
    }

    #[test]
    fn passes_alternate_between_the_batches() {
        let order: Vec<_> = visits((10, 25), shape(10, 2))
            .map(|visit| (visit.pages, visit.pass, visit.is_last()))
            .collect();
        assert_eq!(
            order,
            [
                ((10, 20), 0, false),
                ((20, 25), 0, false),
                ((10, 20), 1, true),
                ((20, 25), 1, true)
            ]
        );
    }

    #[test]
    fn the_last_pass_takes_every_row() {
        let conditions: Vec<_> = visits((0, 1), shape(1, 3))
            .map(|visit| visit.condition())
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
