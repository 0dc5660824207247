//! `create_table`: a new table with everything that belongs to it.

use super::add_foreign_key::{self, AddForeignKey};
use super::parts::index::IndexSpec;
use super::parts::object::{self, Making};
use super::parts::statement;
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Question, Sequence, Table, Trial};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::{Fields, Node, Value};
use crate::plan::{Hazard, Lock, LockMode, Settings};
use crate::sql::{QualifiedName, ident, idents, literal};
use std::collections::BTreeMap;

const MANUAL: &str = "\
Creates a table with its columns, keys, checks and indexes in one transaction, since nobody uses it yet, and then adds
its foreign keys one by one, as add_foreign_key does: each of them locks the table that it refers to.

```yaml
- create_table:
    name: customer_strategies
    columns:
      customer_strategy_id: uuid DEFAULT gen_random_uuid()
      customer_id: bigint NOT NULL
      status: text NOT NULL DEFAULT 'pending'
      effective_from: date NOT NULL DEFAULT CURRENT_DATE
    primary_key: [customer_strategy_id]
    unique:
      - [customer_id, effective_from]
    checks:
      customer_strategies_status_check: status IN ('pending', 'active', 'paused', 'closed')
    indexes:
      - {name: idx_customer_strategies_active, columns: [customer_id, status], where: status = 'active'}
    comment: one row for each strategy that a customer follows
```

A column is its type and what follows it in SQL: NOT NULL, DEFAULT, COLLATE, GENERATED … AS IDENTITY, GENERATED ALWAYS AS.
References, keys and checks have places of their own: `foreign_keys` is a list of what add_foreign_key takes, without
`table`, `indexes` of what create_index takes. A `unique` entry is a list of columns or `{name, columns}`; so is `primary_key`;
`checks` is a map of names, or a list of unnamed expressions. Also: `partition_by: RANGE (created_at)`, `with` (storage
parameters), `unlogged: true`.

Locks: none on tables in use; with foreign keys those of add_foreign_key.
Undo: the table is dropped, with the rows that were written into it by then.
";

#[derive(Debug, Clone)]
pub struct CreateTable {
    name: Located<QualifiedName>,
    columns: Vec<(Located<String>, Located<String>)>,
    primary_key: Option<Key>,
    unique: Vec<Key>,
    checks: Vec<NamedCheck>,
    indexes: Vec<IndexSpec>,
    foreign_keys: Vec<AddForeignKey>,
    partition_by: Option<Located<String>>,
    options: Vec<(Located<String>, Located<String>)>,
    unlogged: bool,
    comment: Option<String>,
}

/// An expression, whose name may be left to the server.
type NamedCheck = (Option<Located<String>>, Located<String>);

#[derive(Debug, Clone)]
struct Key {
    name: Option<Located<String>>,
    columns: Vec<Located<String>>,
}

impl Key {
    fn read(fields: &Fields<'_>, node: &Node, what: &'static str) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let nested = fields.nested(node, what);
            let name = nested.optional_identifier("name");
            let columns = nested.identifiers("columns");
            return nested.finish().then_some(Self {
                name,
                columns: columns?,
            });
        }
        let columns = fields.identifiers_in(node, what)?;
        Some(Self { name: None, columns })
    }

    fn clause(&self, kind: &str) -> String {
        let columns: Vec<&str> = self.columns.iter().map(|column| column.value.as_str()).collect();
        format!(
            "{}{kind} ({})",
            constraint_name(self.name.as_ref()),
            idents(&columns)
        )
    }
}

fn constraint_name(name: Option<&Located<String>>) -> String {
    name.map_or_else(String::new, |name| format!("CONSTRAINT {} ", ident(&name.value)))
}

pub struct Target {
    name: QualifiedName,
    statements: Vec<String>,
    table: Table,
    sequences: BTreeMap<QualifiedName, Sequence>,
    /// Whether the server was asked what the table will be like.
    exact: bool,
    foreign_keys: Vec<add_foreign_key::Target>,
}

