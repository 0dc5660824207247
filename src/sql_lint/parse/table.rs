//! `CREATE TABLE`, `ALTER TABLE` and what stands in them.

use super::tree::{
    below, child, children, expression, has, has_below, name, named, one_name, parts, string, text, words,
};
use crate::sql_lint::statement::{
    Action, AlterTable, Bound, ColumnDefinition, ConstraintRule, CreateTable, Expression, GeneratedColumn,
    Kind, Name, TableConstraint,
};
use squawk_syntax::SyntaxKind::{self, *};
use squawk_syntax::SyntaxNode;

const TYPES: &[SyntaxKind] = &[
    ARRAY_TYPE,
    PATH_TYPE,
    VARCHAR_TYPE,
    CHARACTER_TYPE,
    BIT_TYPE,
    BIT_VARYING_TYPE,
    DOUBLE_TYPE,
    TIME_TYPE,
    TIMESTAMP_TYPE,
    INTERVAL_TYPE,
];

const CONSTRAINTS: &[SyntaxKind] = &[
    CHECK_CONSTRAINT,
    UNIQUE_CONSTRAINT,
    PRIMARY_KEY_CONSTRAINT,
    FOREIGN_KEY_CONSTRAINT,
    REFERENCES_CONSTRAINT,
    EXCLUDE_CONSTRAINT,
    NOT_NULL_CONSTRAINT,
];

/// The type as written, with single spaces.
pub fn data_type(node: &SyntaxNode) -> Option<String> {
    let found = node.children().find(|child| TYPES.contains(&child.kind()))?;
    Some(text(&found).split_whitespace().collect::<Vec<_>>().join(" "))
}

pub fn is_expression(node: &SyntaxNode) -> bool {
    matches!(
        node.kind(),
        ARRAY_EXPR
            | BETWEEN_EXPR
            | BIN_EXPR
            | CALL_EXPR
            | CASE_EXPR
            | CAST_EXPR
            | COLLATE
            | FIELD_EXPR
            | INDEX_EXPR
            | LITERAL
            | NAME_REF
            | PAREN_EXPR
            | POSTFIX_EXPR
            | PREFIX_EXPR
            | SLICE_EXPR
            | TUPLE_EXPR
    )
}

pub fn first_expression(node: &SyntaxNode) -> Option<Expression> {
    node.children()
        .find(is_expression)
        .map(|found| expression(&found))
}

pub fn alter_table(node: &SyntaxNode, foreign: bool) -> Kind {
    let Some(relation) = child(node, TABLE_RELATION_NAME).or_else(|| child(node, RELATION_NAME)) else {
        return Kind::Opaque("ALTER TABLE ALL IN TABLESPACE");
    };
    Kind::AlterTable(AlterTable {
        name: relation_name(&relation),
        only: has(&relation, ONLY_KW),
        if_exists: child(node, IF_EXISTS).is_some(),
        foreign,
        actions: actions(node),
    })
}

pub fn relation_name(node: &SyntaxNode) -> Name {
    below(node, PATH_REF).map(|path| name(&path)).unwrap_or_default()
}

pub fn actions(node: &SyntaxNode) -> Vec<Action> {
    let after_name = node.children().filter(|child| {
        !matches!(
            child.kind(),
            TABLE_RELATION_NAME | RELATION_NAME | IF_EXISTS | VIEW_REF | TABLE_NAME_REF
        )
    });
    after_name.map(|child| action(&child)).collect()
}

fn constraint_name(node: &SyntaxNode) -> String {
    one_name(node, CONSTRAINT_NAME_REF)
}

