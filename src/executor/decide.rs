//! What to do with a step, from what is recorded and what is found. Pure.

use super::ledger::StepState;
use crate::plan::{Phase, Step, Transaction, Undo};
use crate::sql::QualifiedName;
use crate::verifier::Standing;

/// What comes next for one step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    Run,
    /// It is done already; nothing to send.
    Skip,
    /// Remove the half-done index first.
    CleanUp(QualifiedName),
    /// Something else is in the way; touch nothing.
    Halt(String),
}

/// Whether a recorded step still has to be looked at when a run goes forwards.
pub fn is_due(state: StepState, phase: Phase, through: Phase) -> bool {
    phase <= through && state != StepState::Done
}

/// For a step outside a transaction: its effect may be there although no record says so.
pub fn for_probed(standing: Standing) -> Decision {
    match standing {
        Standing::Holds => Decision::Skip,
        Standing::Absent => Decision::Run,
        Standing::HalfDone(index) => Decision::CleanUp(index),
        Standing::Conflicts(what) => Decision::Halt(what),
    }
}

/// Whether a rollback has to undo the step: what was done, and what may have left something behind.
pub fn needs_undo(state: StepState, step: &Step) -> bool {
    match state {
        StepState::Done => true,
        StepState::Pending | StepState::Undone => false,
        // A transaction that did not commit left nothing; everything else may have.
        StepState::Running | StepState::Failed => step.work.transaction == Transaction::None,
    }
}

/// The first step that a rollback could not undo.
pub fn barrier<'a>(steps: impl Iterator<Item = (&'a Step, StepState)>) -> Option<(&'a Step, &'a str)> {
    let mut steps = steps;
    steps.find_map(|(step, state)| match &step.undo {
        Undo::Irreversible { reason } if needs_undo(state, step) => Some((step, reason.as_str())),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_steps_and_later_phases_are_not_due() {
        assert!(is_due(StepState::Failed, Phase::Expand, Phase::Cutover));
        assert!(!is_due(StepState::Done, Phase::Expand, Phase::Cutover));
        assert!(!is_due(StepState::Pending, Phase::Contract, Phase::Cutover));
    }

    #[test]
    fn probes_decide() {
        let index = QualifiedName::new("public", "i");
        assert_eq!(for_probed(Standing::Holds), Decision::Skip);
        assert_eq!(
            for_probed(Standing::HalfDone(index.clone())),
            Decision::CleanUp(index)
        );
        assert_eq!(
            for_probed(Standing::Conflicts("x".into())),
            Decision::Halt("x".into())
        );
    }
}
