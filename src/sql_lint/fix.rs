//! The change plan that takes the place of a migration.

use super::lint::Report;
use super::statement::{
    Action, ColumnDefinition, ConstraintRule, CreateIndex, Drop, Kind, Name, Object, TableConstraint,
};
use std::fmt::Write;

/// A plan as YAML, and what it leaves out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fix {
    pub yaml: String,
    pub changes: usize,
    /// Statements that no operation takes the place of: line, and their beginning.
    pub left: Vec<(usize, String)>,
}

/// All statements of the reports that operations can do, in their order.
pub fn fix(name: &str, reports: &[Report]) -> Fix {
    let mut fix = Fix {
        yaml: format!("name: {}\nchanges:\n", scalar(name)),
        ..Fix::default()
    };
    for report in reports {
        for judged in &report.statements {
            let statement = &judged.statement;
            let Some(changes) = changes(&statement.kind) else {
                let first: String = statement
                    .sql
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(100)
                    .collect();
                let _ = writeln!(
                    fix.yaml,
                    "  # {}:{} has no operation: {first}",
                    report.path, statement.line
                );
                fix.left.push((statement.line, first));
                continue;
            };
            for change in changes {
                let _ = writeln!(fix.yaml, "  - {change}");
                fix.changes += 1;
            }
        }
    }
    fix
}

/// `None` where no operation does it; nothing where there is nothing to do: settings, BEGIN and COMMIT.
fn changes(kind: &Kind) -> Option<Vec<String>> {
    match kind {
        Kind::Set { .. } | Kind::Transaction(_) | Kind::Analyze(_) => Some(Vec::new()),
        Kind::CreateIndex(create) => create_index(create).map(|change| vec![change]),
        Kind::Drop(drop) => drops(drop),
        Kind::AlterTable(alter) => {
            let of_action = |action: &Action| action_changes(&alter.name, action);
            let all: Option<Vec<Vec<String>>> = alter.actions.iter().map(of_action).collect();
            all.map(|changes| changes.concat())
        }
        Kind::AddEnumValue { name, label } => Some(vec![format!(
            "add_enum_value: {{type: {}, value: {}}}",
            text(name),
            scalar(label)
        )]),
        Kind::CreateType {
            name,
            labels: Some(labels),
            ..
        } => Some(vec![format!(
            "create_enum: {{name: {}, values: {}}}",
            text(name),
            list(labels)
        )]),
        _ => None,
    }
}

fn drops(drop: &Drop) -> Option<Vec<String>> {
    if drop.cascade {
        return None;
    }
    let one = |name: &Name| match drop.object {
        Object::Index => Some(format!("drop_index: {{name: {}}}", text(name))),
        Object::Table => Some(format!(
            "retire_table: {{table: {}, to: {}, keep: 30d, view: none}}",
            text(name),
            text(&Name {
                schema: name.schema.clone(),
                name: format!("_deprecated_{}", name.name),
            })
        )),
        _ => None,
    };
    drop.names.iter().map(one).collect()
}

fn create_index(create: &CreateIndex) -> Option<String> {
    if create.extras || create.keys.iter().any(|key| key.qualified) {
        return None;
    }
    let keys = create.keys.iter().map(|key| match &key.column {
        Some(column) => scalar(column),
        None => format!("{{expression: {}}}", scalar(&key.expression.sql)),
    });
    let keys: Vec<String> = keys.collect();
    let mut fields = vec![
        format!("table: {}", text(&create.table)),
        format!("columns: [{}]", keys.join(", ")),
    ];
    if let Some(name) = &create.name {
        fields.insert(0, format!("name: {}", scalar(&name.name)));
    }
    if create.unique {
        fields.push("unique: true".into());
    }
    if let Some(method) = create.method.as_ref().filter(|method| *method != "btree") {
        fields.push(format!("method: {}", scalar(method)));
    }
    if !create.include.is_empty() {
        fields.push(format!("include: {}", list(&create.include)));
    }
    if let Some(predicate) = &create.predicate {
        fields.push(format!("where: {}", scalar(&predicate.sql)));
    }
    Some(format!("create_index: {{{}}}", fields.join(", ")))
}

fn action_changes(table: &Name, action: &Action) -> Option<Vec<String>> {
    let at = text(table);
    let column = |operation: &str, column: &str| {
        Some(vec![format!(
            "{operation}: {{table: {at}, column: {}}}",
            scalar(column)
        )])
    };
    match action {
        Action::AddColumn { column, .. } => add_column(table, column),
        Action::DropColumn {
            column: name,
            cascade: false,
            ..
        } => column("drop_column", name),
        Action::SetNotNull(name) => column("set_not_null", name),
        Action::DropNotNull(name) => column("drop_not_null", name),
        Action::SetDefault {
            column: name,
            default: None,
        } => column("drop_default", name),
        Action::SetDefault {
            column,
            default: Some(default),
        } => Some(vec![format!(
            "set_default: {{table: {at}, column: {}, default: {}}}",
            scalar(column),
            scalar(&default.sql)
        )]),
        Action::SetType {
            column,
            data_type,
            collation: None,
            using,
        } => {
            let operation = if using.is_some() {
                "change_type"
            } else {
                "widen_column"
            };
            let using = using
                .as_ref()
                .map_or_else(String::new, |using| format!(", using: {}", scalar(&using.sql)));
            Some(vec![format!(
                "{operation}: {{table: {at}, column: {}, type: {}{using}}}",
                scalar(column),
                scalar(data_type)
            )])
        }
        Action::RenameColumn { column, to } => Some(vec![format!(
            "rename_column: {{table: {at}, column: {}, to: {}}}",
            scalar(column),
            scalar(to)
        )]),
        Action::RenameTo(to) => Some(vec![format!("rename_table: {{table: {at}, to: {}}}", scalar(to))]),
        Action::AddConstraint(constraint) => add_constraint(table, constraint).map(|change| vec![change]),
        Action::DropConstraint {
            name, cascade: false, ..
        } => Some(vec![format!(
            "drop_constraint: {{table: {at}, name: {}}}",
            scalar(name)
        )]),
        // The operation that adds a constraint validates it as well.
        Action::ValidateConstraint(_) => Some(Vec::new()),
        _ => None,
    }
}

