//! The shadow column: a column of the new type, filled behind the old one and swapped in by one short transaction.
//!
//! Until the swap a trigger keeps the shadow equal to the column; from then on another keeps the old column equal to
//! the new one as far as its type reaches, so that a rollback loses nothing.

mod back;
mod sync;

use super::carry::Carry;
use super::conversion::{Conversion, Strictness};
use super::{brief, concurrent, key_list, storage};
use crate::catalog::model::{CatalogSnapshot, Column};
use crate::ops::StepDraft;
use crate::plan::{
    Action, Backfill, Check, ColumnFacts, DurationClass, Estimate, Expectation, Hazard, Lock, LockMode,
    Phase, Settings, Transaction, Undo, Work, hex,
};
use crate::sql::{IDENTIFIER_BYTES_MAX, QualifiedName, derived_name, ident, literal};
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
    /// Constraints of the table that hold for what is written, though not for all rows: what each forbids.
    pub unproven: Vec<(String, String)>,
    pub names: Names,
    pub carry: Carry,
    /// Where a cast is not enough, or not known to lose nothing.
    pub conversion: Option<Conversion>,
    /// Of the column afterwards.
    pub collation: Option<String>,
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

/// A function of ours that belongs to the column.
pub fn function_name(table: &QualifiedName, column: &str, kind: &str) -> QualifiedName {
    let subject = format!("{table}.{}", ident(column));
    let digest = hex(&Sha256::digest(subject.as_bytes()));
    QualifiedName::new("pgmorph", format!("{kind}_{}", &digest[..16]))
}

/// Other sessions have compiled these with the column's present type and would fail with it; any change to the
/// function makes them compile it again, and no function sets this parameter.
pub fn refresh<'a>(functions: impl IntoIterator<Item = &'a String>) -> impl Iterator<Item = String> {
    let refresh = |function| format!("ALTER FUNCTION {function}() RESET vacuum_cost_page_hit");
    functions.into_iter().map(refresh)
}

