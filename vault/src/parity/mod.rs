//! Parity of groups of packs: what a disk loses of them is made anew.
//!
//! * `layout`: the file. `code`: Reed–Solomon over a column of blocks.
//! * [`form`] writes the parity of packs that are closed; [`before_retire`] takes a pack out
//!   when the collector is done with it; [`heal`] restores blocks and lost files.
//! * [`Plan`]: which packs are to be put together.
//!
//! Parity is derived: losing it loses protection and no data. Invariants:
//! * A file has its name only when all of it is synced, and a group never names a pack whose
//!   file was taken away on purpose.
//! * Nothing is written that was not checked against the checksums of the group's making.
//! * One of these functions runs at a time, in one process: that which holds the vault's lock.

mod code;
mod layout;
mod plan;
mod restore;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use relevo_wire::{TenantId, VaultId};

use crate::error::StoreError;
use crate::volume::{FileId, FileKind, PackId, Volume, read_exact};
use layout::{HeaderError, Row, TABLE, checksum};

pub use layout::{BLOCK, Group, Member, PARITY_VERSION};
pub use plan::{Closed, Plan};
pub use restore::{Restored, heal};
pub use write::{before_retire, form};

/// Held while parity is written, or packs from it.
fn writing() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The parity files of a volume.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// Those that can be used, by tenant and number.
    pub usable: Vec<Group>,
    /// Those whose header is lost, with the reason. Their packs need new parity.
    pub lost: Vec<(FileId, String)>,
    /// Highest number of each tenant that any file has.
    pub highest: std::collections::HashMap<TenantId, u32>,
}

/// Reads the headers of all parity files, or those of one tenant.
pub fn groups<V: Volume>(
    volume: &V,
    vault: VaultId,
    tenant: Option<TenantId>,
) -> Result<Groups, StoreError> {
    let mut files = volume
        .list_files()
        .map_err(|e| StoreError::io("list the packs", &e))?;
    files.retain(|file| tenant.is_none_or(|tenant| file.tenant == tenant));
    files.sort_unstable();
    let mut groups = Groups::default();
    for file in files.into_iter().filter(|f| f.kind == FileKind::Parity) {
        let highest = groups.highest.entry(file.tenant).or_default();
        *highest = file.number.max(*highest);
        let mut header = vec![0; TABLE as usize];
        let read = volume.read_at(file, 0, &mut header);
        let found = match read {
            Ok(filled) => Group::decode(&header[..filled]),
            Err(_) => read_halves(volume, file),
        };
        match found {
            Ok((group, _)) if group.file() == file && group.vault == vault => {
                groups.usable.push(group);
            }
            Ok(_) => groups.lost.push((file, "it is of other packs".into())),
            Err(HeaderError::Newer(version)) => {
                return Err(StoreError::Newer {
                    found: version,
                    known: PARITY_VERSION,
                });
            }
            Err(HeaderError::Damaged) => {
                let reason = "both copies of its header are damaged";
                groups.lost.push((file, reason.into()));
            }
        }
    }
    Ok(groups)
}

/// One copy of the header when a sector of the other cannot be read.
fn read_halves<V: Volume>(volume: &V, file: FileId) -> Result<(Group, bool), HeaderError> {
    let mut header = vec![0; TABLE as usize];
    for half in [0, layout::SECOND_COPY] {
        let part = &mut header[half as usize..][..layout::SECOND_COPY as usize];
        if volume.read_at(file, half, part).is_err() {
            part.fill(0);
        }
    }
    Group::decode(&header)
}

/// Takes a group's parity away.
pub fn drop_group<V: Volume>(volume: &V, group: &Group) -> Result<(), StoreError> {
    drop_file(volume, group.file())
}

/// Takes a parity file away.
pub fn drop_file<V: Volume>(volume: &V, file: FileId) -> Result<(), StoreError> {
    volume
        .remove(file)
        .and_then(|()| volume.sync_directory(file.tenant))
        .map_err(|e| StoreError::io(format_args!("drop {file}"), &e))
}

