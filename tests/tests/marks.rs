//! What a real kernel marks of a disk is all that was written to it, whatever its size and load.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use relevo_agent::disk::{Disk, DiskArgument};
use relevo_agent::tracking::device::Device;
use relevo_agent::tracking::grains::{GRAIN, Grains};
use relevo_agent::tracking::probe::Probe;
use relevo_agent::tracking::{Basis, Tracking};
use relevo_tests::disks::sparse;
use relevo_tests::lab::Lab;
use relevo_tests::program::finish;
use relevo_tests::suite::{Need, Suite};
use relevo_wire::PointId;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// O_DIRECT.
const DIRECT: i32 = 0o40000;

fn ok(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{e}"));
    assert!(out.status.success(), "{command:?}: {out:?}");
    String::from_utf8_lossy(&out.stdout).trim().to_string()
}

/// A loop device over a sparse file.
struct Loop {
    path: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

impl Loop {
    /// In memory, which is fast, and has room for any size.
    fn new(size: u64) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|e| panic!("{e}"));
        let mut this = Self::over(dir.path(), size);
        this._dir = Some(dir);
        this
    }

    fn over(dir: &Path, size: u64) -> Self {
        let file = dir.join("disk.raw");
        drop(sparse(&file, size));
        let path = ok(Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&file));
        let path = PathBuf::from(path);
        Self { path, _dir: None }
    }

    fn device(&self) -> Device {
        Device::of(&self.path).unwrap_or_else(|e| panic!("{e}"))
    }

    fn probe(&self) -> Probe {
        Probe::start(&self.device(), 1).unwrap_or_else(|e| panic!("{e}"))
    }

    fn disk(&self) -> Disk {
        Disk::open(&DiskArgument::from(self.path.clone())).unwrap_or_else(|e| panic!("{e}"))
    }

    fn written(&self) -> u64 {
        let written = self.device().sectors_written();
        written.unwrap_or_else(|| panic!("the kernel does not count"))
    }

    fn open(&self) -> File {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(DIRECT)
            .open(&self.path);
        file.unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }

    /// Writes a page past the page cache.
    fn stamp(&self, page: u64) {
        stamp(&self.open(), page);
    }

    fn discard(&self, options: &[&str], offset: u64, length: u64) {
        let (offset, length) = (offset.to_string(), length.to_string());
        ok(Command::new("blkdiscard")
            .args(options)
            .args(["-o", &offset, "-l", &length])
            .arg(&self.path));
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Device::of(&self.path).map(|device| Probe::stop(&device));
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

fn stamp(device: &File, page: u64) {
    let mut buffer = vec![0u8; 2 * PAGE as usize];
    let aligned = buffer.as_ptr().align_offset(PAGE as usize);
    buffer[aligned..aligned + PAGE as usize].fill(7);
    device
        .write_all_at(&buffer[aligned..aligned + PAGE as usize], page * PAGE)
        .unwrap_or_else(|e| panic!("write to the loop device: {e}"));
}

fn take(probe: &Probe) -> Grains {
    let marks = probe.take().unwrap_or_else(|| panic!("no marks"));
    probe.kept();
    marks
}

fn grains(size: u64, bytes: &[std::ops::Range<u64>]) -> Grains {
    let mut grains = Grains::none(size);
    for range in bytes {
        grains.add(range.clone());
    }
    grains
}

fn dice(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 11
}

/// Guards against events that interrupt one another, on two disks whose marks the same programs
/// make: every write is in a take that began after it, or in one that was under way; and the
/// programs count as much as the kernel, to the sector.
fn no_write_is_missed_under_load() {
    const WRITERS: usize = 24;
    const WRITES: usize = 2000;
    let size = 64 * MIB;
    let disks: Vec<Loop> = (0..2).map(|_| Loop::new(size)).collect();
    let probes: Vec<Probe> = disks.iter().map(Loop::probe).collect();
    let before: Vec<u64> = disks.iter().map(Loop::written).collect();
    let takes = Arc::new(AtomicUsize::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (device, takes) = (disks[writer % 2].open(), takes.clone());
            std::thread::spawn(move || {
                let mut state = 77 + writer as u64;
                let mut log = Vec::new();
                for _ in 0..WRITES {
                    let page = dice(&mut state) % (size / PAGE);
                    let began = takes.load(Ordering::SeqCst);
                    stamp(&device, page);
                    log.push((page * PAGE / GRAIN, began));
                }
                log
            })
        })
        .collect();
    let taker = {
        let (takes, ended) = (takes.clone(), ended.clone());
        std::thread::spawn(move || {
            // The last take that had a grain.
            let mut last = vec![vec![None; (size / GRAIN) as usize]; 2];
            loop {
                let is_last = ended.load(Ordering::SeqCst);
                let number = takes.load(Ordering::SeqCst);
                for (probe, last) in probes.iter().zip(&mut last) {
                    for grain in take(probe).iter() {
                        last[grain as usize] = Some(number);
                    }
                }
                takes.store(number + 1, Ordering::SeqCst);
                if is_last {
                    return (probes, last);
                }
            }
        })
    };
    let logs: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
    ended.store(true, Ordering::SeqCst);
    let (probes, last) = taker.join().unwrap_or_else(|_| panic!("the taker failed"));
    for (writer, log) in logs.into_iter().enumerate() {
        for (grain, began) in log.unwrap_or_else(|_| panic!("a writer failed")) {
            let taken = last[writer % 2][grain as usize];
            assert!(
                taken >= Some(began),
                "grain {grain}: {taken:?}, begun at {began}"
            );
        }
    }
    for ((disk, probe), before) in disks.iter().zip(&probes).zip(before) {
        assert_eq!(probe.sectors(), disk.written() - before, "counted");
        assert_eq!(probe.fault(), None);
        let (_, twice) = (take(probe), take(probe));
        assert_eq!(twice.count(), 0, "an idle disk has nothing under way");
    }
}

