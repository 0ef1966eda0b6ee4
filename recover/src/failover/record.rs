//! What is written down about a recovered server while it runs, so that any later command
//! finds all of it again, whatever became of the one that started it.
//!
//! Written before each thing is made, so that nothing exists which the record does not name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use relevo_wire::{PointId, ServerId, Timestamp};
use serde::{Deserialize, Serialize};

use super::process::ProcessId;
use crate::failure::Failure;

const RECORD: &str = "run.json";
const LOCK: &str = "lock";
const FORMAT: &str = "relevo-run/1";

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// A failover is making it.
    Starting,
    /// The virtual machine runs.
    Running,
    /// Everything was torn down; what the server wrote is kept.
    Stopped,
}

/// The network of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunNetwork {
    /// Namespace that was made for it.
    pub namespace: Option<String>,
    /// Taps outside a namespace of its own.
    pub taps: Vec<String>,
}

/// A port of the host that leads to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Where the host listens.
    pub listen: String,
    /// The server's port.
    pub port: u16,
    /// The forwarder.
    pub process: ProcessId,
}

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    format: String,
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// The recovery point.
    pub point: PointId,
    /// The moment whose state it holds.
    pub taken: Timestamp,
    /// Where it is in its life.
    pub state: RunState,
    /// When the failover began.
    pub started: Timestamp,
    /// It runs on over what an earlier run wrote.
    pub resumed: bool,
    /// The command that makes it.
    pub starter: ProcessId,
    /// The process that serves its disks.
    pub disk_server: Option<ProcessId>,
    /// The process that is its virtual machine.
    pub machine: Option<ProcessId>,
    /// Its network.
    pub network: RunNetwork,
    /// Published ports.
    pub published: Vec<Published>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Time from the image to the failover, in milliseconds.
    pub rpo_ms: u64,
    /// Time from the failover to the service, in milliseconds, once it answered.
    pub rto_ms: Option<u64>,
}

impl RunRecord {
    /// A run that begins.
    pub fn begin(
        server: ServerId,
        name: &str,
        point: PointId,
        taken: Timestamp,
        started: Timestamp,
    ) -> Self {
        Self {
            format: FORMAT.into(),
            server,
            name: name.into(),
            point,
            taken,
            state: RunState::Starting,
            started,
            resumed: false,
            starter: ProcessId::own(),
            disk_server: None,
            machine: None,
            network: RunNetwork::default(),
            published: Vec::new(),
            addresses: Vec::new(),
            rpo_ms: millis(started.since(taken)),
            rto_ms: None,
        }
    }
}

/// A duration as JSON shows it.
pub fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The directory of one server's run.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

/// Held while a run is made or torn down.
pub struct RunLock(
    #[expect(dead_code, reason = "the lock lives as long as the file is open")] File,
);

impl RunDir {
    /// The run of `server` at a site.
    pub fn of(state: &Path, server: ServerId) -> Self {
        Self(state.join("runs").join(server.to_string()))
    }

    /// A run in any directory.
    pub fn at(path: &Path) -> Self {
        Self(crate::site::absolute(path))
    }

    /// All runs of a site.
    pub fn all(state: &Path) -> Result<Vec<Self>, Failure> {
        let dir = state.join("runs");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Failure::io(&dir, &e)),
        };
        let mut runs: Vec<Self> = entries
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| Self(entry.path()))
            .collect();
        runs.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(runs)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The serial console's output.
    pub fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// The machine's control socket.
    pub fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// Makes the directory and takes it; an error while another command has it.
    pub fn lock(&self) -> Result<RunLock, Failure> {
        let io = |e: io::Error| Failure::io(&self.0, &e);
        // Console, boot files and overlays hold what only the server's own root may read.
        crate::site::make_private(&self.0).map_err(io)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.0.join(LOCK))
            .map_err(io)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(RunLock(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::new(
                "another command is already starting or stopping this server",
                "wait until it is done, or end it; see 'relevo-recover status'",
            )),
            Err(e) => Err(io(e.into())),
        }
    }

    /// The record; none when nothing was ever begun here.
    pub fn read(&self) -> Result<Option<RunRecord>, Failure> {
        let path = self.0.join(RECORD);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Failure::io(&path, &e)),
        };
        let unusable = |reason: String| {
            Failure::new(
                format!("{}: {reason}", path.display()),
                "see that no process of the run is left, then remove its directory",
            )
        };
        let record: RunRecord =
            serde_json::from_slice(&text).map_err(|e| unusable(e.to_string()))?;
        if record.format != FORMAT {
            return Err(unusable(format!("format {} is not known", record.format)));
        }
        Ok(Some(record))
    }

    /// Replaces the record as one step.
    pub fn write(&self, record: &RunRecord) -> Result<(), Failure> {
        let (path, new) = (self.0.join(RECORD), self.0.join("run.json.new"));
        let text = serde_json::to_vec_pretty(record).map_err(|e| {
            Failure::new(format!("{}: {e}", path.display()), "report it as a defect")
        })?;
        let attempt = || {
            let mut file = File::create(&new)?;
            io::Write::write_all(&mut file, &text)?;
            file.sync_data()?;
            fs::rename(&new, &path)
        };
        attempt().map_err(|e| Failure::io(&path, &e))
    }

    /// Removes the directory with all that is in it.
    pub fn remove(&self) -> Result<(), Failure> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Failure::io(&self.0, &e)),
            _ => Ok(()),
        }
    }

    /// Bytes of disk that the overlays hold.
    pub fn written(&self) -> u64 {
        fn blocks(dir: &Path) -> u64 {
            let mut sum = 0;
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_dir() {
                    sum += blocks(&entry.path());
                } else if entry.file_name() == "data" {
                    sum += std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
                }
            }
            sum
        }
        blocks(&self.0.join("overlays"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_a_server_leaves_is_nobody_elses_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::at(&dir.path().join("runs/1"));
        drop(run.lock().unwrap());
        let mode = fs::metadata(run.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let above = run.path().parent().unwrap();
        let mode = fs::metadata(above).unwrap().permissions().mode();
        assert_ne!(mode & 0o777, 0o700, "it may hold what is others' as well");
    }
}
