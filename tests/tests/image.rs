//! From a disk to the vault and back: amounts, deduplication, interruption.

use std::fs::File;

use relevo_tests::disks::{self, allocated, mixed, noise, sha256};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Running, finish, wait_while};
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn bytes(report: &Value, name: &str) -> u64 {
    report[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// Guards: what is restored is what was imaged, bit for bit, and holes stay holes.
fn a_restored_disk_equals_its_source() {
    let mut lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    // Not a multiple of a span, nor of a sector's usual company.
    mixed(&disk, 150 * MIB + 512, 1);
    let report = lab.backup("db1", &disk);
    assert_eq!(bytes(&report, "disk_bytes"), 150 * MIB + 512);
    let restored = lab.restore("db1");
    assert_eq!(sha256(&restored), sha256(&disk));
    assert!(
        allocated(&restored) <= allocated(&disk) + MIB,
        "holes were filled"
    );
    lab.verify().expect_success();
    lab.stop_vault();
    lab.verify().expect_success();
}

/// Guards: cost follows change. An unchanged disk sends under 1 % of the first image, one
/// changed block about one span's index, and both images restore.
fn a_second_image_costs_what_changed() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    mixed(&disk, 200 * MIB, 2);
    let before = sha256(&disk);
    let first = lab.backup("db1", &disk);
    let unchanged = lab.backup("db1", &disk);
    assert_eq!(bytes(&unchanged, "changed_bytes"), 0);
    assert!(
        bytes(&unchanged, "sent_bytes") * 100 < bytes(&first, "sent_bytes"),
        "{unchanged}"
    );

    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .unwrap_or_else(|e| panic!("{e}"));
    noise(&file, 100 * MIB + 4096, 4096, 99);
    let changed = lab.backup("db1", &disk);
    let amount = bytes(&changed, "changed_bytes");
    assert!(
        (4096..=4 * MIB).contains(&amount),
        "one block changed, not {amount} bytes"
    );
    assert!(bytes(&changed, "sent_bytes") < MIB, "{changed}");
    assert_eq!(sha256(&lab.restore("db1")), sha256(&disk));

    let oldest = first["point"].as_str().unwrap_or_default().to_string();
    let to = lab.text("oldest.raw");
    lab.recover(&["restore", "db1", "--point", &oldest, "--to", &to])
        .expect_success();
    assert_eq!(sha256(to.as_ref()), before, "an older point changed");
}

/// Guards: servers of one tenant share chunks, though each has an agent, a cache and a
/// certificate of its own.
fn a_second_server_of_the_same_distribution_shares_chunks() {
    let lab = Lab::new();
    let mut sent = Vec::new();
    for (name, address) in [("web1", "10.77.0.11/24"), ("web2", "10.77.0.12/24")] {
        lab.enroll_agent(name);
        let disk = lab.path(&format!("{name}.raw"));
        disks::demo_server(&disk, name, address);
        let mut backup = lab.backup_command(name, &disk);
        backup.arg("--all-blocks");
        sent.push(bytes(&finish(backup).expect_json(), "sent_bytes"));
        assert_eq!(sha256(&lab.restore(name)), sha256(&disk));
    }
    assert!(
        sent[1] * 5 < sent[0],
        "the second server sent {} of the first's {}",
        sent[1],
        sent[0]
    );
}

/// Guards: an agent killed at any moment goes on where it was, and no half image is ever visible.
fn a_killed_agent_resumes() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    let file = disks::sparse(&disk, 512 * MIB);
    for span in 0..96 {
        noise(&file, span * 4 * MIB, 4 << 20, span);
    }
    let whole = 96 * 4 * MIB;
    // Kill it once the vault has stored a part: the packs on disk are the event to wait for.
    for share in [8, 3] {
        let mut agent = Running::start(lab.backup_command("db1", &disk));
        wait_while(|| packed(&lab) < whole / share);
        agent.kill();
        let list = lab.recover(&["list", "--json"]).expect_success();
        assert!(
            !list.contains("\"point\""),
            "half an image is visible: {list}"
        );
    }
    let stored = packed(&lab);
    let report = lab.backup("db1", &disk);
    // Up to a window of chunks was stored without its acknowledgement getting back.
    let limit = whole - stored + 70 * MIB;
    assert!(
        bytes(&report, "sent_bytes") < limit,
        "{report} after {stored} bytes were stored"
    );
    assert_eq!(sha256(&lab.restore("db1")), sha256(&disk));
}

