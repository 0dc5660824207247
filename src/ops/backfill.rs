//! `backfill`: rows get values, or a table gets rows from another.

use super::parts::copy::{self, CopyPlan};
use super::parts::fill::{Fill, FillPlan};
use super::parts::mapping::Mapping;
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Probe};
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::Settings;

const MANUAL: &str = "\
Writes many rows in short transactions, page by page, while reads and writes go on: it can be stopped, throttled and
resumed at any batch, and stands aside for standbys that lag and for writers that wait.

With `table` and `set` it sets columns of the rows for which `needs` is true. `needs` must be false once a row is set:
it tells a resumed run what is done, and it is tried on 1,000 rows before any is written. `where` chooses rows besides.
Rows that come to need it meanwhile are filled too, once; a row that needs it after that stops the plan. It says how it
is undone: by `undo: {set, needs}`, or not, by `no_undo: reason`.

```yaml
- backfill:
    table: orders
    set: {total_cents: quantity * price_cents}
    needs: total_cents IS NULL
    no_undo: the column was empty before
```

With `from` and `into` it inserts what is made from the rows of another table: `columns` maps columns of the target to
expressions over the driving table (called `as`) and what is joined to it, by `join`; `where` leaves rows out. `key` maps
a unique key of the target to one of the driving table. A row that is there already, whoever wrote it, stays as it is.
Columns under `insert_only` are given like the others; `compare` and `sync` leave them alone afterwards.

```yaml
- backfill:
    from: old.orders
    as: o
    into: orders
    key: {id: order_id}
    join: LEFT JOIN old.customers AS c ON c.id = o.customer_id
    where: o.state <> 'draft'
    columns: {customer: c.name, total_cents: o.total * 100}
    insert_only: {created_at: now()}
```

Every row that is there from the beginning to the end is copied. One that is changed, inserted or deleted meanwhile is
not followed, unless triggers do that (see `sync`, which belongs before it): batches see different moments. What is
joined should be joined by a key, since every batch looks it up. Triggers and foreign keys of the target work as for any
row; with `pgmorph.sync` set to `on`.

Locks: ROW EXCLUSIVE on the table that is written, ACCESS SHARE on the one that is read, which block neither reads nor
writes; ROW SHARE on one that has triggers, whose rows cannot be deleted while their batch copies them.
Undo: as given with `set`. Copied rows stay, for nobody can tell them from those that were there or came since; they go
with their table where the plan created it.
";

#[derive(Debug, Clone)]
pub enum Backfill {
    Set(Fill),
    Copy(Mapping),
}

pub enum Target {
    Set(Box<FillPlan>),
    Copy(Box<CopyPlan>),
}

