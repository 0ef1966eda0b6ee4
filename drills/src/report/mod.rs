//! The evidence that a drill leaves: what was rehearsed, how long it took, what held.
//!
//! The field names are a promise to programs; `docs/drills.md` gives each its meaning. Times are
//! RFC 3339 in UTC, durations are whole milliseconds with `_ms` in the name.

mod files;
mod host;
mod markup;
mod page;
mod summary;

use std::time::Duration;

use relevo_wire::Timestamp;
use serde::Serialize;

pub use files::write;
pub use host::Host;
pub use page::page;
pub use summary::summary;

use crate::evidence::Evidence;
use crate::plan::Objectives;
use crate::rehearsal::Finding;

/// The kind of document, as its first field says.
pub const SCHEMA: &str = "relevo-drill-report";
/// Raised when a field changes its meaning or goes; new fields do not raise it.
pub const SCHEMA_VERSION: u32 = 1;

/// How the drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything required held.
    Passed,
    /// Something required did not.
    Failed,
    /// Somebody stopped it; it says nothing about the server.
    Interrupted,
}

/// The whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Distinguishes this drill from all others.
    pub id: String,
    /// The plan's name.
    pub name: String,
    /// The plan's description.
    pub description: Option<String>,
    /// The plan's file.
    pub plan_file: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it did not pass, in one sentence.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// The first required check that did not hold.
    pub failed_check: Option<FailedCheck>,
    /// When it began: the moment at which the server is taken to be lost.
    pub started: Timestamp,
    /// When everything was torn down.
    pub finished: Timestamp,
    /// From one to the other.
    pub duration_ms: u64,
    /// Age of the oldest recovery point used, at the start of the drill: what a loss at that
    /// moment would have cost.
    pub rpo_ms: Option<u64>,
    /// From the start of the drill until the last required check held; none when one did not.
    pub rto_ms: Option<u64>,
    /// What was asked for, and whether it was met.
    pub objectives: ObjectivesReport,
    /// The servers, in the order of their start; those never reached are missing.
    pub servers: Vec<ServerReport>,
    /// What became of the drill's machines and networks.
    pub teardown: Teardown,
    /// Where it was held.
    pub host: Host,
    /// Programs that took part.
    pub versions: Versions,
}

/// A check that failed the drill.
#[derive(Debug, Clone, Serialize)]
pub struct FailedCheck {
    /// The server's name in the plan.
    pub server: String,
    /// The check's name.
    pub check: String,
    /// Why it failed.
    pub reason: String,
    /// What the last attempt saw.
    pub evidence: Evidence,
}

/// What the plan asked for.
#[derive(Debug, Clone, Serialize)]
pub struct ObjectivesReport {
    /// Missing one fails the drill.
    pub required: bool,
    /// The recovery point objective.
    pub rpo: Objective,
    /// The recovery time objective.
    pub rto: Objective,
}

/// One objective.
#[derive(Debug, Clone, Serialize)]
pub struct Objective {
    /// What was asked for; none when nothing was.
    pub objective_ms: Option<u64>,
    /// What was measured; none when it could not be.
    pub measured_ms: Option<u64>,
    /// Whether it was met; none when nothing was asked for.
    pub met: Option<bool>,
}

impl Objective {
    /// Compares. What could not be measured is not met.
    pub fn new(objective: Option<Duration>, measured_ms: Option<u64>) -> Self {
        let objective_ms = objective.map(millis);
        Self {
            objective_ms,
            measured_ms,
            met: objective_ms.map(|limit| measured_ms.is_some_and(|it| it <= limit)),
        }
    }
}

impl ObjectivesReport {
    /// Compares both.
    pub fn new(asked: &Objectives, rpo_ms: Option<u64>, rto_ms: Option<u64>) -> Self {
        Self {
            required: asked.required,
            rpo: Objective::new(asked.rpo, rpo_ms),
            rto: Objective::new(asked.rto, rto_ms),
        }
    }
}

/// One server's part.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServerReport {
    /// As the plan names it.
    pub server: String,
    /// Its id in the vault.
    pub id: Option<String>,
    /// Its host name.
    pub name: Option<String>,
    /// Its operating system.
    pub os: Option<String>,
    /// The recovery point that was booted.
    pub point: Option<PointReport>,
    /// What was booted, on what.
    pub machine: Option<MachineReport>,
    /// Addresses it was asked at.
    pub addresses: Vec<String>,
    /// What was found, what was changed and why.
    pub findings: Vec<Finding>,
    /// Why it could not be started.
    pub start_error: Option<StartErrorReport>,
    /// What the time went into.
    pub steps: Vec<Step>,
    /// The checks, in the plan's order.
    pub checks: Vec<CheckReport>,
    /// From the start of the drill until this server's last required check held.
    pub recovered_ms: Option<u64>,
    /// The serial console's last lines.
    pub console_tail: Vec<String>,
}

/// A recovery point.
#[derive(Debug, Clone, Serialize)]
pub struct PointReport {
    /// Its id.
    pub id: String,
    /// The moment whose state it holds.
    pub taken: Option<Timestamp>,
    /// Its age at the start of the drill.
    pub age_ms: Option<u64>,
}

/// The virtual machine.
#[derive(Debug, Clone, Serialize)]
pub struct MachineReport {
    /// The kernel that was booted.
    pub kernel: Option<String>,
    /// Its command line.
    pub command_line: Option<String>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Number of virtual CPUs.
    pub cpus: Option<u64>,
}

/// Why a server could not be started.
#[derive(Debug, Clone, Serialize)]
pub struct StartErrorReport {
    /// What went wrong.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

/// A step of the recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name, such as `plan`, `disk`, `boot`, `service`.
    pub name: String,
    /// From the start of the drill to its beginning.
    pub started_ms: u64,
    /// How long it took.
    pub duration_ms: u64,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckStatus {
    /// It held.
    Held,
    /// It did not.
    Failed,
    /// Its turn never came.
    NotRun,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// Its name.
    pub name: String,
    /// `console`, `tcp` or `http`.
    pub kind: &'static str,
    /// What was waited for, in words.
    pub expectation: String,
    /// Whether the drill fails without it.
    pub required: bool,
    /// How it ended.
    pub status: CheckStatus,
    /// Why it failed.
    pub reason: Option<String>,
    /// From the start of the drill to its first attempt.
    pub started_ms: Option<u64>,
    /// How long it was tried.
    pub duration_ms: Option<u64>,
    /// How long it may be tried.
    pub timeout_ms: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last attempt saw.
    pub evidence: Option<Evidence>,
}

/// What became of the drill's machines and networks.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Teardown {
    /// Nothing is left.
    pub clean: bool,
    /// How long it took.
    pub duration_ms: u64,
    /// What is left, in words.
    pub left_behind: Vec<String>,
}

/// Programs that took part.
#[derive(Debug, Clone, Serialize)]
pub struct Versions {
    /// `relevo-drills`, and the recovery library in it.
    pub relevo_drills: &'static str,
}

impl Default for Versions {
    fn default() -> Self {
        Self {
            relevo_drills: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub mod sample;
#[cfg(test)]
mod tests;
