//! Chunks: where they are, what was proven of them, and which are forgotten.

use rusqlite::{OptionalExtension, params};

use relevo_wire::{ChunkId, TenantId};

use super::Catalogue;
use crate::error::StoreError;
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
        let places = self.locate(tenant, ids)?;
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(vec![ChunkState::default(); ids.len()]);
        };
        let mut query = self
            .db
            .prepare_cached("SELECT refs FROM chunks WHERE tenant = ?1 AND id = ?2")?;
        let mut states = Vec::with_capacity(ids.len());
        for (id, place) in ids.iter().zip(places) {
            let refs: Option<i64> = query
                .query_row(params![tenant, id.as_bytes()], |row| row.get(0))
                .optional()?;
            let refs = refs.unwrap_or(0).max(0) as u64;
            states.push(ChunkState { place, refs });
        }
        Ok(states)
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
        let epoch = self.epoch()?;
        let mut query = self.db.prepare_cached(
            "SELECT pack, offset, length, kind, complete FROM chunks
             WHERE tenant = ?1 AND id = ?2 AND pack != 0",
        )?;
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let row = query.query_row(params![tenant, id.as_bytes()], |row| {
                Ok(Located {
                    pack: row.get(0)?,
                    offset: row.get::<_, i64>(1)? as u64,
                    length: row.get(2)?,
                    kind: ChunkKind::from_number(row.get(3)?),
                    complete: row.get::<_, i64>(4)? == epoch,
                })
            });
            found.push(row.optional()?);
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
        let mut there = self.db.prepare_cached(
            "SELECT 1 FROM chunks WHERE tenant = ?1 AND id = ?2 AND pack = ?3
             AND offset >= ?4 AND offset < ?5",
        )?;
        let (start, end) = (offsets.start as i64, offsets.end as i64);
        let mut forgotten = 0;
        for id in ids {
            if there.exists(params![tenant, id.as_bytes(), pack.number, start, end])? {
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
        let mut update = self
            .db
            .prepare_cached("UPDATE chunks SET complete = ?1 WHERE tenant = ?2 AND id = ?3")?;
        for id in ids {
            update.execute(params![epoch, tenant, id.as_bytes()])?;
        }
        Ok(())
    }

    /// Chunks that the catalogue places in this range of a pack. Slow: reads the whole table.
    pub fn chunks_within(
        &self,
        pack: PackId,
        offsets: std::ops::Range<u64>,
    ) -> Result<Vec<ChunkId>, StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(Vec::new());
        };
        let mut query = self.db.prepare_cached(
            "SELECT id FROM chunks WHERE tenant = ?1 AND pack = ?2 AND offset >= ?3 AND offset < ?4",
        )?;
        let range = params![
            tenant,
            pack.number,
            offsets.start as i64,
            i64::try_from(offsets.end).unwrap_or(i64::MAX)
        ];
        let rows = query.query_map(range, |row| row.get(0).map(ChunkId::from_bytes))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many chunks the catalogue places in each pack, below the offset given for it.
    pub fn chunk_counts(&self, packs: &[(PackId, u64)]) -> Result<Vec<u64>, StoreError> {
        let mut limits = std::collections::HashMap::new();
        for (at, (pack, limit)) in packs.iter().enumerate() {
            if let Some(tenant) = self.tenant(pack.tenant)? {
                limits.insert((tenant, i64::from(pack.number)), (at, *limit as i64));
            }
        }
        let mut counts = vec![0; packs.len()];
        let mut query = self.db.prepare("SELECT tenant, pack, offset FROM chunks")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let key: (i64, i64) = (row.get(0)?, row.get(1)?);
            if let Some(&(at, limit)) = limits.get(&key)
                && row.get::<_, i64>(2)? < limit
            {
                counts[at] += 1;
            }
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
