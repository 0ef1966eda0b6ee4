//! The bytes of a segment file: blocks of records, the tail that is kept in memory, the footer.
//!
//! See `docs/index.md`. Each block has its own checksum, and so have tail and footer. A salt,
//! drawn for each file, and the block's number are part of a block's checksum: a block of
//! another file or place does not pass.

use relevo_wire::{ChunkId, TenantId};

use super::change::{Change, Place, Spot};
use super::filter;
use crate::pack::ALIGN;
use crate::record::ChunkKind;

/// First bytes of the footer.
pub const MAGIC: [u8; 8] = *b"RELEVOIX";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes of a record.
pub const RECORD: usize = 48;
/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Records of a full block.
pub const BLOCK_RECORDS: usize = (BLOCK - CHECKSUM) / RECORD;
/// Blocks that share a filter.
pub const GROUP_BLOCKS: usize = 512;
/// Records of a full group.
pub const GROUP_RECORDS: usize = GROUP_BLOCKS * BLOCK_RECORDS;
/// Bytes of the footer.
pub const FOOTER: usize = 160;

const CHECKSUM: usize = 16;
const FENCE: usize = 8;

/// Kinds that stand for no chunk.
const REMOVED: u8 = 254;
const UNCHANGED: u8 = 255;

/// Why a change cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(&'static str);

/// Writes a record.
pub fn encode(change: &Change, record: &mut [u8; RECORD]) -> Result<(), Unfit> {
    let (pack, offset, length, kind) = match change.place {
        Place::Unchanged => (0, 0, 0, UNCHANGED),
        Place::Removed => (0, 0, 0, REMOVED),
        Place::Lost(kind) => (0, 0, 0, kind_byte(kind)?),
        Place::At(spot) if spot.pack == 0 => return Err(Unfit("a pack without a number")),
        Place::At(spot) => {
            if !spot.offset.is_multiple_of(ALIGN as u64) {
                return Err(Unfit("an entry does not begin at a multiple of 16"));
            }
            let offset = u32::try_from(spot.offset / ALIGN as u64)
                .map_err(|_| Unfit("an offset of 64 GiB or more"))?;
            if spot.length >= 1 << 24 {
                return Err(Unfit("a chunk of 16 MiB or more"));
            }
            (spot.pack, offset, spot.length, kind_byte(spot.kind)?)
        }
    };
    let refs = i32::try_from(change.refs).map_err(|_| Unfit("2³¹ references to one chunk"))?;
    record[..32].copy_from_slice(change.id.as_bytes());
    record[32..36].copy_from_slice(&pack.to_le_bytes());
    record[36..40].copy_from_slice(&offset.to_le_bytes());
    record[40..43].copy_from_slice(&length.to_le_bytes()[..3]);
    record[43] = kind;
    record[44..48].copy_from_slice(&refs.to_le_bytes());
    Ok(())
}

/// Reads a record, whose block's checksum was found right.
pub fn decode(record: &[u8; RECORD]) -> Change {
    let place = match record[43] {
        UNCHANGED => Place::Unchanged,
        REMOVED => Place::Removed,
        kind => {
            let kind = ChunkKind::from_number(i64::from(kind));
            match u32_at(record, 32) {
                0 => Place::Lost(kind),
                pack => Place::At(Spot {
                    pack,
                    offset: u64::from(u32_at(record, 36)) * ALIGN as u64,
                    length: u32_at(record, 40) & 0xff_ffff,
                    kind,
                }),
            }
        }
    };
    Change {
        id: id_of(record),
        place,
        refs: i64::from(u32_at(record, 44) as i32),
    }
}

fn kind_byte(kind: ChunkKind) -> Result<u8, Unfit> {
    let byte = u8::try_from(kind.number()).ok();
    byte.filter(|&byte| byte < REMOVED)
        .ok_or(Unfit("a kind of chunk that is none"))
}

/// The id in a record.
pub fn id_of(record: &[u8; RECORD]) -> ChunkId {
    let mut id = [0; 32];
    id.copy_from_slice(&record[..32]);
    ChunkId::from_bytes(id)
}

/// Puts the checksum behind a block's records.
pub fn seal_block(block: &mut [u8; BLOCK], salt: &[u8; 32], number: u64) {
    let sum = block_sum(block, salt, number);
    block[BLOCK - CHECKSUM..].copy_from_slice(&sum);
}

