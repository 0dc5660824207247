//! A plan as a page that people can decide on: what it does to whom and for how long, then how.

use super::html::{HUNDRED, at_least, escaped, figure, lane, lanes_height, page, percent, prose, table};
use super::{html, plan_view};
use crate::hazards::HAZARDS;
use crate::plan::{Check, ExecutionPlan, Lock, LockMode, Phase, Step, Transaction, Undo};
use crate::units;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Of one kind; the others are folded in.
const HAZARDS_SHOWN: usize = 5;

pub fn plan(plan: &ExecutionPlan) -> String {
    let mut body = heading(plan);
    if plan.steps.is_empty() {
        let _ = writeln!(body, "<p>{}</p>", escaped(plan_view::nothing_to_do(plan).trim()));
        left_out(&mut body, plan);
    } else {
        facts(&mut body, plan);
        point_of_no_return(&mut body, plan);
        left_out(&mut body, plan);
        picture(&mut body, plan);
        phases(&mut body, plan);
        hazards(&mut body, plan);
        checks(&mut body, "Before the first step", &plan.preconditions);
        for (phase, steps) in plan.phases() {
            one_phase(&mut body, phase, &steps);
        }
        checks(&mut body, "Afterwards", &plan.postconditions);
    }
    let _ = writeln!(
        body,
        "<p class=\"soft\">Digest <code>{}</code>. What stands here is what <code>pgmorph apply</code> sends.</p>",
        escaped(&plan.digest)
    );
    page(&format!("Plan {}", plan.name), &body)
}

fn heading(plan: &ExecutionPlan) -> String {
    let mut text = format!(
        "<h1>Plan {}</h1>\n<p class=\"soft\">{} in {} for {}</p>\n",
        escaped(&plan.name),
        units::counted(plan.changes.len(), "change"),
        units::counted(plan.steps.len(), "step"),
        escaped(plan_view::server(plan)),
    );
    if !plan.description.is_empty() {
        let _ = writeln!(text, "<p>{}</p>", escaped(&plan.description));
    }
    text
}

/// What somebody who decides asks first.
fn facts(text: &mut String, plan: &ExecutionPlan) {
    let all: Vec<&Step> = plan.steps.iter().collect();
    let blocking = all
        .iter()
        .filter(|step| blocked(step) != LockMode::AccessShare.blocks());
    let queue =
        plan_view::longest_block(&all).map_or("no time".into(), |block| units::millis(block.queue_ms));
    let facts = [
        (
            "steps that block the application",
            format!("{} of {}", blocking.count(), all.len()),
        ),
        ("an attempt queues for a lock at most, others behind it", queue),
        ("longest step", plan_view::longest(&all).name().to_owned()),
        (
            "rows at most",
            plan_view::rows(&all).map_or("unknown".into(), units::count),
        ),
        ("more disk", units::signed_size(plan_view::disk_bytes(plan))),
        ("gives up on a lock after", units::millis(plan.lock_deadline_ms)),
    ];
    text.push_str(&html::facts(&facts));
}

fn blocked(step: &Step) -> &'static str {
    strongest(step).map_or("nothing", |lock| lock.mode.blocks())
}

fn strongest(step: &Step) -> Option<&Lock> {
    plan_view::strongest(&[step])
}

fn longest_block(steps: &[&Step]) -> String {
    plan_view::longest_block(steps).map_or(String::new(), plan_view::Block::words)
}

pub(super) fn class(blocks: &str) -> &'static str {
    match blocks {
        "nothing" => "free",
        "writes" => "writes",
        _ => "all",
    }
}

fn point_of_no_return(text: &mut String, plan: &ExecutionPlan) {
    match plan.point_of_no_return() {
        Some(step) => {
            let _ = writeln!(
                text,
                "<p class=\"warning\"><strong>Point of no return:</strong> <code>{}</code> in {}: {}.</p>",
                escaped(&step.id),
                step.phase,
                escaped(plan_view::irreversible(step).unwrap_or_default())
            );
        }
        None => text.push_str("<p>Every step can be rolled back.</p>\n"),
    }
}

fn left_out(text: &mut String, plan: &ExecutionPlan) {
    let waiting = plan.waiting();
    if waiting.is_empty() {
        return;
    }
    let _ = write!(text, "<p>{}</p>\n<ul>\n", escaped(plan_view::WAITING));
    for change in waiting {
        let _ = writeln!(text, "<li>{}</li>", escaped(change));
    }
    text.push_str("</ul>\n");
}

