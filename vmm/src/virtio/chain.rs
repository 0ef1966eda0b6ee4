//! A descriptor chain as slices of guest memory, checked before anything is done with them.

use virtio_queue::DescriptorChain;
use vm_memory::Permissions;

use crate::buffers::{Buffers, OutsideMemory};
use crate::memory::GuestMemory;

/// Why a chain cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainError {
    /// A descriptor points outside the guest's RAM.
    #[error("a descriptor points outside the guest's memory")]
    OutsideMemory,
    /// A part for the device to read comes after one to write (section 2.7.4.2).
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// The chain loops, or goes on beyond its table or beyond 4 GiB.
    #[error("the chain does not end")]
    Endless,
}

impl From<OutsideMemory> for ChainError {
    fn from(_: OutsideMemory) -> Self {
        Self::OutsideMemory
    }
}

/// Splits a chain into what the device reads and what it writes.
pub fn split<'m>(
    memory: &'m GuestMemory,
    chain: DescriptorChain<&'m GuestMemory>,
) -> Result<(Buffers<'m>, Buffers<'m>), ChainError> {
    let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
    let mut unfinished = false;
    let mut seen_writable = false;
    for descriptor in chain {
        unfinished = descriptor.has_next();
        let (side, access) = if descriptor.is_write_only() {
            seen_writable = true;
            (&mut writable, Permissions::Write)
        } else if seen_writable {
            return Err(ChainError::Order);
        } else {
            (&mut readable, Permissions::Read)
        };
        side.append(memory, descriptor.addr(), descriptor.len() as usize, access)?;
    }
    if unfinished {
        return Err(ChainError::Endless);
    }
    Ok((readable, writable))
}

#[cfg(test)]
#[path = "chain_test.rs"]
mod tests;
