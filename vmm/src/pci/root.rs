//! The root bus: finds the function that an access is for.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::config_space::{ConfigSpace, Identity};
use super::events::{KvmEvents, VmEvents};
use crate::bus::BusDevice;
use crate::memory::{GuestMemory, PCI_MMIO_LEN, PCI_MMIO_START};
use crate::virtio::{BAR_SIZE, VirtioDevice, VirtioPciFunction};

/// Most functions besides the host bridge (slots 1–31 of bus 0).
pub const MAX_FUNCTIONS: usize = 31;

const ENABLE: u32 = 1 << 31;
/// The port inside the configuration ports that resets an Intel chip set (0xCF9).
const RESET_PORT: u64 = 1;
const RESET_CPU: u8 = 1 << 2;

/// A function on the bus.
pub trait PciFunction: Send {
    /// Fills `data` from the configuration space.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);
    /// Takes a write to the configuration space.
    fn write_config(&mut self, offset: usize, data: &[u8]);
    /// The guest-physical range that the function answers now, if any.
    fn decoded(&self) -> Option<Range<u64>>;
    /// Fills `data` from the BAR.
    fn read_bar(&mut self, offset: u64, data: &mut [u8]);
    /// Takes a write to the BAR.
    fn write_bar(&mut self, offset: u64, data: &[u8]);
}

/// Why a device could not be put on the PCI bus.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// All slots are taken.
    #[error("a virtual machine has at most {MAX_FUNCTIONS} devices")]
    Full,
    /// KVM or the system refused what the function's interrupts need.
    #[error("cannot set up the interrupts of a PCI function")]
    Interrupts(#[from] io::Error),
}

struct Slots {
    functions: Vec<Box<dyn PciFunction>>,
    reset: Option<EventFd>,
}

/// The PCI root bus of a virtual machine.
pub struct PciRoot {
    events: Arc<dyn VmEvents>,
    slots: Arc<Mutex<Slots>>,
    ports: Arc<Mutex<ConfigPorts>>,
}

impl PciRoot {
    /// A bus with a host bridge at 00:00.0, in a virtual machine whose in-kernel interrupt
    /// controllers exist. From here on the bus owns the machine's interrupt routing table.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self::with_events(Arc::new(KvmEvents::new(vm)))
    }

    /// The same on any [`VmEvents`].
    pub fn with_events(events: Arc<dyn VmEvents>) -> Self {
        let slots = Arc::new(Mutex::new(Slots {
            functions: vec![Box::new(HostBridge::new())],
            reset: None,
        }));
        let ports = Arc::new(Mutex::new(ConfigPorts {
            address: 0,
            slots: slots.clone(),
        }));
        Self {
            events,
            slots,
            ports,
        }
    }

    /// What answers I/O ports 0xCF8–0xCFF.
    pub fn config_ports(&self) -> Arc<Mutex<dyn BusDevice>> {
        self.ports.clone()
    }

    /// What answers the 32-bit window from `PCI_MMIO_START` on.
    pub fn mmio_window(&self) -> Arc<Mutex<dyn BusDevice>> {
        Arc::new(Mutex::new(MmioWindow {
            slots: self.slots.clone(),
        }))
    }

    /// `event` is written when the guest asks for a reset at port 0xCF9.
    pub fn set_reset_event(&self, event: EventFd) {
        lock(&self.slots).reset = Some(event);
    }

    /// Puts `device` into the next slot, with its BAR placed in the window, and returns the
    /// slot's number.
    pub fn add(
        &mut self,
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
    ) -> Result<u8, PciError> {
        let slot = lock(&self.slots).functions.len();
        if slot > MAX_FUNCTIONS {
            return Err(PciError::Full);
        }
        let base = PCI_MMIO_START as u32 + (slot as u32 - 1) * BAR_SIZE;
        let function = VirtioPciFunction::new(device, memory, self.events.clone(), base)?;
        lock(&self.slots).functions.push(Box::new(function));
        Ok(slot as u8)
    }

    /// Stops and drops every device: threads joined, files and sockets closed.
    ///
    /// Call it when no vCPU runs any more.
    pub fn shut_down(&self) {
        let functions = lock(&self.slots).functions.split_off(1);
        drop(functions);
    }
}

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slots {
    fn read_config(&mut self, bus: u32, device_function: u32, register: usize, data: &mut [u8]) {
        match self.function(bus, device_function) {
            Some(function) => function.read_config(register, data),
            None => data.fill(0xFF),
        }
    }

    fn write_config(&mut self, bus: u32, device_function: u32, register: usize, data: &[u8]) {
        if let Some(function) = self.function(bus, device_function) {
            function.write_config(register, data);
        }
    }

    fn function(&mut self, bus: u32, device_function: u32) -> Option<&mut Box<dyn PciFunction>> {
        if bus != 0 || device_function & 7 != 0 {
            return None;
        }
        self.functions.get_mut(device_function as usize >> 3)
    }

    fn at(&mut self, address: u64, len: usize) -> Option<(u64, &mut Box<dyn PciFunction>)> {
        let end = address.checked_add(len as u64)?;
        self.functions.iter_mut().find_map(|function| {
            let range = function.decoded()?;
            (range.start <= address && end <= range.end).then(|| (address - range.start, function))
        })
    }
}

/// Configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2).
struct ConfigPorts {
    address: u32,
    slots: Arc<Mutex<Slots>>,
}

impl ConfigPorts {
    /// Bus, device and function, and register of an access at `offset` of the data port.
    fn target(&self, offset: u64) -> Option<(u32, u32, usize)> {
        let register = (self.address & 0xFC) as usize + (offset as usize & 3);
        (self.address & ENABLE != 0).then_some((
            self.address >> 16 & 0xFF,
            self.address >> 8 & 0xFF,
            register,
        ))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset < 4 {
            let address = self.address.to_le_bytes();
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = *address.get(offset as usize + i).unwrap_or(&0xFF);
            }
            return;
        }
        match self.target(offset) {
            Some((bus, devfn, register)) => {
                lock(&self.slots).read_config(bus, devfn, register, data)
            }
            None => data.fill(0xFF),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            // Only a whole word reaches the address register; single bytes belong to other
            // registers that share the ports.
            (0, [a, b, c, d]) => self.address = u32::from_le_bytes([*a, *b, *c, *d]) & !0x7F00_0003,
            (RESET_PORT, [value]) if value & RESET_CPU != 0 => {
                if let Some(event) = &lock(&self.slots).reset
                    && let Err(error) = event.write(1)
                {
                    tracing::error!(%error, "cannot pass on the guest's reset");
                }
            }
            (0..4, _) => {}
            _ => {
                if let Some((bus, devfn, register)) = self.target(offset) {
                    lock(&self.slots).write_config(bus, devfn, register, data);
                }
            }
        }
    }
}

struct MmioWindow {
    slots: Arc<Mutex<Slots>>,
}

impl BusDevice for MmioWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let address = PCI_MMIO_START.saturating_add(offset.min(PCI_MMIO_LEN));
        match lock(&self.slots).at(address, data.len()) {
            Some((at, function)) => function.read_bar(at, data),
            None => data.fill(0xFF),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let address = PCI_MMIO_START.saturating_add(offset.min(PCI_MMIO_LEN));
        if let Some((at, function)) = lock(&self.slots).at(address, data.len()) {
            function.write_bar(at, data);
        }
    }
}

/// The bridge at 00:00.0 that guests look for before they trust what they find.
struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    fn new() -> Self {
        Self {
            // The generic host bridge of the Red Hat range: no guest has quirks for it.
            config: ConfigSpace::new(Identity {
                vendor: 0x1B36,
                device: 0x0008,
                revision: 0,
                class: 0x06_00_00,
                subsystem_vendor: 0x1AF4,
                subsystem: 0x1100,
            }),
        }
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn decoded(&self) -> Option<Range<u64>> {
        None
    }

    fn read_bar(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn write_bar(&mut self, _: u64, _: &[u8]) {}
}

#[cfg(test)]
#[path = "root_test.rs"]
mod tests;
