//! Builds the init shim as a static program; `adapt` embeds it.
//!
//! Not a crate of its own, because cargo cannot make one crate's program a static, size-optimised
//! input of another, and because the shim must not link what the workspace links.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=shim");
    let variable =
        |name: &str| env::var(name).unwrap_or_else(|_| fail(&format!("{name} is not set")));
    let output = PathBuf::from(variable("OUT_DIR")).join("relevo-init");
    let status = Command::new(variable("RUSTC"))
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "--crate-name=relevo_init",
            "shim/init.rs",
        ])
        .arg(format!("--target={}", variable("TARGET")))
        .args([
            "-Ctarget-feature=+crt-static",
            "-Crelocation-model=static",
            "-Cpanic=abort",
        ])
        .args([
            "-Copt-level=s",
            "-Cstrip=symbols",
            "-Clto=fat",
            "-Ccodegen-units=1",
        ])
        .arg("-o")
        .arg(&output)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "the init shim did not compile ({status}); remedy: it is linked statically, install the C library's \
             static form (Debian: libc6-dev)"
        )),
        Err(error) => fail(&format!("the Rust compiler did not start: {error}")),
    }
    println!("cargo::rustc-env=RELEVO_INIT={}", output.display());
}

fn fail(reason: &str) -> ! {
    println!("cargo::error={reason}");
    exit(1)
}
