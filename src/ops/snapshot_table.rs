//! `snapshot_table`: a new table with rows as they are in another.

use super::parts::brief;
use super::parts::copy::{CopyPlan, foreign_complaint};
use super::parts::mapping::{Mapping, Pair, read_columns};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{
    CatalogSnapshot, Column, Constraint, ConstraintKind, Index, NotNullConstraint, Probe, Table,
};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{
    Action, Check, ColumnFacts, Estimate, Expectation, Hazard, Lock, LockMode, Phase, Settings, Transaction,
    Undo, Work,
};
use crate::sql::{QualifiedName, derived_name, ident, idents, literal};
use std::collections::BTreeMap;

const MANUAL: &str = "\
Makes a table with rows of another one as they are now, as CREATE TABLE … AS does, but by batches: reads and writes go on,
and it can be stopped, throttled and resumed. `columns` is a list, or a map of new columns to expressions over the source
(called `as`), whose types stand in `types` where they are more than a column; without it, all columns. The table gets a
primary key: `key`, by default that of the source; no defaults, no further constraints, no privileges.

```yaml
- snapshot_table:
    name: allocations_2024
    from: allocations
    columns: {id: id, fund_id: fund_id, cents: amount * 100}
    types: {cents: bigint}
    where: allocated_on < '2025-01-01'
    comment: as they were before the recomputation
    keep_on_rollback: true
```

Batches see different moments. For rows that `where` chooses and nobody changes any more, that makes no difference, and in
the end the rows of both are counted; `check: false` leaves that out for a table that is written meanwhile.

Locks: ACCESS SHARE on the source (ROW SHARE where it has triggers), which block neither reads nor writes.
Undo: the table is dropped; with `keep_on_rollback: true` it stays, and the next run goes on with it if it has the same columns.
";

#[derive(Debug, Clone)]
pub struct SnapshotTable {
    name: Located<QualifiedName>,
    from: Located<QualifiedName>,
    alias: String,
    /// `None`: all.
    columns: Option<Vec<Pair>>,
    types: Vec<Pair>,
    key: Option<Vec<Located<String>>>,
    condition: Option<Located<String>>,
    comment: Option<String>,
    keep: bool,
    check: bool,
}

pub struct Target {
    name: QualifiedName,
    table: Table,
    copy: CopyPlan,
    /// It is there from an earlier run.
    reused: bool,
    keep: bool,
    check: Option<Check>,
    reads: QualifiedName,
}

impl SnapshotTable {
    /// The new columns and what they are made from.
    fn pairs(&self, source: &Table) -> Vec<Pair> {
        if let Some(columns) = &self.columns {
            return columns.clone();
        }
        let own = |column: &Column| {
            let name = Located {
                value: column.name.clone(),
                span: self.from.span,
            };
            let value = format!("{}.{}", ident(&self.alias), ident(&column.name));
            (name.clone(), Located { value, ..name })
        };
        source.columns.iter().map(own).collect()
    }

