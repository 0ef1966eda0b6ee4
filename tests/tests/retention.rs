//! What is kept, held and locked, with the real processes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use relevo_tests::disks::{mixed, noise, sha256, sparse};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Finished, finish, wait_while};
use relevo_tests::suite::Suite;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Runs a command of the vault on the lab's directory.
fn vault(lab: &Lab, arguments: &[&str]) -> Finished {
    let dir = lab.text("vault");
    let all = [&arguments[..1], &["--dir", &dir], &arguments[1..]].concat();
    finish(lab.command("relevo-vault", &all))
}

fn facts(lab: &Lab, arguments: &[&str]) -> Value {
    vault(lab, &[arguments, &["--json"]].concat()).expect_json()
}

/// The ids of all recovery points, by server and time.
fn points(lab: &Lab) -> Vec<String> {
    let images = facts(lab, &["images"]);
    let images = images
        .as_array()
        .unwrap_or_else(|| panic!("no list: {images}"));
    let id = |image: &Value| image["point"].as_str().unwrap_or_default().to_string();
    images.iter().map(id).collect()
}

/// Backs a disk up so many times, each time with a change.
fn back_up(lab: &Lab, server: &str, disk: &Path, times: u64) {
    for run in 0..times {
        let file = std::fs::OpenOptions::new().write(true).open(disk);
        let file = file.unwrap_or_else(|e| panic!("{}: {e}", disk.display()));
        noise(&file, run * 64 * 1024, 64 * 1024, 77 + run);
        lab.backup(server, disk);
    }
}

fn lab_with_points(times: u64) -> (Lab, std::path::PathBuf) {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    mixed(&disk, 8 * MIB, 5);
    back_up(&lab, "db1", &disk, times);
    (lab, disk)
}

fn settings(lab: &Lab, text: &str) {
    let path = lab.path("vault/settings.toml");
    std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Guards pruning by settings that change beside a vault that serves.
fn a_serving_vault_prunes_by_its_settings() {
    let (lab, disk) = lab_with_points(5);
    let before = points(&lab);
    assert_eq!(before.len(), 5);
    let dry = facts(&lab, &["prune", "--dry-run", "--keep-last", "2"]);
    let fates = dry["servers"][0]["points"].as_array().cloned();
    let fates = fates.unwrap_or_else(|| panic!("no points: {dry}"));
    assert_eq!(fates.len(), 5);
    assert_eq!(fates[4]["keep"], Value::Array(vec![]));
    assert_eq!(fates[4]["missed"][0]["because"], "full");
    assert_eq!(points(&lab), before, "a dry run deleted something");
    let shown = vault(&lab, &["prune", "--dry-run", "--keep-last", "2"]).expect_success();
    assert!(shown.contains("last: enough newer ones"), "{shown}");

    facts(
        &lab,
        &["hold", "db1", &before[0], "--reason", "court order"],
    );
    settings(
        &lab,
        "[retention]\nkeep-last = 2\n[prune]\nevery = \"1s\"\n",
    );
    wait_while(|| points(&lab).len() > 3);
    assert_eq!(points(&lab), [&before[..1], &before[3..]].concat());
    assert_eq!(sha256(&lab.restore("db1")), sha256(&disk));
    facts(&lab, &["release", "db1", &before[0]]);
    wait_while(|| points(&lab).len() > 2);
    assert_eq!(points(&lab), before[3..]);
    assert!(
        lab.verify().expect_json()["intact"]
            .as_bool()
            .unwrap_or(false)
    );
}

/// Guards immutability: no command, no settings, no lost catalogue ends it before its time.
fn what_is_locked_cannot_be_deleted() {
    let mut lab = Lab::new();
    lab.enroll_agent("db1");
    settings(&lab, "[immutability]\ndays = 1\n");
    let disk = lab.path("disk.raw");
    mixed(&disk, 8 * MIB, 6);
    back_up(&lab, "db1", &disk, 2);
    let locked = points(&lab);
    let locks = facts(&lab, &["locks"]);
    assert_eq!(locks.as_array().map(Vec::len), Some(2), "{locks}");
    settings(
        &lab,
        "[retention]\nkeep-last = 1\n[prune]\nevery = \"1s\"\n",
    );
    let refused = |lab: &Lab| {
        vault(lab, &["delete", &locked[0], "--even-latest"]).expect_refusal(&["locked"]);
        let pruned = facts(lab, &["prune", "--keep-last", "1"]);
        assert_eq!(pruned["deleted"], Value::Array(vec![]), "{pruned}");
        assert_eq!(points(lab), locked);
    };
    refused(&lab);
    vault(&lab, &["lock", &locked[0], "--for", "1h"]).expect_refusal(&["locked"]);
    let longer = facts(&lab, &["lock", &locked[0], "--for", "3d"]);
    assert!(
        longer["seconds_left"].as_u64() > Some(2 * 86_400),
        "{longer}"
    );

    // Without a vault that serves, without settings, without a catalogue.
    lab.kill_vault();
    let _ = std::fs::remove_file(lab.path("vault/settings.toml"));
    refused(&lab);
    vault(&lab, &["rebuild"]).expect_success();
    refused(&lab);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(lab.path(&format!("vault/catalogue.sqlite{suffix}")));
    }
    refused(&lab);
    lab.start_vault();
    refused(&lab);
    let locks = facts(&lab, &["locks"]);
    assert_eq!(locks[1]["point"], locked[0].as_str(), "{locks}");
    assert!(
        locks[1]["seconds_left"].as_u64() > Some(2 * 86_400),
        "{locks}"
    );
}

