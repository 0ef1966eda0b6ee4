//! One disk to the root of its index: workers over spans, their results back in disk order.
//!
//! What is not in use is not read. A disk that is written meanwhile holds other blocks, and more of
//! them in use, when its end is reached. So what was written or came into use since is read again,
//! before the tree above the leaves is built.
//!
//! ```text
//!  pass: all spans ─► rounds: what was written meanwhile ─► instant: file systems frozen
//!                        ▲             │                       last: what is due, into memory
//!                        └─────────────┘                       thawed: sealed, offered
//!                                                           ─► tree
//! ```
//!
//! A worker does all of a span (read, hash, cut, seal), so that its bytes stay in one
//! processor's cache; only references come back. Workers may run ahead of the slowest by
//! 1024 spans, which bounds what waits to be put in order. A single worker needs no thread.

mod instant;
mod last;
mod order;
mod pass;
mod queue;
mod rounds;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use relevo_wire::index::{ChunkRef, TreeBuilder};
use relevo_wire::key::TenantSecret;
use relevo_wire::manifest::{Consistency, Held};
use tokio::sync::mpsc;

use order::Spans;
use rounds::Reading;

pub use rounds::ReadSpeed;

use crate::cache::{Cache, Fact};
use crate::consistency::Holding;
use crate::disk::{Disk, DiskError};
use crate::leaves::Leaves;
use crate::seal::{Offer, Sealer, UnderWay, UplinkGone};
use crate::span;
use crate::stop::Stop;
use crate::tracking::Tracking;
use crate::used::{self, DiskSource, Evidence, Survey};

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
    /// How fast it may go on.
    pub pace: crate::pace::Pace,
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
    /// How fast the disks are read.
    pub speed: ReadSpeed,
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

    /// Images the disks one after the other, each by what may be believed of its changes, then
    /// brings them to one instant, and seals `inventory` in pieces of `piece` bytes.
    pub fn run(
        mut self,
        disks: &[Disk],
        tracked: Vec<Tracking>,
        holding: &Holding,
        inventory: &[u8],
        piece: usize,
    ) -> Result<Imaged, PipelineError> {
        let (mut readings, mut lost) = (Vec::new(), Vec::new());
        for (disk, tracking) in disks.iter().zip(tracked) {
            let leaves = Leaves::new(&self.run.scratch, span::count(disk.size()))?;
            let one = Reading::new(disk, tracking, leaves);
            match disk.lost() {
                None => readings.push(one),
                Some(_) => lost.push(one),
            }
        }
        let there: Vec<_> = readings.iter().map(|one| one.disk).collect();
        let clues = readings.iter().any(|one| one.tracking.wants_clues());
        let mut survey = self.run.survey(&there, clues);
        for (number, one) in readings.iter_mut().enumerate() {
            one.look_for_clues(&survey, number);
        }
        survey.evidence = Evidence::default();
        for (one, used) in readings.iter_mut().zip(&survey.maps) {
            one.differing = {
                let source = one.first_source(used);
                let spans = Spans::All(span::count(one.disk.size()));
                let sealers = &mut self.sealers;
                self.run.image(&source, &spans, sealers, &one.leaves)?;
                source.into_differing()
            };
        }
        let (consistency, held) = self.reach_instant(&mut readings, &mut survey, holding)?;
        let mut read = readings.into_iter();
        let mut lost = lost.into_iter();
        let mut made = Vec::new();
        for disk in disks {
            let one = match disk.lost() {
                None => read.next(),
                Some(_) => lost.next(),
            };
            made.extend(one);
        }
        let (mut roots, mut as_before) = (Vec::new(), Vec::new());
        for one in &made {
            let is_lost = one.disk.lost().is_some();
            as_before.push(is_lost && self.as_before(one)?);
            roots.push(self.tree(one.disk, &one.leaves)?);
        }
        let mut pieces = Vec::new();
        for part in inventory.chunks(piece) {
            let chunk = self.nodes.seal_data(part)?;
            pieces.push((chunk, part.len() as u32));
        }
        Ok(Imaged {
            roots,
            survey,
            as_before,
            differing: made
                .iter_mut()
                .map(|one| std::mem::take(&mut one.differing))
                .collect(),
            tracked: made.into_iter().map(|one| one.tracking).collect(),
            consistency,
            held,
            inventory: pieces,
        })
    }

    /// Gives a disk that is lost the leaves of its last image. False when the cache does not know
    /// them all: then it has none.
    fn as_before(&mut self, one: &Reading<'_>) -> Result<bool, PipelineError> {
        let spans = span::count(one.disk.size());
        for span in 0..spans {
            match self.nodes.last_leaf(&one.name, span) {
                Some(leaf) => one.leaves.set(span, leaf)?,
                None => {
                    for span in 0..span {
                        one.leaves.set(span, None)?;
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
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

impl Run {
    fn survey(&self, disks: &[&Disk], evidence: bool) -> Survey {
        survey_of(disks, evidence, &self.halt)
    }
}

/// What is in use of disks, unless all of them is to be read; with evidence where it is wanted.
pub(crate) fn survey_of(disks: &[&Disk], evidence: bool, halt: &Stop) -> Survey {
    if disks.iter().any(|disk| disk.reads_all_blocks()) {
        return Survey::none(disks.len());
    }
    let sources = disks.iter().map(|d| (*d, DiskSource::new(d).until(halt)));
    let sources: Vec<_> = sources.collect();
    let sources = sources
        .iter()
        .map(|(d, source)| (d.name(), source as &dyn used::Source));
    let sources: Vec<_> = sources.collect();
    match evidence {
        true => used::survey_with_evidence(&sources),
        false => used::survey(&sources),
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
pub struct Imaged {
    /// Root of each disk's index, in order; none when it is all zeros.
    pub roots: Vec<Option<ChunkRef>>,
    /// Of each disk, whether it is lost and its image is the last one.
    pub as_before: Vec<bool>,
    /// What of the disks was taken as used.
    pub survey: Survey,
    /// Spans of each disk that differ from the last image though they were not marked when the
    /// run began, in bytes.
    pub differing: Vec<Vec<Range<u64>>>,
    /// What was written to each disk is marked by these still.
    pub tracked: Vec<Tracking>,
    /// Of what moment the image is.
    pub consistency: Consistency,
    /// How that was brought about.
    pub held: Held,
    /// Pieces of the inventory and their lengths.
    pub inventory: Vec<(ChunkRef, u32)>,
}
