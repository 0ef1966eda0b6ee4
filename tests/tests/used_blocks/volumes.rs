//! Mirrors and logical volumes: what lies below file systems.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use relevo_tests::disks::sparse;
use relevo_tests::filesystems::{Loop, marked_sectors, run};
use relevo_tests::lab::Lab;
use relevo_tests::program::finish;

use super::MIB;
use super::part::{ext, files, gpt_disk};
use super::report::{area, assert_looked_into, assert_read_whole, bytes};

/// A superblock of a software RAID, version 1.2, as mdadm writes it for one of two members.
fn raid_superblock(level: u32, member: u32, data_sectors: u64) -> Vec<u8> {
    let mut block = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efcu32.to_le_bytes());
    put(4, &1u32.to_le_bytes());
    put(16, &[7; 16]);
    put(32, b"lab:0");
    put(72, &level.to_le_bytes());
    put(80, &data_sectors.to_le_bytes());
    put(92, &2u32.to_le_bytes());
    put(128, &2048u64.to_le_bytes());
    put(136, &data_sectors.to_le_bytes());
    put(144, &8u64.to_le_bytes());
    put(160, &member.to_le_bytes());
    put(168, &[member as u8 + 1; 16]);
    put(200, &20u64.to_le_bytes());
    put(208, &u64::MAX.to_le_bytes());
    put(220, &128u32.to_le_bytes());
    for place in 0..128u16 {
        let role = if place < 2 { place } else { 0xffff };
        put(256 + 2 * usize::from(place), &role.to_le_bytes());
    }
    let words = block[..512].as_chunks::<4>().0.iter();
    let sum: u64 = words.map(|word| u64::from(u32::from_le_bytes(*word))).sum();
    let sum = (sum & 0xffff_ffff) as u32 + (sum >> 32) as u32;
    block[216..220].copy_from_slice(&sum.to_le_bytes());
    block
}

/// Guards: mirrors are looked into, other arrays are not, though one member of a stripe looks
/// like the beginning of a file system.
pub fn members_of_mirrors_are_looked_into() {
    let lab = Lab::new();
    lab.enroll_agent("raid");
    let files = files(&lab, 5);
    let disk = lab.path("raid.raw");
    let starts = gpt_disk(&disk, &[100, 100]);
    let part = ext(99, &["mkfs.ext4", "-q", "-F"]);
    let raw = OpenOptions::new()
        .write(true)
        .open(&disk)
        .unwrap_or_else(|e| panic!("{e}"));
    for (level, start) in [1, 0].into_iter().zip(&starts) {
        part.fill(&disk, start + MIB, &files);
        let superblock = raid_superblock(level, 1, 99 * 2048);
        raw.write_all_at(&superblock, start + 4096)
            .unwrap_or_else(|e| panic!("{e}"));
        let device = Loop::over(&disk, *start, 100 * MIB);
        let told = run("mdadm", &["--examine", device.device()]);
        let level = format!("raid{level}");
        assert!(told.contains(&level) && told.contains("correct"), "{told}");
    }
    let report = lab.backup("raid", &disk);
    assert_looked_into(&report, starts[0] + MIB, "ext4");
    assert_read_whole(&report, starts[1], "RAID other than a mirror");
    let restored = lab.restore("raid");
    part.verify(&restored, starts[0] + MIB, &files);
    part.verify(&restored, starts[1] + MIB, &files);
    assert_eq!(marked_sectors(&restored, starts[0], 100 * MIB), 0);
    assert!(marked_sectors(&restored, starts[1], 100 * MIB) > 1000);
}

