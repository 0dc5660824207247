//! All statements but those of tables.

use super::table::{
    actions, alter_table, create_table, data_type, first_expression, relation_name, table_of_column,
};
use super::tree::{
    below, child, children, expression, has, has_below, name, named, one_name, reads, string, text, words,
};
use crate::plan::LockMode;
use crate::sql_lint::statement::{
    CreateIndex, Drop, IndexAction, IndexItem, Kind, Name, Object, ReindexTarget, Transaction, Write,
};
use squawk_syntax::SyntaxKind::{self, *};
use squawk_syntax::SyntaxNode;

pub fn kind(node: &SyntaxNode) -> Kind {
    match node.kind() {
        ALTER_TABLE => alter_table(node, false),
        ALTER_FOREIGN_TABLE => alter_table(node, true),
        CREATE_TABLE => create_table(node),
        CREATE_TABLE_AS | SELECT_INTO => table_as(node),
        CREATE_INDEX => create_index(node),
        ALTER_INDEX => alter_index(node),
        REINDEX => reindex(node),
        DROP_TABLE | DROP_FOREIGN_TABLE => drop(node, Object::Table, TABLE_NAME_REF),
        DROP_INDEX => drop(node, Object::Index, INDEX_REF),
        DROP_VIEW => drop(node, Object::View, VIEW_REF),
        DROP_MATERIALIZED_VIEW => drop(node, Object::MaterializedView, VIEW_REF),
        DROP_SEQUENCE => drop(node, Object::Sequence, SEQUENCE_REF),
        DROP_SCHEMA => drop(node, Object::Schema, SCHEMA_REF),
        DROP_TYPE => drop(node, Object::Type, TYPE_NAME_REF),
        DROP_DOMAIN => drop(node, Object::Type, DOMAIN_REF),
        TRUNCATE | VACUUM | ANALYZE | CLUSTER | REFRESH | LOCK => maintenance(node),
        CREATE_TRIGGER | DROP_TRIGGER | ALTER_TRIGGER => trigger(node),
        CREATE_RULE | DROP_RULE | ALTER_RULE | CREATE_POLICY | DROP_POLICY | ALTER_POLICY => {
            table_object(node)
        }
        CREATE_VIEW | CREATE_MATERIALIZED_VIEW | ALTER_VIEW | ALTER_MATERIALIZED_VIEW => view(node),
        CREATE_TYPE | ALTER_TYPE | CREATE_DOMAIN | ALTER_DOMAIN => types(node),
        CREATE_SEQUENCE | ALTER_SEQUENCE => sequence(node),
        SELECT | COMPOUND_SELECT | PAREN_SELECT | TABLE | VALUES => select(node),
        INSERT | UPDATE | DELETE | MERGE | COPY => write(node),
        SET | RESET => set(node),
        BEGIN => Kind::Transaction(Transaction::Begin),
        COMMIT_TRANSACTION | ROLLBACK_TRANSACTION | PREPARE_TRANSACTION => {
            Kind::Transaction(Transaction::End)
        }
        SAVEPOINT_CREATE | ROLLBACK_TO_SAVEPOINT | RELEASE_SAVEPOINT => {
            Kind::Transaction(Transaction::Savepoint)
        }
        DO => Kind::Opaque("DO"),
        CALL => Kind::Opaque("CALL"),
        CREATE_DATABASE | DROP_DATABASE | ALTER_SYSTEM | CREATE_TABLESPACE | DROP_TABLESPACE
        | CREATE_SUBSCRIPTION | DROP_SUBSCRIPTION => Kind::Alone,
        _ => others(node),
    }
}