fn action(node: &SyntaxNode) -> Action {
    let partition = || named(node, TABLE_NAME_REF).unwrap_or_default();
    let trigger = |disable| Action::EnableTrigger {
        disable,
        trigger: named(node, TRIGGER_REF).map(|name| name.name),
    };
    match node.kind() {
        ADD_COLUMN => Action::AddColumn {
            column: column(node),
            if_not_exists: child(node, IF_NOT_EXISTS).is_some(),
        },
        DROP_COLUMN => Action::DropColumn {
            column: one_name(node, COLUMN_NAME_REF),
            cascade: has(node, CASCADE),
            if_exists: has(node, IF_EXISTS),
        },
        ALTER_COLUMN => alter_column(node),
        ADD_CONSTRAINT => node
            .children()
            .find_map(|child| constraint(&child, None))
            .map_or_else(|| Action::Other(words(node)), Action::AddConstraint),
        DROP_CONSTRAINT => Action::DropConstraint {
            name: constraint_name(node),
            cascade: has(node, CASCADE),
            if_exists: has(node, IF_EXISTS),
        },
        VALIDATE_CONSTRAINT => Action::ValidateConstraint(constraint_name(node)),
        ALTER_CONSTRAINT => Action::AlterConstraint {
            name: constraint_name(node),
            enforced: match (has_below(node, NOT_ENFORCED), has_below(node, ENFORCED)) {
                (true, _) => Some(false),
                (false, true) => Some(true),
                (false, false) => None,
            },
        },
        RENAME_COLUMN => Action::RenameColumn {
            column: one_name(node, COLUMN_NAME_REF),
            to: one_name(node, COLUMN_NAME),
        },
        RENAME_CONSTRAINT => Action::RenameConstraint {
            name: constraint_name(node),
            to: one_name(node, CONSTRAINT_NAME),
        },
        TABLE_RENAME_TO => Action::RenameTo(one_name(node, TABLE_NAME)),
        SET_SCHEMA => Action::SetSchema(one_name(node, SCHEMA_REF)),
        OWNER_TO => Action::OwnerTo,
        SET_TABLESPACE => Action::SetTablespace,
        SET_ACCESS_METHOD => Action::SetAccessMethod(one_name(node, ACCESS_METHOD_REF)),
        SET_LOGGED => Action::SetLogged(true),
        SET_UNLOGGED => Action::SetLogged(false),
        SET_OPTIONS | RESET_OPTIONS => Action::SetOptions(options(node)),
        REPLICA_IDENTITY => Action::ReplicaIdentity,
        ENABLE_RLS | DISABLE_RLS | FORCE_RLS | NO_FORCE_RLS => Action::RowSecurity,
        CLUSTER_ON => Action::ClusterOn(one_name(node, INDEX_REF)),
        SET_WITHOUT_CLUSTER => Action::SetWithoutCluster,
        DISABLE_TRIGGER => trigger(true),
        ENABLE_TRIGGER | ENABLE_ALWAYS_TRIGGER | ENABLE_REPLICA_TRIGGER => trigger(false),
        ENABLE_RULE | DISABLE_RULE | ENABLE_ALWAYS_RULE | ENABLE_REPLICA_RULE => Action::EnableRule,
        ATTACH_PARTITION => Action::Attach {
            partition: partition(),
            bound: bound(node),
        },
        DETACH_PARTITION => Action::Detach {
            partition: partition(),
            concurrently: has_below(node, DETACH_CONCURRENTLY),
        },
        INHERIT_TABLE => Action::Inherit(partition()),
        NO_INHERIT_TABLE => Action::NoInherit(partition()),
        _ => Action::Other(words(node)),
    }
}

fn options(node: &SyntaxNode) -> Vec<String> {
    let found = node
        .descendants()
        .filter(|found| found.kind() == ATTRIBUTE_OPTION);
    found
        .map(|option| {
            let text = words(&option);
            text.split('=').next().unwrap_or_default().trim().to_owned()
        })
        .collect()
}

fn alter_column(node: &SyntaxNode) -> Action {
    let column = one_name(node, COLUMN_NAME_REF);
    let Some(option) = node.children().find(|child| child.kind() != COLUMN_NAME_REF) else {
        // `ALTER COLUMN 1` of an index.
        return Action::Other(words(node));
    };
    match option.kind() {
        SET_TYPE => Action::SetType {
            column,
            data_type: data_type(&option).unwrap_or_default(),
            collation: collation(&option),
            using: child(&option, USING_EXPR).and_then(|using| first_expression(&using)),
        },
        SET_DEFAULT => Action::SetDefault {
            column,
            default: first_expression(&option),
        },
        DROP_DEFAULT => Action::SetDefault {
            column,
            default: None,
        },
        SET_NOT_NULL => Action::SetNotNull(column),
        DROP_NOT_NULL => Action::DropNotNull(column),
        SET_STATISTICS => Action::SetStatistics(column),
        SET_OPTIONS | RESET_OPTIONS => Action::SetColumnOptions(column),
        SET_STORAGE | SET_COMPRESSION => Action::SetStorage(column),
        ADD_GENERATED => Action::AddIdentity(column),
        DROP_IDENTITY => Action::DropIdentity(column),
        SET_GENERATED | SET_GENERATED_OPTIONS | RESTART | SET_SEQUENCE_OPTION => Action::SetIdentity(column),
        SET_EXPRESSION => Action::SetExpression {
            column,
            expression: first_expression(&option).unwrap_or_default(),
        },
        DROP_EXPRESSION => Action::DropExpression(column),
        _ => Action::Other(words(node)),
    }
}