/// A file system of its own.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, at: PathBuf) -> Self {
        ok(Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(&at));
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A loop device upon it is taken away when nobody looks at it any more.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A file system that takes no write.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(at: &'a Path) -> Self {
        ok(Command::new("fsfreeze").arg("-f").arg(at));
        Self(at)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(self.0).status();
    }
}

/// Guards a write that is with the driver while marks are taken, however often: it may reach the
/// disk after that.
fn what_is_under_way_is_marked_until_it_is_done() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let (image, at) = (dir.path().join("fs.raw"), dir.path().join("fs"));
    drop(sparse(&image, 64 * MIB));
    ok(Command::new("mkfs.ext4").arg("-q").arg(&image));
    std::fs::create_dir(&at).unwrap_or_else(|e| panic!("{e}"));
    let at = Mounted::new(&image, at);
    let disk = Loop::over(&at.0, 16 * MIB);
    let probe = disk.probe();
    let written = grains(16 * MIB, std::slice::from_ref(&(5 * MIB..5 * MIB + PAGE)));
    // A frozen file system below the loop device holds the write.
    let frozen = Frozen::new(&at.0);
    let writer = {
        let device = disk.open();
        std::thread::spawn(move || stamp(&device, 5 * MIB / PAGE))
    };
    relevo_tests::program::wait_while(|| probe.sectors() == 0);
    for round in 0..4 {
        assert_eq!(take(&probe), written, "take {round}");
    }
    assert_eq!(probe.sectors(), PAGE / 512, "what is under way is counted");
    drop(frozen);
    writer
        .join()
        .unwrap_or_else(|_| panic!("the writer failed"));
    assert_eq!(
        take(&probe),
        written,
        "it may have come after the last take"
    );
    assert_eq!(take(&probe).count(), 0);
    assert_eq!(probe.sectors(), PAGE / 512, "and is counted once");
}

/// Guards disks of all sizes, and discards of many GiB, which are marked to the grain.
fn disks_of_any_size_are_marked() {
    for size in [64 * 1024 + 512, 1 << 30, 100 << 30, 20 << 40] {
        let disk = Loop::new(size);
        let (probe, before) = (disk.probe(), disk.written());
        let pages = size / PAGE;
        let written: Vec<_> = [0, pages / 2, pages - 1]
            .into_iter()
            .inspect(|page| disk.stamp(*page))
            .map(|page| page * PAGE..(page + 1) * PAGE)
            .collect();
        assert_eq!(take(&probe), grains(size, &written), "written, {size}");
        let (from, length) = (
            size / 4 / PAGE * PAGE,
            (size / 2).min(9 << 30) / PAGE * PAGE,
        );
        disk.discard(&[], from, length);
        assert_eq!(
            take(&probe),
            grains(size, std::slice::from_ref(&(from..from + length))),
            "discarded, {size}"
        );
        let length = length.min(300 * MIB);
        disk.discard(&["--zeroout"], from, length);
        assert_eq!(
            take(&probe),
            grains(size, std::slice::from_ref(&(from..from + length))),
            "zeroed, {size}"
        );
        assert_eq!(probe.sectors(), disk.written() - before, "counted, {size}");
        assert_eq!(probe.fault(), None);
    }
}

