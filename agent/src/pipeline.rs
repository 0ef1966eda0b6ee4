//! One disk to the root of its index: workers over spans, their results back in disk order.
//!
//! What is not in use is not read. On a disk that is written meanwhile more may be in use when
//! its end is reached: then it is looked at anew, and spans with blocks that came into use are
//! read again, before the tree above the leaves is built.
//!
//! A worker does all of a span (read, hash, cut, seal), so that its bytes stay in one
//! processor's cache; only references come back. Workers may run ahead of the slowest by
//! 1024 spans, which bounds what waits to be put in order. A single worker needs no thread.

mod order;
mod queue;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use relevo_wire::index::{ChunkRef, SPAN, TreeBuilder};
use relevo_wire::key::TenantSecret;
use relevo_wire::manifest::Consistency;
use tokio::sync::mpsc;

use order::{InOrder, Spans};
use queue::{Queue, StopOnPanic};

use crate::cache::{Cache, Fact};
use crate::disk::{Disk, DiskError};
use crate::leaves::Leaves;
use crate::seal::{Offer, SealedSpan, Sealer, UnderWay, UplinkGone};
use crate::span::{self, SpanReader};
use crate::stop::Stop;
use crate::tracking::Basis;
use crate::used::{self, DiskSource, Survey, UsedMap};

/// How often what came into use meanwhile is looked for.
const ROUNDS: usize = 3;

/// Why a disk did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The disk could not be read whole.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file of leaves cannot be made, written or read.
    #[error(transparent)]
    Scratch(#[from] io::Error),
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
    /// A file in the agent's directory, for a moment.
    pub scratch: PathBuf,
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

    /// Images the disks one after the other, each with what may be believed of its changes, then
    /// seals `inventory` in pieces of `piece` bytes.
    pub fn run(
        mut self,
        disks: &[Disk],
        bases: &[Basis],
        inventory: &[u8],
        piece: usize,
    ) -> Result<Imaged, PipelineError> {
        let mut imaged = Imaged {
            survey: self.run.survey(disks),
            ..Imaged::default()
        };
        let mut all_leaves = Vec::new();
        for ((disk, basis), used) in disks.iter().zip(bases).zip(&imaged.survey.maps) {
            let leaves = Leaves::new(&self.run.scratch, span::count(disk.size()))?;
            let source = Source::new(disk, basis, used);
            let spans = Spans::All(span::count(disk.size()));
            self.run
                .image(&source, &spans, &mut self.sealers, &leaves)?;
            imaged.differing.push(source.into_differing());
            all_leaves.push(leaves);
        }
        self.catch_up(disks, bases, &mut imaged.survey, &all_leaves)?;
        for (disk, leaves) in disks.iter().zip(all_leaves) {
            imaged.roots.push(self.tree(disk, &leaves)?);
        }
        for part in inventory.chunks(piece) {
            let chunk = self.nodes.seal_data(part)?;
            imaged.inventory.push((chunk, part.len() as u32));
        }
        Ok(imaged)
    }

    /// Reads spans again in which blocks came into use since they were read: metadata that were
    /// read later may refer to them.
    fn catch_up(
        &mut self,
        disks: &[Disk],
        bases: &[Basis],
        survey: &mut Survey,
        all_leaves: &[Leaves],
    ) -> Result<(), PipelineError> {
        for _ in 0..ROUNDS {
            let still = |disk: &Disk| matches!(disk.consistency(), Ok(Consistency::Offline));
            if survey.free_bytes() == 0 || disks.iter().all(still) {
                return Ok(());
            }
            let now = self.run.survey(disks);
            let mut caught_up = true;
            for (at, (disk, basis)) in disks.iter().zip(bases).enumerate() {
                let since = now.maps[at].used_since(&survey.maps[at]);
                if since.is_empty() {
                    continue;
                }
                caught_up = false;
                survey.maps[at] = survey.maps[at].union(&now.maps[at]);
                let spans = Spans::these(&since);
                tracing::info!(
                    "{}: blocks in {} spans came into use while it was read: reading them again",
                    disk.path().display(),
                    spans.count()
                );
                let mut source = Source::new(disk, basis, &survey.maps[at]);
                source.again = true;
                let leaves = &all_leaves[at];
                self.run.image(&source, &spans, &mut self.sealers, leaves)?;
            }
            if caught_up {
                return Ok(());
            }
        }
        tracing::warn!(
            "blocks come into use faster than the disks are read: what was written at the end of \
             the run may be missing in the image"
        );
        Ok(())
    }

    /// The root of the tree above leaves.
    fn tree(&mut self, disk: &Disk, leaves: &Leaves) -> Result<Option<ChunkRef>, PipelineError> {
        let mut tree = TreeBuilder::new(self.run.secret.clone(), disk.size());
        leaves.each(|leaf| {
            emit(&mut self.nodes, |mut emit| tree.push(leaf, &mut emit))?;
            Ok::<_, PipelineError>(())
        })?;
        let mut root = None;
        emit(&mut self.nodes, |mut emit| root = tree.finish(&mut emit))?;
        Ok(root)
    }
}

