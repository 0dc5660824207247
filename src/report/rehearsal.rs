//! What a rehearsal has shown: for people, as JSON, and for a pull request.

use super::plan_human::{lines, table};
use super::{safe, style};
use crate::plan::{Lock, Step};
use crate::rehearse::Rehearsal;
use crate::rehearse::compare::Difference;
use crate::rehearse::durations::{self, Guess, Sizes};
use crate::rehearse::rows::{Filled, Origin};
use crate::rehearse::trace::{self, Evidence, SeenLock, Statement};
use crate::sql::QualifiedName;
use crate::units;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A rehearsal, and on what.
pub struct Shown<'a> {
    pub rehearsal: &'a Rehearsal,
    /// Of the server that was thrown away.
    pub server: String,
    /// Where the schema came from, in words.
    pub source: String,
    pub filled: &'a [Filled],
    /// What of the schema could not be built.
    pub left_out: &'a [String],
    pub here: &'a Sizes,
    /// The real sizes; empty where nobody knows them.
    pub there: &'a Sizes,
}

/// A step, or its undoing, with all that was seen of it.
struct Seen<'a> {
    step: &'a Step,
    undo: bool,
    statements: Vec<&'a Statement>,
}

impl Seen<'_> {
    /// The strongest on each relation, those of indexes that block nobody left out.
    fn locks(&self) -> Vec<&SeenLock> {
        let mut found: BTreeMap<&QualifiedName, &SeenLock> = BTreeMap::new();
        for lock in self.statements.iter().flat_map(|it| &it.locks) {
            let held = found.entry(&lock.relation).or_insert(lock);
            if lock.mode > held.mode {
                *held = lock;
            }
        }
        found
            .into_values()
            .filter(|lock| lock.of.is_none() || lock.mode.blocks_writes())
            .collect()
    }

    fn names(&self, of: impl Fn(&Statement) -> &BTreeSet<QualifiedName>) -> BTreeSet<&QualifiedName> {
        self.statements.iter().flat_map(|it| of(it)).collect()
    }

    fn took_us(&self) -> u64 {
        self.statements.iter().map(|it| it.took_us).sum()
    }

    fn held_us(&self) -> u64 {
        self.statements
            .iter()
            .map(|it| it.held_us)
            .max()
            .unwrap_or_default()
    }

    fn wal_bytes(&self) -> i64 {
        self.statements.iter().map(|it| it.wal_bytes).sum()
    }

    fn temp_bytes(&self) -> Option<u64> {
        let bytes = self.statements.iter().map(|it| it.temp_bytes);
        bytes.reduce(trace::sum).flatten()
    }

    fn is_watched(&self) -> bool {
        self.statements.iter().any(|it| it.evidence == Evidence::Watched)
    }

    fn effects(&self) -> String {
        let mut parts = Vec::new();
        let mut add = |what: &str, names: BTreeSet<&QualifiedName>| {
            let names: Vec<String> = names.into_iter().map(ToString::to_string).collect();
            if !names.is_empty() {
                parts.push(format!("{what} {}", names.join(", ")));
            }
        };
        add("rewrites", self.names(|it| &it.rewrites));
        add("scans", self.names(|it| &it.scans));
        add("rebuilds", self.names(|it| &it.rebuilds_indexes));
        if let Some(bytes) = self.temp_bytes().filter(|bytes| *bytes > 0) {
            parts.push(format!("{} of temporary files", units::size(bytes)));
        }
        parts.join("; ")
    }
}

fn micros(us: u64) -> String {
    match us {
        ..10_000 => format!("{:.1} ms", us as f64 / 1_000.0),
        _ => units::millis(us / 1_000),
    }
}

fn guessed(guess: &Guess) -> String {
    format!(
        "{} to {}",
        units::millis(guess.low_ms),
        units::millis(guess.high_ms)
    )
}

