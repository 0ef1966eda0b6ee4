//! MSI-X: the vector table, the pending bits, and the eventfd behind each vector.
//!
//! PCI Local Bus Specification 3.0, section 6.8.2. A vector's eventfd is attached to KVM
//! exactly while the vector is unmasked and routed. While it is not, writes to it pile up
//! in its counter: that counter *is* the pending bit, and attaching it delivers what is
//! pending. So whoever signals never has to know whether a vector is masked, and no
//! interrupt is lost between two states.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::events::{MsiMessage, VmEvents};
use crate::virtio::LogBudget;

/// Most vectors a function can have here (what one page of the table holds).
pub const MAX_VECTORS: u16 = 256;

/// Message control register: the function uses MSI-X instead of its pin.
const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control register: all vectors are masked.
const CONTROL_MASK_ALL: u16 = 1 << 14;
const ENTRY_SIZE: u64 = 16;

static COMPLAINTS: LogBudget = LogBudget::new();

struct Vector {
    message: MsiMessage,
    masked: bool,
    line: EventFd,
    gsi: u32,
    routed: Option<MsiMessage>,
    attached: bool,
}

/// The MSI-X state of one function.
pub struct Msix {
    events: Arc<dyn VmEvents>,
    vectors: Vec<Vector>,
    enabled: bool,
    mask_all: bool,
}

impl Msix {
    /// `count` masked vectors (at most [`MAX_VECTORS`]).
    pub fn new(events: Arc<dyn VmEvents>, count: u16) -> io::Result<Self> {
        let mut msix = Self {
            events,
            vectors: Vec::new(),
            enabled: false,
            mask_all: false,
        };
        for _ in 0..count.min(MAX_VECTORS) {
            let line = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
            let gsi = msix.events.allocate_gsi()?;
            msix.vectors.push(Vector {
                message: MsiMessage::default(),
                masked: true,
                line,
                gsi,
                routed: None,
                attached: false,
            });
        }
        Ok(msix)
    }

    /// The eventfds to signal, one per vector.
    pub fn lines(&self) -> io::Result<Vec<EventFd>> {
        self.vectors.iter().map(|v| v.line.try_clone()).collect()
    }

    /// What the message control register reads as, apart from its two writable bits.
    pub fn control(&self) -> u16 {
        (self.vectors.len() as u16).saturating_sub(1)
    }

    /// Whether the guest has turned MSI-X on.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Takes a new value of the message control register.
    pub fn set_control(&mut self, control: u16) {
        self.enabled = control & CONTROL_ENABLE != 0;
        self.mask_all = control & CONTROL_MASK_ALL != 0;
        for index in 0..self.vectors.len() {
            self.settle(index);
        }
    }

    /// Forgets interrupts that are pending behind a mask, as a device reset does.
    pub fn clear_pending(&mut self) {
        for vector in self.vectors.iter().filter(|v| !v.attached) {
            // An empty counter is not an error here.
            let _ = vector.line.read();
        }
    }

    /// What the guest reads in the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            let at = offset.saturating_add(i as u64);
            let Some(vector) = self.vectors.get((at / ENTRY_SIZE) as usize) else {
                *byte = 0;
                continue;
            };
            let mut entry = [0; ENTRY_SIZE as usize];
            entry[..8].copy_from_slice(&vector.message.address.to_le_bytes());
            entry[8..12].copy_from_slice(&vector.message.data.to_le_bytes());
            entry[12] = u8::from(vector.masked);
            *byte = entry[(at % ENTRY_SIZE) as usize];
        }
    }

    /// What the guest writes in the table; only aligned words of 4 or 8 bytes count.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        match (data.len(), offset % 8) {
            (4, 0 | 4) => self.write_word(offset, data),
            (8, 0) => {
                self.write_word(offset, &data[..4]);
                self.write_word(offset + 4, &data[4..]);
            }
            _ => tracing::debug!(offset, len = data.len(), "odd write to an MSI-X table"),
        }
    }

    fn write_word(&mut self, offset: u64, data: &[u8]) {
        let index = (offset / ENTRY_SIZE) as usize;
        let (Some(vector), Ok(bytes)) = (self.vectors.get_mut(index), data.try_into()) else {
            return;
        };
        let word = u32::from_le_bytes(bytes);
        let address = &mut vector.message.address;
        match offset % ENTRY_SIZE {
            // The two low bits are reserved (6.8.2.7).
            0 => *address = (*address & !0xFFFF_FFFF) | u64::from(word & !3),
            4 => *address = (*address & 0xFFFF_FFFF) | (u64::from(word) << 32),
            8 => vector.message.data = word,
            _ => vector.masked = word & 1 != 0,
        }
        self.settle(index);
    }

    /// What the guest reads in the pending bit array.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            let first = offset.saturating_add(i as u64).saturating_mul(8) as usize;
            *byte = (0..8)
                .filter(|bit| {
                    self.vectors
                        .get(first.saturating_add(*bit))
                        .is_some_and(Vector::pending)
                })
                .fold(0, |bits, bit| bits | 1 << bit);
        }
    }

    /// Attaches or detaches a vector's eventfd as its masks now demand.
    fn settle(&mut self, index: usize) {
        let open = self.enabled && !self.mask_all;
        let vector = &mut self.vectors[index];
        let result = if open && !vector.masked {
            vector.open(&*self.events)
        } else {
            vector.close(&*self.events)
        };
        if let Err(error) = result
            && COMPLAINTS.allows()
        {
            tracing::error!(index, message = ?vector.message, %error, "interrupt vector is dead");
        }
    }
}

impl Vector {
    fn open(&mut self, events: &dyn VmEvents) -> io::Result<()> {
        if self.routed != Some(self.message) {
            events.route(self.gsi, self.message)?;
            self.routed = Some(self.message);
        }
        if !self.attached {
            events.attach_irqfd(&self.line, self.gsi)?;
            self.attached = true;
        }
        Ok(())
    }

    fn close(&mut self, events: &dyn VmEvents) -> io::Result<()> {
        if self.attached {
            self.attached = false;
            events.detach_irqfd(&self.line, self.gsi)?;
        }
        Ok(())
    }

    fn pending(&self) -> bool {
        if self.attached {
            return false;
        }
        let mut poll = libc::pollfd {
            fd: self.line.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `poll` is one valid pollfd, and the count says so.
        let ready = unsafe { libc::poll(&mut poll, 1, 0) };
        ready == 1 && poll.revents & libc::POLLIN != 0
    }
}

impl Drop for Msix {
    fn drop(&mut self) {
        for vector in &mut self.vectors {
            if let Err(error) = vector.close(&*self.events) {
                tracing::warn!(%error, "cannot detach an interrupt");
            }
            self.events.release_gsi(vector.gsi);
        }
    }
}

#[cfg(test)]
#[path = "msix_test.rs"]
mod tests;
