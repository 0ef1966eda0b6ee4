//! How a server is to be imaged: what a vault's operator decides and its agent obeys.
//!
//! The vault resolves its settings for one server and sends the result; the agent keeps the last
//! one it knows. What is written as text in the settings travels as that text, and each side
//! reads it with the same code.

mod ceiling;
mod text;
mod window;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::calendar::CalendarEvent;
use crate::time::Timestamp;
use crate::zone::Zone;

pub use ceiling::{CpuCeiling, LineCeiling, LineRate};
pub use window::Window;

/// How a server is to be imaged. Lengths of time in seconds unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupPolicy {
    /// How old the newest recovery point's state may become. Without a calendar it also says
    /// when images are taken.
    #[n(0)]
    pub rpo: Option<u64>,
    /// When images are taken.
    #[n(1)]
    pub calendar: Vec<CalendarEvent>,
    /// Whose clock calendar, windows and ceilings go by; the server's own when none is given.
    #[n(2)]
    pub time_zone: Option<Zone>,
    /// Images are taken only in these; at any time when there are none.
    #[n(3)]
    pub window: Vec<Window>,
    /// How fast images are sent.
    #[n(4)]
    pub line: Vec<LineCeiling>,
    /// How fast disks are read, in bytes a second.
    #[n(5)]
    pub read_rate: Option<u64>,
    /// How much of the processors is used.
    #[n(6)]
    pub cpu: Option<CpuCeiling>,
    /// How often a run that failed is tried again.
    #[n(7)]
    pub retries: u32,
    /// Before the first time; then twice as long each time.
    #[n(8)]
    pub retry_after: u64,
    /// Over how long the servers of one time are spread.
    #[n(9)]
    pub spread: u64,
    /// When the server is too busy to be imaged fast.
    #[n(10)]
    pub pressure: Pressure,
    /// How long file systems may be frozen, in milliseconds.
    #[n(11)]
    pub max_freeze: u64,
    /// How often all is read to prove what was marked as changed.
    #[n(12)]
    pub proof_every: u64,
}

impl Default for BackupPolicy {
    /// A state of each day.
    fn default() -> Self {
        Self {
            rpo: Some(24 * 3600),
            calendar: Vec::new(),
            time_zone: None,
            window: Vec::new(),
            line: Vec::new(),
            read_rate: None,
            cpu: None,
            retries: 3,
            retry_after: 600,
            spread: 600,
            pressure: Pressure::default(),
            max_freeze: 10_000,
            proof_every: 7 * 86_400,
        }
    }
}

impl BackupPolicy {
    /// The zone that its times are in, given the server's own.
    pub fn zone<'a>(&'a self, own: &'a Zone) -> &'a Zone {
        self.time_zone.as_ref().unwrap_or(own)
    }

    /// The first time of the calendar after `after`.
    pub fn next_event(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let events = self.calendar.iter();
        events.filter_map(|event| event.next(after, zone)).min()
    }

    /// Whether images may be taken at this moment.
    pub fn is_open(&self, at: Timestamp, zone: &Zone) -> bool {
        self.window.is_empty() || self.window.iter().any(|window| window.has(at, zone))
    }

    /// The first moment from `from` on at which images may be taken.
    pub fn opens(&self, from: Timestamp, zone: &Zone) -> Timestamp {
        if self.is_open(from, zone) {
            return from;
        }
        let openings = self
            .window
            .iter()
            .filter_map(|w| w.next_opening(from, zone));
        openings.min().unwrap_or(from)
    }

    /// When the window of a moment began, if images may be taken only in windows.
    pub fn opened(&self, at: Timestamp, zone: &Zone) -> Option<Timestamp> {
        self.window.iter().filter_map(|w| w.opened(at, zone)).min()
    }

    /// How fast may be sent at this moment, in bytes a second; none is without a ceiling. Of
    /// those with a time that has come the lowest, else of those without a time.
    pub fn line_rate(&self, at: Timestamp, zone: &Zone) -> Option<u64> {
        let lowest = |timed: bool| {
            let rules = self.line.iter().filter(|c| c.window.is_some() == timed);
            let now = rules.filter(|c| c.window.as_ref().is_none_or(|w| w.has(at, zone)));
            now.map(|ceiling| ceiling.rate.bytes_per_second()).min()
        };
        lowest(true).or_else(|| lowest(false))
    }
}

/// Pressure stall information (Linux: Documentation/accounting/psi.rst) from which on the server
/// counts as busy: per cent of the last 10 s in which some task waited. Nothing with 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pressure {
    /// Waited for disks.
    #[n(0)]
    pub io: u8,
    /// Waited for a processor.
    #[n(1)]
    pub cpu: u8,
    /// Waited for memory.
    #[n(2)]
    pub memory: u8,
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            io: 40,
            cpu: 80,
            memory: 20,
        }
    }
}

#[cfg(test)]
mod policy_test;
