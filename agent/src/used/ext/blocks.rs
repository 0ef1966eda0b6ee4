//! Where the blocks of the journal are: extents (ext4), or the older map of pointers.

use super::super::checksum::crc32c;
use super::super::volume::Volume;
use super::super::whole::{Seen, Whole, demand, le16, le32};
use super::damaged;
use super::superblock::{Guard, Superblock};

const EXTENTS: u32 = 0x8_0000;
/// Most runs of a journal: one is usual.
const MOST: usize = 65_536;

/// A run of blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First block in the file.
    pub logical: u64,
    /// First block in the file system.
    pub physical: u64,
    /// Blocks.
    pub length: u64,
}

/// All runs of the file that inode `number` of the first group describes, without gaps.
pub fn of_inode(volume: &Volume<'_>, s: &Superblock, table: u64, number: u64) -> Seen<Vec<Run>> {
    demand(
        (1..=s.inodes_per_group).contains(&number),
        "the journal's inode is not in the first group",
    )?;
    let at = table.checked_mul(s.block).ok_or_else(damaged)?;
    let inode = volume.bytes(at + (number - 1) * s.inode, s.inode as usize)?;
    let seed = match s.guard {
        Guard::All(seed) => Some(inode_seed(seed, number, &inode)?),
        _ => None,
    };
    let mut walk = Walk {
        volume,
        s,
        seed,
        runs: Vec::new(),
        left: (u64::from(le32(&inode, 4)) | u64::from(le32(&inode, 0x6c)) << 32).div_ceil(s.block),
    };
    let root = &inode[0x28..0x64];
    if le32(&inode, 0x20) & EXTENTS != 0 {
        walk.extents(root, None)?;
    } else {
        for slot in 0..15 {
            walk.pointer(le32(root, 4 * slot), slot.saturating_sub(11))?;
        }
    }
    demand(walk.left == 0, "the journal has holes")?;
    Ok(walk.runs)
}

/// Checks an inode and returns the seed of its extent blocks.
fn inode_seed(seed: u32, number: u64, inode: &[u8]) -> Seen<u32> {
    let own = crc32c(seed, &(number as u32).to_le_bytes());
    let own = crc32c(own, &inode[0x64..0x68]);
    let mut blank = inode.to_vec();
    blank[0x7c..0x7e].fill(0);
    let mut sum = u32::from(le16(inode, 0x7c));
    let mut kept = 0xffff;
    if inode.len() > 128 && le16(inode, 0x80) >= 4 {
        blank[0x82..0x84].fill(0);
        sum |= u32::from(le16(inode, 0x82)) << 16;
        kept = !0;
    }
    demand(
        crc32c(own, &blank) & kept == sum,
        "the journal's inode has a wrong checksum",
    )?;
    Ok(own)
}

struct Walk<'a> {
    volume: &'a Volume<'a>,
    s: &'a Superblock,
    seed: Option<u32>,
    runs: Vec<Run>,
    /// Blocks that are not found yet: each is found once, in order.
    left: u64,
}

impl Walk<'_> {
    fn add(&mut self, physical: u64, length: u64) -> Seen<()> {
        let end = physical.checked_add(length);
        demand(
            length <= self.left
                && physical > 0
                && end.is_some_and(|end| end <= self.s.blocks)
                && self.runs.len() < MOST,
            "the journal's blocks make no sense",
        )?;
        self.left -= length;
        match self.runs.last_mut() {
            Some(last) if last.physical + last.length == physical => last.length += length,
            last => {
                let logical = last.map_or(0, |last| last.logical + last.length);
                let run = Run {
                    logical,
                    physical,
                    length,
                };
                self.runs.push(run);
            }
        }
        Ok(())
    }

    fn found(&self) -> u64 {
        self.runs
            .last()
            .map_or(0, |last| last.logical + last.length)
    }

    /// A node of the tree of extents, of the depth that the one above leaves it.
    fn extents(&mut self, node: &[u8], depth: Option<u16>) -> Seen<()> {
        let (magic, entries, own) = (le16(node, 0), le16(node, 2), le16(node, 6));
        let sound = magic == 0xf30a
            && own <= 5
            && depth.is_none_or(|depth| depth == own)
            && 12 * (usize::from(entries) + 1) <= node.len()
            && entries <= le16(node, 4);
        demand(sound, "the journal's extents make no sense")?;
        for entry in node[12..].chunks_exact(12).take(entries.into()) {
            // Nothing may be missing between what was found and this: no block comes twice.
            if self.left == 0 || u64::from(le32(entry, 0)) != self.found() {
                return Err(Whole::new("the journal's extents make no sense"));
            }
            if own == 0 {
                let start = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
                let length = le16(entry, 4);
                demand(
                    (1..=32768).contains(&length),
                    "the journal has unwritten blocks",
                )?;
                self.add(start, length.into())?;
                continue;
            }
            let child = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
            let found = self.found();
            let block = self.block(child)?;
            if let Some(seed) = self.seed {
                let tail = 12 + 12 * usize::from(le16(&block, 4));
                let guarded = block.get(..tail).ok_or_else(damaged)?;
                demand(
                    crc32c(seed, guarded) == le32(&block, tail),
                    "the journal's extents have a wrong checksum",
                )?;
            }
            self.extents(&block, Some(own - 1))?;
            demand(self.found() > found, "the journal's extents make no sense")?;
        }
        Ok(())
    }

    /// A pointer of the older map, `depth` levels above data.
    fn pointer(&mut self, block: u32, depth: usize) -> Seen<()> {
        if self.left == 0 {
            return Ok(());
        }
        if depth == 0 {
            return self.add(block.into(), 1);
        }
        let pointers = self.block(block.into())?;
        for pointer in pointers.chunks_exact(4) {
            if self.left == 0 {
                return Ok(());
            }
            self.pointer(le32(pointer, 0), depth - 1)?;
        }
        Ok(())
    }

    fn block(&self, number: u64) -> Seen<Vec<u8>> {
        demand(
            number > 0 && number < self.s.blocks,
            "the journal's blocks make no sense",
        )?;
        self.volume
            .bytes(number * self.s.block, self.s.block as usize)
    }
}
