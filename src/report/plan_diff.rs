//! The difference between two plans or two catalogs, for people and for pull requests.

use super::{plan_view, safe, style};
use crate::plan::{Step, Work};
use crate::plan_diff::{Difference, PlanDiff, StepDiff};
use crate::units;
use similar::{ChangeTag, TextDiff};
use std::fmt::Write;

/// The texts of an action as they are compared.
pub fn shown(work: &Work) -> String {
    plan_view::sql(&work.action).join("\n")
}

fn heading(diff: &PlanDiff) -> String {
    let (added, removed, changed) = diff.counts();
    let order = if diff.reordered { ", in another order" } else { "" };
    let names = match diff.from == diff.to {
        true => diff.to.clone(),
        false => format!("{} → {}", diff.from, diff.to),
    };
    format!(
        "{names}: {} added, {removed} removed, {changed} changed{order}",
        units::counted(added, "step")
    )
}

pub fn human(diff: &PlanDiff) -> String {
    if diff.is_empty() {
        return format!("{}: no difference\n", diff.to);
    }
    let mut text = heading(diff) + "\n";
    for difference in &diff.plan {
        lines(&mut text, "  ", difference);
    }
    for step in &diff.steps {
        match step {
            StepDiff::Added { step } => whole(&mut text, style::good("+"), step),
            StepDiff::Removed { step } => whole(&mut text, style::bad("-"), step),
            StepDiff::Changed {
                to,
                summary,
                phase,
                differences,
                ..
            } => {
                let mark = style::careful("~");
                let summary = safe::one_line(summary);
                let _ = writeln!(text, "\n{mark} {phase} {}  {summary}", style::name(to));
                for difference in differences {
                    lines(&mut text, "    ", difference);
                }
            }
        }
    }
    text
}

fn whole(text: &mut String, mark: String, step: &Step) {
    let _ = writeln!(
        text,
        "\n{mark} {} {}  {}",
        step.phase,
        style::name(&step.id),
        safe::one_line(&step.work.summary)
    );
    for lock in &step.work.locks {
        let blocks = lock.mode.blocks();
        let _ = writeln!(
            text,
            "    lock {} on {}: blocks {blocks}",
            lock.mode, lock.relation
        );
    }
    for line in shown(&step.work).lines() {
        let _ = writeln!(text, "    {mark} {line}");
    }
}

/// Line by line what goes and what comes, with a line before and after it; what else is the same is left out.
fn changes(difference: &Difference) -> Vec<(char, String)> {
    let text = |side: &Option<String>| side.as_ref().map_or(String::new(), |text| format!("{text}\n"));
    let (from, to) = (text(&difference.from), text(&difference.to));
    let diff = TextDiff::from_lines(from.as_str(), to.as_str());
    let line = |tag: ChangeTag, value: &str| {
        let sign = match tag {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => ' ',
        };
        (sign, value.trim_end_matches('\n').to_owned())
    };
    let all: Vec<(char, String)> = diff
        .iter_all_changes()
        .map(|change| line(change.tag(), change.value()))
        .collect();
    let is_near = |at: usize| {
        let near = all[at.saturating_sub(1)..(at + 2).min(all.len())].iter();
        near.clone().any(|(sign, _)| *sign != ' ')
    };
    let mut shown: Vec<(char, String)> = Vec::new();
    for (at, line) in all.iter().enumerate() {
        if is_near(at) {
            shown.push(line.clone());
        } else if shown.last().is_none_or(|(_, last)| last != "…") {
            shown.push((' ', "…".into()));
        }
    }
    shown
}

fn lines(text: &mut String, indent: &str, difference: &Difference) {
    let _ = writeln!(text, "{indent}{}", safe::one_line(&difference.what));
    for (sign, line) in changes(difference) {
        let shown = match sign {
            '-' => style::bad(format!("- {line}")),
            '+' => style::good(format!("+ {line}")),
            _ => format!("  {line}"),
        };
        let _ = writeln!(text, "{indent}  {shown}");
    }
}

