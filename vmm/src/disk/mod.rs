//! Disks apart from the controllers that show them to the guest.
//!
//! A [`Backend`] is where the blocks are; a [`Disk`] is a back end with the rules every
//! controller must keep: whole sectors, nothing beyond the end, no write to what is
//! read-only. Controllers (virtio-blk, NVMe) hold a `Disk` and translate their commands.
//!
//! Invariants:
//! - No access that a guest asks for reaches a back end before it was checked.
//! - When the last user of a disk is gone, everything written is on stable storage, or the
//!   log says why not.

mod lock;
pub mod qcow2;
mod raw;

use std::io;
use std::path::{Path, PathBuf};

use crate::buffers::Buffers;

pub use raw::Raw;

/// Bytes in a sector, the unit of all offsets and sizes of a disk.
pub const SECTOR: u64 = 512;
/// Most bytes copied at once for a back end that knows nothing of guest memory.
const SCRATCH: usize = 1 << 20;

/// Where a disk's blocks are. Offsets and lengths are bytes, and always inside
/// [`Backend::size`]; several threads call at once.
pub trait Backend: Send + Sync {
    /// Size in bytes. It does not change.
    fn size(&self) -> u64;

    /// Fills `data` from `offset` on.
    fn read_at(&self, data: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes `data` from `offset` on.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Brings what was written before to stable storage.
    fn flush(&self) -> io::Result<()>;

    /// Says that nobody needs `len` bytes from `offset` on. A hint: being unable to free
    /// them is no error, and what they read as afterwards is open.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Lets `len` bytes from `offset` on read as zero; with `unmap` their space may be freed.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;

    /// Fills guest memory from `offset` on. A back end that can read into it directly does.
    fn read_to_guest(&self, buffers: &mut Buffers<'_>, offset: u64) -> io::Result<()> {
        in_pieces(buffers.len(), offset, |piece, at| {
            self.read_at(piece, at)?;
            buffers.write_from(piece);
            Ok(())
        })
    }

    /// Writes guest memory from `offset` on. A back end that can write from it directly does.
    fn write_from_guest(&self, buffers: &mut Buffers<'_>, offset: u64) -> io::Result<()> {
        in_pieces(buffers.len(), offset, |piece, at| {
            buffers.read_into(piece);
            self.write_at(piece, at)
        })
    }
}

fn in_pieces(
    len: usize,
    offset: u64,
    mut act: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut scratch = vec![0; len.min(SCRATCH)];
    let mut done = 0;
    while done < len {
        let count = scratch.len().min(len - done);
        act(&mut scratch[..count], offset + done as u64)?;
        done += count;
    }
    Ok(())
}

/// How a disk's blocks are kept in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One after the other.
    Raw,
    /// As QEMU does ([`qcow2`]).
    Qcow2,
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system refused.
    #[error("cannot open {}", path.display())]
    Open {
        /// The disk's path.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Somebody else has locked it.
    #[error("{} is used by another process", path.display())]
    InUse {
        /// The disk's path.
        path: PathBuf,
    },
    /// A disk that was not said to be qcow2 begins as one.
    #[error("{} begins like a qcow2 image, and is not said to be one", path.display())]
    LooksLikeQcow2 {
        /// The disk's path.
        path: PathBuf,
    },
    /// A qcow2 image, or one of its backing files.
    #[error(transparent)]
    Qcow2(#[from] qcow2::Qcow2Error),
    /// The disk holds not even one sector.
    #[error("{} is smaller than a sector of 512 bytes", path.display())]
    Empty {
        /// The disk's path.
        path: PathBuf,
    },
}

impl DiskError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Open { path, .. } => {
                format!("check that {} exists and may be opened", path.display())
            }
            Self::InUse { path } => lock::remedy(path),
            Self::LooksLikeQcow2 { .. } => {
                "give format=qcow2; or format=raw, if it is a disk whose \
                 guest keeps such an image on it"
                    .into()
            }
            Self::Qcow2(error) => error.remedy(),
            Self::Empty { path } => format!("check that {} is the disk image", path.display()),
        }
    }
}

/// Why a disk does not do what a guest asks for.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Not a multiple of [`SECTOR`].
    #[error("a length that is no multiple of a sector")]
    PartSector,
    /// Sectors that the disk does not have.
    #[error("sectors beyond the end of the disk")]
    BeyondEnd,
    /// The disk is read-only.
    #[error("a write to a read-only disk")]
    ReadOnly,
    /// The back end failed.
    #[error("disk I/O failed")]
    Io(#[from] io::Error),
}

