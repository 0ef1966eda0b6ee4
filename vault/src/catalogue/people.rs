//! Who is enrolled, whose certificates count no more, and what a tenant keeps.

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use relevo_wire::identity::Identity;
use relevo_wire::message::TenantReport;
use relevo_wire::{PersonId, ServerId, SiteId, TenantId, Timestamp};

use super::Catalogue;
use crate::error::StoreError;

/// Somebody who is enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Enrolled {
    /// Whose.
    pub tenant: TenantId,
    /// As certificates name it.
    #[serde(serialize_with = "as_text")]
    pub identity: Identity,
    /// For people.
    pub name: String,
    /// When, last.
    pub enrolled: Timestamp,
    /// Certificates issued until then count no more.
    pub revoked: Option<Timestamp>,
}

fn as_text<S: serde::Serializer>(identity: &Identity, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(identity)
}

impl Enrolled {
    /// The id alone.
    pub fn id(&self) -> [u8; 16] {
        match self.identity {
            Identity::Vault(id) => *id.as_bytes(),
            Identity::Agent { server, .. } => *server.as_bytes(),
            Identity::Recovery { site, .. } => *site.as_bytes(),
            Identity::Operator { person, .. }
            | Identity::Auditor { person, .. }
            | Identity::Administrator { person, .. } => *person.as_bytes(),
        }
    }

    /// True when this is its name, id or identity.
    pub fn is_called(&self, text: &str) -> bool {
        let identity = self.identity.to_string();
        let id = identity.rsplit('/').next();
        self.name == text || identity == text || id == Some(text)
    }
}

impl Catalogue {
    /// All who are enrolled with the tenant: servers, sites, people, each by name.
    pub fn enrolled(&self, tenant: TenantId) -> Result<Vec<Enrolled>, StoreError> {
        let Some(number) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let mut query = self.db.prepare_cached(
            "SELECT 'agent' AS role, id, name, enrolled FROM servers WHERE tenant = ?1
             UNION ALL SELECT 'recovery', id, name, enrolled FROM sites WHERE tenant = ?1
             UNION ALL SELECT role, id, name, enrolled FROM people WHERE tenant = ?1
             ORDER BY role, name",
        )?;
        let rows = query.query_map([number], |row| {
            let (role, id): (String, [u8; 16]) = (row.get(0)?, row.get(1)?);
            let person = PersonId::from_bytes(id);
            let identity = match role.as_str() {
                "agent" => Identity::Agent {
                    tenant,
                    server: ServerId::from_bytes(id),
                },
                "recovery" => Identity::Recovery {
                    tenant,
                    site: SiteId::from_bytes(id),
                },
                "operator" => Identity::Operator { tenant, person },
                "auditor" => Identity::Auditor { tenant, person },
                _ => Identity::Administrator { tenant, person },
            };
            Ok(Enrolled {
                tenant,
                identity,
                name: row.get(2)?,
                enrolled: Timestamp::from_millis(row.get(3)?),
                revoked: None,
            })
        })?;
        let mut all = rows.collect::<Result<Vec<_>, _>>()?;
        for one in &mut all {
            one.revoked = self.revoked_until(&one.identity)?;
        }
        Ok(all)
    }

    /// Certificates of this identity that were issued until then count no more.
    pub fn revoked_until(&self, identity: &Identity) -> Result<Option<Timestamp>, StoreError> {
        let Some(tenant) = identity.tenant() else {
            return Ok(None);
        };
        let until: Option<i64> = self
            .db
            .prepare_cached(
                "SELECT r.until FROM revocations r JOIN tenants t ON t.number = r.tenant
                 WHERE t.id = ?1 AND r.identity = ?2",
            )?
            .query_row(params![tenant.as_bytes(), identity.to_string()], |row| {
                row.get(0)
            })
            .optional()?;
        Ok(until.map(Timestamp::from_millis))
    }

    /// Bytes of the tenant's packs, and how many of them nothing refers to.
    pub fn stored_bytes(&self, tenant: TenantId) -> Result<(u64, u64), StoreError> {
        Ok(self
            .db
            .prepare_cached(
                "SELECT coalesce(sum(scanned), 0), coalesce(sum(dead), 0)
                 FROM packs p JOIN tenants t ON t.number = p.tenant WHERE t.id = ?1",
            )?
            .query_row([tenant.as_bytes()], |row| {
                Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
            })?)
    }

    /// What the tenant keeps; its quota is for the caller to fill in.
    pub fn report(&self, tenant: TenantId) -> Result<TenantReport, StoreError> {
        let number = self.tenant(tenant)?.unwrap_or(-1);
        let (stored_bytes, dead_bytes) = self.stored_bytes(tenant)?;
        let mut report = self
            .db
            .prepare_cached(
                "SELECT
                   (SELECT count(*) FROM points WHERE tenant = ?1),
                   (SELECT count(*) FROM points p JOIN holds h
                      ON h.tenant = ?1 AND h.point = p.id AND h.held = 1 WHERE p.tenant = ?1),
                   (SELECT count(*) FROM points WHERE tenant = ?1 AND verified IS NULL),
                   (SELECT min(verified) FROM points WHERE tenant = ?1),
                   (SELECT count(*) FROM losses WHERE tenant = ?1),
                   (SELECT count(*) FROM deletions WHERE tenant = ?1),
                   (SELECT count(*) FROM retired WHERE tenant = ?1),
                   (SELECT max(retired) FROM retired WHERE tenant = ?1)",
            )?
            .query_row([number], |row| {
                let amount = |at| row.get::<_, i64>(at).map(|n| n as u64);
                let moment = |at| {
                    let millis = row.get::<_, Option<i64>>(at);
                    millis.map(|millis| millis.map(Timestamp::from_millis))
                };
                Ok(TenantReport {
                    tenant,
                    now: Timestamp::now(),
                    stored_bytes,
                    dead_bytes,
                    quota_bytes: None,
                    quota_rate: None,
                    points: amount(0)?,
                    held: amount(1)?,
                    unverified: amount(2)?,
                    oldest_verification: moment(3)?,
                    losses: amount(4)?,
                    deleted: amount(5)?,
                    retired_packs: amount(6)?,
                    last_collected: moment(7)?,
                    servers: Vec::new(),
                })
            })?;
        report.servers = self.servers(tenant)?;
        Ok(report)
    }
}
