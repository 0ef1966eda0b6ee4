//! How recover reads and writes a disk, wherever its bytes come from: a recovery point in
//! the vault, a raw file, or an overlay above either.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Why a block of a disk could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The request lies outside the disk.
    #[error("offset {offset} + {len} bytes lies beyond the end of the disk ({size} bytes)")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        len: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// The file behind the disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The vault could not deliver the data (connection, missing or damaged chunk).
    #[error("disk data at offset {offset}: {reason}")]
    Unavailable {
        /// First byte that could not be had.
        offset: u64,
        /// Cause, in words.
        reason: String,
    },
}

/// A disk that can be read at any offset, from several threads at once.
pub trait BlockRead: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`. Any alignment; all of `buf` or an error.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError>;
}

/// A disk that can also be written. A write is durable once a later [`flush`](Self::flush) returned.
pub trait BlockWrite: BlockRead {
    /// Writes all of `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), BlockError>;

    /// Makes every completed write durable.
    fn flush(&self) -> Result<(), BlockError>;

    /// Says that `len` bytes from `offset` are no longer needed; they read as zeros afterwards.
    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError>;
}

/// Checks that a request lies inside a disk of `size` bytes.
pub fn check_range(offset: u64, len: u64, size: u64) -> Result<(), BlockError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(BlockError::OutOfRange { offset, len, size }),
    }
}

/// A disk in a raw file or block device, read only.
pub struct RawDisk {
    file: File,
    path: PathBuf,
    size: u64,
}

impl RawDisk {
    /// Opens `path`; the size of a device is found by seeking to its end.
    pub fn open(path: &Path) -> Result<Self, BlockError> {
        let fail = |source| BlockError::Io {
            path: path.to_path_buf(),
            source,
        };
        let mut file = File::open(path).map_err(fail)?;
        let size = io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(fail)?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            size,
        })
    }
}

impl BlockRead for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(offset, buf.len() as u64, self.size)?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|source| BlockError::Io {
                path: self.path.clone(),
                source,
            })
    }
}
