//! Which extents prove by their checksums that they are as they were.
//!
//! An extent is written once, before anything refers to it: what is written later goes elsewhere,
//! and the extent's room is given to another one only in a later generation. Exempt is data
//! without checksums, which is written in place: files with the attribute `C`, room that was
//! reserved and never written, swap files. So an extent of which every block has a checksum, and
//! that was allocated in the same generation as before, holds what it held. The blocks of trees,
//! of which two copies are kept and mended one from the other, are left out.

use std::mem;

use super::super::whole::{Seen, Whole, demand, le64};
use super::chunks::Chunks;
use super::superblock::Superblock;
use super::tree::{Key, Root, Trees};

/// The free-space tree, its validity, verity, and the tree of block groups.
const KNOWN_READ_ONLY: u64 = 0xf;
const EXTENT_ITEM: u8 = 168;
/// An extent item's flag: of files, not of trees.
const DATA: u64 = 1;
/// -10: all checksums stand under it.
const CHECKSUMS: u64 = u64::MAX - 9;
const CHECKSUM_ITEM: u8 = 128;
/// Bytes of a block's checksum.
const SUM: usize = 4;
/// Most bytes whose checksums stand in one item: those of a tree's largest block.
const LONGEST: u64 = 64 << 20;
/// Most extents of a chunk: 1 GiB in blocks of 4 KiB.
const MOST: usize = 1 << 18;

/// Takes an extent: its logical addresses, and what proves it.
pub type Tell<'t> = &'t mut dyn FnMut(u64, u64, &blake3::Hash);

struct Extent {
    start: u64,
    end: u64,
    generation: u64,
}

/// Tells of all extents of one generation that are proven.
pub fn extents(
    trees: &mut Trees<'_>,
    s: &Superblock,
    chunks: &Chunks,
    (extents, checksums): (Root, Root),
    tell: Tell<'_>,
) -> Seen<()> {
    demand(
        s.sector.is_power_of_two() && (512..=65_536).contains(&s.sector),
        "its blocks have a senseless size",
    )?;
    demand(
        s.read_only_features & !KNOWN_READ_ONLY == 0,
        "it has features that this release does not know",
    )?;
    for (start, end) in chunks.single_data() {
        let found = in_chunk(trees, extents, start, end)?;
        let mut proof = Proof {
            s,
            extents: &found,
            next: 0,
            sums: blake3::Hasher::new(),
            reached: None,
            last: 0,
            tell: &mut *tell,
        };
        let from = checksum_key(start.saturating_sub(LONGEST));
        trees.walk_range(checksums, from, checksum_key(end), &mut |key, item| {
            proof.take(key, item)
        })?;
    }
    Ok(())
}

fn checksum_key(offset: u64) -> Key {
    Key {
        object: CHECKSUMS,
        kind: CHECKSUM_ITEM,
        offset,
    }
}

/// The extents of a chunk.
fn in_chunk(trees: &mut Trees<'_>, root: Root, start: u64, end: u64) -> Seen<Vec<Extent>> {
    let key = |object| Key {
        object,
        kind: 0,
        offset: 0,
    };
    let mut found = Vec::new();
    trees.walk_range(root, key(start), key(end), &mut |key, item| {
        let within = key.object >= start && key.object < end;
        if within && key.kind == EXTENT_ITEM && le64(item, 16) & DATA != 0 {
            let stop = key.object.checked_add(key.offset).filter(|s| *s <= end);
            found.push(Extent {
                start: key.object,
                end: stop.ok_or(Whole::new("an extent reaches beyond its chunk"))?,
                generation: le64(item, 8),
            });
        }
        demand(found.len() <= MOST, "a chunk has too many extents")
    })?;
    Ok(found)
}

/// Joins extents with their checksums; both come in order.
struct Proof<'a> {
    s: &'a Superblock,
    extents: &'a [Extent],
    /// The extent whose checksums are awaited.
    next: usize,
    sums: blake3::Hasher,
    /// Where its checksums end so far; none when there were none yet.
    reached: Option<u64>,
    /// Where the last item's checksums ended.
    last: u64,
    tell: Tell<'a>,
}

impl Proof<'_> {
    fn take(&mut self, key: Key, item: &[u8]) -> Seen<()> {
        if (key.object, key.kind) != (CHECKSUMS, CHECKSUM_ITEM) {
            return Ok(());
        }
        let senseless = || Whole::new("the tree of checksums makes no sense");
        let start = key.offset;
        let length = (item.len() / SUM) as u64 * self.s.sector;
        let end = start.checked_add(length).ok_or_else(senseless)?;
        let sane = item.len().is_multiple_of(SUM)
            && start.is_multiple_of(self.s.sector)
            && length <= LONGEST;
        if !sane || start < self.last {
            return Err(senseless());
        }
        self.last = end;
        while let Some(extent) = self.extents.get(self.next) {
            if extent.start >= end {
                break;
            }
            let (from, to) = (extent.start.max(start), extent.end.min(end));
            if from < to && from == self.reached.unwrap_or(extent.start) {
                let sum = |at: u64| ((at - start) / self.s.sector) as usize * SUM;
                self.sums.update(&item[sum(from)..sum(to)]);
                self.reached = Some(to);
            }
            if extent.end > end {
                break;
            }
            self.finish(extent.start, extent.end, extent.generation);
        }
        Ok(())
    }

    /// Goes on to the next extent, and tells of this one when all its checksums were there.
    fn finish(&mut self, start: u64, end: u64, generation: u64) {
        let sums = mem::take(&mut self.sums);
        let reached = self.reached.take();
        self.next += 1;
        let whole = (end - start).is_multiple_of(self.s.sector) && reached == Some(end);
        if whole && generation <= self.s.generation {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.s.uuid);
            for number in [start, end, generation] {
                hasher.update(&number.to_le_bytes());
            }
            hasher.update(sums.finalize().as_bytes());
            (self.tell)(start, end, &hasher.finalize());
        }
    }
}
