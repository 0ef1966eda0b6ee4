//! Carries an upload over a vault's connection, which may break and come back.
//!
//! [`relevo_wire::upload::Upload`] decides what to send; this puts each question and put on a
//! stream of its own, several at once, and dials again with growing pauses when the connection
//! breaks for a passing reason. Every connection has a session of its own, since the vault pins
//! chunks by session.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use relevo_wire::chunk::SealedChunk;
use relevo_wire::client::{ClientError, Line, VaultConnection};
use relevo_wire::enrollment::Enrollment;
use relevo_wire::manifest::SealedManifest;
use relevo_wire::message::{Refusal, RefusalCode, Request, Response};
use relevo_wire::upload::{BatchId, Transmit, Upload, UploadError, UploadLimits};
use relevo_wire::{ChunkId, SessionId, VaultId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cache::Fact;
use crate::pace::Pace;
use crate::pipeline::Counters;
use crate::seal::dense::Inquirer;
use crate::seal::{Offer, reference};

/// Most chunks that wait for an acknowledgement, however small they are.
const MAX_PENDING: usize = 65_536;

/// What a run takes of the server's memory at most.
const MEMORY: usize = 64 << 20;
/// Of that, the program's own pages, its libraries' buffers, and what waits between workers and
/// uplink.
const FIXED: usize = 28 << 20;
/// What a worker takes: a span, a compressor, the cache's pages.
const WORKER: usize = 7 << 20;
/// Held in any case: with less even a local line runs dry.
const LEAST_HELD: usize = 8 << 20;

/// `limits`, and no more sealed bytes than the promise of 64 MiB leaves beside `workers`.
pub fn within_memory(limits: UploadLimits, workers: usize) -> UploadLimits {
    let left = MEMORY.saturating_sub(FIXED + workers * WORKER);
    UploadLimits {
        held_bytes: limits.held_bytes.min(left.max(LEAST_HELD)),
        ..limits
    }
}

/// How often it is looked at what the line carries.
const LOOK: Duration = Duration::from_millis(100);

/// Why an upload ended.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The vault could not be spoken with, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The vault answered nonsense.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// After a lost connection another vault, or an emptied one, answered.
    #[error("the vault changed during the upload: it no longer has what it acknowledged")]
    VaultChanged,
    /// A task of the upload panicked: its batch will never be answered.
    #[error("internal error: {0}")]
    Task(String),
}

/// What a commit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The recovery point stands.
    Stored(u64),
    /// The vault misses these, and perhaps more.
    Incomplete(Vec<ChunkId>),
}

/// One connection to a vault with an open session.
pub trait Link: Clone + Send + Sync + 'static {
    /// The vault and its epoch.
    fn vault(&self) -> (VaultId, u64);
    /// What the line to it was found to carry, if that is known.
    fn line(&self) -> Option<Line> {
        None
    }
    /// Which of `ids` the vault has: one bit each, lowest first.
    fn have(&self, ids: Vec<ChunkId>) -> impl Future<Output = Result<Vec<u8>, ClientError>> + Send;
    /// Stores chunks; they are on stable storage when this returns. Bytes added to the vault.
    fn put(
        &self,
        chunks: Vec<SealedChunk>,
    ) -> impl Future<Output = Result<u64, ClientError>> + Send;
    /// Makes the upload a recovery point.
    fn commit(
        &self,
        manifest: SealedManifest,
    ) -> impl Future<Output = Result<Committed, ClientError>> + Send;
}

/// Makes links.
pub trait Dial: Sync {
    /// What it makes.
    type Link: Link;
    /// Connects and opens a session.
    fn dial(&self) -> impl Future<Output = Result<Self::Link, ClientError>> + Send;
}

/// A real vault, and how fast is sent there.
pub struct VaultDial<'a>(pub &'a Enrollment, pub Pace);

/// A session with a real vault.
#[derive(Clone)]
pub struct VaultLink {
    connection: VaultConnection,
    session: SessionId,
    pace: Pace,
}

impl VaultLink {
    /// How far the vault's clock is ahead of ours, in milliseconds.
    pub fn clock_ahead(&self) -> i64 {
        self.connection.welcome().clock_ahead
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.connection.close().await;
    }
}

impl Dial for VaultDial<'_> {
    type Link = VaultLink;

    async fn dial(&self) -> Result<VaultLink, ClientError> {
        let (connection, opened) =
            VaultConnection::connect_asking(self.0, &Request::OpenSession).await?;
        match opened {
            Response::SessionOpened { session } => Ok(VaultLink {
                connection,
                session,
                pace: self.1.clone(),
            }),
            other => Err(out_of_turn(&other)),
        }
    }
}

