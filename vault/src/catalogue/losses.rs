//! What of the packs is known to be lost: it holds collection back.
//!
//! A node that was lost before the catalogue read it refers to chunks that nobody knows of: they
//! look unreferenced, and would be what a healed node misses. So as long as a tenant has a loss
//! that may matter, nothing of it is removed. A loss whose chunk is known matters no more once
//! the chunk is stored again, or when nothing that is stored refers to it; one whose entry could
//! not be told, until it was healed in its place, or the loss is accepted.

use std::collections::HashSet;

use rusqlite::params;
use serde::Serialize;

use relevo_wire::{ChunkId, TenantId, Timestamp};

use super::{Catalogue, Located};
use crate::error::StoreError;
use crate::volume::PackId;

/// A place in a pack where something was, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Number of the pack.
    pub pack: u32,
    /// Where the lost bytes begin; 0 for a whole pack.
    pub offset: u64,
    /// How many; 0 when nobody knows.
    pub length: u64,
    /// The chunk that was there, when it is known to have been one.
    pub id: Option<ChunkId>,
    /// When it was found.
    pub found: Timestamp,
}

impl Catalogue {
    /// Notes what was lost. `offset` 0 and length 0 for a pack that is missing or unreadable.
    ///
    /// Bytes without an id that the catalogue has not read are noted as such as well
    /// ([`is_unsure`](Self::is_unsure)): here and not later, since a kill may come between.
    pub fn note_loss(
        &self,
        pack: PackId,
        offset: u64,
        length: u64,
        id: Option<ChunkId>,
    ) -> Result<(), StoreError> {
        let tenant = self.tenant_or_new(pack.tenant)?;
        self.db
            .prepare_cached(
                "INSERT INTO losses VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET length = max(length, ?4)",
            )?
            .execute(params![
                tenant,
                pack.number,
                offset as i64,
                length as i64,
                id.map(|id| *id.as_bytes()),
                Timestamp::now().as_millis()
            ])?;
        let read = self
            .db
            .prepare_cached(
                "SELECT 1 FROM packs WHERE tenant = ?1 AND number = ?2 AND scanned > ?3",
            )?
            .exists(params![tenant, pack.number, offset as i64])?;
        match id.is_none() && !read {
            true => self.note_unsure(pack, offset, length),
            false => Ok(()),
        }
    }

