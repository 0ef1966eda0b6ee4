//! Instructions done by hand: those that KVM's emulator lacks, and those at which a
//! breakpoint stands and that therefore have to be stepped over.

use kvm_bindings::kvm_regs;

/// No instruction is longer (Intel SDM vol. 2A, 2.3.11).
pub const MAX_LEN: usize = 15;
/// Vector of the breakpoint exception.
pub const BP_VECTOR: u8 = 3;

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const DF: u64 = 1 << 10;
const OF: u64 = 1 << 11;
const AC: u64 = 1 << 18;

/// What is left to do after an instruction was filled in.
#[derive(Debug, PartialEq, Eq)]
pub enum Gap {
    /// Nothing: it is done.
    Done,
    /// It was `int3`: the guest has to get a breakpoint exception.
    Breakpoint,
}

/// Does the instruction at the start of `bytes`, if it is one the emulator lacks.
pub fn fill(bytes: &[u8], regs: &mut kvm_regs) -> Option<Gap> {
    if bytes.first() == Some(&0xcc) {
        regs.rip = regs.rip.wrapping_add(1);
        return Some(Gap::Breakpoint);
    }
    if bytes.first() == Some(&0x9b) {
        // fwait: no x87 exception can be pending in a kernel that does not use the x87.
        regs.rip = regs.rip.wrapping_add(1);
        return Some(Gap::Done);
    }
    (step_over(bytes, regs) || popcnt(bytes, regs)).then_some(Gap::Done)
}

/// Does the instruction at the start of `bytes`, if it is one with which compilers and
/// kernels begin an exception handler. `false`, and nothing changed, otherwise.
pub fn step_over(bytes: &[u8], regs: &mut kvm_regs) -> bool {
    let (len, cleared, set) = match *bytes {
        [0x90, ..] => (1, 0, 0),
        [0x66, 0x90, ..] => (2, 0, 0),
        [0xfc, ..] => (1, DF, 0),
        // clac, stac
        [0x0f, 0x01, 0xca, ..] => (3, AC, 0),
        [0x0f, 0x01, 0xcb, ..] => (3, 0, AC),
        // endbr64
        [0xf3, 0x0f, 0x1e, 0xfa, ..] => (4, 0, 0),
        [0x0f, 0x1f, modrm, ..] => (2 + long_nop_operand(modrm), 0, 0),
        [0x66, 0x0f, 0x1f, modrm, ..] => (3 + long_nop_operand(modrm), 0, 0),
        _ => return false,
    };
    regs.rip = regs.rip.wrapping_add(len);
    regs.rflags = (regs.rflags & !cleared) | set;
    true
}

/// Bytes of a long NOP from its ModR/M byte on (SDM vol. 2A, table 2-2).
fn long_nop_operand(modrm: u8) -> u64 {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let sib = u64::from(mode != 3 && rm == 4);
    let displacement = match mode {
        0 if rm == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    1 + sib + displacement
}

/// `popcnt` between registers.
fn popcnt(bytes: &[u8], regs: &mut kvm_regs) -> bool {
    let (rex, len, modrm) = match *bytes {
        [0xf3, 0x0f, 0xb8, modrm, ..] => (0, 4, modrm),
        [0xf3, rex @ 0x40..=0x4f, 0x0f, 0xb8, modrm, ..] => (rex, 5, modrm),
        _ => return false,
    };
    if modrm >> 6 != 3 {
        return false;
    }
    let source = (modrm & 7) | (rex & 1) << 3;
    let target = (modrm >> 3 & 7) | (rex & 4) << 1;
    let mut value = *register(regs, source);
    if rex & 8 == 0 {
        value &= u64::from(u32::MAX);
    }
    *register(regs, target) = u64::from(value.count_ones());
    regs.rip = regs.rip.wrapping_add(len);
    regs.rflags &= !(CF | PF | AF | ZF | SF | OF);
    if value == 0 {
        regs.rflags |= ZF;
    }
    true
}

fn register(regs: &mut kvm_regs, number: u8) -> &mut u64 {
    match number & 15 {
        0 => &mut regs.rax,
        1 => &mut regs.rcx,
        2 => &mut regs.rdx,
        3 => &mut regs.rbx,
        4 => &mut regs.rsp,
        5 => &mut regs.rbp,
        6 => &mut regs.rsi,
        7 => &mut regs.rdi,
        8 => &mut regs.r8,
        9 => &mut regs.r9,
        10 => &mut regs.r10,
        11 => &mut regs.r11,
        12 => &mut regs.r12,
        13 => &mut regs.r13,
        14 => &mut regs.r14,
        _ => &mut regs.r15,
    }
}

#[cfg(test)]
#[path = "instructions_test.rs"]
mod tests;
