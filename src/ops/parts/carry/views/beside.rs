//! Views that are built beside the old ones, filled, and swapped in by their names: what materialized ones need.
//!
//! The server itself reads the definitions for the new column: for an instant, within one transaction and unseen, the
//! columns and views have the names that they will have after the cutover. The old views stay until contract; a
//! rollback gives them their names back.

use super::{Views, guard, kind};
use crate::catalog::model::View;
use crate::diagnostic::{Diagnostic, Span};
use crate::ops::parts::index_build::free_index_name;
use crate::ops::parts::shadow::Move;
use crate::ops::parts::{brief, lock_statement, locks, shadow};
use crate::ops::{Context, StepDraft};
use crate::plan::{Action, Estimate, Hazard, LockMode, Phase, Settings, Transaction, Undo, Work};
use crate::sql::{QualifiedName, ident};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What a view, or an index of a materialized one, is called.
#[derive(Debug, Clone, Copy)]
pub enum Called {
    ByItsName,
    New,
    Old,
}

impl Called {
    pub fn name(self, name: &str) -> String {
        match self {
            Self::ByItsName => name.to_owned(),
            Self::New => shadow::name(name, "new"),
            Self::Old => shadow::name(name, "old"),
        }
    }

    fn qualified(self, name: &QualifiedName) -> QualifiedName {
        name.sibling(self.name(&name.name))
    }
}

fn rename(name: &QualifiedName, view: &View, from: Called, to: Called) -> String {
    format!(
        "ALTER {} {} RENAME TO {}",
        kind(view).to_uppercase(),
        from.qualified(name),
        ident(&to.name(&name.name))
    )
}

fn rename_indexes(name: &QualifiedName, view: &View, from: Called, to: Called) -> Vec<String> {
    let rename = |index: &String| {
        format!(
            "ALTER INDEX {} RENAME TO {}",
            name.sibling(from.name(index)),
            ident(&to.name(index))
        )
    };
    view.indexes.keys().map(rename).collect()
}

impl Views {
    /// Whether one is materialized.
    pub fn is_beside(&self) -> bool {
        self.views.iter().any(|(_, view)| view.materialized)
    }

    pub fn complain_beside(&self, context: &Context<'_>, span: Span, complaints: &mut Vec<Diagnostic>) {
        let mut unfilled: BTreeSet<&QualifiedName> = BTreeSet::new();
        for (name, view) in &self.views {
            let reads_unfilled = view.uses.iter().any(|(used, _)| unfilled.contains(used));
            if reads_unfilled || !view.populated {
                unfilled.insert(name);
            }
            let mut why = self.obstacle_beside(context, view);
            if view.materialized && view.populated && reads_unfilled {
                why = Some("it reads one that is not filled".into());
            }
            if let Some(why) = why {
                let message = format!("a shadow column cannot carry {} {name}: {why}", kind(view));
                complaints.push(Diagnostic::new("cannot_widen_yet", message).at(span));
            }
            let relations = std::iter::once(&name.name).chain(view.indexes.keys());
            for relation in relations {
                for called in [Called::New, Called::Old] {
                    let taken = free_index_name(context, &name.sibling(called.name(relation)), span);
                    complaints.extend(taken.err());
                }
            }
        }
    }

    fn obstacle_beside(&self, context: &Context<'_>, view: &View) -> Option<String> {
        let moves = |(table, constraint): &&(QualifiedName, String)| {
            let facts = context.catalog.tables.get(table);
            let facts = facts.and_then(|it| it.constraints.get(constraint));
            facts.is_none_or(|it| self.moves.touch(table, &it.columns))
        };
        if let Some((_, key)) = view.keys.iter().find(moves) {
            return Some(format!(
                "it groups by {}, which the new column has only from the cutover on",
                ident(key)
            ));
        }
        let invalid = view.indexes.iter().find(|(_, index)| !index.valid);
        invalid.map(|(index, _)| format!("its index {} is INVALID", ident(index)))
    }

    /// Whoever reads one has it locked before what it reads, hence the last one first.
    pub fn put_away(&self, to: Called) -> Vec<String> {
        let away = |(name, view): &(QualifiedName, View)| {
            let mut statements = vec![rename(name, view, Called::ByItsName, to)];
            statements.extend(rename_indexes(name, view, Called::ByItsName, to));
            statements
        };
        self.views.iter().rev().flat_map(away).collect()
    }

    pub fn bring(&self, from: Called) -> Vec<String> {
        let back = |(name, view): &(QualifiedName, View)| {
            let mut statements = vec![rename(name, view, from, Called::ByItsName)];
            statements.extend(rename_indexes(name, view, from, Called::ByItsName));
            statements
        };
        self.views.iter().flat_map(back).collect()
    }

    fn rename_columns(
        &self,
        first: [fn(&Move) -> &str; 2],
        second: [fn(&Move) -> &str; 2],
    ) -> impl Iterator<Item = String> {
        let rename = |it: &Move, [from, to]: [fn(&Move) -> &str; 2]| {
            format!(
                "ALTER TABLE {} RENAME COLUMN {} TO {}",
                it.table,
                ident(from(it)),
                ident(to(it))
            )
        };
        let moves = self.moves.tops();
        moves.flat_map(move |it| [rename(it, first), rename(it, second)])
    }

