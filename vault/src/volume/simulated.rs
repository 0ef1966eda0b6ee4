//! A disk that fails on command, all from one seed.
//!
//! It keeps what was synced apart from what was written. A crash keeps of each unsynced write
//! any subset of its sectors, cuts or keeps the length, and undoes any of the changes of names
//! whose directory was not synced. Writes can fail with `ENOSPC` or `EIO` after any part of
//! them; so can syncs, after which some of what was not synced is taken for written: reads show
//! it, later syncs pass over it, and a crash loses it, or memory that is dropped, unless it is
//! written again. Sectors can be made unreadable until they are written again, files lost.
//!
//! * `kept`: what of a file is durable. `calls`: what programs see. `harm`: what happens to it
//!   though nobody writes. `dice`: all its chance.

mod calls;
mod dice;
mod harm;
mod kept;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use super::FileId;
use kept::{Change, Inode, Names};

pub use dice::Dice;

const SECTOR: usize = 512;

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
        inodes.values_mut().for_each(|file| file.crash(dice));
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

    /// All files and their lengths, in order.
    pub fn files(&self) -> Vec<(FileId, u64)> {
        let state = self.state();
        let length = |(file, inode): (&FileId, &u64)| {
            let inode = state.inodes.get(inode)?;
            Some((*file, inode.shown.len() as u64))
        };
        state.names.iter().filter_map(length).collect()
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
}
