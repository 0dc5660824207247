//! One point: the plan is struck there, and what was begun is ended.

use super::STRIKES;
use super::stage::{Call, Stage, Way};
use crate::harness::{Database, Stroke, Traffic, Workload};
use pgmorph::error::ErrorKind;
use pgmorph::executor::irreversible;
use pgmorph::executor::ledger::RunState;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Point {
    pub way: Way,
    /// From 1.
    pub number: usize,
    pub strike: Stroke,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}:{:?}", self.way, self.number, self.strike)
    }
}

impl Point {
    /// What `Display` writes.
    pub fn parse(text: &str) -> Self {
        let [way, number, strike] = text.split(':').collect::<Vec<_>>()[..] else {
            panic!("a point is way:number:strike")
        };
        let ways = [Way::There, Way::Back];
        Self {
            way: ways.into_iter().find(|it| format!("{it:?}") == way).unwrap(),
            number: number.parse().unwrap(),
            strike: STRIKES
                .into_iter()
                .find(|it| format!("{it:?}") == strike)
                .unwrap(),
        }
    }

    /// Always the same for the same point of the same fixture.
    pub fn hash(self, name: &str) -> u64 {
        hash(&format!("{name} {self}"))
    }
}

/// FNV-1a, stirred: neighbours must not be chosen together.
pub fn hash(text: &str) -> u64 {
    let fnv = text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let mixed = (fnv ^ (fnv >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 29)
}

/// How a walk went on after its strike.
#[derive(Debug, Default)]
pub struct Walked {
    /// The run had ended before the point.
    pub missed: bool,
    pub went_back: bool,
    /// Without being called again.
    pub survived: bool,
    pub struck_twice: bool,
    pub with_traffic: bool,
    pub story: Vec<String>,
    pub wrong: Vec<String>,
}

enum Ended {
    Done,
    /// At this call.
    Struck(usize),
}

impl Stage {
    /// Until it is struck so that it ends, or it is done.
    async fn until_struck(
        &self,
        database: &Database<'_>,
        calls: &[Call],
        strike: Option<(usize, Stroke)>,
        walked: &mut Walked,
    ) -> Ended {
        self.tap.arm(strike).await;
        for (position, call) in calls.iter().enumerate() {
            let died = tokio::select! {
                result = self.call(database, *call) => match result {
                    Ok(()) => continue,
                    Err(error) => Some(error),
                },
                () = self.tap.death() => None,
            };
            let struck = self.tap.struck().await;
            match (died, &struck) {
                (None, Some(struck)) => walked.story.push(format!("died at {struck:?}")),
                (Some(error), Some(struck)) if error.kind == ErrorKind::Connection => {
                    walked.story.push(format!("{:?}: {error}", struck.text));
                }
                (error, struck) => {
                    walked
                        .wrong
                        .push(format!("{call:?}, struck {struck:?}: {error:#?}"));
                    return Ended::Done;
                }
            }
            return Ended::Struck(position);
        }
        match self.tap.struck().await {
            Some(struck) => {
                walked.story.push(format!("survived {:?}", struck.text));
                walked.survived = true;
            }
            None => walked.missed |= strike.is_some(),
        }
        Ended::Done
    }

    /// The calls to the end, struck once more where that is wanted.
    async fn to_the_end(
        &self,
        database: &Database<'_>,
        calls: &[Call],
        strike: Option<(usize, Stroke)>,
        walked: &mut Walked,
    ) {
        let before = walked.missed;
        let Ended::Struck(position) = self.until_struck(database, calls, strike, walked).await else {
            walked.missed = before;
            return;
        };
        walked.struck_twice = true;
        let rest = self.left_of(database, &calls[position..]).await;
        if let Ended::Struck(_) = self.until_struck(database, &rest, None, walked).await {
            walked.wrong.push("struck without a strike".into());
        }
    }

    /// Whether what was begun may be given up.
    async fn may_go_back(&self, database: &Database<'_>) -> bool {
        let run = database.run(&self.plan).await;
        self.goes_back() && run.is_none_or(|run| irreversible(&run).is_none())
    }

    /// What remains to be called. There is nothing to roll back where nothing was begun, or all is rolled back.
    async fn left_of(&self, database: &Database<'_>, calls: &[Call]) -> Vec<Call> {
        let run = database.run(&self.plan).await;
        let over = run.is_none_or(|run| run.state == RunState::RolledBack);
        match calls {
            [Call::Rollback] if over => Vec::new(),
            calls => calls.to_vec(),
        }
    }

    pub async fn walk(&self, point: Point) -> Walked {
        let mut walked = Walked::default();
        let database = self.fresh().await;
        let lots = point.hash(&self.name);
        let traffic = match (lots >> 8).is_multiple_of(4) {
            true => {
                let workload: Workload = self.case.workload(&database, &self.plan).await;
                Some(Traffic::start(&database, &workload).await)
            }
            false => None,
        };
        walked.with_traffic = traffic.is_some();
        let strike = Some((point.number, point.strike));
        let again = (lots >> 16)
            .is_multiple_of(3)
            .then(|| (1 + usize::try_from((lots >> 24) % 12).unwrap(), Stroke::Death));
        let returned = match point.way {
            Way::There => {
                let calls = self.there();
                let ended = self.until_struck(&database, &calls, strike, &mut walked).await;
                if let Some(traffic) = &traffic {
                    traffic.go_on(3).await;
                }
                match ended {
                    Ended::Struck(_) if point.number % 2 == 1 && self.may_go_back(&database).await => {
                        walked.went_back = true;
                        let calls = self.left_of(&database, &[Call::Rollback]).await;
                        self.to_the_end(&database, &calls, again, &mut walked).await;
                    }
                    Ended::Struck(at) => self.to_the_end(&database, &calls[at..], again, &mut walked).await,
                    Ended::Done => {}
                }
                walked.went_back
            }
            Way::Back => {
                self.until_struck(&database, &self.before_back(), None, &mut walked)
                    .await;
                let calls = [Call::Rollback];
                if let Ended::Struck(_) = self.until_struck(&database, &calls, strike, &mut walked).await {
                    if let Some(traffic) = &traffic {
                        traffic.go_on(3).await;
                    }
                    let calls = self.left_of(&database, &calls).await;
                    self.to_the_end(&database, &calls, again, &mut walked).await;
                }
                true
            }
        };
        let alone = traffic.is_none();
        if let Some(traffic) = traffic {
            traffic.go_on(3).await;
            let balance = traffic.stop(&database).await;
            // Whoever waits for the locks of a dead session waits until the server has noticed.
            let complaints = balance
                .complaints
                .into_iter()
                .filter(|it| !it.starts_with("waited "));
            walked
                .wrong
                .extend(complaints.map(|it| format!("the application: {it}")));
        }
        if walked.wrong.is_empty() {
            walked.wrong = match returned {
                true => self.has_returned(&database, alone).await,
                false => self.has_arrived(&database, alone).await,
            };
        }
        database.drop().await;
        walked
    }
}
