//! The shadow column: a column of the new type, filled behind the old one and swapped in by one short transaction.
//!
//! Until the swap a trigger keeps the shadow equal to the column; from then on another keeps the old column equal to
//! the new one as far as its type reaches, so that a rollback loses nothing.

mod back;
mod group;
mod moves;
mod sync;
mod tree;

pub use group::Group;
pub use moves::{Move, Moves};
pub use tree::{Member, Spread};

use super::carry::{self, Carry};
use super::conversion::{Conversion, Strictness};
use super::{brief, concurrent, storage};
use crate::catalog::model::{CatalogSnapshot, Column};
use crate::ops::StepDraft;
use crate::plan::{
    Action, Backfill, Check, ColumnFacts, Comparison, DurationClass, Estimate, Expectation, Hazard, Lock,
    LockMode, Mend, Phase, Settings, Transaction, Undo, Work, hex,
};
use crate::sql::{IDENTIFIER_BYTES_MAX, OWN_PREFIX, QualifiedName, derived_name, ident, literal};
use sha2::{Digest, Sha256};

/// Everything that the steps of one swap need.
#[derive(Debug, Clone)]
pub struct Shadow {
    /// What its steps are told by among those of others; nothing for the column that the change is about.
    pub word: String,
    pub table: QualifiedName,
    pub column: Column,
    /// As the server prints it.
    pub new_type: String,
    /// Columns that name an offending row; empty for its physical address.
    pub key: Vec<String>,
    pub rows: i64,
    pub bytes: i64,
    pub suppress_triggers: bool,
    /// Functions of the table's own triggers, as SQL text without parentheses.
    pub trigger_functions: Vec<String>,
    pub hazards: Vec<Hazard>,
    pub names: Names,
    pub spread: Spread,
    /// The table first.
    pub members: Vec<Member>,
    /// Where a cast is not enough, or not known to lose nothing.
    pub conversion: Option<Conversion>,
    /// Of the column afterwards.
    pub collation: Option<String>,
}

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

    pub fn shadow(&self) -> &str {
        &self.shadow
    }

    pub fn old(&self) -> &str {
        &self.old
    }
}

