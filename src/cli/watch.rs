//! `status --watch`: the run that goes on, from another terminal, until it ends.

use super::{Failure, Global, Outcome, status};
use crate::error::Error;
use crate::event::Blocker;
use crate::executor::ledger::{self, Cursor, Run, RunState, StepState};
use crate::executor::stats::Now;
use crate::executor::waits::{self, Building};
use crate::executor::{self, blocker_line};
use crate::report::{out, safe, screen, style};
use crate::units;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Between two plans of a directory nobody holds the run lock for a moment.
const GONE_AFTER: u32 = 2;

/// Over how long the rate is an average.
const RATE_OVER: Duration = Duration::from_secs(10);

/// What somebody who looks on is told at one moment.
#[derive(Debug)]
struct Look {
    at: Timestamp,
    run: Run,
    runner: Option<Blocker>,
    /// Where the step at work is with its pages.
    fill: Option<Cursor>,
    building: Option<Building>,
    waits: Option<Now>,
    in_the_way: Vec<Blocker>,
}

/// Rows and pages of a step when they were looked at last.
#[derive(Debug, Clone)]
struct Before {
    step: String,
    /// Rows at the last looks: the cursor is written twice a second, and not at all while it rests.
    looks: VecDeque<(Instant, i64)>,
    /// At the first look at this step: a watermark moves in leaps, so only the average tells how long it will take.
    first: (Instant, i64),
}

/// How fast it was since then.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Pace {
    rows_per_second: Option<f64>,
    left_ms: Option<u64>,
}

/// Looks every so often until the run has ended, or Ctrl-C.
pub async fn run(client: &Client, global: &Global, name: Option<&str>, every: Duration) -> Outcome {
    let screen = (!global.is_json() && screen::can_be_drawn_on(&std::io::stdout())).then(Screen::new);
    let mut before = None;
    let mut gone = 0;
    loop {
        let Some(look) = look(client, name).await? else {
            out::result(&status::nothing(name))?;
            return Ok(0);
        };
        let (pace, next) = pace(before.take(), &look, Instant::now());
        before = next;
        gone = match look.runner {
            Some(_) => 0,
            None => gone + 1,
        };
        let is_over = look.is_over() || gone >= GONE_AFTER;
        match &screen {
            _ if global.is_json() => out::json_line(&look.json(pace, is_over))?,
            Some(screen) => screen.show(&look.human(pace)),
            None => out::result(&(look.line(pace) + "\n"))?,
        }
        if is_over {
            if let Some(screen) = screen {
                screen.end(&look.human(pace))?;
            }
            return Ok(0);
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = tokio::signal::ctrl_c() => {
                if let Some(screen) = screen {
                    screen.end(&look.human(pace))?;
                }
                return Ok(0);
            }
        }
    }
}

/// Of one part of what is shown.
const LINES: usize = 4;

/// Lines that are written over again and again.
struct Screen(ProgressBar);

impl Screen {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, screen::target(std::io::stdout()));
        let look = ProgressStyle::with_template("{msg}");
        bar.set_style(look.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Self(bar)
    }

    fn show(&self, text: &str) {
        let columns = screen::columns(std::io::stdout());
        let folded = |line: &str| {
            // Styles take no room.
            if safe::plain(line).chars().count() < columns {
                return line.to_owned();
            }
            let text = line.trim_start();
            let indent = " ".repeat(line.len() - text.len());
            let room = columns.saturating_sub(indent.len() + 3);
            format!(
                "{indent}{}",
                screen::folded(text, room, LINES).join(&format!("\n  {indent}"))
            )
        };
        let lines: Vec<String> = text.lines().map(folded).collect();
        self.0.set_message(out::as_on_stdout(&lines.join("\n")));
        self.0.tick();
    }

    /// What was seen last stays.
    fn end(&self, text: &str) -> Result<(), Error> {
        self.0.finish_and_clear();
        out::result(text)
    }
}

async fn look(client: &Client, name: Option<&str>) -> Result<Option<Look>, Failure> {
    if !ledger::exists(client).await? {
        return Ok(None);
    }
    let run = match name {
        Some(name) => ledger::latest_run(client, name).await?,
        None => {
            let mut runs = ledger::latest_runs(client).await?;
            let open = runs.iter().position(|run| is_open(run.state)).unwrap_or(0);
            (!runs.is_empty()).then(|| runs.swap_remove(open))
        }
    };
    let Some(run) = run else { return Ok(None) };
    let step = current(&run).map(|(_, step)| step.to_owned());
    let is_current = |it: &str| step.as_deref() == Some(it);
    let fills = ledger::cursors(client, run.id).await?;
    let undo = run.state == RunState::RollingBack;
    let stats = ledger::stats::read(client, run.id).await?;
    let stats = stats
        .into_iter()
        .find(|it| is_current(&it.step) && it.undo == undo);
    Ok(Some(Look {
        at: Timestamp::now(),
        runner: executor::runner(client).await?,
        fill: fills
            .into_iter()
            .find(|(step, _)| is_current(step))
            .map(|(_, cursor)| cursor),
        building: waits::building(client).await?,
        waits: stats.and_then(|it| it.stats.now),
        in_the_way: waits::in_the_way(client).await?,
        run,
    }))
}

