//! `add_column`: a table gets a column, with a value in every row where one is asked for.

use super::parts::constraint::scan_estimate;
use super::parts::not_null::NotNull;
use super::parts::{brief, locks, statement};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Column, Generated, Probe, Table, TableKind};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::Fields;
use crate::plan::{
    Action, Backfill, ColumnFacts, DurationClass, Estimate, Expectation, Hazard, Lock, LockMode, Phase,
    Settings, Transaction, Undo, Work,
};
use crate::sql::{QualifiedName, ident, literal, own_name};

const MANUAL: &str = "\
Adds a column. Where PostgreSQL can keep the default of the rows that are there in its catalog (constants, now()),
that is one instant statement, NOT NULL included. Where every row needs a value of its own (random(), nextval()…),
the column is added empty with the default for new rows, the rows are filled in short transactions, and NOT NULL is
proven without blocking anybody. While rows are filled, a trigger fills those that the application updates; it goes
right after.

```yaml
- add_column: {table: orders, column: token, type: uuid, default: gen_random_uuid(), not_null: true}
```

Also: `collation`, `comment`, and `generated: expression` instead of a default, stored (which rewrites the table, so
it is for small ones) or, from PostgreSQL 18, `virtual: true`. Serial and identity columns are refused: both number
all rows under a lock that blocks everybody.

Locks: ACCESS EXCLUSIVE on the table and all below it, for an instant (catalog only); ROW EXCLUSIVE while rows are
filled; SHARE UPDATE EXCLUSIVE while NOT NULL is proven. A small table that must be rewritten is locked meanwhile.
Undo: the column is dropped.
";

#[derive(Debug, Clone)]
pub struct AddColumn {
    table: Located<QualifiedName>,
    column: Located<String>,
    data_type: Located<String>,
    default: Option<Located<String>>,
    generated: Option<Located<String>>,
    /// Where it says that the value is computed when it is read.
    is_virtual: Option<Span>,
    not_null: bool,
    collation: Option<Located<String>>,
    comment: Option<String>,
    identity: Option<Located<String>>,
}

pub struct Target {
    table: QualifiedName,
    /// As the catalog has it at the end.
    column: Column,
    /// The server's own words.
    exact: bool,
    /// What follows ADD COLUMN, without default and NOT NULL.
    definition: String,
    default: Option<String>,
    tree: Vec<QualifiedName>,
    indexes: Vec<QualifiedName>,
    way: Way,
    proof: NotNull,
    hazards: Vec<Hazard>,
    rows: Estimate,
}

enum Way {
    /// One statement that touches the catalog only.
    Instant,
    /// One statement that rewrites a small table.
    Rewrite,
    Fill(Fill),
}

struct Fill {
    /// Tables that hold rows.
    tables: Vec<(QualifiedName, Estimate)>,
    suppress_triggers: bool,
    function: QualifiedName,
    trigger: String,
    rights: Rights,
}

/// As whom the fill trigger evaluates the default. It must never fail an UPDATE of the application.
enum Rights {
    /// The role that fills, with a pinned search_path: nothing but PostgreSQL's own functions runs, and a writer may
    /// lack what the default needs (USAGE on a sequence).
    Runner,
    /// The writer, with the search_path of the writer, as for the default of an INSERT: functions of others must
    /// not get our rights. Where that fails, the row is left to a second walk.
    Writer,
}

impl Rights {
    /// Everything but PostgreSQL's own objects is printed with its schema, outside of literals.
    fn of(default: &str, exact: bool) -> Self {
        let known = ["random()", "gen_random_uuid()", "clock_timestamp()"].contains(&default);
        // A name that is looked up while the default is evaluated, by the search_path of that moment.
        let looks_up = default.contains(")::reg");
        match known || (exact && !looks_up && !statement::names_a_schema(default)) {
            true => Self::Runner,
            false => Self::Writer,
        }
    }
}

const SERIALS: &[(&str, &str)] = &[
    ("serial", "integer"),
    ("serial4", "integer"),
    ("bigserial", "bigint"),
    ("serial8", "bigint"),
    ("smallserial", "smallint"),
    ("serial2", "smallint"),
];

impl AddColumn {
    /// Name, type, collation and generation.
    fn definition(&self) -> String {
        let mut text = format!("{} {}", ident(&self.column.value), self.data_type.value);
        if let Some(collation) = &self.collation {
            text.push_str(&format!(" COLLATE {}", collation_sql(&collation.value)));
        }
        if let Some(generated) = &self.generated {
            let kind = if self.is_virtual.is_some() {
                "VIRTUAL"
            } else {
                "STORED"
            };
            text.push_str(&format!(" GENERATED ALWAYS AS ({}) {kind}", generated.value));
        }
        text
    }

    fn default_sql(&self) -> Option<&str> {
        let default = self.default.as_ref()?.value.trim();
        // PostgreSQL keeps no default of null.
        (!default.eq_ignore_ascii_case("null")).then_some(default)
    }

    fn probe(&self) -> Probe {
        let default = self.default_sql().map(|default| format!(" DEFAULT {default}"));
        Probe {
            table: self.table.value.clone(),
            before: "ALTER TABLE ".into(),
            after: format!(" ADD COLUMN {}{}", self.definition(), default.unwrap_or_default()),
        }
    }

