//! Keeps what is known of writes over a clean restart of the server.
//!
//! 1. When the agent's service is stopped, [`prepare`] takes all marks into the records, as a run
//!    does, and makes room for step 2: a small file of zeros.
//! 2. When all file systems are unmounted, or mounted to be read only, [`keep`] writes what was
//!    marked since into that file. No file system takes a write any more, so the bytes go to the
//!    file's own blocks on its disk, as a swap file's do; that is why only ext2/3/4 and XFS do.
//! 3. When the server is up again, before anything mounts for writing, [`resume`] starts probes.
//!    It does so only while the kernel counts no write to the disk at all, or none but those of
//!    checks (`checked`) of clean file systems: then what was kept is all that happened. The next run finds a probe whose number follows from what was kept.
//!
//! Without 2 or 3, after a crash for instance, the numbers do not fit, and all is read. What the
//! kernel itself writes after step 2, with nobody left to see it, are the descriptions of RAID
//! arrays and volume groups at the edges of disks and partitions: these are taken as written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::checked;
use super::device::{Device, boot_id, node_of};
use super::extents;
use super::grains::{GRAIN, Grains};
use super::probe::Probe;
use super::record::Record;

/// The file's name in the directory of the records.
const NAME: &str = "kept";
/// Its bytes. A list that does not fit is not kept.
const ROOM: usize = 64 * 1024;
/// So much at the beginning and the end of a disk and of each partition may have been written.
const EDGE: u64 = 4 << 20;

/// What was marked of one disk since its record was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptDisk {
    /// The probe that marked it.
    generation: u64,
    /// Which disk.
    identity: String,
    size: u64,
    /// First grains and how many.
    runs: Vec<(u64, u64)>,
}

impl KeptDisk {
    /// The number of the probe that goes on from here.
    pub fn successor(&self) -> u64 {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(&text).as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// What was marked, and the edges.
    pub fn changed(&self, device: &Device) -> Grains {
        let mut changed = Grains::none(self.size);
        for &(first, count) in &self.runs {
            changed.add(
                first.saturating_mul(GRAIN)..first.saturating_add(count).saturating_mul(GRAIN),
            );
        }
        for part in device.parts() {
            changed.add(part.start..part.end.min(part.start + EDGE));
            changed.add(part.end.saturating_sub(EDGE).max(part.start)..part.end);
        }
        changed
    }
}

/// What was kept of the disk whose probe had this number.
pub(super) fn kept_of(dir: &Path, generation: u64) -> Option<KeptDisk> {
    let all = read(&dir.join(NAME))?;
    all.into_iter().find(|disk| disk.generation == generation)
}

/// Step 1. How many disks it can go on with.
pub fn prepare(dir: &Path) -> io::Result<usize> {
    let mut disks = 0;
    for (path, mut record) in records(dir) {
        let Some((_, probe)) = probe_of(&record) else {
            continue;
        };
        if let Some(marks) = probe.take() {
            record.changed.merge(&marks);
            record.write(&path)?;
            probe.kept();
            disks += 1;
        }
    }
    if disks > 0 {
        let path = dir.join(NAME);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        // Blocks that were written once: an unwritten one would come back as zeros.
        file.write_all(&vec![0; ROOM])?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
    }
    Ok(disks)
}

/// Step 2. How many disks were kept.
pub fn keep(dir: &Path) -> io::Result<usize> {
    let path = dir.join(NAME);
    let file = File::open(&path)?;
    let flags = rustix::fs::fstatvfs(&file)?.f_flag;
    if !flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Err(io::Error::other(
            "the file system of the state directory is still written",
        ));
    }
    let places = extents::of(&file, ROOM as u64)?;
    let device = file.metadata()?.dev();
    let device = node_of((rustix::fs::major(device), rustix::fs::minor(device)))?;
    let device = OpenOptions::new()
        .write(true)
        .custom_flags((OFlags::DIRECT | OFlags::DSYNC).bits() as i32)
        .open(device)?;
    let write = |bytes: &[u8]| {
        let mut buffer = AlignedRoom::boxed();
        buffer.0[..bytes.len()].copy_from_slice(bytes);
        let mut at = 0;
        for (place, length) in &places {
            let end = at + *length as usize;
            device.write_all_at(&buffer.0[at..end], *place)?;
            at = end;
        }
        Ok::<_, io::Error>(())
    };
    // Once for the marks that this very write makes, wherever its blocks lie.
    write(&[])?;
    let mut disks = Vec::new();
    for (_, record) in records(dir) {
        let Some((_, probe)) = probe_of(&record) else {
            continue;
        };
        if let Some(marks) = probe.peek() {
            disks.push(KeptDisk {
                generation: record.facts.generation,
                identity: record.facts.identity,
                size: record.facts.size,
                runs: runs_of(&marks),
            });
        }
    }
    let bytes = encode(&disks)?;
    if bytes.len() > ROOM {
        return Err(io::Error::other(
            "more was written than there is room to keep",
        ));
    }
    write(&bytes)?;
    Ok(disks.len())
}

