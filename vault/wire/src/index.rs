//! The index of one disk: a tree whose leaves are spans of the disk and whose nodes are chunks.
//!
//! A **leaf** describes one span of [`SPAN`] bytes as a run of extents (data chunks and zeros).
//! An **inner node** of level *n* has up to [`FANOUT`] children of level *n − 1* (leaves are
//! level 0). A span or subtree of zeros is no node at all. The depth follows from the disk's
//! size alone, so any offset is found in [`depth`] reads, and equal subtrees of two images are
//! equal chunks.
//!
//! Each node is a chunk in two parts: the ids of its children, in the clear, so that the vault
//! can prove a recovery point complete and tell live chunks from dead ones without any key; and
//! the lengths and keys of the children, sealed.
//!
//! ```text
//! sealed node                  offset  size
//!   kind = 2                        0     1
//!   level                           1     1
//!   number of children n            2     2   little endian
//!   ids of the children             4  32·n   in order, repeated where a child is
//!   nonce                      4+32·n    12
//!   ciphertext and tag        16+32·n         AES-256-GCM, associated data = all before the nonce
//!
//! leaf body:   u16 extents, then for each u32 length | 0x8000_0000 when zeros; data: 32-byte key
//! inner body:  u16 slots,   then for each u8 0 = zeros, 1 = child followed by its 32-byte key
//! ```
//!
//! The node's key is keyed BLAKE3 of its clear part and body, under a key derived from the
//! tenant secret.

use crate::chunk::{
    CheckedChunk, KIND_NODE, MAX_CHUNK, SealError, SealedChunk, TAG, open_tail, seal_tail,
    sealing_parameters,
};
use crate::id::ChunkId;
use crate::key::{ChunkKey, TenantSecret};

/// Bytes of disk under one leaf. Chunking restarts at each multiple of it.
pub const SPAN: u64 = 4 * 1024 * 1024;
/// Most children of an inner node.
pub const FANOUT: usize = 128;
/// Most children of any node: a span of the smallest chunks, with room.
pub const MAX_CHILDREN: usize = 1024;
/// Highest level a node may have: 128⁶ spans are more than any disk.
pub const MAX_LEVEL: u8 = 6;

const HEADER: usize = 4;
const ZERO_FLAG: u32 = 0x8000_0000;

/// Where a node or chunk is and what opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Its id.
    pub id: ChunkId,
    /// Its key.
    pub key: ChunkKey,
}

/// A run of bytes within a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Bytes held by a chunk.
    Data {
        /// Length in bytes, 1 to [`MAX_CHUNK`].
        length: u32,
        /// The chunk.
        chunk: ChunkRef,
    },
    /// Zeros, or space that the server did not use.
    Zero {
        /// Length in bytes, at least 1.
        length: u32,
    },
}

impl Extent {
    /// Its length in bytes.
    pub fn length(&self) -> u32 {
        match self {
            Self::Data { length, .. } | Self::Zero { length } => *length,
        }
    }
}

/// A node of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// One span, as its extents in order.
    Leaf(Vec<Extent>),
    /// Children in order; `None` where all is zero.
    Inner {
        /// One more than the children's.
        level: u8,
        /// At most [`FANOUT`].
        children: Vec<Option<ChunkRef>>,
    },
}

/// Number of inner levels above the leaves for a disk of `size` bytes; at least 1.
pub fn depth(size: u64) -> u8 {
    let spans = size.div_ceil(SPAN);
    let (mut depth, mut reach) = (1, FANOUT as u64);
    while reach < spans {
        depth += 1;
        reach = reach.saturating_mul(FANOUT as u64);
    }
    depth
}

/// The child to take at a node of `level` on the way to span number `span`.
pub fn slot(level: u8, span: u64) -> usize {
    let below = (FANOUT as u64).saturating_pow(u32::from(level.saturating_sub(1)));
    ((span / below) % FANOUT as u64) as usize
}

impl Node {
    /// Seals it under a key that follows from its content.
    pub fn seal(&self, secret: &TenantSecret) -> SealedChunk {
        let (level, ids, body) = self.encode();
        let mut bytes = Vec::with_capacity(HEADER + 32 * ids.len() + 12 + body.len() + TAG);
        bytes.extend_from_slice(&[KIND_NODE, level]);
        bytes.extend_from_slice(&(ids.len() as u16).to_le_bytes());
        for id in &ids {
            bytes.extend_from_slice(id.as_bytes());
        }
        let clear = bytes.clone();
        let node_secret = blake3::derive_key("relevo 1 node key", secret.as_bytes());
        let key = blake3::Hasher::new_keyed(&node_secret)
            .update(&clear)
            .update(&body)
            .finalize();
        let key = ChunkKey::from_bytes(*key.as_bytes());
        let (nonce, aead_key) = sealing_parameters(&key, &clear, &body);
        bytes.extend_from_slice(&nonce);
        let body_at = bytes.len();
        bytes.extend_from_slice(&body);
        seal_tail(&mut bytes, body_at, &aead_key, nonce, &clear);
        SealedChunk::new(bytes, key)
    }