pub fn markdown(diff: &PlanDiff) -> String {
    let mut text = format!("# Difference of plans\n\n{}\n", inline(&heading(diff)));
    if diff.is_empty() {
        text.push_str("\nThere is none.\n");
        return text;
    }
    if !diff.plan.is_empty() {
        text.push_str("\n## The plan as a whole\n");
        blocks(&mut text, &diff.plan);
    }
    for step in &diff.steps {
        match step {
            StepDiff::Added { step } => one_markdown(&mut text, "added", '+', step),
            StepDiff::Removed { step } => one_markdown(&mut text, "removed", '-', step),
            StepDiff::Changed {
                to,
                summary,
                phase,
                differences,
                ..
            } => {
                let summary = inline(summary);
                let _ = writeln!(text, "\n## Changed: {summary}\n\n`{}`, {phase}", inline(to));
                blocks(&mut text, differences);
            }
        }
    }
    text
}

fn one_markdown(text: &mut String, what: &str, sign: char, step: &Step) {
    let locks: Vec<String> = step
        .work
        .locks
        .iter()
        .map(|lock| {
            format!(
                "{} on {}, which blocks {}",
                lock.mode,
                lock.relation,
                lock.mode.blocks()
            )
        })
        .collect();
    let locks = match locks.is_empty() {
        true => "no locks".into(),
        false => locks.join("; "),
    };
    let _ = writeln!(
        text,
        "\n## Step {what}: {}\n\n`{}`, {}; {}\n",
        inline(&step.work.summary),
        inline(&step.id),
        step.phase,
        inline(&locks)
    );
    let sql: Vec<(char, String)> = shown(&step.work)
        .lines()
        .map(|line| (sign, line.to_owned()))
        .collect();
    fenced(text, &sql);
}

fn blocks(text: &mut String, differences: &[Difference]) {
    for difference in differences {
        let _ = writeln!(text, "\n{}:\n", inline(&difference.what));
        fenced(text, &changes(difference));
    }
}

/// In a fence that is longer than any within.
fn fenced(text: &mut String, lines: &[(char, String)]) {
    let runs = lines
        .iter()
        .flat_map(|(_, line)| line.split(|c| c != '`').map(str::len));
    let fence = "`".repeat(runs.max().unwrap_or(0).max(2) + 1);
    let _ = writeln!(text, "{fence}diff");
    for (sign, line) in lines {
        let _ = writeln!(text, "{sign} {line}");
    }
    let _ = writeln!(text, "{fence}");
}

fn inline(text: &str) -> String {
    super::plan_markdown::inline(text)
}

/// Of two catalogs.
pub fn catalogs_human(differences: &[Difference]) -> String {
    if differences.is_empty() {
        return "no difference between the catalogs\n".into();
    }
    let mut text = format!(
        "{} between the catalogs\n",
        units::counted(differences.len(), "difference")
    );
    for difference in differences {
        lines(&mut text, "  ", difference);
    }
    text
}

pub fn catalogs_markdown(differences: &[Difference]) -> String {
    let mut text = "# Difference of catalogs\n".to_owned();
    if differences.is_empty() {
        text.push_str("\nThere is none.\n");
    }
    blocks(&mut text, differences);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_is_shown_with_its_neighbours() {
        let difference = Difference {
            what: "statements".into(),
            from: Some("a\nb\nc\nd\ne\nf\ng".into()),
            to: Some("a\nb\nc\nD\ne\nf\ng".into()),
        };
        let shown: String = changes(&difference)
            .iter()
            .map(|(sign, line)| format!("{sign}{line}\n"))
            .collect();
        assert_eq!(shown, " …\n c\n-d\n+D\n e\n …\n");
        let added = Difference {
            from: None,
            ..difference
        };
        assert!(changes(&added).iter().all(|(sign, _)| *sign == '+'));
    }
}