impl<'a> Shown<'a> {
    fn seen(&self, undo: bool) -> Vec<Seen<'a>> {
        let rehearsal = self.rehearsal;
        let of = |step: &'a Step| Seen {
            step,
            undo,
            statements: rehearsal
                .statements
                .iter()
                .filter(|it| it.step == step.id && it.undo == undo)
                .collect(),
        };
        let mut seen: Vec<Seen<'a>> = rehearsal.plan.steps.iter().map(of).collect();
        if undo {
            seen.reverse();
            seen.retain(|seen| !seen.statements.is_empty());
        }
        seen
    }

    fn guess(&self, seen: &Seen<'_>) -> Option<Guess> {
        let known = !self.there.is_empty() && !seen.undo;
        known.then(|| durations::guess(seen.step, seen.took_us(), self.here, self.there))?
    }

    fn verdict(&self) -> String {
        let Rehearsal {
            statements,
            differences,
            plan,
            ..
        } = self.rehearsal;
        let what = format!(
            "{}, {}",
            units::counted(plan.steps.len(), "step"),
            units::counted(statements.len(), "statement")
        );
        match differences.len() {
            0 => format!("{what}: all did what the plan claims, and nothing else"),
            several => format!(
                "{what}: {} between claim and trace",
                units::counted(several, "difference")
            ),
        }
    }

    /// For people.
    pub fn human(&self) -> String {
        let Rehearsal {
            plan, differences, ..
        } = self.rehearsal;
        let mut text = format!(
            "{} rehearsed on {}, {}\n",
            style::name(&plan.name),
            self.server,
            self.source
        );
        self.about_rows(&mut text, "  ");
        for undo in [false, true] {
            let seen = self.seen(undo);
            if seen.is_empty() {
                continue;
            }
            let heading = if undo { "The way back" } else { "The way there" };
            let _ = writeln!(text, "\n{}\n", style::heading(heading));
            let mut rows = table(&self.columns());
            // A step is looked for by its name.
            if let Some(step) = rows.column_mut(0) {
                step.set_constraint(comfy_table::ColumnConstraint::ContentWidth);
            }
            for seen in &seen {
                self.add_rows(&mut rows, seen);
            }
            text.push_str(&lines(&rows));
        }
        if let Some(why) = &self.rehearsal.no_way_back {
            let _ = writeln!(text, "\nThere is no way back: {}", safe::one_line(why));
        }
        self.remarks(&mut text);
        for difference in differences {
            let _ = writeln!(
                text,
                "\n{} {}",
                style::bad("difference:"),
                safe::one_line(&difference.to_string())
            );
            if let Some(statement) = &difference.statement {
                let _ = writeln!(text, "    {}", safe::one_line(statement));
            }
        }
        if !differences.is_empty() {
            text.push_str(
                "\nThis is an error of pgmorph, not of the plan: please report it with this output.\n",
            );
        }
        let verdict = self.verdict();
        let verdict = match differences.is_empty() {
            true => style::good(verdict),
            false => style::bad(verdict),
        };
        let _ = writeln!(text, "\n{verdict}");
        text
    }

    /// How long it takes there is known where the sizes are.
    fn columns(&self) -> Vec<&'static str> {
        let mut columns = vec!["step", "lock", "on", "held", "does", "there"];
        if self.there.is_empty() {
            columns.pop();
        }
        columns
    }

    fn add_rows(&self, rows: &mut comfy_table::Table, seen: &Seen<'_>) {
        let locks = seen.locks();
        let marks = if seen.is_watched() { "*" } else { "" };
        let guess = self.guess(seen).map(|guess| guessed(&guess)).unwrap_or_default();
        let first = locks.first();
        let mut cells = vec![
            safe::one_line(&seen.step.id),
            first.map_or("none".into(), |lock| format!("{}{marks}", lock.mode)),
            first.map_or(String::new(), |lock| safe::one_line(&lock.relation.to_string())),
            micros(seen.held_us()),
            safe::one_line(&seen.effects()),
            guess,
        ];
        cells.truncate(self.columns().len());
        rows.add_row(cells);
        for lock in locks.iter().skip(1) {
            let cells = [
                String::new(),
                format!("{}{marks}", lock.mode),
                safe::one_line(&lock.relation.to_string()),
            ];
            rows.add_row(cells.to_vec());
        }
    }

    fn about_rows(&self, text: &mut String, indent: &str) {
        for (source, words) in [
            (Origin::Sampled, "copied from the database"),
            (Origin::MadeUp, "made up"),
        ] {
            let of_source = self.filled.iter().filter(|it| it.source == source && it.rows > 0);
            let rows: u64 = of_source.clone().map(|it| it.rows).sum();
            if rows > 0 {
                let tables = units::counted(of_source.count(), "table");
                let _ = writeln!(
                    text,
                    "{indent}{} rows of {tables} were {words}",
                    units::count(rows)
                );
            }
        }
        for filled in self.filled {
            let name = safe::one_line(&filled.table.to_string());
            let mut tell = |words: &str| {
                let _ = writeln!(text, "{indent}{name} {words}");
            };
            if let Some(why) = &filled.why_not_sampled {
                let instead = match (filled.source, filled.rows) {
                    (Origin::MadeUp, 1..) => "; its rows are made up",
                    (Origin::Sampled, 1..) => "; it has the rows that others refer to",
                    _ => "",
                };
                tell(&format!("was not sampled: {}{instead}", safe::one_line(why)));
            }
            if filled.row_security {
                tell("was sampled as far as row-level security lets the role see it");
            }
            if filled.left_out > 0 {
                let rows = units::counted(usize::try_from(filled.left_out).unwrap_or(usize::MAX), "row");
                tell(&format!(
                    "has {rows} less than were read: what they refer to could not be had"
                ));
            }
            if let Some(why) = &filled.why_empty {
                tell(&format!("stayed empty: {}", safe::one_line(why)));
            }
        }
        for what in self.left_out {
            let _ = writeln!(text, "{indent}not built: {}", safe::one_line(what));
        }
    }

    fn remarks(&self, text: &mut String) {
        let wal: i64 = self.rehearsal.statements.iter().map(|it| it.wal_bytes).sum();
        let _ = writeln!(
            text,
            "\nWritten here: {} of WAL, {} of temporary files.",
            units::signed_size(wal),
            units::size(self.rehearsal.temporary_bytes)
        );
        let watched = self
            .rehearsal
            .statements
            .iter()
            .any(|it| it.evidence == Evidence::Watched);
        if watched {
            text.push_str(
                "\n* No transaction can hold this statement back: its tables were held so that it had to ask for each, \
                 and pg_locks was read all the while.\n",
            );
        }
        if !self.there.is_empty() {
            let _ = writeln!(
                text,
                "\nHow long it takes there is a guess: {}.",
                durations::MODEL
            );
        }
        for note in &self.rehearsal.notes {
            let _ = writeln!(text, "note: {}", safe::one_line(note));
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let steps =
            |undo| -> Vec<Value> { self.seen(undo).iter().map(|seen| self.step_json(seen)).collect() };
        let Rehearsal {
            plan,
            differences,
            notes,
            no_way_back,
            temporary_bytes,
            ..
        } = self.rehearsal;
        let told = |it: &Difference| {
            let mut value = json!(it);
            value["message"] = it.to_string().into();
            value
        };
        json!({
            "plan": plan.name,
            "digest": plan.digest,
            "server": self.server,
            "schema": self.source,
            "agrees": differences.is_empty(),
            "differences": differences.iter().map(told).collect::<Vec<_>>(),
            "steps": steps(false),
            "rollback": steps(true),
            "no_rollback": no_way_back,
            "temporary_bytes": temporary_bytes,
            "rows": self.filled,
            "left_out": self.left_out,
            "duration_model": durations::MODEL,
            "notes": notes,
        })
    }

    fn step_json(&self, seen: &Seen<'_>) -> Value {
        let works: Vec<&Lock> = match (&seen.step.undo, seen.undo) {
            (crate::plan::Undo::Work(works), true) => works.iter().flat_map(|work| &work.locks).collect(),
            _ => seen.step.work.locks.iter().collect(),
        };
        json!({
            "step": seen.step.id,
            "phase": seen.step.phase,
            "operation": seen.step.operation,
            "claimed": {"locks": works},
            "seen": {
                "locks": seen.locks(),
                "rewrites": seen.names(|it| &it.rewrites),
                "scans": seen.names(|it| &it.scans),
                "rebuilds_indexes": seen.names(|it| &it.rebuilds_indexes),
                "took_us": seen.took_us(),
                "held_us": seen.held_us(),
                "wal_bytes": seen.wal_bytes(),
                "temp_bytes": seen.temp_bytes(),
            },
            "there": self.guess(seen),
            "statements": seen.statements,
        })
    }

    /// For a pull request.
    pub fn markdown(&self) -> String {
        let Rehearsal {
            plan, differences, ..
        } = self.rehearsal;
        let sign = if differences.is_empty() { "✅" } else { "❌" };
        let mut text = format!(
            "# Rehearsal of `{}`\n\n{sign} {}, on {}, {}.\n\n",
            cell(&plan.name),
            cell(&self.verdict()),
            self.server,
            cell(&self.source)
        );
        self.about_rows(&mut text, "- ");
        for undo in [false, true] {
            let seen = self.seen(undo);
            if seen.is_empty() {
                continue;
            }
            let heading = if undo { "The way back" } else { "The way there" };
            let _ = write!(
                text,
                "\n## {heading}\n\n| step | locks taken | held | does | there |\n|---|---|---|---|---|\n"
            );
            for seen in &seen {
                let locks: Vec<String> = seen
                    .locks()
                    .iter()
                    .map(|lock| format!("{} on `{}`", lock.mode, cell(&lock.relation.to_string())))
                    .collect();
                let _ = writeln!(
                    text,
                    "| `{}` | {} | {} | {} | {} |",
                    cell(&seen.step.id),
                    if locks.is_empty() {
                        "none".into()
                    } else {
                        locks.join("<br>")
                    },
                    micros(seen.held_us()),
                    cell(&seen.effects()),
                    self.guess(seen).map(|guess| guessed(&guess)).unwrap_or_default()
                );
            }
        }
        self.remarks(&mut text);
        if !differences.is_empty() {
            text.push_str("\n## Differences\n\nErrors of pgmorph, not of the plan.\n\n");
            for difference in differences {
                let _ = writeln!(text, "- {}", cell(&difference.to_string()));
            }
        }
        text
    }
}

/// Within a line of a table: no name makes a new cell, a line or a tag.
fn cell(text: &str) -> String {
    text.replace('\n', " ")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('`', "'")
}
