//! What was written while it was read is read again, until little is left.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relevo_wire::index::SPAN;

use super::order::Spans;
use super::pass::Source;
use super::{Pipeline, PipelineError};
use crate::disk::Disk;
use crate::leaves::Leaves;
use crate::tracking::grains::{GRAIN, Grains};
use crate::tracking::{Basis, Tracking};
use crate::used::{Survey, UsedMap};

/// How often what was written meanwhile is read again before it is settled for.
const ROUNDS: usize = 8;
/// The same of disks whose writes are not tracked: there only blocks are found that came into use.
const ROUNDS_UNTRACKED: usize = 3;
/// Fewer spans than that are not worth another round.
const FEW: u64 = 8;
/// Most spans that the last reading is begun with, whatever the disks' speed.
const MOST: u64 = 256;

/// A disk of the run through all of it.
pub(super) struct Reading<'a> {
    pub(super) disk: &'a Disk,
    pub(super) name: Arc<str>,
    pub(super) basis: Basis,
    pub(super) tracking: Tracking,
    pub(super) leaves: Leaves,
    /// Spans that differ from the last image though they were not marked when the run began.
    pub(super) differing: Vec<Range<u64>>,
    /// Was written since it was read, or came into use.
    pub(super) due: Grains,
    /// Was written since what was in memory was written out, and nothing used it: what says that
    /// it is in use may not be on the disk yet.
    pub(super) unsaid: Grains,
    /// Why it cannot be known what was written.
    pub(super) doubt: Option<String>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(disk: &'a Disk, tracking: Tracking, leaves: Leaves) -> Self {
        let doubt = match tracking.is_on() {
            true => None,
            false => Some(match tracking.basis() {
                Basis::Nothing(why) => format!("its writes are not tracked: {why}"),
                _ => "its writes are not tracked".into(),
            }),
        };
        Self {
            disk,
            name: disk.name().into(),
            basis: tracking.basis().clone(),
            tracking,
            leaves,
            differing: Vec::new(),
            due: Grains::none(disk.size()),
            unsaid: Grains::none(disk.size()),
            doubt,
        }
    }

    /// What its file systems say of changes, before any of it is read.
    pub(super) fn look_for_clues(&mut self, survey: &Survey, number: usize) {
        self.tracking.look_for_clues(self.disk, survey, number);
        self.basis = self.tracking.basis().clone();
    }

    /// Takes what was marked since it was asked last, while nothing is frozen.
    fn take_marks(&mut self) -> Option<Grains> {
        let marks = self.tracking.again(self.disk);
        self.owed(marks)
    }

    /// The same in an instant: nothing is written.
    pub(super) fn take_marks_in_instant(&mut self) -> Option<Grains> {
        let marks = self.tracking.in_instant();
        self.owed(marks)
    }

    /// They are due here from now on, until they were read.
    fn owed(&mut self, marks: Result<Option<Grains>, String>) -> Option<Grains> {
        match marks {
            Ok(marks) => {
                self.tracking.read_again();
                marks
            }
            Err(why) => {
                self.doubt = Some(why);
                None
            }
        }
    }

    /// To read its spans for the first time.
    pub(super) fn first_source<'s>(&'s self, used: &'s UsedMap) -> Source<'s> {
        Source {
            basis: Some(&self.basis),
            ..self.source(used)
        }
    }

    /// To read them again.
    pub(super) fn source<'s>(&'s self, used: &'s UsedMap) -> Source<'s> {
        Source {
            disk: self.disk,
            name: &self.name,
            basis: None,
            used,
            differing: Mutex::default(),
        }
    }

    /// Nothing is due any more.
    pub(super) fn paid(&mut self) {
        self.due = Grains::none(self.disk.size());
    }

    /// Numbers of the spans with something due.
    pub(super) fn due_spans(&self) -> Spans {
        Spans::these(&runs(&self.due))
    }
}

/// Bytes of grains, as sorted runs.
pub(super) fn runs(grains: &Grains) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for grain in grains.iter() {
        let (start, end) = (grain * GRAIN, ((grain + 1) * GRAIN).min(grains.size()));
        match runs.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => runs.push((start, end)),
        }
    }
    runs
}

