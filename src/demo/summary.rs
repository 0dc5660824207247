//! What the demo came to: for people a few tables, for machines one object.

use super::account::Account;
use super::felt::{Felt, Timeline, millis};
use super::traffic::Record;
use crate::report::verification::Verification;
use crate::report::{plan_human, style};
use crate::units;
use comfy_table::CellAlignment;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// So many of the slowest statements are named.
const NAMED: usize = 5;

/// When what happened.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The first statement of the application.
    pub traffic: Instant,
    /// pgmorph began to plan.
    pub began: Instant,
    /// It had verified what it did.
    pub finished: Instant,
    /// The last statement.
    pub stopped: Instant,
}

/// A server that was left running.
pub struct Kept {
    pub psql: String,
    pub stop: String,
}

impl Kept {
    pub fn human(&self) -> String {
        format!(
            "The server is still running.\n  look:  {}\n  stop:  {}\n",
            self.psql, self.stop
        )
    }
}

pub struct Summary {
    pub server: String,
    pub rows: u64,
    pub steps: usize,
    pub times: Times,
    pub felt: [Felt; 3],
    pub slowest: Vec<Slow>,
    pub failed: u64,
    pub failures: Vec<String>,
    pub accounts: Vec<Account>,
    pub verification: Verification,
    pub kept: Option<Kept>,
}

/// A slow statement, and the step that ran meanwhile.
pub struct Slow {
    pub took: Duration,
    pub statement: String,
    pub step: Option<String>,
}

/// The figures of the statements: of each period, and the slowest of the middle one.
pub fn judge(record: &Record, times: Times, timeline: &Timeline) -> ([Felt; 3], Vec<Slow>) {
    let mut periods: [Vec<_>; 3] = Default::default();
    for sample in &record.samples {
        // A statement belongs to the period in which it ended: what was held up ends late.
        let ended = sample.ended();
        let period = usize::from(ended >= times.began) + usize::from(sample.began >= times.finished);
        periods[period].push(*sample);
    }
    let during = &mut periods[1];
    during.sort_by_key(|sample| std::cmp::Reverse(sample.took));
    let slow = during.iter().take(NAMED).map(|sample| Slow {
        took: sample.took,
        statement: sample.words(),
        step: timeline.during(sample),
    });
    let slow = slow.collect();
    let felt = periods.map(|samples| Felt::of(samples.iter().map(|sample| sample.took).collect()));
    (felt, slow)
}

/// A failed statement, in a line.
pub fn failures(record: &Record, timeline: &Timeline) -> Vec<String> {
    let line = |failure: &super::traffic::Failure| {
        let state = failure.sqlstate.as_deref().unwrap_or("no SQLSTATE");
        let step = timeline.during(&failure.sample);
        let step = step.map_or(String::new(), |step| format!(", during {step}"));
        format!("{}: {} ({state}){step}", failure.sample.words(), failure.message)
    };
    record.failures.iter().map(line).collect()
}

impl Summary {
    pub fn lost(&self) -> u64 {
        self.accounts.iter().map(Account::lost).sum()
    }

