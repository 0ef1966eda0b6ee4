//! Master boot record with extended partitions, as Linux reads them (`block/partitions/msdos.c`).

use super::{DiskLayout, LayoutError, Partition, TableKind, le32, refuse_overlaps};
use crate::block::BlockRead;

const SECTOR: u64 = 512;
/// As many logical partitions as Linux looks at before it gives up on a chain.
const MAX_LOGICAL: u32 = 124;
const PROTECTIVE: u8 = 0xee;

#[derive(Clone, Copy)]
struct Entry {
    status: u8,
    kind: u8,
    first: u32,
    count: u32,
}

pub(super) fn has_signature(sector: &[u8; 512]) -> bool {
    sector[510] == 0x55 && sector[511] == 0xaa
}

/// Whether the table only guards a GPT. One such entry among others counts: hybrid tables have it.
pub(super) fn is_protective(sector: &[u8; 512]) -> bool {
    entries(sector).iter().any(|e| e.kind == PROTECTIVE)
}

fn entries(sector: &[u8; 512]) -> [Entry; 4] {
    std::array::from_fn(|i| {
        let at = 446 + i * 16;
        Entry {
            status: sector[at],
            kind: sector[at + 4],
            first: le32(sector, at + 8),
            count: le32(sector, at + 12),
        }
    })
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// Reads an MBR; `None` if it lists no partition at all.
pub(super) fn read(
    disk: &dyn BlockRead,
    boot_sector: &[u8; 512],
) -> Result<Option<DiskLayout>, LayoutError> {
    let signature = le32(boot_sector, 440);
    let disk_id = (signature != 0).then(|| format!("{signature:08x}"));
    let primary = entries(boot_sector);
    if primary.iter().all(|e| e.kind == 0 || e.count == 0) {
        return Ok(None);
    }
    let mut partitions = Vec::new();
    let mut extended = None;
    for (number, entry) in (1u32..).zip(primary) {
        if entry.kind == 0 || entry.count == 0 {
            continue;
        }
        if !matches!(entry.status, 0 | 0x80) {
            return Err(LayoutError::Absurd {
                reason: format!(
                    "entry {number} of the MBR has status {:#04x}, neither 00 nor 80",
                    entry.status
                ),
            });
        }
        let partition = partition(disk, number, 0, entry, disk_id.as_deref())?;
        if is_extended(entry.kind) {
            extended = Some(entry);
        } else {
            partitions.push(partition);
        }
    }
    if let Some(container) = extended {
        logical(disk, container, disk_id.as_deref(), &mut partitions)?;
    }
    refuse_overlaps(&partitions)?;
    Ok(Some(DiskLayout {
        table: TableKind::Mbr,
        sector_size: 512,
        disk_id,
        partitions,
        notes: Vec::new(),
    }))
}

/// Walks the chain of extended boot records. Each links to the next relative to the container,
/// and to its own partition relative to itself.
fn logical(
    disk: &dyn BlockRead,
    container: Entry,
    disk_id: Option<&str>,
    out: &mut Vec<Partition>,
) -> Result<(), LayoutError> {
    let base = u64::from(container.first);
    let mut at = base;
    let mut number = 5;
    let mut links = 0;
    loop {
        // Links without a partition count as well: a chain of them could be as long as the disk.
        links += 1;
        if number > 4 + MAX_LOGICAL || links > 2 * MAX_LOGICAL {
            return Err(LayoutError::Absurd {
                reason: format!(
                    "the extended partition's chain has more than {MAX_LOGICAL} links or runs in a circle"
                ),
            });
        }
        let mut sector = [0u8; 512];
        let end = (at + 1) * SECTOR;
        if end > disk.size() {
            return Err(LayoutError::Truncated {
                what: format!("the record of logical partition {number}"),
                end,
                size: disk.size(),
            });
        }
        disk.read_at(at * SECTOR, &mut sector)?;
        if !has_signature(&sector) {
            return if number == 5 {
                Ok(()) // an extended partition in which nothing was ever made
            } else {
                Err(LayoutError::Absurd {
                    reason: format!(
                        "the chain of the extended partition breaks off before logical partition {number}"
                    ),
                })
            };
        }
        let [own, next, ..] = entries(&sector);
        if own.kind != 0 && own.count != 0 && !is_extended(own.kind) {
            out.push(partition(disk, number, at, own, disk_id)?);
            number += 1;
        }
        let Some(link) = [own, next]
            .into_iter()
            .find(|e| is_extended(e.kind) && e.count != 0)
        else {
            return Ok(());
        };
        let following = base + u64::from(link.first);
        // Tools always link forwards; a link back is a circle.
        if following <= at {
            return Err(LayoutError::Absurd {
                reason: format!(
                    "the extended partition's chain links back from sector {at} to sector {following}"
                ),
            });
        }
        at = following;
    }
}

fn partition(
    disk: &dyn BlockRead,
    number: u32,
    base: u64,
    entry: Entry,
    disk_id: Option<&str>,
) -> Result<Partition, LayoutError> {
    let first = base + u64::from(entry.first);
    if entry.first == 0 {
        return Err(LayoutError::Absurd {
            reason: format!("partition {number} starts at its own table, sector {base}"),
        });
    }
    let (start, len) = (first * SECTOR, u64::from(entry.count) * SECTOR);
    if start + len > disk.size() {
        return Err(LayoutError::Truncated {
            what: format!("partition {number}"),
            end: start + len,
            size: disk.size(),
        });
    }
    Ok(Partition {
        number,
        start,
        len,
        part_uuid: disk_id.map(|id| format!("{id}-{number:02x}")),
        kind: format!("{:02x}", entry.kind),
        name: None,
        bootable: entry.status == 0x80,
    })
}
