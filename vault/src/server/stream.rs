//! One stream: one request and its answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use relevo_wire::TenantId;
use relevo_wire::frame::{self, FrameDecoder};
use relevo_wire::message::{Refusal, RefusalCode, Request, Response};

use super::{ANSWER_READ_AHEAD, FRAME, PUT_PIECE, STALLED, Shared};
use crate::error::StoreError;
use crate::ingest::{Outcome, Peer, Reception, check_chunks, malformed};
use crate::store::ReadStep;
use crate::volume::Volume;

/// An applicant's request is short; the rest is not even buffered.
const APPLICANT_FRAME: usize = 64 * 1024;

/// Why a stream ends without its answer: the peer is gone or stalls.
struct Gone(String);

enum Failure {
    Refused(Refusal),
    Gone(Gone),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        Self::Gone(gone)
    }
}

/// Serves one stream to its end.
pub(super) async fn serve<V: Volume>(
    shared: Arc<Shared<V>>,
    mut send: SendStream,
    receive: RecvStream,
) {
    let mut frames = Frames {
        stream: receive,
        decoder: FrameDecoder::default(),
        limit: match shared.caller.peer {
            Peer::Applicant => APPLICANT_FRAME,
            _ => usize::MAX,
        },
        taken: 0,
    };
    let (remote, peer) = (shared.remote, shared.caller.peer);
    match request(&shared, &mut frames, &mut send).await {
        Ok(()) => {}
        Err(Failure::Gone(Gone(reason))) => {
            tracing::debug!(%remote, %peer, reason, "a request ended unanswered");
            // Neither side may take what was sent so far for an answer.
            let _ = send.reset(1u32.into());
        }
        Err(Failure::Refused(refusal)) => {
            tracing::warn!(%remote, %peer, code = ?refusal.code, "refused: {refusal}");
            shared.vault.metrics().refusal(refusal.code);
            let _ = answer(&mut send, &Response::Refused(refusal)).await;
        }
    }
}

async fn request<V: Volume>(
    shared: &Arc<Shared<V>>,
    frames: &mut Frames,
    send: &mut SendStream,
) -> Result<(), Failure> {
    let outcome = {
        // Many half-sent requests would fill the memory, many long ones all threads.
        let _permit = shared.requests.acquire().await;
        let first = frames.next().await?;
        let request: Request = frame::decode(&first).map_err(|e| malformed(e.to_string()))?;
        let asked = shared.clone();
        blocking(move || asked.vault.answer_to(&asked.caller, request)).await??
    };
    match outcome {
        Outcome::Answer(response) => Ok(answer(send, &response).await?),
        Outcome::Receive(reception) => {
            let response = receive(shared, frames, reception).await?;
            Ok(answer(send, &response).await?)
        }
        Outcome::Send(tenant, steps) => {
            let _permit = shared.gets.acquire().await;
            Ok(give(shared, send, tenant, steps).await?)
        }
    }
}

/// Takes the chunks of a put: pieces are hashed on one thread each while the next comes in, and
/// one piece at most is with the writer meanwhile.
async fn receive<V: Volume>(
    shared: &Arc<Shared<V>>,
    frames: &mut Frames,
    mut reception: Reception,
) -> Result<Response, Failure> {
    let Ok(_permit) = shared.puts.try_acquire() else {
        return Err(malformed("too many puts at once on one connection".into()).into());
    };
    let mut stored: Option<JoinHandle<Result<u64, Refusal>>> = None;
    let mut piece = Vec::new();
    let mut bytes = 0;
    while reception.expects_more() {
        let chunk = frames.next().await?;
        reception.arrived(&chunk)?;
        // Who sends faster than his tenant may is read more slowly, and so sends more slowly.
        let pause = shared.vault.arrived(reception.tenant(), chunk.len() as u64);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        bytes += chunk.len();
        piece.push(chunk);
        if bytes < PUT_PIECE && reception.expects_more() {
            continue;
        }
        if let Some(stored) = stored.take() {
            reception.stored(join(stored).await?);
        }
        let (vault, piece) = (shared.vault.clone(), std::mem::take(&mut piece));
        let (tenant, arrived) = (reception.tenant(), bytes as u64);
        bytes = 0;
        stored = Some(tokio::spawn(async move {
            let asked = vault.clone();
            let judged = blocking(move || {
                let records = check_chunks(piece)?;
                Ok::<_, Refusal>((records, asked.reserve(tenant, arrived)?))
            });
            let (records, reserved) = judged.await??;
            let done = vault.store().append(tenant, records).await;
            let added = done.as_ref().map_or(0, |appended| appended.bytes);
            vault.settle(reserved, added);
            Ok(done?.bytes)
        }));
    }
    if let Some(stored) = stored {
        reception.stored(join(stored).await?);
    }
    shared.vault.note_added(&reception);
    Ok(reception.answer())
}

async fn join<T>(task: JoinHandle<Result<T, Refusal>>) -> Result<T, Refusal> {
    task.await.map_err(failed_task)?
}

