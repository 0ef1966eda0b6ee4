//! The file under an image.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::{Damage, Qcow2Error};
use super::header::Geometry;
use crate::disk::lock;

/// What holds an image's bytes. Offsets and lengths are in bytes.
pub trait Storage: Send + Sync {
    /// Present length.
    fn size(&self) -> io::Result<u64>;

    /// Reads up to the end; fewer bytes than asked for only there.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `data`, growing where needed.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when everything written before is durable.
    fn sync(&self) -> io::Result<()>;

    /// Says that the content of a range does not matter any more. A hint.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;
}

impl Storage for File {
    fn size(&self) -> io::Result<u64> {
        // The size of a block device is where its end is.
        (&*self).seek(SeekFrom::End(0))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let offset = i64::try_from(offset).map_err(invalid)?;
        let length = i64::try_from(length).map_err(invalid)?;
        // SAFETY: the file is open, and the call touches no memory of this process.
        let result = unsafe { libc::fallocate64(self.as_raw_fd(), mode, offset, length) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// What tells one file of the host from another: device and inode, or the device itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    File(u64, u64),
    Device(u64),
}

impl Identity {
    pub(super) fn of(facts: &Metadata) -> Self {
        if facts.file_type().is_block_device() {
            Self::Device(facts.rdev())
        } else {
            Self::File(facts.dev(), facts.ino())
        }
    }
}

/// Opens and locks a file, shared when it is only read. The lock ends with the file.
pub(super) fn open_locked(path: &Path, read_only: bool) -> Result<(File, Identity), Qcow2Error> {
    let failed = |source| Qcow2Error::Open {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        // A pipe must not make the open wait.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    if !facts.is_file() && !facts.file_type().is_block_device() {
        let path = path.to_owned();
        return Err(Qcow2Error::NotAFile { path });
    }
    if !lock::lock(&file, read_only).map_err(failed)? {
        let path = path.to_owned();
        return Err(Qcow2Error::InUse { path });
    }
    Ok((file, Identity::of(&facts)))
}

/// An image's storage, read and written by clusters and tables.
pub(super) struct ImageFile {
    storage: Box<dyn Storage>,
    /// Bytes of the file, as far as known.
    length: AtomicU64,
    pub(super) geometry: Geometry,
    /// Making data durable failed once. The kernel may have dropped what it could not write,
    /// so that no later success would mean anything.
    failed: AtomicBool,
}

impl ImageFile {
    pub(super) fn new(storage: Box<dyn Storage>, geometry: Geometry) -> io::Result<Self> {
        Ok(Self {
            length: AtomicU64::new(storage.size()?),
            storage,
            geometry,
            failed: AtomicBool::new(false),
        })
    }

    /// Checks that a cluster that a table points to begins in the file: an entry must not make
    /// it grow to any size.
    pub(super) fn check_present(&self, offset: u64) -> Result<(), Damage> {
        if offset >= self.length.load(Ordering::Relaxed) {
            let what = "data";
            return Err(Damage::Beyond { what, offset });
        }
        Ok(())
    }

    /// Reads guest data. A last cluster that the file ends in goes on with zeroes; clusters
    /// wholly beyond the end are damage.
    pub(super) fn read_data(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let count = self.storage.read_at(buffer, offset)?;
        if count == buffer.len() {
            return Ok(());
        }
        let last = offset + buffer.len() as u64 - 1;
        let last = last & !(self.geometry.cluster_size() - 1);
        self.check_present(last.max(offset))?;
        buffer[count..].fill(0);
        Ok(())
    }

    /// Reads as much of a table as `buffer` holds; all of it must be there.
    pub(super) fn read_table(
        &self,
        buffer: &mut [u8],
        offset: u64,
        what: &'static str,
    ) -> io::Result<()> {
        if self.storage.read_at(buffer, offset)? == buffer.len() {
            Ok(())
        } else {
            Err(Damage::Beyond { what, offset }.into())
        }
    }

    /// Reads a table that is a cluster.
    pub(super) fn read_cluster(&self, offset: u64, what: &'static str) -> io::Result<Box<[u8]>> {
        let mut bytes = vec![0; self.geometry.cluster_size() as usize];
        self.read_table(&mut bytes, offset, what)?;
        Ok(bytes.into())
    }

    /// Reads a table of `count` big-endian words.
    pub(super) fn read_words(
        &self,
        offset: u64,
        count: usize,
        what: &'static str,
    ) -> io::Result<Vec<u64>> {
        let end = offset.checked_add(count as u64 * 8);
        // Before memory is taken for it.
        if end.is_none_or(|end| end > self.length.load(Ordering::Relaxed)) {
            return Err(Damage::Beyond { what, offset }.into());
        }
        let mut bytes = vec![0; count * 8];
        self.read_table(&mut bytes, offset, what)?;
        Ok(words(&bytes).collect())
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check()?;
        self.storage.write_at(data, offset)?;
        let end = offset + data.len() as u64;
        self.length.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.check()?;
        self.storage.sync().inspect_err(|error| {
            tracing::error!(%error, "an image could not be made durable; it takes no more writes");
            self.failed.store(true, Ordering::Relaxed);
        })
    }

    pub(super) fn punch(&self, offset: u64, length: u64) {
        if let Err(error) = self.storage.punch(offset, length) {
            tracing::debug!(%error, offset, length, "freed clusters stay allocated on the host");
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(io::Error::other(
                "an earlier flush of this image failed; what it holds is unknown",
            ));
        }
        Ok(())
    }
}

/// The big-endian words of a table.
pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|word| u64::from_be_bytes(*word))
}
