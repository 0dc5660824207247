//! `create_enum`: a type whose values are a list of labels.

use super::parts::object::{self, Making};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Question, Trial, UserType};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::Settings;
use crate::sql::{QualifiedName, literal};

const MANUAL: &str = "\
Creates an enumerated type. Labels can be added later (`add_enum_value`), but never be removed or reordered; where
the values are expected to change, a text column with a CHECK is easier to live with.

```yaml
- create_enum: {name: order_state, values: [new, paid, sent]}
```

Locks: none that anybody waits for.
Undo: the type is dropped; PostgreSQL refuses that while a column has it.
";

/// NAMEDATALEN: longer labels are refused by the server.
const LABEL_BYTES_MAX: usize = 63;

#[derive(Debug, Clone)]
pub struct CreateEnum {
    name: Located<QualifiedName>,
    values: Vec<Located<String>>,
}

pub struct Target {
    name: QualifiedName,
    values: Vec<String>,
}

impl CreateEnum {
    fn values(&self) -> Vec<String> {
        self.values.iter().map(|value| value.value.clone()).collect()
    }

    fn trial(&self) -> Trial {
        Trial {
            statements: vec![statement(&self.name.value, &self.values())],
            types: vec![self.name.value.clone()],
            ..Trial::default()
        }
    }
}

fn statement(name: &QualifiedName, values: &[String]) -> String {
    format!("CREATE TYPE {name} AS ENUM ({})", labels(values))
}

fn labels(values: &[String]) -> String {
    values
        .iter()
        .map(|value| literal(value))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Operation for CreateEnum {
    type Target = Target;
    const NAME: &'static str = "create_enum";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let name = fields.qualified("name");
        let items = fields.list("values").unwrap_or_default();
        let values: Option<Vec<_>> = items.iter().map(|item| fields.text_of(item, "values")).collect();
        let values = values?;
        for (position, value) in values.iter().enumerate() {
            let message = if values[..position].iter().any(|other| other.value == value.value) {
                format!("`{}` stands twice in `values`", value.value)
            } else if value.value.len() > LABEL_BYTES_MAX {
                format!("`{}` is longer than {LABEL_BYTES_MAX} bytes", value.value)
            } else {
                continue;
            };
            fields.report(Diagnostic::new("invalid_value", message).at(value.span));
        }
        Some(Self { name: name?, values })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::schema_of(&self.name)]
    }

    fn questions(&self, _now: &CatalogSnapshot) -> Vec<Question> {
        vec![Question::Trial(self.trial())]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let mut complaints = object::place_complaints(context, &self.name);
        if context.catalog.types.contains_key(&self.name.value) {
            let message = format!("type {} exists already", self.name.value);
            complaints.push(Diagnostic::new("name_taken", message).at(self.name.span));
        }
        if complaints.is_empty() {
            complaints.extend(context.tried(&self.trial(), self.name.span).err());
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        Ok(Target {
            name: self.name.value.clone(),
            values: self.values(),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let name = &target.name;
        let making = Making {
            id: "create",
            summary: format!("create type {name}"),
            statements: vec![statement(name, &target.values)],
            locks: Vec::new(),
            expect: vec![object::expected(
                &format!("type {name}"),
                object::enum_text(name),
                Some(labels(&target.values)),
            )],
            hazards: Vec::new(),
            undo: vec![format!("DROP TYPE IF EXISTS {name}")],
            undo_locks: Vec::new(),
            previous: None,
            kept: None,
        };
        vec![making.step(settings)]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        let made = UserType {
            kind: "enum".into(),
            labels: target.values.clone(),
            constrained: false,
            base: None,
        };
        catalog.types.insert(target.name.clone(), made);
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text};

    #[test]
    fn creates_and_drops() {
        insta::assert_snapshot!(
            plan_text(&catalog(), "  - create_enum: {name: '\"State\"', values: [new, \"it's\", 'a\\b']}\n"),
            @r#"
        01-create_enum-create [expand] create type public."State"
          CREATE TYPE public."State" AS ENUM ('new', 'it''s', E'a\\b');
            locks:  (lock_timeout 200ms)
          undo DROP TYPE IF EXISTS public."State";
          undo   locks:  (lock_timeout 200ms)
        "#
        );
    }

    #[test]
    fn refuses_double_and_long_labels_and_unknown_schemas() {
        let long = "x".repeat(64);
        let text = format!("  - create_enum: {{name: s, values: [a, a, {long}]}}\n");
        insta::assert_snapshot!(plan_text(&catalog(), &text), @"
        3:40 invalid_value: `a` stands twice in `values`
        3:43 invalid_value: `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx` is longer than 63 bytes
        ");
        insta::assert_snapshot!(plan_text(&catalog(), "  - create_enum: {name: pulbic.s, values: [a]}\n"), @"3:25 unknown_schema: there is no schema `pulbic` (did you mean `public`?)");
    }
}
