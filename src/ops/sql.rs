//! `sql`: statements of the user's own, with what pgmorph cannot know about them declared.

use super::parts::statement::{self, Names, Recognised};
use super::{Context, Named, Object, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Table};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::{Fields, Node, Value};
use crate::plan::{
    Action, DurationClass, Estimate, Expectation, Hazard, Lock, LockMode, Phase, Settings, Timeouts,
    Transaction, Undo, Work,
};
use crate::sql::QualifiedName;
use std::collections::BTreeMap;

const MANUAL: &str = "\
Runs statements of your own. Since nothing is known about them, you declare their phase, how they are undone, and a
query that is true once they have had their effect. The lock is taken from the statement where it is recognised;
where it is not, you declare it, and a declaration that is too weak is refused.

```yaml
- sql:
    summary: keep updated_at current
    run: |
      CREATE TRIGGER orders_touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch_updated_at()
    undo: DROP TRIGGER IF EXISTS orders_touch ON orders
    phase: expand
    lock: {orders: SHARE ROW EXCLUSIVE}
    expect: EXISTS (SELECT FROM pg_trigger WHERE tgname = 'orders_touch')
```

`run` and `undo` are one text or a list; all statements of one run in one transaction, except for the kinds that
PostgreSQL refuses there (CREATE INDEX CONCURRENTLY, VACUUM…), which stand alone and need `expect`. One that was cut off
may have left a part: begin `run` with what removes it, such as DROP INDEX CONCURRENTLY IF EXISTS. `undo` is run in any
case then, and what it does not find there is gone. Instead of `undo`
give `irreversible: reason` (phase contract only) or `no_undo: reason`. BEGIN, COMMIT and SET are refused.
`verify` does not compare the tables that such statements change with a prediction; it asks `expect`.
Where many plans are applied together, their order is checked by what each names and makes: what CREATE and ALTER make is
seen, and relations made in other ways (by a function, in a DO block) are told by `makes: [NAME, …]`.

Locks: as declared or recognised. In a transaction always under lock_timeout, and under statement_timeout where they
block reads or writes.
";

/// Statements that would end or bypass the transaction and the timeouts around them.
const REFUSED: &[&str] = &[
    "begin",
    "commit",
    "rollback",
    "start",
    "end",
    "abort",
    "savepoint",
    "set",
    "reset",
    "discard",
    "copy",
];

#[derive(Debug, Clone)]
pub struct Sql {
    summary: Option<String>,
    run: Vec<Located<String>>,
    undo: Declared,
    phase: Phase,
    phase_span: Span,
    /// `None`: left to recognition.
    locks: Option<Vec<(Located<QualifiedName>, LockMode)>>,
    expect: Option<Located<String>>,
    /// Relations that it makes in ways that its words do not tell.
    makes: Vec<Located<QualifiedName>>,
    default_schema: String,
}

#[derive(Debug, Clone)]
enum Declared {
    Statements(Vec<Located<String>>),
    Irreversible(String),
    NotNeeded(String),
}

pub struct Target {
    summary: String,
    run: Vec<String>,
    undo: Declared,
    phase: Phase,
    locks: Vec<Lock>,
    undo_locks: Vec<Lock>,
    outside_transaction: bool,
    undo_outside_transaction: bool,
    expect: Option<String>,
    bytes: i64,
}

fn statements(fields: &Fields<'_>, items: &[Node], key: &str) -> Vec<Located<String>> {
    let texts = items.iter().filter_map(|item| fields.text_of(item, key));
    let split = |text: Located<String>| {
        let span = text.span;
        statement::split(&text.value)
            .into_iter()
            .map(move |value| Located { value, span })
    };
    texts.flat_map(split).collect()
}

