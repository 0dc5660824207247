//! What a plan claims, and what its run was seen to do: the difference is an error of ours.

use super::trace::{Evidence, SeenLock, Statement};
use crate::plan::{Action, DurationClass, ExecutionPlan, Lock, LockMode, Step, Undo, Work};
use crate::sql::{OWN_PREFIX, QualifiedName};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// In what claim and trace differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "difference")]
pub enum What {
    /// A lock that is not claimed, or only a weaker one.
    UnclaimedLock {
        relation: QualifiedName,
        mode: LockMode,
        #[serde(skip_serializing_if = "Option::is_none")]
        claimed: Option<LockMode>,
    },
    /// A lock that is claimed and was not taken, or only a weaker one.
    UnseenLock {
        relation: QualifiedName,
        mode: LockMode,
        #[serde(skip_serializing_if = "Option::is_none")]
        seen: Option<LockMode>,
    },
    /// Rows were written anew without a word about it.
    UnclaimedRewrite { relation: QualifiedName },
    /// An index was built anew without a word about it.
    UnclaimedRebuild { relation: QualifiedName },
    /// A table was read from end to end without a word about it.
    UnclaimedScan { relation: QualifiedName },
}

/// One difference, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub step: String,
    /// Seen while the step was undone.
    pub undo: bool,
    #[serde(flatten)]
    pub what: What,
    /// The statement that did it, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnclaimedLock {
                relation,
                mode,
                claimed: None,
            } => write!(f, "took {mode} on {relation}, which the plan does not claim"),
            Self::UnclaimedLock {
                relation,
                mode,
                claimed: Some(claimed),
            } => write!(f, "took {mode} on {relation}, where the plan claims {claimed}"),
            Self::UnseenLock {
                relation,
                mode,
                seen: None,
            } => write!(f, "did not take {mode} on {relation}, which the plan claims"),
            Self::UnseenLock {
                relation,
                mode,
                seen: Some(seen),
            } => write!(f, "took {seen} on {relation}, where the plan claims {mode}"),
            Self::UnclaimedRewrite { relation } => {
                write!(f, "rewrote {relation}, which the plan does not claim")
            }
            Self::UnclaimedRebuild { relation } => {
                write!(
                    f,
                    "built the index {relation} anew, which the plan does not claim"
                )
            }
            Self::UnclaimedScan { relation } => {
                write!(f, "read all of {relation}, which the plan does not claim")
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let undo = if self.undo { " (undone)" } else { "" };
        write!(f, "{}{undo} {}", self.step, self.what)
    }
}

/// What was there, and whether it is an index, by the step and whether it was undone.
pub type There = BTreeMap<(String, bool), BTreeMap<QualifiedName, bool>>;

/// Everything in which the statements differ from what the plan claims for its steps and their undoing.
pub fn differences(plan: &ExecutionPlan, statements: &[Statement], there: &There) -> Vec<Difference> {
    let mut found = Vec::new();
    for step in &plan.steps {
        for undo in [false, true] {
            let of_step: Vec<&Statement> = statements
                .iter()
                .filter(|it| it.step == step.id && it.undo == undo)
                .collect();
            let nothing = BTreeMap::new();
            let there = there.get(&(step.id.clone(), undo)).unwrap_or(&nothing);
            for (works, seen) in by_work(step, undo, &of_step) {
                let mut place = Place {
                    step,
                    undo,
                    works,
                    seen,
                    there,
                    found: &mut found,
                };
                place.compare();
            }
        }
    }
    found
}

