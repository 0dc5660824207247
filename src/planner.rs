//! Change plan + catalog snapshot → execution plan, without I/O and deterministic to the byte.

use crate::catalog::model::{CatalogSnapshot, Question, Table};
use crate::change_plan::{Change, ChangePlan};
use crate::diagnostic::Diagnostic;
use crate::ops::{Compilation, Rename, StepDraft};
use crate::plan::{Action, ExecutionPlan, PLAN_FORMAT, Phase, PlannedChange, Step, Undo, Work};
use crate::release;
use crate::sql::{QualifiedName, ident};
use crate::when::When;
use locking::Catalogs;
use std::collections::{BTreeMap, BTreeSet};

mod locking;
mod mirrors;
mod renames;
mod replication;

/// Numbers of changes in their plan file, from 1.
pub type Numbers = BTreeSet<usize>;

/// What the conditions of a plan ask the server, each with the longest that it may take, in milliseconds.
pub fn conditions(plan: &ChangePlan, in_place: &Numbers) -> BTreeMap<String, u64> {
    let mut questions = BTreeMap::new();
    for (_, change) in open_changes(plan, in_place) {
        if let Some(query) = change.when.as_ref().and_then(When::query) {
            let timeout = questions.entry(query.to_owned()).or_insert(0);
            *timeout = change.settings.statement_timeout_ms.max(*timeout);
        }
    }
    questions
}

/// What to ask the server before planning: see [`Question`].
pub fn questions(plan: &ChangePlan, now: &CatalogSnapshot) -> Vec<Question> {
    questions_from(plan, now, &Numbers::new())
}

/// As [`questions`], without the changes that are in place. Nothing is asked for a change that is waiting, as far as that
/// can be told before the server has answered.
pub fn questions_from(plan: &ChangePlan, now: &CatalogSnapshot, in_place: &Numbers) -> Vec<Question> {
    let conditional = open_changes(plan, in_place).any(|(_, change)| change.when.is_some());
    let waiting = match conditional {
        true => compile(plan, now, in_place).waiting,
        false => BTreeMap::new(),
    };
    open_changes(plan, in_place)
        .filter(|(number, _)| !waiting.contains_key(number))
        .flat_map(|(_, change)| change.operation.questions(now))
        .collect()
}

/// Compiles a plan against a catalog.
///
/// # Errors
/// Everything wrong with it. A change that is refused counts as not there for the changes after it.
pub fn plan(plan: &ChangePlan, now: &CatalogSnapshot) -> Result<ExecutionPlan, Vec<Diagnostic>> {
    plan_from(plan, now, &Numbers::new())
}

/// As [`plan`], for a plan some of whose changes are in the catalog already: it has no steps for them, but lists them
/// and counts them, so that it is still known for the same plan, or the longer version of it.
///
/// # Errors
/// Everything wrong with the other changes.
pub fn plan_from(
    plan: &ChangePlan,
    now: &CatalogSnapshot,
    in_place: &Numbers,
) -> Result<ExecutionPlan, Vec<Diagnostic>> {
    let mut complaints = preliminary_complaints(plan, now);
    let Draft {
        catalog,
        mut steps,
        waiting,
        renamed,
        complaints: found,
    } = compile(plan, now, in_place);
    complaints.extend(found);
    check_after_backfills(&mut steps);
    complaints.extend(renames::conflicts(&renamed, &steps, &plan.changes));
    if !complaints.is_empty() {
        return Err(complaints);
    }
    steps.sort_by_key(|step| (step.phase, step.change));
    let mut steps = mirrors::joined(steps);
    replication::warn(&mut steps, now);
    let touched = touched_tables(&steps, now, &catalog);
    let mut changes = planned_changes(plan);
    for (position, change) in changes.iter_mut().enumerate() {
        change.waiting = waiting.get(&(position + 1)).cloned();
        change.in_place = in_place.contains(&(position + 1));
    }
    let mut compiled = ExecutionPlan {
        format: PLAN_FORMAT,
        name: plan.name.clone(),
        description: plan.description.clone(),
        digest: String::new(),
        changes,
        schema: Some(plan.schema.clone()),
        server_version_num: now.server.version_num,
        lock_deadline_ms: plan.settings.lock_deadline_ms,
        contention: plan.settings.contention,
        preconditions: plan.preconditions.clone(),
        steps,
        postconditions: plan.postconditions.clone(),
        monitors: plan.monitors.clone(),
        confirm_rollback: plan.confirm_rollback.clone(),
        before: now.restricted_to(&touched),
        after: catalog.restricted_to(&touched),
    };
    compiled.digest = compiled.computed_digest();
    Ok(compiled)
}

