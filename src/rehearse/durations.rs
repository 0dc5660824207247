//! How long a step will take where the tables have their real sizes: a guess that says how far off it may be.
//!
//! What reads or writes rows takes its time in proportion to the bytes of the table, a build of an index n log n; what
//! touches the catalog alone takes as long as here. A small table tells little about a large one, and this machine is not
//! that one: the range is from half to twice the guess, and doubles in both directions with every power of ten between the
//! two sizes, up to 16 times.

use crate::catalog::model::TableSize;
use crate::plan::{Action, DurationClass, Step};
use crate::sql::QualifiedName;
use serde::Serialize;
use std::collections::BTreeMap;

/// Sizes by table.
pub type Sizes = BTreeMap<QualifiedName, TableSize>;

/// In milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Guess {
    pub low_ms: u64,
    pub likely_ms: u64,
    pub high_ms: u64,
}

const MODEL_FACTOR_MAX: f64 = 16.0;

/// What is said of it in words.
pub const MODEL: &str = "proportional to the bytes of the table, n log n where an index is built; half to twice that, and \
     doubled both ways with every power of ten between the sizes, up to 16 times";

/// From how long the step took here; nothing where the real size is not known.
pub fn guess(step: &Step, took_us: u64, here: &Sizes, there: &Sizes) -> Option<Guess> {
    let took = as_f64(took_us) / 1_000.0;
    if step.estimate.duration == DurationClass::Instant && matches!(step.work.action, Action::Sql(_)) {
        return Some(range(took, 2.0));
    }
    let (here, there) = tables(step)
        .into_iter()
        .filter_map(|table| Some((here.get(table)?, there.get(table)?)))
        .max_by_key(|(_, there)| there.heap_bytes)?;
    let (small, large) = (bytes(here), bytes(there));
    let scale = large / small;
    let builds =
        matches!(&step.work.action, Action::Sql(texts) if texts.iter().any(|text| text.contains(" INDEX ")));
    let (rows, real) = (
        as_f64(here.rows.unsigned_abs()).max(2.0),
        as_f64(there.rows.unsigned_abs()).max(2.0),
    );
    let sorting = if builds {
        (real.log2() / rows.log2()).max(1.0)
    } else {
        1.0
    };
    let factor = (2.0 * 2_f64.powf(scale.max(1.0).log10())).min(MODEL_FACTOR_MAX);
    Some(range(took * scale.max(1.0) * sorting, factor))
}

fn range(likely: f64, factor: f64) -> Guess {
    let ms = |value: f64| crate::units::whole(value.round()).unwrap_or(u64::MAX);
    Guess {
        low_ms: ms(likely / factor),
        likely_ms: ms(likely),
        high_ms: ms(likely * factor),
    }
}

/// No table is smaller than a page.
fn bytes(size: &TableSize) -> f64 {
    as_f64(size.heap_bytes.unsigned_abs()).max(8_192.0)
}

#[allow(clippy::cast_precision_loss, reason = "a guess has no more than two digits")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

fn tables(step: &Step) -> Vec<&QualifiedName> {
    let mut found: Vec<&QualifiedName> = step.work.locks.iter().map(|lock| &lock.relation).collect();
    match &step.work.action {
        Action::Backfill(fill) => found.push(&fill.table),
        Action::Copy(copy) => found.push(&copy.from),
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_as_wide_as_the_sizes_are_apart() {
        let of = |likely, factor| {
            let guess = range(likely, factor);
            (guess.low_ms, guess.likely_ms, guess.high_ms)
        };
        assert_eq!(of(100.0, 2.0), (50, 100, 200));
        assert_eq!(of(1.0, 16.0), (0, 1, 16));
    }
}