/// Guards: a vault killed in the middle of an upload and started again loses nothing that it
/// acknowledged, and the agent finishes by itself.
fn a_killed_vault_is_waited_for() {
    let mut lab = Lab::new();
    lab.enroll_agent("db1");
    let small = lab.path("small.raw");
    mixed(&small, 64 * MIB, 5);
    lab.backup("db1", &small);
    let kept = sha256(&lab.restore("db1"));

    lab.enroll_agent("db2");
    let disk = lab.path("disk.raw");
    let file = disks::sparse(&disk, 400 * MIB);
    for span in 0..80 {
        noise(&file, span * 4 * MIB, 4 << 20, 1000 + span);
    }
    let start = packed(&lab);
    let mut agent = Running::start(lab.backup_command("db2", &disk));
    for share in [8, 3] {
        wait_while(|| packed(&lab) < start + 320 * MIB / share);
        lab.kill_vault();
        lab.start_vault();
    }
    let (code, output) = agent.wait();
    assert_eq!(code, 0, "the agent gave up: {output}");
    assert_eq!(sha256(&lab.restore("db2")), sha256(&disk));
    assert_eq!(sha256(&lab.restore("db1")), kept);
    lab.verify().expect_success();
}

/// Guards: a line that breaks in the middle of an upload delays it and does nothing else; the
/// agent says that it waits, and goes on by itself.
fn a_cut_line_is_waited_for() {
    let lab = Lab::in_namespace("relevo-test-cut");
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    let file = disks::sparse(&disk, 256 * MIB);
    for span in 0..60 {
        noise(&file, span * 4 * MIB, 4 << 20, 2000 + span);
    }
    let log = lab.path("agent.log");
    let mut command = lab.backup_command("db1", &disk);
    command.stderr(File::create(&log).unwrap_or_else(|e| panic!("{e}")));
    let mut agent = Running::start(command);
    wait_while(|| packed(&lab) < 60 * MIB);
    let line = lab
        .namespace()
        .unwrap_or_else(|| panic!("this lab has no network of its own"));
    line.cut();
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_while(|| !said().contains("connecting again"));
    line.mend();
    let (code, output) = agent.wait();
    assert_eq!(code, 0, "the agent gave up: {output}{}", said());
    assert_eq!(sha256(&lab.restore("db1")), sha256(&disk));
}

/// Bytes in all packs.
fn packed(lab: &Lab) -> u64 {
    let mut total = 0;
    let mut dirs = vec![lab.path("vault/packs")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dirs.push(entry.path()),
                Ok(meta) => total += meta.len(),
                Err(_) => {}
            }
        }
    }
    total
}

/// Guards what a recovery site buys machines by: from the agent's history through the sealed
/// inventory to the recommendation. Figures that are given stand for those of a server's own disks.
fn a_machine_is_sized_by_what_was_measured() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    mixed(&disk, 8 * MIB, 3);
    lab.backup("db1", &disk);
    let plain = lab.recover(&["inspect", "db1"]).expect_success();
    assert!(!plain.contains("VCPUS"), "nothing was measured: {plain}");
    let told = lab.path("told.json");
    let load = r#"{"cpus":8,"memory":8589934592,"load":{"minutes":20160,"all":{
        "cpu":[100,1500,5200],"memory":[1,3221225472,5000000000],"reads":[1,80,900]}}}"#;
    std::fs::write(&told, load).unwrap_or_else(|e| panic!("{e}"));
    let mut backup = lab.backup_command("db1", &disk);
    backup.arg("--inventory").arg(&told);
    finish(backup).expect_success();
    let page = lab.recover(&["inspect", "db1"]).expect_success();
    assert!(page.contains("14 days measured"), "{page}");
    let facts = lab.recover(&["inspect", "db1", "--json"]).expect_json();
    let sizing = &facts["sizing"];
    assert_eq!(sizing["usual"]["vcpus"], 2, "{sizing}");
    assert_eq!(sizing["usual"]["memory"], 15_u64 * (256 << 20), "{sizing}");
    assert_eq!(sizing["usual"]["iops"], 100, "{sizing}");
    assert_eq!(sizing["peak"]["vcpus"], 6, "{sizing}");
    assert_eq!(facts["inventory"]["load"]["minutes"], 20160);
}

fn main() {
    Suite::default()
        .case(
            "a machine is sized by what was measured",
            a_machine_is_sized_by_what_was_measured,
        )
        .case(
            "a_restored_disk_equals_its_source",
            a_restored_disk_equals_its_source,
        )
        .case(
            "a_second_image_costs_what_changed",
            a_second_image_costs_what_changed,
        )
        .case(
            "a_second_server_of_the_same_distribution_shares_chunks",
            a_second_server_of_the_same_distribution_shares_chunks,
        )
        .case("a_killed_agent_resumes", a_killed_agent_resumes)
        .case("a_killed_vault_is_waited_for", a_killed_vault_is_waited_for)
        .case_with(
            "a_cut_line_is_waited_for",
            &[Need::root(), Need::program("ip")],
            a_cut_line_is_waited_for,
        )
        .run()
}
