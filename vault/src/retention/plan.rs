//! A policy applied to the recovery points of one server.

use std::collections::HashMap;
use std::fmt;

use jiff::civil::DateTime;
use relevo_wire::{PointId, Timestamp};
use serde::Serialize;

use super::period::Rule;
use super::policy::{Count, Policy};
use super::within::Within;
use crate::clock::VaultTime;

/// A point's date lies at most so long before its commit, whatever its agent says.
const LONGEST_UPLOAD_MS: i64 = 2 * 86_400_000;

/// A recovery point that a policy judges.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which.
    pub point: PointId,
    /// When it was taken, by the agent's clock.
    pub taken: Timestamp,
    /// When the vault acknowledged it.
    pub committed: Timestamp,
    /// Why it is held, when it is.
    pub held: Option<String>,
    /// Until when it was locked.
    pub locked: Option<VaultTime>,
}

impl Candidate {
    /// The date that counts: see the module's page.
    pub fn date(&self) -> Timestamp {
        let committed = self.committed.as_millis();
        let earliest = committed.saturating_sub(LONGEST_UPLOAD_MS);
        Timestamp::from_millis(self.taken.as_millis().clamp(earliest, committed))
    }
}

/// The two clocks. The wall's only tells which points are in the future.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The wall's.
    pub wall: Timestamp,
    /// The vault's, in which locks end.
    pub vault: VaultTime,
}

/// Why a point is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "because", rename_all = "kebab-case")]
pub enum Reason {
    /// It is its server's newest.
    Newest,
    /// It is locked.
    Locked {
        /// Until then.
        until: VaultTime,
    },
    /// It is held.
    Held {
        /// Why.
        reason: String,
    },
    /// No rule says that anything goes.
    NoRules,
    /// `keep-last`.
    Last {
        /// Its place among them, from 1.
        number: u32,
        /// How many are kept.
        of: String,
    },
    /// It is the newest of a period.
    Period {
        /// Which rule.
        rule: Rule,
        /// Which period.
        period: String,
        /// The period's place among those kept, from 1.
        number: u32,
        /// How many are kept.
        of: String,
    },
    /// `keep-within`.
    Within {
        /// The span.
        span: Within,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::Locked { .. } => f.write_str("locked"),
            Self::Held { reason } => write!(f, "held: {reason}"),
            Self::NoRules => f.write_str("no rules"),
            Self::Last { number, of } => write!(f, "last {number}/{of}"),
            Self::Period {
                rule,
                period,
                number,
                of,
            } => write!(f, "{rule} {period} {number}/{of}"),
            Self::Within { span } => write!(f, "within {span}"),
        }
    }
}

/// Why a rule does not keep a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// The rule.
    pub rule: Rule,
    /// Why not.
    #[serde(flatten)]
    pub because: Because,
}

/// Why a rule does not keep a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "because", rename_all = "kebab-case")]
pub enum Because {
    /// Another point of the same period is newer.
    Newer {
        /// That one.
        point: PointId,
    },
    /// The rule keeps so many, and all of them are newer.
    Full,
    /// It is older than the span.
    Older,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.because {
            Because::Newer { point } => write!(f, "{}: {} is newer", self.rule, point.short()),
            Because::Full => write!(f, "{}: enough newer ones", self.rule),
            Because::Older => write!(f, "{}: older", self.rule),
        }
    }
}

/// What becomes of a recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Which.
    pub point: PointId,
    /// When it was taken, by the agent's clock.
    pub taken: Timestamp,
    /// The date that counted.
    pub date: Timestamp,
    /// Why it stays; it goes when there is no reason.
    pub keep: Vec<Reason>,
    /// Why the rules do not keep it, when it goes.
    pub missed: Vec<Miss>,
}

impl Verdict {
    /// True when it goes.
    pub fn goes(&self) -> bool {
        self.keep.is_empty()
    }
}

