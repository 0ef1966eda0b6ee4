//! The configuration header of a function: 256 bytes, a mask of what the guest may write.
//!
//! PCI Local Bus Specification 3.0, chapter 6.

/// Offset of the command register.
pub const COMMAND: usize = 0x04;
/// Command register: the function answers accesses to its memory BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: the function may read and write memory on its own.
const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Command register: the function may not raise its interrupt pin.
const COMMAND_INTX_DISABLE: u16 = 1 << 10;

const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const FIRST_BAR: usize = 0x10;
const CAPABILITY_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3C;
const FIRST_CAPABILITY: usize = 0x40;
const SIZE: usize = 256;

/// What a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor of the interface.
    pub vendor: u16,
    /// The vendor's number for the interface.
    pub device: u16,
    /// Revision of the interface.
    pub revision: u8,
    /// Base class, subclass and programming interface, as 0xBBSSPP.
    pub class: u32,
    /// Vendor of the implementation.
    pub subsystem_vendor: u16,
    /// The implementation's number.
    pub subsystem: u16,
}

/// The first 256 bytes of a function's configuration space.
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    next_capability: usize,
    last_link: usize,
}

impl ConfigSpace {
    /// A type 0 header without BARs, capabilities or interrupt pin.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            next_capability: FIRST_CAPABILITY,
            last_link: CAPABILITY_POINTER,
        };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(0x08, &[identity.revision]);
        space.put(0x09, &identity.class.to_le_bytes()[..3]);
        space.put(0x2C, &identity.subsystem_vendor.to_le_bytes());
        space.put(0x2E, &identity.subsystem.to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;
        space.allow(COMMAND, &command.to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xFF]);
        space
    }

    /// Makes BAR `index` (0–5) a 32-bit memory BAR of `size` bytes at `base`.
    ///
    /// `size` is a power of two of at least 16, `base` a multiple of it.
    pub fn set_memory_bar(&mut self, index: usize, base: u32, size: u32) {
        debug_assert!(index < 6 && size.is_power_of_two() && size >= 16);
        let at = FIRST_BAR + index * 4;
        self.put(at, &base.to_le_bytes());
        self.allow(at, &(!(size - 1)).to_le_bytes());
    }

    /// The base that BAR `index` holds now, whether or not it is decoded.
    pub fn memory_bar(&self, index: usize) -> u32 {
        self.u32_at(FIRST_BAR + index * 4) & !0xF
    }

    /// Whether the command register lets the function answer memory accesses.
    pub fn memory_enabled(&self) -> bool {
        self.u16_at(COMMAND) & COMMAND_MEMORY != 0
    }

    /// Appends a capability and returns its offset.
    ///
    /// `body` is what follows the id and the link; its bits set in `writable` (as long as
    /// `body`, or empty for none) may be changed by the guest.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.next_capability;
        debug_assert!(at + 2 + body.len() <= SIZE);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        self.bytes[self.last_link] = at as u8;
        self.last_link = at + 1;
        self.next_capability = (at + 2 + body.len()).next_multiple_of(4);
        let status = self.u16_at(STATUS) | STATUS_CAPABILITIES;
        self.put(STATUS, &status.to_le_bytes());
        at
    }

    /// Sets bytes whatever the guest may write.
    pub fn put(&mut self, offset: usize, data: &[u8]) {
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// What the guest reads at `offset`; all ones beyond the header.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = *offset
                .checked_add(i)
                .and_then(|at| self.bytes.get(at))
                .unwrap_or(&0xFF);
        }
    }

    /// What the guest writes at `offset`; bits that are not writable stay.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            let Some(at) = offset.checked_add(i).filter(|at| *at < SIZE) else {
                return;
            };
            let mask = self.writable[at];
            self.bytes[at] = (self.bytes[at] & !mask) | (byte & mask);
        }
    }

    /// The little-endian 16-bit value at `offset`.
    pub fn u16_at(&self, offset: usize) -> u16 {
        let mut value = [0; 2];
        self.read(offset, &mut value);
        u16::from_le_bytes(value)
    }

    /// The little-endian 32-bit value at `offset`.
    pub fn u32_at(&self, offset: usize) -> u32 {
        let mut value = [0; 4];
        self.read(offset, &mut value);
        u32::from_le_bytes(value)
    }
}

#[cfg(test)]
#[path = "config_space_test.rs"]
mod tests;
