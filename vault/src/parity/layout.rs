//! Layout of a parity file: a header, twice, a table of checksums, the parity, the table again.
//!
//! ```text
//! header             offset  size            then
//!   "RELEVOPY"            0     8              header, copy          8192
//!   version = 1           8     4              table                16384
//!   group                12     4              parity blocks        table's end, up to 4096
//!   vault                16    16              table, copy          behind them
//!   tenant               32    16
//!   data slots d         48     2            table: for each column a row of
//!   parity blocks p      50     2              checksums of d data blocks    16·d
//!   block size = 65536   52     4              checksums of p parity blocks  16·p
//!   columns              56     4              checksum of the column number
//!   zero                 60     4              (4 bytes) and the above       16
//!   for each data slot:  64  16·d
//!     pack number, 0 when empty  4           parity blocks: column by column, p each
//!     zero                       4
//!     bytes of the pack          8           numbers are little endian
//!   BLAKE3 of the above        32
//! ```
//!
//! A checksum is the first 16 bytes of a BLAKE3. Block *c* of a pack is its bytes from 65536·*c*
//! up to its length in the header, filled up with zeros; of an empty slot all are zeros and the
//! checksums too.

use std::collections::BTreeSet;

use relevo_wire::{TenantId, VaultId};

use crate::volume::{FileId, FileKind, PackId};

/// The version of parity files that this release writes, and the highest that it reads.
pub const PARITY_VERSION: u32 = 1;
/// Bytes of a block: what is checked, and made anew, at once.
pub const BLOCK: usize = 64 * 1024;

const MAGIC: &[u8; 8] = b"RELEVOPY";
/// Where the second copy of the header begins.
pub(super) const SECOND_COPY: u64 = 8192;
/// Where the table begins.
pub(super) const TABLE: u64 = 16384;
const FIXED: usize = 64;
const SUM: usize = 16;
const SLOT: usize = 16;
/// Slots for which one copy of the header has room.
const MAX_SLOTS: usize = (SECOND_COPY as usize - FIXED - 32) / SLOT;
/// More parity than any settings ask for. A column of as many blocks is held in memory.
const MAX_PARITY: usize = 256;
/// Columns of packs of 4 GiB, far above all that are written: no arithmetic with these overflows.
const MAX_COLUMNS: u32 = 1 << 16;

/// A block's checksum.
pub(super) type Checksum = [u8; SUM];

/// A pack of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Number of the pack.
    pub pack: u32,
    /// Bytes of it that the parity covers.
    pub length: u64,
}

/// What a parity file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Whose vault.
    pub vault: VaultId,
    /// Whose packs.
    pub tenant: TenantId,
    /// Counts from 1 within the tenant.
    pub number: u32,
    /// The packs; nothing in a slot that is empty.
    pub slots: Vec<Option<Member>>,
    /// Parity blocks of each column: so many may be lost.
    pub parity: usize,
    /// Blocks of the longest pack.
    pub columns: u32,
}

impl Group {
    /// A group of these packs.
    pub fn new(
        vault: VaultId,
        tenant: TenantId,
        number: u32,
        slots: Vec<Option<Member>>,
        parity: usize,
    ) -> Self {
        let longest = slots.iter().flatten().map(|m| m.length).max().unwrap_or(0);
        Self {
            vault,
            tenant,
            number,
            slots,
            parity,
            columns: longest.div_ceil(BLOCK as u64) as u32,
        }
    }

    /// Its file.
    pub fn file(&self) -> FileId {
        FileId {
            tenant: self.tenant,
            kind: FileKind::Parity,
            number: self.number,
        }
    }

    /// The file while it is written.
    pub(super) fn new_file(&self) -> FileId {
        FileId {
            kind: FileKind::NewParity,
            ..self.file()
        }
    }

