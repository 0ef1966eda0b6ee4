//! What proves that spans of disks are as they were: which extents fill them, and the checksums
//! that their file systems keep of every block.

use std::collections::BTreeMap;

use relevo_wire::index::SPAN;

use super::map::UsedMap;

/// Most spans of a disk of which evidence is kept, 20 bytes each: 2 TiB.
const MOST: u64 = 1 << 19;

/// What is known of one span: equal clues of the same span at two times mean that every byte in use
/// was the same all the time between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clue([u8; 16]);

impl Clue {
    /// Nothing is known.
    pub const NONE: Self = Self([0; 16]);

    /// From a record.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// For a record.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether this and an earlier clue prove the same bytes.
    pub fn proves(self, earlier: Self) -> bool {
        self != Self::NONE && self == earlier
    }
}

/// A file system that evidence is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// The disk it begins on.
    pub disk: usize,
    /// Its own identity.
    pub uuid: [u8; 16],
    /// Grows with everything that is written there.
    pub generation: u64,
}

/// Evidence of several disks, by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    disks: BTreeMap<usize, Spans>,
    /// Whose it is.
    pub systems: Vec<System>,
}

/// Of each span what was put together so far, and how many of its bytes that covers.
#[derive(Clone, Debug, Default)]
struct Spans {
    hashes: Vec<[u8; 16]>,
    bytes: Vec<u32>,
}

impl Evidence {
    /// The bytes from `start` to `end` of a disk are what `proof` says. No byte is told of twice.
    pub fn add(&mut self, disk: usize, start: u64, end: u64, proof: &blake3::Hash) {
        let spans = self.disks.entry(disk).or_default();
        let mut at = start;
        while at < end {
            let number = at / SPAN;
            let stop = end.min((number + 1) * SPAN);
            if number < MOST {
                spans.add(number as usize, at, stop, proof);
            }
            at = stop;
        }
    }

    /// Takes what another has of other bytes.
    pub fn merge(&mut self, other: Self) {
        self.systems.extend(other.systems);
        for (disk, theirs) in other.disks {
            let spans = self.disks.entry(disk).or_default();
            spans.reach(theirs.bytes.len());
            for (mine, hash) in spans.hashes.iter_mut().zip(&theirs.hashes) {
                join(mine, hash);
            }
            for (mine, bytes) in spans.bytes.iter_mut().zip(&theirs.bytes) {
                *mine += bytes;
            }
        }
    }

    /// Clues of a disk's spans, in order; of those only in which it covers every byte that is in
    /// use. Spans beyond the last have none.
    pub fn clues(&self, disk: usize, used: &UsedMap) -> Vec<Clue> {
        let Some(spans) = self.disks.get(&disk) else {
            return Vec::new();
        };
        let of = |(number, (hash, bytes)): (u64, (&[u8; 16], &u32))| {
            let covered = u64::from(*bytes);
            match covered > 0 && in_use(used, number) == covered {
                true => Clue(*hash),
                false => Clue::NONE,
            }
        };
        let numbered = (0..).zip(spans.hashes.iter().zip(&spans.bytes));
        numbered.map(of).collect()
    }
}

impl Spans {
    fn add(&mut self, number: usize, start: u64, end: u64, proof: &blake3::Hash) {
        self.reach(number + 1);
        let mut piece = blake3::Hasher::new();
        piece.update(proof.as_bytes());
        piece
            .update(&start.to_le_bytes())
            .update(&end.to_le_bytes());
        let mut hash = [0; 16];
        piece.finalize_xof().fill(&mut hash);
        join(&mut self.hashes[number], &hash);
        self.bytes[number] += (end - start) as u32;
    }

    fn reach(&mut self, count: usize) {
        if self.bytes.len() < count {
            self.hashes.resize(count, [0; 16]);
            self.bytes.resize(count, 0);
        }
    }
}

/// Pieces come in the order of addresses, which may be another than the disk's.
fn join(hash: &mut [u8; 16], other: &[u8; 16]) {
    for (byte, other) in hash.iter_mut().zip(other) {
        *byte ^= other;
    }
}

/// Bytes of a span that are in use.
fn in_use(used: &UsedMap, number: u64) -> u64 {
    let (mut at, end) = (number * SPAN, (number + 1) * SPAN);
    let mut bytes = 0;
    while let Some((from, to)) = used.next_used(at, end) {
        bytes += to - from;
        at = to;
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::used::map::FreeRuns;

    fn used_but(free: &[(u64, u64)]) -> UsedMap {
        let mut runs = FreeRuns::default();
        free.iter().for_each(|run| runs.push(run.0, run.1));
        UsedMap::from(runs)
    }

    /// Guards against believing a span of which a byte in use is not proven, and against one that
    /// holds something else.
    #[test]
    fn a_span_has_a_clue_when_all_that_is_used_is_proven() {
        let (one, other) = (blake3::hash(b"one"), blake3::hash(b"other"));
        let used = used_but(&[(8192, SPAN), (SPAN + 4096, 3 * SPAN)]);
        let of = |pieces: &[(u64, u64, &blake3::Hash)]| {
            let mut evidence = Evidence::default();
            for (start, end, proof) in pieces {
                evidence.add(3, *start, *end, proof);
            }
            evidence.clues(3, &used)
        };
        let whole = of(&[(0, 4096, &one), (4096, 8192, &other)]);
        assert_ne!(whole[0], Clue::NONE);
        let turned = of(&[(4096, 8192, &other), (0, 4096, &one)]);
        assert!(whole[0].proves(turned[0]));
        let exchanged = of(&[(0, 4096, &other), (4096, 8192, &one)]);
        assert!(!exchanged[0].proves(whole[0]));
        let lacking = of(&[(0, 4096, &one)]);
        assert_eq!(lacking, [Clue::NONE]);
        assert!(!lacking[0].proves(lacking[0]), "nothing proves nothing");
        // Over the border of two spans.
        let both = of(&[(SPAN - 4096, SPAN + 4096, &one)]);
        assert_eq!(
            both[0],
            Clue::NONE,
            "what is used of the first is another place"
        );
        assert_eq!(Evidence::default().clues(0, &used), []);
    }

    /// Guards file systems side by side: what one says of a span they share is kept.
    #[test]
    fn evidence_of_two_file_systems_adds_up() {
        let used = used_but(&[(8192, SPAN)]);
        let proof = blake3::hash(b"extent");
        let piece = |start| {
            let mut evidence = Evidence::default();
            evidence.add(0, start, start + 4096, &proof);
            evidence
        };
        let mut both = piece(0);
        both.merge(piece(4096));
        let mut whole = Evidence::default();
        whole.add(0, 0, 4096, &proof);
        whole.add(0, 4096, 8192, &proof);
        assert_eq!(both.clues(0, &used), whole.clues(0, &used));
        assert_ne!(both.clues(0, &used)[0], Clue::NONE);
    }
}
