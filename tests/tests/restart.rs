//! What is known of writes to a disk outlives a clean restart of the server, and no other.
//!
//! The restart is played: the programs in the kernel are gone, the disk is another device to which
//! nothing was written, and the kernel says that it is another run.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use relevo_agent::disk::Disk;
use relevo_agent::tracking::device::Device;
use relevo_agent::tracking::probe::Probe;
use relevo_agent::used::DiskSource;
use relevo_agent::used::ext::writes_of_a_check;
use relevo_tests::disks::{noise, sha256, sparse};
use relevo_tests::lab::Lab;
use relevo_tests::program::finish;
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 128 * MIB;

/// A command in a mount namespace of its own holds everybody's file systems, so that another
/// case could not mount its own anew.
static ALONE: Mutex<()> = Mutex::new(());

/// A server's disk, a loop device, and the file system of its agent's state.
struct Server {
    _alone: MutexGuard<'static, ()>,
    lab: Lab,
    content: PathBuf,
    device: PathBuf,
    state: PathBuf,
    /// What the file system of the state is on.
    own: String,
    /// What stands for the kernel's number of this run, when it is another.
    boot: Option<PathBuf>,
}

fn ok(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{e}"));
    assert!(out.status.success(), "{command:?}: {out:?}");
    String::from_utf8_lossy(&out.stdout).trim().to_string()
}

impl Server {
    /// With one image of its disk.
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::new();
        let (state, own) = (lab.path("db1"), lab.path("own.raw"));
        drop(sparse(&own, 64 * MIB));
        fs::create_dir_all(&state).unwrap_or_else(|e| panic!("{e}"));
        ok(Command::new("mkfs.ext4").arg("-q").arg(&own));
        let own = ok(Command::new("losetup").args(["--find", "--show"]).arg(&own));
        ok(Command::new("mount").arg(&own).arg(&state));
        lab.enroll_agent("db1");
        let content = lab.path("disk.raw");
        noise(&sparse(&content, SIZE), 0, 30 * MIB as usize, 5);
        let mut server = Self {
            _alone: alone,
            lab,
            content,
            device: PathBuf::new(),
            state,
            own,
            boot: None,
        };
        server.attach();
        assert_eq!(server.proven()["read"], "all");
        server
    }

    /// As a disk to which nothing was written since the kernel saw it: a loop device that no one
    /// has used before.
    fn attach(&mut self) {
        static NEXT: AtomicU32 = AtomicU32::new(200);
        let next = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
        let unused = next.map(|number| PathBuf::from(format!("/dev/loop{number}")));
        let mut unused = unused.filter(|path| !path.exists());
        self.device = unused.next().unwrap_or_default();
        ok(Command::new("losetup").arg(&self.device).arg(&self.content));
    }

    fn device(&self) -> Device {
        Device::of(&self.device).unwrap_or_else(|e| panic!("{e}"))
    }

    fn write(&self, offset: u64, byte: u8) {
        let device = OpenOptions::new().write(true).open(&self.device);
        let device = device.unwrap_or_else(|e| panic!("{e}"));
        device
            .write_all_at(&[byte; 8192], offset)
            .and_then(|()| device.sync_all())
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// Runs a command in the kernel's run as it is played.
    fn run(&self, command: &Command) -> Command {
        let Some(boot) = &self.boot else {
            let mut same = Command::new(command.get_program());
            same.args(command.get_args());
            return same;
        };
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let mut other = Command::new("unshare");
        other
            .args(["--mount", "sh", "-c", script])
            .arg(boot)
            .arg(command.get_program())
            .args(command.get_args());
        other
    }

    fn tracking(&self, what: &str) -> String {
        let state = self.state.to_string_lossy();
        let args = ["tracking", what, "--state", &state];
        ok(&mut self.run(&self.lab.command("relevo-agent", &args)))
    }

    /// Images, restores and compares bit for bit. What the run said of its tracking.
    fn proven(&self) -> Value {
        let command = self.lab.backup_command("db1", &self.device);
        let report = finish(self.run(&command)).expect_json();
        let restored = self.lab.restore("db1");
        assert!(
            sha256(&restored) == sha256(&self.content),
            "the image is not the disk; {report}"
        );
        report["tracking"][0].clone()
    }

    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        ok(Command::new("mount")
            .args(["-o", &options])
            .arg(&self.state));
    }

    fn restart(&mut self, name: &str) {
        Probe::stop(&self.device()).unwrap_or_else(|e| panic!("{e}"));
        ok(Command::new("losetup").arg("-d").arg(&self.device));
        self.attach();
        // Memory forgets what it held of files; the first mount is read-only.
        ok(Command::new("umount").arg(&self.state));
        ok(Command::new("mount")
            .args(["-o", "ro", &self.own])
            .arg(&self.state));
        let boot = self.lab.path(name);
        fs::write(&boot, name).unwrap_or_else(|e| panic!("{e}"));
        self.boot = Some(boot);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Device::of(&self.device).map(|device| Probe::stop(&device));
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        let _ = Command::new("umount").arg(&self.state).status();
        let _ = Command::new("losetup").arg("-d").arg(&self.own).status();
    }
}

