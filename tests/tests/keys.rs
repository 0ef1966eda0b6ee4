//! Keys: locked, printed, typed again, rotated; and a server from nothing but paper and packs.

use std::fs;
use std::path::{Path, PathBuf};

use relevo_tests::binaries::source_root;
use relevo_tests::disks::{mixed, noise, sha256, sparse};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Finished, finish};
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// relevo-recover without any site.
fn recover(lab: &Lab, args: &[&str]) -> Finished {
    finish(lab.command("relevo-recover", args))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn bytes_of(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
}

fn remove(path: &Path) {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// The numbered lines of a printed page, as somebody in a hurry types them.
fn typed(page: &Path) -> String {
    let printed = read(page);
    let numbered = printed
        .lines()
        .filter(|line| line.len() > 4 && line.as_bytes()[..2].iter().all(u8::is_ascii_digit));
    let mut text = String::new();
    for line in numbered {
        let (number, rest) = line.split_at(2);
        let rest: String = rest.split_whitespace().collect();
        text.push_str(&format!("{number} {}\n", rest.to_lowercase()));
    }
    assert!(!text.is_empty(), "no lines on {}", page.display());
    text
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Guards the last resort: the site, the vault, its catalogue and every key file are gone; what is
/// left is a copy of the packs, the key paper, and two of three officers' pages.
fn a_server_comes_back_from_paper_and_packs() {
    let mut lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    mixed(&disk, 40 * MIB + 512, 1);
    let before = sha256(&disk);
    lab.backup("db1", &disk);

    let keys = lab.text("keys/opening-keys.toml");
    let out = lab.text("print");
    recover(&lab, &["keys", "paper", "--keys", &keys, "--out", &out])
        .expect_refusal(&["not wrapped", "--unwrapped"]);
    let pages = ["--shares", "2/3", "--out", &out];
    recover(
        &lab,
        &[&["keys", "rewrap", "--keys", &keys], &pages[..]].concat(),
    )
    .expect_success();
    recover(&lab, &["keys", "paper", "--keys", &keys, "--out", &out]).expect_success();
    // From here on only what people typed counts.
    let paper = typed(&lab.path("print/key-paper.txt"));
    let shares: Vec<String> = (1..=3)
        .map(|n| typed(&lab.path(&format!("print/share-{n}-of-3.txt"))))
        .collect();
    lab.stop_vault();
    rename(&lab.path("vault/packs"), &lab.path("saved"));
    for gone in ["vault", "keys", "recover", "db1", "print", "disk.raw"] {
        remove(&lab.path(gone));
    }

    let (typed_paper, keys) = (lab.path("paper.txt"), lab.text("typed-keys.toml"));
    let from_paper = ["keys", "from-paper", &lab.text("paper.txt"), "--out", &keys];
    // One wrong character in the second line.
    let mut wrong: Vec<String> = paper.lines().map(str::to_string).collect();
    let other = if wrong[1].ends_with('2') { "3" } else { "2" };
    wrong[1].pop();
    wrong[1].push_str(other);
    write(&typed_paper, &wrong.join("\n"));
    recover(&lab, &from_paper).expect_refusal(&["line 02", "mistyped"]);
    write(&typed_paper, &paper);
    recover(&lab, &from_paper).expect_success();

    let (one, other) = (lab.text("share-1"), lab.text("share-3"));
    write(one.as_ref(), &shares[0]);
    write(other.as_ref(), &shares[2]);
    let saved = lab.text("saved");
    let packs = ["--packs", &saved, "--keys", &keys];
    let list = [&["list", "--json"], &packs[..]].concat();
    recover(&lab, &list).expect_refusal(&["wrapped", "recovery key"]);
    let too_few = [&list[..], &["--recovery-key-file", &one]].concat();
    recover(&lab, &too_few).expect_refusal(&["1 of the 2 shares", "officers"]);
    let unlock = ["--recovery-key-file", &one, "--recovery-key-file", &other];
    let listed = recover(&lab, &[&list[..], &unlock].concat()).expect_json();
    assert_eq!(listed["servers"][0]["name"], "db1", "{listed}");
    assert_eq!(listed["damage"], Value::Array(Vec::new()), "{listed}");

    let to = lab.text("back.raw");
    let restore = [&["restore", "db1", "--to", &to], &packs[..], &unlock].concat();
    recover(&lab, &restore).expect_success();
    assert_eq!(sha256(to.as_ref()), before);
}

/// Guards rotation: nothing is sent again, images of every generation restore, and whoever lacks the
/// new keys is told so.
fn images_of_every_generation_restore() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    mixed(&disk, 64 * MIB, 2);
    let before = sha256(&disk);
    let first = lab.backup("db1", &disk);
    let (keys, sealing) = (
        lab.text("keys/opening-keys.toml"),
        lab.text("keys/sealing-keys.toml"),
    );
    let old_sealing = lab.path("old-sealing.toml");
    write(&old_sealing, &read(sealing.as_ref()));
    let rotate = ["keys", "rotate", "--keys", &keys, "--json"];
    recover(&lab, &rotate).expect_success();
    let rotated = recover(&lab, &[&rotate[..], &["--secret"]].concat()).expect_json();
    assert_eq!(rotated["generation"], 3, "{rotated}");

    let state = lab.text("db1");
    let take = |keys: &str| {
        let args = ["keys", "--keys", keys, "--state", &state, "--json"];
        finish(lab.command("relevo-agent", &args))
    };
    assert_eq!(take(&sealing).expect_json()["replaced"], 1);
    take(&old_sealing.to_string_lossy()).expect_refusal(&["generation 1", "of 3"]);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .unwrap_or_else(|e| panic!("{e}"));
    noise(&file, 20 * MIB, 4096, 77);
    let second = lab.backup("db1", &disk);
    let sent = |report: &Value| report["sent_bytes"].as_u64().unwrap_or(u64::MAX);
    assert!(sent(&second) < MIB && sent(&first) > 8 * MIB, "{second}");

    let to = lab.text("early.raw");
    lab.recover(&["restore", "db1", "--to", &to])
        .expect_refusal(&["was not made with this tenant's keys"]);
    lab.recover(&["keys", "install", "--keys", &keys])
        .expect_success();
    assert_eq!(sha256(&lab.restore("db1")), sha256(&disk));
    let oldest = first["point"].as_str().unwrap_or_default();
    lab.recover(&["restore", "db1", "--point", oldest, "--to", &to])
        .expect_success();
    assert_eq!(sha256(to.as_ref()), before, "an image of generation 1");
}

/// Guards a site whose keys stay wrapped: nothing opens without the passphrase, and with its file
/// commands run unattended.
fn a_passphrase_locks_the_keys_of_a_site() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    mixed(&disk, 8 * MIB, 3);
    lab.backup("db1", &disk);
    let keys = lab.text("keys/opening-keys.toml");
    let (good, bad, short) = (lab.text("good"), lab.text("bad"), lab.text("short"));
    write(good.as_ref(), "correct horse battery staple\n");
    write(bad.as_ref(), "correct horse battery stable\n");
    write(short.as_ref(), "horse\n");
    let rewrap = ["keys", "rewrap", "--keys", &keys, "--new-passphrase-file"];
    recover(&lab, &[&rewrap[..], &[&short]].concat()).expect_refusal(&["5 characters"]);
    recover(&lab, &[&rewrap[..], &[&good]].concat()).expect_success();
    let shown = recover(&lab, &["keys", "show", "--keys", &keys, "--json"]).expect_json();
    assert_eq!(shown["opened_by"], "a passphrase");

    let install = ["keys", "install", "--wrap", "--keys", &keys];
    lab.recover(&install).expect_success();
    lab.recover(&["inspect", "db1"])
        .expect_refusal(&["wrapped", "RELEVO_PASSPHRASE_FILE"]);
    lab.recover(&["inspect", "db1", "--passphrase-file", &bad])
        .expect_refusal(&["passphrase does not open"]);
    let mut command = lab.recover_command(&["inspect", "db1", "--json"]);
    command.env("RELEVO_PASSPHRASE_FILE", &good);
    assert_eq!(finish(command).expect_json()["name"], "db1");
}

/// Guards what can be saved: of two servers in damaged packs one is whole and comes back, and of the
/// other it is said where it is damaged.
fn damaged_packs_give_what_is_intact() {
    let mut lab = Lab::new();
    let (mut disks, mut ends) = (Vec::new(), Vec::new());
    let packs = lab.path("vault/packs");
    for (seed, name) in [(4, "whole"), (5, "hurt")] {
        lab.enroll_agent(name);
        let disk = lab.path(&format!("{name}.raw"));
        let file = sparse(&disk, 16 * MIB);
        noise(&file, 0, 12 << 20, seed);
        lab.backup(name, &disk);
        disks.push(disk);
        let pack = &files(&packs, "pack")[0];
        ends.push(fs::metadata(pack).map_or(0, |m| m.len()));
    }
    lab.stop_vault();
    let pack = &files(&packs, "pack")[0];
    let mut bytes = bytes_of(pack);
    // A body of the second server, and a stretch that holds a header or more.
    let (from, to) = (ends[0] as usize, ends[1] as usize);
    bytes[from + (to - from) / 2] ^= 1;
    let torn = from + (to - from) / 4;
    bytes[torn..torn + 300_000].fill(0);
    fs::write(pack, bytes).unwrap_or_else(|e| panic!("{e}"));
    for catalogue in files(&lab.path("vault"), "sqlite") {
        remove(&catalogue);
    }
    remove(&lab.path("vault/vault.toml"));

    let (vault, keys) = (lab.text("vault"), lab.text("keys/opening-keys.toml"));
    let source = ["--packs", &vault, "--keys", &keys];
    let listed = recover(&lab, &[&["list", "--json"], &source[..]].concat()).expect_json();
    assert!(!listed["damage"].as_array().is_none_or(Vec::is_empty));
    let to = lab.text("whole-again.raw");
    recover(
        &lab,
        &[&["restore", "whole", "--to", &to], &source[..]].concat(),
    )
    .expect_success();
    assert_eq!(sha256(to.as_ref()), sha256(&disks[0]));
    let to = lab.text("hurt-again.raw");
    recover(
        &lab,
        &[&["restore", "hurt", "--to", &to], &source[..]].concat(),
    )
    .expect_refusal(&["disk data at offset", "chunk"]);
}

/// Guards the tenants of the first release: their keys and packs are read as they are.
fn packs_and_keys_of_the_first_release_are_read() {
    let lab = Lab::new();
    let old = lab.path("old");
    fs::create_dir(&old).unwrap_or_else(|e| panic!("{e}"));
    let fixture = source_root().join("tests/fixtures/vault-format-1.tar.zst");
    let mut unpack = std::process::Command::new("tar");
    unpack
        .args(["--zstd", "-xf"])
        .arg(fixture)
        .arg("-C")
        .arg(&old);
    finish(unpack).expect_success();
    let (packs, keys) = (
        lab.text("old/vault"),
        lab.text("old/keys/opening-keys.toml"),
    );
    let source = ["--packs", &packs, "--keys", &keys];
    let listed = recover(&lab, &[&["list", "--json"], &source[..]].concat()).expect_json();
    let server = listed["servers"][0]["id"].as_str().unwrap_or_default();
    let sums = read(&old.join("disks.sha256"));
    let sums: Vec<&str> = sums.split_whitespace().collect();
    for expected in sums.chunks(2) {
        let to = lab.text(&format!("{}.raw", expected[1]));
        let point = ["restore", server, "--point", expected[1], "--to", &to];
        recover(&lab, &[&point[..], &source].concat()).expect_success();
        assert_eq!(sha256(to.as_ref()), expected[0]);
    }
    // Other keys are told whose packs these are.
    let other = lab.text("keys/opening-keys.toml");
    recover(&lab, &["list", "--packs", &packs, "--keys", &other])
        .expect_refusal(&["no packs of tenant", "that tenant's keys"]);
}

fn main() {
    Suite::default()
        .case(
            "a_server_comes_back_from_paper_and_packs",
            a_server_comes_back_from_paper_and_packs,
        )
        .case(
            "images_of_every_generation_restore",
            images_of_every_generation_restore,
        )
        .case(
            "a_passphrase_locks_the_keys_of_a_site",
            a_passphrase_locks_the_keys_of_a_site,
        )
        .case(
            "damaged_packs_give_what_is_intact",
            damaged_packs_give_what_is_intact,
        )
        .case_with(
            "packs_and_keys_of_the_first_release_are_read",
            &[Need::program("tar"), Need::program("zstd")],
            packs_and_keys_of_the_first_release_are_read,
        )
        .run()
}
