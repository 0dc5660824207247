//! A run as a page: what it did when, what it waited for, and whether the end is as promised.

use super::html::{escaped, facts, page, table};
use super::plan_html::{blocks_cell, lock_cell};
use super::run_human::some;
use super::run_pictures::{chart, timeline};
use super::run_view::{Line, RunReport, asides, state};
use super::status::time;
use super::{plan_view, safe};
use crate::executor::ledger::{AttemptRecord, StepState};
use crate::executor::stats::StepStats;
use crate::report::verification::{Verdict, Verification};
use crate::units;
use std::fmt::Write;

pub fn run(report: &RunReport) -> String {
    let mut body = heading(report);
    summary(&mut body, report);
    timeline(&mut body, report);
    steps(&mut body, report);
    waits(&mut body, report);
    fills(&mut body, report);
    details(&mut body, report);
    attempts(&mut body, report);
    if let Some(verification) = &report.verification {
        verified(&mut body, report, verification);
    }
    let _ = writeln!(
        body,
        "<p class=\"soft\">Digest <code>{}</code>. Written {} from the ledger of the database.</p>",
        escaped(&report.run.plan.digest),
        time(report.now)
    );
    page(
        &format!("Run {} of {}", report.run.id, report.run.plan.name),
        &body,
    )
}

fn heading(report: &RunReport) -> String {
    let run = &report.run;
    let mut text = format!(
        "<h1>Run {} of {}</h1>\n<p class=\"soft\">begun {} by {}{} on {}</p>\n",
        run.id,
        escaped(&run.plan.name),
        time(run.started_at),
        escaped(&run.started_by),
        run.client
            .as_ref()
            .map_or(String::new(), |client| format!(" from {}", escaped(client))),
        escaped(plan_view::server(&run.plan)),
    );
    if !run.plan.description.is_empty() {
        let _ = writeln!(text, "<p>{}</p>", escaped(&run.plan.description));
    }
    text
}

fn summary(text: &mut String, report: &RunReport) {
    let totals = report.totals();
    let mut list = vec![
        ("state", state(&report.run).to_owned()),
        (
            "steps done",
            format!("{} of {}", report.done(), report.run.steps.len()),
        ),
        (
            "from the first step to the last",
            report.took_ms().map_or("nothing yet".into(), units::millis),
        ),
        ("waited for locks", units::millis(totals.locks.waited_ms)),
        (
            "others waited behind it, at most",
            units::millis(totals.locks.stalled_worst_ms),
        ),
        ("stood aside for others", units::millis(totals.aside_ms)),
    ];
    if totals.rows > 0 {
        list.push(("rows filled or copied", units::count(totals.rows)));
        list.push(("batches", units::count(totals.batches)));
    }
    if let Some(lag) = totals.lag_ms {
        list.push(("replica lag at most", units::millis(lag)));
    }
    if totals.reconnects > 0 {
        list.push(("connections lost", units::count(totals.reconnects)));
    }
    if let Some(verification) = &report.verification {
        let found = match verification.findings.len() {
            0 => verification.verdict.words().to_owned(),
            number => units::counted(number, "finding"),
        };
        list.push(("verification", found));
    }
    text.push_str(&facts(&list));
}

fn steps(text: &mut String, report: &RunReport) {
    text.push_str("<h2>Steps</h2>\n");
    let sum = |line: &Line<'_>, of: fn(&StepStats) -> u64| line.both().map(of).sum::<u64>();
    let rows: Vec<Vec<String>> = report
        .lines()
        .iter()
        .map(|line| {
            vec![
                format!("<span class=\"long\">{}</span>", escaped(&line.step.work.summary)),
                line.step.phase.to_string(),
                state_cell(line.record.state),
                line.took_ms(report.now).map_or(String::new(), units::millis),
                units::count(line.attempts()),
                some(sum(line, |stats| stats.locks.waited_ms), units::millis),
                some(sum(line, |stats| stats.locks.stalled_worst_ms), units::millis),
                some(
                    sum(line, |stats| stats.aside.iter().map(|aside| aside.ms).sum()),
                    units::millis,
                ),
                blocks_cell(line.lock().map_or("nothing", |lock| lock.mode.blocks())),
            ]
        })
        .collect();
    text.push_str(&table(
        "Steps",
        &[
            "step",
            "phase",
            "state",
            "#took",
            "#attempts",
            "#waited for locks",
            "#others waited",
            "#stood aside",
            "its lock blocks",
        ],
        &rows,
    ));
}

