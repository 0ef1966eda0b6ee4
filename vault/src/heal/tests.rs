//! Healing on a disk that flips bits, loses sectors and packs, and crashes at every write.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::index::ChunkRef;
use relevo_wire::key::ChunkKey;
use relevo_wire::key::OpeningKeys;
use relevo_wire::manifest::{
    Consistency, DiskImage, MANIFEST_VERSION, ManifestBody, PublicManifest, RunTotals,
    SealedManifest, SealedRef,
};
use relevo_wire::{PointId, ServerId};

use super::*;
use crate::catalogue::Located;
use crate::completeness::{self, Shelf};
use crate::rebuild::{note_findings, prepare_packs};
use crate::record::ServerRecord;
use crate::scrub;
use crate::volume::FileId;
use crate::volume::simulated::{Dice, Fault, SimulatedDisk};

/// Packs a little longer than a block of parity.
const ROLL_AT: u64 = 80 * 1024;

struct World {
    disk: Arc<SimulatedDisk>,
    dice: Dice,
    vault: VaultId,
    keys: OpeningKeys,
    server: ServerId,
    dir: tempfile::TempDir,
    chunks: Vec<CheckedChunk>,
    points: Vec<PublicManifest>,
}

type Simulated = Store<SimulatedDisk>;

impl World {
    fn new(seed: u64) -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        Self {
            disk: Arc::new(SimulatedDisk::new(seed)),
            dice: Dice::new(seed ^ 0x4ea1),
            vault: VaultId::random(),
            keys: OpeningKeys::generate().unwrap(),
            server: ServerId::random(),
            dir: dir.unwrap(),
            chunks: Vec::new(),
            points: Vec::new(),
        }
    }

    fn tenant(&self) -> TenantId {
        self.keys.sealing.tenant
    }

    /// Opens the store as `rebuild::open_store` does, on a disk.
    fn open(&self) -> Result<Simulated, StoreError> {
        let path = self.dir.path().join("catalogue.sqlite");
        let (catalogue, fresh) = crate::catalogue::Catalogue::open(&path)?;
        prepare_packs(&*self.disk, self.vault, Some(&catalogue))?;
        let (store, findings) = Store::open_rolling(self.disk.clone(), self.vault, &path, ROLL_AT)?;
        note_findings(&catalogue, &findings, fresh)?;
        Ok(store)
    }

    fn lose_catalogue(&self) {
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => std::fs::remove_dir_all(path).unwrap(),
                false => std::fs::remove_file(path).unwrap(),
            }
        }
    }

    fn chunk(&mut self, bytes: Vec<u8>) -> ChunkId {
        let chunk = CheckedChunk::of(Bytes::from(bytes));
        let id = chunk.id();
        self.chunks.push(chunk);
        id
    }

    fn node(&mut self, level: u8, children: &[ChunkId]) -> ChunkId {
        let mut bytes = vec![2, level, children.len() as u8, 0];
        for id in children {
            bytes.extend_from_slice(id.as_bytes());
        }
        bytes.extend_from_slice(&[7; 40]);
        self.chunk(bytes)
    }

    /// A recovery point of a few leaves, stored.
    fn back_up(&mut self, store: &Simulated) {
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
        let public = PublicManifest {
            version: MANIFEST_VERSION,
            server: self.server,
            point: PointId::random(),
            taken: Timestamp::from_millis(self.points.len() as i64),
            roots: vec![],
            inventory: vec![],
            totals: RunTotals {
                disk: 8 << 20,
                ..RunTotals::default()
            },
        };
        let key = ChunkKey::from_bytes([1; 32]);
        let body = ManifestBody {
            disks: vec![DiskImage {
                name: "sda".into(),
                size: 8 << 20,
                root: Some(SealedRef::node(ChunkRef { id: root, key })),
                sector: 512,
                serial: None,
            }],
            inventory: vec![],
            consistency: Consistency::Offline,
            chunker: 1,
            agent: "test".into(),
            started: Timestamp::from_millis(0),
            finished: Timestamp::from_millis(0),
        };
        let manifest = SealedManifest::seal(&self.keys.sealing, public, &body).unwrap();
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
    fn filled(seed: u64, points: usize) -> (Self, Simulated) {
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

    fn healer<'a>(&self, store: &'a Simulated, give_up: bool) -> Healer<'a, SimulatedDisk> {
        Healer {
            store,
            vault: self.vault,
            heal_from: &[],
            give_up,
        }
    }

    /// Reads everything once, as scrubbing does; whether all was intact.
    fn scrub(&self, store: &Simulated) -> Result<bool, StoreError> {
        let files = store.read(|c| scrub::files(&*self.disk, self.vault, c))?;
        let mut intact = true;
        for due in files {
            intact &= scrub::check(store, self.vault, due.file, || {})?;
        }
        Ok(intact)
    }

    /// An agent that still has everything sends what the vault does not have.
    fn send_again(&self, store: &Simulated) -> Result<(), StoreError> {
        let records = self.chunks.iter().cloned().map(Record::Chunk).collect();
        store.append_blocking(self.tenant(), records).map(drop)
    }

    fn packs(&self) -> Vec<PackId> {
        use crate::volume::Volume;
        let mut packs = self.disk.list().unwrap();
        packs.sort_unstable();
        packs
    }

    /// Something happens to a pack that is closed; a whole file may go.
    fn harm(&mut self, whole: bool) -> String {
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
    fn assert_healed(&self, store: Simulated, context: &str) {
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

    fn assert_points(&self, store: &Simulated, context: &str) {
        let tenant = self.tenant();
        for public in &self.points {
            let known = store.read(|c| c.point(tenant, public.point)).unwrap();
            assert!(known.is_some(), "{context}: a recovery point is lost");
            let mut shelf = Plain { store, tenant };
            let faults = completeness::faults(&mut shelf, public, 10).unwrap();
            assert!(faults.is_empty(), "{context}: {faults:?}");
        }
    }
}

struct Plain<'a> {
    store: &'a Simulated,
    tenant: TenantId,
}