fn others(node: &SyntaxNode) -> Kind {
    match node.kind() {
        CREATE_FUNCTION | CREATE_PROCEDURE => Kind::CreateFunction {
            name: named(node, FUNCTION_NAME).unwrap_or_default(),
            reads: child(node, ATOMIC_BODY)
                .or_else(|| child(node, RETURN_STMT))
                .map(|body| reads(&body))
                .unwrap_or_default(),
        },
        DROP_FUNCTION | DROP_PROCEDURE | DROP_ROUTINE => Kind::DropFunction {
            names: all_names(node, FUNCTION_NAME_REF),
            cascade: has(node, CASCADE),
        },
        COMMENT_ON => {
            let of_column =
                below(node, QUALIFIED_COLUMN_NAME_REF).and_then(|column| table_of_column(&column));
            let of_table = || {
                [
                    OBJECT_TABLE,
                    OBJECT_TRIGGER,
                    OBJECT_CONSTRAINT,
                    OBJECT_POLICY,
                    OBJECT_RULE,
                    OBJECT_VIEW,
                ]
                .into_iter()
                .find_map(|kind| child(node, kind))
                .and_then(|object| {
                    named(&object, TABLE_NAME_REF)
                        .or_else(|| named(&object, RELATION_NAME_REF))
                        .or_else(|| named(&object, VIEW_REF))
                })
            };
            Kind::Comment {
                table: of_column.or_else(of_table),
            }
        }
        GRANT | REVOKE => Kind::Grant {
            tables: all_names(node, RELATION_NAME_REF),
        },
        CREATE_PUBLICATION => Kind::Publication {
            tables: all_names(node, TABLE_NAME_REF),
            adds: true,
        },
        ALTER_PUBLICATION => Kind::Publication {
            tables: all_names(node, TABLE_NAME_REF),
            adds: !has_below(node, DROP_PUBLICATION_OBJECTS),
        },
        CREATE_STATISTICS => Kind::CreateStatistics {
            table: named(node, TABLE_NAME_REF).unwrap_or_default(),
        },
        CREATE_SCHEMA => Kind::CreateSchema {
            name: one_name(node, SCHEMA),
        },
        _ => Kind::Other,
    }
}

fn all_names(node: &SyntaxNode, kind: SyntaxKind) -> Vec<Name> {
    let found = node.descendants().filter(|found| found.kind() == kind);
    found.map(|found| name(&found)).collect()
}

fn table_as(node: &SyntaxNode) -> Kind {
    Kind::CreateTableAs {
        name: named(node, TABLE_NAME).unwrap_or_default(),
        temporary: has_below(node, TEMP),
        if_not_exists: child(node, IF_NOT_EXISTS).is_some(),
        reads: reads(node),
    }
}

fn create_index(node: &SyntaxNode) -> Kind {
    let items = |list: SyntaxNode| {
        children(&list, PARTITION_ITEM)
            .map(|item| index_item(&item))
            .collect()
    };
    let relation = child(node, TABLE_RELATION_NAME);
    Kind::CreateIndex(CreateIndex {
        name: child(node, INDEX).map(|index| name(&index)),
        table: relation.as_ref().map(relation_name).unwrap_or_default(),
        only: relation.is_some_and(|relation| has(&relation, ONLY_KW)),
        unique: has(node, UNIQUE_KW),
        concurrently: has(node, CONCURRENTLY_KW),
        if_not_exists: child(node, IF_NOT_EXISTS).is_some(),
        method: child(node, USING_METHOD).map(|using| one_name(&using, ACCESS_METHOD_REF)),
        keys: child(node, PARTITION_ITEM_LIST).map(items).unwrap_or_default(),
        include: child(node, INDEX_INCLUDE_CLAUSE)
            .map(|clause| expression(&clause).columns)
            .unwrap_or_default(),
        predicate: child(node, WHERE_CLAUSE).and_then(|clause| first_expression(&clause)),
        extras: [NULLS_DISTINCT, NULLS_NOT_DISTINCT, WITH_PARAMS, TABLESPACE_CLAUSE]
            .into_iter()
            .any(|kind| child(node, kind).is_some()),
    })
}

fn index_item(item: &SyntaxNode) -> IndexItem {
    let found = first_expression(item).unwrap_or_default();
    let plain = child(item, NAME_REF).is_some();
    IndexItem {
        column: plain.then(|| found.columns.first().cloned()).flatten(),
        qualified: item.children().count() > 1,
        expression: found,
    }
}

