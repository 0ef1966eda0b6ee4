//! What retention asks: the recovery points with their locks and holds, and vault time.

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use relevo_wire::{PointId, ServerId, TenantId, Timestamp};

use super::Catalogue;
use crate::clock::VaultTime;
use crate::error::StoreError;
use crate::retention::Candidate;
use crate::volume::PackId;

/// A server with its recovery points, as a policy judges them.
#[derive(Clone, Debug)]
pub struct ServerPoints {
    /// Whose.
    pub tenant: TenantId,
    /// The server.
    pub server: ServerId,
    /// Its name; its id when the enrolment record is lost.
    pub name: String,
    /// Its points, in no order.
    pub points: Vec<Candidate>,
}

/// A point that is or was locked.
#[derive(Clone, Debug, Serialize)]
pub struct LockedPoint {
    /// Whose.
    pub tenant: TenantId,
    /// Of which server.
    pub server: ServerId,
    /// The server's name.
    pub name: String,
    /// The recovery point.
    pub point: PointId,
    /// The moment whose state it holds.
    pub taken: Timestamp,
    /// Until when, in vault time.
    pub until: VaultTime,
}

/// Where a point's entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointPlace {
    /// Number of the pack.
    pub pack: u32,
    /// Where the entry begins.
    pub offset: u64,
    /// Bytes of its body.
    pub length: u32,
    /// Of which server it is.
    pub server: ServerId,
}

/// Where the furthest clock entry of a pack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockPlace {
    /// Which pack.
    pub pack: PackId,
    /// Where the entry begins.
    pub offset: u64,
    /// What it says.
    pub time: VaultTime,
}

/// What the last clock entry of a tenant says of the audit log.
pub type AuditAnchor = (u64, [u8; 32]);

