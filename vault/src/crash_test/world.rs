//! A vault, its disk, and what it said it has.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use relevo_wire::chunk::{Chunk, Compressor, SealedChunk};
use relevo_wire::identity::Authority;
use relevo_wire::index::{ChunkRef, Extent, Node};
use relevo_wire::key::OpeningKeys;
use relevo_wire::manifest::SealedManifest;
use relevo_wire::message::{RefusalCode, Request, Response};
use relevo_wire::{ChunkId, PointId, ServerId, SessionId, Timestamp, VaultId};

use crate::completeness;
use crate::error::StoreError;
use crate::fixture::{Walk, manifest, memory};
use crate::ingest::{Outcome, Peer, Vault, check_chunks};
use crate::ledger::Finding;
use crate::store::Store;
use crate::volume::Volume;
use crate::volume::simulated::{Dice, Fault, SimulatedDisk};

/// Small packs, so that crashes meet new ones too.
pub(super) const ROLL_AT: u64 = 40 * 1024;

pub(super) struct World {
    pub(super) disk: Arc<SimulatedDisk>,
    pub(super) dice: Dice,
    pub(super) id: VaultId,
    pub(super) keys: OpeningKeys,
    pub(super) server: ServerId,
    pub(super) dir: tempfile::TempDir,
    pub(super) snapshots: u32,
    /// What the vault said it has.
    pub(super) chunks: HashMap<ChunkId, Bytes>,
    pub(super) points: HashSet<PointId>,
    /// Points that were sent to be committed, whatever came of it.
    pub(super) asked: HashSet<PointId>,
    /// Chunks to which nothing refers may go.
    pub(super) collects: bool,
}

