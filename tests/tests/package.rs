//! The static program on a server of its own: installed in one command, run in its sandbox, gone
//! without a trace.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use relevo_tests::binaries;
use relevo_tests::lab::Lab;
use relevo_tests::program::{Finished, finish, wait_while};
use relevo_tests::server::Server;
use relevo_tests::suite::{Need, Suite};

/// Addresses of documentation (RFC 5737), on a loopback of the test's own.
const VAULT: &str = "192.0.2.1";
const MOVED: &str = "192.0.2.2";
const STRANGER: &str = "192.0.2.3";

/// Where somebody put the program that he was sent.
const BROUGHT: &str = "/root/relevo-agent";
const OWN: &str = "/usr/local/bin/relevo-agent";

/// All that `install` leaves on a server, below the directories that [`changed`] looks at.
const INSTALLED: [&str; 15] = [
    "/etc/systemd/system/multi-user.target.wants",
    "/etc/systemd/system/multi-user.target.wants/relevo-agent.service",
    "/etc/systemd/system/relevo-agent-resume.service",
    "/etc/systemd/system/relevo-agent.service",
    "/etc/systemd/system/sysinit.target.wants",
    "/etc/systemd/system/sysinit.target.wants/relevo-agent-resume.service",
    "/usr/lib/systemd/system-shutdown/relevo-agent",
    "/usr/local/bin/relevo-agent",
    "/var/lib/relevo",
    "/var/lib/relevo/agent",
    "/var/lib/relevo/agent/enrollment.toml",
    "/var/lib/relevo/agent/keys.toml",
    "/var/lib/relevo/agent/schedule",
    "/var/lib/relevo/agent/schedule/history.json",
    "/var/lib/relevo/agent/schedule/policy.json",
];

fn program() -> std::path::PathBuf {
    binaries::path("relevo-agent-static")
}

/// What differs from a server that never heard of Relevo.
fn changed(server: &Server) -> BTreeSet<String> {
    let all = server.changed(&["etc", "usr", "var", "opt", "root", "home", "boot"]);
    // What systemd and dpkg write of their own.
    let own = [
        "/var/lib/dpkg",
        "/var/lib/systemd",
        "/var/log",
        "/var/cache",
        "/var/tmp",
        "/etc/.updated",
        "/var/.updated",
    ];
    let ours = all.into_iter();
    ours.filter(|path| !own.iter().any(|own| path.starts_with(own)))
        .collect()
}

/// A vault, and a server that knows its name from the file of hosts only.
fn lab_and_server(name: &str) -> (Lab, Server) {
    let lab = Lab::in_namespace_at(name, VAULT);
    let network = lab.namespace().unwrap_or_else(|| panic!("no network"));
    for address in [MOVED, STRANGER] {
        network.ip(&["address", "add", address, "dev", "lo"]);
    }
    let server = Server::start(network);
    fs::copy(program(), server.path(BROUGHT)).unwrap_or_else(|e| panic!("{e}"));
    fs::copy(
        lab.path("keys/sealing-keys.toml"),
        server.path("/root/sealing-keys.toml"),
    )
    .unwrap_or_else(|e| panic!("{e}"));
    hosts(&server, VAULT);
    fs::write(server.path("/etc/resolv.conf"), "nameserver 127.0.0.1\n")
        .unwrap_or_else(|e| panic!("{e}"));
    (lab, server)
}

fn hosts(server: &Server, vault: &str) {
    let text = format!("127.0.0.1 localhost\n{vault} vault.example\n");
    fs::write(server.path("/etc/hosts"), text).unwrap_or_else(|e| panic!("{e}"));
}

fn install(lab: &Lab, server: &Server, program: &str, token: &str) -> Finished {
    let port = lab.address().rsplit(':').next().unwrap_or_default();
    let vault = format!("vault.example:{port}");
    let keys = "/root/sealing-keys.toml";
    let done = server.run(&[
        program, "install", "--vault", &vault, "--token", token, "--keys", keys, "--name", "db1",
    ]);
    if done.stderr.contains("systemctl") {
        let log = ["journalctl", "--no-pager", "--unit", "relevo-agent"];
        eprintln!("{}", server.run(&log).stdout);
    }
    done
}

