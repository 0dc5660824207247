//! What the steps of a plan mean for those who receive what is written: subscribers get rows but no DDL, standbys get
//! all of it and may fall behind. Only said where somebody receives anything.

use crate::catalog::model::{CatalogSnapshot, Slot};
use crate::plan::{Action, Hazard, LockMode, Phase, Step};
use crate::sql::{QualifiedName, ident, idents};
use std::collections::BTreeSet;

pub(super) fn warn(steps: &mut [Step], now: &CatalogSnapshot) {
    warn_of_unseen_standbys(steps, now);
    if now.replication.slots.is_empty() {
        return;
    }
    warn_of_the_ledger(steps, now);
    let mut told = BTreeSet::new();
    for step in steps {
        let removes = step.phase == Phase::Contract;
        let changed: Vec<&QualifiedName> = changed_tables(step)
            .filter(|table| told.insert(((*table).clone(), removes)))
            .collect();
        let hazards: Vec<Hazard> = changed
            .into_iter()
            .filter_map(|table| subscribed(table, removes, now))
            .collect();
        step.hazards.extend(hazards);
    }
}

/// Tables whose definition the step changes, as far as its locks tell: what is only validated, filled or indexed keeps
/// weaker ones.
fn changed_tables(step: &Step) -> impl Iterator<Item = &QualifiedName> {
    let changes = matches!(step.work.action, Action::Sql(_));
    let locks = step.work.locks.iter();
    locks
        .filter(move |lock| changes && lock.mode == LockMode::AccessExclusive)
        .map(|lock| &lock.relation)
}

fn subscribed(table: &QualifiedName, removes: bool, now: &CatalogSnapshot) -> Option<Hazard> {
    let publications = publications_of(table, now);
    if publications.is_empty() {
        return None;
    }
    let names: Vec<&str> = publications.iter().map(String::as_str).collect();
    let order = match removes {
        true => "after this step, take away there what it takes away",
        false => "before this step, make there what it adds, and what it makes wider or optional",
    };
    Some(Hazard::new(
        "not_replicated",
        format!(
            "DDL is not replicated: {table} is published by {}, and {}; {order}",
            idents(&names),
            slots(now)
        ),
    ))
}

fn publications_of(table: &QualifiedName, now: &CatalogSnapshot) -> BTreeSet<String> {
    let Some(facts) = now.tables.get(table) else {
        return BTreeSet::new();
    };
    let whole = now
        .publications
        .iter()
        .filter(|(_, it)| it.all_tables || it.schemas.contains(&table.schema));
    let whole = whole.map(|(name, _)| name);
    facts.publications.keys().chain(whole).cloned().collect()
}

/// Which slots there are for subscribers. The server does not tell what a slot is read for.
fn slots(now: &CatalogSnapshot) -> String {
    let shown = |(name, slot): (&String, &Slot)| {
        let read = if slot.active {
            "read now"
        } else {
            "nobody reads it now"
        };
        let lost = match slot.failover || now.server.major() < 17 || now.replication.standbys.is_empty() {
            true => "",
            false => ", no failover slot",
        };
        format!("{} ({read}{lost})", ident(name))
    };
    let slots: Vec<String> = now.replication.slots.iter().map(shown).collect();
    let noun = if slots.len() == 1 { "slot" } else { "slots" };
    format!("the database has the logical {noun} {}", slots.join(", "))
}

/// A publication of all tables has those of the ledger too.
fn warn_of_the_ledger(steps: &mut [Step], now: &CatalogSnapshot) {
    let whole = now.publications.iter().filter(|(_, it)| it.all_tables);
    let names: Vec<&str> = whole.map(|(name, _)| name.as_str()).collect();
    let Some(first) = steps.first_mut().filter(|_| !names.is_empty()) else {
        return;
    };
    first.hazards.push(Hazard::new(
        "ledger_published",
        format!(
            "{} also publishes the tables in the schema pgmorph, which subscribers stop at where they do not have them: \
             pg_dump --schema-only --schema pgmorph makes them there",
            idents(&names)
        ),
    ));
}

