//! vhost-user-blk: a disk for a VMM on this host, through the guest's own memory.
//!
//! The queue's thread only takes requests from the ring; workers do them and put them back in
//! whatever order they finish, so that a request that waits for the vault delays no other.
//! Protocol: QEMU's `docs/interop/vhost-user.rst`; requests: virtio 1.2, section 5.2.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringRwLock, VringT};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::ServedDisk;
use super::request::{Chain, MAX_RANGE_SECTORS, MAX_RANGES, Memory, Request, SECTOR};
use super::workers::Workers;
use crate::failure::Failure;

const QUEUE_SIZE: usize = 256;
const QUEUES: usize = 4;
const WORKERS: usize = 16;

/// A disk's server: one front end at a time, any number after another.
pub struct VhostUserServer {
    listener: Listener,
    disk: ServedDisk,
    serial: String,
}

impl VhostUserServer {
    /// Listens on a Unix socket, replacing one that a dead process left.
    pub fn bind(socket: &Path, disk: ServedDisk, serial: &str) -> Result<Self, Failure> {
        let listener = Listener::new(socket, true).map_err(|e| {
            Failure::new(
                format!("disk socket {}: {e}", socket.display()),
                "check that the directory exists and that its path is shorter than 100 bytes",
            )
        })?;
        Ok(Self {
            listener,
            disk,
            serial: serial.into(),
        })
    }

    /// Serves the next front end until it leaves.
    pub fn serve_one(&mut self) -> Result<(), Failure> {
        let failed = |what: &str, e: &dyn std::fmt::Display| {
            Failure::new(
                format!("disk server: {what}: {e}"),
                "start the virtual machine again",
            )
        };
        let memory = GuestMemoryAtomic::new(Memory::new());
        let backend = Arc::new(
            Backend::new(self.disk.clone(), &self.serial, memory.clone())
                .map_err(|e| failed("threads", &e))?,
        );
        let mut daemon = VhostUserDaemon::new("vhost-user-blk".into(), backend.clone(), memory)
            .map_err(|e| failed("start", &e))?;
        daemon
            .start(&mut self.listener)
            .map_err(|e| failed("accept", &e))?;
        tracing::debug!(serial = self.serial, "a front end connected");
        if let Err(error) = daemon.wait() {
            // A VMM that was killed goes in the middle of a message.
            tracing::debug!(%error, "the front end left");
        }
        drop(daemon);
        backend.drain();
        if let Some(disk) = self.disk.writable() {
            disk.flush()?;
        }
        Ok(())
    }
}

struct Backend {
    disk: ServedDisk,
    serial: String,
    memory: Mutex<GuestMemoryAtomic<Memory>>,
    event_idx: AtomicBool,
    workers: Workers,
    under_way: Vec<Arc<InFlight>>,
    exits: Mutex<Vec<Option<(EventConsumer, EventNotifier)>>>,
    /// A broken queue was reported.
    complained: AtomicBool,
}

/// Requests taken from one queue and not put back.
#[derive(Default)]
struct InFlight {
    count: AtomicUsize,
    lock: Mutex<()>,
    none: Condvar,
}

impl InFlight {
    fn begin(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    fn end(&self) {
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.none.notify_all();
        }
    }

