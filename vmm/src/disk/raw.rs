//! A raw image file, or a block device of this host.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use super::{Backend, DiskError, lock};
use crate::buffers::Buffers;

/// `BLKDISCARD` of `linux/fs.h`.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// A back end whose byte 0 is byte 0 of a file.
pub struct Raw {
    file: File,
    size: u64,
    is_device: bool,
}

impl Raw {
    /// Opens and locks the file at `path`.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(failed)?;
        if !lock::lock(&file, read_only).map_err(failed)? {
            let path = path.to_owned();
            return Err(DiskError::InUse { path });
        }
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let is_device = file
            .metadata()
            .map_err(failed)?
            .file_type()
            .is_block_device();
        Ok(Self {
            file,
            size,
            is_device,
        })
    }

    fn write_zeroes_by_hand(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let count = (end - at).min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        // SAFETY: the file is open, and the call touches no memory of this process. Offset
        // and length were checked against the file's size, which fits an off64_t.
        let result =
            unsafe { libc::fallocate64(self.file.as_raw_fd(), mode, offset as i64, len as i64) };
        outcome(result)
    }

    fn discard_device(&self, offset: u64, len: u64) -> io::Result<()> {
        let range = [offset, len];
        // SAFETY: the file is open, and the call reads the two numbers of `range` only.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
        outcome(result)
    }
}

fn outcome(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl Backend for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, data: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let result = if self.is_device {
            self.discard_device(offset, len)
        } else {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            self.fallocate(mode, offset, len)
        };
        match result {
            Err(error) if unsupported(&error) => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let mode = if unmap {
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE
        } else {
            libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE
        };
        match self.fallocate(mode, offset, len) {
            Err(error) if unsupported(&error) => self.write_zeroes_by_hand(offset, len),
            result => result,
        }
    }

    fn read_to_guest(&self, buffers: &mut Buffers<'_>, offset: u64) -> io::Result<()> {
        buffers.fill_from(&self.file, offset)
    }

    fn write_from_guest(&self, buffers: &mut Buffers<'_>, offset: u64) -> io::Result<()> {
        buffers.drain_to(&self.file, offset)
    }
}

fn unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL)
    )
}
