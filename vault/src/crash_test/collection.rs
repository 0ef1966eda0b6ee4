//! Deletions and collections in a vault whose disk crashes, fills up and fails.
//!
//! Guards: every acknowledged point that nobody asked to delete is listed and whole, whatever
//! was collected; none whose deletion was acknowledged comes back; the space of what was deleted
//! does. With the catalogue as it was, older, or gone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use relevo_wire::PointId;

use super::world::{ROLL_AT, Simulated, World, live_all};
use crate::collect::{Report, Rule, collect};
use crate::completeness;
use crate::error::StoreError;
use crate::ledger::Deletion;
use crate::pack::FIRST_ENTRY;
use crate::volume::Volume;
use crate::volume::simulated::Fault;

/// What became of the points of a world that collects.
#[derive(Default)]
struct Ends {
    /// Deletions that were asked for, whatever came of it.
    asked: HashSet<PointId>,
    /// Those that were acknowledged.
    deleted: HashSet<PointId>,
}

impl Ends {
    /// Deletes a point that was acknowledged.
    fn delete(&mut self, world: &mut World, vault: &Simulated) -> Result<(), StoreError> {
        let left: Vec<PointId> = {
            let mut left: Vec<_> = world.points.difference(&self.asked).copied().collect();
            left.sort_unstable();
            left
        };
        let Some(&point) = left.get(world.dice.roll(left.len() as u64) as usize) else {
            return Ok(());
        };
        let wanted = Deletion {
            point,
            by: "local".into(),
            reason: "test".into(),
            latest_too: true,
        };
        self.asked.insert(point);
        let tenant = world.keys.sealing.tenant;
        let done = vault.store().delete_blocking(tenant, vec![wanted])?;
        assert_eq!(done, vec![Ok(())]);
        self.deleted.insert(point);
        Ok(())
    }

    /// Everything that was promised holds.
    fn check(&self, world: &World, vault: &Simulated, context: &str) {
        let tenant = world.keys.sealing.tenant;
        let listed = vault
            .store()
            .read(|c| c.points(tenant, world.server, None, 10_000))
            .unwrap();
        let ids: HashSet<PointId> = listed.iter().map(|p| p.manifest.point).collect();
        for point in world.points.difference(&self.asked) {
            assert!(
                ids.contains(point),
                "{context}: recovery point {point} is lost"
            );
        }
        for point in &self.deleted {
            assert!(!ids.contains(point), "{context}: {point} came back");
        }
        assert!(
            ids.is_subset(&world.asked),
            "{context}: a point out of nothing"
        );
        for point in listed {
            let mut shelf = world.walk(vault);
            let faults = completeness::faults(&mut shelf, &point.manifest, 10).unwrap();
            assert_eq!(faults, vec![], "{context}: a listed point is not whole");
        }
    }
}

/// A world in which chunks may go.
fn collecting(seed: u64) -> World {
    World {
        collects: true,
        ..World::new(seed)
    }
}

fn rule() -> Rule {
    Rule {
        grace: Duration::ZERO,
        rewrite_at: 0.5,
        accept_loss: false,
        dry_run: false,
    }
}

fn collect_all(vault: &Simulated) -> Result<Report, StoreError> {
    // What became garbage in this millisecond is not older than it.
    std::thread::sleep(Duration::from_millis(2));
    collect(vault.store(), &rule(), &AtomicBool::new(false))
}

/// Bytes of entries that packs hold in all.
fn used(world: &World) -> u64 {
    let packs = world.disk.list().unwrap();
    packs
        .into_iter()
        .map(|pack| world.disk.length(pack).unwrap().saturating_sub(FIRST_ENTRY))
        .sum()
}