fn alter_index(node: &SyntaxNode) -> Kind {
    let index = named(node, INDEX_REF).unwrap_or_default();
    let action = if let Some(attach) = child(node, ATTACH_INDEX_PARTITION) {
        IndexAction::Attach(named(&attach, INDEX_REF).unwrap_or_default())
    } else if let Some(rename) = child(node, INDEX_RENAME_TO) {
        IndexAction::Rename(one_name(&rename, INDEX))
    } else if child(node, SET_TABLESPACE).is_some() {
        IndexAction::SetTablespace
    } else if child(node, ALTER_SET_STATISTICS).is_some() {
        IndexAction::SetStatistics
    } else if child(node, SET_OPTIONS).is_some() || child(node, RESET_OPTIONS).is_some() {
        IndexAction::SetOptions
    } else {
        IndexAction::Other
    };
    Kind::AlterIndex { index, action }
}

fn reindex(node: &SyntaxNode) -> Kind {
    let target = if let Some(table) = child(node, REINDEX_TARGET_TABLE) {
        ReindexTarget::Table(named(&table, TABLE_NAME_REF).unwrap_or_default())
    } else if let Some(index) = child(node, REINDEX_TARGET_INDEX) {
        ReindexTarget::Index(named(&index, INDEX_REF).unwrap_or_default())
    } else if let Some(schema) = child(node, REINDEX_TARGET_SCHEMA) {
        ReindexTarget::Schema(one_name(&schema, SCHEMA_REF))
    } else {
        ReindexTarget::Database
    };
    let mut tokens = node.descendants_with_tokens();
    let concurrently = tokens.any(|element| element.kind() == CONCURRENTLY_KW);
    Kind::Reindex { target, concurrently }
}

fn drop(node: &SyntaxNode, object: Object, kind: SyntaxKind) -> Kind {
    Kind::Drop(Drop {
        object,
        names: children(node, kind).map(|found| name(&found)).collect(),
        cascade: has(node, CASCADE),
        concurrently: has(node, CONCURRENTLY_KW),
        if_exists: has(node, IF_EXISTS),
    })
}

fn maintenance(node: &SyntaxNode) -> Kind {
    let tables = || all_names(node, TABLE_NAME_REF);
    match node.kind() {
        TRUNCATE => Kind::Truncate {
            tables: tables(),
            restart: child(node, RESTART_IDENTITY).is_some(),
            cascade: has(node, CASCADE),
        },
        VACUUM => Kind::Vacuum {
            full: has(node, FULL_KW)
                || node
                    .descendants()
                    .any(|option| option.kind() == VACUUM_OPTION && is_full(&words(&option))),
            tables: tables(),
        },
        ANALYZE => Kind::Analyze(tables()),
        CLUSTER => Kind::Cluster {
            table: named(node, TABLE_NAME_REF),
            index: named(node, INDEX_REF),
        },
        REFRESH => Kind::Refresh {
            view: named(node, VIEW_REF).unwrap_or_default(),
            concurrently: has(node, CONCURRENTLY_KW),
            no_data: child(node, WITH_NO_DATA).is_some(),
        },
        _ => Kind::Lock {
            tables: node
                .descendants()
                .filter(|found| found.kind() == RELATION_NAME)
                .map(|found| (relation_name(&found), has(&found, ONLY_KW)))
                .collect(),
            mode: child(node, LOCK_MODE_CLAUSE)
                .and_then(|clause| {
                    let words = words(&clause).to_uppercase();
                    let mut modes = LockMode::ALL.into_iter();
                    modes.find(|mode| words == format!("IN {} MODE", mode.sql()))
                })
                .unwrap_or(LockMode::AccessExclusive),
        },
    }
}

fn is_full(option: &str) -> bool {
    let mut words = option.split([' ', '=']).filter(|word| !word.is_empty());
    words.next() == Some("full") && !matches!(words.next(), Some("false" | "off" | "0"))
}