/// The statements of each work by itself; those that are of none, like a batch, go with the first that has such.
fn by_work<'a>(
    step: &'a Step,
    undo: bool,
    statements: &[&'a Statement],
) -> Vec<(Vec<&'a Work>, Vec<&'a Statement>)> {
    if statements.is_empty() {
        return Vec::new();
    }
    let works: Vec<&Work> = match (&step.undo, undo) {
        (_, false) => vec![&step.work],
        (Undo::Work(works), true) => works.iter().collect(),
        _ => Vec::new(),
    };
    if works.len() < 2 {
        return vec![(works, statements.to_vec())];
    }
    let mut groups: BTreeMap<Option<usize>, Vec<&Statement>> = BTreeMap::new();
    for transaction in statements.chunk_by(|a, b| a.transaction == b.transaction) {
        // Some statements are of several works; the one that has most of them, and least besides, it is.
        let score = |(position, work): (usize, &&Work)| {
            let Action::Sql(texts) = &work.action else {
                return None;
            };
            let sent = |text: &&String| transaction.iter().any(|it| it.sql.contains(text.as_str()));
            let found = texts.iter().filter(sent).count();
            (found > 0).then_some(((found, Reverse(texts.len())), position))
        };
        let best = works
            .iter()
            .enumerate()
            .filter_map(score)
            .max_by_key(|(score, _)| *score);
        let work = best.map(|(_, position)| position);
        groups.entry(work).or_default().extend(transaction);
    }
    let of = |(work, statements): (Option<usize>, Vec<&'a Statement>)| match work {
        Some(work) => (vec![works[work]], statements),
        None => (works.clone(), statements),
    };
    groups.into_iter().map(of).collect()
}

struct Place<'a> {
    step: &'a Step,
    undo: bool,
    /// Those that it may be a part of.
    works: Vec<&'a Work>,
    seen: Vec<&'a Statement>,
    there: &'a BTreeMap<QualifiedName, bool>,
    found: &'a mut Vec<Difference>,
}

/// The strongest of each relation.
fn strongest<'a>(
    locks: impl Iterator<Item = (&'a QualifiedName, LockMode)>,
) -> BTreeMap<&'a QualifiedName, LockMode> {
    let mut found = BTreeMap::new();
    for (relation, mode) in locks {
        let held = found.entry(relation).or_insert(mode);
        *held = mode.max(*held);
    }
    found
}

