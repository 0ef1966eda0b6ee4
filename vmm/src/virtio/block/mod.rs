//! A block device (section 5.2) over a [`Disk`].

mod request;

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use super::device::{
    ActivateError, Activation, DeviceKind, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC,
    VirtioDevice, copy_config,
};
use super::interrupt::Interrupt;
use super::worker::{Events, Service, ServiceError, Worker, drain};
use crate::disk::{Disk, SECTOR};
use crate::memory::GuestMemory;

/// At most `seg_max` pieces of data in a request.
pub const F_SEG_MAX: u64 = 1 << 2;
/// The device cannot be written.
pub const F_RO: u64 = 1 << 5;
/// The configuration has the block size.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// The device has a cache that can be flushed.
pub const F_FLUSH: u64 = 1 << 9;
/// The device has more than one queue.
pub const F_MQ: u64 = 1 << 12;
/// The device can discard sectors.
pub const F_DISCARD: u64 = 1 << 13;
/// The device can write zeroes without being sent them.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// Length of `struct virtio_blk_config` up to the features used here.
pub const CONFIG_SIZE: usize = 60;
/// Offset of the number of queues in it.
pub const CONFIG_NUM_QUEUES: usize = 34;

const QUEUE_SIZE: u16 = 256;
const MAX_QUEUES: u16 = 16;
const SERIAL_SIZE: usize = 20;

/// A disk as a virtio device.
pub struct VirtioBlock {
    target: Arc<Target>,
    queues: u16,
    workers: Vec<Worker>,
}

/// What the queues of a device share.
pub(super) struct Target {
    disk: Disk,
    serial: [u8; SERIAL_SIZE],
}

impl VirtioBlock {
    /// `disk` with what the guest shows as its `serial` number (cut to 20 bytes, empty for
    /// none) and 1–16 `queues`, each with a thread of its own.
    pub fn new(disk: Disk, serial: &str, queues: u16) -> Self {
        let mut field = [0; SERIAL_SIZE];
        let used = serial.len().min(SERIAL_SIZE);
        field[..used].copy_from_slice(&serial.as_bytes()[..used]);
        Self {
            target: Arc::new(Target {
                disk,
                serial: field,
            }),
            queues: queues.clamp(1, MAX_QUEUES),
            workers: Vec::new(),
        }
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        let mut config = [0; CONFIG_SIZE];
        let mut put = |at: usize, value: &[u8]| config[at..at + value.len()].copy_from_slice(value);
        put(0, &self.target.disk.sectors().to_le_bytes());
        // A request's header and status take two descriptors of the queue.
        put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(CONFIG_NUM_QUEUES, &self.queues.to_le_bytes());
        let most = request::MAX_RANGE_SECTORS.to_le_bytes();
        put(36, &most);
        put(40, &request::MAX_RANGES.to_le_bytes());
        // Discarding less than a page of the host's file system frees nothing.
        put(44, &8_u32.to_le_bytes());
        put(48, &most);
        put(52, &request::MAX_RANGES.to_le_bytes());
        put(56, &[1]);
        config
    }
}

impl VirtioDevice for VirtioBlock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queues)]
    }

    fn features(&self) -> u64 {
        let mut features =
            F_SEG_MAX | F_BLK_SIZE | F_FLUSH | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
        if self.target.disk.read_only() {
            features |= F_RO;
        } else {
            features |= F_DISCARD | F_WRITE_ZEROES;
        }
        if self.queues > 1 {
            features |= F_MQ;
        }
        features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config(), offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.is_empty() {
            return Err(ActivateError::Queue(0));
        }
        for active in activation.queues {
            let service = BlockQueue {
                target: self.target.clone(),
                // Without FLUSH the driver counts on a write being stable when it is done.
                write_through: activation.features & F_FLUSH == 0,
                memory: activation.memory.clone(),
                index: active.index,
                queue: active.queue,
                kick: active.kick,
                interrupt: activation.interrupt.clone(),
            };
            let name = format!("block-{}", active.index);
            let worker = Worker::for_device(&name, service, activation.interrupt.clone());
            match worker {
                Ok(worker) => self.workers.push(worker),
                Err(error) => {
                    self.reset();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
    }
}

impl Drop for VirtioBlock {
    fn drop(&mut self) {
        self.reset();
    }
}

struct BlockQueue {
    target: Arc<Target>,
    write_through: bool,
    memory: GuestMemory,
    index: u16,
    queue: Queue,
    kick: EventFd,
    interrupt: Interrupt,
}

impl Service for BlockQueue {
    fn register(&self, events: &Events) -> io::Result<()> {
        events.watch(&self.kick, 0)
    }

    fn ready(&mut self, events: &Events, _: u64) -> Result<(), ServiceError> {
        // Someone may have emptied it between the wait and now: a reset does.
        let _ = self.kick.read();
        let Self { target, memory, .. } = self;
        let (target, memory, write_through) = (&**target, &*memory, self.write_through);
        drain(
            &mut self.queue,
            memory,
            events,
            (&self.interrupt, self.index),
            |chain| request::serve(target, write_through, memory, chain),
        )
    }
}

#[cfg(test)]
#[path = "block_test.rs"]
mod tests;