impl Shelf for Plain<'_> {
    fn locate(&mut self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, StoreError> {
        let found = self.store.read(|c| c.locate(self.tenant, ids))?;
        for (id, at) in ids.iter().zip(&found) {
            if let Some(at) = at {
                self.store.read_chunk(self.tenant, *id, *at)?;
            }
        }
        Ok(found)
    }
    fn read(&mut self, id: ChunkId, at: Located) -> Result<Option<CheckedChunk>, StoreError> {
        self.store.read_chunk(self.tenant, id, at).map(Some)
    }
    fn is_complete(&self, _: ChunkId, _: &Located) -> bool {
        false
    }
    fn set_complete(&mut self, _: ChunkId) {}
}

/// Guards the way back without parity and without another vault: whatever is damaged is found,
/// forgotten, sent again, covered, and after that nothing says that it ever was; packs that are
/// gone as well, once they are given up.
#[test]
fn what_agents_still_have_heals_everything() {
    for seed in 0..60 {
        let (mut world, store) = World::filled(seed, 6);
        if seed % 3 == 0 {
            use crate::volume::Volume;
            let pack = world.packs()[1];
            let length = world.disk.length(pack).unwrap();
            world
                .disk
                .truncate(pack, length - 1 - world.dice.roll(60_000))
                .unwrap();
        }
        let harms: Vec<_> = (0..=world.dice.roll(3)).map(|_| world.harm(true)).collect();
        let context = format!("seed {seed}: {harms:?}");
        world.scrub(&store).unwrap();
        world.healer(&store, true).heal().unwrap();
        world.send_again(&store).unwrap();
        let healed = world.healer(&store, false).heal().unwrap();
        assert!(healed.left.is_empty(), "{context}: {healed:?}");
        world.assert_healed(store, &context);
    }
}

/// Guards the promise of parity through the store: no chunk is forgotten, no epoch ends.
#[test]
fn parity_heals_without_anybody_noticing() {
    for seed in 0..30 {
        let (mut world, store) = World::filled(seed, 8);
        let formed = scrub::protect(&store, world.vault, (world.packs().len() - 1, 2)).unwrap();
        assert_eq!(formed, 1);
        let epoch = store.read(|c| c.epoch()).unwrap();
        let harms = [world.harm(true), world.harm(true)];
        let context = format!("seed {seed}: {harms:?}");
        world.scrub(&store).unwrap();
        let healed = world.healer(&store, false).heal().unwrap();
        assert_eq!(
            (healed.forgotten, healed.covered),
            (0, 0),
            "{context}: {healed:?}"
        );
        assert_eq!(store.read(|c| c.epoch()).unwrap(), epoch, "{context}");
        world.assert_healed(store, &context);
    }
}

/// Guards against healing that makes things worse: power is cut at any of its writes, and it
/// ends well when it is done again.
#[test]
fn a_crash_at_any_write_of_healing_is_made_good_by_the_next() {
    for seed in 0..12 {
        for after in 0..60 {
            let (mut world, store) = World::filled(seed, 6);
            if seed % 2 == 0 {
                scrub::protect(&store, world.vault, (3, 1)).unwrap();
            }
            let harms = [world.harm(true), world.harm(true)];
            let context = format!("seed {seed}, crash at write {after}: {harms:?}");
            world.disk.plan(after, Fault::Crash);
            let done = world
                .scrub(&store)
                .and_then(|_| world.healer(&store, true).heal())
                .and_then(|_| world.send_again(&store))
                .and_then(|()| world.healer(&store, true).heal());
            drop(store);
            world.disk.crash();
            let store = world.open().unwrap();
            world.scrub(&store).unwrap();
            world.healer(&store, true).heal().unwrap();
            world.send_again(&store).unwrap();
            world.healer(&store, true).heal().unwrap();
            world.assert_healed(store, &context);
            if done.is_ok() {
                break;
            }
        }
    }
}

