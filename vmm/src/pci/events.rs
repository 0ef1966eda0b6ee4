//! What the devices need of KVM: interrupts and doorbells that are eventfds.
//!
//! Behind a trait, so that everything above it is tested without a virtual machine.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

/// First interrupt number that is no pin of the I/O APIC.
pub const FIRST_MSI_GSI: u32 = 24;
/// KVM's `KVM_MAX_IRQ_ROUTES`, less what the pins take.
const MAX_MSI_ROUTES: usize = 4096 - 40;

/// The memory write that is a message-signalled interrupt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where it is written (a local APIC's window).
    pub address: u64,
    /// What is written (vector and delivery mode).
    pub data: u32,
}

/// Interrupts and doorbells of one virtual machine.
pub trait VmEvents: Send + Sync {
    /// Takes an interrupt number that nothing else uses.
    fn allocate_gsi(&self) -> io::Result<u32>;
    /// Gives an interrupt number back, with its route.
    fn release_gsi(&self, gsi: u32);
    /// Says what message the interrupt number stands for.
    fn route(&self, gsi: u32, message: MsiMessage) -> io::Result<()>;
    /// From now on a write to `fd` raises `gsi`; a count it already holds does so at once.
    fn attach_irqfd(&self, fd: &EventFd, gsi: u32) -> io::Result<()>;
    /// Ends [`VmEvents::attach_irqfd`].
    fn detach_irqfd(&self, fd: &EventFd, gsi: u32) -> io::Result<()>;
    /// From now on a guest's write to the guest-physical `address` adds one to `fd`.
    fn attach_doorbell(&self, fd: &EventFd, address: u64) -> io::Result<()>;
    /// Ends [`VmEvents::attach_doorbell`].
    fn detach_doorbell(&self, fd: &EventFd, address: u64) -> io::Result<()>;
}

/// [`VmEvents`] of a KVM virtual machine with the in-kernel interrupt controllers.
pub struct KvmEvents {
    vm: Arc<VmFd>,
    routes: Mutex<BTreeMap<u32, Option<MsiMessage>>>,
}

impl KvmEvents {
    /// Takes over the routing table of `vm`.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self {
            vm,
            routes: Mutex::new(BTreeMap::new()),
        }
    }

    fn program(&self, routes: &BTreeMap<u32, Option<MsiMessage>>) -> io::Result<()> {
        let mut entries = pins();
        entries.extend(
            routes
                .iter()
                .filter_map(|(gsi, message)| message.map(|message| msi_entry(*gsi, message))),
        );
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|e| io::Error::other(format!("routing table: {e:?}")))?;
        self.vm.set_gsi_routing(&table).map_err(from_errno)
    }
}

