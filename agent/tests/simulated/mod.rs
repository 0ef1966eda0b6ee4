//! A vault in memory: stores, proves completeness as the real one does, breaks connections and
//! loses chunks when told to. And the way back, from a recovery point to the disk's bytes.

#![allow(clippy::unwrap_used, dead_code)]

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relevo_agent::AgentError;
use relevo_agent::backup::BackupRun;
use relevo_agent::inventory::open_disks;
use relevo_agent::pipeline::Counters;
use relevo_agent::report::BackupReport;
use relevo_agent::stop::Stop;
use relevo_agent::uplink::{Committed, Dial, Link, Patience};
use relevo_wire::chunk::{CheckedChunk, SealedChunk};
use relevo_wire::client::ClientError;
use relevo_wire::index::{ChunkRef, Extent, Node, NodeLinks};
use relevo_wire::inventory::Inventory;
use relevo_wire::key::OpeningKeys;
use relevo_wire::manifest::{ManifestBody, PublicManifest, SealedManifest};
use relevo_wire::message::{Refusal, RefusalCode};
use relevo_wire::upload::UploadLimits;
use relevo_wire::{ChunkId, ServerId, VaultId};

#[derive(Clone)]
pub struct SimulatedVault(Arc<Mutex<State>>);

pub struct State {
    pub id: VaultId,
    pub epoch: u64,
    pub chunks: HashMap<ChunkId, CheckedChunk>,
    pub points: Vec<SealedManifest>,
    /// Acknowledged to the agent: none of these may cross the network again.
    acknowledged: HashSet<ChunkId>,
    pub sent_twice: usize,
    /// Requests until the connection breaks; each break takes the next number.
    pub breaks: Vec<usize>,
    served: usize,
    /// After so many puts the upload is not known any more, once.
    pub forget_after_puts: Option<usize>,
    /// Refuses for good after so many puts.
    pub fail_after_puts: Option<usize>,
    puts: usize,
    connection: u64,
    pub dials: usize,
    /// Asked to end after so many puts.
    pub stop_after_puts: Option<(usize, Stop)>,
}

impl SimulatedVault {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            id: VaultId::random(),
            epoch: 1,
            chunks: HashMap::new(),
            points: Vec::new(),
            acknowledged: HashSet::new(),
            sent_twice: 0,
            breaks: Vec::new(),
            served: 0,
            forget_after_puts: None,
            fail_after_puts: None,
            puts: 0,
            connection: 0,
            dials: 0,
            stop_after_puts: None,
        })))
    }

    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Opens a recovery point (-1: the last) and rebuilds a disk.
    pub fn restore(&self, keys: &OpeningKeys, disk: usize) -> Vec<u8> {
        let state = self.state();
        let (_, body) = state.points.last().unwrap().open(keys).unwrap();
        let image = &body.disks[disk];
        let mut bytes = Vec::new();
        let root = image.root.map(|root| root.chunk());
        let depth = relevo_wire::index::depth(image.size);
        state.unfold(root, depth, image.size, &mut bytes);
        assert_eq!(bytes.len() as u64, image.size);
        bytes
    }

    pub fn last_point(&self, keys: &OpeningKeys) -> (PublicManifest, ManifestBody) {
        self.state().points.last().unwrap().open(keys).unwrap()
    }

    pub fn inventory(&self, keys: &OpeningKeys) -> Inventory {
        let (_, body) = self.last_point(keys);
        let state = self.state();
        let json: Vec<u8> = body
            .inventory
            .iter()
            .flat_map(|part| {
                let chunk = part.chunk();
                state.chunks[&chunk.id]
                    .open(&chunk.key, part.length as usize)
                    .unwrap()
            })
            .collect();
        serde_json::from_slice(&json).unwrap()
    }
}

impl State {
    /// Appends what a subtree of `level` holds, at most up to `size` bytes in all.
    fn unfold(&self, at: Option<ChunkRef>, level: u8, size: u64, bytes: &mut Vec<u8>) {
        let below =
            relevo_wire::index::SPAN * (relevo_wire::index::FANOUT as u64).pow(u32::from(level));
        let end = (bytes.len() as u64 + below).min(size) as usize;
        if let Some(at) = at {
            match Node::open(&self.chunks[&at.id], &at.key).unwrap() {
                Node::Inner { children, .. } => {
                    for child in children {
                        self.unfold(child, level - 1, size, bytes);
                    }
                }
                Node::Leaf(extents) => {
                    for extent in extents {
                        match extent {
                            Extent::Zero { length } => {
                                bytes.resize(bytes.len() + length as usize, 0);
                            }
                            Extent::Data { length, chunk } => bytes.extend(
                                self.chunks[&chunk.id]
                                    .open(&chunk.key, length as usize)
                                    .unwrap(),
                            ),
                        }
                    }
                }
            }
        }
        assert!(bytes.len() <= end);
        bytes.resize(end, 0);
    }

    /// What a commit of these would miss.
    fn missing(&self, ids: &[ChunkId]) -> Vec<ChunkId> {
        let (mut missing, mut todo) = (Vec::new(), ids.to_vec());
        while let Some(id) = todo.pop() {
            match self.chunks.get(&id) {
                Some(chunk) if NodeLinks::is_node(chunk) => {
                    todo.extend(NodeLinks::parse(chunk).unwrap().ids());
                }
                Some(_) => {}
                None => missing.push(id),
            }
        }
        missing
    }

