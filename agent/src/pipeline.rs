//! One disk to the root of its index: workers over spans, their results back in disk order.
//!
//! A worker does all of a span (read, hash, cut, seal), so that its bytes stay in one
//! processor's cache; only references come back. Workers may run ahead of the slowest by
//! 1024 spans, which bounds what waits to be put in order. A single worker needs no thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use relevo_wire::index::{ChunkRef, TreeBuilder};
use relevo_wire::key::TenantSecret;
use tokio::sync::mpsc;

use crate::cache::{Cache, Fact};
use crate::disk::{Disk, DiskError};
use crate::seal::{Offer, SealedSpan, Sealer, UnderWay, UplinkGone};
use crate::span::{self, SpanReader};
use crate::stop::Stop;

/// Spans that may be finished ahead of the first unfinished one.
const WINDOW: u64 = 1024;

/// Why a disk did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The disk could not be read whole.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The uplink failed, and knows why.
    #[error(transparent)]
    UplinkGone(#[from] UplinkGone),
}

/// What a run has done so far, for the eyes and for the manifest; all in bytes.
#[derive(Debug, Default)]
pub struct Counters {
    /// Of the disks, holes included.
    pub done: AtomicU64,
    /// Read.
    pub read: AtomicU64,
    /// Read in spans that differ from the last image, and zeroed ones.
    pub changed: AtomicU64,
    /// Plaintext of chunks that the vault had not.
    pub new: AtomicU64,
    /// Sealed bytes sent.
    pub sent: AtomicU64,
}

