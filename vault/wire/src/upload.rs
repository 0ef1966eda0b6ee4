//! The agent's side of an upload, without input or output of its own.
//!
//! Chunks are offered in any order. The machine asks the vault in batches which it lacks, sends
//! only those in batches, several of each under way at once, and tells which chunks are durable.
//! When the connection is lost, everything unacknowledged is asked for again on the next one;
//! what was acknowledged never crosses the network again. A simulated network can drive it as
//! well as a real one:
//!
//! ```text
//! offer ─► to_ask ─► Ask ─ Known ─┬─► durable                (the vault had it)
//! inquire ──┘                     ├─► to_put ─► Put ─ Stored ─► durable
//!                                 └─► declined               (it had not what was inquired for)
//! ```

use std::collections::{HashMap, HashSet, VecDeque};

use crate::chunk::SealedChunk;
use crate::client::Line;
use crate::id::ChunkId;
use crate::message::{MAX_IDS, MAX_PUT};

/// How much is under way at once.
#[derive(Clone, Copy, Debug)]
pub struct UploadLimits {
    /// Sealed bytes held in memory, offered and not yet durable.
    pub held_bytes: usize,
    /// Ids in a question.
    pub ask_ids: usize,
    /// Sealed bytes in one put.
    pub put_bytes: usize,
    /// Puts under way, and besides them as many questions.
    pub in_flight: usize,
}

impl Default for UploadLimits {
    /// 48 MiB held, questions of 512, puts of 2 MiB, 12 of each under way: a line of 1 Gbit/s
    /// and 150 ms (19 MB in flight) stays full.
    fn default() -> Self {
        Self {
            held_bytes: 48 << 20,
            ask_ids: 512,
            put_bytes: 2 << 20,
            in_flight: 12,
        }
    }
}

impl UploadLimits {
    /// Least that is held: some puts of a fast line that hardly fills.
    const LEAST_HELD: usize = 8 << 20;
    const LEAST_PUT: usize = 512 << 10;
    /// A local line is faster than any vault's disk, and seems faster still in bursts.
    const MOST_SYNCED: usize = 8 << 20;

    /// What keeps `line` full, and no more than these limits.
    ///
    /// A chunk is held for two round trips, one for the question and one for the put, while the
    /// put crosses the line and the vault syncs it. The third round trip lets a line that is found
    /// faster from one to the next grow.
    pub fn on(self, line: Line) -> Self {
        let rate = usize::try_from(line.bandwidth).unwrap_or(usize::MAX);
        let product = usize::try_from(line.product()).unwrap_or(usize::MAX);
        // 50 ms of the line: enough for a vault's sync, and for few puts a second.
        let while_synced = (rate / 20).min(Self::MOST_SYNCED);
        let put_bytes = while_synced.max(Self::LEAST_PUT).min(self.put_bytes);
        let held = product
            .saturating_mul(3)
            .saturating_add(while_synced)
            .saturating_add(put_bytes * 2);
        Self {
            held_bytes: held.max(Self::LEAST_HELD).min(self.held_bytes),
            put_bytes,
            ..self
        }
    }
}

/// Names one question or put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(u64);

/// What to send, each on a stream of its own.
#[derive(Clone, Debug)]
pub enum Transmit {
    /// Ask which of these the vault has.
    Ask(BatchId, Vec<ChunkId>),
    /// Store these.
    Put(BatchId, Vec<SealedChunk>),
}

/// A chunk that is on the vault's stable storage.
#[derive(Clone, Debug)]
pub struct Durable {
    /// The chunk.
    pub chunk: SealedChunk,
    /// Whether this upload sent it, rather than find it there.
    pub sent: bool,
}

/// An answer that fits no question: the vault breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the vault answered batch {batch:?} wrongly: {reason}")]
pub struct UploadError {
    batch: BatchId,
    reason: &'static str,
}

enum InFlight {
    Ask(Vec<SealedChunk>),
    Put(Vec<SealedChunk>),
}

