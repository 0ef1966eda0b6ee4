//! Whether a catalogue fits what was just read from the packs behind what it knew.
//!
//! A recovery point is written only when everything below it is there. So one that was read and
//! is not whole says that the catalogue is not what it was when the point came: somebody brought
//! an older one back, which does not know that a chunk was found again that it calls removed.

use std::collections::{HashMap, HashSet};

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::manifest::PublicManifest;
use relevo_wire::{ChunkId, TenantId};

use super::Ledger;
use crate::catalogue::Located;
use crate::completeness::{self, Shelf};
use crate::error::StoreError;
use crate::store::read_chunk;
use crate::volume::{PackId, Volume};

/// A recovery point that was just read.
pub(super) type JustRead = (TenantId, PublicManifest);

impl<V: Volume> Ledger<V> {
    /// True when all points just read are whole. Costs the reading of the nodes that were just
    /// read too: those that the catalogue knew keep what is below them.
    pub(super) fn fits(
        &self,
        points: &[JustRead],
        known: &HashMap<PackId, u64>,
    ) -> Result<bool, StoreError> {
        let mut proven = HashMap::<TenantId, HashSet<ChunkId>>::new();
        for (tenant, public) in points {
            if self.catalogue.point_place(*tenant, public.point)?.is_none() {
                continue;
            }
            let mut shelf = NewShelf {
                ledger: self,
                tenant: *tenant,
                known,
                proven: proven.entry(*tenant).or_default(),
            };
            if !completeness::faults(&mut shelf, public, 1)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Nodes that the catalogue knew before are whole.
struct NewShelf<'a, V> {
    ledger: &'a Ledger<V>,
    tenant: TenantId,
    known: &'a HashMap<PackId, u64>,
    proven: &'a mut HashSet<ChunkId>,
}

impl<V: Volume> Shelf for NewShelf<'_, V> {
    fn locate(&mut self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, StoreError> {
        self.ledger.catalogue.locate(self.tenant, ids)
    }

    fn read(&mut self, id: ChunkId, at: Located) -> Result<Option<CheckedChunk>, StoreError> {
        Ok(read_chunk(&*self.ledger.volume, self.tenant, id, at).ok())
    }

    fn is_complete(&self, id: ChunkId, at: &Located) -> bool {
        let (tenant, number) = (self.tenant, at.pack);
        let known = self.known.get(&PackId { tenant, number });
        known.is_some_and(|&known| at.offset < known) || self.proven.contains(&id)
    }

    fn set_complete(&mut self, id: ChunkId) {
        self.proven.insert(id);
    }
}
