//! What can be wrong with a disk, in words.

use std::io;
use std::path::{Path, PathBuf};

/// Why a disk could not be imaged.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened or examined.
    #[error("disk {path}: {source}")]
    Open {
        /// The disk.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is a directory, socket or the like.
    #[error("{0} is neither a block device nor an image file")]
    NotADisk(PathBuf),
    /// It has no bytes.
    #[error("disk {0} is empty")]
    Empty(PathBuf),
    /// A read failed.
    #[error("disk {path} cannot be read at byte {offset}: {source}")]
    Read {
        /// The disk.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// It became smaller while it was read.
    #[error("disk {path} ends at byte {offset}, where it had {expected} bytes when the run began")]
    Shrank {
        /// The disk.
        path: PathBuf,
        /// Where it ends now.
        offset: u64,
        /// Size at the start.
        expected: u64,
    },
    /// It was there when the run began.
    #[error("disk {path} went away while it was read, at byte {offset}: {source}")]
    Gone {
        /// The disk.
        path: PathBuf,
        /// Where reading was.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// So much of it cannot be read that the rest is not worth the wait.
    #[error("disk {path} is failing: {bytes} bytes of it could not be read up to byte {offset}")]
    Failing {
        /// The disk.
        path: PathBuf,
        /// Where reading was.
        offset: u64,
        /// Bytes that could not be read.
        bytes: u64,
    },
}

impl DiskError {
    /// The disk that is lost, so that a run may go on with the others.
    pub fn lost_disk(&self) -> Option<&Path> {
        match self {
            Self::Gone { path, .. } | Self::Failing { path, .. } => Some(path),
            _ => None,
        }
    }

    /// What the administrator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run the agent as root, or give it read access to the disk"
            }
            Self::Open { .. } => "check the path; 'relevo-agent inventory' lists the local disks",
            Self::NotADisk(_) => "name a block device such as /dev/sda, or a raw image file",
            Self::Empty(_) => "name the disk itself; a drive without medium cannot be imaged",
            Self::Read { .. } => {
                "look at the kernel's log (dmesg) for this disk, then run the backup again; no \
                 recovery point was made"
            }
            Self::Shrank { .. } => {
                "stop what truncates the image and run the backup again; no recovery point was made"
            }
            Self::Gone { .. } => {
                "look at the kernel's log (dmesg), and at the disk's cables and controller; what \
                 earlier recovery points hold of it stays"
            }
            Self::Failing { .. } => {
                "replace the disk; what earlier recovery points hold of it stays"
            }
        }
    }
}
