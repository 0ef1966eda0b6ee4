//! The keyboard controller (i8042), of which only the reset line is connected: the way in
//! which kernels reset a PC when ACPI has not worked.

use std::convert::Infallible;

use vm_superio::{I8042Device, Trigger};

use crate::bus::BusDevice;
use crate::events::{Event, Notifier};

/// The controller's data port.
pub const DATA: u16 = 0x60;
/// The controller's command and status port.
pub const COMMAND: u16 = 0x64;

struct ResetLine(Notifier);

impl Trigger for ResetLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.tell(Event::Reset);
        Ok(())
    }
}

/// One port of the controller, as a device on the bus.
pub struct Keyboard {
    controller: I8042Device<ResetLine>,
    /// Which of the two ports this is, counted from [`DATA`].
    port: u8,
}

impl Keyboard {
    /// The port at `address` ([`DATA`] or [`COMMAND`]).
    pub fn new(address: u16, notifier: Notifier) -> Self {
        Self {
            controller: I8042Device::new(ResetLine(notifier)),
            port: (address - DATA) as u8,
        }
    }
}

impl BusDevice for Keyboard {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let [byte] = data {
            *byte = self.controller.read(self.port);
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let [byte] = data {
            // Infallible: the trigger cannot fail.
            let _ = self.controller.write(self.port, *byte);
        }
    }
}
