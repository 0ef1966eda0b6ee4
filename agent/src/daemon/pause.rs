//! Pausing: a file that outlives restarts of the agent and of the server.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use relevo_wire::Timestamp;
use relevo_wire::secret_file;
use serde::{Deserialize, Serialize};

use super::clock::{Now, Stamp};
use crate::AgentError;
use crate::state::StateDir;

/// No images are taken by themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    /// Since then.
    pub since: Stamp,
    /// For so many seconds; until somebody resumes, when none is given.
    pub seconds: Option<u64>,
}

impl Pause {
    /// What is kept. A file that cannot be read pauses nothing: a server whose images stop
    /// without anybody's word is worse than one that is imaged once too often.
    pub fn read(path: &Path) -> Option<Self> {
        let read = || -> io::Result<Self> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        match read() {
            Ok(pause) => Some(pause),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("{}: {error}; not paused", path.display());
                None
            }
        }
    }

    /// How much of it is left; nothing when it is over. One without an end lasts for ever.
    pub fn left(&self, now: &Now) -> Option<Duration> {
        let Some(seconds) = self.seconds else {
            return Some(Duration::MAX);
        };
        // A clock that was set back over a restart must not lengthen it.
        let age = self.since.age(now)?;
        Duration::from_secs(seconds)
            .checked_sub(age)
            .filter(|left| !left.is_zero())
    }

    /// When it ends by itself.
    pub fn until(&self, now: &Now) -> Option<Timestamp> {
        let left = self.left(now).filter(|left| *left < Duration::MAX)?;
        Some(now.wall.plus(left))
    }
}

/// Pauses from now on.
pub fn pause(state: &StateDir, length: Option<Duration>) -> Result<Pause, AgentError> {
    let pause = Pause {
        since: Stamp::now(),
        seconds: length.map(|length| length.as_secs()),
    };
    let path = state.paused();
    let text = serde_json::to_vec(&pause).map_err(|e| AgentError::Internal(e.to_string()))?;
    state.create_schedule()?;
    secret_file::replace(&path, text).map_err(|source| AgentError::State { path, source })?;
    Ok(pause)
}

/// Ends a pause; says whether there was one.
pub fn resume(state: &StateDir) -> Result<bool, AgentError> {
    let path = state.paused();
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(AgentError::State { path, source }),
    }
}
