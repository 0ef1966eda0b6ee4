//! A lost server comes back: booted from the vault on the bundled VMM, rehearsed as a drill, and
//! checked by an independent hypervisor.

use std::path::PathBuf;
use std::process::Command;

use relevo_tests::disks::{self, sha256};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Running, finish, wait_while};
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

const HOST: &str = "lost-server";
const ADDRESS: &str = "10.77.0.10/24";

/// A lab with one imaged demo server.
fn protected() -> Lab {
    let lab = Lab::new();
    let disk = lab.path("server.raw");
    disks::demo_server(&disk, HOST, ADDRESS);
    lab.enroll_agent(HOST);
    lab.backup(HOST, &disk);
    lab
}

fn namespaces() -> String {
    let out = Command::new("ip").args(["netns", "list"]).output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default()
}

/// Processes of ours that mention `what` in their command line.
fn processes(what: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("relevo-") && line.contains(what) {
            found.push(line);
        }
    }
    found
}

/// The arguments of a failover into a network namespace, on the site kernel where that is needed.
fn failover(namespace: &str, more: &[&str]) -> Vec<String> {
    let kernel = disks::site_kernel();
    let network = format!("netns={namespace}");
    let first = [
        "failover",
        HOST,
        "--network",
        &network,
        "--json",
        "--site-kernel",
    ];
    let kernel = kernel.to_string_lossy();
    let all = first
        .into_iter()
        .chain([kernel.as_ref()])
        .chain(more.iter().copied());
    all.map(str::to_string).collect()
}

/// Guards the main job: the server's page is served by the virtual machine, reached through its
/// network; RPO and RTO are measured; writes stay in the overlay; nothing is left behind.
fn failover_serves_the_lost_servers_page() {
    let lab = protected();
    let image = sha256(&lab.restore(HOST));
    let page = format!("/={HOST}");
    let arguments = failover(
        "relevo-test-failover",
        &["--publish", "127.0.0.1:0=80", "--wait-http", &page],
    );
    let args: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let report = lab.recover(&args).expect_json();
    assert!(
        report["rto_ms"].as_u64().is_some_and(|rto| rto > 0),
        "{report}"
    );
    assert!(report["rpo_ms"].as_u64().is_some(), "{report}");
    assert!(
        report["findings"]
            .as_array()
            .is_some_and(|all| !all.is_empty()),
        "{report}"
    );

    let published = report["published"][0].as_str().unwrap_or_default();
    let page = Command::new("curl")
        .args(["-sS", &format!("http://{published}/")])
        .output();
    let page = page
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    assert!(
        page.contains(HOST),
        "the page does not name the host: {page}"
    );

    // The same server never runs twice.
    lab.recover(&args).expect_refusal(&["already"]);
    let status = lab.recover(&["status", HOST, "--json"]).expect_json();
    assert!(status.to_string().contains("running"), "{status}");

    // The image is as it was, though the guest has written.
    assert_eq!(sha256(&lab.restore(HOST)), image);
    lab.recover(&["stop", HOST, "--discard"]).expect_success();
    assert!(!namespaces().contains("relevo-test-failover"));
    assert_eq!(processes(&lab.text("recover")), Vec::<String>::new());
}

/// Guards: a failover that is interrupted leaves nothing behind.
fn an_interrupted_failover_cleans_up() {
    let lab = protected();
    let arguments = failover(
        "relevo-test-interrupted",
        &["--wait-console", "this text never comes"],
    );
    let args: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut starting = Running::start(lab.recover_command(&args));
    wait_while(|| {
        processes(&lab.text("recover/runs")).len() < 2 || !namespaces().contains("interrupted")
    });
    starting.signal("TERM");
    assert_ne!(starting.wait().0, 0);
    assert!(!namespaces().contains("relevo-test-interrupted"));
    assert_eq!(processes(&lab.text("recover/runs")), Vec::<String>::new());
}

/// Guards: whichever process of a running server is killed, the next command cleans up after it,
/// and the server can be started again over what it wrote.
fn killed_processes_are_cleaned_up_after() {
    let lab = protected();
    let arguments = failover(
        "relevo-test-killed",
        &["--wait-console", "relevo-demo: ready"],
    );
    for (victim, again) in [("relevo-vmm run", None), ("serve-disk", Some("--continue"))] {
        let args: Vec<_> = arguments.iter().map(String::as_str).chain(again).collect();
        lab.recover(&args).expect_json();
        let runs = lab.text("recover/runs");
        let pid = find_process(victim, &runs);
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
        assert!(
            killed.is_ok_and(|s| s.success()),
            "{victim} could not be killed"
        );
        wait_while(|| find_process(victim, &runs) == pid);
        lab.recover(&["stop", HOST]);
        assert_eq!(
            processes(&runs),
            Vec::<String>::new(),
            "after {victim} was killed"
        );
        assert!(
            !namespaces().contains("relevo-test-killed"),
            "after {victim} was killed"
        );
    }
}

/// The process whose command line has both texts; 0 when there is none.
fn find_process(program: &str, argument: &str) -> u32 {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(program) && line.contains(argument) {
            return entry.file_name().to_string_lossy().parse().unwrap_or(0);
        }
    }
    0
}

