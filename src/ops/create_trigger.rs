//! `create_trigger`: a function that a table calls on writes.

use super::parts::object::Making;
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Probe, Trigger};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::{Fields, Node, Value};
use crate::plan::{Expectation, Lock, LockMode, Settings};
use crate::sql::{QualifiedName, ident, idents, literal};

const MANUAL: &str = "\
Creates a trigger on a table.

```yaml
- create_trigger:
    name: touch_updated_at
    table: user_strategies
    timing: before
    events: [update]
    function: touch_updated_at
```

An event is `insert`, `update`, `delete`, `truncate`, or `{update: [column, …]}`. Also: `for_each: statement` (a row
is the default), `when: expression` over OLD and NEW goes by the key `condition`, and `arguments: [text, …]`. The function is
called without arguments and returns `trigger`; it may be made by `create_function` earlier in the plan.

Locks: SHARE ROW EXCLUSIVE on the table and all its partitions, for an instant: writes wait, reads go on.
Undo: the trigger is dropped.
";

#[derive(Debug, Clone)]
pub struct CreateTrigger {
    name: Located<String>,
    table: Located<QualifiedName>,
    timing: &'static str,
    events: Vec<Event>,
    for_each_row: bool,
    condition: Option<Located<String>>,
    function: Located<QualifiedName>,
    arguments: Vec<String>,
}

#[derive(Debug, Clone)]
struct Event {
    word: &'static str,
    columns: Vec<Located<String>>,
}

pub struct Target {
    name: String,
    tables: Vec<QualifiedName>,
    statement: String,
    /// As it will be on each of the tables; `None` when the server was not asked.
    trigger: Option<Trigger>,
}

const EVENTS: [(&str, &str); 4] = [
    ("insert", "INSERT"),
    ("update", "UPDATE"),
    ("delete", "DELETE"),
    ("truncate", "TRUNCATE"),
];

fn read_event(fields: &Fields<'_>, node: &Node) -> Option<Event> {
    if let Value::Map(_) = &node.value {
        let nested = fields.nested(node, "an event");
        let columns = nested.identifiers("update");
        return nested.finish().then_some(Event {
            word: "UPDATE",
            columns: columns?,
        });
    }
    let text = fields.text_of(node, "events")?;
    let found = EVENTS.iter().find(|(name, _)| *name == text.value);
    if found.is_none() {
        let message = format!("`{}` is no event", text.value);
        let complaint = Diagnostic::new("invalid_value", message)
            .at(text.span)
            .help("insert, update, delete, truncate, or {update: [column]}");
        fields.report(complaint.suggest(&text.value, EVENTS.map(|(name, _)| name).to_vec()));
    }
    found.map(|(_, word)| Event {
        word,
        columns: Vec::new(),
    })
}

impl CreateTrigger {
    /// The statement up to the table's name, and after it.
    fn definition(&self) -> (String, String) {
        let events = self.events.iter().map(|event| match event.columns.is_empty() {
            true => event.word.to_owned(),
            false => {
                let names: Vec<&str> = event.columns.iter().map(|column| column.value.as_str()).collect();
                format!("{} OF {}", event.word, idents(&names))
            }
        });
        let before = format!(
            "CREATE TRIGGER {} {} {} ON ",
            ident(&self.name.value),
            self.timing,
            events.collect::<Vec<_>>().join(" OR ")
        );
        let level = if self.for_each_row { "ROW" } else { "STATEMENT" };
        let condition = self
            .condition
            .as_ref()
            .map(|condition| format!(" WHEN ({})", condition.value))
            .unwrap_or_default();
        let arguments: Vec<String> = self.arguments.iter().map(|text| literal(text)).collect();
        let after = format!(
            " FOR EACH {level}{condition} EXECUTE FUNCTION {}({})",
            self.function.value,
            arguments.join(", ")
        );
        (before, after)
    }

    fn probe(&self) -> Probe {
        let (before, after) = self.definition();
        Probe {
            table: self.table.value.clone(),
            before,
            after,
        }
    }
}

