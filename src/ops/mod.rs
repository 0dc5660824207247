//! The operations of a plan file: one room each, and the one list of them.
//!
//! A room holds, top to bottom: its manual, what is read from the plan file, `preflight` (all complaints at once, or
//! a target that proves there are none), its steps with their undo and expectations, the end state, its tests.

use crate::catalog::model::{
    CatalogSnapshot, Column, Probe, ProbeError, ProbeOutcome, Question, Table, Trial, TrialOutcome,
};
use crate::diagnostic::{Diagnostic, Located, Span, nearest};
use crate::document::Fields;
use crate::plan::{Estimate, Hazard, Phase, Settings, Undo, Work};
use crate::sql::QualifiedName;

mod add_check;
mod add_column;
mod add_enum_value;
mod add_foreign_key;
mod add_primary_key;
mod add_unique;
mod backfill;
mod change_type;
mod compare;
mod create_enum;
mod create_function;
mod create_index;
mod create_materialized_view;
mod create_schema;
mod create_table;
mod create_trigger;
mod create_view;
mod drop_column;
mod drop_constraint;
mod drop_default;
mod drop_index;
mod drop_not_null;
mod drop_table;
mod grant;
mod parts;
pub mod references;
mod rename_column;
mod rename_table;
mod replace_index;
mod retire_table;
mod set_default;
mod set_not_null;
mod snapshot_table;
mod sql;
mod sync;
#[cfg(test)]
pub(crate) mod testing;
mod widen_column;

pub use add_check::AddCheck;
pub use add_column::AddColumn;
pub use add_enum_value::AddEnumValue;
pub use add_foreign_key::AddForeignKey;
pub use add_primary_key::AddPrimaryKey;
pub use add_unique::AddUnique;
pub use backfill::Backfill;
pub use change_type::ChangeType;
pub use compare::Compare;
pub use create_enum::CreateEnum;
pub use create_function::CreateFunction;
pub use create_index::CreateIndex;
pub use create_materialized_view::CreateMaterializedView;
pub use create_schema::CreateSchema;
pub use create_table::CreateTable;
pub use create_trigger::CreateTrigger;
pub use create_view::CreateView;
pub use drop_column::DropColumn;
pub use drop_constraint::DropConstraint;
pub use drop_default::DropDefault;
pub use drop_index::DropIndex;
pub use drop_not_null::DropNotNull;
pub use drop_table::DropTable;
pub use grant::Grant;
pub use references::{Named, Object};
pub use rename_column::RenameColumn;
pub use rename_table::RenameTable;
pub use replace_index::ReplaceIndex;
pub use retire_table::RetireTable;
pub use set_default::SetDefault;
pub use set_not_null::SetNotNull;
pub use snapshot_table::SnapshotTable;
pub use sql::Sql;
pub use sync::Sync;
pub use widen_column::WidenColumn;

/// A kind of change. Everything here is pure: it sees the catalog as a value and gives steps as values.
pub trait Operation: Sized {
    /// The proof that every question of `preflight` is answered.
    type Target;
    /// As in the plan file.
    const NAME: &'static str;
    /// Prose, a YAML example in a fenced block, and the locks taken; `explain` prints it and a test compiles it.
    const MANUAL: &'static str;

