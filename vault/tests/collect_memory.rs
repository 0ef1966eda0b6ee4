//! What a collection takes of memory.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use relevo_vault::collect::{Rule, collect};
use relevo_vault::ledger::Deletion;
use relevo_vault::record::{PointRecord, Record};
use relevo_vault::store::Store;
use relevo_vault::volume::DiskVolume;
use relevo_wire::chunk::{CheckedChunk, Chunk, Compressor};
use relevo_wire::index::ChunkRef;
use relevo_wire::key::OpeningKeys;
use relevo_wire::manifest::{
    Consistency, DiskImage, MANIFEST_VERSION, ManifestBody, PublicManifest, RunTotals,
    SealedManifest, SealedRef,
};
use relevo_wire::{ChunkId, PointId, ServerId, Timestamp, VaultId};

/// Pieces of data; half of them die.
const CHUNKS: u64 = 60_000;
const PER_LEAF: usize = 500;

/// Most memory that the process had since `reset_peak`, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn node(level: u8, children: &[ChunkId]) -> CheckedChunk {
    let mut bytes = vec![2, level];
    bytes.extend_from_slice(&(children.len() as u16).to_le_bytes());
    let ids = children.iter().flat_map(|id| *id.as_bytes());
    bytes.extend(ids);
    CheckedChunk::of(bytes.into())
}

/// A root over leaves over pieces of data of these numbers.
fn tree(store: &Store<DiskVolume>, keys: &OpeningKeys, numbers: std::ops::Range<u64>) -> PointId {
    let tenant = keys.sealing.tenant;
    let put = |chunks: Vec<CheckedChunk>| -> Vec<ChunkId> {
        let ids = chunks.iter().map(CheckedChunk::id).collect();
        let records = chunks.into_iter().map(Record::Chunk).collect();
        store.append_blocking(tenant, records).unwrap();
        ids
    };
    let numbers: Vec<u64> = numbers.collect();
    let mut leaves = Vec::new();
    for part in numbers.chunks(PER_LEAF) {
        let data = part.iter().map(|number| {
            let mut bytes = vec![1; 400];
            bytes[1..9].copy_from_slice(&number.to_le_bytes());
            CheckedChunk::of(bytes.into())
        });
        leaves.push(node(0, &put(data.collect())));
    }
    let leaves = put(leaves);
    let root = put(vec![node(1, &leaves)])[0];
    let epoch = store.read(|c| c.epoch()).unwrap();
    store.mark_complete(tenant, epoch, vec![root]);
    let key = Chunk::new(&keys.sealing.secret, b"any")
        .seal(&mut Compressor::new())
        .key();
    let point = PointId::random();
    let public = PublicManifest {
        version: MANIFEST_VERSION,
        server: ServerId::from_bytes([5; 16]),
        point,
        taken: Timestamp::now(),
        roots: vec![],
        inventory: vec![],
        totals: RunTotals::default(),
    };
    let body = ManifestBody {
        disks: vec![DiskImage {
            name: "sda".into(),
            size: 1 << 30,
            root: Some(SealedRef::node(ChunkRef { id: root, key })),
            sector: 512,
            serial: None,
            faults: None,
        }],
        inventory: vec![],
        consistency: Consistency::Offline,
        chunker: 1,
        agent: "test".into(),
        started: Timestamp::now(),
        finished: Timestamp::now(),
        held: None,
    };
    let manifest = SealedManifest::seal(&keys.sealing, public, &body).unwrap();
    let record = Record::Point(Box::new(PointRecord {
        manifest,
        committed: Timestamp::now(),
        stored: 0,
        locked: None,
    }));
    store.append_blocking(tenant, vec![record]).unwrap();
    point
}

/// Guards small machines: collecting takes at most 64 MiB and 100 bytes for each chunk, here with
/// what the catalogue caches meanwhile.
#[test]
fn a_collection_stays_below_its_bound_of_memory() {
    let memory = std::path::Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let packs = dir.path().join("packs");
    std::fs::create_dir(&packs).unwrap();
    let catalogue = dir.path().join("catalogue.sqlite");
    let volume = Arc::new(DiskVolume::new(&packs));
    let (store, _) =
        Store::open_rolling(volume, VaultId::random(), &catalogue, 1024 * 1024).unwrap();
    let keys = OpeningKeys::generate().unwrap();
    let tenant = keys.sealing.tenant;
    tree(&store, &keys, 0..CHUNKS / 2);
    let dying = tree(&store, &keys, CHUNKS / 2..CHUNKS);
    let wanted = Deletion {
        point: dying,
        by: "local".into(),
        reason: "test".into(),
        latest_too: true,
    };
    let deleted = store.delete_blocking(tenant, vec![wanted]).unwrap();
    assert_eq!(deleted, vec![Ok(())]);
    let now = Timestamp::now();
    while Timestamp::now() <= now {}
    let rule = Rule {
        grace: Duration::ZERO,
        rewrite_at: 0.5,
        accept_loss: false,
        dry_run: false,
    };
    reset_peak();
    let before = peak();
    let report = collect(&store, &rule, &AtomicBool::new(false)).unwrap();
    let taken = peak().saturating_sub(before);
    let leaves = (CHUNKS / 2).div_ceil(PER_LEAF as u64);
    assert_eq!(report.chunks_removed, CHUNKS / 2 + leaves + 1);
    assert!(report.packs_retired > 5, "{report:?}");
    println!(
        "{CHUNKS} chunks, {} removed: {taken} bytes",
        report.chunks_removed
    );
    let bound = 64 * 1024 * 1024 + 100 * CHUNKS;
    assert!(taken <= bound, "{taken} bytes of memory, at most {bound}");
}
