//! Denser chunks, for lines that are slower than the processor.
//!
//! A worker that waits for the line nine tenths of the time compresses harder. A chunk's id is of
//! its sealed bytes, so that one of another level is another chunk; so that nothing is sent that
//! the vault has from others, the vault is first asked for the chunk as all seal it, and only what
//! it has not is sealed densely. That costs one round trip a span, on a line for which a span is
//! the work of many.
//!
//! What stays weaker: who is on a fast line does not find what was stored densely, and stores it
//! once more as all do.

use std::ops::Range;
use std::time::Duration;

use relevo_wire::chunk::Compressor;
use relevo_wire::chunker;
use relevo_wire::index::{ChunkRef, Extent};
use tokio::sync::oneshot;

use super::{Offer, Sealer, UplinkGone, push, reference};

/// How much sealing and waiting a decision is made of.
const PERIOD: Duration = Duration::from_secs(1);
/// Share of the time, in percent, for which the line must be waited for, and below which it is
/// too fast. [`Compressor::DENSE_LEVEL`] takes five times the time of the usual level.
const SLOW: u128 = 90;
const FAST: u128 = 25;

/// Hears whether the vault has a chunk.
#[derive(Debug)]
pub(crate) struct Inquirer(oneshot::Sender<bool>);

impl Inquirer {
    /// Tells it.
    pub(crate) fn answer(self, known: bool) {
        // Whoever asked may be gone, since the run ends.
        let _ = self.0.send(known);
    }
}

/// How hard one worker compresses.
#[derive(Debug, Default)]
pub(super) struct Effort {
    sealing: Duration,
    waiting: Duration,
    dense: bool,
}

impl Effort {
    pub(super) fn is_dense(&self) -> bool {
        self.dense
    }

    /// So long a chunk took to seal.
    pub(super) fn sealed(&mut self, time: Duration) {
        self.sealing += time;
        self.decide();
    }

    /// So long the uplink had no room.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waiting += time;
        self.decide();
    }

    fn decide(&mut self) {
        let all = self.sealing + self.waiting;
        if all < PERIOD {
            return;
        }
        let share = self.waiting.as_micros() * 100 / all.as_micros().max(1);
        let dense = share >= if self.dense { FAST } else { SLOW };
        if dense != self.dense {
            let (level, waiting) = (if dense { "denser" } else { "as usual" }, self.waiting);
            tracing::debug!("the line was waited for {waiting:?} of {all:?}: compressing {level}");
        }
        *self = Self {
            dense,
            ..Self::default()
        };
    }
}

/// A chunk of a span, once it is known what is known of it.
enum Piece {
    Done(Extent),
    /// The vault was asked whether it has this one.
    Asked {
        range: Range<usize>,
        usual: ChunkRef,
        /// Bytes of it, sealed as usual.
        size: usize,
        answer: oneshot::Receiver<bool>,
    },
}

impl Sealer {
    /// The chunks of a span, those that the vault has not sealed densely.
    pub(super) fn dense_extents(&mut self, bytes: &[u8]) -> Result<Vec<Extent>, UplinkGone> {
        let mut pieces = Vec::new();
        for range in chunker::cut(bytes) {
            pieces.push(self.piece(bytes, range)?);
        }
        let mut extents = Vec::new();
        for piece in pieces {
            let extent = match piece {
                Piece::Done(extent) => extent,
                Piece::Asked {
                    range,
                    usual,
                    size,
                    answer,
                } => {
                    let plaintext = &bytes[range];
                    let length = plaintext.len() as u32;
                    let has = answer.blocking_recv().map_err(|_| UplinkGone)?;
                    match has.then_some(Extent::Data {
                        length,
                        chunk: usual,
                    }) {
                        Some(known) => known,
                        None => self.dense_extent(plaintext, size)?,
                    }
                }
            };
            push(&mut extents, extent);
        }
        Ok(extents)
    }

    fn piece(&mut self, bytes: &[u8], range: Range<usize>) -> Result<Piece, UplinkGone> {
        let plaintext = &bytes[range.clone()];
        if let Some(extent) = self.known_extent(plaintext) {
            return Ok(Piece::Done(extent));
        }
        let sealed = self.seal_chunk(plaintext);
        let usual = reference(&sealed);
        if !sealed.is_compressed() {
            let length = plaintext.len() as u32;
            self.offer(sealed, length)?;
            let chunk = usual;
            return Ok(Piece::Done(Extent::Data { length, chunk }));
        }
        let size = sealed.bytes().len();
        let (inquirer, answer) = oneshot::channel();
        self.hand_over(Offer {
            chunk: sealed,
            plaintext: 0,
            inquirer: Some(Inquirer(inquirer)),
        })?;
        Ok(Piece::Asked {
            range,
            usual,
            size,
            answer,
        })
    }

