//! Which entries of a pack are carried over when it is rewritten.
//!
//! An entry may stay behind only when what it says is said elsewhere, or is of no use to anybody
//! who reads the packs that are left. In doubt it is carried over.

use rusqlite::{OptionalExtension, params};

use super::Catalogue;
use crate::error::StoreError;
use crate::record::Record;
use crate::volume::PackId;

impl Catalogue {
    /// True when the entry at this offset of a pack is to be carried over.
    pub fn carries(&self, pack: PackId, offset: u64, record: &Record) -> Result<bool, StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(true);
        };
        let here = (pack.number, offset);
        match record {
            Record::Chunk(chunk) => {
                let state = self.states(pack.tenant, &[chunk.id()])?.into_iter().next();
                let state = state.unwrap_or_default();
                Ok(match state.place {
                    Some(at) => (at.pack, at.offset) == here,
                    // Damaged elsewhere and forgotten, or missing: here is what heals it.
                    None => state.refs > 0,
                })
            }
            Record::Point(point) => {
                let Ok(public) = point.manifest.public() else {
                    return Ok(true);
                };
                if self.is_deleted(tenant, public.point)? {
                    return Ok(false);
                }
                let place = self.point_place(pack.tenant, public.point)?;
                Ok(place.is_none_or(|at| (at.pack, at.offset) == here))
            }
            Record::Deletion(deletion) => {
                // Read in any order, the packs say that the point is gone as long as one that
                // may hold it, or a copy that somebody kept of one, may be read.
                let retired: u32 = self
                    .db
                    .prepare_cached(
                        "SELECT count(*) FROM retired
                         WHERE tenant = ?1 AND number <= ?2 AND number != ?3",
                    )?
                    .query_row(params![tenant, deletion.highest, pack.number], |row| {
                        row.get(0)
                    })?;
                let others = match pack.number <= deletion.highest {
                    true => deletion.highest.saturating_sub(1),
                    false => deletion.highest,
                };
                Ok(retired < others)
            }
            Record::Hold(hold) => {
                let latest = self.number(
                    "SELECT changed FROM holds WHERE tenant = ?1 AND point = ?2",
                    tenant,
                    hold.point.as_bytes(),
                )?;
                Ok(latest.is_none_or(|latest| hold.when.as_millis() >= latest))
            }
            Record::Lock(lock) => {
                let longest = self.number(
                    "SELECT until FROM locks WHERE tenant = ?1 AND point = ?2",
                    tenant,
                    lock.point.as_bytes(),
                )?;
                Ok(longest.is_none_or(|until| lock.until.as_millis() as i64 >= until))
            }
            Record::Clock(clock) => {
                let furthest: Option<i64> = self
                    .db
                    .prepare_cached("SELECT time FROM clocks WHERE tenant = ?1")?
                    .query_row([tenant], |row| row.get(0))
                    .optional()?;
                Ok(furthest.is_none_or(|time| clock.time.as_millis() as i64 >= time))
            }
            Record::Revocation(revocation) => {
                let latest: Option<i64> = self
                    .db
                    .prepare_cached(
                        "SELECT until FROM revocations WHERE tenant = ?1 AND identity = ?2",
                    )?
                    .query_row(params![tenant, revocation.identity], |row| row.get(0))
                    .optional()?;
                Ok(latest.is_none_or(|until| revocation.until.as_millis() >= until))
            }
            _ => Ok(true),
        }
    }

    fn number(&self, query: &str, tenant: i64, id: &[u8]) -> Result<Option<i64>, StoreError> {
        Ok(self
            .db
            .prepare_cached(query)?
            .query_row(params![tenant, id], |row| row.get(0))
            .optional()?)
    }

    /// True when no chunk and no recovery point has its place in the pack.
    pub fn is_empty_pack(&self, pack: PackId) -> Result<bool, StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(true);
        };
        let chunks: Option<i64> = self
            .db
            .prepare_cached("SELECT chunks FROM packs WHERE tenant = ?1 AND number = ?2")?
            .query_row(params![tenant, pack.number], |row| row.get(0))
            .optional()?;
        let points = self
            .db
            .prepare_cached("SELECT 1 FROM points WHERE tenant = ?1 AND pack = ?2")?
            .exists(params![tenant, pack.number])?;
        Ok(chunks.unwrap_or(0) == 0 && !points)
    }
}
