//! How the vault says no.

use minicbor::{Decode, Encode};

/// Why the vault refused, in words for the administrator.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of refusal, for programs.
    #[n(0)]
    pub code: RefusalCode,
    /// Cause.
    #[n(1)]
    pub message: String,
    /// What to do about it.
    #[n(2)]
    pub remedy: String,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(code: RefusalCode, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The request breaks the protocol.
    Malformed,
    /// Unknown, used or expired token.
    Token,
    /// The certificate does not allow it.
    Forbidden,
    /// No such server, point or session.
    NotFound,
    /// The vault has no room left.
    Full,
    /// The vault's storage failed.
    Storage,
    /// A chunk does not hash to its id or a manifest contradicts itself.
    Corrupt,
    /// The tenant has stored all that it may.
    Quota,
    /// The recovery point is held or locked.
    Kept,
    /// One that this release does not know.
    Other,
}

impl RefusalCode {
    /// All that this release knows; each one's place is its number.
    pub const KNOWN: [Self; 9] = [
        Self::Malformed,
        Self::Token,
        Self::Forbidden,
        Self::NotFound,
        Self::Full,
        Self::Storage,
        Self::Corrupt,
        Self::Quota,
        Self::Kept,
    ];

    /// In one lower-case word, for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Token => "token",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Full => "full",
            Self::Storage => "storage",
            Self::Corrupt => "corrupt",
            Self::Quota => "quota",
            Self::Kept => "kept",
            Self::Other => "other",
        }
    }
}

impl<C> Encode<C> for RefusalCode {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let number = Self::KNOWN.iter().position(|known| known == self);
        e.u32(number.map_or(u32::MAX, |number| number as u32))?.ok()
    }
}

/// A code of a later release is still a refusal, with its cause and remedy in words.
impl<'b, C> Decode<'b, C> for RefusalCode {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let number = d.u32()? as usize;
        Ok(Self::KNOWN.get(number).copied().unwrap_or(Self::Other))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards older clients: what later vaults refuse is still read as a refusal.
    #[test]
    fn codes_keep_their_numbers_and_unknown_ones_are_refusals_too() {
        for (number, code) in RefusalCode::KNOWN.into_iter().enumerate() {
            let bytes = minicbor::to_vec(code).unwrap();
            assert_eq!(bytes, [number as u8]);
            assert_eq!(minicbor::decode::<RefusalCode>(&bytes).unwrap(), code);
        }
        let later = minicbor::to_vec(23u32).unwrap();
        assert_eq!(
            minicbor::decode::<RefusalCode>(&later).unwrap(),
            RefusalCode::Other
        );
    }
}
