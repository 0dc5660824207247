//! The application of a random case: writers that insert, count up, delete, change keys, write NULLs and commit much
//! at once. Each keeps account of its own rows, and foreign keys only join rows of one writer, so that the account is
//! exact: it foresees what cascades and triggers do.

use super::chance::Dice;
use super::model::{Action, Case, Cell, Feed, ForeignKey, Row, Rows, Table};
use super::values::Type;
use crate::harness::{Chance, Database, PATIENCE};
use pgmorph::sql::literal;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A row belongs to the writer whose number is the remainder of its tag.
pub const WRITERS: i64 = 3;

const THINK_TIME: Duration = Duration::from_millis(2);

/// Tags of the rows that writers insert begin here.
const FIRST_TAG: i64 = 100_000 / WRITERS * WRITERS;

/// So many values of its own a writer has before `smallint` ends.
const FRESH_MAX: i64 = 32_768 / (4 * WRITERS) - 2;

#[derive(Debug, Default)]
pub struct Account {
    pub tables: Vec<Rows>,
    /// Rows that were written at all.
    pub touched: BTreeSet<(usize, i64)>,
    pub statements: u64,
    pub slowest: Duration,
    pub complaints: Vec<String>,
}

struct Writer {
    number: i64,
    client: Client,
    case: Arc<Case>,
    chance: Chance,
    account: Account,
    /// What rows were before, to take back what was not committed.
    journal: Vec<(usize, i64, Option<Row>)>,
    inserted: i64,
    fresh: i64,
    /// Set when values may be written that only the new type has.
    wide: Arc<AtomicBool>,
}

/// A statement, the row that it returns, and the columns of which only the server knows the value.
struct Write {
    sql: String,
    table: usize,
    returns: Option<(i64, Vec<usize>)>,
    deletes: Option<Row>,
}

impl Writer {
    async fn go(&mut self) {
        if self.chance.percent(90) {
            let mark = self.journal.len();
            if let Some(write) = self.next()
                && !self.send(write).await
            {
                self.take_back(mark);
            }
            self.journal.clear();
            return;
        }
        // Much at once, now and then taken back.
        let mut well = self.plain("BEGIN").await;
        for _ in 0..2 + self.chance.index(20) {
            let Some(write) = self.next().filter(|_| well) else {
                break;
            };
            well = self.send(write).await;
        }
        let commit = well && self.chance.percent(85);
        well = self.plain(if commit { "COMMIT" } else { "ROLLBACK" }).await;
        if !commit || !well {
            self.take_back(0);
        }
        self.journal.clear();
    }

    /// What may be done now, done in the account already.
    fn next(&mut self) -> Option<Write> {
        let case = Arc::clone(&self.case);
        for _ in 0..6 {
            let mark = self.journal.len();
            // The table in question gets the most of it.
            let table = match self.chance.percent(60) {
                true => case.table,
                false => self.chance.index(case.tables.len()),
            };
            let write = match self.chance.below(20) {
                0..5 => self.insert(table),
                5..9 => self.count_up(table),
                9..12 => self.change_value(table),
                12..14 => self.write_null(table),
                14 => self.change_reference(table),
                15 => self.touch_all(table),
                _ => self.delete(table),
            };
            if write.is_some() {
                return write;
            }
            self.take_back(mark);
        }
        None
    }

    fn take_back(&mut self, mark: usize) {
        for (table, tag, before) in self.journal.drain(mark..).rev() {
            match before {
                Some(row) => self.account.tables[table].insert(tag, row),
                None => self.account.tables[table].remove(&tag),
            };
        }
    }

    fn any_tag(&mut self, table: usize) -> Option<i64> {
        let rows = &self.account.tables[table];
        let at = self.chance.index(rows.len());
        rows.keys().nth(at).copied()
    }

    fn column(&mut self, table: usize) -> Option<usize> {
        let columns = self.case.tables[table].columns.len();
        (columns > 1).then(|| match table == self.case.table && self.chance.percent(50) {
            true => self.case.column.max(1),
            false => 1 + self.chance.index(columns - 1),
        })
    }