fn read_locks(fields: &Fields<'_>) -> Option<Vec<(Located<QualifiedName>, LockMode)>> {
    let node = fields.optional("lock")?;
    if !matches!(node.value, Value::Map(_)) {
        let message = "`lock` is a map of tables and lock modes";
        fields.report(
            Diagnostic::new("wrong_type", message)
                .at(node.span)
                .help("lock: {orders: SHARE ROW EXCLUSIVE}"),
        );
        return None;
    }
    let entries = fields.entries(node, "lock")?;
    let mut locks = Vec::new();
    for (table, mode) in entries {
        let Some(text) = fields.text_of(mode, &table.value) else {
            continue;
        };
        let wanted = text.value.to_uppercase();
        let found = LockMode::ALL.into_iter().find(|mode| mode.sql() == wanted);
        match (QualifiedName::parse(&table.value, fields.default_schema()), found) {
            (Ok(value), Some(mode)) => locks.push((
                Located {
                    value,
                    span: table.span,
                },
                mode,
            )),
            (Err(message), _) => fields.report(Diagnostic::new("invalid_value", message).at(table.span)),
            (_, None) => {
                let modes: Vec<_> = LockMode::ALL.iter().map(|mode| mode.sql()).collect();
                let message = format!("{:?} is not a lock mode", text.value);
                let complaint = Diagnostic::new("invalid_value", message).at(text.span);
                fields.report(
                    complaint
                        .help(format!("one of {}", modes.join(", ")))
                        .suggest(&wanted, modes),
                );
            }
        }
    }
    Some(locks)
}

fn read_makes(fields: &Fields<'_>) -> Vec<Located<QualifiedName>> {
    let read = |item: &Node| {
        let text = fields.text_of(item, "makes")?;
        match QualifiedName::parse(&text.value, fields.default_schema()) {
            Ok(value) => Some(Located {
                value,
                span: text.span,
            }),
            Err(message) => {
                fields.report(Diagnostic::new("invalid_value", message).at(text.span));
                None
            }
        }
    };
    let items = fields.optional_list("makes").unwrap_or_default();
    items.iter().filter_map(read).collect()
}

fn read_undo(fields: &Fields<'_>) -> Option<Declared> {
    let undo = fields
        .optional_list("undo")
        .map(|items| Declared::Statements(statements(fields, items, "undo")));
    let irreversible = fields
        .optional_text("irreversible")
        .map(|reason| Declared::Irreversible(reason.value));
    let no_undo = fields
        .optional_text("no_undo")
        .map(|reason| Declared::NotNeeded(reason.value));
    let mut given: Vec<Declared> = [undo, irreversible, no_undo].into_iter().flatten().collect();
    if given.len() != 1 {
        let message = "exactly one of `undo`, `irreversible` and `no_undo` is needed";
        fields.report(Diagnostic::new("missing_key", message).at(fields.span()));
        return None;
    }
    given.pop()
}

impl Sql {
    /// Everything wrong with the statements themselves, and what is known about them.
    fn recognised(
        &self,
        list: &[Located<String>],
        complaints: &mut Vec<Diagnostic>,
    ) -> Vec<Option<Recognised>> {
        let mut found = Vec::new();
        for text in list {
            let first = statement::split(&text.value)
                .into_iter()
                .next()
                .unwrap_or_default();
            let word = first.split_whitespace().next().unwrap_or_default().to_lowercase();
            if REFUSED.contains(&word.as_str()) {
                let message = format!("{} is not allowed here", word.to_uppercase());
                let help = "transactions and timeouts are set by pgmorph; use `settings` for timeouts";
                complaints.push(
                    Diagnostic::new("refused_statement", message)
                        .at(text.span)
                        .help(help),
                );
            }
            found.push(statement::recognise(&text.value, &self.default_schema));
        }
        if list.len() > 1 && found.iter().flatten().any(|known| known.outside_transaction) {
            let message = "a statement that cannot run in a transaction stands alone";
            let help = "give it a `sql` entry of its own";
            complaints.push(
                Diagnostic::new("not_in_transaction", message)
                    .at(list[0].span)
                    .help(help),
            );
        }
        found
    }

