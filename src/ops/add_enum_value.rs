//! `add_enum_value`: an enumerated type gets another label.

use super::parts::object::{self, Making};
use super::{Context, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Question, Trial};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{Hazard, Settings};
use crate::sql::{QualifiedName, literal};

const MANUAL: &str = "\
Adds a label to an enumerated type, at its end or beside another one. Rows are not touched.

```yaml
- add_enum_value: {type: order_state, value: returned, after: sent}
```

Changes after it in the same plan cannot name the label, as a default or in a condition, since PostgreSQL does not say what
it makes of one that is not committed: they are refused, and come in a plan that is made when this one is applied.

Locks: none that anybody waits for.
Undo: not needed; PostgreSQL cannot remove a label, and one that nobody uses does no harm. A rollback leaves it, and
the next `apply` finds it there.
";

#[derive(Debug, Clone)]
pub struct AddEnumValue {
    name: Located<QualifiedName>,
    value: Located<String>,
    before: Option<Located<String>>,
    after: Option<Located<String>>,
}

pub struct Target {
    name: QualifiedName,
    statement: String,
    value: String,
    labels: Vec<String>,
}

impl AddEnumValue {
    /// Where the new one goes among the labels.
    fn place(&self, labels: &[String]) -> Result<usize, Diagnostic> {
        let find = |near: &Located<String>| {
            let position = labels.iter().position(|label| *label == near.value);
            position.ok_or_else(|| {
                let message = format!("{} has no label `{}`", self.name.value, near.value);
                Diagnostic::new("unknown_label", message)
                    .at(near.span)
                    .suggest(&near.value, labels.iter().map(String::as_str).collect::<Vec<_>>())
            })
        };
        match (&self.before, &self.after) {
            (Some(before), _) => find(before),
            (None, Some(after)) => find(after).map(|position| position + 1),
            (None, None) => Ok(labels.len()),
        }
    }

    fn trial(&self) -> Trial {
        Trial {
            statements: vec![self.statement()],
            ..Trial::default()
        }
    }

    fn statement(&self) -> String {
        let beside = match (&self.before, &self.after) {
            (Some(before), _) => format!(" BEFORE {}", literal(&before.value)),
            (None, Some(after)) => format!(" AFTER {}", literal(&after.value)),
            (None, None) => String::new(),
        };
        let value = literal(&self.value.value);
        format!(
            "ALTER TYPE {} ADD VALUE IF NOT EXISTS {value}{beside}",
            self.name.value
        )
    }
}

impl Operation for AddEnumValue {
    type Target = Target;
    const NAME: &'static str = "add_enum_value";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let name = fields.qualified("type");
        let value = fields.text("value");
        let before = fields.optional_text("before");
        let after = fields.optional_text("after");
        if let (Some(_), Some(after)) = (&before, &after) {
            let message = "`before` and `after` exclude each other";
            fields.report(Diagnostic::new("two_places", message).at(after.span));
        }
        Some(Self {
            name: name?,
            value: value?,
            before,
            after,
        })
    }

    fn questions(&self, _now: &CatalogSnapshot) -> Vec<Question> {
        vec![Question::Trial(self.trial())]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let name = &self.name;
        let found = context.catalog.types.get(&name.value);
        let Some(found) = found.filter(|found| found.kind == "enum") else {
            let what = found.map_or("there is no type", |_| "this is no enumerated type:");
            let message = format!("{what} {}", name.value);
            return Err(vec![Diagnostic::new("unknown_type", message).at(name.span)]);
        };
        // An earlier run may have left it: a rollback does not remove it.
        let mut labels = found.labels.clone();
        if !labels.contains(&self.value.value) {
            let place = self.place(&labels).map_err(|complaint| vec![complaint])?;
            labels.insert(place, self.value.value.clone());
        }
        context
            .tried(&self.trial(), name.span)
            .map_err(|complaint| vec![complaint])?;
        Ok(Target {
            name: name.value.clone(),
            statement: self.statement(),
            value: self.value.value.clone(),
            labels,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let name = &target.name;
        let labels: Vec<String> = target.labels.iter().map(|label| literal(label)).collect();
        let making = Making {
            id: "add",
            summary: format!("add {} to type {name}", literal(&target.value)),
            statements: vec![target.statement.clone()],
            locks: Vec::new(),
            expect: vec![object::expected(
                &format!("type {name}"),
                object::enum_text(name),
                Some(labels.join(", ")),
            )],
            hazards: vec![Hazard::new(
                "stays",
                "a rollback leaves the label: PostgreSQL cannot remove one",
            )],
            undo: Vec::new(),
            undo_locks: Vec::new(),
            previous: None,
            kept: Some("a label that nobody uses does no harm, and PostgreSQL cannot remove it".into()),
        };
        vec![making.step(settings)]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        if let Some(found) = catalog.types.get_mut(&target.name) {
            found.labels.clone_from(&target.labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text};

    #[test]
    fn adds_beside_another() {
        let changes = "  - create_enum: {name: state, values: [new, sent]}\n  - add_enum_value: {type: state, value: paid, after: new}\n  - add_enum_value: {type: state, value: x, before: payed}\n  - add_enum_value: {type: other, value: x}\n";
        insta::assert_snapshot!(plan_text(&catalog(), changes), @"
        5:53 unknown_label: public.state has no label `payed` (did you mean `paid`?)
        6:28 unknown_type: there is no type public.other
        ");
        let changes = "  - create_enum: {name: state, values: [new, sent]}\n  - add_enum_value: {type: state, value: paid, after: new}\n";
        insta::assert_snapshot!(plan_text(&catalog(), changes), @"
        01-create_enum-create [expand] create type public.state
          CREATE TYPE public.state AS ENUM ('new', 'sent');
            locks:  (lock_timeout 200ms)
          undo DROP TYPE IF EXISTS public.state;
          undo   locks:  (lock_timeout 200ms)
        02-add_enum_value-add [expand] add 'paid' to type public.state
          ALTER TYPE public.state ADD VALUE IF NOT EXISTS 'paid' AFTER 'new';
            locks:  (lock_timeout 200ms)
          undo not needed: a label that nobody uses does no harm, and PostgreSQL cannot remove it
          hazard stays: a rollback leaves the label: PostgreSQL cannot remove one
        ");
    }
}
