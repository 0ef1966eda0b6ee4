//! Why a machine could not be made, and what helps.

use std::io;

use vm_memory::GuestMemoryError;

use crate::boot::unpack::UnpackError;
use crate::boot::{initrd, kernel, registers, zero_page};
use crate::bus::BusError;
use crate::memory::MemoryError;
use crate::pci_devices::AttachError;

/// Why a machine could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// KVM refused.
    #[error("KVM cannot {what}")]
    Kvm {
        /// What was asked of it.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::KernelError),
    /// Initramfs.
    #[error(transparent)]
    Initrd(#[from] initrd::InitrdError),
    /// Boot parameters.
    #[error(transparent)]
    ZeroPage(#[from] zero_page::ZeroPageError),
    /// vCPU state.
    #[error(transparent)]
    Registers(#[from] registers::RegistersError),
    /// Firmware tables.
    #[error("cannot write the firmware tables")]
    Tables(#[source] GuestMemoryError),
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A disk or a network card.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A thread or an event descriptor.
    #[error("the system refused {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl MachineError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        let text = match self {
            Self::Kvm { .. } | Self::Registers(_) => {
                "see the kernel's log (dmesg) for KVM's reason; `relevo-vmm probe` looks at the host"
            }
            Self::Memory(MemoryError::TooSmall { .. } | MemoryError::TooLarge { .. }) => {
                "give another --memory"
            }
            Self::Memory(_) => "give less --memory, or free some on the host",
            Self::Kernel(kernel::KernelError::Read { .. })
            | Self::Initrd(initrd::InitrdError::Read { .. }) => {
                "check the path and who may read it"
            }
            Self::Kernel(
                kernel::KernelError::TooLarge { .. }
                | kernel::KernelError::Unpack {
                    source: UnpackError::TooLarge { .. },
                    ..
                },
            )
            | Self::Initrd(initrd::InitrdError::TooLarge { .. }) => "give more --memory",
            Self::Kernel(kernel::KernelError::Load { .. }) => {
                "give more --memory; if it still fails, the file is damaged"
            }
            Self::Kernel(kernel::KernelError::Unpack { .. }) | Self::Initrd(_) => {
                "take a whole copy of the file; it is damaged"
            }
            Self::Kernel(_) => "give an x86-64 Linux kernel: vmlinux (ELF) or vmlinuz (bzImage)",
            Self::ZeroPage(zero_page::ZeroPageError::NoRoom { .. }) => "give more --memory",
            Self::ZeroPage(_) => "shorten or correct --cmdline",
            Self::Attach(error) => return error.remedy(),
            Self::Tables(_) | Self::Bus(_) => "this is a defect of relevo-vmm; please report it",
            Self::System { .. } => "raise the limits on open files and threads (ulimit -n, -u)",
        };
        text.to_owned()
    }
}

pub(super) fn kvm_failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Kvm { what, source }
}

pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::System { what, source }
}
