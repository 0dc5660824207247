//! The bodies of the functions: what happens at a write.

use super::{Mirror, equal, joined_list, unlike};
use crate::sql::{QualifiedName, ident, literal};

/// So often a row is looked for and inserted before the write is refused.
const TRIES_MAX: u32 = 100;

impl Mirror {
    /// `one.key = other.key AND …`
    fn same_key(&self, of: &str, values: &[String]) -> String {
        let names = self.mapping.key.iter().map(|(column, _)| &column.value);
        let pairs = names
            .zip(values)
            .map(|(name, value)| equal(&format!("{of}.{}", ident(name)), value));
        joined_list(pairs, " AND ")
    }

    /// As [`Self::same_key`], in the view of the driving table's own keys.
    fn same_own_key(&self, of: &str, values: &[String]) -> String {
        let names = self.mapping.key.iter().map(|(_, column)| &column.value);
        let pairs = names
            .zip(values)
            .map(|(name, value)| equal(&format!("{of}.{}", ident(name)), value));
        joined_list(pairs, " AND ")
    }

    /// `NEW.a, NEW.b`: the key in a row of the driving table.
    fn own_key(&self, row: &str) -> Vec<String> {
        let columns = self.mapping.key.iter();
        columns
            .map(|(_, column)| format!("{row}.{}", ident(&column.value)))
            .collect()
    }

    fn arguments(&self) -> Vec<String> {
        (1..=self.key_types.len())
            .map(|number| format!("${number}"))
            .collect()
    }

    fn function(&self, name: &QualifiedName, arguments: &[String], attributes: &str, body: &str) -> String {
        format!(
            "CREATE FUNCTION {name}({}) {attributes} AS {}",
            arguments.join(", "),
            literal(body)
        )
    }

    /// Makes the row of one key anew. The row of the target is locked before anything is read: who holds it may be about
    /// to write to what is read. Between looking and inserting somebody else may insert it: then it is looked at again.
    /// Nobody is so unlucky many times over: then the row is never found, and the application must not wait for ever.
    pub(super) fn row_function(&self) -> String {
        let (made, target) = (self.made(), self.target());
        let arguments = self.arguments();
        let here = self.same_key("t", &arguments);
        let gone = match self.deletes {
            true => format!("DELETE FROM {target} AS t WHERE {here}; "),
            false => String::new(),
        };
        let given = self.mapping.given().map(|(column, _)| ident(&column.value));
        let key = self.mapping.key.iter().map(|(column, _)| ident(&column.value));
        let body = format!(
            "#variable_conflict use_column\n\
             DECLARE wanted {target}%ROWTYPE; there boolean;\n\
             BEGIN FOR attempt IN 1..{TRIES_MAX} LOOP\n\
             PERFORM FROM {target} AS t WHERE {here} FOR NO KEY UPDATE;\n\
             there := FOUND;\n\
             SELECT {} INTO wanted FROM {made} AS s WHERE {};\n\
             IF NOT FOUND THEN {gone}RETURN; END IF;\n\
             IF there THEN {}RETURN; END IF;\n\
             INSERT INTO {target} ({}){} VALUES ({}) ON CONFLICT ({}) DO NOTHING;\n\
             IF FOUND THEN RETURN; END IF;\n\
             END LOOP;\n\
             RAISE EXCEPTION USING ERRCODE = 'triggered_data_change_violation', MESSAGE = {}, HINT = {}; END",
            self.columns_of("s", self.mapping.given()),
            self.same_key("s", &arguments),
            self.update(&here),
            joined_list(given, ", "),
            self.overriding,
            self.of_wanted(self.mapping.given()).join(", "),
            joined_list(key, ", "),
            literal(&format!(
                "sync {}: {} does not take a row with this key, and has none",
                ident(&self.name),
                self.mapping.into.value
            )),
            literal("A trigger BEFORE INSERT may leave the row out or change its key."),
        );
        let name = self.row_name();
        self.function(&name, &self.key_types, "RETURNS void LANGUAGE plpgsql", &body)
    }

