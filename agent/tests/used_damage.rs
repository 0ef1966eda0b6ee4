//! Damaged structures: no panic, no endless reading, and where structures are guarded by
//! checksums nothing is called free that is in use.
//!
//! Without checksums (MBR, FAT, NTFS, swap, ext2 and ext3, XFS of version 4) damage can look
//! sound; there only what the readers demand instead is known: copies that agree, counts, chains.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use relevo_agent::used::memory::Memory;
use relevo_agent::used::whole::{Seen, demand};
use relevo_agent::used::{Source, Survey, UsedMap, survey};

const MIB: u64 = 1 << 20;
/// Damages tried on each disk.
const ROUNDS: u64 = 300;

/// A disk that counts what is read of it.
struct Counting<'a>(&'a Memory, AtomicU64);

impl Source for Counting<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn sector(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Seen<()> {
        let read = self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        assert!(read < 1 << 30, "a gigabyte was read of a small disk");
        demand(buffer.len() <= 16 << 20, "much at once")?;
        self.0.read_at(offset, buffer)
    }
}

fn look(disk: &Memory) -> Survey {
    let counting = Counting(disk, AtomicU64::new(0));
    let found = survey(&[("sda", &counting)]);
    let mut end = 0;
    for (from, to) in found.maps[0].free_runs() {
        assert!(*from >= end && from < to && *to <= disk.size(), "{found:?}");
        end = *to;
    }
    found
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program)
        .args(arguments)
        .env("MTOOLS_SKIP_CHECK", "1")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}: tests/install-prerequisites"));
    assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
}

/// A disk made by `make` in a file of `mib` MiB, at `offset`.
fn made(mib: u64, offset: u64, make: impl FnOnce(&str, &Path)) -> Memory {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    for number in 0..20u32 {
        let bytes: Vec<u8> = (0..9000 * (number % 3) + 10)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 1)
            .collect();
        std::fs::write(files.join(format!("file-{number}")), bytes).unwrap();
    }
    let path = dir.path().join("disk.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(mib * MIB).unwrap();
    make(path.to_str().unwrap(), &files);
    let mut disk = Memory::zeros(mib * MIB + 3 * offset);
    let bytes = std::fs::read(&path).unwrap();
    for (number, piece) in (0..).zip(bytes.chunks(4096)) {
        if piece.iter().any(|byte| *byte != 0) {
            disk.write(offset + number * 4096, piece);
        }
    }
    disk
}

/// Puts a GPT of one partition around what begins at the first MiB.
fn with_gpt(mut disk: Memory) -> Memory {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(disk.size())
        .unwrap();
    let end = format!("1:2048:+{}M", disk.size() / MIB - 3);
    run("sgdisk", &["-n", &end, path.to_str().unwrap()]);
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - (1 << 20);
    disk.write(0, &bytes[..1 << 20]);
    disk.write(end as u64, &bytes[end..]);
    disk
}

/// Tries damages, and returns how often something was free that had been in use.
fn damage(disk: &Memory, what: &str) -> usize {
    let sound = look(disk);
    let area = sound.areas.iter().find(|a| a.what == what);
    let area = area.unwrap_or_else(|| panic!("no {what} in {:?}", sound.areas));
    assert_eq!(area.read_whole, None);
    assert!(
        sound.maps[0].free_bytes() > disk.size() / 2,
        "{:?}",
        sound.areas
    );
    let places: Vec<_> = disk.written().collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut wrong = 0;
    for _ in 0..ROUNDS {
        let mut damaged = disk.clone();
        for _ in 0..1 + draw() % 3 {
            let place = places[draw() as usize % places.len()] + draw() % 4096;
            let bytes = draw().to_le_bytes();
            damaged.write(place, &bytes[..1 + draw() as usize % 4]);
        }
        let found = look(&damaged);
        let freed: &UsedMap = &sound.maps[0];
        wrong += usize::from(!freed.used_since(&found.maps[0]).is_empty());
    }
    wrong
}

#[test]
fn ext4_with_checksums_is_never_believed_too_much() {
    let disk = made(24, MIB, |path, files| {
        let files = files.to_str().unwrap();
        run(
            "mkfs.ext4",
            &["-q", "-b", "1024", "-g", "1024", "-d", files, path],
        );
    });
    assert_eq!(damage(&with_gpt(disk), "ext4"), 0);
}

#[test]
fn xfs_with_checksums_is_never_believed_too_much() {
    let disk = made(320, MIB, |path, files| {
        let proto = files.with_file_name("proto");
        let big = files.join("file-2");
        let text = format!(
            "/none\n0 0\nd--755 0 0\nbig ---644 0 0 {}\n$\n",
            big.display()
        );
        std::fs::write(&proto, text).unwrap();
        run("mkfs.xfs", &["-q", "-p", proto.to_str().unwrap(), path]);
    });
    assert_eq!(damage(&with_gpt(disk), "xfs"), 0);
}

#[test]
fn btrfs_is_never_believed_too_much() {
    let disk = made(160, MIB, |path, files| {
        run(
            "mkfs.btrfs",
            &["-q", "--rootdir", files.to_str().unwrap(), path],
        );
    });
    assert_eq!(damage(&with_gpt(disk), "btrfs"), 0);
}

/// Guards only against panics and endless reading.
#[test]
fn damage_without_checksums_is_survived() {
    let disks = [
        (
            "ext4",
            made(16, 0, |path, files| {
                run(
                    "mkfs.ext2",
                    &["-q", "-b", "1024", "-d", files.to_str().unwrap(), path],
                );
            }),
        ),
        (
            "vfat",
            made(16, 0, |path, files| {
                run("mkfs.vfat", &["-F", "16", path]);
                run("mcopy", &["-i", path, "-s", files.to_str().unwrap(), "::/"]);
            }),
        ),
        (
            "ntfs",
            made(16, 0, |path, _| run("mkntfs", &["-q", "-F", "-f", path])),
        ),
        (
            "xfs",
            made(320, 0, |path, _| {
                run("mkfs.xfs", &["-q", "-m", "crc=0", path])
            }),
        ),
        ("swap", made(16, 0, |path, _| run("mkswap", &["-q", path]))),
    ];
    for (what, disk) in disks {
        let wrong = damage(&disk, what);
        println!("{what}: {wrong} of {ROUNDS} damages went unnoticed");
    }
}
