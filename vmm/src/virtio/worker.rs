//! The thread a device works on: waits for eventfds and other files, stops when told.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use super::log_budget::LogBudget;
use crate::confinement::{ThreadKind, enter_thread};
use crate::memory::GuestMemory;

const STOP: u64 = u64::MAX;
/// Chains that are used before the driver hears of it, when there are more to come.
const BATCH: usize = 64;

static COMPLAINTS: LogBudget = LogBudget::new();

/// Why a device gave up until its driver resets it.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The driver's rings make no sense.
    #[error("the driver broke a virtqueue")]
    Queue(#[from] virtio_queue::Error),
    /// The system failed.
    #[error("the device's thread failed")]
    Io(#[from] io::Error),
}

/// The work of one thread.
pub trait Service: Send + 'static {
    /// Says what to wait for. Called once, before the thread runs.
    fn register(&self, events: &Events) -> io::Result<()>;
    /// Does the work of `token`, which has become ready.
    fn ready(&mut self, events: &Events, token: u64) -> Result<(), ServiceError>;
}

/// What a worker waits for.
pub struct Events {
    epoll: Epoll,
    stop: Arc<Stop>,
}

struct Stop {
    event: EventFd,
    asked: AtomicBool,
}

impl Events {
    /// Reports `token` whenever `source` is readable.
    pub fn watch(&self, source: &impl AsRawFd, token: u64) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, token);
        self.epoll
            .ctl(ControlOperation::Add, source.as_raw_fd(), event)
    }

    /// Reports `token` once the other end of `source` is gone.
    pub fn watch_hang_up(&self, source: &impl AsRawFd, token: u64) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::READ_HANG_UP | EventSet::HANG_UP, token);
        self.epoll
            .ctl(ControlOperation::Add, source.as_raw_fd(), event)
    }

    /// Ends [`Events::watch`].
    pub fn forget(&self, source: &impl AsRawFd) -> io::Result<()> {
        self.epoll.ctl(
            ControlOperation::Delete,
            source.as_raw_fd(),
            EpollEvent::default(),
        )
    }

    /// Whether the worker has been told to stop; long work looks at it now and then.
    pub fn stopping(&self) -> bool {
        self.stop.asked.load(Ordering::Acquire)
    }
}

/// A running thread. Dropping it stops and joins the thread.
pub struct Worker {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts `service` on a thread called `name`. When it fails, `failed` is called with
    /// the reason (already logged) and the thread ends.
    pub fn spawn(
        name: &str,
        mut service: impl Service,
        failed: impl FnOnce(&ServiceError) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(Stop {
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            asked: AtomicBool::new(false),
        });
        let events = Events {
            epoll: Epoll::new()?,
            stop: stop.clone(),
        };
        events.watch(&stop.event, STOP)?;
        service.register(&events)?;
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                enter_thread(ThreadKind::Device);
                if let Err(error) = serve(&mut service, &events) {
                    if COMPLAINTS.allows() {
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::error!(%error, cause, "device stops until its driver resets it");
                    }
                    failed(&error);
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// The same for a device: a failure makes it ask its driver for a reset.
    pub fn for_device(name: &str, service: impl Service, interrupt: Interrupt) -> io::Result<Self> {
        Self::spawn(name, service, move |_| interrupt.demand_reset())
    }
}

fn serve(service: &mut impl Service, events: &Events) -> Result<(), ServiceError> {
    let mut ready = [EpollEvent::default(); 8];
    loop {
        let count = match events.epoll.wait(-1, &mut ready) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        for event in &ready[..count] {
            if events.stopping() {
                return Ok(());
            }
            if event.data() != STOP {
                service.ready(events, event.data())?;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.asked.store(true, Ordering::Release);
        if let Err(error) = self.stop.event.write(1) {
            tracing::error!(%error, "cannot tell a device thread to stop");
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a device thread panicked");
        }
    }
}

/// Uses up everything in `queue`: `handle` does one chain and returns how many bytes it
/// wrote into it. The driver is told as it wishes.
pub fn drain(
    queue: &mut Queue,
    memory: &GuestMemory,
    events: &Events,
    interrupt: (&Interrupt, u16),
    mut handle: impl FnMut(DescriptorChain<&GuestMemory>) -> u32,
) -> Result<(), ServiceError> {
    let mut promised = false;
    loop {
        queue.disable_notification(memory)?;
        let mut used = 0;
        while !events.stopping() {
            let Some(chain) = queue.iter(memory)?.next() else {
                break;
            };
            let head = chain.head_index();
            let written = handle(chain);
            queue.add_used(memory, head, written)?;
            used += 1;
            if used % BATCH == 0 && queue.needs_notification(memory)? {
                interrupt.0.signal_queue(interrupt.1);
            }
        }
        if used % BATCH != 0 && queue.needs_notification(memory)? {
            interrupt.0.signal_queue(interrupt.1);
        }
        if events.stopping() {
            return Ok(());
        }
        if promised && used == 0 {
            // The ring said there was something, yet nothing could be taken out of it.
            return Err(virtio_queue::Error::InvalidAvailRingIndex.into());
        }
        promised = queue.enable_notification(memory)?;
        if !promised {
            return Ok(());
        }
    }
}
