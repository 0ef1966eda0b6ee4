//! What came of the runs, on disk: each run writes its end, whoever started it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use relevo_wire::secret_file;
use relevo_wire::{PointId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clock::{Now, Stamp, millis};
use crate::AgentError;
use crate::disk::Disk;
use crate::report::BackupReport;
use crate::state::StateDir;

/// What came of the runs so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The last run that made a recovery point.
    pub success: Option<Success>,
    /// The last run.
    pub attempt: Option<Attempt>,
    /// The last run that the daemon started.
    pub scheduled: Option<Attempt>,
    /// Runs in a row that failed.
    pub failures: u32,
}

/// A run that made a recovery point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Success {
    /// The recovery point.
    pub point: PointId,
    /// The moment whose state it holds.
    pub taken: Stamp,
    /// When the vault had all of it.
    pub finished: Timestamp,
    /// From the start of the run to then, in milliseconds.
    pub took_ms: u64,
    /// What was imaged.
    pub disks: Vec<ImagedDisk>,
    /// As `backup --json` prints it, without the areas.
    pub report: Value,
}

/// A disk of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagedDisk {
    /// Its name in the image.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
}

/// A run that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub started: Stamp,
    /// When it ended.
    pub ended: Stamp,
    /// Which try at the same time of the schedule, from 0; none of a run by hand.
    pub retry: Option<u32>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// A recovery point.
    Done,
    /// It was asked to end.
    Interrupted,
    /// It failed.
    Failed {
        /// Why.
        error: String,
        /// What to do about it.
        remedy: String,
    },
}

impl Outcome {
    /// Of a run that could not say itself what befell it.
    pub fn without_a_word(error: String) -> Self {
        Self::Failed {
            error,
            remedy: "see the log: journalctl -u relevo-agent; 'dmesg' tells of a kernel that \
                     killed it for want of memory"
                .into(),
        }
    }
}

impl History {
    /// What is kept; nothing when there is none, or none that can be read: then the next run is
    /// due, and writes it anew.
    pub fn read(path: &Path) -> Self {
        let read = || -> io::Result<Self> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("{}: {error}; taken as empty", path.display());
            }
            Self::default()
        })
    }

    /// Adds the end of a run.
    pub fn add(&mut self, attempt: Attempt, success: Option<Success>) {
        match (&attempt.outcome, success) {
            (Outcome::Done, Some(success)) => (self.success, self.failures) = (Some(success), 0),
            (Outcome::Failed { .. }, _) => self.failures = self.failures.saturating_add(1),
            _ => {}
        }
        if attempt.retry.is_some() {
            self.scheduled = Some(attempt.clone());
        }
        self.attempt = Some(attempt);
    }

    /// Keeps it.
    pub fn write(&self, state: &StateDir) -> Result<(), AgentError> {
        let path = state.history();
        let text = serde_json::to_vec(self).map_err(|e| AgentError::Internal(e.to_string()))?;
        state.create_schedule()?;
        secret_file::replace(&path, text).map_err(|source| AgentError::State { path, source })
    }
}

/// A run that is under way, to be noted when it ends.
pub struct Noted {
    state: StateDir,
    started: Now,
    retry: Option<u32>,
    success: Mutex<Option<Success>>,
}

impl Noted {
    /// Begins now.
    pub fn begin(state: &Path, retry: Option<u32>) -> Self {
        Self {
            state: StateDir::new(state.into()),
            started: Now::read(),
            retry,
            success: Mutex::new(None),
        }
    }

    /// There is a recovery point.
    pub fn done(&self, report: &BackupReport, disks: Vec<ImagedDisk>) {
        let now = Now::read();
        let mut facts = serde_json::to_value(report).unwrap_or_default();
        if let Some(facts) = facts.as_object_mut() {
            // Thousands of them, on some disks; whoever wants them asks 'backup --json'.
            facts.remove("areas");
        }
        let age = now.wall.since(report.taken);
        let taken = Now {
            wall: report.taken,
            up: now.up.saturating_sub(age),
            boot: now.boot.clone(),
        };
        *self.success.lock().unwrap_or_else(PoisonError::into_inner) = Some(Success {
            point: report.point,
            taken: taken.stamp(),
            finished: now.wall,
            took_ms: millis(now.up.saturating_sub(self.started.up)),
            disks,
            report: facts,
        });
    }

    /// Notes the end. A run that another kept from beginning is none.
    pub fn end(self, result: &Result<(), AgentError>) {
        let success = self
            .success
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let outcome = match result {
            _ if success.is_some() => Outcome::Done,
            Err(AgentError::Busy(_) | AgentError::NotEnrolled(_)) => return,
            Ok(()) | Err(AgentError::Interrupted) => Outcome::Interrupted,
            Err(error) => Outcome::Failed {
                error: error.to_string(),
                remedy: error.remedy(),
            },
        };
        let attempt = Attempt {
            started: self.started.stamp(),
            ended: Stamp::now(),
            retry: self.retry,
            outcome,
        };
        let mut history = History::read(&self.state.history());
        history.add(attempt, success);
        if let Err(error) = history.write(&self.state) {
            tracing::warn!("what came of this run is not kept: {error}");
        }
    }
}

/// What of disks is noted.
pub fn imaged(disks: &[Disk]) -> Vec<ImagedDisk> {
    let noted = disks.iter().map(|disk| ImagedDisk {
        name: disk.name().into(),
        path: std::path::absolute(disk.path()).unwrap_or_else(|_| disk.path().into()),
        size: disk.size(),
    });
    noted.collect()
}