/// What is recorded of a plan that is in place already: no steps, for there is nothing to do and no way back. `verify`
/// compares the tables with `compiled`, where it is known that they are as that plan foresees. What has a condition that
/// does not hold was not made by anybody: it is waiting.
///
/// # Errors
/// Conditions that the server was not asked, or had no answer to.
pub fn baseline(
    plan: &ChangePlan,
    now: &CatalogSnapshot,
    compiled: Option<ExecutionPlan>,
) -> Result<ExecutionPlan, Vec<Diagnostic>> {
    let (changes, after) = match compiled {
        Some(compiled) => (compiled.changes, compiled.after),
        None => (waiting_now(plan, now)?, now.restricted_to(&BTreeSet::new())),
    };
    let mut recorded = ExecutionPlan {
        format: PLAN_FORMAT,
        name: plan.name.clone(),
        description: plan.description.clone(),
        digest: String::new(),
        changes,
        schema: Some(plan.schema.clone()),
        server_version_num: now.server.version_num,
        lock_deadline_ms: plan.settings.lock_deadline_ms,
        contention: plan.settings.contention,
        preconditions: Vec::new(),
        steps: Vec::new(),
        postconditions: plan.postconditions.clone(),
        monitors: plan.monitors.clone(),
        confirm_rollback: None,
        before: after.clone(),
        after,
    };
    recorded.digest = recorded.computed_digest();
    Ok(recorded)
}

/// The entries of a plan file, those that wait as things are with the reason.
fn waiting_now(plan: &ChangePlan, now: &CatalogSnapshot) -> Result<Vec<PlannedChange>, Vec<Diagnostic>> {
    let mut changes = planned_changes(plan);
    let mut complaints = Vec::new();
    for (planned, change) in changes.iter_mut().zip(&plan.changes) {
        match change.when.as_ref().map_or(Ok(None), |when| when.unmet(now)) {
            Ok(reason) => planned.waiting = reason,
            Err(complaint) => complaints.push(complaint),
        }
    }
    match complaints.is_empty() {
        true => Ok(changes),
        false => Err(complaints),
    }
}

/// The changes that are not in place, with their numbers.
fn open_changes<'a>(plan: &'a ChangePlan, in_place: &Numbers) -> impl Iterator<Item = (usize, &'a Change)> {
    let numbered = plan.changes.iter().enumerate();
    numbered
        .map(|(position, change)| (position + 1, change))
        .filter(|(number, _)| !in_place.contains(number))
}

/// The changes one after the other, each on the catalog that those before it leave.
struct Draft {
    catalog: CatalogSnapshot,
    steps: Vec<Step>,
    /// Why a change was left out, by its number.
    waiting: BTreeMap<usize, String>,
    /// What each renames, by its number.
    renamed: Vec<(usize, Rename)>,
    complaints: Vec<Diagnostic>,
}

fn compile(plan: &ChangePlan, now: &CatalogSnapshot, in_place: &Numbers) -> Draft {
    let mut draft = Draft {
        catalog: now.clone(),
        steps: Vec::new(),
        waiting: BTreeMap::new(),
        renamed: Vec::new(),
        complaints: Vec::new(),
    };
    draft.catalog.answers.clear();
    draft.catalog.trials.clear();
    let mut swapped = BTreeSet::new();
    for (number, change) in open_changes(plan, in_place) {
        match change.when.as_ref().map(|when| when.unmet(&draft.catalog)) {
            None | Some(Ok(None)) => draft.compile(number, change, now, &mut swapped),
            Some(Ok(Some(reason))) => drop(draft.waiting.insert(number, reason)),
            Some(Err(complaint)) => draft.complaints.push(complaint),
        }
    }
    draft
}

impl Draft {
    fn compile(
        &mut self,
        number: usize,
        change: &Change,
        now: &CatalogSnapshot,
        swapped: &mut BTreeSet<(QualifiedName, String)>,
    ) {
        // A catalog may be large, and only what follows a swap is compared with what was before.
        let before = (!swapped.is_empty()).then(|| self.catalog.clone());
        let compilation = Compilation {
            now,
            settings: &change.settings,
            span: change.span,
        };
        match change.operation.compile(&compilation, &mut self.catalog) {
            Ok(compiled) => {
                if let Some(before) = &before {
                    let conflicts = conflicts_with_swaps(change, swapped, before, &self.catalog);
                    self.complaints.extend(conflicts);
                    let joined = joined_swaps(change, swapped, &compiled.swaps, before);
                    self.complaints.extend(joined);
                }
                swapped.extend(compiled.swaps);
                let renames = compiled.renames.into_iter();
                self.renamed.extend(renames.map(|rename| (number, rename)));
                let drafts = compiled.drafts.into_iter();
                let catalogs = Catalogs {
                    now,
                    then: &self.catalog,
                };
                self.steps
                    .extend(drafts.map(|draft| step(number, change, draft, &catalogs)));
            }
            Err(found) => self.complaints.extend(found),
        }
    }
}