fn state_cell(state: StepState) -> String {
    let class = match state {
        StepState::Done => "free",
        StepState::Failed => "all",
        StepState::Running => "writes",
        StepState::Pending | StepState::Undone => "soft",
    };
    format!("<span class=\"{class}\">{}</span>", state.name())
}

fn waits(text: &mut String, report: &RunReport) {
    let asides = asides(report.stats.iter().map(|it| &it.stats));
    if asides.is_empty() {
        return;
    }
    text.push_str("<h2>For whom it stood aside</h2>\n");
    let rows: Vec<Vec<String>> = asides
        .iter()
        .map(|aside| {
            vec![
                format!("<code>{}</code>", escaped(&aside.cause)),
                units::count(aside.times),
                units::millis(aside.ms),
                escaped(safe::one_line(&aside.reason)),
            ]
        })
        .collect();
    text.push_str(&table(
        "For whom it stood aside",
        &["cause", "#times", "#altogether", "as it was told last"],
        &rows,
    ));
}

/// The backfills: batches, replica lag, and how the rate went.
fn fills(text: &mut String, report: &RunReport) {
    let lines = report.lines();
    let filled: Vec<&Line<'_>> = lines
        .iter()
        .filter(|line| line.stats.is_some_and(|stats| stats.batches.is_some()))
        .collect();
    if filled.is_empty() {
        return;
    }
    text.push_str("<h2>Backfills</h2>\n");
    for line in filled {
        let Some(stats) = line.stats else { continue };
        let _ = writeln!(text, "<h3>{}</h3>", escaped(&line.step.work.summary));
        let cursor = report.fills.iter().find(|(step, _)| *step == line.record.id);
        let mut list = Vec::new();
        if let Some((_, cursor)) = cursor {
            let count = |number: i64| units::count(u64::try_from(number).unwrap_or(0));
            list.push(("rows", count(cursor.rows_done)));
            list.push(("batches", count(cursor.batches)));
        }
        if let Some(batches) = &stats.batches {
            list.push((
                "pages in a batch",
                match batches.pages_min == batches.pages_max {
                    true => units::count(batches.pages_max),
                    false => format!(
                        "{} to {}",
                        units::count(batches.pages_min),
                        units::count(batches.pages_max)
                    ),
                },
            ));
            list.push(("passes over each page", units::count(batches.passes)));
            let held = batches.held_max_us;
            list.push((
                "a batch kept its rows at most",
                format!("{}.{} ms", held / 1_000, held % 1_000 / 100),
            ));
        }
        for lag in &stats.lag {
            list.push((
                "replica lag at most",
                format!("{} ({})", units::millis(lag.ms), lag.who),
            ));
        }
        text.push_str(&facts(&list));
        chart(text, line, &stats.samples);
    }
}

fn details(text: &mut String, report: &RunReport) {
    text.push_str("<h2>What each step did</h2>\n");
    for line in report.lines() {
        one_step(text, report, &line);
    }
}

fn one_step(text: &mut String, report: &RunReport, line: &Line<'_>) {
    let took = line.took_ms(report.now).map_or(String::new(), units::millis);
    let _ = write!(
        text,
        "<details>\n<summary>{} {} <span class=\"soft\">{took}</span></summary>\n<dl>\n",
        escaped(&line.step.work.summary),
        state_cell(line.record.state),
    );
    let mut part = |label: &str, value: String| {
        let _ = writeln!(text, "<dt>{label}</dt><dd>{value}</dd>");
    };
    part("step", format!("<code>{}</code>", escaped(&line.record.id)));
    part("lock", lock_cell(line.lock()));
    if let Some(at) = line.record.started_at {
        part("begun", time(at));
    }
    if let Some(at) = line.record.finished_at {
        part("ended", time(at));
    }
    if let Some(error) = &line.record.error {
        part("error", escaped(error));
    }
    for stats in line.both() {
        for (label, value) in figures(stats) {
            part(label, escaped(value));
        }
    }
    text.push_str("</dl>\n");
    let _ = write!(
        text,
        "<pre>{}</pre>\n</details>\n",
        escaped(plan_view::sql(&line.step.work.action).join("\n"))
    );
}