    /// What is not as the demo promises; nothing, if all went well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.failed > 0 {
            problems.push(format!(
                "{} statements of the application failed",
                units::count(self.failed)
            ));
        }
        if self.lost() > 0 {
            problems.push(format!(
                "{} acknowledged writes are lost",
                units::count(self.lost())
            ));
        }
        if !self.verification.passes() {
            problems.push("the database is not what the plan promised".into());
        }
        problems
    }

    fn ran(&self) -> Duration {
        self.times.finished - self.times.began
    }

    pub fn json(&self) -> Value {
        let account = |account: &Account| {
            let (rows, versions) = account.expected();
            json!({
                "table": account.name,
                "acknowledged": account.writes,
                "rows": {"before": account.before.rows, "expected": rows, "found": account.after.rows},
                "versions": {"before": account.before.versions, "expected": versions, "found": account.after.versions},
                "bytes": {"before": account.before.bytes, "after": account.after.bytes},
            })
        };
        let slow =
            |slow: &Slow| json!({"ms": millis(slow.took), "statement": slow.statement, "step": slow.step});
        let kept = self.kept.as_ref();
        json!({
            "server": self.server,
            "rows": self.rows,
            "steps": self.steps,
            "elapsed_ms": millis(self.ran()),
            "failed": self.failed,
            "lost": self.lost(),
            "failures": self.failures,
            "problems": self.problems(),
            "before": self.felt[0],
            "during": self.felt[1],
            "after": self.felt[2],
            "slowest": self.slowest.iter().map(slow).collect::<Vec<_>>(),
            "accounts": self.accounts.iter().map(account).collect::<Vec<_>>(),
            "verification": self.verification,
            "kept": kept.map(|kept| json!({"psql": kept.psql, "stop": kept.stop})),
        })
    }

    pub fn human(&self) -> String {
        let mut text = format!("\n{}\n", style::heading("What the application felt"));
        self.write_felt(&mut text);
        let _ = write!(
            text,
            "\n{}\n",
            style::heading("What became of its acknowledged writes")
        );
        self.write_accounts(&mut text);
        if !self.verification.passes() {
            let _ = write!(text, "\n{}", self.verification.human());
        }
        let problems = self.problems();
        let _ = writeln!(
            text,
            "\n{} in {} on {}: {}",
            units::counted(self.steps, "step"),
            units::duration(self.ran()),
            self.server,
            if problems.is_empty() {
                style::good(
                    "no statement failed, no acknowledged write is lost, and verify finds what was promised",
                )
            } else {
                style::bad(problems.join("; "))
            }
        );
        if let Some(kept) = &self.kept {
            let _ = write!(text, "\n{}", kept.human());
        }
        text
    }

    fn write_felt(&self, text: &mut String) {
        let mut table = plan_human::table(&["", "before", "while pgmorph ran", "after"]);
        let Times {
            traffic,
            began,
            finished,
            stopped,
        } = self.times;
        let mut row = |name: &str, cells: [String; 3]| {
            let [before, during, after] = cells;
            table.add_row([name.to_owned(), before, during, after]);
        };
        row(
            "time",
            [began - traffic, finished - began, stopped - finished].map(units::duration),
        );
        row(
            "statements",
            self.felt.map(|felt| units::count(felt.statements as u64)),
        );
        row("median", self.felt.map(|felt| time(felt.median)));
        row("99 % took at most", self.felt.map(|felt| time(felt.p99)));
        row("99.9 % took at most", self.felt.map(|felt| time(felt.p99_9)));
        row("slowest", self.felt.map(|felt| time(felt.slowest)));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        text.push_str(&plan_human::lines(&table));
        text.push_str("The slowest while pgmorph ran:\n");
        for slow in &self.slowest {
            let step = slow.step.as_deref().unwrap_or("between steps");
            let took = time(slow.took);
            let _ = writeln!(
                text,
                "  {took:>8}  {}  {}",
                slow.statement,
                style::faint(format!("({step})"))
            );
        }
        let failed = format!(
            "{} failed",
            units::counted(usize::try_from(self.failed).unwrap_or(0), "statement")
        );
        let failed = if self.failed == 0 {
            style::good(failed)
        } else {
            style::bad(failed)
        };
        let _ = writeln!(text, "{failed}");
        for failure in &self.failures {
            let _ = writeln!(text, "  {failure}");
        }
    }

    fn write_accounts(&self, text: &mut String) {
        let header = [
            "",
            "inserted",
            "updated",
            "deleted",
            "rows expected",
            "found",
            "versions expected",
            "found",
        ];
        let mut table = plan_human::table(&header);
        for account in &self.accounts {
            let (rows, versions) = account.expected();
            let writes = &account.writes;
            let numbers = [
                writes.inserts,
                writes.updates,
                writes.deletes,
                rows,
                account.after.rows,
                versions,
            ];
            let numbers = numbers.into_iter().chain([account.after.versions]);
            let cells = numbers.map(|number| units::count(number.unsigned_abs()));
            table.add_row([account.name.to_owned()].into_iter().chain(cells));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        text.push_str(&plan_human::lines(&table));
        text.push_str("(versions: the sum of all, which every acknowledged update raised by one)\n");
        let sum = |size: fn(&Account) -> i64| units::signed_size(self.accounts.iter().map(size).sum());
        let _ = writeln!(
            text,
            "Size of the tables and their indexes: {} before, {} now",
            sum(|account| account.before.bytes),
            sum(|account| account.after.bytes)
        );
    }
}

/// A latency, in three digits.
fn time(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    match ms {
        ..10.0 => format!("{ms:.2} ms"),
        ..100.0 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::felt::Sample;
    use crate::demo::statements::Kind;
    use crate::report::Silent;
    use std::sync::Arc;

    #[test]
    fn a_statement_that_was_held_up_counts_for_the_change() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let times = Times {
            traffic: start,
            began: at(100),
            finished: at(200),
            stopped: at(300),
        };
        let sample = |began, took| Sample {
            kind: Kind::Page,
            table: 1,
            began: at(began),
            took: Duration::from_millis(took),
        };
        let record = Record {
            samples: vec![sample(0, 1), sample(90, 20), sample(150, 60), sample(200, 7)],
            ..Record::default()
        };
        let (felt, slowest) = judge(&record, times, &Timeline::new(Arc::new(Silent)));
        assert_eq!(felt.map(|felt| felt.statements), [1, 2, 1]);
        assert_eq!(time(felt[1].slowest), "60.0 ms");
        assert_eq!(slowest[0].statement, "SELECT a page, investment_lots");
    }
}
