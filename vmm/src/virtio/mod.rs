//! Virtio devices (Virtual I/O Device Version 1.2, OASIS) and their PCI transport.
//!
//! Parts:
//! - [`VirtioDevice`] is what a kind of device implements; [`Activation`] is what it gets
//!   when the driver is ready: guest memory, negotiated features, queues, interrupt.
//! - [`VirtioPciFunction`] is the transport (section 4.1), [`CommonConfig`] its registers
//!   and status machine without any I/O, [`Interrupt`] the way back to the guest.
//! - [`chain`] turns a descriptor chain into checked slices of guest memory, [`worker`] is
//!   the thread a device works on.
//! - The devices: [`VirtioBlock`], [`VhostUserBlock`], [`TapNet`], [`Rng`].
//!
//! Invariants:
//! - What the guest writes is never trusted: a descriptor outside RAM, a chain that loops, a
//!   ring index that lies end in an error status or in a device that asks to be reset
//!   (DEVICE_NEEDS_RESET), never in a panic or an access outside guest memory.
//! - `reset` returns only when no thread of the device runs and nothing more is written to
//!   guest memory.

pub mod chain;
mod common_config;
mod device;
mod interrupt;
mod kept;
mod log_budget;
mod pci_function;
pub mod worker;

pub mod block;
pub mod net;
mod rng;
pub mod vhost_user_block;

#[cfg(test)]
pub(crate) mod fake_driver;

pub use block::VirtioBlock;
pub use common_config::{CommonConfig, Effect};
pub use device::{
    ActivateError, Activation, ActiveQueue, DeviceError, DeviceKind, VIRTIO_F_EVENT_IDX,
    VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1, VirtioDevice, copy_config,
};
pub use interrupt::Interrupt;
pub use kept::KeptDevice;
pub use log_budget::LogBudget;
pub use net::{MacAddress, TapNet};
pub use pci_function::{BAR_SIZE, VirtioPciFunction};
pub use rng::Rng;
pub use vhost_user_block::VhostUserBlock;
