//! What can go wrong in a vault, with the remedy.

use std::io;
use std::path::PathBuf;

use relevo_wire::PointId;
use relevo_wire::message::{Refusal, RefusalCode};

/// Why the store could not do something. One failure may answer many requests, hence `Clone`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room is left for packs or catalogue.
    #[error("the vault has no room left: {0}")]
    Full(String),
    /// The storage below failed.
    #[error("the vault's storage failed: {0}")]
    Storage(String),
    /// The catalogue could not be read or written.
    #[error("the vault's catalogue failed: {0}")]
    Catalogue(String),
    /// The chunk index, which the catalogue names, is damaged or not all there.
    #[error("the vault's chunk index failed: {0}")]
    Index(String),
    /// The store takes nothing more until it is started again.
    #[error("the vault takes no more writes: {0}")]
    ReadOnly(String),
    /// A recovery point's id was used for another one.
    #[error("recovery point {0} exists already with other content")]
    PointTaken(PointId),
    /// What a recovery point refers to was removed or not proven since it was looked at.
    #[error("what recovery point {0} refers to changed while it was committed")]
    NotWhole(PointId),
    /// The packs were written by a newer release.
    #[error("a pack has format {found}, newer than {known}, which this release knows")]
    Newer {
        /// The pack's.
        found: u32,
        /// This release's.
        known: u32,
    },
    /// The writer has ended.
    #[error("the vault is shutting down")]
    Stopped,
}

impl StoreError {
    /// A failed operation of the file system.
    pub fn io(doing: impl std::fmt::Display, error: &io::Error) -> Self {
        let text = format!("{doing}: {error}");
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full(text),
            _ => Self::Storage(text),
        }
    }

    /// What the administrator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Full(_) => {
                "give the vault's file system more room; uploads go on from where they are"
            }
            Self::Storage(_) | Self::ReadOnly(_) => {
                "see the kernel's log for the disk; then restart the vault and run 'relevo-vault verify'"
            }
            Self::Catalogue(_) => "run 'relevo-vault rebuild': the packs hold everything",
            Self::Index(_) => "start the vault anew: it makes its index anew from the packs",
            Self::PointTaken(_) | Self::NotWhole(_) => "start the backup anew",
            Self::Newer { .. } => "update relevo-vault to the release that wrote it, or later",
            Self::Stopped => "try again when the vault runs",
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(format!("catalogue: {error}")),
            _ => Self::Catalogue(error.to_string()),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Full(_) => RefusalCode::Full,
            StoreError::PointTaken(_) | StoreError::NotWhole(_) => RefusalCode::Corrupt,
            _ => RefusalCode::Storage,
        };
        Self::new(code, error.to_string(), error.remedy())
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A file or directory could not be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory is not what it should be.
    #[error("{path}: {reason}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A certificate could not be made or read.
    #[error(transparent)]
    Identity(#[from] relevo_wire::identity::IdentityError),
    /// The network could not be used.
    #[error("{doing}: {reason}")]
    Network {
        /// What was tried.
        doing: String,
        /// Why not.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// What was asked is not done.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The command line asks for something impossible.
    #[error("{reason}")]
    Usage {
        /// Why.
        reason: String,
        /// What to do.
        remedy: String,
    },
}

impl VaultError {
    /// A file that could not be used.
    pub fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        Self::Io { path, source }
    }

    /// What the administrator can do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    "check --dir; 'relevo-vault init --dir DIR' makes a new vault".into()
                }
                io::ErrorKind::PermissionDenied => "run as the user that owns the vault".into(),
                io::ErrorKind::StorageFull => "give the vault's file system more room".into(),
                _ => "see the kernel's log for the disk".into(),
            },
            Self::Directory { remedy, .. } | Self::Network { remedy, .. } => (*remedy).into(),
            Self::Store(error) => error.remedy().into(),
            Self::Identity(_) => {
                "bring authority/ back from a copy: without it enrolled peers cannot trust this vault".into()
            }
            Self::Usage { remedy, .. } | Self::Refused { remedy, .. } => remedy.clone(),
        }
    }
}

impl From<rusqlite::Error> for VaultError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
