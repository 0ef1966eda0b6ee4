//! Opened nodes and chunks of a source, by reference: fetched when missing, checked, opened
//! and kept for a while.

use std::sync::Arc;

use relevo_wire::ChunkId;
use relevo_wire::chunk::CheckedChunk;
use relevo_wire::client::ClientError;
use relevo_wire::index::{ChunkRef, Extent, Node, SPAN};

use super::flights::{Claim, Flight, Flights, wait};
use super::source::Source;

/// Why a chunk cannot be had, in words.
pub type Reason = Arc<str>;
type Data = Arc<[u8]>;
type DataFlight = Flight<ChunkId, Data, Reason>;

/// Memory for plaintext when nothing else is asked for.
pub const DEFAULT_CACHE: usize = 256 << 20;
/// Memory for index nodes: the leaves of 16 GiB of disk.
const NODE_CACHE: usize = 32 << 20;

/// The store. Disks of one recovery point share it.
pub struct ChunkStore {
    source: Arc<Source>,
    nodes: Arc<Flights<ChunkId, Arc<Node>, Reason>>,
    data: Arc<Flights<ChunkId, Data, Reason>>,
}

impl ChunkStore {
    /// Keeps up to `cache` bytes of plaintext.
    pub fn new(source: Arc<Source>, cache: usize) -> Arc<Self> {
        Arc::new(Self {
            source,
            nodes: Flights::new(NODE_CACHE),
            data: Flights::new(cache),
        })
    }

    /// What it fetches from.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// An opened index node.
    pub async fn node(self: &Arc<Self>, reference: ChunkRef) -> Result<Arc<Node>, Reason> {
        let waiting = match self.nodes.claim(&reference.id) {
            Claim::Ready(node) => return Ok(node),
            Claim::Wait(waiting) => waiting,
            Claim::Fetch(flight) => {
                let waiting = flight.subscribe();
                let store = self.clone();
                // A task of its own: one who stops waiting does not stop it for others.
                tokio::spawn(async move {
                    let mut flight = Some(flight);
                    store
                        .source
                        .fetch(&[reference.id], |_, chunk| {
                            let node = chunk.map_err(reason).and_then(|chunk| {
                                Node::open(&chunk, &reference.key).map_err(|e| e.to_string().into())
                            });
                            if let Some(flight) = flight.take() {
                                flight.land(node.map(Arc::new), 8192);
                            }
                        })
                        .await;
                });
                waiting
            }
        };
        wait(waiting).await.unwrap_or_else(abandoned)
    }

    /// Data chunks with their plaintext lengths, in order. What is missing comes in one Get.
    pub async fn chunks(
        self: &Arc<Self>,
        wanted: &[(ChunkRef, usize)],
    ) -> Result<Vec<Data>, Reason> {
        let mut places = Vec::with_capacity(wanted.len());
        let mut missing = Vec::new();
        for (reference, length) in wanted {
            places.push(match self.data.claim(&reference.id) {
                Claim::Ready(data) => Ok(data),
                Claim::Wait(waiting) => Err(waiting),
                Claim::Fetch(flight) => {
                    let waiting = flight.subscribe();
                    missing.push((flight, *reference, *length));
                    Err(waiting)
                }
            });
        }
        self.bring(missing);
        let mut chunks = Vec::with_capacity(places.len());
        for (place, (_, length)) in places.into_iter().zip(wanted) {
            let data = match place {
                Ok(data) => data,
                Err(waiting) => wait(waiting).await.unwrap_or_else(abandoned)?,
            };
            // Another place in the index may have brought it, and the two may disagree.
            if data.len() != *length {
                let found = data.len();
                return Err(
                    format!("the index describes a chunk of {found} bytes as {length}").into(),
                );
            }
            chunks.push(data);
        }
        Ok(chunks)
    }

    #[cfg(test)]
    pub(super) fn keep_node(&self, id: ChunkId, node: Node) {
        if let Claim::Fetch(flight) = self.nodes.claim(&id) {
            flight.land(Ok(Arc::new(node)), 1);
        }
    }

    #[cfg(test)]
    pub(super) fn keep_data(&self, id: ChunkId, data: &[u8]) {
        if let Claim::Fetch(flight) = self.data.claim(&id) {
            flight.land(Ok(data.into()), data.len());
        }
    }

    fn bring(self: &Arc<Self>, missing: Vec<(DataFlight, ChunkRef, usize)>) {
        if missing.is_empty() {
            return;
        }
        let store = self.clone();
        tokio::spawn(async move {
            let ids: Vec<ChunkId> = missing
                .iter()
                .map(|(_, reference, _)| reference.id)
                .collect();
            let mut flights: Vec<_> = missing.into_iter().map(Some).collect();
            store
                .source
                .fetch(&ids, |at, chunk| {
                    if let Some((flight, reference, length)) = flights[at].take() {
                        flight.land(open(chunk, &reference, length).map(Data::from), length);
                    }
                })
                .await;
        });
    }
}

/// Opens a data chunk as it arrived.
pub fn open(
    chunk: Result<CheckedChunk, ClientError>,
    reference: &ChunkRef,
    length: usize,
) -> Result<Vec<u8>, Reason> {
    chunk
        .map_err(reason)?
        .open(&reference.key, length)
        .map_err(|e| e.to_string().into())
}

/// The extents of a leaf, once it is known to cover `expected` bytes exactly.
pub fn leaf_extents(node: &Node, expected: u64) -> Result<&[Extent], Reason> {
    match node {
        Node::Leaf(extents) => {
            let total: u64 = extents.iter().map(|e| u64::from(e.length())).sum();
            if total == expected && expected <= SPAN {
                Ok(extents)
            } else {
                Err(format!("the index describes {total} of the span's {expected} bytes").into())
            }
        }
        Node::Inner { .. } => Err("the index has an inner node where a leaf belongs".into()),
    }
}

fn reason(error: ClientError) -> Reason {
    error.to_string().into()
}

fn abandoned<T>() -> Result<T, Reason> {
    Err("fetching it was given up".into())
}