    /// Of a number that no other row has, where that matters.
    fn value(&mut self, table: usize, position: usize) -> Option<Cell> {
        let column = &self.case.tables[table].columns[position];
        let (data_type, unique) = (column.data_type, column.unique);
        let n = if unique {
            self.fresh += 1;
            if self.fresh > FRESH_MAX {
                return None;
            }
            -4 * (self.fresh * WRITERS + self.number)
        } else {
            1 + self.chance.below(100) as i64
        };
        let target = (table, position) == (self.case.table, self.case.column);
        let column = &self.case.tables[table].columns[position];
        let reaches = !column.referenced || !self.case.members.is_empty();
        if target && reaches && self.wide.load(Ordering::Relaxed) && self.chance.percent(40) {
            let wide = self.case.wide;
            if let Some(text) = wide.beyond(data_type, n) {
                return Some(Cell::of(Some(&text), data_type));
            }
        }
        Some(Cell::of(Some(&data_type.value(n)), data_type))
    }

    /// The row as triggers leave it.
    fn settled(&self, table: usize, mut row: Row) -> Row {
        for (cell, column) in row.iter_mut().zip(&self.case.tables[table].columns) {
            if let (Cell::Null, Some(value)) = (&cell, &column.null_becomes) {
                *cell = Cell::of(Some(value), column.data_type);
            }
        }
        row
    }

    fn put(&mut self, table: usize, tag: i64, row: Option<Row>) {
        let rows = &mut self.account.tables[table];
        let before = match row {
            Some(row) => rows.insert(tag, row),
            None => rows.remove(&tag),
        };
        self.journal.push((table, tag, before));
        self.account.touched.insert((table, tag));
    }

    /// Rows that reference this one, with the number of their foreign key.
    fn children(&self, table: usize, row: &Row) -> Vec<(usize, Vec<i64>)> {
        let mut found = Vec::new();
        for (number, key) in self.case.foreign_keys.iter().enumerate() {
            if key.parent != table {
                continue;
            }
            let wanted: Vec<&Cell> = key.parent_columns.iter().map(|at| &row[*at]).collect();
            let rows = self.account.tables[key.child].iter();
            let own =
                rows.filter(|(_, row)| key.columns.iter().map(|at| &row[*at]).eq(wanted.iter().copied()));
            found.push((number, own.map(|(tag, _)| *tag).collect()));
        }
        found
    }

    /// Whether it references what is not there. The server looks again when a transaction changes such a row twice.
    fn is_orphan(&self, table: usize, row: &Row) -> bool {
        let mut unproven = self.case.foreign_keys.iter().filter(|key| key.unproven);
        unproven.any(|key| key.child == table && row[key.columns[0]] == orphan(&self.case.tables, key))
    }

    /// Changes a row and what cascades from it; `false` where the server would refuse.
    fn change(&mut self, table: usize, tag: i64, changes: &[(usize, Cell)]) -> bool {
        if self.case.tables[table].frozen.contains(&tag) {
            return false;
        }
        // Deleted by another way of the same cascade.
        let Some(before) = self.account.tables[table].get(&tag).cloned() else {
            return true;
        };
        let again = self.journal.iter().any(|it| (it.0, it.1) == (table, tag));
        if again && self.is_orphan(table, &before) {
            return false;
        }
        let mut after = before.clone();
        for (position, cell) in changes {
            after[*position] = cell.clone();
        }
        let after = self.settled(table, after);
        self.put(table, tag, Some(after.clone()));
        let case = Arc::clone(&self.case);
        for (number, tags) in self.children(table, &before) {
            let key = &case.foreign_keys[number];
            let new: Vec<Cell> = key.parent_columns.iter().map(|at| after[*at].clone()).collect();
            let same = key.parent_columns.iter().all(|at| before[*at] == after[*at]);
            if same || tags.is_empty() {
                continue;
            }
            let changes: Vec<(usize, Cell)> = match key.on_update {
                Action::Nothing => return false,
                Action::Cascade => key.columns.iter().copied().zip(new).collect(),
                Action::SetNull => key.columns.iter().map(|at| (*at, Cell::Null)).collect(),
            };
            if !tags.iter().all(|child| self.change(key.child, *child, &changes)) {
                return false;
            }
        }
        true
    }

