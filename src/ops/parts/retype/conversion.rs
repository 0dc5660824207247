//! Asks the server about the expressions of a conversion.

use super::{Retype, settled};
use crate::catalog::model::{Column, Constraint, ConstraintKind, Probe, ProbeError, ProbeOutcome, Table};
use crate::catalog::types;
use crate::diagnostic::{Diagnostic, Located};
use crate::ops::Context;
use crate::ops::parts::conversion::Conversion;
use crate::ops::parts::shadow::{self, Moves};
use crate::sql::{QualifiedName, ident};

/// The column of a clone whose expression the server spells.
const PROBED: &str = "~pgmorph_converted";

/// A check of the clone with the cast that ends the conversion.
const PROBED_CAST: &str = "~pgmorph_cast";

/// SQLSTATE of an expression that is not immutable.
const NOT_IMMUTABLE: &str = "42P17";

/// SQLSTATE of a name that is taken.
const TAKEN: &str = "42P07";

/// Types whose values are what they were after any conversion there and back that succeeds, so that a key on both
/// sides still holds.
const COMES_BACK: [&str; 4] = ["smallint", "integer", "bigint", "uuid"];

/// What the server is asked about one of the expressions.
pub(super) struct Asked {
    /// The generated column gives its spelling, the constraint tells which columns it reads.
    spelled: Probe,
    /// Cannot succeed, as its name is taken; but what depends on a setting is refused before that is noticed. The
    /// server does not look at the cast that ends a generation expression.
    immutable: Probe,
    /// Checks may call what is not immutable; their parse trees tell what that is.
    settled: Probe,
}

/// An expression as the server spells it.
struct Spelled {
    text: String,
    /// Whether it depends on settings.
    is_stable: bool,
}

impl Asked {
    fn about(retype: &Retype, given: Option<&Located<String>>, data_type: &str) -> Self {
        let expression = given.map_or_else(|| ident(&retype.column.value), |given| given.value.clone());
        let (probed, table) = (ident(PROBED), &retype.table.value);
        Self {
            spelled: retype.altered(format!(
                "ADD COLUMN {probed} {data_type} GENERATED ALWAYS AS ({expression}) STORED, \
                 ADD CONSTRAINT {probed} CHECK (({expression}) IS NOT NULL)"
            )),
            immutable: Probe {
                table: table.clone(),
                before: format!("CREATE INDEX {} ON ", ident(&table.name)),
                after: format!(" ((1)) WHERE (({expression})::{data_type}) IS NOT NULL"),
            },
            settled: retype.altered(format!(
                "ADD CONSTRAINT {probed} CHECK (({expression}) IS NOT NULL), \
                 ADD CONSTRAINT {} CHECK ((({expression})::{data_type}) IS NOT NULL)",
                ident(PROBED_CAST)
            )),
        }
    }

    pub(super) fn probes(&self, retype: &Retype) -> [Probe; 5] {
        let (probed, cast) = (ident(PROBED), ident(PROBED_CAST));
        let drop = retype.altered(format!(
            "DROP CONSTRAINT IF EXISTS {probed}, DROP CONSTRAINT IF EXISTS {cast}, DROP COLUMN IF EXISTS {probed}"
        ));
        [
            self.immutable.clone(),
            self.spelled.clone(),
            drop.clone(),
            self.settled.clone(),
            drop,
        ]
    }

    /// Whether it was refused only for depending on something.
    fn is_mutable(&self, context: &Context<'_>) -> bool {
        let refused = |answer: Option<Result<&ProbeOutcome, &ProbeError>>| matches!(answer, Some(Err(error)) if error.sqlstate == NOT_IMMUTABLE);
        refused(context.answer(&self.immutable)) || refused(context.answer(&self.spelled))
    }

    /// `None` where the server was not asked.
    fn answer<'a>(&self, context: &Context<'a>) -> Option<Result<&'a ProbeOutcome, &'a ProbeError>> {
        match context.answer(&self.immutable)? {
            Err(error) if error.sqlstate != TAKEN => Some(Err(error)),
            _ => context.answer(&self.spelled),
        }
    }
}

