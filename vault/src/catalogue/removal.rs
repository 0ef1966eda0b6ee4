//! Removes chunks to which nothing refers any more.

use rusqlite::params;

use relevo_wire::{ChunkId, TenantId, Timestamp};

use super::Catalogue;
use crate::error::StoreError;
use crate::pack::entry_size;

/// A chunk to which nothing refers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unreferenced {
    /// Since when.
    pub since: Timestamp,
    /// Which.
    pub id: ChunkId,
}

impl Catalogue {
    /// Chunks to which nothing has referred since before a moment, oldest first: the next
    /// behind `after`.
    pub fn unreferenced(
        &self,
        tenant: TenantId,
        before: Timestamp,
        after: Option<Unreferenced>,
        limit: usize,
    ) -> Result<Vec<Unreferenced>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let (since, id) = match after {
            Some(after) => (after.since.as_millis(), after.id.as_bytes().to_vec()),
            None => (i64::MIN, Vec::new()),
        };
        let mut query = self.db.prepare_cached(
            "SELECT since, id FROM unreferenced
             WHERE tenant = ?1 AND since < ?2 AND (since, id) > (?3, ?4)
             ORDER BY since, id LIMIT ?5",
        )?;
        let limit = limit as i64;
        let rows = query.query_map(
            params![tenant, before.as_millis(), since, id, limit],
            |row| {
                Ok(Unreferenced {
                    since: Timestamp::from_millis(row.get(0)?),
                    id: ChunkId::from_bytes(row.get(1)?),
                })
            },
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many chunks nothing refers to.
    pub fn count_unreferenced(&self, tenant: TenantId) -> Result<u64, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(0);
        };
        let count: i64 = self
            .db
            .prepare_cached("SELECT count(*) FROM unreferenced WHERE tenant = ?1")?
            .query_row([tenant], |row| row.get(0))?;
        Ok(count as u64)
    }

    /// Those of the chunks to which nothing has referred since before a moment.
    pub fn unreferenced_of(
        &self,
        tenant: TenantId,
        before: Timestamp,
        ids: &[ChunkId],
    ) -> Result<Vec<ChunkId>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let mut query = self.db.prepare_cached(
            "SELECT 1 FROM unreferenced WHERE tenant = ?1 AND id = ?2 AND since < ?3",
        )?;
        let mut found = Vec::new();
        for id in ids {
            if query.exists(params![tenant, id.as_bytes(), before.as_millis()])? {
                found.push(*id);
            }
        }
        Ok(found)
    }

    /// Somebody is told that these are stored: those to which nothing refers stay a while.
    pub fn renew_unreferenced(&self, tenant: TenantId, ids: &[ChunkId]) -> Result<(), StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(());
        };
        let mut renew = self.db.prepare_cached(
            "UPDATE unreferenced SET since = ?1 WHERE tenant = ?2 AND id = ?3 AND since < ?1",
        )?;
        let now = Timestamp::now().as_millis();
        for id in ids {
            renew.execute(params![now, tenant, id.as_bytes()])?;
        }
        Ok(())
    }

    /// Removes chunks to which nothing refers, each with the children to which it, a node, did.
    /// One that has found a referrer or a later `since` meanwhile stays. Children to which
    /// nothing refers then do so since when nothing referred to their parent, or since `floor`
    /// when that is later. How many were removed, and their bytes.
    pub fn remove_unreferenced(
        &self,
        tenant: TenantId,
        before: Timestamp,
        floor: Option<Timestamp>,
        gone: &[(Unreferenced, Vec<ChunkId>)],
    ) -> Result<(u64, u64), StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok((0, 0));
        };
        let (mut chunks, mut bytes) = (0, 0);
        for (Unreferenced { since, id }, children) in gone {
            let known = self.chunk(tenant, *id)?;
            let Some(spot) = known.spot().filter(|_| known.refs <= 0) else {
                continue;
            };
            let removed = self
                .db
                .prepare_cached(
                    "DELETE FROM unreferenced WHERE tenant = ?1 AND id = ?2 AND since < ?3",
                )?
                .execute(params![tenant, id.as_bytes(), before.as_millis()])?;
            if removed == 0 {
                continue;
            }
            self.delete_chunk(tenant, *id, known.refs)?;
            let since = floor.map_or(*since, |floor| floor.max(*since));
            self.drop_references(tenant, children.iter().copied(), since)?;
            self.count_chunk(tenant, spot.pack, -1)?;
            let size = entry_size(spot.length as usize);
            self.add_dead(tenant, spot.pack, size)?;
            chunks += 1;
            bytes += size;
        }
        Ok((chunks, bytes))
    }
}
