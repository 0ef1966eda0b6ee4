//! A disk that fails on command, all from one seed.
//!
//! It keeps what was synced apart from what was written. A crash keeps of each unsynced write
//! any subset of its sectors, cuts or keeps the length, and undoes any of the changes of names
//! whose directory was not synced. Writes can fail with `ENOSPC` or `EIO` after any part of
//! them; so can syncs, after which some of what was not synced is taken for written: reads show
//! it, later syncs pass over it, and a crash loses it, unless it is written again. Sectors can be made unreadable until they are written again, files lost.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use relevo_wire::TenantId;

use super::{FileId, Volume};

const SECTOR: usize = 512;

/// A small generator, so that a run follows from its seed alone.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Rolls that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any of `0..sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides.max(1)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }
}

#[derive(Clone, Default)]
struct Inode {
    /// What reads show.
    shown: Vec<u8>,
    /// What a crash leaves for certain.
    synced: Vec<u8>,
    /// Sectors that a failed sync took for written.
    forgotten: BTreeSet<usize>,
}

impl Inode {
    fn range(&self, sector: usize) -> Range<usize> {
        let end = (sector + 1) * SECTOR;
        (sector * SECTOR).min(self.shown.len())..end.min(self.shown.len())
    }

    fn sync(&mut self) {
        let mut synced = self.shown.clone();
        for &sector in &self.forgotten {
            for at in self.range(sector) {
                synced[at] = self.synced.get(at).copied().unwrap_or(0);
            }
        }
        self.synced = synced;
    }

    fn fail_sync(&mut self, dice: &mut Dice) {
        for sector in 0..self.shown.len().div_ceil(SECTOR) {
            let range = self.range(sector);
            if self.synced.get(range.clone()) != self.shown.get(range) && dice.once_in(2) {
                self.forgotten.insert(sector);
            }
        }
    }
}

type Names = BTreeMap<FileId, u64>;

/// A change of names that is not durable yet.
#[derive(Clone, Copy)]
enum Change {
    Create(FileId, u64),
    Remove(FileId),
    Rename(FileId, FileId, u64),
}

impl Change {
    fn tenant(&self) -> TenantId {
        match self {
            Self::Create(file, _) | Self::Remove(file) | Self::Rename(file, ..) => file.tenant,
        }
    }