fn read_checks(fields: &Fields<'_>) -> Option<Vec<NamedCheck>> {
    let Some(node) = fields.optional("checks") else {
        return Some(Vec::new());
    };
    if let Value::List(_) = node.value {
        let items = fields.optional_list("checks")?;
        let texts = items.iter().map(|item| fields.text_of(item, "checks"));
        return texts.map(|text| Some((None, text?))).collect();
    }
    let entries = fields.entries(node, "checks")?;
    let read = |(name, node): &(Located<String>, Node)| {
        Some((Some(name.clone()), fields.text_of(node, &name.value)?))
    };
    entries.iter().map(read).collect()
}

impl CreateTable {
    fn statements(&self) -> Vec<String> {
        let name = &self.name.value;
        let columns = self
            .columns
            .iter()
            .map(|(column, definition)| format!("{} {}", ident(&column.value), definition.value.trim()));
        let checks = self.checks.iter().map(|(name, expression)| {
            format!("{}CHECK ({})", constraint_name(name.as_ref()), expression.value)
        });
        let elements: Vec<String> = columns
            .chain(self.primary_key.iter().map(|key| key.clause("PRIMARY KEY")))
            .chain(self.unique.iter().map(|key| key.clause("UNIQUE")))
            .chain(checks)
            .collect();
        let unlogged = if self.unlogged { "UNLOGGED " } else { "" };
        let mut create = format!("CREATE {unlogged}TABLE {name} (\n  {}\n)", elements.join(",\n  "));
        if let Some(partition_by) = &self.partition_by {
            create.push_str(&format!(" PARTITION BY {}", partition_by.value));
        }
        create.push_str(&super::create_view::options_text(&self.options));
        let mut statements = vec![create];
        statements.extend(self.indexes.iter().map(IndexSpec::at_once));
        if let Some(comment) = &self.comment {
            statements.push(format!("COMMENT ON TABLE {name} IS {}", literal(comment)));
        }
        statements
    }

    fn trial(&self) -> Trial {
        Trial {
            statements: self.statements(),
            tables: vec![self.name.value.clone()],
            ..Trial::default()
        }
    }

    /// What would lock another table along with the new one has a place of its own.
    fn column_complaints(&self) -> Vec<Diagnostic> {
        let refers = |(_, definition): &&(Located<String>, Located<String>)| {
            statement::has_word(&definition.value, "references")
        };
        let complaint = |(column, definition): &(Located<String>, Located<String>)| {
            let message = format!("column `{}` refers to another table", column.value);
            Diagnostic::new("references_in_column", message)
                .at(definition.span)
                .help("give it in `foreign_keys`, which locks that table for an instant only")
        };
        self.columns.iter().filter(refers).map(complaint).collect()
    }

    /// Its columns, for the changes that follow, where the server cannot be asked.
    fn unasked(&self, context: &Context<'_>) -> Table {
        let columns = self.columns.iter().map(|(column, definition)| {
            let data_type = definition.value.split_whitespace().next().unwrap_or_default();
            super::parts::column::plain(
                &column.value,
                data_type,
                statement::has_word(&definition.value, "not"),
            )
        });
        Table {
            columns: columns.collect(),
            ..Table::empty(&context.now.role.name)
        }
    }

    /// One after the other, each on the catalog that those before leave.
    fn keys(
        &self,
        context: &Context<'_>,
        table: &Table,
    ) -> Result<Vec<add_foreign_key::Target>, Vec<Diagnostic>> {
        let mut catalog = context.catalog.clone();
        catalog.tables.insert(self.name.value.clone(), table.clone());
        let mut targets = Vec::new();
        let mut complaints = Vec::new();
        for key in &self.foreign_keys {
            let context = Context {
                catalog: &catalog,
                now: context.now,
                settings: context.settings,
                span: context.span,
            };
            match key.preflight(&context) {
                Ok(target) => {
                    AddForeignKey::apply_to(&target, &mut catalog);
                    targets.push(target);
                }
                Err(found) => complaints.extend(found),
            }
        }
        if complaints.is_empty() {
            Ok(targets)
        } else {
            Err(complaints)
        }
    }
}

