//! A network card (section 5.1) on a tap interface of this host.

mod frames;
mod mac;
mod tap;

use std::io;

use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

pub use mac::MacAddress;

use self::frames::{Receiver, send};
use self::tap::Tap;
use super::device::{
    ActivateError, Activation, ActiveQueue, DeviceError, DeviceKind, VIRTIO_F_EVENT_IDX,
    VIRTIO_F_INDIRECT_DESC, VirtioDevice, copy_config,
};
use super::interrupt::Interrupt;
use super::worker::{Events, Service, ServiceError, Worker, drain};
use crate::memory::GuestMemory;

/// The device completes checksums of packets it is sent.
const F_CSUM: u64 = 1 << 0;
/// The driver takes packets whose checksum is incomplete.
pub(crate) const F_GUEST_CSUM: u64 = 1 << 1;
const F_MAC: u64 = 1 << 5;
/// The driver takes TCP/IPv4 packets longer than a frame.
pub(crate) const F_GUEST_TSO4: u64 = 1 << 7;
/// The driver takes TCP/IPv6 packets longer than a frame.
pub(crate) const F_GUEST_TSO6: u64 = 1 << 8;
/// The driver takes such packets with congestion bits.
pub(crate) const F_GUEST_ECN: u64 = 1 << 9;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_HOST_ECN: u64 = 1 << 13;
/// A packet may be spread over several receive buffers.
const F_MRG_RXBUF: u64 = 1 << 15;

const QUEUE_SIZE: u16 = 256;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Most frames received before other work gets its turn.
const BURST: usize = 256;

const TOKEN_RECEIVE: u64 = 0;
const TOKEN_TRANSMIT: u64 = 1;
const TOKEN_TAP: u64 = 2;

/// A network card on a tap interface.
pub struct TapNet {
    tap: Tap,
    mac: MacAddress,
    worker: Option<Worker>,
}

impl TapNet {
    /// Attaches to the tap interface `name`, which must exist in the network namespace of
    /// this thread. Without a `mac` the card gets one derived from the name.
    pub fn open(name: &str, mac: Option<MacAddress>) -> Result<Self, DeviceError> {
        Ok(Self {
            tap: Tap::open(name)?,
            mac: mac.unwrap_or_else(|| MacAddress::derived_from(name)),
            worker: None,
        })
    }

    /// The card's address.
    pub fn mac(&self) -> MacAddress {
        self.mac
    }
}

impl VirtioDevice for TapNet {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn features(&self) -> u64 {
        F_CSUM
            | F_GUEST_CSUM
            | F_MAC
            | F_GUEST_TSO4
            | F_GUEST_TSO6
            | F_GUEST_ECN
            | F_HOST_TSO4
            | F_HOST_TSO6
            | F_HOST_ECN
            | F_MRG_RXBUF
            | VIRTIO_F_INDIRECT_DESC
            | VIRTIO_F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.mac.octets(), offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut receive = None;
        let mut transmit = None;
        for active in activation.queues {
            match active.index {
                RECEIVE => receive = Some(active),
                TRANSMIT => transmit = Some(active),
                _ => {}
            }
        }
        let receive = receive.ok_or(ActivateError::Queue(RECEIVE))?;
        let transmit = transmit.ok_or(ActivateError::Queue(TRANSMIT))?;
        self.tap.set_offloads(activation.features)?;
        let card = Card {
            tap: self.tap.try_clone()?,
            memory: activation.memory,
            receive,
            transmit,
            receiver: Receiver::new(activation.features & F_MRG_RXBUF != 0),
            listening: true,
            interrupt: activation.interrupt.clone(),
        };
        self.worker = Some(Worker::for_device("net", card, activation.interrupt)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

struct Card {
    tap: Tap,
    memory: GuestMemory,
    receive: ActiveQueue,
    transmit: ActiveQueue,
    receiver: Receiver,
    /// Whether the tap is watched: not while a frame waits for the driver's buffers.
    listening: bool,
    interrupt: Interrupt,
}

impl Service for Card {
    fn register(&self, events: &Events) -> io::Result<()> {
        events.watch(&self.receive.kick, TOKEN_RECEIVE)?;
        events.watch(&self.transmit.kick, TOKEN_TRANSMIT)?;
        events.watch(&self.tap, TOKEN_TAP)
    }

    fn ready(&mut self, events: &Events, token: u64) -> Result<(), ServiceError> {
        match token {
            TOKEN_TRANSMIT => {
                drained(&self.transmit.kick);
                let (tap, memory) = (&self.tap, &self.memory);
                drain(
                    &mut self.transmit.queue,
                    memory,
                    events,
                    (&self.interrupt, TRANSMIT),
                    |chain| {
                        send(tap.file(), memory, chain);
                        0
                    },
                )
            }
            TOKEN_RECEIVE => {
                drained(&self.receive.kick);
                self.receive(events)
            }
            _ => self.receive(events),
        }
    }
}

impl Card {
    /// Moves frames from the tap to the driver until one side has no more.
    fn receive(&mut self, events: &Events) -> Result<(), ServiceError> {
        let queue = &mut self.receive.queue;
        let mut starved = false;
        let mut delivered = false;
        // A bound, so that a flood of frames does not keep the other queue waiting: what is
        // left makes the tap readable again at once.
        for _ in 0..BURST {
            if events.stopping() || !self.receiver.fetch(self.tap.file())? {
                break;
            }
            if self.receiver.deliver(queue, &self.memory)? {
                delivered = true;
                continue;
            }
            // The frame waits for buffers. Look again after asking for a kick, or one that
            // came in between would be missed.
            queue.enable_notification(&self.memory)?;
            if !self.receiver.deliver(queue, &self.memory)? {
                starved = true;
                break;
            }
            delivered = true;
        }
        if delivered && queue.needs_notification(&self.memory)? {
            self.interrupt.signal_queue(RECEIVE);
        }
        if !starved {
            queue.disable_notification(&self.memory)?;
        }
        if starved && self.listening {
            events.forget(&self.tap)?;
        } else if !starved && !self.listening {
            events.watch(&self.tap, TOKEN_TAP)?;
        }
        self.listening = !starved;
        Ok(())
    }
}

fn drained(kick: &EventFd) {
    // Someone may have emptied it between the wait and now: a reset does.
    let _ = kick.read();
}

#[cfg(test)]
#[path = "net_test.rs"]
mod tests;
