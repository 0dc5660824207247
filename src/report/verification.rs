//! What `verify` found, for people and machines.

use super::style;
use crate::plan::Phase;
use crate::units;
use serde::Serialize;
use std::fmt::Write;

/// Where a plan stands in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No run is recorded, and the catalog is not as promised.
    NotApplied,
    /// Some steps before contract are not done.
    InProgress,
    /// Everything but contract is done.
    ContractPending,
    /// Everything is as promised, and nothing is left over.
    Matches,
    /// Everything was done, but something is not as promised any more.
    Drifted,
    RollingBack,
    RolledBack,
}

impl Verdict {
    pub fn words(self) -> &'static str {
        match self {
            Self::NotApplied => "not applied",
            Self::InProgress => "in progress",
            Self::ContractPending => "contract pending",
            Self::Matches => "matches",
            Self::Drifted => "drifted",
            Self::RollingBack => "rolling back",
            Self::RolledBack => "rolled back",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The catalog differs from the predicted one.
    Difference,
    /// What a done step promised does not hold.
    Expectation,
    /// One of the plan's own questions has an answer it must not have.
    Postcondition,
    /// Two sides do not have the same rows.
    Rows,
    /// Something of ours is still there.
    Leftover,
    /// A step failed.
    Step,
    /// The plan cannot be compiled against this catalog.
    Plan,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: FindingKind,
    pub object: String,
    /// `None`: it should not be there at all.
    pub expected: Option<String>,
    /// `None`: it is missing.
    pub found: Option<String>,
    pub remedy: String,
    /// Sample rows, further lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepLine {
    pub id: String,
    pub phase: Phase,
    /// As in the ledger; `pending` without a run.
    pub state: &'static str,
    pub summary: String,
}

/// What a question of the plan's monitor answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub name: String,
    /// The first rows, each as JSON.
    pub rows: Vec<serde_json::Value>,
    /// Whether there are more.
    pub more: bool,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    pub plan: String,
    pub run: Option<i64>,
    pub verdict: Verdict,
    /// Asked for by `--through`, and whether everything up to there is done.
    pub through: Option<Phase>,
    pub reached: bool,
    pub findings: Vec<Finding>,
    /// What to know about how this was compared.
    pub notes: Vec<String>,
    pub steps: Vec<StepLine>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub monitors: Vec<Answer>,
}

impl Verification {
    /// Whether the answer is good. Asked for a phase, only a run that got there will do; else a plan that was rolled
    /// back without a trace is fine too.
    pub fn passes(&self) -> bool {
        let verdict = match self.verdict {
            Verdict::Matches => true,
            Verdict::RolledBack => self.through.is_none(),
            Verdict::InProgress | Verdict::ContractPending => self.through.is_some() && self.reached,
            Verdict::NotApplied | Verdict::Drifted | Verdict::RollingBack => false,
        };
        verdict && self.findings.is_empty()
    }

    pub fn human(&self) -> String {
        let words = self.verdict.words();
        let words = if self.passes() {
            style::good(words)
        } else {
            style::bad(words)
        };
        let run = self
            .run
            .map_or("no run recorded".into(), |run| format!("run {run}"));
        let mut text = format!("{}: {words} ({run})\n", style::name(&self.plan));
        for note in &self.notes {
            let _ = writeln!(text, "{}", style::faint(note));
        }
        if !matches!(
            self.verdict,
            Verdict::Matches | Verdict::RolledBack | Verdict::Drifted
        ) {
            self.write_steps(&mut text);
        }
        if !self.findings.is_empty() {
            let _ = writeln!(text, "\n{}:", units::counted(self.findings.len(), "finding"));
        }
        for (number, finding) in self.findings.iter().enumerate() {
            let _ = writeln!(text, "\n{}. {}", number + 1, style::heading(&finding.object));
            part(
                &mut text,
                "expected",
                finding.expected.as_deref().unwrap_or("nothing"),
            );
            part(&mut text, "found", finding.found.as_deref().unwrap_or("nothing"));
            for detail in &finding.details {
                let _ = writeln!(text, "     {:10} {detail}", "");
            }
            part(&mut text, "remedy", &finding.remedy);
        }
        self.write_answers(&mut text);
        text
    }

    fn write_answers(&self, text: &mut String) {
        for answer in &self.monitors {
            let _ = writeln!(text, "\n{}", style::heading(&answer.name));
            for row in &answer.rows {
                let _ = writeln!(text, "  {row}");
            }
            match (&answer.error, answer.rows.is_empty(), answer.more) {
                (Some(error), _, _) => writeln!(text, "  {}", style::bad(error)),
                (None, true, _) => writeln!(text, "  {}", style::faint("no rows")),
                (None, false, true) => writeln!(text, "  {}", style::faint("and more")),
                (None, false, false) => Ok(()),
            }
            .unwrap_or_default();
        }
    }

    fn write_steps(&self, text: &mut String) {
        for step in &self.steps {
            let state = format!("{:8}", step.state);
            let state = match step.state {
                "done" => style::good(state),
                "failed" => style::bad(state),
                "running" => style::careful(state),
                _ => style::faint(state),
            };
            let _ = writeln!(text, "  {state} {:9} {}  {}", step.phase, step.id, step.summary);
        }
    }
}

fn part(text: &mut String, label: &str, content: &str) {
    for (number, line) in units::wrap(content, 84).iter().enumerate() {
        let label = if number == 0 { label } else { "" };
        let _ = writeln!(text, "     {} {line}", style::faint(format!("{label:10}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verification(verdict: Verdict) -> Verification {
        Verification {
            plan: "widen".into(),
            run: Some(3),
            verdict,
            through: None,
            reached: false,
            findings: Vec::new(),
            notes: Vec::new(),
            steps: vec![StepLine {
                id: "01-x-build".into(),
                phase: Phase::Expand,
                state: "failed",
                summary: "build x".into(),
            }],
            monitors: Vec::new(),
        }
    }

    #[test]
    fn a_phase_that_was_reached_passes_only_when_asked_for() {
        let mut pending = verification(Verdict::ContractPending);
        pending.reached = true;
        assert!(!pending.passes());
        pending.through = Some(Phase::Cutover);
        assert!(pending.passes());
        let mut back = verification(Verdict::RolledBack);
        assert!(back.passes());
        back.through = Some(Phase::Cutover);
        assert!(!back.passes());
    }

    #[test]
    fn human_form() {
        let mut found = verification(Verdict::InProgress);
        found.findings.push(Finding {
            kind: FindingKind::Step,
            object: "step 01-x-build".into(),
            expected: Some("done".into()),
            found: None,
            remedy: "run it again".into(),
            details: vec![r#"{"id": 1}"#.into()],
        });
        found.monitors.push(Answer {
            name: "health".into(),
            rows: vec![serde_json::json!({"version": 1})],
            more: true,
            error: None,
        });
        let text = crate::report::safe::plain(&found.human());
        insta::assert_snapshot!(text, @r#"
        widen: in progress (run 3)
          failed   expand    01-x-build  build x

        1 finding:

        1. step 01-x-build
             expected   done
             found      nothing
                        {"id": 1}
             remedy     run it again

        health
          {"version":1}
          and more
        "#);
    }
}
