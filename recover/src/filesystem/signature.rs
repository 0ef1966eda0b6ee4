//! What a volume holds, told from magic numbers at their documented offsets (as libblkid does).

use serde::{Deserialize, Serialize};

use crate::block::{BlockError, BlockRead};

/// What was recognised on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// ext2, ext3 or ext4: the one kind that recover reads.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// LVM2 physical volume.
    Lvm,
    /// LUKS, version 1 or 2.
    Luks,
    /// Member of a Linux software RAID.
    MdRaid,
    /// Swap space.
    Swap,
    /// Swap space that holds a hibernated memory image.
    Hibernation,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// exFAT.
    ExFat,
    /// NTFS.
    Ntfs,
    /// Windows BitLocker.
    BitLocker,
    /// ZFS pool member.
    Zfs,
    /// F2FS.
    F2fs,
    /// JFS.
    Jfs,
    /// ReiserFS.
    ReiserFs,
    /// SquashFS.
    SquashFs,
    /// ISO 9660.
    Iso9660,
    /// Only zeros where signatures would be.
    Blank,
    /// None of these.
    Unknown,
}

impl Content {
    /// Name for messages.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Ext => "an ext2/3/4 file system",
            Self::Xfs => "an XFS file system",
            Self::Btrfs => "a btrfs file system",
            Self::Lvm => "an LVM2 physical volume",
            Self::Luks => "a LUKS encrypted volume",
            Self::MdRaid => "a member of a Linux software RAID (md)",
            Self::Swap => "swap space",
            Self::Hibernation => "swap space with a hibernated memory image",
            Self::Fat => "a FAT file system",
            Self::ExFat => "an exFAT file system",
            Self::Ntfs => "an NTFS file system",
            Self::BitLocker => "a BitLocker encrypted volume",
            Self::Zfs => "a member of a ZFS pool",
            Self::F2fs => "an F2FS file system",
            Self::Jfs => "a JFS file system",
            Self::ReiserFs => "a ReiserFS file system",
            Self::SquashFs => "a SquashFS file system",
            Self::Iso9660 => "an ISO 9660 file system",
            Self::Blank => "only zeros",
            Self::Unknown => "nothing that recover knows",
        }
    }

    /// What the operator can do when the system cannot be planned because of this volume.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Luks | Self::BitLocker => {
                "its key is needed before anything can be planned: restore the disk with `relevo-recover restore` \
                 and start it on a machine where the passphrase can be typed (keys sealed in a TPM do not follow a disk)"
            }
            Self::Lvm | Self::MdRaid | Self::Zfs => {
                "restore the disks with `relevo-recover restore` and start them under QEMU or on hardware with \
                 their own boot loader"
            }
            Self::Ntfs => {
                "Windows cannot be planned yet: restore the disk with `relevo-recover restore`"
            }
            Self::Blank | Self::Unknown => {
                "check that the right disks were backed up, or choose an older recovery point"
            }
            _ => {
                "restore the disk with `relevo-recover restore`, or serve it over NBD, and start it under QEMU or \
                 on hardware with its own boot loader"
            }
        }
    }
}

/// Bytes at the start of a volume that hold every signature but those of md and ZFS.
const HEAD: usize = 72 * 1024;

