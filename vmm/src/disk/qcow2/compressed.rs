//! Compressed clusters (section "Compressed Clusters Descriptor"): read only, a write makes a
//! plain cluster of them.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use super::error::Damage;
use super::header::Compression;
use super::storage::ImageFile;

/// Decompressed clusters kept: guests read a cluster in several pieces.
const KEPT: usize = 4;
/// Largest window of zstd, as a base-2 logarithm: no cluster is larger than 2 MiB.
const ZSTD_WINDOW: u32 = 22;

/// Generation of the tables and offset of the compressed data.
type Key = (u64, u64);

/// The clusters decompressed last.
#[derive(Default)]
pub(super) struct Decompressed(VecDeque<(Key, Arc<[u8]>)>);

impl Decompressed {
    pub(super) fn get(&self, key: Key) -> Option<Arc<[u8]>> {
        let found = self.0.iter().find(|(at, _)| *at == key)?;
        Some(found.1.clone())
    }

    pub(super) fn keep(&mut self, key: Key, cluster: Arc<[u8]>) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((key, cluster));
    }
}

/// Reads the compressed cluster of `length` bytes at `offset`. The length is in whole sectors, so
/// that other data may follow the compressed one, or the file may end.
pub(super) fn read(
    file: &ImageFile,
    compression: Compression,
    offset: u64,
    length: u64,
) -> io::Result<Arc<[u8]>> {
    let mut packed = vec![0; length as usize];
    file.read_data(&mut packed, offset)?;
    let mut cluster = vec![0; file.geometry.cluster_size() as usize];
    decompress(&packed, compression, &mut cluster).map_err(|_| Damage::Compressed { offset })?;
    Ok(cluster.into())
}

fn decompress(packed: &[u8], compression: Compression, cluster: &mut [u8]) -> io::Result<()> {
    match compression {
        Compression::Deflate => flate2::bufread::DeflateDecoder::new(packed).read_exact(cluster),
        Compression::Zstd => {
            let mut rest = packed;
            let mut filled = 0;
            // A cluster may be several frames.
            while filled < cluster.len() {
                if rest.fill_buf()?.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let mut frame = zstd::Decoder::with_buffer(rest)?.single_frame();
                frame.window_log_max(ZSTD_WINDOW)?;
                let before = filled;
                loop {
                    match frame.read(&mut cluster[filled..])? {
                        0 => break,
                        count => filled += count,
                    }
                }
                if filled == before {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                rest = frame.finish();
            }
            Ok(())
        }
    }
}