    fn wait_for_none(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.count.load(Ordering::Acquire) > 0 {
            guard = self
                .none
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Backend {
    fn new(disk: ServedDisk, serial: &str, memory: GuestMemoryAtomic<Memory>) -> io::Result<Self> {
        let exits = (0..QUEUES)
            .map(|_| {
                new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).map(Some)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            disk,
            serial: serial.into(),
            memory: Mutex::new(memory),
            event_idx: false.into(),
            workers: Workers::start("disk-request", WORKERS, QUEUE_SIZE * QUEUES)?,
            under_way: (0..QUEUES).map(|_| Arc::default()).collect(),
            exits: Mutex::new(exits),
            complained: AtomicBool::new(false),
        })
    }

    fn drain(&self) {
        for queue in &self.under_way {
            queue.wait_for_none();
        }
    }

    fn memory(&self) -> GuestMemoryAtomic<Memory> {
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes everything that the driver made available and hands it to the workers.
    fn take_requests(&self, index: usize, vring: &VringRwLock) -> Result<(), virtio_queue::Error> {
        let memory = self.memory();
        loop {
            let chains: Vec<Chain> = {
                let mut state = vring.get_mut();
                if !state.get_queue().ready() {
                    return Ok(());
                }
                let chains = state
                    .get_queue_mut()
                    .iter(memory.memory())?
                    .collect::<Vec<_>>();
                for _ in &chains {
                    self.under_way[index].begin();
                }
                chains
            };
            if chains.is_empty() {
                return Ok(());
            }
            for chain in chains {
                let (disk, serial) = (self.disk.clone(), self.serial.clone());
                let (vring, in_flight) = (vring.clone(), self.under_way[index].clone());
                self.workers.give(move || {
                    let _end = EndOnDrop(&in_flight);
                    let head = chain.head_index();
                    let written = Request {
                        disk: &disk,
                        serial: &serial,
                    }
                    .handle(chain);
                    if let Err(error) = put_back(&vring, head, written) {
                        tracing::error!(%error, "a finished disk request could not be returned");
                    }
                });
            }
        }
    }
}

struct EndOnDrop<'a>(&'a InFlight);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn put_back(vring: &VringRwLock, head: u16, written: u32) -> Result<(), String> {
    vring.add_used(head, written).map_err(|e| e.to_string())?;
    if vring.needs_notification().map_err(|e| e.to_string())? {
        vring.signal_used_queue().map_err(|e| e.to_string())?;
    }
    Ok(())
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        let mut features = 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_MQ
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        features |= match self.disk.writable() {
            Some(_) => 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES,
            None => 1 << VIRTIO_BLK_F_RO,
        };
        features
    }

    fn acked_features(&self, _features: u64) {}

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&self, enabled: bool) {
        self.event_idx.store(enabled, Ordering::Relaxed);
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = configuration(self.disk.size());
        let (from, to) = (offset as usize, offset as usize + size as usize);
        let mut part = config.get(from..).unwrap_or_default().to_vec();
        part.resize(to - from, 0);
        part
    }

    fn update_memory(&self, memory: GuestMemoryAtomic<Memory>) -> io::Result<()> {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = memory;
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..QUEUES).map(|queue| 1 << queue).collect()
    }

    fn exit_event(&self, thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        let mut exits = self.exits.lock().unwrap_or_else(PoisonError::into_inner);
        exits.get_mut(thread)?.take()
    }

    fn stop_vring(&self, index: u32) -> io::Result<()> {
        if let Some(queue) = self.under_way.get(index as usize) {
            queue.wait_for_none();
        }
        Ok(())
    }

    fn handle_event(
        &self,
        _event: u16,
        _set: EventSet,
        vrings: &[VringRwLock],
        thread: usize,
    ) -> io::Result<()> {
        // Each thread has one queue. An error here would end the thread for good, where it is
        // only this ring that is broken.
        let Some(vring) = vrings.first() else {
            return Ok(());
        };
        let taken = if self.event_idx.load(Ordering::Relaxed) {
            loop {
                let round = vring
                    .disable_notification()
                    .and_then(|()| self.take_requests(thread, vring))
                    .and_then(|()| vring.enable_notification());
                match round {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(error) => break Err(error),
                }
            }
        } else {
            self.take_requests(thread, vring)
        };
        // Once for each front end: a guest that does so on purpose does so all the time.
        if let Err(error) = taken
            && !self.complained.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%error, "a virtqueue of the guest makes no sense");
        }
        Ok(())
    }
}

/// `struct virtio_blk_config` (virtio 1.2, section 5.2.4).
fn configuration(size: u64) -> [u8; 60] {
    let mut config = [0; 60];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(size / SECTOR).to_le_bytes());
    put(12, &(QUEUE_SIZE as u32 - 2).to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(34, &(QUEUES as u16).to_le_bytes());
    put(36, &MAX_RANGE_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &8u32.to_le_bytes());
    put(48, &MAX_RANGE_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[1]);
    config
}
