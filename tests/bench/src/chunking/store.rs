//! What a vault would keep of chunks.

use std::collections::HashMap;
use std::time::Duration;

use super::scheme::Scheme;

/// Bytes of a sealed chunk besides what it holds: header, nonce, tag.
const SEAL: u64 = 30;
/// Bytes of a leaf of the index, and for each chunk in it: id, key, length.
const LEAF: u64 = 34;
const ENTRY: u64 = 68;

/// What an image added and was.
#[derive(Clone, Copy, Default)]
pub struct Added {
    /// Bytes in chunks, each seen once or more; zeros are in none.
    pub bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Sealed bytes of chunks that the vault had not.
    pub stored: u64,
    /// Bytes of leaves of the index that the vault had not.
    pub index: u64,
    /// Processor time of cutting, of hashing, of compressing.
    pub cutting: Duration,
    /// As above.
    pub hashing: Duration,
    /// As above.
    pub compressing: Duration,
    /// Sum over all bytes of the sealed length of the chunk that each is in.
    weighed: u128,
}

impl Added {
    /// All that the vault keeps because of it.
    pub fn total(&self) -> u64 {
        self.stored + self.index
    }

    /// Mean sealed bytes that must be fetched for one byte.
    pub fn fetched(&self) -> f64 {
        self.weighed as f64 / self.bytes.max(1) as f64
    }
}

/// Chunks and leaves that the vault has.
pub struct Store {
    scheme: Scheme,
    compressor: zstd::bulk::Compressor<'static>,
    chunks: HashMap<[u8; 32], u32>,
    leaves: std::collections::HashSet<[u8; 32]>,
}

impl Store {
    /// An empty one for chunks cut by `scheme`, compressed with a level of zstd.
    pub fn new(scheme: Scheme, level: i32) -> Self {
        let compressor = zstd::bulk::Compressor::new(level);
        Self {
            scheme,
            compressor: compressor.unwrap_or_else(|e| panic!("zstd: {e}")),
            chunks: HashMap::new(),
            leaves: std::collections::HashSet::new(),
        }
    }

    /// Bytes that are cut by themselves.
    pub fn span(&self) -> usize {
        self.scheme.span()
    }

    /// Adds a span's chunks to what `added` says.
    pub fn add(&mut self, span: &[u8], added: &mut Added) {
        let (cuts, cutting) = timed(|| self.scheme.cut(span));
        added.cutting += cutting;
        let mut leaf = blake3::Hasher::new();
        let mut entries = 0;
        for chunk in cuts {
            let bytes = &span[chunk];
            if bytes.iter().all(|&byte| byte == 0) {
                leaf.update(b"zeros").update(&bytes.len().to_le_bytes());
                continue;
            }
            let (hash, hashing) = timed(|| *blake3::hash(bytes).as_bytes());
            added.hashing += hashing;
            leaf.update(&hash);
            entries += 1;
            let known = self.chunks.get(&hash).copied();
            let sealed = known.unwrap_or_else(|| {
                let (compressed, compressing) = timed(|| self.compressor.compress(bytes));
                added.compressing += compressing;
                let compressed = compressed.unwrap_or_else(|e| panic!("zstd: {e}"));
                let sealed = compressed.len().min(bytes.len()) as u64 + SEAL;
                added.stored += sealed;
                self.chunks.insert(hash, sealed as u32);
                sealed as u32
            });
            added.chunks += 1;
            added.bytes += bytes.len() as u64;
            added.weighed += bytes.len() as u128 * u128::from(sealed);
        }
        if entries > 0 && self.leaves.insert(*leaf.finalize().as_bytes()) {
            added.index += LEAF + ENTRY * entries;
        }
    }
}

/// Runs something and says what processor time of this thread it took: others use the machine.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let before = thread_time();
    let done = work();
    (done, thread_time() - before)
}

fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes to a local that lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
