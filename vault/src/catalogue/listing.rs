//! Servers and recovery points, as people and recovery sites ask for them.

use rusqlite::params;
use serde::Serialize;

use relevo_wire::manifest::{ManifestError, SealedManifest};
use relevo_wire::message::{PointCursor, PointEntry, ServerEntry};
use relevo_wire::{PointId, ServerId, TenantId, Timestamp};

use super::Catalogue;
use crate::error::StoreError;

/// Bytes of points in one list: a frame's, with room.
const LISTED_BYTES: usize = relevo_wire::frame::MAX_FRAME - 4096;
/// Most bytes of a listed point besides the clear part of its manifest.
const AROUND_POINT: usize = 64;

/// A recovery point as `images` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Image {
    /// Whose.
    pub tenant: TenantId,
    /// Of which server.
    pub server: ServerId,
    /// The server's name; its id when the enrolment record is lost.
    pub name: String,
    /// The recovery point.
    pub point: PointId,
    /// The moment whose state it holds.
    pub taken: Timestamp,
    /// When the vault acknowledged it.
    pub committed: Timestamp,
    /// Bytes of the server's disks.
    pub disk_bytes: u64,
    /// Bytes that crossed the network for it.
    pub sent_bytes: u64,
    /// Bytes of packs that it added.
    pub stored_bytes: u64,
    /// When it was last proven whole.
    pub verified: Option<Timestamp>,
}

impl Catalogue {
    /// The tenant's servers, by name. One with points and no enrolment record is named by its id.
    pub fn servers(&self, tenant: TenantId) -> Result<Vec<ServerEntry>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let mut query = self.db.prepare_cached(
            "SELECT s.id, coalesce(e.name, lower(hex(s.id))), coalesce(e.enrolled, 0),
                    count(p.id), max(p.taken)
             FROM (SELECT id FROM servers WHERE tenant = ?1
                   UNION SELECT server FROM points WHERE tenant = ?1) s
             LEFT JOIN servers e ON e.tenant = ?1 AND e.id = s.id
             LEFT JOIN points p ON p.tenant = ?1 AND p.server = s.id
             GROUP BY s.id ORDER BY 2, 1",
        )?;
        let rows = query.query_map([tenant], |row| {
            Ok(ServerEntry {
                id: ServerId::from_bytes(row.get(0)?),
                name: row.get(1)?,
                enrolled: Timestamp::from_millis(row.get(2)?),
                points: row.get::<_, i64>(3)? as u64,
                latest: row.get::<_, Option<i64>>(4)?.map(Timestamp::from_millis),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// True when the tenant has such a server.
    pub fn has_server(&self, tenant: TenantId, server: ServerId) -> Result<bool, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(false);
        };
        Ok(self
            .db
            .prepare_cached(
                "SELECT 1 FROM servers WHERE tenant = ?1 AND id = ?2
                 UNION SELECT 1 FROM points WHERE tenant = ?1 AND server = ?2",
            )?
            .exists(params![tenant, server.as_bytes()])?)
    }

    /// A server's recovery points, newest first, from the one behind `after` on, at most `limit`
    /// and what fits into a frame.
    pub fn points(
        &self,
        tenant: TenantId,
        server: ServerId,
        after: Option<PointCursor>,
        limit: usize,
    ) -> Result<Vec<PointEntry>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let mut query = self.db.prepare_cached(
            "SELECT manifest, committed, stored, verified FROM points
             WHERE tenant = ?1 AND server = ?2 AND taken <= ?3 AND (taken < ?3 OR id < ?4)
             ORDER BY taken DESC, id DESC LIMIT ?5",
        )?;
        // Behind all that there can be: the list from its beginning.
        let (taken, id) = match after {
            Some(after) => (after.taken.as_millis(), after.point.as_bytes().to_vec()),
            None => (i64::MAX, vec![0xff; 17]),
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = query.query(params![tenant, server.as_bytes(), taken, id, limit])?;
        let (mut points, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let manifest = row.get::<_, Vec<u8>>(0)?;
            let unreadable = |e: ManifestError| StoreError::Catalogue(e.to_string());
            let manifest = SealedManifest::from_bytes(&manifest).map_err(unreadable)?;
            bytes += manifest.public_length() + AROUND_POINT;
            if bytes > LISTED_BYTES {
                break;
            }
            points.push(PointEntry {
                manifest: manifest.public().map_err(unreadable)?,
                committed: Timestamp::from_millis(row.get(1)?),
                stored: row.get::<_, i64>(2)? as u64,
                verified: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_millis),
            });
        }
        Ok(points)
    }

    /// All recovery points, by server and time.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT t.id, p.server, coalesce(s.name, lower(hex(p.server))), p.id, p.taken,
                    p.committed, p.disk, p.sent, p.stored, p.verified
             FROM points p JOIN tenants t ON t.number = p.tenant
             LEFT JOIN servers s ON s.tenant = p.tenant AND s.id = p.server
             ORDER BY 3, p.server, p.taken",
        )?;
        let rows = query.query_map([], |row| {
            Ok(Image {
                tenant: TenantId::from_bytes(row.get(0)?),
                server: ServerId::from_bytes(row.get(1)?),
                name: row.get(2)?,
                point: PointId::from_bytes(row.get(3)?),
                taken: Timestamp::from_millis(row.get(4)?),
                committed: Timestamp::from_millis(row.get(5)?),
                disk_bytes: row.get::<_, i64>(6)? as u64,
                sent_bytes: row.get::<_, i64>(7)? as u64,
                stored_bytes: row.get::<_, i64>(8)? as u64,
                verified: row.get::<_, Option<i64>>(9)?.map(Timestamp::from_millis),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes that a point was proven whole.
    pub fn set_verified(
        &self,
        tenant: TenantId,
        point: PointId,
        when: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        if let Some(tenant) = self.tenant(tenant)? {
            let when = when.map(Timestamp::as_millis);
            self.db
                .prepare_cached("UPDATE points SET verified = ?1 WHERE tenant = ?2 AND id = ?3")?
                .execute(params![when, tenant, point.as_bytes()])?;
        }
        Ok(())
    }
}