    /// Complaints that need no catalog.
    fn own_complaints(&self) -> Vec<Diagnostic> {
        let mut complaints = Vec::new();
        let type_name = self.data_type.value.trim().to_lowercase();
        if let Some((_, plain)) = SERIALS.iter().find(|(serial, _)| *serial == type_name) {
            let message = format!("{type_name} numbers all rows under a lock that blocks reads and writes");
            complaints.push(
                Diagnostic::new("serial_column", message)
                    .at(self.data_type.span)
                    .help(format!(
                        "create a sequence, then add the column as {plain} with `default: nextval('…')`; \
                 make it an identity column when the rows are filled"
                    )),
            );
        }
        if let Some(identity) = &self.identity {
            let message = "an identity column numbers all rows under a lock that blocks reads and writes";
            complaints.push(Diagnostic::new("identity_column", message).at(identity.span).help(
                "create a sequence, then add the column with `default: nextval('…')` and `not_null: true`",
            ));
        }
        if let (Some(generated), Some(_)) = (&self.generated, &self.default) {
            let message = "a generated column cannot have a default";
            complaints.push(Diagnostic::new("cannot_have_default", message).at(generated.span));
        }
        if let (Some(place), None) = (self.is_virtual, &self.generated) {
            let message = "`virtual` has a meaning for generated columns only";
            complaints.push(Diagnostic::new("not_generated", message).at(place));
        }
        complaints
    }

    fn table_complaints(&self, context: &Context<'_>, table: &Table) -> Vec<Diagnostic> {
        let name = &self.table.value;
        let mut complaints = Vec::new();
        let mut complain = |code, message: String, help: String| {
            complaints.push(Diagnostic::new(code, message).at(self.column.span).help(help));
        };
        if table.kind == TableKind::Foreign {
            complain(
                "foreign_table",
                format!("{name} is a foreign table"),
                "change the table on its own server".into(),
            );
        }
        if let Some(parent) = &table.partition_of {
            complain(
                "is_partition",
                format!("{name} is a partition of {parent}; it has the columns of that table"),
                format!("add the column to {parent}"),
            );
        }
        if let Some(of_type) = &table.of_type {
            complain(
                "typed_table",
                format!("{name} is a table of the type {of_type}; it has the columns of that type"),
                format!("ALTER TYPE {of_type} ADD ATTRIBUTE … CASCADE"),
            );
        }
        for below in context.catalog.tree(name) {
            let has = |catalog: &CatalogSnapshot| {
                catalog
                    .tables
                    .get(&below)
                    .is_some_and(|table| table.column(&self.column.value).is_some())
            };
            if has(context.catalog) {
                complain(
                    "name_taken",
                    format!("{below} has a column `{}` already", self.column.value),
                    "choose another name".into(),
                );
            } else if has(context.now) {
                complain(
                    "name_taken_until_contract",
                    format!(
                        "{below} has a column `{}` until an earlier change of this plan drops it in contract",
                        self.column.value
                    ),
                    "choose another name, or add it in a plan of its own afterwards".into(),
                );
            }
        }
        complaints.extend(self.too_new(context));
        complaints
    }

    fn too_new(&self, context: &Context<'_>) -> Option<Diagnostic> {
        let major = context.major();
        let place = self.is_virtual.filter(|_| major < 18)?;
        let message = format!("virtual columns need PostgreSQL 18; the server has {major}");
        let complaint = Diagnostic::new("server_too_old", message).at(place);
        Some(complaint.help("compute the value in a view, or in the application"))
    }

    /// The column as it will be, whether the server said so, and whether the statement
    /// would rewrite the table.
    fn predicted(&self, context: &Context<'_>) -> Result<(Column, bool, bool), Diagnostic> {
        let name = &self.column.value;
        let outcome = context.accepted(&self.probe(), self.data_type.span)?;
        let Some((outcome, column)) =
            outcome.and_then(|outcome| Some((outcome, outcome.table.column(name)?)))
        else {
            let column = self.guessed();
            let rewrites = !self.default_sql().is_none_or(is_constant)
                || column
                    .generated
                    .as_ref()
                    .is_some_and(|generated| generated.stored)
                || (is_constrained(context, &column) && context.major() < 19);
            return Ok((column, false, rewrites));
        };
        Ok((column.clone(), true, outcome.rewritten))
    }

    fn guessed(&self) -> Column {
        let data_type = canonical_type(&self.data_type.value);
        Column {
            storage: guessed_storage(&data_type).into(),
            collation: self.collation.as_ref().map(|collation| collation.value.clone()),
            default: self.default_sql().map(str::to_owned),
            generated: self.generated.as_ref().map(|generated| Generated {
                stored: self.is_virtual.is_none(),
                expression: generated.value.clone(),
            }),
            ..super::parts::column::plain(&self.column.value, &data_type, false)
        }
    }

    /// How the column gets there, or why it cannot without blocking people for long.
    fn way(
        &self,
        context: &Context<'_>,
        table: &Table,
        column: &Column,
        (exact, rewrites): (bool, bool),
    ) -> Result<Way, Diagnostic> {
        let name = &self.table.value;
        let stored = stored_tables(context.catalog, name);
        let sizes = || {
            stored
                .iter()
                .filter_map(|name| context.catalog.tables.get(name))
                .map(|table| table.size)
        };
        let bytes: i64 = sizes().map(|size| size.total_bytes()).sum();
        let empty = sizes().all(|size| size.heap_bytes == 0);
        let small = u64::try_from(bytes).unwrap_or(0) <= context.settings.small_table_bytes;
        let refuse = |code, message: String, help: String| {
            Err(Diagnostic::new(code, message).at(self.column.span).help(help))
        };
        if let Some(generated) = &column.generated {
            let reads_rows = rewrites || generated.stored || self.not_null;
            return match (reads_rows, small) {
                (false, _) => Ok(Way::Instant),
                (true, true) => Ok(Way::Rewrite),
                (true, false) => refuse(
                    "rewrites_table",
                    format!(
                        "a generated column like this reads or rewrites all of {name} under a lock that blocks everybody"
                    ),
                    "add a plain column, keep it current with a trigger, and fill it".into(),
                ),
            };
        }
        if self.not_null && column.default.is_none() && !empty {
            return refuse(
                "no_value",
                format!("the rows of {name} have no value for a column that is never null"),
                "give a default; drop_default can take it away later".into(),
            );
        }
        // Not the default but the type: a domain with constraints, which the server checks row by row.
        if rewrites && (column.default.is_none() || is_constrained(context, column)) {
            return match small {
                true => Ok(Way::Rewrite),
                false => refuse(
                    "rewrites_table",
                    format!(
                        "a column of the domain {} rewrites all of {name}: it has constraints",
                        column.data_type
                    ),
                    "use the type below the domain, and add_check with its conditions".into(),
                ),
            };
        }
        // A stored row type cannot take a default for rows that are there, even in the catalog.
        if !rewrites && (column.default.is_none() || table.row_type_used_by.is_empty()) {
            return Ok(Way::Instant);
        }
        let rights = Rights::of(column.default.as_deref().unwrap_or_default(), exact);
        self.filling(context, &column.name, &stored, rights)
            .map(Way::Fill)
    }

