//! The disks of a running machine, served from a recovery point and an overlay.
//!
//! * [`vhost_user`]: vhost-user-blk, for a VMM on this host.
//! * [`nbd`]: the network block device protocol, for everybody else.
//! * [`process`]: the process behind one running machine.
//! * `request`: what one request of a guest means.
//! * [`workers`]: requests in flight side by side, since each may wait for the vault.

pub mod nbd;
pub mod process;
mod request;
pub mod vhost_user;
pub mod workers;

use std::sync::Arc;

use crate::block::{BlockError, BlockRead, BlockWrite};

/// A disk to be served: written or not.
#[derive(Clone)]
pub enum ServedDisk {
    /// Writes are refused.
    ReadOnly(Arc<dyn BlockRead>),
    /// Writes go through.
    Writable(Arc<dyn BlockWrite>),
}

impl ServedDisk {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::ReadOnly(disk) => disk.size(),
            Self::Writable(disk) => disk.size(),
        }
    }

    /// Reads.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        match self {
            Self::ReadOnly(disk) => disk.read_at(offset, buf),
            Self::Writable(disk) => disk.read_at(offset, buf),
        }
    }

    /// The disk for writing, unless it is read-only.
    pub fn writable(&self) -> Option<&dyn BlockWrite> {
        match self {
            Self::ReadOnly(_) => None,
            Self::Writable(disk) => Some(disk.as_ref()),
        }
    }
}
