//! What the vault is known to have, so that it need not be compressed, sealed or sent again.
//!
//! | table | says |
//! | --- | --- |
//! | `chunks` | the chunk with this key (as a tag, keyed BLAKE3 of it) is in the vault under this id |
//! | `spans` | at the last image, this span of this disk hashed to this and was this leaf, or was all zeros |
//! | `images` | which recovery point was a disk's last image; a row of `spans` may be missing all the same |
//! | `staged` | what the run under way would change in `spans`; moved there by its commit |
//!
//! A row of `chunks` is written when the vault has acknowledged the chunk, a row of `spans` when
//! it has committed the image: each row is true by itself, whenever the process is killed. Every
//! row carries eight bytes of keyed BLAKE3 over its content; the key is made from the tenant
//! secret and the [`Scope`]. So a row that was damaged, or that speaks of another vault or of
//! chunks since collected, is a miss and nothing else. Rows of an earlier generation's secret
//! count while the sealing keys carry that secret: what it sealed need not be sent again.
//!
//! The keys of chunks are not in it, but for those of the last image's leaves: who steals the
//! file opens nothing that the stolen server did not hold anyway.

mod file;
mod filter;
mod proof;
mod window;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use relevo_wire::index::ChunkRef;
use relevo_wire::key::{ChunkKey, TenantSecret};
use relevo_wire::{ChunkId, PointId};
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::mpsc;

use file::{connect, create, open_existing, remove};
use filter::Filter;
use proof::Prover;
pub use proof::Scope;
use window::Window;

/// Rows in one transaction at most.
const BATCH: usize = 4096;
/// Rows in one transaction at least, but for the last. Keys are hashes, so that each row is in
/// a page of its own: a few at a time would write a page for each and sync at every thousandth.
/// A run that is killed seals so many again, and sends none of them.
const LEAST_BATCH: usize = 1024;

/// A span at the last image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownSpan {
    /// Which of its bytes were read; the others are zeros in the image.
    pub shape: u64,
    /// Keyed BLAKE3 of its bytes, and its leaf; nothing when they are all zeros.
    pub data: Option<([u8; 32], ChunkRef)>,
}

impl KnownSpan {
    /// Its leaf in the index.
    pub fn leaf(&self) -> Option<ChunkRef> {
        self.data.map(|(_, leaf)| leaf)
    }
}

/// Something to remember.
#[derive(Clone, Debug)]
pub enum Fact {
    /// The vault acknowledged this chunk.
    Stored(ChunkRef),
    /// If the image under way is committed, this span is known so.
    Span {
        /// The disk's name.
        disk: std::sync::Arc<str>,
        /// The span's number.
        span: u64,
        /// What it is.
        known: KnownSpan,
    },
}

/// The cache's file, and the connection that writes it.
pub struct Cache {
    path: PathBuf,
    connection: Connection,
    /// The current secret's first.
    provers: Vec<Prover>,
    /// Somebody found it unreadable: it is removed in the end.
    damaged: Arc<AtomicBool>,
    /// Something of this run could not be written: rows of earlier images stand in its place.
    incomplete: bool,
    /// Of the rows of `chunks`, when there were none at first.
    filter: Option<Arc<Filter>>,
}

impl Drop for Cache {
    fn drop(&mut self) {
        if self.damaged.load(Ordering::Relaxed) {
            tracing::warn!("cache {}: removed", self.path.display());
            remove(&self.path);
        }
    }
}

impl Cache {
    /// Opens the cache. One that is damaged or of another scope is replaced by an empty one.
    /// `secrets` are the current one and earlier ones, newest first; rows are written under the
    /// first.
    pub fn open(
        path: &Path,
        scope: &Scope,
        secrets: &[TenantSecret],
    ) -> Result<Self, rusqlite::Error> {
        let connection = match open_existing(path, scope) {
            Ok(Some(connection)) => connection,
            Ok(None) => create(path, scope)?,
            Err(error) => {
                tracing::warn!(
                    "cache {}: {error}; starting an empty one, so this run takes longer",
                    path.display()
                );
                create(path, scope)?
            }
        };
        connection.execute("DELETE FROM staged", [])?;
        // What cannot be told is looked up.
        let any =
            connection.query_row("SELECT EXISTS (SELECT 1 FROM chunks)", [], |row| row.get(0));
        let filter = matches!(any, Ok(false)).then(|| Arc::new(Filter::new()));
        Ok(Self {
            path: path.to_path_buf(),
            filter,
            connection,
            provers: secrets.iter().map(|s| Prover::new(scope, s)).collect(),
            damaged: Arc::default(),
            incomplete: false,
        })
    }

    /// A view for one thread that looks things up: chunks as they are written, spans as they are
    /// now.
    pub fn reader(&self) -> Result<CacheReader, rusqlite::Error> {
        let connection = connect(&self.path)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(CacheReader {
            connection,
            provers: self.provers.clone(),
            filter: self.filter.clone(),
            window: Window::default(),
            damaged: self.damaged.clone(),
        })
    }