fn trigger(node: &SyntaxNode) -> Kind {
    let table = child(node, ON_RELATION)
        .and_then(|on| named(&on, RELATION_NAME_REF))
        .unwrap_or_default();
    match node.kind() {
        CREATE_TRIGGER => Kind::CreateTrigger {
            name: one_name(node, TRIGGER),
            table,
            from: child(node, FROM_TABLE).and_then(|from| named(&from, TABLE_NAME_REF)),
            each_row: child(node, FOR_EACH_ROW).is_some(),
        },
        DROP_TRIGGER => Kind::DropTrigger {
            name: one_name(node, TRIGGER_REF),
            table,
        },
        _ => Kind::RenameTrigger { table },
    }
}

fn table_object(node: &SyntaxNode) -> Kind {
    let on = [ON_TABLE, ON_RELATION, RULE_ON]
        .into_iter()
        .find_map(|kind| child(node, kind));
    let table = on
        .and_then(|on| named(&on, TABLE_NAME_REF).or_else(|| named(&on, RELATION_NAME_REF)))
        .unwrap_or_default();
    let (verb, what) = match node.kind() {
        CREATE_RULE => ("create", "rule"),
        DROP_RULE => ("drop", "rule"),
        ALTER_RULE => ("alter", "rule"),
        CREATE_POLICY => ("create", "policy"),
        DROP_POLICY => ("drop", "policy"),
        _ => ("alter", "policy"),
    };
    let own = |read: &Name| *read != table && !matches!(read.name.as_str(), "new" | "old");
    Kind::TableObject {
        reads: reads(node).into_iter().filter(own).collect(),
        table,
        what,
        verb,
    }
}

fn view(node: &SyntaxNode) -> Kind {
    let made = || named(node, VIEW).unwrap_or_default();
    match node.kind() {
        CREATE_VIEW => Kind::CreateView {
            name: made(),
            replace: child(node, OR_REPLACE).is_some(),
            temporary: child(node, TEMP).is_some(),
            reads: reads(node),
        },
        CREATE_MATERIALIZED_VIEW => Kind::CreateMaterializedView {
            name: made(),
            if_not_exists: child(node, IF_NOT_EXISTS).is_some(),
            reads: reads(node),
        },
        _ => Kind::AlterView {
            name: named(node, VIEW_REF).unwrap_or_default(),
            materialized: node.kind() == ALTER_MATERIALIZED_VIEW,
            rename: child(node, VIEW_RENAME_TO).map(|rename| one_name(&rename, VIEW)),
            actions: actions(node),
        },
    }
}

fn types(node: &SyntaxNode) -> Kind {
    match node.kind() {
        CREATE_TYPE => {
            let labels = |list: SyntaxNode| {
                let found = list.descendants().filter(|found| found.kind() == LITERAL);
                found.filter_map(|label| string(&label)).collect()
            };
            Kind::CreateType {
                name: named(node, TYPE_NAME).unwrap_or_default(),
                labels: child(node, ENUM_TYPE).map(labels),
                composite: child(node, COMPOSITE_TYPE).is_some(),
            }
        }
        ALTER_TYPE => {
            let name = named(node, TYPE_NAME_REF).unwrap_or_default();
            if let Some(add) = child(node, ADD_VALUE) {
                let label = child(&add, LITERAL).and_then(|label| string(&label));
                return Kind::AddEnumValue {
                    name,
                    label: label.unwrap_or_default(),
                };
            }
            match child(node, ALTER_TYPE_ATTRIBUTE_ACTION_LIST).or_else(|| child(node, RENAME_ATTRIBUTE)) {
                Some(list) => Kind::AlterComposite {
                    name,
                    cascade: has_below(&list, CASCADE),
                    retypes: has_below(&list, ALTER_ATTRIBUTE),
                },
                None => Kind::Other,
            }
        }
        CREATE_DOMAIN => Kind::CreateDomain {
            name: named(node, DOMAIN).unwrap_or_default(),
            base: data_type(node).unwrap_or_default(),
            constrained: has_below(node, CHECK_CONSTRAINT) || has_below(node, NOT_NULL_CONSTRAINT),
        },
        _ => alter_domain(node),
    }
}

