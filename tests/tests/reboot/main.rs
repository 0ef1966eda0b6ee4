//! A Debian server that is started anew, for real: Debian's kernel and systemd on an AHCI disk,
//! the static agent installed in one command, its service in its sandbox.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use relevo_tests::binaries::{self, source_root};
use relevo_tests::disks;
use relevo_tests::filesystems::{run, run_with};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Running, finish};
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

/// Where the demo server's root file system begins on its disk.
const ROOT: &str = "?offset=2097152";

/// Writes `file` to `to` in the file system of `disk`.
fn put(disk: &Path, file: &Path, to: &str) {
    debugfs(disk, &format!("write {} {to}", file.display()));
}

fn debugfs(disk: &Path, request: &str) {
    let mut debugfs = Command::new("debugfs");
    debugfs
        .args(["-w", "-R", request])
        .arg(format!("{}{ROOT}", disk.display()));
    // It tells of failures in words only, after the line with its name.
    let done = finish(debugfs);
    assert!(done.stderr.lines().count() <= 1, "{request}: {done:?}");
}

/// A server's disk with the agent, a token and the trial on it.
fn server(lab: &Lab) -> PathBuf {
    let disk = lab.path("server.raw");
    disks::demo_server_with(&disk, "db1", "10.77.0.10/24", &["--init", "systemd"]);
    let text = |name: &str, text: &str| {
        let path = lab.path(name);
        fs::write(&path, text).unwrap_or_else(|e| panic!("{e}"));
        path
    };
    let port = lab.address().rsplit(':').next().unwrap_or_default();
    let agent = lab.path("agent-stripped");
    let mut strip = Command::new("strip");
    strip.args(["--strip-debug", "-o"]).arg(&agent);
    strip.arg(binaries::path("relevo-agent-static"));
    finish(strip).expect_success();
    let here = source_root().join("tests/tests/reboot");
    for (file, to) in [
        (agent, "/root/relevo-agent"),
        (text("address", &format!("10.77.0.1:{port}")), "/root/vault"),
        (text("token", &lab.token("agent")), "/root/token"),
        (
            lab.path("keys/sealing-keys.toml"),
            "/root/sealing-keys.toml",
        ),
        (here.join("trial"), "/root/trial"),
        (
            here.join("relevo-trial.service"),
            "/etc/systemd/system/relevo-trial.service",
        ),
    ] {
        put(&disk, &file, to);
    }
    debugfs(&disk, "sif /root/relevo-agent mode 0100755");
    let units = "/etc/systemd/system";
    for (link, to) in [
        (
            "multi-user.target.wants/relevo-trial.service",
            "/etc/systemd/system/relevo-trial.service",
        ),
        // It hangs up on whoever writes to the console before it.
        ("serial-getty@ttyS0.service", "/dev/null"),
    ] {
        debugfs(&disk, &format!("symlink {units}/{link} {to}"));
    }
    disk
}

/// The server, in the lab's network; its console is what it prints.
fn start(lab: &Lab, disk: &Path) -> Running {
    let drive = format!(
        "file={},format=raw,if=none,id=disk,cache=unsafe",
        disk.display()
    );
    // As tests/demo-disk/check does: the network card is enp3s0.
    let machine = "-accel tcg,thread=multi -machine q35 -cpu max -smp 2 -m 1024 -nodefaults \
        -display none -serial stdio -device ide-hd,drive=disk,bus=ide.0 \
        -device pcie-root-port,id=first,chassis=1 -device pcie-root-port,id=second,chassis=2 \
        -device pcie-root-port,id=third,chassis=3 -device e1000e,netdev=net,bus=third \
        -netdev user,id=net,net=10.77.0.0/24,host=10.77.0.1";
    let arguments = machine.split_whitespace().chain(["-drive", &drive]);
    let network = lab.namespace().unwrap_or_else(|| panic!("no network"));
    Running::start(network.command(Path::new("qemu-system-x86_64"), arguments))
}

/// Reads the console until the trial says `what`, and returns the rest of that line.
fn said(machine: &mut Running, console: &mut String, what: &str) -> String {
    let prefix = format!("trial: {what}");
    loop {
        let line = machine.next_line();
        console.push_str(&line);
        for bad in ["Kernel panic", "trial: failed"] {
            assert!(!line.contains(bad), "{console}");
        }
        if let Some((_, rest)) = line.split_once(&prefix) {
            return rest.trim().to_string();
        }
    }
}

/// Guards, where all of it is real, what other suites play: the service images a mounted root disk
/// in its sandbox, frozen; what is written is marked over a clean restart, on another kernel than
/// the tests' own, and read; nothing else is.
fn marks_outlive_a_restart_of_a_real_server() {
    let lab = Lab::in_namespace("relevo-test-reboot");
    let settings = "[backup]\nrpo = \"4h\"\nspread = \"0s\"\n";
    fs::write(lab.path("vault/settings.toml"), settings).unwrap_or_else(|e| panic!("{e}"));
    let disk = server(&lab);
    let mut machine = start(&lab, &disk);
    let mut console = String::new();
    let mut json = |what: &str| -> Value {
        let text = said(&mut machine, &mut console, what);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    };
    let first = json("first")["success"]["report"].clone();
    assert_eq!(first["consistency"], "file-system", "{first}");
    let second = json("second");
    assert_eq!(second["consistency"], "file-system", "{second}");
    assert_eq!(second["tracking"][0]["read"], "changes", "{second}");
    let read = |report: &Value| report["read_bytes"].as_u64().unwrap_or_default();
    assert!(read(&second) * 4 < read(&first), "{first}\n{second}");
    assert_eq!(machine.wait().0, 0, "{console}");

    let restored = lab.restore("db1");
    let root = format!("{}{ROOT}", restored.display());
    // Files that were deleted and are still open go, as at any start.
    run_with("e2fsck", &["-p", &root], &[0, 1]);
    run("e2fsck", &["-fn", &root]);
    let stamps = console.lines().filter_map(|line| {
        let stamp = line.trim().strip_prefix("trial: stamp ")?;
        stamp.split_once(' ')
    });
    let stamps: Vec<_> = stamps.collect();
    assert_eq!(stamps.len(), 2, "{console}");
    for (path, sum) in stamps {
        let out = lab.path("stamp");
        debugfs(&restored, &format!("dump {path} {}", out.display()));
        assert_eq!(disks::sha256(&out), sum, "{path} of the image");
    }
}

fn main() {
    Suite::default()
        .case_with(
            "marks outlive a restart of a real server",
            &[
                Need::root(),
                Need::program("qemu-system-x86_64"),
                Need::program("strip"),
                Need::program("ip"),
            ],
            marks_outlive_a_restart_of_a_real_server,
        )
        .run()
}
