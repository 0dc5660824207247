//! How much a backfill takes on at once: pages per batch, and passes over each page. Pure: what was seen is passed in.

use std::time::Duration;

/// A batch should take about this long: its row locks are what the application may wait for.
const TARGET: Duration = Duration::from_millis(10);

/// What hardly any batch should exceed: the first pass over pages works harder than the others.
const CEILING: Duration = Duration::from_millis(25);

/// With more passes the index entries of one pass fit into the room that the leaf pages have anyway; beyond this, a
/// further pass saves no more than it costs.
const SLICES_MAX: i64 = 10;

/// Small enough to start with on any storage, large enough to be worth a commit.
const PAGES_FIRST: i64 = 64;
const PAGES_MAX: i64 = 1_024;
const WHOLE_PAGES_MAX: i64 = 128;

/// A stretch without passes counts that many before passes are tried again: what kept row versions may be gone.
const STRETCHES_WHOLE: u32 = 64;

/// Fewer updates than this say nothing.
const UPDATES_MIN: i64 = 200;

/// Below this share, passes cost more than they save.
const HOT_WORTHWHILE: f64 = 0.3;

/// What the batches of one stretch of pages have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Pages per batch of the first pass, whose rows leave their pages.
    pub(super) first: i64,
    /// Pages per batch of the other passes.
    pub(super) pages: i64,
    /// Passes over each page; 1 takes it whole.
    pub(super) slices: i64,
}

impl Shape {
    pub(super) fn pages_in(&self, pass: i64) -> i64 {
        match pass {
            0 => self.first,
            _ => self.pages,
        }
    }
}

/// Updates, and how many of them stayed on their page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Updates {
    pub(super) rows: i64,
    pub(super) hot: i64,
}

impl Updates {
    pub(super) fn add(&mut self, more: Self) {
        self.rows += more.rows;
        self.hot += more.hot;
    }

    #[allow(clippy::cast_precision_loss)]
    fn share(self) -> Option<f64> {
        (self.rows >= UPDATES_MIN).then(|| self.hot as f64 / self.rows as f64)
    }
}

/// What the batches of a stretch were like.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) shape: Shape,
    /// Of the present pass.
    pub(super) times: Vec<Duration>,
    /// What a batch of no pages takes.
    pub(super) overhead: Duration,
    pub(super) first_pass: Updates,
    pub(super) later_passes: Updates,
}

impl Seen {
    pub(super) fn new(shape: Shape, overhead: Duration) -> Self {
        Self {
            shape,
            times: Vec::new(),
            overhead,
            first_pass: Updates::default(),
            later_passes: Updates::default(),
        }
    }
}

/// What is worth telling about a change of mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Lesson {
    Nothing,
    /// Rows leave their pages in spite of the passes.
    PassesAreUseless,
    /// They would, for old versions stay.
    HorizonHeld,
    HorizonReleased,
}

/// Why pages are taken whole although passes were planned, and how many passes to go back to.
#[derive(Debug, Clone, Copy)]
enum Whole {
    /// For so many stretches more.
    Useless { before: i64, left: u32 },
    /// Until whoever keeps old versions lets go.
    HorizonHeld { before: i64 },
}

/// Chooses the shape of the next stretch by what the last ones were like.
#[derive(Debug, Clone)]
pub(super) struct Pacer {
    shape: Shape,
    slices_max: i64,
    whole: Option<Whole>,
}

