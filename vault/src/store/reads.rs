//! Reads chunks, beside a collection that moves them.
//!
//! Between the look-up of a chunk and its reading its pack may have been rewritten and taken
//! away. What was not found there is looked up again: it is in another pack, or was removed.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use relevo_wire::chunk::CheckedChunk;
use relevo_wire::{ChunkId, TenantId};

use super::Store;
use crate::catalogue::Located;
use crate::error::StoreError;
use crate::pack::ENTRY_HEADER;
use crate::volume::{PackId, Volume, read_exact};

/// Longest single read of packs.
const READ_BYTES: u64 = 1024 * 1024;
/// Bytes between two chunks that it is cheaper to read than to skip.
const READ_GAP: u64 = 64 * 1024;
/// How often a chunk that moves is followed.
const MOVES: usize = 5;

impl<V: Volume> Store<V> {
    /// A chunk's bytes, checked. An error when it is there no more.
    pub fn read_chunk(
        &self,
        tenant: TenantId,
        id: ChunkId,
        at: Located,
    ) -> Result<CheckedChunk, StoreError> {
        self.find_chunk(tenant, id, at)?
            .ok_or_else(|| StoreError::Storage(format!("chunk {id} was removed meanwhile")))
    }

    /// A chunk's bytes, checked; nothing when it was removed since it was looked up.
    pub fn find_chunk(
        &self,
        tenant: TenantId,
        id: ChunkId,
        at: Located,
    ) -> Result<Option<CheckedChunk>, StoreError> {
        self.follow(tenant, id, at, |at| {
            read_chunk(&*self.volume, tenant, id, at)
        })
    }

    /// Reads at the chunk's place, and where it is by then when that fails.
    fn follow<T>(
        &self,
        tenant: TenantId,
        id: ChunkId,
        mut at: Located,
        read: impl Fn(Located) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        for _ in 0..MOVES {
            let error = match read(at) {
                Ok(value) => return Ok(Some(value)),
                Err(error) => error,
            };
            let now = self.read(|c| c.locate(tenant, &[id]))?;
            match now.into_iter().next().flatten() {
                None => return Ok(None),
                Some(now) if (now.pack, now.offset) == (at.pack, at.offset) => return Err(error),
                Some(now) => at = now,
            }
        }
        read(at).map(Some)
    }

    /// Reads what [`plan_reads`] put together: chunks in the order asked, nothing where one
    /// cannot be read. Their bytes are for the reader to check.
    pub fn read_run(&self, tenant: TenantId, run: &ReadRun) -> Vec<Option<Bytes>> {
        self.client_reads.fetch_add(1, Ordering::Relaxed);
        let pack = PackId {
            tenant,
            number: run.pack,
        };
        let length = (run.end - run.start) as usize;
        if let Ok(bytes) = read_exact(&*self.volume, pack, run.start, length) {
            let chunk = |(_, at): &(ChunkId, Located)| {
                let from = (body_of(at) - run.start) as usize;
                Some(bytes.slice(from..from + at.length as usize))
            };
            return run.chunks.iter().map(chunk).collect();
        }
        // One bad sector must not take its neighbours along; and the pack may be gone.
        let chunk = |&(id, at): &(ChunkId, Located)| {
            let read = |at: Located| {
                let number = at.pack;
                let pack = PackId { tenant, number };
                read_exact(&*self.volume, pack, body_of(&at), at.length as usize)
                    .map_err(|e| StoreError::io(format_args!("read pack {pack}"), &e))
            };
            self.follow(tenant, id, at, read)
                .inspect_err(|error| tracing::error!(%pack, %id, %error, "a read failed"))
                .ok()
                .flatten()
        };
        run.chunks.iter().map(chunk).collect()
    }
}

fn body_of(at: &Located) -> u64 {
    at.offset + ENTRY_HEADER as u64
}

/// A chunk's bytes from its pack, checked.
pub fn read_chunk<V: Volume + ?Sized>(
    volume: &V,
    tenant: TenantId,
    id: ChunkId,
    at: Located,
) -> Result<CheckedChunk, StoreError> {
    let number = at.pack;
    let pack = PackId { tenant, number };
    let bytes = read_exact(volume, pack, body_of(&at), at.length as usize)
        .map_err(|e| StoreError::io(format_args!("read pack {pack}"), &e))?;
    CheckedChunk::check(id, bytes)
        .map_err(|e| StoreError::Storage(format!("pack {pack} at {}: {e}", at.offset)))
}

/// Chunks that one read of a pack gives, in the order asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRun {
    pack: u32,
    start: u64,
    end: u64,
    chunks: Vec<(ChunkId, Located)>,
}

/// A step of answering a request for chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadStep {
    /// The next chunks.
    Run(ReadRun),
    /// The next chunk is not there.
    Missing,
}

impl ReadStep {
    /// How many chunks this answers.
    pub fn chunks(&self) -> usize {
        match self {
            Self::Run(run) => run.chunks.len(),
            Self::Missing => 1,
        }
    }
}

/// Puts neighbours in a pack together, so that a disk read in order costs few reads here.
/// `found`: where each of `ids` is.
pub fn plan_reads(ids: &[ChunkId], found: &[Option<Located>]) -> Vec<ReadStep> {
    let mut steps: Vec<ReadStep> = Vec::new();
    for (&id, located) in ids.iter().zip(found) {
        let Some(at) = *located else {
            steps.push(ReadStep::Missing);
            continue;
        };
        let start = body_of(&at);
        let end = start + u64::from(at.length);
        if let Some(ReadStep::Run(run)) = steps.last_mut()
            && run.pack == at.pack
            && (run.end..=run.end + READ_GAP).contains(&start)
            && end - run.start <= READ_BYTES
        {
            run.end = end;
            run.chunks.push((id, at));
            continue;
        }
        steps.push(ReadStep::Run(ReadRun {
            pack: at.pack,
            start,
            end,
            chunks: vec![(id, at)],
        }));
    }
    steps
}
