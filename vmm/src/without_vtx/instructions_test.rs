//! Guards the few instructions done by hand: their length and their effect.

use super::*;

fn regs() -> kvm_regs {
    kvm_regs {
        rip: 0x1000,
        rflags: 2 | DF | AC | CF,
        ..Default::default()
    }
}

#[test]
fn first_instructions_of_handlers_are_stepped_over_whole() {
    let cases: [(&[u8], u64); 10] = [
        (&[0x90], 1),
        (&[0x66, 0x90], 2),
        (&[0x0f, 0x1f, 0x00], 3),
        (&[0x0f, 0x1f, 0x40, 0x00], 4),
        (&[0x0f, 0x1f, 0x44, 0x00, 0x00], 5),
        (&[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00], 6),
        (&[0x0f, 0x1f, 0x80, 0, 0, 0, 0], 7),
        (&[0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0], 8),
        (&[0xf3, 0x0f, 0x1e, 0xfa], 4),
        (&[0xfc], 1),
    ];
    for (bytes, len) in cases {
        let mut padded = bytes.to_vec();
        padded.resize(MAX_LEN, 0xcc);
        let mut regs = regs();
        assert!(step_over(&padded, &mut regs), "{bytes:02x?}");
        assert_eq!(regs.rip - 0x1000, len, "{bytes:02x?}");
    }
}

#[test]
fn flags_change_as_the_instruction_says() {
    let mut cld = regs();
    step_over(&[0xfc], &mut cld);
    assert_eq!(cld.rflags, 2 | AC | CF);
    let mut clac = regs();
    step_over(&[0x0f, 0x01, 0xca], &mut clac);
    assert_eq!(clac.rflags, 2 | DF | CF);
    let mut stac = clac;
    step_over(&[0x0f, 0x01, 0xcb], &mut stac);
    assert_eq!(stac.rflags, 2 | DF | CF | AC);
}

#[test]
fn an_unknown_instruction_changes_nothing() {
    for bytes in [
        &[0x48, 0x89, 0xe5][..],
        &[],
        &[0x0f],
        &[0xf3, 0x0f, 0xb8, 0x01],
    ] {
        let mut regs = regs();
        let before = regs;
        assert!(!step_over(bytes, &mut regs));
        assert_eq!(fill(bytes, &mut regs), None);
        assert_eq!(regs, before);
    }
}

#[test]
fn int3_asks_for_its_exception_and_fwait_for_nothing() {
    let mut regs = regs();
    assert_eq!(fill(&[0xcc], &mut regs), Some(Gap::Breakpoint));
    assert_eq!(fill(&[0x9b], &mut regs), Some(Gap::Done));
    assert_eq!(regs.rip, 0x1002);
}

#[test]
fn popcnt_counts_in_the_right_registers() {
    let mut regs = regs();
    regs.r9 = 0xff00_0000_0000_0001;
    // popcnt rax, r9
    assert_eq!(
        fill(&[0xf3, 0x49, 0x0f, 0xb8, 0xc1], &mut regs),
        Some(Gap::Done)
    );
    assert_eq!((regs.rax, regs.rip), (9, 0x1005));
    assert_eq!(regs.rflags & (CF | ZF), 0);
    // popcnt ecx, edx
    regs.rdx = 0xffff_ffff_0000_0000;
    fill(&[0xf3, 0x0f, 0xb8, 0xca], &mut regs);
    assert_eq!(regs.rcx, 0);
    assert_ne!(regs.rflags & ZF, 0);
}

/// Guards that a guest which runs at the very end of its addresses, or sets up its entry so,
/// harms nobody but itself.
#[test]
fn the_end_of_the_addresses_is_no_end_of_the_machine() {
    for code in [
        &[0xcc][..],
        &[0x9b],
        &[0x90],
        &[0xf3, 0x48, 0x0f, 0xb8, 0xc1],
    ] {
        let mut regs = kvm_regs {
            rip: u64::MAX,
            ..Default::default()
        };
        assert!(fill(code, &mut regs).is_some());
        assert!(regs.rip < 16, "{:#x}", regs.rip);
    }
}
