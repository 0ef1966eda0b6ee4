//! The driver's side of a virtqueue, for tests: writes rings into guest memory.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsRawFd;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Activation, ActiveQueue};
use super::interrupt::Interrupt;
use crate::memory::{self, GuestMemory};

pub(crate) const WRITE: u16 = 2;
pub(crate) const NEXT: u16 = 1;
pub(crate) const INDIRECT: u16 = 4;

/// A part of a chain: address, length, whether the device writes it.
pub(crate) type Part = (u64, u32, bool);

pub(crate) struct FakeQueue {
    memory: GuestMemory,
    pub base: u64,
    pub size: u16,
    next_descriptor: u16,
    next_avail: u16,
    seen_used: u16,
}

impl FakeQueue {
    /// Rings of `size` at `base`: 16 bytes of table, 2 of avail and 8 of used ring an entry.
    pub(crate) fn new(memory: &GuestMemory, base: u64, size: u16) -> Self {
        let queue = Self {
            memory: memory.clone(),
            base,
            size,
            next_descriptor: 0,
            next_avail: 0,
            seen_used: 0,
        };
        let len = (queue.end() - base) as usize;
        memory
            .write_slice(&vec![0; len], GuestAddress(base))
            .unwrap();
        queue
    }

    pub(crate) fn avail(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    pub(crate) fn used(&self) -> u64 {
        (self.avail() + 6 + 2 * u64::from(self.size)).next_multiple_of(4)
    }

    pub(crate) fn end(&self) -> u64 {
        self.used() + 6 + 8 * u64::from(self.size)
    }

    pub(crate) fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.set_desc_table_address(Some(self.base as u32), None);
        queue.set_avail_ring_address(Some(self.avail() as u32), None);
        queue.set_used_ring_address(Some(self.used() as u32), None);
        queue.set_ready(true);
        assert!(queue.is_valid(&self.memory));
        queue
    }

    pub(crate) fn put_descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let at = GuestAddress(self.base + 16 * u64::from(index));
        self.memory.write_slice(&bytes, at).unwrap();
    }

    pub(crate) fn publish(&mut self, head: u16) {
        let slot = self.avail() + 4 + 2 * u64::from(self.next_avail % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.next_avail = self.next_avail.wrapping_add(1);
        let index = GuestAddress(self.avail() + 2);
        self.memory.write_obj(self.next_avail, index).unwrap();
    }

    /// Makes a chain of `parts` available and returns its head.
    pub(crate) fn add(&mut self, parts: &[Part]) -> u16 {
        let head = self.next_descriptor;
        for (i, (address, len, write)) in parts.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % self.size;
            let more = i + 1 < parts.len();
            let flags = if *write { WRITE } else { 0 } | if more { NEXT } else { 0 };
            self.put_descriptor(index, *address, *len, flags, self.next_descriptor);
        }
        self.publish(head);
        head
    }

    /// The next chain that came back: its head and the bytes written.
    pub(crate) fn take_used(&mut self) -> Option<(u32, u32)> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.used() + 2)).unwrap();
        if index == self.seen_used {
            return None;
        }
        let at = self.used() + 4 + 8 * u64::from(self.seen_used % self.size);
        self.seen_used = self.seen_used.wrapping_add(1);
        let id = self.memory.read_obj(GuestAddress(at)).unwrap();
        let len = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
        Some((id, len))
    }
}

/// 64 MiB of guest memory.
pub(crate) fn ram() -> GuestMemory {
    memory::create(memory::MIN_MIB).unwrap()
}

/// An active device's surroundings: one queue a ring, an interrupt line for each.
pub(crate) struct Bench {
    pub memory: GuestMemory,
    pub kicks: Vec<EventFd>,
    pub lines: Vec<EventFd>,
    pub interrupt: Interrupt,
}

impl Bench {
    pub(crate) fn new(memory: &GuestMemory, queues: u16) -> Self {
        let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let lines: Vec<_> = (0..=queues).map(|_| event()).collect();
        let shared = lines.iter().map(|l| l.try_clone().unwrap()).collect();
        let interrupt = Interrupt::new(shared, usize::from(queues));
        interrupt.set_msix(true);
        interrupt.set_config_vector(queues);
        for index in 0..queues {
            interrupt.set_queue_vector(index, index);
        }
        Self {
            memory: memory.clone(),
            kicks: (0..queues).map(|_| event()).collect(),
            lines,
            interrupt,
        }
    }

    pub(crate) fn activation(&self, features: u64, rings: &[&FakeQueue]) -> Activation {
        let queues = rings.iter().enumerate().map(|(index, ring)| ActiveQueue {
            index: index as u16,
            queue: ring.queue(),
            kick: self.kicks[index].try_clone().unwrap(),
        });
        Activation {
            memory: self.memory.clone(),
            features,
            queues: queues.collect(),
            interrupt: self.interrupt.clone(),
        }
    }

    /// Kicks queue `index` and waits until a chain of `ring` comes back.
    pub(crate) fn run(&self, index: usize, ring: &mut FakeQueue) -> (u32, u32) {
        self.kicks[index].write(1).unwrap();
        loop {
            if let Some(used) = ring.take_used() {
                return used;
            }
            wait(&self.lines[index]);
        }
    }
}

/// Waits until `event` is written and empties it. Panics when that never happens.
pub(crate) fn wait(event: &EventFd) {
    let mut poll = libc::pollfd {
        fd: event.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `poll` is one valid pollfd, and the count says so.
    let ready = unsafe { libc::poll(&mut poll, 1, 60_000) };
    assert_eq!(ready, 1, "the event never came");
    let _ = event.read();
}
