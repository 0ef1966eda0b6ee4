//! Healing on a disk that flips bits, loses sectors and packs, and crashes at every write.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::HashSet;

use bytes::Bytes;

use super::*;
use crate::scrub;
use crate::volume::FileId;
use crate::volume::simulated::{Fault, SimulatedDisk};
use world::World;

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
