//! What was acknowledged survives whatever befalls the vault's processes, files and file system.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use relevo_tests::disks::{mixed, noise, sha256, sparse};
use relevo_tests::lab::Lab;
use relevo_tests::program::{Running, finish};
use relevo_tests::suite::{Need, Suite};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Rounds of the killing loop, unless RELEVO_KILLS says another number.
const KILLS: u64 = 12;

/// A recovery point that an agent was told of, and the disk it holds.
struct Acknowledged {
    point: String,
    sha256: String,
}

fn point_of(report: &Value) -> String {
    let point = report["point"].as_str();
    point
        .unwrap_or_else(|| panic!("no point in {report}"))
        .to_string()
}

/// Restores a point and compares it with the disk that was imaged.
fn check(lab: &Lab, known: &Acknowledged) {
    let to = lab.path("checked.raw");
    let _ = fs::remove_file(&to);
    let out = to.to_string_lossy();
    let args = ["restore", "db1", "--point", &known.point, "--to", &out];
    lab.recover(&args).expect_success();
    assert_eq!(
        sha256(&to),
        known.sha256,
        "point {} came back altered",
        known.point
    );
}

/// Where dice come from; the seed is printed, so that a failure can be looked for again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// Guards every order of writing in the real programs: vault, agent and collector are killed at
/// moments that nobody chose, again and again; each acknowledged point restores bit for bit, each
/// deleted one stays deleted.
fn killed_again_and_again() {
    let rounds = std::env::var("RELEVO_KILLS").ok();
    let rounds = rounds.and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let seed = std::env::var("RELEVO_KILL_SEED").ok();
    let seed = seed.and_then(|n| n.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    });
    println!("RELEVO_KILL_SEED={seed}");
    let mut dice = Dice(seed | 1);
    let mut lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    mixed(&disk, 64 * MIB, seed);
    let settings = "[collect]\ngrace = \"0s\"\nrewrite-at = 0.2\n";
    fs::write(lab.path("vault/settings.toml"), settings).unwrap_or_else(|e| panic!("{e}"));
    let mut known: Vec<Acknowledged> = Vec::new();
    let mut deleted: Vec<String> = Vec::new();
    for round in 0..rounds {
        let file = OpenOptions::new().write(true).open(&disk);
        let file = file.unwrap_or_else(|e| panic!("{e}"));
        for _ in 0..4 {
            let at = dice.roll(60) * MIB;
            noise(&file, at, 300_000, dice.roll(u64::MAX));
        }
        drop(file);
        let image = sha256(&disk);
        let mut agent = Running::start(lab.backup_command("db1", &disk));
        // Killed at a moment that nobody chose: no event could be waited for.
        std::thread::sleep(Duration::from_millis(dice.roll(400)));
        let agent_dies = dice.roll(3) == 0;
        if agent_dies {
            agent.kill();
        }
        lab.kill_vault();
        lab.start_vault();
        if !agent_dies {
            let (code, out) = agent.wait();
            assert_eq!(code, 0, "round {round}: the agent gave up: {out}");
            let report = out.lines().rev().find(|line| line.starts_with('{'));
            let report: Value = serde_json::from_str(report.unwrap_or_default())
                .unwrap_or_else(|e| panic!("{e}: {out}"));
            known.push(Acknowledged {
                point: point_of(&report),
                sha256: image,
            });
        }
        if known.len() > 2 && dice.roll(2) == 0 {
            let oldest = known.remove(0);
            delete(&lab, &oldest.point);
            deleted.push(oldest.point);
            let mut collector = Running::start(collect(&lab));
            std::thread::sleep(Duration::from_millis(dice.roll(120)));
            if dice.roll(2) == 0 {
                collector.kill();
            }
            lab.kill_vault();
            drop(collector);
            lab.start_vault();
        }
        if let Some(latest) = known.last() {
            check(&lab, latest);
        }
    }
    let listed = lab.recover(&["inspect", "db1", "--json"]).expect_success();
    assert!(
        deleted.iter().all(|point| !listed.contains(point)),
        "a deleted point came back: {listed}"
    );
    finish(collect(&lab)).expect_success();
    known.iter().for_each(|point| check(&lab, point));
    lab.verify().expect_success();
    // The same from the packs alone.
    lab.stop_vault();
    lose_catalogue(&lab);
    lab.start_vault();
    known.iter().for_each(|point| check(&lab, point));
    lab.verify().expect_success();
}

fn delete(lab: &Lab, point: &str) {
    let dir = lab.text("vault");
    let args = ["delete", "--dir", &dir, point, "--reason", "a test"];
    finish(lab.command("relevo-vault", &args)).expect_success();
}

fn collect(lab: &Lab) -> Command {
    let dir = lab.text("vault");
    lab.command("relevo-vault", &["collect", "--dir", &dir, "--json"])
}

/// Takes away all that follows from the packs.
fn lose_catalogue(lab: &Lab) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(lab.path(&format!("vault/catalogue.sqlite{suffix}")));
    }
    let _ = fs::remove_dir_all(lab.path("vault/index"));
}

