//! `create_function`: a function, new or in the place of one with the same arguments.

use super::parts::object::{self, Making};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Question, Trial};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{Hazard, Settings};
use crate::sql::{QualifiedName, ident, literal};

const MANUAL: &str = "\
Creates a function. With `replace: true` one with the same name and argument types gets the new definition at once,
for the next call of everybody; PostgreSQL asks for the same result type.

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
Undo: the function is dropped, or gets its definition back.
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
    query: String,
    text: Option<String>,
    previous: Option<String>,
    hazards: Vec<Hazard>,
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

    fn text(&self) -> String {
        let names: Vec<&str> = self
            .arguments
            .iter()
            .map(|(name, _)| name.value.as_str())
            .collect();
        object::function_text(&self.name.value, &names)
    }

    fn trial(&self) -> Trial {
        Trial {
            statements: self.statements(),
            texts: vec![self.text()],
            ..Trial::default()
        }
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
        let text = |texts: &[Option<String>]| texts.first().cloned().flatten();
        let previous = outcome.and_then(|outcome| text(&outcome.before));
        if let (Some(_), Some([first, ..])) = (&previous, self.execute.as_deref()) {
            let message = format!("{} is there; who may call it stays as it is", self.signature());
            let complaint = Diagnostic::new("execute_of_replaced", message).at(first.span);
            return Err(vec![
                complaint.help("leave `execute` out, and use `grant` for more"),
            ]);
        }
        Ok(Target {
            signature: self.signature(),
            statements: self.statements(),
            query: self.text(),
            text: outcome.and_then(|outcome| text(&outcome.after)),
            previous,
            hazards: self.hazards(),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let signature = &target.signature;
        let expect = target
            .text
            .clone()
            .map(|text| object::expected(&format!("function {signature}"), target.query.clone(), Some(text)));
        let verb = if target.previous.is_some() {
            "replace"
        } else {
            "create"
        };
        let making = Making {
            id: "create",
            summary: format!("{verb} function {signature}"),
            statements: target.statements.clone(),
            locks: Vec::new(),
            expect: expect.into_iter().collect(),
            hazards: target.hazards.clone(),
            undo: vec![match &target.previous {
                Some(previous) => previous.clone(),
                None => format!("DROP FUNCTION IF EXISTS {signature}"),
            }],
            undo_locks: Vec::new(),
            kept: None,
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
