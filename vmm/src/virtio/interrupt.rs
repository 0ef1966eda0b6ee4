//! How a device tells its driver that something happened.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// The vector number that means none (section 4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xFFFF;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

struct Shared {
    lines: Vec<EventFd>,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    msix: AtomicBool,
    isr: AtomicU8,
    needs_reset: AtomicBool,
}

/// The interrupts of one device. Clones share their state.
#[derive(Clone)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

impl Interrupt {
    /// `lines` are the eventfds of the MSI-X vectors.
    pub fn new(lines: Vec<EventFd>, queues: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                lines,
                config_vector: AtomicU16::new(NO_VECTOR),
                queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
                msix: AtomicBool::new(false),
                isr: AtomicU8::new(0),
                needs_reset: AtomicBool::new(false),
            }),
        }
    }

    /// Says that buffers of queue `index` have been used.
    pub fn signal_queue(&self, index: u16) {
        self.signal(self.queue_vector(index), ISR_QUEUE);
    }

    /// Says that the configuration or the status has changed.
    pub fn signal_config(&self) {
        self.signal(self.config_vector(), ISR_CONFIG);
    }

    /// Gives the device up until the driver resets it (section 2.1.2).
    pub fn demand_reset(&self) {
        self.shared.needs_reset.store(true, Ordering::Release);
        self.signal_config();
    }

    /// The eventfd to write to for queue `index`, for a process that serves it from
    /// outside; none when the driver polls.
    pub fn queue_line(&self, index: u16) -> io::Result<Option<EventFd>> {
        self.shared
            .lines
            .get(usize::from(self.queue_vector(index)))
            .map(EventFd::try_clone)
            .transpose()
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.shared.needs_reset.load(Ordering::Acquire)
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.shared.config_vector.load(Ordering::Acquire)
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        let vector = self.existing(vector);
        self.shared.config_vector.store(vector, Ordering::Release);
    }

    pub(super) fn queue_vector(&self, index: u16) -> u16 {
        self.shared
            .queue_vectors
            .get(usize::from(index))
            .map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    pub(super) fn set_queue_vector(&self, index: u16, vector: u16) {
        if let Some(place) = self.shared.queue_vectors.get(usize::from(index)) {
            place.store(self.existing(vector), Ordering::Release);
        }
    }

    pub(super) fn set_msix(&self, enabled: bool) {
        self.shared.msix.store(enabled, Ordering::Release);
    }

    /// Reads and clears the ISR status (section 4.1.4.5).
    pub(super) fn take_isr(&self) -> u8 {
        self.shared.isr.swap(0, Ordering::AcqRel)
    }

    pub(super) fn reset(&self) {
        self.set_config_vector(NO_VECTOR);
        for index in 0..self.shared.queue_vectors.len() {
            self.set_queue_vector(index as u16, NO_VECTOR);
        }
        self.take_isr();
        self.shared.needs_reset.store(false, Ordering::Release);
    }

    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.shared.lines.len() {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn signal(&self, vector: u16, isr: u8) {
        if !self.shared.msix.load(Ordering::Acquire) {
            self.shared.isr.fetch_or(isr, Ordering::AcqRel);
            return;
        }
        if let Some(line) = self.shared.lines.get(usize::from(vector))
            && let Err(error) = line.write(1)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::error!(vector, %error, "cannot raise an interrupt");
        }
    }
}
