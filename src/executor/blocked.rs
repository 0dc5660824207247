//! Whether a session in our way is cancelled, ended or left alone. Pure.

use crate::plan::{Contention, OnBlocked};

/// What is known of a session that holds a lock in our way. What this role may not see is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "answers of the catalog, one by one")]
pub(super) struct Candidate {
    pub(super) user: String,
    /// Our own role.
    pub(super) role: String,
    pub(super) superuser: bool,
    /// A session of a run of ours.
    pub(super) ours: bool,
    /// `pg_stat_activity.backend_type`.
    pub(super) kind: Option<String>,
    pub(super) state: Option<String>,
    pub(super) age_ms: Option<u64>,
    /// When its transaction began, in the server's microseconds.
    pub(super) began: Option<i64>,
    /// It has a transaction id: it has written, or locked rows.
    pub(super) written: bool,
    /// Our role may cancel and end it.
    pub(super) signallable: bool,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Spared(String),
    /// Too young, for now.
    NotYet,
    Cancelled,
    Terminated,
}

impl Candidate {
    pub(super) fn fate(&self, contention: &Contention) -> Fate {
        let Self { user, role, .. } = self;
        let spared = Fate::Spared;
        if contention.on_blocked == OnBlocked::Wait {
            return Fate::NotYet;
        }
        if self.ours {
            return spared("it belongs to a run of pgmorph".into());
        }
        if self.superuser {
            return spared(format!("{user} is a superuser"));
        }
        let (Some(kind), Some(age_ms), Some(_)) = (&self.kind, self.age_ms, self.began) else {
            return spared(format!(
                "role {role} is not shown how old its transaction is: GRANT pg_read_all_stats TO it"
            ));
        };
        if kind != "client backend" {
            return spared(format!("it is no client but the server's own: {kind}"));
        }
        if age_ms < contention.on_blocked_after_ms {
            return Fate::NotYet;
        }
        if self.written {
            return spared("it has written or locked rows, which would be undone".into());
        }
        if !self.signallable {
            return spared(format!(
                "role {role} may not: GRANT pg_signal_backend, or {user}, TO it"
            ));
        }
        match contention.on_blocked {
            OnBlocked::Terminate => Fate::Terminated,
            _ if self.state.as_deref() == Some("active") => Fate::Cancelled,
            _ => {
                spared("it runs nothing that could be cancelled; `on_blocked: terminate` would end it".into())
            }
        }
    }
}

impl Fate {
    /// `cancelled`, `terminated`.
    pub(super) fn done(&self) -> &'static str {
        match self {
            Self::Terminated => "terminated",
            _ => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> Candidate {
        Candidate {
            user: "app".into(),
            role: "deploy".into(),
            superuser: false,
            ours: false,
            kind: Some("client backend".into()),
            state: Some("active".into()),
            age_ms: Some(31_000),
            began: Some(7),
            written: false,
            signallable: true,
        }
    }

    fn fate(policy: OnBlocked, change: impl Fn(&mut Candidate)) -> String {
        let mut candidate = reader();
        change(&mut candidate);
        let contention = Contention {
            on_blocked: policy,
            ..Contention::default()
        };
        match candidate.fate(&contention) {
            Fate::Spared(why) => why,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn limits() {
        use OnBlocked::{Cancel, Terminate, Wait};
        let idle = |one: &mut Candidate| one.state = Some("idle in transaction".into());
        assert_eq!(fate(Wait, |_| ()), "NotYet");
        assert_eq!(fate(Cancel, |_| ()), "Cancelled");
        assert_eq!(fate(Terminate, |_| ()), "Terminated");
        assert_eq!(fate(Terminate, idle), "Terminated");
        assert!(fate(Cancel, idle).contains("on_blocked: terminate"));
        for policy in [Cancel, Terminate] {
            let spared = |change: fn(&mut Candidate)| fate(policy, change);
            assert_eq!(spared(|one| one.age_ms = Some(29_999)), "NotYet");
            assert!(spared(|one| one.age_ms = None).contains("pg_read_all_stats"));
            assert!(spared(|one| one.kind = None).contains("pg_read_all_stats"));
            assert!(spared(|one| one.superuser = true).contains("superuser"));
            assert!(spared(|one| one.ours = true).contains("pgmorph"));
            assert!(spared(|one| one.written = true).contains("written"));
            assert!(spared(|one| one.signallable = false).contains("pg_signal_backend"));
            for kind in ["walsender", "autovacuum worker", "logical replication worker"] {
                let mut other = reader();
                other.kind = Some(kind.into());
                let contention = Contention {
                    on_blocked: policy,
                    ..Contention::default()
                };
                assert!(matches!(other.fate(&contention), Fate::Spared(why) if why.contains(kind)));
            }
        }
    }
}
