//! `create_function`: a function, new or in the place of one with the same arguments.

use super::parts::object::{self, Making};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Question, Trial, TrialOutcome};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{Hazard, Settings};
use crate::sql::{QualifiedName, ident, literal};
use serde::Deserialize;
use std::collections::BTreeMap;

const MANUAL: &str = "\
Creates a function. With `replace: true` one with the same name and argument types gets the new definition at once,
for the next call of everybody; PostgreSQL asks for the same result type. Names and defaults of arguments that it does not
have cannot be added so, because a rollback could not take them away again.

```yaml
- create_function:
    name: list_customer_portfolios
    arguments: {p_customer_id: bigint}
    returns: TABLE (portfolio_id uuid, status text)
    language: sql
    volatility: stable
    security: definer
    set: {search_path: 'public, pg_temp'}
    body: SELECT customer_strategy_id, status FROM customer_strategies WHERE customer_id = p_customer_id
```

An argument is `name: type`, with ` DEFAULT …` behind it where it has one. Also: `strict: true`,
`parallel: safe|restricted|unsafe`, `comment`, `execute: [role, …]` (then nobody else may call it; without it everybody may,
as is PostgreSQL's default). A body that begins with RETURN or BEGIN ATOMIC is parsed when the function is created and
follows renamed tables; any other is a text that is looked at when it runs.

Locks: none that anybody waits for.
Undo: the function is dropped, or gets its definition and its comment back.
";

#[derive(Debug, Clone)]
pub struct CreateFunction {
    name: Located<QualifiedName>,
    arguments: Vec<(Located<String>, Located<String>)>,
    returns: Located<String>,
    language: String,
    volatility: Option<&'static str>,
    definer: bool,
    strict: bool,
    parallel: Option<&'static str>,
    settings: Vec<(Located<String>, Located<String>)>,
    body: Located<String>,
    execute: Option<Vec<Located<String>>>,
    comment: Option<String>,
    replace: bool,
}

pub struct Target {
    signature: String,
    statements: Vec<String>,
    /// The question for its definition, and the answer, where the server was asked.
    expect: Option<(String, String)>,
    before: Before,
    hazards: Vec<Hazard>,
}

/// What is there of it before.
enum Before {
    Nothing,
    /// Its definition, and what gives it back.
    Other(String, Vec<String>),
    /// Exactly what the change makes.
    Same,
    /// It may be replaced, and the server was not asked.
    Unknown,
}

/// A function as [`object::functions_text`] tells it.
#[derive(PartialEq, Deserialize)]
struct Known {
    signature: String,
    definition: String,
    comment: Option<String>,
    defaults: i64,
    named: i64,
}

type Functions = BTreeMap<String, Known>;

fn functions(texts: &[Option<String>]) -> Functions {
    let text = texts.first().and_then(Option::as_deref);
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// The type of an argument without its default.
fn argument_type(text: &str) -> &str {
    let end = text.to_uppercase().find(" DEFAULT ").or_else(|| text.find('='));
    text[..end.unwrap_or(text.len())].trim()
}

/// The text between dollars that it does not hold itself.
fn dollar_quoted(text: &str) -> String {
    let numbered = (1..).map(|number| format!("$body{number}$"));
    let tag = std::iter::once("$body$".to_owned())
        .chain(numbered)
        .find(|tag| !text.contains(tag.as_str()))
        .unwrap_or_default();
    format!("{tag}{text}{tag}")
}

impl CreateFunction {
    /// Name and types, by which the server knows it.
    fn signature(&self) -> String {
        let types = self.arguments.iter().map(|(_, text)| argument_type(&text.value));
        format!("{}({})", self.name.value, types.collect::<Vec<_>>().join(", "))
    }

    fn definition(&self) -> String {
        let arguments = self
            .arguments
            .iter()
            .map(|(name, text)| format!("{} {}", ident(&name.value), text.value));
        let verb = if self.replace {
            "CREATE OR REPLACE FUNCTION"
        } else {
            "CREATE FUNCTION"
        };
        let mut text = format!(
            "{verb} {}({}) RETURNS {} LANGUAGE {}",
            self.name.value,
            arguments.collect::<Vec<_>>().join(", "),
            self.returns.value,
            ident(&self.language)
        );
        let words = [
            self.volatility.map(str::to_owned),
            self.strict.then(|| "STRICT".to_owned()),
            self.definer.then(|| "SECURITY DEFINER".to_owned()),
            self.parallel.map(|parallel| format!("PARALLEL {parallel}")),
        ];
        for word in words.into_iter().flatten() {
            text.push_str(&format!(" {word}"));
        }
        for (name, value) in &self.settings {
            text.push_str(&format!(" SET {} = {}", setting_name(&name.value), value.value));
        }
        let body = self.body.value.trim();
        match is_parsed(&self.language, body) {
            true => text.push_str(&format!("\n{body}")),
            false => text.push_str(&format!(" AS {}", dollar_quoted(&self.body.value))),
        }
        text
    }

    fn statements(&self) -> Vec<String> {
        let signature = self.signature();
        let mut statements = vec![self.definition()];
        if let Some(roles) = &self.execute {
            let roles: Vec<String> = roles.iter().map(|role| ident(&role.value)).collect();
            statements.push(format!("REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"));
            statements.push(format!(
                "GRANT EXECUTE ON FUNCTION {signature} TO {}",
                roles.join(", ")
            ));
        }
        if let Some(comment) = &self.comment {
            statements.push(format!("COMMENT ON FUNCTION {signature} IS {}", literal(comment)));
        }
        statements
    }

    fn trial(&self) -> Trial {
        Trial {
            statements: self.statements(),
            texts: vec![object::functions_text(&self.name.value)],
            ..Trial::default()
        }
    }

    /// Which function it makes, and what that was. One that is replaced keeps its OID, whatever its arguments are called.
    fn made(&self, outcome: &TrialOutcome) -> Result<(Option<Known>, Before), Diagnostic> {
        let (mut before, mut after) = (functions(&outcome.before), functions(&outcome.after));
        let differs = |(oid, known): &(&String, &Known)| before.get(*oid) != Some(*known);
        let Some(oid) = after.iter().find(differs).map(|(oid, _)| oid.clone()) else {
            let several = after.len() > 1;
            let same = |known: &Known| !several || known.signature == self.signature();
            return Ok((after.into_values().find(same), Before::Same));
        };
        let made = after.remove(&oid);
        let Some((previous, new)) = before.remove(&oid).zip(made.as_ref()) else {
            return Ok((made, Before::Nothing));
        };
        if new.named > previous.named || new.defaults > previous.defaults {
            let message = format!(
                "{} is there without these names or defaults of arguments, and a rollback could not take them away again",
                new.signature
            );
            return Err(Diagnostic::new("arguments_differ", message)
                .at(self.name.span)
                .help("give the new function another name, or use `sql` with an undo of your own"));
        }
        let mut undo = vec![previous.definition.clone()];
        if self.comment.is_some() {
            let comment = previous.comment.as_deref().map_or("NULL".into(), literal);
            undo.push(format!("COMMENT ON FUNCTION {} IS {comment}", new.signature));
        }
        Ok((made, Before::Other(previous.definition, undo)))
    }

    fn hazards(&self) -> Vec<Hazard> {
        let mut hazards = Vec::new();
        let pinned = self.settings.iter().any(|(name, _)| name.value == "search_path");
        if self.definer && !pinned {
            hazards.push(Hazard::new(
                "open_search_path",
                "it runs with its owner's rights under the caller's search_path: whoever may create objects can make it \
                 run his own; add `set: {search_path: …}`",
            ));
        }
        if self.definer && self.execute.is_none() {
            hazards.push(Hazard::new(
                "public_may_execute",
                "everybody may call it with its owner's rights; `execute: [role]` says who may",
            ));
        }
        hazards
    }
}

/// Settings of extensions have a dot in their names.
fn setting_name(name: &str) -> String {
    name.split('.').map(ident).collect::<Vec<_>>().join(".")
}

fn is_parsed(language: &str, body: &str) -> bool {
    let mut words = body.split_whitespace().map(str::to_lowercase);
    let first = words.next().unwrap_or_default();
    let second = words.next().unwrap_or_default();
    language == "sql" && (first == "return" || (first == "begin" && second == "atomic"))
}

impl Operation for CreateFunction {
    type Target = Target;
    const NAME: &'static str = "create_function";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let name = fields.qualified("name");
        let arguments = fields.optional_pairs("arguments").unwrap_or_default();
        let returns = fields.text("returns");
        let language = fields.optional_identifier("language");
        let volatility = fields.choice(
            "volatility",
            &[
                ("immutable", "IMMUTABLE"),
                ("stable", "STABLE"),
                ("volatile", "VOLATILE"),
            ],
        );
        let definer = fields.choice("security", &[("definer", true), ("invoker", false)]);
        let strict = fields.flag("strict", false);
        let parallel = fields.choice(
            "parallel",
            &[
                ("safe", "SAFE"),
                ("restricted", "RESTRICTED"),
                ("unsafe", "UNSAFE"),
            ],
        );
        let settings = fields.optional_pairs("set").unwrap_or_default();
        let body = fields.text("body");
        let execute = fields.optional_identifiers("execute");
        let comment = fields.optional_text("comment").map(|text| text.value);
        let replace = fields.flag("replace", false);
        Some(Self {
            name: name?,
            arguments,
            returns: returns?,
            language: language.map_or("plpgsql".into(), |language| language.value),
            volatility: volatility.map(|choice| choice.value),
            definer: definer.is_some_and(|choice| choice.value),
            strict,
            parallel: parallel.map(|choice| choice.value),
            settings,
            body: body?,
            execute,
            comment,
            replace,
        })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::schema_of(&self.name)]
    }

    fn questions(&self, _now: &CatalogSnapshot) -> Vec<Question> {
        vec![Question::Trial(self.trial())]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        if let Some(complaint) = object::schema_complaint(context, &self.name.value.schema, self.name.span) {
            return Err(vec![complaint]);
        }
        let outcome = context
            .tried(&self.trial(), self.body.span)
            .map_err(|complaint| vec![complaint])?;
        let (made, before) = match outcome {
            Some(outcome) => self.made(outcome).map_err(|complaint| vec![complaint])?,
            None if self.replace => (None, Before::Unknown),
            None => (None, Before::Nothing),
        };
        if let (Before::Other(..) | Before::Same, Some([first, ..])) = (&before, self.execute.as_deref()) {
            let message = format!("{} is there; who may call it stays as it is", self.signature());
            let complaint = Diagnostic::new("execute_of_replaced", message).at(first.span);
            return Err(vec![
                complaint.help("leave `execute` out, and use `grant` for more"),
            ]);
        }
        let expect = made.as_ref().map(|made| {
            let query = object::function_text(&self.name.value, &made.signature);
            (query, made.definition.clone())
        });
        Ok(Target {
            signature: made.map_or_else(|| self.signature(), |made| made.signature),
            statements: self.statements(),
            expect,
            before,
            hazards: self.hazards(),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let signature = &target.signature;
        let expect = target
            .expect
            .clone()
            .map(|(query, text)| object::expected(&format!("function {signature}"), query, Some(text)));
        let (verb, previous, undo, kept) = match &target.before {
            Before::Nothing => {
                let undo = vec![format!("DROP FUNCTION IF EXISTS {signature}")];
                ("create", None, undo, None)
            }
            Before::Other(previous, undo) => ("replace", Some(previous.clone()), undo.clone(), None),
            Before::Same => (
                "replace",
                None,
                Vec::new(),
                Some("it was there as the change makes it"),
            ),
            Before::Unknown => {
                let kept = "whether one was there is not known, since the server was not asked";
                ("create", None, Vec::new(), Some(kept))
            }
        };
        let making = Making {
            id: "create",
            summary: format!("{verb} function {signature}"),
            statements: target.statements.clone(),
            locks: Vec::new(),
            expect: expect.into_iter().collect(),
            hazards: target.hazards.clone(),
            undo,
            undo_locks: Vec::new(),
            previous,
            kept: kept.map(str::to_owned),
        };
        vec![making.step(settings)]
    }

    fn apply_to(_target: &Target, _catalog: &mut CatalogSnapshot) {
        // Of functions the catalog keeps only those whose bodies name columns, for changes of these columns; such a
        // change in the same plan finds the new one when it is swapped in.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, plan_text};

    #[test]
    fn creates_and_drops() {
        let changes = "  - create_function:\n      name: '\"List\"'\n      arguments: {p_id: bigint, \"P 2\": 'text DEFAULT ''x'''}\n      returns: trigger\n      security: definer\n      volatility: stable\n      execute: [app]\n      set: {search_path: \"pg_catalog, pg_temp\"}\n      body: BEGIN RETURN $body$; END\n";
        insta::assert_snapshot!(plan_text(&catalog(), changes), @r#"
        01-create_function-create [expand] create function public."List"(bigint, text)
          CREATE FUNCTION public."List"(p_id bigint, "P 2" text DEFAULT 'x') RETURNS trigger LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body1$BEGIN RETURN $body$; END$body1$;
          REVOKE ALL ON FUNCTION public."List"(bigint, text) FROM PUBLIC;
          GRANT EXECUTE ON FUNCTION public."List"(bigint, text) TO app;
            locks:  (lock_timeout 200ms)
          undo DROP FUNCTION IF EXISTS public."List"(bigint, text);
          undo   locks:  (lock_timeout 200ms)
        "#);
    }

    #[test]
    fn tells_parsed_bodies_and_types() {
        assert!(is_parsed("sql", "begin  atomic SELECT 1; end") && is_parsed("sql", "RETURN 1"));
        assert!(!is_parsed("plpgsql", "BEGIN RETURN 1; END") && !is_parsed("sql", "SELECT 1"));
        assert_eq!(argument_type("numeric(10,2) default 5"), "numeric(10,2)");
        assert_eq!(argument_type("text = 'x'"), "text");
    }
}