    /// Its packs with their slots.
    pub fn members(&self) -> impl Iterator<Item = (usize, PackId, u64)> + '_ {
        let tenant = self.tenant;
        self.slots.iter().enumerate().filter_map(move |(at, slot)| {
            let Member {
                pack: number,
                length,
            } = (*slot)?;
            Some((at, PackId { tenant, number }, length))
        })
    }

    /// The slot of a pack.
    pub fn slot(&self, pack: PackId) -> Option<usize> {
        self.members().find(|(_, id, _)| *id == pack).map(|m| m.0)
    }

    /// How many packs it has.
    pub fn occupied(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// True when so many of its slots are empty that its packs are better put into a new group.
    pub fn is_sparse(&self) -> bool {
        self.occupied() * 2 <= self.slots.len()
    }

    /// Bytes of a pack's block; fewer than [`BLOCK`] at its end, none behind it.
    pub(super) fn block_length(&self, slot: usize, column: u32) -> usize {
        let length = self.slots[slot].map_or(0, |member| member.length);
        let from = u64::from(column) * BLOCK as u64;
        length.saturating_sub(from).min(BLOCK as u64) as usize
    }

    /// The header, with room up to the table.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut one = Vec::with_capacity(FIXED + 16 * self.slots.len() + 32);
        one.extend_from_slice(MAGIC);
        one.extend_from_slice(&PARITY_VERSION.to_le_bytes());
        one.extend_from_slice(&self.number.to_le_bytes());
        one.extend_from_slice(self.vault.as_bytes());
        one.extend_from_slice(self.tenant.as_bytes());
        one.extend_from_slice(&(self.slots.len() as u16).to_le_bytes());
        one.extend_from_slice(&(self.parity as u16).to_le_bytes());
        one.extend_from_slice(&(BLOCK as u32).to_le_bytes());
        one.extend_from_slice(&self.columns.to_le_bytes());
        one.resize(FIXED, 0);
        for slot in &self.slots {
            let (pack, length) = slot.map_or((0, 0), |m| (m.pack, m.length));
            one.extend_from_slice(&pack.to_le_bytes());
            one.extend_from_slice(&[0; 4]);
            one.extend_from_slice(&length.to_le_bytes());
        }
        let sum = blake3::hash(&one);
        one.extend_from_slice(sum.as_bytes());
        let mut both = vec![0; TABLE as usize];
        both[..one.len()].copy_from_slice(&one);
        both[SECOND_COPY as usize..][..one.len()].copy_from_slice(&one);
        both
    }

    /// Reads the first intact copy, and tells whether both are.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, bool), HeaderError> {
        let copy = |at: usize| Self::decode_one(bytes.get(at..)?);
        match (copy(0), copy(SECOND_COPY as usize)) {
            (Some(first), second) => {
                let both = second.as_ref() == Some(&first);
                first.map(|group| (group, both))
            }
            (None, Some(second)) => second.map(|group| (group, false)),
            (None, None) => Err(HeaderError::Damaged),
        }
    }

    fn decode_one(bytes: &[u8]) -> Option<Result<Self, HeaderError>> {
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        let word = |at: usize| Some(u32::from_le_bytes(array(bytes, at)?));
        let data = usize::from(u16::from_le_bytes(array(bytes, 48)?));
        if data > MAX_SLOTS {
            return None;
        }
        let length = FIXED + SLOT * data;
        let content = bytes.get(..length)?;
        if blake3::hash(content).as_bytes() != bytes.get(length..length + 32)? {
            return None;
        }
        let version = word(8)?;
        if version > PARITY_VERSION || word(52)? as usize != BLOCK {
            return Some(Err(HeaderError::Newer(version)));
        }
        let slots = (0..data).map(|slot| {
            let at = FIXED + SLOT * slot;
            let (pack, length) = (word(at)?, u64::from_le_bytes(array(bytes, at + 8)?));
            Some((pack != 0).then_some(Member { pack, length }))
        });
        let group = Self {
            number: word(12)?,
            vault: VaultId::from_bytes(array(bytes, 16)?),
            tenant: TenantId::from_bytes(array(bytes, 32)?),
            slots: slots.collect::<Option<_>>()?,
            parity: usize::from(u16::from_le_bytes(array(bytes, 50)?)),
            columns: word(56)?,
        };
        group.is_sound().then_some(Ok(group))
    }

    /// Whether a group can be as its header says: a checksum keeps nobody from writing another.
    fn is_sound(&self) -> bool {
        let packs: BTreeSet<u32> = self.slots.iter().flatten().map(|m| m.pack).collect();
        let room = u64::from(self.columns) * BLOCK as u64;
        !self.slots.is_empty()
            && (1..=MAX_PARITY).contains(&self.parity)
            && self.columns <= MAX_COLUMNS
            && packs.len() == self.occupied()
            && self.slots.iter().flatten().all(|m| m.length <= room)
    }

    /// Bytes of a row of the table.
    pub(super) fn row_length(&self) -> usize {
        (self.slots.len() + self.parity + 1) * SUM
    }

    /// Where a column's row is.
    pub(super) fn row_at(&self, column: u32) -> u64 {
        TABLE + u64::from(column) * self.row_length() as u64
    }

    fn shards_at(&self) -> u64 {
        self.row_at(self.columns).next_multiple_of(4096)
    }

    /// Where a column's parity blocks are.
    pub(super) fn parity_at(&self, column: u32) -> u64 {
        self.shards_at() + u64::from(column) * (self.parity * BLOCK) as u64
    }

    /// Where the second copy of a column's row is.
    pub(super) fn second_row_at(&self, column: u32) -> u64 {
        self.parity_at(self.columns) + u64::from(column) * self.row_length() as u64
    }

    /// Bytes of the whole file.
    pub fn file_length(&self) -> u64 {
        self.second_row_at(self.columns)
    }
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged,
    Newer(u32),
}