    /// A chunk that the vault has not: densely, when that is shorter than the usual `size`.
    fn dense_extent(&mut self, plaintext: &[u8], size: usize) -> Result<Extent, UplinkGone> {
        // The same may have been sealed meanwhile, in this span or another.
        if let Some(extent) = self.known_extent(plaintext) {
            return Ok(extent);
        }
        self.compressor.set_level(Compressor::DENSE_LEVEL);
        let mut sealed = self.seal_chunk(plaintext);
        self.compressor.set_level(Compressor::LEVEL);
        if sealed.bytes().len() >= size {
            // What all seal is found by all.
            sealed = self.seal_chunk(plaintext);
        }
        let (length, chunk) = (plaintext.len() as u32, reference(&sealed));
        self.offer(sealed, length)?;
        Ok(Extent::Data { length, chunk })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use relevo_wire::chunk::{CheckedChunk, Chunk};
    use relevo_wire::index::Node;
    use relevo_wire::key::TenantSecret;
    use relevo_wire::{ServerId, TenantId, VaultId};
    use tokio::sync::mpsc;

    use super::*;
    use crate::cache::{Cache, Scope};
    use crate::seal::UnderWay;
    use crate::span::{Content, Span};

    const MS: Duration = Duration::from_millis(1);

    /// Guards both ways: a slow line gets dense chunks, one that became fast is not held up.
    #[test]
    fn effort_follows_the_line() {
        let mut effort = Effort::default();
        for _ in 0..10 {
            effort.sealed(MS * 5);
            effort.waited(MS * 94);
        }
        assert!(!effort.is_dense(), "before a second was seen");
        effort.waited(MS * 20);
        assert!(effort.is_dense(), "the line was waited for");
        // Five times the work, on a line that is as slow: it stays.
        for _ in 0..30 {
            effort.sealed(MS * 25);
            effort.waited(MS * 74);
        }
        assert!(effort.is_dense(), "the line is still waited for");
        for _ in 0..30 {
            effort.sealed(MS * 90);
            effort.waited(MS * 10);
        }
        assert!(!effort.is_dense(), "the line waits");
    }

    /// Guards what is sent over a slow line: what the vault has from others it gets no second
    /// time, the rest comes densely, and the leaf names what the vault then has.
    #[test]
    fn only_what_the_vault_lacks_is_sealed_densely() {
        let secret = TenantSecret::from_bytes([3; 32]);
        let mut bytes = Vec::new();
        for number in 0u32..1 << 20 {
            let word = blake3::hash(&(number.wrapping_mul(number) % 4093).to_le_bytes());
            let length = 4 + (number % 13) as usize;
            bytes.extend_from_slice(&word.to_hex().as_bytes()[..length]);
            bytes.push(b' ');
        }
        bytes.truncate(2 << 20);
        let mut usual = Compressor::new();
        let chunks: Vec<_> = chunker::cut(&bytes).collect();
        let (had, lacked) = chunks.split_at(chunks.len() / 2);
        let mut seal =
            |range: &Range<usize>| Chunk::new(&secret, &bytes[range.clone()]).seal(&mut usual);
        let had: HashSet<_> = had.iter().map(|range| seal(range).id()).collect();
        let usual_bytes: usize = lacked.iter().map(|range| seal(range).bytes().len()).sum();

        let dir = tempfile::tempdir().unwrap();
        let scope = Scope {
            vault: VaultId::random(),
            epoch: 1,
            tenant: TenantId::random(),
            server: ServerId::random(),
        };
        let secrets = vec![secret.clone()];
        let cache = Cache::open(&dir.path().join("cache.sqlite"), &scope, &secrets).unwrap();
        let (offers, mut offered) = mpsc::channel::<Offer>(4);
        let known = had.clone();
        let vault = std::thread::spawn(move || {
            let mut sent = Vec::new();
            while let Some(offer) = offered.blocking_recv() {
                match offer.inquirer {
                    Some(inquirer) => inquirer.answer(known.contains(&offer.chunk.id())),
                    None => sent.push(offer.chunk),
                }
            }
            sent
        });
        let reader = cache.reader().unwrap();
        let mut sealer = Sealer::new(secrets, reader, UnderWay::default(), offers);
        sealer.effort.dense = true;
        let span = Span {
            number: 0,
            length: bytes.len() as u64,
            read: bytes.len() as u64,
            shape: 1,
            content: Content::Data(&bytes),
        };
        let leaf = sealer.seal("sda", &span).unwrap().leaf.unwrap();
        drop(sealer);
        let sent = vault.join().unwrap();
        let find = |id| sent.iter().find(|chunk| chunk.id() == id);
        let node = CheckedChunk::from(find(leaf.id).unwrap());
        let Node::Leaf(extents) = Node::open(&node, &leaf.key).unwrap() else {
            panic!("no leaf")
        };
        let (mut at, mut dense_bytes) = (0, 0);
        for extent in extents {
            let Extent::Data { length, chunk } = extent else {
                panic!("zeros")
            };
            let plaintext = &bytes[at..at + length as usize];
            at += length as usize;
            if had.contains(&chunk.id) {
                assert!(find(chunk.id).is_none(), "sent though the vault has it");
                continue;
            }
            let sealed = CheckedChunk::from(find(chunk.id).unwrap());
            dense_bytes += sealed.bytes().len();
            assert_eq!(sealed.open(&chunk.key, plaintext.len()).unwrap(), plaintext);
        }
        assert_eq!(at, bytes.len());
        assert_eq!(sent.len(), lacked.len() + 1, "chunks and their leaf");
        assert!(dense_bytes < usual_bytes, "{dense_bytes} of {usual_bytes}");
    }
}