    /// The column that an expression is, if it is one.
    fn plain<'t>(&self, source: &'t Table, expression: &str) -> Option<&'t Column> {
        let alias = ident(&self.alias);
        source.columns.iter().find(|column| {
            let name = ident(&column.name);
            expression == name || expression == format!("{alias}.{name}")
        })
    }

    /// Type and collation as they stand in CREATE TABLE.
    fn type_of(&self, source: &Table, (name, expression): &Pair) -> Option<String> {
        let given = self.types.iter().find(|(column, _)| column.value == name.value);
        if let Some((_, data_type)) = given {
            return Some(data_type.value.clone());
        }
        let column = self.plain(source, &expression.value)?;
        let collation = column.collation.as_ref();
        let collation = collation.map(|collation| format!(" COLLATE {collation}"));
        Some(format!("{}{}", column.data_type, collation.unwrap_or_default()))
    }

    fn trial_name(&self, column: &str) -> String {
        derived_name(&["~pgmorph", &self.name.value.name, column], "trial")
    }

    /// A column of the type, tried on an empty copy of the source: how the server prints and stores it.
    fn probe(&self, column: &str, data_type: &str) -> Probe {
        Probe {
            table: self.from.value.clone(),
            before: "ALTER TABLE ".into(),
            after: format!(" ADD COLUMN {} {data_type}", ident(&self.trial_name(column))),
        }
    }

    fn column(&self, context: &Context<'_>, source: &Table, pair: &Pair) -> Result<Column, Diagnostic> {
        let (name, expression) = pair;
        let Some(data_type) = self.type_of(source, pair) else {
            let message = format!("the type of `{}` is not known", name.value);
            let help = format!("add `types: {{{}: …}}`", name.value);
            return Err(Diagnostic::new("unknown_type", message)
                .at(expression.span)
                .help(help));
        };
        let like = self.plain(source, &expression.value);
        let outcome = context.accepted(&self.probe(&name.value, &data_type), name.span)?;
        let tried = outcome.and_then(|outcome| outcome.table.column(&self.trial_name(&name.value)));
        let plain = |data_type: String| Column {
            collation: like.and_then(|column| column.collation.clone()),
            storage: like.map_or("plain".into(), |column| column.storage.clone()),
            ..super::parts::column::plain("", &data_type, false)
        };
        let column = tried.cloned().unwrap_or_else(|| {
            let data_type = like.map_or(data_type, |column| column.data_type.clone());
            plain(data_type)
        });
        Ok(Column {
            name: name.value.clone(),
            ..column
        })
    }

    /// The key of the new table with the columns of the source that it comes from.
    fn key(&self, source: &Table, pairs: &[Pair]) -> Result<Vec<Pair>, Diagnostic> {
        let help = "name columns of the new table that are a unique key of the source: `key: [id]`";
        let wanted: Vec<Located<String>> = match &self.key {
            Some(key) => key.clone(),
            None => {
                let of = |name: &String| {
                    let is = |(_, value): &&Pair| {
                        self.plain(source, &value.value)
                            .is_some_and(|it| it.name == *name)
                    };
                    pairs.iter().find(is).map(|(column, _)| column.clone())
                };
                let key: Option<Vec<_>> = source.key_columns().iter().map(of).collect();
                key.filter(|key| !key.is_empty()).ok_or_else(|| {
                    let message = format!("the columns hold no key of {}", self.from.value);
                    Diagnostic::new("no_key", message).at(self.from.span).help(help)
                })?
            }
        };
        let pair = |name: Located<String>| {
            let made = pairs.iter().find(|(column, _)| column.value == name.value);
            let column = made.and_then(|(_, value)| self.plain(source, &value.value));
            let Some(column) = column else {
                let message = format!(
                    "`{}` is not a column of {} as it stands",
                    name.value, self.from.value
                );
                return Err(Diagnostic::new("no_key", message).at(name.span).help(help));
            };
            let value = column.name.clone();
            let span = name.span;
            Ok((name, Located { value, span }))
        };
        wanted.into_iter().map(pair).collect()
    }

    fn mapping(&self, source: &Table, pairs: &[Pair]) -> Result<Mapping, Diagnostic> {
        let key = self.key(source, pairs)?;
        let is_key = |(name, _): &&Pair| key.iter().any(|(column, _)| column.value == name.value);
        Ok(Mapping {
            from: self.from.clone(),
            alias: self.alias.clone(),
            into: self.name.clone(),
            columns: pairs.iter().filter(|pair| !is_key(pair)).cloned().collect(),
            key,
            join: None,
            condition: self.condition.clone(),
            insert_only: Vec::new(),
        })
    }

    /// As the server names a primary key: numbered while another relation has the name, as where long names are cut off.
    fn key_name(&self, context: &Context<'_>) -> String {
        let name = &self.name.value;
        let own = context.catalog.tables.get(name);
        let taken = |key: &String| {
            let relation = name.sibling(key.clone());
            let is_own = own.is_some_and(|table| table.indexes.contains_key(key));
            !is_own
                && [context.catalog, context.now]
                    .iter()
                    .any(|it| it.relation_exists(&relation))
        };
        let suffixes = std::iter::once("pkey".to_owned()).chain((1..).map(|number| format!("pkey{number}")));
        suffixes
            .map(|suffix| derived_name(&[&name.name], &suffix))
            .find(|key| !taken(key))
            .unwrap_or_default()
    }

    /// As the server chooses it: like that of no other constraint in the schema.
    fn not_null_name(&self, context: &Context<'_>, column: &str) -> String {
        let name = &self.name.value;
        let taken = |key: &str| {
            let tables = [context.catalog, context.now]
                .into_iter()
                .flat_map(|it| &it.tables);
            let mut beside = tables.filter(|(other, _)| other.schema == name.schema && *other != name);
            beside.any(|(_, table)| {
                let mut own = table
                    .columns
                    .iter()
                    .filter_map(|it| it.not_null_constraint.as_ref());
                table.constraints.contains_key(key) || own.any(|constraint| constraint.name == key)
            })
        };
        let suffixes = std::iter::once("not_null".to_owned());
        suffixes
            .chain((1..).map(|number| format!("not_null{number}")))
            .map(|suffix| derived_name(&[&name.name, column], &suffix))
            .find(|key| !taken(key))
            .unwrap_or_default()
    }

    fn table(&self, context: &Context<'_>, mut columns: Vec<Column>, key: &[String]) -> Table {
        for column in columns.iter_mut().filter(|column| key.contains(&column.name)) {
            column.not_null = true;
            column.not_null_constraint = (context.major() >= 18).then(|| NotNullConstraint {
                name: self.not_null_name(context, &column.name),
                validated: true,
                local: true,
            });
        }
        let pkey = self.key_name(context);
        Table {
            comment: self.comment.clone(),
            columns,
            indexes: BTreeMap::from([(pkey.clone(), key_index(&pkey, key))]),
            constraints: BTreeMap::from([(pkey.clone(), primary_key(&pkey, key))]),
            ..Table::empty(&context.now.role.name)
        }
    }

    /// Whether the table can be made, or is there from an earlier run.
    fn place(&self, context: &Context<'_>, table: &Table) -> Result<bool, Diagnostic> {
        let QualifiedName { schema, .. } = &self.name.value;
        let place = context.catalog.schemas.get(schema);
        if place.is_none_or(|place| !place.may_create) && !context.catalog.schemas.is_empty() {
            let message = match place {
                Some(_) => format!(
                    "{} may not create tables in schema {}",
                    context.now.role.name,
                    ident(schema)
                ),
                None => format!("there is no schema {}", ident(schema)),
            };
            let known = context.catalog.schemas.keys().map(String::as_str);
            return Err(Diagnostic::new("unknown_schema", message)
                .at(self.name.span)
                .suggest(schema, known.filter(|name| *name != schema)));
        }
        let Some(there) = context.catalog.tables.get(&self.name.value).filter(|_| self.keep) else {
            context.free_relation_name(&self.name.value, self.name.span)?;
            return Ok(false);
        };
        let shape = |table: &Table| {
            let columns = table.columns.iter();
            let columns: Vec<_> = columns
                .map(|it| (it.name.clone(), it.data_type.clone()))
                .collect();
            (columns, table.primary_key().map(|(_, key)| key.columns.clone()))
        };
        if shape(there) == shape(table) {
            return Ok(true);
        }
        let message = format!(
            "{} is there already, with other columns or another key",
            self.name.value
        );
        Err(Diagnostic::new("name_taken", message)
            .at(self.name.span)
            .help("rename or drop it, or choose another name"))
    }

    /// Both have so many rows.
    fn counts(&self) -> Check {
        let (name, from) = (&self.name.value, &self.from.value);
        let condition = self.condition.as_ref().map(|it| format!(" WHERE {}\n", it.value));
        Check {
            name: format!("{name} has as many rows as were to be copied"),
            query: format!(
                "SELECT s.n AS rows_of_source, c.n AS copied FROM (SELECT count(*) AS n FROM {from} AS {}{}) AS s, \
                 (SELECT count(*) AS n FROM {name}) AS c WHERE s.n <> c.n",
                ident(&self.alias),
                condition.unwrap_or_default()
            ),
            help: "rows of the source came or went meanwhile: choose by `where` rows that stay as they are, or say \
                   `check: false`"
                .into(),
        }
    }
}