impl Retype {
    /// The questions before the column has its new type and after; `None` where a cast does.
    pub(super) fn asked(&self, table: &Table) -> Option<[Asked; 2]> {
        let column = table.column(&self.column.value)?;
        let (using, reverse_using) = self.expressions();
        let casts = types::fits_predicate(&column.data_type, &self.data_type.value, &column.name).is_some();
        (using.is_some() || !casts).then(|| {
            [
                Asked::about(self, using, &self.data_type.value),
                Asked::about(self, reverse_using, &column.data_type),
            ]
        })
    }

    /// The two expressions, which must depend on nothing but the column: the trigger evaluates them in sessions of
    /// the application, and the comparison in ours.
    fn conversion(&self, context: &Context<'_>, column: &Column) -> Result<Conversion, Diagnostic> {
        let table = context.now.tables.get(&self.table.value);
        let Some([forwards, back]) = table.and_then(|table| self.asked(table)) else {
            let message = format!(
                "`{}` is not there yet, so the server cannot be asked",
                column.name
            );
            return Err(Diagnostic::new("cannot_convert", message)
                .at(self.column.span)
                .help("make it a plan of its own"));
        };
        let (using, reverse_using) = self.expressions();
        let named = |kind| shadow::function_name(&self.table.value, &column.name, kind);
        let forwards = self.expression(context, &forwards, "using", using)?;
        let back = self.expression(context, &back, "reverse_using", reverse_using)?;
        let settings = match forwards.is_stable || back.is_stable {
            true => settled::settings(context.catalog),
            false => Vec::new(),
        };
        Ok(Conversion {
            convert: named("convert"),
            refuse: named("refuse"),
            forwards: forwards.text,
            back: back.text,
            settings,
        })
    }

    /// The server's spelling.
    fn expression(
        &self,
        context: &Context<'_>,
        asked: &Asked,
        key: &str,
        given: Option<&Located<String>>,
    ) -> Result<Spelled, Diagnostic> {
        let span = given.map_or(self.data_type.span, |given| given.span);
        let complaint = |message: String| Diagnostic::new("cannot_convert", message).at(span);
        let is_stable = asked.is_mutable(context);
        let answer = match is_stable {
            true => context.answer(&asked.settled),
            false => asked.answer(context),
        };
        let outcome = match answer {
            None => {
                return Err(
                    complaint("only the server can tell how values are converted".to_owned())
                        .help("plan with a connection to the database"),
                );
            }
            Some(Err(error)) => {
                let what = match given {
                    Some(_) => format!("`{key}`"),
                    None => "the conversion by assignment".to_owned(),
                };
                return Err(complaint(format!(
                    "PostgreSQL does not accept {what}: {} (SQLSTATE {})",
                    error.message, error.sqlstate
                ))
                .help(format!(
                    "give an expression over `{}` as `{key}` that depends on no other column",
                    self.column.value
                )));
            }
            Some(Ok(outcome)) => outcome,
        };
        let read = outcome.table.constraints.get(PROBED).map(|it| &it.columns);
        let others = read.into_iter().flatten().filter(|it| **it != self.column.value);
        let others: Vec<String> = others.map(|it| ident(it)).collect();
        if !others.is_empty() {
            return Err(complaint(format!(
                "`{key}` may not read other columns: {}",
                others.join(", ")
            )));
        }
        if is_stable {
            return self
                .settled(outcome, key, given)
                .map_err(|diagnostic| diagnostic.at(span));
        }
        let generated = outcome.table.column(PROBED).and_then(|it| it.generated.as_ref());
        generated
            .map(|it| Spelled {
                text: it.expression.clone(),
                is_stable,
            })
            .ok_or_else(|| complaint("the server has not told how values are converted".to_owned()))
    }

