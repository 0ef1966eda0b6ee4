//! A vault on a disk that crashes, fills up and fails, seed by seed.
//!
//! Guards the store's promises: whatever was acknowledged can be read bit for bit after any
//! crash, with the catalogue as it was, older, or gone; no recovery point is listed that was
//! not committed, nor one that is not whole.
#![allow(clippy::unwrap_used)]

mod collection;
mod world;

use relevo_wire::ChunkId;

use crate::volume::simulated::Fault;
use world::{World, live_all};

fn live_and_crash(seed: u64) {
    let mut world = World::new(seed);
    let mut fresh = true;
    for life in 0..5 {
        let context = format!("seed {seed}, life {life}");
        let (vault, findings) = world.open();
        for finding in &findings {
            assert!(fresh || !finding.is_damage(), "{context}: {finding}");
        }
        world.check(&vault, &context);
        let after = world.dice.roll(60);
        world.disk.plan(after, Fault::Crash);
        for _ in 0..12 {
            if world.back_up(&vault).is_err() {
                break;
            }
            if world.dice.once_in(6) {
                world.snapshot();
            }
        }
        drop(vault);
        // A killed process leaves bytes that only the next power cut takes away.
        match world.dice.once_in(2) {
            true => world.disk.kill(),
            false => world.disk.crash(),
        }
        fresh = world.age_catalogue();
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_any_crash() {
    live_all(300, live_and_crash);
}

/// Guards against a store that stops, or lies, when the disk is full or an operation fails.
#[test]
fn full_and_failing_disks_are_refused_and_the_store_goes_on() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        let (vault, _) = world.open();
        let mut refused = 0;
        for round in 0..20 {
            let fault = match seed % 2 {
                0 => Fault::Full,
                _ => Fault::Broken,
            };
            let after = world.dice.roll(8);
            world.disk.plan(after, fault);
            refused += u32::from(world.back_up(&vault).is_err());
            world.disk.calm();
            world.check(&vault, &format!("seed {seed}, round {round}"));
        }
        assert!(refused > 0, "seed {seed}: no fault was met");
        // With the fault gone all goes on, unless cutting back failed too: then reads do.
        let more = world.back_up(&vault);
        assert!(seed % 2 == 1 || more.is_ok(), "seed {seed}: {more:?}");
        drop(vault);
        world.disk.crash();
        let (vault, findings) = world.open();
        assert!(
            findings.iter().all(|f| !f.is_damage()),
            "seed {seed}: {findings:?}"
        );
        world.check(&vault, &format!("seed {seed}, opened again"));
        assert!(world.back_up(&vault).is_ok());
    }
}

/// Guards against bit rot that passes for data.
#[test]
fn a_flipped_bit_is_reported_and_never_read_as_data() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        let (vault, _) = world.open();
        for _ in 0..4 {
            let _ = world.back_up(&vault);
        }
        drop(vault);
        world.remove_catalogue();
        let (pack, at) = world.disk.flip_bit().unwrap();
        let (vault, findings) = world.open();
        let tenant = world.keys.sealing.tenant;
        let ids: Vec<ChunkId> = world.chunks.keys().copied().collect();
        let found = vault.store().read(|c| c.locate(tenant, &ids)).unwrap();
        let lost = found.iter().filter(|f| f.is_none()).count();
        assert!(
            lost <= 1,
            "seed {seed}: one bit at {at} of {pack} cost {lost} chunks"
        );
        assert!(
            lost == 0 || !findings.is_empty(),
            "seed {seed}: a loss was not reported"
        );
        for (id, located) in ids.iter().zip(found) {
            if let Some(located) = located {
                let chunk = vault.store().read_chunk(tenant, *id, located).unwrap();
                assert_eq!(chunk.bytes(), &world.chunks[id]);
            }
        }
    }
}
