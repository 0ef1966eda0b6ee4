//! One stream as the vault's network side serves it: frames in, the real `answer`, frames out.

use bytes::Bytes;
use relevo_vault::ingest::{Outcome, Peer, Vault, check_chunks, malformed};
use relevo_vault::store::ReadStep;
use relevo_vault::volume::simulated::SimulatedDisk;
use relevo_wire::frame::{self, FrameDecoder};
use relevo_wire::message::{Refusal, Request, Response};

/// A vault over a disk that fails on command.
pub type SimulatedVault = Vault<SimulatedDisk>;

enum Failure {
    Refused(Refusal),
    /// The stream broke off: nobody is there to be answered.
    Gone,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

struct Frames {
    decoder: FrameDecoder,
    ended: bool,
}

impl Frames {
    fn next(&mut self) -> Result<Bytes, Failure> {
        let frame = self.decoder.next_frame();
        match frame.map_err(|e| malformed(e.to_string()))? {
            Some(frame) => Ok(frame),
            None if self.ended => {
                self.decoder
                    .finish()
                    .map_err(|e| malformed(e.to_string()))?;
                Err(malformed("the request ended too early".into()).into())
            }
            None => Err(Failure::Gone),
        }
    }
}

/// Serves a stream on which `received` came, and after it the end or a break. Chunks are stored
/// in pieces of `piece` bytes as they come, so that a break leaves the first ones stored.
pub fn serve(
    vault: &SimulatedVault,
    peer: Peer,
    received: &[u8],
    ended: bool,
    piece: usize,
) -> Option<Vec<u8>> {
    let mut decoder = FrameDecoder::default();
    decoder.push(received);
    let mut frames = Frames { decoder, ended };
    match request(vault, peer, &mut frames, piece) {
        Ok(answer) => Some(answer),
        Err(Failure::Gone) => None,
        Err(Failure::Refused(refusal)) => encode(&Response::Refused(refusal)).ok(),
    }
}

fn request(
    vault: &SimulatedVault,
    peer: Peer,
    frames: &mut Frames,
    piece: usize,
) -> Result<Vec<u8>, Failure> {
    let first = frames.next()?;
    let request: Request = frame::decode(&first).map_err(|e| malformed(e.to_string()))?;
    match vault.answer(peer, request)? {
        Outcome::Answer(response) => Ok(encode(&response)?),
        Outcome::Receive(mut reception) => {
            let mut waiting = Vec::new();
            while reception.expects_more() {
                let chunk = frames.next()?;
                reception.arrived(&chunk)?;
                waiting.push(chunk);
                let bytes: usize = waiting.iter().map(Bytes::len).sum();
                if bytes >= piece || !reception.expects_more() {
                    let records = check_chunks(std::mem::take(&mut waiting))?;
                    let stored = vault.store().append_blocking(reception.tenant(), records);
                    reception.stored(stored.map_err(Refusal::from)?.bytes);
                }
            }
            vault.note_added(&reception);
            Ok(encode(&reception.answer())?)
        }
        Outcome::Send(tenant, steps) => {
            let mut answer = encode(&Response::Chunks)?;
            for step in steps {
                let chunks = match step {
                    ReadStep::Run(run) => vault.store().read_run(tenant, &run),
                    ReadStep::Missing => vec![None],
                };
                for chunk in chunks {
                    let chunk = chunk.unwrap_or_default();
                    let prefix = frame::prefix(&chunk).map_err(|e| malformed(e.to_string()))?;
                    answer.extend_from_slice(&prefix);
                    answer.extend_from_slice(&chunk);
                }
            }
            Ok(answer)
        }
    }
}

fn encode(response: &Response) -> Result<Vec<u8>, Refusal> {
    let frame = frame::encode(response).map_err(|e| malformed(e.to_string()))?;
    Ok(frame.to_vec())
}
