//! Reference counts and the allocation of clusters (section "Host cluster management").
//!
//! Counts may be too high in the file at any moment, never too low: raised counts are written
//! before anything refers to the cluster, and a count is lowered only when what referred to the
//! cluster is durably gone. Until then the cluster is in `unreferenced` and not given out again.

use std::collections::BTreeSet;
use std::io;

use super::cache::TableCache;
use super::error::Damage;
use super::header::{
    Geometry, Header, MAX_REFCOUNT_TABLE_BYTES, OFFSET_MASK, REFCOUNT_TABLE_FIELDS,
};
use super::overlap::{Role, Structures};
use super::storage::ImageFile;

/// Bytes of refcount blocks kept in memory.
const CACHE_BYTES: u64 = 8 << 20;
/// So many clusters may wait for their counts to be lowered.
const MAX_UNREFERENCED: usize = 1 << 16;

const BLOCK: &str = "refcount block";

pub(super) struct Refcounts {
    geometry: Geometry,
    /// Base-2 logarithm of a count's width in bits.
    order: u32,
    table: Vec<u64>,
    table_offset: u64,
    dirty_entries: BTreeSet<usize>,
    blocks: TableCache,
    /// No cluster before this one is free.
    next: u64,
    unreferenced: Vec<u64>,
    pub(super) structures: Structures,
}

impl Refcounts {
    /// Reads the refcount table and notes where counts are.
    pub(super) fn read(
        file: &ImageFile,
        header: &Header,
        mut structures: Structures,
    ) -> io::Result<Self> {
        let geometry = header.geometry;
        let bytes = header.refcount_table_clusters << geometry.cluster_bits;
        let table_offset = header.refcount_table_offset;
        structures.claim(table_offset, bytes, Role::RefcountTable)?;
        let table = file.read_words(table_offset, (bytes / 8) as usize, "refcount table")?;
        for entry in table.iter().copied().filter(|entry| *entry != 0) {
            if entry & !OFFSET_MASK != 0 || !geometry.is_aligned(entry) {
                let what = "refcount table entry";
                return Err(Damage::Entry { what, entry }.into());
            }
            structures.claim(entry, 1, Role::RefcountBlock)?;
        }
        Ok(Self {
            geometry,
            order: header.refcount_order,
            table,
            table_offset,
            dirty_entries: BTreeSet::new(),
            blocks: TableCache::new(CACHE_BYTES, geometry),
            next: 1,
            unreferenced: Vec::new(),
            structures,
        })
    }

    fn counts_per_block(&self) -> u64 {
        (self.geometry.cluster_size() * 8) >> self.order
    }

    fn place(&self, cluster: u64) -> (usize, usize) {
        let per_block = self.counts_per_block();
        let index = usize::try_from(cluster / per_block).unwrap_or(usize::MAX);
        (index, (cluster % per_block) as usize)
    }

    /// Makes sure that the block of this table entry is in memory; its offset, 0 for none.
    fn load(&mut self, file: &ImageFile, index: usize) -> io::Result<u64> {
        let offset = self.table.get(index).copied().unwrap_or(0);
        if offset != 0 && !self.blocks.contains(offset) {
            let bytes = file.read_cluster(offset, BLOCK)?;
            self.make_room(file)?;
            self.blocks.insert(offset, bytes);
        }
        Ok(offset)
    }

    fn make_room(&mut self, file: &ImageFile) -> io::Result<()> {
        if self.blocks.is_crowded() {
            self.write_blocks(file)?;
        }
        Ok(())
    }

    /// References of a cluster.
    pub(super) fn count(&mut self, file: &ImageFile, cluster: u64) -> io::Result<u64> {
        let (index, within) = self.place(cluster);
        let offset = self.load(file, index)?;
        let block = self.blocks.get(offset);
        Ok(block.map_or(0, |block| read_count(block, self.order, within)))
    }

    fn set(&mut self, file: &ImageFile, cluster: u64, count: u64) -> io::Result<()> {
        let (index, within) = self.place(cluster);
        self.make_room(file)?;
        let offset = self.load(file, index)?;
        match self.blocks.get_mut(offset) {
            Some(block) => write_count(block, self.order, within, count),
            None => {
                let offset = cluster << self.geometry.cluster_bits;
                return Err(Damage::CountedFree { offset }.into());
            }
        }
        if count == 0 {
            self.next = self.next.min(cluster);
        }
        Ok(())
    }

