//! What an overlay's bytes rest on: a file, or in tests one that forgets what was not synced.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::block::BlockError;

/// Bytes that can be written anywhere and made durable.
pub trait Medium: Send + Sync {
    /// Fills `buf`; beyond the end are zeros.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError>;
    /// Writes all of `data`. Not durable before [`sync`](Self::sync).
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), BlockError>;
    /// Makes every completed write durable.
    fn sync(&self) -> Result<(), BlockError>;
    /// Gives the range back; what it reads as afterwards is not said.
    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError>;
    /// Where content may be at or after `offset`, as start and end; none when there is none.
    fn next_content(&self, offset: u64) -> Result<Option<(u64, u64)>, BlockError>;
}

/// A medium that is trusted until a sync fails. The kernel drops what it could not write and
/// lets the next sync succeed (fsync(2)), so after a failure no sync may ever be believed again.
pub(super) struct Distrustful<M> {
    medium: M,
    lost: Mutex<Option<String>>,
}

impl<M> Distrustful<M> {
    pub(super) fn new(medium: M) -> Self {
        Self {
            medium,
            lost: Mutex::new(None),
        }
    }
}

impl<M: Medium> Medium for Distrustful<M> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.medium.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.medium.write_at(offset, data)
    }

    fn sync(&self) -> Result<(), BlockError> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &*lost {
            return Err(BlockError::Unavailable {
                offset: 0,
                reason: format!("an earlier write to the overlay was lost ({reason})"),
            });
        }
        let result = self.medium.sync();
        if let Err(error) = &result {
            *lost = Some(error.to_string());
        }
        result
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.medium.discard(offset, len)
    }

    fn next_content(&self, offset: u64) -> Result<Option<(u64, u64)>, BlockError> {
        self.medium.next_content(offset)
    }
}

/// A sparse file.
pub struct FileMedium {
    file: File,
    path: PathBuf,
}

impl FileMedium {
    /// Opens or makes it.
    pub fn open(path: &Path) -> Result<Self, BlockError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| BlockError::Io {
                path: path.to_path_buf(),
                source,
            })?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Makes it at least `size` bytes long, as a hole.
    pub fn reserve(&self, size: u64) -> Result<(), BlockError> {
        let length = self.file.metadata().map_err(|e| self.failed(e))?.len();
        if length < size {
            self.file.set_len(size).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// Takes the file for this process; false when another has it. Ends with the file.
    pub fn lock_exclusively(&self) -> Result<bool, BlockError> {
        match rustix::fs::flock(
            &self.file,
            rustix::fs::FlockOperation::NonBlockingLockExclusive,
        ) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(e) => Err(self.failed(e.into())),
        }
    }

    fn failed(&self, source: io::Error) -> BlockError {
        BlockError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

impl Medium for FileMedium {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => {
                    buf[done..].fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.file
            .write_all_at(data, offset)
            .map_err(|e| self.failed(e))
    }

    fn sync(&self) -> Result<(), BlockError> {
        self.file.sync_data().map_err(|e| self.failed(e))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        use rustix::fs::FallocateFlags;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, len) {
            // A file system without holes only loses the space.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(e) => Err(self.failed(e.into())),
        }
    }

    fn next_content(&self, offset: u64) -> Result<Option<(u64, u64)>, BlockError> {
        let seek = |at: u64, whence| {
            // SAFETY: lseek takes no pointers; the descriptor is open.
            let found = unsafe { libc::lseek(self.file.as_raw_fd(), at as libc::off_t, whence) };
            u64::try_from(found).map_err(|_| io::Error::last_os_error())
        };
        let start = match seek(offset, libc::SEEK_DATA) {
            Ok(start) => start,
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
            Err(e) => return Err(self.failed(e)),
        };
        let end = seek(start, libc::SEEK_HOLE).map_err(|e| self.failed(e))?;
        Ok(Some((start, end)))
    }
}
