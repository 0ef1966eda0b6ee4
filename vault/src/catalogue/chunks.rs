//! Chunks: where they are, what was proven of them, and which are forgotten.

use std::collections::HashMap;

use rusqlite::params;

use relevo_wire::{ChunkId, TenantId};

use super::Catalogue;
use super::rows::{Depth, ReadError};
use crate::error::StoreError;
use crate::index::State;
use crate::record::ChunkKind;
use crate::volume::PackId;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Number of the pack, of the chunk's tenant.
    pub pack: u32,
    /// Where its entry begins.
    pub offset: u64,
    /// Bytes of the sealed chunk.
    pub length: u32,
    /// What it may be used as.
    pub kind: ChunkKind,
    /// True when all below it was found present, in this epoch.
    pub complete: bool,
}

/// Where a chunk is, and how many refer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkState {
    /// Nothing when it is not stored.
    pub place: Option<Located>,
    /// Stored nodes and recovery points that refer to it.
    pub refs: u64,
}

impl Catalogue {
    /// Where the chunks are and how many refer to each, in the order asked.
    pub fn states(&self, tenant: TenantId, ids: &[ChunkId]) -> Result<Vec<ChunkState>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(vec![ChunkState::default(); ids.len()]);
        };
        self.consistently(|this| {
            let states = this.look_up(tenant, ids, Depth::All)?;
            let places = this.located(tenant, ids, &states)?;
            let both = states.iter().zip(places);
            Ok(both
                .map(|(state, place)| ChunkState {
                    place,
                    refs: state.refs.max(0) as u64,
                })
                .collect())
        })
    }

    /// Where the chunks are, in the order asked.
    pub fn locate(
        &self,
        tenant: TenantId,
        ids: &[ChunkId],
    ) -> Result<Vec<Option<Located>>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(vec![None; ids.len()]);
        };
        self.consistently(|this| {
            let states = this.look_up(tenant, ids, Depth::Place)?;
            this.located(tenant, ids, &states)
        })
    }

    fn located(
        &self,
        tenant: i64,
        ids: &[ChunkId],
        states: &[State],
    ) -> Result<Vec<Option<Located>>, ReadError> {
        let mut proven = self
            .db
            .prepare_cached("SELECT 1 FROM complete WHERE tenant = ?1 AND id = ?2")?;
        let mut found = Vec::with_capacity(ids.len());
        for (id, state) in ids.iter().zip(states) {
            let Some(spot) = state.spot() else {
                found.push(None);
                continue;
            };
            let complete = match spot.kind {
                ChunkKind::Data => false,
                ChunkKind::Node(_) => proven.exists(params![tenant, id.as_bytes()])?,
            };
            found.push(Some(Located {
                pack: spot.pack,
                offset: spot.offset,
                length: spot.length,
                kind: spot.kind,
                complete,
            }));
        }
        Ok(found)
    }

    /// Forgets damaged chunks, so that agents send them again, and begins a new epoch.
    /// Those that were stored again elsewhere stay; with none to forget so does the epoch.
    pub fn forget_chunks(
        &self,
        pack: PackId,
        offsets: std::ops::Range<u64>,
        ids: &[ChunkId],
    ) -> Result<(), StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(());
        };
        let mut forgotten = 0;
        for id in ids {
            if let Some(spot) = self.chunk(tenant, *id)?.spot()
                && spot.pack == pack.number
                && offsets.contains(&spot.offset)
            {
                self.forget_place(tenant, *id)?;
                forgotten += 1;
            }
        }
        match forgotten {
            0 => Ok(()),
            _ => self.set_epoch(),
        }
    }

    /// Notes that all below these nodes is present. Worth nothing when the epoch has changed.
    pub fn mark_complete(
        &self,
        tenant: TenantId,
        epoch: i64,
        ids: &[ChunkId],
    ) -> Result<(), StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(());
        };
        if epoch != self.epoch()? {
            return Ok(());
        }
        let mut note = self
            .db
            .prepare_cached("INSERT OR IGNORE INTO complete VALUES (?1, ?2)")?;
        for id in ids {
            // Only what is still there: one that comes back later is proven anew.
            if self.chunk(tenant, *id)?.spot().is_some() {
                note.execute(params![tenant, id.as_bytes()])?;
            }
        }
        Ok(())
    }

    /// Chunks that the catalogue places in this range of a pack. Slow: reads the tenant's
    /// whole index.
    pub fn chunks_within(
        &self,
        pack: PackId,
        offsets: std::ops::Range<u64>,
    ) -> Result<Vec<ChunkId>, StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(Vec::new());
        };
        let mut within = Vec::new();
        self.each_chunk(tenant, |id, spot| {
            if spot.pack == pack.number && offsets.contains(&spot.offset) {
                within.push(id);
            }
        })?;
        Ok(within)
    }

    /// How many chunks the catalogue places in each pack, below the offset given for it. Slow:
    /// reads the whole index.
    pub fn chunk_counts(&self, packs: &[(PackId, u64)]) -> Result<Vec<u64>, StoreError> {
        let mut limits: HashMap<i64, HashMap<u32, (usize, u64)>> = HashMap::new();
        for (at, (pack, limit)) in packs.iter().enumerate() {
            if let Some(tenant) = self.tenant(pack.tenant)? {
                let of_tenant = limits.entry(tenant).or_default();
                of_tenant.insert(pack.number, (at, *limit));
            }
        }
        let mut counts = vec![0; packs.len()];
        for (tenant, limits) in limits {
            self.each_chunk(tenant, |_, spot| {
                if let Some(&(at, limit)) = limits.get(&spot.pack)
                    && spot.offset < limit
                {
                    counts[at] += 1;
                }
            })?;
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::catalogue::Placed;
    use crate::record::Record;
    use relevo_wire::chunk::CheckedChunk;

    /// Guards a chunk that was sent again against a verification that began before, and what
    /// agents remember against one that finds nothing new.
    #[test]
    fn only_what_is_in_the_damaged_place_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (catalogue, _) = Catalogue::open(&dir.path().join("c")).unwrap();
        let tenant = TenantId::random();
        let pack = |number| PackId { tenant, number };
        let chunk = CheckedChunk::of(vec![1; 10].into());
        let (id, record) = (chunk.id(), Record::Chunk(chunk));
        let placed = Placed {
            offset: 9000,
            record: &record,
        };
        catalogue.take(pack(2), 9100, &[placed]).unwrap();
        let epoch = catalogue.epoch().unwrap();
        let stored = || catalogue.locate(tenant, &[id]).unwrap()[0].is_some();
        for (number, offsets) in [(1, 8192..10_000), (2, 8192..9000), (2, 9001..10_000)] {
            let forgot = catalogue.forget_chunks(pack(number), offsets, &[id]);
            forgot.unwrap();
            assert!(stored());
            assert_eq!(catalogue.epoch().unwrap(), epoch);
        }
        let forgot = catalogue.forget_chunks(pack(2), 9000..9064, &[id]);
        forgot.unwrap();
        assert!(!stored());
        assert_ne!(catalogue.epoch().unwrap(), epoch);
    }
}
