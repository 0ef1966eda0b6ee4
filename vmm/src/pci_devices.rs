//! The machine's PCI bus with the disks, network cards and entropy source on it.

use std::sync::Arc;

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{Bus, BusError};
use crate::disk::{Disk, DiskError};
use crate::events::{Event, Notifier};
use crate::machine::Config;
use crate::memory::{GuestMemory, PCI_MMIO_LEN, PCI_MMIO_START};
use crate::options::{DiskOption, DiskSource, NetOption};
use crate::pci::{PciError, PciRoot};
use crate::virtio::{DeviceError, Rng, TapNet, VhostUserBlock, VirtioBlock, VirtioDevice};
use crate::watches::{Watches, Watching};

/// The configuration ports and their number.
const CONFIG_PORTS: (u64, u64) = (0xcf8, 8);

/// Why a device could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The device itself.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The bus.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Its place in the address space.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// An event descriptor or a thread.
    #[error("the system refused an event descriptor or a thread")]
    System(#[from] std::io::Error),
}

impl AttachError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Device(error) => error.remedy(),
            Self::Disk(error) => error.remedy(),
            Self::Pci(PciError::Full) => "give fewer disks and network cards".to_owned(),
            Self::Pci(PciError::Interrupts(_)) | Self::System(_) => {
                "raise the limit on open files (ulimit -n)".to_owned()
            }
            Self::Bus(_) => "this is a defect of relevo-vmm; please report it".to_owned(),
        }
    }
}

/// Makes the bus and every device that `config` names: disks first, so that they keep their
/// slots whatever else the machine has.
pub fn attach(
    config: &Config,
    vm: &Arc<VmFd>,
    memory: &GuestMemory,
    ports: &mut Bus,
    mmio: &mut Bus,
    notifier: &Notifier,
) -> Result<(PciRoot, Watching), AttachError> {
    let mut root = PciRoot::new(vm.clone());
    let (base, len) = CONFIG_PORTS;
    ports.insert(base, len, root.config_ports())?;
    mmio.insert(PCI_MMIO_START, PCI_MMIO_LEN, root.mmio_window())?;
    let reset = EventFd::new(0)?;
    let mut watches = Watches::default();
    watches.add(reset.try_clone()?, Event::Reset);
    root.set_reset_event(reset);

    for option in &config.disks {
        root.add(disk(option, &mut watches)?, memory.clone())?;
    }
    for NetOption { tap, mac } in &config.nets {
        root.add(Box::new(TapNet::open(tap, *mac)?), memory.clone())?;
    }
    root.add(Box::new(Rng::new()), memory.clone())?;
    Ok((root, watches.start(notifier.clone())?))
}

fn disk(option: &DiskOption, watches: &mut Watches) -> Result<Box<dyn VirtioDevice>, AttachError> {
    match &option.source {
        DiskSource::File { path, readonly } => {
            let serial = option.serial.as_deref().unwrap_or_default();
            let disk = Disk::open_raw(path, *readonly)?;
            Ok(Box::new(VirtioBlock::new(disk, serial, 1)))
        }
        DiskSource::VhostUser { socket } => {
            if option.serial.is_some() {
                tracing::info!(socket = %socket.display(), "the server gives the serial number");
            }
            let disk = VhostUserBlock::connect(socket)?;
            let lost = format!("the disk server at {} has gone", socket.display());
            watches.add(disk.lost()?, Event::Failed(lost));
            Ok(Box::new(disk))
        }
    }
}
