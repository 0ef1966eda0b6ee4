//! A line between an agent and the vault, and what befalls it.
//!
//! Each request is the bytes of a stream: encoded by the real code, delivered late, twice, in
//! part, without its answer or never, and decoded by the real code. A break takes the whole
//! connection, as with QUIC; a request that was under way may still arrive after it.

use std::sync::Arc;
use std::time::Duration;

use relevo_agent::uplink::{Committed, Dial, Link};
use relevo_vault::ingest::Peer;
use relevo_wire::chunk::SealedChunk;
use relevo_wire::client::{ClientError, SOFTWARE};
use relevo_wire::frame::{self, FrameDecoder};
use relevo_wire::manifest::SealedManifest;
use relevo_wire::message::{Request, Response};
use relevo_wire::{ChunkId, SessionId, VaultId};
use tokio::time::{Instant, sleep};

use crate::image::Image;
use crate::world::World;

/// How bad the lines of a world are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing happens.
    Calm,
    /// Something befalls one request in so many.
    Bad(u64),
}

/// The state of one agent's line.
#[derive(Default)]
pub struct Line {
    /// Counts connections; a request of an older one goes unanswered.
    connection: u64,
    /// Nothing passes before.
    closed_until: Option<Instant>,
}

impl Line {
    /// Ends the connection.
    pub fn cut(&mut self) {
        self.connection += 1;
    }

    /// Lets everything pass again.
    pub fn open(&mut self) {
        self.closed_until = None;
    }
}

enum Fate {
    Arrives,
    Lost,
    Truncated,
    AnswerLost,
    Twice,
    Late,
    Partition,
}

fn fate(world: &World) -> Fate {
    match world.weather() {
        Weather::Bad(one_in) if world.once_in(one_in) => match world.roll(7) {
            0 => Fate::Lost,
            1 => Fate::Truncated,
            2 | 3 => Fate::AnswerLost,
            4 => Fate::Twice,
            5 => Fate::Late,
            _ => Fate::Partition,
        },
        _ => Fate::Arrives,
    }
}

fn broken(reason: &str) -> ClientError {
    ClientError::Connection {
        vault: "simulated".into(),
        reason: reason.into(),
        remedy: "",
        transient: true,
    }
}

/// Sends a stream over a server's line, and returns what came back.
async fn exchange(
    world: &Arc<World>,
    server: usize,
    connection: u64,
    request: Vec<u8>,
) -> Result<Vec<u8>, ClientError> {
    world.delay().await;
    world.alive(server, connection)?;
    let peer = world.peer(server);
    let answer = match fate(world) {
        Fate::Arrives => world.deliver(peer, &request, true),
        Fate::Twice => {
            world.note(format_args!("line {server}: a request arrives twice"));
            world.deliver(peer, &request, true);
            world.deliver(peer, &request, true)
        }
        Fate::AnswerLost => {
            world.note(format_args!("line {server}: an answer is lost"));
            world.deliver(peer, &request, true);
            None
        }
        Fate::Truncated => {
            let there = world.roll(request.len() as u64) as usize;
            world.note(format_args!(
                "line {server}: a request breaks off at {there}"
            ));
            world.deliver(peer, &request[..there], false);
            None
        }
        Fate::Late => {
            world.note(format_args!("line {server}: a request will come late"));
            let (world, life) = (world.clone(), world.machine.life());
            world.clone().spawn(async move {
                sleep(Duration::from_millis(1 + world.roll(200))).await;
                if world.machine.life() == life {
                    world.deliver(peer, &request, true);
                }
            });
            None
        }
        Fate::Lost => {
            world.note(format_args!("line {server}: a request is lost"));
            None
        }
        Fate::Partition => {
            let closed = Duration::from_millis(world.roll(3000));
            world.note(format_args!("line {server}: closed for {closed:?}"));
            world.line(server).closed_until = Some(Instant::now() + closed);
            None
        }
    };
    let Some(answer) = answer else {
        // The client learns of it when its patience with the connection ends.
        sleep(Duration::from_millis(200)).await;
        world.line(server).cut();
        return Err(broken("no answer"));
    };
    world.delay().await;
    world.alive(server, connection)?;
    Ok(answer)
}

impl World {
    fn alive(&self, server: usize, connection: u64) -> Result<(), ClientError> {
        let line = self.line(server);
        match line.connection == connection && line.closed_until.is_none_or(|t| t <= Instant::now())
        {
            true => Ok(()),
            false => Err(broken("the connection is gone")),
        }
    }

    async fn delay(&self) {
        sleep(Duration::from_millis(1 + self.roll(20))).await;
    }
}

/// Reads an answer as the real client does.
pub fn response(answer: &[u8]) -> Result<Response, ClientError> {
    let mut frames = FrameDecoder::default();
    frames.push(answer);
    let frame = frames.next_frame()?;
    let frame =
        frame.ok_or_else(|| ClientError::Protocol("it ended an answer too early".into()))?;
    match frame::decode(&frame)? {
        Response::Refused(refusal) => Err(refusal.into()),
        response => Ok(response),
    }
}