    /// Opens a sealed node.
    pub fn open(chunk: &CheckedChunk, key: &ChunkKey) -> Result<Self, SealError> {
        let (id, sealed) = (chunk.id(), chunk.bytes());
        let links = NodeLinks::parse(chunk)?;
        let (clear, tail) = sealed.split_at(HEADER + 32 * links.len());
        let body = open_tail(id, tail, key, clear)?;
        Self::decode(&links, &body).ok_or(SealError::Malformed {
            id,
            reason: "its body does not match the children that it names",
        })
    }

    fn encode(&self) -> (u8, Vec<ChunkId>, Vec<u8>) {
        let (mut ids, mut body) = (Vec::new(), Vec::new());
        match self {
            Self::Leaf(extents) => {
                body.extend_from_slice(&(extents.len() as u16).to_le_bytes());
                for extent in extents {
                    match extent {
                        Extent::Data { length, chunk } => {
                            body.extend_from_slice(&length.to_le_bytes());
                            body.extend_from_slice(chunk.key.as_bytes());
                            ids.push(chunk.id);
                        }
                        Extent::Zero { length } => {
                            body.extend_from_slice(&(length | ZERO_FLAG).to_le_bytes());
                        }
                    }
                }
                (0, ids, body)
            }
            Self::Inner { level, children } => {
                body.extend_from_slice(&(children.len() as u16).to_le_bytes());
                for child in children {
                    match child {
                        Some(chunk) => {
                            body.push(1);
                            body.extend_from_slice(chunk.key.as_bytes());
                            ids.push(chunk.id);
                        }
                        None => body.push(0),
                    }
                }
                (*level, ids, body)
            }
        }
    }

    fn decode(links: &NodeLinks<'_>, mut body: &[u8]) -> Option<Self> {
        let count = u16::from_le_bytes(take(&mut body)?);
        let mut ids = links.ids();
        let node = if links.level == 0 {
            let mut extents = Vec::with_capacity(usize::from(count));
            let mut total = 0u64;
            for _ in 0..count {
                let word = u32::from_le_bytes(take(&mut body)?);
                let length = word & !ZERO_FLAG;
                let extent = if word & ZERO_FLAG != 0 {
                    Extent::Zero { length }
                } else {
                    let key = ChunkKey::from_bytes(take(&mut body)?);
                    if length as usize > MAX_CHUNK {
                        return None;
                    }
                    Extent::Data {
                        length,
                        chunk: ChunkRef {
                            id: ids.next()?,
                            key,
                        },
                    }
                };
                total += u64::from(length);
                if length == 0 || total > SPAN {
                    return None;
                }
                extents.push(extent);
            }
            Self::Leaf(extents)
        } else {
            if usize::from(count) > FANOUT {
                return None;
            }
            let mut children = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                let [present] = take(&mut body)?;
                children.push(match present {
                    0 => None,
                    1 => {
                        let key = ChunkKey::from_bytes(take(&mut body)?);
                        Some(ChunkRef {
                            id: ids.next()?,
                            key,
                        })
                    }
                    _ => return None,
                });
            }
            Self::Inner {
                level: links.level,
                children,
            }
        };
        (body.is_empty() && ids.next().is_none()).then_some(node)
    }
}

fn take<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = body.split_first_chunk::<N>()?;
    *body = rest;
    Some(*head)
}

/// The clear part of a node: all that a vault reads of it.
#[derive(Clone, Copy, Debug)]
pub struct NodeLinks<'a> {
    level: u8,
    ids: &'a [u8],
}

impl<'a> NodeLinks<'a> {
    /// Reads the clear part of a sealed node.
    pub fn parse(chunk: &'a CheckedChunk) -> Result<Self, SealError> {
        let malformed = |reason| SealError::Malformed {
            id: chunk.id(),
            reason,
        };
        let [kind, level, low, high, rest @ ..] = chunk.bytes().as_ref() else {
            return Err(malformed("it is too short for a node"));
        };
        if *kind != KIND_NODE {
            return Err(malformed("it is not an index node"));
        }
        if *level > MAX_LEVEL {
            return Err(malformed("its level is higher than any disk needs"));
        }
        let count = usize::from(u16::from_le_bytes([*low, *high]));
        if count > MAX_CHILDREN {
            return Err(malformed("it names more children than a node may have"));
        }
        let ids = rest
            .get(..32 * count)
            .ok_or(malformed("it ends within its list of children"))?;
        Ok(Self { level: *level, ids })
    }

    /// True when a chunk claims to be a node (rather than data).
    pub fn is_node(chunk: &CheckedChunk) -> bool {
        chunk.bytes().first() == Some(&KIND_NODE)
    }

    /// 0 when the children are data chunks, else one more than the children's level.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Number of children.
    pub fn len(&self) -> usize {
        self.ids.len() / 32
    }

    /// True when it has no children.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The children in order.
    pub fn ids(&self) -> impl Iterator<Item = ChunkId> + use<'a> {
        self.ids
            .as_chunks::<32>()
            .0
            .iter()
            .map(|bytes| ChunkId::from_bytes(*bytes))
    }
}