    fn remove(&mut self, table: usize, tag: i64) -> bool {
        let Some(before) = self.account.tables[table].get(&tag).cloned() else {
            return true;
        };
        self.put(table, tag, None);
        let case = Arc::clone(&self.case);
        for (number, tags) in self.children(table, &before) {
            let key = &case.foreign_keys[number];
            let nulls: Vec<(usize, Cell)> = key.columns.iter().map(|at| (*at, Cell::Null)).collect();
            for child in tags {
                let well = match key.on_delete {
                    Action::Nothing => false,
                    Action::Cascade => self.remove(key.child, child),
                    Action::SetNull => self.change(key.child, child, &nulls),
                };
                if !well {
                    return false;
                }
            }
        }
        true
    }

    fn insert(&mut self, at: usize) -> Option<Write> {
        let case = Arc::clone(&self.case);
        let table = &case.tables[at];
        self.inserted += 1;
        let tag = FIRST_TAG + self.inserted * WRITERS + self.number;
        let mut row = vec![Cell::Known(tag.to_string())];
        let mut unknown = Vec::new();
        for (position, column) in table.columns.iter().enumerate().skip(1) {
            let by_default = match column.feed {
                Feed::Sequence => self.chance.percent(75),
                Feed::Free => column.default.is_some() && self.chance.percent(40),
                Feed::Reference => false,
            };
            if by_default {
                unknown.push(position);
            }
            row.push(
                if by_default
                    || column.feed == Feed::Reference
                    || (!column.not_null && self.chance.percent(15))
                {
                    Cell::Null
                } else {
                    self.value(at, position)?
                },
            );
        }
        for number in 0..case.foreign_keys.len() {
            let key = &case.foreign_keys[number];
            if key.child != at {
                continue;
            }
            match self.parent(number, None) {
                Some(cells) => {
                    for (position, cell) in key.columns.iter().zip(cells) {
                        row[*position] = cell;
                    }
                }
                None if table.columns[key.columns[0]].not_null => return None,
                None => {}
            }
        }
        let named: Vec<usize> = (0..row.len()).filter(|at| !unknown.contains(at)).collect();
        let names: Vec<String> = named.iter().map(|at| table.columns[*at].sql()).collect();
        let values: Vec<String> = named.iter().map(|at| text_of(&row[*at])).collect();
        let row = self.settled(at, row);
        self.put(at, tag, Some(row));
        let sql = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}) RETURNING {}",
            table.name,
            names.join(", "),
            values.join(", "),
            table.list()
        );
        Some(self.returning(at, sql, tag, unknown))
    }

    fn returning(&self, table: usize, sql: String, tag: i64, unknown: Vec<usize>) -> Write {
        Write {
            sql,
            table,
            returns: Some((tag, unknown)),
            deletes: None,
        }
    }

    /// The key of a row of ours, other than this one.
    fn parent(&mut self, number: usize, but: Option<i64>) -> Option<Vec<Cell>> {
        let case = Arc::clone(&self.case);
        let key = &case.foreign_keys[number];
        if !case.tables[key.child].columns[key.columns[0]].not_null && self.chance.percent(15) {
            return None;
        }
        let tag = self.any_tag(key.parent)?;
        if key.parent == key.child && but == Some(tag) {
            return None;
        }
        let row = &self.account.tables[key.parent][&tag];
        Some(key.parent_columns.iter().map(|at| row[*at].clone()).collect())
    }

    fn update(
        &mut self,
        at: usize,
        tag: i64,
        set: &[(usize, String)],
        changes: &[(usize, Cell)],
    ) -> Option<Write> {
        let case = Arc::clone(&self.case);
        let table = &case.tables[at];
        if changes
            .iter()
            .any(|(position, _)| table.columns[*position].always)
        {
            return None;
        }
        if !self.change(at, tag, changes) {
            return None;
        }
        let set: Vec<String> = set
            .iter()
            .map(|(position, value)| format!("{} = {value}", table.columns[*position].sql()))
            .collect();
        let sql = format!(
            "UPDATE {} SET {} WHERE {} = {tag} RETURNING {}",
            table.name,
            set.join(", "),
            table.tag(),
            table.list()
        );
        Some(self.returning(at, sql, tag, Vec::new()))
    }

    fn count_up(&mut self, at: usize) -> Option<Write> {
        let (tag, position) = (self.any_tag(at)?, self.column(at)?);
        let case = Arc::clone(&self.case);
        let column = &case.tables[at].columns[position];
        let Cell::Known(text) = &self.account.tables[at][&tag][position] else {
            return None;
        };
        if column.feed == Feed::Reference {
            return None;
        }
        let more = column.data_type.incremented(text, column.unique)?;
        let set = (position, format!("{} + 1", column.sql()));
        self.update(at, tag, &[set], &[(position, Cell::Known(more))])
    }

    fn change_value(&mut self, at: usize) -> Option<Write> {
        let (tag, position) = (self.any_tag(at)?, self.column(at)?);
        if self.case.tables[at].columns[position].feed == Feed::Reference {
            return None;
        }
        let cell = self.value(at, position)?;
        self.update(at, tag, &[(position, text_of(&cell))], &[(position, cell)])
    }

    fn write_null(&mut self, at: usize) -> Option<Write> {
        let (tag, position) = (self.any_tag(at)?, self.column(at)?);
        let column = &self.case.tables[at].columns[position];
        if column.not_null || column.feed == Feed::Reference {
            return None;
        }
        self.update(at, tag, &[(position, "NULL".into())], &[(position, Cell::Null)])
    }

    fn change_reference(&mut self, at: usize) -> Option<Write> {
        let case = Arc::clone(&self.case);
        let own: Vec<usize> = (0..case.foreign_keys.len())
            .filter(|number| case.foreign_keys[*number].child == at)
            .collect();
        if own.is_empty() {
            return None;
        }
        let (number, tag) = (*self.chance.pick(&own), self.any_tag(at)?);
        let key = &case.foreign_keys[number];
        let cells = self.parent(number, Some(tag));
        if cells.is_none() && case.tables[at].columns[key.columns[0]].not_null {
            return None;
        }
        let cells = cells.unwrap_or_else(|| vec![Cell::Null; key.columns.len()]);
        let changes: Vec<(usize, Cell)> = key.columns.iter().copied().zip(cells).collect();
        let set: Vec<_> = changes.iter().map(|(at, cell)| (*at, text_of(cell))).collect();
        self.update(at, tag, &set, &changes)
    }

    /// Every row of ours, without changing it.
    fn touch_all(&mut self, at: usize) -> Option<Write> {
        let case = Arc::clone(&self.case);
        let table = &case.tables[at];
        let position = self.column(at)?;
        if table.columns[position].always || self.chance.percent(60) {
            return None;
        }
        let tags: Vec<i64> = self.account.tables[at].keys().copied().collect();
        if !tags.iter().all(|tag| self.change(at, *tag, &[])) {
            return None;
        }
        let (c, tag) = (table.columns[position].sql(), table.tag());
        let sql = format!(
            "UPDATE {} SET {c} = {c} WHERE {tag} % {WRITERS} = {}",
            table.name, self.number
        );
        Some(Write {
            sql,
            table: at,
            returns: None,
            deletes: None,
        })
    }

    fn delete(&mut self, at: usize) -> Option<Write> {
        let case = Arc::clone(&self.case);
        let table = &case.tables[at];
        let tag = self.any_tag(at)?;
        let before = self.account.tables[at][&tag].clone();
        if !self.remove(at, tag) {
            return None;
        }
        let sql = format!(
            "DELETE FROM {} WHERE {} = {tag} RETURNING {}",
            table.name,
            table.tag(),
            table.list()
        );
        Some(Write {
            sql,
            table: at,
            returns: None,
            deletes: Some(before),
        })
    }

    fn complain(&mut self, what: String) {
        // The first ones tell the story.
        if self.account.complaints.len() < 5 {
            self.account.complaints.push(what);
        }
    }

    async fn plain(&mut self, sql: &str) -> bool {
        self.query(sql).await.is_some()
    }

    async fn query(&mut self, sql: &str) -> Option<Vec<SimpleQueryMessage>> {
        let began = Instant::now();
        let result = self.client.simple_query(sql).await;
        self.account.statements += 1;
        self.account.slowest = self.account.slowest.max(began.elapsed());
        match result {
            Ok(messages) => Some(messages),
            Err(error) => {
                let why = error.as_db_error().map_or(error.to_string(), |db| {
                    format!(
                        "{} ({}) {}",
                        db.message(),
                        db.code().code(),
                        db.detail().unwrap_or_default()
                    )
                });
                self.complain(format!("failed with {why}: {sql}"));
                None
            }
        }
    }

    /// Sends it and compares the answer with the account.
    async fn send(&mut self, write: Write) -> bool {
        let Some(messages) = self.query(&write.sql).await else {
            return false;
        };
        let case = Arc::clone(&self.case);
        let types: Vec<Type> = case.tables[write.table]
            .columns
            .iter()
            .map(|column| column.data_type)
            .collect();
        let mut rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let found: Option<Row> = rows.next().map(|row| {
            let cells = types.iter().enumerate();
            cells
                .map(|(at, data_type)| Cell::of(row.get(at), *data_type))
                .collect()
        });
        let expected = match (&write.returns, &write.deletes) {
            (Some((tag, _)), _) => self.account.tables[write.table].get(tag).cloned(),
            (None, deleted) => deleted.clone(),
        };
        let (Some(mut expected), Some(found)) = (expected.clone(), found.clone()) else {
            if expected.is_some() {
                self.complain(format!("the row is not there: {}", write.sql));
            }
            return true;
        };
        if let Some((tag, unknown)) = &write.returns {
            for position in unknown {
                expected[*position] = found[*position].clone();
            }
            self.account.tables[write.table].insert(*tag, expected.clone());
        }
        if !agree(&expected, &found) {
            self.complain(format!("found {found:?}, expected {expected:?}: {}", write.sql));
        }
        true
    }
}

