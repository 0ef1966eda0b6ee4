//! What goes and what stays, and why, for people.

use std::fmt::Write;

use relevo_wire::{ServerId, TenantId, Timestamp};
use serde::Serialize;

use super::plan::{Reason, Verdict};
use super::simulate::Simulated;

/// What a policy makes of one server.
#[derive(Clone, Debug, Serialize)]
pub struct ServerPlan {
    /// Whose.
    pub tenant: TenantId,
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// The policy in words.
    pub policy: String,
    /// Each recovery point, newest first.
    pub points: Vec<Verdict>,
}

impl ServerPlan {
    /// Points that go.
    pub fn going(&self) -> impl Iterator<Item = &Verdict> {
        self.points.iter().filter(|point| point.goes())
    }
}

/// The plans as text: of each point whether it stays and why.
pub fn text(plans: &[ServerPlan]) -> String {
    let mut text = String::new();
    for plan in plans {
        let going = plan.going().count();
        let _ = writeln!(
            text,
            "{} ({}): {}: {} go, {} stay",
            plan.name,
            plan.server.short(),
            plan.policy,
            going,
            plan.points.len() - going
        );
        for point in &plan.points {
            let _ = writeln!(text, "  {}", line(point));
        }
    }
    if plans.is_empty() {
        text.push_str("no recovery points\n");
    }
    text
}

fn line(point: &Verdict) -> String {
    let (word, why) = match point.goes() {
        true => ("goes ", join(&point.missed)),
        false => ("stays", join(&point.keep)),
    };
    format!("{word} {} {}  {why}", minute(point.taken), point.point)
}

fn join(parts: &[impl ToString]) -> String {
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    parts.join("; ")
}

/// Up to the minute, in UTC.
fn minute(moment: Timestamp) -> String {
    let text = moment.to_string();
    match text.get(..16) {
        Some(minute) => format!("{}Z", minute.replace('T', " ")),
        None => text,
    }
}

/// A simulation as text.
pub fn simulated(simulated: &Simulated, policy: &str) -> String {
    let mut text = format!(
        "{policy}\n{} recovery points taken, {} held at the end\n",
        simulated.taken,
        simulated.held.len()
    );
    for (rule, count) in &simulated.by_rule {
        let _ = writeln!(text, "  {count:>6} by {rule}");
    }
    for point in &simulated.held {
        let by_rule = |reason: &&Reason| !matches!(reason, Reason::Newest);
        let why: Vec<&Reason> = point.keep.iter().filter(by_rule).collect();
        let _ = writeln!(text, "  {}  {}", minute(point.date), join(&why));
    }
    text
}
