//! Knows which blocks of a disk were written since its last image, without a module in the kernel.
//!
//! ```text
//!  kernel: block_rq_issue ──┐                      state directory
//!          block_rq_complete┴─► marks ──take──► record ──► a run reads these, and passes the rest by
//! ```
//!
//! * [`probe`]: a small eBPF program on two tracepoints of the block layer, pinned, so that it
//!   goes on without the agent; [`tracepoint`]: where the kernel has what it reads.
//! * [`grains`]: the marks, one bit for 64 KiB. [`record`]: what is kept of them between runs.
//! * [`reboot`]: how they outlive a clean restart of the server.
//! * [`device`]: which disk it is. [`Tracking`]: what a run may believe.
//!
//! Invariants:
//! * A write is marked before its request reaches the disk, and again when it is completed: marks
//!   may be taken in between.
//! * What was taken from the kernel is in the record, durably, before a run reads by it, and
//!   stays there until a recovery point that holds it was committed.
//! * Doubt costs time, never data. Any doubt (another boot, another disk, a probe that is not the
//!   one that the record knows, more written than it saw, a run cut off while taking, a cache
//!   that does not hold the base) means that the whole disk is read and compared.
//! * At an interval everything is read all the same. A change that was not marked is an alarm,
//!   and marks are not believed any more until somebody says so.

pub mod device;
mod extents;
pub mod grains;
pub mod probe;
pub mod reboot;
pub mod record;
mod shared;
pub mod tracepoint;

use std::path::{Path, PathBuf};
use std::time::Duration;

use relevo_wire::{PointId, Timestamp};
use serde::Serialize;

use crate::disk::Disk;
use device::{Device, boot_id};
use grains::Grains;
use probe::Probe;
use record::{Facts, Record};

/// Marks are proved by a full comparison when the last one is older.
const COMPARED_EVERY: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a run may believe of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Nothing else changed since the last image.
    Changed(Grains),
    /// As above, and it is time to prove it: all is read.
    Proof(Grains),
    /// Nothing is known, for this reason: all is read.
    Nothing(String),
}

impl Basis {
    /// The grains that may have changed, when the rest need not be read.
    pub fn trusted(&self) -> Option<&Grains> {
        match self {
            Self::Changed(grains) => Some(grains),
            _ => None,
        }
    }

    /// The grains that may have changed, when that is to be proved.
    pub fn to_prove(&self) -> Option<&Grains> {
        match self {
            Self::Proof(grains) => Some(grains),
            _ => None,
        }
    }
}

/// Tracking of one disk through one run.
pub struct Tracking {
    path: PathBuf,
    basis: Basis,
    /// None where writes cannot be tracked.
    record: Option<Record>,
}

impl Tracking {
    /// Takes what is marked, and begins to mark anew, before anything is read for `making`.
    /// `last` is the point whose spans the agent's cache holds. Without a working kernel, or with
    /// any doubt, the basis says so; that is no error.
    pub fn begin(dir: &Path, disk: &Disk, last: Option<PointId>, making: PointId) -> Self {
        let path = dir.join(file_name(disk.name()));
        match taken(dir, &path, disk, last, making) {
            Ok((basis, record)) => Self {
                path,
                basis,
                record: Some(record),
            },
            Err(reason) => Self {
                path,
                basis: Basis::Nothing(reason),
                record: None,
            },
        }
    }

    /// Of a disk whose writes are not tracked.
    pub fn off() -> Self {
        Self {
            path: PathBuf::new(),
            basis: Basis::Nothing("writes are not tracked".into()),
            record: None,
        }
    }

    /// What the run may believe.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// The point was committed, and the cache holds its spans: changes count from it.
    pub fn commit(&mut self, disk: &Disk, point: PointId) {
        let Some(record) = &mut self.record else {
            return;
        };
        if self.basis.trusted().is_none() {
            record.facts.compared = Some(Timestamp::now());
        }
        record.facts.base = Some(point);
        record.facts.making = None;
        record.changed = Grains::none(record.facts.size);
        self.write(disk);
    }

