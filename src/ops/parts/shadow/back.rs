//! The way back from the swap.

use super::Shadow;
use crate::ops::parts::{brief, lock_statement};
use crate::plan::{Action, Check, Lock, LockMode, Settings, Transaction, Work};
use crate::sql::{QualifiedName, ident};

impl Shadow {
    fn lost(&self, help: &str) -> Check {
        let (table, column) = (&self.table, ident(&self.column.name));
        let widened = self.widened(&ident(&self.old()));
        self.offenders(
            format!("every value of {table}.{column} fits {}", self.column.data_type),
            self.differ(&widened, &column),
            help,
        )
    }

    /// Before anything is done.
    pub(super) fn look_back(&self, settings: &Settings) -> Work {
        let check = self.lost(
            "going back would lose these values: change them, go back without them with --accept-loss, or go \
             forwards with --through contract",
        );
        self.check_work(settings, check).unless_loss_is_accepted()
    }

    /// Between a look at the rows and the swap the application goes on writing, so CHECKs of ours keep out what
    /// would be lost, or could not be there at all: the trigger has set the old column before they are asked.
    pub(super) fn guards(&self, settings: &Settings) -> Vec<Work> {
        let (table, column) = (&self.table, ident(&self.column.name));
        let old_type = &self.column.data_type;
        let fits = self.fits();
        let changed = format!(
            "going back would lose these values: change them, then roll back again, or go back without them with \
             --accept-loss; to go forwards instead, let such values in with ALTER TABLE {table} DROP CONSTRAINT {}",
            ident(&fits)
        );
        let summary = format!(
            "refuse values of {table}.{column} that do not fit {old_type}, from here to the end of the rollback"
        );
        let condition = self.equal(&self.widened(&ident(&self.old())), &column);
        let guard = self.guard(settings, table, &fits, (summary, &condition));
        let summary = format!("prove that every value of {table}.{column} fits {old_type}");
        let proved = self.proved(settings, table, &fits, (summary, self.lost(&changed)));
        let mut works = vec![guard.unless_loss_is_accepted(), proved.unless_loss_is_accepted()];
        works.extend(self.keep_not_null(settings));
        works
    }

    /// Even who accepts a loss cannot go back to rows without a value where there must be one.
    fn keep_not_null(&self, settings: &Settings) -> Vec<Work> {
        let (old, proof) = (ident(&self.old()), self.proof());
        let condition = format!("{old} IS NOT NULL");
        let mut works = Vec::new();
        for member in self.not_null_tops() {
            let table = &member.table;
            let missing = self.offenders_in(
                table,
                format!("{table}.{old} is never null"),
                format!("{old} IS NULL"),
                "these rows have no value of the old type, which does not allow NULL: change them, then roll back again",
            );
            let summary = format!("refuse rows without a value in {table}.{old}");
            works.push(self.guard(settings, table, &proof, (summary, &condition)));
            let summary = format!("prove that {table}.{old} is never null");
            works.push(self.proved(settings, table, &proof, (summary, missing)));
        }
        works
    }

    fn guard(
        &self,
        settings: &Settings,
        table: &QualifiedName,
        name: &str,
        (summary, condition): (String, &str),
    ) -> Work {
        let name = ident(name);
        let mut statements = vec![lock_statement(std::slice::from_ref(table))];
        statements.extend([
            format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}"),
            format!("ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"),
        ]);
        let tables = self.tables_from(table);
        let locks = tables
            .iter()
            .map(|table| Lock::new(table, LockMode::AccessExclusive));
        brief(settings, summary, statements, locks.collect(), Vec::new())
    }

    pub(super) fn proved(
        &self,
        settings: &Settings,
        table: &QualifiedName,
        name: &str,
        (summary, violated): (String, Check),
    ) -> Work {
        Work {
            summary,
            action: Action::Sql(vec![format!(
                "ALTER TABLE {table} VALIDATE CONSTRAINT {}",
                ident(name)
            )]),
            transaction: Transaction::Single,
            locks: self
                .tables_from(table)
                .iter()
                .map(|table| Lock::new(table, LockMode::ShareUpdateExclusive))
                .collect(),
            timeouts: settings.patient(),
            expect: Vec::new(),
            on_violation: Some(violated),
            guards_values: false,
            part: None,
            not_before: None,
        }
    }

    /// Statements that make the old column the application's again.
    pub(super) fn swap_back_statements(&self) -> Vec<String> {
        let mut statements = self.swap_statements(&self.old(), &self.shadow());
        statements.extend(self.set_defaults(|member| member.column.default.as_deref()));
        statements.extend(self.set_not_null());
        statements.push(format!(
            "ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}",
            self.table,
            ident(&self.fits())
        ));
        statements
    }
}
