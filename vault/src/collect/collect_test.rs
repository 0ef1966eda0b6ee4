//! What collection takes, what it leaves, what it costs.
#![allow(clippy::unwrap_used)]

mod lab;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::{ChunkId, PointId, TenantId, Timestamp};

use super::{Report, Rule, collect};
use crate::catalogue::PackUse;
use crate::record::Record;
use crate::store::Store;
use crate::volume::simulated::Dice;
use crate::volume::{FileId, PackId, Volume};
use lab::{Counted, Lab, Points, ROLL_AT, at_once, collect_now};

/// Guards against collection that takes too much or too little, and against packs that lose
/// something when they are rewritten.
#[test]
fn what_died_goes_and_what_lives_stays() {
    let lab = Lab::new(1);
    let shared: Vec<u64> = (0..20).collect();
    let (first, gone) = lab.back_up(&[shared.clone(), (100..180).collect()]);
    let (_, kept) = lab.back_up(&[shared.clone(), (200..210).collect()]);
    assert_eq!(lab.collect().chunks_removed, 0);
    lab.delete(first);
    let foreseen = {
        let rule = Rule {
            dry_run: true,
            ..at_once()
        };
        let now = Timestamp::now();
        while Timestamp::now() <= now {}
        collect(&lab.store, &rule, &AtomicBool::new(false)).unwrap()
    };
    let done = lab.collect();
    // 80 pieces of data, their leaf, the root.
    assert_eq!(done.chunks_removed, 82);
    assert_eq!(
        (foreseen.chunks_removed, foreseen.bytes_died),
        (done.chunks_removed, done.bytes_died)
    );
    assert!((1..=done.packs_retired).contains(&foreseen.packs_retired));
    assert!(done.packs_retired >= 1, "{done:?}");
    assert!(
        done.held_back.is_empty() && done.damage.is_empty(),
        "{done:?}"
    );
    lab.read_all(&lab.store, &kept);
    let shared_and_its_leaf = 21;
    assert_eq!(lab.stored(&gone), shared_and_its_leaf);
    assert_eq!(
        lab.collect(),
        Report::default(),
        "a second one finds nothing"
    );
    let rebuilt = lab.rebuilt("anew");
    lab.read_all(&rebuilt, &kept);
    let known = rebuilt.read(|c| c.point(lab.tenant(), first)).unwrap();
    assert!(known.is_none(), "a deleted point came back");
}

/// Guards the promise that the space of a point comes back: of a vault whose points are all
/// gone, one pack is left.
#[test]
fn a_vault_without_points_shrinks_to_its_newest_pack() {
    let lab = Lab::new(2);
    let points: Vec<PointId> = (0..8)
        .map(|n| lab.back_up(&[(n * 100..n * 100 + 60).collect()]).0)
        .collect();
    let before = lab.disk.list().unwrap().len();
    assert!(before > 5, "{before}");
    points.into_iter().for_each(|point| lab.delete(point));
    let report = lab.collect();
    let left = lab.disk.list().unwrap();
    assert!(left.len() <= 2, "{left:?} {report:?}");
    assert_eq!(report.packs_retired as usize, before - left.len());
    // Numbers are not used again, and nothing is missed.
    let highest = left.iter().map(|pack| pack.number).max().unwrap();
    assert!(highest as usize >= before);
    lab.rebuilt("anew");
}

/// Guards an upload against collection: what it was told is stored must stay while it is open.
#[test]
fn what_an_open_upload_may_count_on_stays() {
    let lab = Lab::new(3);
    let (point, all) = lab.back_up(&[(0..10).collect()]);
    lab.delete(point);
    let opening = lab.store.openings().open(lab.tenant());
    let root = *all.last().unwrap();
    // Told after the point was deleted.
    lab.store
        .in_writer({
            let tenant = lab.tenant();
            move |ledger| {
                let catalogue = ledger.catalogue();
                catalogue.transaction(|c| c.renew_unreferenced(tenant, &[root]))
            }
        })
        .unwrap();
    lab.collect();
    assert_eq!(lab.stored(&all), all.len());
    drop(opening);
    lab.collect();
    assert_eq!(lab.stored(&all), 0);
}

/// Guards children whose last parent goes while somebody may have been told of them.
#[test]
fn what_falls_free_under_an_open_upload_waits_for_its_end() {
    let lab = Lab::new(4);
    let (point, all) = lab.back_up(&[(0..10).collect()]);
    lab.delete(point);
    let now = Timestamp::now();
    while Timestamp::now() <= now {}
    let opening = lab.store.openings().open(lab.tenant());
    lab.collect();
    // The root was free before the upload began; it could be told of what was below.
    assert_eq!(lab.stored(&all), all.len() - 1);
    lab.collect();
    assert_eq!(lab.stored(&all), all.len() - 1);
    drop(opening);
    lab.collect();
    assert_eq!(lab.stored(&all), 0);
}