/// Step 3. How many disks go on.
pub fn resume(dir: &Path) -> io::Result<usize> {
    let boot = boot_id().unwrap_or_default();
    let mut resumed = 0;
    let Some(kept) = read(&dir.join(NAME)) else {
        return Ok(0);
    };
    for (_, record) in records(dir)
        .into_iter()
        .filter(|(_, r)| r.facts.boot != boot)
    {
        let Some(kept) = kept
            .iter()
            .find(|k| k.generation == record.facts.generation)
        else {
            continue;
        };
        let known = |device: &Device| {
            !kept.identity.is_empty()
                && (device.identity(), device.size) == (kept.identity.clone(), kept.size)
        };
        let mut found = Device::all().into_iter().filter(known);
        // Two disks of one identity are two paths to it, or a copy: nobody can tell.
        let (Some(device), None) = (found.next(), found.next()) else {
            continue;
        };
        let probe = match Probe::start(&device, kept.successor()) {
            Ok(probe) => probe,
            Err(reason) => {
                tracing::warn!("{reason}");
                continue;
            }
        };
        let explained = match probe.unseen() {
            0 if device.sectors_written() == Some(0) => Some(Vec::new()),
            unseen => checked::places(&device, unseen),
        };
        let Some(places) = explained else {
            tracing::warn!(
                "something was written to disk {} before tracking began: it will be read whole",
                device.identity()
            );
            Probe::stop(&device)?;
            continue;
        };
        places.into_iter().for_each(|bytes| probe.mark(bytes));
        resumed += 1;
    }
    Ok(resumed)
}

/// The records of a directory, those that can be read.
fn records(dir: &Path) -> Vec<(PathBuf, Record)> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = files.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "track"))
        .filter_map(|path| Some((path.clone(), Record::read(&path).ok()??)))
        .collect()
}

/// The probe that a record knows, without fault.
fn probe_of(record: &Record) -> Option<(Device, Probe)> {
    let mut devices = Device::all().into_iter();
    let device = devices.find(|device| {
        (device.sequence, device.size) == (record.facts.sequence, record.facts.size)
    })?;
    let probe = Probe::open(&device)?;
    let sound = probe.generation() == record.facts.generation
        && probe.fault().is_none()
        && !probe.is_taking();
    sound.then_some((device, probe))
}

fn runs_of(grains: &Grains) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for grain in grains.iter() {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == grain => *count += 1,
            _ => runs.push((grain, 1)),
        }
    }
    runs
}

/// BLAKE3 (32 bytes) of the rest; its length (4 bytes, little endian); JSON.
fn encode(disks: &[KeptDisk]) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(disks)?;
    let mut rest = (text.len() as u32).to_le_bytes().to_vec();
    rest.extend(text);
    let mut bytes = blake3::hash(&rest).as_bytes().to_vec();
    bytes.extend(rest);
    Ok(bytes)
}

fn read(path: &Path) -> Option<Vec<KeptDisk>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(ROOM as u64).read_to_end(&mut bytes).ok()?;
    let (hash, rest) = bytes.split_first_chunk::<32>()?;
    let (length, text) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let content = rest.get(..4 + length)?;
    (blake3::hash(content).as_bytes() == hash).then_some(())?;
    serde_json::from_slice(text.get(..length)?).ok()
}

/// What is written past the page cache must lie on a page.
#[repr(align(4096))]
struct AlignedRoom([u8; ROOM]);

impl AlignedRoom {
    fn boxed() -> Box<Self> {
        Box::new(Self([0; ROOM]))
    }
}
