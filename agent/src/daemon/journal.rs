//! What the daemon says of itself, in a file that `relevo-agent status` reads.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use relevo_wire::{Timestamp, secret_file};
use serde::{Deserialize, Serialize};

use super::clock::Stamp;
use crate::AgentError;
use crate::state::StateDir;

/// What the daemon says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// Its process.
    pub pid: u32,
    /// Its program.
    pub program: PathBuf,
    /// Its release.
    pub version: String,
    /// When it was started.
    pub started: Stamp,
    /// When the first daemon of this server was: from then on times of a calendar count.
    pub first: Stamp,
    /// When the next run is due, as far as is known.
    pub next: Option<Timestamp>,
    /// Why then, in a word ([`Why`](super::due::Why)).
    pub why: String,
    /// Since when a run is under way.
    pub running: Option<Timestamp>,
    /// Why a run that is due waits.
    pub held_back: Option<String>,
}

impl Journal {
    /// What is kept.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Whether another says nothing new: what is reckoned from now differs by a little each time.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let millis = |next: Option<Timestamp>| next.map(Timestamp::as_millis);
        let close = match (millis(self.next), millis(other.next)) {
            (Some(one), Some(other)) => one.abs_diff(other) < 1000,
            (one, other) => one == other,
        };
        let other = Self {
            next: self.next,
            ..other.clone()
        };
        close && *self == other
    }

    /// Keeps it.
    pub fn write(&self, state: &StateDir) -> Result<(), AgentError> {
        let path = state.journal();
        let text = serde_json::to_vec(self).map_err(|e| AgentError::Internal(e.to_string()))?;
        secret_file::replace(&path, text).map_err(|source| AgentError::State { path, source })
    }
}

/// Takes the lock that keeps daemons apart; it ends with the process. Nothing when another has
/// it.
pub fn lock(state: &StateDir) -> Result<Option<File>, AgentError> {
    let path = state.daemon_lock();
    let failed = |source| AgentError::State {
        path: path.clone(),
        source,
    };
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let file = opened.map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(failed(error.into())),
    }
}