/// Guards what is below a node that was lost before it was read: it looks like garbage.
#[test]
fn losses_hold_collection_back_until_they_are_healed_or_accepted() {
    let lab = Lab::new(5);
    let (_, all) = lab.back_up(&[(0..10).collect()]);
    let leaf = all[10];
    let at = lab.store.read(|c| c.locate(lab.tenant(), &[leaf])).unwrap()[0].unwrap();
    let pack = PackId {
        tenant: lab.tenant(),
        number: at.pack,
    };
    lab.disk.write_at(pack, at.offset + 70, &[0xff]).unwrap();
    let path = lab.dir.path().join("anew");
    let open = || Store::open_rolling(lab.disk.clone(), lab.vault, &path, ROLL_AT).unwrap();
    let (store, findings) = open();
    assert_eq!(findings.len(), 1, "{findings:?}");
    let report = collect_now(&store);
    assert_eq!(report.chunks_removed, 0);
    assert_eq!(report.held_back.len(), 1, "{report:?}");
    // Ten pieces of data look free.
    assert_eq!(report.held_back[0].chunks, 10);
    let mut bytes = vec![2, 0, 10, 0];
    all[..10]
        .iter()
        .for_each(|id| bytes.extend_from_slice(id.as_bytes()));
    let again = vec![Record::Chunk(CheckedChunk::of(bytes.into()))];
    store.append_blocking(lab.tenant(), again).unwrap();
    let report = collect_now(&store);
    assert!(report.held_back.is_empty(), "{report:?}");
    assert_eq!(report.chunks_removed, 0);
    lab.read_all(&store, &all);
}

/// Guards entries in a damaged pack: what may be healed there is not thrown away with it.
#[test]
fn a_damaged_pack_is_left_alone_and_named() {
    let lab = Lab::new(6);
    let (point, _) = lab.back_up(&[(0..60).collect()]);
    let (_, kept) = lab.back_up(&[(0..4).collect(), (100..160).collect()]);
    let at = lab
        .store
        .read(|c| c.locate(lab.tenant(), &kept[..1]))
        .unwrap()[0]
        .unwrap();
    let number = at.pack;
    let tenant = lab.tenant();
    let pack = PackId { tenant, number };
    lab.disk.write_at(pack, at.offset + 70, &[0xff]).unwrap();
    lab.delete(point);
    let report = lab.collect();
    assert!(report.chunks_removed > 50);
    assert!(
        report.damage.iter().any(|d| d.contains(&pack.to_string())),
        "{report:?}"
    );
    assert!(lab.disk.list().unwrap().contains(&pack));
}

/// All that a catalogue says of chunks and packs.
/// Guards everybody's space against one file that cannot be taken away: it is named, the other
/// packs and tenants are collected, and the next collection takes it away.
#[test]
fn what_fails_is_named_and_ends_no_collection() {
    let lab = Lab::new(7);
    let others = [lab.tenant(), TenantId::random()];
    for tenant in others {
        for name in 0..200u64 {
            let mut bytes = vec![1; 1000];
            bytes[1..9].copy_from_slice(&name.to_le_bytes());
            let records = vec![Record::Chunk(CheckedChunk::of(bytes.into()))];
            lab.store.append_blocking(tenant, records).unwrap();
        }
    }
    let packs_of = |tenant: TenantId| {
        let mut packs = lab.disk.list().unwrap();
        packs.retain(|pack| pack.tenant == tenant);
        packs.sort_unstable();
        packs
    };
    // Of each tenant, whoever comes first.
    let stuck = others.map(|tenant| packs_of(tenant)[0]);
    assert!(packs_of(others[0]).len() > 3);
    lab.disk
        .stuck
        .lock()
        .unwrap()
        .extend(stuck.map(FileId::from));
    let report = lab.collect();
    assert_eq!(report.failures.len(), 2, "{report:?}");
    for (tenant, stuck) in others.into_iter().zip(stuck) {
        let named = |failure: &String| failure.contains(&stuck.to_string());
        assert!(report.failures.iter().any(named), "{report:?}");
        assert_eq!(packs_of(tenant).len(), 2, "the stuck one and the newest");
    }
    assert!(super::text(&report).contains("failed: "));
    lab.disk.stuck.lock().unwrap().clear();
    let report = lab.collect();
    assert!(
        report.failures.is_empty() && report.bytes_freed > 0,
        "{report:?}"
    );
    assert!(others.iter().all(|tenant| packs_of(*tenant).len() == 1));
}

