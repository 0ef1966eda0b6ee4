//! A block device that another process serves over vhost-user (the protocol of QEMU's
//! `docs/interop/vhost-user.rst`).
//!
//! This process only speaks for the guest: it hands over the guest's RAM, the rings, the
//! doorbells and the interrupts, then both sides work without it. When the server goes
//! away the device asks its driver for a reset, says so once in the log, and makes
//! [`VhostUserBlock::lost`] readable, so that the machine can be ended: a guest left alone
//! with a disk that never answers helps nobody.

mod server;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use self::server::Server;
use crate::memory::GuestMemory;
use crate::virtio::block::{
    CONFIG_NUM_QUEUES, CONFIG_SIZE, F_BLK_SIZE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX,
    F_WRITE_ZEROES,
};
use crate::virtio::device::{
    ActivateError, Activation, ActiveQueue, DeviceError, DeviceKind, VIRTIO_F_EVENT_IDX,
    VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1, VirtioDevice, copy_config,
};

const F_SIZE_MAX: u64 = 1 << 1;
const F_GEOMETRY: u64 = 1 << 4;
const F_TOPOLOGY: u64 = 1 << 10;

/// What is passed through between the driver and the server.
const FEATURES: u64 = F_SIZE_MAX
    | F_SEG_MAX
    | F_GEOMETRY
    | F_RO
    | F_BLK_SIZE
    | F_FLUSH
    | F_TOPOLOGY
    | F_MQ
    | F_DISCARD
    | F_WRITE_ZEROES
    | VIRTIO_F_INDIRECT_DESC
    | VIRTIO_F_EVENT_IDX
    | VIRTIO_F_VERSION_1;

const QUEUE_SIZE: u16 = 256;
const MAX_QUEUES: u16 = 16;
/// How long the server may take to answer a question. It answers only after requests in
/// flight, which may wait for a distant store.
const PATIENCE: Duration = Duration::from_secs(60);

/// A disk that another process serves.
pub struct VhostUserBlock {
    path: PathBuf,
    server: Server,
    offered: u64,
    config: [u8; CONFIG_SIZE],
    queues: u16,
    running: Vec<u16>,
    /// Served rings must not outlive what they write to.
    call_sinks: Vec<EventFd>,
}

impl VhostUserBlock {
    #[cfg(test)]
    fn connect_within(path: &Path, patience: Duration) -> Result<Self, DeviceError> {
        let socket = UnixStream::connect(path).map_err(|source| DeviceError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::over_within(path, socket, patience)
    }

    /// Asks the server at the other end of `socket` what it offers; it was reached at `path`.
    pub fn over(path: &Path, socket: UnixStream) -> Result<Self, DeviceError> {
        Self::over_within(path, socket, PATIENCE)
    }

    fn over_within(
        path: &Path,
        socket: UnixStream,
        patience: Duration,
    ) -> Result<Self, DeviceError> {
        let step = |step| {
            move |source| DeviceError::Backend {
                path: path.to_owned(),
                step,
                source,
            }
        };
        let lacks = |feature| DeviceError::BackendLacks {
            path: path.to_owned(),
            feature,
        };
        let mut server = Server::new(path, socket, MAX_QUEUES, patience).map_err(|source| {
            DeviceError::Open {
                path: path.to_owned(),
                source,
            }
        })?;

        server
            .ask(|frontend| frontend.set_owner())
            .map_err(step("take an owner"))?;
        let available = server
            .ask(|frontend| frontend.get_features())
            .map_err(step("tell its features"))?;
        if available & VIRTIO_F_VERSION_1 == 0 {
            return Err(lacks("virtio 1.0"));
        }
        if available & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            return Err(lacks("protocol features"));
        }
        let protocol = server
            .ask(Frontend::get_protocol_features)
            .map_err(step("tell its protocol features"))?
            & (VhostUserProtocolFeatures::MQ
                | VhostUserProtocolFeatures::CONFIG
                | VhostUserProtocolFeatures::REPLY_ACK);
        if !protocol.contains(VhostUserProtocolFeatures::CONFIG) {
            return Err(lacks("its configuration"));
        }
        server
            .ask(|frontend| {
                frontend.set_protocol_features(protocol)?;
                if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
                    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
                }
                Ok(())
            })
            .map_err(step("agree on protocol features"))?;
        let mut most = 1;
        if protocol.contains(VhostUserProtocolFeatures::MQ) {
            most = server
                .ask(Frontend::get_queue_num)
                .map_err(step("tell its number of queues"))?;
        }

