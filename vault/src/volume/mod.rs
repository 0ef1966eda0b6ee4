//! Where pack files live. A trait, so that the store can be tried on a disk that fails.

mod disk;
#[cfg(test)]
pub(crate) mod simulated;

use std::fmt;
use std::io;

use relevo_wire::TenantId;

pub use disk::DiskVolume;

/// Names one pack file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    /// Whose.
    pub tenant: TenantId,
    /// Counts from 1 within the tenant.
    pub number: u32,
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08}.pack", self.tenant, self.number)
    }
}

/// A place for pack files. Bytes written are safe from a crash only after [`sync`](Self::sync),
/// a new file only after [`sync_directory`](Self::sync_directory) as well.
pub trait Volume: Send + Sync + 'static {
    /// All packs, in any order.
    fn list(&self) -> io::Result<Vec<PackId>>;
    /// Makes an empty pack, and its tenant's directory. An empty one that exists is fine.
    fn create(&self, pack: PackId) -> io::Result<()>;
    /// Writes all of `data` at `offset`. After an error any part of it may have been written.
    fn write_at(&self, pack: PackId, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Fills `buf` from `offset`; fewer bytes than asked only at the end of the file.
    fn read_at(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Length in bytes.
    fn length(&self, pack: PackId) -> io::Result<u64>;
    /// Cuts a pack to `length` bytes.
    fn truncate(&self, pack: PackId, length: u64) -> io::Result<()>;
    /// Makes what was written to the pack, and its length, durable.
    fn sync(&self, pack: PackId) -> io::Result<()>;
    /// Takes a pack away. Durable after [`sync_directory`](Self::sync_directory).
    fn remove(&self, pack: PackId) -> io::Result<()>;
    /// Makes the names of a tenant's packs durable.
    fn sync_directory(&self, tenant: TenantId) -> io::Result<()>;
}

/// As [`read_exact`], but sectors that cannot be read come as zeros; how many bytes did. An
/// error when none can be read, or when the pack is shorter.
pub fn read_salvaging<V: Volume + ?Sized>(
    volume: &V,
    pack: PackId,
    offset: u64,
    length: usize,
) -> io::Result<(bytes::Bytes, usize)> {
    let error = match read_exact(volume, pack, offset, length) {
        Ok(bytes) => return Ok((bytes, 0)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(error),
        Err(error) => error,
    };
    let mut salvaged = vec![0; length];
    let mut lost = 0;
    for (number, sector) in salvaged.chunks_mut(SECTOR).enumerate() {
        let at = offset + (number * SECTOR) as u64;
        if volume.read_at(pack, at, sector).is_err() {
            sector.fill(0);
            lost += sector.len();
        }
    }
    match lost == length {
        true => Err(error),
        false => Ok((salvaged.into(), lost)),
    }
}

/// What a disk fails to read at once.
const SECTOR: usize = 4096;

/// Reads exactly `length` bytes.
pub fn read_exact<V: Volume + ?Sized>(
    volume: &V,
    pack: PackId,
    offset: u64,
    length: usize,
) -> io::Result<bytes::Bytes> {
    let mut buf = vec![0; length];
    if volume.read_at(pack, offset, &mut buf)? < length {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the pack ends too early",
        ));
    }
    Ok(buf.into())
}