/// Guards a run that reads in rounds: each take names what was written since, what was read again
/// is not read by the next run, what was not is.
fn what_is_written_during_a_run_is_read_again_or_by_the_next() {
    let disk = Loop::new(64 * MIB);
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let (first, second, third) = (PointId::random(), PointId::random(), PointId::random());
    let expect = |taken: Result<Option<Grains>, String>, pages: &[u64]| {
        let taken = taken.unwrap_or_else(|e| panic!("{e}"));
        let pages: Vec<_> = pages.iter().map(|p| p * PAGE..(p + 1) * PAGE).collect();
        assert_eq!(taken, Some(grains(64 * MIB, &pages)));
    };
    // Without a base, too.
    let mut run = Tracking::begin(dir.path(), &disk.disk(), None, first, Duration::MAX);
    assert!(matches!(run.basis(), Basis::Nothing(_)));
    disk.stamp(100);
    expect(run.again(&disk.disk()), &[100]);
    disk.stamp(900);
    expect(run.again(&disk.disk()), &[100, 900]);
    run.read_again();
    expect(run.again(&disk.disk()), &[]);
    disk.stamp(2000);
    expect(run.in_instant(), &[2000]);
    run.read_again();
    disk.stamp(3000);
    assert_eq!(run.settled(&disk.disk()), Ok(()));
    disk.stamp(4000);
    expect(run.again(&disk.disk()), &[3000, 4000]);
    run.commit(&disk.disk(), first);
    disk.stamp(5000);
    let run = Tracking::begin(dir.path(), &disk.disk(), Some(first), second, Duration::MAX);
    let pages = [3000, 4000, 5000].map(|page| page * PAGE..(page + 1) * PAGE);
    assert_eq!(run.basis(), &Basis::Changed(grains(64 * MIB, &pages)));
    // A run that was cut off between an instant and its record.
    let mut cut_off = run;
    disk.stamp(6000);
    expect(cut_off.in_instant(), &[6000]);
    drop(cut_off);
    let mut run = Tracking::begin(dir.path(), &disk.disk(), Some(first), third, Duration::MAX);
    let Basis::Nothing(reason) = run.basis() else {
        panic!("{:?}", run.basis());
    };
    assert!(reason.contains("cut off"), "{reason}");
    // Somebody ends the marking in mid-run.
    Probe::stop(&disk.device()).unwrap_or_else(|e| panic!("{e}"));
    for said in [
        run.again(&disk.disk()).map(|_| ()),
        run.settled(&disk.disk()),
    ] {
        assert!(said.is_err_and(|reason| reason.contains("is gone")));
    }
}

/// A mount namespace with a BPF file system of its own.
struct Apart(Child);

impl Apart {
    fn new() -> Self {
        // It holds no file system of other tests, which could not be mounted anew.
        let script = "awk '/^.dev.loop/ {print $2}' /proc/self/mounts | xargs -r umount -l; \
            mount -t bpf bpf /sys/fs/bpf && echo ready && exec sleep infinity";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("unshare: {e}"));
        let mut ready = [0; 5];
        let out = child.stdout.as_mut().unwrap_or_else(|| panic!("no output"));
        std::io::Read::read_exact(out, &mut ready).unwrap_or_else(|e| panic!("{e}"));
        Self(child)
    }

    fn run(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .arg(format!("--mount=/proc/{}/ns/mnt", self.0.id()))
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Guards against believing marks when one of the programs was taken away.
fn every_program_must_be_there() {
    let (apart, lab, disk) = (Apart::new(), Lab::new(), Loop::new(32 * MIB));
    lab.enroll_agent("db1");
    let backup = || {
        let command = lab.backup_command("db1", &disk.path);
        finish(apart.run(&command)).expect_json()["tracking"][0].clone()
    };
    backup();
    let listed = apart.run(Command::new("ls").arg("/sys/fs/bpf/relevo/2"));
    let listed = finish(listed).expect_success();
    assert_eq!(listed.split_whitespace().count(), 5, "{listed}");
    for pin in listed.split_whitespace() {
        disk.stamp(100);
        assert_eq!(backup()["read"], "changes", "before {pin} was taken away");
        let taken = apart.run(Command::new("rm").arg(format!("/sys/fs/bpf/relevo/2/{pin}")));
        finish(taken).expect_success();
        let tracking = backup();
        let reason = tracking["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("is gone"), "{pin}: {tracking}");
    }
}

fn main() {
    let needs = |programs: &[&'static str]| {
        let mut needs = vec![Need::root(), Need::program("losetup"), Need::tracepoints()];
        needs.extend(programs.iter().map(|program| Need::program(program)));
        needs
    };
    Suite::default()
        .case_with(
            "no write is missed under load",
            &needs(&[]),
            no_write_is_missed_under_load,
        )
        .case_with(
            "what is under way is marked until it is done",
            &needs(&["mkfs.ext4", "fsfreeze"]),
            what_is_under_way_is_marked_until_it_is_done,
        )
        .case_with(
            "disks of any size are marked",
            &needs(&["blkdiscard"]),
            disks_of_any_size_are_marked,
        )
        .case_with(
            "what is written during a run is read again or by the next",
            &needs(&[]),
            what_is_written_during_a_run_is_read_again_or_by_the_next,
        )
        .case_with(
            "every program must be there",
            &needs(&["unshare", "nsenter"]),
            every_program_must_be_there,
        )
        .run()
}