    /// Reads the entry, reporting everything wrong with it. `None` when something required could not be read.
    fn read(fields: &Fields<'_>) -> Option<Self>;

    /// The relations and schemas that must be there before it; those that it makes itself need not be left out.
    fn needs(&self) -> Vec<Named> {
        Vec::new()
    }

    /// The relations and schemas that are there after it and were not before.
    fn makes(&self) -> Vec<Named> {
        Vec::new()
    }

    /// Those that have another name after it, or none: whatever it is, it was there before.
    fn takes(&self) -> Vec<Object> {
        Vec::new()
    }

    /// Definitions on which the server is asked for its opinion before planning, in order; their effects on the
    /// clone stay for later ones.
    fn probes(&self, _now: &CatalogSnapshot) -> Vec<Probe> {
        Vec::new()
    }

    /// All that the server is asked; those that make something new ask for more than probes.
    fn questions(&self, now: &CatalogSnapshot) -> Vec<Question> {
        self.probes(now).into_iter().map(Question::Probe).collect()
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Self::Target, Vec<Diagnostic>>;

    fn steps(target: &Self::Target, settings: &Settings) -> Vec<StepDraft>;

    /// Columns that another column replaces at cutover: later changes must keep off them.
    fn swaps(_target: &Self::Target) -> Vec<(QualifiedName, String)> {
        Vec::new()
    }

    /// Tables that get another name at cutover: the steps of other changes must find them under the right one.
    fn renames(_target: &Self::Target) -> Vec<Rename> {
        Vec::new()
    }

    /// Turns the catalog before the change into the catalog after it.
    fn apply_to(target: &Self::Target, catalog: &mut CatalogSnapshot);
}

/// A table and the name that it ends with; one whose column is renamed ends with its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    pub from: QualifiedName,
    pub to: QualifiedName,
    /// From this phase on, changes that come later in the plan find it as it ends.
    pub settled: Phase,
}

/// A step as an operation gives it; the planner adds which change it belongs to.
#[derive(Debug, Clone)]
pub struct StepDraft {
    /// What this step is within its operation, in a word: `build`, `validate`.
    pub id: String,
    pub phase: Phase,
    pub work: Work,
    pub hazards: Vec<Hazard>,
    pub undo: Undo,
    pub estimate: Estimate,
}

/// What an operation may look at.
pub struct Context<'a> {
    /// The catalog as the changes before this one will leave it.
    pub catalog: &'a CatalogSnapshot,
    /// The catalog as it is now. What an earlier change of this plan drops still holds its name until `contract`.
    pub now: &'a CatalogSnapshot,
    pub settings: &'a Settings,
    /// Where the change stands in the plan file.
    pub span: Span,
}

impl<'a> Context<'a> {
    pub fn major(&self) -> u32 {
        self.now.server.major()
    }

