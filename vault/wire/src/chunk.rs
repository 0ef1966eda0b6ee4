//! A chunk of plaintext, and the same chunk sealed.
//!
//! ```text
//! sealed data chunk            offset  size
//!   kind = 1                        0     1
//!   codec: 0 stored, 1 zstd         1     1
//!   nonce                           2    12
//!   ciphertext and tag             14  n+16   AES-256-GCM, associated data = bytes 0..2
//! ```
//!
//! Sealing is deterministic, so that equal plaintext of one tenant is one chunk. The nonce is
//! keyed BLAKE3 of the encoded plaintext: two encodings of one plaintext (another compressor
//! version, say) share a key and so must not share a nonce.

use std::cell::RefCell;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::id::ChunkId;
use crate::key::{ChunkKey, TenantSecret};

/// The most plaintext a chunk holds, in bytes.
pub const MAX_CHUNK: usize = 256 * 1024;
/// The most bytes a sealed chunk has: header, incompressible plaintext, tag.
pub const MAX_SEALED: usize = DATA_HEADER + MAX_CHUNK + TAG;

pub(crate) const TAG: usize = 16;
pub(crate) const NONCE: usize = 12;
pub(crate) const KIND_DATA: u8 = 1;
pub(crate) const KIND_NODE: u8 = 2;
const DATA_HEADER: usize = 2 + NONCE;
const CODEC_STORED: u8 = 0;
const CODEC_ZSTD: u8 = 1;

/// Why sealed bytes could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not the layout of a sealed chunk.
    #[error("chunk {id} is malformed: {reason}")]
    Malformed {
        /// The chunk.
        id: ChunkId,
        /// What is wrong.
        reason: &'static str,
    },
    /// Its bytes are another chunk's, or were damaged.
    #[error("chunk {id} is damaged: its bytes hash to {found}")]
    NotItsId {
        /// The chunk asked for.
        id: ChunkId,
        /// What the bytes hash to.
        found: ChunkId,
    },
    /// The key does not open it, or its bytes were changed.
    #[error("chunk {0} cannot be opened with the key that the index gives for it")]
    Unauthentic(ChunkId),
    /// The plaintext is not as long as the index says.
    #[error("chunk {id} holds {found} bytes where the index says {expected}")]
    WrongLength {
        /// The chunk.
        id: ChunkId,
        /// Bytes that the index names.
        expected: usize,
        /// Bytes that there are.
        found: usize,
    },
}

/// Plaintext of at most [`MAX_CHUNK`] bytes with its key: read and hashed, not yet sealed.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    plaintext: &'a [u8],
    key: ChunkKey,
}

impl<'a> Chunk<'a> {
    /// Derives the chunk's key from its plaintext.
    ///
    /// # Panics
    /// When `plaintext` is longer than [`MAX_CHUNK`], which the chunker rules out.
    pub fn new(secret: &TenantSecret, plaintext: &'a [u8]) -> Self {
        assert!(
            plaintext.len() <= MAX_CHUNK,
            "a chunk of {} bytes",
            plaintext.len()
        );
        let key = blake3::keyed_hash(secret.as_bytes(), plaintext);
        Self {
            plaintext,
            key: ChunkKey::from_bytes(*key.as_bytes()),
        }
    }

    /// The key: also the plaintext's identity within the tenant.
    pub fn key(&self) -> ChunkKey {
        self.key
    }

    /// The bytes.
    pub fn plaintext(&self) -> &'a [u8] {
        self.plaintext
    }

    /// Compresses and seals. `compressor` is reused between calls, since making one is dear.
    pub fn seal(&self, compressor: &mut Compressor) -> SealedChunk {
        let compressed = compressor.compress(self.plaintext);
        let (codec, body) = match &compressed {
            Some(bytes) => (CODEC_ZSTD, bytes.as_slice()),
            None => (CODEC_STORED, self.plaintext),
        };
        let header = [KIND_DATA, codec];
        let (nonce, key) = sealing_parameters(&self.key, &header, body);
        let mut bytes = Vec::with_capacity(DATA_HEADER + body.len() + TAG);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(body);
        seal_tail(&mut bytes, DATA_HEADER, &key, nonce, &header);
        SealedChunk::new(bytes, self.key)
    }
}

/// A chunk as it crosses the network and rests in the vault, with the key that opens it.
/// The key stays with the sealer: [`bytes`](Self::bytes) is all that leaves.
#[derive(Clone, Debug)]
pub struct SealedChunk {
    id: ChunkId,
    key: ChunkKey,
    bytes: bytes::Bytes,
}