/// Guards the first run after a restart: it reads what was written before the service stopped,
/// and between that and the end, and no more than that and the edges.
fn what_is_known_outlives_a_clean_restart() {
    let mut server = Server::new();
    for round in 0..2u8 {
        server.write(40 * MIB, 10 + round);
        assert_eq!(server.tracking("prepare"), "prepared: 1 disks");
        server.write(60 * MIB, 20 + round);
        server.remount("ro");
        assert_eq!(server.tracking("keep"), "kept: 1 disks");
        server.restart(&format!("boot-{round}"));
        assert_eq!(server.tracking("resume"), "resumed: 1 disks");
        server.remount("rw");
        server.write(80 * MIB, 30 + round);
        let tracking = server.proven();
        assert_eq!(tracking["read"], "changes", "{tracking}");
        let marked = tracking["marked_bytes"].as_u64().unwrap_or(u64::MAX);
        assert!(marked <= 8 * MIB + 4 * 65536, "{tracking}");
    }
}

/// Guards against believing what is not whole: a step that did not happen, or came too late.
fn any_other_restart_reads_all() {
    let mut server = Server::new();
    let again = |server: &mut Server, said: &str, steps: &dyn Fn(&mut Server)| {
        server.write(40 * MIB, 1);
        steps(server);
        let tracking = server.proven();
        let reason = tracking["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(said), "{tracking}");
        server.write(44 * MIB, 2);
        assert_eq!(server.proven()["read"], "changes");
    };
    // A crash.
    again(&mut server, "started anew", &|server| {
        server.restart("crash");
        server.remount("rw");
    });
    // Nothing kept.
    again(&mut server, "started anew", &|server| {
        server.tracking("prepare");
        server.restart("unkept");
        assert_eq!(server.tracking("resume"), "resumed: 0 disks");
        server.remount("rw");
    });
    // Written before tracking began.
    again(&mut server, "is gone", &|server| {
        server.tracking("prepare");
        server.remount("ro");
        server.tracking("keep");
        server.restart("early");
        server.write(50 * MIB, 3);
        assert_eq!(server.tracking("resume"), "resumed: 0 disks");
        server.remount("rw");
    });
    // Not resumed.
    again(&mut server, "is gone", &|server| {
        server.tracking("prepare");
        server.remount("ro");
        server.tracking("keep");
        server.restart("unresumed");
        server.remount("rw");
    });
    // While its file system takes writes nothing is kept.
    server.tracking("prepare");
    let state = server.state.to_string_lossy().into_owned();
    let keep = ["tracking", "keep", "--state", &state];
    finish(server.run(&server.lab.command("relevo-agent", &keep)))
        .expect_refusal(&["still written"]);
}

/// Guards what is taken for the check of a clean file system, which an initramfs makes before any
/// write can be marked: real checks write so many sectors, and there, and say when.
fn a_check_writes_what_it_is_known_to() {
    // Its devices are none of the other cases'.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::new();
    for options in [
        &["-b", "4096"][..],
        &["-b", "1024"],
        &["-b", "2048", "-O", "^metadata_csum"],
        &["-t", "ext3"],
        &["-t", "ext2"],
    ] {
        let image = lab.path("checked.raw");
        drop(sparse(&image, 96 * MIB));
        ok(Command::new("mkfs.ext4")
            .arg("-q")
            .args(options)
            .arg(&image));
        let before = fs::read(&image).unwrap_or_else(|e| panic!("{e}"));
        let mut attach = Command::new("losetup");
        let device = ok(attach.args(["--find", "--show"]).arg(&image));
        let stat = format!("/sys/block/{}/stat", device.trim_start_matches("/dev/"));
        let written = || -> u64 {
            let text = fs::read_to_string(&stat).unwrap_or_else(|e| panic!("{e}"));
            let number = text.split_whitespace().nth(6).map(str::parse);
            number
                .and_then(Result::ok)
                .unwrap_or_else(|| panic!("{text}"))
        };
        let (sectors, began) = (written(), relevo_wire::Timestamp::now());
        ok(Command::new("e2fsck").args(["-p", &device]));
        let sectors = written() - sectors;
        ok(Command::new("losetup").args(["-d", &device]));

        let disk = Disk::open(&image.clone().into()).unwrap_or_else(|e| panic!("{e}"));
        let source = DiskSource::new(&disk);
        let check = writes_of_a_check(&source.volume(0)).unwrap_or_else(|e| panic!("{e}"));
        let after = fs::read(&image).unwrap_or_else(|e| panic!("{e}"));
        let differ = (0..before.len()).step_by(512);
        for at in differ.filter(|at| before[*at..][..512] != after[*at..][..512]) {
            let at = at as u64;
            let known = check
                .places
                .iter()
                .any(|(from, to)| *from <= at && at < *to);
            assert!(known, "{options:?}: {at} is not one of {check:?}");
        }
        if sectors > 0 {
            assert!(
                check.sectors.contains(&sectors),
                "{options:?}: {sectors}, {check:?}"
            );
            let began = began.as_millis() as u64 / 1000;
            assert!(check.written >= began, "{options:?}: {check:?}");
        }
    }
}

fn main() {
    let needs = || {
        [
            Need::root(),
            Need::program("losetup"),
            Need::program("mkfs.ext4"),
            Need::tracepoints(),
        ]
    };
    assert!(Path::new("/proc/sys/kernel/random/boot_id").exists());
    Suite::default()
        .case_with(
            "what is known outlives a clean restart",
            &needs(),
            what_is_known_outlives_a_clean_restart,
        )
        .case_with(
            "any other restart reads all",
            &needs(),
            any_other_restart_reads_all,
        )
        .case_with(
            "a check writes what it is known to",
            &needs(),
            a_check_writes_what_it_is_known_to,
        )
        .run()
}
