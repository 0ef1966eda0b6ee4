//! Places of chunks and how many refer to each: what collection goes by.
//!
//! A stored node refers to each of its distinct children once, a recovery point to each of its
//! roots and inventory chunks. The counts follow from the packs alone. A chunk to which nothing
//! refers stands in `unreferenced` since that moment. So a chunk below an indexed node is
//! indexed as long as the node is, and what is proven of a node stays true.
//!
//! A row with pack 0 has no place: it is referred to and missing, or was damaged and forgotten.
//! Its kind, when a node's, tells that its children's references are still counted.

use std::collections::HashSet;

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use relevo_wire::{ChunkId, TenantId, Timestamp};

use super::Catalogue;
use crate::error::StoreError;
use crate::pack::entry_size;
use crate::record::ChunkKind;
use crate::volume::PackId;

/// Where a chunk's entry is, and what it may be used as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub pack: u32,
    pub offset: u64,
    pub length: u32,
    pub kind: ChunkKind,
}

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

/// A chunk's row.
struct Row {
    pack: u32,
    offset: u64,
    length: u32,
    kind: ChunkKind,
    refs: i64,
}

impl Catalogue {
    fn row(&self, tenant: i64, id: ChunkId) -> Result<Option<Row>, StoreError> {
        let row = self
            .db
            .prepare_cached(
                "SELECT pack, offset, length, kind, refs FROM chunks WHERE tenant = ?1 AND id = ?2",
            )?
            .query_row(params![tenant, id.as_bytes()], |row| {
                Ok(Row {
                    pack: row.get(0)?,
                    offset: row.get::<_, i64>(1)? as u64,
                    length: row.get(2)?,
                    kind: ChunkKind::from_number(row.get(3)?),
                    refs: row.get(4)?,
                })
            })
            .optional()?;
        Ok(row)
    }

