//! Disks to protect: the demo server's, made once and cached, and small ones of chosen content.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries::source_root;

/// A demo server's disk: Debian with GRUB, its own kernel and an HTTP service that names the host.
pub fn demo_server(to: &Path, hostname: &str, address: &str) {
    demo_server_with(to, hostname, address, &[]);
}

/// The same with more options of `tests/demo-disk/build`.
pub fn demo_server_with(to: &Path, hostname: &str, address: &str, options: &[&str]) {
    let mut build = Command::new(source_root().join("tests/demo-disk/build"));
    build
        .args(["--hostname", hostname, "--address", address])
        .args(options)
        .arg(to);
    run(build);
}

/// Changes about `percent` of a demo server's data.
pub fn change(disk: &Path, percent: u32) {
    change_again(disk, &percent.to_string(), 1);
}

/// The same; another `seed` makes other changes, so that one disk can be changed several times.
pub fn change_again(disk: &Path, percent: &str, seed: u32) {
    let mut change = Command::new(source_root().join("tests/demo-disk/change"));
    change.args(["--percent", percent, "--seed", &seed.to_string()]);
    change.arg(disk);
    run(change);
}

/// The site kernel; built when it is not in the cache.
pub fn site_kernel() -> PathBuf {
    let mut build = Command::new(source_root().join("tests/site-kernel/build"));
    build.arg("--print-path");
    PathBuf::from(run(build).trim())
}

fn run(mut command: Command) -> String {
    match command.output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        other => panic!("{command:?}: {other:?}"),
    }
}

/// A sparse disk of `size` bytes.
pub fn sparse(path: &Path, size: u64) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.set_len(size)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file
}

/// Writes `len` bytes that do not compress and follow from `seed`.
pub fn noise(file: &File, offset: u64, len: usize, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    file.write_all_at(&bytes[..len], offset)
        .unwrap_or_else(|e| panic!("disk for a test: {e}"));
}

/// A disk of `size` bytes with some noise, some text and many holes.
pub fn mixed(path: &Path, size: u64, seed: u64) {
    let mut file = sparse(path, size);
    for (i, offset) in (0..size).step_by(8 << 20).enumerate() {
        let room = (size - offset).min(3 << 20) as usize;
        match i % 3 {
            0 => noise(&file, offset, room, seed + i as u64),
            1 => {
                let text = format!("record {seed} of block {i}; ").repeat(room / 16);
                let text = &text.as_bytes()[..room.min(text.len())];
                file.write_all_at(text, offset)
                    .unwrap_or_else(|e| panic!("disk: {e}"));
            }
            _ => {}
        }
    }
    file.flush().unwrap_or_else(|e| panic!("disk: {e}"));
}

/// SHA-256 of a file, by the system's own program.
pub fn sha256(path: &Path) -> String {
    let mut sum = Command::new("sha256sum");
    sum.arg(path);
    run(sum)
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_string()
}

/// Bytes that a file takes on its file system.
pub fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path)
        .map(|m| std::os::unix::fs::MetadataExt::blocks(&m) * 512)
        .unwrap_or(0)
}
