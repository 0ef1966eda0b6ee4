//! The steps in which a machine is put together.

use std::io::Write;
use std::sync::{Arc, Mutex};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::error::{kvm_failed, system};
use super::{Config, MachineError};
use crate::boot::{initrd, kernel, registers, zero_page};
use crate::bus::{Bus, BusDevice};
use crate::cpuid::Template;
use crate::devices::clock::{self, Clock};
use crate::devices::keyboard::{self, Keyboard};
use crate::devices::power::{self, Power, SciLine};
use crate::devices::serial::{self, SerialPort, SharedSerial};
use crate::events::Notifier;
use crate::memory::{GuestMemory, KVM_IDENTITY_MAP_START, KVM_TSS_START};
use crate::vcpu::{Buses, Vcpu};
use crate::without_vtx::features;
use crate::without_vtx::tick::{self, GatePort, Pit, Tick};
use crate::without_vtx::{Measures, VcpuAssist};

pub(super) fn create_vm(
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
pub(super) fn add_board(
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

pub(super) fn add_slow_timer(ports: &mut Bus, vm: &VmFd, hz: u32) -> Result<(), MachineError> {
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

pub(super) fn create_vcpus(
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
pub(super) fn load_guest(
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
    let initrd = initrd::join(&config.initrd, on_host, crate::memory::low_len(memory))?;
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
