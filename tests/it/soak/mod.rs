//! Random plans, random blows, and an application that keeps account, for as long as one likes.
//!
//! `PGMORPH_SOAK_MINUTES` says how long, `PGMORPH_SOAK_SEED` repeats the choices of a soak (not its moments: those
//! depend on the machine).

#![expect(clippy::print_stdout, reason = "what was done, and the summary")]

mod plans;

use crate::crash::{Blow, Scene, Way, backwards, forwards};
use crate::harness::Chance;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const BLOWS: [Blow; 12] = [
    Blow::Program,
    Blow::Statement,
    Blow::Sessions,
    Blow::Server,
    Blow::Statements,
    Blow::Interrupt,
    Blow::Freeze,
    Blow::Cut,
    Blow::Answer,
    Blow::Silence,
    Blow::Slow,
    Blow::Restart,
];

/// So many plans at once, each with a server of its own.
const AT_ONCE: usize = 2;

/// Without a time, so many plans.
const PLANS: u64 = 1;

/// Ways that each plan goes: forwards, back, and forwards again.
const WAYS: u32 = 3;

#[derive(Default)]
struct Summary {
    plans: u32,
    changes: BTreeMap<String, u32>,
    runs: u32,
    blows: BTreeMap<Blow, u32>,
    statements: u64,
    unanswered: u64,
    lost: usize,
    leftovers: usize,
    slowest: Duration,
    failed: Vec<String>,
}

impl Summary {
    fn count(&mut self, way: Way) {
        self.runs += 1;
        for blow in way.blows {
            *self.blows.entry(blow).or_default() += 1;
        }
        let found = way.found;
        self.statements += found.balance.statements;
        self.unanswered += found.balance.unanswered;
        self.lost += found.balance.lost;
        self.leftovers += found.leftovers.len();
        self.slowest = self.slowest.max(found.balance.slowest);
        let wrong = found
            .wrong
            .into_iter()
            .chain(found.balance.complaints)
            .chain(found.leftovers);
        for what in wrong {
            println!("WRONG {}: {what}", way.story);
            self.failed.push(format!("{}: {what}", way.story));
        }
    }

    fn print(&self, took: Duration) {
        let struck: u32 = self.blows.values().sum();
        println!(
            "soak: {:.1} minutes, {} plans, {} runs, {struck} faults {:?}, {} statements of the application \
             ({} without an answer, slowest {:?}), {} lost writes, {} leftovers, {} failures",
            took.as_secs_f64() / 60.0,
            self.plans,
            self.runs,
            self.blows,
            self.statements,
            self.unanswered,
            self.slowest,
            self.lost,
            self.leftovers,
            self.failed.len()
        );
        println!("changes: {:?}", self.changes);
    }
}

/// The ways of one plan.
async fn go(seed: u64) -> (String, Vec<Way>) {
    let mut chance = Chance(seed);
    let play = plans::random(&mut chance);
    println!("plan of seed {seed}, {} rows:\n{}", play.rows, play.plan);
    let mut scene = Scene::with(&play, chance.below(u64::MAX)).await;
    let mut ways = Vec::new();
    for way in 0..WAYS {
        ways.push(match way % 2 {
            0 => forwards(&mut scene, &BLOWS, way).await,
            _ => backwards(&mut scene, &BLOWS, way).await,
        });
    }
    (play.plan.into_owned(), ways)
}

async fn finished(summary: &mut Summary, going: (u64, JoinHandle<(String, Vec<Way>)>)) {
    let (seed, going) = going;
    summary.plans += 1;
    match going.await {
        Ok((plan, ways)) => {
            for line in plan.lines() {
                if let Some((change, _)) = line.strip_prefix("  - ").and_then(|line| line.split_once(':')) {
                    *summary.changes.entry(change.to_owned()).or_default() += 1;
                }
            }
            // The run that shows the end.
            summary.runs += 1;
            ways.into_iter().for_each(|way| summary.count(way));
        }
        Err(panic) => summary.failed.push(format!("the plan of seed {seed}: {panic}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_plans_survive_random_faults() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let minutes = number("PGMORPH_SOAK_MINUTES");
    let mut chance = Chance(number("PGMORPH_SOAK_SEED").unwrap_or(20_261_122));
    let began = Instant::now();
    let mut summary = Summary::default();
    let mut begun = 0;
    let mut going = std::collections::VecDeque::new();
    while minutes.map_or(begun < PLANS, |minutes| {
        began.elapsed() < Duration::from_secs(60 * minutes)
    }) {
        if going.len() == AT_ONCE {
            finished(&mut summary, going.pop_front().unwrap()).await;
            summary.print(began.elapsed());
        }
        let seed = chance.below(u64::MAX);
        // A task of its own turns a panic into a result, so that the soak goes on.
        going.push_back((seed, tokio::spawn(go(seed))));
        begun += 1;
    }
    for one in going {
        finished(&mut summary, one).await;
    }
    summary.print(began.elapsed());
    assert_eq!(summary.failed, [""; 0]);
}
