//! `compare`: two tables, or two queries, have the same rows.

use super::parts::mapping::Mapping;
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Column, Probe, Table};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{
    Action, Estimate, Lock, LockMode, Match, MatchColumn, Phase, Settings, Transaction, Undo, Work,
};
use crate::sql::{QualifiedName, ident};

const MANUAL: &str = "\
Compares the rows of two sides by a key: rows that only one of them has, rows that differ, and in which columns. Ranges of
the key are compared by their hashes, each in one picture of both sides, and halved where they differ, down to the rows.
So a table of millions takes minutes and few questions, and what writes both sides in one transaction is no difference. What
differs is looked at again before it counts. The plan stops at differences; their keys are shown, never values.

```yaml
- compare:
    from: old.orders
    as: o
    into: orders
    key: {id: order_id}
    join: LEFT JOIN old.customers AS c ON c.id = o.customer_id
    where: o.state <> 'draft'
    columns: {customer: c.name, total_cents: o.total * 100}
    where_right: source = 'old'
```

The keys are those of `backfill` and `sync`: what the mapping makes must be what the table has. `where_right` leaves rows of
the table out that do not come from it. Values are compared as text, both as the type of the table's column.

Or any two queries, `left` and `right`, with `key`, a list of columns that are unique and indexed on both sides and sort
alike there, and `columns`, a list of those to be compared; without it all are, by their names. They must have the same
types on both sides.

`verify` compares again, until a later phase is done; while a `sync` of the plan is in place, always. With `--watch` it
goes on comparing.

Locks: ACCESS SHARE on what is read, which blocks neither reads nor writes.
Undo: not needed, it only reads.
";

#[derive(Debug, Clone)]
pub enum Compare {
    Mapping {
        mapping: Box<Mapping>,
        where_right: Option<Located<String>>,
    },
    Queries {
        left: String,
        right: String,
        key: Vec<String>,
        columns: Option<Vec<String>>,
    },
}

pub struct Target {
    it: Match,
    reads: Vec<QualifiedName>,
    estimate: Estimate,
}

impl Target {
    /// That a table has what a mapping makes, which was checked.
    pub fn of_mapping(mapping: &Mapping, where_right: Option<&str>, source: &Table, target: &Table) -> Self {
        let rows = source.size.rows.max(target.size.rows);
        let bytes = source.size.heap_bytes + target.size.heap_bytes;
        Self {
            it: matched(mapping, where_right, source, target),
            reads: vec![mapping.from.value.clone(), mapping.into.value.clone()],
            estimate: Estimate::scan(rows, bytes, 0),
        }
    }
}

const HELP: &str = "repair these rows, or what writes them, then run the same command again";

fn plain(names: &[String]) -> Vec<MatchColumn> {
    let column = |name: &String| MatchColumn {
        name: name.clone(),
        cast: None,
        edge: None,
    };
    names.iter().map(column).collect()
}

fn query(text: &str) -> String {
    text.trim().trim_end_matches(';').to_owned()
}

fn are_integers(one: &Column, other: &Column) -> bool {
    let integer = |column: &Column| ["smallint", "integer", "bigint"].contains(&column.data_type.as_str());
    integer(one) && integer(other)
}

/// Integers of any width are compared with one another by index.
fn key_edge(source: &Column, target: &Column) -> Option<String> {
    let unlike = source.data_type != target.data_type && are_integers(source, target);
    unlike.then(|| "bigint".to_owned())
}

/// Keys are compared as they are where they sort alike anyway, for the sake of their indexes.
fn key_cast(source: &Column, target: &Column) -> Option<String> {
    let same = source.data_type == target.data_type || are_integers(source, target);
    match same {
        true if source.collation == target.collation => None,
        true => Some(format!("{} COLLATE \"C\"", target.data_type)),
        false => Some(target.data_type.clone()),
    }
}

fn matched(mapping: &Mapping, where_right: Option<&str>, source: &Table, target: &Table) -> Match {
    let key = mapping.key.iter().map(|(name, from)| {
        let columns = source.column(&from.value).zip(target.column(&name.value));
        MatchColumn {
            name: name.value.clone(),
            cast: columns.and_then(|(source, target)| key_cast(source, target)),
            edge: columns.and_then(|(source, target)| key_edge(source, target)),
        }
    });
    let columns = mapping.columns.iter().map(|(name, _)| MatchColumn {
        name: name.value.clone(),
        cast: target.column(&name.value).map(|column| column.data_type.clone()),
        edge: None,
    });
    let (from, into) = (&mapping.from.value, &mapping.into.value);
    let compared = mapping.key.iter().chain(&mapping.columns);
    let names: Vec<String> = compared.map(|(name, _)| ident(&name.value)).collect();
    let condition = where_right.map(|condition| format!(" WHERE {condition}"));
    Match {
        name: format!("{into} has what {from} makes"),
        left: mapping.select(false),
        right: format!(
            "SELECT {} FROM {into}{}",
            names.join(", "),
            condition.unwrap_or_default()
        ),
        sides: (from.to_string(), into.to_string()),
        key: key.collect(),
        columns: Some(columns.collect()),
        help: HELP.into(),
    }
}

