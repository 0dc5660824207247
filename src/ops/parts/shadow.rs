//! The shadow column: a column of the new type, filled behind the old one and swapped in by one short transaction.
//!
//! Until the swap a trigger keeps the shadow equal to the column; from then on another keeps the old column equal to
//! the new one as far as its type reaches, so that a rollback loses nothing.

use super::carry::Carry;
use super::{brief, concurrent, storage};
use crate::catalog::model::{CatalogSnapshot, Column};
use crate::catalog::types;
use crate::ops::StepDraft;
use crate::plan::{
    Action, Backfill, Check, ColumnFacts, DurationClass, Estimate, Expectation, Hazard, Lock, LockMode,
    Phase, Settings, Transaction, Undo, Work, hex,
};
use crate::sql::{IDENTIFIER_BYTES_MAX, QualifiedName, derived_name, ident, idents, literal};
use sha2::{Digest, Sha256};

/// Everything that the steps of one swap need.
#[derive(Debug, Clone)]
pub struct Shadow {
    pub table: QualifiedName,
    pub column: Column,
    /// As the server prints it.
    pub new_type: String,
    /// The default afterwards, as it is sent.
    pub new_default: Option<String>,
    /// Columns that name an offending row; empty for its physical address.
    pub key: Vec<String>,
    pub rows: i64,
    pub bytes: i64,
    pub suppress_triggers: bool,
    /// Functions of the table's own triggers, as SQL text without parentheses.
    pub trigger_functions: Vec<String>,
    pub hazards: Vec<Hazard>,
    pub names: Names,
    pub carry: Carry,
}

/// Sorts after every name in ASCII, so that our trigger sees what the others made of the row.
pub const PREFIX: &str = "~pgmorph";

/// What the two columns are called while they do not have the column's own name.
#[derive(Debug, Clone)]
pub struct Names {
    /// The new one before the cutover.
    pub shadow: String,
    /// The old one after it.
    pub old: String,
}

impl Names {
    pub fn of(column: &str) -> Self {
        Self {
            shadow: name(column, "new"),
            old: name(column, "old"),
        }
    }
}

/// A name of ours that tells the column, index or constraint; a long one is told apart by its digest.
pub fn name(column: &str, kind: &str) -> String {
    let readable = format!("{PREFIX}_{column}_{kind}");
    if readable.len() <= IDENTIFIER_BYTES_MAX {
        return readable;
    }
    let digest = hex(&Sha256::digest(column.as_bytes()));
    derived_name(&[PREFIX, column, &digest[..8]], kind)
}

/// The name of the trigger that keeps the two columns equal.
pub fn trigger_name(column: &str) -> String {
    name(column, "sync")
}

impl Shadow {
    fn shadow(&self) -> String {
        self.names.shadow.clone()
    }

    fn old(&self) -> String {
        self.names.old.clone()
    }

    fn trigger(&self) -> String {
        trigger_name(&self.column.name)
    }

    /// CHECK that proves the new column NOT NULL.
    fn proof(&self) -> String {
        name(&self.column.name, "not_null")
    }

    /// CHECK that the old column holds every value of the new one, while the way back is gone.
    fn fits(&self) -> String {
        name(&self.column.name, "fits")
    }

    fn function(&self, direction: &str) -> QualifiedName {
        let subject = format!("{}.{}", self.table, ident(&self.column.name));
        let digest = hex(&Sha256::digest(subject.as_bytes()));
        QualifiedName::new("pgmorph", format!("{direction}_{}", &digest[..16]))
    }