fn out_of_turn(response: &Response) -> ClientError {
    ClientError::Protocol(format!("an answer that fits no question ({response:?})"))
}

/// The bytes of a put's stream.
pub fn put_stream(session: SessionId, chunks: &[SealedChunk]) -> Result<Vec<u8>, ClientError> {
    let head = Request::Put {
        session,
        chunks: chunks.len() as u32,
    };
    let mut bytes = frame::encode(&head)?.to_vec();
    for chunk in chunks {
        bytes.extend_from_slice(&frame::prefix(chunk.bytes())?);
        bytes.extend_from_slice(chunk.bytes());
    }
    Ok(bytes)
}

/// Dials for one run of a server's agent.
pub struct Dialer {
    /// Where.
    pub world: Arc<World>,
    /// Whose line.
    pub server: usize,
    /// What the run images.
    pub image: Arc<Vec<Image>>,
}

/// A session over a simulated line.
#[derive(Clone)]
pub struct SimulatedLink {
    world: Arc<World>,
    server: usize,
    connection: u64,
    session: SessionId,
    vault: (VaultId, u64),
    image: Arc<Vec<Image>>,
}

impl Dial for Dialer {
    type Link = SimulatedLink;

    async fn dial(&self) -> Result<SimulatedLink, ClientError> {
        let (world, server) = (&self.world, self.server);
        world.delay().await;
        let connection = world.line(server).connection;
        let ask = async |request: Request| {
            let bytes = frame::encode(&request)?.to_vec();
            response(&exchange(world, server, connection, bytes).await?)
        };
        let software = SOFTWARE.into();
        let vault = match ask(Request::Hello { software }).await? {
            Response::Welcome { vault, epoch, .. } => (vault, epoch),
            other => return Err(out_of_turn(&other)),
        };
        match ask(Request::OpenSession).await? {
            Response::SessionOpened { session } => Ok(SimulatedLink {
                world: world.clone(),
                server,
                connection,
                session,
                vault,
                image: self.image.clone(),
            }),
            other => Err(out_of_turn(&other)),
        }
    }
}

impl SimulatedLink {
    async fn ask(&self, bytes: Vec<u8>) -> Result<Response, ClientError> {
        response(&exchange(&self.world, self.server, self.connection, bytes).await?)
    }
}

impl Link for SimulatedLink {
    fn vault(&self) -> (VaultId, u64) {
        self.vault
    }

    async fn have(&self, ids: Vec<ChunkId>) -> Result<Vec<u8>, ClientError> {
        let session = self.session;
        let bytes = frame::encode(&Request::Have { session, ids })?.to_vec();
        match self.ask(bytes).await? {
            Response::Known(bits) => Ok(bits),
            other => Err(out_of_turn(&other)),
        }
    }

    async fn put(&self, chunks: Vec<SealedChunk>) -> Result<u64, ClientError> {
        match self.ask(put_stream(self.session, &chunks)?).await? {
            Response::Stored { added } => Ok(added),
            other => Err(out_of_turn(&other)),
        }
    }

    async fn commit(&self, manifest: SealedManifest) -> Result<Committed, ClientError> {
        let session = self.session;
        self.world.asks_for(self.server, &manifest, &self.image);
        let bytes = frame::encode(&Request::Commit { session, manifest })?.to_vec();
        match self.ask(bytes).await? {
            Response::Committed { stored } => Ok(Committed::Stored(stored)),
            Response::Incomplete { missing } => Ok(Committed::Incomplete(missing)),
            other => Err(out_of_turn(&other)),
        }
    }
}

impl World {
    /// Gives the vault what arrived of a stream, and notes what it promises.
    pub fn deliver(self: &Arc<Self>, peer: Peer, bytes: &[u8], ended: bool) -> Option<Vec<u8>> {
        self.tick();
        let piece = match self.once_in(2) {
            true => 1,
            false => 1 << 20,
        };
        let before = self.machine.disk.changes();
        let answer = self.machine.serve(peer, bytes, ended, piece);
        self.note(format_args!(
            "vault: {} bytes from {peer}, {} changes of the disk, {}",
            bytes.len(),
            self.machine.disk.changes() - before,
            match answer.as_deref().map(response) {
                None => "no answer".into(),
                Some(Err(error)) => format!("{error}"),
                Some(Ok(Response::Welcome { epoch, .. })) => format!("welcome, epoch {epoch}"),
                Some(Ok(Response::Stored { added })) => format!("stored {added}"),
                Some(Ok(Response::Known(bits))) => format!("known {bits:?}"),
                Some(Ok(Response::Committed { stored })) => format!("committed {stored}"),
                Some(Ok(Response::Incomplete { missing })) => format!("lacks {}", missing.len()),
                Some(Ok(_)) => "answered".into(),
            }
        ));
        if self.machine.disk.is_down() {
            self.vault_fell();
        }
        let answer = answer?;
        if ended && let Ok(Response::Committed { .. }) = response(&answer) {
            self.promised(bytes);
        }
        Some(answer)
    }
}
