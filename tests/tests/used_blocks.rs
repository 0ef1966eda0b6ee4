//! Only what is in use is read, and nothing that is: disks made by the real tools, imaged,
//! restored, checked by these tools and compared file by file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use relevo_tests::disks::{allocated, noise, sha256, sparse};
use relevo_tests::filesystems::{
    Loop, Mount, compare, copy, copy_image, delete_marked, marked_sectors, plant, run, run_with,
    write_marked,
};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Running, finish, wait_while};
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Bytes of files that are deleted again from each file system.
const MARKED: usize = 8 << 20;

fn bytes(report: &Value, name: &str) -> u64 {
    report[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// What the report says of the area at an offset.
fn area(report: &Value, offset: u64) -> &Value {
    let areas = report["areas"].as_array().map_or(&[][..], Vec::as_slice);
    let found = areas
        .iter()
        .find(|a| a["offset"] == offset && a["what"] != "LVM2 free");
    found.unwrap_or_else(|| panic!("nothing at {offset} in {report}"))
}

fn assert_looked_into(report: &Value, offset: u64, what: &str) {
    let area = area(report, offset);
    assert_eq!(area["what"], what, "{area}");
    assert!(area["read_whole"].is_null(), "{area}");
    assert!(area["read_more"].is_null(), "{area}");
    assert!(bytes(area, "used_bytes") < bytes(area, "length"), "{area}");
}

fn assert_read_whole(report: &Value, offset: u64, why: &str) {
    let area = area(report, offset);
    let said = area["read_whole"].as_str().unwrap_or_default();
    assert!(said.contains(why), "'{why}' is not said in {area}");
    assert_eq!(area["used_bytes"], area["length"], "{area}");
}

/// A file system on a part of a disk.
struct Part {
    what: &'static str,
    mib: u64,
    /// Program and arguments; the device comes last.
    make: &'static [&'static str],
    /// As mount(8) calls it; empty for FAT, which is filled by mtools.
    kind: &'static str,
    options: &'static str,
    /// Program and arguments that find fault with it; the device comes last.
    check: &'static [&'static str],
}

const EXT_CHECK: &[&str] = &["e2fsck", "-fn"];
const FAT_CHECK: &[&str] = &["fsck.vfat", "-n"];

const fn ext(mib: u64, make: &'static [&'static str]) -> Part {
    let (what, kind, options) = ("ext4", "ext4", "nodiscard");
    Part {
        what,
        mib,
        make,
        kind,
        options,
        check: EXT_CHECK,
    }
}

const fn fat(mib: u64, make: &'static [&'static str]) -> Part {
    let (what, kind, options) = ("vfat", "", "");
    Part {
        what,
        mib,
        make,
        kind,
        options,
        check: FAT_CHECK,
    }
}

const fn btrfs(mib: u64, make: &'static [&'static str]) -> Part {
    let (what, kind, options) = ("btrfs", "btrfs", "nodiscard");
    Part {
        what,
        mib,
        make,
        kind,
        options,
        check: &["btrfs", "check", "--readonly"],
    }
}

const PARTS: &[Part] = &[
    ext(96, &["mkfs.ext4", "-q", "-F"]),
    ext(48, &["mkfs.ext4", "-q", "-F", "-b", "1024"]),
    ext(64, &["mkfs.ext2", "-q", "-F"]),
    ext(64, &["mkfs.ext3", "-q", "-F"]),
    ext(
        128,
        &["mkfs.ext4", "-q", "-F", "-O", "bigalloc", "-C", "16384"],
    ),
    ext(
        300,
        &["mkfs.ext4", "-q", "-F", "-O", "meta_bg,64bit,^resize_inode"],
    ),
    ext(
        64,
        &[
            "mkfs.ext4",
            "-q",
            "-F",
            "-O",
            "^metadata_csum,uninit_bg,^64bit,^flex_bg",
        ],
    ),
    ext(
        64,
        &[
            "mkfs.ext4",
            "-q",
            "-F",
            "-O",
            "sparse_super2,^has_journal",
            "-E",
            "lazy_itable_init=1",
        ],
    ),
    Part {
        what: "xfs",
        mib: 320,
        make: &["mkfs.xfs", "-q", "-f"],
        kind: "xfs",
        options: "nodiscard",
        check: &["xfs_repair", "-n"],
    },
    btrfs(
        256,
        &["mkfs.btrfs", "-q", "-f", "-d", "single", "-m", "single"],
    ),
    btrfs(320, &["mkfs.btrfs", "-q", "-f", "-d", "dup", "-m", "dup"]),
    fat(16, &["mkfs.vfat", "-F", "12"]),
    fat(40, &["mkfs.vfat", "-F", "16"]),
    fat(64, &["mkfs.vfat", "-F", "32", "-s", "1"]),
    Part {
        what: "ntfs",
        mib: 64,
        make: &["mkntfs", "-q", "-F", "-f"],
        kind: "ntfs",
        options: "rw",
        check: &["ntfsfix", "-n"],
    },
];