impl Operation for CreateTrigger {
    type Target = Target;
    const NAME: &'static str = "create_trigger";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let name = fields.identifier("name");
        let table = fields.qualified("table");
        fields.required("timing");
        let timing = fields.choice("timing", &[("before", "BEFORE"), ("after", "AFTER")]);
        let items = fields.list("events").unwrap_or_default();
        let events: Vec<Option<Event>> = items.iter().map(|item| read_event(fields, item)).collect();
        let level = fields.choice("for_each", &[("row", true), ("statement", false)]);
        let condition = fields.optional_text("condition");
        let function = fields.qualified("function");
        let arguments = fields.optional_list("arguments").unwrap_or_default();
        let arguments = arguments
            .iter()
            .filter_map(|item| fields.text_of(item, "arguments"));
        let arguments = arguments.map(|text| text.value).collect();
        Some(Self {
            name: name?,
            table: table?,
            timing: timing?.value,
            events: events.into_iter().collect::<Option<Vec<_>>>()?,
            for_each_row: level.is_none_or(|level| level.value),
            condition,
            function: function?,
            arguments,
        })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.table)]
    }

    fn probes(&self, _now: &CatalogSnapshot) -> Vec<Probe> {
        vec![self.probe()]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let table = context.table(&self.table).map_err(|complaint| vec![complaint])?;
        let name = &self.table.value;
        let mut complaints = Vec::new();
        for column in self.events.iter().flat_map(|event| &event.columns) {
            complaints.extend(context.column(name, table, column).err());
        }
        let tables = match self.for_each_row {
            true => context.catalog.tree(name),
            false => vec![name.clone()],
        };
        let taken = |name: &&QualifiedName| {
            let table = context.catalog.tables.get(name);
            table.is_some_and(|table| table.triggers.contains_key(&self.name.value))
        };
        if let Some(table) = tables.iter().find(taken) {
            let message = format!("{table} has a trigger `{}` already", self.name.value);
            complaints.push(Diagnostic::new("name_taken", message).at(self.name.span));
        }
        let mut outcome = None;
        if complaints.is_empty() {
            match context.accepted(&self.probe(), self.function.span) {
                Ok(found) => outcome = found,
                Err(complaint) => complaints.push(complaint),
            }
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let (before, after) = self.definition();
        let trigger = outcome.and_then(|outcome| outcome.table.triggers.get(&self.name.value));
        Ok(Target {
            name: self.name.value.clone(),
            tables,
            statement: format!("{before}{name}{after}"),
            trigger: trigger.cloned(),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let Some(table) = target.tables.first() else {
            return Vec::new();
        };
        let name = ident(&target.name);
        let locks = |mode| target.tables.iter().map(|table| Lock::new(table, mode)).collect();
        let making = Making {
            id: "create",
            summary: format!("create trigger {name} on {table}"),
            statements: vec![target.statement.clone()],
            locks: locks(LockMode::ShareRowExclusive),
            expect: vec![Expectation::Trigger {
                table: table.clone(),
                name: target.name.clone(),
                enabled: "origin".into(),
            }],
            hazards: Vec::new(),
            undo: vec![format!("DROP TRIGGER IF EXISTS {name} ON {table}")],
            undo_locks: locks(LockMode::AccessExclusive),
            previous: None,
            kept: None,
        };
        vec![making.step(settings)]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        for (position, name) in target.tables.iter().enumerate() {
            let Some(table) = catalog.tables.get_mut(name) else {
                continue;
            };
            let Some(trigger) = &target.trigger else {
                catalog.unpredicted.insert(name.clone());
                continue;
            };
            let root = format!(" ON {} ", target.tables[0]);
            let on = format!(" ON {name} ");
            let trigger = Trigger {
                definition: trigger.definition.replacen(&root, &on, 1),
                cloned: position > 0,
                ..trigger.clone()
            };
            table.triggers.insert(target.name.clone(), trigger);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text, table};

    #[test]
    fn creates_and_drops() {
        let catalog = catalog().with("\"Or ders\"", table(&["id bigint not null", "State text"]));
        let changes = "  - create_trigger:\n      name: touch it\n      table: '\"Or ders\"'\n      timing: before\n      events: [insert, {update: [State]}]\n      condition: new.id > 0\n      function: app.touch\n      arguments: [it's]\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        01-create_trigger-create [expand] create trigger "touch it" on public."Or ders"
          CREATE TRIGGER "touch it" BEFORE INSERT OR UPDATE OF "State" ON public."Or ders" FOR EACH ROW WHEN (new.id > 0) EXECUTE FUNCTION app.touch('it''s');
            locks: public."Or ders" SHARE ROW EXCLUSIVE (lock_timeout 200ms)
          undo DROP TRIGGER IF EXISTS "touch it" ON public."Or ders";
          undo   locks: public."Or ders" ACCESS EXCLUSIVE (lock_timeout 200ms)
        "#);
    }

    #[test]
    fn names_what_is_wrong() {
        let catalog = catalog().with("orders", table(&["id bigint not null", "state text"]));
        let changes =
            "  - create_trigger: {name: t, table: orders, timing: before, events: [inserts], function: f}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"3:71 invalid_value: `inserts` is no event (did you mean `insert`?)");
        let changes = "  - create_trigger: {name: t, table: orders, timing: after, events: [{update: [stat]}], function: f}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"3:80 unknown_column: public.orders has no column `stat` (did you mean `state`?)");
    }
}
