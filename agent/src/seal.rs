//! One span becomes one leaf of the index: what is known is passed by, the rest is cut and sealed.

pub(crate) mod dense;
mod held;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use relevo_wire::ChunkId;
use relevo_wire::chunk::{Chunk, Compressor, SealedChunk};
use relevo_wire::chunker;
use relevo_wire::index::{ChunkRef, Extent, Node};
use relevo_wire::key::{ChunkKey, TenantSecret};
use tokio::sync::mpsc;

use dense::{Effort, Inquirer};

use crate::cache::{CacheReader, KnownSpan};
use crate::span::{Content, Span, is_zero};

pub use held::HeldSpan;

/// A chunk for the vault, if it has it not.
#[derive(Debug)]
pub struct Offer {
    /// The chunk.
    pub chunk: SealedChunk,
    /// Bytes of a disk in it; 0 for the index and the inventory.
    pub plaintext: u32,
    /// Who only wants to know whether the vault has it: then it is not to be sent.
    pub(crate) inquirer: Option<Inquirer>,
}

/// The uplink takes no more chunks, because it failed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the upload ended")]
pub struct UplinkGone;

/// Chunks sealed in this run that the cache does not have yet: the same plaintext found again
/// meanwhile is not sealed again. As bounded as the uplink.
#[derive(Clone, Default)]
pub struct UnderWay(Arc<Mutex<HashMap<ChunkKey, ChunkId>>>);

impl UnderWay {
    fn get(&self, key: &ChunkKey) -> Option<ChunkId> {
        self.lock().get(key).copied()
    }

    fn insert(&self, chunk: ChunkRef) {
        self.lock().insert(chunk.key, chunk.id);
    }