/// A disk that is imaged.
struct Source<'a> {
    disk: &'a Disk,
    name: Arc<str>,
    basis: &'a Basis,
    used: &'a UsedMap,
    /// Whether its spans were read in this run before.
    again: bool,
    /// Numbers of spans that changed though nothing said so.
    differing: Mutex<Vec<u64>>,
}

impl<'a> Source<'a> {
    fn new(disk: &'a Disk, basis: &'a Basis, used: &'a UsedMap) -> Self {
        Self {
            disk,
            name: disk.name().into(),
            basis,
            used,
            again: false,
            differing: Mutex::default(),
        }
    }

    /// Where the spans lie that changed though nothing said so, in the disk's order.
    fn into_differing(self) -> Vec<Range<u64>> {
        let spans = self.differing.into_inner();
        let mut spans = spans.unwrap_or_else(PoisonError::into_inner);
        spans.sort_unstable();
        let bytes = |span: u64| span * SPAN..(span * SPAN + SPAN).min(self.disk.size());
        spans.into_iter().map(bytes).collect()
    }
}

impl Run {
    fn survey(&self, disks: &[Disk]) -> Survey {
        if disks.iter().any(Disk::reads_all_blocks) {
            return Survey::none(disks.len());
        }
        let sources = disks
            .iter()
            .map(|d| (d, DiskSource::new(d).until(&self.halt)));
        let sources: Vec<_> = sources.collect();
        let sources = sources
            .iter()
            .map(|(d, source)| (d.name(), source as &dyn used::Source));
        used::survey(&sources.collect::<Vec<_>>())
    }

    fn image(
        &self,
        source: &Source<'_>,
        spans: &Spans,
        sealers: &mut [Sealer],
        leaves: &Leaves,
    ) -> Result<(), PipelineError> {
        let mut order = InOrder::new(self, &source.name, spans, leaves);
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
        let Source {
            disk, name, used, ..
        } = source;
        if source.again {
            let span = reader.read(disk, used, number)?;
            Counters::add(&self.counters.read, span.read);
            return Ok(sealer.seal_again(&span)?);
        }
        let bytes = number * SPAN..(number * SPAN + SPAN).min(disk.size());
        if let Some(marked) = source.basis.trusted()
            && !marked.touch(bytes.clone())
            && let shape = reader.shape(disk, used, number)?
            && let Some(sealed) = sealer.unchanged(name, number, shape)
        {
            Counters::add(&self.counters.done, bytes.end - bytes.start);
            return Ok(sealed);
        }
        let span = reader.read(disk, used, number)?;
        let sealed = sealer.seal(name, &span)?;
        if let Some(marked) = source.basis.to_prove()
            && sealed.differs
            && !marked.touch(bytes)
        {
            let differing = source.differing.lock();
            let mut differing = differing.unwrap_or_else(PoisonError::into_inner);
            differing.push(number);
        }
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
    for (at, result) in received {
        order.push(at, result?)?;
        queue.advance(order.head);
    }
    Ok(())
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
    /// What of the disks was taken as used.
    pub survey: Survey,
    /// Spans of each disk that differ from the last image though they were not marked when the
    /// run began, in bytes.
    pub differing: Vec<Vec<Range<u64>>>,
    /// Pieces of the inventory and their lengths.
    pub inventory: Vec<(ChunkRef, u32)>,
}
