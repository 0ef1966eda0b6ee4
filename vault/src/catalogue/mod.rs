//! Where everything is: an SQLite database that follows from the packs.
//!
//! What it holds beyond them: tokens, when points were verified, and which nodes were proven
//! complete. Losing it costs a scan of the packs, the tokens that wait, and a verification.

mod afresh;
mod carrying;
mod chunks;
mod ends;
mod governance;
mod healing;
mod index_damage;
mod keeping;
mod listing;
mod losses;
mod merging;
mod people;
mod references;
mod removal;
mod rows;
mod segments;
#[cfg(test)]
mod segments_test;
mod take;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use relevo_wire::id::random_bytes;
use relevo_wire::manifest::SealedManifest;
use relevo_wire::{PointId, TenantId};

use crate::error::StoreError;
use crate::volume::PackId;

pub use chunks::{ChunkState, Located};
pub use ends::End;
pub use healing::{Entry, EntryContent};
pub use keeping::{AuditAnchor, ClockPlace, LockedPoint, PointPlace, ServerPoints};
pub use listing::Image;
pub use losses::Loss;
pub use people::Enrolled;
pub use references::PackUse;
pub use removal::Unreferenced;
pub use segments::OpenSegments;
pub use take::Placed;
pub use tokens::{Role, TokenError, TokenRow};

/// Version of the tables. A catalogue of another one is made anew from the packs.
const SCHEMA: i64 = 2;

