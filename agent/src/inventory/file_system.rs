//! Which file system is on a partition, by its signature (the magic numbers of `blkid`).

use crate::disk::Disk;

/// A file system as recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Such as `ext4`; empty when none was recognised.
    pub kind: String,
    /// Its UUID or volume id.
    pub uuid: Option<String>,
}

/// Bytes that hold every signature looked for: btrfs has its own farthest in, at 64 KiB.
const HEAD: u64 = 68 * 1024;

/// Looks at the bytes from `start`, `size` of them.
pub fn detect(disk: &Disk, start: u64, size: u64) -> FileSystem {
    let size = size.min(disk.size().saturating_sub(start)).min(HEAD);
    let mut head = vec![0; size as usize];
    match disk.read_at(start, &mut head) {
        Ok(()) => recognise(&head),
        Err(_) => FileSystem::default(),
    }
}

fn recognise(head: &[u8]) -> FileSystem {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let (kind, uuid) = if at(1024 + 56, &[0x53, 0xef]) {
        // Feature words at 0x5c and 0x60: a journal makes ext3, extents and later ones ext4.
        let journal = word(head, 1024 + 0x5c) & 0x4 != 0;
        let newer = word(head, 1024 + 0x60) & !0x1f != 0;
        let kind = match (journal, newer) {
            (_, true) => "ext4",
            (true, false) => "ext3",
            (false, false) => "ext2",
        };
        (kind, uuid(head, 1024 + 0x68))
    } else if at(0, b"XFSB") {
        ("xfs", uuid(head, 32))
    } else if at(0x10040, b"_BHRfS_M") {
        ("btrfs", uuid(head, 0x10020))
    } else if at(0, b"LUKS\xba\xbe") {
        ("crypto_LUKS", text(head, 168, 40))
    } else if at(512, b"LABELONE") && at(512 + 24, b"LVM2 001") {
        ("LVM2_member", None)
    } else if at(4096, &[0xfc, 0x4e, 0x2b, 0xa9]) {
        ("linux_raid_member", uuid(head, 4096 + 16))
    } else if at(4086, b"SWAPSPACE2") {
        ("swap", uuid(head, 1024 + 12))
    } else if at(3, b"NTFS    ") {
        let id = head
            .get(72..80)
            .map(|b| b.iter().rev().map(|b| format!("{b:02X}")).collect());
        ("ntfs", id)
    } else if at(82, b"FAT32   ") {
        ("vfat", volume_id(head, 67))
    } else if at(54, b"FAT16   ") || at(54, b"FAT12   ") {
        ("vfat", volume_id(head, 39))
    } else if at(0, b"hsqs") {
        ("squashfs", None)
    } else {
        ("", None)
    };
    FileSystem {
        kind: kind.into(),
        uuid,
    }
}

fn word(head: &[u8], at: usize) -> u32 {
    let bytes = head.get(at..).and_then(<[u8]>::first_chunk::<4>);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn uuid(head: &[u8], at: usize) -> Option<String> {
    let hex: String = head
        .get(at..at + 16)?
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let groups = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Some(groups.join("-"))
}

fn volume_id(head: &[u8], at: usize) -> Option<String> {
    head.get(at..at + 4)?;
    let id = word(head, at);
    Some(format!("{:04X}-{:04X}", id >> 16, id & 0xffff))
}

fn text(head: &[u8], at: usize, length: usize) -> Option<String> {
    let bytes = head.get(at..at + length)?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(length);
    std::str::from_utf8(&bytes[..end]).ok().map(String::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn signatures_are_told_apart() {
        let mut ext = vec![0; 4096];
        ext[1080..1082].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(recognise(&ext).kind, "ext2");
        ext[1024 + 0x5c] = 4;
        assert_eq!(recognise(&ext).kind, "ext3");
        ext[1024 + 0x60] = 0x40;
        ext[1024 + 0x68] = 0xab;
        let found = recognise(&ext);
        assert_eq!(found.kind, "ext4");
        assert_eq!(found.uuid.unwrap(), "ab000000-0000-0000-0000-000000000000");
        let mut fat = vec![0; 512];
        fat[82..90].copy_from_slice(b"FAT32   ");
        fat[67..71].copy_from_slice(&[0x34, 0x12, 0xcd, 0xab]);
        assert_eq!(recognise(&fat).uuid.unwrap(), "ABCD-1234");
        assert_eq!(recognise(&[]), FileSystem::default());
    }

    proptest! {
        /// Guards against images made to break the agent.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
            let _ = recognise(&bytes);
        }

        #[test]
        fn truncated_super_blocks_are_survived(len in 1082usize..1300) {
            let mut ext = vec![0xff; len];
            ext[1080..1082].copy_from_slice(&[0x53, 0xef]);
            let _ = recognise(&ext);
        }
    }
}