    /// Writes facts until no more come, many in each transaction. A disk that takes no more
    /// writes is reported once and costs the next run its time.
    pub fn record(&mut self, facts: &mut mpsc::Receiver<Fact>, mut written: impl FnMut(&ChunkRef)) {
        while let Some(first) = facts.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < LEAST_BATCH
                && let Some(fact) = facts.blocking_recv()
            {
                batch.push(fact);
            }
            while batch.len() < BATCH
                && let Ok(fact) = facts.try_recv()
            {
                batch.push(fact);
            }
            if !self.incomplete
                && let Err(error) = self.write(&batch)
            {
                tracing::warn!(
                    "cache {}: {error}; going on without, the next run takes longer",
                    self.path.display()
                );
                self.incomplete = true;
            }
            for fact in &batch {
                if let Fact::Stored(chunk) = fact {
                    written(chunk);
                }
            }
        }
    }

    fn write(&mut self, batch: &[Fact]) -> Result<(), rusqlite::Error> {
        let Some(prover) = self.provers.first() else {
            return Ok(());
        };
        let transaction = self.connection.transaction()?;
        {
            let mut chunks =
                transaction.prepare_cached("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)")?;
            let mut spans = transaction
                .prepare_cached("INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?, ?, ?, ?)")?;
            for fact in batch {
                match fact {
                    Fact::Stored(chunk) => {
                        let (tag, id) = (prover.tag(&chunk.key), chunk.id.as_bytes());
                        if let Some(filter) = &self.filter {
                            filter.insert(&tag);
                        }
                        chunks.execute(params![tag, id, prover.chunk(chunk)])?;
                    }
                    Fact::Span { disk, span, known } => {
                        let proof = prover.span(disk, *span, known);
                        let hash = known.data.as_ref().map(|(hash, _)| hash);
                        let id = known.data.as_ref().map(|(_, leaf)| leaf.id.as_bytes());
                        let key = known.data.as_ref().map(|(_, leaf)| leaf.key.as_bytes());
                        let (number, shape) = (*span as i64, known.shape as i64);
                        spans.execute(params![&**disk, number, shape, hash, id, key, proof])?;
                    }
                }
            }
        }
        transaction.commit()
    }

    /// The image of these disks was committed as `point`: what was staged is now the last image.
    /// If not all could be staged, nobody is told that it is: who passes by what did not change
    /// since `point` must find its spans, and none of an earlier image.
    pub fn promote<'a>(
        &mut self,
        point: PointId,
        disks: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), rusqlite::Error> {
        let transaction = self.connection.transaction()?;
        transaction.execute_batch(
            "INSERT OR REPLACE INTO spans SELECT * FROM staged;
             DELETE FROM staged;",
        )?;
        for disk in disks {
            transaction.execute("DELETE FROM images WHERE disk = ?", [disk])?;
            if !self.incomplete {
                let values = params![disk, point.as_bytes()];
                transaction.execute("INSERT INTO images VALUES (?, ?)", values)?;
            }
        }
        transaction.commit()?;
        // The log would else keep the size of this run.
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// The recovery point that is this disk's last image.
    pub fn last_image(&self, disk: &str) -> Option<PointId> {
        let query = "SELECT point FROM images WHERE disk = ?";
        let row = |row: &Row<'_>| bytes(row, 0).map(PointId::from_bytes);
        // What cannot be read is unknown, here as elsewhere.
        self.connection.query_row(query, [disk], row).ok()
    }

    /// Forgets all.
    pub fn clear(&mut self) -> Result<(), rusqlite::Error> {
        self.connection.execute_batch(
            "DELETE FROM chunks; DELETE FROM spans; DELETE FROM images; DELETE FROM staged;",
        )?;
        self.filter = Some(Arc::new(Filter::new()));
        Ok(())
    }
}

/// Looks things up. What cannot be read is unknown.
pub struct CacheReader {
    connection: Connection,
    provers: Vec<Prover>,
    filter: Option<Arc<Filter>>,
    window: Window,
    damaged: Arc<AtomicBool>,
}

impl CacheReader {
    /// The id under which the vault has the chunk with this key, which secret number `secret` gave.
    pub fn chunk(&mut self, secret: usize, key: &ChunkKey) -> Option<ChunkId> {
        let prover = self.provers.get(secret)?.clone();
        let tag = prover.tag(key);
        if self.filter.as_ref().is_some_and(|f| !f.may_have(&tag)) {
            return None;
        }
        let found = self
            .connection
            .prepare_cached("SELECT id, proof FROM chunks WHERE tag = ?")
            .and_then(|mut statement| {
                statement
                    .query_row([tag], |row| Ok((bytes(row, 0)?, bytes(row, 1)?)))
                    .optional()
            });
        let (id, proof): ([u8; 32], [u8; 8]) = self.sound(found)?;
        let chunk = ChunkRef {
            id: ChunkId::from_bytes(id),
            key: *key,
        };
        (prover.chunk(&chunk) == proof).then_some(chunk.id)
    }

    /// A span at the last image, and the number of the secret under which it was hashed.
    pub fn span(&mut self, disk: &str, span: u64) -> Option<(usize, KnownSpan)> {
        if !self.window.covers(disk, span) {
            let read = self.window.read(&self.connection, disk, span).map(Some);
            self.sound(read);
        }
        let (known, proof) = self.window.get(span)?;
        let made = |prover: &Prover| prover.span(disk, span, &known) == proof;
        let secret = self.provers.iter().position(made)?;
        Some((secret, known))
    }

    fn sound<T>(&mut self, found: Result<Option<T>, rusqlite::Error>) -> Option<T> {
        found.unwrap_or_else(|error| {
            if !self.damaged.swap(true, Ordering::Relaxed) {
                tracing::warn!("cache: {error}; taking as unknown what cannot be read");
            }
            None
        })
    }
}

fn bytes<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N], rusqlite::Error> {
    row.get(column)
}

#[cfg(test)]
mod cache_test;