    /// `column` cast to the new type.
    fn widened(&self, column: &str) -> String {
        format!("{column}::{}", self.new_type)
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

    fn lock(&self) -> Vec<Lock> {
        vec![Lock::new(&self.table, LockMode::AccessExclusive)]
    }

    /// Function and trigger that set `target` from `source` on every write.
    fn sync(
        &self,
        direction: &str,
        target: &str,
        value: impl Fn(&str) -> String,
        source: &str,
    ) -> Vec<String> {
        let (table, trigger) = (&self.table, ident(&self.trigger()));
        let function = self.function(direction);
        let (target, source) = (format!("NEW.{}", ident(target)), format!("NEW.{}", ident(source)));
        let body = format!("BEGIN {target} := {}; RETURN NEW; END", value(&source));
        vec![
            format!(
                "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {}",
                literal(&body)
            ),
            format!(
                "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW \
                 WHEN ({target} IS DISTINCT FROM {}) EXECUTE FUNCTION {function}()",
                value(&source)
            ),
            // It must also see rows that a replication apply worker writes.
            format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}"),
        ]
    }

    fn forward_sync(&self) -> Vec<String> {
        self.sync(
            "sync",
            &self.shadow(),
            |source| self.widened(source),
            &self.column.name,
        )
    }

    fn reverse_sync(&self) -> Vec<String> {
        self.sync(
            "back",
            &self.old(),
            |source| self.narrowed(source),
            &self.column.name,
        )
    }

    fn drop_sync(&self, direction: &str) -> Vec<String> {
        vec![
            format!(
                "DROP TRIGGER IF EXISTS {} ON {}",
                ident(&self.trigger()),
                self.table
            ),
            format!("DROP FUNCTION IF EXISTS {}()", self.function(direction)),
        ]
    }

    fn trigger_there(&self) -> Expectation {
        Expectation::Trigger {
            table: self.table.clone(),
            name: self.trigger(),
            enabled: "always".into(),
        }
    }

    fn column_is(&self, column: &str, data_type: &str, not_null: Option<bool>) -> Expectation {
        let facts = ColumnFacts {
            data_type: Some(data_type.into()),
            not_null,
            has_default: None,
        };
        Expectation::Column {
            table: self.table.clone(),
            column: column.into(),
            facts,
        }
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = vec![self.add(settings), self.fill(settings), self.vacuum(settings)];
        steps.extend(self.carry.builds(settings));
        if self.carry.has_expressions() {
            steps.push(self.analyze(Phase::Backfill, settings));
        }
        if self.column.not_null {
            steps.push(self.prove(settings));
        }
        steps.push(self.compare(settings));
        steps.extend(self.carry.constraints(settings));
        steps.push(self.swap(settings));
        if self.carry.has_statistics() {
            steps.push(self.analyze(Phase::Cutover, settings));
        }
        steps.extend(self.carry.contract(settings));
        steps.push(self.drop_old(settings));
        steps
    }