/// Judges the recovery points of one server, newest first.
///
/// Whatever the order and number of applications, a point that went would have gone at the end:
/// see the property tests.
pub fn plan(points: &[Candidate], policy: &Policy, now: Now) -> Vec<Verdict> {
    let mut order: Vec<&Candidate> = points.iter().collect();
    // The id makes the order of equals the same each time.
    order.sort_by_key(|p| std::cmp::Reverse((p.date(), p.taken, p.committed, p.point)));
    // What 'latest' means to a recovery site: agents' clocks decide there.
    let latest = order
        .iter()
        .max_by_key(|p| (p.taken, p.committed))
        .map(|p| p.point);
    let since = policy
        .within
        .and_then(|span| within_since(&order, span, policy, now));
    let mut rules = Rules::new(policy);
    let mut verdicts = Vec::with_capacity(order.len());
    for (at, point) in order.into_iter().enumerate() {
        let date = point.date();
        let (mut keep, mut missed) = (Vec::new(), Vec::new());
        if at == 0 || Some(point.point) == latest {
            keep.push(Reason::Newest);
        }
        if let Some(until) = point.locked.filter(|until| *until > now.vault) {
            keep.push(Reason::Locked { until });
        }
        if let Some(reason) = &point.held {
            let reason = reason.clone();
            keep.push(Reason::Held { reason });
        }
        if policy.is_empty() {
            keep.push(Reason::NoRules);
        }
        rules.judge(
            point.point,
            policy.time_zone.local(date),
            &mut keep,
            &mut missed,
        );
        if let Some(span) = policy.within {
            match since.is_some_and(|since| date <= since) {
                false => keep.push(Reason::Within { span }),
                true => missed.push(Miss {
                    rule: Rule::Within,
                    because: Because::Older,
                }),
            }
        }
        if !keep.is_empty() {
            missed.clear();
        }
        verdicts.push(Verdict {
            point: point.point,
            taken: point.taken,
            date,
            keep,
            missed,
        });
    }
    verdicts
}

/// The moment up to which `keep-within` does not keep; nothing when it keeps everything.
fn within_since(
    newest_first: &[&Candidate],
    span: Within,
    policy: &Policy,
    now: Now,
) -> Option<Timestamp> {
    let dates = || newest_first.iter().map(|p| p.date());
    let newest = dates().find(|date| *date <= now.wall);
    // All are in the future: then it is the clock that is wrong.
    let newest = newest.or_else(|| dates().next())?;
    span.before(newest, &policy.time_zone)
}

/// How far each rule has come, from the newest point on.
struct Rules<'a> {
    policy: &'a Policy,
    last: u32,
    /// The point that stands for each period kept.
    met: [HashMap<i64, PointId>; Rule::PERIODS.len()],
}

impl<'a> Rules<'a> {
    fn new(policy: &'a Policy) -> Self {
        Self {
            policy,
            last: 0,
            met: Default::default(),
        }
    }

    fn judge(
        &mut self,
        point: PointId,
        local: DateTime,
        keep: &mut Vec<Reason>,
        missed: &mut Vec<Miss>,
    ) {
        let last = self.policy.last;
        if last.has_room(self.last) {
            self.last += 1;
            keep.push(Reason::Last {
                number: self.last,
                of: last.to_string(),
            });
        } else if last != Count::NONE {
            missed.push(Miss {
                rule: Rule::Last,
                because: Because::Full,
            });
        }
        for (rule, met) in Rule::PERIODS.into_iter().zip(&mut self.met) {
            let count = self.policy.count(rule);
            if count == Count::NONE {
                continue;
            }
            let period = rule.period(local);
            // A full rule meets no more periods; which one is then of no matter.
            let kept = u32::try_from(met.len()).unwrap_or(u32::MAX);
            let because = match met.get(&period) {
                Some(&point) => Because::Newer { point },
                None if !count.has_room(kept) => Because::Full,
                None => {
                    met.insert(period, point);
                    keep.push(Reason::Period {
                        rule,
                        period: rule.label(local),
                        number: kept + 1,
                        of: count.to_string(),
                    });
                    continue;
                }
            };
            missed.push(Miss { rule, because });
        }
    }
}
