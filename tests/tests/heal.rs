//! Damage of a vault's packs, with the real processes: found, named and healed by parity, by
//! another vault, and by the agent; what is restored afterwards is what was imaged.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use relevo_tests::disks::{noise, sha256, sparse};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Finished, Running, finish, wait_while};
use relevo_tests::suite::Suite;
use serde_json::Value;

const HOST: &str = "db1";
const MIB: u64 = 1 << 20;

/// A disk of noise, of a little more than so many packs.
fn disk(lab: &Lab, packs: u64) -> PathBuf {
    let path = lab.path("server.raw");
    let size = packs * 66 * MIB;
    let file = sparse(&path, size);
    for offset in (0..size).step_by(MIB as usize) {
        noise(&file, offset, MIB as usize, 11 + offset);
    }
    path
}

fn protected(packs: u64) -> (Lab, PathBuf) {
    let lab = Lab::new();
    let disk = disk(&lab, packs);
    lab.enroll_agent(HOST);
    lab.backup(HOST, &disk);
    (lab, disk)
}

fn vault(lab: &Lab, arguments: &[&str]) -> Finished {
    let dir = lab.text("vault");
    let all = [&arguments[..1], &["--dir", &dir], &arguments[1..]].concat();
    finish(lab.command("relevo-vault", &all))
}

/// The facts of a command that found something and ended with 1.
fn found(finished: Finished) -> Value {
    assert_eq!(finished.code, 1, "{} {}", finished.stdout, finished.stderr);
    let facts = serde_json::from_str(finished.stdout.trim());
    facts.unwrap_or_else(|e| panic!("{e}: {} {}", finished.stdout, finished.stderr))
}

