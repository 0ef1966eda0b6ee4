//! The store as a commit's walk sees it.

use std::collections::HashSet;

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::{ChunkId, TenantId};

use crate::catalogue::Located;
use crate::completeness::Shelf;
use crate::error::StoreError;
use crate::store::Store;
use crate::volume::Volume;

/// Complete nodes are handed to the writer in batches of this many.
const MARK_BATCH: usize = 2048;

/// The store as a commit's walk sees it.
pub(super) struct VaultShelf<'a, V: Volume> {
    store: &'a Store<V>,
    tenant: TenantId,
    epoch: i64,
    /// Complete nodes that the catalogue may not show yet.
    fresh: Vec<ChunkId>,
    recent: HashSet<ChunkId>,
}

impl<'a, V: Volume> VaultShelf<'a, V> {
    pub(super) fn new(store: &'a Store<V>, tenant: TenantId) -> Result<Self, StoreError> {
        let epoch = store.read(|c| c.epoch())?;
        Ok(Self {
            store,
            tenant,
            epoch,
            fresh: Vec::new(),
            recent: Default::default(),
        })
    }

    pub(super) fn flush(&mut self) {
        let ids = std::mem::take(&mut self.fresh);
        if !ids.is_empty() {
            self.store.mark_complete(self.tenant, self.epoch, ids);
        }
    }
}

impl<V: Volume> Shelf for VaultShelf<'_, V> {
    fn locate(&mut self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, StoreError> {
        self.store.read(|c| {
            let mut found = c.locate_usable(self.tenant, ids)?;
            // What was proven before a pack was lost is proven again, as long as it is.
            if !c.unusable_packs(self.tenant)?.is_empty() {
                found
                    .iter_mut()
                    .flatten()
                    .for_each(|at| at.complete = false);
            }
            Ok(found)
        })
    }

    fn read(&mut self, id: ChunkId, at: Located) -> Result<Option<CheckedChunk>, StoreError> {
        self.store.find_chunk(self.tenant, id, at)
    }

    fn is_complete(&self, id: ChunkId, at: &Located) -> bool {
        at.complete || self.recent.contains(&id)
    }

    fn set_complete(&mut self, id: ChunkId) {
        self.fresh.push(id);
        // Only a repeated walk below what was just walked is lost when these are dropped.
        if self.recent.len() >= 64 * MARK_BATCH {
            self.recent.clear();
        }
        self.recent.insert(id);
        if self.fresh.len() >= MARK_BATCH {
            self.flush();
        }
    }
}