/// The value of a reference that no key ever has.
pub fn orphan(tables: &[Table], key: &ForeignKey) -> Cell {
    let data_type = tables[key.child].columns[key.columns[0]].data_type;
    Cell::of(Some(&data_type.value(-32_765)), data_type)
}

/// What a value was at the start is not known in the words of another type.
fn agree(expected: &Row, found: &Row) -> bool {
    let mut cells = expected.iter().zip(found);
    cells.all(|(expected, found)| match expected {
        Cell::Initial(_) => *found != Cell::Null,
        _ => expected == found,
    })
}

fn text_of(cell: &Cell) -> String {
    cell.text().map_or("NULL".into(), literal)
}

/// The application at work, until it is stopped.
pub struct Traffic {
    stop: watch::Sender<bool>,
    count: watch::Receiver<u64>,
    wide: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Account>>,
}

impl Traffic {
    pub async fn start(database: &Database<'_>, case: &Arc<Case>, chance: &mut Chance) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (counter, count) = watch::channel(0);
        let wide = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let own = |rows: &Rows| -> Rows {
                let own = rows.iter().filter(|(tag, _)| tag.rem_euclid(WRITERS) == number);
                own.map(|(tag, row)| (*tag, row.clone())).collect()
            };
            let mut writer = Writer {
                number,
                client: database.server.connect(&database.name).await,
                case: Arc::clone(case),
                chance: Chance(chance.below(u64::MAX)),
                account: Account {
                    tables: case.tables.iter().map(|table| own(&table.rows)).collect(),
                    ..Account::default()
                },
                journal: Vec::new(),
                inserted: 0,
                fresh: 0,
                wide: Arc::clone(&wide),
            };
            let (stopped, counter) = (stopped.clone(), counter.clone());
            writers.push(tokio::spawn(async move {
                // Also when whoever started them is gone.
                while !*stopped.borrow() && stopped.has_changed().is_ok() {
                    writer.go().await;
                    counter.send_modify(|count| *count += 1);
                    tokio::time::sleep(THINK_TIME).await;
                }
                writer.account
            }));
        }
        Self {
            stop,
            count,
            wide,
            writers,
        }
    }

    /// From here on values may be written that the old type does not have.
    pub fn widen(&self) {
        self.wide.store(true, Ordering::Relaxed);
    }

    /// Waits until so many statements or transactions more are done.
    pub async fn go_on(&self, count: u64) {
        let mut counter = self.count.clone();
        let goal = *counter.borrow() + count;
        let reached = tokio::time::timeout(PATIENCE, counter.wait_for(|count| *count >= goal)).await;
        assert!(
            reached.is_ok_and(|reached| reached.is_ok()),
            "the application stands still"
        );
    }

    pub async fn stop(self) -> Account {
        self.stop.send_replace(true);
        let mut all = Account::default();
        for writer in self.writers {
            let account = writer.await.unwrap();
            all.tables.resize_with(account.tables.len(), Rows::new);
            for (all, own) in all.tables.iter_mut().zip(account.tables) {
                all.extend(own);
            }
            all.touched.extend(account.touched);
            all.statements += account.statements;
            all.slowest = all.slowest.max(account.slowest);
            all.complaints.extend(account.complaints);
        }
        all
    }
}