impl SealedChunk {
    pub(crate) fn new(bytes: Vec<u8>, key: ChunkKey) -> Self {
        Self {
            id: ChunkId::of(&bytes),
            key,
            bytes: bytes.into(),
        }
    }

    /// BLAKE3 of the sealed bytes.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Whether its plaintext got shorter by compression. What does not is not worth another try.
    pub fn is_compressed(&self) -> bool {
        self.bytes.starts_with(&[KIND_DATA, CODEC_ZSTD])
    }

    /// The key that opens it.
    pub fn key(&self) -> ChunkKey {
        self.key
    }

    /// The sealed bytes.
    pub fn bytes(&self) -> &bytes::Bytes {
        &self.bytes
    }
}

/// Sealed bytes that hash to their id: what the vault stores and what a reader opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedChunk {
    id: ChunkId,
    bytes: bytes::Bytes,
}

impl CheckedChunk {
    /// Hashes bytes that arrived; they are the chunk of the id that results.
    pub fn of(bytes: bytes::Bytes) -> Self {
        Self {
            id: ChunkId::of(&bytes),
            bytes,
        }
    }

    /// Checks bytes that claim to be the chunk `id`.
    pub fn check(id: ChunkId, bytes: bytes::Bytes) -> Result<Self, SealError> {
        let found = Self::of(bytes);
        if found.id == id {
            Ok(found)
        } else {
            Err(SealError::NotItsId {
                id,
                found: found.id,
            })
        }
    }

    /// BLAKE3 of the bytes.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// The sealed bytes.
    pub fn bytes(&self) -> &bytes::Bytes {
        &self.bytes
    }

    /// Opens a data chunk whose plaintext is `length` bytes long. A bomb cannot unfold: no
    /// more than `length` bytes are ever decompressed.
    pub fn open(&self, key: &ChunkKey, length: usize) -> Result<Vec<u8>, SealError> {
        open_data(self.id, &self.bytes, key, length)
    }
}

impl From<&SealedChunk> for CheckedChunk {
    fn from(sealed: &SealedChunk) -> Self {
        Self {
            id: sealed.id,
            bytes: sealed.bytes.clone(),
        }
    }
}

/// A zstd compressor that keeps its working memory between chunks.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    level: i32,
}

impl Compressor {
    /// zstd level 2 is faster than most disks and shrinks server data to half or less; 3 takes a
    /// third more time for 0.6 % (docs/benchmarks.md). All
    /// seal at this level unless they have a reason: equal plaintext is one chunk only when it is
    /// compressed alike.
    pub const LEVEL: i32 = 2;
    /// Some 7 % smaller at a fifth of the speed (docs/benchmarks.md), for lines that are slower still.
    pub const DENSE_LEVEL: i32 = 9;

    /// A compressor at [`LEVEL`](Self::LEVEL).
    pub fn new() -> Self {
        match zstd::bulk::Compressor::new(Self::LEVEL) {
            Ok(zstd) => Self {
                zstd,
                level: Self::LEVEL,
            },
            Err(error) => panic!("zstd gave no compression context: {error}"),
        }
    }

    /// Compresses at another level from now on.
    pub fn set_level(&mut self, level: i32) {
        if level != self.level && self.zstd.set_compression_level(level).is_ok() {
            self.level = level;
        }
    }

    /// The compressed bytes, or nothing when they would not be shorter by at least 1/16.
    fn compress(&mut self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let worthwhile = plaintext.len() - plaintext.len() / 16;
        self.zstd
            .compress(plaintext)
            .ok()
            .filter(|c| c.len() < worthwhile)
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

fn open_data(
    id: ChunkId,
    sealed: &[u8],
    key: &ChunkKey,
    length: usize,
) -> Result<Vec<u8>, SealError> {
    let malformed = |reason| SealError::Malformed { id, reason };
    if sealed.len() < DATA_HEADER + TAG || sealed[0] != KIND_DATA {
        return Err(malformed("it is not a data chunk"));
    }
    if length > MAX_CHUNK {
        return Err(malformed(
            "the index names more bytes than a chunk may hold",
        ));
    }
    let header = [sealed[0], sealed[1]];
    let body = open_tail(id, &sealed[2..], key, &header)?;
    let plaintext = match header[1] {
        CODEC_STORED => body,
        CODEC_ZSTD => decompress(&body, length)
            .map_err(|_| malformed("its compressed data does not unfold to the length named"))?,
        _ => {
            return Err(malformed(
                "its compression is unknown; a newer Relevo can read it",
            ));
        }
    };
    if plaintext.len() != length {
        return Err(SealError::WrongLength {
            id,
            expected: length,
            found: plaintext.len(),
        });
    }
    Ok(plaintext)
}

thread_local! {
    /// Making a decompressor costs as much as unfolding 20 KiB.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
}

fn decompress(body: &[u8], length: usize) -> std::io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(kept) => kept,
            None => kept.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress(body, length)
    })
}

