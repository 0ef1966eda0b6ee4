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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use relevo_wire::{ServerId, TenantId, VaultId};

    const SECRET: TenantSecret = TenantSecret::from_bytes([4; 32]);

    fn scope(epoch: u64) -> Scope {
        Scope {
            vault: VaultId::from_bytes([1; 16]),
            epoch,
            tenant: TenantId::from_bytes([2; 16]),
            server: ServerId::from_bytes([3; 16]),
        }
    }

    fn chunk(n: u8) -> ChunkRef {
        ChunkRef {
            id: ChunkId::from_bytes([n; 32]),
            key: ChunkKey::from_bytes([n + 100; 32]),
        }
    }

    fn filled(path: &Path) -> Cache {
        let mut cache = Cache::open(path, &scope(1), &[SECRET]).unwrap();
        let known = KnownSpan {
            shape: 5,
            data: Some(([9; 32], chunk(2))),
        };
        let span = Fact::Span {
            disk: "sda".into(),
            span: 7,
            known,
        };
        cache.write(&[Fact::Stored(chunk(1)), span]).unwrap();
        cache
    }

    #[test]
    fn spans_count_only_after_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.sqlite");
        let mut cache = filled(&path);
        let mut reader = cache.reader().unwrap();
        assert_eq!(reader.chunk(0, &chunk(1).key), Some(chunk(1).id));
        assert_eq!(reader.span("sda", 7), None);
        let point = PointId::random();
        assert_eq!(cache.last_image("sda"), None);
        cache.promote(point, ["sda"]).unwrap();
        assert_eq!(cache.last_image("sda"), Some(point));
        assert_eq!(cache.last_image("sdb"), None);
        let mut reader = cache.reader().unwrap();
        assert_eq!(reader.span("sda", 7).unwrap().1.leaf(), Some(chunk(2)));
        let zeros = KnownSpan {
            shape: 6,
            data: None,
        };
        let fact = Fact::Span {
            disk: "sda".into(),
            span: 7,
            known: zeros,
        };
        cache.write(&[fact]).unwrap();
        cache.promote(point, ["sda"]).unwrap();
        let mut reader = cache.reader().unwrap();
        assert_eq!(reader.span("sda", 7), Some((0, zeros)));
    }

    /// Guards against spans of one disk or place taken for another's, and lost ones: many are
    /// read at once, and asked for in any order.
    #[test]
    fn spans_are_found_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = filled(&dir.path().join("cache.sqlite"));
        let known = |disk: &str, span: u64| KnownSpan {
            shape: span * 2 + u64::from(disk == "sdb"),
            data: span
                .is_multiple_of(3)
                .then(|| ([span as u8; 32], chunk((span % 100) as u8))),
        };
        let there =
            |disk: &str, span: u64| !span.is_multiple_of(5) && (disk == "sda") == (span < 700);
        let mut facts = Vec::new();
        for disk in ["sda", "sdb"] {
            for span in (0..1000).filter(|&span| there(disk, span)) {
                facts.push(Fact::Span {
                    disk: disk.into(),
                    span,
                    known: known(disk, span),
                });
            }
        }
        cache.write(&facts).unwrap();
        cache.promote(PointId::random(), ["sda", "sdb"]).unwrap();
        let mut reader = cache.reader().unwrap();
        // 997 is a prime: all numbers come, none after its neighbour.
        for step in [1, 997, 613] {
            for number in 0..1997 {
                let (span, disk) = (number * step % 1000, ["sda", "sdb"][number % 2]);
                let span = span as u64;
                let expected = there(disk, span).then(|| (0, known(disk, span)));
                assert_eq!(reader.span(disk, span), expected, "{disk} {span}");
            }
        }
    }

    /// Guards against chunks that are taken as unknown because the cache was empty at first.
    #[test]
    fn what_is_written_into_an_empty_cache_is_found_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.sqlite");
        let mut cache = Cache::open(&path, &scope(1), &[SECRET]).unwrap();
        let mut reader = cache.reader().unwrap();
        assert_eq!(reader.chunk(0, &chunk(9).key), None);
        cache.write(&[Fact::Stored(chunk(9))]).unwrap();
        assert_eq!(reader.chunk(0, &chunk(9).key), Some(chunk(9).id));
        cache.clear().unwrap();
        let mut reader = cache.reader().unwrap();
        assert_eq!(reader.chunk(0, &chunk(9).key), None);
        cache.write(&[Fact::Stored(chunk(9))]).unwrap();
        assert_eq!(reader.chunk(0, &chunk(9).key), Some(chunk(9).id));
        drop((cache, reader));
        let cache = Cache::open(&path, &scope(1), &[SECRET]).unwrap();
        let mut reader = cache.reader().unwrap();
        assert_eq!(reader.chunk(0, &chunk(9).key), Some(chunk(9).id));
    }

    /// Guards against images of old blocks: spans that a full disk kept out of the cache are those
    /// of an earlier image there, and nobody may take them for the last one's.
    #[test]
    fn an_image_that_could_not_be_remembered_whole_is_not_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = filled(&dir.path().join("cache.sqlite"));
        cache.promote(PointId::random(), ["sda"]).unwrap();
        assert!(cache.last_image("sda").is_some());
        let full =
            "CREATE TRIGGER full BEFORE INSERT ON staged BEGIN SELECT RAISE(FAIL, 'full'); END";
        cache.connection.execute_batch(full).unwrap();
        let (facts, mut received) = mpsc::channel(1);
        let known = KnownSpan {
            shape: 5,
            data: Some(([8; 32], chunk(3))),
        };
        let disk = "sda".into();
        let fact = Fact::Span {
            disk,
            span: 7,
            known,
        };
        facts.blocking_send(fact).unwrap();
        drop(facts);
        cache.record(&mut received, |_| {});
        cache.connection.execute_batch("DROP TRIGGER full").unwrap();
        cache.promote(PointId::random(), ["sda"]).unwrap();
        assert_eq!(cache.last_image("sda"), None);
    }

    /// Guards what was stored before a rotation: it counts while its secret is carried, not longer.
    #[test]
    fn rows_of_an_earlier_secret_count_while_it_is_carried() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.sqlite");
        filled(&path).promote(PointId::random(), ["sda"]).unwrap();
        let new = TenantSecret::from_bytes([5; 32]);
        let cache = Cache::open(&path, &scope(1), &[new.clone(), SECRET]).unwrap();
        let mut reader = cache.reader().unwrap();
        assert_eq!(reader.chunk(0, &chunk(1).key), None);
        assert_eq!(reader.chunk(1, &chunk(1).key), Some(chunk(1).id));
        assert_eq!(reader.span("sda", 7).unwrap().0, 1);
        let cache = Cache::open(&path, &scope(1), &[new]).unwrap();
        assert_eq!(cache.reader().unwrap().span("sda", 7), None);
    }

    /// Guards against believing what another vault or an earlier epoch had.
    #[test]
    fn another_scope_starts_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.sqlite");
        drop(filled(&path));
        let cache = Cache::open(&path, &scope(2), &[SECRET]).unwrap();
        assert_eq!(cache.reader().unwrap().chunk(0, &chunk(1).key), None);
    }

    /// Guards against images that point at the wrong chunk because a cache's disk rotted.
    #[test]
    fn damaged_rows_and_files_are_misses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.sqlite");
        let mut cache = filled(&path);
        cache.promote(PointId::random(), ["sda"]).unwrap();
        let change = "UPDATE chunks SET id = zeroblob(32); UPDATE spans SET key = zeroblob(32);";
        cache.connection.execute_batch(change).unwrap();
        let mut reader = cache.reader().unwrap();
        assert_eq!(reader.chunk(0, &chunk(1).key), None);
        assert_eq!(reader.span("sda", 7), None);
        drop((cache, reader));
        std::fs::write(&path, vec![0x5a; 8192]).unwrap();
        assert_eq!(filled(&path).reader().unwrap().span("sda", 7), None);
        // Damage that only a lookup meets must not be met again by every later run.
        let cache = filled(&path);
        cache.connection.execute_batch("DROP TABLE chunks").unwrap();
        assert_eq!(cache.reader().unwrap().chunk(0, &chunk(1).key), None);
        drop(cache);
        assert!(!path.exists());
        let cache = Cache::open(&path, &scope(1), &[SECRET]).unwrap();
        assert_eq!(cache.reader().unwrap().chunk(0, &chunk(1).key), None);
    }
}
