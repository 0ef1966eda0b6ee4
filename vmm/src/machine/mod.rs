//! A virtual machine from its description to its running vCPUs.

mod build;
mod error;
mod running;

use std::io::Write;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use kvm_ioctls::{Kvm, VmFd};

pub use self::error::MachineError;
pub use self::running::{Cpus, Running};
use crate::boot::ImageFile;
use crate::bus::Bus;
use crate::devices::power::Power;
use crate::devices::serial::SharedSerial;
use crate::events::{Event, Notifier};
use crate::gate::{Gate, Order};
use crate::memory::GuestMemory;
use crate::options::{DiskOption, NetOption};
use crate::pci::PciRoot;
use crate::pci_devices::{self, Devices};
use crate::uuid::Uuid;
use crate::vcpu::{Buses, Vcpu};
use crate::watches::Watching;
use crate::without_vtx::Measures;
use crate::without_vtx::tick::Tick;

/// The most vCPUs: APIC ids below 255, of which the I/O APIC needs one.
pub const MAX_CPUS: u8 = 254;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// ELF kernel or bzImage.
    pub kernel: ImageFile,
    /// The initramfs, in parts.
    pub initrd: Vec<ImageFile>,
    /// The kernel's command line.
    pub cmdline: String,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Number of vCPUs, from 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Disks, in the order in which the guest finds them.
    pub disks: Vec<DiskOption>,
    /// Network cards, likewise.
    pub nets: Vec<NetOption>,
    /// The machine's identity.
    pub uuid: Uuid,
    /// Measures for KVM without VT-x or AMD-V, where they are used.
    pub measures: Option<Measures>,
}

/// A machine that is ready to run.
pub struct Machine {
    // The order of fields is the order of dropping: devices before the memory they use,
    // memory after the virtual machine that maps it.
    vcpus: Vec<Vcpu>,
    watching: Watching,
    pci: PciRoot,
    power: Arc<Mutex<Power>>,
    serial: SharedSerial,
    notifier: Notifier,
    events: Receiver<Event>,
    measures: Option<Measures>,
    vm: Arc<VmFd>,
    memory: GuestMemory,
}

impl Machine {
    /// Builds the machine that `config` describes around `devices`; its serial port writes
    /// to `console`. Opens no file, so that it can be done by a confined process.
    pub fn build(
        kvm: &Kvm,
        config: &Config,
        devices: &Devices,
        console: Box<dyn Write + Send>,
    ) -> Result<Self, MachineError> {
        let measures = config.measures.clone();
        let (vm, memory) = build::create_vm(kvm, config.memory_mib, measures.as_ref())?;
        let (notifier, events) = Notifier::channel();

        let mut ports = Bus::new();
        let (serial, power) = build::add_board(&mut ports, &vm, console, &notifier)?;
        if let Some(Measures {
            tick: Tick::AtMost(hz),
        }) = measures
        {
            build::add_slow_timer(&mut ports, &vm, hz)?;
        }
        let mut mmio = Bus::new();
        let (pci, watching) =
            pci_devices::attach(devices, &vm, &memory, &mut ports, &mut mmio, &notifier)?;
        let buses = Buses {
            ports: Arc::new(ports),
            mmio: Arc::new(mmio),
        };

        let vcpus = build::create_vcpus(kvm, &vm, config, &memory, &buses, &notifier, &measures)?;
        build::load_guest(config, &memory, &vcpus, measures.as_ref())?;
        Ok(Self {
            vcpus,
            watching,
            pci,
            power,
            serial,
            notifier,
            events,
            measures,
            vm,
            memory,
        })
    }

    /// Whether the measures for KVM without VT-x or AMD-V are in use.
    pub fn has_quirks(&self) -> bool {
        self.measures.is_some()
    }

    /// Where input to the serial port goes.
    pub fn serial(&self) -> SharedSerial {
        self.serial.clone()
    }

    /// Starts the vCPUs.
    pub fn start(self) -> Result<Running, MachineError> {
        let gate = Arc::new(Gate::new(self.vcpus.len()));
        let mut threads = Vec::with_capacity(self.vcpus.len());
        for vcpu in self.vcpus {
            let thread = vcpu
                .spawn(gate.clone())
                .map_err(error::system("a vCPU thread"))?;
            threads.push(thread);
        }
        let cpus = Arc::new(Cpus { gate, threads });
        let heartbeat = match self.measures {
            Some(_) => Some(cpus.clone().beat().map_err(error::system("a thread"))?),
            None => None,
        };
        cpus.order(Order::Run);
        Ok(Running {
            cpus,
            heartbeat,
            watching: self.watching,
            pci: self.pci,
            power: self.power,
            notifier: self.notifier,
            events: self.events,
            _vm: self.vm,
            _memory: self.memory,
        })
    }
}
