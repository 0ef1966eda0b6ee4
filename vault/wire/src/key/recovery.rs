//! A recovery key: 32 random bytes on paper, whole or split among officers, that open a wrapped
//! key file.
//!
//! Files are wrapped to its public half (X25519), which they carry: keys are rotated and papers
//! printed anew without the officers coming together.

use std::fmt;

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::rand::SystemRandom;
use data_encoding::HEXLOWER as HEX;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{KeyError, TenantPrivateKey, shamir, typed};
use crate::id::random_bytes;

/// First byte of a printed recovery key.
const KIND_KEY: u8 = 1;
/// First byte of a printed share.
const KIND_SHARE: u8 = 2;

/// Opens what was wrapped to its public half.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct RecoveryKey([u8; 32]);

/// The public half: wraps and opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryPublicKey(pub(super) [u8; 32]);

/// Names a recovery key, on its papers and in the files that it opens.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecoveryId([u8; 4]);

impl fmt::Display for RecoveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEX.encode(&self.0))
    }
}

impl fmt::Debug for RecoveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoveryId({self})")
    }
}

/// One officer's part of a recovery key.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    /// Its number, from 1.
    pub number: u8,
    /// How many shares give the key.
    pub threshold: u8,
    /// The key that they give.
    pub key: RecoveryId,
    /// Tells one splitting of a key from another.
    pub set: u16,
    value: Zeroizing<[u8; shamir::LENGTH]>,
}

/// Why shares do not give a recovery key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Shares of different keys.
    #[error(
        "share {number} belongs to recovery key {found}, share {other} to recovery key {expected}"
    )]
    OtherKey {
        /// The share that differs from the first.
        number: u8,
        /// Its key.
        found: RecoveryId,
        /// The first share.
        other: u8,
        /// Its key.
        expected: RecoveryId,
    },
    /// Shares of two splittings of one key.
    #[error(
        "share {number} is of set {found:04x}, share {other} of set {expected:04x}: shares of two splittings do not go together"
    )]
    OtherSet {
        /// The share that differs from the first.
        number: u8,
        /// Its set.
        found: u16,
        /// The first share.
        other: u8,
        /// Its set.
        expected: u16,
    },
    /// Two shares of one number that differ.
    #[error("share {0} was given twice, with different content")]
    Twice(u8),
    /// Not enough shares.
    #[error("{given} of the {threshold} shares needed were given (number {numbers})")]
    TooFew {
        /// Different shares given.
        given: usize,
        /// Shares needed.
        threshold: u8,
        /// Their numbers, for people.
        numbers: String,
    },
    /// The shares are sound by themselves and give another key.
    #[error("{0} does not fit the other shares: it was altered")]
    Altered(String),
    /// Neither a recovery key nor a share.
    #[error("these lines are neither a recovery key nor a share of one")]
    NotARecoveryKey,
    /// More than this release knows.
    #[error(
        "a recovery key cannot be split {threshold} of {count}: 2 to 255 shares, of which 2 or more give the key"
    )]
    BadSplit {
        /// Shares needed.
        threshold: u8,
        /// Shares made.
        count: u8,
    },
}

impl RecoveryKey {
    /// A new one.
    pub fn generate() -> Self {
        Self(random_bytes())
    }

    /// The half that wraps.
    pub fn public(&self) -> Result<RecoveryPublicKey, KeyError> {
        Ok(RecoveryPublicKey(self.agreement()?.public()?.0))
    }

    /// Its lines, to be printed.
    pub fn lines(&self) -> Vec<String> {
        let mut payload = Zeroizing::new(vec![KIND_KEY]);
        payload.extend_from_slice(&self.0);
        typed::lines(&payload)
    }

    /// Splits it into `count` shares, any `threshold` of which give it.
    pub fn split(&self, threshold: u8, count: u8) -> Result<Vec<Share>, KeyError> {
        if threshold < 2 || threshold > count {
            return Err(ShareError::BadSplit { threshold, count }.into());
        }
        let key = self.public()?.id();
        let set = u16::from_le_bytes(random_bytes());
        let points = shamir::split(&self.0, threshold, count);
        let share = |(number, value)| Share {
            number,
            threshold,
            key,
            set,
            value,
        };
        Ok(points.into_iter().map(share).collect())
    }

