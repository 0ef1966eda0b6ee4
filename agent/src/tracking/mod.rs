//! Knows which blocks of a disk were written since its last image, without a module in the kernel.
//!
//! ```text
//!  kernel: block_rq_issue ──┐                      state directory
//!          block_rq_complete┴─► marks ──take──► record ──► a run reads these, and passes the rest by
//! ```
//!
//! * `programs`: small eBPF programs on two tracepoints of the block layer, pinned, so that they
//!   go on without the agent. [`probe`]: what they mark of one disk.
//! * [`grains`]: the marks, one bit for 64 KiB. [`record`]: what is kept of them between runs.
//! * [`reboot`]: how they outlive a clean restart of the server.
//! * [`clues`]: what is believed of btrfs where the kernel cannot mark.
//! * [`device`]: which disk it is. `trust`: whether marks are all that changed. [`Tracking`]:
//!   what a run may believe; [`Standing`]: how that stands; [`Unmarked`]: what proves it wrong.
//!
//! Invariants:
//! * A write is marked before its request reaches the disk, and again when it is completed: marks
//!   may be taken in between. What is under way while they are taken is marked anew. The proof
//!   that no request was missed is the kernel's own count of what was written: the programs count
//!   as much, to the sector.
//! * What was taken from the kernel is in the record, durably, before a run reads by it, and
//!   stays there until a recovery point that holds it was committed.
//! * Doubt costs time, never data. Any doubt (another boot, another disk, a probe that is not the
//!   one that the record knows, more written than it saw, a run cut off while taking, a cache
//!   that does not hold the base) means that the whole disk is read and compared.
//! * At an interval everything is read all the same. A change that was not marked is an alarm,
//!   and marks are not believed any more until somebody says so.

mod checked;
pub mod clues;
pub mod device;
mod extents;
mod file;
pub mod grains;
pub mod probe;
mod programs;
pub mod reboot;
pub mod record;
mod shared;
mod standing;
mod trust;
mod unmarked;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use relevo_wire::{PointId, Timestamp};

use crate::disk::Disk;
use crate::used::Survey;
use clues::Clues;
use device::Device;
use grains::Grains;
use probe::Probe;
use record::Record;
use trust::{grounds, taken};

pub use standing::{Standing, standing};
pub use unmarked::Unmarked;

/// What a run may believe of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Nothing else changed since the last image.
    Changed(Grains),
    /// Nothing else in use changed since the last image, by what its file systems say.
    Clues(Grains),
    /// As either above, and it is time to prove it: all is read.
    Proof(Grains),
    /// Nothing is known, for this reason: all is read.
    Nothing(String),
}

