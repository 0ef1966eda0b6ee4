//! What a virtio device is to its transport.

use std::io;
use std::path::PathBuf;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use crate::memory::GuestMemory;

/// The device follows version 1 of the specification; required here.
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// Descriptors may stand in a table of their own (section 2.7.7).
pub const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
/// Both sides say from which ring index on they want to be notified (section 2.7.10).
pub const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;

/// The kinds of device there are here, with their ids of section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Network card.
    Net = 1,
    /// Block device.
    Block = 2,
    /// Entropy source.
    Entropy = 4,
}

impl DeviceKind {
    /// The PCI class code (0xBBSSPP) that guests without a driver show.
    pub fn pci_class(self) -> u32 {
        match self {
            Self::Net => 0x02_00_00,
            Self::Block => 0x01_80_00,
            Self::Entropy => 0xFF_00_00,
        }
    }
}

/// One virtqueue as the driver has set it up.
pub struct ActiveQueue {
    /// Its number in the device.
    pub index: u16,
    /// Sizes and addresses, checked to lie in RAM.
    pub queue: Queue,
    /// Readable when the driver has something in the queue.
    pub kick: EventFd,
}

/// What a device works with from DRIVER_OK to reset.
pub struct Activation {
    /// The guest's RAM.
    pub memory: GuestMemory,
    /// The features both sides agreed on.
    pub features: u64,
    /// The queues the driver enabled, by ascending number.
    pub queues: Vec<ActiveQueue>,
    /// The way back to the guest.
    pub interrupt: Interrupt,
}

/// Why a device could not start when its driver was ready.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver set up too few queues, or one that does not lie in RAM.
    #[error("virtqueue {0} is missing or does not lie in the guest's memory")]
    Queue(u16),
    /// The system refused an event or a thread.
    #[error("cannot start a device thread")]
    Thread(#[from] io::Error),
    /// The back end in another process refused.
    #[error("the back end refused to {step}")]
    Backend {
        /// What it was asked to do.
        step: &'static str,
        /// Its reason.
        #[source]
        source: vhost::Error,
    },
}

/// Why a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A socket or interface could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Its path or name.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// There is no such network interface.
    #[error("there is no tap interface {name}")]
    NoTap {
        /// Its name.
        name: String,
    },
    /// The kernel refused something about the tap.
    #[error("cannot {step} the tap interface {name}")]
    Tap {
        /// Its name.
        name: String,
        /// What was tried.
        step: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A MAC address that is none.
    #[error("{0:?} is not a unicast MAC address like 52:54:00:12:34:56")]
    Mac(String),
    /// The process that serves a disk refused something.
    #[error("the disk server at {} refused to {step}", path.display())]
    Backend {
        /// Its socket.
        path: PathBuf,
        /// What it was asked to do.
        step: &'static str,
        /// Its reason.
        #[source]
        source: vhost::Error,
    },
    /// The process that serves a disk lacks something.
    #[error("the disk server at {} does not offer {feature}", path.display())]
    BackendLacks {
        /// Its socket.
        path: PathBuf,
        /// What is missing.
        feature: &'static str,
    },
}

impl DeviceError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Open { path, .. } => {
                format!("check that {} exists and may be opened", path.display())
            }
            Self::NoTap { name } => format!("make it: ip tuntap add dev {name} mode tap"),
            Self::Tap { name, source, .. } if source.raw_os_error() == Some(libc::EBUSY) => {
                format!("stop the other virtual machine that uses {name}")
            }
            Self::Tap { name, .. } => {
                format!("check with `ip -d link show {name}` that it is a tap this user may open")
            }
            Self::Mac(_) => "give six two-digit hexadecimal numbers, the first one even".into(),
            Self::Backend { path, .. } => format!(
                "see the log of the process that serves {}; restart it if it has ended",
                path.display()
            ),
            Self::BackendLacks { path, .. } => format!(
                "serve {} by a process with vhost-user-blk of virtio 1.0",
                path.display()
            ),
        }
    }
}

/// A kind of virtio device. The transport calls it from vCPU threads, one call at a time.
pub trait VirtioDevice: Send {
    /// What kind it is.
    fn kind(&self) -> DeviceKind;

    /// The largest size of each queue, a power of two; the length is the number of queues.
    fn queue_sizes(&self) -> Vec<u16>;

    /// The features offered, without those of the transport.
    fn features(&self) -> u64;

    /// Fills `data` from the device's configuration; zeroes beyond its end.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes a write to the device's configuration; what is not writable is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Starts work. Called once per reset; on an error the device is as after a reset.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops work: when it returns, no thread runs and guest memory is not touched any
    /// more. Harmless on a device that is not active.
    fn reset(&mut self);
}

/// Reads `offset` of a configuration that is `config`, with zeroes beyond it.
pub fn copy_config(config: &[u8], offset: u64, data: &mut [u8]) {
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = usize::try_from(offset)
            .ok()
            .and_then(|at| at.checked_add(i))
            .and_then(|at| config.get(at).copied())
            .unwrap_or(0);
    }
}
