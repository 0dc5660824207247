//! A run for people at a terminal: what each step took, and what it waited for.

use super::run_view::{Line, RunReport, asides, state};
use super::{out, plan_human, status, style};
use crate::units;
use std::fmt::Write;

pub fn run(report: &RunReport) -> String {
    let run = &report.run;
    let mut text = format!(
        "{} (run {}): {}, {} of {} done{}\n  begun {} by {}{}\n",
        style::name(&run.plan.name),
        run.id,
        state(run),
        report.done(),
        units::counted(run.steps.len(), "step"),
        report
            .took_ms()
            .map_or(String::new(), |ms| format!(", in {}", units::millis(ms))),
        status::time(run.started_at),
        run.started_by,
        run.finished_at
            .map_or(String::new(), |at| format!(", finished {}", status::time(at))),
    );
    let mut table = plan_human::table(&[
        "Step",
        "Phase",
        "State",
        "Took",
        "Attempts",
        "Lock wait",
        "Stood aside",
        "Rows",
        "Batches",
    ]);
    for line in report.lines() {
        table.add_row(row(report, &line));
    }
    let _ = write!(text, "\n{}", plan_human::lines(&table));
    let totals = report.totals();
    text.push_str(&out::locks(&totals.locks));
    for aside in asides(report.stats.iter().map(|it| &it.stats)) {
        let _ = writeln!(
            text,
            "  stood aside {} for {}: {}",
            times(aside.times),
            units::millis(aside.ms),
            aside.reason
        );
    }
    if let Some(lag) = report
        .stats
        .iter()
        .flat_map(|it| &it.stats.lag)
        .max_by_key(|lag| lag.ms)
    {
        let _ = writeln!(text, "  {} was {} behind at most", lag.who, units::millis(lag.ms));
    }
    if totals.reconnects > 0 {
        let _ = writeln!(text, "  connections lost: {}", units::count(totals.reconnects));
    }
    if let Some(verification) = &report.verification {
        let _ = write!(text, "\nVerified now: {}", verification.human());
    }
    text
}

fn times(times: u64) -> String {
    match times {
        1 => "once".into(),
        several => format!("{} times", units::count(several)),
    }
}

/// Blank where there is nothing to say.
pub fn some(number: u64, shown: impl Fn(u64) -> String) -> String {
    match number {
        0 => String::new(),
        number => shown(number),
    }
}

fn row(report: &RunReport, line: &Line<'_>) -> [String; 9] {
    let sum = |of: fn(&crate::executor::stats::StepStats) -> u64| line.both().map(of).sum::<u64>();
    let fill = report.fills.iter().find(|(step, _)| *step == line.record.id);
    let filled = |number: i64| some(u64::try_from(number).unwrap_or(0), units::count);
    [
        line.record.id.clone(),
        line.step.phase.name().into(),
        line.record.state.name().into(),
        line.took_ms(report.now).map_or(String::new(), units::millis),
        units::count(line.attempts()),
        some(sum(|stats| stats.locks.waited_ms), units::millis),
        some(
            sum(|stats| stats.aside.iter().map(|aside| aside.ms).sum()),
            units::millis,
        ),
        fill.map_or(String::new(), |(_, cursor)| filled(cursor.rows_done)),
        fill.map_or(String::new(), |(_, cursor)| filled(cursor.batches)),
    ]
}
