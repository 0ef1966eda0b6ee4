//! Sealing in two steps: what is read while nothing may be written is cut and sealed into memory,
//! and looked up and offered when all goes on.

use relevo_wire::chunk::{Chunk, SealedChunk};
use relevo_wire::chunker;
use relevo_wire::index::{ChunkRef, Extent, Node};
use relevo_wire::key::ChunkKey;

use super::{SealedSpan, Sealer, UplinkGone, reference};
use crate::cache::KnownSpan;
use crate::span::{Content, Span, is_zero};

/// A span in memory: what of it may have changed, sealed, and of the rest the keys.
pub struct HeldSpan {
    number: u64,
    shape: u64,
    length: u64,
    /// Of its bytes; none when they are all zeros.
    hash: Option<[u8; 32]>,
    pieces: Vec<(u32, Piece)>,
}

enum Piece {
    Zeros,
    Sealed(SealedChunk),
    /// It was not written since the span was sealed before, so that its chunk ought to be known.
    Known(ChunkKey),
}

impl HeldSpan {
    /// Its number on the disk.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of sealed chunks in it.
    pub fn sealed_bytes(&self) -> u64 {
        let pieces = self.pieces.iter();
        pieces.fold(0, |sum, (_, piece)| match piece {
            Piece::Sealed(chunk) => sum + chunk.bytes().len() as u64,
            _ => sum,
        })
    }
}

impl Sealer {
    /// Cuts a span and seals into memory what of it may have been written (`written`, of ranges
    /// of the disk) since it was sealed before. Neither waits for anybody nor touches a file.
    pub fn hold(
        &mut self,
        span: &Span<'_>,
        written: impl Fn(std::ops::Range<u64>) -> bool,
    ) -> HeldSpan {
        let mut held = HeldSpan {
            number: span.number,
            shape: span.shape,
            length: span.length,
            hash: None,
            pieces: Vec::new(),
        };
        let Content::Data(bytes) = span.content else {
            return held;
        };
        held.hash = Some(*blake3::keyed_hash(&self.span_keys[0], bytes).as_bytes());
        let start = span.number * relevo_wire::index::SPAN;
        // Where one chunk ends elsewhere than before, the next begins elsewhere.
        let mut moved = false;
        for range in chunker::cut(bytes) {
            let plaintext = &bytes[range.clone()];
            let touched = written(start + range.start as u64..start + range.end as u64);
            let piece = if is_zero(plaintext) {
                Piece::Zeros
            } else {
                let chunk = Chunk::new(&self.secrets[0], plaintext);
                match touched || moved {
                    true => Piece::Sealed(chunk.seal(&mut self.compressor)),
                    false => Piece::Known(chunk.key()),
                }
            };
            moved = touched;
            held.pieces.push((plaintext.len() as u32, piece));
        }
        held
    }

    /// Makes a leaf of what was held. `reread` gives the bytes of the span as the disk has them
    /// now, for a chunk that is not known after all. None when those are others by now.
    pub fn settle(
        &mut self,
        held: HeldSpan,
        mut reread: impl FnMut() -> Option<Vec<u8>>,
    ) -> Result<Option<SealedSpan>, UplinkGone> {
        let shape = held.shape;
        let Some(hash) = held.hash else {
            let zeros = KnownSpan { shape, data: None };
            return Ok(Some(again(None, zeros)));
        };
        let mut extents = Vec::new();
        let (mut at, mut bytes) = (0, None);
        for (length, piece) in held.pieces {
            let extent = match piece {
                Piece::Zeros => Extent::Zero { length },
                Piece::Sealed(chunk) => {
                    let mut chunk_ref = reference(&chunk);
                    match self.is_known(&chunk.key()) {
                        Some(id) => chunk_ref.id = id,
                        None => self.offer(chunk, length)?,
                    }
                    Extent::Data {
                        length,
                        chunk: chunk_ref,
                    }
                }
                Piece::Known(key) => match self.is_known(&key) {
                    Some(id) => Extent::Data {
                        length,
                        chunk: ChunkRef { id, key },
                    },
                    None => {
                        let bytes = bytes.get_or_insert_with(&mut reread);
                        let range = at as usize..(at + u64::from(length)) as usize;
                        let plaintext = bytes.as_ref().and_then(|bytes| bytes.get(range));
                        let same = |plaintext: &&[u8]| {
                            Chunk::new(&self.secrets[0], plaintext).key() == key
                        };
                        match plaintext.filter(same) {
                            Some(plaintext) => self.extent(plaintext)?,
                            None => return Ok(None),
                        }
                    }
                },
            };
            at += u64::from(length);
            match (extents.last_mut(), extent) {
                (Some(Extent::Zero { length }), Extent::Zero { length: more }) => *length += more,
                _ => extents.push(extent),
            }
        }
        let node = Node::Leaf(extents).seal(&self.secrets[0]);
        let leaf = reference(&node);
        self.offer_node(node)?;
        let known = KnownSpan {
            shape,
            data: Some((hash, leaf)),
        };
        Ok(Some(again(Some(leaf), known)))
    }
}

/// A span that was sealed in this run before.
fn again(leaf: Option<ChunkRef>, known: KnownSpan) -> SealedSpan {
    SealedSpan {
        leaf,
        changed: true,
        differs: false,
        remember: Some(known),
    }
}
