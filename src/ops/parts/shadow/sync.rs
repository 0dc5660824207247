//! The trigger that keeps the two columns equal, and how a value of one becomes a value of the other.

use super::{Member, Shadow};
use crate::catalog::types;
use crate::ops::StepDraft;
use crate::ops::parts::brief;
use crate::ops::parts::conversion::{self, Conversion, Strictness, back_body, forward_body};
use crate::plan::{Estimate, Phase, Settings, Undo};
use crate::sql::{ident, literal};

impl Shadow {
    /// The value of `column`, which has the old type, in the new one.
    pub(super) fn widened(&self, column: &str) -> String {
        match &self.conversion {
            None => format!("{column}::{}", self.new_type),
            Some(conversion) => format!("{}({column})", conversion.convert),
        }
    }

    /// Whether two values of the new type differ.
    pub(super) fn differ(&self, left: &str, right: &str) -> String {
        match &self.conversion {
            None => format!("{left} IS DISTINCT FROM {right}"),
            Some(_) => conversion::differs(left, right),
        }
    }

    pub(super) fn equal(&self, left: &str, right: &str) -> String {
        match &self.conversion {
            None => format!("{left} IS NOT DISTINCT FROM {right}"),
            Some(_) => conversion::equals(left, right),
        }
    }

    /// `column` cast back, or NULL where the old type cannot hold it: the application's write must not fail.
    fn narrowed(&self, column: &str) -> String {
        let old_type = &self.column.data_type;
        let cast = format!("({column})::{old_type}");
        match types::fits_predicate(old_type, &self.new_type, column) {
            Some(fits) => format!("CASE WHEN {fits} THEN {cast} END"),
            None => cast,
        }
    }

    pub(super) fn forward_sync(&self, strictness: Strictness) -> Vec<String> {
        match &self.conversion {
            None => {
                let source = format!("NEW.{}", ident(&self.column.name));
                self.assigned("sync", &self.shadow(), &self.widened(&source))
            }
            Some(_) => {
                let mut statements: Vec<String> = self.forward_function(strictness).into_iter().collect();
                statements.extend(self.trigger_on("sync", ""));
                statements
            }
        }
    }

    /// None where there is nothing to choose between.
    pub(super) fn forward_function(&self, strictness: Strictness) -> Option<String> {
        let conversion = self.conversion.as_ref()?;
        let (shadow, column) = (self.shadow(), &self.column);
        let body = forward_body(
            &shadow,
            &conversion.forwards,
            &column.name,
            &column.data_type,
            strictness,
        );
        Some(self.function_text("sync", &body))
    }

    pub(super) fn reverse_sync(&self) -> Vec<String> {
        let (old, column) = (self.old(), &self.column.name);
        match &self.conversion {
            None => self.assigned("back", &old, &self.narrowed(&format!("NEW.{}", ident(column)))),
            Some(conversion) => {
                let body = back_body(&old, &conversion.back, column, &self.new_type);
                let mut statements = vec![self.function_text("back", &body)];
                statements.extend(self.trigger_on("back", ""));
                statements
            }
        }
    }

    /// Function and trigger that set `target` to a value that cannot fail on every write.
    fn assigned(&self, direction: &str, target: &str, value: &str) -> Vec<String> {
        let target = format!("NEW.{}", ident(target));
        let body = format!("BEGIN {target} := {value}; RETURN NEW; END");
        let mut statements = vec![self.function_text(direction, &body)];
        statements.extend(self.trigger_on(direction, &format!("WHEN ({target} IS DISTINCT FROM {value}) ")));
        statements
    }

    fn function_text(&self, direction: &str, body: &str) -> String {
        format!(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql{} AS {}",
            self.function(direction),
            self.conversion
                .as_ref()
                .map(Conversion::under_settings)
                .unwrap_or_default(),
            literal(body)
        )
    }

    fn trigger_on(&self, direction: &str, when: &str) -> Vec<String> {
        let trigger = ident(&self.trigger());
        let function = self.function(direction);
        let create = |member: &Member| {
            format!(
                "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {} FOR EACH ROW {when}\
                 EXECUTE FUNCTION {function}()",
                member.table
            )
        };
        // It must also see rows that a replication apply worker writes.
        let always =
            |member: &Member| format!("ALTER TABLE {} ENABLE ALWAYS TRIGGER {trigger}", member.table);
        let mut statements: Vec<String> = self.triggered().map(create).collect();
        statements.extend(self.for_each(|member| vec![always(member)]));
        statements
    }

    /// The trigger, and what it makes true of new rows.
    pub(super) fn follow_statements(&self) -> Vec<String> {
        let mut statements = Vec::new();
        if self.conversion.is_none() {
            statements.extend(self.promises());
        }
        statements.extend(self.forward_sync(Strictness::Lenient));
        statements
    }

    /// The trigger in a step of its own.
    pub(super) fn follow(&self, settings: &Settings) -> StepDraft {
        let (table, shadow) = (&self.table, ident(&self.shadow()));
        let lock = self.lock_statement();
        let mut statements = vec![lock.clone()];
        statements.extend(self.follow_statements());
        let mut undo = vec![lock];
        undo.extend(self.drop_sync("sync"));
        undo.extend(self.forget_promises("IF EXISTS "));
        StepDraft {
            id: "follow".into(),
            phase: Phase::Expand,
            work: brief(
                settings,
                format!("keep {table}.{shadow} equal by a trigger"),
                statements,
                self.lock(),
                self.triggers_there(),
            ),
            hazards: Vec::new(),
            undo: Undo::Work(vec![brief(
                settings,
                format!("drop the trigger of {table}.{shadow}"),
                undo,
                self.lock(),
                self.triggers_absent(),
            )]),
            estimate: Estimate::INSTANT,
        }
    }

    pub(super) fn drop_sync(&self, direction: &str) -> Vec<String> {
        let trigger = ident(&self.trigger());
        let drop = |member: &Member| format!("DROP TRIGGER IF EXISTS {trigger} ON {}", member.table);
        let mut statements: Vec<String> = self.triggered().map(drop).collect();
        statements.push(format!("DROP FUNCTION IF EXISTS {}()", self.function(direction)));
        statements
    }
}