/// The grains with bytes in use, and the others.
pub(super) fn parted(grains: &Grains, used: &UsedMap) -> (Grains, Grains) {
    let mut parts = (Grains::none(grains.size()), Grains::none(grains.size()));
    for grain in grains.iter() {
        let bytes = grain * GRAIN..((grain + 1) * GRAIN).min(grains.size());
        match used.next_used(bytes.start, bytes.end) {
            Some(_) => parts.0.add(bytes),
            None => parts.1.add(bytes),
        }
    }
    parts
}

/// How fast disks are read by one worker.
#[derive(Debug, Default)]
pub struct ReadSpeed {
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

impl ReadSpeed {
    pub(super) fn add(&self, bytes: u64, took: Duration) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.nanoseconds
            .fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Spans that one worker reads in this time.
    fn spans_in(&self, time: Duration) -> u64 {
        let took = self.nanoseconds.load(Ordering::Relaxed).max(1);
        let bytes = u128::from(self.bytes.load(Ordering::Relaxed));
        let spans = bytes * time.as_nanos() / u128::from(took) / u128::from(SPAN);
        u64::try_from(spans).unwrap_or(u64::MAX)
    }
}

impl Pipeline {
    /// Reads again, round by round, until so little is due that an instant of `limit` suffices
    /// for it. Before each round `flush` has memory written out, and says whether all of it was.
    /// Returns whether that was reached.
    pub(super) fn rounds(
        &mut self,
        readings: &mut [Reading<'_>],
        survey: &mut Survey,
        limit: Duration,
        flush: &dyn Fn() -> bool,
    ) -> Result<bool, PipelineError> {
        let tracked = readings.iter().any(|one| one.doubt.is_none());
        let rounds = if tracked { ROUNDS } else { ROUNDS_UNTRACKED };
        let few = self.few(limit);
        let mut before = u64::MAX;
        for _ in 0..rounds {
            let due = self.look(readings, survey, flush);
            let shrinks = due <= before / 2;
            if due == 0 || tracked && due <= few && (due <= FEW || !shrinks) {
                return Ok(true);
            }
            tracing::info!(
                "{due} spans were written or came into use while they were read: reading them again"
            );
            self.read_due(readings, survey)?;
            before = due;
        }
        let due = self.look(readings, survey, flush);
        Ok(due == 0 || tracked && due <= few)
    }

    /// Spans that are little enough for an instant: half of it is for what is written until it
    /// begins.
    fn few(&self, limit: Duration) -> u64 {
        let workers = self.sealers.len() as u64;
        let spans = self.run.speed.spans_in(limit / 2).saturating_mul(workers);
        spans.clamp(FEW, MOST)
    }

    /// Finds out what is due, in spans.
    pub(super) fn look(
        &self,
        readings: &mut [Reading<'_>],
        survey: &mut Survey,
        flush: &dyn Fn() -> bool,
    ) -> u64 {
        // In this order: what is written before the marks are taken, and said to be in use after
        // the survey, is not lost.
        let flushed = readings.iter().any(|one| one.doubt.is_none()) && flush();
        let marks: Vec<_> = readings.iter_mut().map(Reading::take_marks).collect();
        let disks: Vec<_> = readings.iter().map(|one| one.disk).collect();
        let now = (survey.free_bytes() > 0).then(|| self.run.survey(&disks, false));
        let mut due = 0;
        for (at, (one, marks)) in readings.iter_mut().zip(marks).enumerate() {
            if let Some(now) = &now {
                for (start, end) in now.maps[at].used_since(&survey.maps[at]) {
                    one.due.add(start..end);
                }
                survey.maps[at] = survey.maps[at].union(&now.maps[at]);
            }
            if let Some(marks) = marks {
                let (used, unused) = parted(&marks, &survey.maps[at]);
                one.due.merge(&used);
                if flushed {
                    one.unsaid = unused;
                } else {
                    one.unsaid.merge(&unused);
                }
            }
            due += one.due_spans().count();
        }
        due
    }

    /// Reads what is due.
    pub(super) fn read_due(
        &mut self,
        readings: &mut [Reading<'_>],
        survey: &Survey,
    ) -> Result<(), PipelineError> {
        for (one, used) in readings.iter_mut().zip(&survey.maps) {
            let spans = one.due_spans();
            let source = one.source(used);
            self.run
                .image(&source, &spans, &mut self.sealers, &one.leaves)?;
            one.paid();
        }
        Ok(())
    }
}
