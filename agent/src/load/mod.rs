//! What the server's work asks of processors, memory, disks and network, minute by minute.
//!
//! ```text
//!  /proc: stat meminfo diskstats net/dev ──► counters ──► minutes ──► hours ──► summary: Load
//!                                            once a minute   a day     90 days    in the inventory
//! ```
//!
//! * [`counters`]: what the kernel has counted, and what that makes between two looks.
//! * [`history`]: one file of fixed size that holds a day of minutes and 90 days of hours.
//! * [`summary`]: what goes into the inventory.
//!
//! Invariants:
//! * A sample costs no more than reading four files of the kernel and writing 80 bytes.
//! * Nothing is made up: a minute that was not measured (the agent stood, the server slept) is
//!   missing, and counters that begin anew count for nothing that minute.
//! * The history is statistics: what is damaged in it is left out, and nothing fails for it.

pub mod counters;
pub mod history;
pub mod summary;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use relevo_wire::Timestamp;
use relevo_wire::load::Load;

use counters::{Counters, Kernel};
use history::{History, Minute, minute_of};

/// Looks that are closer make no sample.
const CLOSEST: Duration = Duration::from_secs(20);
/// A longer time between two looks is not a minute's load.
const FARTHEST: Duration = Duration::from_secs(180);

/// Measures, and remembers what was measured.
pub struct Sampler {
    kernel: Kernel,
    history: History,
    last: Option<(Instant, Counters)>,
    /// The hour before which all are summed up.
    closed: Option<u32>,
}

impl Sampler {
    /// Goes on with the history in this file, or begins one.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::below(Path::new("/"), path)
    }

    fn below(root: &Path, path: &Path) -> io::Result<Self> {
        Ok(Self {
            kernel: Kernel::new(root),
            history: History::open(path)?,
            last: None,
            closed: None,
        })
    }

    /// Measures the time since the last call; to be called once a minute. The first call, and one
    /// after a pause, only begin. `now` may jump: it says which minute this is, not how long.
    pub fn sample(&mut self, now: Timestamp) -> io::Result<()> {
        self.sample_at(now, Instant::now())
    }

    /// `at` is of a clock that nobody sets and that stands while the server sleeps.
    fn sample_at(&mut self, now: Timestamp, at: Instant) -> io::Result<()> {
        let elapsed = self
            .last
            .as_ref()
            .map(|(then, _)| at.saturating_duration_since(*then));
        if elapsed.is_some_and(|elapsed| elapsed < CLOSEST) {
            return Ok(());
        }
        let counters = self.kernel.read()?;
        let number = minute_of(now);
        if let (Some(elapsed), Some((_, before))) = (elapsed, &self.last)
            && elapsed <= FARTHEST
        {
            let figures = counters.since(before, elapsed);
            self.history.keep(&Minute { number, figures })?;
        }
        self.last = Some((at, counters));
        if self.closed != Some(number / 60) {
            self.history.close_hours(number)?;
            self.closed = Some(number / 60);
        }
        Ok(())
    }
}

/// What the history in this file comes to; none when nothing was measured.
pub fn of(path: &Path, now: Timestamp) -> Option<Load> {
    summary::of(&History::read(path).ok()?, now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards against a peak that is the sum of a night's sleep, against a jump of the clock, and
    /// the figures of the server that this runs on.
    #[test]
    fn pauses_are_missing_and_clocks_may_jump() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("load");
        let mut sampler = Sampler::open(&path).unwrap();
        let (start, mut at) = (Instant::now(), Duration::ZERO);
        let noon: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let mut now = noon;
        let mut step = |seconds: u64, by_the_clock: i64| {
            at += Duration::from_secs(seconds);
            now = Timestamp::from_millis(now.as_millis() + by_the_clock * 1000);
            sampler.sample_at(now, start + at).unwrap();
            of(&path, now).map_or(0, |load| load.minutes)
        };
        assert_eq!(step(60, 60), 0, "the first look only begins");
        assert_eq!(step(60, 60), 1);
        assert_eq!(step(1, 1), 1, "too close");
        assert_eq!(step(600, 600), 1, "a pause");
        assert_eq!(step(60, 60), 2);
        assert_eq!(
            step(60, 86_400 * 400 + 60),
            1,
            "the clock was set to next year"
        );
        assert_eq!(step(60, -86_400 * 400), 3, "and back again");
        let load = of(&path, now).unwrap();
        assert!(load.all.memory.mean > 1 << 20, "{load:?}");
    }
}
