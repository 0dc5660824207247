//! What `tune`, `pause` and `resume` ask of a run, as the runner takes it up.

use super::Runner;
use super::ledger::requests::{self, Pause, Requests};
use super::session::millis;
use crate::error::Error;
use crate::event::Event;
use crate::plan::Step;
use std::time::Instant;

/// How often a run that stands still looks whether it may go on.
const ASK_EVERY_MS: u64 = 500;

impl Runner {
    /// Waits before a step for as long as the run is paused: that is somebody's wish and knows no deadline.
    pub(super) async fn stand_still(&self, run: i64, step: &Step) -> Result<(), Error> {
        let began = Instant::now();
        let mut known = None;
        loop {
            self.stop_before(step)?;
            let asked = requests::requests(&self.lock.client, run).await?;
            if let Some(what) = pausing(known.as_ref(), asked.paused.as_ref(), &self.plan) {
                self.tell(Event::Noted {
                    step: step.id.clone(),
                    what,
                });
            }
            let Some(pause) = asked.paused else { return Ok(()) };
            self.tell(Event::StandingAside {
                step: step.id.clone(),
                reason: paused(&pause, &self.plan),
                waited_ms: millis(began.elapsed()),
            });
            known = Some(pause);
            self.pause(ASK_EVERY_MS).await?;
        }
    }
}

/// That it stands still, since when, by whom, and how it goes on.
pub(super) fn paused(pause: &Pause, plan: &str) -> String {
    let since = pause.since.strftime("%Y-%m-%d %H:%M:%SZ");
    let by = &pause.by;
    format!("paused since {since} by {by}; it goes on with: pgmorph resume {plan}")
}

fn pausing(known: Option<&Pause>, asked: Option<&Pause>, plan: &str) -> Option<String> {
    match (known, asked) {
        (_, Some(pause)) if known != asked => Some(paused(pause, plan)),
        (Some(_), None) => Some("goes on: it is not paused any more".into()),
        _ => None,
    }
}

/// What is worth a word about requests that changed.
pub(super) fn news(known: &Requests, asked: &Requests, planned: u32, plan: &str) -> Vec<String> {
    let mut news = Vec::new();
    let workers = |requests: &Requests| requests.workers.unwrap_or(planned);
    if workers(known) != workers(asked) {
        news.push(format!(
            "workers, as asked for: {} instead of {}",
            workers(asked),
            workers(known)
        ));
    }
    if known.throttle != asked.throttle {
        news.push(format!(
            "throttle, as asked for: {} instead of {}",
            asked.throttle, known.throttle
        ));
    }
    news.extend(pausing(known.paused.as_ref(), asked.paused.as_ref(), plan));
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::brake::Brake;

    #[test]
    fn only_changes_are_news() {
        let plain = Requests::default();
        let paused = Requests {
            paused: Some(Pause {
                since: "2026-11-21T20:00:00Z".parse().unwrap(),
                by: "alice".into(),
            }),
            ..Requests::default()
        };
        let tuned = Requests {
            workers: Some(3),
            throttle: Brake::Share(40),
            paused: None,
        };
        let told = |known, asked| news(known, asked, 1, "p").join("\n");
        insta::assert_snapshot!(told(&plain, &paused), @"paused since 2026-11-21 20:00:00Z by alice; it goes on with: pgmorph resume p");
        insta::assert_snapshot!(told(&paused, &plain), @"goes on: it is not paused any more");
        insta::assert_snapshot!(told(&plain, &tuned), @r"
        workers, as asked for: 3 instead of 1
        throttle, as asked for: 40% instead of off
        ");
        for same in [&plain, &paused, &tuned] {
            assert_eq!(told(same, same), "");
        }
    }
}
