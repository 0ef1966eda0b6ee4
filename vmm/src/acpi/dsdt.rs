//! The DSDT: PCI host bridge, serial port, processors, and the way to power off.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE, bytes};
use crate::devices::{power, serial};
use crate::memory::{PCI_MMIO_LEN, PCI_MMIO_START};

/// PCI configuration mechanism #1.
const PCI_CONFIG: u16 = 0xcf8;

pub(super) fn table(cpus: u8) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE, OEM_REVISION);
    // \_S5: the sleep type to write to PM1 control for soft-off (7.4.2).
    let sleep_type = power::S5_SLEEP_TYPE;
    let s5 = Name::new(
        "_S5_".into(),
        &Package::new(vec![&sleep_type, &sleep_type, &0_u8, &0_u8]),
    );
    dsdt.append_slice(&bytes(&s5));
    dsdt.append_slice(&host_bridge_and_serial());
    dsdt.append_slice(&processors(cpus));
    dsdt
}

fn host_bridge_and_serial() -> Vec<u8> {
    let mmio_end = PCI_MMIO_START + PCI_MMIO_LEN - 1;
    let bus = AddressSpace::new_bus_number(0_u16, 0);
    let config = IO::new(PCI_CONFIG, PCI_CONFIG, 1, 8);
    let ports_below = AddressSpace::new_io(0_u16, PCI_CONFIG - 1, None);
    let ports_above = AddressSpace::new_io(0xd00_u16, 0xffff, None);
    let mmio = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        PCI_MMIO_START as u32,
        mmio_end as u32,
        None,
    );
    let windows = ResourceTemplate::new(vec![&bus, &config, &ports_below, &ports_above, &mmio]);
    let (pci_id, pci_resources) = (
        Name::new("_HID".into(), &EISAName::new("PNP0A03")),
        Name::new("_CRS".into(), &windows),
    );
    // No _ADR beside the _HID: a device is named by one of the two (6.1).
    let (uid, segment) = (
        Name::new("_UID".into(), &0_u8),
        Name::new("_SEG".into(), &0_u8),
    );
    let bridge = Device::new("PCI0".into(), vec![&pci_id, &uid, &segment, &pci_resources]);

    let com1_ports = IO::new(serial::COM1, serial::COM1, 1, serial::PORTS as u8);
    let com1_irq = Interrupt::new(true, true, false, false, serial::IRQ);
    let com1_resources = ResourceTemplate::new(vec![&com1_irq, &com1_ports]);
    let (com1_id, com1_crs) = (
        Name::new("_HID".into(), &EISAName::new("PNP0501")),
        Name::new("_CRS".into(), &com1_resources),
    );
    let com1_uid = Name::new("_UID".into(), &1_u8);
    let com1 = Device::new("COM1".into(), vec![&com1_id, &com1_uid, &com1_crs]);
    bytes(&Scope::new("_SB_".into(), vec![&bridge, &com1]))
}

fn processors(cpus: u8) -> Vec<u8> {
    let id = Name::new("_HID".into(), &"ACPI0007");
    let mut devices = Vec::new();
    for cpu in 0..cpus {
        let uid = Name::new("_UID".into(), &cpu);
        let path = Path::new(&format!("C{cpu:03X}"));
        devices.extend(bytes(&Device::new(path, vec![&id, &uid])));
    }
    Scope::raw("_SB_".into(), devices)
}
