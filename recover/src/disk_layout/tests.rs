//! Guards: tables of real tools are read as those tools print them; no bytes make it panic.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::block::check_range;

pub(crate) struct MemoryDisk(pub(crate) Vec<u8>);

impl BlockRead for MemoryDisk {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(offset, buf.len() as u64, self.size())?;
        buf.copy_from_slice(&self.0[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
}

fn mbr_entry(sector: &mut [u8], index: usize, kind: u8, first: u32, count: u32) {
    let at = 446 + index * 16;
    sector[at + 4] = kind;
    sector[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
    sector[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    sector[510] = 0x55;
    sector[511] = 0xaa;
}

#[test]
fn blank_and_tiny_disks_are_named() {
    assert!(matches!(
        read_layout(&MemoryDisk(vec![0; 1 << 20])),
        Err(LayoutError::Blank)
    ));
    assert!(matches!(
        read_layout(&MemoryDisk(vec![0; 100])),
        Err(LayoutError::TooSmall { size: 100 })
    ));
    assert!(matches!(
        read_layout(&MemoryDisk(vec![0x5a; 1 << 20])),
        Err(LayoutError::Unrecognised)
    ));
}

#[test]
fn mbr_partition_beyond_the_end_is_a_truncated_image() {
    let mut disk = vec![0; 1 << 20];
    mbr_entry(&mut disk, 0, 0x83, 100, 1 << 20);
    let error = read_layout(&MemoryDisk(disk)).unwrap_err();
    assert!(
        error.to_string().contains("truncated: partition 1"),
        "{error}"
    );
}

#[test]
fn overlapping_partitions_are_refused() {
    let mut disk = vec![0; 1 << 20];
    mbr_entry(&mut disk, 0, 0x83, 100, 200);
    mbr_entry(&mut disk, 1, 0x83, 250, 100);
    let error = read_layout(&MemoryDisk(disk)).unwrap_err();
    assert!(error.to_string().contains("1 and 2 overlap"), "{error}");
}

/// Guards against a chain of links that hold no partition, which could be as long as the disk.
#[test]
fn a_chain_of_empty_links_ends_in_an_error() {
    let mut disk = vec![0; 1 << 20];
    mbr_entry(&mut disk, 0, 0x05, 1, 2000);
    for sector in 1..1000u32 {
        let at = sector as usize * 512;
        mbr_entry(&mut disk[at..at + 512], 1, 0x05, sector, 1);
    }
    let error = read_layout(&MemoryDisk(disk)).unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
}

#[test]
fn a_circular_chain_of_logical_partitions_ends_in_an_error() {
    let mut disk = vec![0; 1 << 20];
    mbr_entry(&mut disk, 0, 0x05, 64, 1000);
    let record = 64 * 512;
    mbr_entry(&mut disk[record..record + 512], 0, 0x83, 1, 10);
    mbr_entry(&mut disk[record..record + 512], 1, 0x05, 100, 10);
    let second = 164 * 512;
    mbr_entry(&mut disk[second..second + 512], 0, 0x83, 1, 10);
    mbr_entry(&mut disk[second..second + 512], 1, 0x05, 0, 10);
    let error = read_layout(&MemoryDisk(disk)).unwrap_err();
    assert!(error.to_string().contains("links back"), "{error}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..8192), kind in 0..4) {
        if bytes.len() >= 1024 {
            if kind >= 1 { bytes[510] = 0x55; bytes[511] = 0xaa; }
            if kind >= 2 { bytes[450] = 0xee; bytes[512..520].copy_from_slice(b"EFI PART"); }
            if kind == 3 {
                // A header whose checksum is right, so that its random fields are believed.
                bytes[524..528].copy_from_slice(&92u32.to_le_bytes());
                bytes[536..544].copy_from_slice(&1u64.to_le_bytes());
                bytes[592..600].copy_from_slice(&[128, 0, 0, 0, 128, 0, 0, 0]);
                bytes[528..532].fill(0);
                let mut crc = flate2::Crc::new();
                crc.update(&bytes[512..604]);
                let sum = crc.sum().to_le_bytes();
                bytes[528..532].copy_from_slice(&sum);
            }
        }
        let size = bytes.len() as u64;
        if let Ok(layout) = read_layout(&MemoryDisk(bytes)) {
            for partition in layout.partitions {
                prop_assert!(partition.start + partition.len <= size);
            }
        }
    }
}
