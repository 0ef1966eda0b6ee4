//! The superblock: sizes, features, and whether the bitmaps may be trusted.

use super::super::checksum::{crc16, crc32c};
use super::super::volume::Volume;
use super::super::whole::{Seen, Whole, demand, le16, le32};

const HAS_JOURNAL: u32 = 0x4;
const SPARSE_SUPER2: u32 = 0x200;

const RECOVER: u32 = 0x4;
const META_BG: u32 = 0x10;
const BIT_64: u32 = 0x80;
const CHECKSUM_SEED: u32 = 0x2000;
/// Filetype, recovery, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, dirdata, csum_seed,
/// largedir, inline_data, encrypt and casefold: none of them changes what a bitmap means.
const KNOWN_INCOMPATIBLE: u32 = 0x3_f7d6;

const SPARSE_SUPER: u32 = 0x1;
const GROUP_CHECKSUMS: u32 = 0x10;
const BIGALLOC: u32 = 0x200;
const METADATA_CHECKSUMS: u32 = 0x400;
/// Sparse_super, large_file, btree_dir, huge_file, gdt_csum, dir_nlink, extra_isize, quota,
/// bigalloc, metadata_csum, read-only, project, shared_blocks, verity and orphan_present.
const KNOWN_READ_ONLY: u32 = 0x1_f77f;

/// Most groups: 128 TiB with blocks of 4 KiB.
const MAX_GROUPS: u64 = 1 << 20;

/// What the superblock says.
pub struct Superblock {
    /// Bytes of a block.
    pub block: u64,
    /// Blocks of the file system.
    pub blocks: u64,
    /// The first block of the first group.
    pub first: u64,
    /// Blocks of a group.
    pub per_group: u64,
    /// Blocks that a bit of the bitmap stands for.
    pub ratio: u64,
    /// Inodes of a group.
    pub inodes_per_group: u64,
    /// Bytes of an inode.
    pub inode: u64,
    /// Number of groups.
    pub groups: u64,
    /// Bytes of a group's descriptor.
    pub descriptor: usize,
    /// Blocks reserved for more descriptors.
    pub reserved: u64,
    /// Whether descriptors are spread over groups, and from which block of descriptors on.
    pub meta_bg: Option<u64>,
    /// Whether the journal holds what is not at home yet.
    pub needs_recovery: bool,
    /// The journal's inode.
    pub journal: u64,
    /// Groups with copies of the superblock, when these are two at most.
    backups: Option<[u64; 2]>,
    sparse: bool,
    /// How descriptors and bitmaps are guarded.
    pub guard: Guard,
}

/// Which checksums there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// None.
    None,
    /// Of descriptors only, from the UUID's.
    Descriptors(u16),
    /// Of all metadata, from this seed.
    All(u32),
}

impl Superblock {
    /// Reads and checks it.
    pub fn read(volume: &Volume<'_>) -> Seen<Self> {
        let bytes = volume.bytes(1024, 1024)?;
        let (word, short) = (|at| le32(&bytes, at), |at| le16(&bytes, at));
        demand(short(0x38) == 0xef53, "it is no ext file system")?;
        let dynamic = word(0x4c) > 0;
        let feature = |at| if dynamic { word(at) } else { 0 };
        let (compatible, incompatible, read_only) = (feature(0x5c), feature(0x60), feature(0x64));
        demand(
            incompatible & !KNOWN_INCOMPATIBLE == 0 && read_only & !KNOWN_READ_ONLY == 0,
            "the file system has features that this release does not know",
        )?;
        let guard = guard(&bytes, incompatible, read_only)?;
        demand(
            short(0x3a) & 2 == 0,
            "the file system knows of damage in itself",
        )?;
        let needs_recovery = incompatible & RECOVER != 0;
        let (state, journal) = (short(0x3a), u64::from(word(0xe0)));
        if compatible & HAS_JOURNAL == 0 {
            demand(
                state & 1 != 0 && !needs_recovery,
                "the file system has no journal and is mounted, or was not unmounted",
            )?;
        }
        demand(
            !needs_recovery || (journal > 0 && word(0xe4) == 0),
            "the file system's journal is on another disk",
        )?;
        let wide = incompatible & BIT_64 != 0;
        let high = if wide { u64::from(word(0x150)) } else { 0 };
        let clusters = read_only & BIGALLOC != 0;
        let block = 1024u64 << word(0x18).min(32);
        let cluster = if clusters {
            1024 << word(0x1c).min(32)
        } else {
            block
        };
        let made = Self {
            block,
            blocks: u64::from(word(0x4)) | high << 32,
            first: u64::from(word(0x14)),
            per_group: u64::from(word(0x20)),
            ratio: cluster / block.max(1),
            inodes_per_group: u64::from(word(0x28)),
            inode: if dynamic { u64::from(short(0x58)) } else { 128 },
            groups: 0,
            descriptor: if wide { usize::from(short(0xfe)) } else { 32 },
            reserved: u64::from(short(0xce)),
            meta_bg: (incompatible & META_BG != 0).then(|| u64::from(word(0x104))),
            needs_recovery,
            journal,
            backups: (compatible & SPARSE_SUPER2 != 0)
                .then(|| [u64::from(word(0x24c)), u64::from(word(0x250))]),
            sparse: read_only & SPARSE_SUPER != 0,
            guard,
        };
        made.checked(volume, u64::from(word(0x24)), clusters)
    }

