//! A disk of a server that goes on: a mounted file system on a loop device, imaged by an agent.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use relevo_agent::disk::{Disk, DiskArgument};
use relevo_agent::tracking::device::Device;
use relevo_agent::tracking::probe::Probe;
use relevo_tests::disks::sparse;
use relevo_tests::filesystems::{run, run_with};
use relevo_tests::lab::Lab;
use relevo_tests::program::finish;
use serde_json::Value;

pub const MIB: u64 = 1 << 20;

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The server, its vault, and a recovery site.
pub struct Server {
    pub lab: Lab,
    pub kind: &'static str,
    device: String,
    point: PathBuf,
    mounted: bool,
}

impl Server {
    /// With a disk of `mib` MiB, all of it a file system of this kind, which is mounted.
    pub fn new(kind: &'static str, mib: u64) -> Self {
        let lab = Lab::new();
        lab.enroll_agent("db1");
        sparse(&lab.path("disk.raw"), mib * MIB);
        let device = run("losetup", &["--find", "--show", &lab.text("disk.raw")]);
        let device = device.trim().to_string();
        let make: &[&str] = match kind {
            "ext4" => &["mkfs.ext4", "-q"],
            "xfs" => &["mkfs.xfs", "-q"],
            "btrfs" => &["mkfs.btrfs", "-q"],
            "vfat" => &["mkfs.vfat"],
            other => panic!("{other}"),
        };
        run(make[0], &[&make[1..], &[&device]].concat());
        let point = lab.path(&format!("mnt{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&point).unwrap_or_else(|e| panic!("{e}"));
        let mut server = Self {
            lab,
            kind,
            device,
            point,
            mounted: false,
        };
        server.mount();
        server
    }

    pub fn mount(&mut self) {
        let point = self.point.to_string_lossy().into_owned();
        run("mount", &["-t", self.kind, &self.device, &point]);
        self.mounted = true;
    }

    pub fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            run("umount", &[&self.point.to_string_lossy()]);
        }
    }

    /// Where its file system is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// The disk.
    pub fn device(&self) -> &Path {
        Path::new(&self.device)
    }

    /// The command that images it; hooks are only those of the test.
    pub fn command(&self, options: &[&str]) -> Command {
        let mut command = self.lab.backup_command("db1", self.device());
        command.arg("--hooks").arg(self.lab.path("hooks"));
        command.args(options);
        command
    }

    /// Images it.
    pub fn backup(&self, options: &[&str]) -> Value {
        finish(self.command(options)).expect_json()
    }

    /// Takes the disk away, restores its latest image, has the file system's own checker find no
    /// fault and mounts it where the other was.
    pub fn lose_and_restore(&mut self) {
        self.unmount();
        self.end_tracking();
        run("losetup", &["-d", &self.device]);
        let restored = self.lab.restore("db1");
        let device = run(
            "losetup",
            &["--find", "--show", &restored.to_string_lossy()],
        );
        self.device = device.trim().to_string();
        // Its journal is played back by whoever mounts it, as after a power cut.
        self.mount();
        self.unmount();
        let device = &self.device.clone();
        match self.kind {
            "ext4" => run("e2fsck", &["-f", "-n", device]),
            "xfs" => run("xfs_repair", &["-n", device]),
            "btrfs" => run("btrfs", &["check", "--readonly", device]),
            "vfat" => run_with("fsck.vfat", &["-n", device], &[0]),
            other => panic!("{other}"),
        };
        self.mount();
    }

    /// What the recovery site says of the latest point.
    pub fn inspect(&self) -> Value {
        self.lab
            .recover(&["inspect", "db1", "--json"])
            .expect_json()
    }

    /// Puts a script among the hooks.
    pub fn hook(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.lab.path("hooks").join(name);
        let dir = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{e}"));
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap_or_else(|e| panic!("{e}"));
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap_or_else(|e| panic!("{e}"));
        path
    }

    fn end_tracking(&self) {
        let argument: DiskArgument = PathBuf::from(&self.device).into();
        if let Ok(disk) = Disk::open(&argument) {
            let _ = Device::of(disk.path()).map(|device| Probe::stop(&device));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed may have left it frozen.
        let _ = Command::new("fsfreeze")
            .arg("--unfreeze")
            .arg(&self.point)
            .output();
        self.end_tracking();
        if self.mounted {
            let _ = Command::new("umount").arg(&self.point).status();
        }
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}