fn key_index(name: &str, key: &[String]) -> Index {
    Index {
        constraint: Some(name.to_owned()),
        ..Index::plain(key, true)
    }
}

fn primary_key(name: &str, key: &[String]) -> Constraint {
    Constraint {
        kind: ConstraintKind::PrimaryKey,
        definition: format!("PRIMARY KEY ({})", idents(key)),
        columns: key.to_vec(),
        validated: true,
        deferrable: false,
        initially_deferred: false,
        no_inherit: false,
        inherited: false,
        index: Some(name.to_owned()),
        references: None,
        comment: None,
    }
}

impl Target {
    fn create(&self) -> Vec<String> {
        let column = |column: &Column| {
            let collation = column.collation.as_ref();
            let collation = collation.map(|collation| format!(" COLLATE {collation}"));
            let (name, data_type) = (ident(&column.name), &column.data_type);
            format!("{name} {data_type}{}", collation.unwrap_or_default())
        };
        let mut parts: Vec<String> = self.table.columns.iter().map(column).collect();
        let keys = self.table.constraints.iter();
        parts.extend(keys.map(|(name, key)| format!("CONSTRAINT {} {}", ident(name), key.definition)));
        let mut statements = vec![format!("CREATE TABLE {} ({})", self.name, parts.join(", "))];
        let comment = self.table.comment.as_ref();
        statements.extend(comment.map(|text| format!("COMMENT ON TABLE {} IS {}", self.name, literal(text))));
        statements
    }