    fn of_wanted<'a>(&self, pairs: impl Iterator<Item = &'a super::Pair>) -> Vec<String> {
        pairs
            .map(|(column, _)| format!("wanted.{}", ident(&column.value)))
            .collect()
    }

    fn update(&self, here: &str) -> String {
        let columns = &self.mapping.columns;
        if columns.is_empty() {
            return String::new();
        }
        let name = |(column, _): &super::Pair| ident(&column.value);
        let set = columns.iter().map(|pair| format!("{0} = wanted.{0}", name(pair)));
        let there: Vec<String> = columns.iter().map(|pair| format!("t.{}", name(pair))).collect();
        format!(
            "UPDATE {} AS t SET {} WHERE {here} AND {}; ",
            self.target(),
            joined_list(set, ", "),
            unlike(&there, &self.of_wanted(columns.iter()))
        )
    }

    fn remake(&self, key: &[String]) -> String {
        format!("PERFORM {}({});", self.row_name(), key.join(", "))
    }

    /// After a write to a joined table: waits for whoever holds the driving row, then makes the row anew.
    pub(super) fn joined_function(&self) -> String {
        let arguments = self.arguments();
        let null = joined_list(arguments.iter().map(|it| format!("{it} IS NULL")), " OR ");
        let hold = format!(
            "PERFORM FROM {} AS s WHERE {} FOR NO KEY UPDATE;",
            self.keys(),
            self.same_own_key("s", &arguments)
        );
        // Somebody may be inserting the driving row: he holds the slot of its key.
        let absent = match self.unguarded() {
            true => format!(
                "IF NOT FOUND THEN PERFORM pg_catalog.pg_advisory_xact_lock({}); {hold} END IF;\n",
                self.slot(&arguments)
            ),
            false => String::new(),
        };
        // A foreign key is checked against what is committed now, and not against what such a transaction sees.
        let unseen = match self.unguarded() {
            true => String::new(),
            false => "IF NOT FOUND AND pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' \
                      THEN RAISE EXCEPTION 'could not serialize access due to concurrent insert' \
                      USING ERRCODE = 'serialization_failure'; END IF;\n"
                .to_owned(),
        };
        let body = format!(
            "BEGIN\nIF {null} THEN RETURN; END IF;\n{hold}\n{absent}{unseen}\
             IF FOUND THEN {} END IF;\nEND",
            self.remake(&arguments)
        );
        let name = self.joined_name();
        self.function(&name, &self.key_types, "RETURNS void LANGUAGE plpgsql", &body)
    }

    /// Whether a row of a joined table may come in while its driving row is being inserted.
    fn unguarded(&self) -> bool {
        self.joined.iter().any(|joined| !joined.guarded)
    }

    /// Locks of a transaction take memory of the whole server: one in 64 for each key, rather than one for each.
    fn slot(&self, key: &[String]) -> String {
        let texts = joined_list(key.iter().map(|it| format!("{it}::text")), ", ");
        format!(
            "pg_catalog.hashtext({}), pg_catalog.hashtext(pg_catalog.concat_ws('/', {texts})) OPERATOR(pg_catalog.&) 63",
            literal(&self.made().to_string())
        )
    }

    /// The function of the triggers of one source. It writes with the rights of whoever applied the plan.
    pub(super) fn trigger_function(&self, number: Option<usize>) -> String {
        let steps = match number {
            None => self.driving_body(),
            Some(number) => self.joined_body(number),
        };
        // As an attribute of the function only a superuser may set a parameter that no extension has declared, so it is
        // set and set back by hand; an error takes it back with all else.
        let body = format!(
            "DECLARE pgmorph_flag text := pg_catalog.current_setting('pgmorph.sync', true);\n\
             BEGIN\nPERFORM pg_catalog.set_config('pgmorph.sync', pg_catalog.pg_trigger_depth()::text, true);\n\
             <<work>> BEGIN\n{steps}\nEND;\n\
             PERFORM pg_catalog.set_config('pgmorph.sync', pgmorph_flag, true);\nRETURN NULL; END"
        );
        let attributes = format!(
            "RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = {}",
            self.path()
        );
        self.function(&self.trigger_function_name(number), &[], &attributes, &body)
    }

    fn driving_body(&self) -> String {
        let (old, new) = (self.own_key("OLD"), self.own_key("NEW"));
        let claim = match self.unguarded() {
            true => format!(
                "PERFORM pg_catalog.pg_advisory_xact_lock_shared({});\n",
                self.slot(&new)
            ),
            false => String::new(),
        };
        let moved = format!(
            "IF {} THEN\n{claim}{}{}\nEND IF;\n",
            unlike(&old, &new),
            self.move_row(&old, &new),
            self.remake(&old)
        );
        let inserted = match claim.as_str() {
            "" => String::new(),
            claim => format!("ELSIF TG_OP = 'INSERT' THEN\n{claim}"),
        };
        let emptied = match self.deletes {
            true => format!(
                "IF TG_OP = 'TRUNCATE' THEN DELETE FROM {} AS t USING {} AS s WHERE {}; EXIT work; END IF;\n",
                self.target(),
                self.keys(),
                self.same_key("t", &self.own_key("s"))
            ),
            false => String::new(),
        };
        format!(
            "{emptied}IF TG_OP = 'DELETE' THEN {} EXIT work;\nELSIF TG_OP = 'UPDATE' THEN\n{moved}{inserted}END IF;\n{}",
            self.remake(&old),
            self.remake(&new)
        )
    }

    /// A changed key keeps the row, with what is given on insert only. Not where a statement hands keys round among
    /// rows: there each key gets what its new row says.
    fn move_row(&self, old: &[String], new: &[String]) -> String {
        if !self.movable {
            return String::new();
        }
        let (target, keys) = (self.target(), self.keys());
        let set = self.mapping.key.iter().zip(new);
        let set = set.map(|((column, _), value)| format!("{} = {value}", ident(&column.value)));
        format!(
            "UPDATE {target} AS t SET {} WHERE {} AND NOT EXISTS (SELECT FROM {target} AS o WHERE {}) \
             AND NOT EXISTS (SELECT FROM {keys} AS s WHERE {});\n",
            joined_list(set, ", "),
            self.same_key("t", old),
            self.same_key("o", new),
            self.same_own_key("s", old)
        )
    }

    fn joined_body(&self, number: usize) -> String {
        let columns = &self.joined[number].columns;
        let of = |row: &str| -> Vec<String> {
            columns
                .iter()
                .map(|column| format!("{row}.{}", ident(column)))
                .collect()
        };
        let (old, new) = (of("OLD"), of("NEW"));
        let touch = |key: &[String]| format!("PERFORM {}({});", self.joined_name(), key.join(", "));
        let all = format!(
            "PERFORM {}({}) FROM {} AS s;",
            self.joined_name(),
            self.own_key("s").join(", "),
            self.keys()
        );
        format!(
            "IF TG_OP = 'TRUNCATE' THEN {all} EXIT work; END IF;\n\
             IF TG_OP = 'DELETE' THEN {} EXIT work; END IF;\n\
             IF TG_OP = 'UPDATE' THEN\nIF {} THEN {} END IF; END IF;\n{}",
            touch(&old),
            unlike(&old, &new),
            touch(&old),
            touch(&new)
        )
    }
}
