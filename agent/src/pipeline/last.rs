//! The last reading, while nothing changes: into memory, and within its time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::PipelineError;
use super::rounds::{Reading, parted, runs};
use super::{Pipeline, Run};
use crate::seal::{HeldSpan, Sealer, UplinkGone};
use crate::span::SpanReader;
use crate::tracking::grains::Grains;
use crate::used::{Survey, UsedMap};

/// Most bytes of sealed chunks that are held in memory.
const MOST_HELD: u64 = 24 << 20;
/// How often what was marked during the last reading is read again.
const TURNS: usize = 4;

/// What was read in an instant: spans of each disk by their numbers.
pub(super) type Caught = Vec<std::collections::BTreeMap<u64, HeldSpan>>;

/// How the last reading ended, but for failures.
pub(super) enum Reached {
    /// All that is due was read, and nothing of it was written meanwhile.
    Instant(Caught),
    /// It was not, for this reason.
    Nothing(&'static str),
}

/// A span of a disk of the run.
type Place = (usize, u64);

impl Pipeline {
    /// Reads what is due or marked by now, then what was marked meanwhile, until nothing is. What
    /// was marked is due from now on, whatever comes of it. Writes to no file.
    pub(super) fn last(
        &mut self,
        readings: &mut [Reading<'_>],
        survey: &Survey,
        until: Instant,
    ) -> Result<Reached, PipelineError> {
        let mut caught = Caught::new();
        let mut used = Vec::new();
        let mut places = Vec::new();
        for (at, one) in readings.iter_mut().enumerate() {
            let marks = one.take_marks_in_instant();
            // The maps are of before: of what was written since anything may be in use.
            let unsaid = std::mem::replace(&mut one.unsaid, Grains::none(one.disk.size()));
            one.due.merge(&unsaid);
            if let Some(marks) = marks {
                one.due.merge(&marks);
            }
            used.push(survey.maps[at].with_used(runs(&one.due)));
            places.extend(one.due_spans().iter().map(|span| (at, span)));
            caught.push(Default::default());
        }
        for _ in 0..TURNS {
            if let Err(why) = self.catch(readings, &used, &places, until, &mut caught)? {
                return Ok(Reached::Nothing(why));
            }
            places.clear();
            for (at, one) in readings.iter_mut().enumerate() {
                let Some(marks) = one.take_marks_in_instant() else {
                    continue;
                };
                // What nothing uses may change: swap, for instance.
                let (marks, unused) = parted(&marks, &used[at]);
                one.unsaid.merge(&unused);
                one.due.merge(&marks);
                let spans = super::order::Spans::these(&runs(&marks));
                places.extend(spans.iter().map(|span| (at, span)));
            }
            if places.is_empty() {
                return Ok(Reached::Instant(caught));
            }
        }
        Ok(Reached::Nothing(
            "it was written all the time, past its file systems for instance",
        ))
    }

    /// Reads these spans in place of what was caught of them before.
    fn catch(
        &mut self,
        readings: &[Reading<'_>],
        used: &[UsedMap],
        places: &[Place],
        until: Instant,
        caught: &mut Caught,
    ) -> Result<Result<(), &'static str>, PipelineError> {
        let net = Net {
            run: &self.run,
            readings,
            used,
            places,
            until,
            next: AtomicUsize::new(0),
            held: AtomicU64::new(
                caught
                    .iter()
                    .flat_map(|c| c.values())
                    .map(HeldSpan::sealed_bytes)
                    .sum(),
            ),
            spans: Mutex::new(Vec::with_capacity(places.len())),
        };
        let ends: Vec<_> = std::thread::scope(|scope| {
            let workers = self
                .sealers
                .iter_mut()
                .map(|sealer| scope.spawn(|| net.work(sealer)));
            let workers: Vec<_> = workers.collect();
            let joined = workers.into_iter().map(|worker| worker.join());
            joined
                .map(|end| end.unwrap_or(Ok(Err("a part of the run panicked"))))
                .collect()
        });
        for (disk, span) in net
            .spans
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            caught[disk].insert(span.number(), span);
        }
        for end in ends {
            if let Err(why) = end? {
                return Ok(Err(why));
            }
        }
        Ok(Ok(()))
    }

    /// Seals what was caught, now that all goes on. Says whether it was all to be had: what is
    /// missing stays due.
    pub(super) fn settle(
        &mut self,
        readings: &mut [Reading<'_>],
        survey: &mut Survey,
        caught: Caught,
    ) -> Result<bool, PipelineError> {
        let mut whole = true;
        for ((one, map), spans) in readings.iter_mut().zip(&mut survey.maps).zip(caught) {
            let used = map.with_used(runs(&one.due));
            let source = one.source(&used);
            let mut reader = SpanReader::default();
            let mut missing = Grains::none(one.disk.size());
            for (number, span) in spans {
                let start = number * relevo_wire::index::SPAN;
                let end = start + span.length();
                let reread = || {
                    let span = self.run.read(&source, number, &mut reader).ok()?;
                    Some(span.into_bytes())
                };
                match self.nodes.settle(span, reread)? {
                    Some(sealed) => self.run.keep(&one.name, number, &sealed, &one.leaves)?,
                    None => {
                        missing.add(start..end);
                        whole = false;
                    }
                }
            }
            one.due = missing;
            *map = used;
        }
        Ok(whole)
    }
}

/// What the workers of the last reading share.
struct Net<'a> {
    run: &'a Run,
    readings: &'a [Reading<'a>],
    used: &'a [UsedMap],
    places: &'a [Place],
    until: Instant,
    next: AtomicUsize,
    held: AtomicU64,
    spans: Mutex<Vec<(usize, HeldSpan)>>,
}

impl Net<'_> {
    fn work(&self, sealer: &mut Sealer) -> Result<Result<(), &'static str>, PipelineError> {
        // The server's own work waits for this. A thread's niceness is its own (setpriority(2)),
        // and this one ends with the work.
        let _ = rustix::process::setpriority_process(None, 0);
        let mut reader = SpanReader::default();
        while let Some((disk, number)) = self.places.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            if self.run.halt.is_set() {
                return Err(UplinkGone.into());
            }
            if Instant::now() >= self.until {
                return Ok(Err(
                    "more was written than is read within the limit of the freeze",
                ));
            }
            if self.held.load(Ordering::Relaxed) > MOST_HELD {
                return Ok(Err("more was written than fits into memory"));
            }
            let one = &self.readings[*disk];
            let source = one.source(&self.used[*disk]);
            let span = self.run.read(&source, *number, &mut reader)?;
            let held = sealer.hold(&span, |bytes| one.due.touch(bytes));
            self.held.fetch_add(held.sealed_bytes(), Ordering::Relaxed);
            let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
            spans.push((*disk, held));
        }
        Ok(Ok(()))
    }
}
