//! Places of chunks and how many refer to each: what collection goes by.
//!
//! A stored node refers to each of its distinct children once, a recovery point to each of its
//! roots and inventory chunks. The counts follow from the packs alone. A chunk to which nothing
//! refers stands in `unreferenced` since that moment. So a chunk below an indexed node is
//! indexed as long as the node is, and what is proven of a node stays true.
//!
//! A chunk may have no place: it is referred to and missing, or was damaged and forgotten. A
//! node that was forgotten stays known as one ([`Place::Lost`]): its children's references are
//! still counted.

use std::collections::HashSet;

use rusqlite::params;
use serde::Serialize;

use relevo_wire::{ChunkId, TenantId, Timestamp};

use super::Catalogue;
use crate::error::StoreError;
use crate::index::{Change, Place, Spot};
use crate::pack::entry_size;
use crate::record::ChunkKind;
use crate::volume::PackId;

/// How much of a pack is still of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PackUse {
    /// Number of the pack.
    pub number: u32,
    /// Bytes of it that are known.
    pub length: u64,
    /// Bytes of entries that nothing needs.
    pub dead: u64,
    /// Chunks that have their place in it.
    pub chunks: u64,
}

impl Catalogue {
    /// Notes an entry of a chunk. True when the references of its children are to be counted.
    pub(super) fn place_chunk(
        &self,
        tenant: i64,
        id: ChunkId,
        place: Spot,
    ) -> Result<bool, StoreError> {
        let known = self.chunk(tenant, id)?;
        if let Some(spot) = known.spot() {
            let here = (place.pack, place.offset);
            let (dead, placed) = match (spot.pack, spot.offset) {
                there if there == here => return Ok(false),
                there if there < here => (spot.pack, true),
                _ => (place.pack, false),
            };
            self.add_dead(tenant, dead, entry_size(spot.length as usize))?;
            if placed {
                self.count_chunk(tenant, spot.pack, -1)?;
                self.count_chunk(tenant, place.pack, 1)?;
                self.set_place(tenant, id, Place::At(place))?;
            }
            return Ok(false);
        }
        self.count_chunk(tenant, place.pack, 1)?;
        self.set_place(tenant, id, Place::At(place))?;
        if known.refs <= 0 {
            self.set_unreferenced(tenant, id, Timestamp::now())?;
        }
        Ok(!matches!(known.place, Place::Lost(_)))
    }

    fn set_place(&self, tenant: i64, id: ChunkId, place: Place) -> Result<(), StoreError> {
        self.change(tenant, &Change { id, place, refs: 0 })
    }

    fn count_reference(&self, tenant: i64, id: ChunkId, refs: i64) -> Result<(), StoreError> {
        let place = Place::Unchanged;
        self.change(tenant, &Change { id, place, refs })
    }

    fn set_unreferenced(
        &self,
        tenant: i64,
        id: ChunkId,
        since: Timestamp,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO unreferenced VALUES (?1, ?2, ?3)")?
            .execute(params![tenant, id.as_bytes(), since.as_millis()])?;
        Ok(())
    }

    fn clear_unreferenced(&self, tenant: i64, id: ChunkId) -> Result<(), StoreError> {
        self.db
            .prepare_cached("DELETE FROM unreferenced WHERE tenant = ?1 AND id = ?2")?
            .execute(params![tenant, id.as_bytes()])?;
        Ok(())
    }

    /// One more refers to each of these.
    pub(super) fn add_references(
        &self,
        tenant: i64,
        ids: impl Iterator<Item = ChunkId>,
    ) -> Result<(), StoreError> {
        for id in ids.collect::<HashSet<_>>() {
            // Both without a look at what is known: a new node of an old disk has many children
            // that stand in segments.
            self.count_reference(tenant, id, 1)?;
            self.clear_unreferenced(tenant, id)?;
        }
        Ok(())
    }

    /// One less refers to each of these, which are `unreferenced` since then when it was the last.
    pub(super) fn drop_references(
        &self,
        tenant: i64,
        ids: impl Iterator<Item = ChunkId>,
        since: Timestamp,
    ) -> Result<(), StoreError> {
        for id in ids.collect::<HashSet<_>>() {
            let known = self.chunk(tenant, id)?;
            if known.refs <= 0 {
                continue;
            }
            self.count_reference(tenant, id, -1)?;
            if known.refs == 1 {
                match known.spot() {
                    Some(_) => self.set_unreferenced(tenant, id, since)?,
                    None => self.sweep(tenant, id)?,
                }
            }
        }
        Ok(())
    }

