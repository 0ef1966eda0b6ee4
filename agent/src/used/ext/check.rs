//! What e2fsck writes to a file system that it finds clean: an initramfs has it look at the root
//! before anything else runs.
//!
//! It is the superblock, with the time, and mostly the first block of the journal
//! (`e2fsck_check_ext3_journal`, `ext2fs_flush` of e2fsprogs).

use super::super::volume::Volume;
use super::super::whole::{Seen, Whole, demand, le16, le32};
use super::superblock::Superblock;

const HAS_JOURNAL: u32 = 4;
/// In the root of an inode's tree of extents.
const EXTENTS: u16 = 0xf30a;

/// What a check of a clean file system writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckWrites {
    /// When the superblock was written last, in seconds since 1970.
    pub written: u64,
    /// Where it writes: bytes from the file system's start.
    pub places: Vec<(u64, u64)>,
    /// How many sectors of 512 bytes that may be: the kernel writes the superblock alone, or the
    /// page that it lies in, and the journal's block, its page, or nothing there.
    pub sectors: Vec<u64>,
}

/// What a check of the file system in `volume` would write, or did.
pub fn writes_of_a_check(volume: &Volume<'_>) -> Seen<CheckWrites> {
    let superblock = Superblock::read(volume)?;
    let bytes = volume.bytes(1024, 1024)?;
    demand(
        le16(&bytes, 0x3a) == 1 && !superblock.needs_recovery,
        "the file system is not clean",
    )?;
    let block = superblock.block;
    let page = block.max(4096);
    let mut places = vec![(0, page.max(2048))];
    let mut sectors = vec![1024 / 512, page / 512];
    if le32(&bytes, 0x5c) & HAS_JOURNAL != 0 {
        let journal = first_block(&bytes)
            .filter(|journal| *journal > 0 && *journal < superblock.blocks)
            .ok_or(Whole::new(
                "the superblock does not say where the journal is",
            ))?;
        let start = journal * block;
        places.push((start / 4096 * 4096, (start + block).next_multiple_of(4096)));
        sectors.extend([1024 + block, page * 2].map(|bytes| bytes / 512));
    }
    let high = bytes.get(0x274).copied().unwrap_or(0);
    Ok(CheckWrites {
        written: u64::from(le32(&bytes, 0x30)) | u64::from(high) << 32,
        places,
        sectors,
    })
}

/// The journal's first block, by the copy of its inode's that the superblock has.
fn first_block(superblock: &[u8]) -> Option<u64> {
    if superblock.get(0xfd) != Some(&1) || le32(superblock, 0xe4) != 0 {
        return None;
    }
    let copy = superblock.get(0x10c..0x10c + 60)?;
    if le16(copy, 0) != EXTENTS {
        return Some(le32(copy, 0).into());
    }
    // Entries, depth, and the first extent: its place in the file and on the disk.
    let (entries, depth) = (le16(copy, 2), le16(copy, 6));
    let first = (entries > 0, depth, le32(copy, 12)) == (true, 0, 0);
    first.then(|| u64::from(le16(copy, 18)) << 32 | u64::from(le32(copy, 20)))
}