fn warn_of_unseen_standbys(steps: &mut [Step], now: &CatalogSnapshot) {
    let replication = &now.replication;
    if !replication.hidden || replication.standbys.is_empty() {
        return;
    }
    let fills = |step: &&mut Step| matches!(step.work.action, Action::Backfill(_) | Action::Copy(_));
    let Some(first) = steps.iter_mut().find(fills) else {
        return;
    };
    let names: Vec<&str> = replication.standbys.iter().map(String::as_str).collect();
    first.hazards.push(Hazard::new(
        "standbys_unseen",
        format!(
            "role {} may not see how far standbys are, so nothing waits for them: {}; GRANT pg_read_all_stats TO {} mends \
             that",
            ident(&now.role.name),
            names.join(", "),
            ident(&now.role.name)
        ),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::model::{Publication, Published, Replication};
    use crate::ops::testing::{catalog, compile, table};

    fn hazards(now: &CatalogSnapshot, changes: &str) -> Vec<String> {
        let plan = compile(now, changes).unwrap();
        let of = |step: &Step| {
            let shown = step
                .hazards
                .iter()
                .map(|it| format!("{} {}: {}", step.phase, it.code, it.message));
            shown
                .filter(|it| it.contains("_replicated") || it.contains("ledger") || it.contains("unseen"))
                .collect::<Vec<_>>()
        };
        plan.steps.iter().flat_map(of).collect()
    }

    fn published() -> CatalogSnapshot {
        let mut facts = table(&["a bigint", "b text"]);
        facts.publications.insert("Feed".into(), Published::default());
        let mut now = catalog().with("t", facts).with("u", table(&["a bigint"]));
        let slot = Slot {
            active: true,
            failover: false,
        };
        now.replication.slots.insert("feed_1".into(), slot);
        now
    }

    const CHANGES: &str = "  - add_column: {table: t, column: c, type: text}\n  - drop_column: {table: t, column: b}\n  - add_column: {table: u, column: c, type: text}\n";

    #[test]
    fn subscribers_are_told_in_which_order() {
        insta::assert_snapshot!(hazards(&published(), CHANGES).join("\n"), @r#"
        expand not_replicated: DDL is not replicated: public.t is published by "Feed", and the database has the logical slot feed_1 (read now); before this step, make there what it adds, and what it makes wider or optional
        contract not_replicated: DDL is not replicated: public.t is published by "Feed", and the database has the logical slot feed_1 (read now); after this step, take away there what it takes away
        "#);
        let unread = CatalogSnapshot {
            replication: Replication::default(),
            ..published()
        };
        assert_eq!(hazards(&unread, CHANGES), [""; 0]);
    }

    #[test]
    fn a_publication_of_all_tables_has_the_ledger_too() {
        let mut now = published();
        let all = Publication {
            owner: "o".into(),
            all_tables: true,
            schemas: Vec::new(),
            updates: true,
            generated: false,
        };
        now.publications.insert("everything".into(), all);
        let found = hazards(&now, "  - add_column: {table: u, column: c, type: text}\n");
        insta::assert_snapshot!(found.join("\n"), @r"
        expand ledger_published: everything also publishes the tables in the schema pgmorph, which subscribers stop at where they do not have them: pg_dump --schema-only --schema pgmorph makes them there
        expand not_replicated: DDL is not replicated: public.u is published by everything, and the database has the logical slot feed_1 (read now); before this step, make there what it adds, and what it makes wider or optional
        ");
    }

    #[test]
    fn standbys_that_the_role_cannot_see_are_named() {
        let mut now = catalog().with("t", table(&["a bigint", "b text"]));
        now.replication.standbys.insert("east".into());
        let fill = "  - backfill: {table: t, set: {b: \"''\"}, needs: b IS NULL, no_undo: it was empty}\n";
        assert_eq!(hazards(&now, fill), [""; 0]);
        now.replication.hidden = true;
        insta::assert_snapshot!(hazards(&now, fill).join("\n"), @"backfill standbys_unseen: role postgres may not see how far standbys are, so nothing waits for them: east; GRANT pg_read_all_stats TO postgres mends that");
    }
}