/// Stands where the daemon will: images a disk in the service's sandbox, then does nothing.
fn stand_in(server: &Server, program: &str) {
    let dir = server.path("/run/systemd/system/relevo-agent.service.d");
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{e}"));
    let script = format!(
        "{program} backup --no-tracking --disk /usr/disk.raw=sda && systemd-notify --ready && exec sleep infinity"
    );
    let text = format!(
        "[Service]\nNotifyAccess=all\nExecStart=\nExecStart=/bin/sh -c '{script}'\nExecReload={program} allow-vault\n"
    );
    fs::write(dir.join("stand-in.conf"), text).unwrap_or_else(|e| panic!("{e}"));
    let disk = server.path("/usr/disk.raw");
    fs::write(disk, vec![7; 1 << 20]).unwrap_or_else(|e| panic!("{e}"));
}

fn property(server: &Server, name: &str) -> String {
    let show = [
        "systemctl",
        "show",
        "--value",
        "--property",
        name,
        "relevo-agent.service",
    ];
    server.run(&show).expect_success().trim().to_string()
}

/// Whether a process of the service may send to an address.
fn may_send(server: &Server, address: &str) -> bool {
    let group = "/sys/fs/cgroup/system.slice/relevo-agent.service/cgroup.procs";
    let script = format!("echo $$ > {group} && echo x > /dev/udp/{address}/9");
    server.run(&["bash", "-c", &script]).code == 0
}

/// Guards the one command that a server needs, its sandbox's way to the vault and to nobody else,
/// and the one that leaves no file, unit, setting or program in the kernel behind.
fn one_command_installs_and_one_leaves_nothing() {
    let (lab, server) = lab_and_server("relevo-test-install");
    stand_in(&server, OWN);
    let before = changed(&server);
    // A token that is none is noticed before anything is left behind.
    install(&lab, &server, BROUGHT, "nonsense").expect_refusal(&["token"]);
    server
        .run(&[BROUGHT, "install"])
        .expect_refusal(&["not enrolled"]);
    assert_eq!(changed(&server), before);

    let out = install(&lab, &server, BROUGHT, &lab.token("agent")).expect_success();
    assert!(out.contains("enrolled as db1"), "{out}");
    assert_eq!(property(&server, "ActiveState"), "active");
    let expected: BTreeSet<String> = INSTALLED.iter().map(ToString::to_string).collect();
    let added: BTreeSet<_> = changed(&server).difference(&before).cloned().collect();
    // The image that was taken leaves what is known of it.
    let added: BTreeSet<_> = added
        .into_iter()
        .filter(|path| !path.contains("/agent/cache.sqlite") && !path.ends_with("/agent/lock"))
        .collect();
    assert_eq!(added, expected);
    let manual = fs::read_to_string(binaries::source_root().join("docs/agent.md"));
    let manual = manual.unwrap_or_else(|e| panic!("{e}"));
    for path in INSTALLED
        .iter()
        .filter(|path| path.contains("relevo-agent"))
    {
        assert!(manual.contains(path), "docs/agent.md does not name {path}");
    }
    lab.recover(&["inspect", "db1"]).expect_success();
    assert!(may_send(&server, VAULT) && may_send(&server, "127.0.0.1"));
    assert!(!may_send(&server, STRANGER) && !may_send(&server, MOVED));

    // The name means another address now.
    hosts(&server, MOVED);
    // Asked from within the sandbox, as each backup does.
    let reload = ["systemctl", "reload", "relevo-agent"];
    server.run(&reload).expect_success();
    assert!(may_send(&server, MOVED) && !may_send(&server, VAULT));
    hosts(&server, VAULT);
    server
        .run(&["systemctl", "restart", "relevo-agent"])
        .expect_success();
    assert!(may_send(&server, VAULT) && !may_send(&server, MOVED));

    // Enrolled already: what is there is put right, and no token is spent.
    install(&lab, &server, OWN, &lab.token("agent")).expect_refusal(&["enrolled already"]);
    server.run(&[OWN, "install"]).expect_success();
    assert_eq!(property(&server, "ActiveState"), "active");

    server
        .run(&["mkdir", "-p", "/sys/fs/bpf/relevo/8-0-1"])
        .expect_success();
    server.run(&[OWN, "uninstall"]).expect_success();
    assert_eq!(changed(&server), before);
    assert!(!server.path("/sys/fs/bpf/relevo").exists());
    assert!(
        !server
            .path("/run/systemd/system.control")
            .join("relevo-agent.service.d")
            .exists()
    );
    let units = server.run(&["systemctl", "list-unit-files", "--no-legend", "relevo*"]);
    assert_eq!(units.stdout, "");
    let running = server.run(&["sh", "-c", "cat /proc/[0-9]*/comm"]).stdout;
    assert!(!running.contains("relevo"), "{running}");
}

