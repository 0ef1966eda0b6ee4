//! SYSCALL, repaired.
//!
//! On these hosts SYSCALL loads RIP, RCX and R11 as it should and leaves the processor at
//! privilege 3. The fetch of the first kernel instruction then ends in a page fault whose
//! frame says all that is needed: the faulting RIP is LSTAR itself. A hardware breakpoint
//! on the guest's page-fault handler lets the VMM see every such fault before the guest
//! does, complete the SYSCALL and let the kernel run on. Any other page fault goes its way
//! after its handler's first instruction was stepped over by hand, because the emulator
//! ignores RFLAGS.RF and would stop there again.
//!
//! The breakpoint exists from the moment LSTAR is set, which is long before user mode, and
//! follows the handler: gate 14 is read anew once a heartbeat, wherever the IDT then is.

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, Msrs, kvm_guest_debug,
    kvm_guest_debug_arch, kvm_msr_entry, kvm_regs, kvm_sregs,
};
use kvm_ioctls::VcpuFd;

use super::{AssistError, instructions, kvm, read_guest};
use crate::boot::registers::{code_segment, data_segment};
use crate::memory::GuestMemory;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_FMASK: u32 = 0xc000_0084;

/// Page-fault error code (SDM vol. 3A, 4.7): present, from user mode, instruction fetch.
const FETCH_FROM_USER: u64 = 1 | 1 << 2 | 1 << 4;
const PAGE_FAULT: u64 = 14;
/// DR7: breakpoint 0 on execution, everywhere; bits 9 and 10 are always set or exact.
const DR7_BREAKPOINT_0: u64 = 0x602;
const RFLAGS_FIXED: u64 = 1 << 1;
const RFLAGS_RF: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const EFER_LMA: u64 = 1 << 10;

/// How the guest's kernel wants to be entered, and where its page faults go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    page_fault_handler: u64,
    lstar: u64,
    flag_mask: u64,
    code_selector: u16,
}

/// A page fault's stack frame, from the error code up.
#[derive(Debug, Clone, Copy)]
struct Frame {
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
}

/// Repairs the SYSCALLs of one vCPU.
#[derive(Debug, Default)]
pub struct SyscallRepair {
    armed: Option<Entry>,
    stepping: bool,
    count: u64,
}

impl SyscallRepair {
    /// Puts the breakpoint to where the guest's page-fault handler is now.
    pub fn follow(&mut self, vcpu: &VcpuFd, memory: &GuestMemory) -> Result<(), AssistError> {
        if self.stepping {
            return Ok(());
        }
        let Some(entry) = read_entry(vcpu, memory)? else {
            return Ok(());
        };
        if self.armed != Some(entry) {
            tracing::debug!(?entry, "following the guest's system call entry");
            self.armed = Some(entry);
            self.arm(vcpu)?;
        }
        Ok(())
    }

    fn arm(&self, vcpu: &VcpuFd) -> Result<(), AssistError> {
        let Some(entry) = self.armed else {
            return Ok(());
        };
        let mut debugreg = [0; 8];
        debugreg[0] = entry.page_fault_handler;
        debugreg[7] = DR7_BREAKPOINT_0;
        debug(vcpu, KVM_GUESTDBG_USE_HW_BP, debugreg)
    }

    /// The breakpoint was reached.
    pub fn on_breakpoint(
        &mut self,
        vcpu: &VcpuFd,
        memory: &GuestMemory,
    ) -> Result<(), AssistError> {
        if self.stepping {
            self.stepping = false;
            return self.arm(vcpu);
        }
        let mut regs = vcpu.get_regs().map_err(kvm("registers"))?;
        let Some(entry) = self.armed.filter(|e| e.page_fault_handler == regs.rip) else {
            // The handler moved since: nothing stands here any more, or will again.
            return self.single_step(vcpu);
        };
        let mut sregs = vcpu.get_sregs().map_err(kvm("segments"))?;
        let frame = read_frame(vcpu, memory, regs.rsp);
        if let Some(frame) = frame.filter(|f| is_unfinished_syscall(f, &entry, sregs.cr2, regs.r11))
        {
            finish_syscall(&frame, &entry, &mut regs, &mut sregs);
            self.count += 1;
            tracing::trace!(count = self.count, rax = regs.rax, "system call repaired");
            vcpu.set_sregs(&sregs).map_err(kvm("segments"))?;
            return vcpu.set_regs(&regs).map_err(kvm("registers"));
        }
        let bytes = read_guest(vcpu, memory, regs.rip, instructions::MAX_LEN);
        if instructions::step_over(&bytes, &mut regs) {
            return vcpu.set_regs(&regs).map_err(kvm("registers"));
        }
        self.single_step(vcpu)
    }

