//! The first program of a recovered server: prepares what virtual hardware needs, then makes
//! way for the server's own init.
//!
//! It is built by recover's build script as one static file, and put into the extra initramfs
//! segment together with its [`instructions`]. There are two ways on from it: run the image's own
//! initramfs (`exec /init`), or mount the root and start the image's init in it.
//!
//! A system call can cost milliseconds on some hosts (KVM without hardware virtualization), so
//! it asks the kernel for nothing it was not told to: no `/proc`, no `/sys`, no searching.
//!
//! As process 1 it must never just end. When it cannot go on it says why and what to do on the
//! console and resets the machine: the VMM then ends with the exit code of a reset, where a
//! power-off would look like an orderly end.

#![no_main]

mod instructions;
mod network;
mod syscalls;

use std::ffi::{CString, c_char, c_int};

use instructions::{Instructions, Mount};
use syscalls::*;

const PLAN: &str = "/.relevo/plan";
const NEW_ROOT: &str = "/.relevo/root";
/// Where devtmpfs is until it moves below the root: at its final path, because that is what
/// `/proc/mounts` will say of the root's device.
const DEV: &str = "/dev";
/// Attempts to mount the root, a tenth of a second apart: disks may appear late.
const ATTEMPTS: u32 = 300;

/// Entry point that the C library calls; `std` would make a dozen system calls before its own.
#[unsafe(no_mangle)]
pub extern "C" fn main(
    _argc: c_int,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> c_int {
    std::panic::set_hook(Box::new(|info| {
        fail(
            &format!("internal error: {info}"),
            "report it with this console output",
        )
    }));
    let text = match std::fs::read_to_string(PLAN) {
        Ok(text) => text,
        Err(error) => fail(
            &format!("{PLAN}: {error}"),
            "boot with the initramfs segment that recover wrote",
        ),
    };
    let plan = match Instructions::parse(&text) {
        Ok(plan) => plan,
        Err(error) => fail(
            &format!("{PLAN}: {error}"),
            "let the same version of recover write all of the run directory",
        ),
    };
    for module in &plan.modules {
        if let Err(error) = load_module(module) {
            say(&format!("{module}: {error}; going on without it"));
        }
    }
    network::rename(&plan.renames);
    network::configure(&plan.addresses, &plan.gateways);

    if let Some((root, below)) = plan.mounts.split_first() {
        enter(root, below, &plan.links);
    } else if !plan.links.is_empty() {
        // devtmpfs is one file system wherever it is mounted: links made here stay when the
        // image's own initramfs mounts it again.
        if mount_devtmpfs().is_ok() {
            make_links(&plan.links);
            let _ = unmount(DEV);
        }
    }
    become_program(&plan.exec, argv, envp)
}

/// Mounts the root and makes it the root of this process.
fn enter(root: &Mount, below: &[Mount], links: &[(String, String)]) {
    if let Err(error) = mount_devtmpfs() {
        fail(
            &format!("devtmpfs: {error}"),
            "use a kernel with CONFIG_DEVTMPFS",
        );
    }
    make_links(links);
    mount_device(root, NEW_ROOT);
    for other in below {
        mount_device(other, &format!("{NEW_ROOT}{}", other.path));
    }
    // An image without /dev is unusual but no reason to stop: its init may make one.
    if let Err(error) = mount(DEV, &format!("{NEW_ROOT}/dev"), "", MS_MOVE, "") {
        say(&format!(
            "the image's /dev: {error}; going on without device files"
        ));
    }
    let entered = change_directory(NEW_ROOT)
        .and_then(|()| mount(".", "/", "", MS_MOVE, ""))
        .and_then(|()| change_root("."))
        .and_then(|()| change_directory("/"));
    if let Err(error) = entered {
        fail(
            &format!("entering the root {}: {error}", root.device),
            "report it with this console output",
        );
    }
}

fn mount_device(what: &Mount, at: &str) {
    let flags = if what.read_only { MS_RDONLY } else { 0 };
    let mut attempts = 0;
    let error = loop {
        match mount(&what.device, at, &what.kind, flags, &what.options) {
            Ok(()) => return,
            Err(error) if !waits_for_device(&error) => break error,
            Err(error) if attempts >= ATTEMPTS => break error,
            Err(_) => {}
        }
        // Looking is quieter than mounting: the kernel reports every failed mount.
        loop {
            attempts += 1;
            sleep_a_tenth();
            if attempts >= ATTEMPTS || std::fs::exists(&what.device).unwrap_or(false) {
                break;
            }
        }
    };
    let remedy = if waits_for_device(&error) {
        "give the machine all disks of the server in the order of the plan"
    } else {
        "check that the kernel has this file system built in; else choose an older recovery point"
    };
    fail(
        &format!(
            "mounting {} ({}) at {}: {error}",
            what.device, what.kind, what.path
        ),
        remedy,
    )
}

fn mount_devtmpfs() -> std::io::Result<()> {
    // Every kernel's own initramfs has this directory; only one that was built without does not.
    let _ = std::fs::create_dir(DEV);
    mount("devtmpfs", DEV, "devtmpfs", 0, "")
}

fn make_links(links: &[(String, String)]) {
    for (name, target) in links {
        if let Err(error) = std::os::unix::fs::symlink(target, format!("{DEV}/{name}")) {
            say(&format!("/dev/{name}: {error}"));
        }
    }
}

fn become_program(program: &str, argv: *const *const c_char, envp: *const *const c_char) -> ! {
    // The order in which the kernel itself looks for an init.
    let mut error = None;
    for candidate in [program, "/sbin/init", "/etc/init", "/bin/init", "/bin/sh"] {
        let failure = execute(candidate, argv, envp);
        say(&format!("{candidate}: {failure}"));
        error.get_or_insert(failure);
        if program == "/init" {
            break;
        }
    }
    let reason = error.map_or_else(String::new, |e| e.to_string());
    fail(
        &format!("cannot start {program}: {reason}"),
        "check that the right volume is the root; else choose an older recovery point",
    )
}

/// Says why nothing more can be done, and resets the machine.
fn fail(reason: &str, remedy: &str) -> ! {
    say(&format!(
        "error: {reason}\nrelevo-init: remedy: {remedy}\nrelevo-init: the machine is reset now"
    ));
    reset()
}

fn say(text: &str) {
    write_to_console(&format!("relevo-init: {text}\n"));
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}
