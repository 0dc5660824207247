//! The way back from the swap.

use super::Shadow;
use crate::ops::parts::brief;
use crate::ops::parts::conversion::Strictness;
use crate::plan::{Action, Check, Lock, LockMode, Settings, Transaction, Work};
use crate::sql::ident;

impl Shadow {
    /// Between a look at the rows and the swap the application goes on writing, so CHECKs of ours keep out what
    /// would be lost, or could not be there at all: the trigger has set the old column before they are asked.
    pub(super) fn unswap(&self, settings: &Settings) -> Vec<Work> {
        let (table, column) = (&self.table, ident(&self.column.name));
        let (old, old_type) = (ident(&self.old()), &self.column.data_type);
        let widened = self.widened(&old);
        let fits = self.fits();
        let lost = |help: &str| {
            self.offenders(
                format!("every value of {table}.{column} fits {old_type}"),
                self.differ(&widened, &column),
                help,
            )
        };
        let first = self.check_work(
            settings,
            lost(
                "going back would lose these values: change them, go back without them with --accept-loss, or go \
                 forwards with --through contract",
            ),
        );
        let changed = format!(
            "going back would lose these values: change them, then roll back again, or go back without them with \
             --accept-loss; to go forwards instead, let such values in with ALTER TABLE {table} DROP CONSTRAINT {}",
            ident(&fits)
        );
        let mut works = vec![first.unless_loss_is_accepted()];
        works.extend(self.carry.fits(settings));
        let summary = format!(
            "refuse values of {table}.{column} that do not fit {old_type}, from here to the end of the rollback"
        );
        let condition = self.equal(&widened, &column);
        works.push(
            self.guard(settings, &fits, summary, &condition)
                .unless_loss_is_accepted(),
        );
        let summary = format!("prove that every value of {table}.{column} fits {old_type}");
        works.push(
            self.proved(settings, &fits, summary, lost(&changed))
                .unless_loss_is_accepted(),
        );
        works.extend(self.keep_not_null(settings));
        works.extend(self.carry.before_back(settings));
        works.push(self.swap_back(settings));
        works.extend(self.carry.after_back(settings));
        works
    }

    /// Even who accepts a loss cannot go back to rows without a value where there must be one.
    fn keep_not_null(&self, settings: &Settings) -> Vec<Work> {
        if !self.column.not_null {
            return Vec::new();
        }
        let (table, old, proof) = (&self.table, ident(&self.old()), self.proof());
        let condition = format!("{old} IS NOT NULL");
        let missing = self.offenders(
            format!("{table}.{old} is never null"),
            format!("{old} IS NULL"),
            "these rows have no value of the old type, which does not allow NULL: change them, then roll back again",
        );
        let summary = format!("refuse rows without a value in {table}.{old}");
        vec![
            self.guard(settings, &proof, summary, &condition),
            self.proved(
                settings,
                &proof,
                format!("prove that {table}.{old} is never null"),
                missing,
            ),
        ]
    }

    fn guard(&self, settings: &Settings, name: &str, summary: String, condition: &str) -> Work {
        let (table, name) = (&self.table, ident(name));
        let statements = vec![
            format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"),
            format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}"),
            format!("ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"),
        ];
        brief(settings, summary, statements, self.lock(), Vec::new())
    }

    pub(super) fn proved(&self, settings: &Settings, name: &str, summary: String, violated: Check) -> Work {
        let table = &self.table;
        Work {
            summary,
            action: Action::Sql(vec![format!(
                "ALTER TABLE {table} VALIDATE CONSTRAINT {}",
                ident(name)
            )]),
            transaction: Transaction::Single,
            locks: vec![Lock::new(table, LockMode::ShareUpdateExclusive)],
            timeouts: settings.patient(),
            expect: Vec::new(),
            on_violation: Some(violated),
            guards_values: false,
        }
    }

    fn swap_back(&self, settings: &Settings) -> Work {
        let (table, column) = (&self.table, &self.column.name);
        let mut statements = self.swap_lock_statements(false);
        statements.extend(self.drop_sync("back"));
        statements.extend(self.carry.leave_back());
        let previous = self.column.default.as_deref();
        statements.extend(self.swap_statements(&self.old(), &self.shadow(), previous, &self.proof()));
        statements.push(format!(
            "ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {}",
            ident(&self.fits())
        ));
        statements.extend(self.carry.arrive_back());
        // Nobody is going to read the new type any more: no write is to fail because of it.
        statements.extend(self.forward_sync(Strictness::Lenient));
        statements.extend(super::refresh(&self.trigger_functions));
        self.within_one_wait(brief(
            settings,
            format!(
                "make the {} column {table}.{} again",
                self.column.data_type,
                ident(column)
            ),
            statements,
            self.swap_locks(),
            vec![self.column_is(column, &self.column.data_type, Some(self.column.not_null))],
        ))
    }
}
