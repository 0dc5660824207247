//! Compares two queries by ranges of their key: counts and sums of hashes first, in one picture of both sides, and rows
//! only where those differ.
//!
//! What differs is looked at once more, a moment later, before it counts: somebody may have been in the middle of
//! changing both sides. A comparison that is interrupted starts over: it only reads.

use super::Runner;
use super::session::{Key, Tries, WATCH_BRIEF, interrupted};
use super::{Interrupt, retry};
use crate::error::{Error, ErrorKind};
use crate::event::{Event, Unit};
use crate::plan::{Match, Work};
use crate::units;
use deadpool_postgres::Object;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use text::{Edge, Side, Span};
use tokio_postgres::SimpleQueryMessage;

mod text;

/// A range should take about this long.
const TARGET: Duration = Duration::from_millis(100);

/// Rows per range: to begin with, at least and at most.
const ROWS_FIRST: u64 = 5_000;
const ROWS_MIN: u64 = 200;
const ROWS_MAX: u64 = 500_000;

/// The rows of a range are to take so many times what a question takes without any.
const FIXED_SHARE: i128 = 4;

/// A range of so few rows is not halved any more.
const ROWS_APART: u64 = 200;

/// Beyond so many rows that differ it is not counted how many they are.
pub const COUNTED: usize = 1_000;

/// Of these, so many are shown.
pub const SHOWN: usize = 20;

const AGAIN_AFTER: Duration = Duration::from_millis(200);
const TELL_EVERY: Duration = Duration::from_millis(500);

/// A row that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The key as JSON.
    pub key: String,
    kind: Kind,
    /// Names, not values.
    columns: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    OnlyLeft,
    OnlyRight,
    Twice,
    Differs,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    pub rows: Vec<Difference>,
    /// There are more of them.
    pub more: bool,
    /// Rows of either side whose key is not known in full.
    without_key: (u64, u64),
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Rows of the left side.
    done: u64,
    /// As the planner estimates them.
    total: u64,
}

/// Who asks the server, and how it is told about progress.
pub trait Asks: Sync {
    fn ask(&self, sql: &str) -> impl Future<Output = Result<Vec<SimpleQueryMessage>, Error>> + Send;

    /// # Errors
    /// When it is to stop.
    fn progress(&self, progress: Progress) -> Result<(), Error>;
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.without_key == (0, 0)
    }

    /// In a line.
    pub fn summary(&self, it: &Match) -> String {
        let (left, right) = (&it.sides.0, &it.sides.1);
        let count = |kind| self.rows.iter().filter(|row| row.kind == kind).count();
        let mut parts = Vec::new();
        for (kind, what) in [
            (Kind::OnlyLeft, format!("missing in {right}")),
            (Kind::OnlyRight, format!("missing in {left}")),
            (Kind::Differs, "different".into()),
            (Kind::Twice, "there twice".into()),
        ] {
            if count(kind) > 0 {
                parts.push(format!("{} {what}", units::counted(count(kind), "row")));
            }
        }
        let more = if self.more { "more than these: " } else { "" };
        for (count, side) in [(self.without_key.0, left), (self.without_key.1, right)] {
            if count > 0 {
                let rows = units::counted(usize::try_from(count).unwrap_or(usize::MAX), "row");
                parts.push(format!("{rows} of {side} without a key"));
            }
        }
        format!("{more}{}", parts.join(", "))
    }

    /// The first rows, by their keys.
    pub fn lines(&self, it: &Match) -> Vec<String> {
        let line = |row: &Difference| {
            let (key, (left, right)) = (&row.key, (&it.sides.0, &it.sides.1));
            match row.kind {
                Kind::OnlyLeft => format!("{key} is missing in {right}"),
                Kind::OnlyRight => format!("{key} is missing in {left}"),
                Kind::Twice => format!("{key} is there twice"),
                Kind::Differs => format!("{key} differs in {}", row.columns),
            }
        };
        self.rows.iter().take(SHOWN).map(line).collect()
    }
}