/// Guards the service itself: started by its unit, in its sandbox, the daemon images by the vault's
/// settings, says so, and is ready for the service manager.
fn the_service_takes_images_by_itself() {
    let (lab, server) = lab_and_server("relevo-test-service");
    fs::write(lab.path("vault/settings.toml"), "[backup]\nrpo = \"2s\"\n")
        .unwrap_or_else(|e| panic!("{e}"));
    stand_in(&server, OWN);
    // No stand-in but for the disk: this machine's own are none of the test's.
    let unit = server.path("/run/systemd/system/relevo-agent.service.d/stand-in.conf");
    let run = format!("{OWN} run -- --no-tracking --disk /usr/disk.raw=sda");
    fs::write(unit, format!("[Service]\nExecStart=\nExecStart={run}\n"))
        .unwrap_or_else(|e| panic!("{e}"));
    install(&lab, &server, BROUGHT, &lab.token("agent")).expect_success();
    assert_eq!(property(&server, "ActiveState"), "active");
    let points = || {
        let list = lab.recover(&["list", "--json"]).expect_json();
        list["servers"][0]["points"].as_u64().unwrap_or(0)
    };
    wait_while(|| points() < 2);
    let status = server.run(&[OWN, "status"]);
    assert!(status.stdout.contains("sda"), "{status:?}");
    server
        .run(&["systemctl", "stop", "relevo-agent"])
        .expect_success();
    assert_eq!(property(&server, "Result"), "success");
    server.run(&[OWN, "uninstall"]).expect_success();
    assert!(!server.path("/var/lib/relevo").exists());
}

/// Guards what is kept for another installation: who the server is, and what it has sent.
fn what_is_kept_serves_the_next_installation() {
    let (lab, server) = lab_and_server("relevo-test-keep");
    stand_in(&server, OWN);
    install(&lab, &server, BROUGHT, &lab.token("agent")).expect_success();
    server
        .run(&[OWN, "uninstall", "--keep-state"])
        .expect_success();
    assert!(!server.path(OWN).exists());
    server.run(&[BROUGHT, "install"]).expect_success();
    assert_eq!(property(&server, "ActiveState"), "active");
    let points = lab.recover(&["inspect", "db1", "--json"]).expect_json()["points"].clone();
    assert_eq!(points.as_array().map(Vec::len), Some(2), "{points}");
}

