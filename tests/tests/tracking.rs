//! Writes to a real disk are marked by a real kernel, and no image lacks one of them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use relevo_agent::disk::{Disk, DiskArgument};
use relevo_agent::tracking::device::Device;
use relevo_agent::tracking::probe::Probe;
use relevo_agent::tracking::record::Record;
use relevo_tests::disks::{noise, sha256, sparse};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Running, finish};
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 192 * MIB;
/// What is written past the page cache must lie on pages.
const PAGE: u64 = 4096;
/// O_DIRECT | O_DSYNC.
const DIRECT: i32 = 0o40000 | 0o10000;

/// A loop device over a file, taken away in the end; what marks its writes too.
struct Loop {
    path: PathBuf,
    dir: tempfile::TempDir,
}

impl Loop {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let file = dir.path().join("disk.raw");
        let disk = sparse(&file, SIZE);
        noise(&disk, 0, 40 * MIB as usize, 3);
        // One partition of all but the first MiB: an MBR's first entry.
        let mut entry = [0u8; 66];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&2048u32.to_le_bytes());
        entry[12..16].copy_from_slice(&((SIZE / 512) as u32 - 2048).to_le_bytes());
        entry[64..].copy_from_slice(&[0x55, 0xaa]);
        disk.write_all_at(&entry, 446)
            .unwrap_or_else(|e| panic!("{e}"));
        let out = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&file)
            .output();
        let out = out.unwrap_or_else(|e| panic!("losetup: {e}"));
        let path = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
        assert!(out.status.success(), "losetup: {out:?}");
        // Whether or not the kernel read the table.
        let sectors = (SIZE / 512 - 2048).to_string();
        let added = Command::new("addpart")
            .arg(&path)
            .args(["1", "2048", &sectors])
            .output();
        assert!(added.is_ok(), "addpart: {added:?}");
        Self { path, dir }
    }

    /// What is on the disk, whatever memory holds of it.
    fn content(&self) -> PathBuf {
        self.dir.path().join("disk.raw")
    }

    fn device(&self) -> Device {
        Device::of(&self.path).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Opened as a database opens its files: past the page cache, each write on the disk when it
    /// returns.
    fn open(&self) -> File {
        OpenOptions::new()
            .write(true)
            .custom_flags(DIRECT)
            .open(&self.path)
            .unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }

    /// Writes pages full of a byte.
    fn stamp(&self, page: u64, pages: u64, byte: u8) {
        stamp(&self.open(), page, pages, byte);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Device::of(&self.path).map(|device| Probe::stop(&device));
        let _ = Command::new("delpart").arg(&self.path).arg("1").status();
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

fn stamp(device: &File, page: u64, pages: u64, byte: u8) {
    let length = (pages * PAGE) as usize;
    let mut buffer = vec![0u8; length + PAGE as usize];
    let aligned = buffer.as_ptr().align_offset(PAGE as usize);
    buffer[aligned..aligned + length].fill(byte);
    device
        .write_all_at(&buffer[aligned..aligned + length], page * PAGE)
        .unwrap_or_else(|e| panic!("write to the loop device: {e}"));
}

struct Bench {
    lab: Lab,
    disk: Loop,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::new();
        lab.enroll_agent("db1");
        let disk = Loop::new();
        Self { lab, disk }
    }

    fn backup(&self) -> Value {
        self.lab.backup("db1", &self.disk.path)
    }

    /// Images, restores and compares bit for bit. What the run said of its tracking.
    fn proven(&self) -> (Value, Value) {
        let report = self.backup();
        let restored = self.lab.restore("db1");
        assert!(
            sha256(&restored) == sha256(&self.disk.content()),
            "the image is not the disk; {report}"
        );
        (report["tracking"][0].clone(), report)
    }

    /// Changes what is kept of the disk's tracking.
    fn alter(&self, alter: impl FnOnce(&mut Record)) {
        let dir = self.lab.path("db1/tracking");
        let mut files = fs::read_dir(&dir).into_iter().flatten().flatten();
        let path = files.next().unwrap_or_else(|| panic!("no record")).path();
        let record = Record::read(&path).unwrap_or_else(|e| panic!("{e}"));
        let mut record = record.unwrap_or_else(|| panic!("no record"));
        alter(&mut record);
        record.write(&path).unwrap_or_else(|e| panic!("{e}"));
    }

    fn tracking(&self, what: &str) -> Value {
        let disk = format!("{}=sda", self.disk.path.display());
        let state = self.lab.text("db1");
        let args = [
            "tracking", what, "--state", &state, "--disk", &disk, "--json",
        ];
        finish(self.lab.command("relevo-agent", &args)).expect_json()[0].clone()
    }
}

fn dice(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 11
}

/// Guards the reason for it all: what did not change is not read, and what changed is.
fn only_what_was_written_is_read() {
    let bench = Bench::new();
    let (first, _) = bench.proven();
    assert_eq!(first["read"], "all", "{first}");
    for (round, pages) in [(1u8, 1), (2, 16), (3, 400)] {
        bench.disk.stamp(7000 * u64::from(round), pages, round);
        let (tracking, report) = bench.proven();
        assert_eq!(tracking["read"], "changes", "{report}");
        let marked = tracking["marked_bytes"].as_u64().unwrap_or(0);
        let written = pages * PAGE;
        assert!(
            marked >= written && marked <= written + (256 << 10),
            "{report}"
        );
        // Whole spans of 4 MiB are read.
        let read = report["read_bytes"].as_u64().unwrap_or(u64::MAX);
        assert!(read <= written + 2 * 4 * MIB, "{report}");
    }
    let (tracking, report) = bench.proven();
    assert_eq!(
        (&tracking["read"], report["read_bytes"].as_u64()),
        (&"changes".into(), Some(0))
    );
    let status = bench.tracking("status");
    assert_eq!(
        (status["doubt"].is_null(), status["marked_bytes"].as_u64()),
        (true, Some(0))
    );
}

/// Guards every write: a writer stamps blocks all the time, also while runs take the marks, read,
/// and are killed; whenever he pauses, an image is the disk.
fn no_write_is_missed_beside_running_and_killed_runs() {
    let bench = Arc::new(Bench::new());
    bench.proven();
    let mut state = 0x5eed_u64;
    for round in 0..8u64 {
        let ended = Arc::new(AtomicBool::new(false));
        let writer = {
            let (bench, ended) = (bench.clone(), ended.clone());
            std::thread::spawn(move || {
                let (device, mut state) = (bench.disk.open(), 77 + round);
                let mut written = 0;
                while !ended.load(Ordering::Relaxed) || written < 50 {
                    let pages = 1 + dice(&mut state) % 40;
                    let page = dice(&mut state) % (SIZE / PAGE - pages);
                    stamp(&device, page, pages, dice(&mut state) as u8);
                    written += 1;
                    if dice(&mut state).is_multiple_of(4) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            })
        };
        let command = bench.lab.backup_command("db1", &bench.disk.path);
        match round % 2 {
            0 => drop(finish(command).expect_json()),
            // Dropped, it is killed.
            _ => {
                let run = Running::start(command);
                std::thread::sleep(Duration::from_millis(dice(&mut state) % 400));
                drop(run);
            }
        }
        ended.store(true, Ordering::Relaxed);
        writer
            .join()
            .unwrap_or_else(|_| panic!("the writer failed"));
        let (tracking, report) = bench.proven();
        if round % 2 == 0 {
            assert_eq!(tracking["read"], "changes", "{report}");
        }
    }
}

/// Something that befalls a server.
type Happening<'a> = Box<dyn Fn() + 'a>;

/// Guards against trusting marks that are not all: whatever is not as the last run left it, the
/// next one reads everything.
fn any_doubt_reads_all() {
    let bench = Bench::new();
    bench.proven();
    let doubts: [(&str, Happening<'_>); 7] = [
        (
            "started anew",
            Box::new(|| bench.alter(|r| r.facts.boot = "another".into())),
        ),
        (
            "another one",
            Box::new(|| bench.alter(|r| r.facts.sequence += 1)),
        ),
        (
            "another one",
            Box::new(|| bench.alter(|r| r.facts.identity = "wwn-2".into())),
        ),
        (
            "another probe",
            Box::new(|| bench.alter(|r| r.facts.generation ^= 1)),
        ),
        (
            "more was written",
            Box::new(|| bench.alter(|r| r.facts.unseen = 0)),
        ),
        (
            "is gone",
            Box::new(|| {
                Probe::stop(&bench.disk.device()).unwrap_or_else(|e| panic!("{e}"));
            }),
        ),
        (
            "last image",
            Box::new(|| {
                fs::remove_file(bench.lab.path("db1/cache.sqlite"))
                    .unwrap_or_else(|e| panic!("{e}"));
            }),
        ),
    ];
    for (round, (reason, happens)) in (1u8..).zip(doubts) {
        // Writes that the probe did not see must be there for the sum to be short of them.
        if reason == "more was written" {
            let _ = Probe::stop(&bench.disk.device());
            bench.disk.stamp(100, 10, 200);
            bench.proven();
        }
        happens();
        bench.disk.stamp(5000, 3, round);
        let (tracking, report) = bench.proven();
        let said = tracking["reason"].as_str().unwrap_or_default();
        assert!(said.contains(reason), "{reason}: {report}");
        bench.disk.stamp(9000, 3, round);
        assert_eq!(
            bench.proven().0["read"],
            "changes",
            "trusted again after: {reason}"
        );
    }
}

/// Guards against marks that miss something for a reason that nobody thought of.
fn a_change_that_was_not_marked_is_an_alarm() {
    let bench = Bench::new();
    bench.proven();
    bench.disk.stamp(6000, 5, 9);
    // Takes the marks as if the kernel had never made them.
    let probe = Probe::open(&bench.disk.device()).unwrap_or_else(|| panic!("no probe"));
    let lost = probe.take().unwrap_or_else(|| panic!("no marks"));
    probe.kept();
    assert!(lost.touch(6000 * PAGE..6001 * PAGE));
    bench.alter(|record| record.facts.compared = None);
    let (tracking, report) = bench.proven();
    assert_eq!(
        (&tracking["read"], tracking["unmarked_spans"].as_u64()),
        (&"proof".into(), Some(1)),
        "{report}"
    );
    let span = 6000 * PAGE / (4 * MIB) * 4 * MIB;
    assert_eq!(
        tracking["unmarked"],
        serde_json::json!([{"start": span, "end": span + 4 * MIB}]),
        "{report}"
    );
    let (tracking, _) = bench.proven();
    assert_eq!(tracking["read"], "all");
    let said = bench.tracking("status")["doubt"]
        .as_str()
        .unwrap_or_default()
        .to_string();
    assert!(said.contains("not believed"), "{said}");
    assert!(said.contains(&format!("bytes {span}..")), "{said}");
    bench.tracking("reset");
    bench.proven();
    bench.disk.stamp(6100, 5, 8);
    assert_eq!(bench.proven().0["read"], "changes");
    bench.tracking("stop");
    assert!(Probe::open(&bench.disk.device()).is_none());
}

/// Guards against false alarms: what is written between the take and its reading differs, and is
/// in the marks by then.
fn a_proof_beside_a_writer_is_no_alarm() {
    let bench = Arc::new(Bench::new());
    bench.proven();
    let ended = Arc::new(AtomicBool::new(false));
    let writer = {
        let (bench, ended) = (bench.clone(), ended.clone());
        std::thread::spawn(move || {
            let (device, mut state) = (bench.disk.open(), 5);
            while !ended.load(Ordering::Relaxed) {
                let page = dice(&mut state) % (SIZE / PAGE);
                stamp(&device, page, 1, dice(&mut state) as u8);
            }
        })
    };
    for _ in 0..3 {
        bench.alter(|record| record.facts.compared = None);
        let report = bench.backup();
        let tracking = &report["tracking"][0];
        assert_eq!(
            (&tracking["read"], tracking["unmarked_spans"].as_u64()),
            (&"proof".into(), Some(0)),
            "{report}"
        );
    }
    ended.store(true, Ordering::Relaxed);
    writer
        .join()
        .unwrap_or_else(|_| panic!("the writer failed"));
    assert_eq!(bench.proven().0["read"], "changes");
}

/// Guards against images of what was: a disk's pages in memory are not those of its partitions,
/// and whoever looked at the disk leaves some.
fn old_pages_of_the_disk_hide_no_write_to_a_partition() {
    let bench = Bench::new();
    bench.proven();
    let partition = PathBuf::from(format!("{}p1", bench.disk.path.display()));
    // While somebody has it open, as a mounted partition does, its pages stay.
    let _held = File::open(&bench.disk.path).unwrap_or_else(|e| panic!("{e}"));
    for round in 1..4u8 {
        let seen = fs::read(&bench.disk.path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(seen.len() as u64, SIZE);
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(DIRECT)
            .open(&partition);
        let file = file.unwrap_or_else(|e| panic!("{}: {e}", partition.display()));
        stamp(&file, 3000 * u64::from(round), 20, 100 + round);
        assert_eq!(bench.proven().0["read"], "changes");
    }
}

/// Guards image files and hosts without BPF: they are imaged as ever, and are told why.
fn what_cannot_be_tracked_is_compared() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let path = lab.path("disk.raw");
    noise(&sparse(&path, 20 * MIB), 0, MIB as usize, 1);
    for _ in 0..2 {
        let report = lab.backup("db1", &path);
        let tracking = &report["tracking"][0];
        assert_eq!(tracking["read"], "all", "{report}");
        assert!(
            tracking["reason"]
                .as_str()
                .unwrap_or_default()
                .contains("a file")
        );
    }
    let disk = Disk::open(&DiskArgument::from(path)).unwrap_or_else(|e| panic!("{e}"));
    assert!(!disk.is_device());
}

fn main() {
    let needs = || [Need::root(), Need::program("losetup"), Need::tracepoints()];
    Suite::default()
        .case_with(
            "only what was written is read",
            &needs(),
            only_what_was_written_is_read,
        )
        .case_with(
            "no write is missed beside running and killed runs",
            &needs(),
            no_write_is_missed_beside_running_and_killed_runs,
        )
        .case_with("any doubt reads all", &needs(), any_doubt_reads_all)
        .case_with(
            "a change that was not marked is an alarm",
            &needs(),
            a_change_that_was_not_marked_is_an_alarm,
        )
        .case_with(
            "a proof beside a writer is no alarm",
            &needs(),
            a_proof_beside_a_writer_is_no_alarm,
        )
        .case_with(
            "old pages of the disk hide no write to a partition",
            &needs(),
            old_pages_of_the_disk_hide_no_write_to_a_partition,
        )
        .case(
            "what cannot be tracked is compared",
            what_cannot_be_tracked_is_compared,
        )
        .run()
}
