//! Which entry is the last that the catalogue knows of a pack: it tells whether the pack is still
//! the one that was read, or was cut and written anew since.

use std::collections::HashMap;

use rusqlite::params;

use relevo_wire::TenantId;

use super::Catalogue;
use crate::error::StoreError;
use crate::pack::ENTRY_HEADER;
use crate::volume::PackId;

pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS ends (
    tenant INTEGER NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL, mark BLOB NOT NULL,
    PRIMARY KEY (tenant, pack)) WITHOUT ROWID;
";

/// Bytes of an entry header's checksum, which covers its place, its length and its id.
const MARK: usize = 16;

/// An entry of a pack, known by its header's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Where it begins.
    pub offset: u64,
    mark: [u8; MARK],
}

impl End {
    /// The entry of which these bytes are the header.
    pub fn of(offset: u64, header: &[u8]) -> Option<Self> {
        let mark = header.get(ENTRY_HEADER - MARK..ENTRY_HEADER)?;
        let mark = mark.try_into().ok()?;
        Some(Self { offset, mark })
    }
}

impl Catalogue {
    /// Makes the table where there is none: a catalogue of this version may be from before it.
    /// Not for who only reads, from a disk that is full, or not to be written to.
    pub(super) fn prepare_ends(&self) -> Result<(), StoreError> {
        Ok(self.db.execute_batch(TABLE)?)
    }

    /// Forgets the last entry of a pack: another stands there now.
    pub fn forget_end(&self, pack: PackId) -> Result<(), StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(());
        };
        self.db
            .prepare_cached("DELETE FROM ends WHERE tenant = ?1 AND pack = ?2")?
            .execute(params![tenant, pack.number])?;
        Ok(())
    }

    /// Notes the last entry of a pack.
    pub fn set_end(&self, pack: PackId, end: End) -> Result<(), StoreError> {
        let tenant = self.tenant_or_new(pack.tenant)?;
        self.db
            .prepare_cached("INSERT OR REPLACE INTO ends VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![tenant, pack.number, end.offset as i64, end.mark])?;
        Ok(())
    }

    /// The last entries that are known.
    pub fn ends(&self) -> Result<HashMap<PackId, End>, StoreError> {
        let table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'ends'";
        if !self.db.prepare_cached(table)?.exists([])? {
            return Ok(HashMap::new());
        }
        let mut query = self.db.prepare_cached(
            "SELECT t.id, e.pack, e.offset, e.mark FROM ends e JOIN tenants t ON t.number = e.tenant",
        )?;
        let rows = query.query_map([], |row| {
            let tenant = TenantId::from_bytes(row.get(0)?);
            let number = row.get(1)?;
            let end = End {
                offset: row.get::<_, i64>(2)? as u64,
                mark: row.get(3)?,
            };
            Ok((PackId { tenant, number }, end))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