/// Guards: file systems in linear and striped volumes over two disks are looked into when both
/// are imaged, and read whole when one is; what no volume has is free.
pub fn logical_volumes_are_looked_into() {
    let lab = Lab::new();
    lab.enroll_agent("lvm");
    let files = files(&lab, 6);
    let disks = ["a.raw", "b.raw"].map(|name| lab.path(name));
    disks.iter().for_each(|disk| drop(sparse(disk, 164 * MIB)));
    let loops = disks.each_ref().map(|disk| Loop::over(disk, 0, 0));
    let [a, b] = loops.each_ref().map(|l| l.device().to_string());
    let config = format!(
        "devices {{ global_filter=[\"a|^{a}$|\",\"a|^{b}$|\",\"r|.*|\"] use_devicesfile=0 }} \
         backup {{ backup=0 archive=0 }} global {{ locking_dir=\"{}\" }}",
        lab.text("lock")
    );
    let lvm = |arguments: &[&str]| {
        let more = ["--config", &config, "--driverloaded", "n"];
        run("lvm", &[arguments, &more[..]].concat());
    };
    lvm(&["pvcreate", &a, &b]);
    lvm(&["vgcreate", "-s", "4M", "lab", &a, &b]);
    let create = ["lvcreate", "-an", "-Zn", "-Wn"];
    lvm(&[&create[..], &["-l", "16", "-n", "linear", "lab", &a]].concat());
    lvm(&[
        &create[..],
        &["-l", "32", "-i", "2", "-I", "64k", "-n", "striped", "lab"],
    ]
    .concat());
    drop(loops);
    // The linear volume is the first on its disk, behind the first MiB; the striped one has the
    // following extents there, and the first of the other disk.
    let linear = ext(64, &["mkfs.ext4", "-q", "-F"]);
    linear.fill(&disks[0], MIB, &files);
    let striped = ext(128, &["mkfs.ext4", "-q", "-F"]);
    let volume = lab.path("striped.raw");
    sparse(&volume, 128 * MIB);
    striped.fill(&volume, 0, &files);
    let legs = [(&disks[0], 65 * MIB), (&disks[1], MIB)];
    stripe(&volume, &legs, true);

    let mut both = lab.backup_command("lvm", &disks[0]);
    both.arg("--disk")
        .arg(format!("{}=sdb", disks[1].display()));
    let report = finish(both).expect_json();
    assert_looked_into(&report, MIB, "ext4");
    assert_eq!(area(&report, MIB)["volume"], "lab/linear");
    assert_looked_into(&report, 65 * MIB, "ext4");
    assert_eq!(area(&report, 65 * MIB)["volume"], "lab/striped");
    let free = 2 * 164 * MIB - 192 * MIB - 16 * MIB;
    assert!(bytes(&report, "free_bytes") > free, "{report}");
    let restored = ["sda", "sdb"].map(|disk| {
        let to = lab.path(&format!("restored-{disk}.raw"));
        let target = to.to_string_lossy();
        lab.recover(&["restore", "lvm", "--disk", disk, "--to", &target])
            .expect_success();
        to
    });
    linear.verify(&restored[0], MIB, &files);
    let volume = lab.path("striped-restored.raw");
    sparse(&volume, 128 * MIB);
    stripe(
        &volume,
        &[(&restored[0], 65 * MIB), (&restored[1], MIB)],
        false,
    );
    striped.verify(&volume, 0, &files);
    assert_eq!(marked_sectors(&restored[0], 0, 164 * MIB), 0);
    assert_eq!(marked_sectors(&restored[1], 0, 164 * MIB), 0);

    let one = lab.backup("lvm", &disks[0]);
    assert_looked_into(&one, MIB, "ext4");
    assert_read_whole(&one, 65 * MIB, "not imaged in this run");
}

/// Copies between a volume and its stripes of 64 KiB.
fn stripe(volume: &Path, legs: &[(&PathBuf, u64)], apart: bool) {
    let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
    let volume = open(volume).unwrap_or_else(|e| panic!("{e}"));
    let legs: Vec<_> = legs
        .iter()
        .map(|(path, base)| (open(path).unwrap_or_else(|e| panic!("{e}")), *base))
        .collect();
    let mut bytes = vec![0; 65_536];
    for number in 0..128 * MIB / 65_536 {
        let (leg, base) = &legs[(number % legs.len() as u64) as usize];
        let (at, place) = (number * 65_536, base + number / legs.len() as u64 * 65_536);
        let (from, from_at, to, to_at) = match apart {
            true => (&volume, at, leg, place),
            false => (leg, place, &volume, at),
        };
        from.read_exact_at(&mut bytes, from_at)
            .unwrap_or_else(|e| panic!("{e}"));
        if bytes.iter().any(|byte| *byte != 0) {
            to.write_all_at(&bytes, to_at)
                .unwrap_or_else(|e| panic!("{e}"));
        }
    }
}
