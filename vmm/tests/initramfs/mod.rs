//! An initramfs of one busybox and one script, as a plain cpio archive ("newc").

use std::path::Path;

const APPLETS: [&str; 10] = [
    "sh", "mount", "head", "dd", "reboot", "poweroff", "grep", "cat", "sleep", "echo",
];
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;

/// Whether `program` is an ELF file that needs no loader.
pub fn is_static(program: &Path) -> bool {
    let image = std::fs::read(program).unwrap_or_default();
    // The path of every dynamic loader there is on x86-64 begins so.
    let loader = b"/lib64/ld-linux";
    image.starts_with(b"\x7fELF") && !image.windows(loader.len()).any(|w| w == loader)
}

/// The archive.
pub fn with_init(busybox: &Path, init: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for directory in ["bin", "dev", "proc", "sys"] {
        entry(&mut out, directory, DIRECTORY, b"");
    }
    // Linux opens it for init before anything is mounted.
    entry(&mut out, "dev/console", CONSOLE, b"");
    entry(
        &mut out,
        "bin/busybox",
        PROGRAM,
        &std::fs::read(busybox).unwrap(),
    );
    for applet in APPLETS {
        entry(&mut out, &format!("bin/{applet}"), SYMLINK, b"busybox");
    }
    entry(&mut out, "init", PROGRAM, init.as_bytes());
    entry(&mut out, "TRAILER!!!", 0, b"");
    out
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32, body: &[u8]) {
    let (major, minor) = if mode == CONSOLE { (5, 1) } else { (0, 0) };
    let size = body.len() as u32;
    let name_size = name.len() as u32 + 1;
    out.extend(b"070701");
    for field in [0, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0] {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name.bytes().chain([0]));
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
}
