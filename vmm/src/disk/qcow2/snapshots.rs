//! Internal snapshots (section "Snapshots"): not shown to the guest, and never harmed by it.
//!
//! Their clusters have references of their own, so that a write copies them. What is noted here is
//! where their tables are, against damaged images that count these as free.

use std::io;

use super::entry::l2_table;
use super::error::Damage;
use super::header::Header;
use super::overlap::{Role, Structures};
use super::storage::ImageFile;

/// Most snapshots; QEMU's limit too.
const MAX_SNAPSHOTS: u32 = 65_536;
/// Most bytes of their list, and of their L1 tables together.
const MAX_LIST_BYTES: u64 = 16 << 20;
const MAX_L1_BYTES: u64 = 64 << 20;

/// Bytes of an entry before the parts of variable length.
const ENTRY: u64 = 40;

/// Notes where the snapshots' list and tables are. The disk's own L2 tables are noted already.
pub(super) fn claim(
    file: &ImageFile,
    header: &Header,
    structures: &mut Structures,
) -> io::Result<()> {
    if header.snapshots == 0 {
        return Ok(());
    }
    if header.snapshots > MAX_SNAPSHOTS {
        return Err(Damage::Snapshots.into());
    }
    let (mut at, mut l1_bytes) = (header.snapshots_offset, 0);
    let mut tables = Vec::new();
    for _ in 0..header.snapshots {
        let mut entry = [0; ENTRY as usize];
        file.read_table(&mut entry, at, "list of snapshots")?;
        let number = |from: usize, to: usize| {
            entry[from..to]
                .iter()
                .fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let (l1_offset, l1_entries) = (number(0, 8), number(8, 12));
        let variable = number(12, 14) + number(14, 16) + number(36, 40);
        at += (ENTRY + variable).next_multiple_of(8);
        l1_bytes += l1_entries * 8;
        if at - header.snapshots_offset > MAX_LIST_BYTES
            || l1_bytes > MAX_L1_BYTES
            || !header.geometry.is_aligned(l1_offset)
        {
            return Err(Damage::Snapshots.into());
        }
        if l1_entries > 0 {
            tables.push((l1_offset, l1_entries));
        }
    }
    let list_bytes = at - header.snapshots_offset;
    structures.claim(header.snapshots_offset, list_bytes, Role::SnapshotList)?;
    for (offset, entries) in tables {
        let l1 = file.read_words(offset, entries as usize, "snapshot's L1 table")?;
        structures.claim(offset, entries * 8, Role::SnapshotL1)?;
        for entry in l1 {
            match l2_table(entry, header.geometry)? {
                0 => {}
                table => structures.claim_shared_l2(table)?,
            }
        }
    }
    Ok(())
}
