//! Takes in what stands in packs, in any order of packs.

use rusqlite::{OptionalExtension, params};

use relevo_wire::index::NodeLinks;
use relevo_wire::manifest::{PublicManifest, SealedManifest};
use relevo_wire::{PointId, Timestamp};

use super::Catalogue;
use crate::clock::VaultTime;
use crate::error::StoreError;
use crate::index::Spot;
use crate::pack::entry_size;
use crate::record::{ChunkKind, PointRecord, Record};
use crate::volume::PackId;

/// A record and where its entry begins.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    /// Where.
    pub offset: u64,
    /// What.
    pub record: &'a Record,
}

impl Catalogue {
    /// Takes in what stands in a pack, and that the pack is known up to `scanned`. Of several
    /// entries of one chunk or point the one that was written last is its place.
    pub fn take(
        &self,
        pack: PackId,
        scanned: u64,
        records: &[Placed<'_>],
    ) -> Result<(), StoreError> {
        let tenant = self.tenant_or_new(pack.tenant)?;
        if self.is_retired(tenant, pack.number)? {
            return Ok(());
        }
        for Placed { offset, record } in records {
            match record {
                Record::Chunk(chunk) => {
                    // A node that cannot be read is catalogued as data: nothing can refer to it
                    // as a node, and its bytes are kept.
                    let links = NodeLinks::is_node(chunk)
                        .then(|| NodeLinks::parse(chunk).ok())
                        .flatten();
                    let place = Spot {
                        pack: pack.number,
                        offset: *offset,
                        length: chunk.bytes().len() as u32,
                        kind: links
                            .as_ref()
                            .map_or(ChunkKind::Data, |links| ChunkKind::Node(links.level())),
                    };
                    let counts = self.place_chunk(tenant, chunk.id(), place)?;
                    if let Some(links) = links.filter(|_| counts) {
                        self.add_references(tenant, links.ids())?;
                    }
                }
                Record::Point(point) => self.take_point(tenant, pack, *offset, point)?,
                Record::Clock(clock) => {
                    self.take_governance(tenant, record)?;
                    self.place_clock(tenant, pack.number, *offset, clock.time)?;
                }
                other => self.take_governance(tenant, other)?,
            }
        }
        self.db
            .prepare_cached(
                "INSERT INTO packs VALUES (?1, ?2, ?3, 0, 0)
                 ON CONFLICT DO UPDATE SET scanned = ?3",
            )?
            .execute(params![tenant, pack.number, scanned as i64])?;
        Ok(())
    }

    fn take_point(
        &self,
        tenant: i64,
        pack: PackId,
        offset: u64,
        point: &PointRecord,
    ) -> Result<(), StoreError> {
        let Ok(public) = point.manifest.public() else {
            tracing::warn!(%pack, offset, "a recovery point of a newer release is left aside");
            return Ok(());
        };
        let unreadable = |e: String| StoreError::Catalogue(e);
        let manifest = point
            .manifest
            .to_bytes()
            .map_err(|e| unreadable(e.to_string()))?;
        let length = minicbor::to_vec(point)
            .map_err(|e| unreadable(e.to_string()))?
            .len();
        if self.is_deleted(tenant, public.point)? {
            return self.add_dead(tenant, pack.number, entry_size(length));
        }
        let known = self
            .db
            .prepare_cached("SELECT pack, offset FROM points WHERE tenant = ?1 AND id = ?2")?
            .query_row(params![tenant, public.point.as_bytes()], |row| {
                Ok((row.get::<_, u32>(0)?, row.get::<_, i64>(1)? as u64))
            })
            .optional()?;
        if let Some(known) = known {
            let (older, newer) = match known < (pack.number, offset) {
                true => (known.0, Some((pack.number, offset))),
                false if known == (pack.number, offset) => return Ok(()),
                false => (pack.number, None),
            };
            if let Some((number, offset)) = newer {
                self.db
                    .prepare_cached(
                        "UPDATE points SET pack = ?1, offset = ?2 WHERE tenant = ?3 AND id = ?4",
                    )?
                    .execute(params![
                        number,
                        offset as i64,
                        tenant,
                        public.point.as_bytes()
                    ])?;
            }
            return self.add_dead(tenant, older, entry_size(length));
        }
        let locked = point.locked.map_or(0, VaultTime::as_millis);
        self.db
            .prepare_cached(
                "INSERT INTO points VALUES
                 (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, NULL)",
            )?
            .execute(params![
                tenant,
                public.point.as_bytes(),
                public.server.as_bytes(),
                public.taken.as_millis(),
                point.committed.as_millis(),
                point.stored as i64,
                public.totals.disk as i64,
                public.totals.sent as i64,
                manifest,
                pack.number,
                offset as i64,
                length as i64,
                locked as i64
            ])?;
        self.add_references(tenant, point_references(&public))
    }

    /// Forgets a point's row and its references.
    pub(super) fn drop_point(&self, tenant: i64, point: PointId) -> Result<(), StoreError> {
        let row = self
            .db
            .prepare_cached(
                "SELECT manifest, pack, length FROM points WHERE tenant = ?1 AND id = ?2",
            )?
            .query_row(params![tenant, point.as_bytes()], |row| {
                let manifest: Vec<u8> = row.get(0)?;
                Ok((manifest, row.get::<_, u32>(1)?, row.get::<_, i64>(2)?))
            })
            .optional()?;
        let Some((manifest, pack, length)) = row else {
            return Ok(());
        };
        self.db
            .prepare_cached("DELETE FROM points WHERE tenant = ?1 AND id = ?2")?
            .execute(params![tenant, point.as_bytes()])?;
        let public = SealedManifest::from_bytes(&manifest)
            .and_then(|manifest| manifest.public())
            .map_err(|e| StoreError::Catalogue(e.to_string()))?;
        let since = Timestamp::now();
        self.drop_references(tenant, point_references(&public), since)?;
        self.add_dead(tenant, pack, entry_size(length as usize))
    }

    /// Forgets everything in a pack that is not what it was.
    pub fn forget_pack(&self, pack: PackId) -> Result<(), StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(());
        };
        let points: Vec<PointId> = self
            .db
            .prepare_cached("SELECT id FROM points WHERE tenant = ?1 AND pack = ?2")?
            .query_map(params![tenant, pack.number], |row| {
                row.get(0).map(PointId::from_bytes)
            })?
            .collect::<Result<_, _>>()?;
        for point in points {
            self.drop_point(tenant, point)?;
        }
        self.forget_places(tenant, pack.number)?;
        self.db.execute(
            "DELETE FROM packs WHERE tenant = ?1 AND number = ?2",
            params![tenant, pack.number],
        )?;
        self.set_epoch()
    }
}

/// What a recovery point refers to.
fn point_references(public: &PublicManifest) -> impl Iterator<Item = relevo_wire::ChunkId> {
    public.roots.iter().chain(&public.inventory).copied()
}