/// Guards the catalogue's claim to follow from the packs: gone, emptied, overwritten with
/// noise or cut short, it is made anew or named with the remedy that works, and nothing is lost.
fn a_lost_catalogue_is_made_anew() {
    let mut lab = Lab::new();
    lab.enroll_agent("db1");
    let disk = lab.path("disk.raw");
    mixed(&disk, 40 * MIB, 5);
    let known = Acknowledged {
        point: point_of(&lab.backup("db1", &disk)),
        sha256: sha256(&disk),
    };
    lab.stop_vault();
    lose_catalogue(&lab);
    lab.start_vault();
    check(&lab, &known);
    let catalogue = lab.path("vault/catalogue.sqlite");
    for harm in ["noise", "cut", "emptied"] {
        lab.stop_vault();
        let length = fs::metadata(&catalogue).map_or(0, |m| m.len());
        match harm {
            "noise" => {
                let file = OpenOptions::new().write(true).open(&catalogue);
                let file = file.unwrap_or_else(|e| panic!("{e}"));
                noise(&file, 100, length as usize - 100, 77);
            }
            "cut" => cut(&catalogue, length / 2),
            _ => cut(&catalogue, 0),
        }
        let dir = lab.text("vault");
        let served = finish(refused_or_listed(&lab, &dir));
        if served.code != 0 {
            let said = &served.stderr;
            assert!(said.contains("rebuild"), "{harm}: no remedy in {said}");
            finish(lab.command("relevo-vault", &["rebuild", "--dir", &dir])).expect_success();
        }
        lab.start_vault();
        check(&lab, &known);
        lab.backup("db1", &disk);
        lab.verify().expect_success();
    }
}

fn refused_or_listed(lab: &Lab, dir: &str) -> Command {
    lab.command("relevo-vault", &["images", "--dir", dir])
}

fn cut(file: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(file);
    let cut = file.and_then(|file| file.set_len(length));
    cut.unwrap_or_else(|e| panic!("{e}"));
}

/// Guards one directory against two writers.
fn a_second_vault_on_one_directory_is_refused() {
    let lab = Lab::new();
    lab.enroll_agent("db1");
    let dir = lab.text("vault");
    let second = ["serve", "--dir", &dir, "--listen", "127.0.0.1:0"];
    finish(lab.command("relevo-vault", &second)).expect_refusal(&["another relevo-vault"]);
    let disk = lab.path("disk.raw");
    mixed(&disk, 16 * MIB, 6);
    lab.backup("db1", &disk);
    assert_eq!(sha256(&lab.restore("db1")), sha256(&disk));
}

/// Guards a vault on a small real file system that fills up in the middle of a backup, of the
/// catalogue and of a collection: refused by name, nothing acknowledged lost, and with room it
/// goes on by itself.
fn a_full_file_system_costs_nothing_acknowledged() {
    let small = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let mount = Loop::ext4(small.path(), 160);
    let lab = Lab::with_vault_in(&mount.at);
    lab.enroll_agent("db1");
    let (first, second) = (lab.path("first.raw"), lab.path("second.raw"));
    noise(&sparse(&first, 40 * MIB), 0, 36 << 20, 31);
    noise(&sparse(&second, 64 * MIB), 0, 60 << 20, 32);
    let kept = Acknowledged {
        point: point_of(&lab.backup("db1", &first)),
        sha256: sha256(&first),
    };
    // A stranger takes the room, all but a little.
    let ballast = mount.at.join("ballast");
    let mut fill = Command::new("dd");
    fill.args(["if=/dev/zero", "bs=1M", "status=none"]);
    fill.arg(format!("of={}", ballast.display()));
    assert!(fill.status().is_ok_and(|s| !s.success()), "it did not fill");
    cut(
        &ballast,
        fs::metadata(&ballast).map_or(0, |m| m.len()) - 9 * MIB,
    );
    for _ in 0..3 {
        finish(lab.backup_command("db1", &second)).expect_refusal(&["room"]);
        check(&lab, &kept);
    }
    fs::remove_file(&ballast).unwrap_or_else(|e| panic!("{e}"));
    let later = Acknowledged {
        point: point_of(&lab.backup("db1", &second)),
        sha256: sha256(&second),
    };
    check(&lab, &kept);
    check(&lab, &later);
    lab.verify().expect_success();
    drop(lab);
    drop(mount);
}

/// An ext4 in a file, mounted.
struct Loop {
    at: PathBuf,
}

impl Loop {
    fn ext4(parent: &Path, mib: u64) -> Self {
        let (image, at) = (parent.join("fs.img"), parent.join("mnt"));
        sparse(&image, mib * MIB);
        fs::create_dir(&at).unwrap_or_else(|e| panic!("{e}"));
        let steps = [
            Command::new("mkfs.ext4").arg("-q").arg(&image).status(),
            Command::new("mount")
                .args(["-o", "loop"])
                .args([&image, &at])
                .status(),
        ];
        for step in steps {
            assert!(step.is_ok_and(|s| s.success()), "no ext4 on a loop device");
        }
        let at = at.join("v");
        fs::create_dir(&at).unwrap_or_else(|e| panic!("{e}"));
        Self { at }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.at.join("..")).status();
    }
}

fn main() {
    Suite::default()
        .case("killed_again_and_again", killed_again_and_again)
        .case(
            "a_lost_catalogue_is_made_anew",
            a_lost_catalogue_is_made_anew,
        )
        .case(
            "a_second_vault_on_one_directory_is_refused",
            a_second_vault_on_one_directory_is_refused,
        )
        .case_with(
            "a_full_file_system_costs_nothing_acknowledged",
            &[Need::root(), Need::program("mkfs.ext4")],
            a_full_file_system_costs_nothing_acknowledged,
        )
        .run()
}
