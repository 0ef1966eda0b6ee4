//! What packs say of deletions, holds, locks, people and revocations.

use rusqlite::{OptionalExtension, params};

use relevo_wire::{PointId, TenantId, Timestamp};

use super::Catalogue;
use crate::clock::VaultTime;
use crate::error::StoreError;
use crate::record::{PersonRole, Record};

impl Catalogue {
    /// Enrolled anew, a server or site has another record: the latest counts.
    fn take_enrolled(
        &self,
        table: &'static str,
        tenant: i64,
        id: &[u8; 16],
        name: &str,
        enrolled: Timestamp,
    ) -> Result<(), StoreError> {
        self.db
            .prepare_cached(&format!(
                "INSERT INTO {table} VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET name = ?3, enrolled = ?4 WHERE enrolled <= ?4"
            ))?
            .execute(params![tenant, id, name, enrolled.as_millis()])?;
        Ok(())
    }

    /// Takes in a record that is neither chunk nor point.
    pub(super) fn take_governance(&self, tenant: i64, record: &Record) -> Result<(), StoreError> {
        match record {
            Record::Chunk(_) | Record::Point(_) => {}
            Record::Server(s) => {
                self.take_enrolled("servers", tenant, s.id.as_bytes(), &s.name, s.enrolled)?;
            }
            Record::Site(s) => {
                self.take_enrolled("sites", tenant, s.id.as_bytes(), &s.name, s.enrolled)?;
            }
            Record::Deletion(d) => {
                self.db
                    .prepare_cached(
                        "INSERT OR IGNORE INTO deletions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    )?
                    .execute(params![
                        tenant,
                        d.point.as_bytes(),
                        d.server.as_bytes(),
                        d.deleted.as_millis(),
                        d.by,
                        d.reason,
                        d.highest
                    ])?;
                self.drop_point(tenant, d.point)?;
            }
            Record::Retired(r) => self.retire_pack(tenant, r.pack, r.retired)?,
            Record::Hold(h) => {
                self.db
                    .prepare_cached(
                        "INSERT INTO holds VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                         ON CONFLICT DO UPDATE SET held = ?3, changed = ?4, by = ?5, reason = ?6
                         WHERE changed < ?4",
                    )?
                    .execute(params![
                        tenant,
                        h.point.as_bytes(),
                        h.held,
                        h.when.as_millis(),
                        h.by,
                        h.reason
                    ])?;
            }
            Record::Lock(l) => {
                self.db
                    .prepare_cached(
                        "INSERT INTO locks VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT DO UPDATE SET until = ?3, changed = ?4, by = ?5
                         WHERE until < ?3",
                    )?
                    .execute(params![
                        tenant,
                        l.point.as_bytes(),
                        l.until.as_millis() as i64,
                        l.when.as_millis(),
                        l.by
                    ])?;
            }
            Record::Clock(c) => {
                self.db
                    .prepare_cached(
                        "INSERT INTO clocks VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT DO UPDATE
                         SET time = ?2, wall = ?3, audit_entries = ?4, audit_head = ?5
                         WHERE time < ?2",
                    )?
                    .execute(params![
                        tenant,
                        c.time.as_millis() as i64,
                        c.wall.as_millis(),
                        c.audit_entries as i64,
                        c.audit_head
                    ])?;
            }
            Record::Person(p) => {
                let role = match p.role {
                    PersonRole::Operator => "operator",
                    PersonRole::Auditor => "auditor",
                    PersonRole::Administrator => "administrator",
                };
                self.db
                    .prepare_cached(
                        "INSERT INTO people VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT DO UPDATE SET role = ?3, name = ?4, enrolled = ?5
                         WHERE enrolled <= ?5",
                    )?
                    .execute(params![
                        tenant,
                        p.id.as_bytes(),
                        role,
                        p.name,
                        p.enrolled.as_millis()
                    ])?;
            }
            Record::Revocation(r) => {
                self.db
                    .prepare_cached(
                        "INSERT INTO revocations VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT DO UPDATE SET until = ?3, by = ?4, reason = ?5
                         WHERE until < ?3",
                    )?
                    .execute(params![
                        tenant,
                        r.identity,
                        r.until.as_millis(),
                        r.by,
                        r.reason
                    ])?;
            }
        }
        Ok(())
    }

    pub(super) fn is_deleted(&self, tenant: i64, point: PointId) -> Result<bool, StoreError> {
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM deletions WHERE tenant = ?1 AND point = ?2")?
            .exists(params![tenant, point.as_bytes()])?)
    }

    /// True when a point of this id was deleted: the id is never used again.
    pub fn was_deleted(&self, tenant: TenantId, point: PointId) -> Result<bool, StoreError> {
        match self.tenant(tenant)? {
            Some(tenant) => self.is_deleted(tenant, point),
            None => Ok(false),
        }
    }

    /// Until when a point may not be deleted; zero when it never was locked.
    pub fn locked_until(&self, tenant: TenantId, point: PointId) -> Result<VaultTime, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(VaultTime::default());
        };
        let until: i64 = self
            .db
            .prepare_cached(
                "SELECT max(
                   coalesce((SELECT locked FROM points WHERE tenant = ?1 AND id = ?2), 0),
                   coalesce((SELECT until FROM locks WHERE tenant = ?1 AND point = ?2), 0))",
            )?
            .query_row(params![tenant, point.as_bytes()], |row| row.get(0))?;
        Ok(VaultTime::from_millis(until as u64))
    }

    /// Why a point is held back from deletion, if it is.
    pub fn hold(&self, tenant: TenantId, point: PointId) -> Result<Option<String>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(None);
        };
        Ok(self
            .db
            .prepare_cached(
                "SELECT reason FROM holds WHERE tenant = ?1 AND point = ?2 AND held = 1",
            )?
            .query_row(params![tenant, point.as_bytes()], |row| row.get(0))
            .optional()?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::catalogue::Placed;
    use crate::record::ServerRecord;
    use crate::volume::PackId;
    use relevo_wire::ServerId;

    /// Guards the name of a server that was enrolled anew: a catalogue that is made from the packs
    /// reads the newest first.
    #[test]
    fn the_latest_enrolment_counts_in_whatever_order_packs_are_read() {
        let (tenant, id) = (TenantId::random(), ServerId::random());
        let enrolled = |name: &str, at| {
            Record::Server(ServerRecord {
                id,
                name: name.into(),
                enrolled: Timestamp::from_millis(at),
            })
        };
        let records = [enrolled("before", 1), enrolled("now", 2)];
        for order in [[0, 1], [1, 0]] {
            let dir = tempfile::tempdir().unwrap();
            let (catalogue, _) = Catalogue::open(&dir.path().join("c")).unwrap();
            for at in order {
                let number = at as u32 + 1;
                let placed = Placed {
                    offset: 8192,
                    record: &records[at],
                };
                let pack = PackId { tenant, number };
                catalogue.take(pack, 9000, &[placed]).unwrap();
            }
            let name = catalogue.server_name(tenant, id).unwrap();
            assert_eq!(name.as_deref(), Some("now"));
        }
    }
}