    fn expectations(&self) -> Vec<Expectation> {
        let column = |column: &Column| Expectation::Column {
            table: self.name.clone(),
            column: column.name.clone(),
            facts: ColumnFacts {
                data_type: Some(column.data_type.clone()),
                ..ColumnFacts::default()
            },
        };
        self.table.columns.iter().map(column).collect()
    }

    fn creation(&self, settings: &Settings) -> StepDraft {
        let name = &self.name;
        let work = brief(
            settings,
            format!("create table {name}"),
            self.create(),
            Vec::new(),
            self.expectations(),
        );
        let undo = if self.keep {
            Undo::NotNeeded {
                reason: "the table stays, as `keep_on_rollback` says".into(),
            }
        } else {
            let lock = vec![Lock::new(name, LockMode::AccessExclusive)];
            let drop = vec![format!("DROP TABLE {name}")];
            Undo::Work(vec![brief(
                settings,
                format!("drop table {name}"),
                drop,
                lock,
                Vec::new(),
            )])
        };
        StepDraft {
            id: "create".into(),
            phase: Phase::Expand,
            work,
            hazards: Vec::new(),
            undo,
            estimate: Estimate::INSTANT,
        }
    }

    fn count(&self, check: &Check, settings: &Settings) -> StepDraft {
        let reads = [&self.reads, &self.name];
        StepDraft {
            id: "count".into(),
            phase: Phase::Validate,
            work: Work {
                summary: format!("count the rows of {}", self.name),
                action: Action::Check(check.clone()),
                transaction: Transaction::Single,
                locks: super::parts::locks(reads, LockMode::AccessShare),
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
            estimate: Estimate::scan(-1, self.table.size.heap_bytes * 2, 0),
        }
    }
}

impl Operation for SnapshotTable {
    type Target = Target;
    const NAME: &'static str = "snapshot_table";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let (name, from) = (fields.qualified("name"), fields.qualified("from"));
        let alias = fields.optional_identifier("as").map(|alias| alias.value);
        let alias = alias.or_else(|| from.as_ref().map(|from| from.value.name.clone()));
        let columns = fields.optional("columns").is_some();
        let columns = columns.then(|| read_columns(fields, alias.as_deref().unwrap_or_default()));
        let types = fields.optional_pairs("types");
        let key = fields.optional_identifiers("key");
        let condition = fields.optional_text("where");
        let comment = fields.optional_text("comment").map(|text| text.value);
        let keep = fields.flag("keep_on_rollback", false);
        let check = fields.flag("check", true);
        Some(Self {
            name: name?,
            from: from?,
            alias: alias?,
            columns: match columns {
                Some(columns) => Some(columns?),
                None => None,
            },
            types: types.unwrap_or_default(),
            key,
            condition,
            comment,
            keep,
            check,
        })
    }