/// The state of one upload.
pub struct Upload {
    limits: UploadLimits,
    next_batch: u64,
    to_ask: VecDeque<SealedChunk>,
    to_put: VecDeque<SealedChunk>,
    in_flight: HashMap<BatchId, InFlight>,
    /// Every chunk offered and not yet durable.
    pending: HashSet<ChunkId>,
    /// Those of them that are only to be asked for.
    inquired: HashSet<ChunkId>,
    declined: VecDeque<SealedChunk>,
    held: usize,
    flushing: bool,
    durable: VecDeque<Durable>,
}

impl Upload {
    /// A new upload.
    pub fn new(limits: UploadLimits) -> Self {
        Self {
            limits,
            next_batch: 0,
            to_ask: VecDeque::new(),
            to_put: VecDeque::new(),
            in_flight: HashMap::new(),
            pending: HashSet::new(),
            inquired: HashSet::new(),
            declined: VecDeque::new(),
            held: 0,
            flushing: false,
            durable: VecDeque::new(),
        }
    }

    /// Other limits from now on. What is held beyond them goes as it becomes durable.
    pub fn set_limits(&mut self, limits: UploadLimits) {
        self.limits = limits;
    }

    /// True while another chunk may be offered without exceeding the memory allowed.
    pub fn has_room(&self) -> bool {
        self.held < self.limits.held_bytes
    }

    /// Adds a chunk that is not to be sent: it becomes durable when the vault has it, else it is
    /// [declined](Self::poll_declined). For who would send another encoding of it.
    pub fn inquire(&mut self, chunk: SealedChunk) {
        if !self.pending.contains(&chunk.id()) {
            self.inquired.insert(chunk.id());
            self.offer_first(chunk);
        }
    }

    /// Adds a chunk; one that is already on its way is not sent twice.
    pub fn offer(&mut self, chunk: SealedChunk) {
        // Whoever inquired for it is told that it is durable.
        self.inquired.remove(&chunk.id());
        self.offer_first(chunk);
    }

    fn offer_first(&mut self, chunk: SealedChunk) {
        if self.pending.insert(chunk.id()) {
            self.held += chunk.bytes().len();
            self.to_ask.push_back(chunk);
        }
    }

    /// Sends what there is without waiting for full batches. Until the next offer that fills one.
    pub fn flush(&mut self) {
        self.flushing = true;
    }

    /// Goes back to full batches.
    pub fn resume_batching(&mut self) {
        self.flushing = false;
    }

