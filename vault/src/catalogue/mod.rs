//! Where everything is: an SQLite database that follows from the packs.
//!
//! What it holds beyond them: tokens, when points were verified, and which nodes were proven
//! complete. Losing it costs a scan of the packs, the tokens that wait, and a verification.

mod chunks;
mod listing;
mod tokens;

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use relevo_wire::id::random_bytes;
use relevo_wire::manifest::SealedManifest;
use relevo_wire::{PointId, TenantId};

use crate::error::StoreError;
use crate::record::{ChunkKind, Record};
use crate::volume::PackId;

pub use chunks::Located;
pub use listing::Image;
pub use tokens::{Role, TokenError, TokenRow};

/// Version of the tables. A catalogue of another one is made anew from the packs.
const SCHEMA: i64 = 1;

const TABLES: &str = "
CREATE TABLE tenants (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE packs (
    tenant INTEGER NOT NULL, number INTEGER NOT NULL, scanned INTEGER NOT NULL,
    PRIMARY KEY (tenant, number)) WITHOUT ROWID;
CREATE TABLE chunks (
    tenant INTEGER NOT NULL, id BLOB NOT NULL,
    pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    kind INTEGER NOT NULL, complete INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE points (
    tenant INTEGER NOT NULL, id BLOB NOT NULL, server BLOB NOT NULL, taken INTEGER NOT NULL,
    committed INTEGER NOT NULL, stored INTEGER NOT NULL,
    disk INTEGER NOT NULL, sent INTEGER NOT NULL,
    manifest BLOB NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL, verified INTEGER,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE INDEX points_by_server ON points (tenant, server, taken);
CREATE TABLE servers (
    tenant INTEGER NOT NULL, id BLOB NOT NULL, name TEXT NOT NULL, enrolled INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE sites (
    tenant INTEGER NOT NULL, id BLOB NOT NULL, name TEXT NOT NULL, enrolled INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE tokens (
    hash BLOB PRIMARY KEY, role TEXT NOT NULL, tenant BLOB, created INTEGER NOT NULL,
    expires INTEGER NOT NULL, used INTEGER) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// A record and where its entry begins.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    /// Where.
    pub offset: u64,
    /// What.
    pub record: &'a Record,
}

/// One connection to the catalogue.
pub struct Catalogue {
    db: Connection,
}

impl Catalogue {
    /// Opens it, making the tables when there are none. True while it has not read all packs
    /// since it was made: then it cannot tell what was never acknowledged.
    pub fn open(path: &Path) -> Result<(Self, bool), StoreError> {
        let db = Connection::open(path)?;
        db.busy_timeout(Duration::from_secs(30))?;
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA wal_autocheckpoint = 8000; PRAGMA cache_size = -65536;
             PRAGMA journal_size_limit = 134217728;",
        )?;
        db.set_prepared_statement_cache_capacity(64);
        let catalogue = Self { db };
        catalogue.prepare_tables()?;
        let fresh = !catalogue.is_whole()?;
        Ok((catalogue, fresh))
    }

    /// True once all packs were read into it.
    fn is_whole(&self) -> Result<bool, StoreError> {
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM meta WHERE name = 'whole'")?
            .exists([])?)
    }

    /// Notes that all packs were read into it.
    pub fn set_whole(&self) -> Result<(), StoreError> {
        let note = "INSERT OR REPLACE INTO meta VALUES ('whole', 1)";
        self.db.execute(note, [])?;
        Ok(())
    }

    fn prepare_tables(&self) -> Result<(), StoreError> {
        let version = |db: &Connection| -> rusqlite::Result<i64> {
            db.query_row("PRAGMA user_version", [], |row| row.get(0))
        };
        match version(&self.db)? {
            SCHEMA => return Ok(()),
            0 => {}
            other => {
                return Err(StoreError::Catalogue(format!(
                    "its tables have version {other}, this release uses {SCHEMA}"
                )));
            }
        }
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        // Two processes may open a new vault at once: the second finds the tables made.
        if version(&self.db)? == SCHEMA {
            self.db.execute_batch("COMMIT")?;
            return Ok(());
        }
        self.db.execute_batch(TABLES)?;
        self.set_epoch()?;
        self.db.pragma_update(None, "user_version", SCHEMA)?;
        self.db.execute_batch("COMMIT")?;
        Ok(())
    }

    /// Runs `work` in one transaction.
    pub fn transaction<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.db
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(StoreError::from)?;
        let done = work(self).and_then(|value| {
            self.db.execute_batch("COMMIT").map_err(StoreError::from)?;
            Ok(value)
        });
        if done.is_err() && !self.db.is_autocommit() {
            // What failed is reported; a failing rollback ends with the connection.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        done
    }

    /// Moves what the log holds into the database file, so that the log stays short.
    pub fn checkpoint(&self) {
        let _ = self.db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// Changes when chunks may have gone; see [`relevo_wire::message::Response::Welcome`].
    pub fn epoch(&self) -> Result<i64, StoreError> {
        Ok(self
            .db
            .prepare_cached("SELECT value FROM meta WHERE name = 'epoch'")?
            .query_row([], |row| row.get(0))?)
    }

    fn set_epoch(&self) -> Result<(), StoreError> {
        // Never 0, which says "not proven" in the chunk table.
        let epoch = i64::from_le_bytes(random_bytes()) >> 1 | 1;
        self.db.execute(
            "INSERT OR REPLACE INTO meta VALUES ('epoch', ?1)",
            [epoch.abs()],
        )?;
        Ok(())
    }

    /// The tenant's number in the tables.
    pub fn tenant(&self, tenant: TenantId) -> Result<Option<i64>, StoreError> {
        Ok(self
            .db
            .prepare_cached("SELECT number FROM tenants WHERE id = ?1")?
            .query_row([tenant.as_bytes()], |row| row.get(0))
            .optional()?)
    }

    fn tenant_or_new(&self, tenant: TenantId) -> Result<i64, StoreError> {
        if let Some(number) = self.tenant(tenant)? {
            return Ok(number);
        }
        self.db
            .execute("INSERT INTO tenants (id) VALUES (?1)", [tenant.as_bytes()])?;
        Ok(self.db.last_insert_rowid())
    }

    /// All tenants.
    pub fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        let mut query = self.db.prepare_cached("SELECT id FROM tenants")?;
        let rows = query.query_map([], |row| row.get(0).map(TenantId::from_bytes))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How far each pack was read into the catalogue.
    pub fn packs(&self) -> Result<Vec<(PackId, u64)>, StoreError> {
        let mut query = self.db.prepare_cached(
            "SELECT t.id, p.number, p.scanned FROM packs p JOIN tenants t ON t.number = p.tenant
             ORDER BY p.tenant, p.number",
        )?;
        let rows = query.query_map([], |row| {
            let tenant = TenantId::from_bytes(row.get(0)?);
            let number = row.get(1)?;
            Ok((PackId { tenant, number }, row.get::<_, i64>(2)? as u64))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Takes in what stands in a pack, and that the pack is known up to `scanned`. Records that
    /// are known keep their place.
    pub fn take(
        &self,
        pack: PackId,
        scanned: u64,
        records: &[Placed<'_>],
    ) -> Result<(), StoreError> {
        let tenant = self.tenant_or_new(pack.tenant)?;
        let mut chunk = self.db.prepare_cached(
            "INSERT OR IGNORE INTO chunks (tenant, id, pack, offset, length, kind)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for Placed { offset, record } in records {
            let offset = *offset as i64;
            match record {
                Record::Chunk(c) => {
                    // A node that cannot be read is catalogued as data: nothing can refer to it
                    // as a node, and its bytes are kept.
                    let kind = ChunkKind::of(c).unwrap_or(ChunkKind::Data);
                    let length = c.bytes().len() as i64;
                    chunk.execute(params![
                        tenant,
                        c.id().as_bytes(),
                        pack.number,
                        offset,
                        length,
                        kind.number()
                    ])?;
                }
                Record::Point(p) => {
                    let Ok(public) = p.manifest.public() else {
                        tracing::warn!(%pack, offset, "a recovery point of a newer release is left aside");
                        continue;
                    };
                    let manifest = p
                        .manifest
                        .to_bytes()
                        .map_err(|e| StoreError::Catalogue(e.to_string()))?;
                    self.db
                        .prepare_cached(
                            "INSERT OR IGNORE INTO points VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, NULL)",
                        )?
                        .execute(params![
                            tenant, public.point.as_bytes(), public.server.as_bytes(),
                            public.taken.as_millis(), p.committed.as_millis(), p.stored as i64,
                            public.totals.disk as i64, public.totals.sent as i64,
                            manifest, pack.number, offset
                        ])?;
                }
                Record::Server(s) => {
                    self.db
                        .prepare_cached("INSERT OR REPLACE INTO servers VALUES (?1, ?2, ?3, ?4)")?
                        .execute(params![
                            tenant,
                            s.id.as_bytes(),
                            s.name,
                            s.enrolled.as_millis()
                        ])?;
                }
                Record::Site(s) => {
                    self.db
                        .prepare_cached("INSERT OR REPLACE INTO sites VALUES (?1, ?2, ?3, ?4)")?
                        .execute(params![
                            tenant,
                            s.id.as_bytes(),
                            s.name,
                            s.enrolled.as_millis()
                        ])?;
                }
            }
        }
        self.db
            .prepare_cached("INSERT OR REPLACE INTO packs VALUES (?1, ?2, ?3)")?
            .execute(params![tenant, pack.number, scanned as i64])?;
        Ok(())
    }

    /// Forgets everything in a pack that is not what it was.
    pub fn forget_pack(&self, pack: PackId) -> Result<(), StoreError> {
        let Some(tenant) = self.tenant(pack.tenant)? else {
            return Ok(());
        };
        for table in ["chunks", "points"] {
            let delete = format!("DELETE FROM {table} WHERE tenant = ?1 AND pack = ?2");
            self.db.execute(&delete, params![tenant, pack.number])?;
        }
        self.db.execute(
            "DELETE FROM packs WHERE tenant = ?1 AND number = ?2",
            params![tenant, pack.number],
        )?;
        self.set_epoch()
    }

    /// A committed point: its manifest and the bytes that it added.
    pub fn point(
        &self,
        tenant: TenantId,
        point: PointId,
    ) -> Result<Option<(SealedManifest, u64)>, StoreError> {
        let row = self
            .db
            .prepare_cached(
                "SELECT p.manifest, p.stored FROM points p JOIN tenants t ON t.number = p.tenant
                 WHERE t.id = ?1 AND p.id = ?2",
            )?
            .query_row(params![tenant.as_bytes(), point.as_bytes()], |row| {
                Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)? as u64))
            })
            .optional()?;
        row.map(|(manifest, stored)| {
            let manifest = SealedManifest::from_bytes(&manifest)
                .map_err(|e| StoreError::Catalogue(e.to_string()))?;
            Ok((manifest, stored))
        })
        .transpose()
    }
}
