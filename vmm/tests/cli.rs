//! The command line as scripts use it: exit codes, causes and remedies.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn vmm(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_relevo-vmm"))
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_is_not_understood_ends_with_64() {
    for args in [
        &["run"][..],
        &["fly"],
        &["run", "--kernel", "k", "--disk", "nothing=x"],
        &["run", "--kernel", "k", "--cpus", "0"],
        &["run", "--kernel", "k", "--uuid", "1234"],
        &["run", "--kernel", "k", "--tick", "1000000"],
    ] {
        let out = vmm(args);
        assert_eq!(out.status.code(), Some(64), "{args:?}");
        assert!(text(&out.stderr).contains("error:"), "{args:?}");
    }
}

#[test]
fn what_cannot_be_done_ends_with_1_a_cause_and_a_remedy() {
    let out = vmm(&["run", "--kernel", "/nonexistent/kernel"]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(said.contains("error: "), "{said}");
    assert!(said.contains("remedy: "), "{said}");
}

#[test]
fn probe_tells_the_same_by_its_exit_code_and_its_json() {
    let out = vmm(&["probe", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let usable = report["kvm"].as_bool().unwrap();
    assert_eq!(out.status.success(), usable);
    assert_eq!(report["remedy"].is_string(), !usable);
    assert!(report["hardware_virtualization"].is_boolean());
}

#[test]
fn help_completions_and_manual_come_from_one_definition() {
    for args in [&["run", "--help"][..], &["completions", "bash"], &["man"]] {
        let out = vmm(args);
        assert!(out.status.success(), "{args:?}");
        let said = text(&out.stdout).replace('\\', "");
        for option in ["--kernel", "--console", "--quirks"] {
            assert!(said.contains(option), "{args:?} does not name {option}");
        }
    }
}