fn is_open(state: RunState) -> bool {
    matches!(state, RunState::Started | RunState::RollingBack)
}

/// The step at work, by its place; between two steps the next one.
fn current(run: &Run) -> Option<(usize, &str)> {
    let steps = || run.steps.iter().enumerate();
    let found = match run.state {
        RunState::RollingBack => steps().rev().find(|(_, step)| step.state != StepState::Undone),
        RunState::Started => steps()
            .find(|(_, step)| matches!(step.state, StepState::Running | StepState::Failed))
            .or_else(|| steps().find(|(_, step)| step.state == StepState::Pending)),
        RunState::Completed | RunState::RolledBack => None,
    };
    found.map(|(position, step)| (position, step.id.as_str()))
}

/// The pace since the last look, and what to compare the next with.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn pace(before: Option<Before>, look: &Look, now: Instant) -> (Pace, Option<Before>) {
    let (Some((_, step)), Some(fill)) = (current(&look.run), &look.fill) else {
        return (Pace::default(), None);
    };
    let begun = Before {
        step: step.to_owned(),
        looks: VecDeque::from([(now, fill.rows_done)]),
        first: (now, fill.next_page),
    };
    let Some(mut before) = before.filter(|before| before.step == step) else {
        return (Pace::default(), Some(begun));
    };
    let is_old = |look: &(Instant, i64)| now.duration_since(look.0) > RATE_OVER;
    while before.looks.len() > 1 && before.looks.front().is_some_and(is_old) {
        before.looks.pop_front();
    }
    let Some((at, rows_then)) = before.looks.front().copied() else {
        return (Pace::default(), Some(begun));
    };
    let (first_at, first_page) = before.first;
    let (rows, pages) = (fill.rows_done - rows_then, fill.next_page - first_page);
    let seconds = now.duration_since(at).as_secs_f64();
    // A table that was rewritten begins anew.
    if seconds <= 0.0 || rows < 0 || pages < 0 {
        return (Pace::default(), Some(begun));
    }
    let left = (fill.end_page - fill.next_page).max(0) as f64;
    let looked = now.duration_since(first_at).as_secs_f64();
    let pace = Pace {
        rows_per_second: Some(rows as f64 / seconds),
        left_ms: (pages > 0).then(|| (left * looked / pages as f64 * 1_000.0) as u64),
    };
    before.looks.push_back((now, fill.rows_done));
    (pace, Some(before))
}

impl Look {
    fn is_over(&self) -> bool {
        !is_open(self.run.state)
    }

