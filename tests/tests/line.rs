//! Long, lossy lines between an agent and its vault, and what an agent takes of a server's memory.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use relevo_tests::disks::{mixed, noise, sha256, sparse};
use relevo_tests::lab::Lab;
use relevo_tests::line::{Fate, Line, LineSettings};
use relevo_tests::namespace::Namespace;
use relevo_tests::program::{Running, wait_while};
use relevo_tests::suite::{Need, Suite};

const MIB: u64 = 1 << 20;

/// A lab with the agent `db1` behind a line to the vault.
fn lab_behind(settings: LineSettings) -> (Lab, Line) {
    let lab = Lab::new();
    let vault: SocketAddr = lab.address().parse().unwrap_or_else(|e| panic!("{e}"));
    let line = Line::to(vault, settings);
    lab.enroll_agent_at("db1", &line.address().to_string());
    (lab, line)
}

fn carried(line: &Line) -> u64 {
    Fate::get(&line.up().carried)
}

/// Waits until the line carried so many more bytes to the vault.
fn wait_for_bytes(line: &Line, more: u64) {
    let until = carried(line) + more;
    wait_while(|| carried(line) < until);
}

/// Guards an upload against everything that a line does: one packet in a hundred lost, others
/// overtaken, a router that holds little and takes other addresses in mid-connection, a cut, and
/// a vault that is started anew meanwhile. The image is the disk, bit for bit.
fn an_image_crosses_a_bad_line() {
    let settings = LineSettings {
        rate: 60_000_000,
        round_trip: Duration::from_millis(60),
        queue: Duration::from_millis(30),
        loss: 10_000,
        jitter: Duration::from_millis(4),
        seed: 4,
    };
    let (mut lab, line) = lab_behind(settings);
    let disk = lab.path("disk.raw");
    mixed(&disk, 96 * MIB, 11);
    noise(&writable(&disk), 90 * MIB, 6 << 20, 12);
    let mut agent = Running::start(lab.backup_command("db1", &disk));
    wait_for_bytes(&line, 3 * MIB);
    line.rebind();
    wait_for_bytes(&line, 3 * MIB);
    let before = Fate::get(&line.up().lost);
    line.cut();
    wait_while(|| Fate::get(&line.up().lost) < before + 20);
    line.mend();
    wait_for_bytes(&line, 3 * MIB);
    lab.kill_vault();
    lab.start_vault();
    wait_for_bytes(&line, 3 * MIB);
    line.rebind();
    let (code, out) = agent.wait();
    assert_eq!(code, 0, "the agent gave up: {out}");
    assert_eq!(sha256(&lab.restore("db1")), sha256(&disk));
    lab.verify().expect_success();
    for fate in [line.up(), line.down()] {
        assert!(Fate::get(&fate.lost) > 0, "nothing was lost: {fate:?}");
    }
    let overtaken = Fate::get(&line.up().overtaken);
    assert!(overtaken > 0, "nothing was overtaken");
}

fn writable(disk: &Path) -> std::fs::File {
    let file = std::fs::OpenOptions::new().write(true).open(disk);
    file.unwrap_or_else(|e| panic!("{}: {e}", disk.display()))
}

/// Guards an upload from a server whose own address is taken away and replaced meanwhile, as
/// DHCP and mobile lines do: the same connection goes on from the new one.
fn an_agent_whose_address_changes_goes_on() {
    const VAULT: &str = "10.97.0.1";
    let lab = Lab::in_namespace_at("relevo-line", VAULT);
    let (old, new) = ("10.97.0.2", "10.97.0.3");
    let namespace = lab.namespace().unwrap_or_else(|| panic!("no namespace"));
    namespace.ip(&["addr", "add", &format!("{old}/32"), "dev", "lo"]);
    send_from(namespace, VAULT, old);
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    noise(&sparse(&disk, 400 * MIB), 0, 380 << 20, 21);
    let mut agent = Running::start(lab.backup_command("db1", &disk));
    let packs = lab.path("vault");
    wait_while(|| stored(&packs) < 20 * MIB);
    namespace.ip(&["addr", "add", &format!("{new}/32"), "dev", "lo"]);
    send_from(namespace, VAULT, new);
    namespace.ip(&["addr", "del", &format!("{old}/32"), "dev", "lo"]);
    assert!(stored(&packs) < 380 * MIB, "the upload was over already");
    let (code, out) = agent.wait();
    assert_eq!(code, 0, "the agent gave up: {out}");
    assert_eq!(sha256(&lab.restore("db1")), sha256(&disk));
}

/// Makes `address` the source of what goes to `vault`.
fn send_from(namespace: &Namespace, vault: &str, address: &str) {
    let route = ["route", "replace", "local", vault, "dev", "lo"];
    namespace.ip(&[&route[..], &["table", "local", "src", address]].concat());
}

/// Bytes of all files below a directory.
fn stored(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => stored(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Guards the memory of the servers that are protected: 64 MiB at most, whatever the disk and the
/// line.
fn memory_stays_below_64_mib() {
    let long = LineSettings::long(300_000_000);
    let slow = LineSettings::long(20_000_000);
    let cases = [
        ("on a local line", 700, None),
        ("on a long, fast line", 200, Some(long)),
        ("on a long, slow line", 40, Some(slow)),
    ];
    for (what, mib, settings) in cases {
        let (lab, _line) = match settings {
            Some(settings) => {
                let (lab, line) = lab_behind(settings);
                (lab, Some(line))
            }
            None => {
                let lab = Lab::new();
                lab.enroll_agent("db1");
                (lab, None)
            }
        };
        let disk = lab.path("disk.raw");
        let file = sparse(&disk, 2048 * MIB);
        for at in (0..mib).step_by(20) {
            // The disk ends in data, far behind the rest.
            let offset = if at + 20 >= mib {
                2028 * MIB
            } else {
                at * 2 * MIB
            };
            noise(&file, offset, 20 << 20, at + 1);
        }
        let mut agent = Running::start(lab.backup_command("db1", &disk));
        let peak = agent.peak_memory();
        let (code, out) = agent.wait();
        assert_eq!(code, 0, "the agent gave up: {out}");
        println!("{what}: {} KiB at most", peak);
        assert!(peak <= 64 * 1024, "{what}: {peak} KiB were resident");
    }
}

fn main() {
    Suite::default()
        .case("an_image_crosses_a_bad_line", an_image_crosses_a_bad_line)
        .case_with(
            "an_agent_whose_address_changes_goes_on",
            &[Need::root(), Need::program("ip")],
            an_agent_whose_address_changes_goes_on,
        )
        .case("memory_stays_below_64_mib", memory_stays_below_64_mib)
        .run()
}
