//! Disks of parts with file systems: made by their own tools, filled, culled, checked.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use relevo_tests::disks::sparse;
use relevo_tests::filesystems::{Loop, compare, copy, delete_marked, plant, run, write_marked};
use relevo_tests::lab::Lab;

use super::{MARKED, MIB};

/// A file system on a part of a disk.
pub struct Part {
    pub what: &'static str,
    pub mib: u64,
    /// Program and arguments; the device comes last.
    pub make: &'static [&'static str],
    /// As mount(8) calls it; empty for FAT, which is filled by mtools.
    pub kind: &'static str,
    pub options: &'static str,
    /// Program and arguments that find fault with it; the device comes last.
    pub check: &'static [&'static str],
}

pub const EXT_CHECK: &[&str] = &["e2fsck", "-fn"];
pub const FAT_CHECK: &[&str] = &["fsck.vfat", "-n"];

pub const fn ext(mib: u64, make: &'static [&'static str]) -> Part {
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

pub const fn fat(mib: u64, make: &'static [&'static str]) -> Part {
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

pub const fn btrfs(mib: u64, make: &'static [&'static str]) -> Part {
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

pub const PARTS: &[Part] = &[
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
    pub fn fill(&self, disk: &Path, offset: u64, files: &Path) {
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
    pub fn verify(&self, disk: &Path, offset: u64, files: &Path) {
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

pub fn fill_fat(device: &str, files: &Path) {
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
pub fn gpt_disk(path: &Path, sizes: &[u64]) -> Vec<u64> {
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

pub fn partition(path: &Path, script: &str) {
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

pub fn files(lab: &Lab, seed: u64) -> PathBuf {
    let dir = lab.path(&format!("files-{seed}"));
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{e}"));
    plant(&dir, seed);
    dir
}
