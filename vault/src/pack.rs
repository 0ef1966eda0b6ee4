//! Layout of a pack file: a header, twice, and entries.
//!
//! ```text
//! pack header        offset  size            entry header       offset  size
//!   "RELEVOPK"            0     8              magic                 0     4  D7 'R' 'E' 1A
//!   version = 1           8     4              kind                  4     1
//!   pack number          12     4              zero                  5     3
//!   vault                16    16              length of body        8     4
//!   tenant               32    16              zero                 12     4
//!   created, ms          48     8              id = BLAKE3(body)    16    32
//!   salt                 56    32              checksum             48    16
//!   zero                 88     8            body, then zeros up to a multiple of 16
//!   BLAKE3 of the above  96    32
//! copies at 0 and 4096; first entry at 8192. Numbers are little endian.
//! ```
//!
//! An entry header's checksum is the first 16 bytes of BLAKE3 keyed with the pack's salt over
//! its offset in the pack (8 bytes) and its first 48 bytes. Agents never learn the salt: bytes
//! inside a hostile chunk cannot pass for an entry when a scan looks for the next one behind
//! a damage. The header is there twice since without its salt no entry can be told.

use relevo_wire::id::random_bytes;
use relevo_wire::{TenantId, Timestamp, VaultId};

use crate::volume::PackId;

/// The version of pack files that this release writes, and the highest that it reads.
pub const PACK_VERSION: u32 = 1;
/// Where entries begin.
pub const FIRST_ENTRY: u64 = 8192;
/// A pack of this many bytes or more gets no further entry.
pub const ROLL_AT: u64 = 64 * 1024 * 1024;
/// Bytes of an entry header.
pub const ENTRY_HEADER: usize = 64;
/// Longest body: a manifest that filled a frame, with what the vault adds.
pub const MAX_BODY: usize = 4 * 1024 * 1024 + 4096;
/// Entries begin at multiples of this.
pub const ALIGN: usize = 16;

const SECOND_COPY: usize = 4096;
const PACK_MAGIC: &[u8; 8] = b"RELEVOPK";
const HEADER_LENGTH: usize = 128;
const ENTRY_MAGIC: [u8; 4] = [0xd7, b'R', b'E', 0x1a];

/// What a pack says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHeader {
    /// [`PACK_VERSION`].
    pub version: u32,
    /// Which pack it is.
    pub pack: PackId,
    /// Whose it is.
    pub vault: VaultId,
    /// When it was begun.
    pub created: Timestamp,
    /// Makes checksums of its entries its own.
    pub salt: [u8; 32],
}

impl PackHeader {
    /// Of a new pack.
    pub fn new(vault: VaultId, pack: PackId) -> Self {
        Self {
            version: PACK_VERSION,
            pack,
            vault,
            created: Timestamp::now(),
            salt: random_bytes(),
        }
    }

    /// The first [`FIRST_ENTRY`] bytes of the pack.
    pub fn encode(&self) -> Vec<u8> {
        let mut one = Vec::with_capacity(HEADER_LENGTH);
        one.extend_from_slice(PACK_MAGIC);
        one.extend_from_slice(&self.version.to_le_bytes());
        one.extend_from_slice(&self.pack.number.to_le_bytes());
        one.extend_from_slice(self.vault.as_bytes());
        one.extend_from_slice(self.pack.tenant.as_bytes());
        one.extend_from_slice(&self.created.as_millis().to_le_bytes());
        one.extend_from_slice(&self.salt);
        one.resize(HEADER_LENGTH - 32, 0);
        let sum = blake3::hash(&one);
        one.extend_from_slice(sum.as_bytes());
        let mut both = vec![0; FIRST_ENTRY as usize];
        both[..HEADER_LENGTH].copy_from_slice(&one);
        both[SECOND_COPY..SECOND_COPY + HEADER_LENGTH].copy_from_slice(&one);
        both
    }

    /// Reads the first intact copy, and tells whether both are.
    pub fn decode(bytes: &[u8]) -> Option<(Self, bool)> {
        let copy = |at: usize| Self::decode_one(bytes.get(at..at + HEADER_LENGTH)?);
        match (copy(0), copy(SECOND_COPY)) {
            (Some(first), second) => Some((first, second == Some(first))),
            (None, Some(second)) => Some((second, false)),
            (None, None) => None,
        }
    }

    fn decode_one(bytes: &[u8]) -> Option<Self> {
        let (content, sum) = bytes.split_at_checked(HEADER_LENGTH - 32)?;
        if !content.starts_with(PACK_MAGIC) || blake3::hash(content).as_bytes() != sum {
            return None;
        }
        Some(Self {
            version: u32::from_le_bytes(array(content, 8)?),
            pack: PackId {
                number: u32::from_le_bytes(array(content, 12)?),
                tenant: TenantId::from_bytes(array(content, 32)?),
            },
            vault: VaultId::from_bytes(array(content, 16)?),
            created: Timestamp::from_millis(i64::from_le_bytes(array(content, 48)?)),
            salt: array(content, 56)?,
        })
    }
}