fn drill(lab: &Lab, name: &str, body: &str) -> (relevo_tests::program::Finished, PathBuf) {
    let plan = lab.path("plan.toml");
    let text = format!(
        "name = \"rehearsal\"\nserver = \"{HOST}\"\nsite_kernel = \"{}\"\n\n[[check]]\n\
         kind = \"http\"\nport = 80\npath = \"/\"\nbody_contains = \"{body}\"\ntimeout = \"15m\"\n",
        disks::site_kernel().display()
    );
    std::fs::write(&plan, text).unwrap_or_else(|e| panic!("{e}"));
    let report = lab.path(name);
    let args = [
        "run",
        &plan.to_string_lossy(),
        "--report",
        &report.to_string_lossy(),
        "--state",
        &lab.text("recover"),
        "--json",
    ];
    (finish(lab.command("relevo-drills", &args)), report)
}

/// Guards: a drill ends in evidence that a person and a program can read, and in nothing else.
fn a_drill_ends_in_a_report() {
    let lab = protected();
    let (finished, dir) = drill(&lab, "report", HOST);
    finished.expect_success();
    let json = std::fs::read_to_string(dir.join("report.json")).unwrap_or_default();
    let json: Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json}"));
    assert_eq!(json["verdict"], "passed", "{json}");
    let html = std::fs::read_to_string(dir.join("report.html")).unwrap_or_default();
    assert!(html.contains(HOST) && html.contains("RTO") && html.contains("RPO"));
    assert!(
        !html.contains("src=\"http") && !html.contains("href=\"http"),
        "not self-contained"
    );
    let id = json["id"]
        .as_str()
        .unwrap_or_else(|| panic!("no id: {json}"));
    assert!(
        !namespaces().contains(id),
        "the drill's network was left behind"
    );
    assert_eq!(processes(&lab.text("recover")), Vec::<String>::new());
}

/// Guards the whole of conversion on an ordinary machine: the image's own kernel and initramfs,
/// which know no virtio, boot through the plan's extra segment; over NBD; on QEMU.
fn the_images_own_kernel_boots_through_the_plan() {
    let lab = protected();
    let socket = lab.text("nbd.sock");
    let files = lab.text("adapted");
    let args = ["plan", HOST, "--image-kernel", "--write", &files, "--json"];
    let plan = lab.recover(&args).expect_json();
    let mut export = Running::start(lab.recover_command(&[
        "export",
        HOST,
        "--nbd",
        &format!("unix:{socket}"),
        "--json",
    ]));
    let ready = export.next_line();
    assert!(ready.contains("listening"), "{ready}");
    let text = |name: &str| {
        plan[name]
            .as_str()
            .unwrap_or_else(|| panic!("{name}: {plan}"))
    };
    let overlay = lab.text("overlay.qcow2");
    let base = format!("nbd+unix:///?socket={socket}");
    let size = plan["disks"][0]["size"].to_string();
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([&base, &overlay, &size])
        .status();
    assert!(made.is_ok_and(|s| s.success()), "no overlay over {base}");
    let mac = plan["nics"][0]["mac"].as_str().unwrap_or("not planned");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args("-accel tcg,thread=multi -cpu max -smp 2 -m 1024 -display none".split(' '))
        .args(["-no-reboot", "-serial", "stdio"])
        .arg("-nic")
        .arg(format!("user,model=virtio-net-pci,restrict=on,mac={mac}"))
        .args(["-kernel", text("kernel"), "-initrd", text("initrd")])
        .args(["-append", text("cmdline"), "-drive"])
        .arg(format!("file={overlay},if=virtio,format=qcow2"));
    let mut machine = Running::start(qemu);
    let mut console = String::new();
    while !console.contains("relevo-demo: ready") {
        let line = machine.next_line();
        console.push_str(&line);
        for bad in ["Kernel panic", "relevo-demo: failed", "relevo: error"] {
            assert!(!line.contains(bad), "{console}");
        }
    }
}

fn main() {
    Suite::default()
        .case_with(
            "failover_serves_the_lost_servers_page",
            &[Need::root(), Need::kvm(), Need::tun(), Need::program("ip")],
            failover_serves_the_lost_servers_page,
        )
        .case_with(
            "an_interrupted_failover_cleans_up",
            &[Need::root(), Need::kvm(), Need::tun(), Need::program("ip")],
            an_interrupted_failover_cleans_up,
        )
        .case_with(
            "killed_processes_are_cleaned_up_after",
            &[Need::root(), Need::kvm(), Need::tun(), Need::program("ip")],
            killed_processes_are_cleaned_up_after,
        )
        .case_with(
            "a_drill_ends_in_a_report",
            &[Need::root(), Need::kvm(), Need::tun(), Need::program("ip")],
            a_drill_ends_in_a_report,
        )
        .case_with(
            "the_images_own_kernel_boots_through_the_plan",
            &[
                Need::program("qemu-system-x86_64"),
                Need::program("qemu-img"),
            ],
            the_images_own_kernel_boots_through_the_plan,
        )
        .run()
}