    /// A statement that drops indexes names them only: their tables are those of the catalog, or those on which the statements
    /// that are run have built them.
    fn tables_of_indexes(
        &self,
        context: &Context<'_>,
        list: &[Located<String>],
        known: &mut [Option<Recognised>],
    ) {
        let built = |index: &QualifiedName| {
            let mut built = self
                .run
                .iter()
                .filter_map(|text| statement::built_index(&text.value, &self.default_schema));
            built.find(|(name, _)| name == index).map(|(_, table)| table)
        };
        let there = |index: &QualifiedName| {
            let tables = &context.catalog.tables;
            let has = |(name, table): &(&QualifiedName, &Table)| {
                name.schema == index.schema && table.indexes.contains_key(&index.name)
            };
            tables.iter().find(has).map(|(name, _)| name.clone())
        };
        for (text, known) in list.iter().zip(known) {
            let dropped = statement::dropped_indexes(&text.value, &self.default_schema);
            let Some((indexes, concurrently)) = dropped else {
                continue;
            };
            let tables = indexes.iter().map(|index| there(index).or_else(|| built(index)));
            let Some(tables) = tables.collect::<Option<Vec<_>>>() else {
                continue;
            };
            let (kind, mode) = match concurrently {
                true => ("DROP INDEX CONCURRENTLY", LockMode::ShareUpdateExclusive),
                false => ("DROP INDEX", LockMode::AccessExclusive),
            };
            *known = Some(Recognised {
                kind,
                locks: tables.into_iter().map(|table| (table, mode)).collect(),
                outside_transaction: concurrently,
            });
        }
    }

    /// The declared locks, checked against the recognised ones, or the recognised ones.
    fn locks(&self, known: &[Option<Recognised>], complaints: &mut Vec<Diagnostic>) -> Vec<Lock> {
        let mut needed: BTreeMap<QualifiedName, (LockMode, &'static str)> = BTreeMap::new();
        for recognised in known.iter().flatten() {
            for (table, mode) in &recognised.locks {
                let entry = needed.entry(table.clone()).or_insert((*mode, recognised.kind));
                if *mode > entry.0 {
                    *entry = (*mode, recognised.kind);
                }
            }
        }
        let Some(declared) = &self.locks else {
            if let Some(position) = known.iter().position(Option::is_none) {
                let help =
                    "declare `lock: {table: MODE}` with the strongest lock it takes, or `lock: {}` for none";
                let message = "it is not known what this statement locks";
                complaints.push(
                    Diagnostic::new("unknown_lock", message)
                        .at(self.run[position].span)
                        .help(help),
                );
            }
            return needed
                .iter()
                .map(|(table, (mode, _))| Lock::new(table, *mode))
                .collect();
        };
        for (table, (mode, kind)) in &needed {
            let given = declared.iter().find(|(name, _)| name.value == *table);
            if given.is_none_or(|(_, given)| given < mode) {
                let what = given.map_or("nothing".to_owned(), |(_, given)| given.to_string());
                let message = format!(
                    "{kind} takes {mode} on {table}, which blocks {}; declared is {what}",
                    mode.blocks()
                );
                let span = given.map_or(self.run[0].span, |(name, _)| name.span);
                complaints.push(Diagnostic::new("lock_too_weak", message).at(span));
            }
        }
        declared
            .iter()
            .map(|(table, mode)| Lock::new(&table.value, *mode))
            .collect()
    }

    /// What was declared holds for the way back too where one of its statements is not recognised; what is recognised there
    /// comes on top.
    fn undo_locks(
        &self,
        known: &[Option<Recognised>],
        locks: &[Lock],
        complaints: &mut Vec<Diagnostic>,
    ) -> Vec<Lock> {
        let mut taken = match &self.locks {
            Some(_) if known.iter().any(Option::is_none) => locks.to_vec(),
            _ => Vec::new(),
        };
        if let (Declared::Statements(list), None) = (&self.undo, &self.locks)
            && let Some(position) = known.iter().position(Option::is_none)
        {
            let help =
                "declare `lock: {table: MODE}` with the strongest lock it takes, or `lock: {}` for none";
            let message = "it is not known what this undo locks";
            complaints.push(
                Diagnostic::new("unknown_lock", message)
                    .at(list[position].span)
                    .help(help),
            );
        }
        for (table, mode) in known.iter().flatten().flat_map(|known| &known.locks) {
            match taken.iter_mut().find(|lock| lock.relation == *table) {
                Some(lock) => lock.mode = lock.mode.max(*mode),
                None => taken.push(Lock::new(table, *mode)),
            }
        }
        taken
    }

    fn names(&self) -> impl Iterator<Item = (Names, Span)> {
        self.run
            .iter()
            .map(|text| (statement::names(&text.value, &self.default_schema), text.span))
    }

    fn summary(&self) -> String {
        let first = self
            .run
            .first()
            .map(|text| text.value.split_whitespace().collect::<Vec<_>>().join(" "));
        self.summary
            .clone()
            .unwrap_or_else(|| first.unwrap_or_default().chars().take(60).collect())
    }
}

/// In a transaction even rows are waited for under `lock_timeout`: the application may wait for us meanwhile, and
/// must not be the deadlock victim.
fn own_work(
    settings: &Settings,
    (summary, statements): (String, Vec<String>),
    outside: bool,
    locks: Vec<Lock>,
    expect: Vec<Expectation>,
) -> Work {
    let blocks = locks.iter().any(|lock| lock.mode.blocks_writes());
    let timeouts = match (blocks, outside) {
        (true, _) => settings.brief(),
        (false, true) => settings.patient(),
        (false, false) => Timeouts {
            lock_ms: settings.brief().lock_ms,
            ..settings.patient()
        },
    };
    Work {
        summary,
        action: Action::Sql(statements),
        transaction: match outside {
            true => Transaction::None,
            false => Transaction::Single,
        },
        locks,
        timeouts,
        expect,
        on_violation: None,
        guards_values: false,
        part: None,
        not_before: None,
    }
}

impl Operation for Sql {
    type Target = Target;
    const NAME: &'static str = "sql";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let summary = fields.optional_text("summary").map(|text| text.value);
        let run = fields.list("run").map(|items| statements(fields, items, "run"));
        let undo = read_undo(fields);
        let choices: Vec<(&str, Phase)> = Phase::ALL.iter().map(|phase| (phase.name(), *phase)).collect();
        fields.required("phase");
        let phase = fields.choice("phase", &choices);
        let locks = read_locks(fields);
        let expect = fields.optional_text("expect");
        let makes = read_makes(fields);
        let run = run?;
        if run.is_empty() {
            fields.report(Diagnostic::new("empty_list", "`run` has no statement").at(fields.span()));
            return None;
        }
        let phase = phase?;
        Some(Self {
            summary,
            run,
            undo: undo?,
            phase: phase.value,
            phase_span: phase.span,
            locks,
            expect,
            makes,
            default_schema: fields.default_schema().to_owned(),
        })
    }