    /// From what was typed: the key itself, or enough shares.
    pub fn from_typed(texts: &[Zeroizing<Vec<u8>>]) -> Result<Self, KeyError> {
        let mut shares = Vec::new();
        for text in texts {
            match (text.first(), text.get(1..)) {
                (Some(&KIND_KEY), Some(key)) if key.len() == 32 => {
                    let mut bytes = [0; 32];
                    bytes.copy_from_slice(key);
                    return Ok(Self(bytes));
                }
                _ => shares.push(Share::decode(text).ok_or(ShareError::NotARecoveryKey)?),
            }
        }
        Self::combine(&shares)
    }

    /// From shares; says which of them is wrong.
    pub fn combine(shares: &[Share]) -> Result<Self, KeyError> {
        let Some(first) = shares.first() else {
            return Err(ShareError::NotARecoveryKey.into());
        };
        let mut used: Vec<&Share> = Vec::new();
        for share in shares {
            let (number, other) = (share.number, first.number);
            if share.key != first.key {
                let (found, expected) = (share.key, first.key);
                return Err(ShareError::OtherKey {
                    number,
                    found,
                    other,
                    expected,
                }
                .into());
            }
            if (share.set, share.threshold) != (first.set, first.threshold) {
                let (found, expected) = (share.set, first.set);
                return Err(ShareError::OtherSet {
                    number,
                    found,
                    other,
                    expected,
                }
                .into());
            }
            match used.iter().find(|known| known.number == number) {
                Some(known) if known.value != share.value => {
                    return Err(ShareError::Twice(number).into());
                }
                Some(_) => {}
                None => used.push(share),
            }
        }
        let numbers = |shares: &[&Share]| {
            let numbers: Vec<_> = shares.iter().map(|s| s.number.to_string()).collect();
            numbers.join(", ")
        };
        let needed = usize::from(first.threshold);
        if used.len() < needed {
            return Err(ShareError::TooFew {
                given: used.len(),
                threshold: first.threshold,
                numbers: numbers(&used),
            }
            .into());
        }
        if let Some(key) = Self::of(&used, first.key) {
            return Ok(key);
        }
        // With one to spare, leaving out the wrong one gives the key and so names it.
        let wrong = (0..used.len()).find(|&left_out| {
            let mut rest = used.clone();
            rest.remove(left_out);
            rest.len() >= needed && Self::of(&rest, first.key).is_some()
        });
        Err(ShareError::Altered(match wrong {
            Some(at) => format!("share {}", used[at].number),
            None => format!("one of the shares {}", numbers(&used)),
        })
        .into())
    }

    fn of(shares: &[&Share], id: RecoveryId) -> Option<Self> {
        let points: Vec<shamir::Point> =
            shares.iter().map(|s| (s.number, s.value.clone())).collect();
        let key = Self(*shamir::combine(&points));
        (key.public().ok()?.id() == id).then_some(key)
    }

    fn agreement(&self) -> Result<TenantPrivateKey, KeyError> {
        Ok(TenantPrivateKey(blake3::derive_key(
            "relevo 1 recovery key",
            &self.0,
        )))
    }

    /// The key that [`RecoveryPublicKey::encapsulate`] made, from its clear half.
    pub(super) fn decapsulate(
        &self,
        ephemeral: &[u8; 32],
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let recipient = self.public()?;
        let own = self.agreement()?.agreement_key()?;
        let peer = UnparsedPublicKey::new(&X25519, ephemeral);
        agreement::agree(&own, peer, KeyError::BadKey, |shared| {
            Ok(wrapping_key(ephemeral, &recipient.0, shared))
        })
    }
}

impl RecoveryPublicKey {
    /// What the papers of its key are marked with.
    pub fn id(&self) -> RecoveryId {
        let hash = blake3::derive_key("relevo 1 recovery key id", &self.0);
        RecoveryId([hash[0], hash[1], hash[2], hash[3]])
    }

    /// A fresh key for one wrapping, and what the recovery key's holder finds it by.
    pub(super) fn encapsulate(&self) -> Result<([u8; 32], Zeroizing<[u8; 32]>), KeyError> {
        let own = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())
            .map_err(|_| KeyError::BadKey)?;
        let public = own.compute_public_key().map_err(|_| KeyError::BadKey)?;
        let ephemeral: [u8; 32] = public.as_ref().try_into().map_err(|_| KeyError::BadKey)?;
        let peer = UnparsedPublicKey::new(&X25519, self.0);
        let key = agreement::agree_ephemeral(own, peer, KeyError::BadKey, |shared| {
            Ok(wrapping_key(&ephemeral, &self.0, shared))
        })?;
        Ok((ephemeral, key))
    }
}

