//! How much of its speed a backfill gives up because somebody asked for that. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What `pgmorph tune --throttle` asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Brake {
    /// As fast as it goes.
    #[default]
    Off,
    /// Each session works for at most this share of the time, in percent.
    Share(u32),
    /// All sessions together fill at most so many rows a second.
    Rate(u32),
}

impl Brake {
    pub const HELP: &str = "a share of the time from 1% to 99%, rows a second from 1/s on, or `off`";
}

impl FromStr for Brake {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let number = |digits: &str| digits.trim().parse::<u32>().map_err(|_| Self::HELP);
        if let Some(digits) = text.strip_suffix('%') {
            return match number(digits)? {
                100 => Ok(Self::Off),
                share @ 1..100 => Ok(Self::Share(share)),
                _ => Err(Self::HELP),
            };
        }
        match text.strip_suffix("/s") {
            Some(digits) => match number(digits)? {
                0 => Err("to stop it altogether: pgmorph pause"),
                rate => Ok(Self::Rate(rate)),
            },
            None if text == "off" => Ok(Self::Off),
            None => Err(Self::HELP),
        }
    }
}

impl fmt::Display for Brake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => formatter.write_str("off"),
            Self::Share(share) => write!(formatter, "{share}%"),
            Self::Rate(rate) => write!(formatter, "{rate}/s"),
        }
    }
}

/// When the next batch may begin, by what the last ones did. Times are counted from the beginning of the walk.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// When all rows so far are paid for, at the rate asked for.
    paid: Duration,
}

impl Rest {
    /// Until when a session stays idle whose batch took so long and filled so many rows.
    pub(super) fn after(&mut self, brake: Brake, now: Duration, took: Duration, rows: i64) -> Duration {
        match brake {
            Brake::Off => now,
            Brake::Share(share) => now + took * (100 - share) / share.max(1),
            Brake::Rate(rate) => {
                let rows = f64::from(u32::try_from(rows).unwrap_or(0));
                let price = Duration::from_secs_f64(rows / f64::from(rate.max(1)));
                // What was not used while it stood aside is not made up for.
                self.paid = self.paid.max(now.saturating_sub(took)) + price;
                self.paid
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn reads_what_it_writes() {
        for text in ["off", "1%", "50%", "99%", "1/s", "20000/s"] {
            assert_eq!(text.parse::<Brake>().unwrap().to_string(), text);
        }
        assert_eq!("100%".parse(), Ok(Brake::Off));
        for text in ["", "50", "0%", "101%", "-1%", "0/s", "x/s", "1.5%", "OFF"] {
            assert!(text.parse::<Brake>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_rests_in_proportion_to_the_work() {
        let mut rest = Rest::default();
        assert_eq!(rest.after(Brake::Off, MS(100), MS(10), 9), MS(100));
        assert_eq!(rest.after(Brake::Share(50), MS(100), MS(10), 9), MS(110));
        assert_eq!(rest.after(Brake::Share(10), MS(100), MS(10), 9), MS(190));
    }

    #[test]
    fn a_rate_holds_for_all_sessions_together() {
        let mut rest = Rest::default();
        let mut after = |now, rows| rest.after(Brake::Rate(1_000), MS(now), MS(10), rows);
        assert_eq!(after(10, 500), MS(500));
        assert_eq!(after(10, 500), MS(1_000));
        assert_eq!(after(1_010, 100), MS(1_100));
    }

    #[test]
    fn a_rate_is_not_made_up_for_after_standing_aside() {
        let mut rest = Rest::default();
        assert_eq!(rest.after(Brake::Rate(100), MS(60_010), MS(10), 10), MS(60_100));
    }
}
