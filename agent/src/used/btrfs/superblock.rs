//! The superblock: where the trees of the newest generation begin.

use super::super::checksum::crc32c;
use super::super::volume::Volume;
use super::super::whole::{Seen, demand, le16, le32, le64};
use super::tree::Root;

const SIZE: usize = 4096;
const FIRST: u64 = 64 << 10;
/// Mixed_backref, default_subvol, mixed_groups, both compressions, big_metadata, extended_iref,
/// raid56, skinny_metadata, no_holes, metadata_uuid, raid1c34 and simple_quota.
const KNOWN_INCOMPATIBLE: u64 = 0x1_0fff;
const METADATA_UUID: u64 = 0x400;
/// The device is a seed for others.
const SEEDING: u64 = 1 << 32;

/// What the superblock says.
pub struct Superblock {
    pub generation: u64,
    pub root: Root,
    pub chunk_root: Root,
    pub log_root: Option<Root>,
    /// In the headers of blocks.
    pub uuid: [u8; 16],
    pub bytes_used: u64,
    /// Features that others may only read past, as this release does.
    pub read_only_features: u64,
    /// Bytes of a tree's block.
    pub node: u64,
    /// Bytes of a block of data, of which each has a checksum.
    pub sector: u64,
    pub device: u64,
    /// Bytes of the device that the file system has.
    pub device_bytes: u64,
    /// Chunks that hold the tree of chunks: keys and items.
    pub system: Vec<u8>,
}

impl Superblock {
    /// Reads the first copy and checks it.
    pub fn read(volume: &Volume<'_>) -> Seen<Self> {
        let bytes = volume.bytes(FIRST, SIZE)?;
        demand(
            bytes[64..72] == *b"_BHRfS_M" && le64(&bytes, 48) == FIRST,
            "the superblock is damaged",
        )?;
        demand(
            le16(&bytes, 0xc4) == 0,
            "it has checksums of another kind than crc32c",
        )?;
        demand(
            !crc32c(!0, &bytes[32..]) == le32(&bytes, 0),
            "the superblock has a wrong checksum",
        )?;
        let features = le64(&bytes, 0xbc);
        demand(
            features & !KNOWN_INCOMPATIBLE == 0,
            "the file system has features that this release does not know",
        )?;
        demand(
            le64(&bytes, 0x88) == 1 && le64(&bytes, 0x38) & SEEDING == 0,
            "the file system is spread over several disks",
        )?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(match features & METADATA_UUID {
            0 => &bytes[0x20..0x30],
            _ => &bytes[0x23b..0x24b],
        });
        let node = u64::from(le32(&bytes, 0x94));
        let system = le32(&bytes, 0xa0) as usize;
        let (generation, device_bytes) = (le64(&bytes, 0x48), le64(&bytes, 0xc9 + 8));
        let log = le64(&bytes, 0x60);
        let root = |at: u64, level: usize, generation| Root {
            block: at,
            level: bytes[level],
            generation,
        };
        let sane = node.is_power_of_two()
            && (4096..=65_536).contains(&node)
            && system <= 2048
            && generation < u64::MAX
            && device_bytes <= volume.size();
        demand(sane, "the superblock makes no sense")?;
        Ok(Self {
            generation,
            root: root(le64(&bytes, 0x50), 0xc6, generation),
            chunk_root: root(le64(&bytes, 0x58), 0xc7, le64(&bytes, 0xa4)),
            log_root: (log != 0).then(|| root(log, 0xc8, generation + 1)),
            uuid,
            bytes_used: le64(&bytes, 0x78),
            read_only_features: le64(&bytes, 0xb4),
            node,
            sector: le32(&bytes, 0x90).into(),
            device: le64(&bytes, 0xc9),
            device_bytes,
            system: bytes[0x32b..0x32b + system].to_vec(),
        })
    }
}

/// Where superblocks are, with the stripe that each has for itself, and what is in front of the
/// first: nothing else is put there.
pub fn places() -> [(u64, u64); 3] {
    let stripe = 64 << 10;
    [0, 64 << 20, 256 << 30].map(|at: u64| (at, at + if at == 0 { 1 << 20 } else { stripe }))
}
