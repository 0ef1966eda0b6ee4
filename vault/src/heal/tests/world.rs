//! A vault of some recovery points, and what happens to its packs.

use std::sync::Arc;

use bytes::Bytes;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::index::ChunkRef;
use relevo_wire::key::{ChunkKey, OpeningKeys};
use relevo_wire::manifest::PublicManifest;
use relevo_wire::{ChunkId, ServerId, TenantId, Timestamp, VaultId};

use super::Healer;
use crate::completeness;
use crate::error::StoreError;
use crate::fixture::{Walk, clear, manifest, memory};
use crate::rebuild::{note_findings, prepare_packs};
use crate::record::{Record, ServerRecord};
use crate::scrub;
use crate::store::Store;
use crate::volume::PackId;
use crate::volume::simulated::{Dice, SimulatedDisk};

/// Packs a little longer than a block of parity.
const ROLL_AT: u64 = 80 * 1024;

pub(super) struct World {
    pub(super) disk: Arc<SimulatedDisk>,
    pub(super) dice: Dice,
    pub(super) vault: VaultId,
    pub(super) keys: OpeningKeys,
    pub(super) server: ServerId,
    pub(super) dir: tempfile::TempDir,
    pub(super) chunks: Vec<CheckedChunk>,
    pub(super) points: Vec<PublicManifest>,
}