    /// A cluster that nothing refers to, with one reference now. Returns its offset.
    pub(super) fn allocate(&mut self, file: &ImageFile) -> io::Result<u64> {
        loop {
            let (index, within) = self.place(self.next);
            if index >= self.table.len() {
                self.grow(file)?;
                continue;
            }
            let here = self.next << self.geometry.cluster_bits;
            let block = self.load(file, index)?;
            if block == 0 {
                self.add_block(file, index, within, here)?;
                continue;
            }
            let (order, per_block) = (self.order, self.counts_per_block() as usize);
            let free = self.blocks.get(block).and_then(|block| {
                (within..per_block).find(|within| read_count(block, order, *within) == 0)
            });
            let Some(free) = free else {
                self.next += (per_block - within) as u64;
                continue;
            };
            let cluster = self.next + (free - within) as u64;
            let offset = cluster << self.geometry.cluster_bits;
            self.check_limit(offset)?;
            self.structures.check(offset, 1, Role::Data)?;
            self.next = cluster;
            self.set(file, cluster, 1)?;
            self.next = cluster + 1;
            return Ok(offset);
        }
    }

    fn check_limit(&self, offset: u64) -> io::Result<()> {
        if offset & !OFFSET_MASK != 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Makes the cluster `here`, which the missing block would count, that block.
    fn add_block(
        &mut self,
        file: &ImageFile,
        index: usize,
        within: usize,
        here: u64,
    ) -> io::Result<()> {
        self.check_limit(here)?;
        self.make_room(file)?;
        self.structures.claim(here, 1, Role::RefcountBlock)?;
        let mut block = vec![0; self.geometry.cluster_size() as usize];
        write_count(&mut block, self.order, within, 1);
        self.blocks.insert_dirty(here, block.into());
        self.table[index] = here;
        self.dirty_entries.insert(index);
        Ok(())
    }

    /// Replaces the refcount table by one of at least twice the size, behind everything that
    /// the old one could count. Durable when this returns.
    fn grow(&mut self, file: &ImageFile) -> io::Result<()> {
        let (geometry, per_block) = (self.geometry, self.counts_per_block());
        let first = self.table.len() as u64 * per_block;
        let clusters = (self.table.len() as u64 * 8 * 2) >> geometry.cluster_bits;
        let bytes = clusters << geometry.cluster_bits;
        let mut blocks = 1;
        while blocks * per_block < clusters + blocks {
            blocks += 1;
        }
        if bytes > MAX_REFCOUNT_TABLE_BYTES || self.table.len() as u64 + blocks > bytes / 8 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let end = first + clusters + blocks;
        self.check_limit(end << geometry.cluster_bits)?;
        let table_offset = first << geometry.cluster_bits;
        let added = (end - first) << geometry.cluster_bits;
        self.structures
            .check(table_offset, added, Role::RefcountTable)?;

        self.write_blocks(file)?;
        let mut table = self.table.clone();
        for block in 0..blocks {
            let mut bytes = vec![0; geometry.cluster_size() as usize];
            let counted = first + block * per_block;
            for cluster in counted..end.min(counted + per_block) {
                write_count(&mut bytes, self.order, (cluster - counted) as usize, 1);
            }
            let offset = (first + clusters + block) << geometry.cluster_bits;
            file.write(&bytes, offset)?;
            table.push(offset);
        }
        table.resize((bytes / 8) as usize, 0);
        let image: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        file.write(&image, table_offset)?;
        file.sync()?;
        let mut fields = [0; 12];
        fields[..8].copy_from_slice(&table_offset.to_be_bytes());
        fields[8..].copy_from_slice(&(clusters as u32).to_be_bytes());
        file.write(&fields, REFCOUNT_TABLE_FIELDS)?;
        file.sync()?;

        let old = self.table_offset >> geometry.cluster_bits;
        self.unreferenced.extend(old..old + clusters / 2);
        self.structures
            .claim(table_offset, bytes, Role::RefcountTable)?;
        let blocks_offset = table_offset + bytes;
        let blocks_bytes = blocks << geometry.cluster_bits;
        self.structures
            .claim(blocks_offset, blocks_bytes, Role::RefcountBlock)?;
        self.table = table;
        self.table_offset = table_offset;
        self.dirty_entries.clear();
        Ok(())
    }

    /// Takes back a cluster that was given out and that nothing ever referred to.
    pub(super) fn cancel(&mut self, file: &ImageFile, offset: u64) -> io::Result<()> {
        let cluster = offset >> self.geometry.cluster_bits;
        self.structures.release(cluster);
        self.set(file, cluster, 0)
    }

    /// Notes that one reference to each of these clusters goes with the tables' next writing.
    pub(super) fn unreference(&mut self, (first, count): (u64, u64)) {
        self.unreferenced.extend(first..first + count);
    }

    /// True when so many references are to be given up that the tables should be written.
    pub(super) fn is_crowded(&self) -> bool {
        self.unreferenced.len() >= MAX_UNREFERENCED
    }

    pub(super) fn is_clean(&self) -> bool {
        self.blocks.is_clean() && self.dirty_entries.is_empty() && self.unreferenced.is_empty()
    }

    /// Writes changed blocks. Harmless at any time, as the module says.
    pub(super) fn write_blocks(&mut self, file: &ImageFile) -> io::Result<()> {
        self.blocks
            .write_dirty(|offset, block| file.write(block, offset))
    }

    /// Makes all counts durable, and with them the data that was written before.
    pub(super) fn commit(&mut self, file: &ImageFile) -> io::Result<()> {
        self.write_blocks(file)?;
        file.sync()?;
        if self.dirty_entries.is_empty() {
            return Ok(());
        }
        // Blocks first: an entry must not lead to a block that is not there yet.
        for index in &self.dirty_entries {
            let at = self.table_offset + *index as u64 * 8;
            file.write(&self.table[*index].to_be_bytes(), at)?;
        }
        file.sync()?;
        self.dirty_entries.clear();
        Ok(())
    }

    /// Lowers the counts of the clusters that are durably not referred to any more, and gives
    /// those free to the host.
    pub(super) fn settle(&mut self, file: &ImageFile) -> io::Result<()> {
        let mut freed = Vec::new();
        while let Some(cluster) = self.unreferenced.last().copied() {
            match self.count(file, cluster)? {
                0 => tracing::warn!(cluster, "a cluster with no reference lost one"),
                1 => {
                    self.set(file, cluster, 0)?;
                    self.structures.release(cluster);
                    freed.push(cluster);
                }
                count => self.set(file, cluster, count - 1)?,
            }
            self.unreferenced.pop();
        }
        freed.sort_unstable();
        let bits = self.geometry.cluster_bits;
        for run in freed.chunk_by(|a, b| a + 1 == *b) {
            file.punch(run[0] << bits, (run.len() as u64) << bits);
        }
        self.write_blocks(file)
    }
}

fn read_count(block: &[u8], order: u32, index: usize) -> u64 {
    if order < 3 {
        let (bits, per_byte) = (1 << order, 8 >> order);
        let shifted = block[index / per_byte] >> ((index % per_byte) * bits);
        return u64::from(shifted) & ((1 << bits) - 1);
    }
    let width = 1 << (order - 3);
    block[index * width..][..width]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn write_count(block: &mut [u8], order: u32, index: usize, count: u64) {
    if order < 3 {
        let (bits, per_byte) = (1 << order, 8 >> order);
        let (byte, shift) = (&mut block[index / per_byte], (index % per_byte) * bits);
        let mask = ((1_u32 << bits) - 1) as u8;
        *byte = *byte & !(mask << shift) | (count as u8 & mask) << shift;
        return;
    }
    let width = 1 << (order - 3);
    block[index * width..][..width].copy_from_slice(&count.to_be_bytes()[8 - width..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the packing of every width: a count changes alone and reads as written.
    #[test]
    fn counts_of_every_width_stand_alone() {
        for order in 0..=6 {
            let mut block = vec![0; 512];
            let most = u64::MAX >> (64 - (1_u32 << order));
            let counts = (512 * 8) >> order;
            write_count(&mut block, order, 5, most);
            write_count(&mut block, order, counts - 1, 1);
            for index in 0..counts {
                let expected = match index {
                    5 => most,
                    _ if index == counts - 1 => 1,
                    _ => 0,
                };
                assert_eq!(
                    read_count(&block, order, index),
                    expected,
                    "{order} {index}"
                );
            }
            write_count(&mut block, order, 5, 0);
            assert_eq!(read_count(&block, order, 5), 0);
        }
        let mut block = vec![0; 512];
        write_count(&mut block, 4, 1, 0x0102);
        assert_eq!(block[2..4], [1, 2], "16 bits are big-endian");
    }
}
