//! Reasons to read an area whole, and numbers read from bytes.

use std::borrow::Cow;
use std::fmt;

/// Why an area is read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole(Cow<'static, str>);

/// What a reader finds, or why it trusts nothing there.
pub type Seen<T> = Result<T, Whole>;

impl Whole {
    /// A reason, in words that follow "read whole: ".
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Goes on only if `sound`.
pub fn demand(sound: bool, reason: &'static str) -> Seen<()> {
    if sound {
        Ok(())
    } else {
        Err(Whole::new(reason))
    }
}

macro_rules! numbers {
    ($($name:ident $type:ty, $from:ident;)*) => {
        $(
            /// The number at `at`; zero where there are no such bytes.
            pub fn $name(bytes: &[u8], at: usize) -> $type {
                let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
                found.map_or(0, |found| <$type>::$from(*found))
            }
        )*
    };
}

numbers! {
    le16 u16, from_le_bytes;
    le32 u32, from_le_bytes;
    le64 u64, from_le_bytes;
    be16 u16, from_be_bytes;
    be32 u32, from_be_bytes;
    be64 u64, from_be_bytes;
}
