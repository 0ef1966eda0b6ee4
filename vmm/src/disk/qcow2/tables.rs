//! The L1 table and the L2 tables (section "Cluster mapping"), and the order in which changes
//! reach the file.
//!
//! [`Tables::commit`] makes a change durable step by step, each step before the next: data and
//! reference counts, L2 tables, L1 table, lowered counts. Whenever it is cut off, everything that
//! the file's tables refer to is there and counted; at worst some clusters are counted that
//! nothing refers to.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cache::TableCache;
use super::entry::{COPIED, l2_table};
use super::header::{Geometry, Header};
use super::overlap::Role;
use super::refcounts::Refcounts;
use super::storage::{ImageFile, words};

/// Bytes of L2 tables kept in memory for the disk itself: with clusters of 64 KiB they map 256 GiB.
const CACHE_BYTES: u64 = 32 << 20;
/// The same for each backing file.
const BACKING_CACHE_BYTES: u64 = 4 << 20;

const L2: &str = "L2 table";

pub(super) struct Tables {
    geometry: Geometry,
    l1_offset: u64,
    l1: Vec<u64>,
    dirty_l1: BTreeSet<usize>,
    /// Under a lock of its own: those who only look things up share the tables, and fill this.
    l2: Mutex<TableCache>,
    /// `None` for an image that is only read.
    refcounts: Option<Refcounts>,
    /// Rises when clusters are freed: what is at a place of the file may be something else then.
    generation: u64,
}

impl Tables {
    pub(super) fn read(file: &ImageFile, header: &Header, is_backing: bool) -> io::Result<Self> {
        let bytes = if is_backing {
            BACKING_CACHE_BYTES
        } else {
            CACHE_BYTES
        };
        Ok(Self {
            geometry: header.geometry,
            l1_offset: header.l1_offset,
            l1: file.read_words(header.l1_offset, header.l1_entries, "L1 table")?,
            dirty_l1: BTreeSet::new(),
            l2: Mutex::new(TableCache::new(bytes, header.geometry)),
            refcounts: None,
            generation: 0,
        })
    }

    /// The entries of the L1 table.
    pub(super) fn l1(&self) -> &[u64] {
        &self.l1
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn allow_writes(&mut self, refcounts: Refcounts) {
        self.refcounts = Some(refcounts);
    }

    pub(super) fn refcounts(&mut self) -> io::Result<&mut Refcounts> {
        self.refcounts
            .as_mut()
            .ok_or_else(|| io::ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Checks that data may be written to a range of the file.
    pub(super) fn check_data(&self, offset: u64, length: u64) -> io::Result<()> {
        match &self.refcounts {
            Some(refcounts) => Ok(refcounts.structures.check(offset, length, Role::Data)?),
            None => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Where a guest cluster is mapped: index in the L1 table, index in the L2 table.
    pub(super) fn place(&self, cluster: u64) -> (usize, usize) {
        let entries = self.geometry.l2_entries();
        ((cluster / entries) as usize, (cluster % entries) as usize)
    }

    /// Whether the L2 table that maps this cluster exists.
    pub(super) fn has_table(&self, cluster: u64) -> io::Result<bool> {
        let entry = self.l1.get(self.place(cluster).0).copied().unwrap_or(0);
        Ok(l2_table(entry, self.geometry)? != 0)
    }

    /// The L2 entries of up to `count` guest clusters from `first` on: as many as one table has.
    pub(super) fn entries(&self, file: &ImageFile, first: u64, count: u64) -> io::Result<Vec<u64>> {
        let (index, within) = self.place(first);
        let count = count.min(self.geometry.l2_entries() - within as u64) as usize;
        let entry = self.l1.get(index).copied().unwrap_or(0);
        let offset = l2_table(entry, self.geometry)?;
        if offset == 0 {
            return Ok(vec![0; count]);
        }
        let mut l2 = locked(&self.l2);
        load(&mut l2, file, offset)?;
        let table = l2.get(offset).unwrap_or_default();
        Ok(words(table.get(within * 8..).unwrap_or_default())
            .take(count)
            .collect())
    }

    /// Makes sure that the L2 table with this L1 index exists and is referred to from here alone,
    /// so that it may be changed. Returns its offset.
    pub(super) fn own_table(&mut self, file: &ImageFile, index: usize) -> io::Result<u64> {
        if self.cache().is_crowded() || self.refcounts()?.is_crowded() {
            self.commit(file)?;
        }
        let entry = self.l1.get(index).copied();
        let entry = entry.ok_or(io::ErrorKind::InvalidInput)?;
        let old = l2_table(entry, self.geometry)?;
        let cluster = old >> self.geometry.cluster_bits;
        if old != 0 && (entry & COPIED != 0 || self.refcounts()?.count(file, cluster)? == 1) {
            load(self.cache(), file, old)?;
            return Ok(old);
        }
        let bytes = if old == 0 {
            vec![0; self.geometry.cluster_size() as usize].into()
        } else {
            file.read_cluster(old, L2)?
        };
        let refcounts = self.refcounts()?;
        let new = refcounts.allocate(file)?;
        refcounts.structures.claim(new, 1, Role::L2)?;
        self.cache().insert_dirty(new, bytes);
        self.l1[index] = new | COPIED;
        self.dirty_l1.insert(index);
        if old != 0 {
            self.refcounts()?.unreference((cluster, 1));
        }
        Ok(new)
    }

    /// Changes entries of an L2 table that [`own_table`](Self::own_table) returned last.
    pub(super) fn set(
        &mut self,
        table: u64,
        changes: impl IntoIterator<Item = (usize, u64)>,
    ) -> io::Result<()> {
        let lost = || io::Error::other("an L2 table was dropped while it was being changed");
        let table = self.cache().get_mut(table).ok_or_else(lost)?;
        for (within, entry) in changes {
            table[within * 8..][..8].copy_from_slice(&entry.to_be_bytes());
        }
        Ok(())
    }

    /// True when a flush has only data to make durable.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty_l1.is_empty()
            && self.refcounts.as_ref().is_none_or(Refcounts::is_clean)
            && locked(&self.l2).is_clean()
    }

    /// Makes everything durable.
    pub(super) fn commit(&mut self, file: &ImageFile) -> io::Result<()> {
        self.refcounts()?.commit(file)?;
        let l2 = self.l2.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !l2.is_clean() {
            l2.write_dirty(|offset, table| file.write(table, offset))?;
            file.sync()?;
        }
        if !self.dirty_l1.is_empty() {
            for index in &self.dirty_l1 {
                let at = self.l1_offset + *index as u64 * 8;
                file.write(&self.l1[*index].to_be_bytes(), at)?;
            }
            file.sync()?;
            self.dirty_l1.clear();
        }
        self.generation += 1;
        self.refcounts()?.settle(file)
    }

    fn cache(&mut self) -> &mut TableCache {
        self.l2.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(l2: &mut TableCache, file: &ImageFile, offset: u64) -> io::Result<()> {
    if !l2.contains(offset) {
        l2.insert(offset, file.read_cluster(offset, L2)?);
    }
    Ok(())
}

/// A lock whose holder panicked is still a lock: the tables are changed only by whole steps.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