    pub(super) fn delete_chunk(
        &self,
        tenant: i64,
        id: ChunkId,
        refs: i64,
    ) -> Result<(), StoreError> {
        let (place, refs) = (Place::Removed, -refs);
        self.change(tenant, &Change { id, place, refs })?;
        self.sweep(tenant, id)?;
        self.clear_complete(tenant, id)
    }

    fn clear_complete(&self, tenant: i64, id: ChunkId) -> Result<(), StoreError> {
        self.db
            .prepare_cached("DELETE FROM complete WHERE tenant = ?1 AND id = ?2")?
            .execute(params![tenant, id.as_bytes()])?;
        Ok(())
    }

    /// How much of each of the tenant's packs is still of use.
    pub fn pack_use(&self, tenant: TenantId) -> Result<Vec<PackUse>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let mut query = self.db.prepare_cached(
            "SELECT number, scanned, dead, chunks FROM packs
             WHERE tenant = ?1 AND scanned > 0 ORDER BY number",
        )?;
        let rows = query.query_map([tenant], |row| {
            Ok(PackUse {
                number: row.get(0)?,
                length: row.get::<_, i64>(1)? as u64,
                dead: row.get::<_, i64>(2)? as u64,
                chunks: row.get::<_, i64>(3)?.max(0) as u64,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn add_dead(&self, tenant: i64, pack: u32, bytes: u64) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "INSERT INTO packs VALUES (?1, ?2, 0, 0, ?3)
                 ON CONFLICT DO UPDATE SET dead = dead + ?3",
            )?
            .execute(params![tenant, pack, bytes as i64])?;
        Ok(())
    }

    pub(super) fn count_chunk(&self, tenant: i64, pack: u32, by: i64) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "INSERT INTO packs VALUES (?1, ?2, 0, ?3, 0)
                 ON CONFLICT DO UPDATE SET chunks = chunks + ?3",
            )?
            .execute(params![tenant, pack, by])?;
        Ok(())
    }

    /// Chunks of a pack lose their place; who refers to them still does.
    pub(super) fn forget_places(&self, tenant: i64, pack: u32) -> Result<usize, StoreError> {
        let mut ids = Vec::new();
        self.each_chunk(tenant, |id, spot| {
            if spot.pack == pack {
                ids.push(id);
            }
        })?;
        for id in &ids {
            self.forget_place(tenant, *id)?;
        }
        Ok(ids.len())
    }

    /// A chunk is not where it was. That it was a node stays known, whoever refers to it: its
    /// children's references are counted, and are not counted again when it comes back.
    pub(super) fn forget_place(&self, tenant: i64, id: ChunkId) -> Result<(), StoreError> {
        let known = self.chunk(tenant, id)?;
        let Some(spot) = known.spot() else {
            return Ok(());
        };
        self.clear_unreferenced(tenant, id)?;
        self.count_chunk(tenant, spot.pack, -1)?;
        if spot.kind == ChunkKind::Data {
            self.set_place(tenant, id, Place::Removed)?;
            return self.sweep(tenant, id);
        }
        self.set_place(tenant, id, Place::Lost(spot.kind))?;
        self.clear_complete(tenant, id)
    }

    /// A pack is gone for good. When the catalogue still needs it, see
    /// [`settle_retired`](Self::settle_retired): what took its entries' places may be read yet.
    pub(super) fn retire_pack(
        &self,
        tenant: i64,
        pack: u32,
        when: Timestamp,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached("INSERT OR IGNORE INTO retired VALUES (?1, ?2, ?3)")?
            .execute(params![tenant, pack, when.as_millis()])?;
        self.db
            .prepare_cached(
                "DELETE FROM packs WHERE tenant = ?1 AND number = ?2 AND chunks = 0
                 AND NOT EXISTS (SELECT 1 FROM points WHERE tenant = ?1 AND pack = ?2)",
            )?
            .execute(params![tenant, pack])?;
        Ok(())
    }

    pub(super) fn is_retired(&self, tenant: i64, pack: u32) -> Result<bool, StoreError> {
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM retired WHERE tenant = ?1 AND number = ?2")?
            .exists(params![tenant, pack])?)
    }

    /// True when the pack's live entries were copied, and its file is gone or about to be.
    pub fn was_retired(&self, pack: PackId) -> Result<bool, StoreError> {
        match self.tenant(pack.tenant)? {
            Some(tenant) => self.is_retired(tenant, pack.number),
            None => Ok(false),
        }
    }

    /// Packs whose live entries were copied and which are gone, or about to be.
    pub fn retired(&self) -> Result<Vec<PackId>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT t.id, r.number FROM retired r JOIN tenants t ON t.number = r.tenant",
        )?;
        let rows = query.query_map([], |row| {
            Ok(PackId {
                tenant: TenantId::from_bytes(row.get(0)?),
                number: row.get(1)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