    fn state(&self) -> &'static str {
        match self.run.state {
            RunState::Completed => "completed",
            RunState::RolledBack => "rolled back",
            _ if self.runner.is_none() => "stopped, not finished",
            RunState::Started => "running",
            RunState::RollingBack => "rolling back",
        }
    }

    fn phase(&self) -> Option<&'static str> {
        let (_, id) = current(&self.run)?;
        let step = self.run.plan.steps.iter().find(|step| step.id == id);
        step.map(|step| step.phase.name())
    }

    /// How far the step is and how fast, what it waits for, who is in the way.
    fn parts(&self, pace: Pace) -> Vec<String> {
        let mut parts = Vec::new();
        let count = |number: i64| units::count(u64::try_from(number).unwrap_or(0));
        if let Some(fill) = &self.fill {
            let mut text = format!(
                "{} of {} pages ({} %), {} rows",
                count(fill.next_page),
                count(fill.end_page),
                100 * fill.next_page / fill.end_page.max(1),
                count(fill.rows_done)
            );
            if let Some(rate) = pace.rows_per_second {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let whole = rate as u64;
                let _ = write!(text, ", {} rows/s", units::count(whole));
            }
            if let Some(left) = pace.left_ms {
                let _ = write!(text, ", {} left", units::millis(left));
            }
            parts.push(text);
        }
        if let Some(building) = &self.building {
            parts.push(format!(
                "{}, {} of {} {}",
                building.stage,
                units::count(building.done),
                units::count(building.total),
                building.unit
            ));
        }
        if let Some(waits) = self.waits.as_ref().filter(|_| self.runner.is_some()) {
            let since = match waits.waited_ms {
                ms @ 1_000.. => format!(" for {}", units::millis(ms)),
                _ => String::new(),
            };
            parts.push(format!("waits{since}: {}", waits.reason));
        }
        parts.extend(
            self.in_the_way
                .iter()
                .map(|it| format!("in the way: {}", blocker_line(it))),
        );
        parts
    }

    fn done(&self, phase: Option<&str>) -> (usize, usize) {
        let mut sums = (0, 0);
        for (step, record) in self.run.plan.steps.iter().zip(&self.run.steps) {
            if phase.is_none_or(|phase| step.phase.name() == phase) {
                sums.1 += 1;
                sums.0 += usize::from(record.state == StepState::Done);
            }
        }
        sums
    }

    fn human(&self, pace: Pace) -> String {
        let (done, all) = self.done(None);
        let mut text = format!(
            "{} (run {}): {}, {done} of {} done\n",
            style::name(&self.run.plan.name),
            self.run.id,
            self.state(),
            units::counted(all, "step")
        );
        for (phase, _) in self.run.plan.phases() {
            let (done, all) = self.done(Some(phase.name()));
            let mark = match self.phase() == Some(phase.name()) {
                true => style::careful(">"),
                false if done == all => style::good("+"),
                false => " ".to_owned(),
            };
            let _ = writeln!(text, "  {mark} {:8} {done} of {all}", phase.name());
        }
        if let Some((position, id)) = current(&self.run) {
            let step = self.run.plan.steps.get(position);
            let summary = step.map_or("", |step| step.work.summary.as_str());
            let _ = writeln!(text, "  {}: {summary}", style::name(id));
        }
        for part in self.parts(pace) {
            let _ = writeln!(text, "    {part}");
        }
        text
    }

    /// For logs and pipes.
    fn line(&self, pace: Pace) -> String {
        let (done, all) = self.done(None);
        let mut text = format!(
            "{} {} (run {}) {}, {done} of {} done",
            crate::report::status::time(self.at),
            self.run.plan.name,
            self.run.id,
            self.state(),
            units::counted(all, "step")
        );
        if let (Some(phase), Some((_, id))) = (self.phase(), current(&self.run)) {
            let _ = write!(text, "; {phase} {id}");
        }
        for part in self.parts(pace) {
            let _ = write!(text, "; {part}");
        }
        text
    }

    fn json(&self, pace: Pace, is_over: bool) -> Value {
        let (done, all) = self.done(None);
        json!({
            "at": self.at,
            "plan": self.run.plan.name,
            "run": self.run.id,
            "state": self.run.state.name(),
            "running": self.runner.is_some(),
            "over": is_over,
            "phase": self.phase(),
            "step": current(&self.run).map(|(_, id)| id),
            "steps": all,
            "done": done,
            "fill": self.fill,
            "building": self.building,
            "rows_per_second": pace.rows_per_second,
            "left_ms": pace.left_ms,
            "waits": self.waits,
            "blockers": self.in_the_way,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, compile, table};

    fn look(rows: i64, next_page: i64) -> Look {
        let catalog = catalog().with("t", table(&["a bigint"]));
        let plan = compile(&catalog, "  - set_default: {table: t, column: a, default: 1}\n").unwrap();
        let step = ledger::StepRecord {
            id: plan.steps[0].id.clone(),
            state: StepState::Running,
            attempts: 1,
            undone_works: 0,
            started_at: None,
            finished_at: None,
            error: None,
        };
        let at = Timestamp::UNIX_EPOCH;
        let run = Run {
            id: 3,
            plan,
            state: RunState::Started,
            started_by: "x".into(),
            client: None,
            started_at: at,
            updated_at: at,
            finished_at: None,
            baseline: false,
            steps: vec![step],
        };
        Look {
            at,
            run,
            runner: None,
            fill: Some(Cursor {
                file_node: 1,
                next_page,
                end_page: 1_000,
                deferred: Vec::new(),
                rows_done: rows,
                batches: 1,
            }),
            building: None,
            waits: None,
            in_the_way: Vec::new(),
        }
    }

    #[test]
    fn the_pace_is_that_between_two_looks() {
        let began = Instant::now();
        let (first, before) = pace(None, &look(0, 0), began);
        assert_eq!(first, Pace::default());
        let (second, _) = pace(before.clone(), &look(5_000, 250), began + Duration::from_secs(2));
        assert_eq!(second.rows_per_second, Some(2_500.0));
        assert_eq!(second.left_ms, Some(6_000));
        let (stands, _) = pace(before.clone(), &look(0, 0), began + Duration::from_secs(2));
        assert_eq!((stands.rows_per_second, stands.left_ms), (Some(0.0), None));
        let (rewritten, _) = pace(
            before.map(|before| Before {
                first: (began, 400),
                ..before
            }),
            &look(5_000, 3),
            began + Duration::from_secs(2),
        );
        assert_eq!(rewritten, Pace::default(), "it began anew");
        let line = look(5_000, 250).line(second);
        assert_eq!(
            line,
            "1970-01-01 00:00:00Z test (run 3) stopped, not finished, 0 of 1 step done; expand 01-set_default-set; 250 of \
             1,000 pages (25 %), 5,000 rows, 2,500 rows/s, 6s left"
        );
    }
}