    /// So many spans had changed, and were not marked.
    pub fn alarm(&mut self, disk: &Disk, unmarked: u64) {
        let Some(record) = &mut self.record else {
            return;
        };
        let what = format!("{unmarked} spans had changed that were not marked as written");
        tracing::error!(
            "{}: {what}: this image is right, since all was read; from now on all is read, until \
             'relevo-agent tracking reset'. Please report this with the kernel's release",
            disk.path().display()
        );
        record.facts.alarm = Some(what);
        self.write(disk);
    }

    /// A record that cannot be written is an older one, of an earlier base: the next run doubts it.
    fn write(&self, disk: &Disk) {
        if let Some(record) = &self.record
            && let Err(error) = record.write(&self.path)
        {
            tracing::warn!(
                "{}: {}: {error}; the next run reads all of the disk",
                disk.path().display(),
                self.path.display()
            );
        }
    }
}

/// How a disk's tracking stands.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// Why the next run reads all of it; none when it need not.
    pub doubt: Option<String>,
    /// Bytes in the grains that are marked.
    pub marked_bytes: u64,
    /// The point from which on changes are known.
    pub base: Option<PointId>,
    /// When the whole disk was last compared.
    pub compared: Option<Timestamp>,
}

/// Looks, and changes nothing.
pub fn standing(dir: &Path, disk: &Disk) -> Standing {
    let none = |doubt: String| Standing {
        doubt: Some(doubt),
        marked_bytes: 0,
        base: None,
        compared: None,
    };
    let device = match Device::of(disk.path()) {
        Ok(device) => device,
        Err(reason) => return none(reason),
    };
    let kept = Record::read(&dir.join(file_name(disk.name())));
    let kept = match kept {
        Ok(Some(kept)) => kept,
        Ok(None) => return none("no run has begun to track it".into()),
        Err(error) => return none(error.to_string()),
    };
    let facts = kept.facts.clone();
    let boot = boot_id().unwrap_or_default();
    let (doubt, marked_bytes) = match trusted(Some(kept), &device, &boot, facts.base, dir) {
        Ok((probe, mut record)) => {
            if let Some(marks) = probe.peek() {
                record.changed.merge(&marks);
            }
            (None, record.changed.bytes())
        }
        Err(doubt) => (Some(doubt), 0),
    };
    Standing {
        doubt,
        marked_bytes,
        base: facts.base,
        compared: facts.compared,
    }
}

