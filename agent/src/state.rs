//! The agent's directory: who it is, its keys, its cache, and the lock that keeps runs apart.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use relevo_wire::enrollment::Enrollment;
use relevo_wire::identity::Identity;
use relevo_wire::key::SealingKeys;
use relevo_wire::{ServerId, TenantId};

use crate::AgentError;

/// Where the agent keeps its state unless told otherwise.
pub const DEFAULT_DIR: &str = "/var/lib/relevo/agent";

/// The state directory.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// At this path; nothing is touched yet.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory for its owner only, if it is not there.
    pub fn create(&self) -> Result<(), AgentError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|source| self.failed(&self.0, source))
    }

    /// The enrolment.
    pub fn enrollment(&self) -> PathBuf {
        self.0.join("enrollment.toml")
    }

    /// The sealing keys.
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys.toml")
    }

    /// What the vault is known to have.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache.sqlite")
    }

    /// What is known of writes to the disks since their last images.
    pub fn tracking(&self) -> PathBuf {
        self.0.join("tracking")
    }

    /// What a run is about to freeze.
    pub fn frozen(&self) -> PathBuf {
        self.0.join("frozen.json")
    }

    /// For what hooks have to tell each other.
    pub fn hooks_scratch(&self) -> PathBuf {
        self.0.join("hooks")
    }

    /// What the daemon, its runs and whoever pauses them leave for each other.
    pub fn schedule(&self) -> PathBuf {
        self.0.join("schedule")
    }

    /// The last policy that the vault has said.
    pub fn policy(&self) -> PathBuf {
        self.schedule().join("policy.json")
    }

    /// What came of runs.
    pub fn history(&self) -> PathBuf {
        self.schedule().join("history.json")
    }

    /// There while images are paused.
    pub fn paused(&self) -> PathBuf {
        self.schedule().join("paused.json")
    }

    /// What the daemon says of itself. Beside the others, which wake it when they change.
    pub fn journal(&self) -> PathBuf {
        self.0.join("daemon.json")
    }

    /// Keeps daemons apart.
    pub fn daemon_lock(&self) -> PathBuf {
        self.0.join("daemon.lock")
    }

    /// Makes the directory of the schedule, if it is not there.
    pub fn create_schedule(&self) -> Result<(), AgentError> {
        let path = self.schedule();
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(&path)
            .map_err(|source| self.failed(&path, source))
    }

    /// What the server's work asked of its hardware.
    pub fn load(&self) -> PathBuf {
        self.0.join("load")
    }

    /// Takes the lock for one run; it ends with the process, however that ends.
    pub fn lock(&self) -> Result<Lock, AgentError> {
        let path = self.0.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| self.failed(&path, source))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(AgentError::Busy(self.0.clone())),
            Err(e) => Err(self.failed(&path, e.into())),
        }
    }

    /// Reads who this server is and its keys.
    pub fn read(&self) -> Result<Enrolled, AgentError> {
        let path = self.enrollment();
        // A directory that may not be looked into says nothing of what is in it.
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(AgentError::NotEnrolled(path)),
            Err(source) => return Err(self.failed(&path, source)),
        }
        let enrollment = Enrollment::read(&path)?;
        let keys = SealingKeys::read(&self.keys())?;
        let (tenant, server) = agent_of(&enrollment, &keys)?;
        Ok(Enrolled {
            enrollment,
            keys,
            tenant,
            server,
        })
    }

    /// Puts keys in the place of those kept here: of the same tenant, and no older. Says which
    /// generation was replaced.
    pub fn take_keys(&self, given: &SealingKeys) -> Result<u32, AgentError> {
        let enrolled = self.read()?;
        let _lock = self.lock()?;
        let kept = &enrolled.keys;
        if kept.tenant != given.tenant {
            return Err(AgentError::OtherKeys(self.keys()));
        }
        let same = kept.generation == given.generation;
        if kept.generation > given.generation || (same && kept.public != given.public) {
            return Err(AgentError::OlderKeys {
                given: given.generation,
                kept: kept.generation,
            });
        }
        given.replace(&self.keys())?;
        Ok(kept.generation)
    }

    fn failed(&self, path: &Path, source: io::Error) -> AgentError {
        AgentError::State {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Held while a backup runs.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Who this server is.
pub struct Enrolled {
    /// With which vault, and the proof.
    pub enrollment: Enrollment,
    /// What images are sealed with.
    pub keys: SealingKeys,
    /// Whose server it is.
    pub tenant: TenantId,
    /// The server.
    pub server: ServerId,
}

/// Tenant and server of an enrolment, when it is an agent's of the keys' tenant.
pub fn agent_of(
    enrollment: &Enrollment,
    keys: &SealingKeys,
) -> Result<(TenantId, ServerId), AgentError> {
    match enrollment.identity()? {
        Identity::Agent { tenant, server } if tenant == keys.tenant => Ok((tenant, server)),
        other => Err(AgentError::WrongRole(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards against two runs that stage into one cache.
    #[test]
    fn only_one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("state"));
        state.create().unwrap();
        let first = state.lock().unwrap();
        assert!(matches!(state.lock(), Err(AgentError::Busy(_))));
        drop(first);
        state.lock().unwrap();
        assert!(matches!(state.read(), Err(AgentError::NotEnrolled(_))));
    }

    /// Guards against sending somebody who lacks a right, or mistyped, to enrol again.
    #[test]
    fn a_directory_that_cannot_be_looked_into_is_not_unenrolled() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let read = StateDir::new(file).read();
        assert!(matches!(read, Err(AgentError::State { .. })));
    }
}
