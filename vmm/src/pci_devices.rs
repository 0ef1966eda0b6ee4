//! The machine's PCI bus with the disks, network cards and entropy source on it.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
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
use crate::virtio::{DeviceError, KeptDevice, Rng, TapNet, VhostUserBlock, VirtioBlock};
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

/// What `config` names, opened while this process may still open things. No thread runs yet.
pub struct OpenDevices(Vec<OpenDevice>);

enum OpenDevice {
    Ready(KeptDevice),
    Server { path: PathBuf, socket: UnixStream },
}

/// The devices of a machine, which outlive its resets.
pub struct Devices {
    kept: Vec<KeptDevice>,
    lost: Vec<(EventFd, Event)>,
}

impl OpenDevices {
    /// Opens files and taps and connects to sockets: disks first, so that they keep their
    /// slots whatever else the machine has.
    pub fn open(config: &Config) -> Result<Self, AttachError> {
        let mut open = Vec::new();
        for option in &config.disks {
            open.push(disk(option)?);
        }
        for NetOption { tap, mac } in &config.nets {
            let card = KeptDevice::new(TapNet::open(tap, *mac)?);
            open.push(OpenDevice::Ready(card));
        }
        open.push(OpenDevice::Ready(KeptDevice::new(Rng::new())));
        Ok(Self(open))
    }

    /// Begins to talk with the disks' servers.
    pub fn connect(self) -> Result<Devices, AttachError> {
        let (mut kept, mut lost) = (Vec::new(), Vec::new());
        for device in self.0 {
            kept.push(match device {
                OpenDevice::Ready(device) => device,
                OpenDevice::Server { path, socket } => {
                    let disk = VhostUserBlock::over(&path, socket)?;
                    let gone = format!("the disk server at {} has gone", path.display());
                    lost.push((disk.lost()?, Event::Failed(gone)));
                    KeptDevice::new(disk)
                }
            });
        }
        Ok(Devices { kept, lost })
    }
}

/// Makes the bus with `devices` on it.
pub fn attach(
    devices: &Devices,
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

    for device in &devices.kept {
        root.add(Box::new(device.clone()), memory.clone())?;
    }
    for (signal, event) in &devices.lost {
        watches.add(signal.try_clone()?, event.clone());
    }
    Ok((root, watches.start(notifier.clone())?))
}

fn disk(option: &DiskOption) -> Result<OpenDevice, AttachError> {
    match &option.source {
        DiskSource::File {
            path,
            readonly,
            format,
        } => {
            let serial = option.serial.as_deref().unwrap_or_default();
            let disk = Disk::open(path, *readonly, *format)?;
            Ok(OpenDevice::Ready(KeptDevice::new(VirtioBlock::new(
                disk, serial, 1,
            ))))
        }
        DiskSource::VhostUser { socket } => {
            if option.serial.is_some() {
                tracing::info!(socket = %socket.display(), "the server gives the serial number");
            }
            let path = socket.clone();
            let socket = UnixStream::connect(&path).map_err(|source| DeviceError::Open {
                path: path.clone(),
                source,
            })?;
            Ok(OpenDevice::Server { path, socket })
        }
    }
}