impl Pacer {
    /// `indexed` tells that an index covers what is filled: no update can stay on its page then.
    pub(super) fn new(rows_per_page: i64, fillfactor: i64, indexed: bool) -> Self {
        let slices_max = match indexed {
            true => 1,
            false => SLICES_MAX.min(rows_per_page).max(1),
        };
        let slices = slices_for(fillfactor).min(slices_max);
        let pages = PAGES_FIRST.min(pages_max(slices));
        Self {
            shape: Shape {
                first: pages,
                pages,
                slices,
            },
            slices_max,
            whole: None,
        }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// After each pass: the next one need not be as wrong. Gives the shape to go on with.
    pub(super) fn adapt(&mut self, seen: &Seen, pass: i64) -> Shape {
        let pages = next_pages(seen.shape, pass, &seen.times, seen.overhead);
        // Another worker may have changed the shape meanwhile: what was seen speaks of its own only.
        let mut shape = seen.shape;
        for shape in [&mut shape, &mut self.shape] {
            if shape.slices == seen.shape.slices {
                match pass {
                    0 => shape.first = pages,
                    _ => shape.pages = pages,
                }
            }
        }
        if shape.slices == 1 {
            shape.pages = shape.first;
            self.shape.pages = self.shape.first;
        }
        shape
    }

    /// After a stretch.
    pub(super) fn learn(&mut self, seen: &Seen) -> Lesson {
        if seen.shape.slices != self.shape.slices {
            return Lesson::Nothing;
        }
        let slices = self.shape.slices;
        if let Some(Whole::Useless { before, left }) = self.whole {
            self.whole = match left {
                0 => self.reshape(before),
                _ => Some(Whole::Useless {
                    before,
                    left: left - 1,
                }),
            };
        } else if slices > 1
            && let Some(share) = seen.later_passes.share()
        {
            if share < HOT_WORTHWHILE {
                self.reshape(1);
                self.whole = Some(Whole::Useless {
                    before: slices,
                    left: STRETCHES_WHOLE,
                });
                return Lesson::PassesAreUseless;
            }
            self.shape.slices = next_slices(slices, self.slices_max, seen.first_pass);
        }
        Lesson::Nothing
    }

    /// Whether somebody keeps old versions at present.
    pub(super) fn horizon(&mut self, held: bool) -> Lesson {
        let slices = self.shape.slices;
        match self.whole {
            None if held && slices > 1 => {
                self.reshape(1);
                self.whole = Some(Whole::HorizonHeld { before: slices });
                Lesson::HorizonHeld
            }
            Some(Whole::HorizonHeld { before }) if !held => {
                self.whole = self.reshape(before);
                Lesson::HorizonReleased
            }
            _ => Lesson::Nothing,
        }
    }

    /// Rows leave their pages, and a VACUUM would make the room that they leave usable for the next ones.
    pub(super) fn leaves_room(&self) -> bool {
        self.shape.slices == 1 && !matches!(self.whole, Some(Whole::HorizonHeld { .. }))
    }

    /// A batch met the hard end.
    pub(super) fn shrink(&mut self) {
        self.shape = shrunk(self.shape);
    }

    /// Keeps the rows per batch about the same.
    fn reshape(&mut self, slices: i64) -> Option<Whole> {
        let before = self.shape.slices;
        let pages = |pages: i64| (pages * slices / before).clamp(1, pages_max(slices));
        self.shape = Shape {
            first: pages(self.shape.first),
            pages: pages(self.shape.pages),
            slices,
        };
        None
    }
}

/// Pages per batch that takes them whole and is no longer than one that takes a slice.
pub(super) fn whole_pages(shape: Shape) -> i64 {
    (shape.pages / shape.slices.max(1)).clamp(1, WHOLE_PAGES_MAX)
}

pub(super) fn shrunk(shape: Shape) -> Shape {
    Shape {
        first: (shape.first / 4).max(1),
        pages: (shape.pages / 4).max(1),
        ..shape
    }
}

fn pages_max(slices: i64) -> i64 {
    if slices > 1 { PAGES_MAX } else { WHOLE_PAGES_MAX }
}

/// So many passes that the rows of the first one find room on their own pages.
fn slices_for(fillfactor: i64) -> i64 {
    match 100 - fillfactor {
        ..=0 => SLICES_MAX,
        free => ((100 + free - 1) / free + 1).min(SLICES_MAX),
    }
}

/// One pass less where even the first one stayed on its pages, one more where it did not.
fn next_slices(slices: i64, most: i64, first_pass: Updates) -> i64 {
    match first_pass.share() {
        Some(share) if share >= 0.98 => (slices - 1).max(2).min(most),
        Some(share) if share < 0.9 => (slices + 1).min(most),
        _ => slices,
    }
}

/// Towards the target and below the ceiling, growing at most twofold and shrinking at once. On a busy server a batch of
/// no pages takes more than the target; smaller batches would make nothing shorter, so that part does not count.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn next_pages(shape: Shape, pass: i64, times: &[Duration], overhead: Duration) -> i64 {
    let mut work: Vec<f64> = times
        .iter()
        .map(|took| took.saturating_sub(overhead).as_secs_f64().max(1e-4))
        .collect();
    let pages = shape.pages_in(pass);
    if work.is_empty() {
        return pages;
    }
    work.sort_by(f64::total_cmp);
    let typical = work[work.len() / 2];
    // One hiccup among several batches says nothing about their size.
    let worst = work[(work.len() * 95 / 100).min(work.len().saturating_sub(2))];
    let factor = (TARGET.as_secs_f64() / typical).min(CEILING.as_secs_f64() / worst);
    let wanted = (pages as f64 * factor.clamp(0.1, 2.0)).round() as i64;
    wanted.clamp(1, pages_max(shape.slices))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(list: &[u64]) -> Vec<Duration> {
        list.iter().map(|ms| Duration::from_millis(*ms)).collect()
    }

    fn next(pages: i64, list: &[u64], overhead: u64) -> i64 {
        let shape = Shape {
            first: 1,
            pages,
            slices: 10,
        };
        next_pages(shape, 1, &times(list), Duration::from_millis(overhead))
    }

    fn seen(shape: Shape, first_hot: i64, later_hot: i64) -> Seen {
        let of_thousand = |hot| Updates { rows: 1_000, hot };
        Seen {
            times: times(&[10; 20]),
            first_pass: of_thousand(first_hot),
            later_passes: of_thousand(later_hot),
            ..Seen::new(shape, Duration::ZERO)
        }
    }