    fn add(&self, settings: &Settings) -> StepDraft {
        let (table, shadow) = (&self.table, ident(&self.shadow()));
        let collation = self.column.collation.as_ref();
        let collate = collation.map(|it| format!(" COLLATE {it}")).unwrap_or_default();
        let mut statements = vec![
            format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"),
            format!(
                "ALTER TABLE {table} ADD COLUMN {shadow} {}{collate}",
                self.new_type
            ),
        ];
        let kept = storage::settings(&self.column, &self.new_type);
        statements.extend(
            kept.iter()
                .map(|what| format!("ALTER TABLE {table} ALTER COLUMN {shadow} {what}")),
        );
        statements.extend(self.forward_sync());
        if self.column.not_null {
            statements.push(format!(
                "ALTER TABLE {table} ADD CONSTRAINT {} CHECK ({shadow} IS NOT NULL) NOT VALID",
                ident(&self.proof())
            ));
        }
        let mut undo = self.drop_sync("sync");
        undo.insert(0, format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"));
        undo.push(format!("ALTER TABLE {table} DROP COLUMN IF EXISTS {shadow}"));
        let absent = Expectation::ColumnAbsent {
            table: table.clone(),
            column: self.shadow(),
        };
        StepDraft {
            id: "add".into(),
            phase: Phase::Expand,
            work: brief(
                settings,
                format!("add {table}.{shadow} {}, kept equal by a trigger", self.new_type),
                statements,
                self.lock(),
                vec![
                    self.column_is(&self.shadow(), &self.new_type, None),
                    self.trigger_there(),
                ],
            ),
            hazards: self.hazards.clone(),
            undo: Undo::Work(vec![brief(
                settings,
                format!("drop {table}.{shadow} and its trigger"),
                undo,
                self.lock(),
                vec![absent],
            )]),
            estimate: Estimate::INSTANT,
        }
    }

    fn fill(&self, settings: &Settings) -> StepDraft {
        let (shadow, column) = (ident(&self.shadow()), ident(&self.column.name));
        let value = self.widened(&column);
        StepDraft {
            id: "fill".into(),
            phase: Phase::Backfill,
            work: Work {
                summary: format!("fill {}.{shadow} from {column}", self.table),
                action: Action::Backfill(Backfill {
                    table: self.table.clone(),
                    set: format!("{shadow} = {value}"),
                    needs: format!("{shadow} IS DISTINCT FROM {value}"),
                    suppress_triggers: self.suppress_triggers,
                    workers: settings.workers,
                    replica_lag_ms: settings.replica_lag_ms,
                }),
                transaction: Transaction::None,
                locks: vec![Lock::new(&self.table, LockMode::RowExclusive)],
                timeouts: settings.brief(),
                expect: Vec::new(),
                on_violation: None,
            },
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "the column goes away".into(),
            },
            // Every row gets a second version, whose space is reused only after a vacuum.
            estimate: Estimate::scan(self.rows, self.bytes, self.bytes),
        }
    }

