//! `change_type`: any other type, by an expression where a cast does not do.

use super::parts::retype::{By, Retyping, Room};
use crate::document::Fields;

const MANUAL: &str = "\
Gives a column any other type: text → integer, integer → text, timestamp → timestamptz, text → jsonb, bigint →
integer…. Where every value of the present type has its place in the new one, it does what `widen_column` does.

```yaml
- change_type:
    table: orders
    column: placed_at
    type: timestamptz
    using: placed_at AT TIME ZONE 'UTC'
    reverse_using: placed_at AT TIME ZONE 'UTC'
```

`using` gives the new value from the present one, `reverse_using` the old value from a new one; both speak of the column
by its name. Without them values are assigned, as PostgreSQL assigns in INSERT: so varchar(20) → varchar(10) refuses
what is too long, instead of cutting it off, and numeric(10,4) → numeric(10,2) rounds. The expressions may depend on
nothing but the column: they are evaluated in sessions of the application as well as in ours. Functions must be
IMMUTABLE, but for those of pg_catalog that depend on DateStyle, IntervalStyle, lc_time and lc_numeric at most, or on the
labels of an enum (text → enum, text → date, to_date, to_char…): these settings are pinned to the functions that convert,
DateStyle to what it is in the session that plans. Where the time zone matters, name it: day::timestamp AT TIME ZONE 'UTC'.
`default`, an expression, replaces a default that has no form in the new type.

A shadow column, as `widen_column` describes it, is filled by the expression. Values without a form in the new type are
shown, with the error of each, before anything is filled; until the phase validate the application may go on writing
such values, from then on its writes of them fail, as they would after the cutover. All rows are compared byte by byte
before the cutover. Afterwards the old column gets the old value of whatever is written: rows that nobody wrote go back
exactly as they were, however much the expression loses. A value without a way back does not fail; the rollback shows
the rows and refuses, unless it is given --accept-loss.

`also` and `cascade` are those of `widen_column`: columns that refer to this one get the type by the same cutover. No
expression can stand beside them, and where a cast does not do the columns are of type smallint, integer, bigint or uuid:
`cascade: true` takes bigint keys back to integer.

Refused by name besides what `widen_column` refuses: columns with foreign keys whose other side keeps its type, where
values are converted.

Locks: ACCESS EXCLUSIVE on the table for an instant (add, from validate on, cutover, contract); SHARE UPDATE EXCLUSIVE
while indexes are built and constraints proven, which blocks neither reads nor writes.
Undo: the old column comes back.
";

pub type ChangeType = Retyping<Converting>;

#[derive(Debug, Clone)]
pub struct Converting;

impl Room for Converting {
    const NAME: &'static str = "change_type";
    const MANUAL: &'static str = MANUAL;

    fn by(fields: &Fields<'_>) -> By {
        By::Conversion {
            using: fields.optional_text("using"),
            reverse_using: fields.optional_text("reverse_using"),
        }
    }
}
