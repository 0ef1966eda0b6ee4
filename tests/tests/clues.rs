//! Where the kernel cannot mark what is written, btrfs says what changed: no changed block is ever
//! missed, and what did not change is not read.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use relevo_tests::disks::{noise, sparse};
use relevo_tests::filesystems::{Loop, Mount, run, run_with};
use relevo_tests::lab::Lab;
use relevo_tests::program::finish;
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 640 * MIB;

/// A disk image whose writes the kernel cannot mark, since it is a file. Two agents image it: one
/// by clues, the other always reads all.
struct Bench {
    lab: Lab,
    disk: PathBuf,
    dice: u64,
    files: u64,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let lab = Lab::new();
        lab.enroll_agent("clues");
        lab.enroll_agent("whole");
        let disk = lab.path("disk.raw");
        drop(sparse(&disk, SIZE));
        let bench = Self {
            lab,
            disk,
            dice: seed,
            files: 0,
        };
        bench.make();
        bench
    }

    fn make(&self) {
        let single = ["-q", "-f", "-d", "single", "-m", "dup"];
        run("mkfs.btrfs", &[&single[..], &[self.text()]].concat());
    }

    fn text(&self) -> &str {
        self.disk.to_str().unwrap_or_default()
    }

    fn mount(&self) -> Mount {
        Loop::over(&self.disk, 0, 0).mount("btrfs", "noatime")
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    fn backup(&self) -> Value {
        self.lab.backup("clues", &self.disk)
    }

    /// Images the disk both ways, and compares what is restored bit for bit.
    fn proven(&self) -> Value {
        let report = self.backup();
        let mut whole = self.lab.backup_command("whole", &self.disk);
        whole.arg("--no-tracking");
        finish(whole).expect_success();
        let (one, other) = (self.lab.restore("clues"), self.lab.restore("whole"));
        let (one, other) = (one.to_string_lossy(), other.to_string_lossy());
        run_with("cmp", &[&one, &other], &[0]);
        report
    }

    /// Something that happens to a file system.
    fn happen(&mut self, dir: &Path) {
        let seed = self.roll(1 << 30);
        let file = |number: u64| dir.join(format!("file-{number}"));
        let some = self.roll(self.files.max(1));
        let length = (1 + self.roll(4 * MIB)) as usize;
        let path = file(some).to_string_lossy().into_owned();
        let target = dir.to_string_lossy().into_owned();
        let open = |path: &Path| OpenOptions::new().write(true).open(path);
        // Files may be gone, and room may be short: what fails has not happened.
        let try_run = |program: &str, arguments: &[&str]| {
            let _ = Command::new(program).args(arguments).output();
        };
        match self.roll(14) {
            0..3 => {
                let new = file(self.files);
                self.files += 1;
                let made = File::create(new).unwrap_or_else(|e| panic!("{e}"));
                noise(&made, 0, length, seed);
            }
            3..5 => {
                if let Ok(old) = open(&file(some)) {
                    noise(&old, self.roll(2 * MIB), length / 4, seed);
                }
            }
            5 => try_run("rm", &["-f", &path]),
            6 => {
                // Written in place from now on.
                let place = dir.join("in-place");
                if !place.exists() {
                    drop(File::create(&place).unwrap_or_else(|e| panic!("{e}")));
                    run("chattr", &["+C", &place.to_string_lossy()]);
                }
                if let Ok(old) = open(&place) {
                    noise(&old, self.roll(MIB), length / 4, seed);
                    let _ = old.sync_all();
                }
            }
            7 => {
                let snapshot = format!("{target}/snapshot-{}", self.roll(3));
                try_run("btrfs", &["subvolume", "delete", &snapshot]);
                try_run("btrfs", &["subvolume", "snapshot", &target, &snapshot]);
            }
            8 => try_run("btrfs", &["balance", "start", "-dusage=60", &target]),
            9 => try_run("btrfs", &["filesystem", "defragment", &path]),
            10 => {
                // Reserved, and written later in place.
                let reserved = dir.join("reserved");
                let long = (8 * MIB).to_string();
                let reserved = reserved.to_string_lossy().into_owned();
                try_run("fallocate", &["-l", &long, &reserved]);
                if let Ok(old) = open(Path::new(&reserved)) {
                    noise(&old, self.roll(7 * MIB), length / 8, seed);
                }
            }
            11 => {
                let size = ["600M", "max"][self.roll(2) as usize];
                try_run("btrfs", &["filesystem", "resize", size, &target]);
            }
            12 => {
                let copy = format!("{target}/copy-{}", self.roll(4));
                try_run("cp", &["--reflink=always", &path, &copy]);
            }
            _ => {
                if let Ok(old) = open(&file(some)) {
                    noise(&old, self.roll(MIB), 3000, seed);
                    let _ = old.sync_all();
                }
            }
        }
    }
}

