//! Tables in memory, at most so many of them: those changed stay until they are written.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::header::Geometry;

struct Cached {
    bytes: Box<[u8]>,
    /// Used since the hand last came by.
    is_recent: bool,
}

/// Tables of one cluster each, by their offset in the file. Clean ones go when room is needed,
/// roughly those unused for longest first ("second chance").
pub(super) struct TableCache {
    tables: HashMap<u64, Cached>,
    order: VecDeque<u64>,
    dirty: BTreeSet<u64>,
    capacity: usize,
}

impl TableCache {
    /// With room for about `bytes`, at least for a few tables.
    pub(super) fn new(bytes: u64, geometry: Geometry) -> Self {
        Self {
            tables: HashMap::new(),
            order: VecDeque::new(),
            dirty: BTreeSet::new(),
            capacity: (bytes / geometry.cluster_size()).clamp(8, 8192) as usize,
        }
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        self.tables.contains_key(&offset)
    }

    pub(super) fn get(&mut self, offset: u64) -> Option<&[u8]> {
        let cached = self.tables.get_mut(&offset)?;
        cached.is_recent = true;
        Some(&cached.bytes)
    }

    /// The table to be changed; it counts as changed from now on.
    pub(super) fn get_mut(&mut self, offset: u64) -> Option<&mut [u8]> {
        let cached = self.tables.get_mut(&offset)?;
        cached.is_recent = true;
        self.dirty.insert(offset);
        Some(&mut cached.bytes)
    }

    /// Takes in a table as it is in the file.
    pub(super) fn insert(&mut self, offset: u64, bytes: Box<[u8]>) {
        let is_recent = true;
        let cached = Cached { bytes, is_recent };
        if self.tables.insert(offset, cached).is_none() {
            self.order.push_back(offset);
        }
        self.dirty.remove(&offset);
        if self.tables.len() > self.capacity {
            self.evict(offset);
        }
    }

    /// Takes in a table that the file does not have.
    pub(super) fn insert_dirty(&mut self, offset: u64, bytes: Box<[u8]>) {
        self.insert(offset, bytes);
        self.dirty.insert(offset);
    }

    fn evict(&mut self, keep: u64) {
        for _ in 0..2 * self.order.len() {
            let Some(offset) = self.order.pop_front() else {
                return;
            };
            let Some(cached) = self.tables.get_mut(&offset) else {
                continue;
            };
            if offset != keep && !cached.is_recent && !self.dirty.contains(&offset) {
                self.tables.remove(&offset);
                return;
            }
            cached.is_recent = false;
            self.order.push_back(offset);
        }
    }

    /// True when so many tables were changed that they must be written before more are.
    pub(super) fn is_crowded(&self) -> bool {
        self.dirty.len() >= self.capacity / 2
    }

    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Hands each changed table to `write`, in the file's order; it is clean when that worked.
    pub(super) fn write_dirty<E>(
        &mut self,
        mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(offset) = self.dirty.first().copied() {
            if let Some(cached) = self.tables.get(&offset) {
                write(offset, &cached.bytes)?;
            }
            self.dirty.remove(&offset);
        }
        Ok(())
    }
}
