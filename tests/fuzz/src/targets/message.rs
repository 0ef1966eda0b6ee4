//! Frames and the messages in them.

use relevo_wire::frame::{self, FrameDecoder};
use relevo_wire::manifest::SealedManifest;
use relevo_wire::message::{Request, Response};

use crate::Input;

/// First byte: in pieces of how many bytes the rest arrives.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let piece = 1 + usize::from(input.byte());
    let stream = input.rest();
    let mut decoder = FrameDecoder::default();
    let mut taken = 0;
    'stream: for part in stream.chunks(piece) {
        decoder.push(part);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    taken += 4 + frame.len();
                    message(&frame);
                }
                Ok(None) => break,
                Err(_) => break 'stream,
            }
        }
    }
    assert!(taken <= stream.len(), "frames hold more than came");
    message(stream);
}

fn message(frame: &[u8]) {
    if let Ok(request) = frame::decode::<Request>(frame) {
        again(&request);
        if let Request::Commit { manifest, .. } = &request {
            let _ = manifest.public();
        }
    }
    if let Ok(response) = frame::decode::<Response>(frame) {
        again(&response);
    }
    if let Ok(manifest) = SealedManifest::from_bytes(frame) {
        let _ = manifest.public();
    }
}

fn again<T>(message: &T)
where
    T: minicbor::Encode<()> + for<'b> minicbor::Decode<'b, ()> + PartialEq + std::fmt::Debug,
{
    // A message may need more bytes than the one that it was read from (absent fields), and then
    // be too long for a frame.
    if let Ok(bytes) = frame::encode(message) {
        let read = frame::decode::<T>(&bytes[4..]);
        assert_eq!(read.as_ref(), Ok(message), "written, it reads differently");
    }
}
