//! What a policy holds in the end, for a schedule that somebody thinks of.

use std::time::Duration;

use relevo_wire::{PointId, Timestamp};
use serde::Serialize;

use super::plan::{Candidate, Now, Reason, Verdict, plan};
use super::policy::Policy;
use super::within::Within;
use crate::clock::VaultTime;
use crate::error::VaultError;

/// Most points that are invented.
pub const MOST: usize = 1_000_000;

/// A backup every so often, for so long.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Pause between two points.
    pub every: Duration,
    /// From the first to the last.
    pub length: Within,
    /// The last point.
    pub end: Timestamp,
}

/// What is held at the end.
#[derive(Clone, Debug, Serialize)]
pub struct Simulated {
    /// Points taken in all.
    pub taken: usize,
    /// Points held at the end, newest first.
    pub held: Vec<Verdict>,
    /// How many each rule accounts for.
    pub by_rule: Vec<(String, usize)>,
}

/// Applies a policy to an invented schedule. Once at its end: applying it on the way holds the
/// same (a property test holds the plan to that).
pub fn simulate(schedule: Schedule, policy: &Policy) -> Result<Simulated, VaultError> {
    let usage = |reason: &str, remedy: &str| VaultError::Usage {
        reason: reason.into(),
        remedy: remedy.into(),
    };
    let every = i64::try_from(schedule.every.as_millis()).unwrap_or(i64::MAX);
    if every == 0 {
        return Err(usage("--every is no time at all", "write for instance 1h"));
    }
    let end = schedule.end.as_millis();
    let start = schedule
        .length
        .before(schedule.end, &policy.time_zone)
        .ok_or_else(|| usage("--for reaches beyond the calendar", "take a shorter time"))?;
    let taken = (end.saturating_sub(start.as_millis()) / every).saturating_add(1);
    let taken = usize::try_from(taken)
        .ok()
        .filter(|taken| *taken <= MOST)
        .ok_or_else(|| {
            usage(
                "more than a million recovery points",
                "take a shorter --for or a longer --every",
            )
        })?;
    let points: Vec<Candidate> = (0..taken)
        .map(|number| {
            let at = Timestamp::from_millis(end - number as i64 * every);
            Candidate {
                point: numbered(taken - number),
                taken: at,
                committed: at,
                held: None,
                locked: None,
            }
        })
        .collect();
    let now = Now {
        wall: schedule.end,
        vault: VaultTime::default(),
    };
    let mut held = plan(&points, policy, now);
    held.retain(|verdict| !verdict.goes());
    let mut by_rule: Vec<(String, usize)> = Vec::new();
    for reason in held.iter().flat_map(|verdict| &verdict.keep) {
        let name = match reason {
            Reason::Last { .. } => "last".to_string(),
            Reason::Period { rule, .. } => rule.to_string(),
            Reason::Within { .. } => "within".into(),
            Reason::NoRules => "no rules".into(),
            Reason::Newest | Reason::Locked { .. } | Reason::Held { .. } => continue,
        };
        match by_rule.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => by_rule.push((name, 1)),
        }
    }
    Ok(Simulated {
        taken,
        held,
        by_rule,
    })
}

/// An id that is a number, counted from the oldest point.
fn numbered(number: usize) -> PointId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
    PointId::from_bytes(id)
}