impl Link for VaultLink {
    fn vault(&self) -> (VaultId, u64) {
        let welcome = self.connection.welcome();
        (welcome.vault, welcome.epoch)
    }

    fn line(&self) -> Option<Line> {
        self.connection.line()
    }

    async fn have(&self, ids: Vec<ChunkId>) -> Result<Vec<u8>, ClientError> {
        self.connection.have(self.session, ids).await
    }

    async fn put(&self, chunks: Vec<SealedChunk>) -> Result<u64, ClientError> {
        let bytes = chunks.iter().map(|chunk| chunk.bytes().len() as u64).sum();
        self.pace.send(bytes).await;
        self.connection.put(self.session, &chunks).await
    }

    async fn commit(&self, manifest: SealedManifest) -> Result<Committed, ClientError> {
        let session = self.session;
        match self
            .connection
            .request(&Request::Commit { session, manifest })
            .await?
        {
            Response::Committed { stored } => Ok(Committed::Stored(stored)),
            Response::Incomplete { missing } => Ok(Committed::Incomplete(missing)),
            other => Err(out_of_turn(&other)),
        }
    }
}

fn out_of_turn(response: &Response) -> ClientError {
    let text: String = format!("{response:?}").chars().take(80).collect();
    ClientError::Protocol(format!("an answer that fits no question ({text})"))
}

/// How long to go on after connections break.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// First pause; doubled each time.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
    /// Give up after so long without a connection.
    pub total: Duration,
}

impl Default for Patience {
    /// From 250 ms to 15 s, for ten minutes: a vault's reboot, or a line that a provider mends.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(15),
            total: Duration::from_secs(600),
        }
    }
}

/// Connects, again and again while that may help.
async fn connect<D: Dial>(dial: &D, patience: Patience) -> Result<D::Link, ClientError> {
    let (begun, mut pause) = (Instant::now(), patience.first);
    loop {
        match dial.dial().await {
            Err(error) if error.is_transient() && begun.elapsed() < patience.total => {
                tracing::warn!("{error}; trying again in {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(patience.longest);
            }
            other => return other,
        }
    }
}

/// The vault's side of a run.
pub struct Uplink<'a, D: Dial> {
    dial: &'a D,
    link: D::Link,
    vault: (VaultId, u64),
    patience: Patience,
    /// Bytes added to the vault in this link's session, and in those of lost ones: a commit
    /// tells only of its own session.
    added: u64,
    added_before: u64,
    /// How often in a row the vault did not know the upload any more.
    forgotten: u32,
    /// Uploads that were opened, one for each connection.
    uploads: u32,
}

/// An upload that the vault forgets each time it is opened again is no accident.
const FORGOTTEN: u32 = 3;

enum Answer {
    Known(Vec<u8>),
    Stored(u64),
}

/// What is remembered of a chunk until it is durable.
#[derive(Default)]
struct Pending {
    plaintext: u32,
    /// Wait to hear whether the vault has it.
    inquirers: Vec<Inquirer>,
    /// Crossed the network at least once; the acknowledgement may have been lost.
    put: bool,
}

impl<'a, D: Dial> Uplink<'a, D> {
    /// Over a link that `dial` made.
    pub fn new(dial: &'a D, link: D::Link, patience: Patience) -> Self {
        let vault = link.vault();
        Self {
            dial,
            link,
            vault,
            patience,
            added: 0,
            added_before: 0,
            forgotten: 0,
            uploads: 1,
        }
    }

    /// Whether another connection, and with it another upload, may do: the vault forgets an
    /// upload that lay idle, while this server slept for instance, or that takes weeks.
    fn may_go_on(&mut self, error: &ClientError) -> bool {
        let forgotten = matches!(
            error,
            ClientError::Refused(Refusal {
                code: RefusalCode::NotFound,
                ..
            })
        );
        self.forgotten += u32::from(forgotten);
        error.is_transient() || (forgotten && self.forgotten <= FORGOTTEN)
    }

