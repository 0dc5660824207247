//! What else hangs on columns and tables: settings, grants, publications, triggers, views, statistics, policies.

use super::{Generator, OWNER, READER};
use crate::twin::chance::Dice;
use crate::twin::model::{Feed, Hanging};
use crate::twin::values::Family;
use pgmorph::sql::{QualifiedName, derived_name, ident, literal};
use std::fmt::Write;

impl Generator {
    pub(super) fn column_settings(&mut self, at: usize) {
        let table = self.tables[at].clone();
        for (position, column) in table.columns.iter().enumerate() {
            let (t, c) = (&table.name, column.sql());
            let mut said = Vec::new();
            if self.chance.percent(20) {
                let target = self.chance.below(1_000);
                said.push(format!(
                    "ALTER TABLE {t} ALTER COLUMN {c} SET STATISTICS {target};"
                ));
            }
            if self.chance.percent(12) {
                said.push(format!("ALTER TABLE {t} ALTER COLUMN {c} SET (n_distinct = 42);"));
            }
            if self.chance.percent(20) {
                said.push(format!("COMMENT ON COLUMN {t}.{c} IS 'it''s \\ \"{position}\"';"));
            }
            if self.chance.percent(15) {
                let option = *self.chance.pick(&["", " WITH GRANT OPTION"]);
                said.push(format!(
                    "GRANT SELECT ({c}), UPDATE ({c}) ON {t} TO {READER}{option};"
                ));
            }
            if column.data_type.family() == Family::Text && self.chance.percent(20) {
                let how = *self.chance.pick(&["STORAGE EXTERNAL", "COMPRESSION pglz"]);
                let sql = format!("ALTER TABLE {t} ALTER COLUMN {c} SET {how};");
                // Plain ALTER gives the column the storage of its new type.
                self.tables[at].columns[position].said_again.push(sql.clone());
                said.push(sql);
            }
            for sql in said {
                say!(self.constrained, "{sql}");
            }
        }
    }

    pub(super) fn table_settings(&mut self, at: usize) {
        let table = &self.tables[at];
        let name = table.name.clone();
        let tag = table.tag();
        if self.chance.percent(25) {
            say!(
                self.constrained,
                "GRANT SELECT, INSERT ON {name} TO {READER}; GRANT UPDATE ({tag}) ON {name} TO PUBLIC;"
            );
        }
        if self.chance.percent(20) {
            say!(self.constrained, "COMMENT ON TABLE {name} IS 'of the twins';");
        }
        if !self.tables[at].partitioned && self.chance.percent(6) {
            let publication = ident(&self.name("pub"));
            let create = format!("CREATE PUBLICATION {publication} FOR TABLE {name}");
            if self.tables[at].primary && self.major >= 15 && self.chance.percent(50) {
                let all = (0..self.tables[at].columns.len()).collect();
                let create = format!("{create} ({});", self.tables[at].list());
                self.hang(
                    at,
                    all,
                    "publication",
                    create,
                    format!("DROP PUBLICATION {publication};"),
                );
            } else {
                self.tables[at].obstacles.push(format!(
                    "a shadow column cannot carry what publication {publication} publishes"
                ));
                // Otherwise its rows could not be updated without a primary key.
                say!(self.constrained, "ALTER TABLE {name} REPLICA IDENTITY FULL;");
                say!(self.constrained, "{create};");
            }
            for column in &mut self.tables[at].columns {
                column.uses.insert("publication");
            }
        } else if self.chance.percent(5) {
            say!(self.constrained, "ALTER TABLE {name} REPLICA IDENTITY FULL;");
        }
    }

    pub(super) fn triggers(&mut self, at: usize) {
        for _ in 0..*self.chance.pick(&[0, 0, 0, 0, 1, 2]) {
            let table = self.tables[at].clone();
            let position = self.chance.index(table.columns.len());
            let column = &table.columns[position];
            let plain = self.name("trigger");
            let (t, c, name) = (&table.name, column.sql(), ident(&plain));
            let noop = t.sibling("noop");
            let run = format!("FOR EACH ROW EXECUTE FUNCTION {noop}();");
            let drop = format!("DROP TRIGGER {name} ON {t};");
            let mut hangs = true;
            let sql = match self.chance.below(6) {
                0 => format!("CREATE TRIGGER {name} BEFORE UPDATE OF {c} ON {t} {run}"),
                1 => format!(
                    "CREATE TRIGGER {name} AFTER INSERT OR UPDATE ON {t} FOR EACH ROW WHEN (NEW.{c} IS NOT NULL) \
                     EXECUTE FUNCTION {noop}();"
                ),
                // Not of texts: verify finds fault with the casts that the server writes for some of their types.
                2 if column.data_type.family() != Family::Text => format!(
                    "CREATE TRIGGER {name} AFTER UPDATE OF {c} ON {t} FOR EACH ROW \
                     WHEN (OLD.{c} IS DISTINCT FROM NEW.{c}) EXECUTE FUNCTION {noop}();"
                ),
                3 if !table.partitioned => {
                    hangs = false;
                    format!(
                        "CREATE CONSTRAINT TRIGGER {name} AFTER INSERT OR UPDATE ON {t} \
                         DEFERRABLE INITIALLY DEFERRED {run}"
                    )
                }
                4 => {
                    hangs = false;
                    format!("CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {t} {run}")
                }
                _ => {
                    if self.default_by_trigger(at, position, &name) {
                        self.late_trigger(at, &plain);
                    }
                    continue;
                }
            };
            if sql.contains(" BEFORE ") {
                self.late_trigger(at, &plain);
            }
            let mut create = sql;
            if self.chance.percent(20) {
                let state = *self.chance.pick(&["DISABLE", "ENABLE ALWAYS"]);
                write!(create, "\nALTER TABLE {t} {state} TRIGGER {name};").unwrap();
            }
            if self.chance.percent(20) {
                write!(create, "\nCOMMENT ON TRIGGER {name} ON {t} IS 'ours';").unwrap();
            }
            let columns = if hangs { vec![position] } else { Vec::new() };
            self.hang(at, columns, "trigger", create, drop);
        }
    }

