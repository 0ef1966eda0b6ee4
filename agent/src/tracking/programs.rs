//! The programs in the kernel that mark what is written, and the table of the disks that they
//! look at.
//!
//! One set of programs serves all disks. It is pinned below `/sys/fs/bpf/relevo`, so that it goes
//! on when the agent ends, is killed or is replaced by a newer one, and ends with the kernel: a
//! link for each program, and the table, which holds the disks' maps.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashOfMaps, Map, MapData};
use aya::programs::RawTracePoint;
use aya::programs::links::{FdLink, PinnedLink};
use aya::{Btf, Ebpf, EbpfLoader};
use rustix::fs::FlockOperation;
use rustix::mount::MountFlags;

use super::device::Device;

/// Where programs stay when nobody holds them.
const PINS: &str = "/sys/fs/bpf";
/// Changes with what the programs and their maps mean: those of another layout are left alone.
const LAYOUT: &str = "2";
const PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/program.bpf.o"));
/// The number of a BPF file system (statfs(2)).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// BPF_F_MMAPABLE, and BPF_F_INNER_MAP: maps of different lengths in one table.
const DISK_FLAGS: u32 = 1 << 10 | 1 << 12;

/// Programs and where they are attached.
const ATTACHED: [(&str, &str); 4] = [
    ("issued1", "block_rq_issue"),
    ("issued2", "block_rq_issue"),
    ("issued3", "block_rq_issue"),
    ("completed", "block_rq_complete"),
];

/// The map of a disk.
pub(super) type DiskMap = Array<MapData, u64>;

/// The set of programs at work.
pub(super) struct Programs {
    disks: HashOfMaps<MapData, u32, DiskMap>,
    /// Held, they stay attached when their pins are taken away.
    _links: Vec<PinnedLink>,
}

impl Programs {
    /// Those at work, when all are there.
    pub fn open() -> Option<Self> {
        let dir = dir();
        let links = ATTACHED
            .iter()
            .map(|(name, _)| PinnedLink::from_pin(dir.join(name)).ok());
        let links: Option<Vec<_>> = links.collect();
        let disks = MapData::from_pin(dir.join("disks")).ok()?;
        Some(Self {
            disks: Map::HashOfMaps(disks).try_into().ok()?,
            _links: links?,
        })
    }

    /// Those at work; new ones where some are missing.
    pub fn start(_alone: &Alone) -> Result<Self, String> {
        if let Some(programs) = Self::open() {
            return Ok(programs);
        }
        mount_pins()?;
        let dir = dir();
        let failed = |e: io::Error| format!("{}: {e}", dir.display());
        remove(&dir).map_err(failed)?;
        fs::create_dir_all(&dir).map_err(failed)?;
        let started = load().and_then(|program| attach(program, &dir));
        if let Err(reason) = started {
            let _ = remove(&dir);
            return Err(reason);
        }
        Self::open().ok_or_else(|| "the programs are not there though they were started".into())
    }

    /// The map of a disk that they look at.
    pub fn disk(&self, number: u32) -> Option<DiskMap> {
        self.disks.get(&number, 0).ok()
    }

    /// Looks at a disk from now on, with this map in place of the one it had.
    pub fn add(&mut self, number: u32, map: &DiskMap) -> Result<(), String> {
        self.disks.insert(number, map, 0).map_err(|e| in_full(&e))
    }

    /// Looks at a disk no more. The last one takes the programs with it.
    pub fn remove(mut self, number: u32, _alone: &Alone) -> io::Result<()> {
        self.forget(number);
        match self.numbers().is_empty() {
            true => remove(&dir()),
            false => Ok(()),
        }
    }

    /// Looks at a disk no more, the last one too.
    pub fn forget(&mut self, number: u32) {
        // It fails where there is none.
        let _ = self.disks.remove(&number);
    }

    /// Numbers of the disks that they look at.
    pub fn numbers(&self) -> Vec<u32> {
        self.disks.keys().flatten().collect()
    }
}

/// A map of so many words for a disk.
pub(super) fn disk_map(words: u32) -> Result<DiskMap, String> {
    DiskMap::create(words, DISK_FLAGS).map_err(|e| in_full(&e))
}

/// Keeps other agents of this server from changing what is pinned.
pub(super) struct Alone {
    _lock: File,
}

impl Alone {
    /// Waits for others.
    pub fn new() -> Result<Self, String> {
        let failed = |e: io::Error| format!("{PINS}: {e}");
        let lock = File::open("/sys/fs").map_err(failed)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        Ok(Self { _lock: lock })
    }
}

/// Mounts the BPF file system when it is not. A second mount would hide what is pinned in the
/// first, so whoever does it is alone.
fn mount_pins() -> Result<(), String> {
    if rustix::fs::statfs(PINS).is_ok_and(|found| found.f_type == BPF_FS_MAGIC) {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", PINS, "bpf", flags, None)
        .map_err(|e| format!("{PINS} cannot be mounted: {}", io::Error::from(e)))
}

/// As the programs name a disk.
pub(super) fn number_of(device: &Device) -> u32 {
    device.number.0 << 20 | device.number.1
}

fn dir() -> PathBuf {
    Path::new(PINS).join("relevo").join(LAYOUT)
}

fn load() -> Result<Ebpf, String> {
    // Interrupts are tasks there, and more of them stand within a program than it has copies.
    if crate::inventory::sysfs_text(Path::new("/sys/kernel/realtime")).as_deref() == Some("1") {
        return Err("writes cannot be tracked with a kernel for real time (PREEMPT_RT)".into());
    }
    let structures = Btf::from_sys_fs().map_err(|e| {
        let error = in_full(&e);
        format!("the kernel does not tell where its structures have what (BTF): {error}")
    })?;
    let mut program = EbpfLoader::new()
        .btf(Some(&structures))
        .load(PROGRAM)
        .map_err(|e| in_full(&e))?;
    for (name, _) in ATTACHED {
        part(&mut program, name)?.load().map_err(|e| in_full(&e))?;
    }
    Ok(program)
}

fn attach(mut program: Ebpf, dir: &Path) -> Result<(), String> {
    let disks = program.take_map("disks");
    let Some(Map::HashOfMaps(disks)) = disks else {
        return Err("the programs have no table of disks".into());
    };
    disks.pin(dir.join("disks")).map_err(|e| in_full(&e))?;
    for (name, event) in ATTACHED {
        let part = part(&mut program, name)?;
        let link = part.attach(event).and_then(|link| part.take_link(link));
        FdLink::from(link.map_err(|e| in_full(&e))?)
            .pin(dir.join(name))
            .map_err(|e| in_full(&e))?;
    }
    Ok(())
}

fn part<'a>(program: &'a mut Ebpf, name: &str) -> Result<&'a mut RawTracePoint, String> {
    let found = program.program_mut(name);
    let found = found.ok_or_else(|| format!("there is no program '{name}'"))?;
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

/// Ends all programs there are, of every layout.
pub(super) fn remove_all() -> io::Result<()> {
    remove(&Path::new(PINS).join("relevo"))
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
