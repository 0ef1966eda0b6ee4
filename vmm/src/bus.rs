//! Address dispatch: which device answers a port or a guest-physical address.
//!
//! The same [`Bus`] type serves both x86 address spaces (one instance each). It is filled
//! while the machine is built and only read afterwards, so vCPU threads share it without a
//! lock; each device brings its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A device that answers reads and writes of a range of addresses.
///
/// `offset` counts from the start of the range the device was inserted at. Accesses are
/// 1, 2, 4 or 8 bytes long and never cross the end of the range.
pub trait BusDevice: Send {
    /// Fills `data` with what the guest reads at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes what the guest wrote at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Why a device could not be put on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// A range of length zero, or one that wraps around the address space.
    #[error("the range {base:#x}+{len:#x} is empty or wraps around")]
    BadRange {
        /// First address asked for.
        base: u64,
        /// Length asked for, in bytes.
        len: u64,
    },
    /// Another device already answers part of the range.
    #[error("the range {base:#x}+{len:#x} overlaps the device at {other:#x}")]
    Overlap {
        /// First address asked for.
        base: u64,
        /// Length asked for, in bytes.
        len: u64,
        /// First address of the device that is there.
        other: u64,
    },
}

struct Slot {
    len: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// One address space (port I/O or memory-mapped I/O) and the devices in it.
#[derive(Default)]
pub struct Bus {
    slots: BTreeMap<u64, Slot>,
}

impl Bus {
    /// An address space in which nothing answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `device` answer the `len` addresses from `base` on.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let end = base
            .checked_add(len)
            .filter(|_| len > 0)
            .ok_or(BusError::BadRange { base, len })?;
        if let Some((&other, slot)) = self.slots.range(..end).next_back()
            && other + slot.len > base
        {
            return Err(BusError::Overlap { base, len, other });
        }
        self.slots.insert(base, Slot { len, device });
        Ok(())
    }

    /// Reads from the device at `addr`; `false` (and `data` untouched) when none answers.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        let Some((offset, slot)) = self.find(addr, data.len()) else {
            return false;
        };
        let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.read(offset, data);
        true
    }

    /// Writes to the device at `addr`; `false` when none answers.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        let Some((offset, slot)) = self.find(addr, data.len()) else {
            return false;
        };
        let mut device = slot.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.write(offset, data);
        true
    }

    fn find(&self, addr: u64, len: usize) -> Option<(u64, &Slot)> {
        let (&base, slot) = self.slots.range(..=addr).next_back()?;
        let offset = addr - base;
        let end = offset.checked_add(len as u64)?;
        (end <= slot.len).then_some((offset, slot))
    }
}

#[cfg(test)]
#[path = "bus_test.rs"]
mod tests;