/// The nonce and AEAD key for a body under a chunk key.
pub(crate) fn sealing_parameters(
    key: &ChunkKey,
    header: &[u8],
    body: &[u8],
) -> ([u8; NONCE], [u8; 32]) {
    let nonce_key = blake3::derive_key("relevo 1 chunk nonce", key.as_bytes());
    let digest = blake3::Hasher::new_keyed(&nonce_key)
        .update(header)
        .update(body)
        .finalize();
    let mut nonce = [0; NONCE];
    nonce.copy_from_slice(&digest.as_bytes()[..NONCE]);
    (nonce, aead_key(key))
}

fn aead_key(key: &ChunkKey) -> [u8; 32] {
    blake3::derive_key("relevo 1 chunk sealing", key.as_bytes())
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    match UnboundKey::new(&AES_256_GCM, key) {
        Ok(key) => LessSafeKey::new(key),
        Err(_) => unreachable!("AES-256-GCM takes any 32 bytes as a key"),
    }
}

/// Encrypts `bytes[body_at..]` in place and appends the tag.
pub(crate) fn seal_tail(
    bytes: &mut Vec<u8>,
    body_at: usize,
    key: &[u8; 32],
    nonce: [u8; NONCE],
    aad: &[u8],
) {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let sealed =
        cipher(key).seal_in_place_separate_tag(nonce, Aad::from(aad), &mut bytes[body_at..]);
    match sealed {
        Ok(tag) => bytes.extend_from_slice(tag.as_ref()),
        Err(_) => unreachable!("bodies are far shorter than AES-GCM's limit"),
    }
}

/// Opens `nonce ‖ ciphertext ‖ tag` under a chunk key.
pub(crate) fn open_tail(
    id: ChunkId,
    tail: &[u8],
    key: &ChunkKey,
    aad: &[u8],
) -> Result<Vec<u8>, SealError> {
    open_with(tail, &aead_key(key), aad).ok_or(SealError::Unauthentic(id))
}

pub(crate) fn open_with(tail: &[u8], key: &[u8; 32], aad: &[u8]) -> Option<Vec<u8>> {
    let (nonce, body) = tail.split_at_checked(NONCE)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut body = body.to_vec();
    let length = cipher(key)
        .open_in_place(nonce, Aad::from(aad), &mut body)
        .ok()?
        .len();
    body.truncate(length);
    Some(body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const SECRET: TenantSecret = TenantSecret::from_bytes([7; 32]);

    proptest! {
        /// Guards the round trip, and that sealing is deterministic (else nothing deduplicates).
        #[test]
        fn sealed_chunks_open_to_their_plaintext(
            data in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..5000),
                (any::<u8>(), 0usize..MAX_CHUNK).prop_map(|(b, n)| vec![b; n]),
            ]
        ) {
            let chunk = Chunk::new(&SECRET, &data);
            let sealed = chunk.seal(&mut Compressor::new());
            prop_assert_eq!(sealed.id(), chunk.seal(&mut Compressor::new()).id());
            prop_assert!(sealed.bytes().len() <= MAX_SEALED);
            prop_assert_eq!(CheckedChunk::from(&sealed).open(&sealed.key(), data.len()).unwrap(), data);
        }

        /// Guards against a vault or line that changes a byte anywhere in a chunk.
        #[test]
        fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let data = vec![42; 3000];
            let sealed = Chunk::new(&SECRET, &data).seal(&mut Compressor::new());
            let mut bytes = sealed.bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(CheckedChunk::check(sealed.id(), bytes.clone().into()).is_err());
            prop_assert!(open_data(sealed.id(), &bytes, &sealed.key(), data.len()).is_err());
        }
    }

    #[test]
    fn a_bomb_does_not_unfold_past_the_indexed_length() {
        let data = vec![0; MAX_CHUNK];
        let sealed = Chunk::new(&SECRET, &data).seal(&mut Compressor::new());
        assert!(sealed.bytes().len() < 200);
        assert!(
            CheckedChunk::from(&sealed)
                .open(&sealed.key(), 1000)
                .is_err()
        );
    }

    #[test]
    fn tenants_do_not_share_chunks() {
        let other = TenantSecret::from_bytes([8; 32]);
        let data = [1; 4096];
        let a = Chunk::new(&SECRET, &data).seal(&mut Compressor::new());
        let b = Chunk::new(&other, &data).seal(&mut Compressor::new());
        assert_ne!(a.id(), b.id());
    }
}
