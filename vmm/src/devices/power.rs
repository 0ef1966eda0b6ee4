//! Power-off, reset and the power button: ACPI's fixed registers (ACPI 6.5, 4.8.3).
//!
//! One block of ports holds PM1 status and enable, PM1 control and the reset register. The
//! button is a *fixed* event: pressing it sets a status bit and raises the SCI, and the
//! guest's own policy decides what then happens.

use std::sync::Arc;

use kvm_ioctls::VmFd;

use crate::bus::BusDevice;
use crate::events::{Event, Notifier};
use crate::virtio::LogBudget;

/// First port of the block.
pub const BASE: u16 = 0x600;
/// Number of ports in the block.
pub const PORTS: u64 = 16;
/// PM1 event block: status, then enable, 16 bits each.
pub const PM1_EVENT: u16 = BASE;
/// PM1 control register, 16 bits.
pub const PM1_CONTROL: u16 = BASE + 4;
/// Reset register, 8 bits.
pub const RESET: u16 = BASE + 8;
/// What resets the machine when written to [`RESET`].
pub const RESET_VALUE: u8 = 0x42;
/// The interrupt line of ACPI events.
pub const SCI: u16 = 9;
/// The sleep type that means "off", in `\_S5` and PM1 control.
pub const S5_SLEEP_TYPE: u8 = 5;

/// PM1 status and enable: the power button.
const POWER_BUTTON: u16 = 1 << 8;
/// PM1 status bits that a guest clears by writing ones: those that exist here.
const STATUS_BITS: u16 = POWER_BUTTON;
/// PM1 enable bits that keep what is written. Global lock and alarm clock never raise an
/// event here, but drivers complain of a machine on which they cannot be enabled.
const ENABLE_BITS: u16 = 1 << 5 | POWER_BUTTON | 1 << 10;
/// PM1 control: ACPI mode, in which this machine always is.
const SCI_EN: u16 = 1;
/// PM1 control: go to sleep now.
const SLP_EN: u16 = 1 << 13;

static COMPLAINTS: LogBudget = LogBudget::new();

/// A line on which the machine interrupts its guest.
pub trait InterruptLine: Send {
    /// Sets the line's level.
    fn set(&self, active: bool);
}

/// The SCI of a KVM virtual machine.
pub struct SciLine(pub Arc<VmFd>);

impl InterruptLine for SciLine {
    fn set(&self, active: bool) {
        if let Err(error) = self.0.set_irq_line(u32::from(SCI), active) {
            tracing::warn!(%error, "cannot signal an ACPI event");
        }
    }
}

/// The fixed registers.
pub struct Power {
    sci: Box<dyn InterruptLine>,
    notifier: Notifier,
    status: u16,
    enable: u16,
    control: u16,
}

impl Power {
    /// Registers that interrupt through `sci` and tell their events to `notifier`.
    pub fn new(sci: Box<dyn InterruptLine>, notifier: Notifier) -> Self {
        Self {
            sci,
            notifier,
            status: 0,
            enable: 0,
            control: SCI_EN,
        }
    }

    /// Presses the power button. `false` when the guest has not enabled it, and so will not
    /// notice.
    pub fn press_button(&mut self) -> bool {
        self.status |= POWER_BUTTON;
        self.update_sci();
        self.enable & POWER_BUTTON != 0
    }

    fn update_sci(&self) {
        self.sci.set(self.status & self.enable != 0);
    }

    fn control_written(&mut self, value: u16) {
        self.control = (value & !SLP_EN) | SCI_EN;
        let sleep_type = (value >> 10) & 7;
        if value & SLP_EN != 0 {
            if sleep_type == u16::from(S5_SLEEP_TYPE) {
                self.notifier.tell(Event::PowerOff);
            } else if COMPLAINTS.allows() {
                tracing::warn!(
                    sleep_type,
                    "the guest asked for a sleep that is not offered"
                );
            }
        }
    }

    fn register(&self, offset: u64) -> u8 {
        let [status, enable, control] =
            [self.status, self.enable, self.control].map(u16::to_le_bytes);
        match offset {
            0 | 1 => status[offset as usize],
            2 | 3 => enable[offset as usize - 2],
            4 | 5 => control[offset as usize - 4],
            _ => 0,
        }
    }
}

impl BusDevice for Power {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = self.register(at);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let word = match *data {
            [low] => u16::from(low),
            [low, high, ..] => u16::from_le_bytes([low, high]),
            [] => return,
        };
        match (offset, data.len()) {
            (0, 2 | 4) => self.status &= !(word & STATUS_BITS),
            (2, 2) => self.enable = word & ENABLE_BITS,
            (4, 2) => self.control_written(word),
            (8, 1) if word == u16::from(RESET_VALUE) => self.notifier.tell(Event::Reset),
            _ => tracing::debug!(offset, len = data.len(), "odd write to the power registers"),
        }
        self.update_sci();
    }
}

#[cfg(test)]
#[path = "power_test.rs"]
mod tests;
