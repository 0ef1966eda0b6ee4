//! Why no plan can be made, and what to do.

use std::path::PathBuf;

use crate::block::BlockError;
use crate::disk_layout::LayoutError;
use crate::filesystem::FsError;
use crate::filesystem::signature::Content;

/// Why a server cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No disk was given.
    #[error("the recovery point has no disk")]
    NoDisks,
    /// A disk failed while it was read.
    #[error(transparent)]
    Read(#[from] BlockError),
    /// The disk that should have the system has no usable table.
    #[error("disk {disk}: {source}")]
    Layout {
        /// Name of the disk.
        disk: String,
        /// What is wrong.
        source: LayoutError,
    },
    /// A file system that was opened failed later.
    #[error("reading the system: {0}")]
    FileSystem(#[from] FsError),
    /// No volume holds a system that can be read.
    #[error("no Linux system was found: {}", .seen.join("; "))]
    NoSystem {
        /// Every volume and why it is not the one.
        seen: Vec<String>,
        /// What most likely holds the system.
        likely: Content,
    },
    /// There is no kernel in the image, and none of the site's.
    #[error("the image has no kernel that can be booted: {reason}")]
    NoKernel {
        /// What was looked for.
        reason: String,
    },
    /// The image's kernel cannot run on this host, and no other was given.
    #[error("the image's own kernel cannot be used: {reason}")]
    SiteKernelNeeded {
        /// Why not.
        reason: String,
        /// Whether insisting on the image's kernel could work.
        can_be_forced: bool,
    },
    /// The site kernel is not a file.
    #[error("the site kernel {path} is not there: {reason}")]
    NoSiteKernel {
        /// Path as given.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// An address that the shim cannot set.
    #[error("static address {address}: {reason}")]
    BadAddress {
        /// As given.
        address: String,
        /// Why not.
        reason: String,
    },
}

impl PlanError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoDisks => "choose another recovery point: `relevo-recover list`".into(),
            Self::Read(_) => "check the connection to the vault and run `relevo-vault verify`".into(),
            Self::Layout { source, .. } => source.remedy().into(),
            Self::FileSystem(source) => source.remedy(),
            Self::NoSystem { likely, .. } => likely.remedy().into(),
            Self::NoKernel { .. } => "give a site kernel with virtio and ext4 built in".into(),
            Self::SiteKernelNeeded { can_be_forced: true, .. } => {
                "give a site kernel with virtio and ext4 built in (--site-kernel FILE), or insist on the image's own (--image-kernel) and expect a start of minutes".into()
            }
            Self::SiteKernelNeeded { .. } => "give a site kernel with virtio and ext4 built in".into(),
            Self::NoSiteKernel { .. } => "check the path of the site kernel".into(),
            Self::BadAddress { .. } => "write it as 192.0.2.5/24, with an IPv4 gateway".into(),
        }
    }
}