/// Guards commands beside a vault that serves, without one, and from other users.
fn commands_work_with_and_without_a_serving_vault() {
    let (mut lab, disk) = lab_with_points(3);
    let before = points(&lab);
    let socket = lab.path("vault/control.sock");
    let mode = std::fs::metadata(&socket).map(|m| m.permissions().mode() & 0o777);
    assert_eq!(mode.ok(), Some(0o600));
    facts(&lab, &["delete", &before[0]]);
    assert_eq!(points(&lab), before[1..]);
    vault(&lab, &["delete", &before[2]]).expect_refusal(&["latest"]);
    vault(&lab, &["delete", "abcd"]).expect_refusal(&["abcd", "images"]);
    vault(&lab, &["hold", "db2", "latest", "--reason", "x"]).expect_refusal(&["db2"]);
    lab.stop_vault();
    assert!(!socket.exists(), "the socket was left behind");
    facts(&lab, &["delete", &before[1]]);
    assert_eq!(points(&lab), before[2..]);
    // One that was killed leaves its socket, which answers nobody.
    lab.start_vault();
    lab.kill_vault();
    assert!(socket.exists());
    facts(&lab, &["hold", "db1", "latest", "--reason", "x"]);
    lab.start_vault();
    vault(&lab, &["delete", &before[2], "--even-latest"]).expect_refusal(&["held"]);
    facts(&lab, &["release", "db1", "latest"]);
    facts(&lab, &["delete", &before[2], "--even-latest"]);
    assert!(points(&lab).is_empty());
    back_up(&lab, "db1", &disk, 1);
    assert_eq!(sha256(&lab.restore("db1")), sha256(&disk));
}

/// Guards operators: a slip in the settings is named, and does not take a vault down.
fn wrong_settings_are_named() {
    let mut lab = Lab::new();
    lab.stop_vault();
    settings(&lab, "[retention]\nkeep-dayly = 7\n");
    vault(&lab, &["serve", "--listen", "127.0.0.1:0"]).expect_refusal(&["line 2", "keep-dayly"]);
    settings(&lab, "");
    lab.start_vault();
    settings(&lab, "[retention]\nkeep-dayly = 7\n");
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    noise(&sparse(&disk, 2 * MIB), 0, 1 << 20, 3);
    back_up(&lab, "db1", &disk, 1);
    assert_eq!(points(&lab).len(), 1);
}

/// Guards the simulator, which needs no vault.
fn a_policy_can_be_thought_through() {
    let lab = Lab::new();
    let simulate = [
        "retention",
        "simulate",
        "--every",
        "1h",
        "--for",
        "2y",
        "--keep-daily",
        "7",
        "--keep-monthly",
        "3",
        "--end",
        "2026-11-22T12:00:00Z",
        "--time-zone",
        "Europe/Berlin",
    ];
    let with = |more: &[&str]| finish(lab.command("relevo-vault", &[&simulate[..], more].concat()));
    let held = with(&["--json"]).expect_json();
    assert_eq!(held["taken"], 17_521);
    // Seven days, the last of October and the last of September.
    assert_eq!(held["held"].as_array().map(Vec::len), Some(9));
    let text = with(&[]).expect_success();
    assert!(
        text.contains("daily 2026-11-22 1/7; monthly 2026-11 1/3"),
        "{text}"
    );
    with(&["--keep-within", "3m"]).expect_refusal_of_usage();
}

trait UsageRefused {
    fn expect_refusal_of_usage(self);
}

impl UsageRefused for Finished {
    fn expect_refusal_of_usage(self) {
        assert_eq!(self.code, 2, "{self:?}");
        assert!(self.stderr.contains("3mo"), "{}", self.stderr);
    }
}

fn main() {
    Suite::default()
        .case(
            "a serving vault prunes by its settings",
            a_serving_vault_prunes_by_its_settings,
        )
        .case(
            "what is locked cannot be deleted",
            what_is_locked_cannot_be_deleted,
        )
        .case(
            "commands work with and without a serving vault",
            commands_work_with_and_without_a_serving_vault,
        )
        .case("wrong settings are named", wrong_settings_are_named)
        .case(
            "a policy can be thought through",
            a_policy_can_be_thought_through,
        )
        .run()
}
