//! Columns that are swapped by one cutover: one alone, or one with columns that refer to it.
//!
//! Each is filled and proven behind its own trigger. The swap and its way back are one transaction each, in stages:
//! what one column brings along may rest on the other columns.

use super::{Shadow, refresh};
use crate::catalog::model::CatalogSnapshot;
use crate::ops::StepDraft;
use crate::ops::parts::carry::{Carry, Views};
use crate::ops::parts::conversion::Strictness;
use crate::ops::parts::{brief, lock_some_alone};
use crate::plan::{Estimate, Expectation, Hazard, Lock, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{QualifiedName, ident};
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
pub struct Group {
    /// Referencing ones first; the one that the change is about is the last.
    pub members: Vec<Shadow>,
    /// Over any of them.
    pub views: Views,
    /// What the swap locks, in that order.
    pub tables: Vec<QualifiedName>,
    /// Of these, those whose heirs have nothing to do with it.
    pub alone: BTreeSet<QualifiedName>,
}

/// The statement of several columns that is for all of them together.
fn once(statements: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    statements.filter(|it| seen.insert(it.clone())).collect()
}

impl Group {
    fn each(&self, of: impl Fn(&Shadow) -> Vec<String>) -> Vec<String> {
        once(self.members.iter().flat_map(of))
    }

    fn works(&self, of: impl Fn(&Shadow) -> Vec<Work>) -> impl Iterator<Item = Work> {
        self.members.iter().flat_map(of)
    }

    /// As the member tells its steps from those of others.
    fn drafts(&self, of: impl Fn(&Shadow) -> Vec<StepDraft>) -> Vec<StepDraft> {
        let named = |member: &Shadow| {
            let mut steps = of(member);
            for step in &mut steps {
                step.id = format!("{}{}", member.word, step.id);
            }
            steps
        };
        self.members.iter().flat_map(named).collect()
    }

    /// Whether no later member is in the same table.
    fn is_last_of_table(&self, member: &Shadow) -> bool {
        let last = self.members.iter().rfind(|it| it.table == member.table);
        last.is_some_and(|it| it.column.name == member.column.name)
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = self.drafts(|it| it.looks(settings));
        steps.extend(self.drafts(|it| vec![it.add(settings)]));
        steps.extend(self.drafts(|it| it.expand(settings)));
        steps.extend(self.drafts(|it| it.fills(settings)));
        steps.extend(self.drafts(|it| {
            let last = self.is_last_of_table(it);
            last.then(|| it.vacuums(settings)).flatten().into_iter().collect()
        }));
        steps.extend(self.drafts(|it| it.builds(settings)));
        steps.extend(self.drafts(|it| it.validate(settings)));
        steps.extend(self.drafts(|it| it.of_each(|carry| carry.constraints(settings))));
        steps.extend(self.views.steps(settings));
        steps.extend(self.drafts(|it| it.of_each(|carry| carry.last(settings))));
        steps.push(self.swap(settings));
        steps.extend(self.drafts(|it| it.of_each(|carry| carry.proofs(settings))));
        steps.extend(self.drafts(|it| {
            let mut members = self.members.iter().filter(|other| other.table == it.table);
            let wanted =
                members.any(|it| it.carries().any(Carry::has_statistics)) && self.is_last_of_table(it);
            let gather = wanted.then(|| it.analyze(Phase::Cutover, settings));
            gather.into_iter().collect()
        }));
        steps.extend(self.views.contract(settings));
        steps.extend(self.drafts(|it| it.of_each(|carry| carry.contract(settings))));
        steps.extend(self.drafts(|it| vec![it.drop_old(settings)]));
        for member in &self.members {
            member.mark_parts(&mut steps);
        }
        steps
    }

    /// The columns, in words.
    fn columns(&self) -> String {
        let name = |it: &Shadow| format!("{}.{}", it.table, ident(&it.column.name));
        let names: Vec<String> = self.members.iter().map(name).collect();
        let word = if names.len() > 1 { "columns" } else { "column" };
        format!("{word} {}", names.join(", "))
    }

    fn data_types(&self, of: impl Fn(&Shadow) -> &str) -> String {
        let mut types: Vec<&str> = self.members.iter().map(of).collect();
        types.sort_unstable();
        types.dedup();
        types.join(" and ")
    }

    /// One transaction under ACCESS EXCLUSIVE; all its waits together take no longer than one may.
    fn at_once(
        &self,
        settings: &Settings,
        summary: String,
        (forwards, rest): (bool, Vec<String>),
        expect: Vec<Expectation>,
    ) -> Work {
        let mut statements = self.views.leave(forwards);
        statements.push(lock_some_alone(&self.tables, |table| self.alone.contains(table)));
        statements.extend(rest);
        let tables = self.tables.iter().flat_map(|table| self.locks_on(table));
        let locks = self.views.locks().chain(tables).collect();
        let mut work = brief(settings, summary, statements, locks, expect);
        let waits = self.views.waits();
        work.timeouts.lock_ms = work.timeouts.lock_ms.map(|ms| (ms / waits).max(1));
        work
    }

    /// With what is below.
    fn locks_on(&self, table: &QualifiedName) -> Vec<Lock> {
        let member = self.members.iter().find(|it| it.table == *table);
        member.map_or_else(
            || vec![Lock::new(table, LockMode::AccessExclusive)],
            |member| member.lock(),
        )
    }

    fn swap(&self, settings: &Settings) -> StepDraft {
        let mut rest = self.each(|it| it.welcome_tables(settings));
        rest.extend(self.each(|it| it.drop_sync("sync")));
        rest.extend(self.each(|it| it.carries().flat_map(Carry::leave_links).collect()));
        rest.extend(self.each(Shadow::leave));
        rest.extend(self.each(Shadow::swap_there_statements));
        rest.extend(self.each(Shadow::arrive));
        rest.extend(self.views.arrive(true));
        rest.extend(self.each(Shadow::reverse_sync));
        rest.extend(self.each(|it| refresh(&it.trigger_functions).collect()));
        let mut expect: Vec<_> = self.members.iter().flat_map(Shadow::swap_expect).collect();
        expect.extend(self.views.expect());
        let mut hazards: Vec<Hazard> = self
            .members
            .iter()
            .flat_map(|it| it.swap_hazards(settings))
            .collect();
        hazards.extend(self.views.hazards());
        let summary = format!(
            "make the {} {}",
            self.data_types(|it| &it.new_type),
            self.columns()
        );
        StepDraft {
            id: "swap".into(),
            phase: Phase::Cutover,
            work: self.at_once(settings, summary, (true, rest), expect),
            hazards,
            undo: Undo::Work(self.unswap(settings)),
            estimate: Estimate::INSTANT,
        }
    }

    fn unswap(&self, settings: &Settings) -> Vec<Work> {
        let mut works: Vec<Work> = self.works(|it| vec![it.look_back(settings)]).collect();
        works.extend(self.works(|it| it.works_of_each(|carry| carry.fits(settings))));
        works.extend(self.works(|it| it.guards(settings)));
        works.extend(self.works(|it| it.works_of_each(|carry| carry.rebuild(settings))));
        works.extend(self.works(|it| it.works_of_each(|carry| carry.incoming_back(settings))));
        works.extend(self.views.before_back(settings));
        works.push(self.swap_back(settings));
        works.extend(self.works(|it| it.works_of_each(|carry| carry.after_back(settings))));
        works
    }

    fn swap_back(&self, settings: &Settings) -> Work {
        let mut rest = self.each(|it| it.welcome_tables(settings));
        rest.extend(self.each(|it| it.drop_sync("back")));
        rest.extend(self.each(|it| it.carries().flat_map(Carry::leave_links).collect()));
        rest.extend(self.each(Shadow::leave_back));
        rest.extend(self.each(Shadow::swap_back_statements));
        rest.extend(self.each(Shadow::arrive_back));
        rest.extend(self.each(|it| it.carries().flat_map(Carry::arrive_back_links).collect()));
        rest.extend(self.views.arrive(false));
        // Nobody is going to read the new type any more: no write is to fail because of it.
        rest.extend(self.each(|it| it.forward_sync(Strictness::Lenient)));
        rest.extend(self.each(|it| refresh(&it.trigger_functions).collect()));
        let expect = self.members.iter().map(Shadow::back_expect).collect();
        let summary = format!(
            "make the {} {} again",
            self.data_types(|it| &it.column.data_type),
            self.columns()
        );
        self.at_once(settings, summary, (false, rest), expect)
    }

    pub fn swaps(&self) -> Vec<(QualifiedName, String)> {
        let swapped = |it: &Shadow| (it.table.clone(), it.column.name.clone());
        self.members.iter().map(swapped).collect()
    }

    /// The end state: in each table these columns are the last ones.
    pub fn apply(&self, catalog: &mut CatalogSnapshot) {
        for member in &self.members {
            member.apply(catalog);
        }
    }
}