/// The checksums of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub data: Vec<Checksum>,
    pub parity: Vec<Checksum>,
}

impl Row {
    pub fn encode(&self, column: u32) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .data
            .iter()
            .chain(&self.parity)
            .flatten()
            .copied()
            .collect();
        let sum = row_sum(column, &bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// Nothing when the bytes are not this column's row as it was written.
    pub fn decode(group: &Group, column: u32, bytes: &[u8]) -> Option<Self> {
        let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
        if bytes.len() != group.row_length() || row_sum(column, content) != sum {
            return None;
        }
        let mut sums = content.as_chunks::<SUM>().0.iter().copied();
        let data = sums.by_ref().take(group.slots.len()).collect();
        Some(Self {
            data,
            parity: sums.collect(),
        })
    }
}

/// A block's checksum.
pub(super) fn checksum(block: &[u8]) -> Checksum {
    let mut sum = [0; SUM];
    sum.copy_from_slice(&blake3::hash(block).as_bytes()[..SUM]);
    sum
}

fn row_sum(column: u32, content: &[u8]) -> Checksum {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&column.to_le_bytes()).update(content);
    let mut sum = [0; SUM];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..SUM]);
    sum
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn group() -> Group {
        let member = |pack| Member {
            pack,
            length: 100_000 * u64::from(pack),
        };
        let slots = vec![Some(member(1)), None, Some(member(3)), Some(member(4))];
        Group::new(VaultId::random(), TenantId::random(), 5, slots, 2)
    }

    /// A field of the header with what it is said to be.
    fn lie() -> impl Strategy<Value = (usize, Vec<u8>)> {
        let number = prop_oneof![
            any::<u64>(),
            Just(u64::MAX),
            (0u32..64).prop_map(|bit| 1 << bit),
            0u64..1000,
        ];
        let place = prop_oneof![
            Just((48, 2)),
            Just((50, 2)),
            Just((56, 4)),
            (0usize..128, 1usize..=8).prop_map(|p| p)
        ];
        (place, number)
            .prop_map(|((at, length), number)| (at, number.to_le_bytes()[..length].to_vec()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Guards the vault against headers that somebody made up, checksum and all: they name
        /// no place that cannot be computed, and no more memory than a group takes.
        #[test]
        fn made_up_headers_are_refused_or_harmless(
            lies in proptest::collection::vec(lie(), 1..4),
            grown in 0usize..3,
        ) {
            let mut bytes = group().encode();
            for (at, lie) in &lies {
                bytes[*at..at + lie.len()].copy_from_slice(lie);
            }
            let data = usize::from(u16::from_le_bytes([bytes[48], bytes[49]]));
            bytes.resize(TABLE as usize * (1 + grown), 7);
            let length = FIXED + SLOT * data;
            if length + 32 <= bytes.len() {
                let sum = blake3::hash(&bytes[..length]);
                bytes[length..length + 32].copy_from_slice(sum.as_bytes());
            }
            // The second copy is no witness here.
            if length + 32 <= SECOND_COPY as usize {
                bytes[SECOND_COPY as usize..].fill(0);
            }
            if let Ok((group, _)) = Group::decode(&bytes) {
                prop_assert!(group.slots.len() <= MAX_SLOTS && group.parity <= MAX_PARITY);
                prop_assert!(group.row_length() < 16 * 1024);
                let parity = u64::from(group.columns) * (group.parity * BLOCK) as u64;
                prop_assert!(group.file_length() > parity);
                prop_assert!(group.file_length() < 1 << 45);
                for slot in 0..group.slots.len() {
                    prop_assert_eq!(group.block_length(slot, group.columns), 0);
                }
                let again = group.encode();
                prop_assert_eq!(Group::decode(&again), Ok((group, true)));
            }
        }
    }
}
