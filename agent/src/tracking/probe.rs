//! The program in the kernel that marks what is written to one disk.
//!
//! It is pinned below `/sys/fs/bpf/relevo`, so that it goes on when the agent ends, is killed or
//! is replaced by a newer one, and ends with the kernel. There the directory of a disk holds its
//! two maps and the two links that keep the program attached.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use aya::maps::{Map, MapData};
use aya::programs::TracePoint;
use aya::programs::links::{FdLink, PinnedLink};
use aya::{Ebpf, EbpfLoader};

use super::device::Device;
use super::grains::{GRAIN, Grains, words_of};
use super::shared::SharedWords;
use super::tracepoint;

/// Where programs stay when nobody holds them.
const PINS: &str = "/sys/fs/bpf";
const PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/program.bpf.o"));
/// The number of a BPF file system (statfs(2)).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Places in the map of counts; the first two are the program's.
const SECTORS: usize = 0;
const TOO_LONG: usize = 1;
const GENERATION: usize = 2;
const TAKING: usize = 3;
const COUNTS: usize = 8;

/// A program at work.
pub struct Probe {
    marks: SharedWords,
    counts: SharedWords,
    size: u64,
    _links: [PinnedLink; 2],
}

impl Probe {
    /// Starts marking, in place of what marks this disk now. `generation` tells this probe from
    /// all others.
    pub fn start(device: &Device, generation: u64) -> Result<Self, String> {
        let base = pins()?;
        forget_gone(&base);
        let dir = dir_of(&base, device);
        remove(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let started = load(device).and_then(|mut program| attach(&mut program, &dir, generation));
        if let Err(reason) = started {
            let _ = remove(&dir);
            return Err(reason);
        }
        Self::open(device).ok_or_else(|| "it is not there though it was started".into())
    }

    /// The one at work, when all of it is there.
    pub fn open(device: &Device) -> Option<Self> {
        let dir = dir_of(Path::new(PINS), device);
        let map = |name: &str, words: usize| {
            let map = MapData::from_pin(dir.join(name)).ok()?;
            SharedWords::map(map.fd(), words).ok()
        };
        let link = |name: &str| PinnedLink::from_pin(dir.join(name)).ok();
        Some(Self {
            marks: map("marks", words_of(device.size))?,
            counts: map("counts", COUNTS)?,
            size: device.size,
            _links: [link("issued")?, link("completed")?],
        })
    }

    /// Ends it.
    pub fn stop(device: &Device) -> io::Result<()> {
        remove(&dir_of(Path::new(PINS), device))
    }

    /// What it was started with.
    pub fn generation(&self) -> u64 {
        self.counts.words()[GENERATION].load(SeqCst)
    }

    /// Sectors of requests that it saw completed.
    pub fn sectors(&self) -> u64 {
        self.counts.words()[SECTORS].load(SeqCst)
    }

    /// Why its marks are not all.
    pub fn fault(&self) -> Option<&'static str> {
        match self.counts.words()[TOO_LONG].load(SeqCst) {
            0 => None,
            _ => Some("a write was longer than the program can mark"),
        }
    }

    /// Whether somebody has taken marks that are not safe on a disk yet, or was cut off before
    /// they were.
    pub fn is_taking(&self) -> bool {
        self.counts.words()[TAKING].load(SeqCst) != 0
    }

    /// Marks are in somebody's hands.
    pub fn taking(&self) {
        self.counts.words()[TAKING].store(1, SeqCst);
    }

    /// Takes the marks: what is written from now on is marked anew. They are in nobody's hands
    /// but the caller's until [`kept`](Self::kept).
    pub fn take(&self) -> Option<Grains> {
        self.taking();
        let marks = self
            .marks
            .words()
            .iter()
            .map(|word| match word.load(Relaxed) {
                // Most are, and looking does not take the line away from other processors.
                0 => 0,
                _ => word.swap(0, SeqCst),
            });
        Grains::from_words(self.size, marks.collect())
    }

    /// What was taken is safe on the disk.
    pub fn kept(&self) {
        self.counts.words()[TAKING].store(0, SeqCst);
    }

    /// The marks as they are.
    pub fn peek(&self) -> Option<Grains> {
        let marks = self.marks.words().iter().map(|word| word.load(Relaxed));
        Grains::from_words(self.size, marks.collect())
    }
}

