//! XFS: the tree of free space, by block number, of each allocation group (xfs_algorithms and
//! on-disk structures: "XFS Algorithms & Data Structures", 3rd edition).
//!
//! Of a file system that is mounted, blocks of trees may be at home as they were at different
//! times, and the log has the rest: what it holds of them is laid over them as they are read, as
//! replaying it would. A group of which blocks changed while they were read shows by its sum; it
//! is read anew, and at last whole. The log of version 4 cannot be laid over safely: then only
//! one that was unmounted is looked into.
//!
//! With version 5 all checksums, places and owners of blocks are demanded, of those that the log
//! changes all but the checksum; with both versions that the free blocks found are as many as the
//! group's header says.

mod group;
mod log;
mod replay;

use super::area::Found;
use super::checksum::crc32c;
use super::map::FreeRuns;
use super::volume::Volume;
use super::whole::{Seen, Whole, be16, be32, be64, demand, le32};

/// Features that change nothing about free space: file types, sparse inodes, another UUID in
/// metadata, big times, big extent counts, exchanged ranges, parent pointers.
const KNOWN_INCOMPATIBLE: u32 = 0xef;
/// Trees of free inodes, of owners and of references, and counts of the first.
const KNOWN_READ_ONLY: u32 = 0xf;
const META_UUID: u32 = 0x4;
/// Most allocation groups: of 1 TiB each on the largest file systems.
const MAX_GROUPS: u32 = 1 << 20;

/// What the superblock says.
struct Superblock {
    block: u64,
    blocks: u64,
    group_blocks: u64,
    groups: u32,
    sector: u64,
    /// Version 5: with checksums.
    checked: bool,
    /// In the headers of metadata.
    uuid: [u8; 16],
    /// First byte of the log, and its length.
    log: (u64, u64),
}

impl Superblock {
    fn read(volume: &Volume<'_>) -> Seen<Self> {
        let bytes = volume.bytes(0, 512)?;
        let (short, word) = (|at| be16(&bytes, at), |at| be32(&bytes, at));
        let version = short(100) & 0xf;
        demand(
            bytes.starts_with(b"XFSB") && matches!(version, 4 | 5) && bytes[126] == 0,
            "the superblock is of a version that is not read",
        )?;
        let sector = u64::from(short(102));
        demand(
            sector.is_power_of_two() && (512..=32768).contains(&sector),
            "the superblock makes no sense",
        )?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[32..48]);
        if version == 5 {
            let mut whole = volume.bytes(0, sector as usize)?;
            let sum = le32(&whole, 224);
            whole[224..228].fill(0);
            demand(
                !crc32c(!0, &whole) == sum,
                "the superblock has a wrong checksum",
            )?;
            demand(
                word(216) & !KNOWN_INCOMPATIBLE == 0 && word(212) & !KNOWN_READ_ONLY == 0,
                "the file system has features that this release does not know, or needs repair",
            )?;
            if word(216) & META_UUID != 0 {
                uuid.copy_from_slice(&bytes[248..264]);
            }
        }
        let block = u64::from(word(4));
        let (blocks, group_blocks, groups) = (be64(&bytes, 8), u64::from(word(84)), word(88));
        let logarithms = (bytes[120], bytes[124]);
        let before_last = u64::from(groups.saturating_sub(1)).checked_mul(group_blocks);
        let last = before_last.and_then(|before| blocks.checked_sub(before));
        let sane = block.is_power_of_two()
            && (sector.max(512)..=65_536).contains(&block)
            && 1 << logarithms.0.min(63) == block
            && logarithms.1 <= 32
            && group_blocks <= 1 << logarithms.1
            && (1..=MAX_GROUPS).contains(&groups)
            && last.is_some_and(|last| (1..=group_blocks).contains(&last));
        demand(sane, "the superblock makes no sense")?;
        let size = blocks.checked_mul(block);
        demand(
            size.is_some_and(|size| size <= volume.size()),
            "the file system is longer than what it is in",
        )?;
        let (start, length) = (be64(&bytes, 48), u64::from(word(96)));
        demand(start != 0, "the file system's log is on another disk")?;
        let (group, within) = (start >> logarithms.1, start & ((1 << logarithms.1) - 1));
        let first = group.checked_mul(group_blocks);
        let first = first
            .and_then(|first| first.checked_add(within))
            .unwrap_or(u64::MAX);
        let end = first.checked_add(length);
        demand(
            length > 0 && end.is_some_and(|end| end <= blocks),
            "the superblock makes no sense",
        )?;
        Ok(Self {
            block,
            blocks,
            group_blocks,
            groups,
            sector,
            checked: version == 5,
            uuid,
            log: (first * block, length * block),
        })
    }
}

/// How often a group that changes meanwhile is read.
const TRIES: usize = 4;

/// Frees what the trees of free space have.
pub fn survey(volume: &Volume<'_>, free: &mut FreeRuns) -> Seen<Found> {
    let superblock = Superblock::read(volume)?;
    let mut left: Vec<_> = (0..superblock.groups).collect();
    let mut why = Whole::new("it changes faster than it is read");
    for _ in 0..TRIES {
        volume.forget();
        match log::read(volume, &superblock) {
            Ok(logged) => left.retain(|number| {
                let found = group::survey(volume, &superblock, &logged, *number);
                match found {
                    Ok(found) => {
                        let runs = found.runs().iter();
                        runs.for_each(|(start, end)| free.push(*start, *end));
                        false
                    }
                    Err(reason) => {
                        why = reason;
                        true
                    }
                }
            }),
            Err(reason) => why = reason,
        }
        if left.is_empty() {
            return Ok(Found::default());
        }
    }
    let (count, all) = (left.len(), superblock.groups);
    if count as u64 == u64::from(all) {
        return Err(why);
    }
    let read_more = format!(
        "{count} of {all} groups are read whole, {} for one: {why}",
        left[0]
    );
    Ok(Found {
        read_more: Some(read_more),
    })
}
