//! An upload over a simulated line: 1 Gbit/s, 150 ms there and back. All sizes and the rate are
//! 1/64 of the real ones, the clock is the simulation's.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use relevo_wire::chunk::{Chunk, Compressor, SealedChunk};
use relevo_wire::key::TenantSecret;
use relevo_wire::upload::{Transmit, Upload, UploadLimits};

const SCALE: usize = 64;
/// Nanoseconds that a byte takes.
const BYTE: u64 = 8 * SCALE as u64;
const ROUND_TRIP: u64 = 150_000_000;
const CHUNKS: u64 = 16_384;

fn chunk(seed: u64, compressor: &mut Compressor) -> SealedChunk {
    let mut plaintext = [0; 1024];
    let noise = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    { noise }.fill(&mut plaintext);
    Chunk::new(&TenantSecret::from_bytes([1; 32]), &plaintext).seal(compressor)
}

/// The share of the time in which bytes of chunks cross the line, between the first and the
/// last of them.
fn busy() -> f64 {
    let mut limits = UploadLimits::default();
    limits.held_bytes /= SCALE;
    limits.put_bytes /= SCALE;
    let mut upload = Upload::new(limits);
    let mut compressor = Compressor::new();
    let (mut now, mut free_at, mut carried, mut began) = (0, 0, 0, None);
    let (mut answers, mut sent) = (BTreeMap::new(), 0);
    let mut offered = 0;
    loop {
        while offered < CHUNKS && upload.has_room() {
            upload.offer(chunk(offered, &mut compressor));
            offered += 1;
        }
        if offered == CHUNKS {
            upload.flush();
        }
        while let Some(transmit) = upload.poll_transmit() {
            let bytes = match &transmit {
                Transmit::Ask(_, ids) => 32 * ids.len() / SCALE,
                Transmit::Put(_, chunks) => {
                    began.get_or_insert(now);
                    let bytes = chunks.iter().map(|c| c.bytes().len()).sum();
                    carried += bytes as u64 * BYTE;
                    bytes
                }
            };
            free_at = now.max(free_at) + bytes as u64 * BYTE;
            sent += 1;
            answers.insert((free_at + ROUND_TRIP, sent), transmit);
        }
        let Some(((at, _), transmit)) = answers.pop_first() else {
            break;
        };
        now = at;
        match transmit {
            Transmit::Ask(batch, ids) => {
                let bits = vec![0; ids.len().div_ceil(8)];
                upload.handle_known(batch, &bits).unwrap();
            }
            Transmit::Put(batch, _) => upload.handle_stored(batch).unwrap(),
        }
        while upload.poll_durable().is_some() {}
    }
    assert!(upload.is_idle());
    carried as f64 / (now - ROUND_TRIP - began.unwrap()) as f64
}

/// Guards the rate of a first image over a long line, where each idle round trip costs 19 MB.
#[test]
fn a_long_line_stays_full() {
    let busy = busy();
    assert!(busy > 0.9, "busy for {busy:.2} of the time");
}