    /// Where every row needs a value of its own.
    fn filling(
        &self,
        context: &Context<'_>,
        column: &str,
        stored: &[QualifiedName],
        rights: Rights,
    ) -> Result<Fill, Diagnostic> {
        let name = &self.table.value;
        let forced = |name: &&QualifiedName| {
            let table = context.catalog.tables.get(name);
            table.is_some_and(|table| table.force_row_security)
        };
        if let Some(table) = stored.iter().find(forced)
            && !context.now.role.superuser
        {
            let message = format!("the backfill would not see all rows: FORCE ROW LEVEL SECURITY on {table}");
            return Err(Diagnostic::new("forced_row_security", message)
                .at(self.column.span)
                .help("connect as a superuser, or ALTER TABLE … NO FORCE ROW LEVEL SECURITY meanwhile"));
        }
        let schema = context.catalog.schemas.get(&name.schema);
        if schema.is_some_and(|schema| !schema.may_create) {
            let message = format!(
                "filling the column needs a trigger function, and {} may not create one in schema {}",
                context.now.role.name,
                ident(&name.schema)
            );
            return Err(Diagnostic::new("may_not_create", message)
                .at(self.column.span)
                .help(format!(
                    "GRANT CREATE ON SCHEMA {} TO {}",
                    ident(&name.schema),
                    ident(&context.now.role.name)
                )));
        }
        let trigger = own_name(&[&name.name, column], "pgmorph_fill");
        Ok(Fill {
            tables: stored
                .iter()
                .map(|table| (table.clone(), fill_estimate(context.catalog, table)))
                .collect(),
            suppress_triggers: context.now.role.may_set_replication_role,
            function: name.sibling(trigger.clone()),
            trigger,
            rights,
        })
    }

    fn hazards(&self, context: &Context<'_>, way: &Way) -> Vec<Hazard> {
        let name = &self.table.value;
        let mut hazards = vec![Hazard::new(
            "column_list",
            format!(
                "`SELECT *`, INSERT without a column list and prepared statements of {name} see a new column"
            ),
        )];
        match way {
            Way::Instant => {}
            Way::Rewrite => hazards.push(Hazard::new(
                "rewrite",
                format!("{name} is small: its rows are read or rewritten while reads and writes wait"),
            )),
            Way::Fill(fill) if !fill.suppress_triggers => {
                for (name, _) in &fill.tables {
                    let triggers = context
                        .catalog
                        .tables
                        .get(name)
                        .into_iter()
                        .flat_map(|table| &table.triggers);
                    let fires = triggers.filter(|(_, trigger)| {
                        trigger.enabled != "disabled" && trigger.definition.contains("UPDATE")
                    });
                    let names: Vec<String> = fires.map(|(name, _)| ident(name)).collect();
                    if !names.is_empty() {
                        hazards.push(Hazard::new(
                            "triggers_fire",
                            format!("filling fires the triggers of {name}: {}", names.join(", ")),
                        ));
                    }
                }
            }
            Way::Fill(_) => {}
        }
        hazards
    }
}

/// The table itself or what is below it, as far as it holds rows.
fn stored_tables(catalog: &CatalogSnapshot, table: &QualifiedName) -> Vec<QualifiedName> {
    let mut tables = catalog.tree(table);
    tables.retain(|name| {
        catalog
            .tables
            .get(name)
            .is_some_and(|table| table.kind == TableKind::Table)
    });
    tables
}

fn is_constrained(context: &Context<'_>, column: &Column) -> bool {
    let domain = column.data_type.parse::<QualifiedName>().ok();
    let domain = domain.and_then(|name| context.catalog.types.get(&name));
    domain.is_some_and(|domain| domain.constrained)
}

fn fill_estimate(catalog: &CatalogSnapshot, table: &QualifiedName) -> Estimate {
    let scan = scan_estimate(catalog, std::slice::from_ref(table));
    // Every row is written again; what vacuum frees is used again.
    Estimate {
        disk_bytes: scan.bytes / 2,
        duration: DurationClass::for_bytes(scan.bytes * 2),
        ..scan
    }
}

fn collation_sql(text: &str) -> String {
    match QualifiedName::parse(text, "") {
        Ok(name) if !name.schema.is_empty() => name.to_string(),
        Ok(name) => ident(&name.name),
        Err(_) => ident(text),
    }
}

