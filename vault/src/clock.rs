//! Vault time: what locks end in.

use minicbor::{Decode, Encode};
use serde::Serialize;

/// Milliseconds that the vault has been seen running since it was made. No wall clock moves it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize,
)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct VaultTime(#[n(0)] u64);

impl VaultTime {
    /// From milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}
