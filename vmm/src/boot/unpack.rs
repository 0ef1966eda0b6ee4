//! Unpacking on the host what Linux would otherwise unpack in the guest.
//!
//! A kernel's payload and the segments of an initramfs are packed in one of the formats
//! that Linux's own decompressors know (`lib/decompress_*.c`), each found by its magic.
//! lzo and bzip2 are known by name only: no distribution of the last decade uses them.

use std::io::{BufRead, Read};

use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;

/// Magic of lz4's legacy frame, the one Linux uses.
const LZ4_LEGACY: u32 = 0x184C_2102;
/// A legacy block holds at most so many unpacked bytes.
const LZ4_BLOCK: usize = 8 << 20;

/// How a stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// RFC 1952.
    Gzip,
    /// The .xz container.
    Xz,
    /// LZMA alone, the predecessor of xz.
    Lzma,
    /// RFC 8878.
    Zstd,
    /// lz4's legacy frame.
    Lz4,
    /// bzip2: recognised, not unpacked.
    Bzip2,
    /// lzop: recognised, not unpacked.
    Lzo,
}

/// Why a stream could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The format is known but there is no code for it.
    #[error("{0:?} is not unpacked on the host")]
    Unsupported(Packing),
    /// The stream is damaged or cut off.
    #[error("the {packing:?} stream is damaged")]
    Damaged {
        /// How the stream is packed.
        packing: Packing,
        /// What the decoder says.
        #[source]
        source: std::io::Error,
    },
    /// The stream unpacks to more than there is room for.
    #[error("the stream unpacks to more than the {} MiB there is room for", most >> 20)]
    TooLarge {
        /// The room, in bytes.
        most: u64,
    },
}

impl Packing {
    /// Finds the format by the first bytes of a stream.
    pub fn detect(data: &[u8]) -> Option<Self> {
        let packing = match data {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x5d, 0, 0, ..] => Self::Lzma,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0x02, 0x21, 0x4c, 0x18, ..] => Self::Lz4,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0x89, b'L', b'Z', b'O', ..] => Self::Lzo,
            _ => return None,
        };
        Some(packing)
    }
}

/// Unpacks the stream at the start of `data`; returns it with how many bytes it took.
///
/// What follows the stream is not looked at. A stream that unpacks to more than `most` bytes
/// is an error, so that a hostile one cannot exhaust the host's memory.
pub fn unpack(packing: Packing, data: &[u8], most: u64) -> Result<(Vec<u8>, usize), UnpackError> {
    let damaged = |source| UnpackError::Damaged { packing, source };
    let mut rest = data;
    let out = match packing {
        Packing::Gzip => drain(flate2::bufread::GzDecoder::new(&mut rest), most),
        Packing::Xz => drain(XzDecoder::new(&mut rest), most),
        Packing::Lzma => {
            let stream = Stream::new_lzma_decoder(u64::MAX)
                .map_err(|e| damaged(std::io::Error::other(e)))?;
            drain(XzDecoder::new_stream(&mut rest, stream), most)
        }
        Packing::Zstd => zstd::stream::read::Decoder::with_buffer(&mut rest)
            .map_err(|source| UnpackError::Damaged { packing, source })
            .and_then(|mut decoder| {
                // The kernel's own build packs with windows of up to 128 MiB.
                decoder.window_log_max(27).map_err(damaged)?;
                Ok(drain(decoder.single_frame(), most))
            })?,
        Packing::Lz4 => lz4_legacy(&mut rest, most),
        Packing::Bzip2 | Packing::Lzo => return Err(UnpackError::Unsupported(packing)),
    }
    .map_err(damaged)?;
    if out.len() as u64 > most {
        return Err(UnpackError::TooLarge { most });
    }
    Ok((out, data.len() - rest.len()))
}

/// Reads everything, or one byte more than is allowed.
fn drain(reader: impl Read, most: u64) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(most.saturating_add(1)).read_to_end(&mut out)?;
    Ok(out)
}

fn lz4_legacy(data: &mut &[u8], most: u64) -> std::io::Result<Vec<u8>> {
    data.consume(4);
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((len, rest)) = data.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len);
        if len == LZ4_LEGACY {
            // Another frame of the same stream.
            *data = rest;
            continue;
        }
        // The kernel's build puts the unpacked size behind the last block: it is told from
        // a block by reaching past the end.
        let Some(packed) = rest.get(..len as usize).filter(|p| !p.is_empty()) else {
            break;
        };
        let n =
            lz4_flex::block::decompress_into(packed, &mut block).map_err(std::io::Error::other)?;
        out.extend_from_slice(&block[..n]);
        *data = &rest[packed.len()..];
        if out.len() as u64 > most {
            break;
        }
    }
    Ok(out)
}

#[cfg(test)]
#[path = "unpack_test.rs"]
mod tests;
