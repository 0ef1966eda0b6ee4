//! Guests of a few instructions, for which no kernel is needed, only KVM.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};

/// Where the guest's code lies: 64-bit for the boot processor, 16-bit for the second one.
pub const CODE: u64 = 0x10_0000;
pub const SECOND_CODE: u64 = 0x1_0000;

/// mov dx, 0x604 (PM1 control); mov ax, 0x3400 (sleep type 5, go); out dx, ax; hlt forever
pub const POWER_OFF: &[u8] = &[
    0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xf4, 0xeb, 0xfd,
];
/// The same in 16-bit code.
pub const POWER_OFF_16: &[u8] = &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x34, 0xef, 0xf4, 0xeb, 0xfd];
/// mov dx, 0x608 (reset register); mov al, 0x42; out dx, al; hlt forever
pub const ACPI_RESET: &[u8] = &[0x66, 0xba, 0x08, 0x06, 0xb0, 0x42, 0xee, 0xf4, 0xeb, 0xfd];
/// mov al, 0xfe; out 0x64, al; hlt forever
pub const KEYBOARD_RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];
/// mov dx, 0xcf9; mov al, 6; out dx, al; hlt forever
pub const CHIP_SET_RESET: &[u8] = &[0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xeb, 0xfd];
/// ud2, with no handler for it: a triple fault
pub const CRASH: &[u8] = &[0x0f, 0x0b];
/// mov dx, 0x3f8; mov al, '!'; out dx, al; jump to itself
pub const HANG: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, 0xeb, 0xfe];
/// Through the local APIC: INIT, then start-up at 0x10000, to processor 1; jump to itself
pub const START_SECOND: &[u8] = &[
    0xbf, 0x00, 0x03, 0xe0, 0xfe, 0xc7, 0x47, 0x10, 0x00, 0x00, 0x00, 0x01, 0xc7, 0x07, 0x00, 0x45,
    0x00, 0x00, 0xc7, 0x07, 0x10, 0x46, 0x00, 0x00, 0xeb, 0xfe,
];

/// An ELF file of two segments that enters at the first.
fn elf(code: &[u8], second: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 64 + 2 * 56];
    out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (out[16], out[18], out[32], out[52], out[54], out[56]) = (2, 62, 64, 64, 56, 2);
    out[24..32].copy_from_slice(&CODE.to_le_bytes());
    for (index, (address, body)) in [(CODE, code), (SECOND_CODE, second)].iter().enumerate() {
        let at = out.len() as u64;
        out.extend_from_slice(body);
        let header = &mut out[64 + 56 * index..][..56];
        header[0] = 1;
        header[8..16].copy_from_slice(&at.to_le_bytes());
        header[24..32].copy_from_slice(&address.to_le_bytes());
        header[32..40].copy_from_slice(&(body.len() as u64).to_le_bytes());
        header[40..48].copy_from_slice(&(body.len() as u64).to_le_bytes());
    }
    out
}

/// The real binary with a guest of these instructions.
pub fn command(dir: &Path, code: &[u8], args: &[&str]) -> Command {
    let kernel = dir.join("kernel");
    std::fs::write(&kernel, elf(code, POWER_OFF_16)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_relevo-vmm"));
    command
        .args(["run", "--memory", "64", "--kernel"])
        .arg(kernel)
        .args(args)
        .stdin(Stdio::null());
    command
}

/// Whether KVM can be used; tells why not.
pub fn has_kvm() -> bool {
    let usable = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if let Err(error) = &usable {
        eprintln!("skipped: /dev/kvm: {error}");
    }
    usable.is_ok()
}
