//! A disk in memory, for tests and fuzz targets.

use std::collections::BTreeMap;

use super::volume::Source;
use super::whole::{Seen, demand};

/// Bytes of a piece.
const PIECE: u64 = 4096;

/// A disk whose zeros take no memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    size: u64,
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl Memory {
    /// A disk of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        let mut disk = Self::zeros(bytes.len() as u64);
        disk.write(0, &bytes);
        disk
    }

    /// A disk of `size` zeros.
    pub fn zeros(size: u64) -> Self {
        let pieces = BTreeMap::new();
        Self { size, pieces }
    }

    /// Writes what of `bytes` is within the disk.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() && at < self.size {
            let within = (at % PIECE) as usize;
            let room = (PIECE as usize - within).min((self.size - at) as usize);
            let (part, behind) = rest.split_at(room.min(rest.len()));
            let number = at / PIECE;
            if self.pieces.contains_key(&number) || part.iter().any(|byte| *byte != 0) {
                let piece = self.pieces.entry(number);
                let piece = piece.or_insert_with(|| vec![0; PIECE as usize]);
                piece[within..within + part.len()].copy_from_slice(part);
            }
            at += part.len() as u64;
            rest = behind;
        }
    }

    /// Where there are bytes that are not zero: starts of runs of 4 KiB.
    pub fn written(&self) -> impl Iterator<Item = u64> {
        self.pieces.keys().map(|number| number * PIECE)
    }
}

impl Source for Memory {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Seen<()> {
        let end = offset.checked_add(buffer.len() as u64);
        demand(end.is_some_and(|end| end <= self.size), "beyond the end")?;
        buffer.fill(0);
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let within = (at % PIECE) as usize;
            let length = (PIECE as usize - within).min(buffer.len() - done);
            if let Some(piece) = self.pieces.get(&(at / PIECE)) {
                buffer[done..done + length].copy_from_slice(&piece[within..within + length]);
            }
            done += length;
        }
        Ok(())
    }
}
