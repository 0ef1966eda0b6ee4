//! The journal (JBD2): which copies of blocks it holds that are not at home yet, or may not be.

use super::super::checksum::crc32c;
use super::super::volume::Volume;
use super::super::whole::{Seen, Whole, be16, be32, demand};
use super::blocks::{self, Run};
use super::group;
use super::superblock::Superblock;

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

const BIT_64: u32 = 0x2;
const CHECKSUMS_2: u32 = 0x8;
const CHECKSUMS_3: u32 = 0x10;
/// Revocations, 64bit, asynchronous commits and both kinds of checksums. Fast commits allocate
/// blocks that no bitmap in the journal knows of.
const KNOWN: u32 = 0x1f;

/// The copy begins with the journal's magic number, which was replaced.
const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;

/// Largest journal that is read: 40 GiB with blocks of 4 KiB.
const LONGEST: u64 = 10 << 20;
/// Most copies that are remembered, in 12 MiB: a full journal of 2 GiB with blocks of 4 KiB.
const MOST: usize = 1 << 19;
/// Blocks behind the last transaction in which a later one would be found if something between
/// was damaged.
const AHEAD: u64 = 4096;
/// How often a journal that moves on meanwhile is read anew.
const TRIES: usize = 5;

/// Copies in the journal. None when it is empty.
#[derive(Default)]
pub struct Journal {
    runs: Vec<Run>,
    /// Sorted by the block that they are copies of.
    copies: Vec<Copy>,
    checksums: u32,
    seed: u32,
}

/// A copy of a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Copy {
    /// Of which block of the file system.
    block: u64,
    /// Where in the journal.
    at: u32,
    sequence: u32,
    checksum: u32,
    escaped: bool,
}

/// What the journal's own superblock says.
#[derive(PartialEq, Eq)]
struct Head {
    length: u64,
    first: u64,
    sequence: u32,
    start: u64,
    features: u32,
    seed: u32,
}

impl Journal {
    /// Reads all transactions that are not known to be at home.
    pub fn read(volume: &Volume<'_>, s: &Superblock) -> Seen<Self> {
        let table = group::inode_table(volume, s)?;
        let runs = blocks::of_inode(volume, s, table, s.journal)?;
        let mut reason = Whole::new("the journal moves on faster than it is read");
        for _ in 0..TRIES {
            volume.forget();
            let head = Head::read(volume, s, &runs)?;
            let mut journal = Self {
                runs: runs.clone(),
                copies: Vec::new(),
                checksums: head.features & (CHECKSUMS_2 | CHECKSUMS_3),
                seed: head.seed,
            };
            let scanned = journal.scan(volume, s, &head);
            // What is in the journal is overwritten only after its superblock moved on.
            volume.forget();
            if Head::read(volume, s, &runs)? == head {
                match scanned {
                    Ok(()) => {
                        journal.copies.sort_unstable();
                        return Ok(journal);
                    }
                    // A transaction that is being written may look like damage.
                    Err(damage) => reason = damage,
                }
            }
        }
        Err(reason)
    }

    /// Copies of a block.
    pub fn copies(&self, block: u64) -> Vec<Copy> {
        let first = self.copies.partition_point(|copy| copy.block < block);
        let copies = self.copies[first..].iter();
        copies
            .take_while(|copy| copy.block == block)
            .copied()
            .collect()
    }

    /// The bytes of a copy.
    pub fn block(&self, volume: &Volume<'_>, s: &Superblock, copy: Copy) -> Seen<Vec<u8>> {
        let mut bytes = journal_block(volume, s, &self.runs, copy.at.into())?;
        let sum = crc32c(crc32c(self.seed, &copy.sequence.to_be_bytes()), &bytes);
        let sound = match self.checksums {
            0 => true,
            CHECKSUMS_3 => sum == copy.checksum,
            _ => sum & 0xffff == copy.checksum,
        };
        demand(sound, "a block bitmap in the journal has a wrong checksum")?;
        if copy.escaped {
            bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
        }
        Ok(bytes)
    }