pub fn collation(node: &SyntaxNode) -> Option<String> {
    let clause = child(node, COLLATE)?;
    below(&clause, COLLATION_REF).map(|found| name(&found).name)
}

/// Of `ADD COLUMN` and of `CREATE TABLE`.
pub fn column(node: &SyntaxNode) -> ColumnDefinition {
    let mut column = ColumnDefinition {
        name: one_name(node, COLUMN_NAME),
        data_type: data_type(node).unwrap_or_default(),
        collation: collation(node),
        ..ColumnDefinition::default()
    };
    for clause in node.children() {
        match clause.kind() {
            NOT_NULL_CONSTRAINT => column.not_null = true,
            DEFAULT_CONSTRAINT => column.default = first_expression(&clause),
            GENERATED_CONSTRAINT => generated(&mut column, &clause),
            _ => {
                if let Some(found) = constraint(&clause, Some(&column.name)) {
                    column.constraints.push(found);
                }
            }
        }
    }
    column
}

fn generated(column: &mut ColumnDefinition, clause: &SyntaxNode) {
    if let Some(identity) = child(clause, GENERATED_IDENTITY) {
        column.identity = Some(has_below(&identity, GENERATED_ALWAYS));
    } else if let Some(found) = child(clause, GENERATED_STORED) {
        column.generated = Some(GeneratedColumn {
            expression: first_expression(&found).unwrap_or_default(),
            stored: match (has_below(&found, STORED), has_below(&found, VIRTUAL)) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            },
        });
    }
}

fn columns(node: &SyntaxNode, list: SyntaxKind) -> Vec<String> {
    let names = |list: SyntaxNode| {
        let found = list.descendants().filter(|found| found.kind() == COLUMN_NAME_REF);
        found.map(|column| name(&column).name).collect()
    };
    below(node, list).map(names).unwrap_or_default()
}

/// A constraint of the table or, with its name, of one column.
pub fn constraint(node: &SyntaxNode, column: Option<&str>) -> Option<TableConstraint> {
    if !CONSTRAINTS.contains(&node.kind()) {
        return None;
    }
    let own = || column.map(|name| vec![name.to_owned()]).unwrap_or_default();
    let keys = || match columns(node, CONSTRAINT_COLUMN_REF_LIST) {
        found if found.is_empty() => own(),
        found => found,
    };
    let using = || named(node, USING_INDEX_NAME).or_else(|| child(node, USING_INDEX_NAME).map(|n| name(&n)));
    let rule = match node.kind() {
        CHECK_CONSTRAINT => ConstraintRule::Check(first_expression(node).unwrap_or_default()),
        NOT_NULL_CONSTRAINT => ConstraintRule::NotNull(match column {
            Some(column) => column.to_owned(),
            None => one_name(node, COLUMN_NAME_REF),
        }),
        UNIQUE_CONSTRAINT | PRIMARY_KEY_CONSTRAINT if using().is_some() => ConstraintRule::UsingIndex {
            index: one_name(node, INDEX_REF),
            primary: node.kind() == PRIMARY_KEY_CONSTRAINT,
        },
        UNIQUE_CONSTRAINT => ConstraintRule::Unique(keys()),
        PRIMARY_KEY_CONSTRAINT => ConstraintRule::PrimaryKey(keys()),
        EXCLUDE_CONSTRAINT => ConstraintRule::Exclude {
            columns: below(node, CONSTRAINT_EXCLUSION_LIST)
                .map(|list| expression(&list).columns)
                .unwrap_or_default(),
        },
        _ => foreign_key(node, own()),
    };
    Some(TableConstraint {
        name: named(node, CONSTRAINT_NAME).map(|name| name.name),
        rule,
        not_valid: child(node, NOT_VALID).is_some(),
        not_enforced: child(node, NOT_ENFORCED).is_some(),
        deferrable: child(node, DEFERRABLE_CONSTRAINT_OPTION).is_some()
            || child(node, INITIALLY_DEFERRED_CONSTRAINT_OPTION).is_some(),
        no_inherit: child(node, NO_INHERIT).is_some(),
    })
}

