//! What is made anew beside the tables in use: the step that makes it, and how the server tells what it is.

use crate::diagnostic::{Diagnostic, Located, Span};
use crate::ops::{Context, StepDraft};
use crate::plan::{Estimate, Expectation, Hazard, Lock, Phase, Settings, Undo};
use crate::sql::{QualifiedName, ident, literal};

use super::brief;

/// The catalog-only step that makes something, with its undo.
pub struct Making {
    pub id: &'static str,
    pub summary: String,
    pub statements: Vec<String>,
    pub locks: Vec<Lock>,
    pub expect: Vec<Expectation>,
    pub hazards: Vec<Hazard>,
    /// Empty where `kept` says why nothing is undone.
    pub undo: Vec<String>,
    pub undo_locks: Vec<Lock>,
    /// What the texts in `expect` say after the undo; `None` where it was not there before.
    pub previous: Option<String>,
    pub kept: Option<String>,
}

impl Making {
    pub fn step(self, settings: &Settings) -> StepDraft {
        let before = |expectation: &Expectation| match expectation {
            Expectation::Text { object, query, .. } => {
                Some(expected(object, query.clone(), self.previous.clone()))
            }
            _ => None,
        };
        let undone = self.expect.iter().filter_map(before).collect();
        let undo = match self.kept {
            Some(reason) => Undo::NotNeeded { reason },
            None => Undo::Work(vec![brief(
                settings,
                format!("undo: {}", self.summary),
                self.undo,
                self.undo_locks,
                undone,
            )]),
        };
        StepDraft {
            id: self.id.into(),
            phase: Phase::Expand,
            work: brief(settings, self.summary, self.statements, self.locks, self.expect),
            hazards: self.hazards,
            undo,
            estimate: Estimate::INSTANT,
        }
    }
}

/// The schema must be there, made by the role or open to it.
pub fn schema_complaint(context: &Context<'_>, schema: &str, span: Span) -> Option<Diagnostic> {
    match context.catalog.schemas.get(schema) {
        Some(schema) if schema.may_create => None,
        Some(_) => {
            let role = &context.now.role.name;
            let message = format!("{role} may not create anything in schema `{schema}`");
            let help = format!("GRANT CREATE ON SCHEMA {} TO {}", ident(schema), ident(role));
            Some(Diagnostic::new("schema_denied", message).at(span).help(help))
        }
        None => {
            let complaint =
                Diagnostic::new("unknown_schema", format!("there is no schema `{schema}`")).at(span);
            let known = context.catalog.schemas.keys().map(String::as_str);
            Some(match crate::diagnostic::nearest(schema, known) {
                Some(near) => complaint.help(format!("did you mean `{near}`?")),
                None => complaint.help("create_schema makes one"),
            })
        }
    }
}

/// A name that a new relation can have, in a schema that is open to the role.
pub fn place_complaints(context: &Context<'_>, name: &Located<QualifiedName>) -> Vec<Diagnostic> {
    let schema = schema_complaint(context, &name.value.schema, name.span);
    let taken = context.free_relation_name(&name.value, name.span).err();
    schema.into_iter().chain(taken).collect()
}

/// What `verify` compares of an object that is not a table.
pub fn expected(object: &str, query: String, expected: Option<String>) -> Expectation {
    Expectation::Text {
        object: object.to_owned(),
        query,
        expected,
    }
}

fn regclass(name: &QualifiedName) -> String {
    format!("pg_catalog.to_regclass({})", literal(&name.to_string()))
}

/// All that defines a view, in words.
pub fn view_text(name: &QualifiedName) -> String {
    format!(
        "SELECT pg_catalog.concat_ws(E'\\n', CASE c.relkind WHEN 'm' THEN 'materialized view' WHEN 'v' THEN 'view' ELSE 'table' END, \
         'with ' || pg_catalog.array_to_string(c.reloptions, ', '), \
         'comment ' || pg_catalog.obj_description(c.oid, 'pg_class'), pg_catalog.pg_get_viewdef(c.oid)) \
         FROM pg_catalog.pg_class AS c WHERE c.oid = {}",
        regclass(name)
    )
}

/// The columns of a relation with their types.
pub fn columns_text(name: &QualifiedName) -> String {
    format!(
        "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname) || ' ' || \
         pg_catalog.format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a \
         WHERE a.attrelid = {} AND a.attnum > 0 AND NOT a.attisdropped",
        regclass(name)
    )
}

/// All functions of a name by their OIDs, as JSON: with their arguments' types as `pg_catalog` alone prints them, as they
/// would be created again, and what a new definition can add and an old one cannot take away: names and defaults of arguments.
pub fn functions_text(name: &QualifiedName) -> String {
    format!(
        "SELECT pg_catalog.jsonb_object_agg(p.oid::pg_catalog.text, pg_catalog.jsonb_build_object(\
         'signature', p.oid::pg_catalog.regprocedure::pg_catalog.text, \
         'definition', pg_catalog.pg_get_functiondef(p.oid), \
         'comment', pg_catalog.obj_description(p.oid, 'pg_proc'), 'defaults', p.pronargdefaults, \
         'named', (SELECT count(*) FROM pg_catalog.unnest(p.proargnames) AS a (name) WHERE a.name <> '')))::pg_catalog.text \
         FROM {}",
        functions(name)
    )
}

/// The definition of one of them, found by how it is printed: a type that is gone must not make the question fail.
pub fn function_text(name: &QualifiedName, signature: &str) -> String {
    format!(
        "SELECT pg_catalog.pg_get_functiondef(p.oid) FROM {} \
         AND p.oid::pg_catalog.regprocedure::pg_catalog.text = {}",
        functions(name),
        literal(signature)
    )
}

fn functions(name: &QualifiedName) -> String {
    format!(
        "pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace \
         WHERE n.nspname = {} AND p.proname = {} AND p.prokind = 'f'",
        literal(&name.schema),
        literal(&name.name)
    )
}

pub fn schema_text(name: &str) -> String {
    format!(
        "SELECT 'owner ' || pg_catalog.pg_get_userbyid(n.nspowner) FROM pg_catalog.pg_namespace AS n \
         WHERE n.nspname = {}",
        literal(name)
    )
}

/// The labels of an enum in their order.
pub fn enum_text(name: &QualifiedName) -> String {
    format!(
        "SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) \
         FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = pg_catalog.to_regtype({})",
        literal(&name.to_string())
    )
}
