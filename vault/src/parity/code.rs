//! Reed–Solomon over one column of blocks.
//!
//! The code is that of the crate reed-solomon-simd 3 (Leopard, GF(2¹⁶)), which is linear: the
//! parity of a sum of packs is the sum of their parities. So a pack leaves a group at the price
//! of itself and the parity.

use reed_solomon_simd::{Error, ReedSolomonDecoder, ReedSolomonEncoder};

use super::layout::{BLOCK, Group};
use crate::error::StoreError;

/// The code of a group; keeps its working space between columns.
pub(super) struct Code {
    data: usize,
    encoder: ReedSolomonEncoder,
    decoder: ReedSolomonDecoder,
}

impl Code {
    pub fn of(group: &Group) -> Result<Self, StoreError> {
        let (data, parity) = (group.slots.len(), group.parity);
        Ok(Self {
            data,
            encoder: ReedSolomonEncoder::new(data, parity, BLOCK).map_err(failed)?,
            decoder: ReedSolomonDecoder::new(data, parity, BLOCK).map_err(failed)?,
        })
    }

    /// Parity of a column's blocks, one for each slot.
    pub fn encode<T: AsRef<[u8]>>(&mut self, blocks: &[T]) -> Result<Vec<Vec<u8>>, StoreError> {
        for block in blocks {
            self.encoder.add_original_shard(block).map_err(failed)?;
        }
        let parity = self.encoder.encode().map_err(failed)?;
        Ok(parity.recovery_iter().map(<[u8]>::to_vec).collect())
    }

    /// Parity of a column in which all slots but one are zeros.
    pub fn encode_alone(&mut self, slot: usize, block: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let zeros = vec![0; BLOCK];
        let blocks: Vec<&[u8]> = (0..self.data)
            .map(|at| if at == slot { block } else { &zeros })
            .collect();
        self.encode(&blocks)
    }

    /// Puts blocks that are missing in the place of `None`. As many parity blocks must be there.
    pub fn restore(
        &mut self,
        data: &mut [Option<Vec<u8>>],
        parity: &[Option<Vec<u8>>],
    ) -> Result<(), StoreError> {
        for (at, block) in data.iter().enumerate() {
            if let Some(block) = block {
                self.decoder.add_original_shard(at, block).map_err(failed)?;
            }
        }
        for (at, block) in parity.iter().enumerate() {
            if let Some(block) = block {
                self.decoder.add_recovery_shard(at, block).map_err(failed)?;
            }
        }
        let restored = self.decoder.decode().map_err(failed)?;
        for (at, block) in restored.restored_original_iter() {
            data[at] = Some(block.to_vec());
        }
        Ok(())
    }
}

/// Adds `other` to `block`, in the field.
pub(super) fn add(block: &mut [u8], other: &[u8]) {
    for (byte, other) in block.iter_mut().zip(other) {
        *byte ^= other;
    }
}

fn failed(error: Error) -> StoreError {
    StoreError::Storage(format!("parity: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use relevo_wire::{TenantId, VaultId};

    /// Guards parity files that exist against a code that changes below them.
    #[test]
    fn the_code_is_what_it_was() {
        let group = Group::new(VaultId::random(), TenantId::random(), 1, vec![None; 10], 2);
        let mut code = Code::of(&group).unwrap();
        let blocks: Vec<Vec<u8>> = (0..10u8)
            .map(|slot| {
                let mut block = vec![0; BLOCK];
                blake3::Hasher::new()
                    .update(&[slot])
                    .finalize_xof()
                    .fill(&mut block);
                block
            })
            .collect();
        let parity = code.encode(&blocks).unwrap();
        let found = blake3::hash(&parity.concat()).to_hex();
        assert_eq!(
            found.as_str(),
            "d79cfce371d3e14070ff62bdbb5bc5fb18f649983a780f6b1da93fda42a1c902"
        );
        let mut sum = vec![vec![0; BLOCK]; 2];
        for (slot, block) in blocks.iter().enumerate() {
            for (sum, part) in sum.iter_mut().zip(code.encode_alone(slot, block).unwrap()) {
                add(sum, &part);
            }
        }
        assert!(sum == parity, "the code is linear");
    }
}