impl Part {
    /// Makes it, fills it, and deletes a part of that.
    fn fill(&self, disk: &Path, offset: u64, files: &Path) {
        let device = Loop::over(disk, offset, self.mib * MIB);
        let [program, arguments @ ..] = self.make else {
            return;
        };
        run(program, &[arguments, &[device.device()]].concat());
        if self.kind.is_empty() {
            return fill_fat(device.device(), files);
        }
        let mount = device.mount(self.kind, self.options);
        write_marked(mount.path(), MARKED);
        copy(files, mount.path());
        if self.kind == "btrfs" {
            let path = mount.path().to_string_lossy().into_owned();
            run("btrfs", &["subvolume", "create", &format!("{path}/sub")]);
            copy(files, &mount.path().join("sub"));
            run(
                "btrfs",
                &["subvolume", "snapshot", &path, &format!("{path}/snap")],
            );
            std::fs::remove_dir_all(mount.path().join("sub/folder-1"))
                .unwrap_or_else(|e| panic!("{e}"));
            delete_marked(&mount.path().join("snap"));
        }
        run("sync", &["-f", &mount.path().to_string_lossy()]);
        delete_marked(mount.path());
    }

    /// Checks it with its own tool, and compares its files.
    fn verify(&self, disk: &Path, offset: u64, files: &Path) {
        let device = Loop::over(disk, offset, self.mib * MIB);
        let [program, arguments @ ..] = self.check else {
            return;
        };
        run(program, &[arguments, &[device.device()]].concat());
        if self.kind.is_empty() {
            let out = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
            let target = out.path().to_string_lossy().into_owned();
            run(
                "mcopy",
                &["-s", "-n", "-i", device.device(), "::/*", &target],
            );
            return compare(files, out.path());
        }
        let read_only = if self.kind == "xfs" {
            "ro,nouuid"
        } else {
            "ro"
        };
        let mount = device.mount(self.kind, read_only);
        if self.kind == "btrfs" {
            let at = |name: &str| mount.path().join(name);
            compare(&files.join("folder-2"), &at("sub/folder-2"));
            compare(&files.join("folder-1"), &at("snap/folder-1"));
            compare(&files.join("folder-1"), &at("folder-1"));
            assert!(!at("sub/folder-1").exists());
            run(
                "cmp",
                &[&files.join("big.bin"), &at("big.bin")].map(|p| p.to_str().unwrap_or("")),
            );
            return;
        }
        compare(files, mount.path());
    }
}

fn fill_fat(device: &str, files: &Path) {
    let marked = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    write_marked(marked.path(), MARKED / 2);
    let all = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{e}"));
        entries
            .flatten()
            .map(|e| e.path().to_string_lossy().into_owned())
            .collect()
    };
    for dir in [marked.path(), files] {
        let names = all(dir);
        let mut arguments = vec!["-s", "-i", device];
        arguments.extend(names.iter().map(String::as_str));
        arguments.push("::/");
        run("mcopy", &arguments);
    }
    run("mdel", &["-i", device, "::/marked-*"]);
    run("sync", &[]);
}

/// A disk with a GPT of partitions of so many MiB, and where they begin.
fn gpt_disk(path: &Path, sizes: &[u64]) -> Vec<u64> {
    let total: u64 = sizes.iter().sum();
    sparse(path, (total + 4) * MIB);
    let mut script = String::from("label: gpt\n");
    let mut at = MIB;
    let mut starts = Vec::new();
    for size in sizes {
        script += &format!("start={}, size={}\n", at / 512, size * MIB / 512);
        starts.push(at);
        at += size * MIB;
    }
    partition(path, &script);
    starts
}

fn partition(path: &Path, script: &str) {
    let mut sfdisk = Command::new("sfdisk");
    sfdisk
        .args(["-q", "--no-reread", "--no-tell-kernel"])
        .arg(path);
    let mut child = sfdisk
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("sfdisk: {e}"));
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(script.as_bytes())
            .unwrap_or_else(|e| panic!("{e}"));
    }
    assert!(
        child.wait().is_ok_and(|status| status.success()),
        "{script}"
    );
}