impl Catalogue {
    /// All servers that have recovery points, by name.
    pub fn servers_with_points(&self) -> Result<Vec<ServerPoints>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT t.id, p.server, coalesce(s.name, lower(hex(p.server))), p.id, p.taken,
                    p.committed, max(p.locked, coalesce(l.until, 0)),
                    CASE WHEN h.held = 1 THEN h.reason END
             FROM points p JOIN tenants t ON t.number = p.tenant
             LEFT JOIN servers s ON s.tenant = p.tenant AND s.id = p.server
             LEFT JOIN locks l ON l.tenant = p.tenant AND l.point = p.id
             LEFT JOIN holds h ON h.tenant = p.tenant AND h.point = p.id
             ORDER BY 3, p.server, t.id",
        )?;
        let mut rows = query.query([])?;
        let mut servers: Vec<ServerPoints> = Vec::new();
        while let Some(row) = rows.next()? {
            let tenant = TenantId::from_bytes(row.get(0)?);
            let server = ServerId::from_bytes(row.get(1)?);
            let locked = VaultTime::from_millis(row.get::<_, i64>(6)? as u64);
            let point = Candidate {
                point: PointId::from_bytes(row.get(3)?),
                taken: Timestamp::from_millis(row.get(4)?),
                committed: Timestamp::from_millis(row.get(5)?),
                held: row.get(7)?,
                locked: (locked > VaultTime::default()).then_some(locked),
            };
            match servers.last_mut() {
                Some(last) if (last.tenant, last.server) == (tenant, server) => {
                    last.points.push(point);
                }
                _ => servers.push(ServerPoints {
                    tenant,
                    server,
                    name: row.get(2)?,
                    points: vec![point],
                }),
            }
        }
        Ok(servers)
    }

    /// Points whose lock ends after this moment, the earliest end first.
    pub fn locked_points(&self, now: VaultTime) -> Result<Vec<LockedPoint>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT t.id, p.server, coalesce(s.name, lower(hex(p.server))), p.id, p.taken,
                    max(p.locked, coalesce(l.until, 0)) AS ends
             FROM points p JOIN tenants t ON t.number = p.tenant
             LEFT JOIN servers s ON s.tenant = p.tenant AND s.id = p.server
             LEFT JOIN locks l ON l.tenant = p.tenant AND l.point = p.id
             WHERE ends > ?1 ORDER BY ends, p.taken",
        )?;
        let rows = query.query_map([now.as_millis() as i64], |row| {
            Ok(LockedPoint {
                tenant: TenantId::from_bytes(row.get(0)?),
                server: ServerId::from_bytes(row.get(1)?),
                name: row.get(2)?,
                point: PointId::from_bytes(row.get(3)?),
                taken: Timestamp::from_millis(row.get(4)?),
                until: VaultTime::from_millis(row.get::<_, i64>(5)? as u64),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Tenants with a point whose lock ends after this moment.
    pub fn tenants_with_locks(&self, now: VaultTime) -> Result<Vec<TenantId>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT t.id FROM tenants t WHERE EXISTS (
               SELECT 1 FROM points p
               LEFT JOIN locks l ON l.tenant = p.tenant AND l.point = p.id
               WHERE p.tenant = t.number AND max(p.locked, coalesce(l.until, 0)) > ?1)",
        )?;
        let rows = query.query_map([now.as_millis() as i64], |row| {
            row.get(0).map(TenantId::from_bytes)
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The furthest that any clock entry says.
    pub fn vault_time(&self) -> Result<VaultTime, StoreError> {
        let time: i64 = self
            .db
            .prepare_cached("SELECT coalesce(max(time), 0) FROM clocks")?
            .query_row([], |row| row.get(0))?;
        Ok(VaultTime::from_millis(u64::try_from(time).unwrap_or(0)))
    }

    /// Notes where a clock entry is: of each pack the furthest.
    pub(super) fn place_clock(
        &self,
        tenant: i64,
        number: u32,
        offset: u64,
        time: VaultTime,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "INSERT INTO clock_places VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET offset = ?3, time = ?4 WHERE time <= ?4",
            )?
            .execute(params![
                tenant,
                number,
                offset as i64,
                time.as_millis() as i64
            ])?;
        Ok(())
    }

    /// Where the clock entries of packs are that are not retired, the furthest first.
    pub fn clock_places(&self) -> Result<Vec<ClockPlace>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT t.id, c.pack, c.offset, c.time FROM clock_places c
             JOIN tenants t ON t.number = c.tenant
             WHERE NOT EXISTS (
               SELECT 1 FROM retired r WHERE r.tenant = c.tenant AND r.number = c.pack)
             ORDER BY c.time DESC, c.pack DESC",
        )?;
        let rows = query.query_map([], |row| {
            let tenant = TenantId::from_bytes(row.get(0)?);
            let number = row.get(1)?;
            Ok(ClockPlace {
                pack: PackId { tenant, number },
                offset: row.get::<_, i64>(2)? as u64,
                time: VaultTime::from_millis(row.get::<_, i64>(3)? as u64),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What the tenant's last clock entry says of the audit log.
    pub fn audit_anchor(&self, tenant: TenantId) -> Result<Option<AuditAnchor>, StoreError> {
        Ok(self
            .db
            .prepare_cached(
                "SELECT c.audit_entries, c.audit_head FROM clocks c
                 JOIN tenants t ON t.number = c.tenant WHERE t.id = ?1",
            )?
            .query_row([tenant.as_bytes()], |row| {
                Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))
            })
            .optional()?)
    }

    /// A server's name, when it was enrolled.
    pub fn server_name(
        &self,
        tenant: TenantId,
        server: ServerId,
    ) -> Result<Option<String>, StoreError> {
        Ok(self
            .db
            .prepare_cached(
                "SELECT s.name FROM servers s JOIN tenants t ON t.number = s.tenant
                 WHERE t.id = ?1 AND s.id = ?2",
            )?
            .query_row(params![tenant.as_bytes(), server.as_bytes()], |row| {
                row.get(0)
            })
            .optional()?)
    }

    /// Where a point's entry is.
    pub fn point_place(
        &self,
        tenant: TenantId,
        point: PointId,
    ) -> Result<Option<PointPlace>, StoreError> {
        Ok(self
            .db
            .prepare_cached(
                "SELECT p.pack, p.offset, p.length, p.server FROM points p
                 JOIN tenants t ON t.number = p.tenant WHERE t.id = ?1 AND p.id = ?2",
            )?
            .query_row(params![tenant.as_bytes(), point.as_bytes()], |row| {
                Ok(PointPlace {
                    pack: row.get(0)?,
                    offset: row.get::<_, i64>(1)? as u64,
                    length: row.get(2)?,
                    server: ServerId::from_bytes(row.get(3)?),
                })
            })
            .optional()?)
    }

    /// True when a point is the one that a recovery site calls its server's latest.
    pub fn is_latest(
        &self,
        tenant: TenantId,
        server: ServerId,
        point: PointId,
    ) -> Result<bool, StoreError> {
        let latest: Option<[u8; 16]> = self
            .db
            .prepare_cached(
                "SELECT p.id FROM points p JOIN tenants t ON t.number = p.tenant
                 WHERE t.id = ?1 AND p.server = ?2
                 ORDER BY p.taken DESC, p.committed DESC LIMIT 1",
            )?
            .query_row(params![tenant.as_bytes(), server.as_bytes()], |row| {
                row.get(0)
            })
            .optional()?;
        Ok(latest == Some(*point.as_bytes()))
    }

    /// When a point's hold was last set or released, by the wall clock of then.
    pub fn hold_changed(
        &self,
        tenant: TenantId,
        point: PointId,
    ) -> Result<Option<Timestamp>, StoreError> {
        Ok(self
            .db
            .prepare_cached(
                "SELECT h.changed FROM holds h JOIN tenants t ON t.number = h.tenant
                 WHERE t.id = ?1 AND h.point = ?2",
            )?
            .query_row(params![tenant.as_bytes(), point.as_bytes()], |row| {
                row.get(0).map(Timestamp::from_millis)
            })
            .optional()?)
    }
}
