//! Two clocks: the one that people read, which may be set, and the one that only runs.

use std::time::Duration;

use relevo_wire::Timestamp;
use serde::{Deserialize, Serialize};

/// A moment of this boot of the kernel, by both clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// Since the kernel was booted, sleep included (CLOCK_BOOTTIME, clock_gettime(2)).
    pub up: Duration,
    /// Which boot.
    pub boot: String,
}

impl Now {
    /// Reads both.
    pub fn read() -> Self {
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self {
            wall: Timestamp::now(),
            up: Duration::try_from(up).unwrap_or_default(),
            boot: crate::tracking::device::boot_id().unwrap_or_default(),
        }
    }

    /// As it is kept.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            wall: self.wall,
            up_ms: millis(self.up),
            boot: self.boot.clone(),
        }
    }
}

/// A moment that is kept in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The wall clock then.
    pub wall: Timestamp,
    up_ms: u64,
    boot: String,
}

impl Stamp {
    /// Now.
    pub fn now() -> Self {
        Now::read().stamp()
    }

    /// How long ago it was. Within one boot whatever was done to the wall clock; nothing when
    /// another boot's is in the future, so that the clock was set back since.
    pub fn age(&self, now: &Now) -> Option<Duration> {
        if self.boot == now.boot {
            return Some(Duration::from_millis(
                millis(now.up).saturating_sub(self.up_ms),
            ));
        }
        (self.wall <= now.wall).then(|| now.wall.since(self.wall))
    }

    /// The same moment by the wall clock as it goes now.
    pub fn by_wall(&self, now: &Now) -> Option<Timestamp> {
        let age = millis(self.age(now)?);
        let wall = now.wall.as_millis();
        Some(Timestamp::from_millis(wall.saturating_sub_unsigned(age)))
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