    /// The cache has it now.
    pub fn remove(&self, chunk: &ChunkRef) {
        self.lock().remove(&chunk.key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ChunkKey, ChunkId>> {
        // Each operation is whole by itself, so that a panic elsewhere leaves the map sound.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A span that was sealed.
#[derive(Clone, Copy, Debug)]
pub struct SealedSpan {
    /// Its leaf; none when it is all zeros.
    pub leaf: Option<ChunkRef>,
    /// Whether it differs from the last image; what is not known of that does.
    pub changed: bool,
    /// Whether the same bytes of it were read for the last image, and were others.
    pub differs: bool,
    /// What to remember of it, when that differs from what is remembered.
    pub remember: Option<KnownSpan>,
}

/// Seals spans, with what one worker needs for it.
pub struct Sealer {
    /// The current one, which seals, and earlier ones, newest first, under which chunks may be
    /// known.
    secrets: Vec<TenantSecret>,
    /// Hash spans; one for each secret.
    span_keys: Vec<[u8; 32]>,
    compressor: Compressor,
    cache: CacheReader,
    under_way: UnderWay,
    offers: mpsc::Sender<Offer>,
    effort: Effort,
}

impl Sealer {
    /// A sealer that offers what it seals to `offers`. The first of `secrets` seals.
    pub fn new(
        secrets: Vec<TenantSecret>,
        cache: CacheReader,
        under_way: UnderWay,
        offers: mpsc::Sender<Offer>,
    ) -> Self {
        Self {
            span_keys: secrets
                .iter()
                .map(|secret| blake3::derive_key("relevo 1 agent span", secret.as_bytes()))
                .collect(),
            secrets,
            compressor: Compressor::new(),
            cache,
            under_way,
            offers,
            effort: Effort::default(),
        }
    }

    /// A span that is as it was at the last image, if the cache knows how that was, and the same
    /// bytes of it were read as would be now: what was not in use then may be now, as it is.
    pub fn unchanged(&mut self, disk: &str, number: u64, shape: u64) -> Option<SealedSpan> {
        let (_, known) = self.cache.span(disk, number)?;
        if known.shape != shape {
            return None;
        }
        Some(SealedSpan {
            leaf: known.leaf(),
            changed: false,
            differs: false,
            remember: None,
        })
    }

    /// The leaf of a span at the last image, whatever the disk holds now; nothing when the cache
    /// does not know.
    pub fn last_leaf(&mut self, disk: &str, number: u64) -> Option<Option<ChunkRef>> {
        let (_, known) = self.cache.span(disk, number)?;
        Some(known.leaf())
    }

    /// Seals one span. Blocks while the uplink has no room.
    pub fn seal(&mut self, disk: &str, span: &Span<'_>) -> Result<SealedSpan, UplinkGone> {
        let known = self.cache.span(disk, span.number);
        self.seal_over(known, span)
    }

    /// Seals a span that was sealed in this run already: what is to be remembered of it is told
    /// whatever the last image held.
    pub fn seal_again(&mut self, span: &Span<'_>) -> Result<SealedSpan, UplinkGone> {
        self.seal_over(None, span)
    }

    fn seal_over(
        &mut self,
        known: Option<(usize, KnownSpan)>,
        span: &Span<'_>,
    ) -> Result<SealedSpan, UplinkGone> {
        let same_shape = known.is_some_and(|(_, known)| known.shape == span.shape);
        let shape = span.shape;
        let Content::Data(bytes) = span.content else {
            let zeros = KnownSpan { shape, data: None };
            let held_data = known.is_some_and(|(_, known)| known.data.is_some());
            return Ok(SealedSpan {
                leaf: None,
                changed: held_data,
                differs: held_data && same_shape,
                remember: known
                    .is_none_or(|(_, known)| known != zeros)
                    .then_some(zeros),
            });
        };
        let hash_under =
            |secret: usize| *blake3::keyed_hash(&self.span_keys[secret], bytes).as_bytes();
        let (mut secret, mut hash) = (0, None);
        if let Some((under, known)) = known
            && let Some((before, leaf)) = known.data
        {
            let found = hash_under(under);
            if found == before {
                let reshaped = KnownSpan {
                    shape,
                    data: Some((found, leaf)),
                };
                return Ok(SealedSpan {
                    leaf: Some(leaf),
                    changed: false,
                    differs: false,
                    // Under an earlier secret its hash says nothing under this one.
                    remember: (!same_shape && under == 0).then_some(reshaped),
                });
            }
            (secret, hash) = (under, Some(found));
        }
        let hash = hash
            .filter(|_| secret == 0)
            .unwrap_or_else(|| hash_under(0));
        let extents = match self.effort.is_dense() {
            true => self.dense_extents(bytes)?,
            false => self.extents(bytes)?,
        };
        let node = Node::Leaf(extents).seal(&self.secrets[0]);
        let leaf = reference(&node);
        self.offer_node(node)?;
        Ok(SealedSpan {
            leaf: Some(leaf),
            changed: true,
            differs: same_shape,
            remember: Some(KnownSpan {
                shape,
                data: Some((hash, leaf)),
            }),
        })
    }

    /// Offers a node of the index, if the vault is not known to have it.
    pub fn offer_node(&mut self, node: SealedChunk) -> Result<(), UplinkGone> {
        if self.is_known(&node.key()).is_some() {
            return Ok(());
        }
        self.offer(node, 0)
    }

    /// Seals bytes that are no part of a disk.
    pub fn seal_data(&mut self, plaintext: &[u8]) -> Result<ChunkRef, UplinkGone> {
        let chunk = Chunk::new(&self.secrets[0], plaintext).seal(&mut self.compressor);
        let chunk_ref = reference(&chunk);
        self.offer(chunk, 0)?;
        Ok(chunk_ref)
    }

    /// The chunks of a span; what is not known of them is offered.
    fn extents(&mut self, bytes: &[u8]) -> Result<Vec<Extent>, UplinkGone> {
        let mut extents = Vec::new();
        for range in chunker::cut(bytes) {
            let extent = self.extent(&bytes[range])?;
            push(&mut extents, extent);
        }
        Ok(extents)
    }

    fn extent(&mut self, plaintext: &[u8]) -> Result<Extent, UplinkGone> {
        if let Some(extent) = self.known_extent(plaintext) {
            return Ok(extent);
        }
        let sealed = self.seal_chunk(plaintext);
        let (length, chunk) = (plaintext.len() as u32, reference(&sealed));
        self.offer(sealed, length)?;
        Ok(Extent::Data { length, chunk })
    }

    /// Zeros, or a chunk that the vault has or is about to have.
    fn known_extent(&mut self, plaintext: &[u8]) -> Option<Extent> {
        let length = plaintext.len() as u32;
        if is_zero(plaintext) {
            return Some(Extent::Zero { length });
        }
        let key = Chunk::new(&self.secrets[0], plaintext).key();
        if let Some(id) = self.is_known(&key) {
            let chunk = ChunkRef { id, key };
            return Some(Extent::Data { length, chunk });
        }
        let chunk = self.known_before(plaintext)?;
        Some(Extent::Data { length, chunk })
    }

    fn seal_chunk(&mut self, plaintext: &[u8]) -> SealedChunk {
        let begun = Instant::now();
        let sealed = Chunk::new(&self.secrets[0], plaintext).seal(&mut self.compressor);
        self.effort.sealed(begun.elapsed());
        sealed
    }

    /// The chunk of this plaintext that an earlier generation's secret made: an index names a
    /// chunk's key, so that it may stay as it is.
    fn known_before(&mut self, plaintext: &[u8]) -> Option<ChunkRef> {
        let Self { secrets, cache, .. } = self;
        let mut earlier = secrets.iter().enumerate().skip(1);
        earlier.find_map(|(number, secret)| {
            let key = Chunk::new(secret, plaintext).key();
            let id = cache.chunk(number, &key)?;
            Some(ChunkRef { id, key })
        })
    }

    /// In this order: a chunk leaves the map only after it entered the cache.
    fn is_known(&mut self, key: &ChunkKey) -> Option<ChunkId> {
        self.under_way.get(key).or_else(|| self.cache.chunk(0, key))
    }

    fn offer(&mut self, chunk: SealedChunk, plaintext: u32) -> Result<(), UplinkGone> {
        self.under_way.insert(reference(&chunk));
        self.hand_over(Offer {
            chunk,
            plaintext,
            inquirer: None,
        })
    }

    fn hand_over(&mut self, offer: Offer) -> Result<(), UplinkGone> {
        let begun = Instant::now();
        let sent = self.offers.blocking_send(offer).map_err(|_| UplinkGone);
        self.effort.waited(begun.elapsed());
        sent
    }
}

/// Adds an extent; neighbouring zeros become one.
fn push(extents: &mut Vec<Extent>, extent: Extent) {
    match (extents.last_mut(), extent) {
        (Some(Extent::Zero { length }), Extent::Zero { length: more }) => *length += more,
        (_, extent) => extents.push(extent),
    }
}

/// The reference to a sealed chunk.
pub fn reference(chunk: &SealedChunk) -> ChunkRef {
    ChunkRef {
        id: chunk.id(),
        key: chunk.key(),
    }
}
