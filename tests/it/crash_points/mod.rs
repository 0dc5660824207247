//! Every statement that a run sends is a point where it may die. Each fixture is struck there: the program dies before
//! the statement or while the server is at it, or a session is cut off before it, during it, or before its answer. Then the same command is given again or the
//! run is rolled back, and the end is that of an undisturbed one.
//!
//! A point lies before each statement that leaves something behind, on the way there and on the way back; between two
//! such statements the program only reads, and wherever it dies among these, the server has seen the same.
//!
//! `PGMORPH_CRASH_POINTS` says which points are walked: `all`, or a share like `3/200`; without it, few of them, always
//! the same. `FIXTURE=text` chooses the cases with that text in their name, `POINT=way:number:strike` one point.

mod contents;
mod escape;
mod halfway;
mod program;
mod stage;
mod walk;

use crate::fixtures::{Case, directories, fixtures};
use crate::harness::{Stroke, TestServer};
use futures_util::{StreamExt, stream};
use stage::{Stage, Way};
use std::sync::Arc;
use std::time::Instant;
use walk::{Point, Walked, hash};

const AT_ONCE: usize = 2;

/// Without a wish, one point of each so many fixtures.
const ONE_OF: u64 = 6;

pub const STRIKES: [Stroke; 5] = [
    Stroke::Death,
    Stroke::DeathAtWork,
    Stroke::LostRequest,
    Stroke::LostLine,
    Stroke::LostAnswer,
];

/// Which points are walked.
#[derive(Debug, Clone, Copy)]
enum Share {
    Few,
    /// Of so many parts, this one (from 0).
    Part(u64, u64),
    One(Point),
}

impl Share {
    fn wanted() -> Self {
        if let Ok(point) = std::env::var("POINT") {
            return Self::One(Point::parse(&point));
        }
        match std::env::var("PGMORPH_CRASH_POINTS").as_deref() {
            Err(_) | Ok("") => Self::Few,
            Ok("all") => Self::Part(0, 1),
            Ok(text) => {
                let (part, parts) = text.split_once('/').expect("all, or a share like 3/200");
                let (part, parts): (u64, u64) = (part.parse().unwrap(), parts.parse().unwrap());
                assert!(
                    (1..=parts).contains(&part),
                    "a share from 1/{parts} to {parts}/{parts}"
                );
                Self::Part(part - 1, parts)
            }
        }
    }

    async fn of(self, stage: &Stage) -> Vec<Point> {
        let lots = hash(&stage.name);
        let ways = match (stage.goes_back(), self) {
            (false, _) => vec![Way::There],
            (true, Self::Few) if !lots.is_multiple_of(3) => vec![Way::There],
            (true, Self::Few) => vec![Way::Back],
            (true, _) => vec![Way::There, Way::Back],
        };
        let mut found = Vec::new();
        for way in ways {
            let points = stage.reference(way).await.points;
            let points = (1..=points).flat_map(|number| STRIKES.map(|strike| Point { way, number, strike }));
            found.extend(points);
        }
        match self {
            Self::Few => {
                let one = usize::try_from(lots >> 8).unwrap_or_default() % found.len().max(1);
                found.get(one).copied().into_iter().collect()
            }
            Self::Part(part, parts) => {
                found.retain(|point| point.hash(&stage.name) % parts == part);
                found
            }
            Self::One(point) => vec![point],
        }
    }

    fn takes(self, name: &str) -> bool {
        !matches!(self, Self::Few) || hash(name).is_multiple_of(ONE_OF)
    }
}

#[derive(Debug, Default)]
struct Count {
    fixtures: usize,
    statements: usize,
    points: usize,
    walked: usize,
    forwards: usize,
    back: usize,
    survived: usize,
    twice: usize,
    missed: usize,
    with_traffic: usize,
    failures: Vec<String>,
}

