//! A disk's partition table: GPT (UEFI specification, section 5.3) or MBR.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};

use gpt::disk::LogicalBlockSize;
use relevo_wire::inventory::InventoryPartition;

use super::file_system;
use crate::disk::Disk;

/// The partition type of a protective MBR: a GPT follows.
const PROTECTIVE: u8 = 0xee;
/// Most logical partitions followed in an extended one.
const MAX_LOGICAL: u32 = 128;

/// Kind of table (`gpt`, `mbr` or empty) and the partitions, with what is on them. A table that
/// cannot be read is reported as none: the image is whole all the same.
pub fn read(disk: &Disk) -> (String, Vec<InventoryPartition>) {
    let (table, mut partitions) = match gpt_table(disk) {
        Some(partitions) => ("gpt", partitions),
        None => match mbr_table(disk) {
            Some(partitions) => ("mbr", partitions),
            None => ("", Vec::new()),
        },
    };
    for partition in &mut partitions {
        let found = file_system::detect(disk, partition.start, partition.size);
        partition.file_system = found.kind;
        partition.file_system_uuid = found.uuid;
    }
    (table.into(), partitions)
}

fn gpt_table(disk: &Disk) -> Option<Vec<InventoryPartition>> {
    [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096]
        .into_iter()
        .find_map(|block| {
            let device = Reading { disk, at: 0 };
            let table = gpt::GptConfig::new()
                .writable(false)
                .logical_block_size(block)
                .open_from_device(device)
                .ok()?;
            let block = block.as_u64();
            let used = table.partitions().iter().filter(|(_, p)| p.is_used());
            Some(
                used.map(|(number, p)| InventoryPartition {
                    number: *number,
                    start: p.first_lba.saturating_mul(block),
                    size: (p.last_lba + 1)
                        .saturating_sub(p.first_lba)
                        .saturating_mul(block),
                    kind: p.part_type_guid.guid.to_string().to_lowercase(),
                    uuid: Some(p.part_guid.to_string().to_lowercase()),
                    label: (!p.name.is_empty()).then(|| p.name.clone()),
                    ..InventoryPartition::default()
                })
                .collect(),
            )
        })
}

fn mbr_table(disk: &Disk) -> Option<Vec<InventoryPartition>> {
    let sector = u64::from(disk.sector());
    let entries = mbr_entries(disk, 0)?;
    // A boot sector of a file system has the signature too; its "entries" make no sense.
    let sane = entries.iter().all(|e| matches!(e.status, 0 | 0x80));
    if !sane || entries.iter().any(|e| e.kind == PROTECTIVE) {
        return None;
    }
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(&entries) {
        if entry.kind == 0 {
            continue;
        }
        found.push(entry.partition(number, 0, sector));
        if !entry.is_extended() {
            continue;
        }
        let base = u64::from(entry.first);
        let mut at = base;
        for number in 5..5 + MAX_LOGICAL {
            let Some([logical, next, ..]) = mbr_entries(disk, at * sector) else {
                break;
            };
            if logical.kind != 0 {
                found.push(logical.partition(number, at, sector));
            }
            // A chain must go forward, or it would never end.
            let following = base + u64::from(next.first);
            if !next.is_extended() || following <= at {
                break;
            }
            at = following;
        }
    }
    Some(found)
}

#[derive(Clone, Copy)]
struct MbrEntry {
    status: u8,
    kind: u8,
    first: u32,
    count: u32,
}

impl MbrEntry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    fn partition(&self, number: u32, base: u64, sector: u64) -> InventoryPartition {
        InventoryPartition {
            number,
            start: (base + u64::from(self.first)) * sector,
            size: u64::from(self.count) * sector,
            kind: format!("0x{:02x}", self.kind),
            ..InventoryPartition::default()
        }
    }
}

fn mbr_entries(disk: &Disk, offset: u64) -> Option<[MbrEntry; 4]> {
    if offset.checked_add(512)? > disk.size() {
        return None;
    }
    let mut sector = [0; 512];
    disk.read_at(offset, &mut sector).ok()?;
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    Some(std::array::from_fn(|i| {
        let entry = &sector[446 + 16 * i..446 + 16 * (i + 1)];
        let number = |at: usize| {
            u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
        };
        MbrEntry {
            status: entry[0],
            kind: entry[4],
            first: number(8),
            count: number(12),
        }
    }))
}

/// A disk as the GPT library wants to see it.
struct Reading<'a> {
    disk: &'a Disk,
    at: u64,
}

impl fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.disk.path().display())
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.disk.size().saturating_sub(self.at);
        let length = left.min(buffer.len() as u64) as usize;
        self.disk
            .read_at(self.at, &mut buffer[..length])
            .map_err(io::Error::other)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Reading<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.disk.size().checked_add_signed(by),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Write for Reading<'_> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn disk(bytes: &[u8]) -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, bytes).unwrap();
        let disk = Disk::open(&path.into()).unwrap();
        (dir, disk)
    }

    fn entry(sector: &mut [u8], slot: usize, kind: u8, first: u32, count: u32) {
        let entry = &mut sector[446 + 16 * slot..446 + 16 * (slot + 1)];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&count.to_le_bytes());
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    }

    #[test]
    fn logical_partitions_are_followed_and_loops_end() {
        let mut bytes = vec![0; 1 << 20];
        entry(&mut bytes[..512], 0, 0x83, 8, 100);
        entry(&mut bytes[..512], 1, 0x05, 1000, 1000);
        entry(&mut bytes[512_000..512_512], 0, 0x83, 2, 10);
        entry(&mut bytes[512_000..512_512], 1, 0x05, 100, 200);
        // Points back to the first.
        entry(&mut bytes[563_200..563_712], 0, 0x82, 2, 10);
        entry(&mut bytes[563_200..563_712], 1, 0x05, 0, 200);
        let (_dir, disk) = disk(&bytes);
        let (table, partitions) = read(&disk);
        assert_eq!(table, "mbr");
        let found: Vec<_> = partitions
            .iter()
            .map(|p| (p.number, p.start / 512))
            .collect();
        assert_eq!(found, [(1, 8), (2, 1000), (5, 1002), (6, 1102)]);
    }

    /// Guards: garbage where the table should be must never stop an image.
    #[test]
    fn garbage_is_no_table() {
        let mut bytes: Vec<u8> = (0..100_000u32).map(|i| ((i * 7919) >> 3) as u8).collect();
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let (_dir, disk) = disk(&bytes);
        assert_eq!(read(&disk), (String::new(), Vec::new()));
    }
}