impl Operation for CreateTable {
    type Target = Target;
    const NAME: &'static str = "create_table";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let name = fields.qualified("name");
        fields.required("columns");
        let columns = fields.optional_pairs("columns");
        let key = fields.optional("primary_key");
        let primary_key = key.map(|node| Key::read(fields, node, "primary_key"));
        let items = fields.optional_list("unique").unwrap_or_default();
        let unique: Vec<_> = items
            .iter()
            .map(|item| Key::read(fields, item, "unique"))
            .collect();
        let checks = read_checks(fields);
        let partition_by = fields.optional_text("partition_by");
        let options = fields.optional_pairs("with").unwrap_or_default();
        let unlogged = fields.flag("unlogged", false);
        let comment = fields.optional_text("comment").map(|text| text.value);
        let name = name?;
        let indexes = fields.maps_on("indexes", &name, IndexSpec::read);
        let foreign_keys = fields.maps_on("foreign_keys", &name, AddForeignKey::read);
        for (column, _) in columns.iter().flatten() {
            if let Err(message) = crate::sql::check_identifier(&column.value) {
                fields.report(Diagnostic::new("invalid_value", message).at(column.span));
            }
        }
        Some(Self {
            name,
            columns: columns?,
            primary_key: match primary_key {
                Some(key) => Some(key?),
                None => None,
            },
            unique: unique.into_iter().collect::<Option<_>>()?,
            checks: checks?,
            indexes: indexes?,
            foreign_keys: foreign_keys?,
            partition_by,
            options,
            unlogged,
            comment,
        })
    }

    fn needs(&self) -> Vec<Named> {
        let mut needs = vec![Named::schema_of(&self.name)];
        needs.extend(self.foreign_keys.iter().flat_map(Operation::needs));
        needs
    }

    fn makes(&self) -> Vec<Named> {
        vec![Named::relation(&self.name)]
    }

    fn questions(&self, _now: &CatalogSnapshot) -> Vec<Question> {
        // Such a column would lock the other table against writes even on trial.
        match self.column_complaints().is_empty() {
            true => vec![Question::Trial(self.trial())],
            false => Vec::new(),
        }
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let mut complaints = object::place_complaints(context, &self.name);
        complaints.extend(self.column_complaints());
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let name = &self.name.value;
        let tried = context
            .tried(&self.trial(), self.name.span)
            .map_err(|complaint| vec![complaint])?;
        let table = tried.and_then(|outcome| outcome.tables.get(name).cloned());
        let exact = table.is_some();
        let table = table.unwrap_or_else(|| self.unasked(context));
        Ok(Target {
            name: name.clone(),
            statements: self.statements(),
            foreign_keys: self.keys(context, &table)?,
            sequences: tried.map(|outcome| outcome.sequences.clone()).unwrap_or_default(),
            table,
            exact,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let name = &target.name;
        let making = Making {
            id: "create",
            summary: format!("create table {name}"),
            statements: target.statements.clone(),
            locks: Vec::new(),
            expect: Vec::new(),
            hazards: vec![Hazard::new(
                "rollback_drops_rows",
                "a rollback drops the table with all rows that were written into it by then",
            )],
            undo: vec![format!("DROP TABLE IF EXISTS {name}")],
            undo_locks: vec![Lock::new(name, LockMode::AccessExclusive)],
            previous: None,
            kept: None,
        };
        let mut steps = vec![making.step(settings)];
        for (position, key) in target.foreign_keys.iter().enumerate() {
            let drafts = AddForeignKey::steps(key, settings).into_iter();
            steps.extend(drafts.map(|draft| StepDraft {
                id: format!("foreign_key_{}-{}", position + 1, draft.id),
                ..draft
            }));
        }
        steps
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        catalog.tables.insert(target.name.clone(), target.table.clone());
        catalog.sequences.extend(target.sequences.clone());
        if !target.exact {
            catalog.unpredicted.insert(target.name.clone());
        }
        for key in &target.foreign_keys {
            AddForeignKey::apply_to(key, catalog);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text, table};

    #[test]
    fn creates_with_everything() {
        let catalog = catalog().with(
            "users",
            table(&["id bigint not null"]).with_primary_key("users_pkey", &["id"]),
        );
        let changes = "  - create_table:\n      name: '\"My Orders\"'\n      columns: {id: bigint GENERATED ALWAYS AS IDENTITY, User: bigint NOT NULL, state: text}\n      primary_key: {name: pk, columns: [id]}\n      unique: [[User, state]]\n      checks: {state ok: state <> ''}\n      indexes: [{columns: [User, state desc], where: state = 'new'}]\n      foreign_keys: [{columns: [User], references: users, on_delete: cascade}]\n      comment: it's new\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        01-create_table-create [expand] create table public."My Orders"
          CREATE TABLE public."My Orders" (
          id bigint GENERATED ALWAYS AS IDENTITY,
          "User" bigint NOT NULL,
          state text,
          CONSTRAINT pk PRIMARY KEY (id),
          UNIQUE ("User", state),
          CONSTRAINT "state ok" CHECK (state <> '')
        );
          CREATE INDEX "My Orders_User_state_idx" ON public."My Orders" USING btree ("User", state DESC) WHERE state = 'new';
          COMMENT ON TABLE public."My Orders" IS 'it''s new';
            locks:  (lock_timeout 200ms)
          undo DROP TABLE IF EXISTS public."My Orders";
          undo   locks: public."My Orders" ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard rollback_drops_rows: a rollback drops the table with all rows that were written into it by then
        01-create_table-foreign_key_1-add [expand] add foreign key "My Orders_User_fkey" to public."My Orders" for new rows
          LOCK TABLE public.users, public."My Orders" IN SHARE ROW EXCLUSIVE MODE;
          ALTER TABLE public."My Orders" ADD CONSTRAINT "My Orders_User_fkey" FOREIGN KEY ("User") REFERENCES public.users(id) ON DELETE CASCADE NOT VALID;
            locks: public.users SHARE ROW EXCLUSIVE, public."My Orders" SHARE ROW EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.users, public."My Orders" IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public."My Orders" DROP CONSTRAINT "My Orders_User_fkey";
          undo   locks: public.users ACCESS EXCLUSIVE, public."My Orders" ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard no_index: no index of public."My Orders" begins with ("User"): every delete and key update of public.users reads the whole table; create_index first
        01-create_table-foreign_key_1-validate [validate] validate foreign key "My Orders_User_fkey" on the rows of public."My Orders"
          ALTER TABLE public."My Orders" VALIDATE CONSTRAINT "My Orders_User_fkey";
            locks: public."My Orders" SHARE UPDATE EXCLUSIVE, public.users ROW SHARE (lock_timeout -)
          undo not needed: undoing the step before removes the constraint
        "#);
    }

    #[test]
    fn names_what_is_wrong() {
        let catalog = catalog().with("users", table(&["id bigint not null"]));
        let changes = "  - create_table: {name: users, columns: {id: bigint REFERENCES users}}\n  - create_table: {name: metrics.t, columns: {id: bigint}, foreign_keys: [{columns: [ide], references: user, table: x}]}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"4:110 unknown_key: unknown key `table` (known keys here: name, columns, references, on_update, on_delete, match, initially_deferred, deferrable, enforced)");
        let changes = "  - create_table: {name: t, columns: {id: bigint}, foreign_keys: [{columns: [ide], references: users}]}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        3:78 unknown_column: public.t has no column `ide` (did you mean `id`?)
        3:96 no_primary_key: public.users has no primary key to refer to (give `references: {table: …, columns: […]}` with columns that are unique)
        ");
    }
}
