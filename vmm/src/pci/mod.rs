//! The PCI bus of a virtual machine: one root bus, one function per device.
//!
//! Parts:
//! - [`PciRoot`] owns the functions and answers for them on two buses: the
//!   configuration ports 0xCF8–0xCFF ([`PciRoot::config_ports`]) and the window of memory
//!   BARs ([`PciRoot::mmio_window`]).
//! - [`ConfigSpace`] is the 256-byte header with its writable bits and capabilities.
//! - [`Msix`] is the MSI-X table: each vector is an eventfd that whoever does the work
//!   (a thread here, or a process at the other end of a socket) simply writes to.
//! - [`VmEvents`] is what is needed of KVM: irqfds, ioeventfds and MSI routes.
//!
//! Invariants:
//! - A function answers memory accesses only while its command register allows it and its
//!   BAR lies wholly inside the window, so a guest cannot lay a BAR over RAM or an APIC.
//! - The routing table given to KVM always begins with the pins of the in-kernel PIC and
//!   I/O APIC; MSI routes only come after them.
//! - No access of any size, offset or value panics.

mod config_space;
mod events;
mod msix;
mod root;

pub use config_space::{ConfigSpace, Identity};
pub use events::{FIRST_MSI_GSI, KvmEvents, MsiMessage, VmEvents};
pub use msix::{MAX_VECTORS, Msix};
pub use root::{MAX_FUNCTIONS, PciError, PciFunction, PciRoot};

#[cfg(test)]
pub(crate) use events::test_double;