impl VmEvents for KvmEvents {
    fn allocate_gsi(&self) -> io::Result<u32> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= MAX_MSI_ROUTES {
            return Err(io::Error::other("no interrupt number is left"));
        }
        let gsi = (FIRST_MSI_GSI..)
            .find(|gsi| !routes.contains_key(gsi))
            .ok_or_else(|| io::Error::other("no interrupt number is left"))?;
        routes.insert(gsi, None);
        Ok(gsi)
    }

    fn release_gsi(&self, gsi: u32) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.remove(&gsi).flatten().is_some()
            && let Err(error) = self.program(&routes)
        {
            tracing::warn!(gsi, %error, "cannot take an interrupt route back");
        }
    }

    fn route(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = routes.insert(gsi, Some(message));
        let result = self.program(&routes);
        if result.is_err() {
            routes.insert(gsi, before.flatten());
        }
        result
    }

    fn attach_irqfd(&self, fd: &EventFd, gsi: u32) -> io::Result<()> {
        self.vm.register_irqfd(fd, gsi).map_err(from_errno)
    }

    fn detach_irqfd(&self, fd: &EventFd, gsi: u32) -> io::Result<()> {
        self.vm.unregister_irqfd(fd, gsi).map_err(from_errno)
    }

    fn attach_doorbell(&self, fd: &EventFd, address: u64) -> io::Result<()> {
        self.vm
            .register_ioevent(fd, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(from_errno)
    }

    fn detach_doorbell(&self, fd: &EventFd, address: u64) -> io::Result<()> {
        self.vm
            .unregister_ioevent(fd, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(from_errno)
    }
}

fn from_errno(errno: vmm_sys_util::errno::Error) -> io::Error {
    io::Error::from_raw_os_error(errno.errno())
}

/// KVM's own default for the legacy pins: each number reaches the I/O APIC pin of that
/// number, and the first sixteen also the two PICs.
fn pins() -> Vec<kvm_irq_routing_entry> {
    let pin = |gsi: u32, irqchip: u32, pin: u32| {
        let mut entry = kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            ..Default::default()
        };
        entry.u.irqchip.irqchip = irqchip;
        entry.u.irqchip.pin = pin;
        entry
    };
    let mut entries = Vec::with_capacity(40);
    for gsi in 0..FIRST_MSI_GSI {
        entries.push(pin(gsi, KVM_IRQCHIP_IOAPIC, gsi));
        match gsi {
            0..8 => entries.push(pin(gsi, KVM_IRQCHIP_PIC_MASTER, gsi)),
            8..16 => entries.push(pin(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8)),
            _ => {}
        }
    }
    entries
}

fn msi_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}

#[cfg(test)]
#[path = "events_test.rs"]
mod tests;

/// A [`VmEvents`] that only records, for tests of what stands on it.
#[cfg(test)]
pub(crate) mod test_double {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::fd::AsRawFd;

    #[derive(Default)]
    pub(crate) struct Recorder {
        pub state: Mutex<Recorded>,
    }

    #[derive(Default)]
    pub(crate) struct Recorded {
        pub gsis: BTreeMap<u32, Option<MsiMessage>>,
        pub irqfds: BTreeMap<u32, EventFd>,
        pub doorbells: BTreeMap<u64, EventFd>,
    }

    impl VmEvents for Recorder {
        fn allocate_gsi(&self) -> io::Result<u32> {
            let gsis = &mut self.state.lock().unwrap().gsis;
            let gsi = (FIRST_MSI_GSI..).find(|g| !gsis.contains_key(g)).unwrap();
            gsis.insert(gsi, None);
            Ok(gsi)
        }
        fn release_gsi(&self, gsi: u32) {
            self.state.lock().unwrap().gsis.remove(&gsi).unwrap();
        }
        fn route(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
            let old = self.state.lock().unwrap().gsis.insert(gsi, Some(message));
            assert!(old.is_some(), "route of a number that was not allocated");
            Ok(())
        }
        fn attach_irqfd(&self, fd: &EventFd, gsi: u32) -> io::Result<()> {
            let fd = fd.try_clone().unwrap();
            let old = self.state.lock().unwrap().irqfds.insert(gsi, fd);
            assert!(old.is_none(), "attached twice");
            Ok(())
        }
        fn detach_irqfd(&self, fd: &EventFd, gsi: u32) -> io::Result<()> {
            assert!(fd.as_raw_fd() >= 0);
            self.state.lock().unwrap().irqfds.remove(&gsi).unwrap();
            Ok(())
        }
        fn attach_doorbell(&self, fd: &EventFd, address: u64) -> io::Result<()> {
            let fd = fd.try_clone().unwrap();
            let old = self.state.lock().unwrap().doorbells.insert(address, fd);
            assert!(old.is_none(), "attached twice");
            Ok(())
        }
        fn detach_doorbell(&self, _: &EventFd, address: u64) -> io::Result<()> {
            self.state
                .lock()
                .unwrap()
                .doorbells
                .remove(&address)
                .unwrap();
            Ok(())
        }
    }
}