/// Guards servers that are set up from packages: nothing starts by itself, an upgrade waits for the
/// backup that runs, what is removed keeps who the server is, and what is purged leaves nothing.
fn a_package_starts_nothing_and_goes_without_a_trace() {
    let mut build = Command::new(binaries::source_root().join("agent/package/build"));
    build.arg("--program").arg(program());
    build.env_remove("CARGO_TARGET_DIR");
    finish(build).expect_success();
    let packages = fs::read_dir(binaries::source_root().join("target/package"));
    let packages = packages.unwrap_or_else(|e| panic!("{e}"));
    let paths: Vec<_> = packages.flatten().map(|entry| entry.path()).collect();
    let of = |kind: &str| {
        paths
            .iter()
            .find(|path| path.extension().is_some_and(|e| e == kind))
    };
    assert!(of("rpm").is_some(), "{paths:?}");
    let deb = of("deb").unwrap_or_else(|| panic!("{paths:?}"));

    let (lab, server) = lab_and_server("relevo-test-deb");
    let program = "/usr/bin/relevo-agent";
    stand_in(&server, program);
    fs::copy(deb, server.path("/root/relevo-agent.deb")).unwrap_or_else(|e| panic!("{e}"));
    let before = changed(&server);
    let unpack = ["dpkg", "--install", "/root/relevo-agent.deb"];
    server.run(&unpack).expect_success();
    assert_eq!(property(&server, "ActiveState"), "inactive");
    assert_eq!(property(&server, "UnitFileState"), "disabled");

    install(&lab, &server, BROUGHT, &lab.token("agent")).expect_refusal(&["a package has"]);
    install(&lab, &server, program, &lab.token("agent")).expect_success();
    assert!(!server.path(OWN).exists());
    let first = property(&server, "MainPID");
    // As a backup does while it runs.
    let backup = [
        "systemd-run",
        "--unit=backup",
        "flock",
        "/var/lib/relevo/agent/lock",
        "sleep",
        "infinity",
    ];
    server.run(&backup).expect_success();
    wait_while(|| {
        server
            .run(&["flock", "--nonblock", "/var/lib/relevo/agent/lock", "true"])
            .code
            == 0
    });
    server.run(&unpack).expect_success();
    assert_eq!(
        property(&server, "MainPID"),
        first,
        "a backup was broken off"
    );
    server
        .run(&["systemctl", "stop", "backup"])
        .expect_success();
    wait_while(|| [first.as_str(), "0"].contains(&property(&server, "MainPID").as_str()));

    server
        .run(&["dpkg", "--remove", "relevo-agent"])
        .expect_success();
    assert!(
        server
            .path("/var/lib/relevo/agent/enrollment.toml")
            .exists()
    );
    let running = server.run(&["sh", "-c", "cat /proc/[0-9]*/comm"]).stdout;
    assert!(!running.contains("relevo"), "{running}");
    server
        .run(&["dpkg", "--purge", "relevo-agent"])
        .expect_success();
    assert_eq!(changed(&server), before);
}

/// Guards the units against mistakes that systemd passes over, and the sandbox against loosening.
fn systemd_finds_no_fault() {
    let (lab, server) = lab_and_server("relevo-test-units");
    stand_in(&server, OWN);
    install(&lab, &server, BROUGHT, &lab.token("agent")).expect_success();
    for unit in ["relevo-agent.service", "relevo-agent-resume.service"] {
        let unit = format!("/etc/systemd/system/{unit}");
        let verified = server.run(&["systemd-analyze", "verify", "--man=no", &unit]);
        assert_eq!((verified.code, verified.stderr.as_str()), (0, ""));
    }
    let limit = [
        "systemd-analyze",
        "security",
        "--threshold=45",
        "relevo-agent.service",
    ];
    server.run(&limit).expect_success();
}

/// Guards a program that runs on any Linux: no library, no loader, no name service of the C
/// library's. In a directory with nothing else in it, it finds its vault by name.
fn it_needs_nothing_of_the_server() {
    let headers = finish({
        let mut readelf = Command::new("readelf");
        readelf.arg("--program-headers").arg(program());
        readelf
    });
    let headers = headers.expect_success();
    assert!(!headers.contains("INTERP"), "{headers}");
    let lab = Lab::in_namespace_at("relevo-test-static", VAULT);
    let root = lab.path("root");
    fs::create_dir_all(root.join("etc")).unwrap_or_else(|e| panic!("{e}"));
    fs::copy(program(), root.join("agent")).unwrap_or_else(|e| panic!("{e}"));
    fs::copy(lab.path("keys/sealing-keys.toml"), root.join("keys"))
        .unwrap_or_else(|e| panic!("{e}"));
    fs::write(root.join("etc/hosts"), format!("{VAULT} vault.example\n"))
        .unwrap_or_else(|e| panic!("{e}"));
    // What Linux has for everybody.
    fs::create_dir_all(root.join("dev")).unwrap_or_else(|e| panic!("{e}"));
    for (name, minor) in [("random", "8"), ("urandom", "9")] {
        let mut node = Command::new("mknod");
        node.arg(root.join("dev").join(name))
            .args(["c", "1", minor]);
        finish(node).expect_success();
    }
    let port = lab.address().rsplit(':').next().unwrap_or_default();
    let (token, place) = (lab.token("agent"), root.to_string_lossy().into_owned());
    let vault = format!("vault.example:{port}");
    let arguments = [
        &place, "/agent", "enroll", "--vault", &vault, "--token", &token, "--keys", "/keys",
        "--state", "/state",
    ];
    let network = lab.namespace().unwrap_or_else(|| panic!("no network"));
    finish(network.command(Path::new("chroot"), arguments)).expect_success();
}

