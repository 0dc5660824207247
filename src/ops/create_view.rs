//! `create_view`: a query under a name.

use super::parts::object::{self, Making};
use super::parts::statement;
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Dependent, Question, Trial, TrialOutcome, View};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{Lock, LockMode, Settings};
use crate::sql::{QualifiedName, ident, literal, own_name};

const MANUAL: &str = "\
Creates a view. With `replace: true` a view of that name is given the new query, whose columns must be those that it
has: who reads the view knows them, and a rollback could not take new ones away again.

```yaml
- create_view:
    name: metrics.cost_by_tenant
    select: SELECT tenant_id, sum(cost) AS cost FROM public.llm_calls GROUP BY tenant_id
    comment: for reports
```

Also: `with: {security_invoker: true, security_barrier: true}`. Without `security_invoker` (PostgreSQL 15) whoever may
read the view reads its tables with the rights of the view's owner, past their row security.

Locks: ACCESS SHARE on what it reads, for an instant; replacing one takes ACCESS EXCLUSIVE on the view.
Undo: the view is dropped, or gets its query back.
";

#[derive(Debug, Clone)]
pub struct CreateView {
    name: Located<QualifiedName>,
    select: Located<String>,
    options: Vec<(Located<String>, Located<String>)>,
    comment: Option<String>,
    replace: bool,
}

pub struct Target {
    name: QualifiedName,
    statements: Vec<String>,
    view: View,
    /// As the server tells it, where it was asked.
    text: Option<String>,
    /// The view that is replaced.
    previous: Option<View>,
}

/// The options as they stand behind the name, with a space in front.
pub(super) fn options_text(options: &[(Located<String>, Located<String>)]) -> String {
    if options.is_empty() {
        return String::new();
    }
    let pairs = options
        .iter()
        .map(|(name, value)| format!("{} = {}", ident(&name.value), literal(&value.value)));
    format!(" WITH ({})", pairs.collect::<Vec<_>>().join(", "))
}

/// The text of a query without what would end it.
pub(super) fn query_text(text: &Located<String>) -> &str {
    text.value.trim().trim_end_matches(';').trim_end()
}

impl CreateView {
    fn statements(&self, name: &QualifiedName, replaces: bool) -> Vec<String> {
        let verb = if replaces {
            "CREATE OR REPLACE VIEW"
        } else {
            "CREATE VIEW"
        };
        let options = options_text(&self.options);
        let create = format!("{verb} {name}{options} AS\n{}", query_text(&self.select));
        let comment = self
            .comment
            .as_ref()
            .map(|comment| format!("COMMENT ON VIEW {name} IS {}", literal(comment)));
        std::iter::once(create).chain(comment).collect()
    }

    /// Replacing a view in use would lock it: what the new one is like is seen under a name that nobody uses.
    fn tried_name(&self, replaces: bool) -> QualifiedName {
        let name = &self.name.value;
        match replaces {
            true => name.sibling(own_name(&[&name.name], "pgmorph_trial")),
            false => name.clone(),
        }
    }

    fn trial(&self, replaces: bool) -> Trial {
        let name = self.tried_name(replaces);
        // An earlier change of the plan may have tried another query under it.
        let free = replaces.then(|| format!("DROP VIEW IF EXISTS {name}"));
        Trial {
            statements: free.into_iter().chain(self.statements(&name, false)).collect(),
            texts: vec![
                object::columns_text(&name),
                object::columns_text(&self.name.value),
            ],
            views: vec![name],
            ..Trial::default()
        }
    }

    fn replaces(&self, catalog: &CatalogSnapshot) -> bool {
        self.replace && catalog.views.contains_key(&self.name.value)
    }

    fn complaints(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let name = &self.name;
        let Some(found) = context.catalog.views.get(&name.value).filter(|_| self.replace) else {
            return object::place_complaints(context, name);
        };
        let mut complaints = Vec::new();
        if found.materialized {
            let message = format!("{} is a materialized view", name.value);
            complaints.push(Diagnostic::new("wrong_kind", message).at(name.span));
        }
        if !context.now.role.acts_as(&found.owner) {
            let message = format!("{} belongs to {}", name.value, found.owner);
            complaints.push(Diagnostic::new("not_owner", message).at(name.span));
        }
        complaints
    }

    /// The texts before and after: a view keeps its columns when it is replaced.
    fn column_complaint(&self, outcome: &TrialOutcome) -> Option<Diagnostic> {
        let text = |texts: &[Option<String>], at: usize| texts.get(at).cloned().flatten().unwrap_or_default();
        let (new, old) = (text(&outcome.after, 0), text(&outcome.after, 1));
        (new != old).then(|| {
            let message = format!(
                "{} has the columns ({old}), the new query has ({new})",
                self.name.value
            );
            Diagnostic::new("columns_differ", message)
                .at(self.select.span)
                .help("give it a new name; views that read this one, and clients, know its columns")
        })
    }
}