/// Chunks that are being read, and the place in memory that was set aside for them.
type Reading = (JoinHandle<Vec<Option<Bytes>>>, Option<OwnedSemaphorePermit>);

/// A place for one more read. An answer that has nothing under way goes on without one, so that
/// no answer waits for another's reader.
fn place_to_read<V>(shared: &Shared<V>, first: bool) -> Option<Option<OwnedSemaphorePermit>> {
    match shared.reads.clone().try_acquire_owned() {
        Ok(permit) => Some(Some(permit)),
        Err(_) => first.then_some(None),
    }
}

/// Sends chunks in order, reading ahead of the network.
async fn give<V: Volume>(
    shared: &Arc<Shared<V>>,
    send: &mut SendStream,
    tenant: TenantId,
    steps: Vec<ReadStep>,
) -> Result<(), Failure> {
    write(send, vec![encode(&Response::Chunks)?]).await?;
    let mut steps = steps.into_iter();
    let mut reading: VecDeque<Reading> = VecDeque::new();
    loop {
        while reading.len() < ANSWER_READ_AHEAD
            && let Some(place) = place_to_read(shared, reading.is_empty())
            && let Some(step) = steps.next()
        {
            let shared = shared.clone();
            let read = tokio::task::spawn_blocking(move || match step {
                ReadStep::Run(run) => shared.vault.store().read_run(tenant, &run),
                ReadStep::Missing => vec![None],
            });
            reading.push_back((read, place));
        }
        let Some((next, _place)) = reading.pop_front() else {
            break;
        };
        let chunks = next.await.map_err(failed_task)?;
        let mut parts = Vec::with_capacity(2 * chunks.len());
        for chunk in chunks {
            let chunk = chunk.unwrap_or_default();
            shared.vault.metrics().sent_bytes.add(chunk.len() as u64);
            let prefix = frame::prefix(&chunk).map_err(|e| malformed(e.to_string()))?;
            parts.push(Bytes::copy_from_slice(&prefix));
            parts.push(chunk);
        }
        write(send, parts).await?;
    }
    finish(send);
    Ok(())
}

async fn answer(send: &mut SendStream, response: &Response) -> Result<(), Gone> {
    let frame = encode(response).unwrap_or_default();
    write(send, vec![frame]).await?;
    finish(send);
    Ok(())
}

fn encode(response: &Response) -> Result<Bytes, Refusal> {
    frame::encode(response).map_err(|e| {
        Refusal::new(
            RefusalCode::Storage,
            format!("the answer cannot be sent: {e}"),
            "see the vault's log",
        )
    })
}

fn finish(send: &mut SendStream) {
    // A peer that closed the stream has what it wanted.
    let _ = send.finish();
}

async fn write(send: &mut SendStream, mut parts: Vec<Bytes>) -> Result<(), Gone> {
    let mut left = parts.as_mut_slice();
    while !left.is_empty() {
        let written = match timeout(STALLED, send.write_chunks(left)).await {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => return Err(Gone(error.to_string())),
            Err(_) => return Err(Gone("it does not read the answer".into())),
        };
        left = left.split_at_mut(written.chunks).1;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(failed_task)
}

fn failed_task(error: tokio::task::JoinError) -> Refusal {
    tracing::error!(%error, "a request failed within the vault");
    StoreError::Stopped.into()
}

/// Frames of one stream, none of which may take for ever. What counts is that bytes come: on a
/// slow line that many puts share, a frame takes its time.
struct Frames {
    stream: RecvStream,
    decoder: FrameDecoder,
    /// Bytes that the peer may send in all.
    limit: usize,
    taken: usize,
}

impl Frames {
    async fn next(&mut self) -> Result<Bytes, Failure> {
        match timeout(FRAME, self.next_frame()).await {
            Ok(frame) => frame,
            Err(_) => Err(stalled(FRAME).into()),
        }
    }

    async fn next_frame(&mut self) -> Result<Bytes, Failure> {
        loop {
            if let Some(frame) = self
                .decoder
                .next_frame()
                .map_err(|e| malformed(e.to_string()))?
            {
                return Ok(frame);
            }
            let part = timeout(STALLED, self.stream.read_chunk(256 * 1024, true)).await;
            match part.map_err(|_| stalled(STALLED))? {
                Ok(Some(part)) => {
                    self.taken += part.bytes.len();
                    if self.taken > self.limit {
                        return Err(malformed("the request is too long".into()).into());
                    }
                    self.decoder.push(&part.bytes);
                }
                Ok(None) => {
                    self.decoder
                        .finish()
                        .map_err(|e| malformed(e.to_string()))?;
                    return Err(malformed("the request ended too early".into()).into());
                }
                Err(error) => return Err(Gone(error.to_string()).into()),
            }
        }
    }
}

/// No refusal: the line is to blame, and another try may find a better one.
fn stalled(limit: Duration) -> Gone {
    Gone(format!("its request did not come within {limit:?}"))
}