impl Place<'_> {
    fn tell(&mut self, what: What, statement: Option<&Statement>) {
        self.found.push(Difference {
            step: self.step.id.clone(),
            undo: self.undo,
            what,
            statement: statement.map(|it| it.sql.clone()),
        });
    }

    /// Rows are read and written, whatever the application has in triggers and foreign keys.
    fn touches_rows(&self) -> bool {
        self.works
            .iter()
            .any(|work| !matches!(work.action, Action::Sql(_)))
    }

    /// What the body of a function or a rule names is looked at when it is made.
    fn has_body(sql: &str) -> bool {
        let sql = sql.trim_start().to_ascii_uppercase();
        let made = sql
            .strip_prefix("CREATE ")
            .map(|it| it.strip_prefix("OR REPLACE ").unwrap_or(it));
        ["FUNCTION ", "PROCEDURE ", "RULE "]
            .iter()
            .any(|word| made.is_some_and(|it| it.starts_with(word)))
    }

    /// Nobody else knows what has a name of ours.
    fn is_ours(relation: &QualifiedName) -> bool {
        relation.name.starts_with(OWN_PREFIX)
    }

    /// A backfill vacuums its table between batches, and stands aside for whoever is in the way of that.
    fn fills(&self, table: &QualifiedName) -> bool {
        let fills = |work: &&Work| matches!(&work.action, Action::Backfill(fill) if fill.table == *table);
        self.works.iter().any(fills)
    }

    fn compare(&mut self) {
        let works = self.works.clone();
        let claims = strongest(
            works
                .iter()
                .flat_map(|work| &work.locks)
                .map(|Lock { relation, mode }| (relation, *mode)),
        );
        let seen = self.seen.clone();
        let mut told = BTreeSet::new();
        for statement in &seen {
            for lock in &statement.locks {
                let claimed = claims.get(&lock.relation).copied();
                let by_body = lock.mode <= LockMode::RowExclusive && Self::has_body(&statement.sql);
                // A concurrent drop or rebuild takes the strongest lock on an index that nobody can use any more.
                let unusable = statement.evidence == Evidence::Watched && lock.of.is_some();
                if by_body
                    || unusable
                    || Self::is_ours(&lock.relation)
                    || self.is_covered(lock, claimed, &claims)
                    || !told.insert((&lock.relation, lock.mode))
                {
                    continue;
                }
                let what = What::UnclaimedLock {
                    relation: lock.relation.clone(),
                    mode: lock.mode,
                    claimed,
                };
                self.tell(what, Some(statement));
            }
        }
        self.unseen(&claims, &seen);
        self.effects(&seen);
    }

    /// Readers hold ACCESS SHARE too. What is locked of an index, or of a column's sequence, that lets everybody through, or
    /// is no more than the lock on its table, goes without saying; so does what writing rows takes beside the table.
    fn is_covered(
        &self,
        lock: &SeenLock,
        claimed: Option<LockMode>,
        claims: &BTreeMap<&QualifiedName, LockMode>,
    ) -> bool {
        let of_table = lock.of.as_ref().and_then(|table| claims.get(table).copied());
        lock.mode == LockMode::AccessShare
            || claimed.max(of_table) >= Some(lock.mode)
            || (lock.of.is_some() && !lock.mode.blocks_writes())
            || (self.touches_rows() && lock.mode <= LockMode::RowExclusive)
            || (self.fills(&lock.relation) && lock.mode == LockMode::ShareUpdateExclusive)
    }

    fn unseen(&mut self, claims: &BTreeMap<&QualifiedName, LockMode>, statements: &[&Statement]) {
        // Where there are no rows, none are read or written.
        if self.touches_rows() || self.works.len() != 1 {
            return;
        }
        let locks = statements.iter().flat_map(|it| &it.locks);
        let seen = strongest(locks.map(|lock| (&lock.relation, lock.mode)));
        for (relation, mode) in claims {
            let taken = seen.get(relation).copied();
            let weak = self.there.get(*relation) == Some(&true) && !mode.blocks_writes();
            if taken < Some(*mode) && self.there.contains_key(*relation) && !weak {
                let what = What::UnseenLock {
                    relation: (*relation).clone(),
                    mode: *mode,
                    seen: taken,
                };
                self.tell(what, None);
            }
        }
    }

    /// A step claims with its estimate that it reads or writes a table, there and back; and one that is instant may still
    /// have a way back that reads where that blocks nobody, or of which a hazard tells that it rewrites.
    fn effects(&mut self, statements: &[&Statement]) {
        let estimated = self.step.estimate.duration != DurationClass::Instant;
        let told = |code: &str| self.step.hazards.iter().any(|hazard| hazard.code == code);
        if estimated || self.touches_rows() || (self.undo && told("undo_rewrites")) {
            return;
        }
        for statement in statements {
            let others = |relation: &&QualifiedName| !Self::is_ours(relation);
            for relation in statement.rewrites.iter().filter(others) {
                let what = What::UnclaimedRewrite {
                    relation: relation.clone(),
                };
                self.tell(what, Some(statement));
            }
            for relation in statement.rebuilds_indexes.iter().filter(others) {
                let what = What::UnclaimedRebuild {
                    relation: relation.clone(),
                };
                self.tell(what, Some(statement));
            }
            for relation in statement.scans.iter().filter(others) {
                let blocks = |it: &&Statement| {
                    it.transaction == statement.transaction
                        && it
                            .locks
                            .iter()
                            .any(|lock| lock.relation == *relation && lock.mode.blocks_writes())
                };
                if !self.undo || statements.iter().copied().any(|it| blocks(&it)) {
                    let what = What::UnclaimedScan {
                        relation: relation.clone(),
                    };
                    self.tell(what, Some(statement));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, compile, table};

    fn plan() -> ExecutionPlan {
        let changes = "  - set_default: {table: t, column: a, default: \"1\"}\n";
        compile(&catalog().with("t", table(&["a bigint"])), changes).unwrap()
    }

    fn name(name: &str) -> QualifiedName {
        QualifiedName::new("public", name)
    }

    fn lock(relation: &str, mode: LockMode, of: Option<&str>) -> SeenLock {
        SeenLock {
            relation: name(relation),
            kind: if of.is_some() { 'i' } else { 'r' },
            mode,
            of: of.map(name),
        }
    }

    fn seen(plan: &ExecutionPlan, locks: Vec<SeenLock>) -> Statement {
        Statement {
            step: plan.steps[0].id.clone(),
            undo: false,
            transaction: 1,
            sql: "ALTER TABLE t".into(),
            evidence: Evidence::Transaction,
            locks,
            rewrites: BTreeSet::new(),
            scans: BTreeSet::new(),
            rebuilds_indexes: BTreeSet::new(),
            took_us: 0,
            held_us: 0,
            wal_bytes: 0,
            temp_bytes: None,
        }
    }

    fn told(plan: &ExecutionPlan, statement: Statement) -> Vec<String> {
        let there = There::from([(
            (plan.steps[0].id.clone(), false),
            BTreeMap::from([(name("t"), false), (name("u"), false), (name("t_pkey"), true)]),
        )]);
        let found = differences(plan, &[statement], &there);
        found.iter().map(|it| it.what.to_string()).collect()
    }

    #[test]
    fn a_true_claim_is_no_difference() {
        let plan = plan();
        let locks = vec![
            lock("t", LockMode::AccessExclusive, None),
            lock("t_pkey", LockMode::AccessExclusive, Some("t")),
            lock("u", LockMode::AccessShare, None),
        ];
        assert_eq!(told(&plan, seen(&plan, locks)), [""; 0]);
    }

    #[test]
    fn a_falsified_claim_is_told() {
        let mut weaker = plan();
        weaker.steps[0].work.locks[0].mode = LockMode::ShareUpdateExclusive;
        let taken = || vec![lock("t", LockMode::AccessExclusive, None)];
        assert_eq!(
            told(&weaker, seen(&weaker, taken())),
            ["took ACCESS EXCLUSIVE on public.t, where the plan claims SHARE UPDATE EXCLUSIVE"]
        );
        let mut more = plan();
        more.steps[0]
            .work
            .locks
            .push(Lock::new(&name("u"), LockMode::Share));
        assert_eq!(
            told(&more, seen(&more, taken())),
            ["did not take SHARE on public.u, which the plan claims"]
        );
        let mut none = plan();
        none.steps[0].work.locks.clear();
        assert_eq!(
            told(&none, seen(&none, taken())),
            ["took ACCESS EXCLUSIVE on public.t, which the plan does not claim"]
        );
        // What is not there yet cannot be seen to be locked.
        let mut new = plan();
        new.steps[0]
            .work
            .locks
            .push(Lock::new(&name("new"), LockMode::Share));
        assert_eq!(told(&new, seen(&new, taken())), [""; 0]);
    }

    #[test]
    fn an_index_is_no_more_than_its_table_unless_it_blocks() {
        let mut plan = plan();
        plan.steps[0].work.locks[0].mode = LockMode::ShareUpdateExclusive;
        let table = || lock("t", LockMode::ShareUpdateExclusive, None);
        let quiet = vec![table(), lock("t_pkey", LockMode::RowExclusive, Some("t"))];
        assert_eq!(told(&plan, seen(&plan, quiet)), [""; 0]);
        let loud = vec![table(), lock("t_pkey", LockMode::AccessExclusive, Some("t"))];
        assert_eq!(
            told(&plan, seen(&plan, loud)),
            ["took ACCESS EXCLUSIVE on public.t_pkey, which the plan does not claim"]
        );
    }

    #[test]
    fn what_is_said_to_be_instant_reads_and_writes_nothing() {
        let plan = plan();
        let mut statement = seen(&plan, vec![lock("t", LockMode::AccessExclusive, None)]);
        statement.scans.insert(name("t"));
        statement.rewrites.insert(name("t"));
        statement.rebuilds_indexes.insert(name("t_pkey"));
        assert_eq!(
            told(&plan, statement),
            [
                "rewrote public.t, which the plan does not claim",
                "built the index public.t_pkey anew, which the plan does not claim",
                "read all of public.t, which the plan does not claim",
            ]
        );
    }
}
