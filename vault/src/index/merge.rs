//! Makes one segment of several neighbours.
//!
//! **Which:** the longest run that begins with the newest segment and whose oldest is no larger
//! than all before it together ([`run_to_merge`]). So each segment left is larger than all newer
//! ones together, and there are at most log₂(chunks / settled rows) + 1; a record is written
//! again only into a segment at least twice as large as the one that it came from, so that is
//! also how often.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use relevo_wire::TenantId;

use super::change::{Change, State};
use super::error::IndexError;
use super::segment::Segment;
use super::writer::SegmentWriter;

/// Records between two looks at whether to stop.
const LOOK_EVERY: u64 = 4096;

/// How many of the newest segments to merge now; 0 when none. `records` of each, newest first.
pub fn run_to_merge(records: &[u64]) -> usize {
    let (mut run, mut newer) = (0, 0u64);
    for (at, &records) in records.iter().enumerate() {
        if at > 0 && records <= newer {
            run = at + 1;
        }
        newer = newer.saturating_add(records);
    }
    run
}

/// Layers in order as one. Each gives its changes in order of ids.
pub struct Merge<'a> {
    layers: Vec<Layer<'a>>,
    /// Layers whose next change waits, as a heap: the smallest id first, of equals the newest.
    waiting: std::collections::BinaryHeap<Waiting>,
    oldest: bool,
    failed: Option<IndexError>,
}

type Layer<'a> = Box<dyn Iterator<Item = Result<Change, IndexError>> + 'a>;

struct Waiting {
    change: Change,
    layer: usize,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The greatest comes first.
        (other.change.id, other.layer).cmp(&(self.change.id, self.layer))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl<'a> Merge<'a> {
    /// Of these, newest first. `oldest`: no layer is older than the last of them.
    pub fn new(layers: Vec<Layer<'a>>, oldest: bool) -> Self {
        let mut merge = Self {
            waiting: std::collections::BinaryHeap::with_capacity(layers.len()),
            layers,
            oldest,
            failed: None,
        };
        (0..merge.layers.len()).for_each(|layer| merge.advance(layer));
        merge
    }

    fn advance(&mut self, layer: usize) {
        match self.layers[layer].next() {
            Some(Ok(change)) => self.waiting.push(Waiting { change, layer }),
            Some(Err(error)) => self.failed = Some(error),
            None => {}
        }
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<Change, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(error) = self.failed.take() {
                self.waiting.clear();
                return Some(Err(error));
            }
            let first = self.waiting.pop()?;
            let id = first.change.id;
            let mut state = State::default();
            state.add_older(first.change.place, first.change.refs);
            self.advance(first.layer);
            while let Some(next) = self.waiting.peek()
                && next.change.id == id
            {
                let (change, layer) = (next.change, next.layer);
                state.add_older(change.place, change.refs);
                self.waiting.pop();
                self.advance(layer);
            }
            if let Some(State { place, refs }) = state.to_write(self.oldest)
                && self.failed.is_none()
            {
                return Some(Ok(Change { id, place, refs }));
            }
        }
    }
}

/// Makes a segment of neighbouring ones, newest first. Memory: a few hundred KiB for each, and
/// the new one's filter. `oldest`: none is older than the last. Nothing when nothing is left.
pub fn merge(
    index: &Path,
    tenant: TenantId,
    number: u64,
    segments: &[Arc<Segment>],
    oldest: bool,
    abandon: &AtomicBool,
) -> Result<Option<Segment>, IndexError> {
    let layers = segments
        .iter()
        .map(|segment| Box::new(segment.changes()) as Layer<'_>);
    let mut writer = SegmentWriter::create(index, tenant, number)?;
    let mut read = 0u64;
    for change in Merge::new(layers.collect(), oldest) {
        writer.push(&change?)?;
        read += 1;
        if read.is_multiple_of(LOOK_EVERY) && abandon.load(Ordering::Relaxed) {
            return Err(IndexError::Abandoned);
        }
    }
    match writer.records() {
        0 => Ok(None),
        _ => writer.finish().map(Some),
    }
}
