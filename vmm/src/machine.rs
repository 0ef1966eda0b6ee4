//! A virtual machine from its description to its running vCPUs.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::boot::{initrd, kernel, registers, zero_page};
use crate::bus::{Bus, BusDevice, BusError};
use crate::cpuid::Template;
use crate::devices::clock::{self, Clock};
use crate::devices::keyboard::{self, Keyboard};
use crate::devices::power::{self, Power, SciLine};
use crate::devices::serial::{self, SerialPort, SharedSerial};
use crate::events::{Event, Notifier};
use crate::gate::{Gate, Order};
use crate::memory::{GuestMemory, KVM_IDENTITY_MAP_START, KVM_TSS_START, MemoryError};
use crate::options::{DiskOption, NetOption, QuirksOption, TickOption};
use crate::pci::PciRoot;
use crate::pci_devices::{self, AttachError};
use crate::uuid::Uuid;
use crate::vcpu::{Buses, Vcpu, VcpuThread};
use crate::watches::Watching;
use crate::without_vtx::features;
use crate::without_vtx::tick::{self, GatePort, Pit, Tick};
use crate::without_vtx::{HEARTBEAT, Measures, VcpuAssist};

/// The most vCPUs: APIC ids below 255, of which the I/O APIC needs one.
pub const MAX_CPUS: u8 = 254;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// ELF kernel or bzImage.
    pub kernel: PathBuf,
    /// The initramfs, in parts.
    pub initrd: Vec<PathBuf>,
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
    /// Measures for KVM without VT-x or AMD-V.
    pub quirks: QuirksOption,
    /// The timer interrupt, where those measures are used.
    pub tick: TickOption,
}

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

fn kvm_failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Kvm { what, source }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::System { what, source }
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
    /// Builds the machine that `config` describes; its serial port writes to `console`.
    pub fn build(
        kvm: &Kvm,
        config: &Config,
        console: Box<dyn Write + Send>,
    ) -> Result<Self, MachineError> {
        let measures = Measures::choose(config.quirks, config.tick, &config.kernel);
        let (vm, memory) = create_vm(kvm, config.memory_mib, measures.as_ref())?;
        let (notifier, events) = Notifier::channel();

        let mut ports = Bus::new();
        let (serial, power) = add_board(&mut ports, &vm, console, &notifier)?;
        if let Some(Measures {
            tick: Tick::AtMost(hz),
        }) = measures
        {
            add_slow_timer(&mut ports, &vm, hz)?;
        }
        let mut mmio = Bus::new();
        let (pci, watching) =
            pci_devices::attach(config, &vm, &memory, &mut ports, &mut mmio, &notifier)?;
        let buses = Buses {
            ports: Arc::new(ports),
            mmio: Arc::new(mmio),
        };

        let vcpus = create_vcpus(kvm, &vm, config, &memory, &buses, &notifier, &measures)?;
        load_guest(config, &memory, &vcpus, measures.as_ref())?;
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
            let thread = vcpu.spawn(gate.clone()).map_err(system("a vCPU thread"))?;
            threads.push(thread);
        }
        let cpus = Arc::new(Cpus { gate, threads });
        let heartbeat = match self.measures {
            Some(_) => Some(cpus.clone().beat().map_err(system("a thread"))?),
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

/// The vCPU threads and the gate before them.
pub struct Cpus {
    gate: Arc<Gate>,
    threads: Vec<VcpuThread>,
}

impl Cpus {
    /// Gives an order and waits until it is followed.
    pub fn order(&self, order: Order) {
        self.gate.set(order, || self.kick());
    }

    /// What the vCPUs were told last.
    pub fn current_order(&self) -> Order {
        self.gate.order()
    }

    fn kick(&self) {
        self.threads.iter().for_each(VcpuThread::kick);
    }

    /// Interrupts the vCPUs regularly, from a thread that ends with them.
    fn beat(self: Arc<Self>) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || {
                while self.gate.order() != Order::Stop {
                    std::thread::sleep(HEARTBEAT);
                    self.kick();
                }
            })
    }
}

/// A machine whose vCPUs exist.
pub struct Running {
    cpus: Arc<Cpus>,
    heartbeat: Option<JoinHandle<()>>,
    watching: Watching,
    pci: PciRoot,
    power: Arc<Mutex<Power>>,
    notifier: Notifier,
    events: Receiver<Event>,
    _vm: Arc<VmFd>,
    _memory: GuestMemory,
}

impl Running {
    /// The vCPUs, to give them orders.
    pub fn cpus(&self) -> Arc<Cpus> {
        self.cpus.clone()
    }

    /// The power registers, to press the button.
    pub fn power(&self) -> Arc<Mutex<Power>> {
        self.power.clone()
    }

    /// Whom to tell that the machine shall end.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Waits for what ends the machine, then takes it apart: when this returns no thread
    /// of it runs and its files and sockets are closed.
    pub fn wait(self) -> Event {
        let event = self
            .events
            .recv()
            .unwrap_or_else(|_| Event::Failed("the machine vanished".to_owned()));
        self.cpus.order(Order::Stop);
        drop(self.watching);
        self.pci.shut_down();
        if let Some(heartbeat) = self.heartbeat {
            let _ = heartbeat.join();
        }
        if let Ok(cpus) = Arc::try_unwrap(self.cpus) {
            cpus.threads.into_iter().for_each(VcpuThread::join);
        }
        event
    }
}