fn rows(messages: &[SimpleQueryMessage]) -> Vec<Vec<Option<String>>> {
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            let value = |at| row.get(at).map(str::to_owned);
            Some((0..row.len()).map(value).collect())
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

fn number(value: Option<&Option<String>>) -> u64 {
    let text = value.and_then(Option::as_deref).unwrap_or_default();
    text.parse().unwrap_or(0)
}

/// A range and what is in it.
struct Sums {
    left: u64,
    right: u64,
    alike: bool,
}

/// A comparison at work.
struct Comparer<'a, A> {
    it: &'a Match,
    asks: &'a A,
    /// Ranges in which rows were found that are not alike, and how many.
    suspects: Vec<(Span, usize)>,
}

impl<A: Asks> Comparer<'_, A> {
    async fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        Ok(rows(&self.asks.ask(sql).await?))
    }

    async fn edge(&self, side: Side, span: &Span, number: u64) -> Result<Option<Edge>, Error> {
        let found = self.rows(&text::edge(self.it, side, span, number)).await?;
        Ok(found.into_iter().next().and_then(|row| row.into_iter().collect()))
    }

    async fn sums(&self, span: &Span) -> Result<Sums, Error> {
        let found = self.rows(&text::sums(self.it, span)).await?;
        let row = found.into_iter().next().unwrap_or_default();
        Ok(Sums {
            left: number(row.first()),
            right: number(row.get(2)),
            alike: row.first() == row.get(2) && row.get(1) == row.get(3),
        })
    }

    async fn differences(&self, span: &Span) -> Result<Vec<Difference>, Error> {
        let found = self.rows(&text::differences(self.it, span, COUNTED + 1)).await?;
        let difference = |row: Vec<Option<String>>| {
            let mut row = row.into_iter().map(Option::unwrap_or_default);
            let key = row.next().unwrap_or_default();
            let kind = match row.next().as_deref() {
                Some("left") => Kind::OnlyLeft,
                Some("right") => Kind::OnlyRight,
                Some("twice") => Kind::Twice,
                _ => Kind::Differs,
            };
            let columns = row.next().unwrap_or_default();
            Difference { key, kind, columns }
        };
        Ok(found.into_iter().map(difference).collect())
    }

    fn suspected(&self) -> usize {
        self.suspects.iter().map(|(_, rows)| rows).sum()
    }

    /// Halves a range that differs until few rows are left.
    async fn narrow(&mut self, span: Span, sums: Sums) -> Result<(), Error> {
        let mut open = vec![(span, sums)];
        while let Some((span, sums)) = open.pop() {
            if self.suspected() > COUNTED {
                return Ok(());
            }
            let (side, most) = match sums.left >= sums.right {
                true => (Side::Left, sums.left),
                false => (Side::Right, sums.right),
            };
            let middle = match most > ROWS_APART {
                true => self.edge(side, &span, most / 2).await?,
                false => None,
            };
            // Many rows of one key cannot be told apart.
            let Some(middle) = middle.filter(|middle| Some(middle) != span.high.as_ref()) else {
                let rows = self.differences(&span).await?.len();
                if rows > 0 {
                    self.suspects.push((span, rows));
                }
                continue;
            };
            let upper = Span {
                low: Some(middle.clone()),
                high: span.high,
            };
            let lower = Span {
                low: span.low,
                high: Some(middle),
            };
            // The lower one comes off first.
            for half in [upper, lower] {
                let sums = self.sums(&half).await?;
                if !sums.alike {
                    open.push((half, sums));
                }
            }
        }
        Ok(())
    }

    /// Looks at all suspects again: what is still not alike is so.
    async fn settle(&mut self, found: &mut Differences) -> Result<(), Error> {
        if self.suspects.is_empty() {
            return Ok(());
        }
        let mut before = Vec::new();
        for (span, _) in &self.suspects {
            before.push(self.differences(span).await?);
        }
        tokio::time::sleep(AGAIN_AFTER).await;
        for ((span, _), before) in std::mem::take(&mut self.suspects).into_iter().zip(before) {
            let known: BTreeSet<&str> = before.iter().map(|row| row.key.as_str()).collect();
            let now = self.differences(&span).await?;
            found
                .rows
                .extend(now.into_iter().filter(|row| known.contains(row.key.as_str())));
        }
        if found.rows.len() > COUNTED {
            found.rows.truncate(COUNTED);
            found.more = true;
        }
        Ok(())
    }

    async fn estimate(&self) -> Result<u64, Error> {
        let plan = self.rows(&text::estimate(self.it, Side::Left)).await?;
        let plan: String = plan.into_iter().flatten().flatten().collect();
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap_or_default();
        let rows = plan
            .pointer("/0/Plan/Plan Rows")
            .and_then(serde_json::Value::as_f64);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(rows.unwrap_or(0.0) as u64)
    }

    async fn compare(&mut self) -> Result<Differences, Error> {
        let total = self.estimate().await?;
        let mut found = Differences::default();
        let unknown = self.rows(&text::without_key(self.it)).await?;
        if let Some(row) = unknown.first() {
            found.without_key = (number(row.first()), number(row.get(1)));
        }
        let mut span = Span::default();
        let (mut size, mut done, mut last) = (ROWS_FIRST, 0, None);
        loop {
            span.high = self.edge(Side::Left, &span, size - 1).await?;
            let began = Instant::now();
            let sums = self.sums(&span).await?;
            let seen = (size, began.elapsed());
            size = next_size(seen, last.replace(seen));
            done += sums.left;
            self.asks.progress(Progress {
                done,
                total: total.max(done),
            })?;
            if !sums.alike {
                self.narrow(span.clone(), sums).await?;
            }
            let high = span.high.take();
            if high.is_none() || self.suspected() > COUNTED {
                self.settle(&mut found).await?;
            }
            if high.is_none() || found.more {
                return Ok(found);
            }
            // Others have the disk and the processor to themselves for a while.
            tokio::time::sleep(began.elapsed() / 10).await;
            span.low = high;
        }
    }
}