    #[test]
    fn batches_approach_the_target() {
        assert_eq!(next(16, &[1; 10], 0), 32);
        assert_eq!(next(100, &[20; 10], 0), 50);
        assert_eq!(next(1, &[5_000], 0), 1);
        assert_eq!(next(PAGES_MAX, &[1; 10], 0), PAGES_MAX);
        assert_eq!(next(100, &[], 0), 100);
    }

    #[test]
    fn the_first_pass_counts_against_the_ceiling() {
        let mut list = vec![10; 36];
        list.extend([50; 4]);
        assert_eq!(next(100, &list, 0), 50);
    }

    #[test]
    fn one_hiccup_in_many_does_not_count() {
        let mut list = vec![10; 39];
        list.push(200);
        assert_eq!(next(100, &list, 0), 100);
    }

    #[test]
    fn a_busy_server_does_not_make_batches_of_one_page() {
        assert_eq!(next(1, &[21; 4], 20), 2);
        assert_eq!(next(16, &[25; 4], 20), 32);
        assert_eq!(next(16, &[40; 4], 20), 8);
    }

    #[test]
    fn the_first_pass_has_a_size_of_its_own() {
        let mut pacer = Pacer::new(58, 100, false);
        let mut seen = seen(pacer.shape(), 0, 0);
        seen.times = times(&[20; 4]);
        seen.shape = pacer.adapt(&seen, 0);
        seen.times = times(&[5; 4]);
        seen.shape = pacer.adapt(&seen, 1);
        assert_eq!((seen.shape.first, seen.shape.pages), (32, 128));
        assert_eq!(pacer.shape(), seen.shape);
    }

    #[test]
    fn passes_follow_the_room_on_the_pages() {
        let slices = |rows, fillfactor| Pacer::new(rows, fillfactor, false).shape().slices;
        assert_eq!(slices(58, 100), 10);
        assert_eq!(slices(58, 80), 6);
        assert_eq!(slices(58, 50), 3);
        assert_eq!(slices(4, 100), 4);
        assert_eq!(slices(0, 100), 1);
    }

    #[test]
    fn passes_follow_what_the_first_one_found() {
        let mut pacer = Pacer::new(58, 80, false);
        let _ = pacer.learn(&seen(pacer.shape(), 1_000, 1_000));
        assert_eq!(pacer.shape().slices, 5);
        let _ = pacer.learn(&seen(pacer.shape(), 950, 990));
        assert_eq!(pacer.shape().slices, 5);
        let _ = pacer.learn(&seen(pacer.shape(), 100, 900));
        assert_eq!(pacer.shape().slices, 6);
    }

    #[test]
    fn useless_passes_are_given_up_and_tried_again_later() {
        let mut pacer = Pacer::new(58, 100, false);
        let first = pacer.shape();
        assert_eq!(pacer.learn(&seen(first, 0, 100)), Lesson::PassesAreUseless);
        let whole = pacer.shape();
        assert_eq!((whole.slices, whole.pages), (1, 6));
        for _ in 0..=STRETCHES_WHOLE {
            assert_eq!(pacer.shape().slices, 1);
            assert_eq!(pacer.learn(&seen(pacer.shape(), 0, 0)), Lesson::Nothing);
        }
        assert_eq!(pacer.shape().slices, 10);
    }

    #[test]
    fn pages_are_taken_whole_while_old_versions_stay() {
        let mut pacer = Pacer::new(58, 100, false);
        let before = pacer.shape();
        assert_eq!(pacer.horizon(false), Lesson::Nothing);
        assert_eq!(pacer.horizon(true), Lesson::HorizonHeld);
        assert_eq!(pacer.horizon(true), Lesson::Nothing);
        assert_eq!(pacer.shape().slices, 1);
        assert!(!pacer.leaves_room(), "a VACUUM would remove nothing");
        assert_eq!(pacer.horizon(false), Lesson::HorizonReleased);
        assert_eq!(pacer.shape().slices, before.slices);
    }

    #[test]
    fn under_an_index_there_are_no_passes_at_all() {
        let mut pacer = Pacer::new(58, 80, true);
        assert_eq!(pacer.shape().slices, 1);
        assert!(pacer.leaves_room());
        assert_eq!(pacer.learn(&seen(pacer.shape(), 0, 0)), Lesson::Nothing);
        assert_eq!(pacer.horizon(true), Lesson::Nothing);
        assert_eq!(pacer.shape().slices, 1);
    }

    #[test]
    fn what_was_seen_of_another_shape_is_ignored() {
        let mut pacer = Pacer::new(58, 100, false);
        let before = pacer.shape();
        let other = Shape {
            first: 7,
            pages: 7,
            slices: 1,
        };
        assert_eq!(pacer.learn(&seen(other, 0, 0)), Lesson::Nothing);
        assert_eq!(pacer.shape(), before);
    }
}
