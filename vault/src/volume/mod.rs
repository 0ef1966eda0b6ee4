//! Where pack files and their parity live. A trait, so that the store can be tried on a disk
//! that fails.

mod disk;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;

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

/// What a file of the packs' directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A pack.
    Pack,
    /// Parity of a group of packs; the number is the group's.
    Parity,
    /// A pack that is being made anew from parity, until it is renamed.
    NewPack,
    /// Parity that is being written, until it is renamed.
    NewParity,
}

impl FileKind {
    const ALL: [Self; 4] = [Self::Pack, Self::Parity, Self::NewPack, Self::NewParity];

    fn suffix(self) -> &'static str {
        match self {
            Self::Pack => ".pack",
            Self::Parity => ".parity",
            Self::NewPack => ".pack.new",
            Self::NewParity => ".parity.new",
        }
    }
}

/// Names one file of the packs' directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Whose.
    pub tenant: TenantId,
    /// What it is.
    pub kind: FileKind,
    /// Counts from 1 within the tenant and the kind.
    pub number: u32,
}

impl FileId {
    /// The file of this name in a tenant's directory.
    fn of_name(tenant: TenantId, name: &str) -> Option<Self> {
        let (kind, digits) = FileKind::ALL
            .into_iter()
            .find_map(|kind| Some((kind, name.strip_suffix(kind.suffix())?)))?;
        let number = digits.parse().ok()?;
        Some(Self {
            tenant,
            kind,
            number,
        })
    }

    /// The pack, when it is one.
    pub fn pack(self) -> Option<PackId> {
        (self.kind == FileKind::Pack).then_some(PackId {
            tenant: self.tenant,
            number: self.number,
        })
    }
}

impl From<PackId> for FileId {
    fn from(pack: PackId) -> Self {
        Self {
            tenant: pack.tenant,
            kind: FileKind::Pack,
            number: pack.number,
        }
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = self.kind.suffix();
        write!(f, "{}/{:08}{suffix}", self.tenant, self.number)
    }
}

/// A place for pack files and their parity. Bytes written are safe from a crash only after
/// [`sync`](Self::sync), a new file or name only after [`sync_directory`](Self::sync_directory)
/// as well.
pub trait Volume: Send + Sync + 'static {
    /// All files, in any order.
    fn list_files(&self) -> io::Result<Vec<FileId>>;
    /// All packs, in any order.
    fn list(&self) -> io::Result<Vec<PackId>> {
        let files = self.list_files()?;
        Ok(files.into_iter().filter_map(FileId::pack).collect())
    }
    /// Makes an empty file, and its tenant's directory. An empty one that exists is fine.
    fn create(&self, file: impl Into<FileId>) -> io::Result<()>;
    /// Writes all of `data` at `offset`. After an error any part of it may have been written.
    fn write_at(&self, file: impl Into<FileId>, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Fills `buf` from `offset`; fewer bytes than asked only at the end of the file.
    fn read_at(&self, file: impl Into<FileId>, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Length in bytes.
    fn length(&self, file: impl Into<FileId>) -> io::Result<u64>;
    /// Cuts a file to `length` bytes.
    fn truncate(&self, file: impl Into<FileId>, length: u64) -> io::Result<()>;
    /// Makes what was written to the file, and its length, durable.
    fn sync(&self, file: impl Into<FileId>) -> io::Result<()>;
    /// Takes a file away. Durable after [`sync_directory`](Self::sync_directory).
    fn remove(&self, file: impl Into<FileId>) -> io::Result<()>;
    /// Gives a file another name of the same tenant, in the place of what has that name. A crash
    /// leaves the one or the other. Durable after [`sync_directory`](Self::sync_directory).
    fn rename(&self, from: impl Into<FileId>, to: impl Into<FileId>) -> io::Result<()>;
    /// Makes the names of a tenant's files durable.
    fn sync_directory(&self, tenant: TenantId) -> io::Result<()>;
    /// The next reads are to come from the disk: what memory holds of the file proves nothing
    /// of the disk, and others have better use for it.
    fn drop_cached(&self, _file: impl Into<FileId>) {}
}

/// As [`read_exact`], but sectors that cannot be read come as zeros; how many bytes did. An
/// error when none can be read, or when the pack is shorter.
pub fn read_salvaging<V: Volume + ?Sized>(
    volume: &V,
    file: impl Into<FileId>,
    offset: u64,
    length: usize,
) -> io::Result<(bytes::Bytes, usize)> {
    let file = file.into();
    let error = match read_exact(volume, file, offset, length) {
        Ok(bytes) => return Ok((bytes, 0)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(error),
        Err(error) => error,
    };
    let mut salvaged = vec![0; length];
    let lost = salvage(volume, file, offset, &mut salvaged, &[PAGE, SECTOR]);
    match lost == length {
        true => Err(error),
        false => Ok((salvaged.into(), lost)),
    }
}

/// What the kernel reads at once, and how file systems place files.
const PAGE: usize = 4096;
/// What a disk fails to read at once, at the least.
const SECTOR: usize = 512;

/// Reads in pieces that lie as the disk's do, and those that fail in smaller ones: what cannot
/// be read must take nothing along that can. How many bytes cannot.
fn salvage<V: Volume + ?Sized>(
    volume: &V,
    file: FileId,
    offset: u64,
    buf: &mut [u8],
    grains: &[usize],
) -> usize {
    let Some((&grain, finer)) = grains.split_first() else {
        buf.fill(0);
        return buf.len();
    };
    let (mut at, mut lost) = (0, 0);
    while at < buf.len() {
        let place = offset + at as u64;
        let to_boundary = grain - (place % grain as u64) as usize;
        let end = buf.len().min(at + to_boundary);
        let piece = &mut buf[at..end];
        if !matches!(volume.read_at(file, place, piece), Ok(read) if read == piece.len()) {
            lost += salvage(volume, file, place, piece, finer);
        }
        at = end;
    }
    lost
}

/// Reads exactly `length` bytes.
pub fn read_exact<V: Volume + ?Sized>(
    volume: &V,
    file: impl Into<FileId>,
    offset: u64,
    length: usize,
) -> io::Result<bytes::Bytes> {
    let mut buf = vec![0; length];
    if volume.read_at(file, offset, &mut buf)? < length {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file ends too early",
        ));
    }
    Ok(buf.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::simulated::SimulatedDisk;
    use super::*;

    /// Guards what stands beside an unreadable sector, wherever a read begins.
    #[test]
    fn an_unreadable_sector_takes_nothing_else_along() {
        let (disk, pack) = (
            SimulatedDisk::new(1),
            PackId {
                tenant: TenantId::random(),
                number: 1,
            },
        );
        let content: Vec<u8> = (0..20_000u32).map(|i| (i % 255) as u8 + 1).collect();
        disk.create(pack).unwrap();
        disk.write_at(pack, 0, &content).unwrap();
        disk.lose(pack, 9216..9728);
        for from in [0, 1, 5000, 8191, 9000] {
            let (bytes, lost) = read_salvaging(&disk, pack, from as u64, 10_000).unwrap();
            assert_eq!(lost, 512);
            let mut expected = content[from..from + 10_000].to_vec();
            expected[9216 - from..9728 - from].fill(0);
            assert!(bytes == expected, "read from {from}");
        }
        assert!(read_salvaging(&disk, pack, 9300, 100).is_err());
    }
}