    /// True when all that was offered is durable.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// What to send next, if anything.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        // With no more room no further offer can fill a batch: waiting would be for ever.
        // Who inquires waits for the answer before anything else comes.
        let rushed = self.flushing || !self.has_room() || !self.inquired.is_empty();
        // Counted apart: else small questions would take the places of large puts, and a long
        // line run dry; or puts those of the questions that find what comes after them.
        let asks = self.asks();
        let puts = self.in_flight.len() - asks;
        if puts < self.limits.in_flight
            && let Some(batch) = self.put_batch(rushed)
        {
            let id = self.track(InFlight::Put(batch.clone()));
            return Some(Transmit::Put(id, batch));
        }
        let full = self.limits.ask_ids.clamp(1, MAX_IDS);
        // While nothing is under way, waiting for a full question only wastes the line.
        let rushed = rushed || self.in_flight.is_empty();
        if asks < self.limits.in_flight
            && (self.to_ask.len() >= full || (rushed && !self.to_ask.is_empty()))
        {
            let batch: Vec<_> = self.to_ask.drain(..full.min(self.to_ask.len())).collect();
            let ids = batch.iter().map(SealedChunk::id).collect();
            return Some(Transmit::Ask(self.track(InFlight::Ask(batch)), ids));
        }
        None
    }

    fn put_batch(&mut self, rushed: bool) -> Option<Vec<SealedChunk>> {
        let (mut bytes, mut count) = (0, 0);
        for chunk in self.to_put.iter().take(MAX_PUT) {
            bytes += chunk.bytes().len();
            count += 1;
            if bytes >= self.limits.put_bytes {
                break;
            }
        }
        let full = bytes >= self.limits.put_bytes || count == MAX_PUT;
        // Chunks still to be asked for or answered may yet fill the batch.
        let asking = !self.to_ask.is_empty() || self.asks() > 0;
        (count > 0 && (full || (rushed && !asking))).then(|| self.to_put.drain(..count).collect())
    }

    fn asks(&self) -> usize {
        let ask = |batch: &&InFlight| matches!(batch, InFlight::Ask(_));
        self.in_flight.values().filter(ask).count()
    }

    fn track(&mut self, batch: InFlight) -> BatchId {
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        self.in_flight.insert(id, batch);
        id
    }

    /// Takes the answer to an ask: bit *i* set when the vault has id *i*.
    pub fn handle_known(&mut self, batch: BatchId, bits: &[u8]) -> Result<(), UploadError> {
        let wrong = |reason| Err(UploadError { batch, reason });
        match self.in_flight.remove(&batch) {
            Some(InFlight::Ask(chunks)) if bits.len() == chunks.len().div_ceil(8) => {
                for (i, chunk) in chunks.into_iter().enumerate() {
                    if bits[i / 8] >> (i % 8) & 1 == 1 {
                        self.settle(chunk, false);
                    } else if self.inquired.remove(&chunk.id()) {
                        self.pending.remove(&chunk.id());
                        self.held = self.held.saturating_sub(chunk.bytes().len());
                        self.declined.push_back(chunk);
                    } else {
                        self.to_put.push_back(chunk);
                    }
                }
                Ok(())
            }
            Some(InFlight::Ask(_)) => wrong("not one bit for each id"),
            _ => wrong("it was no question"),
        }
    }

    /// Takes the acknowledgement of a put.
    pub fn handle_stored(&mut self, batch: BatchId) -> Result<(), UploadError> {
        match self.in_flight.remove(&batch) {
            Some(InFlight::Put(chunks)) => {
                for chunk in chunks {
                    self.settle(chunk, true);
                }
                Ok(())
            }
            _ => Err(UploadError {
                batch,
                reason: "it was no put",
            }),
        }
    }

    fn settle(&mut self, chunk: SealedChunk, sent: bool) {
        self.pending.remove(&chunk.id());
        self.inquired.remove(&chunk.id());
        self.held = self.held.saturating_sub(chunk.bytes().len());
        self.durable.push_back(Durable { chunk, sent });
    }

    /// The next chunk that became durable.
    pub fn poll_durable(&mut self) -> Option<Durable> {
        self.durable.pop_front()
    }

    /// The next chunk that was inquired for and that the vault has not.
    pub fn poll_declined(&mut self) -> Option<SealedChunk> {
        self.declined.pop_front()
    }

    /// The connection is gone: what is unacknowledged will be asked for again, since the vault
    /// may have stored it without being able to say so.
    pub fn connection_lost(&mut self) {
        let mut lost: Vec<_> = self.in_flight.drain().collect();
        lost.sort_by_key(|(id, _)| *id);
        for (_, batch) in lost {
            let (InFlight::Ask(chunks) | InFlight::Put(chunks)) = batch;
            self.to_ask.extend(chunks);
        }
        self.to_ask.extend(self.to_put.drain(..));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chunk::{Chunk, Compressor};
    use crate::key::TenantSecret;
    use proptest::prelude::*;

    /// A vault and a line in a few lines: answers in random order, loses the connection at
    /// random, with what was under way stored or not.
    struct Line {
        stored: HashMap<ChunkId, usize>,
        under_way: Vec<Transmit>,
    }

    fn chunk(n: u16) -> SealedChunk {
        let data = n.to_le_bytes().repeat(300);
        Chunk::new(&TenantSecret::from_bytes([1; 32]), &data).seal(&mut Compressor::new())
    }

    proptest! {
        /// Guards: everything offered becomes durable exactly once, nothing acknowledged is sent
        /// again, whatever the order of answers and however often the connection breaks; what was
        /// only inquired for is never sent, and is declined when the vault has it not.
        #[test]
        fn all_becomes_durable_over_a_bad_line(
            offers in proptest::collection::vec(0u16..80, 1..120),
            fate in proptest::collection::vec((any::<usize>(), 0u8..10), 400),
            known in proptest::collection::hash_set(0u16..80, 0..30),
            inquired in proptest::collection::hash_set(80u16..110, 0..30),
            inquired_known in proptest::collection::hash_set(80u16..110, 0..30),
        ) {
            let limits = UploadLimits { held_bytes: 1500, ask_ids: 7, put_bytes: 400, in_flight: 3 };
            let mut upload = Upload::new(limits);
            let mut line = Line { stored: HashMap::new(), under_way: vec![] };
            for n in known { line.stored.insert(chunk(n).id(), 0); }
            for &n in &inquired_known { line.stored.insert(chunk(n).id(), 0); }
            let found = inquired.intersection(&inquired_known);
            let wanted: HashSet<_> = offers.iter().chain(found).map(|&n| chunk(n).id()).collect();
            let unfound: HashSet<_> = inquired.difference(&inquired_known).map(|&n| chunk(n).id()).collect();
            let mut offers: VecDeque<_> = offers.into();
            // Among the offers, in no order of theirs.
            for n in inquired { offers.insert(usize::from(n) * 7 % (offers.len() + 1), n); }
            let (mut durable, mut declined) = (HashSet::new(), HashSet::new());
            let mut fate = fate.into_iter().chain(std::iter::repeat((0, 5)));
            for _ in 0..5000 {
                while upload.has_room() && let Some(n) = offers.pop_front() {
                    if n >= 80 { upload.inquire(chunk(n)); }
                    else if !durable.contains(&chunk(n).id()) { upload.offer(chunk(n)); }
                }
                if offers.is_empty() { upload.flush(); }
                while let Some(t) = upload.poll_transmit() { line.under_way.push(t); }
                if line.under_way.is_empty() { break; }
                let (which, what) = fate.next().unwrap();
                if what == 0 {
                    // The line breaks; half of what was under way had arrived.
                    for (i, t) in line.under_way.drain(..).enumerate() {
                        if let (Transmit::Put(_, chunks), 0) = (t, i % 2) {
                            for c in chunks { line.stored.entry(c.id()).or_insert(0); }
                        }
                    }
                    upload.connection_lost();
                    continue;
                }
                match line.under_way.swap_remove(which % line.under_way.len()) {
                    Transmit::Ask(batch, ids) => {
                        let mut bits = vec![0u8; ids.len().div_ceil(8)];
                        for (i, id) in ids.iter().enumerate() {
                            if line.stored.contains_key(id) { bits[i / 8] |= 1 << (i % 8); }
                        }
                        upload.handle_known(batch, &bits).unwrap();
                    }
                    Transmit::Put(batch, chunks) => {
                        for c in chunks {
                            prop_assert!(!durable.contains(&c.id()), "an acknowledged chunk was sent again");
                            prop_assert!(!unfound.contains(&c.id()), "one inquired for was sent");
                            line.stored.entry(c.id()).or_insert(0);
                        }
                        upload.handle_stored(batch).unwrap();
                    }
                }
                while let Some(c) = upload.poll_declined() { declined.insert(c.id()); }
                while let Some(d) = upload.poll_durable() {
                    prop_assert!(line.stored.contains_key(&d.chunk.id()));
                    durable.insert(d.chunk.id());
                }
            }
            prop_assert!(upload.is_idle());
            prop_assert_eq!(durable, wanted);
            prop_assert_eq!(declined, unfound);
        }
    }

    #[test]
    fn answers_to_nothing_are_refused() {
        let mut upload = Upload::new(UploadLimits::default());
        upload.offer(chunk(1));
        upload.flush();
        let Some(Transmit::Ask(batch, _)) = upload.poll_transmit() else {
            panic!("no question")
        };
        assert!(upload.handle_stored(batch).is_err());
    }
}
