//! What goes on now and is forgotten when it is over: a line on a terminal that is written over again and again, elsewhere a
//! line now and then.

use super::safe;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// In a log, what takes no longer needs no words.
const AT_FIRST: Duration = Duration::from_secs(1);
/// A log is read, not watched.
const QUIET_FOR: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(120);

enum Place {
    Nowhere,
    Bar(ProgressBar),
    Lines(fn(&str)),
}

pub struct Passing {
    place: Place,
    due: Mutex<Instant>,
}

impl Passing {
    fn new(place: Place) -> Self {
        Self {
            place,
            due: Mutex::new(Instant::now() + AT_FIRST),
        }
    }

    pub fn silent() -> Self {
        Self::new(Place::Nowhere)
    }

    pub fn bar() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self::new(Place::Bar(bar))
    }

    pub fn lines(line: fn(&str)) -> Self {
        Self::new(Place::Lines(line))
    }

    pub fn say(&self, text: &str) {
        match &self.place {
            Place::Nowhere => {}
            Place::Bar(bar) => bar.set_message(safe::one_line(text)),
            Place::Lines(line) => {
                let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
                if *due <= Instant::now() {
                    *due = Instant::now() + QUIET_FOR;
                    line(text);
                }
            }
        }
    }

    pub fn end(&self) {
        if let Place::Bar(bar) = &self.place {
            bar.finish_and_clear();
        }
    }
}