/// The number of rows that take about the target time, told from this range and the one before: rows and time. What a
/// question takes whatever its range is, as the reading of a whole joined table, is worth it only with many rows.
fn next_size((size, took): (u64, Duration), last: Option<(u64, Duration)>) -> u64 {
    let micros = |time: Duration| i128::try_from(time.as_micros()).unwrap_or(i128::MAX);
    let (rows, time) = (i128::from(size), micros(took));
    // Where the line through both meets no rows at all.
    let fixed = match last {
        Some((before, took)) if before != size => {
            let (before, took) = (i128::from(before), micros(took));
            (took * rows - time * before) / (rows - before)
        }
        _ => 0,
    };
    let fixed = fixed.clamp(0, time * 9 / 10);
    let target = micros(TARGET).max(fixed * FIXED_SHARE);
    let wanted = rows * target / (time - fixed).max(1);
    let wanted = u64::try_from(wanted).unwrap_or(ROWS_MAX);
    wanted.clamp(size / 4, size * 2).clamp(ROWS_MIN, ROWS_MAX)
}

/// Compares all rows of both sides.
///
/// # Errors
/// What keeps it from asking, and the wish to stop.
pub async fn compare<A: Asks>(it: &Match, asks: &A) -> Result<Differences, Error> {
    let suspects = Vec::new();
    Comparer { it, asks, suspects }.compare().await
}

/// A question as it is sent: it only reads, and what it takes is bounded. A merge join would read what is joined from its
/// beginning for every range: the bounds of the key are not passed on to the far side of an outer join.
pub fn bounded(sql: &str, timeout_ms: u64) -> String {
    format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = '{timeout_ms}ms'; SET LOCAL row_security = off; SET LOCAL jit = off; \
         SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL enable_mergejoin = off; {sql}; COMMIT"
    )
}

