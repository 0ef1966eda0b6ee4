//! Deletions, holds and locks, as the vault's own commands ask for them.

use std::sync::Arc;
use std::time::Duration;

use relevo_vault::ledger::{Deletion, Kept};
use relevo_vault::retention::points::{Which, lock, set_hold};
use relevo_vault::settings::Span;
use relevo_wire::PointId;

use crate::promises::{Hold, State};
use crate::world::World;

impl World {
    /// A point that stands, and a vault to ask.
    fn some_point(&self) -> Option<PointId> {
        let standing = self.promises().standing();
        match standing.is_empty() || !self.machine.is_up() {
            true => None,
            false => Some(standing[self.roll(standing.len() as u64) as usize]),
        }
    }

    /// Whatever the vault did, its disk may have stopped in the middle of it.
    pub fn look_at_disk(self: &Arc<Self>) -> bool {
        let down = self.machine.disk.is_down();
        if down {
            self.vault_fell();
        }
        !down
    }

    /// Deletes a point, which the guard may refuse for a reason that there is.
    pub fn delete(self: &Arc<Self>) {
        let Some(point) = self.some_point() else {
            return;
        };
        self.tick();
        let latest_too = self.once_in(2);
        let tenant = {
            let mut promises = self.promises();
            let Some(promise) = promises.points.get_mut(&point) else {
                return;
            };
            promise.state = State::DeletionAsked;
            self.tenants[self.servers[promise.server].tenant].id()
        };
        let deletion = Deletion {
            point,
            by: "local".into(),
            reason: "dice".into(),
            latest_too,
        };
        let done = self
            .machine
            .with(move |vault| vault.store().delete_blocking(tenant, vec![deletion]));
        let done = match done {
            Some(Ok(done)) if self.look_at_disk() => done.into_iter().next(),
            _ => {
                self.look_at_disk();
                self.note(format_args!(
                    "point {point}: nobody knows whether it is deleted"
                ));
                return;
            }
        };
        self.note(format_args!("point {point} is to be deleted: {done:?}"));
        let now = self.now();
        let mut promises = self.promises();
        let damaged = promises.damaged;
        let Some(promise) = promises.points.get_mut(&point) else {
            return;
        };
        match done {
            Some(Ok(())) => {
                assert!(
                    promise.held != Hold::Held,
                    "a held point was deleted: {point}"
                );
                assert!(
                    now >= promise.locked_until,
                    "a locked point was deleted {} ms too early: {point}",
                    promise.locked_until - now
                );
                promise.state = State::Deleted;
            }
            Some(Err(kept)) => {
                promise.state = State::Acknowledged;
                let reason = match kept {
                    Kept::Locked { .. } => promise.locked_until > 0,
                    Kept::Held { .. } => promise.held != Hold::Free,
                    Kept::Latest => !latest_too,
                    Kept::Unknown | Kept::Unreadable { .. } => damaged,
                };
                assert!(reason, "a point is kept without a reason: {kept:?}");
            }
            None => panic!("a deletion was not answered"),
        }
    }

    /// Holds a point, or releases it.
    pub fn hold(self: &Arc<Self>) {
        let Some(point) = self.some_point() else {
            return;
        };
        self.tick();
        let before = self.promises().points[&point].held;
        let held = before == Hold::Free;
        let asked = self.machine.with(move |vault| {
            set_hold(vault.store(), &which(point), held, "dice", "local").is_ok()
        });
        let done = asked == Some(true) && self.look_at_disk();
        self.look_at_disk();
        self.note(format_args!("point {point}: hold {held}: {done}"));
        if let Some(promise) = self.promises().points.get_mut(&point) {
            promise.held = match (done, held) {
                (false, _) => Hold::Unknown,
                (true, true) => Hold::Held,
                (true, false) => Hold::Free,
            };
        }
    }

    /// Locks a point.
    pub fn lock(self: &Arc<Self>) {
        let Some(point) = self.some_point() else {
            return;
        };
        self.tick();
        let hours = 1 + self.roll(30);
        let length = Span::from_hours(hours);
        let asked = self
            .machine
            .with(move |vault| lock(vault.store(), &which(point), length, "local").is_ok());
        let done = asked == Some(true) && self.look_at_disk();
        self.look_at_disk();
        self.note(format_args!("point {point}: locked for {hours} h: {done}"));
        let until = self.now() + hours * 3_600_000;
        if let Some(promise) = self.promises().points.get_mut(&point) {
            match done {
                true => promise.locked_until = promise.locked_until.max(until),
                // Perhaps it is: then it may be kept for that.
                false => promise.locked_until = promise.locked_until.max(1),
            }
        }
    }

    /// Hours go by, and the vault notes its time as it does while it runs.
    pub async fn wait(self: &Arc<Self>) {
        let hours = 1 + self.roll(20);
        self.note(format_args!("{hours} hours go by"));
        for _ in 0..hours.min(4) {
            tokio::time::sleep(Duration::from_secs(3600 * hours.div_ceil(4))).await;
            self.tick();
            let noted = self.machine.with(|vault| vault.store().note_clock(None));
            if noted.is_none() || !self.look_at_disk() {
                return;
            }
        }
    }
}

fn which(point: PointId) -> Which {
    Which {
        server: None,
        point: point.to_string(),
    }
}
