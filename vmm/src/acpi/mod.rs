//! The ACPI tables: what the guest's kernel learns of the machine beyond its CPU.
//!
//! A fixed-hardware machine (not "hardware-reduced"), because every kernel since the 2.6
//! series knows how to power it off, reset it, and hear its power button:
//! RSDP → XSDT → FADT (→ FACS, DSDT) and MADT. References are to ACPI 6.5.

mod dsdt;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::boot::layout;
use crate::devices::power;
use crate::memory::{GuestMemory, IOAPIC_START, LAPIC_START};

pub(crate) const OEM_ID: [u8; 6] = *b"RELEVO";
pub(crate) const OEM_TABLE: [u8; 8] = *b"RELEVOVM";
const OEM_REVISION: u32 = 1;

/// IA-PC boot flags (table 5.10): a serial port is there, a VGA adapter is not.
const BOOT_ARCH: u16 = (1 << 0) | (1 << 2);
/// MADT flag: there are two 8259 interrupt controllers as well.
const MADT_PCAT_COMPAT: u32 = 1;
/// MADT interrupt source override: active high, level triggered.
const LEVEL_HIGH: u16 = 0b1101;

/// Writes all tables for `cpus` vCPUs, the RSDP first, at [`layout::ACPI`].
pub fn write(memory: &GuestMemory, cpus: u8) -> Result<(), GuestMemoryError> {
    memory.write_slice(&tables(layout::ACPI, cpus), GuestAddress(layout::ACPI))
}

/// Lays the tables out from `base` on; each starts on a 64-byte border, as the FACS must.
fn tables(base: u64, cpus: u8) -> Vec<u8> {
    let mut out = vec![0; Rsdp::len().next_multiple_of(64)];
    let mut place = |table: &[u8]| {
        let at = base + out.len() as u64;
        out.extend_from_slice(table);
        out.resize(out.len().next_multiple_of(64), 0);
        at
    };
    let facs = place(&bytes(&FACS::new()));
    let dsdt = place(dsdt::table(cpus).as_slice());
    let fadt = place(&bytes(&fadt(facs, dsdt)));
    let madt = place(madt(cpus).as_slice());
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM_ID, xsdt));
    out[..rsdp.len()].copy_from_slice(&rsdp);
    out
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    table.to_aml_bytes(&mut out);
    out
}

fn port(address: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, u64::from(address))
}

/// FADT (5.2.9): the fixed registers, at the ports of [`crate::devices::power`].
fn fadt(facs: u64, dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .firmware_ctrl_32(facs as u32)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // There is no sleep button and no alarm that could wake the machine.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    fadt.dsdt = (dsdt as u32).into();
    fadt.sci_int = power::SCI.into();
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.pm1a_evt_blk = u32::from(power::PM1_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(power::PM1_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_evt_blk = port(power::PM1_EVENT, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = port(power::PM1_CONTROL, 16, AccessSize::WordAccess);
    fadt.reset_reg = port(power::RESET, 8, AccessSize::ByteAccess);
    fadt.reset_value = power::RESET_VALUE;
    // Latencies that say: no C2, no C3.
    fadt.p_lvl2_lat = 0x0fff.into();
    fadt.p_lvl3_lat = 0x0fff.into();
    fadt.finalize()
}

/// MADT (5.2.12): one local APIC a vCPU, the I/O APIC, and the SCI's trigger mode.
fn madt(cpus: u8) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 44, 5, OEM_ID, OEM_TABLE, OEM_REVISION);
    madt.write_u32(36, LAPIC_START as u32);
    madt.write_u32(40, MADT_PCAT_COMPAT);
    for cpu in 0..cpus {
        let local = ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled);
        madt.append_slice(&bytes(&local));
    }
    madt.append_slice(&bytes(&IoApic::new(cpus, IOAPIC_START as u32, 0)));
    // Interrupt source override (5.2.12.5): type, length, bus ISA, source, GSI, flags.
    let sci = power::SCI as u8;
    let mut source = vec![2, 10, 0, sci, sci, 0, 0, 0];
    source.extend(LEVEL_HIGH.to_le_bytes());
    madt.append_slice(&source);
    // Local APIC NMI (5.2.12.7): every processor, conforming trigger, LINT1.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

#[cfg(test)]
#[path = "tables_test.rs"]
mod tests;