/// Guards kernels as old as Linux 3.13, of January 2014: what came later is answered as there.
/// Marks, which such a kernel cannot make, are done without.
fn it_runs_on_a_kernel_of_2014() {
    const LATER: &str = "sched_setattr renameat2 seccomp getrandom memfd_create bpf execveat \
        userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 statx pkey_alloc rseq \
        io_pgetevents pidfd_send_signal pidfd_open pidfd_getfd io_uring_setup io_uring_enter \
        open_tree move_mount fsopen fsmount clone3 close_range openat2 faccessat2 epoll_pwait2 \
        mount_setattr landlock_create_ruleset futex_waitv";
    let (lab, server) = lab_and_server("relevo-test-old");
    let disk = server.path("/usr/disk.raw");
    fs::write(disk, vec![7; 9 << 20]).unwrap_or_else(|e| panic!("{e}"));
    let filter = format!("--property=SystemCallFilter=~{LATER}");
    let port = lab.address().rsplit(':').next().unwrap_or_default();
    let (vault, token) = (format!("vault.example:{port}"), lab.token("agent"));
    let old = |arguments: &[&str]| {
        let service = [
            "systemd-run",
            "--quiet",
            "--wait",
            "--pipe",
            &filter,
            "--property=SystemCallErrorNumber=ENOSYS",
        ];
        server.run(&[&service, arguments].concat())
    };
    let keys = "/root/sealing-keys.toml";
    let enroll = [
        BROUGHT, "enroll", "--vault", &vault, "--token", &token, "--keys", keys, "--name", "db1",
    ];
    old(&enroll).expect_success();
    for _ in 0..2 {
        let backup = [BROUGHT, "backup", "--disk", "/usr/disk.raw=sda", "--json"];
        assert_eq!(old(&backup).expect_json()["disk_bytes"], 9 << 20);
    }
    let status = old(&[BROUGHT, "tracking", "status", "--disk", "/usr/disk.raw"]);
    assert!(status.stdout.contains("all is read"), "{status:?}");
    old(&[BROUGHT, "inventory", "--disk", "/usr/disk.raw"]).expect_success();
}

fn main() {
    let needs = || {
        [
            Need::root(),
            Need::program("systemd-analyze"),
            Need::program("nsenter"),
            Need::overlay(),
        ]
    };
    Suite::default()
        .case_with(
            "it needs nothing of the server",
            &[Need::root(), Need::program("readelf")],
            it_needs_nothing_of_the_server,
        )
        .case_with(
            "it runs on a kernel of 2014",
            &needs(),
            it_runs_on_a_kernel_of_2014,
        )
        .case_with(
            "one command installs and one leaves nothing",
            &needs(),
            one_command_installs_and_one_leaves_nothing,
        )
        .case_with(
            "the service takes images by itself",
            &needs(),
            the_service_takes_images_by_itself,
        )
        .case_with(
            "what is kept serves the next installation",
            &needs(),
            what_is_kept_serves_the_next_installation,
        )
        .case_with(
            "a package starts nothing and goes without a trace",
            &[Need::root(), Need::overlay(), Need::packagers()],
            a_package_starts_nothing_and_goes_without_a_trace,
        )
        .case_with("systemd finds no fault", &needs(), systemd_finds_no_fault)
        .run()
}
