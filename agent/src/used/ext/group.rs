//! Block groups: descriptors and bitmaps.

use super::super::checksum::{crc16, crc32c};
use super::super::map::{FreeRuns, coalesce};
use super::super::volume::Volume;
use super::super::whole::{Seen, Whole, demand, le16, le32};
use super::damaged;
use super::journal::Journal;
use super::superblock::{Guard, Superblock};

/// The group's bitmap was never written: only its own metadata are in use.
const UNWRITTEN: u16 = 2;
/// Runs of metadata that are kept unsorted: 1 MiB.
const CROWDED: usize = 65_536;

/// All groups of a file system, one after the other.
pub struct Groups<'a> {
    volume: &'a Volume<'a>,
    superblock: &'a Superblock,
    journal: &'a Journal,
    /// A block of descriptors, and its number.
    descriptors: Option<(u64, Vec<u8>)>,
    bitmap: Vec<u8>,
    /// Runs of blocks that hold metadata, whatever bitmaps say: first and end.
    pub metadata: Vec<(u64, u64)>,
    /// How many of these are too many to be left unsorted.
    crowded: usize,
}

/// A group's descriptor.
struct Descriptor {
    bitmap: u64,
    inode_bitmap: u64,
    inodes: u64,
    free: u64,
    flags: u16,
    /// Of the bitmap, and the bits of it that are kept.
    checksum: (u32, u32),
}

impl<'a> Groups<'a> {
    /// Over a file system.
    pub fn new(volume: &'a Volume<'a>, superblock: &'a Superblock, journal: &'a Journal) -> Self {
        Self {
            volume,
            superblock,
            journal,
            descriptors: None,
            bitmap: vec![0; superblock.block as usize],
            metadata: vec![(0, superblock.first + 1)],
            crowded: CROWDED,
        }
    }

    /// Frees blocks of a group, counted in blocks of the file system.
    pub fn survey(&mut self, group: u64, free: &mut FreeRuns) -> Seen<()> {
        let s = self.superblock;
        let descriptor = self.descriptor(group)?;
        let (start, end) = (s.group_start(group), s.group_end(group));
        self.keep(start, s.head_blocks(group))?;
        self.keep(descriptor.bitmap, 1)?;
        self.keep(descriptor.inode_bitmap, 1)?;
        let table = (s.inodes_per_group * s.inode).div_ceil(s.block);
        self.keep(descriptor.inodes, table)?;
        let copies = self.journal.copies(descriptor.bitmap);
        let unwritten = s.guard != Guard::None && descriptor.flags & UNWRITTEN != 0;
        let bits = (end - start).div_ceil(s.ratio);
        if unwritten {
            self.bitmap.fill(0);
        } else {
            let at = descriptor.bitmap * s.block;
            self.volume.read_at(at, &mut self.bitmap)?;
            // With copies in the journal the one at home may be of any time.
            if copies.is_empty() {
                self.check(&descriptor, bits)?;
            }
        }
        for copy in copies {
            let copy = self.journal.block(self.volume, s, copy)?;
            for (byte, other) in self.bitmap.iter_mut().zip(copy) {
                *byte |= other;
            }
        }
        for (from, to) in clear_runs(&self.bitmap, bits) {
            let from = start + from * s.ratio;
            free.push(from, (start + to * s.ratio).min(end));
        }
        Ok(())
    }

    fn keep(&mut self, first: u64, count: u64) -> Seen<()> {
        let end = first
            .checked_add(count)
            .filter(|end| *end <= self.superblock.blocks);
        let end = match end {
            Some(end) => end,
            // The last group may be shorter than what its head could hold.
            None if first < self.superblock.blocks && count > 1 => self.superblock.blocks,
            None => return Err(damaged()),
        };
        match self.metadata.last_mut() {
            Some(last) if last.1 == first => last.1 = end,
            _ if first < end => self.metadata.push((first, end)),
            _ => {}
        }
        // Groups share places for their metadata, so that little is left of many runs.
        if self.metadata.len() >= self.crowded {
            coalesce(&mut self.metadata);
            self.crowded = (2 * self.metadata.len()).max(CROWDED);
        }
        Ok(())
    }

    fn check(&self, descriptor: &Descriptor, bits: u64) -> Seen<()> {
        let s = self.superblock;
        if let Guard::All(seed) = s.guard {
            let (sum, kept) = descriptor.checksum;
            let guarded = (s.per_group / s.ratio / 8) as usize;
            let found = crc32c(seed, &self.bitmap[..guarded]);
            return demand(found & kept == sum, "a block bitmap has a wrong checksum");
        }
        let clear: u64 = clear_runs(&self.bitmap, bits)
            .map(|(from, to)| to - from)
            .sum();
        demand(
            clear == descriptor.free,
            "a block bitmap and its group's count of free blocks differ",
        )
    }

