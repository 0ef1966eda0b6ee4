//! Where each chunk is: sixteen bytes a chunk, sorted, all copies kept.

use relevo_wire::ChunkId;

/// Entries stand at multiples of this.
const ALIGN: u64 = relevo_vault::pack::ALIGN as u64;

/// A place in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The first bytes of the id: those that share it are told apart by reading them.
    prefix: u64,
    pack: u32,
    /// In units of [`ALIGN`].
    offset: u32,
}

/// The places of all chunks. Filled, then sorted, then asked.
#[derive(Default)]
pub struct Places(Vec<Place>);

impl Places {
    /// Notes a chunk in pack number `pack` of the list; false when the offset is none that a
    /// vault writes.
    pub fn add(&mut self, id: &[u8; 32], pack: u32, offset: u64) -> bool {
        let Ok(offset) = u32::try_from(offset / ALIGN) else {
            return false;
        };
        let prefix = prefix(id);
        self.0.push(Place {
            prefix,
            pack,
            offset,
        });
        true
    }

    /// To be called once, before the first question.
    pub fn sort(&mut self) {
        self.0.sort_unstable();
        self.0.dedup();
        self.0.shrink_to_fit();
    }

    /// Where the chunk may be, newest first: pack and offset.
    pub fn of(&self, id: &ChunkId) -> impl Iterator<Item = (usize, u64)> + '_ {
        let prefix = prefix(id.as_bytes());
        let from = self.0.partition_point(|place| place.prefix < prefix);
        let end = from + self.0[from..].partition_point(|place| place.prefix == prefix);
        let places = self.0[from..end].iter().rev();
        places.map(|place| (place.pack as usize, u64::from(place.offset) * ALIGN))
    }

    /// Chunks, copies included.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

fn prefix(id: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the choice of the newest copy, and chunks whose ids begin alike.
    #[test]
    fn all_copies_are_found_newest_first() {
        let mut places = Places::default();
        let (mut one, mut alike) = ([7; 32], [7; 32]);
        (one[31], alike[31]) = (1, 2);
        assert!(places.add(&one, 0, 8192));
        assert!(places.add(&[9; 32], 1, 8192));
        assert!(places.add(&alike, 2, 16384));
        assert!(places.add(&one, 2, 8192));
        assert!(!places.add(&one, 2, 1 << 40));
        places.sort();
        let found: Vec<_> = places.of(&ChunkId::from_bytes(one)).collect();
        assert_eq!(found, [(2, 16384), (2, 8192), (0, 8192)]);
        assert_eq!(places.of(&ChunkId::from_bytes([8; 32])).count(), 0);
        assert_eq!(places.count(), 4);
    }
}