        let none = VhostUserConfigFlags::empty();
        let (_, bytes) = server
            .ask(|frontend| frontend.get_config(0, CONFIG_SIZE as u32, none, &[0; CONFIG_SIZE]))
            .map_err(step("tell its configuration"))?;
        let mut config = [0; CONFIG_SIZE];
        config.copy_from_slice(&bytes[..CONFIG_SIZE]);
        let mut queues = 1;
        if available & F_MQ != 0 {
            let said =
                u16::from_le_bytes([config[CONFIG_NUM_QUEUES], config[CONFIG_NUM_QUEUES + 1]]);
            queues = said.min(most.min(u64::from(MAX_QUEUES)) as u16).max(1);
        }
        config[CONFIG_NUM_QUEUES..CONFIG_NUM_QUEUES + 2].copy_from_slice(&queues.to_le_bytes());
        tracing::debug!(path = %path.display(), queues, features = format_args!("{available:#x}"), "disk server connected");
        Ok(Self {
            path: path.to_owned(),
            server,
            offered: available & FEATURES,
            config,
            queues,
            running: Vec::new(),
            call_sinks: Vec::new(),
        })
    }

    /// Readable once the server is gone; the disk does not come back.
    pub fn lost(&self) -> io::Result<EventFd> {
        self.server.lost()
    }

    /// The disk's size in bytes, as the server says.
    pub fn size(&self) -> u64 {
        let mut sectors = [0; 8];
        sectors.copy_from_slice(&self.config[..8]);
        u64::from_le_bytes(sectors).saturating_mul(crate::disk::SECTOR)
    }

    fn start(&mut self, activation: &Activation) -> Result<(), ActivateError> {
        let features =
            activation.features & FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.server
            .ask(|frontend| frontend.set_features(features))
            .map_err(refused("agree on features"))?;
        let regions = activation
            .memory
            .iter()
            .map(VhostUserMemoryRegionInfo::from_guest_region)
            .collect::<Result<Vec<_>, _>>()
            .map_err(refused("share memory that is no file"))?;
        self.server
            .ask(|frontend| frontend.set_mem_table(&regions))
            .map_err(refused("map the guest's memory"))?;
        for active in &activation.queues {
            self.start_queue(active, activation)?;
        }
        Ok(())
    }

    fn start_queue(
        &mut self,
        active: &ActiveQueue,
        activation: &Activation,
    ) -> Result<(), ActivateError> {
        let (index, queue) = (usize::from(active.index), &active.queue);
        let host = |address| {
            host_address(&activation.memory, address).ok_or(ActivateError::Queue(active.index))
        };
        let rings = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: host(queue.desc_table())?,
            used_ring_addr: host(queue.used_ring())?,
            avail_ring_addr: host(queue.avail_ring())?,
            log_addr: None,
        };
        let call = match activation.interrupt.queue_line(active.index)? {
            Some(line) => line,
            // The driver polls: the server still wants something to write to.
            None => EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        };
        let setup = |frontend: &mut Frontend| {
            frontend.set_vring_num(index, queue.size())?;
            frontend.set_vring_addr(index, &rings)?;
            frontend.set_vring_base(index, queue.next_avail())?;
            frontend.set_vring_call(index, &call)?;
            frontend.set_vring_kick(index, &active.kick)?;
            frontend.set_vring_enable(index, true)
        };
        // From here on the server may work on the ring, so a reset has to stop it.
        self.running.push(active.index);
        self.server
            .ask(setup)
            .map_err(refused("start a virtqueue"))?;
        self.call_sinks.push(call);
        Ok(())
    }
}

fn refused(step: &'static str) -> impl Fn(vhost::Error) -> ActivateError {
    move |source| ActivateError::Backend { step, source }
}

fn host_address(memory: &GuestMemory, address: u64) -> Option<u64> {
    memory
        .get_host_address(GuestAddress(address))
        .ok()
        .map(|pointer| pointer as u64)
}

impl VirtioDevice for VhostUserBlock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queues)]
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config, offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.is_empty() {
            return Err(ActivateError::Queue(0));
        }
        self.server.concerns(Some(activation.interrupt.clone()));
        let result = self.start(&activation);
        if result.is_err() {
            self.reset();
        }
        result
    }

    fn reset(&mut self) {
        self.server.concerns(None);
        for index in std::mem::take(&mut self.running) {
            let index = usize::from(index);
            let stopped = self.server.ask(|frontend| {
                frontend.set_vring_enable(index, false)?;
                frontend.get_vring_base(index)
            });
            if let Err(error) = stopped {
                // A server that is gone has stopped too; the watcher has said so.
                tracing::debug!(path = %self.path.display(), index, %error, "disk server did not stop a virtqueue");
            }
        }
        self.call_sinks.clear();
    }
}

impl Drop for VhostUserBlock {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
#[path = "vhost_user_block_test.rs"]
mod tests;