impl Counters {
    /// Adds to one of them.
    pub fn add(counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Reads one of them.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// Images disks.
pub struct Pipeline {
    run: Run,
    /// One for each worker.
    sealers: Vec<Sealer>,
    /// For the nodes above the leaves, and the inventory.
    nodes: Sealer,
}

/// What the threads of one run share.
pub struct Run {
    /// Keys what is sealed.
    pub secret: TenantSecret,
    /// Secrets of earlier generations, newest first: what they keyed may be known.
    pub previous: Vec<TenantSecret>,
    /// Takes what is to be remembered of spans.
    pub facts: mpsc::Sender<Fact>,
    /// Filled as it goes.
    pub counters: Arc<Counters>,
    /// Set by whoever takes no more offers: over a disk that did not change nothing is offered,
    /// which would tell.
    pub halt: Stop,
}

impl Pipeline {
    /// A pipeline of `workers` threads over what `cache` knows.
    pub fn new(
        run: Run,
        workers: usize,
        cache: &Cache,
        under_way: UnderWay,
        offers: mpsc::Sender<Offer>,
    ) -> Result<Self, rusqlite::Error> {
        let secrets: Vec<_> = std::iter::once(&run.secret)
            .chain(&run.previous)
            .cloned()
            .collect();
        let sealer = || {
            let (under_way, offers) = (under_way.clone(), offers.clone());
            Ok(Sealer::new(
                secrets.clone(),
                cache.reader()?,
                under_way,
                offers,
            ))
        };
        let sealers: Result<Vec<_>, rusqlite::Error> =
            (0..workers.max(1)).map(|_| sealer()).collect();
        Ok(Self {
            sealers: sealers?,
            nodes: sealer()?,
            run,
        })
    }

    /// Images the disks one after the other, then seals `inventory` in pieces of `piece` bytes.
    pub fn run(
        mut self,
        disks: &[Disk],
        inventory: &[u8],
        piece: usize,
    ) -> Result<Imaged, PipelineError> {
        let mut imaged = Imaged::default();
        for disk in disks {
            let root = self.run.image(disk, &mut self.sealers, &mut self.nodes)?;
            imaged.roots.push(root);
        }
        for part in inventory.chunks(piece) {
            let chunk = self.nodes.seal_data(part)?;
            imaged.inventory.push((chunk, part.len() as u32));
        }
        Ok(imaged)
    }
}

impl Run {
    fn image(
        &self,
        disk: &Disk,
        sealers: &mut [Sealer],
        nodes: &mut Sealer,
    ) -> Result<Option<ChunkRef>, PipelineError> {
        let name: Arc<str> = disk.name().into();
        let mut order = InOrder::new(self, &name, disk, nodes);
        if let [sealer] = sealers {
            let mut reader = SpanReader::default();
            for number in 0..span::count(disk.size()) {
                let sealed = self.one_span(disk, &name, number, &mut reader, sealer)?;
                order.push(number, sealed)?;
            }
            return order.finish();
        }
        let queue = Queue::new(span::count(disk.size()));
        let (results, received) = sync_channel(sealers.len() * 4);
        std::thread::scope(|scope| {
            for sealer in sealers {
                let (queue, results, name) = (&queue, results.clone(), name.clone());
                scope.spawn(move || {
                    let _guard = StopOnPanic(queue);
                    let mut reader = SpanReader::default();
                    while let Some(number) = queue.take() {
                        let result = self.one_span(disk, &name, number, &mut reader, sealer);
                        let failed = result.is_err();
                        if results.send((number, result)).is_err() || failed {
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
            collected?;
            order.finish()
        })
    }

    fn one_span(
        &self,
        disk: &Disk,
        name: &str,
        number: u64,
        reader: &mut SpanReader,
        sealer: &mut Sealer,
    ) -> Result<SealedSpan, PipelineError> {
        if self.halt.is_set() {
            return Err(UplinkGone.into());
        }
        let span = reader.read(disk, number)?;
        let sealed = sealer.seal(name, &span)?;
        Counters::add(&self.counters.done, span.length);
        Counters::add(&self.counters.read, span.read);
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
}

/// Takes spans as workers finish them.
fn collect(
    received: std::sync::mpsc::Receiver<(u64, Result<SealedSpan, PipelineError>)>,
    queue: &Queue,
    order: &mut InOrder<'_>,
) -> Result<(), PipelineError> {
    for (number, result) in received {
        order.push(number, result?)?;
        queue.advance(order.head);
    }
    Ok(())
}

/// Puts spans in the disk's order and builds the tree above them.
struct InOrder<'a> {
    run: &'a Run,
    disk: &'a Arc<str>,
    nodes: &'a mut Sealer,
    tree: TreeBuilder,
    waiting: BTreeMap<u64, SealedSpan>,
    /// The first span that has not come.
    head: u64,
}

impl<'a> InOrder<'a> {
    fn new(run: &'a Run, name: &'a Arc<str>, disk: &Disk, nodes: &'a mut Sealer) -> Self {
        Self {
            run,
            disk: name,
            nodes,
            tree: TreeBuilder::new(run.secret.clone(), disk.size()),
            waiting: BTreeMap::new(),
            head: 0,
        }
    }

    fn push(&mut self, number: u64, sealed: SealedSpan) -> Result<(), UplinkGone> {
        self.waiting.insert(number, sealed);
        while let Some(sealed) = self.waiting.remove(&self.head) {
            if let Some(known) = sealed.remember {
                let (disk, span) = (self.disk.clone(), self.head);
                self.run
                    .facts
                    .blocking_send(Fact::Span { disk, span, known })
                    .map_err(|_| UplinkGone)?;
            }
            let tree = &mut self.tree;
            emit(self.nodes, |mut emit| tree.push(sealed.leaf, &mut emit))?;
            self.head += 1;
        }
        Ok(())
    }

    fn finish(self) -> Result<Option<ChunkRef>, PipelineError> {
        let mut root = None;
        emit(self.nodes, |mut emit| root = self.tree.finish(&mut emit))?;
        Ok(root)
    }
}

/// Runs a step of the tree and offers the nodes that it completes.
fn emit(
    nodes: &mut Sealer,
    step: impl FnOnce(&mut dyn FnMut(relevo_wire::chunk::SealedChunk)),
) -> Result<(), UplinkGone> {
    let mut result = Ok(());
    step(&mut |node| {
        if result.is_ok() {
            result = nodes.offer_node(node);
        }
    });
    result
}

/// What came of the disks.
#[derive(Debug, Default)]
pub struct Imaged {
    /// Root of each disk's index, in order; none when it is all zeros.
    pub roots: Vec<Option<ChunkRef>>,
    /// Pieces of the inventory and their lengths.
    pub inventory: Vec<(ChunkRef, u32)>,
}

/// Hands out span numbers in order.
struct Queue {
    state: Mutex<QueueState>,
    moved: Condvar,
    count: u64,
}

struct QueueState {
    next: u64,
    head: u64,
    stopped: bool,
}

impl Queue {
    fn new(count: u64) -> Self {
        Self {
            state: Mutex::new(QueueState {
                next: 0,
                head: 0,
                stopped: false,
            }),
            moved: Condvar::new(),
            count,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next span to do; none at the end or after a stop.
    fn take(&self) -> Option<u64> {
        let mut state = self.lock();
        while !state.stopped && state.next < self.count && state.next >= state.head + WINDOW {
            state = self
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped || state.next >= self.count {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    fn advance(&self, head: u64) {
        let mut state = self.lock();
        if state.head != head {
            state.head = head;
            self.moved.notify_all();
        }
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.moved.notify_all();
    }
}

/// Whoever waits for the span of a thread that panicked would wait for ever.
struct StopOnPanic<'a>(&'a Queue);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Guards against a run that hangs for ever over a fault in one of its threads.
    #[test]
    fn a_panic_ends_the_wait_of_the_others() {
        let queue = Queue::new(WINDOW + 2);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| while queue.take().is_some() {});
                scope.spawn(|| {
                    let _guard = StopOnPanic(&queue);
                    std::panic::resume_unwind(Box::new("fault"));
                });
            });
        }));
        assert!(ended.is_err());
        assert!(queue.lock().stopped);
    }
}