    fn probes(&self, now: &CatalogSnapshot) -> Vec<Probe> {
        let Some(source) = now.tables.get(&self.from.value) else {
            return Vec::new();
        };
        let pairs = self.pairs(source);
        let trial = |pair: &Pair| Some(self.probe(&pair.0.value, &self.type_of(source, pair)?));
        let mut probes: Vec<Probe> = pairs.iter().filter_map(trial).collect();
        probes.extend(self.mapping(source, &pairs).iter().flat_map(Mapping::probes));
        probes
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.from), Named::schema_of(&self.name)]
    }

    fn makes(&self) -> Vec<Named> {
        vec![Named::relation(&self.name)]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let Some(source) = context.catalog.tables.get(&self.from.value) else {
            return Err(vec![context.unknown_table(&self.from)]);
        };
        let mut complaints: Vec<Diagnostic> = foreign_complaint(context.catalog, &self.from)
            .into_iter()
            .collect();
        let pairs = self.pairs(source);
        let mut columns = Vec::new();
        for pair in &pairs {
            match self.column(context, source, pair) {
                Ok(column) => columns.push(column),
                Err(complaint) => complaints.push(complaint),
            }
        }
        let mapping = match self.mapping(source, &pairs) {
            Ok(mapping) => mapping,
            Err(complaint) => {
                complaints.push(complaint);
                return Err(complaints);
            }
        };
        complaints.extend(mapping.check_source(context, source));
        complaints.extend(mapping.refused_texts(context));
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let mut table = self.table(context, columns, &mapping.target_key());
        table.size = source.size;
        let reused = self.place(context, &table).map_err(|complaint| vec![complaint])?;
        Ok(Target {
            name: self.name.value.clone(),
            copy: CopyPlan::new(&mapping, context),
            table,
            reused,
            keep: self.keep,
            check: self.check.then(|| self.counts()),
            reads: self.from.value.clone(),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = Vec::new();
        if !target.reused {
            steps.push(target.creation(settings));
        }
        let mut copies = target.copy.steps(settings);
        if let Some(first) = copies.first_mut() {
            let message = "batches see different moments: a row that is changed meanwhile is copied as it was or as it is";
            first.hazards.push(Hazard::new("different_moments", message));
        }
        let copied = |step: &&mut StepDraft| step.id.starts_with("copy") || step.id.starts_with("catch_up");
        for step in copies.iter_mut().filter(copied).filter(|_| !target.keep) {
            step.undo = Undo::NotNeeded {
                reason: "the rows go with their table".into(),
            };
        }
        steps.extend(copies);
        steps.extend(target.check.iter().map(|check| target.count(check, settings)));
        steps
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        if !target.reused {
            catalog.tables.insert(target.name.clone(), target.table.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, plan_text, table};

    #[test]
    fn creates_copies_and_counts() {
        let source = table(&["Id bigint not null", "day date", "amount numeric"]);
        let catalog = catalog().with("Sales", source.with_primary_key("pk", &["Id"]));
        let changes = "  - snapshot_table: {name: Old Sales, from: Sales, as: s, columns: {Id: '\"Id\"', cents: amount * 100, day: s.day},
      types: {cents: bigint}, where: day < '2025-01-01', comment: it's old}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        01-snapshot_table-create [expand] create table public."Old Sales"
          CREATE TABLE public."Old Sales" ("Id" bigint, cents bigint, day date, CONSTRAINT "Old Sales_pkey" PRIMARY KEY ("Id"));
          COMMENT ON TABLE public."Old Sales" IS 'it''s old';
            locks:  (lock_timeout 200ms)
          undo DROP TABLE public."Old Sales";
          undo   locks: public."Old Sales" ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-snapshot_table-copy [backfill] copy rows of public."Sales" into public."Old Sales"
          copy public."Sales": INSERT INTO public."Old Sales" ("Id", cents, day) SELECT s."Id" AS "Id", (amount * 100) AS cents, (s.day) AS day FROM ONLY public."Sales" AS s WHERE (day < '2025-01-01') AND NOT EXISTS (SELECT FROM public."Old Sales" AS "~pgmorph_there" WHERE "~pgmorph_there"."Id" = s."Id") ON CONFLICT ("Id") DO NOTHING
            locks: public."Sales" ACCESS SHARE, public."Old Sales" ROW EXCLUSIVE (lock_timeout 200ms, no transaction)
          undo not needed: the rows go with their table
          hazard rows_are_written: every row that is copied into public."Old Sales" goes to the WAL, to standbys and to subscribers, and needs about as much disk as it does in public."Sales"
          hazard different_moments: batches see different moments: a row that is changed meanwhile is copied as it was or as it is
        01-snapshot_table-catch_up [backfill] copy what was written to public."Sales" meanwhile
          SET LOCAL pgmorph.sync = 'on';
          INSERT INTO public."Old Sales" ("Id", cents, day) SELECT s."Id" AS "Id", (amount * 100) AS cents, (s.day) AS day FROM ONLY public."Sales" AS s WHERE s.ctid = ANY (ARRAY(SELECT s.ctid FROM ONLY public."Sales" AS s WHERE (day < '2025-01-01') AND NOT EXISTS (SELECT FROM public."Old Sales" AS "~pgmorph_there" WHERE "~pgmorph_there"."Id" = s."Id"))) ON CONFLICT ("Id") DO NOTHING;
            locks: public."Sales" ACCESS SHARE, public."Old Sales" ROW EXCLUSIVE (lock_timeout 200ms)
          undo not needed: the rows go with their table
        01-snapshot_table-analyze [backfill] gather statistics of public."Old Sales"
          ANALYZE public."Old Sales";
            locks: public."Old Sales" SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo not needed: statistics do no harm
        01-snapshot_table-count [validate] count the rows of public."Old Sales"
          check public."Old Sales" has as many rows as were to be copied: SELECT s.n AS rows_of_source, c.n AS copied FROM (SELECT count(*) AS n FROM public."Sales" AS s WHERE day < '2025-01-01'
        ) AS s, (SELECT count(*) AS n FROM public."Old Sales") AS c WHERE s.n <> c.n
            locks: public."Sales" ACCESS SHARE, public."Old Sales" ACCESS SHARE (lock_timeout -)
          undo not needed: it only reads
        "#);
        let changes = "  - snapshot_table: {name: Sales, from: Sales}
  - snapshot_table: {name: nowhere.s, from: Sales, columns: [Id]}
  - snapshot_table: {name: s, from: Sales, columns: {day: day, cents: amount * 100}}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        3:28 name_taken: public."Sales" exists already
        4:28 unknown_schema: there is no schema nowhere
        5:71 unknown_type: the type of `cents` is not known (add `types: {cents: …}`)
        5:37 no_key: the columns hold no key of public."Sales" (name columns of the new table that are a unique key of the source: `key: [id]`)
        "#);
    }
}