/// Guards every changed block of btrfs, whatever is done to it, over bases that were taken while it
/// was written and of it at rest: what is imaged by clues is what is imaged by reading all.
fn no_changed_block_is_missed(seed: u64) {
    let mut bench = Bench::new(seed);
    let mut believed = 0;
    for round in 0..7 {
        let mount = bench.mount();
        let dir = mount.path().to_path_buf();
        for _ in 0..12 {
            bench.happen(&dir);
        }
        if round % 2 == 1 {
            // An image while all goes on: the next one is over it.
            let done = AtomicBool::new(false);
            let image = bench.lab.backup_command("clues", &bench.disk);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    finish(image).expect_success();
                    done.store(true, Ordering::SeqCst);
                });
                while !done.load(Ordering::SeqCst) {
                    bench.happen(&dir);
                }
            });
            for _ in 0..4 {
                bench.happen(&dir);
            }
        }
        drop(mount);
        if round == 5 {
            bench.make();
        }
        let report = bench.proven();
        let tracking = &report["tracking"][0];
        believed += usize::from(tracking["read"] == "clues");
        if round == 5 {
            assert_eq!(tracking["read"], "all", "another file system; {report}");
        }
    }
    assert!(believed >= 3, "clues were hardly ever believed");
}

/// Guards what clues are for: the time of an image grows with what changed. And doubt: a record
/// that is damaged is none.
fn what_did_not_change_is_not_read() {
    let mut bench = Bench::new(5);
    let mount = bench.mount();
    for number in 0..30 {
        let file = File::create(mount.path().join(format!("file-{number}")));
        let file = file.unwrap_or_else(|e| panic!("{e}"));
        noise(&file, 0, 6 << 20, number + 1);
    }
    bench.files = 30;
    drop(mount);
    let read = |report: &Value| report["read_bytes"].as_u64().unwrap_or_default();
    let first = bench.proven();
    assert!(read(&first) > 180 * MIB, "{first}");
    let unchanged = bench.proven();
    assert_eq!(unchanged["tracking"][0]["read"], "clues", "{unchanged}");
    assert!(read(&unchanged) * 8 < read(&first), "{unchanged}");
    let mount = bench.mount();
    let place = mount.path().join("file-7");
    let file = OpenOptions::new().write(true).open(place);
    noise(&file.unwrap_or_else(|e| panic!("{e}")), MIB, 1 << 20, 77);
    drop(mount);
    let little = bench.proven();
    assert_eq!(little["tracking"][0]["read"], "clues", "{little}");
    assert!(read(&little) * 6 < read(&first), "{little}");

    let record = bench.record();
    let mut bytes = fs::read(&record).unwrap_or_else(|e| panic!("{e}"));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&record, bytes).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(bench.proven()["tracking"][0]["read"], "all");
    assert_eq!(bench.proven()["tracking"][0]["read"], "clues");

    let disk = format!("{}=sda", bench.text());
    let state = bench.lab.text("clues");
    let args = ["tracking", "reset", "--disk", &disk, "--state", &state];
    finish(bench.lab.command("relevo-agent", &args)).expect_success();
    assert_eq!(bench.proven()["tracking"][0]["read"], "all");
}

/// Guards what btrfs writes in place, with nothing else changed near it: files without checksums,
/// and room that was reserved.
fn what_is_written_in_place_is_read() {
    let bench = Bench::new(7);
    let length = 16 * MIB;
    let mount = bench.mount();
    let place = |name: &str| mount.path().join(name);
    let sync = || run("sync", &["-f", &mount.path().to_string_lossy()]);
    let new = |name: &str| File::create(place(name)).unwrap_or_else(|e| panic!("{e}"));
    let plain = new("plain");
    run("chattr", &["+C", &place("plain").to_string_lossy()]);
    noise(&plain, 0, length as usize, 1);
    sync();
    let long = length.to_string();
    run(
        "fallocate",
        &["-l", &long, &place("reserved").to_string_lossy()],
    );
    sync();
    // Behind them in the same chunk, with checksums: extents before it are known to lack theirs.
    noise(&new("behind"), 0, 20 << 20, 2);
    drop(plain);
    drop(mount);
    bench.proven();
    for round in 0..2 {
        let mount = bench.mount();
        for name in ["plain", "reserved"] {
            let file = OpenOptions::new().write(true).open(mount.path().join(name));
            let file = file.unwrap_or_else(|e| panic!("{e}"));
            noise(&file, (7 + round) * MIB, 1 << 20, 50 + round);
        }
        drop(mount);
        let report = bench.proven();
        assert_eq!(report["tracking"][0]["read"], "clues", "{report}");
    }
}

