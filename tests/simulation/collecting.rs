//! Collection of what deleted points leave, as the vault's own task does it, at any time.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use relevo_vault::collect::{Rule, collect};
use relevo_vault::ledger::Deletion;
use relevo_vault::pack::FIRST_ENTRY;
use relevo_vault::retention::points::{Which, set_hold};

use crate::promises::{Hold, State};
use crate::world::World;

/// What may be left of a tenant of which all is deleted, beside the newest pack: enrolments,
/// deletions, holds.
const LEFT: u64 = 64 << 10;

impl World {
    fn rule(&self) -> Rule {
        Rule {
            grace: Duration::from_millis([0, 0, 100, 60_000][self.roll(4) as usize]),
            rewrite_at: [0.0, 0.5, 0.9][self.roll(3) as usize],
            accept_loss: false,
            dry_run: self.once_in(12),
        }
    }

    /// Collects; the disk or the vault may end it anywhere.
    pub fn collect(self: &Arc<Self>) {
        if !self.machine.is_up() {
            return;
        }
        self.tick();
        self.plan_trouble(40);
        let rule = self.rule();
        let done = self
            .machine
            .with(move |vault| collect(vault.store(), &rule, &AtomicBool::new(false)));
        let Some(done) = done else { return };
        self.note(format_args!("collected: {done:?}"));
        if self.look_at_disk()
            && let Err(error) = done
        {
            let may = self.fates.failures || self.promises().ever_damaged;
            assert!(may, "a collection fails though nothing befell it: {error}");
        }
    }

    /// Deletes every point there is. False when one is locked, and stays.
    pub fn delete_all(self: &Arc<Self>) -> bool {
        self.tick();
        let points: Vec<_> = {
            let promises = self.promises();
            let all = promises.points.iter();
            all.filter(|(_, promise)| promise.state != State::Deleted)
                .map(|(id, promise)| (*id, promise.server))
                .collect()
        };
        let mut all = true;
        for (point, server) in points {
            let tenant = self.tenants[self.servers[server].tenant].id();
            let deleted = self.machine.with(move |vault| {
                let which = Which {
                    server: None,
                    point: point.to_string(),
                };
                // Of a point that is not there, as of one without a hold, there is none.
                let _ = set_hold(vault.store(), &which, false, "dice", "local");
                let deletion = Deletion {
                    point,
                    by: "local".into(),
                    reason: "the end".into(),
                    latest_too: true,
                };
                vault.store().delete_blocking(tenant, vec![deletion])
            });
            let deleted = deleted.unwrap().unwrap().remove(0);
            let there = !matches!(deleted, Err(relevo_vault::ledger::Kept::Unknown));
            let mut promises = self.promises();
            let Some(promise) = promises.points.get_mut(&point) else {
                continue;
            };
            promise.held = Hold::Free;
            match deleted {
                Ok(()) => promise.state = State::Deleted,
                Err(_) if !there => {}
                Err(kept) => {
                    self.note(format_args!("point {point} stays: {kept:?}"));
                    all = false;
                }
            }
        }
        all
    }

    /// Collects with no faults and no grace. `empty`: nothing is left that anybody needs, so that
    /// all space comes back.
    pub fn collect_all(self: &Arc<Self>, empty: bool) {
        self.tick();
        let rule = Rule {
            grace: Duration::ZERO,
            rewrite_at: 0.5,
            accept_loss: true,
            dry_run: false,
        };
        let done = self
            .machine
            .with(move |vault| collect(vault.store(), &rule, &AtomicBool::new(false)));
        let report = done.unwrap().unwrap();
        self.note(format_args!("collected in the end: {report:?}"));
        // What a crash left, and a catalogue that was lost cannot tell from damage, keeps its pack.
        if !empty || !report.damage.is_empty() {
            return;
        }
        assert_eq!(report.waiting, 0, "chunks stay that nothing refers to");
        for tenant in &self.tenants {
            let id = tenant.id();
            let packs = self
                .machine
                .with(move |vault| vault.store().read(|c| c.pack_use(id)));
            let mut packs = packs.unwrap().unwrap();
            packs.sort_by_key(|pack| pack.number);
            packs.pop();
            let left: u64 = packs.iter().map(|pack| pack.length - FIRST_ENTRY).sum();
            assert!(left < LEFT, "{left} bytes are left of nothing: {packs:?}");
        }
    }
}
