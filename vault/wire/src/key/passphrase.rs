//! A key from a passphrase: argon2id (RFC 9106), made costly for whoever guesses.

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::KeyError;

/// Shortest passphrase taken for new wrappings, in characters. Who has the file guesses without
/// anybody to stop them: length is what holds.
pub const SHORTEST: usize = 12;

/// What one guess costs. Written in the file, so that the defaults may rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for PassphraseCost {
    /// 256 MiB, three passes, one lane: about a second of one processor. Above RFC 9106's second
    /// recommendation (64 MiB, three passes), and small enough for any machine that can recover a
    /// server.
    fn default() -> Self {
        Self {
            memory_kib: 256 * 1024,
            passes: 3,
            lanes: 1,
        }
    }
}

impl PassphraseCost {
    /// Most memory that a file can ask for, in KiB: 1 GiB.
    pub const MOST_MEMORY_KIB: u32 = 1024 * 1024;
    /// Most passes that a file can ask for.
    pub const MOST_PASSES: u32 = 16;
    /// Most lanes that a file can ask for.
    pub const MOST_LANES: u32 = 16;

    /// Refuses what would take all memory or for ever, and what argon2 does not know.
    pub(super) fn check(&self) -> Result<Params, KeyError> {
        let bounded = self.memory_kib <= Self::MOST_MEMORY_KIB
            && self.passes <= Self::MOST_PASSES
            && self.lanes <= Self::MOST_LANES;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        match params {
            Ok(params) if bounded => Ok(params),
            _ => Err(KeyError::Cost {
                memory_kib: self.memory_kib,
                passes: self.passes,
                lanes: self.lanes,
            }),
        }
    }
}

/// A passphrase. Its bytes count as they are: no case, blank or accent is changed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(String);

impl Passphrase {
    /// As typed, or as read from a file: a line break at the end is no part of it.
    pub fn new(text: &str) -> Self {
        Self(text.trim_end_matches(['\r', '\n']).into())
    }

    /// Refuses one that is too short to protect a file.
    pub fn check_long_enough(&self) -> Result<(), KeyError> {
        match self.0.chars().count() {
            SHORTEST.. => Ok(()),
            found => Err(KeyError::ShortPassphrase { found }),
        }
    }

    /// The key that it gives with this salt.
    pub(super) fn key(
        &self,
        salt: &[u8; 16],
        cost: &PassphraseCost,
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let params = cost.check()?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(self.0.as_bytes(), salt, &mut *key)
            .map_err(|_| KeyError::Cost {
                memory_kib: cost.memory_kib,
                passes: cost.passes,
                lanes: cost.lanes,
            })?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards against a file that takes all memory, or never ends.
    #[test]
    fn hostile_costs_are_refused_before_anything_is_allocated() {
        let good = PassphraseCost::default();
        good.check().unwrap();
        for bad in [
            PassphraseCost {
                memory_kib: u32::MAX,
                ..good
            },
            PassphraseCost {
                memory_kib: 0,
                ..good
            },
            PassphraseCost { passes: 17, ..good },
            PassphraseCost { passes: 0, ..good },
            PassphraseCost { lanes: 17, ..good },
            PassphraseCost { lanes: 0, ..good },
        ] {
            assert!(matches!(bad.check(), Err(KeyError::Cost { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_line_break_at_the_end_is_not_part_of_it_and_blanks_are() {
        assert!(Passphrase::new("a b \r\n") == Passphrase::new("a b "));
        assert!(Passphrase::new("a b ") != Passphrase::new("a b"));
        assert!(Passphrase::new("elf letters").check_long_enough().is_err());
        assert!(Passphrase::new("zwölf Zeichen").check_long_enough().is_ok());
    }
}