    /// The table, or the complaint that there is none, with the nearest name.
    pub fn table(&self, name: &Located<QualifiedName>) -> Result<&'a Table, Diagnostic> {
        let Some(table) = self.catalog.tables.get(&name.value) else {
            return Err(self.unknown_table(name));
        };
        if !self.catalog.schemas.is_empty() && !self.owns(&table.owner) {
            let message = format!(
                "{} belongs to {}, not to {}",
                name.value, table.owner, self.now.role.name
            );
            return Err(Diagnostic::new("not_owner", message).at(name.span).help(format!(
                "connect as {0}, or as a member of that role: GRANT {1} TO {2}",
                table.owner,
                crate::sql::ident(&table.owner),
                crate::sql::ident(&self.now.role.name)
            )));
        }
        Ok(table)
    }

    fn owns(&self, owner: &str) -> bool {
        self.now.role.acts_as(owner)
    }

    fn unknown_table(&self, name: &Located<QualifiedName>) -> Diagnostic {
        let wanted = &name.value;
        let diagnostic =
            Diagnostic::new("unknown_table", format!("there is no table {wanted}")).at(name.span);
        if self.catalog.views.contains_key(wanted) {
            return diagnostic.help("it is a view; changes are made to tables");
        }
        let elsewhere = self.catalog.tables.keys().find(|other| other.name == wanted.name);
        if let Some(other) = elsewhere {
            return diagnostic.help(format!("did you mean `{other}`?"));
        }
        // By the name alone: a schema in common would make any two names look alike.
        let beside = self
            .catalog
            .tables
            .keys()
            .filter(|other| other.schema == wanted.schema);
        match nearest(&wanted.name, beside.map(|other| other.name.as_str())) {
            Some(name) => diagnostic.help(format!("did you mean `{}`?", wanted.sibling(name))),
            None => diagnostic,
        }
    }

    /// The column, or the complaint that there is none, with the nearest name.
    pub fn column<'t>(
        &self,
        table_name: &QualifiedName,
        table: &'t Table,
        name: &Located<String>,
    ) -> Result<&'t Column, Diagnostic> {
        table.column(&name.value).ok_or_else(|| {
            Diagnostic::new(
                "unknown_column",
                format!("{table_name} has no column `{}`", name.value),
            )
            .at(name.span)
            .suggest(&name.value, table.column_names())
        })
    }

    /// Complains when a new index, table or view cannot have this name.
    pub fn free_relation_name(&self, name: &QualifiedName, span: Span) -> Result<(), Diagnostic> {
        if self.catalog.relation_exists(name) {
            return Err(Diagnostic::new("name_taken", format!("{name} exists already")).at(span));
        }
        if self.now.relation_exists(name) {
            return Err(Diagnostic::new(
                "name_taken_until_contract",
                format!("{name} exists until an earlier change of this plan drops it in contract"),
            )
            .at(span)
            .help("choose another name, or use replace_index, which swaps the names"));
        }
        Ok(())
    }

    /// Complains when a new constraint cannot have this name on the table.
    pub fn free_constraint_name(
        &self,
        table: &QualifiedName,
        name: &Located<String>,
    ) -> Result<(), Diagnostic> {
        let taken = |catalog: &CatalogSnapshot| {
            catalog
                .tables
                .get(table)
                .is_some_and(|table| table.constraints.contains_key(&name.value))
        };
        if taken(self.catalog) || taken(self.now) {
            return Err(Diagnostic::new(
                "name_taken",
                format!("{table} has a constraint `{}` already", name.value),
            )
            .at(name.span)
            .help("choose another name; a constraint that this plan drops keeps its name until contract"));
        }
        Ok(())
    }

    /// What the server said to a probe: `None` when it was not asked (planning offline).
    pub fn answer(&self, probe: &Probe) -> Option<Result<&'a ProbeOutcome, &'a ProbeError>> {
        self.now.answer(probe).map(Result::as_ref)
    }

    /// As [`Context::answer`], with the server's refusal as a complaint at the place in the plan.
    pub fn accepted(&self, probe: &Probe, span: Span) -> Result<Option<&'a ProbeOutcome>, Diagnostic> {
        accepted(self.answer(probe), span)
    }

    /// As [`Context::accepted`], for what is made anew.
    pub fn tried(&self, trial: &Trial, span: Span) -> Result<Option<&'a TrialOutcome>, Diagnostic> {
        accepted(self.now.tried(trial).map(Result::as_ref), span)
    }
}

/// A label was used in the transaction that adds it; this SQLSTATE says nothing else.
const UNSAFE_NEW_ENUM_VALUE_USAGE: &str = "55P04";

const INSUFFICIENT_PRIVILEGE: &str = "42501";

fn accepted<'a, T>(
    answer: Option<Result<&'a T, &ProbeError>>,
    span: Span,
) -> Result<Option<&'a T>, Diagnostic> {
    match answer {
        None => Ok(None),
        Some(Ok(outcome)) => Ok(Some(outcome)),
        Some(Err(error)) if error.sqlstate == UNSAFE_NEW_ENUM_VALUE_USAGE => {
            let message =
                "this uses a label that the plan adds, which PostgreSQL allows only after that is committed";
            Err(Diagnostic::new("label_not_committed", message)
                .at(span)
                .help("give add_enum_value a plan of its own, and apply that one before this is planned"))
        }
        Some(Err(error)) => {
            let message = format!(
                "PostgreSQL does not accept this: {} (SQLSTATE {})",
                error.message, error.sqlstate
            );
            let code = if error.sqlstate == INSUFFICIENT_PRIVILEGE {
                "missing_privilege"
            } else {
                "refused_by_server"
            };
            let diagnostic = Diagnostic::new(code, message).at(span);
            Err(match &error.hint {
                Some(hint) => diagnostic.help(hint.clone()),
                None => diagnostic,
            })
        }
    }
}

