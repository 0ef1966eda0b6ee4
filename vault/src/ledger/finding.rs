//! What the reading of packs found that is not as it was written.

use std::fmt;

use crate::scan::Gap;
use crate::volume::PackId;

/// Something in the packs that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Bytes at the end of the newest pack that a crash left; cut off. Nobody was told of them.
    TornTail {
        /// Which pack.
        pack: PackId,
        /// Where it ends now.
        at: u64,
        /// Bytes cut off.
        length: u64,
    },
    /// Bytes that a crash left between whole entries; covered. Nobody was told of them.
    Covered(PackId, Gap),
    /// Bytes that were damaged.
    Damaged(PackId, Gap),
    /// The pack cannot be read, or is not this vault's.
    Unreadable(PackId, String),
    /// A pack that was there is not, and no entry says that it was retired.
    Missing(PackId),
    /// The pack is shorter than it was; read anew.
    Shrunk(PackId),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornTail { pack, at, length } => write!(
                f,
                "pack {pack}: {length} unfinished bytes behind {at} were cut off; nothing acknowledged was in them"
            ),
            Self::Covered(pack, gap) => write!(
                f,
                "pack {pack}: {} unfinished bytes at {} were covered; nothing acknowledged was in them",
                gap.length, gap.offset
            ),
            Self::Damaged(pack, gap) => {
                write!(
                    f,
                    "pack {pack}: {} damaged bytes at {}: {}",
                    gap.length, gap.offset, gap.reason
                )
            }
            Self::Unreadable(pack, reason) => write!(f, "pack {pack} cannot be used: {reason}"),
            Self::Missing(pack) => write!(f, "pack {pack} is missing"),
            Self::Shrunk(pack) => write!(f, "pack {pack} is shorter than it was"),
        }
    }
}

impl Finding {
    /// True when something that was acknowledged may be lost.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::TornTail { .. } | Self::Covered(..))
    }
}
