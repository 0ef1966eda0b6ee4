//! The state of a vCPU before its first instruction.
//!
//! The boot vCPU enters the kernel in 64-bit mode with flat segments and the first 4 GiB
//! mapped to themselves. The others wait for the kernel's start-up interrupts.

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout;
use crate::memory::GuestMemory;

const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS_FIXED: u64 = 2;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, write-back by default.
const MTRR_WRITE_BACK: u64 = (1 << 11) | 6;

const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const DELIVERY_EXTINT: u32 = 0x700;
const DELIVERY_NMI: u32 = 0x400;

/// Page-table entry: present, writable.
const PTE_TABLE: u64 = 3;
/// Page-table entry: present, writable, 2 MiB page.
const PTE_LARGE: u64 = 0x83;

/// Why a vCPU's state could not be set.
#[derive(Debug, thiserror::Error)]
pub enum RegistersError {
    /// KVM refused.
    #[error("KVM refused a vCPU's {what}")]
    Kvm {
        /// Which part of the state.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// Guest memory was not there.
    #[error("cannot write descriptor and page tables")]
    Memory(#[from] GuestMemoryError),
}

fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> RegistersError {
    move |source| RegistersError::Kvm { what, source }
}

/// A flat 64-bit code segment at privilege 0.
pub fn code_segment(selector: u16) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: 11,
        present: 1,
        dpl: 0,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    }
}

/// A flat data segment at privilege 0.
pub fn data_segment(selector: u16) -> kvm_segment {
    kvm_segment {
        type_: 3,
        db: 1,
        l: 0,
        ..code_segment(selector)
    }
}

/// Writes the descriptor and page tables that [`boot_vcpu`] points at.
pub fn write_tables(memory: &GuestMemory) -> Result<(), RegistersError> {
    let gdt: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    for (index, entry) in gdt.into_iter().enumerate() {
        memory.write_obj(entry, GuestAddress(layout::GDT + 8 * index as u64))?;
    }
    memory.write_obj(0_u64, GuestAddress(layout::IDT))?;

    let (pml4, pdpt, pd) = (
        layout::PAGE_TABLES,
        layout::PAGE_TABLES + 0x1000,
        layout::PAGE_TABLES + 0x2000,
    );
    memory.write_obj(pdpt | PTE_TABLE, GuestAddress(pml4))?;
    for gib in 0..4 {
        let table = pd + 0x1000 * gib;
        memory.write_obj(table | PTE_TABLE, GuestAddress(pdpt + 8 * gib))?;
        for page in 0..512 {
            let entry = (gib << 30) | (page << 21) | PTE_LARGE;
            memory.write_obj(entry, GuestAddress(table + 8 * page))?;
        }
    }
    Ok(())
}

/// Sets what every vCPU starts with: FPU, MSRs and local interrupt pins.
pub fn common(vcpu: &VcpuFd) -> Result<(), RegistersError> {
    // The FPU and SSE control words of a processor after reset (Intel SDM vol. 3, 10.1.1).
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu).map_err(kvm("FPU"))?;
    let entries = [
        (MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        (MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
    ]
    .map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    // An MSR that this host does not have is left as it is: neither is needed to boot.
    if let Ok(msrs) = Msrs::from_entries(&entries) {
        vcpu.set_msrs(&msrs).map_err(kvm("MSRs"))?;
    }
    let mut lapic = vcpu.get_lapic().map_err(kvm("local APIC"))?;
    for (register, mode) in [(APIC_LVT0, DELIVERY_EXTINT), (APIC_LVT1, DELIVERY_NMI)] {
        for (target, byte) in lapic.regs[register..].iter_mut().zip(mode.to_le_bytes()) {
            *target = byte as i8;
        }
    }
    vcpu.set_lapic(&lapic).map_err(kvm("local APIC"))
}

/// Lets the boot vCPU start at `entry` with the zero page in RSI.
pub fn boot_vcpu(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), RegistersError> {
    let mut sregs = vcpu.get_sregs().map_err(kvm("segments"))?;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 31;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 0;
    sregs.cs = code_segment(0x10);
    let data = data_segment(0x18);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    sregs.efer = EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(kvm("segments"))?;
    vcpu.set_regs(&kvm_regs {
        rip: entry.0,
        rsi: layout::ZERO_PAGE,
        rsp: layout::STACK,
        rflags: RFLAGS_FIXED,
        ..Default::default()
    })
    .map_err(kvm("registers"))
}
