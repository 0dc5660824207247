//! The pictures on the page of a run: its steps in time, and how a backfill went.

use super::axis::Axis;
use super::html::{HUNDRED, at_least, escaped, figure, lane, lanes_height, percent};
use super::plan_html::class;
use super::run_view::{Line, RunReport};
use crate::executor::ledger::StepState;
use crate::executor::stats::Sample;
use crate::units;
use std::fmt::Write;

/// Room of a pause that is left out.
const GAP: u64 = HUNDRED / 20;

/// One lane a phase, each step where it was in time.
pub(super) fn timeline(text: &mut String, report: &RunReport) {
    let phases = report.phases();
    let ms = |at: jiff::Timestamp| u64::try_from(at.as_millisecond()).unwrap_or(0);
    let span = |line: &Line<'_>| line.span(report.now).map(|(from, to)| (ms(from), ms(to)));
    let spans: Vec<(u64, u64)> = phases
        .iter()
        .flat_map(|(_, lines)| lines)
        .filter_map(span)
        .collect();
    if spans.is_empty() {
        return;
    }
    let axis = Axis::new(spans, HUNDRED, GAP);
    let mut drawn = String::new();
    for (number, (phase, lines)) in phases.iter().enumerate() {
        let top = lane(&mut drawn, number, phase);
        for line in lines {
            let Some((from, to)) = span(line) else { continue };
            let (left, right) = (axis.at(from), axis.at(to));
            let _ = writeln!(
                drawn,
                "<rect class=\"bar {}\" x=\"{}\" y=\"{top}\" width=\"{}\" height=\"16\"><title>{}: {}, {}</title></rect>",
                bar(line),
                percent(left),
                percent(at_least(right - left)),
                escaped(&line.step.work.summary),
                line.record.state.name(),
                units::millis(to - from),
            );
        }
    }
    let height = lanes_height(phases.len());
    let pauses = axis.pauses();
    for (place, lasts) in &pauses {
        let _ = writeln!(
            drawn,
            "<line class=\"pause\" x1=\"{0}\" y1=\"0\" x2=\"{0}\" y2=\"{height}\"/><text x=\"{0}\" y=\"{1}\" text-anchor=\"middle\">{2}</text>",
            percent(place + GAP / 2),
            height + 12,
            units::millis(*lasts)
        );
    }
    let took = |(phase, lines): &(crate::plan::Phase, Vec<Line<'_>>)| {
        let ms: u64 = lines.iter().filter_map(|line| line.took_ms(report.now)).sum();
        format!(
            "{phase}: {} in {}",
            units::counted(lines.len(), "step"),
            units::millis(ms)
        )
    };
    let said: Vec<String> = phases.iter().map(took).collect();
    let mut caption = String::from(
        "Each bar is a step: <span class=\"free\">green blocks nothing</span>, <span class=\"writes\">brown blocks \
         writes</span>, <span class=\"all\">red blocks reads and writes</span>, in its short moments with the lock; grey was \
         undone.",
    );
    let below = if pauses.is_empty() { 0 } else { 18 };
    if below > 0 {
        caption.push_str(" Dashed lines are pauses that are left out, with their length.");
    }
    text.push_str(&figure(
        &format!("Timeline of the steps. {}", said.join("; ")),
        height + below,
        &drawn,
        &caption,
    ));
}

fn bar(line: &Line<'_>) -> &'static str {
    match line.record.state {
        StepState::Undone => "undone",
        _ => class(line.lock().map_or("nothing", |lock| lock.mode.blocks())),
    }
}

/// How far it was, and how fast, over the time at work.
#[allow(clippy::cast_precision_loss, reason = "a picture")]
pub(super) fn chart(text: &mut String, line: &Line<'_>, samples: &[Sample]) {
    const HEIGHT: u64 = 140;
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return;
    };
    if samples.len() < 3 || last.at_ms <= first.at_ms {
        return;
    }
    let (begins, lasts) = (first.at_ms, last.at_ms - first.at_ms);
    let fastest = samples.iter().map(|it| it.per_second).max().unwrap_or(0).max(1);
    let latest = samples.iter().filter_map(|it| it.lag_ms).max().unwrap_or(0);
    let points = |of: &dyn Fn(&Sample) -> f64| -> String {
        let point = |it: &Sample| {
            let x = (it.at_ms - begins) as f64 / lasts as f64 * 1_000.0;
            let y = 8.0 + (1.0 - of(it).clamp(0.0, 1.0)) * (HEIGHT - 16) as f64;
            format!("{x:.1},{y:.1} ")
        };
        samples.iter().map(point).collect()
    };
    let done = points(&|it| it.done as f64 / it.total.max(1) as f64);
    let rate = points(&|it| it.per_second as f64 / fastest as f64);
    // Only what has a box of its own is stretched to the width of the screen.
    let mut drawn = format!(
        "<line class=\"lane\" x1=\"0\" y1=\"{0}\" x2=\"100%\" y2=\"{0}\"/><text x=\"-82\" y=\"18\">100 %</text>\
         <text x=\"-82\" y=\"{0}\">0 %</text>\n\
         <svg viewBox=\"0 0 1000 {HEIGHT}\" width=\"100%\" height=\"{HEIGHT}\" preserveAspectRatio=\"none\">\n\
         <polyline class=\"done\" points=\"{1}\"/>\n<polyline class=\"rate\" points=\"{2}\"/>\n",
        HEIGHT - 8,
        done.trim_end(),
        rate.trim_end()
    );
    let mut caption = format!(
        "<span class=\"free\">Green</span>: how much is done. <span class=\"accent\">Blue, dashed</span>: rows a second, at most {}.",
        units::count(fastest)
    );
    let mut said = format!(
        "Progress of {}: {} percent done after {}; at most {} rows a second",
        line.record.id,
        last.done * 100 / last.total.max(1),
        units::millis(last.at_ms),
        units::count(fastest)
    );
    if latest > 0 {
        let lag = points(&|it| it.lag_ms.unwrap_or(0) as f64 / latest as f64);
        let _ = writeln!(drawn, "<polyline class=\"lag\" points=\"{}\"/>", lag.trim_end());
        let latest = units::millis(latest);
        let _ = write!(
            caption,
            " <span class=\"all\">Red, dotted</span>: replica lag, at most {latest}."
        );
        let _ = write!(said, "; replica lag at most {latest}");
    }
    drawn.push_str("</svg>\n");
    let _ = write!(caption, " From left to right: {} at work.", units::millis(lasts));
    text.push_str(&figure(&said, HEIGHT, &drawn, &caption));
}