/// Without the server's word only what surely is the same for all rows counts: literals and the time of the
/// transaction.
fn is_constant(default: &str) -> bool {
    let text = default.trim();
    let text = match text.rsplit_once("::") {
        Some((value, cast))
            if cast
                .chars()
                .all(|c| c.is_alphanumeric() || " _[]().,\"".contains(c)) =>
        {
            value.trim()
        }
        _ => text,
    };
    let lower = text.to_lowercase();
    let quoted = lower.len() >= 2 && lower.starts_with('\'') && lower.ends_with('\'');
    let quoted = quoted && !lower[1..lower.len() - 1].replace("''", "").contains('\'');
    let words = [
        "true",
        "false",
        "now()",
        "current_timestamp",
        "current_date",
        "localtimestamp",
        "transaction_timestamp()",
    ];
    quoted || words.contains(&lower.as_str()) || lower.parse::<f64>().is_ok()
}

/// The type as `format_type` prints it, for the names that people usually write.
fn canonical_type(text: &str) -> String {
    let lower = text.trim().to_lowercase();
    let (base, modifier) = match lower.split_once('(') {
        Some((base, rest)) => (base.trim().to_owned(), format!("({rest}")),
        None => (lower.clone(), String::new()),
    };
    let (base, array) = match base.strip_suffix("[]") {
        Some(base) => (base.to_owned(), "[]"),
        None => (base, ""),
    };
    let canonical = match base.as_str() {
        "int" | "int4" => "integer",
        "int8" => "bigint",
        "int2" => "smallint",
        "bool" => "boolean",
        "float8" | "float" => "double precision",
        "float4" => "real",
        "decimal" => "numeric",
        "varchar" => "character varying",
        "char" => {
            return format!(
                "character{}{array}",
                if modifier.is_empty() { "(1)" } else { &modifier }
            );
        }
        "timestamptz" => return format!("timestamp{modifier} with time zone{array}"),
        "timestamp" if !modifier.contains(')') || modifier.ends_with(')') => {
            return format!("timestamp{modifier} without time zone{array}");
        }
        "integer" | "bigint" | "smallint" | "boolean" | "text" | "uuid" | "jsonb" | "json" | "date"
        | "bytea" | "numeric" | "real" | "double precision" | "character varying" => &base,
        _ => return text.trim().to_owned(),
    };
    format!("{canonical}{modifier}{array}")
}

fn guessed_storage(data_type: &str) -> &'static str {
    let fixed = [
        "smallint",
        "integer",
        "bigint",
        "boolean",
        "uuid",
        "date",
        "real",
        "double precision",
        "interval",
    ];
    if fixed.contains(&data_type) || data_type.starts_with("time") && !data_type.ends_with("[]") {
        "plain"
    } else if data_type.starts_with("numeric") || ["inet", "cidr"].contains(&data_type) {
        "main"
    } else {
        "extended"
    }
}

impl Target {
    fn full_name(&self) -> String {
        format!("{}.{}", self.table, ident(&self.column.name))
    }

    fn exists(&self) -> Expectation {
        Expectation::Column {
            table: self.table.clone(),
            column: self.column.name.clone(),
            facts: ColumnFacts {
                data_type: self.exact.then(|| self.column.data_type.clone()),
                ..ColumnFacts::default()
            },
        }
    }

    fn locks(&self) -> Vec<Lock> {
        locks(&self.tree, LockMode::AccessExclusive)
    }

    fn comment(&self) -> Option<String> {
        let comment = self.column.comment.as_ref()?;
        Some(format!(
            "COMMENT ON COLUMN {} IS {}",
            self.full_name(),
            literal(comment)
        ))
    }

    fn drop(&self, mut before: Vec<String>, settings: &Settings) -> Work {
        before.push(format!(
            "ALTER TABLE {} DROP COLUMN IF EXISTS {}",
            self.table,
            ident(&self.column.name)
        ));
        brief(
            settings,
            format!("drop {}", self.full_name()),
            before,
            self.locks(),
            vec![Expectation::ColumnAbsent {
                table: self.table.clone(),
                column: self.column.name.clone(),
            }],
        )
    }

    /// The column with its value in one statement.
    fn at_once(&self, settings: &Settings) -> StepDraft {
        let default = self.default.as_ref().map(|default| format!(" DEFAULT {default}"));
        let not_null = if self.column.not_null { " NOT NULL" } else { "" };
        let mut statements = vec![format!(
            "ALTER TABLE {} ADD COLUMN {}{}{not_null}",
            self.table,
            self.definition,
            default.unwrap_or_default()
        )];
        statements.extend(self.comment());
        let rewrites = matches!(self.way, Way::Rewrite);
        let mut taken = self.locks();
        if rewrites {
            taken.extend(locks(&self.indexes, LockMode::AccessExclusive));
        }
        StepDraft {
            id: "add".into(),
            phase: Phase::Expand,
            work: brief(
                settings,
                format!("add {}", self.full_name()),
                statements,
                taken,
                vec![self.exists()],
            ),
            hazards: self.hazards.clone(),
            undo: Undo::Work(vec![self.drop(Vec::new(), settings)]),
            estimate: if rewrites { self.rows } else { Estimate::INSTANT },
        }
    }

    /// The empty column, its default for new rows, and the trigger that fills rows which move behind the walk.
    fn add_empty(&self, fill: &Fill, settings: &Settings) -> StepDraft {
        let (table, column, trigger) = (&self.table, ident(&self.column.name), ident(&fill.trigger));
        let mut statements = vec![
            format!("ALTER TABLE {table} ADD COLUMN {}", self.definition),
            format!(
                "ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {}",
                self.default.as_deref().unwrap_or("NULL")
            ),
        ];
        statements.extend(self.fill_function(fill));
        let mut expect = vec![self.exists()];
        for (name, _) in &fill.tables {
            statements.push(format!(
                "CREATE TRIGGER {trigger} BEFORE UPDATE ON {name} FOR EACH ROW WHEN (NEW.{column} IS NULL) \
                 EXECUTE FUNCTION {}()",
                fill.function
            ));
            statements.push(format!("ALTER TABLE ONLY {name} ENABLE ALWAYS TRIGGER {trigger}"));
            expect.push(Expectation::Trigger {
                table: name.clone(),
                name: fill.trigger.clone(),
                enabled: "always".into(),
            });
        }
        statements.extend(self.comment());
        let undo = self.drop(fill.removal(), settings);
        StepDraft {
            id: "add".into(),
            phase: Phase::Expand,
            work: brief(
                settings,
                format!(
                    "add {} without values, with its default for new rows",
                    self.full_name()
                ),
                statements,
                self.locks(),
                expect,
            ),
            hazards: self.hazards.clone(),
            undo: Undo::Work(vec![undo]),
            estimate: Estimate::INSTANT,
        }
    }

