//! Only what is in use is read, and nothing that is: disks made by the real tools, imaged,
//! restored, checked by these tools and compared file by file.

mod part;
mod report;
mod volumes;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use part::*;
use relevo_tests::disks::{allocated, noise, sha256, sparse};
use relevo_tests::filesystems::{
    Loop, Mount, compare, copy, copy_image, delete_marked, marked_sectors, run, run_with,
    write_marked,
};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Running, finish, wait_while};
use relevo_tests::suite::{Need, Suite};
use report::*;
use volumes::*;

const MIB: u64 = 1 << 20;
/// Bytes of files that are deleted again from each file system.
const MARKED: usize = 8 << 20;

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
