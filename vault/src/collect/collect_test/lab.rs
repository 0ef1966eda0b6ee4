//! A store of which every read of the disk is counted, and points of a few chunks in it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relevo_wire::chunk::{CheckedChunk, Chunk, Compressor};
use relevo_wire::index::ChunkRef;
use relevo_wire::key::OpeningKeys;
use relevo_wire::{ChunkId, PointId, ServerId, TenantId, Timestamp, VaultId};

use crate::collect::{Report, Rule, collect};
use crate::fixture::{manifest, memory};
use crate::ledger::Deletion;
use crate::record::{PointRecord, Record};
use crate::store::Store;
use crate::volume::simulated::SimulatedDisk;
use crate::volume::{FileId, Volume};

pub(super) const ROLL_AT: u64 = 40 * 1024;

/// A disk that counts what is read from it.
pub(super) struct Counted {
    pub(super) disk: SimulatedDisk,
    pub(super) reads: AtomicU64,
    /// Files that cannot be taken away.
    pub(super) stuck: Mutex<HashSet<FileId>>,
}

impl Volume for Counted {
    fn list_files(&self) -> io::Result<Vec<FileId>> {
        self.disk.list_files()
    }
    fn create(&self, file: impl Into<FileId>) -> io::Result<()> {
        self.disk.create(file)
    }
    fn write_at(&self, file: impl Into<FileId>, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write_at(file, offset, data)
    }
    fn read_at(&self, file: impl Into<FileId>, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.disk.read_at(file, offset, buf)
    }
    fn length(&self, file: impl Into<FileId>) -> io::Result<u64> {
        self.disk.length(file)
    }
    fn truncate(&self, file: impl Into<FileId>, length: u64) -> io::Result<()> {
        self.disk.truncate(file, length)
    }
    fn sync(&self, file: impl Into<FileId>) -> io::Result<()> {
        self.disk.sync(file)
    }
    fn remove(&self, file: impl Into<FileId>) -> io::Result<()> {
        let file = file.into();
        if self.stuck.lock().unwrap().contains(&file) {
            return Err(io::Error::other("stuck"));
        }
        self.disk.remove(file)
    }
    fn rename(&self, from: impl Into<FileId>, to: impl Into<FileId>) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn sync_directory(&self, tenant: TenantId) -> io::Result<()> {
        self.disk.sync_directory(tenant)
    }
}

pub(super) struct Lab {
    pub(super) disk: Arc<Counted>,
    pub(super) store: Store<Counted>,
    pub(super) vault: VaultId,
    pub(super) keys: OpeningKeys,
    pub(super) server: ServerId,
    pub(super) dir: tempfile::TempDir,
}

pub(super) type Points = HashMap<PointId, Vec<ChunkId>>;

impl Lab {
    pub(super) fn new(seed: u64) -> Self {
        let dir = memory();
        let disk = Arc::new(Counted {
            disk: SimulatedDisk::new(seed),
            reads: AtomicU64::new(0),
            stuck: Mutex::default(),
        });
        let vault = VaultId::random();
        let path = dir.path().join("catalogue.sqlite");
        let (store, _) = Store::open_rolling(disk.clone(), vault, &path, ROLL_AT).unwrap();
        Self {
            disk,
            store,
            vault,
            keys: OpeningKeys::generate().unwrap(),
            server: ServerId::random(),
            dir,
        }
    }

    pub(super) fn tenant(&self) -> TenantId {
        self.keys.sealing.tenant
    }

    /// The same packs with a catalogue of their own.
    pub(super) fn rebuilt(&self, name: &str) -> Store<Counted> {
        let path = self.dir.path().join(name).join("catalogue.sqlite");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let (store, findings) =
            Store::open_rolling(self.disk.clone(), self.vault, &path, ROLL_AT).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        store
    }

    pub(super) fn put(&self, bytes: Vec<u8>) -> ChunkId {
        let chunk = CheckedChunk::of(bytes.into());
        let id = chunk.id();
        let records = vec![Record::Chunk(chunk)];
        self.store.append_blocking(self.tenant(), records).unwrap();
        id
    }

    /// A piece of data of 300 to 1300 bytes.
    pub(super) fn data(&self, name: u64) -> ChunkId {
        let mut bytes = vec![1; 300 + (name % 1000) as usize];
        bytes[1..9].copy_from_slice(&name.to_le_bytes());
        self.put(bytes)
    }

    pub(super) fn node(&self, level: u8, children: &[ChunkId]) -> ChunkId {
        let mut bytes = vec![2, level];
        bytes.extend_from_slice(&(children.len() as u16).to_le_bytes());
        children
            .iter()
            .for_each(|id| bytes.extend_from_slice(id.as_bytes()));
        self.put(bytes)
    }

    /// A point of a disk of these leaves, each of these pieces of data; all its chunks.
    pub(super) fn back_up(&self, leaves: &[Vec<u64>]) -> (PointId, Vec<ChunkId>) {
        let mut all = Vec::new();
        let mut children = Vec::new();
        for leaf in leaves {
            let data: Vec<ChunkId> = leaf.iter().map(|&name| self.data(name)).collect();
            children.push(self.node(0, &data));
            all.extend(data);
        }
        let root = self.node(1, &children);
        all.extend(children);
        all.push(root);
        (self.commit(root), all)
    }

    pub(super) fn commit(&self, root: ChunkId) -> PointId {
        let secret = &self.keys.sealing.secret;
        let key = Chunk::new(secret, b"any")
            .seal(&mut Compressor::new())
            .key();
        let disk = Some((1 << 22, ChunkRef { id: root, key }));
        let manifest = manifest(&self.keys, self.server, Timestamp::now(), disk);
        let point = manifest.public().unwrap().point;
        let epoch = self.store.read(|c| c.epoch()).unwrap();
        self.store.mark_complete(self.tenant(), epoch, vec![root]);
        let record = Record::Point(Box::new(PointRecord {
            manifest,
            committed: Timestamp::now(),
            stored: 0,
            locked: None,
        }));
        self.store
            .append_blocking(self.tenant(), vec![record])
            .unwrap();
        point
    }

    pub(super) fn delete(&self, point: PointId) {
        let wanted = Deletion {
            point,
            by: "local".into(),
            reason: "test".into(),
            latest_too: true,
        };
        let done = self.store.delete_blocking(self.tenant(), vec![wanted]);
        assert_eq!(done.unwrap(), vec![Ok(())]);
    }

    pub(super) fn collect(&self) -> Report {
        collect_now(&self.store)
    }

    pub(super) fn stored(&self, ids: &[ChunkId]) -> usize {
        let found = self.store.read(|c| c.locate(self.tenant(), ids)).unwrap();
        found.iter().flatten().count()
    }

    pub(super) fn read_all(&self, store: &Store<Counted>, ids: &[ChunkId]) {
        let found = store.read(|c| c.locate(self.tenant(), ids)).unwrap();
        for (id, at) in ids.iter().zip(found) {
            let at = at.unwrap_or_else(|| panic!("chunk {id} is lost"));
            store.read_chunk(self.tenant(), *id, at).unwrap();
        }
    }
}

pub(super) fn at_once() -> Rule {
    Rule {
        grace: Duration::ZERO,
        rewrite_at: 0.5,
        accept_loss: false,
        dry_run: false,
    }
}

/// What became garbage in this millisecond is not older than it yet.
pub(super) fn collect_now<V: Volume>(store: &Store<V>) -> Report {
    let now = Timestamp::now();
    while Timestamp::now() <= now {
        std::hint::spin_loop();
    }
    collect(store, &at_once(), &AtomicBool::new(false)).unwrap()
}
