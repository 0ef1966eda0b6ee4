//! A disk of a recovery point, read straight from the vault.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use relevo_wire::index::{ChunkRef, Extent, Node, SPAN, depth, slot};

use super::store::{ChunkStore, Reason, leaf_extents};
use crate::block::{BlockError, BlockRead, check_range};

/// Most bytes that one look into the vault covers: bounds what a large request holds.
const STEP: u64 = 4 << 20;
const FIRST_AHEAD: u64 = 512 << 10;
const MOST_AHEAD: u64 = 8 << 20;
/// Streams of sequential reads that are recognised at once.
const STREAMS: usize = 16;

/// One disk. May be read from several threads at once, none of them a worker of a runtime.
pub struct PointDisk {
    inner: Arc<Inner>,
    streams: Mutex<VecDeque<Stream>>,
}

struct Inner {
    store: Arc<ChunkStore>,
    root: Option<ChunkRef>,
    size: u64,
}

/// Reads that follow one another.
struct Stream {
    next: u64,
    /// First byte not yet asked for ahead.
    ahead: u64,
    window: u64,
}

/// Bytes of a chunk and where they go.
struct Piece {
    at: usize,
    data: Arc<[u8]>,
    from: usize,
    length: usize,
}

impl PointDisk {
    /// The disk of `size` bytes under `root`; all zeros without one.
    pub fn new(store: Arc<ChunkStore>, root: Option<ChunkRef>, size: u64) -> Self {
        Self {
            inner: Arc::new(Inner { store, root, size }),
            streams: Mutex::new(VecDeque::new()),
        }
    }

    /// The leaf of span number `span`; none when it is all zeros.
    pub async fn leaf(&self, span: u64) -> Result<Option<Arc<Node>>, Reason> {
        self.inner.leaf(span).await
    }

    /// A handle for tasks that outlive the borrow of this disk.
    pub(crate) fn spans(&self) -> Spans {
        Spans(self.inner.clone())
    }

    fn read_step(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let unavailable = |reason: String| BlockError::Unavailable { offset, reason };
        let (inner, length) = (self.inner.clone(), buf.len() as u64);
        let pieces = self
            .inner
            .store
            .source()
            .wait_for(async move { inner.pieces(offset, length).await })
            .map_err(|e| unavailable(e.cause))?
            .map_err(|e| unavailable(e.to_string()))?;
        buf.fill(0);
        for piece in pieces {
            buf[piece.at..piece.at + piece.length]
                .copy_from_slice(&piece.data[piece.from..piece.from + piece.length]);
        }
        Ok(())
    }

    /// Fetches what a sequential reader will want next.
    fn read_ahead(&self, offset: u64, length: u64) {
        let Some((from, to)) = self.plan_ahead(offset, length) else {
            return;
        };
        let inner = self.inner.clone();
        self.inner.store.source().handle().spawn(async move {
            let mut at = from;
            while at < to {
                let step = (to - at).min(STEP);
                // Whoever reads these bytes meets the error again and reports it.
                if inner.pieces(at, step).await.is_err() {
                    break;
                }
                at += step;
            }
        });
    }

    fn plan_ahead(&self, offset: u64, length: u64) -> Option<(u64, u64)> {
        let end = offset + length;
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let known = streams
            .iter()
            .position(|s| offset <= s.next && s.next <= offset.saturating_add(length));
        let Some(at) = known else {
            streams.push_front(Stream {
                next: end,
                ahead: end,
                window: FIRST_AHEAD,
            });
            streams.truncate(STREAMS);
            return None;
        };
        let mut stream = streams.remove(at)?;
        stream.next = end;
        stream.ahead = stream.ahead.max(end);
        let wanted = end.saturating_add(stream.window).min(self.inner.size);
        // Half of what was last asked for may be used up before more is: fewer, larger requests.
        let plan = (wanted > stream.ahead && stream.ahead - end <= stream.window / 4)
            .then_some((stream.ahead, wanted));
        if plan.is_some() {
            stream.ahead = wanted;
            stream.window = (stream.window * 2).min(MOST_AHEAD);
        }
        streams.push_front(stream);
        plan
    }
}

impl BlockRead for PointDisk {
    fn size(&self) -> u64 {
        self.inner.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(offset, buf.len() as u64, self.inner.size)?;
        if buf.is_empty() || self.inner.root.is_none() {
            buf.fill(0);
            return Ok(());
        }
        self.read_ahead(offset, buf.len() as u64);
        let mut at = offset;
        for part in buf.chunks_mut(STEP as usize) {
            self.read_step(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// The spans of a disk, for tasks.
#[derive(Clone)]
pub(crate) struct Spans(Arc<Inner>);

impl Spans {
    pub(crate) fn store(&self) -> &Arc<ChunkStore> {
        &self.0.store
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.size.div_ceil(SPAN)
    }

    pub(crate) fn length(&self, span: u64) -> u64 {
        SPAN.min(self.0.size.saturating_sub(span.saturating_mul(SPAN)))
    }

    /// The extents of a span; one run of zeros when it has no leaf.
    pub(crate) async fn extents(&self, span: u64) -> Result<Vec<Extent>, Reason> {
        let length = self.length(span);
        match self.0.leaf(span).await? {
            Some(leaf) => Ok(leaf_extents(&leaf, length)?.to_vec()),
            None => Ok(vec![Extent::Zero {
                length: length as u32,
            }]),
        }
    }
}

impl Inner {
    async fn leaf(&self, span: u64) -> Result<Option<Arc<Node>>, Reason> {
        let mut at = self.root;
        for level in (1..=depth(self.size)).rev() {
            let Some(reference) = at else { return Ok(None) };
            let node = self.store.node(reference).await?;
            at = match &*node {
                Node::Inner {
                    level: found,
                    children,
                } if *found == level => children.get(slot(level, span)).copied().flatten(),
                _ => {
                    return Err(format!(
                        "the index has no inner node of level {level} where one belongs"
                    )
                    .into());
                }
            };
        }
        match at {
            Some(reference) => self.store.node(reference).await.map(Some),
            None => Ok(None),
        }
    }

    async fn pieces(&self, offset: u64, length: u64) -> Result<Vec<Piece>, Reason> {
        let end = offset + length;
        let (mut wanted, mut places) = (Vec::new(), Vec::new());
        let mut at = offset;
        while at < end {
            let span = at / SPAN;
            let start = span * SPAN;
            let expected = SPAN.min(self.size - start);
            if let Some(leaf) = self.leaf(span).await? {
                let mut extent_at = start;
                for extent in leaf_extents(&leaf, expected)? {
                    let extent_end = extent_at + u64::from(extent.length());
                    let (from, to) = (extent_at.max(offset), extent_end.min(end));
                    if let Extent::Data { length, chunk } = extent
                        && from < to
                    {
                        wanted.push((*chunk, *length as usize));
                        places.push((
                            (from - offset) as usize,
                            (from - extent_at) as usize,
                            (to - from) as usize,
                        ));
                    }
                    extent_at = extent_end;
                }
            }
            at = start + SPAN;
        }
        let chunks = self.store.chunks(&wanted).await?;
        Ok(chunks
            .into_iter()
            .zip(places)
            .map(|(data, (at, from, length))| Piece {
                at,
                data,
                from,
                length,
            })
            .collect())
    }
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
