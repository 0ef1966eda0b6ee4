use std::io;
use std::path::{Path, PathBuf};

use crate::error::StoreError;

/// Why the index could not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// A file could not be used.
    #[error("{path}: {reason}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
        /// Of what kind that is.
        kind: io::ErrorKind,
    },
    /// A file is not what was written.
    #[error("index segment {path} is damaged: {reason}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How that was found.
        reason: String,
    },
    /// A newer release wrote the file.
    #[error(
        "index segment {path} has format {found}, newer than {known}, which this release knows"
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// This release's.
        known: u32,
    },
    /// What is to be written does not fit into a segment.
    #[error("index segment {path} cannot hold this: {reason}")]
    Unfit {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// It was told to stop.
    #[error("the merge was abandoned")]
    Abandoned,
}

impl IndexError {
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        Self::Io {
            path: path.into(),
            reason: error.to_string(),
            kind: error.kind(),
        }
    }

    /// Of a file that is to be there whole. What its disk cannot read is damage as well.
    pub(super) fn read(path: &Path, error: &io::Error) -> Self {
        let is = |code: rustix::io::Errno| error.raw_os_error() == Some(code.raw_os_error());
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::damaged(path, "it is cut short"),
            _ if is(rustix::io::Errno::IO) || is(rustix::io::Errno::ISDIR) => {
                Self::damaged(path, format!("it cannot be read: {error}"))
            }
            _ => Self::io(path, error),
        }
    }

    pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.into(),
            reason: reason.into(),
        }
    }

    pub(super) fn unfit(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unfit {
            path: path.into(),
            reason: reason.into(),
        }
    }

    /// True when the file is not there: it was merged away, or lost.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Io { kind, .. } if *kind == io::ErrorKind::NotFound)
    }
}

impl From<IndexError> for StoreError {
    fn from(error: IndexError) -> Self {
        match &error {
            IndexError::Io { path, reason, kind } if *kind != io::ErrorKind::NotFound => {
                StoreError::io(path.display(), &io::Error::new(*kind, reason.clone()))
            }
            // Derived data: the packs hold everything.
            IndexError::Io { path, .. } => {
                Self::Index(format!("index segment {} is gone", path.display()))
            }
            IndexError::Damaged { .. } => Self::Index(error.to_string()),
            _ => StoreError::Catalogue(error.to_string()),
        }
    }
}