    /// Lets the vCPU do one instruction without the breakpoint.
    fn single_step(&mut self, vcpu: &VcpuFd) -> Result<(), AssistError> {
        self.stepping = true;
        debug(vcpu, KVM_GUESTDBG_SINGLESTEP, [0; 8])
    }
}

fn debug(vcpu: &VcpuFd, what: u32, debugreg: [u64; 8]) -> Result<(), AssistError> {
    vcpu.set_guest_debug(&kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | what,
        pad: 0,
        arch: kvm_guest_debug_arch { debugreg },
    })
    .map_err(kvm("a breakpoint"))
}

/// `None` while the guest has no 64-bit system call entry yet.
fn read_entry(vcpu: &VcpuFd, memory: &GuestMemory) -> Result<Option<Entry>, AssistError> {
    let entries = [MSR_STAR, MSR_LSTAR, MSR_FMASK].map(|index| kvm_msr_entry {
        index,
        ..Default::default()
    });
    let Ok(mut msrs) = Msrs::from_entries(&entries) else {
        return Ok(None);
    };
    vcpu.get_msrs(&mut msrs).map_err(kvm("MSRs"))?;
    let &[star, lstar, flag_mask] = msrs.as_slice() else {
        return Ok(None);
    };
    if lstar.data == 0 {
        return Ok(None);
    }
    let sregs = vcpu.get_sregs().map_err(kvm("segments"))?;
    if sregs.cr0 & CR0_PG == 0 || sregs.efer & EFER_LMA == 0 {
        return Ok(None);
    }
    let gate_at = sregs.idt.base.wrapping_add(16 * PAGE_FAULT);
    let gate = read_guest(vcpu, memory, gate_at, 16);
    Ok(gate_target(&gate).map(|page_fault_handler| Entry {
        page_fault_handler,
        lstar: lstar.data,
        flag_mask: flag_mask.data,
        code_selector: (star.data >> 32) as u16 & !3,
    }))
}

/// Where a 64-bit interrupt gate leads (SDM vol. 3A, 6.14.1); `None` if it is not present.
fn gate_target(gate: &[u8]) -> Option<u64> {
    let gate = u128::from_le_bytes(gate.try_into().ok()?);
    let present = gate >> 47 & 1 == 1;
    let target = (gate & 0xffff) | (gate >> 48 & 0xffff) << 16 | (gate >> 64 & 0xffff_ffff) << 32;
    present.then_some(target as u64)
}

fn read_frame(vcpu: &VcpuFd, memory: &GuestMemory, rsp: u64) -> Option<Frame> {
    let bytes = read_guest(vcpu, memory, rsp, 40);
    let (words, _) = bytes.as_chunks::<8>();
    let &[error, rip, cs, rflags, rsp] = words else {
        return None;
    };
    let word = u64::from_le_bytes;
    Some(Frame {
        error: word(error),
        rip: word(rip),
        cs: word(cs),
        rflags: word(rflags),
        rsp: word(rsp),
    })
}

/// Tells a SYSCALL from a jump to LSTAR by the flags: the instruction masks them before it
/// faults, and a program cannot mask the interrupt flag. (Where it did not get that far,
/// R11 has the flags: a program that forges that wins nothing but a system call.) A jump
/// must not pass, because the kernel's SYSRET restores the flags from R11, among them I/O
/// privilege.
fn is_unfinished_syscall(frame: &Frame, entry: &Entry, cr2: u64, r11: u64) -> bool {
    let flags = frame.rflags & !RFLAGS_RF;
    frame.rip == entry.lstar
        && cr2 == entry.lstar
        && frame.cs & 3 == 3
        && frame.error & FETCH_FROM_USER == FETCH_FROM_USER
        && (flags & entry.flag_mask == 0 || flags == r11)
}

/// Does what SYSCALL left undone (SDM vol. 2B, SYSCALL).
fn finish_syscall(frame: &Frame, entry: &Entry, regs: &mut kvm_regs, sregs: &mut kvm_sregs) {
    regs.rip = entry.lstar;
    regs.rsp = frame.rsp;
    regs.rflags = (frame.rflags & !entry.flag_mask & !RFLAGS_RF) | RFLAGS_FIXED;
    sregs.cs = code_segment(entry.code_selector);
    sregs.ss = data_segment(entry.code_selector.wrapping_add(8));
}

#[cfg(test)]
#[path = "syscall_test.rs"]
mod tests;