/// Even unvalidated, a CHECK or NOT NULL refuses every new version of a row that violates it: the application's, and
/// those that a backfill writes to repair it. Where the plan fills rows of the table, it comes after that.
fn check_after_backfills(steps: &mut [Step]) {
    let fills = |step: &&Step| {
        step.phase == Phase::Backfill
            && (step.operation == "sql" || matches!(step.work.action, Action::Backfill(_)))
    };
    let filled: BTreeSet<QualifiedName> = steps
        .iter()
        .filter(fills)
        .flat_map(|step| step.work.locks.iter().map(|lock| lock.relation.clone()))
        .collect();
    for step in steps {
        let locked = &mut step.work.locks.iter();
        if step.phase == Phase::Expand
            && adds_check(&step.work)
            && locked.any(|lock| filled.contains(&lock.relation))
        {
            step.phase = Phase::Validate;
        }
    }
}

fn adds_check(work: &Work) -> bool {
    let adds = |statement: &String| {
        let kind = |word| statement.contains(&format!(" {word} "));
        statement.starts_with("ALTER TABLE ")
            && statement.ends_with(" NOT VALID")
            && kind("ADD CONSTRAINT")
            && !kind("FOREIGN KEY")
    };
    let locks = |statement: &String| statement.starts_with("LOCK TABLE ");
    match &work.action {
        // A step that also adds what the backfill fills must stay before it.
        Action::Sql(statements) => {
            statements.iter().any(adds)
                && statements
                    .iter()
                    .all(|statement| adds(statement) || locks(statement))
        }
        _ => false,
    }
}

/// The entries of a plan file as a run remembers them.
pub fn planned_changes(plan: &ChangePlan) -> Vec<PlannedChange> {
    let planned = |change: &Change| PlannedChange {
        operation: change.operation.name().to_owned(),
        text: change.text.clone(),
        waiting: None,
        in_place: false,
    };
    plan.changes.iter().map(planned).collect()
}

fn step(number: usize, change: &Change, mut draft: StepDraft, catalogs: &Catalogs<'_>) -> Step {
    let operation = change.operation.name();
    if let Some(not_before) = &mut draft.work.not_before {
        not_before.step = format!("{number:02}-{operation}-{}", not_before.step);
    }
    locking::at_once(&mut draft.work, catalogs.now);
    locking::claim_below(&mut draft.work, catalogs);
    if let Undo::Work(works) = &mut draft.undo {
        for work in works {
            // The way back from statements of the user's own may begin without the tables.
            if operation != "sql" {
                locking::at_once(work, catalogs.now);
            }
            locking::claim_below(work, catalogs);
        }
    }
    Step {
        id: format!("{number:02}-{operation}-{}", draft.id),
        change: number,
        operation: operation.to_owned(),
        phase: draft.phase,
        work: draft.work,
        hazards: draft.hazards,
        undo: draft.undo,
        estimate: draft.estimate,
    }
}

fn preliminary_complaints(plan: &ChangePlan, now: &CatalogSnapshot) -> Vec<Diagnostic> {
    let mut complaints = Vec::new();
    if release::standing(now.server.version_num) == release::Standing::Older {
        complaints.push(
            Diagnostic::new(
                "server_too_old",
                format!(
                    "the server is PostgreSQL {}; {} is the oldest supported",
                    release::name(now.server.version_num),
                    release::OLDEST
                ),
            )
            .help("upgrade the server: older releases are out of support"),
        );
    }
    let deadlock_timeout = now.server.deadlock_timeout_ms;
    let longest = plan
        .changes
        .iter()
        .map(|change| (change.settings.lock_timeout_ms, change.span))
        .max_by_key(|(timeout, _)| *timeout)
        .filter(|(timeout, _)| *timeout >= deadlock_timeout);
    if let Some((timeout, span)) = longest {
        // At or above it, the server may resolve a deadlock with us by cancelling the application.
        complaints.push(
            Diagnostic::new(
                "lock_timeout_too_long",
                format!(
                    "lock_timeout {timeout}ms is not below the server's deadlock_timeout {deadlock_timeout}ms"
                ),
            )
            .at(span)
            .help(format!(
                "set `settings: {{lock_timeout: {}ms}}`",
                deadlock_timeout / 2
            )),
        );
    }
    complaints
}

