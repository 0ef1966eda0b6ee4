//! COM1: a 16550 whose output goes to the machine's consoles.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// Ports of a 16550.
pub const PORTS: u64 = 8;
/// Interrupt line of COM1.
pub const IRQ: u32 = 4;

/// Input that waits for the guest, at most; what is typed beyond it is lost, as on a real
/// line without flow control.
const INPUT_MAX: usize = 64 << 10;

/// The interrupt, delivered through an irqfd.
struct Line(EventFd);

impl Trigger for Line {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// Remembers that the guest made room for input.
#[derive(Default)]
struct Room(std::sync::atomic::AtomicBool);

impl SerialEvents for Room {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The serial port with the input that it has not taken yet.
pub struct SerialPort {
    uart: Serial<Line, Arc<Room>, Box<dyn Write + Send>>,
    room: Arc<Room>,
    waiting: VecDeque<u8>,
}

/// A serial port that consoles can type into.
pub type SharedSerial = Arc<Mutex<SerialPort>>;

impl SerialPort {
    /// A port that interrupts through `line` and writes to `out`.
    pub fn new(line: EventFd, out: Box<dyn Write + Send>) -> Self {
        let room = Arc::new(Room::default());
        Self {
            uart: Serial::with_events(Line(line), room.clone(), out),
            room,
            waiting: VecDeque::new(),
        }
    }

    /// Types `bytes` at the guest.
    pub fn input(&mut self, bytes: &[u8]) {
        let free = INPUT_MAX.saturating_sub(self.waiting.len());
        self.waiting.extend(&bytes[..bytes.len().min(free)]);
        self.refill();
    }

    fn refill(&mut self) {
        let n = self.uart.fifo_capacity().min(self.waiting.len());
        if n == 0 {
            return;
        }
        let bytes: Vec<u8> = self.waiting.iter().take(n).copied().collect();
        match self.uart.enqueue_raw_bytes(&bytes) {
            Ok(taken) => drop(self.waiting.drain(..taken)),
            Err(error) => tracing::debug!(?error, "the serial port takes no input"),
        }
    }
}

/// Types `bytes` at the guest behind `serial`.
pub fn type_into(serial: &SharedSerial, bytes: &[u8]) {
    serial
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .input(bytes);
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let [byte] = data {
            *byte = self.uart.read(offset as u8);
            if self
                .room
                .0
                .swap(false, std::sync::atomic::Ordering::Relaxed)
            {
                self.refill();
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for byte in data {
            if let Err(error) = self.uart.write(offset as u8, *byte) {
                tracing::debug!(?error, "console output lost");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Guards that typed input reaches the guest whole and in order.
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn input_longer_than_the_fifo_arrives_in_order() {
        let mut port = SerialPort::new(EventFd::new(0).unwrap(), Box::new(std::io::sink()));
        let typed: Vec<u8> = (0..200).collect();
        port.input(&typed);
        let mut seen = Vec::new();
        let mut byte = [0];
        loop {
            port.read(5, &mut byte);
            if byte[0] & 1 == 0 {
                break;
            }
            port.read(0, &mut byte);
            seen.push(byte[0]);
        }
        assert_eq!(seen, typed);
    }
}