fn figures(stats: &StepStats) -> Vec<(&'static str, String)> {
    let mut list = Vec::new();
    let locks = &stats.locks;
    if locks.gave_up > 0 {
        let count = units::count(locks.gave_up);
        list.push(("given up", format!("{count} attempts at a lock")));
    }
    if locks.stalled > 0 {
        list.push((
            "others waited",
            format!(
                "{} times, {} together, at most {}",
                units::count(locks.stalled),
                units::millis(locks.stalled_backend_ms),
                units::millis(locks.stalled_worst_ms)
            ),
        ));
    }
    if locks.ended > 0 {
        let count = units::count(locks.ended);
        list.push(("ended", format!("{count} sessions in the way")));
    }
    for aside in &stats.aside {
        list.push((
            "stood aside",
            format!("{}: {}", units::millis(aside.ms), aside.reason),
        ));
    }
    for note in &stats.notes {
        list.push((
            "note",
            format!("after {}: {}", units::millis(note.at_ms), note.text),
        ));
    }
    if stats.notes_left_out > 0 {
        let count = units::count(stats.notes_left_out);
        list.push(("note", format!("and {count} more")));
    }
    list
}

fn attempts(text: &mut String, report: &RunReport) {
    if report.attempts.is_empty() {
        return;
    }
    text.push_str("<h2>Attempts that did not succeed</h2>\n");
    let row = |attempt: &AttemptRecord| {
        vec![
            time(attempt.at),
            format!("<code>{}</code>", escaped(&attempt.step)),
            units::millis(u64::try_from(attempt.elapsed_ms).unwrap_or(0)),
            attempt
                .sqlstate
                .as_ref()
                .map_or(String::new(), |code| format!("<code>{}</code>", escaped(code))),
            escaped(safe::one_line(&attempt.message)),
            escaped(who(attempt)),
        ]
    };
    let rows: Vec<Vec<String>> = report.attempts.iter().map(row).collect();
    text.push_str(&table(
        "Attempts that did not succeed",
        &["when", "step", "#after", "SQLSTATE", "why", "in the way"],
        &rows,
    ));
}

fn who(attempt: &AttemptRecord) -> String {
    let blockers = attempt.blockers.as_array();
    let one = |blocker: &serde_json::Value| {
        let text = |name: &str| blocker[name].as_str().unwrap_or_default().to_owned();
        let pid = match blocker["pid"].as_i64() {
            Some(pid) => format!("pid {pid}"),
            None => "a prepared transaction".into(),
        };
        let application = match text("application").as_str() {
            "" => String::new(),
            name => format!(" ({name})"),
        };
        format!("{pid} of {}{application}, {}", text("user"), text("state"))
    };
    let list: Vec<String> = blockers.into_iter().flatten().map(one).collect();
    list.join("; ")
}

fn verified(text: &mut String, report: &RunReport, verification: &Verification) {
    let class = match verification.verdict {
        _ if verification.passes() => "free",
        // Nothing is wrong, it is only not over.
        Verdict::ContractPending | Verdict::InProgress if verification.findings.is_empty() => "writes",
        _ => "all",
    };
    let _ = write!(
        text,
        "<h2>Verification</h2>\n<p>Compared with the database {}: <strong class=\"{class}\">{}</strong>.</p>\n",
        time(report.now),
        verification.verdict.words()
    );
    if !verification.notes.is_empty() {
        text.push_str("<ul>\n");
        for note in &verification.notes {
            let _ = writeln!(text, "<li>{}</li>", escaped(note));
        }
        text.push_str("</ul>\n");
    }
    let rows: Vec<Vec<String>> = verification
        .findings
        .iter()
        .map(|finding| {
            let nothing = |text: &Option<String>| escaped(text.as_deref().unwrap_or("nothing"));
            let mut found = nothing(&finding.found);
            for detail in &finding.details {
                let _ = write!(found, "<br><code>{}</code>", escaped(detail));
            }
            vec![
                escaped(&finding.object),
                nothing(&finding.expected),
                found,
                escaped(&finding.remedy),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push_str(&table(
            "Findings of the verification",
            &["object", "expected", "found", "remedy"],
            &rows,
        ));
    }
    for answer in &verification.monitors {
        let _ = writeln!(text, "<h3>{}</h3>", escaped(&answer.name));
        let mut lines: Vec<String> = answer.rows.iter().map(ToString::to_string).collect();
        lines.extend(answer.error.clone());
        if lines.is_empty() {
            lines.push("no rows".into());
        }
        let _ = writeln!(text, "<pre>{}</pre>", escaped(lines.join("\n")));
    }
}
