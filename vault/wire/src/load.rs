//! What a server's work asked of its hardware, over weeks: what a machine that takes its place
//! must have, and when servers that share one need it at once.
//!
//! At most 90 days and the 168 hours of a week, together below 80 KiB of JSON.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Most days that are recorded.
pub const MAX_DAYS: usize = 90;
/// Hours of a week.
pub const WEEK: usize = 168;

/// What was measured, once a minute, and summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// The first minute that counts.
    pub from: Option<Timestamp>,
    /// The last.
    pub to: Option<Timestamp>,
    /// Minutes measured in between; fewer than lie between when the agent or the server stood.
    pub minutes: u32,
    /// All of them.
    pub all: LoadFigures,
    /// By day (UTC), oldest first; days without a measurement are left out.
    pub days: Vec<LoadDay>,
    /// By hour of the week (UTC), from Monday 0:00 on: 168, or none.
    pub week: Vec<LoadHour>,
}

/// A day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadDay {
    /// Days since 1970-01-01 (UTC).
    pub day: u32,
    /// Minutes measured.
    pub minutes: u32,
    /// What they came to.
    #[serde(flatten)]
    pub figures: LoadFigures,
}

/// Everything that is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadFigures {
    /// Processor time, in thousandths of one processor; waiting for disks does not count.
    pub cpu: Spread,
    /// Memory that could not have been given to somebody else, in bytes.
    pub memory: Spread,
    /// Requests a second that read from disks, all together.
    pub reads: Spread,
    /// Requests a second that wrote.
    pub writes: Spread,
    /// Bytes a second read.
    pub read: Spread,
    /// Bytes a second written.
    pub written: Spread,
    /// Bytes a second received from the network.
    pub received: Spread,
    /// Bytes a second sent.
    pub sent: Spread,
}

/// An hour of the week: what servers that share a host must not all need at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadHour {
    /// As in [`LoadFigures`].
    pub cpu: Spread,
    /// As in [`LoadFigures`].
    pub memory: Spread,
    /// Bytes a second read and written.
    pub disk: Spread,
    /// Bytes a second received and sent.
    pub network: Spread,
}

/// How a figure was spread over minutes. In JSON `[mean, p95, max]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 3]", into = "[u64; 3]")]
pub struct Spread {
    /// Of all minutes.
    pub mean: u64,
    /// Within an hour: at most this in 95 of 100 minutes. Over more than an hour: in 95 of 100
    /// hours, that of the hour is at most this.
    pub p95: u64,
    /// Of the highest minute.
    pub max: u64,
}

impl From<[u64; 3]> for Spread {
    fn from([mean, p95, max]: [u64; 3]) -> Self {
        Self { mean, p95, max }
    }
}

impl From<Spread> for [u64; 3] {
    fn from(spread: Spread) -> Self {
        [spread.mean, spread.p95, spread.max]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards the inventory's size, with figures larger than any server's.
    #[test]
    fn the_longest_history_stays_small_and_comes_back() {
        let spread = Spread {
            mean: 11_111_111_111,
            p95: 22_222_222_222,
            max: 33_333_333_333,
        };
        let figures = LoadFigures {
            cpu: spread,
            memory: spread,
            reads: spread,
            writes: spread,
            read: spread,
            written: spread,
            received: spread,
            sent: spread,
        };
        let hour = LoadHour {
            cpu: spread,
            memory: spread,
            disk: spread,
            network: spread,
        };
        let day = LoadDay {
            day: 20_000,
            minutes: 1440,
            figures,
        };
        let load = Load {
            from: Some(Timestamp::from_millis(0)),
            to: Some(Timestamp::now()),
            minutes: 90 * 1440,
            all: figures,
            days: vec![day; MAX_DAYS],
            week: vec![hour; WEEK],
        };
        let text = serde_json::to_string(&load).unwrap();
        assert!(text.len() < 80 << 10, "{} bytes", text.len());
        assert!(text.contains("\"cpu\":[11111111111,"), "{}", &text[..300]);
        assert_eq!(serde_json::from_str::<Load>(&text).unwrap(), load);
    }
}
