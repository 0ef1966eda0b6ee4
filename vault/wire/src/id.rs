//! One identifier type per kind of thing, so that a point can never be passed for a server.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use minicbor::{Decode, Decoder, Encode, Encoder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {kind}: expected {digits} hexadecimal digits")]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
    digits: usize,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $len:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The identifier with these bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The identifier in these bytes, if their number is right.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String {
                HEX.encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEX.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                HEX.decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or_else(|| ParseIdError {
                        kind: $kind,
                        text: text.chars().take(80).collect(),
                        digits: 2 * $len,
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(
                d: &mut Decoder<'b>,
                _: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                Self::from_slice(d.bytes()?)
                    .ok_or_else(|| minicbor::decode::Error::message(concat!("length of a ", $kind)))
            }
        }
    };
}

macro_rules! random_identifier {
    ($name:ident) => {
        impl $name {
            /// A new identifier that nobody else has.
            pub fn random() -> Self {
                Self(random_bytes())
            }
        }
    };
}

identifier!(
    /// BLAKE3 of a chunk's sealed bytes: what the vault stores, checks and finds it by.
    ChunkId, 32, "chunk id"
);
identifier!(
    /// A recovery point: one image of one server.
    PointId, 16, "recovery point id"
);
identifier!(
    /// A protected server, given at enrolment and kept for its life.
    ServerId, 16, "server id"
);
identifier!(
    /// An organisation whose servers share keys and chunks, and nothing with others.
    TenantId, 16, "tenant id"
);
identifier!(
    /// A vault: its certificate authority, catalogue and packs.
    VaultId, 16, "vault id"
);
identifier!(
    /// A place that may read recovery points.
    SiteId, 16, "recovery site id"
);
identifier!(
    /// Somebody who looks after a tenant's images: an operator, auditor or administrator.
    PersonId, 16, "person id"
);
identifier!(
    /// One upload, from its opening to its commit.
    SessionId, 16, "session id"
);
random_identifier!(PointId);
random_identifier!(ServerId);
random_identifier!(TenantId);
random_identifier!(VaultId);
random_identifier!(SiteId);
random_identifier!(PersonId);
random_identifier!(SessionId);

impl ChunkId {
    /// The id of these sealed bytes.
    pub fn of(sealed: &[u8]) -> Self {
        Self(*blake3::hash(sealed).as_bytes())
    }
}

/// Bytes from the operating system's generator.
///
/// # Panics
/// When the system has no randomness to give, where going on would be unsafe.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[cfg(feature = "simulation")]
    if crate::simulation::fill(&mut bytes) {
        return bytes;
    }
    if SystemRandom::new().fill(&mut bytes).is_err() {
        panic!("the operating system gave no random bytes");
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_form_reads_back_and_rejects_wrong_lengths() {
        let id = PointId::random();
        assert_eq!(id.to_string().parse::<PointId>().unwrap(), id);
        let error = "abcd".parse::<PointId>().unwrap_err().to_string();
        assert!(error.contains("32 hexadecimal digits"), "{error}");
    }
}