    fn scan(&mut self, volume: &Volume<'_>, s: &Superblock, head: &Head) -> Seen<()> {
        if head.start == 0 {
            return Ok(());
        }
        let next = |at: u64, by: u64| {
            let at = at + by;
            if at >= head.length {
                head.first + (at - head.length)
            } else {
                at
            }
        };
        let (mut at, mut sequence, mut left) =
            (head.start, head.sequence, head.length - head.first);
        while left > 0 {
            let block = journal_block(volume, s, &self.runs, at)?;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != sequence {
                break;
            }
            let mut taken = 1;
            match be32(&block, 4) {
                DESCRIPTOR => {
                    self.tail_holds(&block, head)?;
                    taken += self.tags(&block, head, sequence, |number| next(at, number))?;
                }
                COMMIT => sequence = sequence.wrapping_add(1),
                REVOKE => {}
                _ => break,
            }
            at = next(at, taken);
            left = left.saturating_sub(taken);
        }
        // Replaying ends here too. A transaction that was finished further on tells of damage.
        for _ in 0..left.min(AHEAD) {
            let block = journal_block(volume, s, &self.runs, at)?;
            let ahead = be32(&block, 8).wrapping_sub(sequence);
            let finished = be32(&block, 0) == MAGIC && be32(&block, 4) == COMMIT;
            demand(
                !finished || ahead >= 1 << 31,
                "the journal is damaged before its end",
            )?;
            at = next(at, 1);
        }
        Ok(())
    }

    /// Remembers what a descriptor block tells of, and returns how many blocks follow it.
    fn tags(
        &mut self,
        block: &[u8],
        head: &Head,
        sequence: u32,
        place: impl Fn(u64) -> u64,
    ) -> Seen<u64> {
        let third = head.features & CHECKSUMS_3 != 0;
        let wide = head.features & BIT_64 != 0;
        let size = match (third, wide) {
            (true, _) => 16,
            (false, wide) => {
                8 + 4 * usize::from(wide) + 2 * usize::from(head.features & CHECKSUMS_2 != 0)
            }
        };
        let tail = if self.checksums != 0 { 4 } else { 0 };
        let (mut at, mut count) = (12, 0);
        while at + size + tail <= block.len() {
            let tag = &block[at..at + size];
            let (flags, checksum) = match third {
                true => (be32(tag, 4), be32(tag, 12)),
                false => (u32::from(be16(tag, 6)), u32::from(be16(tag, 4))),
            };
            let high = if wide {
                u64::from(be32(tag, 8)) << 32
            } else {
                0
            };
            count += 1;
            demand(self.copies.len() < MOST, "the journal holds too much")?;
            self.copies.push(Copy {
                block: u64::from(be32(tag, 0)) | high,
                at: u32::try_from(place(count))?,
                sequence,
                checksum,
                escaped: flags & ESCAPED != 0,
            });
            at += size + if flags & SAME_UUID == 0 { 16 } else { 0 };
            if flags & LAST != 0 {
                break;
            }
        }
        Ok(count)
    }

    fn tail_holds(&self, block: &[u8], head: &Head) -> Seen<()> {
        if self.checksums == 0 {
            return Ok(());
        }
        let end = block.len() - 4;
        let sum = crc32c(crc32c(head.seed, &block[..end]), &[0; 4]);
        demand(
            sum == be32(block, end),
            "a block of the journal has a wrong checksum",
        )
    }
}

impl Head {
    fn read(volume: &Volume<'_>, s: &Superblock, runs: &[Run]) -> Seen<Self> {
        let block = journal_block(volume, s, runs, 0)?;
        let word = |at| be32(&block, at);
        let damaged = "the journal's superblock is damaged";
        demand(
            word(0) == MAGIC && matches!(word(4), 3 | 4) && u64::from(word(12)) == s.block,
            damaged,
        )?;
        let features = if word(4) == 4 { word(0x28) } else { 0 };
        demand(
            features & !KNOWN == 0,
            "the journal has fast commits or other features that are not read",
        )?;
        let mut seed = 0;
        if features & (CHECKSUMS_2 | CHECKSUMS_3) != 0 {
            let mut blank = block[..1024].to_vec();
            blank[0xfc..0x100].fill(0);
            demand(
                crc32c(!0, &blank) == word(0xfc) && block[0x50] == 4,
                damaged,
            )?;
            seed = crc32c(!0, &block[0x30..0x40]);
        }
        let head = Self {
            length: word(0x10).into(),
            first: word(0x14).into(),
            sequence: word(0x18),
            start: word(0x1c).into(),
            features,
            seed,
        };
        let blocks = runs.last().map_or(0, |last| last.logical + last.length);
        let sane = head.first > 0
            && head.first < head.length
            && head.length <= blocks.min(LONGEST)
            && (head.start == 0 || (head.first..head.length).contains(&head.start));
        demand(sane, damaged)?;
        Ok(head)
    }
}

fn journal_block(volume: &Volume<'_>, s: &Superblock, runs: &[Run], at: u64) -> Seen<Vec<u8>> {
    let run = runs.partition_point(|run| run.logical + run.length <= at);
    let run = runs.get(run).ok_or_else(super::damaged)?;
    let block = run.physical + (at - run.logical);
    volume.bytes(block * s.block, s.block as usize)
}
