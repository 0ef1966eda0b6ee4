//! Guards which faults are taken for system calls, and what the kernel then finds.
#![allow(clippy::unwrap_used)]

use super::*;

const LSTAR: u64 = 0xffff_ffff_8180_0040;

fn entry() -> Entry {
    Entry {
        page_fault_handler: 0xffff_ffff_8180_0b50,
        lstar: LSTAR,
        flag_mask: 0x47700,
        code_selector: 0x10,
    }
}

fn frame() -> Frame {
    Frame {
        error: 0x15,
        rip: LSTAR,
        cs: 0x33,
        rflags: 0x1_0002,
        rsp: 0x7ffc_0000_1000,
    }
}

#[test]
fn only_a_fetch_at_lstar_from_user_mode_is_a_system_call() {
    let entry = entry();
    assert!(is_unfinished_syscall(&frame(), &entry, LSTAR, 0x246));
    assert!(!is_unfinished_syscall(&frame(), &entry, 0x1000, 0x246));
    let others = [
        Frame {
            rip: 0x40_0000,
            ..frame()
        },
        Frame {
            cs: 0x10,
            ..frame()
        },
        Frame {
            error: 0x14,
            ..frame()
        },
        Frame {
            error: 0x07,
            ..frame()
        },
    ];
    for other in others {
        assert!(
            !is_unfinished_syscall(&other, &entry, LSTAR, 0x246),
            "{other:x?}"
        );
    }
}

#[test]
fn a_jump_to_lstar_cannot_bring_flags_of_its_own() {
    let jump = Frame {
        rflags: 0x1_0246,
        ..frame()
    };
    let forged = 0x3246;
    assert!(!is_unfinished_syscall(&jump, &entry(), LSTAR, forged));
    assert!(is_unfinished_syscall(&jump, &entry(), LSTAR, 0x246));
}

#[test]
fn the_kernel_is_entered_as_by_the_instruction() {
    let mut regs = kvm_regs {
        rip: entry().page_fault_handler,
        rcx: 0x40_1234,
        r11: 0x246,
        ..Default::default()
    };
    let mut sregs = kvm_sregs::default();
    finish_syscall(&frame(), &entry(), &mut regs, &mut sregs);
    assert_eq!(regs.rip, LSTAR);
    assert_eq!(regs.rsp, 0x7ffc_0000_1000);
    assert_eq!(regs.rflags, 2, "interrupts off, no RF");
    assert_eq!(regs.rcx, 0x40_1234, "where to return to");
    assert_eq!(regs.r11, 0x246, "the flags to return with");
    assert_eq!((sregs.cs.selector, sregs.cs.dpl, sregs.cs.l), (0x10, 0, 1));
    assert_eq!((sregs.ss.selector, sregs.ss.dpl), (0x18, 0));
}

#[test]
fn gates_are_read_from_their_three_parts() {
    let target: u64 = 0xffff_ffff_8180_0b50;
    let mut gate = [0; 16];
    gate[..2].copy_from_slice(&target.to_le_bytes()[..2]);
    gate[2..6].copy_from_slice(&[0x10, 0, 0, 0x8e]);
    gate[6..8].copy_from_slice(&target.to_le_bytes()[2..4]);
    gate[8..12].copy_from_slice(&target.to_le_bytes()[4..]);
    assert_eq!(gate_target(&gate), Some(target));
    gate[5] = 0;
    assert_eq!(gate_target(&gate), None, "not present");
    assert_eq!(gate_target(&gate[..8]), None, "not readable");
}

/// Guards that selectors which a guest's kernel made up harm nobody but itself.
#[test]
fn any_selector_is_taken() {
    let entry = Entry {
        code_selector: 0xfffc,
        ..entry()
    };
    let (mut regs, mut sregs) = (kvm_regs::default(), kvm_sregs::default());
    finish_syscall(&frame(), &entry, &mut regs, &mut sregs);
    assert_eq!((sregs.cs.selector, sregs.ss.selector), (0xfffc, 4));
}