/// Files of the packs' directory with this ending, in order.
fn files(lab: &Lab, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let tenants = fs::read_dir(lab.path("vault").join("packs"));
    for tenant in tenants.into_iter().flatten().flatten() {
        for file in fs::read_dir(tenant.path()).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().ends_with(ending) {
                found.push(file.path());
            }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut byte = [0];
    let flipped = file
        .read_exact_at(&mut byte, at)
        .and_then(|()| file.write_all_at(&[byte[0] ^ 0x20], at));
    flipped.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn cut(path: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(path);
    let length = fs::metadata(path).map_or(0, |m| m.len());
    let cut = file.and_then(|file| file.set_len(length - bytes));
    cut.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn set(lab: &Lab, settings: &str) {
    let path = lab.path("vault").join("settings.toml");
    fs::write(&path, settings).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn assert_whole(lab: &Lab, disk: &Path) {
    let verified = lab.verify().expect_json();
    assert_eq!(verified["intact"], true, "{verified}");
    assert_eq!(sha256(&lab.restore(HOST)), sha256(disk));
}

fn count(report: &Value, what: &str) -> u64 {
    report["healed"][what].as_u64().unwrap_or_default()
}

/// Guards the promise of parity: a pack that is gone, one that was cut short and flipped bits
/// come back, at the start and while the vault serves, and nobody sends anything again.
fn parity_brings_packs_back() {
    let (mut lab, disk) = protected(3);
    lab.stop_vault();
    set(&lab, "[parity]\ndata = 2\nparity = 1\n");
    lab.start_vault();
    wait_while(|| files(&lab, ".parity").is_empty());
    lab.stop_vault();
    let packs = files(&lab, ".pack");
    let first = sha256(&packs[0]);
    remove(&packs[0]);
    // What it finds by itself it heals by itself, before the command below might.
    set(
        &lab,
        "[parity]\ndata = 2\nparity = 1\n[scrub]\nrate = \"1 KiB/s\"\n",
    );
    lab.start_vault();
    assert_eq!(sha256(&packs[0]), first, "it is back, bit for bit");

    cut(&packs[0], MIB);
    for at in [9000, 20 * MIB + 5, 40 * MIB + 77] {
        flip(&packs[1], at);
    }
    let healed = vault(&lab, &["heal", "--json"]).expect_json();
    assert!(count(&healed, "blocks") >= 16 + 3, "{healed}");
    assert_eq!(count(&healed, "forgotten"), 0, "{healed}");
    assert_eq!(sha256(&packs[0]), first);
    assert_whole(&lab, &disk);
}

/// Guards the second copy: chunks of a pack that is gone come from another vault of the tenant,
/// and the pack is missed no more.
fn another_vault_gives_what_is_lost() {
    let (mut lab, disk) = protected(1);
    let other = lab.text("other");
    let run = |args: &[&str]| finish(lab.command("relevo-vault", args));
    run(&["init", "--dir", &other]).expect_success();
    let serve = [
        "serve",
        "--dir",
        &other,
        "--listen",
        "127.0.0.1:0",
        "--json",
    ];
    let mut serving = Running::start(lab.command("relevo-vault", &serve));
    let line = serving.next_line();
    let ready: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let address = ready["listening"].as_str().unwrap_or_default().to_string();
    let enroll = |program: &str, role: &str, keys: &str, state: &str| {
        let token = run(&["token", "--dir", &other, "--role", role, "--json"]).expect_json();
        let token = token["token"].as_str().unwrap_or_default().to_string();
        let (keys, state) = (lab.text(keys), lab.text(state));
        let args = [
            "enroll", "--vault", &address, "--token", &token, "--keys", &keys, "--state", &state,
        ];
        finish(lab.command(program, &args)).expect_success();
    };
    enroll("relevo-agent", "agent", "keys/sealing-keys.toml", "copy");
    enroll(
        "relevo-recover",
        "recovery",
        "keys/opening-keys.toml",
        "heal-site",
    );
    lab.backup("copy", &disk);

    let site = lab.text("heal-site");
    set(&lab, &format!("[[heal-from]]\nenrollment = \"{site}\"\n"));
    let packs = files(&lab, ".pack");
    remove(&packs[0]);
    let report = found(lab.verify());
    assert_eq!(report["hit"][0]["name"], HOST, "{report}");
    assert!(
        report["hit"][0]["places"][0]["to"].as_u64().is_some(),
        "{report}"
    );
    assert!(count(&report, "fetched") > 100, "{report}");
    assert_eq!(report["healed"]["left"], serde_json::json!([]), "{report}");
    assert_whole(&lab, &disk);
    lab.stop_vault();
    lab.start_vault();
    assert_whole(&lab, &disk);
}

/// Guards the last way: what is flipped, cut off or gone is sent again by the agent, and the
/// older recovery point is whole by that too.
fn the_agent_sends_again_what_is_lost() {
    let (mut lab, disk) = protected(2);
    let packs = files(&lab, ".pack");
    flip(&packs[1], 30 * MIB);
    cut(&packs[1], 2 * MIB);
    remove(&packs[0]);
    let report = found(vault(&lab, &["heal", "--json"]));
    assert!(count(&report, "forgotten") > 0, "{report}");
    let left = report["healed"]["left"].to_string();
    assert!(left.contains("00000001.pack"), "it may come back: {left}");
    vault(&lab, &["heal", "--give-up", "--json"]);
    lab.backup(HOST, &disk);
    vault(&lab, &["heal", "--json"]).expect_success();
    assert_whole(&lab, &disk);
    lab.stop_vault();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(lab.path("vault").join(format!("catalogue.sqlite{suffix}")));
    }
    vault(&lab, &["rebuild", "--json"]).expect_success();
    lab.start_vault();
    assert_whole(&lab, &disk);
}

/// Guards a vault that lost its catalogue and whose packs are damaged: the packs alone say what
/// there is, and what is not.
fn a_damaged_vault_without_a_catalogue_is_rebuilt_and_healed() {
    let (mut lab, disk) = protected(1);
    lab.stop_vault();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(lab.path("vault").join(format!("catalogue.sqlite{suffix}")));
    }
    flip(&files(&lab, ".pack")[0], 20 * MIB);
    let rebuilt = found(vault(&lab, &["rebuild", "--json"]));
    assert_eq!(rebuilt["points"], 1, "{rebuilt}");
    assert_eq!(
        rebuilt["damage"].as_array().map(Vec::len),
        Some(1),
        "{rebuilt}"
    );
    lab.start_vault();
    lab.backup(HOST, &disk);
    vault(&lab, &["heal", "--json", "--give-up"]).expect_success();
    assert_whole(&lab, &disk);
}

fn main() {
    Suite::default()
        .case("parity_brings_packs_back", parity_brings_packs_back)
        .case(
            "another_vault_gives_what_is_lost",
            another_vault_gives_what_is_lost,
        )
        .case(
            "the_agent_sends_again_what_is_lost",
            the_agent_sends_again_what_is_lost,
        )
        .case(
            "a_damaged_vault_without_a_catalogue_is_rebuilt_and_healed",
            a_damaged_vault_without_a_catalogue_is_rebuilt_and_healed,
        )
        .run()
}
