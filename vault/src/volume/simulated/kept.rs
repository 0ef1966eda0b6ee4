//! What a disk keeps of a file: what reads show, and what is left of it when the power is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use relevo_wire::TenantId;

use super::{Dice, SECTOR};
use crate::volume::FileId;

#[derive(Clone, Default)]
pub(super) struct Inode {
    /// What reads show.
    pub(super) shown: Vec<u8>,
    /// What a crash leaves for certain.
    pub(super) synced: Vec<u8>,
    /// Sectors that a failed sync took for written.
    pub(super) forgotten: BTreeSet<usize>,
}

impl Inode {
    fn range(&self, sector: usize) -> Range<usize> {
        let end = (sector + 1) * SECTOR;
        (sector * SECTOR).min(self.shown.len())..end.min(self.shown.len())
    }

    /// All is durable, but for what was taken for that before.
    pub(super) fn sync(&mut self) {
        let mut synced = self.shown.clone();
        for &sector in &self.forgotten {
            for at in self.range(sector) {
                synced[at] = self.synced.get(at).copied().unwrap_or(0);
            }
        }
        self.synced = synced;
    }

    /// Some of what was to become durable is taken for it, and is not.
    pub(super) fn fail_sync(&mut self, dice: &mut Dice) {
        for sector in 0..self.shown.len().div_ceil(SECTOR) {
            let range = self.range(sector);
            if self.synced.get(range.clone()) != self.shown.get(range) && dice.once_in(2) {
                self.forgotten.insert(sector);
            }
        }
    }

    /// What a power cut leaves.
    pub(super) fn crash(&mut self, dice: &mut Dice) {
        let mut after = std::mem::take(&mut self.synced);
        let most = self.shown.len();
        // Prefixes are what most file systems leave; holes are what the worst ones do.
        let holes = dice.once_in(3);
        let length = match most.checked_sub(after.len()) {
            Some(grown) => after.len() + dice.roll(grown as u64 + 1) as usize,
            None => match dice.once_in(2) {
                true => most,
                false => after.len(),
            },
        };
        after.resize(length, 0);
        for at in (0..length.min(most)).step_by(SECTOR) {
            let end = (at + SECTOR).min(length).min(most);
            if !self.forgotten.contains(&(at / SECTOR)) && (!holes || dice.once_in(2)) {
                after[at..end].copy_from_slice(&self.shown[at..end]);
            }
        }
        *self = Self {
            shown: after.clone(),
            synced: after,
            forgotten: BTreeSet::new(),
        };
    }

    /// Memory lets go of what it takes for written: reads show what is on the disk.
    pub(super) fn drop_cached(&mut self) {
        for sector in std::mem::take(&mut self.forgotten) {
            for at in self.range(sector) {
                self.shown[at] = self.synced.get(at).copied().unwrap_or(0);
            }
        }
    }
}

/// Files by name.
pub(super) type Names = BTreeMap<FileId, u64>;

/// A change of names that is not durable yet.
#[derive(Clone, Copy)]
pub(super) enum Change {
    Create(FileId, u64),
    Remove(FileId),
    Rename(FileId, FileId, u64),
}

impl Change {
    pub(super) fn tenant(&self) -> TenantId {
        match self {
            Self::Create(file, _) | Self::Remove(file) | Self::Rename(file, ..) => file.tenant,
        }
    }

    pub(super) fn apply(self, names: &mut Names) {
        match self {
            Self::Create(file, inode) => drop(names.insert(file, inode)),
            Self::Remove(file) => drop(names.remove(&file)),
            Self::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
        }
    }
}
