//! What befalls a disk that nobody writes to: changed bits, unreadable sectors, lost files.

use std::ops::Range;

use super::{SimulatedDisk, State};
use crate::volume::FileId;

impl SimulatedDisk {
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

    /// What a file holds, also where nobody can read it.
    pub fn content(&self, file: impl Into<FileId>) -> Option<Vec<u8>> {
        let mut state = self.state();
        let inode = state.file(file.into()).ok()?;
        Some(inode.shown.clone())
    }

    /// Other bytes stand there, as if they had been written so: what a confused controller does.
    pub fn overwrite(&self, file: impl Into<FileId>, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let Ok(inode) = state.file(file.into()) else {
            return;
        };
        let from = offset as usize;
        for kept in [&mut inode.shown, &mut inode.synced] {
            let end = (from + bytes.len()).min(kept.len());
            if from < end {
                kept[from..end].copy_from_slice(&bytes[..end - from]);
            }
        }
    }

    /// A file ends earlier, as if it never had been longer.
    pub fn cut_short(&self, file: impl Into<FileId>, length: u64) {
        if let Ok(inode) = self.state().file(file.into()) {
            inode.shown.truncate(length as usize);
            inode.synced.truncate(length as usize);
        }
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
    /// What is written anew can be read again.
    pub(super) fn mend(&mut self, inode: u64, written: Range<u64>) {
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