/// A step that leaves nothing to undo.
fn harmless(id: &str, phase: Phase, work: Work, reason: &str, estimate: Estimate) -> StepDraft {
    StepDraft {
        id: id.into(),
        phase,
        work,
        hazards: Vec::new(),
        undo: Undo::NotNeeded {
            reason: reason.into(),
        },
        estimate,
    }
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
        function_name(&self.table, &self.column.name, direction)
    }

    fn lock(&self) -> Vec<Lock> {
        vec![Lock::new(&self.table, LockMode::AccessExclusive)]
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
        let ahead = self.carry.ahead(settings);
        let mut steps: Vec<StepDraft> = self.look(settings).into_iter().collect();
        steps.push(self.add(settings, ahead.is_empty()));
        if !ahead.is_empty() {
            steps.extend(ahead);
            steps.push(self.follow(settings));
        }
        steps.extend(self.convertible(settings));
        steps.extend([self.fill(settings), self.vacuum(settings)]);
        steps.extend(self.carry.builds(settings));
        if self.carry.has_expressions() {
            steps.push(self.analyze(Phase::Backfill, settings));
        }
        steps.extend(self.insist(settings));
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

    /// A constraint that is NOT VALID is asked about every row that the backfill writes.
    fn look(&self, settings: &Settings) -> Option<StepDraft> {
        let (names, forbidden): (Vec<_>, Vec<_>) = self
            .unproven
            .iter()
            .map(|(name, forbidden)| (ident(name), format!("({forbidden})")))
            .unzip();
        if names.is_empty() {
            return None;
        }
        let check = self.offenders(
            format!(
                "every row of {} may be written under {}",
                self.table,
                names.join(", ")
            ),
            forbidden.join(" OR "),
            "nothing was changed; the backfill could not write these rows: correct them, then run again",
        );
        Some(self.checked("look", Phase::Expand, settings, check))
    }

    /// With the trigger, unless something has to be there before it.
    fn add(&self, settings: &Settings, follows: bool) -> StepDraft {
        let (table, shadow) = (&self.table, ident(&self.shadow()));
        let collation = self.collation.as_ref();
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
        if let Some(conversion) = &self.conversion {
            statements.extend(conversion.create(&self.column, &self.new_type));
        }
        let mut expect = vec![self.column_is(&self.shadow(), &self.new_type, None)];
        if follows {
            statements.extend(self.follow_statements());
            expect.push(self.trigger_there());
        }
        let mut undo = self.drop_sync("sync");
        undo.insert(0, format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"));
        undo.push(format!("ALTER TABLE {table} DROP COLUMN IF EXISTS {shadow}"));
        undo.extend(self.drop_conversion());
        let absent = Expectation::ColumnAbsent {
            table: table.clone(),
            column: self.shadow(),
        };
        StepDraft {
            id: "add".into(),
            phase: Phase::Expand,
            work: brief(
                settings,
                format!(
                    "add {table}.{shadow} {}{}",
                    self.new_type,
                    if follows { ", kept equal by a trigger" } else { "" }
                ),
                statements,
                self.lock(),
                expect,
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

    fn drop_conversion(&self) -> Vec<String> {
        let conversion = self.conversion.as_ref();
        conversion.map_or_else(Vec::new, |it| it.drop(&self.column.data_type))
    }

    /// Keeps NULL out of the shadow; to be proven before the swap.
    fn promise(&self) -> String {
        format!(
            "ALTER TABLE {} ADD CONSTRAINT {} CHECK ({} IS NOT NULL) NOT VALID",
            self.table,
            ident(&self.proof()),
            ident(&self.shadow())
        )
    }

    /// Asked before anything else is done, so that nobody fills half a table in vain.
    fn convertible(&self, settings: &Settings) -> Option<StepDraft> {
        let conversion = self.conversion.as_ref()?;
        let (table, column) = (&self.table, ident(&self.column.name));
        let check = Check {
            name: format!("every value of {table}.{column} has a form in {}", self.new_type),
            query: format!(
                "SELECT * FROM (SELECT {}, {}({column}) AS error FROM ONLY {table}) AS s WHERE error IS NOT NULL",
                key_list(&self.key),
                conversion.refuse
            ),
            help: "change these values, or the expression in the plan, then run the same command again"
                .into(),
        };
        Some(self.checked("convertible", Phase::Expand, settings, check))
    }

    /// From here on what cannot be converted is refused, so that the comparison has the last word. The lock waits for
    /// everybody who wrote before.
    fn insist(&self, settings: &Settings) -> Option<StepDraft> {
        let (table, column) = (&self.table, ident(&self.column.name));
        let lock = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        let mut statements = vec![lock.clone()];
        statements.push(self.forward_function(Strictness::Strict)?);
        let mut undo = vec![lock];
        undo.extend(self.forward_function(Strictness::Lenient));
        if self.column.not_null {
            statements.push(self.promise());
            undo.push(format!(
                "ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {}",
                ident(&self.proof())
            ));
        }
        let new_type = &self.new_type;
        Some(StepDraft {
            id: "insist".into(),
            phase: Phase::Validate,
            work: brief(
                settings,
                format!("refuse values of {table}.{column} that have no form in {new_type}"),
                statements,
                self.lock(),
                Vec::new(),
            ),
            hazards: vec![Hazard::new(
                "writes_refused",
                format!(
                    "from here on writes to {table}.{column} of values that have no form in {new_type} fail, as they will after the cutover"
                ),
            )],
            undo: Undo::Work(vec![brief(
                settings,
                format!("let values of {table}.{column} in that have no form in {new_type}"),
                undo,
                self.lock(),
                Vec::new(),
            )]),
            estimate: Estimate::INSTANT,
        })
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
                    needs: self.differ(&shadow, &value),
                    suppress_triggers: self.suppress_triggers,
                    columns: vec![self.shadow()],
                    workers: settings.workers,
                    limits: settings.limits,
                }),
                transaction: Transaction::None,
                locks: vec![Lock::new(&self.table, LockMode::RowExclusive)],
                timeouts: settings.brief(),
                expect: Vec::new(),
                on_violation: None,
                guards_values: false,
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
        let work = concurrent(
            settings,
            format!("vacuum and analyze {}", self.table),
            // Truncating the file at the end would take ACCESS EXCLUSIVE.
            format!("VACUUM (TRUNCATE FALSE, ANALYZE) {}", self.table),
            &self.table,
            Vec::new(),
        );
        let reason = "vacuuming changes nothing";
        harmless("vacuum", Phase::Backfill, work, reason, self.scan())
    }

    /// For expressions of indexes and for statistics objects that are new.
    fn analyze(&self, phase: Phase, settings: &Settings) -> StepDraft {
        let id = if phase == Phase::Cutover {
            "gather"
        } else {
            "analyze"
        };
        let work = concurrent(
            settings,
            format!("gather statistics of {}", self.table),
            format!("ANALYZE {}", self.table),
            &self.table,
            Vec::new(),
        );
        harmless(id, phase, work, "it only gathers statistics", Estimate::INSTANT)
    }

    fn prove(&self, settings: &Settings) -> StepDraft {
        let (table, shadow) = (&self.table, ident(&self.shadow()));
        let name = format!("{table}.{shadow} is never null");
        let summary = format!("prove that {name}");
        let missing = self.offenders(
            name,
            format!("{shadow} IS NULL"),
            "run the same command again; if it persists, something bypasses the trigger",
        );
        harmless(
            "prove",
            Phase::Validate,
            self.proved(settings, &self.proof(), summary, missing),
            "the constraint goes away with its column",
            self.scan(),
        )
    }

    fn scan(&self) -> Estimate {
        Estimate::scan(self.rows, self.bytes, 0)
    }

    /// A check whose answer is the keys of offending rows.
    fn offenders(&self, name: String, condition: String, help: &str) -> Check {
        let key = key_list(&self.key);
        Check {
            name,
            query: format!("SELECT {key} FROM ONLY {} WHERE {condition}", self.table),
            help: help.into(),
        }
    }

    fn checked(&self, id: &str, phase: Phase, settings: &Settings, check: Check) -> StepDraft {
        let work = self.check_work(settings, check);
        harmless(id, phase, work, "it only reads", self.scan())
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
            guards_values: false,
        }
    }

    fn compare(&self, settings: &Settings) -> StepDraft {
        let (shadow, column) = (ident(&self.shadow()), ident(&self.column.name));
        let mut condition = self.differ(&shadow, &self.widened(&column));
        let mut name = format!("{}.{shadow} equals {column} in every row", self.table);
        if let Some(conversion) = &self.conversion {
            condition = format!("{condition} OR {}({column}) IS NOT NULL", conversion.refuse);
            name = format!("{}.{shadow} is what becomes of {column} in every row", self.table);
        }
        let check = self.offenders(
            name,
            condition,
            "the cutover was not begun; something writes this table past its triggers. Find it, then roll back and apply again",
        );
        self.checked("compare", Phase::Validate, settings, check)
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

    /// All waits together take no longer than one may.
    fn within_one_wait(&self, mut work: Work) -> Work {
        let waits = self.carry.waits();
        work.timeouts.lock_ms = work.timeouts.lock_ms.map(|ms| (ms / waits).max(1));
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
        statements.extend(refresh(&self.trigger_functions));
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
        let mut hazards = vec![
            Hazard::new(
                "column_order",
                format!(
                    "{column} becomes the last column: INSERT without a column list and SELECT * see another order"
                ),
            ),
            Hazard::new(
                "prepared_statements",
                format!(
                    "statements prepared before the cutover that return {column} fail with 0A000 until they are prepared again: recycle connection pools after it; `pgmorph explain widen_column` tells what drivers do by themselves"
                ),
            ),
            Hazard::new(
                "rollback_refuses",
                format!(
                    "while the cutover is rolled back, writes of values that do not fit {} to {column} fail with 23514",
                    self.column.data_type
                ),
            ),
        ];
        hazards.extend(self.carry.hazards());
        hazards
    }

    fn drop_old(&self, settings: &Settings) -> StepDraft {
        let (table, old) = (&self.table, ident(&self.old()));
        let mut statements = vec![format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")];
        statements.extend(self.drop_sync("back"));
        statements.push(format!("ALTER TABLE {table} DROP COLUMN {old}"));
        statements.extend(self.drop_conversion());
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