fn load(device: &Device) -> Result<Ebpf, String> {
    let tracefs = tracepoint::tracefs().ok_or("the kernel shows no tracepoints (tracefs)")?;
    let issue = tracepoint::read(&tracefs, "block_rq_issue")?;
    let complete = tracepoint::read(&tracefs, "block_rq_complete")?;
    let number = device.kernel_number();
    let words = u32::try_from(words_of(device.size)).map_err(|_| "it is too large")?;
    let shift = (GRAIN / 512).trailing_zeros();
    let mut loader = EbpfLoader::new();
    let globals = [
        ("DEVICE", &number),
        ("WORDS", &words),
        ("GRAIN_SHIFT", &shift),
        ("ISSUE_DEVICE", &issue.device),
        ("ISSUE_SECTOR", &issue.sector),
        ("ISSUE_COUNT", &issue.count),
        ("ISSUE_KIND", &issue.kind),
        ("COMPLETE_DEVICE", &complete.device),
        ("COMPLETE_SECTOR", &complete.sector),
        ("COMPLETE_COUNT", &complete.count),
        ("COMPLETE_KIND", &complete.kind),
    ];
    for (name, value) in globals {
        loader.override_global(name, value, true);
    }
    let mut program = loader
        .map_max_entries("marks", words)
        .load(PROGRAM)
        .map_err(|e| in_full(&e))?;
    for name in ["issued", "completed"] {
        tracepoint_of(&mut program, name)?
            .load()
            .map_err(|e| in_full(&e))?;
    }
    Ok(program)
}

fn attach(program: &mut Ebpf, dir: &Path, generation: u64) -> Result<(), String> {
    for name in ["marks", "counts"] {
        let Some(Map::Array(map)) = program.take_map(name) else {
            return Err(format!("the program has no map '{name}'"));
        };
        if name == "counts" {
            let counts = SharedWords::map(map.fd(), COUNTS).map_err(|e| e.to_string())?;
            counts.words()[GENERATION].store(generation, SeqCst);
        }
        map.pin(dir.join(name)).map_err(|e| in_full(&e))?;
    }
    for (name, event) in [
        ("issued", "block_rq_issue"),
        ("completed", "block_rq_complete"),
    ] {
        let program = tracepoint_of(program, name)?;
        let link = program
            .attach("block", event)
            .and_then(|link| program.take_link(link))
            .map_err(|e| in_full(&e))?;
        // Kernels before 5.15 attach without a link that could be pinned.
        FdLink::try_from(link)
            .map_err(|e| in_full(&e))?
            .pin(dir.join(name))
            .map_err(|e| in_full(&e))?;
    }
    Ok(())
}

fn tracepoint_of<'a>(program: &'a mut Ebpf, name: &str) -> Result<&'a mut TracePoint, String> {
    let found = program.program_mut(name);
    let found = found.ok_or_else(|| format!("the program has no part '{name}'"))?;
    found.try_into().map_err(|e| in_full(&e))
}

/// An error and all that it came of.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The BPF file system, mounted when it is not.
fn pins() -> Result<PathBuf, String> {
    let path = PathBuf::from(PINS);
    let is_mounted = || rustix::fs::statfs(&path).is_ok_and(|found| found.f_type == BPF_FS_MAGIC);
    if is_mounted() {
        return Ok(path);
    }
    let failed = |e: io::Error| format!("{PINS} cannot be mounted: {e}");
    // A second mount would hide what is pinned in the first.
    let alone = fs::File::open("/sys/fs").map_err(failed)?;
    rustix::fs::flock(&alone, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| failed(e.into()))?;
    if !is_mounted() {
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NOEXEC;
        rustix::mount::mount("bpf", &path, "bpf", flags, None).map_err(|e| failed(e.into()))?;
    }
    Ok(path)
}

fn dir_of(pins: &Path, device: &Device) -> PathBuf {
    let ((major, minor), sequence) = (device.number, device.sequence);
    pins.join("relevo")
        .join(format!("{major}-{minor}-{sequence}"))
}

/// Takes away what marks disks that are there no more.
fn forget_gone(pins: &Path) {
    for entry in fs::read_dir(pins.join("relevo"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let numbers: Vec<&str> = name.split('-').collect();
        let [major, minor, sequence] = numbers[..] else {
            continue;
        };
        let now = format!("/sys/dev/block/{major}:{minor}/diskseq");
        if crate::inventory::sysfs_text(Path::new(&now)).as_deref() != Some(sequence) {
            let _ = remove(&entry.path());
        }
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