fn add_column(table: &Name, column: &ColumnDefinition) -> Option<Vec<String>> {
    let serial = column.data_type.to_lowercase().contains("serial");
    if serial || column.identity.is_some() {
        return None;
    }
    let mut fields = vec![
        format!("table: {}", text(table)),
        format!("column: {}", scalar(&column.name)),
        format!("type: {}", scalar(&column.data_type)),
    ];
    if let Some(default) = &column.default {
        fields.push(format!("default: {}", scalar(&default.sql)));
    }
    if let Some(generated) = &column.generated {
        fields.push(format!("generated: {}", scalar(&generated.expression.sql)));
        if generated.stored == Some(false) {
            fields.push("virtual: true".into());
        }
    }
    if let Some(collation) = &column.collation {
        fields.push(format!("collation: {}", scalar(collation)));
    }
    if column.not_null {
        fields.push("not_null: true".into());
    }
    let mut changes = vec![format!("add_column: {{{}}}", fields.join(", "))];
    for constraint in &column.constraints {
        changes.push(add_constraint(table, constraint)?);
    }
    Some(changes)
}

fn add_constraint(table: &Name, constraint: &TableConstraint) -> Option<String> {
    if constraint.not_enforced || constraint.deferrable {
        return None;
    }
    let mut fields = vec![format!("table: {}", text(table))];
    if let Some(name) = &constraint.name {
        fields.push(format!("name: {}", scalar(name)));
    }
    let operation = match &constraint.rule {
        ConstraintRule::Check(check) => {
            fields.push(format!("expression: {}", scalar(&check.sql)));
            if constraint.no_inherit {
                fields.push("no_inherit: true".into());
            }
            "add_check"
        }
        ConstraintRule::NotNull(column) => {
            return Some(format!(
                "set_not_null: {{table: {}, column: {}}}",
                text(table),
                scalar(column)
            ));
        }
        ConstraintRule::Unique(columns) => {
            fields.push(format!("columns: {}", list(columns)));
            "add_unique"
        }
        ConstraintRule::PrimaryKey(columns) => {
            fields.push(format!("columns: {}", list(columns)));
            "add_primary_key"
        }
        ConstraintRule::ForeignKey {
            columns,
            table: to,
            to: referenced,
            rest,
        } => {
            fields.push(format!("columns: {}", list(columns)));
            fields.push(match referenced.is_empty() {
                true => format!("references: {}", text(to)),
                false => format!(
                    "references: {{table: {}, columns: {}}}",
                    text(to),
                    list(referenced)
                ),
            });
            fields.extend(referential(rest)?);
            "add_foreign_key"
        }
        ConstraintRule::UsingIndex { .. } | ConstraintRule::Exclude { .. } => return None,
    };
    Some(format!("{operation}: {{{}}}", fields.join(", ")))
}

/// `on delete cascade` and the like as fields.
fn referential(rest: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = rest.trim();
    while !rest.is_empty() {
        let (key, after) = match rest.split_once(' ') {
            Some(("match", after)) => ("match", after),
            _ if rest.starts_with("on delete ") => ("on_delete", &rest["on delete ".len()..]),
            _ if rest.starts_with("on update ") => ("on_update", &rest["on update ".len()..]),
            _ => return None,
        };
        let known = [
            "no action",
            "restrict",
            "cascade",
            "set null",
            "set default",
            "simple",
            "full",
        ];
        let value = known.into_iter().find(|known| after.starts_with(known))?;
        fields.push(format!("{key}: {value}"));
        rest = after[value.len()..].trim();
    }
    Some(fields)
}

fn text(name: &Name) -> String {
    let part = |part: &str| crate::sql::ident(part).to_string();
    scalar(&match &name.schema {
        Some(schema) => format!("{}.{}", part(schema), part(&name.name)),
        None => part(&name.name),
    })
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| scalar(item)).collect();
    format!("[{}]", items.join(", "))
}

/// Bare where YAML reads it as the same text, else quoted.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word = matches!(
        text.to_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
    );
    let bare =
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(plain) && !word;
    match bare {
        true => text.to_owned(),
        // JSON's quoting is YAML's as well.
        false => serde_json::Value::from(text).to_string(),
    }
}
