//! The order in which several tables are locked. Pure.
//!
//! An application that locks them in the other order has the second one nearly always when we have got the first: then
//! no attempt ever succeeds. In the other order it cannot have the second one without the first, and we are through at
//! once. Nobody knows its order, so every other attempt takes each.

use crate::sql::lock_table;

/// The statements of an attempt, counted from 1.
pub(super) fn of_attempt(statements: &[String], attempt: u32) -> Vec<String> {
    let mut statements = statements.to_vec();
    if attempt % 2 == 1 {
        return statements;
    }
    let is_lock = |statement: &String| lock_table(statement).is_some();
    let mut at = 0;
    while at < statements.len() {
        let run = statements[at..].iter().take_while(|one| is_lock(one)).count();
        for statement in &mut statements[at..at + run] {
            if let Some((tables, mode)) = lock_table(statement) {
                let turned: Vec<&str> = tables.into_iter().rev().collect();
                *statement = format!("LOCK TABLE {} IN {mode} MODE", turned.join(", "));
            }
        }
        statements[at..at + run].reverse();
        at += run.max(1);
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_attempt_takes_the_tables_the_other_way_round() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let plan = texts(&[
            r#"LOCK TABLE public.a, ONLY "B, IN ""c""".d IN ACCESS EXCLUSIVE MODE"#,
            "LOCK TABLE public.e IN SHARE ROW EXCLUSIVE MODE",
            "ALTER TABLE public.a DROP COLUMN b",
            "LOCK TABLE x, y IN SHARE MODE",
        ]);
        for attempt in [1, 3] {
            assert_eq!(of_attempt(&plan, attempt), plan);
        }
        let other = texts(&[
            "LOCK TABLE public.e IN SHARE ROW EXCLUSIVE MODE",
            r#"LOCK TABLE ONLY "B, IN ""c""".d, public.a IN ACCESS EXCLUSIVE MODE"#,
            "ALTER TABLE public.a DROP COLUMN b",
            "LOCK TABLE y, x IN SHARE MODE",
        ]);
        assert_eq!(of_attempt(&plan, 2), other);
        // What somebody wrote in another way stays as it is.
        let own = texts(&["LOCK TABLE a, b", "LOCK TABLE a, b IN SHARE MODE NOWAIT"]);
        assert_eq!(of_attempt(&own, 2), own);
    }
}
