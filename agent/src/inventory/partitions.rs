//! A disk's partition table: GPT (UEFI specification, section 5.3) or MBR.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};

use gpt::disk::LogicalBlockSize;
use relevo_wire::inventory::InventoryPartition;

use super::file_system;
use crate::disk::Disk;

/// The partition type of a protective MBR: a GPT follows.
const PROTECTIVE: u8 = 0xee;
/// Most entries of a GPT that are read; every tool writes 128.
const MAX_ENTRIES: u32 = 4096;
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
        .filter(|block| has_modest_headers(disk, block.as_u64()))
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
                    size: (p.last_lba.saturating_add(1))
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

/// Whether the GPT headers at the disk's beginning and end, if there are any, describe a table
/// that the library can be given: it believes any number of entries and panics at other sizes
/// of them than 128.
fn has_modest_headers(disk: &Disk, block: u64) -> bool {
    let last = (disk.size() / block)
        .saturating_sub(1)
        .saturating_mul(block);
    [block, last].into_iter().all(|offset| {
        let mut header = [0; 88];
        if offset + 88 > disk.size() || disk.read_at(offset, &mut header).is_err() {
            return true;
        }
        let (entries, size) = (little_endian(&header, 80), little_endian(&header, 84));
        let modest = !header.starts_with(b"EFI PART") || (entries <= MAX_ENTRIES && size == 128);
        if !modest {
            tracing::warn!(
                "disk {}: a partition table of {entries} entries of {size} bytes is not read",
                disk.path().display()
            );
        }
        modest
    })
}

fn little_endian(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
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
        MbrEntry {
            status: entry[0],
            kind: entry[4],
            first: little_endian(entry, 8),
            count: little_endian(entry, 12),
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

    /// The CRC-32 of GPT headers and tables.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    /// A disk of 1 MiB with a GPT whose checksums are right, whatever else is not.
    fn gpt_disk(entries: u32, size: u32, last_lba: u64) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        entry(&mut bytes[..512], 0, PROTECTIVE, 1, 2047);
        let partition = &mut bytes[1024..1152];
        partition[..16].fill(0x11);
        partition[16..32].fill(0x22);
        partition[32..40].copy_from_slice(&40u64.to_le_bytes());
        partition[40..48].copy_from_slice(&last_lba.to_le_bytes());
        let table = crc32(&bytes[1024..1024 + 128 * 128]);
        let header = &mut bytes[512..512 + 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[72..80].copy_from_slice(&2u64.to_le_bytes());
        header[80..84].copy_from_slice(&entries.to_le_bytes());
        header[84..88].copy_from_slice(&size.to_le_bytes());
        header[88..92].copy_from_slice(&table.to_le_bytes());
        let own = crc32(header);
        header[16..20].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// Guards: whoever made the image can make its checksums too, and must not end the agent or
    /// fill its memory.
    #[test]
    fn tables_made_to_break_the_reader_are_survived() {
        let (_dir, good) = disk(&gpt_disk(128, 128, 99));
        let (table, partitions) = read(&good);
        assert_eq!((table.as_str(), partitions.len()), ("gpt", 1));
        assert_eq!((partitions[0].start, partitions[0].size), (20480, 60 * 512));
        for (entries, size) in [(128, 256), (128, 0), (u32::MAX, 128), (u32::MAX, u32::MAX)] {
            let (_dir, bad) = disk(&gpt_disk(entries, size, 99));
            assert_eq!(read(&bad), (String::new(), Vec::new()));
        }
        let (_dir, endless) = disk(&gpt_disk(128, 128, u64::MAX));
        assert_eq!(read(&endless).1.len(), 1);
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