    fn apply(self, names: &mut Names) {
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

/// What goes wrong next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops: this and all later calls fail until [`SimulatedDisk::crash`].
    Crash,
    /// No space.
    Full,
    /// An I/O error.
    Broken,
    /// I/O errors from there on, until the process is started anew.
    Failing,
}

struct State {
    inodes: BTreeMap<u64, Inode>,
    /// What is seen.
    names: Names,
    /// What a crash leaves, but for `pending`.
    durable: Names,
    pending: Vec<Change>,
    next_inode: u64,
    dice: Dice,
    /// Changes until the fault.
    countdown: Option<(u64, Fault)>,
    down: bool,
    /// Reads that touch these fail.
    unreadable: Vec<(u64, Range<u64>)>,
    /// Bytes that all files together may have.
    room: Option<u64>,
    /// Changes so far, failed ones included.
    changes: u64,
}

/// The disk.
pub struct SimulatedDisk(Mutex<State>);

impl SimulatedDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(State {
            inodes: BTreeMap::new(),
            names: Names::new(),
            durable: Names::new(),
            pending: Vec::new(),
            next_inode: 0,
            dice: Dice::new(seed),
            countdown: None,
            down: false,
            unreadable: Vec::new(),
            room: None,
            changes: 0,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Plans a fault after some more changes.
    pub fn plan(&self, after: u64, fault: Fault) {
        self.state().countdown = Some((after, fault));
    }

    /// Cancels a planned fault.
    pub fn calm(&self) {
        self.state().countdown = None;
    }

    /// Power is cut and comes back.
    pub fn crash(&self) {
        let mut state = self.state();
        let State {
            inodes,
            names,
            durable,
            pending,
            dice,
            ..
        } = &mut *state;
        for change in std::mem::take(pending) {
            if dice.once_in(2) {
                change.apply(durable);
            }
        }
        *names = durable.clone();
        let named: HashSet<u64> = names.values().copied().collect();
        inodes.retain(|inode, _| named.contains(inode));
        for file in inodes.values_mut() {
            let mut after = std::mem::take(&mut file.synced);
            let most = file.shown.len();
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
                if !file.forgotten.contains(&(at / SECTOR)) && (!holes || dice.once_in(2)) {
                    after[at..end].copy_from_slice(&file.shown[at..end]);
                }
            }
            *file = Inode {
                shown: after.clone(),
                synced: after,
                forgotten: BTreeSet::new(),
            };
        }
        state.down = false;
        state.countdown = None;
    }

    /// The process dies and the machine lives: what was written is still shown, though not
    /// durable.
    pub fn kill(&self) {
        let mut state = self.state();
        state.down = false;
        state.countdown = None;
    }

    /// From now on nobody can read these bytes, until they are written again.
    pub fn lose(&self, file: impl Into<FileId>, bytes: Range<u64>) {
        let mut state = self.state();
        if let Some(inode) = state.names.get(&file.into()).copied() {
            state.unreadable.push((inode, bytes));
        }
    }

    /// A file is gone, as if it never was.
    pub fn vanish(&self, file: impl Into<FileId>) {
        let (mut state, file) = (self.state(), file.into());
        state.names.remove(&file);
        state.durable.remove(&file);
    }

    /// All that could not be read can be again.
    pub fn mend(&self) {
        self.state().unreadable.clear();
    }

    /// Whether the machine stopped.
    pub fn is_down(&self) -> bool {
        self.state().down
    }

    /// Leaves room for this many more bytes, or for any number.
    pub fn set_room(&self, more: Option<u64>) {
        let mut state = self.state();
        state.room = more.map(|more| state.used() + more);
    }

    /// How often something was changed, or was tried to be.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// What a file holds, also where nobody can read it.
    pub fn content(&self, file: impl Into<FileId>) -> Option<Vec<u8>> {
        let mut state = self.state();
        let inode = state.file(file.into()).ok()?;
        Some(inode.shown.clone())
    }

    /// All files and their lengths, in order.
    pub fn files(&self) -> Vec<(FileId, u64)> {
        let state = self.state();
        let length = |(file, inode): (&FileId, &u64)| {
            let inode = state.inodes.get(inode)?;
            Some((*file, inode.shown.len() as u64))
        };
        state.names.iter().filter_map(length).collect()
    }

    /// Changes one bit of what is durable; which byte of which file.
    pub fn flip_bit(&self) -> Option<(FileId, u64)> {
        let mut state = self.state();
        let State {
            names,
            inodes,
            dice,
            ..
        } = &mut *state;
        let at = dice.roll(names.len() as u64) as usize;
        let (id, inode) = names.iter().nth(at)?;
        let file = inodes.get_mut(inode)?;
        let at = dice.roll(file.shown.len() as u64) as usize;
        let bit = 1 << dice.roll(8);
        *file.shown.get_mut(at)? ^= bit;
        if let Some(byte) = file.synced.get_mut(at) {
            *byte ^= bit;
        }
        Some((*id, at as u64))
    }
}

impl State {
    /// Called before each change: whether it fails, and how.
    fn next(&mut self) -> Result<(), Fault> {
        self.changes += 1;
        if self.down {
            return Err(Fault::Crash);
        }
        match &mut self.countdown {
            Some((0, Fault::Failing)) => Err(Fault::Failing),
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

    /// Bytes of all files.
    fn used(&self) -> u64 {
        self.inodes.values().map(|f| f.shown.len() as u64).sum()
    }

    fn inode(&self, file: FileId) -> io::Result<u64> {
        let inode = self.names.get(&file).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&mut self, file: FileId) -> io::Result<&mut Inode> {
        let inode = self.inode(file)?;
        self.inodes
            .get_mut(&inode)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    /// What is written anew can be read again.
    fn mend(&mut self, inode: u64, written: Range<u64>) {
        let mut left = Vec::new();
        for (of, bytes) in std::mem::take(&mut self.unreadable) {
            if of != inode {
                left.push((of, bytes));
                continue;
            }
            let before = bytes.start..bytes.end.min(written.start);
            let behind = bytes.start.max(written.end)..bytes.end;
            for part in [before, behind] {
                if part.start < part.end {
                    left.push((of, part));
                }
            }
        }
        self.unreadable = left;
    }
}

fn error(fault: Fault) -> io::Error {
    match fault {
        Fault::Full => io::ErrorKind::StorageFull.into(),
        Fault::Crash | Fault::Broken | Fault::Failing => io::Error::other("injected"),
    }
}

impl Volume for SimulatedDisk {
    fn list_files(&self) -> io::Result<Vec<FileId>> {
        Ok(self.state().names.keys().copied().collect())
    }

    fn create(&self, file: impl Into<FileId>) -> io::Result<()> {
        let (mut state, file) = (self.state(), file.into());
        state.next().map_err(error)?;
        if !state.names.contains_key(&file) {
            let inode = state.next_inode;
            state.next_inode += 1;
            state.inodes.insert(inode, Inode::default());
            state.change(Change::Create(file, inode));
        }
        Ok(())
    }

    fn write_at(&self, file: impl Into<FileId>, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut state, id) = (self.state(), file.into());
        let mut failed = state.next();
        let mut written = match failed {
            Ok(()) => data.len(),
            Err(_) => state.dice.roll(data.len() as u64 + 1) as usize,
        };
        let inode = state.inode(id)?;
        if let Some(room) = state.room {
            let left = room.saturating_sub(state.used()) as usize;
            let most = (state.file(id)?.shown.len() + left).saturating_sub(offset as usize);
            if written > most {
                written = most;
                failed = failed.and(Err(Fault::Full));
            }
        }
        let file = state.file(id)?;
        let (at, end) = (offset as usize, offset as usize + written);
        if file.shown.len() < end {
            file.shown.resize(end, 0);
        }
        file.shown[at..end].copy_from_slice(&data[..written]);
        file.forgotten
            .retain(|sector| *sector < at / SECTOR || *sector >= end.div_ceil(SECTOR));
        state.mend(inode, at as u64..end as u64);
        failed.map_err(error)
    }

    fn read_at(&self, file: impl Into<FileId>, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let (mut state, id) = (self.state(), file.into());
        let asked = offset..offset + buf.len() as u64;
        let inode = state.inode(id)?;
        let lost = |(of, bytes): &(u64, Range<u64>)| {
            *of == inode && bytes.start < asked.end && asked.start < bytes.end
        };
        if state.unreadable.iter().any(lost) {
            return Err(io::Error::other("injected"));
        }
        let shown = &state.file(id)?.shown;
        let from = (offset as usize).min(shown.len());
        let count = buf.len().min(shown.len() - from);
        buf[..count].copy_from_slice(&shown[from..from + count]);
        Ok(count)
    }

    fn length(&self, file: impl Into<FileId>) -> io::Result<u64> {
        Ok(self.state().file(file.into())?.shown.len() as u64)
    }

    fn truncate(&self, file: impl Into<FileId>, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.next().map_err(error)?;
        let file = state.file(file.into())?;
        file.shown.truncate(length as usize);
        let left = file.shown.len().div_ceil(SECTOR);
        file.forgotten.retain(|sector| *sector < left);
        Ok(())
    }

    fn sync(&self, file: impl Into<FileId>) -> io::Result<()> {
        let mut state = self.state();
        let failed = state.next();
        let mut dice = state.dice.clone();
        let inode = state.file(file.into())?;
        match failed {
            Ok(()) => inode.sync(),
            Err(Fault::Crash) => {}
            Err(_) => inode.fail_sync(&mut dice),
        }
        state.dice = dice;
        failed.map_err(error)
    }

    fn remove(&self, file: impl Into<FileId>) -> io::Result<()> {
        let (mut state, file) = (self.state(), file.into());
        state.next().map_err(error)?;
        if state.names.contains_key(&file) {
            state.change(Change::Remove(file));
        }
        Ok(())
    }

    fn rename(&self, from: impl Into<FileId>, to: impl Into<FileId>) -> io::Result<()> {
        let (mut state, from, to) = (self.state(), from.into(), to.into());
        state.next().map_err(error)?;
        let inode = state.inode(from)?;
        state.change(Change::Rename(from, to, inode));
        Ok(())
    }

    fn sync_directory(&self, tenant: TenantId) -> io::Result<()> {
        let mut state = self.state();
        state.next().map_err(error)?;
        let State {
            pending, durable, ..
        } = &mut *state;
        pending.retain(|change| {
            if change.tenant() == tenant {
                change.apply(durable);
            }
            change.tenant() != tenant
        });
        Ok(())
    }
}