    /// One that changes rows on their way in.
    fn default_by_trigger(&mut self, at: usize, position: usize, name: &str) -> bool {
        let (t, column) = (
            self.tables[at].name.clone(),
            &mut self.tables[at].columns[position],
        );
        if column.unique || column.feed != Feed::Free || column.null_becomes.is_some() {
            return false;
        }
        let value = column.data_type.value(7);
        let (c, quoted) = (column.sql(), literal(&value));
        column.null_becomes = Some(value);
        let function = t.sibling(derived_name(&[&column.name, name.trim_matches('"')], "fn"));
        let body = format!("BEGIN IF NEW.{c} IS NULL THEN NEW.{c} := {quoted}; END IF; RETURN NEW; END");
        say!(
            self.constrained,
            "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {};",
            literal(&body)
        );
        say!(
            self.constrained,
            "CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {function}();"
        );
        true
    }

    /// One that comes after ours in the order of names could change the value again.
    fn late_trigger(&mut self, at: usize, name: &str) {
        if name > "~" {
            let message = format!("trigger {}", ident(name));
            self.tables[at].obstacles.push(message);
        }
    }

    pub(super) fn hang(
        &mut self,
        table: usize,
        columns: Vec<usize>,
        kind: &'static str,
        create: String,
        drop: String,
    ) {
        for column in &columns {
            self.tables[table].columns[*column].uses.insert(kind);
        }
        self.hanging.push(Hanging {
            table,
            columns,
            create,
            drop,
        });
    }

    pub(super) fn views(&mut self, at: usize) {
        if !self.chance.percent(22) {
            return;
        }
        let table = self.tables[at].clone();
        let position = self.chance.index(table.columns.len());
        let (t, tag, c) = (&table.name, table.tag(), table.columns[position].sql());
        let view = t.sibling(self.name("view"));
        if self.chance.percent(20) {
            let create = format!(
                "CREATE MATERIALIZED VIEW {view} AS SELECT {tag} AS a, {c} AS b FROM {t};\n\
                 CREATE INDEX ON {view} (b DESC);"
            );
            let drop = format!("DROP MATERIALIZED VIEW {view};");
            return self.hang(at, vec![0, position], "materialized view", create, drop);
        }
        let query = match self.chance.below(4) {
            // It depends on the primary key, too.
            0 if table.primary && table.key == [1] => {
                let k = table.columns[1].sql();
                let create =
                    format!("CREATE VIEW {view} AS SELECT {k} AS a, {c} AS b FROM {t} GROUP BY {k};");
                let drop = format!("DROP VIEW {view};");
                return self.hang(at, vec![1, position], "view", create, drop);
            }
            1 => format!("SELECT count(*) AS a, {c} AS b FROM {t} GROUP BY {c}"),
            _ => format!("SELECT {tag} AS a, {c} AS b FROM {t} WHERE {c} IS NOT NULL"),
        };
        let with = *self.chance.pick(&["", "", " WITH (security_barrier=true)"]);
        let mut create = format!("CREATE VIEW {view}{with} AS {query};");
        let mut drop = format!("DROP VIEW {view};");
        if self.chance.percent(50) {
            write!(
                create,
                "\nALTER VIEW {view} OWNER TO {OWNER};\nGRANT SELECT ON {view} TO {READER} WITH GRANT OPTION;\
                 \nCOMMENT ON VIEW {view} IS 'a view';"
            )
            .unwrap();
        }
        if self.chance.percent(40) {
            let above = t.sibling(self.name("above"));
            write!(
                create,
                "\nCREATE VIEW {above} AS SELECT b FROM {view} WHERE b IS NOT NULL;"
            )
            .unwrap();
            drop = format!("DROP VIEW {above};\n{drop}");
        }
        let columns = if query.contains(" AS a, ") && !query.starts_with("SELECT count") {
            vec![0, position]
        } else {
            vec![position]
        };
        self.upon_view(&view, &mut create, &mut drop);
        self.hang(at, columns, "view", create, drop);
    }