/// What `compile` gives.
#[derive(Debug, Clone)]
pub struct Compiled {
    pub drafts: Vec<StepDraft>,
    pub swaps: Vec<(QualifiedName, String)>,
    pub renames: Vec<Rename>,
}

/// Everything that `compile` needs besides the operation itself.
pub struct Compilation<'a> {
    pub now: &'a CatalogSnapshot,
    pub settings: &'a Settings,
    pub span: Span,
}

fn compile_one<O: Operation>(
    operation: &O,
    compilation: &Compilation<'_>,
    catalog: &mut CatalogSnapshot,
) -> Result<Compiled, Vec<Diagnostic>> {
    let context = Context {
        catalog,
        now: compilation.now,
        settings: compilation.settings,
        span: compilation.span,
    };
    let target = operation.preflight(&context)?;
    let drafts = O::steps(&target, compilation.settings);
    O::apply_to(&target, catalog);
    Ok(Compiled {
        drafts,
        swaps: O::swaps(&target),
        renames: O::renames(&target),
    })
}

/// Makes the enum of all operations and everything that follows from the list.
macro_rules! operations {
    ($($operation:ident),* $(,)?) => {
        /// Any operation of a plan file.
        #[derive(Debug, Clone)]
        pub enum AnyOperation { $($operation($operation)),* }

        /// Name and manual of every operation, in alphabetical order.
        pub const MANUALS: &[(&str, &str)] = &[$(($operation::NAME, $operation::MANUAL)),*];

        impl AnyOperation {
            /// Reads the entry of the operation of that name: `None` when there is no such operation.
            pub fn read(name: &str, fields: &Fields<'_>) -> Option<Option<Self>> {
                match name {
                    $($operation::NAME => Some($operation::read(fields).map(Self::$operation)),)*
                    _ => None,
                }
            }

            pub fn name(&self) -> &'static str {
                match self { $(Self::$operation(_) => $operation::NAME),* }
            }

            pub fn needs(&self) -> Vec<Named> {
                match self { $(Self::$operation(operation) => operation.needs()),* }
            }

            pub fn makes(&self) -> Vec<Named> {
                match self { $(Self::$operation(operation) => operation.makes()),* }
            }

            pub fn takes(&self) -> Vec<Object> {
                match self { $(Self::$operation(operation) => operation.takes()),* }
            }

            pub fn questions(&self, now: &CatalogSnapshot) -> Vec<Question> {
                match self { $(Self::$operation(operation) => operation.questions(now)),* }
            }

            /// Preflight, steps and end state in one: on success the catalog is as the change leaves it.
            ///
            /// # Errors
            /// Everything wrong with the change; the catalog is then untouched.
            pub fn compile(
                &self,
                compilation: &Compilation<'_>,
                catalog: &mut CatalogSnapshot,
            ) -> Result<Compiled, Vec<Diagnostic>> {
                match self { $(Self::$operation(operation) => compile_one(operation, compilation, catalog)),* }
            }
        }
    };
}

operations![
    AddCheck,
    AddColumn,
    AddEnumValue,
    AddForeignKey,
    AddPrimaryKey,
    AddUnique,
    Backfill,
    ChangeType,
    Compare,
    CreateEnum,
    CreateFunction,
    CreateIndex,
    CreateMaterializedView,
    CreateSchema,
    CreateTable,
    CreateTrigger,
    CreateView,
    DropColumn,
    DropConstraint,
    DropDefault,
    DropIndex,
    DropNotNull,
    DropTable,
    Grant,
    RenameColumn,
    RenameTable,
    ReplaceIndex,
    RetireTable,
    SetDefault,
    SetNotNull,
    SnapshotTable,
    Sql,
    Sync,
    WidenColumn,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_every_manual_has_an_example_and_its_locks() {
        assert!(MANUALS.is_sorted());
        for (name, manual) in MANUALS {
            assert!(manual.contains(&format!("- {name}:")), "{name} has no example");
            assert!(manual.contains("Locks:"), "{name} does not tell its locks");
        }
    }
}
