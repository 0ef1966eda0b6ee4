//! Parity, and healing of what rot took, as the vault's own thread sees to both.

use std::sync::Arc;
use std::time::Duration;

use relevo_vault::error::StoreError;
use relevo_vault::heal::{Healed, Healer};
use relevo_vault::scrub;
use relevo_vault::volume::{FileId, Volume};
use tokio::time::sleep;

use crate::serve::SimulatedVault;
use crate::world::World;

impl World {
    /// Writes the parity of packs that are closed; the disk or the vault may end it anywhere.
    pub fn protect(self: &Arc<Self>) {
        if !self.machine.is_up() {
            return;
        }
        self.tick();
        self.plan_trouble(40);
        let done = self.machine.with(|vault| {
            let Some(parity) = vault.settings().now().parity else {
                return Ok(0);
            };
            let shape = (parity.data.get().into(), parity.parity.get().into());
            scrub::protect(vault.store(), vault.id(), shape)
        });
        let Some(done) = done else { return };
        self.note(format_args!("parity formed: {done:?}"));
        self.excuse_failure("parity", &done);
    }

    /// Reads every file and heals what is found, file by file with the rest of the world beside
    /// it. Of damage within what parity heals all is as it was then, and nothing is excused any
    /// more.
    pub async fn heal(self: &Arc<Self>, give_up: bool) {
        if !self.machine.is_up() {
            return;
        }
        self.plan_trouble(60);
        let (life, mut done) = (self.machine.life(), Vec::new());
        let files = self.machine.with(|vault| {
            let volume = &**vault.store().volume();
            let files = vault.store().read(|c| scrub::files(volume, vault.id(), c));
            files.unwrap_or_else(|e| panic!("files cannot be listed: {e}"))
        });
        let steps = files.into_iter().flatten().map(|due| Some(due.file));
        for step in steps.chain([None]) {
            self.tick();
            let healed = self.machine.with(move |vault| match step {
                Some(file) => check(vault, file, give_up),
                None => healer(vault, give_up).map(Some),
            });
            let Some(healed) = healed.filter(|_| self.machine.life() == life) else {
                self.note(format_args!("the vault fell in the midst of healing"));
                return;
            };
            if !self.excuse_failure("healing", &healed) {
                self.note(format_args!("healing ended: {healed:?}"));
                return;
            }
            done.extend(healed.ok().flatten());
            if self.is_stormy() && self.once_in(4) {
                sleep(Duration::from_millis(self.roll(60))).await;
            }
        }
        self.note(format_args!("healed: {done:?}"));
        if done.iter().any(|healed| !healed.failures.is_empty()) && self.may_trouble() {
            return;
        }
        if self.fates.rots_within_parity() {
            for healed in &done {
                assert_eq!(healed.failures, [""; 0], "nothing befell it");
                assert_eq!(healed.forgotten, 0, "parity was there for it: {healed:?}");
            }
            self.promises().heal();
        }
        // It may have fallen since the last file.
        if self.machine.life() == life {
            self.check("after healing");
        }
    }

    /// What a vault does first that is started: an older catalogue may not know of what was healed.
    pub fn heal_first(self: &Arc<Self>) {
        let healed = self.machine.with(|vault| healer(vault, false));
        self.note(format_args!("healed after the start: {healed:?}"));
    }

    /// The disk may fail.
    fn may_trouble(&self) -> bool {
        self.fates.failures && self.is_stormy()
    }

    /// False when it ended before its time, for which there must be a reason.
    fn excuse_failure<T>(self: &Arc<Self>, what: &str, done: &Result<T, StoreError>) -> bool {
        if !self.look_at_disk() {
            return false;
        }
        if let Err(error) = done {
            assert!(
                self.may_trouble(),
                "{what} fails though nothing befell it: {error}"
            );
        }
        done.is_ok()
    }

    /// Every file is as it should be; nothing waits to be healed, but chunks that were damaged
    /// and that no server has any more.
    pub fn nothing_is_damaged(self: &Arc<Self>) {
        let mut all = true;
        for tenant in self.tenants.iter().map(|tenant| tenant.id()) {
            let left = self
                .machine
                .with(move |vault| vault.store().read(|c| c.open_losses(tenant)));
            // Older points may need what nobody has any more.
            let mut left = left.unwrap().unwrap();
            all &= left.is_empty();
            left.retain(|loss| !loss.id.is_some_and(|id| self.excuses(id)));
            assert!(left.is_empty(), "after healing this is left: {left:?}");
        }
        if !all {
            return;
        }
        let intact = self.machine.with(|vault| {
            let volume = vault.store().volume().clone();
            let files = vault
                .store()
                .read(|c| scrub::files(&*volume, vault.id(), c));
            let mut files = files.unwrap().into_iter().map(|due| due.file);
            files.find(|file| {
                volume.drop_cached(*file);
                !scrub::check(vault.store(), vault.id(), *file, || {}).unwrap()
            })
        });
        assert_eq!(intact.flatten(), None, "damage is left after healing");
    }
}

/// One file, read from the disk; what healing did when there was a reason to heal.
fn check(
    vault: &SimulatedVault,
    file: FileId,
    give_up: bool,
) -> Result<Option<Healed>, StoreError> {
    let store = vault.store();
    store.volume().drop_cached(file);
    let mut healed = Ok(None);
    scrub::check(store, vault.id(), file, || {
        healed = healer(vault, give_up).map(Some);
    })?;
    healed
}

fn healer(vault: &SimulatedVault, give_up: bool) -> Result<Healed, StoreError> {
    let healer = Healer {
        store: vault.store(),
        vault: vault.id(),
        heal_from: &[],
        give_up,
    };
    healer.heal()
}