    fn checked(
        mut self,
        volume: &Volume<'_>,
        clusters_per_group: u64,
        clusters: bool,
    ) -> Seen<Self> {
        let bits = 8 * self.block;
        let sane = self.block <= 65_536
            && self.ratio.is_power_of_two()
            && self.ratio <= 1 << 20
            && (!clusters || clusters_per_group.checked_mul(self.ratio) == Some(self.per_group))
            && self.per_group >= 8 * self.ratio
            && self.per_group.is_multiple_of(8 * self.ratio)
            && self.per_group / self.ratio <= bits
            && self.first == u64::from(self.block == 1024 && !clusters)
            && self.blocks > self.first
            && (1..=bits).contains(&self.inodes_per_group)
            && (128..=self.block).contains(&self.inode)
            && self.inode.is_power_of_two()
            && (32..=1024).contains(&self.descriptor)
            && self.descriptor.is_power_of_two();
        demand(sane, "the superblock makes no sense")?;
        let size = self.blocks.checked_mul(self.block);
        demand(
            size.is_some_and(|size| size <= volume.size()),
            "the file system is longer than what it is in",
        )?;
        self.groups = (self.blocks - self.first).div_ceil(self.per_group);
        demand(
            self.groups <= MAX_GROUPS,
            "the file system has too many groups",
        )?;
        Ok(self)
    }

    /// First block of a group.
    pub fn group_start(&self, group: u64) -> u64 {
        self.first + group * self.per_group
    }

    /// The block behind a group.
    pub fn group_end(&self, group: u64) -> u64 {
        self.group_start(group + 1).min(self.blocks)
    }

    /// Descriptors in a block.
    pub fn descriptors_per_block(&self) -> u64 {
        self.block / self.descriptor as u64
    }

    /// Block `number` of the descriptors.
    pub fn descriptor_block(&self, number: u64) -> u64 {
        let own = u64::from(self.block == 1024);
        match self.meta_bg {
            Some(from) if number >= from => {
                let group = number * self.descriptors_per_block();
                let mut before = u64::from(self.has_superblock(group));
                if own == 1 && number == 0 && self.first == 0 {
                    before += 1;
                }
                self.group_start(group) + before
            }
            _ => own + 1 + number,
        }
    }

    /// Blocks at a group's start that hold the superblock and descriptors.
    pub fn head_blocks(&self, group: u64) -> u64 {
        let all = self.groups.div_ceil(self.descriptors_per_block());
        // Block 1 holds the superblock when blocks of 1 KiB are counted from 0.
        let odd = u64::from(self.block == 1024 && self.first == 0 && group == 0);
        let own = u64::from(self.has_superblock(group)) + odd;
        let per_block = self.descriptors_per_block();
        match self.meta_bg {
            // The first, the second and the last group of those that a block describes have it.
            Some(from) if group / per_block >= from => {
                let within = group % per_block;
                own + u64::from(within < 2 || within == per_block - 1)
            }
            _ if own == 0 => 0,
            from => own + from.unwrap_or(all).min(all) + self.reserved,
        }
    }

    /// Whether a copy of the superblock is in a group.
    fn has_superblock(&self, group: u64) -> bool {
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        match self.backups {
            Some(backups) => group == 0 || backups.contains(&group),
            None => !self.sparse || group < 2 || power_of(3) || power_of(5) || power_of(7),
        }
    }
}

fn guard(bytes: &[u8], incompatible: u32, read_only: u32) -> Seen<Guard> {
    let uuid = &bytes[0x68..0x78];
    if read_only & METADATA_CHECKSUMS != 0 {
        demand(
            bytes[0x175] == 1 && crc32c(!0, &bytes[..0x3fc]) == le32(bytes, 0x3fc),
            "the superblock has a wrong checksum",
        )?;
        let seed = match incompatible & CHECKSUM_SEED {
            0 => crc32c(!0, uuid),
            _ => le32(bytes, 0x270),
        };
        return Ok(Guard::All(seed));
    }
    demand(
        incompatible & CHECKSUM_SEED == 0,
        "the superblock's features contradict each other",
    )?;
    Ok(match read_only & GROUP_CHECKSUMS {
        0 => Guard::None,
        _ => Guard::Descriptors(crc16(!0, uuid)),
    })
}

impl From<std::num::TryFromIntError> for Whole {
    fn from(_: std::num::TryFromIntError) -> Self {
        super::damaged()
    }
}