fn live_collect_and_crash(seed: u64) {
    let mut world = collecting(seed);
    let mut ends = Ends::default();
    let mut fresh = true;
    for life in 0..5 {
        let context = format!("seed {seed}, life {life}");
        let (vault, findings) = world.open();
        for finding in &findings {
            assert!(fresh || !finding.is_damage(), "{context}: {finding}");
        }
        ends.check(&world, &vault, &context);
        let after = world.dice.roll(90);
        world.disk.plan(after, Fault::Crash);
        for _ in 0..14 {
            let done = match world.dice.roll(5) {
                0..2 => world.back_up(&vault).map_err(drop),
                2 => ends.delete(&mut world, &vault).map_err(drop),
                _ => collect_all(&vault).map(drop).map_err(drop),
            };
            if done.is_err() {
                break;
            }
            if world.dice.once_in(6) {
                world.snapshot();
            }
        }
        drop(vault);
        match world.dice.once_in(2) {
            true => world.disk.kill(),
            false => world.disk.crash(),
        }
        fresh = world.age_catalogue();
    }
    world.disk.calm();
    let (vault, _) = world.open();
    // Unfinished bytes of a pack that is not the newest pass for damage when the catalogue that
    // knew better is lost.
    let tenant = world.keys.sealing.tenant;
    let damage = !vault.store().read(|c| c.losses(tenant)).unwrap().is_empty();
    let context = format!("seed {seed}, the end");
    ends.check(&world, &vault, &context);
    while world.points.difference(&ends.asked).count() > 0 {
        ends.delete(&mut world, &vault).unwrap();
    }
    let report = collect_all(&vault).unwrap();
    assert!(
        damage || report.held_back.is_empty(),
        "{context}: {report:?}"
    );
    assert!(damage || report.damage.is_empty(), "{context}: {report:?}");
    ends.check(&world, &vault, &context);
    if damage {
        return;
    }
    // Points whose commit was never answered may live; beside them, one pack and a half.
    let listed = vault
        .store()
        .read(|c| c.points(tenant, world.server, None, 10_000));
    if listed.unwrap().is_empty() {
        let left = used(&world);
        assert!(left < 2 * ROLL_AT, "{context}: {left} bytes are left");
    }
}

#[test]
fn collections_lose_nothing_and_bring_nothing_back_in_any_crash() {
    live_all(150, live_collect_and_crash);
}

/// Guards against a collection that loses something when the disk is full or fails under it.
#[test]
fn collections_survive_full_and_failing_disks() {
    for seed in 0..60 {
        let mut world = collecting(seed);
        let mut ends = Ends::default();
        let (vault, _) = world.open();
        for round in 0..12 {
            let fault = match seed % 2 {
                0 => Fault::Full,
                _ => Fault::Broken,
            };
            let _ = world.back_up(&vault);
            let after = world.dice.roll(12);
            world.disk.plan(after, fault);
            let _ = ends.delete(&mut world, &vault);
            let _ = collect_all(&vault);
            world.disk.calm();
            ends.check(&world, &vault, &format!("seed {seed}, round {round}"));
        }
        drop(vault);
        world.disk.crash();
        let (vault, findings) = world.open();
        assert!(
            findings.iter().all(|f| !f.is_damage()),
            "seed {seed}: {findings:?}"
        );
        ends.check(&world, &vault, &format!("seed {seed}, opened again"));
        collect_all(&vault).unwrap();
        ends.check(&world, &vault, &format!("seed {seed}, collected"));
    }
}

/// Guards uploads beside a collection that never rests: they are committed, whole.
#[test]
fn uploads_go_on_beside_collections() {
    let mut world = collecting(77);
    let (vault, _) = world.open();
    world.disk.calm();
    let mut ends = Ends::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let mut removed = 0;
            while !stop.load(Ordering::Relaxed) {
                removed += collect(vault.store(), &rule(), &stop)
                    .unwrap()
                    .chunks_removed;
            }
            removed
        });
        for round in 0..60 {
            world.back_up(&vault).unwrap();
            ends.delete(&mut world, &vault).unwrap();
            if round % 10 == 0 {
                ends.check(&world, &vault, &format!("round {round}"));
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(collecting.join().unwrap() > 0);
    });
    ends.check(&world, &vault, "afterwards");
}
