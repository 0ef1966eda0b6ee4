//! Tells most of the chunks that are in no row, without looking.

use std::sync::atomic::{AtomicU64, Ordering};

/// 2 MiB: of a million chunks, which hold some 64 GiB, one unknown one in a hundred is looked
/// for in vain.
const WORDS: usize = 1 << 18;

/// A Bloom filter with two bits for each tag. Tags are hashes, so that their own bits serve.
pub struct Filter(Box<[AtomicU64]>);

impl Filter {
    /// Of no rows.
    pub fn new() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    /// A row with this tag is about to be written.
    pub fn insert(&self, tag: &[u8; 32]) {
        for (word, bit) in places(tag) {
            self.0[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// False when no row with this tag was written.
    pub fn may_have(&self, tag: &[u8; 32]) -> bool {
        places(tag)
            .iter()
            .all(|&(word, bit)| self.0[word].load(Ordering::Relaxed) & bit != 0)
    }
}

fn places(tag: &[u8; 32]) -> [(usize, u64); 2] {
    let (a, rest) = tag.split_at(4);
    let place = |bytes: &[u8]| {
        let place = bytes[..4].iter().fold(0, |n, &b| n << 8 | usize::from(b));
        (place / 64 % WORDS, 1 << (place % 64))
    };
    [place(a), place(rest)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: u32) -> [u8; 32] {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    /// Guards against chunks that are sealed and sent anew although their rows are there.
    #[test]
    fn what_was_written_is_always_looked_for_and_little_else() {
        let filter = Filter::new();
        assert!(!filter.may_have(&tag(0)));
        for number in 0..100_000 {
            filter.insert(&tag(number));
        }
        assert!((0..100_000).all(|number| filter.may_have(&tag(number))));
        let wrong = (100_000..200_000).filter(|&number| filter.may_have(&tag(number)));
        assert!(wrong.count() < 100);
    }
}
