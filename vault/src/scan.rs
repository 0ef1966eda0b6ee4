//! Finds the entries in a pack's bytes, and names the bytes that are none.
//!
//! Behind a damage the scan goes on at the next header whose checksum fits its place.

use bytes::Bytes;

use relevo_wire::ChunkId;

use crate::pack::{ALIGN, ENTRY_HEADER, EntryHeader, EntryKind, MAX_BODY, entry_size};
use crate::record::Record;

/// An intact entry.
#[derive(Debug)]
pub struct Found {
    /// Where its header is.
    pub offset: u64,
    /// Bytes of its body.
    pub length: u32,
    /// What it holds; nothing for voids and for kinds of newer releases.
    pub record: Option<Record>,
}

/// Bytes that are no intact entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What the entry would be, when its header is intact.
    pub id: Option<ChunkId>,
    /// What is wrong.
    pub reason: String,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Intact entries in order.
    pub entries: Vec<Found>,
    /// The rest, in order.
    pub gaps: Vec<Gap>,
    /// Where the last intact entry ends: what lies behind is a torn tail.
    pub end: u64,
    /// Some of the bytes could not be read from the disk.
    pub salvaged: bool,
}

/// Scans `bytes`, whose first byte is at `base` of a pack with this salt. An entry, or the
/// remains of one, begins there.
pub fn scan(bytes: &Bytes, base: u64, salt: &[u8; 32]) -> Scan {
    let mut found = Scan {
        end: base,
        ..Scan::default()
    };
    let mut at = 0;
    while at < bytes.len() {
        let offset = base + at as u64;
        let Some(header) = EntryHeader::decode(&bytes[at..], salt, offset) else {
            let next = resync(bytes, at + ALIGN, base, salt).unwrap_or(bytes.len());
            found.gap(offset, (next - at) as u64, None, "no entry begins here");
            at = next;
            continue;
        };
        let whole = entry_size(header.length as usize) as usize;
        let absurd = header.length as usize > MAX_BODY && header.kind != EntryKind::Void as u8;
        if absurd || whole > bytes.len() - at {
            let next = resync(bytes, at + ALIGN, base, salt).unwrap_or(bytes.len());
            let id = chunk_id(&header);
            found.gap(offset, (next - at) as u64, id, "the entry is cut short");
            at = next;
            continue;
        }
        let body_at = at + ENTRY_HEADER;
        let body = bytes.slice(body_at..body_at + header.length as usize);
        let padding = &bytes[body_at + header.length as usize..at + whole];
        let record = match EntryKind::from_number(header.kind) {
            Some(EntryKind::Void) => Ok(None),
            Some(kind) => Record::decode(kind, &header.id, body).map(Some),
            None if blake3::hash(&body).as_bytes() == &header.id => Ok(None),
            None => Err("its bytes do not hash to its id".into()),
        };
        match record {
            Ok(record) => {
                found.entries.push(Found {
                    offset,
                    length: header.length,
                    record,
                });
                found.end = offset + whole as u64;
                if padding.iter().any(|&byte| byte != 0) {
                    let padding_at = offset + (ENTRY_HEADER + header.length as usize) as u64;
                    let reason = "bytes between two entries are not zero";
                    found.gap(padding_at, padding.len() as u64, None, reason);
                }
            }
            Err(reason) => found.gap(offset, whole as u64, chunk_id(&header), &reason),
        }
        at += whole;
    }
    found
}

impl Scan {
    /// Of bytes none of which could be read.
    pub fn unreadable(offset: u64, length: u64, error: &std::io::Error) -> Self {
        let mut scan = Self {
            end: offset,
            salvaged: true,
            ..Self::default()
        };
        scan.gap(offset, length, None, &format!("it cannot be read: {error}"));
        scan
    }

    fn gap(&mut self, offset: u64, length: u64, id: Option<ChunkId>, reason: &str) {
        self.gaps.push(Gap {
            offset,
            length,
            id,
            reason: reason.into(),
        });
    }

    /// Bytes behind the last intact entry.
    pub fn tail(&self) -> u64 {
        self.gaps
            .iter()
            .filter(|gap| gap.offset >= self.end)
            .map(|gap| gap.length)
            .sum()
    }

    /// Gaps that have intact entries behind them.
    pub fn middle_gaps(&self) -> impl Iterator<Item = &Gap> {
        self.gaps.iter().filter(|gap| gap.offset < self.end)
    }
}

fn chunk_id(header: &EntryHeader) -> Option<ChunkId> {
    (header.kind == EntryKind::Chunk as u8).then(|| ChunkId::from_bytes(header.id))
}

fn resync(bytes: &Bytes, from: usize, base: u64, salt: &[u8; 32]) -> Option<usize> {
    (from..bytes.len())
        .step_by(ALIGN)
        .find(|&at| EntryHeader::decode(&bytes[at..], salt, base + at as u64).is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pack::push_entry;
    use proptest::prelude::*;

    const SALT: [u8; 32] = [3; 32];

    fn pack(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for body in bodies {
            let id = *blake3::hash(body).as_bytes();
            push_entry(&mut bytes, 8192, &SALT, EntryKind::Chunk, id, body);
        }
        bytes
    }

    fn bodies(scan: &Scan) -> Vec<Vec<u8>> {
        scan.entries
            .iter()
            .map(|entry| match &entry.record {
                Some(Record::Chunk(chunk)) => chunk.bytes().to_vec(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    proptest! {
        /// Guards what lies around a damage: one flipped bit costs one entry, and is named.
        #[test]
        fn a_flipped_bit_costs_its_entry_only(
            sizes in proptest::collection::vec(1usize..400, 1..20),
            at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let content: Vec<_> = sizes.iter().enumerate().map(|(i, &n)| vec![i as u8; n]).collect();
            let mut bytes = pack(&content);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let found = scan(&bytes.into(), 8192, &SALT);
            prop_assert_eq!(found.gaps.len(), 1);
            let gap = &found.gaps[0];
            prop_assert!(gap.offset <= 8192 + at as u64 && 8192 + (at as u64) < gap.offset + gap.length);
            let left = bodies(&found);
            prop_assert!(left.len() + 1 >= content.len());
            prop_assert!(left.iter().all(|body| content.contains(body)));
        }

        /// Guards against a torn tail that hides what stands before it, or passes for whole.
        #[test]
        fn a_cut_pack_gives_every_entry_before_the_cut(cut in any::<prop::sample::Index>()) {
            let content: Vec<_> = (1..10u8).map(|i| vec![i; 50 * usize::from(i)]).collect();
            let bytes = pack(&content);
            let cut = cut.index(bytes.len());
            let found = scan(&bytes[..cut].to_vec().into(), 8192, &SALT);
            let left = bodies(&found);
            prop_assert_eq!(&left[..], &content[..left.len()]);
            prop_assert_eq!(found.end + found.tail(), 8192 + cut as u64);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            prop_assert!(scan(&bytes.into(), 8192, &SALT).entries.is_empty());
        }
    }

    /// Guards against a hostile chunk that carries an entry, when the scan must look for one.
    #[test]
    fn an_entry_inside_a_chunk_is_never_taken_for_one() {
        let forged = pack(&[vec![1; 100]]);
        let mut bytes = pack(&[forged, vec![2; 10]]);
        bytes[0] ^= 1;
        let found = scan(&bytes.into(), 8192, &SALT);
        assert_eq!(bodies(&found), vec![vec![2; 10]]);
    }
}
