//! Disks in the qcow2 format of QEMU, versions 2 and 3.
//!
//! Source of the format: `docs/interop/qcow2.txt` of QEMU; "section" in this module means one
//! there.
//!
//! Parts, from the outside in:
//! - [`Image`] is a disk: `read`, `write` and `clear` are its requests, `backing` its chain.
//! - `tables` maps the guest's clusters to the file's, with `entry` and a `cache` of tables;
//!   `refcounts` allocates; `overlap` knows where not to write; `compressed` decompresses.
//! - `header` and `snapshots` read what stands apart from the tables; `storage` is the file.
//!
//! Invariants:
//! - Whatever moment a crash comes at, what a finished [`Image::flush`] covered is there, and the
//!   image needs no repair; clusters may be leaked (`tables` tells the order of writing).
//! - Nothing is written over the image's structures, whatever its tables say.
//! - A damaged table fails the requests that need it, with the damage in the error; memory and
//!   time do not depend on what an image claims to be.
//!
//! Not done: encryption, external data files, extended L2 entries (all refused by name), bitmaps
//! (invalidated by opening the image for writing, as the format asks), resizing.

mod backend;
mod backing;
mod cache;
mod clear;
mod compressed;
mod entry;
mod error;
mod header;
mod overlap;
mod read;
mod refcounts;
mod snapshots;
mod storage;
mod tables;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use self::backing::Backing;
use self::backing::Chain;
use self::compressed::Decompressed;
pub use self::error::{Damage, Qcow2Error};
pub use self::header::MAGIC;
use self::header::{AUTOCLEAR_FIELD, Compression, Geometry, Header};
pub use self::overlap::Role;
use self::overlap::Structures;
use self::refcounts::Refcounts;
use self::storage::ImageFile;
pub use self::storage::Storage;
use self::tables::Tables;

/// A qcow2 image as a disk, with the backing files it has.
///
/// Threads may use it at once. Reads, and writes to clusters that exist, run side by side; a
/// request that changes the tables runs alone.
pub struct Image {
    path: PathBuf,
    file: ImageFile,
    version: u32,
    size: u64,
    compression: Compression,
    backing: Option<Backing>,
    read_only: bool,
    /// Shared for as long as a request needs what the tables say to stay true.
    tables: RwLock<Tables>,
    decompressed: Mutex<Decompressed>,
}

impl Image {
    /// Opens the image at `path` and its chain of backing files, and locks all of them: the image
    /// against every other use unless `read_only`, the others against writers.
    ///
    /// Opening for writing refuses images whose reference counts or tables are known to be wrong,
    /// and drops bitmaps and what else the format wants dropped by those who do not keep it up.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, Qcow2Error> {
        Self::open_in(path, read_only, &mut Chain::default())
    }

    fn open_in(path: &Path, read_only: bool, chain: &mut Chain) -> Result<Self, Qcow2Error> {
        let file = Box::new(chain.open(path, read_only)?);
        let header = Header::read(&*file, path)?;
        chain.take(header.l1_entries as u64 * 8, path)?;
        let is_backing = chain.is_backing();
        let named = header.backing.as_ref();
        let backing = named.map(|named| chain.backing(path, named)).transpose()?;
        Self::build(path, file, &header, read_only, is_backing, backing)
    }

    /// An image in any storage, over this backing file whatever the header names; `path` is for
    /// messages.
    pub fn from_storage(
        storage: Box<dyn Storage>,
        path: &Path,
        read_only: bool,
        backing: Option<Backing>,
    ) -> Result<Self, Qcow2Error> {
        let header = Header::read(&*storage, path)?;
        Self::build(path, storage, &header, read_only, false, backing)
    }

    fn build(
        path: &Path,
        storage: Box<dyn Storage>,
        header: &Header,
        read_only: bool,
        is_backing: bool,
        backing: Option<Backing>,
    ) -> Result<Self, Qcow2Error> {
        if header.is_corrupt {
            if !read_only {
                let path = path.to_owned();
                return Err(Qcow2Error::Corrupt { path });
            }
            tracing::warn!(path = %path.display(), "the image is marked as corrupt");
        }
        if header.is_dirty && !read_only {
            let path = path.to_owned();
            return Err(Qcow2Error::Dirty { path });
        }
        let damaged = |source| Qcow2Error::Damaged {
            path: path.to_owned(),
            source,
        };
        let file = ImageFile::new(storage, header.geometry).map_err(damaged)?;
        let mut tables = Tables::read(&file, header, is_backing).map_err(damaged)?;
        if !read_only {
            let refcounts = structures(&file, header, &tables)
                .and_then(|structures| Refcounts::read(&file, header, structures))
                .map_err(damaged)?;
            tables.allow_writes(refcounts);
            clear_features(&file, header).map_err(|source| Qcow2Error::Open {
                path: path.to_owned(),
                source,
            })?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            version: header.version,
            size: header.size,
            compression: header.compression,
            backing,
            read_only,
            tables: RwLock::new(tables),
            decompressed: Mutex::default(),
        })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a cluster: what is allocated, discarded and zeroed as one.
    pub fn cluster_size(&self) -> u64 {
        self.file.geometry.cluster_size()
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Returns when everything that was written before is durable. After a failure all later
    /// flushes and writes fail: what is durable is then unknown.
    pub fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        if self.shared().is_clean() {
            return self.file.sync();
        }
        self.alone().commit(&self.file)
    }

    fn geometry(&self) -> Geometry {
        self.file.geometry
    }

    fn shared(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that a request lies on the disk.
    fn check_range(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a request beyond the end of the disk",
            )),
        }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!(path = %self.path.display(), %error, "the disk could not be flushed at the end");
        }
    }
}

/// Where the image's structures are, refcounts excepted.
fn structures(file: &ImageFile, header: &Header, tables: &Tables) -> io::Result<Structures> {
    let mut structures = Structures::new(header.geometry);
    if header.l1_entries > 0 {
        structures.claim(header.l1_offset, header.l1_entries as u64 * 8, Role::L1)?;
    }
    for entry in tables.l1() {
        match entry::l2_table(*entry, header.geometry)? {
            0 => {}
            table => structures.claim(table, 1, Role::L2)?,
        }
    }
    snapshots::claim(file, header, &mut structures)?;
    Ok(structures)
}

/// Clears the autoclear features: none of what they stand for is kept up here.
fn clear_features(file: &ImageFile, header: &Header) -> io::Result<()> {
    if header.autoclear == 0 {
        return Ok(());
    }
    file.write(&[0; 8], AUTOCLEAR_FIELD)?;
    file.sync()
}

#[cfg(test)]
mod testing;

#[cfg(test)]
#[path = "crash_test.rs"]
mod crash_test;
#[cfg(test)]
#[path = "hostile_test.rs"]
mod hostile_test;
#[cfg(test)]
#[path = "model_test.rs"]
mod model_test;
#[cfg(test)]
#[path = "qemu_test.rs"]
mod qemu_test;
