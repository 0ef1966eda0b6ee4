//! What goes wrong is named, with a remedy and an exit code, and harms nothing else.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use relevo_tests::disks::{mixed, noise, sha256, sparse};
use relevo_tests::lab::Lab;
use relevo_tests::program::finish;
use relevo_tests::suite::{Need, Suite};

const MIB: u64 = 1 << 20;

/// Guards enrolment: no entry with a wrong, used or expired token, or at another vault.
fn tokens_let_in_once_and_only_here() {
    let lab = Lab::new();
    let token = lab.token("agent");
    lab.try_enroll_agent("db1", &token).expect_success();
    lab.try_enroll_agent("again", &token)
        .expect_refusal(&["token"]);
    lab.try_enroll_agent("typo", "relevo1-nonsense")
        .expect_refusal(&["token"]);

    let expired = lab.token_with("agent", &["--valid", "0s"]);
    lab.try_enroll_agent("late", &expired)
        .expect_refusal(&["expired"]);

    // A token of another vault pins that vault's authority.
    let other = Lab::new();
    let foreign = other.token("agent");
    lab.try_enroll_agent("lost", &foreign)
        .expect_refusal(&["certificate"]);
    assert!(
        !lab.path("lost/enrollment.toml").exists(),
        "a failed enrolment left its file"
    );
}

/// Guards: an agent reads nothing back, whatever it asks.
fn an_agent_cannot_read() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    mixed(&disk, 16 * MIB, 3);
    lab.backup("db1", &disk);
    // The agent's own enrolment with the site's keys: more than a stolen agent would have.
    let state = lab.path("thief");
    std::fs::create_dir(&state).unwrap_or_else(|e| panic!("{e}"));
    for (from, to) in [
        ("db1/enrollment.toml", "enrollment.toml"),
        ("recover/keys.toml", "keys.toml"),
    ] {
        std::fs::copy(lab.path(from), state.join(to)).unwrap_or_else(|e| panic!("{from}: {e}"));
    }
    let args = ["list", "--state", &lab.text("thief")];
    finish(lab.command("relevo-recover", &args)).expect_refusal(&["agent"]);
}

/// Guards: a vault that is not there, or not this one, is named with what to check.
fn an_absent_vault_is_named() {
    let mut lab = Lab::new();
    let address = lab.address().to_string();
    lab.kill_vault();
    lab.recover(&["list"]).expect_refusal(&[&address]);
}

/// Guards: a flipped bit is found, located and told, and the rest stays readable.
fn a_flipped_bit_is_found_and_named() {
    let mut lab = Lab::new();
    lab.enroll_agent("db1");
    lab.enroll_agent("db2");
    let (one, two) = (lab.path("one.raw"), lab.path("two.raw"));
    noise(&sparse(&one, 24 * MIB), 0, 20 << 20, 7);
    noise(&sparse(&two, 24 * MIB), 0, 20 << 20, 8);
    lab.backup("db1", &one);
    lab.backup("db2", &two);
    lab.stop_vault();
    let pack = first_pack(&lab);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pack);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", pack.display()));
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5 * MIB)
        .unwrap_or_else(|e| panic!("{e}"));
    file.write_all_at(&[byte[0] ^ 0x10], 5 * MIB)
        .unwrap_or_else(|e| panic!("{e}"));

    let found = lab.verify();
    let said = format!("{}{}", found.stdout, found.stderr);
    assert!(
        said.contains("db1"),
        "the server that lost data is not named: {said}"
    );
    assert!(
        !said.contains("db2"),
        "a server that lost nothing is named: {said}"
    );
    assert_eq!(found.code, 1, "{said}");

    lab.start_vault();
    let to = lab.text("damaged.raw");
    lab.recover(&["restore", "db1", "--to", &to])
        .expect_refusal(&["chunk"]);
    assert_eq!(sha256(&lab.restore("db2")), sha256(&two));
}

fn first_pack(lab: &Lab) -> PathBuf {
    let mut dirs = vec![lab.path("vault/packs")];
    let mut packs = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir {
                dirs.push(entry.path())
            } else {
                packs.push(entry.path())
            }
        }
    }
    packs.sort();
    packs
        .into_iter()
        .next()
        .unwrap_or_else(|| panic!("the vault has no packs"))
}