/// What an entry holds. Numbers are those on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// Bytes that a crash left half-written, covered so that the pack is whole again.
    Void = 0,
    /// A sealed chunk, data or node.
    Chunk = 1,
    /// A recovery point.
    Point = 2,
    /// A server's enrolment.
    Server = 3,
    /// A recovery site's enrolment.
    Site = 4,
    /// A recovery point was deleted.
    Deletion = 5,
    /// A pack's live entries were copied, and the pack is gone or about to be.
    Retired = 6,
    /// A recovery point is held back from deletion, or no longer.
    Hold = 7,
    /// A recovery point may not be deleted before a moment of vault time.
    Lock = 8,
    /// How far vault time has come, and the audit log.
    Clock = 9,
    /// The enrolment of an operator, auditor or administrator.
    Person = 10,
    /// Certificates of an identity count no more.
    Revocation = 11,
}

impl EntryKind {
    /// The kind with this number, unless a newer release made it.
    pub fn from_number(number: u8) -> Option<Self> {
        [
            Self::Void,
            Self::Chunk,
            Self::Point,
            Self::Server,
            Self::Site,
            Self::Deletion,
            Self::Retired,
            Self::Hold,
            Self::Lock,
            Self::Clock,
            Self::Person,
            Self::Revocation,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// An entry's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// Number of its [`EntryKind`].
    pub kind: u8,
    /// Bytes of its body.
    pub length: u32,
    /// BLAKE3 of the body; zero for [`EntryKind::Void`].
    pub id: [u8; 32],
}

impl EntryHeader {
    /// Its bytes when it stands at `offset` of the pack with this salt.
    pub fn encode(&self, salt: &[u8; 32], offset: u64) -> [u8; ENTRY_HEADER] {
        let mut bytes = [0; ENTRY_HEADER];
        bytes[..4].copy_from_slice(&ENTRY_MAGIC);
        bytes[4] = self.kind;
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.id);
        let sum = checksum(salt, offset, &bytes[..48]);
        bytes[48..].copy_from_slice(&sum);
        bytes
    }

    /// Reads the header at `offset`; nothing when there is none.
    pub fn decode(bytes: &[u8], salt: &[u8; 32], offset: u64) -> Option<Self> {
        let bytes = bytes.get(..ENTRY_HEADER)?;
        if !bytes.starts_with(&ENTRY_MAGIC) || checksum(salt, offset, &bytes[..48]) != bytes[48..] {
            return None;
        }
        Some(Self {
            kind: bytes[4],
            length: u32::from_le_bytes(array(bytes, 8)?),
            id: array(bytes, 16)?,
        })
    }
}

/// Bytes that an entry with a body of `length` takes in its pack.
pub fn entry_size(length: usize) -> u64 {
    (ENTRY_HEADER + length.next_multiple_of(ALIGN)) as u64
}

/// Appends an entry to `buffer`, whose first byte goes to `base` of the pack.
pub fn push_entry(
    buffer: &mut Vec<u8>,
    base: u64,
    salt: &[u8; 32],
    kind: EntryKind,
    id: [u8; 32],
    body: &[u8],
) {
    let header = EntryHeader {
        kind: kind as u8,
        length: body.len() as u32,
        id,
    };
    buffer.extend_from_slice(&header.encode(salt, base + buffer.len() as u64));
    buffer.extend_from_slice(body);
    buffer.resize(buffer.len().next_multiple_of(ALIGN), 0);
}

fn checksum(salt: &[u8; 32], offset: u64, bytes: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(salt);
    hasher.update(&offset.to_le_bytes()).update(bytes);
    let mut sum = [0; 16];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    sum
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header() -> PackHeader {
        let tenant = TenantId::random();
        PackHeader::new(VaultId::random(), PackId { tenant, number: 7 })
    }

    /// Guards a whole pack against the loss of one sector.
    #[test]
    fn one_copy_of_the_header_is_enough() {
        let header = header();
        let bytes = header.encode();
        assert_eq!(PackHeader::decode(&bytes), Some((header, true)));
        for at in [0, 60, 100, SECOND_COPY, SECOND_COPY + 127] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(PackHeader::decode(&damaged), Some((header, false)));
        }
        assert_eq!(PackHeader::decode(&bytes[..100]), None);
    }

    /// Guards against entries that were copied to another place, or forged inside a chunk.
    #[test]
    fn an_entry_header_counts_only_where_it_was_written() {
        let (salt, other) = ([1; 32], [2; 32]);
        let header = EntryHeader {
            kind: 1,
            length: 5,
            id: [9; 32],
        };
        let bytes = header.encode(&salt, 8192);
        assert_eq!(EntryHeader::decode(&bytes, &salt, 8192), Some(header));
        assert_eq!(EntryHeader::decode(&bytes, &salt, 8208), None);
        assert_eq!(EntryHeader::decode(&bytes, &other, 8192), None);
        for at in 0..48 {
            let mut damaged = bytes;
            damaged[at] ^= 0x80;
            assert_eq!(EntryHeader::decode(&damaged, &salt, 8192), None);
        }
    }
}