/// Guards what nobody can know: bytes that were damaged before the catalogue read them may have
/// been a recovery point. They stay on the list, and in their place, until they are given up.
#[test]
fn bytes_of_which_nobody_knows_are_kept_until_they_are_given_up() {
    use crate::volume::Volume;
    let (world, store) = World::filled(7, 3);
    let tenant = world.tenant();
    let chunk = &world.chunks[4];
    let at = store.read(|c| c.locate(tenant, &[chunk.id()])).unwrap()[0].unwrap();
    drop(store);
    let pack = PackId {
        tenant,
        number: at.pack,
    };
    world
        .disk
        .write_at(pack, at.offset + 50, &[1, 2, 3])
        .unwrap();
    world.lose_catalogue();
    let store = world.open().unwrap();
    world.send_again(&store).unwrap();
    let healed = world.healer(&store, false).heal().unwrap();
    assert_eq!((healed.left.len(), healed.covered), (1, 0), "{healed:?}");
    assert!(!world.scrub(&store).unwrap());
    let healed = world.healer(&store, true).heal().unwrap();
    assert_eq!((healed.left.len(), healed.covered), (0, 1), "{healed:?}");
    world.assert_healed(store, "given up");
}

/// Guards what was damaged when the catalogue was made, and was healed in its place since: the
/// recovery point that stood there is taken in before anything below it can be collected.
#[test]
fn what_was_damaged_when_the_catalogue_was_made_is_taken_in_when_it_is_healed() {
    use crate::collect::{Rule, collect};
    use crate::volume::Volume;
    for whole in [false, true] {
        let (world, store) = World::filled(11, 3);
        let tenant = world.tenant();
        let point = world.points[0].point;
        let at = store.read(|c| c.point_place(tenant, point)).unwrap();
        let at = at.unwrap();
        drop(store);
        let pack = PackId {
            tenant,
            number: at.pack,
        };
        // The header of its entry: nobody can tell that it was a recovery point.
        let from = if whole { 8192 } else { at.offset };
        let damaged = (at.offset - from) as usize + 40;
        let mut before = vec![0; damaged];
        world.disk.read_at(pack, from, &mut before).unwrap();
        world.disk.write_at(pack, from, &vec![9; damaged]).unwrap();
        world.lose_catalogue();
        let store = world.open().unwrap();
        assert!(store.read(|c| c.point(tenant, point)).unwrap().is_none());
        // As parity does.
        world.disk.write_at(pack, from, &before).unwrap();
        let healed = world.healer(&store, false).heal().unwrap();
        assert!(healed.left.is_empty(), "{healed:?}");
        let rule = Rule {
            grace: std::time::Duration::ZERO,
            rewrite_at: 0.5,
            accept_loss: false,
            dry_run: false,
        };
        // Only what became unreferenced before now may go.
        let healed_at = Timestamp::now();
        while Timestamp::now() <= healed_at {
            std::hint::spin_loop();
        }
        collect(&store, &rule, &Default::default()).unwrap();
        world.assert_points(&store, "healed in its place");
    }
}

/// Guards what only a pack refers to that was missing when the catalogue was made: until the
/// pack is read, nothing is collected.
#[test]
fn a_pack_that_is_back_and_unread_holds_collection_back() {
    let (world, store) = World::filled(12, 4);
    drop(store);
    let pack = world.packs()[0];
    let content = world.disk.content(pack).unwrap();
    world.disk.vanish(pack);
    world.lose_catalogue();
    let store = world.open().unwrap();
    {
        use crate::volume::Volume;
        world.disk.create(pack).unwrap();
        world.disk.write_at(pack, 0, &content).unwrap();
        world.disk.sync(pack).unwrap();
    }
    let healed = world.healer(&store, false).heal().unwrap();
    assert_eq!(healed.left.len(), 1, "{healed:?}");
    assert!(healed.failures[0].contains("restart"), "{healed:?}");
    drop(store);
    let store = world.open().unwrap();
    world.healer(&store, false).heal().unwrap();
    world.assert_healed(store, "read");
}