    fn needs(&self) -> Vec<Named> {
        let mut needs: Vec<Named> = self
            .locks
            .iter()
            .flatten()
            .map(|(table, _)| Named::relation(table))
            .collect();
        for (names, span) in self.names() {
            needs.extend(names.needs.into_iter().map(|it| Named::at(it, span)));
            needs.extend(names.reads.into_iter().map(|it| Named::at(it, span).guessed()));
        }
        needs
    }

    fn makes(&self) -> Vec<Named> {
        let declared = self.makes.iter().map(Named::relation);
        let recognised = self.names().flat_map(|(names, span)| {
            let sure = !names.unless_there;
            names.makes.into_iter().map(move |it| Named {
                certain: sure,
                ..Named::at(it, span)
            })
        });
        declared.chain(recognised).collect()
    }

    fn takes(&self) -> Vec<Object> {
        self.names().flat_map(|(names, _)| names.takes).collect()
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let mut complaints = Vec::new();
        let mut known = self.recognised(&self.run, &mut complaints);
        self.tables_of_indexes(context, &self.run, &mut known);
        let locks = self.locks(&known, &mut complaints);
        let undo_known = match &self.undo {
            Declared::Statements(list) => {
                let mut known = self.recognised(list, &mut complaints);
                self.tables_of_indexes(context, list, &mut known);
                known
            }
            _ => Vec::new(),
        };
        let undo_locks = self.undo_locks(&undo_known, &locks, &mut complaints);
        let is_named = |name: &QualifiedName| {
            let named = known.iter().flatten().flat_map(|known| &known.locks);
            named.into_iter().any(|(other, _)| other == name)
        };
        for (name, _) in self.locks.iter().flatten() {
            // A view or a sequence has to be declared too where it is locked.
            if !is_named(&name.value) || context.catalog.tables.contains_key(&name.value) {
                complaints.extend(context.table(name).err());
            }
        }
        if matches!(self.undo, Declared::Irreversible(_)) && self.phase != Phase::Contract {
            let message = "what cannot be undone belongs into phase contract";
            complaints.push(Diagnostic::new("irreversible_too_early", message).at(self.phase_span));
        }
        let outside = |known: &[Option<Recognised>]| known.iter().flatten().any(|it| it.outside_transaction);
        if outside(&known) && self.expect.is_none() {
            let message =
                "a statement outside a transaction needs `expect`, so that a rerun knows whether it is done";
            complaints.push(Diagnostic::new("missing_key", message).at(self.run[0].span));
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let bytes = locks
            .iter()
            .filter_map(|lock| context.catalog.tables.get(&lock.relation));
        Ok(Target {
            summary: self.summary(),
            run: self.run.iter().map(|text| text.value.clone()).collect(),
            undo: self.undo.clone(),
            phase: self.phase,
            bytes: bytes.map(|table| table.size.total_bytes()).sum(),
            locks,
            undo_locks,
            outside_transaction: outside(&known),
            undo_outside_transaction: outside(&undo_known),
            expect: self
                .expect
                .as_ref()
                .map(|query| query.value.trim().trim_end_matches(';').to_owned()),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let ask = |query: String| vec![Expectation::Query { query }];
        let undo = match &target.undo {
            Declared::Irreversible(reason) => Undo::Irreversible {
                reason: reason.clone(),
            },
            Declared::NotNeeded(reason) => Undo::NotNeeded {
                reason: reason.clone(),
            },
            Declared::Statements(list) => {
                let gone = target
                    .expect
                    .as_ref()
                    .map(|query| ask(format!("NOT ({query})")))
                    .unwrap_or_default();
                let statements = list.iter().map(|text| text.value.clone()).collect();
                let summary = format!("undo: {}", target.summary);
                Undo::Work(vec![own_work(
                    settings,
                    (summary, statements),
                    target.undo_outside_transaction,
                    target.undo_locks.clone(),
                    gone,
                )])
            }
        };
        let expect = target.expect.clone().map(ask).unwrap_or_default();
        vec![StepDraft {
            id: "run".into(),
            phase: target.phase,
            work: own_work(
                settings,
                (target.summary.clone(), target.run.clone()),
                target.outside_transaction,
                target.locks.clone(),
                expect,
            ),
            hazards: vec![Hazard::new(
                "own_sql",
                "statements of your own: nothing is known about what else they do",
            )],
            undo,
            estimate: Estimate {
                duration: DurationClass::for_bytes(target.bytes),
                ..Estimate::INSTANT
            },
        }]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        for lock in &target.locks {
            catalog.unpredicted.insert(lock.relation.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text, table};

    fn planned(entry: &str) -> String {
        let catalog = catalog().with("orders", table(&["id bigint not null", "status text"]));
        plan_text(&catalog, &format!("  - sql: {entry}\n"))
    }

    #[test]
    fn takes_the_lock_from_the_statement() {
        insta::assert_snapshot!(
            planned("{run: 'UPDATE orders SET status = 1', no_undo: harmless, phase: backfill}"),
            @"
        01-sql-run [backfill] UPDATE orders SET status = 1
          UPDATE orders SET status = 1;
            locks: public.orders ROW EXCLUSIVE (lock_timeout 200ms)
          undo not needed: harmless
          hazard own_sql: statements of your own: nothing is known about what else they do
        "
        );
    }

    #[test]
    fn refuses_what_it_must() {
        insta::assert_snapshot!(
            planned("{run: 'CREATE INDEX ON orders (id); COMMIT', irreversible: x, phase: expand, lock: {orders: SHARE UPDATE EXCLUSIVE}}"),
            @r"
        3:16 refused_statement: COMMIT is not allowed here (transactions and timeouts are set by pgmorph; use `settings` for timeouts)
        3:94 lock_too_weak: CREATE INDEX takes SHARE on public.orders, which blocks writes; declared is SHARE UPDATE EXCLUSIVE
        3:79 irreversible_too_early: what cannot be undone belongs into phase contract
        "
        );
    }
}
