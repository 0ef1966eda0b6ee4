//! A disk's content: blocks that are not zero, and what a dice changes in them.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use relevo_vault::volume::simulated::Dice;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// The bytes of a small disk, cheap to keep a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// In bytes.
    pub size: u64,
    blocks: BTreeMap<u64, Arc<[u8]>>,
}

impl Image {
    /// All zeros.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            blocks: BTreeMap::new(),
        }
    }

    /// Bytes from `offset`; beyond the end there are zeros.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let end = offset + length as u64;
        let first = offset / BLOCK as u64;
        for (number, block) in self.blocks.range(first..end.div_ceil(BLOCK as u64)) {
            let start = number * BLOCK as u64;
            let from = start.max(offset);
            let to = (start + BLOCK as u64).min(end);
            let source = &block[(from - start) as usize..(to - start) as usize];
            bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
        }
        bytes
    }

    /// Whether nothing but zeros is there.
    pub fn is_zero(&self, offset: u64, length: u64) -> bool {
        let first = offset / BLOCK as u64;
        let last = (offset + length).div_ceil(BLOCK as u64);
        match self.blocks.range(first..last).next() {
            None => true,
            Some(_) => self.read(offset, length as usize).iter().all(|b| *b == 0),
        }
    }

    /// Changes a run of blocks. Some content is as on other disks, some is zeros, some is new.
    pub fn change(&mut self, dice: &mut Dice) {
        let blocks = self.size.div_ceil(BLOCK as u64);
        let (kind, name) = (dice.roll(5), dice.roll(4));
        let length = 1 + dice.roll(40);
        let at = match dice.once_in(3) {
            // Where other servers of the same kind have it too.
            true => 0,
            false => dice.roll(blocks.saturating_sub(length) + 1),
        };
        let fresh = dice.roll(1 << 40);
        for number in at..(at + length).min(blocks) {
            let seed = match kind {
                0 => {
                    self.blocks.remove(&number);
                    continue;
                }
                1 | 2 => name << 20 | (number - at),
                _ => fresh.wrapping_add(number),
            };
            let room = (self.size - number * BLOCK as u64).min(BLOCK as u64) as usize;
            let mut block = vec![0; BLOCK];
            let noise = blake3::Hasher::new()
                .update(&seed.to_le_bytes())
                .finalize_xof();
            { noise }.fill(&mut block[..room / 2 + 1]);
            block.truncate(room);
            block.resize(BLOCK, 0);
            self.blocks.insert(number, block.into());
        }
    }

    /// Writes it to a file, sparse as it is.
    pub fn write(&self, path: &Path) {
        let file = std::fs::File::create(path).unwrap();
        file.set_len(self.size).unwrap();
        for (number, block) in &self.blocks {
            let at = number * BLOCK as u64;
            let room = (self.size - at).min(BLOCK as u64) as usize;
            file.write_all_at(&block[..room], at).unwrap();
        }
    }
}