    /// Notes an entry of a chunk. True when the references of its children are to be counted.
    pub(super) fn place_chunk(
        &self,
        tenant: i64,
        id: ChunkId,
        place: Place,
    ) -> Result<bool, StoreError> {
        let known = self.row(tenant, id)?;
        if let Some(row) = &known
            && row.pack != 0
        {
            let here = (place.pack, place.offset);
            let (dead, placed) = match (row.pack, row.offset) {
                there if there == here => return Ok(false),
                there if there < here => (row.pack, true),
                _ => (place.pack, false),
            };
            self.add_dead(tenant, dead, entry_size(row.length as usize))?;
            if placed {
                self.count_chunk(tenant, row.pack, -1)?;
                self.count_chunk(tenant, place.pack, 1)?;
                self.set_place(tenant, id, place)?;
            }
            return Ok(false);
        }
        self.count_chunk(tenant, place.pack, 1)?;
        match known {
            Some(row) => {
                self.set_place(tenant, id, place)?;
                if row.refs == 0 {
                    self.set_unreferenced(tenant, id)?;
                }
                Ok(row.kind == ChunkKind::Data)
            }
            None => {
                self.db
                    .prepare_cached(
                        "INSERT INTO chunks (tenant, id, pack, offset, length, kind)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )?
                    .execute(params![
                        tenant,
                        id.as_bytes(),
                        place.pack,
                        place.offset as i64,
                        place.length,
                        place.kind.number()
                    ])?;
                self.set_unreferenced(tenant, id)?;
                Ok(true)
            }
        }
    }

    fn set_place(&self, tenant: i64, id: ChunkId, place: Place) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "UPDATE chunks SET pack = ?3, offset = ?4, length = ?5, kind = ?6
                 WHERE tenant = ?1 AND id = ?2",
            )?
            .execute(params![
                tenant,
                id.as_bytes(),
                place.pack,
                place.offset as i64,
                place.length,
                place.kind.number()
            ])?;
        Ok(())
    }

    fn set_unreferenced(&self, tenant: i64, id: ChunkId) -> Result<(), StoreError> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO unreferenced VALUES (?1, ?2, ?3)")?
            .execute(params![tenant, id.as_bytes(), Timestamp::now().as_millis()])?;
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
        let mut add = self.db.prepare_cached(
            "INSERT INTO chunks (tenant, id, pack, offset, length, kind, refs)
             VALUES (?1, ?2, 0, 0, 0, 0, 1)
             ON CONFLICT DO UPDATE SET refs = refs + 1 RETURNING refs, pack",
        )?;
        for id in ids.collect::<HashSet<_>>() {
            let (refs, pack): (i64, u32) = add
                .query_row(params![tenant, id.as_bytes()], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            if refs == 1 && pack != 0 {
                self.clear_unreferenced(tenant, id)?;
            }
        }
        Ok(())
    }

    /// One less refers to each of these.
    pub(super) fn drop_references(
        &self,
        tenant: i64,
        ids: impl Iterator<Item = ChunkId>,
    ) -> Result<(), StoreError> {
        for id in ids.collect::<HashSet<_>>() {
            let Some(row) = self.row(tenant, id)? else {
                continue;
            };
            if row.refs <= 1 && row.pack == 0 && row.kind == ChunkKind::Data {
                self.delete_row(tenant, id)?;
                continue;
            }
            self.db
                .prepare_cached(
                    "UPDATE chunks SET refs = max(refs - 1, 0) WHERE tenant = ?1 AND id = ?2",
                )?
                .execute(params![tenant, id.as_bytes()])?;
            if row.refs <= 1 && row.pack != 0 {
                self.set_unreferenced(tenant, id)?;
            }
        }
        Ok(())
    }

    fn delete_row(&self, tenant: i64, id: ChunkId) -> Result<(), StoreError> {
        self.db
            .prepare_cached("DELETE FROM chunks WHERE tenant = ?1 AND id = ?2")?
            .execute(params![tenant, id.as_bytes()])?;
        Ok(())
    }

    /// Chunks to which nothing has referred since before a moment, oldest first.
    pub fn unreferenced(
        &self,
        tenant: TenantId,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<ChunkId>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let mut query = self.db.prepare_cached(
            "SELECT id FROM unreferenced WHERE tenant = ?1 AND since < ?2 ORDER BY since LIMIT ?3",
        )?;
        let rows = query.query_map(params![tenant, before.as_millis(), limit as i64], |row| {
            row.get(0).map(ChunkId::from_bytes)
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Somebody was told that these are stored: those to which nothing refers stay a while.
    pub fn renew_unreferenced(&self, tenant: TenantId, ids: &[ChunkId]) -> Result<(), StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(());
        };
        let mut renew = self
            .db
            .prepare_cached("UPDATE unreferenced SET since = ?1 WHERE tenant = ?2 AND id = ?3")?;
        let now = Timestamp::now().as_millis();
        for id in ids {
            renew.execute(params![now, tenant, id.as_bytes()])?;
        }
        Ok(())
    }

    /// Removes chunks to which nothing refers, each with the children to which it, a node, did.
    /// One that has found a referrer or a later `since` meanwhile stays. Bytes that died.
    pub fn remove_unreferenced(
        &self,
        tenant: TenantId,
        before: Timestamp,
        gone: &[(ChunkId, Vec<ChunkId>)],
    ) -> Result<u64, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(0);
        };
        let mut bytes = 0;
        for (id, children) in gone {
            let removed = self
                .db
                .prepare_cached(
                    "DELETE FROM unreferenced WHERE tenant = ?1 AND id = ?2 AND since < ?3",
                )?
                .execute(params![tenant, id.as_bytes(), before.as_millis()])?;
            let row = match removed {
                0 => continue,
                _ => self.row(tenant, *id)?,
            };
            let Some(row) = row.filter(|row| row.refs == 0 && row.pack != 0) else {
                continue;
            };
            self.delete_row(tenant, *id)?;
            self.drop_references(tenant, children.iter().copied())?;
            self.count_chunk(tenant, row.pack, -1)?;
            let size = entry_size(row.length as usize);
            self.add_dead(tenant, row.pack, size)?;
            bytes += size;
        }
        Ok(bytes)
    }

    /// How much of each of the tenant's packs is still of use.
    pub fn pack_use(&self, tenant: TenantId) -> Result<Vec<PackUse>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let mut query = self.db.prepare_cached(
            "SELECT number, scanned, dead, chunks FROM packs WHERE tenant = ?1 ORDER BY number",
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

    fn count_chunk(&self, tenant: i64, pack: u32, by: i64) -> Result<(), StoreError> {
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
        let mut query = self
            .db
            .prepare_cached("SELECT id FROM chunks WHERE tenant = ?1 AND pack = ?2")?;
        let ids: Vec<ChunkId> = query
            .query_map(params![tenant, pack], |row| {
                row.get(0).map(ChunkId::from_bytes)
            })?
            .collect::<Result<_, _>>()?;
        for id in &ids {
            self.forget_place(tenant, *id)?;
        }
        Ok(ids.len())
    }

    /// A chunk is not where it was. A node's row stays, whoever refers to it: its children's
    /// references are counted, and are not counted again when it comes back.
    pub(super) fn forget_place(&self, tenant: i64, id: ChunkId) -> Result<(), StoreError> {
        let Some(row) = self.row(tenant, id)?.filter(|row| row.pack != 0) else {
            return Ok(());
        };
        self.clear_unreferenced(tenant, id)?;
        self.count_chunk(tenant, row.pack, -1)?;
        if row.refs == 0 && row.kind == ChunkKind::Data {
            return self.delete_row(tenant, id);
        }
        self.db
            .prepare_cached(
                "UPDATE chunks SET pack = 0, offset = 0, length = 0, complete = 0
                 WHERE tenant = ?1 AND id = ?2",
            )?
            .execute(params![tenant, id.as_bytes()])?;
        Ok(())
    }

    /// A pack is gone for good: what still has its place there is lost, and said.
    pub(super) fn retire_pack(
        &self,
        tenant: i64,
        pack: u32,
        when: Timestamp,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached("INSERT OR IGNORE INTO retired VALUES (?1, ?2, ?3)")?
            .execute(params![tenant, pack, when.as_millis()])?;
        let chunks: Option<i64> = self
            .db
            .prepare_cached("SELECT chunks FROM packs WHERE tenant = ?1 AND number = ?2")?
            .query_row(params![tenant, pack], |row| row.get(0))
            .optional()?;
        // Dead ones of a catalogue that is behind; live ones have their place elsewhere by now.
        if chunks.is_some_and(|chunks| chunks != 0) {
            self.forget_places(tenant, pack)?;
        }
        self.db
            .prepare_cached("DELETE FROM packs WHERE tenant = ?1 AND number = ?2")?
            .execute(params![tenant, pack])?;
        Ok(())
    }

    pub(super) fn is_retired(&self, tenant: i64, pack: u32) -> Result<bool, StoreError> {
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM retired WHERE tenant = ?1 AND number = ?2")?
            .exists(params![tenant, pack])?)
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