fn files(lab: &Lab, seed: u64) -> PathBuf {
    let dir = lab.path(&format!("files-{seed}"));
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{e}"));
    plant(&dir, seed);
    dir
}

/// Guards the whole promise for every file system: what is free is neither read nor restored,
/// what is used is, and what cannot be known is read whole and said. `--all-blocks` reads all.
fn every_file_system_is_restored_without_what_it_freed() {
    let lab = Lab::new();
    lab.enroll_agent("all");
    let disk = lab.path("disk.raw");
    let files = files(&lab, 1);
    let mut sizes: Vec<_> = PARTS.iter().map(|part| part.mib).collect();
    // Swap, swap that somebody sleeps in, an encrypted one, and one of nobody knows what.
    sizes.extend([16, 16, 8, 8]);
    let starts = gpt_disk(&disk, &sizes);
    for (part, start) in PARTS.iter().zip(&starts) {
        part.fill(&disk, *start, &files);
        let marked = marked_sectors(&disk, *start, part.mib * MIB);
        assert!(
            marked > 1000,
            "{:?} left {marked} marked sectors",
            part.make
        );
    }
    let [swap, asleep, encrypted, unknown] = starts[PARTS.len()..] else {
        panic!("{starts:?}")
    };
    let raw = OpenOptions::new().write(true).open(&disk);
    let raw = raw.unwrap_or_else(|e| panic!("{e}"));
    let write = |at: u64, bytes: &[u8]| {
        raw.write_all_at(bytes, at)
            .unwrap_or_else(|e| panic!("{e}"))
    };
    for at in [swap, asleep] {
        let device = Loop::over(&disk, at, 16 * MIB);
        run("mkswap", &[device.device()]);
        drop(device);
        write(at + 65_536, &b"a freed block...".repeat(65_536));
    }
    write(asleep + 4086, b"S1SUSPEND\0");
    noise(&raw, encrypted, 4 << 20, 5);
    write(encrypted, b"LUKS\xba\xbe\0\x02");
    noise(&raw, unknown, 4 << 20, 6);

    let report = lab.backup("all", &disk);
    for (part, start) in PARTS.iter().zip(&starts) {
        assert_looked_into(&report, *start, part.what);
    }
    assert_looked_into(&report, swap, "swap");
    assert_read_whole(&report, asleep, "sleeping");
    assert_read_whole(&report, encrypted, "encrypted");
    assert_read_whole(&report, unknown, "nothing in it is recognised");
    let (read, free) = (bytes(&report, "read_bytes"), bytes(&report, "free_bytes"));
    let held = allocated(&disk);
    eprintln!(
        "of {} bytes, {held} allocated, {free} are free, {read} were read",
        bytes(&report, "disk_bytes")
    );
    assert!(
        read + 15 * (MARKED as u64) / 2 < held,
        "{read} of {held} bytes were read"
    );

    let restored = lab.restore("all");
    for (part, start) in PARTS.iter().zip(&starts) {
        part.verify(&restored, *start, &files);
        let marked = marked_sectors(&restored, *start, part.mib * MIB);
        assert_eq!(marked, 0, "{:?} has freed blocks in the image", part.make);
    }
    assert_eq!(marked_sectors(&restored, swap, 16 * MIB), 0);
    assert_eq!(marked_sectors(&restored, asleep, 16 * MIB), 2048);

    let mut all = lab.backup_command("all", &disk);
    all.arg("--all-blocks");
    let report = finish(all).expect_json();
    assert_eq!(bytes(&report, "free_bytes"), 0);
    assert_eq!(sha256(&lab.restore("all")), sha256(&disk));
}

