//! Why an image is not opened, and what damage fails a request.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::overlap::Role;
use crate::disk::lock;

/// Why an image could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// The system refused, or the file is too short for what its header says.
    #[error("cannot open {}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Another process has locked it.
    #[error("{} is used by another process", path.display())]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// A directory, a pipe, a character device.
    #[error("{} is neither a file nor a block device", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The magic number is missing.
    #[error("{} is no qcow2 image", path.display())]
    NotQcow2 {
        /// The file.
        path: PathBuf,
    },
    /// Something that exists but is not done here.
    #[error("{} uses {feature}, which is not supported", path.display())]
    Unsupported {
        /// The image.
        path: PathBuf,
        /// What it uses.
        feature: String,
    },
    /// A header field with a value that no sound image has.
    #[error("the header of {} is damaged: {reason}", path.display())]
    Malformed {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Tables that overlap or point nowhere.
    #[error("the tables of {} are damaged", path.display())]
    Damaged {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// The dirty bit: reference counts may be wrong, so nothing can be allocated.
    #[error("{} was not closed: its reference counts may be wrong", path.display())]
    Dirty {
        /// The image.
        path: PathBuf,
    },
    /// The corrupt bit.
    #[error("{} is marked as corrupt", path.display())]
    Corrupt {
        /// The image.
        path: PathBuf,
    },
    /// A backing file that is not named by a path.
    #[error("{} names its backing file as {name:?}, which is no path", path.display())]
    BackingName {
        /// The image.
        path: PathBuf,
        /// The name.
        name: OsString,
    },
    /// The image does not say what its backing file is, and that looks like qcow2.
    #[error("{} does not say in what format its backing file {} is", path.display(), backing.display())]
    BackingFormat {
        /// The image.
        path: PathBuf,
        /// Its backing file.
        backing: PathBuf,
    },
    /// A file that is its own backing file.
    #[error("{} is a backing file of itself", path.display())]
    Cycle {
        /// The file.
        path: PathBuf,
    },
    /// Too many backing files, or too much memory for their tables.
    #[error("the chain of backing files that leads to {} is too long", path.display())]
    Chain {
        /// The file that was too much.
        path: PathBuf,
    },
}

impl Qcow2Error {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Open { path, .. } => {
                format!("check that {} is whole and may be opened", path.display())
            }
            Self::InUse { path } => lock::remedy(path),
            Self::NotAFile { path } => format!("check that {} is the disk image", path.display()),
            Self::NotQcow2 { .. } => "give format=raw if it is a raw image".to_owned(),
            Self::Unsupported { path, .. } => format!(
                "make a plain image of it: qemu-img convert -O qcow2 {} NEW",
                path.display()
            ),
            Self::Malformed { .. } => "take a whole copy of the image".to_owned(),
            Self::Dirty { path } | Self::Corrupt { path } | Self::Damaged { path, .. } => format!(
                "keep a copy, then repair it: qemu-img check -r all {}",
                path.display()
            ),
            Self::BackingName { path, .. } => format!(
                "name a file: qemu-img rebase -u -b PATH -F FORMAT {}",
                path.display()
            ),
            Self::BackingFormat { path, backing } => format!(
                "if it is qcow2 indeed: qemu-img rebase -u -b {} -F qcow2 {}",
                backing.display(),
                path.display()
            ),
            Self::Cycle { path } => format!(
                "name the right backing file: qemu-img rebase -u -b PATH -F FORMAT {}",
                path.display()
            ),
            Self::Chain { path } => format!(
                "join the chain into one image: qemu-img convert -O qcow2 {} NEW",
                path.display()
            ),
        }
    }
}

/// Damage met while a request is served: that request fails, with this inside the
/// [`io::Error`] (of kind `InvalidData`).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Damage {
    /// A pointer leads past the end of the file.
    #[error("the {what} at {offset:#x} lies beyond the end of the image file")]
    Beyond {
        /// What it should be.
        what: &'static str,
        /// Where, in bytes of the file.
        offset: u64,
    },
    /// An entry that has reserved bits set or is not aligned to a cluster.
    #[error("{entry:#018x} is no valid {what}")]
    Entry {
        /// Of which table.
        what: &'static str,
        /// The entry.
        entry: u64,
    },
    /// A place that has two uses.
    #[error("the cluster at {offset:#x} is wanted as {wanted} but is {is}")]
    Overlap {
        /// Where, in bytes of the file.
        offset: u64,
        /// The new use.
        wanted: Role,
        /// The use it has.
        is: Role,
    },
    /// A cluster that is pointed to has a reference count of zero.
    #[error("the cluster at {offset:#x} is in use but counted as free")]
    CountedFree {
        /// Where, in bytes of the file.
        offset: u64,
    },
    /// A compressed cluster that cannot be decompressed.
    #[error("the compressed cluster at {offset:#x} cannot be decompressed")]
    Compressed {
        /// Where, in bytes of the file.
        offset: u64,
    },
    /// The list of snapshots.
    #[error("the list of snapshots is damaged or too long")]
    Snapshots,
}

impl From<Damage> for io::Error {
    fn from(damage: Damage) -> Self {
        Self::new(io::ErrorKind::InvalidData, damage)
    }
}
