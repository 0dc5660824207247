//! `create_schema`: a namespace of its own.

use super::parts::object::{self, Making};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Question, Schema, Trial};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::Settings;
use crate::sql::ident;

const MANUAL: &str = "\
Creates a schema, owned by the role that runs the plan. What stands in it comes by further changes, and who may look
into it by `grant` (USAGE on the schema, then privileges on what is in it).

```yaml
- create_schema: {name: metrics, comment: read-only views for reports}
```

Locks: none that anybody waits for.
Undo: the schema is dropped; PostgreSQL refuses that while anything is in it, so what others put there is never lost.
";

#[derive(Debug, Clone)]
pub struct CreateSchema {
    name: Located<String>,
    comment: Option<String>,
}

pub struct Target {
    name: String,
    statements: Vec<String>,
    owner: String,
    text: Option<String>,
}

impl CreateSchema {
    fn trial(&self) -> Trial {
        Trial {
            statements: self.statements(),
            texts: vec![object::schema_text(&self.name.value)],
            ..Trial::default()
        }
    }

    fn statements(&self) -> Vec<String> {
        let name = ident(&self.name.value);
        let comment = self
            .comment
            .as_ref()
            .map(|comment| format!("COMMENT ON SCHEMA {name} IS {}", crate::sql::literal(comment)));
        std::iter::once(format!("CREATE SCHEMA {name}"))
            .chain(comment)
            .collect()
    }
}

impl Operation for CreateSchema {
    type Target = Target;
    const NAME: &'static str = "create_schema";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let name = fields.identifier("name");
        let comment = fields.optional_text("comment").map(|text| text.value);
        Some(Self { name: name?, comment })
    }

    fn makes(&self) -> Vec<Named> {
        vec![Named::schema(&self.name)]
    }

    fn questions(&self, _now: &CatalogSnapshot) -> Vec<Question> {
        vec![Question::Trial(self.trial())]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let name = &self.name;
        if context.catalog.schemas.contains_key(&name.value) {
            let message = format!("schema `{}` exists already", name.value);
            return Err(vec![Diagnostic::new("name_taken", message).at(name.span).help(
                "leave the change out, or make it conditional: `when: {schema_missing: …}`",
            )]);
        }
        let outcome = context
            .tried(&self.trial(), name.span)
            .map_err(|complaint| vec![complaint])?;
        Ok(Target {
            name: name.value.clone(),
            statements: self.statements(),
            owner: context.now.role.name.clone(),
            text: outcome.and_then(|outcome| outcome.after.first().cloned().flatten()),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let name = ident(&target.name);
        let text = target.text.clone();
        let making = Making {
            id: "create",
            summary: format!("create schema {name}"),
            statements: target.statements.clone(),
            locks: Vec::new(),
            expect: text
                .map(|text| {
                    object::expected(
                        &format!("schema {name}"),
                        object::schema_text(&target.name),
                        Some(text),
                    )
                })
                .into_iter()
                .collect(),
            hazards: Vec::new(),
            undo: vec![format!("DROP SCHEMA IF EXISTS {name}")],
            undo_locks: Vec::new(),
            previous: None,
            kept: None,
        };
        vec![making.step(settings)]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        let schema = Schema {
            owner: target.owner.clone(),
            may_create: true,
        };
        catalog.schemas.insert(target.name.clone(), schema);
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text};

    #[test]
    fn creates_and_drops() {
        insta::assert_snapshot!(
            plan_text(&catalog(), "  - create_schema: {name: Metrics 1, comment: it's ours}\n"),
            @r#"
        01-create_schema-create [expand] create schema "Metrics 1"
          CREATE SCHEMA "Metrics 1";
          COMMENT ON SCHEMA "Metrics 1" IS 'it''s ours';
            locks:  (lock_timeout 200ms)
          undo DROP SCHEMA IF EXISTS "Metrics 1";
          undo   locks:  (lock_timeout 200ms)
        "#
        );
    }

    #[test]
    fn refuses_a_taken_name() {
        insta::assert_snapshot!(plan_text(&catalog(), "  - create_schema: {name: public}\n"), @"3:27 name_taken: schema `public` exists already (leave the change out, or make it conditional: `when: {schema_missing: …}`)");
    }
}