impl Operation for Compare {
    type Target = Target;
    const NAME: &'static str = "compare";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let is_mapping = ["from", "into"].iter().any(|key| fields.optional(key).is_some());
        if is_mapping {
            let where_right = fields.optional_text("where_right");
            return Some(Self::Mapping {
                mapping: Box::new(Mapping::read(fields)?),
                where_right,
            });
        }
        let names = |names: Vec<Located<String>>| names.into_iter().map(|name| name.value).collect();
        let (left, right) = (fields.text("left"), fields.text("right"));
        let key = fields.identifiers("key").map(names);
        let columns = fields.optional_identifiers("columns").map(names);
        Some(Self::Queries {
            left: query(&left?.value),
            right: query(&right?.value),
            key: key?,
            columns,
        })
    }

    fn probes(&self, _now: &CatalogSnapshot) -> Vec<Probe> {
        match self {
            Self::Mapping { mapping, .. } => mapping.probes(),
            Self::Queries { .. } => Vec::new(),
        }
    }

    fn needs(&self) -> Vec<Named> {
        match self {
            Self::Mapping { mapping, .. } => mapping.needs(),
            Self::Queries { .. } => Vec::new(),
        }
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let (mapping, where_right) = match self {
            Self::Mapping { mapping, where_right } => (mapping, where_right),
            Self::Queries {
                left,
                right,
                key,
                columns,
            } => {
                let it = Match {
                    name: "the two queries have the same rows".into(),
                    left: left.clone(),
                    right: right.clone(),
                    sides: ("the left query".into(), "the right query".into()),
                    key: plain(key),
                    columns: columns.as_deref().map(plain),
                    help: HELP.into(),
                };
                return Ok(Target {
                    it,
                    reads: Vec::new(),
                    estimate: Estimate::scan(-1, 0, 0),
                });
            }
        };
        let complaints = mapping.check_compared(context);
        let tables = &context.catalog.tables;
        let sides = [&mapping.from.value, &mapping.into.value].map(|name| tables.get(name));
        match (complaints.is_empty(), sides[0], sides[1]) {
            (true, Some(source), Some(target)) => {
                let where_right = where_right.as_ref().map(|it| it.value.as_str());
                Ok(Target::of_mapping(mapping, where_right, source, target))
            }
            _ => Err(complaints),
        }
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let locks = target
            .reads
            .iter()
            .map(|table| Lock::new(table, LockMode::AccessShare));
        vec![StepDraft {
            id: "compare".into(),
            phase: Phase::Validate,
            work: Work {
                summary: format!("compare: {}", target.it.name),
                action: Action::Match(Box::new(target.it.clone())),
                transaction: Transaction::None,
                locks: locks.collect(),
                timeouts: settings.patient(),
                expect: Vec::new(),
                on_violation: None,
                guards_values: false,
                part: None,
                not_before: None,
            },
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "it only reads".into(),
            },
            estimate: target.estimate,
        }]
    }

    fn apply_to(_target: &Target, _catalog: &mut CatalogSnapshot) {}
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text, table};

    #[test]
    fn compares_as_the_types_of_the_table() {
        let old = table(&["id integer not null", "name text", "code text not null"]);
        let new = table(&["id bigint not null", "Name varchar(20)", "extra text not null"]);
        let catalog = catalog()
            .with("old", old.with_primary_key("old_pk", &["id"]))
            .with("New", new.with_primary_key("new_pk", &["id"]));
        let changes = "  - compare: {from: old, into: New, key: [id], columns: {Name: upper(old.name)}, where_right: id > 0}
  - compare: {left: 'SELECT * FROM old;', right: 'SELECT * FROM \"New\"', key: [id]}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        01-compare-compare [validate] compare: public."New" has what public.old makes
          match public."New" has what public.old makes: SELECT old.id AS id, (upper(old.name)) AS "Name" FROM public.old AS old
            with SELECT id, "Name" FROM public."New" WHERE id > 0
            by id -, Name varchar(20)
            locks: public.old ACCESS SHARE, public."New" ACCESS SHARE (lock_timeout -, no transaction)
          undo not needed: it only reads
        02-compare-compare [validate] compare: the two queries have the same rows
          match the two queries have the same rows: SELECT * FROM old
            with SELECT * FROM "New"
            by id -
            locks:  (lock_timeout -, no transaction)
          undo not needed: it only reads
        "#);
        let changes =
            "  - compare: {from: old, into: New, key: {id: code}, columns: {Nam: upper(old.name)}}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        3:47 key_not_unique: public.old has no unique index on (code) over all of its rows (name the columns of a primary key, or of a unique index that is neither partial nor deferrable)
        3:64 unknown_column: public."New" has no column `Nam` (did you mean `Name`?)
        "#);
    }
}