fn wrapping_key(ephemeral: &[u8; 32], recipient: &[u8; 32], shared: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key("relevo 1 recovery key wrapping");
    hasher.update(ephemeral).update(recipient).update(shared);
    Zeroizing::new(*hasher.finalize().as_bytes())
}

impl Share {
    /// Its lines, to be printed.
    pub fn lines(&self) -> Vec<String> {
        let mut payload = Zeroizing::new(vec![KIND_SHARE, self.threshold, self.number]);
        payload.extend_from_slice(&self.set.to_be_bytes());
        payload.extend_from_slice(&self.key.0);
        payload.extend_from_slice(&*self.value);
        typed::lines(&payload)
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (head, value) = payload.split_at_checked(9)?;
        let &[KIND_SHARE, threshold, number, high, low, a, b, c, d] = head else {
            return None;
        };
        if number == 0 || threshold < 2 {
            return None;
        }
        Some(Self {
            number,
            threshold,
            key: RecoveryId([a, b, c, d]),
            set: u16::from_be_bytes([high, low]),
            value: Zeroizing::new(value.try_into().ok()?),
        })
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} of set {:04x})", self.number, self.set)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn typed_again(lines: &[String]) -> Vec<Zeroizing<Vec<u8>>> {
        typed::read(&lines.join("\n")).unwrap()
    }

    fn error(shares: &[&Share]) -> String {
        let shares: Vec<Share> = shares.iter().map(|s| (*s).clone()).collect();
        match RecoveryKey::combine(&shares) {
            Ok(_) => panic!("the shares were taken"),
            Err(error) => error.to_string(),
        }
    }

    proptest! {
        /// Guards the paper: printed and typed again, any k of n shares are the key.
        #[test]
        fn any_k_of_n_typed_shares_are_the_key(
            (k, n) in (2u8..7).prop_flat_map(|n| (2..=n, Just(n))), first in 0usize..7,
        ) {
            let key = RecoveryKey::generate();
            let shares = key.split(k, n).unwrap();
            let chosen: Vec<String> = (0..usize::from(k))
                .flat_map(|i| shares[(first + i) % usize::from(n)].lines())
                .collect();
            prop_assert!(RecoveryKey::from_typed(&typed_again(&chosen)).unwrap() == key);
        }
    }

    #[test]
    fn a_key_is_typed_again_and_takes_three_lines_as_a_share_does() {
        let key = RecoveryKey::generate();
        assert_eq!(key.lines().len(), 3);
        assert_eq!(key.split(2, 3).unwrap()[0].lines().len(), 3);
        assert!(RecoveryKey::from_typed(&typed_again(&key.lines())).unwrap() == key);
    }

    /// Guards that whoever collects shares is told which one is wrong.
    #[test]
    fn wrong_shares_are_named() {
        let key = RecoveryKey::generate();
        let (one, again) = (key.split(3, 5).unwrap(), key.split(3, 5).unwrap());
        let other = RecoveryKey::generate().split(3, 5).unwrap();
        let too_few = error(&[&one[0], &one[4]]);
        assert!(
            too_few.contains("2 of the 3") && too_few.contains("1, 5"),
            "{too_few}"
        );
        assert!(error(&[&one[0], &one[0], &one[1]]).contains("2 of the 3"));
        let mixed = error(&[&one[0], &one[1], &other[3]]);
        assert!(
            mixed.starts_with("share 4 belongs to recovery key"),
            "{mixed}"
        );
        let sets = error(&[&one[0], &again[1], &one[2]]);
        assert!(sets.starts_with("share 2 is of set"), "{sets}");
        let mut altered = one[1].clone();
        altered.value[7] ^= 1;
        let unknown = error(&[&one[0], &altered, &one[2]]);
        assert!(unknown.contains("one of the shares 1, 2, 3"), "{unknown}");
        let named = error(&[&one[0], &altered, &one[2], &one[3]]);
        assert!(named.starts_with("share 2 does not fit"), "{named}");
        assert!(error(&[&one[1], &altered]).contains("share 2 was given twice"));
        assert!(key.split(1, 3).is_err() && key.split(4, 3).is_err());
    }
}