impl Operation for Backfill {
    type Target = Target;
    const NAME: &'static str = "backfill";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let copies = ["from", "into"].iter().any(|key| fields.optional(key).is_some());
        match copies {
            true => Mapping::read(fields).map(Self::Copy),
            false => Fill::read(fields).map(Self::Set),
        }
    }

    fn probes(&self, _now: &CatalogSnapshot) -> Vec<Probe> {
        match self {
            Self::Set(fill) => fill.probes(),
            Self::Copy(mapping) => mapping.probes(),
        }
    }

    fn needs(&self) -> Vec<Named> {
        match self {
            Self::Set(fill) => vec![Named::relation(&fill.table)],
            Self::Copy(mapping) => mapping.needs(),
        }
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        match self {
            Self::Set(fill) => Ok(Target::Set(Box::new(fill.preflight(context)?))),
            Self::Copy(mapping) => {
                let mut complaints = mapping.check(context);
                complaints.extend(copy::foreign_complaint(context.catalog, &mapping.from));
                if complaints.is_empty() {
                    Ok(Target::Copy(Box::new(CopyPlan::new(mapping, context))))
                } else {
                    Err(complaints)
                }
            }
        }
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        match target {
            Target::Set(fill) => fill.steps(settings),
            Target::Copy(copy) => copy.steps(settings),
        }
    }

    fn apply_to(_target: &Target, _catalog: &mut CatalogSnapshot) {}
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::CatalogSnapshot;
    use crate::ops::testing::{catalog, plan_text, table};

    fn orders() -> CatalogSnapshot {
        let columns = ["id bigint not null", "State text", "total bigint"];
        catalog()
            .with("Or ders", table(&columns).with_primary_key("pk", &["id"]))
            .with("new", table(&columns).with_primary_key("new_pk", &["id"]))
    }

    #[test]
    fn fills_after_it_was_tried() {
        let text = plan_text(
            &orders(),
            "  - backfill: {table: Or ders, set: {State: \"'new'\", total: id * 2}, where: id > 5, needs: '\"State\" IS NULL',
      undo: {set: {State: 'NULL'}, needs: '\"State\" IS NOT NULL'}}\n",
        );
        insta::assert_snapshot!(text, @r#"
        01-backfill-try [backfill] rows of public."Or ders" stop needing it once they are filled
          check rows of public."Or ders" stop needing it once they are filled: SELECT id FROM (SELECT id, ('new')::text AS "State", (id * 2)::bigint AS total FROM public."Or ders" WHERE (id > 5) AND ("State" IS NULL) LIMIT 1000) AS "Or ders" WHERE (id > 5) AND ("State" IS NULL) LIMIT 20
            locks: public."Or ders" ACCESS SHARE (lock_timeout -, no transaction)
          undo not needed: what it fills is undone with the rest
        01-backfill-fill [backfill] fill "State", total of public."Or ders"
          backfill public."Or ders" SET "State" = ('new'), total = (id * 2) WHERE (id > 5) AND ("State" IS NULL)
            locks: public."Or ders" ROW EXCLUSIVE (lock_timeout 200ms, no transaction)
          undo backfill public."Or ders" SET "State" = (NULL) WHERE ("State" IS NOT NULL)
          undo   locks: public."Or ders" ROW EXCLUSIVE (lock_timeout 200ms, no transaction)
          hazard rows_are_written: every row of public."Or ders" that is filled goes to the WAL, to standbys and to subscribers
        01-backfill-rest [backfill] look for rows of public."Or ders" that still need to be filled
          compare no row of public."Or ders" needs to be filled: SELECT id FROM public."Or ders" WHERE (id > 5) AND ("State" IS NULL) LIMIT 20 (1 to fill again)
            locks: public."Or ders" ROW EXCLUSIVE (lock_timeout -, no transaction)
          undo not needed: what it fills is undone with the rest
        "#);
    }

    #[test]
    fn copies_and_catches_up() {
        let text = plan_text(
            &orders(),
            "  - backfill: {from: Or ders, as: o, into: new, key: [id], where: o.id > 5, columns: {State: lower(\"State\")}}\n",
        );
        insta::assert_snapshot!(text, @r#"
        01-backfill-copy [backfill] copy rows of public."Or ders" into public.new
          copy public."Or ders": INSERT INTO public.new (id, "State") SELECT o.id AS id, (lower("State")) AS "State" FROM ONLY public."Or ders" AS o WHERE (o.id > 5) AND NOT EXISTS (SELECT FROM public.new AS "~pgmorph_there" WHERE "~pgmorph_there".id = o.id) ON CONFLICT (id) DO NOTHING
            locks: public."Or ders" ACCESS SHARE, public.new ROW EXCLUSIVE (lock_timeout 200ms, no transaction)
          undo not needed: the copied rows stay: nobody can tell them from rows that were there or came since
          hazard rows_are_written: every row that is copied into public.new goes to the WAL, to standbys and to subscribers, and needs about as much disk as it does in public."Or ders"
        01-backfill-catch_up [backfill] copy what was written to public."Or ders" meanwhile
          SET LOCAL pgmorph.sync = 'on';
          INSERT INTO public.new (id, "State") SELECT o.id AS id, (lower("State")) AS "State" FROM ONLY public."Or ders" AS o WHERE o.ctid = ANY (ARRAY(SELECT o.ctid FROM ONLY public."Or ders" AS o WHERE (o.id > 5) AND NOT EXISTS (SELECT FROM public.new AS "~pgmorph_there" WHERE "~pgmorph_there".id = o.id))) ON CONFLICT (id) DO NOTHING;
            locks: public."Or ders" ACCESS SHARE, public.new ROW EXCLUSIVE (lock_timeout 200ms)
          undo not needed: the copied rows stay: nobody can tell them from rows that were there or came since
        01-backfill-analyze [backfill] gather statistics of public.new
          ANALYZE public.new;
            locks: public.new SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo not needed: statistics do no harm
        "#);
    }

    #[test]
    fn says_everything_that_is_wrong() {
        let none = "  - backfill: {table: new, set: {stat: 1}, needs: x}\n";
        insta::assert_snapshot!(plan_text(&orders(), none), @"3:15 missing_key: exactly one of `undo` and `no_undo` is needed (`undo: {set: {…}, needs: …}` brings the old values back; `no_undo: reason` says why nothing has to)");
        let wrong = "  - backfill: {table: new, set: {stat: 1}, needs: x, no_undo: x}\n  - backfill: {from: old, into: new, key: [total], columns: [x]}\n";
        insta::assert_snapshot!(plan_text(&orders(), wrong), @"
        3:34 unknown_column: public.new has no column `stat` (did you mean `State`?)
        4:22 unknown_table: there is no table public.old
        4:62 unknown_column: public.new has no column `x`
        4:44 key_not_unique: public.new has no unique index on (total) over all of its rows (name the columns of a primary key, or of a unique index that is neither partial nor deferrable)
        4:33 column_not_given: public.new.id must have a value and is given none (add `id` to `columns`)
        ");
    }
}
