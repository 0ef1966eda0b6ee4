//! What a running machine has given up, as the kernel tells it: nothing here is taken from what
//! the VMM says of itself but the comparison with its status.
#![allow(clippy::unwrap_used)]

mod api_client;
mod tiny_guest;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use api_client::request;
use serde_json::Value;
use tiny_guest::*;

struct Vmm(Child);

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a guest that has run its first instructions when this returns.
fn started(dir: &Path, args: &[&str]) -> Vmm {
    let console = ["--console", "stdio", "--control"];
    let mut child = command(dir, HANG, &console)
        .arg(dir.join("control"))
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut written = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(written.fill_buf().unwrap(), b"!");
    Vmm(child)
}

fn status(dir: &Path) -> Value {
    request(&dir.join("control"), "GET", "/machine").1
}

/// The field of each thread's status file, with the thread's name.
fn of_threads(pid: u32, field: &str) -> Vec<(String, String)> {
    let value = |text: &str, field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    };
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|entry| {
            let text = std::fs::read_to_string(entry.unwrap().path().join("status")).unwrap();
            (value(&text, "Name"), value(&text, field))
        })
        .collect()
}

fn is_root() -> bool {
    // SAFETY: asks for a number.
    unsafe { libc::geteuid() == 0 }
}

/// Guards that no thread is forgotten: user, capabilities, privileges and filter of each.
#[test]
fn every_thread_is_confined() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let vmm = started(dir.path(), &[]);
    let pid = vmm.0.id();
    // An answer means that the control thread has come past its filter.
    let said = status(dir.path());
    let confinement = &said["confinement"];
    assert_eq!(confinement["mode"], "full");
    for (field, expected) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        let threads = of_threads(pid, field);
        assert!(threads.len() >= 4, "{threads:?}");
        for (thread, value) in threads {
            assert_eq!(value, expected, "{field} of {thread}");
        }
    }
    let narrowed = ["vcpu", "control", "watch"];
    for (thread, filters) in of_threads(pid, "Seccomp_filters") {
        let wide = if narrowed.iter().any(|kind| thread.starts_with(kind)) {
            "4"
        } else {
            continue;
        };
        assert_eq!(filters, wide, "filters of {thread}");
    }
    for (thread, ids) in of_threads(pid, "Uid") {
        let expected = confinement["uid"].to_string();
        assert!(
            ids.split_whitespace().all(|id| id == expected),
            "{thread}: {ids}"
        );
        assert!(!is_root() || expected != "0", "{confinement}");
    }
    if is_root() {
        for name in ["net", "ipc", "mnt", "uts"] {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
            let missing = confinement["missing"].to_string();
            let excused = missing.contains("namespace");
            assert!(
                excused || of("self") != of(&pid.to_string()),
                "{name}: {missing}"
            );
        }
        for (thread, set) in of_threads(pid, "CapBnd") {
            assert_eq!(set, "0000000000000000", "bounding set of {thread}");
        }
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

/// Guards the choice of the user, and that a wrong one is refused before anything starts.
#[test]
fn the_user_is_the_one_that_was_asked_for_or_the_machine_does_not_start() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    if is_root() {
        let vmm = started(dir.path(), &["--user", "70001:70002"]);
        for (field, id) in [("Uid", "70001"), ("Gid", "70002")] {
            for (thread, ids) in of_threads(vmm.0.id(), field) {
                assert!(ids.split_whitespace().all(|i| i == id), "{thread}: {ids}");
            }
        }
        for (thread, groups) in of_threads(vmm.0.id(), "Groups") {
            assert_eq!(groups, "", "{thread}");
        }
        drop(vmm);
        let refused = command(dir.path(), HANG, &["--user", "no-such-user"]).output();
        let said = String::from_utf8(refused.unwrap().stderr).unwrap();
        assert!(
            said.contains("error: there is no user no-such-user"),
            "{said}"
        );
    } else {
        let refused = command(dir.path(), HANG, &["--user", "70001:70002"]).output();
        let said = String::from_utf8(refused.unwrap().stderr).unwrap();
        assert!(said.contains("error: only root may"), "{said}");
    }
    let off = ["--confinement", "off", "--user", "70001:70002"];
    let refused = command(dir.path(), HANG, &off).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn switched_off_means_off_and_is_said() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let vmm = started(dir.path(), &["--confinement", "off"]);
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find_map(|l| l.strip_prefix("Seccomp:"))
        .unwrap();
    for (thread, seccomp) in of_threads(vmm.0.id(), "Seccomp") {
        assert_eq!(seccomp, own.trim(), "{thread}");
    }
    let said = status(dir.path());
    assert_eq!(said["confinement"]["mode"], "off");
    assert_ne!(said["confinement"]["missing"], serde_json::json!([]));
}