fn foreign_key(node: &SyntaxNode, own: Vec<String>) -> ConstraintRule {
    let mut lists = children(node, FOREIGN_KEY_COLUMN_LIST).map(|list| {
        let found = list.descendants().filter(|found| found.kind() == COLUMN_NAME_REF);
        found.map(|column| name(&column).name).collect::<Vec<_>>()
    });
    let of_column = node.kind() == REFERENCES_CONSTRAINT;
    let columns = if of_column {
        own
    } else {
        lists.next().unwrap_or_default()
    };
    let to = match of_column {
        true => children(node, COLUMN_NAME_REF).map(|to| name(&to).name).collect(),
        false => lists.next().unwrap_or_default(),
    };
    let rest = node.children().filter(|part| {
        matches!(
            part.kind(),
            MATCH_FULL | MATCH_PARTIAL | MATCH_SIMPLE | ON_DELETE_ACTION | ON_UPDATE_ACTION
        )
    });
    ConstraintRule::ForeignKey {
        columns,
        table: named(node, TABLE_NAME_REF).unwrap_or_default(),
        to,
        rest: rest.map(|part| words(&part)).collect::<Vec<_>>().join(" "),
    }
}

pub fn bound(node: &SyntaxNode) -> Bound {
    let constants = |kind: SyntaxKind| {
        let values = |list: SyntaxNode| {
            let items = list.children().map(|item| {
                if item.kind() == LITERAL {
                    string(&item).unwrap_or_else(|| text(&item))
                } else {
                    words(&item)
                }
            });
            items.collect::<Vec<_>>()
        };
        below(node, kind).map(values).unwrap_or_default()
    };
    if has_below(node, PARTITION_DEFAULT) {
        Bound::Default
    } else if has_below(node, PARTITION_FOR_VALUES_FROM) {
        Bound::From(constants(PARTITION_FROM_VALUES), constants(PARTITION_TO_VALUES))
    } else if has_below(node, PARTITION_FOR_VALUES_IN) {
        Bound::In(constants(PARTITION_FOR_VALUES_IN))
    } else {
        Bound::Hash
    }
}

pub fn create_table(node: &SyntaxNode) -> Kind {
    let mut table = CreateTable {
        name: named(node, TABLE_NAME).unwrap_or_default(),
        temporary: child(node, TEMP).is_some(),
        if_not_exists: child(node, IF_NOT_EXISTS).is_some(),
        ..CreateTable::default()
    };
    if let Some(args) = child(node, TABLE_ARG_LIST) {
        for arg in args.children() {
            match arg.kind() {
                COLUMN => table.columns.push(column(&arg)),
                LIKE_CLAUSE => table.likes.extend(named(&arg, RELATION_NAME_REF)),
                _ => table.constraints.extend(constraint(&arg, None)),
            }
        }
    }
    if let Some(inherits) = child(node, INHERITS) {
        table.inherits = children(&inherits, TABLE_NAME_REF)
            .map(|parent| name(&parent))
            .collect();
    }
    if let Some(of) = child(node, PARTITION_OF) {
        table.partition_of = named(&of, TABLE_NAME_REF).map(|parent| (parent, bound(node)));
    }
    if let Some(by) = child(node, PARTITION_BY) {
        table.partition_by = Some(expression(&by).columns);
    }
    Kind::CreateTable(table)
}

/// The table of `table.column`.
pub fn table_of_column(node: &SyntaxNode) -> Option<Name> {
    let mut parts = parts(node);
    parts.pop()?;
    let name = parts.pop()?;
    Some(Name {
        schema: parts.pop(),
        name,
    })
}