/// True when a block is what was written.
pub fn block_is_whole(block: &[u8; BLOCK], salt: &[u8; 32], number: u64) -> bool {
    block[BLOCK - CHECKSUM..] == block_sum(block, salt, number)
}

fn block_sum(block: &[u8; BLOCK], salt: &[u8; 32], number: u64) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new_keyed(salt);
    hasher.update(&block[..BLOCK - CHECKSUM]);
    hasher.update(&number.to_le_bytes());
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM]);
    sum
}

/// The end of a file, which says what the rest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Format of the file.
    pub version: u32,
    /// Whose chunks.
    pub tenant: TenantId,
    /// The segment's number; it is the file's name too.
    pub number: u64,
    /// How many records.
    pub records: u64,
    /// Drawn for this file.
    pub salt: [u8; 32],
    /// BLAKE3 of the tail.
    pub tail: [u8; 32],
}

impl Footer {
    /// Its bytes.
    pub fn encode(&self) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[16..32].copy_from_slice(self.tenant.as_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.records.to_le_bytes());
        bytes[48..80].copy_from_slice(&self.salt);
        bytes[80..112].copy_from_slice(&self.tail);
        let sum = blake3::hash(&bytes[..128]);
        bytes[128..].copy_from_slice(sum.as_bytes());
        bytes
    }

    /// The footer in these bytes, if it is whole. Of a newer version only that is right.
    pub fn decode(bytes: &[u8; FOOTER]) -> Option<Self> {
        let whole = bytes[..8] == MAGIC && bytes[128..] == *blake3::hash(&bytes[..128]).as_bytes();
        whole.then(|| Self {
            version: u32_at(bytes, 8),
            tenant: TenantId::from_bytes(part(bytes, 16)),
            number: u64::from_le_bytes(part(bytes, 32)),
            records: u64::from_le_bytes(part(bytes, 40)),
            salt: part(bytes, 48),
            tail: part(bytes, 80),
        })
    }
}

/// How a file of so many records is laid out. All of it follows from their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    records: u64,
}

impl Shape {
    /// Of a file with so many records.
    pub fn new(records: u64) -> Self {
        Self { records }
    }

    /// Number of blocks.
    pub fn blocks(self) -> u64 {
        self.records.div_ceil(BLOCK_RECORDS as u64)
    }

    /// Number of groups.
    pub fn groups(self) -> u64 {
        self.blocks().div_ceil(GROUP_BLOCKS as u64)
    }

    /// Records in this block.
    pub fn records_of_block(self, block: u64) -> usize {
        let before = block.saturating_mul(BLOCK_RECORDS as u64);
        self.records
            .saturating_sub(before)
            .min(BLOCK_RECORDS as u64) as usize
    }

    /// Records in this group.
    pub fn records_of_group(self, group: u64) -> usize {
        let before = group.saturating_mul(GROUP_RECORDS as u64);
        self.records
            .saturating_sub(before)
            .min(GROUP_RECORDS as u64) as usize
    }

    /// Bytes of the fences, with which the tail begins.
    pub fn fences(self) -> u64 {
        self.blocks().saturating_mul(FENCE as u64)
    }

    /// Where a group's filter begins in the tail.
    pub fn filter_at(self, group: u64) -> u64 {
        let full = filter::bytes_for(GROUP_RECORDS) as u64;
        self.fences().saturating_add(group.saturating_mul(full))
    }

    /// Bytes of the tail.
    pub fn tail(self) -> u64 {
        match self.groups().checked_sub(1) {
            Some(last) => self
                .filter_at(last)
                .saturating_add(filter::bytes_for(self.records_of_group(last)) as u64),
            None => 0,
        }
    }

    /// Bytes of the file.
    pub fn file(self) -> u64 {
        let blocks = self.blocks().saturating_mul(BLOCK as u64);
        blocks
            .saturating_add(self.tail())
            .saturating_add(FOOTER as u64)
    }
}

/// What of an id stands in a fence, so that numbers order as ids do.
pub fn fence_of(id: &ChunkId) -> u64 {
    u64::from_be_bytes(part(id.as_bytes(), 0))
}

/// What of an id a filter knows. Other bytes than the fence's, which are alike in a group.
pub fn filter_key(id: &ChunkId) -> u64 {
    u64::from_le_bytes(part(id.as_bytes(), 8))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(part(bytes, at))
}

pub(super) fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}