/// The steps one after the other, a lane for each phase, coloured by what they block.
fn picture(text: &mut String, plan: &ExecutionPlan) {
    let phases: Vec<_> = plan.phases().collect();
    let total = plan_view::length(&plan.steps.iter().collect::<Vec<_>>());
    let scale = |units: usize| units as u64 * HUNDRED / total.max(1) as u64;
    let mut drawn = String::new();
    let mut at = 0;
    for (number, (phase, steps)) in phases.iter().enumerate() {
        let top = lane(&mut drawn, number, phase);
        for step in steps {
            let wide = plan_view::width(step.estimate.duration);
            let (from, to) = (scale(at), scale(at + wide));
            let _ = writeln!(
                drawn,
                "<rect class=\"bar {}\" x=\"{}\" y=\"{top}\" width=\"{}\" height=\"16\"><title>{}: {}, blocks {}</title></rect>",
                class(blocked(step)),
                percent(from),
                percent(at_least(to - from)),
                escaped(&step.work.summary),
                step.estimate.duration.name(),
                blocked(step)
            );
            at += wide + plan_view::GAP;
        }
    }
    let said: Vec<String> = phases
        .iter()
        .map(|(phase, steps)| {
            format!(
                "{phase}: {}, longest {}",
                units::counted(steps.len(), "step"),
                plan_view::longest(steps).name()
            )
        })
        .collect();
    text.push_str(&figure(
        &format!("The phases over time. {}", said.join("; ")),
        lanes_height(phases.len()),
        &drawn,
        "The phases over time, not to scale: <span class=\"free\">green blocks nothing</span>, \
         <span class=\"writes\">brown blocks writes</span>, <span class=\"all\">red blocks reads and writes</span>, \
         each for an instant where the table below does not say otherwise.",
    ));
}

pub(super) fn lock_cell(lock: Option<&Lock>) -> String {
    lock.map_or("none".into(), |lock| {
        format!(
            "<span class=\"long\">{} on <code>{}</code></span>",
            lock.mode,
            escaped(&lock.relation)
        )
    })
}

pub(super) fn blocks_cell(blocks: &str) -> String {
    format!("<span class=\"blocks {}\">{blocks}</span>", class(blocks))
}

fn phases(text: &mut String, plan: &ExecutionPlan) {
    text.push_str("<h2>Phases</h2>\n");
    let rows: Vec<Vec<String>> = plan
        .phases()
        .map(|(phase, steps)| {
            let lock = plan_view::strongest(&steps);
            let disk = plan_view::disk_of(&steps);
            vec![
                phase.to_string(),
                steps.len().to_string(),
                lock_cell(lock),
                blocks_cell(lock.map_or("nothing", |lock| lock.mode.blocks())),
                longest_block(&steps),
                plan_view::longest(&steps).name().into(),
                plan_view::rows(&steps).map_or(String::new(), units::count),
                if disk > 0 {
                    units::signed_size(disk)
                } else {
                    String::new()
                },
            ]
        })
        .collect();
    text.push_str(&table(
        "Phases",
        &[
            "phase",
            "#steps",
            "strongest lock",
            "blocks",
            "for how long at most",
            "longest step",
            "#rows",
            "#disk",
        ],
        &rows,
    ));
}

fn hazards(text: &mut String, plan: &ExecutionPlan) {
    let mut found: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for step in &plan.steps {
        for hazard in &step.hazards {
            found
                .entry(&hazard.code)
                .or_default()
                .push((&step.id, &hazard.message));
        }
    }
    if found.is_empty() {
        return;
    }
    text.push_str("<h2>What the application may notice</h2>\n");
    for (code, places) in found {
        let _ = writeln!(text, "<h3><code>{}</code></h3>", escaped(code));
        let (shown, folded) = places.split_at(places.len().min(HAZARDS_SHOWN));
        // A fold for one or two would take as much room.
        let (shown, folded) = match folded.len() {
            0..=2 => (places.as_slice(), &[][..]),
            _ => (shown, folded),
        };
        listed(text, shown);
        if !folded.is_empty() {
            let _ = writeln!(
                text,
                "<details>\n<summary>{} more like these</summary>",
                units::count(folded.len() as u64)
            );
            listed(text, folded);
            text.push_str("</details>\n");
        }
        if let Some((_, manual)) = HAZARDS.iter().find(|(known, _)| *known == code) {
            let _ = writeln!(text, "<p class=\"soft\">{}</p>", prose(manual));
        }
    }
}

