//! The init shim as process 1 of its own process, mount and network namespace, started from the
//! very segment that recover writes. Guards: it runs what it is told to, and when it cannot go on
//! it says why and what to do, and resets the machine instead of hanging.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Arguments, Trial};
use relevo_recover::adapt::adapt;
use relevo_recover::plan::{BootPlan, InitrdSegment, KernelSource, RootDevice};
use tempfile::TempDir;

const BUSYBOX: &str = "/usr/bin/busybox";
/// What a process namespace's first process dies of when it resets "the machine".
const SIGHUP: i32 = 1;

fn main() {
    let arguments = Arguments::from_args();
    let missing = missing();
    if let Some(missing) = &missing {
        eprintln!("skipped: {missing}");
    }
    let tests: Vec<(&str, fn())> = vec![
        (
            "it_becomes_the_next_init_with_the_kernels_arguments",
            becomes_init,
        ),
        (
            "a_module_that_cannot_be_loaded_is_told_and_passed_over",
            missing_module,
        ),
        ("cards_get_their_names_and_addresses_before_init", network),
        (
            "without_instructions_it_says_so_and_resets",
            no_instructions,
        ),
        ("instructions_of_another_version_are_refused", other_version),
        ("without_an_init_it_says_so_and_resets", no_init),
    ];
    let trials = tests
        .into_iter()
        .map(|(name, run)| {
            Trial::test(name, move || {
                run();
                Ok(())
            })
            .with_ignored_flag(missing.is_some())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn missing() -> Option<String> {
    for tool in [
        BUSYBOX,
        "/usr/bin/unshare",
        "/usr/bin/cpio",
        "/usr/sbin/chroot",
    ] {
        if !Path::new(tool).exists() {
            return Some(format!("{tool} is not there"));
        }
    }
    let probe = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--net", "ip", "link"])
        .output()
        .unwrap();
    (!probe.status.success()).then(|| {
        format!(
            "no namespaces here: {}",
            String::from_utf8_lossy(&probe.stderr)
        )
    })
}

/// An initramfs with our segment and, as /init, a script that tells what it sees.
fn initramfs(instructions: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let kernel = dir.path().join("site-kernel");
    fs::write(&kernel, "kernel").unwrap();
    let plan = BootPlan {
        hostname: None,
        system: None,
        kernel: KernelSource::Site { path: kernel },
        initrd: vec![InitrdSegment::Relevo {
            modules: Vec::new(),
            instructions: instructions.into(),
        }],
        command_line: String::new(),
        disks: Vec::new(),
        nics: Vec::new(),
        root: RootDevice {
            device: String::new(),
            uuid: String::new(),
            argument: String::new(),
        },
        memory_mib: 64,
        cpus: 1,
        findings: Vec::new(),
    };
    let boot = adapt(&plan, &[], &dir.path().join("run")).unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("proc")).unwrap();
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    let script = "#!/bin/busybox sh\necho \"init: $$ $@ $TERM\"\n/bin/busybox mount -t proc proc /proc\n/bin/busybox ifconfig -a\n/bin/busybox route -n\n";
    fs::write(root.join("init"), script).unwrap();
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    let unpack = Command::new("sh")
        .args(["-c", "cpio -idm --quiet < \"$0\""])
        .arg(&boot.initrds[0])
        .current_dir(&root)
        .status()
        .unwrap();
    assert!(unpack.success());
    (dir, root)
}

/// What it wrote, and the signal it died of.
fn start(root: &Path) -> (String, Option<i32>) {
    start_after("true", root)
}

/// The same, with commands run in its namespaces before.
fn start_after(commands: &str, root: &Path) -> (String, Option<i32>) {
    let script = format!(
        "set -e; {commands}; exec env -i TERM=linux /usr/sbin/chroot \"$0\" /.relevo/init single"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--net", "sh", "-c", &script])
        .arg(root)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    println!("{text}{}", output.status);
    let code = output.status.code().filter(|c| *c > 128);
    (text, output.status.signal().or(code.map(|c| c - 128)))
}

fn becomes_init() {
    let (_dir, root) = initramfs("relevo-init 1\nexec /init\n");
    let (text, signal) = start(&root);
    assert!(
        text.contains("init: 1 single linux"),
        "process 1, the kernel's arguments and environment"
    );
    assert_eq!(signal, None);
}

fn missing_module() {
    let (_dir, root) = initramfs("relevo-init 1\nmodule /.relevo/modules/absent.ko\nexec /init\n");
    let (text, _) = start(&root);
    assert!(text.contains("relevo-init: /.relevo/modules/absent.ko: No such file"));
    assert!(text.contains("init: 1 single"));
}

fn network() {
    let (_dir, root) = initramfs(
        "relevo-init 1\nrename 52:54:00:00:00:01 eth1\nrename 52:54:00:00:00:02 eth0\n\
         rename 52:54:00:00:00:99 absent0\naddress eth1 192.0.2.5/25\ngateway eth1 192.0.2.1\nexec /init\n",
    );
    // Found in the wrong order, so that both names have to be exchanged.
    let cards = "for n in 1 2; do ip tuntap add dev eth$((n - 1)) mode tap; \
                 ip link set eth$((n - 1)) address 52:54:00:00:00:0$n; done";
    let (text, _) = start_after(cards, &root);
    assert!(text.contains("eth0      Link encap:Ethernet  HWaddr 52:54:00:00:00:02"));
    assert!(text.contains("eth1      Link encap:Ethernet  HWaddr 52:54:00:00:00:01"));
    assert!(text.contains("inet addr:192.0.2.5") && text.contains("Mask:255.255.255.128"));
    assert!(
        text.contains("0.0.0.0         192.0.2.1       0.0.0.0         UG"),
        "the default route"
    );
    assert!(text.contains("no network card has the address 52:54:00:00:00:99 of absent0"));
}

fn no_instructions() {
    let (_dir, root) = initramfs("relevo-init 1\nexec /init\n");
    fs::remove_file(root.join(".relevo/plan")).unwrap();
    let (text, signal) = start(&root);
    assert!(text.contains("error: /.relevo/plan") && text.contains("remedy: "));
    assert_eq!(signal, Some(SIGHUP));
}

fn other_version() {
    let (_dir, root) = initramfs("relevo-init 7\nexec /init\n");
    let (text, signal) = start(&root);
    assert!(text.contains("unknown version") && text.contains("remedy: "));
    assert_eq!(signal, Some(SIGHUP));
}

fn no_init() {
    let (_dir, root) = initramfs("relevo-init 1\nexec /sbin/none\n");
    let (text, signal) = start(&root);
    assert!(text.contains("cannot start /sbin/none") && text.contains("remedy: "));
    assert_eq!(signal, Some(SIGHUP));
}
