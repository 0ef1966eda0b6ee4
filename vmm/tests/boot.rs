//! Boots a real kernel with the real binary, and takes it through a machine's whole life:
//! disk, console, reset and restart, pause, power button, power-off.
//!
//! Needs a kernel: RELEVO_SITE_KERNEL, or the one that tests/site-kernel/build has left in
//! the cache. Without one, without KVM or without a static busybox it says so and passes.
#![allow(clippy::unwrap_used)]

mod api_client;
mod initramfs;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use api_client::request;
use serde_json::Value;

/// First boot: the disk has no mark; write it and reset. Second boot: talk to the test, then
/// wait for the power button.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mark=$(head -c 6 /dev/vda)
echo "image says $(head -c 6 /dev/vdb), $(dd if=/dev/vdb bs=512 skip=100 count=1 2>/dev/null | head -c 4)"
echo "disk says $mark"
if [ "$mark" != MARKED ]; then
    echo MARKED | dd of=/dev/vda conv=fsync 2>/dev/null
    echo MARKED | dd of=/dev/vdb conv=fsync 2>/dev/null
    reboot -f
fi
echo "processors $(grep -c ^processor /proc/cpuinfo)"
echo "uuid $(cat /sys/class/dmi/id/product_uuid)"
echo GUEST READY
read line
echo "heard $line"
while grep -q '^ *0 ' /sys/firmware/acpi/interrupts/ff_pwr_btn; do sleep 1; done
echo BUTTON PRESSED
poweroff -f
"#;

const UUID: &str = "123e4567-e89b-12d3-a456-426614174000";

fn kernel() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("RELEVO_SITE_KERNEL") {
        return Ok(path.into());
    }
    let cache = std::env::var_os("RELEVO_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/relevo"));
    let path = cache
        .or(home)
        .unwrap_or_default()
        .join("site-kernel/current/vmlinux");
    if path.exists() {
        return Ok(path);
    }
    Err(format!(
        "no kernel at {} (run tests/site-kernel/build, or set RELEVO_SITE_KERNEL)",
        path.display()
    ))
}

fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Ends the machine when the test does.
struct Vmm(Child);

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The guest's console, line by line.
struct Console {
    lines: std::io::Lines<BufReader<UnixStream>>,
    write: UnixStream,
}

impl Console {
    fn connect(path: &Path) -> Self {
        let write = connect(path);
        let lines = BufReader::new(write.try_clone().unwrap()).lines();
        Self { lines, write }
    }

    /// Reads on to the first line that contains `text`.
    fn wait_for(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
        panic!("the console ended before {text:?}:\n{}", seen.join("\n"));
    }
}

/// Connects as soon as the machine listens.
fn connect(path: &Path) -> UnixStream {
    loop {
        if let Ok(stream) = UnixStream::connect(path) {
            return stream;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_guest_boots_resets_listens_to_its_button_and_powers_off() {
    let kernel = match kernel() {
        Ok(kernel) => kernel,
        Err(why) => return skip(&why),
    };
    let busybox = Path::new("/bin/busybox");
    if !initramfs::is_static(busybox) {
        return skip("no static /bin/busybox (apt-get install busybox-static)");
    }
    let binary = env!("CARGO_BIN_EXE_relevo-vmm");
    let probe = Command::new(binary).args(["probe", "--json"]).output();
    let probe: Value = serde_json::from_slice(&probe.unwrap().stdout).unwrap();
    if probe["kvm"] != true {
        return skip(&format!("no KVM: {}", probe["reason"]));
    }

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("initrd"), initramfs::with_init(busybox, INIT)).unwrap();
    std::fs::write(path("disk"), vec![0; 1 << 20]).unwrap();
    // An image over a file that is not to change.
    let mut below = vec![0; 1 << 20];
    below[51_200..51_204].copy_from_slice(b"BASE");
    std::fs::write(path("base"), &below).unwrap();
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base"])
        .arg(path("image"))
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skip("no qemu-img (apt-get install qemu-utils)");
    }
    let mut child = Command::new(binary)
        .arg("run")
        .args(["--memory", "256", "--on-reset", "restart", "--uuid", UUID])
        .args(["--cmdline", "console=ttyS0 quiet"])
        .arg("--kernel")
        .arg(kernel)
        .arg("--initrd")
        .arg(path("initrd"))
        .arg("--disk")
        .arg(format!("path={}", path("disk").display()))
        .arg("--disk")
        .arg(format!("path={},format=qcow2", path("image").display()))
        .arg("--console")
        .arg(format!("socket={}", path("console").display()))
        .arg("--control")
        .arg(path("control"))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = child.stderr.take().unwrap();
    // The log is read to its end whatever happens, so that the machine never waits for it.
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = log.read_to_string(&mut text);
        text
    });
    let mut vmm = Vmm(child);

    let mut console = Console::connect(&path("console"));
    console.wait_for("disk says");
    let line = console.wait_for("image says");
    assert!(
        line.contains("MARKED, BASE"),
        "the first boot's write: {line}"
    );
    let line = console.wait_for("disk says");
    assert!(line.contains("MARKED"), "the first boot's write: {line}");
    assert!(console.wait_for("processors").contains("processors 1"));
    assert!(console.wait_for("uuid").contains(UUID));
    console.wait_for("GUEST READY");

    let status = || request(&path("control"), "GET", "/machine").1;
    let put = |what: &str| request(&path("control"), "PUT", &format!("/machine/{what}")).0;
    assert_eq!(status()["state"], "running");
    assert_eq!(status()["resets"], 1);
    assert_eq!(status()["confinement"]["mode"], "full");
    assert_eq!(put("pause"), 204);
    assert_eq!(status()["state"], "paused");
    assert_eq!(put("power-button"), 409, "paused");
    assert_eq!(put("resume"), 204);

    writeln!(console.write, "good morning").unwrap();
    console.wait_for("heard good morning");
    assert_eq!(put("power-button"), 204);
    console.wait_for("BUTTON PRESSED");

    let status = vmm.0.wait().unwrap();
    drop(console);
    let log = log.join().unwrap();
    assert_eq!(status.code(), Some(0), "the machine's log:\n{log}");
    assert!(
        std::fs::read(path("base")).unwrap() == below,
        "what is below was written"
    );
    let mut check = Command::new("qemu-img");
    let checked = check.args(["check", "-q"]).arg(path("image")).status();
    assert!(checked.unwrap().success(), "the image is damaged");
    for name in ["console", "control"] {
        assert!(UnixStream::connect(path(name)).is_err(), "{name}");
    }
}