/// Recognises what the `len` bytes of `disk` from `start` hold.
pub fn probe(disk: &dyn BlockRead, start: u64, len: u64) -> Result<Content, BlockError> {
    let mut head = vec![0u8; HEAD.min(len.min(disk.size().saturating_sub(start)) as usize)];
    disk.read_at(start, &mut head)?;
    let has = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);

    // RAID first: a mirror's member with its superblock at the end looks like what it carries,
    // and writing to one half of a mirror damages the other.
    const MD: &[u8] = &0xa92b_4efc_u32.to_le_bytes();
    if has(0, MD) || has(4096, MD) || md_at_end(disk, start, len, MD)? {
        return Ok(Content::MdRaid);
    }
    if has(0, b"LUKS\xba\xbe") {
        return Ok(Content::Luks);
    }
    if (0..4).any(|sector| has(sector * 512, b"LABELONE") && has(sector * 512 + 24, b"LVM2 001")) {
        return Ok(Content::Lvm);
    }
    if has(3, b"-FVE-FS-") {
        return Ok(Content::BitLocker);
    }
    for page in [4096usize, 8192, 16384, 65536] {
        if has(page - 10, b"SWAPSPACE2") || has(page - 10, b"SWAP-SPACE") {
            return Ok(Content::Swap);
        }
        if has(page - 10, b"S1SUSPEND")
            || has(page - 10, b"S2SUSPEND")
            || has(page - 10, b"LINHIB0001")
        {
            return Ok(Content::Hibernation);
        }
    }
    let table: &[(usize, &[u8], Content)] = &[
        (0, b"XFSB", Content::Xfs),
        (0x10040, b"_BHRfS_M", Content::Btrfs),
        (0x438, b"\x53\xef", Content::Ext),
        (3, b"NTFS    ", Content::Ntfs),
        (3, b"EXFAT   ", Content::ExFat),
        (0x400, b"\x10\x20\xf5\xf2", Content::F2fs),
        (0x8000, b"JFS1", Content::Jfs),
        (0x10034, b"ReIsEr", Content::ReiserFs),
        (0, b"hsqs", Content::SquashFs),
        (0x8001, b"CD001", Content::Iso9660),
        (54, b"FAT1", Content::Fat),
        (82, b"FAT32   ", Content::Fat),
    ];
    for (at, magic, content) in table {
        if has(*at, magic) {
            return Ok(*content);
        }
    }
    if zfs(disk, start, len)? {
        return Ok(Content::Zfs);
    }
    Ok(if head.iter().all(|b| *b == 0) {
        Content::Blank
    } else {
        Content::Unknown
    })
}

/// md keeps its superblock near the end in format 0.90 (last 64 KiB boundary) and 1.0 (8 KiB
/// before the end), see md(4).
fn md_at_end(disk: &dyn BlockRead, start: u64, len: u64, magic: &[u8]) -> Result<bool, BlockError> {
    let places = [
        (len & !0xffff).checked_sub(0x1_0000),
        len.checked_sub(0x2000).map(|at| at & !0xfff),
    ];
    for at in places.into_iter().flatten() {
        let mut found = [0u8; 4];
        if at + 4 <= len && start.saturating_add(at + 4) <= disk.size() {
            disk.read_at(start + at, &mut found)?;
        }
        if found == magic {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An uberblock of ZFS's first label, 128 KiB into the volume, one per KiB.
fn zfs(disk: &dyn BlockRead, start: u64, len: u64) -> Result<bool, BlockError> {
    const AT: u64 = 128 * 1024;
    if len < 2 * AT || start.saturating_add(2 * AT) > disk.size() {
        return Ok(false);
    }
    let mut ring = vec![0u8; AT as usize];
    disk.read_at(start + AT, &mut ring)?;
    Ok(ring
        .chunks_exact(1024)
        .any(|u| u.starts_with(&0x00ba_b10c_u64.to_le_bytes())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::disk_layout::MemoryDisk;

    fn disk_with(at: usize, magic: &[u8]) -> Content {
        let mut bytes = vec![0u8; 1 << 20];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        let disk = MemoryDisk(bytes);
        probe(&disk, 0, disk.size()).unwrap()
    }

    #[test]
    fn each_signature_is_told_from_the_others() {
        assert_eq!(disk_with(0, b""), Content::Blank);
        assert_eq!(disk_with(0, b"XFSB"), Content::Xfs);
        assert_eq!(disk_with(0, b"LUKS\xba\xbe"), Content::Luks);
        assert_eq!(disk_with(0x438, b"\x53\xef"), Content::Ext);
        assert_eq!(disk_with(4086, b"SWAPSPACE2"), Content::Swap);
        assert_eq!(disk_with(4086, b"S1SUSPEND"), Content::Hibernation);
        assert_eq!(
            disk_with(128 * 1024 + 1024, &0x00ba_b10c_u64.to_le_bytes()),
            Content::Zfs
        );
        assert_eq!(disk_with(7, b"garbage"), Content::Unknown);
    }

    #[test]
    fn a_mirror_member_is_not_taken_for_the_file_system_it_carries() {
        for at in [4096, (1 << 20) - 0x1_0000, (1 << 20) - 0x2000] {
            let mut bytes = vec![0u8; 1 << 20];
            bytes[0x438..0x43a].copy_from_slice(b"\x53\xef");
            bytes[at..at + 4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
            let disk = MemoryDisk(bytes);
            assert_eq!(
                probe(&disk, 0, disk.size()).unwrap(),
                Content::MdRaid,
                "superblock at {at}"
            );
        }
    }
}
