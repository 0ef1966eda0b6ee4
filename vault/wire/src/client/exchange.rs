//! One request and its answer on a stream of their own.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, RecvStream};

use super::error::{ClientError, broke_off, describe, write_error};
use crate::frame::{self, FrameDecoder};
use crate::message::{Request, Response};

pub(super) async fn exchange(
    connection: &Connection,
    vault: &str,
    request: &Request,
) -> Result<Response, ClientError> {
    let (mut send, receive) = connection
        .open_bi()
        .await
        .map_err(|e| describe(vault, &e))?;
    let sent = send.write_chunk(frame::encode(request)?).await;
    let finished = sent.map_err(|e| write_error(vault, e)).and_then(|()| {
        send.finish()
            .map_err(|e| ClientError::Protocol(e.to_string()))
    });
    let answer = Frames::new(receive, vault.into()).response().await;
    match answer {
        Err(ClientError::Refused(_)) | Ok(_) => answer,
        Err(error) => Err(finished.err().unwrap_or(error)),
    }
}

/// Frames of one stream.
pub(super) struct Frames {
    stream: RecvStream,
    decoder: FrameDecoder,
    vault: Arc<str>,
}

impl Frames {
    pub(super) fn new(stream: RecvStream, vault: Arc<str>) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::default(),
            vault,
        }
    }

    pub(super) async fn next(&mut self) -> Result<Bytes, ClientError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            match self.stream.read_chunk(usize::MAX, true).await {
                Ok(Some(part)) => self.decoder.push(&part.bytes),
                Ok(None) => {
                    self.decoder.finish()?;
                    return Err(ClientError::Protocol("it ended an answer too early".into()));
                }
                Err(quinn::ReadError::ConnectionLost(e)) => return Err(describe(&self.vault, &e)),
                Err(quinn::ReadError::Reset(_)) => {
                    return Err(broke_off(&self.vault, "it broke off its answer"));
                }
                Err(e) => return Err(ClientError::Protocol(e.to_string())),
            }
        }
    }

    pub(super) async fn response(&mut self) -> Result<Response, ClientError> {
        match frame::decode(&self.next().await?)? {
            Response::Refused(refusal) => Err(refusal.into()),
            response => Ok(response),
        }
    }
}
