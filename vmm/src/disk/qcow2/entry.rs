//! Entries of L1 and L2 tables (section "Cluster mapping").

use super::error::Damage;
use super::header::{Geometry, OFFSET_MASK};

/// The cluster pointed to has exactly this reference.
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3).
pub(super) const ZERO: u64 = 1;

/// Where a guest cluster's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    /// In the backing file, or nowhere: zeroes.
    Unallocated,
    /// Zeroes; `host` is a cluster kept for it.
    Zero { host: Option<u64>, copied: bool },
    /// In the cluster at `host`.
    Data { host: u64, copied: bool },
    /// Compressed, in `length` bytes at `offset`.
    Compressed { offset: u64, length: u64 },
}

impl Mapping {
    /// Reads an L2 entry.
    pub(super) fn decode(entry: u64, geometry: Geometry, version: u32) -> Result<Self, Damage> {
        let damage = Damage::Entry {
            what: "L2 entry",
            entry,
        };
        if entry & COMPRESSED != 0 {
            return Self::compressed(entry, geometry).ok_or(damage);
        }
        let host = entry & OFFSET_MASK;
        let (copied, zero) = (entry & COPIED != 0, entry & ZERO != 0);
        let reserved = !(OFFSET_MASK | COPIED | ZERO);
        if entry & reserved != 0
            || !geometry.is_aligned(host)
            || (host == 0 && copied)
            || (zero && version < 3)
        {
            return Err(damage);
        }
        Ok(match (zero, host) {
            (true, 0) => Self::Zero { host: None, copied },
            (true, host) => Self::Zero {
                host: Some(host),
                copied,
            },
            (false, 0) => Self::Unallocated,
            (false, host) => Self::Data { host, copied },
        })
    }

    fn compressed(entry: u64, geometry: Geometry) -> Option<Self> {
        // "x" of the specification.
        let size_shift = 62 - (geometry.cluster_bits - 8);
        let offset = entry & ((1 << size_shift) - 1);
        let sectors = 1 + ((entry & !(COPIED | COMPRESSED)) >> size_shift);
        if entry & COPIED != 0 || offset >= 1 << 56 || offset < geometry.cluster_size() {
            return None;
        }
        let length = sectors * 512 - offset % 512;
        Some(Self::Compressed { offset, length })
    }

    /// The host clusters that hold a reference of this mapping: first and number.
    pub(super) fn references(self, geometry: Geometry) -> (u64, u64) {
        let bits = geometry.cluster_bits;
        match self {
            Self::Unallocated | Self::Zero { host: None, .. } => (0, 0),
            Self::Zero {
                host: Some(host), ..
            }
            | Self::Data { host, .. } => (host >> bits, 1),
            Self::Compressed { offset, length } => {
                let first = offset >> bits;
                (first, ((offset + length - 1) >> bits) - first + 1)
            }
        }
    }
}

/// The L2 table that an L1 entry points to, 0 for none.
pub(super) fn l2_table(entry: u64, geometry: Geometry) -> Result<u64, Damage> {
    let offset = entry & OFFSET_MASK;
    if entry & !(OFFSET_MASK | COPIED) != 0 || !geometry.is_aligned(offset) {
        return Err(Damage::Entry {
            what: "L1 entry",
            entry,
        });
    }
    Ok(offset)
}