/// A disk as controllers use it; several threads call at once.
pub struct Disk {
    backend: Box<dyn Backend>,
    path: PathBuf,
    sectors: u64,
    read_only: bool,
}

impl Disk {
    /// Opens the raw image or block device at `path`, and locks it against other virtual
    /// machines (shared when read-only). The lock ends with the disk.
    pub fn open_raw(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        Self::new(Box::new(Raw::open(path, read_only)?), path, read_only)
    }

    /// Opens the disk at `path`. Without a format it is raw: what a guest writes must never make
    /// the host open other files, so a disk that only looks like qcow2 is refused.
    pub fn open(path: &Path, read_only: bool, format: Option<Format>) -> Result<Self, DiskError> {
        match format {
            Some(Format::Qcow2) => {
                let image = qcow2::Image::open(path, read_only)?;
                Self::new(Box::new(image), path, read_only)
            }
            Some(Format::Raw) => Self::open_raw(path, read_only),
            None => {
                let disk = Self::open_raw(path, read_only)?;
                let mut first = [0; 4];
                disk.backend
                    .read_at(&mut first, 0)
                    .map_err(|source| DiskError::Open {
                        path: path.to_owned(),
                        source,
                    })?;
                match first == qcow2::MAGIC {
                    true => Err(DiskError::LooksLikeQcow2 {
                        path: path.to_owned(),
                    }),
                    false => Ok(disk),
                }
            }
        }
    }

    /// A disk whose blocks are in `backend`; `path` names it to the operator.
    pub fn new(backend: Box<dyn Backend>, path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let size = backend.size();
        let path = path.to_owned();
        if size < SECTOR {
            return Err(DiskError::Empty { path });
        }
        if !size.is_multiple_of(SECTOR) {
            tracing::warn!(path = %path.display(), size, "the disk's last sector is incomplete and left out");
        }
        Ok(Self {
            backend,
            path,
            sectors: size / SECTOR,
            read_only,
        })
    }

    /// Number of whole sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Fills `buffers` from `sector` on.
    pub fn read(&self, sector: u64, buffers: &mut Buffers<'_>) -> Result<(), AccessError> {
        let offset = self.extent(sector, buffers.len() as u64)?;
        Ok(self.backend.read_to_guest(buffers, offset)?)
    }

    /// Writes `buffers` from `sector` on.
    pub fn write(&self, sector: u64, buffers: &mut Buffers<'_>) -> Result<(), AccessError> {
        self.check_writable()?;
        let offset = self.extent(sector, buffers.len() as u64)?;
        Ok(self.backend.write_from_guest(buffers, offset)?)
    }

    /// Brings what was written before to stable storage.
    pub fn flush(&self) -> Result<(), AccessError> {
        Ok(self.backend.flush()?)
    }

    /// Says that nobody needs `sectors` from `sector` on.
    pub fn discard(&self, sector: u64, sectors: u64) -> Result<(), AccessError> {
        let (offset, len) = self.writable_range(sector, sectors)?;
        if len == 0 {
            return Ok(());
        }
        Ok(self.backend.discard(offset, len)?)
    }

    /// Lets `sectors` from `sector` on read as zero; with `unmap` their space may be freed.
    pub fn write_zeroes(&self, sector: u64, sectors: u64, unmap: bool) -> Result<(), AccessError> {
        let (offset, len) = self.writable_range(sector, sectors)?;
        if len == 0 {
            return Ok(());
        }
        Ok(self.backend.write_zeroes(offset, len, unmap)?)
    }

    /// Checks a range that is to be written or discarded, without doing it; returns its
    /// offset and length in bytes.
    pub fn writable_range(&self, sector: u64, sectors: u64) -> Result<(u64, u64), AccessError> {
        self.check_writable()?;
        let len = sectors.checked_mul(SECTOR).ok_or(AccessError::BeyondEnd)?;
        Ok((self.extent(sector, len)?, len))
    }

    /// Checks that `len` bytes from `sector` on lie on the disk; returns their offset.
    fn extent(&self, sector: u64, len: u64) -> Result<u64, AccessError> {
        if !len.is_multiple_of(SECTOR) {
            return Err(AccessError::PartSector);
        }
        let end = sector.checked_add(len / SECTOR);
        if end.is_none_or(|end| end > self.sectors) {
            return Err(AccessError::BeyondEnd);
        }
        Ok(sector * SECTOR)
    }

    fn check_writable(&self) -> Result<(), AccessError> {
        if self.read_only {
            return Err(AccessError::ReadOnly);
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.read_only
            && let Err(error) = self.backend.flush()
        {
            tracing::error!(path = %self.path.display(), %error, "the disk could not be flushed at the end");
        }
    }
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