    fn vacuum(&self, settings: &Settings) -> StepDraft {
        StepDraft {
            id: "vacuum".into(),
            phase: Phase::Backfill,
            work: concurrent(
                settings,
                format!("vacuum and analyze {}", self.table),
                // Truncating the file at the end would take ACCESS EXCLUSIVE.
                format!("VACUUM (TRUNCATE FALSE, ANALYZE) {}", self.table),
                &self.table,
                Vec::new(),
            ),
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "vacuuming changes nothing".into(),
            },
            estimate: Estimate::scan(self.rows, self.bytes, 0),
        }
    }

    /// For expressions of indexes and for statistics objects that are new.
    fn analyze(&self, phase: Phase, settings: &Settings) -> StepDraft {
        let id = if phase == Phase::Cutover {
            "gather"
        } else {
            "analyze"
        };
        StepDraft {
            id: id.into(),
            phase,
            work: concurrent(
                settings,
                format!("gather statistics of {}", self.table),
                format!("ANALYZE {}", self.table),
                &self.table,
                Vec::new(),
            ),
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "it only gathers statistics".into(),
            },
            estimate: Estimate::INSTANT,
        }
    }

    fn prove(&self, settings: &Settings) -> StepDraft {
        let (table, shadow) = (&self.table, ident(&self.shadow()));
        let work = Work {
            summary: format!("prove that {table}.{shadow} is never null"),
            action: Action::Sql(vec![format!(
                "ALTER TABLE {table} VALIDATE CONSTRAINT {}",
                ident(&self.proof())
            )]),
            transaction: Transaction::Single,
            locks: vec![Lock::new(table, LockMode::ShareUpdateExclusive)],
            timeouts: settings.patient(),
            expect: Vec::new(),
            on_violation: Some(self.offenders(
                format!("{table}.{shadow} is never null"),
                format!("{shadow} IS NULL"),
                "run the same command again; if it persists, something bypasses the trigger",
            )),
        };
        StepDraft {
            id: "prove".into(),
            phase: Phase::Validate,
            work,
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "the constraint goes away with its column".into(),
            },
            estimate: Estimate::scan(self.rows, self.bytes, 0),
        }
    }

    /// A check whose answer is the keys of offending rows.
    fn offenders(&self, name: String, condition: String, help: &str) -> Check {
        let key = if self.key.is_empty() {
            "ctid::text AS ctid".to_owned()
        } else {
            idents(&self.key)
        };
        Check {
            name,
            query: format!("SELECT {key} FROM ONLY {} WHERE {condition}", self.table),
            help: help.into(),
        }
    }

    fn check_work(&self, settings: &Settings, check: Check) -> Work {
        Work {
            summary: format!("check that {}", check.name),
            action: Action::Check(check),
            transaction: Transaction::None,
            locks: vec![Lock::new(&self.table, LockMode::AccessShare)],
            timeouts: settings.patient(),
            expect: Vec::new(),
            on_violation: None,
        }
    }

    fn compare(&self, settings: &Settings) -> StepDraft {
        let (shadow, column) = (ident(&self.shadow()), ident(&self.column.name));
        let check = self.offenders(
            format!("{}.{shadow} equals {column} in every row", self.table),
            format!("{shadow} IS DISTINCT FROM {}", self.widened(&column)),
            "the cutover was not begun; something writes this table past its triggers. Find it, then roll back and apply again",
        );
        StepDraft {
            id: "compare".into(),
            phase: Phase::Validate,
            work: self.check_work(settings, check),
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "it only reads".into(),
            },
            estimate: Estimate::scan(self.rows, self.bytes, 0),
        }
    }

    /// What the application sees of a column besides its type, moved from one column to the other.
    fn attributes(&self, column: &str) -> Vec<String> {
        let (table, quoted) = (&self.table, ident(column));
        let mut statements = Vec::new();
        if let Some(target) = self.column.statistics_target {
            statements.push(format!(
                "ALTER TABLE {table} ALTER COLUMN {quoted} SET STATISTICS {target}"
            ));
        }
        if !self.column.options.is_empty() {
            let options = self.column.options.join(", ");
            statements.push(format!(
                "ALTER TABLE {table} ALTER COLUMN {quoted} SET ({options})"
            ));
        }
        if let Some(comment) = &self.column.comment {
            statements.push(format!(
                "COMMENT ON COLUMN {table}.{quoted} IS {}",
                literal(comment)
            ));
        }
        for grant in &self.column.grants {
            let grantee = if grant.grantee == "PUBLIC" {
                "PUBLIC".into()
            } else {
                ident(&grant.grantee)
            };
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            statements.push(format!(
                "GRANT {} ({quoted}) ON {table} TO {grantee}{option}",
                grant.privilege
            ));
        }
        statements
    }

    /// Statements that make `from` the application's column and put the present one away as `to`.
    /// `proof` is a validated CHECK that `from` is never null, where it must not be.
    fn swap_statements(&self, from: &str, to: &str, default: Option<&str>, proof: &str) -> Vec<String> {
        let (table, column) = (&self.table, ident(&self.column.name));
        let mut statements = Vec::new();
        // What is put away must not stop a write that only knows the other column.
        if self.column.default.is_some() || self.new_default.is_some() {
            statements.push(format!("ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT"));
        }
        if self.column.not_null {
            statements.push(format!("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL"));
        }
        statements.push(format!(
            "ALTER TABLE {table} RENAME COLUMN {column} TO {}",
            ident(to)
        ));
        statements.push(format!(
            "ALTER TABLE {table} RENAME COLUMN {} TO {column}",
            ident(from)
        ));
        if let Some(default) = default {
            statements.push(format!(
                "ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {default}"
            ));
        }
        if self.column.not_null {
            // Proven by the validated CHECK, hence without a scan; dropping that in the same command would scan.
            statements.push(match &self.column.not_null_constraint {
                // From PostgreSQL 18 on it has a name, which went with the one on the other column.
                Some(constraint) => format!(
                    "ALTER TABLE {table} ADD CONSTRAINT {} NOT NULL {column}",
                    ident(&constraint.name)
                ),
                None => format!("ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL"),
            });
            statements.push(format!("ALTER TABLE {table} DROP CONSTRAINT {}", ident(proof)));
        }
        statements
    }

    /// Other sessions have compiled these with the column's present type and would fail with it; any change to the
    /// function makes them compile it again, and no function sets this parameter.
    fn refresh_trigger_functions(&self) -> impl Iterator<Item = String> {
        let refresh = |function: &String| format!("ALTER FUNCTION {function}() RESET vacuum_cost_page_hit");
        self.trigger_functions.iter().map(refresh)
    }

    fn swap_locks(&self) -> Vec<Lock> {
        let mut locks = self.lock();
        locks.extend(self.carry.locks());
        locks
    }

    fn swap_lock_statements(&self, forwards: bool) -> Vec<String> {
        let statement = |lock: Lock| format!("LOCK TABLE {} IN {} MODE", lock.relation, lock.mode);
        let mut statements = self.carry.leave_first(forwards);
        statements.extend(self.swap_locks().into_iter().map(statement));
        statements
    }

    /// Both waits together take no longer than one may.
    fn within_one_wait(&self, mut work: Work) -> Work {
        if self.carry.waits_twice() {
            work.timeouts.lock_ms = work.timeouts.lock_ms.map(|ms| (ms / 2).max(1));
        }
        work
    }

    fn swap(&self, settings: &Settings) -> StepDraft {
        let (table, column) = (&self.table, &self.column.name);
        let mut statements = self.swap_lock_statements(true);
        statements.extend(self.drop_sync("sync"));
        statements.extend(self.carry.leave());
        let default = self.new_default.as_deref();
        statements.extend(self.swap_statements(&self.shadow(), &self.old(), default, &self.proof()));
        statements.extend(self.attributes(column));
        statements.extend(self.carry.arrive());
        statements.extend(self.reverse_sync());
        statements.extend(self.refresh_trigger_functions());
        let mut expect = vec![
            self.column_is(column, &self.new_type, Some(self.column.not_null)),
            self.column_is(&self.old(), &self.column.data_type, None),
            self.trigger_there(),
        ];
        expect.extend(self.carry.expect());
        StepDraft {
            id: "swap".into(),
            phase: Phase::Cutover,
            work: self.within_one_wait(brief(
                settings,
                format!("make the {} column {table}.{}", self.new_type, ident(column)),
                statements,
                self.swap_locks(),
                expect,
            )),
            hazards: self.swap_hazards(),
            undo: Undo::Work(self.unswap(settings)),
            estimate: Estimate::INSTANT,
        }
    }

    fn swap_hazards(&self) -> Vec<Hazard> {
        let column = format!("{}.{}", self.table, ident(&self.column.name));
        vec![
            Hazard::new(
                "column_order",
                format!(
                    "{column} becomes the last column: INSERT without a column list and SELECT * see another order"
                ),
            ),
            Hazard::new(
                "prepared_statements",
                format!(
                    "statements prepared before the cutover that return {column} fail with 0A000 until they are prepared again: recycle connection pools after it"
                ),
            ),
            Hazard::new(
                "rollback_refuses",
                format!(
                    "while the cutover is rolled back, writes of values that do not fit {} to {column} fail with 23514",
                    self.column.data_type
                ),
            ),
        ]
    }

    /// Between a look at the rows and the swap the application goes on writing, so a CHECK of ours keeps out what
    /// would be lost: the trigger has set the old column before it is asked.
    fn unswap(&self, settings: &Settings) -> Vec<Work> {
        let (table, column) = (&self.table, ident(&self.column.name));
        let (old, old_type) = (ident(&self.old()), &self.column.data_type);
        let widened = self.widened(&old);
        let lost = |help: &str| {
            self.offenders(
                format!("every value of {table}.{column} fits {old_type}"),
                format!("{widened} IS DISTINCT FROM {column}"),
                help,
            )
        };
        let first = self.check_work(
            settings,
            lost("going back would lose these values: change them, or go forwards with --through contract"),
        );
        let not_null = if self.column.not_null {
            format!("{old} IS NOT NULL AND ")
        } else {
            String::new()
        };
        let fits = ident(&self.fits());
        let guard = brief(
            settings,
            format!(
                "refuse values of {table}.{column} that do not fit {old_type}, from here to the end of the rollback"
            ),
            vec![
                format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"),
                format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {fits}"),
                format!(
                    "ALTER TABLE {table} ADD CONSTRAINT {fits} \
                     CHECK ({not_null}{widened} IS NOT DISTINCT FROM {column}) NOT VALID"
                ),
            ],
            self.lock(),
            Vec::new(),
        );
        let proof = Work {
            summary: format!("prove that every value of {table}.{column} fits {old_type}"),
            action: Action::Sql(vec![format!("ALTER TABLE {table} VALIDATE CONSTRAINT {fits}")]),
            transaction: Transaction::Single,
            locks: vec![Lock::new(table, LockMode::ShareUpdateExclusive)],
            timeouts: settings.patient(),
            expect: Vec::new(),
            on_violation: Some(lost(&format!(
                "going back would lose these values: change them, then roll back again; to go forwards instead, let \
                 such values in with ALTER TABLE {table} DROP CONSTRAINT {fits}"
            ))),
        };
        let mut works = vec![first];
        works.extend(self.carry.fits(settings));
        works.extend([guard, proof]);
        works.extend(self.carry.before_back(settings));
        works.push(self.swap_back(settings));
        works.extend(self.carry.after_back(settings));
        works
    }

    fn swap_back(&self, settings: &Settings) -> Work {
        let (table, column) = (&self.table, &self.column.name);
        let mut statements = self.swap_lock_statements(false);
        statements.extend(self.drop_sync("back"));
        statements.extend(self.carry.leave_back());
        let previous = self.column.default.as_deref();
        statements.extend(self.swap_statements(&self.old(), &self.shadow(), previous, &self.fits()));
        if !self.column.not_null {
            let fits = ident(&self.fits());
            statements.push(format!("ALTER TABLE {table} DROP CONSTRAINT {fits}"));
        }
        statements.extend(self.carry.arrive_back());
        statements.extend(self.forward_sync());
        statements.extend(self.refresh_trigger_functions());
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

    fn drop_old(&self, settings: &Settings) -> StepDraft {
        let (table, old) = (&self.table, ident(&self.old()));
        let mut statements = vec![format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")];
        statements.extend(self.drop_sync("back"));
        statements.push(format!("ALTER TABLE {table} DROP COLUMN {old}"));
        StepDraft {
            id: "drop_old".into(),
            phase: Phase::Contract,
            work: brief(
                settings,
                format!("drop the old column {table}.{old} and its trigger"),
                statements,
                self.lock(),
                vec![
                    Expectation::ColumnAbsent {
                        table: table.clone(),
                        column: self.old(),
                    },
                    Expectation::TriggerAbsent {
                        table: table.clone(),
                        name: self.trigger(),
                    },
                ],
            ),
            hazards: vec![Hazard::new(
                "prepared_statements",
                format!(
                    "prepared SELECT * and RETURNING * on {table} fail with 0A000 until they are prepared again"
                ),
            )],
            undo: Undo::Irreversible {
                reason: format!("the {} values are gone", self.column.data_type),
            },
            estimate: Estimate {
                duration: DurationClass::Instant,
                ..Estimate::INSTANT
            },
        }
    }

    /// The end state: the column is the last one.
    pub fn apply(&self, catalog: &mut CatalogSnapshot, printed: Column) {
        if let Some(table) = catalog.tables.get_mut(&self.table) {
            table.columns.retain(|column| column.name != self.column.name);
            table.columns.push(printed);
        }
        self.carry.apply(&self.table, &self.column.name, catalog);
    }
}
