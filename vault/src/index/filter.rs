//! Tells that a key is not in a set, without the set: an xor filter with fingerprints of 8 bits.
//!
//! Graf and Lemire, "Xor Filters: Faster and Smaller Than Bloom and Cuckoo Filters" (2020).
//! Of keys that are not in the set 1 in 256 passes. About 1.23 bytes for each key. It is made
//! for a group of records, not for a whole file, so that making it needs little memory.
//!
//! The ids of chunks are hashes, yet who stores chunks may choose among many: hence a seed that
//! he does not know, and equal keys are no obstacle.

/// Bytes before the fingerprints: the seed.
const SEED: usize = 8;
/// This seed says that there is no filter: everything may be in the set.
const NO_FILTER: u64 = u64::MAX;
/// Seeds to try. One fails less than once in ten times, all of them never.
const SEEDS: u64 = 64;

/// Bytes of a filter for so many keys.
pub fn bytes_for(keys: usize) -> usize {
    SEED + 3 * third(keys)
}

/// Fingerprints in each of the filter's three parts.
fn third(keys: usize) -> usize {
    (32 + keys + keys * 23 / 100).div_ceil(3)
}

/// Where a key's three fingerprints are, and what they give together.
struct Hash {
    at: [usize; 3],
    print: u8,
}

fn hash(key: u64, seed: u64, third: usize) -> Hash {
    // The finaliser of MurmurHash3.
    let mut h = key.wrapping_add(seed);
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^= h >> 33;
    let reduce = |word: u64| (((word & 0xffff_ffff) * third as u64) >> 32) as usize;
    Hash {
        at: [
            reduce(h),
            third + reduce(h.rotate_left(21)),
            2 * third + reduce(h.rotate_left(42)),
        ],
        print: (h ^ (h >> 32)) as u8,
    }
}

/// True when the key may be in the set whose filter this is. Of `filter`s of another length
/// than [`bytes_for`] gives, nothing is said: true.
pub fn may_contain(filter: &[u8], key: u64) -> bool {
    let Some((seed, prints)) = filter.split_first_chunk::<SEED>() else {
        return true;
    };
    let seed = u64::from_le_bytes(*seed);
    if seed == NO_FILTER || prints.is_empty() {
        return true;
    }
    let hash = hash(key, seed, prints.len() / 3);
    let [a, b, c] = hash.at;
    prints[a] ^ prints[b] ^ prints[c] == hash.print
}

/// Makes filters, using the same memory again.
#[derive(Default)]
pub struct FilterMaker {
    keys: Vec<u64>,
    /// Of each fingerprint: xor of the keys that use it, and their number.
    uses: Vec<(u64, u32)>,
    /// Fingerprints that only one key uses.
    lone: Vec<u32>,
    /// Keys in the order in which they were taken out, each with its own fingerprint.
    taken: Vec<(u64, u32)>,
}

impl FilterMaker {
    /// Takes in a key.
    pub fn add(&mut self, key: u64) {
        self.keys.push(key);
    }

    /// True when no key was taken in since the last filter.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Writes the filter of the keys taken in since the last one; [`bytes_for`] says its length.
    pub fn finish(&mut self, seed: u64, into: &mut Vec<u8>) {
        let third = third(self.keys.len());
        let length = bytes_for(self.keys.len());
        // Two equal keys would stand in each other's way for ever.
        self.keys.sort_unstable();
        self.keys.dedup();
        let start = into.len();
        for attempt in 0..SEEDS {
            let seed = seed.wrapping_add(attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            if seed != NO_FILTER && self.take_out(seed, third) {
                into.extend_from_slice(&seed.to_le_bytes());
                into.resize(start + length, 0);
                let prints = &mut into[start + SEED..];
                for &(key, own) in self.taken.iter().rev() {
                    let hash = hash(key, seed, third);
                    let [a, b, c] = hash.at;
                    // Its own is still 0, so that it may stand among the three.
                    prints[own as usize] = hash.print ^ prints[a] ^ prints[b] ^ prints[c];
                }
                self.keys.clear();
                return;
            }
        }
        into.extend_from_slice(&NO_FILTER.to_le_bytes());
        into.resize(start + length, 0);
        self.keys.clear();
    }

    /// Takes keys out, always one that alone uses a fingerprint. True when none is left.
    fn take_out(&mut self, seed: u64, third: usize) -> bool {
        self.uses.clear();
        self.uses.resize(3 * third, (0, 0));
        self.lone.clear();
        self.taken.clear();
        for &key in &self.keys {
            for at in hash(key, seed, third).at {
                self.uses[at].0 ^= key;
                self.uses[at].1 += 1;
            }
        }
        for (at, &(_, users)) in self.uses.iter().enumerate() {
            if users == 1 {
                self.lone.push(at as u32);
            }
        }
        while let Some(own) = self.lone.pop() {
            let (key, users) = self.uses[own as usize];
            if users != 1 {
                continue;
            }
            self.taken.push((key, own));
            for at in hash(key, seed, third).at {
                let entry = &mut self.uses[at];
                entry.0 ^= key;
                entry.1 -= 1;
                if entry.1 == 1 {
                    self.lone.push(at as u32);
                }
            }
        }
        self.taken.len() == self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u64) -> u64 {
        let hash = blake3::hash(&n.to_le_bytes());
        u64::from_le_bytes(super::super::layout::part(hash.as_bytes(), 0))
    }

    fn filter(keys: impl IntoIterator<Item = u64>, seed: u64) -> Vec<u8> {
        let (mut maker, mut bytes) = (FilterMaker::default(), Vec::new());
        keys.into_iter().for_each(|key| maker.add(key));
        maker.finish(seed, &mut bytes);
        bytes
    }

    /// Guards what the filter is for: it lets all through that is there, and little else.
    #[test]
    fn all_keys_pass_and_few_others() {
        for keys in [1, 2, 100, 43_520] {
            let made = filter((0..keys).map(key), 7);
            assert_eq!(made.len(), bytes_for(keys as usize));
            assert!((0..keys).all(|n| may_contain(&made, key(n))));
            let passed = (keys..keys + 200_000).filter(|&n| may_contain(&made, key(n)));
            let passed = passed.count();
            assert!(
                (500..1200).contains(&passed),
                "{passed} of 200,000 with {keys} keys"
            );
        }
    }

    /// Guards against a maker that never ends, or forgets keys, when keys are alike.
    #[test]
    fn equal_keys_and_the_seed_that_means_no_filter_are_no_obstacle() {
        let made = filter([5, 5, 5, 9, 9], NO_FILTER);
        assert_eq!(made.len(), bytes_for(5));
        assert!(may_contain(&made, 5) && may_contain(&made, 9));
        assert!(may_contain(&filter([], 1), 3) || bytes_for(0) > SEED);
    }

    proptest! {
        #[test]
        fn any_keys_pass(keys in proptest::collection::vec(0u64..40, 0..200), seed: u64) {
            let made = filter(keys.iter().copied(), seed);
            prop_assert!(keys.iter().all(|&key| may_contain(&made, key)));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), key: u64) {
            may_contain(&bytes, key);
        }
    }
}