pub(super) type Simulated = Vault<SimulatedDisk>;

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            disk: Arc::new(SimulatedDisk::new(seed)),
            dice: Dice::new(seed ^ 0x5eed),
            id: VaultId::random(),
            keys: OpeningKeys::generate().unwrap(),
            server: ServerId::random(),
            dir: memory(),
            snapshots: 0,
            chunks: HashMap::new(),
            points: HashSet::new(),
            asked: HashSet::new(),
            collects: false,
        }
    }

    fn catalogue(&self) -> PathBuf {
        self.dir.path().join("catalogue.sqlite")
    }

    fn peer(&self) -> Peer {
        Peer::Agent(self.keys.sealing.tenant, self.server)
    }

    /// Opens the vault; crashes may come in the middle of that too.
    pub(super) fn open(&mut self) -> (Simulated, Vec<Finding>) {
        loop {
            if self.dice.once_in(3) {
                self.disk.plan(self.dice.roll(12), Fault::Crash);
            }
            let opened =
                Store::open_rolling(self.disk.clone(), self.id, &self.catalogue(), ROLL_AT);
            if let Err(error @ StoreError::Catalogue(_)) = &opened {
                panic!("a crash of the disk of packs harmed the catalogue: {error}");
            }
            // A crash at what is not needed to go on is one all the same.
            self.disk.calm();
            let up = self.disk.sync_directory(self.keys.sealing.tenant).is_ok();
            if let (true, Ok((store, findings))) = (up, opened) {
                let authority = Authority::from_der(Vec::new(), Vec::new());
                return (Vault::new(self.id, store, authority), findings);
            }
            self.disk.crash();
        }
    }

    /// What a crash may leave of the catalogue: it is not synced. True when nothing.
    pub(super) fn age_catalogue(&mut self) -> bool {
        match self.dice.roll(5) {
            0 => {
                self.remove_catalogue();
                true
            }
            1 if self.snapshots > 0 => {
                let older = self.dice.roll(u64::from(self.snapshots));
                self.remove_catalogue();
                std::fs::copy(self.snapshot_of(older), self.catalogue()).unwrap();
                let _ = std::fs::remove_dir_all(self.index());
                link_all(&self.snapshot_index(older), &self.index());
                false
            }
            2 => self.lose_segment(),
            _ => false,
        }
    }

    /// Removes or damages a file of the chunk index. True when the catalogue needs it: then it
    /// is made anew when it is opened.
    fn lose_segment(&mut self) -> bool {
        let mut files = files_below(&self.index());
        files.sort();
        let at = self.dice.roll(files.len() as u64) as usize;
        let Some(file) = files.get(at) else {
            return false;
        };
        match self.dice.once_in(2) {
            true => std::fs::remove_file(file).unwrap(),
            false => {
                let mut bytes = std::fs::read(file).unwrap();
                let at = bytes.len() - 1;
                bytes[at] ^= 1;
                // Not through the link that a snapshot has to it.
                std::fs::remove_file(file).unwrap();
                std::fs::write(file, bytes).unwrap();
            }
        }
        // A file of a merge that the crash cut short is none of it.
        self.catalogue_names(&self.catalogue(), file)
    }

    fn catalogue_names(&self, catalogue: &Path, file: &Path) -> bool {
        let db = rusqlite::Connection::open(catalogue).unwrap();
        let mut query = db.prepare("SELECT number FROM segments").unwrap();
        let rows = query.query_map([], |row| row.get::<_, i64>(0)).unwrap();
        let number = file
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        rows.map(|row| row.ok()).any(|row| row == number)
    }

    pub(super) fn remove_catalogue(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let path = format!("{}{suffix}", self.catalogue().display());
            let _ = std::fs::remove_file(path);
        }
        // What an older catalogue knew of points, `snapshot-*` still hold.
    }

    fn index(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    fn snapshot_of(&self, number: u64) -> PathBuf {
        self.dir.path().join(format!("snapshot-{number}"))
    }

    fn snapshot_index(&self, number: u64) -> PathBuf {
        self.dir.path().join(format!("snapshot-{number}.index"))
    }

    pub(super) fn snapshot(&mut self) {
        let number = u64::from(self.snapshots);
        let to = self.snapshot_of(number);
        loop {
            let _ = std::fs::remove_file(&to);
            link_all(&self.index(), &self.snapshot_index(number));
            let db = rusqlite::Connection::open(self.catalogue()).unwrap();
            db.execute("VACUUM INTO ?1", [to.to_str().unwrap()])
                .unwrap();
            link_all(&self.index(), &self.snapshot_index(number));
            // Merging goes on meanwhile: again when it took away what is named.
            let copy = rusqlite::Connection::open(&to).unwrap();
            let named: i64 = copy
                .query_row("SELECT count(*) FROM segments", [], |row| row.get(0))
                .unwrap();
            let linked = files_below(&self.snapshot_index(number));
            let there = linked.iter().filter(|file| self.catalogue_names(&to, file));
            if there.count() as i64 == named {
                break;
            }
        }
        self.snapshots += 1;
    }

    fn put(&mut self, vault: &Simulated, chunks: &[SealedChunk]) -> Result<(), StoreError> {
        let bytes = chunks.iter().map(|c| c.bytes().clone()).collect();
        let records = check_chunks(bytes).unwrap();
        vault
            .store()
            .append_blocking(self.keys.sealing.tenant, records)?;
        let stored = chunks.iter().map(|c| (c.id(), c.bytes().clone()));
        self.chunks.extend(stored);
        Ok(())
    }

    fn open_session(&self, vault: &Simulated) -> SessionId {
        match vault.answer(self.peer(), Request::OpenSession) {
            Ok(Outcome::Answer(Response::SessionOpened { session })) => session,
            other => panic!("{other:?}"),
        }
    }

    /// An image of a few small chunks, some of them as in earlier images.
    fn image(&mut self) -> (Vec<SealedChunk>, SealedManifest, PointId) {
        let secret = &self.keys.sealing.secret;
        let mut compressor = Compressor::new();
        let mut chunks = Vec::new();
        let mut leaves = Vec::new();
        for _ in 0..1 + self.dice.roll(3) {
            let mut extents = Vec::new();
            for _ in 0..1 + self.dice.roll(4) {
                let name = self.dice.roll(60);
                let mut plaintext = vec![0; 200 + 50 * name as usize];
                let noise = blake3::Hasher::new()
                    .update(&name.to_le_bytes())
                    .finalize_xof();
                { noise }.fill(&mut plaintext);
                let chunk = Chunk::new(secret, &plaintext).seal(&mut compressor);
                let length = plaintext.len() as u32;
                extents.push(Extent::Data {
                    length,
                    chunk: reference(&chunk),
                });
                chunks.push(chunk);
            }
            let leaf = Node::Leaf(extents).seal(secret);
            leaves.push(Some(reference(&leaf)));
            chunks.push(leaf);
        }
        let root = Node::Inner {
            level: 1,
            children: leaves,
        }
        .seal(secret);
        let taken = Timestamp::from_millis(self.asked.len() as i64);
        let disk = Some((1 << 22, reference(&root)));
        let manifest = manifest(&self.keys, self.server, taken, disk);
        chunks.push(root);
        let point = manifest.public().unwrap().point;
        (chunks, manifest, point)
    }

    /// Uploads an image, perhaps with one chunk left out, and commits it.
    pub(super) fn back_up(&mut self, vault: &Simulated) -> Result<(), RefusalCode> {
        let (mut chunks, manifest, point) = self.image();
        if self.dice.once_in(4) {
            chunks.remove(self.dice.roll(chunks.len() as u64) as usize);
        }
        let session = self.open_session(vault);
        for part in chunks.chunks(1 + self.dice.roll(6) as usize) {
            self.put(vault, part).map_err(|_| RefusalCode::Storage)?;
        }
        self.asked.insert(point);
        match vault.answer(self.peer(), Request::Commit { session, manifest }) {
            Ok(Outcome::Answer(Response::Committed { .. })) => {
                self.points.insert(point);
            }
            Ok(Outcome::Answer(Response::Incomplete { missing })) => {
                let kept = |id| !self.collects && self.chunks.contains_key(id);
                assert!(!missing.iter().any(kept));
                self.asked.remove(&point);
            }
            Err(refusal) => return Err(refusal.code),
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    /// Walks everything, whatever the catalogue says of completeness.
    pub(super) fn walk<'a>(&self, vault: &'a Simulated) -> Walk<'a, SimulatedDisk> {
        Walk {
            store: vault.store(),
            tenant: self.keys.sealing.tenant,
        }
    }

    /// Everything acknowledged is there and whole, and nothing else is listed.
    pub(super) fn check(&self, vault: &Simulated, context: &str) {
        let tenant = self.keys.sealing.tenant;
        let ids: Vec<ChunkId> = self.chunks.keys().copied().collect();
        let found = vault.store().read(|c| c.locate(tenant, &ids)).unwrap();
        for (id, located) in ids.iter().zip(found) {
            let located = located.unwrap_or_else(|| panic!("{context}: chunk {id} is lost"));
            let chunk = vault.store().read_chunk(tenant, *id, located).unwrap();
            assert_eq!(chunk.bytes(), &self.chunks[id], "{context}");
        }
        let listed = vault
            .store()
            .read(|c| c.points(tenant, self.server, None, 10_000))
            .unwrap();
        let ids: HashSet<PointId> = listed.iter().map(|p| p.manifest.point).collect();
        assert!(
            self.points.is_subset(&ids),
            "{context}: a recovery point is lost"
        );
        assert!(
            ids.is_subset(&self.asked),
            "{context}: a recovery point out of nothing"
        );
        for point in listed {
            let mut shelf = self.walk(vault);
            let faults = completeness::faults(&mut shelf, &point.manifest, 10).unwrap();
            assert_eq!(faults, vec![], "{context}: a listed point is not whole");
        }
    }
}

fn files_below(index: &Path) -> Vec<PathBuf> {
    let tenants = std::fs::read_dir(index).into_iter().flatten().flatten();
    let files = tenants.flat_map(|tenant| std::fs::read_dir(tenant.path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

/// Links the files of an index into another directory; those that go meanwhile are left out.
fn link_all(from: &Path, to: &Path) {
    for file in files_below(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let _ = std::fs::hard_link(&file, to);
    }
}

fn reference(chunk: &SealedChunk) -> ChunkRef {
    ChunkRef {
        id: chunk.id(),
        key: chunk.key(),
    }
}

/// Lives worlds of so many seeds, or of RELEVO_CRASH_SEEDS, two at a time.
pub(super) fn live_all(default: u64, live: impl Fn(u64) + Sync) {
    let seeds = std::env::var("RELEVO_CRASH_SEEDS").ok();
    let seeds = seeds.and_then(|text| text.parse().ok()).unwrap_or(default);
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    live(seed);
                }
            });
        }
    });
}
