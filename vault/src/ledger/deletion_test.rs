//! What the guard lets go, whatever is done to clocks, settings and catalogue.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use relevo_wire::identity::Authority;
use relevo_wire::key::OpeningKeys;
use relevo_wire::message::{Request, Response};
use relevo_wire::{PointId, ServerId, TenantId, Timestamp, VaultId};

use super::{Deletion, Kept};
use crate::clock::{SetClock, VaultTime};
use crate::error::StoreError;
use crate::fixture::{clear, manifest, memory};
use crate::ingest::{Outcome, Peer, Vault};
use crate::record::{ClockRecord, DeletionRecord, Record};
use crate::retention::points::{self, Which};
use crate::retention::prune::{Scope, prune};
use crate::settings::{Settings, SettingsWatch, Span};
use crate::store::Store;
use crate::volume::simulated::SimulatedDisk;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// A vault on a simulated disk, with a boot clock that the test sets.
struct World {
    disk: Arc<SimulatedDisk>,
    boot: Arc<SetClock>,
    id: VaultId,
    keys: OpeningKeys,
    server: ServerId,
    dir: tempfile::TempDir,
    taken: i64,
}

type Simulated = Vault<SimulatedDisk>;

impl World {
    fn new() -> Self {
        Self {
            disk: Arc::new(SimulatedDisk::new(1)),
            boot: Arc::default(),
            id: VaultId::random(),
            keys: OpeningKeys::generate().unwrap(),
            server: ServerId::random(),
            dir: memory(),
            taken: 1_700_000_000_000,
        }
    }

    fn tenant(&self) -> TenantId {
        self.keys.sealing.tenant
    }

    fn catalogue(&self) -> PathBuf {
        self.dir.path().join("catalogue.sqlite")
    }

    fn open(&self, settings: &str) -> Simulated {
        let (disk, boot) = (self.disk.clone(), self.boot.clone());
        let opened = Store::open_timed(disk, self.id, &self.catalogue(), 1 << 20, Some(boot));
        let settings = SettingsWatch::fixed(Settings::parse(settings).unwrap());
        let authority = Authority::from_der(Vec::new(), Vec::new());
        Vault::new(self.id, opened.unwrap().0, authority).with_settings(Arc::new(settings))
    }

    /// Only packs and what they say are left.
    fn lose_catalogue(&self) {
        clear(self.dir.path());
    }

    /// Commits an image of no disks, a day after the one before.
    fn commit(&mut self, vault: &Simulated) -> PointId {
        self.taken += DAY as i64;
        let taken = Timestamp::from_millis(self.taken);
        let manifest = manifest(&self.keys, self.server, taken, None);
        let point = manifest.public().unwrap().point;
        let peer = Peer::Agent(self.tenant(), self.server);
        let session = match vault.answer(peer, Request::OpenSession) {
            Ok(Outcome::Answer(Response::SessionOpened { session })) => session,
            other => panic!("{other:?}"),
        };
        match vault.answer(peer, Request::Commit { session, manifest }) {
            Ok(Outcome::Answer(Response::Committed { .. })) => point,
            other => panic!("{other:?}"),
        }
    }

    fn delete(&self, vault: &Simulated, point: PointId) -> Result<(), Kept> {
        let deletion = Deletion {
            point,
            by: "local".into(),
            reason: "test".into(),
            latest_too: false,
        };
        let done = vault.store().delete_blocking(self.tenant(), vec![deletion]);
        done.unwrap().pop().unwrap()
    }

    fn listed(&self, vault: &Simulated) -> Vec<PointId> {
        let listed = vault.store().read(|c| c.images()).unwrap();
        listed.into_iter().map(|image| image.point).collect()
    }

    fn alter(&self, sql: &str) {
        let db = rusqlite::Connection::open(self.catalogue()).unwrap();
        db.execute_batch(sql).unwrap();
    }
}

fn which(point: PointId) -> Which {
    Which {
        server: None,
        point: point.to_string(),
    }
}

fn is_locked(done: Result<(), Kept>) -> bool {
    matches!(done, Err(Kept::Locked { .. }))
}

