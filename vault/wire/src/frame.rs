//! Frames: a length of four bytes, little endian, and that many bytes.
//!
//! The decoder has no input or output of its own: bytes go in as they arrive, frames come out.

use bytes::{Buf, Bytes, BytesMut};
use minicbor::{Decode, Encode};

use crate::chunk::MAX_SEALED;

/// The most bytes a frame carries; a longer one is refused before any memory is set aside.
pub const MAX_FRAME: usize = 4 * 1024 * 1024;
const _: () = assert!(MAX_FRAME >= MAX_SEALED);
const PREFIX: usize = 4;

/// Why bytes are not frames or messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length that no peer of this protocol sends.
    #[error("a frame of {0} bytes is over the limit of {MAX_FRAME}")]
    TooLong(usize),
    /// The stream ended within a frame.
    #[error("the stream ended {0} bytes into a frame")]
    Truncated(usize),
    /// The frame is not the message expected.
    #[error("a message could not be read: {0}")]
    Malformed(String),
}

/// Cuts a byte stream into frames.
#[derive(Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        if self.buffer.len() < PREFIX + length {
            self.buffer.reserve(PREFIX + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Says that no more bytes come: an error when they ended within a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.buffer.len() {
            0 => Ok(()),
            left => Err(FrameError::Truncated(left)),
        }
    }
}

/// The prefix of a frame of `payload`.
pub fn prefix(payload: &[u8]) -> Result<[u8; PREFIX], FrameError> {
    if payload.len() > MAX_FRAME {
        return Err(FrameError::TooLong(payload.len()));
    }
    Ok((payload.len() as u32).to_le_bytes())
}

/// A message as a whole frame.
pub fn encode<T: Encode<()>>(message: &T) -> Result<Bytes, FrameError> {
    let mut frame = vec![0; PREFIX];
    minicbor::encode(message, &mut frame).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let head = prefix(&frame[PREFIX..])?;
    frame[..PREFIX].copy_from_slice(&head);
    Ok(frame.into())
}

/// The message in a frame.
pub fn decode<'b, T: Decode<'b, ()>>(frame: &'b [u8]) -> Result<T, FrameError> {
    minicbor::decode(frame).map_err(|e| FrameError::Malformed(e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::{Request, Response};
    use proptest::prelude::*;

    proptest! {
        /// Guards against frames lost or joined when the network cuts bytes anywhere.
        #[test]
        fn frames_survive_any_fragmentation(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..10),
            step in 1usize..50,
        ) {
            let mut stream = Vec::new();
            for payload in &payloads {
                stream.extend_from_slice(&prefix(payload).unwrap());
                stream.extend_from_slice(payload);
            }
            let (mut decoder, mut got) = (FrameDecoder::default(), Vec::new());
            for part in stream.chunks(step) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().unwrap() { got.push(frame.to_vec()); }
            }
            prop_assert_eq!(got, payloads);
            prop_assert!(decoder.finish().is_ok());
        }

        /// Guards both peers against hostile messages.
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
        }
    }

    #[test]
    fn an_absurd_length_is_refused_at_once() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert_eq!(
            decoder.next_frame(),
            Err(FrameError::TooLong(u32::MAX as usize))
        );
    }
}
