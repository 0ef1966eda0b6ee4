//! Which clusters of the file hold the image's own structures: nothing is ever written over
//! them, whatever a damaged table says.

use std::collections::BTreeMap;
use std::fmt;

use super::error::Damage;
use super::header::Geometry;

/// What a cluster holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The header with its extensions.
    Header,
    /// The active L1 table.
    L1,
    /// An L2 table, of the disk or of a snapshot.
    L2,
    /// The table of refcount blocks.
    RefcountTable,
    /// Reference counts.
    RefcountBlock,
    /// The list of snapshots.
    SnapshotList,
    /// A snapshot's L1 table.
    SnapshotL1,
    /// Data of the guest.
    Data,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "the header",
            Self::L1 => "the L1 table",
            Self::L2 => "an L2 table",
            Self::RefcountTable => "the refcount table",
            Self::RefcountBlock => "a refcount block",
            Self::SnapshotList => "the list of snapshots",
            Self::SnapshotL1 => "a snapshot's L1 table",
            Self::Data => "data",
        })
    }
}

/// The clusters that are not data.
pub(super) struct Structures {
    geometry: Geometry,
    roles: BTreeMap<u64, Role>,
}

impl Structures {
    /// With the header alone.
    pub(super) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            roles: BTreeMap::from([(0, Role::Header)]),
        }
    }

    /// Notes a structure of `bytes` bytes at `offset`, which may share no cluster with another.
    pub(super) fn claim(&mut self, offset: u64, bytes: u64, wanted: Role) -> Result<(), Damage> {
        self.check(offset, bytes, wanted)?;
        let first = offset >> self.geometry.cluster_bits;
        for cluster in first..first + self.geometry.clusters(bytes) {
            self.roles.insert(cluster, wanted);
        }
        Ok(())
    }

    /// Notes an L2 table of a snapshot, which may be the disk's or another snapshot's too.
    pub(super) fn claim_shared_l2(&mut self, offset: u64) -> Result<(), Damage> {
        match self.roles.get(&(offset >> self.geometry.cluster_bits)) {
            Some(Role::L2) => Ok(()),
            _ => self.claim(offset, 1, Role::L2),
        }
    }

    /// Checks that a range touches no structure.
    pub(super) fn check(&self, offset: u64, bytes: u64, wanted: Role) -> Result<(), Damage> {
        let bits = self.geometry.cluster_bits;
        let end = offset.saturating_add(bytes).saturating_sub(1) >> bits;
        match self
            .roles
            .range(offset >> bits..=end.max(offset >> bits))
            .next()
        {
            None => Ok(()),
            Some((cluster, is)) => Err(Damage::Overlap {
                offset: cluster << bits,
                wanted,
                is: *is,
            }),
        }
    }

    /// Forgets what a cluster held, now that nothing refers to it.
    pub(super) fn release(&mut self, cluster: u64) {
        self.roles.remove(&cluster);
    }
}