/// Builds the inner nodes above leaves that come in the order of the disk. Memory: one open
/// node per level, whatever the disk's size.
pub struct TreeBuilder {
    secret: TenantSecret,
    levels: Vec<Vec<Option<ChunkRef>>>,
}

impl TreeBuilder {
    /// For a disk of `size` bytes.
    pub fn new(secret: TenantSecret, size: u64) -> Self {
        Self {
            secret,
            levels: vec![Vec::new(); usize::from(depth(size))],
        }
    }

    /// Adds the next span's leaf, or `None` when it is all zeros. Gives `emit` each inner node
    /// that this completes.
    pub fn push(&mut self, leaf: Option<ChunkRef>, emit: &mut impl FnMut(SealedChunk)) {
        self.add(0, leaf, emit);
    }

    /// Completes the tree and returns its root; `None` when the whole disk is zeros.
    pub fn finish(mut self, emit: &mut impl FnMut(SealedChunk)) -> Option<ChunkRef> {
        for at in 0..self.levels.len() - 1 {
            if !self.levels[at].is_empty() {
                let node = self.close(at, emit);
                self.add(at + 1, node, emit);
            }
        }
        self.close(self.levels.len() - 1, emit)
    }

    fn add(&mut self, at: usize, child: Option<ChunkRef>, emit: &mut impl FnMut(SealedChunk)) {
        self.levels[at].push(child);
        if self.levels[at].len() == FANOUT && at + 1 < self.levels.len() {
            let node = self.close(at, emit);
            self.add(at + 1, node, emit);
        }
    }

    fn close(&mut self, at: usize, emit: &mut impl FnMut(SealedChunk)) -> Option<ChunkRef> {
        let children = std::mem::take(&mut self.levels[at]);
        if children.iter().all(Option::is_none) {
            return None;
        }
        let node = Node::Inner {
            level: at as u8 + 1,
            children,
        }
        .seal(&self.secret);
        let reference = ChunkRef {
            id: node.id(),
            key: node.key(),
        };
        emit(node);
        Some(reference)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    const SECRET: TenantSecret = TenantSecret::from_bytes([3; 32]);

    fn chunk(n: u64) -> ChunkRef {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        ChunkRef {
            id: ChunkId::from_bytes(bytes),
            key: ChunkKey::from_bytes(bytes),
        }
    }

    /// Builds a tree of one-extent leaves and finds each span again from the root.
    fn round_trip(spans: u64, is_zero: impl Fn(u64) -> bool) {
        let mut store: HashMap<ChunkId, SealedChunk> = HashMap::new();
        let mut tree = TreeBuilder::new(SECRET, spans * SPAN);
        for span in 0..spans {
            let leaf = (!is_zero(span)).then(|| chunk(span + 1));
            tree.push(leaf, &mut |node| drop(store.insert(node.id(), node)));
        }
        let root = tree.finish(&mut |node| drop(store.insert(node.id(), node)));
        for span in 0..spans {
            let mut at = root;
            for level in (1..=depth(spans * SPAN)).rev() {
                at = at.and_then(|reference| {
                    let sealed = &store[&reference.id];
                    match Node::open(&sealed.into(), &reference.key).unwrap() {
                        Node::Inner { children, .. } => {
                            children.get(slot(level, span)).copied().flatten()
                        }
                        Node::Leaf(_) => panic!("a leaf above level 0"),
                    }
                });
            }
            assert_eq!(at, (!is_zero(span)).then(|| chunk(span + 1)), "span {span}");
        }
    }

    #[test]
    fn every_span_is_found_in_trees_of_any_depth() {
        for spans in [1, 2, 127, 128, 129, 300, 128 * 128, 128 * 128 + 1] {
            round_trip(spans, |span| span % 5 == 3);
        }
        round_trip(129, |_| true);
        round_trip(128 * 129, |span| span < 128 * 128);
    }

    #[test]
    fn depth_of_common_disks() {
        assert_eq!(depth(1), 1);
        assert_eq!(depth(512 << 20), 1);
        assert_eq!(depth((512 << 20) + 1), 2);
        assert_eq!(depth(8 << 40), 3);
        assert_eq!(depth((8 << 40) + 1), 4);
    }

    proptest! {
        /// Guards the vault and the readers against hostile nodes.
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Node::open(&CheckedChunk::of(bytes.clone().into()), &chunk(1).key);
            if let Some(first) = bytes.first_mut() { *first = KIND_NODE; }
            let node = CheckedChunk::of(bytes.into());
            let _ = Node::open(&node, &chunk(1).key);
            let _ = NodeLinks::parse(&node).map(|links| links.ids().count());
        }

        #[test]
        fn leaves_read_back(lengths in proptest::collection::vec((1u32..65536, any::<bool>()), 0..60)) {
            let extents: Vec<_> = lengths.iter().map(|&(length, zero)| {
                if zero { Extent::Zero { length } } else { Extent::Data { length, chunk: chunk(length.into()) } }
            }).collect();
            let leaf = Node::Leaf(extents);
            let sealed = leaf.seal(&SECRET);
            prop_assert_eq!(Node::open(&(&sealed).into(), &sealed.key()).unwrap(), leaf);
        }
    }
}
