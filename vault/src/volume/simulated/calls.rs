//! What programs see of the disk.

use std::io;
use std::ops::Range;

use relevo_wire::TenantId;

use super::kept::{Change, Inode};
use super::{Fault, SECTOR, SimulatedDisk, State};
use crate::volume::{FileId, Volume};

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

    fn drop_cached(&self, file: impl Into<FileId>) {
        if let Ok(inode) = self.state().file(file.into()) {
            inode.drop_cached();
        }
    }
}
