//! The phases over time, for a terminal: who is blocked when, for how long at most, and what it takes.

use super::plan_view;
use crate::plan::{ExecutionPlan, LockMode, Step};
use crate::units;
use std::fmt::Write;

const COLUMNS: usize = 32;

pub fn picture(plan: &ExecutionPlan) -> String {
    let mut text =
        String::from("Over time, not to scale (# blocks reads and writes, = writes, - nothing):\n");
    let total = plan_view::length(&plan.steps.iter().collect::<Vec<_>>());
    let mut at = 0;
    for (phase, steps) in plan.phases() {
        let mut lane = [' '; COLUMNS];
        for step in &steps {
            let wide = plan_view::width(step.estimate.duration);
            let place = |units: usize| units * COLUMNS / total.max(1);
            let (from, to) = (place(at), place(at + wide));
            let from = from.min(COLUMNS - 1);
            lane[from..to.max(from + 1)].fill(sign(step));
            at += wide + plan_view::GAP;
        }
        let lane: String = lane.iter().collect();
        let line = format!(" {:8}  {lane}  {}", phase.name(), figures(&steps));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn sign(step: &Step) -> char {
    let mode = plan_view::strongest(&[step]).map_or(LockMode::AccessShare, |lock| lock.mode);
    match (mode.blocks_reads(), mode.blocks_writes()) {
        (true, _) => '#',
        (false, true) => '=',
        (false, false) => '-',
    }
}

/// How long somebody may be blocked, and what it takes.
fn figures(steps: &[&Step]) -> String {
    let mut parts = Vec::new();
    if let Some(block) = plan_view::longest_block(steps) {
        parts.push(format!(
            "a lock: {} queued, then {}",
            units::millis(block.queue_ms),
            block.class.name()
        ));
    }
    if let Some(rows) = plan_view::rows(steps) {
        parts.push(format!("{} rows", units::count(rows)));
    }
    let disk = plan_view::disk_of(steps);
    if disk > 0 {
        parts.push(format!("{} of disk", units::signed_size(disk)));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn each_step_has_its_place() {
        insta::assert_snapshot!(picture(&sample::plan()), @r"
        Over time, not to scale (# blocks reads and writes, = writes, - nothing):
         expand    --------                          1,000,000 rows, 30 MB of disk
         backfill          ---------                 1,000,000 rows
         validate                   --------         1,000,000 rows
         cutover                             ##      a lock: 200ms queued, then instant
         contract                               ##   a lock: 200ms queued, then instant
        ");
    }
}
