//! Which bytes of a disk could not be read: they are zeros in the image, and the recovery point
//! names them.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of bytes, as runs that neither touch nor overlap.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    /// Beginnings and ends.
    runs: BTreeMap<u64, u64>,
}

impl Unreadable {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes in it.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|(start, end)| end - start).sum()
    }

    pub fn add(&mut self, bytes: Range<u64>) {
        if bytes.is_empty() {
            return;
        }
        let (mut start, mut end) = (bytes.start, bytes.end);
        while let Some((&from, &to)) = self.runs.range(..=end).next_back() {
            if to < start {
                break;
            }
            (start, end) = (start.min(from), end.max(to));
            self.runs.remove(&from);
        }
        self.runs.insert(start, end);
    }

    /// They could be read after all.
    pub fn remove(&mut self, bytes: Range<u64>) {
        if bytes.is_empty() {
            return;
        }
        while let Some((&from, &to)) = self.runs.range(..bytes.end).next_back() {
            if to <= bytes.start {
                return;
            }
            self.runs.remove(&from);
            if to > bytes.end {
                self.runs.insert(bytes.end, to);
            }
            if from < bytes.start {
                self.runs.insert(from, bytes.start);
                return;
            }
        }
    }

    /// Beginnings and ends, ascending.
    pub fn to_vec(&self) -> Vec<(u64, u64)> {
        self.runs
            .iter()
            .map(|(&start, &end)| (start, end))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Guards the list that an administrator relies on: it says of each byte what happened to
        /// it last.
        #[test]
        fn each_byte_is_as_it_was_last_seen(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 0..20),
        ) {
            let (mut set, mut model) = (Unreadable::default(), [false; 80]);
            for (failed, start, length) in steps {
                let bytes = start..start + length;
                model[start as usize..(start + length) as usize].fill(failed);
                match failed {
                    true => set.add(bytes),
                    false => set.remove(bytes),
                }
                let runs = set.to_vec();
                prop_assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", runs);
                for (at, expected) in model.iter().enumerate() {
                    let at = at as u64;
                    let found = runs.iter().any(|(from, to)| (*from..*to).contains(&at));
                    prop_assert_eq!(found, *expected, "byte {} of {:?}", at, &runs);
                }
                let count = model.iter().filter(|failed| **failed).count();
                prop_assert_eq!(set.bytes(), count as u64);
            }
        }
    }
}