    /// Their indexes get names of ours at once, which are free, so that only the views have to step aside.
    fn build(&self) -> Vec<String> {
        let all = |from, to| {
            let rename = move |(name, view): &(QualifiedName, View)| rename(name, view, from, to);
            self.views.iter().map(rename).collect::<Vec<_>>()
        };
        let back = |mut statements: Vec<String>| {
            statements.reverse();
            statements
        };
        let column: fn(&Move) -> &str = |it| &it.column;
        let old: fn(&Move) -> &str = |it| &it.names.old;
        let new: fn(&Move) -> &str = |it| &it.names.shadow;
        let mut statements = vec![guard::unchanged(&self.views, true)];
        statements.extend(back(all(Called::ByItsName, Called::Old)));
        statements.push(lock_statement(&self.tables));
        statements.extend(self.rename_columns([column, old], [new, column]));
        statements.extend(self.make());
        statements.extend(back(all(Called::ByItsName, Called::New)));
        statements.extend(all(Called::Old, Called::ByItsName));
        statements.extend(self.rename_columns([column, new], [old, column]));
        statements
    }

    fn drops(&self, called: Called, word: &str) -> Vec<String> {
        let drop = |(name, view): &(QualifiedName, View)| {
            let kind = kind(view).to_uppercase();
            format!("DROP {kind}{word} {}", called.qualified(name))
        };
        self.views.iter().rev().map(drop).collect()
    }

    fn filled(&self) -> impl Iterator<Item = &QualifiedName> {
        let filled = |(_, view): &&(QualifiedName, View)| view.materialized && view.populated;
        self.views.iter().filter(filled).map(|(name, _)| name)
    }

    fn list(&self) -> String {
        let names: Vec<String> = self.views.iter().map(|(name, _)| name.to_string()).collect();
        names.join(", ")
    }

    /// Of views that nobody else knows: they may be locked for as long as it takes.
    fn refresh(&self, called: Called, settings: &Settings) -> Option<Work> {
        let names: Vec<QualifiedName> = self.filled().map(|name| called.qualified(name)).collect();
        let statements: Vec<String> = names
            .iter()
            .flat_map(|name| {
                [
                    format!("REFRESH MATERIALIZED VIEW {name}"),
                    format!("ANALYZE {name}"),
                ]
            })
            .collect();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        (!names.is_empty()).then(|| Work {
            summary: format!("fill {}", names.join(", ")),
            action: Action::Sql(statements),
            transaction: Transaction::Single,
            locks: locks(&self.tables, LockMode::AccessShare),
            timeouts: settings.patient(),
            expect: Vec::new(),
            on_violation: None,
            guards_values: false,
            part: None,
            not_before: None,
        })
    }

    /// The replacements: made and filled ahead, and filled once more right before the cutover.
    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        if !self.is_beside() {
            return Vec::new();
        }
        let mut work = brief(
            settings,
            format!("make the replacements of {}", self.list()),
            self.build(),
            self.locks()
                .chain(locks(&self.tables, LockMode::AccessExclusive))
                .collect(),
            Vec::new(),
        );
        work.timeouts.lock_ms = work.timeouts.lock_ms.map(|ms| (ms / self.waits()).max(1));
        let mut steps = vec![StepDraft {
            id: "views".into(),
            phase: Phase::Validate,
            work,
            hazards: Vec::new(),
            undo: Undo::Work(vec![brief(
                settings,
                format!("drop the replacements of {}", self.list()),
                self.drops(Called::New, " IF EXISTS"),
                Vec::new(),
                Vec::new(),
            )]),
            estimate: Estimate::INSTANT,
        }];
        let fill = |id: &str, phase| {
            Some(StepDraft {
                id: id.into(),
                phase,
                work: self.refresh(Called::New, settings)?,
                hazards: Vec::new(),
                undo: Undo::NotNeeded {
                    reason: "the replacements go away".into(),
                },
                estimate: Estimate::scan(self.rows, self.bytes, 0),
            })
        };
        steps.extend(fill("views_fill", Phase::Validate));
        steps.extend(fill("views_refresh", Phase::Cutover));
        steps
    }

    pub fn hazards(&self) -> Vec<Hazard> {
        let names: Vec<String> = self.filled().map(ToString::to_string).collect();
        if names.is_empty() {
            return Vec::new();
        }
        vec![Hazard::new(
            "materialized_views",
            format!(
                "from the cutover on {} have the data of the refresh that the cutover phase begins with, and after a \
                 rollback of one within it: a REFRESH of the application since then has to be repeated, and so has \
                 ours where the cutover was held up in between. While the application's runs, the cutover waits",
                names.join(", ")
            ),
        )]
    }

    /// What a rollback does before it gives the old ones their names back.
    pub fn before_back(&self, settings: &Settings) -> Option<Work> {
        self.refresh(Called::Old, settings)
    }

    pub fn contract(&self, settings: &Settings) -> Option<StepDraft> {
        self.is_beside().then(|| StepDraft {
            id: "drop_views".into(),
            phase: Phase::Contract,
            work: brief(
                settings,
                format!("drop what {} were before", self.list()),
                self.drops(Called::Old, ""),
                Vec::new(),
                Vec::new(),
            ),
            hazards: Vec::new(),
            undo: Undo::Irreversible {
                reason: "the old column is about to go".into(),
            },
            estimate: Estimate::INSTANT,
        })
    }

    /// As `pg_identify_object_as_address` has what hangs on the one column or the other through them.
    pub fn addresses(&self) -> Vec<Value> {
        if !self.is_beside() {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (name, view) in &self.views {
            for called in [Called::New, Called::Old] {
                let relation = called.name(&name.name);
                let rules = view.rules.keys().map(String::as_str);
                let rules = rules.chain(std::iter::once("_RETURN"));
                found.extend(rules.map(|rule| json!(["rule", name.schema, relation, rule])));
            }
        }
        found
    }
}