/// Takes away what an interrupted healing or writing of parity left. When nobody else writes.
pub fn sweep<V: Volume>(volume: &V) -> Result<(), StoreError> {
    let _alone = writing();
    let files = volume
        .list_files()
        .map_err(|e| StoreError::io("list the packs", &e))?;
    for &file in &files {
        if matches!(file.kind, FileKind::NewPack | FileKind::NewParity) {
            drop_file(volume, file)?;
        }
    }
    let tenants: BTreeSet<TenantId> = files.iter().map(|file| file.tenant).collect();
    tenants
        .into_iter()
        .try_for_each(|tenant| keep_names(volume, tenant))
}

/// Makes durable what names a tenant's files have. A name that was given before a sync failed, or
/// before a kill, is there until the power goes: nothing may count on it before this.
pub fn keep_names<V: Volume>(volume: &V, tenant: TenantId) -> Result<(), StoreError> {
    volume
        .sync_directory(tenant)
        .map_err(|e| StoreError::io(format_args!("sync the directory of tenant {tenant}"), &e))
}

/// Brings back packs that are gone or cut short, before anybody misses them; and what is damaged
/// in groups of which somebody has `unread` so many bytes of a pack, who would take the damage for
/// never finished. What was done, by group. Costs the headers when nothing is amiss.
pub fn restore_lost<V: Volume>(
    volume: &V,
    vault: VaultId,
    retired: &dyn Fn(PackId) -> bool,
    unread: &dyn Fn(PackId, u64) -> bool,
) -> Result<Vec<Restored>, StoreError> {
    let mut done = Vec::new();
    for group in groups(volume, vault, None)?.usable {
        let amiss = |(_, pack, length): (usize, PackId, u64)| {
            unread(pack, length) || volume.length(pack).map_or(true, |found| found < length)
        };
        // One that is retired is missed by nobody, and others may be healed from its bytes.
        if !group.members().filter(|m| !retired(m.1)).any(amiss) {
            continue;
        }
        // A pack that cannot come back now is missed; nobody waits for it to open the vault.
        match heal(volume, &group, 0..group.columns) {
            Ok(restored) => done.push(restored),
            Err(error) => tracing::error!(group = %group.file(), %error, "lost packs stay lost"),
        }
    }
    Ok(done)
}

/// Columns of a group in which this file, a pack of it or its parity, is not as it was written.
pub fn damaged_columns<V: Volume>(volume: &V, group: &Group, file: FileId) -> Vec<u32> {
    let mut damaged = Vec::new();
    let slot = file.pack().and_then(|pack| group.slot(pack));
    for column in 0..group.columns {
        let intact = read_row(volume, group, column).is_some_and(|row| match slot {
            Some(slot) => {
                let block = read_block(volume, group, slot, column);
                block.is_ok_and(|block| checksum(&block) == row.data[slot])
            }
            None => {
                let copies = [group.row_at(column), group.second_row_at(column)];
                let mut copies = copies.into_iter();
                copies.all(|at| read_copy(volume, group, column, at).is_some())
                    && (0..group.parity).all(|at| {
                        let block = read_parity(volume, group, at, column);
                        block.is_ok_and(|block| checksum(&block) == row.parity[at])
                    })
            }
        });
        if !intact {
            damaged.push(column);
        }
    }
    damaged
}

/// A pack's block, filled up with zeros. Fails where the pack is shorter than it was.
fn read_block<V: Volume>(
    volume: &V,
    group: &Group,
    slot: usize,
    column: u32,
) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    let length = group.block_length(slot, column);
    if let Some(member) = group.slots[slot]
        && length > 0
    {
        let pack = PackId {
            tenant: group.tenant,
            number: member.pack,
        };
        let offset = u64::from(column) * BLOCK as u64;
        if volume.read_at(pack, offset, &mut block[..length])? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(block)
}

fn read_parity<V: Volume>(
    volume: &V,
    group: &Group,
    at: usize,
    column: u32,
) -> io::Result<Vec<u8>> {
    let offset = group.parity_at(column) + (at * BLOCK) as u64;
    read_exact(volume, group.file(), offset, BLOCK).map(|bytes| bytes.to_vec())
}

fn read_copy<V: Volume>(volume: &V, group: &Group, column: u32, at: u64) -> Option<Row> {
    let bytes = read_exact(volume, group.file(), at, group.row_length()).ok()?;
    Row::decode(group, column, &bytes)
}

fn read_row<V: Volume>(volume: &V, group: &Group, column: u32) -> Option<Row> {
    read_copy(volume, group, column, group.row_at(column))
        .or_else(|| read_copy(volume, group, column, group.second_row_at(column)))
}
