//! What checking and healing note and ask: when files were read last, what stood where, and
//! records as they were.

use std::collections::HashMap;
use std::ops::Range;

use rusqlite::params;

use relevo_wire::manifest::SealedManifest;
use relevo_wire::{ChunkId, PersonId, PointId, ServerId, SiteId, TenantId, Timestamp};

use super::Catalogue;
use crate::clock::VaultTime;
use crate::error::StoreError;
use crate::pack::entry_size;
use crate::record::{
    ClockRecord, DeletionRecord, HoldRecord, LockRecord, PersonRecord, PersonRole, PointRecord,
    Record, RetiredRecord, RevocationRecord, ServerRecord, SiteRecord,
};
use crate::volume::{FileId, FileKind, PackId};

/// An entry that the catalogue knows the place of.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it begins.
    pub offset: u64,
    /// All its bytes in the pack.
    pub size: u64,
    /// What it is.
    pub what: EntryContent,
}

/// What an entry is.
#[derive(Clone, Debug)]
pub enum EntryContent {
    /// A chunk.
    Chunk(ChunkId),
    /// A recovery point, as it is to be stored again.
    Point(Box<PointRecord>),
}

impl Catalogue {
    /// Notes that every byte of a file was read and found as it should be, or that nobody knows.
    pub fn set_checked(&self, file: FileId, when: Option<Timestamp>) -> Result<(), StoreError> {
        let tenant = self.tenant_or_new(file.tenant)?;
        let key = params![tenant, file.kind == FileKind::Parity, file.number];
        self.db
            .prepare_cached("DELETE FROM checks WHERE tenant = ?1 AND parity = ?2 AND number = ?3")?
            .execute(key)?;
        if let Some(when) = when {
            self.db
                .prepare_cached("INSERT INTO checks VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![
                    tenant,
                    file.kind == FileKind::Parity,
                    file.number,
                    when.as_millis()
                ])?;
        }
        Ok(())
    }

    /// When files were read last.
    pub fn checked(&self) -> Result<HashMap<FileId, Timestamp>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT t.id, c.parity, c.number, c.checked FROM checks c
             JOIN tenants t ON t.number = c.tenant",
        )?;
        let rows = query.query_map([], |row| {
            let kind = match row.get(1)? {
                true => FileKind::Parity,
                false => FileKind::Pack,
            };
            let file = FileId {
                tenant: TenantId::from_bytes(row.get(0)?),
                kind,
                number: row.get(2)?,
            };
            Ok((file, Timestamp::from_millis(row.get(3)?)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How far a pack was read into the catalogue; nothing when it is gone on purpose.
    pub fn pack_scanned(&self, pack: PackId) -> Result<Option<u64>, StoreError> {
        let found = self.packs()?.into_iter().find(|(known, _)| *known == pack);
        Ok(found.map(|(_, scanned)| scanned))
    }

    /// Notes bytes that were damaged before the catalogue ever read them: nobody knows what
    /// stood there.
    pub fn note_unsure(&self, pack: PackId, offset: u64, length: u64) -> Result<(), StoreError> {
        let tenant = self.tenant_or_new(pack.tenant)?;
        self.db
            .prepare_cached("INSERT OR REPLACE INTO unsure VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![tenant, pack.number, offset as i64, length as i64])?;
        Ok(())
    }

    /// True when something in these bytes was damaged before the catalogue read them.
    pub fn is_unsure(&self, pack: PackId, bytes: Range<u64>) -> Result<bool, StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(true);
        };
        let end = i64::try_from(bytes.end).unwrap_or(i64::MAX);
        Ok(self
            .db
            .prepare_cached(
                "SELECT 1 FROM unsure WHERE tenant = ?1 AND pack = ?2
                 AND (length = 0 OR (offset < ?4 AND offset + length > ?3))",
            )?
            .exists(params![tenant, pack.number, bytes.start as i64, end])?)
    }

    /// Chunks and recovery points that have their place in these bytes of a pack, in order. Slow:
    /// looks at all chunks.
    pub fn entries_within(
        &self,
        pack: PackId,
        bytes: Range<u64>,
    ) -> Result<Vec<Entry>, StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(Vec::new());
        };
        let ids = self.chunks_within(pack, bytes.clone())?;
        let mut entries = Vec::with_capacity(ids.len());
        for (id, at) in ids.iter().zip(self.locate(pack.tenant, &ids)?) {
            if let Some(at) = at.filter(|at| at.pack == pack.number) {
                entries.push(Entry {
                    offset: at.offset,
                    size: entry_size(at.length as usize),
                    what: EntryContent::Chunk(*id),
                });
            }
        }
        let mut query = self.db.prepare_cached(
            "SELECT manifest, committed, stored, locked, offset, length FROM points
             WHERE tenant = ?1 AND pack = ?2 AND offset >= ?3 AND offset < ?4",
        )?;
        let end = i64::try_from(bytes.end).unwrap_or(i64::MAX);
        let mut rows = query.query(params![tenant, pack.number, bytes.start as i64, end])?;
        while let Some(row) = rows.next()? {
            let manifest = row.get::<_, Vec<u8>>(0)?;
            let locked = row.get::<_, i64>(3)? as u64;
            let point = PointRecord {
                manifest: SealedManifest::from_bytes(&manifest)
                    .map_err(|e| StoreError::Catalogue(e.to_string()))?,
                committed: Timestamp::from_millis(row.get(1)?),
                stored: row.get::<_, i64>(2)? as u64,
                locked: (locked != 0).then_some(VaultTime::from_millis(locked)),
            };
            entries.push(Entry {
                offset: row.get::<_, i64>(4)? as u64,
                size: entry_size(row.get::<_, i64>(5)? as usize),
                what: EntryContent::Point(Box::new(point)),
            });
        }
        entries.sort_by_key(|entry| entry.offset);
        Ok(entries)
    }

    /// All that the tenant's packs say besides chunks and recovery points, to be stored again.
    pub fn records_again(&self, tenant: TenantId) -> Result<Vec<Record>, StoreError> {
        let Some(tenant) = self.tenant(tenant)? else {
            return Ok(Vec::new());
        };
        let mut records = Vec::new();
        let mut take =
            |sql: &str, make: &dyn Fn(&rusqlite::Row<'_>) -> rusqlite::Result<Record>| {
                let mut query = self.db.prepare_cached(sql)?;
                for record in query.query_map([tenant], make)? {
                    records.push(record?);
                }
                Ok::<_, StoreError>(())
            };
        let time = |row: &rusqlite::Row<'_>, at| row.get(at).map(Timestamp::from_millis);
        let vault_time = |row: &rusqlite::Row<'_>, at| {
            let millis: i64 = row.get(at)?;
            Ok::<_, rusqlite::Error>(VaultTime::from_millis(millis as u64))
        };
        take(
            "SELECT id, name, enrolled FROM servers WHERE tenant = ?1",
            &|row| {
                Ok(Record::Server(ServerRecord {
                    id: ServerId::from_bytes(row.get(0)?),
                    name: row.get(1)?,
                    enrolled: time(row, 2)?,
                }))
            },
        )?;
        take(
            "SELECT id, name, enrolled FROM sites WHERE tenant = ?1",
            &|row| {
                Ok(Record::Site(SiteRecord {
                    id: SiteId::from_bytes(row.get(0)?),
                    name: row.get(1)?,
                    enrolled: time(row, 2)?,
                }))
            },
        )?;
        take(
            "SELECT id, role, name, enrolled FROM people WHERE tenant = ?1",
            &|row| {
                let role = match row.get::<_, String>(1)?.as_str() {
                    "administrator" => PersonRole::Administrator,
                    "auditor" => PersonRole::Auditor,
                    _ => PersonRole::Operator,
                };
                Ok(Record::Person(PersonRecord {
                    id: PersonId::from_bytes(row.get(0)?),
                    role,
                    name: row.get(2)?,
                    enrolled: time(row, 3)?,
                }))
            },
        )?;
        let sql =
            "SELECT point, server, deleted, by, reason, highest FROM deletions WHERE tenant = ?1";
        take(sql, &|row| {
            Ok(Record::Deletion(DeletionRecord {
                point: PointId::from_bytes(row.get(0)?),
                server: ServerId::from_bytes(row.get(1)?),
                deleted: time(row, 2)?,
                by: row.get(3)?,
                reason: row.get(4)?,
                highest: row.get(5)?,
            }))
        })?;
        take(
            "SELECT number, retired FROM retired WHERE tenant = ?1",
            &|row| {
                Ok(Record::Retired(RetiredRecord {
                    pack: row.get(0)?,
                    retired: time(row, 1)?,
                }))
            },
        )?;
        take(
            "SELECT point, held, changed, by, reason FROM holds WHERE tenant = ?1",
            &|row| {
                Ok(Record::Hold(HoldRecord {
                    point: PointId::from_bytes(row.get(0)?),
                    held: row.get(1)?,
                    when: time(row, 2)?,
                    by: row.get(3)?,
                    reason: row.get(4)?,
                }))
            },
        )?;
        take(
            "SELECT point, until, changed, by FROM locks WHERE tenant = ?1",
            &|row| {
                Ok(Record::Lock(LockRecord {
                    point: PointId::from_bytes(row.get(0)?),
                    until: vault_time(row, 1)?,
                    when: time(row, 2)?,
                    by: row.get(3)?,
                }))
            },
        )?;
        let sql = "SELECT time, wall, audit_entries, audit_head FROM clocks WHERE tenant = ?1";
        take(sql, &|row| {
            Ok(Record::Clock(ClockRecord {
                time: vault_time(row, 0)?,
                wall: time(row, 1)?,
                audit_entries: row.get::<_, i64>(2)? as u64,
                audit_head: row.get(3)?,
            }))
        })?;
        take(
            "SELECT identity, until, by, reason FROM revocations WHERE tenant = ?1",
            &|row| {
                Ok(Record::Revocation(RevocationRecord {
                    identity: row.get(0)?,
                    until: time(row, 1)?,
                    by: row.get(2)?,
                    reason: row.get(3)?,
                }))
            },
        )?;
        Ok(records)
    }
}