/// As [`object::view_text`] would tell it.
fn text_of(view: &View) -> String {
    let options = (!view.options.is_empty()).then(|| format!("with {}", view.options.join(", ")));
    let comment = view.comment.as_ref().map(|comment| format!("comment {comment}"));
    let parts = [
        Some("view".to_owned()),
        options,
        comment,
        Some(view.definition.clone()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

/// What makes a view what it was.
fn restore(name: &QualifiedName, view: &View) -> Vec<String> {
    let options = match view.options.is_empty() {
        true => String::new(),
        false => format!(" WITH ({})", view.options.join(", ")),
    };
    let comment = view
        .comment
        .as_ref()
        .map_or("NULL".into(), |comment| literal(comment));
    let query = view.definition.trim_end_matches(';');
    vec![
        format!("CREATE OR REPLACE VIEW {name}{options} AS\n{query}"),
        format!("COMMENT ON VIEW {name} IS {comment}"),
    ]
}

/// Tables tell who reads them, so that later changes of the plan do not take that away.
pub(super) fn note_readers(catalog: &mut CatalogSnapshot, name: &QualifiedName, view: &View) {
    let kind = if view.materialized {
        "materialized view"
    } else {
        "view"
    };
    for (table, column) in &view.uses {
        if let Some(table) = catalog.tables.get_mut(table) {
            table.dependents.push(Dependent {
                column: Some(column.clone()).filter(|column| !column.is_empty()),
                kind: kind.into(),
                name: format!("{kind} {name}"),
            });
        }
    }
}

/// A view that the server was not asked about.
pub(super) fn unasked(context: &Context<'_>, query: &str, materialized: bool) -> View {
    View::new(&context.now.role.name, query, materialized)
}

impl Operation for CreateView {
    type Target = Target;
    const NAME: &'static str = "create_view";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let name = fields.qualified("name");
        let select = fields.text("select");
        let options = fields.optional_pairs("with");
        let comment = fields.optional_text("comment").map(|text| text.value);
        let replace = fields.flag("replace", false);
        Some(Self {
            name: name?,
            select: select?,
            options: options.unwrap_or_default(),
            comment,
            replace,
        })
    }

    fn needs(&self) -> Vec<Named> {
        let mut needs = vec![Named::schema_of(&self.name)];
        needs.extend(statement::read_by(&self.select));
        needs
    }

    fn makes(&self) -> Vec<Named> {
        let made = Named::relation(&self.name);
        vec![if self.replace { made.guessed() } else { made }]
    }

    fn questions(&self, now: &CatalogSnapshot) -> Vec<Question> {
        vec![Question::Trial(self.trial(self.replaces(now)))]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let mut complaints = self.complaints(context);
        let name = &self.name.value;
        // One that an earlier change of the plan makes is not there when the server is asked.
        let replaces = self.replaces(context.catalog);
        let mut outcome = None;
        if complaints.is_empty() {
            match context.tried(&self.trial(self.replaces(context.now)), self.select.span) {
                Ok(found) => outcome = found,
                Err(complaint) => complaints.push(complaint),
            }
        }
        if let Some(outcome) = outcome.filter(|_| replaces) {
            complaints.extend(self.column_complaint(outcome));
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let previous = context.catalog.views.get(name).filter(|_| replaces);
        let tried = outcome.and_then(|outcome| outcome.views.values().next());
        let mut view = tried
            .cloned()
            .unwrap_or_else(|| unasked(context, query_text(&self.select), false));
        if let Some(previous) = previous {
            view.owner.clone_from(&previous.owner);
            view.grants.clone_from(&previous.grants);
            // A view keeps it where none is given.
            if self.comment.is_none() {
                view.comment.clone_from(&previous.comment);
            }
        }
        Ok(Target {
            name: name.clone(),
            statements: self.statements(name, replaces),
            text: tried.map(|_| text_of(&view)),
            previous: previous.cloned(),
            view,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let name = &target.name;
        let verb = if target.previous.is_some() {
            "replace"
        } else {
            "create"
        };
        let lock = vec![Lock::new(name, LockMode::AccessExclusive)];
        let expect = target
            .text
            .clone()
            .map(|text| object::expected(&format!("view {name}"), object::view_text(name), Some(text)));
        let making = Making {
            id: "create",
            summary: format!("{verb} view {name}"),
            statements: target.statements.clone(),
            locks: match target.previous {
                Some(_) => lock.clone(),
                None => Vec::new(),
            },
            expect: expect.into_iter().collect(),
            hazards: Vec::new(),
            undo: match &target.previous {
                Some(previous) => restore(name, previous),
                None => vec![format!("DROP VIEW IF EXISTS {name}")],
            },
            undo_locks: lock,
            previous: target.previous.as_ref().map(text_of),
            kept: None,
        };
        vec![making.step(settings)]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        note_readers(catalog, &target.name, &target.view);
        catalog.views.insert(target.name.clone(), target.view.clone());
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text, table};

    #[test]
    fn creates_and_drops() {
        let catalog = catalog().with("orders", table(&["id bigint not null", "state text"]));
        let changes = "  - create_view:\n      name: '\"Open orders\"'\n      select: SELECT id FROM orders;\n      with: {security_invoker: true}\n      comment: it's new\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        01-create_view-create [expand] create view public."Open orders"
          CREATE VIEW public."Open orders" WITH (security_invoker = 'true') AS
        SELECT id FROM orders;
          COMMENT ON VIEW public."Open orders" IS 'it''s new';
            locks:  (lock_timeout 200ms)
          undo DROP VIEW IF EXISTS public."Open orders";
          undo   locks: public."Open orders" ACCESS EXCLUSIVE (lock_timeout 200ms)
        "#);
        insta::assert_snapshot!(plan_text(&catalog, "  - create_view: {name: orders, select: SELECT 1}\n"), @"3:25 name_taken: public.orders exists already");
    }
}
