//! A disk that fails on command, all from one seed.
//!
//! It keeps what was synced apart from what was written. A crash keeps of each unsynced write
//! any subset of its sectors, cuts or keeps the length, and forgets files whose directory was
//! not synced. Writes can fail with `ENOSPC` or `EIO` after any part of them; so can syncs,
//! after which what was not synced may be gone from the disk though reads still show it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use relevo_wire::TenantId;

use super::{PackId, Volume};

const SECTOR: usize = 512;

/// A small generator, so that a run follows from its seed alone.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any of `0..sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides.max(1)
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }
}

#[derive(Clone, Default)]
struct File {
    /// What reads show.
    shown: Vec<u8>,
    /// What a crash leaves for certain; nothing when the name is not durable yet.
    synced: Option<Vec<u8>>,
    /// Content synced before the name was.
    content_synced: Vec<u8>,
}

/// What goes wrong next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The machine stops: this and all later calls fail until [`SimulatedDisk::crash`].
    Crash,
    /// No space.
    Full,
    /// An I/O error.
    Broken,
}

struct State {
    files: BTreeMap<PackId, File>,
    /// Taken away, which is not durable yet.
    removed: BTreeMap<PackId, File>,
    dice: Dice,
    /// Changes until the fault.
    countdown: Option<(u64, Fault)>,
    down: bool,
    /// Reads that touch these fail.
    unreadable: Option<(PackId, Range<u64>)>,
}

/// The disk.
pub(crate) struct SimulatedDisk(Mutex<State>);

impl SimulatedDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(State {
            files: BTreeMap::new(),
            removed: BTreeMap::new(),
            dice: Dice::new(seed),
            countdown: None,
            down: false,
            unreadable: None,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Plans a fault after some more changes.
    pub(crate) fn plan(&self, after: u64, fault: Fault) {
        self.state().countdown = Some((after, fault));
    }

    /// Cancels a planned fault.
    pub(crate) fn calm(&self) {
        self.state().countdown = None;
    }

    /// Power is cut and comes back.
    pub(crate) fn crash(&self) {
        let mut state = self.state();
        let State {
            files,
            removed,
            dice,
            ..
        } = &mut *state;
        for (pack, file) in std::mem::take(removed) {
            if file.synced.is_some() && dice.once_in(2) {
                files.entry(pack).or_insert(file);
            }
        }
        files.retain(|_, file| file.synced.is_some() || dice.once_in(2));
        for file in files.values_mut() {
            let old = file.synced.clone().unwrap_or_default();
            let mut after = old.clone();
            let most = file.shown.len();
            // Prefixes are what most file systems leave; holes are what the worst ones do.
            let holes = dice.once_in(3);
            let length = match file.shown.len().checked_sub(old.len()) {
                Some(grown) => old.len() + dice.roll(grown as u64 + 1) as usize,
                None => match dice.once_in(2) {
                    true => most,
                    false => old.len(),
                },
            };
            after.resize(length, 0);
            for at in (0..length.min(most)).step_by(SECTOR) {
                let end = (at + SECTOR).min(length).min(most);
                if !holes || dice.once_in(2) {
                    after[at..end].copy_from_slice(&file.shown[at..end]);
                }
            }
            *file = File {
                shown: after.clone(),
                synced: Some(after.clone()),
                content_synced: after,
            };
        }
        state.down = false;
        state.countdown = None;
    }

    /// The process dies and the machine lives: what was written is still shown, though not
    /// durable.
    pub(crate) fn kill(&self) {
        let mut state = self.state();
        state.down = false;
        state.countdown = None;
    }

    /// From now on nobody can read these bytes.
    pub(crate) fn lose(&self, pack: PackId, bytes: Range<u64>) {
        self.state().unreadable = Some((pack, bytes));
    }

    /// Changes one bit of what is durable; which byte of which pack.
    pub(crate) fn flip_bit(&self) -> Option<(PackId, u64)> {
        let mut state = self.state();
        let State { files, dice, .. } = &mut *state;
        let at = dice.roll(files.len() as u64) as usize;
        let (pack, file) = files.iter_mut().nth(at)?;
        let at = dice.roll(file.shown.len() as u64) as usize;
        *file.shown.get_mut(at)? ^= 1 << dice.roll(8);
        Some((*pack, at as u64))
    }
}

impl State {
    /// Called before each change: whether it fails, and how.
    fn next(&mut self) -> Result<(), Fault> {
        if self.down {
            return Err(Fault::Crash);
        }
        match &mut self.countdown {
            Some((0, fault)) => {
                let fault = *fault;
                self.down = fault == Fault::Crash;
                self.countdown = None;
                Err(fault)
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn file(&mut self, pack: PackId) -> io::Result<&mut File> {
        self.files
            .get_mut(&pack)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn error(fault: Fault) -> io::Error {
    match fault {
        Fault::Full => io::ErrorKind::StorageFull.into(),
        Fault::Crash | Fault::Broken => io::Error::other("injected"),
    }
}

impl Volume for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<PackId>> {
        Ok(self.state().files.keys().copied().collect())
    }

    fn create(&self, pack: PackId) -> io::Result<()> {
        let mut state = self.state();
        state.next().map_err(error)?;
        state.files.entry(pack).or_default();
        Ok(())
    }

    fn write_at(&self, pack: PackId, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let failed = state.next();
        let written = match failed {
            Ok(()) => data.len(),
            Err(_) => state.dice.roll(data.len() as u64 + 1) as usize,
        };
        let file = state.file(pack)?;
        let (at, end) = (offset as usize, offset as usize + written);
        if file.shown.len() < end {
            file.shown.resize(end, 0);
        }
        file.shown[at..end].copy_from_slice(&data[..written]);
        failed.map_err(error)
    }

    fn read_at(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        let asked = offset..offset + buf.len() as u64;
        if let Some((lost, bytes)) = &state.unreadable
            && *lost == pack
            && bytes.start < asked.end
            && asked.start < bytes.end
        {
            return Err(io::Error::other("injected"));
        }
        let shown = &state.file(pack)?.shown;
        let from = (offset as usize).min(shown.len());
        let count = buf.len().min(shown.len() - from);
        buf[..count].copy_from_slice(&shown[from..from + count]);
        Ok(count)
    }

    fn length(&self, pack: PackId) -> io::Result<u64> {
        Ok(self.state().file(pack)?.shown.len() as u64)
    }

    fn truncate(&self, pack: PackId, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.next().map_err(error)?;
        state.file(pack)?.shown.truncate(length as usize);
        Ok(())
    }

    fn sync(&self, pack: PackId) -> io::Result<()> {
        let mut state = self.state();
        let failed = state.next();
        let file = state.file(pack)?;
        if failed.is_ok() {
            file.content_synced = file.shown.clone();
            if file.synced.is_some() {
                file.synced = Some(file.shown.clone());
            }
        }
        failed.map_err(error)
    }

    fn remove(&self, pack: PackId) -> io::Result<()> {
        let mut state = self.state();
        state.next().map_err(error)?;
        if let Some(file) = state.files.remove(&pack) {
            state.removed.insert(pack, file);
        }
        Ok(())
    }

    fn sync_directory(&self, tenant: TenantId) -> io::Result<()> {
        let mut state = self.state();
        state.next().map_err(error)?;
        state.removed.retain(|pack, _| pack.tenant != tenant);
        for (_, file) in state
            .files
            .iter_mut()
            .filter(|(pack, _)| pack.tenant == tenant)
        {
            if file.synced.is_none() {
                file.synced = Some(file.content_synced.clone());
            }
        }
        Ok(())
    }
}