    /// Brings all that is offered to the vault's stable storage, until no more offers come.
    /// Each acknowledged chunk becomes a fact.
    pub async fn upload(
        &mut self,
        mut offers: mpsc::Receiver<Offer>,
        facts: mpsc::Sender<Fact>,
        counters: &Arc<Counters>,
        limits: UploadLimits,
    ) -> Result<(), UplinkError> {
        let mut upload = Upload::new(self.limits_on_the_line(limits));
        let mut looked = Instant::now();
        let mut pending: HashMap<ChunkId, Pending> = HashMap::new();
        let mut under_way: JoinSet<(BatchId, Result<Answer, ClientError>)> = JoinSet::new();
        let mut open = true;
        loop {
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                upload.set_limits(self.limits_on_the_line(limits));
            }
            while let Some(transmit) = upload.poll_transmit() {
                self.send(transmit, &mut under_way, &mut pending);
            }
            while let Some(durable) = upload.poll_durable() {
                let chunk = durable.chunk;
                let known = pending.remove(&chunk.id()).unwrap_or_default();
                known.inquirers.into_iter().for_each(|i| i.answer(true));
                if durable.sent || known.put {
                    Counters::add(&counters.sent, chunk.bytes().len() as u64);
                    Counters::add(&counters.new, u64::from(known.plaintext));
                }
                // A cache that ended costs the next run time, not this one its image.
                let _ = facts.send(Fact::Stored(reference(&chunk))).await;
            }
            while let Some(chunk) = upload.poll_declined() {
                let known = pending.remove(&chunk.id()).unwrap_or_default();
                known.inquirers.into_iter().for_each(|i| i.answer(false));
            }
            if !open && upload.is_idle() {
                return Ok(());
            }
            let room = open && upload.has_room() && pending.len() < MAX_PENDING;
            tokio::select! {
                // Answers first: they make room, and the line carries the next batch meanwhile.
                biased;
                Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                    let (batch, result) = done.map_err(|e| UplinkError::Task(e.to_string()))?;
                    match result {
                        Ok(Answer::Known(bits)) => upload.handle_known(batch, &bits)?,
                        Ok(Answer::Stored(added)) => {
                            self.added += added;
                            self.forgotten = 0;
                            upload.handle_stored(batch)?;
                        }
                        Err(error) if self.may_go_on(&error) => {
                            tracing::warn!("{error}; connecting again");
                            under_way.shutdown().await;
                            upload.connection_lost();
                            self.reconnect().await?;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                offer = offers.recv(), if room => match offer {
                    Some(Offer { chunk, plaintext, inquirer }) => {
                        let known = pending.entry(chunk.id()).or_default();
                        match inquirer {
                            Some(inquirer) => {
                                known.inquirers.push(inquirer);
                                upload.inquire(chunk);
                            }
                            None => {
                                known.plaintext = plaintext;
                                upload.offer(chunk);
                            }
                        }
                    }
                    None => {
                        open = false;
                        upload.flush();
                    }
                },
            }
        }
    }

    /// As much under way as the line needs, within what memory allows.
    fn limits_on_the_line(&self, most: UploadLimits) -> UploadLimits {
        self.link.line().map_or(most, |line| most.on(line))
    }

    fn send(
        &self,
        transmit: Transmit,
        under_way: &mut JoinSet<(BatchId, Result<Answer, ClientError>)>,
        pending: &mut HashMap<ChunkId, Pending>,
    ) {
        let link = self.link.clone();
        match transmit {
            Transmit::Ask(batch, ids) => {
                under_way.spawn(async move { (batch, link.have(ids).await.map(Answer::Known)) });
            }
            Transmit::Put(batch, chunks) => {
                for chunk in &chunks {
                    if let Some(pending) = pending.get_mut(&chunk.id()) {
                        pending.put = true;
                    }
                }
                under_way.spawn(async move { (batch, link.put(chunks).await.map(Answer::Stored)) });
            }
        }
    }

    /// Makes the upload a recovery point. When the connection breaks before the answer, the
    /// same manifest is committed again: it names its point, so that it cannot become two.
    pub async fn commit(&mut self, manifest: &SealedManifest) -> Result<Committed, UplinkError> {
        // A second answer may be of a new session, which added only the manifest.
        let (before, last) = (self.added_before, self.added);
        loop {
            match self.link.commit(manifest.clone()).await {
                Err(error) if self.may_go_on(&error) => {
                    tracing::warn!("{error}; connecting again");
                    self.reconnect().await?;
                }
                Ok(Committed::Stored(stored)) => {
                    return Ok(Committed::Stored(before + stored.max(last)));
                }
                other => return Ok(other?),
            }
        }
    }

    /// How many uploads this took so far.
    pub fn uploads(&self) -> u32 {
        self.uploads
    }

    /// The link in use.
    pub fn link(&self) -> &D::Link {
        &self.link
    }

    async fn reconnect(&mut self) -> Result<(), UplinkError> {
        self.link = connect(self.dial, self.patience).await?;
        self.uploads += 1;
        self.added_before += std::mem::take(&mut self.added);
        if self.link.vault() == self.vault {
            Ok(())
        } else {
            Err(UplinkError::VaultChanged)
        }
    }
}
