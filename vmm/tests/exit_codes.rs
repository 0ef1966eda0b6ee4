//! How a machine ends, shown by guests of a few instructions: no kernel is needed, only KVM.
#![allow(clippy::unwrap_used)]

mod api_client;
mod tiny_guest;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Output, Stdio};

use api_client::request;
use tiny_guest::*;

fn run(code: &[u8], args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    command(dir.path(), code, args).output().unwrap()
}

#[test]
fn power_off_is_success() {
    if has_kvm() {
        assert_eq!(run(POWER_OFF, &[]).status.code(), Some(0));
    }
}

#[test]
fn every_way_to_reset_ends_with_3() {
    if has_kvm() {
        for code in [ACPI_RESET, KEYBOARD_RESET, CHIP_SET_RESET] {
            assert_eq!(run(code, &[]).status.code(), Some(3), "{code:02x?}");
        }
    }
}

#[test]
fn a_triple_fault_ends_with_4_and_says_where() {
    if has_kvm() {
        let out = run(CRASH, &[]);
        assert_eq!(out.status.code(), Some(4));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains("rip=0x100000"), "{said}");
        assert!(said.contains("remedy: "), "{said}");
    }
}

#[test]
fn a_second_processor_starts_and_can_end_the_machine() {
    if has_kvm() {
        let out = run(START_SECOND, &["--cpus", "2"]);
        assert_eq!(out.status.code(), Some(0));
    }
}

/// A machine whose guest runs, and does nothing any more; and its console.
fn hanging(dir: &Path, socket: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = command(dir, HANG, &["--console", "stdio", "--control"])
        .arg(socket)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The guest runs once it has written; the machine takes commands since before.
    let mut console = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(console.fill_buf().unwrap(), b"!");
    (child, console)
}

#[test]
fn a_guest_that_hangs_can_be_stopped_by_socket_and_by_signal() {
    if !has_kvm() {
        return;
    }
    for by_signal in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control");
        let (mut child, _console) = hanging(dir.path(), &socket);
        if by_signal {
            // SAFETY: the process is a child of ours that has not been waited for.
            assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
        } else {
            assert_eq!(request(&socket, "PUT", "/machine/stop").0, 204);
        }
        assert_eq!(child.wait().unwrap().code(), Some(0));
        // As another user it may not remove the file; then nobody listens any more.
        assert!(UnixStream::connect(&socket).is_err());
    }
}

#[test]
fn the_operators_reset_ends_with_3() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control");
    let (mut child, _console) = hanging(dir.path(), &socket);
    assert_eq!(request(&socket, "PUT", "/machine/reset").0, 204);
    assert_eq!(child.wait().unwrap().code(), Some(3));
}
