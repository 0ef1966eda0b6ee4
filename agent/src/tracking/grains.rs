//! Which grains of a disk may have changed: one bit for each 64 KiB.

use std::ops::Range;

/// Bytes of a grain.
pub const GRAIN: u64 = 64 * 1024;

/// A set of grains of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grains {
    size: u64,
    words: Vec<u64>,
}

impl Grains {
    /// None of a disk of `size` bytes.
    pub fn none(size: u64) -> Self {
        Self {
            size,
            words: vec![0; words_of(size)],
        }
    }

    /// From words as the kernel marks them. None when they are not of a disk of this size.
    pub fn from_words(size: u64, words: Vec<u64>) -> Option<Self> {
        (words.len() == words_of(size)).then_some(Self { size, words })
    }

    /// 64 grains each, the first in the lowest bit.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds another set of the same disk.
    pub fn merge(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Adds the grains that these bytes touch.
    pub fn add(&mut self, bytes: Range<u64>) {
        for grain in self.grains_of(bytes) {
            self.words[(grain / 64) as usize] |= 1 << (grain % 64);
        }
    }

    /// Whether any of these bytes may have changed.
    pub fn touch(&self, bytes: Range<u64>) -> bool {
        let grains = self.grains_of(bytes);
        if grains.is_empty() {
            return false;
        }
        let (first, last) = (grains.start, grains.end - 1);
        (first / 64..=last / 64).any(|at| {
            let mut word = self.words[at as usize];
            if at == first / 64 {
                word &= u64::MAX << (first % 64);
            }
            if at == last / 64 {
                word &= u64::MAX >> (63 - last % 64);
            }
            word != 0
        })
    }

    /// Their numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let numbered = (0u64..).zip(&self.words).filter(|(_, word)| **word != 0);
        numbered.flat_map(|(at, word)| {
            (0..64)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| at * 64 + bit)
        })
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Bytes of the disk in them.
    pub fn bytes(&self) -> u64 {
        (self.count() * GRAIN).min(self.size)
    }

    fn grains_of(&self, bytes: Range<u64>) -> Range<u64> {
        let end = bytes.end.min(self.size);
        match bytes.start < end {
            true => bytes.start / GRAIN..end.div_ceil(GRAIN),
            false => 0..0,
        }
    }
}

/// Words of 64 grains that a disk of `size` bytes has.
pub fn words_of(size: u64) -> usize {
    size.div_ceil(GRAIN).div_ceil(64) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Guards every changed block: a set must find what was added, and only its grains.
        #[test]
        fn what_was_added_is_touched_and_nothing_else(
            size in 1u64..40_000_000,
            added in prop::collection::vec((0u64..40_000_000, 1u64..3_000_000), 0..5),
            asked in (0u64..40_000_000, 0u64..3_000_000),
        ) {
            let mut set = Grains::none(size);
            for (at, length) in &added {
                set.add(*at..at + length);
            }
            let grains = |at: u64, length: u64| {
                let end = (at + length).min(size);
                if at < end { at / GRAIN..end.div_ceil(GRAIN) } else { 0..0 }
            };
            let asked_grains = grains(asked.0, asked.1);
            let expected = added.iter().any(|(at, length)| {
                let have = grains(*at, *length);
                have.start.max(asked_grains.start) < have.end.min(asked_grains.end)
            });
            prop_assert_eq!(set.touch(asked.0..asked.0 + asked.1), expected);
            let mut each = Grains::none(size);
            for grain in set.iter() {
                each.add(grain * GRAIN..grain * GRAIN + 1);
            }
            prop_assert_eq!(&each, &set);
            let again = Grains::from_words(size, set.words().to_vec()).unwrap();
            prop_assert_eq!(&again, &set);
        }
    }
}
