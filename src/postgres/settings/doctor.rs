//! A second opinion on a session that owes an answer: the server itself is asked, on another connection, whether it is
//! still at work for that session. Neither TCP keepalive nor `tcp_user_timeout` notices a proxy that acknowledges
//! everything and passes nothing on, and a bound on the client's side cannot tell a long index build from a lost one.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::Route;
use super::line::Line;

/// After so long without an answer the server is asked.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// How often, as long as it says that it is at work.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// A question that is not answered by then counts as unanswered.
const ASK_WITHIN: Duration = Duration::from_secs(6);

/// So many questions in a row must speak against the connection: an answer may be on its way, a server may be busy.
const TIMES: u32 = 3;
const TIMES_IDLE: u32 = 2;

/// What the server says about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opinion {
    AtWork,
    /// It waits for a request, or does not exist any more: the answer was sent, and did not arrive, or the request did not.
    NotAtWork,
    /// The server did not answer this question either.
    Unreachable,
    /// It answered, but not this: it takes no connections, or does not show states.
    Unknown,
}

/// Why a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    AnswerLost,
    Unreachable,
}

impl Verdict {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::AnswerLost => {
                "the server is not at work for this session any more, and its answer did not arrive"
            }
            Self::Unreachable => "the server answers nothing, not even on a new connection",
        }
    }
}

/// What the opinions so far come to. Pure.
#[derive(Debug, Default)]
struct Chart {
    idle: u32,
    unreachable: u32,
}

impl Chart {
    fn add(&mut self, opinion: Opinion) -> Option<Verdict> {
        match opinion {
            Opinion::AtWork => *self = Self::default(),
            Opinion::NotAtWork => {
                self.idle += 1;
                self.unreachable = 0;
            }
            Opinion::Unreachable => self.unreachable += 1,
            Opinion::Unknown => self.unreachable = 0,
        }
        if self.idle >= TIMES_IDLE {
            Some(Verdict::AnswerLost)
        } else if self.unreachable >= TIMES {
            Some(Verdict::Unreachable)
        } else {
            None
        }
    }
}

/// Returns when the connection is lost; never as long as answers come, or the server is at work on one.
pub(super) async fn watch(line: &Line, pid: &str, route: &Route) -> (Verdict, Duration) {
    loop {
        let mut chart = Chart::default();
        // Kept while it is of use: a server that is short of connections need not give another one each time.
        let mut asks: Option<Client> = None;
        while let Some(silent) = line.silent_for().filter(|silent| *silent >= SILENT_AFTER) {
            let opinion = match tokio::time::timeout(ASK_WITHIN, ask(&mut asks, pid, route)).await {
                Ok(opinion) => opinion,
                Err(_) => {
                    asks = None;
                    Opinion::Unreachable
                }
            };
            // The answer may have come meanwhile.
            if line.silent_for().is_none_or(|now| now < silent) {
                break;
            }
            if let Some(verdict) = chart.add(opinion) {
                return (verdict, line.silent_for().unwrap_or(silent));
            }
            if opinion != Opinion::Unreachable {
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
        let left = line
            .silent_for()
            .map_or(SILENT_AFTER, |silent| SILENT_AFTER.saturating_sub(silent));
        tokio::time::sleep(left.max(Duration::from_millis(100))).await;
    }
}

async fn ask(asks: &mut Option<Client>, pid: &str, route: &Route) -> Opinion {
    let client = match asks.take() {
        Some(client) if !client.is_closed() => client,
        _ => match Box::pin(route.plainly()).await {
            Ok(client) => client,
            // Whoever refuses a login is there.
            Err(error) if error.sqlstate().is_some() => return Opinion::Unknown,
            Err(_) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                return Opinion::Unreachable;
            }
        },
    };
    let sql = format!("SELECT state FROM pg_catalog.pg_stat_get_activity({pid})");
    let Ok(messages) = client.simple_query(&sql).await else {
        return Opinion::Unknown;
    };
    *asks = Some(client);
    let state = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
        _ => None,
    });
    opinion(state.as_ref().map(Option::as_deref))
}

/// By the state of a session; `None` when there is no such session.
fn opinion(state: Option<Option<&str>>) -> Opinion {
    match state {
        None => Opinion::NotAtWork,
        Some(Some("active" | "fastpath function call")) => Opinion::AtWork,
        Some(Some(state)) if state.starts_with("idle") => Opinion::NotAtWork,
        // Somebody has switched `track_activities` off, or the session is another role's by now.
        Some(_) => Opinion::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Opinion::{AtWork, NotAtWork, Unknown, Unreachable};

    #[test]
    fn what_is_at_work_is_never_given_up() {
        for (opinions, expected) in [
            (&[AtWork; 9][..], None),
            (&[NotAtWork, AtWork, NotAtWork, AtWork], None),
            (
                &[Unreachable, Unreachable, AtWork, Unreachable, Unreachable],
                None,
            ),
            (&[Unknown; 9], None),
            (&[Unreachable, Unreachable, Unknown, Unreachable], None),
            (&[NotAtWork, NotAtWork], Some(Verdict::AnswerLost)),
            (&[NotAtWork, Unknown, NotAtWork], Some(Verdict::AnswerLost)),
            (&[Unreachable; 3], Some(Verdict::Unreachable)),
        ] {
            let mut chart = Chart::default();
            let verdict = opinions.iter().find_map(|opinion| chart.add(*opinion));
            assert_eq!(verdict, expected, "{opinions:?}");
        }
    }

    #[test]
    fn a_session_is_judged_by_its_state() {
        for (state, expected) in [
            (None, NotAtWork),
            (Some(Some("active")), AtWork),
            (Some(Some("idle")), NotAtWork),
            (Some(Some("idle in transaction (aborted)")), NotAtWork),
            (Some(Some("disabled")), Unknown),
            (Some(None), Unknown),
        ] {
            assert_eq!(opinion(state), expected, "{state:?}");
        }
    }
}