/// Guards: disks that cannot be booted are refused with the reason, and restored all the same.
fn unbootable_disks_are_named_and_still_restored() {
    let lab = Lab::new();
    type Case = (&'static str, fn(&std::fs::File), &'static [&'static str]);
    let cases: [Case; 4] = [
        ("blank", |_| (), &["partition"]),
        (
            "garbage",
            |disk| noise(disk, 0, 1 << 20, 11),
            &["partition"],
        ),
        (
            "encrypted",
            |disk| {
                let _ = disk.write_all_at(b"LUKS\xba\xbe\x00\x02", 0);
                noise(disk, 4096, 1 << 20, 12);
            },
            &["luks"],
        ),
        (
            "absurd",
            |disk| {
                // An MBR whose only partition lies far beyond the end of the disk.
                let mut sector = [0u8; 512];
                sector[446 + 4] = 0x83;
                sector[446 + 8..446 + 16].fill(0xff);
                sector[510..].copy_from_slice(&[0x55, 0xaa]);
                let _ = disk.write_all_at(&sector, 0);
            },
            &["partition"],
        ),
    ];
    for (name, fill, words) in cases {
        lab.enroll_agent(name);
        let disk = lab.path(&format!("{name}.raw"));
        fill(&sparse(&disk, 16 * MIB));
        lab.backup(name, &disk);
        lab.recover(&["plan", name]).expect_refusal(words);
        assert_eq!(sha256(&lab.restore(name)), sha256(&disk), "{name}");
    }
}

/// Guards: a disk that is cut short, or is not there, is never taken for a whole one.
fn unreadable_disks_make_no_recovery_point() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    finish(lab.backup_command("db1", &lab.path("absent.raw"))).expect_refusal(&["absent.raw"]);
    sparse(&lab.path("empty.raw"), 0);
    finish(lab.backup_command("db1", &lab.path("empty.raw"))).expect_refusal(&["empty.raw"]);
    let list = lab.recover(&["list", "--json"]).expect_success();
    assert!(!list.contains("\"point\""), "{list}");
}

/// Guards: a restore never overwrites by accident, nor writes half a disk.
fn a_restore_is_careful() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    mixed(&disk, 32 * MIB, 4);
    lab.backup("db1", &disk);
    let to = lab.path("precious");
    std::fs::write(&to, "precious").unwrap_or_else(|e| panic!("{e}"));
    lab.recover(&["restore", "db1", "--to", &to.to_string_lossy()])
        .expect_refusal(&["precious"]);
    assert_eq!(std::fs::read_to_string(&to).unwrap_or_default(), "precious");
    lab.recover(&["restore", "nobody", "--to", "/dev/null"])
        .expect_refusal(&["nobody"]);
    let point = [
        "restore",
        "db1",
        "--point",
        "2001-01-01T00:00:00Z",
        "--to",
        "/dev/null",
    ];
    lab.recover(&point).expect_refusal(&["2001"]);
}

/// Guards: a full disk under the vault refuses new data, keeps the old, and goes on when there
/// is room again.
fn a_full_vault_keeps_what_it_has() {
    let small = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let mount = Mounted::tmpfs(small.path(), 64);
    let lab = Lab::with_vault_in(small.path());
    lab.enroll_agent("db1");
    let (kept, big) = (lab.path("kept.raw"), lab.path("big.raw"));
    noise(&sparse(&kept, 20 * MIB), 0, 16 << 20, 21);
    noise(&sparse(&big, 128 * MIB), 0, 120 << 20, 22);
    lab.backup("db1", &kept);
    finish(lab.backup_command("db1", &big)).expect_refusal(&["no room left"]);
    assert_eq!(sha256(&lab.restore("db1")), sha256(&kept));
    mount.resize(256);
    lab.backup("db1", &big);
    assert_eq!(sha256(&lab.restore("db1")), sha256(&big));
    lab.verify().expect_success();
    drop(lab);
    drop(mount);
}

struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &std::path::Path, mib: u32) -> Self {
        let mounted = Self(at.to_path_buf());
        mounted.mount(&format!("size={mib}m"));
        mounted
    }

    fn resize(&self, mib: u32) {
        self.mount(&format!("remount,size={mib}m"));
    }

    fn mount(&self, options: &str) {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&self.0)
            .status();
        assert!(
            status.is_ok_and(|s| s.success()),
            "tmpfs could not be mounted"
        );
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

/// Guards: a vault made by a newer release is left alone.
fn a_newer_vault_is_refused() {
    let mut lab = Lab::new();
    lab.kill_vault();
    let file = lab.path("vault/vault.toml");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{e}"));
    let newer: String = text
        .lines()
        .map(|line| {
            if line.starts_with("format") {
                "format = 999".into()
            } else {
                line.to_string()
            }
        })
        .collect::<Vec<_>>()
        .join("\n");
    assert_ne!(
        text.trim(),
        newer.trim(),
        "vault.toml has no format line: {text}"
    );
    std::fs::write(&file, newer).unwrap_or_else(|e| panic!("{e}"));
    let args = [
        "serve",
        "--dir",
        &lab.text("vault"),
        "--listen",
        "127.0.0.1:0",
    ];
    finish(lab.command("relevo-vault", &args)).expect_refusal(&["newer"]);
}

fn main() {
    Suite::default()
        .case(
            "tokens_let_in_once_and_only_here",
            tokens_let_in_once_and_only_here,
        )
        .case("an_agent_cannot_read", an_agent_cannot_read)
        .case("an_absent_vault_is_named", an_absent_vault_is_named)
        .case(
            "a_flipped_bit_is_found_and_named",
            a_flipped_bit_is_found_and_named,
        )
        .case(
            "unbootable_disks_are_named_and_still_restored",
            unbootable_disks_are_named_and_still_restored,
        )
        .case(
            "unreadable_disks_make_no_recovery_point",
            unreadable_disks_make_no_recovery_point,
        )
        .case("a_restore_is_careful", a_restore_is_careful)
        .case_with(
            "a_full_vault_keeps_what_it_has",
            &[Need::root()],
            a_full_vault_keeps_what_it_has,
        )
        .case("a_newer_vault_is_refused", a_newer_vault_is_refused)
        .run()
}