impl Basis {
    /// The grains that may have changed, when the rest need not be read.
    pub fn trusted(&self) -> Option<&Grains> {
        match self {
            Self::Changed(grains) | Self::Clues(grains) => Some(grains),
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
///
/// A run [`begin`](Self::begin)s before it reads anything, and [`commit`](Self::commit)s when its
/// point is stored. One whose point is to be of one instant asks in between, round by round, what
/// was written meanwhile:
///
/// ```text
/// begin, read by the basis
/// again ─► read these, read_again ─► again ─► … until that is little
/// freeze ─► in_instant ─► read these, read_again ─► thaw ─► settled ─► commit
/// ```
///
/// What was taken and not read again stays on the list of the next run.
pub struct Tracking {
    path: PathBuf,
    basis: Basis,
    /// None where writes cannot be tracked.
    kept: Option<Kept>,
    /// Of a disk whose writes cannot be tracked: what is asked of its file systems.
    question: Option<Question>,
    /// What they said.
    clues: Option<Clues>,
}

/// What clues are to tell.
pub struct Question {
    /// The file they are kept in.
    pub clues: PathBuf,
    /// The point whose spans the agent's cache holds.
    pub last: Option<PointId>,
    /// They are proved by a full comparison when the last one is older than this.
    pub proof_every: Duration,
    /// Why writes are not marked.
    pub unmarked: String,
}

/// Of a disk whose writes are tracked.
struct Kept {
    record: Record,
    probe: Probe,
    /// Taken since the run began, and not read again since.
    unread: Grains,
}

impl Tracking {
    /// Takes what is marked, and begins to mark anew, before anything is read for `making`.
    /// `last` is the point whose spans the agent's cache holds. Without a working kernel, or with
    /// any doubt, the basis says so; that is no error. Marks are proved by a full comparison when
    /// the last one is older than `proof_every`.
    pub fn begin(
        dir: &Path,
        disk: &Disk,
        last: Option<PointId>,
        making: PointId,
        proof_every: Duration,
    ) -> Self {
        let path = dir.join(file_name(disk.name()));
        match taken(dir, &path, disk, last, making, proof_every) {
            Ok((basis, record, probe)) => Self {
                path,
                basis,
                kept: Some(Kept {
                    unread: Grains::none(record.facts.size),
                    record,
                    probe,
                }),
                question: None,
                clues: None,
            },
            Err(reason) => Self {
                question: Some(Question {
                    clues: dir.join(clues_name(disk.name())),
                    last,
                    proof_every,
                    unmarked: reason.clone(),
                }),
                clues: None,
                path,
                basis: Basis::Nothing(reason),
                kept: None,
            },
        }
    }

    /// Of a disk whose writes are not tracked.
    pub fn off() -> Self {
        Self {
            path: PathBuf::new(),
            basis: Basis::Nothing("writes are not tracked".into()),
            kept: None,
            question: None,
            clues: None,
        }
    }

    /// Whether its file systems are to be asked what changed.
    pub fn wants_clues(&self) -> bool {
        self.question.is_some()
    }

    /// What the run may believe, now that the disk, the `number`th of the survey, was looked at
    /// and before any of it is read.
    pub fn look_for_clues(&mut self, disk: &Disk, survey: &Survey, number: usize) {
        let Some(question) = &self.question else {
            return;
        };
        if let Some((basis, clues)) = Clues::look(question, disk.size(), survey, number) {
            (self.basis, self.clues) = (basis, Some(clues));
        }
    }

    /// What the run may believe.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Whether its writes are tracked.
    pub fn is_on(&self) -> bool {
        self.kept.is_some()
    }

    /// Takes again what was written since the run began or asked last, into the record, durably.
    /// Returns all that was taken since the run began and not read again since then; none when
    /// this disk is not tracked. Good with any basis: after [`Basis::Nothing`] too the marks are
    /// all that was written since [`begin`](Self::begin). The error says why they are not any
    /// more.
    pub fn again(&mut self, disk: &Disk) -> Result<Option<Grains>, String> {
        if let Some(kept) = &self.kept {
            kept.still_at_work(disk)?;
        }
        let unread = self.in_instant()?;
        self.write(disk);
        Ok(unread)
    }

    /// As [`again`](Self::again), into memory only: a disk whose file systems are frozen takes no
    /// record. Costs a pass over the marks (2 MiB for each TiB of the disk) and no system call.
    /// [`settled`](Self::settled) is due right after the thaw; a run that is cut off before it
    /// leaves the marks in doubt.
    pub fn in_instant(&mut self) -> Result<Option<Grains>, String> {
        self.kept.as_mut().map(Kept::take).transpose()
    }

    /// All that was taken so far has been read again since it was taken: it need not be read by
    /// the next run.
    pub fn read_again(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.unread = Grains::none(kept.record.facts.size);
        }
    }

    /// Puts what [`in_instant`](Self::in_instant) took into the record, and looks whether the
    /// marks were all that was written, up to now. The error says why not: what this run took
    /// may lack something, and the next one reads all.
    pub fn settled(&mut self, disk: &Disk) -> Result<(), String> {
        self.write(disk);
        match &self.kept {
            Some(kept) => kept.still_at_work(disk),
            None => Ok(()),
        }
    }

    /// The point was committed, and the cache holds its spans: changes count from it.
    pub fn commit(&mut self, disk: &Disk, point: PointId) {
        self.commit_clues(disk, point);
        let Some(Kept { record, unread, .. }) = &mut self.kept else {
            return;
        };
        if self.basis.trusted().is_none() {
            record.facts.compared = Some(Timestamp::now());
        }
        record.facts.base = Some(point);
        record.facts.making = None;
        record.changed = unread.clone();
        // What could not be read is tried again, though nobody writes to it.
        for (start, end) in disk.unreadable() {
            record.changed.add(start..end);
        }
        self.write(disk);
    }

    fn commit_clues(&self, disk: &Disk, point: PointId) {
        let Some(clues) = &self.clues else { return };
        let whole = self.basis.trusted().is_none();
        // What could not be read is no longer what the file system wrote.
        let written = match disk.unreadable().is_empty() {
            true => clues.commit(point, whole),
            false => clues.forget(),
        };
        if let Err(error) = written {
            let path = disk.path().display();
            tracing::warn!("{path}: what btrfs says of changes is not kept: {error}");
        }
    }

    /// Of spans that differ from the last image, those of which file systems say before and after
    /// that they do not. As [`unmarked`](Self::unmarked), for a disk with clues; `survey` looks
    /// anew, and at the disk as its `number`th.
    pub fn denied(
        &mut self,
        disk: &Disk,
        differing: &[Range<u64>],
        number: usize,
        survey: impl FnOnce() -> Survey,
    ) -> Unmarked {
        let mut denied = Unmarked::default();
        let (Some(question), Some(clues)) = (&self.question, &mut self.clues) else {
            return denied;
        };
        if differing.is_empty() {
            return denied;
        }
        let Some(later) = clues.again(question, &survey(), number) else {
            return denied;
        };
        for span in differing.iter().filter(|s| clues.deny(s.start, &later)) {
            denied.add(span.clone());
        }
        if denied.count > 0 {
            let what = format!("{denied} had changed that btrfs said were as before");
            denied.tell(disk, &what);
            clues.raise(what);
        }
        denied
    }

    /// Of spans that differ from the last image, though they were not marked when the run began:
    /// those that were not written since then either. Call it when all has been read. Finding
    /// any is an alarm: marks are not believed any more.
    pub fn unmarked(&mut self, disk: &Disk, differing: &[Range<u64>]) -> Unmarked {
        let mut unmarked = Unmarked::default();
        if differing.is_empty() {
            return unmarked;
        }
        if let Err(reason) = self.again(disk) {
            let path = disk.path().display();
            tracing::warn!("{path}: what was marked cannot be proved: {reason}");
            return unmarked;
        }
        let Some(Kept { record, .. }) = &mut self.kept else {
            return unmarked;
        };
        for span in differing
            .iter()
            .filter(|s| !record.changed.touch((*s).clone()))
        {
            unmarked.add(span.clone());
        }
        if unmarked.count == 0 {
            return unmarked;
        }
        let what = format!("{unmarked} had changed that were not marked as written");
        unmarked.tell(disk, &what);
        record.facts.alarm = Some(what);
        self.write(disk);
        unmarked
    }

    /// A record that cannot be written is an older one, and the marks stay as they are when a run
    /// is cut off: the next run doubts them.
    fn write(&self, disk: &Disk) {
        let Some(Kept { record, probe, .. }) = &self.kept else {
            return;
        };
        match record.write(&self.path) {
            Ok(()) => probe.kept(),
            Err(error) => {
                probe.taking();
                tracing::warn!(
                    "{}: {}: {error}; the next run reads all of the disk",
                    disk.path().display(),
                    self.path.display()
                );
            }
        }
    }
}

impl Kept {
    /// Everything unread, with what is marked by now.
    fn take(&mut self) -> Result<Grains, String> {
        let marks = self.probe.take().ok_or("the marks are of another size")?;
        self.record.changed.merge(&marks);
        self.unread.merge(&marks);
        Ok(self.unread.clone())
    }

    /// Whether this probe has seen all that was written to the disk.
    fn still_at_work(&self, disk: &Disk) -> Result<(), String> {
        let device = Device::of(disk.path())?;
        grounds(&self.record.facts, &device).map(|_| ())
    }
}

/// Forgets what is known of a disk; ends its probe too when told so.
pub fn forget(dir: &Path, disk: &Disk, stop: bool) -> std::io::Result<()> {
    if let (true, Ok(device)) = (stop, Device::of(disk.path())) {
        Probe::stop(&device)?;
    }
    clues::remove(&dir.join(clues_name(disk.name())))?;
    clues::remove(&dir.join(file_name(disk.name())))
}

/// The file of a disk's clues.
fn clues_name(disk: &str) -> String {
    format!("{}.clues", stem(disk))
}

/// The file of a disk's record.
fn file_name(disk: &str) -> String {
    format!("{}.track", stem(disk))
}

/// Names of disks may hold anything.
fn stem(disk: &str) -> String {
    let hash = blake3::hash(disk.as_bytes()).to_hex();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let readable: String = disk.chars().filter(|&c| plain(c)).take(32).collect();
    format!("{readable}-{}", &hash[..8])
}