/// Guards: partitions of an MBR, logical ones among them; XFS of the older version, filled by
/// mkfs since kernels may not mount it any more; and a file system that fills the disk.
fn other_layouts_are_looked_into() {
    let lab = Lab::new();
    lab.enroll_agent("mbr");
    let files = files(&lab, 2);
    let disk = lab.path("mbr.raw");
    sparse(&disk, 600 * MIB);
    partition(
        &disk,
        "label: dos\nstart=2048,size=131072,type=83\nstart=133120,type=5\n\
         start=135168,size=98304,type=83\nstart=235520,size=32768,type=82\n\
         start=270336,size=819200,type=83\n",
    );
    let at = [2048u64, 135_168, 235_520, 270_336].map(|sector| sector * 512);
    let one = ext(64, &["mkfs.ext4", "-q", "-F"]);
    let two = ext(48, &["mkfs.ext3", "-q", "-F"]);
    one.fill(&disk, at[0], &files);
    two.fill(&disk, at[1], &files);
    run("mkswap", &[Loop::over(&disk, at[2], 16 * MIB).device()]);
    let proto = lab.path("proto");
    let big = files.join("big.bin");
    let text = format!(
        "/none\n0 0\nd--755 0 0\nbig ---644 0 0 {}\n$\n",
        big.display()
    );
    std::fs::write(&proto, text).unwrap_or_else(|e| panic!("{e}"));
    let xfs = Loop::over(&disk, at[3], 400 * MIB);
    let proto = proto.to_string_lossy();
    run(
        "mkfs.xfs",
        &["-q", "-f", "-K", "-m", "crc=0", "-p", &proto, xfs.device()],
    );
    drop(xfs);
    let report = lab.backup("mbr", &disk);
    for (at, what) in at.iter().zip(["ext4", "ext4", "swap", "xfs"]) {
        assert_looked_into(&report, *at, what);
    }
    let restored = lab.restore("mbr");
    one.verify(&restored, at[0], &files);
    two.verify(&restored, at[1], &files);
    run(
        "xfs_repair",
        &["-n", Loop::over(&restored, at[3], 400 * MIB).device()],
    );
    for file in [&disk, &restored] {
        let out = OpenOptions::new()
            .write(true)
            .open(file)
            .unwrap_or_else(|e| panic!("{e}"));
        // Only the others have freed blocks.
        out.write_all_at(&vec![0; (at[3] - at[0]) as usize], at[0])
            .unwrap_or_else(|e| panic!("{e}"));
    }
    assert_eq!(
        sha256(&restored),
        sha256(&disk),
        "all of XFS that was ever written is there"
    );

    let whole = lab.path("whole.raw");
    sparse(&whole, 100 * MIB);
    let part = ext(100, &["mkfs.ext4", "-q", "-F"]);
    part.fill(&whole, 0, &files);
    lab.enroll_agent("whole");
    let report = lab.backup("whole", &whole);
    assert_looked_into(&report, 0, "ext4");
    part.verify(&lab.restore("whole"), 0, &files);
}

/// Guards what is allocated by a journal or log only: the image of a mounted file system has
/// every file that was synced.
fn mounted_file_systems_lose_nothing() {
    let lab = Lab::new();
    let (first, second) = (files(&lab, 3), files(&lab, 4));
    let makes: [(&str, &[&str], u64); 4] = [
        ("ext4", &["mkfs.ext4", "-q", "-F"], 128),
        ("ext3", &["mkfs.ext3", "-q", "-F"], 128),
        ("btrfs", &["mkfs.btrfs", "-q", "-f"], 256),
        ("xfs", &["mkfs.xfs", "-q", "-f"], 320),
    ];
    for (name, make, mib) in makes {
        let live = lab.path(&format!("live-{name}.raw"));
        sparse(&live, mib * MIB);
        let device = Loop::over(&live, 0, 0);
        run(make[0], &[&make[1..], &[device.device()]].concat());
        // Nothing but what is synced is committed meanwhile.
        let options = if name == "xfs" {
            "nodiscard"
        } else {
            "nodiscard,commit=600"
        };
        let kind = if name == "ext3" { "ext4" } else { name };
        let mount = device.mount(kind, options);
        let before = mount.path().join("before");
        std::fs::create_dir(&before).unwrap_or_else(|e| panic!("{e}"));
        copy(&first, &before);
        write_marked(mount.path(), MARKED);
        run("sync", &["-f", &mount.path().to_string_lossy()]);
        delete_marked(mount.path());
        let after = mount.path().join("after");
        std::fs::create_dir(&after).unwrap_or_else(|e| panic!("{e}"));
        copy(&second, &after);
        sync_each(&after);
        let disk = copy_image(&live, &lab.path(&format!("{name}.raw")));
        drop(mount);

        lab.enroll_agent(name);
        let report = lab.backup(name, &disk);
        assert_looked_into(&report, 0, if name == "ext3" { "ext4" } else { name });
        let restored = lab.restore(name);
        if name.starts_with("ext") {
            // Replays the journal, after which nothing may be wrong.
            run_with("e2fsck", &["-fy", &restored.to_string_lossy()], &[0, 1]);
            run("e2fsck", &["-fn", &restored.to_string_lossy()]);
        }
        let mount = Loop::over(&restored, 0, 0).mount(kind, "rw");
        compare(&first, &mount.path().join("before"));
        compare(&second, &mount.path().join("after"));
        drop(mount);
        if name == "xfs" {
            run("xfs_repair", &["-n", &restored.to_string_lossy()]);
        }
        if name == "btrfs" {
            run(
                "btrfs",
                &["check", "--readonly", &restored.to_string_lossy()],
            );
        }
    }
}

