//! A disk, whatever its partitions, volumes and file systems say.

use std::sync::atomic::{AtomicU64, Ordering};

use relevo_agent::used::checksum::{crc32, crc32c};
use relevo_agent::used::memory::Memory;
use relevo_agent::used::whole::Seen;
use relevo_agent::used::{Source, survey_with_evidence};

use crate::Input;

/// Places are counted in these.
pub const UNIT: u64 = 64;
/// Largest disk, in MiB.
const LARGEST: usize = 512;

/// What a record without bytes asks for: a checksum made right.
pub mod seals {
    /// A block of a tree of btrfs, of 16 KiB, and its superblock.
    pub const BTRFS_BLOCK: u8 = 1;
    pub const BTRFS_SUPERBLOCK: u8 = 2;
    /// Superblock, header of a group and block of a tree of XFS.
    pub const XFS_SUPERBLOCK: u8 = 3;
    pub const XFS_GROUP: u8 = 4;
    pub const XFS_BLOCK: u8 = 5;
    /// The superblock of ext4.
    pub const EXT_SUPERBLOCK: u8 = 6;
    /// The header of a GPT, with its entries.
    pub const GPT: u8 = 7;
    /// The label of a physical volume, and the header of its descriptions with the first of them.
    pub const LVM_LABEL: u8 = 8;
    pub const LVM_DESCRIPTION: u8 = 9;
    /// A record of the log of XFS.
    pub const XFS_RECORD: u8 = 10;
}

/// A disk that counts what is read of it.
struct Counting(Memory, AtomicU64);

impl Source for Counting {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn sector(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Seen<()> {
        let read = self
            .1
            .fetch_add(buffer.len() as u64 + 512, Ordering::Relaxed);
        assert!(read < 4 << 30, "reading does not end");
        assert!(buffer.len() <= 64 << 20, "{} bytes at once", buffer.len());
        self.0.read_at(offset, buffer)
    }
}

/// Two bytes: size in MiB. Then records: place (4 bytes, in units of 64 bytes), length (2 bytes),
/// and bytes; a length of zero is followed by the seal that is put there, when all is written.
pub fn run(bytes: &[u8]) {
    let disk = Counting(disk(bytes), AtomicU64::new(0));
    let found = survey_with_evidence(&[("sda", &disk)]);
    let mut end = 0;
    for (from, to) in found.maps[0].free_runs() {
        assert!(
            *from >= end && from < to && *to <= disk.size(),
            "{from}..{to}"
        );
        end = *to;
    }
    for area in &found.areas {
        assert!(area.used_bytes <= area.length, "{area:?}");
        assert!(
            area.read_whole.is_none() || area.used_bytes == area.length,
            "{area:?}"
        );
    }
}

/// The disk that an input describes.
pub fn disk(bytes: &[u8]) -> Memory {
    let mut input = Input::new(bytes);
    let mut disk = Memory::zeros((1 + input.short() as u64 % LARGEST as u64) << 20);
    let mut seals = Vec::new();
    while !input.is_empty() {
        let at = u64::from(u32::from_le_bytes(input.array())) * UNIT;
        match input.short() {
            0 => seals.push((at, input.byte())),
            length => disk.write(at, input.up_to(length)),
        }
    }
    for (at, seal) in seals {
        put(&mut disk, at, seal);
    }
    disk
}

fn put(disk: &mut Memory, at: u64, seal: u8) {
    use seals::*;
    let read = |disk: &Memory, at: u64, length: usize| {
        let mut bytes = vec![0; length];
        disk.read_at(at, &mut bytes).ok().map(|()| bytes)
    };
    // Length, place of the sum, and whether it is inverted.
    let (length, place, inverted) = match seal {
        BTRFS_BLOCK => (16_384, 0, true),
        BTRFS_SUPERBLOCK => (4096, 0, true),
        XFS_SUPERBLOCK => (512, 224, true),
        XFS_GROUP => (512, 216, true),
        XFS_BLOCK => (4096, 52, true),
        EXT_SUPERBLOCK => (1024, 0x3fc, false),
        GPT | LVM_LABEL | LVM_DESCRIPTION | XFS_RECORD => (512, 0, false),
        _ => return,
    };
    let Some(mut bytes) = read(disk, at, length) else {
        return;
    };
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
    match seal {
        GPT => {
            let entries = word(&bytes, 80).min(256) as usize * word(&bytes, 84).min(256) as usize;
            let table = u64::from(word(&bytes, 72)) * 512;
            if let Some(entries) = read(disk, table, entries) {
                bytes[88..92].copy_from_slice(&(!crc32(!0, &entries)).to_le_bytes());
            }
            bytes[16..20].fill(0);
            let size = word(&bytes, 12).clamp(20, 512) as usize;
            let sum = !crc32(!0, &bytes[..size]);
            bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        }
        LVM_LABEL => {
            let sum = crc32(0xf597_a6cf, &bytes[20..]);
            bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        }
        LVM_DESCRIPTION => {
            let (start, length) = (u64::from(word(&bytes, 40)), word(&bytes, 48));
            if let Some(text) = read(disk, at + start, length.min(1 << 16) as usize) {
                let sum = crc32(0xf597_a6cf, &text);
                bytes[56..60].copy_from_slice(&sum.to_le_bytes());
            }
            let sum = crc32(0xf597_a6cf, &bytes[4..]);
            bytes[..4].copy_from_slice(&sum.to_le_bytes());
        }
        XFS_RECORD => {
            let length = u32::from_be_bytes([12, 13, 14, 15].map(|at| bytes[at])).min(1 << 18);
            if let Some(data) = read(disk, at + 512, length as usize) {
                let mut sum = crc32c(crc32c(!0, &bytes[..32]), &[0; 4]);
                sum = !crc32c(crc32c(sum, &bytes[36..328]), &data);
                bytes[32..36].copy_from_slice(&sum.to_le_bytes());
            }
        }
        BTRFS_BLOCK | BTRFS_SUPERBLOCK => {
            let sum = !crc32c(!0, &bytes[32..]);
            bytes[..4].copy_from_slice(&sum.to_le_bytes());
        }
        _ => {
            bytes[place..place + 4].fill(0);
            let guarded = if inverted {
                &bytes[..]
            } else {
                &bytes[..place]
            };
            let sum = crc32c(!0, guarded);
            let sum = if inverted { !sum } else { sum };
            bytes[place..place + 4].copy_from_slice(&sum.to_le_bytes());
        }
    }
    disk.write(at, &bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a corpus that no reader gets far with.
    #[test]
    fn kept_disks_are_looked_into() {
        for (name, input) in crate::corpus::inputs("disk") {
            let disk = disk(&input);
            let found = survey_with_evidence(&[("sda", &disk)]);
            let sound = found.areas.iter().any(|area| area.read_whole.is_none());
            assert!(
                sound && found.free_bytes() > 0 || name.starts_with("found-"),
                "{name}: {:?}",
                found.areas
            );
        }
    }
}