/// Forgets what is known of a disk; ends its probe too when told so.
pub fn forget(dir: &Path, disk: &Disk, stop: bool) -> std::io::Result<()> {
    if let (true, Ok(device)) = (stop, Device::of(disk.path())) {
        Probe::stop(&device)?;
    }
    match std::fs::remove_file(dir.join(file_name(disk.name()))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The file of a disk's record. Names of disks may hold anything.
fn file_name(disk: &str) -> String {
    let hash = blake3::hash(disk.as_bytes()).to_hex();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let readable: String = disk.chars().filter(|&c| plain(c)).take(32).collect();
    format!("{readable}-{}.track", &hash[..8])
}

/// Takes the marks into the record. The error says why this disk's writes cannot be tracked.
fn taken(
    dir: &Path,
    path: &Path,
    disk: &Disk,
    last: Option<PointId>,
    making: PointId,
) -> Result<(Basis, Record), String> {
    let device = Device::of(disk.path())?;
    let boot = boot_id().ok_or("the kernel does not say which run of it this is")?;
    let kept = match Record::read(path) {
        Ok(kept) => kept,
        Err(error) => {
            tracing::warn!("{}: {error}: the disk is compared whole", path.display());
            None
        }
    };
    let alarm = kept.as_ref().and_then(|record| record.facts.alarm.clone());
    let (reason, mut record) = match trusted(kept, &device, &boot, last, dir) {
        Ok((probe, mut record)) => {
            let marks = probe.take().ok_or("the marks are of another size")?;
            record.changed.merge(&marks);
            record.facts.base = last;
            record.facts.making = Some(making);
            record.write(path).map_err(|e| e.to_string())?;
            probe.kept();
            let old = |at: Timestamp| Timestamp::now().since(at) > COMPARED_EVERY;
            let changed = record.changed.clone();
            let basis = match record.facts.compared.is_none_or(old) {
                true => Basis::Proof(changed),
                false => Basis::Changed(changed),
            };
            return Ok((basis, record));
        }
        Err(reason) => (reason, anew(&device, boot)?),
    };
    record.facts.alarm = alarm;
    let write = |record: &Record| record.write(path).map_err(|e| e.to_string());
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    write(&record)?;
    Ok((Basis::Nothing(reason), record))
}

/// The probe whose marks are all that changed since the record's base. The error says why there
/// is none.
fn trusted(
    kept: Option<Record>,
    device: &Device,
    boot: &str,
    last: Option<PointId>,
    dir: &Path,
) -> Result<(Probe, Record), String> {
    let record = kept.ok_or("changes are tracked from now on")?;
    let facts = &record.facts;
    if let Some(alarm) = &facts.alarm {
        return Err(format!("tracking is not believed any more: {alarm}"));
    }
    if facts.boot != boot {
        let record = resumed(&record, device, boot, dir).ok_or("the server was started anew")?;
        return trusted(Some(record), device, boot, last, dir);
    }
    if (facts.sequence, facts.size) != (device.sequence, device.size)
        || facts.identity != device.identity()
    {
        return Err("the disk is another one, or has another size".into());
    }
    let probe = Probe::open(device).ok_or("what marks its writes is gone")?;
    if probe.generation() != facts.generation {
        return Err("its writes are marked by another probe than the one known".into());
    }
    if let Some(fault) = probe.fault() {
        return Err(fault.into());
    }
    // In this order: what is completed between the two is counted by the probe only.
    let written = device
        .sectors_written()
        .ok_or("the kernel does not say how much was written")?;
    if written.saturating_sub(probe.sectors()) > facts.unseen {
        return Err("more was written than was seen".into());
    }
    match last {
        None => Err("the cache does not hold the last image".into()),
        Some(last) if Some(last) == facts.base || Some(last) == facts.making => Ok((probe, record)),
        Some(_) => Err("the cache holds another image than the one known".into()),
    }
}

/// The record of a server that was restarted cleanly: the probe that goes on is known by its
/// number.
fn resumed(record: &Record, device: &Device, boot: &str, dir: &Path) -> Option<Record> {
    let kept = reboot::kept_of(dir, record.facts.generation)?;
    let mut record = record.clone();
    record.facts.boot = boot.into();
    record.facts.sequence = device.sequence;
    record.facts.generation = kept.successor();
    // It was started before anything was written.
    record.facts.unseen = 0;
    record.changed.merge(&kept.changed(device));
    Some(record)
}

/// Starts a probe, and a record that knows of no change.
fn anew(device: &Device, boot: String) -> Result<Record, String> {
    let generation = u64::from_le_bytes(relevo_wire::id::random_bytes());
    let probe = Probe::start(device, generation)?;
    // In this order: what is completed between the two is counted twice, which errs to the side
    // of not suspecting; samples that agree say that nothing was.
    let sample = || Some((probe.sectors(), device.sectors_written()?));
    let mut unseen = 0;
    for _ in 0..100 {
        let (seen, written) = sample().ok_or("the kernel does not say how much was written")?;
        unseen = written.saturating_sub(seen);
        if sample() == Some((seen, written)) {
            break;
        }
    }
    Ok(Record {
        facts: Facts {
            identity: device.identity(),
            size: device.size,
            boot,
            sequence: device.sequence,
            generation,
            unseen,
            base: None,
            making: None,
            compared: None,
            alarm: None,
        },
        changed: Grains::none(device.size),
    })
}