fn facts(store: &Store<Counted>, tenant: TenantId, ids: &[ChunkId]) -> String {
    let states = store.read(|c| c.states(tenant, ids)).unwrap();
    let of: BTreeMap<ChunkId, String> = ids
        .iter()
        .zip(states)
        .map(|(id, state)| {
            let place = state
                .place
                .map(|at| (at.pack, at.offset, at.length, at.kind));
            (*id, format!("{place:?} {}", state.refs))
        })
        .collect();
    let packs: Vec<PackUse> = store.read(|c| c.pack_use(tenant)).unwrap();
    format!("{of:#?} {packs:#?}")
}

/// Guards the counts, on which all removal hangs: whatever was done, in whatever order, they are
/// what the packs alone say.
#[test]
fn counts_after_any_history_are_those_of_a_rebuild() {
    for seed in 0..40 {
        let lab = Lab::new(seed);
        let mut dice = Dice::new(seed + 1);
        let mut points = Points::new();
        let mut all = Vec::new();
        for _ in 0..25 {
            match dice.roll(6) {
                0..3 => {
                    let leaves: Vec<Vec<u64>> = (0..1 + dice.roll(3))
                        .map(|_| (0..1 + dice.roll(12)).map(|_| dice.roll(60)).collect())
                        .collect();
                    let (point, chunks) = lab.back_up(&leaves);
                    all.extend(&chunks);
                    points.insert(point, chunks);
                }
                3 => all.push(lab.node(0, &[ChunkId::from_bytes([7; 32])])),
                4 => {
                    let at = dice.roll(points.len() as u64 + 1) as usize;
                    let mut ids: Vec<PointId> = points.keys().copied().collect();
                    ids.sort();
                    if let Some(point) = ids.get(at) {
                        lab.delete(*point);
                        points.remove(point);
                    }
                }
                _ => drop(lab.collect()),
            }
        }
        all.push(ChunkId::from_bytes([7; 32]));
        for chunks in points.values() {
            lab.read_all(&lab.store, chunks);
        }
        // A rebuild knows nothing of removals: what was removed looks free again.
        let name = format!("anew-{seed}");
        drop(lab.collect());
        let path = lab.dir.path().join(&name);
        let (rebuilt, findings) =
            Store::open_rolling(lab.disk.clone(), lab.vault, &path, ROLL_AT).unwrap();
        assert!(findings.is_empty(), "seed {seed}: {findings:?}");
        let report = collect(
            &rebuilt,
            &Rule {
                rewrite_at: 2.0,
                ..at_once()
            },
            &AtomicBool::new(false),
        );
        let again = collect_removals(&rebuilt);
        assert_eq!(again, 0, "seed {seed}: {report:?}");
        let tenant = lab.tenant();
        assert_eq!(
            facts(&lab.store, tenant, &all),
            facts(&rebuilt, tenant, &all),
            "seed {seed}"
        );
    }
}

/// Removes without rewriting, until nothing is left; how many chunks the last time.
fn collect_removals(store: &Store<Counted>) -> u64 {
    let rule = Rule {
        rewrite_at: 2.0,
        ..at_once()
    };
    let mut removed = 0;
    for _ in 0..3 {
        let now = Timestamp::now();
        while Timestamp::now() <= now {}
        removed = collect(store, &rule, &AtomicBool::new(false))
            .unwrap()
            .chunks_removed;
    }
    removed
}

/// Guards the cost: ten times as much that lives makes the collection of one point read no more.
#[test]
fn cost_goes_by_what_died() {
    let reads = |live: u64| {
        let lab = Lab::new(live);
        let (point, _) = lab.back_up(&[(0..100).collect()]);
        for number in 0..live {
            let from = 1000 + number * 100;
            lab.back_up(&[(from..from + 50).collect()]);
        }
        lab.delete(point);
        let before = lab.disk.reads.load(Ordering::Relaxed);
        let report = lab.collect();
        assert_eq!(report.chunks_removed, 102);
        assert!(report.packs_retired > 0);
        lab.disk.reads.load(Ordering::Relaxed) - before
    };
    let (few, many) = (reads(5), reads(50));
    // How the packs happen to be filled makes a difference of some entries.
    assert!(many < few + few / 2, "{few} reads, then {many}");
}
