//! An entropy source (section 5.4), fed by the host kernel's generator.

use std::io;

use virtio_queue::{DescriptorChain, Queue};
use vmm_sys_util::eventfd::EventFd;

use super::chain::split;
use super::device::{
    ActivateError, Activation, DeviceKind, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VirtioDevice,
};
use super::interrupt::Interrupt;
use super::log_budget::LogBudget;
use super::worker::{Events, Service, ServiceError, Worker, drain};
use crate::memory::GuestMemory;

/// Most bytes given for one request; a driver that wants more asks again.
const MOST: usize = 4096;
const QUEUE_SIZE: u16 = 64;

static COMPLAINTS: LogBudget = LogBudget::new();

/// The entropy device.
#[derive(Default)]
pub struct Rng {
    worker: Option<Worker>,
}

impl Rng {
    /// A device that gives the host's random bytes.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Entropy
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX
    }

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let active = activation.queues.pop().ok_or(ActivateError::Queue(0))?;
        let service = Source {
            memory: activation.memory,
            queue: active.queue,
            kick: active.kick,
            interrupt: activation.interrupt.clone(),
        };
        self.worker = Some(Worker::for_device("rng", service, activation.interrupt)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

struct Source {
    memory: GuestMemory,
    queue: Queue,
    kick: EventFd,
    interrupt: Interrupt,
}

impl Service for Source {
    fn register(&self, events: &Events) -> io::Result<()> {
        events.watch(&self.kick, 0)
    }

    fn ready(&mut self, events: &Events, _: u64) -> Result<(), ServiceError> {
        // Someone may have emptied it between the wait and now: a reset does.
        let _ = self.kick.read();
        let memory = &self.memory;
        let interrupt = (&self.interrupt, 0);
        drain(&mut self.queue, memory, events, interrupt, |chain| {
            fill(memory, chain)
        })
    }
}

fn fill(memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> u32 {
    let mut writable = match split(memory, chain) {
        Ok((_, writable)) => writable,
        Err(error) => {
            if COMPLAINTS.allows() {
                tracing::warn!(%error, "an entropy driver sent a broken chain");
            }
            return 0;
        }
    };
    let mut bytes = [0; MOST];
    let wanted = writable.len().min(MOST);
    match random(&mut bytes[..wanted]) {
        Ok(got) => writable.write_from(&bytes[..got]) as u32,
        Err(error) => {
            if COMPLAINTS.allows() {
                tracing::error!(%error, "the host gives no random bytes");
            }
            0
        }
    }
}

fn random(out: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length are those of `out`.
    let got = unsafe { libc::getrandom(out.as_mut_ptr().cast(), out.len(), 0) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
#[path = "rng_test.rs"]
mod tests;
