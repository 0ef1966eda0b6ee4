//! Discarding, and writing zeroes without writing them.

use std::io;
use std::ops::Range;

use super::Image;
use super::entry::{COPIED, Mapping, ZERO};
use super::tables::Tables;

/// Zeroes that are written at once where the format has no other way.
const ZEROES: usize = 1 << 20;

/// What becomes of the clusters of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clearing {
    /// Their content does not matter any more.
    Discard,
    /// They read as zeroes, and are freed.
    Unmap,
    /// They read as zeroes, and stay allocated where they are.
    Keep,
}

impl Image {
    /// Frees the clusters that lie wholly in a range; they read as zeroes then, except where the
    /// format cannot say so (version 2 over a backing file): there nothing happens.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check_writable()?;
        self.check_range(offset, length)?;
        if self.backing.is_some() && self.version < 3 {
            return Ok(());
        }
        self.clear(self.whole_clusters(offset, length), Clearing::Discard)
    }

    /// Makes a range read as zeroes; with `unmap` its clusters may be freed.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.check_writable()?;
        self.check_range(offset, length)?;
        if self.backing.is_some() && self.version < 3 {
            return self.write_zeroes_by_hand(offset, length);
        }
        let clusters = self.whole_clusters(offset, length);
        let (bits, end) = (self.geometry().cluster_bits, offset + length);
        if clusters.is_empty() {
            return self.write_zeroes_by_hand(offset, length);
        }
        self.write_zeroes_by_hand(offset, (clusters.start << bits) - offset)?;
        let clearing = if unmap {
            Clearing::Unmap
        } else {
            Clearing::Keep
        };
        self.clear(clusters.clone(), clearing)?;
        let rest = end.saturating_sub(clusters.end << bits);
        self.write_zeroes_by_hand(end - rest, rest)
    }

    /// The clusters wholly in a range; the disk's last one also where it is incomplete.
    fn whole_clusters(&self, offset: u64, length: u64) -> Range<u64> {
        let (geometry, end) = (self.geometry(), offset + length);
        let end = if end == self.size {
            geometry.clusters(end)
        } else {
            end >> geometry.cluster_bits
        };
        geometry.clusters(offset)..end
    }

    fn write_zeroes_by_hand(&self, offset: u64, length: u64) -> io::Result<()> {
        let (size, end) = (self.cluster_size(), offset + length);
        let zeroes = vec![0; length.min(ZEROES as u64) as usize];
        let mut at = offset;
        while at < end {
            let next = (at - at % size + size).min(end);
            if self.is_zero(at)? {
                at = next;
                continue;
            }
            let count = (end - at).min(zeroes.len() as u64);
            self.write_at(&zeroes[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    /// Whether the tables say that the cluster around `at` is zeroes.
    fn is_zero(&self, at: u64) -> io::Result<bool> {
        let cluster = at >> self.geometry().cluster_bits;
        let entries = self.shared().entries(&self.file, cluster, 1)?;
        let entry = entries.first().copied().unwrap_or(0);
        Ok(
            match Mapping::decode(entry, self.geometry(), self.version)? {
                Mapping::Zero { .. } => true,
                Mapping::Unallocated => self.backing.is_none(),
                Mapping::Data { .. } | Mapping::Compressed { .. } => false,
            },
        )
    }

    fn clear(&self, mut clusters: Range<u64>, clearing: Clearing) -> io::Result<()> {
        while !clusters.is_empty() {
            let mut tables = self.alone();
            let (index, within) = tables.place(clusters.start);
            let count = self.geometry().l2_entries() - within as u64;
            let count = count.min(clusters.end - clusters.start);
            // Where nothing is mapped, only zeroes over a backing file need a table.
            let over_backing = clearing != Clearing::Discard && self.backing.is_some();
            if tables.has_table(clusters.start)? || over_backing {
                self.clear_in_table(&mut tables, index, clusters.start, count, clearing)?;
            }
            clusters.start += count;
        }
        Ok(())
    }

    fn clear_in_table(
        &self,
        tables: &mut Tables,
        index: usize,
        first: u64,
        count: u64,
        clearing: Clearing,
    ) -> io::Result<()> {
        let (mut changes, mut gone) = (Vec::new(), Vec::new());
        let (_, within) = tables.place(first);
        let entries = tables.entries(&self.file, first, count)?;
        for (within, entry) in (within..).zip(entries) {
            let old = Mapping::decode(entry, self.geometry(), self.version)?;
            let Some(new) = self.cleared(old, clearing) else {
                continue;
            };
            if new & COPIED == 0 {
                self.check_references(tables, old)?;
                gone.push(old.references(self.geometry()));
            }
            changes.push((within, new));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let table = tables.own_table(&self.file, index)?;
        tables.set(table, changes)?;
        for references in gone {
            tables.refcounts()?.unreference(references);
        }
        Ok(())
    }

    /// The entry that a cluster gets, `None` for the one it has.
    fn cleared(&self, old: Mapping, clearing: Clearing) -> Option<u64> {
        let zero = if self.backing.is_some() { ZERO } else { 0 };
        match (old, clearing) {
            (Mapping::Unallocated, Clearing::Discard) => None,
            (Mapping::Unallocated, _) => (zero != 0).then_some(zero),
            (Mapping::Zero { host: None, .. }, _) | (Mapping::Zero { .. }, Clearing::Keep) => None,
            (Mapping::Data { host, copied: true }, Clearing::Keep) if self.version >= 3 => {
                Some(host | COPIED | ZERO)
            }
            (Mapping::Zero { .. } | Mapping::Data { .. } | Mapping::Compressed { .. }, _) => {
                Some(zero)
            }
        }
    }
}
