//! When the next image is due: a function of what is known, without clocks or files of its own.
//!
//! All is reckoned in milliseconds from now, so that what is long ago by the clock that only runs
//! and what the calendar says by the one that people set can be compared:
//!
//! * **A target** (RPO) counts from the moment whose state the newest recovery point holds, by the
//!   running clock. A wall clock that is set changes nothing.
//! * **A calendar** counts by the wall clock: the first event after the last run, or after now when
//!   the last run is in the future by a clock that was set back. Events that were missed, since
//!   the server was down or its clock was set forward, make one run.
//! * **Spread**: each server waits its own share, always the same, after an event, after its start
//!   and after a window opens; and tries again a little later than others.

use std::fmt;
use std::time::Duration;

use relevo_wire::policy::BackupPolicy;
use relevo_wire::zone::Zone;
use relevo_wire::{ServerId, Timestamp};

use super::clock::{Now, Stamp, millis};
use super::history::{Attempt, History, Outcome};
use super::pause::Pause;

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Now.
    pub now: &'a Now,
    /// Since when the daemon could have started a run: its start, or the end of a sleep.
    pub awake: &'a Now,
    /// Since when this server is to be imaged.
    pub first: &'a Stamp,
    /// How.
    pub policy: &'a BackupPolicy,
    /// Whose clock counts.
    pub zone: &'a Zone,
    /// What came of runs.
    pub history: &'a History,
    /// Whether images are paused.
    pub pause: Option<&'a Pause>,
    /// This server's place in any spread, from 0 to 1.
    pub share: f64,
}

/// Why a run is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no recovery point yet.
    First,
    /// The state would get older than the target.
    Target,
    /// The calendar says so.
    Calendar,
    /// The last run failed.
    Retry,
    /// It waits for a window.
    Window,
    /// Nothing is due while it is paused.
    Paused,
    /// The calendar has no more times.
    Never,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first image",
            Self::Target => "target",
            Self::Calendar => "calendar",
            Self::Retry => "retry",
            Self::Window => "window",
            Self::Paused => "paused",
            Self::Never => "the calendar has no more times",
        })
    }
}

/// The next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Why then.
    pub why: Why,
    /// Milliseconds from now; 0 when it is due, none when nothing that is known makes it so.
    pub wait_ms: Option<u64>,
    /// Which try at the same time of the schedule.
    pub retry: u32,
}

/// A run that was asked to end begins anew not before this.
const AFTER_INTERRUPTION: u64 = 60;
/// A target that is missed for long is tried for at least so often.
const LONGEST_RETRY: u64 = 3600;

/// A server's place in any spread: always the same, evenly distributed.
pub fn share_of(server: ServerId) -> f64 {
    let hash = blake3::hash(server.as_bytes());
    let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    f64::from(u32::from_le_bytes(first)) / (f64::from(u32::MAX) + 1.0)
}

/// How long after a state the next run begins, so that its own state is there before the target
/// is missed: a run takes its time. Never before half of the target.
pub fn interval(target: u64, took_ms: u64) -> u64 {
    let target_ms = target.saturating_mul(1000);
    let ahead = took_ms
        .saturating_add(took_ms / 4)
        .saturating_add(target_ms / 20);
    target_ms.saturating_sub(ahead).max(target_ms / 2)
}

