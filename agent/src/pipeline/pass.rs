//! Spans of one disk, read and sealed by all workers, their leaves in order.

use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use relevo_wire::index::SPAN;

use super::order::{InOrder, Spans};
use super::queue::{Queue, StopOnPanic};
use super::{Counters, PipelineError, Run};
use crate::disk::Disk;
use crate::leaves::Leaves;
use crate::seal::{SealedSpan, Sealer, UplinkGone};
use crate::span::{Span, SpanReader};
use crate::tracking::Basis;
use crate::used::UsedMap;

/// A disk that is imaged.
pub(super) struct Source<'a> {
    pub(super) disk: &'a Disk,
    pub(super) name: &'a Arc<str>,
    /// What may be believed of its changes; none when its spans were read in this run before.
    pub(super) basis: Option<&'a Basis>,
    pub(super) used: &'a UsedMap,
    /// Numbers of spans that changed though nothing said so.
    pub(super) differing: Mutex<Vec<u64>>,
}

impl Source<'_> {
    /// Where the spans lie that changed though nothing said so, in the disk's order.
    pub(super) fn into_differing(self) -> Vec<Range<u64>> {
        let spans = self.differing.into_inner();
        let mut spans = spans.unwrap_or_else(PoisonError::into_inner);
        spans.sort_unstable();
        let bytes = |span: u64| span * SPAN..(span * SPAN + SPAN).min(self.disk.size());
        spans.into_iter().map(bytes).collect()
    }
}

impl Run {
    pub(super) fn image(
        &self,
        source: &Source<'_>,
        spans: &Spans,
        sealers: &mut [Sealer],
        leaves: &Leaves,
    ) -> Result<(), PipelineError> {
        let mut order = InOrder::new(self, source.name, spans, leaves);
        if let [sealer] = sealers {
            let mut reader = SpanReader::default();
            for at in 0..spans.count() {
                let sealed = self.one_span(source, spans.number(at), &mut reader, sealer)?;
                order.push(at, sealed)?;
            }
            return Ok(());
        }
        let queue = Queue::new(spans.count());
        let (results, received) = sync_channel(sealers.len() * 4);
        std::thread::scope(|scope| {
            for sealer in sealers {
                let (queue, results) = (&queue, results.clone());
                scope.spawn(move || {
                    let _guard = StopOnPanic(queue);
                    let mut reader = SpanReader::default();
                    while let Some(at) = queue.take() {
                        let number = spans.number(at);
                        let result = self.one_span(source, number, &mut reader, sealer);
                        let failed = result.is_err();
                        if results.send((at, result)).is_err() || failed {
                            return;
                        }
                    }
                });
            }
            drop(results);
            let _guard = StopOnPanic(&queue);
            let collected = collect(received, &queue, &mut order);
            // Whoever waits for its turn after a failure must not wait for ever.
            queue.stop();
            collected
        })
    }

    fn one_span(
        &self,
        source: &Source<'_>,
        number: u64,
        reader: &mut SpanReader,
        sealer: &mut Sealer,
    ) -> Result<SealedSpan, PipelineError> {
        if self.halt.is_set() {
            return Err(UplinkGone.into());
        }
        let Source { disk, name, .. } = source;
        let Some(basis) = source.basis else {
            let span = self.read(source, number, reader)?;
            self.counters.pace.read(span.read, &self.halt);
            return Ok(sealer.seal_again(&span)?);
        };
        let bytes = number * SPAN..(number * SPAN + SPAN).min(disk.size());
        if let Some(marked) = basis.trusted()
            && !marked.touch(bytes.clone())
            && let shape = reader.shape(disk, source.used, number)?
            && let Some(sealed) = sealer.unchanged(name, number, shape)
        {
            Counters::add(&self.counters.done, bytes.end - bytes.start);
            return Ok(sealed);
        }
        let span = self.read(source, number, reader)?;
        self.counters.pace.read(span.read, &self.halt);
        let sealed = sealer.seal(name, &span)?;
        if let Some(marked) = basis.to_prove()
            && sealed.differs
            && !marked.touch(bytes)
        {
            let differing = source.differing.lock();
            let mut differing = differing.unwrap_or_else(PoisonError::into_inner);
            differing.push(number);
        }
        Counters::add(&self.counters.done, span.length);
        if sealed.changed {
            // Holes of a sparse image never were data; a zeroed span did change.
            let changed = if sealed.leaf.is_some() {
                span.read
            } else {
                span.length
            };
            Counters::add(&self.counters.changed, changed);
        }
        Ok(sealed)
    }

    /// Reads a span, and learns how fast that is.
    pub(super) fn read<'r>(
        &self,
        source: &Source<'_>,
        number: u64,
        reader: &'r mut SpanReader,
    ) -> Result<Span<'r>, PipelineError> {
        let began = Instant::now();
        let span = reader.read(source.disk, source.used, number)?;
        Counters::add(&self.counters.read, span.read);
        self.speed.add(span.read, began.elapsed());
        Ok(span)
    }
}

/// Takes spans as workers finish them.
fn collect(
    received: std::sync::mpsc::Receiver<(u64, Result<SealedSpan, PipelineError>)>,
    queue: &Queue,
    order: &mut InOrder<'_>,
) -> Result<(), PipelineError> {
    for (at, result) in received {
        order.push(at, result?)?;
        queue.advance(order.head);
    }
    Ok(())
}
