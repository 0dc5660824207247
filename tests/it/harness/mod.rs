//! What the tests of whole runs share: a server, a database per case, traffic, dumps, plans as text.

mod application;
mod database;
mod dump;
mod noise;
mod program;
mod proxy;
mod server;
mod snapshot;
mod tap;
mod traffic;

pub use application::{Application, Belongs, Chance, PORTFOLIO, Settlement, Table};
pub use database::{Database, Recorder};
pub use dump::schema_dump;
pub use noise::{connect, measure as measure_noise};
pub use program::{Ended, Running, pgmorph};
pub use proxy::{Fault, Proxy, Strike, WORKER, Whose};
pub use server::TestServer;
pub use snapshot::{compare, difference, render_plan};
pub use tap::{Stroke, Tap};
pub use traffic::{Balance, Traffic, Workload};

use std::time::{Duration, Instant};

/// How long anything awaited may take before the test gives up; far above any real wait, for machines under load.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a whole run of the program may take; `PGMORPH_PATIENCE` sets the seconds, for runs on many rows.
pub fn patience() -> Duration {
    let given = std::env::var("PGMORPH_PATIENCE").ok();
    given.map_or(PATIENCE, |text| Duration::from_secs(text.parse().unwrap()))
}

/// Looks again and again until the answer is true.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