/// Syncs every file by itself, as databases do.
fn sync_each(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            sync_each(&entry.path());
            continue;
        }
        let file = File::open(entry.path()).unwrap_or_else(|e| panic!("{e}"));
        file.sync_all().unwrap_or_else(|e| panic!("{e}"));
    }
    let dir = File::open(dir).unwrap_or_else(|e| panic!("{e}"));
    dir.sync_all().unwrap_or_else(|e| panic!("{e}"));
}

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
fn members_of_mirrors_are_looked_into() {
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
fn logical_volumes_are_looked_into() {
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

/// Guards: blocks that come into use behind the reader's back are in the image. The vault stands
/// still, so that the agent does with its disk half read, until a file has been written to the
/// half that was read already.
fn blocks_that_come_into_use_meanwhile_are_read() {
    let lab = Lab::new();
    lab.enroll_agent("busy");
    let disk = lab.path("busy.raw");
    let starts = gpt_disk(&disk, &[64, 448]);
    let make = ext(64, &["mkfs.ext4", "-q", "-F"]);
    let files = files(&lab, 7);
    make.fill(&disk, starts[0], &files);
    let raw = OpenOptions::new()
        .write(true)
        .open(&disk)
        .unwrap_or_else(|e| panic!("{e}"));
    for span in 0..110 {
        noise(&raw, starts[1] + span * 4 * MIB, 4 << 20, 40 + span);
    }
    assert_looked_into(&lab.backup("busy", &disk), starts[0], "ext4");
    assert_eq!(marked_sectors(&lab.restore("busy"), 0, 64 * MIB), 0);
    for span in 0..110 {
        noise(&raw, starts[1] + span * 4 * MIB, 4 << 20, 400 + span);
    }
    drop(raw);

    let vault = lab.vault_pid().to_string();
    let mut agent = Running::start(lab.backup_command("busy", &disk));
    let pid = agent.pid();
    wait_while(|| characters_read(pid) < 100 * MIB);
    run("kill", &["-STOP", &vault]);
    let mount: Mount = Loop::over(&disk, starts[0], 64 * MIB).mount("ext4", "nodiscard");
    write_marked(mount.path(), MARKED);
    drop(mount);
    run("sync", &[]);
    run("kill", &["-CONT", &vault]);
    let (code, out) = agent.wait();
    assert_eq!(code, 0, "{out}");
    let report: Value = serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{e}: {out}"));
    assert_eq!(report["consistency"], "fuzzy");
    let marked = marked_sectors(&lab.restore("busy"), starts[0], 64 * MIB);
    assert_eq!(marked, MARKED as u64 / 512);
}

/// Bytes that a process has read in all.
fn characters_read(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn main() {
    let needs = |programs: &[&'static str]| {
        let programs = programs.iter().map(|name| Need::program(name));
        [Need::root(), Need::program("losetup")]
            .into_iter()
            .chain(programs)
            .collect::<Vec<_>>()
    };
    let tools = &[
        "mkfs.xfs",
        "mkfs.btrfs",
        "mkfs.vfat",
        "mkntfs",
        "mcopy",
        "sfdisk",
    ];
    Suite::default()
        .case_with(
            "every_file_system_is_restored_without_what_it_freed",
            &needs(tools),
            every_file_system_is_restored_without_what_it_freed,
        )
        .case_with(
            "other_layouts_are_looked_into",
            &needs(&["mkfs.xfs", "sfdisk"]),
            other_layouts_are_looked_into,
        )
        .case_with(
            "mounted_file_systems_lose_nothing",
            &needs(&["mkfs.xfs", "mkfs.btrfs"]),
            mounted_file_systems_lose_nothing,
        )
        .case_with(
            "members_of_mirrors_are_looked_into",
            &needs(&["mdadm", "sfdisk"]),
            members_of_mirrors_are_looked_into,
        )
        .case_with(
            "logical_volumes_are_looked_into",
            &needs(&["lvm"]),
            logical_volumes_are_looked_into,
        )
        .case_with(
            "blocks_that_come_into_use_meanwhile_are_read",
            &needs(&["sfdisk"]),
            blocks_that_come_into_use_meanwhile_are_read,
        )
        .run()
}