    /// Packs that are noted to be missing or unreadable as a whole.
    pub fn unusable_packs(&self, tenant: TenantId) -> Result<HashSet<u32>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(HashSet::new());
        };
        let mut query = self
            .db
            .prepare_cached("SELECT pack FROM losses WHERE tenant = ?1 AND offset = 0")?;
        let rows = query.query_map([tenant], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// As [`locate`](Self::locate), without what has its place in a pack that cannot be used:
    /// for all who would rely on it from now on. The place itself is kept, and no epoch ends, for
    /// the pack may be healed or brought back: so marks of what is complete may be too good.
    pub fn locate_usable(
        &self,
        tenant: TenantId,
        ids: &[ChunkId],
    ) -> Result<Vec<Option<Located>>, StoreError> {
        let mut found = self.locate(tenant, ids)?;
        let unusable = self.unusable_packs(tenant)?;
        if !unusable.is_empty() {
            for place in &mut found {
                *place = place.filter(|at| !unusable.contains(&at.pack));
            }
        }
        Ok(found)
    }

    /// What was lost there is back.
    pub fn clear_loss(&self, pack: PackId, offset: u64) -> Result<(), StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(());
        };
        self.db
            .prepare_cached("DELETE FROM losses WHERE tenant = ?1 AND pack = ?2 AND offset = ?3")?
            .execute(params![tenant, pack.number, offset as i64])?;
        Ok(())
    }

    /// All that was noted and not cleared, in order.
    pub fn losses(&self, tenant: TenantId) -> Result<Vec<Loss>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let mut query = self.db.prepare_cached(
            "SELECT pack, offset, length, id, found FROM losses WHERE tenant = ?1
             ORDER BY pack, offset",
        )?;
        let rows = query.query_map([tenant], |row| {
            Ok(Loss {
                pack: row.get(0)?,
                offset: row.get::<_, i64>(1)? as u64,
                length: row.get::<_, i64>(2)? as u64,
                id: row.get::<_, Option<[u8; 32]>>(3)?.map(ChunkId::from_bytes),
                found: Timestamp::from_millis(row.get(4)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The losses that matter still: something may refer to what was lost.
    pub fn open_losses(&self, tenant: TenantId) -> Result<Vec<Loss>, StoreError> {
        let mut open = Vec::new();
        for loss in self.losses(tenant)? {
            let matters = match loss.id {
                Some(id) => {
                    let state = self.states(tenant, &[id])?.into_iter().next();
                    state.is_some_and(|state| state.place.is_none() && state.refs > 0)
                }
                None => true,
            };
            if matters {
                open.push(loss);
            }
        }
        Ok(open)
    }

    /// Forgets the tenant's losses: somebody decided to go on without. How many there were.
    pub fn accept_losses(&self, tenant: TenantId) -> Result<usize, StoreError> {
        for number in self.unusable_packs(tenant)? {
            let pack = PackId { tenant, number };
            let ids = self.chunks_within(pack, 0..u64::MAX)?;
            self.forget_chunks(pack, 0..u64::MAX, &ids)?;
        }
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(0);
        };
        Ok(self
            .db
            .prepare_cached("DELETE FROM losses WHERE tenant = ?1")?
            .execute([tenant])?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::catalogue::Placed;
    use crate::record::Record;
    use relevo_wire::chunk::CheckedChunk;

    /// Guards what nobody knows against being taken for what the catalogue has read, when the
    /// vault was killed while it read its packs for the first time.
    #[test]
    fn bytes_that_were_damaged_before_they_were_read_are_noted_with_the_loss() {
        let dir = tempfile::tempdir().unwrap();
        let (catalogue, _) = Catalogue::open(&dir.path().join("c")).unwrap();
        let tenant = TenantId::random();
        let pack = |number| PackId { tenant, number };
        catalogue.note_loss(pack(1), 8192, 64, None).unwrap();
        catalogue.note_loss(pack(2), 0, 0, None).unwrap();
        catalogue.take(pack(1), 9000, &[]).unwrap();
        catalogue.take(pack(3), 9000, &[]).unwrap();
        catalogue.note_loss(pack(1), 8500, 64, None).unwrap();
        catalogue.note_loss(pack(3), 0, 0, None).unwrap();
        let unsure = |number, bytes| catalogue.is_unsure(pack(number), bytes).unwrap();
        assert!(unsure(1, 8192..8256));
        assert!(unsure(2, 0..u64::MAX));
        assert!(!unsure(1, 8500..8564), "the catalogue knows what was there");
        assert!(!unsure(3, 0..u64::MAX), "the catalogue has read the pack");
    }

    /// Guards what is below a lost node, and collection against losses that matter no more.
    #[test]
    fn a_loss_matters_while_something_refers_to_it_and_it_is_not_back() {
        let dir = tempfile::tempdir().unwrap();
        let (catalogue, _) = Catalogue::open(&dir.path().join("c")).unwrap();
        let tenant = TenantId::random();
        let pack = |number| PackId { tenant, number };
        let lost = CheckedChunk::of(vec![1; 10].into());
        let mut bytes = vec![2, 0, 1, 0];
        bytes.extend_from_slice(lost.id().as_bytes());
        let node = Record::Chunk(CheckedChunk::of(bytes.into()));
        catalogue
            .note_loss(pack(1), 8192, 80, Some(lost.id()))
            .unwrap();
        assert!(catalogue.open_losses(tenant).unwrap().is_empty());
        let placed = Placed {
            offset: 8300,
            record: &node,
        };
        catalogue.take(pack(1), 9000, &[placed]).unwrap();
        assert_eq!(catalogue.open_losses(tenant).unwrap().len(), 1);
        let again = Record::Chunk(lost);
        let placed = Placed {
            offset: 8192,
            record: &again,
        };
        catalogue.take(pack(2), 9000, &[placed]).unwrap();
        assert!(catalogue.open_losses(tenant).unwrap().is_empty());
        catalogue.note_loss(pack(3), 0, 0, None).unwrap();
        assert_eq!(catalogue.open_losses(tenant).unwrap().len(), 1);
        catalogue.clear_loss(pack(3), 0).unwrap();
        assert_eq!(catalogue.losses(tenant).unwrap().len(), 1);
        assert_eq!(catalogue.accept_losses(tenant).unwrap(), 1);
    }
}