    fn fill_function(&self, fill: &Fill) -> Vec<String> {
        let (function, column) = (&fill.function, ident(&self.column.name));
        let value = self.column.default.as_deref().unwrap_or("NULL");
        match fill.rights {
            Rights::Runner => vec![
                format!(
                    "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
                     SET search_path = pg_catalog, pg_temp AS {}",
                    literal(&format!("BEGIN NEW.{column} := {value}; RETURN NEW; END"))
                ),
                format!("REVOKE EXECUTE ON FUNCTION {function}() FROM PUBLIC"),
            ],
            Rights::Writer => vec![format!(
                "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {}",
                literal(&format!(
                    "BEGIN NEW.{column} := {value}; RETURN NEW; EXCEPTION WHEN OTHERS THEN RETURN NEW; END"
                ))
            )],
        }
    }

    fn fill(&self, fill: &Fill, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = self.walk("fill", "", fill, settings);
        if matches!(fill.rights, Rights::Writer) {
            let missed = " where an update moved a row that its trigger could not fill";
            steps.extend(self.walk("fill-rest", missed, fill, settings));
        }
        steps.push(self.settle(fill, settings));
        steps
    }

    fn walk(&self, id: &str, why: &str, fill: &Fill, settings: &Settings) -> Vec<StepDraft> {
        let column = ident(&self.column.name);
        let value = self.column.default.as_deref().unwrap_or("NULL");
        let many = fill.tables.len() > 1;
        let steps = fill
            .tables
            .iter()
            .enumerate()
            .map(|(position, (table, estimate))| StepDraft {
                id: if many {
                    format!("{id}-{}", position + 1)
                } else {
                    id.into()
                },
                phase: Phase::Backfill,
                work: Work {
                    summary: format!("fill {column} of {table}{why}"),
                    action: Action::Backfill(Backfill {
                        table: table.clone(),
                        set: format!("{column} = {value}"),
                        needs: format!("{column} IS NULL"),
                        suppress_triggers: fill.suppress_triggers,
                        columns: vec![self.column.name.clone()],
                        workers: settings.workers,
                        limits: settings.limits.clone(),
                    }),
                    transaction: Transaction::None,
                    locks: vec![Lock::new(table, LockMode::RowExclusive)],
                    timeouts: settings.brief(),
                    expect: Vec::new(),
                    on_violation: None,
                    guards_values: false,
                    part: None,
                    not_before: None,
                },
                hazards: Vec::new(),
                undo: Undo::NotNeeded {
                    reason: "the column goes with its values".into(),
                },
                estimate: *estimate,
            });
        steps.collect()
    }

    fn settle(&self, fill: &Fill, settings: &Settings) -> StepDraft {
        // DROP TRIGGER takes a weak lock first: taking the strong one at once leaves none to be upgraded.
        let mut statements: Vec<String> = fill
            .tables
            .iter()
            .map(|(table, _)| format!("LOCK TABLE ONLY {table} IN {} MODE", LockMode::AccessExclusive))
            .collect();
        statements.extend(fill.removal());
        let gone = fill.tables.iter().map(|(table, _)| Expectation::TriggerAbsent {
            table: table.clone(),
            name: fill.trigger.clone(),
        });
        StepDraft {
            id: "settle".into(),
            phase: Phase::Backfill,
            work: brief(
                settings,
                format!("drop the trigger that filled {}", self.full_name()),
                statements,
                locks(
                    fill.tables.iter().map(|(table, _)| table),
                    LockMode::AccessExclusive,
                ),
                gone.collect(),
            ),
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "the column that it filled goes".into(),
            },
            estimate: Estimate::INSTANT,
        }
    }
}

impl Fill {
    fn removal(&self) -> Vec<String> {
        let triggers = self.tables.iter();
        let mut statements: Vec<String> = triggers
            .map(|(table, _)| format!("DROP TRIGGER IF EXISTS {} ON {table}", ident(&self.trigger)))
            .collect();
        statements.push(format!("DROP FUNCTION IF EXISTS {}()", self.function));
        statements
    }
}