pub(super) type Simulated = Store<SimulatedDisk>;

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            disk: Arc::new(SimulatedDisk::new(seed)),
            dice: Dice::new(seed ^ 0x4ea1),
            vault: VaultId::random(),
            keys: OpeningKeys::generate().unwrap(),
            server: ServerId::random(),
            dir: memory(),
            chunks: Vec::new(),
            points: Vec::new(),
        }
    }

    pub(super) fn tenant(&self) -> TenantId {
        self.keys.sealing.tenant
    }

    /// Opens the store as `rebuild::open_store` does, on a disk.
    pub(super) fn open(&self) -> Result<Simulated, StoreError> {
        let path = self.dir.path().join("catalogue.sqlite");
        let (catalogue, _) = crate::catalogue::Catalogue::open(&path)?;
        prepare_packs(&*self.disk, self.vault, Some(&catalogue))?;
        let (store, findings) = Store::open_rolling(self.disk.clone(), self.vault, &path, ROLL_AT)?;
        note_findings(&catalogue, &findings, store.has_read_all())?;
        Ok(store)
    }

    pub(super) fn lose_catalogue(&self) {
        clear(self.dir.path());
    }

    pub(super) fn chunk(&mut self, bytes: Vec<u8>) -> ChunkId {
        let chunk = CheckedChunk::of(Bytes::from(bytes));
        let id = chunk.id();
        self.chunks.push(chunk);
        id
    }

    pub(super) fn node(&mut self, level: u8, children: &[ChunkId]) -> ChunkId {
        let mut bytes = vec![2, level, children.len() as u8, 0];
        for id in children {
            bytes.extend_from_slice(id.as_bytes());
        }
        bytes.extend_from_slice(&[7; 40]);
        self.chunk(bytes)
    }

    /// A recovery point of a few leaves, stored.
    pub(super) fn back_up(&mut self, store: &Simulated) {
        let from = self.chunks.len();
        let mut leaves = Vec::new();
        for _ in 0..2 {
            let mut data = Vec::new();
            for _ in 0..3 {
                let mut bytes = vec![1; 3000 + self.dice.roll(9000) as usize];
                let seed = self.dice.roll(u64::MAX);
                let mut noise = blake3::Hasher::new();
                noise.update(&seed.to_le_bytes());
                noise.finalize_xof().fill(&mut bytes[1..]);
                data.push(self.chunk(bytes));
            }
            leaves.push(self.node(0, &data));
        }
        let root = self.node(1, &leaves);
        let key = ChunkKey::from_bytes([1; 32]);
        let taken = Timestamp::from_millis(self.points.len() as i64);
        let root_of_disk = Some((8 << 20, ChunkRef { id: root, key }));
        let manifest = manifest(&self.keys, self.server, taken, root_of_disk);
        self.points.push(manifest.public().unwrap());
        let chunks = self.chunks[from..].iter().cloned().map(Record::Chunk);
        store
            .append_blocking(self.tenant(), chunks.collect())
            .unwrap();
        let epoch = store.read(|c| c.epoch()).unwrap();
        store.mark_complete(self.tenant(), epoch, vec![root]);
        let point = Record::Point(Box::new(crate::record::PointRecord {
            manifest,
            committed: Timestamp::from_millis(5),
            stored: 1,
            locked: None,
        }));
        store.append_blocking(self.tenant(), vec![point]).unwrap();
    }

    /// A store with a server and some recovery points in several packs.
    pub(super) fn filled(seed: u64, points: usize) -> (Self, Simulated) {
        let mut world = Self::new(seed);
        let store = world.open().unwrap();
        let server = Record::Server(ServerRecord {
            id: world.server,
            name: "db1".into(),
            enrolled: Timestamp::from_millis(1),
        });
        store.append_blocking(world.tenant(), vec![server]).unwrap();
        for _ in 0..points {
            world.back_up(&store);
        }
        (world, store)
    }

    pub(super) fn healer<'a>(
        &self,
        store: &'a Simulated,
        give_up: bool,
    ) -> Healer<'a, SimulatedDisk> {
        Healer {
            store,
            vault: self.vault,
            heal_from: &[],
            give_up,
        }
    }

    /// Reads everything once, as scrubbing does; whether all was intact.
    pub(super) fn scrub(&self, store: &Simulated) -> Result<bool, StoreError> {
        let files = store.read(|c| scrub::files(&*self.disk, self.vault, c))?;
        let mut intact = true;
        for due in files {
            intact &= scrub::check(store, self.vault, due.file, || {})?;
        }
        Ok(intact)
    }

    /// An agent that still has everything sends what the vault does not have.
    pub(super) fn send_again(&self, store: &Simulated) -> Result<(), StoreError> {
        let records = self.chunks.iter().cloned().map(Record::Chunk).collect();
        store.append_blocking(self.tenant(), records).map(drop)
    }

    pub(super) fn packs(&self) -> Vec<PackId> {
        use crate::volume::Volume;
        let mut packs = self.disk.list().unwrap();
        packs.sort_unstable();
        packs
    }

    /// Something happens to a pack that is closed; a whole file may go.
    pub(super) fn harm(&mut self, whole: bool) -> String {
        use crate::volume::Volume;
        let packs = self.packs();
        let pack = packs[self.dice.roll(packs.len() as u64 - 1) as usize];
        let length = self.disk.length(pack).unwrap();
        let at = self.dice.roll(length);
        match self.dice.roll(if whole { 4 } else { 3 }) {
            0 => {
                let mut byte = [0];
                self.disk.read_at(pack, at, &mut byte).unwrap();
                let flipped = byte[0] ^ (1 << self.dice.roll(8));
                self.disk.write_at(pack, at, &[flipped]).unwrap();
                format!("a flipped bit at {at} of {pack}")
            }
            1 => {
                // Whole pages: less the kernel does not read.
                let at = at - at % 4096;
                let to = at + 4096 * (1 + self.dice.roll(2));
                self.disk.lose(pack, at..to);
                format!("unreadable bytes {at}..{to} of {pack}")
            }
            2 => {
                let to = (at + 1 + self.dice.roll(20_000)).min(length);
                let zeros = vec![0; (to - at) as usize];
                self.disk.write_at(pack, at, &zeros).unwrap();
                format!("zeros in {at}..{to} of {pack}")
            }
            _ => {
                self.disk.vanish(pack);
                format!("{pack} is gone")
            }
        }
    }

    /// Every recovery point is whole, every byte intact, nothing is left on the list; and the
    /// packs alone say the same.
    pub(super) fn assert_healed(&self, store: Simulated, context: &str) {
        self.assert_points(&store, context);
        assert!(self.scrub(&store).unwrap(), "{context}: damage is left");
        let left = store.read(|c| c.open_losses(self.tenant())).unwrap();
        assert!(left.is_empty(), "{context}: {left:?}");
        drop(store);
        self.lose_catalogue();
        let store = self.open().unwrap();
        self.assert_points(&store, &format!("{context}, rebuilt"));
        let left = store.read(|c| c.losses(self.tenant())).unwrap();
        assert!(left.is_empty(), "{context}, rebuilt: {left:?}");
        let servers = store.read(|c| c.servers(self.tenant())).unwrap();
        assert_eq!(servers[0].name, "db1", "{context}");
    }

    pub(super) fn assert_points(&self, store: &Simulated, context: &str) {
        let tenant = self.tenant();
        for public in &self.points {
            let known = store.read(|c| c.point(tenant, public.point)).unwrap();
            assert!(known.is_some(), "{context}: a recovery point is lost");
            let mut shelf = Walk { store, tenant };
            let faults = completeness::faults(&mut shelf, public, 10).unwrap();
            assert!(faults.is_empty(), "{context}: {faults:?}");
        }
    }
}