/// Guards immutability from the commit on: the settings gone, the machine booted again, the
/// catalogue made anew, crashes; only time that the vault ran ends the lock.
#[test]
fn a_lock_from_the_commit_ends_by_running_time_alone() {
    let mut world = World::new();
    let vault = world.open("[immutability]\ndays = 2");
    let point = world.commit(&vault);
    world.commit(&vault);
    assert!(is_locked(world.delete(&vault, point)));
    world.boot.set(47 * HOUR);
    vault.store().note_clock(None).unwrap();
    drop(vault);

    // No settings any more, no catalogue, and a boot clock that starts anew.
    world.disk.crash();
    world.lose_catalogue();
    world.boot.set(5);
    let vault = world.open("");
    assert_eq!(vault.store().vault_time().as_millis(), 47 * HOUR);
    assert!(is_locked(world.delete(&vault, point)));
    drop(vault);
    // A boot clock that says that years have passed while the vault did not run.
    world.boot.set(9000 * DAY);
    let vault = world.open("");
    assert!(is_locked(world.delete(&vault, point)));
    world.boot.set(9000 * DAY + HOUR - 1);
    assert!(is_locked(world.delete(&vault, point)));
    // And one that goes back.
    world.boot.set(0);
    assert!(is_locked(world.delete(&vault, point)));
    world.boot.set(9000 * DAY + HOUR);
    assert_eq!(world.delete(&vault, point), Ok(()));
    assert!(!world.listed(&vault).contains(&point));
}

/// Guards locks against the wall clock: what it says stands in entries and moves nothing.
#[test]
fn the_wall_clock_ends_no_lock() {
    let mut world = World::new();
    let vault = world.open("[immutability]\ndays = 1");
    let point = world.commit(&vault);
    world.commit(&vault);
    for wall in [i64::MIN, 0, 4_000_000_000_000, i64::MAX] {
        let clock = ClockRecord {
            time: VaultTime::from_millis(1),
            wall: Timestamp::from_millis(wall),
            audit_entries: 0,
            audit_head: [0; 32],
        };
        let records = vec![Record::Clock(clock)];
        vault
            .store()
            .append_blocking(world.tenant(), records)
            .unwrap();
    }
    drop(vault);
    for _ in 0..2 {
        let vault = world.open("");
        assert!(vault.store().vault_time().as_millis() < DAY);
        assert!(is_locked(world.delete(&vault, point)));
        drop(vault);
        world.lose_catalogue();
    }
}

/// Guards locks against somebody who writes into the catalogue.
#[test]
fn an_altered_catalogue_opens_no_lock_of_the_commit() {
    let mut world = World::new();
    let vault = world.open("[immutability]\ndays = 1");
    let point = world.commit(&vault);
    let later = world.commit(&vault);
    world.alter("UPDATE points SET locked = 0");
    assert!(is_locked(world.delete(&vault, point)));
    // Another point's entry passed off as this one's.
    world.alter(&format!(
        "UPDATE points SET pack = (SELECT pack FROM points WHERE id = x'{later}'),
           offset = (SELECT offset FROM points WHERE id = x'{later}') WHERE id = x'{point}'"
    ));
    let done = world.delete(&vault, point);
    assert!(matches!(done, Err(Kept::Unreadable { .. })), "{done:?}");
    drop(vault);
    world.lose_catalogue();
    let vault = world.open("");
    assert!(is_locked(world.delete(&vault, point)));
}

/// Guards vault time against the same: only what an entry of a pack says counts.
#[test]
fn an_altered_catalogue_moves_no_vault_time() {
    let mut world = World::new();
    let vault = world.open("[immutability]\ndays = 1");
    let point = world.commit(&vault);
    world.commit(&vault);
    world.boot.set(HOUR);
    vault.store().note_clock(None).unwrap();
    world.boot.set(2 * HOUR);
    vault.store().note_clock(None).unwrap();
    drop(vault);
    for sql in [
        "UPDATE clocks SET time = 9000000000000",
        "UPDATE clock_places SET time = 9000000000000",
        "UPDATE clock_places SET offset = offset - 16",
    ] {
        world.alter(sql);
        let vault = world.open("");
        assert!(vault.store().vault_time().as_millis() <= 2 * HOUR, "{sql}");
        assert!(is_locked(world.delete(&vault, point)), "{sql}");
    }
    world.lose_catalogue();
    let vault = world.open("");
    assert_eq!(vault.store().vault_time().as_millis(), 2 * HOUR);
}