impl Situation<'_> {
    /// When the next run is due, and why.
    pub fn next(&self) -> Next {
        let mut next = match self.policy.calendar.is_empty() {
            true => self.by_target(),
            false => self.by_calendar(),
        };
        if let Some(last) = &self.history.scheduled
            && last.outcome == Outcome::Interrupted
            && let Some(ended) = self.ago(&last.ended)
        {
            let pause = AFTER_INTERRUPTION.min(self.policy.retry_after);
            next.at = next.at.map(|at| at.max(ended + signed(pause * 1000)));
        }
        if let Some(at) = next.at {
            let moved = self.in_window(at);
            if moved > at.max(0) {
                next.why = Why::Window;
            }
            next.at = Some(moved);
        }
        if let Some(left) = self.pause.and_then(|pause| pause.left(self.now)) {
            next.why = Why::Paused;
            let left = (left < Duration::MAX).then(|| signed(millis(left)));
            next.at = left.map(|left| next.at.unwrap_or(0).max(left));
        }
        Next {
            why: next.why,
            wait_ms: next.at.map(|at| u64::try_from(at).unwrap_or(0)),
            retry: next.retry,
        }
    }

    fn by_target(&self) -> Due {
        // Without a calendar there is always a target: a section that gives neither is no schedule.
        let target = self.policy.rpo.unwrap_or(24 * 3600).max(1);
        let success = self.history.success.as_ref();
        let interval = interval(target, success.map_or(0, |s| s.took_ms));
        let spread = self.spread(interval / 4);
        let woke = self.since_awake() + spread;
        let state = success.and_then(|success| self.ago(&success.taken));
        let (why, at) = match state {
            None => (Why::First, woke),
            Some(state) => {
                let at = state + signed(interval);
                // What was overdue when the server came up is not done by all at once.
                let at = if at < self.since_awake() { woke } else { at };
                (Why::Target, at)
            }
        };
        match self.failed() {
            Some((tries, ended)) => {
                let again = ended + self.pause_before(tries, LONGEST_RETRY.min(target));
                let why = if again > at { Why::Retry } else { why };
                Due::new(why, again.max(at), tries + 1)
            }
            None => Due::new(why, at, 0),
        }
    }

    fn by_calendar(&self) -> Due {
        let now = self.now.wall;
        let runs = [
            self.history.success.as_ref().map(|success| &success.taken),
            self.consuming().map(|attempt| &attempt.started),
        ];
        let runs = runs
            .into_iter()
            .flatten()
            .filter_map(|run| run.by_wall(self.now));
        let last = runs.max().or_else(|| self.first.by_wall(self.now));
        let last = last.unwrap_or(now).min(now);
        let Some(event) = self.policy.next_event(last, self.zone) else {
            return Due {
                at: None,
                ..Due::new(Why::Never, 0, 0)
            };
        };
        let after = self.policy.next_event(event, self.zone);
        let gap = after.map_or(u64::MAX, |after| millis(after.since(event)));
        let spread = self.spread(gap / 4);
        let offset = event.as_millis().saturating_sub(now.as_millis());
        let mut due = Due::new(Why::Calendar, offset + spread, 0);
        if offset + spread < self.since_awake() {
            due.at = Some(self.since_awake() + spread);
        }
        if let Some((tries, ended)) = self.failed()
            && tries < self.policy.retries
        {
            let again = ended + self.pause_before(tries, u64::MAX);
            if due.at.is_none_or(|at| again < at) {
                return Due::new(Why::Retry, again, tries + 1);
            }
        }
        due
    }

    /// The last run that the daemon started, if it failed: which try it was and when it ended.
    fn failed(&self) -> Option<(u32, i64)> {
        let last = self.history.scheduled.as_ref()?;
        let failed = matches!(last.outcome, Outcome::Failed { .. });
        let ended = self.ago(&last.ended)?;
        // One that succeeded since, by hand, makes good for it.
        let newer = self
            .history
            .success
            .as_ref()
            .and_then(|s| self.ago(&s.taken));
        (failed && newer.is_none_or(|newer| newer < ended))
            .then_some((last.retry.unwrap_or(0), ended))
    }

    /// The last run that the daemon started and that came to an end of its own.
    fn consuming(&self) -> Option<&Attempt> {
        let last = self.history.scheduled.as_ref()?;
        (last.outcome != Outcome::Interrupted).then_some(last)
    }

    /// The pause after a try that failed: twice as long each time. After the last one of a time
    /// of the schedule at most `longest` seconds, since there is no next time to wait for.
    fn pause_before(&self, tries: u32, longest: u64) -> i64 {
        let doubled = |tries: u32| {
            let factor = 1u64.checked_shl(tries.min(20)).unwrap_or(u64::MAX);
            self.policy.retry_after.max(1).saturating_mul(factor)
        };
        let pause = match tries < self.policy.retries {
            true => doubled(tries),
            false => doubled(tries).min(longest.max(doubled(self.policy.retries))),
        };
        let ms = pause.min(24 * 3600).saturating_mul(1000);
        // Others failed at the same moment, if it is the vault's fault.
        signed(ms + (ms as f64 * self.share / 4.0) as u64)
    }

    /// Moves a run into the windows.
    fn in_window(&self, at: i64) -> i64 {
        let policy = self.policy;
        if policy.window.is_empty() {
            return at;
        }
        let shortest = policy.window.iter().map(|window| window.length()).min();
        let spread = self.spread(millis(shortest.unwrap_or_default()) / 4);
        let wall = |at: i64| Timestamp::from_millis(self.now.wall.as_millis().saturating_add(at));
        let offset = |moment: Timestamp| moment.as_millis() - self.now.wall.as_millis();
        if policy.is_open(wall(at.max(0)), self.zone) {
            // Whoever waited for this window begins at its own share of it.
            let opened = policy.opened(wall(at.max(0)), self.zone).map(offset);
            return match opened {
                Some(opened) if at < opened => opened + spread,
                _ => at,
            };
        }
        offset(policy.opens(wall(at.max(0)), self.zone)) + spread
    }

    /// This server's share of a spread that is no longer than `most`, in milliseconds.
    fn spread(&self, most: u64) -> i64 {
        let whole = self.policy.spread.saturating_mul(1000).min(most);
        signed((whole as f64 * self.share) as u64)
    }

    fn since_awake(&self) -> i64 {
        -signed(millis(self.now.up.saturating_sub(self.awake.up)))
    }

    /// A moment of the past, in milliseconds from now.
    fn ago(&self, stamp: &Stamp) -> Option<i64> {
        stamp.age(self.now).map(|age| -signed(millis(age)))
    }
}

/// A run on its way to be due: milliseconds from now, in the past too.
struct Due {
    why: Why,
    at: Option<i64>,
    retry: u32,
}

impl Due {
    fn new(why: Why, at: i64, retry: u32) -> Self {
        Self {
            why,
            at: Some(at),
            retry,
        }
    }
}

/// A length that fits: 292 million years do.
fn signed(millis: u64) -> i64 {
    i64::try_from(millis)
        .unwrap_or(i64::MAX / 4)
        .min(i64::MAX / 4)
}

#[cfg(test)]
mod due_test;