/// A session of a run that asks.
struct Session<'a> {
    runner: &'a Runner,
    key: Key<'a>,
    work: &'a Work,
    session: Object,
    pid: i32,
    began: Instant,
    told: std::sync::Mutex<Instant>,
}

impl Asks for Session<'_> {
    async fn ask(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        let Work {
            timeouts, summary, ..
        } = self.work;
        let sql = bounded(sql, timeouts.statement_ms);
        let sent = self.session.simple_query(&sql);
        let mut blockers = Vec::new();
        let watched = self
            .runner
            .watch(self.key, self.pid, WATCH_BRIEF, sent, &mut blockers);
        let error = match watched.await {
            Ok(messages) => return Ok(messages),
            Err(error) => error,
        };
        let _ = self.session.batch_execute("ROLLBACK").await;
        self.runner.check_run_lock()?;
        let code = error.as_db_error().map(|db| db.code().code());
        let cancelled = matches!(retry::reaction(code), retry::Reaction::Cancelled);
        if cancelled && self.runner.interrupted() == Interrupt::Now {
            return Err(interrupted());
        }
        Err(Error::postgres(ErrorKind::StepFailed, summary, error))
    }

    #[allow(clippy::cast_precision_loss)]
    fn progress(&self, Progress { done, total }: Progress) -> Result<(), Error> {
        let mut told = self
            .told
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.elapsed() >= TELL_EVERY || done >= total {
            *told = Instant::now();
            self.runner.tell(Event::Progress {
                step: self.key.step.into(),
                stage: "comparing rows".into(),
                unit: Unit::Tuples,
                done,
                total,
                rows: done,
                per_second: done as f64 / self.began.elapsed().as_secs_f64().max(0.001),
                batch: None,
                lag: None,
            });
        }
        if self.runner.interrupted() > Interrupt::None {
            return Err(interrupted());
        }
        self.runner.check_run_lock()
    }
}

impl Runner {
    /// Gives the number of attempts.
    pub(super) async fn match_rows(&self, key: Key<'_>, it: &Match, work: &Work) -> Result<u32, Error> {
        let mut tries = Tries::new(self.deadline);
        let mut attempts = 0;
        let found = loop {
            attempts += 1;
            match self.match_once(key, it, work).await {
                Err(error) if error.kind == ErrorKind::Connection => {
                    self.reconnect(key, &mut tries, error).await?;
                }
                found => break found?,
            }
        };
        if found.is_empty() {
            return Ok(attempts);
        }
        let message = format!("{}: {}", it.name, found.summary(it));
        Err(Error::new(ErrorKind::StepFailed, message)
            .details(found.lines(it))
            .help(&it.help))
    }

    async fn match_once(&self, key: Key<'_>, it: &Match, work: &Work) -> Result<Differences, Error> {
        let (session, pid) = self.worker().await?;
        let now = Instant::now();
        let asks = Session {
            runner: self,
            key,
            work,
            session,
            pid,
            began: now,
            told: std::sync::Mutex::new(now),
        };
        compare(it, &asks).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_take_about_the_same_time() {
        let ms = Duration::from_millis;
        let alone = |size, took| next_size((size, ms(took)), None);
        assert_eq!(alone(5_000, 100), 5_000);
        assert_eq!(alone(5_000, 10), 10_000);
        assert_eq!(alone(5_000, 200), 2_500);
        assert_eq!(alone(5_000, 60_000), 1_250);
        assert_eq!(alone(200, 60_000), ROWS_MIN);
        assert_eq!(alone(400_000, 1), ROWS_MAX);
        // A second whatever the range is: fewer rows would only make it worse.
        let (few, many) = ((1_250, ms(1_025)), (5_000, ms(1_100)));
        assert_eq!(next_size(few, Some(many)), 2_500);
        assert_eq!(next_size(many, Some(few)), 10_000);
        assert_eq!(
            next_size((200_000, ms(5_000)), Some((100_000, ms(3_000)))),
            200_000
        );
    }
}
