//! A table that another name is given at cutover, and the other changes of the plan: the phases of all changes are run
//! together, so that a step may come to a table that is not called so yet, or not any more.

use crate::change_plan::Change;
use crate::diagnostic::Diagnostic;
use crate::ops::Rename;
use crate::plan::{Phase, Step, Undo};
use crate::sql::QualifiedName;

/// Everything that would meet the table under the wrong name. The renames carry the numbers of their changes, from 1.
pub fn conflicts(renames: &[(usize, Rename)], steps: &[Step], changes: &[Change]) -> Vec<Diagnostic> {
    let mut complaints = Vec::new();
    for (number, rename) in renames {
        for (other, change) in changes.iter().enumerate().map(|(at, change)| (at + 1, change)) {
            let mut own = steps.iter().filter(|step| step.change == other);
            let complaint = match other.cmp(number) {
                std::cmp::Ordering::Less => own
                    .find(|step| step.phase > Phase::Cutover && touches(step, &rename.from))
                    .map(|step| works_afterwards(rename, step)),
                std::cmp::Ordering::Equal => None,
                std::cmp::Ordering::Greater => own
                    .find(|step| step.phase < rename.settled && touches(step, &rename.to))
                    .map(|step| works_before(rename, step)),
            };
            complaints.extend(complaint.map(|complaint| complaint.at(change.span)));
        }
    }
    complaints
}

fn works_afterwards(rename: &Rename, step: &Step) -> Diagnostic {
    let message = format!(
        "it works on {} in {}, and a later change of this plan renames that table at cutover",
        rename.from, step.phase
    );
    Diagnostic::new("renamed_in_between", message).help("move the later change into a plan of its own")
}

fn works_before(rename: &Rename, step: &Step) -> Diagnostic {
    let message = format!(
        "it works on {} in {}, before an earlier change of this plan is through with its renaming",
        rename.to, step.phase
    );
    Diagnostic::new("renamed_in_between", message)
        .help("move it before that change, or into a plan of its own that runs afterwards")
}

fn touches(step: &Step, table: &QualifiedName) -> bool {
    let undo = match &step.undo {
        Undo::Work(works) => works.as_slice(),
        Undo::NotNeeded { .. } | Undo::Irreversible { .. } => &[],
    };
    std::iter::once(&step.work).chain(undo).any(|work| {
        let expected = || work.expect.iter().filter_map(|it| it.table());
        work.locks.iter().any(|lock| &lock.relation == table) || expected().any(|it| it == table)
    })
}