    /// Foreign keys on the column: those of which only one side would be converted, and the others.
    fn keys(
        &self,
        context: &Context<'_>,
        table: &Table,
        column: &str,
        moves: &Moves,
    ) -> (Vec<String>, Vec<String>) {
        let name = &self.table.value;
        let torn = |from: &QualifiedName, key: &Constraint| {
            let reference = key.references.as_ref();
            reference.is_none_or(|reference| {
                let mut pairs = key.columns.iter().zip(&reference.columns);
                pairs.any(|(begin, end)| moves.have(from, begin) != moves.have(&reference.table, end))
            })
        };
        let mut found: Vec<(String, bool)> = Vec::new();
        for (key, facts) in &table.constraints {
            if facts.kind == ConstraintKind::ForeignKey && facts.columns.iter().any(|it| it == column) {
                found.push((format!("foreign key {}", ident(key)), torn(name, facts)));
            }
        }
        for (from, key, facts) in context.catalog.incoming_foreign_keys(name) {
            let mut ends = facts.references.iter().flat_map(|it| &it.columns);
            if ends.any(|it| it == column) {
                found.push((format!("foreign key {} of {from}", ident(key)), torn(from, facts)));
            }
        }
        let (torn, whole): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, torn)| *torn);
        let names = |keys: Vec<(String, bool)>| keys.into_iter().map(|(key, _)| key).collect();
        (names(torn), names(whole))
    }

    /// An expression that is not immutable, if it comes out alike under pinned settings.
    fn settled(
        &self,
        outcome: &ProbeOutcome,
        key: &str,
        given: Option<&Located<String>>,
    ) -> Result<Spelled, Diagnostic> {
        let what = match given {
            Some(_) => format!("`{key}`"),
            None => "the conversion by assignment".to_owned(),
        };
        let unsettled = settled::unsettled(outcome, [PROBED, PROBED_CAST]);
        let text = settled::expression(outcome, PROBED);
        if let (Some(unsettled), Some(text)) = (&unsettled, text)
            && unsettled.is_empty()
        {
            return Ok(Spelled {
                text: text.to_owned(),
                is_stable: true,
            });
        }
        let called: Vec<&str> = unsettled.into_iter().flatten().collect();
        let zoned = called
            .iter()
            .any(|it| it.contains("time zone") || it.contains("timestamptz"));
        let help = match zoned {
            true => format!(
                "name the time zone as `{key}`: {column}::timestamp AT TIME ZONE 'UTC' from a text, {column} AT TIME ZONE 'UTC' \
                 between timestamp and timestamptz",
                column = ident(&self.column.value)
            ),
            false => format!(
                "give an expression over `{}` as `{key}` whose value depends on nothing else",
                self.column.value
            ),
        };
        let message = format!(
            "{what} may give another value in another session or at another time: {}",
            called.join(", ")
        );
        Err(Diagnostic::new("cannot_convert", message).help(help))
    }

    pub(super) fn only_conversion(
        &self,
        context: &Context<'_>,
        table: &Table,
        column: &Column,
        moves: &Moves,
        complaints: &mut Vec<Diagnostic>,
    ) -> Option<Conversion> {
        let name = &column.name;
        let (torn, whole) = self.keys(context, table, name, moves);
        if !COMES_BACK.contains(&column.data_type.as_str()) {
            let why = "values that are equal may not be so any more once they are converted and back";
            complaints.extend(self.refused(why, whole));
        }
        complaints.extend(self.refused("values of one side only would be converted", torn));
        let waits = table.constraints.iter().filter(|(_, constraint)| {
            constraint.deferrable
                && constraint.columns.contains(name)
                && constraint.kind != ConstraintKind::ForeignKey
        });
        let waiting = waits.map(|(key, _)| format!("constraint {}", ident(key)));
        complaints.extend(self.refused(
            "these keys can wait, so their new index would be there before values that fall together are found",
            waiting.collect(),
        ));
        let conversion = self.conversion(context, column);
        conversion.map_err(|complaint| complaints.push(complaint)).ok()
    }
}