    /// Counts a request; false when the connection breaks over it.
    fn serve(&mut self, connection: u64) -> bool {
        if connection != self.connection {
            return false;
        }
        self.served += 1;
        if self
            .breaks
            .first()
            .is_some_and(|after| self.served >= *after)
        {
            self.breaks.remove(0);
            self.served = 0;
            self.connection += 1;
            return false;
        }
        true
    }
}

#[derive(Clone)]
pub struct SimulatedLink {
    vault: SimulatedVault,
    connection: u64,
    identity: (VaultId, u64),
}

fn broken() -> ClientError {
    ClientError::Connection {
        vault: "simulated".into(),
        reason: "cut".into(),
        remedy: "",
        transient: true,
    }
}

impl Dial for SimulatedVault {
    type Link = SimulatedLink;

    async fn dial(&self) -> Result<SimulatedLink, ClientError> {
        let mut state = self.state();
        state.dials += 1;
        Ok(SimulatedLink {
            vault: self.clone(),
            connection: state.connection,
            identity: (state.id, state.epoch),
        })
    }
}

impl Link for SimulatedLink {
    fn vault(&self) -> (VaultId, u64) {
        self.identity
    }

    async fn have(&self, ids: Vec<ChunkId>) -> Result<Vec<u8>, ClientError> {
        tokio::task::yield_now().await;
        let mut state = self.vault.state();
        if !state.serve(self.connection) {
            return Err(broken());
        }
        let mut bits = vec![0; ids.len().div_ceil(8)];
        for (i, id) in ids.iter().enumerate() {
            if state.chunks.contains_key(id) {
                bits[i / 8] |= 1 << (i % 8);
                state.acknowledged.insert(*id);
            }
        }
        Ok(bits)
    }

    async fn put(&self, chunks: Vec<SealedChunk>) -> Result<u64, ClientError> {
        tokio::task::yield_now().await;
        let mut state = self.vault.state();
        state.puts += 1;
        if state
            .fail_after_puts
            .is_some_and(|after| state.puts > after)
        {
            let refusal = Refusal::new(RefusalCode::Full, "the vault is full", "add room");
            return Err(refusal.into());
        }
        if let Some((after, stop)) = &state.stop_after_puts
            && state.puts > *after
        {
            stop.set();
        }
        if state
            .forget_after_puts
            .is_some_and(|after| state.puts > after)
        {
            state.forget_after_puts = None;
            let refusal = Refusal::new(RefusalCode::NotFound, "no such upload", "open it again");
            return Err(refusal.into());
        }
        let served = state.serve(self.connection);
        let stored = if served {
            chunks.len()
        } else {
            chunks.len() / 2
        };
        for chunk in &chunks[..stored] {
            state.sent_twice += usize::from(state.acknowledged.contains(&chunk.id()));
            if served {
                state.acknowledged.insert(chunk.id());
            }
            state.chunks.insert(chunk.id(), chunk.into());
        }
        if served { Ok(0) } else { Err(broken()) }
    }

    async fn commit(&self, manifest: SealedManifest) -> Result<Committed, ClientError> {
        let mut state = self.vault.state();
        if !state.serve(self.connection) {
            return Err(broken());
        }
        let public = manifest.public().unwrap();
        let missing = state.missing(&[public.roots, public.inventory].concat());
        if !missing.is_empty() {
            return Ok(Committed::Incomplete(missing));
        }
        state.points.push(manifest);
        Ok(Committed::Stored(0))
    }
}

/// A server with one image file, and all it needs to be backed up.
pub struct Server {
    pub dir: tempfile::TempDir,
    pub keys: OpeningKeys,
    pub id: ServerId,
    pub limits: UploadLimits,
}

impl Server {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            keys: OpeningKeys::generate().unwrap(),
            id: ServerId::random(),
            // Small, so that a small disk takes many requests.
            limits: UploadLimits {
                held_bytes: 2 << 20,
                ask_ids: 16,
                put_bytes: 256 << 10,
                in_flight: 4,
            },
        }
    }

    pub fn disk(&self) -> PathBuf {
        self.dir.path().join("disk.raw")
    }

    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("cache.sqlite")
    }

    pub fn run(&self) -> BackupRun {
        self.run_of(&[self.disk()])
    }

    pub fn run_of(&self, paths: &[PathBuf]) -> BackupRun {
        let arguments: Vec<_> = paths.iter().cloned().map(Into::into).collect();
        BackupRun {
            server: self.id,
            tenant: self.keys.sealing.tenant,
            keys: self.keys.sealing.clone(),
            disks: open_disks(&arguments).unwrap(),
            inventory: Inventory {
                hostname: "web1".into(),
                ..Inventory::default()
            },
            cache: self.cache(),
            tracking: None,
            proof_every: std::time::Duration::MAX,
            holding: Default::default(),
            workers: 3,
            limits: self.limits,
            patience: Patience {
                first: Duration::from_millis(1),
                longest: Duration::from_millis(1),
                total: Duration::from_secs(600),
            },
            counters: Arc::new(Counters::default()),
            stop: Stop::default(),
        }
    }

    pub fn backup(&self, vault: &SimulatedVault) -> Result<BackupReport, AgentError> {
        run(self.run(), vault)
    }
}

pub fn run(run: BackupRun, vault: &SimulatedVault) -> Result<BackupReport, AgentError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run.run(vault)).map(|(report, _)| report)
}

/// Bytes that no compressor shortens, from a seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

/// Writes a sparse file of `size` bytes with data at these offsets.
pub fn sparse(path: &Path, size: u64, data: &[(u64, Vec<u8>)]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, bytes) in data {
        let room = size.saturating_sub(*at) as usize;
        file.write_all_at(&bytes[..bytes.len().min(room)], *at)
            .unwrap();
    }
}
