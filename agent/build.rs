//! Builds the program that marks changed blocks in the kernel, with clang.

use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/tracking/program.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out = std::env::var_os("OUT_DIR").map_or_else(PathBuf::new, PathBuf::from);
    let built = Command::new(&clang)
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3"])
        .args(["-Wall", "-Werror", "-c", SOURCE, "-o"])
        .arg(out.join("program.bpf.o"))
        .status();
    match built {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} failed on {SOURCE}: {status}"),
        Err(error) => panic!(
            "{clang} cannot be run ({error}): install clang (on Debian: apt-get install clang), \
             or name it in the variable CLANG"
        ),
    }
}