impl Operation for AddColumn {
    type Target = Target;
    const NAME: &'static str = "add_column";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let column = fields.identifier("column");
        let data_type = fields.text("type");
        let default = fields.optional_text("default");
        let generated = fields.optional_text("generated");
        let stated = fields.optional("virtual").map(|node| node.span);
        let is_virtual = stated.filter(|_| fields.flag("virtual", false));
        let not_null = fields.flag("not_null", false);
        let collation = fields.optional_text("collation");
        let comment = fields.optional_text("comment").map(|comment| comment.value);
        let identity = fields
            .optional_text("identity")
            .filter(|identity| identity.value != "false");
        Some(Self {
            table: table?,
            column: column?,
            data_type: data_type?,
            default,
            generated,
            is_virtual,
            not_null,
            collation,
            comment,
            identity,
        })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.table)]
    }

    fn probes(&self, _now: &CatalogSnapshot) -> Vec<Probe> {
        // What is refused without asking is not asked.
        match self.own_complaints().is_empty() {
            true => vec![self.probe()],
            false => Vec::new(),
        }
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let name = &self.table.value;
        let mut complaints = self.own_complaints();
        let table = match context.table(&self.table) {
            Ok(table) => table,
            Err(complaint) => {
                complaints.push(complaint);
                return Err(complaints);
            }
        };
        complaints.extend(self.table_complaints(context, table));
        let predicted = self.predicted(context);
        let (mut column, exact, rewrites) = match predicted {
            Ok(predicted) if complaints.is_empty() => predicted,
            Ok(_) => return Err(complaints),
            Err(complaint) => {
                // What we said already the server would only repeat.
                if complaints.is_empty() {
                    complaints.push(complaint);
                }
                return Err(complaints);
            }
        };
        let way = self
            .way(context, table, &column, (exact, rewrites))
            .map_err(|complaint| vec![complaint])?;
        column.not_null = self.not_null;
        column.comment.clone_from(&self.comment);
        let tree = context.catalog.tree(name);
        let indexes = tree
            .iter()
            .filter_map(|name| Some((name, context.catalog.tables.get(name)?)));
        Ok(Target {
            table: name.clone(),
            column,
            exact,
            definition: self.definition(),
            default: self.default_sql().map(str::to_owned),
            indexes: indexes
                .flat_map(|(name, table)| table.indexes.keys().map(|index| name.sibling(index.clone())))
                .collect(),
            hazards: self.hazards(context, &way),
            way,
            proof: NotNull::plan(context.catalog, name, &self.column.value),
            rows: scan_estimate(context.catalog, &tree),
            tree,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let Way::Fill(fill) = &target.way else {
            return vec![target.at_once(settings)];
        };
        let mut steps = vec![target.add_empty(fill, settings)];
        steps.extend(target.fill(fill, settings));
        if target.column.not_null {
            let mut proof = target.proof.steps("not-null-", settings);
            for step in &mut proof {
                // Even unvalidated it would refuse every update of a row that is not filled yet.
                step.phase = step.phase.max(Phase::Validate);
            }
            steps.extend(proof);
        }
        steps
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        for (position, name) in target.tree.iter().enumerate() {
            if let Some(table) = catalog.tables.get_mut(name) {
                table.columns.push(Column {
                    inherited: position > 0,
                    local: position == 0,
                    comment: target.column.comment.clone().filter(|_| position == 0),
                    ..target.column.clone()
                });
            }
        }
        if target.column.not_null {
            target.proof.apply(catalog);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Rights, canonical_type, is_constant};
    use crate::catalog::model::{CatalogSnapshot, TableKind, UserType};
    use crate::ops::testing::{catalog, compile, plan_text, table};
    use crate::sql::QualifiedName;

    fn orders() -> CatalogSnapshot {
        catalog().with(
            "orders",
            table(&["id bigint not null"]).with_primary_key("orders_pkey", &["id"]),
        )
    }

    #[test]
    fn a_constant_default_is_one_statement() {
        let changes = "- add_column: {table: orders, column: State, type: varchar(20), default: \"'new'\", \
                       not_null: true, collation: C, comment: it's new}";
        insta::assert_snapshot!(plan_text(&orders(), changes), @r#"
        01-add_column-add [expand] add public.orders."State"
          ALTER TABLE public.orders ADD COLUMN "State" varchar(20) COLLATE "C" DEFAULT 'new' NOT NULL;
          COMMENT ON COLUMN public.orders."State" IS 'it''s new';
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders DROP COLUMN IF EXISTS "State";
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard column_list: `SELECT *`, INSERT without a column list and prepared statements of public.orders see a new column
        "#);
        let after = compile(&orders(), changes).unwrap().after;
        let column = after.tables[&QualifiedName::new("public", "orders")]
            .column("State")
            .cloned()
            .unwrap();
        assert_eq!(column.data_type, "character varying(20)");
        assert!(column.not_null);
    }

    #[test]
    fn a_value_of_its_own_for_each_row_is_filled_in() {
        let changes = "- add_column: {table: orders, column: token, type: uuid, default: gen_random_uuid(), not_null: true}";
        insta::assert_snapshot!(plan_text(&orders(), changes), @"
        01-add_column-add [expand] add public.orders.token without values, with its default for new rows
          ALTER TABLE public.orders ADD COLUMN token uuid;
          ALTER TABLE public.orders ALTER COLUMN token SET DEFAULT gen_random_uuid();
          CREATE FUNCTION public.orders_token_pgmorph_fill() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN NEW.token := gen_random_uuid(); RETURN NEW; END';
          REVOKE EXECUTE ON FUNCTION public.orders_token_pgmorph_fill() FROM PUBLIC;
          CREATE TRIGGER orders_token_pgmorph_fill BEFORE UPDATE ON public.orders FOR EACH ROW WHEN (NEW.token IS NULL) EXECUTE FUNCTION public.orders_token_pgmorph_fill();
          ALTER TABLE ONLY public.orders ENABLE ALWAYS TRIGGER orders_token_pgmorph_fill;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo DROP TRIGGER IF EXISTS orders_token_pgmorph_fill ON public.orders;
          undo DROP FUNCTION IF EXISTS public.orders_token_pgmorph_fill();
          undo ALTER TABLE public.orders DROP COLUMN IF EXISTS token;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard column_list: `SELECT *`, INSERT without a column list and prepared statements of public.orders see a new column
        01-add_column-fill [backfill] fill token of public.orders
          backfill public.orders SET token = gen_random_uuid() WHERE token IS NULL
            locks: public.orders ROW EXCLUSIVE (lock_timeout 200ms, no transaction)
          undo not needed: the column goes with its values
        01-add_column-settle [backfill] drop the trigger that filled public.orders.token
          LOCK TABLE ONLY public.orders IN ACCESS EXCLUSIVE MODE;
          DROP TRIGGER IF EXISTS orders_token_pgmorph_fill ON public.orders;
          DROP FUNCTION IF EXISTS public.orders_token_pgmorph_fill();
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo not needed: the column that it filled goes
        01-add_column-not-null-add [validate] refuse new rows without a value for public.orders.token
          ALTER TABLE public.orders ADD CONSTRAINT orders_token_pgmorph_not_null CHECK (token IS NOT NULL) NOT VALID;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders DROP CONSTRAINT IF EXISTS orders_token_pgmorph_not_null;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard writes_are_checked: from this step on, rows without a value for token are refused
          hazard updates_are_checked: until the existing rows are repaired, an UPDATE of a row that violates it fails (SQLSTATE 23514)
        01-add_column-not-null-validate [validate] check that no row of public.orders.token is null
          ALTER TABLE public.orders VALIDATE CONSTRAINT orders_token_pgmorph_not_null;
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -)
          undo not needed: a validated constraint asks no more than an unvalidated one
        01-add_column-not-null-set [cutover] mark public.orders.token NOT NULL: a constraint proves it, no scan
          ALTER TABLE public.orders ALTER COLUMN token SET NOT NULL;
          ALTER TABLE public.orders DROP CONSTRAINT orders_token_pgmorph_not_null;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders ALTER COLUMN token DROP NOT NULL;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        ");
    }

    #[test]
    fn partitions_are_filled_one_by_one() {
        let mut parent = table(&["id bigint not null"]);
        parent.kind = TableKind::Partitioned;
        parent.partition_key = Some("RANGE (id)".into());
        parent.children = vec![
            QualifiedName::new("public", "p1"),
            QualifiedName::new("public", "p2"),
        ];
        let mut leaf = table(&["id bigint not null"]);
        leaf.partition_of = Some(QualifiedName::new("public", "parted"));
        let catalog = catalog()
            .with("parted", parent)
            .with("p1", leaf.clone())
            .with("p2", leaf);
        let changes = "- add_column: {table: parted, column: Luck, type: float8, default: random()}";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        01-add_column-add [expand] add public.parted."Luck" without values, with its default for new rows
          LOCK TABLE public.parted IN ACCESS EXCLUSIVE MODE;
          ALTER TABLE public.parted ADD COLUMN "Luck" float8;
          ALTER TABLE public.parted ALTER COLUMN "Luck" SET DEFAULT random();
          CREATE FUNCTION public."parted_Luck_pgmorph_fill"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN NEW."Luck" := random(); RETURN NEW; END';
          REVOKE EXECUTE ON FUNCTION public."parted_Luck_pgmorph_fill"() FROM PUBLIC;
          CREATE TRIGGER "parted_Luck_pgmorph_fill" BEFORE UPDATE ON public.p1 FOR EACH ROW WHEN (NEW."Luck" IS NULL) EXECUTE FUNCTION public."parted_Luck_pgmorph_fill"();
          ALTER TABLE ONLY public.p1 ENABLE ALWAYS TRIGGER "parted_Luck_pgmorph_fill";
          CREATE TRIGGER "parted_Luck_pgmorph_fill" BEFORE UPDATE ON public.p2 FOR EACH ROW WHEN (NEW."Luck" IS NULL) EXECUTE FUNCTION public."parted_Luck_pgmorph_fill"();
          ALTER TABLE ONLY public.p2 ENABLE ALWAYS TRIGGER "parted_Luck_pgmorph_fill";
            locks: public.parted ACCESS EXCLUSIVE, public.p1 ACCESS EXCLUSIVE, public.p2 ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.parted IN ACCESS EXCLUSIVE MODE;
          undo DROP TRIGGER IF EXISTS "parted_Luck_pgmorph_fill" ON public.p1;
          undo DROP TRIGGER IF EXISTS "parted_Luck_pgmorph_fill" ON public.p2;
          undo DROP FUNCTION IF EXISTS public."parted_Luck_pgmorph_fill"();
          undo ALTER TABLE public.parted DROP COLUMN IF EXISTS "Luck";
          undo   locks: public.parted ACCESS EXCLUSIVE, public.p1 ACCESS EXCLUSIVE, public.p2 ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard column_list: `SELECT *`, INSERT without a column list and prepared statements of public.parted see a new column
        01-add_column-fill-1 [backfill] fill "Luck" of public.p1
          backfill public.p1 SET "Luck" = random() WHERE "Luck" IS NULL
            locks: public.p1 ROW EXCLUSIVE (lock_timeout 200ms, no transaction)
          undo not needed: the column goes with its values
        01-add_column-fill-2 [backfill] fill "Luck" of public.p2
          backfill public.p2 SET "Luck" = random() WHERE "Luck" IS NULL
            locks: public.p2 ROW EXCLUSIVE (lock_timeout 200ms, no transaction)
          undo not needed: the column goes with its values
        01-add_column-settle [backfill] drop the trigger that filled public.parted."Luck"
          LOCK TABLE ONLY public.p1, ONLY public.p2 IN ACCESS EXCLUSIVE MODE;
          DROP TRIGGER IF EXISTS "parted_Luck_pgmorph_fill" ON public.p1;
          DROP TRIGGER IF EXISTS "parted_Luck_pgmorph_fill" ON public.p2;
          DROP FUNCTION IF EXISTS public."parted_Luck_pgmorph_fill"();
            locks: public.p1 ACCESS EXCLUSIVE, public.p2 ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo not needed: the column that it filled goes
        "#);
        let after = compile(&catalog, changes).unwrap().after;
        assert!(after.tables[&QualifiedName::new("public", "p1")].columns[1].inherited);
        insta::assert_snapshot!(plan_text(&catalog, "- add_column: {table: p1, column: Luck, type: float8}"), @"3:35 is_partition: public.p1 is a partition of public.parted; it has the columns of that table (add the column to public.parted)");
    }

    #[test]
    fn refuses_what_would_block_everybody() {
        let mut catalog = orders();
        let domain = UserType {
            kind: "domain".into(),
            labels: Vec::new(),
            constrained: true,
            base: Some("text".into()),
        };
        catalog
            .types
            .insert(QualifiedName::new("public", "email"), domain);
        insta::assert_snapshot!(plan_text(&catalog, "- add_column: {table: orders, column: a, type: bigserial}
- add_column: {table: orders, column: b, type: int, identity: always}
- add_column: {table: orders, column: c, type: int, not_null: true}
- add_column: {table: orders, column: d, type: int, generated: id * 2}
- add_column: {table: orders, column: e, type: int, generated: id * 2, virtual: true}
- add_column: {table: orders, column: f, type: public.email}
- add_column: {table: orders, column: id, type: int}"), @"
        3:48 serial_column: bigserial numbers all rows under a lock that blocks reads and writes (create a sequence, then add the column as bigint with `default: nextval('…')`; make it an identity column when the rows are filled)
        4:63 identity_column: an identity column numbers all rows under a lock that blocks reads and writes (create a sequence, then add the column with `default: nextval('…')` and `not_null: true`)
        5:39 no_value: the rows of public.orders have no value for a column that is never null (give a default; drop_default can take it away later)
        6:39 rewrites_table: a generated column like this reads or rewrites all of public.orders under a lock that blocks everybody (add a plain column, keep it current with a trigger, and fill it)
        7:81 server_too_old: virtual columns need PostgreSQL 18; the server has 15 (compute the value in a view, or in the application)
        8:39 rewrites_table: a column of the domain public.email rewrites all of public.orders: it has constraints (use the type below the domain, and add_check with its conditions)
        9:39 name_taken: public.orders has a column `id` already (choose another name)
        ");
    }

    #[test]
    fn a_small_table_is_rewritten() {
        let mut catalog = orders();
        for table in catalog.tables.values_mut() {
            table.size.heap_bytes = 8192;
            table.size.index_bytes = 8192;
        }
        insta::assert_snapshot!(
            plan_text(&catalog, "- add_column: {table: orders, column: d, type: int, generated: id * 2}"), @"
        01-add_column-add [expand] add public.orders.d
          ALTER TABLE public.orders ADD COLUMN d int GENERATED ALWAYS AS (id * 2) STORED;
            locks: public.orders ACCESS EXCLUSIVE, public.orders_pkey ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders DROP COLUMN IF EXISTS d;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard column_list: `SELECT *`, INSERT without a column list and prepared statements of public.orders see a new column
          hazard rewrite: public.orders is small: its rows are read or rewritten while reads and writes wait
        ");
    }

    #[test]
    fn only_builtin_functions_get_the_rights_of_the_runner() {
        let runner = |default, exact| matches!(Rights::of(default, exact), Rights::Runner);
        assert!(runner("nextval('public.tokens'::regclass)", true));
        assert!(runner("(random() * (100)::double precision)", true));
        assert!(runner("random()", false));
        assert!(!runner("public.token()", true));
        assert!(!runner("(1 OPERATOR(public.+) 2)", true));
        assert!(!runner("nextval(('tokens'::text)::regclass)", true));
        assert!(!runner("token()", false));
        let changes = "- add_column: {table: orders, column: token, type: text, default: token()}";
        let plan = plan_text(&orders(), changes);
        assert!(plan.contains("EXCEPTION WHEN OTHERS THEN RETURN NEW"), "{plan}");
        assert!(plan.contains("01-add_column-fill-rest [backfill]"), "{plan}");
        assert!(!plan.contains("SECURITY DEFINER"), "{plan}");
    }

    #[test]
    fn rows_that_a_policy_hides_cannot_be_filled() {
        let mut catalog = orders();
        catalog.role.superuser = false;
        for table in catalog.tables.values_mut() {
            table.force_row_security = true;
        }
        insta::assert_snapshot!(
            plan_text(&catalog, "- add_column: {table: orders, column: luck, type: float8, default: random()}"), @"3:39 forced_row_security: the backfill would not see all rows: FORCE ROW LEVEL SECURITY on public.orders (connect as a superuser, or ALTER TABLE … NO FORCE ROW LEVEL SECURITY meanwhile)");
        assert!(
            compile(
                &catalog,
                "- add_column: {table: orders, column: n, type: int, default: 1}"
            )
            .is_ok()
        );
        catalog.role.superuser = true;
        assert!(
            compile(
                &catalog,
                "- add_column: {table: orders, column: n, type: float8, default: random()}"
            )
            .is_ok()
        );
    }

    #[test]
    fn knows_constants_and_types_without_the_server() {
        for constant in [
            "0",
            "'a'",
            "'it''s'::text",
            "now()",
            "CURRENT_TIMESTAMP",
            "true",
            "-1.5",
            "'{}'::jsonb",
        ] {
            assert!(is_constant(constant), "{constant}");
        }
        for volatile in [
            "random()",
            "gen_random_uuid()",
            "nextval('s'::regclass)",
            "'a' || f() || 'b'",
            "x",
        ] {
            assert!(!is_constant(volatile), "{volatile}");
        }
        for (written, printed) in [
            ("int", "integer"),
            ("VARCHAR(20)", "character varying(20)"),
            ("timestamptz(3)", "timestamp(3) with time zone"),
            ("timestamp", "timestamp without time zone"),
            ("text[]", "text[]"),
            ("char", "character(1)"),
            ("timestamp with time zone", "timestamp with time zone"),
        ] {
            assert_eq!(canonical_type(written), printed);
        }
    }
}
