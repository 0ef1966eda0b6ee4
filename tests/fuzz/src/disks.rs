//! Inputs for the target `disk`: small disks made by the system's own tools.

use std::collections::BTreeSet;
use std::io::{self, Error};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use relevo_agent::used::memory::Memory;
use relevo_agent::used::whole::Seen;
use relevo_agent::used::{Source, survey};

use crate::targets::disk::{UNIT, seals};

/// A disk that remembers which units of it were read.
struct Remembering(Memory, Mutex<BTreeSet<u64>>);

impl Source for Remembering {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn sector(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Seen<()> {
        let end = (offset + buffer.len() as u64).div_ceil(UNIT);
        let mut read = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        read.extend(offset / UNIT..end);
        self.0.read_at(offset, buffer)
    }
}

/// Disks by name. Needs the tools that `tests/install-prerequisites` installs, and root for the
/// file system that is mounted.
pub fn inputs() -> io::Result<Vec<(&'static str, Vec<u8>)>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("disk.raw");
    let lvm = "devices { use_devicesfile=0 scan_lvs=0 } backup { backup=0 archive=0 }";
    let lv = format!("--driverloaded n -an -Zn -Wn --config '{lvm}'");
    let in_table =
        "printf 'start=2048,size=20480\\nstart=22528,size=20480\\n' | sfdisk -q --no-reread $D";
    let logical = "printf 'label: dos\\nstart=2048,size=8192\\nstart=10240,type=5\\n\
                   start=12288,size=4096\\nstart=18432,size=4096,type=82\\n' | \
                   sfdisk -q --no-reread $D; mkfs.ext2 -q -b 1024 -E offset=1048576 $D 4096";
    let gpt = format!(
        "printf 'label: gpt\\n' | sfdisk -q --no-reread $D; {in_table}; \
         mkfs.ext4 -q -F -b 1024 -O ^has_journal -E offset=1048576 $D 10240"
    );
    let volumes = format!(
        "L=$(losetup -f --show $D); trap 'losetup -d $L' EXIT; pvcreate -q --config '{lvm}' $L; \
         vgcreate -q -s 1M --config '{lvm}' vg $L; lvcreate -q {lv} -l 4 -n one vg; \
         lvcreate -q {lv} -l 4 -n two vg; mkfs.ext2 -q -b 1024 -E offset=1048576 $D 4096"
    );
    // A journal that is not empty: copied while it is mounted.
    let mounted = "mkfs.ext3 -q -F -b 1024 -J size=1 -N 64 $D; mkdir -p $D.d; \
                   mount -o loop,commit=600 $D $D.d; trap 'umount $D.d' EXIT; \
                   echo text > $D.d/file; sync -f $D.d; rm $D.d/file; sync -f $D.d; cp $D $D.copy; \
                   umount $D.d; trap - EXIT; mv $D.copy $D";
    let xfs_mounted = "mkfs.xfs -q -i maxpct=1 $D; mkdir -p $D.d; mount -o loop $D $D.d; \
                       trap 'umount $D.d' EXIT; echo text > $D.d/file; sync $D.d/file; \
                       rm $D.d/file; echo more > $D.d/more; sync $D.d/more; cp $D $D.copy; \
                       umount $D.d; trap - EXIT; mv $D.copy $D";
    let disks: [(&str, u64, &str); 13] = [
        ("ext4", 2, "mkfs.ext4 -q -F -b 1024 -O ^has_journal $D"),
        (
            "ext4-flex",
            9,
            "mkfs.ext4 -q -F -b 1024 -g 1024 -O meta_bg,^resize_inode,bigalloc -C 4096 -N 64 $D",
        ),
        ("ext3-mounted", 4, mounted),
        ("xfs", 300, "mkfs.xfs -q $D"),
        ("xfs-mounted", 300, xfs_mounted),
        ("xfs-4", 300, "mkfs.xfs -q -m crc=0 $D"),
        ("btrfs", 120, "mkfs.btrfs -q $D"),
        ("fat", 2, "mkfs.vfat -F 12 $D"),
        ("ntfs", 2, "mkntfs -q -F -f $D"),
        ("swap", 1, "mkswap -q $D"),
        ("mbr", 12, logical),
        ("gpt", 24, &gpt),
        ("lvm", 16, &volumes),
    ];
    let mut made = Vec::new();
    for (name, mib, script) in disks {
        std::fs::File::create(&path)?.set_len(mib << 20)?;
        let done = Command::new("bash")
            .args(["-euc", script])
            .env("D", &path)
            .output()?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(Error::other(format!("{name}: {said}")));
        }
        made.push((name, input(&path)?));
    }
    Ok(made)
}

/// What describes a disk, as far as it is read: files are no structures.
fn input(path: &Path) -> io::Result<Vec<u8>> {
    let disk = std::fs::read(path)?;
    let remembering = Remembering(Memory::new(disk.clone()), Mutex::default());
    survey(&[("sda", &remembering)]);
    let read = remembering
        .1
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let unit = UNIT as usize;
    let mut input = ((disk.len() >> 20) as u16 - 1).to_le_bytes().to_vec();
    let place = |at: usize| ((at / unit) as u32).to_le_bytes();
    let holds = |at: usize| {
        let filled = disk[at..at + unit].iter().any(|byte| *byte != 0);
        filled && read.contains(&(at as u64 / UNIT))
    };
    let mut at = 0;
    while at < disk.len() {
        if !holds(at) {
            at += unit;
            continue;
        }
        let mut end = at + unit;
        while end < disk.len() && end - at < 60_000 && holds(end) {
            end += unit;
        }
        input.extend(place(at));
        input.extend(((end - at) as u16).to_le_bytes());
        input.extend(&disk[at..end]);
        at = end;
    }
    for (at, sector) in (0..).step_by(512).zip(disk.chunks_exact(512)) {
        if let Some(seal) = seal(at, sector) {
            input.extend(place(at));
            input.extend([0, 0, seal]);
        }
    }
    Ok(input)
}

fn seal(at: usize, sector: &[u8]) -> Option<u8> {
    let has = |place: usize, magic: &[u8]| sector[place..].starts_with(magic);
    Some(match () {
        () if has(0, b"EFI PART") => seals::GPT,
        () if has(0, &[0xfe, 0xed, 0xba, 0xbe]) => seals::XFS_RECORD,
        () if has(0, b"XFSB") => seals::XFS_SUPERBLOCK,
        () if has(0, b"XAGF") => seals::XFS_GROUP,
        () if has(0, b"AB3B") => seals::XFS_BLOCK,
        () if has(0x40, b"_BHRfS_M") => seals::BTRFS_SUPERBLOCK,
        () if at == 1024 && has(56, &[0x53, 0xef]) => seals::EXT_SUPERBLOCK,
        () if has(0, b"LABELONE") => seals::LVM_LABEL,
        () if has(4, b" LVM2 x[5A%r0N*>") => seals::LVM_DESCRIPTION,
        // A block of a tree tells its own address, but not where that is; its level is small.
        () if at.is_multiple_of(16_384)
            && at >= 1 << 20
            && sector[0..4] != [0; 4]
            && sector[63] == 1 =>
        {
            seals::BTRFS_BLOCK
        }
        () => return None,
    })
}