fn create_vm(
    kvm: &Kvm,
    mib: u64,
    measures: Option<&Measures>,
) -> Result<(Arc<VmFd>, GuestMemory), MachineError> {
    let vm = kvm
        .create_vm()
        .map_err(kvm_failed("make a virtual machine"))?;
    vm.set_identity_map_address(KVM_IDENTITY_MAP_START)
        .and_then(|()| vm.set_tss_address(KVM_TSS_START as usize))
        .map_err(kvm_failed("place its own pages"))?;
    let memory = crate::memory::create(mib)?;
    for (slot, region) in memory.iter().enumerate() {
        let mapping = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is a live mapping of that size, no other slot overlaps it, and
        // `Machine` and `Running` keep the mapping until the virtual machine is gone.
        unsafe { vm.set_user_memory_region(mapping) }.map_err(kvm_failed("map the guest's RAM"))?;
    }
    vm.create_irq_chip()
        .map_err(kvm_failed("make interrupt controllers"))?;
    if !matches!(
        measures,
        Some(Measures {
            tick: Tick::AtMost(_)
        })
    ) {
        let config = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        vm.create_pit2(config).map_err(kvm_failed("make a timer"))?;
    }
    Ok((Arc::new(vm), memory))
}

/// Puts the board's devices on the ports.
fn add_board(
    ports: &mut Bus,
    vm: &Arc<VmFd>,
    console: Box<dyn Write + Send>,
    notifier: &Notifier,
) -> Result<(SharedSerial, Arc<Mutex<Power>>), MachineError> {
    let line = interrupt_line(vm, serial::IRQ)?;
    let serial = Arc::new(Mutex::new(SerialPort::new(line, console)));
    ports.insert(u64::from(serial::COM1), serial::PORTS, serial.clone())?;

    let sci = Box::new(SciLine(vm.clone()));
    let power = Arc::new(Mutex::new(Power::new(sci, notifier.clone())));
    ports.insert(u64::from(power::BASE), power::PORTS, power.clone())?;

    for port in [keyboard::DATA, keyboard::COMMAND] {
        let keyboard = Keyboard::new(port, notifier.clone());
        ports.insert(u64::from(port), 1, Arc::new(Mutex::new(keyboard)))?;
    }
    let clock = Arc::new(Mutex::new(Clock::default()));
    ports.insert(u64::from(clock::INDEX), clock::PORTS, clock)?;
    Ok((serial, power))
}

fn add_slow_timer(ports: &mut Bus, vm: &VmFd, hz: u32) -> Result<(), MachineError> {
    let line = interrupt_line(vm, tick::IRQ)?;
    let pit = Pit::start(line, hz).map_err(system("a timer thread"))?;
    let pit = Arc::new(Mutex::new(pit));
    let gate: Arc<Mutex<dyn BusDevice>> = Arc::new(Mutex::new(GatePort::new(pit.clone())));
    ports.insert(u64::from(tick::PIT), tick::PIT_PORTS, pit)?;
    ports.insert(u64::from(tick::GATE), 1, gate)?;
    Ok(())
}

/// An event descriptor that pulses interrupt line `irq` when written to.
fn interrupt_line(vm: &VmFd, irq: u32) -> Result<EventFd, MachineError> {
    let line = EventFd::new(EFD_NONBLOCK).map_err(system("an event descriptor"))?;
    vm.register_irqfd(&line, irq)
        .map_err(kvm_failed("connect an interrupt line"))?;
    Ok(line)
}

fn create_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    config: &Config,
    memory: &GuestMemory,
    buses: &Buses,
    notifier: &Notifier,
    measures: &Option<Measures>,
) -> Result<Vec<Vcpu>, MachineError> {
    let mut cpuid = Template::supported(kvm).map_err(kvm_failed("say what its CPUs can do"))?;
    if measures.is_some() {
        cpuid.adjust(features::hide);
    }
    let mut vcpus = Vec::with_capacity(usize::from(config.cpus));
    for index in 0..config.cpus {
        let fd = vm
            .create_vcpu(u64::from(index))
            .map_err(kvm_failed("make a vCPU"))?;
        cpuid
            .for_vcpu(index, config.cpus)
            .and_then(|answers| fd.set_cpuid2(&answers))
            .map_err(kvm_failed("set a vCPU's features"))?;
        registers::common(&fd)?;
        vcpus.push(Vcpu {
            index,
            fd,
            buses: buses.clone(),
            notifier: notifier.clone(),
            assist: measures.as_ref().map(|_| VcpuAssist::new(memory.clone())),
        });
    }
    Ok(vcpus)
}

/// Puts kernel, initramfs and tables into memory and points the boot vCPU at them.
fn load_guest(
    config: &Config,
    memory: &GuestMemory,
    vcpus: &[Vcpu],
    measures: Option<&Measures>,
) -> Result<(), MachineError> {
    let Some(boot_vcpu) = vcpus.first() else {
        return Ok(());
    };
    let on_host = measures.is_some();
    let kernel = kernel::load(memory, &config.kernel, on_host)?;
    let initrd = initrd::join(&config.initrd, on_host)?;
    let cmdline = match measures {
        Some(measures) => {
            let khz = boot_vcpu.fd.get_tsc_khz();
            measures.cmdline(
                &config.cmdline,
                khz.map_err(kvm_failed("tell its clock rate"))?,
            )
        }
        None => config.cmdline.clone(),
    };
    tracing::debug!(%cmdline, initrd = initrd.len(), "guest loaded");
    zero_page::write(memory, &kernel, &cmdline, &initrd)?;
    crate::acpi::write(memory, config.cpus).map_err(MachineError::Tables)?;
    crate::smbios::write(memory, config.uuid.0).map_err(MachineError::Tables)?;
    registers::write_tables(memory)?;
    registers::boot_vcpu(&boot_vcpu.fd, kernel.entry)?;
    Ok(())
}

/// Locks the power registers.
pub fn lock_power(power: &Mutex<Power>) -> MutexGuard<'_, Power> {
    power.lock().unwrap_or_else(PoisonError::into_inner)
}