fn listed(text: &mut String, places: &[(&str, &str)]) {
    text.push_str("<ul>\n");
    for (step, message) in places {
        let _ = writeln!(
            text,
            "<li>{} <span class=\"soft\">(<code>{}</code>)</span></li>",
            prose(message),
            escaped(step)
        );
    }
    text.push_str("</ul>\n");
}

fn checks(text: &mut String, title: &str, checks: &[Check]) {
    if checks.is_empty() {
        return;
    }
    let _ = write!(text, "<h2>{title}</h2>\n<p>These must return no rows.</p>\n");
    for check in checks {
        let _ = write!(
            text,
            "<h3>{}</h3>\n<pre>{}</pre>\n",
            escaped(&check.name),
            escaped(plan_view::terminated(&check.query))
        );
    }
}

fn one_phase(text: &mut String, phase: Phase, steps: &[&Step]) {
    let mut name = phase.to_string();
    name[..1].make_ascii_uppercase();
    let _ = write!(
        text,
        "<h2>{name}</h2>\n<p>This phase {}.</p>\n",
        plan_view::purpose(phase)
    );
    for step in steps {
        one_step(text, step);
    }
}

fn one_step(text: &mut String, step: &Step) {
    let _ = write!(
        text,
        "<details>\n<summary>{} <span class=\"soft\">blocks</span> {} <span class=\"soft\">{}</span></summary>\n<dl>\n",
        escaped(&step.work.summary),
        blocks_cell(blocked(step)),
        escaped(plan_view::estimate(&step.estimate))
    );
    let mut part = |label: &str, value: String| {
        let _ = writeln!(text, "<dt>{label}</dt><dd>{value}</dd>");
    };
    part("step", format!("<code>{}</code>", escaped(&step.id)));
    let locks: Vec<String> = step.work.locks.iter().map(|lock| lock_cell(Some(lock))).collect();
    part(
        "locks",
        if locks.is_empty() {
            "none".into()
        } else {
            locks.join("<br>")
        },
    );
    part("timeouts", escaped(plan_view::timeouts(step.work.timeouts)));
    if step.work.transaction == Transaction::None {
        part("runs", "outside a transaction".into());
    }
    if let Some(gate) = &step.work.not_before {
        part("waits", escaped(plan_view::not_before(gate)));
    }
    part("undo", escaped(plan_view::undo(&step.undo)));
    text.push_str("</dl>\n");
    let _ = writeln!(
        text,
        "<pre>{}</pre>",
        escaped(plan_view::sql(&step.work.action).join("\n"))
    );
    if let Undo::Work(works) = &step.undo {
        let sql: Vec<String> = works
            .iter()
            .flat_map(|work| plan_view::sql(&work.action))
            .collect();
        let _ = write!(
            text,
            "<p class=\"soft\">Undone by</p>\n<pre>{}</pre>\n",
            escaped(sql.join("\n"))
        );
    }
    text.push_str("</details>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn everything_of_the_plan_is_there_and_nothing_from_elsewhere() {
        let sample = sample::plan();
        let text = plan(&sample);
        for step in &sample.steps {
            assert!(text.contains(&escaped(&step.id)), "{} is missing", step.id);
            for sql in plan_view::sql(&step.work.action) {
                assert!(text.contains(&escaped(&sql)), "{sql} is missing");
            }
        }
        assert!(text.contains("Point of no return") && text.contains(&sample.digest));
        for foreign in ["<script", "http://", "https://", "src=", "url("] {
            assert!(!text.contains(foreign), "{foreign}");
        }
        let (open, closed) = (
            text.matches("<details>").count(),
            text.matches("</details>").count(),
        );
        assert_eq!((open, closed), (sample.steps.len(), sample.steps.len()));
    }

    #[test]
    fn names_cannot_break_out() {
        let mut sample = sample::plan();
        sample.name = "</title><script>alert(1)</script>".into();
        sample.steps[0].work.summary = "build \"<img src=x onerror=alert(1)>\"".into();
        let text = plan(&sample);
        assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
    }
}