/// A swapped column becomes another one at cutover, but changes of the expand phase after it in the file run before
/// that, on the column that goes away.
fn conflicts_with_swaps(
    change: &Change,
    swapped: &BTreeSet<(QualifiedName, String)>,
    before: &CatalogSnapshot,
    after: &CatalogSnapshot,
) -> Vec<Diagnostic> {
    let touches = |(table, column): &&(QualifiedName, String)| match (
        before.tables.get(table),
        after.tables.get(table),
    ) {
        (Some(before), Some(after)) => touches_column(before, after, column),
        _ => true,
    };
    let complaint = |(table, column): &(QualifiedName, String)| {
        Diagnostic::new(
            "column_is_swapped",
            format!(
                "an earlier change of this plan replaces {table}.{}, and this one touches it too",
                ident(column)
            ),
        )
        .at(change.span)
        .help("move it before that change, or into a plan of its own that runs afterwards")
    };
    swapped.iter().filter(touches).map(complaint).collect()
}

/// Two columns whose replacements would each be built on what the other one was: joined by a key, an index, a check or
/// a materialized view.
fn joined_swaps(
    change: &Change,
    swapped: &BTreeSet<(QualifiedName, String)>,
    swaps: &[(QualifiedName, String)],
    catalog: &CatalogSnapshot,
) -> Vec<Diagnostic> {
    let pairs = swaps
        .iter()
        .flat_map(|one| swapped.iter().map(move |other| (other, one)));
    let joined = pairs.filter_map(|(other, one)| Some((other, one, joint(catalog, other, one)?)));
    let complaint = |(other, one, joint): (&(QualifiedName, String), &(QualifiedName, String), String)| {
        let message = format!(
            "{joint} joins {}.{} with {}.{}, which an earlier change of this plan replaces",
            one.0,
            ident(&one.1),
            other.0,
            ident(&other.1)
        );
        Diagnostic::new("columns_are_joined", message)
            .at(change.span)
            .help("move it into a plan of its own that runs afterwards")
    };
    joined.map(complaint).collect()
}

fn joint(
    catalog: &CatalogSnapshot,
    one: &(QualifiedName, String),
    other: &(QualifiedName, String),
) -> Option<String> {
    let key = |from: &(QualifiedName, String), to: &(QualifiedName, String)| {
        let constraints = &catalog.tables.get(&from.0)?.constraints;
        let joins = constraints.iter().find(|(_, constraint)| {
            let reference = constraint.references.as_ref();
            constraint.columns.contains(&from.1)
                && reference.is_some_and(|it| it.table == to.0 && it.columns.contains(&to.1))
        });
        joins.map(|(name, _)| format!("foreign key {} of {}", ident(name), from.0))
    };
    let own = || {
        let table = catalog.tables.get(&one.0).filter(|_| one.0 == other.0)?;
        let indexes = table.indexes.iter();
        let index = indexes
            .filter(|(_, index)| index.mentions(&one.1) && index.mentions(&other.1))
            .map(|(name, _)| format!("index {}", ident(name)));
        let constraints = table.constraints.iter();
        let constraint = constraints
            .filter(|(_, it)| it.columns.contains(&one.1) && it.columns.contains(&other.1))
            .map(|(name, _)| format!("constraint {}", ident(name)));
        index.chain(constraint).next()
    };
    // Its replacement is built before either column is replaced.
    let view = || {
        let [one, other] = [one, other].map(|(table, column)| catalog.views_over(table, column));
        let is_materialized = |name: &&QualifiedName| catalog.views[*name].materialized;
        let shared = one.iter().find(|name| other.contains(name))?;
        let whole = one.iter().chain(&other);
        whole
            .copied()
            .any(|name| is_materialized(&name))
            .then(|| format!("view {shared}"))
    };
    key(one, other)
        .or_else(|| key(other, one))
        .or_else(own)
        .or_else(view)
}

fn touches_column(before: &Table, after: &Table, column: &str) -> bool {
    let gone = after.column(column).is_none();
    let new_index = after
        .indexes
        .iter()
        .any(|(name, index)| index.mentions(column) && before.indexes.get(name) != Some(index));
    let new_constraint = after.constraints.iter().any(|(name, constraint)| {
        constraint.columns.iter().any(|other| other == column)
            && before.constraints.get(name) != Some(constraint)
    });
    !gone && (before.column(column) != after.column(column) || new_index || new_constraint)
}

fn touched_tables(steps: &[Step], now: &CatalogSnapshot, after: &CatalogSnapshot) -> BTreeSet<QualifiedName> {
    let locked = steps
        .iter()
        .flat_map(|step| step.work.locks.iter().map(|lock| lock.relation.clone()));
    let mut touched: BTreeSet<_> = locked.filter(|name| now.tables.contains_key(name)).collect();
    for (name, table) in &now.tables {
        if after.tables.get(name) != Some(table) {
            touched.insert(name.clone());
        }
    }
    touched.extend(
        after
            .tables
            .keys()
            .filter(|name| !now.tables.contains_key(name))
            .cloned(),
    );
    touched
}

#[cfg(test)]
mod tests;