    fn upon_view(&mut self, view: &QualifiedName, create: &mut String, drop: &mut String) {
        if self.chance.percent(15) {
            let stored = view.sibling(self.name("stored"));
            write!(
                create,
                "\nCREATE MATERIALIZED VIEW {stored} AS SELECT b FROM {view} WITH NO DATA;"
            )
            .unwrap();
            *drop = format!("DROP MATERIALIZED VIEW {stored};\n{drop}");
        }
        if self.chance.percent(10) {
            let name = ident(&self.name("instead"));
            write!(
                create,
                "\nCREATE TRIGGER {name} INSTEAD OF INSERT ON {view} FOR EACH ROW EXECUTE FUNCTION {}();",
                view.sibling("noop")
            )
            .unwrap();
        }
    }

    pub(super) fn rules(&mut self, at: usize) {
        if !self.chance.percent(8) {
            return;
        }
        let table = &self.tables[at];
        let position = self.chance.index(table.columns.len());
        let (t, c) = (table.name.clone(), table.columns[position].sql());
        let name = ident(&self.name("rule"));
        let event = *self.chance.pick(&["INSERT", "UPDATE", "DELETE"]);
        let row = if event == "INSERT" { "NEW" } else { "OLD" };
        let mut create =
            format!("CREATE RULE {name} AS ON {event} TO {t} WHERE {row}.{c} IS NOT NULL DO ALSO NOTHING;");
        if self.chance.percent(30) {
            let state = *self.chance.pick(&["DISABLE", "ENABLE REPLICA", "ENABLE ALWAYS"]);
            write!(create, "\nALTER TABLE {t} {state} RULE {name};").unwrap();
        }
        if self.chance.percent(30) {
            write!(create, "\nCOMMENT ON RULE {name} ON {t} IS 'a rule';").unwrap();
        }
        self.hang(
            at,
            vec![position],
            "rule",
            create,
            format!("DROP RULE {name} ON {t};"),
        );
    }

    /// A function with an SQL body, or a generated column, which no shadow column carries.
    pub(super) fn readers(&mut self, at: usize) {
        if !self.chance.percent(5) {
            return;
        }
        let table = &self.tables[at];
        let position = self.chance.index(table.columns.len());
        let (t, c) = (table.name.clone(), table.columns[position].sql());
        if self.chance.percent(50) {
            let function = t.sibling(self.name("reader"));
            let create = format!(
                "CREATE FUNCTION {function}() RETURNS bigint LANGUAGE sql \
                 BEGIN ATOMIC SELECT count({c}) FROM {t}; END;"
            );
            let drop = format!("DROP FUNCTION {function}();");
            self.hang(at, vec![position], "function", create, drop);
        } else {
            let name = ident(&self.unused("made up"));
            let create = format!(
                "ALTER TABLE {t} ADD COLUMN {name} boolean GENERATED ALWAYS AS ({c} IS NULL) STORED;"
            );
            let obstacle = format!("a shadow column cannot carry generated column {name}: it is stored");
            self.tables[at].columns[position].obstacles.push(obstacle);
            let drop = format!("ALTER TABLE {t} DROP COLUMN {name};");
            self.hang(at, vec![position], "generated column", create, drop);
        }
    }

    pub(super) fn statistics(&mut self, at: usize) {
        let table = self.tables[at].clone();
        let scalar: Vec<usize> = (1..table.columns.len())
            .filter(|at| table.columns[*at].data_type.family() != Family::Array)
            .collect();
        if scalar.is_empty() || !self.chance.percent(15) {
            return;
        }
        let position = *self.chance.pick(&scalar);
        let name = table.name.sibling(self.name("stat"));
        let kinds = *self.chance.pick(&["", " (ndistinct)", " (dependencies, mcv)"]);
        say!(
            self.constrained,
            "CREATE STATISTICS {name}{kinds} ON {}, {} FROM {};",
            table.tag(),
            table.columns[position].sql(),
            table.name
        );
        if self.chance.percent(30) {
            say!(self.constrained, "COMMENT ON STATISTICS {name} IS 'both';");
        }
        if self.chance.percent(30) {
            let sql = format!("ALTER STATISTICS {name} SET STATISTICS 33;");
            say!(self.constrained, "{sql}");
            // Plain ALTER builds the object anew, without its target.
            self.tables[at].columns[position].said_again.push(sql);
        }
        self.tables[at].columns[position].uses.insert("statistics");
    }

    pub(super) fn policies(&mut self, at: usize) {
        if !self.chance.percent(10) {
            return;
        }
        let table = self.tables[at].clone();
        let position = self.chance.index(table.columns.len());
        let (t, c, name) = (
            &table.name,
            table.columns[position].sql(),
            ident(&self.name("policy")),
        );
        say!(self.constrained, "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY;");
        let create = format!(
            "CREATE POLICY {name} ON {t} AS PERMISSIVE FOR SELECT TO {READER} USING ({c} IS NOT NULL);"
        );
        self.hang(
            at,
            vec![position],
            "policy",
            create,
            format!("DROP POLICY {name} ON {t};"),
        );
    }
}