impl Bench {
    /// The file of the agent's clues.
    fn record(&self) -> PathBuf {
        let files = fs::read_dir(self.lab.path("clues/tracking"));
        let mut paths = files.into_iter().flatten().flatten().map(|f| f.path());
        let found = paths.find(|path| path.extension().is_some_and(|e| e == "clues"));
        found.unwrap_or_else(|| panic!("no record of clues"))
    }
}

/// Guards against a file system, or a program beside it, that does not say what changed: the proof
/// finds it, the image is right, and nothing is believed any more.
fn a_change_that_btrfs_does_not_tell_of_is_an_alarm() {
    let bench = Bench::new(6);
    let settings = "[backup]\nproof-every = \"1s\"\n";
    fs::write(bench.lab.path("vault/settings.toml"), settings).unwrap_or_else(|e| panic!("{e}"));
    let mount = bench.mount();
    let file = File::create(mount.path().join("file"));
    noise(&file.unwrap_or_else(|e| panic!("{e}")), 0, 20 << 20, 3);
    let marked = File::create(mount.path().join("marked"));
    let marked = marked.unwrap_or_else(|e| panic!("{e}"));
    let mark = b"what lies here is altered beside".repeat(1 << 16);
    marked
        .write_all_at(&mark, 0)
        .unwrap_or_else(|e| panic!("{e}"));
    drop((marked, mount));
    bench.proven();
    let content = fs::read(&bench.disk).unwrap_or_else(|e| panic!("{e}"));
    let mut blocks = content.chunks(4096).enumerate();
    let at = blocks.find(|(_, block)| *block == &mark[..4096]);
    let (at, _) = at.unwrap_or_else(|| panic!("the file is nowhere"));
    let disk = OpenOptions::new().write(true).open(&bench.disk);
    let disk = disk.unwrap_or_else(|e| panic!("{e}"));
    disk.write_all_at(b"altered", at as u64 * 4096 + 512)
        .unwrap_or_else(|e| panic!("{e}"));
    drop(content);
    let alarm = bench.proven();
    assert_eq!(alarm["tracking"][0]["read"], "proof", "{alarm}");
    assert_eq!(alarm["tracking"][0]["unmarked_spans"], 1, "{alarm}");
    let after = bench.proven();
    assert_eq!(after["tracking"][0]["read"], "all", "{after}");
    let reason = after["tracking"][0]["reason"].to_string();
    assert!(reason.contains("not believed any more"), "{reason}");
}

/// Guards a server whose kernel takes no programs of the agent: its mounted disk, a device, is imaged by
/// clues as well.
fn a_kernel_without_programs_has_clues() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let file = lab.path("disk.raw");
    drop(sparse(&file, SIZE));
    run("mkfs.btrfs", &["-q", "-f", &file.to_string_lossy()]);
    let device = Loop::over(&file, 0, 0);
    let path = device.device().to_string();
    let mount = device.mount("btrfs", "noatime");
    for number in 0..20 {
        let file = File::create(mount.path().join(format!("file-{number}")));
        noise(
            &file.unwrap_or_else(|e| panic!("{e}")),
            0,
            6 << 20,
            number + 1,
        );
    }
    run("sync", &["-f", &mount.path().to_string_lossy()]);
    let image = || {
        let backup = lab.backup_command("db1", Path::new(&path));
        let mut alone = Command::new("setpriv");
        alone.arg("--bounding-set=-sys_admin,-bpf,-perfmon");
        alone.arg(backup.get_program()).args(backup.get_args());
        finish(alone).expect_json()
    };
    let first = image();
    let second = image();
    assert_eq!(first["tracking"][0]["read"], "all", "{first}");
    assert_eq!(second["tracking"][0]["read"], "clues", "{second}");
    let read = |report: &Value| report["read_bytes"].as_u64().unwrap_or_default();
    assert!(read(&second) * 4 < read(&first), "{second}");
}

fn main() {
    let needs = || {
        [
            Need::root(),
            Need::file_system("btrfs"),
            Need::program("mkfs.btrfs"),
        ]
    };
    Suite::default()
        .case_with("no changed block is missed, 1", &needs(), || {
            no_changed_block_is_missed(0x9e37_79b9);
        })
        .case_with("no changed block is missed, 2", &needs(), || {
            no_changed_block_is_missed(0x517c_c1b7);
        })
        .case_with(
            "what is written in place is read",
            &needs(),
            what_is_written_in_place_is_read,
        )
        .case_with(
            "what did not change is not read",
            &needs(),
            what_did_not_change_is_not_read,
        )
        .case_with(
            "a change that btrfs does not tell of is an alarm",
            &needs(),
            a_change_that_btrfs_does_not_tell_of_is_an_alarm,
        )
        .case_with(
            "a kernel without programs has clues",
            &[
                Need::root(),
                Need::file_system("btrfs"),
                Need::program("mkfs.btrfs"),
                Need::program("setpriv"),
            ],
            a_kernel_without_programs_has_clues,
        )
        .run()
}