const TABLES: &str = "
CREATE TABLE tenants (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE packs (
    tenant INTEGER NOT NULL, number INTEGER NOT NULL, scanned INTEGER NOT NULL,
    chunks INTEGER NOT NULL, dead INTEGER NOT NULL,
    PRIMARY KEY (tenant, number)) WITHOUT ROWID;
CREATE TABLE retired (
    tenant INTEGER NOT NULL, number INTEGER NOT NULL, retired INTEGER NOT NULL,
    PRIMARY KEY (tenant, number)) WITHOUT ROWID;
CREATE TABLE recent (
    tenant INTEGER NOT NULL, id BLOB NOT NULL,
    pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    kind INTEGER NOT NULL, refs INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE segments (
    tenant INTEGER NOT NULL, number INTEGER NOT NULL, layer INTEGER NOT NULL,
    PRIMARY KEY (tenant, number)) WITHOUT ROWID;
CREATE TABLE complete (
    tenant INTEGER NOT NULL, id BLOB NOT NULL,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE unreferenced (
    tenant INTEGER NOT NULL, id BLOB NOT NULL, since INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE INDEX unreferenced_since ON unreferenced (tenant, since);
CREATE TABLE losses (
    tenant INTEGER NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
    length INTEGER NOT NULL, id BLOB, found INTEGER NOT NULL,
    PRIMARY KEY (tenant, pack, offset)) WITHOUT ROWID;
CREATE TABLE checks (
    tenant INTEGER NOT NULL, parity INTEGER NOT NULL, number INTEGER NOT NULL,
    checked INTEGER NOT NULL,
    PRIMARY KEY (tenant, parity, number)) WITHOUT ROWID;
CREATE TABLE unsure (
    tenant INTEGER NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (tenant, pack, offset)) WITHOUT ROWID;
CREATE TABLE points (
    tenant INTEGER NOT NULL, id BLOB NOT NULL, server BLOB NOT NULL, taken INTEGER NOT NULL,
    committed INTEGER NOT NULL, stored INTEGER NOT NULL,
    disk INTEGER NOT NULL, sent INTEGER NOT NULL,
    manifest BLOB NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
    length INTEGER NOT NULL, locked INTEGER NOT NULL, verified INTEGER,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE INDEX points_by_server ON points (tenant, server, taken);
CREATE TABLE servers (
    tenant INTEGER NOT NULL, id BLOB NOT NULL, name TEXT NOT NULL, enrolled INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE sites (
    tenant INTEGER NOT NULL, id BLOB NOT NULL, name TEXT NOT NULL, enrolled INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE people (
    tenant INTEGER NOT NULL, id BLOB NOT NULL, role TEXT NOT NULL, name TEXT NOT NULL,
    enrolled INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE TABLE revocations (
    tenant INTEGER NOT NULL, identity TEXT NOT NULL, until INTEGER NOT NULL,
    by TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (tenant, identity)) WITHOUT ROWID;
CREATE TABLE deletions (
    tenant INTEGER NOT NULL, point BLOB NOT NULL, server BLOB NOT NULL, deleted INTEGER NOT NULL,
    by TEXT NOT NULL, reason TEXT NOT NULL, highest INTEGER NOT NULL,
    PRIMARY KEY (tenant, point)) WITHOUT ROWID;
CREATE TABLE holds (
    tenant INTEGER NOT NULL, point BLOB NOT NULL, held INTEGER NOT NULL, changed INTEGER NOT NULL,
    by TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (tenant, point)) WITHOUT ROWID;
CREATE TABLE locks (
    tenant INTEGER NOT NULL, point BLOB NOT NULL, until INTEGER NOT NULL,
    changed INTEGER NOT NULL, by TEXT NOT NULL,
    PRIMARY KEY (tenant, point)) WITHOUT ROWID;
CREATE TABLE clocks (
    tenant INTEGER PRIMARY KEY, time INTEGER NOT NULL, wall INTEGER NOT NULL,
    audit_entries INTEGER NOT NULL, audit_head BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE clock_places (
    tenant INTEGER NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (tenant, pack)) WITHOUT ROWID;
CREATE TABLE tokens (
    hash BLOB PRIMARY KEY, role TEXT NOT NULL, tenant BLOB, created INTEGER NOT NULL,
    expires INTEGER NOT NULL, used INTEGER) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// One connection to the catalogue.
pub struct Catalogue {
    db: Connection,
    path: PathBuf,
    segments: Arc<OpenSegments>,
    in_transaction: rows::InTransaction,
    writing: segments::WritingCell,
}

impl Catalogue {
    /// Opens it, making the tables when there are none. True while it has not read all packs
    /// since it was made: then it cannot tell what was never acknowledged.
    pub fn open(path: &Path) -> Result<(Self, bool), StoreError> {
        Self::open_sharing(path, Arc::new(OpenSegments::beside(path)))
    }

    /// Opens one more connection to a catalogue whose segments are open already.
    pub fn open_sharing(
        path: &Path,
        segments: Arc<OpenSegments>,
    ) -> Result<(Self, bool), StoreError> {
        let db = Connection::open(path)?;
        db.busy_timeout(Duration::from_secs(30))?;
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA wal_autocheckpoint = 8000; PRAGMA cache_size = -65536;
             PRAGMA journal_size_limit = 134217728;",
        )?;
        db.set_prepared_statement_cache_capacity(128);
        let catalogue = Self {
            db,
            path: path.into(),
            segments,
            in_transaction: rows::InTransaction::default(),
            writing: segments::WritingCell::default(),
        };
        catalogue.prepare_tables()?;
        let fresh = !catalogue.is_whole()?;
        Ok((catalogue, fresh))
    }

    /// The segments of the chunk index that it has open, for other connections to it.
    pub fn segments(&self) -> Arc<OpenSegments> {
        self.segments.clone()
    }

    /// True once all packs were read into it.
    pub fn is_whole(&self) -> Result<bool, StoreError> {
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
        self.db.execute_batch(ends::TABLE)?;
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
        let value = self.in_one_transaction(work)?;
        self.settle_if_due();
        Ok(value)
    }

    fn in_one_transaction<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.db
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(StoreError::from)?;
        self.in_transaction.set(true);
        let done = work(self).and_then(|value| {
            self.db.execute_batch("COMMIT").map_err(StoreError::from)?;
            Ok(value)
        });
        self.in_transaction.set(false);
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

    /// Changes when chunks may have gone, which leaves no node proven complete; see
    /// [`relevo_wire::message::Response::Welcome`].
    pub fn epoch(&self) -> Result<i64, StoreError> {
        Ok(self
            .db
            .prepare_cached("SELECT value FROM meta WHERE name = 'epoch'")?
            .query_row([], |row| row.get(0))?)
    }

    fn set_epoch(&self) -> Result<(), StoreError> {
        let epoch = i64::from_le_bytes(random_bytes()) >> 1 | 1;
        self.db.execute(
            "INSERT OR REPLACE INTO meta VALUES ('epoch', ?1)",
            [epoch.abs()],
        )?;
        self.db.execute("DELETE FROM complete", [])?;
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
             WHERE p.scanned > 0 ORDER BY p.tenant, p.number",
        )?;
        let rows = query.query_map([], |row| {
            let tenant = TenantId::from_bytes(row.get(0)?);
            let number = row.get(1)?;
            Ok((PackId { tenant, number }, row.get::<_, i64>(2)? as u64))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
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