impl Count {
    fn walked(&mut self, name: &str, point: Point, walked: Walked) {
        self.walked += 1;
        let back = point.way == Way::Back || walked.went_back;
        self.back += usize::from(back);
        self.forwards += usize::from(!back);
        self.survived += usize::from(walked.survived);
        self.twice += usize::from(walked.struck_twice);
        self.missed += usize::from(walked.missed);
        self.with_traffic += usize::from(walked.with_traffic);
        if !walked.wrong.is_empty() {
            let wrong = walked.wrong.join("\n  ");
            println!(
                "FIXTURE={name} POINT={point} FAILED: {:#?}\n  {wrong}",
                walked.story
            );
            self.failures.push(format!("FIXTURE={name} POINT={point}"));
        }
    }

    fn add(&mut self, other: Self) {
        self.fixtures += other.fixtures;
        self.statements += other.statements;
        self.points += other.points;
        self.walked += other.walked;
        self.forwards += other.forwards;
        self.back += other.back;
        self.survived += other.survived;
        self.twice += other.twice;
        self.missed += other.missed;
        self.with_traffic += other.with_traffic;
        self.failures.extend(other.failures);
    }

    fn print(&self, began: Instant) {
        println!(
            "crash points: {} fixtures, {} points at {} statements, each with {} strikes; {} walked: {} forwards, \
             {} back, {} survived without being called again, {} struck twice, {} beside traffic, {} not reached; \
             {} failures; {:.0?}",
            self.fixtures,
            self.points,
            self.statements,
            STRIKES.len(),
            self.walked,
            self.forwards,
            self.back,
            self.survived,
            self.twice,
            self.with_traffic,
            self.missed,
            self.failures.len(),
            began.elapsed()
        );
    }
}

/// The points of one fixture.
async fn fixture(name: String, case: Case, server: Arc<TestServer>, share: Share) -> Count {
    let stage = Stage::set(name.clone(), case, server).await;
    let mut count = Count {
        fixtures: 1,
        ..Count::default()
    };
    let points = share.of(&stage).await;
    for way in [Way::There, Way::Back] {
        if way == Way::There || points.iter().any(|point| point.way == way) {
            let reference = stage.reference(way).await;
            count.statements += reference.statements;
            count.points += reference.points;
        }
    }
    for point in points {
        let walked = Box::pin(stage.walk(point)).await;
        count.walked(&name, point, walked);
    }
    stage.strike_the_set().await;
    count
}

/// One case by its name.
fn case(name: &str) -> Case {
    Case::read(&fixtures().join(name))
}

fn cases(share: Share, major: u32) -> Vec<(String, Case)> {
    let wanted = std::env::var("FIXTURE").unwrap_or_default();
    let root = fixtures();
    let found = directories(&root)
        .into_iter()
        .flat_map(|operation| directories(&operation));
    found
        .map(|directory| {
            let name = directory.strip_prefix(&root).unwrap().display().to_string();
            (name, Case::read(&directory))
        })
        .filter(|(name, case)| {
            let runs = case.after.is_some() && case.particulars.from_major <= major;
            runs && name.contains(&wanted) && (share.takes(name) || !wanted.is_empty())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_wherever_the_end_is_the_same() {
    let began = Instant::now();
    let share = Share::wanted();
    let server = Arc::new(TestServer::start(&[]));
    let cases = cases(share, server.major());
    assert!(!cases.is_empty());
    let walks = cases.into_iter().map(|(name, case)| {
        let server = Arc::clone(&server);
        async move {
            // A task of its own turns a panic into a failure, so that the other fixtures are walked too.
            let walk = tokio::spawn(Box::pin(fixture(name.clone(), case, server, share)));
            walk.await.unwrap_or_else(|panic| Count {
                failures: vec![format!("FIXTURE={name}: {panic}")],
                ..Count::default()
            })
        }
    });
    let mut walks = stream::iter(walks).buffer_unordered(AT_ONCE);
    let mut total = Count::default();
    while let Some(count) = walks.next().await {
        total.add(count);
        if !matches!(share, Share::Few) {
            total.print(began);
        }
    }
    total.print(began);
    assert_eq!(total.failures, [""; 0]);
    assert!(total.walked > 0);
}
