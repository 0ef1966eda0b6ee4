//! What is on a volume, and reading files from it without mounting.
//!
//! - [`signature`] tells what a volume holds from its magic numbers;
//! - [`FileSystem`] is the small trait that planning reads through; [`ext`] implements it for
//!   ext2, ext3 and ext4;
//! - [`volume`] opens every volume of every disk and resolves names such as `UUID=…`;
//! - [`tree`] joins several volumes into the tree that the server itself saw, and follows
//!   symbolic links across them.
//!
//! Everything else that a volume can hold is refused by name and with a remedy ([`FsError`]).

pub mod ext;
pub mod signature;
pub mod tree;
pub mod volume;
mod window;

use crate::block::BlockError;
use signature::Content;

/// What a path names, without following a last symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Regular file and its length in bytes.
    File(u64),
    /// Directory.
    Directory,
    /// Symbolic link and its target.
    Symlink(String),
    /// Device, socket or pipe.
    Special,
}

/// A file system that can be read. Paths are absolute within it, `/`-separated, and have no
/// symbolic link in any component but the last.
pub trait FileSystem {
    /// What the path names; `None` if it does not exist.
    fn node(&self, path: &str) -> Result<Option<Node>, FsError>;
    /// Names in a directory, without `.` and `..`. Names that are not UTF-8 are left out:
    /// nothing that a boot loader or kernel needs is named so.
    fn list(&self, path: &str) -> Result<Vec<String>, FsError>;
    /// The whole content of a regular file.
    fn read(&self, path: &str) -> Result<Vec<u8>, FsError>;
}

/// Why a file system, or a file on it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The disk below failed.
    #[error(transparent)]
    Read(#[from] BlockError),
    /// Recover has no reader for it.
    #[error("it holds {}, which recover cannot read", .0.in_words())]
    Unsupported(Content),
    /// An ext file system larger than its partition.
    #[error(
        "the image is truncated: the file system claims {claimed} bytes, its partition has {actual}"
    )]
    Truncated {
        /// Size by the superblock.
        claimed: u64,
        /// Size of the partition.
        actual: u64,
    },
    /// The reader refused what it found.
    #[error("{path}: {reason}")]
    Damaged {
        /// File or directory, or `/` for the file system as a whole.
        path: String,
        /// What the reader said.
        reason: String,
    },
    /// A path leads nowhere.
    #[error("{path}: not found")]
    NotFound {
        /// The path asked for.
        path: String,
    },
    /// The file is larger than any kernel, initramfs or configuration file.
    #[error("{path}: {size} bytes is more than recover reads into memory")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
    },
    /// Links that lead in a circle.
    #[error("{path}: too many symbolic links")]
    LinkLoop {
        /// The path asked for.
        path: String,
    },
}

impl FsError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Read(_) => {
                "check the connection to the vault and run `relevo-vault verify`".into()
            }
            Self::Unsupported(content) => content.remedy().into(),
            Self::Truncated { .. } => {
                "choose an older recovery point, and take a new backup of the whole disk".into()
            }
            Self::Damaged { .. } | Self::LinkLoop { .. } => {
                "choose an older recovery point, or restore the disk and run `fsck` on it".into()
            }
            Self::NotFound { .. } | Self::TooLarge { .. } => {
                "restore the disk with `relevo-recover restore` and look at the file there".into()
            }
        }
    }
}