/// Guards locks that are given later: lengthened only, and back from the packs.
#[test]
fn a_lock_can_be_lengthened_and_never_shortened() {
    let mut world = World::new();
    let vault = world.open("");
    let point = world.commit(&vault);
    world.commit(&vault);
    let lock = |vault: &Simulated, hours| {
        points::lock(
            vault.store(),
            &which(point),
            Span::from_hours(hours),
            "local",
        )
    };
    lock(&vault, 10).unwrap();
    assert!(lock(&vault, 9).is_err());
    lock(&vault, 20).unwrap();
    assert_eq!(points::locks(vault.store()).unwrap().len(), 1);
    world.boot.set(19 * HOUR);
    assert!(is_locked(world.delete(&vault, point)));
    vault.store().note_clock(None).unwrap();
    drop(vault);
    world.lose_catalogue();
    let vault = world.open("");
    assert!(is_locked(world.delete(&vault, point)));
    world.boot.set(20 * HOUR);
    assert_eq!(world.delete(&vault, point), Ok(()));
    assert!(points::locks(vault.store()).unwrap().is_empty());
}

/// Guards holds: until released, whatever the policy, also when the wall clock was set back
/// between hold and release, and when the catalogue is made anew.
#[test]
fn a_held_point_stays_until_released() {
    let mut world = World::new();
    let vault = world.open("[retention]\nkeep-last = 1");
    let point = world.commit(&vault);
    world.commit(&vault);
    let hold = |vault: &Simulated, held| {
        points::set_hold(vault.store(), &which(point), held, "court", "local")
    };
    assert!(hold(&vault, false).is_err(), "nothing to release");
    hold(&vault, true).unwrap();
    let settings = vault.settings().now();
    let pruned = prune(
        vault.store(),
        &settings,
        &Scope::default(),
        "retention",
        false,
    )
    .unwrap();
    assert!(pruned.deleted.is_empty());
    assert!(matches!(world.delete(&vault, point), Err(Kept::Held { reason }) if reason == "court"));
    drop(vault);
    world.lose_catalogue();
    let vault = world.open("[retention]\nkeep-last = 1");
    assert!(matches!(
        world.delete(&vault, point),
        Err(Kept::Held { .. })
    ));
    world.alter("UPDATE holds SET changed = 9000000000000");
    hold(&vault, false).unwrap();
    let pruned = prune(
        vault.store(),
        &settings,
        &Scope::default(),
        "retention",
        false,
    )
    .unwrap();
    assert_eq!(pruned.deleted, [point]);
}

/// Guards deletions: durable with the answer, known to a new catalogue, by the guard only.
#[test]
fn a_deletion_is_durable_and_has_one_door() {
    let mut world = World::new();
    let vault = world.open("");
    let point = world.commit(&vault);
    let latest = world.commit(&vault);
    let forged = Record::Deletion(DeletionRecord {
        point,
        server: world.server,
        deleted: Timestamp::now(),
        by: "agent".into(),
        reason: "by the back door".into(),
        highest: 1,
    });
    let tenant = world.tenant();
    let done = vault.store().append_blocking(tenant, vec![forged]);
    assert!(matches!(done, Err(StoreError::Storage(_))), "{done:?}");
    assert_eq!(world.delete(&vault, latest), Err(Kept::Latest));
    assert_eq!(world.delete(&vault, point), Ok(()));
    assert_eq!(world.delete(&vault, point), Err(Kept::Unknown));
    drop(vault);
    for lose in [false, true] {
        world.disk.crash();
        if lose {
            world.lose_catalogue();
        }
        let vault = world.open("");
        assert_eq!(world.listed(&vault), [latest]);
        let deleted = vault.store().read(|c| c.was_deleted(tenant, point));
        assert!(deleted.unwrap(), "its id may not be used again");
    }
    let vault = world.open("");
    points::delete(
        vault.store(),
        &which(latest),
        "decommissioned",
        true,
        "local",
    )
    .unwrap();
    assert!(world.listed(&vault).is_empty());
}

/// Guards the policy's way: what goes is what the plan says, of many points too.
#[test]
fn a_policy_is_applied_to_many_points() {
    let mut world = World::new();
    let vault = world.open("[retention]\nkeep-last = 7");
    let points: Vec<PointId> = (0..600).map(|_| world.commit(&vault)).collect();
    let settings = vault.settings().now();
    let scope = Scope::default();
    let dry = prune(vault.store(), &settings, &scope, "retention", true).unwrap();
    assert_eq!(dry.servers[0].going().count(), 593);
    assert_eq!(world.listed(&vault).len(), 600);
    let pruned = prune(vault.store(), &settings, &scope, "retention", false).unwrap();
    assert_eq!(pruned.deleted.len(), 593);
    assert_eq!(world.listed(&vault), points[593..]);
    let again = prune(vault.store(), &settings, &scope, "retention", false).unwrap();
    assert!(again.deleted.is_empty());
}