/// A name of ours that tells the column, index or constraint; a long one is told apart by its digest.
pub fn name(column: &str, kind: &str) -> String {
    let readable = format!("{OWN_PREFIX}_{column}_{kind}");
    if readable.len() <= IDENTIFIER_BYTES_MAX {
        return readable;
    }
    let digest = hex(&Sha256::digest(column.as_bytes()));
    derived_name(&[OWN_PREFIX, column, &digest[..8]], kind)
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

    /// Once all columns are added: a key may be on several.
    fn expand(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = self.of_each(|carry| carry.ahead(settings));
        if !steps.is_empty() {
            steps.push(self.follow(settings));
        }
        steps.extend(self.convertible(settings));
        steps
    }

    fn builds(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = self.of_each(|carry| carry.builds(settings));
        if self.spread == Spread::Partitions || self.carries().any(Carry::has_expressions) {
            steps.push(self.analyze(Phase::Backfill, settings));
        }
        steps
    }

    fn validate(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps: Vec<StepDraft> = self.insist(settings).into_iter().collect();
        // What was written past the triggers would stop the proofs.
        steps.push(self.compare(settings));
        steps.extend(self.proofs(settings));
        steps
    }

    /// A constraint that is NOT VALID is asked about every row that the backfill writes.
    fn looks(&self, settings: &Settings) -> Vec<StepDraft> {
        let asked = self.members.iter().filter(|member| !member.unproven.is_empty());
        let mut steps: Vec<StepDraft> = asked.map(|member| self.look(member, settings)).collect();
        carry::number(&mut steps);
        steps
    }

    fn look(&self, member: &Member, settings: &Settings) -> StepDraft {
        let table = &member.table;
        let (names, forbidden): (Vec<_>, Vec<_>) = member
            .unproven
            .iter()
            .map(|(name, forbidden)| (ident(name), format!("({forbidden})")))
            .unzip();
        let check = self.offenders_in(
            table,
            format!("every row of {table} may be written under {}", names.join(", ")),
            forbidden.join(" OR "),
            "nothing was changed; the backfill could not write these rows: correct them, then run again",
        );
        let mut step = self.checked("look", Phase::Expand, settings, check);
        step.work.locks = vec![Lock::new(table, LockMode::AccessShare)];
        step
    }

    /// With the trigger, unless something has to be there before it.
    fn add(&self, settings: &Settings) -> StepDraft {
        let follows = self.of_each(|carry| carry.ahead(settings)).is_empty();
        let (table, shadow) = (&self.table, ident(&self.shadow()));
        let collation = self.collation.as_ref();
        let collate = collation.map(|it| format!(" COLLATE {it}")).unwrap_or_default();
        let lock = self.lock_statement();
        let mut statements = vec![lock.clone()];
        statements.extend(self.same_tables());
        statements.extend(self.add_columns(&collate));
        if let Some(conversion) = &self.conversion {
            statements.extend(conversion.create(&self.column, &self.new_type));
        }
        let mut expect = vec![self.column_is(&self.shadow(), &self.new_type, None)];
        statements.extend(self.carries().flat_map(Carry::hide));
        if follows {
            statements.extend(self.follow_statements());
            expect.extend(self.triggers_there());
        }
        let mut undo = vec![lock];
        undo.extend(self.drop_sync("sync"));
        undo.extend(self.drop_columns(&self.shadow(), "IF EXISTS "));
        undo.extend(self.drop_from_detached());
        undo.extend(self.carries().flat_map(Carry::reveal));
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
            hazards: self
                .hazards
                .iter()
                .cloned()
                .chain(self.newcomer_hazard())
                .chain(self.carries().filter_map(Carry::hazard_of_adding))
                .collect(),
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
    fn promises(&self) -> Vec<String> {
        let (proof, shadow) = (ident(&self.proof()), ident(&self.shadow()));
        let promise = |member: &Member| {
            format!(
                "ALTER TABLE {} ADD CONSTRAINT {proof} CHECK ({shadow} IS NOT NULL) NOT VALID",
                member.table
            )
        };
        self.for_tops(promise)
    }

    fn forget_promises(&self, if_exists: &str) -> Vec<String> {
        let proof = ident(&self.proof());
        let forget =
            |member: &Member| format!("ALTER TABLE {} DROP CONSTRAINT {if_exists}{proof}", member.table);
        self.for_tops(forget)
    }

    /// Asked before anything else is done, so that nobody fills half a table in vain.
    fn convertible(&self, settings: &Settings) -> Option<StepDraft> {
        let conversion = self.conversion.as_ref()?;
        let (table, column) = (&self.table, ident(&self.column.name));
        let check = Check {
            name: format!("every value of {table}.{column} has a form in {}", self.new_type),
            query: format!(
                "SELECT * FROM (SELECT {}, {}({column}) AS error FROM {}) AS s WHERE error IS NOT NULL",
                self.row(),
                conversion.refuse,
                self.all_rows()
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
        let lock = self.lock_statement();
        let mut statements = vec![lock.clone()];
        statements.push(self.forward_function(Strictness::Strict)?);
        let mut undo = vec![lock];
        undo.extend(self.forward_function(Strictness::Lenient));
        statements.extend(self.promises());
        undo.extend(self.forget_promises("IF EXISTS "));
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

    /// One table after the other, so that the space of each is free again before the next one grows.
    fn fills(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps: Vec<StepDraft> = self
            .stored()
            .flat_map(|member| [self.fill(member, settings), Self::vacuum(member, settings)])
            .collect();
        if self.alone() {
            steps.truncate(1);
        }
        carry::number(&mut steps);
        steps
    }

    /// Of one that has no others below: columns of the same table may be filled one after the other before.
    fn vacuums(&self, settings: &Settings) -> Option<StepDraft> {
        let top = self.members.first().filter(|_| self.alone())?;
        Some(Self::vacuum(top, settings))
    }

    fn leave(&self) -> Vec<String> {
        self.for_each(|member| member.carry.leave())
    }

    fn arrive(&self) -> Vec<String> {
        self.for_each(|member| member.carry.arrive())
    }

    fn leave_back(&self) -> Vec<String> {
        self.for_each(|member| member.carry.leave_back())
    }

    fn arrive_back(&self) -> Vec<String> {
        self.for_each(|member| member.carry.arrive_back())
    }

    /// The works of all of its tables.
    fn works_of_each(&self, works: impl Fn(&Carry) -> Vec<Work>) -> Vec<Work> {
        self.carries().flat_map(works).collect()
    }

    fn fill(&self, member: &Member, settings: &Settings) -> StepDraft {
        let table = &member.table;
        let (shadow, column) = (ident(&self.shadow()), ident(&self.column.name));
        StepDraft {
            id: "fill".into(),
            phase: Phase::Backfill,
            work: Work {
                summary: format!("fill {table}.{shadow} from {column}"),
                action: Action::Backfill(self.filling(member, settings)),
                transaction: Transaction::None,
                locks: vec![Lock::new(table, LockMode::RowExclusive)],
                timeouts: settings.brief(),
                expect: Vec::new(),
                on_violation: None,
                guards_values: false,
                part: None,
                not_before: None,
            },
            hazards: member.carry.hazard_of_filling().into_iter().collect(),
            undo: Undo::NotNeeded {
                reason: "the column goes away".into(),
            },
            // Every row gets a second version, whose space is reused only after a vacuum.
            estimate: Estimate::scan(member.rows, member.bytes, member.bytes),
        }
    }

    fn stored(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.stored)
    }

    fn filling(&self, member: &Member, settings: &Settings) -> Backfill {
        let (shadow, column) = (ident(&self.shadow()), ident(&self.column.name));
        let value = self.widened(&column);
        Backfill {
            table: member.table.clone(),
            set: format!("{shadow} = {value}"),
            needs: self.differ(&shadow, &value),
            suppress_triggers: self.suppress_triggers,
            columns: vec![self.shadow()],
            workers: settings.workers,
            limits: settings.limits.clone(),
        }
    }

    fn vacuum(member: &Member, settings: &Settings) -> StepDraft {
        let table = &member.table;
        let work = concurrent(
            settings,
            format!("vacuum and analyze {table}"),
            // Truncating the file at the end would take ACCESS EXCLUSIVE.
            format!("VACUUM (TRUNCATE FALSE, ANALYZE) {table}"),
            table,
            Vec::new(),
        );
        let reason = "vacuuming changes nothing";
        let estimate = Estimate::scan(member.rows, member.bytes, 0);
        harmless("vacuum", Phase::Backfill, work, reason, estimate)
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

    fn proofs(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps: Vec<StepDraft> = self
            .not_null_tops()
            .map(|member| self.prove(member, settings))
            .collect();
        carry::number(&mut steps);
        steps
    }

    fn prove(&self, member: &Member, settings: &Settings) -> StepDraft {
        let (table, shadow) = (&member.table, ident(&self.shadow()));
        let name = format!("{table}.{shadow} is never null");
        let summary = format!("prove that {name}");
        let missing = self.offenders_in(
            table,
            name,
            format!("{shadow} IS NULL"),
            "run the same command again; if it persists, something bypasses the trigger",
        );
        harmless(
            "prove",
            Phase::Validate,
            self.proved(settings, table, &self.proof(), (summary, missing)),
            "the constraint goes away with its column",
            Estimate::scan(member.rows, member.bytes, 0),
        )
    }

    fn scan(&self) -> Estimate {
        Estimate::scan(self.rows, self.bytes, 0)
    }

    /// A check whose answer is the keys of offending rows.
    fn offenders(&self, name: String, condition: String, help: &str) -> Check {
        self.offenders_in(&self.table, name, condition, help)
    }

    fn offenders_in(&self, table: &QualifiedName, name: String, condition: String, help: &str) -> Check {
        Check {
            name,
            query: format!(
                "SELECT {} FROM {} WHERE {condition}",
                self.row(),
                self.rows_of(table)
            ),
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
            part: None,
            not_before: None,
        }
    }

    fn compare(&self, settings: &Settings) -> StepDraft {
        let (shadow, column) = (ident(&self.shadow()), ident(&self.column.name));
        let mut condition = self.differ(&shadow, &self.widened(&column));
        let mut name = format!("{}.{shadow} equals {column} in every row", self.table);
        let mut help = "the cutover was not begun, and filling these rows again did not help: something goes on writing this \
                        table past its triggers. Find it, then run the same command again"
            .to_owned();
        if let Some(conversion) = &self.conversion {
            condition = format!("{condition} OR {}({column}) IS NOT NULL", conversion.refuse);
            name = format!("{}.{shadow} is what becomes of {column} in every row", self.table);
            help = format!(
                "change values that have no form in {}; where there are none, {help}",
                self.new_type
            );
        }
        let check = self.offenders(name, condition, &help);
        let work = self.check_work(settings, check.clone());
        let mut step = harmless(
            "compare",
            Phase::Validate,
            work,
            "only the column that goes away may change",
            self.scan(),
        );
        let mend = self.stored().map(|member| Mend {
            part: self.part(&member.table),
            fill: self.filling(member, settings),
        });
        step.work.action = Action::Compare(Comparison {
            check,
            mend: mend.collect(),
        });
        step
    }

    /// What the application sees of a column besides its type, moved from one column to the other.
    fn attributes(&self, member: &Member) -> Vec<String> {
        let Member { table, column, .. } = member;
        let (quoted, only) = (ident(&column.name), self.only());
        let mut statements = Vec::new();
        if let Some(target) = column.statistics_target {
            statements.push(format!(
                "ALTER TABLE {only}{table} ALTER COLUMN {quoted} SET STATISTICS {target}"
            ));
        }
        if !column.options.is_empty() {
            let options = column.options.join(", ");
            statements.push(format!(
                "ALTER TABLE {only}{table} ALTER COLUMN {quoted} SET ({options})"
            ));
        }
        if let Some(comment) = &column.comment {
            statements.push(format!(
                "COMMENT ON COLUMN {table}.{quoted} IS {}",
                literal(comment)
            ));
        }
        for grant in &column.grants {
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

    /// Statements that make `from` the application's column and put the present one away as `to`; a validated CHECK
    /// proves that `from` is never null, where it must not be.
    fn swap_statements(&self, from: &str, to: &str) -> Vec<String> {
        let (table, column) = (&self.table, ident(&self.column.name));
        let mut statements = Vec::new();
        // What is put away must not stop a write that only knows the other column.
        if self.has_default() {
            statements.push(format!("ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT"));
        }
        let nullable =
            |member: &Member| format!("ALTER TABLE {} ALTER COLUMN {column} DROP NOT NULL", member.table);
        statements.extend(self.for_tops(nullable));
        // From PostgreSQL 18 on a table below may have its own, beside the one that it inherits.
        let named = |member: &Member| member.not_null_above && member.column.not_null_constraint.is_some();
        statements.extend(self.for_each(|member| {
            let named = named(member).then(|| nullable(member));
            named.into_iter().collect()
        }));
        statements.push(format!(
            "ALTER TABLE {table} RENAME COLUMN {column} TO {}",
            ident(to)
        ));
        statements.push(format!(
            "ALTER TABLE {table} RENAME COLUMN {} TO {column}",
            ident(from)
        ));
        statements
    }

    /// Proven by the validated CHECK, hence without a scan; dropping that in the same command would scan.
    fn set_not_null(&self) -> Vec<String> {
        let column = ident(&self.column.name);
        let set = |member: &Member| match &member.column.not_null_constraint {
            // From PostgreSQL 18 on it has a name, which went with the one on the other column.
            Some(constraint) => format!(
                "ALTER TABLE {} ADD CONSTRAINT {} NOT NULL {column}",
                member.table,
                ident(&constraint.name)
            ),
            None => format!("ALTER TABLE {} ALTER COLUMN {column} SET NOT NULL", member.table),
        };
        let named = |member: &Member| {
            let constraint = member.column.not_null_constraint.as_ref();
            constraint.map(|it| (it.name.clone(), it.local))
        };
        let passed_on = self.members.first().and_then(named).map(|(name, _)| name);
        let has_own = |member: &Member| {
            let own = named(member).filter(|(name, local)| *local || Some(name) != passed_on.as_ref());
            own.is_some() && member.not_null_above
        };
        let mut statements = self.for_each(|member| {
            let own = has_own(member).then(|| set(member));
            own.into_iter().collect()
        });
        // From the bottom up, so that what is above finds it there.
        statements.reverse();
        statements.extend(self.for_tops(set));
        statements.extend(self.forget_promises(""));
        statements
    }

    /// Beside its own.
    pub fn other_locks(&self) -> Vec<Lock> {
        let own = self.lock();
        let mut locks: Vec<Lock> = Vec::new();
        for lock in self.carries().flat_map(Carry::locks) {
            if !own.contains(&lock) && !locks.contains(&lock) {
                locks.push(lock);
            }
        }
        locks
    }

    fn swap_there_statements(&self) -> Vec<String> {
        let mut statements = self.swap_statements(&self.shadow(), &self.old());
        statements.extend(self.set_defaults(|member| member.new_default.as_deref()));
        statements.extend(self.set_not_null());
        statements.extend(self.for_each(|member| self.attributes(member)));
        statements
    }

    fn swap_expect(&self) -> Vec<Expectation> {
        let mut expect = vec![
            self.column_is(&self.column.name, &self.new_type, Some(self.column.not_null)),
            self.column_is(&self.old(), &self.column.data_type, None),
        ];
        expect.extend(self.triggers_there());
        let lasting = self
            .members
            .iter()
            .filter(|member| self.part(&member.table).is_none());
        expect.extend(lasting.flat_map(|member| member.carry.expect()));
        expect
    }

    fn back_expect(&self) -> Expectation {
        let Column {
            name,
            data_type,
            not_null,
            ..
        } = &self.column;
        self.column_is(name, data_type, Some(*not_null))
    }

    fn swap_hazards(&self, settings: &Settings) -> Vec<Hazard> {
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
        hazards.extend(self.long_swap_hazard(settings));
        hazards.extend(self.large_newcomer_hazard(settings));
        hazards.extend(self.carries().flat_map(Carry::hazards));
        hazards
    }

    fn drop_old(&self, settings: &Settings) -> StepDraft {
        let (table, old) = (&self.table, ident(&self.old()));
        let mut statements = vec![self.lock_statement()];
        statements.extend(self.drop_sync("back"));
        statements.extend(self.drop_columns(&self.old(), ""));
        statements.extend(self.drop_from_detached());
        statements.extend(self.carries().flat_map(Carry::reveal));
        statements.extend(self.drop_conversion());
        let mut expect = vec![Expectation::ColumnAbsent {
            table: table.clone(),
            column: self.old(),
        }];
        expect.extend(self.triggers_absent());
        StepDraft {
            id: "drop_old".into(),
            phase: Phase::Contract,
            work: brief(
                settings,
                format!("drop the old column {table}.{old} and its trigger"),
                statements,
                self.lock(),
                expect,
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
    fn apply(&self, catalog: &mut CatalogSnapshot) {
        for member in &self.members {
            if let Some(table) = catalog.tables.get_mut(&member.table) {
                table.columns.retain(|column| column.name != self.column.name);
                table.columns.push(member.after.clone());
            }
            member.carry.apply(&self.column.name, catalog);
        }
    }
}
