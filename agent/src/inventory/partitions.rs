//! A disk's partitions and what is on them.

use relevo_wire::inventory::InventoryPartition;

use super::file_system;
use crate::disk::Disk;
use crate::used::table;

/// Kind of table (`gpt`, `mbr` or empty) and the partitions, with what is on them. A table that
/// cannot be read is reported as none: the image is whole all the same.
pub fn read(disk: &Disk) -> (String, Vec<InventoryPartition>) {
    let source = crate::used::DiskSource::new(disk);
    let Some(table) = table::read(&source.volume(0)) else {
        return (String::new(), Vec::new());
    };
    let partitions = table.partitions.into_iter().map(|p| {
        let found = file_system::detect(disk, p.start, p.size);
        InventoryPartition {
            number: p.number,
            start: p.start,
            size: p.size,
            kind: p.kind,
            uuid: p.uuid,
            label: p.label,
            file_system: found.kind,
            file_system_uuid: found.uuid,
        }
    });
    (table.kind.into(), partitions.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::used::checksum::crc32;

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

    /// A disk of 1 MiB with a GPT whose checksums are right, whatever else is not.
    fn gpt_disk(entries: u32, size: u32, last_lba: u64) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        entry(&mut bytes[..512], 0, 0xee, 1, 2047);
        let partition = &mut bytes[1024..1152];
        partition[..16].fill(0x11);
        partition[16..32].fill(0x22);
        partition[32..40].copy_from_slice(&40u64.to_le_bytes());
        partition[40..48].copy_from_slice(&last_lba.to_le_bytes());
        let table = !crc32(!0, &bytes[1024..1024 + 128 * 128]);
        let header = &mut bytes[512..512 + 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[24..32].copy_from_slice(&1u64.to_le_bytes());
        header[72..80].copy_from_slice(&2u64.to_le_bytes());
        header[80..84].copy_from_slice(&entries.to_le_bytes());
        header[84..88].copy_from_slice(&size.to_le_bytes());
        header[88..92].copy_from_slice(&table.to_le_bytes());
        let own = !crc32(!0, header);
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