fn alter_domain(node: &SyntaxNode) -> Kind {
    let name = named(node, DOMAIN_REF).unwrap_or_default();
    let (validates, validate, what) = if let Some(add) = child(node, ADD_CONSTRAINT) {
        (!has_below(&add, NOT_VALID), false, "add a constraint to")
    } else if child(node, SET_NOT_NULL).is_some() {
        (true, false, "set NOT NULL on")
    } else {
        let validate = child(node, VALIDATE_CONSTRAINT).is_some();
        (validate, validate, "validate a constraint of")
    };
    Kind::AlterDomain {
        name,
        validates,
        validate,
        what,
    }
}

fn sequence(node: &SyntaxNode) -> Kind {
    let owner = below(node, OPTION_OWNED_BY)
        .and_then(|owned| below(&owned, QUALIFIED_COLUMN_NAME_REF))
        .and_then(|column| table_of_column(&column));
    if node.kind() == CREATE_SEQUENCE {
        return Kind::CreateSequence {
            name: named(node, SEQUENCE).unwrap_or_default(),
            owner,
        };
    }
    let any = |kinds: &[SyntaxKind]| kinds.iter().any(|kind| child(node, *kind).is_some());
    Kind::AlterSequence {
        name: named(node, SEQUENCE_REF).unwrap_or_default(),
        rename: any(&[SEQUENCE_RENAME_TO]),
        owner,
        other: any(&[OWNER_TO, SET_SCHEMA, SET_LOGGED, SET_UNLOGGED]),
    }
}

fn select(node: &SyntaxNode) -> Kind {
    Kind::Select {
        reads: reads(node),
        for_update: has_below(node, LOCKING_CLAUSE),
        whole: !has_below(node, WHERE_CLAUSE) && !has_below(node, LIMIT_CLAUSE),
    }
}

fn write(node: &SyntaxNode) -> Kind {
    let (verb, table) = match node.kind() {
        INSERT => ("INSERT", named(node, RELATION_NAME_REF)),
        UPDATE => (
            "UPDATE",
            child(node, RELATION_NAME).map(|found| relation_name(&found)),
        ),
        DELETE => (
            "DELETE",
            child(node, RELATION_NAME).map(|found| relation_name(&found)),
        ),
        MERGE => (
            "MERGE",
            child(node, TABLE_RELATION_NAME).map(|found| relation_name(&found)),
        ),
        _ if !has_below(node, COPY_FROM) => {
            return Kind::Select {
                reads: all_names(node, TABLE_NAME_REF)
                    .into_iter()
                    .chain(reads(node))
                    .collect(),
                for_update: false,
                whole: true,
            };
        }
        _ => ("COPY", named(node, TABLE_NAME_REF)),
    };
    let table = table.unwrap_or_default();
    let where_clause = child(node, WHERE_CLAUSE).is_some() || child(node, WHERE_CURRENT_OF).is_some();
    Kind::Write(Write {
        verb,
        reads: reads(node).into_iter().filter(|read| *read != table).collect(),
        table,
        whole: matches!(verb, "UPDATE" | "DELETE")
            && !where_clause
            && child(node, FROM_CLAUSE).is_none()
            && child(node, USING_CLAUSE).is_none(),
        strings: expression(node).strings,
    })
}

fn set(node: &SyntaxNode) -> Kind {
    let config = child(node, SET_CONFIG).unwrap_or_else(|| node.clone());
    let mut setting = one_name(&config, CONFIG_PARAMETER_REF);
    if child(node, SET_TIME_ZONE).is_some() {
        "timezone".clone_into(&mut setting);
    }
    let value = below(node, TO_CONFIG_VALUE)
        .or_else(|| child(node, SET_TIME_ZONE))
        .map(|value| {
            let text = text(&value);
            let text = text.trim_start_matches("TO ").trim_start_matches("to ");
            text.trim_start_matches('=').trim().to_owned()
        });
    Kind::Set {
        name: setting.to_lowercase(),
        value: match node.kind() {
            RESET => "default".to_owned(),
            _ => value.unwrap_or_default(),
        },
        local: child(node, LOCAL_SCOPE).is_some(),
    }
}
