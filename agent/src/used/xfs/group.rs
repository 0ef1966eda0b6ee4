//! An allocation group: its header, and the tree of its free space.

use super::super::checksum::crc32c;
use super::super::map::FreeRuns;
use super::super::volume::Volume;
use super::super::whole::{Seen, be16, be32, be64, demand, le32};
use super::Superblock;
use super::replay::Logged;

/// Deepest tree that a group can have.
const DEEPEST: u32 = 9;

/// Frees what a group's tree has.
pub fn survey(volume: &Volume<'_>, s: &Superblock, logged: &Logged, number: u32) -> Seen<FreeRuns> {
    let first = u64::from(number) * s.group_blocks;
    let length = s.group_blocks.min(s.blocks - first);
    let at = first * s.block + s.sector;
    let header = block(volume, s, logged, at, s.sector as usize, &HEADER)?;
    let word = |at| be32(&header, at);
    let (root, level, count) = (word(16), word(28), u64::from(word(52)));
    demand(
        header.starts_with(b"XAGF")
            && word(4) == 1
            && word(8) == number
            && u64::from(word(12)) == length
            && (1..=DEEPEST).contains(&level),
        "a group's header makes no sense",
    )?;
    let mut tree = Tree {
        volume,
        s,
        logged,
        number,
        first,
        length,
        end: 0,
        count: 0,
        free: FreeRuns::default(),
    };
    tree.walk(root, level - 1)?;
    demand(
        tree.count == count,
        "a group's header and its tree of free space differ",
    )?;
    Ok(tree.free)
}

/// Where a block has its checksum, UUID and the place in the log when it was last written.
struct Guard {
    sum: usize,
    uuid: usize,
    lsn: usize,
}

const HEADER: Guard = Guard {
    sum: 216,
    uuid: 64,
    lsn: 208,
};

const TREE: Guard = Guard {
    sum: 52,
    uuid: 32,
    lsn: 24,
};

/// A block with what was logged of it since. One that the log does not change must have its
/// checksum.
fn block(
    volume: &Volume<'_>,
    s: &Superblock,
    logged: &Logged,
    at: u64,
    length: usize,
    guard: &Guard,
) -> Seen<Vec<u8>> {
    let mut bytes = volume.bytes(at, length)?;
    if !s.checked {
        return Ok(bytes);
    }
    let mut blank = bytes.clone();
    blank[guard.sum..guard.sum + 4].fill(0);
    let uuid = |bytes: &[u8]| bytes[guard.uuid..guard.uuid + 16] == s.uuid;
    let sound = uuid(&bytes) && !crc32c(!0, &blank) == le32(&bytes, guard.sum);
    let lsn = if sound { be64(&bytes, guard.lsn) } else { 0 };
    let laid = logged.lay_over(at / 512, lsn, &mut bytes);
    demand(
        (sound || laid) && uuid(&bytes),
        "the tree of free space or its header has a wrong checksum",
    )?;
    Ok(bytes)
}

struct Tree<'a> {
    volume: &'a Volume<'a>,
    s: &'a Superblock,
    logged: &'a Logged,
    number: u32,
    first: u64,
    length: u64,
    /// Behind the last run found.
    end: u64,
    /// Blocks found.
    count: u64,
    free: FreeRuns,
}

impl Tree<'_> {
    /// Takes what is below a block. Every block has runs behind those of all before it, so that
    /// none is visited twice.
    fn walk(&mut self, number: u32, level: u32) -> Seen<()> {
        let s = self.s;
        demand(
            u64::from(number) < self.length,
            "the tree of free space makes no sense",
        )?;
        let at = (self.first + u64::from(number)) * s.block;
        let bytes = block(self.volume, s, self.logged, at, s.block as usize, &TREE)?;
        let magic: &[u8] = if s.checked { b"AB3B" } else { b"ABTB" };
        let head = if s.checked { 56 } else { 16 };
        let records = usize::from(be16(&bytes, 6));
        let fit = match level {
            0 => (bytes.len() - head) / 8,
            _ => (bytes.len() - head) / 12,
        };
        demand(
            bytes.starts_with(magic)
                && u32::from(be16(&bytes, 4)) == level
                && records <= fit
                && (records > 0 || level == 0),
            "the tree of free space makes no sense",
        )?;
        if s.checked {
            let own = be64(&bytes, 16) == at / 512 && be32(&bytes, 48) == self.number;
            demand(own, "a block of the tree of free space is another's")?;
        }
        for record in 0..records {
            if level == 0 {
                let at = head + 8 * record;
                self.take(be32(&bytes, at).into(), be32(&bytes, at + 4).into())?;
                continue;
            }
            let (end, key) = (self.end, u64::from(be32(&bytes, head + 8 * record)));
            demand(
                key > end || end == 0,
                "the tree of free space makes no sense",
            )?;
            self.walk(be32(&bytes, head + 8 * fit + 4 * record), level - 1)?;
            demand(self.end > end, "the tree of free space makes no sense")?;
        }
        Ok(())
    }

    fn take(&mut self, start: u64, length: u64) -> Seen<()> {
        let end = start + length;
        // Runs that touch would be one. The group's first four sectors are headers.
        demand(
            length > 0
                && start * self.s.block >= 4 * self.s.sector
                && (start > self.end || self.end == 0)
                && end <= self.length,
            "the tree of free space makes no sense",
        )?;
        self.end = end;
        self.count += length;
        let at = (self.first + start) * self.s.block;
        self.free.push(at, at + length * self.s.block);
        Ok(())
    }
}