    fn descriptor(&mut self, group: u64) -> Seen<Descriptor> {
        let s = self.superblock;
        let number = group / s.descriptors_per_block();
        if self
            .descriptors
            .as_ref()
            .is_none_or(|(kept, _)| *kept != number)
        {
            let at = s
                .descriptor_block(number)
                .checked_mul(s.block)
                .ok_or_else(damaged)?;
            let block = self.volume.bytes(at, s.block as usize)?;
            self.descriptors = Some((number, block));
        }
        let block = self
            .descriptors
            .as_ref()
            .map_or(&[][..], |(_, block)| block);
        let at = (group % s.descriptors_per_block()) as usize * s.descriptor;
        let bytes = block.get(at..at + s.descriptor).ok_or_else(damaged)?;
        demand(
            checksum_holds(s.guard, group, bytes),
            "a group's descriptor has a wrong checksum",
        )?;
        let wide = bytes.len() >= 64;
        let high = |at| {
            if wide {
                u64::from(le32(bytes, at)) << 32
            } else {
                0
            }
        };
        let upper = |at| {
            if wide {
                u32::from(le16(bytes, at)) << 16
            } else {
                0
            }
        };
        let found = Descriptor {
            bitmap: u64::from(le32(bytes, 0)) | high(0x20),
            inode_bitmap: u64::from(le32(bytes, 4)) | high(0x24),
            inodes: u64::from(le32(bytes, 8)) | high(0x28),
            free: u64::from(u32::from(le16(bytes, 0xc)) | upper(0x2c)),
            flags: le16(bytes, 0x12),
            checksum: (
                u32::from(le16(bytes, 0x18)) | upper(0x38),
                if wide { !0 } else { 0xffff },
            ),
        };
        let possible = s.first..s.blocks;
        let places = [found.bitmap, found.inode_bitmap, found.inodes];
        if places.iter().all(|at| *at > 0 && possible.contains(at)) {
            Ok(found)
        } else {
            Err(Whole::new(
                "a group's descriptor points beyond the file system",
            ))
        }
    }
}

/// First block of the first group's inodes.
pub fn inode_table(volume: &Volume<'_>, superblock: &Superblock) -> Seen<u64> {
    let none = Journal::default();
    let mut groups = Groups::new(volume, superblock, &none);
    groups.descriptor(0).map(|descriptor| descriptor.inodes)
}

fn checksum_holds(guard: Guard, group: u64, descriptor: &[u8]) -> bool {
    let number = (group as u32).to_le_bytes();
    let (before, after) = (&descriptor[..0x1e], &descriptor[0x20..]);
    let found = match guard {
        Guard::None => return true,
        Guard::Descriptors(uuid) => crc16(crc16(crc16(uuid, &number), before), after),
        Guard::All(seed) => {
            let sum = crc32c(crc32c(seed, &number), before);
            crc32c(crc32c(sum, &[0, 0]), after) as u16
        }
    };
    found == le16(descriptor, 0x1e)
}

/// Runs of zeros among the first `bits` bits: first and end.
pub fn clear_runs(bitmap: &[u8], bits: u64) -> impl Iterator<Item = (u64, u64)> {
    let bits = bits.min(8 * bitmap.len() as u64);
    let next = move |from: u64, set: bool| {
        let mut at = from;
        while at < bits {
            let byte = bitmap[(at / 8) as usize];
            let byte = if set { byte } else { !byte };
            let rest = byte >> (at % 8);
            if rest != 0 {
                return (at + u64::from(rest.trailing_zeros())).min(bits);
            }
            at = (at / 8 + 1) * 8;
        }
        bits
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = next(at, false);
        at = next(start, true);
        (start < bits).then_some((start, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Guards the arithmetic of bits.
        #[test]
        fn clear_runs_are_the_clear_bits(
            bytes in proptest::collection::vec(prop_oneof![Just(0), Just(255), any::<u8>()], 0..40),
            less in 0u64..20,
        ) {
            let bits = (8 * bytes.len() as u64).saturating_sub(less);
            let clear = |at: &u64| bytes[(*at / 8) as usize] >> (at % 8) & 1 == 0;
            let expected: Vec<_> = (0..bits).filter(clear).collect();
            let found: Vec<_> = clear_runs(&bytes, bits).flat_map(|(a, b)| a..b).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