/// Guards a recovery point against damage that is found between the proof that it is complete
/// and its entry.
#[test]
fn a_point_is_not_committed_on_a_proof_of_an_earlier_epoch() {
    let (world, store) = World::filled(3, 2);
    let tenant = world.tenant();
    let epoch = store.read(|c| c.epoch()).unwrap();
    let id = world.chunks[0].id();
    let at = store.read(|c| c.locate(tenant, &[id])).unwrap()[0].unwrap();
    let pack = PackId {
        tenant,
        number: at.pack,
    };
    let forget =
        move |ledger: &mut crate::ledger::Ledger<SimulatedDisk>| ledger.forget(pack, WHOLE, &[id]);
    assert_eq!(store.in_writer(forget).unwrap(), 1);
    let record = Record::Chunk(CheckedChunk::of(Bytes::from_static(b"a")));
    let again = record.clone();
    let late = store.in_writer(move |l| l.commit(tenant, &record, epoch));
    assert!(!late.unwrap());
    let now = store.read(|c| c.epoch()).unwrap();
    assert!(
        store
            .in_writer(move |l| l.commit(tenant, &again, now))
            .unwrap()
    );
}

/// Guards the promise of scrubbing: what was read longest ago is read next, parity too.
#[test]
fn files_are_checked_oldest_first() {
    let (world, store) = World::filled(5, 8);
    assert!(scrub::protect(&store, world.vault, (2, 1)).unwrap() > 0);
    let mut seen = HashSet::new();
    let all = store
        .read(|c| scrub::files(&*world.disk, world.vault, c))
        .unwrap();
    for _ in 0..all.len() {
        let files = store
            .read(|c| scrub::files(&*world.disk, world.vault, c))
            .unwrap();
        let file: FileId = files
            .iter()
            .map(|due| due.file)
            .find(|f| !seen.contains(f))
            .unwrap();
        assert!(scrub::check(&store, world.vault, file, || panic!("nothing is damaged")).unwrap());
        seen.insert(file);
        let files = store
            .read(|c| scrub::files(&*world.disk, world.vault, c))
            .unwrap();
        let last = files.iter().position(|due| due.file == file).unwrap();
        assert!(
            files[..last]
                .iter()
                .all(|due| due.checked <= files[last].checked)
        );
    }
    assert_eq!(seen.len(), all.len());
}

/// Guards everybody's healing against one tenant whose packs cannot be looked at.
#[test]
fn one_tenants_trouble_ends_nobody_elses_healing() {
    use crate::pack::PackHeader;
    use crate::volume::Volume;
    let (world, store) = World::filled(13, 2);
    let pack = world.packs()[0];
    let newer = PackHeader {
        version: 9,
        ..PackHeader::new(world.vault, pack)
    };
    world.disk.write_at(pack, 0, &newer.encode()).unwrap();
    store.read(|c| c.note_loss(pack, 8192, 64, None)).unwrap();
    let other = TenantId::random();
    let records = vec![Record::Chunk(world.chunks[0].clone())];
    let id = world.chunks[0].id();
    store.append_blocking(other, records.clone()).unwrap();
    let at = store.read(|c| c.locate(other, &[id])).unwrap()[0].unwrap();
    let pack = PackId {
        tenant: other,
        number: at.pack,
    };
    world.disk.write_at(pack, at.offset + 70, &[1, 2]).unwrap();
    let length = crate::pack::entry_size(at.length as usize);
    store
        .read(|c| c.note_loss(pack, at.offset, length, Some(id)))
        .unwrap();
    store
        .in_writer(move |ledger| ledger.store_again(other, &records))
        .unwrap();
    let healed = world.healer(&store, false).heal().unwrap();
    let tenant = world.tenant().to_string();
    assert_eq!(healed.failures.len(), 1, "{healed:?}");
    assert!(healed.failures[0].contains(&tenant), "{healed:?}");
    assert_eq!(healed.covered, 1, "{healed:?}");
    assert!(healed.left.iter().all(|l| l.pack.contains(&tenant)));
}

/// Guards the order of retirement: a lost pack that was the newest, and of which nothing is
/// missed, is retired in a pack of its own before its file goes.
#[test]
fn a_lost_newest_pack_is_retired_as_others_are() {
    use crate::volume::Volume;
    let (mut world, store) = World::filled(14, 1);
    let pack = world.packs().pop().unwrap();
    drop(store);
    world.disk.write_at(pack, 0, &[0; 8192]).unwrap();
    let store = world.open().unwrap();
    world.healer(&store, true).heal().unwrap();
    world.send_again(&store).unwrap();
    let healed = world.healer(&store, true).heal().unwrap();
    assert!(
        healed.left.is_empty() && healed.failures.is_empty(),
        "{healed:?}"
    );
    assert!(!world.disk.list().unwrap().contains(&pack));
    assert!(store.read(|c| c.was_retired(pack)).unwrap());
    world.back_up(&store);
    assert!(
        world
            .packs()
            .iter()
            .all(|other| other.number > pack.number || *other < pack)
    );
    world.assert_healed(store, "retired");
}
